"""Sounds and captions -> shards of latents and hidden states, by networks that are frozen."""

from __future__ import annotations

import hashlib
import reprlib
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.diffusion.text import TextConditioner, TextReader
from auffusion_cli.errors import AuffusionWarning, DataError
from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.latent_shards import (
    Index,
    Item,
    ShardInfo,
    read_index,
    read_info,
    read_items,
    write_shard,
)
from auffusion_cli.training.preparation import Preparation
from auffusion_cli.training.run_folder import LATENTS_NAME

CAPTION_BATCH = 512
"""Captions in a batch, in which those of the same length are encoded together."""
CACHE_FORMAT = 3
"""To be raised where a cache of an earlier version would be read wrongly."""


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


class CaptionCount:
    """Counts captions, and those of which the text encoders see only a part."""

    def __init__(self, text: TextReader) -> None:
        self._text = text
        self._n, self._n_cut, self._first_cut = 0, 0, ""

    def add(self, captions: Collection[str]) -> None:
        cut = [caption for caption in captions if self._text.overflow(caption)]
        self._n, self._n_cut = self._n + len(captions), self._n_cut + len(cut)
        self._first_cut = self._first_cut or next(iter(cut), "")

    def warn(self) -> None:
        """Warn once of those that are cut."""
        if self._n_cut:
            n_read = min(encoder.n_read for encoder in self._text.encoders)
            warnings.warn(
                f"{self._n_cut} of {self._n} captions are longer than the {n_read} tokens that a "
                "text encoder reads, and are cut, the first of them "
                f"{reprlib.repr(self._first_cut)}",
                AuffusionWarning,
                stacklevel=2,
            )


SoundBatch = tuple[Tensor, list[int], list[Wordings]]
"""Waveforms (M, N) of the crops of B sounds, how many each has, and their wordings."""


class ShardWriter:
    """Encodes sounds and their captions into the shards of a folder."""

    def __init__(self, folder: Path, codec: Codec, text: TextConditioner) -> None:
        self.folder = folder
        self.encode = SoundEncoder(codec)
        self._text = text
        self._states: dict[str, list[np.ndarray]] = {}
        self.captions = CaptionCount(text)

    def write(
        self,
        part: int,
        number: int,
        batches: Iterable[SoundBatch],
        is_last: Callable[[], bool] = lambda: True,
        problems: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Write the shard of these sounds; `is_last` and `problems` are read after the last one."""
        items = []
        for waveforms, n_crops, wordings in batches:
            latents = np.split(self.encode(waveforms).half().cpu().numpy(), np.cumsum(n_crops)[:-1])
            items += map(Item, latents, wordings)
        self._write(ShardInfo(part, number, len(items), is_last(), dict(problems)), items)

    def take(self, folder: Path, info: ShardInfo, latent_shape: tuple[int, int, int]) -> None:
        """Write a shard of `folder` with its captions' hidden states by these text encoders."""
        self._write(info, read_items(info.path(folder), info, latent_shape))

    def _write(self, info: ShardInfo, items: Sequence[Item]) -> None:
        texts = {text for item in items for text in item.wordings.captions + item.wordings.phrases}
        self._encode_texts(sorted(texts))
        write_shard(self.folder, info, items, self._states)

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str]) -> None:
        """Those of the last shard are kept, as many come again."""
        states = {text: self._states[text] for text in texts if text in self._states}
        new = [text for text in texts if text not in states]
        self.captions.add(new)
        for start in range(0, len(new), CAPTION_BATCH):
            some = new[start : start + CAPTION_BATCH]
            each = [batch.half().numpy() for batch in hidden_states(self._text, some)]
            for i, text in enumerate(some):
                # The padding is exactly zero, and no encoder's output for a token is.
                states[text] = [of[i, : int(of[i].any(axis=1).sum())] for of in each]
        self._states = states


def complete(
    writer: ShardWriter,
    index: Index,
    write: Callable[[Part], None],
    preparation: Preparation,
) -> None:
    """Make the writer's folder complete, where it is not, and let the main process write the index.

    `write` writes the shards of a share of the data, as far as they are not there. Where a folder
    beside it has latents of the same sounds, these are taken in place of that, and only the
    captions are encoded. Of a part of the data no index is written.
    """
    folder = writer.folder
    if (folder / LATENTS_NAME).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    mine = preparation.share
    if (found := _find_same_sounds(folder.parent, index)) is None:
        write(mine)
    else:
        source, shards = found
        shards = [one for one in shards if one.part % mine.count == mine.index - 1]
        for n_done, info in enumerate(shards, 1):
            if not info.path(folder).exists():
                writer.take(source, info, index.latent_shape)
            preparation.tell("encoding captions", n_done, len(shards))
    preparation.wait()
    if preparation.is_main and preparation.part is None:
        written = [read_info(path) for path in sorted(folder.glob("*.safetensors"))]
        replace(index, shards=tuple(written)).write(folder)
    preparation.wait()


def _find_same_sounds(root: Path, index: Index) -> tuple[Path, tuple[ShardInfo, ...]] | None:
    """A complete folder in `root` of these latents, made for other text encoders."""
    for path in sorted(root.glob(f"*/{LATENTS_NAME}")):
        with suppress(DataError):  # one that is damaged is of no use here
            found = read_index(path.parent)
            files_are_there = all(one.path(path.parent).exists() for one in found.shards)
            if found.sounds == index.sounds and files_are_there:
                return path.parent, found.shards
    return None


def index_of(
    codec: Codec, text: TextConditioner, duration_s: float, data: Iterable[str] = ()
) -> Index:
    """The index of latents of these networks, without shards.

    `data` tells all that they depend on beside the networks.
    """
    of_sounds = hashlib.sha256(f"format {CACHE_FORMAT}".encode())
    _update(of_sounds, codec.networks.autoencoder)
    of_all = of_sounds.copy()
    for encoder in codec.networks.text_encoders:
        _update(of_all, encoder, "encoder.")
    max_lengths = tuple(encoder.max_length for encoder in text.encoders)
    of_all.update(repr(list(max_lengths)).encode())
    networks = of_all.hexdigest()[:16]
    for described in data:
        for digest in (of_sounds, of_all):
            digest.update(described.encode())
    return Index(
        format=CACHE_FORMAT,
        inputs=of_all.hexdigest()[:16],
        networks=networks,
        sounds=of_sounds.hexdigest()[:16],
        duration_s=duration_s,
        latent_shape=codec.latent_shape(duration_s),
        max_lengths=max_lengths,
        shards=(),
    )


def _update(digest: hashlib._Hash, network: nn.Module, prefix: str = "") -> None:
    for name, tensor in sorted(network.state_dict(prefix=prefix).items()):
        # The sums distinguish trained networks, and are faster than a hash of the bytes.
        total = tensor.cpu().double().sum().item()
        digest.update(f"{name}{tuple(tensor.shape)}{total:.12g}".encode())
