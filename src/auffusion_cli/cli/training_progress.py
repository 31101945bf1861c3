"""What a training shows of itself in the terminal, and how it is asked to stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auffusion_cli.cli import console

if TYPE_CHECKING:
    from auffusion_cli.requests.shards import Shard
    from auffusion_cli.training.config import TrainingConfig
    from auffusion_cli.training.loop import StepReport

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (SIGTERM, SIGHUP) ends the loop cleanly; a second one ends at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.note("stopping after this step; once more to stop at once")

    previous = {
        signum: signal.signal(signum, ask)
        for signum in STOP_SIGNALS
        if signal.getsignal(signum) != signal.SIG_IGN  # `nohup` ignores SIGHUP
    }
    try:
        yield lambda: asked
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class ProgressLines:
    """One bar for each part of the preparation, then one for the steps."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        """Smoothed, since those of single steps are noise."""
        self.validation: dict[int, float] = {}
        """Step -> loss on held-out data."""
        self._bar: console.Progress | None = None
        self._description: str | None = None

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._show(None)

    def prepare(
        self, stop_requested: Callable[[], bool], description: str, done: int, total: int
    ) -> None:
        if stop_requested():
            # There is no checkpoint to write yet.
            raise KeyboardInterrupt
        self._show(description, unit="")
        self._bar.update(completed=done, total=total)

    def step(self, report: StepReport) -> None:
        self._show("training", unit="steps", initial=report.step - 1)
        for name, value in report.losses.items():
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        self._bar.update(
            completed=report.step,
            total=report.max_steps,
            description=f"training  {numbers}  {report.samples_per_second:.1f}/s",
        )
        if (loss := report.validation_loss) is not None:
            is_least = loss < min(self.validation.values(), default=math.inf)
            self.validation[report.step] = loss
            so_far = ", the least so far" if is_least and len(self.validation) > 1 else ""
            console.note(f"step {report.step}: loss {loss:.4f} on held-out data{so_far}")

    def _show(self, description: str | None, unit: str = "", initial: float = 0) -> None:
        if description == self._description:
            return
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._description = description
        self._bar = None
        if description:
            self._bar = console.Progress(description, unit=unit, initial=initial).__enter__()


def report_latents(
    folder: Path, counts: dict[str, int], shard: Shard | None, *, as_json: bool
) -> None:
    """What was encoded; of a shard nothing is known but that it was."""
    if as_json:
        part = {} if shard is None else {"shard": str(shard)}
        console.print_json({"output": str(folder), "sounds": counts} | part)
        return
    if shard is not None:
        console.print_line(f"{folder}: part {shard}")
        console.note("once all parts are made, the same command without --shard completes them")
        return
    shown = ", ".join(f"{count} sounds ({split})" for split, count in counts.items())
    console.print_line(f"{folder}: {shown}")
    console.note(f"train on them: auffusion train --data {folder} -o …")


def report_run(
    config: TrainingConfig, folder: Path, n_steps: int, progress: ProgressLines, *, as_json: bool
) -> None:
    """What came of a run, and how it is used."""
    from auffusion_cli.checkpoints.layout import CHECKPOINTS_NAME
    from auffusion_cli.training.validation import is_run_over

    is_over = is_run_over(config.loop, folder / CHECKPOINTS_NAME, n_steps)
    finished = is_over or n_steps >= config.loop.max_steps
    if as_json:
        console.print_json(
            {
                "output": str(folder),
                "stage": config.stage,
                "steps": n_steps,
                "finished": finished,
                "losses": progress.losses,
                "validation": progress.validation,
            }
        )
        return
    console.print_line(f"{folder}: {n_steps} steps")
    if is_over:
        console.note("ended by loop.early_stop: the loss on held-out data got no better")
    if not finished:
        console.note(f"stopped early; auffusion train -o {folder} --resume continues")
    if config.stage in ("diffusion", "distill"):
        base = config.diffusion.init_from
        options = (
            f"--model {folder}"
            if config.diffusion.lora.rank is None
            else (f"--model {base} --lora {folder}")
        )
        console.note(f'try it: auffusion generate "…" {options} -o out.wav')
