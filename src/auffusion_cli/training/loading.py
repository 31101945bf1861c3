"""Reading ahead: other processes prepare the next batches while the GPU works on this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from auffusion_cli.errors import UsageError

MAX_AUTOMATIC_WORKERS = 16
BATCHES_AHEAD = 2
"""That each worker has ready."""


def choose_workers(wanted: int | None, device: torch.device, n_processes: int = 1) -> int:
    """How many workers a process gets: what is `wanted`, or what suits the machine.

    On a CPU the training itself needs the cores, and one batch costs far more than reading it. On a
    GPU every core helps; `n_processes` of this machine share them.

    Raises:
        UsageError: workers are wanted where processes cannot be forked.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if wanted is None:
        if device.type == "cpu" or not can_fork:
            return 0
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        return min(MAX_AUTOMATIC_WORKERS, max(0, n_cores // n_processes - 1))
    if wanted and not can_fork:
        raise UsageError(
            f"loop.workers: {wanted} workers need a system that can fork processes",
            hint="--set loop.workers=0",
        )
    return wanted


def read_ahead(
    items: Dataset, keys: Iterable[Any], n_workers: int, device: torch.device
) -> Iterator[Any]:
    """`items[key]` for each of `keys`, in their order, made by `n_workers` processes.

    With 0 workers each is made here, when it is asked for. Tensors for a GPU come in pinned memory.
    """
    if n_workers == 0:
        return (items[key] for key in keys)
    # Forked: the clips in memory are shared, and nothing has to be pickled. Workers use no GPU.
    return iter(
        DataLoader(
            items,
            batch_size=None,
            sampler=keys,
            num_workers=n_workers,
            prefetch_factor=BATCHES_AHEAD,
            multiprocessing_context="fork",
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_main_process,
        )
    )


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """A Ctrl-C reaches all of a terminal's processes; the step it falls into is to be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
