"""The plan of `generate`: prompts and names -> one job a sound, checked before loading a model.

A list of prompts (`--prompts`) is forgiving: a line that cannot be met becomes a `Failure`. Prompts
given as arguments are not. A file that already holds the sound of a job is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from auffusion_cli.cli import console
from auffusion_cli.cli.options import MAX_SOUNDS
from auffusion_cli.cli.outputs import (
    as_template,
    check_distinct,
    check_free,
    check_writable,
    field_names,
    fill,
)
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import AuffusionError, OutputExistsError, UsageError
from auffusion_cli.files import slug
from auffusion_cli.requests.prompts import (
    MAX_LIST_BYTES,
    USED_COLUMNS,
    BadLine,
    PromptLine,
    read_prompts,
    read_prompts_file,
)
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.requests.seeds import line_seed, seed_after, text_seed
from auffusion_cli.requests.timeline import parse_timeline

DISTINCT_HINT = (
    "Valid: a folder if no prompt is given twice, or a template with {index}, the prompt's number,"
    " such as '{index}-{prompt}-{n}.wav'."
)

BETWEEN_WORDS = frozenset(
    ("a", "an", "the", "and", "in", "on", "of", "at", "by", "with", "from", "to", "into", "under")
)
"""Words that are no sound by themselves."""


@dataclass(frozen=True)
class Job:
    """One sound to make and where to put it."""

    source: str
    """Line of a list, "list.csv, line 12", or the prompt itself."""
    line: int | None
    request: GenerateRequest
    asked: Mapping[str, Any]
    """Fields of `GenerateSettings`, from options and the line; None is the model's default."""
    path: Path
    picture: Path | None = None
    """Of the spectrogram."""
    former_seed: int | None = None
    """The seed that earlier versions gave to the line: the list's own, as to all others."""
    rank: int = 1
    """Of the candidate that goes to `path`, where all of them are kept."""

    def kept(self, n_kept: int) -> list[Job]:
        """The jobs of all the candidates that are kept, the best one's first."""
        others = range(2, n_kept + 1)
        return [self] + [
            replace(self, path=ranked_path(self.path, rank), picture=None, rank=rank)
            for rank in others
        ]

    @property
    def former_request(self) -> GenerateRequest:
        """The request with the seed of earlier versions."""
        if self.former_seed is None:
            return self.request
        return replace(self.request, seed=self.former_seed)


@dataclass(frozen=True)
class Failure:
    """One sound that was not made."""

    source: str
    reason: str
    line: int | None = None
    prompt: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, job: Job, reason: object) -> Failure:
        return cls(job.source, str(reason), job.line, job.request.prompt, job.request.seed)


@dataclass(frozen=True)
class PlanOptions:
    """Options for every prompt; a line of a list may have its own seed, settings and negative."""

    seed: int
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GenerateSettings`."""
    negative_prompt: str = ""
    n_variations: int = 1
    """Seeds for each prompt, `seeds_apart` apart."""
    seeds_apart: int = 1
    """Of each sound so many candidates are made, with consecutive seeds."""
    output: str | None = None
    suffix: str | None = None
    """Of the format asked for, with its dot."""
    spectrogram: str | None = None
    timeline: str | None = None
    """The regions of every sound; then a prompt may be empty."""
    encoding: str | None = None
    """Of the list; None is UTF-8, or UTF-16 with a byte order mark."""
    list_argument: str = "--prompts"
    """What the list was given as, for messages."""
    by_name: bool = False
    """A list's sounds have names and seeds of their words, not of their places in the list."""
    trim: bool = False
    """Without effect on a timeline, whose times are fixed, and on a loop."""
    one_shot: bool = False
    loop: bool = False
    near_seed: int | None = None
    nearness: float = 0.0

    def request(self, prompt: str, seed: int, negative_prompt: str) -> GenerateRequest:
        own = {"one_shot": self.one_shot, "loop": self.loop}
        own |= {"near_seed": self.near_seed, "nearness": self.nearness}
        if self.timeline is None:
            trim = self.trim and not self.loop
            return GenerateRequest(prompt, seed, negative_prompt, trim=trim, **own)
        return TimelineRequest(prompt, seed, negative_prompt, self.timeline, **own)


def read_list(
    prompts_file: str, encoding: str | None = None, argument: str = "--prompts"
) -> list[PromptLine | BadLine]:
    """Lines of a file, or where `argument` is the option of standard input ("-").

    Raises:
        UsageError: it cannot be read, or holds nothing.
    """
    if prompts_file == "-" and argument == "--prompts":
        content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        lines = read_prompts(content, source="--prompts -", encoding=encoding)
    else:
        lines = read_prompts_file(Path(prompts_file), encoding, argument)
    if not lines:
        raise UsageError(f"{argument} {prompts_file}: there are no prompts in it")
    return lines


def plan_arguments(prompts: Sequence[str], options: PlanOptions) -> list[Job]:
    """Jobs for prompts given as arguments, all with the same seed; one that is wrong raises."""
    _check_number(len(prompts) * options.n_variations, "")
    _check_quotes(prompts)
    name = "{prompt}-{n}" if options.n_variations > 1 else "{prompt}"
    if len(set(map(slug, prompts))) < len(set(prompts)):  # names are short, prompts may be long
        name = "{index}-" + name
    lines = [PromptLine(number, prompt) for number, prompt in enumerate(prompts, 1)]
    jobs = [job for line in lines for job in _plan_line(line, None, name, options)]
    _check_names(jobs)
    return jobs


def plan_list(prompts_file: str, options: PlanOptions) -> tuple[list[Job], list[Failure]]:
    """Jobs for a list of prompts, and a failure for each line that cannot be met.

    Raises:
        UsageError: no line can be met, or two would be written to the same file.
    """
    list_name = "standard input" if prompts_file == "-" else prompts_file
    name = "{index}-{prompt}-{n}" if options.n_variations > 1 else "{index}-{prompt}"
    lines = read_list(prompts_file, options.encoding, options.list_argument)
    _check_number(len(lines) * options.n_variations, f"{options.list_argument} {prompts_file}: ")
    _note_unused_columns(lines, options)
    jobs: list[Job] = []
    failures: list[Failure] = []
    for line in lines:
        source = f"{list_name}, line {line.number}"
        if isinstance(line, BadLine):
            failures.append(Failure(source, line.reason, line.number, line.prompt))
            continue
        try:
            jobs += _plan_line(line, source, name, options)
        except UsageError as error:
            failures.append(Failure(source, error.message, line.number, line.prompt, line.seed))
    if not jobs:
        raise UsageError(
            f"{options.list_argument}: not one line can be used. {failures[0].source}: "
            f"{failures[0].reason}"
        )
    _check_names(jobs)
    return jobs, failures


def _check_quotes(prompts: Sequence[str]) -> None:
    """Raise a UsageError for the words of one sound that were given without quotes."""
    if len(prompts) > 1 and (bare := [word for word in prompts if word.lower() in BETWEEN_WORDS]):
        raise UsageError(
            f"{bare[0]!r} by itself is no sound: each prompt is one",
            hint=f'Put the words of a sound in quotes: "{" ".join(prompts):.60}".',
        )


def _check_number(n_sounds: int, where: str) -> None:
    if n_sounds > MAX_SOUNDS:
        raise UsageError(
            f"{where}{n_sounds:,} sounds are too many for one run",
            hint=f"Up to {MAX_SOUNDS:,} can be planned at once; split them.",
        )


def _note_unused_columns(lines: Iterable[PromptLine | BadLine], options: PlanOptions) -> None:
    used = set(USED_COLUMNS)
    for template in (options.output, options.spectrogram):
        used |= field_names(template or "")
    if options.by_name:
        used.add("name")
    columns = dict.fromkeys(
        name for line in lines if isinstance(line, PromptLine) for name in line.columns
    )
    if unused := [name for name in columns if name.lower() not in used and name not in used]:
        console.note(f"columns without effect: {', '.join(unused)}")


def _plan_line(
    line: PromptLine, source: str | None, default_name: str, options: PlanOptions
) -> list[Job]:
    """Jobs of a line of a list; without `source`, of a prompt given as an argument."""
    if options.by_name:
        default_name = "{name}" if line.columns.get("name") else "{prompt}"
    sound = as_template(options.output, options.suffix, default_name, "--output")
    picture = options.spectrogram and as_template(
        options.spectrogram, None, default_name, "--spectrogram", suffixes=(".png",)
    )
    asked = {**options.asked, **line.settings}
    settings = GenerateSettings.from_defaults(GenerationDefaults(), **asked)
    if options.timeline is not None and line.settings.get("duration_s") is not None:
        parse_timeline(options.timeline, settings.duration_s)
    in_list = source is not None
    first_seed = line.seed
    if first_seed is None and options.by_name:
        first_seed = text_seed(options.seed, line.columns.get("name") or line.prompt)
    if first_seed is None:
        first_seed = line_seed(options.seed, line.number) if in_list else options.seed
    negative = options.negative_prompt if line.negative_prompt is None else line.negative_prompt
    jobs = []
    for n in range(options.n_variations):
        seed = seed_after(first_seed, n * options.seeds_apart)
        request = options.request(line.prompt, seed, negative)
        fields = line.columns | {
            "prompt": request.prompt or options.timeline,
            "seed": request.seed,
            "index": f"{line.number:05d}",
            "n": n + 1,
        }
        jobs.append(
            Job(
                source=source or repr(line.prompt),
                line=line.number if in_list else None,
                request=request,
                asked=asked,
                path=fill(sound, fields, "--output"),
                picture=fill(picture, fields, "--spectrogram") if picture else None,
                former_seed=(
                    seed_after(options.seed, n)
                    if in_list and line.seed is None and not options.by_name
                    else None
                ),
            )
        )
    return jobs


def _check_names(jobs: Sequence[Job]) -> None:
    pictures = [job.picture for job in jobs if job.picture]
    sources = [job.source for job in jobs]
    for option, paths in (("--output", [job.path for job in jobs]), ("--spectrogram", pictures)):
        check_distinct(paths, option, hint=DISTINCT_HINT, sources=sources)
        check_writable(paths, option)


def ranked_path(path: Path, rank: int) -> Path:
    """The file of a candidate that is not the best one."""
    return path.with_name(f"{path.stem}-rank{rank}{path.suffix}")


Matches = Callable[[Provenance, Job], bool]
"""Test of whether a record is that of the sound of a job."""


def leave_out_finished(
    jobs: Sequence[Job], matches: Matches | None, *, overwrite: bool, n_kept: int = 1
) -> tuple[list[Job], list[Job]]:
    """(to do, finished): finished are those whose `n_kept` files are there and `matches` their
    job, and whose picture is there, too. Without `matches` no file may be there, unless with
    `overwrite`.

    Raises:
        OutputExistsError: a file is there and is something else.
    """
    if matches is None:
        if not overwrite:
            kept = (one for job in jobs for one in job.kept(n_kept))
            check_free([path for job in kept for path in (job.path, job.picture) if path])
        return list(jobs), []
    todo, finished = [], []
    for job in jobs:
        there = _files_there(job, matches, n_kept)
        if not there:
            todo.append(job)
        elif len(there) < n_kept:  # those that are left have to be of the same candidates
            seed = _asked_seed(record_of(there[0].path))
            same = replace(job, request=replace(job.request, seed=seed), former_seed=None)
            todo.append(same)
        elif job.picture and not job.picture.exists():
            raise OutputExistsError(
                f"{job.path} exists, but not its spectrogram {job.picture}",
                hint="Give another --output, or --overwrite to make both.",
            )
        else:
            finished.append(job)
    check_free([job.picture for job in todo if job.picture and not job.path.exists()])
    return todo, finished


def _files_there(job: Job, matches: Matches, n_kept: int) -> list[Job]:
    """Those of the jobs of `Job.kept` whose files are there; OutputExistsError for another file."""
    there = [one for one in job.kept(n_kept) if one.path.exists()]
    for one in there:
        if not is_finished(one, matches):
            raise OutputExistsError(
                _why_not_finished(one, matches),
                hint="Give another --output, or --overwrite to replace it.",
            )
    seeds = {_asked_seed(record_of(one.path)) for one in there} if n_kept > 1 else ()
    if len(seeds) > 1:
        raise OutputExistsError(
            f"{there[0].path} and {there[-1].path} are not of the same candidates",
            hint="Give another --output, or --overwrite to replace them.",
        )
    return there


def _asked_seed(record: Provenance) -> int:
    return record.selection.first_seed if record.selection else record.request.seed


def is_finished(job: Job, matches: Matches | None, n_kept: int = 1) -> bool:
    """True if the `n_kept` files of `job` are there, unchanged, and their records `matches`;
    without `matches` never."""
    return all(_is_there(one, matches) for one in job.kept(n_kept))


def _is_there(job: Job, matches: Matches | None) -> bool:
    record = record_of(job.path) if matches and job.path.exists() else None
    return record is not None and matches(record, job) and not _is_changed(record, job.path)


def is_intact(path: Path) -> bool:
    """Whether the file is a sound that auffusion made, unchanged since."""
    record = record_of(path)
    return record is not None and not _is_changed(record, path)


def _why_not_finished(job: Job, matches: Matches) -> str:
    record = record_of(job.path)
    if record is not None and matches(record, job):
        return f"{job.path} was changed after it was made"
    return f"{job.path} exists and is not from the same request as {job.source}"


def record_of(path: Path) -> Provenance | None:
    """The record of a sound file, if it has one that can be read."""
    from auffusion_cli.signal.sound_file import read_record

    try:
        return read_record(path)
    except (AuffusionError, OSError):
        return None


def _is_changed(record: Provenance, path: Path) -> bool:
    from auffusion_cli.tasks.verify import is_changed

    try:
        return is_changed(record, path)
    except (AuffusionError, OSError):  # it cannot be read any more
        return True
