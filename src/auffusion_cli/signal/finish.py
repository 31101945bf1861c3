"""A sound, finished: low cut, channels, rate, fades and level, in this order. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from auffusion_cli.requests.finish import Finish
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.filters import low_cut
from auffusion_cli.signal.meters import loudness_lufs, to_db, true_peak
from auffusion_cli.signal.stereo import fold_down, widen

WRAP_S = 0.25
"""Of a loop is put around it, so that filters run through its seam; they have ended by then."""
TOLERANCE_DB = 0.05
JOIN_S = 0.01
"""Over this, what is made above a loop's end becomes what is made above its start."""
Extend = Callable[[np.ndarray, int], tuple[np.ndarray, int]]
"""(C, N) samples, their rate -> what is missing above half of it, (C, N'), and the rate of that."""


@dataclass(frozen=True)
class Finished:
    """A finished sound and its measures."""

    waveform: np.ndarray
    """(C, N) float64, full scale at -1..1."""
    rate_hz: int
    missed_lufs: float | None = None
    """The loudness that the peak allowed, where it is less than was asked for."""


def finish(
    waveform: np.ndarray,
    rate_hz: int,
    asked: Finish,
    *,
    loop: bool = False,
    extend: Extend | None = None,
) -> Finished:
    """Finish (C, N) samples at `rate_hz`; a `loop` has no fades, and stays without a seam.

    `extend` makes what is added above half of `rate_hz`; the rest is the same as without it.
    """
    n_samples = waveform.shape[-1]
    to_hz = asked.rate_hz or rate_hz
    wrap = 0
    if loop:  # as many samples as become a whole number of them at the new rate
        unit = rate_hz // math.gcd(rate_hz, to_hz)
        wrap = -(-round(WRAP_S * rate_hz) // unit) * unit
        waveform = np.pad(waveform, ((0, 0), (wrap, wrap)), mode="wrap")
    waveform = waveform.astype(np.float64)
    if asked.low_cut_hz:
        waveform = low_cut(waveform, asked.low_cut_hz, rate_hz)
    resampled = resample(_with_channels(waveform, rate_hz, asked.channels), rate_hz, to_hz)
    start, n_made = wrap * to_hz // rate_hz, -(-n_samples * to_hz // rate_hz)
    finished = resampled[:, start : start + n_made].copy()
    if extend:
        made, made_hz = extend(waveform, rate_hz)
        made = resample(_with_channels(made, made_hz, asked.channels), made_hz, to_hz)[:, start:]
        if loop:
            _join(made, n_made, min(round(JOIN_S * to_hz), n_made))
        finished += made[:, :n_made]
    if not loop:
        _fade(finished, asked, to_hz)
    gain, missed_lufs = _gain(finished, to_hz, asked)
    return Finished(gain * finished, to_hz, missed_lufs)


def _join(waveform: np.ndarray, n: int, n_join: int) -> None:
    """Fade from what follows the first `n` samples of (C, N) into their start, in place.

    The phases of the two are unrelated, so that their power is kept rather than their sum.
    """
    angle = (np.arange(n_join) + 0.5) / n_join * np.pi / 2
    after = waveform[:, n : n + n_join]
    waveform[:, :n_join] = np.sin(angle) * waveform[:, :n_join] + np.cos(angle) * after


def _with_channels(waveform: np.ndarray, rate_hz: int, channels: int | None) -> np.ndarray:
    if channels == 1:
        return waveform.mean(axis=0, keepdims=True)
    if channels == 2 and len(waveform) == 1:
        return widen(waveform, rate_hz)
    if channels == 2 and len(waveform) > 2:
        return fold_down(waveform)
    return waveform


def _fade(waveform: np.ndarray, asked: Finish, rate_hz: int) -> None:
    """Fade (C, N) samples in place, along half a cosine."""
    n = waveform.shape[-1]
    for fade_s, samples in (
        (asked.fade_in_s, waveform),
        (asked.fade_out_s, waveform[:, ::-1]),
    ):
        n_fade = min(round(fade_s * rate_hz), n)
        samples[:, :n_fade] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(n_fade) / max(n_fade, 1))


def _gain(waveform: np.ndarray, rate_hz: int, asked: Finish) -> tuple[float, float | None]:
    """(gain to the level that is asked for, the loudness reached where that falls short)."""
    if asked.loudness_lufs is None and asked.peak_db is None:
        return 1.0, None
    peak_db = to_db(true_peak(waveform))
    if peak_db == -math.inf:  # silence has no level
        return 1.0, None
    gain_db = asked.ceiling_db - peak_db
    missed_lufs = None
    if asked.loudness_lufs is not None:
        loudness = loudness_lufs(waveform, rate_hz)
        wanted_db = asked.loudness_lufs - loudness if loudness > -math.inf else 0.0
        if wanted_db > gain_db + TOLERANCE_DB:
            missed_lufs = loudness + gain_db
        gain_db = min(wanted_db, gain_db)
    return 10 ** (gain_db / 20), missed_lufs
