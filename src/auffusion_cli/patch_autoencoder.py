"""Image <-> latent without a deep encoder: a whitened PCA of mel patches, refined after decoding.

A small model trained on a laptop cannot afford a deep `AutoencoderKL`. The principal components
of square mel patches reconstruct a mel image better than such a network does after an hour, cost
one matrix product, and are fitted in seconds; a small convolutional network then removes the block
edges that a linear transform leaves. Same interface as `autoencoder.KLAutoencoder`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

REFINEMENT_STRIDE = 4
"""The refinement network sees the image space-to-depth by this: few positions, wide layers."""


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Linear patch transform with learned refinement.

    `encode`: (B, 3, 256, W) image in 0..1 -> (B, C, 256 // f, W // f) latent, whose standard
    deviation falls from 1 in the coarsest component to `finest_std` in the finest, with f = `patch_size * space_to_depth` and C = `n_coefficients * space_to_depth**2`.
    `decode`: the reverse, clamped to 0..1. W must be a multiple of f.
    """

    @register_to_config
    def __init__(
        self,
        n_mels: int = 256,
        patch_size: int = 16,
        n_coefficients: int = 16,
        space_to_depth: int = 2,
        finest_std: float = 0.5,
        refinement_channels: int = 64,
        refinement_blocks: int = 4,
    ) -> None:
        super().__init__()
        n_rows, n_pixels = n_mels // patch_size, patch_size**2
        # What a patch looks like on average depends on its frequency: one mean a row of patches.
        self.register_buffer("patch_mean", torch.zeros(n_rows, n_pixels))
        self.register_buffer("components", torch.zeros(n_coefficients, n_pixels))
        self.register_buffer("coefficient_scale", torch.ones(n_coefficients))
        self.refinement = _Refinement(refinement_channels, refinement_blocks)

    @property
    def downsample(self) -> int:
        return self.config.patch_size * self.config.space_to_depth

    @property
    def latent_channels(self) -> int:
        return self.config.n_coefficients * self.config.space_to_depth**2

    def encode(self, image: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(image[:, :1], self.config.patch_size)  # (B, p*p, H/p, W/p)
        centred = patches - self.patch_mean.T[None, :, :, None]
        coefficients = torch.einsum("kp,bphw->bkhw", self.components, centred)
        whitened = coefficients / self.coefficient_scale[None, :, None, None]
        return F.pixel_unshuffle(whitened, self.config.space_to_depth)

    def decode(self, latent: Tensor) -> Tensor:
        image = self.decode_linear(latent)
        return self.refinement(image).clamp(0, 1).expand(-1, 3, -1, -1)

    def decode_linear(self, latent: Tensor) -> Tensor:
        """The unrefined (B, 1, H, W) image: the inverse of `encode`, up to the lost components."""
        whitened = F.pixel_shuffle(latent, self.config.space_to_depth)
        coefficients = whitened * self.coefficient_scale[None, :, None, None]
        centred = torch.einsum("kp,bkhw->bphw", self.components, coefficients)
        return F.pixel_shuffle(
            centred + self.patch_mean.T[None, :, :, None], self.config.patch_size
        )

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Set the transform to the principal components of `images` (N, 1 or 3, H, W).

        Returns the mean absolute error of the linear round trip on those images.
        """
        patches = F.pixel_unshuffle(images[:, :1].double(), self.config.patch_size)
        mean = patches.mean(dim=(0, 3)).T  # (H/p, p*p)
        centred = (patches - mean.T[None, :, :, None]).permute(0, 2, 3, 1).flatten(0, 2)
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        k = self.config.n_coefficients
        components = vectors.flip(1)[:, :k].T
        # The sign of an eigenvector is arbitrary: fix it, so that a fit can be repeated.
        components = components * components.sum(1, keepdim=True).sign()
        self.patch_mean.copy_(mean)
        self.components.copy_(components)
        # Coarse components matter more to the ear: let them stand out of the noise earlier.
        stds = torch.linspace(1, self.config.finest_std, k, dtype=variances.dtype)
        self.coefficient_scale.copy_(variances.flip(0)[:k].sqrt() / stds)
        linear = self.decode_linear(self.encode(images))
        return (linear - images[:, :1]).abs().mean().item()


class _Refinement(nn.Module):
    """Residual convolutions on the image taken space-to-depth; starts as the identity."""

    def __init__(self, channels: int, n_blocks: int) -> None:
        super().__init__()
        n_pixels = REFINEMENT_STRIDE**2
        self.conv_in = nn.Conv2d(n_pixels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(n_blocks)
        )
        self.conv_out = nn.Conv2d(channels, n_pixels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.conv_in(F.pixel_unshuffle(image, REFINEMENT_STRIDE))
        for block in self.blocks:
            hidden = hidden + block(F.silu(hidden))
        return image + F.pixel_shuffle(self.conv_out(F.silu(hidden)), REFINEMENT_STRIDE)
