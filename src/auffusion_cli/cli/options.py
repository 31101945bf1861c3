"""Options that several commands share, so that they read and behave the same everywhere.

A command takes them one by one as types (`json: Json = False`), or in groups: dataclasses whose
fields are options. `grouped` makes a command that takes groups one that typer can read.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from auffusion_cli.config import SchedulerName

if TYPE_CHECKING:
    from auffusion_cli.requests.finish import Finish
    from auffusion_cli.requests.selection import Choosing


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options of each group in the place of the parameter for the group."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    flat = []
    for each in parameters:
        if each.name in groups:
            flat += _options_of(each.annotation)
        else:
            flat.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = inspect.Signature(flat)
    run.__annotations__ = {each.name: each.annotation for each in flat}
    return run


def _options_of(group: type) -> list[inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(group)
    ]


def _complete_model(incomplete: str) -> list[str]:
    from auffusion_cli.checkpoints.names import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


# --- the model, and the device it runs on

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|HUB_ID|FOLDER",
        help="A known name (see `auffusion models list`), a Hub id, or a checkpoint folder.",
        autocompletion=_complete_model,
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where to compute; auto takes a GPU if there is one."),
]
Dtype = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    typer.Option("--dtype", help="Precision of the weights; auto is the best for the device."),
]
Vocoder = Annotated[
    Literal["auto", "hifigan", "griffin-lim"],
    typer.Option("--vocoder", help="Turns the spectrogram into a waveform; auto is the model's."),
]
Engine = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option("--engine", help="What computes; auto starts fastest: onnx, where it can."),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA of the model, a file or a run's folder, and how much of it; repeatable.",
    ),
]


@dataclass(frozen=True)
class Loading:
    """Model with its LoRAs, vocoder, engine, device and precision."""

    model: Model = "embedded"
    lora: Lora = None
    vocoder: Vocoder = "auto"
    engine: Engine = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"


# --- the run

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist.", show_default=False)
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print each result as a line of JSON on stdout.", show_default=False
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Agree to every question.", show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, resolved, and stop.")
]


@dataclass(frozen=True)
class Run:
    """Options for what a run shows, asks and replaces."""

    dry_run: DryRun = False
    json: Json = False
    overwrite: Overwrite = False
    yes: Yes = False


# --- the sound


def seconds(option: str, help: str) -> Any:
    """An option that is a duration: 2s, 0.5, 800ms, 1:30."""

    def parse(text: str) -> float:
        from auffusion_cli.requests.masks import parse_duration

        return parse_duration(str(text), option)

    return typer.Option(option, metavar="TIME", parser=parse, help=help, show_default=False)


MAX_SOUNDS = 100_000
"""Of one run, which holds a plan of all of them in memory."""
Prompts = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT...", help="The sound in words.")
]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A list of prompts: .txt, .csv or .jsonl; - reads standard input.",
    ),
]


def _parse_shard(text: str) -> Any:
    from auffusion_cli.requests.shards import parse_shard

    return parse_shard(str(text))


Shard = Annotated[
    Any,
    typer.Option(
        "--shard",
        metavar="K/N",
        parser=_parse_shard,
        help="Only part K of N, from 1; each may run on another machine.",
        show_default=False,
    ),
]
Variations = Annotated[
    int,
    typer.Option(
        "-n", min=1, max=MAX_SOUNDS, help="Variations of each prompt, with consecutive seeds."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Encoding of the list: latin-1, cp1252; by default UTF-8 or UTF-16."
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same sound; drawn if not given.")
]
NEGATIVE_HELP = "Sounds to avoid, in words."
Negative = Annotated[str, typer.Option(help=NEGATIVE_HELP)]
NewPart = Annotated[
    str, typer.Option("--prompt", help="The new sound in words; without it, one that fits.")
]
Duration = Annotated[
    float | None, seconds("--duration", "Length of the sound: 3, 2.5s, 800ms, 1:30; up to an hour.")
]
TRIM_HELP = "Of a sound shorter than the model's window keep the part with the sound, or its start."
Trim = Annotated[bool, typer.Option("--trim/--no-trim", help=TRIM_HELP)]
OneShot = Annotated[
    bool,
    typer.Option(
        "--one-shot", help="Keep one event, as long as it lasts; --duration is the longest."
    ),
]
Loop = Annotated[
    bool, typer.Option("--loop", help="Make a seamless loop of exactly this duration.")
]


def _parse_steps(text: str) -> Any:
    if str(text) == "auto":
        return "auto"
    try:
        return int(str(text))
    except ValueError:
        from auffusion_cli.errors import UsageError

        raise UsageError(f"--steps {text!r} is neither a whole number nor auto") from None


Steps = Annotated[
    Any,
    typer.Option(
        "--steps",
        metavar="N|auto",
        parser=_parse_steps,
        help="Denoising steps; auto is the fewest that sound like the paper's 100.",
        show_default=False,
    ),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="How closely to follow the prompt; 1 is off.")
]
GuidanceRescale = Annotated[
    float | None, typer.Option(help="0 to 1: tames high guidance (Lin et al. 2023).")
]
GuidanceUntil = Annotated[float | None, typer.Option(help="0 to 1: the share of guided steps.")]
Scheduler = Annotated[SchedulerName | None, typer.Option(help="The sampling method.")]
NearSeed = Annotated[
    int | None,
    typer.Option(
        "--near", metavar="SEED", help="Make sounds like the one of this seed: see --nearness."
    ),
]
Nearness = Annotated[
    float | None,
    typer.Option(help="0 to 1: how like that of --near; by default 0.7.", show_default=False),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Sounds made at once; by default 8 on CUDA, else 1.")
]


@dataclass(frozen=True)
class Sampling:
    """Settings of the denoising loop; None is the model's default."""

    steps: Steps = None
    guidance_scale: Guidance = None
    guidance_rescale: GuidanceRescale = None
    guidance_until: GuidanceUntil = None
    scheduler: Scheduler = None

    def lasting(self, duration_s: float | None) -> dict[str, Any]:
        """The fields of `GenerateSettings` that are asked for, with a duration."""
        return {"duration_s": duration_s, **asdict(self)}


# --- the finished file


def parsed(option: str, parser: str, metavar: str, help: str) -> Any:
    """An option that a function of `requests.finish` reads."""

    def parse(text: str) -> Any:
        from auffusion_cli.requests import finish

        return getattr(finish, parser)(str(text))

    return typer.Option(option, metavar=metavar, parser=parse, help=help, show_default=False)


LowCut = Annotated[
    float | None,
    parsed("--low-cut", "parse_low_cut", "HZ", "Take away what is below, such as 40: rumble."),
]
FadeIn = Annotated[float, seconds("--fade-in", "Fade in over this long.")]
FadeOut = Annotated[float, seconds("--fade-out", "Fade out over this long.")]
Loudness = Annotated[
    float | None,
    parsed(
        "--loudness", "parse_loudness", "LUFS", "Integrated loudness (BS.1770), such as -16LUFS."
    ),
]
Peak = Annotated[
    float | None,
    parsed(
        "--peak",
        "parse_peak",
        "DB",
        "True peak, such as -1dB; with --loudness the highest allowed, by default -1dB.",
    ),
]
Rate = Annotated[
    int | None, parsed("--rate", "parse_rate", "HZ", "Sample rate: 48000, 44.1k; resampled.")
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="2 makes a stereo image of one channel, which a mono sum undoes, or folds 5.1; "
        "1 is mono."
    ),
]
Broadcast = Annotated[
    bool, typer.Option("--broadcast", help="Put broadcast fields (bext) into a wav.")
]
ExtendBand = Annotated[
    bool,
    typer.Option(
        "--extend-band",
        help="With --rate 48000: make what is missing above 8 kHz, by what is below.",
    ),
]


@dataclass(frozen=True)
class Finishing:
    """What is done to the sound once it is made."""

    low_cut_hz: LowCut = None
    fade_in_s: FadeIn = 0.0
    fade_out_s: FadeOut = 0.0
    loudness_lufs: Loudness = None
    peak_db: Peak = None
    rate_hz: Rate = None
    channels: Channels = None
    broadcast: Broadcast = False
    extend_band: ExtendBand = False

    def finish(self) -> Finish | None:
        """What is asked for, checked; None where nothing is."""
        from auffusion_cli.requests.finish import Finish

        asked = Finish(**asdict(self))
        return asked if asked.to_dict() else None


# --- the best of many

BestOf = Annotated[
    int,
    typer.Option("--best-of", metavar="N", help="Make so many of each sound, and keep the best."),
]
KeepAll = Annotated[
    bool, typer.Option("--keep-all", help="Keep the others too, their names with their ranks.")
]
Guards = Annotated[
    bool,
    typer.Option(
        "--guards/--no-guards",
        help="Make again what is silent, clipped, a plain tone or noise, or speech, unasked.",
    ),
]


@dataclass(frozen=True)
class Choice:
    """Candidates for each sound, and guards."""

    best_of: BestOf = 1
    keep_all: KeepAll = False
    guards: Guards = True

    def choosing(self) -> Choosing:
        """What is asked, checked."""
        from auffusion_cli.requests.selection import Choosing

        return Choosing(**asdict(self))


# --- presets


def _take_preset(ctx: typer.Context, name: str | None) -> str | None:
    from auffusion_cli.cli.presets import take_preset

    return take_preset(ctx, name)


Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=_take_preset,
        is_eager=True,
        help="Options under a name: game-oneshot, loop, bed, or your own (`auffusion config`).",
    ),
]
