"""`auffusion doctor`: what this machine has, and what to do about what is wrong."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor() -> None:
    """Check versions, devices, memory, caches and weights, and say what to do."""
