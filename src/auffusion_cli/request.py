"""What is asked of `generate`, checked before anything heavy is loaded. No torch.

Command line, Python and the records inside sound files all pass through the checks here.
"""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.samplers import SCHEDULERS

MAX_PROMPT_CHARACTERS = 10_000
MAX_SEED = 2**63 - 1
MAX_STEPS = 999
"""The published noise schedule has 1000 time steps, and the offset of 1 takes one of them."""
MAX_GUIDANCE_SCALE = 100.0
MIN_DURATION_S = 0.01
"""One column of the spectrogram."""
MAX_DURATION_S = 3600.0
"""What any model may be asked for; each has its own limit below."""


def draw_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


@dataclass(frozen=True)
class GenerateRequest:
    """One sound: the words and the seed. The same request gives the same sound in any batch."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    """What the sound should not be like; "" is none."""

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise UsageError("The prompt is empty.", hint='Try "dog barking in rain".')
        check_text("the prompt", self.prompt)
        check_text("--negative", self.negative_prompt)
        if not _is_int(self.seed) or not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed {self.seed!r} is not a whole number from 0 to 2^63 - 1.")


@dataclass(frozen=True)
class GenerateSettings:
    """How sounds are made, with nothing left open. Shared by all requests of a run."""

    duration_s: float
    steps: int
    guidance_scale: float
    guidance_rescale: float
    scheduler: str

    def __post_init__(self) -> None:
        _check_number("--duration", self.duration_s, MIN_DURATION_S, MAX_DURATION_S, unit=" s")
        if not _is_int(self.steps) or not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(
                f"--steps {self.steps!r} is not possible.",
                hint=f"Valid: whole numbers from 1 to {MAX_STEPS}.",
            )
        _check_number("--guidance", self.guidance_scale, 0.0, MAX_GUIDANCE_SCALE)
        _check_number("--guidance-rescale", self.guidance_rescale, 0.0, 1.0)
        if self.scheduler not in tuple(SCHEDULERS):  # it may be unhashable
            raise UsageError(
                f"--scheduler {self.scheduler!r} is not known.",
                hint=f"Valid: {', '.join(SCHEDULERS)}.",
            )

    @classmethod
    def from_defaults(cls, defaults: GenerationDefaults, **asked: Any) -> GenerateSettings:
        """The checkpoint's defaults, but for what was `asked`; a value of None is not asked.

        Raises:
            UsageError: a value is impossible, or longer than the model's window.
        """
        values = {name: getattr(defaults, name) for name in cls.__dataclass_fields__}
        values |= {name: value for name, value in asked.items() if value is not None}
        settings = cls(**values)
        settings.check_window(defaults.max_duration_s)
        return settings

    def check_window(self, max_duration_s: float) -> None:
        """Raise a UsageError if the sound would not fit the model's window."""
        if self.duration_s > max_duration_s:
            raise UsageError(
                f"--duration {self.duration_s:g} s is longer than this model can make.",
                hint=f"Valid: {MIN_DURATION_S:g} to {max_duration_s:g} s.",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_text(name: str, text: Any) -> None:
    """Raise a UsageError unless `text` is reasonable text without control characters.

    Prompts come from files too, and are printed: an escape sequence must not reach a terminal.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name[0].upper()}{name[1:]} is not text: {text!r}.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UsageError(
            f"{name[0].upper()}{name[1:]} has {len(text)} characters.",
            hint=f"At most {MAX_PROMPT_CHARACTERS} are read.",
        )
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise UsageError(
                f"{name[0].upper()}{name[1:]} has a character that is not text:"
                f" U+{ord(character):04X}."
            )


def _check_number(option: str, value: Any, low: float, high: float, unit: str = "") -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise UsageError(
            f"{option} {value!r} is not possible.", hint=f"Valid: {low:g} to {high:g}{unit}."
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
