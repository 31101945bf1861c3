"""The page of an evaluation as HTML: the numbers, the guards and what it was measured with.

`pages.py` renders it, and escapes all text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from auffusion_cli.evaluation.clips import counts
from auffusion_cli.evaluation.pages import render_page
from auffusion_cli.evaluation.result import ClipSet, Evaluation, Metric, System

MAX_LISTED = 200
"""Findings of a set that the page spells out; the result has them all."""
MAX_DECIMALS = 6
ROUNDING = 1e-9
"""Numbers that are not further apart are the same."""


def render(
    evaluation: Evaluation,
    clips: dict[str, Any],
    sounds_note: str,
    attention: Sequence[tuple[str, str]] = (),
) -> str:
    """The page.

    Args:
        clips: the data that its script draws.
        sounds_note: the place of the sounds, in words.
        attention: prompts and the addresses of their attention maps.
    """
    names = [system.name for system in evaluation.systems]
    return render_page(
        "report_page",
        clips,
        {"thousands": lambda n: f"{n:,}"},
        evaluation=evaluation,
        title=_title(evaluation, names),
        n_clips=len(clips["clips"]),
        notes=[_split_name(note, names) for note in evaluation.notes],
        metric_rows=_metric_rows(evaluation.systems),
        clip_sets=_clip_sets(evaluation),
        max_listed=MAX_LISTED,
        has_words=any(clip.words for system in evaluation.systems for clip in system.rows),
        has_classes=any(clip.classes for system in evaluation.systems for clip in system.rows),
        facts=_facts(evaluation),
        sounds_note=sounds_note,
        attention=attention,
    )


def _title(evaluation: Evaluation, names: Sequence[str]) -> str:
    systems = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    if evaluation.reference is None:
        return systems
    folder = evaluation.reference.folder
    return f"{systems} against {PurePosixPath(folder).name or folder}"


def _split_name(words: str, names: Iterable[str]) -> tuple[str | None, str]:
    """The one of `names` that begins a note before a colon, and the rest."""
    name = next((name for name in names if words.startswith(f"{name}: ")), None)
    return (None, words) if name is None else (name, words[len(name) + 2 :])


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Networks, settings and versions: what another result must share to be compared."""
    facts = [("protocol", evaluation.protocol)]
    facts += [
        (key, f"{b.weights}, {b.sample_rate_hz:,} Hz, weights {b.weights_sha256[:16]}")
        for key, b in evaluation.backbones.items()
    ]
    facts += [(name.replace("_", " "), str(value)) for name, value in evaluation.settings.items()]
    return facts + list(evaluation.versions.items())


# --- the table of metrics


@dataclass(frozen=True)
class Bar:
    """An interval and its value on the axis of its row; places are percentages of the width."""

    index: int
    x: str
    ends: tuple[str, str] | None


@dataclass(frozen=True)
class MetricCell:
    """One number of one system, as text."""

    system: str
    value: str | None
    interval: tuple[str, str] | None
    n: int
    is_bold: bool
    bar: Bar | None


@dataclass(frozen=True)
class MetricRow:
    """One metric of all systems."""

    name: str
    subset: str
    better: Literal["higher", "lower"]
    unit: str
    remarks: list[tuple[list[str], str]]
    """(systems concerned, empty for all; note)"""
    cells: list[MetricCell]
    axis: tuple[str, str] | None
    """Both ends of the axis; None where no system has an interval."""


def _metric_rows(systems: Sequence[System]) -> list[MetricRow]:
    keys = dict.fromkeys((m.name, m.subset) for system in systems for m in system.metrics)
    names = [system.name for system in systems]
    return [_metric_row(names, [system.metric(*key) for system in systems]) for key in keys]


def _metric_row(names: Sequence[str], metrics: Sequence[Metric | None]) -> MetricRow:
    known = next(metric for metric in metrics if metric is not None)
    ends = [x for m in metrics if m for x in (m.value, *(m.ci_95 or ())) if x is not None]
    widths = [m.ci_95[1] - m.ci_95[0] for m in metrics if m and m.ci_95]
    digits = decimals(ends, widths)
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)

    def place(value: float) -> str:
        return f"{4 + 92 * (value - low) / ((high - low) or 1.0):.2f}%"

    def cell(index: int, name: str, metric: Metric | None) -> MetricCell:
        if metric is None or metric.value is None:
            return MetricCell(name, None, None, 0, False, None)
        limits = metric.ci_95
        return MetricCell(
            system=name,
            value=_number(metric.value, digits),
            interval=limits and (_number(limits[0], digits), _number(limits[1], digits)),
            n=metric.n,
            is_bold=stands_apart(metric, metrics),
            bar=Bar(index, place(metric.value), limits and (place(limits[0]), place(limits[1]))),
        )

    return MetricRow(
        known.name,
        known.subset,
        known.better,
        known.unit,
        _remarks(names, metrics),
        [cell(i, *both) for i, both in enumerate(zip(names, metrics, strict=True))],
        (_number(low, digits), _number(high, digits)) if widths else None,
    )


def _remarks(names: Sequence[str], metrics: Sequence[Metric | None]) -> list[tuple[list[str], str]]:
    """The notes on one metric, each once, with the systems that it is about if not all."""
    about: dict[str, list[str]] = {}
    for name, metric in zip(names, metrics, strict=True):
        if metric is not None and metric.note:
            about.setdefault(metric.note, []).append(name)
    return [(some if len(some) < len(names) else [], note) for note, some in about.items()]


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
    """True if the interval of `metric` is better than, and does not touch, that of every other."""
    others = [m for m in metrics if m is not metric and m is not None and m.value is not None]
    if metric is None or not metric.ci_95 or not others or not all(m.ci_95 for m in others):
        return False
    low, high = metric.ci_95
    if metric.better == "higher":
        return all(low > other.ci_95[1] for other in others)
    return all(high < other.ci_95[0] for other in others)


# --- the guards


@dataclass(frozen=True)
class CheckedSet:
    """The files of one folder, and what the guards found about them."""

    name: str
    clips: ClipSet
    flag_counts: list[tuple[str, int]]
    without_partner: Sequence[str]


def _clip_sets(evaluation: Evaluation) -> list[CheckedSet]:
    sets = [(s.name, s.clips, s.reference_without_partner) for s in evaluation.systems]
    if evaluation.reference:
        sets.append(("reference", evaluation.reference, ()))
    return [
        CheckedSet(name, clips, counts(clips.findings).most_common(), alone)
        for name, clips, alone in sets
    ]
