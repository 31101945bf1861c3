"""image <-> latent: the two autoencoders behind one interface.

Both have `encode(image) -> latent`, `decode(latent) -> image`, `latent_channels` and `downsample`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


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
        self.texture = None  # its decoder makes texture itself
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
