"""`auffusion models compose`: a checkpoint to train from, put together from parts of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from auffusion_cli.cli import console, options, resolve


def compose(
    unet: Annotated[
        str,
        typer.Option(
            metavar="NAME|HUB_ID|FOLDER",
            help="The checkpoint whose UNet and noise schedule it gets, and what is not named.",
        ),
    ],
    text_encoders: Annotated[
        list[str],
        typer.Option(
            "--text-encoder",
            metavar="HUB_ID|FOLDER",
            help="A CLIP, CLAP, T5 or BERT-like model, or a checkpoint's; repeatable, in order.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    autoencoder: Annotated[
        str | None,
        typer.Option(metavar="NAME|HUB_ID|FOLDER", help="By default that of --unet."),
    ] = None,
    vocoder: Annotated[
        str | None,
        typer.Option(metavar="NAME|HUB_ID|FOLDER", help="By default that of --unet, if any."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the adapters' weights.")] = 0,
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], typer.Option("--dtype", help="Precision to write.")
    ] = "fp32",
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Put a start for a training together: a UNet, and other text encoders than its own.

    It is what `auffusion train` makes of the same settings before its first step: each text encoder
    has a fresh adapter to the UNet's width, so that what it makes follows no words before it is
    trained.

    \b
    Examples:
      auffusion models compose --unet stable-diffusion-v1-5 --vocoder auffusion \\
          --text-encoder google/flan-t5-base --text-encoder laion/clap-htsat-unfused -o init/
      auffusion train --from init/ --data audiocaps/ -o runs/t5-clap
    """
    from auffusion_cli.cli.outputs import check_writable
    from auffusion_cli.errors import OutputExistsError
    from auffusion_cli.training.config import TrainingConfig
    from auffusion_cli.training.diffusion_config import DiffusionConfig, TextEncoderConfig
    from auffusion_cli.training.named_parts import named_parts

    if output.exists() and not overwrite:
        raise OutputExistsError(f"--output {output} exists", hint="--overwrite replaces it.")
    check_writable([output / "auffusion.json"], "--output")
    config = DiffusionConfig(
        init_from=unet,
        autoencoder=autoencoder,
        vocoder=vocoder,
        text_encoders=tuple(TextEncoderConfig(path) for path in text_encoders),
        name=output.name,
    )
    for key, name, parts in named_parts(TrainingConfig(diffusion=config)):
        checkpoint = resolve.fetch(name, OPTIONS.get(key, "--text-encoder"), parts=parts, yes=yes)
        if key == "--from":
            start = checkpoint

    import torch

    from auffusion_cli.checkpoints.layout import read_identity
    from auffusion_cli.checkpoints.save import save_model
    from auffusion_cli.training.start import build_model

    torch.manual_seed(seed)
    window_s = read_identity(start.folder).defaults.max_duration_s
    model = build_model(config, torch.device("cpu"), window_s)
    save_model(model, output, dtype=dtype, overwrite=overwrite)
    if json:
        console.print_json({"folder": str(output), "dtype": dtype, "licence": model.licence})
    else:
        console.print_path(output)


OPTIONS = {
    "--from": "--unet",
    "diffusion.autoencoder": "--autoencoder",
    "diffusion.vocoder": "--vocoder",
}
"""Key of the training's settings -> the option that gives it here."""
