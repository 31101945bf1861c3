"""Prompts for parts of the time: one denoiser blended from several.

Each region has a denoiser of its own, and their outputs are blended at every step by weights that
rise and fall over time: MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.windows import windowed_denoiser
from auffusion_cli.requests.timeline import Region

FADE_S = 0.32
"""Cross-fade from one region to the next, centred on their border."""


def region_weights(
    regions: Sequence[Region], duration_s: float, n_columns: int, column_s: float
) -> Tensor:
    """(R, w) in 0..1: the share of each region in each of `n_columns` of the latent.

    There is nothing to fade from at the sound's own start and end.
    """
    centre_s = (torch.arange(n_columns) + 0.5) * column_s
    weights = torch.ones(len(regions), n_columns)
    for weight, region in zip(weights, regions, strict=True):
        if region.start_s > 0:
            weight *= ((centre_s - region.start_s) / FADE_S + 0.5).clamp(0, 1)
        if region.end_s < duration_s:
            weight *= ((region.end_s - centre_s) / FADE_S + 0.5).clamp(0, 1)
    return weights


def regional_denoiser(
    parts: Sequence[tuple[Denoise, Tensor]],
    window: int,
    overlap: int,
    background: Callable[[Tensor], Tensor | None],
) -> Denoise:
    """The denoisers of `parts`, each where its weight (w,) is above 0, blended.

    Each sees one window around its region, or several if that is longer. Outside of the region it
    sees `background(timestep)` (B, C, h, w), or the actual latents where that is None. A background
    in the first steps makes the prompt's sound form inside the region, not beside it.
    """
    total_weight = torch.stack([weight for _, weight in parts]).sum(dim=0)

    def denoise_all(latents: Tensor, timestep: Tensor) -> Tensor:
        outside = background(timestep)
        total = torch.zeros_like(latents)
        for denoise, weight in parts:
            columns = _around(weight, window)
            seen = latents[..., columns]
            if outside is not None:
                seen = torch.where(weight[columns] > 0, seen, outside[..., columns])
            output = windowed_denoiser(denoise, window, overlap)(seen, timestep)
            total[..., columns] += weight[columns] * output
        return total / total_weight.clamp(min=1e-6)

    return denoise_all


def _around(weight: Tensor, window: int) -> slice:
    """The columns where `weight` (w,) is above 0, widened to at least a window."""
    columns = weight.nonzero()
    first, last = int(columns[0]), int(columns[-1]) + 1
    width = max(last - first, window)
    start = min(max((first + last - width) // 2, 0), len(weight) - width)
    return slice(start, start + width)
