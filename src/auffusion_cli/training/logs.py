"""The log of a training, by accelerate's trackers: TensorBoard's files, and Weights & Biases."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.training.config import LoopConfig


@dataclass(frozen=True)
class StepReport:
    """Losses and speed of a finished step."""

    step: int
    max_steps: int
    losses: dict[str, float]
    """Means over the samples of the step."""
    gradient_norms: dict[str, float]
    """Norm by network, from before it was clipped."""
    learning_rate: float
    samples_per_second: float
    """Mean since the loop began."""
    elapsed_minutes: float
    validation_loss: float | None = None
    """On held-out data, where it was measured after this step."""


class Log:
    """What a run writes about its steps; of several processes only the main one has a log."""

    def __init__(self, folder: Path, loop: LoopConfig, step: int) -> None:
        """Begin at `step`, with the loop's trackers; without TensorBoard where it is missing."""
        self._every_steps = loop.log_every_steps
        self._trackers: list[GeneralTracker] = []
        if loop.tensorboard:
            # Entries of a killed run beyond its last checkpoint are hidden.
            since = step + 1 if step else None
            self._start(TensorBoardTracker(folder.name, folder.parent, purge_step=since))
        if loop.wandb is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._start(
                WandBTracker(
                    loop.wandb,
                    name=folder.parent.name,
                    dir=str(folder),
                    mode=os.environ.get("WANDB_MODE", "offline"),
                    settings={"silent": True},
                )
            )

    def _start(self, tracker: GeneralTracker) -> None:
        try:
            tracker.start()
        except ImportError:
            warnings.warn(
                "no TensorBoard log is written: install auffusion[train], or set "
                "loop.tensorboard: no",
                AuffusionWarning,
                stacklevel=4,
            )
            return
        self._trackers.append(tracker)

    def write(self, report: StepReport) -> None:
        values = {}
        if report.validation_loss is not None:
            values["loss/validation"] = report.validation_loss
        if report.step % self._every_steps == 0:
            values |= {f"loss/{key}": value for key, value in report.losses.items()}
            for name, norm in report.gradient_norms.items():
                values[f"gradient_norm/{name}"] = norm
            values["learning_rate"] = report.learning_rate
        if values:
            for tracker in self._trackers:
                tracker.log(values, step=report.step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
