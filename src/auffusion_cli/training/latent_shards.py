"""Shards of encoded sounds: latents, captions and their hidden states, in safetensors files.

A folder of them has, once it is complete, an index:

latents.json                    what the shards were made with, and how many items each has
00000-0000.safetensors          part 0 of the data, its first shard; for n items

  latents, item_latents         (L, C, h, w) float16, and where each item's begin (n + 1)
  captions, item_captions       numbers of texts, and where each item's begin (n + 1)
  phrases, item_phrases
  texts, text_starts            UTF-8, and where each text begins (t + 1)
  rows_0, text_rows_0, rows_1 … for each text encoder the hidden states (R, D) float16 of all texts
                                without their padding, and where each text's begin (t + 1)

Each shard is complete or not there, so that a preparation that was stopped goes on where it was. A
reader has a bounded number of shards open, and of these only the numbers in memory.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from auffusion_cli.errors import DataError
from auffusion_cli.files import atomic_file, write_text
from auffusion_cli.parsing import decode, plain, read_json
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.run_folder import LATENTS_NAME
from auffusion_cli.training.samples import SHARDS_TOGETHER, Shards

SHARD_ITEMS = 512
"""Most sounds of a shard: 16 MB of latents of the published model's size."""
MAX_INDEX_BYTES = 2**26
MAX_OPEN_SHARDS = 2 * SHARDS_TOGETHER
"""Those whose items are shuffled together, and the next ones."""


@dataclass(frozen=True)
class Item:
    """One sound."""

    latents: np.ndarray
    """(K, C, h, w) float16: K crops of it."""
    wordings: Wordings


@dataclass(frozen=True)
class ShardInfo:
    """What the index says of a shard."""

    part: int
    number: int
    n_items: int
    is_last: bool
    """Of its part."""
    problems: dict[str, int] = field(default_factory=dict)
    """Sounds left out, by reason."""

    def path(self, folder: Path) -> Path:
        return shard_path(folder, self.part, self.number)


@dataclass(frozen=True)
class Index:
    """The content of `latents.json`."""

    format: int
    inputs: str
    """Digest of all that the content depends on."""
    networks: str
    """Digest of the autoencoder and the text encoders."""
    duration_s: float
    latent_shape: tuple[int, int, int]
    """(C, h, w)"""
    max_lengths: tuple[int, ...]
    """Rows of each text encoder's hidden states."""
    shards: tuple[ShardInfo, ...]
    sounds: str = ""
    """Digest of all that the latents depend on, which is the same with other text encoders."""

    @property
    def problems(self) -> Counter[str]:
        return sum((Counter(shard.problems) for shard in self.shards), Counter())

    def write(self, folder: Path) -> None:
        write_text(folder / LATENTS_NAME, json.dumps(plain(self)))


def read_index(folder: Path) -> Index:
    """The index of a folder.

    Raises:
        DataError: it is damaged, or not there.
    """
    path = folder / LATENTS_NAME
    content = read_json(path, raising=DataError, max_bytes=MAX_INDEX_BYTES)
    try:
        index = decode(Index, content)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    numbers = [*index.latent_shape, *index.max_lengths, *(one.n_items for one in index.shards)]
    if min((*index.latent_shape, *index.max_lengths)) < 1 or min(numbers) < 0:
        raise DataError(f"{path}: has sizes below what is possible")
    if any(min(one.part, one.number) < 0 for one in index.shards):
        raise DataError(f"{path}: names a shard by a number below 0")
    return index


def shard_path(folder: Path, part: int, number: int) -> Path:
    """The file of a shard of a part of the data, in order of both by its name."""
    return folder / f"{part:05d}-{number:04d}.safetensors"


def write_shard(
    folder: Path, info: ShardInfo, items: Sequence[Item], states: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Write the `items` of a shard; `states` are the hidden states (T_i, D_i) float16, without
    padding, of each of their texts, for each text encoder."""
    texts = list(dict.fromkeys(text for item in items for text in _texts(item.wordings)))
    numbers = {text: number for number, text in enumerate(texts)}
    encoded = [text.encode() for text in texts]
    tensors = {}
    if items:  # one without any is only noted
        tensors = {
            # safetensors writes an array of another order as if it were of this one.
            "latents": np.ascontiguousarray(np.concatenate([item.latents for item in items])),
            "item_latents": _starts(len(item.latents) for item in items),
            "texts": np.frombuffer(b"".join(encoded), np.uint8),
            "text_starts": _starts(map(len, encoded)),
        }
        for name in ("captions", "phrases"):
            groups = [getattr(item.wordings, name) for item in items]
            used = [numbers[text] for group in groups for text in group]
            tensors[name] = np.array(used, np.int64)
            tensors[f"item_{name}"] = _starts(map(len, groups))
        for i in range(len(next(iter(states.values())))):
            tensors[f"rows_{i}"] = np.ascontiguousarray(
                np.concatenate([states[text][i] for text in texts])
            )
            tensors[f"text_rows_{i}"] = _starts(len(states[text][i]) for text in texts)
    with atomic_file(info.path(folder), durable=False) as beside:
        save_file(tensors, beside, metadata={"shard": json.dumps(plain(info))})


def read_info(path: Path) -> ShardInfo:
    """What a shard says of itself. Raises DataError."""
    try:
        with safe_open(path, "np") as file:
            return decode(ShardInfo, json.loads((file.metadata() or {})["shard"]))
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: damaged: {error}", hint="Delete it: it is made again.") from error


def read_items(path: Path, info: ShardInfo, latent_shape: tuple[int, int, int]) -> list[Item]:
    """The sounds of a shard, whatever text encoders it was made with. Raises DataError."""
    if not info.n_items:
        return []
    shard = _Shard(path, latent_shape, n_encoders=0)
    return [
        Item(
            np.stack([shard.latent(place, crop) for crop in range(shard.n_latents(place))]),
            shard.wordings(place),
        )
        for place in range(info.n_items)
    ]


class LatentShards:
    """The items of a complete folder, read where they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)
        self._infos = [info for info in self.index.shards if info.n_items]
        self.shards = Shards([info.n_items for info in self._infos])
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def __len__(self) -> int:
        return self.shards.n_items

    def wordings(self, index: int) -> Wordings:
        shard, place = self._find(index)
        return shard.wordings(place)

    def n_latents(self, index: int) -> int:
        """K, the crops of an item."""
        shard, place = self._find(index)
        return shard.n_latents(place)

    def latent(self, index: int, crop: int = 0) -> np.ndarray:
        """(C, h, w) float32."""
        shard, place = self._find(index)
        return shard.latent(place, crop).astype(np.float32)

    def hidden_states(self, index: int, caption: str) -> list[np.ndarray]:
        """One (T_i, D_i) float32 array an encoder, of a caption of this item, without padding."""
        shard, _ = self._find(index)
        return [rows.astype(np.float32) for rows in shard.hidden_states(caption)]

    def _find(self, index: int) -> tuple[_Shard, int]:
        number, place = self.shards.place_of(index)
        if number not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
            path, index = self._infos[number].path(self.folder), self.index
            self._open[number] = _Shard(path, index.latent_shape, len(index.max_lengths))
        self._open.move_to_end(number)
        return self._open[number], place


class _Shard:
    """One open file; what it says of places in itself is checked.

    Raises DataError where it is damaged.
    """

    def __init__(self, path: Path, latent_shape: tuple[int, int, int], n_encoders: int) -> None:
        self.path = path
        try:
            file = safe_open(path, "np")
            names = ("captions", "phrases", "texts")
            self._values = {name: file.get_tensor(name) for name in names}
            self._latents = file.get_slice("latents")
            self._rows = [file.get_slice(f"rows_{i}") for i in range(n_encoders)]
            lengths = {"item_latents": self._latents, "text_starts": self._values["texts"]}
            lengths |= {f"item_{name}": self._values[name] for name in ("captions", "phrases")}
            lengths |= {f"text_rows_{i}": rows for i, rows in enumerate(self._rows)}
            self._starts = {
                name: self._checked(name, file.get_tensor(name), _length(values))
                for name, values in lengths.items()
            }
            if tuple(self._latents.get_shape()[1:]) != latent_shape:
                raise ValueError(f"latents of the shape {self._latents.get_shape()}")
            self._texts = self._decoded()
        except (OSError, SafetensorError, ValueError, IndexError) as error:
            raise DataError(f"{path}: damaged: {error}", hint="Make it again.") from error
        self._numbers = {text: number for number, text in enumerate(self._texts)}

    def wordings(self, place: int) -> Wordings:
        return Wordings(*(self._texts_of(name, place) for name in ("captions", "phrases")))

    def n_latents(self, place: int) -> int:
        start, end = self._span("item_latents", place)
        return end - start

    def latent(self, place: int, crop: int) -> np.ndarray:
        start, end = self._span("item_latents", place)
        if not 0 <= crop < end - start:
            raise DataError(f"{self.path}: item {place} has no latent {crop}")
        return self._latents[start + crop : start + crop + 1][0]

    def hidden_states(self, caption: str) -> list[np.ndarray]:
        number = self._numbers[caption]
        spans = (self._span(f"text_rows_{i}", number) for i in range(len(self._rows)))
        return [rows[slice(*span)] for rows, span in zip(self._rows, spans, strict=True)]

    def _span(self, name: str, place: int) -> tuple[int, int]:
        starts = self._starts[name]
        if place + 1 >= len(starts):
            raise DataError(f"{self.path}: has fewer items than {LATENTS_NAME} says")
        return int(starts[place]), int(starts[place + 1])

    def _texts_of(self, name: str, place: int) -> tuple[str, ...]:
        numbers = self._values[name][slice(*self._span(f"item_{name}", place))]
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self._texts)):
            raise DataError(f"{self.path}: item {place} has a caption that is not there")
        return tuple(self._texts[number] for number in numbers)

    def _decoded(self) -> list[str]:
        content, starts = self._values["texts"].tobytes(), self._starts["text_starts"]
        spans = pairwise(starts)
        return [content[start:end].decode() for start, end in spans]

    @staticmethod
    def _checked(name: str, starts: np.ndarray, length: int) -> np.ndarray:
        rises = starts.ndim == 1 and len(starts) and (np.diff(starts) >= 0).all()
        if starts.dtype != np.int64 or not (rises and starts[0] == 0 and starts[-1] == length):
            raise ValueError(f"{name} are not places in what is there")
        return starts


def _length(values: Any) -> int:
    return len(values) if isinstance(values, np.ndarray) else values.get_shape()[0]


def _starts(lengths: Any) -> np.ndarray:
    return np.array([0, *accumulate(lengths)], np.int64)


def _texts(wordings: Wordings) -> tuple[str, ...]:
    return wordings.captions + wordings.phrases
