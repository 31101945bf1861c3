"""Folders of networks that a run starts from or builds on."""

from __future__ import annotations

import re
from pathlib import Path

from auffusion_cli.errors import UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def existing_folder(folder: str, key: str) -> Path:
    """`folder`, which the setting `key` names.

    Raises:
        UsageError: there is no such folder.
    """
    path = Path(folder)
    if path.is_dir():
        return path
    hint = None
    if HUB_ID.fullmatch(folder):
        hint = (
            f"{folder} may be an id of the Hugging Face Hub: download it "
            f"(hf download {folder} --local-dir FOLDER), and name the folder."
        )
    raise UsageError(f"{key}: {folder} is not a folder", hint=hint)


def part_folder(folder: str, key: str, part: str) -> Path:
    """`folder/part` of a checkpoint or run; `folder` itself where it is that part.

    Raises:
        UsageError: there is no such folder.
    """
    path = existing_folder(folder, key)
    return path / part if (path / part).is_dir() else path
