"""Small checkpoints that several test files share."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How quick a machine is decides no test: of the seconds of one that is busy nothing follows.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers and a checkpoint made by the original implementation."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """The golden checkpoint with a window of 1.28 s and two steps, so that a sound is quick."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    shutil.copytree(GOLDEN / "tiny-auffusion", folder)
    generation = {
        "duration_s": 1.0,
        "max_duration_s": 1.28,
        "steps": 2,
        "guidance_scale": 3.0,
        "scheduler": "ddim",
    }
    identity = {"format_version": 1, "name": "tiny", "generation": generation}
    (folder / "auffusion.json").write_text(json.dumps(identity))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """`tiny_checkpoint` on the CPU; tests that change it take a copy."""
    from auffusion_cli.checkpoints.load import load_model

    return load_model(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def quick_codec():
    """A codec that takes milliseconds, with latents of an eighth of the size."""
    import torch

    from auffusion_cli.codec.codec import Codec
    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
    from auffusion_cli.codec.tensor_image import log_mel_to_image
    from auffusion_cli.engines.torch_networks import TorchNetworks
    from auffusion_cli.signal.griffin_lim import GriffinLim

    torch.manual_seed(0)
    autoencoder = PatchAutoencoder(
        patch_size=8, space_to_depth=1, refinement_channels=4, refinement_blocks=1
    )
    networks = TorchNetworks(autoencoder=autoencoder.eval())
    codec = Codec(networks, GriffinLim(n_iterations=2))
    swells = torch.linspace(0.1, 1, 16000) * torch.randn(4, 16000)
    images = log_mel_to_image(torch.from_numpy(codec.analyze(swells.numpy())))
    autoencoder.fit(images[..., :96])
    return codec


@pytest.fixture(scope="session")
def wordy_model(tiny_model, quick_codec):
    """The tiny model's words, with a small codec and a UNet that listens to them: random."""
    import torch
    from diffusers import UNet2DConditionModel

    from model_parts import with_parts

    torch.manual_seed(0)
    autoencoder = quick_codec.networks.autoencoder
    channels = autoencoder.latent_channels
    unet = UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    ).eval()
    return with_parts(tiny_model, quick_codec.griffin_lim, unet=unet, autoencoder=autoencoder)
