"""`codec.image` for tensors, with gradients and three channels: what training needs of it.

Range and orientation are those of `ImageConfig` and of `codec.image`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.config import ImageConfig


def log_mel_to_image(log_mel: Tensor, config: ImageConfig | None = None) -> Tensor:
    """(B, M, T) log-mel -> (B, 3, M, T) grey image in 0..1, low frequencies at the bottom.

    Values beyond the range of `config` are clamped to it.
    """
    config = config or ImageConfig()
    clamped = log_mel.clamp(config.log_mel_min, config.log_mel_max)
    grey = (clamped - config.log_mel_min) / (config.log_mel_max - config.log_mel_min)
    return grey.flip(-2).unsqueeze(1).repeat(1, 3, 1, 1)


def image_to_log_mel(image: Tensor, config: ImageConfig | None = None) -> Tensor:
    """(B, 3, M, T) image in 0..1 -> (B, M, T) log-mel; reads the first channel, as the original."""
    config = config or ImageConfig()
    grey = image[:, 0].clamp(0, 1).flip(-2)
    return grey * (config.log_mel_max - config.log_mel_min) + config.log_mel_min


def pad_image(image: Tensor, width: int) -> Tensor:
    """(B, 3, M, T) -> (B, 3, M, width), with 0 (the quietest) on the right."""
    n_missing = width - image.shape[-1]
    if n_missing < 0:
        raise ValueError(f"cannot pad an image of width {image.shape[-1]} to width {width}")
    return F.pad(image, (0, n_missing))
