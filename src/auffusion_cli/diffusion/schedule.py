"""Noise schedules: how much of the sound is left at each time step, and which steps are taken.

Notation: alpha and sigma are the shares of signal and noise in the latents, alpha ** 2 + sigma ** 2
= 1; alpha_bar is alpha ** 2; s is sigma / alpha. Arrays are float32; coefficients are floats.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from auffusion_cli.config import CONTINUOUS_SCHEDULE, FLOW_SCHEDULE
from auffusion_cli.errors import UsageError
from auffusion_cli.signal.noise import Noise

STEPS_OFFSET = 1
"""Of time steps whose spacing is "leading"; as in Stable Diffusion's pipeline, whatever a file
says, and latents are never clipped, since they are not bounded like pixels."""
MAX_BETA = 0.999

ONLY: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "thresholding": (False,),
}
"""The values of a config's field that are implemented; for all schedulers."""


class Scheduler(ABC):
    """The noise schedule of a config, and one solver on it; for one run at a time."""

    only: ClassVar[Mapping[str, tuple[Any, ...]]] = ONLY
    default_spacing: ClassVar[str] = "leading"
    default_alpha_to_one: ClassVar[bool] = True
    goes_along_s: ClassVar[bool] = False
    """Whether it can follow a schedule without numbered time steps."""
    init_noise_sigma: float = 1.0
    """Standard deviation of the latents to begin with, which the noise is multiplied by."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.predicts_noise = config.get("prediction_type", "epsilon") == "epsilon"
        self.spacing = config.get("timestep_spacing", self.default_spacing)
        self.alphas_bar = _alphas_bar(config)
        """(N,) float64, one for each time step of training"""
        to_one = config.get("set_alpha_to_one", self.default_alpha_to_one)
        self.final_alpha_bar = 1.0 if to_one else float(self.alphas_bar[0])
        self.n_steps = 0
        self.timesteps = np.arange(0)

    def set_timesteps(self, n_steps: int) -> None:
        """Begin a run: `timesteps` are then (n_steps,), from noise to sound."""
        self.n_steps = n_steps
        self.timesteps = self._spaced(n_steps)

    def skip(self, first_step: int) -> np.ndarray:
        """The time steps of a run that begins with step `first_step`, from 1 on."""
        return self.timesteps[first_step:]

    def last_timestep(self, share: float) -> float:
        """The last of the first `share` of `timesteps`; infinity where that is none."""
        n = round(share * len(self.timesteps))
        return float(self.timesteps[n - 1]) if n else math.inf

    def begin(self, noise: np.ndarray) -> np.ndarray:
        """The first state of a run, of the noise (B, C, h, w) that every sound begins with."""
        return noise * self.init_noise_sigma

    def scale_model_input(self, latents: np.ndarray, timestep: float) -> np.ndarray:
        """The latents as the model is to see them."""
        return latents

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timestep: float) -> np.ndarray:
        """Clean latents -> those of `timestep`, of this run."""
        alpha_bar = self._alpha_bar(timestep)
        return math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise

    @abstractmethod
    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        """The model's output for the latents of `timestep` -> the latents of the next one."""

    def clean_and_noise(
        self, output: np.ndarray, latents: np.ndarray, alpha_bar: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the model's output says that there is of both in the latents, each at full size."""
        alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        if self.predicts_noise:
            return (latents - sigma * output) / alpha, output
        return alpha * latents - sigma * output, alpha * output + sigma * latents

    def _spaced(self, n_steps: int) -> np.ndarray:
        """(n_steps,) whole time steps; Lin et al. 2023 (arXiv 2305.08891), table 2."""
        n = len(self.alphas_bar)
        if self.spacing == "linspace":
            return np.linspace(0, n - 1, n_steps).round()[::-1].astype(np.int64)
        if self.spacing == "leading":
            return np.arange(n_steps)[::-1] * (n // n_steps) + STEPS_OFFSET
        return np.round(np.arange(n, 0, -n / n_steps)).astype(np.int64) - 1

    def _alpha_bar(self, timestep: float) -> float:
        """Of a whole time step; below 0 lies the sound."""
        return float(self.alphas_bar[int(timestep)]) if timestep >= 0 else self.final_alpha_bar


class NoisyScheduler(Scheduler):
    """A scheduler that adds noise at every step, which follows from that which a sound begins with.

    So one seed is one sound in any batch.
    """

    def begin(self, noise: np.ndarray) -> np.ndarray:
        digests = (hashlib.sha256(np.ascontiguousarray(row)).digest() for row in noise)
        self._noises = [Noise(int.from_bytes(digest[:4], "little")) for digest in digests]
        return super().begin(noise)

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """(B, ...) of the next noise, of each sound its own."""
        return np.stack([noise.normal(shape) for noise in self._noises])


def is_continuous(config: Mapping[str, Any]) -> bool:
    """Whether a config's schedule is of s in a range, not of numbered time steps."""
    return config.get("_class_name") == CONTINUOUS_SCHEDULE


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a config's schedule is the straight way of `flow_schedulers`."""
    return config.get("_class_name") == FLOW_SCHEDULE


def _alphas_bar(config: Mapping[str, Any]) -> np.ndarray:
    """(N,) float64: the share of signal in the power of the latents at each time step."""
    n = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    match config.get("trained_betas"), config.get("beta_schedule", "linear"):
        case list() as betas, _:
            pass
        case None, "linear":
            betas = np.linspace(start, end, n)
        case None, "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, n) ** 2
        case None, "squaredcos_cap_v2":
            time = (np.arange(n + 1) / n + 0.008) / 1.008
            signal = np.cos(time * np.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], MAX_BETA)
        case _, schedule:
            raise UsageError(f"beta_schedule is {str(schedule)[:40]!r}, which is not implemented")
    # As trained: in float32, whose rounding a product of a thousand factors makes visible.
    alphas = np.float32(1) - np.asarray(betas, np.float32)
    if config.get("rescale_betas_zero_snr"):
        alphas = _without_terminal_signal(alphas)
    return np.cumprod(alphas.astype(np.float64))


def _without_terminal_signal(alphas: np.ndarray) -> np.ndarray:
    """The schedule shifted and scaled so that its product is 0: Lin et al. 2023, algorithm 1."""
    signal = np.sqrt(np.cumprod(alphas.astype(np.float64)).astype(np.float32))
    scale = signal[0] / (signal[0] - signal[-1])
    alphas_bar = ((signal - signal[-1]) * scale) ** 2
    betas = np.float32(1) - np.append(alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1])
    return np.float32(1) - betas
