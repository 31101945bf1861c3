"""Weight files <-> tensors: .safetensors, .bin and .pt; whole or sharded; fp32 or fp16 variants.

Everything in them is untrusted: pickles are read with `weights_only=True`, names in an index may
not leave the folder, and names, shapes and types are compared with the network before any tensor is
copied. Files are memory-mapped a slice at a time, so that loading needs little more memory than the
loaded model.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import WEIGHT_SUFFIXES, read_json
from auffusion_cli.errors import AuffusionWarning, CheckpointError, first_line
from auffusion_cli.files import open_regular

MAPPED_BYTES = 128 * 2**20
"""How much of a file stays mapped at once. Mapped pages count as resident memory, and a file in
float32 is twice the size of the model that is made from it in float16."""

Rename = Callable[[str], str | None]
"""A tensor's name in a file -> its name in the network; None for one that is not the network's."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that `DataParallel` and `torch.compile` give to the names of a wrapped network."""


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


@dataclass(frozen=True)
class TensorInfo:
    """Header of one tensor in a file, known before the tensor is read."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    is_floating: bool


def read_header(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """Names, shapes and types of the tensors of `files`; of safetensors only the header is read."""
    header: dict[str, TensorInfo] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with _reading(path), safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                infos = {
                    name: TensorInfo(
                        path,
                        tuple(one.get_shape()),
                        str(dtype := one.get_dtype()),
                        str(dtype).startswith(("F", "BF")),
                    )
                    for name, one in slices.items()
                }
        else:
            infos = {
                name: TensorInfo(
                    path,
                    tuple(one.shape),
                    str(one.dtype).removeprefix("torch."),
                    one.is_floating_point(),
                )
                for name, one in named_tensors(read_file(path), path).items()
            }
        prefix = _wrapper_prefix(infos)
        if prefix:
            warnings.warn(
                f"{path}: the names of its tensors begin with {prefix!r}, as a wrapped network "
                "saves them; read without it",
                AuffusionWarning,
                stacklevel=2,
            )
        header |= {name.removeprefix(prefix): info for name, info in infos.items()}
    return header


def read_tensors(files: Sequence[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """(file, name, tensor) for every tensor of `files`.

    A tensor is a view of a mapped file: copy what is to stay, and drop it before the next.
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
    """The tensors of one file, memory-mapped where the format allows it; no wrapper's prefix."""
    tensors = named_tensors(read_file(path), path)
    prefix = _wrapper_prefix(tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def named_tensors(tensors: Any, path: Path) -> dict[str, Tensor]:
    """The content of the weight file `path`, which must be names of dense tensors."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise CheckpointError(f"{path}: holds something else than named tensors")
    for name, value in tensors.items():
        if not _is_plain(value):
            raise CheckpointError(
                f"{path}: tensor {name!r} is sparse, quantised, or without content of its own"
            )
    return dict(tensors)


def _is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` is dense and its file holds all of its elements."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    # A pickle can spell one number as a tensor of a trillion elements with stride 0.
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _wrapper_prefix(names: Mapping[str, Any]) -> str:
    prefix = ""
    while names:
        found = [one for one in WRAPPER_PREFIXES if all(n.startswith(prefix + one) for n in names)]
        if not found:
            break
        prefix += found[0]
    return prefix


def read_file(path: Path) -> Any:
    """The content of a weight file; a pickle may nest its tensors. No code in it is run."""
    with _reading(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with open_regular(path) as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        # Before 2020 torch wrote a format that cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A block that reads `path`, whose damage becomes one line."""
    try:
        yield
    except Exception as error:  # unpickling damaged files raises whatever the damage leads to
        if code := re.search(r"GLOBAL (\S{1,100})", str(error)):
            raise CheckpointError(
                f"{path}: refused: this pickle holds more than tensors ({code[1]}), and reading it "
                "could run its code",
                hint="Use a checkpoint in safetensors, or ask whoever made it to save it again.",
            ) from error
        raise CheckpointError(f"{path}: {_damage(path) or first_line(error)}") from error


def _damage(path: Path) -> str | None:
    """The damage of a file that cannot be opened, with the first tensor it lacks if known."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if path.suffix != ".safetensors":
                return f"truncated or damaged ({size:,} bytes)"
            n_header_bytes = int.from_bytes(file.read(8), "little")
            if n_header_bytes > size - 8:
                return f"truncated: its header alone needs {n_header_bytes:,} of {size:,} bytes"
            header = json.loads(file.read(n_header_bytes))
        header.pop("__metadata__", None)
        by_end = sorted((entry["data_offsets"][1], name) for name, entry in header.items())
        for end, name in by_end:
            if 8 + n_header_bytes + end > size:
                return f"truncated in tensor {name!r} ({size:,} bytes)"
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "damaged: its header cannot be read"
    return None


def check_header(header: Mapping[str, TensorInfo], expected: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a file with those of a network, which may be on the meta device.

    Names, shapes and kinds of number must be exactly the network's.
    """
    for name, info in header.items():
        if name not in expected:
            raise CheckpointError(
                f"{info.path}: tensor {name[:100]!r} has no place in the model of its config"
            )
        check_tensor(name, info, expected[name])
    if missing := sorted(expected.keys() - header.keys()):
        names = ", ".join(repr(name) for name in missing[:3])
        where = next(iter(header.values())).path if header else "the weights"
        raise CheckpointError(f"{where}: lacks {len(missing)} tensors, such as {names}")


def check_tensor(name: str, info: TensorInfo, expected: Tensor) -> None:
    """Compare shape and kind of number of one tensor with its place in the network."""
    if info.shape != tuple(expected.shape):
        raise CheckpointError(
            f"{info.path}: tensor {name!r} is {info.shape}, "
            f"but its config asks for {tuple(expected.shape)}"
        )
    if info.is_floating != expected.is_floating_point():
        kind = "floating-point" if expected.is_floating_point() else "whole"
        raise CheckpointError(
            f"{info.path}: tensor {name!r} is of type {info.dtype}, not {kind} numbers",
            hint="Quantised weights cannot be read: use the same checkpoint in fp16 or fp32.",
        )


def load_weights(
    module: nn.Module,
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    rename: Rename = lambda name: name,
) -> None:
    """Fill `module`, which may be on the meta device, with the tensors of `files`.

    Names, once renamed, and shapes must be exactly the module's. Floating-point tensors become
    `dtype`.
    """
    header = {rename(name): info for name, info in read_header(files).items()}
    header.pop(None, None)
    check_header(header, module.state_dict())
    loaded = {
        ours: converted(tensor, dtype, f"{path}: tensor {name!r}", device, copy=True)
        for path, name, tensor in read_tensors(files)
        if (ours := rename(name)) is not None
    }
    module.load_state_dict(loaded, assign=True)


def converted(
    tensor: Tensor,
    dtype: torch.dtype,
    where: str,
    device: torch.device | str = "cpu",
    *,
    copy: bool = False,
) -> Tensor:
    """`tensor` on `device`, in `dtype` if it is floating-point.

    Raises:
        CheckpointError: it has numbers beyond the range of float16; the message begins with
            `where`.
    """
    if not tensor.is_floating_point():
        return tensor.to(device, copy=copy)
    result = tensor.to(device, dtype, copy=copy)
    if dtype == torch.float16 and tensor.dtype != dtype and result.isinf().any():
        n_beyond = int((tensor.isfinite() & result.isinf().to(tensor.device)).sum())
        if n_beyond:
            raise CheckpointError(
                f"{where} has {n_beyond:,} numbers beyond the range of fp16, which is ±65,504",
                hint="Use bf16 or fp32.",
            )
    return result


def save_weights(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write `tensors` as safetensors, floating-point ones in `dtype`.

    Raises:
        CheckpointError: a tensor has numbers beyond the range of float16.
        OSError: it cannot be written, such as on a full disk.
    """
    contents = {
        name: converted(
            tensor.detach(), dtype, f"{path.parent.name}/{path.name}: tensor {name!r}"
        ).contiguous()
        for name, tensor in tensors.items()
    }
    with saving(path):
        save_file(contents, path, metadata={"format": "pt"})


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """A block that writes safetensors, whose failure becomes an OSError that names `path`."""
    try:
        yield
    except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(None, first_line(error), str(path)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
