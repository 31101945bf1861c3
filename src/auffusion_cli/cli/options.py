"""Options that several commands share, so that they read and behave the same everywhere.

A command takes them as types: `def info(model: Model = "embedded", json: Json = False)`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def _complete_model(incomplete: str) -> list[str]:
    from auffusion_cli.checkpoints.names import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


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
    typer.Option("--vocoder", help="What turns the spectrogram into sound; auto is the model's."),
]
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

# --- what to make, and how

Prompts = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT...", help="What should be heard.")
]
PromptsFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A list of prompts: .txt, .csv or .jsonl; - reads standard input.",
    ),
]
Variations = Annotated[
    int, typer.Option("-n", min=1, help="Variations of each prompt, with consecutive seeds.")
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same sound; drawn if not given.")
]
Negative = Annotated[str, typer.Option(help="What it should not sound like.")]
Duration = Annotated[float | None, typer.Option("--duration", help="Seconds of sound.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="How closely to follow the prompt; 1 is off.")
]
GuidanceRescale = Annotated[
    float | None, typer.Option(help="0 to 1: tames high guidance (Lin et al. 2023).")
]
SchedulerName = Literal["pndm", "ddim", "dpm++", "unipc", "euler"]
Scheduler = Annotated[SchedulerName | None, typer.Option(help="The sampling method.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Sounds made at once; by default 8 on CUDA, else 1.")
]
