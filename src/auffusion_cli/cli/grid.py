"""The grid of a sweep: option texts -> combinations of settings, prompts -> named sounds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from auffusion_cli.cli import console
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.prompts import PromptLine
    from auffusion_cli.requests.request import GenerateRequest, GenerateSettings

T = TypeVar("T")

MAX_CELLS = 1_000
PLAIN_NAME = re.compile(r"[\w][\w.-]{0,99}")


def axis_values(
    option: str, text: str | None, kind: Callable[[str], T], valid: str
) -> list[T] | None:
    """The values of a list, each once; None where the model's default is to be taken."""
    if text is None:
        return None
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text!r}: not a list of numbers", hint=f"Valid: {valid}."
        ) from None
    if len(set(values)) < len(values):
        raise UsageError(f"{option} {text!r}: names a value twice", hint=f"Valid: {valid}.")
    return values


def combinations(
    base: GenerateSettings, axes: dict[str, list[Any] | None]
) -> list[GenerateSettings]:
    """Every combination of `axes`; one that was not asked for has the value of `base`.

    The quickest come first, so that a sweep that is stopped has the most cells.
    """
    lists = [values or [getattr(base, name)] for name, values in axes.items()]
    n_cells = math.prod(map(len, lists))
    if n_cells > MAX_CELLS:
        raise UsageError(
            f"{n_cells:,} combinations of --steps, --guidance and --scheduler are too many",
            hint=f"There can be {MAX_CELLS:,}.",
        )
    cells = [
        replace(base, **dict(zip(axes, values, strict=True)))
        for values in itertools.product(*lists)
    ]
    return sorted(cells, key=lambda cell: cell.steps)


def read_lines(prompts: Sequence[str] | None, prompts_file: str | None) -> list[PromptLine]:
    """The lines of a list, or of prompts given as arguments.

    Raises:
        UsageError: both are given or none, or a line cannot be read.
    """
    from auffusion_cli.cli.plan import read_list
    from auffusion_cli.requests.prompts import BadLine, PromptLine

    if bool(prompts) == bool(prompts_file):
        raise UsageError(
            "Give either prompts or --prompts FILE",
            hint='For example: auffusion sweep "dog barking" "rain" --steps 10,25 --guidance 1,3',
        )
    if prompts:
        return [PromptLine(number, prompt) for number, prompt in enumerate(prompts, 1)]
    lines = read_list(prompts_file)
    for line in lines:
        if isinstance(line, BadLine):
            # A cell without one of the prompts could not be compared with the others.
            raise UsageError(f"--prompts {prompts_file}, line {line.number}: {line.reason}")
    if any(line.settings for line in lines):
        console.note(
            f"--prompts {prompts_file}: the columns for duration, steps and guidance have no effect"
            " in a sweep"
        )
    return lines


def named_sounds(
    lines: Sequence[PromptLine], n_variations: int, seed: int, negative: str, *, in_list: bool
) -> dict[str, GenerateRequest]:
    """File name without suffix -> request, for each prompt and variation.

    A list may name its sounds in a column as captions do, so that they are paired with real ones.
    Its lines have seeds of their own, as in `generate`: of one noise the sounds of a cell would be
    alike, and no sample of what the settings make.
    """
    from auffusion_cli.evaluation.captions import named_clip
    from auffusion_cli.files import slug
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.requests.seeds import line_seed, seed_after

    sounds: dict[str, GenerateRequest] = {}
    for line in lines:
        own = named_clip(line.columns)
        stem = f"{line.number:05d}-{slug(line.prompt)}" if own is None else _stem(own, line.number)
        first_seed = line.seed
        if first_seed is None:
            first_seed = line_seed(seed, line.number) if in_list else seed
        for n in range(n_variations):
            name = f"{stem}-{n + 1}" if n_variations > 1 else stem
            if name in sounds:
                raise UsageError(f"--prompts, line {line.number}: a second sound named {name!r}")
            line_negative = negative if line.negative_prompt is None else line.negative_prompt
            sounds[name] = GenerateRequest(line.prompt, seed_after(first_seed, n), line_negative)
    return sounds


def _stem(name: str, number: int) -> str:
    from auffusion_cli.evaluation.clips import clip_name

    stem = clip_name(name)
    if not PLAIN_NAME.fullmatch(stem):
        raise UsageError(
            f"--prompts, line {number}: {name[:60]!r} cannot be the name of a sound",
            hint="Letters, digits, points, hyphens and underscores can; or leave the column out.",
        )
    return stem
