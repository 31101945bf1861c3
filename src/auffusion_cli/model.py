"""`Model`: a loaded checkpoint, with all that tasks see of it.

Tasks go through `analyze`, `encode`, `decode` and `vocode` between waveform, log-mel and latents,
through the codec for shapes, texture and a spectrogram of one window, and through `denoiser`. They
do not touch what lies below: UNet, autoencoder, image, vocoder. Only attention, read or edited, is
installed in the UNet itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.codec.codec import Codec, on_arrays
from auffusion_cli.codec.vocoder import GriffinLim
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.device import dtype_name
from auffusion_cli.diffusion.denoiser import Denoise, guided_denoiser
from auffusion_cli.diffusion.samplers import make_scheduler
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.vocabulary import Unknown, Vocabulary
from auffusion_cli.diffusion.windows import OVERLAP_SHARE, windowed_denoiser
from auffusion_cli.errors import AuffusionError
from auffusion_cli.requests.provenance import Provenance, current_versions, hash_samples
from auffusion_cli.signal.overlap import in_windows
from auffusion_cli.signal.spectrogram import analyze

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from auffusion_cli.requests.request import GenerateSettings, Request


@dataclass
class Model:
    """A loaded checkpoint, in evaluation mode on `device`.

    The UNet and the text conditioner are in `dtype`; the codec keeps its spectrogram and vocoder in
    float32. Latents are float32 outside of the UNet.
    """

    name: str
    """A known name, a Hub id, or the folder it came from."""
    revision: str | None
    """The commit on the Hub; None for a folder."""
    licence: str | None
    """Its name, or where it is stated."""
    codec: Codec
    text: TextConditioner
    unet: UNet2DConditionModel
    scheduler_config: dict[str, Any]
    defaults: GenerationDefaults
    device: torch.device
    dtype: torch.dtype
    credits: str | None = None
    """CREDITS.md: whom a licence asks to name. It is passed on with whatever is made of it."""
    vocabulary: Vocabulary | None = None
    """The wordings it was taught, where the checkpoint states them."""

    def unknown(self, prompt: str) -> list[Unknown]:
        """The parts of `prompt` that are far from all the wordings the model was taught."""
        if self.vocabulary is None:
            return []
        return self.vocabulary.unknown(self.text.encoders[0], prompt)

    @property
    def window(self) -> int:
        """Width of what it was trained on, in columns of the latent."""
        return self.codec.latent_shape(self.defaults.max_duration_s)[2]

    @property
    def overlap(self) -> int:
        """Overlap of neighbouring windows that are denoised together, in columns of the latent."""
        return round(self.window * OVERLAP_SHARE)

    @property
    def latent_column_s(self) -> float:
        """Duration of a column of the latent."""
        return self.codec.spectrogram_config.frames_to_seconds(self.codec.width_multiple)

    def latent_shape(self, duration_s: float) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a sound; the model always fills at least its window."""
        return self.codec.latent_shape(max(duration_s, self.defaults.max_duration_s))

    # --- waveform <-> log-mel <-> latents, of any length

    def analyze(self, waveform: Tensor) -> Tensor:
        """(N,) samples -> (n_mels, T) log-mel on the CPU; like `Codec.analyze` of the whole."""
        return analyze(self.codec.spectrogram, waveform, self.defaults.max_duration_s)

    def encode(self, log_mel: Tensor) -> Tensor:
        """(B, n_mels, T) log-mel -> (B, C, h, w) latents."""
        f = self.codec.width_multiple
        latents = in_windows(
            on_arrays(self.codec.encode_log_mel, self.device),
            log_mel.cpu().numpy(),
            self.window * f,
            self.overlap * f,
        )
        return torch.from_numpy(latents).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents -> (B, n_mels, w * downsample) log-mel."""
        decode = on_arrays(self.codec.decode_log_mel, self.device)
        log_mel = in_windows(decode, latents.float().cpu().numpy(), self.window, self.overlap)
        return torch.from_numpy(log_mel).to(self.device)

    def vocode(self, log_mel: Tensor, generator: torch.Generator) -> Tensor:
        """(B, n_mels, T) log-mel -> (B, T * hop) samples on the CPU; see `Codec.vocode`.

        Raises:
            AuffusionError: they are not finite.
        """
        waveform = self.codec.vocode(log_mel, generator).float().cpu()
        if not waveform.isfinite().all():
            raise AuffusionError(
                f"The sound is not finite in {dtype_name(self.dtype)}",
                hint="Try --dtype fp32 or bf16.",
            )
        return waveform

    # --- denoising

    def scheduler(self, settings: GenerateSettings) -> Any:
        """A new scheduler as `settings` name it."""
        return make_scheduler(settings.scheduler, self.scheduler_config)

    def denoiser(
        self, prompts: Sequence[str], negative_prompts: Sequence[str], settings: GenerateSettings
    ) -> Denoise:
        """`denoise` for as many latents as there are prompts, each one window wide."""
        conditioning = self.text.encode(prompts, negative_prompts)
        return guided_denoiser(
            self.unet, conditioning, settings.guidance_scale, settings.guidance_rescale
        )

    def windowed(self, denoise: Denoise) -> Denoise:
        """`denoise` for latents of any width."""
        return windowed_denoiser(denoise, self.window, self.overlap)

    # --- the record

    def provenance(
        self,
        request: Request,
        settings: GenerateSettings,
        samples: np.ndarray,
        *,
        gain_reduction_db: float | None = None,
    ) -> Provenance:
        """The record of a sound of this model, whose file holds `samples`."""
        versions = current_versions()
        if isinstance(self.codec.vocoder, GriffinLim):
            versions[GriffinLim.name] = GriffinLim.version
        return Provenance(
            request=request,
            settings=settings,
            model=self.name,
            revision=self.revision,
            vocoder=self.codec.vocoder.name,
            device=self.device.type,
            dtype=dtype_name(self.dtype),
            samples_sha256=hash_samples(samples),
            gain_reduction_db=gain_reduction_db,
            versions=versions,
        )
