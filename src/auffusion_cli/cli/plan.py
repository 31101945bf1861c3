"""The plan of `generate`: prompts and names -> one job a sound, checked before loading a model.

A list of prompts (`--prompts`) is forgiving: a line that cannot be met becomes a `Failure`. Prompts
given as arguments are not. A file that already holds the sound of a job is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.cli.outputs import (
    as_template,
    check_distinct,
    check_free,
    check_writable,
    fill,
    slug,
)
from auffusion_cli.errors import AuffusionError, OutputExistsError, UsageError
from auffusion_cli.requests.prompts import BadLine, PromptLine, format_of, read_prompts
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, TimelineRequest

DISTINCT_HINT = (
    "Valid: a folder if no prompt is given twice, or a template with {index}, the prompt's number,"
    " such as '{index}-{prompt}-{n}.wav'."
)


@dataclass(frozen=True)
class Job:
    """One sound to make and where to put it."""

    source: str
    """Line of a list, "list.csv, line 12", or the prompt itself."""
    request: GenerateRequest
    path: Path
    picture: Path | None = None
    """Of the spectrogram."""


@dataclass(frozen=True)
class Failure:
    """One sound that was not made."""

    source: str
    reason: str


@dataclass(frozen=True)
class PlanOptions:
    """Options for every prompt; a line of a list may have its own seed and negative prompt."""

    seed: int
    negative_prompt: str = ""
    n_variations: int = 1
    """Consecutive seeds for each prompt."""
    output: str | None = None
    suffix: str | None = None
    """Of the format asked for, with its dot."""
    spectrogram: str | None = None
    timeline: str | None = None
    """The regions of every sound; then a prompt may be empty."""

    def request(self, prompt: str, seed: int, negative_prompt: str) -> GenerateRequest:
        if self.timeline is None:
            return GenerateRequest(prompt, seed, negative_prompt)
        return TimelineRequest(prompt, seed, negative_prompt, self.timeline)


def read_list(prompts_file: str) -> list[PromptLine | BadLine]:
    """Lines of a file, or of standard input ("-").

    Raises:
        UsageError: it cannot be read, or holds nothing.
    """
    if prompts_file == "-":
        content, format = sys.stdin.buffer.read(), None
    else:
        path = Path(prompts_file)
        format = format_of(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"--prompts {path}: {error.strerror}") from None
    lines = read_prompts(content, format, f"--prompts {prompts_file}")
    if not lines:
        raise UsageError(f"--prompts {prompts_file}: there are no prompts in it")
    return lines


def plan_arguments(prompts: Sequence[str], options: PlanOptions) -> list[Job]:
    """Jobs for prompts given as arguments; one that is wrong raises."""
    name = "{prompt}-{n}" if options.n_variations > 1 else "{prompt}"
    if len(set(map(slug, prompts))) < len(set(prompts)):  # names are short, prompts may be long
        name = "{index}-" + name
    lines = [PromptLine(number, prompt) for number, prompt in enumerate(prompts, 1)]
    jobs = [job for line in lines for job in _plan_line(line, repr(line.prompt), name, options)]
    _check_names(jobs)
    return jobs


def plan_list(prompts_file: str, options: PlanOptions) -> tuple[list[Job], list[Failure]]:
    """Jobs for a list of prompts, and a failure for each line that cannot be met.

    Raises:
        UsageError: no line can be met, or two would be written to the same file.
    """
    list_name = "standard input" if prompts_file == "-" else prompts_file
    name = "{index}-{prompt}-{n}" if options.n_variations > 1 else "{index}-{prompt}"
    jobs: list[Job] = []
    failures: list[Failure] = []
    for line in read_list(prompts_file):
        source = f"{list_name}, line {line.number}"
        if isinstance(line, BadLine):
            failures.append(Failure(source, line.reason))
            continue
        try:
            jobs += _plan_line(line, source, name, options)
        except UsageError as error:
            failures.append(Failure(source, error.message))
    if not jobs:
        raise UsageError(
            f"--prompts: not one line can be used. {failures[0].source}: {failures[0].reason}"
        )
    _check_names(jobs)
    return jobs, failures


def _plan_line(line: PromptLine, source: str, default_name: str, options: PlanOptions) -> list[Job]:
    sound = as_template(options.output, options.suffix, default_name, "--output")
    picture = options.spectrogram and as_template(
        options.spectrogram, None, default_name, "--spectrogram", suffixes=(".png",)
    )
    first_seed = options.seed if line.seed is None else line.seed
    negative = options.negative_prompt if line.negative_prompt is None else line.negative_prompt
    jobs = []
    for n in range(options.n_variations):
        request = options.request(line.prompt, first_seed + n, negative)
        fields = line.columns | {
            "prompt": request.prompt or options.timeline,
            "seed": request.seed,
            "index": f"{line.number:05d}",
            "n": n + 1,
        }
        jobs.append(
            Job(
                source=source,
                request=request,
                path=fill(sound, fields, "--output"),
                picture=fill(picture, fields, "--spectrogram") if picture else None,
            )
        )
    return jobs


def _check_names(jobs: Sequence[Job]) -> None:
    pictures = [job.picture for job in jobs if job.picture]
    for option, paths in (("--output", [job.path for job in jobs]), ("--spectrogram", pictures)):
        check_distinct(paths, option, hint=DISTINCT_HINT)
        check_writable(paths, option)


def leave_out_finished(
    jobs: Sequence[Job], matches: Callable[[Provenance, Job], bool]
) -> tuple[list[Job], list[Job]]:
    """(to do, finished): finished are those whose file is there and `matches` its job, and whose
    picture is there, too.

    Raises:
        OutputExistsError: a file is there and is something else.
    """
    todo, finished = [], []
    for job in jobs:
        if not job.path.exists():
            todo.append(job)
        elif (record := _record_of(job.path)) is None or not matches(record, job):
            raise OutputExistsError(
                f"{job.path} exists and does not hold what {job.source} asks for",
                hint="Give another --output, or --overwrite to replace what is there.",
            )
        elif job.picture and not job.picture.exists():
            raise OutputExistsError(
                f"{job.path} exists, but not its spectrogram {job.picture}",
                hint="Give another --output, or --overwrite to make both.",
            )
        else:
            finished.append(job)
    check_free([job.picture for job in todo if job.picture])
    return todo, finished


def check_all_free(jobs: Sequence[Job]) -> None:
    """Raise an OutputExistsError if a file of any job is there."""
    check_free([path for job in jobs for path in (job.path, job.picture) if path])


def _record_of(path: Path) -> Provenance | None:
    """The record of a sound file, if it has one that can be read."""
    # Imports torch, which is not needed where there is no file yet.
    from auffusion_cli.signal.sound_file import read_provenance

    try:
        record = read_provenance(path)
        return None if record is None else Provenance.from_dict(record, str(path))
    except (AuffusionError, OSError):
        return None
