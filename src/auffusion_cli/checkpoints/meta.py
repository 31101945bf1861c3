"""Untrusted config -> network on the meta device: without memory, and no larger than its weights.

A config may ask for a million layers, or for tables of gigabytes, of which its weight file holds
nothing. So a network is built on the meta device first, where a size costs nothing; building stops
at more layers than the file has tensors; and every size is compared with the file before memory is
taken.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from auffusion_cli.checkpoints.weights import TensorInfo
from auffusion_cli.errors import CheckpointError, first_line

MAX_SIZE = 65_536
"""A whole number in a config may be this, or the largest dimension in the weight file."""
SLACK_TENSORS = 64
"""Parameters that a network may have beyond twice those of its file: tied ones count repeatedly."""

Network = TypeVar("Network", bound=nn.Module)


def build(make: Callable[[], Network], n_tensors: int, config_path: Path) -> Network:
    """The network that `make` gives, on the meta device; its weight file has `n_tensors`.

    Raises:
        CheckpointError: the config cannot be built, or asks for more layers than there are tensors.
    """
    try:
        with torch.device("meta"), at_most(2 * n_tensors + SLACK_TENSORS):
            return make()
    except TooManyLayersError:
        raise CheckpointError(
            f"{config_path}: asks for more layers than its weights have, which are {n_tensors:,} "
            "tensors"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # libraries raise whatever a wrong field leads to
        raise CheckpointError(
            f"{config_path}: no network can be built from it: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def check_sizes(config: Any, header: Mapping[str, TensorInfo], config_path: Path) -> None:
    """Refuse whole numbers in `config`, however deep, that no tensor of the weights explains.

    For networks whose building takes memory in spite of the meta device.
    """
    most = max([MAX_SIZE, *(size for info in header.values() for size in info.shape)])
    for name, value in _whole_numbers(config):
        if abs(value) > most:
            raise CheckpointError(
                f"{config_path}: {name} is {str(value)[:20]}, beyond the sizes of its weights "
                f"(at most {most:,})"
            )


def check_total(network: nn.Module, header: Mapping[str, TensorInfo], config_path: Path) -> None:
    """Refuse a network of far more numbers than its weight file holds, whatever their names.

    For networks whose names their library translates, so that they cannot be compared one by one.
    """
    n_network = sum(parameter.numel() for parameter in network.parameters())
    n_file = sum(math.prod(info.shape) for info in header.values())
    if n_network > 2 * n_file + MAX_SIZE:
        raise CheckpointError(
            f"{config_path}: asks for {n_network:,} parameters, but its weights hold {n_file:,}"
        )


def try_forward(
    forward: Callable[[], Tensor], shape: tuple[int, ...], config_path: Path | str
) -> None:
    """Run a network on the meta device: a config that it cannot work with fails here, at once.

    Raises:
        CheckpointError: it fails, or gives another shape than `shape`.
    """
    try:
        with torch.no_grad(), torch.device("meta"):
            found = tuple(forward().shape)
    except Exception as error:
        raise CheckpointError(
            f"{config_path}: the network does not work: {type(error).__name__}: {first_line(error)}"
        ) from error
    if found != shape:
        raise CheckpointError(f"{config_path}: the network gives {found}, not {shape}")


class TooManyLayersError(Exception):
    """A network gets more parameters than `at_most` allows."""


@contextmanager
def at_most(n_parameters: int) -> Iterator[None]:
    """A block in which this thread's networks may get `n_parameters` parameters in all."""
    thread, n_left = threading.get_ident(), n_parameters

    def count(*_: object) -> None:
        nonlocal n_left
        if threading.get_ident() == thread:
            n_left -= 1
            if n_left < 0:
                raise TooManyLayersError

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _whole_numbers(value: Any, name: str = "config") -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _whole_numbers(item, str(key)[:40])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _whole_numbers(item, name)
