"""A model that is quick enough to edit many recordings."""

from types import SimpleNamespace

import pytest
import torch

from model_parts import with_parts


@pytest.fixture(scope="session")
def embedded():
    """The model that comes with the package, on the CPU."""
    from auffusion_cli.checkpoints.load import load_model

    return load_model("embedded", device="cpu")


class NoiseGuess(torch.nn.Module):
    """In place of a UNet: guesses that a fixed share of what it sees is noise."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, latents, timestep, encoder_hidden_states):
        words = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(sample=self.share * latents + 0.1 * words)


@pytest.fixture(scope="session")
def quick_model(tiny_model, quick_codec):
    """The tiny model's words and window, with a small codec and without a UNet."""
    return with_parts(
        tiny_model,
        quick_codec.griffin_lim,
        unet=NoiseGuess().eval(),
        autoencoder=quick_codec.networks.autoencoder,
    )
