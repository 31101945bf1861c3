"""Make a sound again from the record that it carries, and compare."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.errors import AudioError, AuffusionAdvice, UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import (
    EditRequest,
    ExtendRequest,
    FinishRequest,
    GenerateRequest,
    InpaintRequest,
    MixRequest,
    StyleTransferRequest,
    needs_model,
)
from auffusion_cli.signal.audio import to_pcm16
from auffusion_cli.signal.formats import LOSSY_SUFFIXES, format_of, lossless_format_of
from auffusion_cli.signal.recording import Recording, read_recording, to_full_scale
from auffusion_cli.signal.sound_file import audio_info
from auffusion_cli.tasks.edits import EditResult, OnProgress
from auffusion_cli.tasks.extend import extend
from auffusion_cli.tasks.finish import FinishResult, finish_recording, finished
from auffusion_cli.tasks.generate import GenerateResult, generate
from auffusion_cli.tasks.inpaint import inpaint
from auffusion_cli.tasks.mix import mix, mix_made
from auffusion_cli.tasks.room_tone import fill_with_room_tone
from auffusion_cli.tasks.style_transfer import style_transfer
from auffusion_cli.tasks.verify import is_changed, made_rate_hz

if TYPE_CHECKING:
    from auffusion_cli.model import Model


EDITS = {
    InpaintRequest: inpaint,
    ExtendRequest: extend,
    StyleTransferRequest: style_transfer,
}
"""Request -> the task that answers it, of those that change a recording."""
MAX_LOSS = 0.5
"""Error of an ogg or mp3 over the level of its sound, which no encoder comes near."""


@dataclass(frozen=True)
class Reproduction:
    """A sound made again, beside the one that was recorded."""

    recorded: Provenance
    result: GenerateResult | EditResult | FinishResult
    max_difference: float | None
    """Largest difference of a sample from the file's, in units of full scale; it includes the loss
    of the file's format. None if the lengths differ."""
    file_changed: bool
    """Whether the file was changed after it was made: its samples are not those of its record."""

    @property
    def n_samples(self) -> int:
        """Per channel."""
        if isinstance(self.result, EditResult):
            return len(self.result.recording.samples)
        return self.result.waveform.shape[-1]

    @property
    def identical(self) -> bool:
        """Whether every sample is the same as in the file, but for the loss of its format."""
        made_again = self.result.provenance.samples_sha256 == self.recorded.samples_sha256
        return made_again and not self.file_changed

    @property
    def differences(self) -> dict[str, tuple[str, str]]:
        """Circumstances that were not the same: name -> (recorded, now)."""
        return self.recorded.differences(self.result.provenance)


def reproduce(
    model: Model | None,
    recorded: Provenance,
    path: str | Path,
    *,
    source: Recording | None = None,
    on_progress: OnProgress | None = None,
) -> Reproduction:
    """Make the sound of `recorded` again with `model` and compare it with the file at `path`.

    An edit is made from `source`, or if None from the file that `find_source` finds. A request that
    needs no model is given None.
    """
    source = source or find_source(recorded, path)
    check_files(recorded, path, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AuffusionAdvice)
        result = _make_again(model, recorded, path, source, on_progress)
    return _compare(recorded, result, Path(path))


def _make_again(
    model: Model | None,
    recorded: Provenance,
    path: str | Path,
    source: Recording | None,
    on_progress: OnProgress | None,
) -> GenerateResult | EditResult | FinishResult:
    request, settings = recorded.request, recorded.settings
    result: GenerateResult | EditResult | FinishResult
    if isinstance(request, FinishRequest):
        return finish_recording(source, request, recorded.finish)
    if isinstance(request, MixRequest) and request.under:
        result = mix(source, find_bed(request, path), request)
    elif isinstance(request, MixRequest):
        result = mix_made(model, source, request, settings, on_progress=on_progress)
    elif not needs_model(request):
        result = fill_with_room_tone(source, request)
    elif isinstance(request, GenerateRequest):
        tell = on_progress or (lambda n_done, n: None)
        (result,) = generate(
            model, [request], settings, on_step=lambda _, step: tell(step.index + 1, step.n_steps)
        )
    elif isinstance(request, EditRequest):
        from auffusion_cli.tasks.edit import edit as edit_words  # by torch alone

        result = edit_words(model, request, settings, on_progress=on_progress).edited
    else:
        result = EDITS[type(request)](model, source, request, settings, on_progress=on_progress)
    return finished(result, recorded.finish, path)


def _compare(
    recorded: Provenance, result: GenerateResult | EditResult | FinishResult, path: Path
) -> Reproduction:
    changed = is_changed(recorded, path)
    there = to_full_scale(read_recording(path).samples)
    if isinstance(result, EditResult):
        made = to_full_scale(result.recording.samples)
    else:
        made = np.atleast_2d(to_pcm16(result.waveform)).T / 32768
    if there.shape != made.shape:
        return Reproduction(recorded, result, None, changed)
    difference = np.abs(there - made)
    if path.suffix.lower() in LOSSY_SUFFIXES:
        same_as_recorded = result.provenance.samples_sha256 == recorded.samples_sha256
        loss = np.linalg.norm(difference) / max(np.linalg.norm(made), 1e-9)
        changed = changed or (same_as_recorded and loss > MAX_LOSS)
    return Reproduction(recorded, result, float(difference.max(initial=0.0)), changed)


def find_source(
    recorded: Provenance, path: str | Path, source: str | Path | None = None
) -> Recording | None:
    """The recording that an edit was made from: `source`, or its recorded name beside `path`.

    None for a sound made from words alone.

    Raises:
        UsageError: it is not there, or is not the file that the edit was made from.
    """
    if isinstance(recorded.request, GenerateRequest | EditRequest):
        return None
    # The record has a bare name: it cannot lead out of the folder.
    found = Path(source) if source else Path(path).parent / recorded.request.source
    if not found.is_file() or found.samefile(path):
        problem = "is the sound itself" if found.is_file() else "is not there"
        raise UsageError(
            f"{path} was made from another file, {recorded.request.source!r}; {found} {problem}",
            hint="Name it with --source FILE.",
        )
    recording = read_recording(found)
    if recording.sha256 != recorded.request.source_sha256:
        raise UsageError(
            f"{found} is not the file that {path} was made from: its SHA-256 differs",
            hint="Name the right one with --source FILE.",
        )
    return recording


def find_bed(request: MixRequest, path: str | Path) -> Recording:
    """The bed of a mix, by its recorded name beside `path`.

    Raises:
        UsageError: it is not there, or is not the one that was mixed.
    """
    found = Path(path).parent / request.under  # a bare name: it cannot lead out of the folder
    bed = read_recording(found) if found.is_file() else None
    if bed is None or bed.sha256 != request.under_sha256:
        raise UsageError(
            f"{path} was mixed with {request.under!r}, which is not beside it"
            + ("" if bed is None else ": the file there has another SHA-256"),
            hint=f"Put it into {Path(path).parent}.",
        )
    return bed


def check_files(
    recorded: Provenance,
    path: str | Path,
    source: Recording | None,
    output: Path | None = None,
) -> None:
    """Check the files before the sound is made again from `source`, and written to `output`.

    Raises:
        AudioError: `path` has been resampled since it was made, or `output` cannot hold the sound.
    """
    if source is None:
        made_hz, rate_hz = made_rate_hz(recorded), audio_info(path).sample_rate_hz
        if rate_hz != made_hz:
            raise AudioError(
                f"{path}: has been resampled to {rate_hz} Hz since it was made at {made_hz} Hz"
            )
    if output is not None:
        if source is None or isinstance(recorded.request, FinishRequest):
            format_of(output)
        else:
            lossless_format_of(output, source.subtype)
