"""What of a result is listened to: all of a sound, and of a changed recording its new part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.requests.masks import Span, parse_times
from auffusion_cli.requests.request import ExtendRequest, InpaintRequest, Request
from auffusion_cli.signal.audio import resample
from auffusion_cli.tasks.edits import EditResult

if TYPE_CHECKING:
    from auffusion_cli.tasks.generate import GenerateResult

EDGE_S = 0.01
"""Of a part that is left out on both sides: what is next to it rings in it once it is resampled."""


@dataclass(frozen=True)
class Heard:
    """What guards and judges hear, at the rate of the models, in one channel."""

    waveform: np.ndarray
    """(N,) What was made."""
    words: str
    """All words that it was made of; empty where it was left to the model what fits."""
    rest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(M,) What else is in the recording; empty for a sound made from words."""


def heard_in(result: GenerateResult | EditResult) -> Heard:
    """What is listened to of `result`."""
    request = result.provenance.request
    rate_hz = SpectrogramConfig.sample_rate_hz
    if not isinstance(result, EditResult):
        mono = result.waveform if result.waveform.ndim == 1 else result.waveform.mean(axis=0)
        return Heard(resample(mono, result.sample_rate_hz, rate_hz), words_of(request))
    recording = result.recording
    mono = resample(recording.waveform().mean(axis=0), recording.sample_rate_hz, rate_hz)
    is_new = np.zeros(len(mono), bool)
    spans = _new_spans(request, recording.duration_s)
    for span in _without_edges(request, spans, recording.duration_s):
        is_new[round(span.start * rate_hz) : round(span.end * rate_hz)] = True
    return Heard(mono[is_new], words_of(request), mono[~is_new])


def words_of(request: Request) -> str:
    """All words that a sound is made of; empty where there are none."""
    return f"{request.prompt}\n{getattr(request, 'timeline', '')}".strip()


def _without_edges(request: Request, spans: list[Span], duration_s: float) -> list[Span]:
    """`spans` without their cross-fades, in which the recording itself is still heard."""
    edge_s = max(getattr(request, "crossfade_s", 0.0), EDGE_S)
    inner = []
    for span in spans:
        start = span.start + (edge_s if span.start > 0 else 0.0)
        end = span.end - (edge_s if span.end < duration_s else 0.0)
        inner.append(Span(start, end) if end - start > 2 * edge_s else span)
    return inner


def _new_spans(request: Request, duration_s: float) -> list[Span]:
    """Where a recording of `duration_s` is new."""
    if isinstance(request, InpaintRequest) and request.masks:
        return parse_times(request.masks, duration_s)
    if isinstance(request, ExtendRequest) and request.where == "before":
        return [Span(0.0, request.new_s)]
    if isinstance(request, ExtendRequest):
        return [Span(duration_s - request.new_s, duration_s)]
    return [Span(0.0, duration_s)]
