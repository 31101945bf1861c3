"""Finished sounds, of any task or from a file: fades, channels, rate, level, and their record."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from typing import TypeVar

import numpy as np

from auffusion_cli.codec.upper_band import FULL_RATE_HZ
from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import FinishRequest
from auffusion_cli.signal.audio import to_pcm16
from auffusion_cli.signal.finish import Extend, Finished, finish
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.tasks.edits import EditResult
from auffusion_cli.tasks.generate import GenerateResult
from auffusion_cli.tasks.sound import SoundResult
from auffusion_cli.tasks.upper_band import check_rate, upper_band, with_upper_band

Result = TypeVar("Result", GenerateResult, EditResult)


class FinishResult(SoundResult):
    """A file, or a part of one, finished."""


def check_finish(asked: Finish, rate_hz: int, name: object) -> None:
    """Raise a UsageError, which names the sound, where it cannot be finished as `asked`."""
    if asked.extend_band:
        check_rate(rate_hz, name)
    if asked.low_cut_hz is not None and 2 * asked.low_cut_hz >= rate_hz:
        raise UsageError(
            f"--low-cut {asked.low_cut_hz:g} takes away all that {name} has: its rate is"
            f" {rate_hz:,} Hz",
            hint=f"Valid: less than {rate_hz / 2:g} Hz.",
        )


def finish_recording(source: Recording, request: FinishRequest, asked: Finish) -> FinishResult:
    """The part of `source` that `request` names, finished as `asked`.

    Raises:
        UsageError: the recording has no such part.
    """
    end = None if request.n_samples is None else request.first_sample + request.n_samples
    part = to_full_scale(source.samples[request.first_sample : end])
    if not len(part) or (request.n_samples or 0) > len(part):
        raise UsageError(f"{request.source} does not have the part of it that was finished")
    # With its rate the record says all that the file's header does.
    asked = dataclasses.replace(asked, rate_hz=asked.rate_hz or source.sample_rate_hz)
    extend = _extend(asked, source.sample_rate_hz, int(request.source_sha256[:8], 16))
    if asked.extend_band and extend is None:
        warnings.warn(
            f"{request.source}: nothing is added above what {source.sample_rate_hz:,} Hz hold",
            AuffusionWarning,
            stacklevel=2,
        )
    made = finish(part.T, source.sample_rate_hz, asked, loop=request.loop, extend=extend)
    _warn_of_missed(made, asked, request.source)
    waveform = made.waveform.astype(np.float32)
    samples = to_pcm16(waveform).T
    duration_s = waveform.shape[-1] / made.rate_hz
    provenance = _record(Provenance.without_model(request, duration_s, samples), asked, samples)
    return FinishResult(waveform, made.rate_hz, provenance)


def finished(result: Result, asked: Finish | None, name: object) -> Result:
    """`result`, finished as `asked`; None leaves it as it is.

    Warns, of the file called `name`, where the peak does not allow the loudness that is asked for.
    """
    if asked is None:
        return result
    if isinstance(result, EditResult):
        source = result.recording
        waveform, rate_hz = to_full_scale(source.samples).T, source.sample_rate_hz
    else:
        waveform, rate_hz = np.atleast_2d(np.asarray(result.waveform)), result.sample_rate_hz
    extend = _extend(asked, rate_hz, result.provenance.request.seed)
    made = finish(waveform, rate_hz, asked, loop=is_loop(result.provenance), extend=extend)
    _warn_of_missed(made, asked, name)
    if isinstance(result, EditResult):
        samples = source.quantize(made.waveform.T)
        same_channels = samples.shape[1] == source.samples.shape[1]
        recording = dataclasses.replace(
            source,
            samples=samples,
            sample_rate_hz=made.rate_hz,
            channel_mask=source.channel_mask if same_channels else None,
        )
        return EditResult(recording, _record(result.provenance, asked, samples))
    waveform = made.waveform.astype(np.float32)
    samples = to_pcm16(waveform).T
    return dataclasses.replace(
        result,
        waveform=waveform,
        sample_rate_hz=made.rate_hz,
        provenance=_record(result.provenance, asked, samples),
    )


def _extend(asked: Finish, rate_hz: int, seed: int) -> Extend | None:
    """What makes the upper band of a sound at `rate_hz`, where that is asked for and missing."""
    is_missing = rate_hz < FULL_RATE_HZ
    return partial(upper_band, seed=seed) if asked.extend_band and is_missing else None


def _warn_of_missed(made: Finished, asked: Finish, name: object) -> None:
    if made.missed_lufs is not None:
        warnings.warn(
            f"{name}: the true peak of {asked.ceiling_db:g} dB allows {made.missed_lufs:.1f} LUFS,"
            f" not {asked.loudness_lufs:g}",
            AuffusionWarning,
            stacklevel=3,
        )


def _record(provenance: Provenance, asked: Finish, samples: np.ndarray) -> Provenance:
    if asked.extend_band:
        provenance = with_upper_band(provenance)
    return dataclasses.replace(provenance, finish=asked, samples_sha256=hash_samples(samples))


def is_loop(provenance: Provenance) -> bool:
    """Whether the sound is one that is played again and again."""
    request = provenance.request
    return getattr(request, "loop", False) or getattr(request, "where", "") == "loop"
