"""`auffusion inpaint`: new sound for a part of a recording; the rest stays bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options, recordings
from auffusion_cli.config import GenerationDefaults, SpectrogramConfig
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import InpaintRequest
    from auffusion_cli.signal.recording import Recording
    from auffusion_cli.tasks.edits import EditResult


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(inpaint))


def inpaint(
    source: recordings.Source,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            metavar="TIMES",
            help="The part to replace: 2-4s, 500-900ms, 0:58-1:03, 8s-; repeatable.",
        ),
    ] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(
            "--band", metavar="HZ", help="Replace only these frequencies: 4k-8k, 0-500; repeatable."
        ),
    ] = None,
    prompt: options.NewPart = "",
    output: recordings.Output = None,
    crossfade_s: Annotated[
        float,
        options.seconds("--crossfade", "From old to new, inside the mask; by default 20ms."),
    ] = 0.02,
    resample: Annotated[
        int,
        typer.Option(help="Take each step so many times (RePaint), which takes that much longer."),
    ] = 1,
    room_tone: Annotated[
        bool,
        typer.Option(
            "--room-tone",
            help="Fill with the recording's own background noise, over its bandwidth or --band;"
            " no model.",
        ),
    ] = False,
    seed: options.Seed = None,
    negative: options.Negative = "",
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    choice: options.Choice,
    finishing: options.Finishing,
    spectrogram: recordings.Picture = None,
    run: options.Run,
) -> None:
    """Replace a part of a recording, in time, in frequency, or both.

    Every sample outside of the mask stays as it was, at the recording's own rate, width and
    channels. The new sound has one channel, up to 8 kHz, with most models, and is put into each of
    the recording's channels as loud as that is around the mask. --mask and --band together are
    rectangles. A mask that removes a sound needs a margin of 50 ms around it.

    \b
    Examples:
      auffusion inpaint clip.wav --mask 2-4s
      auffusion inpaint clip.wav --mask 2.5-4 --prompt "a car horn" -o horn.wav --seed 7
      auffusion inpaint speech.wav --mask 3.15-3.65s --room-tone
      auffusion inpaint clip.flac --mask 500-900ms --mask 8s- --spectrogram before-after.png
      auffusion inpaint clip.wav --mask 2-4s --band 0-500 --resample 4 --scheduler ddim
      auffusion inpaint clip.wav --mask 2-4s --prompt "a dog barking" --best-of 8 --keep-all
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.requests.request import InpaintRequest
    from auffusion_cli.requests.seeds import draw_seed

    if not masks and not bands:
        raise UsageError(
            "Give --mask, --band, or both",
            hint="For example: --mask 2-4s, or --band 4k-8k.",
        )
    finish, choosing = finishing.finish(), choice.choosing()
    recording = recordings.read(source)

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
        room_tone=room_tone,
        extend_band=finishing.extend_band,
    )
    if room_tone:
        asked = asdict(sampling).values()
        if resample > 1 or choosing.best_of > 1 or any(value is not None for value in asked):
            raise UsageError(
                "--room-tone uses no model, and takes no --steps, --scheduler, --resample or"
                " --best-of, and no guidance"
            )
        return _fill_with_room_tone(
            recording, request, source, output, seed, finish, spectrogram, run
        )
    config, duration_s = SpectrogramConfig(), recording.duration_s
    # Masks and names are checked before the model is downloaded, whose window only comes after.
    plan_inpaint(request, duration_s, config, GenerationDefaults().max_duration_s)
    path = recordings.output_path(output, "{name}-inpainted", source, recording, request)
    paths = recordings.kept_paths(choosing, path, prompt)
    recordings.check_broadcast(finish, paths)
    recordings.check_outputs(paths, spectrogram, overwrite=run.overwrite)
    setup = set_up(
        loading,
        sampling.lasting(duration_s),
        run,
        needs_log_mels="inpaint --band" if bands else None,
        needs_ddim="inpaint --resample" if resample > 1 else None,
    )
    check_resample(request, setup.settings)
    plan = plan_inpaint(request, duration_s, config, setup.defaults.max_duration_s)
    setup.check_words([prompt], [negative])
    if resample > 1:
        n_steps = setup.settings.steps
        console.note(
            f"--resample {resample}: about {n_steps * resample} steps a window instead of {n_steps}"
        )
    if run.dry_run:
        more = {"windows": len(plan.windows), **asdict(choosing)}
        recordings.show_plan(setup, {path: request}, as_json=run.json, **more)
        return
    if seed is None:
        console.note_seed(request.seed)
    model = setup.load()
    from auffusion_cli.tasks import inpaint as task

    edit = partial(task.inpaint, model, recording, settings=setup.settings)
    results = recordings.make(choosing, "inpainting", edit, request)
    _write(results, recording, paths, finish, spectrogram, run)


def _fill_with_room_tone(
    recording: Recording,
    request: InpaintRequest,
    source: Path,
    output: str | None,
    seed: int | None,
    finish: Finish | None,
    spectrogram: Path | None,
    run: options.Run,
) -> None:
    from auffusion_cli.tasks.inpaint import parse_masks
    from auffusion_cli.tasks.room_tone import fill_with_room_tone

    parse_masks(request, recording.duration_s, recording.sample_rate_hz / 2)
    path = recordings.output_path(output, "{name}-inpainted", source, recording, request)
    recordings.check_broadcast(finish, [path])
    recordings.check_outputs([path], spectrogram, overwrite=run.overwrite)
    if run.dry_run:
        recordings.show_requests({path: request}, {"model": None}, as_json=run.json)
        return
    if seed is None:
        console.note_seed(request.seed)
    result = fill_with_room_tone(recording, request)
    _write([result], recording, [path], finish, spectrogram, run)


def _write(
    results: Sequence[EditResult],
    recording: Recording,
    paths: Sequence[Path],
    finish: Finish | None,
    spectrogram: Path | None,
    run: options.Run,
) -> None:
    if spectrogram:
        titled = [("before", recording), ("after", results[0].recording)]
        recordings.draw(spectrogram, titled, overwrite=run.overwrite)
    recordings.write_kept(results, paths, run, finish)
