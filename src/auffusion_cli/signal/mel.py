"""Linear frequency <-> mel: triangular filters on Slaney's scale, and their pseudo-inverse.

Source: Slaney's Auditory Toolbox (1998), as HiFi-GAN's recipe takes it from librosa.
"""

from __future__ import annotations

import math

import numpy as np

from auffusion_cli.config import SpectrogramConfig


def mel_filterbank(config: SpectrogramConfig) -> np.ndarray:
    """Triangular filters (n_fft // 2 + 1, n_mels) on Slaney's mel scale, each of equal area.

    Computed in float64 like librosa's, which the published checkpoints were trained on: the
    log-mels then agree to 1e-6, against 6e-5 with filters computed in float32.
    """
    bins_hz, corners_hz = _bins_hz(config)[:, None], _corners_hz(config)
    left, centre, right = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return (triangles * 2 / (right - left)).astype(np.float32)


class MelScale:
    """The filters applied to spectra, and back.

    A bin lies between two corners, on the rising slope of one filter and the falling slope of the
    one before, and on no other. So no matrix is multiplied: that would be 100 times the work, and
    the threads that a BLAS starts for it wait for each other where a machine is busy.
    """

    def __init__(self, config: SpectrogramConfig) -> None:
        self.n_mels = config.n_mels
        filters = np.pad(mel_filterbank(config), ((0, 0), (1, 1)))
        bins = np.arange(len(filters))
        slope = np.searchsorted(_corners_hz(config), _bins_hz(config), side="right") - 1
        self._slope = np.clip(slope, 0, config.n_mels)
        """(n_bins,): the filter that rises there, from 0; `n_mels` is beyond the last one."""
        self._rising = filters[bins, self._slope + 1][:, None]
        self._falling = filters[bins, self._slope][:, None]
        self._with_bins, self._first_bin = np.unique(self._slope, return_index=True)
        # Filters overlap only their neighbours: their Gram matrix has three diagonals.
        filters = filters[:, 1:-1].astype(np.float64)
        self._overlap = (filters[:, :-1] * filters[:, 1:]).sum(0)
        square = np.square(filters).sum(0)
        self._pivot = square.copy()  # of its triangular factors
        for m in range(self.n_mels):
            if m > 0:
                self._pivot[m] -= self._overlap[m - 1] ** 2 / self._pivot[m - 1]
            if self._pivot[m] <= 1e-9 * square[m]:  # no bin of its own: it has no share
                self._pivot[m] = np.inf

    def mel(self, magnitude: np.ndarray) -> np.ndarray:
        """(n_bins, T) -> (n_mels, T)."""
        total = np.zeros((2, self.n_mels + 1, magnitude.shape[1]), np.float32)
        for sums, weights in zip(total, (self._rising, self._falling), strict=True):
            sums[self._with_bins] = np.add.reduceat(magnitude * weights, self._first_bin, axis=0)
        return total[0, :-1] + total[1, 1:]

    def magnitude(self, mel: np.ndarray) -> np.ndarray:
        """(n_mels, T) -> the (n_bins, T) of least square that have this mel, where not negative."""
        share = mel.astype(np.float64)
        for m, overlap in enumerate(self._overlap):
            share[m + 1] -= overlap / self._pivot[m] * share[m]
        share /= self._pivot[:, None]
        for m in reversed(range(self.n_mels - 1)):
            share[m] -= self._overlap[m] / self._pivot[m] * share[m + 1]
        share = np.pad(share, ((1, 1), (0, 0))).astype(np.float32)
        bins = self._rising * share[self._slope + 1] + self._falling * share[self._slope]
        return np.maximum(bins, 0)


def _bins_hz(config: SpectrogramConfig) -> np.ndarray:
    return np.linspace(0, config.sample_rate_hz / 2, config.n_fft_samples // 2 + 1)


def _corners_hz(config: SpectrogramConfig) -> np.ndarray:
    """(n_mels + 2,): each filter rises from one, peaks at the next, and ends at the one after."""
    lowest, highest = _hz_to_mel(config.fmin_hz), _hz_to_mel(config.fmax_hz)
    mel = np.linspace(lowest, highest, config.n_mels + 2)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _hz_to_mel(hz: float) -> float:
    """15 mel a kHz up to 1 kHz, then logarithmic."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)
