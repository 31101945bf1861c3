"""Fréchet distance between two sets of embeddings, in float64.

|m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ of their means and covariances (Dowson and Landau 1982;
Heusel et al. 2017 for images, Kilgour et al. 2019 for sounds).

The usual way takes `sqrtm` of the product S1 S2, which is not symmetric: with fewer clips than
dimensions it is singular, and the result may be complex or negative. Here the covariances are split
into F1ᵀF1 and F2ᵀF2 by their eigenvalues; the trace of the root is then the sum of the singular
values of F1 F2ᵀ. No root is taken of a rounding error, and none can make the distance negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXTRAPOLATION_SIZES = 15
MIN_CLIPS_FOR_EXTRAPOLATION = 100
BLOCK_ROWS = 4096


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
    def of(cls, rows: np.ndarray, weights: np.ndarray | None = None) -> Moments:
        """Of (n, D) rows, each of which counts `weights` (n,) times; once by default."""
        dim = rows.shape[1]
        moments = cls(0.0, np.zeros(dim), np.zeros((dim, dim)))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
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
    """At least 0, and 0 for equal moments. Both need two rows or more."""
    apart = first.mean - second.mean
    factors = [_factor(moments.covariance()) for moments in (first, second)]
    traces = [(factor**2).sum() for factor in factors]
    return _distance(apart @ apart, *traces, factors[0] @ factors[1].T)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """(rank, D) F with FᵀF = `covariance`: its eigenvectors times the roots of the eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    # What is below the rounding error of the largest eigenvalue is zero: its root is not.
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _distance(apart: float, trace_1: float, trace_2: float, cross: np.ndarray) -> float:
    """The sum of the four terms; `apart` is |m1 - m2|², `cross` is F1 F2ᵀ."""
    root = np.linalg.svd(cross, compute_uv=False).sum() if cross.size else 0.0
    distance = apart + trace_1 + trace_2 - 2 * root
    rounding = 16 * max(cross.shape, default=1) * np.finfo(np.float64).eps * (trace_1 + trace_2)
    return float(distance) if distance > rounding else 0.0


# --- many distances between resamples of the same two sets


class ResampledFrechet:
    """Fréchet distances between two sets of rows, and between resamples of them.

    With fewer rows than dimensions, products of the rows stand in for covariances: they are
    computed once, and a distance then costs a decomposition of size min(n1, n2).

    Args:
        first, second: (n1, D) and (n2, D) rows.
        first_clips, second_clips: (n1,) and (n2,) index of the clip that each row belongs to.
    """

    def __init__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        first_clips: np.ndarray,
        second_clips: np.ndarray,
    ) -> None:
        self.sets = (first, second)
        self.clips = (first_clips, second_clips)
        self.dim = first.shape[1]
        self.by_rows = min(len(first), len(second)) < self.dim
        if self.by_rows:
            centre = np.mean(second, axis=0, dtype=np.float64)  # keeps the products small
            self.sets = (first - centre, second - centre)
            self.norms = [(rows**2).sum(axis=1) for rows in self.sets]
            self.products = self.sets[0] @ self.sets[1].T

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
        kept = [np.flatnonzero(w) for w in weights]
        weights = [w[k] for w, k in zip(weights, kept, strict=True)]
        n_1, n_2 = (w.sum() for w in weights)
        means, traces = [], []
        for rows, norms, k, w in zip(self.sets, self.norms, kept, weights, strict=True):
            means.append(w @ rows[k] / w.sum())
            traces.append((w @ norms[k] - w.sum() * (means[-1] @ means[-1])) / (w.sum() - 1))
        # Products of rows -> of rows less their mean -> of the rows of F1 and F2.
        cross = self.products[np.ix_(*kept)]
        cross = cross - (weights[0] @ cross / n_1)[None, :]
        cross = cross - (cross @ weights[1] / n_2)[:, None]
        cross *= np.sqrt(weights[0] / (n_1 - 1))[:, None] * np.sqrt(weights[1] / (n_2 - 1))
        apart = means[0] - means[1]
        return _distance(apart @ apart, *traces, cross)


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
