"""An evaluation as a page to look at and listen to: one HTML file that needs nothing else.

The numbers are in the page as text; the clips are data that `report_page/page.js` draws when they
come into view. Small sets carry their sounds inside the page, larger ones in a folder beside it.

Everything in a result comes from outside: texts are escaped and their invisible characters spelled
out, paths have to stay in the folder of their set, a sound has to be the one that was measured, and
the page forbids the browser to run or load anything but what was written here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

from PIL import Image
from torch import Tensor

from auffusion_cli.audio import FORMATS, read_audio
from auffusion_cli.errors import (
    AudioError,
    AuffusionWarning,
    DataError,
    OutputExistsError,
    UsageError,
)
from auffusion_cli.evaluation.clips import counts
from auffusion_cli.evaluation.result import Clip, ClipSet, Evaluation, Metric, System
from auffusion_cli.plot import colour
from auffusion_cli.spectrogram import LogMel

EMBEDDED_BYTES = 20_000_000
"""Sounds of up to this size together are inside of the page, a third larger as base64."""
N_LISTED = 200
"""How many findings of a set the page spells out; the result has them all."""
PICTURE_HEIGHT_PX = 128
PIXELS_PER_SECOND = 64
MIN_PICTURE_WIDTH_PX, MAX_PICTURE_WIDTH_PX = 96, 640
QUIET_DB = -20.0
"""Mel level of the loudest cell below which a clip is drawn darker: noise at about -16 dBFS."""
BAR_HEIGHT_PX = 16
OWN_FILE = re.compile(r"\d{6}\.(?:wav|flac|ogg|mp3|webp)")
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".webp": "image/webp",
}

OnSound = Callable[[int, int], None]
"""(sounds done, sounds in all)"""


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path
    folder: Path | None
    """Of the sounds and pictures; None where they are inside of the page."""
    n_bytes: int
    """Of all of it."""


@dataclass(frozen=True)
class _Sound:
    """A file that a clip's row shows."""

    folder: str
    path: str
    sha256: str | None
    """Of what was measured; None where the result does not say (the reference)."""


@dataclass(frozen=True)
class _Media:
    """How the page gets at a sound and its picture; `problem` says why it cannot."""

    sound: str | None = None
    picture: str | None = None
    duration_s: float = 0.0
    problem: str | None = None


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    overwrite: bool = False,
    embedded_bytes: int = EMBEDDED_BYTES,
    on_sound: OnSound | None = None,
) -> Report:
    """Write `path`, and `files_folder(path)` where the sounds exceed `embedded_bytes`.

    The sounds are read from the folders that the result names. One that is missing or has changed
    since is shown without sound, with an AuffusionWarning. Page and folder appear when they are
    whole; what was there before stays until then.

    Raises:
        UsageError: `path` cannot be written, or is there and `overwrite` is not set.
        DataError: a path in the result leads out of its folder.
    """
    check_target(path, overwrite=overwrite)
    names, sounds = _sounds_of(evaluation)
    n_bytes = sum(_size(sound) for sound in sounds)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        unfinished.mkdir()
        folder = None if n_bytes <= embedded_bytes else unfinished / "files"
        if folder:
            folder.mkdir()
        media = _prepare(sounds, folder, quote(files_folder(path).name), on_sound)
        clips = _clips_data(evaluation, names, media)
        page = unfinished / "page.html"
        page.write_text(_page(evaluation, clips, _where(path, folder, n_bytes)), encoding="utf-8")
        written = [page, *(folder.iterdir() if folder else ())]
        n_written = sum(file.stat().st_size for file in written)
        _put_in_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    problems = [f"{s.path}: {m.problem}" for s, m in media.items() if m.problem]
    if problems:
        warnings.warn(
            f"{len(problems)} sounds cannot be heard in {path}; {problems[0]}",
            AuffusionWarning,
            stacklevel=2,
        )
    return Report(path, files_folder(path) if folder else None, n_written)


# --- where it goes


def files_folder(path: Path) -> Path:
    """The folder beside a page that has its sounds and pictures, where it needs one."""
    return path.with_name(f"{path.stem}-files")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise a UsageError unless a report can be written to `path`; to ask before the work."""
    folder = files_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {path}: has to end in .html")
    if path.is_dir():
        raise UsageError(f"--report {path}: is a folder")
    if not overwrite and (there := next((p for p in (path, folder) if os.path.lexists(p)), None)):
        raise OutputExistsError(
            f"{there} exists.", hint="Give another --report, or --overwrite to replace it."
        )
    if os.path.lexists(folder) and not _is_of_a_report(folder):
        raise OutputExistsError(
            f"{folder} holds files that no report has written: it is not replaced.",
            hint="Give another --report, or move that folder away.",
        )


def _is_of_a_report(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(OWN_FILE.fullmatch(entry.name) and entry.is_file() for entry in folder.iterdir())


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Rename `unfinished`/page.html and /files to where they belong; both, or neither."""
    new, old, folder = unfinished / "files", unfinished / "replaced", files_folder(path)
    if folder.exists():
        folder.rename(old)
    try:
        if new.exists():
            new.rename(folder)
        os.replace(unfinished / "page.html", path)
    except BaseException:
        if folder.exists():
            folder.rename(new)
        if old.exists():
            old.rename(folder)
        raise


def _where(path: Path, folder: Path | None, n_bytes: int) -> str:
    size = f"{n_bytes / 1e6:,.1f} MB"
    if folder is None:
        return f"The sounds ({size}) are inside of this page."
    return (
        f"The sounds ({size}) are in the folder {files_folder(path).name}: move it with the page."
    )


# --- sounds


def _sounds_of(evaluation: Evaluation) -> tuple[list[str], list[_Sound]]:
    """The names of all clips, sorted, and every file that is shown, once."""
    sounds: dict[_Sound, None] = {}
    names: set[str] = set()
    for system in evaluation.systems:
        for clip in system.rows:
            names.add(clip.name)
            sounds[_generated(system, clip)] = None
            if (real := _real(evaluation, clip)) is not None:
                sounds[real] = None
    return sorted(names), list(sounds)


def _generated(system: System, clip: Clip) -> _Sound:
    return _Sound(system.clips.folder, _inside(clip.path), clip.sha256)


def _real(evaluation: Evaluation, clip: Clip) -> _Sound | None:
    if evaluation.reference is None or clip.reference_path is None:
        return None
    return _Sound(evaluation.reference.folder, _inside(clip.reference_path), None)


def _inside(path: str) -> str:
    """`path` as it is, if it leads to a sound below the folder it is relative to on any system.

    Links are not looked at: whoever owns the folder has put them there.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    windows = PureWindowsPath(path)
    outside = path.startswith(("/", "\\")) or windows.drive or ".." in parts or "\0" in path
    if outside or Path(path).suffix.lower() not in FORMATS:
        raise DataError(f"the result names a file that cannot be one of its sounds: {path[:200]!r}")
    return path


def _size(sound: _Sound) -> int:
    try:
        return os.stat(os.path.join(sound.folder, sound.path)).st_size
    except OSError:
        return 0


def _prepare(
    sounds: Sequence[_Sound], folder: Path | None, url: str, on_sound: OnSound | None
) -> dict[_Sound, _Media]:
    """Each sound with its picture, embedded, or in `folder`, which the page finds at `url`."""
    media: dict[_Sound, _Media] = {}
    readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        numbered = enumerate(sounds)
        done = readers.map(lambda item: _prepare_one(item[0], item[1], folder, url), numbered)
        for n_done, (sound, one) in enumerate(zip(sounds, done, strict=True), 1):
            media[sound] = one
            if on_sound is not None:
                on_sound(n_done, len(sounds))
    finally:
        readers.shutdown(cancel_futures=True)
    return media


def _prepare_one(number: int, sound: _Sound, folder: Path | None, url: str) -> _Media:
    path = Path(sound.folder, sound.path)
    try:
        waveform, rate_hz = read_audio(path, _log_mel().config.sample_rate_hz, mono=True)
        content = path.read_bytes()
    except (AudioError, OSError) as error:
        return _Media(problem=str(error).removeprefix(f"{path}: "))
    if sound.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        return _Media(problem="has changed since it was measured")
    picture = draw(waveform[0])

    def address(suffix: str, content: bytes) -> str:
        if folder is None:
            return f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(content).decode()}"
        name = f"{number:06d}{suffix}"
        (folder / name).write_bytes(content)
        return f"{url}/{name}"

    return _Media(
        sound=address(path.suffix.lower(), content),
        picture=address(".webp", picture),
        duration_s=waveform.shape[1] / rate_hz,
    )


def draw(waveform: Tensor) -> bytes:
    """A spectrogram of (N,) samples at 16 kHz as a small WebP; no axes, soft clips stay dark."""
    import torch

    analysis = _log_mel()
    config = analysis.config
    n_missing = max(config.hop_length_samples - len(waveform), 0)
    waveform = torch.nn.functional.pad(waveform, (0, n_missing))
    with torch.no_grad():
        log_mel = analysis(waveform[None])[0]
    width = round(config.frames_to_seconds(log_mel.shape[1]) * PIXELS_PER_SECOND)
    size = (min(max(width, MIN_PICTURE_WIDTH_PX), MAX_PICTURE_WIDTH_PX), PICTURE_HEIGHT_PX)
    picture = Image.fromarray(colour(log_mel, quiet_db=QUIET_DB)).resize(size, Image.BICUBIC)
    content = BytesIO()
    picture.save(content, "WEBP", quality=70, method=4)
    return content.getvalue()


@cache
def _log_mel() -> LogMel:
    return LogMel()


# --- the clips, as data for the page


def _clips_data(
    evaluation: Evaluation, names: Sequence[str], media: dict[_Sound, _Media]
) -> dict[str, object]:
    """What `page.js` draws: systems, scores and for each name the sounds side by side."""
    rows = [{clip.name: clip for clip in system.rows} for system in evaluation.systems]
    number = {sound: i for i, sound in enumerate(media)}  # one may stand in many rows
    clips = []
    for name in names:
        made = [row.get(name) for row in rows]
        there = [clip for clip in made if clip is not None]
        real = next((r for clip in there if (r := _real(evaluation, clip)) is not None), None)
        clips.append(
            {
                "name": shown(name),
                "prompt": next((shown(c.prompt) for c in there if c.prompt), None),
                "events": next((c.n_events for c in there if c.n_events), None),
                "sounds": [
                    clip
                    and {
                        "file": number[_generated(system, clip)],
                        "scores": clip.scores,
                        "flags": list(clip.flags),
                    }
                    for system, clip in zip(evaluation.systems, made, strict=True)
                ],
                "reference": real and {"file": number[real]},
            }
        )
    return {
        "systems": [shown(system.name) for system in evaluation.systems],
        "hasReference": evaluation.reference is not None,
        "scores": _clip_scores(evaluation.systems),
        "clips": clips,
        "files": [
            {
                "sound": one.sound,
                "picture": one.picture,
                "duration": round(one.duration_s, 3),
                "problem": one.problem and shown(one.problem),
            }
            for one in media.values()
        ],
    }


def _clip_scores(systems: Sequence[System]) -> list[dict[str, str]]:
    """The scores that single clips have, each with the direction of its metric."""
    names = dict.fromkeys(name for s in systems for clip in s.rows for name in clip.scores)
    metrics = {m.name: m for system in systems for m in system.metrics}
    return [
        {"name": name, "better": metrics[name].better if name in metrics else "higher"}
        for name in names
    ]


# --- the page


def _page(evaluation: Evaluation, clips: dict[str, object], where: str) -> str:
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
<title>{text(title)}</title>
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
moment; those of a clip share one axis of time. A click on one plays from there.</p>
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

    The joiners that emoji and some scripts need stay.
    """
    return "".join(
        c if c.isprintable() or c in "\u200c\u200d" else f"\\u{ord(c):04x}" for c in value
    )


def text(value: object) -> str:
    """`value` as text of the page: escaped, and apart from the direction of what is around it."""
    return f"<bdi>{html.escape(shown(str(value)))}</bdi>"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lead(evaluation: Evaluation, n_clips: int) -> str:
    facts = [f"{n_clips:,} clips", f"protocol {text(evaluation.protocol)}"]
    if evaluation.reference:
        facts.append(f"{evaluation.reference.n_used:,} reference sounds")
    return f'<p class="lead">{" · ".join(facts)}</p>'


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
    items = "".join(f"<li>{text(note)}</li>" for note in evaluation.notes)
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
    digits = decimals(ends)
    cells = "".join(
        f'<td><span class="of"><span class="dot s{i % 6}"></span>{text(system.name)}</span>'
        f"{_metric_cell(m, digits, stands_apart(m, metrics))}</td>"
        for i, (m, system) in enumerate(zip(metrics, systems, strict=True))
    )
    unit = f", {text(known.unit)}" if known.unit else ""
    subset = f'<span class="subset">{text(known.subset)}</span>' if known.subset else ""
    arrow = "↑" if known.better == "higher" else "↓"
    notes = dict.fromkeys(m.note for m in metrics if m is not None and m.note)
    remarks = "".join(f'<span class="remark">{text(note)}</span>' for note in notes)
    return f"""<tr{' class="part"' if known.subset else ""}><th scope="row">
<span class="metric">{text(known.name)}{subset}</span>
<span class="hint"><span aria-hidden="true">{arrow}</span> {known.better} is better{unit}</span>
{remarks}</th>{cells}
<td class="bars">{_bars(metrics, systems, ends, digits)}</td></tr>"""


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


def decimals(numbers: Iterable[float]) -> int:
    """Decimals for numbers shown in one row: about four digits of the largest."""
    largest = max((abs(number) for number in numbers), default=0.0)
    return 1 if largest >= 100 else 2 if largest >= 10 else 3


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


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
        f"<li>{text(f.path)} <span>{text(f.flag)}: {text(f.detail)}"
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
    facts += [(name, str(value)) for name, value in evaluation.settings.items()]
    facts += list(evaluation.versions.items())
    items = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{items}</dl>'
