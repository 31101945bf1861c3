"""Bootstrap intervals: the scatter of a number over other clips of the same kind.

The standard bootstrap interval (Efron and Tibshirani 1993, chapter 12): the value, plus and minus
1.96 standard deviations of the values of resamples. Percentiles would not do for a Fréchet
distance: a resample has clips twice, hence less variety, hence a larger distance than the set that
it is drawn from. The interval has the scatter of a number at this many clips, not its bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

MAX_RESAMPLES = 500
MIN_RESAMPLES = 30
BUDGET_FLOPS = 2e11
"""Budget of all resamples of a number: some tens of seconds of one core."""
Z_95 = 1.959964


def n_resamples(cost_flops: float) -> int:
    """The number of resamples of this cost that fit into the budget.

    It depends on nothing else, so that the same sets have the same interval on every machine.
    """
    return int(np.clip(BUDGET_FLOPS / max(cost_flops, 1.0), MIN_RESAMPLES, MAX_RESAMPLES))


def draws(n_clips: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `n_resamples` resamples: (n_clips,) counts of each clip."""
    generator = np.random.default_rng(seed)
    for _ in range(n_resamples):
        yield np.bincount(generator.integers(n_clips, size=n_clips), minlength=n_clips)


def interval(
    value: float, replicates: Iterable[float], *, least: float | None = None
) -> tuple[float, float] | None:
    """95 % interval of `value` from its values on resamples; None where they are not finite.

    Args:
        least: what the number cannot be below.
    """
    scatter = np.std(list(replicates), ddof=1)
    if not np.isfinite(scatter):
        return None
    low, high = value - Z_95 * scatter, value + Z_95 * scatter
    return float(low if least is None else max(low, least)), float(high)
