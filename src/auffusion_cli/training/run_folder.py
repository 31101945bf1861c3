"""The output folder of a training run: names, checks, exclusive use. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auffusion_cli.checkpoints.layout import (
    CACHE_NAME,
    CHECKPOINTS_NAME,
    LOGS_NAME,
    PREVIEWS_NAME,
)
from auffusion_cli.errors import OutputExistsError, UsageError
from auffusion_cli.files import clear_unfinished, exclusive_use
from auffusion_cli.training.config import TrainingConfig

CONFIG_NAME = "training.yaml"
CLIP_CHECK_NAME = "clip-check.json"
LATENTS_NAME = "latents.json"
"""Index of a complete folder of latents."""
RESULT_NAME = ".result"
"""Folder in which a result is written before its parts are renamed."""
PREPARED_NAMES = frozenset({CACHE_NAME, CLIP_CHECK_NAME})
"""Left by a run that was stopped during preparation, and reused by the next one."""


def require_run(folder: Path) -> None:
    """Raise a UsageError where there is no run that could be resumed."""
    if not (folder / CONFIG_NAME).is_file():
        raise UsageError(
            f"--resume: {folder} holds no run to resume",
            hint="The same command without --resume starts one.",
        )


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that nothing is replaced without `overwrite`.

    Raises:
        UsageError: the folder is a file, or holds no run that could be resumed.
        OutputExistsError: it holds a run, or anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file", hint="Name a folder.")
    if resume:
        require_run(folder)
        return
    if overwrite or not folder.exists():
        return
    if (folder / CONFIG_NAME).exists():
        raise OutputExistsError(
            f"--output {folder} holds a run already",
            hint="--resume continues it, --overwrite starts anew.",
        )
    if {path.name for path in folder.iterdir()} - PREPARED_NAMES:
        raise OutputExistsError(
            f"--output {folder} is not empty",
            hint="Name a new folder, or --overwrite to write into this one.",
        )


def check_precompute(
    config: TrainingConfig, folder: Path, *, resume: bool, overwrite: bool
) -> None:
    """Make sure that there is something to encode, and that it does not get among a run's files.

    Raises:
        UsageError: the folder is a file or holds a run, or a setting has no effect.
    """
    if config.stage != "diffusion" or config.scenes.n_cached == 0:
        raise UsageError("--precompute: for --stage diffusion, and not with scenes.n_cached: 0")
    if resume or overwrite:
        raise UsageError(
            "--precompute: without --resume and --overwrite",
            hint="It goes on with what is there, and makes what the inputs changed anew.",
        )
    if folder.exists() and (not folder.is_dir() or (folder / CONFIG_NAME).exists()):
        raise UsageError(f"--output {folder} is a file or holds a run", hint="Name a new folder.")


def delete_run(folder: Path) -> None:
    """Delete the state of a run. The last result stays until it is replaced."""
    for name in (CHECKPOINTS_NAME, LOGS_NAME, PREVIEWS_NAME):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / CONFIG_NAME).unlink(missing_ok=True)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Make `folder`, keep other trainings out of it during the block, and delete leftovers.

    Raises:
        UsageError: another training writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_use(folder):
        shutil.rmtree(folder / RESULT_NAME, ignore_errors=True)
        for name in (".", CHECKPOINTS_NAME, PREVIEWS_NAME, CACHE_NAME):
            clear_unfinished(folder / name)
        yield
