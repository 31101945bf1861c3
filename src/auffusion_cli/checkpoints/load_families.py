"""The networks of other published systems, of the layout that diffusers gave them, by torch.

What is said of untrusted folders in `load_torch.py` holds here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auffusion_cli.checkpoints.families import (
    AUDIOLDM2,
    MEL_64,
    TANGO,
    Family,
    find_family,
)
from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.load_torch import check_tensors, load_autoencoder
from auffusion_cli.checkpoints.meta import build, try_forward
from auffusion_cli.checkpoints.text_encoders import load_text_encoder, without_dropped
from auffusion_cli.checkpoints.weights import (
    find_weights,
    load_weights,
    open_tensors,
    read_header,
)
from auffusion_cli.codec.vocoder import fold_weight_norm
from auffusion_cli.engines.mel_networks import (
    AudioLDM2Networks,
    AudioLDMNetworks,
    MelNetworks,
    TangoNetworks,
)
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import GPT2Model, PreTrainedModel, SpeechT5HifiGan

    from auffusion_cli.codec.autoencoder import KLAutoencoder

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEMS = ("model", "pytorch_model")
MAX_GENERATED = 64
"""Rows that AudioLDM 2's language model may be told to add; it was trained to add 8."""


def load_family(
    folder: Path, family: Family, device: torch.device, dtype: torch.dtype, *, vocoder: bool
) -> TorchNetworks:
    """The networks of `family` in `folder`; the vocoder in float32, if wanted.

    Raises:
        CheckpointError: a part is incomplete, damaged, unsafe, or does not fit the others.
    """
    if family is TANGO:
        from auffusion_cli.checkpoints.load_tango import load_tango

        return load_tango(folder, dtype, vocoder=vocoder).to(device)
    if family.codes_waveforms:
        from auffusion_cli.checkpoints.load_waves import load_waves

        return load_waves(folder, family, dtype).to(device)
    load = _load_audioldm2 if family is AUDIOLDM2 else _load_audioldm
    parts = {
        "autoencoder": load_mel_autoencoder(folder / "vae", dtype),
        "vocoder": load_speech_vocoder(folder / "vocoder") if vocoder else None,
    }
    return load(folder, dtype, parts).to(device)


def load_family_codec(
    folder: Path, device: torch.device, dtype: torch.dtype, *, vocoder: bool
) -> MelNetworks:
    """The autoencoder and the vocoder of a family of log-mels alone."""
    if find_family(folder) is TANGO:
        from auffusion_cli.checkpoints.load_tango import load_tango_codec

        return TangoNetworks(**load_tango_codec(folder, dtype, vocoder=vocoder)).to(device)
    networks = AudioLDMNetworks(
        autoencoder=load_mel_autoencoder(folder / "vae", dtype),
        vocoder=load_speech_vocoder(folder / "vocoder") if vocoder else None,
    )
    return networks.to(device)


def _load_audioldm(folder: Path, dtype: torch.dtype, parts: dict[str, Any]) -> AudioLDMNetworks:
    from diffusers import UNet2DConditionModel

    unet = empty_network(UNet2DConditionModel.from_config, folder / "unet", DIFFUSERS_STEM)
    clap = _load_clap(folder / "text_encoder", dtype)
    width = unet.config.projection_class_embeddings_input_dim
    if width != clap.config.projection_dim:
        raise CheckpointError(
            f"{folder}: the text encoder gives {clap.config.projection_dim} channels, but the UNet "
            f"takes {width}"
        )
    networks = AudioLDMNetworks(unet=unet, text_encoders=[clap], **parts)
    try_denoise(networks, folder / "unet" / "config.json", n_rows=1)
    load_weights(unet, find_weights(folder / "unet", DIFFUSERS_STEM, dtype=dtype), dtype)
    return networks


def _load_audioldm2(folder: Path, dtype: torch.dtype, parts: dict[str, Any]) -> AudioLDM2Networks:
    from diffusers import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel

    projection_folder = folder / "projection_model"
    projection = empty_network(
        AudioLDM2ProjectionModel.from_config, projection_folder, DIFFUSERS_STEM
    )
    load_weights(projection, find_weights(projection_folder, DIFFUSERS_STEM, dtype=dtype), dtype)
    networks = AudioLDM2Networks(
        unet=empty_network(
            AudioLDM2UNet2DConditionModel.from_config, folder / "unet", DIFFUSERS_STEM
        ),
        text_encoders=[
            _load_clap(folder / "text_encoder", dtype),
            load_text_encoder(folder / "text_encoder_2", dtype),
        ],
        projection=projection.eval(),
        language_model=_load_language_model(folder / "language_model", dtype),
        **parts,
    )
    _check_chain(folder, networks)
    try_denoise(networks, folder / "unet" / "config.json", n_rows=networks.n_generated + 2)
    load_weights(networks.unet, find_weights(folder / "unet", DIFFUSERS_STEM, dtype=dtype), dtype)
    return networks


def _check_chain(folder: Path, networks: AudioLDM2Networks) -> None:
    """Raise a CheckpointError unless the text networks of AudioLDM 2 fit one another."""
    clap, t5 = networks.text_encoders
    projection = networks.projection
    for part, given, taken in (
        ("CLAP", clap.config.projection_dim, projection.projection.in_features),
        ("T5", getattr(t5.config, "d_model", None), projection.projection_1.in_features),
        (
            "the projection",
            projection.projection.out_features,
            networks.language_model.config.n_embd,
        ),
    ):
        if given != taken:
            raise CheckpointError(
                f"{folder}: {part} gives {given} channels, but what follows takes {taken}"
            )


def empty_network(
    from_config: Callable[[dict[str, Any]], nn.Module], folder: Path, *stems: str
) -> nn.Module:
    """The network of the config.json in `folder` without its weights, which have one of `stems`."""
    config = read_json(folder / "config.json")
    n_tensors = len(read_header(find_weights(folder, *stems)))
    return build(lambda: from_config(config), n_tensors, folder / "config.json").eval()


def try_denoise(networks: MelNetworks, config_path: Path, *, n_rows: int) -> None:
    """Raise a CheckpointError unless the empty UNet takes a latent and `n_rows` of text."""
    n_channels = networks.autoencoder.latent_channels
    try_forward(
        lambda: networks.denoise(
            torch.empty(1, n_channels, 16, 16),
            torch.empty(1),
            torch.empty(1, n_rows, networks.text_width),
        ),
        (1, n_channels, 16, 16),
        config_path,
    )


def load_mel_autoencoder(folder: Path, dtype: torch.dtype) -> KLAutoencoder:
    """The autoencoder of log-mels in `folder`: one channel, as they are."""
    autoencoder = load_autoencoder(folder, dtype)
    if getattr(getattr(autoencoder, "vae", None), "config", {}).get("in_channels") != 1:
        raise CheckpointError(f"{folder / 'config.json'}: not an autoencoder of one channel")
    return autoencoder


def _load_clap(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    header = read_header(find_weights(folder, *TRANSFORMERS_STEMS, dtype=dtype))
    if not any("pooler.dense.weight" in name for name in header):
        raise CheckpointError(f"{folder}: its weights have no pooler, whose output is what counts")
    encoder = load_text_encoder(folder, dtype)
    if not hasattr(encoder, "text_projection"):
        raise CheckpointError(f"{folder / 'config.json'}: not a CLAP text encoder with projection")
    return encoder


def _load_language_model(folder: Path, dtype: torch.dtype) -> GPT2Model:
    """GPT-2 without its words: what comes before the choice of the next one."""
    from transformers import GPT2Config, GPT2Model

    model = empty_network(
        lambda config: GPT2Model(GPT2Config.from_dict(without_dropped(config))),
        folder,
        *TRANSFORMERS_STEMS,
    )
    n_generated = getattr(model.config, "max_new_tokens", None)
    if n_generated is not None and not (
        isinstance(n_generated, int) and 1 <= n_generated <= MAX_GENERATED
    ):
        raise CheckpointError(
            f"{folder / 'config.json'}: max_new_tokens is {str(n_generated)[:20]}; valid: whole "
            f"numbers from 1 to {MAX_GENERATED}"
        )
    files = find_weights(folder, *TRANSFORMERS_STEMS, dtype=dtype)
    load_weights(model, files, dtype, rename=_gpt2_name)
    return model


def _gpt2_name(name: str) -> str | None:
    """Old files hold the masks of causal attention; the head that chooses words is not needed."""
    if name.endswith((".attn.bias", ".attn.masked_bias")) or name.startswith("lm_head."):
        return None
    return name.removeprefix("transformer.")


def load_speech_vocoder(folder: Path) -> SpeechT5HifiGan:
    """The HiFi-GAN of a folder in transformers' layout; float32."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vocoder = empty_network(
        lambda config: SpeechT5HifiGan(SpeechT5HifiGanConfig.from_dict(without_dropped(config))),
        folder,
        *TRANSFORMERS_STEMS,
    )
    check_speech_vocoder(vocoder, folder / "config.json")
    files = find_weights(folder, *TRANSFORMERS_STEMS)
    weights = {name: tensor for path in files for name, tensor in open_tensors(path).items()}
    fill_vocoder(vocoder, weights, files[0])
    return vocoder


def fill_vocoder(vocoder: SpeechT5HifiGan, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load `weights` of the file `path`, whichever way their norms were written."""
    plain = fold_weight_norm({name: one.float() for name, one in weights.items()}, path)
    check_tensors(plain, vocoder.state_dict(), path)
    vocoder.load_state_dict(plain, assign=True)


def check_speech_vocoder(vocoder: SpeechT5HifiGan, config_path: Path) -> None:
    """Raise a CheckpointError where it was made for other log-mels than AudioLDM's."""
    config = vocoder.config
    n_frames, hop = 4, MEL_64.hop_length_samples
    if (config.model_in_dim, config.sampling_rate) != (MEL_64.n_mels, MEL_64.sample_rate_hz):
        raise CheckpointError(
            f"{config_path}: made for {str(config.model_in_dim)[:20]} bands at "
            f"{str(config.sampling_rate)[:20]} Hz, not {MEL_64.n_mels} at {MEL_64.sample_rate_hz}"
        )
    try_forward(
        lambda: vocoder(torch.empty(1, n_frames, MEL_64.n_mels))[:, : n_frames * hop],
        (1, n_frames * hop),
        config_path,
    )
