"""log-mel spectrogram <-> image: the one place that knows the image's range and orientation.

An image here has one channel, grey; autoencoders of colour images see it three times. With
gradients, for training: `tensor_image`.

Source: Auffusion (arXiv 2401.01044), section 3.2.
"""

from __future__ import annotations

import numpy as np

from auffusion_cli.config import ImageConfig


def log_mel_to_image(log_mel: np.ndarray, config: ImageConfig) -> np.ndarray:
    """(B, M, T) log-mel -> (B, 1, M, T) grey image in 0..1, low frequencies at the bottom.

    Values beyond the range of `config` are clamped to it.
    """
    clamped = log_mel.clip(config.log_mel_min, config.log_mel_max)
    grey = (clamped - config.log_mel_min) / (config.log_mel_max - config.log_mel_min)
    return np.ascontiguousarray(grey[:, None, ::-1], np.float32)


def image_to_log_mel(image: np.ndarray, config: ImageConfig) -> np.ndarray:
    """(B, 1, M, T) image in 0..1 -> (B, M, T) log-mel."""
    grey = image[:, 0, ::-1].clip(0, 1)
    return grey * (config.log_mel_max - config.log_mel_min) + config.log_mel_min


def pad_image(image: np.ndarray, width: int) -> np.ndarray:
    """(B, C, M, T) -> (B, C, M, width), with 0 (the quietest) on the right."""
    n_missing = width - image.shape[-1]
    if n_missing < 0:
        raise ValueError(f"cannot pad an image of width {image.shape[-1]} to width {width}")
    return np.pad(image, ((0, 0), (0, 0), (0, 0), (0, n_missing)))
