"""The configs of a checkpoint's folder: layout, parts, `auffusion.json`.

Nothing here imports torch, so that a checkpoint is described, and settings are checked, at once.
Every field is untrusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from auffusion_cli import parsing
from auffusion_cli.checkpoints.families import AUTOENCODER, TANGO, find_family
from auffusion_cli.checkpoints.foreign import recognise
from auffusion_cli.config import (
    ADAPTER_HEADS,
    MAX_DURATION_S,
    SCHEDULER_NAMES,
    SETTING_LIMITS,
    GenerationDefaults,
)
from auffusion_cli.engines.graphs import PartFolders
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.files import read_bytes
from auffusion_cli.parsing import decode

VOCODERS = ("hifigan", "griffin-lim")
MAX_CREDITS_BYTES = 10_000_000

CREDITS_NAME = "CREDITS.md"
"""Beside the weights: the names that their licence asks for."""
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
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    value = parsing.read_json(path, raising=CheckpointError)
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not {expected}")
    return value


@dataclass(frozen=True)
class Identity:
    """The contents of `auffusion.json`, or its defaults in a checkpoint that has none."""

    name: str | None = None
    licence: str | None = None
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)


def read_identity(folder: Path) -> Identity:
    """`auffusion.json` of `folder`, checked; the paper's defaults where it has none."""
    path = folder / "auffusion.json"
    if not path.exists():
        family = find_family(folder)
        return Identity() if family is None else Identity(defaults=family.defaults)
    content = read_json(path)
    if content.get("format_version") != 1:
        raise CheckpointError(
            f"{path}: format_version is {content.get('format_version')!r}; this program reads 1"
        )
    del content["format_version"]
    try:
        content["defaults"] = content.pop("generation", {})
        identity = decode(Identity, content)
    except ValueError as error:
        message = str(error).replace("defaults", "generation", 1)
        raise CheckpointError(f"{path}: {message}") from None
    check_defaults(identity.defaults, path)
    return identity


def check_defaults(defaults: GenerationDefaults, path: Path | str) -> None:
    """Raise a CheckpointError, which names `path`, for impossible defaults of `generate`."""
    for name, limits in SETTING_LIMITS.items():
        value = getattr(defaults, name)
        if not limits.allow(value):
            raise CheckpointError(f"{path}: {name} is {value}; valid: {limits}")
    if not defaults.duration_s <= defaults.max_duration_s <= MAX_DURATION_S:
        raise CheckpointError(
            f"{path}: duration_s is {defaults.duration_s:g} s and max_duration_s "
            f"{defaults.max_duration_s:g} s; duration_s <= max_duration_s <= {MAX_DURATION_S:g} "
            "must hold"
        )
    for name, valid in (("scheduler", SCHEDULER_NAMES), ("vocoder", VOCODERS)):
        value = getattr(defaults, name)
        if value not in valid:
            raise CheckpointError(f"{path}: {name} is {value[:60]!r}; valid: {', '.join(valid)}")


def credits_path(folder: Path) -> str | None:
    """The path of `CREDITS.md` in `folder`, if it has one."""
    path = folder / CREDITS_NAME
    return str(path) if path.is_file() else None


def read_credits(folder: Path) -> str | None:
    """The text of `CREDITS.md` in `folder`; None without one."""
    path = credits_path(folder)
    if path is None:
        return None
    try:
        return read_bytes(Path(path), MAX_CREDITS_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def choose_vocoder(folder: Path, asked: str, defaults: GenerationDefaults) -> str:
    """The vocoder `asked` for; for "auto" the checkpoint's own choice, or Griffin-Lim.

    Raises:
        UsageError: there is no such vocoder, or the checkpoint has none of its own.
    """
    family = find_family(folder)
    if family is not None and family.codes_waveforms:
        if asked in ("auto", AUTOENCODER):
            return AUTOENCODER
        raise UsageError(
            f"--vocoder {asked}: the autoencoder of {family.name} makes the waveform",
            hint="Leave it out.",
        )
    if asked not in ("auto", *VOCODERS):
        raise UsageError(f"--vocoder {asked!r} is not known; valid: auto, {', '.join(VOCODERS)}")
    # Tango's is among the weights of its autoencoder.
    has_own = (folder / "vocoder").is_dir() or family is TANGO
    if asked == "auto":
        return defaults.vocoder if has_own else "griffin-lim"
    if asked == "hifigan" and not has_own:
        raise UsageError(
            f"--vocoder hifigan: {folder} has no vocoder of its own",
            hint="Leave it out, or --vocoder griffin-lim.",
        )
    return asked


def is_adapter_layout(folder: Path) -> bool:
    """True for Auffusion's layout, False for Stable Diffusion's; CheckpointError for neither."""
    if (folder / "condition_config.json").is_file():
        return True
    if family := find_family(folder):
        raise CheckpointError(
            f"{folder}: {family.name}, which makes sounds, but is not trained or converted"
        )
    if (folder / "model_index.json").is_file():
        return False
    description, hint = recognise(folder)
    raise CheckpointError(f"{folder}: {description}", hint=hint)


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
    adapter_layers: int = 0
    """Of the adapter's transformer; the published checkpoints have none, and do not state it."""

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
        n_layers = condition.adapter_layers
        if not isinstance(n_layers, int) or not 0 <= n_layers <= 24:
            raise CheckpointError(f"{path}: adapter_layers is {n_layers!r}; it must be 0 to 24")
        if n_layers and condition.cross_attention_dim % ADAPTER_HEADS:
            raise CheckpointError(
                f"{path}: cross_attention_dim is {condition.cross_attention_dim}; with "
                f"adapter_layers it must be a multiple of {ADAPTER_HEADS}"
            )
        return condition


def read_conditions(folder: Path) -> list[Condition]:
    """The text encoders of a checkpoint in the adapter layout, in the order of their tokens."""
    path = folder / "condition_config.json"
    conditions = [Condition.from_json(entry, path) for entry in read_json(path, list)]
    if not conditions:
        raise CheckpointError(f"{path}: names no text encoder")
    return conditions


def part_folders(folder: Path, vocoder: str = "auto") -> PartFolders:
    """The folders of the networks of the checkpoint in `folder`, with the vocoder asked for."""
    encoders, adapters = [folder / "text_encoder"], []
    if is_adapter_layout(folder):
        conditions = read_conditions(folder)
        encoders = [folder / condition.text_encoder_name for condition in conditions]
        adapters = [folder / condition.condition_adapter_name for condition in conditions]
    chosen = choose_vocoder(folder, vocoder, read_identity(folder).defaults)
    return PartFolders(
        text_encoders=tuple(encoders),
        adapters=tuple(adapters),
        unet=folder / "unet",
        vae=folder / "vae",
        vocoder=folder / "vocoder" if chosen == "hifigan" else None,
        has_texture=bool(read_json(folder / "vae" / "config.json").get("texture_channels")),
    )


def describe(folder: Path) -> dict[str, Any]:
    """Description of a checkpoint from its configs and the sizes of its files."""
    identity = read_identity(folder)
    layout, encoder_folders = _layout(folder)
    family = find_family(folder)
    unet, vae = (
        {}
        if family is not None and family.class_name is None  # a layout of its own
        else read_json(folder / part / "config.json")
        for part in ("unet" if family is None else family.denoiser, "vae")
    )
    waveforms = family is not None and family.codes_waveforms
    vocoder = choose_vocoder(folder, "auto", identity.defaults)
    weight_files = [path for path in model_files(folder) if path.suffix in WEIGHT_SUFFIXES]
    return {
        "licence": identity.licence,
        "credits": credits_path(folder),
        "model_card": str(card) if (card := folder / MODEL_CARD_NAME).is_file() else None,
        "layout": layout,
        "text_encoders": [_architecture(encoder / "config.json") for encoder in encoder_folders],
        "cross_attention_dim": unet.get("cross_attention_dim"),
        "unet_channels": unet.get("block_out_channels"),
        "autoencoder": vae.get("_class_name", "AutoencoderSAME" if waveforms else "AutoencoderKL"),
        "vocoder": vocoder,
        "weight_formats": sorted({path.suffix.removeprefix(".") for path in weight_files}),
        "weights_bytes": sum(path.stat().st_size for path in weight_files),
        "generation": asdict(replace(identity.defaults, vocoder=vocoder)),
    }


def _layout(folder: Path) -> tuple[str, list[Path]]:
    """(name of the layout or family, folders of the text encoders)"""
    if family := find_family(folder):
        return family.name, [folder / part.encoder for part in family.text]
    if is_adapter_layout(folder):
        return "adapter", [folder / c.text_encoder_name for c in read_conditions(folder)]
    return "Stable Diffusion", [folder / "text_encoder"]


def model_files(folder: Path) -> Iterator[Path]:
    """All files of the model in `folder`, without those that a training run keeps beside it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).parts[0] not in RUN_FOLDERS:
            yield path


def _architecture(config_path: Path) -> str:
    architectures = read_json(config_path).get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else "?"
