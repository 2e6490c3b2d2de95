"""The signals that a Flask app connects to. The sender is always the real app object.

Receivers are kept alive by their connection (unlike blinker's default, under which a
function defined inside another one silently stops being called).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from blinker import ANY, NamedSignal

from .exceptions import CancelSend

__all__ = [
    "CancelSend",
    "attempt_ended",
    "attempt_failed",
    "attempt_started",
    "inbound",
    "post_send",
    "pre_send",
    "tracking",
]

F = TypeVar("F", bound=Callable[..., Any])


class MailSignal(NamedSignal):
    """A named signal that holds its receivers strongly unless told otherwise."""

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = False) -> F:
        """Connect a receiver for one app, or for all of them."""
        return super().connect(receiver, sender, weak)


pre_send = MailSignal(
    "mailesp-pre-send",
    """``(app, message, esp_name)``: a message is about to be sent. A receiver may change it;
    raising `CancelSend` ends the send quietly.""",
)
post_send = MailSignal(
    "mailesp-post-send",
    """``(app, message, result, esp_name)``: a send has ended, well or not. What a receiver
    raises is logged and changes nothing.""",
)
tracking = MailSignal(
    "mailesp-tracking",
    """``(app, event, esp_name)``: an authentic `TrackingEvent` has arrived.""",
)
inbound = MailSignal(
    "mailesp-inbound",
    """``(app, event, esp_name)``: an authentic `InboundEvent` has arrived.""",
)
attempt_started = MailSignal(
    "mailesp-attempt-started",
    """``(app, exchange, esp_name)``: an exchange with the ESP begins. ``exchange`` has the
    counts ``recipients`` and ``messages`` and the size ``request_bytes``, and is the same
    object when it ends. Runs in the thread that makes the exchange.""",
)
attempt_ended = MailSignal(
    "mailesp-attempt-ended",
    """``(app, exchange, esp_name, attempt, response_bytes)``: the ESP took all or some of
    it. ``attempt`` is the `Attempt`, with its outcome and duration.""",
)
attempt_failed = MailSignal(
    "mailesp-attempt-failed",
    """The same, where the ESP took nothing or nobody knows: ``attempt.error`` says why, and
    ``response_bytes`` is None if there was no answer.""",
)
