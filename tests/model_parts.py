"""A model with some of its networks exchanged."""

from dataclasses import replace

from auffusion_cli.codec.codec import Codec
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.engines.torch_networks import TorchNetworks

NAMES = ("unet", "autoencoder", "text_encoders", "adapters", "vocoder")


def with_parts(model, griffin_lim=None, **parts):
    """`model` with other `parts`, such as its `unet`; the model itself stays as it is."""
    networks = TorchNetworks(**{name: getattr(model.networks, name) for name in NAMES} | parts)
    return replace(
        model,
        networks=networks,
        codec=Codec(networks, griffin_lim),
        text=TextConditioner(model.text.encoders, networks),
    )
