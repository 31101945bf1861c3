"""ONNX files as this program writes and accepts them, read without the onnx package. No torch.

A graph's weights are tensors of the safetensors file beside it: each initializer names the file, an
offset and a length. Whoever opens a graph follows these pointers, so a file is read here first, as
far as that takes (Protocol Buffers' wire format; field numbers of onnx.proto), and refused if it
holds anything but plain nodes, small constants, and pointers that are tensors of that file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auffusion_cli.engines.graphs import Signature
from auffusion_cli.errors import CheckpointError, first_line
from auffusion_cli.files import hash_file, open_regular, read_bytes

OPSET = 20
"""The version of ONNX's operators in which graphs are written."""
OPSETS = range(17, 24)
"""Those that are read."""
CONFIG_KEY = "config_sha256"
"""Metadata of a graph: the hash of the config.json from which its network was made."""
ELEMENT_BYTES = {1: 4, 10: 2, 16: 2, 7: 8, 6: 4, 3: 1, 2: 1}
ELEMENT_TYPES = {"F32": 1, "F16": 10, "BF16": 16, "I64": 7, "I32": 6, "I8": 3, "U8": 2}
"""Types of safetensors -> ONNX's numbers for them."""

MAX_GRAPH_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 100_000_000

# Wire types.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
"""TensorProto.DataLocation"""

Field = tuple[int, "int | memoryview"]


@dataclass(frozen=True)
class StoredTensor:
    """Place of a tensor in a safetensors file."""

    element_type: int
    shape: tuple[int, ...]
    offset: int
    """In bytes, from the beginning of the file."""
    n_bytes: int


@dataclass(frozen=True)
class Graph:
    """A graph that was checked against the weights beside it."""

    path: Path
    content: bytes
    weights_path: Path | None
    """The file that holds its weights; None where all of them are in the graph."""
    weights: Mapping[str, StoredTensor]
    """Their places in that file."""
    inputs: Mapping[str, tuple[int | None, ...]]
    """Name -> shape; None for a size that may be any."""
    output: tuple[int | None, ...]
    """Its shape."""


def read_graph(folder: Path, signature: Signature) -> Graph:
    """The graph of `folder` that has this `signature`.

    Raises:
        CheckpointError: it is missing, damaged or not one that this program writes, or it does not
            fit the weights or the config beside it.
    """
    path = folder / signature.file_name
    if not path.is_file():
        raise CheckpointError(f"{path}: missing")
    try:
        content = read_bytes(path, MAX_GRAPH_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or first_line(error)}") from error
    try:
        parsed = parse_model(memoryview(content))
    except ValueError as error:
        raise CheckpointError(f"{path}: not a graph of this program: {error}") from None
    taken, given = parsed.inputs.keys() - set(signature.optional_inputs), parsed.outputs.keys()
    if taken != set(signature.inputs) or given != {signature.output}:
        raise CheckpointError(
            f"{path}: takes {', '.join(taken)[:100]} and gives {', '.join(given)[:100]}; it must "
            f"take {', '.join(signature.inputs)} and give {signature.output}"
        )
    weights_path = _check_pointers(path, parsed.pointers)
    _check_config(path, parsed.metadata)
    return Graph(
        path,
        content,
        weights_path,
        {name: pointer.place for name, pointer in parsed.pointers.items()},
        parsed.inputs,
        parsed.outputs[signature.output],
    )


def read_places(path: Path) -> dict[str, StoredTensor]:
    """Where the tensors of a safetensors file lie in it.

    Raises:
        CheckpointError: it is damaged or truncated.
    """
    with _reading(path):
        header, start, n_bytes = _read_header(path)
        header.pop("__metadata__", None)
        places = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            element_type = ELEMENT_TYPES.get(entry["dtype"], 0)
            if not 0 <= begin <= end <= n_bytes - start:
                raise ValueError(f"truncated in tensor {name[:100]!r}")
            shape = tuple(map(int, entry["shape"]))
            if element_type and (
                min(shape, default=0) < 0
                or end - begin != math.prod(shape) * ELEMENT_BYTES[element_type]
            ):
                raise ValueError(f"tensor {name[:100]!r} has another size than its shape")
            places[name] = StoredTensor(element_type, shape, start + begin, end - begin)
    return places


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors.

    Raises:
        CheckpointError: it is damaged.
    """
    with _reading(path):
        metadata = _read_header(path)[0].get("__metadata__") or {}
        return {name: text for name, text in metadata.items() if isinstance(text, str)}


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, where the tensors begin, and the size of the file."""
    with open_regular(path) as file:
        n_header_bytes = int.from_bytes(file.read(8), "little")
        if n_header_bytes > MAX_HEADER_BYTES:
            raise ValueError("its header is too large")
        header = json.loads(file.read(n_header_bytes))
        return header, 8 + n_header_bytes, file.seek(0, 2)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A block that reads a safetensors file; what is wrong with it is a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or first_line(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {first_line(error)}") from error


def _check_pointers(path: Path, pointers: Mapping[str, Pointer]) -> Path | None:
    """The file that all `pointers` of the graph in `path` point into, at tensors of their names."""
    if not pointers:
        return None
    locations = {pointer.location for pointer in pointers.values()}
    location = locations.pop()
    if locations or not location.endswith(".safetensors") or _leaves_folder(location):
        raise CheckpointError(
            f"{path}: its weights are in {location[:100]!r}, which is not one safetensors file "
            "beside it"
        )
    weights = path.parent / location
    if not weights.is_file():
        raise CheckpointError(f"{weights}: missing, though {path.name} points into it")
    places = read_places(weights)
    for name, pointer in pointers.items():
        if pointer.place != places.get(name):
            raise CheckpointError(
                f"{path}: was made for other weights than {weights.name} beside it, which has "
                f"another tensor {name[:100]!r}, or none",
                hint="`auffusion models convert --to onnx` makes the graphs of a checkpoint.",
            )
    return weights


def _leaves_folder(name: str) -> bool:
    return any(character in name for character in "/\\:\0") or name in ("", ".", "..")


def _check_config(path: Path, metadata: Mapping[str, str]) -> None:
    config = path.parent / "config.json"
    made_for = metadata.get(CONFIG_KEY)
    if made_for is not None and config.is_file() and hash_file(config) != made_for:
        raise CheckpointError(
            f"{path}: was made for another config.json than the one beside it",
            hint="`auffusion models convert --to onnx` makes the graphs of a checkpoint.",
        )


@dataclass(frozen=True)
class Pointer:
    """Where a graph says that a weight lies."""

    location: str
    """Name of the file."""
    place: StoredTensor


@dataclass(frozen=True)
class ParsedModel:
    """What is read of an ONNX file."""

    inputs: dict[str, tuple[int | None, ...]]
    """Name -> shape, as `Graph` has it."""
    outputs: dict[str, tuple[int | None, ...]]
    pointers: dict[str, Pointer]
    """Name of a weight -> its place."""
    metadata: dict[str, str]


def parse_model(model: memoryview) -> ParsedModel:
    """ModelProto -> what is checked of it; ValueError for a model that is not accepted."""
    parsed = ParsedModel({}, {}, {}, {})
    opsets = []
    for number, value in _fields(model):
        if number == 7:  # graph
            _parse_graph(_message(value), parsed)
        elif number == 8:  # opset_import: domain 1, version 2
            opset = _last(value)
            if opset.get(1):
                raise ValueError(f"it uses operators of {_text(opset[1])[:60]!r}")
            opsets.append(opset.get(2, 0))
        elif number == 14:  # metadata_props: key 1, value 2
            pair = _last(value)
            parsed.metadata[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
        elif number in (20, 25):  # training_info, functions
            raise ValueError("it holds functions")
    if len(opsets) != 1 or opsets[0] not in OPSETS:
        raise ValueError(f"its opset is {opsets[:3]}; valid: {OPSETS[0]} to {OPSETS[-1]}")
    return parsed


def _parse_graph(graph: memoryview, parsed: ParsedModel) -> None:
    for number, value in _fields(graph):
        if number == 1:
            _check_node(_message(value))
        elif number == 5:
            _parse_initializer(_message(value), parsed.pointers)
        elif number in (11, 12):
            name, shape = _parse_value(_message(value))
            (parsed.inputs if number == 11 else parsed.outputs)[name] = shape
        elif number == 15:
            raise ValueError("it holds sparse weights")


def _check_node(node: memoryview) -> None:
    """Refuse operators of other domains, graphs within a node, and constants in other files."""
    for number, value in _fields(node):
        if number == 7 and value:
            raise ValueError(f"it uses operators of {_text(value)[:60]!r}")
        if number != 5:
            continue
        for kind, attribute in _fields(_message(value)):
            if kind in (6, 11, 22, 23):  # g, graphs, sparse_tensor(s)
                raise ValueError("a node holds a graph of its own or sparse numbers")
            if kind in (5, 10) and _is_external(_message(attribute)):  # t, tensors
                raise ValueError("a constant lies in another file")


def _is_external(tensor: memoryview) -> bool:
    return any(number == 13 or (number == 14 and value) for number, value in _fields(tensor))


def _parse_initializer(tensor: memoryview, pointers: dict[str, Pointer]) -> None:
    """TensorProto: dims 1, data_type 2, name 8, external_data 13, data_location 14."""
    shape: list[int] = []
    last: dict[int, int | memoryview] = {}
    place: dict[str, str] = {}
    for number, value in _fields(tensor):
        if number == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif number == 13:
            pair = _last(value)
            place[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
        else:
            last[number] = value
    if not place and last.get(14, 0) != _EXTERNAL:
        return
    name = _text(last.get(8, b""))
    if name in pointers:
        raise ValueError(f"two weights have the name {name[:100]!r}")
    element_type = last.get(2, 0)
    if element_type not in ELEMENT_BYTES:
        raise ValueError("the type of a weight is not known")
    try:
        stored = StoredTensor(
            element_type, tuple(shape), int(place["offset"]), int(place["length"])
        )
        pointers[name] = Pointer(place["location"], stored)
    except KeyError as error:
        raise ValueError(f"weight {name[:100]!r} has no {error.args[0]}") from None


def _parse_value(value: memoryview) -> tuple[str, tuple[int | None, ...]]:
    """ValueInfoProto of a tensor -> its name and shape."""
    own = _last(value)  # name 1, type 2
    tensor = _last(_last(own.get(2, b"")).get(1, b""))  # TypeProto.tensor_type 1
    shape: list[int | None] = []
    for number, dimension in _fields(_message(tensor.get(2, b""))):  # TensorShapeProto.dim 1
        if number == 1:
            size = _last(dimension).get(1)  # dim_value 1, dim_param 2
            shape.append(size if isinstance(size, int) else None)
    return _text(own.get(1, b"")), tuple(shape)


# --- Protocol Buffers


def _fields(message: memoryview) -> Iterator[Field]:
    """(field number, value) of a message; a value is a whole number or bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == _LENGTH:
            n_bytes, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            n_bytes = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"damaged at byte {position:,}")
        if n_bytes > len(message) - position:
            raise ValueError("truncated")
        yield key >> 3, message[position : position + n_bytes]
        position += n_bytes


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("truncated")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"damaged at byte {position:,}")


def _message(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return memoryview(value)


def _last(value: int | memoryview | bytes) -> dict[int, int | memoryview]:
    """Fields of a message that has each of them once; of several the last counts."""
    return dict(_fields(_message(value)))


def _packed(value: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return numbers


def _text(value: int | memoryview | bytes) -> str:
    return bytes(_message(value)).decode("utf-8")
