"""The checkpoints and parts of them that a run's settings name. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from auffusion_cli.checkpoints.names import KNOWN
from auffusion_cli.training.config import TrainingConfig

TEXT_PARTS = ("text_encoder", "tokenizer")
"""Of Stable Diffusion's layout."""
OF_IMAGE_MODELS = ("model_index.json", "unet", "vae", *TEXT_PARTS)
OF_SOUND_MODELS = ("vocoder", "auffusion.json")
"""What a folder of the same layout has besides, where its model makes sound."""


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
    """Whether `name` is a model of images, to which an adapter and a vocoder are added: a known
    one, or a folder of Stable Diffusion that nobody has made a sound model of."""
    if known := KNOWN.get(name.partition("@")[0]):
        return not known.makes_sound
    folder = Path(name)
    has_its_parts = all((folder / part).exists() for part in OF_IMAGE_MODELS)
    return has_its_parts and not any((folder / part).exists() for part in OF_SOUND_MODELS)
