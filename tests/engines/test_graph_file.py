"""Graphs from anyone: what is damaged, leaves the folder or does not fit its weights is refused."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.engines.graph_file import parse_model, read_graph, read_places
from auffusion_cli.engines.graphs import Signature
from auffusion_cli.errors import CheckpointError

SIGNATURE = Signature("model.onnx", ("x",), "y")


@pytest.fixture
def folder(tmp_path) -> Path:
    """y = x * scale, with the scale in the safetensors file."""
    (tmp_path / "config.json").write_text("{}")
    save_file({"scale": np.full(3, 2, np.float16)}, tmp_path / "weights.safetensors")
    write(tmp_path)
    return tmp_path


def write(folder: Path, change=lambda model: None) -> None:
    place = read_places(folder / "weights.safetensors")["scale"]
    scale = TensorProto(name="scale", data_type=TensorProto.FLOAT16, dims=[3])
    scale.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", "weights.safetensors"),
        ("offset", place.offset),
        ("length", place.n_bytes),
    ):
        scale.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["scale"], ["scale32"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scale32"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["sounds", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["sounds", 3])],
        [scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_a_graph_is_read_with_its_shapes(folder):
    graph = read_graph(folder, SIGNATURE)
    assert graph.weights_path == folder / "weights.safetensors"
    assert list(graph.weights) == ["scale"]
    assert (graph.inputs, graph.output) == ({"x": (None, 3)}, (None, 3))


@pytest.mark.parametrize("place", ["text_encoder_0", "condition_adapter_0", "unet", "vae"])
def test_theparse_modelr_agrees_with_the_onnx_package(place):
    for path in (embedded_folder() / place).glob("*.onnx"):
        found = parse_model(memoryview(path.read_bytes()))
        model = onnx.load(path, load_external_data=False)
        external = [one for one in model.graph.initializer if one.data_location]
        assert set(found.pointers) == {one.name for one in external} != set()
        for one in external:
            pointer = found.pointers[one.name]
            entries = {entry.key: entry.value for entry in one.external_data}
            assert pointer.location == entries["location"]
            assert (pointer.place.shape, pointer.place.element_type) == (
                tuple(one.dims),
                one.data_type,
            )
            assert [pointer.place.offset, pointer.place.n_bytes] == [
                int(entries[key]) for key in ("offset", "length")
            ]
        assert set(found.inputs) == {one.name for one in model.graph.input}
        assert set(found.outputs) == {one.name for one in model.graph.output}


def set_entry(key, value):
    def change(model):
        for entry in model.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value

    return change


def put_graph_into_a_node(model):
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", inner))


def put_constant_into_a_file(model):
    constant = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1])
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=constant))


def add_second_pointer(model):
    other = model.graph.initializer.add()
    other.CopyFrom(model.graph.initializer[0])
    other.name = "other"
    for entry in other.external_data:
        if entry.key == "location":
            entry.value = "other.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry("location", "../weights.safetensors"), "not one safetensors file beside it"),
        (set_entry("location", "/etc/passwd"), "not one safetensors file beside it"),
        (set_entry("location", "config.json"), "not one safetensors file beside it"),
        (set_entry("location", "other.safetensors"), "missing, though model.onnx points into it"),
        (set_entry("offset", "0"), "was made for other weights than weights.safetensors"),
        (set_entry("length", "99999999999"), "was made for other weights"),
        (set_entry("offset", "-1"), "was made for other weights"),
        (set_entry("offset", "here"), "not a graph of this program"),
        (add_second_pointer, "not one safetensors file beside it"),
        (put_graph_into_a_node, "a node holds a graph of its own"),
        (put_constant_into_a_file, "a constant lies in another file"),
        (lambda model: setattr(model.graph.node[0], "domain", "evil"), "operators of 'evil'"),
        (lambda model: model.opset_import.add(domain="evil", version=1), "operators of 'evil'"),
        (lambda model: setattr(model.opset_import[0], "version", 7), r"its opset is \[7\]"),
        (lambda model: setattr(model.graph.input[0], "name", "z"), "takes z and gives y"),
        (lambda model: model.functions.add(name="f"), "it holds functions"),
        (
            lambda model: model.metadata_props.add(key="config_sha256", value="0"),
            "another config.json",
        ),
    ],
)
def test_what_is_no_graph_of_ours_is_refused(folder, change, message):
    write(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_graph(folder, SIGNATURE)
    assert "\n" not in caught.value.message and len(caught.value.message) < 300 + len(str(folder))


def test_other_weights_under_the_same_name_are_noticed(folder):
    save_file(
        {"scale": np.full(4, 2, np.float16), "a": np.zeros(2, np.float16)},
        folder / "weights.safetensors",
    )
    with pytest.raises(CheckpointError, match="was made for other weights"):
        read_graph(folder, SIGNATURE)
    (folder / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"{" * 16)
    with pytest.raises(CheckpointError, match=r"weights.safetensors: damaged"):
        read_graph(folder, SIGNATURE)


def test_a_header_may_not_announce_more_than_there_is(folder):
    path = folder / "weights.safetensors"
    n_header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + n_header_bytes])
    header["scale"]["shape"] = [10**9]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(6))
    with pytest.raises(CheckpointError, match="has another size than its shape"):
        read_graph(folder, SIGNATURE)


def test_truncated_files_are_refused_at_every_length(folder):
    content = (folder / "model.onnx").read_bytes()
    for n_bytes in range(len(content)):
        (folder / "model.onnx").write_bytes(content[:n_bytes])
        with pytest.raises(CheckpointError):
            read_graph(folder, SIGNATURE)
    (folder / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx: missing"):
        read_graph(folder, SIGNATURE)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_bytes_are_parsed_or_refused(content):
    with contextlib.suppress(ValueError):
        parse_model(memoryview(content))


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets"]),
        st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers(), max_size=3)),
    )
)
def test_headers_of_weights_are_read_or_refused(tmp_path_factory, entry):
    path = tmp_path_factory.mktemp("header") / "w.safetensors"
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    try:
        read_places(path)
    except CheckpointError as error:
        assert str(path) in error.message


def test_links_of_a_cache_are_followed(folder, tmp_path_factory):
    """The Hub's cache links a snapshot's files to blobs elsewhere."""
    from auffusion_cli.engines.onnx_networks import GraphNetwork, Runtime

    snapshot = tmp_path_factory.mktemp("snapshot")
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    network = GraphNetwork(snapshot, SIGNATURE, Runtime("cpu", 1))
    np.testing.assert_array_equal(network(x=np.ones((2, 3), np.float32)), np.full((2, 3), 2))
    shutil.rmtree(snapshot)
