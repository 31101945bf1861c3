"""The networks of a protocol: their weight files, found or fetched, checked and loaded.

Everything in a file is untrusted: pickles are read without running their code, and names and shapes
must be exactly the network's. Which bytes were loaded is recorded by their checksum.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auffusion_cli import hub
from auffusion_cli.errors import AuffusionWarning, CheckpointError
from auffusion_cli.evaluation import clap, cnn14, vggish
from auffusion_cli.evaluation.embedders import Embedder
from auffusion_cli.evaluation.protocols import Backbone
from auffusion_cli.provenance import hash_file
from auffusion_cli.weights import read_file


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file that is not on the Hub."""

    file_name: str
    url: str
    sha256: str
    approximate_bytes: int


# The checksums of these two files are recorded by many independent users of them; that of VGGish
# is moreover in its name, and that of Cnn14 belongs to the MD5 that Zenodo publishes
# (362fc5ff18f1d6ad2f6d464b45893f2c).
WEIGHTS: dict[str, PublishedWeights] = {
    "cnn14": PublishedWeights(
        "Cnn14_16k_mAP=0.438.pth",
        "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth",
        "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        358_668_570,
    ),
    "vggish": PublishedWeights(
        "vggish-10086976.pth",
        "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
        "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        288_570_000,
    ),
}

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
    confirm: hub.Confirm | None = None,
    on_progress: hub.Report | None = None,
) -> Embedder:
    """The network of `backbone` with its weights.

    Args:
        weights_folder: where to look before the cache and the network: for a file of the published
            name or `cnn14.safetensors`, `vggish.safetensors`, or for a folder `clap` or `tagger`.
        confirm, on_progress: as in `hub.resolve`.

    Raises:
        DownloadError: the weights are not on this machine and cannot be fetched; says how to bring
            them.
        CheckpointError: they are damaged, unsafe, or another network's.
    """
    match backbone.name:
        case "clap":
            folder = _own(weights_folder, "clap")
            if folder is None:
                source = hub.resolve(backbone.weights, confirm=confirm, on_progress=on_progress)
                folder = source.folder
            return clap.load_clap(folder, backbone.audio_input, device)
        case "tagger":
            from auffusion_cli.evaluation.tagger import WEIGHTS_FILE, TaggerEmbedder, load_tagger

            folder = _own(weights_folder, "tagger") or embedded_tagger()
            tagger = load_tagger(folder, device)
            return TaggerEmbedder(tagger, backbone.audio_input, hash_file(folder / WEIGHTS_FILE))
        case "cnn14":
            path = find_or_fetch("cnn14", weights_folder, on_progress)
            sha256 = _identify("cnn14", path)
            network = load_cnn14(path).to(device)
            return cnn14.Cnn14Embedder(network, backbone.audio_input, sha256)
        case "vggish":
            path = find_or_fetch("vggish", weights_folder, on_progress)
            sha256 = _identify("vggish", path)
            network = load_vggish(path).to(device)
            return vggish.VGGishEmbedder(network, backbone.audio_input, sha256)


def load_cnn14(path: Path) -> cnn14.Cnn14:
    """Cnn14 from its published .pth, or its tensors as safetensors. Raises CheckpointError."""
    return _filled(cnn14.Cnn14, cnn14.published_state(read_published(path)), path)


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


def find_or_fetch(
    name: str, weights_folder: Path | None, on_progress: hub.Report | None = None
) -> Path:
    """The weight file of "cnn14" or "vggish": the user's, the cache's, or fetched into the cache.

    Raises DownloadError where it cannot be had, saying how to bring it.
    """
    published = WEIGHTS[name]
    for file_name in (published.file_name, f"{name}.safetensors"):
        if (found := _own(weights_folder, file_name)) is not None:
            return found
    target = cache_folder() / published.file_name
    if not target.is_file():
        hub.download_url(
            name,
            published.url,
            target,
            sha256=published.sha256,
            approximate_bytes=published.approximate_bytes,
            on_progress=on_progress,
        )
    return target


def cache_folder() -> Path:
    """Where fetched weight files that are not on the Hub lie: beside those that are."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "auffusion--evaluation"


def embedded_tagger() -> Path:
    """The tagger that comes with the package; CheckpointError if this installation lacks it."""
    folder = hub.embedded_folder().parent / "tagger"
    if not folder.is_dir():
        raise CheckpointError(
            "the embedded tagger is missing from this installation",
            hint="Install the package again, or bring one: DIR/tagger with --weights DIR.",
        )
    return folder


def _own(weights_folder: Path | None, name: str) -> Path | None:
    """What the user brought, where they did."""
    if weights_folder is None or not (weights_folder / name).exists():
        return None
    return weights_folder / name


def _identify(name: str, path: Path) -> str:
    """The checksum of a weight file, with a warning where it is not the published one."""
    sha256 = hash_file(path)
    if sha256 != WEIGHTS[name].sha256:
        warnings.warn(
            f"{path}: not the published file of {name} (its checksum is {sha256[:16]}…, that of "
            f"the published one {WEIGHTS[name].sha256[:16]}…): numbers made with it can be "
            "compared with a paper's only if its tensors are the same",
            AuffusionWarning,
            stacklevel=3,
        )
    return sha256
