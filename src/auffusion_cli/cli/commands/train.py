"""`auffusion train`: its stages, from a data folder to a checkpoint folder."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.cli.launch import Launch
from auffusion_cli.cli.training_progress import (
    ProgressLines,
    interruptible,
    report_latents,
    report_run,
)
from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.parsing import parse_yaml
from auffusion_cli.training.config import TrainingConfig
from auffusion_cli.training.config_file import dump_config, load_config, parse_config
from auffusion_cli.training.data import Clip, Manifest
from auffusion_cli.training.default_runs import (
    DEFAULT_RUN,
    DISTILL_RUN,
    IMAGE_MODEL_RUN,
    LORA_RUN,
)
from auffusion_cli.training.effects import check_effects
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.named_parts import is_image_model, named_parts
from auffusion_cli.training.records import RecordSet
from auffusion_cli.training.run_folder import (
    CACHE_NAME,
    CLIP_CHECK_NAME,
    CONFIG_NAME,
    check_output,
    check_precompute,
    delete_run,
    only_run,
    require_run,
)
from auffusion_cli.training.sources import Found, check_settings, find_all, reads_files
from auffusion_cli.training.unpacking import unpack

if TYPE_CHECKING:
    from auffusion_cli.training.run import Sounds

MAX_LISTED_PROBLEMS = 20
UNPACKED_NAME = "sounds"
"""In the cache of a run."""


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FOLDER|FILE|URL",
            help="AudioCaps's own folder, a folder with metadata.csv or metadata.jsonl, sounds "
            "with a .txt beside each, a list (.csv, .tsv, .jsonl, .json), WebDataset's tar or "
            "parquet files, also by URL, or latents of --precompute. Repeatable.",
        ),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the captions, where it has another name."),
    ] = None,
    encoding: options.Encoding = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for checkpoints, logs and the result."),
    ] = None,
    stage: Annotated[
        Literal["autoencoder", "vocoder", "diffusion", "distill"] | None,
        typer.Option(
            "--stage",
            help="Part to train; by default that of --config, else diffusion. distill: a student "
            "of --from that takes few steps.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML with all settings; see docs/train.md."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Checkpoint to start from; without --config the embedded one. An image model, "
            "such as stable-diffusion-v1-5, gets an adapter and a vocoder.",
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            "--lora",
            metavar="RANK",
            min=1,
            max=1024,
            help="Train a LoRA of this rank (16 is usual) in place of the whole UNet: a few MB.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the YAML; repeatable."),
    ] = None,
    precompute: Annotated[
        bool,
        typer.Option(
            "--precompute",
            help="Only encode the data, into shards in --output that are a --data of later runs.",
        ),
    ] = False,
    shard: options.Shard = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Optimiser steps in all.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0, help="End cleanly after so many minutes; resumable."),
    ] = None,
    device: options.Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint in --output.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where --output holds a run.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without the clips that cannot be used.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data and show the resolved settings.")
    ] = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Train on your own sounds; resumable at any moment.

    Before it starts, every clip is opened once: unreadable, silent, too short, duplicate and
    missing ones are listed, and training starts without them only with --skip-bad. Ctrl-C ends
    cleanly with a checkpoint and the result so far. Several GPUs: torchrun --nproc_per_node 4 -m
    auffusion_cli train …

    \b
    Examples:
      auffusion train --data audiocaps/ -o runs/mine
      auffusion train -o runs/mine --resume
      auffusion train --from stable-diffusion-v1-5 --data audiocaps/ -o runs/sd
      auffusion train --lora 16 --data my-ten-clips/ -o runs/bells
      auffusion train --stage distill --data audiocaps/ -o runs/turbo
      auffusion train --stage vocoder --config vocoder.yaml --data sounds/ -o runs/vocoder
      auffusion generate "rain" --model runs/mine -o rain.wav
    """
    if resume and config is None and output is not None:
        require_run(output)
        config = output / CONFIG_NAME
    named = {
        "data": data[0] if data and len(data) == 1 else data,
        "caption_column": caption_column,
        "encoding": encoding,
        "skip_bad": skip_bad or None,
        "output": None if output is None else str(output),
        "stage": stage,
        "diffusion.lora.rank": lora,
        "loop.max_steps": max_steps,
        "loop.max_minutes": max_minutes,
    }
    settled = _settle(config, settings or [], named, init_from)
    if not settled.data_sets:
        raise UsageError("--data is missing", hint="For example: --data my-sounds/.")
    if settled.output is None and not dry_run:
        raise UsageError("--output is missing", hint="For example: -o runs/mine.")
    check_effects(settled)
    folder = Path(settled.output or "")
    if shard is not None and not precompute:
        raise UsageError("--shard encodes a part of the data: it goes with --precompute")
    if precompute:
        check_precompute(settled, folder, resume=resume, overwrite=overwrite)
    elif not dry_run:
        check_output(folder, resume=resume, overwrite=overwrite)
    reading = Reading(settled.caption_column, settled.encoding)
    # Before torch, so that mistakes are found at once.
    listed = find_all(settled.data_sets, "train", reading)
    check_settings(settled, listed)
    listed_held_out = None
    if settled.loop.validate_every_steps is not None:
        listed_held_out = find_all(settled.data_sets, "val", reading)
    sets_window = any(setting.startswith("scenes.duration_s=") for setting in settings or [])
    fit_window = config is None and not sets_window
    seen: dict[str, Clip] = {}
    if dry_run:
        if Launch.current().is_main:
            settled = _with_parts(settled, fit_window=fit_window, download=False, yes=yes)
            for split, found in (("train", listed), ("val", listed_held_out)):
                if found is not None:
                    console.note(f"{split}: {_described(_checked(found, settled, None, seen))}")
            _show_settings(settled, as_json=json)
        return

    from auffusion_cli.training.run import join_processes, run
    from auffusion_cli.training.run import precompute as encode
    from auffusion_cli.training.sharding import find_sharding

    sharding = None if precompute else find_sharding(settled)
    processes = join_processes(device)
    is_main = processes.is_main_process
    is_only = is_main and shard is None  # parts are made at the same time
    with console.quiet_unless(is_main), only_run(folder) if is_only else nullcontext():
        # One process downloads and opens all clips; the others find its results.
        with processes.main_process_first():
            if is_main and not precompute:  # again, now that nobody else writes
                check_output(folder, resume=resume, overwrite=overwrite)
            settled = _with_parts(settled, fit_window=fit_window, download=True, yes=yes)
            sounds = _checked(listed, settled, folder, seen)
            held_out = None
            if listed_held_out is not None:
                held_out = _checked(listed_held_out, settled, folder, seen)
            if is_main and overwrite:
                delete_run(folder)
        n_processes = f"{processes.num_processes} process" + "es" * (processes.num_processes > 1)
        work = "encoding" if precompute else f"training the {settled.stage} stage on"
        is_split = sharding is not None and processes.num_processes > 1
        how = ", its networks split over them" if is_split else ""
        console.note(f"{work} {_described(sounds)} in {n_processes}{how}")
        with interruptible() as stop_requested, ProgressLines() as progress:
            on_prepare = partial(progress.prepare, stop_requested)
            if precompute:
                counts = encode(
                    settled,
                    sounds,
                    folder,
                    device=device,
                    held_out=held_out,
                    part=shard,
                    on_prepare=on_prepare,
                )
                if is_main:
                    report_latents(folder, counts, shard, as_json=json)
                return
            n_steps = run(
                settled,
                sounds,
                folder,
                device=device,
                resume=resume,
                held_out=held_out or (),
                sharding=sharding if is_split else None,
                on_prepare=on_prepare,
                on_step=progress.step,
                stop_requested=stop_requested,
            )
    if is_main:
        report_run(settled, folder, n_steps, progress, as_json=json)


def _show_settings(config: TrainingConfig, *, as_json: bool) -> None:
    if as_json:
        console.print_json(asdict(config))
    else:
        for line in dump_config(config).splitlines():
            console.print_line(line)


def _described(sounds: Sounds) -> str:
    if isinstance(sounds, tuple):
        return f"{len(sounds)} clips"
    return f"the latents in {sounds}" if isinstance(sounds, Path) else f"{len(sounds.parts)} parts"


def _settle(
    config: Path | None, settings: list[str], named: dict[str, Any], init_from: str | None
) -> TrainingConfig:
    """The file, then --set, then the `named` options that were given."""
    overrides = dict(map(_parse_setting, settings))
    overrides |= {key: value for key, value in named.items() if value is not None}
    if config is not None:
        settled = load_config(config, overrides)
        if init_from is None:
            return settled
        section = _section_of_start(settled.stage)
        part = replace(getattr(settled, section), init_from=init_from)
        return replace(settled, **{section: part})
    stage = overrides.get("stage", "diffusion")
    section = _section_of_start(stage)
    if section == "diffusion":
        init_from = init_from or overrides.get("diffusion.init_from", "embedded")
    run = DEFAULT_RUN if overrides.get("diffusion.lora.rank") is None else LORA_RUN
    if stage == "distill":
        run = DISTILL_RUN
    is_named = isinstance(init_from, str)  # null is from scratch, and whatever else is refused
    if stage == "diffusion" and run is DEFAULT_RUN and is_named and is_image_model(init_from):
        run = copy.deepcopy(IMAGE_MODEL_RUN)
        run["diffusion"]["text_encoders"] = [{"path": init_from}]
    if init_from is not None:
        overrides = {f"{section}.init_from": init_from} | overrides
    return parse_config(run, overrides, where="--set")


def _section_of_start(stage: str) -> str:
    """The section whose `init_from` is --from."""
    return "diffusion" if stage == "distill" else stage


def _parse_setting(setting: str) -> tuple[str, Any]:
    """KEY=VALUE as the key and the value that YAML reads."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set {setting!r}: expected KEY=VALUE", hint="For example: loop.batch_size=8."
        )
    return key, parse_yaml(value, raising=UsageError, where=f"--set {key}")


def _with_parts(
    config: TrainingConfig, *, fit_window: bool, download: bool, yes: bool
) -> TrainingConfig:
    """The settings with all parts found, after a question where one must be downloaded.

    With `fit_window` the scenes get the length of the start's window.
    """
    from auffusion_cli.checkpoints.layout import read_identity
    from auffusion_cli.cli.resolve import fetch, find

    for key, name, parts in named_parts(config):
        if download:
            checkpoint = fetch(name, key, parts=parts, yes=yes)
        else:
            checkpoint = find(name, key, parts=parts)
        if key == "--from" and fit_window and checkpoint is not None:
            window_s = read_identity(checkpoint.folder).defaults.max_duration_s
            config = replace(config, scenes=replace(config.scenes, duration_s=window_s))
    return config


def _checked(
    found: Found, config: TrainingConfig, folder: Path | None, seen: dict[str, Clip]
) -> Sounds:
    """The clips that can be used; what comes one after the other is checked as it comes.

    `folder` is the run's, and None for a dry run, which unpacks nothing; `seen` is as of
    `check_clips`.
    """
    if isinstance(found, RecordSet) and reads_files(config) and folder is not None:
        with console.Progress("unpacking", unit="parts") as progress:
            found = unpack(found, folder / CACHE_NAME / UNPACKED_NAME, progress.report)
    if not isinstance(found, Manifest):
        return found
    from auffusion_cli.training.clip_check import check_clips

    cache_file = None if folder is None else folder / CLIP_CHECK_NAME
    with console.Progress("checking clips", unit="clips") as progress:
        checked = check_clips(found, cache_file=cache_file, seen=seen, on_progress=progress.report)
    for problem in checked.problems[:MAX_LISTED_PROBLEMS]:
        console.note(str(problem))
    if (n_more := len(checked.problems) - MAX_LISTED_PROBLEMS) > 0:
        console.note(f"… and {n_more} more")
    named = f"--data {', '.join(config.data_sets)}"
    if checked.problems and not config.skip_bad:
        n_clips = len(checked.problems) + len(checked.clips)
        raise DataError(
            f"{named}: {len(checked.problems)} of {n_clips} clips cannot be used",
            hint="Repair them, or train without them: --skip-bad.",
        )
    if not checked.clips:
        raise DataError(f"{named}: no clip can be used")
    return checked.clips
