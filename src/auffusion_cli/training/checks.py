"""Checks of settings: impossible values, and keys that would have no effect. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from auffusion_cli.errors import UsageError


def check(section: str, config: Any, checks: dict[str, tuple[bool, str]]) -> None:
    """Raise a UsageError for the first field of `config` that does not fit."""
    for name, (fits, valid) in checks.items():
        if not fits:
            raise UsageError(f"{section}.{name}: {getattr(config, name)!r} is not {valid}")


def check_unused(
    section: str, config: Any, condition: Any, reason: str, names: Iterable[str]
) -> None:
    """Raise a UsageError where `condition` holds and a field of `names` is not at its default.

    `reason` completes "without effect …".
    """
    if condition and (unused := changed(config) & set(names)):
        keys = ", ".join(f"{section}.{one.name}" for one in fields(config) if one.name in unused)
        raise UsageError(
            f"{keys}: without effect {reason}",
            hint=f"Remove {'it' if len(unused) == 1 else 'them'}, or change what makes "
            f"{'it' if len(unused) == 1 else 'them'} so.",
        )


def changed(config: Any) -> set[str]:
    """The fields of a dataclass that are not at their defaults."""
    defaults = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(config)
    }
    return {name for name, value in defaults.items() if getattr(config, name) != value}
