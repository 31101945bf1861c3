"""Make a sound again from the record that it carries, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auffusion_cli.audio import read_audio, to_pcm16
from auffusion_cli.errors import AuffusionError
from auffusion_cli.provenance import Provenance
from auffusion_cli.tasks.generate import GenerateResult, OnStep, generate

if TYPE_CHECKING:
    from auffusion_cli.model import Model


@dataclass(frozen=True)
class Reproduction:
    """A sound made again, beside the one that was recorded."""

    recorded: Provenance
    result: GenerateResult
    max_difference: float | None
    """Largest difference of a sample from the file's, in units of full scale; it includes what the
    file's format lost. None if the lengths differ."""

    @property
    def identical(self) -> bool:
        """Whether every sample is the same, as 16-bit integers, as before the file was written."""
        return self.result.provenance.samples_sha256 == self.recorded.samples_sha256

    @property
    def differences(self) -> dict[str, tuple[str, str]]:
        """What was not the same in the making: name -> (recorded, now)."""
        return self.recorded.differences(self.result.provenance)


def reproduce(
    model: Model, recorded: Provenance, path: str | Path, *, on_step: OnStep | None = None
) -> Reproduction:
    """Make the sound of `recorded` again with `model` and compare it with the file at `path`."""
    (result,) = generate(model, [recorded.request], recorded.settings, on_step=on_step)
    return Reproduction(recorded, result, _max_difference(result, path))


def _max_difference(result: GenerateResult, path: str | Path) -> float | None:
    waveform, sample_rate_hz = read_audio(path)
    if sample_rate_hz != result.sample_rate_hz:
        raise AuffusionError(
            f"{path}: has been resampled to {sample_rate_hz} Hz since it was made at"
            f" {result.sample_rate_hz} Hz."
        )
    if waveform.shape != (1, len(result.waveform)):
        return None
    made_again = to_pcm16(result.waveform) / 32768
    return (waveform[0] - made_again).abs().max().item()
