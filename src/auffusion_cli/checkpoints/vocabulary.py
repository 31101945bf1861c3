"""`vocabulary/` of a checkpoint <-> `Vocabulary`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.diffusion.vocabulary import Vocabulary, dequantised, quantised
from auffusion_cli.errors import CheckpointError, first_line

FOLDER = "vocabulary"
CONFIG = "config.json"
TENSORS = "vocabulary.safetensors"


def load_vocabulary(folder: Path) -> Vocabulary | None:
    """The wordings that the checkpoint in `folder` was taught; None where it does not state them.

    Raises:
        CheckpointError: what it states is damaged.
    """
    folder = folder / FOLDER
    if not folder.is_dir():
        return None
    path = folder / CONFIG
    config = read_json(path)
    kinds, min_similarity = config.get("kinds"), config.get("min_similarity")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise CheckpointError(f"{path}: kinds is not a list of names")
    backgrounds = config.get("backgrounds", [])
    if not isinstance(backgrounds, list) or not all(kind in kinds for kind in backgrounds):
        raise CheckpointError(f"{path}: backgrounds is not a list of its kinds")
    if not isinstance(min_similarity, float) or not 0 <= min_similarity <= 1:
        raise CheckpointError(f"{path}: min_similarity is {min_similarity!r}; it must be 0 to 1")
    sentences, kind_of = _read_arrays(folder / TENSORS, "sentences", "kind_of")
    if (
        sentences.ndim != 2
        or kind_of.shape != sentences.shape[:1]
        or kind_of.dtype.kind not in "iu"
        or not len(kind_of)
        or not -1 <= int(kind_of.min()) <= int(kind_of.max()) < len(kinds)
    ):
        raise CheckpointError(
            f"{folder / TENSORS}: not (N, D) sentences with a kind_of (N,) of the {len(kinds)} "
            "kinds"
        )
    return Vocabulary(
        tuple(kinds),
        dequantised(sentences),
        kind_of.astype(np.int64),
        min_similarity,
        frozenset(backgrounds),
    )


def _read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The arrays of a safetensors file; empty ones where it lacks them."""
    try:
        with safe_open(path, framework="numpy") as file:
            there = set(file.keys())
            return [file.get_tensor(n) if n in there else np.empty(0) for n in names]
    except Exception as error:  # of a damaged file, of many kinds
        raise CheckpointError(f"{path}: {first_line(error)}") from error


def save_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write it into the checkpoint in `folder`."""
    folder = folder / FOLDER
    folder.mkdir()
    config = {
        "min_similarity": vocabulary.min_similarity,
        "backgrounds": [kind for kind in vocabulary.kinds if kind in vocabulary.backgrounds],
        "kinds": vocabulary.kinds,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    tensors = {  # of C order: safetensors writes the memory as it lies
        "sentences": np.ascontiguousarray(quantised(vocabulary.sentences)),
        "kind_of": vocabulary.kind_of.astype(np.int16),
    }
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
