"""The page of an evaluation as HTML: the numbers, the guards and what it was measured with.

Texts come from outside. Each is escaped, its invisible characters spelled out, and the page forbids
the browser to run or load anything but what is written here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import PurePosixPath

from auffusion_cli.evaluation.clips import counts
from auffusion_cli.evaluation.result import ClipSet, Evaluation, Metric, System

N_LISTED = 200
"""How many findings of a set the page spells out; the result has them all."""
BAR_HEIGHT_PX = 16
MAX_DECIMALS = 6
ROUNDING = 1e-9
"""Numbers that are not further apart are the same."""


def render(evaluation: Evaluation, clips: dict[str, object], where: str) -> str:
    style, script = _part("page.css"), _part("page.js")
    # `<` never appears in the data, so no text in it can end the script element.
    data = json.dumps(clips, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    systems = [system.name for system in evaluation.systems]
    title = _listed(systems)
    if evaluation.reference:
        folder = evaluation.reference.folder
        title += f" against {PurePosixPath(folder).name or folder}"
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data: file: 'self'; media-src data: file: 'self'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{html.escape(shown(title))}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#clips">Skip to the clips</a>
<header class="top">
<p class="kind">Evaluation</p>
<h1>{text(title)}</h1>
{_lead(evaluation, len(clips["clips"]))}
<fieldset class="theme"><legend>Colours</legend>{_theme_choices()}</fieldset>
</header>
<main>
{_notes(evaluation)}
{_numbers(evaluation.systems)}
{_guards(evaluation)}
<section id="clips" aria-labelledby="clips-title">
<h2 id="clips-title">Clips</h2>
<form class="tools" role="search">
<label class="find"><span>Filter</span>
<input id="filter" type="search" placeholder="Words of the prompt, a file name, a flag"
 autocomplete="off" spellcheck="false"></label>
<label><span>Sort by</span><select id="score"></select></label>
<label id="of-system"><span>of</span><select id="system"></select></label>
<button id="order" type="button"></button>
<output id="count" aria-live="polite"></output>
</form>
<p class="keys"><span><kbd>/</kbd> filter</span>
<span><kbd>J</kbd> <kbd>K</kbd> next, previous clip</span>
<span><kbd>1</kbd> to <kbd>9</kbd> play a column</span>
<span><kbd>Esc</kbd> stop</span></p>
<p class="small">Spectrograms show 0 to 8 kHz on the mel scale, each relative to its loudest
moment; those of a clip share one axis of time. A click on one plays from there.
{_words_hint(evaluation)}</p>
<noscript><p class="note">The clips are drawn by a script in this page, which is turned off.</p>
</noscript>
<div id="list"></div>
<p id="none" class="note" hidden>No clip has all of these words.</p>
</section>
</main>
<footer>
<h2>How it was measured</h2>
{_provenance(evaluation)}
<p>{text(where)}</p>
</footer>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _part(name: str) -> str:
    folder = resources.files("auffusion_cli.evaluation") / "report_page"
    return (folder / name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    """What allows exactly this inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def shown(value: str) -> str:
    """`value` with what is invisible or turns text around spelled out: \\u202e.

    The joiners and marks that emoji and some scripts need stay.
    """
    return "".join(
        c if c.isprintable() or c in "\u200c\u200d\u200e\u200f" else f"\\u{ord(c):04x}"
        for c in value
    )


def text(value: object) -> str:
    """`value` as text of the page: escaped, and apart from the direction of what is around it."""
    return f"<bdi>{html.escape(shown(str(value)))}</bdi>"


def sentence(words: str, names: Iterable[str] = ()) -> str:
    """English words as text of the page, read from the left even where a name in another script
    begins them; one of `names` before a colon stays apart from what follows."""
    name = next((name for name in names if words.startswith(f"{name}: ")), None)
    if name is None:
        return f'<bdi dir="ltr">{html.escape(shown(words))}</bdi>'
    return f"{text(name)}: {sentence(words[len(name) + 2 :])}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lead(evaluation: Evaluation, n_clips: int) -> str:
    facts = [f"{n_clips:,} clips", f"protocol {text(evaluation.protocol)}"]
    if evaluation.reference:
        facts.append(f"{evaluation.reference.n_used:,} reference sounds")
    return f'<p class="lead">{" · ".join(facts)}</p>'


def _words_hint(evaluation: Evaluation) -> str:
    if not any(clip.words for system in evaluation.systems for clip in system.rows):
        return ""
    return "Below a sound: the attention-entropy and attention-level of each word."


def _theme_choices() -> str:
    return "".join(
        f'<label><input type="radio" name="theme" value="{value}"{checked}>'
        f"<span>{name}</span></label>"
        for value, name, checked in (
            ("", "Auto", " checked"),
            ("light", "Light", ""),
            ("dark", "Dark", ""),
        )
    )


def _notes(evaluation: Evaluation) -> str:
    if not evaluation.notes:
        return ""
    names = [system.name for system in evaluation.systems]
    items = "".join(f"<li>{sentence(note, names)}</li>" for note in evaluation.notes)
    return f'<ul class="note">{items}</ul>'


def _numbers(systems: Sequence[System]) -> str:
    """The table of metrics: a row a metric, a column a system, and their intervals on one axis."""
    keys = dict.fromkeys((m.name, m.subset) for system in systems for m in system.metrics)
    heads = "".join(
        f'<th scope="col"><span class="dot s{i % 6}"></span>{text(system.name)}</th>'
        for i, system in enumerate(systems)
    )
    rows = "".join(_metric_row([s.metric(*key) for s in systems], systems) for key in keys)
    bold = "A number is bold where its interval lies apart from all others. " if systems[1:] else ""
    return f"""<section aria-labelledby="numbers-title">
<h2 id="numbers-title">Numbers</h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="numbers-title"><table class="numbers">
<thead><tr><th scope="col">Metric</th>{heads}<th scope="col">95 % intervals</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
<p class="small">{bold}Intervals are by bootstrap over the clips of each system.</p>
</section>"""


def _metric_row(metrics: Sequence[Metric | None], systems: Sequence[System]) -> str:
    known = next(metric for metric in metrics if metric is not None)
    ends = [x for m in metrics if m for x in (m.value, *(m.ci_95 or ())) if x is not None]
    widths = [m.ci_95[1] - m.ci_95[0] for m in metrics if m and m.ci_95]
    digits = decimals(ends, widths)
    cells = "".join(
        f'<td><span class="of"><span class="dot s{i % 6}"></span>{text(system.name)}</span>'
        f"{_metric_cell(m, digits, stands_apart(m, metrics))}</td>"
        for i, (m, system) in enumerate(zip(metrics, systems, strict=True))
    )
    unit = f", {text(known.unit)}" if known.unit else ""
    subset = f'<span class="subset">{text(known.subset)}</span>' if known.subset else ""
    arrow = "↑" if known.better == "higher" else "↓"
    remarks = "".join(
        f'<span class="remark">{remark}</span>' for remark in _remarks(metrics, systems)
    )
    return f"""<tr{' class="part"' if known.subset else ""}><th scope="row">
<span class="metric">{text(known.name)}{subset}</span>
<span class="hint"><span aria-hidden="true">{arrow}</span> {known.better} is better{unit}</span>
{remarks}</th>{cells}
<td class="bars">{_bars(metrics, systems, ends, digits)}</td></tr>"""


def _remarks(metrics: Sequence[Metric | None], systems: Sequence[System]) -> list[str]:
    """The notes on one metric, each once, with the systems that it is about if not all."""
    about: dict[str, list[str]] = {}
    for metric, system in zip(metrics, systems, strict=True):
        if metric is not None and metric.note:
            about.setdefault(metric.note, []).append(text(system.name))
    return [
        (f"{_listed(names)}: " if len(names) < len(systems) else "") + sentence(note)
        for note, names in about.items()
    ]


def _metric_cell(metric: Metric | None, digits: int, bold: bool) -> str:
    if metric is None or metric.value is None:
        return '<span class="value none">–</span>'
    interval = ""
    if metric.ci_95:
        low, high = (_number(end, digits) for end in metric.ci_95)
        interval = f'<span class="interval">{low} to {high}</span>'
    mark = "strong" if bold else "span"
    return (
        f'<{mark} class="value">{_number(metric.value, digits)}</{mark}>{interval}'
        f'<span class="n">n = {metric.n:,}</span>'
    )


def decimals(numbers: Iterable[float], widths: Iterable[float] = ()) -> int:
    """Decimals for numbers shown in one row: about four digits of the largest, and more where two
    digits of the narrowest of `widths`, over which they spread, need them."""
    largest = max((abs(number) for number in numbers), default=0.0)
    usual = 1 if largest >= 100 else 2 if largest >= 10 else 3
    needed = [1 - math.floor(math.log10(width)) for width in widths if width > ROUNDING]
    return max(usual, min(max(needed, default=0), MAX_DECIMALS))


def _number(value: float, digits: int) -> str:
    # Adding 0 takes the sign from a zero.
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def stands_apart(metric: Metric | None, metrics: Sequence[Metric | None]) -> bool:
    """Whether the interval of `metric` is better than, and does not touch, that of every other."""
    others = [m for m in metrics if m is not metric and m is not None and m.value is not None]
    if metric is None or not metric.ci_95 or not others or not all(m.ci_95 for m in others):
        return False
    low, high = metric.ci_95
    if metric.better == "higher":
        return all(low > other.ci_95[1] for other in others)
    return all(high < other.ci_95[0] for other in others)


def _bars(
    metrics: Sequence[Metric | None],
    systems: Sequence[System],
    ends: Sequence[float],
    digits: int,
) -> str:
    """The intervals below each other on one axis, so that it is seen where they overlap."""
    if not any(m is not None and m.ci_95 for m in metrics):
        return ""
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{4 + 92 * (value - low) / span:.2f}%"

    bars = []
    for i, (metric, system) in enumerate(zip(metrics, systems, strict=True)):
        if metric is None or metric.value is None:
            continue
        y = BAR_HEIGHT_PX * (i + 0.5)
        parts = [f"<title>{html.escape(shown(system.name))}</title>"]
        if metric.ci_95:
            left, right = (x(end) for end in metric.ci_95)
            parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts += [
                f'<line class="end" x1="{end}" x2="{end}" y1="{y - 4}" y2="{y + 4}"/>'
                for end in (left, right)
            ]
        parts.append(f'<circle cx="{x(metric.value)}" cy="{y}" r="3.5"/>')
        bars.append(f'<g class="s{i % 6}">{"".join(parts)}</g>')
    height = BAR_HEIGHT_PX * len(metrics)
    return (
        f'<svg width="100%" height="{height}" role="img" aria-label="intervals">{"".join(bars)}'
        f'</svg><span class="axis"><span>{_number(low, digits)}</span>'
        f"<span>{_number(high, digits)}</span></span>"
    )


def _guards(evaluation: Evaluation) -> str:
    """What was found about the files of each set."""
    sets = [(system.name, system.clips) for system in evaluation.systems]
    if evaluation.reference:
        sets.append(("reference", evaluation.reference))
    alone = {s.name: s.reference_without_partner for s in evaluation.systems}
    cards = "".join(_guard_card(name, clips, alone.get(name, ())) for name, clips in sets)
    return f"""<section aria-labelledby="guards-title">
<h2 id="guards-title">What the guards found</h2>
<div class="cards">{cards}</div>
</section>"""


def _guard_card(name: str, clips: ClipSet, alone: Sequence[str]) -> str:
    n_out = clips.n_files - clips.n_used
    facts = f"{clips.n_used:,} of {clips.n_files:,} files measured" + (
        f", {n_out:,} left out" if n_out else ""
    )
    flags = "".join(
        f'<li><span class="flag">{text(flag)}</span> {n:,}</li>'
        for flag, n in counts(clips.findings).most_common()
    )
    found = f'<ul class="flags">{flags}</ul>' if flags else '<p class="fine">Nothing.</p>'
    listed = "".join(
        f"<li>{text(f.path)} <span>{text(f.flag)}: {sentence(f.detail)}"
        f"{', left out' if f.excluded else ''}</span></li>"
        for f in clips.findings[:N_LISTED]
    )
    listed += "".join(
        f"<li>{text(path)} <span>real sound without a generated one of its name</span></li>"
        for path in alone[:N_LISTED]
    )
    n_all = len(clips.findings) + len(alone)
    n_more = max(len(clips.findings) - N_LISTED, 0) + max(len(alone) - N_LISTED, 0)
    if n_more:
        listed += f"<li>and {n_more:,} more, which the result lists</li>"
    details = (
        f'<details><summary>{n_all:,} findings</summary><ul class="files">{listed}</ul></details>'
        if listed
        else ""
    )
    partners = (
        f"<p>{len(alone):,} real sounds have no generated one of their name.</p>" if alone else ""
    )
    return f"""<article class="card"><h3>{text(name)}</h3>
<p>{facts}</p>{found}{partners}{details}
<p class="hash" title="SHA-256 of names and contents">set {text(clips.sha256[:16])}</p></article>"""


def _provenance(evaluation: Evaluation) -> str:
    """Networks, settings and versions: what another result must share to be compared."""
    facts = [("protocol", evaluation.protocol)]
    facts += [
        (key, f"{b.weights}, {b.sample_rate_hz:,} Hz, weights {b.weights_sha256[:16]}")
        for key, b in evaluation.backbones.items()
    ]
    facts += [(name.replace("_", " "), str(value)) for name, value in evaluation.settings.items()]
    facts += list(evaluation.versions.items())
    items = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{items}</dl>'
