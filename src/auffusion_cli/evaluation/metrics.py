"""The metrics besides the Fréchet distance, as the field computes them, in float64.

The definitions are those of `audioldm_eval` up to commit 70fc9cd, which the papers quote; KAD is
that of Chung et al. 2025 (arXiv 2502.15602) and its toolkit.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Activation = Literal["softmax", "sigmoid"]

KL_EPSILON = 1e-6
INCEPTION_SPLITS = 10
INCEPTION_SEED = 2020
KERNEL_SCALE = 100.0
"""KAD is told in hundredths, as its paper does."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, K) -> (n, K) float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


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
        log_reference, p_generated = log_softmax(reference), np.exp(log_softmax(generated))
    else:
        # ln of a sigmoid, without overflow on either side.
        log_reference = -np.logaddexp(0.0, -reference)
        p_generated = np.exp(-np.logaddexp(0.0, -generated))
    p_reference = np.exp(log_reference)
    return (p_reference * (log_reference - np.log(p_generated + KL_EPSILON))).sum(axis=1)


# --- inception score


class InceptionScore:
    """exp(mean KL of each clip's classes to those of its split), 1 to K; the mean over 10 splits.

    Clips are shuffled by `RandomState(2020)` (Salimans et al. 2016; torch-fidelity).

    Args:
        logits: (n, K), in the order of the sorted file names; n of at least the number of splits.
    """

    def __init__(self, logits: np.ndarray) -> None:
        log_p = log_softmax(logits)
        self.p = np.exp(log_p)
        self.negative_entropy = (self.p * log_p).sum(axis=1)
        self.order = np.random.RandomState(INCEPTION_SEED).permutation(len(log_p))

    @property
    def cost(self) -> float:
        """About how many floating point operations a score takes."""
        return 10.0 * self.p.size

    def of(self, counts: np.ndarray | None = None) -> tuple[float, float]:
        """(mean, population standard deviation) over splits; `counts`: how often a clip counts."""
        n = len(self.p)
        rows = np.arange(n) if counts is None else np.repeat(np.arange(n), counts)
        rows = rows[self.order]
        scores = []
        for split in range(INCEPTION_SPLITS):
            part = rows[split * n // INCEPTION_SPLITS : (split + 1) * n // INCEPTION_SPLITS]
            mean_p = self.p[part].mean(axis=0)
            # The mean KL to the split's mean: its entropy less the mean entropy of the clips.
            entropy = -(mean_p * np.log(np.maximum(mean_p, np.finfo(np.float64).tiny))).sum()
            scores.append(math.exp(self.negative_entropy[part].mean() + entropy))
        return float(np.mean(scores)), float(np.std(scores))


# --- CLAP score


def clap_scores(sounds: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(n,) cosine of each sound's embedding (n, D) and its text's (n, D), -1 to 1."""
    sounds, texts = sounds.astype(np.float64), texts.astype(np.float64)
    lengths = np.linalg.norm(sounds, axis=1) * np.linalg.norm(texts, axis=1)
    return (sounds * texts).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


# --- attention


def attention_entropy(attention: np.ndarray) -> float:
    """How spread out a word's attention (h, w) is: 0 at one place, 1 evenly everywhere.

    The entropy of its shares of the places, over that of as many equal shares.
    """
    shares = attention.astype(np.float64).ravel() / attention.sum(dtype=np.float64)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / math.log(attention.size))


def level_at_peak(attention: np.ndarray, log_mel: np.ndarray) -> float:
    """How loud the sound (h, w) is where a word's attention (h, w) is greatest: a rank, 0 to 1.

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

    Raises ValueError where the median distance is zero: half of the reference is one sound.
    """

    def __init__(self, generated: np.ndarray, reference: np.ndarray) -> None:
        generated, reference = generated.astype(np.float64), reference.astype(np.float64)
        within_reference = squared_distances(reference, reference)
        between = np.triu_indices(len(reference), k=1)
        self.bandwidth = float(np.median(np.sqrt(within_reference[between])))
        if not self.bandwidth > 0:
            raise ValueError("half of the reference or more is one sound")
        self.kernels = [
            np.exp(-squared / (2 * self.bandwidth**2))
            for squared in (
                squared_distances(generated, generated),
                within_reference,
                squared_distances(generated, reference),
            )
        ]

    @property
    def cost(self) -> float:
        """About how many floating point operations a distance takes."""
        return 4.0 * sum(kernel.size for kernel in self.kernels)

    def of(
        self, generated_counts: np.ndarray | None = None, reference_counts: np.ndarray | None = None
    ) -> float:
        """For all clips, or for resamples in which each clip is so many times."""
        among_generated, among_reference, across = self.kernels
        m, n = across.shape
        generated_counts = np.ones(m) if generated_counts is None else generated_counts
        reference_counts = np.ones(n) if reference_counts is None else reference_counts
        cross = generated_counts @ across @ reference_counts
        cross /= generated_counts.sum() * reference_counts.sum()
        within = [
            _mean_of_others(among_generated, generated_counts),
            _mean_of_others(among_reference, reference_counts),
        ]
        return float(KERNEL_SCALE * (sum(within) - 2 * cross))


def _mean_of_others(kernel: np.ndarray, counts: np.ndarray) -> float:
    """Mean of the kernel over pairs of different clips; a clip drawn twice is no such pair."""
    n_pairs = counts.sum() ** 2 - (counts**2).sum()
    if n_pairs == 0:  # one clip alone was drawn
        return math.nan
    return float(counts @ kernel @ counts - (counts**2) @ kernel.diagonal()) / float(n_pairs)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m, D), (n, D) -> (m, n), never negative."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * (x @ y.T)
    return np.maximum(squared, 0.0)
