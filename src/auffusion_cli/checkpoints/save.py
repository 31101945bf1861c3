"""`Model` -> checkpoint folder, in the layout it came in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from auffusion_cli.checkpoints.layout import CREDITS_NAME, Condition, read_json
from auffusion_cli.checkpoints.text import save_tokenizer
from auffusion_cli.checkpoints.text_encoders import quiet_transformers
from auffusion_cli.checkpoints.vocabulary import save_vocabulary
from auffusion_cli.checkpoints.weights import save_weights, saving
from auffusion_cli.codec.vocoder import HiFiGAN, fold_weight_norm
from auffusion_cli.device import DTYPES
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import OutputExistsError, UsageError
from auffusion_cli.files import atomic_folder, folder_of
from auffusion_cli.model import Model

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from transformers import PreTrainedModel


def save_model(
    model: Model,
    folder: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    complete: Callable[[Path], None] | None = None,
) -> Path:
    """Write `model` as a folder that `load_model` takes, in the layout it came in.

    Weights are safetensors, in `dtype` (fp32, fp16, bf16; None: as they are). The folder is written
    atomically; before it gets its name, `complete` is called with it, and may add to it.

    Raises:
        OutputExistsError: `folder` exists and `overwrite` is not set.
        CheckpointError: a tensor has numbers beyond the range of float16.
        OSError: it cannot be written, such as on a full disk.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists", hint="--overwrite replaces it.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not known; valid: {', '.join(DTYPES)}")
    torch_dtype = DTYPES[dtype or model.dtype]
    with (
        folder_of(folder),
        atomic_folder(folder, overwrite=overwrite) as beside,
        saving(folder),
    ):
        _write_model(model, beside, torch_dtype)
        if complete:
            complete(beside)
    return folder


def save_vocoder(vocoder: HiFiGAN, folder: str | Path) -> None:
    """Write config.json and vocoder.safetensors, weight norm folded, for `load_vocoder`."""
    folder = Path(folder)
    with folder_of(folder), atomic_folder(folder) as beside:
        _write_vocoder(vocoder, beside, torch.float32)


def _write_vocoder(vocoder: HiFiGAN, folder: Path, dtype: torch.dtype) -> None:
    _write_json(folder / "config.json", asdict(vocoder.config))
    path = folder / "vocoder.safetensors"
    save_weights(fold_weight_norm(vocoder.state_dict(), path), path, dtype)


def _write_model(model: Model, folder: Path, dtype: torch.dtype) -> None:
    networks = model.networks
    if not isinstance(networks, TorchNetworks):
        raise UsageError("--engine onnx cannot save a model", hint="Take --engine torch.")
    _write_part(networks.unet, folder / "unet", dtype)
    autoencoder = networks.autoencoder
    # KLAutoencoder wraps the diffusers model that is saved; PatchAutoencoder is one.
    _write_part(getattr(autoencoder, "vae", autoencoder), folder / "vae", dtype)
    _write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler_config))
    defaults = model.defaults
    if networks.vocoder is not None:
        (folder / "vocoder").mkdir()
        _write_vocoder(networks.vocoder, folder / "vocoder", dtype)
    else:
        defaults = replace(defaults, vocoder="griffin-lim")
    _write_text(model.text, networks, folder, dtype)
    identity = {"name": Path(model.name).name, "licence": model.licence}
    _write_json(
        folder / "auffusion.json",
        {"format_version": 1}
        | {name: value for name, value in identity.items() if value}
        | {"generation": asdict(defaults)},
    )
    if model.vocabulary is not None:
        save_vocabulary(model.vocabulary, folder)
    if model.credits is not None:
        (folder / CREDITS_NAME).write_text(model.credits, "utf-8")


def _write_text(
    text: TextConditioner, networks: TorchNetworks, folder: Path, dtype: torch.dtype
) -> None:
    if networks.adapters is None:
        (encoder,), (network,) = text.encoders, networks.text_encoders
        (folder / "tokenizer").mkdir()
        save_tokenizer(encoder.tokenizer, folder / "tokenizer")
        _write_text_encoder(network, folder / "text_encoder", dtype)
        classes = {
            "text_encoder": ["transformers", type(network).__name__],
            "tokenizer": ["transformers", encoder.tokenizer.config.get("tokenizer_class")],
        }
        for part in ("unet", "vae", "scheduler"):
            config = folder / part / ("scheduler_config" if part == "scheduler" else "config")
            class_name = read_json(config.with_suffix(".json"))["_class_name"]
            classes[part] = ["diffusers", class_name]
        unused = ("feature_extractor", "safety_checker", "image_encoder")
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        index |= classes | {part: [None, None] for part in unused}
        _write_json(folder / "model_index.json", index)
        return

    conditions = []
    parts = zip(text.encoders, networks.text_encoders, networks.adapters, strict=True)
    for i, (encoder, network, adapter) in enumerate(parts):
        condition = Condition(
            text_encoder_name=f"text_encoder_{i}",
            condition_adapter_name=f"condition_adapter_{i}",
            condition_dim=adapter.proj.in_features,
            cross_attention_dim=adapter.proj.out_features,
            condition_max_length=encoder.max_length,
            condition_type=f"{network.config.model_type}_text",
            pretrained_model_name_or_path=encoder.source,
            adapter_layers=adapter.n_layers,
        )
        encoder_folder = folder / condition.text_encoder_name
        _write_text_encoder(network, encoder_folder, dtype)
        save_tokenizer(encoder.tokenizer, encoder_folder)
        adapter_folder = folder / condition.condition_adapter_name
        sizes = ("condition_dim", "cross_attention_dim")
        names = ("text_encoder_name", "condition_adapter_name")
        entry = asdict(condition)
        if not condition.adapter_layers:  # the published layout does not have it
            del entry["adapter_layers"]
        _write_json(adapter_folder / "config.json", {key: entry[key] for key in names + sizes})
        path = adapter_folder / "condition_adapter.safetensors"
        save_weights(adapter.state_dict(), path, dtype)
        conditions.append(entry)
    _write_json(folder / "condition_config.json", conditions)


def _write_text_encoder(network: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    if network.dtype != dtype:
        network = copy.deepcopy(network).to(dtype)
    with quiet_transformers():
        network.save_pretrained(folder)


def _write_part(module: ModelMixin, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    module.save_config(folder)
    save_weights(module.state_dict(), folder / "diffusion_pytorch_model.safetensors", dtype)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
