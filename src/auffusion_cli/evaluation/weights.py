"""The networks of a protocol: their weight files, found or fetched, checked and loaded.

Everything in a file is untrusted: pickles are read without running their code, and names and shapes
must be exactly the network's. Which bytes were loaded is recorded by their checksum.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auffusion_cli.checkpoints import download, names
from auffusion_cli.checkpoints.weights import read_file
from auffusion_cli.errors import AuffusionWarning, CheckpointError
from auffusion_cli.evaluation import clap, cnn14, vggish, yamnet
from auffusion_cli.evaluation.embedders import Embedder
from auffusion_cli.evaluation.protocols import Backbone
from auffusion_cli.evaluation.published import WEIGHTS, Unverified, find_or_fetch, local_weights
from auffusion_cli.files import hash_file

# Cnn14's pickle holds the state of its training, too, with NumPy arrays of integers in it. These
# make arrays and run nothing else.
NUMPY_ARRAYS = [
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]


def load_embedder(
    backbone: Backbone,
    *,
    weights_folder: Path | None = None,
    device: torch.device | str = "cpu",
    confirm: download.Confirm | None = None,
    on_progress: download.Report | None = None,
) -> tuple[Embedder, Unverified | None]:
    """The network of `backbone` with its weights, and a caution where they may not be the published
    ones, which is warned of, too.

    Args:
        weights_folder: where to look before the cache and the network: for a file of the published
            name or `cnn14.safetensors`, `vggish.safetensors`, or for a folder `clap` or `tagger`.
        confirm, on_progress: as in `download.resolve`.

    Raises:
        DownloadError: the weights are not on this machine and cannot be fetched; its hint has the
            steps by hand.
        CheckpointError: they are damaged, unsafe, or another network's.
    """
    match backbone.name:
        case "clap":
            path = find_or_fetch("clap", weights_folder, on_progress, confirm)
            embedder = clap.load_clap(path, backbone.audio_input, device)
        case "tagger":
            from auffusion_cli.evaluation.tagger import WEIGHTS_FILE, TaggerEmbedder, load_tagger

            path = local_weights(weights_folder, "tagger") or embedded_tagger()
            tagger = load_tagger(path, device)
            sha256 = hash_file(path / WEIGHTS_FILE)
            embedder = TaggerEmbedder(tagger, backbone.audio_input, sha256)
        case "cnn14":
            path = find_or_fetch("cnn14", weights_folder, on_progress)
            network = load_cnn14(path).to(device)
            embedder = cnn14.Cnn14Embedder(network, backbone.audio_input, hash_file(path))
        case "yamnet":
            path = find_or_fetch("yamnet", weights_folder, on_progress)
            network = yamnet.load_yamnet(path)
            embedder = yamnet.YamnetEmbedder(network, backbone.audio_input, hash_file(path))
        case "vggish":
            path = find_or_fetch("vggish", weights_folder, on_progress)
            network = load_vggish(path).to(device)
            embedder = vggish.VGGishEmbedder(network, backbone.audio_input, hash_file(path))
    return embedder, _unverified(backbone, embedder.weights_sha256, path, weights_folder)


def load_cnn14(path: Path) -> cnn14.Cnn14:
    """Cnn14 from its published .pth, or its tensors as safetensors. Raises CheckpointError."""
    tensors = read_published(path)
    try:
        state = cnn14.published_state(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from None
    return _filled(cnn14.Cnn14, state, path)


def load_vggish(path: Path) -> vggish.VGGish:
    """VGGish from its published .pth, or its tensors as safetensors. Raises CheckpointError."""
    return _filled(vggish.VGGish, read_published(path), path)


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published weight file; in PANNs' they are under "model"."""
    with torch.serialization.safe_globals(NUMPY_ARRAYS):
        content: Any = read_file(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path}: holds something else than named tensors")
    return dict(content)


def _filled(network_class: type[nn.Module], tensors: Mapping[str, Tensor], path: Path):
    """A network with exactly these tensors."""
    with torch.device("meta"):
        network = network_class()
    expected = network.state_dict()
    name = network_class.__name__
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(
            f"{path}: not the weights of {name}: lacks {len(missing)} tensors, "
            f"such as {missing[0]!r}"
        )
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(
            f"{path}: not the weights of {name}: tensor {unknown[0]!r} has no place in it"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: tensor {key!r} is {tuple(tensor.shape)}, "
                f"but {name} has {tuple(expected[key].shape)}"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor {key!r} has values that are not numbers")
    # Copies: the tensors may be views of a mapped file, and of half precision.
    copies = {
        key: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in tensors.items()
    }
    network.load_state_dict(copies, assign=True)
    return network


# --- finding files


def embedded_tagger() -> Path:
    """The tagger that comes with the package; CheckpointError if this installation lacks it."""
    folder = names.embedded_folder().parent / "tagger"
    if not folder.is_dir():
        raise CheckpointError(
            "the embedded tagger is missing from this installation",
            hint="Install the package again, or bring one: DIR/tagger with --weights DIR.",
        )
    return folder


def _unverified(
    backbone: Backbone, sha256: str, path: Path, weights_folder: Path | None
) -> Unverified | None:
    """The caution about weights that may not be the published ones, which is warned of, too."""
    name = backbone.name
    if name in WEIGHTS:
        if sha256 == WEIGHTS[name].sha256:
            return None
        others = "those of others" if name == "yamnet" else "a paper's"
        found = Unverified(
            f"{path}, not the published file",
            f"{name}'s weights are not the published file: {path} has the checksum {sha256[:16]}…, "
            f"the published one {WEIGHTS[name].sha256[:16]}…; numbers made with it can be compared "
            f"with {others} only if its tensors are the same",
        )
    elif local_weights(weights_folder, name) is not None:
        others = backbone.weights if name == "clap" else "the network that comes with this package"
        found = Unverified(
            f"{path}, not verified",
            f"{name}'s weights come from the folder {path} and were not verified; numbers made "
            f"with them can be compared with others only if they are those of {others}",
        )
    else:
        return None
    warnings.warn(found.note, AuffusionWarning, stacklevel=3)
    return found
