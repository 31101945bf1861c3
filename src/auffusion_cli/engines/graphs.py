"""The graphs of a checkpoint: their files, beside the weights they point into, and their names of
inputs and outputs. No torch.

Networks that need no training (Griffin-Lim, tokens, the noise schedule) have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Signature:
    """A graph's file name, and the names that its inputs and outputs have."""

    file_name: str
    inputs: tuple[str, ...]
    output: str
    optional_inputs: tuple[str, ...] = ()


TEXT_ENCODER = Signature("model.onnx", ("token_ids",), "hidden_states", ("attention_mask",))
ADAPTER = Signature("model.onnx", ("hidden_states",), "text")
UNET = Signature("model.onnx", ("latents", "timestep", "text"), "prediction")
ENCODER = Signature("encoder.onnx", ("image",), "latents")
DECODER = Signature("decoder.onnx", ("latents",), "image")
TEXTURE = Signature("texture.onnx", ("image", "noise"), "texture")
VOCODER = Signature("model.onnx", ("log_mel",), "waveform")


@dataclass(frozen=True)
class PartFolders:
    """The folders of a checkpoint's networks."""

    text_encoders: tuple[Path, ...]
    adapters: tuple[Path, ...]
    """One for each text encoder, or none at all."""
    unet: Path
    vae: Path
    vocoder: Path | None
    """None where the sound is made by Griffin-Lim."""
    has_texture: bool
    """Whether the autoencoder predicts a texture."""

    def graphs(self) -> Iterator[tuple[Path, Signature]]:
        """(folder, signature) of each graph that a checkpoint of these parts must have."""
        for folder in self.text_encoders:
            yield folder, TEXT_ENCODER
        for folder in self.adapters:
            yield folder, ADAPTER
        yield self.vae, ENCODER
        yield self.vae, DECODER
        if self.has_texture:
            yield self.vae, TEXTURE
        if self.vocoder is not None:
            yield self.vocoder, VOCODER
        yield self.unet, UNET

    def missing(self) -> Path | None:
        """A graph that is not there; None where all of them are."""
        paths = (folder / signature.file_name for folder, signature in self.graphs())
        return next((path for path in paths if not path.is_file()), None)
