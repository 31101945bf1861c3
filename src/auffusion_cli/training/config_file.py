"""The YAML of a training run <-> `TrainingConfig`. Unknown keys are errors. No torch."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.parsing import decode, dump_yaml, plain, read_yaml
from auffusion_cli.training.config import TrainingConfig
from auffusion_cli.training.diffusion_config import FIRST_SCHEDULE


def load_config(path: Path, overrides: dict[str, Any]) -> TrainingConfig:
    """Read a YAML file and set `overrides` (dotted keys, e.g. `loop.max_minutes`) over it.

    Raises:
        UsageError: the file is unreadable or not a mapping, or a key or value does not fit.
    """
    where = f"--config {path}"
    document = read_yaml(path, raising=UsageError, where=where)
    return parse_config({} if document is None else _of_today(document), overrides, where)


def _of_today(document: Any) -> Any:
    """`document` without what earlier versions wrote into a run's file although its start gave it:
    the paper's defaults and its noise schedule."""
    diffusion = document.get("diffusion") if isinstance(document, dict) else None
    if not isinstance(diffusion, dict) or diffusion.get("init_from") is None:
        return document
    formerly = {"generation": asdict(GenerationDefaults()), "scheduler": FIRST_SCHEDULE}
    if any(diffusion.get(key) != value for key, value in formerly.items()):
        return document
    kept = {key: value for key, value in diffusion.items() if key not in formerly}
    return document | {"diffusion": kept}


def parse_config(document: Any, overrides: dict[str, Any], where: str = "config") -> TrainingConfig:
    """Like `load_config`, from a parsed document."""
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected a mapping of keys to values")
    document = copy.deepcopy(document)
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UsageError(f"{where}: {section}: expected a mapping of keys to values")
        target[key] = value
    try:
        return decode(TrainingConfig, document)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def dump_config(config: TrainingConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal object."""
    return dump_yaml(plain(config))


HARMLESS_CHANGES = (
    "output",
    "loop.max_minutes",
    "loop.log_every_steps",
    "loop.checkpoint_every_steps",
    "loop.keep_checkpoints",
    "loop.preview_every_steps",
    "loop.tensorboard",
    "loop.wandb",
    "loop.workers",
    "loop.compile",
    "diffusion.preview_prompts",
    "diffusion.preview",
)
"""Settings that a resumed run may change without a change of its result."""


def changed_settings(before: TrainingConfig, after: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (before, after), where a resumed run is not what one never stopped would be."""
    old, new = _flat(before), _flat(after)
    changed = {
        key: (old.get(key), new.get(key))
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in HARMLESS_CHANGES
    }
    if after.loop.decay_steps == before.loop.decay_steps == 0:
        changed.pop("loop.max_steps", None)  # without a decay only the end
    return changed


def _flat(config: TrainingConfig) -> dict[str, Any]:
    """Dotted key -> value, two levels deep."""
    flat = {}
    for key, value in plain(config).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat
