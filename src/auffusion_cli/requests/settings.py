"""Sampling settings, which the requests of a run share; checked like these. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auffusion_cli.config import SCHEDULER_NAMES, SETTING_LIMITS, GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.checks import check_limits, shown

SETTING_OPTIONS = {
    "duration_s": "--duration",
    "steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
    "guidance_until": "--guidance-until",
    "scheduler": "--scheduler",
}
"""Field -> its option; only models and records say `windows_at_once`."""


@dataclass(frozen=True)
class GenerateSettings:
    """Sampling settings with nothing left open, shared by the requests of a run."""

    duration_s: float
    steps: int
    guidance_scale: float
    guidance_rescale: float
    scheduler: str
    guidance_until: float = 1.0
    """The share of the steps that is guided; those after it follow the prompt alone."""
    windows_at_once: int = 1
    """How many of the model's windows of a longer sound the UNet sees at once."""

    def __post_init__(self) -> None:
        for name, limits in SETTING_LIMITS.items():
            check_limits(SETTING_OPTIONS.get(name, name), getattr(self, name), limits)
        if self.scheduler not in SCHEDULER_NAMES:  # it may be unhashable
            raise UsageError(
                f"--scheduler {shown(self.scheduler)} is not known",
                hint=f"Valid: {', '.join(SCHEDULER_NAMES)}.",
            )

    @classmethod
    def from_defaults(cls, defaults: GenerationDefaults, **asked: Any) -> GenerateSettings:
        """The checkpoint's defaults, but for the values `asked`; None is not asked.

        The steps "auto" are those of `GenerationDefaults.few_steps`.

        Raises:
            UsageError: a value is impossible.
        """
        values = {name: getattr(defaults, name) for name in cls.__dataclass_fields__}
        values |= {name: value for name, value in asked.items() if value is not None}
        if values["steps"] == "auto":
            few = defaults.few_steps(asked.get("scheduler"))
            values["steps"], values["scheduler"] = few
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
