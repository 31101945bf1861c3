"""The check before training: every clip is opened once, unusable ones are listed. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from auffusion_cli.errors import AudioError, AuffusionWarning, DataError
from auffusion_cli.files import atomic_file
from auffusion_cli.parsing import decode, read_json
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.data import Clip, Manifest, Problem

PCM16_FULL_SCALE = 32768
MIN_DURATION_S = 0.1
SILENCE_PEAK = 1e-3
"""-60 dB of full scale."""
MAX_CACHE_BYTES = 2**30
"""Some hundred bytes for each of a million clips."""


@dataclass(frozen=True)
class _Measurement:
    """Measured properties of a clip, which are cached."""

    duration_s: float = 0.0
    peak: float = 0.0
    digest: str = ""
    error: str | None = None


def check_clips(
    manifest: Manifest,
    *,
    min_duration_s: float = MIN_DURATION_S,
    silence_peak: float = SILENCE_PEAK,
    cache_file: Path | None = None,
    n_threads: int | None = None,
    seen: dict[str, Clip] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Open every clip once; returns the usable clips and all problems, those of the list first.

    Unreadable: the file cannot be decoded, or has samples that are not numbers. Silent: no sample
    reaches `silence_peak` (-60 dB of full scale). Too short: under `min_duration_s`. Duplicate: the
    same samples as an earlier clip. `on_progress(n_done, n_total)` is called after each clip.
    With `cache_file`, files of unchanged size and modification time are not opened again. `seen` is
    given to the checks of several splits, so that a clip of one is found in another, too.
    """
    cached = _read_cache(cache_file)
    keys = [_cache_key(clip) for clip in manifest.clips]
    pending = [
        (key, clip) for key, clip in zip(keys, manifest.clips, strict=True) if key not in cached
    ]
    n_total = len(manifest.clips)
    n_done = n_total - len(pending)
    if on_progress:
        on_progress(n_done, n_total)
    pool = ThreadPoolExecutor(n_threads or min(8, os.cpu_count() or 1))
    try:
        measurements = pool.map(_measure, (clip for _, clip in pending))
        for (key, _), measurement in zip(pending, measurements, strict=True):
            cached[key] = measurement
            n_done += 1
            if on_progress:
                on_progress(n_done, n_total)
    finally:  # measurements are kept after Ctrl-C, too
        pool.shutdown(cancel_futures=True)
        if cache_file and pending:
            _write_cache(cache_file, cached)

    good: list[Clip] = []
    problems = list(manifest.problems)
    first_with = {} if seen is None else seen
    for key, clip in zip(keys, manifest.clips, strict=True):
        found = cached[key]
        path = str(clip.path)
        if found.error is not None:
            problems.append(Problem("unreadable", path, found.error))
        elif found.duration_s < min_duration_s:
            detail = f"{found.duration_s:.3f} s, at least {min_duration_s:g} s needed"
            problems.append(Problem("too short", path, detail))
        elif not found.peak >= silence_peak:
            detail = f"peak {found.peak:.1e}, at least {silence_peak:.0e} needed"
            problems.append(Problem("silent", path, detail))
        elif found.digest in first_with:
            detail = f"same samples as {first_with[found.digest].path}"
            problems.append(Problem("duplicate", path, detail))
        else:
            first_with[found.digest] = clip
            good.append(clip)
    return Manifest(tuple(good), tuple(problems))


def _measure(clip: Clip) -> _Measurement:
    try:
        waveform, sample_rate_hz = read_audio(clip.path, mono=True)
        waveform = clip.cut(waveform[0], sample_rate_hz)
        if not len(waveform):
            return _Measurement()
        pcm = (waveform * PCM16_FULL_SCALE).clip(-32768, 32767).astype(np.int16)
        return _Measurement(
            duration_s=len(waveform) / sample_rate_hz,
            peak=float(np.abs(waveform).max()),
            digest=hashlib.blake2b(pcm.tobytes(), digest_size=16).hexdigest(),
        )
    except AudioError as error:
        return _Measurement(error=error.message.removeprefix(f"{clip.path}: "))
    except MemoryError:  # a problem of this file, not of the others
        return _Measurement(error="needs more memory than there is")


def _cache_key(clip: Clip) -> str:
    try:
        file = clip.path.stat()
        version = [file.st_size, file.st_mtime_ns]
    except OSError:
        version = []
    return json.dumps([str(clip.path.absolute()), *version, clip.start_s, clip.duration_s])


def _read_cache(cache_file: Path | None) -> dict[str, _Measurement]:
    if cache_file is None or not cache_file.exists():
        return {}
    try:
        content = read_json(cache_file, raising=DataError, max_bytes=MAX_CACHE_BYTES)
        return decode(dict[str, _Measurement], content)
    except (DataError, ValueError) as error:
        warnings.warn(
            f"the cached data check {cache_file} cannot be read ({error}): checking all files",
            AuffusionWarning,
            stacklevel=3,
        )
        return {}


def _write_cache(cache_file: Path, measurements: dict[str, _Measurement]) -> None:
    # An unreadable file is tried again next time: the cause may lie outside of it.
    entries = {key: asdict(found) for key, found in measurements.items() if found.error is None}
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(cache_file, durable=False) as beside:
        beside.write_text(json.dumps(entries), encoding="utf-8")
