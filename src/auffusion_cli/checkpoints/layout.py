"""What a checkpoint's folder says about itself: its layout, its parts, `auffusion.json`.

Nothing here imports torch, so that a checkpoint can be looked at, and settings checked, at once.
Every field is untrusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.diffusion.samplers import SCHEDULERS
from auffusion_cli.errors import CheckpointError, UsageError

VOCODERS = ("hifigan", "griffin-lim")

CREDITS_NAME = "CREDITS.md"
"""Beside the weights: whom their licence asks to name."""
MODEL_CARD_NAME = "README.md"
CHECKPOINTS_NAME = "checkpoints"
LOGS_NAME = "logs"
PREVIEWS_NAME = "previews"
CACHE_NAME = "cache"
RUN_FOLDERS = (CHECKPOINTS_NAME, LOGS_NAME, PREVIEWS_NAME, CACHE_NAME)
"""Folders that a training run keeps beside its result."""

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
"""In order of preference."""


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON object (or list: `kind`) in `path`; CheckpointError where it is not one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not {expected}")
    return value


@dataclass(frozen=True)
class Identity:
    """The contents of `auffusion.json`, or what stands for it in a checkpoint that has none."""

    name: str | None = None
    licence: str | None = None
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)


def read_identity(folder: Path) -> Identity:
    """`auffusion.json` of `folder`, checked; the paper's defaults where it has none."""
    path = folder / "auffusion.json"
    if not path.exists():
        return Identity()
    content = read_json(path)
    if content.get("format_version") != 1:
        raise CheckpointError(
            f"{path}: format_version is {content.get('format_version')!r}; this program reads 1"
        )
    types = {"format_version": int, "name": str, "licence": str, "generation": dict}
    _check_fields(path, content, types)
    generation = content.get("generation", {})
    types = {field.name: type(field.default) for field in fields(GenerationDefaults)}
    _check_fields(path, generation, types)
    defaults = GenerationDefaults(**generation)
    if not 0 < defaults.duration_s <= defaults.max_duration_s <= 3600:
        raise CheckpointError(
            f"{path}: duration_s is {defaults.duration_s} s and max_duration_s "
            f"{defaults.max_duration_s} s; 0 < duration_s <= max_duration_s <= 3600 must hold"
        )
    if not 1 <= defaults.steps <= 1000:
        raise CheckpointError(f"{path}: steps is {defaults.steps}; it must be 1 to 1000")
    for name, most in (("guidance_scale", 100), ("guidance_rescale", 1)):
        value = getattr(defaults, name)
        if not 0 <= value <= most:
            raise CheckpointError(f"{path}: {name} is {value}; it must be 0 to {most}")
    for name, valid in (("scheduler", tuple(SCHEDULERS)), ("vocoder", VOCODERS)):
        value = getattr(defaults, name)
        if value not in valid:
            raise CheckpointError(f"{path}: {name} is {value!r}; valid: {', '.join(valid)}")
    return Identity(content.get("name"), content.get("licence"), defaults)


def credits_path(folder: Path) -> str | None:
    """Where `CREDITS.md` of `folder` is, if it has one."""
    path = folder / CREDITS_NAME
    return str(path) if path.is_file() else None


def read_credits(folder: Path) -> str | None:
    """What `CREDITS.md` of `folder` says; None where it has none."""
    path = credits_path(folder)
    return None if path is None else Path(path).read_text("utf-8", errors="replace")


def choose_vocoder(folder: Path, asked: str, defaults: GenerationDefaults) -> str:
    """The vocoder that `asked`, or else the checkpoint, says; "auto" takes what there is.

    Raises:
        UsageError: there is no such vocoder, or the checkpoint has none of its own.
    """
    if asked not in ("auto", *VOCODERS):
        raise UsageError(f"--vocoder {asked!r} is not known; valid: auto, {', '.join(VOCODERS)}")
    has_own = (folder / "vocoder").is_dir()
    if asked == "auto":
        return defaults.vocoder if has_own else "griffin-lim"
    if asked == "hifigan" and not has_own:
        raise UsageError(
            f"--vocoder hifigan: {folder} has no vocoder of its own.",
            hint="Leave it out, or --vocoder griffin-lim.",
        )
    return asked


def _check_fields(path: Path, content: dict[str, Any], types: dict[str, type]) -> None:
    for name, value in content.items():
        if name not in types:
            raise CheckpointError(f"{path}: unknown field {name!r}; known: {', '.join(types)}")
        accepted = (int, float) if types[name] is float else types[name]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise CheckpointError(
                f"{path}: {name} is {value!r}; it must be of type {types[name].__name__}"
            )


def is_adapter_layout(folder: Path) -> bool:
    """True for Auffusion's layout, False for Stable Diffusion's; CheckpointError for neither."""
    if (folder / "condition_config.json").is_file():
        return True
    if (folder / "model_index.json").is_file():
        return False
    raise CheckpointError(
        f"{folder}: not a checkpoint: it has neither condition_config.json (Auffusion's layout) "
        "nor model_index.json (Stable Diffusion's)"
    )


@dataclass(frozen=True)
class Condition:
    """One entry of `condition_config.json`."""

    text_encoder_name: str
    condition_adapter_name: str
    condition_dim: int
    cross_attention_dim: int
    condition_max_length: int = 77
    condition_type: str = ""
    pretrained_model_name_or_path: str = ""

    @classmethod
    def from_json(cls, entry: Any, path: Path) -> Condition:
        known = {field.name for field in fields(cls)}
        try:
            condition = cls(**{name: entry[name] for name in known & entry.keys()})
        except (TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a list of conditions: {error}") from error
        for name in (condition.text_encoder_name, condition.condition_adapter_name):
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
                raise CheckpointError(f"{path}: {name!r} is not the name of a folder beside it")
        for name in ("condition_dim", "cross_attention_dim", "condition_max_length"):
            size = getattr(condition, name)
            if not isinstance(size, int) or not 1 <= size <= 65536:
                raise CheckpointError(f"{path}: {name} is {size!r}; it must be 1 to 65536")
        return condition


def read_conditions(folder: Path) -> list[Condition]:
    """The text encoders of a checkpoint in the adapter layout, in the order of their tokens."""
    path = folder / "condition_config.json"
    conditions = [Condition.from_json(entry, path) for entry in read_json(path, list)]
    if not conditions:
        raise CheckpointError(f"{path}: names no text encoder")
    return conditions


def describe(folder: Path) -> dict[str, Any]:
    """What is in `folder`, from its configs and the sizes of its files; no weight is read."""
    identity = read_identity(folder)
    adapters = is_adapter_layout(folder)
    if adapters:
        encoder_folders = [folder / c.text_encoder_name for c in read_conditions(folder)]
    else:
        encoder_folders = [folder / "text_encoder"]
    unet = read_json(folder / "unet" / "config.json")
    weight_files = [path for path in model_files(folder) if path.suffix in WEIGHT_SUFFIXES]
    return {
        "licence": identity.licence,
        "credits": credits_path(folder),
        "model_card": str(card) if (card := folder / MODEL_CARD_NAME).is_file() else None,
        "layout": "adapter" if adapters else "Stable Diffusion",
        "text_encoders": [_architecture(encoder / "config.json") for encoder in encoder_folders],
        "cross_attention_dim": unet.get("cross_attention_dim"),
        "unet_channels": unet.get("block_out_channels"),
        "autoencoder": read_json(folder / "vae" / "config.json").get("_class_name"),
        "vocoder": "hifigan" if (folder / "vocoder").is_dir() else "griffin-lim",
        "weight_formats": sorted({path.suffix.removeprefix(".") for path in weight_files}),
        "weights_bytes": sum(path.stat().st_size for path in weight_files),
        "generation": asdict(identity.defaults),
    }


def model_files(folder: Path) -> Iterator[Path]:
    """All files of the model in `folder`, without what a training run keeps beside its result."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).parts[0] not in RUN_FOLDERS:
            yield path


def _architecture(config_path: Path) -> str:
    architectures = read_json(config_path).get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else "?"
