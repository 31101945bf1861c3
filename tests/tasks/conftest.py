"""A model that is quick enough to edit many recordings."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch


class NoiseGuess(torch.nn.Module):
    """In place of a UNet: guesses that a fixed share of what it sees is noise."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, latents, timestep, encoder_hidden_states):
        words = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(sample=self.share * latents + 0.1 * words)


@pytest.fixture(scope="session")
def quick_model(tiny_model):
    """The tiny model's words and window, with a small codec and without a UNet."""
    from auffusion_cli.codec import Codec
    from auffusion_cli.image import log_mel_to_image
    from auffusion_cli.patch_autoencoder import PatchAutoencoder
    from auffusion_cli.vocoder import GriffinLim

    torch.manual_seed(0)
    autoencoder = PatchAutoencoder(
        patch_size=8, space_to_depth=1, refinement_channels=4, refinement_blocks=1
    )
    codec = Codec(autoencoder, GriffinLim(n_iterations=2)).eval()
    swells = torch.linspace(0.1, 1, 16000) * torch.randn(4, 16000)
    images = log_mel_to_image(codec.analyze(swells))
    autoencoder.fit(images[..., :96])
    return dataclasses.replace(tiny_model, codec=codec, unet=NoiseGuess().eval())
