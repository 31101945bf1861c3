"""Folders of results: there when there is something in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """Within it the folder of `path` is there; what was made for it and is empty at the end goes.

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
