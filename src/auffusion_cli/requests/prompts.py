"""Lists of prompts: text, CSV or JSON Lines -> a prompt a line, with its settings. No torch.

A bad line is returned as a `BadLine` and does not take others with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from auffusion_cli.config import SETTING_LIMITS
from auffusion_cli.errors import UsageError
from auffusion_cli.files import read_bytes
from auffusion_cli.parsing import ENCODING_HINT, decode_text, is_unicode
from auffusion_cli.requests.masks import parse_duration
from auffusion_cli.tables import SEPARATORS, BadRow, Row, read_rows, split_lines

PROMPT_COLUMNS = ("prompt", "caption", "text")
NEGATIVE_COLUMNS = ("negative_prompt", "negative")
SETTING_COLUMNS = {
    "duration_s": ("duration", "duration_s"),
    "steps": ("steps",),
    "guidance_scale": ("guidance", "guidance_scale"),
}
"""Field of `GenerateSettings` -> its columns."""
USED_COLUMNS = frozenset(
    ("seed", *PROMPT_COLUMNS, *NEGATIVE_COLUMNS, *sum(SETTING_COLUMNS.values(), ()))
)
MAX_LIST_BYTES = 100_000_000
_DECIMAL_COMMA = re.compile(r"\s*([0-9]{1,9}),([0-9]{1,9}\s*(?:s|ms)?)\s*")
FORMATS = {".txt": "txt", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class PromptLine:
    """One line that can be read; its request checks whether prompt and seed are valid."""

    number: int
    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `GenerateSettings` that the line has."""
    columns: dict[str, str] = field(default_factory=dict)
    """All fields of the line, for names of output files."""


@dataclass(frozen=True)
class BadLine:
    """One line that cannot be read."""

    number: int
    reason: str
    prompt: str | None = field(default=None, compare=False)
    """Where that can be read."""


def read_prompts_file(
    path: Path, encoding: str | None = None, argument: str = "--prompts"
) -> list[PromptLine | BadLine]:
    """The lines of the list in `path`, its format by its suffix; see `read_prompts`.

    Raises, naming the `argument` that gave the path:
        UsageError: it cannot be read, is too large, or is no list.
    """
    format = format_of(path, argument)
    try:
        content = read_bytes(path, MAX_LIST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{argument} {path}: {reason}") from None
    return read_prompts(content, format, f"{argument} {path}", encoding)


def read_prompts(
    content: bytes,
    format: str | None = None,
    source: str = "--prompts",
    encoding: str | None = None,
) -> list[PromptLine | BadLine]:
    """The lines of a list; blank ones are left out.

    Args:
        content: the bytes of the file.
        format: "txt" (a prompt a line), "csv" (with a header) or "jsonl" (an object or a string a
            line). None guesses: JSON Lines if the first character is a brace, CSV if the first
            line has several fields and one of them names a column for prompts, else text.
        source: what errors begin with.
        encoding: by default UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UsageError: it is not text, or its CSV header cannot be read or has no column for prompts.
    """
    if len(content) > MAX_LIST_BYTES:
        raise UsageError(f"{source}: is larger than {MAX_LIST_BYTES:,} bytes")
    try:
        text = decode_text(content, encoding, by_line=True)
        format = format or _guess_format(text)
        rows = (
            _text_rows(text) if format == "txt" else read_rows(text, format, string_column="prompt")
        )
        rows = list(rows)
    except ValueError as error:
        raise UsageError(f"{source}: {error}", hint=ENCODING_HINT) from None
    if format == "csv":
        _check_header(rows, source)
    return [_to_line(row) for row in rows]


def format_of(path: Path, argument: str = "--prompts") -> str:
    """The format by the suffix of a list's name."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{argument} {path}: the suffix {path.suffix!r} is not known",
            hint=f"Valid: {', '.join(FORMATS)}, or - for standard input.",
        )
    return FORMATS[path.suffix.lower()]


def _guess_format(text: str) -> Literal["txt", "csv", "jsonl"]:
    if text.lstrip().startswith("{"):
        return "jsonl"
    first_line = split_lines(text.lstrip())[0].lower()
    for separator in SEPARATORS:
        names = [name.strip().strip('"') for name in first_line.split(separator)]
        if len(names) > 1 and set(PROMPT_COLUMNS) & set(names):
            return "csv"
    return "txt"


def _text_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            yield Row(number, {"prompt": line.strip()})


def _check_header(rows: list[Row | BadRow], source: str) -> None:
    header = next((row.values for row in rows if isinstance(row, Row)), None)
    if header is not None and not set(PROMPT_COLUMNS) & {name.lower() for name in header}:
        raise UsageError(
            f"{source}: the CSV header has no column for prompts: {', '.join(header)[:150]}",
            hint=f"Name one of the columns {' or '.join(PROMPT_COLUMNS)}.",
        )


def _to_line(row: Row | BadRow) -> PromptLine | BadLine:
    if isinstance(row, BadRow):
        return BadLine(row.line, row.reason)
    if not all(is_unicode(str(part)) for pair in row.values.items() for part in pair):
        return BadLine(row.line, "is not UTF-8 text (see --encoding)")
    try:
        return _to_prompt(row)
    except ValueError as error:
        prompt = _first(_lower_case(row), PROMPT_COLUMNS)
        return BadLine(row.line, str(error), prompt if isinstance(prompt, str) else None)


def _to_prompt(row: Row) -> PromptLine:
    values = _lower_case(row)
    prompt = _first(values, PROMPT_COLUMNS)
    if prompt is None:
        raise ValueError(f"has no {' or '.join(PROMPT_COLUMNS)}")
    negative = _first(values, NEGATIVE_COLUMNS)
    for name, value in (("prompt", prompt), ("negative prompt", negative)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {name} is not text: {value!r}"[:200])
    return PromptLine(
        number=row.line,
        prompt=prompt,
        negative_prompt=negative,
        seed=_number("seed", values.get("seed"), int),
        settings=_settings(values),
        columns={
            name: str(value)
            for name, value in row.values.items()
            if isinstance(value, str | int | float)
        },
    )


def _lower_case(row: Row) -> dict[str, Any]:
    """The row's values also by the lower-case names of their columns."""
    return {name.lower(): value for name, value in row.values.items()} | row.values


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    found = {name: _first(values, columns) for name, columns in SETTING_COLUMNS.items()}
    settings = {
        "duration_s": _duration(found["duration_s"]),
        "steps": _number("number of steps", found["steps"], int),
        "guidance_scale": _number("guidance", found["guidance_scale"], float),
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        if not SETTING_LIMITS[name].allow(value):
            column = SETTING_COLUMNS[name][0]
            raise ValueError(f"{column} is {str(value)[:40]}; valid: {SETTING_LIMITS[name]}")
    return settings


def _first(values: dict[str, Any], columns: tuple[str, ...]) -> Any:
    return next((values[name] for name in columns if values.get(name) is not None), None)


def _duration(value: Any) -> float | None:
    if not isinstance(value, str):
        return _number("duration", value, float)
    if not value.strip():
        return None
    try:
        return parse_duration(value, "the duration")
    except UsageError as error:
        raise ValueError(error.message + _comma_hint(value)) from None


def _comma_hint(value: Any) -> str:
    """The way to write a number that has a decimal comma."""
    if isinstance(value, str) and (number := _DECIMAL_COMMA.fullmatch(value)):
        return f"; with a decimal point: {number[1]}.{number[2]}"
    return ""


def _number(name: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    """A number, or its digits as CSV has them; None where there is none."""
    if value is None or value == "":
        return None
    number = value
    if isinstance(value, str) and value.strip().isascii():
        try:
            number = kind(value.strip()[:30])
        except ValueError:
            number = None
    is_valid = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_valid or (kind is int and not isinstance(number, int)):
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"the {name} is not {expected}: {value!r}"[:200] + _comma_hint(value))
    return number
