"""Many messages: the ESP's multi-message endpoint, or several requests at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING

from .delivery import Delivery, Mailer, deliver, may_be_resent, prepared_for, stops
from .esp import Call
from .exceptions import InvalidMessageError, MailESPError
from .message import Message, PreparedMessage
from .records import replace
from .results import Outcome, Recipients, SendResult
from .retries import patient

if TYPE_CHECKING:
    from concurrent.futures import Future

Before = Callable[[Message], SendResult | None]

_AT_ONCE = 500  # messages gathered for a multi-message endpoint


def deliver_many(
    mailer: Mailer, messages: Iterable[Message], workers: int, before: Before
) -> Iterator[tuple[Message, SendResult]]:
    """Yield each message with its result, in order.

    ``before(message)`` runs first, in the caller's thread; if it returns a result, that is
    the message's. Messages are taken from the iterable only as they are needed.
    """
    mailer = replace(mailer, retries=patient(mailer.retries))
    if mailer.esp.build_many is not None:
        return _by_batches(mailer, iter(messages), before)
    return _by_workers(mailer, messages, max(1, workers), before)


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


def _by_workers(
    mailer: Mailer, messages: Iterable[Message], workers: int, before: Before
) -> Iterator[tuple[Message, SendResult]]:
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[tuple[Message, Future[SendResult] | SendResult]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="mailesp")
    try:
        for message in messages:
            known = _announced(mailer, message, before)
            # A copy: the caller may fill in the same message again for the next recipient.
            job = known or pool.submit(_deliver, mailer, copy(message))
            waiting.append((message, job))
            if len(waiting) >= 2 * workers:
                yield _next_of(waiting)
        while waiting:
            yield _next_of(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _deliver(mailer: Mailer, message: Message) -> SendResult:
    try:
        return deliver(mailer, message)
    except Exception as error:
        return _failed(mailer, error)


def _next_of(
    waiting: deque[tuple[Message, Future[SendResult] | SendResult]],
) -> tuple[Message, SendResult]:
    message, outcome = waiting.popleft()
    return message, outcome if isinstance(outcome, SendResult) else outcome.result()


# --- a multi-message endpoint ----------------------------------------------------------


def _by_batches(
    mailer: Mailer, messages: Iterator[Message], before: Before
) -> Iterator[tuple[Message, SendResult]]:
    while True:
        batch: list[Message] = []
        results: list[SendResult | None] = []
        prepared: dict[int, PreparedMessage] = {}
        for message in islice(messages, _AT_ONCE):
            known = _announced(mailer, message, before)
            if known is None:
                try:  # at once: the caller may fill in the same message again
                    prepared[len(batch)] = prepared_for(mailer, message)
                except Exception as error:
                    known = _failed(mailer, error)
            batch.append(message)
            results.append(known)
        if not batch:
            return
        _send_batch(mailer, prepared, results)
        for message, result in zip(batch, results, strict=True):
            assert result is not None  # noqa: S101 - every index has been filled
            yield message, result


def _send_batch(
    mailer: Mailer, prepared: dict[int, PreparedMessage], results: list[SendResult | None]
) -> None:
    """Exchange the calls for some messages and fill in their results."""
    calls = _built(mailer, prepared, results)
    deliveries = {index: Delivery(mailer) for index in prepared}
    if _exchange_all(mailer, calls, list(deliveries.values())):
        _again(mailer, prepared, deliveries)
    for index, delivery in deliveries.items():
        results[index] = delivery.result(prepared[index].recipients)


def _built(
    mailer: Mailer, prepared: dict[int, PreparedMessage], results: list[SendResult | None]
) -> list[Call]:
    """Build the calls of all messages that can be built; the others get their error."""
    build_many = mailer.esp.build_many
    assert build_many is not None  # noqa: S101 - checked by deliver_many
    try:
        return list(build_many(list(prepared.values()), mailer.settings))
    except InvalidMessageError:
        for index, message in list(prepared.items()):
            try:
                list(mailer.esp.build(message, mailer.settings))
            except InvalidMessageError as error:
                results[index] = _failed(mailer, error)
                del prepared[index]
        return list(build_many(list(prepared.values()), mailer.settings))


def _again(
    mailer: Mailer, prepared: dict[int, PreparedMessage], deliveries: dict[int, Delivery]
) -> None:
    """Try again what was not accepted of batches that were otherwise answered well."""
    build_many = mailer.esp.build_many
    assert build_many is not None  # noqa: S101 - checked by deliver_many
    for tried in range(1, mailer.retries.attempts):
        left = {
            index: rest
            for index, message in prepared.items()
            if (rest := deliveries[index].rest(message, may_be_resent)) is not None
        }
        pauses = {
            index: pause
            for index, rest in left.items()
            if (pause := deliveries[index].pause_for(rest, tried)) is not None
        }
        if not pauses:
            return
        mailer.retries.sleep(max(pauses.values()))
        for index in pauses:
            deliveries[index].reopen(left[index])
        calls = list(build_many([left[index] for index in pauses], mailer.settings))
        if not _exchange_all(mailer, calls, [deliveries[index] for index in pauses], tried):
            return


def _exchange_all(
    mailer: Mailer, calls: Sequence[Call], deliveries: Sequence[Delivery], tried: int = 0
) -> bool:
    """Exchange calls and share out what they tell; return whether all were worth making."""
    for call in calls:
        exchange = Delivery(mailer, tried)
        readings = exchange.exchange(call)
        for part, reading in zip(call.parts, readings, strict=True):
            deliveries[part.message].note(part, reading)
        for index in {part.message for part in call.parts}:
            deliveries[index].attempts += exchange.attempts
            deliveries[index].response = exchange.response
        if all(stops(reading.error) for reading in readings):
            return False
    return True
