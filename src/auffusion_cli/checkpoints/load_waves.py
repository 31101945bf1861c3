"""The networks of systems that work on waveforms, of the layout that diffusers gave them, by torch.

What is said of untrusted folders in `load_torch.py` holds here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from auffusion_cli.checkpoints.families import STABLE_AUDIO, WAVES, Family
from auffusion_cli.checkpoints.load_families import DIFFUSERS_STEM, empty_network
from auffusion_cli.checkpoints.meta import try_forward
from auffusion_cli.checkpoints.text_encoders import load_text_encoder
from auffusion_cli.checkpoints.weights import find_weights, load_weights
from auffusion_cli.engines.wave_networks import StableAudioNetworks, WaveNetworks
from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import AutoencoderOobleck

TRIED_COLUMNS = 4
"""Of a latent, to try networks with."""


def load_waves(folder: Path, family: Family, dtype: torch.dtype) -> WaveNetworks:
    """All networks of a family of waveforms.

    Raises:
        CheckpointError: a part is incomplete, damaged, unsafe, or does not fit the others.
    """
    if family is STABLE_AUDIO:
        return load_stable_audio(folder, dtype)
    from auffusion_cli.checkpoints.load_stable_audio_3 import load_stable_audio_3

    return load_stable_audio_3(folder, dtype)


def load_stable_audio(folder: Path, dtype: torch.dtype) -> StableAudioNetworks:
    """All networks of a Stable Audio Open.

    Raises:
        CheckpointError: a part is incomplete, damaged, unsafe, or does not fit the others.
    """
    from diffusers import StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    # T5 leaves the range of float16.
    text_dtype = torch.float32 if dtype == torch.float16 else dtype
    transformer, projection = folder / "transformer", folder / "projection_model"
    networks = StableAudioNetworks(
        unet=empty_network(StableAudioDiTModel.from_config, transformer, DIFFUSERS_STEM),
        autoencoder=_load_oobleck(folder / "vae", dtype),
        text_encoders=[load_text_encoder(folder / "text_encoder", text_dtype)],
        projection=empty_network(
            StableAudioProjectionModel.from_config, projection, DIFFUSERS_STEM
        ),
    )
    _check_chain(folder, networks)
    try_denoise(networks, transformer / "config.json")
    for network, part in ((networks.projection, projection), (networks.unet, transformer)):
        load_weights(network, find_weights(part, DIFFUSERS_STEM, dtype=dtype), dtype)
    return networks


def _load_oobleck(folder: Path, dtype: torch.dtype) -> AutoencoderOobleck:
    from diffusers import AutoencoderOobleck

    autoencoder = empty_network(AutoencoderOobleck.from_config, folder, DIFFUSERS_STEM)
    check_waves(autoencoder, autoencoder.hop_length, folder / "config.json")
    config = autoencoder.config
    waveform = (1, config.audio_channels, TRIED_COLUMNS * autoencoder.hop_length)
    latents = (1, config.decoder_input_channels, TRIED_COLUMNS)
    try_forward(
        lambda: autoencoder.encode(torch.empty(waveform)).latent_dist.mode(),
        latents,
        folder / "config.json",
    )
    try_forward(
        lambda: autoencoder.decode(torch.empty(latents)).sample, waveform, folder / "config.json"
    )
    load_weights(autoencoder, find_weights(folder, DIFFUSERS_STEM, dtype=dtype), dtype)
    return autoencoder


def check_waves(autoencoder: torch.nn.Module, hop_samples: int, config_path: Path) -> None:
    """Raise a CheckpointError where its rate, channels or columns of `hop_samples` do not fit."""
    config, hop = autoencoder.config, WAVES.hop_length_samples
    if config.sampling_rate != WAVES.sample_rate_hz or hop_samples % hop:
        raise CheckpointError(
            f"{config_path}: a column of {hop_samples} samples at "
            f"{str(config.sampling_rate)[:20]} Hz; valid: multiples of {hop} at "
            f"{WAVES.sample_rate_hz} Hz"
        )
    if config.audio_channels not in (1, 2):
        raise CheckpointError(
            f"{config_path}: audio_channels is {str(config.audio_channels)[:20]}; valid: 1 and 2"
        )


def _check_chain(folder: Path, networks: StableAudioNetworks) -> None:
    (t5,), transformer = networks.text_encoders, networks.unet.config
    projection, n_channels = networks.projection.config, networks.sizes.latent_channels
    check_widths(
        folder,
        ("the text encoder", getattr(t5.config, "d_model", None), projection.text_encoder_dim),
        ("the projection", networks.text_width, transformer.cross_attention_input_dim),
        ("the projection, twice,", 2 * networks.text_width, transformer.global_states_input_dim),
        ("the transformer", transformer.out_channels, n_channels),
        ("the transformer", n_channels, networks.autoencoder.config.decoder_input_channels),
    )


def check_widths(folder: Path, *links: tuple[str, int, int]) -> None:
    """Raise a CheckpointError unless parts give what is taken: (part, channels, channels taken)."""
    for part, given, taken in links:
        if given != taken:
            raise CheckpointError(
                f"{folder}: {part} gives {given} channels, but what follows takes {taken}"
            )


def try_denoise(networks: WaveNetworks, config_path: Path) -> None:
    """Raise a CheckpointError unless the empty transformer takes latents and rows of text."""
    shape = (1, networks.sizes.latent_channels, TRIED_COLUMNS)
    try_forward(
        lambda: networks.denoise(
            torch.empty(shape), torch.empty(1), torch.empty(1, 5, networks.text_width)
        ),
        shape,
        config_path,
    )
