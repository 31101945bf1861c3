"""Texture: the fluctuation of noise-like sounds, which a latent is too small to carry.

The log-mel of rain fluctuates from cell to cell; a decoder that was trained by an L1 loss gives its
median. What is missing is drawn again: the log-mel of white noise, without the part that latents
carry, times a strength that a small network predicts for each patch of the decoded image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextureStrength(nn.Module):
    """Predicts how much texture each patch of a decoded image lacks; 1 is white noise's own."""

    def __init__(self, n_coefficients: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(n_coefficients + 2, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
            nn.SiLU(),
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, coefficients: Tensor, level: Tensor) -> Tensor:
        """(B, K, h, w) and mean grey (B, 1, h, w) of patches -> (B, 1, h, w) log of the variance.

        Variance means: relative to that of white noise's texture in the same row.
        """
        row = torch.linspace(-1, 1, level.shape[-2], device=level.device, dtype=level.dtype)
        row = row[:, None].expand_as(level)
        return self.layers(torch.cat([coefficients, 4 * level - 2, row], dim=1))
