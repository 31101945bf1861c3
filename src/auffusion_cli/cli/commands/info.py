"""`auffusion info`: what a sound file says about how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import AudioError

if TYPE_CHECKING:
    from auffusion_cli.requests.provenance import Provenance


def register(app: typer.Typer) -> None:
    app.command()(info)


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A sound made by auffusion.")],
    json: options.Json = False,
) -> None:
    """Show the prompt, seed, model and settings that a sound file carries.

    \b
    Examples:
      auffusion info rain.wav
      auffusion info rain.mp3 --json
    """
    recorded = read_record(path)
    record = recorded.to_dict()
    if recorded.request.task == "edit":
        record = {"edited_prompt": recorded.request.word_edit.prompt, **record}
    if json:
        console.print_json({"file": str(path), **record})
    else:
        console.print_table(("FIELD", "VALUE"), _rows(record))


def read_record(path: Path) -> Provenance:
    """The checked record of a sound file.

    Raises:
        AudioError: the file cannot be read, or carries no record that can be used.
    """
    from auffusion_cli.requests.provenance import Provenance
    from auffusion_cli.signal.sound_file import read_provenance

    record = read_provenance(path)
    if record is None:
        raise AudioError(
            f"{path}: does not say how it was made.",
            hint="Only files written by auffusion do, until another program rewrites them.",
        )
    return Provenance.from_dict(record, str(path))


def _rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    versions = record.pop("versions")
    fields = {name: value for name, value in record.items() if name != "format_version"}
    return console.fields(fields | {f"{name} version": told for name, told in versions.items()})
