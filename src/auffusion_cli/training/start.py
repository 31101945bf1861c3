"""The model that the diffusion stage trains, put together from its parts.

`diffusion.init_from` says where the UNet starts, and gives whatever is not named beside it; without
it the UNet is fresh. Every other part is named by checkpoint name, Hub id or folder.
"""

from __future__ import annotations

import inspect
import reprlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel

from auffusion_cli.checkpoints.download import resolve
from auffusion_cli.checkpoints.layout import (
    check_defaults,
    choose_vocoder,
    is_adapter_layout,
    read_conditions,
    read_credits,
    read_identity,
)
from auffusion_cli.checkpoints.load_torch import (
    load_autoencoder,
    load_unet,
    load_vocoder,
    try_unet,
)
from auffusion_cli.checkpoints.meta import MAX_SIZE
from auffusion_cli.checkpoints.names import refuse_family
from auffusion_cli.checkpoints.schedule import check_scheduler_config, read_scheduler_config
from auffusion_cli.checkpoints.text import (
    count_positions,
    load_text,
    load_tokenizer,
    text_config,
)
from auffusion_cli.checkpoints.text_encoders import (
    load_adapter,
    load_text_encoder,
    load_text_networks,
)
from auffusion_cli.checkpoints.vocabulary import load_vocabulary
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.vocoder import HiFiGAN, check_vocoder
from auffusion_cli.config import SCHEDULERS, GenerationDefaults
from auffusion_cli.diffusion.adapter import ConditionAdapter
from auffusion_cli.diffusion.text import TextConditioner, TextEncoder
from auffusion_cli.diffusion.vocabulary import Vocabulary
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.model import Model
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.training.diffusion_config import (
    FIRST_SCHEDULE,
    DiffusionConfig,
    TextEncoderConfig,
)
from auffusion_cli.training.parts import (
    as_setting,
    build_network,
    find_folder,
    part_folder,
    public_name,
    text_encoder_folders,
)

ZERO_SNR = "rescale_betas_zero_snr"


@dataclass(frozen=True)
class _Start:
    """The checkpoint of `init_from`, as its configs tell; from scratch the paper's."""

    folder: Path | None
    licence: str | None
    defaults: GenerationDefaults
    schedule: dict[str, Any]


def build_model(config: DiffusionConfig, device: torch.device, window_s: float) -> Model:
    """The model to train on windows of `window_s`: UNet of a checkpoint or fresh, and its parts.

    Raises:
        UsageError: parts are not named or do not fit, or a setting is impossible.
        CheckpointError: a part cannot be loaded or fetched.
    """
    start = _read_start(config)
    schedule = _schedule(config, start)
    defaults = _defaults(config, start, window_s, schedule)
    autoencoder, vocoder = _load_autoencoder(config, start), _load_vocoder(config, start)
    defaults = _with_vocoder(config, defaults, is_trained=vocoder is not None)
    latent_shape = Codec(TorchNetworks(autoencoder=autoencoder)).latent_shape(window_s)
    unet = _load_unet(config, start, latent_shape)
    encoders, text_networks, adapters = _load_text(config, start, unet.config.cross_attention_dim)
    networks = TorchNetworks(
        unet=unet,
        autoencoder=autoencoder,
        text_encoders=text_networks,
        adapters=adapters,
        vocoder=vocoder,
    ).to(device)
    return Model(
        name=config.name,
        revision=None,
        licence=config.licence or start.licence,
        networks=networks,
        codec=Codec(networks),
        text=TextConditioner(encoders, networks),
        scheduler_config=schedule,
        defaults=defaults,
        credits=None if start.folder is None else read_credits(start.folder),
    )


def vocabulary_of_start(config: DiffusionConfig) -> Vocabulary | None:
    """The wordings that `init_from` states; None where it states none."""
    return load_vocabulary(resolve(config.init_from).folder)


def _read_start(config: DiffusionConfig) -> _Start:
    if config.init_from is None:
        if config.autoencoder is None or not config.text_encoders:
            raise UsageError(
                "diffusion: training from scratch needs diffusion.autoencoder and "
                "diffusion.text_encoders",
                hint="Or name a checkpoint to start from: diffusion.init_from.",
            )
        return _Start(None, None, GenerationDefaults(), FIRST_SCHEDULE)
    refuse_family(config.init_from, "training")
    checkpoint = resolve(config.init_from)
    identity = read_identity(checkpoint.folder)
    return _Start(
        checkpoint.folder,
        identity.licence or checkpoint.licence,
        identity.defaults,
        read_scheduler_config(checkpoint.folder),
    )


# Schedule and defaults ---------------------------------------------------------------------------


def _schedule(config: DiffusionConfig, start: _Start) -> dict[str, Any]:
    """The noise schedule, checked: diffusers ignores unknown keys."""
    classes = [getattr(diffusers, name) for name in SCHEDULERS.values()]
    known = {name for kind in classes for name in inspect.signature(kind).parameters}
    for key in config.scheduler:
        if key not in known:
            raise UsageError(
                f"diffusion.scheduler: unknown key {key!r}",
                hint=f"Valid: {', '.join(sorted(known))}.",
            )
    schedule = start.schedule | config.scheduler
    with as_setting():
        check_scheduler_config(schedule, "diffusion.scheduler")
    if schedule.get(ZERO_SNR) and schedule.get("prediction_type") != "v_prediction":
        raise UsageError(
            f"diffusion.scheduler.{ZERO_SNR}: needs prediction_type: v_prediction, since without "
            "signal the noise says nothing of it"
        )
    return schedule


def _defaults(
    config: DiffusionConfig, start: _Start, window_s: float, schedule: dict[str, Any]
) -> GenerationDefaults:
    """The defaults of `generate` with the result, whose window is the trained one."""
    asked, inherited = config.generation, start.defaults
    if asked.max_duration_s not in (None, window_s):
        raise UsageError(
            f"diffusion.generation.max_duration_s: {asked.max_duration_s:g} s is not the window "
            f"that is trained, scenes.duration_s: {window_s:g} s"
        )
    if start.folder is not None and asked.max_duration_s is None:
        _compare_windows(config.init_from, inherited.max_duration_s, window_s)
    inherited = replace(
        inherited,
        max_duration_s=window_s,
        duration_s=min(inherited.duration_s, window_s),
        # Nobody has tried several of another window.
        windows_at_once=inherited.windows_at_once if inherited.max_duration_s == window_s else 1,
    )
    defaults = asked.over(inherited)
    if schedule.get(ZERO_SNR) and defaults.scheduler == "pndm":
        raise UsageError(
            f"diffusion.scheduler.{ZERO_SNR}: pndm cannot sample from a zero terminal SNR",
            hint="Set diffusion.generation.scheduler, for example to ddim.",
        )
    with as_setting():
        check_defaults(defaults, "diffusion.generation")
    return defaults


def _compare_windows(name: str, of_start_s: float, window_s: float) -> None:
    if window_s > of_start_s:
        raise UsageError(
            f"scenes.duration_s: {window_s:g} s is more than the window of {name}, "
            f"{of_start_s:g} s",
            hint=f"--set scenes.duration_s={of_start_s:g}, or widen the window: "
            f"--set diffusion.generation.max_duration_s={window_s:g}.",
        )
    if window_s < of_start_s:
        warnings.warn(
            f"the window shrinks from {of_start_s:g} s to scenes.duration_s, {window_s:g} s: the "
            "result generates longer sounds in several windows",
            AuffusionWarning,
            stacklevel=2,
        )


def _with_vocoder(
    config: DiffusionConfig, defaults: GenerationDefaults, *, is_trained: bool
) -> GenerationDefaults:
    """`defaults` with the vocoder that is there: a named one is used, if nothing else is asked."""
    if config.generation.vocoder == "hifigan" and not is_trained:
        raise UsageError(
            "diffusion.generation.vocoder: hifigan is not there",
            hint="Name one: diffusion.vocoder.",
        )
    if config.generation.vocoder is not None:
        return defaults
    if not is_trained:
        return replace(defaults, vocoder="griffin-lim")
    return replace(defaults, vocoder="hifigan") if config.vocoder else defaults


# Networks ----------------------------------------------------------------------------------------


def _load_autoencoder(config: DiffusionConfig, start: _Start) -> nn.Module:
    if config.autoencoder is None:
        return load_autoencoder(start.folder / "vae")
    return load_autoencoder(part_folder(config.autoencoder, "diffusion.autoencoder", "vae"))


def _load_vocoder(config: DiffusionConfig, start: _Start) -> HiFiGAN | None:
    """The trained one, which fits the spectrogram; None for Griffin-Lim."""
    if config.vocoder not in (None, GriffinLim.name):
        return _fitting(part_folder(config.vocoder, "diffusion.vocoder", "vocoder"))
    if config.vocoder is None and start.folder is not None:
        if choose_vocoder(start.folder, "auto", start.defaults) == "hifigan":
            return _fitting(start.folder / "vocoder")
        if start.defaults.vocoder == "hifigan":
            warnings.warn(
                f"{config.init_from} has no vocoder: the result's sound is made with Griffin-Lim; "
                "diffusion.vocoder names one",
                AuffusionWarning,
                stacklevel=2,
            )
    return None


def _fitting(folder: Path) -> HiFiGAN:
    vocoder = load_vocoder(folder)
    check_vocoder(vocoder.config)
    return vocoder


def _load_unet(
    config: DiffusionConfig, start: _Start, latent_shape: tuple[int, int, int]
) -> UNet2DConditionModel:
    n_channels = latent_shape[0]
    if start.folder is None:
        return _fresh_unet(config.unet, latent_shape)
    unet = load_unet(start.folder, torch.float32)
    if (unet.config.in_channels, unet.config.out_channels) != (n_channels, n_channels):
        raise UsageError(
            f"diffusion.autoencoder: its latents have {n_channels} channels, but the UNet of "
            f"{config.init_from} takes {unet.config.in_channels} and gives "
            f"{unet.config.out_channels}"
        )
    return unet


def _fresh_unet(
    arguments: dict[str, Any], latent_shape: tuple[int, int, int]
) -> UNet2DConditionModel:
    key = "diffusion.unet"
    width = arguments.get("cross_attention_dim", 768)
    if not (isinstance(width, int) and 1 <= width <= MAX_SIZE):
        raise UsageError(
            f"{key}.cross_attention_dim: {reprlib.repr(width)} is not a whole number from 1 to "
            f"{MAX_SIZE}"
        )
    n_channels, height, n_columns = latent_shape
    sizes = {"in_channels": n_channels, "out_channels": n_channels, "cross_attention_dim": width}
    arguments = {"sample_size": (height, n_columns), **arguments, **sizes}
    return build_network(
        lambda: UNet2DConditionModel(**arguments), key, lambda unet: try_unet(unet, key)
    )


def _load_text(
    config: DiffusionConfig, start: _Start, width: int
) -> tuple[list[TextEncoder], list[PreTrainedModel], list[ConditionAdapter] | None]:
    """The named text encoders, each with an adapter to the UNet's width; or the start's."""
    if not config.text_encoders:
        return load_text(start.folder).encoders, *load_text_networks(start.folder, torch.float32)
    encoders, networks, adapters = [], [], []
    for number, entry in enumerate(config.text_encoders):
        key = f"diffusion.text_encoders[{number}]"
        folder, tokenizer_folder = text_encoder_folders(entry.path, f"{key}.path")
        network = load_text_encoder(folder, torch.float32)
        tokenizer = load_tokenizer(tokenizer_folder)
        n_positions = count_positions(text_config(folder), folder)
        source = entry.name or public_name(entry.path)
        encoders.append(TextEncoder(tokenizer, entry.max_length, n_positions, source=source))
        networks.append(network)
        adapters.append(_adapter(config.text_encoders, number, network.config.hidden_size, width))
    return encoders, networks, adapters


def _adapter(
    entries: Sequence[TextEncoderConfig], number: int, hidden_size: int, width: int
) -> ConditionAdapter:
    """A fresh adapter, or that of a checkpoint: of several the one in the same place."""
    name = entries[number].adapter
    if name is None:
        return ConditionAdapter(hidden_size, width).eval()
    key = f"diffusion.text_encoders[{number}].adapter"
    folder = find_folder(name, key)
    conditions = read_conditions(folder) if is_adapter_layout(folder) else []
    if not conditions:
        raise UsageError(f"{key}: {name} has no adapters (it is in Stable Diffusion's layout)")
    if len(conditions) > 1 and len(conditions) != len(entries):
        raise UsageError(
            f"{key}: {name} has {len(conditions)} adapters for {len(entries)} text encoders"
        )
    condition = conditions[number if len(conditions) > 1 else 0]
    sizes = (condition.condition_dim, condition.cross_attention_dim)
    if sizes != (hidden_size, width):
        raise UsageError(
            f"{key}: the adapter of {name} leads from {sizes[0]} to {sizes[1]} channels, but the "
            f"text encoder gives {hidden_size} and the UNet takes {width}"
        )
    return load_adapter(folder, condition, torch.float32)
