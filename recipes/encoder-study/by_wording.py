"""Split a study's results by wording: prompts as the training has them, and in other words.

    python recipes/encoder-study/by_wording.py runs/encoder-study

The wording is the part of a sound's name before the first hyphen (test_set.py). Each score that
sounds have of their own (KL, CLAP) is printed as its mean, and as its mean difference to the first
cell over the same prompts, both with 95 % intervals by bootstrap over prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from auffusion_cli.evaluation.bootstrap import MAX_RESAMPLES, draws, interval
from auffusion_cli.evaluation.result import Evaluation, ScoredClip

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of a study that is finished")
    for path in sorted((parser.parse_args().study / "results").glob("*.json")):
        for line in table(Evaluation.load(path)):
            print(line)


def table(result: Evaluation) -> list[str]:
    """A line for each score, wording and cell."""
    lines = [f"{'SCORE':20} {'WORDING':8} {'CELL':24} {'MEAN':24} DIFFERENCE"]
    cells = {system.name: by_wording(system.rows) for system in result.systems}
    first = next(iter(cells.values()))
    for score, wording in first:
        for cell, scores in cells.items():
            own, base = scores[score, wording], first[score, wording]
            changes = {name: own[name] - base[name] for name in own if name in base}
            difference = "" if scores is first else mean_of(changes)
            lines.append(f"{score:20} {wording:8} {cell:24} {mean_of(own):24} {difference}")
    return lines


def by_wording(rows: Iterable[ScoredClip]) -> dict[tuple[str, str], dict[str, float]]:
    """(score, wording) -> clip name -> value"""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        for score, value in row.scores.items():
            values.setdefault((score, row.name.partition("-")[0]), {})[row.name] = value
    return values


def mean_of(values: Mapping[str, float]) -> str:
    """The mean and its interval."""
    numbers = np.array(list(values.values()))
    resamples = draws(len(numbers), MAX_RESAMPLES, SEED)
    low, high = interval(numbers.mean(), (counts @ numbers / len(numbers) for counts in resamples))
    return f"{numbers.mean():.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
