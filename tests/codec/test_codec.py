import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.image import log_mel_to_image
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig, check_vocoder
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import CheckpointError


def codec_of(autoencoder, dtype=torch.float32) -> Codec:
    vocoder = HiFiGAN(HiFiGANConfig(upsample_initial_channel=16)).eval()
    return Codec(TorchNetworks(autoencoder=autoencoder.to(dtype).eval(), vocoder=vocoder))


def noise(*shape):
    return np.random.default_rng(0).random(shape, np.float32) - np.float32(0.5)


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return codec_of(KLAutoencoder(vae))


@pytest.mark.parametrize("n_samples", [16_000, 15_999, 16_001, 161, 5])
def test_shapes(codec, n_samples):
    waveform = noise(2, n_samples)
    latent = codec.encode(waveform)
    assert latent.shape == (2, *codec.latent_shape(n_samples / 16_000))
    assert codec.decode(latent).shape == (2, latent.shape[-1] * codec.width_multiple * 160)
    assert codec.decode(latent, n_samples).shape == (2, n_samples)


def test_published_sizes():
    channels = {"in_channels": 3, "out_channels": 3, "norm_num_groups": 1}
    blocks = {
        "block_out_channels": (1, 1, 1, 1),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    codec = codec_of(KLAutoencoder(AutoencoderKL(**channels, **blocks)))
    assert codec.latent_shape(10.24) == (4, 32, 128)
    assert codec.width_multiple == 8


def test_the_level_does_not_matter(codec):
    waveform = noise(1, 3_200)
    np.testing.assert_allclose(
        codec.encode(waveform), codec.encode(waveform / 10), atol=1e-4, rtol=1e-3
    )


def test_silence_fills_the_last_columns(codec):
    log_mel = codec.analyze(noise(1, 480))
    image = np.pad(log_mel_to_image(log_mel, codec.image_config), [(0, 0)] * 3 + [(0, 1)])
    expected = codec.networks.encode_image(image)
    np.testing.assert_array_equal(codec.encode_log_mel(log_mel), expected)


def test_half_precision_stays_behind_the_engine():
    autoencoder = PatchAutoencoder(refinement_channels=4, refinement_blocks=1)
    codec = codec_of(autoencoder, torch.bfloat16)
    assert codec.networks.dtype == "bf16"
    latent = codec.encode(noise(1, 6_400))
    for array in (latent, codec.decode_log_mel(latent), codec.decode(latent)):
        assert array.dtype == np.float32


def test_without_a_vocoder_the_sound_is_made_by_griffin_lim():
    codec = Codec(TorchNetworks(autoencoder=PatchAutoencoder(refinement_channels=4)))
    assert codec.vocoder_name == "griffin-lim"
    assert codec.vocode(np.zeros((1, 256, 5), np.float32)).shape == (1, 800)


def test_a_vocoder_for_other_spectrograms_is_refused():
    with pytest.raises(CheckpointError, match="num_mels is 80"):
        check_vocoder(HiFiGANConfig(num_mels=80, upsample_initial_channel=16))
