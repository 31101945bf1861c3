"""Comparison of a sound file with its own record. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import EditRequest, FinishRequest, GenerateRequest
from auffusion_cli.signal.formats import LOSSY_SUFFIXES
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.signal.sound_file import audio_info

LENGTH_TOLERANCE_S = 0.1
"""Lossy formats may lengthen a sound a little."""


def made_rate_hz(recorded: Provenance) -> int:
    """Sample rate of the file of a sound that was made from words, or finished."""
    finish = recorded.finish
    return (finish and finish.rate_hz) or recorded.model_rate_hz


def is_changed(recorded: Provenance, path: Path) -> bool:
    """Whether the file at `path` was changed after it was made: cut, made softer, resampled.

    Of mp3 and ogg, which never have the samples that were recorded, only rate and length are
    checked.

    Raises:
        AudioError: the file cannot be read.
    """
    if not isinstance(recorded.request, GenerateRequest | EditRequest | FinishRequest):
        return hash_samples(read_recording(path).samples) != recorded.samples_sha256
    info = audio_info(path)
    if info.sample_rate_hz != made_rate_hz(recorded):
        return True
    if path.suffix.lower() in LOSSY_SUFFIXES:
        return abs(info.duration_s - recorded.settings.duration_s) > LENGTH_TOLERANCE_S
    samples = np.trunc(to_full_scale(read_recording(path).samples) * 32768)  # like `to_pcm16`
    samples = samples.clip(-32768, 32767).astype(np.int16)
    return hash_samples(samples) != recorded.samples_sha256
