"""Scenes turned into latents and text hidden states once, before the diffusion stage starts.

The codec and the text encoders are frozen there, so their outputs are computed one time and read
from disk ever after: `latents.npy` (N, C, h, w) float16, `captions.json`, and the hidden states of
every distinct caption, without their padding.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.codec import Codec
from auffusion_cli.text import TextConditioner
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.scenes import ClipStore, compose

ENCODE_BATCH = 16


class LatentCache:
    """The cached data set: item i is one scene's latent and its caption's hidden states."""

    def __init__(self, folder: Path, text: TextConditioner) -> None:
        self._latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.captions: list[str] = json.loads((folder / "captions.json").read_text("utf-8"))
        self._hidden = _HiddenStates(folder, text)

    def __len__(self) -> int:
        return len(self.captions)

    def latent(self, index: int) -> Tensor:
        """(C, h, w) float32."""
        return torch.from_numpy(self._latents[index].astype(np.float32))

    def hidden_states(self, index: int) -> list[Tensor]:
        """One (max_length, D) float32 tensor an encoder, zero beyond the caption's tokens."""
        return self._hidden[self.captions[index]]


def prepare(
    root: Path,
    codec: Codec,
    text: TextConditioner,
    store: ClipStore,
    scenes: SceneConfig,
    seed: int,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> LatentCache:
    """Open the cache under `root` that belongs to exactly these inputs, making it if needed.

    `on_progress(what, done, total)` is called now and then. An interrupted preparation leaves a
    `.partial` folder, which the next one replaces.
    """
    n_scenes = scenes.n_cached or len(store)
    folder = root / _digest(codec, text, store, scenes, seed, n_scenes)
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            captions = _write_latents(partial, codec, store, scenes, seed, n_scenes, on_progress)
            _HiddenStates.write(partial, text, sorted(set(captions)), on_progress)
            (partial / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return LatentCache(folder, text)


def scene_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def _scene_batches(
    store: ClipStore, scenes: SceneConfig, seed: int, n_scenes: int
) -> Iterator[tuple[int, Tensor, list[str]]]:
    for start in range(0, n_scenes, ENCODE_BATCH):
        batch = [
            compose(store, scenes, scene_seed(seed, i), clip=None if scenes.n_cached else i)
            for i in range(start, min(start + ENCODE_BATCH, n_scenes))
        ]
        yield start, torch.stack([s.waveform for s in batch]), [s.caption for s in batch]


@torch.no_grad()
def _write_latents(folder, codec, store, scenes, seed, n_scenes, on_progress) -> list[str]:
    device = next(codec.parameters()).device
    captions: list[str] = []
    latents = np.lib.format.open_memmap(
        folder / "latents.npy",
        mode="w+",
        dtype=np.float16,
        shape=(n_scenes, *codec.latent_shape(scenes.duration_s)),
    )
    for start, waveforms, names in _scene_batches(store, scenes, seed, n_scenes):
        latents[start : start + len(names)] = codec.encode(waveforms.to(device)).half().cpu()
        captions += names
        if on_progress is not None:
            on_progress("encoding sounds", len(captions), n_scenes)
    latents.flush()
    return captions


class _HiddenStates:
    """Hidden states of many captions: an array an encoder, one caption's rows after another's."""

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
    def write(folder, text, captions, on_progress) -> None:
        rows: list[list[np.ndarray]] = [[] for _ in text.encoders]
        starts = [0] * len(text.encoders)
        index: dict[str, list[tuple[int, int]]] = {}
        for done, caption in enumerate(captions, start=1):
            index[caption] = []
            for i, states in enumerate(text.hidden_states(caption)):
                # The padding is exactly zero, and no encoder's output for a token is.
                count = int(states.any(dim=1).sum())
                rows[i].append(states[:count].half().cpu().numpy())
                index[caption].append((starts[i], count))
                starts[i] += count
            if on_progress is not None and (done % 16 == 0 or done == len(captions)):
                on_progress("encoding captions", done, len(captions))
        for i, parts in enumerate(rows):
            np.save(folder / f"text_{i}.npy", np.concatenate(parts))
        (folder / "text.json").write_text(json.dumps(index), encoding="utf-8")


def _digest(codec, text, store, scenes, seed, n_scenes) -> str:
    """Names the cache by all that its content depends on."""
    digest = hashlib.sha256()
    for module in (codec.autoencoder, *text.encoders):
        for name, tensor in sorted(module.state_dict().items()):
            # The sums tell two trained networks apart without reading gigabytes byte by byte.
            digest.update(
                f"{name}{tuple(tensor.shape)}{tensor.double().sum().item():.12g}".encode()
            )
    for clip in store.clips:
        stat = clip.path.stat()
        digest.update(repr((clip, stat.st_size, stat.st_mtime_ns)).encode())
    digest.update(
        repr((asdict(scenes), seed, n_scenes, [e.max_length for e in text.encoders])).encode()
    )
    return digest.hexdigest()[:16]
