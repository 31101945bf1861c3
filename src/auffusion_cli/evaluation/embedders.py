"""The interface of all networks of an evaluation.

A network takes clips that `AudioInput` has prepared, and returns the features that metrics are made
of. The features of a clip do not depend on the other clips in its batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.evaluation.protocols import AudioInput

CODE_VERSION = 3
"""Goes up when a change of the code changes what a network returns, so that no cache goes stale."""


@dataclass(frozen=True)
class ClipFeatures:
    """The features of one clip by one network."""

    embeddings: np.ndarray
    """(n, D) float32: one row for the clip, or one for each frame of it."""
    logits: np.ndarray | None = None
    """(K,) float32, before softmax or sigmoid; None where the network does not classify."""


class Embedder(Protocol):
    """A network with its weights, for inference."""

    name: str
    """Name such as "cnn14"."""
    weights_sha256: str
    """Checksum of the weight file, which names the weights in results and in the cache."""
    audio_input: AudioInput
    embedding_dim: int
    n_classes: int | None
    class_names: Sequence[str] | None
    """Names of the logits, where they are known."""
    device: torch.device

    def embed(self, waveforms: Sequence[Tensor]) -> Iterable[ClipFeatures]:
        """Features of clips (N_i,) on the CPU, prepared as `audio_input` says; lengths may differ.

        A GPU may still be at work when this returns: going through the result waits for it.
        """


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


class AsyncCopy:
    """A copy of a tensor to the CPU, begun and not waited for until `numpy` is called."""

    def __init__(self, x: Tensor) -> None:
        # Only CUDA has events for a single copy; elsewhere it is waited for at once.
        self._copy = x.to("cpu", non_blocking=x.is_cuda)
        self._arrival = torch.cuda.current_stream(x.device).record_event() if x.is_cuda else None

    def numpy(self) -> np.ndarray:
        if self._arrival is None:
            return self._copy.numpy()
        self._arrival.synchronize()
        return self._copy.numpy().copy()  # what CUDA copies into is page-locked, and short


@contextmanager
def no_tf32() -> Iterator[None]:
    """Convolutions in whole float32 on NVIDIA's GPUs, where torch rounds to TF32's 10 bits.

    Embeddings in TF32 differ by about one part in 1,000, and the cache of features does not
    distinguish devices.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def by_length(
    waveforms: Sequence[Tensor], max_samples: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, clips (B, N) on `device`) of equal length, so that none needs padding for a batch.

    A batch has up to `max_samples` samples, or one clip.
    """
    lengths: dict[int, list[int]] = {}
    for index, waveform in enumerate(waveforms):
        lengths.setdefault(len(waveform), []).append(index)
    for length, indices in lengths.items():
        size = max(max_samples // max(length, 1), 1)
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            clips = [waveforms[index].to(device, non_blocking=True) for index in part]
            yield part, torch.stack(clips)
