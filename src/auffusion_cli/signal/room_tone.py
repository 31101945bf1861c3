"""Background noise of a recording (room tone), laid under generated audio.

A model fills a hole with the sound of its prompt, in one channel, up to its own highest frequency,
and with silence between one event and the next. Sound editors lay room tone under such a place:
here noise with the spectrum, the level and the stereo image of the recording's softest moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import hann_window

WINDOW_S, HOPS = 0.064, 4
"""Window of the Fourier transform, and its length in hops."""
SMOOTH_BINS, SMOOTH_FRAMES = 7, 8
"""Powers are averaged over 100 Hz and 0.2 s: a single bin of noise fluctuates too much."""
SOFTEST = 0.05
"""Quantile of the averaged powers that is taken for the background (minimum statistics, Martin
2001)."""
BIAS = 1.57
"""Mean over that quantile, of averaged powers of white noise."""
MAX_RAISE = 10.0
"""Of power: generated audio below the background is amplified by up to 10 dB before noise is added,
so that tones stay tones."""
REPLACED, KEPT = 4.0, 10.0
"""Of power over the background: generated noise up to 6 dB is replaced by noise with the stereo
image of the recording, above 10 dB it is kept."""
MAX_PEAK = 2.5
"""Power of a bin over the mean of its neighbours, up to which these are noise and not a tone."""


@dataclass(frozen=True)
class RoomTone:
    """Spectrum and stereo image that a recording never falls below for long."""

    power: np.ndarray
    """(C, n_bins), averaged over neighbours; 1 is white noise of variance 1. All 0 where there is
    no background, as in a recording with pauses of silence."""
    shape: np.ndarray
    """(C, n_bins): the power of each bin over the average of its neighbours."""
    is_noise: np.ndarray
    """(n_bins,): 1, or 0 beside a tone, as of mains hum."""
    mixing: np.ndarray
    """(n_bins, C, C): makes independent noises as coherent as the channels of the background."""
    n_window: int
    """Samples."""

    @classmethod
    def of(cls, samples: np.ndarray, known: np.ndarray, rate_hz: int) -> RoomTone:
        """The background of samples (N, C), where `known` (N,) is true."""
        n_window = HOPS * round(WINDOW_S * rate_hz / HOPS)
        n_moment = n_window + (SMOOTH_FRAMES - 1) * n_window // HOPS
        ends = np.flatnonzero(known[1:] != known[:-1]) + 1
        runs = np.split(samples, ends)[0 if known[:1].any() else 1 :: 2]
        spectra = [_transform(run.T, n_window) for run in runs if len(run) >= n_moment]
        if not spectra:
            nothing = np.zeros((samples.shape[1], n_window // 2 + 1), np.float32)
            none = np.zeros((len(nothing.T), len(nothing), len(nothing)), np.float32)
            return cls(nothing, nothing, nothing[0], none, n_window)
        moments = np.concatenate([_moving_mean(_power(x), SMOOTH_FRAMES) for x in spectra], axis=-1)
        softest = np.quantile(moments, SOFTEST, axis=-1).astype(np.float32)
        spectrum = np.concatenate(spectra, axis=-1)
        level = _over_frames(_power(spectrum)).mean(axis=0)
        is_soft = level <= 2 * BIAS * softest.mean(axis=0)[:, None]  # (n_bins, T)

        n_soft = np.maximum(is_soft.sum(-1, dtype=np.float32), 1)
        mean_power = (np.square(np.abs(spectrum)) * is_soft).sum(-1) / n_soft
        shape = mean_power / np.maximum(_over_bins(mean_power), 1e-20)
        half = SMOOTH_BINS // 2
        peak = sliding_window_view(np.pad(shape.max(axis=0), half, mode="edge"), SMOOTH_BINS)
        is_noise = (peak.max(axis=-1) < MAX_PEAK).astype(np.float32)
        power = softest * (1 + (BIAS - 1) * is_noise)
        return cls(power, shape, is_noise, _coherent(spectrum * is_soft), n_window)

    def noise(self, n_samples: int, seed: int) -> np.ndarray:
        """(n, C) samples of the background alone."""
        n = max(n_samples, self.n_window)
        return self.under(np.zeros((n, len(self.power))), seed)[:n_samples]

    def under(self, new: np.ndarray, seed: int) -> np.ndarray:
        """(n, C) samples with noise where they fall below the background.

        Generated audio is the same in all channels. So where there are several, its own noise is
        replaced, too, as far as it is about as soft as the background.
        """
        n_samples = len(new)
        if n_samples < self.n_window or not self.power.any():
            return new
        # Lengthened, so that its ends have as many windows as all else.
        padded = np.pad(new.T.astype(np.float32), ((0, 0), (self.n_window, 2 * self.n_window)))
        spectrum = _transform(padded, self.n_window)
        there = np.maximum(_over_frames(_power(spectrum)), 1e-20)
        wanted = self.power[..., None]
        replaced = np.log(np.maximum(KEPT * wanted / there, 1e-20)) / math.log(KEPT / REPLACED)
        replaced = np.clip(replaced, 0, 1) * self.is_noise[:, None] * (len(new.T) > 1)
        raised = np.clip(wanted / there, 1, MAX_RAISE)
        missing = (1 - replaced) * np.maximum(wanted - raised * there, 0)
        missing += replaced * np.maximum(there, wanted)
        spectrum *= np.sqrt((1 - replaced) * raised) - 1
        spectrum += self._noise(padded.shape[1], seed) * np.sqrt(missing * self.shape[..., None])
        tone = _inverse(spectrum, self.n_window)
        return new + tone[:, self.n_window : self.n_window + n_samples].T

    def _noise(self, n_samples: int, seed: int) -> np.ndarray:
        """(C, n_bins, T): the spectrum of noise of power 1, coherent like the background."""
        n_channels = len(self.power)
        spectrum = _transform(Noise(seed).normal((n_channels, n_samples)), self.n_window)
        if n_channels == 1:
            return spectrum
        return np.einsum("fcd,dft->cft", self.mixing, spectrum)


def _coherent(spectrum: np.ndarray) -> np.ndarray:
    """(n_bins, C, C): the root of the coherence of the channels of `spectrum` (C, n_bins, T)."""
    cross = np.einsum("cft,dft->cdf", spectrum, spectrum.conj())
    cross = _over_bins(cross).transpose(2, 0, 1)
    scale = np.sqrt(np.maximum(cross.diagonal(axis1=1, axis2=2).real, 1e-20))
    coherence = cross / scale[:, :, None] / scale[:, None]
    # The symmetric root, which changes from bin to bin as little as the coherence does.
    values, vectors = np.linalg.eigh(coherence)
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    return roots @ vectors.conj().transpose(0, 2, 1)


def _transform(samples: np.ndarray, n_window: int) -> np.ndarray:
    """(C, N) -> (C, n_bins, T), such that white noise of variance 1 has a mean power of 1."""
    window = hann_window(n_window)
    frames = sliding_window_view(samples.astype(np.float32), n_window, axis=-1)
    spectrum = np.fft.rfft(frames[:, :: n_window // HOPS] * window)
    return (spectrum / np.sqrt(np.square(window).sum())).transpose(0, 2, 1)


def _inverse(spectrum: np.ndarray, n_window: int) -> np.ndarray:
    """(C, n_bins, T) -> (C, N), by overlap-add."""
    window = hann_window(n_window)
    frames = np.fft.irfft(spectrum.transpose(0, 2, 1), n_window) * window
    # Of a window's square the hops add up to 3/8 of their number.
    frames *= np.sqrt(np.square(window).sum()) / (HOPS * 3 / 8)
    n_channels, n_frames, _ = frames.shape
    hops = frames.reshape(n_channels, n_frames, HOPS, -1)
    total = np.zeros((n_channels, n_frames + HOPS - 1, hops.shape[-1]), frames.dtype)
    for i in range(HOPS):
        total[:, i : i + n_frames] += hops[:, :, i]
    return total.reshape(n_channels, -1)


def _power(spectrum: np.ndarray) -> np.ndarray:
    """(C, n_bins, T) -> its power, averaged over neighbouring bins."""
    power = np.square(np.abs(spectrum))
    return _over_bins(power.transpose(0, 2, 1)).transpose(0, 2, 1)


def _over_bins(values: np.ndarray) -> np.ndarray:
    """(..., n_bins) averaged over neighbouring bins."""
    half = SMOOTH_BINS // 2
    return _moving_mean(_extended(values, half, half), SMOOTH_BINS)


def _over_frames(values: np.ndarray) -> np.ndarray:
    """(..., T) averaged over neighbouring frames."""
    half = SMOOTH_FRAMES // 2
    return _moving_mean(_extended(values, half, half - 1), SMOOTH_FRAMES)


def _extended(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """(..., n) with its ends repeated."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, after)], mode="edge")


def _moving_mean(values: np.ndarray, n: int) -> np.ndarray:
    """(..., m) -> (..., m - n + 1)."""
    n_means = values.shape[-1] - n + 1
    return sum(values[..., i : i + n_means] for i in range(n)) / n
