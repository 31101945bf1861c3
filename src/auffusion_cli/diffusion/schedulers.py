"""The solvers by name, which take the model's output at one time step to the latents of the next.

All agree with diffusers' schedulers of the same names, which tests hold them to; so a checkpoint's
`scheduler_config.json` of whatever class means the same here. All but DDPM and ping-pong are
deterministic, and their noise follows from that which a sound begins with, so that one seed is one
sound.

Sources: DDPM (Ho et al. 2020, arXiv 2006.11239), DDIM (Song et al. 2021, arXiv 2010.02502), PNDM
(Liu et al. 2022, arXiv 2202.09778); the others are in `sigma_schedulers` and `flow_schedulers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from auffusion_cli.config import FLOW_SCHEDULERS, SCHEDULER_NAMES
from auffusion_cli.diffusion.flow_schedulers import FlowEuler, PingPong
from auffusion_cli.diffusion.schedule import (
    ONLY,
    NoisyScheduler,
    Scheduler,
    is_continuous,
    is_flow,
)
from auffusion_cli.diffusion.sigma_schedulers import DPMSolver, Euler, UniPC
from auffusion_cli.errors import UsageError


class DDIM(Scheduler):
    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        below = timestep - len(self.alphas_bar) // self.n_steps
        return self._move(output, latents, self._alpha_bar(timestep), self._alpha_bar(below))

    def noise_back(self, latents: np.ndarray, timestep: float, noise: np.ndarray) -> np.ndarray:
        """The latents after the step at `timestep` -> some before it, by the forward process."""
        below = timestep - len(self.alphas_bar) // self.n_steps
        kept = self._alpha_bar(timestep) / self._alpha_bar(below)
        return math.sqrt(kept) * latents + math.sqrt(1 - kept) * noise

    def _move(
        self, output: np.ndarray, latents: np.ndarray, alpha_bar: float, to_alpha_bar: float
    ) -> np.ndarray:
        """Equation 12 of the paper, without noise of its own."""
        clean, noise = self.clean_and_noise(output, latents, alpha_bar)
        return math.sqrt(to_alpha_bar) * clean + math.sqrt(1 - to_alpha_bar) * noise


class DDIMInverse(DDIM):
    """DDIM's steps taken backwards, from sound to noise: section 4.3 of the paper."""

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        self.timesteps = self.timesteps[::-1]

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        n = len(self.alphas_bar)
        below = min(timestep - n // self.n_steps, n - 1)
        return self._move(output, latents, self._alpha_bar(below), self._alpha_bar(timestep))


class PNDM(Scheduler):
    """Pseudo linear multistep of up to four outputs, its second time step visited twice."""

    only = ONLY | {"skip_prk_steps": (True,)}
    default_alpha_to_one = False

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        if n_steps > 1:
            self.timesteps = np.concatenate([self.timesteps[:2], self.timesteps[1:]])
        self._outputs: list[np.ndarray] = []
        self._first: np.ndarray | None = None
        self._n_done = 0

    def skip(self, first_step: int) -> np.ndarray:
        left = self.timesteps[first_step + 1 :]  # of the first two steps the second is there twice
        return np.concatenate([left[:2], left[1:]]) if len(left) > 1 else left

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        size = len(self.alphas_bar) // self.n_steps
        begin, end = timestep, timestep - size
        if self._n_done == 1:  # the first step again, by the mean of the slopes at its two ends
            begin, end = timestep + size, timestep
            output, latents = (output + self._outputs[0]) / 2, self._first
        else:
            self._outputs = [*self._outputs[-3:], output]
            self._first = latents
            output = self._combined()
        self._n_done += 1
        return self._move(output, latents, self._alpha_bar(begin), self._alpha_bar(end))

    def _combined(self) -> np.ndarray:
        """Adams and Bashforth's sum of as many outputs as there are."""
        match self._outputs:
            case [a]:
                return a
            case [b, a]:
                return (3 * a - b) / 2
            case [c, b, a]:
                return (23 * a - 16 * b + 5 * c) / 12
            case [d, c, b, a]:
                return (55 * a - 59 * b + 37 * c - 9 * d) / 24
            case _:
                raise AssertionError

    def _move(
        self, output: np.ndarray, latents: np.ndarray, alpha_bar: float, to_alpha_bar: float
    ) -> np.ndarray:
        """Equation 11 of the paper."""
        if not self.predicts_noise:
            output = math.sqrt(alpha_bar) * output + math.sqrt(1 - alpha_bar) * latents
        divisor = alpha_bar * math.sqrt(1 - to_alpha_bar) + math.sqrt(
            alpha_bar * (1 - alpha_bar) * to_alpha_bar
        )
        change = (to_alpha_bar - alpha_bar) / divisor
        return math.sqrt(to_alpha_bar / alpha_bar) * latents - change * output


class DDPM(NoisyScheduler):
    """Ancestral sampling: each step goes to the likeliest state, and adds noise (equation 7)."""

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        left = self.timesteps[self.timesteps < timestep]
        alpha_bar, following = self._alpha_bar(timestep), 1.0
        if len(left):
            following = self._alpha_bar(left[0])
        kept = alpha_bar / following
        clean, _ = self.clean_and_noise(output, latents, alpha_bar)
        towards_clean = math.sqrt(following) * (1 - kept) / (1 - alpha_bar)
        mean = towards_clean * clean + math.sqrt(kept) * (1 - following) / (1 - alpha_bar) * latents
        if not len(left):
            return mean
        spread = math.sqrt((1 - following) / (1 - alpha_bar) * (1 - kept))
        return mean + spread * self.draw(latents.shape[1:])


CLASSES: dict[str, type[Scheduler]] = {
    "pndm": PNDM,
    "ddim": DDIM,
    "dpm++": DPMSolver,
    "unipc": UniPC,
    "euler": Euler,
    "ddpm": DDPM,
}

FLOW_CLASSES: dict[str, type[Scheduler]] = {"pingpong": PingPong, "euler": FlowEuler}
"""Those of a flow."""
CONTINUOUS_SCHEDULERS = tuple(name for name, kind in CLASSES.items() if kind.goes_along_s)
"""Those that can follow a continuous schedule."""


def make_scheduler(name: str, scheduler_config: Mapping[str, Any]) -> Scheduler:
    """The scheduler called `name` on the noise schedule of a checkpoint's scheduler_config.json.

    Raises:
        UsageError: there is none of that name, or the config asks for what it cannot do.
    """
    if name not in SCHEDULER_NAMES:
        valid = ", ".join(SCHEDULER_NAMES)
        raise UsageError(f"--scheduler {name!r} is not known", hint=f"Valid schedulers: {valid}.")
    classes = FLOW_CLASSES if is_flow(scheduler_config) else CLASSES
    if name not in classes:
        raise UsageError(
            f"--scheduler {name} cannot follow this checkpoint's schedule",
            hint=f"Valid schedulers: {', '.join(classes)}.",
        )
    if name == "pndm" and scheduler_config.get("rescale_betas_zero_snr"):
        others = ", ".join(other for other in CLASSES if other != name)
        raise UsageError(
            "--scheduler pndm cannot follow this checkpoint's schedule (rescale_betas_zero_snr)",
            hint=f"Valid schedulers: {others}.",
        )
    _check(classes[name], scheduler_config, name)
    return classes[name](scheduler_config)


def make_inverse(scheduler_config: Mapping[str, Any]) -> DDIMInverse:
    """The solver that takes the steps of `ddim` backwards."""
    _check(DDIMInverse, scheduler_config, "ddim")
    return DDIMInverse(scheduler_config)


def _check(kind: type[Scheduler], config: Mapping[str, Any], name: str) -> None:
    lacks_numbers = is_continuous(config) or is_flow(config)
    if lacks_numbers and not kind.goes_along_s:
        valid = FLOW_SCHEDULERS if is_flow(config) else CONTINUOUS_SCHEDULERS
        raise UsageError(
            f"--scheduler {name} needs numbered time steps, which this checkpoint's schedule lacks",
            hint=f"Valid schedulers: {', '.join(valid)}.",
        )
    for field, values in kind.only.items():
        if field in config and config[field] not in values:
            raise UsageError(
                f"--scheduler {name} cannot follow this checkpoint's schedule: {field} is "
                f"{str(config[field])[:40]!r}, and only "
                f"{', '.join(repr(value) for value in values)} is implemented",
                hint=None if lacks_numbers else "Try --scheduler ddim.",
            )
