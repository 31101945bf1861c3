"""Networks that a run starts from: folders of trained parts, and fresh ones by their settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from auffusion_cli.checkpoints.meta import TooManyLayersError, at_most
from auffusion_cli.errors import CheckpointError, UsageError, first_line

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MAX_TENSORS = 10_000
MAX_WEIGHTS = 10**10
"""Limits of a fresh network; the published UNet has 686 tensors of 0.86 billion weights."""

Network = TypeVar("Network", bound=nn.Module)


def build_network(
    make: Callable[[], Network], key: str, check: Callable[[Network], None]
) -> Network:
    """The network that `make` builds from the setting `key`.

    It is built and checked without memory first, so that mistakes like a million layers cost
    nothing.

    Raises:
        UsageError: it cannot be built, is implausibly large, or does not pass `check`.
    """
    try:
        with torch.device("meta"), at_most(MAX_TENSORS):
            network = make()
        n_weights = sum(weights.numel() for weights in network.parameters())
        if n_weights > MAX_WEIGHTS:
            raise UsageError(f"{key}: {n_weights:,} weights are more than {MAX_WEIGHTS:,}")
        with as_setting():
            check(network)
        return make()
    except TooManyLayersError:
        raise UsageError(f"{key}: more than {MAX_TENSORS:,} tensors of weights") from None
    except UsageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{key}: {first_line(error)}") from error
    except Exception as error:  # libraries raise whatever a wrong value leads to
        raise UsageError(f"{key}: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def as_setting() -> Iterator[None]:
    """A block whose errors are those of a setting, not of a checkpoint."""
    try:
        yield
    except CheckpointError as error:
        raise UsageError(error.message, hint=error.hint) from error


def existing_folder(folder: str, key: str) -> Path:
    """`folder`, which the setting `key` names.

    Raises:
        UsageError: there is no such folder.
    """
    path = Path(folder)
    if path.is_dir():
        return path
    hint = None
    if HUB_ID.fullmatch(folder):
        hint = (
            f"{folder} may be an id of the Hugging Face Hub: download it "
            f"(hf download {folder} --local-dir FOLDER), and name the folder."
        )
    raise UsageError(f"{key}: {folder} is not a folder", hint=hint)


def part_folder(folder: str, key: str, part: str) -> Path:
    """`folder/part` of a checkpoint or run; `folder` itself where it is that part.

    Raises:
        UsageError: there is no such folder.
    """
    path = existing_folder(folder, key)
    return path / part if (path / part).is_dir() else path
