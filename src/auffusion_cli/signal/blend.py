"""New sound blended into a recording: its level, its bands, its cross-fades. No torch.

Samples are (n, C) float, and begin at the sample `first` of the clip that they are a part of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auffusion_cli.requests.masks import Span
from auffusion_cli.signal.loudness import SILENT, Ceiling

EDGE_SHARE, MIN_EDGE_HZ = 0.05, 30.0
"""A band's edges fall off over this share of their frequency, and no steeper than that."""


@dataclass(frozen=True)
class Cut:
    """A part of the clip that is replaced; in seconds from the clip's start."""

    start_s: float
    end_s: float
    fade_in_s: float
    fade_out_s: float

    def place(self, first: int, n: int, rate_hz: int) -> slice:
        """The part of `n` samples that begin at `first` which the cut covers; it may be empty."""
        start, end = round(self.start_s * rate_hz), round(self.end_s * rate_hz)
        start = max(start - first, 0)
        return slice(start, max(min(end - first, n), start))


def mix(
    old: np.ndarray,
    new: np.ndarray,
    cuts: Sequence[Cut],
    bands: Sequence[Span],
    first: int,
    rate_hz: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """(start sample in the clip, (n, C) samples) of each cut, `new` cross-faded into `old`.

    The phases of the two are unrelated, so that the cross-fade keeps their power rather than their
    sum.
    """
    old_band, new_band = (in_bands(x, bands, rate_hz) for x in (old, new[: len(old)]))
    for cut in cuts:
        part = cut.place(first, len(old), rate_hz)
        if (n := part.stop - part.start) == 0:
            continue
        angle = np.full(n, np.pi / 2)
        # A short cut is faded up to its middle.
        n_in = min(round(cut.fade_in_s * rate_hz), n // 2 if cut.fade_out_s else n)
        n_out = min(round(cut.fade_out_s * rate_hz), n // 2 if cut.fade_in_s else n)
        angle[:n_in] = (np.arange(n_in) + 0.5) / n_in * np.pi / 2 if n_in else 0
        if n_out:
            angle[-n_out:] = (np.arange(n_out)[::-1] + 0.5) / n_out * np.pi / 2
        gain_old, gain_new = np.cos(angle)[:, None], np.sin(angle)[:, None]
        mixed = old[part] + (gain_old - 1) * old_band[part] + gain_new * new_band[part]
        yield first + part.start, mixed


def gains_under(
    ceiling: Ceiling, new: np.ndarray, cuts: Sequence[Cut], first: int, rate_hz: int
) -> np.ndarray:
    """(n,) gains that keep `new` below `ceiling` within the cuts.

    Between cuts they lead from one to the other: nothing of that is used, but a jump would spread
    where bands are filtered.
    """
    places, gains = [], []
    for cut in cuts:
        part = cut.place(first, len(new), rate_hz)
        if part.start < part.stop:
            places.append(np.arange(part.start, part.stop))
            gains.append(ceiling.gains(new[part]))
    if not places:
        return np.ones(len(new))
    return np.interp(np.arange(len(new)), np.concatenate(places), np.concatenate(gains))


def matching_gains(
    old: np.ndarray,
    new: np.ndarray,
    free: np.ndarray,
    bands: Sequence[Span],
    rate_hz: int,
    default: float,
) -> np.ndarray:
    """(C,) gains that give samples `new` (n, 1) the level of each channel of `old` (n, C) where
    both are known.

    So the new sound is panned like the recording around it. One of as many channels (n, C) has a
    place of its own, and gets the level of all of them together. Where nothing is known, all being
    in the bands and `free` (n,), or the known part is silent, all channels get `default`.
    """
    changes = free[:, None]
    old_known = old - changes * in_bands(old, bands, rate_hz)
    new_known = new - changes * in_bands(new, bands, rate_hz)
    is_mono = new.shape[1] == 1
    old_level = np.sqrt((old_known**2).mean(axis=0 if is_mono else None))
    new_level = np.sqrt((new_known**2).mean())
    if old_level.max() < SILENT or new_level < SILENT:
        return np.full(old.shape[1], default)
    return np.broadcast_to(old_level / new_level, old.shape[1])


def in_bands(samples: np.ndarray, bands: Sequence[Span], rate_hz: int) -> np.ndarray:
    """(n, C) -> its part within the bands, in phase with it; no bands are all frequencies.

    The edges fall off inside the band, so that what lies outside of it stays.
    """
    if not bands:
        return samples
    n = 2 ** math.ceil(math.log2(2 * len(samples)))  # with silence behind, so that no end wraps
    hz = np.fft.rfftfreq(n, 1 / rate_hz)
    gain = np.zeros(len(hz))
    for band in bands:
        rise = _edge(hz - band.start, band.start, band) if band.start > 0 else 1.0
        fall = _edge(band.end - hz, band.end, band) if band.end < rate_hz / 2 else 1.0
        gain = np.maximum(gain, rise * fall)
    spectrum = np.fft.rfft(samples, n, axis=0) * gain[:, None]
    return np.fft.irfft(spectrum, n, axis=0)[: len(samples)]


def _edge(inside_hz: np.ndarray, edge_hz: float, band: Span) -> np.ndarray:
    """A gain that rises from 0 at the edge to 1, `inside_hz` further in."""
    width = min(max(EDGE_SHARE * edge_hz, MIN_EDGE_HZ), (band.end - band.start) / 4)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(inside_hz / width, 0, 1))
