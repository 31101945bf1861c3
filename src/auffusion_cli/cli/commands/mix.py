"""`auffusion mix`: a bed under a recording, from a file or made of words."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, options, recordings
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import MixRequest
    from auffusion_cli.signal.recording import Recording

DEFAULT_BELOW_DB, DEFAULT_DUCK_DB, DEFAULT_FADE_S = 10.0, 6.0, 1.0


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(mix))


def _decibels(option: str, help: str) -> Any:
    def parse(text: str) -> float:
        from auffusion_cli.requests.finish import parse_decibels

        return parse_decibels(str(text), option)

    return typer.Option(option, metavar="DB", parser=parse, help=help, show_default=False)


def mix(
    source: recordings.Source,
    under: Annotated[
        str,
        typer.Option(
            "--under", metavar="FILE|WORDS", help="The bed: a file, or words to make it of."
        ),
    ],
    output: recordings.Output = None,
    below_db: Annotated[
        float,
        _decibels("--below", "Loudness of the bed in pauses, below FILE's; by default 10dB."),
    ] = DEFAULT_BELOW_DB,
    duck_db: Annotated[
        float, _decibels("--duck", "So much softer is it under speech; by default 6dB.")
    ] = DEFAULT_DUCK_DB,
    fade_s: Annotated[
        float, options.seconds("--fade", "Of the bed, at both ends; by default 1s.")
    ] = DEFAULT_FADE_S,
    seed: options.Seed = None,
    negative: options.Negative = "",
    *,
    sampling: options.Sampling,
    loading: options.Loading,
    finishing: options.Finishing,
    run: options.Run,
) -> None:
    """Put a bed under a recording, such as rain under speech.

    The result is exactly as long as FILE. A shorter bed is played again, its end joined to its
    start; a longer one is cut. Of words it is made at FILE's length. Whatever rises above FILE's
    pauses counts as speech.

    \b
    Examples:
      auffusion mix speech.wav --under rain.wav --duck 12dB
      auffusion mix speech.wav --under "rain on a roof" --seed 2 -o mix.wav
      auffusion mix speech.wav --under "a busy tavern" --below 14dB --loudness -16LUFS
    """
    from auffusion_cli.requests.request import MixRequest
    from auffusion_cli.requests.seeds import draw_seed
    from auffusion_cli.signal.formats import AUDIO_SUFFIXES

    finish = finishing.finish()
    recording, bed = recordings.read(source), None
    fields: dict[str, Any] = {}
    if Path(under).suffix.lower() in AUDIO_SUFFIXES:
        _check_unused(seed, negative, sampling, loading)
        bed = recordings.read(Path(under))
        fields |= {"under": Path(under).name, "under_sha256": bed.sha256}
    else:
        fields |= {"prompt": under, "negative_prompt": negative}
        fields |= {"seed": draw_seed() if seed is None else seed}
    fields["extend_band"] = finishing.extend_band
    request = MixRequest(
        source.name, recording.sha256, below_db=below_db, duck_db=duck_db, fade_s=fade_s, **fields
    )
    path = recordings.output_path(output, "{name}-mixed", source, recording, request)
    recordings.check_broadcast(finish, [path])
    recordings.check_outputs([path], None, overwrite=run.overwrite)
    if bed is None:
        _mix_made(recording, request, path, finish, sampling, loading, run, seed)
        return
    if run.dry_run:
        recordings.show_requests({path: request}, {"model": None}, as_json=run.json)
        return
    from auffusion_cli.tasks import mix as task

    recordings.write(task.mix(recording, bed, request), path, run, finish)


def _check_unused(
    seed: int | None, negative: str, sampling: options.Sampling, loading: options.Loading
) -> None:
    """Raise a UsageError for settings of a bed that is made, where it is a file."""
    if (seed, negative, sampling) != (None, "", options.Sampling()):
        raise UsageError(
            "--under is a sound file: --seed, --negative and the settings of denoising do nothing",
            hint="Leave them out, or give --under words.",
        )
    if given := [f.name for f in fields(loading) if getattr(loading, f.name) != f.default]:
        raise UsageError(
            f"--under is a sound file: no model is loaded, and --{given[0]} does nothing",
            hint="Leave it out, or give --under words.",
        )


def _mix_made(
    recording: Recording,
    request: MixRequest,
    path: Path,
    finish: Finish | None,
    sampling: options.Sampling,
    loading: options.Loading,
    run: options.Run,
    seed: int | None,
) -> None:
    from auffusion_cli.cli.making import set_up

    setup = set_up(loading, sampling.lasting(recording.duration_s), run)
    setup.check_words([request.prompt], [request.negative_prompt])
    setup.check_vocabulary([request.prompt])
    if run.dry_run:
        recordings.show_plan(setup, {path: request}, as_json=run.json)
        return
    if seed is None:
        console.note_seed(request.seed)
    model = setup.load()
    from auffusion_cli.tasks import mix as task

    with console.Progress("generating", unit="steps") as progress:
        result = task.mix_made(
            model, recording, request, setup.settings, on_progress=progress.report
        )
    recordings.write(result, path, run, finish)
