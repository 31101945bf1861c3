"""The networks of Stable Audio 3, of the layouts of diffusers and of Stability AI, by torch.

Stability AI publishes `model.safetensors`, with all networks but T5Gemma's under the names of its
own code, `model_config.json` and `t5gemma-b-b-ul2/`. What the config does not say is read off the
weights. What is said of untrusted folders in `load_torch.py` holds here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel, StableAudio3DurationEmbedder
from torch import Tensor, nn

from auffusion_cli.checkpoints.families import STABILITY_CONFIG, STABILITY_STEM, T5GEMMA
from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.load_families import DIFFUSERS_STEM, empty_network
from auffusion_cli.checkpoints.load_waves import (
    TRIED_COLUMNS,
    check_waves,
    check_widths,
    try_denoise,
)
from auffusion_cli.checkpoints.meta import build, try_forward
from auffusion_cli.checkpoints.text_encoders import load_text_encoder
from auffusion_cli.checkpoints.weights import (
    TensorInfo,
    find_weights,
    load_weights,
    read_header,
)
from auffusion_cli.codec.same import SAME, ChunkedBlock
from auffusion_cli.engines.wave_networks import StableAudio3Networks
from auffusion_cli.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PUBLISHED_CHUNK = 32
"""Patches of a chunk of SAME-S, and the one number of them that is read."""
QKV_ORDER = (0, 3, 1, 4, 2)
"""Of differential attention: q, k, v, q2, k2 in Stability AI's code; q, q2, k, k2, v here."""
PADDING = "conditioner.conditioners.prompt.padding_embedding"
UNET, VAE = "model.model.", "pretransform.model."
DURATION = "conditioner.conditioners.seconds_total.embedder.embedding.1."
UNUSED = re.compile(r"pretransform\.model\.(?:.*\.rope\.inv_freq|bottleneck\.noise_scaling_factor)")
"""Tensors that follow from the sizes, or that only training takes."""
IN_BLOCKS = (
    ("pre_norm.", "norm_attn."),
    ("ff_norm.", "norm_ff."),
    ("self_attn.", "attn."),
)
"""Names within a block of the autoencoder; of it alone."""


def load_stable_audio_3(folder: Path, dtype: torch.dtype) -> StableAudio3Networks:
    """All networks of a Stable Audio 3, of either layout.

    Raises:
        CheckpointError: a part is incomplete, damaged, unsafe, or does not fit the others.
    """
    is_published = (folder / T5GEMMA).is_dir()
    load = _load_published if is_published else _load_diffusers
    # Gemma leaves the range of float16.
    text_dtype = torch.float32 if dtype == torch.float16 else dtype
    t5gemma = load_text_encoder(folder / (T5GEMMA if is_published else "text_encoder"), text_dtype)
    return load(folder, t5gemma, dtype)


def _load_diffusers(
    folder: Path, t5gemma: PreTrainedModel, dtype: torch.dtype
) -> StableAudio3Networks:
    vae, unet, duration = (folder / name for name in ("vae", "transformer", "duration_embedder"))
    autoencoder = _checked(
        empty_network(AutoencoderSAME.from_config, vae, DIFFUSERS_STEM), vae / "config.json"
    )
    networks = StableAudio3Networks(
        unet=empty_network(StableAudio3DiTModel.from_config, unet, DIFFUSERS_STEM),
        autoencoder=autoencoder,
        text_encoders=[t5gemma],
        duration=empty_network(StableAudio3DurationEmbedder.from_config, duration, DIFFUSERS_STEM),
    )
    _check_chain(folder, networks)
    try_denoise(networks, unet / "config.json")
    for network, part in ((autoencoder.network, vae), (networks.unet, unet)):
        load_weights(network, find_weights(part, DIFFUSERS_STEM, dtype=dtype), dtype)
    load_weights(networks.duration, find_weights(duration, DIFFUSERS_STEM), torch.float32)
    _set_frequencies(networks)
    return networks


def _load_published(
    folder: Path, t5gemma: PreTrainedModel, dtype: torch.dtype
) -> StableAudio3Networks:
    config_path, files = folder / STABILITY_CONFIG, find_weights(folder, STABILITY_STEM)
    header = read_header(files)
    _check_names(header)
    config = _read_config(config_path)
    n_tensors = len(header)
    autoencoder = _checked(
        build(lambda: _empty_same(config), n_tensors, config_path).eval(), config_path
    )
    sizes = _unet_sizes(header, files[0])
    networks = StableAudio3Networks(
        unet=build(lambda: StableAudio3DiTModel(**sizes), n_tensors, config_path).eval(),
        autoencoder=autoencoder,
        text_encoders=[t5gemma],
        duration=_empty_duration(header, config, config_path).eval(),
    )
    _check_chain(folder, networks)
    try_denoise(networks, config_path)
    load_weights(networks.unet, files, dtype, rename=unet_name)
    load_weights(autoencoder.network, files, dtype, rename=vae_name)
    # The frequencies of the duration are not among the weights.
    load_weights(networks.duration.linear, files, torch.float32, rename=_within(DURATION))
    for network in (networks.unet, autoencoder.network):
        _order_differential(network)
    _set_frequencies(networks)
    return networks


def _checked(network: AutoencoderSAME, config_path: Path) -> SAME:
    """The empty `network`, which works and fits the program."""
    check_waves(network, network.downsampling_ratio, config_path)
    autoencoder, config = SAME(network), network.config
    waveform = (1, config.audio_channels, TRIED_COLUMNS * autoencoder.hop_samples)
    latents = (1, config.latent_dim, TRIED_COLUMNS)
    try_forward(lambda: network.encode(torch.empty(waveform)).latents, latents, config_path)
    try_forward(lambda: network.decode(torch.empty(latents)).sample, waveform, config_path)
    return autoencoder


def _check_chain(folder: Path, networks: StableAudio3Networks) -> None:
    (t5gemma,), unet, width = networks.text_encoders, networks.unet.config, networks.text_width
    n_channels = networks.latent_channels
    encoder = getattr(t5gemma.config, "encoder", None)
    check_widths(
        folder,
        ("the text encoder", getattr(encoder, "hidden_size", None), width),
        ("the duration", networks.duration.config.output_dim, width),
        ("the duration", networks.duration.config.output_dim, unet.global_cond_dim),
        ("the transformer", n_channels, networks.autoencoder.config.latent_dim),
        ("the mask with the latents", 1 + n_channels, unet.local_add_cond_dim),
    )


def _set_frequencies(networks: StableAudio3Networks) -> None:
    """Compute the frequencies of positions and of the duration, which no file needs to hold.

    In float32: 16 bits lose more of them than a turn.
    """
    duration = networks.duration
    duration.freqs = StableAudio3DurationEmbedder.from_config(duration.config).freqs
    for network in (networks.unet, networks.autoencoder):
        for module in network.modules():
            if isinstance(getattr(module, "inv_freq", None), Tensor):
                n = len(module.inv_freq)
                module.inv_freq = 10_000.0 ** -(torch.arange(n, dtype=torch.float32) / n)


# --- Stability AI's layout


def _read_config(path: Path) -> dict[str, Any]:
    """model_config.json, of which what cannot be done is refused."""
    config = read_json(path)
    try:
        model = config["model"]
        vae = model["pretransform"]["config"]
        parts = {"encoder": vae["encoder"]["config"], "decoder": vae["decoder"]["config"]}
        fixed = {
            "diffusion.type": (model["diffusion"].get("type"), "dit"),
            "diffusion.config.timestep_features_logsnr": (
                model["diffusion"]["config"].get("timestep_features_logsnr", False),
                False,
            ),
            "pretransform.scale": (model["pretransform"].get("scale", 1.0), 1.0),
        }
        for name, part in parts.items():
            fixed[f"{name}: number of strides"] = (len(part["strides"]), 1)
            fixed[f"{name}.dyt"] = (part.get("dyt", True), True)
            fixed[f"{name}.variable_stride"] = (part.get("variable_stride"), True)
            if part.get("sliding_window") is None:
                fixed[f"{name}.chunk_size"] = (part.get("chunk_size"), PUBLISHED_CHUNK)
                fixed[f"{name}.chunk_midpoint_shift"] = (part.get("chunk_midpoint_shift"), True)
                fixed[f"{name}: chunk of strides"] = (
                    PUBLISHED_CHUNK / part["strides"][0],
                    ChunkedBlock.latents_per_chunk,
                )
            else:
                left, right = part["sliding_window"]
                fixed[f"{name}.sliding_window"] = (right, left)
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: not that of a Stable Audio 3: {type(error).__name__}: {error}"
        ) from error
    for name, (found, valid) in fixed.items():
        if found != valid:
            raise CheckpointError(f"{path}: {name} is {str(found)[:40]}; valid: {valid}")
    return config


def _empty_same(config: Mapping[str, Any]) -> AutoencoderSAME:
    vae = config["model"]["pretransform"]["config"]
    encoder, decoder = (vae[part]["config"] for part in ("encoder", "decoder"))
    (stride,), (depth,), (multiple,) = (
        encoder[name] for name in ("strides", "transformer_depths", "c_mults")
    )
    window = encoder.get("sliding_window")
    network = AutoencoderSAME(
        audio_channels=vae["io_channels"],
        patch_size=vae["downsampling_ratio"] // stride,
        encoder_channels=encoder["channels"],
        encoder_c_mults=(multiple,),
        encoder_strides=(stride,),
        encoder_transformer_depths=(depth,),
        latent_dim=vae["latent_dim"],
        use_differential_attention=encoder.get("differential", True),
        dim_heads=encoder.get("dim_heads", 128),
        ff_mult=encoder.get("ff_mult", 3),
        sliding_window=1 if window is None else window[0],
        encoder_sinusoidal_blocks=tuple(encoder.get("sinusoidal_blocks", (0,))),
        decoder_sinusoidal_blocks=tuple(decoder.get("sinusoidal_blocks", (0,))),
        sampling_rate=config["sample_rate"],
    )
    if window is None:
        for part, side in ((network.encoder, encoder), (network.decoder, decoder)):
            (block,) = part.blocks
            part.blocks = nn.ModuleList(
                [
                    ChunkedBlock(
                        in_channels=block.in_channels,
                        out_channels=block.out_channels,
                        stride=stride,
                        mode=block.mode,
                        transformer_depth=depth,
                        dim_heads=network.config.dim_heads,
                        use_differential=network.config.use_differential_attention,
                        ff_mult=network.config.ff_mult,
                        sinusoidal_blocks=next(iter(side.get("sinusoidal_blocks", (0,)))),
                        mapping_kernel=3 if side.get("conv_mapping") else 1,
                    )
                ]
            )
    return network


def _unet_sizes(header: Mapping[str, TensorInfo], path: Path) -> dict[str, Any]:
    """The config of diffusers' transformer; how many of what there are is read off the weights."""

    def size(name: str, axis: int) -> int:
        info = header.get(UNET + name)
        if info is None or len(info.shape) <= axis or not info.shape[axis]:
            raise CheckpointError(
                f"{path}: lacks the tensor {UNET + name!r}, or it is of another shape"
            )
        return info.shape[axis]

    layer = "transformer.layers.0."
    width = size("transformer.project_in.weight", 0)
    numbers = re.compile(rf"{re.escape(UNET)}transformer\.layers\.(\d{{1,4}})\.")
    return {
        "io_channels": size("preprocess_conv.weight", 0),
        "embed_dim": width,
        "depth": len({found[1] for name in header if (found := numbers.match(name))}),
        "num_heads": width // size(f"{layer}self_attn.q_norm.gamma", 0),
        "cond_token_dim": size("to_cond_embed.0.weight", 1),
        "global_cond_dim": size("to_global_embed.0.weight", 1),
        "local_add_cond_dim": size(f"{layer}to_local_embed.0.weight", 1),
        "timestep_features_dim": size("to_timestep_embed.0.weight", 1),
        "ff_mult": size(f"{layer}ff.ff.2.weight", 1) / width,
        "num_memory_tokens": size("transformer.memory_tokens", 0),
        "use_differential_attention": size(f"{layer}self_attn.to_qkv.weight", 0) == 5 * width,
    }


def _empty_duration(
    header: Mapping[str, TensorInfo], config: Mapping[str, Any], path: Path
) -> StableAudio3DurationEmbedder:
    """With its frequencies."""
    weight = header.get(f"{DURATION}weight")
    try:
        (bounds,) = (
            one["config"]
            for one in config["model"]["conditioning"]["configs"]
            if one["id"] == "seconds_total"
        )
        lowest, highest = float(bounds["min_val"]), float(bounds["max_val"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: says nothing of seconds_total: {error}") from error
    if weight is None or len(weight.shape) != 2 or not lowest < highest:
        raise CheckpointError(f"{path}: seconds_total has no range, or no weights")
    n_out, n_features = weight.shape
    return StableAudio3DurationEmbedder(
        output_dim=n_out, fourier_dim=n_features, min_val=lowest, max_val=highest
    )


def _check_names(header: Mapping[str, TensorInfo]) -> None:
    """Raise a CheckpointError for a tensor that no network takes."""
    takers: tuple[Callable[[str], str | None], ...] = (unet_name, vae_name, _within(DURATION))
    for name, info in header.items():
        if not UNUSED.fullmatch(name) and all(taker(name) is None for taker in takers):
            raise CheckpointError(
                f"{info.path}: tensor {name[:100]!r} is not known in a Stable Audio 3"
            )


def _within(prefix: str) -> Callable[[str], str | None]:
    return lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None


def unet_name(name: str) -> str | None:
    """Of the transformer in diffusers."""
    if name == PADDING:
        return "prompt_padding_embedding"
    if not name.startswith(UNET):
        return None
    own = name.removeprefix(UNET).removeprefix("transformer.")
    own = re.sub(r"^layers\.", "transformer_blocks.", own)
    return _feed_forward(re.sub(r"^project_(in|out)\.", r"proj_\1.", own))


def vae_name(name: str) -> str | None:
    """Of the autoencoder in diffusers, which has one block on either side."""
    if not name.startswith(VAE) or UNUSED.fullmatch(name):
        return None
    own = name.removeprefix(VAE)
    own = own.replace("bottleneck.scaling_factor", "bottleneck.scale")
    # Between them layers without weights turn axes around.
    own = re.sub(r"^encoder\.layers\.2\.|^decoder\.layers\.1\.", _proj, own)
    own = re.sub(r"^encoder\.layers\.0\.|^decoder\.layers\.3\.", _block, own)
    if ".transformers." in own:
        for theirs, ours in IN_BLOCKS:
            own = own.replace(f".{theirs}", f".{ours}", 1)
    return _feed_forward(own)


def _proj(found: re.Match[str]) -> str:
    return f"{found[0][:7]}.proj."


def _block(found: re.Match[str]) -> str:
    return f"{found[0][:7]}.blocks.0."


def _feed_forward(name: str) -> str:
    return name.replace(".ff.ff.0.proj.", ".ff.proj_in.").replace(".ff.ff.2.", ".ff.proj_out.")


def _order_differential(network: nn.Module) -> None:
    """Put the rows of differential self-attention in the order of diffusers."""
    for module in network.modules():
        if getattr(module, "use_differential", False) and hasattr(module, "to_qkv"):
            weight = module.to_qkv.weight
            parts = weight.data.chunk(len(QKV_ORDER))
            weight.data = torch.cat([parts[i] for i in QKV_ORDER])
