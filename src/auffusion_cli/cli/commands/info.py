"""`auffusion info`: the record that a sound file carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from auffusion_cli.cli import console, options


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
    from auffusion_cli.cli.recorded import read_record

    recorded = read_record(path)
    record = recorded.to_dict()
    if recorded.request.task == "edit":
        record = {"edited_prompt": recorded.request.word_edit.prompt, **record}
    if json:
        console.print_json({"file": str(path), **record})
    else:
        console.print_table(("FIELD", "VALUE"), _rows(record))


def _rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    versions = record.pop("versions")
    fields = {name: value for name, value in record.items() if name != "format_version"}
    versions = {f"{name} version": version for name, version in versions.items()}
    return console.fields(fields | versions)
