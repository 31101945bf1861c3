"""Training samples as pure functions of (seed, position).

The position counts samples from the start of the run. No generator or data loader carries state, so
a resumed run continues with the losses of one never stopped, and N processes see what one would.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

SHARDS_TOGETHER = 32
"""Shards whose items are shuffled among each other, and which are read at the same time."""


@dataclass(frozen=True)
class Sample:
    """One training sample: an item of the data, and the seed of everything random about it."""

    index: int
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator: the same draws in every process and after every resume."""
        return torch.Generator().manual_seed(self.seed)


class Shards:
    """Items that lie in shards: the order of an epoch keeps those of a few shards together.

    The shards are shuffled, and the items of `SHARDS_TOGETHER` shards that follow each other are
    shuffled among each other. What is remembered does not grow with the number of items.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
        """First item of each shard, and the number of all items."""
        self._epoch: tuple[tuple[int, int], np.ndarray, list[int]] | None = None
        self._together: tuple[tuple[int, int, int], np.ndarray] | None = None

    @property
    def n_items(self) -> int:
        return int(self.starts[-1])

    def place_of(self, index: int) -> tuple[int, int]:
        """(shard, place in it) of an item."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def item_at(self, seed: int, epoch: int, place: int) -> int:
        """The item at a place of an epoch's order."""
        if self._epoch is None or self._epoch[0] != (seed, epoch):
            rng = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
            order = rng.permutation(len(self.starts) - 1)
            sizes = np.diff(self.starts)[order]
            ends = np.cumsum(sizes)[SHARDS_TOGETHER - 1 :: SHARDS_TOGETHER].tolist()
            self._epoch = (seed, epoch), order, [0, *ends]
        _, order, starts = self._epoch
        group = bisect(starts, place) - 1
        if self._together is None or self._together[0] != (seed, epoch, group):
            shards = order[group * SHARDS_TOGETHER : (group + 1) * SHARDS_TOGETHER]
            items = np.concatenate(
                [np.arange(self.starts[shard], self.starts[shard + 1]) for shard in shards]
            )
            rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, group)))
            self._together = (seed, epoch, group), rng.permutation(items)
        return int(self._together[1][place - starts[group]])


def samples_at(
    step: int, batch_size: int, n_items: int, seed: int, shards: Shards | None = None
) -> list[Sample]:
    """The samples of one optimiser step: every epoch is a new permutation of the items."""
    batch = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, n_items)
        if shards is None:
            index = int(_permutation(seed, epoch, n_items)[place])
        else:
            index = shards.item_at(seed, epoch, place)
        batch.append(Sample(index, derive_seed(seed, position)))
    return batch


def derive_seed(*entropy: int) -> int:
    """A seed of 63 bits, for the generators of torch and of `random`."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def scene_seed(seed: int, index: int) -> int:
    """Seed of scene `index` where scenes are composed once: latent caches, fitted transforms."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


_last_permutation: tuple[tuple[int, int, int], np.ndarray] | None = None


def _permutation(seed: int, epoch: int, n_items: int) -> np.ndarray:
    """The order of an epoch. The last one is kept, since a step needs it once a sample."""
    global _last_permutation
    key = (seed, epoch, n_items)
    if _last_permutation is None or _last_permutation[0] != key:
        order = np.random.default_rng(np.random.SeedSequence(key)).permutation(n_items)
        _last_permutation = (key, order)
    return _last_permutation[1]
