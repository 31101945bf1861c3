"""Sounds and captions -> shards of latents and hidden states, by networks that are frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.latent_shards import (
    INDEX_NAME,
    Index,
    Item,
    ShardInfo,
    read_info,
    write_shard,
)

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


SoundBatch = tuple[Tensor, list[int], list[Wordings]]
"""Waveforms (M, N) of the crops of B sounds, how many each has, and their wordings."""


class ShardWriter:
    """Encodes sounds and their captions into the shards of a folder."""

    def __init__(self, folder: Path, codec: Codec, text: TextConditioner) -> None:
        self.folder = folder
        self.encode = SoundEncoder(codec)
        self._text = text
        self._states: dict[str, list[np.ndarray]] = {}

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
        texts = {text for item in items for text in item.wordings.captions + item.wordings.phrases}
        self._encode_texts(sorted(texts))
        info = ShardInfo(part, number, len(items), is_last(), dict(problems))
        write_shard(self.folder, info, items, self._states)

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str]) -> None:
        """Those of the last shard are kept, as many come again."""
        states = {text: self._states[text] for text in texts if text in self._states}
        new = [text for text in texts if text not in states]
        for start in range(0, len(new), CAPTION_BATCH):
            some = new[start : start + CAPTION_BATCH]
            each = [batch.half().numpy() for batch in hidden_states(self._text, some)]
            for i, text in enumerate(some):
                # The padding is exactly zero, and no encoder's output for a token is.
                states[text] = [of[i, : int(of[i].any(axis=1).sum())] for of in each]
        self._states = states


def complete(
    folder: Path,
    index: Index,
    write: Callable[[int, int], None],
    processes: PartialState | None,
    part: Part | None = None,
) -> None:
    """Make `folder` complete, where it is not: `write(k, n)` writes every n-th shard from k, as far
    as they are not there, and then the main process writes the index.

    With a `part` only this one of the shards is written, and no index.
    """
    if (folder / INDEX_NAME).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    n, rank = (processes.num_processes, processes.process_index) if processes else (1, 0)
    mine = (part or Part()).part(Part(rank + 1, n))
    write(mine.index - 1, mine.count)
    if processes is not None:
        processes.wait_for_everyone()
    if rank == 0 and part is None:
        found = [read_info(path) for path in sorted(folder.glob("*.safetensors"))]
        replace(index, shards=tuple(found)).write(folder)
    if processes is not None:
        processes.wait_for_everyone()


def index_of(codec: Codec, text: TextConditioner, duration_s: float, inputs: str) -> Index:
    """The index of latents of these networks, without shards."""
    return Index(
        format=CACHE_FORMAT,
        inputs=inputs,
        networks=digest_of_networks(codec, text).hexdigest()[:16],
        duration_s=duration_s,
        latent_shape=codec.latent_shape(duration_s),
        max_lengths=tuple(encoder.max_length for encoder in text.encoders),
        shards=(),
    )


def digest_of_networks(codec: Codec, text: TextConditioner) -> hashlib._Hash:
    """Of what encodes sounds and captions."""
    digest = hashlib.sha256(f"format {CACHE_FORMAT}".encode())
    networks = codec.networks
    modules = [("", networks.autoencoder), *(("encoder.", e) for e in networks.text_encoders)]
    for prefix, module in modules:
        for name, tensor in sorted(module.state_dict(prefix=prefix).items()):
            # The sums distinguish trained networks, and are faster than a hash of the bytes.
            total = tensor.cpu().double().sum().item()
            digest.update(f"{name}{tuple(tensor.shape)}{total:.12g}".encode())
    digest.update(repr([encoder.max_length for encoder in text.encoders]).encode())
    return digest
