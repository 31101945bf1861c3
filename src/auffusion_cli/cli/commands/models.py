"""`auffusion models`: which checkpoints there are, fetch one, look into one, convert one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.usage import SuggestingGroup

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|HUB_ID|FOLDER",
        help="A known name, a Hub id (org/name or org/name@revision), or a checkpoint folder.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add `auffusion models` and its subcommands."""
    models = typer.Typer(
        cls=SuggestingGroup,
        help="List, fetch, inspect and convert checkpoints.",
        no_args_is_help=True,
    )
    models.command("list")(list_models)
    models.command("pull")(pull)
    models.command("info")(info)
    models.command("convert")(convert)
    app.add_typer(models, name="models")


def list_models(json: options.Json = False) -> None:
    """Show the checkpoints that have a name, and which are on this machine.

    Last come the networks that `evaluate` listens with, and where to put a file brought by hand.

    \b
    Example:
      auffusion models list
    """
    from auffusion_cli.checkpoints import names
    from auffusion_cli.checkpoints.layout import credits_path
    from auffusion_cli.errors import CheckpointError

    rows = []
    for known in names.KNOWN.values():
        try:
            found = find(known.name)
        except CheckpointError:  # an installation without the embedded one
            found = None
        rows.append(
            {
                "name": known.name,
                "licence": known.licence,
                "size_bytes": folder_bytes(found.folder) if found else known.approximate_bytes,
                "here": found is not None,
                "revision": found.revision if found else known.revision,
                "repo_id": known.repo_id,
                "folder": str(found.folder) if found else None,
                "credits": credits_path(found.folder) if found else None,
                "description": known.description,
            }
        )
    from auffusion_cli.evaluation.published import NAMES

    listeners = [listener_row(name) for name in NAMES]
    if json:
        for row in rows + listeners:
            console.print_json(row)
        return
    console.print_table(
        ("NAME", "HERE", "SIZE", "LICENCE", "DESCRIPTION"),
        [
            (
                row["name"],
                "yes" if row["here"] else "no",
                ("" if row["here"] else "about ") + console.format_bytes(row["size_bytes"]),
                row["licence"],
                row["description"],
            )
            for row in rows + listeners
        ],
    )
    for row in rows:
        if row["credits"]:
            console.note(f"{row['name']}: credits and licences of its sounds in {row['credits']}")
    for row in listeners:
        if not row["here"] and row["sha256"]:
            console.note(
                f"{row['name']} by hand: {row['source']}, SHA-256 {row['sha256']}, "
                f"as {row['place']}"
            )


def listener_row(name: str) -> dict[str, Any]:
    """What there is to tell of a network that an evaluation listens with."""
    from auffusion_cli.evaluation.published import published_network

    known = published_network(name)
    n_bytes = known.approximate_bytes
    if known.here:
        n_bytes = known.place.stat().st_size if known.place.is_file() else folder_bytes(known.place)
    return {
        "name": known.name,
        "licence": known.licence,
        "size_bytes": n_bytes,
        "here": known.here,
        "source": known.source,
        "sha256": known.sha256,
        "place": str(known.place),
        "description": known.description,
    }


def pull(name: Name, yes: options.Yes = False, json: options.Json = False) -> None:
    """Download a checkpoint from the Hub, or what is missing of it, and verify it.

    Also the networks that `evaluate` listens with: cnn14, vggish and clap.

    \b
    Examples:
      auffusion models pull auffusion-full
      auffusion models pull some-org/some-model@main --yes
      auffusion models pull cnn14
    """
    from auffusion_cli.checkpoints import download
    from auffusion_cli.evaluation import published

    if name in published.NAMES:
        with DownloadProgress(name) as progress:
            published.pull(name, confirm=ask(yes=yes), on_progress=progress.report)
        row = listener_row(name)
        if json:
            console.print_json(row)
        else:
            typer.echo(row["place"])
        return
    source = _source(name, "NAME")
    if source is None:
        checkpoint = download.resolve(name)
    else:
        with DownloadProgress(name) as progress:
            checkpoint = download.pull(source, confirm=ask(yes=yes), on_progress=progress.report)
    if json:
        console.print_json(
            {
                "name": checkpoint.name,
                "folder": str(checkpoint.folder),
                "revision": checkpoint.revision,
                "licence": checkpoint.licence,
            }
        )
        return
    typer.echo(checkpoint.folder)


def info(name: Name, json: options.Json = False) -> None:
    """Show what a checkpoint on this machine is made of, without loading its weights.

    \b
    Examples:
      auffusion models info embedded
      auffusion models info runs/dogs --json
    """
    from auffusion_cli.checkpoints import names
    from auffusion_cli.errors import UsageError
    from auffusion_cli.evaluation.published import NAMES

    if name in NAMES:
        description = listener_row(name)
        if json:
            console.print_json(description)
        else:
            _print_fields(description)
        return
    checkpoint = find(name, "NAME")
    if checkpoint is None:
        raise UsageError(
            f"{name} is not on this machine", hint=f"`auffusion models pull {name}` fetches it."
        )
    from auffusion_cli.checkpoints.layout import describe

    description: dict[str, Any] = {
        "name": checkpoint.name,
        "folder": str(checkpoint.folder),
        "revision": checkpoint.revision,
        **describe(checkpoint.folder),
    }
    description["licence"] = description["licence"] or checkpoint.licence
    description["size_bytes"] = folder_bytes(checkpoint.folder)
    if known := names.KNOWN.get(checkpoint.name):
        description["description"] = known.description
    if json:
        console.print_json(description)
        return
    _print_fields(description)


def _print_fields(description: dict[str, Any]) -> None:
    for field, value in description.items():
        if value is None:
            continue
        label = field.replace("_", " ")
        if field.endswith("_bytes"):
            label, value = label.removesuffix(" bytes"), console.format_bytes(value)
        elif field == "generation":
            value = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(str, value))
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        typer.echo(f"{label + ':':<20} {value}")


def convert(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], typer.Option("--dtype", help="Precision to write.")
    ] = "fp16",
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Write a checkpoint anew: safetensors, in the precision asked for.

    \b
    Example:
      auffusion models convert auffusion-full -o auffusion-full-fp16 --dtype fp16
    """
    from auffusion_cli.errors import OutputExistsError

    if output.exists() and not overwrite:
        raise OutputExistsError(f"--output {output} exists", hint="--overwrite replaces it.")
    from auffusion_cli.cli.outputs import check_writable

    check_writable([output / "auffusion.json"], "--output")
    checkpoint = resolve_model(name, "NAME", yes=yes)

    from auffusion_cli.checkpoints.load import load_model, save_model

    has_vocoder = (checkpoint.folder / "vocoder").is_dir()
    model = load_model(
        checkpoint.folder,
        device="cpu",
        dtype=dtype,
        vocoder="hifigan" if has_vocoder else "griffin-lim",
    )
    model.name, model.licence = checkpoint.name, model.licence or checkpoint.licence
    save_model(model, output, dtype=dtype, overwrite=overwrite)
    if json:
        console.print_json(
            {"folder": str(output), "dtype": dtype, "size_bytes": folder_bytes(output)}
        )
        return
    typer.echo(output)


# --- What other commands use too


def resolve_model(name: str, option: str = "--model", *, yes: bool = False):
    """The `names.Checkpoint` called `name`; downloaded, after a question, where it is not here.

    Raises UsageError, naming `option`, where it can be no checkpoint's name.
    """
    from auffusion_cli.checkpoints import download

    _source(name, option)
    with DownloadProgress(name) as progress:
        return download.resolve(name, confirm=ask(yes=yes), on_progress=progress.report)


def ask(*, yes: bool):
    """A `download.Confirm` that shows size and licence and asks on the terminal."""

    def confirm(download) -> bool:
        console.note(
            f"{download.name}: {download.n_files} files, "
            f"{console.format_bytes(download.n_bytes)}, from {download.repo_id} "
            f"at {download.commit[:12]}\n"
            f"licence: {download.licence or 'not stated'}\n"
            f"into {download.folder}"
        )
        return console.confirm("Download it?", yes=yes)

    return confirm


class DownloadProgress:
    """A bar that appears with the first byte, and not where nothing is downloaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: console.Progress | None = None

    def __enter__(self) -> DownloadProgress:
        return self

    def report(self, n_done: int, n_total: int) -> None:
        """`download.Report`"""
        if self.bar is None:
            self.bar = console.Progress(f"downloading {self.name}", n_total, unit="bytes")
            self.bar.__enter__()
        self.bar.update(completed=n_done)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.__exit__(*error)


def find(name: str, option: str = "--model"):
    """The `names.Checkpoint` called `name` if it is on this machine; the network is not asked.

    Raises UsageError, naming `option`, where it cannot be fetched either.
    """
    from auffusion_cli.checkpoints import download

    source = _source(name, option)
    return download.resolve(name) if source is None else download.find_cached(source)


def _source(name: str, option: str):
    """The `names.HubSource` called `name`; None where it is the embedded model or a folder."""
    from auffusion_cli.checkpoints import names
    from auffusion_cli.errors import CheckpointError, UsageError

    if name == "embedded" or (name not in names.KNOWN and Path(name).is_dir()):
        return None
    try:
        return names.parse_name(name)
    except CheckpointError:
        raise UsageError(
            f"{option} {name!r}: there is no such folder, and it is not a known name or a Hub id.",
            hint=f"Valid: {', '.join(names.KNOWN)}; org/name or org/name@revision; or the folder "
            "of a checkpoint.",
        ) from None


def folder_bytes(folder: Path) -> int:
    """Size of the model's files in `folder`; the Hub's cache links to them."""
    from auffusion_cli.checkpoints.layout import model_files

    return sum(path.stat().st_size for path in model_files(folder))
