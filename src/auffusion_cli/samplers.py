"""Initial noise, noise schedules and the one denoising loop, which yields and never prints.

Importing this module does not import torch, so that names can be checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from auffusion_cli.denoiser import Denoise

SCHEDULERS: dict[str, str] = {
    "pndm": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
"""Name on the command line -> class in diffusers. As set up here all of them are deterministic."""


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
        raise UsageError(f"--scheduler {name!r} is not known.", hint=f"Valid schedulers: {valid}.")
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
) -> Iterator[Step]:
    """Denoise from `noise` (B, C, h, w) in `n_steps`, yielding the state after every step.

    With `first_step` > 0 it starts part of the way, from `clean` latents noised to the level of
    that step (SDEdit, Meng et al. 2022); `first_step == n_steps` would leave nothing to do.
    """
    import torch

    scheduler.set_timesteps(n_steps)
    timesteps = scheduler.timesteps
    if first_step == 0:
        latents = noise * scheduler.init_noise_sigma
    else:
        timesteps = _timesteps_from(scheduler, first_step)
        latents = scheduler.add_noise(clean, noise, timesteps[:1])

    for index, timestep in enumerate(timesteps):
        with torch.no_grad():
            output = denoise(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(output, timestep, latents).prev_sample
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
