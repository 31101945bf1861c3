"""The YAML of a training run <-> `TrainingConfig`. Unknown keys are errors. No torch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import types
import typing
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal

from auffusion_cli.errors import UsageError
from auffusion_cli.training.config import TrainingConfig


def load_config(path: Path, overrides: dict[str, Any]) -> TrainingConfig:
    """Read a YAML file and set `overrides` (dotted keys, e.g. `loop.max_minutes`) over it.

    Raises:
        UsageError: the file is unreadable or not a mapping, or a key or value does not fit.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: cannot be read as YAML: {error}") from error
    return parse_config(document, overrides, where=str(path))


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
                raise UsageError(f"{where}: {section}: expected a mapping, got {target!r}")
        target[key] = value
    return _build(TrainingConfig, document, where)


def dump_config(config: TrainingConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal object."""
    import yaml

    return yaml.safe_dump(_plain(config), sort_keys=False)


HARMLESS_CHANGES = (
    "output",
    "loop.max_minutes",
    "loop.log_every_steps",
    "loop.checkpoint_every_steps",
    "loop.keep_checkpoints",
    "loop.preview_every_steps",
    "loop.tensorboard",
    "loop.workers",
    "loop.compile",
    "diffusion.preview_prompts",
)
"""What can be set anew in a resumed run without changing what it learns."""


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
    for key, value in _plain(config).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed YAML into `kind`, or say where it does not fit."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected a mapping, got {value!r}")
        hints = typing.get_type_hints(kind)
        known = [f.name for f in dataclasses.fields(kind)]
        for key in value:
            if key not in known:
                raise UsageError(f"{where}: unknown key {key!r}", hint=f"valid: {', '.join(known)}")
        for f in dataclasses.fields(kind):
            has_default = f.default is not MISSING or f.default_factory is not MISSING
            if not has_default and f.name not in value:
                raise UsageError(f"{where}: {f.name} is missing")
        return kind(
            **{key: _build(hints[key], item, f"{where}: {key}") for key, item in value.items()}
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if isinstance(value, bool):  # what YAML 1.1 makes of a bare `no` or `true`
            spellings = ("true", "yes", "on") if value else ("false", "no", "off")
            value = next((word for word in spellings if word in arguments), value)
        if value not in arguments:
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        if arguments[-1] is Ellipsis:
            return tuple(_build(arguments[0], item, where) for item in value)
        if len(value) != len(arguments):
            raise UsageError(f"{where}: expected {len(arguments)} values, got {value!r}")
        return tuple(_build(a, item, where) for a, item in zip(arguments, value, strict=True))
    if kind is Any:
        return value
    if kind is dict or origin is dict:
        kind = dict
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-4 (no dot) as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value!r} is not a finite number")
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value
