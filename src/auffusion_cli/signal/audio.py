"""Sound file <-> waveform: float samples with full scale at -1..1, at any rate.

16-bit samples are x * 32768, truncated, as the original writes them; so reading a 16-bit file and
writing it again changes nothing.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor

from auffusion_cli.errors import AudioError, AuffusionWarning
from auffusion_cli.signal.formats import format_of
from auffusion_cli.signal.sound_file import MAX_CHANNELS, open_sound, read_blocks, write_sound


def read_audio(
    path: str | Path, sample_rate_hz: int | None = None, mono: bool = False
) -> tuple[Tensor, int]:
    """The samples of a file, (C, N) float32, and their rate.

    Args:
        path: wav, flac, ogg, mp3 or whatever else libsndfile reads, of any width.
        sample_rate_hz: resample to this; None leaves the file's rate.
        mono: mix the channels to one, C = 1, by their mean.

    Full scale is -1..1, which floating-point files may exceed.
    Raises AudioError, naming the file and the reason: missing, not audio, cut short, without
    sound, too long, with NaN or infinity, or of an absurd rate.
    """
    path = Path(path)
    with open_sound(path) as sound:
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
        waveform = torch.from_numpy(np.ascontiguousarray(samples.T))
        if sample_rate_hz is None:
            return waveform, rate_hz
        return resample(waveform, rate_hz, sample_rate_hz), sample_rate_hz
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise AudioError(f"{path}: does not fit into memory") from error


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., N) samples at `from_hz` -> (..., ceil(N * to_hz / from_hz)) samples at `to_hz`."""
    if from_hz == to_hz:
        return waveform
    n_samples = -(-waveform.shape[-1] * to_hz // from_hz)
    if n_samples == 0:
        return waveform
    # The filter bank grows with the terms of the ratio. Where they have no common divisor (44101 to
    # 16000) a ratio that is off by less than one in a million stands in for it, inaudibly.
    ratio = Fraction(from_hz, to_hz).limit_denominator(1000)
    if ratio.numerator == 0:
        raise AudioError(f"cannot resample from {from_hz:,} Hz to {to_hz:,} Hz")
    resampled = torchaudio.functional.resample(waveform, ratio.numerator, ratio.denominator)
    n_missing = max(n_samples - resampled.shape[-1], 0)
    return torch.nn.functional.pad(resampled, (0, n_missing))[..., :n_samples]


def to_pcm16(waveform: Tensor) -> Tensor:
    """Float samples, full scale -1..1 -> int16: x * 32768, truncated and clipped."""
    return (waveform * 32768).clamp(-32768, 32767).to(torch.int16)


def write_audio(
    path: str | Path,
    waveform: Tensor,
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
    waveform = waveform.detach().cpu().float()
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or not 1 <= waveform.shape[0] <= MAX_CHANNELS:
        raise AudioError(
            f"{path}: cannot write samples of shape {tuple(waveform.shape)}; "
            f"it must be (N,) or (C, N) with up to {MAX_CHANNELS} channels"
        )
    if not waveform.isfinite().all():
        raise AudioError(f"{path}: not written: the sound has NaN or infinite samples")
    codec = format_and_codec[1]
    if codec != "FLOAT":
        warn_of_clipping(path, int((waveform.abs() > 1).sum()))
    samples = _quantize(waveform, codec).T.contiguous().numpy()
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


def _quantize(waveform: Tensor, codec: str) -> Tensor:
    """Samples of a type that libsndfile stores unchanged; encoders get floats in -1..1."""
    match codec:
        case "PCM_16":
            return to_pcm16(waveform)
        case "PCM_24":  # in the upper bytes of 32
            full_scale = 2**23
            return (waveform * full_scale).clamp(-full_scale, full_scale - 1).to(torch.int32) * 256
        case "FLOAT":
            return waveform
        case _:
            return waveform.clamp(-1, 1)
