"""The part of a generated window with the sound: from an onset on, faded at its end.

A model always fills the window it was trained on. A shorter sound is a part of that, and its start
is seldom the best one: events begin late, and are cut where the part ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.signal.events import find_events
from auffusion_cli.signal.filters import RUMBLE_HZ, low_cut

BLOCK_S = 0.01
ACTIVE_DB = -35.0
"""Level of a block that is part of an event, relative to the loudest block."""
PAUSE_BLOCKS = 10
"""Silence between two events lasts at least this long."""
LEAD_BLOCKS = 2
"""Kept before an onset, so that its attack is whole."""
FADE_IN_S = 0.002
FADE_SHARE, MAX_FADE_S = 0.1, 0.2
"""The end is faded out over this share of the sound, and no longer than that."""
PEAK = 10 ** (-1 / 20)
"""-1 dB of full scale."""


@dataclass(frozen=True)
class Part:
    """A part of a waveform, completed by silence where it reaches beyond the end."""

    start: int
    n_samples: int

    def of(self, values: np.ndarray, hop: int = 1, fill: float = 0.0) -> np.ndarray:
        """The part of (..., N) samples, or with a `hop` of as many columns, filled at the end."""
        start, stop = self.start // hop, -(-(self.start + self.n_samples) // hop)
        part = values[..., start:stop]
        missing = np.full((*part.shape[:-1], stop - start - part.shape[-1]), fill, part.dtype)
        return np.concatenate([part, missing], axis=-1)


def find_part(waveform: np.ndarray, n_samples: int, rate_hz: int) -> Part:
    """The `n_samples` of (N,) that begin at an onset and hold the most energy.

    The part begins at a whole block of 10 ms. Of parts with about the same energy it is the first.
    """
    if not waveform.any():
        return Part(0, n_samples)
    n_block = round(BLOCK_S * rate_hz)
    n_blocks = math.ceil(n_samples / n_block)
    begins = np.arange(0, len(waveform), n_block)
    squares = np.add.reduceat(np.square(waveform, dtype=np.float64), begins)
    power = squares / np.diff(begins, append=len(waveform))
    active = power > power.max() * 10 ** (ACTIVE_DB / 10)
    # An onset is an active block after a pause, which all before the start is.
    recent = np.pad(active, (PAUSE_BLOCKS, 0))[:-1]
    was_active = sliding_window_view(recent, PAUSE_BLOCKS).any(axis=1)
    onsets = np.flatnonzero(active & ~was_active)
    starts = np.maximum(onsets - LEAD_BLOCKS, 0)
    total = np.pad(power, (1, n_blocks)).cumsum()  # silence follows
    energy = total[starts + n_blocks] - total[starts]
    best = np.flatnonzero(energy >= 0.9 * energy.max())[0]
    return Part(int(starts[best]) * n_block, n_samples)


def find_event(waveform: np.ndarray, n_samples: int, rate_hz: int) -> Part:
    """The event of (N,) with the most energy, from its onset to its end, or its first `n_samples`.

    Of events with about the same energy it is the first. Silence is kept as `find_part` keeps it,
    and rumble makes no event.
    """
    audible = low_cut(waveform[np.newaxis], RUMBLE_HZ, rate_hz)
    parts = [Part(first, min(n, n_samples)) for first, n in find_events(audible, rate_hz)]
    if not parts:
        return find_part(waveform, n_samples, rate_hz)
    energy = [np.square(part.of(audible)).sum() for part in parts]
    return parts[int(np.flatnonzero(np.array(energy) >= 0.9 * max(energy))[0])]


def fade_s(duration_s: float) -> float:
    """How long the fade is at the end of a trimmed sound of `duration_s`."""
    return min(FADE_SHARE * duration_s, MAX_FADE_S)


def trim(waveform: np.ndarray, part: Part, rate_hz: int) -> np.ndarray:
    """`part` of (..., N) samples, faded at its end, its peak at -1 dB of full scale."""
    sound = part.of(waveform)
    n_in = min(round(FADE_IN_S * rate_hz), sound.shape[-1] // 2)
    if part.start > 0 and n_in:
        sound[..., :n_in] *= np.linspace(0, 1, n_in, dtype=sound.dtype)
    # The end of the sound: of the part, or of the waveform where that ends before.
    end = min(sound.shape[-1], waveform.shape[-1] - part.start)
    n_out = min(round(fade_s(sound.shape[-1] / rate_hz) * rate_hz), end)
    if n_out:
        angle = np.linspace(0, math.pi, n_out, dtype=sound.dtype)
        sound[..., end - n_out : end] *= 0.5 + 0.5 * np.cos(angle)
    peak = np.abs(sound).max()
    return sound * (PEAK / peak) if peak > 0 else sound
