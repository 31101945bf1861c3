"""`auffusion codec`: a recording through the model's spectrogram, or latent, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.outputs import place_for

if TYPE_CHECKING:
    import numpy as np


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
    """Take a recording to a spectrogram or latent and back, and measure the error.

    The result is the best that the model could ever make of that sound. The error is the mean
    absolute difference of the two log-mel spectrograms in dB, where the recording has sound: within
    60 dB of its loudest moment and pitch.

    \b
    Examples:
      auffusion codec in.wav -o out.wav --through mel
      auffusion codec in.flac -o out.flac --through latent --model auffusion
      auffusion codec in.wav -o out.wav --vocoder griffin-lim --json
    """
    from auffusion_cli.checkpoints.names import refuse_waveforms
    from auffusion_cli.cli import resolve
    from auffusion_cli.cli.outputs import check_free, check_writable
    from auffusion_cli.config import SpectrogramConfig

    check_writable([output], "--output")
    if not overwrite:
        check_free([output])

    from auffusion_cli.signal.audio import write_audio
    from auffusion_cli.signal.formats import format_of

    format_of(output)
    refuse_waveforms(model, "codec")
    rate_hz = SpectrogramConfig().sample_rate_hz
    waveform = _read(path, rate_hz)
    checkpoint = resolve.fetch(model, yes=yes)
    defaults, chosen_vocoder = resolve.describe(checkpoint, vocoder)

    from auffusion_cli.checkpoints.load import load_codec
    from auffusion_cli.tasks.round_trip import round_trip

    codec = load_codec(checkpoint.folder, vocoder, defaults, device=device)
    with console.Progress("coding", unit="windows") as progress:
        sound, error_db = round_trip(
            codec,
            waveform,
            through,
            window_s=defaults.max_duration_s,
            on_window=progress.report,
        )
    with place_for(output):
        write_audio(output, sound, rate_hz, overwrite=overwrite)
    if not json:
        console.print_line(f"{output}  {error_db:.2f} dB")
        return
    console.print_json(
        {
            "input": str(path),
            "output": str(output),
            "through": through,
            "model": checkpoint.name,
            "vocoder": chosen_vocoder,
            "duration_s": len(sound) / rate_hz,
            "error_db": round(error_db, 3),
        }
    )


def _read(path: Path, rate_hz: int) -> np.ndarray:
    """(N,) waveform of the file at `rate_hz`, with notes of what was changed for that."""
    from auffusion_cli.signal.audio import read_audio
    from auffusion_cli.signal.sound_file import audio_info

    info = audio_info(path)
    waveform, _ = read_audio(path, rate_hz, mono=True)
    if not waveform.any():
        console.warn(f"{path} is silent")
    if info.n_channels > 1:
        console.note(f"{path}: {info.n_channels} channels are mixed to one")
    if info.sample_rate_hz != rate_hz:
        console.note(f"{path}: resampled from {info.sample_rate_hz:,} Hz to {rate_hz:,} Hz")
    return waveform[0]
