"""A sound made from words as where a command starts: from options, or from a file's record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.provenance import Provenance
    from auffusion_cli.requests.request import GenerateRequest

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|HUB_ID|FOLDER",
        help="By default the one that FILE was made with, or else embedded.",
    ),
]
Vocoder = Annotated[
    Literal["auto", "hifigan", "griffin-lim"] | None,
    typer.Option("--vocoder", help="By default FILE's, or else the model's."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option("--device", help="By default where FILE was made, or else a GPU if there is one."),
]
Dtype = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"] | None,
    typer.Option("--dtype", help="By default FILE's, or else the best for the device."),
]


SETTING_OPTIONS = {
    "duration_s": "--duration",
    "steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
    "scheduler": "--scheduler",
}


@dataclass(frozen=True)
class Origin:
    """One sound made from words: which, how and where."""

    request: GenerateRequest
    asked: Mapping[str, Any]
    """Fields of `GenerateSettings`; None is the model's default."""
    model: str
    vocoder: str
    device: str
    dtype: str
    name: str
    """For the names of results."""
    recorded: Provenance | None = None
    """None if it was told by options."""
    source: str = ""
    """The file's name, without a folder."""
    source_sha256: str = ""


def origin_of_words(
    prompt: str, seed: int | None, negative_prompt: str | None, asked: Mapping[str, Any]
) -> Origin:
    """What options say; a seed that they do not say is drawn, and told."""
    from auffusion_cli.requests.request import GenerateRequest, draw_seed

    request = GenerateRequest(prompt, draw_seed() if seed is None else seed, negative_prompt or "")
    if seed is None:
        console.note_seed(request.seed)
    return Origin(request, asked, "embedded", "auto", "auto", "auto", name=prompt)


def origin_of_file(
    path: Path,
    named_model: str | None,
    told: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Origin:
    """What the record of `path` says, to be made by `named_model` if that is not None.

    `told` (by option) and `asked` (by field of `GenerateSettings`) would contradict it: only None
    will do.

    Raises:
        UsageError: it was not made by `generate` from one prompt, by a model that is not known and
            not named either, or something is told or asked besides.
        AudioError: it cannot be read, or carries no record.
    """
    from auffusion_cli.cli.commands.info import read_record
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.signal.recording import read_recording

    recorded = read_record(path)
    request = recorded.request
    if type(request) is not GenerateRequest:
        raise UsageError(
            f"{path} was made by `{request.task}`; only a sound that `generate` made from one"
            " prompt will do.",
            hint=(
                "Start from the file that it was edited from, and give all edits at once."
                if request.task == "edit"
                else None
            ),
        )
    options = dict(told) | {SETTING_OPTIONS[field]: value for field, value in asked.items()}
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} does not go with {path}, whose record says how it was made.",
            hint="Leave it out; or give the prompt and seed instead of the file.",
        )
    return Origin(
        request,
        asdict(recorded.settings),
        model=named_model or recorded_model(recorded, path),
        vocoder=recorded.vocoder,
        device=recorded_device(recorded),
        dtype=recorded.dtype,
        name=path.stem,
        recorded=recorded,
        source=path.name,
        source_sha256=read_recording(path).sha256,
    )


def recorded_model(recorded: Provenance, path: Path) -> str:
    """The model that the file names, if it is one that everybody knows."""
    from auffusion_cli.checkpoints.names import KNOWN

    if recorded.model not in KNOWN:
        raise UsageError(
            f"{path} was made by the model {recorded.model!r}, which is not a known one.",
            hint="If you trust that model, name it: --model NAME|HUB_ID|FOLDER.",
        )
    if recorded.revision is None:
        return recorded.model
    if not re.fullmatch(r"[0-9a-f]{40}", recorded.revision):
        raise UsageError(f"{path}: {recorded.revision!r} is not the name of a commit.")
    return f"{recorded.model}@{recorded.revision}"


def recorded_device(recorded: Provenance) -> str:
    """The device on which the file was made, or auto where there is none of its kind."""
    import torch

    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if here.get(recorded.device, False):
        return recorded.device
    console.warn(f"made on {recorded.device}, which is not here: the samples may differ")
    return "auto"
