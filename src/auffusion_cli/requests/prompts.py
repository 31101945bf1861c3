"""Lists of prompts: text, CSV or JSON Lines -> what each line asks for. No torch.

Every line stands alone: a bad one is returned as a `BadLine` and never takes others with it. For
that reason a quoted CSV field cannot go on in the next line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from auffusion_cli.errors import UsageError

PROMPT_KEYS = ("prompt", "caption", "text")
NEGATIVE_KEYS = ("negative_prompt", "negative")
FORMATS = {".txt": "txt", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class PromptLine:
    """One line that can be read; whether its words and seed are valid is for the request to say."""

    number: int
    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    """All fields of the line, for names of output files."""


@dataclass(frozen=True)
class BadLine:
    number: int
    reason: str


def read_prompts(
    content: bytes, format: str | None = None, source: str = "--prompts"
) -> list[PromptLine | BadLine]:
    """The lines of a list in UTF-8; blank ones are left out.

    Args:
        content: the bytes of the file.
        format: "txt" (a prompt a line), "csv" (with a header) or "jsonl" (an object or a string a
            line). None guesses: JSON Lines if the first character is a brace, else text.
        source: what errors begin with.

    Raises:
        UsageError: the CSV header cannot be read, or has no column for prompts.
    """
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if format is None:
        format = "jsonl" if numbered and numbered[0][1].lstrip().startswith(b"{") else "txt"
    if format == "csv":
        return list(_read_csv(numbered, source))
    parse = _parse_json if format == "jsonl" else _parse_text
    return [_parse_line(number, line, parse) for number, line in numbered]


def format_of(path: Path) -> str:
    """The format by the suffix of a list's name."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--prompts {path}: the suffix {path.suffix!r} is not known.",
            hint=f"Valid: {', '.join(FORMATS)}, or - for standard input.",
        )
    return FORMATS[path.suffix.lower()]


def _parse_line(number: int, line: bytes, parse) -> PromptLine | BadLine:
    try:
        return _to_prompt(number, parse(line.decode("utf-8").strip()))
    except UnicodeDecodeError:
        return BadLine(number, "is not UTF-8 text")
    except json.JSONDecodeError as error:
        return BadLine(number, f"is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, csv.Error, RecursionError) as error:
        return BadLine(number, str(error))


def _parse_text(line: str) -> dict:
    return {"prompt": line}


def _parse_json(line: str) -> dict:
    value = json.loads(line)
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise ValueError("is neither a JSON object nor a string")
    return value


def _read_csv(numbered: list[tuple[int, bytes]], source: str) -> Iterator[PromptLine | BadLine]:
    if not numbered:
        return
    try:
        header = [name.strip() for name in _split_csv(numbered[0][1].decode("utf-8", "replace"))]
    except csv.Error as error:
        raise UsageError(f"{source}: the CSV header cannot be read: {error}.") from None
    if not set(PROMPT_KEYS) & {name.lower() for name in header}:
        raise UsageError(
            f"{source}: the CSV header has no column for prompts: {', '.join(header)[:200]}",
            hint=f"Name one of the columns {' or '.join(PROMPT_KEYS)}.",
        )

    def parse(line: str) -> dict:
        cells = _split_csv(line)
        if len(cells) != len(header):
            raise ValueError(f"has {len(cells)} fields; the header has {len(header)}")
        return dict(zip(header, cells, strict=True))

    for number, line in numbered[1:]:
        yield _parse_line(number, line, parse)


def _split_csv(line: str) -> list[str]:
    return next(csv.reader([line], strict=True))


def _to_prompt(number: int, record: dict) -> PromptLine:
    known = {name.lower(): value for name, value in record.items()} | record
    prompt = _first(known, PROMPT_KEYS)
    if prompt is None:
        raise ValueError(f"has no {' or '.join(PROMPT_KEYS)}")
    negative = _first(known, NEGATIVE_KEYS)
    for name, value in (("prompt", prompt), ("negative prompt", negative)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {name} is not text: {value!r}"[:200])
    return PromptLine(
        number=number,
        prompt=prompt,
        negative_prompt=negative,
        seed=_to_seed(known.get("seed")),
        columns={
            name: str(value)
            for name, value in record.items()
            if isinstance(value, str | int | float)
        },
    )


def _first(record: dict, keys: tuple[str, ...]):
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _to_seed(value) -> int | None:
    """A whole number, or its digits as CSV has them; nothing where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
        value = int(value.strip()[:30])
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"the seed is not a whole number: {value!r}"[:200])
    return value
