"""Read sound files out of Debian packages and out of the containers games keep them in.

A package is streamed with ``dpkg-deb --fsys-tarfile``, so nothing but its sounds and its copyright
file ever touches the disk: the packages of this recipe hold several gigabytes of pictures too.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SOUND_SUFFIXES = frozenset({".ogg", ".oga", ".wav", ".flac", ".mp3", ".opus", ".au", ".aiff"})
ZIP_SUFFIXES = frozenset({".zip", ".pk3", ".wz"})

Member = tuple[str, bytes]


def is_sound(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES


def zip_sounds(data: bytes) -> Iterator[Member]:
    """Sounds of a zip archive, under whatever suffix a game hides it (.pk3, .wz)."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if is_sound(info.filename):
                yield info.filename, archive.read(info)


def openttd_sounds(data: bytes) -> Iterator[Member]:
    """Sounds of an OpenTTD ``.cat``: (offset, size) pairs, then length-prefixed name and RIFF."""
    first = struct.unpack_from("<I", data)[0] & 0x7FFFFFFF
    for index in range(first // 8):
        offset, size = struct.unpack_from("<II", data, index * 8)
        offset &= 0x7FFFFFFF
        name_length = data[offset]
        name = data[offset + 1 : offset + 1 + name_length].split(b"\0")[0].decode("latin-1")
        start = offset + 1 + name_length
        if data[start : start + 4] == b"RIFF" and size > 44:
            safe = "".join(c if c.isalnum() else "_" for c in name).strip("_")
            yield f"{index:02d}_{safe[:80]}.wav", data[start : start + size]


def qt_sounds(data: bytes) -> Iterator[Member]:
    """Sounds of a binary Qt resource file (.rcc), walked through its tree of names."""
    if data[:4] != b"qres":
        return
    version, tree, payload, names = struct.unpack_from(">4I", data, 4)
    node_size = 22 if version >= 2 else 14  # version 2 added a modification time

    def walk(node: int, prefix: str) -> Iterator[Member]:
        at = tree + node * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        name = ""
        if node:  # the root has no name
            length = struct.unpack_from(">H", data, names + name_offset)[0]
            start = names + name_offset + 6  # past the length and a hash
            name = data[start : start + 2 * length].decode("utf-16-be")
        path = f"{prefix}/{name}" if prefix else name
        if flags & 2:
            count, child = struct.unpack_from(">II", data, at + 6)
            for i in range(child, child + count):
                yield from walk(i, path)
        elif is_sound(name) and not flags & 4:  # 4: zstd, which sounds never gain from
            start = payload + struct.unpack_from(">I", data, at + 10)[0]
            size = struct.unpack_from(">I", data, start)[0]
            body = data[start + 4 : start + 4 + size]
            yield path, zlib.decompress(body[4:]) if flags & 1 else body

    yield from walk(0, "")


def sounds_in(name: str, data: bytes) -> Iterator[Member]:
    """The sounds that file ``name`` holds: itself, or what is packed in it."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SOUND_SUFFIXES:
        yield name, data
        return
    if suffix in ZIP_SUFFIXES and data[:2] == b"PK":
        inner = zip_sounds(data)
    elif suffix == ".cat" and len(data) > 8:
        inner = openttd_sounds(data)
    elif suffix == ".rcc":
        inner = qt_sounds(data)
    else:
        return
    for member, body in inner:
        yield f"{name}/{member}", body


def package_files(deb: Path) -> Iterator[Member]:
    """Sounds (and the copyright files) of a Debian package, as (path, bytes)."""
    wanted = SOUND_SUFFIXES | ZIP_SUFFIXES | {".cat", ".rcc"}
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        for member in tar:
            path = member.name.removeprefix("./")
            copyright_file = path.startswith("usr/share/doc/") and path.endswith("/copyright")
            suffix = PurePosixPath(path).suffix.lower()
            if not member.isfile() or not (copyright_file or suffix in wanted):
                continue
            stream = tar.extractfile(member)
            data = stream.read() if stream else b""
            if copyright_file:
                yield "copyright", data
            else:
                yield from sounds_in(path.removeprefix("usr/share/"), data)
    if process.returncode:
        raise RuntimeError(f"dpkg-deb could not read {deb}: remove it and start again")


def wheel_files(wheel: Path) -> Iterator[Member]:
    """Sounds of a Python wheel, and its own list of credits as the copyright file."""
    data = wheel.read_bytes()
    yield from zip_sounds(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith("/CREDITS.md"):
                yield "copyright", archive.read(name)


def unpack(file: Path, folder: Path) -> None:
    """Put the sounds of a .deb or .whl in ``folder``; a folder that exists is a finished one."""
    if folder.exists():
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path, data in wheel_files(file) if file.suffix == ".whl" else package_files(file):
        target = part / path
        if ".." in PurePosixPath(path).parts or target.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    part.rename(folder)
