"""Rows of untrusted lists: CSV and JSON Lines. No torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

SEPARATORS = ",;\t"
"""Of the fields of a CSV."""
MAX_ROW_LINES = 100
"""Lines that one quoted CSV row may have."""


@dataclass(frozen=True)
class Row:
    """One row of a list."""

    line: int
    """Number of its first line, from 1."""
    values: dict[str, Any]
    """Column -> value: text in CSV, anything in JSON Lines."""


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be read."""

    line: int
    reason: str


def read_rows(
    text: str, format: Literal["csv", "jsonl"], *, string_column: str | None = None
) -> Iterator[Row | BadRow]:
    """The rows of a CSV with a header, separated by commas, semicolons or tabs, or of JSON Lines.

    Blank lines are passed over. A bad row never takes others with it, but for those around one that
    is too short: they may be the other half of a field with a line break that is not quoted.

    Args:
        string_column: the column that a bare string in JSON Lines stands for; None: an error.

    Raises:
        ValueError: the CSV header cannot be read, or names a column twice; a short reason.
    """
    lines = split_lines(text)
    return _csv_rows(lines) if format == "csv" else _json_rows(lines, string_column)


def split_lines(text: str) -> list[str]:
    """The lines of `text`; unlike `str.splitlines`, a form feed or U+2028 ends none."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


_NOT_A_ROW = "is not a JSON object"
_NOT_A_ROW_OR_STRING = "is neither a JSON object nor a string"


def _json_rows(lines: list[str], string_column: str | None) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            yield BadRow(number, f"is not JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            yield BadRow(number, "is nested too deeply")
        except ValueError:
            yield BadRow(number, "holds a number with too many digits")
        else:
            if isinstance(value, str) and string_column is not None:
                value = {string_column: value}
            if isinstance(value, dict):
                yield Row(number, value)
            else:
                yield BadRow(number, _NOT_A_ROW if string_column is None else _NOT_A_ROW_OR_STRING)


def _csv_rows(lines: list[str]) -> Iterator[Row | BadRow]:
    start = next((i for i, line in enumerate(lines) if line.strip()), None)
    if start is None:
        return
    delimiter = max(SEPARATORS, key=lambda sign: len(_try_split(lines[start], sign)))
    try:
        names, n_lines = _split_csv(lines, start, delimiter)
    except csv.Error as error:
        raise ValueError(f"the CSV header cannot be read: {error}") from None
    names = [name.strip() for name in names]
    if twice := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise ValueError(f"the CSV header names the column {twice[0][:40]!r} twice")
    waiting: Row | None = None  # until the row after it is known not to be its other half
    lone: int | None = None  # line of the row before, if that has one field
    i = start + n_lines
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        row: Row | BadRow
        try:
            cells, n_lines = _split_csv(lines, i, delimiter)
        except csv.Error as error:
            row, n_lines = BadRow(i + 1, f"is not CSV: {error}"), 1
        else:
            if len(cells) == len(names) and lone is not None:
                row = BadRow(i + 1, f"may go on from line {lone}: a line break is to be quoted")
            elif len(cells) == len(names):
                row = Row(i + 1, dict(zip(names, cells, strict=True)))
            else:
                row = BadRow(i + 1, f"has {len(cells)} fields; the header has {len(names)}")
                if len(cells) < len(names) and waiting is not None:
                    yield BadRow(
                        waiting.line, f"may go on in line {i + 1}: a line break is to be quoted"
                    )
                    waiting = None
            lone = i + 1 if len(cells) == 1 < len(names) else None
        if waiting is not None:
            yield waiting
        waiting = None
        if isinstance(row, Row):
            waiting = row
        else:
            yield row
        i += n_lines
    if waiting is not None:
        yield waiting


def _split_csv(lines: list[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """(fields, number of lines) of the row that begins in `lines[start]`."""
    for n in range(1, MAX_ROW_LINES + 1):
        row = "\n".join(lines[start : start + n])
        try:
            return next(csv.reader([row], delimiter=delimiter, strict=True)), n
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                raise
            if start + n >= len(lines) or n == MAX_ROW_LINES:
                raise csv.Error("a quote is not closed") from None
    raise AssertionError


def _try_split(line: str, delimiter: str) -> list[str]:
    with suppress(csv.Error):
        return next(csv.reader([line], delimiter=delimiter))
    return []
