"""`auffusion watch`: a folder of sounds kept in step with a list."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.formats import SUFFIX_AND_SUBTYPE, FormatOption
from auffusion_cli.errors import AuffusionError

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.cli.plan import Failure, Job, Matches, PlanOptions
    from auffusion_cli.model import Model
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.selection import Choosing

LOOK_AGAIN_S = 1.0
"""Between looks at the list."""


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(watch))


def watch(
    prompts_file: Annotated[
        Path, typer.Argument(metavar="LIST", help="Prompts, as `generate --prompts` reads them.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER|TEMPLATE",
            help="Where the sounds go, by default as {name}, or without such a column as {prompt}.",
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Bring the folder up to date and stop, as a build does.")
    ] = False,
    encoding: options.Encoding = None,
    duration_s: options.Duration = None,
    trim: options.Trim = True,
    one_shot: options.OneShot = False,
    loop: options.Loop = False,
    seed: Annotated[
        int, typer.Option(help="From which each sound's own is made, with its name.")
    ] = 0,
    negative: options.Negative = "",
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    batch_size: options.BatchSize = None,
    choice: options.Choice,
    finishing: options.Finishing,
    format: FormatOption = None,
    preset: options.Preset = None,
    run: options.Run,
) -> None:
    """Keep a folder of sounds in step with a list of prompts.

    Sounds of new and changed lines are made, the others are left as they are, and sounds whose line
    is gone are listed. A sound depends on its line alone: on its name (a column `name`), words,
    settings and seed, not on the lines around it. A file that was changed by hand, or that
    auffusion did not make, is never replaced without --overwrite.

    \b
    Examples:
      auffusion watch sounds.csv -o assets/
      auffusion watch sounds.csv -o "assets/{category}/{name}.ogg" --preset game-oneshot
      auffusion watch sounds.csv -o assets/ --once --json
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.cli.plan import PlanOptions
    from auffusion_cli.cli.recordings import check_no_fades
    from auffusion_cli.requests.prompts import read_prompts_file

    read_prompts_file(prompts_file, encoding, "LIST")  # a mistake in its name is told at once
    suffix, subtype = SUFFIX_AND_SUBTYPE[format]
    plan_options = PlanOptions(
        seed=seed,
        asked=sampling.lasting(duration_s),
        negative_prompt=negative,
        seeds_apart=choice.best_of,
        output=output,
        suffix=suffix,
        encoding=encoding,
        list_argument="LIST",
        by_name=True,
        trim=trim,
        one_shot=one_shot,
        loop=loop,
    )
    check_no_fades(finish := finishing.finish(), loop, preset)
    folder = _Folder(
        prompts_file=prompts_file,
        plan_options=plan_options,
        setup=set_up(loading, plan_options.asked, run),
        finish=finish,
        choosing=choice.choosing(),
        subtype=subtype,
        batch_size=batch_size,
        run=run,
    )
    content = _content(prompts_file)
    if once or run.dry_run:
        if not folder.update():
            raise typer.Exit(1)
        return
    folder.try_update()
    console.note(f"watching {prompts_file}; Ctrl-C ends it")
    while True:
        time.sleep(LOOK_AGAIN_S)
        if (now := _content(prompts_file)) != content:
            content = now
            folder.try_update()


def _content(path: Path) -> tuple[int, int] | None:
    """What changes with the list; None while it is not there, as an editor replaces it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@dataclass
class _Folder:
    """The folder of a list, and what brings it up to date."""

    prompts_file: Path
    plan_options: PlanOptions
    setup: Setup
    finish: Finish | None
    choosing: Choosing
    subtype: str
    batch_size: int | None
    run: options.Run
    model: Model | None = field(default=None, init=False)
    """Loaded when the first sound is made."""

    def try_update(self) -> None:
        """`update`, where a list that cannot be read is told and waited for."""
        try:
            self.update()
        except AuffusionError as error:
            console.error(error.message, hint=error.hint)

    def update(self) -> bool:
        """Make what is new or changed, and tell the rest; whether nothing failed."""
        from auffusion_cli.cli.batch import Batch
        from auffusion_cli.cli.plan import plan_list
        from auffusion_cli.cli.recordings import check_broadcast

        jobs, failures = plan_list(str(self.prompts_file), self.plan_options)
        check_broadcast(self.finish, [job.path for job in jobs])
        matches = self.setup.matcher(self.finish, self.choosing.best_of)
        todo, kept, foreign = _sorted_out(
            jobs, matches, overwrite=self.run.overwrite, n_kept=self.choosing.n_kept
        )
        failures += foreign
        orphans = _orphans(jobs)
        if self.run.dry_run:
            _show(todo, kept, failures, orphans, as_json=self.run.json)
            return not failures
        # What is replaced here is a sound of this folder whose line was changed.
        run = replace(self.run, overwrite=True)
        batch = Batch(
            *(self.setup, run, self.subtype, self.finish, self.choosing),
            *(None, True, matches, failures),
        )
        for job in kept:
            batch.skip(job)
        if todo:
            self.setup.check_words(
                [job.request.prompt for job in todo], [job.request.negative_prompt for job in todo]
            )
            self.model = self.model or self.setup.load()
            batch.make(self.model, todo, self.batch_size)
        _tell_orphans(orphans, as_json=self.run.json)
        try:
            batch.conclude()
        except typer.Exit:
            return False
        return True


def _sorted_out(
    jobs: Sequence[Job], matches: Matches, *, overwrite: bool, n_kept: int
) -> tuple[list[Job], list[Job], list[Failure]]:
    """(to make, up to date, failures for files that are not this list's to replace)."""
    from auffusion_cli.cli.plan import Failure, is_finished, is_intact

    todo, kept, foreign = [], [], []
    for job in jobs:
        there = (one.path for one in job.kept(n_kept) if one.path.exists())
        if is_finished(job, matches, n_kept):
            kept.append(job)
        elif overwrite or (changed := next(filterfalse(is_intact, there), None)) is None:
            todo.append(job)
        else:
            reason = f"{changed} was changed by hand, or not made by auffusion (--overwrite)"
            foreign.append(Failure.of(job, reason))
    return todo, kept, foreign


def _orphans(jobs: Iterable[Job]) -> list[Path]:
    """Sounds that auffusion made in the folders of `jobs`, and that are none of theirs."""
    from auffusion_cli.cli.plan import record_of
    from auffusion_cli.signal.formats import WRITTEN

    paths = {job.path for job in jobs}
    found = {
        path
        for folder in {path.parent for path in paths}
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in WRITTEN and path not in paths
    }
    return sorted(path for path in found if _is_of_a_list(record_of(path)))


def _is_of_a_list(record: object) -> bool:
    """Whether a record is that of a sound of words, and of no other rank than the first."""
    task = getattr(getattr(record, "request", None), "task", None)
    selection = getattr(record, "selection", None)
    return task == "generate" and (selection is None or selection.rank == 1)


def _tell_orphans(orphans: Sequence[Path], *, as_json: bool) -> None:
    for path in orphans:
        if as_json:
            console.print_json({"status": "orphan", "file": str(path)})
        else:
            console.note(f"no longer in the list: {path}")


def _show(
    todo: Sequence[Job],
    kept: Sequence[Job],
    failures: Sequence[Failure],
    orphans: Sequence[Path],
    *,
    as_json: bool,
) -> None:
    """What an update would do."""
    states = [("make", job.path, job.request.prompt) for job in todo]
    states += [("keep", job.path, job.request.prompt) for job in kept]
    states += [("orphan", path, "") for path in orphans]
    if as_json:
        for state, path, prompt in states:
            console.print_json({"status": state, "file": str(path), "prompt": prompt})
    else:
        console.print_table(("STATE", "FILE", "PROMPT"), states)
    for failure in failures:
        console.error(f"{failure.source}: {failure.reason}")
