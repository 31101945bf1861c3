"""Recognition of files and folders that are no checkpoint: LoRAs, single files. No torch."""

from __future__ import annotations

from pathlib import Path

from auffusion_cli.checkpoints.families import STABILITY_CONFIG, T5GEMMA
from auffusion_cli.errors import CheckpointError
from auffusion_cli.files import open_regular
from auffusion_cli.parsing import parse_json, read_json

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
LORA_MARKS = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down", "lora.up", "lora_unet_")
SINGLE_FILE_PREFIX = "model.diffusion_model."
MAX_HEADER_BYTES = 25_000_000
PARTS = {"vae": "autoencoder", "vocoder": "vocoder"}
"""Folder of a part that a training writes by itself -> the option that names it."""

LORA_HINT = (
    "Name the model it was made for, and add it: --model NAME --lora FILE. `auffusion models "
    "convert NAME --lora FILE -o FOLDER` merges the two."
)
SINGLE_FILE_HINT = (
    "diffusers makes a folder of it: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
)


def recognise(path: Path) -> tuple[str, str | None]:
    """(description, hint) of a file or folder that is no checkpoint's folder."""
    return _recognise_folder(path) if path.is_dir() else _recognise_file(path)


def _recognise_file(path: Path) -> tuple[str, str | None]:
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        return "a file; a checkpoint is a folder", None
    names = _tensor_names(path)
    if _is_lora(names):
        return "a LoRA, which changes another model's weights; a checkpoint is a folder", LORA_HINT
    if path.suffix.lower() == ".ckpt" or any(name.startswith(SINGLE_FILE_PREFIX) for name in names):
        return "a single-file checkpoint; a folder is needed", SINGLE_FILE_HINT
    return "the weights of one network; a checkpoint is a folder of several", None


def _recognise_folder(folder: Path) -> tuple[str, str | None]:
    neither = (
        "not a checkpoint: it has neither condition_config.json (Auffusion's layout) nor "
        "model_index.json (Stable Diffusion's)"
    )
    if (folder / "adapter_config.json").is_file():
        return "an adapter (LoRA), which changes another model's weights", LORA_HINT
    if (folder / STABILITY_CONFIG).is_file():
        return (
            f"{neither}, but Stability AI's {STABILITY_CONFIG}: of a Stable Audio 3 the folder "
            f"{T5GEMMA} is missing",
            None,
        )
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in WEIGHT_SUFFIXES)
    if any(_is_lora(_tensor_names(path)) for path in files[:10]):
        return "the folder of a LoRA, which changes another model's weights", LORA_HINT
    if any(path.suffix.lower() == ".ckpt" for path in files):
        return f"{neither}, but the single-file checkpoint {files[0].name}", SINGLE_FILE_HINT
    if class_name := _class_name(folder / "config.json"):
        return f"one network ({class_name}); a checkpoint is a folder of several", None
    for part, option in PARTS.items():
        if (folder / part / "config.json").is_file() and not (folder / "unet").exists():
            return (
                f"a part of a model, its {option}",
                f"A training takes it as diffusion.{option}, and `models compose` as --{option}.",
            )
    return neither, None


def _class_name(config_path: Path) -> str | None:
    if not config_path.is_file():
        return None
    try:
        config = read_json(config_path, raising=CheckpointError)
    except CheckpointError:
        return None
    if not isinstance(config, dict):
        return None
    architectures = config.get("architectures")
    name = config.get("_class_name") or (
        architectures[0] if isinstance(architectures, list) and architectures else None
    )
    return name[:60] if isinstance(name, str) else None


def _is_lora(names: list[str]) -> bool:
    return any(mark in name for name in names for mark in LORA_MARKS)


def _tensor_names(path: Path) -> list[str]:
    """Names of the tensors of a safetensors file; of others, which are pickles, none."""
    if path.suffix.lower() != ".safetensors":
        return []
    try:
        with open_regular(path) as file:
            n_bytes = int.from_bytes(file.read(8), "little")
            if n_bytes > MAX_HEADER_BYTES:
                return []
            text = file.read(n_bytes).decode("utf-8")
        header = parse_json(text, raising=CheckpointError, where=str(path))
    except (OSError, ValueError, CheckpointError):
        return []
    return list(header) if isinstance(header, dict) else []
