"""The blueprint: webhooks in, signals out.

``flask.request ─copy→ WebhookRequest → verify(raw bytes) → parse → events → receivers``
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from flask import Blueprint, Flask, Request, Response, abort, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

from . import signals
from .esp import Esp, Fetch, Settings, Webhook, WebhookRequest
from .events import EventType, InboundEvent, TrackingEvent
from .exceptions import ConfigurationError, FetchError, WebhookRejected
from .registry import load_esp

if TYPE_CHECKING:
    from blinker import NamedSignal

    from .extension import State

logger = logging.getLogger("flask_mailesp")

Kind = Literal["tracking", "inbound"]
Receiver = Callable[..., object]
Event = TrackingEvent | InboundEvent

_LOG_EVERY = 10.0  # seconds between two lines about rejected webhooks


def blueprint(url_prefix: str, in_use: Iterable[str] = ()) -> Blueprint:
    """Return the blueprint with both routes, each with and without the last slash.

    Two rules, since werkzeug's ``strict_slashes=False`` answers a wrong method with 404. The
    tracking URLs of the ESPs ``in_use`` also have rules of their own, which match faster.
    """
    hooks = Blueprint("mailesp", __name__, url_prefix=url_prefix)
    for esp, slash in product(in_use, ("/", "")):
        hooks.add_url_rule(
            f"/{esp}/tracking{slash}",
            endpoint=f"tracking_{esp}{slash and '_'}",  # one for both would redirect
            view_func=tracking,
            methods=["POST"],
            defaults={"esp": esp},
        )
    for view, slash in product((tracking, inbound), ("/", "")):
        path = f"/<esp>/{view.__name__}{slash}"
        hooks.add_url_rule(path, view_func=view, methods=["POST"])
    # Mailgun posts a mail's source to URLs that end so, and what it made of it to all others.
    hooks.add_url_rule("/<esp>/inbound/mime", view_func=inbound, methods=["POST"])
    hooks.url_value_preprocessor(_exempt)
    hooks.url_value_preprocessor(_keep_body)
    return hooks


def tracking(esp: str) -> Response:
    """Receive an ESP's tracking events."""
    return receive(esp, "tracking")


def inbound(esp: str) -> Response:
    """Receive an ESP's inbound mail."""
    return receive(esp, "inbound")


def receive(esp_key: str, kind: Kind) -> Response:
    """Authenticate, read and hand on one webhook.

    Answers 200; 401 if it is not authentic; 413 if it is too large; 404 if there is no such
    ESP or kind; the ESP's retry status if a receiver failed.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    state: State = app.extensions["mailesp"]
    try:
        hook = state.hook(esp_key)
    except ConfigurationError as error:
        return _reject(state, esp_key, str(error))
    if hook is None or (webhook := hook[0].webhook(kind)) is None:
        abort(404)
    esp, settings = hook
    hook_request = WebhookRequest(EnvironHeaders(request.environ), request.get_data())
    try:
        reason = _why_not(state, esp, webhook, hook_request, settings)
        if reason is not None:
            return _reject(state, esp.name, reason)
        events = _parse(state, esp, webhook, hook_request, settings)
    except FetchError as error:
        state.webhook_log.put_off(esp.name, str(error))
        return _again(webhook)
    if _emit(app, state, esp, events, kind):
        return Response("OK\n", 200, content_type="text/plain")
    return _again(webhook)


def _again(webhook: Webhook) -> Response:
    """Ask the ESP to post the webhook once more, later."""
    return Response("Try again later.\n", webhook.retry_status, content_type="text/plain")


def _keep_body(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Read the body, before a ``before_request`` that looks at ``request.form`` uses it up.

    A body of more bytes than the limit ends the request with 413.
    """
    state: State = current_app.extensions["mailesp"]
    esp_key = (values or {}).get("esp", "")
    if esp_key not in state.hooks and load_esp(esp_key) is None:
        return  # answered with 404
    most = state.general.webhook_max_bytes
    current: Request = request._get_current_object()  # type: ignore[attr-defined]
    current.max_content_length = most + 1  # werkzeug cuts a chunked body there, silently
    if len(current.get_data()) > most:
        raise RequestEntityTooLarge


class EnvironHeaders:
    """A request's headers, looked up in the WSGI environ without regard to case."""

    __slots__ = ("_environ",)

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ

    def get(self, name: str, /) -> str | None:
        """Return a header's value, or None."""
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        value: str | None = self._environ.get(key)
        return value


def _why_not(
    state: State, esp: Esp, webhook: Webhook, hook_request: WebhookRequest, settings: Settings
) -> str | None:
    """Return why a webhook is not authentic, or None if it is. Raises FetchError."""
    now = datetime.now(timezone.utc)
    try:
        fetch = webhook.verify(hook_request, settings, now)
        if fetch is not None:
            state.fetcher.begin(state.transport_of(esp), settings, now).verify(fetch)
        once = webhook.once(hook_request, settings) if webhook.once else None
        if once is not None and not state.tokens.accepts(esp.name, once):
            return "its token came before, with another content."
    except FetchError:
        raise
    except WebhookRejected as error:
        return str(error)
    except ConfigurationError as error:
        return None if state.general.allow_insecure_webhooks else str(error)
    except Exception as error:  # what an ESP's room did not foresee proves nothing
        logger.debug("Checking a webhook failed.", exc_info=True)
        return f"checking it failed with {type(error).__name__}."
    return None


def _reject(state: State, esp_name: str, reason: str) -> Response:
    state.webhook_log.rejected(esp_name, reason)
    # Amazon SNS, for one, sends the credentials of a URL only when it is asked for them.
    challenge = {"WWW-Authenticate": 'Basic realm="webhooks"'}
    return Response("Not authentic.\n", 401, challenge, content_type="text/plain")


def _parse(
    state: State, esp: Esp, webhook: Webhook, hook_request: WebhookRequest, settings: Settings
) -> Sequence[Event]:
    """Parse, and fetch what is missing. Raises FetchError.

    Whatever else goes wrong in there, the data arrives as an unknown event.
    """
    try:
        events = _complete(state, esp, webhook.parse(hook_request, settings), settings)
    except FetchError:
        raise
    except Exception:
        logger.exception("A webhook of %s could not be read; it is an unknown event.", esp.name)
        digest = sha256(hook_request.body).hexdigest()
        return (TrackingEvent(EventType.UNKNOWN, hook_request.body, identity=(esp.name, digest)),)
    for event in events:
        if isinstance(event.esp_event, bytes):
            size = len(hook_request.body)
            logger.warning("A webhook of %s is not readable (%d bytes).", esp.name, size)
    return events


def _complete(
    state: State, esp: Esp, found: Sequence[Event | Fetch], settings: Settings
) -> Sequence[Event]:
    """Replace each fetch by the events it leads to; most webhooks bring all there is."""
    if not any(isinstance(item, Fetch) for item in found):
        return found  # type: ignore[return-value]
    errand = state.fetcher.begin(state.transport_of(esp), settings, datetime.now(timezone.utc))
    return errand.events(found)


def _emit(app: Flask, state: State, esp: Esp, events: Sequence[Event], kind: Kind) -> bool:
    """Call every receiver of every event; tell whether all of them were content.

    Receivers are called one by one, since one that fails must not keep the event from
    the others. Who they are is asked once, since hundreds of events may come in a post.
    """
    content = True
    receivers: dict[bool, list[Receiver]] = {}
    for event in events:
        is_inbound = isinstance(event, InboundEvent)
        if is_inbound is not (kind == "inbound") and event.event_type is not EventType.UNKNOWN:
            state.webhook_log.misplaced(esp.name, kind)
        if is_inbound not in receivers:
            receivers[is_inbound] = _receivers(app, state, is_inbound)
        for receiver in receivers[is_inbound]:
            try:
                receiver(app, event=event, esp_name=esp.name)
            except Exception:
                signal = _signal(is_inbound)
                logger.exception(
                    "A receiver of %s failed on %r.", signal.name, event.event_type.value
                )
                content = False
    return content


def _signal(is_inbound: bool) -> NamedSignal:
    return signals.inbound if is_inbound else signals.tracking


def _receivers(app: Flask, state: State, is_inbound: bool) -> list[Receiver]:
    """Return a signal's receivers, ready to be called."""
    signal = _signal(is_inbound)
    found = [_ready(app, receiver) for receiver in signal.receivers_for(app)]
    if not found:
        state.webhook_log.unheard(signal.name)
    return found


def _ready(app: Flask, receiver: Receiver) -> Receiver:
    """Make a coroutine function an ordinary one; what that takes is missed when it is called."""
    try:
        return app.ensure_sync(receiver)
    except Exception:
        return lambda *args, **named: app.ensure_sync(receiver)(*args, **named)


class WebhookLog:
    """Log lines about webhooks, few enough that no stranger can fill the log."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self._said: set[str] = set()

    def rejected(self, esp_name: str, reason: str) -> None:
        """Log a rejected webhook, at most once in ten seconds for each ESP."""
        self._seldom(esp_name, esp_name, "rejected", reason)

    def put_off(self, esp_name: str, reason: str) -> None:
        """Log a webhook that the ESP must post again, as seldom."""
        self._seldom(f"{esp_name} put off", esp_name, "put off", reason)

    def _seldom(self, key: str, esp_name: str, what: str, reason: str) -> None:
        now = time.monotonic()
        if now < self._next.get(key, 0.0):
            self._silent[key] += 1
            return
        self._next[key] = now + _LOG_EVERY
        silent = self._silent.pop(key, 0)
        more = f" ({silent} more since the last such line)" if silent else ""
        logger.warning("A webhook of %s was %s: %s%s", esp_name, what, reason, more)

    def misplaced(self, esp_name: str, kind: Kind) -> None:
        """Log, once for each, that a webhook came to the other kind's URL."""
        other = "inbound" if kind == "tracking" else "tracking"
        self._once(
            f"{esp_name} posts {other} webhooks to the {kind} URL. They are treated as what "
            "they are; correct the URL at the ESP."
        )

    def unheard(self, signal_name: str) -> None:
        """Log, once for each signal, that nobody receives it."""
        self._once(f"No receiver is connected to {signal_name}: such events are lost.")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning(text)


def _exempt(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Exempt the webhooks from CSRF protection, before any ``before_request`` runs.

    Flask calls this ahead of them, and at the first webhook every extension is there.
    """
    protection: Any = current_app.extensions.get("csrf")  # as Flask-WTF registers itself
    if hasattr(protection, "exempt"):
        for view in (tracking, inbound):
            protection.exempt(view)
    current_app.url_value_preprocessors["mailesp"] = [_keep_body]  # exempting once is enough
