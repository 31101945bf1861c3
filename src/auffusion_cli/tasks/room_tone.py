"""Inpainting without a model: the recording's own background noise in place of a part of it.

In all frequencies of the recording and with its stereo image; never an event.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.masks import Span
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import InpaintRequest
from auffusion_cli.requests.seeds import seed_after
from auffusion_cli.signal.audio import warn_of_clipping
from auffusion_cli.signal.blend import Cut, mix
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.signal.room_tone import RoomTone
from auffusion_cli.tasks.edits import EditResult
from auffusion_cli.tasks.inpaint import parse_masks, warn_of_tight_masks

CONTEXT_S = 30.0
"""The background is taken from so much of the recording on either side of a mask."""
MIN_KNOWN_S = 0.25
"""The shortest part without a mask that it can be taken from."""


def fill_with_room_tone(source: Recording, request: InpaintRequest) -> EditResult:
    """Fill the masks of `request` in `source` with its background noise.

    Every sample outside of them comes back unchanged.

    Raises:
        UsageError: masks or bands do not fit the clip, or too little of it is left without a mask.
    """
    rate_hz = source.sample_rate_hz
    spans, bands = parse_masks(request, source.duration_s, rate_hz / 2)
    warn_of_tight_masks(source, spans, request.crossfade_s)
    samples, n_clipped = source.samples.copy(), 0
    for index, span in enumerate(spans):
        first = max(round((span.start - CONTEXT_S) * rate_hz), 0)
        part = to_full_scale(source.samples[first : round((span.end + CONTEXT_S) * rate_hz)])
        known = _known(spans, first, len(part), rate_hz)
        new = RoomTone.of(part, known, rate_hz).noise(
            len(part), seed=seed_after(request.seed, index)
        )
        fade_in_s = request.crossfade_s if span.start > 0 else 0.0
        fade_out_s = request.crossfade_s if span.end < source.duration_s else 0.0
        cut = Cut(span.start, span.end, fade_in_s, fade_out_s)
        for start, mixed in mix(part, new, [cut], bands, first, rate_hz):
            n_clipped += source.count_clipped(mixed)
            samples[start : start + len(mixed)] = source.quantize(mixed)
    warn_of_clipping("the new part", n_clipped)
    record = Provenance.without_model(request, source.duration_s, samples)
    return EditResult(dataclasses.replace(source, samples=samples), record)


def _known(spans: list[Span], first: int, n: int, rate_hz: int) -> np.ndarray:
    """(n,) whether each sample from `first` on is outside of all spans; UsageError: too few are."""
    known = np.ones(n, dtype=bool)
    for span in spans:
        start, end = round(span.start * rate_hz) - first, round(span.end * rate_hz) - first
        known[max(start, 0) : max(end, 0)] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    longest_s = (edges[1::2] - edges[::2]).max(initial=0) / rate_hz
    if longest_s < MIN_KNOWN_S:
        raise UsageError(
            "--room-tone finds no background: the masks leave less than "
            f"{MIN_KNOWN_S:g} s of the recording at a time"
        )
    return known
