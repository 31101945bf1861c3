"""Seeded white noise: the numbers of torch's CPU generator, without torch.

A sound is known by its seed, also in records that older versions wrote. So the generator of these
is kept: the Mersenne Twister and torch's two transforms to a normal distribution, one of blocks and
one of single values (Box and Muller, "A note on the generation of random normal deviates", 1958).
"""

from __future__ import annotations

import math

import numpy as np

BLOCK = 16
"""Arrays of at least this many values are drawn in blocks of as many."""


class Noise:
    """A sequence of normally distributed numbers; the same as `torch.randn`'s to 5e-7."""

    def __init__(self, seed: int) -> None:
        """`seed` of any size; torch's generator uses its lowest 32 bits."""
        self._twister = np.random.RandomState(seed & 0xFFFF_FFFF)
        self._spare: float | None = None  # the second of the last pair of single values

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next numbers, float32: of mean 0 and variance 1."""
        n = math.prod(shape)
        values = self._blocks(n) if n >= BLOCK else [self._single() for _ in range(n)]
        return np.asarray(values, np.float32).reshape(shape)

    def _blocks(self, n: int) -> np.ndarray:
        uniform = self._uniform(n)
        whole = n - n % BLOCK
        values = np.empty(n, np.float32)
        values[:whole] = _box_muller(uniform[:whole])
        if whole < n:  # the last block is drawn anew, over the end of the one before
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values

    def _uniform(self, n: int) -> np.ndarray:
        """(n,) float32 in [0, 1), multiples of 2⁻²⁴."""
        return (self._draw(n) & 0xFF_FFFF).astype(np.float32) * np.float32(2**-24)

    def _single(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high, low = self._draw(4).astype(np.uint64).reshape(2, 2).T
        angle, uniform = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) * 2.0**-53
        radius = math.sqrt(-2 * math.log1p(-uniform))
        self._spare = radius * math.sin(2 * math.pi * angle)
        return radius * math.cos(2 * math.pi * angle)

    def _draw(self, n: int) -> np.ndarray:
        return self._twister.randint(0, 2**32, n, np.uint32)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """(n,) -> (n,), in blocks of 16: eight radii and eight angles become as many pairs."""
    radius, angle = uniform.reshape(-1, 2, BLOCK // 2).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log(1 - radius))
    angle = np.float32(2 * math.pi) * angle
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
