"""`auffusion models kinds`: what a model was trained on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options, resolve

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.kinds import Kind
    from auffusion_cli.checkpoints.names import Checkpoint


def kinds(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD...", help="Only kinds with these words.")
    ] = None,
    model: options.Model = "embedded",
    json: options.Json = False,
) -> None:
    """Search the kinds of sound that a model was trained on, and the licences of their recordings.

    The last column is a prompt for each. Share-alike terms, such as those of CC-BY-SA and the GPL,
    ask for the same licence on what is made of a recording.

    \b
    Examples:
      auffusion models kinds
      auffusion models kinds dog
      auffusion models kinds rain --json
    """
    from auffusion_cli.checkpoints.kinds import search_kinds
    from auffusion_cli.errors import UsageError

    checkpoint = resolve.find(model)
    if checkpoint is None:
        raise UsageError(
            f"--model {model} is not on this machine",
            hint=f"`auffusion models pull {model}` downloads it.",
        )
    found = kinds_of(checkpoint)
    if words:
        found = search_kinds(found, " ".join(words))
        if not found:
            raise UsageError(
                f"no kind of {model} has the words {' '.join(words)!r}",
                hint="`auffusion models kinds` lists all of them.",
            )
    if json:
        for kind in found:
            console.print_json(described(kind))
    else:
        print_kinds(found)


def kinds_of(checkpoint: Checkpoint) -> list[Kind]:
    """The kinds that a checkpoint lists. Raises UsageError where it lists none."""
    from auffusion_cli.checkpoints.kinds import read_kinds
    from auffusion_cli.errors import UsageError

    found = read_kinds(checkpoint.folder)
    if found is None:
        raise UsageError(f"{checkpoint.name} does not list the kinds of sound it was trained on")
    return found


def described(kind: Kind) -> dict[str, Any]:
    """A kind with its counts, for JSON."""
    share_alike = {"share_alike": kind.share_alike}
    return asdict(kind) | {"n_recordings": kind.n_recordings} | share_alike


def print_kinds(found: list[Kind]) -> None:
    """Print a line for each kind."""
    console.print_table(
        ("KIND", "RECORDINGS", "SHARE-ALIKE", "PROMPT"),
        [
            (kind.name, kind.n_recordings, sum(kind.share_alike.values()), kind.phrases[0])
            for kind in found
        ],
    )
