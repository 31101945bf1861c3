"""What the commands that change a recording share: options, names of results, plan and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console
from auffusion_cli.config import GenerationDefaults, SpectrogramConfig
from auffusion_cli.errors import UsageError
from auffusion_cli.files import folder_of

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.names import Checkpoint
    from auffusion_cli.model import Model
    from auffusion_cli.requests.request import GenerateSettings, Request
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
    str | None,
    typer.Option("--spectrogram", metavar="FILE.png", help="Draw before and after too."),
]


def read(source: Path) -> Recording:
    """The recording that is to be changed.

    Raises:
        AudioError: it cannot be read.
        UsageError: it is too short or too long.
    """
    from auffusion_cli.requests.request import MAX_DURATION_S, MIN_DURATION_S
    from auffusion_cli.signal.recording import read_recording

    recording = read_recording(source)
    if not MIN_DURATION_S <= recording.duration_s <= MAX_DURATION_S:
        raise UsageError(
            f"{source} lasts {recording.duration_s:g} s.",
            hint=f"Valid: {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s.",
        )
    if not recording.samples.any():
        console.warn(f"{source} is silent")
    return recording


@dataclass(frozen=True)
class Setup:
    """With what an edit will be made; resolved, with nothing loaded."""

    model: str
    checkpoint: Checkpoint | None
    """None in a dry run with a model that is not downloaded."""
    defaults: GenerationDefaults
    settings: GenerateSettings
    vocoder: str

    def describe(self, device: str, dtype: str) -> dict[str, Any]:
        from auffusion_cli.cli.resolve import describe_machine

        return asdict(self.settings) | {
            "model": self.model,
            "revision": self.checkpoint.revision if self.checkpoint else None,
            "downloaded": self.checkpoint is not None,
            "vocoder": self.vocoder,
            **describe_machine(device, dtype),
        }


def set_up(
    model: str,
    vocoder: str,
    source: Recording,
    asked: Mapping[str, Any],
    *,
    dry_run: bool,
    yes: bool,
) -> Setup:
    """Check the settings, and find the model, or fetch it unless it is a dry run."""
    from auffusion_cli.cli.commands.models import find, resolve_model
    from auffusion_cli.cli.resolve import describe
    from auffusion_cli.requests.request import MAX_DURATION_S, GenerateSettings

    # Before anything is downloaded.
    anything = GenerationDefaults(duration_s=source.duration_s, max_duration_s=MAX_DURATION_S)
    GenerateSettings.from_defaults(anything, **asked)
    checkpoint = find(model) if dry_run else resolve_model(model, yes=yes)
    defaults, vocoder = describe(checkpoint, vocoder)
    # An edit is as long as its source, whatever the model's window.
    settings = GenerateSettings.from_defaults(defaults, **asked)
    settings = replace(settings, duration_s=source.duration_s)
    return Setup(model, checkpoint, defaults, settings, vocoder)


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


def check_outputs(paths: Sequence[Path], picture: str | Path | None, *, overwrite: bool) -> None:
    """Raise a UsageError where results would collide, cannot be written, or are there already."""
    from auffusion_cli.cli.outputs import as_template, check_distinct, check_writable
    from auffusion_cli.cli.plan import check_free

    check_distinct(paths, "--output", hint="Valid: a folder, or a template with {strength}.")
    check_writable(paths, "--output")
    pictures = []
    if picture is not None:
        as_template(str(picture), ".png", "", "--spectrogram", suffixes=(".png",))
        pictures = [Path(picture)]
        check_writable(pictures, "--spectrogram")
    if not overwrite:
        check_free([*paths, *pictures])


def show_plan(
    resolved: Mapping[str, Any], requests: Mapping[Path, Request], *, as_json: bool
) -> None:
    """What a dry run tells: the settings, and each file with what it will be made from."""
    if as_json:
        sounds = [{"file": str(path), **asdict(request)} for path, request in requests.items()]
        console.print_json({"settings": resolved, "sounds": sounds})
        return
    console.print_table(("SETTING", "VALUE"), console.fields(resolved))
    for path, request in requests.items():
        typer.echo()
        console.print_table(("FILE", str(path)), console.fields(asdict(request)))


def write(result: EditResult, path: Path, *, as_json: bool, overwrite: bool) -> None:
    """Write one result and say so."""
    with folder_of(path):
        result.save(path, overwrite=overwrite)
    if turned_down_db := result.provenance.turned_down_db:
        console.note(
            f"the new part is turned down by up to {turned_down_db:g} dB, to the loudest moment of"
            " the recording"
        )
    if as_json:
        console.print_json({"status": "made", "file": str(path), **result.provenance.to_dict()})
    else:
        console.print_path(path)


def draw(
    picture: Path, titled: Sequence[tuple[str, Recording]], model: Model, *, overwrite: bool
) -> None:
    """The spectrograms of several recordings of one length, one below the other."""
    from auffusion_cli.pictures.spectrogram import save_comparison
    from auffusion_cli.signal.audio import resample

    config: SpectrogramConfig = model.codec.spectrogram_config
    log_mels = []
    for title, recording in titled:
        mono = recording.waveform().mean(dim=0)
        mono = resample(mono, recording.sample_rate_hz, config.sample_rate_hz)
        log_mels.append((title, model.analyze(mono)))
    with folder_of(picture):
        save_comparison(log_mels, picture, config, overwrite=overwrite)
