"""LoRA in the diffusion stage: small matrices beside the UNet's weights are trained, by peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from auffusion_cli.errors import UsageError

OF_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OF_TEXT_EMBEDDING = ("add_embedding.", ".time_emb_proj")
"""Parts of the names of layers through which the text acts where it is added to the time."""


def add_lora(unet: nn.Module, rank: int) -> None:
    """Freeze `unet` and give it trainable matrices of `rank`, which change nothing at first.

    Changed are the layers of the attentions, and where the text acts through the time embedding,
    too, those of that path.

    Raises:
        UsageError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UsageError(
            "--lora needs peft, which is not installed",
            hint='Install it: pip install "auffusion[train]".',
        ) from error
    unet.requires_grad_(False)
    names = target_layers(unet)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names))


def target_layers(unet: nn.Module) -> list[str]:
    """The names of the linear layers that a LoRA changes."""
    parts = OF_TEXT_EMBEDDING if unet.config.addition_embed_type == "text" else ()
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear)
        and (name.endswith(OF_ATTENTION) or any(part in name for part in parts))
    ]


@contextmanager
def without_lora(unet: nn.Module) -> Iterator[None]:
    """A block in which `unet` computes what it did before `add_lora`."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


def lora_changes(unet: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """(down, up) by the name of the layer, of a UNet that `add_lora` was called with."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in unet.named_parameters():
        layer, marker, letter = name.partition(".lora_")
        if marker:
            found.setdefault(layer, {})[letter[0]] = parameter
    return {layer: (pair["A"], pair["B"]) for layer, pair in found.items()}
