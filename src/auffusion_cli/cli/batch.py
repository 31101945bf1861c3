"""Making the sounds of a plan: each is written and reported as it is made, failures at the end."""

from __future__ import annotations

import errno
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from auffusion_cli.cli import chosen, console
from auffusion_cli.cli.claims import Claims
from auffusion_cli.cli.launch import Launch
from auffusion_cli.cli.making import Setup
from auffusion_cli.cli.manifest import Manifest
from auffusion_cli.cli.options import Run
from auffusion_cli.cli.plan import Failure, Job, Matches, is_finished, record_of
from auffusion_cli.errors import AuffusionError, OutputExistsError
from auffusion_cli.files import clear_unfinished, folder_of

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.requests.selection import Choosing
    from auffusion_cli.tasks.generate import GenerateFailure, GenerateResult


LOOK_AGAIN_S = 1.0
"""Between looks at sounds that other runs are making."""


@dataclass
class Batch:
    """Makes jobs, and counts those that were made, were there already, or failed."""

    setup: Setup
    run: Run
    subtype: str
    finish: Finish | None
    """What is done to each sound once it is made."""
    choosing: Choosing
    player: list[str] | None
    forgiving: bool
    """A job that fails is listed and the others go on; otherwise it raises."""
    matches: Matches | None
    """Test of sounds that are there already, as another run may make them meanwhile."""
    failures: list[Failure] = field(default_factory=list)
    remarks: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Fields to add to the JSON of some prompts."""
    manifest: Manifest | None = None
    launch: Launch = field(default_factory=Launch)
    claims: Claims = field(default_factory=Claims)
    n_made: int = 0
    n_skipped: int = 0
    n_done: int = 0
    """Of the jobs that `make` was given."""
    faults: Counter[str] = field(default_factory=Counter)
    """Of sounds that were made again."""

    def make(self, model: Model, jobs: Sequence[Job], batch_size: int | None) -> None:
        """Make, write and report `jobs` in their order; those with the same settings at once.

        Jobs that other runs are making come last: they are skipped once they are made, and made
        here if those runs end without it.
        """
        from auffusion_cli.tasks.choose import Chooser

        for folder in {path.parent for job in jobs for path in (job.path, job.picture) if path}:
            clear_unfinished(folder)
            self.claims.clear_dead(folder)
        chooser = Chooser.load(self.choosing)
        best_of = self.choosing.best_of
        one = len(jobs) == best_of == 1
        total, unit = (None, "steps") if one else (len(jobs), "sounds")
        with self.claims, console.Progress("generating", total, unit=unit) as progress:

            def on_step(batch, step) -> None:
                self.claims.show_life()
                if one:
                    progress.report(step.index + 1, step.n_steps)
                else:
                    part = len(batch) / best_of * (step.index + 1) / step.n_steps
                    progress.update(completed=self.n_done + part)

            left = self._make_free(model, jobs, batch_size, on_step, chooser)
            if left:
                console.note(f"waiting for sounds that other runs are making: {len(left)}")
            while left:
                time.sleep(LOOK_AGAIN_S)
                self.n_done -= len(left)
                left = self._make_free(model, left, batch_size, on_step, chooser)

    def _make_free(self, model, jobs, batch_size, on_step, chooser) -> list[Job]:
        """Make those that no other run has claimed; returns the others."""
        from auffusion_cli.tasks.generate import generate, generate_each

        claimed: list[Job] = []
        for settings, group in groupby(jobs, self.setup.settings_of):
            make = partial(
                generate_each if self.forgiving else generate,
                model,
                settings=settings,
                batch_size=batch_size,
                on_step=on_step,
            )
            self._make_group(group, partial(chooser.choose_each, make), claimed)
        return claimed

    def _make_group(self, jobs, make, claimed) -> None:
        pulled: deque[Job] = deque()

        def requests() -> Iterator[GenerateRequest]:
            for job in jobs:
                if self._is_free(job, claimed):
                    pulled.append(job)
                    yield job.request
                else:
                    self.n_done += 1

        begun_s, n_together = time.monotonic(), 0
        for made in make(requests()):
            if n_together == 0:  # the first of a batch
                n_together = len(pulled)
                made_in_s = (time.monotonic() - begun_s) / n_together
            job = pulled.popleft()
            self._take(job, made, made_in_s)
            self.claims.release(job.path)
            self.n_done += 1
            n_together -= 1
            begun_s = time.monotonic()

    def _is_free(self, job: Job, claimed: list[Job]) -> bool:
        """Claim the job; False if it is finished, or else if another run has it (`claimed`)."""
        if self.matches is None:
            return True
        if is_finished(job, self.matches, self.choosing.n_kept):
            self.skip(job)
            return False
        if not self.claims.take(job.path):
            claimed.append(job)
            return False
        if is_finished(job, self.matches, self.choosing.n_kept):  # in the moment between
            self.claims.release(job.path)
            self.skip(job)
            return False
        return True

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

    def skip_finished(self, jobs: Sequence[Job]) -> None:
        """Skip sounds that were there before, and list those that the manifest lacks."""
        for job in jobs:
            self.skip(job)
            if self.manifest and (record := record_of(job.path)):
                self.manifest.complete(job.path, job.line, record)

    def conclude(self) -> None:
        """Print the counts and the failures; exit with 1 if there are any.

        Of the processes of a launch the main one does so for all of them, once they are done.
        """
        failures = [asdict(failure) for failure in self.failures]
        outcomes = self.launch.gather([self.n_made, self.n_skipped, failures])
        if outcomes is None:
            return
        n_made, n_skipped = (sum(outcome[i] for outcome in outcomes) for i in (0, 1))
        failures = [failure for _, _, some in outcomes for failure in some]
        chosen.note_rejected(self.faults)
        if n_skipped:
            console.note(f"already there and skipped: {n_skipped}")
        for failure in sorted(failures, key=lambda failure: failure["line"] or 0):
            if self.run.json:
                console.print_json({"status": "failed", **failure})
            console.error(f"{failure['source']}: {failure['reason']}")
        if failures or not self.launch.is_alone:
            console.note(f"{n_made} made, {n_skipped} skipped, {len(failures)} failed")
        if failures:
            raise typer.Exit(1)

    def _take(
        self, job: Job, made: list[GenerateResult] | GenerateFailure, made_in_s: float
    ) -> None:
        from auffusion_cli.tasks.generate import GenerateFailure

        if isinstance(made, GenerateFailure):
            self.failures.append(Failure.of(job, made.error))
            return
        from auffusion_cli.signal.filters import RUMBLE_HZ
        from auffusion_cli.signal.guards import rumbles
        from auffusion_cli.tasks.finish import finished

        result = finished(made[0], self.finish, job.path)
        is_cut = self.finish is not None and self.finish.low_cut_hz is not None
        if not is_cut and rumbles(result.waveform, result.sample_rate_hz):
            console.warn(
                f"{job.path}: most of its energy is below {RUMBLE_HZ:g} Hz, where little is heard"
                f" (--low-cut {RUMBLE_HZ:g} takes it away)"
            )
        self.faults += chosen.tell(job.path, result.provenance.selection)
        try:
            best, *others = job.kept(self.choosing.n_kept)
            for other, candidate in zip(others, made[1:], strict=False):
                self._save(finished(candidate, self.finish, other.path), other)
            self._write(best, result)
        except OutputExistsError as error:  # another run has written it since we looked
            if is_finished(job, self.matches, self.choosing.n_kept):
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
        if self.manifest:
            self.manifest.add(job.path, job.line, result.provenance, made_in_s)
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
                save_spectrogram(
                    result.log_mel,
                    job.picture,
                    result.spectrogram_config,
                    overwrite=self.run.overwrite,
                )
        # The sound comes last: where it is there, a list that is taken up again leaves it out.
        self._save(result, job)

    def _save(self, result: GenerateResult, job: Job) -> None:
        if not self.run.overwrite and is_finished(job, self.matches):
            return  # of candidates some of whose files were gone
        with folder_of(job.path):
            result.save(job.path, subtype=self.subtype, overwrite=self.run.overwrite)


def _is_disk_full(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENOSPC
