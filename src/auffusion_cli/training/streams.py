"""Data that is read from end to end (`records.py`) -> shards of latents.

Each process reads parts of its own, and decodes ahead of the encoder in threads. A shard holds what
a fixed number of sounds of a part gave, so that a run that was stopped goes on at that place.
"""

from __future__ import annotations

import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import AudioError, DataError
from auffusion_cli.model import Model
from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.clip_check import MIN_DURATION_S, SILENCE_PEAK
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import Problem
from auffusion_cli.training.encoding import (
    ShardWriter,
    SoundBatch,
    complete,
    index_of,
)
from auffusion_cli.training.latent_shards import SHARD_ITEMS, read_info, shard_path
from auffusion_cli.training.latents import ENCODE_BATCH, LatentCache, seeds_of_crops
from auffusion_cli.training.preparation import ALONE, Preparation
from auffusion_cli.training.records import Record, RecordSet
from auffusion_cli.training.samples import derive_seed
from auffusion_cli.training.scenes import crop

MAX_THREADS = 8

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Sound:
    """A decoded record."""

    waveforms: torch.Tensor
    """(K, N): crops of it."""
    wordings: Wordings


def prepare_records(
    root: Path,
    model: Model,
    records: RecordSet,
    scenes: SceneConfig,
    seed: int,
    skip_bad: bool,
    preparation: Preparation = ALONE,
) -> LatentCache | None:
    """Open the latents of exactly these inputs under `root`, which are made as far as missing.

    Of a part of the data only this one is encoded, and None returned.

    Raises:
        DataError: a part is damaged, or, without `skip_bad`, a sound cannot be used; there is none.
    """
    kinds = [records.version(part) for part in range(len(records.parts))]
    settings = (scenes.duration_s, scenes.n_crops, seed, records.reading)
    data = [repr((kinds, settings))]
    index = index_of(model.codec, model.text, scenes.duration_s, data)
    folder = root / index.inputs
    writer = ShardWriter(folder, model.codec, model.text)

    def write(share: Part) -> None:
        parts = share.of(range(len(records.parts)))
        for n_done, part in enumerate(parts):
            preparation.tell("encoding parts", n_done, len(parts))
            _write_part(writer, records, part, scenes, seed, skip_bad)
        if parts:
            preparation.tell("encoding parts", len(parts), len(parts))

    complete(writer, index, write, preparation)
    writer.captions.warn()  # of a process, those of its own parts
    if preparation.part is not None:
        return None
    cache = LatentCache(folder, index.max_lengths, scenes.phrase_probability)
    if not len(cache):
        raise DataError(f"{records.parts[0]} … hold no sound that can be used")
    return cache


def _write_part(
    writer: ShardWriter,
    records: RecordSet,
    part: int,
    scenes: SceneConfig,
    seed: int,
    skip_bad: bool,
) -> None:
    """Write the shards of a part that are not there."""
    n_shards, is_last = 0, False
    while (path := shard_path(writer.folder, part, n_shards)).exists() and not is_last:
        n_shards, is_last = n_shards + 1, read_info(path).is_last
    if is_last:
        return

    def decode(numbered: tuple[int, Record | Problem]) -> Sound | Problem:
        number, record = numbered
        return _decoded(record, scenes, derive_seed(seed, part, number))

    n_threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads) as pool:
        left = islice(enumerate(records.records(part)), n_shards * SHARD_ITEMS, None)
        sounds = _Peekable(_ahead(pool, decode, left, 4 * n_threads))
        while True:
            problems: Counter[str] = Counter()
            some = _usable(islice(sounds, SHARD_ITEMS), problems, skip_bad)
            writer.write(part, n_shards, _batches(some), lambda: sounds.is_over, problems)
            n_shards += 1
            if sounds.is_over:
                return


def _decoded(record: Record | Problem, scenes: SceneConfig, seed: int) -> Sound | Problem:
    if isinstance(record, Problem):
        return record
    rate_hz = SpectrogramConfig().sample_rate_hz
    try:
        waveform, _ = read_audio(record.where, rate_hz, mono=True, content=record.audio)
    except AudioError as error:
        return Problem("unreadable", record.where, error.message.removeprefix(f"{record.where}: "))
    waveform, peak = torch.from_numpy(waveform[0]), float(np.abs(waveform).max())
    if waveform.numel() < MIN_DURATION_S * rate_hz:
        return Problem("too short", record.where, f"{waveform.numel() / rate_hz:.3f} s")
    if not peak >= SILENCE_PEAK:
        return Problem("silent", record.where, f"peak {peak:.1e}")
    n_samples = round(scenes.duration_s * rate_hz)
    seeds = seeds_of_crops(seed, scenes.n_crops if waveform.numel() > n_samples else 1)
    crops = [crop(waveform, n_samples, random.Random(one)) for one in seeds]
    return Sound(torch.stack(crops), Wordings(record.captions))


def _usable(
    sounds: Iterable[Sound | Problem], problems: Counter[str], skip_bad: bool
) -> Iterator[Sound]:
    """Those that can be used; the others are counted, or else the first is an error."""
    for sound in sounds:
        if isinstance(sound, Sound):
            yield sound
        elif skip_bad:
            problems[sound.reason] += 1
        else:
            raise DataError(f"{sound}", hint="Repair it, or train without such: --skip-bad.")


def _batches(sounds: Iterable[Sound]) -> Iterator[SoundBatch]:
    sounds = iter(sounds)
    while batch := list(islice(sounds, ENCODE_BATCH)):
        waveforms = torch.cat([sound.waveforms for sound in batch])
        n_crops = [len(sound.waveforms) for sound in batch]
        yield waveforms, n_crops, [sound.wordings for sound in batch]


def _ahead(
    pool: ThreadPoolExecutor,
    answer: Callable[[Asked], Answer],
    asked: Iterable[Asked],
    n_ahead: int,
) -> Iterator[Answer]:
    """`answer` of each, in order, computed by the pool for no more than `n_ahead` in advance."""
    waiting = deque()
    for one in asked:
        waiting.append(pool.submit(answer, one))
        if len(waiting) >= n_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Peekable(Iterator[Answer]):
    """An iterator that knows whether it is over."""

    def __init__(self, items: Iterator[Answer]) -> None:
        self._items, self._next = items, []

    def __next__(self) -> Answer:
        return self._next.pop() if self._next else next(self._items)

    @property
    def is_over(self) -> bool:
        if not self._next:
            self._next = list(islice(self._items, 1))
        return not self._next
