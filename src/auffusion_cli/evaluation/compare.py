"""Differences of two results that measured the same thing. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auffusion_cli.errors import DataError
from auffusion_cli.evaluation.bootstrap import MAX_RESAMPLES, draws, interval
from auffusion_cli.evaluation.events import complexity
from auffusion_cli.evaluation.result import ClipSet, Evaluation, Metric, System

N_NAMED = 3
SEED = 0


@dataclass(frozen=True)
class Difference:
    """One number of two systems."""

    metric: str
    subset: str
    first: float | None
    second: float | None
    change: float | None
    """second - first; None where one of them is missing."""
    ci_95: tuple[float, float] | None
    """Interval of the change. Numbers with a score for each clip are compared clip by clip; for the
    others the two intervals are taken for independent, which makes this one too wide rather than
    too narrow."""
    better: Literal["higher", "lower"]


def compare(first: Evaluation, second: Evaluation) -> dict[str, list[Difference]]:
    """ "first system → second system" -> the differences of their numbers.

    Systems are matched by name; where each result has only one, these two.

    Raises:
        DataError: they differ in networks, protocol, reference, or the names and prompts of
            clips; the message has every difference.
    """
    pairs = _match_systems(first, second)
    if differing := [*_differing_means(first, second), *_differing_sets(pairs)]:
        raise DataError(
            "the two results cannot be compared: " + "; ".join(differing),
            hint="Evaluate both with the same --reference, --prompts and --protocol.",
        )
    return {
        f"{a.name} → {b.name}": [
            _difference(metric, other, a, b)
            for metric in a.metrics
            if (other := b.metric(metric.name, metric.subset)) is not None
        ]
        for a, b in pairs
    }


def _match_systems(first: Evaluation, second: Evaluation) -> list[tuple[System, System]]:
    if len(first.systems) == len(second.systems) == 1:
        return [(first.systems[0], second.systems[0])]
    others = {system.name: system for system in second.systems}
    pairs = [(system, others[system.name]) for system in first.systems if system.name in others]
    if not pairs:
        names = [", ".join(system.name for system in each.systems) for each in (first, second)]
        raise DataError(f"the two results share no system: one has {names[0]}, one has {names[1]}")
    return pairs


# --- why two results cannot be compared


def _differing_means(first: Evaluation, second: Evaluation) -> Iterator[str]:
    if first.protocol != second.protocol:
        yield f"the protocols are {first.protocol} and {second.protocol}"
    for name in sorted(first.backbones.keys() & second.backbones.keys()):
        a, b = first.backbones[name], second.backbones[name]
        if a.identity != b.identity:
            other = "weights" if a.weights_sha256 != b.weights_sha256 else "settings"
            yield f"the {other} of {name} differ"
    if (first.reference is None) != (second.reference is None):
        yield "only one has a reference"
    elif first.reference is not None and first.reference.sha256 != second.reference.sha256:
        yield (
            f"the references {_set(first.reference)} and {_set(second.reference)} are not the same"
            " files"
        )


def _set(clips: ClipSet) -> str:
    return f"{clips.folder} ({clips.n_used} files, {clips.sha256[:12]})"


def _differing_sets(pairs: list[tuple[System, System]]) -> Iterator[str]:
    for a, b in pairs:
        prompts = [{row.name: row.prompt for row in system.rows} for system in (a, b)]
        names = [of_system.keys() for of_system in prompts]
        if only_a := names[0] - names[1]:
            yield f"{_some(only_a)} in {a.name} and not in {b.name}"
        if only_b := names[1] - names[0]:
            yield f"{_some(only_b)} in {b.name} and not in {a.name}"
        common = names[0] & names[1]
        if other := [name for name in common if prompts[0][name] != prompts[1][name]]:
            yield f"other prompts for {_some(other)}"


def _some(clips: Iterable[str]) -> str:
    names = sorted(clips)
    listed = ", ".join(names[:N_NAMED])
    return f"{len(names)} clips ({listed}{', …' if len(names) > N_NAMED else ''})"


# --- by how much they differ


def _difference(first: Metric, second: Metric, a: System, b: System) -> Difference:
    change, limits = None, None
    if first.value is not None and second.value is not None:
        change = second.value - first.value
        limits = _paired_interval(first, a, b) or _independent_interval(change, first, second)
    return Difference(
        first.name, first.subset, first.value, second.value, change, limits, first.better
    )


def _paired_interval(metric: Metric, a: System, b: System) -> tuple[float, float] | None:
    scores = {row.name: row.scores for row in b.rows}
    changes = [
        scores[row.name][metric.name] - row.scores[metric.name]
        for row in a.rows
        if metric.name in row.scores and metric.name in scores[row.name]
        if not metric.subset or (row.n_events and complexity(row.n_events) == metric.subset)
    ]
    if len(changes) < 2:
        return None
    values = np.array(changes)
    resamples = draws(len(values), MAX_RESAMPLES, SEED)
    return interval(values.mean(), (counts @ values / len(values) for counts in resamples))


def _independent_interval(
    change: float, first: Metric, second: Metric
) -> tuple[float, float] | None:
    if first.ci_95 is None or second.ci_95 is None:
        return None
    # The upper halves: a lower one may have been cut at the least possible value.
    half = np.hypot(first.ci_95[1] - first.value, second.ci_95[1] - second.value)
    return float(change - half), float(change + half)
