"""`vocabulary/` of a checkpoint <-> `Vocabulary`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.weights import open_tensors, save_weights
from auffusion_cli.diffusion.vocabulary import Vocabulary, dequantised, quantised
from auffusion_cli.errors import CheckpointError

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
    if not isinstance(min_similarity, float) or not 0 <= min_similarity <= 1:
        raise CheckpointError(f"{path}: min_similarity is {min_similarity!r}; it must be 0 to 1")
    tensors = open_tensors(folder / TENSORS)
    sentences, kind_of = (tensors.get(name, torch.empty(0)) for name in ("sentences", "kind_of"))
    if (
        sentences.dim() != 2
        or kind_of.shape != sentences.shape[:1]
        or kind_of.is_floating_point()
        or not len(kind_of)
        or not -1 <= int(kind_of.min()) <= int(kind_of.max()) < len(kinds)
    ):
        raise CheckpointError(
            f"{folder / TENSORS}: not (N, D) sentences with a kind_of (N,) of the {len(kinds)} "
            "kinds"
        )
    return Vocabulary(tuple(kinds), dequantised(sentences), kind_of.long(), min_similarity)


def save_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write it into the checkpoint in `folder`."""
    folder = folder / FOLDER
    folder.mkdir()
    config = {"min_similarity": vocabulary.min_similarity, "kinds": vocabulary.kinds}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    tensors = {
        "sentences": quantised(vocabulary.sentences),
        "kind_of": vocabulary.kind_of.to(torch.int16),
    }
    save_weights(tensors, folder / TENSORS, torch.float32)
