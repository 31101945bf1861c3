"""Reading ahead: worker processes prepare the next batches while the GPU computes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from auffusion_cli.errors import AuffusionError, UsageError

MAX_AUTOMATIC_WORKERS = 16
BATCHES_AHEAD = 2
"""Batches that each worker prepares in advance."""


def choose_workers(wanted: int | None, device: torch.device) -> int:
    """The number of workers of this process: `wanted`, or else by the machine.

    On a CPU the training itself needs the cores, and computing a batch costs far more than reading
    it. On a GPU all cores are used, shared by the training processes of the machine.

    Raises:
        UsageError: workers are wanted where processes cannot be forked.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if wanted is None:
        if device.type == "cpu" or not can_fork:
            return 0
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return min(MAX_AUTOMATIC_WORKERS, max(0, n_cores // n_processes - 1))
    if wanted and not can_fork:
        raise UsageError(
            f"loop.workers: {wanted} workers need a system that can fork processes",
            hint="Leave it out, or --set loop.workers=0.",
        )
    return wanted


def read_ahead(
    items: Dataset, keys: Iterable[Any], n_workers: int, device: torch.device
) -> Generator[Any, None, None]:
    """`items[key]` for each of `keys`, in order, computed by `n_workers` processes.

    With 0 workers each is computed here, on demand. Tensors for a GPU are in pinned memory. Closing
    the generator ends the workers.

    Raises:
        AuffusionError, OSError: raised in a worker; the first also where one was killed.
    """
    if n_workers == 0:
        yield from (items[key] for key in keys)
        return
    # Forked, so that clips in memory are shared and nothing is pickled. Workers use no GPU.
    loader = DataLoader(
        _Carrier(items),
        batch_size=None,
        sampler=keys,
        num_workers=n_workers,
        prefetch_factor=BATCHES_AHEAD,
        multiprocessing_context="fork",
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    try:
        for item in loader:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
            raise
        raise AuffusionError(
            f"a worker process was killed: {error}",
            hint="--resume continues; if memory was short, with --set loop.workers=0.",
        ) from error


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _Carrier(Dataset):
    """`items`, with expected failures as items, which the loader would turn into tracebacks."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.items[key]
        except (AuffusionError, OSError) as error:
            return _Failure(error)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Put the worker into a process group of its own, since Ctrl-C and `timeout` signal a whole
    group, and the current step is to be finished."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
