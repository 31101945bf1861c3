"""One channel, or more than two -> stereo. No torch.

Of one channel it is an image that a mono sum undoes (Schroeder 1958). The side signal is the middle
through all-passes: as loud in every frequency, other in phase. Left is middle plus side and right
middle minus side, so that their mean is the middle, scaled.
"""

from __future__ import annotations

import math

import numpy as np

from auffusion_cli.signal.filters import apply_filter

CROSSOVER_HZ = 200.0
"""The side has half its amplitude here; below it the two channels are more and more the same."""
DELAY_S = 2.3e-3
"""Of the side, so that it has nothing of the middle's own samples: both channels are as loud."""
ALLPASSES = ((1.7e-3, 0.5), (3.1e-3, -0.5), (5.3e-3, 0.5))
"""Delay in seconds and coefficient of each."""
SIDE = 0.7
"""Of the middle's amplitude: the channels' correlation is (1 - 0.7^2) / (1 + 0.7^2) = 0.34."""
TAIL_S = 0.1
"""All-passes and crossover have died away by then, to below -100 dB."""
HALF = math.sqrt(0.5)
"""Of the power."""
FOLDED = {
    3: ((1, 0, HALF), (0, 1, HALF)),
    4: ((1, 0, HALF, 0), (0, 1, 0, HALF)),
    5: ((1, 0, HALF, HALF, 0), (0, 1, HALF, 0, HALF)),
    6: ((1, 0, HALF, 0, HALF, 0), (0, 1, HALF, 0, 0, HALF)),
}
"""Number of channels -> their gains in left and right, before scaling (ITU-R BS.775-4, annex 4).

In the order of WAVE: left, right, centre, low frequencies, which stereo leaves out, left and right
surround; of four channels the last two are surrounds.
"""


def widen(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """(1, N) samples -> (2, N) float64 of the same power; their mean is `waveform`, softer."""

    def response(z1: np.ndarray) -> np.ndarray:
        gains = z1 ** round(DELAY_S * rate_hz)
        for delay_s, coefficient in ALLPASSES:
            delayed = z1 ** round(delay_s * rate_hz)
            gains *= (delayed - coefficient) / (1 - coefficient * delayed)
        # Two one-pole high-passes by the bilinear transform: half the amplitude at the crossover.
        k = math.tan(math.pi * CROSSOVER_HZ / rate_hz)
        return gains * ((1 - z1) / ((1 + k) - (1 - k) * z1)) ** 2

    side = SIDE * apply_filter(waveform, response, round(TAIL_S * rate_hz))
    both = np.concatenate([waveform + side, waveform - side])
    return both / math.sqrt(1 + SIDE**2)


def fold_down(waveform: np.ndarray) -> np.ndarray:
    """(C, N) samples of more than two channels -> (2, N), which cannot clip where they do not.

    Of more than six channels, whose places differ, both are the mean.
    """
    n_channels = len(waveform)
    gains = np.array(FOLDED.get(n_channels, np.ones((2, n_channels))))
    return gains / gains[0].sum() @ waveform
