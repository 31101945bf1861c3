"""Initial noise, noise schedules and the one denoising loop, which yields and never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from auffusion_cli.diffusion.denoiser import Denoise

AfterStep = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]
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
    latents: Tensor
    """(B, C, h, w)"""


def make_scheduler(name: str, scheduler_config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler called `name`, on the noise schedule of `scheduler_config`.

    The config is the checkpoint's `scheduler_config.json`, of whatever class. Three fields follow
    Stable Diffusion's pipeline rather than the file, because latents are not bounded like pixels
    and because the classes' own defaults differ: no clipping of the predicted latents, a time-step
    offset of 1, and for PNDM no Runge-Kutta start unless the file asks for it.
    """
    if name not in SCHEDULERS:
        valid = ", ".join(SCHEDULERS)
        raise UsageError(f"--scheduler {name!r} is not known", hint=f"Valid schedulers: {valid}.")
    if name == "pndm" and scheduler_config.get("rescale_betas_zero_snr"):
        others = ", ".join(other for other in SCHEDULERS if other != name)
        raise UsageError(
            "--scheduler pndm cannot follow this checkpoint's schedule (rescale_betas_zero_snr)",
            hint=f"Valid schedulers: {others}.",
        )
    import diffusers

    config = {"skip_prk_steps": True, **scheduler_config}
    config |= {"clip_sample": False, "steps_offset": 1}
    if name == "dpm++":
        config |= {"algorithm_type": "dpmsolver++"}
    scheduler_class = getattr(diffusers, SCHEDULERS[name])
    return scheduler_class.from_config(config)


def initial_noise(
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Gaussian noise (B, C, h, w), row i made by a generator of its own from `seeds[i]`.

    It is always drawn on the CPU in float32, so that a seed means the same noise on every device,
    in every precision and in every batch.
    """
    import torch

    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device=device, dtype=dtype)


def sample(
    denoise: Denoise,
    scheduler: Any,
    noise: Tensor,
    n_steps: int,
    *,
    clean: Tensor | None = None,
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
    import torch

    scheduler.set_timesteps(n_steps)
    timesteps = scheduler.timesteps
    if first_step > 0:
        timesteps = _timesteps_from(scheduler, first_step)
    if clean is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(clean, noise, timesteps[:1])
    if visits > 1:
        timesteps = torch.cat([timesteps[:-1].repeat_interleave(visits), timesteps[-1:]])

    for index, timestep in enumerate(timesteps):
        with torch.no_grad():
            output = denoise(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(output, timestep, latents).prev_sample
            if after_step:
                is_last = index + 1 == len(timesteps)
                latents = after_step(latents, timestep, None if is_last else timesteps[index + 1])
        yield Step(index, len(timesteps), latents)


def _timesteps_from(scheduler: Any, first_step: int) -> Tensor:
    """The time steps from `first_step` on.

    PNDM's multistep start visits its second time step twice, wherever it starts.
    """
    import torch

    timesteps = torch.unique_consecutive(scheduler.timesteps)[first_step:]
    if type(scheduler).__name__ == "PNDMScheduler" and len(timesteps) > 1:
        timesteps = torch.cat([timesteps[:2], timesteps[1:]])
    return timesteps


def keep_known(
    clean: Tensor,
    noise: Tensor,
    mask: Tensor,
    scheduler: Any,
    back_noise: torch.Generator | None = None,
) -> AfterStep:
    """An `AfterStep` that keeps `clean` where `mask` is 0, so that the loop changes only the rest.

    `mask` is (1, 1, h, w), or broadcasts to it; between 0 and 1 the two are mixed.

    With one visit a step this is the rule of diffusers' StableDiffusionInpaintPipeline for a UNet
    of four channels. With more, `back_noise` draws the noise that leads back to a repeated step.
    """

    def after_step(latents: Tensor, timestep: Tensor, next_timestep: Tensor | None) -> Tensor:
        if next_timestep is None:
            return (1 - mask) * clean + mask * latents
        if back_noise and next_timestep == timestep:
            latents = _noise_back(latents, timestep, scheduler, back_noise)
        known = scheduler.add_noise(clean, noise, next_timestep[None])
        return (1 - mask) * known + mask * latents

    return after_step


def _noise_back(
    latents: Tensor, timestep: Tensor, scheduler: Any, generator: torch.Generator
) -> Tensor:
    """The state after DDIM's step at `timestep` -> one before it, by the forward process."""
    import torch

    below = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alphas = scheduler.alphas_cumprod
    alpha_below = alphas[below] if below >= 0 else scheduler.final_alpha_cumprod
    kept = alphas[timestep] / alpha_below
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise
