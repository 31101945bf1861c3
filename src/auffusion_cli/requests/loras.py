"""`--lora FILE[:WEIGHT]` as users write it, and how the record of a sound names it. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.errors import UsageError
from auffusion_cli.files import hash_file

LORA_NAME = "pytorch_lora_weights.safetensors"
"""diffusers' name of the file in a folder."""
FILE_NAMES = (LORA_NAME, "adapter_model.safetensors")
MAX_WEIGHT = 10.0
MAX_LORAS = 20
"""Of one sound."""


@dataclass(frozen=True)
class LoraRecord:
    """A LoRA in the record of a sound."""

    file: str
    """Its name, without the folder."""
    sha256: str
    weight: float

    def __post_init__(self) -> None:
        if not abs(self.weight) <= MAX_WEIGHT:
            raise ValueError(f"lora weight {self.weight!r} is beyond ±{MAX_WEIGHT:g}")
        if not 1 <= len(self.file) <= 255 or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("lora has no file name and SHA-256")


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA to add to the model, and how much of it."""

    path: str
    """A file, or a folder with one."""
    weight: float = 1.0

    def find(self) -> Path:
        """The file.

        Raises:
            UsageError: there is none.
        """
        path = Path(self.path)
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
        if path.is_dir():
            raise UsageError(f"--lora {path}: no {' or '.join(FILE_NAMES)} in this folder")
        if not path.is_file():
            raise UsageError(f"--lora {path}: there is no such file or folder")
        if path.suffix.lower() != ".safetensors":
            raise UsageError(
                f"--lora {path}: not a .safetensors file",
                hint="Only that format is read: pickled files can hold code.",
            )
        return path

    def record(self) -> LoraRecord:
        """For the record of a sound; errors as of `find`."""
        path = self.find()
        return LoraRecord(path.name[-255:], hash_file(path), self.weight)


def parse_loras(texts: Iterable[str] | None) -> tuple[LoraChoice, ...]:
    """Each as of `parse_lora`; UsageError for too many."""
    choices = tuple(map(parse_lora, texts or ()))
    if len(choices) > MAX_LORAS:
        raise UsageError(f"--lora: {len(choices)} are more than {MAX_LORAS}")
    return choices


def parse_lora(text: str) -> LoraChoice:
    """FILE or FILE:WEIGHT.

    Raises:
        UsageError: the weight is not a number within ±10.
    """
    path, colon, number = text.rpartition(":")
    # A path may hold colons itself: C:\\loras\\bells.safetensors
    if not colon or not path or any(mark in number for mark in "/\\") or not number.strip():
        return LoraChoice(text)
    try:
        weight = float(number)
    except ValueError:
        if number.lower().endswith(".safetensors"):
            return LoraChoice(text)
        weight = math.nan
    if not abs(weight) <= MAX_WEIGHT:
        raise UsageError(
            f"--lora {text}: the weight {number!r} is not a number from {-MAX_WEIGHT:g} to "
            f"{MAX_WEIGHT:g}",
            hint="For example: --lora bells.safetensors:0.8.",
        )
    return LoraChoice(path, weight)
