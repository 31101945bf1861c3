"""Waveform -> log-mel spectrogram, as HiFi-GAN's recipe computes it, and a distance between two.

Source: Auffusion (arXiv 2401.01044), section 3.2; HiFi-GAN (arXiv 2010.05646), section 3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.overlap import OVERLAP_S, in_windows

DB_PER_NEPER = 20.0 / math.log(10.0)
"""Decibels in one unit of the natural logarithm of a magnitude."""


def normalize_peak(waveform: Tensor, peak: float = SpectrogramConfig.peak) -> Tensor:
    """Scale each row of `waveform` (..., N) to the given absolute peak; silence stays silence.

    Divides in float64 like the original: rounding twice in float32 moves the log-mel of bands far
    below the loudest by up to 3e-4.
    """
    if waveform.shape[-1] == 0:
        return waveform
    # MPS has no float64.
    exact = waveform.double() if waveform.device.type != "mps" else waveform.float()
    largest = exact.abs().amax(dim=-1, keepdim=True)
    scaled = exact / torch.where(largest > 0, largest, 1) * peak
    return scaled.to(waveform.dtype)


def _mel_to_hz(mel: Tensor) -> Tensor:
    """Slaney's scale (Auditory Toolbox, 1998): 15 mel a kHz up to 1 kHz, then logarithmic."""
    return torch.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _hz_to_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def mel_filterbank(config: SpectrogramConfig) -> Tensor:
    """Triangular filters (n_fft // 2 + 1, n_mels) on Slaney's mel scale, each of equal area.

    Computed in float64 like librosa's, which the published checkpoints were trained on: the
    log-mels then agree to 1e-6, against 6e-5 with torchaudio's float32 filters.
    """
    n_bins = config.n_fft_samples // 2 + 1
    bins_hz = torch.linspace(0, config.sample_rate_hz / 2, n_bins, dtype=torch.float64)
    lowest, highest = _hz_to_mel(config.fmin_hz), _hz_to_mel(config.fmax_hz)
    corners = torch.linspace(lowest, highest, config.n_mels + 2, dtype=torch.float64)
    corners_hz = _mel_to_hz(corners)
    left, centre, right = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising = (bins_hz[:, None] - left) / (centre - left)
    falling = (right - bins_hz[:, None]) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (right - left)).float()


class LogMel(nn.Module):
    """Natural logarithm of mel magnitudes; differentiable, always computed in float32.

    The waveform is reflected by (n_fft - hop) / 2 at both ends instead of centring the frames, so
    that N samples give exactly N // hop frames and a vocoder can return them one hop a frame.
    """

    def __init__(self, config: SpectrogramConfig | None = None) -> None:
        super().__init__()
        self.config = config or SpectrogramConfig()
        window = torch.hann_window(self.config.win_length_samples)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", mel_filterbank(self.config), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, N) samples in -1..1 -> (B, n_mels, N // hop) log-mel."""
        config = self.config
        waveform = waveform.float()
        n_frames = waveform.shape[-1] // config.hop_length_samples
        if n_frames == 0:
            return waveform.new_zeros(waveform.shape[0], config.n_mels, 0)

        edge = (config.n_fft_samples - config.hop_length_samples) // 2
        # Reflection needs more samples than it mirrors: a very short clip goes on as silence.
        shortfall = max(edge + 1 - waveform.shape[-1], 0)
        padded = F.pad(F.pad(waveform, (0, shortfall)), (edge, edge), mode="reflect")
        spectrum = torch.stft(
            padded,
            n_fft=config.n_fft_samples,
            hop_length=config.hop_length_samples,
            win_length=config.win_length_samples,
            window=self.window.float(),
            center=False,
            return_complex=True,
        )[..., :n_frames]
        # The small constant keeps the gradient of the square root finite in silence.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        mel = self.filterbank.float().T @ magnitude
        return mel.clamp(min=config.mel_floor).log()


@torch.no_grad()
def analyze(spectrogram: LogMel, waveform: Tensor, window_s: float) -> Tensor:
    """(N,) samples of any length -> (n_mels, T) log-mel of the peak-normalised sound, on the CPU.

    Computed in windows, so that memory on the device of `spectrogram` is bounded. Zeros complete
    the last hop: T = ceil(N / hop).
    """
    config = spectrogram.config
    hop, overlap = config.hop_length_samples, config.seconds_to_frames(OVERLAP_S)
    normalized = normalize_peak(waveform, config.peak)
    padded = F.pad(normalized, (0, -len(waveform) % hop))
    window = max(config.seconds_to_frames(window_s), 2 * overlap)

    def log_mel(part: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(part)[None].to(spectrogram.window.device)
        return spectrogram(samples)[0].cpu().numpy()

    return torch.from_numpy(in_windows(log_mel, padded.numpy(), window * hop, overlap * hop))


def mix_log_mels(log_mels: Tensor) -> Tensor:
    """(L, M, T) log-mels of L sounds -> (M, T) of their mix: powers add up."""
    if len(log_mels) == 1:
        return log_mels[0]
    return (2 * log_mels).logsumexp(dim=0) / 2


def has_sound(log_mel: Tensor, loudest: float | None = None, range_db: float = 60.0) -> Tensor:
    """Mask (..., M, T) of the cells within `range_db` of the clip's maximum.

    `loudest` is that maximum, where `log_mel` is only a part of the clip.
    """
    if loudest is None:
        loudest = log_mel.max().item() if log_mel.numel() else 0.0
    return log_mel >= loudest - range_db / DB_PER_NEPER


def mel_error_db(reference_log_mel: Tensor, log_mel: Tensor) -> float:
    """Mean absolute difference of two log-mels (..., M, T), in dB, where the reference has sound.

    The natural logarithm of a magnitude becomes dB as 20 * log10. Only cells count whose reference
    lies within 60 dB of its maximum, so that inaudible noise does not drown the answer. The error
    of nothing (T = 0) is 0.
    """
    if reference_log_mel.shape != log_mel.shape:
        shapes = f"{tuple(reference_log_mel.shape)} and {tuple(log_mel.shape)}"
        raise ValueError(f"cannot compare log-mels of different shapes: {shapes}")
    if reference_log_mel.numel() == 0:
        return 0.0
    difference = (log_mel - reference_log_mel).abs()
    return difference[has_sound(reference_log_mel)].mean().item() * DB_PER_NEPER
