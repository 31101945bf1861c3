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

from auffusion_cli.codec.texture import TextureStrength

REFINEMENT_STRIDE = 4
"""The refinement network sees the image space-to-depth by this: few positions, wide layers."""
FIT_CHUNK = 64
MAX_TEXTURE_STRENGTH = 1.0
"""More is predicted for voices, whose residual is harmonics that noise cannot stand in for."""
MIN_VARIANCE = 1e-8
"""Of a coefficient, where the images have fewer components than asked for: 0 cannot be whitened."""


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Linear patch transform with learned refinement.

    `encode`: (B, 3, 256, W) image in 0..1 -> (B, C, 256 // f, W // f) latent, whose standard
    deviation falls from 1 in the coarsest component to `finest_std` in the finest, with
    f = `patch_size * space_to_depth` and C = `n_coefficients * space_to_depth**2`.
    `decode`: the reverse, clamped to 0..1. W must be a multiple of f. With `texture_channels` it
    also predicts the texture that its images lack; see `texture`.
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
        texture_channels: int = 0,
    ) -> None:
        super().__init__()
        downsample = patch_size * space_to_depth
        n_pixels = patch_size**2
        if downsample < 1 or n_mels % downsample or downsample % REFINEMENT_STRIDE:
            raise ValueError(
                f"patch_size {patch_size} x space_to_depth {space_to_depth} must divide n_mels "
                f"({n_mels}) and be a multiple of {REFINEMENT_STRIDE}"
            )
        if not 1 <= n_coefficients <= n_pixels:
            raise ValueError(f"n_coefficients is {n_coefficients}; it must be 1 to {n_pixels}")
        if not finest_std > 0:
            raise ValueError(f"finest_std is {finest_std}; it must be above 0")
        n_rows = n_mels // patch_size
        # The mean patch depends on its frequency: one mean for each row of patches.
        self.register_buffer("patch_mean", torch.zeros(n_rows, n_pixels))
        self.register_buffer("components", torch.zeros(n_coefficients, n_pixels))
        self.register_buffer("coefficient_scale", torch.ones(n_coefficients))
        self.refinement = _Refinement(refinement_channels, refinement_blocks)
        self.texture = (
            TextureStrength(n_coefficients, texture_channels) if texture_channels else None
        )

    @property
    def downsample(self) -> int:
        return self.config.patch_size * self.config.space_to_depth

    @property
    def latent_channels(self) -> int:
        return self.config.n_coefficients * self.config.space_to_depth**2

    def encode(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(self._whitened(image), self.config.space_to_depth)

    def _whitened(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) image -> (B, K, H / p, W / p) coefficients of its patches."""
        patches = F.pixel_unshuffle(image[:, :1], self.config.patch_size)  # (B, p*p, H/p, W/p)
        centred = patches - self.patch_mean.T[None, :, :, None]
        coefficients = torch.einsum("kp,bphw->bkhw", self.components, centred)
        return coefficients / self.coefficient_scale[None, :, None, None]

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

    def texture_log_variance(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) decoded image -> (B, 1, H / p, W / p): see `TextureStrength`."""
        level = F.avg_pool2d(image[:, :1], self.config.patch_size)
        return self.texture(self._whitened(image), level)

    def texture_strength(self, image: Tensor) -> Tensor:
        """(B, 1, H, W): by what to multiply white noise's texture; without edges at the patches."""
        log_strength = self.texture_log_variance(image) / 2
        smooth = F.interpolate(log_strength, scale_factor=self.config.patch_size, mode="bilinear")
        return smooth.exp().clamp(max=MAX_TEXTURE_STRENGTH)

    def lost(self, image: Tensor) -> Tensor:
        """Part of deviations from the mean image, (B, 1, H, W), outside of the components' span."""
        patches = F.pixel_unshuffle(image, self.config.patch_size)
        coefficients = torch.einsum("kp,bphw->bkhw", self.components, patches)
        kept = torch.einsum("kp,bkhw->bphw", self.components, coefficients)
        return F.pixel_shuffle(patches - kept, self.config.patch_size)

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Set the transform to the principal components of `images` (N, 1 or 3, H, W).

        Returns the mean absolute error of the linear round trip on those images.
        """
        p, k = self.config.patch_size, self.config.n_coefficients
        chunks = images[:, :1].split(FIT_CHUNK)  # so that one of them at a time is in float64
        patches = (F.pixel_unshuffle(chunk.double(), p) for chunk in chunks)
        mean = sum(chunk.sum(dim=(0, 3)) for chunk in patches) / (
            len(images) * images.shape[-1] // p
        )

        covariance = torch.zeros(p * p, p * p, dtype=torch.float64, device=images.device)
        for chunk in chunks:
            centred = F.pixel_unshuffle(chunk.double(), p) - mean[None, :, :, None]
            centred = centred.permute(0, 2, 3, 1).flatten(0, 2)
            covariance += centred.T @ centred
        n_patches = len(images) * images.shape[-2] * images.shape[-1] // (p * p)
        variances, vectors = torch.linalg.eigh(covariance / n_patches)
        components = vectors.flip(1)[:, :k].T
        # The sign of an eigenvector is arbitrary: fix it, so that a fit can be repeated.
        components = torch.where(components.sum(1, keepdim=True) < 0, -components, components)
        self.patch_mean.copy_(mean.T)
        self.components.copy_(components)
        # Coarse components matter more perceptually: let them rise above the noise earlier.
        stds = torch.linspace(1, self.config.finest_std, k, dtype=variances.dtype)
        scale = variances.flip(0)[:k].clamp_min(MIN_VARIANCE).sqrt()
        self.coefficient_scale.copy_(scale / stds.to(scale.device))

        errors = 0.0
        for chunk in chunks:
            linear = self.decode_linear(self.encode(chunk.float()))
            errors += (linear - chunk).abs().sum().item()
        return errors / images[:, :1].numel()


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
