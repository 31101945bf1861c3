"""Networks that a run starts from: folders of trained parts, and fresh ones by their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from auffusion_cli.checkpoints.download import resolve
from auffusion_cli.checkpoints.layout import read_conditions
from auffusion_cli.checkpoints.load_torch import load_autoencoder
from auffusion_cli.checkpoints.meta import TooManyLayersError, at_most
from auffusion_cli.checkpoints.names import KNOWN
from auffusion_cli.errors import CheckpointError, DownloadError, UsageError, first_line
from auffusion_cli.training.config import AutoencoderConfig
from auffusion_cli.training.named_parts import TEXT_PARTS

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


def part_folder(name: str, key: str, part: str) -> Path:
    """The folder of `part` ("vae", "vocoder") that `name`, the value of the setting `key`, means.

    `name` is a folder of that part, or a known name, Hub id or folder of a checkpoint or run that
    has it.

    Raises:
        UsageError: it is none of them.
        DownloadError: it cannot be fetched.
    """
    folder = find_folder(name, key, (part,))
    return folder / part if (folder / part).is_dir() else folder


def find_folder(name: str, key: str, parts: Sequence[str] = ()) -> Path:
    """The folder that `name`, the value of the setting `key`, means: a folder, or one of the Hub's.

    Of what is downloaded only `parts`, where it has them. Errors as of `part_folder`.
    """
    try:
        return resolve(name, parts=parts).folder
    except DownloadError as error:
        if name in KNOWN:
            raise
        raise DownloadError(
            f"{key}: there is no folder {name}, and as an id of the Hub: {error.message}",
            hint=error.hint,
        ) from error
    except CheckpointError:
        raise UsageError(
            f"{key}: {name!r} is not a folder, a known name or an id of the Hub",
            hint=f"Known names: {', '.join(KNOWN)}.",
        ) from None


def public_name(name: str) -> str:
    """What a file that is shared says for the value of a setting: of a folder its own name alone,
    since where it lies is nobody's business; a known name or a Hub id as it is."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def started_autoencoder(config: AutoencoderConfig, kind: type[Network]) -> Network:
    """The one that `config.init_from` names, which has to be of `kind`.

    Raises:
        CheckpointError: it cannot be loaded, or is of another kind. Others as of `part_folder`.
    """
    folder = part_folder(config.init_from, "autoencoder.init_from", "vae")
    autoencoder = load_autoencoder(folder)
    if not isinstance(autoencoder, kind):
        raise CheckpointError(f"{folder}: of another kind than autoencoder.kind: {config.kind}")
    return autoencoder


def text_encoder_folders(name: str, key: str) -> tuple[Path, Path]:
    """(model, tokenizer) of the text encoder that `name`, the value of the setting `key`, means.

    Of a checkpoint it is the text encoder of that. Errors as of `part_folder`.
    """
    folder = find_folder(name, key, TEXT_PARTS)
    if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
        return folder / "text_encoder", folder / "tokenizer"
    if not (folder / "condition_config.json").is_file():
        return folder, folder
    encoders = [folder / one.text_encoder_name for one in read_conditions(folder)]
    if len(encoders) > 1:
        raise UsageError(
            f"{key}: {name} has {len(encoders)} text encoders",
            hint=f"Name one of them: {', '.join(map(str, encoders))}.",
        )
    return encoders[0], encoders[0]
