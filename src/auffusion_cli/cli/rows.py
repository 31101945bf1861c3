"""Settings, requests and records as rows of a table: what says something, in words.

JSON has all of it, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "guidance_scale": "guidance",
    "near_seed": "near the seed",
    "dtype": "precision",
    "samples_sha256": "SHA-256",
    "source_sha256": "SHA-256 of the source",
    "under_sha256": "SHA-256 of the bed",
    "below_db": "bed below speech",
    "duck_db": "ducking",
    "gain_reduction_db": "reduced by",
    "best_of": "best of",
    "sha256": "SHA-256",
    "licences": "recordings by licence",
    "share_alike": "of these, share-alike",
}
"""Of fields that are not called what they are."""
UNITS = {"_s": " s", "_db": " dB", "_lufs": " LUFS", "_hz": " Hz"}
"""End of a field's name -> unit of its value."""
OF_A_MODEL = frozenset(
    ("model", "revision", "vocoder", "engine", "device", "dtype", "steps", "scheduler")
).union(("guidance_scale", "guidance_rescale", "guidance_until", "windows_at_once"))
IDLE = {
    "guidance_rescale": 0.0,
    "guidance_until": 1.0,
    "windows_at_once": 1,
    "first_sample": 0,
    "best_of": 1,
    "resample": 1,
    "downloaded": True,
}
"""Values with which a field does nothing, besides those that are empty or no."""


def in_words(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the fields that matter, in their order."""
    from auffusion_cli.requests.provenance import NO_MODEL

    shown = dict(values)
    if shown.get("near_seed") is None:
        shown.pop("nearness", None)
    if shown.get("model") == NO_MODEL:  # a file was finished, or mixed with another
        shown = {name: value for name, value in shown.items() if name not in OF_A_MODEL}
    if reason := shown.pop("engine_reason", None):
        shown["engine"] = f"{shown['engine']}: {reason}"
    if shown.get("downloaded") is False:
        shown["downloaded"] = "not yet"
    return [
        (_name(name), _text(name, value)) for name, value in shown.items() if _says(name, value)
    ]


def _says(name: str, value: Any) -> bool:
    is_empty = value is None or value is False or (hasattr(value, "__len__") and len(value) == 0)
    return not is_empty and not (name in IDLE and IDLE[name] == value)


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    for ending in UNITS:
        name = name.removesuffix(ending)
    return name.replace("_", " ")


def _text(name: str, value: Any) -> str:
    """A value in words, with its unit; parts with commas."""
    if value is True:
        return "yes"
    if isinstance(value, float):
        value = f"{value:g}"
    if isinstance(value, Mapping):
        value = ", ".join(" ".join(row) for row in in_words(value))
    elif isinstance(value, list | tuple):
        parts = [_text("", part) for part in value]
        is_long = any(isinstance(part, Mapping) for part in value) or name == "timeline"
        value = ("; " if is_long else ", ").join(parts)
    unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
    return " ".join(f"{value}{unit}".split())
