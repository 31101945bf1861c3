"""Overlap-add: a function of something long, computed in windows that overlap and joined again.

All sizes are counted along the last axis of the arrays: samples, columns or latent columns.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

OVERLAP_S = 0.16
"""Overlap of neighbouring pieces of a sound or of its spectrogram: longer than the window of a
spectrogram, so that the edges of a piece are faded out."""


def in_windows(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, window: int, overlap: int
) -> np.ndarray:
    """`function` of x (..., n), computed in windows that overlap and are cross-faded.

    `function` may change the length by a constant factor; all else is as if it saw the whole.
    """
    n = x.shape[-1]
    if n <= window:
        return function(x)
    total = weights = ramp = None
    for start in window_starts(n, window, overlap):
        piece = function(x[..., start : start + window])
        factor = Fraction(piece.shape[-1], window)
        if total is None:
            total = np.zeros((*piece.shape[:-1], int(n * factor)), piece.dtype)
            weights = np.zeros(total.shape[-1], piece.dtype)
            ramp = _trapezoid(piece.shape[-1], int(overlap * factor), piece.dtype)
        first = int(start * factor)
        total[..., first : first + len(ramp)] += piece * ramp
        weights[first : first + len(ramp)] += ramp
    return total / weights


def sound_in_windows(
    vocode: Callable[[np.ndarray], np.ndarray], x: np.ndarray, window: int, overlap: int
) -> np.ndarray:
    """Sound (..., samples) of x (..., n), one window laid after the other at equal power.

    A vocoder that has to estimate phases (Griffin-Lim) finds others in each window, and where these
    differ a plain cross-fade is too soft. It is divided by the power that follows from the
    correlation of the two (Fink, Holters and Zölzer, "Signal-matched power-complementary
    cross-fading", 2016). The sign of a window is free, and chosen such that they do not cancel.
    """
    n = x.shape[-1]
    if n <= window:
        return vocode(x)
    pieces = []
    shared, last_end = None, 0  # the end of the last window, still to be cross-faded
    starts = window_starts(n, window, overlap)
    for start, next_start in zip(starts, [*starts[1:], n], strict=True):
        piece = vocode(x[..., start : start + window])
        hop = piece.shape[-1] // window
        if shared is not None:
            # What the last window may overlap by more than it has to is the one before's.
            piece = _cross_fade(shared, piece[..., (last_end - overlap - start) * hop :])
        last_end = start + window
        n_done = piece.shape[-1] - (overlap * hop if next_start < n else 0)
        pieces.append(piece[..., :n_done])
        shared = piece[..., n_done:]
    return np.concatenate(pieces, axis=-1)


def window_starts(n: int, window: int, overlap: int) -> list[int]:
    """Start of each window; the last one ends at n, and so may overlap by more."""
    return [*range(0, n - window, window - overlap), max(n - window, 0)]


def _cross_fade(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(..., n) and (..., m), m >= n -> (..., m): `new`, its first n samples faded in from `old`."""
    n = old.shape[-1]
    begin = new[..., :n]
    power = np.square(old).sum(-1, keepdims=True) * np.square(begin).sum(-1, keepdims=True)
    correlation = (old * begin).sum(-1, keepdims=True) / np.maximum(np.sqrt(power), 1e-12)
    sign = np.where(correlation < 0, -1, 1).astype(new.dtype)
    rise = (np.arange(n, dtype=new.dtype) + 0.5) / n
    fall = 1 - rise
    level = np.sqrt(rise**2 + fall**2 + 2 * np.abs(correlation) * rise * fall)
    mixed = (fall * old + rise * sign * begin) / level
    return np.concatenate([mixed, sign * new[..., n:]], axis=-1)


def _trapezoid(n: int, slope: int, dtype: np.dtype) -> np.ndarray:
    """Weights (n,) that rise over `slope` values, stay at 1, and fall again; none is 0."""
    position = np.arange(n, dtype=dtype) + 0.5
    return np.minimum(np.minimum(position, n - position) / max(slope, 1), 1)
