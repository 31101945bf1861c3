"""Data that is read from end to end: sounds and captions in WebDataset's tar files and in parquet.

A *part* is one such file, local or at any URL that fsspec opens. Nothing in it is extracted: sounds
are read into memory, one after the other, within bounds. A part that is damaged is a `DataError`; a
single sound that cannot be used is a `Problem`.
"""

from __future__ import annotations

import glob
import json
import os
import re
import ssl
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from auffusion_cli.errors import DataError, UsageError, first_line
from auffusion_cli.files import open_regular, read_bytes
from auffusion_cli.signal.formats import AUDIO_SUFFIXES
from auffusion_cli.training.data import CAPTION_NAMES, SPLIT_NAMES, NoSplitError, Problem
from auffusion_cli.training.list_values import Reading, existing, inside, texts

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PART_SUFFIXES = (*TAR_SUFFIXES, ".parquet")
MAX_PARTS = 1_000_000
MAX_SOUND_BYTES = 2**29
MAX_TEXT_BYTES = 2**20
MAX_GROUP_BYTES = 2**33
"""Of a parquet's row group, which is read as a whole."""
ROWS_AT_ONCE = 16
CAPTION_KINDS = (".json", ".txt")
"""Of the files of a sound in a tar."""
TAR_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


@dataclass(frozen=True)
class Record:
    """One sound as it lies in a part."""

    where: str
    """Part and name, for messages."""
    audio: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class RecordSet:
    """A split of such data: its parts, in an order that is always the same."""

    parts: tuple[str, ...]
    reading: Reading

    def records(self, part: int) -> Iterator[Record | Problem]:
        """All that a part holds, in its order.

        Raises:
            DataError: it is damaged, cannot be opened, or has no captions.
        """
        name = self.parts[part]
        read = _read_parquet if _suffix(name) == ".parquet" else _read_tar
        return read(name, self.reading)

    def version(self, part: int) -> tuple[str, int, int] | str:
        """What distinguishes a part from another one under its name."""
        name = self.parts[part]
        if "://" in name:
            return name
        stat = os.stat(name)
        return name, stat.st_size, stat.st_mtime_ns


def find_records(data: str, split: str, reading: Reading) -> RecordSet | None:
    """The parts that `--data` names: files, a pattern, URLs, or a folder; None where it has none.

    `{0000..0099}` stands for each of these numbers, and `*` in a local path for anything. In a
    folder parts belong to a split by the begin of their names or their folder (`train-00000.tar`,
    `train/0.parquet`); where none does, they are training data, as are those that are named.

    Raises:
        DataError: there are none of this split.
        UsageError: the pattern has too many.
    """
    is_url = "://" in data
    if not is_url and Path(data).is_dir():
        return _in_folder(Path(data), split, reading)
    names = _expanded(data)
    if not is_url and any(sign in data for sign in "*?["):
        names = [found for name in names for found in sorted(glob.glob(name))]
        if not names and _suffix(data):
            raise UsageError(f"--data {data}: there is no such file")
    if not names or not all(map(_suffix, names)):
        return None
    if split != "train":
        raise NoSplitError(f"--data {data} names training data, so it has no {split!r}")
    if absent := [name for name in names if not is_url and existing(Path(name)) is None]:
        raise UsageError(f"--data {data}: {absent[0]} does not exist")
    return RecordSet(tuple(names), reading)


def _in_folder(folder: Path, split: str, reading: Reading) -> RecordSet | None:
    found = [
        path
        for pattern in ("*", "*/*")
        for path in sorted(folder.glob(pattern))
        if _suffix(path.name) and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        return None
    splits = {path: _split_of(path.relative_to(folder)) for path in found}
    if not any(splits.values()):
        splits = dict.fromkeys(found, "train")
    if not (parts := [str(path) for path in found if splits[path] == split]):
        raise NoSplitError(f"--data {folder} has no {split!r}: no {split}-*.tar or .parquet")
    return RecordSet(tuple(parts), reading)


def _split_of(path: Path) -> str | None:
    for split, names in SPLIT_NAMES.items():
        for name in names:
            begins = re.match(rf"{name}(?![a-z])", path.name)
            if begins or path.parts[0] == name:
                return split
    return None


def _suffix(name: str) -> str | None:
    path = name.split("?")[0].lower()
    return next((suffix for suffix in PART_SUFFIXES if path.endswith(suffix)), None)


def _expanded(pattern: str) -> list[str]:
    """`a-{00..02}.tar` -> a-00.tar, a-01.tar, a-02.tar; several ranges are combined."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    rest = _expanded(pattern[match.end() :])
    n = int(last) - int(first) + 1
    if n < 1 or n * len(rest) > MAX_PARTS:
        raise UsageError(
            f"--data {pattern}: {match[0]} does not rise, or names more than {MAX_PARTS:,} files"
        )
    before = pattern[: match.start()]
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [f"{before}{number}{after}" for number in numbers for after in rest]


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    try:
        if "://" not in name:
            with open_regular(Path(name)) as file:
                yield file
            return
        import fsspec

        with fsspec.open(name, "rb") as file:
            yield file
    except ImportError as error:
        raise DataError(
            f"{name}: cannot be opened: {first_line(error)}",
            hint='pip install "auffusion[data]" has http and https; s3 needs s3fs, gs needs gcsfs.',
        ) from error
    except DataError:
        raise
    except Exception as error:  # each protocol has exceptions of its own
        cause = _first_cause(error)
        reason = "no such file" if isinstance(cause, FileNotFoundError) else first_line(cause)
        hint = "What was encoded is kept: the same command goes on from there."
        if isinstance(cause, ssl.CertificateError):
            hint = "SSL_CERT_FILE=FILE in the environment names the certificates to trust."
        raise DataError(f"{name}: cannot be read: {reason}", hint=hint) from error


def _first_cause(error: BaseException) -> BaseException:
    """What fsspec's error, which often has only the URL, was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# --- WebDataset


def _read_tar(name: str, reading: Reading) -> Iterator[Record | Problem]:
    """Files of one name up to its first dot follow each other, and are one sound."""
    with _opened(name) as file:
        key, members, has_sound = None, {}, False
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    path = PurePosixPath(member.name)
                    stem, _, suffix = path.name.partition(".")
                    if (path.parent, stem) != key:
                        yield from _record_of(name, members, reading)
                        key, members, has_sound = (path.parent, stem), {}, False
                    if (kind := f".{suffix.lower()}") in members:
                        continue
                    is_sound = kind.endswith(AUDIO_SUFFIXES)
                    is_used = kind in CAPTION_KINDS or (is_sound and not has_sound)
                    members[kind] = _read_member(tar, member) if is_used else _Member(member.name)
                    has_sound |= is_sound
        except TAR_DAMAGE as error:
            raise DataError(f"{name}: damaged or cut short: {first_line(error)}") from error
        yield from _record_of(name, members, reading)


@dataclass(frozen=True)
class _Member:
    name: str
    content: bytes | None = None
    """None: larger than it may be, or of no use here."""


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _Member:
    is_text = PurePosixPath(member.name).suffix.lower() in CAPTION_KINDS
    limit = MAX_TEXT_BYTES if is_text else MAX_SOUND_BYTES
    if member.size > limit:
        return _Member(member.name)
    file = tar.extractfile(member)
    content = b"" if file is None else file.read(limit)
    if len(content) != member.size:
        raise EOFError("unexpected end of data")
    return _Member(member.name, content)


def _record_of(
    name: str, members: dict[str, _Member], reading: Reading
) -> Iterator[Record | Problem]:
    """The sound of these files, if there is one: its audio, and captions in .json or .txt."""
    if not members:
        return
    where = f"{name}: {next(iter(members.values())).name}"
    sound = next((one for suffix, one in members.items() if suffix.endswith(AUDIO_SUFFIXES)), None)
    if sound is None:
        there = ", ".join(members)
        yield Problem("unreadable", where, f"there is {there[:80]}, and no sound that can be read")
        return
    if sound.content is None:
        yield Problem("unreadable", where, f"larger than {MAX_SOUND_BYTES:,} bytes")
        return
    captions: tuple[str, ...] = ()
    if (text := members.get(".json")) is not None and text.content is not None:
        try:
            row = json.loads(text.content)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: its .json is not JSON") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: its .json is not an object")
        captions = reading.captions(row, CAPTION_NAMES, where)
    elif (text := members.get(".txt")) is not None and text.content is not None:
        try:
            captions = texts(text.content.decode().splitlines(), "the text", where)
        except UnicodeDecodeError:
            raise DataError(f"{where}: its .txt is not UTF-8") from None
    if captions:
        yield Record(where, sound.content, captions)
    else:
        yield Problem("captionless", where, "no .json or .txt with a caption")


# --- Parquet


def _read_parquet(name: str, reading: Reading) -> Iterator[Record | Problem]:
    """A column of sounds, {bytes, path} as `datasets` has it or bytes, and one of captions."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{name}: needs the package pyarrow", hint='Install it: pip install "auffusion[data]".'
        ) from error
    with _opened(name) as file:
        try:
            table = parquet.ParquetFile(file)
            audio, captions = _columns(name, table.schema_arrow, reading)
            row = 0
            for group in range(table.num_row_groups):
                if table.metadata.row_group(group).total_byte_size > MAX_GROUP_BYTES:
                    raise DataError(f"{name}: row group {group} is larger than {MAX_GROUP_BYTES:,}")
                for batch in table.iter_batches(ROWS_AT_ONCE, [group], [audio, *captions]):
                    for values in batch.to_pylist():
                        where = f"{name}: row {row}"
                        found = reading.captions(values, CAPTION_NAMES, where)
                        yield _record_of_row(name, values[audio], found, where)
                        row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name}: damaged or cut short: {first_line(error)}") from error


def _columns(name: str, schema: Any, reading: Reading) -> tuple[str, tuple[str, ...]]:
    """The column of sounds, and those of captions."""
    import pyarrow

    def holds_sounds(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return "bytes" in [field.name for field in kind]
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    there = ", ".join(schema.names)
    sounds = [field.name for field in schema if holds_sounds(field.type)]
    if not sounds:
        raise DataError(f"{name}: no column of sounds (bytes); there are {there}"[:280])
    captions = reading.caption_columns(schema.names, CAPTION_NAMES)
    if not captions:
        sought = reading.caption_column or ", ".join(CAPTION_NAMES)
        raise DataError(
            f"{name}: no column {sought}; there are {there}"[:280],
            hint="--caption-column names that of the captions.",
        )
    return "audio" if "audio" in sounds else sounds[0], captions


def _record_of_row(
    name: str, value: Any, captions: tuple[str, ...], where: str
) -> Record | Problem:
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and value.get("path") and "://" not in name:
        path = Path(name).parent / inside(value["path"], "path", where)
        try:
            content = read_bytes(path, MAX_SOUND_BYTES)
        except OSError as error:
            return Problem("missing", where, f"{path.name}: {error.strerror}")
    if not isinstance(content, bytes):
        return Problem("missing", where, "has no bytes")
    if not captions:
        return Problem("captionless", where, "has no caption")
    return Record(where, content, captions)
