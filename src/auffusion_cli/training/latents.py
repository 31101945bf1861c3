"""Inputs of the diffusion stage: scenes as latents, captions as text hidden states.

The codec and the text encoders are frozen, so their outputs for a fixed set of scenes are computed
once and read from disk (`LatentCache`): `latents.npy` (N, C, h, w) float16, `captions.json`, and
the hidden states of every distinct caption, without their padding. Where a new scene is composed
for every training sample there is nothing to keep (`FreshScenes`).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset

from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.files import atomic_folder
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.loading import read_ahead
from auffusion_cli.training.samples import Sample, scene_seed
from auffusion_cli.training.scenes import compose
from auffusion_cli.training.stage import OnPrepare

ENCODE_BATCH = 16
CAPTION_BATCH = 512
"""Captions in a batch, in which those of the same length are encoded together."""
CACHE_FORMAT = 2
"""To be raised where a cache of an earlier version would be read wrongly."""
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

    def __len__(self) -> int:
        """Items in an epoch."""
        ...

    def load(self, batch: Sequence[Sample]) -> Any: ...

    def examples(self, loaded: Any) -> Examples: ...


class LatentCache:
    """The cached data set: item i is one scene's latent and all of its captions.

    Each training sample draws one of them, as a function of its seed.
    """

    def __init__(self, folder: Path, text: TextConditioner, phrase_probability: float) -> None:
        self._latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.wordings = _read_wordings(folder)
        self._hidden = _HiddenStates(folder, text)
        self._phrase_probability = phrase_probability
        self.latent_shape = self._latents.shape[1:]

    def __len__(self) -> int:
        return len(self.wordings)

    def latent(self, index: int) -> Tensor:
        """(C, h, w) float32."""
        return torch.from_numpy(self._latents[index].astype(np.float32))

    def caption(self, sample: Sample) -> str:
        """The caption that this sample draws."""
        rng = random.Random(sample.seed)
        return self.wordings[sample.index].draw(rng, self._phrase_probability)

    def hidden_states(self, caption: str) -> list[Tensor]:
        """One (max_length, D) float32 tensor an encoder, zero beyond the caption's tokens."""
        return self._hidden[caption]

    def load(self, batch: Sequence[Sample]) -> Examples:
        latents = torch.stack([self.latent(sample.index) for sample in batch])
        captions = [self.caption(sample) for sample in batch]
        hidden_states = zip(*(self.hidden_states(caption) for caption in captions), strict=True)
        return latents, [torch.stack(of_encoder) for of_encoder in hidden_states]

    def examples(self, loaded: Examples) -> Examples:
        return loaded


class SoundEncoder:
    """`Codec.encode` for tensors, on the device of its autoencoder."""

    def __init__(self, codec: Codec) -> None:
        self.autoencoder: nn.Module = codec.networks.autoencoder
        self.device = codec.networks.torch_device
        self._log_mel = LogMelModule(codec.spectrogram_config).to(self.device)
        self._image_config = codec.image_config

    @torch.no_grad()
    def __call__(self, waveforms: Tensor) -> Tensor:
        """(B, N) samples -> (B, C, h, w) latents, float32."""
        waveforms = normalize_peak(waveforms.to(self.device), self._log_mel.config.peak)
        hop, f = self._log_mel.config.hop_length_samples, self.autoencoder.downsample
        waveforms = F.pad(waveforms, (0, -waveforms.shape[-1] % hop))
        image = log_mel_to_image(self._log_mel(waveforms), self._image_config)
        image = pad_image(image, image.shape[-1] + -image.shape[-1] % f)
        dtype = next(self.autoencoder.parameters()).dtype
        return self.autoencoder.encode(image.to(dtype)).float()


def hidden_states(text: TextConditioner, captions: Sequence[str]) -> list[Tensor]:
    """One (B, T_i, D_i) for each text encoder."""
    numbers = range(len(text.encoders))
    return [torch.from_numpy(text.hidden_states(i, captions)) for i in numbers]


class FreshScenes:
    """A new scene for every training sample, composed and encoded on demand.

    An item is a clip. With a `kind_balance` the clip is drawn anew.
    """

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
    on_progress: OnPrepare | None = None,
    n_workers: int = 0,
    before_composing: Callable[[], None] = lambda: None,
    processes: PartialState | None = None,
) -> LatentCache:
    """Open the cache of exactly these inputs under `root`, which is made if it is missing.

    `before_composing()` is called before it is made. The scenes do not depend on `n_workers`, the
    number of processes that compose them. `scenes.n_cached` is not 0. The `processes` of a launch,
    which all call this, encode a part each; the main one writes.
    """
    n_scenes = scenes.n_cached or len(store)
    folder = root / _digest(codec, text, store, scenes, seed, n_scenes)
    if not folder.exists():
        before_composing()
        batches = _SceneBatches(store, scenes, seed, n_scenes)
        encoded = _encode(codec, batches, n_workers, processes)
        if processes is None or processes.is_main_process:
            shape = (n_scenes, *codec.latent_shape(scenes.duration_s))
            root.mkdir(parents=True, exist_ok=True)
            with atomic_folder(folder) as beside:
                wordings = _write_latents(beside, shape, encoded, on_progress)
                captions = _write_wordings(beside, wordings)
                _HiddenStates.write(beside, text, captions, on_progress)
        else:
            deque(encoded, maxlen=0)
        if processes is not None:
            processes.wait_for_everyone()
    return LatentCache(folder, text, scenes.phrase_probability)


class _SceneBatches(Dataset):
    """The scenes of a cache, `ENCODE_BATCH` at a time: waveforms (B, N) and their wordings."""

    def __init__(self, store: ClipStore, scenes: SceneConfig, seed: int, n_scenes: int) -> None:
        self.store, self.scenes, self.seed, self.n_scenes = store, scenes, seed, n_scenes

    def __len__(self) -> int:
        return math.ceil(self.n_scenes / ENCODE_BATCH)

    def __getitem__(self, index: int) -> tuple[Tensor, list[Wordings]]:
        start = index * ENCODE_BATCH
        batch = [
            compose(
                self.store,
                self.scenes,
                scene_seed(self.seed, i),
                clip=None if self.scenes.n_cached else i,
            )
            for i in range(start, min(start + ENCODE_BATCH, self.n_scenes))
        ]
        return torch.stack([s.waveform for s in batch]), [s.wordings for s in batch]


def _encode(
    codec: Codec, batches: _SceneBatches, n_workers: int, processes: PartialState | None
) -> Iterator[tuple[np.ndarray, list[Wordings]]]:
    """Latents (B, C, h, w) float16 and wordings of each batch, in order.

    Of several processes each computes a part, and all get all.
    """
    encode = SoundEncoder(codec)
    n, index = (processes.num_processes, processes.process_index) if processes else (1, 0)
    mine = read_ahead(batches, range(index, len(batches), n), n_workers, encode.device)
    for _ in range(0, len(batches), n):
        batch = next(mine, None)  # the last round may have none for this process
        encoded = None if batch is None else (encode(batch[0]).half().cpu().numpy(), batch[1])
        yield from filter(None, gather_object([encoded]) if n > 1 else [encoded])


def _write_latents(
    folder: Path,
    shape: tuple[int, ...],
    encoded: Iterable[tuple[np.ndarray, list[Wordings]]],
    on_progress: OnPrepare | None,
) -> list[Wordings]:
    """Write `latents.npy`, float16 of `shape` (N, C, h, w); returns the wordings of its scenes."""
    wordings: list[Wordings] = []
    # Written from end to end, not mapped: a full disk is then an OSError and not a signal.
    with (folder / "latents.npy").open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for latents, of_batch in encoded:
            assert latents.shape == (len(of_batch), *shape[1:])
            file.write(latents.tobytes())
            wordings += of_batch
            if on_progress is not None:
                on_progress("encoding sounds", len(wordings), shape[0])
    return wordings


def _write_wordings(folder: Path, wordings: Sequence[Wordings]) -> list[str]:
    """Write `captions.json`, each text once; returns the texts."""
    texts = sorted({text for of_scene in wordings for text in of_scene.captions + of_scene.phrases})
    index = {text: i for i, text in enumerate(texts)}
    scenes = [
        [[index[text] for text in group] for group in (of_scene.captions, of_scene.phrases)]
        for of_scene in wordings
    ]
    content = json.dumps({"texts": texts, "scenes": scenes})
    (folder / "captions.json").write_text(content, encoding="utf-8")
    return texts


def _read_wordings(folder: Path) -> list[Wordings]:
    content = json.loads((folder / "captions.json").read_text("utf-8"))
    texts = content["texts"]
    return [
        Wordings(*(tuple(texts[i] for i in group) for group in of_scene))
        for of_scene in content["scenes"]
    ]


class _HiddenStates:
    """Hidden states of many captions: for each encoder an array of the rows of all captions."""

    def __init__(self, folder: Path, text: TextConditioner) -> None:
        self._index = json.loads((folder / "text.json").read_text("utf-8"))
        self._rows = [
            np.load(folder / f"text_{i}.npy", mmap_mode="r") for i in range(len(text.encoders))
        ]
        self._max_lengths = [encoder.max_length for encoder in text.encoders]

    def __getitem__(self, caption: str) -> list[Tensor]:
        padded = []
        for rows, (start, count), length in zip(
            self._rows, self._index[caption], self._max_lengths, strict=True
        ):
            states = torch.zeros(length, rows.shape[1])
            states[:count] = torch.from_numpy(rows[start : start + count].astype(np.float32))
            padded.append(states)
        return padded

    @staticmethod
    @torch.no_grad()
    def write(
        folder: Path, text: TextConditioner, captions: list[str], on_progress: OnPrepare | None
    ) -> None:
        rows: list[list[np.ndarray]] = [[] for _ in text.encoders]
        starts = [0] * len(text.encoders)
        index: dict[str, list[tuple[int, int]]] = {caption: [] for caption in captions}
        for first in range(0, len(captions), CAPTION_BATCH):
            some = captions[first : first + CAPTION_BATCH]
            for i, batch in enumerate(hidden_states(text, some)):
                for caption, states in zip(some, batch.half(), strict=True):
                    # The padding is exactly zero, and no encoder's output for a token is.
                    count = int(states.any(dim=1).sum())
                    rows[i].append(states[:count].numpy())
                    index[caption].append((starts[i], count))
                    starts[i] += count
            if on_progress is not None:
                on_progress("encoding captions", first + len(some), len(captions))
        for i, parts in enumerate(rows):
            np.save(folder / f"text_{i}.npy", np.concatenate(parts))
        (folder / "text.json").write_text(json.dumps(index), encoding="utf-8")


def _digest(
    codec: Codec,
    text: TextConditioner,
    store: ClipStore,
    scenes: SceneConfig,
    seed: int,
    n_scenes: int,
) -> str:
    """The name of a cache, from everything that its content depends on."""
    digest = hashlib.sha256(f"format {CACHE_FORMAT}".encode())
    networks = codec.networks
    modules = [("", networks.autoencoder), *(("encoder.", e) for e in networks.text_encoders)]
    for prefix, module in modules:
        for name, tensor in sorted(module.state_dict(prefix=prefix).items()):
            # The sums distinguish trained networks, and are faster than a hash of the bytes.
            total = tensor.cpu().double().sum().item()
            digest.update(f"{name}{tuple(tensor.shape)}{total:.12g}".encode())
    for clip in store.clips:
        stat = clip.path.stat()
        digest.update(repr((clip, stat.st_size, stat.st_mtime_ns)).encode())
    digest.update(
        repr((asdict(scenes), seed, n_scenes, [e.max_length for e in text.encoders])).encode()
    )
    return digest.hexdigest()[:16]
