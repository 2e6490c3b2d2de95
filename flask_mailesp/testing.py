"""For tests: the contract that every ESP's room keeps, and a server to watch requests with.

`EspContract` is a base class for pytest. A subclass gives data about one ESP and inherits
the tests::

    class TestAcme(EspContract):
        esp = acme.esp
        config = {"MAILESP_ESP": "acme", "MAILESP_ACME_API_KEY": "canary-4711", ...}
        tracking = (b'{"event": "delivered", ...}',)

        def accept(self, request):
            return HttpResponse(200, {}, b'{"id": "1"}')

        def sign(self, body, kind):
            return {"Acme-Signature": hmac_of(body)}

Two of them generate data with Hypothesis, which must be installed. Call
``pytest.register_assert_rewrite("flask_mailesp.testing")`` in a ``conftest.py`` to have
failures explained in detail.
"""
# ruff: noqa: S101, PT018

from __future__ import annotations

import base64
import binascii
import contextlib
import email
import email.policy
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

import pytest
from flask import Flask

from . import signals
from .esp import Esp, Feature, Fetch, HttpRequest, HttpResponse, Settings, Webhook, WebhookRequest
from .events import EventType, InboundEvent, TrackingEvent
from .exceptions import (
    APIError,
    AuthenticationError,
    FetchError,
    MailESPError,
    RateLimitedError,
    SendUncertainError,
    UnsupportedFeatureError,
)
from .extension import MailESP, State
from .features import can_be_without, lacking, requested
from .inbound import InboundMessage
from .message import Attachment, Message, PreparedMessage
from .prepare import PrepareOptions, prepare
from .results import ACCEPTED, SendResult

Kind = Literal["tracking", "inbound"]
Answer = Callable[[HttpRequest], HttpResponse]

__all__ = ["EspContract", "EspServer", "body_of", "decoded"]


# --- a server to watch -----------------------------------------------------------------


class EspServer:
    """A server on the loopback interface that answers every request with ``answer(request)``.

    Use it in a ``with`` statement. ``requests`` holds what came, its header names in lower
    case; ``connections`` counts connections, those without a request included.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []
        self.connections = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The base URL, without a last slash."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> EspServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them


def _handler(server: EspServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # seconds, should a test hang

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            request = HttpRequest(self.command, server.url + self.path, headers, body)
            server.requests.append(request)
            self.reply(server.answer(request))

        do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

        def reply(self, response: HttpResponse) -> None:
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


# --- what a request says ---------------------------------------------------------------


def body_of(request: HttpRequest) -> bytes:
    """Return a request's body in one piece."""
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)


def decoded(request: HttpRequest) -> str:
    """Return everything a request says as text: JSON, forms, base64 and MIME undone.

    Good for looking whether something reached the wire: ``"Hello" in decoded(request)``.
    """
    body = body_of(request)
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/"):
        texts = _mime(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    elif content_type.startswith("application/x-www-form-urlencoded"):
        texts = [text for pair in parse_qsl(body.decode()) for text in pair]
    else:
        texts = _json_texts(body)
    return "\n".join([request.url, *_undone(texts)])


def _json_texts(body: bytes) -> list[str]:
    try:
        return list(_leaves(json.loads(body)))
    except ValueError:
        return [body.decode("utf-8", "replace")]


def _leaves(value: Any) -> Iterator[str]:
    """Yield every key and value of a JSON document as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def _undone(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts, and what is encoded in them."""
    for text in texts:
        yield text
        data = _from_base64(text)
        if data is not None:
            yield data.decode("utf-8", "replace")
            yield from _undone(_mime(data))


def _from_base64(text: str) -> bytes | None:
    if len(text) < 8:
        return None
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(text, validate=True)
    return None


def _mime(source: bytes) -> list[str]:
    """Return the headers and decoded parts of MIME source; nothing if it is none."""
    message = email.message_from_bytes(source, policy=email.policy.default)
    texts: list[str] = []
    for part in message.walk() if message.keys() else ():
        texts += [f"{name}: {value}" for name, value in part.items()]
        if not part.is_multipart():
            data = part.get_payload(decode=True)
            texts.append(data.decode("utf-8", "replace") if isinstance(data, bytes) else "")
    return texts


# --- messages that ask for one feature each --------------------------------------------

_TEMPLATE = "canary-template"
_WHEN = datetime(2038, 11, 22, 13, 14, 15, tzinfo=timezone.utc)
_BASIC: dict[str, Any] = {
    "subject": "Subjéct canary",
    "to": ["Zoë To <to-canary@example.com>"],
    "body": "Text canary ✓",
    "html": "<p>Html canary ✓</p>",
    "sender": "Señder <sender-canary@example.org>",
}
_TWO = ["to-canary@example.com", "second-canary@example.com"]
_ROWS = {_TWO[0]: {"name": "canary-row-1"}, _TWO[1]: {"name": "canary-row-2"}}
_BOTH_ROWS = ("canary-row-1", "canary-row-2")
_INVITATION = "BEGIN:VCALENDAR\r\nX-NOTE:canary-invitation\r\nEND:VCALENDAR\r\n"

# What a message asks for, and what must then be found on the wire (of several: each).
_EXAMPLES: dict[Feature, tuple[dict[str, Any], tuple[str, ...]]] = {
    Feature.ATTACHMENTS: (
        {
            "attachments": [
                Attachment("canary.bin", "application/x-canary", b"canary-file \xc3\xa9")
            ]
        },
        ("canary.bin", "application/x-canary", "canary-file é"),
    ),
    Feature.INLINE_IMAGES: (
        {
            "attachments": [
                Attachment("i.png", "image/png", b"canary-pixels", content_id="canary-id")
            ]
        },
        ("canary-pixels", "canary-id"),
    ),
    Feature.AMP: (
        {"alternatives": [("<html amp4email>canary-amp</html>", "text/x-amp-html")]},
        ("canary-amp",),
    ),
    Feature.ALTERNATIVES: (
        {"alternatives": [(_INVITATION, "text/calendar")]},
        ("canary-invitation", "text/calendar"),
    ),
    Feature.HEADERS: ({"headers": {"X-Canary": "canary-header"}}, ("X-Canary", "canary-header")),
    Feature.MANY_REPLY_TO: (
        {"reply_to": ["reply-canary-1@example.net", "reply-canary-2@example.net"]},
        ("reply-canary-1@example.net", "reply-canary-2@example.net"),
    ),
    Feature.NO_TO: ({"to": [], "bcc": ["bcc-canary@example.com"]}, ("bcc-canary@example.com",)),
    Feature.NON_ASCII_MAILBOX: ({"to": ["jörg-canary@example.com"]}, ("jörg-canary@example.com",)),
    Feature.ENVELOPE_SENDER: (
        {"envelope_sender": "bounces-canary@example.org"},
        ("bounces-canary@example.org",),
    ),
    Feature.METADATA: (
        {"metadata": {"canary-key": "canary-value", "canary-number": 4711}},
        ("canary-key", "canary-value", "4711"),
    ),
    Feature.TAGS: ({"tags": ["canary-tag"]}, ("canary-tag",)),
    Feature.MANY_TAGS: (
        {"tags": ["canary-tag-1", "canary-tag-2"]},
        ("canary-tag-1", "canary-tag-2"),
    ),
    Feature.TRACK_CLICKS: ({"track_clicks": False}, ()),
    Feature.TRACK_OPENS: ({"track_opens": False}, ()),
    Feature.SEND_AT: ({"send_at": _WHEN}, ()),
    Feature.TEMPLATES: ({"template_id": _TEMPLATE}, (_TEMPLATE,)),
    Feature.TEMPLATE_SUBJECT: (
        {"template_id": _TEMPLATE, "subject": "Own canary"},
        (_TEMPLATE, "Own canary"),
    ),
    Feature.TEMPLATE_BODY: (
        {"template_id": _TEMPLATE, "body": "Own canary"},
        (_TEMPLATE, "Own canary"),
    ),
    Feature.MERGE_DATA: ({"to": _TWO, "merge_data": _ROWS}, _BOTH_ROWS),
    Feature.MERGE_GLOBAL_DATA: ({"merge_global_data": {"shop": "canary-shop"}}, ("canary-shop",)),
    Feature.MERGE_INTO_BODY: ({"merge_global_data": {"shop": "canary-shop"}}, ("canary-shop",)),
    Feature.MERGE_METADATA: ({"to": _TWO, "merge_metadata": _ROWS}, _BOTH_ROWS),
    Feature.MERGE_HEADERS: (
        {"to": _TWO, "merge_headers": {key: {"X-Row": row["name"]} for key, row in _ROWS.items()}},
        _BOTH_ROWS,
    ),
    Feature.IDEMPOTENCY_KEY: ({"idempotency_key": "canary-key-17"}, ("canary-key-17",)),
}
# For these no text can be looked for; what is sent must differ from what is sent without.
_SWITCHES = (Feature.TRACK_CLICKS, Feature.TRACK_OPENS, Feature.SEND_AT)
_NEEDS_TEMPLATE = (Feature.MERGE_DATA, Feature.MERGE_GLOBAL_DATA)
_IN_TEMPLATE = (Feature.TEMPLATES, Feature.TEMPLATE_SUBJECT, Feature.TEMPLATE_BODY)


def example(feature: Feature, supports: frozenset[Feature]) -> Message:
    """Return a message that asks for a feature, and otherwise for as little as possible."""
    fields, _ = _EXAMPLES[feature]
    templated = feature in _IN_TEMPLATE
    if feature in _NEEDS_TEMPLATE and Feature.TEMPLATES in supports:
        fields, templated = {"template_id": _TEMPLATE, **fields}, True
    own_words = ("subject", "body", "html") if templated else ()
    basic = {name: value for name, value in _BASIC.items() if name not in own_words}
    return Message(**(basic | fields))


# --- damaged payloads ------------------------------------------------------------------

_DEEP: list[Any] = []
for _ in range(200):
    _DEEP = [_DEEP]
_JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "junk",
    "\ud800",
    "\x00\r\n",
    "9" * 5000,
    [],
    [None, 1, "a", {}],
    {},
    {"Name": None, "a": [{"b": {}}]},
    _DEEP,
)


def damaged(payload: bytes) -> Iterator[bytes]:
    """Yield a webhook's body with all kinds of damage: cut, and each key lost or replaced."""
    for end in {*range(0, len(payload), 7), *range(max(0, len(payload) - 40), len(payload))}:
        yield payload[:end]
    try:
        document = json.loads(payload)
    except ValueError:
        return
    for place in _places(document):
        yield _dumped(_changed(document, place, None, lost=True))
        for junk in _JUNK:
            yield _dumped(_changed(document, place, junk))


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key and list item of a JSON document."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _changed(document: Any, path: tuple[str | int, ...], new: Any, lost: bool = False) -> Any:
    """Return a document with the value at one place replaced, or lost."""
    key, rest = path[0], path[1:]
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[key] = _changed(document[key], rest, new, lost)
    elif lost:
        del copy[key]
    else:
        copy[key] = new
    return copy


def read_all(message: InboundMessage) -> None:
    """Ask an inbound message for everything it has. Nothing of it may raise."""
    for name in dir(InboundMessage):
        if not name.startswith(("_", "from_raw", "from_fields")):
            getattr(message, name)
    for file in [*message.attachments, *message.inlines]:
        _ = file.filename, file.data, file.text, file.content_type, file.defects


# --- the contract ----------------------------------------------------------------------


class EspContract:
    """What every ESP's room promises, as tests. Subclass it; see the module's documentation.

    ``config`` is ``app.config`` for one working app. Its credentials are canaries: make
    them long and unique, since the tests look for them where they must not be.
    """

    esp: ClassVar[Esp]
    config: ClassVar[Mapping[str, Any]]
    tracking: ClassVar[Sequence[bytes]] = ()
    inbound: ClassVar[Sequence[bytes]] = ()

    def accept(self, request: HttpRequest) -> HttpResponse:
        """Return what the ESP answers when it takes this request for every recipient."""
        raise NotImplementedError

    def sign(self, body: bytes, kind: Kind) -> Mapping[str, str]:
        """Return the headers that make a webhook authentic, and no others.

        A ``Content-Type`` may be among them; it is JSON otherwise.
        """
        raise NotImplementedError

    def wire(self, request: HttpRequest) -> str:
        """Return what a request says, readable; see `decoded`."""
        return decoded(request)

    def configured(self, api_url: str) -> dict[str, Any]:
        """Return ``config`` with the ESP's API at another URL."""
        return {**self.config, f"MAILESP_{self.esp.key.upper()}_API_URL": api_url}

    # Helpers

    @contextlib.contextmanager
    def running(self, answer: Answer | None = None, **config: Any) -> Iterator[_Running]:
        """Run the ESP's server and an app that sends to it."""
        with EspServer(answer or self.accept) as server:
            app = Flask("contract")
            app.testing = True
            app.config.update(self.configured(server.url), **config)
            running = _Running(app, MailESP(app), server)
            try:
                yield running
            finally:
                close: Any = getattr(running.state.transport, "close", None)
                close()

    def app(self, **config: Any) -> Flask:
        """Return an app that sends nothing."""
        app = Flask("contract")
        app.testing = True
        app.config.update(self.config, **config)
        MailESP(app)
        return app

    def settings(self) -> Settings:
        """Return the resolved settings."""
        state: State = self.app().extensions["mailesp"]
        hook = state.hook(self.esp.key)
        assert hook is not None
        return hook[1]

    def canaries(self) -> list[str]:
        """Return every credential, as text."""
        settings = self.settings()
        pairs = [pair.decode() for pair in settings.get("WEBHOOK_SECRET") or ()]
        return [*settings.secrets(), *(pair.partition(":")[2] for pair in pairs)]

    def assert_no_canary(self, *texts: str | bytes) -> None:
        """Fail if a credential is in one of the texts."""
        for text in texts:
            data = text.encode() if isinstance(text, str) else text
            for canary in self.canaries():
                assert canary.encode() not in data, "a credential is shown"

    def prepared(self, message: Message) -> PreparedMessage:
        return prepare(message, {}, PrepareOptions(), self.esp.key)

    def is_declared(self, message: Message) -> bool:
        return self.esp.supports.issuperset(requested(self.prepared(message)))

    def payloads(self) -> Iterator[tuple[Kind, Webhook, bytes]]:
        """Yield the given payloads with the webhook that they are for."""
        kinds: tuple[tuple[Kind, Sequence[bytes]], ...] = (
            ("tracking", self.tracking),
            ("inbound", self.inbound),
        )
        for kind, bodies in kinds:
            webhook = self.esp.webhook(kind)
            for body in bodies:
                assert webhook is not None, f"{self.esp.name} has no {kind} webhook"
                yield kind, webhook, body

    def headers(self, body: bytes, kind: Kind) -> dict[str, str]:
        return {"Content-Type": "application/json", **self.sign(body, kind)}

    def post(self, app: Flask, kind: Kind, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a webhook and return the status of the answer."""
        url = f"{app.extensions['mailesp'].general.url_prefix}/{self.esp.key}/{kind}/"
        with app.test_client() as client:
            return client.post(url, data=body, headers=dict(headers)).status_code

    # Sending

    def test_basic_fields_reach_the_wire(self) -> None:
        """Whatever the ESP: addresses with names, subject and both bodies, unharmed."""
        with self.running() as running:
            running.send(
                **_BASIC,
                cc=["Carl Cc <cc-canary@example.com>"],
                bcc=["bcc-canary@example.com"],
                reply_to=["Reply <reply-canary@example.net>"],
            )
        wire = self.wire(*running.server.requests)
        for word in ("sender", "to", "cc", "bcc"):
            assert f"{word}-canary@example." in wire
        assert "reply-canary@example.net" in wire
        for text in ("Subjéct canary", "Text canary ✓", "<p>Html canary ✓</p>", "Zoë To"):
            assert text in wire
        assert "Señder" in wire and "Carl Cc" in wire

    @pytest.mark.parametrize("feature", Feature, ids=lambda feature: feature.name)
    def test_a_feature_reaches_the_wire_exactly_when_declared(self, feature: Feature) -> None:
        """What ``supports`` names arrives; the rest is refused by name, before any request."""
        message = example(feature, self.esp.supports)
        with self.running() as running:
            if self.is_declared(message):
                self.assert_reaches_the_wire(feature, message, running)
                return
            assert feature not in self.esp.supports
            with pytest.raises(UnsupportedFeatureError, match=self.esp.name) as caught:
                running.mail_send(message)
            assert feature.value in str(caught.value)
            assert running.server.connections == 0

    @pytest.mark.parametrize("feature", Feature, ids=lambda feature: feature.name)
    def test_an_undeclared_feature_can_be_left_out(
        self, feature: Feature, caplog: pytest.LogCaptureFixture
    ) -> None:
        """IGNORE_UNSUPPORTED_FEATURES drops it with a warning, where that makes sense."""
        message = example(feature, self.esp.supports)
        with self.running(MAILESP_IGNORE_UNSUPPORTED_FEATURES=True) as running:
            if self.is_declared(message):
                self.assert_reaches_the_wire(feature, message, running)
            elif not self.makes_sense_without_what_is_lacking(message):
                with pytest.raises(UnsupportedFeatureError):
                    running.mail_send(message)
            else:
                result = running.mail_send(message)
                assert result.status <= ACCEPTED
                left_out = lacking(self.prepared(message), self.esp.supports)
                assert any(item.value in caplog.text for item in left_out)
                self.assert_left_out(feature, message, running)

    def makes_sense_without_what_is_lacking(self, message: Message) -> bool:
        """Tell whether something is left of a message that can be sent."""
        prepared = self.prepared(message)
        return can_be_without(prepared, lacking(prepared, self.esp.supports))

    def assert_reaches_the_wire(
        self, feature: Feature, message: Message, running: _Running
    ) -> None:
        """Send a message and look for what its feature must leave on the wire."""
        running.mail_send(message)
        wire = "\n".join(map(self.wire, running.server.requests))
        for marker in _EXAMPLES[feature][1]:
            assert marker in wire
        if feature in _SWITCHES:
            running.mail_send(Message(**_BASIC))
            assert self.wire(running.server.requests[-1]) != wire

    def assert_left_out(self, feature: Feature, message: Message, running: _Running) -> None:
        """Check that nothing of an undeclared feature went out, if it was alone in the message."""
        wire = "\n".join(map(self.wire, running.server.requests))
        if len(requested(self.prepared(message))) == 1 and feature not in _KEPT_IN_PART:
            for marker in _EXAMPLES[feature][1]:
                assert marker not in wire

    def test_every_recipient_gets_exactly_one_status(self) -> None:
        """To, cc and bcc, each once, however often and however spelled it was given."""
        with self.running() as running:
            result = running.send(
                "Hello",
                ["a@example.com", "Ann <b@example.com>", "A@EXAMPLE.com"],
                "Hi",
                sender="me@example.org",
                cc=["c@example.com", "a@example.com"],
                bcc=["d@example.com"],
            )
        assert sorted(result.recipients) == [f"{name}@example.com" for name in "abcd"]
        assert all(entry.status in ACCEPTED for entry in result.recipients.values())
        assert all(entry.message_id for entry in result.recipients.values())
        assert result.esp_name == self.esp.name

    def test_a_batch_gives_every_recipient_its_own_id(self) -> None:
        """One copy for each ``to``; nobody sees the others."""
        with self.running() as running:
            result = running.send(**{**_BASIC, "to": _TWO}, merge_metadata={})
        ids = {entry.message_id for entry in result.recipients.values()}
        assert len(ids) == len(_TWO) and None not in ids
        assert result.message_id == ids

    # Answers

    def failed(self, answer: Answer, **config: Any) -> MailESPError:
        """Send to a server that answers so, check what holds for every failure, and return it."""
        with self.running(answer, **config) as running:
            with pytest.raises(MailESPError) as caught:
                running.send(**_BASIC)
            assert len(running.server.requests) == 1, "it was sent again"
        error = caught.value
        assert error.esp_name == self.esp.name
        assert error.result is not None and error.result.error is error
        assert len(error.result.recipients) == 1
        assert "to-canary" not in str(error) + repr(error) + repr(error.result)
        return error

    @pytest.mark.parametrize(
        "body", [b"", b"<html>Welcome</html>", b"null", b"{}", b"[]", b"[[]]", b'"OK"', b"7", b"{"]
    )
    def test_a_success_that_says_nothing_is_uncertain(self, body: bytes) -> None:
        """Neither success nor failure may be reported."""
        error = self.failed(lambda request: HttpResponse(200, {}, body))
        assert type(error) is SendUncertainError
        assert error.result is not None and error.result.status == {"unknown"}

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_bare_server_error_is_uncertain(self, status: int) -> None:
        """The message may have been taken before the server failed."""
        error = self.failed(lambda request: HttpResponse(status, {}, b"<h1>Sorry</h1>"))
        assert type(error) is SendUncertainError
        assert error.result is not None and error.result.outcome == "uncertain"

    def test_status_401_is_an_authentication_error(self) -> None:
        """Nothing was sent; another credential may be tried."""
        error = self.failed(lambda request: HttpResponse(401, {}, b"{}"))
        assert type(error) is AuthenticationError
        assert error.result is not None and error.result.status == {"failed"}

    def test_status_429_is_rate_limited(self) -> None:
        """Nothing was sent; the ESP's own waiting time is handed on."""
        error = self.failed(lambda request: HttpResponse(429, {"Retry-After": "7"}, b"{}"))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after == 7

    @pytest.mark.parametrize("status", [400, 404, 413, 422])
    def test_a_client_error_is_refused(self, status: int) -> None:
        """The ESP said no: nothing was sent."""
        error = self.failed(lambda request: HttpResponse(status, {}, b""))
        assert isinstance(error, APIError)
        assert error.status == status
        assert error.result is not None and error.result.outcome == "refused"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_refused_and_never_followed(self, status: int) -> None:
        """The other host would get the credential, and its answer would be taken for success."""
        with EspServer(self.accept) as other:
            location = {"Location": other.url + "/elsewhere"}
            error = self.failed(lambda request: HttpResponse(status, location))
            assert other.connections == 0
        assert isinstance(error, APIError)
        assert error.result is not None and error.result.outcome == "refused"

    # Secrets

    def test_credentials_are_shown_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """Not by an ESP that echoes them, nor in repr, str, tracebacks, pickles or the log."""

        def echo(request: HttpRequest) -> HttpResponse:
            said = f"{dict(request.headers)} {request.body!r}"
            body = json.dumps({"Message": said, "message": said, "ErrorCode": 1}).encode()
            return HttpResponse(422, {"X-Echo": str(dict(request.headers))}, body)

        with caplog.at_level(logging.DEBUG):
            error = self.failed(echo, MAILESP_DEBUG_API_REQUESTS=True)
        result = error.result
        assert result is not None and result.response is not None
        shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.assert_no_canary(str(error), repr(error), str(vars(error)), shown, caplog.text)
        self.assert_no_canary(repr(result), pickle.dumps(error), result.response.body)
        self.assert_no_canary(str(result.response.headers))

    def test_the_log_of_exchanges_holds_no_addresses_or_content(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """DEBUG_API_REQUESTS is safe to leave on."""
        with caplog.at_level(logging.DEBUG), self.running(MAILESP_DEBUG_API_REQUESTS=True) as up:
            up.send(**_BASIC)
        assert self.esp.name in caplog.text
        assert "canary" not in caplog.text

    def test_configuration_is_shown_without_credentials(self) -> None:
        """A debugger that prints the app's state shows none."""
        state = self.app().extensions["mailesp"]
        self.assert_no_canary(repr(state), str(state), repr(self.settings()), repr(state.hooks))
        self.assert_no_canary(*(repr(mailer) for mailer in state.mailers.values()))
        self.assert_no_canary(repr(dict(self.settings())))

    # Webhooks

    def test_authentic_webhooks_become_events(self) -> None:
        """Each given payload is answered 200 and emits an event of its kind."""
        with self.running(self.fetched) as running:  # what a webhook only names is asked for
            self.assert_webhooks_become_events(running.app)

    def assert_webhooks_become_events(self, app: Flask) -> None:
        seen: list[TrackingEvent | InboundEvent] = []

        def receive(app: Flask, event: Any, esp_name: str) -> None:
            assert esp_name == self.esp.name
            seen.append(event)

        for kind, _, body in self.payloads():
            seen.clear()
            with getattr(signals, kind).connected_to(receive, app):
                assert self.post(app, kind, body, self.headers(body, kind)) == 200
            assert seen and all(event.event_type != EventType.UNKNOWN for event in seen)
            assert all(isinstance(e, InboundEvent) == (kind == "inbound") for e in seen)

    def test_webhooks_without_credentials_are_rejected(self) -> None:
        """Nothing at all, and each of the credentials missing, empty or malformed: 401."""
        app = self.app()
        for kind, _, body in self.payloads():
            good = self.headers(body, kind)
            assert self.post(app, kind, body, {"Content-Type": good["Content-Type"]}) == 401
            for name, value in self.sign(body, kind).items():
                if name.lower() == "content-type":
                    continue
                without = {key: item for key, item in good.items() if key != name}
                assert self.post(app, kind, body, without) == 401
                for bad in _forgeries(value):
                    assert self.post(app, kind, body, {**good, name: bad}) == 401, bad

    def test_a_changed_body_is_rejected_where_the_body_is_signed(self) -> None:
        """One flipped bit anywhere makes a webhook a forgery."""
        app = self.app()
        for kind, _, body in self.payloads():
            good = self.headers(body, kind)
            if good == self.headers(body + b" ", kind):
                continue  # the credential does not depend on the body
            for place in range(0, len(body), max(1, len(body) // 50)):
                flipped = bytearray(body)
                flipped[place] ^= 1
                assert self.post(app, kind, bytes(flipped), good) == 401
            assert self.post(app, kind, body + b"\n", good) == 401

    def parsed(self, webhook: Webhook, body: bytes, kind: Kind) -> Sequence[Any]:
        """Parse a body, check what holds for every body, and return the events."""
        settings = self.settings_once
        request = WebhookRequest(_Headers(self.content_type(kind)), body)
        events = self.followed(webhook.parse(request, settings))
        again = self.followed(webhook.parse(request, settings))
        for event in events:
            assert isinstance(event, (TrackingEvent, InboundEvent))
            assert isinstance(event.key, str) and event.key
            assert event.timestamp is None or event.timestamp.tzinfo is not None
            if isinstance(event, InboundEvent):
                read_all(event.message)
            else:
                assert isinstance(event.tags, list) and None not in event.tags
                assert isinstance(event.metadata, dict)
        assert [event.key for event in events] == [event.key for event in again]
        return events

    def fetched(self, request: HttpRequest) -> HttpResponse:
        """Answer what a webhook's reader asks the ESP for; override it to give what is there."""
        return HttpResponse(404)

    def followed(self, found: Sequence[Any] | Fetch | None) -> Sequence[Any]:
        """Replace fetches by the events they lead to; none where the ESP must try again."""
        if found is None:
            return []
        events: list[Any] = []
        for item in [found] if isinstance(found, Fetch) else found:
            if not isinstance(item, Fetch):
                events.append(item)
                continue
            with contextlib.suppress(FetchError):
                events += self.followed(item.resume(self.fetched(item.request)))
        return events

    @cached_property
    def settings_once(self) -> Settings:
        return self.settings()

    def content_type(self, kind: Kind) -> str:
        return self.headers(b"{}", kind)["Content-Type"]

    def test_every_damaged_event_still_parses(self) -> None:
        """Cut anywhere, any key lost or of another type: events or ``unknown``, no exception."""
        for kind, webhook, payload in self.payloads():
            for body in damaged(payload):
                self.parsed(webhook, body, kind)

    def test_what_is_not_json_is_an_unknown_event_with_its_raw_data(self) -> None:
        """Nothing that arrived is lost."""
        for kind, webhook, payload in self.payloads():
            if "json" in self.content_type(kind):
                for body in (b"", b"junk", b"\xff\xfe", payload[:-1], b"[" * 100_000):
                    (event,) = self.parsed(webhook, body, kind)
                    assert event.event_type == EventType.UNKNOWN
                    assert event.esp_event == body

    def test_different_events_have_different_keys(self) -> None:
        """A key tells repetitions from events of their own."""
        keys: list[str] = []
        for kind, webhook, payload in self.payloads():
            keys += [event.key for event in self.parsed(webhook, payload, kind)]
        assert len(set(keys)) == len(keys)

    def test_any_json_parses(self) -> None:
        """Hypothesis: whatever JSON, most of it with the ESP's own keys in odd places."""
        for kind, webhook, payload in _one_of_each(self.payloads()):
            _for_all(_documents(payload).map(_dumped), partial(self.parsed, webhook, kind=kind))

    def test_any_bytes_parse(self) -> None:
        """Hypothesis: whatever bytes, alone and in place of some of a payload."""
        for kind, webhook, payload in _one_of_each(self.payloads()):
            _for_all(_bytes(payload), partial(self.parsed, webhook, kind=kind))


# Leaving these out keeps the first of several.
_KEPT_IN_PART = (Feature.MANY_REPLY_TO, Feature.MANY_TAGS)


class _Running:
    """An app, its extension and the ESP's server."""

    def __init__(self, app: Flask, mail: MailESP, server: EspServer) -> None:
        self.app = app
        self.mail = mail
        self.server = server

    @property
    def state(self) -> State:
        state: State = self.app.extensions["mailesp"]
        return state

    def mail_send(self, message: Message) -> SendResult:
        with self.app.app_context():
            return self.mail.send(message)

    def send(self, *args: Any, **fields: Any) -> SendResult:
        """Send ``Message(*args, **fields)``."""
        return self.mail_send(Message(*args, **fields))


class _Headers:
    """The headers of a webhook that brings nothing but its type."""

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type

    def get(self, name: str, /) -> str | None:
        return self._content_type if name.lower() == "content-type" else None


def _forgeries(value: str) -> Iterator[str]:
    """Yield damaged forms of a credential or signature."""
    scheme, space, rest = value.rpartition(" ")
    yield from ("", "junk", "\xfc\xdf", "=" * 9, value[:-6], f"Bearer {rest}", "Basic", "Basic =")
    yield from (scheme + space + word for word in ("", "\xe9", "!", rest[::-1], "eA==", "eDp5"))
    for place in range(0, len(rest) - 4, max(1, len(rest) // 12)):
        other = "A" if rest[place] != "A" else "B"
        yield f"{scheme}{space}{rest[:place]}{other}{rest[place + 1 :]}"


def _one_of_each(payloads: Iterator[tuple[Kind, Webhook, bytes]]) -> list[tuple[Any, ...]]:
    return list({kind: (kind, webhook, body) for kind, webhook, body in payloads}.values())


def _for_all(strategy: Any, check: Callable[[Any], object]) -> None:
    """Have Hypothesis look for a value that fails the check."""
    from hypothesis import given, settings

    # Made anew here, since Hypothesis takes an inherited test for one test of many classes.
    @settings(max_examples=100, deadline=None, database=None)
    @given(strategy)
    def holds(value: Any) -> None:
        check(value)

    holds()


def _documents(payload: bytes) -> Any:
    """Any JSON documents, many of them with the keys of the payload."""
    from hypothesis import strategies as st

    keys = st.sampled_from(sorted(_keys(payload)) or [""]) | st.text(max_size=5)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    flat = st.dictionaries(keys, leaves, max_size=4) | st.lists(leaves, max_size=4)
    values = leaves | flat | st.lists(flat, max_size=3)
    return st.dictionaries(keys, values, max_size=8) | values


def _bytes(payload: bytes) -> Any:
    """Any bytes, alone or written over a part of the payload."""
    from hypothesis import strategies as st

    data = st.binary(max_size=200)
    places = st.integers(0, len(payload))
    return data | st.builds(lambda d, at: payload[:at] + d + payload[at + len(d) :], data, places)


def _keys(payload: bytes) -> set[str]:
    """Return every key in a JSON document."""
    try:
        document = json.loads(payload)
    except ValueError:
        return set()
    return {key for path in _places(document) for key in path if isinstance(key, str)}
