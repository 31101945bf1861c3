"""A bed under a recording: one of its own, or one made of words at the recording's length."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from auffusion_cli.model import Model
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, MixRequest
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.mix import lay_under
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result, gain_reduction
from auffusion_cli.tasks.generate import generate
from auffusion_cli.tasks.upper_band import extended, with_upper_band


def mix(source: Recording, bed: Recording, request: MixRequest) -> EditResult:
    """`source` with `bed` under it, as long as `source` and of its rate and sample format.

    There are as many channels as the one with more of them has. Where the sum would exceed full
    scale all of it is softer; otherwise the source's own part of it is unchanged.
    """
    samples, gain = _mixed(source, to_full_scale(bed.samples).T, bed.sample_rate_hz, request)
    record = Provenance.without_model(
        request, source.duration_s, samples, gain_reduction_db=gain_reduction(gain)
    )
    if request.extend_band:
        record = with_upper_band(record)
    return EditResult(_replaced(source, samples), record)


def mix_made(
    model: Model,
    source: Recording,
    request: MixRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> EditResult:
    """`mix` with a bed made of the request's words, as long as `settings` say."""
    tell = on_progress or (lambda n_done, n: None)
    wanted = GenerateRequest(request.prompt, request.seed, request.negative_prompt)
    (bed,) = generate(
        model, [wanted], settings, on_step=lambda _, step: tell(step.index + 1, step.n_steps)
    )
    waveform = np.atleast_2d(np.asarray(bed.waveform))
    samples, gain = _mixed(source, waveform, bed.sample_rate_hz, request)
    result = edit_result(model, source, samples, request, settings, gain)
    return EditResult(_replaced(source, samples), result.provenance)


def _mixed(
    source: Recording, bed: np.ndarray, bed_hz: int, request: MixRequest
) -> tuple[np.ndarray, float]:
    """(samples (N, C) of the source's type, the gain of all of it)."""
    waveform = to_full_scale(source.samples).T
    rate_hz = source.sample_rate_hz
    n_channels = max(len(waveform), len(bed))
    to_own_rate = partial(extended, seed=request.seed) if request.extend_band else resample
    bed = _with_channels(to_own_rate(bed.astype(np.float64), bed_hz, rate_hz), n_channels)
    waveform = _with_channels(waveform, n_channels)
    mixed = waveform + lay_under(
        waveform,
        bed,
        rate_hz,
        below_db=request.below_db,
        duck_db=request.duck_db,
        fade_s=request.fade_s,
    )
    # A source that is at full scale itself, or over it, stays as it is.
    highest = max(1.0, np.abs(waveform).max(initial=0.0))
    gain = min(1.0, float(highest / max(np.abs(mixed).max(initial=0.0), 1e-9)))
    return source.quantize(gain * mixed.T), gain


def _with_channels(waveform: np.ndarray, n: int) -> np.ndarray:
    """(C, N) -> (n, N): one channel goes to all; of several the last ones stay silent."""
    if len(waveform) == 1:
        return np.repeat(waveform, n, axis=0)
    return np.pad(waveform, ((0, n - len(waveform)), (0, 0)))


def _replaced(source: Recording, samples: np.ndarray) -> Recording:
    same_channels = samples.shape[1] == source.samples.shape[1]
    mask = source.channel_mask if same_channels else None
    return dataclasses.replace(source, samples=samples, channel_mask=mask)
