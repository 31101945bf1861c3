import numpy as np
import pytest
import torch

from auffusion_cli.codec.log_mel import LogMelModule
from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.spectrogram import LogMel

SMALL = SpectrogramConfig(n_fft_samples=512, win_length_samples=400, n_mels=40)


@pytest.mark.parametrize("config", [SpectrogramConfig(), SMALL])
@pytest.mark.parametrize("n_samples", [159, 160, 700, 16_000])
def test_it_equals_the_log_mel_of_arrays(config, n_samples):
    waveform = np.random.default_rng(0).uniform(-1, 1, (2, n_samples)).astype(np.float32)
    found = LogMelModule(config)(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(found, LogMel(config)(waveform), atol=1e-5)


def test_gradient_is_finite_in_silence():
    waveform = torch.zeros(1, 3_200, requires_grad=True)
    LogMelModule()(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_half_precision_input_is_analysed_in_float32():
    assert LogMelModule()(torch.zeros(1, 1_600, dtype=torch.float16)).dtype == torch.float32
