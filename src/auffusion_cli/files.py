"""Files on the disk: names, atomic writing, bounded reading, checksums. Nothing here imports torch.

A result is written beside its name, brought onto the disk (fsync), and renamed: a reader, and
whoever comes after a crash, sees the old result or the new one, never a part. The unfinished file
is locked (flock) while its program lives, so that another run can tell leftovers of a killed
program from files that are being written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from auffusion_cli.errors import OutputExistsError, UsageError

BLOCK_BYTES = 2**20
MAX_SLUG_CHARACTERS = 60
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_REPLACED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.old", re.DOTALL)

# --- Names


def slug(text: str) -> str:
    """`text` as part of a file name: words joined by hyphens, nothing that leads elsewhere."""
    words = re.findall(r"[\w.]+", unicodedata.normalize("NFKC", text).lower())
    joined = "-".join(word.strip("._") for word in words if word.strip("._"))
    cut = joined[:MAX_SLUG_CHARACTERS]
    while len(cut.encode()) > 2 * MAX_SLUG_CHARACTERS:  # file systems count bytes
        cut = cut[:-1]
    return cut.strip("-.") or "sound"


# --- Writing


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = True, durable: bool = True) -> Iterator[Path]:
    """An empty file beside `path` to write to, which becomes `path` if the block succeeds.

    An OSError names `path`.

    Args:
        overwrite: without it, a `path` that exists at the end is an error, whoever made it.
        durable: bring the content onto the disk before the rename. Without it a power failure may
            leave an empty file, as is acceptable for what is checked and can be computed again.

    Raises:
        OutputExistsError: `path` exists, and `overwrite` is false.
    """
    with naming(path):
        beside = _beside(path)
        lock = _locked_file(beside)
        try:
            yield beside
            _let_read(beside, os.fstat(lock).st_mode)
            if durable:
                _sync(beside)
            if overwrite:
                os.replace(beside, path)
            else:
                _rename_to_free(beside, path)
            if durable:
                _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """An empty folder beside `path` to fill, which becomes `path` if the block succeeds.

    Leftovers of killed programs beside it are deleted first.

    Raises:
        OutputExistsError: `path` exists, and `overwrite` is false.
    """
    with naming(path):
        clear_unfinished(path.parent)
        beside = _beside(path)
        beside.mkdir()
        lock = _lock(beside)  # None: a file system without locks
        try:
            yield beside
            mode = beside.stat().st_mode
            for parent, _, names in os.walk(beside):
                for name in names:
                    _let_read(Path(parent, name), mode)
                for name in (*names, "."):
                    _sync(Path(parent, name))
            _rename_folder(beside, path, overwrite)
            _sync(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def replace_folder(new: Path, path: Path) -> None:
    """Give the finished folder `new` the name `path`, in place of a folder that has it."""
    with naming(path):
        _rename_folder(new, path, overwrite=True)


def delete_folder(path: Path) -> None:
    """Delete a folder that nobody may see in part, if there is one."""
    doomed = _beside(path)
    with suppress(FileNotFoundError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically in UTF-8, making the folder of `path` where there is none.

    Bytes of file names that are not UTF-8 (surrogates, in Python) are escaped as JSON does it.
    """
    with folder_of(path), atomic_file(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_line(path: Path, line: str) -> None:
    """Append `line` to a file of lines in UTF-8 to which other processes may append, too.

    The file is locked meanwhile. A part of a line at its end, which a killed process left, is cut
    off.
    """
    with naming(path), os.fdopen(_open_locked(path), "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
        file.seek(end)
        file.write(f"{line}\n".encode())


def _open_locked(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def is_unfinished(path: Path) -> bool:
    """Whether `path` has a name under which `atomic_file` and `atomic_folder` write."""
    return _UNFINISHED.fullmatch(path.name) is not None


def clear_unfinished(folder: Path) -> None:
    """Delete what killed programs left in `folder`; what a living one writes stays.

    A folder that was about to be replaced when its program was killed gets its name back.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        replaced = _REPLACED.fullmatch(path.name) if path.is_dir() else None
        if not (replaced or is_unfinished(path)) or (lock := _lock(path)) is None:
            continue
        try:
            if replaced:
                with suppress(OSError):  # there is one of that name again
                    path.rename(path.with_name(replaced[1]))
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)


@contextmanager
def exclusive_use(folder: Path) -> Iterator[None]:
    """`folder`, which exists, held against other runs until the block or the program ends.

    Raises:
        UsageError: another run holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder} is in use by another run", hint="Wait for it, or name another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """The folder of `path`, made for the block; folders it made and left empty are removed.

    So that a command that fails or is stopped before it writes leaves nothing behind.
    """
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except FileNotFoundError:  # it could not be made
                continue
            except OSError:  # not empty
                break


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block whose OSErrors name `path`, not the file beside that is written first."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.part")


def _locked_file(path: Path) -> int:
    """A new file, open and locked as long as its program lives."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the two calls another run may have taken it for a leftover.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that locks `path`; None where a living program holds it, or there are no locks."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _let_read(path: Path, mode: int) -> None:
    """Give a new file the read and write permissions of `mode`, which the user's umask made.

    Some libraries (safetensors) write files of their own that only the user may read.
    """
    own = path.lstat().st_mode
    if stat.S_ISREG(own) and own | mode & 0o666 != own:
        path.chmod(stat.S_IMODE(own | mode & 0o666))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has none
            raise
    finally:
        os.close(handle)


def _rename_to_free(beside: Path, path: Path) -> None:
    """Unlike `os.replace`, which never fails for what is there, and unlike a look beforehand."""
    try:
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: take the name first, empty
            path.open("xb").close()
            try:
                os.replace(beside, path)
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        raise _exists(path) from None


def _rename_folder(beside: Path, path: Path, overwrite: bool) -> None:
    """Give `beside` the name of `path`; a folder that has it keeps it until that succeeds."""
    if not path.exists():
        beside.rename(path)
        return
    if not overwrite:
        raise _exists(path)
    old = path.with_name(f".{path.name}.{secrets.token_hex(8)}.old")
    lock = _lock(path)
    try:
        path.rename(old)
        try:
            beside.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{path} exists", hint="Give another name, or --overwrite to replace it."
    )


# --- Reading


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    A pipe or a device, which could block or never end, is an OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
            raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`; a larger one is an OSError."""
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(path))
    return content


def hash_file(path: Path, digest: hashlib._Hash | None = None) -> str:
    """The checksum of a regular file's content in hexadecimal: SHA-256, or as `digest` goes on."""
    digest = digest or hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
