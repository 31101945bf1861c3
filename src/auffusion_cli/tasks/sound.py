"""A sound as a task gives it back: samples, and the record that its file carries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.signal.audio import write_audio


@dataclass(frozen=True)
class SoundResult:
    """One sound and how it was made."""

    waveform: np.ndarray
    """(C, N) float32, full scale at -1..1; (N,) of one channel that a model made."""
    sample_rate_hz: int
    provenance: Provenance

    def save(self, path: str | Path, *, subtype: str = "pcm16", overwrite: bool = True) -> None:
        """Write a .wav, .flac, .ogg or .mp3 that carries `provenance`; see `write_audio`."""
        write_audio(
            path,
            self.waveform,
            self.sample_rate_hz,
            subtype=subtype,
            provenance=self.provenance.to_dict(),
            overwrite=overwrite,
        )
