"""Waveforms of clips, cached in memory as far as they fit."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from auffusion_cli.errors import DataError
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import Clip

TRIM_LEVEL = 10 ** (-50 / 20)
"""Fraction of the peak above which an event begins and ends."""


def load_waveform(clip: Clip, sample_rate_hz: int) -> Tensor:
    """The clip as a (N,) float32 mono waveform; its level is kept.

    Raises AudioError if the file cannot be read.
    """
    waveform, _ = read_audio(clip.path, sample_rate_hz, mono=True)
    return torch.from_numpy(clip.cut(waveform[0], sample_rate_hz))


class ClipStore:
    """Clips as peak-normalised mono waveforms, kept as 16-bit samples up to `memory_bytes`.

    `store[i]` is (N,) float32 with peak 1; events are trimmed of silence at both ends. Clips beyond
    that memory are read again each time.
    """

    def __init__(
        self, clips: Sequence[Clip], sample_rate_hz: int, memory_bytes: int = 2 * 1024**3
    ) -> None:
        self.clips = tuple(clips)
        self.sample_rate_hz = sample_rate_hz
        self._free_bytes = memory_bytes
        self._pcm: dict[int, Tensor] = {}
        self._groups: dict[tuple[str | None, str | None], list[int]] = {}
        self._weighted: dict[tuple, tuple[list[list[int]], list[float]]] = {}
        for index, clip in enumerate(self.clips):
            self._groups.setdefault((clip.role, clip.kind), []).append(index)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        pcm = self._pcm.get(index)
        if pcm is None:
            pcm = self._read(index)
            n_bytes = pcm.numel() * pcm.element_size()
            if n_bytes <= self._free_bytes:
                self._free_bytes -= n_bytes
                self._pcm[index] = pcm
        return pcm.float() / 32767

    def preload(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Read the clips in threads, until one does not fit into memory."""
        with ThreadPoolExecutor() as pool:
            for index, _ in enumerate(pool.map(self.__getitem__, range(len(self)))):
                if on_progress:
                    on_progress(index + 1, len(self))
                if index not in self._pcm:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break

    def _read(self, index: int) -> Tensor:
        clip = self.clips[index]
        waveform = load_waveform(clip, self.sample_rate_hz)
        if waveform.numel() == 0:
            raise DataError(f"{clip.path} has no samples after {clip.start_s:g} s")
        waveform = waveform / waveform.abs().max().clamp(min=1e-8)
        loud = (waveform.abs() > TRIM_LEVEL).nonzero()
        if clip.role == "event" and loud.numel():
            waveform = waveform[int(loud[0]) : int(loud[-1]) + 1]
        return (waveform * 32767).to(torch.int16)

    def pick(
        self,
        rng: random.Random,
        scenes: SceneConfig,
        role: str | None = "any",
        without: Sequence[int] = (),
    ) -> int | None:
        """A random clip of `role` and of other kinds than `without`; None: there is none.

        A kind with n clips has a probability proportional to n ** (1 - kind_balance), times its
        weight in `kind_weights`.
        """
        kinds = {self.clips[index].kind for index in without} - {None}

        def fits(group: list[int]) -> bool:
            kind = self.clips[group[0]].kind
            return kind not in kinds if kind is not None else len(group) > len(without)

        groups, weights = self._weighted_groups(role, scenes)
        if not any(map(fits, groups)):
            return None
        while True:
            group = groups[bisect(weights, rng.random() * weights[-1], hi=len(groups) - 1)]
            index = rng.choice(group)
            if fits(group) and index not in without:
                return index

    def _weighted_groups(
        self, role: str | None, scenes: SceneConfig
    ) -> tuple[list[list[int]], list[float]]:
        """The clips of `role` by kind, and the cumulative weights of the kinds."""
        balance, of_kind = scenes.kind_balance, scenes.kind_weights
        key = role, balance, tuple(of_kind.items())
        if key not in self._weighted:
            groups = {
                group: indices
                for group, indices in self._groups.items()
                if role in ("any", group[0])
            }
            weights = accumulate(
                len(indices) ** (1 - balance) * of_kind.get(kind, 1.0)
                for (_, kind), indices in groups.items()
            )
            self._weighted[key] = list(groups.values()), list(weights)
        return self._weighted[key]
