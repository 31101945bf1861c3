"""Chunks of a wav that other programs read: broadcast fields and loop points. No torch."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from auffusion_cli.signal.meters import loudness_lufs, to_db, true_peak

ORIGINATOR = b"auffusion"
UNKNOWN = 0x7FFF
"""A measure in the broadcast fields that is not given."""


def chunks_of_record(
    record: Mapping[str, Any], samples: np.ndarray, rate_hz: int
) -> list[tuple[bytes, bytes]]:
    """(name, content) of the chunks of a sound with samples (N, C) and this record."""
    chunks = []
    finish = record.get("finish")
    if isinstance(finish, Mapping) and finish.get("broadcast"):
        chunks.append((b"bext", broadcast_chunk(record, samples, rate_hz)))
    if record.get("loop") is True or record.get("where") == "loop":
        chunks.append((b"smpl", loop_chunk(len(samples), rate_hz)))
    return chunks


def broadcast_chunk(record: Mapping[str, Any], samples: np.ndarray, rate_hz: int) -> bytes:
    """`bext`, version 2 (EBU Tech 3285, 2011): words, date, loudness and true peak."""
    scale = 1.0 if samples.dtype.kind == "f" else 2.0 ** (1 - 8 * samples.dtype.itemsize)
    waveform = samples.T * scale
    description = " ".join(str(record.get("prompt") or record.get("source", "")).split())
    reference = str(record.get("samples_sha256", ""))
    now = time.localtime()
    return struct.pack(
        "<256s32s32s10s8sQH64s5h180x",
        description.encode("ascii", "replace"),
        ORIGINATOR,
        reference[:32].encode("ascii", "replace"),
        time.strftime("%Y-%m-%d", now).encode(),
        time.strftime("%H:%M:%S", now).encode(),
        0,  # the time of its first sample, since midnight
        2,  # the version of the chunk
        b"",  # no UMID
        _hundredths(loudness_lufs(waveform, rate_hz)),
        UNKNOWN,  # loudness range, which takes a minute to mean something
        _hundredths(to_db(true_peak(waveform))),
        UNKNOWN,
        UNKNOWN,
    )


def _hundredths(level: float) -> int:
    return round(100 * level) if level > -327 else UNKNOWN


def loop_chunk(n_samples: int, rate_hz: int) -> bytes:
    """`smpl` with one loop, forward and endless, over all of the sound."""
    period_ns, middle_c = round(1e9 / rate_hz), 60
    header = struct.pack("<9I", 0, 0, period_ns, middle_c, 0, 0, 0, 1, 0)
    return header + struct.pack("<6I", 0, 0, 0, n_samples - 1, 0, 0)
