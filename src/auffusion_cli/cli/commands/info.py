"""`auffusion info`: the record that a sound file carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.rows import in_words
from auffusion_cli.errors import AuffusionError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.provenance import Provenance

NOT_SHOWN = ("format_version", "versions")
"""Fields that are no rows of the table."""


def register(app: typer.Typer) -> None:
    app.command()(info)


def info(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Sounds made by auffusion.")
    ],
    json: options.Json = False,
) -> None:
    """Show the prompt, seed, model and settings that sound files carry.

    Of a sound by the embedded model also the kinds of sound that its prompt means, and the licences
    of the recordings that the model learned them from.

    A file that cannot be read or was cut short does not stop the others; the exit code is that of
    the first.

    \b
    Examples:
      auffusion info rain.wav
      auffusion info sounds/*.wav --json
    """
    from auffusion_cli.signal.sound_file import check_end

    exit_code = 0
    for number, path in enumerate(paths):
        try:
            recorded = _read(path)
        except AuffusionError as error:
            if len(paths) == 1:
                raise
            console.error(error.message, hint=error.hint)
            exit_code = exit_code or error.exit_code
            continue
        try:
            check_end(path)
        except AuffusionError as error:  # the record is there all the same
            console.error(error.message)
            exit_code = exit_code or error.exit_code
        if json:
            console.print_json({"file": str(path), **_described(recorded)})
            continue
        if number:
            console.print_line()
        rows = in_words(_rows(_described(recorded)))
        header = ("FIELD", "VALUE") if len(paths) == 1 else ("FILE", str(path))
        console.print_table(header, rows)
    if exit_code:
        raise typer.Exit(exit_code)


def _read(path: Path) -> Provenance:
    """The record of a sound file. Raises AuffusionError."""
    from auffusion_cli.signal.sound_file import read_record

    if path.is_dir():
        raise UsageError(
            f"{path}: is a folder, not a sound",
            hint=f"Of a checkpoint `auffusion models info {path}` tells.",
        )
    return read_record(path)


def _described(recorded: Provenance) -> dict[str, Any]:
    record = recorded.to_dict() | _learned_from(recorded)
    if recorded.request.task == "edit":
        return {"edited_prompt": recorded.request.word_edit.prompt, **record}
    return record


def _learned_from(recorded: Provenance) -> dict[str, Any]:
    """Kinds and licences behind a sound, where its model is known to list them."""
    from auffusion_cli.checkpoints.kinds import kinds_of_prompt, licence_summary, read_kinds
    from auffusion_cli.checkpoints.names import embedded_folder

    if recorded.model != "embedded" or (kinds := read_kinds(embedded_folder())) is None:
        return {}
    request = recorded.request
    words = [request.prompt, getattr(request, "timeline", "")]
    if request.task == "edit":
        words.append(request.word_edit.prompt)
    if not any(words):
        return {}
    meant = kinds_of_prompt(kinds, "\n".join(words))
    return {"kinds": [kind.name for kind in meant], **(licence_summary(meant) if meant else {})}


def _rows(record: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in record.items() if name not in NOT_SHOWN}
    for name in {"licences", "share_alike"} & fields.keys():
        fields[name] = [f"{n} {licence}" for licence, n in fields[name].items()]
    return fields | {f"{name} version": version for name, version in record["versions"].items()}
