"""Fréchet distance between two sets of embeddings, in float64.

|m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ of their means and covariances (Dowson and Landau 1982;
Heusel et al. 2017 for images, Kilgour et al. 2019 for sounds).

The usual way takes `sqrtm` of the product S1 S2, which is not symmetric: with fewer clips than
dimensions it is singular, and the result may be complex or negative. Here the covariances are split
into F1ᵀF1 and F2ᵀF2 by their eigenvalues; the trace of the root is then the sum of the singular
values of F1 F2ᵀ. No root is taken of a rounding error, and none can make the distance negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from auffusion_cli.evaluation.rows import DiskRows, blocks

EXTRAPOLATION_SIZES = 15
MIN_CLIPS_FOR_EXTRAPOLATION = 100
PRODUCTS_AT_ONCE = 4096
"""Rows of the larger set whose products with the smaller are in memory, and decomposed, at once."""


@dataclass
class Moments:
    """Mean and covariance of rows that are seen once, in memory that does not grow with them.

    Blocks are joined as in Chan, Golub and LeVeque (1983), section 2.1.
    """

    n: float
    mean: np.ndarray
    """(D,) float64"""
    scatter: np.ndarray
    """(D, D) float64: the sum of the outer products of (row - mean)."""

    @classmethod
    def of(cls, rows: np.ndarray | DiskRows, weights: np.ndarray | None = None) -> Moments:
        """Moments of (n, D) rows, each of which counts `weights` (n,) times; once by default."""
        dim = rows.shape[1]
        moments = cls(0.0, np.zeros(dim), np.zeros((dim, dim)))
        for block in blocks(len(rows)):
            moments.add(rows[block], None if weights is None else weights[block])
        return moments

    def add(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Take (n, D) more rows in."""
        block = np.asarray(rows, dtype=np.float64)
        weights = np.ones(len(block)) if weights is None else weights.astype(np.float64)
        n = weights.sum()
        if n == 0:
            return
        mean = weights @ block / n
        centred = (block - mean) * np.sqrt(weights)[:, None]
        apart = mean - self.mean
        total = self.n + n
        self.scatter += centred.T @ centred + np.outer(apart, apart) * (self.n * n / total)
        self.mean = self.mean + apart * (n / total)
        self.n = total

    def covariance(self) -> np.ndarray:
        """(D, D), unbiased, as `numpy.cov`; needs two rows."""
        return self.scatter / (self.n - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """The distance, at least 0, and 0 for equal moments. Both need two rows or more."""
    apart = first.mean - second.mean
    factors = [_factor(moments.covariance()) for moments in (first, second)]
    traces = [(factor**2).sum() for factor in factors]
    cross = factors[0] @ factors[1].T
    return _distance(apart @ apart, *traces, _nuclear_norm([cross]), max(cross.shape))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """(rank, D) F with FᵀF = `covariance`: its eigenvectors times the roots of the eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    # What is below the rounding error of the largest eigenvalue is zero: its root is not.
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _nuclear_norm(parts: Iterable[np.ndarray]) -> float:
    """The sum of the singular values of a matrix, of which `parts` (n_i, D) are the rows.

    Several parts are brought to a triangle one after another (Demmel et al. 2012, section 1), which
    leaves the singular values as they are.
    """
    triangle = None
    for part in parts:
        if triangle is not None:
            triangle = np.linalg.qr(triangle, mode="r")
            part = np.linalg.qr(np.concatenate([triangle, part]), mode="r")
        triangle = part
    if triangle is None or not triangle.size:
        return 0.0
    return np.linalg.svd(triangle, compute_uv=False).sum()


def _distance(apart: float, trace_1: float, trace_2: float, root: float, size: int) -> float:
    """The sum of the four terms; `apart` is |m1 - m2|², `root` the trace of the root of S1 S2.

    Below what rounding can do to matrices of this `size` it is 0.
    """
    distance = apart + trace_1 + trace_2 - 2 * root
    rounding = 16 * max(size, 1) * np.finfo(np.float64).eps * (trace_1 + trace_2)
    return float(distance) if distance > rounding else 0.0


# --- many distances between resamples of the same two sets


class ResampledFrechet:
    """Fréchet distances between two sets of rows, and between resamples of them.

    Where one set has fewer rows than dimensions, products of the rows stand in for covariances:
    they are computed once, and a distance then costs a decomposition of the smaller set's size.
    However many rows there are, a few blocks of them are in memory.

    Args:
        first, second: (n1, D) and (n2, D) rows.
        first_clips, second_clips: (n1,) and (n2,) index of the clip that each row belongs to.
    """

    def __init__(
        self,
        first: np.ndarray | DiskRows,
        second: np.ndarray | DiskRows,
        first_clips: np.ndarray,
        second_clips: np.ndarray,
    ) -> None:
        self.sets = (first, second)
        self.clips = (first_clips, second_clips)
        self.dim = first.shape[1]
        self.by_rows = min(len(first), len(second)) < self.dim
        if self.by_rows:
            self._multiply()

    def _multiply(self) -> None:
        """The products of each row of the larger set with those of the smaller."""
        self._swapped = len(self.sets[1]) < len(self.sets[0])
        few, self._many = reversed(self.sets) if self._swapped else self.sets
        self._centre = _mean(few)  # keeps the products small
        self._few = few[:] - self._centre
        self._few_norms = (self._few**2).sum(axis=1)
        n_many = len(self._many)
        self._many_norms = np.empty(n_many)
        self._products = DiskRows(len(few), dtype=np.float64)
        for block in blocks(n_many):
            rows = self._many[block] - self._centre
            self._many_norms[block] = (rows**2).sum(axis=1)
            self._products.append(rows @ self._few.T)

    @property
    def cost(self) -> float:
        """About how many floating point operations a distance takes."""
        rows = [len(rows) for rows in self.sets]
        if self.by_rows:
            return 10.0 * min(rows) ** 2 * max(rows)
        return 2.0 * sum(rows) * self.dim**2 + 100.0 * self.dim**3

    def distance(
        self, first_counts: np.ndarray | None = None, second_counts: np.ndarray | None = None
    ) -> float:
        """For all clips, or for resamples in which each clip is so many times."""
        weights = [
            np.ones(len(clips)) if counts is None else counts[clips].astype(np.float64)
            for clips, counts in zip(self.clips, (first_counts, second_counts), strict=True)
        ]
        if not self.by_rows:
            first, second = (Moments.of(*both) for both in zip(self.sets, weights, strict=True))
            return frechet_distance(first, second)
        return self._distance_by_rows(*(reversed(weights) if self._swapped else weights))

    def _distance_by_rows(self, few_weights: np.ndarray, many_weights: np.ndarray) -> float:
        n_few, n_many = few_weights.sum(), many_weights.sum()
        few_mean = few_weights @ self._few / n_few
        many_mean = np.zeros(self.dim)
        for block in blocks(len(self._many)):
            many_mean += many_weights[block] @ (self._many[block] - self._centre) / n_many
        traces = [
            (weights @ norms - n * (mean @ mean)) / (n - 1)
            for weights, norms, n, mean in (
                (few_weights, self._few_norms, n_few, few_mean),
                (many_weights, self._many_norms, n_many, many_mean),
            )
        ]
        # Products of rows -> of rows less their means -> of the rows of F1 and F2.
        kept = np.flatnonzero(few_weights)
        few_scale = np.sqrt(few_weights[kept] / (n_few - 1))
        of_many_mean = (self._few[kept] - few_mean) @ many_mean

        def parts():
            for block in blocks(len(self._many), PRODUCTS_AT_ONCE):
                weights = many_weights[block]
                products = self._products[block]
                centred = products[:, kept]
                centred -= (products @ few_weights / n_few)[:, None] + of_many_mean
                centred *= np.sqrt(weights / (n_many - 1))[:, None] * few_scale
                yield centred[weights > 0]

        apart = few_mean - many_mean
        size = max(len(kept), np.count_nonzero(many_weights))
        return _distance(apart @ apart, *traces, _nuclear_norm(parts()), size)


def _mean(rows: np.ndarray | DiskRows) -> np.ndarray:
    """(D,) float64"""
    total = sum(rows[block].sum(axis=0, dtype=np.float64) for block in blocks(len(rows)))
    return total / len(rows)


def extrapolate(
    distances: ResampledFrechet,
    first_counts: np.ndarray,
    second_counts: np.ndarray | None = None,
    seed: int = 0,
) -> float:
    """The distance that endlessly many clips of the first set would have (Chong and Forsyth 2020).

    A finite set looks farther away than it is, by about a constant over its number of clips. So the
    distances of random parts of the first set, from half of its clips to all, are continued along a
    line in 1/clips to 0. The second set stays whole, and keeps its own bias. May be negative.

    Args:
        first_counts, second_counts: how often each clip counts, as in a resample.
    """
    generator = np.random.default_rng(seed)
    drawn = np.repeat(np.arange(len(first_counts)), first_counts)
    sizes = np.linspace(len(drawn) / 2, len(drawn), EXTRAPOLATION_SIZES).round().astype(int)
    values = []
    for size in sizes:
        part = np.bincount(generator.permutation(drawn)[:size], minlength=len(first_counts))
        values.append(distances.distance(part, second_counts))
    _, at_infinity = np.polyfit(1 / sizes, values, 1)
    return float(at_infinity)
