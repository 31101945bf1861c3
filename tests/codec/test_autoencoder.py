import json

import pytest
import torch
from diffusers import AutoencoderKL

from auffusion_cli.checkpoints.load_torch import load_autoencoder
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.errors import CheckpointError


def tiny_vae(n_channels: int = 3, **config) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=n_channels,
        out_channels=n_channels,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        **config,
    ).eval()


@pytest.fixture
def folder(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@torch.no_grad()
def test_three_channels_equal_stable_diffusions_own_path():
    vae = tiny_vae(scaling_factor=0.3)
    autoencoder = KLAutoencoder(vae)
    image = torch.rand(2, 3, 16, 32)
    latent = autoencoder.encode(image)
    torch.testing.assert_close(latent, vae.encode(image * 2 - 1).latent_dist.mean * 0.3)
    expected = (vae.decode(latent / 0.3).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(autoencoder.decode(latent), expected)


@torch.no_grad()
@pytest.mark.parametrize(("n_channels", "patch"), [(1, 1), (3, 1), (4, 2), (16, 4), (64, 8)])
def test_shapes_follow_downsample(n_channels, patch):
    autoencoder = KLAutoencoder(tiny_vae(n_channels))
    assert autoencoder.downsample == 2 * patch
    image = torch.rand(1, 1, 32, 64).expand(-1, 3, -1, -1)
    latent = autoencoder.encode(image)
    assert latent.shape == (1, 4, 32 // (2 * patch), 64 // (2 * patch))
    decoded = autoencoder.decode(latent)
    assert decoded.shape == image.shape
    assert decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(
        autoencoder.output_to_image(autoencoder.image_to_input(image)), image
    )


def test_other_channel_counts_are_refused():
    with pytest.raises(CheckpointError, match="in_channels is 2"):
        KLAutoencoder(tiny_vae(2))


@torch.no_grad()
def test_loads_what_diffusers_saved(folder):
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(
        load_autoencoder(folder).encode(image), KLAutoencoder(tiny_vae()).encode(image)
    )
    assert load_autoencoder(folder, torch.bfloat16).vae.dtype == torch.bfloat16


@torch.no_grad()
def test_loads_pickled_and_half_precision_files(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "bin", safe_serialization=False)
    tiny_vae().half().save_pretrained(tmp_path / "fp16", variant="fp16")
    image = torch.rand(1, 3, 8, 8)
    expected = KLAutoencoder(tiny_vae()).encode(image)
    torch.testing.assert_close(load_autoencoder(tmp_path / "bin").encode(image), expected)
    half = load_autoencoder(tmp_path / "fp16").encode(image)
    torch.testing.assert_close(half, expected, atol=1e-3, rtol=1e-2)


def test_missing_config_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_autoencoder(tmp_path)


def test_unknown_class_is_named(folder):
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(CheckpointError, match="VQModel"):
        load_autoencoder(folder)


def test_truncated_weights_are_named(folder):
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="vae"):
        load_autoencoder(folder)


def test_mismatched_and_missing_tensors_are_named(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({**weights, "decoder.conv_in.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"decoder\.conv_in\.weight"):
        load_autoencoder(folder)
    del weights["decoder.conv_in.bias"]
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"decoder\.conv_in\.bias"):
        load_autoencoder(folder)
