"""Making the sounds of a plan: each is written and reported as it is made, failures at the end."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from auffusion_cli.cli import console
from auffusion_cli.cli.making import Setup
from auffusion_cli.cli.options import Run
from auffusion_cli.cli.plan import Failure, Job, Matches, is_finished, record_of
from auffusion_cli.errors import AuffusionError, OutputExistsError
from auffusion_cli.files import clear_unfinished, folder_of

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.tasks.generate import GenerateFailure, GenerateResult


@dataclass
class Batch:
    """Makes jobs, and counts those that were made, were there already, or failed."""

    setup: Setup
    run: Run
    subtype: str
    finish: Finish | None
    """What is done to each sound once it is made."""
    player: list[str] | None
    forgiving: bool
    """A job that fails is listed and the others go on; otherwise it raises."""
    matches: Matches | None
    """Test of sounds that are there already, as another run may make them meanwhile."""
    failures: list[Failure] = field(default_factory=list)
    remarks: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Fields to add to the JSON of some prompts."""
    n_made: int = 0
    n_skipped: int = 0
    n_done: int = 0
    """Of the jobs that `make` was given."""

    def make(self, model: Model, jobs: Sequence[Job], batch_size: int | None) -> None:
        """Make, write and report `jobs` in their order; those with the same settings at once."""
        for folder in {path.parent for job in jobs for path in (job.path, job.picture) if path}:
            clear_unfinished(folder)
        one = len(jobs) == 1
        total, unit = (None, "steps") if one else (len(jobs), "sounds")
        with console.Progress("generating", total, unit=unit) as progress:

            def on_step(batch, step) -> None:
                if one:
                    progress.report(step.index + 1, step.n_steps)
                else:
                    part = len(batch) * (step.index + 1) / step.n_steps
                    progress.update(completed=self.n_done + part)

            for settings, group in groupby(jobs, self.setup.settings_of):
                self._make_group(model, group, settings, batch_size, on_step)

    def _make_group(self, model, jobs, settings, batch_size, on_step) -> None:
        from auffusion_cli.tasks.generate import generate, generate_each

        pulled: deque[Job] = deque()

        def requests() -> Iterator[GenerateRequest]:
            for job in jobs:
                if is_finished(job, self.matches):
                    self.skip(job)
                    self.n_done += 1
                else:
                    pulled.append(job)
                    yield job.request

        make = generate_each if self.forgiving else generate
        results = make(model, requests(), settings, batch_size=batch_size, on_step=on_step)
        for result in results:
            self._take(pulled.popleft(), result)
            self.n_done += 1

    def skip(self, job: Job) -> None:
        """Count and report a sound that is there already."""
        self.n_skipped += 1
        if self.run.json:
            record = record_of(job.path)  # its seed may be one that was drawn before
            console.print_json(
                {
                    "status": "skipped",
                    "file": str(job.path),
                    "line": job.line,
                    "prompt": job.request.prompt,
                    "seed": record.request.seed if record else None,
                }
            )

    def conclude(self) -> None:
        """Print the counts and the failures; exit with 1 if there are any."""
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

    def _take(self, job: Job, result: GenerateResult | GenerateFailure) -> None:
        from auffusion_cli.tasks.generate import GenerateFailure

        if isinstance(result, GenerateFailure):
            self.failures.append(Failure.of(job, result.error))
            return
        from auffusion_cli.tasks.finish import finished

        result = finished(result, self.finish)
        try:
            self._write(job, result)
        except OutputExistsError as error:  # another run has written it since we looked
            if is_finished(job, self.matches):
                self.skip(job)
            else:
                self.failures.append(Failure.of(job, error))
            return
        except (AuffusionError, OSError) as error:
            if not self.forgiving or _is_disk_full(error):
                raise
            self.failures.append(Failure.of(job, error))
            return
        self.n_made += 1
        record = {"line": job.line, **result.provenance.to_dict()}
        record |= self.remarks.get(job.request.prompt, {})
        console.print_made(job.path, record, as_json=self.run.json)
        if self.player:
            from auffusion_cli.cli.play import play

            play(self.player, job.path)

    def _write(self, job: Job, result: GenerateResult) -> None:
        if job.picture:
            from auffusion_cli.pictures.spectrogram import save_spectrogram

            with folder_of(job.picture), suppress(OutputExistsError):
                # The plan found no such picture: another run, which makes this sound, draws it.
                save_spectrogram(result.log_mel, job.picture, overwrite=self.run.overwrite)
        # The sound comes last: where it is there, a list that is taken up again leaves it out.
        with folder_of(job.path):
            result.save(job.path, subtype=self.subtype, overwrite=self.run.overwrite)


def _is_disk_full(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENOSPC
