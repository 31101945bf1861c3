"""The one training loop: every stage, one process or many machines, stopped and resumed at will.

What makes a run repeatable: a training sample is a pure function of (seed, position), where the
position counts samples from the start of the run. No generator or data loader carries state, so a
resumed run continues with the losses of one never stopped, and N processes see what one would.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from auffusion_cli.errors import (
    AuffusionError,
    AuffusionWarning,
    CheckpointError,
    DataError,
    UsageError,
)
from auffusion_cli.training.config import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    LOGS_NAME,
    PREVIEWS_NAME,
    LoopConfig,
    TrainingConfig,
    changed_settings,
    dump_config,
    load_config,
)
from auffusion_cli.training.loading import choose_workers, read_ahead


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

    def load(self, batch: Sequence[Sample]) -> Any:
        """What `losses` needs of a part of a batch, as tensors in tuples and lists: read, composed
        and drawn. It may run in another process, and so uses no GPU and changes nothing."""
        ...

    def losses(self, loaded: Any, step: int) -> Losses:
        """Yield the losses of what `load` gave, mean over its samples."""
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
        batch.append(Sample(index, _seed((seed, position))))
    return batch


class _Steps(Dataset):
    """What this process needs for each step: a list of `Stage.load`'s results, one a part."""

    def __init__(self, stage: Stage, config: TrainingConfig, accelerator: Accelerator) -> None:
        self.load, self.n_items = stage.load, stage.n_items
        self.loop, self.seed = config.loop, config.seed
        self.process_index, self.n_processes = accelerator.process_index, accelerator.num_processes

    def __getitem__(self, step: int) -> list[Any]:
        batch = samples_at(step, self.loop.batch_size, self.n_items, self.seed)
        # Strided, so that each process takes an equal part of every accumulated part.
        mine = batch[self.process_index :: self.n_processes]
        share = len(mine) // self.loop.gradient_accumulation
        return [self.load(mine[start : start + share]) for start in range(0, len(mine), share)]


def _seed(entropy: tuple[int, ...]) -> int:
    """63 bits: what generators of torch and random both take."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


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
    started_s: float | None = None,
    on_step: Callable[[Progress], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Run `stage` until `max_steps`, `max_minutes` or `stop_requested()`; returns the steps done.

    `output/checkpoints/` holds whole checkpoints only: each is written beside and renamed, a last
    one at the end, however it comes. Unless it comes by an exception, `output/` itself then
    receives what `Stage.export` writes. `max_minutes` counts from `started_s`, a time of
    `time.monotonic`, by default now.

    Raises:
        UsageError: the batch cannot be divided among the processes.
        CheckpointError: the newest checkpoint is damaged or of another network.
        DataError: the loss or its gradient is no longer a number; the weights from before are kept.
    """
    loop = config.loop
    parts = accelerator.num_processes * loop.gradient_accumulation
    if loop.batch_size % parts:
        raise UsageError(
            f"loop.batch_size: {loop.batch_size} samples cannot be shared by "
            f"{accelerator.num_processes} processes x {loop.gradient_accumulation} parts",
            hint=f"a multiple of {parts} can",
        )
    # The optimisers stay unwrapped: accelerate's adjust the fp16 scale once for each of them, but
    # it may change only between steps.
    optimizers = {
        name: torch.optim.AdamW(
            network.parameters(),
            lr=loop.learning_rate,
            betas=loop.betas,
            weight_decay=loop.weight_decay,
            fused=accelerator.device.type == "cuda",
        )
        for name, network in stage.networks.items()
    }
    main_name, main_network = next(iter(stage.networks.items()))
    ema = None
    if loop.ema_decay is not None:
        ema = EMAModel(main_network.parameters(), decay=loop.ema_decay, foreach=True)
        ema.to(accelerator.device)
    for name, network in stage.networks.items():
        if loop.compile:
            network.compile()
        stage.networks[name] = accelerator.prepare(network)

    checkpoints = output / CHECKPOINTS_NAME
    step = 0
    if resume and (newest := newest_checkpoint(checkpoints)) is not None:
        step = _load_checkpoint(newest, accelerator, stage, optimizers, ema)
        if accelerator.is_main_process:
            _warn_of_changes(output / CONFIG_NAME, config)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        _write_text(output / CONFIG_NAME, dump_config(config))
    writer = _summary_writer(output, loop, accelerator, step)

    def save() -> None:
        if accelerator.is_main_process:
            _save_checkpoint(checkpoints, step, accelerator, stage, optimizers, ema)
            for old in _checkpoints(checkpoints)[: -loop.keep_checkpoints]:
                _delete_folder(old)

    def with_ema(action: Callable[[], None]) -> None:
        if not accelerator.is_main_process:
            return
        parameters = list(accelerator.unwrap_model(stage.networks[main_name]).parameters())
        if ema is not None:
            ema.store(parameters)
        try:
            if ema is not None:
                ema.copy_to(parameters)
            action()
        finally:
            if ema is not None:
                ema.restore(parameters)

    loop_started_s = time.monotonic()
    started_s = loop_started_s if started_s is None else started_s
    first_step = saved_step = step
    weights_are_whole = True
    n_workers = choose_workers(loop.workers, accelerator.device)
    to_come = range(step, loop.max_steps)
    steps = read_ahead(_Steps(stage, config, accelerator), to_come, n_workers, accelerator.device)
    try:
        while step < loop.max_steps:
            elapsed_minutes = (time.monotonic() - started_s) / 60
            time_is_up = loop.max_minutes is not None and elapsed_minutes >= loop.max_minutes
            # All processes leave at the same step, or the others would wait for ever.
            if _any_process(time_is_up or stop_requested(), accelerator):
                break
            loaded = next(steps)
            rate = learning_rate_at(step, step * loop.batch_size // stage.n_items, loop)
            trained = [name for name in stage.networks if stage.trains(name, step)]
            # For what draws from the global generator (dropout): no state to carry on.
            torch.manual_seed(_seed((config.seed, step, accelerator.process_index)))

            numbers: dict[str, list[float]] = {}
            for part, inputs in enumerate(loaded, start=1):
                with _no_sync(accelerator, stage, skip=part == len(loaded)):
                    for loss, logs in stage.losses(inputs, step):
                        accelerator.backward(loss / loop.gradient_accumulation)
                        for key, value in logs.items():
                            numbers.setdefault(key, []).append(value)
            means = {key: sum(values) / len(values) for key, values in numbers.items()}
            means = _mean_over_processes(means, accelerator)
            gradient_norms = {
                name: _clip_gradients(stage.networks[name], optimizers[name], loop, accelerator)
                for name in trained
            }
            # Before the weights are touched: they and the checkpoints stay usable.
            _check_finite(means, gradient_norms, step + 1, accelerator)

            weights_are_whole = False
            for name in trained:
                for group in optimizers[name].param_groups:
                    group["lr"] = rate
                if accelerator.scaler is None:
                    optimizers[name].step()
                else:
                    accelerator.scaler.step(optimizers[name])
            if accelerator.scaler is not None and trained:
                accelerator.scaler.update()
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.step(accelerator.unwrap_model(stage.networks[main_name]).parameters())
            step += 1
            weights_are_whole = True

            loop_s = time.monotonic() - loop_started_s
            progress = Progress(
                step=step,
                max_steps=loop.max_steps,
                losses=means,
                learning_rate=rate,
                samples_per_second=(step - first_step) * loop.batch_size / loop_s,
                elapsed_minutes=(time.monotonic() - started_s) / 60,
            )
            if on_step is not None and accelerator.is_main_process:
                on_step(progress)
            if writer is not None and step % loop.log_every_steps == 0:
                for key, value in means.items():
                    writer.add_scalar(f"loss/{key}", value, step)
                for name, norm in gradient_norms.items():
                    writer.add_scalar(f"gradient_norm/{name}", norm, step)
                writer.add_scalar("learning_rate", rate, step)
            if step % loop.checkpoint_every_steps == 0:
                save()
                saved_step = step
            if loop.preview_every_steps and step % loop.preview_every_steps == 0:
                with_ema(partial(stage.preview, output / PREVIEWS_NAME, step))
    finally:
        steps.close()
        # Only between steps: after a Ctrl-C in the middle of one the last checkpoint stands.
        if step > saved_step and weights_are_whole:
            save()
        if writer is not None:
            writer.close()
    with_ema(lambda: stage.export(output))
    # Once, at the end: while the main process saves, the others wait for its next gradients.
    accelerator.wait_for_everyone()
    return step


def _warn_of_changes(path: Path, config: TrainingConfig) -> None:
    """Say what is set otherwise than in the run that is resumed, whose settings lie in `path`."""
    try:
        before = load_config(path, {})
    except UsageError as error:
        warnings.warn(
            f"cannot compare with the run before: {error}", AuffusionWarning, stacklevel=2
        )
        return
    if changes := changed_settings(before, config):
        shown = ", ".join(f"{key} (was {old!r}, is {new!r})" for key, (old, new) in changes.items())
        warnings.warn(
            f"the run goes on with other settings, and so not as if never stopped: {shown}",
            AuffusionWarning,
            stacklevel=2,
        )


def _clip_gradients(
    network: nn.Module, optimizer: torch.optim.Optimizer, loop: LoopConfig, accelerator: Accelerator
) -> float:
    """Clip the gradients to `max_grad_norm`; returns their norm from before."""
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer)
    limit = math.inf if loop.max_grad_norm is None else loop.max_grad_norm
    return nn.utils.clip_grad_norm_(network.parameters(), limit).item()


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
            f"the training broke down at step {step}: {shown}",
            hint="--resume with a lower loop.learning_rate or another loop.mixed_precision",
        )


# Checkpoints --------------------------------------------------------------------------------------


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none."""
    return found[-1] if (found := _checkpoints(checkpoints)) else None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-????????") if (path / "state.json").is_file())


def replace_folder(new: Path, final: Path) -> None:
    """Put the folder `new` in the place of `final`, which is never seen half written."""
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    shutil.rmtree(old, ignore_errors=True)


def _delete_folder(folder: Path) -> None:
    """Delete it under another name, so that nobody takes the half for the whole."""
    doomed = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _save_checkpoint(
    folder: Path,
    step: int,
    accelerator: Accelerator,
    stage: Stage,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMAModel | None,
) -> None:
    final, partial = folder / f"step-{step:08d}", folder / f"step-{step:08d}.partial"
    # Also those of other steps, which a killed process may have left.
    for leftover in [*folder.glob("step-*.partial"), *folder.glob("step-*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)
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
        for path in partial.iterdir():  # on the disk before the name is: power may fail
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        replace_folder(partial, final)
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        raise AuffusionError(
            f"{final} cannot be written: {error}",
            hint="free some space; --resume goes on from the checkpoint before",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load_checkpoint(
    folder: Path,
    accelerator: Accelerator,
    stage: Stage,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMAModel | None,
) -> int:
    try:
        for name, network in stage.networks.items():
            weights = load_file(folder / f"{name}.safetensors")
            accelerator.unwrap_model(network).load_state_dict(weights)
            optimizers[name].load_state_dict(_load_state(folder / f"{name}.optimizer.pt"))
            for group in optimizers[name].param_groups:
                group["fused"] = accelerator.device.type == "cuda"  # of this machine
        if ema is not None:
            ema.load_state_dict(_load_state(folder / "ema.pt"))
            ema.to(accelerator.device)
        if accelerator.scaler is not None and (folder / "scaler.pt").exists():
            accelerator.scaler.load_state_dict(_load_state(folder / "scaler.pt"))
        return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            f"{folder} cannot be gone on from: {error}",
            hint="the configuration must be that of the run; a damaged folder may be deleted, "
            "and --resume takes the one before",
        ) from error


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


def _summary_writer(output: Path, loop: LoopConfig, accelerator: Accelerator, step: int):
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
    # What a killed run logged beyond its last checkpoint is hidden.
    return SummaryWriter(str(output / LOGS_NAME), purge_step=step + 1 if step else None)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
