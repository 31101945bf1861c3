"""Prompts for parts of the time: one denoiser blended from several.

Each region has a denoiser of its own, and their outputs are blended at every step by weights that
rise and fall over time: MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.windows import windowed_denoiser
from auffusion_cli.requests.timeline import Region

FADE_S = 0.32
"""Cross-fade from one region to the next, centred on their border."""


def region_weights(
    regions: Sequence[Region], duration_s: float, n_columns: int, column_s: float
) -> np.ndarray:
    """(R, w) float32 in 0..1: the share of each region in each of `n_columns` of the latent.

    There is nothing to fade from at the sound's own start and end.
    """
    centre_s = (np.arange(n_columns) + 0.5) * column_s
    weights = np.ones((len(regions), n_columns), np.float32)
    for weight, region in zip(weights, regions, strict=True):
        if region.start_s > 0:
            weight *= ((centre_s - region.start_s) / FADE_S + 0.5).clip(0, 1)
        if region.end_s < duration_s:
            weight *= ((region.end_s - centre_s) / FADE_S + 0.5).clip(0, 1)
    return weights


def regional_denoiser(
    parts: Sequence[tuple[Denoise, np.ndarray]],
    window: int,
    overlap: int,
    background: Callable[[float], np.ndarray | None],
) -> Denoise:
    """The denoisers of `parts`, each where its weight (w,) is above 0, blended.

    Each sees one window around its region, or several if that is longer. Outside of the region it
    sees `background(timestep)` (B, C, h, w), or the actual latents where that is None. A background
    in the first steps makes the prompt's sound form inside the region, not beside it.
    """
    total_weight = sum(weight for _, weight in parts)

    def denoise_all(latents: np.ndarray, timestep: float) -> np.ndarray:
        outside = background(timestep)
        total = np.zeros_like(latents)
        for denoise, weight in parts:
            columns = _around(weight, window)
            seen = latents[..., columns]
            if outside is not None:
                seen = np.where(weight[columns] > 0, seen, outside[..., columns])
            output = windowed_denoiser(denoise, window, overlap)(seen, timestep)
            total[..., columns] += weight[columns] * output
        return total / np.maximum(total_weight, 1e-6)

    return denoise_all


def _around(weight: np.ndarray, window: int) -> slice:
    """The columns where `weight` (w,) is above 0, widened to a window where there are as many."""
    columns = np.flatnonzero(weight)
    first, last = int(columns[0]), int(columns[-1]) + 1
    width = min(max(last - first, window), len(weight))
    start = min(max((first + last - width) // 2, 0), len(weight) - width)
    return slice(start, start + width)
