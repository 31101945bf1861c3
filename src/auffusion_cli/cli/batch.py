"""Making the sounds of a plan: each is written and reported as it is made, failures at the end."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import typer

from auffusion_cli.cli import console
from auffusion_cli.cli.options import Run
from auffusion_cli.cli.plan import Failure, Job
from auffusion_cli.errors import AuffusionError
from auffusion_cli.files import folder_of

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.request import GenerateSettings
    from auffusion_cli.tasks.generate import GenerateResult


@dataclass
class Batch:
    """Makes jobs, and counts those that were made, were there already, or failed."""

    run: Run
    subtype: str
    player: list[str] | None
    forgiving: bool
    """A job that fails is listed and the others go on; otherwise it raises."""
    failures: list[Failure] = field(default_factory=list)
    n_made: int = 0
    n_skipped: int = 0

    def make(
        self, model: Model, jobs: Sequence[Job], settings: GenerateSettings, batch_size: int | None
    ) -> None:
        """Make, write and report `jobs` in their order."""
        from auffusion_cli.tasks.generate import generate, generate_each

        one = len(jobs) == 1
        n_done = 0
        make = generate_each if self.forgiving else generate
        total, unit = (None, "steps") if one else (len(jobs), "sounds")
        with console.Progress("generating", total, unit=unit) as progress:

            def on_step(batch, step) -> None:
                if one:
                    progress.report(step.index + 1, step.n_steps)
                else:
                    part = len(batch) * (step.index + 1) / step.n_steps
                    progress.update(completed=n_done + part)

            requests = (job.request for job in jobs)
            results = make(model, requests, settings, batch_size=batch_size, on_step=on_step)
            for job, result in zip(jobs, results, strict=True):
                self._take(job, result)
                n_done += 1

    def skip(self, job: Job) -> None:
        """Count and report a file that is there already."""
        self.n_skipped += 1
        if self.run.json:
            console.print_json({"status": "skipped", "file": str(job.path)})

    def conclude(self) -> None:
        """Print what was there already and what failed; exit with 1 if anything did."""
        if self.n_skipped:
            console.note(f"already there and skipped: {self.n_skipped}")
        if not self.failures:
            return
        for failure in self.failures:
            if self.run.json:
                console.print_json({"status": "failed", **asdict(failure)})
            console.error(f"{failure.source}: {failure.reason}")
        console.note(f"{self.n_made} made, {self.n_skipped} skipped, {len(self.failures)} failed")
        raise typer.Exit(1)

    def _take(self, job: Job, result) -> None:
        from auffusion_cli.tasks.generate import GenerateFailure

        if isinstance(result, GenerateFailure):
            self.failures.append(Failure(job.source, str(result.error)))
            return
        try:
            self._write(job, result)
        except (AuffusionError, OSError) as error:
            if not self.forgiving or _is_disk_full(error):
                raise
            self.failures.append(Failure(job.source, str(error)))
            return
        self.n_made += 1
        console.print_made(job.path, result.provenance.to_dict(), as_json=self.run.json)
        if self.player:
            from auffusion_cli.cli.play import play

            play(self.player, job.path)

    def _write(self, job: Job, result: GenerateResult) -> None:
        if job.picture:
            from auffusion_cli.pictures.spectrogram import save_spectrogram

            with folder_of(job.picture):
                save_spectrogram(result.log_mel, job.picture, overwrite=self.run.overwrite)
        # The sound comes last: where it is there, a list that is taken up again leaves it out.
        with folder_of(job.path):
            result.save(job.path, subtype=self.subtype, overwrite=self.run.overwrite)


def _is_disk_full(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENOSPC
