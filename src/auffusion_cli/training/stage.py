"""The interface between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from auffusion_cli.training.samples import Sample, Shards

Losses = Iterator[tuple[Tensor, dict[str, float]]]
"""(loss, numbers to log), one for each backward pass."""

OnPrepare = Callable[[str, int, int], None]
"""Called with (description, items done, items in all) while a stage prepares its inputs."""


class Stage(Protocol):
    """Networks, inputs and losses of a training."""

    networks: dict[str, nn.Module]
    """Trained networks by name, each with its own optimiser; the first one has the EMA.

    The loop replaces the entries by their wrapped forms, which `losses` must call."""
    n_items: int
    """Items of the data; an epoch sees each once."""
    shards: Shards | None
    """Where they lie, if their order has to keep to it."""

    def load(self, batch: Sequence[Sample]) -> Any:
        """Read, compose and draw the inputs of `losses` for a part of a batch, as tensors in tuples
        and lists. It may run in another process, and so uses no GPU and changes nothing."""
        ...

    def losses(self, loaded: Any, step: int) -> Losses:
        """Yield the losses of what `load` returned, mean over its samples."""
        ...

    def trains(self, name: str, step: int) -> bool:
        """Whether network `name` is updated at `step`."""
        ...

    def validation_loss(self) -> float:
        """The loss on held-out data, of the current weights; asked for only where there is some."""
        ...

    def export(self, folder: Path) -> None:
        """Write the trained part to `folder`, with the current weights (the EMA's)."""
        ...

    def preview(self, folder: Path, step: int) -> None:
        """Write sample sounds and pictures of the current weights."""
        ...
