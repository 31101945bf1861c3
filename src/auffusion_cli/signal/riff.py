"""Chunks of RIFF and its relatives: is a file whole, its comment, which channel goes where.

libsndfile reads a file that was cut short as if it ended there, keeps only short comments and hides
the channel mask, so the chunks are read here: RIFF and RIFX (wav), RF64 (wav beyond 4 GiB, EBU Tech
3306), FORM (aiff), caff (Core Audio) and riff (Sony Wave64).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

EXTENSIBLE = 0xFFFE
"""Format tag of WAVE_FORMAT_EXTENSIBLE, whose channel mask says which channel goes where."""
MASK_OFFSET = 20
"""Of the channel mask in a fmt chunk of that format, in bytes."""
MAX_COMMENT_BYTES = 2**24


@dataclass(frozen=True)
class _Layout:
    header: str
    """Of a chunk, for `struct`: its name and size."""
    first: int
    """Where the first chunk begins, in bytes."""
    alignment: int = 2
    size_has_header: bool = False


_LAYOUTS = {
    b"RIFF": _Layout("<4sI", 12),
    b"RIFX": _Layout(">4sI", 12),
    b"RF64": _Layout("<4sI", 12),
    b"FORM": _Layout(">4sI", 12),
    b"caff": _Layout(">4sq", 8, alignment=1),
    b"riff": _Layout("<16sQ", 40, alignment=8, size_has_header=True),
}


@dataclass(frozen=True)
class Chunk:
    """One chunk of a file."""

    name: bytes
    """The first four bytes."""
    n_bytes: int
    """Of its content, as its header says."""
    start: int
    """Where its content begins, in bytes from the file's start."""
    n_there: int
    """Bytes of the content that the file has."""


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of `file`; none where it is of no known layout."""
    n_total = file.seek(0, os.SEEK_END)
    file.seek(0)
    layout = _LAYOUTS.get(file.read(4))
    if layout is None:
        return
    n_header, position = struct.calcsize(layout.header), layout.first
    n_data: int | None = None
    while position + n_header <= n_total:
        file.seek(position)
        name, n_bytes = struct.unpack(layout.header, file.read(n_header))
        start = position + n_header
        n_bytes -= n_header if layout.size_has_header else 0
        if name == b"ds64":  # RF64: the size of the data chunk, which its own header cannot hold
            n_data = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        elif name == b"data" and n_data is not None and n_bytes == 0xFFFFFFFF:
            n_bytes = n_data
        if n_bytes < 0:
            return
        yield Chunk(name[:4], n_bytes, start, min(n_bytes, n_total - start))
        position = start + n_bytes + -n_bytes % layout.alignment


def missing_bytes(file: BinaryIO) -> tuple[int, int] | None:
    """(bytes there, bytes announced) of the sound in `file`, where it was cut short."""
    for chunk in (*_sound_of_au(file), *chunks(file)):
        is_sound = chunk.name in (b"data", b"SSND")
        if is_sound and chunk.n_there < chunk.n_bytes and not _is_placeholder(chunk.n_bytes):
            return chunk.n_there, chunk.n_bytes
    return None


def _sound_of_au(file: BinaryIO) -> Iterator[Chunk]:
    """All that follows the header of an au file (Sun), as its only chunk."""
    n_total = file.seek(0, os.SEEK_END)
    file.seek(0)
    name, start, n_bytes = struct.unpack(">4sII", file.read(12).ljust(12, b"\0"))
    if name == b".snd":
        yield Chunk(b"data", n_bytes, start, min(n_bytes, n_total - start))


def _is_placeholder(n_bytes: int) -> bool:
    """Whether a size was written by a program that writes to a pipe and cannot know it.

    SoX leaves 0x7FFFF000, others the largest number.
    """
    return 0x7FFFF000 <= n_bytes <= 0x7FFFFFFF or 0xFFFFFF00 <= n_bytes <= 0xFFFFFFFF


def channel_mask(file: BinaryIO) -> int | None:
    """The mask of a WAVE_FORMAT_EXTENSIBLE file, one bit a loudspeaker; None for any other."""
    file.seek(0)
    if file.read(4) not in (b"RIFF", b"RF64"):
        return None
    for chunk in chunks(file):
        if chunk.name == b"fmt " and chunk.n_there >= MASK_OFFSET + 4:
            file.seek(chunk.start)
            content = file.read(MASK_OFFSET + 4)
            if struct.unpack_from("<H", content)[0] == EXTENSIBLE:
                return struct.unpack_from("<I", content, MASK_OFFSET)[0]
    return None


def with_channel_mask(content: bytes, mask: int) -> bytes:
    """A WAVE_FORMAT_EXTENSIBLE file with another mask."""
    fmt = next(chunk for chunk in chunks(io.BytesIO(content)) if chunk.name == b"fmt ")
    at = fmt.start + MASK_OFFSET
    return content[:at] + struct.pack("<I", mask) + content[at + 4 :]


def with_comment(content: bytes, comment: str) -> bytes:
    """A wav with an INFO comment; libsndfile's own loses what is longer than a few kilobytes."""
    text = comment.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(text)) + text
    content += b"\0" * (len(content) % 2) + struct.pack("<4sI", b"LIST", len(info)) + info
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def with_chunk(content: bytes, name: bytes, body: bytes) -> bytes:
    """A wav with another chunk before all others, where the broadcast fields are looked for."""
    chunk = struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)
    content = content[:12] + chunk + content[12:]
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def read_comment(file: BinaryIO) -> str:
    """The INFO comment of a wav; "" if it has none."""
    for chunk in chunks(file):
        if chunk.name != b"LIST" or chunk.n_there > MAX_COMMENT_BYTES:
            continue
        file.seek(chunk.start)
        if file.read(4) != b"INFO":
            continue
        info = io.BytesIO(file.read(chunk.n_there - 4))
        while len(header := info.read(8)) == 8:
            key, n_bytes = struct.unpack("<4sI", header)
            value = info.read(n_bytes + n_bytes % 2)
            if key == b"ICMT":
                return value.split(b"\0")[0].decode("utf-8", "replace")
    return ""
