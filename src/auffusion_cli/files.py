"""Results on the disk: folders with something in them, errors that name the result."""

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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it an OSError names `path`, and not the file beside that is written first."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
