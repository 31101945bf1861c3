"""The checkpoints and parts of them that a run's settings name. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from auffusion_cli.checkpoints.names import KNOWN
from auffusion_cli.training.config import TrainingConfig

TEXT_PARTS = ("text_encoder", "tokenizer")
"""Of Stable Diffusion's layout."""


def named_parts(config: TrainingConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(key, name, folders in a checkpoint that are needed; () for all) of what the run starts with.

    The key of the checkpoint that gives the UNet is --from.
    """
    if config.stage in ("diffusion", "distill"):
        diffusion = config.diffusion
        if diffusion.init_from is not None:
            yield "--from", diffusion.init_from, ()
        if diffusion.autoencoder is not None:
            yield "diffusion.autoencoder", diffusion.autoencoder, ("vae",)
        if diffusion.vocoder not in (None, "griffin-lim"):
            yield "diffusion.vocoder", diffusion.vocoder, ("vocoder",)
        for number, entry in enumerate(diffusion.text_encoders):
            key = f"diffusion.text_encoders[{number}]"
            yield f"{key}.path", entry.path, TEXT_PARTS
            if entry.adapter is not None:
                yield f"{key}.adapter", entry.adapter, ()
        return
    part = "vae" if config.stage == "autoencoder" else "vocoder"
    section = getattr(config, config.stage)
    if section.init_from is not None:
        yield "--from", section.init_from, (part,)
    if config.stage == "vocoder" and section.autoencoder is not None:
        yield "vocoder.autoencoder", section.autoencoder, ("vae",)


def is_image_model(name: str) -> bool:
    """Whether `name` is a known model of images, to which an adapter and a vocoder are added."""
    known = KNOWN.get(name.partition("@")[0])
    return known is not None and not known.makes_sound
