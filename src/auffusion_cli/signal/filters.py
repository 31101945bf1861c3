"""Linear filters by their frequency response, over sounds of any length. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Response = Callable[[np.ndarray], np.ndarray]
"""z^-1 on the unit circle -> complex gains: a causal filter."""
BLOCK_SAMPLES = 2**18
BUTTERWORTH_Q = (0.5411961, 1.3065630)
"""Of the two sections of a filter of fourth order."""
RUMBLE_HZ = 40.0
"""Below it little is heard, and small loudspeakers give nothing."""
LOW_CUT_TAIL_PERIODS = 15
"""Of the cut-off frequency, after which the impulse response of a low cut has ended."""


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


def low_cut(waveform: np.ndarray, cutoff_hz: float, rate_hz: int) -> np.ndarray:
    """(C, N) samples -> (C, N) float64 without what is below: 3 dB softer at the cut-off, and by
    24 dB more an octave further down (Butterworth, fourth order).

    Nothing is left of a sound whose frequencies are all below it.
    """
    if 2 * cutoff_hz >= rate_hz:
        return np.zeros(waveform.shape)
    k = math.tan(math.pi * cutoff_hz / rate_hz)  # an analogue filter, by the bilinear transform
    first, second = (
        biquad((1, -2, 1), (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k))
        for q in BUTTERWORTH_Q
    )
    n_tail = round(LOW_CUT_TAIL_PERIODS / cutoff_hz * rate_hz)
    return apply_filter(waveform, lambda z1: first(z1) * second(z1), n_tail)
