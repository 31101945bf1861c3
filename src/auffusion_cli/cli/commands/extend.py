"""`auffusion extend`: more of a recording, or a loop of it; the recording itself stays."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import console, options, recordings
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.signal.recording import Recording

DEFAULT_LOOP_S = 1.0


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(extend))


def extend(
    source: recordings.Source,
    by_s: Annotated[
        float | None,
        options.seconds("--by", "Length to add: 5s, 800ms; for a loop by default 1s."),
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="Add before the start.", show_default=False)
    ] = False,
    loop: Annotated[
        bool,
        typer.Option("--loop", help="Lead from the end back to the start.", show_default=False),
    ] = False,
    prompt: options.NewPart = "",
    output: recordings.Output = None,
    crossfade_s: Annotated[
        float,
        options.seconds(
            "--crossfade", "From the recording's own sound to the new one; by default 100ms."
        ),
    ] = 0.1,
    over_s: Annotated[
        float | None,
        options.seconds(
            "--over",
            "So much of it is made anew where it is extended, such as a fade; by default the fade"
            " that its record tells of.",
        ),
    ] = None,
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
    """Make a recording longer, or make a seamless loop of it.

    Every sample of the recording stays as it was, but for a fade that auffusion made; so do its
    rate, width and channels. The new part comes after it, or before it with --before. With --loop
    it leads from the end to the start: played again and again, there is no seam.

    \b
    Examples:
      auffusion extend clip.wav --by 5s
      auffusion extend clip.wav --by 3s --before --prompt "footsteps come closer" -o longer.wav
      auffusion extend clip.wav --by 3s --prompt "thunder" --best-of 4 -o longer.wav
      auffusion extend rain.wav --loop -o rain-loop.wav --spectrogram before-after.png
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.config import MAX_DURATION_S
    from auffusion_cli.requests.request import ExtendRequest
    from auffusion_cli.requests.seeds import draw_seed
    from auffusion_cli.tasks import extend as task

    if before and loop:
        raise UsageError("Give either --before or --loop, not both")
    if by_s is None and not loop:
        raise UsageError("Give --by, or --loop", hint="For example: --by 5s.")
    by_s = DEFAULT_LOOP_S if by_s is None else by_s
    finish, choosing = finishing.finish(), choice.choosing()
    recording = recordings.read(source)
    duration_s = recording.duration_s + by_s
    if duration_s > MAX_DURATION_S:
        raise UsageError(
            f"--by {by_s:g}s: with it {source} would last {duration_s:g} s",
            hint=f"Valid: up to {MAX_DURATION_S:g} s in all.",
        )
    where = "before" if before else "loop" if loop else "after"
    if over_s is None:
        over_s = _faded_s(source, recording, where)
    request = ExtendRequest(
        source=source.name,
        source_sha256=recording.sha256,
        seed=draw_seed() if seed is None else seed,
        by_s=by_s,
        where=where,
        prompt=prompt,
        negative_prompt=negative,
        crossfade_s=crossfade_s,
        over_s=over_s,
        extend_band=finishing.extend_band,
    )
    task.check_over(request, recording.duration_s)
    name = "{name}-loop" if loop else "{name}-extended"
    path = recordings.output_path(output, name, source, recording, request)
    recordings.check_no_fades(finish, loop)
    paths = recordings.kept_paths(choosing, path, prompt)
    recordings.check_broadcast(finish, paths)
    recordings.check_outputs(paths, spectrogram, overwrite=run.overwrite)
    setup = set_up(loading, sampling.lasting(duration_s), run)
    setup.check_words([prompt], [negative])
    if run.dry_run:
        recordings.show_plan(setup, {path: request}, as_json=run.json, **asdict(choosing))
        return
    if seed is None:
        console.note_seed(request.seed)
    model = setup.load()
    edit = partial(task.extend, model, recording, settings=setup.settings)
    results = recordings.make(choosing, "extending", edit, request)
    if spectrogram:
        padded = _padded(recording, results[0].recording, before=before)
        titled = [("before", padded), ("after", results[0].recording)]
        recordings.draw(spectrogram, titled, overwrite=run.overwrite)
    recordings.write_kept(results, paths, run, finish)


def _faded_s(source: Path, recording: Recording, where: str) -> float:
    """How long the fade is that is made anew, which is told; 0 where there is none."""
    from auffusion_cli.cli.plan import record_of
    from auffusion_cli.tasks.extend import faded_s

    if fade_s := faded_s(recording, record_of(source), where):
        console.note(f"its fade of {fade_s:g} s is made anew (--over 0 keeps it)")
    return fade_s


def _padded(recording: Recording, longer: Recording, *, before: bool) -> Recording:
    """The recording with silence where `longer` has more, so that both have one time axis."""
    import numpy as np

    n_more = len(longer.samples) - len(recording.samples)
    around = (n_more, 0) if before else (0, n_more)
    return replace(recording, samples=np.pad(recording.samples, (around, (0, 0))))
