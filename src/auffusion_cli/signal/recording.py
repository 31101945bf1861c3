"""Sound file <-> `Recording`: samples without any loss, for edits that leave the rest as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auffusion_cli.files import hash_file, open_regular
from auffusion_cli.signal import riff
from auffusion_cli.signal.formats import INTEGER_BITS, lossless_format_of
from auffusion_cli.signal.sound_file import open_sound, read_blocks, write_sound


@dataclass(frozen=True)
class Recording:
    """The samples of a file as they are in it: what is not changed is written back bit for bit."""

    samples: np.ndarray
    """(N, C): int32 for integers of any width, in the upper bits; float32 or float64 for floats."""
    sample_rate_hz: int
    subtype: str
    """libsndfile's name of a sample format that keeps all of them."""
    sha256: str
    """Of the file."""
    channel_mask: int | None = None
    """Of a WAVE_FORMAT_EXTENSIBLE file: one bit for each loudspeaker."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz

    def waveform(self) -> np.ndarray:
        """(C, N) float32, full scale at -1..1."""
        return np.ascontiguousarray(to_full_scale(self.samples).astype(np.float32).T)

    def quantize(self, waveform: np.ndarray) -> np.ndarray:
        """(N, C) float samples, full scale at -1..1 -> the type and width of `samples`.

        Integers are rounded and clipped; floats may exceed full scale.
        """
        if self.samples.dtype != np.int32:
            return waveform.astype(self.samples.dtype)
        n_bits = INTEGER_BITS[self.subtype]
        full_scale = 2 ** (n_bits - 1)
        rounded = np.clip(np.rint(waveform * full_scale), -full_scale, full_scale - 1)
        return rounded.astype(np.int32) << (32 - n_bits)

    def count_clipped(self, waveform: np.ndarray) -> int:
        """Number of float samples that `quantize` would clip."""
        return 0 if self.samples.dtype != np.int32 else int((np.abs(waveform) > 1).sum())


def to_full_scale(samples: np.ndarray) -> np.ndarray:
    """Samples of a `Recording` -> float64 with full scale at -1..1."""
    return samples / 2.0**31 if samples.dtype == np.int32 else samples.astype(np.float64)


def read_recording(path: str | Path) -> Recording:
    """A file's samples without any loss. Raises AudioError like `read_audio`.

    A compressed file (mp3, ogg) has no sample width of its own; its samples are kept as float.
    """
    path = Path(path)
    with open_sound(path) as sound:
        if sound.subtype in INTEGER_BITS:
            subtype, dtype = sound.subtype, "int32"
        elif sound.subtype == "DOUBLE":
            subtype, dtype = "DOUBLE", "float64"
        else:
            subtype, dtype = "FLOAT", "float32"
        samples = np.concatenate(list(read_blocks(path, sound, dtype)))
        rate_hz = sound.samplerate
        with open_regular(path) as file:
            mask = riff.channel_mask(file)
        sha256 = hash_file(path)
    return Recording(samples, rate_hz, subtype, sha256, mask)


def write_recording(
    path: str | Path,
    recording: Recording,
    *,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a .wav or .flac with exactly the samples of `recording`; whole, or as it was before.

    Raises AudioError where the format cannot hold them, or the disk refuses; OutputExistsError
    where a file is there that is not to be overwritten.
    """
    path = Path(path)
    write_sound(
        path,
        recording.samples,
        recording.sample_rate_hz,
        lossless_format_of(path, recording.subtype),
        provenance=provenance,
        channel_mask=recording.channel_mask,
        overwrite=overwrite,
    )
