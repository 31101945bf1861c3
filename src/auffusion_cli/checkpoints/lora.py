"""LoRA files: low-rank changes of a UNet's weights (Hu et al. 2021, arXiv 2106.09685).

A LoRA adds scale * up @ down to the weight of a layer. Names are read as `lora_file` says; written
are diffusers' own. A LoRA is merged into the weights once, after
loading: it then costs no time, and every task takes it.

Files are untrusted, as all weights: see `weights`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.checkpoints.lora_file import (
    METADATA_KEY,
    OF_TEXT,
    parse_name,
    read_about,
    read_entry,
)
from auffusion_cli.checkpoints.weights import open_tensors, read_header, saving
from auffusion_cli.errors import AuffusionWarning, CheckpointError
from auffusion_cli.files import atomic_file
from auffusion_cli.requests.loras import LORA_NAME, LoraChoice

PEFT_METADATA_KEY = "lora_adapter_metadata"
"""Under which diffusers keeps peft's settings in a file."""
MAX_RANK = 4096


@dataclass(frozen=True)
class Lora:
    """A LoRA file, read."""

    path: Path
    layers: Mapping[str, _Change]
    """By the name of the layer that is changed, as the file spells it."""
    trigger: str | None = None
    """Words that call what it was trained on."""
    base: str | None = None
    """Name of the model that it was trained on."""


@dataclass
class _Change:
    down: Tensor | None = None
    """(r, in, ...)"""
    up: Tensor | None = None
    """(out, r, ...)"""
    alpha: float | None = None
    """The scale is alpha / r; None: 1."""


def read_lora(path: Path) -> Lora:
    """The LoRA in a .safetensors file.

    Raises:
        CheckpointError: it is damaged, is no LoRA, or is of a kind that cannot be merged.
    """
    header = read_header([path])
    layers: dict[str, _Change] = {}
    tensors = open_tensors(path)
    n_of_text = 0
    for name in header:
        if name.startswith(OF_TEXT):
            n_of_text += 1
            continue
        layer, role = parse_name(name, path)
        change = layers.setdefault(layer, _Change())
        if role == "alpha":
            if tensors[name].numel() != 1:
                raise CheckpointError(f"{path}: tensor {name!r} is not one number")
            change.alpha = float(tensors[name])
        else:
            setattr(change, role, tensors[name])
    if not layers:
        raise CheckpointError(f"{path}: changes nothing of a UNet")
    if n_of_text:
        warnings.warn(
            f"{path}: its {n_of_text} tensors for the text encoder are left out: only the UNet is "
            "changed",
            AuffusionWarning,
            stacklevel=2,
        )
    for name, change in layers.items():
        _check_change(name, change, path)
    return Lora(path, _with_alpha(layers, path), **read_about(path))


def _check_change(name: str, change: _Change, path: Path) -> None:
    down, up = change.down, change.up
    if down is None or up is None:
        raise CheckpointError(f"{path}: {name} has only one of its two matrices")
    fits = down.ndim == up.ndim and down.ndim in (2, 4) and down.shape[0] == up.shape[1]
    if not fits or not 1 <= down.shape[0] <= MAX_RANK:
        raise CheckpointError(
            f"{path}: the matrices of {name} are {tuple(down.shape)} and {tuple(up.shape)}"
        )
    if not (down.is_floating_point() and up.is_floating_point()):
        raise CheckpointError(f"{path}: {name} holds no floating-point numbers")


def _with_alpha(layers: dict[str, _Change], path: Path) -> dict[str, _Change]:
    """`layers` with the alpha of peft's settings, where there are any."""
    where, settings = _peft_settings(path)
    if not settings:
        return layers
    if settings.get("use_dora") or settings.get("use_rslora") or settings.get("alpha_pattern"):
        raise CheckpointError(f"{where}: DoRA, rsLoRA and alpha_pattern cannot be merged")
    alpha = settings.get("lora_alpha")
    if not isinstance(alpha, int | float):
        raise CheckpointError(f"{where}: lora_alpha is {str(alpha)[:40]!r}, not a number")
    for change in layers.values():
        change.alpha = float(alpha) if change.alpha is None else change.alpha
    return layers


def _peft_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    """Where peft's settings of a file are, and these: its metadata, as diffusers writes them since
    0.34, or the adapter_config.json beside it; none of files of other programs."""
    if settings := read_entry(path, PEFT_METADATA_KEY):
        # A pipeline's begin with the network that they are of, a UNet's own with nothing.
        return path, {
            name.removeprefix("unet."): value
            for name, value in settings.items()
            if name.startswith("unet.") or "." not in name
        }
    beside = path.with_name("adapter_config.json")
    if path.name == LORA_NAME or not beside.is_file():
        return path, {}
    return beside, read_json(beside)


@torch.no_grad()
def merge(unet: nn.Module, lora: Lora, weight: float) -> None:
    """Add `weight` times the changes of `lora` to the weights of `unet`.

    Raises:
        CheckpointError: a change has no place in the UNet, or is of another size; the weights are
            then as they were.
    """
    modules = {name: module for name, module in unet.named_modules() if hasattr(module, "weight")}
    by_kohya_name = {f"lora_unet_{name.replace('.', '_')}": name for name in modules}
    places = {}
    for name, change in lora.layers.items():
        module = modules.get(by_kohya_name.get(name, name))
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise CheckpointError(
                f"{lora.path}: changes a layer {name[:100]!r}, which the UNet does not have",
                hint="It was made for another model"
                + (f": {lora.base}." if lora.base else "; its page may say for which."),
            )
        shape = (change.up.shape[0], *change.down.shape[1:])
        if tuple(module.weight.shape) not in (shape, (*shape, 1, 1)):
            raise CheckpointError(
                f"{lora.path}: {name[:100]} is made for weights of {shape}, but the UNet's are "
                f"{tuple(module.weight.shape)}"
            )
        places[module] = change
    for module, change in places.items():
        rank = change.down.shape[0]
        scale = weight if change.alpha is None else weight * change.alpha / rank
        up, down = (m.to(module.weight.device).float().flatten(1) for m in (change.up, change.down))
        delta = (up @ down).reshape(module.weight.shape)
        module.weight.copy_(module.weight.float() + scale * delta)


def apply_loras(unet: nn.Module, choices: Sequence[LoraChoice]) -> None:
    """Merge all `choices` into `unet`, in order.

    Raises UsageError, CheckpointError: as of `LoraChoice.find`, `read_lora` and `merge`.
    """
    for choice in choices:
        merge(unet, read_lora(choice.find()), choice.weight)


def save_lora(
    changes: Mapping[str, tuple[Tensor, Tensor]], path: Path, *, trigger: str | None, base: str
) -> None:
    """Write a LoRA of a UNet as diffusers reads it: (down, up) for each layer, of scale 1.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {
        f"unet.{name}.lora_{letter}.weight": tensor.detach().cpu().contiguous()
        for name, pair in changes.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    about = {"base": base} | ({"trigger": trigger} if trigger else {})
    with saving(path), atomic_file(path) as beside:
        save_file(tensors, beside, metadata={"format": "pt", METADATA_KEY: json.dumps(about)})
