"""The tagger: a small classifier of the kinds of sound that the embedded model makes.

It comes with the package, so that an evaluation runs offline. It is trained on real clips only
(`recipes/embedded/classifier.py`) and knows far less than Cnn14: its numbers
distinguish two sets of sounds of those kinds, and can be compared with each other alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.weights import load_weights, save_weights
from auffusion_cli.codec.log_mel import LogMelModule
from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation.embedders import AsyncCopy, ClipFeatures
from auffusion_cli.evaluation.judge import RANGE_DB, SPECTROGRAM, WINDOW_SAMPLES
from auffusion_cli.evaluation.protocols import AudioInput
from auffusion_cli.signal.spectrogram import DB_PER_NEPER

SAMPLE_RATE_HZ = SPECTROGRAM.sample_rate_hz
HOP_SAMPLES = SPECTROGRAM.hop_length_samples
N_BANDS = SPECTROGRAM.n_mels
EMBEDDING_DIM = 128
BATCH_SIZE = 16

WEIGHTS_FILE = "tagger.safetensors"
CONFIG_FILE = "config.json"


class TaggerFeatures(nn.Module):
    """Waveforms (B, N) at 16 kHz -> (B, 64, N // 640) in 0..1: log-mel below the loudest cell.

    The level of a sound is therefore unknown to the tagger. Silence is 1 everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMelModule(SPECTROGRAM)

    def forward(self, waveforms: Tensor) -> Tensor:
        log_mel = self.log_mel(waveforms)
        below_loudest_db = (log_mel.amax((1, 2), keepdim=True) - log_mel) * DB_PER_NEPER
        return (1 - below_loudest_db / RANGE_DB).clamp(min=0)


class Tagger(nn.Module):
    """Features (B, 64, T) -> logits (B, n_kinds); small enough to train on one core.

    Bands stay apart up to the fourth layer, which joins them: the height of a shape is its pitch.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)

        def layer(n_in: int, n_out: int, kernel: int | tuple[int, int], stride: int = 1) -> list:
            padding = kernel // 2 if isinstance(kernel, int) else 0
            convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
            return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]

        self.layers = nn.Sequential(
            *layer(1, 48, 7, stride=4),
            *layer(48, 96, 3, stride=2),
            *layer(96, 192, 3, stride=2),
            *layer(192, 256, (N_BANDS // 16, 1)),
        )
        n_pooled = 2 * 256 + 4 * N_BANDS
        self.embedding = nn.Sequential(
            nn.BatchNorm1d(n_pooled),
            nn.Dropout(0.3),
            nn.Linear(n_pooled, EMBEDDING_DIM),
            nn.BatchNorm1d(EMBEDDING_DIM),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(EMBEDDING_DIM, len(self.kinds)))

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, 64, T) -> embeddings (B, 128)."""
        x = self.layers(features[:, None]).squeeze(2)
        # The mean over time catches sustained sound, the maximum single events. The same statistics
        # of the bands are of use from the first training step on, before the convolutions are.
        changes = features.diff(dim=2).abs()
        bands = [features.mean(2), features.std(2), features.amax(2), changes.mean(2)]
        return self.embedding(torch.cat([x.mean(2), x.amax(2), *bands], dim=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.embed(features))


def save_tagger(tagger: Tagger, folder: Path, **facts: Any) -> None:
    """Write the weights in fp16, and beside them the kinds of the outputs and `facts`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tagger.state_dict(), folder / WEIGHTS_FILE, torch.float16)
    config = {"format_version": 1, "kinds": list(tagger.kinds)} | facts
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_tagger(folder: Path, device: torch.device | str = "cpu") -> Tagger:
    """The tagger of a folder, for inference. Raises CheckpointError, naming what is wrong."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    kinds = config.get("kinds")
    if (
        config.get("format_version") != 1
        or not isinstance(kinds, list)
        or not kinds
        or not all(isinstance(kind, str) for kind in kinds)
    ):
        raise CheckpointError(f"{path}: not the configuration of a tagger")
    tagger = Tagger(kinds)
    load_weights(tagger, [folder / WEIGHTS_FILE], torch.float32, device)
    return tagger.eval().requires_grad_(False)


def windows(waveform: Tensor) -> Tensor:
    """(N,) -> (n, 81920): one window after another, silence after the end of the clip.

    A rest of less than half a window counts only where there is nothing else.
    """
    n_samples = waveform.numel()
    n = max(1, (n_samples + WINDOW_SAMPLES // 2) // WINDOW_SAMPLES)
    whole = waveform[: n * WINDOW_SAMPLES]
    return nn.functional.pad(whole, (0, n * WINDOW_SAMPLES - whole.numel())).view(n, -1)


class TaggerEmbedder:
    """`Embedder`: the means of embedding and log-probabilities over the windows of a clip."""

    name = "tagger"
    embedding_dim = EMBEDDING_DIM

    def __init__(self, tagger: Tagger, audio_input: AudioInput, weights_sha256: str) -> None:
        self.tagger = tagger
        self.audio_input = audio_input
        self.weights_sha256 = weights_sha256
        self.n_classes = len(tagger.kinds)
        self.class_names = tagger.kinds
        self.device = next(tagger.parameters()).device
        self._features = TaggerFeatures().to(self.device)

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[Tensor]) -> Iterable[ClipFeatures]:
        """See `Embedder`."""
        of_clips = [windows(waveform.to(self.device, non_blocking=True)) for waveform in waveforms]
        embeddings, logits = [], []
        for batch in torch.cat(of_clips).split(BATCH_SIZE):
            embedded = self.tagger.embed(self._features(batch))
            embeddings.append(embedded)
            logits.append(self.tagger.head(embedded).log_softmax(dim=1))
        counts = [len(clip) for clip in of_clips]
        means = [
            AsyncCopy(torch.stack([of_clip.mean(0) for of_clip in torch.cat(rows).split(counts)]))
            for rows in (embeddings, logits)
        ]
        return _clips(*means)


def _clips(embeddings: AsyncCopy, logits: AsyncCopy) -> Iterator[ClipFeatures]:
    for embedding, scores in zip(embeddings.numpy(), logits.numpy(), strict=True):
        yield ClipFeatures(embedding[None], scores)
