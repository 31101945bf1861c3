"""Initial noise and the one denoising loop, which yields and never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.schedule import Scheduler
from auffusion_cli.diffusion.schedulers import DDIM
from auffusion_cli.signal.noise import Noise

AfterStep = Callable[[np.ndarray, float, float | None], np.ndarray]
"""(latents (B, C, h, w) after a step, its time step, the next one) -> the latents to continue with.

They have to be at the noise level of the next time step, or clean where that is None.
"""


@dataclass(frozen=True)
class Step:
    """State after one step of the loop; the `latents` of the last one are the result."""

    index: int
    """0 .. n_steps - 1"""
    n_steps: int
    """Calls of `denoise` in all: PNDM makes one more than was asked for."""
    latents: np.ndarray
    """(B, C, h, w)"""


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise (B, C, h, w), row i drawn from `seeds[i]` alone.

    So a seed means the same noise in every batch, in every engine and on every device.
    """
    return np.stack([Noise(seed).normal(shape) for seed in seeds])


def turned_noise(noise: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Gaussian noise, turned towards `other` of the same shape: exactly that at a `share` of 1.

    Along the great circle between the two (slerp: Shoemake, SIGGRAPH 1985), as their sum would be
    too soft for the first noise level. The angle is that of independent noise of many dimensions,
    a right one.
    """
    angle = share * np.pi / 2
    return (np.cos(angle) * noise + np.sin(angle) * other).astype(np.float32)


def sample(
    denoise: Denoise,
    scheduler: Scheduler,
    noise: np.ndarray,
    n_steps: int,
    *,
    clean: np.ndarray | None = None,
    first_step: int = 0,
    after_step: AfterStep | None = None,
    visits: int = 1,
) -> Iterator[Step]:
    """Denoise from `noise` (B, C, h, w) in `n_steps`, yielding the state after every step.

    With `clean` latents it starts from these, noised to the level of `first_step` (SDEdit, Meng et
    al. 2022); `first_step` is below `n_steps`. Without, `noise` is the state that
    it starts from.

    `after_step` may change the state, as masks do. With `visits` > 1 each time step but the last is
    taken so many times, and `after_step` has to noise the state back to it: see `AfterStep`.
    """
    scheduler.set_timesteps(n_steps)
    latents = scheduler.begin(noise)
    timesteps = scheduler.timesteps.tolist()
    if first_step > 0:
        timesteps = scheduler.skip(first_step).tolist()
    if clean is not None:
        latents = scheduler.add_noise(clean, noise, timesteps[0])
    if visits > 1:
        timesteps = [each for each in timesteps[:-1] for _ in range(visits)] + timesteps[-1:]

    for index, timestep in enumerate(timesteps):
        output = denoise(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(output, timestep, latents)
        if after_step:
            following = timesteps[index + 1] if index + 1 < len(timesteps) else None
            latents = after_step(latents, timestep, following)
        yield Step(index, len(timesteps), latents)


def keep_known(
    clean: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    scheduler: Scheduler,
    back_noise: Noise | None = None,
) -> AfterStep:
    """An `AfterStep` that keeps `clean` where `mask` is 0, so that the loop changes only the rest.

    `mask` is (1, 1, h, w), or broadcasts to it; between 0 and 1 the two are mixed.

    With one visit a step this is the rule of diffusers' StableDiffusionInpaintPipeline for a UNet
    of four channels. With more, which DDIM alone can take, `back_noise` draws the noise that leads
    back to a repeated step.
    """

    def after_step(latents: np.ndarray, timestep: float, following: float | None) -> np.ndarray:
        if following is None:
            return (1 - mask) * clean + mask * latents
        if back_noise and following == timestep and isinstance(scheduler, DDIM):
            latents = scheduler.noise_back(latents, timestep, back_noise.normal(latents.shape))
        known = scheduler.add_noise(clean, noise, following)
        return (1 - mask) * known + mask * latents

    return after_step
