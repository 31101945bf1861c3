"""A sound made from words as a command's input: described by options, or by a file's record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import UsageError

if TYPE_CHECKING:
    from auffusion_cli.requests.loras import LoraChoice
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
Trim = Annotated[
    bool | None,
    typer.Option("--trim/--no-trim", help=f"{options.TRIM_HELP} By default as FILE."),
]
OptionalNegative = Annotated[str | None, typer.Option("--negative", help=options.NEGATIVE_HELP)]


@dataclass(frozen=True)
class Computation:
    """Vocoder, device and precision; None is as the file was made."""

    vocoder: Vocoder = None
    device: Device = None
    dtype: Dtype = None


@dataclass(frozen=True)
class Origin:
    """A sound made from words: request, settings, model and machine."""

    request: GenerateRequest
    asked: Mapping[str, Any]
    """Fields of `GenerateSettings`; None is the model's default."""
    loading: options.Loading
    name: str
    """For the names of results."""
    recorded: Provenance | None = None
    """None if options describe it."""
    source: str = ""
    """The file's name, without a folder."""
    source_sha256: str = ""

    def loading_with(self, model: str | None, computation: Computation) -> options.Loading:
        """As the sound was made, but for what options say."""
        own = self.loading
        return options.Loading(
            model=model or own.model,
            vocoder=computation.vocoder or own.vocoder,
            device=computation.device or own.device,
            dtype=computation.dtype or own.dtype,
            lora=own.lora,
        )


def origin_of_words(
    prompt: str,
    seed: int | None,
    negative_prompt: str | None,
    trim: bool | None,
    asked: Mapping[str, Any],
) -> Origin:
    """The sound that options describe; a seed that they lack is drawn, and printed."""
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.requests.seeds import draw_seed

    request = GenerateRequest(
        prompt,
        draw_seed() if seed is None else seed,
        negative_prompt or "",
        trim=True if trim is None else trim,
    )
    if seed is None:
        console.note_seed(request.seed)
    return Origin(request, asked, options.Loading(), name=prompt)


def origin_of_file(
    path: Path, named_model: str | None, given: Mapping[str, Any], asked: Mapping[str, Any]
) -> Origin:
    """The sound that the record of `path` describes, made by `named_model` if that is not None.

    Options that are `given`, and settings that are `asked`, would contradict it: all must be None.

    Raises:
        UsageError: it was not made by `generate` from one prompt, by a model that is not known and
            not named either, or something else is given or asked.
        AudioError: it cannot be read, or carries no record.
    """
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.requests.settings import SETTING_OPTIONS
    from auffusion_cli.signal.recording import read_recording
    from auffusion_cli.signal.sound_file import read_record

    recorded = read_record(path)
    request = recorded.request
    if type(request) is not GenerateRequest:
        raise UsageError(
            f"{path} was made by `{request.task}`; only a sound that `generate` made from one"
            " prompt can be used",
            hint=(
                "Start from the file that it was edited from, and give all edits at once."
                if request.task == "edit"
                else None
            ),
        )
    if request.loop:
        raise UsageError(f"{path} is a loop; only a sound with a start and an end can be used")
    if recorded.loras:
        raise UsageError(
            f"{path} was made with a LoRA, which this command does not add",
            hint="Merge it (auffusion models convert MODEL --lora FILE -o FOLDER), and make the "
            "sound with that model.",
        )
    if request.near_seed is not None:
        raise UsageError(
            f"{path} was made near another sound (--near), and cannot be used here",
            hint="Use one that was made without --near.",
        )
    values = dict(given) | {SETTING_OPTIONS[field]: value for field, value in asked.items()}
    if contradicting := [option for option, value in values.items() if value is not None]:
        raise UsageError(
            f"{contradicting[0]} does not go with {path}, whose record says how it was made",
            hint="Leave it out; or give the prompt and seed instead of the file.",
        )
    return Origin(
        request,
        asdict(recorded.settings),
        options.Loading(
            model=named_model or recorded_model(recorded, path),
            vocoder=recorded.vocoder,
            device=recorded_device(recorded),
            dtype=recorded.dtype,
        ),
        name=path.stem,
        recorded=recorded,
        source=path.name,
        source_sha256=read_recording(path).sha256,
    )


def recorded_model(recorded: Provenance, path: Path) -> str:
    """The model that the record of `path` names, if it is a known one."""
    from auffusion_cli.checkpoints.names import KNOWN

    if recorded.model not in KNOWN:
        raise UsageError(
            f"{path} was made by the model {recorded.model!r}, which is not a known one",
            hint="If you trust that model, name it: --model NAME|HUB_ID|FOLDER.",
        )
    if recorded.revision is None:
        return recorded.model
    if not re.fullmatch(r"[0-9a-f]{40}", recorded.revision):
        raise UsageError(f"{path}: {recorded.revision!r} is not the name of a commit")
    return f"{recorded.model}@{recorded.revision}"


def recorded_loras(
    recorded: Provenance, path: Path, named: Sequence[str]
) -> tuple[LoraChoice, ...]:
    """The LoRAs that `path` was made with, found among the `named` files by their content.

    Raises:
        UsageError: one is not among them, or there are others.
    """
    from auffusion_cli.checkpoints.lora_file import check_loras
    from auffusion_cli.requests.loras import LoraChoice, parse_loras

    check_loras(choices := parse_loras(named))
    found = {choice.record().sha256: choice.path for choice in choices}
    for lora in recorded.loras:
        if lora.sha256 not in found:
            raise UsageError(
                f"{path} was made with the LoRA {lora.file!r} (SHA-256 {lora.sha256[:12]}…)",
                hint="Name that file: --lora FILE.",
            )
    if others := set(found) - {lora.sha256 for lora in recorded.loras}:
        raise UsageError(f"--lora {found[others.pop()]}: {path} was not made with it")
    return tuple(LoraChoice(found[lora.sha256], lora.weight) for lora in recorded.loras)


def recorded_device(recorded: Provenance) -> str:
    """The device on which the sound was made, or auto where there is none of its kind."""
    if recorded.device == "cpu" or is_here(recorded.engine, recorded.device):
        return recorded.device
    console.warn(f"made on {recorded.device}, which is not here: the samples may differ")
    return "auto"


def is_here(engine: str, device: str) -> bool:
    """Whether this machine has a device for an engine."""
    from auffusion_cli.cli.resolve import check_device

    try:
        check_device(engine, device)
    except UsageError:
        return False
    return True
