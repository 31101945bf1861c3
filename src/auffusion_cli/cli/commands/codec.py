"""`auffusion codec`: a recording through the model's spectrogram, or latent, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import OutputExistsError
from auffusion_cli.files import folder_of


def register(app: typer.Typer) -> None:
    app.command("codec")(codec_command)


def codec_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="wav, flac, ogg or mp3.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the sound that comes back.")
    ],
    through: Annotated[
        Literal["mel", "latent"],
        typer.Option(help="How deep to go: the log-mel spectrogram, or the latent behind it."),
    ] = "latent",
    model: options.Model = "embedded",
    vocoder: options.Vocoder = "auto",
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    yes: options.Yes = False,
) -> None:
    """Take a recording to a spectrogram or latent and back, and tell the error.

    What comes back is the best that the model could ever make of that sound. The error is the mean
    absolute difference of the two log-mel spectrograms in dB, where the recording has sound: within
    60 dB of its loudest moment and pitch.

    \b
    Examples:
      auffusion codec in.wav -o out.wav --through mel
      auffusion codec in.flac -o out.flac --through latent --model auffusion
      auffusion codec in.wav -o out.wav --vocoder griffin-lim --json
    """
    from auffusion_cli.cli.commands.models import resolve_model
    from auffusion_cli.cli.outputs import check_writable

    if output.exists() and not output.is_dir() and not overwrite:
        raise OutputExistsError(
            f"{output} exists.", hint="Give another name, or --overwrite to replace it."
        )
    check_writable([output], "--output")

    from auffusion_cli.config import SpectrogramConfig
    from auffusion_cli.signal.audio import read_audio, write_audio
    from auffusion_cli.signal.formats import format_of
    from auffusion_cli.signal.sound_file import audio_info

    format_of(output)
    rate_hz = SpectrogramConfig().sample_rate_hz
    info = audio_info(path)
    waveform, _ = read_audio(path, rate_hz, mono=True)
    if not waveform.any():
        console.warn(f"{path} is silent")
    if info.n_channels > 1:
        console.note(f"{path}: {info.n_channels} channels are mixed to one")
    if info.sample_rate_hz != rate_hz:
        console.note(f"{path}: resampled from {info.sample_rate_hz:,} Hz to {rate_hz:,} Hz")

    checkpoint = resolve_model(model, yes=yes)

    import torch

    from auffusion_cli.checkpoints.layout import read_identity
    from auffusion_cli.checkpoints.load import load_codec
    from auffusion_cli.device import choose_device
    from auffusion_cli.tasks.round_trip import round_trip

    defaults = read_identity(checkpoint.folder).defaults
    codec = load_codec(checkpoint.folder, torch.float32, vocoder, defaults)
    codec.to(choose_device(device))
    with console.Progress("coding", unit="windows") as progress:
        sound, error_db = round_trip(
            codec,
            waveform[0],
            through,
            window_s=defaults.max_duration_s,
            on_window=lambda n_done, n: progress.update(completed=n_done, total=n),
        )
    with folder_of(output):
        write_audio(output, sound, rate_hz, overwrite=overwrite)
    if json:
        console.print_json(
            {
                "input": str(path),
                "output": str(output),
                "through": through,
                "model": checkpoint.name,
                "vocoder": codec.vocoder.name,
                "duration_s": len(sound) / rate_hz,
                "error_db": round(error_db, 3),
            }
        )
    else:
        typer.echo(f"{output}  {error_db:.2f} dB")
