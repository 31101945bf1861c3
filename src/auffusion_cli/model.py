"""`Model`: everything that turns words into sound, loaded and in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from auffusion_cli.codec.codec import Codec
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.device import dtype_name
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.windows import OVERLAP_SHARE
from auffusion_cli.requests.provenance import Provenance, hash_samples

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from auffusion_cli.requests.request import GenerateSettings, Request


@dataclass
class Model:
    """A loaded checkpoint, in evaluation mode on `device`.

    The UNet and the text conditioner are in `dtype`; the codec keeps its spectrogram and vocoder in
    float32.
    """

    name: str
    """A known name, a Hub id, or the folder it came from."""
    revision: str | None
    """The commit on the Hub; None for a folder."""
    licence: str | None
    """Its name, or where it is told."""
    codec: Codec
    text: TextConditioner
    unet: UNet2DConditionModel
    scheduler_config: dict[str, Any]
    defaults: GenerationDefaults
    device: torch.device
    dtype: torch.dtype
    credits: str | None = None
    """CREDITS.md: whom a licence asks to name. It goes on with whatever is made of the model."""

    @property
    def window(self) -> int:
        """The width of what it was trained on, in columns of the latent."""
        return self.codec.latent_shape(self.defaults.max_duration_s)[2]

    @property
    def overlap(self) -> int:
        """What neighbouring windows that are denoised together share, in columns of the latent."""
        return round(self.window * OVERLAP_SHARE)

    def provenance(
        self,
        request: Request,
        settings: GenerateSettings,
        samples: np.ndarray,
        *,
        turned_down_db: float | None = None,
    ) -> Provenance:
        """The record of a sound of this model, whose file holds `samples`."""
        return Provenance(
            request=request,
            settings=settings,
            model=self.name,
            revision=self.revision,
            vocoder=self.codec.vocoder.name,
            device=self.device.type,
            dtype=dtype_name(self.dtype),
            samples_sha256=hash_samples(samples),
            turned_down_db=turned_down_db,
        )
