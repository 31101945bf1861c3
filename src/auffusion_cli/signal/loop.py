"""A seamless loop of what goes on for a while longer. No torch."""

from __future__ import annotations

import numpy as np

JOIN_S = 1.0
"""What is made beyond a loop's end, and laid over its start."""
JOIN_SHARE = 0.25
"""Of a short loop; no more of it is laid over."""


def join_s(duration_s: float) -> float:
    """Length of the join of a loop of `duration_s`."""
    return min(JOIN_S, JOIN_SHARE * duration_s)


def close_loop(waveform: np.ndarray, n: int) -> np.ndarray:
    """(..., n + m) samples -> a loop (..., n).

    What follows its end fades into its start, by equal powers. The first sample of the loop is the
    one that follows the last one: there is no seam.
    """
    loop, beyond = waveform[..., :n].copy(), waveform[..., n:]
    m = beyond.shape[-1]
    angle = np.pi / 2 * np.arange(m, dtype=np.float32) / max(m, 1)
    loop[..., :m] = np.sin(angle) * loop[..., :m] + np.cos(angle) * beyond
    return loop
