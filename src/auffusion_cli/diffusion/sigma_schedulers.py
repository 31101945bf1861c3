"""Solvers along s, the ratio of noise to signal: Euler's, DPM-Solver++ and UniPC.

On a continuous schedule s falls evenly in its logarithm, and the model is told of it by 2 / pi *
atan(s) (Stable Audio Open, arXiv 2407.14358; Salimans and Ho 2022, arXiv 2202.00512, appendix D).

Sources: Karras et al. 2022 (arXiv 2206.00364), Lu et al. 2022 (arXiv 2211.01095), Zhao et al. 2023
(arXiv 2302.04867). Notation as in `schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from auffusion_cli.diffusion.schedule import ONLY, STEPS_OFFSET, Scheduler, is_continuous

ALMOST_NO_SIGNAL = 2.0**-24
"""alpha_bar in place of 0, where s would be infinite."""
FEW_STEPS = 15
"""With fewer steps DPM-Solver++ ends by one of first order, if the config asks for it."""

ONLY_SIGMAS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_flow_sigmas": (False,),
    "final_sigmas_type": ("zero", "sigma_min"),
    "sigma_schedule": ("exponential",),
    "sigma_data": (1.0,),
}
ONLY_MULTISTEP: dict[str, tuple[Any, ...]] = {
    "solver_order": (1, 2),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
    "lower_order_final": (False, True),
}


class _Sigmas(Scheduler):
    """A solver along s, at `timesteps` that end at s = 0 or at the schedule's lowest."""

    goes_along_s = True

    only = ONLY | ONLY_SIGMAS
    default_spacing = "linspace"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        if config.get("rescale_betas_zero_snr"):
            self.alphas_bar[-1] = ALMOST_NO_SIGNAL

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        if is_continuous(self.config):
            lowest = self.config["sigma_min"]
            at_timesteps = np.geomspace(self.config["sigma_max"], lowest, n_steps)
            self.timesteps = 2 / math.pi * np.arctan(at_timesteps)
        else:
            s = np.sqrt((1 - self.alphas_bar) / self.alphas_bar)
            lowest = s[0]
            at_timesteps = np.interp(self.timesteps, np.arange(len(s)), s)
        last = lowest if self.config.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
        self.s: list[float] = [*at_timesteps.tolist(), float(last)]

    def _index(self, timestep: float) -> int:
        return int(np.flatnonzero(self.timesteps == timestep)[0])


class Euler(_Sigmas):
    """Euler's method; the state is the sound plus s times noise, which the model sees scaled."""

    only = _Sigmas.only | {
        "interpolation_type": ("linear",),
        "timestep_type": ("discrete",),
    }

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        largest = max(self.s)
        self.init_noise_sigma = math.hypot(largest, 1) if self.spacing == "leading" else largest

    def _spaced(self, n_steps: int) -> np.ndarray:
        if self.spacing != "linspace":
            return super()._spaced(n_steps).astype(np.float32)
        return np.linspace(0, len(self.alphas_bar) - 1, n_steps, dtype=np.float32)[::-1]

    def scale_model_input(self, latents: np.ndarray, timestep: float) -> np.ndarray:
        return latents / math.hypot(self.s[self._index(timestep)], 1)

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timestep: float) -> np.ndarray:
        return clean + self.s[self._index(timestep)] * noise

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        index = self._index(timestep)
        s, following = self.s[index], self.s[index + 1]
        if self.predicts_noise:
            noise = output
        else:
            clean = latents / (s**2 + 1) - output * (s / math.hypot(s, 1))
            noise = (latents - clean) / s
        return latents + (following - s) * noise


class _Multistep(_Sigmas):
    """A solver that extrapolates the predicted sound from those of the steps before."""

    only = _Sigmas.only | ONLY_MULTISTEP

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.order: int = config.get("solver_order", 2)
        self.lowers_order: bool = config.get("lower_order_final", True)

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        self._cleans: list[np.ndarray] = []  # of the last steps, the newest last

    def _spaced(self, n_steps: int) -> np.ndarray:
        """One more step is spaced than is taken, since the sound itself is one of them."""
        n = len(self.alphas_bar)
        if self.spacing == "linspace":
            return np.linspace(0, n - 1, n_steps + 1).round()[:0:-1].astype(np.int64)
        if self.spacing == "leading":
            return np.arange(n_steps + 1)[:0:-1] * (n // (n_steps + 1)) + STEPS_OFFSET
        return super()._spaced(n_steps)

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timestep: float) -> np.ndarray:
        alpha, sigma, _ = self._level(self._index(timestep))
        return alpha * clean + sigma * noise

    def _level(self, index: int) -> tuple[float, float, float]:
        """(alpha, sigma, the logarithm of their ratio, which is infinite for the sound)."""
        s = self.s[index]
        alpha = 1 / math.hypot(s, 1)
        return alpha, s * alpha, -math.log(s) if s > 0 else math.inf

    def _clean(self, output: np.ndarray, latents: np.ndarray, index: int) -> np.ndarray:
        """The sound that the model's output stands for."""
        alpha, sigma, _ = self._level(index)
        if self.predicts_noise:
            return (latents - sigma * output) / alpha
        return alpha * latents - sigma * output


class DPMSolver(_Multistep):
    """DPM-Solver++ (2M): algorithm 2 of the paper."""

    only = _Multistep.only | {
        "use_lu_lambdas": (False,),
        "lambda_min_clipped": (-math.inf,),
        "variance_type": (None,),
    }

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        index, is_last = self._index(timestep), timestep == self.timesteps[-1]
        self._cleans = [*self._cleans[-1:], self._clean(output, latents, index)]
        _, sigma, lambda_here = self._level(index)
        to_alpha, to_sigma, to_lambda = self._level(index + 1)
        h = to_lambda - lambda_here
        grown = -math.expm1(-h)
        clean = self._cleans[-1]
        moved = (to_sigma / sigma) * latents + (to_alpha * grown) * clean
        if self.order == 1 or len(self._cleans) == 1 or (is_last and self._ends_low()):
            return moved
        before = lambda_here - self._level(index - 1)[2]
        slope = (clean - self._cleans[-2]) * (h / before)
        if self.config.get("solver_type") == "heun":
            return moved + (to_alpha * (1 - grown / h)) * slope
        return moved + (0.5 * to_alpha * grown) * slope

    def _ends_low(self) -> bool:
        return (
            self.config.get("euler_at_final", False)
            or (self.lowers_order and len(self.timesteps) < FEW_STEPS)
            or self.s[-1] == 0
        )


class UniPC(_Multistep):
    """Predictor and corrector of UniPC, both by its B(h): sections 3.1 and 3.2."""

    only = _Multistep.only | {
        "solver_order": (1, 2, 3),
        "predict_x0": (True,),
        "disable_corrector": ([], None),
        "solver_p": (None,),
    }

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        self._corrected: np.ndarray | None = None  # the latents that the last step began with
        self._last_order = 0

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        index = self._index(timestep)
        clean = self._clean(output, latents, index)
        if self._corrected is not None:
            latents = self._move(self._corrected, index - 1, self._last_order, clean)
        self._cleans = [*self._cleans, clean][-self.order :]
        n_left = len(self.timesteps) - index
        ends_clean = self.s[-1] == 0  # of which no order but the first is finite
        order = min(self.order, n_left) if self.lowers_order or ends_clean else self.order
        self._last_order = min(order, len(self._cleans))
        self._corrected = latents
        return self._move(latents, index, self._last_order)

    def _move(
        self, latents: np.ndarray, index: int, order: int, reached: np.ndarray | None = None
    ) -> np.ndarray:
        """The latents of step `index` -> those of the next; corrected by the sound `reached` there.

        `_cleans` end with the sound of step `index`.
        """
        _, sigma, lambda_here = self._level(index)
        to_alpha, to_sigma, to_lambda = self._level(index + 1)
        h = to_lambda - lambda_here
        clean = self._cleans[-1]
        ratios = [(self._level(index - i)[2] - lambda_here) / h for i in range(1, order)]
        slopes = [
            (earlier - clean) / ratio
            for earlier, ratio in zip(self._cleans[-2 : -order - 1 : -1], ratios, strict=True)
        ]
        if reached is not None:
            slopes.append(reached - clean)
        grown = -math.expm1(-h)
        scale = h if self.config.get("solver_type") == "bh1" else grown
        moved = (to_sigma / sigma) * latents + (to_alpha * grown) * clean
        weights = self._weights([*ratios, 1.0], h, scale, corrects=reached is not None)
        for weight, slope in zip(weights, slopes, strict=True):
            moved += (to_alpha * scale * weight) * slope
        return moved

    @staticmethod
    def _weights(ratios: list[float], h: float, scale: float, *, corrects: bool) -> list[float]:
        """Of the slopes; such that polynomials of their number are solved exactly: theorem 3.1."""
        if len(ratios) == (1 if corrects else 2):
            return [0.5]
        if len(ratios) == 1:
            return []
        powers = np.vander(ratios, increasing=True).T
        sides, phi, factorial = [], math.expm1(-h) / -h - 1, 1
        for i in range(1, len(ratios) + 1):
            sides.append(phi * factorial / -scale)
            factorial *= i + 1
            phi = phi / -h - 1 / factorial
        n = len(ratios) if corrects else len(ratios) - 1
        return np.linalg.solve(powers[:n, :n], sides[:n]).tolist()
