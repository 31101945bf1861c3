"""One job at a time, in order; each can be cancelled, and none takes the others along."""

import threading
import time
from dataclasses import dataclass

import pytest

from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.studio import jobs
from auffusion_cli.studio.jobs import JobQueue, QueueFullError


@dataclass
class Errand:
    title: str
    task: str = "errand"


@pytest.fixture
def worked():
    return []


@pytest.fixture
def gate():
    """Closed: work waits between its steps."""
    return threading.Event()


@pytest.fixture
def queue(worked, gate):
    def work(job, report):
        if job.ask.title == "wrong":
            raise UsageError("impossible", hint="Try another")
        if job.ask.title == "bug":
            raise ZeroDivisionError("1 / 0")
        for step in range(3):
            report(step, 3)
            assert gate.wait(10)
        worked.append(job.ask.title)

    queue = JobQueue(lambda: None, work)
    queue.start()
    yield queue
    gate.set()
    queue.stop()


def wait_until(condition):
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_they_are_done_one_after_the_other(queue, gate, worked):
    added = [queue.add(Errand(title)) for title in "abc"]
    wait_until(lambda: added[0].status == "running")
    assert [job.status for job in queue.listed()] == ["running", "waiting", "waiting"]
    assert (added[0].n_done, added[0].n_steps) == (0, 3)
    gate.set()
    wait_until(lambda: all(job.is_finished for job in added))
    assert worked == ["a", "b", "c"] and {job.status for job in added} == {"done"}


def test_a_waiting_job_leaves_the_queue_and_a_running_one_ends_after_its_step(queue, gate, worked):
    first, second, third = (queue.add(Errand(title)) for title in "abc")
    wait_until(lambda: first.status == "running")
    queue.cancel(second)
    assert second.status == "cancelled" and first.status == "running"
    queue.cancel(first)
    gate.set()
    wait_until(lambda: third.is_finished)
    assert first.status == "cancelled" and worked == ["c"]


def test_one_that_fails_says_why_and_the_next_is_done(queue, gate, worked, caplog):
    gate.set()
    wrong, bug, right = (queue.add(Errand(title)) for title in ("wrong", "bug", "right"))
    wait_until(lambda: right.is_finished)
    assert (wrong.status, wrong.error) == ("failed", "impossible. Try another")
    assert (bug.status, bug.error) == ("failed", "unexpected ZeroDivisionError: 1 / 0")
    assert "ZeroDivisionError" in caplog.text and worked == ["right"]


def test_without_a_model_every_job_fails_with_its_reason():
    def prepare():
        raise AuffusionError("the checkpoint is damaged")

    queue = JobQueue(prepare, lambda job, report: None)
    queue.start()
    job = queue.add(Errand("a"))
    wait_until(lambda: job.is_finished)
    assert (queue.state, job.error) == ("failed", "the checkpoint is damaged")
    queue.stop()


def test_waiting_and_remembered_jobs_are_bounded(queue, gate, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_WAITING", 2)
    monkeypatch.setattr(jobs, "MAX_FINISHED", 2)
    first = queue.add(Errand("a"))
    wait_until(lambda: first.status == "running")
    others = [queue.add(Errand(title)) for title in "bc"]
    with pytest.raises(QueueFullError):
        queue.add(Errand("d"))
    gate.set()
    wait_until(lambda: others[-1].is_finished)
    assert queue.find(first.id) is None and queue.find(others[-1].id) is others[-1]


def test_every_change_is_announced(queue, gate):
    changes = []
    queue.on_change = lambda: changes.append([job.status for job in queue.listed()])
    gate.set()
    job = queue.add(Errand("a"))
    wait_until(lambda: changes and changes[-1] == ["done"])
    assert ["running"] in changes and job.status == "done"
