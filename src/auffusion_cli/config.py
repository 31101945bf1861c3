"""Sizes of the signal path and settings of generation, with units in their names. No torch.

Source: Auffusion (arXiv 2401.01044), section 3.2, and the published checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

ADAPTER_HEADS = 4
"""Of the attention in an adapter's transformer, where it has one."""


@dataclass(frozen=True)
class SpectrogramConfig:
    """Waveform to log-mel spectrogram, as HiFi-GAN's recipe does it."""

    sample_rate_hz: int = 16_000
    n_fft_samples: int = 2048
    win_length_samples: int = 1024
    hop_length_samples: int = 160
    n_mels: int = 256
    fmin_hz: float = 0.0
    fmax_hz: float = 8_000.0
    mel_floor: float = 1e-5
    """Mel magnitudes are clamped to this from below before the logarithm."""
    peak: float = 0.95
    """Waveforms are normalised to this peak before analysis."""

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate_hz / self.hop_length_samples

    def frames_to_seconds(self, n_frames: int) -> float:
        return n_frames * self.hop_length_samples / self.sample_rate_hz

    def seconds_to_frames(self, duration_s: float) -> int:
        """Frames that cover `duration_s`, rounded up."""
        return math.ceil(round(duration_s * self.frames_per_second, 6))


@dataclass(frozen=True)
class ImageConfig:
    """Range of log-mel values that is mapped to the image's 0..1."""

    log_mel_min: float = math.log(1e-5)
    log_mel_max: float = math.log(200.0)


MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Sample rates of sound files that are read, and written."""
MIN_DURATION_S = 0.01
"""One column of the spectrogram."""
MAX_DURATION_S = 3600.0
"""Sounds longer than a model's window are made in overlapping windows."""
MAX_STEPS = 999
"""The published noise schedule has 1000 time steps, and the offset of 1 takes one of them."""


@dataclass(frozen=True)
class Limits:
    """The valid values of a setting."""

    low: float
    high: float
    whole: bool = False
    unit: str = ""

    def allow(self, value: Any) -> bool:
        is_number = isinstance(value, int if self.whole else int | float)
        return is_number and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        numbers = "whole numbers from " if self.whole else ""
        return f"{numbers}{self.low:g} to {self.high:g}{self.unit}"


SETTING_LIMITS = {
    "duration_s": Limits(MIN_DURATION_S, MAX_DURATION_S, unit=" s"),
    "steps": Limits(1, MAX_STEPS, whole=True),
    "guidance_scale": Limits(0.0, 100.0),
    "guidance_rescale": Limits(0.0, 1.0),
    "guidance_until": Limits(0.0, 1.0),
    "windows_at_once": Limits(1, 4, whole=True),
}


SCHEDULERS: dict[str, str] = {
    "pndm": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "ddpm": "DDPMScheduler",
}
"""Name on the command line -> class in diffusers. As set up here one seed is one sound."""
CONTINUOUS_SCHEDULE = "CosineDPMSolverMultistepScheduler"
"""Class in diffusers of a noise schedule along the level of noise, without numbered time steps."""
FLOW_SCHEDULE = "FlowMatchEulerDiscreteScheduler"
"""Class in diffusers of the straight way from noise to sound, without numbered time steps."""
FLOW_SCHEDULERS = ("pingpong", "euler")
"""Those that can follow it."""
SCHEDULER_NAMES = tuple(dict.fromkeys([*SCHEDULERS, *FLOW_SCHEDULERS]))
"""All names on the command line."""
SchedulerName = Literal[SCHEDULER_NAMES]


FEW_STEPS = {"dpm++": 20, "unipc": 20, "ddim": 50, "euler": 50, "pndm": 50}
"""Scheduler -> the steps that give the sound of 100 of PNDM, up to details, the fewest first; DDPM,
whose noise makes it another one, has none:
`benchmarks/steps.py` measures them; see docs/generate.md."""


def default_batch_size(device: str) -> int:
    """Sounds made at once: one keeps a CPU busy, but not a GPU."""
    return 8 if device == "cuda" else 1


@dataclass(frozen=True)
class GenerationDefaults:
    """Settings of `generate` that the user leaves open; a checkpoint may carry its own.

    The values here are the paper's (section 4.1): PNDM, 100 steps, guidance 7.5, 10.24 s.
    """

    duration_s: float = 10.0
    max_duration_s: float = 10.24
    steps: int = 100
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    scheduler: str = "pndm"
    vocoder: str = "hifigan"
    guidance_until: float = 1.0
    windows_at_once: int = 1
    """How many of the windows that it was trained on the UNet sees at once of a longer sound: where
    it does as well with several, fewer calls make it."""

    def few_steps(self, scheduler: str | None = None) -> tuple[int, str]:
        """(steps, scheduler) for as few steps as sound the same: those of `FEW_STEPS` where a model
        has the paper's own 100 of PNDM, its own where it has others.

        Args:
            scheduler: the one to use; None leaves it open.
        """
        if (self.steps, self.scheduler) != (100, "pndm"):
            return self.steps, scheduler or self.scheduler
        scheduler = scheduler or next(iter(FEW_STEPS))
        return FEW_STEPS.get(scheduler, self.steps), scheduler
