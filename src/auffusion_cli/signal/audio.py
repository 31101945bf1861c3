"""Sound file <-> waveform: float samples with full scale at -1..1, at any rate.

16-bit samples are x * 32768, truncated, as the original writes them; so reading a 16-bit file and
writing it again changes nothing.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from auffusion_cli.errors import AudioError, AuffusionWarning
from auffusion_cli.signal.formats import format_of
from auffusion_cli.signal.sound_file import MAX_CHANNELS, open_sound, read_blocks, write_sound

MAX_RATIO = 1000
"""Of two sample rates."""


def read_audio(
    path: str | Path,
    sample_rate_hz: int | None = None,
    mono: bool = False,
    content: bytes | None = None,
) -> tuple[np.ndarray, int]:
    """The samples of a file, (C, N) float32, and their rate.

    Args:
        path: wav, flac, ogg, mp3 or whatever else libsndfile reads, of any width.
        sample_rate_hz: resample to this; None leaves the file's rate.
        mono: mix the channels to one, C = 1, by their mean.
        content: the bytes of a file that lies in another; `path` is then its name in messages.

    Full scale is -1..1, which floating-point files may exceed.
    Raises AudioError, naming the file and the reason: missing, not audio, cut short, without
    sound, too long, with NaN or infinity, or of an absurd rate.
    """
    path = Path(path)
    with open_sound(path, content=content) as sound:
        rate_hz = sound.samplerate
        # libsndfile takes several times as long to make the same floats of 16 bits itself.
        dtype, scale = ("int16", 2.0**-15) if sound.subtype == "PCM_16" else ("float32", 1.0)
        blocks = []
        for block in read_blocks(path, sound, dtype):
            samples = block if scale == 1 else block * np.float32(scale)
            blocks.append(samples.mean(axis=1, keepdims=True) if mono else samples)
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    blocks.clear()
    try:
        waveform = np.ascontiguousarray(samples.T)
        if sample_rate_hz is None:
            return waveform, rate_hz
        return resample(waveform, rate_hz, sample_rate_hz), sample_rate_hz
    except MemoryError as error:
        raise AudioError(f"{path}: does not fit into memory") from error


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """(..., N) samples at `from_hz` -> (..., ceil(N * to_hz / from_hz)) samples at `to_hz`.

    Raises AudioError where one rate is more than a thousand times the other.
    """
    if from_hz == to_hz:
        return waveform
    n = waveform.shape[-1]
    n_resampled = -(-n * to_hz // from_hz)
    if n_resampled == 0:
        return waveform
    if max(from_hz, to_hz) > MAX_RATIO * min(from_hz, to_hz):
        raise AudioError(f"cannot resample from {from_hz:,} Hz to {to_hz:,} Hz")
    # soxr ends with the last sample that lies before the end; silence follows for one after it.
    rows = np.pad(waveform.reshape(-1, n), ((0, 0), (0, math.ceil(from_hz / to_hz) + 1)))
    resampled = soxr.resample(rows.T, from_hz, to_hz, quality="HQ").T[:, :n_resampled]
    return np.ascontiguousarray(resampled).reshape(*waveform.shape[:-1], n_resampled)


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Float samples, full scale -1..1 -> int16: x * 32768, truncated and clipped."""
    return np.clip(waveform * 32768, -32768, 32767).astype(np.int16)


def write_audio(
    path: str | Path,
    waveform: np.ndarray,
    sample_rate_hz: int,
    *,
    subtype: str = "pcm16",
    provenance: dict[str, Any] | None = None,
    overwrite: bool = True,
) -> None:
    """Write (C, N) or (N,) samples; the suffix chooses the format: .wav, .flac, .ogg or .mp3.

    Written beside and renamed, so that `path` is whole or as it was before.

    Args:
        subtype: "pcm16"; "pcm24" in wav and flac; "float" in wav. Ogg and mp3 have one form and
            take the default. What exceeds full scale is clipped, with an AuffusionWarning, except
            in "float".
        provenance: JSON-serialisable record for `read_provenance`, kept in the file's comment.
        overwrite: whether a file that is there is replaced, or an OutputExistsError raised.

    Raises AudioError where the samples or the format cannot be written, or the disk refuses.
    """
    path = Path(path)
    format_and_codec = format_of(path, subtype)
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or not 1 <= waveform.shape[0] <= MAX_CHANNELS:
        raise AudioError(
            f"{path}: cannot write samples of shape {waveform.shape}; "
            f"it must be (N,) or (C, N) with up to {MAX_CHANNELS} channels"
        )
    if not np.isfinite(waveform).all():
        raise AudioError(f"{path}: not written: the sound has NaN or infinite samples")
    codec = format_and_codec[1]
    if codec != "FLOAT":
        warn_of_clipping(path, int((np.abs(waveform) > 1).sum()))
    samples = np.ascontiguousarray(_quantize(waveform, codec).T)
    write_sound(
        path, samples, sample_rate_hz, format_and_codec, provenance=provenance, overwrite=overwrite
    )


def warn_of_clipping(what: object, n_samples: int) -> None:
    """Warn that `n_samples` of `what` exceed full scale, unless there are none."""
    if n_samples:
        warnings.warn(
            f"{what}: {n_samples:,} sample{'s' * (n_samples > 1)} above full scale "
            f"{'were' if n_samples > 1 else 'was'} clipped",
            AuffusionWarning,
            stacklevel=3,
        )


def _quantize(waveform: np.ndarray, codec: str) -> np.ndarray:
    """Samples of a type that libsndfile stores unchanged; encoders get floats in -1..1."""
    match codec:
        case "PCM_16":
            return to_pcm16(waveform)
        case "PCM_24":  # in the upper bytes of 32
            full_scale = 2**23
            scaled = np.clip(waveform * full_scale, -full_scale, full_scale - 1)
            return scaled.astype(np.int32) * 256
        case "FLOAT":
            return waveform
        case _:
            return np.clip(waveform, -1, 1)
