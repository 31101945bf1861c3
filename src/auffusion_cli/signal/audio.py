"""file <-> waveform: read anything, write wav, flac, ogg and mp3 with a provenance record inside.

Samples are float32 with full scale at -1..1. 16-bit samples are x * 32768, truncated, as the
original writes them; so reading a 16-bit file and writing it again changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from auffusion_cli.errors import AudioError, MissingAudioError
from auffusion_cli.files import atomic_file

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
MAX_CHANNELS = 64
MAX_SAMPLES = 2**29
"""Over all channels: 2 GiB of float32, three hours of mono at 48 kHz."""
BLOCK_FRAMES = 2**18

FORMATS = {
    ".wav": ("WAV", {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"}),
    ".flac": ("FLAC", {"pcm16": "PCM_16", "pcm24": "PCM_24"}),
    ".ogg": ("OGG", {"pcm16": "VORBIS"}),
    ".mp3": ("MP3", {"pcm16": "MPEG_LAYER_III"}),
}
"""suffix -> (libsndfile's format, {what `write_audio` calls the sample format: libsndfile's name});
ogg and mp3 have no sample width, the default stands for their only form."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    format: str
    subtype: str
    sample_rate_hz: int
    n_channels: int
    n_samples: int
    """Per channel; an estimate in an mp3 without a length in its header."""

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate_hz


# --- reading


def audio_info(path: str | Path) -> AudioInfo:
    """Format and size of an audio file, from its header alone. Raises AudioError."""
    with _open(Path(path)) as sound:
        return AudioInfo(
            sound.format, sound.subtype, sound.samplerate, sound.channels, sound.frames
        )


def read_audio(
    path: str | Path, sample_rate_hz: int | None = None, mono: bool = False
) -> tuple[Tensor, int]:
    """The samples of a file, (C, N) float32, and their rate.

    Args:
        path: wav, flac, ogg, mp3 or whatever else libsndfile reads, of any width.
        sample_rate_hz: resample to this; None leaves the file's rate.
        mono: mix the channels to one, C = 1, by their mean.

    Full scale is -1..1, which floating-point files may exceed.
    Raises AudioError, naming the file and the reason: missing, not audio, cut short, without
    sound, too long, with NaN or infinity, or of an absurd rate.
    """
    path = Path(path)
    with _open(path) as sound:
        rate_hz = sound.samplerate
        # libsndfile takes several times as long to make the same floats of 16 bits itself.
        dtype, scale = ("int16", 2.0**-15) if sound.subtype == "PCM_16" else ("float32", 1.0)
        blocks = []
        for block in _read_blocks(path, sound, dtype):
            samples = block if scale == 1 else block * np.float32(scale)
            blocks.append(samples.mean(axis=1, keepdims=True) if mono else samples)
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    waveform = torch.from_numpy(np.ascontiguousarray(samples.T))
    if sample_rate_hz is None:
        return waveform, rate_hz
    return resample(waveform, rate_hz, sample_rate_hz), sample_rate_hz


@dataclass(frozen=True)
class Recording:
    """The samples of a file as they are in it: what is not changed is written back bit for bit."""

    samples: np.ndarray
    """(N, C): int32 for integers of any width, in the upper bits; float32 or float64 for floats."""
    sample_rate_hz: int
    subtype: str
    """libsndfile's name of a sample format that keeps all of them."""
    sha256: str
    """Of the file."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz

    def waveform(self) -> Tensor:
        """(C, N) float32, full scale at -1..1."""
        return torch.from_numpy(to_full_scale(self.samples).astype(np.float32).T.copy())

    def quantize(self, waveform: np.ndarray) -> np.ndarray:
        """(N, C) float samples, full scale at -1..1 -> the type and width of `samples`.

        Integers are rounded and clipped; floats may exceed full scale.
        """
        if self.samples.dtype != np.int32:
            return waveform.astype(self.samples.dtype)
        n_bits = INTEGER_BITS[self.subtype]
        full_scale = 2 ** (n_bits - 1)
        rounded = np.clip(np.rint(waveform * full_scale), -full_scale, full_scale - 1)
        return rounded.astype(np.int32) << (32 - n_bits)


INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def to_full_scale(samples: np.ndarray) -> np.ndarray:
    """Samples of a `Recording` -> float64 with full scale at -1..1."""
    return samples / 2.0**31 if samples.dtype == np.int32 else samples.astype(np.float64)


def read_recording(path: str | Path) -> Recording:
    """A file's samples without any loss. Raises AudioError like `read_audio`.

    What a compressed file (mp3, ogg) decodes to has no width of its own and is kept as float.
    """
    path = Path(path)
    with _open(path) as sound:
        if sound.subtype in INTEGER_BITS:
            subtype, dtype = sound.subtype, "int32"
        elif sound.subtype == "DOUBLE":
            subtype, dtype = "DOUBLE", "float64"
        else:
            subtype, dtype = "FLOAT", "float32"
        samples = np.concatenate(list(_read_blocks(path, sound, dtype)))
        rate_hz = sound.samplerate
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return Recording(samples, rate_hz, subtype, digest.hexdigest())


def _read_blocks(path: Path, sound: soundfile.SoundFile, dtype: str) -> Iterator[np.ndarray]:
    """All samples as blocks (n, C), at least one.

    In blocks, because a damaged header may promise more than any memory holds.
    """
    n_read = 0
    while len(block := sound.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)):
        n_read += len(block)
        if n_read * sound.channels > MAX_SAMPLES:
            raise AudioError(f"{path}: too long: more than {MAX_SAMPLES:,} samples in all channels")
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise AudioError(f"{path}: has samples that are not numbers (NaN or infinity)")
        yield block
    # The length in an mp3's header may be off by the encoder's padding, hence the tolerance.
    if n_read < 0.95 * sound.frames:
        raise AudioError(f"{path}: cut short: {n_read:,} of {sound.frames:,} samples can be read")
    if n_read == 0:
        raise AudioError(f"{path}: holds no sound (0 samples)")


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """The record that `write_audio` put into a file; None if it carries none.

    Raises AudioError if the file is not audio.
    """
    path = Path(path)
    with _open(path, check_whole=False) as sound:
        is_wav = sound.format in ("WAV", "WAVEX")
        comment = _read_riff_comment(path) if is_wav else sound.comment
    try:
        record = json.loads(comment)
    except (ValueError, RecursionError):  # some other program's comment
        return None
    return record if isinstance(record, dict) else None


@contextmanager
def _open(path: Path, *, check_whole: bool = True) -> Iterator[soundfile.SoundFile]:
    """The file, opened by libsndfile and of a believable size; its failures are AudioErrors."""
    try:
        with path.open("rb") as file, _sound_file(path, file) as sound:
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
                _check_whole(path, sound.format)
            yield sound
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise MissingAudioError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{path}: damaged or cut short: {_reason(error)}") from error


def _sound_file(path: Path, file: BinaryIO) -> soundfile.SoundFile:
    try:
        # By descriptor: libsndfile reads it without a call into Python for every few bytes.
        return soundfile.SoundFile(file.fileno(), closefd=False)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: is an empty file.") from error
        raise AudioError(
            f"{path}: not audio that can be read (wav, flac, ogg, mp3): {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return text.rstrip(".") or type(error).__name__


def _check_whole(path: Path, format_name: str) -> None:
    """libsndfile reads a wav or ogg that was cut short as if it ended there; that is an error."""
    with path.open("rb") as file:
        if format_name in ("WAV", "WAVEX"):
            for name, n_bytes, n_there in _riff_chunks(file):
                # Programs that write to a pipe cannot know the length and leave it at 0 or -1.
                if name == b"data" and n_there < n_bytes < 0xFFFFFF00:
                    raise AudioError(
                        f"{path}: cut short: {n_there:,} of {n_bytes:,} bytes of sound are there"
                    )
        elif format_name == "OGG" and not _ends_with_whole_ogg_page(file):
            raise AudioError(f"{path}: cut short: the last page of the ogg stream is not whole")


def _riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, size, bytes that are there) of each chunk, with `file` at its content."""
    n_total = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= n_total:
        file.seek(position)
        name, n_bytes = struct.unpack("<4sI", file.read(8))
        yield name, n_bytes, min(n_bytes, n_total - position - 8)
        position += 8 + n_bytes + n_bytes % 2


def _ends_with_whole_ogg_page(file: BinaryIO) -> bool:
    """Whether the last page (RFC 3533, section 6) is whole.

    It should also be marked as the last of its stream, but many files of old encoders are not.
    """
    n_total = file.seek(0, os.SEEK_END)
    file.seek(max(0, n_total - 2**17))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    n_bytes = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) >= n_bytes


# --- changing the rate


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., N) samples at `from_hz` -> (..., ceil(N * to_hz / from_hz)) samples at `to_hz`."""
    if from_hz == to_hz:
        return waveform
    n_samples = -(-waveform.shape[-1] * to_hz // from_hz)
    if n_samples == 0:
        return waveform
    # The filter bank grows with the terms of the ratio. Where they have no common divisor (44101 to
    # 16000) a ratio that is off by less than one in a million stands in for it, unheard.
    ratio = Fraction(from_hz, to_hz).limit_denominator(1000)
    if ratio.numerator == 0:
        raise AudioError(f"cannot resample from {from_hz:,} Hz to {to_hz:,} Hz")
    resampled = torchaudio.functional.resample(waveform, ratio.numerator, ratio.denominator)
    n_missing = max(n_samples - resampled.shape[-1], 0)
    return torch.nn.functional.pad(resampled, (0, n_missing))[..., :n_samples]


# --- writing


def to_pcm16(waveform: Tensor) -> Tensor:
    """Float samples, full scale -1..1 -> int16: x * 32768, truncated and clipped."""
    return (waveform * 32768).clamp(-32768, 32767).to(torch.int16)


def write_audio(
    path: str | Path,
    waveform: Tensor,
    sample_rate_hz: int,
    *,
    subtype: str = "pcm16",
    provenance: dict[str, Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write (C, N) or (N,) samples; the suffix chooses the format: .wav, .flac, .ogg or .mp3.

    Written beside and renamed, so that `path` is whole or as it was before.

    Args:
        subtype: "pcm16"; "pcm24" in wav and flac; "float" in wav. Ogg and mp3 have one form and
            take the default. What exceeds full scale is clipped, except in "float".
        provenance: JSON-serialisable record for `read_provenance`, kept in the file's comment.
        overwrite: whether a file that is there is replaced, or an OutputExistsError raised.

    Raises AudioError where the samples or the format cannot be written, or the disk refuses.
    """
    path = Path(path)
    format_name, codec = format_of(path, subtype)
    waveform = waveform.detach().cpu().float()
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or not 1 <= waveform.shape[0] <= MAX_CHANNELS:
        raise AudioError(
            f"{path}: cannot write samples of shape {tuple(waveform.shape)}; "
            f"it must be (N,) or (C, N) with up to {MAX_CHANNELS} channels"
        )
    if not waveform.isfinite().all():
        raise AudioError(f"{path}: not written: the sound has NaN or infinite samples")

    comment = json.dumps(provenance) if provenance is not None else None
    samples = _quantize(waveform, codec).T.contiguous().numpy()
    content = _encode(path, samples, sample_rate_hz, format_name, codec, comment)
    _write_file(path, content, overwrite)


def write_recording(
    path: str | Path,
    recording: Recording,
    *,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a .wav or .flac with exactly the samples of `recording`; whole, or as it was before.

    Raises AudioError where the format cannot hold them, or the disk refuses; OutputExistsError
    where a file is there that is not to be overwritten.
    """
    path = Path(path)
    format_name, codec = lossless_format_of(path, recording.subtype)
    comment = json.dumps(provenance) if provenance is not None else None
    content = _encode(
        path, recording.samples, recording.sample_rate_hz, format_name, codec, comment
    )
    _write_file(path, content, overwrite)


def lossless_format_of(path: Path, subtype: str) -> tuple[str, str]:
    """libsndfile's format and sample format for a .wav or .flac that holds samples of `subtype`.

    Raises AudioError where there is none.
    """
    format_name = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if format_name is None:
        raise AudioError(
            f"{path}: cannot be written without loss as {path.suffix or 'a file without suffix'};"
            " it can be .wav or .flac"
        )
    # The two have 8 bits with and without sign; libsndfile converts.
    eight_bits = "PCM_U8" if format_name == "WAV" else "PCM_S8"
    codec = eight_bits if INTEGER_BITS.get(subtype) == 8 else subtype
    if not soundfile.check_format(format_name, codec):
        raise AudioError(
            f"{path}: flac cannot hold samples of the kind {subtype} without loss; it can be .wav"
        )
    return format_name, codec


def format_of(path: Path, subtype: str = "pcm16") -> tuple[str, str]:
    """libsndfile's format and sample format for a file to write; AudioError if there is none."""
    if path.suffix.lower() not in FORMATS:
        raise AudioError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; "
            f"it can be {', '.join(FORMATS)}"
        )
    format_name, codecs = FORMATS[path.suffix.lower()]
    if subtype not in codecs:
        raise AudioError(f"{path}: {format_name} has no {subtype!r}; it can be {', '.join(codecs)}")
    return format_name, codecs[subtype]


def _encode(
    path: Path,
    samples: np.ndarray,
    rate_hz: int,
    format_name: str,
    codec: str,
    comment: str | None,
) -> bytes:
    """The whole file, of samples (N, C). In memory: libsndfile does not report a full disk."""
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer, "w", rate_hz, samples.shape[1], codec, format=format_name
        ) as sound:
            if comment is not None and format_name != "WAV":
                sound.comment = comment
            # In blocks: libsndfile's Vorbis encoder overflows its stack on long writes.
            for start in range(0, len(samples), 2**16):
                sound.write(samples[start : start + 2**16])
    except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
        raise AudioError(
            f"{path}: cannot be written as {format_name} with {samples.shape[1]} channels "
            f"at {rate_hz:,} Hz: {_reason(error)}"
        ) from error
    content = buffer.getvalue()
    return (
        content if comment is None or format_name != "WAV" else _with_riff_comment(content, comment)
    )


def _quantize(waveform: Tensor, codec: str) -> Tensor:
    """Samples of a type that libsndfile stores unchanged; encoders get floats in -1..1."""
    match codec:
        case "PCM_16":
            return to_pcm16(waveform)
        case "PCM_24":  # in the upper bytes of 32
            full_scale = 2**23
            return (waveform * full_scale).clamp(-full_scale, full_scale - 1).to(torch.int32) * 256
        case "FLOAT":
            return waveform
        case _:
            return waveform.clamp(-1, 1)


def _with_riff_comment(content: bytes, comment: str) -> bytes:
    """A wav with an INFO comment; libsndfile's own loses what is longer than a few kilobytes."""
    text = comment.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(text)) + text
    content += b"\0" * (len(content) % 2) + struct.pack("<4sI", b"LIST", len(info)) + info
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def _read_riff_comment(path: Path) -> str:
    with path.open("rb") as file:
        for name, _, n_there in _riff_chunks(file):
            if name != b"LIST" or n_there > 2**24 or file.read(4) != b"INFO":
                continue
            info = io.BytesIO(file.read(n_there - 4))
            while len(header := info.read(8)) == 8:
                key, n_bytes = struct.unpack("<4sI", header)
                value = info.read(n_bytes + n_bytes % 2)
                if key == b"ICMT":
                    return value.split(b"\0")[0].decode("utf-8", "replace")
    return ""


def _write_file(path: Path, content: bytes, overwrite: bool) -> None:
    try:
        with atomic_file(path, overwrite=overwrite) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise AudioError(f"{path}: cannot be written: {error.strerror or error}") from error
