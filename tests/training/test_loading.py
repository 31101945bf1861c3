"""Reading ahead: the same items in the same order, whoever reads them; how many processes do it."""

import multiprocessing
import os
import signal

import pytest
import torch

from auffusion_cli.errors import AuffusionError, DataError, UsageError
from auffusion_cli.training.loading import MAX_AUTOMATIC_WORKERS, choose_workers, read_ahead

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Squares(torch.utils.data.Dataset):
    def __getitem__(self, key):
        handler = signal.getsignal(signal.SIGINT)
        return torch.tensor(key) ** 2, os.getpid(), handler, os.getpgid(0)


def test_workers_give_the_same_in_order():
    here = list(read_ahead(Squares(), range(3, 20), 0, CPU))
    ahead = list(read_ahead(Squares(), range(3, 20), 2, CPU))
    assert [row[0] for row in here] == [row[0] for row in ahead] == [k**2 for k in range(3, 20)]
    assert {row[1] for row in here} == {os.getpid()}
    assert len({row[1] for row in ahead} - {os.getpid()}) == 2


def test_signals_to_a_group_of_processes_miss_the_workers():
    for _, pid, handler, group in read_ahead(Squares(), range(2), 1, CPU):
        assert handler == signal.SIG_IGN
        assert group == pid != os.getpid()


def test_the_workers_end_when_it_is_closed():
    items = read_ahead(Squares(), range(100), 2, CPU)
    next(items)
    assert multiprocessing.active_children()
    items.close()
    assert not multiprocessing.active_children()


def test_without_workers_an_item_is_made_when_it_is_asked_for():
    asked = []

    class Watched(Squares):
        def __getitem__(self, key):
            asked.append(key)

    items = read_ahead(Watched(), range(5), 0, CPU)
    next(items), next(items)
    assert asked == [0, 1]


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize(
    "error", [DataError("clip x has no sound", hint="mend it"), OSError(28, "No space", "a.npy")]
)
def test_an_expected_error_in_a_worker_reaches_the_caller_as_it_was(error, n_workers):
    class Failing(Squares):
        def __getitem__(self, key):
            raise error

    with pytest.raises(type(error)) as raised:
        list(read_ahead(Failing(), range(2), n_workers, CPU))
    assert raised.value.args == error.args
    if isinstance(error, DataError):
        assert raised.value.hint == "mend it"
    else:
        assert (raised.value.errno, raised.value.filename) == (28, "a.npy")


def test_a_worker_that_is_killed_is_told_with_what_to_do():
    class Dying(Squares):
        def __getitem__(self, key):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AuffusionError, match="was killed") as raised:
        list(read_ahead(Dying(), range(4), 1, CPU))
    assert "loop.workers=0" in raised.value.hint


def test_a_bug_in_a_worker_stays_one():
    class Failing(Squares):
        def __getitem__(self, key):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(read_ahead(Failing(), range(2), 1, CPU))


def test_a_cpu_gets_no_workers_a_gpu_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert choose_workers(None, CPU) == 0
    assert choose_workers(None, GPU) == 11
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "4")
        assert choose_workers(None, GPU) == 2
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
