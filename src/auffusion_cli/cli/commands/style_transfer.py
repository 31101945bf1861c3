"""`auffusion style-transfer`: a recording turned into what a prompt says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from auffusion_cli.cli import console, edits, options
from auffusion_cli.errors import UsageError

DEFAULT_STRENGTH = 0.6
MAX_SERIES = 20


def register(app: typer.Typer) -> None:
    app.command("style-transfer")(style_transfer)


def style_transfer(
    source: edits.Source,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What it should become.")],
    output: edits.Output = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help=f"0 to 1: how far from the recording; by default {DEFAULT_STRENGTH}.",
            show_default=False,
        ),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(metavar="S,S,...", help="A series, a file each, and one picture of all."),
    ] = None,
    method: Annotated[
        Literal["sdedit", "inversion"],
        typer.Option(help="Noise the recording (SDEdit), or invert it by DDIM steps."),
    ] = "sdedit",
    seed: options.Seed = None,
    negative: options.Negative = "",
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    scheduler: options.Scheduler = None,
    model: options.Model = "embedded",
    vocoder: options.Vocoder = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    spectrogram: edits.Picture = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Turn a recording of any length into what the prompt says, keeping its course in time.

    Length, sample rate, width and channels stay. The new sound has one channel, up to 8 kHz; where
    the recording moves between its channels, it moves along.

    \b
    Examples:
      auffusion style-transfer dog.wav "a cat meowing" --strength 0.6
      auffusion style-transfer dog.wav "a cat meowing" --strengths 0.2,0.4,0.6 -o cats/
      auffusion style-transfer dog.wav "a drum" --method inversion --scheduler ddim -o drum.wav
    """
    from auffusion_cli.cli.resolve import warn_of_cut_prompts, warn_of_idle_negatives
    from auffusion_cli.requests.request import StyleTransferRequest, draw_seed

    values = _read_strengths(strength, strengths)

    recording = edits.read(source)

    from auffusion_cli.tasks.style_transfer import check_method

    drawn_seed = draw_seed() if seed is None else seed
    name = "{name}-{prompt}-{strength}" if strengths else "{name}-{prompt}"
    requests: dict[Path, StyleTransferRequest] = {}
    paths = []
    for value in values:
        request = StyleTransferRequest(
            source=source.name,
            source_sha256=recording.sha256,
            prompt=prompt,
            seed=drawn_seed,
            strength=value,
            negative_prompt=negative,
            method=method,
        )
        paths.append(edits.output_path(output, name, source, recording, request))
        requests[paths[-1]] = request
    picture = Path(spectrogram) if spectrogram else None
    if strengths and picture is None:
        picture = edits.output_path(
            str(paths[0].parent) + "/", "{name}-{prompt}", source, recording, request
        ).with_suffix(".png")
    edits.check_outputs(paths, picture, overwrite=overwrite)
    asked = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    setup = edits.set_up(model, vocoder, recording, asked, dry_run=dry_run, yes=yes)
    for request in requests.values():
        check_method(request, setup.settings)
    warn_of_idle_negatives([negative], setup.settings)
    if setup.checkpoint:
        warn_of_cut_prompts(setup.checkpoint, (prompt, negative))
    if dry_run:
        resolved = setup.describe(device, dtype)
        edits.show_plan(resolved, requests, as_json=json)
        return
    if seed is None:
        console.note_seed(drawn_seed)
    console.note(f"loading {model}")
    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.tasks import style_transfer as task

    loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
    titled = [("before", recording)]
    for path, request in requests.items():
        with console.Progress(f"strength {request.strength:g}", unit="steps") as progress:
            result = task.style_transfer(
                loaded,
                recording,
                request,
                setup.settings,
                on_progress=lambda n_done, n, bar=progress: bar.update(completed=n_done, total=n),
            )
        if picture:
            titled.append((f"strength {request.strength:g}", result.recording))
        edits.write(result, path, as_json=json, overwrite=overwrite)
    if picture:
        edits.draw(picture, titled, loaded, overwrite=overwrite)
        console.note(f"spectrograms: {picture}")


def _read_strengths(strength: float | None, strengths: str | None) -> list[float]:
    """The strengths asked for; each is checked by its request."""
    if strengths is None:
        return [DEFAULT_STRENGTH if strength is None else strength]
    if strength is not None:
        raise UsageError("Give either --strength or --strengths, not both.")
    try:
        values = [float(text) for text in strengths.split(",")]
    except ValueError:
        raise UsageError(
            f"--strengths {strengths!r} cannot be read.", hint="For example: 0.2,0.4,0.6."
        ) from None
    if len({f"{value:g}" for value in values}) < len(values):
        raise UsageError(
            f"--strengths {strengths!r} has one of them twice.", hint="Give each once."
        )
    if len(values) > MAX_SERIES:
        raise UsageError(f"--strengths: {len(values)} of them; at most {MAX_SERIES} are made.")
    return values
