"""The loop, on a stage small enough to see through: two linear networks and a known gradient."""

import json
import multiprocessing
import resource
from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from auffusion_cli.errors import (
    AuffusionError,
    AuffusionWarning,
    CheckpointError,
    DataError,
    UsageError,
)
from auffusion_cli.training import loop as training_loop
from auffusion_cli.training.config import LoopConfig, TrainingConfig, load_config
from auffusion_cli.training.loop import (
    Sample,
    learning_rate_at,
    newest_checkpoint,
    replace_folder,
    samples_at,
    train,
)

LOOP = LoopConfig(
    batch_size=4,
    max_steps=6,
    learning_rate=0.1,
    warmup_steps=3,
    decay_steps=2,
    ema_decay=0.9,
    checkpoint_every_steps=2,
    tensorboard=False,
)


class ToyStage:
    """Regression of a sample's noise on its index; a second network joins in at step 2."""

    n_items = 5

    def __init__(self, fail_at: int | None = None) -> None:
        torch.manual_seed(0)
        main = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.networks = {"main": main, "critic": nn.Linear(3, 1)}
        self.main = main
        self.fail_at = fail_at
        self.poison: tuple[int, float] | None = None
        self.exported: list[torch.Tensor] | None = None
        self.previews: list[int] = []

    def trains(self, name, step):
        return name == "main" or step >= 2

    def load(self, batch):
        inputs = torch.stack([torch.randn(3, generator=s.generator()) for s in batch])
        return inputs, torch.tensor([[float(s.index)] for s in batch])

    def losses(self, loaded, step):
        if step == self.fail_at:
            raise RuntimeError("in the middle")
        inputs, targets = loaded
        for name in ("main", "critic"):
            if self.trains(name, step):
                loss = (self.networks[name](inputs) - targets).square().mean()
                if self.poison and self.poison[0] == step:
                    loss = loss * self.poison[1]
                yield loss, {name: loss.item()}

    def export(self, folder):
        self.exported = [p.detach().clone() for p in self.main.parameters()]
        (folder / "result").write_text("here")

    def preview(self, folder, step):
        self.previews.append(step)


def run(output, *, stage=None, resume=False, stop_after=None, accelerator=None, **changes):
    """(losses of each step, steps done, stage)."""
    stage = stage or ToyStage()
    config = TrainingConfig(seed=7, loop=replace(LOOP, **changes))
    losses = []
    n_steps = train(
        stage,
        config,
        accelerator or Accelerator(cpu=True),
        output,
        resume=resume,
        on_step=lambda progress: losses.append(progress.losses),
        stop_requested=lambda: stop_after is not None and len(losses) >= stop_after,
    )
    return losses, n_steps, stage


def weights(output, step, network="main"):
    return load_file(output / f"checkpoints/step-{step:08d}/{network}.safetensors")


def assert_same_run(one, other, step=6):
    for network in ("main", "critic"):
        expected, got = weights(one, step, network), weights(other, step, network)
        assert all(torch.equal(expected[name], got[name]) for name in expected)


# Samples ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**32))
def test_every_epoch_sees_each_item_once(batch_size, n_items, seed):
    n_steps = 3 * n_items  # so that epochs and batches come out even
    samples = [s for step in range(n_steps) for s in samples_at(step, batch_size, n_items, seed)]
    for start in range(0, len(samples), n_items):
        epoch = samples[start : start + n_items]
        assert Counter(s.index for s in epoch) == Counter(range(n_items))
    assert len({s.seed for s in samples}) == len(samples)
    assert all(0 <= s.seed < 2**63 for s in samples)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 8), st.integers(0, 9))
def test_samples_depend_on_nothing_but_their_place(step, other_step, batch_size, seed):
    expected = samples_at(step, batch_size, 11, seed)
    samples_at(other_step, batch_size, 7, seed + 1)  # whatever was asked before
    assert samples_at(step, batch_size, 11, seed) == expected
    # Positions count samples: two small steps are one big one.
    halves = [
        s for half in (2 * step, 2 * step + 1) for s in samples_at(half, batch_size, 11, seed)
    ]
    assert samples_at(step, 2 * batch_size, 11, seed) == halves


def test_epochs_and_seeds_differ():
    orders = {tuple(s.index for s in samples_at(epoch, 50, 50, 0)) for epoch in range(4)}
    assert len(orders) == 4
    assert samples_at(0, 50, 50, 0) != samples_at(0, 50, 50, 1)


def test_a_sample_draws_the_same_again():
    sample = Sample(0, seed=2**62)
    assert torch.rand(1, generator=sample.generator()) == torch.rand(
        1, generator=sample.generator()
    )


def test_learning_rate_rises_holds_falls():
    config = LoopConfig(max_steps=10, learning_rate=1.0, warmup_steps=4, decay_steps=2)
    rates = [learning_rate_at(step, 0, config) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.5])
    assert learning_rate_at(5, 3, replace(config, epoch_decay=0.5)) == pytest.approx(0.125)


# Stopping and going on ----------------------------------------------------------------------------


def test_a_run_stopped_by_request_goes_on_with_the_same_losses(tmp_path):
    whole, n_steps, _ = run(tmp_path / "whole")
    assert n_steps == len(whole) == 6
    before, n_steps, stage = run(tmp_path / "parts", stop_after=3)
    assert n_steps == 3 and stage.exported is not None  # a clean stop gives a result
    after, n_steps, _ = run(tmp_path / "parts", resume=True)
    assert n_steps == 6 and before + after == whole  # dropout and all, to the last bit
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_broken_by_an_exception_goes_on_with_the_same_losses(tmp_path):
    whole, _, _ = run(tmp_path / "whole")
    stage = ToyStage(fail_at=3)
    with pytest.raises(RuntimeError, match="in the middle"):
        run(tmp_path / "parts", stage=stage)
    assert stage.exported is None
    assert newest_checkpoint(tmp_path / "parts/checkpoints").name == "step-00000003"
    after, _, _ = run(tmp_path / "parts", resume=True)
    assert after == whole[3:]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation": 2}])
def test_reading_ahead_in_other_processes_changes_nothing(tmp_path, changes):
    here, _, _ = run(tmp_path / "here", workers=0, **changes)
    ahead, _, _ = run(tmp_path / "ahead", workers=2, **changes)
    assert ahead == here
    assert_same_run(tmp_path / "here", tmp_path / "ahead")


def test_a_run_that_reads_ahead_is_stopped_and_goes_on(tmp_path):
    whole, _, _ = run(tmp_path / "whole")
    before, n_steps, _ = run(tmp_path / "parts", stop_after=3, workers=2)
    after, _, _ = run(tmp_path / "parts", resume=True, workers=1)
    assert n_steps == 3 and before + after == whole
    assert not multiprocessing.active_children()  # the workers went with the run


def test_networks_are_compiled_in_place_and_saved_under_the_same_names(tmp_path, monkeypatch):
    compiled = []

    def compile(network):  # the compiler itself takes minutes
        compiled.append(network)
        network._compiled_call_impl = network._call_impl

    plain, _, _ = run(tmp_path / "plain")
    monkeypatch.setattr(nn.Module, "compile", compile)
    losses, _, stage = run(tmp_path / "compiled", compile=True)
    assert losses == plain and len(compiled) == len(stage.networks)
    assert_same_run(tmp_path / "plain", tmp_path / "compiled")


def test_an_interrupt_inside_a_step_does_not_save_half_of_it(tmp_path, monkeypatch):
    whole, _, _ = run(tmp_path / "whole")
    steps = []

    def step(self, parameters):
        if len(steps) == 3:  # the optimisers have been stepped, the average has not
            raise KeyboardInterrupt
        steps.append(self)
        return ema_step(self, parameters)

    ema_step = training_loop.EMAModel.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_loop.EMAModel, "step", step)
        run(tmp_path / "parts")
    assert newest_checkpoint(tmp_path / "parts/checkpoints").name == "step-00000002"
    after, _, _ = run(tmp_path / "parts", resume=True)
    assert after == whole[2:]


def test_minutes_count_from_when_the_work_began(tmp_path):
    losses, n_steps, _ = run(tmp_path, max_minutes=0.0)
    assert (losses, n_steps) == ([], 0)
    n_steps = train(
        ToyStage(),
        TrainingConfig(loop=replace(LOOP, max_minutes=1.0)),
        Accelerator(cpu=True),
        tmp_path,
        resume=False,
        started_s=training_loop.time.monotonic() - 61,
    )
    assert n_steps == 0


def test_resuming_a_finished_run_only_writes_the_result(tmp_path):
    run(tmp_path)
    (tmp_path / "result").unlink()
    losses, n_steps, _ = run(tmp_path, resume=True)
    assert (losses, n_steps) == ([], 6) and (tmp_path / "result").exists()


def test_resuming_before_the_first_checkpoint_starts_at_the_beginning(tmp_path):
    assert run(tmp_path, resume=True)[0] == run(tmp_path / "other")[0]


def test_resuming_with_other_settings_is_told(tmp_path):
    run(tmp_path, stop_after=2)
    with pytest.warns(AuffusionWarning, match=r"loop.learning_rate \(was .*, is 0.5\)"):
        run(tmp_path, resume=True, learning_rate=0.5)


def test_resuming_with_the_same_settings_is_silent(tmp_path, recwarn):
    run(tmp_path, stop_after=2)
    run(tmp_path, resume=True, keep_checkpoints=3)
    assert not [w for w in recwarn if issubclass(w.category, AuffusionWarning)]


def test_the_resolved_configuration_lies_beside(tmp_path):
    run(tmp_path)
    assert load_config(tmp_path / "training.yaml", {}) == TrainingConfig(seed=7, loop=LOOP)


# Checkpoints --------------------------------------------------------------------------------------


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
    assert "free some space" in caught.value.hint
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert checkpoint_files(tmp_path, 2) == before
    assert run(tmp_path, resume=True)[1] == 6


@pytest.mark.parametrize("writer", ["save_file", "torch.save"])
def test_no_space_left_leaves_no_half_checkpoint(tmp_path, monkeypatch, writer):
    run(tmp_path, stop_after=2)

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"auffusion_cli.training.loop.{writer}", full)
    with pytest.raises(AuffusionError, match="No space left on device"):
        run(tmp_path, resume=True)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_what_a_killed_process_left_is_not_taken_for_a_checkpoint(tmp_path):
    whole, _, _ = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=2)
    checkpoints = tmp_path / "parts/checkpoints"
    for name in ("step-00000004.partial", "step-00000003.old", "step-00000005"):
        (checkpoints / name).mkdir()
    assert newest_checkpoint(checkpoints).name == "step-00000002"
    assert run(tmp_path / "parts", resume=True)[0] == whole[2:]
    assert {p.name for p in checkpoints.iterdir()} == {
        "step-00000004",
        "step-00000005",  # empty: no program of ours made it
        "step-00000006",
    }


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, stop_after=2)
    for name in ("main.safetensors", "critic.optimizer.pt", "ema.pt", "state.json"):
        path = tmp_path / "checkpoints/step-00000002" / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="step-00000002 cannot be gone on from"):
            run(tmp_path, resume=True)
        path.write_bytes(content)


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


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "final")
    assert [p.name for p in tmp_path.iterdir()] == ["final"]
    assert [p.name for p in (tmp_path / "final").iterdir()] == ["new"]


# One step -----------------------------------------------------------------------------------------


def test_accumulated_parts_are_the_whole_batch(tmp_path):
    def without_dropout():
        stage = ToyStage()
        stage.main.eval()
        return stage

    whole, _, _ = run(tmp_path / "whole", stage=without_dropout(), max_grad_norm=0.5)
    parts, _, _ = run(
        tmp_path / "parts", stage=without_dropout(), max_grad_norm=0.5, gradient_accumulation=4
    )
    for expected, got in zip(whole, parts, strict=True):
        assert got == pytest.approx(expected, rel=1e-5)
    for name, expected in weights(tmp_path / "whole", 6).items():
        torch.testing.assert_close(weights(tmp_path / "parts", 6)[name], expected)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(UsageError, match="4 samples cannot be shared by 1 processes x 3 parts"):
        run(tmp_path, gradient_accumulation=3)


def test_the_average_is_exported_and_the_weights_go_on(tmp_path):
    """By hand: the average of diffusers starts with decay min(0.9, (1 + n) / (10 + n))."""
    snapshots = []

    class Watched(ToyStage):
        def trains(self, name, step):
            if name == "main" and len(snapshots) == step:
                snapshots.append([p.detach().clone() for p in self.main.parameters()])
            return super().trains(name, step)

    _, _, stage = run(tmp_path, stage=Watched())
    snapshots.append([p.detach().clone() for p in stage.main.parameters()])
    average = snapshots[1]  # the first update takes the weights as they are
    for n, current in enumerate(snapshots[2:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = [decay * a + (1 - decay) * c for a, c in zip(average, current, strict=True)]
    for expected, exported in zip(average, stage.exported, strict=True):
        torch.testing.assert_close(exported, expected)
    assert not torch.allclose(stage.exported[0], snapshots[-1][0])
    last = weights(tmp_path, 6)
    assert torch.equal(last["0.weight"], snapshots[-1][0])


def test_without_an_average_the_weights_are_exported(tmp_path):
    _, _, stage = run(tmp_path, ema_decay=None)
    assert torch.equal(stage.exported[0], weights(tmp_path, 6)["0.weight"])
    assert not (tmp_path / "checkpoints/step-00000006/ema.pt").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights(tmp_path, value):
    whole, _, _ = run(tmp_path / "whole")
    stage = ToyStage()
    stage.poison = (3, value)
    with pytest.raises(DataError, match="broke down at step 4: main"):
        run(tmp_path / "parts", stage=stage)
    assert all(p.isfinite().all() for p in weights(tmp_path / "parts", 3).values())
    assert run(tmp_path / "parts", resume=True)[0] == whole[3:]


def test_a_gradient_that_is_no_number_ends_the_run_too(tmp_path):
    stage = ToyStage()
    stage.main[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DataError, match="gradient of main"):
        run(tmp_path, stage=stage)
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_gradients_are_clipped(tmp_path):
    before = [p.detach().clone() for p in ToyStage().main.parameters()]
    # AdamW's first step has the same size for any gradient; a second moment of 0 shows none.
    _, _, stage = run(tmp_path, max_steps=1, max_grad_norm=1e-12, ema_decay=None)
    moved = max(
        (a - b).abs().max().item() for a, b in zip(before, stage.main.parameters(), strict=True)
    )
    assert moved < 1e-3  # learning_rate / warmup_steps = 0.033 without clipping


def test_previews_and_logs_at_their_intervals(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses, _, stage = run(
        tmp_path, preview_every_steps=3, log_every_steps=2, tensorboard=True, stop_after=4
    )
    assert stage.previews == [3]
    losses += run(tmp_path, resume=True, log_every_steps=2, tensorboard=True)[0]
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    scalars = events.Scalars("loss/main")
    assert [event.step for event in scalars] == [2, 4, 6]
    for event in scalars:
        assert event.value == pytest.approx(losses[event.step - 1]["main"])
    assert [e.value for e in events.Scalars("learning_rate")] == pytest.approx(
        [0.0667, 0.1, 0.05], 1e-2
    )
    assert len(events.Scalars("gradient_norm/main")) == 3


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
