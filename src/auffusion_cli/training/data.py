"""Lists of training data: the recordings of a data set and their captions. No audio is opened.

Four forms are recognised: AudioCaps's own tables, a folder with `metadata.csv` or
`metadata.jsonl`, a list in JSON lines as Tango and the original Auffusion use, and WavCaps JSON.
docs/training-data.md describes them. A list that is damaged (no JSON, no table, a path that leaves
the folder) is a `DataError` naming file and line; a single clip that cannot be used is a `Problem`.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.parsing import is_unicode, read_text
from auffusion_cli.signal.formats import AUDIO_SUFFIXES
from auffusion_cli.tables import BadRow, read_rows
from auffusion_cli.training.captions import Wordings

ROLES = ("event", "background")
SPLIT_NAMES = {"val": ("val", "validation", "valid"), "test": ("test",), "train": ("train",)}
MAX_TEXT_CHARACTERS = 2000
MAX_LIST_BYTES = 2**30


@dataclass(frozen=True)
class Clip:
    """A recording, or a part of one, with its captions.

    `phrases` are short noun or gerund phrases ("dog barking", "heavy rain") that fit into a
    composed caption. `role` decides the place of a clip in a scene: an "event" happens, a
    "background" lasts; without a role the clip is used as it is. `duration_s` None: to the end.
    """

    path: Path
    captions: tuple[str, ...]
    phrases: tuple[str, ...] = ()
    kind: str | None = None
    role: Literal["event", "background"] | None = None
    start_s: float = 0.0
    duration_s: float | None = None

    @property
    def wordings(self) -> Wordings:
        return Wordings(self.captions, self.phrases)


@dataclass(frozen=True)
class Problem:
    """Reason not to use a clip. `where` is an audio file, or a list and the line naming it."""

    reason: Literal["missing", "captionless", "unreadable", "silent", "too short", "duplicate"]
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class Manifest:
    """The clips of a data set, and the entries that name no usable clip."""

    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...] = ()


# Reading the lists --------------------------------------------------------------------------------


def load_clips(data: Path, split: str = "train") -> Manifest:
    """The clips that `data` lists for `split` ("train", "val" or "test"); opens no audio file.

    A folder is searched for `{split}.csv` (AudioCaps), `{split}/metadata.jsonl|csv`, and
    `metadata.jsonl|csv`; a `.jsonl` or `.json` file is itself the list. The last two know no
    splits and are all training data.

    Raises UsageError if `data` is not there or can be no list; DataError if nothing is recognised,
    a list is damaged, or the split does not exist.
    """
    data = Path(data)
    if split not in SPLIT_NAMES:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLIT_NAMES)}")
    if data.is_dir():
        manifest = _load_folder(data, split)
    elif data.is_file() and data.suffix.lower() in (".jsonl", ".json"):
        _require_train(data, split)
        manifest = _load_list_file(data)
    elif data.exists():
        raise UsageError(f"--data {data} is neither a folder nor a .jsonl or .json list")
    else:
        raise UsageError(f"--data {data} does not exist")
    if not manifest.clips and not manifest.problems:
        raise DataError(f"--data {data} lists no clips for split {split!r}")
    return manifest


def _load_folder(folder: Path, split: str) -> Manifest:
    for name in SPLIT_NAMES[split]:
        if (folder / f"{name}.csv").is_file():
            return _load_audiocaps(folder, name)
        for metadata in _metadata_files(folder / name):
            return _load_metadata(metadata)
    for metadata in _metadata_files(folder):
        _require_train(folder, split)
        return _load_metadata(metadata)
    lists = sorted(path.name for path in folder.glob("*.json*"))
    raise DataError(
        f"--data {folder} has no {split}.csv, {split}/metadata.jsonl|csv or metadata.jsonl|csv",
        hint=f"to train from a list, name it: --data {folder / lists[0]}" if lists else None,
    )


def _metadata_files(folder: Path) -> list[Path]:
    names = ("metadata.jsonl", "metadata.csv")
    return [folder / name for name in names if (folder / name).is_file()]


def _require_train(data: Path, split: str) -> None:
    if split != "train":
        raise DataError(
            f"data {data} is not divided into splits, so it has no {split!r}",
            hint=f"splits are {split}/metadata.jsonl, or AudioCaps's {split}.csv in the folder",
        )


def _load_audiocaps(folder: Path, split: str) -> Manifest:
    """AudioCaps: `audiocap_id,youtube_id,start_time,caption`, one row a caption."""
    table = folder / f"{split}.csv"
    found = _audio_by_stem(folder)
    collected = _Collected()
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    for where, row in _rows(table, "csv", columns):
        audiocap_id, youtube_id, start_time, _ = (row[column].strip() for column in columns)
        start_s = _seconds(start_time, "start_time", where)
        # Numbers are common file names, so an id counts only inside a folder named for the split.
        numbered = [p for p in found.get(audiocap_id, ()) if split in p.relative_to(folder).parts]
        # The downloaders cut out the ten seconds: start_time only distinguishes clips.
        stems = (f"{youtube_id}_{start_s:g}", youtube_id, f"Y{youtube_id}")
        named = [path for stem in stems for path in found.get(stem, ())]
        collected.add(
            key=(youtube_id, start_s),
            where=where,
            path=next(iter(numbered + named), None),
            missing=f"no audio file for youtube_id {youtube_id}, start_time {start_time}",
            captions=_texts(row["caption"], "caption", where),
        )
    return collected.manifest()


def _load_metadata(metadata: Path) -> Manifest:
    """`metadata.csv` or `metadata.jsonl`: file_name and text, relative to the file's own folder."""
    is_csv = metadata.suffix == ".csv"
    rows = _rows(metadata, "csv", ("file_name", "text")) if is_csv else _rows(metadata, "jsonl")
    collected = _Collected()
    for where, row in rows:
        name = _inside(row.get("file_name"), "file_name", where)
        start_s = _seconds(row.get("start_s") or 0, "start_s", where)
        duration_s = (
            _seconds(row["duration_s"], "duration_s", where) if row.get("duration_s") else None
        )
        collected.add(
            key=(name, start_s, duration_s),
            where=where,
            path=_existing(metadata.parent / name),
            missing=f"{name} does not exist",
            captions=_texts(row.get("text"), "text", where),
            phrases=_texts(row.get("phrases"), "phrases", where),
            kind=_word(row.get("kind"), "kind", where),
            role=_word(row.get("role"), "role", where, ROLES),
            start_s=start_s,
            duration_s=duration_s,
        )
    return collected.manifest()


def _load_list_file(path: Path) -> Manifest:
    """A list that is `--data` itself: WavCaps or JSON lines, which Tango names `.json`, too."""
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(_read_list(path))
        except (ValueError, RecursionError):
            content = None  # several JSON values: lines
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            return _load_wavcaps(path, content["data"])
        if isinstance(content, list):
            raise DataError(f"{path}: a JSON array; give one object a line, or WavCaps's form")
    collected = _Collected()
    for where, row in _rows(path, "jsonl"):
        name = row.get("audio_path", row.get("location"))
        # Such lists have absolute paths; since the user named this one, they are allowed.
        if not (isinstance(name, str) and os.path.isabs(name) and "\0" not in name):
            name = _inside(name, "audio_path", where)
        collected.add(
            key=name,
            where=where,
            path=_existing(path.parent / name) or _existing(Path(name)),
            missing=f"{name} does not exist",
            captions=_texts(row.get("text", row.get("captions")), "text", where),
        )
    return collected.manifest()


def _load_wavcaps(path: Path, rows: list[Any]) -> Manifest:
    """WavCaps: `data: [{id, caption, duration, …}]` with `{id}.flac` anywhere beside the list."""
    found = _audio_by_stem(path.parent)
    collected = _Collected()
    for index, row in enumerate(rows):
        where = f"{path}, data[{index}]"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
            raise DataError(f"{where}: no object with an id")
        clip_id = str(row["id"])
        stem = clip_id[:-4] if clip_id.lower().endswith(AUDIO_SUFFIXES) else clip_id
        collected.add(
            key=clip_id,
            where=where,
            path=next(iter(found.get(stem, ())), None),
            missing=f"no audio file named {stem}",
            captions=_texts(row.get("caption"), "caption", where),
        )
    return collected.manifest()


class _Collected:
    """Clips in the order of their first rows; further rows of a clip add wordings."""

    def __init__(self) -> None:
        self._clips: dict[Any, tuple[str, Path | None, str, Clip]] = {}

    def add(self, key: Any, where: str, path: Path | None, missing: str, **fields: Any) -> None:
        if key not in self._clips:
            clip = Clip(path=path or Path(), **fields)
            self._clips[key] = (where, path, missing, clip)
            return
        first_where, first_path, missing, clip = self._clips[key]
        path = first_path or path
        for name in ("kind", "role"):
            if fields.get(name) and getattr(clip, name) and fields[name] != getattr(clip, name):
                raise DataError(f"{where}: {name} {fields[name]!r} differs from {first_where}")
        clip = replace(
            clip,
            path=path or Path(),
            captions=_unique(clip.captions + fields["captions"]),
            phrases=_unique(clip.phrases + fields.get("phrases", ())),
            kind=clip.kind or fields.get("kind"),
            role=clip.role or fields.get("role"),
        )
        self._clips[key] = (first_where, path, missing, clip)

    def manifest(self) -> Manifest:
        clips: list[Clip] = []
        problems: list[Problem] = []
        for where, path, missing, clip in self._clips.values():
            if path is None:
                problems.append(Problem("missing", where, missing))
            elif not clip.captions:
                problems.append(Problem("captionless", where, f"{path.name} has no caption"))
            else:
                clips.append(clip)
        return Manifest(tuple(clips), tuple(problems))


def _audio_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Audio files below `folder` by name without suffix, nearest to `folder` first."""
    found: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES:
                found.setdefault(stem, []).append(Path(parent, name))
    return found


# Untrusted values ---------------------------------------------------------------------------------


def _read_list(path: Path) -> str:
    return read_text(path, max_bytes=MAX_LIST_BYTES, raising=DataError)


def _rows(
    path: Path, format: Literal["csv", "jsonl"], required: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line 3", column -> value) for each row of a list, which must be free of bad rows."""
    try:
        for row in read_rows(_read_list(path), format):
            where = f"{path}, line {row.line}"
            if isinstance(row, BadRow):
                raise DataError(f"{where}: {row.reason}")
            if absent := [name for name in required if name not in row.values]:
                raise DataError(f"{path}: no column {', '.join(absent)}")
            yield where, row.values
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
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
    return _unique(" ".join(text.split()) for text in values)


def _word(value: Any, name: str, where: str, allowed: tuple[str, ...] | None = None) -> str | None:
    texts = _texts(value, name, where)
    if not texts:
        return None
    if len(texts) > 1 or (allowed and texts[0] not in allowed):
        expected = f"one of {', '.join(allowed)}" if allowed else "one word"
        raise DataError(f"{where}: {name} is {reprlib.repr(value)}, not {expected}")
    return texts[0]


def _seconds(value: Any, name: str, where: str) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise DataError(
            f"{where}: {name} is {reprlib.repr(value)}, not a number of seconds from 0 up"
        )
    return seconds


def _inside(value: Any, name: str, where: str) -> str:
    """A relative path that cannot leave its folder. Links are followed, as the user made them."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is missing or empty")
    path = PureWindowsPath(value)  # knows both separators and drives
    if path.drive or path.root or ".." in path.parts:
        raise DataError(f"{where}: {name} {reprlib.repr(value)} leaves the data folder")
    if "\0" in value or not is_unicode(value):
        raise DataError(f"{where}: {name} {reprlib.repr(value)} is not a file name")
    return value


def _existing(path: Path) -> Path | None:
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name too long to exist
        return None


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
