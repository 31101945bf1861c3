"""The numbers of `evaluate` and `sweep` as tables: on the terminal, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auffusion_cli.cli import console
from auffusion_cli.files import write_text

if TYPE_CHECKING:
    from auffusion_cli.evaluation.compare import Difference
    from auffusion_cli.evaluation.result import Evaluation, Metric, System
    from auffusion_cli.tasks.sweep import ScoredCell

# --- an evaluation


def show_metrics(evaluation: Evaluation) -> None:
    """Print the numbers of all systems side by side, and the notes on them."""
    rows: dict[tuple[str, str], dict[str, Metric]] = {}
    for system in evaluation.systems:
        for metric in system.metrics:
            rows.setdefault((metric.name, metric.subset), {})[system.name] = metric
    headers = ["METRIC"]
    for system in evaluation.systems:
        headers += [system.name, "95 %", "CLIPS"]
    console.print_table(
        [*headers, "BETTER"],
        [
            [
                f"  {subset}" if subset else name,
                *(cell for s in evaluation.systems for cell in _cells(metrics.get(s.name))),
                next(iter(metrics.values())).better,
            ]
            for (name, subset), metrics in rows.items()
        ],
    )
    for note in _metric_notes(evaluation.systems):
        console.note(note)


def _cells(metric: Metric | None) -> tuple[str, str, str]:
    if metric is None:
        return "", "", ""
    return _number(metric.value), _interval(metric.ci_95), str(metric.n)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _interval(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.4g} to {limits[1]:.4g}"


def _metric_notes(systems: Sequence[System]) -> list[str]:
    """Each note once, with the numbers that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for system in systems:
        for metric in system.metrics:
            if metric.note:
                about.setdefault((system.name, metric.note), []).append(metric.name)
    return [
        (f"{system}: " if len(systems) > 1 else "") + f"{', '.join(dict.fromkeys(names))}: {note}"
        for (system, note), names in about.items()
    ]


def write_clips(evaluation: Evaluation, path: Path) -> None:
    """Write a CSV: a line for each clip, then one for each file that was left out."""
    from auffusion_cli.evaluation.clips import clip_name

    clips = [row for system in evaluation.systems for row in system.rows]
    scores = list(dict.fromkeys(name for row in clips for name in row.scores))
    plain = ("name", "path", "reference_path", "prompt", "n_events", "duration_s", "sha256")
    columns = ["system", *plain, "flags", *scores]
    if any(row.classes for row in clips):
        columns.append("classes")
    if has_words := any(row.words for row in clips):
        columns.append("attention-words")
    lines: list[dict[str, Any]] = []
    for system in evaluation.systems:
        for row in system.rows:
            line = {name: getattr(row, name) for name in plain} | row.scores
            line |= {"system": system.name, "flags": " ".join(row.flags)}
            if row.classes:
                line["classes"] = "; ".join(f"{c.name} {c.probability:.3g}" for c in row.classes)
            if has_words:
                words = (f"{word.word} {word.entropy} {word.level}" for word in row.words)
                line["attention-words"] = "; ".join(words)
            lines.append(line)
        lines += [
            {
                "system": system.name,
                "name": clip_name(found.path),
                "path": found.path,
                "flags": found.flag,
            }
            for found in system.clips.findings
            if found.excluded
        ]
    write_csv(columns, lines, path)


def write_csv(columns: Sequence[str], lines: Iterable[dict[str, Any]], path: Path) -> None:
    """Write `lines`, column -> value, below a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


# --- two evaluations


def show_differences(pair: str, differences: Sequence[Difference]) -> None:
    """Print how the numbers of two systems differ."""
    console.print_table(
        (pair, "FIRST", "SECOND", "CHANGE", "95 %", ""),
        [
            (
                f"  {each.subset}" if each.subset else each.metric,
                _number(each.first),
                _number(each.second),
                "" if each.change is None else f"{each.change:+.4g}",
                _interval(each.ci_95),
                _verdict(each),
            )
            for each in differences
        ],
    )


def _verdict(difference: Difference) -> str:
    """Better or worse, where the interval leaves no doubt."""
    if difference.ci_95 is None:
        return ""
    low, high = difference.ci_95
    if low <= 0 <= high:
        return "no clear difference"
    return "better" if (low > 0) == (difference.better == "higher") else "worse"


# --- a sweep


def show_cells(scored: Sequence[ScoredCell]) -> None:
    """Print a line for each cell."""
    from auffusion_cli.tasks.sweep import measured

    names = measured(scored)
    rows = []
    for each in scored:
        settings = each.cell.settings
        row = [settings.scheduler, settings.steps, f"{settings.guidance_scale:g}"]
        row.append(f"{each.cell.seconds_per_sound:.2f}")
        row.append("" if each.change_db is None else f"{each.change_db:.2f}")
        for name in names:
            metric = each.metric(name)
            limits = metric and metric.ci_95 and f" ({_interval(metric.ci_95)})"
            row.append("" if metric is None else _number(metric.value) + (limits or ""))
        rows.append(row)
    headers = ["SCHEDULER", "STEPS", "GUIDANCE", "SECONDS", "CHANGE dB", *names]
    console.print_table(headers, rows)


def write_cells(scored: Sequence[ScoredCell], path: Path) -> None:
    """Write a CSV: a line for each cell."""
    from auffusion_cli.tasks.sweep import measured

    fields = ("scheduler", "steps", "guidance_scale", "guidance_rescale", "duration_s")
    columns = [*fields, "seconds_per_sound", "change_db"]
    lines = []
    for name in measured(scored):
        columns += [name, f"{name} low", f"{name} high"]
    for each in scored:
        line = {field: getattr(each.cell.settings, field) for field in fields}
        line |= {"seconds_per_sound": each.cell.seconds_per_sound, "change_db": each.change_db}
        for name in measured(scored):
            if (metric := each.metric(name)) is not None:
                low, high = metric.ci_95 or (None, None)
                line |= {name: metric.value, f"{name} low": low, f"{name} high": high}
        lines.append(line)
    write_csv(columns, lines, path)


def cells_as_json(
    scored: Sequence[ScoredCell], evaluation: Evaluation, picture: Path
) -> dict[str, Any]:
    """The numbers of all cells, and everything that they depend on."""
    return {
        "protocol": evaluation.protocol,
        "backbones": {name: asdict(each) for name, each in evaluation.backbones.items()},
        "reference": evaluation.reference and asdict(evaluation.reference),
        "versions": evaluation.versions,
        "notes": list(evaluation.notes),
        "picture": str(picture),
        "cells": [
            each.cell.settings.to_dict()
            | {
                "folder": str(each.cell.folder),
                "device": each.cell.device,
                "dtype": each.cell.dtype,
                "seconds_per_sound": each.cell.seconds_per_sound,
                "change_db": each.change_db,
                "metrics": [asdict(metric) for metric in each.metrics],
            }
            for each in scored
        ],
    }
