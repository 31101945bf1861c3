"""`auffusion models push`: a checkpoint's folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auffusion_cli.cli import console, options


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint's folder, or a training's.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="HUB_ID", help="Where it goes: org/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.", show_default=False)
    ] = False,
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, after a question.

    HF_TOKEN names who you are. Only the model's files go there, none of a training's checkpoints,
    logs, caches or settings; a folder without a README.md gets a model card.

    \b
    Examples:
      auffusion models push runs/mine me/my-sounds --private
      auffusion models push runs/mine me/my-sounds --dry-run
    """
    from auffusion_cli.checkpoints.upload import plan_upload, upload
    from auffusion_cli.errors import UsageError

    plan = plan_upload(folder, repo_id)
    if dry_run:
        if json:
            console.print_json({"repo_id": repo_id, "files": list(plan.files), "card": plan.card})
            return
        console.print_table(
            ("FILE", "SIZE"),
            [(n, console.format_bytes(p.stat().st_size)) for n, p in plan.files.items()],
        )
        return
    console.note(
        f"{len(plan.files)} files, {console.format_bytes(plan.n_bytes)}, to {repo_id}, "
        + ("private if it is new" if private else "for everybody to see")
    )
    console.note(f"licence: {plan.licence or 'not stated'}")
    if not console.confirm("Upload them?", yes=yes):
        raise UsageError("nothing was uploaded")
    address = upload(plan, private=private, overwrite=overwrite)
    if json:
        console.print_json({"address": address, "repo_id": repo_id, "files": len(plan.files)})
    else:
        console.print_line(address)
