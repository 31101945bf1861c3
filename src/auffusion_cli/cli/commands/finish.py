"""`auffusion finish`: sound files of any origin, finished for where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.formats import SUFFIX_AND_SUBTYPE, Format
from auffusion_cli.cli.rows import in_words
from auffusion_cli.errors import AuffusionError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import FinishRequest
    from auffusion_cli.signal.recording import Recording

NAME_ELSEWHERE = "{name}"
NAME_BESIDE = "{name}-finished"
EVENT_NAME = "{name}-{n}"


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(finish))


@dataclass(frozen=True)
class _Job:
    """A file, or an event of one, and where the finished sound goes."""

    source: Path
    request: FinishRequest
    path: Path


def finish(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE|FOLDER...", help="Sounds: wav, flac, ogg, mp3.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER|TEMPLATE",
            help="Where to write. A template has the fields {name}, and {n}, an event's number.",
        ),
    ] = None,
    split_events: Annotated[
        bool,
        typer.Option("--split-events", help="Write each event, between pauses, to its own file."),
    ] = False,
    *,
    finishing: options.Finishing,
    format: Annotated[
        Format | None, typer.Option(help="Of the files; by default as the source's name says.")
    ] = None,
    run: options.Run,
) -> None:
    """Bring sound files to a level, rate and number of channels, fade them, split them.

    Any file will do, also one that auffusion did not make; of a folder all sounds in it are
    finished, in another folder under their own names. The results say what was done (`auffusion
    info`), and `auffusion reproduce` does it again. A file that cannot be read does not stop the
    others.

    \b
    Examples:
      auffusion finish rain.wav --loudness -16LUFS --rate 48000 --channels 2
      auffusion finish sounds/ -o finished/ --peak -1dB --fade-out 50ms --format flac
      auffusion finish steps.wav --split-events -o steps/
    """
    asked = _asked(finishing, split_events)
    jobs, exit_code = _plan(sources, output, format, asked, split_events)
    _check(jobs, asked, overwrite=run.overwrite)
    if run.dry_run:
        _show(jobs, asked, as_json=run.json)
        raise typer.Exit(exit_code)

    from auffusion_cli.cli.outputs import place_for
    from auffusion_cli.signal.recording import read_recording
    from auffusion_cli.tasks.finish import finish_recording

    subtype = SUFFIX_AND_SUBTYPE[format][1]
    with console.Progress("finishing", len(jobs), unit="sounds") as progress:
        for source, of_source in _by_source(jobs):
            recording = read_recording(source)
            for job in of_source:
                result = finish_recording(recording, job.request, asked)
                with place_for(job.path):
                    result.save(job.path, subtype=subtype, overwrite=run.overwrite)
                console.print_made(job.path, result.provenance.to_dict(), as_json=run.json)
                progress.advance()
    raise typer.Exit(exit_code)


def _asked(finishing: options.Finishing, split_events: bool) -> Finish:
    from auffusion_cli.requests.finish import Finish

    asked = finishing.finish()
    if asked is None and not split_events:
        raise UsageError(
            "no option says how to finish them",
            hint="For example: --loudness -16LUFS, or --split-events.",
        )
    return asked or Finish()


def _plan(
    sources: Sequence[Path],
    output: str | None,
    format: Format | None,
    asked: Finish,
    split_events: bool,
) -> tuple[list[_Job], int]:
    """A job for each sound to write, and the exit code of the files that cannot be read."""
    from auffusion_cli.tasks.finish import check_finish

    jobs: list[_Job] = []
    exit_code = 0
    files = list(_files(sources))
    for source in files:
        try:
            recording, request = _read(source)
            if request.loop and (asked.fade_in_s or asked.fade_out_s or split_events):
                raise UsageError(f"{source} is a loop: it can neither be faded nor split")
            check_finish(asked, recording.sample_rate_hz, source)
            jobs += _jobs(source, recording, request, output, format, split_events)
        except AuffusionError as error:
            if len(files) == 1:
                raise
            console.error(error.message, hint=error.hint)
            exit_code = exit_code or error.exit_code
    return jobs, exit_code


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    """The files that are named, and those in the folders that are."""
    from auffusion_cli.signal.formats import AUDIO_SUFFIXES

    for source in sources:
        if not source.is_dir():
            yield source
            continue
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)
        if not found:
            raise UsageError(f"{source}: there are no sound files in this folder")
        yield from found


def _read(source: Path) -> tuple[Recording, FinishRequest]:
    from auffusion_cli.cli import recordings
    from auffusion_cli.cli.plan import record_of
    from auffusion_cli.requests.request import FinishRequest
    from auffusion_cli.tasks.finish import is_loop

    recording, record = recordings.read(source), record_of(source)
    request = FinishRequest(
        source.name,
        recording.sha256,
        prompt=record.request.prompt if record else "",
        loop=bool(record and is_loop(record)),
    )
    return recording, request


def _jobs(
    source: Path,
    recording: Recording,
    request: FinishRequest,
    output: str | None,
    format: Format | None,
    split_events: bool,
) -> Iterator[_Job]:
    from dataclasses import replace

    from auffusion_cli.cli.outputs import as_template, fill
    from auffusion_cli.signal.events import find_events
    from auffusion_cli.signal.formats import WRITTEN
    from auffusion_cli.signal.recording import to_full_scale

    suffix = SUFFIX_AND_SUBTYPE[format][0]
    own = source.suffix.lower()
    suffixes = tuple(dict.fromkeys((own, *WRITTEN))) if own in WRITTEN else tuple(WRITTEN)
    is_elsewhere = output and Path(output).resolve() != source.parent.resolve()
    name = NAME_ELSEWHERE if is_elsewhere else NAME_BESIDE
    template = as_template(
        output, suffix, EVENT_NAME if split_events else name, "--output", suffixes
    )
    if not split_events:
        path = fill(template, {"name": source.stem}, "--output")
        yield _Job(source, request, path)
        return
    events = find_events(to_full_scale(recording.samples).T, recording.sample_rate_hz)
    if not events:
        raise AuffusionError(f"{source}: there is no event in it")
    for n, (first, n_samples) in enumerate(events, 1):
        path = fill(template, {"name": source.stem, "n": f"{n:02d}"}, "--output")
        part = replace(request, first_sample=first, n_samples=n_samples)
        yield _Job(source, part, path)


def _check(jobs: Sequence[_Job], asked: Finish, *, overwrite: bool) -> None:
    from auffusion_cli.cli.outputs import check_distinct, check_free, check_writable
    from auffusion_cli.cli.recordings import check_broadcast

    paths = [job.path for job in jobs]
    check_broadcast(asked, paths)
    check_distinct(paths, "--output", hint="Valid: a folder, or a template with {name} and {n}.")
    check_writable(paths, "--output")
    if sources := {job.source.resolve() for job in jobs} & {path.resolve() for path in paths}:
        raise UsageError(f"--output: {min(sources)} would be replaced by its own result")
    if not overwrite:
        check_free(paths)


def _by_source(jobs: Sequence[_Job]) -> Iterator[tuple[Path, list[_Job]]]:
    from itertools import groupby

    for source, of_source in groupby(jobs, lambda job: job.source):
        yield source, list(of_source)


def _show(jobs: Sequence[_Job], asked: Finish, *, as_json: bool) -> None:
    if as_json:
        sounds = [{"file": str(job.path), **asdict(job.request)} for job in jobs]
        console.print_json({"finish": asked.to_dict(), "sounds": sounds})
        return
    if finish := in_words(asked.to_dict()):
        console.print_table(("FINISH", "VALUE"), finish)
        console.print_line()
    rows = [(job.path, job.source, job.request.first_sample) for job in jobs]
    console.print_table(("FILE", "SOURCE", "FROM SAMPLE"), rows)
