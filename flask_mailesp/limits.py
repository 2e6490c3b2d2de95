"""How fast one credential may send: a rate the user sets, and pauses learnt from 429 answers.

One `Limit` belongs to one credential and process, whichever mailers use it. The rate is kept
by the generic cell rate algorithm (ITU-T I.371), a token bucket that needs one number.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .esp import Secret

_FIRST_HOLD = 0.5  # seconds after a 429 that names no time; doubled while they go on
_LONGEST_HOLD = 60.0
_LONGEST_HEED = 300.0  # whatever a 429 asks for, one request is tried again after that
_BURST = 10  # a tenth of what a period allows may go at once
_MOST_GUESTS = 1000

Clock = Callable[[], float]


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    requests: float
    seconds: float


class Limits:
    """The credentials of an app at one ESP, each with its `Limit`.

    Besides those of the mailers, messages may bring credentials of their own: the last
    thousand of these are remembered.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._own: dict[tuple[str, ...], Limit] = {}
        self._guests: dict[str, Limit] = {}

    def of_mailer(self, secrets: Iterable[str], rate: Rate | None) -> Limit:
        """Return the limit of a mailer's credential, which several mailers may share.

        It is among the ``secrets`` of the mailer's settings, in whatever order.
        """
        own = tuple(sorted(secrets))
        limit = self._own.setdefault(own, Limit(None, self._clock, self, own))
        limit.restrict(rate)
        return limit

    @property
    def has_guests(self) -> bool:
        """Whether something is known of credentials that messages have brought along."""
        return bool(self._guests)

    def of_message(self, credential: str, rate: Rate | None) -> Limit:
        """Return the limit of a credential that a message has brought along."""
        own = (limit for limit in self._own.values() if limit.owns(credential))
        limit = next(own, None) or self._guests.get(credential)
        if limit is None:
            while len(self._guests) >= _MOST_GUESTS:
                self._guests.pop(next(iter(self._guests), ""), None)
            new = Limit(rate, self._clock, self)
            limit = self._guests.setdefault(credential, new)
        return limit


class Limit:
    """When the next request of a credential may go. May be shared by threads.

    In no period of the rate's length are there more requests than it says: what goes at
    once is made up for by the spacing of the rest.
    """

    def __init__(
        self,
        rate: Rate | None = None,
        clock: Clock = time.monotonic,
        family: Limits | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.rate: Rate | None = None
        self._clock = clock
        self._family = family
        self._secrets = secrets
        self._lock = ProcessLock()
        self._spacing = 0.0  # seconds between requests; 0 without a rate
        self._ahead = 0.0  # seconds by which requests may come early
        self._due = 0.0  # when the next request would come, were all evenly spaced
        self._held_until = 0.0  # as the ESP has asked
        self._guessed_until = 0.0  # where it has not said how long
        self._guesses = 0
        self.restrict(rate)

    def restrict(self, rate: Rate | None) -> None:
        """Keep to a rate, unless the one there is slower."""
        if rate is None or (self.rate and _per_second(self.rate) <= _per_second(rate)):
            return
        burst = max(1.0, rate.requests // _BURST)
        self.rate = rate
        self._spacing = rate.seconds / (rate.requests - burst + 1)
        self._ahead = (burst - 1) * self._spacing

    @property
    def is_free(self) -> bool:
        """Whether requests may go whatever their credential, without asking; as most may."""
        return not (
            self._spacing
            or self._held_until
            or self._guessed_until
            or (self._family and self._family.has_guests)
        )

    def of(self, headers: Iterable[str]) -> Limit:
        """Return the limit of the credential that is among a request's headers' values.

        That is this one, unless a message has brought a credential of its own.
        """
        for value in headers:
            if type(value) is Secret and self._family and not self.owns(value):
                return self._family.of_message(value, self.rate)
        return self

    def owns(self, value: str) -> bool:
        """Tell whether a header's value is this credential, in whatever scheme."""
        return _bare(value) in self._secrets

    def enter(self, patience: float, *, guess: bool = False) -> float:
        """Return the seconds to wait before a request, and keep a place for it.

        If that is more than ``patience``, no place is kept and nothing is to be sent. A
        ``guess`` of how long the ESP wants to be left alone, where it has not said so, is
        for those whom nobody waits for.
        """
        if not (self._spacing or self._held_until or self._guessed_until):
            return 0.0
        with self._lock:
            now = self._clock()
            due = max(self._due, now)
            held_until = max(self._held_until, self._guessed_until if guess else 0.0)
            wait = max(due - self._ahead, held_until) - now
            if wait <= patience:
                self._due = due + self._spacing
            return max(0.0, wait)

    def refused(self, retry_after: float | None) -> None:
        """Learn from a 429: nothing goes until ``retry_after`` seconds have passed."""
        with self._lock:
            now = self._clock()
            if retry_after is not None:
                until = now + min(retry_after, _LONGEST_HEED)
                self._held_until = max(self._held_until, until)
            elif now >= self._guessed_until:  # those refused together count once
                self._guessed_until = now + min(
                    _LONGEST_HOLD, _FIRST_HOLD * 2 ** min(self._guesses, 9)
                )
                self._guesses += 1

    def passed(self) -> None:
        """Learn from any other answer that requests are taken again."""
        if self._guesses:
            with self._lock:
                self._guesses, self._guessed_until = 0, 0.0

    def __repr__(self) -> str:
        return f"<Limit: {self.rate}>" if self.rate else "<Limit>"


def _bare(value: str) -> str:
    """Return the credential in a header: alone, ``Bearer`` (RFC 6750) or ``Basic`` (RFC 7617)."""
    scheme, _, token = value.rpartition(" ")
    if scheme != "Basic":
        return token
    try:
        return base64.b64decode(token).decode().partition(":")[2]
    except ValueError:
        return token


def _per_second(rate: Rate) -> float:
    return rate.requests / rate.seconds


class ProcessLock:
    """A lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._locks = {os.getpid(): threading.Lock()}

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
