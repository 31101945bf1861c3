"""Sound from words.

    import auffusion_cli as auffusion

    model = auffusion.load_model()
    sound = auffusion.generate(model, "dog barking in rain", seed=1)
    sound.save("rain.wav")

Nothing heavy is imported before one of these names is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_IN_API = (
    "GenerateRequest",
    "GenerateResult",
    "GenerateSettings",
    "Model",
    "Provenance",
    "TimelineRequest",
    "generate",
    "generate_many",
    "load_model",
)
_IN_ERRORS = ("AuffusionError", "AuffusionWarning")

__all__ = ["__version__", *_IN_API, *_IN_ERRORS]


def __getattr__(name: str) -> Any:
    if name in _IN_API:
        return getattr(import_module("auffusion_cli.api"), name)
    if name in _IN_ERRORS:
        return getattr(import_module("auffusion_cli.errors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
