"""log-mel -> waveform without training: Griffin-Lim.

Source: Griffin and Lim (1984); Richardson (1972) and Lucy (1974) for the first phases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.cores import usable_cores
from auffusion_cli.signal.mel import MelScale
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import BLOCK_FRAMES, hann_window

SHARPENING_ITERATIONS = 20
"""Of Richardson-Lucy deconvolution; more change little."""
SHORT_WINDOW_HOPS = 3
"""Length of the window through which the first samples get their envelope."""


class GriffinLim:
    """Phase reconstruction by projecting between magnitudes and consistent spectra.

    The linear magnitude comes from the pseudo-inverse of the mel filterbank, the first phases from
    seeded white noise whose bands rise and fall as `sharpened` says that those of the sound do:
    from steady noise, a click ends up as a rustle as long as the window. Phases that all start at
    zero leave a pulse every few hops, which makes rain sound like a helicopter; independent ones
    fit no sound and end further off.

    Not many iterations, and without momentum (Perraudin et al. 2013): a spectrogram that is met
    more exactly is one whose noise has lost its randomness, and a classifier knows less of it.
    They transform no more samples than the window has, where the analysis pads it with zeros: the
    bins between say nothing new, and half as many cost half as much.
    """

    name = "griffin-lim"
    version = "4"
    """Of the phase reconstruction; recorded with a sound, as another gives other samples."""

    def __init__(
        self,
        config: SpectrogramConfig | None = None,
        *,
        n_iterations: int = 20,
    ) -> None:
        self.config = config or SpectrogramConfig()
        self.n_iterations = n_iterations
        self._scale = MelScale(self.config)

    def __call__(self, log_mel: np.ndarray, noise: Noise | None = None) -> np.ndarray:
        """(B, n_mels, T) log-mel -> (B, T * hop) samples, float32.

        `noise` gives the white noise, the same for all rows; None has seed 0.
        """
        n_frames, hop = log_mel.shape[-1], self.config.hop_length_samples
        sound = np.zeros((len(log_mel), n_frames * hop), np.float32)
        if n_frames == 0:
            return sound
        # The inverse STFT needs neighbours on both sides of a frame: lengthen, and cut them off.
        n_margin = math.ceil(self.config.n_fft_samples / 2 / hop)
        n_samples = (n_frames + 2 * n_margin - 1) * hop
        white = (noise or Noise(0)).normal((n_samples,))
        # A log-mel frame is centred in its hop, a frame of this STFT at the hop's beginning.
        begin = n_margin * hop - hop // 2
        for row, samples in zip(log_mel, sound, strict=True):
            mel = np.exp(row, dtype=np.float32)
            mel = np.pad(mel, ((0, 0), (n_margin, n_margin)), mode="edge")
            samples[:] = self._invert(mel, white)[begin : begin + len(samples)]
        return sound

    def _invert(self, mel: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """The samples (N,) of mel magnitudes (n_mels, T), from those of white noise."""
        config, n_samples = self.config, len(samples)
        n_window, n_short = config.win_length_samples, SHORT_WINDOW_HOPS * config.hop_length_samples
        every = config.n_fft_samples // n_window if config.n_fft_samples % n_window == 0 else 1
        unpadded = replace(config, n_fft_samples=config.n_fft_samples // every)
        short = replace(unpadded, win_length_samples=min(n_short, n_window))
        envelope, magnitude = (
            self._scale.magnitude(each)[::every].T for each in (sharpened(mel, config), mel)
        )
        shaping = _Projection(envelope, n_samples, short)
        projection = _Projection(magnitude, n_samples, unpadded)
        with ThreadPoolExecutor(usable_cores()) as pool:
            samples = shaping(samples, pool)
            for _ in range(1 + self.n_iterations):
                samples = projection(samples, pool)
        return samples


def sharpened(mel: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Mel magnitudes (n_mels, T) -> the same without what the analysis window spreads in time.

    A window spreads the power of a band over the frames that see it. Richardson-Lucy deconvolution
    finds how much of it lies in each hop. It stays positive, and what is steady stays as it is.
    """
    window, hop = hann_window(config.win_length_samples) ** 2, config.hop_length_samples
    middle = len(window) // 2
    n_beside = (middle - 1) // hop
    spread = window[middle - n_beside * hop : middle + n_beside * hop + 1 : hop]
    spread = spread / spread.sum()
    power = np.square(mel)
    sharp = power.copy()
    for _ in range(SHARPENING_ITERATIONS):
        sharp *= _convolved(power / np.maximum(_convolved(sharp, spread), 1e-20), spread)
    return np.sqrt(sharp)


def _convolved(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Rows (n, T), which go on as they end, convolved with a symmetric kernel of odd length."""
    n_beside, n = len(kernel) // 2, rows.shape[1]
    padded = np.pad(rows, ((0, 0), (n_beside, n_beside)), mode="edge")
    total = kernel[n_beside] * rows
    for i, value in enumerate(kernel[:n_beside]):
        pair = padded[:, i : i + n] + padded[:, 2 * n_beside - i : 2 * n_beside - i + n]
        total += np.multiply(pair, value, out=pair)
    return total


class _Projection:
    """One iteration: samples -> consistent spectrum -> the wanted magnitude -> samples.

    Frames are independent up to where they are added, so a block of them, small enough for a core's
    cache, is one task of a thread. Windows are at the beginning of what is transformed: where they
    lie in it changes all phases of a bin alike.
    """

    def __init__(self, magnitude: np.ndarray, n_samples: int, config: SpectrogramConfig) -> None:
        self.magnitude = np.ascontiguousarray(magnitude)
        self.n_fft, self.hop = config.n_fft_samples, config.hop_length_samples
        self.window = hann_window(config.win_length_samples)
        self.n_samples = n_samples
        self.edge = self.n_fft // 2 - (self.n_fft - len(self.window)) // 2
        self.n_hops = -(-len(self.window) // self.hop)  # of a window
        overlap = self._added(np.broadcast_to(self.window**2, (len(magnitude), len(self.window))))
        self.weights = self._inside(overlap)

    def __call__(self, samples: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """(N,) -> (N,)"""
        padded = np.pad(samples, self.edge, mode="reflect")
        frames = sliding_window_view(padded, len(self.window))[:: self.hop]

        def block_of_sound(block: slice) -> np.ndarray:
            return self._added(self._projected(frames[block], block))

        n_frames = len(self.magnitude)
        total = np.zeros((n_frames + self.n_hops - 1) * self.hop, np.float32)
        blocks = list(_blocks(n_frames))
        for block, added in zip(blocks, pool.map(block_of_sound, blocks), strict=True):
            begin = block.start * self.hop
            total[begin : begin + len(added)] += added
        return self._inside(total) / self.weights

    def _projected(self, frames: np.ndarray, block: slice) -> np.ndarray:
        """(T, win_length) frames -> the same with the magnitude of `block`, windowed."""
        spectrum = np.fft.rfft(frames * self.window, self.n_fft)
        size = np.abs(spectrum)
        gain = np.divide(self.magnitude[block], size, out=size, where=size > 0)
        spectrum.real *= gain
        spectrum.imag *= gain
        return np.fft.irfft(spectrum, self.n_fft)[:, : len(self.window)] * self.window

    def _added(self, frames: np.ndarray) -> np.ndarray:
        """(T, win_length) -> ((T + n_hops - 1) * hop,) samples: each a hop after the one before."""
        n_frames = len(frames)
        total = np.zeros((n_frames + self.n_hops - 1, self.hop), np.float32)
        for i in range(self.n_hops):
            part = frames[:, i * self.hop : (i + 1) * self.hop]
            total[i : i + n_frames, : part.shape[1]] += part
        return total.ravel()

    def _inside(self, added: np.ndarray) -> np.ndarray:
        """Added frames without what is before the first one's centre, and after the last one's."""
        return added[self.edge : self.edge + self.n_samples]


def _blocks(n_frames: int) -> Iterator[slice]:
    for start in range(0, n_frames, BLOCK_FRAMES):
        yield slice(start, min(start + BLOCK_FRAMES, n_frames))
