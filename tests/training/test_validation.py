"""The loss on held-out data: measured in time, the best result kept, the end found."""

from dataclasses import replace

import pytest

from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.effects import check_effects
from auffusion_cli.training.validation import is_run_over
from toy_stage import ToyStage, run


def stage_with(*losses: float) -> ToyStage:
    stage = ToyStage()
    stage.validation_losses = list(losses)
    return stage


def test_the_best_weights_are_the_result(tmp_path):
    stage = stage_with(3.0, 1.0, 2.0)
    _, n_steps, _ = run(tmp_path, stage=stage, validate_every_steps=2, keep_best=True)
    assert n_steps == 6 and len(stage.validated) == 3
    assert stage.exported[-1].item() == stage.validated[1]  # the moving average of step 4
    last = stage_with(3.0, 1.0, 2.0)
    run(tmp_path / "last", stage=last, validate_every_steps=2)
    assert last.exported[-1].item() == last.validated[2] != stage.validated[1]
    assert not (tmp_path / "last/checkpoints/best.safetensors").exists()


def test_measuring_changes_no_loss(tmp_path):
    plain, _, _ = run(tmp_path / "plain")
    stage = stage_with(*range(6))
    measured, _, _ = run(tmp_path / "measured", stage=stage, validate_every_steps=1)
    assert measured == plain


def test_a_run_that_gets_no_better_ends(tmp_path):
    settings = {"validate_every_steps": 1, "keep_best": True, "early_stop": 2}
    stage = stage_with(3.0, 1.0, 2.0, 1.5, 0.0)
    _, n_steps, _ = run(tmp_path, stage=stage, **settings)
    assert n_steps == 4 and stage.exported[-1].item() == stage.validated[1]
    loop = LoopConfig(**settings)
    assert is_run_over(loop, tmp_path / "checkpoints", 4)
    assert not is_run_over(loop, tmp_path / "checkpoints", 3)
    assert not is_run_over(loop, tmp_path, 4)
    _, n_steps, _ = run(tmp_path, stage=stage_with(), resume=True, **settings)
    assert n_steps == 4  # it stays over


def test_the_best_is_remembered_by_a_resumed_run(tmp_path):
    settings = {"validate_every_steps": 1, "keep_best": True, "early_stop": 3}
    first = stage_with(3.0, 1.0, 2.0)
    run(tmp_path, stage=first, stop_after=3, **settings)
    second = stage_with(1.5, 1.2)
    _, n_steps, _ = run(tmp_path, stage=second, resume=True, **settings)
    assert n_steps == 5 and second.exported[-1].item() == first.validated[1]
    (tmp_path / "checkpoints/best.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="best weights cannot be read"):
        run(tmp_path, stage=stage_with(), resume=True, **settings)


def test_the_log_has_every_measurement(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = stage_with(3.0, 1.0)
    run(tmp_path, stage=stage, validate_every_steps=3, log_every_steps=4, tensorboard=True)
    scalars = EventAccumulator(str(tmp_path / "logs")).Reload().Scalars("loss/validation")
    assert [(event.step, event.value) for event in scalars] == [(3, 3.0), (6, 1.0)]


def test_keys_without_effect_are_refused():
    with pytest.raises(UsageError, match=r"keep_best: without effect without loop\.validate"):
        LoopConfig(keep_best=True)
    measured = LoopConfig(validate_every_steps=1)
    with pytest.raises(UsageError, match=r"early_stop: without effect without loop\.keep_best"):
        replace(measured, early_stop=1)
    with pytest.raises(UsageError, match="on stage: vocoder"):
        check_effects(TrainingConfig(stage="vocoder", loop=measured))
