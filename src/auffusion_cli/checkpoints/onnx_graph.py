"""A torch network -> an ONNX graph that points into the network's own safetensors file.

No weight is written twice: an initializer is a place in the file, followed by a cast to float32
where the file has another precision. So nothing may be computed ahead from weights; where a layer
wants one transposed, ONNX Runtime does it when it loads.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from auffusion_cli.checkpoints.weights import open_tensors
from auffusion_cli.engines.graph_file import CONFIG_KEY, ELEMENT_TYPES, OPSET, read_places
from auffusion_cli.engines.graphs import Signature
from auffusion_cli.errors import CheckpointError, first_line
from auffusion_cli.files import atomic_file, hash_file

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_INLINE_BYTES = 65_536
"""Of constants in a graph that are no weights, such as the numbers of positions."""
MAX_DIFFERENCE = 1e-3
"""Between the engines, relative to the largest number of an output."""
FLOAT32 = ELEMENT_TYPES["F32"]


@dataclass(frozen=True)
class WrittenGraph:
    """A graph, and how far its outputs were from torch's."""

    name: str
    """Its path within the checkpoint."""
    size_bytes: int
    max_difference: float
    """Relative to the largest number of torch's output."""


@dataclass(frozen=True)
class Subject:
    """A network to write as a graph: what it is called with, and which sizes may be others."""

    folder: Path
    signature: Signature
    network: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Input -> axis -> torch.export.Dim"""
    others: tuple[dict[str, Tensor], ...] = ()
    """Inputs of other sizes, to check with."""


def write_graph(subject: Subject, checkpoint: Path) -> WrittenGraph:
    """Write the graph of a network of `checkpoint` beside its weights, and compare it with torch.

    Raises:
        CheckpointError: it cannot be expressed in ONNX, its weights are not in one safetensors
            file, or the graph computes something else.
    """
    path = subject.folder / subject.signature.file_name
    network = subject.network.eval().requires_grad_(False)
    try:
        model = _exported(subject, network)
    except Exception as error:  # whatever a network holds that ONNX has not
        raise CheckpointError(
            f"{subject.folder}: cannot be expressed in ONNX: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    _link_weights(model, network, subject.folder)
    content = _serialised(model, subject.folder / "config.json")
    with atomic_file(path) as beside:
        beside.write_bytes(content)
    name = path.relative_to(checkpoint).as_posix()
    return WrittenGraph(name, len(content), _check(subject, network, path))


def _exported(subject: Subject, network: nn.Module) -> ir.Model:
    """The graph of a network, whose initializers are still its own tensors."""
    from onnxscript import optimizer

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            args=(),
            kwargs=subject.inputs,
            input_names=list(subject.inputs),
            output_names=[subject.signature.output],
            dynamic_shapes=subject.dynamic,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # it would transpose weights
            verbose=False,
        )
        model = program.model
        weights = set(model.graph.initializers.values())
        optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            should_fold=lambda node: None if weights.isdisjoint(node.inputs) else False,
        )
        optimizer.remove_unused_nodes(model)
    return model


def _link_weights(model: ir.Model, network: nn.Module, folder: Path) -> None:
    """Make the initializers of `model` pointers into the safetensors file in `folder`."""
    state = dict(network.named_parameters(remove_duplicate=False))
    state |= dict(network.named_buffers(remove_duplicate=False))
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise CheckpointError(f"{folder}: {len(files)} safetensors files; graphs point into one")
    weights = _Weights(files[0])
    for name, value in list(model.graph.initializers.items()):
        stored = weights.find(name, state[name]) if name in state else None
        if stored is not None:
            _point(model.graph, value, stored, weights)
        elif value.const_value.nbytes > MAX_INLINE_BYTES:
            raise CheckpointError(f"{files[0]}: has no tensor with the numbers of {name!r}")


class _Weights:
    """The tensors of a file, found by their numbers: libraries rename them as they load."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = open_tensors(path)
        self.places = read_places(path)

    def find(self, name: str, value: Tensor) -> str | None:
        """The name of the tensor that equals `value`; the most like `name`, if there are more."""
        same_shape = [key for key, one in self.tensors.items() if one.shape == value.shape]
        by_likeness = sorted(same_shape, key=lambda key: -_common_end(key, name))
        return next((key for key in by_likeness if self._equals(key, value)), None)

    def _equals(self, key: str, value: Tensor) -> bool:
        stored = self.tensors[key]
        return stored.is_floating_point() == value.is_floating_point() and torch.equal(
            stored.to(value.dtype), value
        )


def _common_end(one: str, other: str) -> int:
    """How many parts of two dotted names are the same, from the end."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 1000)


def _point(graph: ir.Graph, value: ir.Value, name: str, weights: _Weights) -> None:
    """Replace an initializer by the tensor `name` of the file, cast to float32 where it must be."""
    import onnx_ir as ir

    place = weights.places[name]
    element_type = ir.DataType(place.element_type)
    pointer = graph.initializers.get(name)
    if pointer is None or pointer is value:
        tensor = ir.ExternalTensor(
            weights.path.name,
            place.offset,
            place.n_bytes,
            element_type,
            shape=ir.Shape(place.shape),
            name=name,
            base_dir=weights.path.parent,
        )
        pointer = ir.Value(
            name=name,
            shape=ir.Shape(place.shape),
            type=ir.TensorType(element_type),
            const_value=tensor,
        )
    del graph.initializers[value.name]
    graph.initializers[name] = pointer
    if place.element_type == FLOAT32 or not element_type.is_floating_point():
        value.replace_all_uses_with(pointer)
        return
    uses = list(value.uses())
    if all(node.op_type == "Gather" and index == 0 for node, index in uses):
        # A table of which a few rows are read is not cast as a whole.
        for node, index in uses:
            (output,) = node.outputs
            cast = _cast(output)
            output.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, output)
            node.replace_input_with(index, pointer)
            output.type = ir.TensorType(element_type)
            graph.insert_after(node, cast)
        return
    cast = _cast(pointer)
    value.replace_all_uses_with(cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _cast(value: ir.Value) -> ir.Node:
    import onnx_ir as ir

    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", FLOAT32)], num_outputs=1)
    node.outputs[0].name = f"{value.name}.float32"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return node


def _serialised(model: ir.Model, config_path: Path) -> bytes:
    """The bytes of the file, without what only a debugger would want to know."""
    import onnx_ir as ir

    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.name = node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    if config_path.is_file():
        model.metadata_props[CONFIG_KEY] = hash_file(config_path)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto.SerializeToString(deterministic=True)


def _check(subject: Subject, network: nn.Module, path: Path) -> float:
    """The largest difference of the graph from torch, relative to the largest output."""
    from auffusion_cli.engines.onnx_networks import GraphNetwork, Runtime

    graph = GraphNetwork(subject.folder, subject.signature, Runtime("cpu", torch.get_num_threads()))
    largest = 0.0
    for inputs in (subject.inputs, *subject.others):
        with torch.no_grad():
            expected = network(**inputs).numpy()
        found = graph(**{name: tensor.numpy() for name, tensor in inputs.items()})
        scale = max(float(np.abs(expected).max()), 1e-6)
        difference = float(np.abs(found - expected).max()) / scale
        if found.shape != expected.shape or not difference <= MAX_DIFFERENCE:
            path.unlink()
            raise CheckpointError(
                f"{path}: differs from torch by {difference:.1e} of the largest output; "
                f"at most {MAX_DIFFERENCE:.0e} is allowed"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter writes of its own progress and plans to stderr; what fails is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
