"""HTTP transfers from servers that are not trusted: bounded in size and time. No torch.

A server may send more than it announced, compressed or without end, or a byte a second; and a
redirect may lead to a server that the token is not meant for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

N_ATTEMPTS = 3
"""Attempts at a transfer, as long as each makes progress."""
MAX_REDIRECTS = 5
SILENCE_S = 20.0
"""A server that sends nothing for so long is given up."""
SLOW_WINDOW_S = 30.0
MIN_BYTES_PER_WINDOW = 30_000
"""Less than this in `SLOW_WINDOW_S` is given up, too."""

OnBytes = Callable[[int], None]
"""(bytes that arrived since the last call; below zero, where a transfer starts again)"""


class TransferError(Exception):
    """A transfer that failed: by the server's answer, its size, or its slowness."""

    def __init__(self, reason: str, *, status: int | None = None, code: str = "") -> None:
        super().__init__(reason)
        self.status = status
        """The HTTP status, where that is what failed."""
        self.code = code
        """The Hub's name of the problem, such as "RepoNotFound"."""


class OversizeError(TransferError):
    """The server sends more than it may."""


def hub_headers() -> dict[str, str]:
    """The headers of a request to the Hub: this program's name, and the user's token if any.

    huggingface_hub's own headers cost a request of their own, without bounds.
    """
    from huggingface_hub import get_token

    from auffusion_cli import __version__

    token = get_token()
    return {"User-Agent": f"auffusion/{__version__}"} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )


def fetch_bytes(url: str, headers: Mapping[str, str], *, max_bytes: int) -> bytes:
    """The content behind `url`; `headers` may hold a token for its origin."""
    content = bytearray()
    with _get(url, headers) as response:
        for block in _blocks(response):
            content += block
            if len(content) > max_bytes:
                raise OversizeError(f"the answer is larger than {max_bytes:,} bytes")
    return bytes(content)


def resume(
    url: str,
    headers: Mapping[str, str],
    incomplete: Path,
    *,
    max_bytes: int,
    n_bytes: int | None = None,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """Append to `incomplete` what it lacks, and take up again a transfer that broke off.

    Args:
        max_bytes: a server that sends more is an `OversizeError`, and `incomplete` is deleted.
        n_bytes: the size that the file must have at the end, where it is known.
    """
    incomplete.touch()
    if incomplete.stat().st_size > max_bytes:
        incomplete.write_bytes(b"")
    on_bytes(incomplete.stat().st_size)
    for n_attempts_left in reversed(range(N_ATTEMPTS)):
        n_before = incomplete.stat().st_size
        if n_before == n_bytes:
            return
        try:
            with incomplete.open("r+b") as file:
                _append(url, headers, file, max_bytes, on_bytes)
            if n_bytes is None or incomplete.stat().st_size == n_bytes:
                return
            raise TransferError("the transfer ended early")
        except OversizeError:
            incomplete.unlink()
            raise
        except Exception as error:  # the HTTP library depends on huggingface_hub's version
            if getattr(error, "status", None) == 416:  # nothing is left to send
                return
            if incomplete.stat().st_size <= n_before or not n_attempts_left:
                raise
            time.sleep(1)


def _append(
    url: str, headers: Mapping[str, str], file: BinaryIO, max_bytes: int, on_bytes: OnBytes
) -> None:
    start = file.seek(0, os.SEEK_END)
    ranged = {"Range": f"bytes={start}-"} if start else {}
    with _get(url, {**headers, **ranged}) as response:
        if start and not _continues(response, start):
            file.truncate(0)
            file.seek(0)
            on_bytes(-start)
        for block in _blocks(response):
            if file.tell() + len(block) > max_bytes:
                raise OversizeError(f"the server sends more than {max_bytes:,} bytes")
            file.write(block)
            on_bytes(len(block))


def _continues(response: Any, start: int) -> bool:
    """True if the answer is the rest of the file from `start`, and not the file anew."""
    if response.status_code != 206:
        return False
    content_range = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    if content_range is None or int(content_range[1]) != start:
        raise TransferError("the server sends another part of the file than was asked for")
    return True


@contextmanager
def _get(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """The answer to a GET, after redirects; a token in `headers` goes to the origin of `url` only.

    Raises:
        TransferError: the server refuses, or redirects without end or to something else than HTTP.
    """
    from huggingface_hub.utils import get_session

    origin = _origin(url)
    for _ in range(MAX_REDIRECTS + 1):
        sent = {"Accept-Encoding": "identity", **headers}
        if _origin(url) != origin:
            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        with get_session().stream(
            "GET", url, headers=sent, timeout=SILENCE_S, follow_redirects=False
        ) as response:
            location = response.headers.get("Location")
            if 300 <= response.status_code < 400 and location:
                url = urljoin(url, location)
                if urlsplit(url).scheme not in ("http", "https"):
                    raise TransferError("the server redirects to something else than HTTP")
                continue
            if not 200 <= response.status_code < 300:
                code = response.headers.get("X-Error-Code", "")
                raise TransferError(
                    f"the server answered {response.status_code}",
                    status=response.status_code,
                    code=code if re.fullmatch(r"\w{1,40}", code) else "",
                )
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise TransferError("the server sends a compressed file that was not asked for")
            yield response
            return
    raise TransferError("the server redirects too often")


def _blocks(response: Any) -> Iterator[bytes]:
    """The body in the blocks in which it arrives, as long as it arrives fast enough."""
    since, n_bytes = time.monotonic(), 0
    for block in response.iter_raw():
        yield block
        n_bytes += len(block)
        if (now := time.monotonic()) - since > SLOW_WINDOW_S:
            if n_bytes < MIN_BYTES_PER_WINDOW:
                raise TransferError(
                    f"the server is too slow: {n_bytes:,} bytes in {now - since:.0f} s"
                )
            since, n_bytes = now, 0


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
