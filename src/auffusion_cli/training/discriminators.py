"""Discriminators of the adversarial losses: HiFi-GAN's for waveforms, PatchGAN for images.

Each sub-discriminator returns its scores, and the feature maps that the feature-matching loss
compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

LEAKY_SLOPE = 0.1


class DiscriminatorOutput(NamedTuple):
    """Output of one sub-discriminator for a batch."""

    scores: Tensor
    """(B, n): one score for each receptive field; near 1 for real under the LSGAN loss."""
    features: list[Tensor]
    """Activations of its layers in order, the scores last."""


def _scaled(channels: int, width: float) -> int:
    """`channels * width`, kept a multiple of 16 so that the grouped convolutions divide it."""
    return max(16, round(channels * width / 16) * 16)


def _run_layers(
    layers: nn.ModuleList, score: nn.Module, x: Tensor, slope: float
) -> DiscriminatorOutput:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), slope)
        features.append(x)
    x = score(x)
    features.append(x)
    return DiscriminatorOutput(x.flatten(1), features)


class PeriodDiscriminator(nn.Module):
    """Discriminator of every `period`-th sample: the waveform folded into rows of `period`.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.3, "Multi-Period Discriminator".
    """

    def __init__(self, period: int, width: float = 1.0) -> None:
        super().__init__()
        self.period = period
        channels = [1, *(_scaled(c, width) for c in (32, 128, 512, 1024, 1024))]
        strides = [3, 3, 3, 3, 1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(c_in, c_out, (5, 1), (stride, 1), padding=(2, 0)))
            for c_in, c_out, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.score = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> DiscriminatorOutput:
        """Outputs for `waveform` (B, N), reflected at its end to fill the last row."""
        missing = -waveform.shape[-1] % self.period
        x = F.pad(waveform[:, None], (0, missing), mode="reflect")
        x = x.unflatten(-1, (-1, self.period))  # (B, 1, rows, period)
        return _run_layers(self.layers, self.score, x, LEAKY_SLOPE)


class ScaleDiscriminator(nn.Module):
    """Discriminator of the waveform: a stack of strided, grouped convolutions.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.3, "Multi-Scale Discriminator".
    """

    def __init__(self, norm, width: float = 1.0) -> None:
        super().__init__()
        channels = [1, *(_scaled(c, width) for c in (128, 128, 256, 512, 1024, 1024, 1024))]
        kernels = [15, 41, 41, 41, 41, 41, 5]
        strides = [1, 2, 2, 4, 4, 1, 1]
        groups = [1, 4, 16, 16, 16, 16, 1]
        self.layers = nn.ModuleList(
            norm(nn.Conv1d(c_in, c_out, kernel, stride, groups=group, padding=kernel // 2))
            for c_in, c_out, kernel, stride, group in zip(
                channels[:-1], channels[1:], kernels, strides, groups, strict=True
            )
        )
        self.score = norm(nn.Conv1d(channels[-1], 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> DiscriminatorOutput:
        """Outputs for `waveform` (B, N)."""
        return _run_layers(self.layers, self.score, waveform[:, None], LEAKY_SLOPE)


class WaveformDiscriminator(nn.Module):
    """HiFi-GAN's discriminators: five periods and three scales, eight outputs.

    The first scale has the waveform itself as input and is spectrally normalised; the second and
    third have it averaged to a half and a quarter of its rate. `width` scales every layer's
    channels (1: the paper's 70.7 M parameters; 0.125 to 0.25 suit a CPU).
    """

    PERIODS = (2, 3, 5, 7, 11)

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(p, width) for p in self.PERIODS)
        self.scales = nn.ModuleList(
            ScaleDiscriminator(norm, width) for norm in (spectral_norm, weight_norm, weight_norm)
        )

    def forward(self, waveform: Tensor) -> list[DiscriminatorOutput]:
        """Outputs for `waveform` (B, N) in -1..1."""
        outputs = [period(waveform) for period in self.periods]
        for scale in self.scales:
            outputs.append(scale(waveform))
            waveform = F.avg_pool1d(waveform[:, None], 4, stride=2, padding=2).squeeze(1)
        return outputs


class PatchDiscriminator(nn.Module):
    """PatchGAN: one score for each overlapping 70 × 70 patch of an image.

    Source: Isola et al. 2017 (arXiv 1611.07004), section 3.2.2, with spectral normalisation in
    place of batch normalisation, so that a score does not depend on the rest of the batch.
    """

    def __init__(self, in_channels: int, base_channels: int = 64) -> None:
        super().__init__()
        channels = [in_channels, *(base_channels * m for m in (1, 2, 4, 8))]
        strides = [2, 2, 2, 1]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(c_in, c_out, 4, stride, padding=1))
            for c_in, c_out, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.score = spectral_norm(nn.Conv2d(channels[-1], 1, 4, padding=1))

    def forward(self, image: Tensor) -> list[DiscriminatorOutput]:
        """Outputs for `image` (B, in_channels, H, W), H and W at least 32."""
        return [_run_layers(self.layers, self.score, image, slope=0.2)]


def discriminate(
    discriminator: nn.Module, real: Tensor, fake: Tensor
) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
    """Outputs for `real` and `fake` (the same shape) in one pass over the discriminator.

    One pass rather than two: half the calls, and one forward for each backward, as
    DistributedDataParallel requires.
    """
    n_real = real.shape[0]
    outputs = discriminator(torch.cat([real, fake]))
    split = [
        (
            DiscriminatorOutput(both.scores[:n_real], [f[:n_real] for f in both.features]),
            DiscriminatorOutput(both.scores[n_real:], [f[n_real:] for f in both.features]),
        )
        for both in outputs
    ]
    return [of_real for of_real, _ in split], [of_fake for _, of_fake in split]


@contextmanager
def frozen(discriminator: nn.Module) -> Iterator[None]:
    """A block in which the discriminator's weights get no gradients.

    The generator's gradients pass through it.
    """
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        discriminator.requires_grad_(True)
