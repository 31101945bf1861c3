"""Sounds longer than a model's window: latents denoised in windows, and windows to fill holes in.

All sizes are counted in columns, of the latent or of the spectrogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.signal.overlap import in_windows

if TYPE_CHECKING:
    from auffusion_cli.diffusion.denoiser import Denoise

OVERLAP_SHARE = 0.5
"""Neighbouring windows that are denoised together share this much of a window."""


def windowed_denoiser(denoise: Denoise, window: int, overlap: int) -> Denoise:
    """`denoise` for latents of any width, which it only sees `window` columns of at a time.

    Where windows overlap their outputs are averaged at every step, so that they agree on one sound:
    MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113), section 3.
    """

    def denoise_all(latents: np.ndarray, timestep: float) -> np.ndarray:
        return in_windows(lambda part: denoise(part, timestep), latents, window, overlap)

    return denoise_all


@dataclass(frozen=True)
class FillWindow:
    """One window to fill holes in. The window itself begins at `start`."""

    start: int
    fill: tuple[tuple[int, int], ...]
    """The parts (start, end) that are new after this window."""


def plan_fills(
    holes: Sequence[tuple[int, int]], n: int, window: int, context: int, overlap: int
) -> list[FillWindow]:
    """Windows that fill `holes` (start, end), which are in order and apart, in 0 .. n.

    Every window keeps `context` on both sides of what it fills, where the clip has more, and takes
    in as many holes as that allows. A hole that is too long is filled from left to right: the next
    part starts `overlap` before the end of the last one, to be cross-faded with it. A clip shorter
    than the window has one window at 0, which reaches beyond it.
    """
    plans = []
    todo = list(holes)
    while todo:
        begin = todo[0][0]
        left = min(context, begin)
        reach = begin - left + window
        limit = n if reach >= n else reach - context
        fill = [hole for hole in todo if hole[1] <= limit]
        todo = todo[len(fill) :]
        if not fill:
            fill = [(begin, limit)]
            todo[0] = (limit - overlap, todo[0][1])
        spare = window - (fill[-1][1] - begin)
        start = min(max(begin - spare // 2, 0), max(n - window, 0))
        plans.append(FillWindow(start, tuple(fill)))
    return plans
