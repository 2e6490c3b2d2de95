"""The thread that posts what nobody asked for by hand: automatic events, retries, late ones."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .records import Pending

logger = logging.getLogger(__name__)


@dataclass(order=True)
class Job:
    """Something to do at a time (monotonic clock, seconds); `number` keeps the order of equals.

    ``awaited`` jobs are what `Simulator.wait` waits for in any case. ``held`` ones may be
    done earlier: see `Background.release`.
    """

    due: float
    number: int
    run: Callable[[], object] = field(compare=False)
    what: Pending = field(compare=False)
    awaited: bool = field(compare=False, default=True)
    held: bool = field(compare=False, default=False)


class Background:
    """Runs jobs one after another, each not before it is due, in one lazy daemon thread."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._jobs: list[Job] = []
        self._numbers = itertools.count()
        self._running = False
        self._thread: Worker | None = None

    def submit(
        self,
        run: Callable[[], object],
        what: Pending,
        *,
        awaited: bool = True,
        held: bool = False,
    ) -> None:
        """Run a job in ``what.due_in`` seconds.

        A job that was running when everything was stopped can no longer have others follow.
        """
        with self._changed:
            current = threading.current_thread()
            if (
                isinstance(current, Worker)
                and current.owner is self
                and current is not self._thread
            ):
                return
            due = time.monotonic() + what.due_in
            heapq.heappush(self._jobs, Job(due, next(self._numbers), run, what, awaited, held))
            if self._thread is None or not self._thread.is_alive():
                self._thread = Worker(self)
                self._thread.start()
            self._changed.notify_all()

    def release(self, esp: str) -> None:
        """The jobs of a provider that were held back are due now."""
        with self._changed:
            for job in self._jobs:
                if job.held and job.what.esp == esp:
                    job.due = 0.0
            heapq.heapify(self._jobs)
            self._changed.notify_all()

    def pending(self) -> list[Pending]:
        """What waits, the next first."""
        with self._changed:
            now = time.monotonic()
            jobs = sorted(self._jobs)
        return [replace(job.what, due_in=max(0.0, job.due - now)) for job in jobs]

    def idle(self, deadline: float) -> bool:
        """Whether nothing runs, and nothing waits that is awaited or due by the deadline.

        Call with the condition held.
        """
        waits = any(job.awaited or job.due <= deadline for job in self._jobs)
        return not waits and not self._running

    def stop(self) -> None:
        """Forget what has not begun, and wait for what has."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._jobs.clear()
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """In a child: the thread, and with it the jobs, are the parent's."""
        self._jobs.clear()
        self._thread, self._running = None, False

    def work(self) -> None:
        """Do what is due, in the worker's thread, until another or none is the worker."""
        while (job := self._next()) is not None:
            try:
                job.run()
            except Exception:
                logger.exception("an automatic event of the simulator failed")
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for the next due job; None when it is time to stop."""
        with self._changed:
            while self._thread is threading.current_thread():
                wait = self._jobs[0].due - time.monotonic() if self._jobs else None
                if wait is not None and wait <= 0:
                    self._running = True
                    return heapq.heappop(self._jobs)
                self._changed.wait(wait)
        return None


class Worker(threading.Thread):
    """The thread of one `Background`."""

    def __init__(self, owner: Background) -> None:
        super().__init__(name="mailesp-simulator-events", daemon=True)
        self.owner = owner

    def run(self) -> None:
        self.owner.work()
