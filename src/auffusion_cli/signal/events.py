"""Events of a sound: what is audible between two pauses. No torch."""

from __future__ import annotations

import numpy as np

BLOCK_S = 0.01
ACTIVE_DB = -35.0
"""Level of a block that is part of an event, relative to the loudest block."""
PAUSE_S = 0.2
"""Two events have at least this much silence between them."""
MIN_EVENT_S = 0.03
LEAD_S, TAIL_S = 0.02, 0.1
"""Kept before and after an event, as far as the pause lasts."""


def find_events(waveform: np.ndarray, rate_hz: int) -> list[tuple[int, int]]:
    """(first sample, number of samples) of each event in (C, N) samples, in order."""
    n = waveform.shape[-1]
    n_block = max(round(BLOCK_S * rate_hz), 1)
    power = np.add.reduceat((waveform**2).mean(axis=0), np.arange(0, n, n_block)) / n_block
    active = (power > power.max(initial=0.0) * 10 ** (ACTIVE_DB / 10)).astype(int)
    edges = np.diff(np.concatenate([[0], active, [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    parted = starts[1:] - ends[:-1] >= round(PAUSE_S / BLOCK_S)
    starts, ends = (
        starts[np.r_[True, parted][: len(starts)]],
        ends[np.r_[parted, True][: len(ends)]],
    )
    events = []
    for start, end in zip(starts, ends, strict=True):
        if (end - start) * BLOCK_S >= MIN_EVENT_S:
            first = max(round((start * BLOCK_S - LEAD_S) * rate_hz), 0)
            last = min(round((end * BLOCK_S + TAIL_S) * rate_hz), n)
            events.append((first, last - first))
    return events
