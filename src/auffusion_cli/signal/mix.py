"""A bed under a recording: of its length, level by loudness, ducked and faded. No torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.signal.meters import loudness_lufs

BLOCK_S = 0.01
SPEAKS_DB = -25.0
"""Level from which a block counts as speech, relative to the loudest tenth of a recording."""
HOLD_BLOCKS = 25
"""The bed stays low so long before and after speech: over the pauses between words, too."""
RAMP_BLOCKS = 31
"""It takes 0.3 s to go down or up; odd, so that the ramp has a middle."""
MAX_JOIN_S = 1.0
"""Of the end of a bed and its start, where it is played again."""


def lay_under(
    source: np.ndarray,
    bed: np.ndarray,
    rate_hz: int,
    *,
    below_db: float,
    duck_db: float,
    fade_s: float,
) -> np.ndarray:
    """The bed (C, M) as it sounds under `source` (C, N), (C, N) float64, both at `rate_hz`.

    Args:
        below_db: loudness of the bed in the pauses, below that of the source.
        duck_db: so much softer is it while the source speaks.
        fade_s: the bed's fades, in at the start and out at the end.
    """
    n = source.shape[-1]
    bed = fit_length(bed.astype(np.float64), n, round(MAX_JOIN_S * rate_hz))
    loudness = loudness_lufs(source, rate_hz), loudness_lufs(bed, rate_hz)
    gain_db = loudness[0] - below_db - loudness[1] if min(loudness) > -math.inf else 0.0
    gains_db = gain_db - duck_db * _speaks(source, rate_hz)
    bed = bed * 10 ** (gains_db / 20)
    n_fade = min(round(fade_s * rate_hz), n // 2)
    fade = 0.5 - 0.5 * np.cos(np.pi * np.arange(n_fade) / max(n_fade, 1))
    bed[:, :n_fade] *= fade
    bed[:, n - n_fade :] *= fade[::-1]
    return bed


def fit_length(sound: np.ndarray, n: int, n_join: int) -> np.ndarray:
    """(C, M) -> (C, n): cut, or played again with its end and start joined by equal powers."""
    m = sound.shape[-1]
    if m >= n:
        return sound[:, :n]
    n_join = min(n_join, m // 4)
    fade_in = np.sin(np.pi / 2 * np.arange(n_join) / max(n_join, 1))
    join = sound[:, m - n_join :] * np.sqrt(1 - fade_in**2) + sound[:, :n_join] * fade_in
    first = sound[:, : m - n_join]
    again = np.concatenate([join, first[:, n_join:]], axis=1)
    n_times = -(-(n - first.shape[-1]) // again.shape[-1])
    return np.concatenate([first, np.tile(again, n_times)], axis=1)[:, :n]


def _speaks(source: np.ndarray, rate_hz: int) -> np.ndarray:
    """(C, N) -> (N,) from 0 in pauses to 1 in speech, with ramps that begin before it."""
    n, n_block = source.shape[-1], round(BLOCK_S * rate_hz)
    power = np.add.reduceat((source**2).mean(axis=0), np.arange(0, n, n_block)) / n_block
    loudest = np.quantile(power, 0.9)
    speaks = (power > loudest * 10 ** (SPEAKS_DB / 10)) & (power > 0)
    reach = HOLD_BLOCKS + RAMP_BLOCKS // 2
    held = sliding_window_view(np.pad(speaks, reach, mode="edge"), 2 * reach + 1).any(axis=1)
    padded = np.pad(held.astype(float), RAMP_BLOCKS // 2, mode="edge")
    ramps = sliding_window_view(padded, RAMP_BLOCKS).mean(axis=1)
    return np.interp(np.arange(n), (np.arange(len(ramps)) + 0.5) * n_block, ramps)
