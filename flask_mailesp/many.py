"""Many messages: the ESP's multi-message endpoint, or several requests at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING

from .batches import exchange
from .delivery import Delivery, Mailer, deliver, prepared_for
from .esp import Call
from .exceptions import InvalidMessageError, MailESPError
from .message import Message, PreparedMessage
from .records import replace
from .results import Outcome, Recipients, SendResult
from .retries import patient

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .strategies import Failover

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
    strategy = mailer.strategy
    if strategy is not None and strategy.batches:
        return _by_strategy(mailer, strategy, iter(messages), max(1, workers), before)
    if strategy is None and mailer.esp.build_many is not None:
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


# --- a strategy ------------------------------------------------------------------------


def _by_strategy(
    mailer: Mailer, strategy: Failover, messages: Iterator[Message], workers: int, before: Before
) -> Iterator[tuple[Message, SendResult]]:
    from .convoys import deliver_together

    while True:
        batch: list[tuple[Message, Message | SendResult]] = []
        for message in islice(messages, _AT_ONCE):
            known = _announced(mailer, message, before)
            batch.append((message, known or copy(message)))
        if not batch:
            return
        to_send = [item for _, item in batch if isinstance(item, Message)]
        sent = iter(deliver_together(strategy, to_send, workers))
        for message, item in batch:
            outcome = next(sent) if isinstance(item, Message) else item
            yield (
                message,
                _failed(mailer, outcome) if isinstance(outcome, Exception) else outcome,
            )


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
    items = {index: (message, Delivery(mailer)) for index, message in prepared.items()}
    exchange(mailer, calls, list(items.values()))
    for index, (message, delivery) in items.items():
        results[index] = delivery.result(message.recipients)


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
