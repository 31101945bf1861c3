"""The losses of the autoencoder and vocoder stages, each a pure function of tensors to a scalar."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from auffusion_cli.training.discriminators import DiscriminatorOutput

# --- least-squares adversarial losses: HiFi-GAN (arXiv 2010.05646), section 2.4 ---


def lsgan_discriminator_loss(
    real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> Tensor:
    """Equation 1, summed over sub-discriminators: real scores should be 1, fake ones 0."""
    return torch.stack(
        [
            (1 - of_real.scores).square().mean() + of_fake.scores.square().mean()
            for of_real, of_fake in zip(real, fake, strict=True)
        ]
    ).sum()


def lsgan_generator_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Equation 2, summed over sub-discriminators: fake scores should be 1."""
    return torch.stack([(1 - of_fake.scores).square().mean() for of_fake in fake]).sum()


def feature_matching_loss(
    real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> Tensor:
    """Equation 4: the mean absolute difference of each layer's features, summed over layers.

    The real features are targets without gradient. The caller applies the weight (2).
    """
    return torch.stack(
        [
            F.l1_loss(feature_of_fake, feature_of_real.detach())
            for of_real, of_fake in zip(real, fake, strict=True)
            for feature_of_real, feature_of_fake in zip(
                of_real.features, of_fake.features, strict=True
            )
        ]
    ).sum()


# --- hinge adversarial losses: Lim & Ye 2017 (arXiv 1705.02894), section 3 ---


def hinge_discriminator_loss(
    real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> Tensor:
    """Hinge loss: real scores should exceed 1, fake ones fall below -1."""
    return torch.stack(
        [
            F.relu(1 - of_real.scores).mean() + F.relu(1 + of_fake.scores).mean()
            for of_real, of_fake in zip(real, fake, strict=True)
        ]
    ).sum()


def hinge_generator_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """The negative mean of the fake scores."""
    return -torch.stack([of_fake.scores.mean() for of_fake in fake]).sum()


# --- reconstruction ---


def spectral_convergence_loss(reference: Tensor, estimate: Tensor) -> Tensor:
    """Relative Frobenius distance of two magnitude spectrograms of one shape."""
    return torch.linalg.norm(reference - estimate) / torch.linalg.norm(reference).clamp_min(1e-8)


def multi_resolution_stft_loss(
    reference: Tensor,
    estimate: Tensor,
    n_ffts: Sequence[int] = (512, 1024, 2048),
    magnitude_floor: float = 1e-5,
) -> Tensor:
    """Spectral convergence and log-magnitude L1, averaged over STFT resolutions.

    `reference` and `estimate` are waveforms (B, N). Hann windows of the whole `n_fft`, hops of a
    quarter. Source: Parallel WaveGAN (arXiv 1910.11480), section 2.2.
    """
    losses = []
    for n_fft in n_ffts:
        window = torch.hann_window(n_fft, device=reference.device)
        magnitudes = [
            # The power is floored before the root, whose gradient at 0 is infinite.
            torch.view_as_real(
                torch.stft(x, n_fft, hop_length=n_fft // 4, window=window, return_complex=True)
            )
            .square()
            .sum(-1)
            .clamp_min(magnitude_floor**2)
            .sqrt()
            for x in (reference, estimate)
        ]
        log_distance = F.l1_loss(magnitudes[1].log(), magnitudes[0].log())
        losses.append(spectral_convergence_loss(*magnitudes) + log_distance)
    return torch.stack(losses).mean()


def gradient_loss(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences of two images (B, C, H, W).

    The sum of the means along frequency (H) and time (W). It keeps onsets and partials sharp, which
    L1 alone blurs.
    """
    error = estimate - reference
    return error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1), nats a latent element.

    Source: Kingma & Welling 2014 (arXiv 1312.6114), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
