"""The processes of `accelerate launch` and `torchrun`, told by their environment, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.shards import Shard

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets; where one is missing a process is alone."""
LONGEST_WAIT = timedelta(days=30)
"""Of the main process for those with more work."""


@dataclass(frozen=True)
class Launch:
    """One process, `rank` from 0, of `size` that were started together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """This process among those of its launch.

        Raises:
            UsageError: the variables of the launcher contradict each other.
        """
        if any(name not in environment for name in VARIABLES):
            return cls()
        texts = environment["RANK"], environment["WORLD_SIZE"]
        if not all(text.isascii() and text.isdecimal() for text in texts):
            raise UsageError("RANK and WORLD_SIZE, which a launcher sets, are not numbers")
        rank, size = map(int, texts)
        if rank >= size:
            raise UsageError(f"RANK is {rank}, of a launch of WORLD_SIZE {size} processes")
        return cls(rank, size)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def shard(self) -> Shard:
        """Its part of what the processes share."""
        return Shard(self.rank + 1, self.size)

    def share_of(self, shard: Shard | None, prompts_file: str | None) -> Shard:
        """The part of a list that this process makes: of `shard`, or of the whole.

        Raises:
            UsageError: there is no list to share, or each process cannot read it.
        """
        if prompts_file is None and not (shard is None and self.is_alone):
            who = f"a launch of {self.size} processes shares" if shard is None else "--shard shares"
            raise UsageError(f"{who} a list, and there is none", hint="Valid: --prompts FILE.")
        if prompts_file == "-" and not self.is_alone:
            raise UsageError(
                f"--prompts -: the {self.size} processes of a launch cannot all read it",
                hint="Write the list into a file.",
            )
        return (shard or Shard()).part(self.shard)

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes by rank, in the main one; it waits for them. None in others.

        A value is what JSON can hold.
        """
        if self.is_alone:
            return [value]
        from torch.distributed import rendezvous

        store, _, _ = next(rendezvous("env://", timeout=LONGEST_WAIT))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        keys = [f"auffusion/{attempt}/{rank}" for rank in range(self.size)]
        store.set(keys[self.rank], json.dumps(value))
        if not self.is_main:
            return None
        store.wait(keys, LONGEST_WAIT)
        return [json.loads(store.get(key)) for key in keys]
