"""OpenTelemetry spans of what is exchanged with ESPs; needs the ``otel`` extra.

::

    from flask_mailesp.otel import trace_sends

    trace_sends(app)

Each exchange becomes a client span, below whatever span the app is in, with the names of the
semantic conventions for HTTP and for messaging
(https://opentelemetry.io/docs/specs/semconv/). There are counts, sizes and outcomes in it;
never addresses, subjects, credentials or what the ESP said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from blinker import ANY

from . import signals
from ._version import VERSION
from .telemetry import Exchange

if TYPE_CHECKING:
    from flask import Flask
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from .results import Attempt

__all__ = ["trace_sends"]


def trace_sends(
    app: Flask | None = None, tracer_provider: TracerProvider | None = None
) -> Callable[[], None]:
    """Make spans of an app's exchanges (of all apps', if none is given) from now on.

    The spans go to the global tracer provider unless one is given. Returns a function that
    ends it. Raises ImportError, naming the extra, if OpenTelemetry is not installed.
    """
    spans = _Spans(_tracer(tracer_provider))
    sender: Any = ANY if app is None else app
    connected = (
        (signals.attempt_started, spans.start),
        (signals.attempt_ended, spans.end),
        (signals.attempt_failed, spans.end),
    )
    for signal, receiver in connected:
        signal.connect(receiver, sender)

    def stop() -> None:
        for signal, receiver in connected:
            signal.disconnect(receiver, sender)

    return stop


def _tracer(provider: TracerProvider | None) -> Tracer:
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ImportError(
            'OpenTelemetry is not installed: pip install "Flask-MailESP[otel]".'
        ) from error
    return trace.get_tracer("flask_mailesp", VERSION, provider)


class _Spans:
    """The spans of exchanges that have begun and not ended."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: WeakKeyDictionary[Exchange, Span] = WeakKeyDictionary()

    def start(self, app: Flask, exchange: Exchange, esp_name: str, **_: Any) -> None:
        from opentelemetry.trace import SpanKind

        self._open[exchange] = self._tracer.start_span(
            f"send {esp_name}", kind=SpanKind.CLIENT, attributes=_described(exchange, esp_name)
        )

    def end(
        self, app: Flask, exchange: Exchange, attempt: Attempt, response_bytes: int | None, **_: Any
    ) -> None:
        span = self._open.pop(exchange, None)
        if span is None:  # it began before anybody listened
            return
        span.set_attribute("mailesp.outcome", str(attempt.outcome))
        if attempt.status is not None:
            span.set_attribute("http.response.status_code", attempt.status)
        if response_bytes is not None:
            span.set_attribute("http.response.body.size", response_bytes)
        if attempt.error is not None:
            _mark_failed(span, attempt)
        span.end()


def _described(exchange: Exchange, esp_name: str) -> dict[str, str | int]:
    """Return what is known of an exchange when it begins."""
    return {
        "messaging.system": esp_name.lower().replace(" ", "_"),
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": exchange.messages,
        "http.request.method": exchange.method,
        "http.request.body.size": exchange.request_bytes,
        "server.address": exchange.server_address,
        "server.port": exchange.server_port,
        "mailesp.recipient_count": exchange.recipients,
    }


def _mark_failed(span: Span, attempt: Attempt) -> None:
    """Say what kind of failure it was. Its text is the ESP's, which may quote anything."""
    from opentelemetry.trace import Status, StatusCode

    kind = type(attempt.error).__name__
    refused = attempt.status is not None and attempt.status >= 400
    span.set_attribute("error.type", str(attempt.status) if refused else kind)
    span.set_status(Status(StatusCode.ERROR, kind))
