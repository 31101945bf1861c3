"""Weight files <-> tensors: .safetensors, .bin and .pt; whole or sharded; fp32 or fp16 variants.

Everything in them is untrusted: pickles are read with `weights_only=True`, names in an index may
not leave the folder, shapes are compared with the config before anything is copied. Files are
memory-mapped a slice at a time, so that loading needs little more memory than the loaded model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import WEIGHT_SUFFIXES, read_json
from auffusion_cli.errors import CheckpointError

MAPPED_BYTES = 128 * 2**20
"""How much of a file stays mapped at once. Mapped pages count as resident memory, and a file in
float32 is twice the size of the model that is made from it in float16."""


def find_weights(folder: Path, *stems: str, dtype: torch.dtype | None = None) -> list[Path]:
    """The files that hold one model's weights, such as `STEM.safetensors` or all of its shards.

    safetensors go before pickles. A full-precision file goes before its fp16 variant
    (`STEM.fp16.safetensors`), unless float16 is what is wanted.
    """
    variants = ("fp16", "") if dtype == torch.float16 else ("", "fp16")
    for variant in variants:
        for suffix in WEIGHT_SUFFIXES:
            for stem in stems:
                name = f"{stem}.{variant}{suffix}" if variant else f"{stem}{suffix}"
                if (folder / name).is_file():
                    return [folder / name]
                # Libraries have written an index's variant in both places.
                indices = {f"{name}.index.json"}
                if variant:
                    indices.add(f"{stem}{suffix}.index.{variant}.json")
                for index in sorted(indices):
                    if (folder / index).is_file():
                        return _shards(folder / index)
    looked_for = " or ".join(f"{stem}{{{','.join(WEIGHT_SUFFIXES)}}}" for stem in stems)
    raise CheckpointError(f"{folder}: no weights here: looked for {looked_for}")


def _shards(index_path: Path) -> list[Path]:
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: has no weight_map")
    shards = []
    for name in sorted(set(map(str, weight_map.values()))):
        if name != os.path.basename(name) or not name.endswith(WEIGHT_SUFFIXES):
            raise CheckpointError(f"{index_path}: {name!r} is not the name of a weight file here")
        if not (index_path.parent / name).is_file():
            raise CheckpointError(f"{index_path.parent / name}: missing, though the index names it")
        shards.append(index_path.parent / name)
    return shards


def read_tensors(files: Sequence[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """(file, name, tensor) for every tensor of `files`.

    A tensor is a view of a mapped file: copy what is to stay, and let go of it before the next.
    """
    for path in files:
        remaining = list(open_tensors(path))
        while remaining:
            # Mapping the file anew gives back the pages that the last slice has read.
            tensors, n_bytes = open_tensors(path), 0
            while remaining and n_bytes < MAPPED_BYTES:
                name = remaining.pop(0)
                n_bytes += tensors[name].nbytes
                yield path, name, tensors[name]


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, memory-mapped where the format allows it."""
    tensors = read_file(path)
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in tensors.items()
    ):
        raise CheckpointError(f"{path}: holds something else than named tensors")
    return dict(tensors)


def read_file(path: Path) -> Any:
    """What a weight file holds; a pickle may nest its tensors. No code in it is run."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        # Before 2020 torch wrote a format that cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # unpickling damaged files raises whatever the damage leads to
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: refused: this pickle holds more than tensors ({code[1]}), and reading it "
                "could run its code",
                hint="Use a checkpoint in safetensors, or ask whoever made it to save it again.",
            ) from error
        raise CheckpointError(f"{path}: {_damage(path) or error}") from error


def _damage(path: Path) -> str | None:
    """What is wrong with a file that cannot be opened, with the first tensor it lacks if known."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return f"truncated or damaged ({size:,} bytes)"
    try:
        with path.open("rb") as file:
            n_header_bytes = int.from_bytes(file.read(8), "little")
            if n_header_bytes > size - 8:
                return f"truncated: its header alone needs {n_header_bytes:,} of {size:,} bytes"
            header = json.loads(file.read(n_header_bytes))
        header.pop("__metadata__", None)
        by_end = sorted((entry["data_offsets"][1], name) for name, entry in header.items())
        for end, name in by_end:
            if 8 + n_header_bytes + end > size:
                return f"truncated in tensor {name!r} ({size:,} bytes)"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "damaged: its header cannot be read"
    return None


def load_weights(
    module: nn.Module,
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> None:
    """Fill `module`, which may be on the meta device, with the tensors of `files`.

    Names and shapes must be exactly the module's. Floating-point tensors become `dtype`.
    """
    expected = module.state_dict()
    loaded: dict[str, Tensor] = {}
    for path, name, tensor in read_tensors(files):
        if name not in expected:
            raise CheckpointError(
                f"{path}: tensor {name!r} has no place in the model of its config"
            )
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {tuple(tensor.shape)}, "
                f"but its config asks for {tuple(expected[name].shape)}"
            )
        floating = tensor.is_floating_point()
        loaded[name] = tensor.to(device, dtype if floating else tensor.dtype, copy=True)
    if missing := sorted(expected.keys() - loaded.keys()):
        names = ", ".join(repr(name) for name in missing[:3])
        raise CheckpointError(f"{files[0]}: lacks {len(missing)} tensors, such as {names}")
    module.load_state_dict(loaded, assign=True)


def save_weights(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write `tensors` as safetensors, floating-point ones in `dtype`."""
    save_file(
        {
            name: tensor.detach()
            .to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
            for name, tensor in tensors.items()
        },
        path,
        metadata={"format": "pt"},
    )
