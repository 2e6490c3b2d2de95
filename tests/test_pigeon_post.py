"""An ESP in a package of its own, made by what docs/adding-an-esp.md says."""

from __future__ import annotations

import hmac
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pytest
from flask import Flask
from scripted import Reply, Request, ScriptedServer, scripted

from flask_mailesp import Attachment, InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.esp import HttpRequest, HttpResponse, WebhookRequest
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    MailESPError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from flask_mailesp.forms import Form, read_form
from flask_mailesp.results import SendResult
from flask_mailesp.testing import EspContract

PLUGINS = str(Path(__file__).parent / "plugins")

sys.path.insert(0, PLUGINS)
try:
    import flask_mailesp_pigeon_post as plugin
finally:
    sys.path.remove(PLUGINS)

API_KEY = "canary-4711-api-key"
SEAL_KEY = "canary-4711-seal-key"
CONFIG = {
    "MAILESP_ESP": "pigeon_post",
    "MAILESP_PIGEON_POST_API_KEY": API_KEY,
    "MAILESP_PIGEON_POST_SEAL_KEY": SEAL_KEY,
}
MAIL = b"From: bea@example.com\r\nTo: shop@example.org\r\nSubject: Coo\r\n\r\nHello\r\n"

Event = TrackingEvent | InboundEvent


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    """Put the package, metadata and all, where pip would have put it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        yield


def seal(body: bytes, key: str = SEAL_KEY, *, age: int = 0) -> dict[str, str]:
    moment = str(int(time.time()) - age)
    mac = hmac.new(key.encode(), moment.encode() + b"." + body, "sha256")
    return {"Pigeon-Seal": f"t={moment},v1={mac.hexdigest()}"}


def dumped(raw: Any) -> bytes:
    return json.dumps(raw).encode()


@contextmanager
def mailing(*script: Any, **config: Any) -> Iterator[tuple[Flask, ScriptedServer]]:
    """An app whose Pigeon Post follows a script."""
    with scripted(*script) as server:
        app = Flask("shop")
        app.config.update(CONFIG, TESTING=True, MAILESP_PIGEON_POST_API_URL=server.url)
        app.config.update(config)
        MailESP(app)
        with app.app_context():
            yield app, server
        app.extensions["mailesp"].transport.close()


# --- sending: the request --------------------------------------------------------------


def plain(**fields: Any) -> Message:
    given = {"subject": "Hi", "body": "Coo", "sender": "Shop <shop@example.org>"}
    return Message(**{**given, "to": ["bea@example.com"], **fields})


def posted(message: Message) -> list[Request]:
    """What Pigeon Post is asked to take."""
    with mailing(Reply(202, b'{"letter": "p-1"}')) as (_, server):
        MailESP().send(message)
    return server.requests


def form_of(request: Request) -> Form:
    content_type = {"Content-Type": request.headers["content-type"]}
    return read_form(WebhookRequest(content_type, request.body))


def fields_of(request: Request) -> list[tuple[str, str]]:
    return sorted((name, value.decode()) for name, value in form_of(request).fields)


BASIC = [
    ("from", "Shop <shop@example.org>"),
    ("to", "bea@example.com"),
    ("subject", "Hi"),
    ("text", "Coo"),
]
FIELDS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, []),
    ({"to": ["bea@example.com", "bo@example.com"]}, [("to", "bo@example.com")]),
    (
        {"cc": ["c@example.com", "d@example.com"]},
        [("cc", "c@example.com"), ("cc", "d@example.com")],
    ),
    ({"bcc": ["b@example.com"]}, [("bcc", "b@example.com")]),
    ({"reply_to": ["r@example.com"]}, [("reply_to", "r@example.com")]),
    ({"html": "<p>Coo</p>"}, [("html", "<p>Coo</p>")]),
    ({"tags": ["loft", "grey"]}, [("tag", "loft"), ("tag", "grey")]),
    ({"metadata": {"order": 17, "paid": True}}, [("meta[order]", "17"), ("meta[paid]", "true")]),
    (
        {"esp_extra": {"wind": "east", "rings": [1, 2], "no": None}},
        [("wind", "east"), ("rings", "1"), ("rings", "2")],
    ),
]


@pytest.mark.parametrize(("given", "added"), FIELDS)
def test_each_field_has_its_form_field(given: dict[str, Any], added: list[tuple[str, str]]) -> None:
    (request,) = posted(plain(**given))
    assert fields_of(request) == sorted(BASIC + added)


def test_a_letter_is_posted_as_a_urlencoded_form() -> None:
    (request,) = posted(plain())
    assert (request.method, request.target) == ("POST", "/letters")
    assert request.headers["authorization"] == f"Pigeon {API_KEY}"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


def test_files_are_enclosures_of_a_multipart_form() -> None:
    (request,) = posted(
        plain(attachments=[Attachment("ring.txt", content_type="text/plain", data=b"\xff1")])
    )
    (file,) = form_of(request).files
    assert fields_of(request) == sorted(BASIC)
    assert (file.name, file.filename, bytes(file.data)) == ("enclosure", "ring.txt", b"\xff1")
    assert file.content_type == "text/plain"


def test_a_batch_is_a_letter_for_each_with_metadata_of_its_own() -> None:
    rows = {"bo@example.com": {"order": "18"}}
    to = ["bea@example.com", "bo@example.com"]
    requests = posted(plain(to=to, metadata={"order": "17"}, merge_metadata=rows))
    forms = [form_of(request) for request in requests]
    assert [(form.values("to"), form.values("meta[order]")) for form in forms] == [
        (["bea@example.com"], ["17"]),
        (["bo@example.com"], ["18"]),
    ]


# --- sending: the answer ---------------------------------------------------------------


def refusing(*refused: Any) -> Reply:
    return Reply(202, dumped({"letter": "p-123", "refused": list(refused)}))


def loftless(address: str) -> dict[str, str]:
    return {"to": address, "why": "no such loft"}


def failed(message: Message, reply: Reply) -> tuple[MailESPError, SendResult]:
    with mailing(reply), pytest.raises(MailESPError) as caught:
        MailESP().send(message)
    assert caught.value.result is not None
    return caught.value, caught.value.result


def test_a_partial_refusal_keeps_the_id_of_the_others() -> None:
    with mailing(refusing(loftless("BO@example.com"))):
        result = MailESP().send(plain(to=["bea@example.com"], cc=["bo@example.com"]))
    assert result.outcome == "partial"
    bea, bo = result.recipients["bea@example.com"], result.recipients["bo@example.com"]
    assert (bea.status, bea.message_id) == ("queued", "p-123")
    assert (bo.status, bo.message_id, bo.description) == ("rejected", None, "no such loft")


def test_a_refusal_of_everybody_is_an_error() -> None:
    error, result = failed(plain(), refusing(loftless("bea@example.com")))
    assert isinstance(error, RecipientsRefusedError)
    assert (result.outcome, result.status) == ("refused", {"rejected"})


@pytest.mark.parametrize("entry", [loftless("stranger@example.com"), {}, None, "bea@example.com"])
def test_a_refusal_of_nobody_knows_whom_leaves_everybody_uncertain(entry: Any) -> None:
    """But for those who were refused by name; the id is kept all the same."""
    to = ["bea@example.com", "bo@example.com"]
    error, result = failed(plain(to=to), refusing(loftless("bo@example.com"), entry))
    assert isinstance(error, SendUncertainError)
    bea, bo = result.recipients["bea@example.com"], result.recipients["bo@example.com"]
    assert (bea.status, bea.message_id) == ("unknown", "p-123")
    assert bo.status == "rejected"


ERRORS: list[tuple[int, type[APIError]]] = [
    (400, APIError),
    (401, AuthenticationError),
    (422, APIError),
    (429, RateLimitedError),
]


@pytest.mark.parametrize(("status", "kind"), ERRORS)
def test_a_complaint_is_a_refusal_with_its_number(status: int, kind: type[APIError]) -> None:
    body = b'{"complaint": "The loft is closed.", "number": 7}'
    error, result = failed(plain(), Reply(status, body, {"Retry-After": "30"}))
    assert isinstance(error, kind)
    assert (error.status, error.code, error.message) == (status, "7", "The loft is closed.")
    assert (result.outcome, result.status) == ("refused", {"failed"})
    assert getattr(error, "retry_after", 30) == 30


# --- webhooks --------------------------------------------------------------------------


def post(app: Flask, kind: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, list[Event]]:
    """Post a webhook to its route; return the answer's status and what the app was told."""
    told: list[Event] = []

    def receiver(app: Flask, event: Event, esp_name: str) -> None:
        assert esp_name == "Pigeon Post"
        told.append(event)

    with signals.tracking.connected_to(receiver, app), signals.inbound.connected_to(receiver, app):
        url = f"/mail-hooks/pigeon_post/{kind}/"
        answer = app.test_client().post(url, data=body, headers=dict(headers))
    return answer.status_code, told


LANDED = {
    "n": "ev-1",
    "what": "landed",
    "letter": "p-123",
    "to": "bea@example.com",
    "when": 1791536000,
    "meta": {"order": "17"},
}
EXPECTED = {
    "event_type": "delivered",
    "event_id": "ev-1",
    "message_id": "p-123",
    "recipient": "bea@example.com",
    "timestamp": datetime.fromtimestamp(1791536000, timezone.utc),
    "reject_reason": None,
    "metadata": {"order": "17"},
}
EVENTS: list[tuple[Any, dict[str, Any]]] = [
    (LANDED, EXPECTED),
    (LANDED | {"what": "lost"}, EXPECTED | {"event_type": "deferred"}),
    (
        LANDED | {"what": "shot"},
        EXPECTED | {"event_type": "bounced", "reject_reason": "bounced"},
    ),
    (LANDED | {"what": "read"}, EXPECTED | {"event_type": "opened"}),
    (LANDED | {"what": "moulted"}, EXPECTED | {"event_type": "unknown"}),
    (LANDED | {"when": "soon", "meta": 1}, EXPECTED | {"timestamp": None, "metadata": {}}),
    ("landed", dict.fromkeys(EXPECTED) | {"event_type": "unknown", "metadata": {}}),
]


@pytest.mark.parametrize(("raw", "expected"), EVENTS)
def test_each_thing_that_befalls_a_pigeon_is_an_event(raw: Any, expected: dict[str, Any]) -> None:
    with mailing(b"") as (app, _):
        body = dumped([raw])
        status, (event,) = post(app, "tracking", body, seal(body))
    assert status == 200
    assert {name: getattr(event, name) for name in expected} == expected
    assert event.esp_event == raw


def test_a_post_holds_several_events_each_with_its_key() -> None:
    body = dumped([LANDED, LANDED | {"n": "ev-2"}, LANDED])
    with mailing(b"") as (app, _):
        _, events = post(app, "tracking", body, seal(body))
    keys = [event.key for event in events]
    assert keys[0] == keys[2] != keys[1]


SEALS: list[tuple[str, int, int]] = [
    (SEAL_KEY, -200, 200),
    (SEAL_KEY, 200, 200),
    (SEAL_KEY, 400, 401),
    (SEAL_KEY, -400, 401),
    ("the next seal key", 0, 200),
    ("another seal key", 0, 401),
]


@pytest.mark.parametrize(("key", "age", "status"), SEALS)
def test_a_seal_holds_for_five_minutes_with_any_of_the_keys(
    key: str, age: int, status: int
) -> None:
    config = {"MAILESP_PIGEON_POST_SEAL_KEY": [SEAL_KEY, "the next seal key"]}
    with mailing(b"", **config) as (app, _):
        headers = seal(b"[]", key, age=age)
        assert post(app, "tracking", b"[]", headers) == (status, [])


@pytest.mark.parametrize("value", [[], [""], 5, ["key", 5], {"key": 1}])
def test_a_seal_key_is_text_or_a_list_of_texts(value: Any) -> None:
    config = {"MAILESP_PIGEON_POST_SEAL_KEY": value}
    with (
        pytest.raises(ConfigurationError, match="MAILESP_PIGEON_POST_SEAL_KEY must be a key"),
        mailing(b"", **config),
    ):
        pass


# --- inbound mail ----------------------------------------------------------------------

ARRIVED = b'{"inbound": "m-77"}'


def test_a_mail_is_fetched_with_the_api_key_once_it_is_there() -> None:
    with mailing(Reply(404), Reply(200, MAIL)) as (app, server):
        assert post(app, "inbound", ARRIVED, seal(ARRIVED)) == (503, [])
        status, (event,) = post(app, "inbound", ARRIVED, seal(ARRIVED))

    assert status == 200
    assert isinstance(event, InboundEvent)
    assert (event.message.subject, event.message.raw) == ("Coo", MAIL)
    assert (event.event_id, event.esp_event) == ("m-77", {"inbound": "m-77"})
    asked = [(item.method, item.target, item.headers["authorization"]) for item in server.requests]
    assert asked == [("GET", "/mails/m-77", f"Pigeon {API_KEY}")] * 2


@pytest.mark.parametrize("mail_id", ["../letters", "..", "m 77", "m-77?x", "", None, ["m-77"]])
def test_what_cannot_be_a_mails_id_is_not_asked_for(mail_id: Any) -> None:
    body = dumped({"inbound": mail_id})
    with mailing(Reply(200, MAIL)) as (app, server):
        status, events = post(app, "inbound", body, seal(body))
    assert (status, server.requests) == (200, [])
    assert [event.event_type for event in events] == ["unknown"]


def test_mail_needs_the_api_key_and_tracking_does_not() -> None:
    config = {"MAILESP_ESP": "postmark", "MAILESP_POSTMARK_SERVER_TOKEN": "token"}
    with mailing(b"", **config, MAILESP_PIGEON_POST_API_KEY=None) as (app, server):
        assert post(app, "tracking", b"[]", seal(b"[]")) == (200, [])
        assert post(app, "inbound", ARRIVED, seal(ARRIVED)) == (401, [])
    assert server.requests == []


# --- the contract ----------------------------------------------------------------------


class TestPigeonPost(EspContract):
    """Forms; sealed webhooks; mail that is fetched."""

    esp = plugin.esp
    config = CONFIG
    tracking = tuple(
        dumped([LANDED | {"n": f"ev-{what}", "what": what}]) for what in plugin.EVENT_TYPES
    )
    inbound = (ARRIVED,)
    ids = itertools.count(1)

    def accept(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(202, {}, dumped({"letter": f"p-{next(self.ids)}", "refused": []}))

    def sign(self, body: bytes, kind: Literal["tracking", "inbound"]) -> Mapping[str, str]:
        return seal(body)

    def fetched(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {}, MAIL)
