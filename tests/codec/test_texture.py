"""Texture: seeded, as strong as the autoencoder predicts, and nothing that latents carry."""

import numpy as np
import pytest
import torch

from auffusion_cli.codec.codec import Codec, decoding_noise, white_noise_texture
from auffusion_cli.codec.patch_autoencoder import MAX_TEXTURE_STRENGTH, PatchAutoencoder
from auffusion_cli.codec.tensor_image import log_mel_to_image
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import LogMel


def fixed_strength(codec: Codec, strength: float) -> None:
    """Make the autoencoder of `codec` predict this everywhere."""
    last = codec.networks.autoencoder.texture.layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 2 * torch.tensor(strength).log().item())


@pytest.fixture
def codec():
    torch.manual_seed(0)
    autoencoder = PatchAutoencoder(
        patch_size=8,
        space_to_depth=2,
        n_coefficients=6,
        refinement_channels=4,
        refinement_blocks=1,
        texture_channels=4,
    )
    codec = Codec(TorchNetworks(autoencoder=autoencoder), GriffinLim(n_iterations=2))
    swells = torch.linspace(0.1, 1, 16_000) * torch.randn(4, 16_000)
    log_mel = torch.from_numpy(codec.analyze(swells.numpy()))
    autoencoder.fit(log_mel_to_image(log_mel)[..., :96])
    fixed_strength(codec, 1.0)
    return codec


@pytest.fixture
def log_mel():
    """(2, 256, 99): smooth, and not a whole number of patches."""
    return np.broadcast_to(np.linspace(-6, 0, 99, dtype=np.float32), (2, 256, 99))


def test_the_seed_decides_and_the_batch_does_not(codec, log_mel):
    first, again, other = (codec.add_texture(log_mel, decoding_noise(s)) for s in (1, 1, 2))
    assert first.shape == log_mel.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    alone = codec.add_texture(log_mel[1:], decoding_noise(1))
    np.testing.assert_allclose(alone, first[1:], atol=1e-5)


def test_what_a_latent_carries_stays_as_it_is(codec, log_mel):
    textured = codec.add_texture(log_mel[..., :96], decoding_noise(1))
    before, after = (codec.encode_log_mel(each) for each in (log_mel[..., :96], textured))
    assert (textured - log_mel[..., :96]).std() > 0.1
    np.testing.assert_allclose(before, after, atol=1e-3, rtol=0)


def test_it_fluctuates_as_what_the_components_lose_of_white_noise(codec, log_mel):
    added = codec.add_texture(log_mel, decoding_noise(1)) - log_mel
    texture = white_noise_texture(LogMel(), Noise(5).normal((1, 32_000)))
    lost = codec.networks.autoencoder.lost(torch.from_numpy(texture)[:, None])
    assert added.std() == pytest.approx(lost.std().item(), rel=0.1)


def test_the_strength_is_the_one_predicted_up_to_a_limit(codec, log_mel):
    def added(strength):
        fixed_strength(codec, strength)
        return codec.add_texture(log_mel, decoding_noise(1)) - log_mel

    np.testing.assert_allclose(added(0.5), added(1.0) / 2, atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(added(9.0), added(MAX_TEXTURE_STRENGTH), atol=1e-5)


def test_nothing_falls_below_the_floor(codec):
    floor = codec.image_config.log_mel_min
    silence = np.full((1, 256, 40), floor, np.float32)
    assert codec.add_texture(silence, decoding_noise(1)).min() == np.float32(floor)


def test_an_autoencoder_without_it_leaves_the_log_mel(codec, log_mel):
    plain = Codec(TorchNetworks(autoencoder=PatchAutoencoder(refinement_channels=4)))
    assert plain.add_texture(log_mel, decoding_noise(1)) is log_mel


def test_a_long_sound_is_textured_in_blocks(codec, monkeypatch):
    monkeypatch.setattr("auffusion_cli.codec.codec.VOCODER_WINDOW_S", 0.5)  # 48 frames in 16s
    log_mel = np.zeros((1, 256, 120), np.float32)
    added = codec.add_texture(log_mel, decoding_noise(1))
    assert added.shape == log_mel.shape
    assert not np.array_equal(added[..., :48], added[..., 48:96])
    assert added[..., 96:].std() > 0.1


def test_it_is_part_of_what_decodes_a_latent(codec):
    latent = np.zeros((1, *codec.latent_shape(0.5)), np.float32)
    first, other = (codec.decode(latent, 8_000, decoding_noise(seed)) for seed in (1, 2))
    log_mel = codec.decode_log_mel(latent)
    noise = decoding_noise(1)
    by_hand = codec.vocode(codec.add_texture(log_mel, noise), noise)[:, :8_000]
    assert np.array_equal(first, by_hand)
    assert not np.array_equal(first, other)
