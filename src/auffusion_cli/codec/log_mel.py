"""Waveform -> log-mel on any device, with gradients: `signal.spectrogram` for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.mel import mel_filterbank


def normalize_peak(waveform: Tensor, peak: float = SpectrogramConfig.peak) -> Tensor:
    """`signal.spectrogram.normalize_peak` for tensors."""
    if waveform.shape[-1] == 0:
        return waveform
    # MPS has no float64.
    exact = waveform.double() if waveform.device.type != "mps" else waveform.float()
    largest = exact.abs().amax(dim=-1, keepdim=True)
    return (exact / torch.where(largest > 0, largest, 1) * peak).to(waveform.dtype)


class LogMelModule(nn.Module):
    """`signal.spectrogram.LogMel` for tensors; always computed in float32."""

    def __init__(self, config: SpectrogramConfig | None = None) -> None:
        super().__init__()
        self.config = config or SpectrogramConfig()
        window = torch.hann_window(self.config.win_length_samples)
        self.register_buffer("window", window, persistent=False)
        filterbank = torch.from_numpy(mel_filterbank(self.config))
        self.register_buffer("filterbank", filterbank, persistent=False)

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
