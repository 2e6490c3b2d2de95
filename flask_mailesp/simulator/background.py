"""The thread that posts events nobody asked for by hand."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

Job = Callable[[], object]


class Background:
    """Runs jobs one after another, each not before it is due, in one lazy daemon thread."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._jobs: deque[tuple[float, Job]] = deque()
        self._running = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job, delay: float) -> None:
        """Run a job after ``delay`` seconds (the same for all of them: the queue is a FIFO)."""
        with self._changed:
            self._jobs.append((time.monotonic() + delay, job))
            if self._thread is None:
                self._stopped = False
                self._thread = threading.Thread(
                    target=self._work, name="mailesp-simulator-events", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether nothing waits and nothing runs. Call with the condition held."""
        return not self._jobs and not self._running

    def stop(self) -> None:
        """Forget what has not begun, and wait for what has."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._jobs.clear()
            self._stopped = True
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                logger.exception("an automatic event of the simulator failed")
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for the next due job; None when it is time to stop."""
        with self._changed:
            while not self._stopped:
                wait = self._jobs[0][0] - time.monotonic() if self._jobs else None
                if wait is not None and wait <= 0:
                    self._running = True
                    return self._jobs.popleft()[1]
                self._changed.wait(wait)
        return None
