"""Lists of training data: the recordings of a data set and their captions. No audio is opened.

Five layouts are recognised: AudioCaps's own tables, a folder with a table `metadata`, sounds with a
text file beside each, a list of paths and captions (a table, JSON lines as Tango and the original
Auffusion use, AudioLDM's JSON), and WavCaps's JSON. docs/training-data.md describes them. A list
that is damaged (no JSON, no table, a path that leaves the folder) is a `DataError` naming file and
line; a single clip that cannot be used is a `Problem`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.signal.formats import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, sounds_among
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.list_values import (
    Reading,
    existing,
    inside,
    seconds,
    texts,
    unique,
    word,
)

if TYPE_CHECKING:
    import numpy as np

ROLES = ("event", "background")
SPLIT_NAMES = {"val": ("val", "validation", "valid"), "test": ("test",), "train": ("train",)}
TABLE_SUFFIXES = (".csv", ".tsv")
LIST_SUFFIXES = (".jsonl", ".json", *TABLE_SUFFIXES)
PATH_NAMES = ("audio_path", "location", "file_name", "wav")
CAPTION_NAMES = ("text", "captions", "caption")
"""Columns and keys of a list that is `--data` itself."""
MAX_CAPTION_FILE_BYTES = 100_000


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

    def cut(self, waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        """The samples of the file (N,) between start and end; none beyond its end."""
        length_s = len(waveform) / sample_rate_hz  # a bound, since a list may say 1e308
        start = round(min(self.start_s, length_s) * sample_rate_hz)
        if self.duration_s is None:
            return waveform[start:]
        return waveform[start : start + round(min(self.duration_s, length_s) * sample_rate_hz)]


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


class NoSplitError(DataError):
    """A data set is not divided into splits, or has not the one that is asked for."""


# Reading the lists --------------------------------------------------------------------------------


def load_clips(data: Path, split: str = "train", reading: Reading = Reading()) -> Manifest:  # noqa: B008
    """The clips that `data` lists for `split` ("train", "val" or "test"); opens no audio file.

    A folder is searched for the table `{split}` (AudioCaps), `{split}/metadata`, `metadata`, and
    sounds with text files in `{split}/` or in all of it; a file is itself the list. `metadata` and
    files know no splits and are all training data.

    Raises UsageError if `data` is not there or can be no list; DataError if nothing is recognised,
    a list is damaged, or the split does not exist.
    """
    data = Path(data)
    if split not in SPLIT_NAMES:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLIT_NAMES)}")
    if data.is_dir():
        manifest = _load_folder(data, split, reading)
    elif data.is_file() and data.suffix.lower() in LIST_SUFFIXES:
        _require_train(data, split)
        manifest = _load_list_file(data, reading)
    elif data.exists():
        raise UsageError(
            f"--data {data} is neither a folder nor a list ({', '.join(LIST_SUFFIXES)})"
        )
    else:
        raise UsageError(f"--data {data} does not exist")
    if not manifest.clips and not manifest.problems:
        raise DataError(f"--data {data} lists no clips for split {split!r}")
    return manifest


def _load_folder(folder: Path, split: str, reading: Reading) -> Manifest:
    for name in SPLIT_NAMES[split]:
        for table in _tables(folder, name, TABLE_SUFFIXES):
            return _load_audiocaps(table, reading)
        for metadata in _tables(folder / name, "metadata"):
            return _load_metadata(metadata, reading)
    for metadata in _tables(folder, "metadata"):
        _require_train(folder, split)
        return _load_metadata(metadata, reading)
    if (manifest := _load_captioned_files(folder, split, reading)) is not None:
        return manifest
    lists = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in LIST_SUFFIXES)
    raise NoSplitError(
        f"--data {folder} has no {split}.csv, {split}/metadata.jsonl|csv|tsv, "
        "metadata.jsonl|csv|tsv, or sounds with a .txt beside them",
        hint=f"To train from a list, name it: --data {folder / lists[0]}." if lists else None,
    )


def _tables(
    folder: Path, name: str, suffixes: tuple[str, ...] = (".jsonl", *TABLE_SUFFIXES)
) -> list[Path]:
    paths = (folder / f"{name}{suffix}" for suffix in suffixes)
    return [path for path in paths if path.is_file()]


def _require_train(data: Path, split: str) -> None:
    if split != "train":
        raise NoSplitError(
            f"data {data} is not divided into splits, so it has no {split!r}",
            hint=f"Splits are {split}/metadata.jsonl, or AudioCaps's {split}.csv in the folder.",
        )


def _load_audiocaps(table: Path, reading: Reading) -> Manifest:
    """AudioCaps: `audiocap_id,youtube_id,start_time,caption`, one row a caption."""
    folder, split = table.parent, table.stem
    found = _audio_by_stem(folder)
    collected = _Collected()
    columns = ("audiocap_id", "youtube_id", "start_time")
    for where, row in reading.rows(table, "csv", columns, captions=("caption",)):
        audiocap_id, youtube_id, start_time = (row[column].strip() for column in columns)
        start_s = seconds(start_time, "start_time", where)
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
            captions=reading.captions(row, ("caption",), where),
        )
    return collected.manifest()


def _load_metadata(metadata: Path, reading: Reading) -> Manifest:
    """A table or JSON lines: file_name and text, relative to the file's own folder."""
    if metadata.suffix in TABLE_SUFFIXES:
        rows = reading.rows(metadata, "csv", ("file_name",), captions=("text",))
    else:
        rows = reading.rows(metadata, "jsonl")
    collected = _Collected()
    for where, row in rows:
        name = inside(row.get("file_name"), "file_name", where)
        start_s = seconds(row.get("start_s") or 0, "start_s", where)
        duration_s = (
            seconds(row["duration_s"], "duration_s", where) if row.get("duration_s") else None
        )
        collected.add(
            key=(name, start_s, duration_s),
            where=where,
            path=existing(metadata.parent / name),
            missing=f"{name} does not exist",
            captions=reading.captions(row, ("text",), where),
            phrases=texts(row.get("phrases"), "phrases", where),
            kind=word(row.get("kind"), "kind", where),
            role=word(row.get("role"), "role", where, ROLES),
            start_s=start_s,
            duration_s=duration_s,
        )
    return collected.manifest()


def _load_captioned_files(folder: Path, split: str, reading: Reading) -> Manifest | None:
    """Sounds with a text file of the same name, a caption a line; None where there is none.

    They are in `{split}/`; without it all of the folder but other splits is training data.
    """
    divided = [folder / name for name in SPLIT_NAMES[split] if (folder / name).is_dir()]
    if not divided and split != "train":
        return None
    others = {name for other, names in SPLIT_NAMES.items() if other != split for name in names}
    found = _audio_by_stem(*divided or [folder], skipped=() if divided else others)
    sounds = sorted(path for paths in found.values() for path in paths)
    captioned = [path for path in sounds if existing(path.with_suffix(".txt"))]
    if not captioned:
        return None
    if reading.caption_column:
        raise UsageError("--caption-column: text files beside the sounds have no columns")
    collected = _Collected()
    for path in sounds:
        lines: list[str] = []
        where = str(path.with_suffix(".txt"))
        if existing(Path(where)):
            lines = reading.text(Path(where), MAX_CAPTION_FILE_BYTES).splitlines()
        captions = texts(lines, "the text", where)
        collected.add(key=path, where=where, path=path, missing="", captions=captions)
    return collected.manifest()


def _load_list_file(path: Path, reading: Reading) -> Manifest:
    """A list that is `--data` itself: a table, JSON lines (which Tango names `.json`, too),
    AudioLDM's or WavCaps's JSON."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            content = json.loads(reading.text(path))
        except (ValueError, RecursionError):
            content = None  # several JSON values: lines
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            return _load_json_data(path, content["data"], reading)
        if isinstance(content, list):
            raise DataError(f"{path}: a JSON array; give one object a line, or WavCaps's form")
    format = "csv" if suffix in TABLE_SUFFIXES else "jsonl"
    return _load_paths(path, reading.rows(path, format), reading)


def _load_paths(
    path: Path, rows: Iterable[tuple[str, dict[str, Any]]], reading: Reading
) -> Manifest:
    """Rows with a path and captions, under the names that such lists have."""
    collected = _Collected()
    for where, row in rows:
        column = next((name for name in PATH_NAMES if name in row), None)
        if column is None:
            raise DataError(
                f"{where}: has no {', '.join(PATH_NAMES)}",
                hint="Of AudioCaps name the folder of its tables." if "youtube_id" in row else None,
            )
        name = row[column]
        # Such lists have absolute paths; since the user named this one, they are allowed.
        if not (isinstance(name, str) and os.path.isabs(name) and "\0" not in name):
            name = inside(name, column, where)
        collected.add(
            key=name,
            where=where,
            path=existing(path.parent / name) or existing(Path(name)),
            missing=f"{name} does not exist",
            captions=reading.captions(row, CAPTION_NAMES, where),
        )
    return collected.manifest()


def _load_json_data(path: Path, rows: list[Any], reading: Reading) -> Manifest:
    """AudioLDM: `data: [{wav, caption}]`; WavCaps: `data: [{id, caption, duration, …}]` with
    `{id}.flac` anywhere beside the list."""
    if rows and all(isinstance(row, dict) and "wav" in row for row in rows):
        numbered = ((f"{path}, data[{index}]", row) for index, row in enumerate(rows))
        return _load_paths(path, numbered, reading)
    found = _audio_by_stem(path.parent)
    collected = _Collected()
    for index, row in enumerate(rows):
        where = f"{path}, data[{index}]"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
            raise DataError(f"{where}: no object with an id or a wav")
        clip_id = str(row["id"])
        stem = clip_id[:-4] if clip_id.lower().endswith(AUDIO_SUFFIXES) else clip_id
        collected.add(
            key=clip_id,
            where=where,
            path=next(iter(found.get(stem, ())), None),
            missing=f"no audio file named {stem}",
            captions=reading.captions(row, ("caption",), where),
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
            captions=unique(clip.captions + fields["captions"]),
            phrases=unique(clip.phrases + fields.get("phrases", ())),
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


def _audio_by_stem(*folders: Path, skipped: Collection[str] = ()) -> dict[str, list[Path]]:
    """Audio files below `folders` by name without suffix, the nearest first, and after them those
    that cannot be read, which the check of the clips tells.

    Folders in them with a name in `skipped` are left out.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for parent, inner, names in os.walk(folder):
            inner[:] = sorted(n for n in inner if Path(parent) != folder or n not in skipped)
            for name in sounds_among(names):
                found.setdefault(Path(name).stem, []).append(Path(parent, name))
    for paths in found.values():
        paths.sort(key=lambda path: path.suffix.lower() in FOREIGN_SUFFIXES)
    return found
