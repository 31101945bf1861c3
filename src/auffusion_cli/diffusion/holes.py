"""Holes of a recording, to be filled: in seconds, in columns of the spectrogram, and as masks.

A hole is a span of time, in all frequencies or in some bands; a window of the model fills as many
as it holds with some context around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.diffusion.windows import FillWindow, plan_fills
from auffusion_cli.requests.masks import Span
from auffusion_cli.signal.blend import Cut
from auffusion_cli.signal.mel import mel_filterbank
from auffusion_cli.signal.overlap import OVERLAP_S

if TYPE_CHECKING:
    from auffusion_cli.config import SpectrogramConfig

CONTEXT_SHARE = 0.25
"""The part of a window, on either side, that is kept for the recording around a hole."""


@dataclass(frozen=True)
class FillPlan:
    """The holes of a clip and the windows that fill them."""

    spans: list[Span]
    """In seconds; they do not touch."""
    bands: list[Span]
    """In Hz; none is all frequencies."""
    holes: list[tuple[int, int]]
    """The columns of the spectrogram that the spans touch."""
    windows: list[FillWindow]
    """In columns."""
    window_columns: int
    overlap_columns: int
    """Overlap of two windows that fill the same hole."""
    n_columns: int
    """Of the clip."""


def plan_fill(
    spans: list[Span],
    bands: list[Span],
    duration_s: float,
    config: SpectrogramConfig,
    window_s: float,
) -> FillPlan:
    """The windows that fill `spans`, which are in order and do not touch."""
    n_columns = config.seconds_to_frames(duration_s)
    holes: list[tuple[int, int]] = []
    for span in spans:
        start = math.floor(round(span.start * config.frames_per_second, 6))
        end = config.seconds_to_frames(span.end)
        if holes and start <= holes[-1][1]:
            start = holes.pop()[0]
        holes.append((start, end))
    window = config.seconds_to_frames(window_s)
    context = round(window * CONTEXT_SHARE)
    overlap = min(config.seconds_to_frames(OVERLAP_S), context // 2)
    windows = plan_fills(holes, n_columns, window, context, overlap)
    return FillPlan(spans, bands, holes, windows, window, overlap, n_columns)


def cuts_of(
    plan: FillPlan,
    window: FillWindow,
    crossfade_s: float,
    config: SpectrogramConfig,
    duration_s: float,
) -> list[Cut]:
    """The spans, as far as `window` fills them, with their cross-fades.

    There is nothing to fade from at the clip's own ends. Where a span extends into the next window
    the next part is laid over this one: it has faded in, in the first half of what they share,
    before this one fades out to the old sound in the second.
    """
    half_overlap_s = config.frames_to_seconds(plan.overlap_columns) / 2
    cuts = []
    for first, last in window.fill:
        fill_start_s, fill_end_s = config.frames_to_seconds(first), config.frames_to_seconds(last)
        for span in plan.spans:
            continues = fill_start_s > span.start + 1e-6
            ends_here = fill_end_s > span.end - 1e-6
            start_s = fill_start_s if continues else span.start
            end_s = span.end if ends_here else fill_end_s
            if start_s >= end_s:
                continue
            fade_in_s = crossfade_s if span.start > 0 else 0.0
            fade_out_s = crossfade_s if span.end < duration_s else 0.0
            if continues:
                fade_in_s = half_overlap_s
            if not ends_here:
                fade_out_s = half_overlap_s
            cuts.append(Cut(start_s, end_s, fade_in_s, fade_out_s))
    return cuts


# --- on the grids of columns, mel rows and latents


def free_columns(plan: FillPlan, window: FillWindow) -> np.ndarray:
    """(W,) whether each column of `window` belongs to a hole that is not filled yet."""
    column = window.start + np.arange(plan.window_columns)
    free = np.zeros(len(column), dtype=bool)
    for start, end in plan.holes:
        free |= (column >= max(start, window.fill[0][0])) & (column < end)
    return free


def band_rows(bands: Sequence[Span], config: SpectrogramConfig) -> np.ndarray:
    """(n_mels,) whether each mel filter overlaps the bands; lowest first."""
    if not bands:
        return np.ones(config.n_mels, dtype=bool)
    filterbank = mel_filterbank(config)
    bins_hz = np.arange(len(filterbank)) * config.sample_rate_hz / config.n_fft_samples
    width_hz = bins_hz[1]
    inside = np.zeros(len(bins_hz), dtype=bool)
    for band in bands:
        inside |= (bins_hz > band.start - width_hz) & (bins_hz < band.end + width_hz)
    return (filterbank[inside] > 0).any(axis=0)


def latent_mask(cells: np.ndarray, n_rows: int, n_columns: int) -> np.ndarray:
    """Mel cells (n_mels, W), lowest first -> (1, 1, h, w): 1 where a latent covers any of them.

    The sizes of `cells` are multiples of `n_rows`, h, and of `n_columns`, w.
    """
    blocks = cells[::-1].reshape(n_rows, len(cells) // n_rows, n_columns, -1)
    return blocks.any(axis=(1, 3)).astype(np.float32)[None, None]


def known_part(clean: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(1, C, h, w) latents and (1, 1, h, w), 0 where they stay -> (1, 1 + C, h, w).

    What networks that were trained to fill holes are told: where there is none, and what is there.
    """
    return np.concatenate([1 - mask, (1 - mask) * clean], axis=1)


def mirror_fill(view: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(..., W) log-mel or samples, where they are not `known` (W,) mirrored from where they are.

    The known part on either side is mirrored into the hole, again and again where it is short, and
    the one mirror image fades into the other.
    """
    ends = np.flatnonzero(known[1:] != known[:-1]) + 1
    runs = np.split(np.arange(len(known)), ends)
    known_runs = [run for run in runs if known[run[0]]]
    filled = view.copy()
    for run in runs:
        if known[run[0]]:
            continue
        depth = np.arange(len(run))  # how far into the hole
        sides = []  # where the hole reaches an end of the sound, there is only one
        if before := [r for r in known_runs if r[-1] < run[0]]:
            left = before[-1][::-1]
            sides.append(view[..., left[_bounce(depth, len(left))]])
        if after := [r for r in known_runs if r[0] > run[-1]]:
            right = after[0]
            sides.append(view[..., right[_bounce(depth, len(right))]][..., ::-1])
        share = ((depth + 0.5) / len(run)).astype(view.dtype)
        filled[..., run] = sides[0] + share * (sides[-1] - sides[0])
    return filled


def _bounce(depth: np.ndarray, length: int) -> np.ndarray:
    """0, 1, ... `length` - 1, and back again, for ever."""
    place = depth % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)
