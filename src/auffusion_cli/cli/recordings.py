"""Options, names of results, plan and report of the commands that change a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auffusion_cli.cli import chosen, console
from auffusion_cli.cli.making import Setup
from auffusion_cli.cli.options import Run
from auffusion_cli.cli.outputs import place_for
from auffusion_cli.cli.rows import in_words
from auffusion_cli.config import MAX_DURATION_S, MIN_DURATION_S
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.request import Request
    from auffusion_cli.requests.selection import Choosing
    from auffusion_cli.signal.recording import Recording
    from auffusion_cli.tasks.edits import EditResult

Source = Annotated[Path, typer.Argument(metavar="FILE", help="A recording: wav, flac, ogg, mp3.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|FOLDER|TEMPLATE",
        help="Where to write, .wav or .flac. A template has fields such as {name}, {seed}.",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option("--spectrogram", metavar="FILE.png", help="Draw before and after too."),
]


def read(source: Path) -> Recording:
    """The recording that is to be changed.

    Raises:
        AudioError: it cannot be read.
        UsageError: it is too short or too long.
    """
    from auffusion_cli.signal.recording import read_recording
    from auffusion_cli.signal.sound_file import audio_info

    _check_duration(source, audio_info(source).duration_s)  # before all of it is read
    recording = read_recording(source)
    _check_duration(source, recording.duration_s)
    if not recording.samples.any():
        console.warn(f"{source} is silent")
    return recording


def _check_duration(source: Path, duration_s: float) -> None:
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise UsageError(
            f"{source} lasts {duration_s:g} s",
            hint=f"Valid: {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s.",
        )


def output_path(
    output: str | None, default_name: str, source: Path, recording: Recording, request: Request
) -> Path:
    """The file for the result of `request`, of a format that keeps the samples as they are.

    A template may name the fields of the request. A flac stays one by default, the rest is a wav.
    """
    from auffusion_cli.cli.outputs import as_template, fill
    from auffusion_cli.signal.formats import lossless_format_of

    suffixes = (".flac", ".wav") if source.suffix.lower() == ".flac" else (".wav", ".flac")
    template = as_template(output, None, default_name, "--output", suffixes)
    fields = {"name": source.stem, "seed": request.seed, "prompt": request.prompt}
    if hasattr(request, "strength"):
        fields["strength"] = f"{request.strength:g}"
    path = fill(template, fields, "--output")
    lossless_format_of(path, recording.subtype)
    return path


def check_broadcast(finish: Finish | None, paths: Sequence[Path]) -> None:
    """Raise a UsageError where broadcast fields are asked for in a file that cannot have them."""
    if finish is not None and finish.broadcast:
        for path in paths:
            if path.suffix.lower() != ".wav":
                raise UsageError(f"--broadcast: {path} is not a wav, which alone has such fields")


def check_no_fades(finish: Finish | None, loop: bool, preset: str | None = None) -> None:
    """Raise a UsageError where fades are asked for in a loop, which has no ends."""
    from auffusion_cli.cli.presets import read_presets

    if not loop or finish is None or not (finish.fade_in_s or finish.fade_out_s):
        return
    of_preset = read_presets()[preset] if preset else {}
    if of_preset.get("loop"):
        raise UsageError(
            f"--preset {preset} makes a loop, which has no ends that could be faded",
            hint="Leave the fades out, or --preset.",
        )
    if any(of_preset.get(name) for name in ("fade-in", "fade-out")):
        raise UsageError(
            f"--loop has no ends that could be faded, as --preset {preset} does",
            hint="Add --fade-in 0s --fade-out 0s.",
        )
    raise UsageError("--loop has no ends that could be faded", hint="Leave the fades out.")


def check_outputs(paths: Sequence[Path], picture: Path | None, *, overwrite: bool) -> None:
    """Raise a UsageError where results would collide, cannot be written, or are there already."""
    from auffusion_cli.cli.outputs import as_template, check_distinct, check_free, check_writable

    check_distinct(paths, "--output", hint="Valid: a folder, or a template with {strength}.")
    check_writable(paths, "--output")
    pictures = []
    if picture is not None:
        as_template(str(picture), ".png", "", "--spectrogram", suffixes=(".png",))
        pictures = [picture]
        check_writable(pictures, "--spectrogram")
    if not overwrite:
        check_free([*paths, *pictures])


def show_plan(
    setup: Setup, requests: Mapping[Path, Request], *, as_json: bool, **more: object
) -> None:
    """Print the settings, with `more` of them, and each file with the request that it answers."""
    show_requests(requests, setup.to_dict() | more, as_json=as_json)


def show_requests(
    requests: Mapping[Path, Request], settings: Mapping[str, object], *, as_json: bool
) -> None:
    """Print `settings`, and each file with the request that it answers."""
    if as_json:
        sounds = [{"file": str(path), **asdict(request)} for path, request in requests.items()]
        console.print_json({"settings": settings, "sounds": sounds})
        return
    console.print_table(("SETTING", "VALUE"), in_words(settings))
    for path, request in requests.items():
        console.print_line()
        console.print_table(("FILE", str(path)), in_words(asdict(request)))


def kept_paths(choosing: Choosing, path: Path, prompt: str) -> list[Path]:
    """Files of the candidates that are kept, that of the best one first: `path`.

    Raises:
        UsageError: candidates are asked for, and no words to judge them by.
    """
    from auffusion_cli.cli.plan import ranked_path

    if choosing.best_of > 1 and not prompt:
        raise UsageError(
            f"--best-of {choosing.best_of}: the judge goes by words, and there are none",
            hint="Add --prompt with what should be heard.",
        )
    return [path, *(ranked_path(path, rank) for rank in range(2, choosing.n_kept + 1))]


def make(
    choosing: Choosing, verb: str, edit: Callable[..., EditResult], request: Request
) -> list[EditResult]:
    """What `edit` makes of `request`, as `choosing` asks: the best one first.

    `edit` takes a request, and `on_progress` by name.
    """
    from auffusion_cli.tasks.choose import Chooser, choose_edit

    n_made = 0
    with console.Progress(verb, unit="steps") as progress:

        def make_one(each: Request) -> EditResult:
            nonlocal n_made
            nth = n_made % choosing.best_of  # what the guards have made again counts anew
            n_made += 1
            return edit(
                each,
                on_progress=lambda n_done, n: progress.report(
                    nth * n + n_done, choosing.best_of * n
                ),
            )

        return choose_edit(Chooser.load(choosing), make_one, request)


def write_kept(
    results: Sequence[EditResult], paths: Sequence[Path], run: Run, finish: Finish | None
) -> None:
    """Write the results that have a path, the best one last, and tell how it was chosen."""
    from auffusion_cli.tasks.finish import finished

    best, *others = zip(results, paths, strict=False)
    for result, path in others:
        with place_for(path):
            finished(result, finish, path).save(path, overwrite=run.overwrite)
    chosen.note_rejected(chosen.tell(best[1], best[0].provenance.selection))
    write(*best, run, finish)


def write(result: EditResult, path: Path, run: Run, finish: Finish | None) -> None:
    """Finish and write one result, and print its name, or its record."""
    from auffusion_cli.tasks.finish import finished

    result = finished(result, finish, path)
    with place_for(path):
        result.save(path, overwrite=run.overwrite)
    if gain_reduction_db := result.provenance.gain_reduction_db:
        is_whole = result.provenance.request.task in ("style-transfer", "mix")
        console.note(
            f"{path} is {gain_reduction_db:g} dB softer than the recording, so as not to clip"
            if is_whole
            else f"the new part is turned down by up to {gain_reduction_db:g} dB, to the loudest"
            " moment of the recording"
        )
    console.print_made(path, result.provenance.to_dict(), as_json=run.json)


def draw(picture: Path, titled: Sequence[tuple[str, Recording]], *, overwrite: bool) -> None:
    """Draw the spectrograms of several recordings of one length, one below the other."""
    from auffusion_cli.pictures.spectrogram import save_comparison
    from auffusion_cli.signal.audio import resample
    from auffusion_cli.signal.spectrogram import LogMel, analyze

    spectrogram = LogMel()
    config = spectrogram.config
    log_mels = []
    for title, recording in titled:
        mono = recording.waveform().mean(axis=0)
        mono = resample(mono, recording.sample_rate_hz, config.sample_rate_hz)
        log_mels.append((title, analyze(spectrogram, mono[None])[0]))
    with place_for(picture):
        save_comparison(log_mels, picture, config, overwrite=overwrite)
