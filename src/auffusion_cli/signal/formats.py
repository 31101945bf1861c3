"""Sound file formats: which are read, which are written, and what a foreign file is. No torch."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterable
from pathlib import Path

from auffusion_cli.errors import AudioError

WRITTEN = {
    ".wav": ("WAV", {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"}),
    ".flac": ("FLAC", {"pcm16": "PCM_16", "pcm24": "PCM_24"}),
    ".ogg": ("OGG", {"pcm16": "VORBIS"}),
    ".mp3": ("MP3", {"pcm16": "MPEG_LAYER_III"}),
}
"""suffix -> (libsndfile's format, {what `write_audio` calls the sample format: libsndfile's name});
ogg and mp3 have no sample width, the default stands for their only form."""
LOSSY_SUFFIXES = (".ogg", ".mp3")
"""Of `WRITTEN`: what is read back differs from the samples that were written."""
AUDIO_SUFFIXES = (
    *WRITTEN,
    *(".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".oga", ".opus"),
)
"""Files that `read_audio` reads have these names; what counts when one is opened is its content."""
FOREIGN_SUFFIXES = (
    *(".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".amr", ".wv", ".ape", ".tta"),
    *(".dsf", ".avi"),
)
"""Files of these names hold sound, too, but none that is read."""
SOUND_SUFFIXES = (*AUDIO_SUFFIXES, *FOREIGN_SUFFIXES)
INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""libsndfile's sample format -> its width, of those that are integers."""

MAGIC = (
    (4, b"ftyp", "MPEG-4 (AAC or ALAC)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x30\x26\xb2\x75", "Windows Media"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"DSD ", "DSD"),
    (8, b"AVI ", "AVI"),
)
"""(offset, bytes there, format): sound that libsndfile does not read, but ffmpeg does."""
WAVE_CODECS = {
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0160: "Windows Media",
    0x0161: "Windows Media",
    0x1610: "AAC",
    0x2000: "AC-3",
    0x706D: "AAC",
}
"""Format tag of a wav -> what it holds (RFC 2361), of those that libsndfile does not read."""


def sounds_among(names: Iterable[str]) -> list[str]:
    """Those of the names in a folder that are of sounds, sorted.

    What cannot be read is among them, to be told of, where no sound that can has its stem.
    """
    suffixes = {name: Path(name).suffix.lower() for name in names}
    stems = {Path(name).stem for name, suffix in suffixes.items() if suffix in AUDIO_SUFFIXES}
    return sorted(
        name
        for name, suffix in suffixes.items()
        if suffix in AUDIO_SUFFIXES or (suffix in FOREIGN_SUFFIXES and Path(name).stem not in stems)
    )


def format_of(path: Path, subtype: str = "pcm16") -> tuple[str, str]:
    """libsndfile's format and sample format for a file to write; AudioError if there is none."""
    if path.suffix.lower() not in WRITTEN:
        raise AudioError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; "
            f"it can be {', '.join(WRITTEN)}"
        )
    format_name, codecs = WRITTEN[path.suffix.lower()]
    if subtype not in codecs:
        raise AudioError(f"{path}: {format_name} has no {subtype!r}; it can be {', '.join(codecs)}")
    return format_name, codecs[subtype]


def lossless_format_of(path: Path, subtype: str) -> tuple[str, str]:
    """libsndfile's format and sample format for a .wav or .flac that holds samples of `subtype`.

    Raises AudioError where there is none.
    """
    import soundfile

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


def check_known(path: Path, head: bytes) -> None:
    """Raise an AudioError that names the format of a file that begins with `head`, if it is known.

    For files that libsndfile does not read; the hint is the line that converts them.
    """
    name = next((name for at, magic, name in MAGIC if head[at:].startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        name = WAVE_CODECS.get(struct.unpack_from("<H", head.ljust(22, b"\0"), 20)[0])
    if name is not None:
        converted = path.with_name(f"{path.stem}-converted.flac").name
        line = f"ffmpeg -i {shlex.quote(path.name)} {shlex.quote(converted)}"
        raise AudioError(
            f"{path}: holds {name}, which cannot be read", hint=f"Convert it first: {line}"
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise AudioError(f"{path}: is a web page, not a sound")
