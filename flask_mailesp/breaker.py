"""A circuit breaker: do not ask again and again what has just failed to answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .limits import ProcessLock


class Breaker:
    """Whether one member of a strategy is worth asking. May be shared by threads.

    Closed, it lets everything pass. ``failures`` in a row open it for ``seconds``; then one
    send is let through as a probe while the others still pass by. Its success closes the
    breaker, its failure opens it for as long again. Each process has its own.
    """

    def __init__(
        self,
        failures: int = 5,
        seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = ProcessLock()
        self._failures = 0
        self._prober: int | None = None  # the thread whose send is the probe
        self.until: float | None = None  # when the next probe may go; None while closed

    @property
    def closed(self) -> bool:
        """Whether everything passes."""
        return self.until is None

    def admits(self) -> bool:
        """Tell whether a send may go; where it is the probe, no other goes until it ends."""
        if self.until is None:
            return True
        with self._lock:
            now = self._clock()
            if self.until is None:
                return True
            if now < self.until:
                return False
            self.until = now + self._seconds  # should the probe never report, another follows
            self._prober = threading.get_ident()
            return True

    def failed(self) -> None:
        """Note that the ESP was not there, or did not answer for what it did."""
        with self._lock:
            self._failures, self._prober = self._failures + 1, None
            if self.until is not None or self._failures >= self._most:
                self.until = self._clock() + self._seconds

    def passed(self) -> None:
        """Note that the ESP answered, be it with a refusal of the message."""
        if self._failures or self.until is not None:
            with self._lock:
                self._failures, self._prober, self.until = 0, None, None

    def not_asked(self) -> None:
        """Note that a send that was let through made no request; another may be the probe."""
        with self._lock:
            if self.until is not None and self._prober == threading.get_ident():
                self.until, self._prober = self._clock(), None

    def fresh(self) -> Breaker:
        """Return a breaker of the same kind that knows nothing yet."""
        return Breaker(self._most, self._seconds, self._clock)

    def __repr__(self) -> str:
        return f"<Breaker: {'closed' if self.until is None else 'open'}>"
