"""What is wrong with a sound, whatever it should be of: silence, clipping, a tone, plain noise.

The thresholds were chosen so that few real recordings of sound effects exceed them
(`recipes/embedded/measure_guards.py`). No torch.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.signal.filters import RUMBLE_HZ, low_cut

Fault = Literal["silent", "clipped", "a plain tone", "plain noise"]
WELCOME: dict[str, tuple[str, ...]] = {
    "a plain tone": (
        *("alarm", "beep", "bleep", "buzz", "dial", "drone", "feedback", "flute", "hum", "morse"),
        *("note", "organ", "phone", "pitch", "sine", "siren", "synth", "telephone", "tone"),
        *("tuning", "whine", "whistl"),
    ),
    "plain noise": (
        *("air", "applau", "breath", "clap", "crowd", "downpour", "drizzl", "engine", "fan"),
        *("fry", "hiss", "jet", "noise", "ocean", "radio", "rain", "river", "rocket", "sand"),
        *("sea", "shower", "sizzl", "snow", "spray", "static", "steam", "storm", "stream", "surf"),
        *("tv", "vacuum", "water", "wave", "wind"),
    ),
}
"""Fault -> beginnings of words of a prompt that asks for just that."""

AUDIBLE_SHARE = 0.5
FRAME_SAMPLES = 1024
SILENT_PEAK = 1e-3
"""-60 dB of full scale."""
FLAT_SAMPLES = 4
"""As many neighbouring samples at the very peak are a clipped one."""
CLIPPED_SHARE = 0.002
"""Of all samples."""
AUDIBLE_DB = -40.0
"""Frames further below the loudest one say nothing."""
MIN_FRAMES = 8
TONE_SHARE = 0.95
"""Of the energy in the bins around the strongest one, the same in all frames."""
TONE_SWING_DB = 4.0
"""Deviation of the frames' levels: a drum's decays."""
NOISE_FLATNESS_DB = -4.0
"""Geometric over arithmetic mean of the spectrum's bands, of white noise nearly 0 dB."""
NOISE_SWING_DB = 1.5
"""Deviation of the frames' levels."""


def rumbles(waveform: np.ndarray, rate_hz: int) -> bool:
    """Whether (N,) or (C, N) samples are for the most part below `RUMBLE_HZ`."""
    audible = low_cut(np.atleast_2d(waveform), RUMBLE_HZ, rate_hz)
    return bool(np.square(audible).sum() < AUDIBLE_SHARE * np.square(waveform).sum())


def find_fault(waveform: np.ndarray, prompt: str) -> Fault | None:
    """The first fault of (N,) samples, full scale at -1..1, that `prompt` does not ask for; None
    for a sound without any.
    """
    fault = _fault_of(waveform)
    words = re.findall(r"\w+", prompt.lower())
    asked_for = fault is not None and any(w.startswith(WELCOME.get(fault, ("\0",))) for w in words)
    return None if asked_for else fault


def _fault_of(waveform: np.ndarray) -> Fault | None:
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak < SILENT_PEAK:
        return "silent"
    if _clipped_share(waveform, peak) > CLIPPED_SHARE:
        return "clipped"
    power = _audible_frames(waveform)
    if len(power) < MIN_FRAMES:
        return None
    swing_db = float((10 * np.log10(power.sum(axis=1))).std())
    if swing_db < TONE_SWING_DB and _tone_share(power) > TONE_SHARE:
        return "a plain tone"
    if swing_db < NOISE_SWING_DB and _flatness_db(power) > NOISE_FLATNESS_DB:
        return "plain noise"
    return None


def _clipped_share(waveform: np.ndarray, peak: float) -> float:
    """Share of the samples in runs at the positive or the negative peak."""
    if len(waveform) < FLAT_SAMPLES:
        return 0.0
    at_peak = sum(
        np.count_nonzero(sliding_window_view(sign * waveform > 0.9995 * peak, FLAT_SAMPLES).all(1))
        for sign in (1, -1)
    )
    return at_peak / len(waveform)


def _audible_frames(waveform: np.ndarray) -> np.ndarray:
    """(T, F) power of the frames that are not far below the loudest, half overlapping."""
    if len(waveform) < FRAME_SAMPLES:
        return np.zeros((0, 0))
    frames = sliding_window_view(waveform, FRAME_SAMPLES)[:: FRAME_SAMPLES // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES))) ** 2
    level = power.sum(axis=1)
    return power[level > level.max() * 10 ** (AUDIBLE_DB / 10)]


def _tone_share(power: np.ndarray) -> float:
    """Share of the energy around the strongest bin."""
    total = power.sum(axis=0)
    middle = int(total.argmax())
    return float(total[max(middle - 2, 0) : middle + 3].sum() / total.sum())


def _flatness_db(power: np.ndarray) -> float:
    """Spectral flatness of (T, F) power in 32 bands of equal width."""
    bands = power.mean(axis=0)[1:].reshape(32, -1).mean(axis=1)
    return float(10 * np.log10(np.exp(np.log(bands + 1e-20).mean()) / bands.mean()))
