"""What a command can say about a checkpoint and this machine before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from auffusion_cli.cli import console
from auffusion_cli.config import GenerationDefaults

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.names import Checkpoint
    from auffusion_cli.diffusion.text import TextConditioner
    from auffusion_cli.requests.request import GenerateSettings

MAX_SHOWN_CHARACTERS = 60
"""Of each end of a long text."""


def describe(checkpoint: Checkpoint | None, vocoder: str) -> tuple[GenerationDefaults, str]:
    """(the checkpoint's defaults, the vocoder that will be used), before it is loaded."""
    from auffusion_cli.checkpoints.layout import choose_vocoder, read_identity

    if checkpoint is None:  # not downloaded yet: what the published ones have
        defaults = GenerationDefaults()
        return defaults, defaults.vocoder if vocoder == "auto" else vocoder
    defaults = read_identity(checkpoint.folder).defaults
    return defaults, choose_vocoder(checkpoint.folder, vocoder, defaults)


def describe_machine(device: str, dtype: str) -> dict[str, str]:
    """Where and how precisely it will be computed."""
    from auffusion_cli.device import choose_device, choose_dtype, dtype_name

    torch_device = choose_device(device)
    return {
        "device": torch_device.type,
        "dtype": dtype_name(choose_dtype(dtype, torch_device)),
    }


def warn_of_cut_prompts(checkpoint: Checkpoint, prompts: Iterable[str]) -> TextConditioner:
    """Show what of the prompts the checkpoint's text encoders will not see, or do not know.

    Returns them, without their weights.
    """
    import torch

    from auffusion_cli.checkpoints.load import load_text

    encoders = load_text(checkpoint.folder, torch.float32, weights=False)
    for text in filter(None, dict.fromkeys(prompts)):
        if (cut := encoders.overflow(text)) is not None:
            console.warn(
                f"the prompt is longer than the model can read; left out: {_shortened(cut)!r}"
            )
        if unknown := " ".join(encoders.unknown(text)):
            console.warn(
                f"the model cannot read {_shortened(unknown)!r} in the prompt {_shortened(text)!r}"
            )
    return encoders


def warn_of_idle_negatives(negative_prompts: Iterable[str], settings: GenerateSettings) -> None:
    """Say that negative prompts are not heard where there is no guidance."""
    if settings.guidance_scale == 1 and any(negative_prompts):
        console.warn(
            "the negative prompt has no effect: guidance is 1, which is off (try --guidance 3)"
        )


def _shortened(text: str) -> str:
    """Its start and its end, by which the user knows it again."""
    if len(text) <= 2 * MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]} … {text[-MAX_SHOWN_CHARACTERS:]}"
