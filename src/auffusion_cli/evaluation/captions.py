"""Lists of captions, and which caption belongs to which clip."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.clips import as_prompt, clip_name
from auffusion_cli.parsing import read_text
from auffusion_cli.requests.prompts import PROMPT_COLUMNS, format_of
from auffusion_cli.tables import BadRow, read_rows

NAME_COLUMNS = ("name", "file", "file_name", "filename", "path", "audio")
"""Columns of a list of captions that can name the clip."""
MAX_CAPTIONS_BYTES = 100_000_000


def read_captions(path: Path) -> dict[str, str]:
    """clip name -> prompt, from a .csv or .jsonl with a column for each (see `NAME_COLUMNS`).

    Raises:
        UsageError: it cannot be read, has a line that cannot be used, or names a clip twice.
    """
    where = f"--prompts {path}"
    format = format_of(path)
    if format == "txt":
        raise UsageError(
            f"{where}: a .txt does not name the clips",
            hint=f"Valid: .csv or .jsonl with a column {', '.join(NAME_COLUMNS)}.",
        )
    text = read_text(path, max_bytes=MAX_CAPTIONS_BYTES, raising=UsageError, where=where)
    try:
        rows = list(read_rows(text, format))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    captions: dict[str, str] = {}
    for row in rows:
        where = f"--prompts {path}, line {row.line}"
        if isinstance(row, BadRow):
            raise UsageError(f"{where}: {row.reason}")
        name, prompt = _caption(row.values, where)
        if captions.setdefault(name, prompt) != prompt:
            raise UsageError(
                f"{where}: another prompt for {name!r}; there can be one for each clip"
            )
    if not captions:
        raise UsageError(f"--prompts {path}: has no prompts")
    return captions


def _caption(values: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(clip name, prompt) of one line."""
    texts = {name.lower(): value for name, value in values.items()} | dict(values)
    texts = {name: value for name, value in texts.items() if isinstance(value, str)}
    named, prompt = named_clip(texts), next((texts[c] for c in PROMPT_COLUMNS if c in texts), None)
    if named is None:
        raise UsageError(
            f"{where}: does not name its clip",
            hint=f"Name it in a column {', '.join(NAME_COLUMNS)}.",
        )
    if prompt is None:
        raise UsageError(f"{where}: has no {' or '.join(PROMPT_COLUMNS)}")
    try:
        prompt = as_prompt(prompt)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    return clip_name(PurePosixPath(named.replace("\\", "/")).as_posix()), prompt


def named_clip(columns: Mapping[str, str]) -> str | None:
    """The clip that the line of a list with these columns names, if any."""
    values = {name.lower(): value for name, value in columns.items()} | dict(columns)
    return next((values[name] for name in NAME_COLUMNS if values.get(name)), None)


def _first(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in itertools.islice(names, 3))


def match_captions(
    captions: Mapping[str, str], names: Collection[str], folder: Path
) -> dict[str, str]:
    """clip name -> the name that it has in `captions`, of the clips `names` of `folder`.

    A list may name clips with the folder before; a clip that it has under its own name is that one.

    Raises:
        UsageError: the list has none of them.
    """
    names = set(names)
    prefixes = (f"{folder.resolve().name}/", f"{folder.as_posix()}/")
    found = {}
    for name in names:
        longer = (prefix + name for prefix in prefixes)
        wanted = [name, *(other for other in longer if other not in names)]
        if (caption := next((each for each in wanted if each in captions), None)) is not None:
            found[name] = caption
    if not found:
        raise UsageError(
            f"--prompts: names none of the {len(names)} sounds in {folder}",
            hint=f"It has {_first(captions)}; looked for {_first(sorted(names))}.",
        )
    return found
