"""Batches: requests that carry several messages, and what each message learns of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from .delivery import Delivery, Mailer, may_be_resent, stops
from .esp import Call, Reading
from .exceptions import AuthenticationError, NotSentError, SendUncertainError
from .message import PreparedMessage

logger = logging.getLogger("flask_mailesp")

# What tells against the ESP rather than against a message or its recipients.
TROUBLE = NotSentError, SendUncertainError, AuthenticationError

Item = tuple[PreparedMessage, Delivery]


def exchange(mailer: Mailer, calls: Sequence[Call], items: Sequence[Item]) -> list[bool]:
    """Exchange the calls built for some messages, and again what may be tried again.

    Each message's `Delivery` learns what became of it. Returns, for each request's last
    attempt, whether the ESP was there and answered for what it did.
    """
    answered: list[bool] = []
    if _exchange_all(mailer, calls, [delivery for _, delivery in items], answered):
        _again(mailer, items, answered)
    return answered


def _exchange_all(
    mailer: Mailer,
    calls: Sequence[Call],
    deliveries: Sequence[Delivery],
    answered: list[bool],
    tried: int = 0,
) -> bool:
    """Exchange calls and share out what they tell; return whether all were worth making."""
    for call in calls:
        one = Delivery(mailer, tried)
        readings = one.exchange(call)
        for part, reading in zip(call.parts, readings, strict=True):
            deliveries[part.message].note(part, reading)
        for index in {part.message for part in call.parts}:
            deliveries[index].attempts += one.attempts
            deliveries[index].response = one.response
        if one.attempts:
            answered.append(is_answer(readings))
        if all(stops(reading.error) for reading in readings):
            return False
    return True


def is_answer(readings: Sequence[Reading]) -> bool:
    """Tell whether anything in an answer shows that the ESP works."""
    return not all(isinstance(reading.error, TROUBLE) for reading in readings)


def _again(mailer: Mailer, items: Sequence[Item], answered: list[bool]) -> None:
    """Try again what was not accepted of batches that were otherwise answered well."""
    for tried in range(1, mailer.retries.attempts):
        left = {
            index: rest
            for index, (message, delivery) in enumerate(items)
            if (rest := delivery.rest(message, may_be_resent)) is not None
        }
        pauses = {
            index: pause
            for index, rest in left.items()
            if (pause := items[index][1].pause_for(rest, tried)) is not None
        }
        calls = _built({index: left[index] for index in pauses}, mailer)
        if not calls:
            return
        mailer.retries.sleep(max(pauses.values()))
        for index in pauses:
            items[index][1].reopen(left[index])
        deliveries = [items[index][1] for index in pauses]
        if not _exchange_all(mailer, calls, deliveries, answered, tried):
            return


def _built(messages: Mapping[int, PreparedMessage], mailer: Mailer) -> list[Call]:
    """Build the calls of what is left; should that fail, what is known already stands."""
    build_many = mailer.esp.build_many
    assert build_many is not None  # noqa: S101 - else there are no batches
    try:
        return list(build_many(list(messages.values()), mailer.settings)) if messages else []
    except Exception:
        logger.exception("What was left of a batch could not be built.")
        return []
