"""`--shard 3/16`: the part of a list that one of several runs takes. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from auffusion_cli.errors import UsageError

MAX_SHARDS = 100_000
_SHARD = re.compile(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 1, of `count`: every count-th item, so that parts differ by one at most.

    The parts are disjoint and together the whole, for any count; nothing else of an item (its name,
    its seed) may depend on them.
    """

    index: int = 1
    count: int = 1

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part, in their order."""
        return list(items[self.index - 1 :: self.count])

    def part(self, part: Shard) -> Shard:
        """The part `part` of this one, as a part of the whole."""
        return Shard(self.index + (part.index - 1) * self.count, self.count * part.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that `text` names.

    Raises:
        UsageError: it names none; half of it may be missing, where a variable is not set.
    """
    match = _SHARD.fullmatch(text)
    if match is None:
        one, _, other = text.partition("/")
        is_unset = not one.strip() or ("/" in text and not other.strip())
        raise UsageError(
            f"--shard {text!r} is not a part and their number",
            hint="For example: --shard 3/16."
            + " Is the variable set? $SLURM_ARRAY_TASK_ID is, within a job array." * is_unset,
        )
    index, count = map(int, match.groups())
    if not (1 <= index <= count <= MAX_SHARDS):
        last = min(max(count, 1), MAX_SHARDS)
        raise UsageError(
            f"--shard {text}: there is no such part",
            hint=f"Valid: 1/{last} to {last}/{last}; in a SLURM array with --array=1-{last}.",
        )
    return Shard(index, count)
