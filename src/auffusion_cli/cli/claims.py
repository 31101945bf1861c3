"""Claims of runs that share a list: a sound that one of them is making is left to it.

A claim is a hidden file beside the sound, which names its process and is locked (flock) as long as
that lives. What holds where:

- Processes of one machine: the lock decides. It ends with its process, however that ends.
- Several machines on a network folder whose locks are shared (NFS, and Lustre or CephFS mounted
  so): the lock decides, too; in addition a claim of another machine counts for half an hour after
  its last sign of life, because locks may be known to one machine alone without an error.
- Without any locks: the first to create the file has it, until half an hour after its last sign of
  life. Two that take over the same dead claim in the same moment may both make the sound.

No case can damage a sound: each is written beside its name, and the first to finish gives it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from auffusion_cli.files import folder_of

STALE_S = 1800.0
"""A claim that no lock decides about is dead after this time without a sign of life."""
SIGN_OF_LIFE_S = 30.0
MAX_OWNER_BYTES = 200
_CLAIM = re.compile(r"\.[0-9a-f]{16}\.claim")


class Claims:
    """The claims of this process; they end with the block, and with the process at the latest."""

    def __init__(self) -> None:
        self._owner = f"{_machine()} {os.getpid()}\n".encode()
        self._held: dict[Path, int] = {}
        self._folders = ExitStack()
        self._last_sign_s = time.monotonic()

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path in list(self._held):
            self.release(path)
        self._folders.close()

    def take(self, path: Path) -> bool:
        """Claim the result `path`; False where a living process has it.

        Its folder is made, and removed at the end of the block if it is empty.
        """
        claim = _claim_of(path)
        if not path.parent.exists():
            self._folders.enter_context(folder_of(path))
        while (handle := self._open(claim)) is not None:
            if _is_named(handle, claim):
                self._held[path] = handle
                return True
            os.close(handle)  # it ended, and was deleted, between opening and locking
        return False

    def release(self, path: Path) -> None:
        """End the claim of `path`, if this process has it."""
        if (handle := self._held.pop(path, None)) is not None:
            _delete(_claim_of(path), handle)

    def show_life(self) -> None:
        """Let other machines know that the claims are alive; to be called again and again."""
        now_s = time.monotonic()
        if now_s - self._last_sign_s < SIGN_OF_LIFE_S:
            return
        self._last_sign_s = now_s
        for handle in self._held.values():
            with suppress(OSError):
                os.utime(handle)

    def clear_dead(self, folder: Path) -> None:
        """Delete the claims that killed processes left in `folder`."""
        with suppress(OSError):
            for claim in [path for path in folder.iterdir() if _CLAIM.fullmatch(path.name)]:
                if (handle := self._open(claim)) is not None:
                    _delete(claim, handle)

    def _open(self, claim: Path) -> int | None:
        """A handle of the claim, which is then this process's; None where another one has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        claim.parent.mkdir(parents=True, exist_ok=True)  # another run may have removed it, empty
        try:
            handle, is_new = os.open(claim, flags | os.O_EXCL, 0o666), True
        except FileExistsError:
            handle, is_new = os.open(claim, flags, 0o666), False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:  # a file system without locks
            is_locked = False
        owner = os.pread(handle, MAX_OWNER_BYTES, 0)
        lock_decides = is_locked and owner.split()[:1] in ([], self._owner.split()[:1])
        is_fresh = time.time() - os.fstat(handle).st_mtime < STALE_S
        if not is_new and not lock_decides and is_fresh:
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, self._owner, 0)
        return handle


def _machine() -> str:
    """A name of this machine since it was started, the same in all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return platform.node() or "unknown"


def _claim_of(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".{digest[:16]}.claim")


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _delete(claim: Path, handle: int) -> None:
    """Delete a claim that `handle` holds, unless another process took it over as dead."""
    with suppress(OSError):
        if _is_named(handle, claim):
            claim.unlink()
    os.close(handle)
