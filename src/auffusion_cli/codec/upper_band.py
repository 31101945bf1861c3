"""A sound of 16 kHz -> what it may have had above 8 kHz, at 48 kHz.

A small network tells from the levels of the bands below how loud the bands above are. They are
filled with the spectrum below, moved up, which has the sound's own attacks and partials, and with
noise (spectral band replication: Dietz et al., 112th AES Convention, 2002). No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.signal.audio import resample

SAMPLE_RATE_HZ = 48_000
MIN_RATE_HZ, FULL_RATE_HZ = 16_000, 40_000
"""Rates from the first on, below the second, can be extended; from that on there is no need to."""
WINDOW_SAMPLES, HOP_SAMPLES = 512, 256
"""Short, so that what begins suddenly does so above 8 kHz as well."""
LOW_EDGES = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 19, 22, 26, 30, 35, 40, 46, 52, 58, 64, 70, 77),
)
"""Of the bands that are known, in bins of 93.75 Hz: up to 7.2 kHz, where resampling from 16 kHz
begins to take away."""
HIGH_EDGES = tuple(np.linspace(77, 213, 21).round().astype(int).tolist())
"""Of the bands that are made, up to 20 kHz."""
N_REFERENCE = 5
"""The highest of the known bands, from 4.9 kHz: the network's levels are relative to theirs."""
DECIBELS = 10.0
"""The unit of the network's levels."""
RANGE_DB = 90.0
"""What is softer than this below a sound's loudest band is silence."""
LOWEST_DB = -120.0
"""Of a bin's power: far below the last of 24 bits."""
KERNEL, DILATIONS = 3, (1, 2, 4, 8)
"""Of the network's convolutions, in hops."""
SOURCE_BINS = 34
"""The bins below `HIGH_EDGES` that are moved up, again and again. An even number: then a move of
all of them leaves the phases of successive windows as they follow each other."""
NOISE = 0.4
"""The share of the power that is noise."""
OFFSET_DB = 0.3
"""Of a bin, in decibels, from the median of a band's level, which the network tells, to its mean
power, which is what noise is made with."""
BLOCK_FRAMES = 2048


def network_input(low_db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, n_low) levels -> (T, n_low + 1) what the network sees, (T, 1) the reference in dB.

    Levels relative to those of the highest known bands, and these relative to the loudest: the same
    for a sound that is turned up.
    """
    peak_db = low_db.max()
    low_db = np.maximum(low_db, peak_db - RANGE_DB)
    reference_db = low_db[:, -N_REFERENCE:].mean(axis=1, keepdims=True)
    seen = np.concatenate([low_db - reference_db, reference_db - peak_db], axis=1)
    return seen / DECIBELS, reference_db


@dataclass(frozen=True)
class UpperBand:
    """The network, and the sound that is made by it."""

    name: ClassVar[str] = "upper-band"
    version: ClassVar[str] = "1"
    """Of network and synthesis; recorded with a sound, as another gives other samples."""
    tensors: Mapping[str, np.ndarray]
    """float32; of convolutions over time, as torch stores them."""

    def __call__(self, waveform: np.ndarray, rate_hz: int, noise: np.ndarray) -> np.ndarray:
        """(C, N) samples at `rate_hz` -> (C, N') at 48 kHz: what is missing above that rate's half.

        `noise` (M,) is white, M >= N'; the same for all channels, so that what is in the middle
        stays there.
        """
        made = np.stack(
            [self._made(row, noise) for row in resample(waveform, rate_hz, SAMPLE_RATE_HZ)]
        )
        # What resampling from that rate leaves a place for, and nothing else.
        kept = resample(resample(made, SAMPLE_RATE_HZ, rate_hz), rate_hz, SAMPLE_RATE_HZ)
        return made - kept[:, : made.shape[1]]

    def _made(self, waveform: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """(N,) samples at 48 kHz -> (N,), its bands above `HIGH_EDGES[0]`."""
        n_frames = -(-len(waveform) // HOP_SAMPLES) + 1
        of_sound, of_noise = (_frames(x[: len(waveform)], n_frames) for x in (waveform, noise))
        blocks = list(_blocks(n_frames))
        powers = [band_powers(_spectra(of_sound[block]), LOW_EDGES) for block in blocks]
        low_db = levels_db(np.concatenate(powers))
        high_db = self.levels_db(low_db)
        high_db[low_db.max(axis=1) <= max(low_db.max() - RANGE_DB, LOWEST_DB)] = -np.inf
        total = np.zeros((n_frames + 1) * HOP_SAMPLES)
        for block in blocks:
            filling = _filling(_spectra(of_sound[block]), _spectra(of_noise[block]), low_db[block])
            made = np.zeros((len(filling), WINDOW_SAMPLES // 2 + 1), complex)
            made[:, HIGH_EDGES[0] : HIGH_EDGES[-1]] = filling * _gains(high_db[block])
            frames = np.fft.irfft(made) * _window()
            begin, end = block.start * HOP_SAMPLES, block.stop * HOP_SAMPLES
            total[begin:end] += frames[:, :HOP_SAMPLES].ravel()
            total[begin + HOP_SAMPLES : end + HOP_SAMPLES] += frames[:, HOP_SAMPLES:].ravel()
        return total[HOP_SAMPLES : HOP_SAMPLES + len(waveform)]

    def levels_db(self, low_db: np.ndarray) -> np.ndarray:
        """(T, n_low) levels of the known bands -> (T, n_high) of those above."""
        seen, reference_db = network_input(low_db)
        x = np.maximum(self._convolve(seen.astype(np.float32), "first"), 0)
        for i, dilation in enumerate(DILATIONS):
            x = x + np.maximum(self._convolve(x, f"blocks.{i}", dilation), 0)
        return reference_db + DECIBELS * self._convolve(x, "last")

    def _convolve(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        """(T, n_in) -> (T, n_out), with zeros around."""
        weight = self.tensors[f"{name}.weight"]
        reach = dilation * (weight.shape[2] // 2)
        padded = np.pad(x, ((reach, reach), (0, 0)))
        shifted = (padded[i * dilation :][: len(x)] for i in range(weight.shape[2]))
        taps = (part @ weight[:, :, i].T for i, part in enumerate(shifted))
        return sum(taps, self.tensors[f"{name}.bias"])


def spectra(waveform: np.ndarray) -> np.ndarray:
    """(N,) samples at 48 kHz -> (T, 257) complex; frame t is centred at sample 256 t."""
    return _spectra(_frames(waveform, -(-len(waveform) // HOP_SAMPLES) + 1))


def _frames(waveform: np.ndarray, n_frames: int) -> np.ndarray:
    padded = np.pad(waveform, (HOP_SAMPLES, n_frames * HOP_SAMPLES - len(waveform)))
    return sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]


def _spectra(frames: np.ndarray) -> np.ndarray:
    return np.fft.rfft(frames * _window())


def _window() -> np.ndarray:
    """The root of a Hann window: applied twice, it adds up to one at half overlap."""
    return np.sin(np.pi * (np.arange(WINDOW_SAMPLES) + 0.5) / WINDOW_SAMPLES)


def band_powers(spectrum: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """(T, 257) -> (T, n_bands): the mean power of a bin in each band."""
    power = np.abs(spectrum[:, : edges[-1]]) ** 2
    return np.add.reduceat(power, edges[:-1], axis=1) / np.diff(edges)


def levels_db(powers: np.ndarray) -> np.ndarray:
    """Powers in decibels, down to `LOWEST_DB`."""
    return 10 * np.log10(np.maximum(powers, 10 ** (LOWEST_DB / 10)))


def _filling(spectrum: np.ndarray, noise: np.ndarray, low_db: np.ndarray) -> np.ndarray:
    """(T, n_made) bins of power 1 on average, of a block of frames."""
    first = HIGH_EDGES[0] - SOURCE_BINS
    bins = np.arange(first, HIGH_EDGES[0])
    whitened = spectrum[:, bins] / _gains_between(low_db, LOW_EDGES, bins)
    moved = np.resize(np.arange(SOURCE_BINS), HIGH_EDGES[-1] - HIGH_EDGES[0])
    noise = noise[:, HIGH_EDGES[0] : HIGH_EDGES[-1]] / np.sqrt(HOP_SAMPLES)
    return np.sqrt(1 - NOISE) * whitened[:, moved] + np.sqrt(NOISE) * noise


def _gains(high_db: np.ndarray) -> np.ndarray:
    """(T, n_high) levels -> (T, n_made) gains of the bins."""
    bins = np.arange(HIGH_EDGES[0], HIGH_EDGES[-1])
    return _gains_between(high_db + OFFSET_DB, HIGH_EDGES, bins)


def _gains_between(levels: np.ndarray, edges: tuple[int, ...], bins: np.ndarray) -> np.ndarray:
    """(T, n_bands) levels -> (T, n_bins) gains, from one band's centre to the next in decibels."""
    centres = (np.array(edges[1:]) + edges[:-1] - 1) / 2
    place = np.clip(np.interp(bins, centres, np.arange(len(centres))), 0, len(centres) - 1)
    below = np.minimum(place.astype(int), len(centres) - 2)
    share = place - below
    gains = 10 ** (levels / 20)
    return gains[:, below] ** (1 - share) * gains[:, below + 1] ** share


def _blocks(n_frames: int) -> Iterator[slice]:
    for start in range(0, n_frames, BLOCK_FRAMES):
        yield slice(start, min(start + BLOCK_FRAMES, n_frames))
