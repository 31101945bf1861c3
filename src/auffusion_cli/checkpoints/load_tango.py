"""The networks of Tango's published layout, by torch.

`pytorch_model_main.bin` holds the UNet and Flan-T5's encoder, `pytorch_model_vae.bin` AudioLDM's
autoencoder by the names of latent diffusion's code, and its vocoder by HiFi-GAN's. The configs of
the UNet and the vocoder are in Tango's code, not in its repositories: what differs from one
checkpoint to the other is read off the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auffusion_cli.checkpoints.families import (
    MEL_64,
    TANGO_MAIN,
    TANGO_VAE,
    TANGO_VAE_CONFIG,
)
from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.load_families import check_speech_vocoder, fill_vocoder, try_denoise
from auffusion_cli.checkpoints.load_torch import check_autoencoder
from auffusion_cli.checkpoints.meta import build
from auffusion_cli.checkpoints.text_encoders import without_dropped
from auffusion_cli.checkpoints.weights import (
    Rename,
    TensorInfo,
    check_header,
    converted,
    find_weights,
    load_weights,
    open_tensors,
    read_header,
)
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.engines.mel_networks import TangoNetworks
from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import SpeechT5HifiGan, T5EncoderModel

N_LEVELS = 4
"""Of the UNet; that of Stable Diffusion 2.1 with another number of latent channels."""
HEAD_WIDTH = 64
UPSAMPLE_RATES = (5, 4, 2, 2, 2)
UPSAMPLE_KERNELS = (16, 16, 8, 4, 4)
"""Of the vocoder."""


def load_tango(folder: Path, dtype: torch.dtype, *, vocoder: bool) -> TangoNetworks:
    """All networks of a Tango or Tango 2; the vocoder in float32, if wanted.

    Raises:
        CheckpointError: a part is incomplete, damaged, unsafe, or does not fit the others.
    """
    files = find_weights(folder, TANGO_MAIN)
    header = read_header(files)
    # Flan-T5 leaves the range of float16.
    text_dtype = torch.float32 if dtype == torch.float16 else dtype
    unet = empty_tango_unet(folder)
    encoder = _load_text_encoder(folder, files, header, text_dtype)
    networks = TangoNetworks(
        unet=unet, text_encoders=[encoder], **load_tango_codec(folder, dtype, vocoder=vocoder)
    )
    try_denoise(networks, files[0], n_rows=2)
    load_weights(unet, files, dtype, rename=_within("unet."))
    return networks


def load_tango_codec(folder: Path, dtype: torch.dtype, *, vocoder: bool) -> dict[str, Any]:
    """The autoencoder, and the vocoder if wanted, as `TangoNetworks` takes them."""
    path, *_ = find_weights(folder, TANGO_VAE)
    tensors = open_tensors(path)
    return {
        "autoencoder": _load_autoencoder(folder / TANGO_VAE_CONFIG, tensors, path, dtype),
        "vocoder": _load_vocoder(tensors, path) if vocoder else None,
    }


def _within(prefix: str) -> Rename:
    return lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None


def _size(header: Mapping[str, TensorInfo | Tensor], name: str, axis: int, path: Path) -> int:
    """Of one axis of a tensor of the file `path`, which must be there."""
    if name not in header or len(header[name].shape) <= axis:
        raise CheckpointError(f"{path}: lacks the tensor {name!r}, or it is of another shape")
    return int(header[name].shape[axis])


def empty_tango_unet(folder: Path) -> UNet2DConditionModel:
    """The UNet without its weights."""
    from diffusers import UNet2DConditionModel

    files = find_weights(folder, TANGO_MAIN)
    header, path = read_header(files), files[0]
    if any(name.startswith("group_in.") for name in header):
        raise CheckpointError(f"{path}: a Tango on a UNet of images, which is not supported")
    levels = [f"unet.down_blocks.{i}.resnets.0.conv1.weight" for i in range(N_LEVELS)]
    widths = tuple(_size(header, name, 0, path) for name in levels)
    keys = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    n_channels = _size(header, "unet.conv_in.weight", 1, path)
    config = {
        "in_channels": n_channels,
        "out_channels": n_channels,
        "block_out_channels": widths,
        "attention_head_dim": tuple(max(width // HEAD_WIDTH, 1) for width in widths),
        "cross_attention_dim": _size(header, keys, 1, path),
        "use_linear_projection": True,
        "upcast_attention": True,
    }
    return build(lambda: UNet2DConditionModel.from_config(config), len(header), path).eval()


def _load_text_encoder(
    folder: Path, files: list[Path], header: Mapping[str, TensorInfo], dtype: torch.dtype
) -> T5EncoderModel:
    from transformers import T5Config, T5EncoderModel

    path = folder / "text_encoder" / "config.json"
    content = read_json(path)
    encoder = build(
        lambda: T5EncoderModel(T5Config.from_dict(without_dropped(content))), len(header), path
    )
    load_weights(encoder, files, dtype, rename=_within("text_encoder."))
    return encoder.eval()


def _load_autoencoder(
    config_path: Path, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype
) -> KLAutoencoder:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = _autoencoder_config(read_json(config_path), config_path)
    vae = build(lambda: AutoencoderKL.from_config(config), len(tensors), config_path)
    check_autoencoder(vae, config, config_path)
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    of_vae = {name: tensor for name, tensor in tensors.items() if name.startswith(parts)}
    renamed = convert_ldm_vae_checkpoint(of_vae, config)
    infos = {
        name: TensorInfo(path, tuple(one.shape), str(one.dtype), one.is_floating_point())
        for name, one in renamed.items()
    }
    check_header(infos, vae.state_dict())
    loaded = {
        name: converted(one, dtype, f"{path}: tensor {name!r}", copy=True)
        for name, one in renamed.items()
    }
    vae.load_state_dict(loaded, assign=True)
    return KLAutoencoder(vae).eval()


def _autoencoder_config(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """vae_config.json, of latent diffusion's code -> a config of diffusers' AutoencoderKL."""
    sizes = content.get("ddconfig")
    try:
        widths = [sizes["ch"] * multiple for multiple in sizes["ch_mult"]]
        config = {
            "in_channels": sizes["in_channels"],
            "out_channels": sizes["out_ch"],
            "latent_channels": sizes["z_channels"],
            "layers_per_block": sizes["num_res_blocks"],
            "block_out_channels": widths,
            "down_block_types": ["DownEncoderBlock2D"] * len(widths),
            "up_block_types": ["UpDecoderBlock2D"] * len(widths),
            "scaling_factor": content.get("scale_factor", 1.0),
            "n_mels": MEL_64.n_mels,
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an autoencoder's: {error}") from error
    if (config["in_channels"], content.get("subband", 1)) != (1, 1):
        raise CheckpointError(f"{path}: in_channels and subband must be 1")
    return config


def _load_vocoder(tensors: Mapping[str, Tensor], path: Path) -> SpeechT5HifiGan:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    of_vocoder = {
        name.removeprefix("vocoder.").replace("ups.", "upsampler."): tensor
        for name, tensor in tensors.items()
        if name.startswith("vocoder.")
    }
    config = SpeechT5HifiGanConfig(
        model_in_dim=MEL_64.n_mels,
        sampling_rate=MEL_64.sample_rate_hz,
        upsample_initial_channel=_size(tensors, "vocoder.conv_pre.bias", 0, path),
        upsample_rates=list(UPSAMPLE_RATES),
        upsample_kernel_sizes=list(UPSAMPLE_KERNELS),
        normalize_before=False,
    )
    vocoder = build(lambda: SpeechT5HifiGan(config), len(tensors), path).eval()
    check_speech_vocoder(vocoder, path)
    # Log-mels go in as they are.
    as_is = {"mean": torch.zeros(MEL_64.n_mels), "scale": torch.ones(MEL_64.n_mels)}
    fill_vocoder(vocoder, of_vocoder | as_is, path)
    return vocoder
