"""`auffusion reproduce`: make a sound again from the record in its file, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.outputs import place_for

if TYPE_CHECKING:
    from auffusion_cli.tasks.reproduce import Reproduction


def register(app: typer.Typer) -> None:
    app.command()(reproduce)


def reproduce(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A sound made by auffusion.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the sound made again.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The recording that an edit was made from; by default its name beside FILE.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Instead of the model that the file names.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE",
            help="A LoRA that the file was made with; its weight is in the record. Repeatable.",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"] | None,
        typer.Option("--device", help="By default where the file was made."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"] | None,
        typer.Option("--dtype", help="By default the precision that the file was made in."),
    ] = None,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Make the same sound again, and compare every sample with the file.

    Exits with 1 if they differ, also where the file was changed after it was made, and shows what
    else differs: the model's revision, library versions, the device. The engine is the one that the
    file was made with. A model that comes with
    neither a known name nor this command line is not loaded on a file's word: name it with --model.

    \b
    Examples:
      auffusion reproduce rain.wav -o again.wav
      auffusion reproduce rain.wav --json
      auffusion reproduce edited.wav --source clip.wav
    """
    from auffusion_cli.cli import resolve
    from auffusion_cli.cli.outputs import check_free, check_writable
    from auffusion_cli.cli.recorded import recorded_device, recorded_loras, recorded_model
    from auffusion_cli.requests.request import needs_model
    from auffusion_cli.signal.sound_file import read_record

    recorded = read_record(path)
    if output is not None:
        check_writable([output], "--output")
        if not overwrite:
            check_free([output])
    uses_model = needs_model(recorded.request)
    name = (model or recorded_model(recorded, path)) if uses_model else None

    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.tasks import reproduce as task

    loras = recorded_loras(recorded, path, lora or [])
    recording = task.find_source(recorded, path, source)
    task.check_files(recorded, path, recording, output)
    loaded = None
    if name is not None:
        resolve.fetch(name, yes=yes)
        console.note(f"loading {name}")
        loaded = load_model(
            name,
            engine=recorded.engine,
            device=device or recorded_device(recorded),
            dtype=dtype or recorded.dtype,
            vocoder=recorded.vocoder,
            loras=loras,
        )
    with console.Progress("generating", unit="steps") as progress:
        reproduction = task.reproduce(
            loaded, recorded, path, source=recording, on_progress=progress.report
        )
    if output is not None:
        with place_for(output):
            reproduction.result.save(output, overwrite=overwrite)
    _show(reproduction, output, as_json=json)
    if output is not None and not json:
        console.print_path(output)
    if not reproduction.identical:
        raise typer.Exit(1)


def _show(reproduction: Reproduction, output: Path | None, *, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {
                "identical": reproduction.identical,
                "file_changed": reproduction.file_changed,
                "max_difference": reproduction.max_difference,
                "differences": {
                    name: {"recorded": recorded, "now": now}
                    for name, (recorded, now) in reproduction.differences.items()
                },
                "file": None if output is None else str(output),
            }
        )
        return
    if reproduction.identical:
        console.print_line(f"identical: all {reproduction.n_samples} samples")
    else:
        console.print_line(f"not identical: {_difference(reproduction.max_difference)}")
    if reproduction.file_changed:
        console.print_line("this file was changed after it was made")
        return
    for name, (recorded, now) in reproduction.differences.items():
        console.print_line(f"{name}: {recorded} then, {now} now")
    if not reproduction.identical and not reproduction.differences:
        console.print_line(
            "model, libraries and device have the same names: weights or hardware differ"
        )


def _difference(max_difference: float | None) -> str:
    if max_difference is None:
        return "the file has another length"
    return f"the largest difference is {max_difference:.2g} of full scale"
