"""The command line that makes a sound of the history again, to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auffusion_cli.config import GenerationDefaults

TASK_OPTIONS: dict[str, dict[str, tuple[str, Any]]] = {
    "generate": {},
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
    },
    "finish": {},
    "style-transfer": {"strength": ("--strength", None), "method": ("--method", "sdedit")},
}
"""Task -> field of the record -> (option, its default, which is left out)."""
FINISH_OPTIONS = {
    "fade_in_s": "--fade-in",
    "fade_out_s": "--fade-out",
    "loudness_lufs": "--loudness",
    "peak_db": "--peak",
    "rate_hz": "--rate",
    "channels": "--channels",
    "broadcast": "--broadcast",
}
SETTING_OPTIONS = {
    "steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
    "scheduler": "--scheduler",
}


def command_line(
    record: Mapping[str, Any], output: str, source: Path | None, defaults: GenerationDefaults
) -> str:
    """The command, quoted for a shell, that makes the sound of `record` and writes `output`.

    Args:
        source: the recording that was changed; None for a sound made from words.
        defaults: the model's, which need no option.
    """
    task = record["task"]
    words = ["auffusion", task]
    if source is not None:
        words.append(str(source))
    for name, (option, default) in TASK_OPTIONS[task].items():
        values = record[name] if isinstance(record[name], list | tuple) else [record[name]]
        if record[name] not in (default, ()):
            words += [part for value in values for part in (option, _text(value))]
    if record.get("where", "after") != "after":
        words.append(f"--{record['where']}")
    if record.get("negative_prompt"):
        words += ["--negative", record["negative_prompt"]]
    if task == "generate":
        words += ["--duration", _text(record["duration_s"])]
        words += [] if record["trim"] else ["--no-trim"]
        if record.get("near_seed") is not None:
            words += ["--near", str(record["near_seed"]), "--nearness", _text(record["nearness"])]
    if task in ("generate", "inpaint", "extend"):
        words.append("--no-guards")  # as another seed's sound is not wanted
    for name, value in record.get("finish", {}).items():
        words += [FINISH_OPTIONS[name]] if value is True else [FINISH_OPTIONS[name], _text(value)]
    if task != "finish":
        words += _sampling(record, defaults)
    words += ["-o", output]
    # Last, so that one that begins with a hyphen can be told from an option.
    if prompt := record["prompt"] if task in ("generate", "style-transfer") else "":
        words += ["--", prompt] if prompt.startswith("-") else [prompt]
    return shlex.join(words)


def _sampling(record: Mapping[str, Any], defaults: GenerationDefaults) -> list[str]:
    words = []
    for name, option in SETTING_OPTIONS.items():
        if record[name] != getattr(defaults, name):
            words += [option, _text(record[name])]
    words += ["--seed", str(record["seed"])]
    return words if record["model"] == "embedded" else [*words, "--model", record["model"]]


def _text(value: Any) -> str:
    """A number as options read it, to a billionth."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return str(value)
