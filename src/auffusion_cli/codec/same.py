"""SAME, the autoencoder of Stable Audio 3 (arXiv 2605.17991, section 2.1), as torch modules.

Its layers attend to a few latents around each only. So a long sound is computed in pieces that see
as far as the layers do: the result is that of the whole, for memory of one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderSAME
from diffusers.models.autoencoders.autoencoder_same import (
    AutoencoderSAMEDecoderOutput,
    AutoencoderSAMEOutput,
    SAMETransformerResamplingBlock,
)
from torch import Tensor, nn
from torch.nn.utils import weight_norm

PIECE_COLUMNS = 128
"""An even number of latents."""
CHUNKS_SEEN = 4
"""Latents on either side of one that `ChunkedBlock` may draw on: two of its layers' chunks, and the
neighbour that the convolution of the decoder takes in; even."""


class ChunkedBlock(SAMETransformerResamplingBlock):
    """The block of the small autoencoder, SAME-S, which attends within chunks of two latents.

    The second half of its layers has the chunks shifted by one latent, so that neighbours meet. At
    the ends the outermost latent is repeated.
    """

    latents_per_chunk = 2

    def __init__(self, *, mapping_kernel: int = 1, **sizes: Any) -> None:
        super().__init__(**sizes)
        if mapping_kernel != 1:
            wide = nn.Conv1d(
                self.in_channels, self.out_channels, mapping_kernel, padding=mapping_kernel // 2
            )
            self.mapping = weight_norm(wide)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, n) -> (B, out_channels, m): n is `stride` times m, or the inverse."""
        encodes = self.mode == "encoder"
        n_in, n_out = (self.stride, 1) if encodes else (1, self.stride)
        n_latents = -(-x.shape[-1] // n_in)
        x = F.pad(x, (0, -x.shape[-1] % (n_in * self.latents_per_chunk)))
        if encodes:
            x = self.mapping(x)
        segments = x.transpose(1, 2).unflatten(1, (-1, n_in))
        new = self.new_tokens[None].expand(*segments.shape[:2], n_out, -1)
        attended = self._attend(torch.cat([segments, new], dim=2).flatten(1, 2))
        made = attended.unflatten(1, (-1, n_in + n_out))[:, :, n_in:].flatten(1, 2).transpose(1, 2)
        return (made if encodes else self.mapping(made))[..., : n_latents * n_out]

    def _attend(self, tokens: Tensor) -> Tensor:
        size = self.latents_per_chunk * (self.stride + 1)
        half, shift = len(self.transformers) // 2, size // 2
        tokens = _in_chunks(tokens, self.transformers[:half], size)
        longer = torch.cat([tokens[:, :shift], tokens, tokens[:, -shift:]], dim=1)
        return _in_chunks(longer, self.transformers[half:], size)[:, shift:-shift]


def _in_chunks(tokens: Tensor, layers: nn.ModuleList, size: int) -> Tensor:
    """(B, n * size, D) through `layers`, each chunk of `size` by itself."""
    chunks = tokens.unflatten(1, (-1, size)).flatten(0, 1)
    for layer in layers:
        chunks = layer(chunks)
    return chunks.unflatten(0, (len(tokens), -1)).flatten(1, 2)


class SAME(nn.Module):
    """diffusers' network, computed in pieces; `encode` and `decode` return what its own do."""

    def __init__(self, network: AutoencoderSAME) -> None:
        super().__init__()
        self.network = network
        self.hop_samples: int = network.downsampling_ratio
        blocks = [*network.encoder.blocks, *network.decoder.blocks]
        is_chunked = isinstance(blocks[0], ChunkedBlock)
        self.column_multiple = ChunkedBlock.latents_per_chunk if is_chunked else 1
        depth = max(len(block.transformers) for block in blocks) * network.config.sliding_window
        self.context_columns = CHUNKS_SEEN if is_chunked else depth + depth % 2
        """Latents that a piece sees on either side; even."""

    @property
    def config(self) -> Any:
        return self.network.config

    def encode(self, waveform: Tensor) -> AutoencoderSAMEOutput:
        """(B, C, w * hop) samples -> (B, c, w)."""
        made = self._in_pieces(
            lambda piece: self.network.encode(piece).latents, waveform, self.hop_samples, 1
        )
        return AutoencoderSAMEOutput(latents=made)

    def decode(self, latents: Tensor) -> AutoencoderSAMEDecoderOutput:
        """(B, c, w) latents -> (B, C, w * hop)."""
        made = self._in_pieces(
            lambda piece: self.network.decode(piece).sample, latents, 1, self.hop_samples
        )
        return AutoencoderSAMEDecoderOutput(sample=made)

    def _in_pieces(
        self, compute: Callable[[Tensor], Tensor], x: Tensor, n_in: int, n_out: int
    ) -> Tensor:
        """`compute` of x, which has `n_in` values a latent, and of which it makes `n_out`."""
        n = x.shape[-1] // n_in
        pieces = []
        for start in range(0, n, PIECE_COLUMNS):
            first = max(start - self.context_columns, 0)
            last = min(start + PIECE_COLUMNS + self.context_columns, n)
            made = compute(x[..., first * n_in : last * n_in])
            end = min(start + PIECE_COLUMNS, n)
            pieces.append(made[..., (start - first) * n_out : (end - first) * n_out])
        return torch.cat(pieces, dim=-1)
