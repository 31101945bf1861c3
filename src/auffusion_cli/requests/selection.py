"""How many sounds are made of a request, and which of them is kept; what became of it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from auffusion_cli.config import Limits
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.seeds import MAX_SEED

CANDIDATES = Limits(1, 100, whole=True)
MAX_RETRIES = 3
"""Times that a sound with a fault is made again."""
SEED = Limits(0, MAX_SEED, whole=True)


@dataclass(frozen=True)
class Choosing:
    """What is asked: candidates for each sound, and guards."""

    best_of: int = 1
    keep_all: bool = False
    guards: bool = True

    @property
    def n_kept(self) -> int:
        """Files of each sound: the best candidate, or all."""
        return self.best_of if self.keep_all else 1

    def __post_init__(self) -> None:
        if not CANDIDATES.allow(self.best_of):
            raise UsageError(
                f"--best-of {self.best_of} is not possible", hint=f"Valid: {CANDIDATES}."
            )
        if self.keep_all and self.best_of == 1:
            raise UsageError("--keep-all goes with --best-of")


@dataclass(frozen=True)
class Rejected:
    """A sound that was made again with another seed."""

    seed: int
    fault: str


@dataclass(frozen=True)
class Selection:
    """How a sound came to be the one of its request, where it is not simply that of its seed."""

    first_seed: int
    """The seed that was asked for."""
    rejected: tuple[Rejected, ...] = ()
    """By the guards, in order."""
    fault: str | None = None
    """What the guards find in this one."""
    best_of: int = 1
    rank: int = 1
    """Among the candidates; 1 is the best."""
    judge: str | None = None
    """None where the judge knows nothing of the prompt's words."""
    score: float | None = None
    """The judge's: higher is better."""

    def __post_init__(self) -> None:
        seeds = [self.first_seed, *(one.seed for one in self.rejected)]
        texts = [self.fault, self.judge, *(one.fault for one in self.rejected)]
        if (
            len(self.rejected) > MAX_RETRIES
            or not all(SEED.allow(seed) for seed in seeds)
            or not all(text is None or (len(text) < 100 and text.isprintable()) for text in texts)
            or not all(CANDIDATES.allow(number) for number in (self.best_of, self.rank))
        ):
            raise UsageError("it is not possible that the sound was chosen so")

    def to_dict(self) -> dict[str, Any]:
        """Without what says nothing."""
        values = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        if self.rejected:
            values["rejected"] = [{"seed": one.seed, "fault": one.fault} for one in self.rejected]
        return values
