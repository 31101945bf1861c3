"""The command line that makes a sound of the history again, to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auffusion_cli.checkpoints.names import KNOWN
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.requests.finish import FINISH_OPTIONS
from auffusion_cli.requests.settings import SETTING_OPTIONS

TASK_OPTIONS: dict[str, dict[str, tuple[str, Any]]] = {
    "generate": {},
    "timeline": {"timeline": ("--timeline", "")},
    "edit": {
        "swaps": ("--swap", []),
        "refine": ("--refine", ""),
        "reweights": ("--reweight", []),
        "cross_steps": ("--cross-steps", 0.8),
        "self_steps": ("--self-steps", 0.4),
    },
    "inpaint": {
        "masks": ("--mask", []),
        "bands": ("--band", []),
        "prompt": ("--prompt", ""),
        "crossfade_s": ("--crossfade", 0.02),
        "resample": ("--resample", 1),
    },
    "extend": {
        "by_s": ("--by", None),
        "prompt": ("--prompt", ""),
        "crossfade_s": ("--crossfade", 0.1),
        "over_s": ("--over", None),
    },
    "finish": {},
    "style-transfer": {"strength": ("--strength", None), "method": ("--method", "sdedit")},
}
"""Task -> field of the record -> (option, its default, which is left out)."""
PROMPTED = ("generate", "timeline", "style-transfer")
"""Tasks whose command takes the prompt as an argument."""


@dataclass(frozen=True)
class Loaded:
    """The model of a studio, as far as commands have to ask for the same."""

    defaults: GenerationDefaults
    """The model's, which need no option."""
    loras: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of a LoRA -> its path."""
    options: tuple[str, ...] = ()
    """How it computes, where that was said: --engine, --device …"""


def command_line(
    record: Mapping[str, Any], output: str, source: Path | None, loaded: Loaded
) -> str:
    """The command, quoted for a shell, that makes the sound of `record` and writes `output`.

    Args:
        source: the recording that was changed; None for a sound made from words.
    """
    task = record["task"]
    words = ["auffusion", "generate" if task == "timeline" else task]
    if source is not None:
        words.append(str(source))
    for name, (option, default) in TASK_OPTIONS[task].items():
        value = record.get(name, default)  # older records have fewer
        if value not in (default, ()):
            values = value if isinstance(value, list | tuple) else [value]
            words += [part for each in values for part in (option, _text(each))]
    if record.get("where", "after") != "after":
        words.append(f"--{record['where']}")
    if record.get("negative_prompt") and task != "edit":
        words += ["--negative", record["negative_prompt"]]
    if task in ("generate", "timeline"):
        words += ["--duration", _text(record["duration_s"])]
        words += ["--no-trim"] if task == "generate" and not record["trim"] else []
        words += ["--one-shot"] if record.get("one_shot") else []
        words += ["--loop"] if record.get("loop") else []
        if record.get("near_seed") is not None:
            words += ["--near", str(record["near_seed"]), "--nearness", _text(record["nearness"])]
    if task in ("generate", "timeline", "inpaint", "extend"):
        words.append("--no-guards")  # as another seed's sound is not wanted
    for name, value in record.get("finish", {}).items():
        words += [FINISH_OPTIONS[name]] if value is True else [FINISH_OPTIONS[name], _text(value)]
    if task == "edit":  # seed and settings are the source's
        words += [] if record["model"] in KNOWN else ["--model", record["model"]]
    elif task != "finish":
        words += _sampling(record, loaded)
    words += ["-o", output]
    # Last, so that one that begins with a hyphen can be told from an option.
    if prompt := record["prompt"] if task in PROMPTED else "":
        words += ["--", prompt] if prompt.startswith("-") else [prompt]
    return shlex.join(words)


def _sampling(record: Mapping[str, Any], loaded: Loaded) -> list[str]:
    words = []
    for name, option in SETTING_OPTIONS.items():
        if name == "duration_s":  # said before, or that of the source
            continue
        default = getattr(loaded.defaults, name)
        if (value := record.get(name, default)) != default:  # older records have fewer
            words += [option, _text(value)]
    words += ["--seed", str(record["seed"])]
    words += [] if record["model"] == "embedded" else ["--model", record["model"]]
    for lora in record.get("loras", ()):
        path = loaded.loras.get(lora["sha256"], lora["file"])
        words += ["--lora", f"{path}:{_text(lora['weight'])}"]
    return [*words, *loaded.options]


def _text(value: Any) -> str:
    """A number as options read it, to a billionth."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return str(value)
