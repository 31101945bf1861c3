"""waveform <-> latent: the composition of the signal path, for one window.

waveform --LogMel--> log-mel --image--> image --autoencoder.encode--> latent
latent --autoencoder.decode--> image --image--> log-mel --texture, vocoder--> waveform
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.codec.image import image_to_log_mel, log_mel_to_image, pad_image
from auffusion_cli.codec.texture import white_noise_texture
from auffusion_cli.codec.vocoder import GriffinLim, HiFiGAN
from auffusion_cli.config import ImageConfig, SpectrogramConfig
from auffusion_cli.errors import CheckpointError
from auffusion_cli.signal.overlap import OVERLAP_S, sound_in_windows
from auffusion_cli.signal.spectrogram import LogMel, normalize_peak

if TYPE_CHECKING:
    from auffusion_cli.codec.autoencoder import KLAutoencoder
    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder


VOCODER_WINDOW_S = 60.0
"""A vocoder works on this much at a time, so that its memory does not grow with the sound."""
DECODING_STREAM = 0x6465_636F_6465
"""Mixed into a sound's seed for its decoding, which must not draw the latent's noise again."""


class Codec(nn.Module):
    """Spectrogram, autoencoder and vocoder that fit each other; for inference, without gradients.

    Raises CheckpointError where the vocoder was made for other log-mels than the spectrogram gives.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder | PatchAutoencoder,
        vocoder: HiFiGAN | GriffinLim,
        spectrogram_config: SpectrogramConfig | None = None,
        image_config: ImageConfig | None = None,
    ) -> None:
        super().__init__()
        self.spectrogram_config = spectrogram_config or SpectrogramConfig()
        self.image_config = image_config or ImageConfig()
        if isinstance(vocoder, HiFiGAN):
            _check_vocoder(vocoder, self.spectrogram_config)
        self.spectrogram = LogMel(self.spectrogram_config)
        self.autoencoder = autoencoder
        self.vocoder = vocoder

    @property
    def width_multiple(self) -> int:
        """An image's width in columns is a multiple of this."""
        return self.autoencoder.downsample

    def latent_shape(self, duration_s: float) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a sound that lasts `duration_s`."""
        n_columns = self.spectrogram_config.seconds_to_frames(duration_s)
        n_rows, f = self.spectrogram_config.n_mels, self.autoencoder.downsample
        return self.autoencoder.latent_channels, n_rows // f, -(-n_columns // f)

    @torch.no_grad()
    def analyze(self, waveform: Tensor) -> Tensor:
        """(B, N) samples -> (B, n_mels, T) log-mel of the peak-normalised sound.

        Zeros complete the last hop, so that no sample is lost: T = ceil(N / hop).
        """
        n_missing = -waveform.shape[-1] % self.spectrogram_config.hop_length_samples
        normalized = normalize_peak(waveform, self.spectrogram_config.peak)
        return self.spectrogram(F.pad(normalized, (0, n_missing)))

    @torch.no_grad()
    def encode_log_mel(self, log_mel: Tensor) -> Tensor:
        """(B, n_mels, T) log-mel -> (B, C, h, w) latent; silence fills the last column."""
        image = log_mel_to_image(log_mel, self.image_config)
        image = pad_image(image, image.shape[-1] + -image.shape[-1] % self.width_multiple)
        return self.autoencoder.encode(image.to(self._autoencoder_dtype))

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, N) samples -> (B, C, h, w) latent; each row is peak-normalised first."""
        return self.encode_log_mel(self.analyze(waveform))

    @torch.no_grad()
    def decode_log_mel(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) latent -> (B, n_mels, w * downsample) log-mel, float32."""
        image = self.autoencoder.decode(latent.to(self._autoencoder_dtype))
        return image_to_log_mel(image.float(), self.image_config)

    @torch.no_grad()
    def add_texture(self, log_mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, n_mels, T) decoded log-mel -> the same with the texture that its latent lacks.

        `generator` draws it, the same for all rows; see `decoding_generator`. An autoencoder that
        predicts no texture gets none.
        """
        if self.autoencoder.texture is None:
            return log_mel
        generator = generator or decoding_generator(0)
        block = self.spectrogram_config.seconds_to_frames(VOCODER_WINDOW_S)
        block -= block % self.width_multiple
        parts = [self._textured(part, generator) for part in log_mel.split(block, dim=-1)]
        return torch.cat(parts, dim=-1)

    def _textured(self, log_mel: Tensor, generator: torch.Generator) -> Tensor:
        n_frames = log_mel.shape[-1]
        n_samples = n_frames * self.spectrogram_config.hop_length_samples
        noise = torch.randn(1, n_samples, generator=generator).to(log_mel.device)
        width = n_frames + -n_frames % self.width_multiple
        texture = white_noise_texture(self.spectrogram, noise).flip(-2)[:, None]
        texture = self.autoencoder.lost(pad_image(texture, width).to(self._autoencoder_dtype))
        image = pad_image(log_mel_to_image(log_mel, self.image_config), width)
        strength = self.autoencoder.texture_strength(image.to(self._autoencoder_dtype))
        added = (strength * texture)[:, 0, :, :n_frames].flip(-2).float()
        return (log_mel + added).clamp(min=self.image_config.log_mel_min)

    @torch.no_grad()
    def vocode(self, log_mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, n_mels, T) log-mel -> (B, T * hop) samples, float32; any length, window by window.

        `generator` draws Griffin-Lim's first phases; see `decoding_generator`.
        """
        config = self.spectrogram_config
        generator = generator or decoding_generator(0)
        extra = {"generator": generator} if isinstance(self.vocoder, GriffinLim) else {}
        sound = sound_in_windows(
            on_arrays(lambda part: self.vocoder(part, **extra), log_mel.device),
            log_mel.cpu().numpy(),
            config.seconds_to_frames(VOCODER_WINDOW_S),
            config.seconds_to_frames(OVERLAP_S),
        )
        return torch.from_numpy(sound).to(log_mel.device)

    def decode(
        self,
        latent: Tensor,
        n_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, C, h, w) latent -> (B, N) samples, cut to the first `n_samples`."""
        generator = generator or decoding_generator(0)
        log_mel = self.add_texture(self.decode_log_mel(latent), generator)
        return self.vocode(log_mel, generator)[:, :n_samples]

    @property
    def _autoencoder_dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype


def decoding_generator(seed: int) -> torch.Generator:
    """CPU generator of the random parts of decoding a sound of `seed`."""
    return torch.Generator().manual_seed(seed ^ DECODING_STREAM)


def on_arrays(
    function: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[np.ndarray], np.ndarray]:
    """`function` of tensors on `device` as one of float32 arrays."""
    return lambda part: function(torch.from_numpy(part).to(device)).detach().float().cpu().numpy()


def _check_vocoder(vocoder: HiFiGAN, spectrogram: SpectrogramConfig) -> None:
    config = vocoder.config
    for name, given, needed in (
        ("num_mels", config.num_mels, spectrogram.n_mels),
        ("hop_size", config.hop_size, spectrogram.hop_length_samples),
        ("sampling_rate", config.sampling_rate, spectrogram.sample_rate_hz),
    ):
        if given != needed:
            raise CheckpointError(
                f"vocoder: {name} is {given}, but the spectrogram of this model has {needed}"
            )
