"""Data that is read from end to end (`records.py`) -> files, for stages that read sounds often.

Each part becomes a folder, complete or not there, so that what was stopped goes on at the part. No
torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auffusion_cli.errors import DataError
from auffusion_cli.files import atomic_folder, slug
from auffusion_cli.parsing import decode, plain, read_json
from auffusion_cli.training.data import Clip, Manifest, Problem
from auffusion_cli.training.records import Record, RecordSet

CONTENT_NAME = "content.json"
MAX_CONTENT_BYTES = 2**30


@dataclass(frozen=True)
class _Content:
    """What a part has beside its sounds."""

    captions: tuple[tuple[str, ...], ...]
    """Of each sound, in the order of their files' names."""
    problems: tuple[Problem, ...]


def unpack(
    records: RecordSet, root: Path, on_progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """The sounds of all parts as clips, their files under `root`, as far as they are not there.

    `on_progress(n_done, n_parts)` is called after each part.

    Raises:
        DataError: a part is damaged, cannot be opened, or has no captions.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    root.mkdir(parents=True, exist_ok=True)
    for number in range(len(records.parts)):
        described = repr((records.version(number), records.reading))
        folder = root / hashlib.sha256(described.encode()).hexdigest()[:16]
        if not folder.is_dir():
            with atomic_folder(folder) as beside:
                _write(records, number, beside)
        content = _read(folder)
        sounds = sorted(path for path in folder.iterdir() if path.name != CONTENT_NAME)
        clips += map(Clip, sounds, content.captions)
        problems += content.problems
        if on_progress is not None:
            on_progress(number + 1, len(records.parts))
    return Manifest(tuple(clips), tuple(problems))


def _write(records: RecordSet, part: int, folder: Path) -> None:
    captions, problems = [], []
    for record in records.records(part):
        if isinstance(record, Record):
            name = slug(PurePosixPath(record.where).name)
            (folder / f"{len(captions):06}-{name}").write_bytes(record.audio)
            captions.append(record.captions)
        else:
            problems.append(record)
    content = _Content(tuple(captions), tuple(problems))
    (folder / CONTENT_NAME).write_text(json.dumps(plain(content)), encoding="utf-8")


def _read(folder: Path) -> _Content:
    path = folder / CONTENT_NAME
    content = read_json(path, raising=DataError, max_bytes=MAX_CONTENT_BYTES)
    try:
        return decode(_Content, content)
    except ValueError as error:
        hint = f"Delete {folder}: it is made again."
        raise DataError(f"{path}: damaged: {error}", hint=hint) from error
