"""Waveform -> log-mel spectrogram, as HiFi-GAN's recipe computes it, and a distance between two.

Source: Auffusion (arXiv 2401.01044), section 3.2; HiFi-GAN (arXiv 2010.05646), section 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.mel import MelScale

DB_PER_NEPER = 20.0 / math.log(10.0)
"""Decibels in one unit of the natural logarithm of a magnitude."""
BLOCK_FRAMES = 64
"""Transformed at a time: they fit into a core's cache, and bound the memory of a long sound."""


def normalize_peak(waveform: np.ndarray, peak: float = SpectrogramConfig.peak) -> np.ndarray:
    """Scale each row of `waveform` (..., N) to the given absolute peak; silence stays silence.

    Divides in float64 like the original: rounding twice in float32 moves the log-mel of bands far
    below the loudest by up to 3e-4.
    """
    if waveform.shape[-1] == 0:
        return waveform
    largest = np.abs(waveform).max(axis=-1, keepdims=True).astype(np.float64)
    return (waveform / np.where(largest > 0, largest, 1) * peak).astype(waveform.dtype)


def hann_window(n_samples: int) -> np.ndarray:
    """(n_samples,) float32: the periodic one, whose shifted copies add up to a constant."""
    angle = 2 * math.pi * np.arange(n_samples) / n_samples
    return (0.5 - 0.5 * np.cos(angle)).astype(np.float32)


class LogMel:
    """Natural logarithm of mel magnitudes, float32; `codec.log_mel` has it with gradients.

    The waveform is reflected by (n_fft - hop) / 2 at both ends instead of centring the frames, so
    that N samples give exactly N // hop frames and a vocoder can return them one hop a frame.
    """

    def __init__(self, config: SpectrogramConfig | None = None) -> None:
        self.config = config or SpectrogramConfig()
        self._window = hann_window(self.config.win_length_samples)
        self._scale = MelScale(self.config)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """(B, N) samples in -1..1 -> (B, n_mels, N // hop) log-mel."""
        n_frames = waveform.shape[-1] // self.config.hop_length_samples
        log_mel = np.empty((len(waveform), self.config.n_mels, n_frames), np.float32)
        for row, samples in zip(log_mel, waveform, strict=True):
            frames = self._frames(samples.astype(np.float32, copy=False))
            for start in range(0, n_frames, BLOCK_FRAMES):
                block = slice(start, min(start + BLOCK_FRAMES, n_frames))
                row[:, block] = self._log_mel(frames[block])
        return log_mel

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        """(N,) -> a view (T, win_length): what the window of each frame sees, T >= N // hop."""
        config = self.config
        edge = (config.n_fft_samples - config.hop_length_samples) // 2
        # Reflection needs more samples than it mirrors: a very short clip goes on as silence.
        shortfall = max(edge + 1 - len(samples), 0)
        padded = np.pad(np.pad(samples, (0, shortfall)), edge, mode="reflect")
        n_window = config.win_length_samples
        # The window lies in the middle of what is transformed.
        side = (config.n_fft_samples - n_window) // 2
        inner = padded[side : len(padded) - (config.n_fft_samples - n_window - side)]
        return sliding_window_view(inner, n_window)[:: config.hop_length_samples]

    def _log_mel(self, frames: np.ndarray) -> np.ndarray:
        """(T, win_length) -> (n_mels, T)."""
        spectrum = np.fft.rfft(frames * self._window, self.config.n_fft_samples)
        # The small constant is for gradients, in training; the numbers are the same without them.
        power = np.square(spectrum.real.T) + np.square(spectrum.imag.T) + np.float32(1e-9)
        mel = self._scale.mel(np.sqrt(power, order="C"))
        return np.log(np.maximum(mel, self.config.mel_floor))


def analyze(spectrogram: LogMel, waveform: np.ndarray) -> np.ndarray:
    """(B, N) samples -> (B, n_mels, T) log-mel of the peak-normalised sounds.

    Zeros complete the last hop, so that no sample is lost: T = ceil(N / hop).
    """
    config = spectrogram.config
    n_missing = -waveform.shape[-1] % config.hop_length_samples
    return spectrogram(np.pad(normalize_peak(waveform, config.peak), ((0, 0), (0, n_missing))))


def mix_log_mels(log_mels: np.ndarray) -> np.ndarray:
    """(L, M, T) log-mels of L sounds -> (M, T) of their mix: powers add up."""
    if len(log_mels) == 1:
        return log_mels[0]
    return np.logaddexp.reduce(2 * log_mels, axis=0) / 2


def has_sound(
    log_mel: np.ndarray, loudest: float | None = None, range_db: float = 60.0
) -> np.ndarray:
    """Mask (..., M, T) of the cells within `range_db` of the clip's maximum.

    `loudest` is that maximum, where `log_mel` is only a part of the clip.
    """
    if loudest is None:
        loudest = float(log_mel.max(initial=-math.inf))
    return log_mel >= loudest - range_db / DB_PER_NEPER


def mel_error_db(reference_log_mel: np.ndarray, log_mel: np.ndarray) -> float:
    """Mean absolute difference of two log-mels (..., M, T), in dB, where the reference has sound.

    The natural logarithm of a magnitude becomes dB as 20 * log10. Only cells count whose reference
    lies within 60 dB of its maximum, so that inaudible noise does not drown the answer. The error
    of nothing (T = 0) is 0.
    """
    if reference_log_mel.shape != log_mel.shape:
        shapes = f"{reference_log_mel.shape} and {log_mel.shape}"
        raise ValueError(f"cannot compare log-mels of different shapes: {shapes}")
    if reference_log_mel.size == 0:
        return 0.0
    difference = np.abs(log_mel - reference_log_mel)
    return float(difference[has_sound(reference_log_mel)].mean(dtype=np.float64)) * DB_PER_NEPER
