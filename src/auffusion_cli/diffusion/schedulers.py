"""Noise schedules and the solvers that denoise along them, in NumPy.

A solver takes the model's output at one time step to the latents of the next. All are deterministic
and agree with diffusers' schedulers of the same names, which tests hold them to; so a checkpoint's
`scheduler_config.json` of whatever class means the same here.

Sources: DDIM (Song et al. 2021, arXiv 2010.02502), PNDM (Liu et al. 2022, arXiv 2202.09778), Euler
in the form of Karras et al. 2022 (arXiv 2206.00364), DPM-Solver++ (Lu et al. 2022, arXiv
2211.01095), UniPC (Zhao et al. 2023, arXiv 2302.04867).

Notation: alpha and sigma are the shares of signal and noise in the latents, alpha ** 2 + sigma ** 2
= 1; alpha_bar is alpha ** 2; s is sigma / alpha. Arrays are float32; coefficients are floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.errors import UsageError

STEPS_OFFSET = 1
"""Of time steps whose spacing is "leading"; as in Stable Diffusion's pipeline, whatever a file
says, and latents are never clipped, since they are not bounded like pixels."""
MAX_BETA = 0.999
ALMOST_NO_SIGNAL = 2.0**-24
"""alpha_bar in place of 0, where s would be infinite."""
FEW_STEPS = 15
"""With fewer steps DPM-Solver++ ends by one of first order, if the config asks for it."""

ONLY: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "thresholding": (False,),
}
"""The values of a config's field that are implemented; for all schedulers."""
ONLY_SIGMAS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_flow_sigmas": (False,),
    "final_sigmas_type": ("zero", "sigma_min"),
}
ONLY_MULTISTEP: dict[str, tuple[Any, ...]] = {
    "solver_order": (1, 2),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
    "lower_order_final": (False, True),
}


class Scheduler:
    """The noise schedule of a config, and one solver on it; for one run at a time."""

    only: ClassVar[Mapping[str, tuple[Any, ...]]] = ONLY
    default_spacing: ClassVar[str] = "leading"
    default_alpha_to_one: ClassVar[bool] = True
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

    def scale_model_input(self, latents: np.ndarray, timestep: float) -> np.ndarray:
        """The latents as the model is to see them."""
        return latents

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, timestep: float) -> np.ndarray:
        """Clean latents -> those of `timestep`, of this run."""
        alpha_bar = self._alpha_bar(timestep)
        return math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise

    def step(self, output: np.ndarray, timestep: float, latents: np.ndarray) -> np.ndarray:
        """The model's output for the latents of `timestep` -> the latents of the next one."""
        raise NotImplementedError

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
        alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        if self.predicts_noise:
            clean, noise = (latents - sigma * output) / alpha, output
        else:
            clean, noise = alpha * latents - sigma * output, alpha * output + sigma * latents
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


class _Sigmas(Scheduler):
    """A solver along s, at `timesteps` that end at s = 0 or at the schedule's lowest."""

    only = ONLY | ONLY_SIGMAS
    default_spacing = "linspace"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        if config.get("rescale_betas_zero_snr"):
            self.alphas_bar[-1] = ALMOST_NO_SIGNAL

    def set_timesteps(self, n_steps: int) -> None:
        super().set_timesteps(n_steps)
        s = np.sqrt((1 - self.alphas_bar) / self.alphas_bar)
        last = s[0] if self.config.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
        at_timesteps = np.interp(self.timesteps, np.arange(len(s)), s)
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


CLASSES: dict[str, type[Scheduler]] = {
    "pndm": PNDM,
    "ddim": DDIM,
    "dpm++": DPMSolver,
    "unipc": UniPC,
    "euler": Euler,
}


def make_scheduler(name: str, scheduler_config: Mapping[str, Any]) -> Scheduler:
    """The scheduler called `name` on the noise schedule of a checkpoint's scheduler_config.json.

    Raises:
        UsageError: there is none of that name, or the config asks for what it cannot do.
    """
    if name not in CLASSES:
        valid = ", ".join(SCHEDULERS)
        raise UsageError(f"--scheduler {name!r} is not known", hint=f"Valid schedulers: {valid}.")
    if name == "pndm" and scheduler_config.get("rescale_betas_zero_snr"):
        others = ", ".join(other for other in SCHEDULERS if other != name)
        raise UsageError(
            "--scheduler pndm cannot follow this checkpoint's schedule (rescale_betas_zero_snr)",
            hint=f"Valid schedulers: {others}.",
        )
    _check(CLASSES[name], scheduler_config, name)
    return CLASSES[name](scheduler_config)


def make_inverse(scheduler_config: Mapping[str, Any]) -> DDIMInverse:
    """The solver that takes the steps of `ddim` backwards."""
    _check(DDIMInverse, scheduler_config, "ddim")
    return DDIMInverse(scheduler_config)


def _check(kind: type[Scheduler], config: Mapping[str, Any], name: str) -> None:
    for field, values in kind.only.items():
        if field in config and config[field] not in values:
            raise UsageError(
                f"--scheduler {name} cannot follow this checkpoint's schedule: {field} is "
                f"{str(config[field])[:40]!r}, and only "
                f"{', '.join(repr(value) for value in values)} is implemented",
                hint="Try --scheduler ddim.",
            )


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
