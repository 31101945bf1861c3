"""`auffusion train`: the three stages, from a data folder to a checkpoint folder."""

from __future__ import annotations

import io
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.errors import DataError, OutputExistsError, UsageError
from auffusion_cli.training.config import (
    CACHE_NAME,
    CHECKPOINTS_NAME,
    CLIP_CHECK_NAME,
    CONFIG_NAME,
    LOGS_NAME,
    PREVIEWS_NAME,
    TrainingConfig,
    dump_config,
    load_config,
    parse_config,
)

if TYPE_CHECKING:
    from auffusion_cli.training.data import Clip

MAX_LISTED_PROBLEMS = 20


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="AudioCaps's own folder, a folder with metadata.csv or metadata.jsonl, "
            "or a .jsonl list.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for checkpoints, logs and the result."),
    ] = None,
    stage: Annotated[
        Literal["autoencoder", "vocoder", "diffusion"] | None,
        typer.Option("--stage", help="Which part to train; diffusion unless the file says more."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML with everything else; see docs/train.md."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Checkpoint to start from; diffusion without --config: embedded.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the YAML; repeatable."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Optimiser steps in all.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0, help="End cleanly after this long; resumable."),
    ] = None,
    device: options.Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")
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
    missing ones are listed, and training goes on without them only with --skip-bad. Ctrl-C ends
    cleanly with a checkpoint and the result so far. Several GPUs: accelerate launch -m
    auffusion_cli train …

    \b
    Examples:
      auffusion train --data audiocaps/ -o runs/mine
      auffusion train -o runs/mine --resume
      auffusion train --stage vocoder --config vocoder.yaml --data sounds/ -o runs/vocoder
      auffusion generate "rain" --model runs/mine -o rain.wav
    """
    if resume and config is None and output is not None:
        _require_run(output)
        config = output / CONFIG_NAME
    settled = _settle(
        config, data, skip_bad, output, stage, init_from, max_steps, max_minutes, settings
    )
    if settled.data is None:
        raise UsageError("--data is missing", hint="name the folder or list of training sounds")
    folder = Path(settled.output) if settled.output else None
    if folder is None and not dry_run:
        raise UsageError("--output is missing", hint="for example: -o runs/mine")
    if not dry_run:
        _check_output(folder, resume=resume, overwrite=overwrite)

    fit_window = config is None and not any(
        setting.startswith("scenes.duration_s=") for setting in settings or []
    )

    from auffusion_cli.training.run import join_processes, run

    processes = join_processes(device)
    # One process downloads and opens all clips; the others find what it found.
    with processes.main_process_first(), _quiet_unless(processes.is_main_process):
        if settled.stage == "diffusion" and settled.diffusion.init_from is not None:
            settled = _with_checkpoint(
                settled, fit_window=fit_window, download=not dry_run, yes=yes
            )
        cache_file = None if dry_run else folder / CLIP_CHECK_NAME
        clips = _checked_clips(Path(settled.data), cache_file, skip_bad=settled.skip_bad)
        if overwrite and not dry_run and processes.is_main_process:
            _delete_run(folder)
    if dry_run:
        if processes.is_main_process and json:
            console.print_json(asdict(settled))
        elif processes.is_main_process:
            typer.echo(dump_config(settled), nl=False)
        return

    with _quiet_unless(processes.is_main_process):
        console.note(f"training the {settled.stage} stage on {len(clips)} clips")
        with _interruptible() as stop_requested, _ProgressLines(settled.loop.max_steps) as progress:
            n_steps = run(
                settled,
                clips,
                folder,
                device=device,
                resume=resume,
                on_prepare=partial(progress.prepare, stop_requested),
                on_step=progress.step,
                stop_requested=stop_requested,
            )
    if processes.is_main_process:
        _report(settled, folder, n_steps, progress.losses, as_json=json)


def _report(
    config: TrainingConfig, folder: Path, n_steps: int, losses: dict[str, float], *, as_json: bool
) -> None:
    finished = n_steps >= config.loop.max_steps
    if as_json:
        console.print_json(
            {
                "output": str(folder),
                "stage": config.stage,
                "steps": n_steps,
                "finished": finished,
                "losses": losses,
            }
        )
        return
    typer.echo(f"{folder}: {n_steps} steps")
    if not finished:
        console.note(f"stopped early; auffusion train -o {folder} --resume goes on")
    if config.stage == "diffusion":
        console.note(f'try it: auffusion generate "…" --model {folder} -o out.wav')


DEFAULT_RUN: dict[str, Any] = {
    "diffusion": {"init_from": "embedded"},
    "loop": {
        "batch_size": 16,
        "max_steps": 2_000,
        "warmup_steps": 100,
        "checkpoint_every_steps": 200,
        "log_every_steps": 10,
    },
}
"""Without a --config: go on from the embedded model, in steps that a laptop can take."""


def _settle(
    config: Path | None,
    data: Path | None,
    skip_bad: bool,
    output: Path | None,
    stage: str | None,
    init_from: str | None,
    max_steps: int | None,
    max_minutes: float | None,
    settings: list[str] | None,
) -> TrainingConfig:
    """File, then --set, then the named options."""
    import yaml

    overrides: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set {setting!r}: expected KEY=VALUE", hint="for example: loop.batch_size=8"
            )
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {setting!r}: the value is not YAML: {error}") from error
    named = {
        "data": None if data is None else str(data),
        "skip_bad": skip_bad or None,
        "output": None if output is None else str(output),
        "stage": stage,
        "loop.max_steps": max_steps,
        "loop.max_minutes": max_minutes,
    }
    overrides |= {key: value for key, value in named.items() if value is not None}
    if config is not None:
        settled = load_config(config, overrides)
    else:
        settled = parse_config(DEFAULT_RUN, overrides, where="--set")
    if init_from is None:
        return settled
    part = replace(getattr(settled, settled.stage), init_from=init_from)
    return replace(settled, **{settled.stage: part})


def _with_checkpoint(
    config: TrainingConfig, *, fit_window: bool, download: bool, yes: bool
) -> TrainingConfig:
    """Find what the training starts from, after a question if it must be downloaded.

    With `fit_window` the scenes get the length of its window.
    """
    from auffusion_cli.checkpoints.layout import read_identity
    from auffusion_cli.cli.commands.models import find, resolve_model

    name = config.diffusion.init_from
    checkpoint = resolve_model(name, yes=yes) if download else find(name)
    if checkpoint is None or not fit_window:
        return config
    window_s = read_identity(checkpoint.folder).defaults.max_duration_s
    return replace(config, scenes=replace(config.scenes, duration_s=window_s))


def _require_run(folder: Path) -> None:
    if not (folder / CONFIG_NAME).is_file():
        raise UsageError(
            f"--resume: {folder} holds no run to go on with",
            hint="the same command without --resume starts one",
        )


def _check_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Nothing of the user's may be written over, unless told."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file", hint="name a folder")
    if resume:
        _require_run(folder)
        return
    # What a run leaves that was stopped while it prepared is of use to the next one.
    prepared = {CACHE_NAME, CLIP_CHECK_NAME}
    if (folder / CONFIG_NAME).exists() and not overwrite:
        raise OutputExistsError(
            f"--output {folder} holds a run already",
            hint="--resume goes on with it, --overwrite starts anew",
        )
    if not overwrite and folder.exists() and {p.name for p in folder.iterdir()} - prepared:
        raise OutputExistsError(
            f"--output {folder} is not empty",
            hint="name a new folder, or --overwrite to write into this one",
        )


def _delete_run(folder: Path) -> None:
    """All that would be mixed with a new run's. The last result stays until there is a new one."""
    for name in (CHECKPOINTS_NAME, LOGS_NAME, PREVIEWS_NAME):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / CONFIG_NAME).unlink(missing_ok=True)


def _checked_clips(data: Path, cache_file: Path | None, *, skip_bad: bool) -> tuple[Clip, ...]:
    from auffusion_cli.training.clip_check import check_clips
    from auffusion_cli.training.data import load_clips

    manifest = load_clips(data, "train")
    with console.Progress("checking clips", unit="clips") as progress:
        checked = check_clips(
            manifest,
            cache_file=cache_file,
            progress=lambda done, total: progress.update(completed=done, total=total),
        )
    for problem in checked.problems[:MAX_LISTED_PROBLEMS]:
        console.note(str(problem))
    if (n_more := len(checked.problems) - MAX_LISTED_PROBLEMS) > 0:
        console.note(f"… and {n_more} more")
    if checked.problems and not skip_bad:
        raise DataError(
            f"--data {data}: {len(checked.problems)} of "
            f"{len(checked.problems) + len(checked.clips)} clips cannot be used",
            hint="mend them, or train without them: --skip-bad",
        )
    if not checked.clips:
        raise DataError(f"--data {data}: no clip can be used")
    return checked.clips


@contextmanager
def _quiet_unless(speaks: bool) -> Iterator[None]:
    """Of several processes one speaks, or every line would come many times; errors are no lines."""
    with redirect_stderr(io.StringIO()) if not speaks else nullcontext():
        yield


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks the loop to end cleanly; a second one ends at once."""
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.note("stopping after this step; once more to stop at once")

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class _ProgressLines:
    """One bar for the preparation, one for the steps."""

    def __init__(self, max_steps: int) -> None:
        self.losses: dict[str, float] = {}
        self._max_steps = max_steps
        self._bar: console.Progress | None = None
        self._doing: str | None = None

    def __enter__(self) -> _ProgressLines:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._show(None)

    def prepare(self, stop_requested: Callable[[], bool], what: str, done: int, total: int) -> None:
        if stop_requested():
            # There is no checkpoint to write yet.
            raise KeyboardInterrupt
        self._show(what, unit="")
        self._bar.update(completed=done, total=total)

    def step(self, progress: Any) -> None:
        self._show("training", unit="steps", initial=progress.step - 1)
        # A smoothed loss: single steps say little.
        for name, value in progress.losses.items():
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        self._bar.update(
            completed=progress.step,
            total=progress.max_steps,
            description=f"training  {numbers}  {progress.samples_per_second:.1f}/s",
        )

    def _show(self, doing: str | None, unit: str = "", initial: float = 0) -> None:
        if doing == self._doing:
            return
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._doing = doing
        self._bar = None
        if doing:
            self._bar = console.Progress(doing, unit=unit, initial=initial).__enter__()
