import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.noise import Noise

SEEDS = (0, 1, 7, 2701158915, 2**32 - 1, 2**32, 2**32 + 7, 0x6465_636F_6465 ^ 7, 2**63 - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_that_of_torch(seed):
    shape = (1, 4, 32, 50)
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    noise = Noise(seed).normal(shape)
    assert noise.dtype == np.float32 and noise.shape == shape
    np.testing.assert_allclose(noise, expected, atol=5e-7, rtol=0)


@settings(max_examples=100)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 70), max_size=8))
def test_a_sequence_of_draws_of_any_size_is_that_of_torch(seed, sizes):
    noise, generator = Noise(seed), torch.Generator().manual_seed(seed)
    for n in sizes:
        expected = torch.randn(n, generator=generator).numpy()
        np.testing.assert_allclose(noise.normal((n,)), expected, atol=5e-7, rtol=0)


def test_single_values_come_in_pairs_over_draws_of_blocks():
    noise, generator = Noise(3), torch.Generator().manual_seed(3)
    for shape in ((3,), (2, 20), (), (5,), (1, 17), (1,)):
        expected = torch.randn(shape, generator=generator).numpy()
        np.testing.assert_allclose(noise.normal(shape), expected, atol=5e-7, rtol=0)


def test_every_seed_has_its_own_noise_of_the_stated_distribution():
    one, other = (Noise(seed).normal((100_003,)) for seed in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert one.mean() == pytest.approx(0, abs=0.02) and one.std() == pytest.approx(1, abs=0.02)
