"""Linear filters by their frequency response, over sounds of any length. No torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Response = Callable[[np.ndarray], np.ndarray]
"""z^-1 on the unit circle -> complex gains: a causal filter."""
BLOCK_SAMPLES = 2**18


def apply_filter(waveform: np.ndarray, response: Response, n_tail: int) -> np.ndarray:
    """(C, N) samples -> (C, N) float64, filtered from silence on (overlap-add).

    `n_tail` is the number of samples after which the filter's impulse response has ended.
    """
    n = waveform.shape[-1]
    n_block = min(n, BLOCK_SAMPLES)
    n_fft = 1 << (n_block + n_tail - 1).bit_length()
    gains = response(np.exp(-2j * np.pi * np.arange(n_fft // 2 + 1) / n_fft))
    filtered = np.zeros((len(waveform), n + n_fft))
    for start in range(0, n, n_block):
        part = np.fft.rfft(waveform[:, start : start + n_block], n_fft)
        filtered[:, start : start + n_fft] += np.fft.irfft(part * gains, n_fft)
    return filtered[:, :n]


def biquad(b: tuple[float, float, float], a: tuple[float, float, float]) -> Response:
    """A second-order filter of coefficients b0..b2 over a0..a2."""

    def response(z1: np.ndarray) -> np.ndarray:
        return (b[0] + z1 * (b[1] + z1 * b[2])) / (a[0] + z1 * (a[1] + z1 * a[2]))

    return response
