"""Loudness ceiling of a recording, and gains that keep a new part of it below that. No torch.

Loudness is the root mean square over all channels, of each tenth of a second and of each 0.4 s, the
window of momentary loudness (EBU Tech 3341, 2023, section 2.2). A bark is judged by the one, and
a longer sound as loud as a bark by the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BLOCK_S = 0.01
WINDOWS_BLOCKS = (10, 40)
RAMP_BLOCKS = 31
"""A gain takes 0.3 s to reach a new value; odd, so that the ramp has a middle."""
SILENT = 1e-4
"""A level (root mean square, full scale 1) below which a recording sets no ceiling."""


@dataclass(frozen=True)
class Ceiling:
    """Loudness of the loudest moments of a recording."""

    power: Mapping[int, float]
    """Number of blocks in a moment -> its mean square; empty for silence."""
    n_block: int
    """Samples."""

    @classmethod
    def of(
        cls,
        samples: np.ndarray,
        rate_hz: int,
        of_bands: Callable[[np.ndarray], np.ndarray] = lambda part: part,
    ) -> Ceiling:
        """The ceiling of samples (N, C), or of what `of_bands` keeps of them, (n, C) -> (n, C)."""
        n_block = round(BLOCK_S * rate_hz)
        n_part = 500 * n_block
        parts = [samples[i : i + n_part] for i in range(0, len(samples), n_part)]
        blocks = np.concatenate([_block_powers(of_bands(part), n_block) for part in parts])
        power = {n: float(_moments(blocks, n).max()) for n in WINDOWS_BLOCKS}
        audible = power[WINDOWS_BLOCKS[0]] > SILENT**2
        return cls(power if audible else {}, n_block)

    def gains(self, new: np.ndarray) -> np.ndarray:
        """(n, C) samples -> (n,) gains, at most 1, that leave no moment of it louder than this.

        They go down once and up once, linearly in dB, and begin before it is too loud: what is soft
        between two loud moments does not swell. Where nothing is too loud all are exactly 1.
        """
        blocks = _block_powers(new, self.n_block)
        allowed = np.ones(len(blocks))
        for n, most in self.power.items():
            moments = _moments(blocks, n)
            fits = np.sqrt(most / np.maximum(moments, most))
            # A block is in all moments that begin up to n - 1 blocks before it.
            n = len(blocks) - len(moments) + 1
            padded = np.pad(fits, n - 1, constant_values=1.0)
            allowed = np.minimum(allowed, _sliding(padded, n).min(axis=1))
        # Low enough for the whole of a ramp; a block more on either side, to interpolate between.
        reach = RAMP_BLOCKS // 2 + 1
        allowed = _sliding(np.pad(allowed, reach, mode="edge"), 2 * reach + 1).min(axis=1)
        down, up = np.minimum.accumulate(allowed), np.minimum.accumulate(allowed[::-1])[::-1]
        level = np.log(np.maximum(down, up))
        level = _sliding(np.pad(level, RAMP_BLOCKS // 2, mode="edge"), RAMP_BLOCKS).mean(axis=1)
        centres = (np.arange(len(blocks)) + 0.5) * self.n_block
        return np.exp(np.interp(np.arange(len(new)), centres, level))


def _block_powers(samples: np.ndarray, n_block: int) -> np.ndarray:
    """(N, C) -> the mean square of each block; silence completes the last one.

    A few samples at the end, taken for a whole block, would make a ceiling of a click.
    """
    starts = np.arange(0, len(samples), n_block)
    return np.add.reduceat((samples**2).mean(axis=1), starts) / n_block


def _moments(blocks: np.ndarray, n: int) -> np.ndarray:
    """The mean of each `n` neighbouring blocks, or of all if there are fewer."""
    return _sliding(blocks, min(n, len(blocks))).mean(axis=1)


def _sliding(values: np.ndarray, n: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, n)
