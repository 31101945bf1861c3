"""`auffusion inpaint`: new sound for a part of a recording; the rest stays bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auffusion_cli.cli import console, edits, options
from auffusion_cli.config import GenerationDefaults, SpectrogramConfig
from auffusion_cli.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(inpaint)


def inpaint(
    source: edits.Source,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            metavar="TIMES",
            help="What to replace: 2-4s, 500-900ms, -1s, 8s-; repeatable.",
        ),
    ] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(
            "--band", metavar="HZ", help="Replace only these frequencies: 4k-8k, 0-500; repeatable."
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What should be heard there; without it, what fits.")
    ] = "",
    output: edits.Output = None,
    crossfade: Annotated[
        str, typer.Option(metavar="TIME", help="From old to new, inside the mask.")
    ] = "20ms",
    resample: Annotated[
        int,
        typer.Option(help="Take each step so many times (RePaint), which takes that much longer."),
    ] = 1,
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
    """Replace a part of a recording, in time, in frequency, or both.

    Every sample outside of the mask stays as it was, at the recording's own rate, width and
    channels. The new sound has one channel, up to 8 kHz, and is put into each of the recording's
    channels as loud as that is around the mask. --mask and --band together are rectangles.

    \b
    Examples:
      auffusion inpaint clip.wav --mask 2-4s
      auffusion inpaint clip.wav --mask 2.5-4 --prompt "a car horn" -o horn.wav --seed 7
      auffusion inpaint clip.flac --mask 500-900ms --mask 8s- --spectrogram before-after.png
      auffusion inpaint clip.wav --mask 2-4s --band 0-500 --resample 4 --scheduler ddim
    """
    from auffusion_cli.cli.resolve import warn_of_cut_prompts, warn_of_idle_negatives
    from auffusion_cli.requests.masks import parse_duration
    from auffusion_cli.requests.request import InpaintRequest, draw_seed

    crossfade_s = parse_duration(crossfade, "--crossfade")
    if not masks and not bands:
        raise UsageError(
            "What is to change? Give --mask, --band, or both.",
            hint="For example: --mask 2-4s, or --band 4k-8k.",
        )

    recording = edits.read(source)

    from auffusion_cli.tasks.inpaint import check_resample, plan_inpaint

    request = InpaintRequest(
        source=source.name,
        source_sha256=recording.sha256,
        seed=draw_seed() if seed is None else seed,
        masks=tuple(masks or ()),
        bands=tuple(bands or ()),
        prompt=prompt,
        negative_prompt=negative,
        crossfade_s=crossfade_s,
        resample=resample,
    )
    config = SpectrogramConfig()
    duration_s = recording.duration_s
    # Masks and names are checked before the model is fetched, whose window only comes after.
    plan_inpaint(request, duration_s, config, GenerationDefaults().max_duration_s)
    path = edits.output_path(output, "{name}-inpainted", source, recording, request)
    edits.check_outputs([path], spectrogram, overwrite=overwrite)
    asked = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
    }
    setup = edits.set_up(model, vocoder, recording, asked, dry_run=dry_run, yes=yes)
    check_resample(request, setup.settings)
    plan = plan_inpaint(request, duration_s, config, setup.defaults.max_duration_s)
    n_windows = len(plan.windows)
    warn_of_idle_negatives([negative], setup.settings)
    if setup.checkpoint:
        warn_of_cut_prompts(setup.checkpoint, (prompt, negative))
    if resample > 1:
        n_steps = setup.settings.steps
        console.note(
            f"--resample {resample}: about {n_steps * resample} steps a window instead of {n_steps}"
        )
    if dry_run:
        resolved = setup.describe(device, dtype) | {"windows": n_windows}
        edits.show_plan(resolved, {path: request}, as_json=json)
        return
    if seed is None:
        console.note_seed(request.seed)
    console.note(f"loading {model}")
    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.tasks import inpaint as task

    loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
    with console.Progress("inpainting", unit="steps") as progress:
        result = task.inpaint(
            loaded,
            recording,
            request,
            setup.settings,
            on_progress=lambda n_done, n: progress.update(completed=n_done, total=n),
        )
    if spectrogram:
        titled = [("before", recording), ("after", result.recording)]
        edits.draw(Path(spectrogram), titled, loaded, overwrite=overwrite)
    edits.write(result, path, as_json=json, overwrite=overwrite)
