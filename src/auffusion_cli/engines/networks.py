"""The border between the program, which is NumPy, and the engines of the networks. No torch.

Everything that crosses it is a float32 array on the CPU in C order, whatever precision and device
the engine computes in; an engine never keeps or changes what it is given. Random numbers, tokens,
schedules, guidance and the log-mel are the program's, so that one seed is one sound in all engines.

Shapes: B sounds; n tokens; T_i rows and D_i channels of text encoder i; T the sum of T_i; D the
UNet's cross-attention width; latents (C, h, w), of images (H, W) = (h * f, w * f), f the
autoencoder's downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class NetworkSizes:
    """What the program has to know of a model's networks; the same in every engine."""

    text_widths: tuple[int, ...]
    """D_i of each text encoder."""
    cross_attention_dim: int
    """D"""
    has_adapters: bool
    """Whether text goes through `adapt`, which is the layout of the published checkpoints; without
    adapters all of `text_widths` are `cross_attention_dim`."""
    latent_channels: int
    """C"""
    downsample: int
    """f"""
    has_texture: bool
    """Whether `texture` can be called."""
    has_vocoder: bool
    """Whether `vocode` can be called; the sound is made by Griffin-Lim else."""
    sees_known: bool = False
    """Whether `predict` takes `known`: (1, 1 + C, h, w), a mask that is 1 where latents are to stay
    as they are, and these latents, zero elsewhere."""


class Networks(Protocol):
    """The networks of a model in evaluation mode.

    Any of them raises DeviceMemoryError where the memory of `device` does not suffice for the
    batch; a smaller one may be tried after it.
    """

    engine: str
    """torch or onnx"""
    device: str
    """Its kind, as records name it: cpu, cuda, mps ..."""
    dtype: str
    """fp32, fp16 or bf16: what the UNet is computed in."""
    sizes: NetworkSizes

    def hidden_states(
        self, encoder: int, token_ids: np.ndarray, attention_mask: np.ndarray | None
    ) -> np.ndarray:
        """(B, n) int64 -> (B, n, D_i): the last hidden states of text encoder number `encoder`.

        `attention_mask` (B, n) int64 is 0 where a token is padding; None attends to all.
        """
        ...

    def adapt(self, encoder: int, hidden_states: np.ndarray) -> np.ndarray:
        """(B, T_i, D_i), zero where it is padded -> (B, T_i, D), by the adapter of `encoder`."""
        ...

    def predict(self, latents: np.ndarray, timestep: float, text: np.ndarray) -> np.ndarray:
        """The UNet: (B, C, h, w) at `timestep` with (B, T, D) -> (B, C, h, w), its raw output.

        h and w are any for which the sampler asks; `timestep` need not be whole (Euler's are not).
        """
        ...

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        """(B, 1, H, W) grey image in 0..1 -> (B, C, h, w) latents, scaled for the UNet.

        Of an autoencoder of colour images all three channels get the grey one.
        """
        ...

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """(B, C, h, w) -> (B, 1, H, W) image in 0..1: the first channel of a colour image."""
        ...

    def texture(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """(B, 1, H, W) decoded image and (1, 1, H, W) -> (B, 1, H, W), what is added to log-mels.

        `noise` is the log-mel of white noise without each band's mean, lowest band at the bottom;
        the result is the part of it that latents cannot carry, times the predicted strength.
        """
        ...

    def vocode(self, log_mel: np.ndarray) -> np.ndarray:
        """(B, n_mels, frames) log-mel -> (B, frames * hop) samples in -1..1: trained vocoder."""
        ...
