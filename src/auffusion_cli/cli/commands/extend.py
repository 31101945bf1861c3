"""`auffusion extend`: more of a recording, or a loop of it; the recording itself stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, edits, options
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.signal.recording import Recording

DEFAULT_LOOP_S = 1.0


def register(app: typer.Typer) -> None:
    app.command()(extend)


def extend(
    source: edits.Source,
    by: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How much more: 5s, 800ms; 1s for a loop if not given."),
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="Put it before the start.", show_default=False)
    ] = False,
    loop: Annotated[
        bool,
        typer.Option("--loop", help="Let it lead back to the start.", show_default=False),
    ] = False,
    prompt: Annotated[
        str, typer.Option(help="What should be heard there; without it, what fits.")
    ] = "",
    output: edits.Output = None,
    crossfade: Annotated[
        str, typer.Option(metavar="TIME", help="From the recording's own sound to the new one.")
    ] = "100ms",
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
    """Make a recording longer, or make a seamless loop of it.

    Every sample of the recording stays as it was, at its own rate, width and channels; what is new
    comes after it, or before it with --before. With --loop the new part leads from the end to the
    start: played again and again, there is no seam.

    \b
    Examples:
      auffusion extend clip.wav --by 5s
      auffusion extend clip.wav --by 3s --before --prompt "footsteps come closer" -o longer.wav
      auffusion extend rain.wav --loop -o rain-loop.wav --spectrogram before-after.png
    """
    from auffusion_cli.cli.resolve import warn_of_cut_prompts, warn_of_idle_negatives
    from auffusion_cli.requests.masks import parse_duration
    from auffusion_cli.requests.request import MAX_DURATION_S, ExtendRequest, draw_seed

    if before and loop:
        raise UsageError("Give either --before or --loop, not both.")
    if by is None and not loop:
        raise UsageError("How much longer? Give --by, or --loop.", hint="For example: --by 5s.")
    by_s = DEFAULT_LOOP_S if by is None else parse_duration(by, "--by")
    crossfade_s = parse_duration(crossfade, "--crossfade")

    recording = edits.read(source)
    if recording.duration_s + by_s > MAX_DURATION_S:
        raise UsageError(
            f"--by {by_s:g}s: with it {source} would last {recording.duration_s + by_s:g} s.",
            hint=f"There can be {MAX_DURATION_S:g} s.",
        )
    request = ExtendRequest(
        source=source.name,
        source_sha256=recording.sha256,
        seed=draw_seed() if seed is None else seed,
        by_s=by_s,
        where="before" if before else "loop" if loop else "after",
        prompt=prompt,
        negative_prompt=negative,
        crossfade_s=crossfade_s,
    )
    name = "{name}-loop" if loop else "{name}-extended"
    path = edits.output_path(output, name, source, recording, request)
    edits.check_outputs([path], spectrogram, overwrite=overwrite)
    asked = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    setup = edits.set_up(model, vocoder, recording, asked, dry_run=dry_run, yes=yes)
    settings = replace(setup.settings, duration_s=recording.duration_s + by_s)
    setup = replace(setup, settings=settings)
    warn_of_idle_negatives([negative], setup.settings)
    if setup.checkpoint:
        warn_of_cut_prompts(setup.checkpoint, (prompt, negative))
    if dry_run:
        edits.show_plan(setup.describe(device, dtype), {path: request}, as_json=json)
        return
    if seed is None:
        console.note_seed(request.seed)
    console.note(f"loading {model}")
    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.tasks import extend as task

    loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
    with console.Progress("extending", unit="steps") as progress:
        result = task.extend(
            loaded,
            recording,
            request,
            settings,
            on_progress=lambda n_done, n: progress.update(completed=n_done, total=n),
        )
    if spectrogram:
        place = _in_place(recording, result.recording, before=before)
        titled = [("before", place), ("after", result.recording)]
        edits.draw(Path(spectrogram), titled, loaded, overwrite=overwrite)
    edits.write(result, path, as_json=json, overwrite=overwrite)


def _in_place(recording: Recording, longer: Recording, *, before: bool) -> Recording:
    """The recording with silence where `longer` has more, so that both have one time axis."""
    import numpy as np

    n_more = len(longer.samples) - len(recording.samples)
    around = (n_more, 0) if before else (0, n_more)
    return replace(recording, samples=np.pad(recording.samples, (around, (0, 0))))
