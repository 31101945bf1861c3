"""What is heard in a recording all the time, and goes on under what is new in it.

A model fills a hole with what it was asked for, and leaves silence between one bark and the next,
where the river that the dog stands at should be heard. Whoever cuts recordings lays room tone under
such a place: the sound of the place itself, which here is noise of the spectrum that the
recording's softest moments have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_S, HOPS = 0.064, 4
"""Of the Fourier transform; a window is so many hops long."""
SMOOTH_BINS, SMOOTH_FRAMES = 7, 8
"""Noise is judged by the mean of neighbours, some 0.2 s and 100 Hz: by itself no bin is steady."""
SOFTEST = 0.05
"""The share of moments that are softer than what counts as always there."""
MAX_RAISE = 10.0
"""Of power: what the model made too softly is turned up by 10 dB before noise is taken."""


@dataclass(frozen=True)
class RoomTone:
    """A spectrum that a recording never falls below for long."""

    power: Tensor
    """(C, n_bins) of white noise of variance 1: 1. All 0 where nothing is always there."""
    n_window: int
    """Samples."""

    @classmethod
    def of(cls, samples: np.ndarray, known: np.ndarray, rate_hz: int) -> RoomTone:
        """Of samples (N, C), where `known` (N,) is true."""
        n_window = HOPS * round(WINDOW_S * rate_hz / HOPS)
        n_moment = n_window + (SMOOTH_FRAMES - 1) * n_window // HOPS
        ends = np.flatnonzero(known[1:] != known[:-1]) + 1
        runs = np.split(samples, ends)[0 if known[:1].any() else 1 :: 2]
        moments = [
            F.avg_pool1d(_power(torch.from_numpy(run.T).float(), n_window), SMOOTH_FRAMES, 1)
            for run in runs
            if len(run) >= n_moment
        ]
        if not moments:
            return cls(torch.zeros(samples.shape[1], n_window // 2 + 1), n_window)
        return cls(torch.cat(moments, dim=-1).quantile(SOFTEST, dim=-1), n_window)

    def under(self, new: np.ndarray, seed: int) -> np.ndarray:
        """(n, C) samples with noise where they fall below this; all channels get the same noise."""
        n_samples = len(new)
        if n_samples < self.n_window or not self.power.any():
            return new
        # Lengthened, so that its ends have as many windows as all else.
        padded = F.pad(torch.from_numpy(new.T).float(), (self.n_window, 2 * self.n_window))
        there = _power(padded, self.n_window)
        half = SMOOTH_FRAMES // 2
        there = F.avg_pool1d(F.pad(there, (half, half - 1), mode="replicate"), SMOOTH_FRAMES, 1)
        wanted = self.power[..., None]
        raised = (wanted / there.clamp(min=1e-20)).clamp(1, MAX_RAISE)
        missing = (wanted - raised * there).clamp(min=0)
        noise = torch.randn(padded.shape[1], generator=torch.Generator().manual_seed(seed))
        spectrum = _transform(padded, self.n_window) * (raised.sqrt() - 1)
        spectrum += _transform(noise[None], self.n_window) * missing.sqrt()
        # Of a window's square the hops add up to 3/8 of their number; overlap-add by hand, since
        # `torch.istft` cannot begin without a centre.
        window = torch.hann_window(self.n_window)
        frames = torch.fft.irfft(spectrum, self.n_window, dim=1) * window[:, None]
        frames = frames * (window.square().sum().sqrt() / (HOPS * 3 / 8))
        tone = F.fold(
            frames,
            (1, (frames.shape[-1] - 1) * self.n_window // HOPS + self.n_window),
            (1, self.n_window),
            stride=(1, self.n_window // HOPS),
        )[:, 0, 0]
        return new + tone[:, self.n_window : self.n_window + n_samples].T.double().numpy()


def _transform(samples: Tensor, n_window: int) -> Tensor:
    """(C, N) -> (C, n_bins, T), such that white noise of variance 1 has a mean power of 1."""
    window = torch.hann_window(n_window)
    spectrum = torch.stft(
        samples, n_window, n_window // HOPS, window=window, center=False, return_complex=True
    )
    return spectrum / window.square().sum().sqrt()


def _power(samples: Tensor, n_window: int) -> Tensor:
    """(C, N) -> (C, n_bins, T), each bin the mean of its neighbours."""
    power = _transform(samples, n_window).abs().square()
    half = SMOOTH_BINS // 2
    smooth = F.pad(power.transpose(1, 2), (half, half), mode="replicate")
    return F.avg_pool1d(smooth, SMOOTH_BINS, 1).transpose(1, 2)
