"""More of a recording: what comes after it, before it, or leads from its end back to its start.

The clip lies beside a hole that is filled as in `inpaint`; every sample of the clip stays. Beyond a
clip's end there is nothing to cross-fade from, so that it goes on by linear prediction for as long
as the cross-fade takes: see `extrapolation`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.audio import Recording, to_full_scale
from auffusion_cli.extrapolation import go_on
from auffusion_cli.masks import Span
from auffusion_cli.request import MAX_SEED, ExtendRequest, GenerateSettings
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result
from auffusion_cli.tasks.inpaint import CONTEXT_SHARE, fill, plan_spans

if TYPE_CHECKING:
    from auffusion_cli.model import Model

OVERLAP_S = 0.16
"""What is put before a clip piece by piece overlaps by this."""


def extend(
    model: Model,
    source: Recording,
    request: ExtendRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> EditResult:
    """`source` and `request.by_s` more, at its own rate, width and channels.

    Raises:
        AuffusionError: the result is not finite.
    """
    clip, rate_hz = source.samples, source.sample_rate_hz
    # More than a window of the clip is never seen.
    n_seen = round(model.defaults.max_duration_s * rate_hz)
    n_new = max(round(request.by_s * rate_hz), 1)
    nothing = clip[:0]
    match request.where:
        case "before":
            new = _put_before(model, source, n_new, request, settings, on_progress)
            samples = np.concatenate([new, clip])
        case where:
            right = clip[:n_seen] if where == "loop" else nothing
            hole = _hole(source, clip[-n_seen:], right, n_new, request)
            new = _fill_between(
                model, source, clip[-n_seen:], hole, right, request, settings, on_progress
            )
            samples = np.concatenate([clip, new])
    return edit_result(model, source, samples, request, settings)


def _put_before(
    model: Model,
    source: Recording,
    n_new: int,
    request: ExtendRequest,
    settings: GenerateSettings,
    on_progress: OnProgress | None,
) -> np.ndarray:
    """(n_new, C) samples, made from the clip's start backwards: each piece sees what comes next."""
    clip, rate_hz = source.samples, source.sample_rate_hz
    window_s = model.defaults.max_duration_s
    n_seen, n_shared = round(window_s * rate_hz), round(min(OVERLAP_S, window_s / 8) * rate_hz)
    n_piece = round((1 - CONTEXT_SHARE) * window_s * rate_hz) - n_shared
    n_pieces = -(-n_new // n_piece)
    made = clip[:0]
    for index in range(n_pieces):
        n = min(n_piece, n_new - len(made))
        seeded = replace(request, seed=(request.seed + index) % (MAX_SEED + 1))
        if index == 0:
            right = clip[:n_seen]
            hole = _hole(source, clip[:0], right, n, seeded)
        else:
            # The last piece's beginning is made again, and cross-faded into what it was.
            right = np.concatenate([made[n_shared:], clip])[:n_seen]
            hole = np.concatenate([np.zeros_like(made, shape=(n, made.shape[1])), made[:n_shared]])
            seeded = replace(seeded, crossfade_s=n_shared / rate_hz)

        def on_step(n_done: int, n_steps: int, index: int = index) -> None:
            if on_progress:
                on_progress(index * n_steps + n_done, n_pieces * n_steps)

        new = _fill_between(model, source, clip[:0], hole, right, seeded, settings, on_step)
        made = np.concatenate([new, made[n_shared if index else 0 :]])
    return made


def _hole(
    source: Recording, left: np.ndarray, right: np.ndarray, n_new: int, request: ExtendRequest
) -> np.ndarray:
    """(n_new, C) samples: silence, but for what `left` and `right` go on with for a cross-fade."""
    hole = np.zeros((n_new, source.samples.shape[1]))
    n_fade = round(request.crossfade_s * source.sample_rate_hz)
    n_fade = min(n_fade, n_new // 2 if len(left) and len(right) else n_new)
    if n_fade and len(left):
        after = go_on(to_full_scale(left), n_fade, source.sample_rate_hz, request.seed)
        hole[:n_fade] = after
    if n_fade and len(right):
        backwards = to_full_scale(right)[::-1]
        before = go_on(backwards, n_fade, source.sample_rate_hz, request.seed)
        hole[-n_fade:] = before[::-1]
    return source.quantize(hole)


def _fill_between(
    model: Model,
    source: Recording,
    left: np.ndarray,
    hole: np.ndarray,
    right: np.ndarray,
    request: ExtendRequest,
    settings: GenerateSettings,
    on_progress: OnProgress | None,
) -> np.ndarray:
    """What the model makes of the hole (n, C), where `left` comes before it and `right` after."""
    around = replace(source, samples=np.concatenate([left, hole, right]))
    rate_hz = source.sample_rate_hz
    span = Span(len(left) / rate_hz, (len(left) + len(hole)) / rate_hz)
    config = model.codec.spectrogram_config
    plan = plan_spans([span], [], around.duration_s, config, model.defaults.max_duration_s)
    samples = fill(model, around, plan, request, settings, on_progress=on_progress)
    return samples[len(left) : len(left) + len(hole)]
