"""Reading ahead: the same items in the same order, whoever reads them; how many processes do it."""

import multiprocessing
import os
import signal

import pytest
import torch

from auffusion_cli.errors import UsageError
from auffusion_cli.training.loading import MAX_AUTOMATIC_WORKERS, choose_workers, read_ahead

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Squares(torch.utils.data.Dataset):
    def __getitem__(self, key):
        return torch.tensor(key) ** 2, os.getpid(), signal.getsignal(signal.SIGINT)


def test_workers_give_the_same_in_order():
    here = list(read_ahead(Squares(), range(3, 20), 0, CPU))
    ahead = list(read_ahead(Squares(), range(3, 20), 2, CPU))
    assert [row[0] for row in here] == [row[0] for row in ahead] == [k**2 for k in range(3, 20)]
    assert {row[1] for row in here} == {os.getpid()}
    assert len({row[1] for row in ahead} - {os.getpid()}) == 2


def test_an_interrupt_is_left_to_the_main_process():
    (_, _, handler), *_ = read_ahead(Squares(), range(2), 1, CPU)
    assert handler == signal.SIG_IGN


def test_without_workers_an_item_is_made_when_it_is_asked_for():
    asked = []

    class Watched(Squares):
        def __getitem__(self, key):
            asked.append(key)

    items = read_ahead(Watched(), range(5), 0, CPU)
    next(items), next(items)
    assert asked == [0, 1]


def test_an_error_in_a_worker_reaches_the_caller():
    class Failing(Squares):
        def __getitem__(self, key):
            raise ValueError("broken item")

    with pytest.raises(ValueError, match="broken item"):
        list(read_ahead(Failing(), range(2), 1, CPU))


def test_a_cpu_gets_no_workers_a_gpu_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert choose_workers(None, CPU) == 0
    assert choose_workers(None, GPU) == 11
    assert choose_workers(None, GPU, n_processes=4) == 2
    assert choose_workers(3, CPU) == choose_workers(3, GPU) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)), raising=False)
    assert choose_workers(None, GPU) == MAX_AUTOMATIC_WORKERS
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert choose_workers(None, GPU) == 0


def test_where_processes_cannot_be_forked_there_are_none(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert choose_workers(None, GPU) == 0
    with pytest.raises(UsageError, match=r"loop\.workers: 2"):
        choose_workers(2, GPU)
