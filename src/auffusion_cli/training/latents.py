"""Inputs of the diffusion stage: scenes as latents, captions as text hidden states.

The codec and the text encoders are frozen, so their outputs are computed once and read from shards
(`LatentCache`; `latent_shards.py` has the format). `prepare` makes those of a fixed set of scenes,
`streams.py` those of data that is read from end to end. Where a new scene is composed for every
training sample there is nothing to keep (`FreshScenes`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from auffusion_cli.codec.codec import Codec
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.errors import DataError
from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.encoding import (
    ShardWriter,
    SoundBatch,
    SoundEncoder,
    complete,
    hidden_states,
    index_of,
)
from auffusion_cli.training.latent_shards import (
    SHARD_ITEMS,
    Index,
    LatentShards,
    read_index,
    shard_path,
)
from auffusion_cli.training.loading import read_ahead
from auffusion_cli.training.preparation import ALONE, Preparation
from auffusion_cli.training.run_folder import LATENTS_NAME
from auffusion_cli.training.samples import Sample, Shards, derive_seed, scene_seed
from auffusion_cli.training.scenes import Scene, compose
from auffusion_cli.training.stage import OnPrepare

ENCODE_BATCH = 16
MADE_WITH = ("format", "latent_shape", "max_lengths", "networks")
"""Fields of an index that say what latents and hidden states were made with."""
N_CAPTIONS_KEPT = 1024
"""Captions whose hidden states `FreshScenes` keeps; 250 MB with CLIP."""

Examples = tuple[Tensor, list[Tensor]]
"""Latents (B, C, h, w) and for each encoder the hidden states (B, T_i, D_i), both float32."""


class ExampleSource(Protocol):
    """Source of training samples: `examples(load(batch))`.

    `load` is the CPU's part and may run in another process; `examples` may use the GPU.
    """

    latent_shape: tuple[int, int, int]
    """(C, h, w) of every latent."""
    shards: Shards | None
    """Where the items lie, if their order has to keep to it."""

    def __len__(self) -> int:
        """Items in an epoch."""
        ...

    def load(self, batch: Sequence[Sample]) -> Any: ...

    def examples(self, loaded: Any) -> Examples: ...


class LatentCache:
    """Encoded data: item i is one sound's latents, of one crop or several, and all of its captions.

    Each training sample draws a caption and a crop, as a function of its seed.
    """

    def __init__(self, folder: Path, max_lengths: Sequence[int], phrase_probability: float) -> None:
        self._kept = LatentShards(folder)
        self.shards = self._kept.shards
        self.wordings = self._kept.wordings
        self.latent_shape = self._kept.index.latent_shape
        self._max_lengths = max_lengths
        self._phrase_probability = phrase_probability

    def __len__(self) -> int:
        return len(self._kept)

    def draw(self, sample: Sample) -> tuple[str, int]:
        """The caption and the crop that this sample draws."""
        rng = random.Random(sample.seed)
        caption = self.wordings(sample.index).draw(rng, self._phrase_probability)
        n_crops = self._kept.n_latents(sample.index)
        return caption, rng.randrange(n_crops) if n_crops > 1 else 0

    def latent(self, index: int, crop: int = 0) -> Tensor:
        """(C, h, w) float32."""
        return torch.from_numpy(self._kept.latent(index, crop))

    def hidden_states(self, index: int, caption: str) -> list[Tensor]:
        """One (max_length, D) float32 tensor an encoder, zero beyond the caption's tokens."""
        padded = []
        each = self._kept.hidden_states(index, caption)
        for rows, length in zip(each, self._max_lengths, strict=True):
            states = torch.zeros(length, rows.shape[1])
            states[: len(rows)] = torch.from_numpy(rows)
            padded.append(states)
        return padded

    def load(self, batch: Sequence[Sample]) -> Examples:
        drawn = [(sample.index, *self.draw(sample)) for sample in batch]
        latents = torch.stack([self.latent(index, crop) for index, _, crop in drawn])
        each = [self.hidden_states(index, caption) for index, caption, _ in drawn]
        return latents, [torch.stack(of_encoder) for of_encoder in zip(*each, strict=True)]

    def examples(self, loaded: Examples) -> Examples:
        return loaded


class FreshScenes:
    """A new scene for every training sample, composed and encoded on demand.

    An item is a clip. With a `kind_balance` the clip is drawn anew.
    """

    shards = None

    def __init__(
        self, codec: Codec, text: TextConditioner, store: ClipStore, scenes: SceneConfig
    ) -> None:
        self._encoder = SoundEncoder(codec)
        self._text, self._store, self._scenes = text, store, scenes
        self._kept: dict[str, list[Tensor]] = {}
        self.latent_shape = codec.latent_shape(scenes.duration_s)

    def __len__(self) -> int:
        return len(self._store)

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, list[str]]:
        """Waveforms (B, N) and captions."""
        draws_clips = self._scenes.kind_balance > 0
        scenes = [
            compose(self._store, self._scenes, s.seed, clip=None if draws_clips else s.index)
            for s in batch
        ]
        return torch.stack([scene.waveform for scene in scenes]), [s.caption for s in scenes]

    def examples(self, loaded: tuple[Tensor, list[str]]) -> Examples:
        waveforms, captions = loaded
        latents = self._encoder(waveforms)
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._kept]
        if new:
            each = zip(*hidden_states(self._text, new), strict=True)
            self._kept |= zip(new, map(list, each), strict=True)
        each = zip(*(self._kept[caption] for caption in captions), strict=True)
        stacked = [torch.stack(of_encoder) for of_encoder in each]
        for oldest in list(self._kept)[: max(0, len(self._kept) - N_CAPTIONS_KEPT)]:
            del self._kept[oldest]
        return latents, stacked


def prepare(
    root: Path,
    codec: Codec,
    text: TextConditioner,
    store: ClipStore,
    scenes: SceneConfig,
    seed: int,
    preparation: Preparation = ALONE,
    n_workers: int = 0,
    before_composing: Callable[[], None] = lambda: None,
) -> LatentCache | None:
    """Open the cache of exactly these inputs under `root`, which is made if it is missing.

    Of a part of the data only this one is made, and None returned. Latents that another cache under
    `root` has of the same sounds, for other text encoders, are taken from there.

    `before_composing()` is called before scenes are composed. The scenes do not depend on
    `n_workers`, the number of processes that compose them. `scenes.n_cached` is not 0.
    """
    n_scenes = scenes.n_cached or len(store)
    data = _described(store, scenes, seed, n_scenes)
    index = index_of(codec, text, scenes.duration_s, data)
    folder = root / index.inputs
    writer = ShardWriter(folder, codec, text)
    batches = _SceneBatches(store, scenes, seed, n_scenes)

    def write(share: Part) -> None:
        before_composing()
        shards = [
            shard
            for shard in share.of(range(math.ceil(n_scenes / SHARD_ITEMS)))
            if not shard_path(folder, shard, 0).exists()
        ]
        keys = [key for shard in shards for key in batches.of_shard(shard)]
        composed = read_ahead(batches, keys, n_workers, writer.encode.device)
        n_left = sum(batches.n_scenes_of(key) for key in keys)
        composed = _reported(composed, preparation.tell, n_scenes, n_left, share.count)
        for shard in shards:
            writer.write(shard, 0, islice(composed, len(batches.of_shard(shard))))

    complete(writer, index, write, preparation)
    if preparation.part is not None:
        return None
    return LatentCache(folder, index.max_lengths, scenes.phrase_probability)


def open_latents(
    folder: Path, codec: Codec, text: TextConditioner, scenes: SceneConfig
) -> LatentCache:
    """Latents that were made before, by the same networks and of the same length.

    A `folder` of several is searched for them.

    Raises:
        DataError: they were not.
    """
    index = index_of(codec, text, scenes.duration_s)
    folder = _fitting(folder, index)
    made = read_index(folder)
    if made.duration_s != scenes.duration_s:
        raise DataError(
            f"{folder}: latents of {made.duration_s:g} s, and scenes.duration_s is "
            f"{scenes.duration_s:g}"
        )
    for name in MADE_WITH:
        if getattr(made, name) != getattr(index, name):
            raise DataError(
                f"{folder}: made with another autoencoder or other text encoders ({name})",
                hint="train --precompute encodes the data for this start.",
            )
    if not sum(shard.n_items for shard in made.shards):
        raise DataError(f"{folder}: holds no latents")
    return LatentCache(folder, made.max_lengths, scenes.phrase_probability)


def _fitting(folder: Path, index: Index) -> Path:
    """`folder`, or of those in it the one that was made with what the index says."""
    if (folder / LATENTS_NAME).exists():
        return folder
    names = ("duration_s", *MADE_WITH)
    wanted = [getattr(index, name) for name in names]
    folders = [path.parent for path in sorted(folder.glob(f"*/{LATENTS_NAME}"))]
    fitting = [one for one in folders if [getattr(read_index(one), n) for n in names] == wanted]
    if len(fitting) == 1:
        return fitting[0]
    how_many = "several" if fitting else "none"
    raise DataError(
        f"{folder}: of the {len(folders)} folders of latents in it {how_many} "
        f"{'are' if fitting else 'is'} of this start's networks and window",
        hint=f"Name one: --data {folders[0]}." if fitting else "train --precompute makes them.",
    )


def _reported(
    batches: Iterable[SoundBatch], report: OnPrepare, n_scenes: int, n_left: int, n_processes: int
) -> Iterator[SoundBatch]:
    """The batches; the progress is estimated as that of processes that are equally fast."""
    n_done = max(0, n_scenes - n_left * n_processes)
    for batch in batches:
        n_done = min(n_scenes, n_done + len(batch[2]) * n_processes)
        report("encoding sounds", n_done, n_scenes)
        yield batch


class _SceneBatches(Dataset):
    """The scenes of a cache, `ENCODE_BATCH` at a time."""

    def __init__(self, store: ClipStore, scenes: SceneConfig, seed: int, n_scenes: int) -> None:
        self.store, self.scenes, self.seed, self.n_scenes = store, scenes, seed, n_scenes

    def of_shard(self, shard: int) -> range:
        """The numbers of the batches of a shard."""
        per_shard = SHARD_ITEMS // ENCODE_BATCH
        n_batches = math.ceil(self.n_scenes / ENCODE_BATCH)
        return range(shard * per_shard, min((shard + 1) * per_shard, n_batches))

    def n_scenes_of(self, batch: int) -> int:
        return min(ENCODE_BATCH, self.n_scenes - batch * ENCODE_BATCH)

    def __getitem__(self, index: int) -> SoundBatch:
        start = index * ENCODE_BATCH
        sounds = [self._crops(start + i) for i in range(self.n_scenes_of(index))]
        waveforms = torch.stack([scene.waveform for crops in sounds for scene in crops])
        return waveforms, [len(crops) for crops in sounds], [crops[0].wordings for crops in sounds]

    def _crops(self, index: int) -> list[Scene]:
        """The scene of this number, and, where that is a crop of a clip, the others of it."""
        seeds = seeds_of_crops(scene_seed(self.seed, index), self.scenes.n_crops)
        clip = None if self.scenes.n_cached else index
        if len(seeds) > 1:
            n_samples = round(self.scenes.duration_s * self.store.sample_rate_hz)
            seeds = seeds[: 1 if self.store[index].numel() <= n_samples else None]
        return [compose(self.store, self.scenes, seed, clip=clip) for seed in seeds]


def seeds_of_crops(seed: int, n_crops: int) -> list[int]:
    """The seeds of the crops of a sound, of which the first is that of a lone one."""
    return [seed, *(derive_seed(seed, crop) for crop in range(1, n_crops))]


def _described(store: ClipStore, scenes: SceneConfig, seed: int, n_scenes: int) -> Iterator[str]:
    """All that the content of a cache depends on, beside the networks."""
    for clip in store.clips:
        stat = clip.path.stat()
        yield repr((clip, stat.st_size, stat.st_mtime_ns))
    yield repr((asdict(scenes), seed, n_scenes))
