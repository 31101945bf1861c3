import numpy as np
import pytest
import torch

from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import LogMel, mel_error_db, normalize_peak
from auffusion_cli.tasks.round_trip import clip_error_db, round_trip


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    autoencoder = PatchAutoencoder(refinement_channels=4, refinement_blocks=1)
    return Codec(TorchNetworks(autoencoder=autoencoder.eval()), GriffinLim(n_iterations=4))


def sound(n_samples: int) -> np.ndarray:
    t = np.arange(n_samples) / 16_000
    noise = Noise(0).normal((n_samples,))
    wave = 0.1 * np.sin(2e3 * t + 3e3 * t**2) + 0.03 * noise * (1 + np.sin(20 * t))
    return wave.astype(np.float32)


def test_through_mel_sounds_alike_and_as_loud(codec):
    waveform = sound(16_000)
    result, error_db = round_trip(codec, waveform, "mel", window_s=2.0)
    assert result.shape == waveform.shape
    assert 0.1 < error_db < 4
    assert np.linalg.norm(result) == pytest.approx(np.linalg.norm(waveform), rel=0.2)


def test_an_untrained_latent_costs_more(codec):
    _, through_mel = round_trip(codec, sound(16_000), "mel", window_s=1.0)
    _, through_latent = round_trip(codec, sound(16_000), "latent", window_s=1.0)
    assert through_latent > through_mel + 3


@pytest.mark.parametrize("n_samples", [1, 160, 10_240, 10_241, 23_000])
@pytest.mark.parametrize("through", ["mel", "latent"])
def test_every_length_comes_back(codec, n_samples, through):
    seen = []
    result, error_db = round_trip(
        codec,
        sound(n_samples),
        through,
        window_s=0.64,
        on_window=lambda n_done, n: seen.append((n_done, n)),
    )
    assert result.shape == (n_samples,) and np.isfinite(result).all()
    assert error_db >= 0
    assert [n_done for n_done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_seams_cost_little(codec):
    waveform = sound(24_000)
    _, whole = round_trip(codec, waveform, "mel", window_s=1.5)
    _, in_windows = round_trip(codec, waveform, "mel", window_s=0.64)
    assert in_windows < whole + 0.5


def test_silence_comes_back_as_silence(codec):
    result, error_db = round_trip(codec, np.zeros(8_000, np.float32), "mel", window_s=1.0)
    assert np.abs(result).max() < 1e-3 and error_db < 6


def test_error_of_blocks_is_the_error_of_the_whole():
    spectrogram = LogMel()
    reference, other = normalize_peak(sound(32_000)), 0.5 * normalize_peak(sound(32_000))
    whole = mel_error_db(spectrogram(reference[None]), spectrogram(other[None]))
    in_blocks = clip_error_db(spectrogram, reference, other, block=8_000)
    assert whole == pytest.approx(6.02, abs=0.1)
    assert in_blocks == pytest.approx(whole, abs=0.05)
    assert clip_error_db(spectrogram, reference, reference, block=8_000) == 0
