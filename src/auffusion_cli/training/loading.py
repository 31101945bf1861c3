"""Reading ahead: other processes prepare the next batches while the GPU works on this one."""

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
"""That each worker has ready."""


def choose_workers(wanted: int | None, device: torch.device) -> int:
    """How many workers a process gets: what is `wanted`, or what suits the machine.

    On a CPU the training itself needs the cores, and one batch costs far more than reading it. On a
    GPU every core helps; the processes of one machine (`accelerate launch`) share them.

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
            hint="--set loop.workers=0",
        )
    return wanted


def read_ahead(
    items: Dataset, keys: Iterable[Any], n_workers: int, device: torch.device
) -> Generator[Any, None, None]:
    """`items[key]` for each of `keys`, in their order, made by `n_workers` processes.

    With 0 workers each is made here, when it is asked for. Tensors for a GPU come in pinned memory.
    Close it, and the workers end.

    Raises:
        AuffusionError, OSError: as they came up in a worker; the first also where one was ended.
    """
    if n_workers == 0:
        yield from (items[key] for key in keys)
        return
    # Forked: the clips in memory are shared, and nothing has to be pickled. Workers use no GPU.
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
            f"a process that read ahead was ended: {error}",
            hint="--resume goes on; if memory was short, with --set loop.workers=0",
        ) from error


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _Carrier(Dataset):
    """`items`, with expected failures as items: the loader would make a traceback of them."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.items[key]
        except (AuffusionError, OSError) as error:
            return _Failure(error)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and `timeout` reach a whole group of processes; the step they fall into is to be
    finished, and so the workers are a group of their own."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
