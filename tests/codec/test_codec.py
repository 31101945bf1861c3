import pytest
import torch
from diffusers import AutoencoderKL

from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.image import log_mel_to_image
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig
from auffusion_cli.errors import CheckpointError


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
    return Codec(KLAutoencoder(vae), HiFiGAN(HiFiGANConfig(upsample_initial_channel=16))).eval()


@pytest.mark.parametrize("n_samples", [16_000, 15_999, 16_001, 161, 5])
def test_shapes(codec, n_samples):
    waveform = torch.rand(2, n_samples) - 0.5
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
    vocoder = HiFiGAN(HiFiGANConfig(upsample_initial_channel=16))
    codec = Codec(KLAutoencoder(AutoencoderKL(**channels, **blocks)), vocoder)
    assert codec.latent_shape(10.24) == (4, 32, 128)
    assert codec.width_multiple == 8


def test_the_level_does_not_matter(codec):
    waveform = torch.rand(1, 3_200) - 0.5
    torch.testing.assert_close(
        codec.encode(waveform), codec.encode(waveform / 10), atol=1e-4, rtol=1e-3
    )


@torch.no_grad()
def test_silence_fills_the_last_columns(codec):
    log_mel = codec.analyze(torch.rand(1, 480) - 0.5)
    image = torch.nn.functional.pad(log_mel_to_image(log_mel), (0, 1))
    torch.testing.assert_close(codec.encode_log_mel(log_mel), codec.autoencoder.encode(image))


def test_half_precision_autoencoder_keeps_the_rest_in_float32():
    autoencoder = PatchAutoencoder(refinement_channels=4, refinement_blocks=1).bfloat16()
    codec = Codec(autoencoder, HiFiGAN(HiFiGANConfig(upsample_initial_channel=16)))
    latent = codec.encode(torch.rand(1, 6_400) - 0.5)
    assert latent.dtype == torch.bfloat16
    assert codec.decode_log_mel(latent.float()).dtype == torch.float32
    assert codec.decode(latent.float()).dtype == torch.float32


def test_a_vocoder_for_other_spectrograms_is_refused(codec):
    vocoder = HiFiGAN(HiFiGANConfig(num_mels=80, upsample_initial_channel=16))
    with pytest.raises(CheckpointError, match="num_mels is 80"):
        Codec(codec.autoencoder, vocoder)
