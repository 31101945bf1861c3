"""SHA256SUMS of a folder, by which `auffusion doctor` sees that the files are whole."""

from __future__ import annotations

from pathlib import Path

from auffusion_cli.files import hash_file

NAME = "SHA256SUMS"
NOT_LISTED = (NAME, "README.md")
"""The model card is edited by hand."""


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file in `folder`, anew."""
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in NOT_LISTED
    ]
    lines = [f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")
