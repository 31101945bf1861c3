"""Make a sound again from the record that it carries, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import AudioError, UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import (
    EditRequest,
    ExtendRequest,
    GenerateRequest,
    InpaintRequest,
    StyleTransferRequest,
)
from auffusion_cli.signal.audio import read_audio, to_pcm16
from auffusion_cli.signal.formats import format_of, lossless_format_of
from auffusion_cli.signal.recording import Recording, read_recording, to_full_scale
from auffusion_cli.signal.sound_file import audio_info
from auffusion_cli.tasks.edit import edit as edit_words
from auffusion_cli.tasks.edits import EditResult, OnProgress
from auffusion_cli.tasks.extend import extend
from auffusion_cli.tasks.generate import GenerateResult, generate
from auffusion_cli.tasks.inpaint import inpaint
from auffusion_cli.tasks.style_transfer import style_transfer

if TYPE_CHECKING:
    from auffusion_cli.model import Model


EDITS = {
    InpaintRequest: inpaint,
    ExtendRequest: extend,
    StyleTransferRequest: style_transfer,
}
"""What each request changes a recording by."""


@dataclass(frozen=True)
class Reproduction:
    """A sound made again, beside the one that was recorded."""

    recorded: Provenance
    result: GenerateResult | EditResult
    max_difference: float | None
    """Largest difference of a sample from the file's, in units of full scale; it includes what the
    file's format lost. None if the lengths differ."""

    @property
    def n_samples(self) -> int:
        """Per channel."""
        if isinstance(self.result, EditResult):
            return len(self.result.recording.samples)
        return len(self.result.waveform)

    @property
    def identical(self) -> bool:
        """Whether every sample is the same as before the file was written."""
        return self.result.provenance.samples_sha256 == self.recorded.samples_sha256

    @property
    def differences(self) -> dict[str, tuple[str, str]]:
        """What was not the same in the making: name -> (recorded, now)."""
        return self.recorded.differences(self.result.provenance)


def reproduce(
    model: Model,
    recorded: Provenance,
    path: str | Path,
    *,
    source: Recording | None = None,
    on_progress: OnProgress | None = None,
) -> Reproduction:
    """Make the sound of `recorded` again with `model` and compare it with the file at `path`.

    An edit is made from `source`, or if None from the file that `find_source` finds.
    """
    request, settings = recorded.request, recorded.settings
    source = source or find_source(recorded, path)
    check_files(recorded, path, source)
    if isinstance(request, GenerateRequest):
        tell = on_progress or (lambda n_done, n: None)
        (result,) = generate(
            model, [request], settings, on_step=lambda _, step: tell(step.index + 1, step.n_steps)
        )
        return Reproduction(recorded, result, _max_difference(result, path))
    if isinstance(request, EditRequest):
        result = edit_words(model, request, settings, on_progress=on_progress).edited
        return Reproduction(recorded, result, _max_difference(result, path))
    result = EDITS[type(request)](model, source, request, settings, on_progress=on_progress)
    return Reproduction(recorded, result, _max_edit_difference(result, path))


def find_source(
    recorded: Provenance, path: str | Path, source: str | Path | None = None
) -> Recording | None:
    """What an edit was made from: `source`, or the file of the recorded name beside `path`.

    None for what was made from words alone.

    Raises:
        UsageError: it is not there, or is not the file that the edit was made from.
    """
    if isinstance(recorded.request, GenerateRequest | EditRequest):
        return None
    # The record has a bare name: it cannot lead out of the folder.
    found = Path(source) if source else Path(path).parent / recorded.request.source
    if not found.is_file():
        raise UsageError(
            f"{path} was made from {recorded.request.source!r}; {found} is not there.",
            hint="Name it with --source FILE.",
        )
    recording = read_recording(found)
    if recording.sha256 != recorded.request.source_sha256:
        raise UsageError(
            f"{found} is not the file that {path} was made from: its SHA-256 differs.",
            hint="Name the right one with --source FILE.",
        )
    return recording


def check_files(
    recorded: Provenance,
    path: str | Path,
    source: Recording | None,
    output: Path | None = None,
) -> None:
    """What can be told before the sound is made again from `source`, and written to `output`.

    Raises:
        AudioError: `path` has been resampled since it was made, or `output` cannot hold the sound.
    """
    if source is None:
        made_hz, rate_hz = SpectrogramConfig().sample_rate_hz, audio_info(path).sample_rate_hz
        if rate_hz != made_hz:
            raise AudioError(
                f"{path}: has been resampled to {rate_hz} Hz since it was made at {made_hz} Hz."
            )
    if output is not None:
        if source is None:
            format_of(output)
        else:
            lossless_format_of(output, source.subtype)


def _max_difference(result: GenerateResult, path: str | Path) -> float | None:
    waveform, _ = read_audio(path)
    if waveform.shape != (1, len(result.waveform)):
        return None
    made_again = to_pcm16(result.waveform) / 32768
    return (waveform[0] - made_again).abs().max().item()


def _max_edit_difference(result: EditResult, path: str | Path) -> float | None:
    there, made_again = read_recording(path), result.recording
    if there.samples.shape != made_again.samples.shape:
        return None
    difference = to_full_scale(there.samples) - to_full_scale(made_again.samples)
    return float(np.abs(difference).max())
