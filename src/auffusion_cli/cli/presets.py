"""Presets: values of options under a name, of the program and of the user's own configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from auffusion_cli.errors import UsageError

CONFIG_NAME = "config.toml"
BUILT_IN: dict[str, dict[str, Any]] = {
    "game-oneshot": {
        "one-shot": True,
        "duration": "2s",
        "low-cut": "40",
        "peak": "-1dB",
        "fade-out": "20ms",
        "rate": "48k",
    },
    "loop": {
        "loop": True,
        "duration": "8s",
        "low-cut": "40",
        "loudness": "-23LUFS",
        "rate": "48k",
        "channels": 2,
    },
    "bed": {
        "duration": "30s",
        "low-cut": "40",
        "loudness": "-28LUFS",
        "fade-in": "1s",
        "fade-out": "2s",
        "rate": "48k",
        "channels": 2,
    },
}
"""Preset -> long option of `generate`, without its dashes -> value."""
EXAMPLE = """\
# Presets for `auffusion generate --preset NAME`: long options, without their dashes.
# What is given on the command line comes first.

[presets.door]
duration = "1.5s"
loudness = "-16LUFS"
rate = "48k"
channels = 2
best-of = 4
"""
MAX_CONFIG_BYTES = 1_000_000
MAX_PRESETS = 1_000
NOT_IN_PRESETS = ("--preset", "--prompts", "--help")


def config_path() -> Path:
    """The user's configuration, in the platform's folder for it."""
    from platformdirs import user_config_path

    return user_config_path("auffusion", appauthor=False) / CONFIG_NAME


def read_presets() -> dict[str, dict[str, Any]]:
    """All presets; the user's own come before the program's of the same name.

    Raises:
        UsageError: the configuration is damaged.
    """
    from auffusion_cli.parsing import decode, read_toml

    path = config_path()
    if not path.is_file():
        return BUILT_IN
    content = read_toml(path, raising=UsageError, max_bytes=MAX_CONFIG_BYTES)
    if unknown := [name for name in content if name != "presets"]:
        raise UsageError(f"{path}: {unknown[0]!r:.60} is not known", hint="Valid: [presets.NAME].")
    try:
        own = decode(dict[str, dict[str, str | int | float | bool]], content.get("presets", {}))
    except ValueError as error:
        raise UsageError(f"{path}: presets: {error}") from None
    if len(own) > MAX_PRESETS:
        raise UsageError(f"{path}: {len(own):,} presets; there can be {MAX_PRESETS:,}")
    return BUILT_IN | own


def take_preset(ctx: typer.Context, name: str | None) -> str | None:
    """Make the values of preset `name` the defaults of the command (callback of `--preset`).

    Raises:
        UsageError: there is no such preset, or an option in it is not the command's.
    """
    if name is None or ctx.resilient_parsing:
        return name
    presets = read_presets()
    if name not in presets:
        raise UsageError(
            f"--preset {name!r:.60} is not known",
            hint=f"Valid: {', '.join(presets)}; your own stand in {config_path()}.",
        )
    ctx.default_map = _by_parameter(presets[name], name, ctx)
    return name


def _by_parameter(values: Mapping[str, Any], name: str, ctx: typer.Context) -> dict[str, Any]:
    parameters = {
        option.removeprefix("--"): each
        for each in ctx.command.params
        for option in each.opts
        if option.startswith("--") and option not in NOT_IN_PRESETS
    }
    if unknown := [option for option in values if option not in parameters]:
        raise UsageError(
            f"preset {name!r}: --{unknown[0]} is not an option of `{ctx.command_path}`",
            hint="Valid: long options without their dashes, such as duration or loudness.",
        )
    return {parameters[option].name: value for option, value in values.items()}
