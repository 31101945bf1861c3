"""Preparation of a stage's inputs: the processes that share it, a part of it, and who is told."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import PartialState

from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.training.stage import OnPrepare


@dataclass(frozen=True)
class Preparation:
    """What a process does of a preparation; by default all of it."""

    processes: PartialState | None = None
    """Those of a launch, which all prepare a part; None: this one is alone."""
    part: Part | None = None
    """The only one of the data that the launch prepares; None: all of it."""
    on_progress: OnPrepare | None = None

    @property
    def is_main(self) -> bool:
        return self.processes is None or self.processes.is_main_process

    @property
    def share(self) -> Part:
        """The part of the data that this process prepares."""
        whole = self.part or Part()
        if self.processes is None:
            return whole
        return whole.part(Part(self.processes.process_index + 1, self.processes.num_processes))

    def tell(self, what: str, n_done: int, n: int) -> None:
        """Call `on_progress`, if there is one."""
        if self.on_progress is not None:
            self.on_progress(what, n_done, n)

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.processes is not None:
            self.processes.wait_for_everyone()


ALONE = Preparation()
"""One process that prepares all of the data, and tells nobody."""
