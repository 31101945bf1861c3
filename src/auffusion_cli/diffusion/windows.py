"""Longer than a model's window: which windows to work in, and how their results are joined.

All sizes are counted along the last axis of the tensors: samples, columns or latent columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from auffusion_cli.diffusion.denoiser import Denoise

OVERLAP_SHARE = 0.5
"""Neighbouring windows that are denoised together share this much of a window."""


def in_windows(
    function: Callable[[Tensor], Tensor], x: Tensor, window: int, overlap: int
) -> Tensor:
    """`function` of x (..., n), worked out in windows that overlap and are cross-faded.

    `function` may change the length by a constant factor; all else is as if it saw the whole.
    """
    n = x.shape[-1]
    if n <= window:
        return function(x)
    total = weights = ramp = None
    for start in _starts(n, window, overlap):
        piece = function(x[..., start : start + window])
        factor = Fraction(piece.shape[-1], window)
        if total is None:
            total = piece.new_zeros(*piece.shape[:-1], int(n * factor))
            weights = piece.new_zeros(total.shape[-1])
            ramp = _trapezoid(piece, int(overlap * factor))
        first = int(start * factor)
        total[..., first : first + len(ramp)] += piece * ramp
        weights[first : first + len(ramp)] += ramp
    return total / weights


def _starts(n: int, window: int, overlap: int) -> list[int]:
    """Where windows begin; the last one ends at n, and so may overlap by more."""
    return [*range(0, n - window, window - overlap), n - window]


def sound_in_windows(
    vocode: Callable[[Tensor], Tensor], x: Tensor, window: int, overlap: int
) -> Tensor:
    """Sound (..., samples) of x (..., n), one window laid after the other at equal power.

    A vocoder that has to find phases (Griffin-Lim) finds others in each window, and where these
    differ a plain cross-fade is too soft. It is divided by the power that the correlation of the
    two tells (Fink, Holters and Zölzer, "Signal-matched power-complementary cross-fading", 2016).
    The sign of a window is free, and chosen such that they do not cancel.
    """
    n = x.shape[-1]
    if n <= window:
        return vocode(x)
    pieces = []
    shared, last_end = None, 0  # the end of the last window, still to be cross-faded
    starts = _starts(n, window, overlap)
    for start, next_start in zip(starts, [*starts[1:], n], strict=True):
        piece = vocode(x[..., start : start + window])
        hop = piece.shape[-1] // window
        if shared is not None:
            # What the last window may overlap by more than it has to is the one before's.
            piece = _lay_after(shared, piece[..., (last_end - overlap - start) * hop :])
        last_end = start + window
        n_done = piece.shape[-1] - (overlap * hop if next_start < n else 0)
        pieces.append(piece[..., :n_done])
        shared = piece[..., n_done:]
    import torch

    return torch.cat(pieces, dim=-1)


def _lay_after(old: Tensor, new: Tensor) -> Tensor:
    """(..., n) and (..., m), m >= n -> (..., m): `new`, its first n samples faded in from `old`."""
    import torch

    n = old.shape[-1]
    begin = new[..., :n]
    power = old.square().sum(-1, keepdim=True) * begin.square().sum(-1, keepdim=True)
    correlation = (old * begin).sum(-1, keepdim=True) / power.sqrt().clamp(min=1e-12)
    sign = torch.where(correlation < 0, -1.0, 1.0)
    rise = (torch.arange(n, device=new.device, dtype=new.dtype) + 0.5) / n
    fall = 1 - rise
    level = (rise.square() + fall.square() + 2 * correlation.abs() * rise * fall).sqrt()
    mixed = (fall * old + rise * sign * begin) / level
    return torch.cat([mixed, sign * new[..., n:]], dim=-1)


def _trapezoid(like: Tensor, slope: int) -> Tensor:
    """Weights (n,) that rise over `slope` values, stay at 1, and fall again; none is 0."""
    import torch

    n = like.shape[-1]
    position = torch.arange(n, device=like.device, dtype=like.dtype) + 0.5
    return (torch.minimum(position, n - position) / max(slope, 1)).clamp(max=1)


def windowed_denoiser(denoise: Denoise, window: int, overlap: int) -> Denoise:
    """`denoise` for latents of any width, which it only sees `window` columns of at a time.

    Where windows overlap their outputs are averaged at every step, so that they agree on one sound:
    MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113), section 3.
    """

    def denoise_all(latents: Tensor, timestep: Tensor) -> Tensor:
        return in_windows(lambda part: denoise(part, timestep), latents, window, overlap)

    return denoise_all


@dataclass(frozen=True)
class FillWindow:
    """One window to fill holes in. The window itself begins at `start`."""

    start: int
    fill: tuple[tuple[int, int], ...]
    """The parts (start, end) that are new after this window."""
    goes_on: bool
    """Whether the last part is only the beginning of a hole, which the next window goes on with."""


def plan_fills(
    holes: Sequence[tuple[int, int]], n: int, window: int, context: int, overlap: int
) -> list[FillWindow]:
    """Windows that fill `holes` (start, end), which are in order and apart, in 0 .. n.

    Every window keeps `context` on both sides of what it fills, where the clip goes on there, and
    takes in as many holes as that allows. A hole that is too long is filled from left to right:
    the next part starts `overlap` before the end of the last one, to be cross-faded with it.
    A clip shorter than the window has one window at 0, which reaches beyond it.
    """
    plans = []
    todo = list(holes)
    while todo:
        begin = todo[0][0]
        left = min(context, begin)
        reach = begin - left + window
        limit = n if reach >= n else reach - context
        fill = [hole for hole in todo if hole[1] <= limit]
        goes_on = not fill
        todo = todo[len(fill) :]
        if goes_on:
            fill = [(begin, limit)]
            todo[0] = (limit - overlap, todo[0][1])
        spare = window - (fill[-1][1] - begin)
        start = min(max(begin - spare // 2, 0), max(n - window, 0))
        plans.append(FillWindow(start, tuple(fill), goes_on))
    return plans
