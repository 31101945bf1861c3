"""Training samples as pure functions of (seed, position).

The position counts samples from the start of the run. No generator or data loader carries state, so
a resumed run continues with the losses of one never stopped, and N processes see what one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sample:
    """One training sample: an item of the data, and the seed of everything random about it."""

    index: int
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator: the same draws in every process and after every resume."""
        return torch.Generator().manual_seed(self.seed)


def samples_at(step: int, batch_size: int, n_items: int, seed: int) -> list[Sample]:
    """The samples of one optimiser step: every epoch is a new permutation of the items."""
    batch = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, n_items)
        index = int(_permutation(seed, epoch, n_items)[place])
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
