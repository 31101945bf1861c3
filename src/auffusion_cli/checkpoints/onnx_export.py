"""A checkpoint's networks -> graphs beside their weights, for `engines.onnx_networks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import (
    Condition,
    is_adapter_layout,
    part_folders,
    read_conditions,
    read_identity,
)
from auffusion_cli.checkpoints.load_torch import load_autoencoder, load_unet, load_vocoder
from auffusion_cli.checkpoints.onnx_graph import Subject, WrittenGraph, write_graph
from auffusion_cli.checkpoints.text_encoders import load_adapter, load_text_encoder
from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.engines import graphs
from auffusion_cli.engines.graph_file import read_graph
from auffusion_cli.engines.graphs import PartFolders
from auffusion_cli.errors import UsageError


def write_graphs(
    folder: Path, *, on_progress: Callable[[int, int], None] | None = None
) -> list[WrittenGraph]:
    """Write the graphs of the checkpoint in `folder` beside its weights, and check them.

    `on_progress` is called with the number of graphs that are done, and of all.

    Raises:
        UsageError: onnxscript, which writes graphs, is not installed.
        CheckpointError: a network cannot be expressed in ONNX, its weights are not in one
            safetensors file, or its graph computes something else than torch.
    """
    check_installed()
    makers = list(_makers(folder))
    written = []
    for i, make in enumerate(makers):
        if on_progress:
            on_progress(i, len(makers))
        for subject in make():  # one network at a time is in memory
            written.append(write_graph(subject, folder))
    if on_progress:
        on_progress(len(makers), len(makers))
    return written


def check_installed() -> None:
    """Raise a UsageError where what writes graphs is not installed."""
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"graphs are written with {error.name}, which is not installed",
            hint="pip install 'auffusion[onnx-export]' installs it.",
        ) from None


# --- what is written


def _makers(folder: Path) -> Iterator[Callable[[], Iterator[Subject]]]:
    """One function a network, which loads it and gives the graphs to write."""
    conditions = read_conditions(folder) if is_adapter_layout(folder) else []
    parts = part_folders(folder)
    for encoder in parts.text_encoders:
        yield lambda encoder=encoder: _text_encoder(encoder, pads_tokens=not conditions)
    for condition in conditions:
        yield lambda condition=condition: _adapter(folder, condition)
    yield lambda: _autoencoder(parts)
    if (folder / "vocoder").is_dir():
        yield lambda: _vocoder(folder / "vocoder")
    yield lambda: _unet(folder)


def _text_encoder(folder: Path, *, pads_tokens: bool) -> Iterator[Subject]:
    encoder = load_text_encoder(folder, torch.float32)
    n_words = encoder.get_input_embeddings().num_embeddings
    # Of the layouts only Stable Diffusion's pads tokens, and few of its encoders want to know.
    names = ["token_ids"]
    if pads_tokens and getattr(encoder.config, "use_attention_mask", None):
        names.append("attention_mask")

    def tokens(n_sounds: int, n_tokens: int) -> dict[str, Tensor]:
        shape = (n_sounds, n_tokens)
        ids = torch.randint(min(3, n_words - 1), n_words, shape, generator=_generator())
        return {name: ids if name == "token_ids" else torch.ones_like(ids) for name in names}

    axes = {0: _dimension("sounds"), 1: _dimension("tokens")}
    yield Subject(
        folder,
        graphs.TEXT_ENCODER,
        _TextEncoder(encoder),
        tokens(2, 7),
        dict.fromkeys(names, axes),
        (tokens(1, 5),),
    )


def _adapter(folder: Path, condition: Condition) -> Iterator[Subject]:
    def states(n_sounds: int, n_tokens: int) -> dict[str, Tensor]:
        shape = (n_sounds, condition.condition_max_length, condition.condition_dim)
        states = torch.randn(shape, generator=_generator())
        states[:, n_tokens:] = 0  # as text is padded
        return {"hidden_states": states}

    yield Subject(
        folder / condition.condition_adapter_name,
        graphs.ADAPTER,
        load_adapter(folder, condition, torch.float32),
        states(2, 7),
        {"hidden_states": {0: _dimension("sounds"), 1: _dimension("tokens")}},
        (states(1, 1),),
    )


def _autoencoder(parts: PartFolders) -> Iterator[Subject]:
    autoencoder, folder = load_autoencoder(parts.vae), parts.vae
    f, n_rows = autoencoder.downsample, SpectrogramConfig().n_mels
    width = _dimension("width")

    def image(n_sounds: int, n_columns: int) -> Tensor:
        shape = (n_sounds, 1, n_rows, n_columns * f)
        return torch.rand(shape, generator=_generator())

    def latents(n_sounds: int, n_columns: int) -> dict[str, Tensor]:
        shape = (n_sounds, autoencoder.latent_channels, n_rows // f, n_columns)
        return {"latents": torch.randn(shape, generator=_generator())}

    yield Subject(
        folder,
        graphs.ENCODER,
        _Encoder(autoencoder),
        {"image": image(2, 4)},
        {"image": {0: _dimension("sounds"), 3: f * width}},
        ({"image": image(1, 7)},),
    )
    yield Subject(
        folder,
        graphs.DECODER,
        _Decoder(autoencoder),
        latents(2, 4),
        {"latents": {0: _dimension("sounds"), 3: width}},
        (latents(1, 7),),
    )
    if parts.has_texture:
        yield Subject(
            folder,
            graphs.TEXTURE,
            _Texture(autoencoder),
            {"image": image(2, 4), "noise": image(1, 4)},
            {"image": {0: _dimension("sounds"), 3: f * width}, "noise": {3: f * width}},
            ({"image": image(1, 7), "noise": image(1, 7)},),
        )


def _vocoder(folder: Path) -> Iterator[Subject]:
    vocoder = load_vocoder(folder)

    def log_mel(n_sounds: int, n_frames: int) -> dict[str, Tensor]:
        shape = (n_sounds, vocoder.config.num_mels, n_frames)
        return {"log_mel": torch.randn(shape, generator=_generator())}

    yield Subject(
        folder,
        graphs.VOCODER,
        vocoder,
        log_mel(2, 24),
        {"log_mel": {0: _dimension("sounds"), 2: _dimension("frames")}},
        (log_mel(1, 31),),
    )


def _unet(folder: Path) -> Iterator[Subject]:
    unet = load_unet(folder, torch.float32)
    encoder = read_graph(folder / "vae", graphs.ENCODER)
    n_channels, n_rows = encoder.output[1:3]
    spectrogram = SpectrogramConfig()
    f = spectrogram.n_mels // n_rows
    n_frames = spectrogram.seconds_to_frames(read_identity(folder).defaults.max_duration_s)
    window = -(-n_frames // f)

    def inputs(n_sounds: int, n_columns: int, n_tokens: int) -> dict[str, Tensor]:
        generator = _generator()
        latents = torch.randn(n_sounds, n_channels, n_rows, n_columns, generator=generator)
        width = unet.config.cross_attention_dim
        text = torch.randn(n_sounds, n_tokens, width, generator=generator)
        return {"latents": latents, "timestep": torch.tensor(500.0), "text": text}

    dynamic = {
        "latents": {0: _dimension("sounds")},
        "timestep": {},
        "text": {0: _dimension("sounds"), 1: _dimension("tokens")},
    }
    # A width that cannot be halved as often as the UNet does it takes other steps: it stays as is.
    multiple = 2**unet.num_upsamplers
    is_dynamic = window % multiple == 0 and n_rows % multiple == 0 and window > multiple
    if is_dynamic:
        dynamic["latents"][3] = multiple * _dimension("width")
    others = (inputs(1, multiple if is_dynamic else window, 5),)
    yield Subject(folder / "unet", graphs.UNET, _UNet(unet), inputs(2, window, 7), dynamic, others)


class _TextEncoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.network = encoder

    def forward(self, token_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.network(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state


class _UNet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.network = unet

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return self.network(latents, timestep, encoder_hidden_states=text).sample


class _Encoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.network = autoencoder

    def forward(self, image: Tensor) -> Tensor:
        return self.network.encode(image.expand(-1, 3, -1, -1))


class _Decoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.network = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents)[:, :1]


class _Texture(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.network = autoencoder

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        return self.network.texture_strength(image) * self.network.lost(noise)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _dimension(name: str) -> Any:
    return torch.export.Dim(name, min=1, max=2**20)
