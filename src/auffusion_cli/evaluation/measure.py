"""Features -> `Metric`s: each number with its interval, its count, and cautions."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import numpy as np

from auffusion_cli.evaluation.bootstrap import (
    BUDGET_FLOPS,
    MAX_RESAMPLES,
    MIN_RESAMPLES,
    draws,
    interval,
    n_resamples,
)
from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.events import Complexity
from auffusion_cli.evaluation.frechet import (
    EXTRAPOLATION_SIZES,
    MIN_CLIPS_FOR_EXTRAPOLATION,
    ResampledFrechet,
    extrapolate,
)
from auffusion_cli.evaluation.metrics import (
    INCEPTION_SPLITS,
    Activation,
    InceptionScore,
    KernelDistance,
    kl_divergences,
)
from auffusion_cli.evaluation.result import Metric
from auffusion_cli.evaluation.rows import DiskRows, blocks

Better = Literal["higher", "lower"]

SEED = 0
"""Seed of every bootstrap."""
FEW_CLIPS = 500
"""Below, a Fréchet distance depends as much on the number of clips as on their sound."""
MIN_CLIPS_FOR_KERNEL_INTERVAL = 3
"""With two clips, every resample that has a distance is the same."""
MAX_KERNEL_CLIPS = 4_000
"""Clips of each set: a kernel has an entry for every two of them, and their rows are in memory."""


@dataclass(frozen=True)
class FolderFeatures:
    """The features of the clips of one folder by one network, in their order."""

    rows: DiskRows
    """(m, D)"""
    clips: np.ndarray
    """(m,) index of the clip that a row belongs to; a clip has one row, or one a frame."""
    logits: DiskRows | None
    """(n, K)"""
    n_clips: int

    @classmethod
    def collect(cls, features: Iterable[ClipFeatures]) -> FolderFeatures:
        """Collect the features of at least one clip, on the disk, as they grow with the clips."""
        features = iter(features)
        first = next(features)
        rows = DiskRows(first.embeddings.shape[1])
        logits = None if first.logits is None else DiskRows(len(first.logits))
        counts = array("q")
        for of_clip in chain([first], features):
            rows.append(of_clip.embeddings)
            counts.append(len(of_clip.embeddings))
            if logits is not None:
                logits.append(of_clip.logits[None])
        clips = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return cls(rows, clips, logits, len(counts))

    @property
    def n_without_rows(self) -> int:
        """Number of clips too short for a frame."""
        return self.n_clips - len(np.unique(self.clips))


def absent(name: str, backbone: str, better: Better, n: int, why: str, unit: str = "") -> Metric:
    """A `Metric` without a value; `why` becomes its note."""
    return Metric(name, None, None, 0, n, better, unit, backbone, note=why)


# --- distances between two sets


def frechet(
    name: str,
    name_at_infinity: str,
    backbone: str,
    generated: FolderFeatures,
    reference: FolderFeatures,
) -> list[Metric]:
    """The Fréchet distance, and what it would be with endlessly many generated clips."""
    n_made, n_real = generated.n_clips, reference.n_clips
    if min(len(generated.rows), len(reference.rows)) < 2:
        why = "needs two embeddings in each folder"
        return [absent(each, backbone, "lower", n_made, why) for each in (name, name_at_infinity)]
    distances = ResampledFrechet(generated.rows, reference.rows, generated.clips, reference.clips)

    value, limits, n_drawn = distances.distance(), None, 0
    if min(n_made, n_real) > 1:
        n_drawn = n_resamples(distances.cost)
        resamples = zip(draws(n_made, n_drawn, SEED), draws(n_real, n_drawn, SEED + 1), strict=True)
        limits = interval(value, (distances.distance(*both) for both in resamples), least=0.0)
    notes = []
    if (fewest := min(n_made, n_real)) < FEW_CLIPS:
        notes.append(
            f"{fewest} clips are few (under {FEW_CLIPS}): the distance is too large, and can only"
            " be compared with one of as many clips"
        )
    if n_short := generated.n_without_rows + reference.n_without_rows:
        notes.append(f"{n_short} clips are too short for a frame and are not in it")
    whole = Metric(
        name, value, limits, n_drawn, n_made, "lower", "", backbone, note="; ".join(notes)
    )
    return [whole, _frechet_at_infinity(name_at_infinity, backbone, distances, n_made, n_real)]


def _frechet_at_infinity(
    name: str, backbone: str, distances: ResampledFrechet, n_made: int, n_real: int
) -> Metric:
    if n_made < MIN_CLIPS_FOR_EXTRAPOLATION:
        why = f"needs {MIN_CLIPS_FOR_EXTRAPOLATION} generated clips"
        return absent(name, backbone, "lower", n_made, why)
    value = extrapolate(distances, np.ones(n_made, dtype=int), seed=SEED)
    cost = EXTRAPOLATION_SIZES * distances.cost
    if min(n_made, n_real) < 2 or cost * MIN_RESAMPLES > 2 * BUDGET_FLOPS:
        return Metric(
            name, value, None, 0, n_made, "lower", "", backbone, note="no interval: takes too long"
        )
    n_drawn = n_resamples(cost)
    replicates = (
        extrapolate(distances, *both, seed=SEED)
        for both in zip(draws(n_made, n_drawn, SEED), draws(n_real, n_drawn, SEED + 1), strict=True)
    )
    return Metric(name, value, interval(value, replicates), n_drawn, n_made, "lower", "", backbone)


def kernel(
    name: str, backbone: str, generated: FolderFeatures, reference: FolderFeatures
) -> Metric:
    """The kernel audio distance; of networks with one embedding a clip."""
    n = generated.n_clips
    if min(n, reference.n_clips) < 2:
        return absent(name, backbone, "lower", n, "needs two clips in each folder")
    sets, notes = [], []
    for features in (generated, reference):
        chosen: slice | np.ndarray = slice(None)
        if features.n_clips > MAX_KERNEL_CLIPS:
            chosen = np.random.default_rng(SEED).permutation(features.n_clips)[:MAX_KERNEL_CLIPS]
            notes = [f"of {MAX_KERNEL_CLIPS:,} clips of a folder, drawn at random"]
        sets.append(features.rows[chosen])
    try:
        distance = KernelDistance(*sets)
    except ValueError as error:
        return absent(name, backbone, "lower", n, str(error))
    value, limits, n_drawn = distance.of(), None, 0
    if min(map(len, sets)) < MIN_CLIPS_FOR_KERNEL_INTERVAL:
        notes.append(f"no interval: needs {MIN_CLIPS_FOR_KERNEL_INTERVAL} clips in each folder")
    else:
        resamples = [
            np.array(list(draws(len(rows), n_resamples(distance.cost), seed)), dtype=np.float64)
            for rows, seed in zip(sets, (SEED, SEED + 1), strict=True)
        ]
        replicates = distance.of_each(*resamples)
        # Where a resample of few clips has one of them alone, there is no distance.
        replicates = replicates[np.isfinite(replicates)]
        limits, n_drawn = interval(value, replicates), len(replicates)
    note = "; ".join(notes)
    return Metric(name, value, limits, n_drawn, len(sets[0]), "lower", "", backbone, note=note)


def divergences(
    generated: FolderFeatures,
    reference: FolderFeatures,
    pairs: Sequence[tuple[int, int]],
    activation: Activation,
) -> np.ndarray:
    """(n,) KL of each of `pairs`: the index of a generated clip and of its partner."""
    pairs = np.array(pairs)
    values = [
        kl_divergences(
            generated.logits[pairs[block, 0]], reference.logits[pairs[block, 1]], activation
        )
        for block in blocks(len(pairs))
    ]
    return np.concatenate(values)


# --- numbers of one set


def inception(name: str, backbone: str, generated: FolderFeatures) -> Metric:
    """The inception score."""
    n = generated.n_clips
    if n < 2 * INCEPTION_SPLITS:  # a split of one clip has a score of 1, whatever the clip is
        return absent(name, backbone, "higher", n, f"needs {2 * INCEPTION_SPLITS} clips")
    score = InceptionScore(generated.logits)
    value, deviation = score.of()
    n_drawn = n_resamples(score.cost)
    replicates = (mean for mean, _ in score.of_each(draws(n, n_drawn, SEED)))
    limits = interval(value, replicates, least=1.0)
    note = f"standard deviation over {INCEPTION_SPLITS} splits: {deviation:.3g}"
    return Metric(name, value, limits, n_drawn, n, "higher", "", backbone, note=note)


def mean_score(
    name: str,
    backbone: str,
    better: Better,
    unit: str,
    scores: Mapping[str, float],
    groups: Mapping[str, Complexity],
    note: str = "",
) -> list[Metric]:
    """The mean of the clips' own scores: over all, then over those of each group.

    Args:
        scores: clip name -> score; not empty.
        groups: clip name -> its group; clips without one are only among all.
    """
    subsets = {"": list(scores.values())}
    for group in get_args(Complexity):
        subsets[group] = [score for clip, score in scores.items() if groups.get(clip) == group]
    metrics = []
    for subset, values in subsets.items():
        if not values:
            continue
        values = np.array(values)
        value, limits, n_drawn = float(values.mean()), None, 0
        if len(values) > 1:
            n_drawn = MAX_RESAMPLES
            resamples = draws(len(values), n_drawn, SEED)
            limits = interval(value, (counts @ values / len(values) for counts in resamples))
        metrics.append(
            Metric(name, value, limits, n_drawn, len(values), better, unit, backbone, subset, note)
        )
    return metrics
