"""Result and record of the tasks that change a recording."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.codec.waves import WaveCodec
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.signal.recording import Recording, write_recording
from auffusion_cli.tasks.upper_band import with_upper_band

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.request import GenerateSettings, Request

OnProgress = Callable[[int, int], None]
"""Called with the number of denoising steps done and of all, over all windows."""


@dataclass(frozen=True)
class EditResult:
    """A recording that was changed; rate, channels, sample format and length are its source's."""

    recording: Recording
    provenance: Provenance

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write a .wav or .flac that carries `provenance`; see `write_recording`."""
        write_recording(
            path, self.recording, provenance=self.provenance.to_dict(), overwrite=overwrite
        )


def require_log_mels(model: Model, task: str) -> None:
    """Raise a UsageError where `model` works on waveforms, which `task` is not possible with."""
    if isinstance(model.codec, WaveCodec):
        raise UsageError(f"{task} is not possible with {model.name}, which works on waveforms")


def edit_result(
    model: Model,
    source: Recording,
    samples: np.ndarray,
    request: Request,
    settings: GenerateSettings,
    gain: float = 1.0,
) -> EditResult:
    """`samples` (N, C), of the type of the source's, with the record of how they were made.

    `gain` is the lowest with which anything new was turned down.
    """
    provenance = model.provenance(
        request, settings, samples, gain_reduction_db=gain_reduction(gain)
    )
    if request.extend_band:
        provenance = with_upper_band(provenance)
    return EditResult(dataclasses.replace(source, samples=samples), provenance)


def gain_reduction(gain: float) -> float | None:
    """`gain` as a reduction in dB for the record; None where there is none to speak of."""
    return round(-20 * math.log10(gain), 1) or None
