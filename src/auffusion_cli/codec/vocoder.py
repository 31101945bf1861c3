"""log-mel -> waveform by a trained network, HiFi-GAN; without one: `signal.griffin_lim`.

Source: HiFi-GAN (arXiv 2010.05646), section 2.2 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import CheckpointError

WEIGHT_NORM_SUFFIXES = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
LEAKY_SLOPE = 0.1


@dataclass(frozen=True)
class HiFiGANConfig:
    """Sizes of a HiFi-GAN generator; the names are those of its published config.json.

    Lengths (`hop_size`, `n_fft`, `win_size`) are in samples, frequencies in Hz.
    """

    num_mels: int = 256
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    resblock: str = "1"
    sampling_rate: int = 16_000
    hop_size: int = 160
    n_fft: int = 2048
    win_size: int = 1024
    fmin: float = 0
    fmax: float = 8_000

    def __post_init__(self) -> None:
        """Raise CheckpointError where the sizes do not describe a generator."""
        self._check_counts("num_mels", [self.num_mels], 4096)
        self._check_counts("upsample_rates", self.upsample_rates, 64)
        self._check_counts("upsample_kernel_sizes", self.upsample_kernel_sizes, 256)
        self._check_counts("upsample_initial_channel", [self.upsample_initial_channel], 8192)
        self._check_counts("resblock_kernel_sizes", self.resblock_kernel_sizes, 63)
        for dilations in self.resblock_dilation_sizes:
            self._check_counts("resblock_dilation_sizes", dilations, 255)
        for name in ("sampling_rate", "hop_size", "n_fft", "win_size"):
            self._check_counts(name, [getattr(self, name)], 1_000_000)

        self._require(self.resblock == "1", "resblock", "'1'")
        n_stages = len(self.upsample_rates)
        self._require(
            len(self.upsample_kernel_sizes) == n_stages
            and all(
                k >= u for k, u in zip(self.upsample_kernel_sizes, self.upsample_rates, strict=True)
            ),
            "upsample_kernel_sizes",
            "one size a stage, at least the stage's rate",
        )
        self._require(
            len(self.resblock_dilation_sizes) == len(self.resblock_kernel_sizes),
            "resblock_dilation_sizes",
            "one list for each of resblock_kernel_sizes",
        )
        self._require(
            all(kernel % 2 for kernel in self.resblock_kernel_sizes),
            "resblock_kernel_sizes",
            "odd numbers",
        )
        self._require(
            self.upsample_initial_channel % 2**n_stages == 0,
            "upsample_initial_channel",
            f"a multiple of {2**n_stages}, since {n_stages} stages halve it",
        )
        self._require(
            math.prod(self.upsample_rates) == self.hop_size,
            "upsample_rates",
            f"numbers whose product is hop_size, {self.hop_size}",
        )

    def _check_counts(self, name: str, values: Iterable[Any], most: int) -> None:
        values = list(values)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
        valid = whole and 1 <= len(values) <= 16 and all(1 <= v <= most for v in values)
        self._require(valid, name, f"whole numbers from 1 to {most}, at most 16 of them")

    def _require(self, condition: bool, name: str, valid: str) -> None:
        if not condition:
            value = getattr(self, name)
            raise CheckpointError(f"vocoder config: {name} is {value!r}; it must be {valid}")

    @classmethod
    def from_dict(cls, values: Any) -> HiFiGANConfig:
        """From a published config.json; its keys about training are not the generator's."""
        if not isinstance(values, dict):
            raise CheckpointError("vocoder config: it must be a JSON object")
        missing = {"num_mels", "upsample_rates", "upsample_kernel_sizes"} - values.keys()
        if missing:
            raise CheckpointError(f"vocoder config: {sorted(missing)[0]} is missing")
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{k: _as_tuples(v) for k, v in values.items() if k in known})
        except TypeError as error:  # a number where a list belongs, or the reverse
            raise CheckpointError(f"vocoder config: {error}") from error


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


class HiFiGAN(nn.Module):
    """HiFi-GAN's generator: transposed convolutions, each followed by fused residual blocks.

    `weight_norm=True` is for training; without it the convolutions have plain weights.
    """

    name = "hifigan"

    def __init__(self, config: HiFiGANConfig | None = None, *, weight_norm: bool = False) -> None:
        super().__init__()
        self.config = config = config or HiFiGANConfig()
        n_channels = config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(config.num_mels, n_channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            # Every stage lengthens by exactly its rate, also where kernel - rate is odd.
            odd = (kernel - rate) % 2
            self.ups.append(
                nn.ConvTranspose1d(
                    n_channels,
                    n_channels // 2,
                    kernel,
                    stride=rate,
                    padding=(kernel - rate) // 2 + odd,
                    output_padding=odd,
                )
            )
            n_channels //= 2
            for block_kernel, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(_ResidualBlock(n_channels, block_kernel, dilations))
        self.conv_post = nn.Conv1d(n_channels, 1, 7, padding=3)

        for part in (self.ups, self.resblocks, self.conv_post):
            part.apply(_init_weights)
        if weight_norm:
            self.add_weight_norm()

    def add_weight_norm(self) -> None:
        """Split every convolution's weight into direction and length, keeping its value."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                parametrizations.weight_norm(module)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, num_mels, T) log-mel -> (B, T * hop_size) samples in -1..1."""
        if log_mel.shape[-1] == 0:
            return log_mel.new_zeros(log_mel.shape[0], 0)
        n_blocks = len(self.config.resblock_kernel_sizes)
        x = self.conv_pre(log_mel.to(self.conv_pre.bias.dtype))
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, LEAKY_SLOPE))
            blocks = self.resblocks[i * n_blocks : (i + 1) * n_blocks]
            x = sum(block(x) for block in blocks) / n_blocks
        # The official code takes the framework's default slope, 0.01, only here.
        return torch.tanh(self.conv_post(F.leaky_relu(x))).squeeze(1)


class _ResidualBlock(nn.Module):
    """Residual pairs of a dilated and a plain convolution ("resblock 1")."""

    def __init__(self, n_channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def convolution(dilation: int) -> nn.Conv1d:
            padding = dilation * (kernel - 1) // 2
            return nn.Conv1d(n_channels, n_channels, kernel, dilation=dilation, padding=padding)

        self.convs1 = nn.ModuleList(convolution(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(convolution(1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            residual = dilated(F.leaky_relu(x, LEAKY_SLOPE))
            x = x + plain(F.leaky_relu(residual, LEAKY_SLOPE))
        return x


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        nn.init.normal_(module.weight, std=0.01)


def check_vocoder(config: HiFiGANConfig, spectrogram: SpectrogramConfig | None = None) -> None:
    """Raise a CheckpointError where it was made for other log-mels than `spectrogram` gives."""
    spectrogram = spectrogram or SpectrogramConfig()
    for name, given, needed in (
        ("num_mels", config.num_mels, spectrogram.n_mels),
        ("hop_size", config.hop_size, spectrogram.hop_length_samples),
        ("sampling_rate", config.sampling_rate, spectrogram.sample_rate_hz),
    ):
        if given != needed:
            raise CheckpointError(
                f"vocoder: {name} is {given}, but the spectrogram of this model has {needed}"
            )


def fold_weight_norm(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Plain weights g * v / |v| from either naming of weight norm; other tensors as they are.

    `path` is named in the CheckpointError where the two of a pair do not fit each other.
    """
    folded = dict(weights)
    for name in weights:
        for length_suffix, direction_suffix in WEIGHT_NORM_SUFFIXES:
            if not name.endswith(length_suffix):
                continue
            prefix = name.removesuffix(length_suffix)
            length, direction = folded.pop(name), folded.pop(prefix + direction_suffix, None)
            if direction is None:
                raise CheckpointError(
                    f"{path}: {name} has no {prefix + direction_suffix} beside it"
                )
            if direction.ndim < 2 or length.numel() != direction.shape[0]:
                raise CheckpointError(
                    f"{path}: {name} has shape {tuple(length.shape)}, "
                    f"but {prefix + direction_suffix} has {tuple(direction.shape)}"
                )
            over = tuple(range(1, direction.ndim))
            norm = torch.linalg.vector_norm(direction, dim=over, keepdim=True)
            folded[prefix + "weight"] = direction * (length.reshape(norm.shape) / norm)
    return folded
