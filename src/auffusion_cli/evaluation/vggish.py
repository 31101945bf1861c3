"""VGGish: the network behind FAD (Hershey et al. 2017, arXiv 1609.09430; Kilgour et al. 2019).

Tensors have the names of torchvggish's published state dict (`vggish-10086976.pth`). As in the
field's tools the last ReLU is left out, and neither PCA nor quantisation follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from auffusion_cli.evaluation.convolution import fast_conv_relu
from auffusion_cli.evaluation.embedders import AsyncCopy, ClipFeatures
from auffusion_cli.evaluation.protocols import AudioInput

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
N_MELS, MIN_HZ, MAX_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
FRAME_COLUMNS = 96
"""0.96 s: one embedding."""
FRAME_SAMPLES = (FRAME_COLUMNS - 1) * HOP_SAMPLES + WINDOW_SAMPLES
EMBEDDING_DIM = 128
LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
FRAMES_AT_ONCE = {"cpu": 160, "cuda": 512}
"""Frames in memory at once, whatever the length of a clip; 512 take 2 GB on a GPU. The last layers'
270 MB of weights are read once for all of them."""
PICTURES_AT_ONCE = 16
"""On a CPU, few enough for the memory of the convolutions to be used again."""


def frames(waveform: Tensor) -> Tensor:
    """(N,) samples at 16 kHz -> (n, 15600): the input of each embedding, one every 0.96 s.

    A remainder at the end is dropped; a clip of less than 0.975 s has no frame.
    """
    if len(waveform) < FRAME_SAMPLES:
        return waveform.new_zeros(0, FRAME_SAMPLES)
    return waveform.unfold(0, FRAME_SAMPLES, FRAME_COLUMNS * HOP_SAMPLES)


def mel_filters() -> Tensor:
    """(257, 64): triangles on HTK's mel scale, straight in mel, not in hertz; none takes 0 Hz."""

    def to_mel(hz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hz / 700)

    hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1, dtype=torch.float64)
    bins_mel = to_mel(hz)[:, None]
    first, last = to_mel(torch.tensor([MIN_HZ, MAX_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(first, last, N_MELS + 2, dtype=torch.float64)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins_mel - low) / (centre - low)
    falling = (high - bins_mel) / (high - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[0] = 0
    return filters.float()


class LogMel(nn.Module):
    """VGGish's spectrogram: windows of 25 ms every 10 ms, magnitude, ln(mel + 0.01)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 15600) samples at 16 kHz -> (n, 96, 64)"""
        columns = frames.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        magnitude = torch.fft.rfft(columns * self.window, FFT_SAMPLES).abs()
        return torch.log(magnitude @ self.filters + LOG_OFFSET)


class VGGish(nn.Module):
    """The network after its spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 1
        for layer in LAYERS:
            if layer == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(in_channels, layer, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = layer
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * (FRAME_COLUMNS // 16) * (N_MELS // 16), 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, EMBEDDING_DIM),
        )

    def fold(self) -> VGGish:
        """Replace the convolutions by fast ones, for inference only."""
        layers: list[nn.Module] = []
        width = N_MELS
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                layers.append(fast_conv_relu(layer, None, width))
            elif isinstance(layer, nn.MaxPool2d):
                layers.append(layer)
                width //= 2
        self.features = nn.Sequential(*layers)
        return self

    def forward(self, log_mel: Tensor) -> Tensor:
        """(n, 96, 64) -> (n, 128), before the last ReLU."""
        n_at_once = PICTURES_AT_ONCE if log_mel.device.type == "cpu" else len(log_mel)
        x = torch.cat([self.features(part) for part in log_mel[:, None].split(n_at_once)])
        # The weights come from TensorFlow, where channels are last.
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))


class VGGishEmbedder:
    """`Embedder`: a row of 128 numbers for every 0.96 s; no row for a clip of less than 0.975 s."""

    name = "vggish"
    embedding_dim = EMBEDDING_DIM
    n_classes = None
    class_names = None

    def __init__(self, network: VGGish, audio_input: AudioInput, weights_sha256: str) -> None:
        self.network = network.eval().requires_grad_(False).fold()
        self.device = next(network.parameters()).device
        self.spectrogram = LogMel().to(self.device)
        self.audio_input = audio_input
        self.weights_sha256 = weights_sha256

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[Tensor]) -> Iterable[ClipFeatures]:
        """See `Embedder`. Frames of all clips go through the network together."""
        of_clips = [frames(waveform.to(self.device, non_blocking=True)) for waveform in waveforms]
        n_at_once = FRAMES_AT_ONCE.get(self.device.type, FRAMES_AT_ONCE["cpu"])
        rows = [
            AsyncCopy(self.network(self.spectrogram(part)))
            for part in torch.cat(of_clips).split(n_at_once)
            if len(part)
        ]
        return _split(rows, [len(clip) for clip in of_clips])


def _split(rows: Sequence[AsyncCopy], counts: Sequence[int]) -> Iterator[ClipFeatures]:
    """The rows of each clip."""
    none = np.zeros((0, EMBEDDING_DIM), np.float32)
    arrived = np.concatenate([none, *(part.numpy() for part in rows)])
    for of_clip in np.split(arrived, np.cumsum(counts)[:-1]):
        yield ClipFeatures(of_clip)
