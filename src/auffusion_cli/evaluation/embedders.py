"""The one interface of all networks that an evaluation listens with.

A network hears clips that `AudioInput` has prepared and returns what the metrics are made of. What
it returns for a clip does not depend on which clips are in the batch with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.evaluation.protocols import AudioInput

CODE_VERSION = 1
"""Goes up when a change of the code changes what a network returns, so that no cache goes stale."""


@dataclass(frozen=True)
class ClipFeatures:
    """What a network makes of one clip."""

    embeddings: np.ndarray
    """(n, D) float32: one row for the clip, or one for each frame of it."""
    logits: np.ndarray | None = None
    """(K,) float32, before softmax or sigmoid; None where the network does not classify."""


class Embedder(Protocol):
    """A network with its weights, ready to listen."""

    name: str
    """Such as "cnn14"."""
    weights_sha256: str
    """Of the weight file; names the weights in results and in the cache."""
    audio_input: AudioInput
    embedding_dim: int
    n_classes: int | None

    def embed(self, waveforms: Sequence[Tensor]) -> list[ClipFeatures]:
        """Features of clips (N_i,), prepared as `audio_input` says; lengths may differ."""


class TextEmbedder(Embedder, Protocol):
    """A network that puts texts and clips into the same space (CLAP)."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32, one row a text."""


def identity(embedder: Embedder) -> str:
    """16 hexadecimal digits that change with everything on which a clip's features depend."""
    facts = [
        CODE_VERSION,
        embedder.name,
        embedder.weights_sha256,
        asdict(embedder.audio_input),
        embedder.embedding_dim,
        embedder.n_classes,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def by_length(waveforms: Sequence[Tensor], max_samples: int) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, clips (B, N)) of equal length, so that no clip needs padding for the batch.

    A batch has up to `max_samples` samples, or one clip.
    """
    lengths: dict[int, list[int]] = {}
    for index, waveform in enumerate(waveforms):
        lengths.setdefault(len(waveform), []).append(index)
    for length, indices in lengths.items():
        size = max(max_samples // max(length, 1), 1)
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            yield part, torch.stack([waveforms[index] for index in part])
