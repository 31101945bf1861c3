"""Checkpoints of a run that trains `ToyStage`."""

import json
import resource
import shutil

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from auffusion_cli.errors import AuffusionError, CheckpointError
from auffusion_cli.training.checkpoints import MovingAverage, newest_checkpoint
from toy_stage import ToyStage, run


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path, keep_checkpoints=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000006",
    ]


def checkpoint_files(output, step):
    folder = output / f"checkpoints/step-{step:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    """A real one, as far as a process can have it: no file may grow beyond a few KB."""
    run(tmp_path, stop_after=2)
    before = checkpoint_files(tmp_path, 2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (tmp_path / "training.yaml").stat().st_size
    assert most < max(map(len, before.values()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit[1]))
    try:
        with pytest.raises(AuffusionError, match=r"step-0000000\d cannot be written") as caught:
            run(tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "Free some space" in caught.value.hint
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert checkpoint_files(tmp_path, 2) == before
    assert run(tmp_path, resume=True)[1] == 6


@pytest.mark.parametrize("writer", ["save_file", "torch.save"])
def test_no_space_left_leaves_no_half_checkpoint(tmp_path, monkeypatch, writer):
    run(tmp_path, stop_after=2)

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"auffusion_cli.training.checkpoints.{writer}", full)
    with pytest.raises(AuffusionError, match="No space left on device"):
        run(tmp_path, resume=True)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_what_a_killed_process_left_is_not_taken_for_a_checkpoint(tmp_path):
    whole, _, _ = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=2)
    checkpoints = tmp_path / "parts/checkpoints"
    for name in ("." + 16 * "a" + ".part", "step-00000005"):
        (checkpoints / name).mkdir()
    assert newest_checkpoint(checkpoints).name == "step-00000002"
    assert run(tmp_path / "parts", resume=True)[0] == whole[2:]
    assert {p.name for p in checkpoints.glob("step-*")} == {
        "step-00000004",
        "step-00000005",  # empty: no program of ours made it
        "step-00000006",
    }


@pytest.mark.parametrize("share", [0, 0.5], ids=["empty", "half"])
@pytest.mark.parametrize(
    "name",
    [
        "main.safetensors",
        "main.optimizer.pt",
        "critic.safetensors",
        "critic.optimizer.pt",
        "ema.pt",
        "state.json",
    ],
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_offered(tmp_path, name, share):
    run(tmp_path, stop_after=4)
    path = tmp_path / "checkpoints/step-00000004" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=f"step-00000004/{name}: cannot be resumed") as caught:
        run(tmp_path, resume=True)
    assert len(caught.value.message) < 300 + len(str(tmp_path))
    assert "--resume then takes step-00000002" in caught.value.hint
    shutil.rmtree(path.parent)
    assert run(tmp_path, resume=True)[1] == 6


def test_without_a_checkpoint_before_the_damaged_one_there_is_overwrite(tmp_path):
    run(tmp_path, stop_after=2)
    (tmp_path / "checkpoints/step-00000002/ema.pt").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"ema\.pt: cannot be resumed from: EOFError"
    ) as caught:
        run(tmp_path, resume=True)
    assert "--overwrite" in caught.value.hint


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    run(tmp_path, stop_after=2)
    stage = ToyStage()
    stage.networks["critic"] = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="size mismatch"):
        run(tmp_path, resume=True, stage=stage)


def test_the_pickles_of_a_checkpoint_carry_no_code(tmp_path):
    run(tmp_path, stop_after=2)

    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"evil": Evil()}, tmp_path / "checkpoints/step-00000002/ema.pt")
    with pytest.raises(CheckpointError):
        run(tmp_path, resume=True)


def test_state_of_a_checkpoint(tmp_path):
    run(tmp_path)
    folder = tmp_path / "checkpoints/step-00000006"
    assert {p.name for p in folder.iterdir()} == {
        "main.safetensors",
        "main.optimizer.pt",
        "critic.safetensors",
        "critic.optimizer.pt",
        "ema.pt",
        "state.json",
    }
    assert json.loads((folder / "state.json").read_text()) == {"step": 6}


def test_the_moving_average_is_that_of_diffusers():
    weights = [nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))]
    ours, theirs = MovingAverage(weights, foreach=True), EMAModel(weights)
    for step in range(4):
        weights[0].data += step
        ours.step(weights)
        theirs.step(weights)
    torch.testing.assert_close(ours.shadow_params, theirs.shadow_params)
    assert ours.optimization_step == theirs.optimization_step
