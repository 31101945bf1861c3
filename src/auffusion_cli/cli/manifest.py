"""The manifest of a list: a line of JSON for each sound that was made, beside the sounds.

Every line is appended whole, under a lock, once its sound has its name; each shard has a file of
its own. Of two lines for one file the later one holds. A sound whose process was killed before it
could write the line gets one from the next run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from auffusion_cli.errors import UsageError
from auffusion_cli.files import append_line, hash_file, read_bytes
from auffusion_cli.parsing import decode
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.shards import Shard

NAME = "manifest"
MAX_BYTES = 500_000_000
"""Of a manifest that is read back: some hundred bytes for each of 100,000 sounds."""


@dataclass(frozen=True)
class Line:
    """One sound of a manifest."""

    file: str
    """Relative to the manifest's folder."""
    line: int | None
    """Of the list."""
    prompt: str
    seed: int
    sha256: str
    """Of the file."""
    samples_sha256: str
    """Of the samples, as its record has it."""
    duration_s: float
    made_in_s: float | None
    """Its share of the time that its batch took; None where another run made it."""


class Manifest:
    """The lines of all manifests in the folder of `paths`, and the file to append new ones to.

    Raises:
        UsageError: a file of that name is there, and is no manifest.
    """

    def __init__(self, paths: Iterable[Path], shard: Shard) -> None:
        self.folder = Path(os.path.commonpath([path.parent for path in paths]))
        digits = len(str(shard.count))
        part = "" if shard.is_whole else f"-{shard.index:0{digits}d}-of-{shard.count}"
        self.path = self.folder / f"{NAME}{part}.jsonl"
        _check(self.path)
        lines = (line for path in self._parts() for line in _read(path))
        self._listed = {line.file: line.samples_sha256 for line in lines}

    def add(
        self, path: Path, line: int | None, record: Provenance, made_in_s: float | None
    ) -> None:
        """Append the sound in `path`."""
        from auffusion_cli.signal.sound_file import audio_info

        row = Line(
            file=path.relative_to(self.folder).as_posix(),
            line=line,
            prompt=record.request.prompt,
            seed=record.request.seed,
            sha256=hash_file(path),
            samples_sha256=record.samples_sha256,
            duration_s=audio_info(path).duration_s,
            made_in_s=None if made_in_s is None else round(made_in_s, 3),
        )
        append_line(self.path, json.dumps(asdict(row), ensure_ascii=False))

    def complete(self, path: Path, line: int | None, record: Provenance) -> None:
        """Append the sound in `path`, which was there before this run, if no manifest has it."""
        name = path.relative_to(self.folder).as_posix()
        if self._listed.get(name) != record.samples_sha256:
            self.add(path, line, record, None)

    def _parts(self) -> list[Path]:
        whole = self.folder / f"{NAME}.jsonl"
        return [
            path for path in (whole, *sorted(self.folder.glob(f"{NAME}-*.jsonl"))) if path.exists()
        ]


def _check(path: Path) -> None:
    """Refuse to append to a file that is something else, as data sets have manifests, too."""
    if path.exists() and path.stat().st_size and next(_read(path), None) is None:
        raise UsageError(
            f"{path} exists, and is not a manifest of generated sounds",
            hint="Move it away, or give another --output.",
        )


def _read(path: Path) -> Iterator[Line]:
    """The lines that can be read; a killed process may have left a part of one."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    for line in content.splitlines():
        with suppress(ValueError, RecursionError):
            yield decode(Line, json.loads(line))
