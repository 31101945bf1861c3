"""image <-> latent: the two autoencoders behind one interface, and how a folder is loaded.

Both have `encode(image) -> latent`, `decode(latent) -> image`, `latent_channels` and `downsample`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.checkpoints.weights import find_weights, open_tensors
from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ModelMixin
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder


class KLAutoencoder(nn.Module):
    """The variational autoencoder of latent diffusion (arXiv 2112.10752, section 3.1).

    With three input channels it is Stable Diffusion's and sees the image as it is. With k * k
    channels (1, 4, 16 or 64) it sees one mel channel whose k x k patches became channels
    (space-to-depth), so that a small network covers a large image.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        n_channels = vae.config.in_channels
        if n_channels not in (1, 3, 4, 16, 64):
            raise CheckpointError(
                f"autoencoder: in_channels is {n_channels}; it can be 3 (a colour image) or "
                "1, 4, 16 or 64 (one mel channel, space-to-depth by 1, 2, 4 or 8)"
            )
        if vae.config.out_channels != n_channels:
            raise CheckpointError(
                f"autoencoder: out_channels is {vae.config.out_channels} "
                f"but in_channels is {n_channels}; they must be equal"
            )
        self.vae = vae
        self.patch_size = 1 if n_channels == 3 else math.isqrt(n_channels)
        self.latent_channels: int = vae.config.latent_channels
        self.downsample: int = self.patch_size * 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor: float = vae.config.scaling_factor
        self.shift_factor: float = vae.config.shift_factor or 0.0

    def image_to_input(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) image in 0..1 -> (B, in_channels, H // k, W // k) in -1..1."""
        scaled = image.to(self.vae.dtype) * 2 - 1
        if self.vae.config.in_channels == 3:
            return scaled
        return F.pixel_unshuffle(scaled[:, :1], self.patch_size)

    def output_to_image(self, output: Tensor) -> Tensor:
        """The inverse of `image_to_input`; not clamped, so that a loss can use it."""
        if self.vae.config.out_channels != 3:
            output = F.pixel_shuffle(output, self.patch_size).expand(-1, 3, -1, -1)
        return output / 2 + 0.5

    def posterior(self, image: Tensor) -> DiagonalGaussianDistribution:
        """Distribution of the unscaled latents of an image (B, 3, H, W) in 0..1."""
        return self.vae.encode(self.image_to_input(image)).latent_dist

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, latent_channels, H // f, W // f), scaled for the UNet.

        The mode of the posterior: the same image always gives the same latent.
        """
        return (self.posterior(image).mode() - self.shift_factor) * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, h * f, w * f) in 0..1."""
        unscaled = latent.to(self.vae.dtype) / self.scaling_factor + self.shift_factor
        return self.output_to_image(self.vae.decode(unscaled).sample).clamp(0, 1)


def load_autoencoder(
    folder: str | Path, dtype: torch.dtype = torch.float32
) -> KLAutoencoder | PatchAutoencoder:
    """The autoencoder of a folder, by the `_class_name` in its config.json, in evaluation mode.

    Raises CheckpointError, naming the file and where possible the tensor, where the folder is
    incomplete, damaged, or holds weights that do not fit its config.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    try:
        class_name = json.loads(config_path.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{config_path}: not the config of an autoencoder: {error!r}"
        ) from error

    if class_name == "AutoencoderKL":
        from diffusers import AutoencoderKL

        return KLAutoencoder(_load_weights(AutoencoderKL, folder, dtype)).eval()
    if class_name == "PatchAutoencoder":
        from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder

        return _load_weights(PatchAutoencoder, folder, dtype).eval()
    raise CheckpointError(
        f"{config_path}: _class_name is {class_name!r}; it can be AutoencoderKL or PatchAutoencoder"
    )


def _load_weights(model_class: type[ModelMixin], folder: Path, dtype: torch.dtype) -> ModelMixin:
    files = find_weights(folder, "diffusion_pytorch_model")
    for path in files:
        open_tensors(path)  # refuses what is unsafe or damaged in words of our own
    try:
        model, loaded = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant="fp16" if ".fp16" in files[0].name else None,
            use_safetensors=files[0].suffix == ".safetensors",
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises many kinds for a damaged or foreign file
        raise CheckpointError(f"{folder}: cannot load the autoencoder: {error}") from error
    # diffusers leaves tensors that the file lacks at random values and says so only in its log.
    if loaded["missing_keys"]:
        raise CheckpointError(f"{folder}: the weights lack {min(loaded['missing_keys'])!r}")
    return model
