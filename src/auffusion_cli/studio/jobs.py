"""Jobs of a studio: one worker thread takes them in order, one at a time; the rest wait in sight.

A job can be cancelled while it waits, and between two denoising steps while it is worked on.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from auffusion_cli.errors import AuffusionError

logger = logging.getLogger(__name__)

MAX_WAITING = 200
MAX_FINISHED = 500
"""Finished jobs that can still be asked for; their sounds are in the history."""


class Cancelled(BaseException):
    """The job was cancelled. No Exception, so that no task takes it for a sound that failed."""


class QueueFullError(AuffusionError):
    """So many jobs wait that no more are taken."""


@dataclass(eq=False)
class Job:
    """Something that was asked for, and how far it is. Only the worker changes it once it runs."""

    ask: Any
    """What to do: one of `asks`."""
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    status: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    n_done: int = 0
    """Denoising steps."""
    n_steps: int = 0
    """0 as long as it is not known."""
    sounds: list[str] = field(default_factory=list)
    """Ids in the history, one by one as they are made."""
    remarks: list[str] = field(default_factory=list)
    error: str | None = None
    wants_cancel: bool = False

    @property
    def is_finished(self) -> bool:
        return self.status in ("done", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "task": self.ask.task,
            "title": self.ask.title,
            "status": self.status,
            "n_done": self.n_done,
            "n_steps": self.n_steps,
            "sounds": list(self.sounds),
            "remarks": list(self.remarks),
            "error": self.error,
        }


class JobQueue:
    """Runs `work(job, report)` for one job after the other, on a thread of its own.

    `prepare` is called first, on the same thread (it loads the model); where it fails, every job
    does. `on_change` is called, on any thread, after each change of any job.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        work: Callable[[Job, Callable[[int, int], None]], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_change = on_change
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.failure: str | None = None
        self._prepare, self._work = prepare, work
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._finished: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="studio worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancel everything and wait for the worker to end."""
        with self._changed:
            self._is_stopped = True
            for job in self._jobs.values():
                job.wants_cancel = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, ask: Any) -> Job:
        """A new job, at the end of the queue.

        Raises:
            QueueFullError: too many wait.
        """
        job = Job(ask)
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise QueueFullError(f"{MAX_WAITING} jobs wait already; try again later")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        self.on_change()
        return job

    def find(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def listed(self, n_finished: int = 20) -> list[Job]:
        """The last finished jobs, the one that runs, and those that wait, in this order."""
        with self._changed:
            unfinished = [job for job in self._jobs.values() if not job.is_finished]
            finished = list(self._finished)[-n_finished:]
        return finished + unfinished

    def cancel(self, job: Job) -> None:
        """Take a waiting job out of the queue; a running one ends after its step."""
        with self._changed:
            job.wants_cancel = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, "cancelled")
        self.on_change()

    def _run(self) -> None:
        try:
            self._prepare()
            self.state = "ready"
        except Exception as error:
            self.state, self.failure = "failed", _in_words(error)
        self.on_change()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if self._is_stopped:
                    return
                job = self._waiting.popleft()
                job.status = "running"
            self.on_change()
            self._work_on(job)
            self.on_change()

    def _work_on(self, job: Job) -> None:
        def report(n_done: int, n_steps: int) -> None:
            job.n_done, job.n_steps = n_done, n_steps
            if job.wants_cancel:
                raise Cancelled
            self.on_change()

        status: Literal["done", "failed", "cancelled"] = "done"
        try:
            if self.failure:
                raise AuffusionError(self.failure)
            self._work(job, report)
        except Cancelled:
            status = "cancelled"
        except Exception as error:
            status, job.error = "failed", _in_words(error)
        with self._changed:
            self._finish(job, status)

    def _finish(self, job: Job, status: Literal["done", "failed", "cancelled"]) -> None:
        job.status = status
        self._finished.append(job)
        if len(self._finished) > MAX_FINISHED:
            self._jobs.pop(self._finished.popleft().id)


def _in_words(error: Exception) -> str:
    """The message for the user; what is not expected goes into the log."""
    if isinstance(error, AuffusionError):
        return f"{error.message}. {error.hint}" if error.hint else error.message
    if isinstance(error, MemoryError):
        return "out of memory; try a shorter sound"
    logger.error("a job failed unexpectedly", exc_info=error)
    return f"unexpected {type(error).__name__}: {error}"
