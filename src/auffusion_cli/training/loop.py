"""The one training loop: every stage, one process or many machines, stopped and resumed at will.

What makes a run repeatable: a training sample is a pure function of (seed, position), where the
position counts samples from the start of the run. No generator or data loader carries state, so a
resumed run continues with the losses of one never stopped, and N processes see what one would.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from auffusion_cli.errors import AuffusionWarning, DataError, UsageError
from auffusion_cli.training.config import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    LoopConfig,
    TrainingConfig,
    dump_config,
)


@dataclass(frozen=True)
class Sample:
    """One training sample: which item of the data, and the seed of all that is random about it."""

    index: int
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator: the same draws in every process and after every resume."""
        return torch.Generator().manual_seed(self.seed)


Losses = Iterator[tuple[Tensor, dict[str, float]]]
"""(loss, numbers to log), one for each backward pass."""


class Stage(Protocol):
    """What a stage gives the loop."""

    networks: dict[str, nn.Module]
    """Trained networks by name, each with its own optimiser; the first one has the EMA.

    The loop replaces the entries by what accelerate wraps them in: `losses` must call these."""
    n_items: int
    """Items of the data; an epoch sees each once."""

    def losses(
        self, batch: Sequence[Sample], step: int
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield the losses of a part of a batch, mean over its samples."""
        ...

    def trains(self, name: str, step: int) -> bool:
        """Whether network `name` is stepped at `step`."""
        ...

    def export(self, folder: Path) -> None:
        """Write what the user wanted the training for, from the current weights (the EMA's)."""
        ...

    def preview(self, folder: Path, step: int) -> None:
        """Write sample sounds and pictures of the current weights."""
        ...


@dataclass(frozen=True)
class Progress:
    """What the loop reports after each step."""

    step: int
    max_steps: int
    losses: dict[str, float]
    learning_rate: float
    samples_per_second: float
    elapsed_minutes: float


def samples_at(step: int, batch_size: int, n_items: int, seed: int) -> list[Sample]:
    """The samples of one optimiser step: every epoch is a new permutation of the items."""
    batch = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, n_items)
        index = int(_permutation(seed, epoch, n_items)[place])
        sample_seed = np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0]
        batch.append(Sample(index, int(sample_seed >> np.uint64(1))))
    return batch


_last_permutation: tuple[tuple[int, int, int], np.ndarray] | None = None


def _permutation(seed: int, epoch: int, n_items: int) -> np.ndarray:
    """The order of an epoch; the last one is kept, for a step asks for it once a sample."""
    global _last_permutation
    key = (seed, epoch, n_items)
    if _last_permutation is None or _last_permutation[0] != key:
        order = np.random.default_rng(np.random.SeedSequence(key)).permutation(n_items)
        _last_permutation = (key, order)
    return _last_permutation[1]


def learning_rate_at(step: int, epoch: int, config: LoopConfig) -> float:
    """Linear warm-up, constant, linear decay over the last `decay_steps`, times the epoch decay."""
    rate = config.learning_rate * config.epoch_decay**epoch
    rate *= min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        rate *= min(1.0, max(0.0, (config.max_steps - step) / config.decay_steps))
    return rate


def train(
    stage: Stage,
    config: TrainingConfig,
    accelerator: Accelerator,
    output: Path,
    *,
    resume: bool,
    on_step: Callable[[Progress], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Run `stage` until `max_steps`, `max_minutes` or `stop_requested()`; returns the steps done.

    `output/checkpoints/` holds whole checkpoints only: each is written beside and renamed, a last
    one at the end, however it comes. Unless it comes by an exception, `output/` itself then
    receives what `Stage.export` writes.

    Raises:
        UsageError: the batch cannot be divided among the processes.
        DataError: the loss is no longer a number.
    """
    loop = config.loop
    parts = accelerator.num_processes * loop.gradient_accumulation
    if loop.batch_size % parts:
        raise UsageError(
            f"loop.batch_size: {loop.batch_size} samples cannot be shared by "
            f"{accelerator.num_processes} processes x {loop.gradient_accumulation} parts",
            hint=f"a multiple of {parts} can",
        )
    optimizers = {
        name: torch.optim.AdamW(
            network.parameters(),
            lr=loop.learning_rate,
            betas=loop.betas,
            weight_decay=loop.weight_decay,
        )
        for name, network in stage.networks.items()
    }
    main_name, main_network = next(iter(stage.networks.items()))
    ema = None
    if loop.ema_decay is not None:
        ema = EMAModel(main_network.parameters(), decay=loop.ema_decay, foreach=True)
    for name in stage.networks:
        stage.networks[name], optimizers[name] = accelerator.prepare(
            stage.networks[name], optimizers[name]
        )
    if ema is not None:
        ema.to(accelerator.device)

    checkpoints = output / CHECKPOINTS_NAME
    step = 0
    if resume and (newest := newest_checkpoint(checkpoints)) is not None:
        step = _load_checkpoint(newest, accelerator, stage, optimizers, ema)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        _write_text(output / CONFIG_NAME, dump_config(config))
    writer = _summary_writer(output, loop, accelerator)

    def save() -> None:
        if accelerator.is_main_process:
            _save_checkpoint(checkpoints, step, accelerator, stage, optimizers, ema)
            for old in _checkpoints(checkpoints)[: -loop.keep_checkpoints]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def with_ema(action: Callable[[], None]) -> None:
        if accelerator.is_main_process:
            parameters = list(accelerator.unwrap_model(stage.networks[main_name]).parameters())
            if ema is not None:
                ema.store(parameters)
                ema.copy_to(parameters)
            try:
                action()
            finally:
                if ema is not None:
                    ema.restore(parameters)
        accelerator.wait_for_everyone()

    started, first_step, saved_step = time.monotonic(), step, step
    share = loop.batch_size // parts
    try:
        while step < loop.max_steps:
            elapsed_minutes = (time.monotonic() - started) / 60
            time_is_up = loop.max_minutes is not None and elapsed_minutes >= loop.max_minutes
            # All processes leave at the same step, or the others would wait for ever.
            if _any_process(time_is_up or stop_requested(), accelerator):
                break
            batch = samples_at(step, loop.batch_size, stage.n_items, config.seed)
            # Strided, so that each process takes an equal part of every accumulated part.
            mine = batch[accelerator.process_index :: accelerator.num_processes]
            rate = learning_rate_at(step, step * loop.batch_size // stage.n_items, loop)
            trained = [name for name in stage.networks if stage.trains(name, step)]

            numbers: dict[str, list[float]] = {}
            for part in range(loop.gradient_accumulation):
                last = part == loop.gradient_accumulation - 1
                with _no_sync(accelerator, stage, skip=last):
                    for loss, logs in stage.losses(mine[part * share : (part + 1) * share], step):
                        accelerator.backward(loss / loop.gradient_accumulation)
                        for key, value in logs.items():
                            numbers.setdefault(key, []).append(value)

            for name in trained:
                if loop.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(
                        stage.networks[name].parameters(), loop.max_grad_norm
                    )
                for group in optimizers[name].param_groups:
                    group["lr"] = rate
                optimizers[name].step()
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.step(accelerator.unwrap_model(stage.networks[main_name]).parameters())
            step += 1

            means = {key: sum(values) / len(values) for key, values in numbers.items()}
            means = _mean_over_processes(means, accelerator)
            if not all(np.isfinite(value) for value in means.values()):
                raise DataError(
                    f"the loss is not a number at step {step}: {means}",
                    hint="resume with a lower loop.learning_rate or another loop.mixed_precision",
                )
            elapsed_s = time.monotonic() - started
            progress = Progress(
                step=step,
                max_steps=loop.max_steps,
                losses=means,
                learning_rate=rate,
                samples_per_second=(step - first_step) * loop.batch_size / elapsed_s,
                elapsed_minutes=elapsed_s / 60,
            )
            if on_step is not None and accelerator.is_main_process:
                on_step(progress)
            if writer is not None and step % loop.log_every_steps == 0:
                for key, value in means.items():
                    writer.add_scalar(f"loss/{key}", value, step)
                writer.add_scalar("learning_rate", rate, step)
            if step % loop.checkpoint_every_steps == 0:
                save()
                saved_step = step
            if loop.preview_every_steps and step % loop.preview_every_steps == 0:
                with_ema(partial(stage.preview, output / "previews", step))
    finally:
        # A step is only counted once it is whole, so this is safe after Ctrl-C, too.
        if step > saved_step:
            save()
        if writer is not None:
            writer.close()
    with_ema(lambda: stage.export(output))
    return step


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none."""
    return found[-1] if (found := _checkpoints(checkpoints)) else None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-????????") if (path / "state.json").is_file())


def _save_checkpoint(
    folder: Path,
    step: int,
    accelerator: Accelerator,
    stage: Stage,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMAModel | None,
) -> None:
    final, partial = folder / f"step-{step:08d}", folder / f"step-{step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, network in stage.networks.items():
            state = accelerator.unwrap_model(network).state_dict()
            state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
            save_file(state, partial / f"{name}.safetensors")
            torch.save(optimizers[name].state_dict(), partial / f"{name}.optimizer.pt")
        if ema is not None:
            torch.save(ema.state_dict(), partial / "ema.pt")
        if accelerator.scaler is not None:
            torch.save(accelerator.scaler.state_dict(), partial / "scaler.pt")
        (partial / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _load_checkpoint(
    folder: Path,
    accelerator: Accelerator,
    stage: Stage,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMAModel | None,
) -> int:
    for name, network in stage.networks.items():
        accelerator.unwrap_model(network).load_state_dict(load_file(folder / f"{name}.safetensors"))
        optimizers[name].load_state_dict(_load_state(folder / f"{name}.optimizer.pt"))
    if ema is not None:
        ema.load_state_dict(_load_state(folder / "ema.pt"))
        ema.to(accelerator.device)
    if accelerator.scaler is not None and (folder / "scaler.pt").exists():
        accelerator.scaler.load_state_dict(_load_state(folder / "scaler.pt"))
    return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])


def _load_state(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def _no_sync(accelerator: Accelerator, stage: Stage, skip: bool) -> ExitStack:
    """Gradients travel between processes only with the last accumulated part."""
    stack = ExitStack()
    if not skip:
        for network in stage.networks.values():
            stack.enter_context(accelerator.no_sync(network))
    return stack


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


def _summary_writer(output: Path, loop: LoopConfig, accelerator: Accelerator):
    if not (loop.tensorboard and accelerator.is_main_process):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn(
            "no TensorBoard log is written: install auffusion[train], or set loop.tensorboard: no",
            AuffusionWarning,
            stacklevel=2,
        )
        return None
    return SummaryWriter(str(output / "logs"))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
