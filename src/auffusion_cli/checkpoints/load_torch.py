"""The networks of a checkpoint folder as torch modules, in both published layouts.

Everything in a folder is untrusted: a network is built without memory and compared with the header
of its weight file (`meta`), then filled a tensor at a time (`weights`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auffusion_cli.checkpoints.families import TANGO, find_family
from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.meta import build, check_total, try_forward
from auffusion_cli.checkpoints.text_encoders import load_text_networks
from auffusion_cli.checkpoints.weights import (
    check_tensor,
    find_weights,
    load_weights,
    named_tensors,
    read_file,
    read_header,
)
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig, check_vocoder, fold_weight_norm
from auffusion_cli.device import choose_device, choose_dtype
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from diffusers import ModelMixin, UNet2DConditionModel

    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder

VOCODER_FILES = ("vocoder.safetensors", "vocoder.pt")


class TorchLoader:
    """`load.EngineLoader` of torch.

    Its methods raise a CheckpointError where a part is incomplete, damaged, unsafe, or does not fit
    the others.
    """

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        """Raises a UsageError where there is no such device or precision."""
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)

    def text(self, folder: Path, *, is_brief: bool = False, n_rows: int = 0) -> TorchNetworks:
        text_encoders, adapters = load_text_networks(folder, self.dtype)
        networks = TorchNetworks(text_encoders=text_encoders, adapters=adapters)
        return networks.to(self.device)

    def whole(self, folder: Path, text: TorchNetworks | None, *, vocoder: bool) -> TorchNetworks:
        if family := find_family(folder):
            from auffusion_cli.checkpoints.load_families import load_family

            return load_family(folder, family, self.device, self.dtype, vocoder=vocoder)
        # The UNet comes last: by then what the smaller parts needed for a moment is free again.
        text = text or self.text(folder)
        codec = load_codec_networks(folder, self.device, self.dtype, vocoder=vocoder)
        networks = TorchNetworks(
            unet=load_unet(folder, self.dtype, self.device),
            autoencoder=codec.autoencoder,
            text_encoders=text.text_encoders,
            adapters=text.adapters,
            vocoder=codec.vocoder,
        )
        _check_fit(folder, networks)
        return networks


def load_codec_networks(
    folder: Path, device: torch.device, dtype: torch.dtype, *, vocoder: bool
) -> TorchNetworks:
    """The autoencoder in `dtype`, and if `vocoder` the vocoder in float32."""
    autoencoder = load_autoencoder(folder / "vae", dtype)
    loaded = None
    if vocoder:
        loaded = load_vocoder(folder / "vocoder")
        check_vocoder(loaded.config)
    return TorchNetworks(autoencoder=autoencoder, vocoder=loaded).to(device)


def _check_fit(folder: Path, networks: TorchNetworks) -> None:
    """Raise a CheckpointError unless the parts agree on the sizes they share."""
    unet, sizes = networks.unet.config, networks.sizes
    n_channels = sizes.latent_channels
    if unet.in_channels != n_channels or unet.out_channels != n_channels:
        raise CheckpointError(
            f"{folder}: the autoencoder's latents have {n_channels} channels, but the UNet takes "
            f"{unet.in_channels} and gives {unet.out_channels}"
        )
    for i, width in enumerate(sizes.text_widths):
        adapter = None if networks.adapters is None else networks.adapters[i].proj
        takes = unet.cross_attention_dim if adapter is None else adapter.in_features
        if width != takes:
            taker = "UNet" if adapter is None else f"adapter {i}"
            raise CheckpointError(
                f"{folder}: text encoder {i} gives {width} channels, but the {taker} takes {takes}"
            )
        if adapter is not None and adapter.out_features != unet.cross_attention_dim:
            raise CheckpointError(
                f"{folder}: adapter {i} gives {adapter.out_features} channels, but the UNet's "
                f"cross-attention takes {unet.cross_attention_dim}"
            )


def load_autoencoder(
    folder: str | Path, dtype: torch.dtype = torch.float32
) -> KLAutoencoder | PatchAutoencoder:
    """The autoencoder of a folder, by the `_class_name` in its config.json, in evaluation mode.

    Raises:
        CheckpointError: the folder is incomplete or damaged, or its weights do not fit its config;
            names the file and where possible the tensor.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    config = read_json(config_path)
    network_class = _autoencoder_class(config, config_path)
    files = find_weights(folder, "diffusion_pytorch_model", dtype=dtype)
    header = read_header(files)
    network = build(lambda: network_class.from_config(config), len(header), config_path)
    check_autoencoder(network, config, config_path)
    expected = network.state_dict()
    for name in expected.keys() & header.keys():  # those of old files have other names
        check_tensor(name, header[name], expected[name])
    check_total(network, header, config_path)
    try:
        network, loaded = network_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant="fp16" if ".fp16" in files[0].name else None,
            use_safetensors=files[0].suffix == ".safetensors",
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises many kinds for a damaged or foreign file
        raise CheckpointError(
            f"{folder}: cannot load the autoencoder: {first_line(error)}"
        ) from error
    # diffusers leaves tensors that the file lacks at random values and says so only in its log.
    if loaded["missing_keys"]:
        raise CheckpointError(f"{folder}: the weights lack {min(loaded['missing_keys'])!r}")
    return _with_interface(network).eval()


def _autoencoder_class(config: dict[str, Any], config_path: Path) -> type[ModelMixin]:
    class_name = config.get("_class_name")
    if class_name == "AutoencoderKL":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if class_name == "PatchAutoencoder":
        from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder

        return PatchAutoencoder
    raise CheckpointError(
        f"{config_path}: _class_name is {str(class_name)[:60]!r}; it can be AutoencoderKL or "
        "PatchAutoencoder"
    )


def _with_interface(network: ModelMixin) -> KLAutoencoder | PatchAutoencoder:
    is_kl = type(network).__name__ == "AutoencoderKL"
    return KLAutoencoder(network) if is_kl else network


def check_autoencoder(network: ModelMixin, config: dict[str, Any], config_path: Path | str) -> None:
    """Raise a CheckpointError unless scale and shift are numbers and decoding gives an image."""
    scale, shift = config.get("scaling_factor", 1.0), config.get("shift_factor") or 0.0
    if not (_is_number(scale) and scale > 0 and _is_number(shift)):
        raise CheckpointError(
            f"{config_path}: scaling_factor is {str(scale)[:40]!r} and shift_factor "
            f"{str(shift)[:40]!r}; they must be numbers, the first above 0"
        )
    autoencoder = _with_interface(network)
    n_mels, f = config.get("n_mels", 256), autoencoder.downsample
    try_forward(
        lambda: autoencoder.decode(torch.empty(1, autoencoder.latent_channels, n_mels // f, 4)),
        (1, 3, n_mels, 4 * f),
        config_path,
    )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def load_vocoder(folder: str | Path, *, weight_norm: bool = False) -> HiFiGAN:
    """The HiFi-GAN of a folder: config.json and vocoder.safetensors or vocoder.pt; float32, eval.

    A pickled file is `{"generator": state_dict}` or the state dict itself. Weight norm is folded
    whichever way it was written; `weight_norm=True` puts it back, to train on.

    Raises:
        CheckpointError: the folder is not usable; names the file and where possible the tensor.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    try:
        config = HiFiGANConfig.from_dict(read_json(config_path))
    except CheckpointError as error:
        where = "" if error.message.startswith(str(config_path)) else f"{config_path}: "
        raise CheckpointError(where + error.message) from None
    path = next((folder / name for name in VOCODER_FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder}: no vocoder weights ({' or '.join(VOCODER_FILES)})")
    content = read_file(path)
    if isinstance(content, dict) and "generator" in content:
        content = content["generator"]
    weights = {name: tensor.float() for name, tensor in named_tensors(content, path).items()}
    weights = fold_weight_norm(weights, path)
    vocoder = build(lambda: HiFiGAN(config), len(weights), config_path)
    check_tensors(weights, vocoder.state_dict(), path)
    vocoder.load_state_dict(weights, assign=True)
    if weight_norm:
        vocoder.add_weight_norm()
    return vocoder.eval()


def check_tensors(weights: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Raise a CheckpointError unless names and shapes are exactly those of the vocoder."""
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"{path}: {name} is missing")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, "
                f"but config.json says {tuple(tensor.shape)}"
            )
    for name in weights:
        if name not in expected:
            raise CheckpointError(
                f"{path}: {name[:100]} has no place in the vocoder of config.json"
            )


def load_unet(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> UNet2DConditionModel:
    """The UNet, created without memory and filled a tensor at a time."""
    unet = empty_unet(folder, dtype)
    files = find_weights(folder / "unet", "diffusion_pytorch_model", dtype=dtype)
    load_weights(unet, files, dtype, device)
    return unet.eval()


def empty_unet(folder: Path, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """The UNet without its weights, for the names and sizes of its layers."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if find_family(folder) is TANGO:
        from auffusion_cli.checkpoints.load_tango import empty_tango_unet

        return empty_tango_unet(folder)
    config_path = folder / "unet" / "config.json"
    config = read_json(config_path)
    files = find_weights(folder / "unet", "diffusion_pytorch_model", dtype=dtype)
    unet = build(
        lambda: UNet2DConditionModel.from_config(config), len(read_header(files)), config_path
    )
    try_unet(unet, config_path)
    return unet


def try_unet(unet: UNet2DConditionModel, config_path: Path | str) -> None:
    """Raise a CheckpointError, which names `config_path`, where `unet` cannot denoise a latent."""
    width = unet.config.cross_attention_dim
    side = 2 ** len(unet.config.block_out_channels)
    try_forward(
        lambda: (
            unet(
                torch.empty(1, unet.config.in_channels, side, side),
                torch.empty(1),
                encoder_hidden_states=torch.empty(1, 1, width),
            ).sample
        ),
        (1, unet.config.out_channels, side, side),
        config_path,
    )
