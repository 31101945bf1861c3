"""Files and folders that are taken for checkpoints."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from auffusion_cli.checkpoints.layout import is_adapter_layout
from auffusion_cli.checkpoints.names import parse_name
from auffusion_cli.errors import CheckpointError, UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion"


def write_safetensors(path: Path, *names: str) -> Path:
    header = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


@pytest.mark.parametrize(
    ("name", "tensors", "what", "hint"),
    [
        ("a.safetensors", ["unet.down.lora_A.weight"], "a LoRA", "--lora FILE"),
        ("a.safetensors", ["lora_unet_down.lora_down.weight"], "a LoRA", "--lora FILE"),
        ("a.safetensors", ["model.diffusion_model.x"], "a single-file checkpoint", "from_single"),
        ("a.ckpt", [], "a single-file checkpoint", "from_single_file"),
        ("a.safetensors", ["conv_in.weight"], "the weights of one network", None),
        ("a.wav", [], "a file; a checkpoint is a folder", None),
    ],
)
def test_a_file_is_recognised(tmp_path, name, tensors, what, hint):
    path = write_safetensors(tmp_path / name, *tensors)
    with pytest.raises(UsageError, match=what) as caught:
        parse_name(str(path))
    assert (hint is None) == (caught.value.hint is None)
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, struct.pack("<Q", 3) + b"[[[", b"\0" * 8])
def test_a_damaged_file_is_no_reason_to_fail(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="the weights of one network"):
        parse_name(str(tmp_path / "a.safetensors"))


def test_folders_are_recognised(tmp_path):
    with pytest.raises(CheckpointError, match="it has neither"):
        is_adapter_layout(tmp_path)
    write_safetensors(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"the single-file checkpoint model\.ckpt"):
        is_adapter_layout(tmp_path)
    write_safetensors(tmp_path / "pytorch_lora_weights.safetensors", "unet.x.lora.down.weight")
    with pytest.raises(CheckpointError, match="the folder of a LoRA"):
        is_adapter_layout(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="an adapter"):
        is_adapter_layout(tmp_path)
    unet = shutil.copytree(GOLDEN / "unet", tmp_path / "unet")
    with pytest.raises(CheckpointError, match=r"one network \(UNet2DConditionModel\)"):
        is_adapter_layout(unet)
    for part in ("vae", "vocoder"):
        shutil.copytree(GOLDEN / part, tmp_path / "run" / part)
        with pytest.raises(CheckpointError, match="a part of a model, its ") as caught:
            is_adapter_layout(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        assert f"--{caught.value.message.split()[-1]}." in caught.value.hint
    (unet / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="it has neither"):
        is_adapter_layout(unet)
