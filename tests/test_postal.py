"""Postal: what goes over the wire, what its answers mean, what its webhooks tell."""

from __future__ import annotations

import base64
import binascii
import copy
import email.message
import email.policy
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.parser import BytesParser
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flask import Flask
from scripted import Reply, Request, ScriptedServer, scripted
from webhook_kit import (
    KEY,
    OTHER_KEY,
    POSTAL_BOUNCED,
    POSTAL_CLICKED,
    POSTAL_RAW_MAIL,
    POSTAL_SENT,
    SECRET,
    Hooks,
    bare_app,
    basic,
    encoded,
    hooked_app,
    jwk,
    p_value,
    pem,
    postal_event,
    postal_hash,
    postal_message,
    postal_raw,
    postal_status,
    sha1_only,
    sha256_only,
)

from flask_mailesp import (
    EventType,
    InboundEvent,
    MailESP,
    Message,
    RejectReason,
    SendResult,
    Status,
    TrackingEvent,
)
from flask_mailesp.delivery import Mailer, prepared_for
from flask_mailesp.esp import Call, WebhookRequest
from flask_mailesp.esps import postal
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    MailESPError,
    SendUncertainError,
    UnsupportedFeatureError,
    WebhookRejected,
)

API_KEY = "x9Lw2QmZ7bTr5VyK1sNc8DgH"
SENDER = "Shop <post@shop.example.org>"


# --- sending: the wire ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailer() -> Mailer:
    return mailer_of(bare_app())


def mailer_of(app: Flask) -> Mailer:
    mailer: Mailer = app.extensions["mailesp"].mailer(None)
    return mailer


def calls(mailer: Mailer, message: Message) -> list[Call]:
    return list(mailer.esp.build(prepared_for(mailer, message), mailer.settings))


def wire(mailer: Mailer, message: Message) -> tuple[str, dict[str, Any]]:
    """The endpoint's last word and the payload of a message's only call."""
    (call,) = calls(mailer, message)
    return call.request.url.rpartition("/")[2], payload_of(call)


def body_of(call: Call) -> bytes:
    body = call.request.body
    return body if isinstance(body, bytes) else b"".join(body)


def payload_of(call: Call) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(body_of(call))
    return payload


def source_of(payload: dict[str, Any]) -> email.message.EmailMessage:
    source = base64.b64decode(payload["data"], validate=True)
    parsed = BytesParser(policy=email.policy.default).parsebytes(source)
    assert isinstance(parsed, email.message.EmailMessage)
    return parsed


def plain(**fields: Any) -> Message:
    return Message(
        **{"subject": "Hello", "to": ["bo@example.com"], "body": "Hi", "sender": SENDER, **fields}
    )


def test_every_parameter_of_send_message_is_written(mailer: Mailer) -> None:
    """Section 2 of the API's description: these names, these types, nothing else."""
    message = plain(
        to=["Bo <bo@example.com>", ("Lind, Åsa", "asa@example.com")],
        cc="cc@example.com",
        bcc=["bcc@example.com"],
        subject="Köp ✓",
        html="<p>Hi</p>",
        reply_to="Desk <desk@shop.example.org>",
        headers={"X-Order": "1042", "Sender": "robot@shop.example.org"},
        tags="receipt",
        attachments=[("a.txt", "text/plain", b"\x00\xff!")],
    )

    assert wire(mailer, message) == (
        "message",
        {
            "from": "Shop <post@shop.example.org>",
            "to": ["Bo <bo@example.com>", '"Lind, Åsa" <asa@example.com>'],
            "cc": ["cc@example.com"],
            "bcc": ["bcc@example.com"],
            "sender": "robot@shop.example.org",
            "reply_to": "Desk <desk@shop.example.org>",
            "subject": "Köp ✓",
            "plain_body": "Hi",
            "html_body": "<p>Hi</p>",
            "tag": "receipt",
            "headers": {"X-Order": "1042"},
            "attachments": [{"name": "a.txt", "content_type": "text/plain", "data": "AP8h"}],
        },
    )


def test_what_a_message_lacks_is_not_on_the_wire(mailer: Mailer) -> None:
    """No nulls and no empty lists."""
    message = plain(body=None, html="<p>Hi</p>", headers={"Sender": "robot@shop.example.org"})

    assert wire(mailer, message)[1] == {
        "from": "Shop <post@shop.example.org>",
        "to": ["bo@example.com"],
        "sender": "robot@shop.example.org",
        "subject": "Hello",
        "html_body": "<p>Hi</p>",
    }


@pytest.mark.parametrize(
    "url",
    [
        "https://postal.example.org",
        "https://postal.example.org/",
        "https://postal.example.org/api/v1",
        "https://postal.example.org/api/v1/",
    ],
)
def test_the_url_may_be_given_with_or_without_the_path(url: str) -> None:
    """People copy either from Postal's documentation."""
    mailer = mailer_of(bare_app(POSTAL_API_URL=url, POSTAL_API_KEY=API_KEY))
    (call,) = calls(mailer, plain())

    assert call.request.url == "https://postal.example.org/api/v1/send/message"
    assert call.request.method == "POST"
    assert dict(call.request.headers) == {
        "X-Server-API-Key": API_KEY,
        "Accept": "application/json",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize("missing", ["POSTAL_API_URL", "POSTAL_API_KEY"])
def test_a_missing_setting_is_named(missing: str) -> None:
    """Postal is self-hosted: there is no URL to fall back to."""
    with pytest.raises(ConfigurationError, match=f"MAILESP_{missing} is not set.*find the value"):
        bare_app(**{missing: None})


def people(count: int, name: str = "p") -> list[str]:
    return [f"{name}{number}@example.com" for number in range(count)]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"attachments": [("a.txt", "text/plain", b"a")]}, id="attachment"),
        pytest.param({"reply_to": ["a@example.com"]}, id="one reply-to"),
        pytest.param({"headers": {"Reply-To": "a@example.com"}}, id="reply-to header"),
        pytest.param({"headers": [("X-A", "1"), ("X-B", "2")]}, id="headers"),
        pytest.param({"to": people(50), "cc": people(50, "c")}, id="50 each"),
        pytest.param({"body": ""}, id="empty body"),
    ],
)
def test_what_send_message_can_express_goes_there(mailer: Mailer, fields: dict[str, Any]) -> None:
    """Postal writes the MIME source where it can."""
    assert wire(mailer, plain(**fields))[0] == "message"


def with_image() -> Message:
    message = plain(html='<img src="cid:logo">')
    message.embed("logo.png", "image/png", b"\x89PNG", content_id="logo")
    return message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(with_image(), id="inline image"),
        pytest.param(plain(reply_to=["a@example.com", "b@example.com"]), id="two reply-to"),
        pytest.param(plain(alternatives=[("BEGIN:VCALENDAR", "text/calendar")]), id="calendar"),
        pytest.param(plain(headers={"Message-Id": "<me@shop.example.org>"}), id="message-id"),
        pytest.param(plain(headers=[("X-A", "1"), ("x-a", "2")]), id="repeated header"),
        pytest.param(plain(to=people(51)), id="51 to"),
        pytest.param(plain(cc=people(51)), id="51 cc"),
        pytest.param(plain(bcc=people(51)), id="51 bcc"),
        pytest.param(
            plain(body=None, attachments=[("a.pdf", "application/pdf", b"%")]), id="no text"
        ),
    ],
)
def test_what_send_message_cannot_express_goes_as_source(mailer: Mailer, message: Message) -> None:
    """The package chooses send/raw by itself."""
    endpoint, payload = wire(mailer, message)

    assert endpoint == "raw"
    assert set(payload) == {"mail_from", "rcpt_to", "data"}
    assert source_of(payload)["Subject"] == "Hello"


def test_the_source_holds_everything_but_the_blind_copies(mailer: Mailer) -> None:
    """A Bcc header would show the blind copies to everyone."""
    message = with_image()
    message.to = ["Bo <bo@example.com>"]
    message.cc = ["Åsa <asa@example.com>"]
    message.bcc = ["hidden@example.com"]
    message.reply_to = ["a@example.com", "b@example.com"]
    message.tags = ["receipt"]
    message.headers = {"Sender": "robot@shop.example.org", "X-Order": "1042"}
    _, payload = wire(mailer, message)
    source = source_of(payload)

    assert payload["mail_from"] == "post@shop.example.org"
    assert payload["rcpt_to"] == ["bo@example.com", "asa@example.com", "hidden@example.com"]
    assert b"hidden" not in base64.b64decode(payload["data"])
    assert (source["From"], source["To"]) == (SENDER, "Bo <bo@example.com>")
    assert (source["Cc"], source["Bcc"]) == ("Åsa <asa@example.com>", None)
    assert source["Reply-To"] == "a@example.com, b@example.com"
    assert (source["Sender"], source["X-Order"]) == ("robot@shop.example.org", "1042")
    assert source["X-Postal-Tag"] == "receipt"
    assert source["Date"] is not None
    images = [part for part in source.walk() if part["Content-ID"] == "<logo>"]
    assert [part.get_content() for part in images] == [b"\x89PNG"]


def test_the_source_keeps_the_message_s_own_id(mailer: Mailer) -> None:
    """Postal answers with no id for a source without a Message-ID, so there always is one."""
    _, own = wire(mailer, plain(headers={"Message-ID": "<me@shop.example.org>"}))
    _, made = wire(mailer, with_image())

    assert source_of(own).get_all("Message-ID") == ["<me@shop.example.org>"]
    assert source_of(made)["Message-ID"].endswith("@shop.example.org>")


def test_esp_extra_is_merged_into_the_payload(mailer: Mailer) -> None:
    """Both endpoints take ``bounce``."""
    assert wire(mailer, plain(esp_extra={"bounce": True}))[1]["bounce"] is True
    raw = plain(esp_extra={"bounce": True}, reply_to=["a@example.com", "b@example.com"])
    assert wire(mailer, raw)[1]["bounce"] is True


def test_a_repeated_mailbox_is_sent_to_once(mailer: Mailer) -> None:
    """Postal would deliver two copies and hide one id."""
    message = plain(
        to=["Bo@example.com", "ann@bücher.example"],
        cc=["bo@EXAMPLE.com", "new@example.com"],
        bcc=["ann@xn--bcher-kva.example", "NEW@example.com", "last@example.com"],
    )
    (call,) = calls(mailer, message)
    payload = payload_of(call)

    assert payload["to"] == ["Bo@example.com", "ann@xn--bcher-kva.example"]
    assert payload["cc"] == ["new@example.com"]
    assert payload["bcc"] == ["last@example.com"]
    assert len(call.parts[0].recipients) == 4


def test_a_batch_is_one_call_for_each_to(mailer: Mailer) -> None:
    """Nobody sees the others."""
    message = plain(to=["a@example.com", "b@example.com"], cc=["cc@example.com"], merge_data={})
    built = calls(mailer, message)

    assert [payload_of(call)["to"] for call in built] == [["a@example.com"], ["b@example.com"]]
    assert [payload_of(call)["cc"] for call in built] == [["cc@example.com"]] * 2


UNSUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("metadata", {"metadata": {"order": "1"}}),
    ("scheduling", {"send_at": datetime(2030, 1, 1, tzinfo=timezone.utc)}),
    ("click tracking", {"track_clicks": True}),
    ("open tracking", {"track_opens": False}),
    ("template", {"template_id": 7, "subject": ""}),
    ("merge data", {"merge_data": {"bo@example.com": {"name": "Bo"}}}),
    ("global merge data", {"merge_global_data": {"name": "Bo"}}),
    ("merge metadata", {"merge_metadata": {"bo@example.com": {"a": "1"}}}),
    ("merge headers", {"merge_headers": {"bo@example.com": {"X-A": "1"}}}),
    ("two tags", {"tags": ["one", "two"]}),
    ("envelope sender", {"envelope_sender": "bounces@shop.example.org"}),
]


@pytest.mark.parametrize(
    "fields", [row[1] for row in UNSUPPORTED], ids=[row[0] for row in UNSUPPORTED]
)
def test_what_postal_lacks_is_refused(mailer: Mailer, fields: dict[str, Any]) -> None:
    """Before any request, and naming it."""
    with pytest.raises(UnsupportedFeatureError, match="Postal cannot express"):
        calls(mailer, plain(**fields))


@pytest.mark.parametrize(
    "fields", [row[1] for row in UNSUPPORTED], ids=[row[0] for row in UNSUPPORTED]
)
def test_what_postal_lacks_can_be_left_out(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Under IGNORE_UNSUPPORTED_FEATURES, with a warning; the rest goes out unchanged."""
    mailer = mailer_of(bare_app(IGNORE_UNSUPPORTED_FEATURES=True))
    _, payload = wire(mailer, plain(**fields))

    assert "left out" in caplog.text
    expected = {"from", "to", "subject", "plain_body"} - (
        {"plain_body"} if "body" in fields else set()
    )
    assert set(payload) == expected | ({"tag"} if "tags" in fields else set())


@pytest.mark.parametrize("field", ["merge_data", "merge_metadata", "merge_headers"])
def test_without_its_merge_data_a_batch_still_hides_recipients_from_each_other(field: str) -> None:
    """What is left out is the data, not the privacy."""
    mailer = mailer_of(bare_app(IGNORE_UNSUPPORTED_FEATURES=True))
    message = plain(to=people(3), **{field: {"p0@example.com": {"X-A": "1"}}})
    built = calls(mailer, message)

    assert [payload_of(call)["to"] for call in built] == [[one] for one in people(3)]
    assert b"p1@" not in body_of(built[0])


# --- sending: the answers ------------------------------------------------------------------


def accept(request: Request, **changes: Any) -> Reply:
    """Answer as Postal does when it takes a message."""
    payload = json.loads(request.body)
    given = payload.get("rcpt_to") or [
        entry for field in ("to", "cc", "bcc") for entry in payload.get(field, [])
    ]
    bare = [entry.rpartition("<")[2].rstrip(">") for entry in given]
    start = 500 + 100 * request.connection
    messages = {
        address: {"id": start + number, "token": "q7RbXk2LdV0sTfYh"}
        for number, address in enumerate(bare)
    }
    return answer("success", {"message_id": "u@rp.example.org", "messages": messages | changes})


def answer(status: str, data: Any) -> Reply:
    body = {"status": status, "time": 0.01, "flags": {}, "data": data}
    return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def error(code: str, message: str | None = None, **more: Any) -> Reply:
    data = {"code": code, "message": message, **more}
    return answer("error", {key: value for key, value in data.items() if value is not None})


@contextmanager
def answering(*script: Any, **settings: Any) -> Iterator[tuple[MailESP, ScriptedServer]]:
    """An app whose Postal follows a script."""
    with scripted(*script) as server:
        app = bare_app(POSTAL_API_URL=server.url, POSTAL_API_KEY=API_KEY, **settings)
        mail = MailESP()
        with app.app_context():
            yield mail, server
        app.extensions["mailesp"].transport.close()


def sent(message: Message, *script: Any, **settings: Any) -> SendResult:
    with answering(*script, **settings) as (mail, _):
        return mail.send(message)


def failed(message: Message, *script: Any) -> tuple[MailESPError, SendResult]:
    with answering(*script) as (mail, _), pytest.raises(MailESPError) as caught:
        mail.send(message)
    assert caught.value.result is not None
    assert caught.value.esp_name == "Postal"
    return caught.value, caught.value.result


def test_every_recipient_has_an_id_of_its_own() -> None:
    """They are numbers on the wire and text here."""
    result = sent(plain(to=["Bo@example.com"], cc=["c@example.com"], bcc=["b@example.com"]), accept)

    assert result.outcome == "accepted"
    assert result.status == {"queued"}
    assert {who: entry.message_id for who, entry in result.recipients.items()} == {
        "Bo@example.com": "600",
        "c@example.com": "601",
        "b@example.com": "602",
    }
    assert result.message_id == {"600", "601", "602"}


def test_one_recipient_has_one_id() -> None:
    """The numeric id is what tracking events bring back."""
    assert sent(plain(), accept).message_id == "600"


def test_a_source_s_recipients_have_ids_too() -> None:
    """send/raw answers like send/message."""
    result = sent(plain(to=people(60), bcc=["Hidden@example.com"]), accept)

    assert result.recipients["hidden@example.com"].message_id == "660"


def test_each_spelling_of_a_duplicate_finds_the_one_result() -> None:
    """One entry per recipient, however often it was named."""
    result = sent(plain(to=["Bo@example.com"], cc=["bo@EXAMPLE.com"]), accept)

    assert len(result.recipients) == 1
    assert result.recipients["BO@example.com"].message_id == "600"


def test_a_non_ascii_mailbox_finds_its_id() -> None:
    """Only ASCII letters are folded when addresses are compared."""
    result = sent(plain(to=["Žofie@example.com", "ŽOFIE@example.com", "žofie@example.com"]), accept)

    assert [entry.message_id for entry in result.recipients.values()] == ["600", "601"]


def test_a_copy_for_several_recipients_keeps_every_id() -> None:
    """The cc of a batch gets each copy."""
    answers = [
        answer(
            "success",
            {"messages": {f"p{n}@example.com": {"id": n}, "c@example.com": {"id": 7 + n}}},
        )
        for n in range(2)
    ]
    result = sent(plain(to=people(2), cc=["c@example.com"], merge_data={}), *answers)

    assert result.recipients["p1@example.com"].message_id == "1"
    assert result.recipients["c@example.com"].message_id == frozenset({"7", "8"})


def test_a_batch_keeps_the_ids_it_had_when_a_later_call_fails() -> None:
    """What was accepted stays accepted; what was not tried is said to be."""
    error, result = failed(plain(to=people(3), merge_data={}), accept, Reply(500, b"<html>"))

    assert isinstance(error, SendUncertainError)
    statuses = [entry.status for entry in result.recipients.values()]
    assert statuses == [Status.QUEUED, Status.UNKNOWN, Status.FAILED]
    assert result.recipients["p0@example.com"].message_id == "600"
    assert len(result.attempts) == 2


REFUSALS: list[tuple[str, Reply, type[MailESPError], str]] = [
    ("NoContent", error("NoContent", "There is no content"), APIError, "NoContent"),
    ("no text", error("ServerSuspended"), APIError, "The mail server is suspended"),
    ("domain", error("UnauthenticatedFromAddress"), APIError, "Verify the sender's domain"),
    ("parameter", answer("parameter-error", {"message": "`x` is required"}), APIError, "parameter"),
    ("no key", error("AccessDenied", "Must be"), AuthenticationError, "MAILESP_POSTAL_API_KEY"),
    ("no data", answer("error", None), APIError, "code error"),
    ("odd data", answer("error", {"code": ["x"], "message": 1}), APIError, "code error"),
    ("host", Reply(403, b""), APIError, "MAILESP_POSTAL_API_URL"),
    ("bad JSON", Reply(400, b""), APIError, "HTTP 400"),
    ("path", Reply(404, b"<html>"), APIError, "HTTP 404"),
    ("proxy", Reply(401, b"<html>"), AuthenticationError, "HTTP 401"),
]


@pytest.mark.parametrize(
    ("reply", "kind", "text"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_refusal_is_an_error_whatever_the_http_status(
    reply: Reply, kind: type[MailESPError], text: str
) -> None:
    """Postal says 200 to nearly everything; the ``status`` in the JSON is what counts."""
    error, result = failed(plain(cc=["c@example.com"]), reply)

    assert type(error) is kind
    assert text in str(error)
    assert result.outcome == "refused"
    assert [entry.status for entry in result.recipients.values()] == [Status.FAILED] * 2
    assert result.message_id is None


def test_the_key_that_postal_echoes_is_shown_nowhere() -> None:
    """InvalidServerAPIKey repeats the key in its data."""
    reply = error("InvalidServerAPIKey", f"The token {API_KEY} was not valid.", token=API_KEY)
    caught, result = failed(plain(), reply)

    assert isinstance(caught, AuthenticationError)
    assert caught.code == "InvalidServerAPIKey"
    assert "Credentials" in str(caught)
    assert result.response is not None
    shown = [repr(caught), str(caught), caught.message, repr(result), result.response.text]
    assert API_KEY not in "".join(shown)
    assert '"token": "***"' in result.response.text


UNCERTAIN: list[tuple[str, Reply]] = [
    ("500", Reply(500, b"<html>")),
    ("502", Reply(502, b"")),
    ("503", Reply(503, b"")),
    ("garbage", Reply(200, b"{")),
    ("HTML", Reply(200, b"<html>Welcome</html>")),
    ("a list", Reply(200, b"[]")),
    ("null", Reply(200, b"null")),
    ("another status", answer("fine", {"messages": {"bo@example.com": {"id": 1}}})),
    ("numeric status", answer(1, {"messages": {}})),  # type: ignore[arg-type]
    ("no data", answer("success", None)),
    ("no messages", answer("success", {"message_id": None, "messages": {}})),
    ("messages a list", answer("success", {"messages": [1]})),
    ("no id", answer("success", {"messages": {"bo@example.com": {"token": "x"}}})),
    ("null id", answer("success", {"messages": {"bo@example.com": {"id": None}}})),
    ("id a list", answer("success", {"messages": {"bo@example.com": {"id": [1]}}})),
    ("entry a number", answer("success", {"messages": {"bo@example.com": 5}})),
    ("somebody else", answer("success", {"messages": {"eve@example.com": {"id": 1}}})),
]


@pytest.mark.parametrize("reply", [row[1] for row in UNCERTAIN], ids=[row[0] for row in UNCERTAIN])
def test_an_answer_that_says_nothing_leaves_it_uncertain(reply: Reply) -> None:
    """Postal stores recipients one by one: a 500 may have queued some of them."""
    error, result = failed(plain(), reply)

    assert type(error) is SendUncertainError
    assert result.outcome == "uncertain"
    assert result.recipients["bo@example.com"].status == "unknown"


def test_the_one_recipient_without_an_id_is_unknown() -> None:
    """The others keep theirs."""
    reply = answer(
        "success", {"messages": {"p0@example.com": {"id": 1}, "p2@example.com": {"id": 3}}}
    )
    error, result = failed(plain(to=people(3)), reply)

    assert isinstance(error, SendUncertainError)
    assert [entry.status for entry in result.recipients.values()] == ["queued", "unknown", "queued"]
    assert result.message_id == {"1", "3"}


def test_extra_recipients_in_the_answer_do_no_harm() -> None:
    """What nobody asked for is not reported."""

    def generous(request: Request) -> Reply:
        return accept(request, **{"eve@example.com": {"id": 99}, "": None})

    result = sent(plain(), generous)

    assert (result.message_id, len(result.recipients)) == ("600", 1)


# --- the webhook key -----------------------------------------------------------------------

SPKI = p_value()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEY_FORMS: list[tuple[str, Any]] = [
    ("bytes", pem().encode()),
    ("PEM from an environment file", pem().replace("\n", "\\n")),
    ("PEM", pem()),
    ("PEM, indented", "\n  " + pem()),
    ("PEM on one line", f"-----BEGIN PUBLIC KEY-----\n{SPKI}\n-----END PUBLIC KEY-----"),
    ("p value", SPKI),
    ("p value, wrapped", f"{SPKI[:64]}\n  {SPKI[64:]}\n"),
    ("DKIM record", f"v=DKIM1; t=s; h=sha256; p={SPKI};"),
    ("DKIM record without the last semicolon", f"v=DKIM1; p={SPKI}"),
    ("DKIM record in quotes", f'"v=DKIM1; t=s; h=sha256; p={SPKI[:99]}" "{SPKI[99:]};"'),
    ("DKIM record cut before p", f'"v=DKIM1; t=s; h=sha256; " "p={SPKI};"'),
    (
        "zone file",
        f'k._domainkey IN TXT ( "v=DKIM1\\; h=sha256\\; "\n\t"p={SPKI[:99]}"\n\t"{SPKI[99:]}" )',
    ),
    ("JWK", jwk()),
    ("JWKS", {"keys": [jwk()]}),
    ("JWKS as text", json.dumps({"keys": [jwk()]})),
    ("JWK as text", json.dumps(jwk(), indent=2)),
    ("list", [pem()]),
    ("rotation", [pem(OTHER_KEY), {"keys": [jwk()]}]),
    ("rotation as text", json.dumps([p_value(OTHER_KEY), SPKI])),
    ("JWKS of two", {"keys": [jwk(OTHER_KEY), jwk()]}),
]


@pytest.mark.parametrize("key", [row[1] for row in KEY_FORMS], ids=[row[0] for row in KEY_FORMS])
def test_the_key_is_taken_as_people_find_it(key: Any) -> None:
    """On the server, in the DNS, at the JWKS URL; several of them while keys rotate."""
    hooks = hooked_app(POSTAL_WEBHOOK_KEY=key)

    assert hooks.post("postal", encoded(POSTAL_SENT)).status_code == 200
    assert len(hooks.tracking) == 1
    assert hooks.post("postal", BODY, sha256_only(BODY, STRANGER)).status_code == 401


def public_pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return text.decode()


EC_KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
).decode()

NOT_KEYS: list[tuple[str, Any]] = [
    ("EC", public_pem(EC_KEY)),
    ("EC, bare", "".join(public_pem(EC_KEY).splitlines()[1:-1])),
    ("Ed25519", public_pem(ed25519.Ed25519PrivateKey.generate())),
    ("EC JWK", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
    ("private key", PRIVATE_PEM),
    ("nonsense", "certainly not a key"),
    ("base64 of nothing", "AAAA"),
    ("truncated", pem()[:200]),
    ("half a PEM", "-----BEGIN PUBLIC KEY-----"),
    ("number", 7),
    ("empty list", []),
    ("empty dict", {}),
    ("empty JWKS", {"keys": []}),
    ("JWKS of null", {"keys": None}),
    ("JWKS of numbers", {"keys": [1]}),
    ("broken JSON", '{"keys": ['),
    ("JWK without n", {"kty": "RSA", "e": "AQAB"}),
    ("JWK of numbers", {"kty": "RSA", "e": 3, "n": 15}),
    ("JWK, not base64", {"kty": "RSA", "e": "AQAB", "n": "!!"}),
    ("JWK, even exponent", {"kty": "RSA", "e": "Ag", "n": jwk()["n"]}),
    ("one bad of two", [pem(), "oops"]),
    ("empty record", "v=DKIM1; p=;"),
    ("non-ASCII", "klíč"),
]


@pytest.mark.parametrize("key", [row[1] for row in NOT_KEYS], ids=[row[0] for row in NOT_KEYS])
def test_what_is_no_rsa_key_is_refused_at_the_start(key: Any) -> None:
    """The text names the setting and says where the key is found, and shows nothing of it."""
    with pytest.raises(ConfigurationError, match=r"POSTAL_WEBHOOK_KEY.*jwks\.json") as caught:
        bare_app(POSTAL_WEBHOOK_KEY=key)

    assert "BEGIN" not in str(caught.value)


def test_keys_are_parsed_once() -> None:
    """Not once per request, which would cost more than the check itself."""
    hooks = hooked_app()
    settings = hooks.app.extensions["mailesp"].hook("postal")[1]

    keys = settings["WEBHOOK_KEY"]
    hooks.post("postal", encoded(POSTAL_SENT))
    assert settings["WEBHOOK_KEY"] is keys


# --- signatures ----------------------------------------------------------------------------

BODY = encoded(POSTAL_SENT)
SIGNATURE = sha256_only(BODY)["X-Postal-Signature-256"]
SHA1 = sha1_only(BODY)["X-Postal-Signature"]
S256, S1 = "X-Postal-Signature-256", "X-Postal-Signature"


@pytest.fixture(scope="module")
def hooks() -> Hooks:
    return hooked_app()


@pytest.fixture(scope="module")
def old_hooks() -> Hooks:
    return hooked_app(POSTAL_WEBHOOK_ALLOW_SHA1=True)


@pytest.mark.parametrize(
    ("headers", "status", "status_if_allowed"),
    [
        pytest.param({S256: SIGNATURE}, 200, 200, id="SHA-256"),
        pytest.param({S256: SIGNATURE, S1: SHA1}, 200, 200, id="both"),
        pytest.param({S256: SIGNATURE, S1: "rubbish"}, 200, 200, id="SHA-1 wrong"),
        pytest.param({S1: SHA1}, 401, 200, id="SHA-1 only"),
        pytest.param({S256: "", S1: SHA1}, 401, 401, id="SHA-256 emptied"),
        pytest.param({S256: "AAAA", S1: SHA1}, 401, 401, id="SHA-256 wrong"),
        pytest.param({S256: SHA1, S1: SIGNATURE}, 401, 401, id="swapped"),
        pytest.param({S1: SIGNATURE}, 401, 401, id="SHA-256 as SHA-1"),
        pytest.param({}, 401, 401, id="nothing"),
        pytest.param(basic(), 401, 401, id="Basic instead"),
    ],
)
def test_sha1_counts_only_where_it_is_allowed_and_sha256_is_absent(
    hooks: Hooks,
    old_hooks: Hooks,
    headers: dict[str, str],
    status: int,
    status_if_allowed: int,
) -> None:
    """Else stripping or spoiling the better header would be enough."""
    assert hooks.post("postal", BODY, headers).status_code == status
    assert old_hooks.post("postal", BODY, headers).status_code == status_if_allowed


@pytest.mark.parametrize(
    "signature",
    [
        "é" * 344,
        "\x00",
        "%00",
        SIGNATURE[:-1],
        SIGNATURE + "=",
        SIGNATURE[:172],
        " " + SIGNATURE[1:],
        "!" + SIGNATURE,
        SIGNATURE.replace("=", ""),
        f"{SIGNATURE},{SIGNATURE}",
        "A" * 100_000,
        base64.b64encode(bytes(256)).decode(),
        base64.b64encode(b"\xff" * 256).decode(),
    ],
    ids=range(13),
)
def test_a_malformed_signature_is_a_401(signature: str) -> None:
    """Never a 500; the header is handed over as WSGI servers do, in Latin-1."""
    hooks = hooked_app()
    response = hooks.client.post(
        "/mail-hooks/postal/tracking/",
        data=BODY,
        environ_overrides={"HTTP_X_POSTAL_SIGNATURE_256": signature},
    )

    assert response.status_code == 401
    assert hooks.events == []


@pytest.mark.parametrize(
    "body",
    [
        BODY + b"\n",
        BODY[:-1],
        b"",
        BODY.replace(b"<", b"\\u003c"),
        json.dumps(json.loads(BODY)).encode(),
        BODY.replace(b"Ilse", b"Else"),
    ],
    ids=["longer", "shorter", "empty", "escaped", "re-serialised", "changed"],
)
def test_only_the_very_bytes_are_authentic(hooks: Hooks, body: bytes) -> None:
    """Postal signs the raw body and nothing else."""
    assert hooks.post("postal", body, {S256: SIGNATURE}).status_code == 401


def mutants(count: int) -> Iterator[tuple[bytes, str]]:
    """Bodies and signatures, each pair a little wrong."""
    chance = random.Random(20261121)
    signature = base64.b64decode(SIGNATURE)
    bodies = [encoded(item) for item in (POSTAL_SENT, POSTAL_BOUNCED, POSTAL_CLICKED, postal_raw())]
    signed = [(body, base64.b64decode(sha256_only(body)[S256])) for body in bodies]
    for number in range(count):
        body, signature = signed[number % len(signed)]
        if number % 3 == 0:
            yield flipped(body, chance), base64.b64encode(signature).decode()
        elif number % 3 == 1:
            yield body, base64.b64encode(flipped(signature, chance)).decode()
        else:
            yield body, base64.b64encode(signed[(number + 1) % len(signed)][1]).decode()


def flipped(data: bytes, chance: random.Random) -> bytes:
    position, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
    return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


def test_of_3000_mutants_none_is_authentic(hooks: Hooks) -> None:
    """One flipped bit in body or signature, or the signature of another body."""
    esp, settings = hooks.app.extensions["mailesp"].hook("postal")
    accepted = 0
    for body, signature in mutants(3000):
        try:
            esp.tracking.verify(WebhookRequest({S256: signature}, body), settings, None)
            accepted += 1
        except WebhookRejected:
            pass
    assert accepted == 0


def test_credentials_are_required_besides_the_signature_where_they_are_set() -> None:
    """MAILESP_WEBHOOK_SECRET applies to every ESP, those that sign included."""
    hooks = hooked_app(WEBHOOK_SECRET=SECRET)
    signature = {S256: SIGNATURE}

    assert hooks.post("postal", BODY, signature).status_code == 401
    assert hooks.post("postal", BODY, basic()).status_code == 401
    assert hooks.post("postal", BODY, basic("hook:wrong") | signature).status_code == 401
    assert hooks.post("postal", BODY, basic() | signature).status_code == 200


def test_none_relies_on_the_signature_alone() -> None:
    """POSTAL_WEBHOOK_SECRET = None overrides the secret of all ESPs."""
    hooks = hooked_app(WEBHOOK_SECRET=SECRET, POSTAL_WEBHOOK_SECRET=None)

    assert hooks.post("postal", BODY, {S256: SIGNATURE}).status_code == 200
    assert hooks.post("postal", BODY, basic()).status_code == 401


def test_credentials_alone_do_where_no_key_is_set() -> None:
    """Weaker than a signature, but it is authentication."""
    hooks = hooked_app(POSTAL_WEBHOOK_KEY=None, POSTAL_WEBHOOK_SECRET=[SECRET, "new:password"])

    assert hooks.post("postal", BODY, basic("new:password")).status_code == 200
    assert hooks.post("postal", BODY, {S256: SIGNATURE}).status_code == 401


# --- tracking events -----------------------------------------------------------------------

AT = datetime(2026, 11, 21, tzinfo=timezone.utc)


def moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)


def parse(payload: Any, content_type: str = "application/json") -> Any:
    body = payload if isinstance(payload, bytes) else encoded(payload)
    return postal.parse(WebhookRequest({"Content-Type": content_type}, body), postal_settings())


def postal_settings() -> Any:
    return None  # parsing needs none


def parse_one(payload: Any, content_type: str = "application/json") -> Any:
    (event,) = parse(payload, content_type)
    return event


SUPPRESSED = "Recipient (Ilse@example.net) is on the suppression list (reason: too many hard fails)"
DEVELOPMENT = "Server is in development mode."
PERMANENT = "Permanent SMTP delivery error when sending to 192.0.2.7:25 (mx.example.net)"
EVENTS: list[tuple[str, dict[str, Any], EventType, RejectReason | None]] = [
    ("sent", POSTAL_SENT, EventType.DELIVERED, None),
    (
        "delayed",
        postal_status("MessageDelayed", "SoftFail", "No SMTP servers were available"),
        EventType.DEFERRED,
        None,
    ),
    (
        "refused by the server",
        postal_status("MessageDeliveryFailed", "HardFail", PERMANENT, "550 5.1.1 No such user"),
        EventType.BOUNCED,
        RejectReason.BOUNCED,
    ),
    (
        "refused, by the reply alone",
        postal_status("MessageDeliveryFailed", "HardFail", "Something new", "554-not here"),
        EventType.BOUNCED,
        RejectReason.BOUNCED,
    ),
    (
        "refused, by the details alone",
        postal_status("MessageDeliveryFailed", "HardFail", PERMANENT),
        EventType.BOUNCED,
        RejectReason.BOUNCED,
    ),
    (
        "attempts used up",
        postal_status(
            "MessageDeliveryFailed",
            "HardFail",
            "Maximum number of delivery attempts (18) has been reached.",
            "451 4.7.1 later",
        ),
        EventType.FAILED,
        RejectReason.TIMED_OUT,
    ),
    (
        "spam",
        postal_status(
            "MessageDeliveryFailed",
            "HardFail",
            "Message is likely spam. Threshold is 5.0 and the message scored 9.1.",
        ),
        EventType.FAILED,
        RejectReason.SPAM,
    ),
    (
        "no recipient",
        postal_status("MessageDeliveryFailed", "HardFail", "Message doesn't have an RCPT to"),
        EventType.FAILED,
        RejectReason.INVALID,
    ),
    (
        "domain gone",
        postal_status("MessageDeliveryFailed", "HardFail", "Message's domain no longer exist"),
        EventType.FAILED,
        RejectReason.OTHER,
    ),
    (
        "held: suppressed",
        postal_status("MessageHeld", "Held", SUPPRESSED),
        EventType.REJECTED,
        RejectReason.BLOCKED,
    ),
    (
        "held: development",
        postal_status("MessageHeld", "Held", DEVELOPMENT),
        EventType.QUEUED,
        None,
    ),
    ("bounced", POSTAL_BOUNCED, EventType.BOUNCED, RejectReason.BOUNCED),
    ("clicked", POSTAL_CLICKED, EventType.CLICKED, None),
    (
        "loaded",
        postal_event("MessageLoaded", {"message": postal_message(), "user_agent": None}),
        EventType.OPENED,
        None,
    ),
    ("new", postal_event("MessagePainted", {"message": postal_message()}), EventType.UNKNOWN, None),
]


@pytest.mark.parametrize(
    ("payload", "event_type", "reason"), [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS]
)
def test_every_event_has_its_normalised_type(
    payload: dict[str, Any], event_type: EventType, reason: RejectReason | None
) -> None:
    """And is about the message that was sent, not about the bounce that came back."""
    event = parse_one(payload)

    assert (event.event_type, event.reject_reason) == (event_type, reason)
    assert (event.message_id, event.recipient) == ("41877", "Ilse@example.net")
    assert event.event_id == "c7a91f0e-63d4-4b58-8f21-9a5e0d3b6c17"
    assert (event.tags, event.metadata) == (["parcel"], {})
    assert event.esp_event == payload


def test_every_field_of_a_delivery_report() -> None:
    """The time is that of the attempt, to the microsecond."""
    assert parse_one(POSTAL_SENT) == TrackingEvent(
        event_type=EventType.DELIVERED,
        esp_event=POSTAL_SENT,
        timestamp=moment(1795250009) + timedelta(microseconds=125501),
        event_id="c7a91f0e-63d4-4b58-8f21-9a5e0d3b6c17",
        message_id="41877",
        recipient="Ilse@example.net",
        description="Message for Ilse@example.net accepted by 192.0.2.7:25",
        mta_response="250 Ok",
        tags=["parcel"],
        identity=("Postal", "c7a91f0e-63d4-4b58-8f21-9a5e0d3b6c17"),
    )


def test_every_field_of_a_click() -> None:
    """The payload has no time: the envelope's counts."""
    event = parse_one(POSTAL_CLICKED)

    assert event.timestamp == moment(1795250009.75)
    assert event.click_url == "https://shop.example.org/parcels/1042?a=1&b=2"
    assert event.user_agent == "Mozilla/5.0 (X11; Linux x86_64)"
    assert (event.description, event.mta_response) == (None, None)


def test_a_message_without_a_tag_has_no_tags() -> None:
    """An empty list, not a list of None."""
    payload = postal_event("MessageLoaded", {"message": postal_message(tag=None)})

    assert parse_one(payload).tags == []


@pytest.mark.parametrize("event", ["MessageSent", "MessageDelayed", "MessageHeld", "MessageLoaded"])
def test_events_of_incoming_mail_are_not_tracking_events(event: str) -> None:
    """Postal also reports the delivery of inbound mail to the app's own endpoint."""
    payload = postal_event(event, {"message": postal_message(direction="incoming")})

    assert parse(payload) == ()


@pytest.mark.parametrize(
    "payload",
    [
        postal_event("DomainDNSError", {"domain": "shop.example.org", "dkim_status": "Invalid"}),
        postal_event("SendLimitApproaching", {"server": {"name": "x"}, "volume": 9, "limit": 10}),
        postal_event("SendLimitExceeded", {"server": {"name": "x"}, "volume": 11, "limit": 10}),
        postal_event("MessageSent", {}),
        postal_event("MessageSent", {"message": []}),
    ],
    ids=["DNS", "limit near", "limit", "no message", "message a list"],
)
def test_events_without_a_message_are_unknown(payload: dict[str, Any]) -> None:
    """With their raw data, time and id."""
    event = parse_one(payload)

    assert event.event_type == "unknown"
    assert event.esp_event == payload
    assert event.timestamp == moment(1795250009.75)
    assert (event.message_id, event.recipient, event.tags) == (None, None, [])


def test_the_key_is_the_uuid_s() -> None:
    """Retries repeat it; another event has another one."""
    again = copy.deepcopy(POSTAL_SENT)
    other = POSTAL_SENT | {"uuid": "another"}
    without = {key: value for key, value in POSTAL_SENT.items() if key != "uuid"}
    keys = [parse_one(item).key for item in (POSTAL_SENT, again, other, without, without)]

    assert keys[0] == keys[1]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"7", b"\xff\xfe"], ids=range(6))
def test_what_is_no_json_object_is_unknown(body: bytes) -> None:
    """With the bytes as they came."""
    event = parse_one(body)

    assert (event.event_type, event.esp_event) == ("unknown", body)
    assert event.key == parse_one(body).key


def test_an_object_of_no_known_shape_is_unknown() -> None:
    """With the decoded object."""
    event = parse_one({"hello": "world"})

    assert (event.event_type, event.esp_event) == ("unknown", {"hello": "world"})


@pytest.mark.parametrize(
    "payload",
    [
        {"event": ["MessageSent"], "payload": {"message": postal_message()}},
        {"event": None, "payload": None},
        {"event": "MessageSent", "payload": {"message": {"id": {}, "to": 1, "direction": []}}},
        {"event": "MessageSent", "payload": "text", "timestamp": "later", "uuid": 7},
        {"event": "MessageSent", "payload": {"message": {"id": 1}, "timestamp": 1e300}},
    ],
    ids=range(5),
)
def test_a_damaged_event_is_still_an_event(payload: dict[str, Any]) -> None:
    """With whatever could be read, and all of it raw."""
    event = parse_one(payload)

    assert event.esp_event == payload
    assert len(event.key) == 64


# --- inbound mail --------------------------------------------------------------------------


def as_form(payload: dict[str, Any]) -> bytes:
    """Encode a payload as Postal's FormData does."""
    pairs: list[tuple[str, Any]] = []
    for name, value in payload.items():
        if name == "attachments":
            for number, item in enumerate(value):
                pairs += [(f"attachments[{number}][{key}]", text) for key, text in item.items()]
        elif name == "reply_to":
            pairs += [(name, item) for item in value]
        else:
            pairs.append((name, {None: "", True: "true", False: "false"}.get(value, value)))
    return urlencode(pairs).encode()


FORM = "application/x-www-form-urlencoded"
ENCODINGS: list[tuple[Callable[[dict[str, Any]], bytes], str]] = [
    (encoded, "application/json"),
    (encoded, "application/json; charset=utf-8"),
    (as_form, FORM),
    (as_form, "Application/X-WWW-Form-URLEncoded; charset=UTF-8"),
]
in_both_encodings = pytest.mark.parametrize(
    ("encode", "content_type"), ENCODINGS, ids=["json", "json+", "form", "form+"]
)


@in_both_encodings
def test_the_raw_format_is_read_from_its_bytes(
    encode: Callable[[dict[str, Any]], bytes], content_type: str
) -> None:
    """8-bit mail that is not UTF-8 survives, octet by octet."""
    event = parse_one(encode(postal_raw()), content_type)
    message = event.message

    assert isinstance(event, InboundEvent)
    assert hashlib.sha256(message.raw).digest() == hashlib.sha256(POSTAL_RAW_MAIL).digest()
    assert message.text == "Grüße\n"
    assert (event.event_id, event.timestamp) == ("41950", None)
    assert message.envelope_sender == "ilse@example.net"
    assert message.envelope_recipient == "help+77@in.shop.example.org"
    assert (message.spam_detected, message.spam_score) == (False, 0.75)
    assert str(message.from_email) == "Ilse <ilse@example.net>"
    assert (message.subject, message.message_id) == ("Paket", "in-1@example.net")
    assert message.defects == []


@in_both_encodings
def test_the_null_sender_is_an_empty_text(
    encode: Callable[[dict[str, Any]], bytes], content_type: str
) -> None:
    """It marks bounces and other automatic mail."""
    for payload in (postal_raw(mail_from=None), postal_hash(mail_from=None)):
        message = parse_one(encode(payload), content_type).message

        assert message.envelope_sender == ""
        assert message.is_auto_reply


def test_the_verdict_on_spam_counts_at_the_very_top_only() -> None:
    """Further down, anyone may have written it."""
    forged = b"Received: x\r\nX-Postal-Spam: yes\r\nX-Postal-Spam-Score: 99\r\n\r\nHi"
    spam = b"X-Postal-Spam: yes\r\nX-Postal-Spam-Score: 12.5\r\nX-Postal-Spam: no\r\n\r\nHi"
    odd = b"X-Postal-Spam: maybe\r\nX-Postal-Spam-Score: inf\r\n\r\nHi"
    verdicts = [
        (message.spam_detected, message.spam_score)
        for message in (parse_one(postal_raw(source)).message for source in (forged, spam, odd))
    ]

    assert verdicts == [(None, None), (True, 12.5), (None, None)]


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        pytest.param("", b"", id="empty"),
        pytest.param("U3ViamVjdDogSGk", b"Subject: Hi", id="padding lost"),
        pytest.param("U3Vi!amVj,dDogSGkK;", b"Subject: Hi\n", id="stray characters"),
        pytest.param("U3ViamVjdDogSG", b"Subject: H", id="cut off"),
        pytest.param("é", b"", id="not ASCII"),
    ],
)
def test_damaged_base64_gives_what_it_can(message: str, raw: bytes) -> None:
    """The mail is delivered with a defect, not lost."""
    event = parse_one(postal_raw(message=message))

    assert event.message.raw == raw
    assert event.message.defects or not message


def test_a_source_that_is_not_base64_is_taken_as_it_is() -> None:
    """Postal always says true; who says false means it."""
    for spelling in (False, "false"):
        event = parse_one(postal_raw(message="Subject: Hi\n\nText", base64=spelling))
        assert (event.message.subject, event.message.text) == ("Hi", "Text")


@in_both_encodings
def test_the_hash_format_is_read_field_by_field(
    encode: Callable[[dict[str, Any]], bytes], content_type: str
) -> None:
    """Every field of it, with its attachments."""
    event = parse_one(encode(postal_hash()), content_type)
    message = event.message

    assert (event.event_id, event.timestamp) == ("41951", moment(1795250100.5))
    assert str(message.from_email) == "Ilse Größe <ilse@example.net>"
    assert [str(one) for one in message.to] == [
        "Help <help+77@in.shop.example.org>",
        "second@example.org",
    ]
    assert [str(one) for one in message.cc] == ["carol@example.com"]
    assert [one.addr_spec for one in message.reply_to] == [
        "private@example.net",
        "desk@example.net",
    ]
    assert (message.subject, message.message_id) == ("Re: Přání", "in-2@example.net")
    assert message.date == datetime(2026, 11, 21, 10, tzinfo=timezone.utc)
    assert message.in_reply_to == "77@shop.example.org"
    assert message.references == ["76@shop.example.org", "77@shop.example.org"]
    assert message.headers["Message-ID"] == "<in-2@example.net>"
    assert message.headers.get_all("Reply-To") == ["Ilse <private@example.net>", "desk@example.net"]
    assert "Auto-Submitted" not in message.headers
    assert message.html == "<p>It is broken.</p>"
    assert (message.envelope_sender, message.envelope_recipient) == (
        "ilse@example.net",
        "help+77@in.shop.example.org",
    )
    assert (message.spam_detected, message.spam_score) == (False, None)
    (file,) = message.attachments
    assert (file.filename, file.content_type, file.text) == ("foto.txt", "text/plain", "Šípek")


@in_both_encodings
def test_stripped_replies_are_kept_apart(
    encode: Callable[[dict[str, Any]], bytes], content_type: str
) -> None:
    """The text is whole again; what is new in it is ``stripped_text``."""
    message = parse_one(encode(postal_hash()), content_type).message
    assert message.stripped_text == "It is broken."
    assert message.text == "It is broken.\n\nOn Friday, Shop wrote:\n> Hello"

    fresh = parse_one(encode(postal_hash(replies_from_plain_body=None)), content_type).message
    assert (fresh.stripped_text, fresh.text) == ("It is broken.", "It is broken.")

    whole = postal_hash()
    del whole["replies_from_plain_body"]
    message = parse_one(encode(whole), content_type).message
    assert (message.stripped_text, message.text) == (None, "It is broken.")


@pytest.mark.parametrize(
    ("status", "detected"), [("Spam", True), ("NotSpam", False), ("NotChecked", None), ("?", None)]
)
def test_the_hash_format_s_verdict_on_spam(status: str, detected: bool | None) -> None:
    """NotChecked is no verdict."""
    assert parse_one(postal_hash(spam_status=status)).message.spam_detected is detected


@in_both_encodings
def test_a_mail_without_anything_is_still_a_mail(
    encode: Callable[[dict[str, Any]], bytes], content_type: str
) -> None:
    """Nulls everywhere, attachments left out by the endpoint's setting."""
    empty = dict.fromkeys(
        ("subject", "message_id", "to", "cc", "from", "date", "html_body", "plain_body")
    )
    payload = postal_hash(**empty, reply_to=[])
    del payload["attachments"], payload["replies_from_plain_body"]
    message = parse_one(encode(payload), content_type).message

    assert (message.from_email, message.to, message.cc, message.reply_to) == (None, [], [], [])
    assert (message.subject, message.text, message.html, message.attachments) == ("", "", "", [])
    assert message.message_id is None


def test_odd_form_fields_do_no_harm() -> None:
    """Names out of order, strange indices, repeated values."""
    form = (
        b"rcpt_to=a%40example.org&token=t&id=5&plain_body=one&plain_body=two"
        b"&reply_to[]=x%40example.org"
        b"&attachments[7][filename]=b.txt&attachments[2][filename]=a.txt&attachments[2][data]=QQ=="
        b"&attachments[99999][filename]=no&attachments[x][data]=no&attachments=no"
    )
    message = parse_one(form, FORM).message

    assert message.text == "one"
    assert [(file.filename, file.data) for file in message.attachments] == [
        ("a.txt", b"A"),
        ("b.txt", b""),
    ]
    assert [str(one) for one in message.reply_to] == ["x@example.org"]


def test_a_form_that_is_not_utf8_is_read_with_replacements() -> None:
    """Whatever was said in the readable fields is not lost."""
    message = parse_one(b"rcpt_to=a%40example.org&token=t&subject=caf%E9&plain_body=caf\xe9", FORM)

    assert message.message.subject == "caf\ufffd"


def test_json_with_a_form_s_content_type_is_json() -> None:
    """The content decides where the label is wrong."""
    assert parse_one(encoded(POSTAL_SENT), FORM).event_type == "delivered"
    assert parse_one(encoded(postal_raw()), "text/plain").event_type == "inbound"


def test_inbound_keys_tell_mails_apart() -> None:
    """Ids are unique within one mail server only, so the recipient's address counts too."""
    one, again = parse_one(postal_raw()), parse_one(postal_raw())
    others = [
        parse_one(postal_raw(id=1)),
        parse_one(postal_raw(rcpt_to="help@elsewhere.example")),
        parse_one(postal_hash()),
        parse_one(postal_hash(token="other")),
        parse_one(postal_raw(id=None)),
    ]

    assert one.key == again.key
    assert len({one.key, *(event.key for event in others)}) == 6


def test_a_signed_form_is_verified_over_its_raw_bytes(hooks: Hooks) -> None:
    """Before anything decodes the form."""
    body = as_form(postal_hash())
    before = len(hooks.inbound)

    assert hooks.post("postal", body, kind="inbound", content_type=FORM).status_code == 200
    assert len(hooks.inbound) == before + 1
    rewritten = body.replace(b"%40", b"@")
    response = hooks.post("postal", rewritten, sha256_only(body), kind="inbound", content_type=FORM)
    assert response.status_code == 401


def test_a_big_attachment_is_not_copied_about() -> None:
    """It is decoded when it is read."""
    data = bytes(range(256)) * 4096
    text = binascii.b2a_base64(data).decode()
    item = {"filename": "big.bin", "content_type": "application/pdf", "size": 1, "data": text}
    event = parse_one(encoded(postal_hash(attachments=[item])))

    assert event.message.attachments[0].data == data
    assert io.BytesIO(event.message.attachments[0].data).read(3) == b"\x00\x01\x02"
