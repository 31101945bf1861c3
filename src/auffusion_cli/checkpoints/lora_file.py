"""LoRA files by their headers: which layers they change, known before anything is loaded. No torch.

Read are the names of diffusers, of peft and of kohya's scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from auffusion_cli.engines.graph_file import read_metadata, read_places
from auffusion_cli.errors import CheckpointError
from auffusion_cli.parsing import parse_json
from auffusion_cli.requests.loras import FILE_NAMES, LoraChoice

ENDINGS = {
    "down": (
        ".lora_A.weight",
        ".lora_A.default.weight",
        ".lora.down.weight",
        ".lora_down.weight",
        "_lora.down.weight",
    ),
    "up": (
        ".lora_B.weight",
        ".lora_B.default.weight",
        ".lora.up.weight",
        ".lora_up.weight",
        "_lora.up.weight",
    ),
    "alpha": (".alpha",),
}
"""Ends of a tensor's name by which it is told what it is: peft, diffusers, kohya, old diffusers."""
METADATA_KEY = "auffusion"
"""Under which a file of this program says what it was trained on."""
OF_TEXT = ("text_encoder", "lora_te")
"""Beginnings of the names of tensors for a text encoder."""


def check_loras(choices: Iterable[LoraChoice]) -> None:
    """Read the headers of the files of `choices`.

    Raises:
        UsageError: there is no such file.
        CheckpointError: one is damaged or truncated, or is no LoRA of a UNet.
    """
    for choice in choices:
        path = choice.find()
        names = [name for name in read_places(path) if not name.startswith(OF_TEXT)]
        if not names:
            raise CheckpointError(f"{path}: changes nothing of a UNet")
        for name in names:
            parse_name(name, path)


def find_lora(name: str) -> Path | None:
    """The file of the LoRA that `name` is, or is the folder of; None where it is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(name)
    files = [path / each for each in FILE_NAMES] if path.is_dir() else [path]
    file = next((each for each in files if each.is_file()), None)
    if file is None or file.suffix.lower() != ".safetensors" or (path / "unet").exists():
        return None
    endings = tuple(ending for of_role in ENDINGS.values() for ending in of_role)
    return file if any(tensor.endswith(endings) for tensor in read_places(file)) else None


def describe_lora(path: Path) -> dict[str, Any]:
    """Description of a LoRA from the header of its file.

    Raises:
        CheckpointError: it is damaged, or is no LoRA of a UNet.
    """
    ranks, n_layers = set(), 0
    for name, place in read_places(path).items():
        if not name.startswith(OF_TEXT) and parse_name(name, path)[1] == "down":
            n_layers += 1
            ranks.update(place.shape[:1])
    return {
        "kind": "LoRA",
        "file": str(path),
        **read_about(path),
        "ranks": sorted(ranks),
        "layers": n_layers,
        "size_bytes": path.stat().st_size,
    }


def read_about(path: Path) -> dict[str, str | None]:
    """What a file of this program says of itself: `base`, the model that it changes, and `trigger`,
    the words that call what it was trained on; None is what it does not say."""
    about = read_entry(path, METADATA_KEY)
    texts = {name: about.get(name) for name in ("trigger", "base")}
    return {name: text[:1000] if isinstance(text, str) else None for name, text in texts.items()}


def read_entry(path: Path, key: str) -> dict[str, Any]:
    """The JSON object under a key of the file's metadata; empty where there is none."""
    content = parse_json(
        read_metadata(path).get(key, "{}"), raising=CheckpointError, where=str(path)
    )
    return content if isinstance(content, dict) else {}


def parse_name(name: str, path: Path) -> tuple[str, str]:
    """(layer, down | up | alpha) of a tensor's name, without what it begins with.

    Raises:
        CheckpointError: it is no tensor of a LoRA; names the file `path`.
    """
    for role, endings in ENDINGS.items():
        for ending in endings:
            if name.endswith(ending):
                layer = name.removesuffix(ending).removeprefix("base_model.model.")
                layer = layer.removeprefix("unet.").replace(".processor.", ".")
                return re.sub(r"\.to_out$", ".to_out.0", layer), role
    kind = "DoRA or another" if re.search("dora|magnitude|hada_|lokr", name) else "no"
    raise CheckpointError(
        f"{path}: tensor {name[:100]!r} is of {kind} LoRA",
        hint="Plain LoRAs of a UNet are read, in the names of diffusers, peft and kohya.",
    )
