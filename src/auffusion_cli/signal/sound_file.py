"""Sound files through libsndfile: opened with distrust, read block by block, written atomically."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from auffusion_cli.config import MAX_RATE_HZ, MIN_RATE_HZ
from auffusion_cli.errors import AudioError, MissingAudioError
from auffusion_cli.files import atomic_file, open_regular
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.signal import riff
from auffusion_cli.signal.formats import check_known
from auffusion_cli.signal.tags import chunks_of_record

MAX_CHANNELS = 64
MAX_SAMPLES = 2 * 3600 * 48_000
"""Over all channels: an hour of stereo at 48 kHz, 1.4 GB of float32. A flac of silence may hold
more in two megabytes."""
BLOCK_FRAMES = 2**18
HEAD_BYTES = 64
"""Of a file, by which formats that libsndfile does not read are recognised."""


@dataclass(frozen=True)
class AudioInfo:
    """Format and size of a sound file, by its header."""

    format: str
    subtype: str
    sample_rate_hz: int
    n_channels: int
    n_samples: int
    """Per channel; an estimate in an mp3 without a length in its header."""

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate_hz


def audio_info(path: str | Path) -> AudioInfo:
    """Format and size of a sound file, from its header alone. Raises AudioError."""
    with open_sound(Path(path)) as sound:
        return AudioInfo(
            sound.format, sound.subtype, sound.samplerate, sound.channels, sound.frames
        )


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """The record that `write_sound` put into a file; None if it carries none.

    Raises AudioError if the file is not audio.
    """
    path = Path(path)
    with open_sound(path, check_whole=False) as sound:
        comment = sound.comment
        if sound.format in ("WAV", "WAVEX"):
            with open_regular(path) as file:
                comment = riff.read_comment(file)
    try:
        record = json.loads(comment)
    except (ValueError, RecursionError):  # some other program's comment
        return None
    return record if isinstance(record, dict) else None


def read_record(path: str | Path) -> Provenance:
    """The checked record of a sound file.

    Raises:
        AudioError: the file cannot be read, or carries no record that can be used.
    """
    record = read_provenance(path)
    if record is None:
        with open_sound(Path(path)):  # one that was cut short says so, rather than what follows
            pass
        raise AudioError(
            f"{path}: carries no record of how it was made",
            hint="Only files written by auffusion do, until another program rewrites them.",
        )
    return Provenance.from_dict(record, str(path))


def check_end(path: str | Path) -> None:
    """Raise an AudioError where the end of a sound file is missing; little of it is read."""
    path = Path(path)
    with open_sound(path) as sound:
        if sound.format != "FLAC" or sound.frames < 1:
            return
        try:
            sound.seek(sound.frames - 1)
            is_there = len(sound.read(1)) > 0
        except soundfile.SoundFileError:
            is_there = False
        if not is_there:
            raise AudioError(f"{path}: cut short: its last samples are missing")


@contextmanager
def open_sound(
    path: Path, *, check_whole: bool = True, content: bytes | None = None
) -> Iterator[soundfile.SoundFile]:
    """A file, opened by libsndfile and of a believable size; its failures are AudioErrors.

    With `content`, the bytes of a file that lies in another, `path` is only its name in messages.
    """
    try:
        opened = open_regular(path) if content is None else io.BytesIO(content)
        with opened as file, _sound_file(path, file) as sound:
            if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
                raise AudioError(
                    f"{path}: its sample rate is {sound.samplerate:,} Hz; "
                    f"it can be from {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz"
                )
            if sound.channels > MAX_CHANNELS:
                raise AudioError(
                    f"{path}: it has {sound.channels} channels; there can be up to {MAX_CHANNELS}"
                )
            if check_whole:
                _check_whole(path, sound.format, content)
            yield sound
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise MissingAudioError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise AudioError(f"{path}: does not fit into memory") from error
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{path}: damaged or cut short: {_reason(error)}") from error


def read_blocks(path: Path, sound: soundfile.SoundFile, dtype: str) -> Iterator[np.ndarray]:
    """All samples as blocks (n, C), at least one.

    A file that is too long is refused by its header. In blocks, because a damaged header may
    promise less than there is.
    """
    n_read = 0
    _check_length(path, sound, sound.frames)
    while len(block := sound.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)):
        n_read += len(block)
        _check_length(path, sound, n_read)
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise AudioError(f"{path}: has samples that are not numbers (NaN or infinity)")
        yield block
    # The length in an mp3's header may be off by the encoder's padding, hence the tolerance.
    if n_read < 0.95 * sound.frames:
        raise AudioError(f"{path}: cut short: {n_read:,} of {sound.frames:,} samples can be read")
    if n_read == 0:
        raise AudioError(f"{path}: holds no sound (0 samples)")


def _check_length(path: Path, sound: soundfile.SoundFile, n_frames: int) -> None:
    n_samples = n_frames * sound.channels
    if n_samples > MAX_SAMPLES:
        raise AudioError(
            f"{path}: too long: {n_frames / sound.samplerate:,.0f} s, {n_samples:,} samples in all "
            f"channels; there can be {MAX_SAMPLES:,}"
        )


def _sound_file(path: Path, file: BinaryIO) -> soundfile.SoundFile:
    try:
        # By descriptor: libsndfile reads it without a call into Python for every few bytes.
        in_memory = isinstance(file, io.BytesIO)
        return soundfile.SoundFile(file if in_memory else file.fileno(), closefd=False)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if not head:
            raise AudioError(f"{path}: is an empty file") from error
        check_known(path, head)
        raise AudioError(
            f"{path}: not audio that can be read (wav, flac, ogg, mp3): {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return text.rstrip(".") or type(error).__name__


def _check_whole(path: Path, format_name: str, content: bytes | None) -> None:
    """libsndfile reads a file that was cut short as if it ended there; that is an error."""
    with open_regular(path) if content is None else io.BytesIO(content) as file:
        if format_name == "OGG":
            if not _ends_with_whole_ogg_page(file):
                raise AudioError(f"{path}: cut short: the last page of the ogg stream is not whole")
        elif missing := riff.missing_bytes(file):
            n_there, n_bytes = missing
            raise AudioError(
                f"{path}: cut short: {n_there:,} of {n_bytes:,} bytes of sound are there"
            )


def _ends_with_whole_ogg_page(file: BinaryIO) -> bool:
    """Whether the last page (RFC 3533, section 6) is whole.

    It should also be marked as the last of its stream, but many files of old encoders are not.
    """
    n_total = file.seek(0, io.SEEK_END)
    file.seek(max(0, n_total - 2**17))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    n_bytes = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) >= n_bytes


def write_sound(
    path: Path,
    samples: np.ndarray,
    sample_rate_hz: int,
    format_and_codec: tuple[str, str],
    *,
    provenance: dict[str, Any] | None = None,
    channel_mask: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write samples (N, C) with a record of how they were made; whole, or as it was before.

    With a `channel_mask` a wav becomes WAVE_FORMAT_EXTENSIBLE. Of a loop it has the loop's points,
    and broadcast fields where the record says that they were asked for.

    Raises AudioError where libsndfile cannot write such a file, or the disk refuses;
    OutputExistsError where a file is there that is not to be overwritten.
    """
    format_name, codec = format_and_codec
    comment = json.dumps(provenance) if provenance is not None else None
    is_wav = format_name == "WAV"
    if is_wav and channel_mask is not None:
        format_name = "WAVEX"
    content = _encode(
        path, samples, sample_rate_hz, format_name, codec, None if is_wav else comment
    )
    if is_wav and channel_mask is not None:
        content = riff.with_channel_mask(content, channel_mask)
    if is_wav and comment is not None:
        content = riff.with_comment(content, comment)
        for name, body in chunks_of_record(provenance, samples, sample_rate_hz):
            content = riff.with_chunk(content, name, body)
    try:
        with atomic_file(path, overwrite=overwrite) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise AudioError(f"{path}: cannot be written: {error.strerror or error}") from error


def _encode(
    path: Path, samples: np.ndarray, rate_hz: int, format_name: str, codec: str, comment: str | None
) -> bytes:
    """The whole file. In memory: libsndfile does not report a full disk."""
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer, "w", rate_hz, samples.shape[1], codec, format=format_name
        ) as sound:
            if comment is not None:
                sound.comment = comment
            # In blocks: libsndfile's Vorbis encoder overflows its stack on long writes.
            for start in range(0, len(samples), 2**16):
                sound.write(samples[start : start + 2**16])
    except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
        raise AudioError(
            f"{path}: cannot be written as {format_name} with {samples.shape[1]} channels "
            f"at {rate_hz:,} Hz: {_reason(error)}"
        ) from error
    return buffer.getvalue()
