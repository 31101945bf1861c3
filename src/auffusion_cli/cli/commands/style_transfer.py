"""`auffusion style-transfer`: a recording turned into the sound of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from auffusion_cli.cli import console, options, recordings
from auffusion_cli.errors import UsageError

DEFAULT_STRENGTH = 0.6
MAX_SERIES = 20


def register(app: typer.Typer) -> None:
    app.command("style-transfer")(options.grouped(style_transfer))


def style_transfer(
    source: recordings.Source,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The sound to turn it into.")],
    output: recordings.Output = None,
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
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    finishing: options.Finishing,
    spectrogram: recordings.Picture = None,
    run: options.Run,
) -> None:
    """Turn a recording of any length into the sound of the prompt, keeping its course in time.

    Length, sample rate, width and channels stay. The new sound has one channel, up to 8 kHz, with
    most models; where the recording moves between its channels, it moves along.

    \b
    Examples:
      auffusion style-transfer dog.wav "a cat meowing" --strength 0.6
      auffusion style-transfer dog.wav "a cat meowing" --strengths 0.2,0.4,0.6 -o cats/
      auffusion style-transfer dog.wav "a drum" --method inversion --scheduler ddim -o drum.wav
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.requests.request import StyleTransferRequest
    from auffusion_cli.requests.seeds import draw_seed

    values = _read_strengths(strength, strengths)
    finish = finishing.finish()
    recording = recordings.read(source)

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
            extend_band=finishing.extend_band,
        )
        paths.append(recordings.output_path(output, name, source, recording, request))
        requests[paths[-1]] = request
    picture = spectrogram
    if strengths and picture is None:
        folder = f"{paths[0].parent}/"
        picture = recordings.output_path(folder, "{name}-{prompt}", source, recording, request)
        picture = picture.with_suffix(".png")
    recordings.check_broadcast(finish, paths)
    recordings.check_outputs(paths, picture, overwrite=run.overwrite)
    needs_ddim = "--method inversion" if method == "inversion" else None
    setup = set_up(loading, sampling.lasting(recording.duration_s), run, needs_ddim=needs_ddim)
    for request in requests.values():
        check_method(request, setup.settings)
    setup.check_words([prompt], [negative])
    if run.dry_run:
        recordings.show_plan(setup, requests, as_json=run.json)
        return
    if seed is None:
        console.note_seed(drawn_seed)
    model = setup.load()
    from auffusion_cli.tasks import style_transfer as task

    titled = [("before", recording)]
    for path, request in requests.items():
        title = f"strength {request.strength:g}"
        with console.Progress(title, unit="steps") as progress:
            result = task.style_transfer(
                model, recording, request, setup.settings, on_progress=progress.report
            )
        if picture:
            titled.append((title, result.recording))
        recordings.write(result, path, run, finish)
    if picture:
        recordings.draw(picture, titled, overwrite=run.overwrite)
        console.note(f"spectrograms: {picture}")


def _read_strengths(strength: float | None, strengths: str | None) -> list[float]:
    """Strengths asked for; each is checked by its request."""
    if strengths is None:
        return [DEFAULT_STRENGTH if strength is None else strength]
    if strength is not None:
        raise UsageError("Give either --strength or --strengths, not both")
    try:
        values = [float(text) for text in strengths.split(",")]
    except ValueError:
        raise UsageError(
            f"--strengths {strengths!r} cannot be read", hint="For example: 0.2,0.4,0.6."
        ) from None
    if len({f"{value:g}" for value in values}) < len(values):
        raise UsageError(f"--strengths {strengths!r} has one of them twice", hint="Give each once.")
    if len(values) > MAX_SERIES:
        raise UsageError(f"--strengths: {len(values)} of them; at most {MAX_SERIES} are made")
    return values
