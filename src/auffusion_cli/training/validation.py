"""Loss on held-out data during a training: the best result, and when to stop looking for one.

What has to survive a stop is the best step and its loss, which the file of its weights states.
"""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from auffusion_cli.errors import CheckpointError
from auffusion_cli.training.checkpoints import TrainingState, load_main_weights, save_main_weights
from auffusion_cli.training.config import LoopConfig
from auffusion_cli.training.stage import Stage

BEST_NAME = "best.safetensors"


class Validation:
    """The loss of a stage every `loop.validate_every_steps` steps.

    It is the main process's alone, but for networks that are split, which all measure together.
    """

    def __init__(
        self, stage: Stage, loop: LoopConfig, state: TrainingState, checkpoints: Path
    ) -> None:
        self._stage, self._loop, self._state = stage, loop, state
        self._path = checkpoints / BEST_NAME
        self._best_step, self._best_loss = 0, math.inf
        if loop.keep_best and self._path.exists():
            self._best_step, self._best_loss = _read_best(self._path)

    def measure(self) -> float | None:
        """The loss after this step, with the averaged weights; None where it is not its turn."""
        every = self._loop.validate_every_steps
        if every is None or self._state.step % every:
            return None
        with self._state.averaged():
            loss = self._stage.validation_loss()
            if self._loop.keep_best and loss < self._best_loss:
                self._best_step, self._best_loss = self._state.step, loss
                if self._state.accelerator.is_main_process:
                    numbers = {"step": str(self._best_step), "loss": repr(loss)}
                    save_main_weights(self._path, self._state, numbers)
        return loss

    @property
    def is_over(self) -> bool:
        """Whether `loop.early_stop` measurements in a row were no better than the best."""
        if self._loop.early_stop is None or math.isinf(self._best_loss):
            return False
        return _is_over(self._loop, self._best_step, self._state.step)

    def take_best(self) -> None:
        """Give the first network the best weights, if they are kept."""
        if self._loop.keep_best and self._path.exists():
            load_main_weights(self._path, self._state)


def is_run_over(loop: LoopConfig, checkpoints: Path, step: int) -> bool:
    """Whether a run that is at `step` ended by `loop.early_stop`, and so would not go on."""
    path = checkpoints / BEST_NAME
    if loop.early_stop is None or not path.exists():
        return False
    return _is_over(loop, _read_best(path)[0], step)


def _is_over(loop: LoopConfig, best_step: int, step: int) -> bool:
    return step - best_step >= loop.early_stop * loop.validate_every_steps


def _read_best(path: Path) -> tuple[int, float]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        return int(metadata["step"]), float(metadata["loss"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the best weights cannot be read: {error}",
            hint="Delete it: the best is then that of the steps to come.",
        ) from error
