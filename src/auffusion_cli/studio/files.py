"""Sound files on their way into a studio and out of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from auffusion_cli.config import MIN_DURATION_S
from auffusion_cli.errors import AudioError, UsageError
from auffusion_cli.files import atomic_file
from auffusion_cli.signal.recording import read_recording, write_recording
from auffusion_cli.signal.sound_file import audio_info, read_provenance
from auffusion_cli.studio.asks import MAX_SOUND_S
from auffusion_cli.studio.history import History, Sound

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac"}
"""Formats that sounds are given out in; both hold all samples of a recording."""
PLAYED_FORMATS = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac"}
"""libsndfile's name -> suffix, of those that are kept as they come; others become a wav."""
MAX_UPLOAD_BYTES = 250_000_000
"""Ten minutes of 48 kHz stereo in 32 bits, and some more."""
UPLOAD_TIMEOUT_S = 120.0
MAX_TITLE_CHARACTERS = 200


async def bring_in(history: History, name: str, chunks: AsyncIterator[bytes]) -> Sound:
    """A recording that comes in `chunks` as a sound of the history; of `name` only words are used.

    Raises:
        AudioError: it is not sound that can be read.
        UsageError: it is too short or too long.
        HTTPException: it is too large, or takes too long to come.
    """
    n_bytes = 0
    with tempfile.TemporaryDirectory(prefix="auffusion-") as folder:
        path = Path(folder, "recording")
        try:
            with anyio.fail_after(UPLOAD_TIMEOUT_S):
                with path.open("wb") as file:
                    async for chunk in chunks:
                        n_bytes += len(chunk)
                        if n_bytes > MAX_UPLOAD_BYTES:
                            raise HTTPException(
                                413, f"a recording can have {MAX_UPLOAD_BYTES:,} bytes"
                            )
                        file.write(chunk)
        except TimeoutError:
            raise HTTPException(
                408, f"the recording did not come within {UPLOAD_TIMEOUT_S:g} s"
            ) from None
        with _called(path, "the recording"):
            return await run_in_threadpool(_keep, history, name, path)


def _keep(history: History, name: str, path: Path) -> Sound:
    info = audio_info(path)
    if not MIN_DURATION_S <= info.duration_s <= MAX_SOUND_S:  # before all of it is read
        raise UsageError(
            f"the recording lasts {info.duration_s:g} s",
            hint=f"Valid: {MIN_DURATION_S:g} to {MAX_SOUND_S:g} s.",
        )
    recording = read_recording(path)
    suffix = PLAYED_FORMATS.get(info.format)

    def write(to: Path) -> None:
        if suffix is None:
            write_recording(to, recording, overwrite=False)
            return
        with atomic_file(to, overwrite=False) as beside:
            shutil.copyfile(path, beside)

    title = " ".join(Path(name.replace("\\", "/")).stem.split())[:MAX_TITLE_CHARACTERS]
    return history.add(write, title=title or "recording", task="recording", suffix=suffix or ".wav")


def as_format(path: Path, name: str) -> bytes:
    """The file at `path` as wav or flac, sample for sample, with its record.

    Raises:
        AudioError: the format cannot hold its samples.
    """
    with tempfile.TemporaryDirectory(prefix="auffusion-") as folder:
        made = Path(folder, f"sound.{name}")
        with _called(made, path.name):
            write_recording(made, read_recording(path), provenance=read_provenance(path))
        return made.read_bytes()


@contextmanager
def _called(path: Path, name: str) -> Iterator[None]:
    """A block whose AudioErrors call `path`, a copy whose place says nothing, by a name."""
    try:
        yield
    except AudioError as error:
        raise AudioError(error.message.replace(str(path), name), hint=error.hint) from None
