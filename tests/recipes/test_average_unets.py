"""The mean of two UNets: halfway, in the types of the first, with true checksums."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import average_unets


def write_unet(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    (folder / "unet").mkdir(parents=True)
    save_file(tensors, folder / average_unets.UNET, metadata={"format": "pt"})
    (folder / "auffusion.json").write_text("{}")
    return folder


def test_the_result_is_halfway_and_all_else_stays(tmp_path):
    weights = torch.tensor([[1.0, 2.0]], dtype=torch.float16)
    before = write_unet(tmp_path / "before", {"a": weights, "b": weights.clone()})
    after = write_unet(tmp_path / "after", {"a": weights.float() + 1, "b": -weights.float()})
    average_unets.average(before, after, tmp_path / "out")
    result = load_file(tmp_path / "out" / average_unets.UNET)
    assert {tensor.dtype for tensor in result.values()} == {torch.float16}
    assert result["a"].tolist() == [[1.5, 2.5]] and result["b"].tolist() == [[0.0, 0.0]]
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert load_file(before / average_unets.UNET)["a"].tolist() == [[1.0, 2.0]]


def test_a_share_of_one_is_the_unet_after(tmp_path):
    before = write_unet(tmp_path / "before", {"a": torch.zeros(2, dtype=torch.float16)})
    after = write_unet(tmp_path / "after", {"a": torch.tensor([1.0, 3.0])})
    average_unets.average(before, after, tmp_path / "out", 1.0)
    assert load_file(tmp_path / "out" / average_unets.UNET)["a"].tolist() == [1.0, 3.0]


def test_another_unet_is_refused_and_nothing_written(tmp_path):
    before = write_unet(tmp_path / "before", {"a": torch.zeros(2)})
    after = write_unet(tmp_path / "after", {"a": torch.zeros(3)})
    with pytest.raises(SystemExit, match="another one"):
        average_unets.average(before, after, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_unet_is_named(tmp_path):
    before = write_unet(tmp_path / "before", {"a": torch.zeros(2)})
    with pytest.raises(SystemExit, match=r"--after .*nothing"):
        average_unets.average(before, tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
