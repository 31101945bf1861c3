"""Results on the disk: files that are whole or not there, folders that hold something."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auffusion_cli.errors import OutputExistsError


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end becomes `path`.

    So that a reader sees the old file or the new one, never a part. An OSError names `path`.

    Raises:
        OutputExistsError: without `overwrite`, `path` is there by then, whoever wrote it since
            somebody looked.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    with naming(path):
        try:
            yield beside
            if overwrite:
                os.replace(beside, path)
            else:
                _rename_to_free(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether `path` is what `whole_file` leaves where its program is killed."""
    return re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name) is not None


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
        raise OutputExistsError(
            f"{path} exists.", hint="Give another name, or --overwrite to replace it."
        ) from None


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
