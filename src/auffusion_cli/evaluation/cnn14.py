"""PANNs Cnn14 at 16 kHz: the classifier behind FD, KL and IS (Kong et al. 2020, arXiv 1912.10211).

Tensors have the names of the published state dict (`Cnn14_16k_mAP=0.438.pth`), which is loaded
strictly. The published front end convolves with windowed sines and cosines that are stored with the
weights; they are checked, and replaced by a fast Fourier transform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation.convolution import fast_conv_relu
from auffusion_cli.evaluation.embedders import AsyncCopy, ClipFeatures, by_length
from auffusion_cli.evaluation.protocols import AudioInput

WINDOW_SAMPLES, HOP_SAMPLES = 512, 160
N_BINS = WINDOW_SAMPLES // 2 + 1
N_MELS, MIN_HZ, MAX_HZ = 64, 50.0, 8000.0
MIN_POWER = 1e-10
N_CLASSES = 527
EMBEDDING_DIM = 2048
BLOCK_CHANNELS = (64, 128, 256, 512, 1024, 2048)
MIN_SAMPLES = 32 * HOP_SAMPLES
"""Below this the five halvings of time leave nothing."""
BATCH_SAMPLES = {"cpu": 160 * 16_000, "cuda": 320 * 16_000}
"""Samples of the clips in a batch; a longer clip is a batch of its own."""
SHALLOW_BLOCKS = 3
"""They need 16 MB for each 10 s of sound, a few times over. On a CPU, clips go through them one by
one: small enough for memory to be used again, and nothing is gained by batches of large pictures.
The deeper ones have hundreds of megabytes of weights, which are read once for a batch."""
COLUMNS_PER_OUTPUT = 32
"""Time is halved five times."""
OUTPUTS_AT_ONCE = 188
"""A minute: the most that is in memory at once, whatever the length of a clip."""
CONTEXT_COLUMNS = 128
"""Receptive field of an output on either side, rounded up from 126: two columns for each
convolution's place, times the halvings before it."""


class LogMel(nn.Module):
    """Log-mel power spectrogram in decibels, as torchlibrosa's Spectrogram and LogmelFilterBank.

    Hann window, centred with reflected ends, power, Slaney's mel filters, 10 log10, no `top_db`.
    """

    melW: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.device("cpu"):  # torchaudio looks at values, which the meta device has none of
            filters = torchaudio.functional.melscale_fbanks(
                N_BINS, MIN_HZ, MAX_HZ, N_MELS, 16_000, norm="slaney", mel_scale="slaney"
            )
        self.register_buffer("melW", filters)

    def forward(self, waveform: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """(B, N) samples at 16 kHz -> (B, 1, T, 64): columns start..stop of 1 + N // 160."""
        n_samples = waveform.shape[1]
        stop = 1 + n_samples // HOP_SAMPLES if stop is None else stop
        first = start * HOP_SAMPLES - WINDOW_SAMPLES // 2
        last = (stop - 1) * HOP_SAMPLES + WINDOW_SAMPLES // 2
        part = waveform[:, max(first, 0) : last]
        part = pad(part, (max(-first, 0), max(last - n_samples, 0)), mode="reflect")
        window = torch.hann_window(WINDOW_SAMPLES, device=waveform.device)
        spectrum = torch.stft(
            part, WINDOW_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self.melW
        return 10 * mel.clamp(min=MIN_POWER).log10()[:, None]


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU, then the mean of 2x2 patches."""

    def __init__(self, in_channels: int, out_channels: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, F) -> (B, C', T // pool, F // pool)"""
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return avg_pool2d(x, self.pool)


class Cnn14(nn.Module):
    """The network, as it is used after training: no augmentation, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.logmel_extractor = LogMel()
        self.bn0 = nn.BatchNorm2d(N_MELS)
        in_channels = 1
        for i, out_channels in enumerate(BLOCK_CHANNELS, start=1):
            pool = 2 if i < len(BLOCK_CHANNELS) else 1
            self.add_module(f"conv_block{i}", ConvBlock(in_channels, out_channels, pool))
            in_channels = out_channels
        self.fc1 = nn.Linear(BLOCK_CHANNELS[-1], EMBEDDING_DIM)
        self.fc_audioset = nn.Linear(EMBEDDING_DIM, N_CLASSES)

    def blocks(self) -> list[nn.Module]:
        return [getattr(self, f"conv_block{i}") for i in range(1, len(BLOCK_CHANNELS) + 1)]

    def fold(self) -> Cnn14:
        """Replace the convolutions by fast ones, for inference only."""
        width = N_MELS
        for i, block in enumerate(self.blocks(), start=1):
            fast = nn.Sequential(
                fast_conv_relu(block.conv1, block.bn1, width),
                fast_conv_relu(block.conv2, block.bn2, width),
                nn.AvgPool2d(block.pool) if block.pool > 1 else nn.Identity(),
            )
            setattr(self, f"conv_block{i}", fast)
            width //= block.pool
        return self

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) samples at 16 kHz -> embeddings (B, 2048), logits (B, 527)."""
        n_columns = 1 + waveform.shape[1] // HOP_SAMPLES
        n_outputs = n_columns // COLUMNS_PER_OUTPUT
        highest, total = torch.tensor(-torch.inf, device=waveform.device), 0.0
        # A long clip goes through in parts, each with the receptive field of its outputs.
        for first in range(0, n_outputs, OUTPUTS_AT_ONCE):
            last = min(first + OUTPUTS_AT_ONCE, n_outputs)
            start = max(COLUMNS_PER_OUTPUT * first - CONTEXT_COLUMNS, 0)
            stop = min(COLUMNS_PER_OUTPUT * last + CONTEXT_COLUMNS, n_columns)
            outputs = self.outputs(self.logmel_extractor(waveform, start, stop))
            outputs = outputs[:, :, first - start // COLUMNS_PER_OUTPUT :][:, :, : last - first]
            highest = torch.maximum(highest, outputs.amax(dim=2))
            total = total + outputs.sum(dim=2)
        embedding = self.fc1(highest + total / n_outputs).relu()
        return embedding, self.fc_audioset(embedding)

    def outputs(self, log_mel: Tensor) -> Tensor:
        """(B, 1, T, 64) -> (B, 2048, T // 32): of the last block, the mean over frequencies."""
        # Each mel band has its own mean and variance.
        x = self.bn0(log_mel.transpose(1, 3)).transpose(1, 3)
        blocks = nn.Sequential(*self.blocks())
        n_at_once = 1 if x.device.type == "cpu" else len(x)
        x = torch.cat([blocks[:SHALLOW_BLOCKS](part) for part in x.split(n_at_once)])
        return blocks[SHALLOW_BLOCKS:](x).mean(dim=3)


def published_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `Cnn14` from the published tensors.

    Raises:
        CheckpointError: the stored Fourier transform is another one than that of `LogMel`.
    """
    state = dict(tensors)
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    angle = 2 * torch.pi * torch.outer(time[:N_BINS], time) / WINDOW_SAMPLES
    window = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64)
    for part, expected in (("real", angle.cos() * window), ("imag", -angle.sin() * window)):
        name = f"spectrogram_extractor.stft.conv_{part}.weight"
        if name not in state:
            raise CheckpointError(f"Cnn14 weights lack tensor {name!r}")
        stored = state.pop(name).double()
        if stored.numel() != expected.numel() or not torch.allclose(
            stored.reshape(expected.shape), expected, atol=1e-5
        ):
            raise CheckpointError(
                f"Cnn14 weights: tensor {name!r} is not the Fourier transform of a Hann window of "
                f"{WINDOW_SAMPLES} samples; these are the weights of another network"
            )
    return state


class Cnn14Embedder:
    """`Embedder`: one ReLU(fc1) embedding and 527 logits a clip."""

    name = "cnn14"
    embedding_dim = EMBEDDING_DIM
    n_classes = N_CLASSES
    class_names = None

    def __init__(self, network: Cnn14, audio_input: AudioInput, weights_sha256: str) -> None:
        self.network = network.eval().requires_grad_(False).fold()
        self.device = network.fc1.weight.device
        self.audio_input = audio_input
        self.weights_sha256 = weights_sha256

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[Tensor]) -> Iterable[ClipFeatures]:
        """See `Embedder`. Each clip has at least 5,120 samples."""
        n_samples = BATCH_SAMPLES.get(self.device.type, BATCH_SAMPLES["cpu"])
        order, outputs = [], []
        for indices, batch in by_length(waveforms, n_samples, self.device):
            order += indices
            outputs.append([AsyncCopy(output) for output in self.network(batch)])
        return _in_order(order, outputs)


def _in_order(
    order: Sequence[int], outputs: Sequence[tuple[AsyncCopy, AsyncCopy]]
) -> Iterator[ClipFeatures]:
    """The clips of several batches, of which `order` has the indices."""
    embeddings, logits = (
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*outputs, strict=True)
    )
    for row in np.argsort(order):
        yield ClipFeatures(embeddings[row : row + 1], logits[row])
