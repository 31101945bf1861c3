"""The loop, on a stage small enough to see through: two linear networks and a known gradient."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from auffusion_cli.errors import AuffusionWarning, DataError, UsageError
from auffusion_cli.training import loop as training_loop
from auffusion_cli.training.checkpoints import MovingAverage, newest_checkpoint
from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.config_file import load_config
from auffusion_cli.training.loop import learning_rate_at, train
from toy_stage import LOOP, ToyStage, assert_same_run, run, weights


def test_learning_rate_rises_holds_falls():
    config = LoopConfig(max_steps=10, learning_rate=1.0, warmup_steps=4, decay_steps=2)
    rates = [learning_rate_at(step, 0, config) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.5])
    assert learning_rate_at(5, 3, replace(config, epoch_decay=0.5)) == pytest.approx(0.125)
    cosine = replace(config, decay_steps=4, decay="cosine")
    rates = [learning_rate_at(step, 0, cosine) for step in range(6, 10)]
    assert rates == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4])


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
    others = multiprocessing.active_children()  # a test that failed as it should may leave one
    whole, _, _ = run(tmp_path / "whole")
    before, n_steps, _ = run(tmp_path / "parts", stop_after=3, workers=2)
    after, _, _ = run(tmp_path / "parts", resume=True, workers=1)
    assert n_steps == 3 and before + after == whole
    assert set(multiprocessing.active_children()) <= set(others)  # the workers went with the run


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

    ema_step = MovingAverage.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MovingAverage, "step", step)
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
    with pytest.raises(DataError, match="diverged at step 4: main"):
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
