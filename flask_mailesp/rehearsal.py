"""Webhooks for an app to try itself on, from the command line.

The simulator writes the ESP's own request, with the ESP's own way of authentication, and
posts it over HTTP to the app, which is served on this machine for that moment. The
receivers that run are the app's own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import getaddresses
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask

from . import signals
from .console import Kind
from .delivery import Mailer, deliver
from .doctor import host_url
from .esp import Esp, SecretBytes, Settings
from .events import InboundEvent, TrackingEvent
from .extension import State
from .message import Message
from .pointing import pointed
from .registry import BUILT_IN
from .transport import Transport
from .views import WebhookLog
from .webhooks_admin import hook_path, secret_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SENDER = "app@example.com"
BODY = "A message that was never sent. https://example.com/\n"


class Unusable(ValueError):
    """What was asked for does not make sense; the text says why, and what would."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the app made of one webhook: its answer, and the events its receivers got.

    ``reason`` is why the route refused it, if it did.
    """

    path: str
    status: int | None
    events: tuple[TrackingEvent | InboundEvent, ...] = field(default=(), repr=False)
    receivers: int = 0
    reason: str = ""


def simulate(
    app: Flask,
    state: State,
    esp_key: str,
    event: str,
    *,
    recipient: str,
    message_id: str | None = None,
) -> Rehearsal:
    """Post one tracking event. ``event`` is a normalised name or the ESP's own.

    Raises Unusable for an ESP or event that there is not, and for a ``message_id`` that
    cannot be one of the ESP's.
    """
    esp, settings = _hook(state, esp_key)
    with _simulator(esp) as sim:
        number = _checked_id(esp, sim.side(esp.key), message_id)
        with _stage(app, state, esp, settings, sim, "tracking") as stage:
            sent = _send(sim, esp, pointed(esp, settings, stage.settings), recipient)
            if number is not None:
                sent = sim.side(esp.key).renamed(sent, number)
            try:
                delivery = sim.emit(sent, event)
            except ValueError as error:
                raise Unusable(_unreported(esp, sim, event)) from error
        return stage.outcome(delivery.status)


def deliver_mail(
    app: Flask, state: State, esp_key: str, source: bytes, *, to: str | None = None
) -> Rehearsal:
    """Post a mail as if it had come in at the ESP. ``to`` is the envelope recipient.

    Raises Unusable if the source is not a mail, or does not say who it is for.
    """
    esp, settings = _hook(state, esp_key)
    mail = parsed(source)
    recipient = to or recipient_of(mail)
    with (
        _simulator(esp) as sim,
        _stage(app, state, esp, settings, sim, "inbound") as stage,
    ):
        delivery = sim.receive(esp.key, source, recipient)
    return stage.outcome(delivery.status)


def parsed(source: bytes) -> EmailMessage:
    """Read a mail's headers. Raises Unusable unless there is a From (RFC 5322 section 3.6)."""
    mail = BytesParser(policy=policy.default).parsebytes(source[: 256 * 1024], headersonly=True)
    assert isinstance(mail, EmailMessage)  # noqa: S101 - policy.default makes these
    if "From" not in mail.keys():  # noqa: SIM118 - "in mail" would look at the same, untyped
        raise Unusable("it is not an email: it has no From header.")
    return mail


def recipient_of(mail: EmailMessage) -> str:
    """Return the address a mail was for, as its headers tell. Raises Unusable."""
    for name in ("Delivered-To", "X-Original-To", "To"):
        values = [str(value) for key, value in mail.raw_items() if key.lower() == name.lower()]
        for _, address in getaddresses(values):
            if "@" in address:
                return address
    raise Unusable("it does not tell who it is for: add --to with the app's address.")


# --- the simulator ---------------------------------------------------------------------


def _hook(state: State, esp_key: str) -> tuple[Esp, Settings]:
    """Return an ESP by name. Raises Unusable, naming those there are."""
    hook = state.hook(esp_key)
    if hook is None:
        raise Unusable(f"There is no ESP named {esp_key!r}. Known: {', '.join(BUILT_IN)}.")
    return hook


@contextmanager
def _simulator(esp: Esp) -> Iterator[Any]:
    """Yield a simulator that does nothing by itself. It is imported here and only here."""
    sim = import_module("flask_mailesp.simulator").Simulator(auto=())
    if esp.key not in sim.esps:
        raise Unusable(f"{esp.name} is not simulated. There is: {', '.join(sim.esps)}.")
    try:
        yield sim
    finally:
        sim.stop()


def _unreported(esp: Esp, sim: Any, event: str) -> str:
    return f"{esp.name} cannot report {event!r}. It reports: {', '.join(sim.events(esp.key))}."


def _send(sim: Any, esp: Esp, settings: Settings, recipient: str) -> Any:
    """Have the simulator take a message, so that it can report on it."""
    transport = Transport(trust_env=False)
    try:
        mailer = Mailer("rehearsal", esp, settings, transport)
        message = Message("Rehearsal", to=[recipient], body=BODY, sender=SENDER)
        deliver(mailer, message).raise_for_error()
    finally:
        transport.close()
    return sim.messages[-1]


def _checked_id(esp: Esp, side: Any, message_id: str | None) -> str | None:
    if message_id is not None and not side.is_id(message_id):
        raise Unusable(f"{message_id!r} cannot be an id of {esp.name}: {side.ids}.")
    return message_id


# --- the app ---------------------------------------------------------------------------


class Front:
    """The app as its ESP meets it: under its own host name, with the credentials it asked for.

    Adding the credentials here, where they are known, spares them a detour through a URL.
    """

    def __init__(self, app: Flask, secret: SecretBytes | None) -> None:
        self.app = app
        parts = urlsplit(host_url(app, None))
        self.environ = {"HTTP_HOST": parts.netloc, "wsgi.url_scheme": parts.scheme}
        if secret is not None:
            token = base64.b64encode(secret).decode("ascii")
            self.environ["HTTP_AUTHORIZATION"] = f"Basic {token}"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self.app(environ | self.environ, start_response)


class Stage:
    """The app, served for a moment, with an ear on what its receivers are told.

    ``settings`` are those that would point the app at the simulator.
    """

    def __init__(self, app: Flask, kind: Kind, path: str, settings: dict[str, Any]) -> None:
        signal = signals.tracking if kind == "tracking" else signals.inbound
        self.path, self.settings = path, settings
        self.receivers = len(list(signal.receivers_for(app)))
        self.events: list[TrackingEvent | InboundEvent] = []
        self.reason = ""

    def hear(self, app: Flask, event: TrackingEvent | InboundEvent, **_: Any) -> None:
        """Take note of an event."""
        self.events.append(event)

    def outcome(self, status: int | None) -> Rehearsal:
        """Return what came of the webhook."""
        return Rehearsal(self.path, status, tuple(self.events), self.receivers, self.reason)


@contextmanager
def _stage(
    app: Flask, state: State, esp: Esp, settings: Settings, sim: Any, kind: Kind
) -> Iterator[Stage]:
    """Serve the app and the simulator, and tell each about the other."""
    server = import_module("flask_mailesp.simulator").LocalServer
    path = hook_path(state, esp, kind)
    sim.start()
    stage = Stage(app, kind, path, sim.settings(esp.key))
    site = server(Front(app, secret_of(settings)))
    hooks: dict[str, Any] = {kind: site.url + path}
    sim.hook(esp.key, **hooks)
    try:
        with _heard(app, state, stage), _trusted(state, esp, settings, stage):
            yield stage
    finally:
        site.stop()


class ReasonLog(WebhookLog):
    """Tells a stage why a webhook was rejected, instead of the log."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def rejected(self, esp_name: str, reason: str) -> None:
        """Take note of the reason."""
        self.stage.reason = reason


@contextmanager
def _heard(app: Flask, state: State, stage: Stage) -> Iterator[None]:
    """Listen to what the app's receivers are told, and to what its route rejects."""
    log, state.webhook_log = state.webhook_log, ReasonLog(stage)
    for signal in (signals.tracking, signals.inbound):
        signal.connect(stage.hear, app)
    try:
        yield
    finally:
        state.webhook_log = log
        for signal in (signals.tracking, signals.inbound):
            signal.disconnect(stage.hear, app)


@contextmanager
def _trusted(state: State, esp: Esp, settings: Settings, stage: Stage) -> Iterator[None]:
    """Have the simulator asked for what its webhooks do not bring, and believed where it signs.

    That only where there are keys already: an app that cannot tell who posts must not be able
    to for this moment.
    """
    state.hooks[esp.key] = esp, pointed(esp, settings, stage.settings, only_where_set=True)
    try:
        yield
    finally:
        state.hooks[esp.key] = esp, settings
