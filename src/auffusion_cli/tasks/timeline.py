"""Denoisers of a timeline: its regions with silence between them, and the bed below.

Words such as "thunder, then rain" are a timeline as well.

A bed is a layer of its own: blended with a region, one of the two sounds would win. So B sounds
with beds are 2 B latents, the regions of all of them and then the beds of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.layers import Layer
from auffusion_cli.diffusion.regions import region_weights, regional_denoiser
from auffusion_cli.diffusion.samplers import AfterStep, keep_known
from auffusion_cli.diffusion.schedule import Scheduler
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.requests.seeds import seed_after
from auffusion_cli.requests.timeline import parse_timeline

if TYPE_CHECKING:
    from auffusion_cli.model import Model

FOCUS_SHARE = 0.3
"""For this share of the steps a region's denoiser sees silence around its region."""
SILENT_S = 10.0
"""Silence whose middle is far from its ends."""


def in_order(request: GenerateRequest, layers: Sequence[Layer]) -> TimelineRequest:
    """`request` with a region for each of `layers`, which ends where the next one enters."""
    starts = [f"{layer.enters_s:.3f}s" for layer in layers]
    ends = [*starts[1:], ""]  # the last one is open
    regions = [
        f"{start}-{end} {layer.prompt}"
        for start, end, layer in zip(starts, ends, layers, strict=True)
    ]
    common = {field.name: getattr(request, field.name) for field in fields(GenerateRequest)}
    own = {"prompt": "", "trim": False, "one_shot": False, "timeline": "; ".join(regions)}
    return TimelineRequest(**(common | own))


def layer_seeds(requests: Sequence[GenerateRequest]) -> list[int]:
    """The seed of each of the latents that B requests are made of: B, or with beds 2 B."""
    seeds = [request.seed for request in requests]
    if isinstance(requests[0], TimelineRequest) and requests[0].prompt:
        seeds += [seed_after(seed, 1) for seed in seeds]
    return seeds


def layers_of_sounds(latents: np.ndarray, n_sounds: int) -> list[np.ndarray]:
    """The layers (L, C, h, w) of each sound, of latents (L * n_sounds, C, h, w)."""
    return [latents[first::n_sounds] for first in range(n_sounds)]


def timeline_denoiser(
    model: Model,
    requests: Sequence[TimelineRequest],
    settings: GenerateSettings,
    noise: np.ndarray,
    scheduler: Scheduler,
    denoiser: Callable[[Sequence[str]], Denoise],
) -> tuple[Denoise, AfterStep]:
    """The denoiser of the layers of `requests`, which start from `noise`, and their mask.

    All requests have the same timeline; `denoiser` makes one of a prompt for each of them.
    """
    n_sounds = len(requests)
    noise = noise[:n_sounds]
    regions = parse_timeline(requests[0].timeline, settings.duration_s)
    weights = region_weights(regions, settings.duration_s, noise.shape[-1], model.latent_column_s)
    parts = [
        (denoiser([region.prompt] * n_sounds), weight)
        for region, weight in zip(regions, weights, strict=True)
    ]
    silence = np.broadcast_to(silent_latent(model), noise.shape)

    def noised_silence(timestep: float) -> np.ndarray | None:
        """Surroundings of a region in the first steps, noised for the UNet."""
        focus_ends = scheduler.timesteps[int(len(scheduler.timesteps) * FOCUS_SHARE)]
        if timestep <= focus_ends:
            return None
        noised = scheduler.add_noise(silence, noise, timestep)
        return scheduler.scale_model_input(noised, timestep)

    denoise_regions = regional_denoiser(parts, model.window, model.overlap, noised_silence)
    covered = np.minimum(weights.sum(axis=0), 1)
    keep_silence = keep_known(silence, noise, covered, scheduler)
    if not requests[0].prompt:
        return denoise_regions, keep_silence
    denoise_beds = model.windowed(denoiser([request.prompt for request in requests]), settings)

    def denoise(latents: np.ndarray, timestep: float) -> np.ndarray:
        of_regions, of_beds = np.split(latents, 2)
        return np.concatenate(
            [denoise_regions(of_regions, timestep), denoise_beds(of_beds, timestep)]
        )

    def after_step(latents: np.ndarray, timestep: float, following: float | None) -> np.ndarray:
        of_regions, of_beds = np.split(latents, 2)
        return np.concatenate([keep_silence(of_regions, timestep, following), of_beds])

    return denoise, after_step


def silent_latent(model: Model) -> np.ndarray:
    """(1, C, h, 1): the latent of silence, far from the ends of a window."""
    width = model.latent_shape(SILENT_S)[2]
    middle = width // 2
    return model.encode(model.codec.silence(width))[..., middle : middle + 1]
