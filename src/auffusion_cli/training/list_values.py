"""Rows of the lists of training data and what is in their fields: untrusted, checked, plain values.

Every error is a `DataError` that names the list and the line.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from auffusion_cli.errors import DataError
from auffusion_cli.files import read_bytes
from auffusion_cli.parsing import ENCODING_HINT, decode_text, is_unicode
from auffusion_cli.tables import BadRow, read_rows

MAX_TEXT_CHARACTERS = 2000
MAX_LIST_BYTES = 2**30
NUMBERED_CAPTION = re.compile(r"caption_?\d{1,2}", re.IGNORECASE)
"""Columns of several captions of a sound: Clotho's caption_1 to caption_5."""


@dataclass(frozen=True)
class Reading:
    """What a data set's lists do not say of themselves."""

    caption_column: str | None = None
    """Column or key of the captions; None: the one that the layout has."""
    encoding: str | None = None
    """None: UTF-8, or UTF-16 with a byte order mark."""

    def text(self, path: Path, max_bytes: int = MAX_LIST_BYTES) -> str:
        """The text of a file."""
        try:
            content = read_bytes(path, max_bytes)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        try:
            return decode_text(content, self.encoding)
        except ValueError as error:
            raise DataError(f"{path}: {error}", hint=ENCODING_HINT) from None

    def rows(
        self,
        path: Path,
        format: Literal["csv", "jsonl"],
        required: Sequence[str] = (),
        captions: Sequence[str] = (),
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """("file, line 3", column -> value) for each row of a list, none of which may be bad.

        It has to have the columns `required` and, where `captions` are given, one of captions.
        """
        try:
            for row in read_rows(self.text(path), format):
                where = f"{path}, line {row.line}"
                if isinstance(row, BadRow):
                    raise DataError(f"{where}: {row.reason}")
                absent = [name for name in required if name not in row.values]
                if captions and not self.caption_columns(row.values, captions):
                    absent.append(self.caption_column or captions[0])
                if absent:
                    raise DataError(
                        f"{path}: no column {', '.join(absent)}",
                        hint=f"There are {reprlib.repr(', '.join(row.values))}; --caption-column "
                        "names that of the captions.",
                    )
                yield where, row.values
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error

    def caption_columns(self, there: Collection[str], names: Sequence[str]) -> tuple[str, ...]:
        """Those of the columns `there` that hold captions: `caption_column`, else the first of
        `names`, else those that are numbered."""
        for name in (self.caption_column,) if self.caption_column else names:
            if name in there:
                return (name,)
        if self.caption_column:
            return ()
        return tuple(name for name in there if NUMBERED_CAPTION.fullmatch(name))

    def captions(self, row: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, ...]:
        """The captions of a row, in the columns that `caption_columns` tells."""
        columns = self.caption_columns(row, names)
        if self.caption_column and not columns:
            there = reprlib.repr(", ".join(map(str, row)))
            raise DataError(
                f"{where}: has no {reprlib.repr(self.caption_column)}",
                hint=f"--caption-column takes one of {there}.",
            )
        return unique(text for name in columns for text in texts(row[name], name, where))


def texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """A string or list of strings as distinct, non-empty lines; () for null."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    for text in values:
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} holds {type(text).__name__}, not text")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise DataError(
                f"{where}: {name} has {len(text)} characters; at most {MAX_TEXT_CHARACTERS}"
            )
        if not is_unicode(text) or "\0" in text:
            raise DataError(f"{where}: {name} is not valid Unicode text")
    return unique(" ".join(text.split()) for text in values)


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Each that is not empty, once."""
    return tuple(dict.fromkeys(value for value in values if value))


def word(value: Any, name: str, where: str, allowed: tuple[str, ...] | None = None) -> str | None:
    """One text, of those `allowed`; None for null."""
    found = texts(value, name, where)
    if not found:
        return None
    if len(found) > 1 or (allowed and found[0] not in allowed):
        expected = f"one of {', '.join(allowed)}" if allowed else "one word"
        raise DataError(f"{where}: {name} is {reprlib.repr(value)}, not {expected}")
    return found[0]


def seconds(value: Any, name: str, where: str) -> float:
    """A number from 0 up, or its digits."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DataError(
            f"{where}: {name} is {reprlib.repr(value)}, not a number of seconds from 0 up"
        )
    return number


def inside(value: Any, name: str, where: str) -> str:
    """A relative path that cannot leave its folder. Links are followed, as the user made them."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is missing or empty")
    path = PureWindowsPath(value)  # knows both separators and drives
    if path.drive or path.root or ".." in path.parts:
        raise DataError(f"{where}: {name} {reprlib.repr(value)} leaves the data folder")
    if "\0" in value or not is_unicode(value):
        raise DataError(f"{where}: {name} {reprlib.repr(value)} is not a file name")
    return value


def existing(path: Path) -> Path | None:
    """`path`, if it is a file."""
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name too long to exist
        return None
