"""Published networks with random weights, and an independent account of what they compute."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from auffusion_cli.evaluation.cnn14 import Cnn14
from auffusion_cli.evaluation.vggish import VGGish


def spread_out(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep the size of activations, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.data = torch.empty(n).uniform_(0.7, 1.3, generator=generator)
            module.bias.data = torch.empty(n).normal_(0, 0.1, generator=generator)
            module.running_mean = torch.empty(n).normal_(0, 0.3, generator=generator)
            module.running_var = torch.empty(n).uniform_(0.5, 2, generator=generator)
    return network.eval()


def cnn14_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the published Cnn14's layout: its names, shapes and stored transform."""
    network = spread_out(Cnn14(), seed)
    network.bn0.running_mean.fill_(-40)
    network.bn0.running_var.fill_(500)
    state = network.state_dict()
    # The definition of the discrete Fourier transform of 512 samples under a periodic Hann window.
    n = np.arange(512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    transform = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512) * window
    for part, values in (("real", transform.real), ("imag", transform.imag)):
        name = f"spectrogram_extractor.stft.conv_{part}.weight"
        state[name] = torch.from_numpy(values[:, None]).float()
    return state


def vggish_state(seed: int = 0) -> dict[str, torch.Tensor]:
    return spread_out(VGGish(), seed).state_dict()


def reference_cnn14(state: dict[str, torch.Tensor], waveform: torch.Tensor):
    """(N,) -> (embedding (2048,), logits (527,)), from PANNs' description, step by step."""
    # The published front end: convolution with the stored windowed sines and cosines.
    x = F.pad(waveform[None, None], (256, 256), mode="reflect")
    real = F.conv1d(x, state["spectrogram_extractor.stft.conv_real.weight"], stride=160)
    imag = F.conv1d(x, state["spectrogram_extractor.stft.conv_imag.weight"], stride=160)
    mel = (real**2 + imag**2)[0].T @ state["logmel_extractor.melW"]
    x = (10 * torch.log10(mel.clamp(min=1e-10)))[None, None]

    def batch_norm(x, name, dim):
        shape = [1] * 4
        shape[dim] = -1
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(shape)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = batch_norm(x, "bn0", dim=3)
    for block in range(1, 7):
        for i in (1, 2):
            x = F.conv2d(x, state[f"conv_block{block}.conv{i}.weight"], padding=1)
            x = batch_norm(x, f"conv_block{block}.bn{i}", dim=1).clamp(min=0)
        if block < 6:  # the mean of 2x2 patches
            t, f = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * t, : 2 * f].unflatten(2, (t, 2)).unflatten(4, (f, 2)).mean((3, 5))
    x = x.mean(3)
    x = x.max(2).values + x.mean(2)
    embedding = (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    logits = embedding @ state["fc_audioset.weight"].T + state["fc_audioset.bias"]
    return embedding[0], logits[0]


def reference_vggish_input(waveform: np.ndarray) -> np.ndarray:
    """(N,) -> (n, 96, 64), from the description in AudioSet's VGGish, one window at a time."""
    mel = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)  # noqa: E731
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    bins = mel(np.arange(257) * 16000 / 512)
    edges = mel(125.0) + np.arange(66) * (mel(7500.0) - mel(125.0)) / 65
    filters = np.zeros((257, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        for k in range(1, 257):
            if low < bins[k] <= centre:
                filters[k, band] = (bins[k] - low) / (centre - low)
            elif centre < bins[k] < high:
                filters[k, band] = (high - bins[k]) / (high - centre)
    rows = []
    for start in range(0, len(waveform) - 400 + 1, 160):
        magnitude = np.abs(np.fft.rfft(waveform[start : start + 400] * hann, 512))
        rows.append(np.log(magnitude @ filters + 0.01))
    n = len(rows) // 96
    return np.array(rows[: n * 96]).reshape(n, 96, 64)


def reference_vggish(state: dict[str, torch.Tensor], log_mel: torch.Tensor) -> torch.Tensor:
    """(n, 96, 64) -> (n, 128): convolutions with ReLU, maxima of 2x2, three linear layers."""
    x = log_mel[:, None]
    for i, pool in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        x = F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1)
        x = x.clamp(min=0)
        if pool:
            x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
    x = torch.stack([clip.permute(1, 2, 0).reshape(-1) for clip in x])  # time, mel, channel
    for i in (0, 2, 4):
        x = x @ state[f"embeddings.{i}.weight"].T + state[f"embeddings.{i}.bias"]
        x = x.clamp(min=0) if i < 4 else x
    return x
