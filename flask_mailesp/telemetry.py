"""Tells the attempt signals of each exchange with an ESP: counts, sizes, times; no addresses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import ref

from blinker import NamedSignal

from . import signals
from .esp import Call, HttpResponse
from .results import Attempt, Outcome

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger("flask_mailesp")

_WELL = frozenset({Outcome.ACCEPTED, Outcome.PARTIAL})


class Exchange:
    """One exchange that is being told of; the same object from start to end.

    ``recipients`` and ``messages`` are counts (a copy of a batch is a message);
    ``request_bytes`` is the size of the body, ``server_address`` and ``server_port`` tell
    where it goes to.
    """

    def __init__(self, app: Flask, esp_name: str, call: Call) -> None:
        self._app = app
        self.esp_name = esp_name
        self.recipients = sum(len(part.recipients) for part in call.parts)
        self.messages = len(call.parts)
        self.request_bytes = len(call.request.body)
        self.method = call.request.method
        url = urlsplit(call.request.url)
        self.server_address = url.hostname or ""
        self.server_port = url.port or {"http": 80}.get(url.scheme, 443)

    def ended(self, attempt: Attempt, response: HttpResponse | None) -> None:
        """Tell how it ended, by one signal or the other."""
        well = attempt.outcome in _WELL
        _tell(
            self._app,
            signals.attempt_ended if well else signals.attempt_failed,
            exchange=self,
            esp_name=self.esp_name,
            attempt=attempt,
            response_bytes=None if response is None else len(response.body),
        )


class Watch:
    """What a mailer calls when an exchange begins. It does not keep the app alive."""

    def __init__(self, app: Flask) -> None:
        self._app = ref(app)

    def __call__(self, esp_name: str, call: Call) -> Exchange | None:
        """Tell that an exchange begins; return it, or None if nobody listens to any of it."""
        app = self._app() if _is_heard() else None
        if app is None:
            return None
        exchange = Exchange(app, esp_name, call)
        _tell(app, signals.attempt_started, exchange=exchange, esp_name=esp_name)
        return exchange


def _is_heard() -> bool:
    return bool(
        signals.attempt_started.receivers
        or signals.attempt_ended.receivers
        or signals.attempt_failed.receivers
    )


def _tell(app: Flask, signal: NamedSignal, **about: Any) -> None:
    """Call each receiver; what one raises is logged and changes nothing."""
    for receiver in signal.receivers_for(app):
        try:
            app.ensure_sync(receiver)(app, **about)
        except Exception:
            logger.exception("A receiver of %s failed; the send is not affected.", signal.name)
