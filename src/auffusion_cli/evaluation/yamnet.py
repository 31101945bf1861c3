"""YAMNet: a classifier of AudioSet's 521 classes of sound, run by LiteRT.

The published .tflite takes 0.975 s of waveform at 16 kHz and returns the probabilities of the
classes, several of which may be high at once; the layer before the classifier is the embedding. It
was trained by others on other sounds than the models and the tagger of this package, so that it is
a judge independent of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.errors import CheckpointError, UsageError, first_line
from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.protocols import AudioInput

WINDOW_SAMPLES, HOP_SAMPLES = 15_600, 7_680
EMBEDDING_DIM, N_CLASSES = 1024, 521
LEAST_PROBABILITY = 1e-7
"""Probabilities are kept this far from 0 and 1, where logits are infinite."""

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(15600,) samples -> (embedding (1024,), probabilities (521,))"""


class YamnetEmbedder:
    """`Embedder`: for each clip the mean embedding, and the largest logit of each class."""

    name = "yamnet"
    embedding_dim = EMBEDDING_DIM
    n_classes = N_CLASSES
    device = torch.device("cpu")

    def __init__(self, network: Network, audio_input: AudioInput, weights_sha256: str) -> None:
        self.network = network
        self.audio_input = audio_input
        self.weights_sha256 = weights_sha256
        self.class_names = class_names()

    def embed(self, waveforms: Sequence[Tensor]) -> list[ClipFeatures]:
        """See `Embedder`."""
        return [self._embed(waveform.numpy()) for waveform in waveforms]

    def _embed(self, samples: np.ndarray) -> ClipFeatures:
        embeddings, probabilities = zip(*map(self.network, windows(samples)), strict=True)
        p = np.max(probabilities, axis=0).astype(np.float64)
        p = p.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logits = np.log(p) - np.log1p(-p)
        embedding = np.mean(embeddings, axis=0, dtype=np.float64)[None]
        return ClipFeatures(embedding.astype(np.float32), logits.astype(np.float32))


def windows(samples: np.ndarray) -> np.ndarray:
    """(N,) -> (n, 15600): a window every 0.48 s, with zeros after the end of the clip."""
    n = 1 + max(0, -(-(len(samples) - WINDOW_SAMPLES) // HOP_SAMPLES))
    n_missing = (n - 1) * HOP_SAMPLES + WINDOW_SAMPLES - len(samples)
    padded = np.pad(samples.astype(np.float32), (0, n_missing))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]


@cache
def class_names() -> tuple[str, ...]:
    """AudioSet's names of the classes, in the order of the outputs."""
    text = resources.files("auffusion_cli.evaluation") / "yamnet_classes.txt"
    return tuple(text.read_text(encoding="utf-8").splitlines())


def load_yamnet(path: Path) -> Network:
    """The network of a .tflite.

    Raises:
        UsageError: LiteRT is not installed.
        CheckpointError: the file is not YAMNet's.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UsageError(
            "the backbone yamnet needs LiteRT, which is not installed",
            hint="Install it: pip install 'auffusion[yamnet]'.",
        )
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            str(path),
            num_threads=torch.get_num_threads(),
            # A delegate would hide the embedding, which is no output of the network.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a network that LiteRT can load: {first_line(error)}"
        ) from None
    return as_network(interpreter, path)


def as_network(interpreter, path: Path) -> Network:
    """`interpreter` with its tensors found by their shapes. Raises CheckpointError."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    embeddings = [
        tensor["index"]
        for tensor in interpreter.get_tensor_details()
        if _shape(tensor) == (1, EMBEDDING_DIM) and tensor["dtype"] == np.float32
    ]
    shapes = [_shape(inputs[0]) if inputs else (), _shape(outputs[0]) if outputs else ()]
    if shapes != [(WINDOW_SAMPLES,), (1, N_CLASSES)] or not embeddings:
        raise CheckpointError(
            f"{path}: not YAMNet: from {shapes[0]} to {shapes[1]}, instead of from"
            f" ({WINDOW_SAMPLES},) to (1, {N_CLASSES}) by an embedding of {EMBEDDING_DIM}"
        )
    waveform, scores = inputs[0]["index"], outputs[0]["index"]

    def run(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        interpreter.set_tensor(waveform, samples)
        interpreter.invoke()
        return interpreter.get_tensor(embeddings[-1])[0], interpreter.get_tensor(scores)[0]

    return run


def _shape(tensor) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor["shape"])
