"""Everything that was made in a studio, as ordinary files in a folder of the user's.

A sound is a wav or flac that carries its own record, and beside it a JSON of the same name with
what only the studio knows: whether it is kept, and which sound it was made from. The index in
memory is made of these when the studio starts; a file that is deleted by hand is forgotten.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from auffusion_cli.errors import AuffusionError
from auffusion_cli.files import atomic_file, clear_unfinished, slug
from auffusion_cli.parsing import decode, plain, read_json
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.signal.sound_file import audio_info

State = Literal["new", "kept", "discarded"]
MAX_NOTE_BYTES = 1_000_000
"""Of the JSON beside a sound."""
ID = re.compile("[0-9a-f]{12}")


class UnknownSoundError(AuffusionError):
    """There is no such sound in the history."""


@dataclass(frozen=True)
class Sound:
    """One file of the history."""

    id: str
    file: str
    """Its name in the folder."""
    title: str
    """The words it was made from, or the name of the file that was brought in."""
    task: str
    """That of its record; "recording" for one that was brought in."""
    made_at: str
    """UTC, ISO 8601."""
    duration_s: float
    sample_rate_hz: int
    n_channels: int
    parent: str | None = None
    """The sound that it is a version of."""
    state: State = "new"
    record: dict[str, Any] | None = None
    """`Provenance.to_dict()`; None for what was brought in without one."""
    remarks: tuple[str, ...] = ()
    """What the user was warned of when it was made."""
    score: float | None = None
    """The judge's, by which candidates are ranked: higher is better; None without one."""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise ValueError("id is not 12 hexadecimal digits")
        if Path(self.file).name != self.file or self.file.startswith("."):
            raise ValueError("file is not a plain name")

    @property
    def is_loop(self) -> bool:
        """Whether its record says that it is played again and again."""
        record = self.record or {}
        return record.get("loop") is True or record.get("where") == "loop"

    def has(self, words: Sequence[str]) -> bool:
        """Whether all of `words` (lower case) occur in its title, file name or task."""
        text = f"{self.title} {self.file} {self.task}".lower()
        return all(word in text for word in words)


class History:
    """The sounds of `folder`, which is made where it is missing. Safe to use from any thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        self.folder = folder
        self._lock = threading.Lock()
        found = filter(None, map(self._read, folder.glob("*.json")))
        self._sounds = {sound.id: sound for sound in sorted(found, key=lambda one: one.made_at)}

    def add(
        self,
        write: Callable[[Path], object],
        *,
        title: str,
        task: str,
        suffix: str = ".wav",
        parent: str | None = None,
        record: dict[str, Any] | None = None,
        remarks: Sequence[str] = (),
        score: float | None = None,
    ) -> Sound:
        """The sound that `write` writes to the path it is given.

        Raises:
            AudioError: what it wrote is not sound.
        """
        new_id = secrets.token_hex(6)
        path = self.folder / f"{slug(title)}-{new_id}{suffix}"
        write(path)
        try:
            info = audio_info(path)
            sound = Sound(
                id=new_id,
                file=path.name,
                title=title,
                task=task,
                made_at=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                duration_s=info.duration_s,
                sample_rate_hz=info.sample_rate_hz,
                n_channels=info.n_channels,
                parent=parent,
                record=record,
                remarks=tuple(remarks),
                score=score,
            )
            with self._lock:
                self._save(sound)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return sound

    def find(self, sound_id: str) -> Sound:
        """Raises UnknownSoundError where there is none, or its file is gone."""
        sound = self._sounds.get(sound_id)
        if sound is None or not self.path(sound).is_file():
            raise UnknownSoundError("there is no such sound in the history")
        return sound

    def path(self, sound: Sound) -> Path:
        return self.folder / sound.file

    def source_path(self, sound: Sound) -> Path | None:
        """The file that `sound` is a version of, if it is one and the file is there."""
        source = self._sounds.get(sound.parent or "")
        path = source and self.path(source)
        return path if path and path.is_file() else None

    def family(self, sound: Sound) -> list[Sound]:
        """`sound`, all that it descends from, and all that descends from these; oldest first."""
        with self._lock:
            sounds = dict(self._sounds)
        root = sound
        while root.parent in sounds and sounds[root.parent].made_at < root.made_at:
            root = sounds[root.parent]
        ids = {root.id}
        for one in sounds.values():  # children come after their parents
            if one.parent in ids:
                ids.add(one.id)
        return [one for one in sounds.values() if one.id in ids and self.path(one).is_file()]

    def search(self, text: str = "", state: State | None = None) -> list[Sound]:
        """Sounds with all the words of `text`, the newest first; without a state not those that
        were discarded."""
        words = text.lower().split()
        with self._lock:
            sounds = list(self._sounds.values())
        return [
            sound
            for sound in reversed(sounds)
            if (sound.state == state if state else sound.state != "discarded")
            and sound.has(words)
            and self.path(sound).is_file()
        ]

    def mark(self, sound_id: str, state: State) -> Sound:
        """The sound, kept or discarded from now on; its file stays in either case."""
        with self._lock:
            sound = replace(self.find(sound_id), state=state)
            self._save(sound)
        return sound

    def delete(self, sound_id: str) -> None:
        """Delete the files of a sound."""
        with self._lock:
            sound = self.find(sound_id)
            self._sounds.pop(sound_id, None)
            self._note(sound).unlink(missing_ok=True)
            self.path(sound).unlink(missing_ok=True)

    def _save(self, sound: Sound) -> None:
        """Write the note of a sound; to be called with the lock."""
        with atomic_file(self._note(sound)) as beside:
            beside.write_text(json.dumps(plain(sound), indent=1), encoding="utf-8")
        self._sounds[sound.id] = sound

    def _note(self, sound: Sound) -> Path:
        return self.folder / f"{sound.file}.json"

    def _read(self, note: Path) -> Sound | None:
        """The sound of a JSON file; None for what is none, or whose sound is gone."""
        with suppress(AuffusionError, ValueError):
            value = read_json(note, raising=AuffusionError, max_bytes=MAX_NOTE_BYTES)
            sound = decode(Sound, value)
            sound = replace(sound, record=sound.record and _checked(sound.record))
            if self._note(sound) == note and self.path(sound).is_file():
                return sound
        return None


def _checked(record: dict[str, Any]) -> dict[str, Any] | None:
    """`record` with all the fields that it has today; None where it cannot be used."""
    with suppress(AuffusionError):
        return Provenance.from_dict(record).to_dict()
    return None
