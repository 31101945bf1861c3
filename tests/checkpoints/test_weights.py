"""Weight files: formats, variants, shards, and what hostile or damaged ones lead to."""

import json
import os
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from auffusion_cli.checkpoints import weights
from auffusion_cli.errors import CheckpointError

STEM = "model"


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def blank() -> nn.Linear:
    return nn.Linear(3, 2, device="meta")


def load(folder, dtype=torch.float32, module=None):
    module = module or blank()
    weights.load_weights(module, weights.find_weights(folder, STEM, dtype=dtype), dtype)
    return module


def save(layer, path, dtype=torch.float32):
    tensors = {name: tensor.to(dtype) for name, tensor in layer.state_dict().items()}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.bin", "model.pt", "model.fp16.safetensors"]
)
def test_every_format_loads(layer, tmp_path, name):
    save(layer, tmp_path / name)
    loaded = load(tmp_path)
    assert torch.equal(loaded.weight, layer.weight) and loaded.weight.dtype == torch.float32
    assert loaded.weight.requires_grad


def test_the_format_before_zip_loads(layer, tmp_path):
    torch.save(layer.state_dict(), tmp_path / "model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path).weight, layer.weight)


def test_preferences(layer, tmp_path):
    for name in ("model.bin", "model.safetensors", "model.fp16.safetensors"):
        save(layer, tmp_path / name)
    assert weights.find_weights(tmp_path, STEM)[0].name == "model.safetensors"
    half = weights.find_weights(tmp_path, STEM, dtype=torch.float16)
    assert half[0].name == "model.fp16.safetensors"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_converts_while_loading(layer, tmp_path, dtype):
    save(layer, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path, dtype).weight, layer.weight.to(dtype))


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.json", "model.safetensors.index.fp16.json"]
)
def test_shards(layer, tmp_path, index):
    shards = {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}
    for tensor, name in shards.items():
        save_file({tensor: layer.state_dict()[tensor]}, tmp_path / name)
    (tmp_path / index).write_text(json.dumps({"weight_map": shards}))
    assert torch.equal(load(tmp_path).bias, layer.bias)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2.safetensors: missing"):
        load(tmp_path)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", "a/b.bin", "x.txt"])
def test_an_index_cannot_name_files_elsewhere(tmp_path, shard):
    index = {"weight_map": {"weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is not the name of a weight file"):
        load(tmp_path)


def test_mapped_memory_is_given_back_in_slices(layer, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAPPED_BYTES", 1)
    save(layer, tmp_path / "model.bin")
    assert torch.equal(load(tmp_path).weight, layer.weight)


def test_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no weights here"):
        load(tmp_path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch, new_format):
    monkeypatch.chdir(tmp_path)
    content = {"weight": Payload()}
    torch.save(content, tmp_path / "model.bin", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"model.bin: refused.*(posix|os|nt)\.mkdir") as error:
        load(tmp_path)
    assert "safetensors" in error.value.hint
    assert not (tmp_path / "pwned").exists()


def test_a_whole_module_in_a_pickle_is_refused(layer, tmp_path):
    torch.save(layer, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="refused"):
        load(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"weight": [1.0]}, {"a": {"b": torch.zeros(1)}}])
def test_something_else_than_tensors(tmp_path, content):
    torch.save(content, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="something else than named tensors"):
        load(tmp_path)


def test_a_truncated_safetensors_names_the_tensor(layer, tmp_path):
    path = tmp_path / "model.safetensors"
    save(layer, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated in tensor 'weight'"):
        load(tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_pickle_names_the_file(layer, tmp_path, new_format):
    path = tmp_path / "model.bin"
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"model.bin: .*truncated or damaged"):
        load(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["safetensors", "bin"]))
def test_damage_anywhere_is_a_checkpoint_error_or_harmless(layer, tmp_path, data, suffix):
    path = tmp_path / f"model.{suffix}"
    for old in tmp_path.iterdir():
        old.unlink()
    save(layer, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        load(tmp_path)
    except CheckpointError as error:
        assert str(path) in error.message


def test_mismatches_name_file_and_tensor(layer, tmp_path):
    path = tmp_path / "model.safetensors"
    save(layer, path)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: tensor 'weight' is \(2, 3\).*\(2, 5\)"
    ):
        load(tmp_path, module=nn.Linear(5, 2, device="meta"))
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor 'bias' has no place"):
        load(tmp_path, module=nn.Linear(3, 2, bias=False, device="meta"))
    save_file({"bias": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: lacks 1 tensors.*'weight'"):
        load(tmp_path)


def test_a_huge_safetensors_header_is_not_believed(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path)


def test_save_weights_round_trip(layer, tmp_path):
    tensors = layer.state_dict() | {"step": torch.tensor(3)}
    weights.save_weights(tensors, tmp_path / "model.safetensors", torch.bfloat16)
    saved = weights.open_tensors(tmp_path / "model.safetensors")
    assert saved["weight"].dtype == torch.bfloat16 and saved["step"].dtype == torch.int64
