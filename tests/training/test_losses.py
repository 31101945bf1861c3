"""Each loss against numbers worked out by hand."""

import math

import pytest
import torch

from auffusion_cli.training import losses
from auffusion_cli.training.discriminators import DiscriminatorOutput


def output(scores, *features):
    return DiscriminatorOutput(torch.tensor([scores]), [torch.tensor(f) for f in features])


def test_lsgan_losses_sum_over_discriminators_the_mean_squared_distance_to_the_target():
    real = [output([1.0, 0.0]), output([2.0])]
    fake = [output([0.0, 0.5]), output([3.0])]
    # first: (0 + 1) / 2 + (0 + 0.25) / 2; second: 1 + 9
    assert losses.lsgan_discriminator_loss(real, fake).item() == pytest.approx(0.625 + 10)
    # first: (1 + 0.25) / 2; second: 4
    assert losses.lsgan_generator_loss(fake).item() == pytest.approx(0.625 + 4)


def test_hinge_losses_reward_nothing_beyond_the_margin():
    real, fake = [output([5.0, 0.5])], [output([-5.0, 0.5])]
    # relu(1 - 5), relu(1 - 0.5); relu(1 - 5), relu(1 + 0.5)
    assert losses.hinge_discriminator_loss(real, fake).item() == pytest.approx(0.25 + 0.75)
    assert losses.hinge_generator_loss(fake).item() == pytest.approx(2.25)


def test_feature_matching_sums_layer_means_and_leaves_the_real_features_alone():
    real = output([0.0], [1.0, 3.0], [[2.0]])
    fake = output([0.0], [0.0, 0.0], [[2.5]])
    for feature in (*real.features, *fake.features):
        feature.requires_grad_(True)
    loss = losses.feature_matching_loss([real], [fake])
    assert loss.item() == pytest.approx((1 + 3) / 2 + 0.5)
    loss.backward()
    assert real.features[0].grad is None
    assert fake.features[0].grad.tolist() == [-0.5, -0.5]


def test_gradient_loss_adds_the_means_along_frequency_and_time():
    reference = torch.zeros(1, 1, 2, 3)
    estimate = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 1.0, 3.0]]]])
    # along H: |0|, |0|, |2|; along W: 1, 0 and 1, 2
    assert losses.gradient_loss(reference, estimate).item() == pytest.approx(2 / 3 + 4 / 4)
    assert losses.gradient_loss(reference, reference + 0.7).item() == pytest.approx(0)


def test_kl_loss_is_zero_for_the_prior_and_matches_torch_elsewhere():
    assert losses.kl_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0
    # mean 2, variance 1: 2^2 / 2. mean 0, variance e: (e - 2) / 2.
    loss = losses.kl_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((2 + (math.e - 2) / 2) / 2)


def test_spectral_convergence_is_relative():
    reference = torch.tensor([[3.0, 4.0]])
    assert losses.spectral_convergence_loss(reference, torch.zeros(1, 2)).item() == 1
    assert losses.spectral_convergence_loss(reference, reference * 1.5).item() == pytest.approx(0.5)


def test_multi_resolution_stft_loss_of_a_scaled_waveform():
    noise = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    assert losses.multi_resolution_stft_loss(noise, noise).item() == 0
    # Half the amplitude: convergence 1/2, log magnitude ln 2, at every resolution.
    half = losses.multi_resolution_stft_loss(noise, noise / 2)
    assert half.item() == pytest.approx(0.5 + math.log(2), rel=1e-4)


def test_multi_resolution_stft_loss_has_finite_gradients_in_silence():
    silence = torch.zeros(1, 4096, requires_grad=True)
    losses.multi_resolution_stft_loss(torch.zeros(1, 4096), silence).backward()
    assert torch.isfinite(silence.grad).all()
