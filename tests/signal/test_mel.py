import numpy as np
import pytest

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.mel import MelScale, mel_filterbank

CONFIGS = (
    SpectrogramConfig(),
    SpectrogramConfig(n_mels=64, fmin_hz=100, fmax_hz=7_000),
    SpectrogramConfig(n_fft_samples=512, win_length_samples=400, n_mels=40),
)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_filters_are_applied_as_by_their_matrix(config):
    filterbank = mel_filterbank(config)
    magnitude = np.random.default_rng(0).random((len(filterbank), 30), np.float32)
    np.testing.assert_allclose(MelScale(config).mel(magnitude), filterbank.T @ magnitude, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_and_back_as_by_its_pseudo_inverse(config):
    filterbank = mel_filterbank(config).astype(np.float64)
    mel = np.random.default_rng(0).random((config.n_mels, 30), np.float32)
    inverse = np.linalg.solve(filterbank.T @ filterbank, filterbank.T).T
    expected = np.maximum(inverse @ mel, 0)
    found = MelScale(config).magnitude(mel)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_a_filter_too_narrow_for_a_bin_is_empty_and_takes_nothing_of_its_neighbours():
    config = SpectrogramConfig(n_fft_samples=256, win_length_samples=256)
    filterbank = mel_filterbank(config)
    assert (filterbank.sum(axis=0) == 0).any()
    magnitude = np.random.default_rng(0).random((len(filterbank), 3), np.float32)
    np.testing.assert_allclose(MelScale(config).mel(magnitude), filterbank.T @ magnitude, rtol=1e-5)
    assert np.isfinite(MelScale(config).magnitude(filterbank.T @ magnitude)).all()
