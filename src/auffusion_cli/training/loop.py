"""The training loop of every stage: one process or many machines, stopped and resumed at will."""

from __future__ import annotations

import math
import reprlib
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from auffusion_cli.errors import AuffusionWarning, DataError, UsageError
from auffusion_cli.files import write_text
from auffusion_cli.training.checkpoints import (
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.config_file import changed_settings, dump_config, load_config
from auffusion_cli.training.loading import choose_workers, read_ahead
from auffusion_cli.training.logs import Log, StepReport
from auffusion_cli.training.run_folder import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    LOGS_NAME,
    PREVIEWS_NAME,
)
from auffusion_cli.training.samples import derive_seed, samples_at
from auffusion_cli.training.sharding import Sharding, whole
from auffusion_cli.training.stage import Stage
from auffusion_cli.training.validation import Validation


def train(
    stage: Stage,
    config: TrainingConfig,
    accelerator: Accelerator,
    output: Path,
    *,
    resume: bool,
    sharding: Sharding | None = None,
    started_s: float | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Run `stage` until `max_steps`, `max_minutes`, `early_stop` or `stop_requested()`; returns the
    steps done. With `sharding` its networks are split over the processes.

    `output/checkpoints/` holds whole checkpoints only: each is written beside and renamed, a last
    one at the end, however it comes. Unless it comes by an exception, `output/` itself then
    receives the files of `Stage.export`. `max_minutes` counts from `started_s`, a time of
    `time.monotonic`, by default now.

    Raises:
        UsageError: the batch cannot be divided among the processes.
        CheckpointError: the newest checkpoint is damaged or of another network.
        DataError: the loss or its gradient is no longer a number; the weights from before are kept.
    """
    loop = config.loop
    _check_batch_size(loop, accelerator)
    started_s = time.monotonic() if started_s is None else started_s
    checkpoints = output / CHECKPOINTS_NAME
    state = TrainingState(stage.networks, loop, accelerator, sharding)
    if resume and (newest := newest_checkpoint(checkpoints)) is not None:
        load_checkpoint(newest, state)
        if accelerator.is_main_process:
            _warn_of_changes(output / CONFIG_NAME, config)
    if accelerator.is_main_process:
        write_text(output / CONFIG_NAME, dump_config(config))
    log = Log(output / LOGS_NAME, loop, state.step) if accelerator.is_main_process else None

    validation = Validation(stage, loop, state, checkpoints)

    def save() -> None:
        if state.takes_part:
            save_checkpoint(checkpoints, state, keep=loop.keep_checkpoints)

    loop_started_s = time.monotonic()
    first_step = saved_step = state.step
    is_over = False
    batches = read_ahead(
        _Batches(stage, config, accelerator),
        range(state.step, loop.max_steps),
        choose_workers(loop.workers, accelerator.device),
        accelerator.device,
    )
    try:
        while state.step < loop.max_steps:
            minutes = (time.monotonic() - started_s) / 60
            time_is_up = loop.max_minutes is not None and minutes >= loop.max_minutes
            # All processes leave at the same step, or the others would wait for ever.
            no_better = accelerator.is_main_process and validation.is_over
            if _any_process(time_is_up or no_better or stop_requested(), accelerator):
                break
            epoch = state.step * loop.batch_size // stage.n_items
            learning_rate = learning_rate_at(state.step, epoch, loop)
            trained = [name for name in stage.networks if stage.trains(name, state.step)]

            losses = _accumulate_gradients(stage, next(batches), state.step, config, accelerator)
            gradient_norms = {name: _clip_gradients(state, name, loop) for name in trained}
            # Before the weights are touched: they and the checkpoints stay usable.
            _check_finite(losses, gradient_norms, state.step + 1, accelerator)
            state.update(trained, learning_rate)

            n_samples = (state.step - first_step) * loop.batch_size
            report = StepReport(
                step=state.step,
                max_steps=loop.max_steps,
                losses=losses,
                gradient_norms=gradient_norms,
                learning_rate=learning_rate,
                samples_per_second=n_samples / (time.monotonic() - loop_started_s),
                elapsed_minutes=(time.monotonic() - started_s) / 60,
                validation_loss=validation.measure() if state.takes_part else None,
            )
            if on_step is not None and accelerator.is_main_process:
                on_step(report)
            if log is not None:
                log.write(report)
            if state.step % loop.checkpoint_every_steps == 0:
                save()
                saved_step = state.step
            previews = loop.preview_every_steps and state.step % loop.preview_every_steps == 0
            if previews and state.takes_part:
                with state.averaged():
                    if accelerator.is_main_process:
                        stage.preview(output / PREVIEWS_NAME, state.step)
        is_over = True
    finally:
        batches.close()
        # Only between steps: after a Ctrl-C in the middle of one the last checkpoint stands; and
        # not where a network of which the others have parts would wait for them.
        if state.step > saved_step and not state.in_step and (is_over or not state.is_split):
            save()
        if log is not None:
            log.close()
    if state.takes_part:
        with state.averaged():
            if accelerator.is_main_process:
                validation.take_best()
                stage.export(output)
    # Once, at the end: while the main process saves, the others wait for its next gradients.
    accelerator.wait_for_everyone()
    return state.step


def learning_rate_at(step: int, epoch: int, config: LoopConfig) -> float:
    """Linear warm-up, constant, decay over the last `decay_steps`, times the epoch decay."""
    rate = config.learning_rate * config.epoch_decay**epoch
    rate *= min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        left = min(1.0, max(0.0, (config.max_steps - step) / config.decay_steps))
        rate *= left if config.decay == "linear" else (1 - math.cos(math.pi * left)) / 2
    return rate


class _Batches(Dataset):
    """The inputs of each step in this process: one result of `Stage.load` for each part."""

    def __init__(self, stage: Stage, config: TrainingConfig, accelerator: Accelerator) -> None:
        self.load, self.n_items, self.shards = stage.load, stage.n_items, stage.shards
        self.loop, self.seed = config.loop, config.seed
        self.process_index, self.n_processes = accelerator.process_index, accelerator.num_processes

    def __getitem__(self, step: int) -> list[Any]:
        batch = samples_at(step, self.loop.batch_size, self.n_items, self.seed, self.shards)
        # Strided, so that each process takes an equal part of every accumulated part.
        mine = batch[self.process_index :: self.n_processes]
        share = len(mine) // self.loop.gradient_accumulation
        return [self.load(mine[start : start + share]) for start in range(0, len(mine), share)]


def _check_batch_size(loop: LoopConfig, accelerator: Accelerator) -> None:
    parts = accelerator.num_processes * loop.gradient_accumulation
    if loop.batch_size % parts:
        raise UsageError(
            f"loop.batch_size: {loop.batch_size} samples cannot be shared by "
            f"{accelerator.num_processes} processes x {loop.gradient_accumulation} parts",
            hint=f"A multiple of {parts} can.",
        )


def _accumulate_gradients(
    stage: Stage, parts: Sequence[Any], step: int, config: TrainingConfig, accelerator: Accelerator
) -> dict[str, float]:
    """Forward and backward passes over the parts of a batch; returns the mean losses."""
    # For layers that draw from the global generator (dropout), so that it has no state to save.
    torch.manual_seed(derive_seed(config.seed, step, accelerator.process_index))
    losses: dict[str, list[float]] = {}
    for number, part in enumerate(parts, start=1):
        with ExitStack() as stack:
            if number < len(parts):  # gradients are reduced over processes with the last part
                for network in stage.networks.values():
                    stack.enter_context(accelerator.no_sync(network))
            for loss, logs in stage.losses(part, step):
                accelerator.backward(loss / config.loop.gradient_accumulation)
                for key, value in logs.items():
                    losses.setdefault(key, []).append(value)
    means = {key: sum(values) / len(values) for key, values in losses.items()}
    return _mean_over_processes(means, accelerator)


def _clip_gradients(state: TrainingState, name: str, loop: LoopConfig) -> float:
    """Clip the gradients of a network to `max_grad_norm`; returns their norm from before."""
    if state.accelerator.scaler is not None:
        state.accelerator.scaler.unscale_(state.optimizers[name])
    limit = math.inf if loop.max_grad_norm is None else loop.max_grad_norm
    parameters = list(state.networks[name].parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    before = float(whole(norm))
    if not before <= limit:  # scaling by one is a pass over all of them, too
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return before


def _check_finite(
    losses: dict[str, float], gradient_norms: dict[str, float], step: int, accelerator: Accelerator
) -> None:
    wrong = {key: value for key, value in losses.items() if not math.isfinite(value)}
    if accelerator.scaler is None:  # the scaler leaves out steps whose gradients overflow
        wrong |= {
            f"gradient of {name}": norm
            for name, norm in gradient_norms.items()
            if not math.isfinite(norm)
        }
    if wrong:
        shown = ", ".join(f"{name} {value}" for name, value in wrong.items())
        raise DataError(
            f"the training diverged at step {step}: {shown}",
            hint="--resume with a lower loop.learning_rate, or another loop.mixed_precision.",
        )


def _mean_over_processes(numbers: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), device=accelerator.device)
    means = accelerator.reduce(values, reduction="mean")
    return dict(zip(numbers, means.tolist(), strict=True))


def _any_process(flag: bool, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum") > 0)


def _warn_of_changes(path: Path, config: TrainingConfig) -> None:
    """Warn of settings that differ from those in `path`, of the run that is resumed."""
    try:
        before = load_config(path, {})
    except UsageError as error:
        warnings.warn(
            f"cannot compare with the run before: {error}", AuffusionWarning, stacklevel=2
        )
        return
    if changes := changed_settings(before, config):
        shown = ", ".join(
            f"{key} (was {reprlib.repr(old)}, is {reprlib.repr(new)})"
            for key, (old, new) in changes.items()
        )
        warnings.warn(
            f"resumed with other settings, so not as if the run had never stopped: {shown}",
            AuffusionWarning,
            stacklevel=2,
        )
