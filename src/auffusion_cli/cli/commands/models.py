"""`auffusion models`: list, download, describe and convert checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options, resolve
from auffusion_cli.cli.commands.compose import compose
from auffusion_cli.cli.commands.kinds import described, kinds, kinds_of, print_kinds
from auffusion_cli.cli.commands.push import push
from auffusion_cli.cli.usage import SuggestingGroup

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.onnx_graph import WrittenGraph

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
        help="List, fetch, inspect, convert, compose and publish checkpoints.",
        no_args_is_help=True,
    )
    models.command("list")(list_models)
    for command in (pull, info, kinds, convert, compose, push):
        models.command()(command)
    app.add_typer(models, name="models")


def list_models(json: options.Json = False) -> None:
    """Show the checkpoints that have a name, and which are on this machine.

    Last come the networks of `evaluate`, and where to put a file that is downloaded by hand.

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
            found = resolve.find(known.name)
        except CheckpointError:  # an installation without the embedded one
            found = None
        rows.append(
            {
                "name": known.name,
                "licence": known.licence,
                "size_bytes": _folder_bytes(found.folder) if found else known.approximate_bytes,
                "here": found is not None,
                "revision": found.revision if found else known.revision,
                "repo_id": known.repo_id,
                "folder": str(found.folder) if found else None,
                "credits": credits_path(found.folder) if found else None,
                "description": known.description,
            }
        )
    from auffusion_cli.evaluation.published import NAMES

    networks = [_network_row(name) for name in NAMES]
    if json:
        for row in rows + networks:
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
            for row in rows + networks
        ],
    )
    for row in rows:
        if row["credits"]:
            console.note(f"{row['name']}: credits and licences of its sounds in {row['credits']}")
    for row in networks:
        if not row["here"] and row["sha256"]:
            console.note(
                f"{row['name']} by hand: {row['source'] or 'its .tflite'}, SHA-256 {row['sha256']},"
                f" as {row['place']}"
            )


def _network_row(name: str) -> dict[str, Any]:
    """The fields of a network of `evaluate`."""
    from auffusion_cli.evaluation.published import published_network

    known = published_network(name)
    n_bytes = known.approximate_bytes
    if known.here:
        n_bytes = (
            known.place.stat().st_size if known.place.is_file() else _folder_bytes(known.place)
        )
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

    Also the networks of `evaluate`: cnn14, vggish and clap; yamnet is brought by hand.

    \b
    Examples:
      auffusion models pull auffusion-full
      auffusion models pull some-org/some-model@main --yes
      auffusion models pull cnn14
    """
    from auffusion_cli.checkpoints import download
    from auffusion_cli.evaluation import published

    if name in published.NAMES:
        with resolve.DownloadProgress(name) as progress:
            published.pull(name, confirm=resolve.ask(yes=yes), on_progress=progress.report)
        row = _network_row(name)
        if json:
            console.print_json(row)
        else:
            console.print_path(Path(row["place"]))
        return
    source = resolve.hub_source(name, "NAME")
    if source is None:
        checkpoint = download.resolve(name)
    else:
        with resolve.DownloadProgress(name) as progress:
            checkpoint = download.pull(
                source, confirm=resolve.ask(yes=yes), on_progress=progress.report
            )
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
    console.print_path(checkpoint.folder)


def info(
    name: Name,
    show_kinds: Annotated[
        bool, typer.Option("--kinds", help="List the kinds of sound it was trained on.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Describe a checkpoint or a LoRA on this machine, without loading its weights.

    \b
    Examples:
      auffusion models info embedded
      auffusion models info embedded --kinds
      auffusion models info runs/dogs --json
      auffusion models info runs/gong/pytorch_lora_weights.safetensors
    """
    from auffusion_cli.checkpoints import names
    from auffusion_cli.checkpoints.lora_file import describe_lora, find_lora
    from auffusion_cli.errors import UsageError
    from auffusion_cli.evaluation.published import NAMES

    lora = None if name in names.KNOWN else find_lora(name)
    if name in NAMES or lora is not None:
        description = _network_row(name) if lora is None else describe_lora(lora)
        if json:
            console.print_json(description)
        else:
            _print_fields(description)
        return
    checkpoint = resolve.find(name, "NAME")
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
    description["size_bytes"] = _folder_bytes(checkpoint.folder)
    if known := names.KNOWN.get(checkpoint.name):
        description["description"] = known.description
    found = kinds_of(checkpoint) if show_kinds else []
    if json:
        if show_kinds:
            description["kinds"] = [described(kind) for kind in found]
        console.print_json(description)
        return
    _print_fields(description)
    if show_kinds:
        console.print_line()
        print_kinds(found)


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
        console.print_line(f"{label + ':':<20} {value}")


def convert(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], typer.Option("--dtype", help="Precision to write.")
    ] = "fp16",
    to: Annotated[
        Literal["safetensors", "onnx"],
        typer.Option("--to", help="onnx adds graphs for ONNX Runtime, which share the weights."),
    ] = "safetensors",
    lora: options.Lora = None,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Write a checkpoint anew: safetensors, in the precision asked for, LoRAs merged.

    With --to onnx it runs without torch (--engine onnx) and in other programs. Each graph is
    compared with torch. It needs `pip install 'auffusion[onnx-export]'`.

    \b
    Examples:
      auffusion models convert auffusion-full -o auffusion-full-fp16 --dtype fp16
      auffusion models convert auffusion-full -o auffusion-full-onnx --to onnx
      auffusion models convert embedded --lora bells.safetensors:0.8 -o with-bells
    """
    from auffusion_cli.errors import OutputExistsError

    if output.exists() and not overwrite:
        raise OutputExistsError(f"--output {output} exists", hint="--overwrite replaces it.")
    from auffusion_cli.checkpoints.lora_file import check_loras
    from auffusion_cli.checkpoints.names import refuse_family
    from auffusion_cli.cli.outputs import check_writable
    from auffusion_cli.requests.loras import parse_loras

    refuse_family(name, "convert")
    check_writable([output / "auffusion.json"], "--output")
    if to == "onnx":
        from auffusion_cli.checkpoints.onnx_export import check_installed

        check_installed()
    check_loras(loras := parse_loras(lora))  # before anything is downloaded
    checkpoint = resolve.fetch(name, "NAME", yes=yes)

    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.checkpoints.save import save_model

    has_vocoder = (checkpoint.folder / "vocoder").is_dir()
    model = load_model(
        checkpoint.folder,
        engine="torch",
        device="cpu",
        dtype=dtype,
        vocoder="hifigan" if has_vocoder else "griffin-lim",
        loras=loras,
    )
    model.name, model.licence = checkpoint.name, model.licence or checkpoint.licence
    graphs: list[WrittenGraph] = []

    def complete(folder: Path) -> None:
        graphs.extend(_write_graphs(folder))

    save_model(
        model,
        output,
        dtype=dtype,
        overwrite=overwrite,
        complete=complete if to == "onnx" else None,
    )
    if json:
        row = {"folder": str(output), "dtype": dtype, "size_bytes": _folder_bytes(output)}
        console.print_json(row | ({"graphs": [asdict(one) for one in graphs]} if graphs else {}))
        return
    for graph in graphs:
        console.note(
            f"{graph.name}: {console.format_bytes(graph.size_bytes)}, at most "
            f"{graph.max_difference:.0e} of its largest output from torch"
        )
    console.print_path(output)


def _write_graphs(folder: Path) -> list[WrittenGraph]:
    from auffusion_cli.checkpoints.onnx_export import write_graphs

    with console.Progress("writing graphs", unit="networks") as progress:
        return write_graphs(folder, on_progress=progress.report)


def _folder_bytes(folder: Path) -> int:
    """Size of the model's files in `folder`; the Hub's cache links to them."""
    from auffusion_cli.checkpoints.layout import model_files

    return sum(path.stat().st_size for path in model_files(folder))
