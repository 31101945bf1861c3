"""The metrics besides the Fréchet distance, as the field computes them, in float64.

The definitions are those of `audioldm_eval` up to commit 70fc9cd, which the papers quote; KAD is
that of Chung et al. 2025 (arXiv 2502.15602) and its toolkit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np

from auffusion_cli.evaluation.rows import DiskRows, blocks

Activation = Literal["softmax", "sigmoid"]

KL_EPSILON = 1e-6
INCEPTION_SPLITS = 10
INCEPTION_SEED = 2020
KERNEL_SCALE = 100.0
"""KAD is given in hundredths, as in its paper."""
RESAMPLES_IN_A_PASS = 10
"""Inception scores that are computed while the logits are read once."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, K) -> (n, K) float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def probabilities(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """(n, K) -> (n, K) float64."""
    if activation == "softmax":
        return np.exp(log_softmax(logits))
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


# --- KL


def kl_divergences(
    generated: np.ndarray,
    reference: np.ndarray,
    activation: Activation = "softmax",
) -> np.ndarray:
    """KL(reference ‖ generated) of each pair, in nats.

    Σ p_ref (ln p_ref - ln(p_gen + 1e-6)) over classes. With "sigmoid" the same sum over
    probabilities that do not add up to 1, which is no divergence and can be negative.

    Args:
        generated, reference: (n, K) logits, row by row of one pair.
    """
    generated, reference = generated.astype(np.float64), reference.astype(np.float64)
    if activation == "softmax":
        log_reference = log_softmax(reference)
    else:
        # ln of a sigmoid, without overflow on either side.
        log_reference = -np.logaddexp(0.0, -reference)
    p_generated, p_reference = probabilities(generated, activation), np.exp(log_reference)
    return (p_reference * (log_reference - np.log(p_generated + KL_EPSILON))).sum(axis=1)


# --- inception score


class InceptionScore:
    """exp(mean KL of each clip's classes to those of its split), 1 to K; the mean over 10 splits.

    Clips are shuffled by `RandomState(2020)` (Salimans et al. 2016; torch-fidelity).

    Args:
        logits: (n, K), in the order of the sorted file names; n of at least the number of splits.
    """

    def __init__(self, logits: np.ndarray | DiskRows) -> None:
        self.logits = logits
        n = len(logits)
        order = np.random.RandomState(INCEPTION_SEED).permutation(n)
        ends = [(split + 1) * n // INCEPTION_SPLITS for split in range(INCEPTION_SPLITS)]
        self._sizes = np.diff(ends, prepend=0)
        self._split_of = np.empty(n, dtype=int)
        self._split_of[order] = np.repeat(np.arange(INCEPTION_SPLITS), self._sizes)

    @property
    def cost(self) -> float:
        """About how many floating point operations a score takes."""
        return 10.0 * math.prod(self.logits.shape)

    def of(self, counts: np.ndarray | None = None) -> tuple[float, float]:
        """(mean, population standard deviation) over splits; `counts`: how often a clip counts."""
        counts = np.ones(len(self.logits), dtype=int) if counts is None else counts
        return next(self.of_each([counts]))

    def of_each(self, resamples: Iterable[np.ndarray]) -> Iterator[tuple[float, float]]:
        """The same for each of several counts, in which all clips are read only now and then."""
        resamples = iter(resamples)
        while some := list(islice(resamples, RESAMPLES_IN_A_PASS)):
            yield from self._in_a_pass(some)

    def _in_a_pass(self, resamples: list[np.ndarray]) -> Iterator[tuple[float, float]]:
        n_clips, n_classes = self.logits.shape
        # A clip that counts twice takes two places, one after the other; a place has its split.
        places = [np.concatenate([[0], np.cumsum(counts)]) for counts in resamples]
        sums = np.zeros((len(resamples), INCEPTION_SPLITS, n_classes))
        negative_entropies = np.zeros((len(resamples), INCEPTION_SPLITS))
        for block in blocks(n_clips):
            log_p = log_softmax(self.logits[block])
            p = np.exp(log_p)
            negative_entropy = (p * log_p).sum(axis=1)
            for i, (counts, place) in enumerate(zip(resamples, places, strict=True)):
                splits = self._split_of[place[block.start] : place[block.stop]]
                clips = np.repeat(np.arange(len(p)), counts[block])
                times = np.bincount(splits * len(p) + clips, minlength=INCEPTION_SPLITS * len(p))
                times = times.reshape(INCEPTION_SPLITS, len(p)).astype(np.float64)
                sums[i] += times @ p
                negative_entropies[i] += times @ negative_entropy
        mean_p = sums / self._sizes[:, None]
        # The mean KL to the split's mean: its entropy less the mean entropy of the clips.
        entropies = -(mean_p * np.log(np.maximum(mean_p, np.finfo(np.float64).tiny))).sum(axis=2)
        scores = np.exp(negative_entropies / self._sizes + entropies)
        yield from zip(scores.mean(axis=1).tolist(), scores.std(axis=1).tolist(), strict=True)


# --- CLAP score


def clap_scores(sounds: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(n,) cosine of each sound's embedding (n, D) and its text's (n, D), -1 to 1."""
    sounds, texts = sounds.astype(np.float64), texts.astype(np.float64)
    lengths = np.linalg.norm(sounds, axis=1) * np.linalg.norm(texts, axis=1)
    return (sounds * texts).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


# --- attention


def attention_entropy(attention: np.ndarray) -> float:
    """Normalised entropy of a word's attention (h, w): 0 at one place, 1 evenly everywhere.

    The entropy of its shares of the places, over that of as many equal shares.
    """
    shares = attention.astype(np.float64).ravel() / attention.sum(dtype=np.float64)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / math.log(attention.size))


def level_at_peak(attention: np.ndarray, log_mel: np.ndarray) -> float:
    """Level of a log-mel (h, w) at the peak of a word's attention (h, w), as a rank from 0 to 1.

    The share of places that are softer there, equals counted by half: 0.5 is chance, 1 the loudest.
    """
    level = log_mel.ravel()[attention.argmax()]
    return float(((log_mel < level).mean() + (log_mel <= level).mean()) / 2)


# --- kernel audio distance


class KernelDistance:
    """KAD: 100 times the unbiased squared maximum mean discrepancy.

    The kernel is Gaussian, exp(-|x - y|² / 2σ²), and σ the median distance between two clips of the
    reference. Unbiased: near 0, so sometimes below it, for two sets of one kind, however small.

    Args:
        generated, reference: (m, D) and (n, D) embeddings, at least two of each.

    Raises:
        ValueError: the median distance is zero: half of the reference is one sound.
    """

    def __init__(self, generated: np.ndarray, reference: np.ndarray) -> None:
        self.generated, self.reference = (x.astype(np.float64) for x in (generated, reference))
        self.bandwidth = median_distance(self.reference)
        if not self.bandwidth > 0:
            raise ValueError("half of the reference or more is one sound")

    @property
    def cost(self) -> float:
        """About how many floating point operations a distance takes."""
        m, n = len(self.generated), len(self.reference)
        return 4.0 * (m * m + n * n + m * n)

    def of(self) -> float:
        """For all clips."""
        ones = (np.ones((1, len(rows))) for rows in (self.generated, self.reference))
        return float(self.of_each(*ones)[0])

    def of_each(self, generated_counts: np.ndarray, reference_counts: np.ndarray) -> np.ndarray:
        """(R,) for resamples (R, m) and (R, n) in which each clip is so many times.

        A block of the kernels is in memory at once, for all resamples.
        """
        across = self._sums(self.generated, generated_counts, self.reference, reference_counts) / (
            generated_counts.sum(axis=1) * reference_counts.sum(axis=1)
        )
        within = (
            self._mean_of_others(self.generated, generated_counts),
            self._mean_of_others(self.reference, reference_counts),
        )
        return KERNEL_SCALE * (sum(within) - 2 * across)

    def _sums(
        self, x: np.ndarray, x_counts: np.ndarray, y: np.ndarray, y_counts: np.ndarray
    ) -> np.ndarray:
        """(R,) sums of the kernel over all pairs of x and y."""
        sums = np.zeros(len(x_counts))
        for block in blocks(len(x)):
            kernel = np.exp(-squared_distances(x[block], y) / (2 * self.bandwidth**2))
            sums += ((x_counts[:, block] @ kernel) * y_counts).sum(axis=1)
        return sums

    def _mean_of_others(self, x: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(R,) means over pairs of different clips; a clip drawn twice is no such pair."""
        n_same = (counts**2).sum(axis=1)
        n_pairs = counts.sum(axis=1) ** 2 - n_same
        # A clip's kernel with itself is 1. Where one clip alone was drawn there are no pairs.
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n_pairs, (self._sums(x, counts, x, counts) - n_same) / n_pairs, np.nan)


def median_distance(x: np.ndarray) -> float:
    """The median of the distances between two different rows of (n, D)."""
    n = len(x)
    found, n_found = np.empty(n * (n - 1) // 2), 0
    for block in blocks(n):
        squared = squared_distances(x[block], x)
        for row, index in zip(squared, range(block.start, block.stop), strict=True):
            n_others = n - index - 1
            found[n_found : n_found + n_others] = row[index + 1 :]
            n_found += n_others
    return float(np.median(np.sqrt(found, out=found), overwrite_input=True))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m, D), (n, D) -> (m, n), never negative."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * (x @ y.T)
    return np.maximum(squared, 0.0)
