"""Background noise of a recording (room tone), laid under generated audio.

A model fills a hole with the sound of its prompt, in one channel, up to its own highest frequency,
and with silence between one event and the next. Sound editors lay room tone under such a place:
here noise with the spectrum, the level and the stereo image of the recording's softest moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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

    power: Tensor
    """(C, n_bins), averaged over neighbours; 1 is white noise of variance 1. All 0 where there is
    no background, as in a recording with pauses of silence."""
    shape: Tensor
    """(C, n_bins): the power of each bin over the average of its neighbours."""
    is_noise: Tensor
    """(n_bins,): 1, or 0 beside a tone, as of mains hum."""
    mixing: Tensor
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
        spectra = [
            _transform(torch.from_numpy(run.T).float(), n_window)
            for run in runs
            if len(run) >= n_moment
        ]
        if not spectra:
            nothing = torch.zeros(samples.shape[1], n_window // 2 + 1)
            none = torch.zeros(len(nothing.T), len(nothing), len(nothing))
            return cls(nothing, nothing, nothing[0], none, n_window)
        moments = torch.cat([F.avg_pool1d(_power(x), SMOOTH_FRAMES, 1) for x in spectra], dim=-1)
        softest = moments.quantile(SOFTEST, dim=-1)
        spectrum = torch.cat(spectra, dim=-1)
        level = _over_frames(_power(spectrum)).mean(dim=0)
        is_soft = (level <= 2 * BIAS * softest.mean(dim=0)[:, None]).float()  # (n_bins, T)

        mean_power = (spectrum.abs().square() * is_soft).sum(-1) / is_soft.sum(-1).clamp(min=1)
        shape = mean_power / _over_bins(mean_power[None])[0].clamp(min=1e-20)
        peak = F.max_pool1d(shape, SMOOTH_BINS, 1, padding=SMOOTH_BINS // 2).amax(dim=0)
        is_noise = (peak < MAX_PEAK).float()
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
        padded = F.pad(torch.from_numpy(new.T).float(), (self.n_window, 2 * self.n_window))
        spectrum = _transform(padded, self.n_window)
        there = _over_frames(_power(spectrum)).clamp(min=1e-20)
        wanted = self.power[..., None]
        replaced = (KEPT * wanted / there).clamp(min=1e-20).log() / np.log(KEPT / REPLACED)
        replaced = replaced.clamp(0, 1) * self.is_noise[:, None] * (len(new.T) > 1)
        raised = (wanted / there).clamp(1, MAX_RAISE)
        missing = (1 - replaced) * (wanted - raised * there).clamp(min=0)
        missing = missing + replaced * torch.maximum(there, wanted)
        spectrum = spectrum * (((1 - replaced) * raised).sqrt() - 1)
        spectrum += self._noise(padded.shape[1], seed) * (missing * self.shape[..., None]).sqrt()
        tone = _inverse(spectrum, self.n_window)
        return new + tone[:, self.n_window : self.n_window + n_samples].T.double().numpy()

    def _noise(self, n_samples: int, seed: int) -> Tensor:
        """(C, n_bins, T): the spectrum of noise of power 1, coherent like the background."""
        n_channels = len(self.power)
        noise = torch.randn(n_channels, n_samples, generator=torch.Generator().manual_seed(seed))
        spectrum = _transform(noise, self.n_window)
        if n_channels == 1:
            return spectrum
        return torch.einsum("fcd,dft->cft", self.mixing.to(spectrum.dtype), spectrum)


def _coherent(spectrum: Tensor) -> Tensor:
    """(n_bins, C, C): the root of the coherence of the channels of `spectrum` (C, n_bins, T)."""
    cross = torch.einsum("cft,dft->cdf", spectrum, spectrum.conj())
    cross = torch.complex(_over_bins(cross.real), _over_bins(cross.imag)).permute(2, 0, 1)
    scale = cross.diagonal(dim1=1, dim2=2).real.clamp(min=1e-20).sqrt()
    coherence = cross / scale[:, :, None] / scale[:, None]
    # The symmetric root, which changes from bin to bin as little as the coherence does.
    values, vectors = torch.linalg.eigh(coherence)
    return (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mH


def _transform(samples: Tensor, n_window: int) -> Tensor:
    """(C, N) -> (C, n_bins, T), such that white noise of variance 1 has a mean power of 1."""
    window = torch.hann_window(n_window)
    spectrum = torch.stft(
        samples, n_window, n_window // HOPS, window=window, center=False, return_complex=True
    )
    return spectrum / window.square().sum().sqrt()


def _inverse(spectrum: Tensor, n_window: int) -> Tensor:
    """(C, n_bins, T) -> (C, N), by overlap-add: `torch.istft` cannot begin without a centre."""
    window = torch.hann_window(n_window)
    frames = torch.fft.irfft(spectrum, n_window, dim=1) * window[:, None]
    # Of a window's square the hops add up to 3/8 of their number.
    frames = frames * (window.square().sum().sqrt() / (HOPS * 3 / 8))
    hop = n_window // HOPS
    n_samples = (frames.shape[-1] - 1) * hop + n_window
    return F.fold(frames, (1, n_samples), (1, n_window), stride=(1, hop))[:, 0, 0]


def _power(spectrum: Tensor) -> Tensor:
    """(C, n_bins, T) -> its power, averaged over neighbouring bins."""
    power = spectrum.abs().square()
    return _over_bins(power.transpose(1, 2)).transpose(1, 2)


def _over_bins(values: Tensor) -> Tensor:
    """(A, B, n_bins) averaged over neighbouring bins."""
    half = SMOOTH_BINS // 2
    return F.avg_pool1d(F.pad(values, (half, half), mode="replicate"), SMOOTH_BINS, 1)


def _over_frames(values: Tensor) -> Tensor:
    """(A, B, T) averaged over neighbouring frames."""
    half = SMOOTH_FRAMES // 2
    padded = F.pad(values, (half, half - 1), mode="replicate")
    return F.avg_pool1d(padded, SMOOTH_FRAMES, 1)
