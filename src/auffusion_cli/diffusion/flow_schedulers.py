"""Solvers of rectified flow, whose way from noise to sound is straight: Euler's, and ping-pong.

At time t, from 1 to 0, the state is t of noise and 1 - t of sound; the model gives its velocity,
noise less sound (Liu et al. 2023, arXiv 2209.03003). The times fall evenly in the logarithm of the
ratio of signal to noise, as Stable Audio 3 was distilled for (arXiv 2605.17991).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from auffusion_cli.diffusion.schedule import NoisyScheduler, Scheduler

LOG_SNR_MIN, LOG_SNR_MAX = -6.2, 2.0
"""The natural logarithm of (1 - t) / t at the first time, which is then 1, and after the last."""


class FlowEuler(Scheduler):
    """Euler's method: each step goes straight on."""

    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "shift": (1.0,),
        "use_dynamic_shifting": (False,),
        "invert_sigmas": (False,),
        "shift_terminal": (None,),
        "use_karras_sigmas": (False,),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
    }
    goes_along_s = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        """There are no betas to read."""
        self.config = config
        self.n_steps = 0
        self.timesteps = np.arange(0)

    def _spaced(self, n_steps: int) -> np.ndarray:
        # In float32, as the original: the model turns a time by 10,000 turns, which shows its bits.
        share = np.linspace(1, 0, n_steps + 1, dtype=np.float32)
        log_snr = np.float32(LOG_SNR_MAX) - share * np.float32(LOG_SNR_MAX - LOG_SNR_MIN)
        times = 1 / (1 + np.exp(log_snr))
        times[0] = 1.0
        return times[:-1]

    def skip(self, first_step: int) -> np.ndarray:
        """As many time steps as of a whole run, spaced alike below the share of noise that is left.

        As the original does. Of its own times all but the last few are almost noise alone.
        """
        self.timesteps = self.timesteps * np.float32(1 - first_step / self.n_steps)
        return self.timesteps

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timestep: float) -> np.ndarray:
        return (1 - timestep) * clean + timestep * noise

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        return latents + (self._following(timestep) - timestep) * output

    def _following(self, timestep: float) -> float:
        left = self.timesteps[self.timesteps < timestep]
        return float(left[0]) if len(left) else 0.0


class PingPong(FlowEuler, NoisyScheduler):
    """Each step goes all the way to the sound, and back to the next time with new noise.

    The sampler of models that are distilled to a few steps (Song et al. 2023, arXiv 2303.01469,
    algorithm 1; Novack et al. 2025, arXiv 2505.08175).
    """

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        following = self._following(timestep)
        clean = latents - timestep * output
        if following == 0:
            return clean
        return self.add_noise(clean, self.draw(latents.shape[1:]), following)
