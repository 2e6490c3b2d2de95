"""Many messages: the ESP's multi-message endpoint, or several requests at once.

Messages are taken from the iterable, announced and built in the caller's thread; what has
been built is exchanged in others meanwhile. A *job* is what one thread does at a time: one
message, or the messages that travel together: one batch, or a convoy through a strategy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from copy import copy
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from . import batches
from .delivery import Delivery, Mailer, deliver, prepared_for
from .esp import Call
from .exceptions import MailESPError
from .message import Attachment, Message, PreparedMessage
from .records import replace
from .results import Outcome, Recipients, SendResult
from .retries import patient

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from .strategies import Failover

Before = Callable[[Message], SendResult | None]
After = Callable[[Message, SendResult], None]

# How much is gathered for a multi-message endpoint at once. ESPs take more; but a few smaller
# batches are on the wire sooner than one, and each bounds what is in memory.
_COPIES = 250
_BYTES = 18_000_000  # of bodies and attachments; base64 makes 24 MB of them
_BATCHES = 4  # on the wire at once


def deliver_many(
    mailer: Mailer, messages: Iterable[Message], workers: int, before: Before, after: After
) -> Iterator[SendResult]:
    """Yield a result for each message, in order.

    ``before(message)`` runs before a message is prepared; if it returns a result, that is
    the message's. ``after(message, result)`` runs once for every message that has a result,
    even if the iteration ends early. Both run in the caller's thread. Messages are taken from
    the iterable only as they are needed; should it fail, the results of what has been
    started come first.
    """
    from concurrent.futures import ThreadPoolExecutor

    mailer = replace(mailer, retries=patient(mailer.retries))
    strategy = mailer.strategy
    if strategy is not None and strategy.batches:
        convoy = partial(_Convoy, mailer, strategy, workers)
        jobs, threads = _loads(convoy, messages, before), 1
        ahead = 2  # the next is gathered while one is on its way
    elif strategy is None and mailer.esp.build_many is not None:
        jobs = _loads(partial(_Batch, mailer), messages, before)
        threads = min(workers, _BATCHES)
        ahead = max(2, threads)
    else:
        jobs, threads = _singles(mailer, messages, before), workers
        ahead = 2 * threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mailesp")
    return _in_order(pool, jobs, ahead, after)


class _Gate:
    """Says whether jobs may still begin. Once it is shut, what has not begun never will."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.is_shut = False

    def shut(self) -> None:
        with self.lock:
            self.is_shut = True


class _Job:
    """Messages and, once ``work`` has been done in another thread, their results."""

    def __init__(self, messages: Sequence[Message], work: Callable[[], list[SendResult]]) -> None:
        self.messages = messages
        self.results: list[SendResult] = []
        self.begun = False
        self._work = work
        self._error: BaseException | None = None
        self._unfinished = Lock()
        self._unfinished.acquire()

    def run(self, gate: _Gate) -> None:
        """Do the work, unless it is too late to begin."""
        if not self.claim(gate):
            return
        try:
            self.results = self._work()
        except BaseException as error:
            self._error = error
        self._unfinished.release()

    def claim(self, gate: _Gate) -> bool:
        """Begin; return False where it is too late, or somebody has."""
        with gate.lock:
            first = not (gate.is_shut or self.begun)
            self.begun |= first
            return first

    @classmethod
    def known(cls, messages: Sequence[Message], results: list[SendResult]) -> _Job:
        """Return a job with results for which no work is needed."""
        job = cls(messages, list)
        job.results = results
        job.begun = True
        job._unfinished.release()
        return job

    def outcomes(self) -> Iterable[tuple[Message, SendResult]]:
        """Wait for the work, and return what there is to tell."""
        with self._unfinished:
            return zip(self.messages, self.results)  # noqa: B905 - all of them, or none

    def raise_for_defect(self) -> None:
        """Raise what the work raised; whatever befalls a message is in its result instead."""
        if self._error is not None:
            raise self._error


def _in_order(
    pool: Executor, jobs: Iterator[_Job], ahead: int, after: After
) -> Iterator[SendResult]:
    """Yield the results of jobs, of which at most ``ahead`` are under way."""
    gate = _Gate()
    waiting: deque[_Job] = deque()
    known: deque[tuple[Message, SendResult]] = deque()
    try:
        trouble = _take(pool, gate, jobs, waiting, ahead)
        while waiting:
            outcomes = waiting[0].outcomes()
            waiting[0].raise_for_defect()
            known.extend(outcomes)
            waiting.popleft()
            while known:
                message, result = known.popleft()
                after(message, result)
                yield result
            trouble = trouble or _take(pool, gate, jobs, waiting, ahead)
        if isinstance(trouble, Exception):
            raise trouble
    finally:
        gate.shut()
        pool.shutdown(wait=False, cancel_futures=True)
        for job in waiting:
            known.extend(job.outcomes() if job.begun else ())
        for message, result in known:
            after(message, result)
        pool.shutdown()


def _take(
    pool: Executor, gate: _Gate, jobs: Iterator[_Job], waiting: deque[_Job], ahead: int
) -> Exception | bool:
    """Start jobs until enough are under way; return what ended them, if anything did."""
    try:
        while len(waiting) < ahead:
            job = next(jobs, None)
            if job is None:
                return True
            waiting.append(job)  # before it starts: Ctrl-C may come between the two
            if not job.begun:
                _start(pool, gate, job, waiting)
    except Exception as error:  # raised again once the results of what was started are out
        return error
    return False


def _start(pool: Executor, gate: _Gate, job: _Job, waiting: deque[_Job]) -> None:
    """Have a thread do the work, in which receivers of signals find the caller's context."""
    try:
        pool.submit(copy_context().run, job.run, gate)
    except RuntimeError:  # no thread can be started, or the interpreter is shutting down
        if job.claim(gate):
            waiting.pop()
        raise


def _failed(mailer: Mailer, error: Exception) -> SendResult:
    """Return the result of a message that was stopped before any request, by whatever."""
    if isinstance(error, MailESPError):
        error.esp_name = mailer.esp.name
    return SendResult(mailer.esp.name, Outcome.NOT_SENT, Recipients(), error=error)


def _announced(mailer: Mailer, message: Message, before: Before) -> SendResult | None:
    """Run ``before``; what it raises is this message's failure, not that of the others."""
    try:
        return before(message)
    except Exception as error:
        return _failed(mailer, error)


# --- several requests at once ----------------------------------------------------------


def _singles(mailer: Mailer, messages: Iterable[Message], before: Before) -> Iterator[_Job]:
    for message in messages:
        known = _announced(mailer, message, before)
        yield _single(mailer, message) if known is None else _Job.known([message], [known])


def _single(mailer: Mailer, message: Message) -> _Job:
    # A copy: the caller may fill in the same message again for the next recipient.
    return _Job([message], partial(_deliver, mailer, copy(message)))


def _deliver(mailer: Mailer, message: Message) -> list[SendResult]:
    try:
        return [deliver(mailer, message)]
    except Exception as error:
        return [_failed(mailer, error)]


# --- messages that travel together ------------------------------------------------------


class _Load:
    """Messages that travel together, and the results that are known so far."""

    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer
        self.messages: list[Message] = []
        self.results: list[SendResult | None] = []
        self._copies = 0
        self._bytes = 0

    def add(self, message: Message, before: Before) -> bool:
        """Take one more message along; return whether there is room for more."""
        try:
            result = before(message)
            if result is None:  # at once: the caller may fill in the same message again
                result = self.take(message)
        except Exception as error:  # this message's failure, not that of the others
            result = _failed(self.mailer, error)
        self.messages.append(message)
        self.results.append(result)
        return self._copies < _COPIES and self._bytes < _BYTES and len(self.messages) < _COPIES

    def take(self, message: Message) -> SendResult | None:
        """Keep a message; or return what has become of it already."""
        raise NotImplementedError

    def job(self) -> _Job:
        """Return what is left to do."""
        raise NotImplementedError

    def weigh(self, copies: int, size: int) -> None:
        """Count some copies of so many bytes."""
        self._copies += copies
        self._bytes += copies * size

    def known(self) -> list[SendResult]:
        """Return the results, which are all known in the end."""
        return [result for result in self.results if result is not None]


def _loads(
    load: Callable[[], _Load], messages: Iterable[Message], before: Before
) -> Iterator[_Job]:
    """Gather messages into loads; yield the job of each when it is full."""
    current = load()
    for message in messages:
        if not current.add(message, before):
            yield current.job()
            current = load()
    if current.messages:
        yield current.job()


# --- ... through a strategy -------------------------------------------------------------


class _Convoy(_Load):
    """Messages that set out together; no more of them than of those in one batch."""

    def __init__(self, mailer: Mailer, strategy: Failover, workers: int) -> None:
        super().__init__(mailer)
        self.strategy = strategy
        self.workers = workers
        self.travellers: dict[int, Message] = {}

    def take(self, message: Message) -> None:
        self.weigh(_copies_of(message), _burden(message))
        self.travellers[len(self.messages)] = copy(message)

    def job(self) -> _Job:
        return _Job(self.messages, self._travel)

    def _travel(self) -> list[SendResult]:
        from .convoys import deliver_together

        sent = deliver_together(self.strategy, list(self.travellers.values()), self.workers)
        for index, outcome in zip(self.travellers, sent, strict=True):
            if isinstance(outcome, Exception):
                outcome = _failed(self.mailer, outcome)
            self.results[index] = outcome
        return self.known()


def _copies_of(message: Message) -> int:
    """Return how many copies of a message that nobody has checked yet are likely to go."""
    rows = (message.merge_data, message.merge_metadata, message.merge_headers)
    return 1 if rows == (None, None, None) else max(1, len(message.to))


def _burden(message: Message) -> int:
    """Return about how many bytes it holds; what may be wrong with it weighs nothing."""
    files = [
        item.data if isinstance(item, Attachment) else next(iter(item[2:]), None)
        for item in message.attachments
        if isinstance(item, (Attachment, tuple, list))
    ]
    parts = (message.body, message.html, *files)
    return sum(len(part) for part in parts if isinstance(part, (str, bytes)))


# --- ... to a multi-message endpoint ----------------------------------------------------


class _Batch(_Load):
    """Messages that are built together."""

    def __init__(self, mailer: Mailer) -> None:
        super().__init__(mailer)
        self.prepared: dict[int, PreparedMessage] = {}

    def take(self, message: Message) -> SendResult | None:
        prepared = prepared_for(self.mailer, message)
        rails = self.mailer.rails
        if rails is not None and not prepared.recipients:
            return rails.refused(self.mailer.esp.name, prepared)
        self.prepared[len(self.messages)] = prepared
        self.weigh(len(prepared.to) if prepared.is_batch else 1, _weight(prepared))
        return None

    def job(self) -> _Job:
        """Build the requests; what is left to do is to exchange them."""
        calls = _built(self.mailer, self.prepared, self.results)
        return _Job(self.messages, partial(self._exchange, calls))

    def _exchange(self, calls: Sequence[Call]) -> list[SendResult]:
        rails, esp_name = self.mailer.rails, self.mailer.esp.name
        if rails is not None and rails.suppress:
            for index, message in self.prepared.items():
                self.results[index] = rails.suppressed(esp_name, message)
            return self.known()
        items = {index: (item, Delivery(self.mailer)) for index, item in self.prepared.items()}
        batches.exchange(self.mailer, calls, list(items.values()))
        for index, (message, delivery) in items.items():
            result = delivery.result(message.recipients)
            self.results[index] = result if rails is None else rails.told(message, result)
        return self.known()


def _weight(message: PreparedMessage) -> int:
    """Return about how many bytes of a message are held until its batch is sent."""
    weight = len(message.body or "") + len(message.html or "")
    for item in message.attachments:
        weight += len(item.data)
    return weight


def _built(
    mailer: Mailer, prepared: dict[int, PreparedMessage], results: list[SendResult | None]
) -> list[Call]:
    """Build the calls of all messages that can be built; the others get their error."""
    build_many = mailer.esp.build_many
    assert build_many is not None  # noqa: S101 - checked by deliver_many
    try:
        return list(build_many(list(prepared.values()), mailer.settings))
    except Exception:
        for index, message in list(prepared.items()):
            try:
                list(mailer.esp.build(message, mailer.settings))
            except Exception as error:
                results[index] = _failed(mailer, error)
                del prepared[index]
        return list(build_many(list(prepared.values()), mailer.settings))
