"""Postmark's room: what goes over the wire, what its answers mean, what its webhooks say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, cast

import pytest
from flask import Flask

from flask_mailesp import Attachment, MailESP, Message
from flask_mailesp.esp import (
    Call,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Settings,
    WebhookRequest,
)
from flask_mailesp.esps import postmark
from flask_mailesp.events import InboundEvent, TrackingEvent
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    InvalidHeaderError,
    MailESPError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from flask_mailesp.prepare import PrepareOptions, prepare
from flask_mailesp.results import SendResult
from flask_mailesp.testing import EspServer, body_of

API = "https://api.postmarkapp.com"
TOKEN = "11111111-aaaa-4bbb-8ccc-222222222222"
SETTINGS = Settings({"SERVER_TOKEN": TOKEN, "API_URL": API, "WEBHOOK_SECRET": (b"me:secret",)})
BASE: dict[str, Any] = {
    "subject": "Hi",
    "to": "bea@example.com",
    "body": "Text",
    "sender": "me@example.org",
}
JSON_OF_BASE = {
    "From": "me@example.org",
    "To": "bea@example.com",
    "Subject": "Hi",
    "TextBody": "Text",
}
TEMPLATE: dict[str, Any] = {"to": "bea@example.com", "sender": "me@example.org"}
JSON_OF_TEMPLATE = {"From": "me@example.org", "To": "bea@example.com", "TemplateModel": {}}


def calls_for(**fields: Any) -> list[Call]:
    """Build the calls for a message, which is plain but for ``fields``."""
    message = prepare(Message(**fields), {}, PrepareOptions(), "postmark")
    return list(postmark.build(message, SETTINGS))


def call_for(**fields: Any) -> Call:
    (call,) = calls_for(**fields)
    return call


def payload_of(call: Call) -> Any:
    return json.loads(body_of(call.request))


# --- building: one message -------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing more": ({}, {}),
    "a display name": ({"to": "Bea <bea@example.com>"}, {"To": "Bea <bea@example.com>"}),
    "a name with punctuation": (
        {"to": ("Buyer, Bea", "bea@example.com")},
        {"To": '"Buyer, Bea" <bea@example.com>'},
    ),
    "a name beyond ASCII": ({"sender": "Zoë <me@example.org>"}, {"From": "Zoë <me@example.org>"}),
    "several recipients": (
        {"to": ["a@example.com", "B <b@example.com>"]},
        {"To": "a@example.com, B <b@example.com>"},
    ),
    "an international domain": ({"to": "a@bücher.example"}, {"To": "a@xn--bcher-kva.example"}),
    "cc": ({"cc": ["c@example.com", "d@example.com"]}, {"Cc": "c@example.com, d@example.com"}),
    "bcc": ({"bcc": "d@example.com"}, {"Bcc": "d@example.com"}),
    "one reply-to": ({"reply_to": "r@example.com"}, {"ReplyTo": "r@example.com"}),
    "several reply-to": (
        {"reply_to": ["r@example.com", "S <s@example.com>"]},
        {"ReplyTo": "r@example.com, S <s@example.com>"},
    ),
    "html": ({"html": "<p>Hi</p>"}, {"HtmlBody": "<p>Hi</p>"}),
    "headers": ({"headers": {"X-A": "1"}}, {"Headers": [{"Name": "X-A", "Value": "1"}]}),
    "a header twice": (
        {"headers": [("X-A", "1"), ("X-A", "2")]},
        {"Headers": [{"Name": "X-A", "Value": "1"}, {"Name": "X-A", "Value": "2"}]},
    ),
    "a Message-ID": (
        {"headers": {"Message-ID": "<1@example.org>"}},
        {"Headers": [{"Name": "Message-ID", "Value": "<1@example.org>"}]},
    ),
    "a Reply-To header": ({"headers": {"Reply-To": "r@example.com"}}, {"ReplyTo": "r@example.com"}),
    "headers that Postmark writes": (
        {"headers": {"Date": "x", "sender": "y", "Received": "z"}},
        {},
    ),
    "headers of Postmark's SMTP": (
        {"headers": dict.fromkeys(("Tag", "Track-Opens", "Message-Stream", "X-PM-Rcpt"), "x")},
        {},
    ),
    "a tag": ({"tags": ["receipt"]}, {"Tag": "receipt"}),
    "metadata as strings": (
        {"metadata": {"order": 17, "rate": 1.5, "vip": "yes"}},
        {"Metadata": {"order": "17", "rate": "1.5", "vip": "yes"}},
    ),
    "empty containers": ({"metadata": {}, "tags": [], "headers": {}, "cc": []}, {}),
    "open tracking on": ({"track_opens": True}, {"TrackOpens": True}),
    "open tracking off": ({"track_opens": False}, {"TrackOpens": False}),
    "link tracking on": ({"track_clicks": True}, {"TrackLinks": "HtmlAndText"}),
    "link tracking off": ({"track_clicks": False}, {"TrackLinks": "None"}),
    "link tracking in HTML only": (
        {"track_clicks": True, "esp_extra": {"TrackLinks": "HtmlOnly"}},
        {"TrackLinks": "HtmlOnly"},
    ),
    "link tracking in text only": (
        {"esp_extra": {"TrackLinks": "TextOnly"}},
        {"TrackLinks": "TextOnly"},
    ),
    "a message stream": (
        {"esp_extra": {"MessageStream": "broadcast"}},
        {"MessageStream": "broadcast"},
    ),
    "a server token": ({"esp_extra": {"server_token": "other"}}, {}),
    "an attachment": (
        {"attachments": [("a.txt", "text/plain", b"Hello")]},
        {
            "Attachments": [
                {"Name": "a.txt", "Content": "SGVsbG8=", "ContentType": "text/plain"},
            ]
        },
    ),
    "an inline image": (
        {"attachments": [Attachment("l.png", "image/png", PNG, content_id="logo@x")]},
        {
            "Attachments": [
                {
                    "Name": "l.png",
                    "Content": base64.b64encode(PNG).decode(),
                    "ContentType": "image/png",
                    "ContentID": "cid:logo@x",
                }
            ]
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), FIELDS.values(), ids=FIELDS.keys())
def test_fields_go_to_email(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """A single message with words of its own: exactly these keys, and no null."""
    call = call_for(**(BASE | given))
    assert call.request.method == "POST"
    assert call.request.url == f"{API}/email"
    assert payload_of(call) == JSON_OF_BASE | expected


def test_a_message_without_to_has_no_to() -> None:
    """Cc or Bcc alone are enough for Postmark."""
    payload = payload_of(call_for(**(BASE | {"to": [], "bcc": "b@example.com"})))
    assert "To" not in payload
    assert payload["Bcc"] == "b@example.com"


def test_an_html_only_message_has_no_text_body() -> None:
    """None is absence: an empty TextBody would become an empty part."""
    payload = payload_of(call_for(**(BASE | {"body": None, "html": "<p>Hi</p>"})))
    assert "TextBody" not in payload
    assert payload["HtmlBody"] == "<p>Hi</p>"


def test_a_large_attachment_is_spliced_in() -> None:
    """It is encoded while the body is sent, and is the same JSON."""
    data = bytes(range(256)) * 1000
    call = call_for(**BASE, attachments=[("big.bin", "application/octet-stream", data)])
    assert not isinstance(call.request.body, bytes)
    assert len(body_of(call.request)) == len(call.request.body)
    assert base64.b64decode(payload_of(call)["Attachments"][0]["Content"]) == data


TEMPLATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a number": ({"template_id": 123}, {"TemplateId": 123}),
    "a number as text": ({"template_id": "123"}, {"TemplateId": 123}),
    "an alias": ({"template_id": "welcome"}, {"TemplateAlias": "welcome"}),
    "an alias that int() would read": ({"template_id": "1_000"}, {"TemplateAlias": "1_000"}),
    "an alias of other digits": ({"template_id": "٣"}, {"TemplateAlias": "٣"}),
    "by ESP": ({"template_id": {"postmark": "w", "other": 1}}, {"TemplateAlias": "w"}),
    "data for all": (
        {"template_id": 1, "merge_global_data": {"shop": "S", "items": [{"n": 1}]}},
        {"TemplateId": 1, "TemplateModel": {"shop": "S", "items": [{"n": 1}]}},
    ),
    "options": (
        {"template_id": 1, "esp_extra": {"InlineCss": False}},
        {"TemplateId": 1, "InlineCss": False},
    ),
    "from esp_extra": ({"esp_extra": {"TemplateAlias": "w"}}, {"TemplateAlias": "w"}),
    "from esp_extra with a model": (
        {"esp_extra": {"TemplateId": 7, "TemplateModel": {"a": 1}}},
        {"TemplateId": 7, "TemplateModel": {"a": 1}},
    ),
}


@pytest.mark.parametrize(("given", "expected"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_templates_go_to_with_template(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """No Subject and no bodies, not even empty ones; always a TemplateModel."""
    call = call_for(**TEMPLATE, **given)
    assert call.request.url == f"{API}/email/withTemplate"
    assert payload_of(call) == JSON_OF_TEMPLATE | expected


def test_words_next_to_a_template_of_esp_extra_are_not_dropped_silently() -> None:
    """Postmark answers with error 1123, which says what to do."""
    payload = payload_of(call_for(**BASE, esp_extra={"TemplateAlias": "w"}))
    assert (payload["Subject"], payload["TextBody"]) == ("Hi", "Text")


def test_the_token_travels_in_a_header_only() -> None:
    """The one of the settings, or that of the message; never in the body."""
    call = call_for(**BASE)
    assert call.request.headers["X-Postmark-Server-Token"] == TOKEN
    assert call.request.headers["Accept"] == "application/json"
    assert call.request.headers["Content-Type"] == "application/json"
    call = call_for(**BASE, esp_extra={"server_token": "other-token", "MessageStream": "b"})
    assert call.request.headers["X-Postmark-Server-Token"] == "other-token"
    assert payload_of(call) == JSON_OF_BASE | {"MessageStream": "b"}
    assert "other-token" not in repr(call) + repr(dict(call.request.headers))


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "tökén", 7, ["x"]])
def test_a_malformed_token_is_refused(token: Any) -> None:
    """It could start another header."""
    with pytest.raises(InvalidHeaderError, match="server_token"):
        call_for(**BASE, esp_extra={"server_token": token})


# --- building: batches -----------------------------------------------------------------


def test_a_batch_is_one_message_for_each_to() -> None:
    """Each with its own data over the common data; cc and bcc get every copy."""
    call = call_for(
        **(TEMPLATE | {"to": ["Ann <a@example.com>", "b@example.com"], "cc": "c@example.com"}),
        template_id="offer",
        merge_data={"A@example.com": {"name": "Ann", "shop": "Own"}},
        merge_global_data={"shop": "All"},
        metadata={"run": 1, "who": "?"},
        merge_metadata={"b@example.com": {"who": "b"}},
        headers={"X-Run": "1", "x-who": "?"},
        merge_headers={"b@example.com": {"X-Who": "b"}},
    )
    common = {"From": "me@example.org", "Cc": "c@example.com", "TemplateAlias": "offer"}
    assert call.request.url == f"{API}/email/batchWithTemplates"
    assert payload_of(call) == {
        "Messages": [
            common
            | {
                "To": "Ann <a@example.com>",
                "TemplateModel": {"shop": "Own", "name": "Ann"},
                "Metadata": {"run": "1", "who": "?"},
                "Headers": [{"Name": "X-Run", "Value": "1"}, {"Name": "x-who", "Value": "?"}],
            },
            common
            | {
                "To": "b@example.com",
                "TemplateModel": {"shop": "All"},
                "Metadata": {"run": "1", "who": "b"},
                "Headers": [{"Name": "X-Run", "Value": "1"}, {"Name": "X-Who", "Value": "b"}],
            },
        ]
    }
    assert [[item.addr_spec for item in part.recipients] for part in call.parts] == [
        ["a@example.com", "c@example.com"],
        ["b@example.com", "c@example.com"],
    ]


@pytest.mark.parametrize("name", ["merge_data", "merge_metadata", "merge_headers"])
def test_empty_merge_fields_make_a_batch_too(name: str) -> None:
    """Nobody sees the others, even where there is nothing to merge."""
    call = call_for(**(BASE | {"to": ["a@example.com", "b@example.com"]}), **{name: {}})
    assert call.request.url == f"{API}/email/batch"
    assert payload_of(call) == [
        JSON_OF_BASE | {"To": "a@example.com"},
        JSON_OF_BASE | {"To": "b@example.com"},
    ]


def test_a_batch_is_cut_at_500_messages() -> None:
    """Postmark refuses a longer one as a whole."""
    people = [f"p{number}@example.com" for number in range(1001)]
    calls = calls_for(**(BASE | {"to": people}), merge_metadata={})
    assert [len(payload_of(call)) for call in calls] == [500, 500, 1]
    sent = [part.recipients[0].addr_spec for call in calls for part in call.parts]
    assert sent == people


def test_a_batch_is_cut_at_50_megabytes() -> None:
    """Measured as encoded; a message that is too large by itself goes out alone."""
    data = bytes(9_000_000)
    people = [f"p{number}@example.com" for number in range(9)]
    calls = calls_for(**(BASE | {"to": people}), merge_data={}, attachments=[("a.bin", None, data)])
    assert [len(call.parts) for call in calls] == [4, 4, 1]
    assert all(len(call.request.body) <= postmark.BATCH_BYTES for call in calls)


def test_a_batch_fills_its_bytes_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit includes brackets and commas, and may be reached."""
    people = ["a@example.com", "b@example.com", "c@example.com"]
    (whole,) = calls_for(**(BASE | {"to": people}), merge_data={})
    monkeypatch.setattr(postmark, "BATCH_BYTES", len(whole.request.body))
    assert len(calls_for(**(BASE | {"to": people}), merge_data={})) == 1
    monkeypatch.setattr(postmark, "BATCH_BYTES", len(whole.request.body) - 1)
    assert [len(call.parts) for call in calls_for(**(BASE | {"to": people}), merge_data={})] == [
        2,
        1,
    ]


def test_many_messages_are_apart_by_token_and_template() -> None:
    """One request has one token and one endpoint; parts tell which message is meant."""
    kinds: list[dict[str, Any]] = [
        {},
        {"template_id": 1, "subject": "", "body": None},
        {"esp_extra": {"server_token": "other"}},
        {"to": ["a@example.com", "b@example.com"], "merge_data": {}},
    ]
    messages = [
        prepare(Message(**(BASE | fields)), {}, PrepareOptions(), "postmark") for fields in kinds
    ]
    calls = list(postmark.build_many(messages, SETTINGS))
    found = [
        (
            call.request.url.removeprefix(API),
            call.request.headers["X-Postmark-Server-Token"],
            [part.message for part in call.parts],
        )
        for call in calls
    ]
    assert found == [
        ("/email/batch", TOKEN, [0, 3, 3]),
        ("/email/batchWithTemplates", TOKEN, [1]),
        ("/email/batch", "other", [2]),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"merge_data": {"z@example.com": {"when": datetime(2026, 1, 1)}}},  # noqa: DTZ001
        {"merge_data": {"z@example.com": {"x": "\ud800"}}},
        {"merge_data": {}, "esp_extra": {"X": object()}},
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_first_chunk(fields: dict[str, Any]) -> None:
    """Half a mailing must not be out when the other half turns out to be unserialisable."""
    people = [*(f"p{number}@example.com" for number in range(600)), "z@example.com"]
    message = prepare(
        Message(**(TEMPLATE | {"to": people, "template_id": 1} | fields)), {}, PrepareOptions()
    )
    with pytest.raises(SerializationError):
        next(iter(postmark.build(message, SETTINGS)))


# --- reading ---------------------------------------------------------------------------

INACTIVE = (
    "Found inactive addresses: {}. Inactive recipients are ones that have generated a hard "
    "bounce, a spam complaint, or a manual suppression. "
)
TRIED = "You tried to send to a recipient that has been marked as inactive. " + INACTIVE
PARTLY = "Message OK, but will not deliver to these inactive addresses: {}."
OK = {"ErrorCode": 0, "Message": "OK", "MessageID": "id-1", "To": "x", "SubmittedAt": "now"}


def read(status: int, answer: Any, *people: str, many: bool = False) -> list[Reading]:
    """Read an answer to a message to ``people``, or to a batch with one copy for each."""
    fields = BASE | {"to": list(people or ["a@example.com"])}
    call = call_for(**fields, **({"merge_data": {}} if many else {}))
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return postmark.read(call, HttpResponse(status, {}, body), SETTINGS)


def words(readings: Sequence[Reading]) -> list[Any]:
    """Return each recipient's status, with the id where there is one."""
    return [
        f"{entry.status} {entry.message_id}" if entry.message_id else str(entry.status)
        for reading in readings
        for entry in reading.statuses
    ]


class Case(NamedTuple):
    status: int
    answer: Any
    expected: list[str]
    error: type[MailESPError] | None = None


ANSWERS = {
    "accepted": Case(200, OK, ["sent id-1", "sent id-1"]),
    "a test token": Case(
        200, OK | {"Message": "Test job accepted", "MessageID": "t"}, ["sent t", "sent t"]
    ),
    "delayed, without an ErrorCode": Case(
        200,
        {"MessageID": "d", "Message": "Message accepted, but delivery may be delayed."},
        ["queued d", "queued d"],
    ),
    "ErrorCode 0 as text": Case(200, OK | {"ErrorCode": "0"}, ["sent id-1", "sent id-1"]),
    "one inactive": Case(
        200,
        OK | {"Message": PARTLY.format("b@example.com") + " Inactive recipients are"},
        ["sent id-1", "rejected"],
    ),
    "one inactive, at the end": Case(
        200, OK | {"Message": PARTLY.format("b@example.com")}, ["sent id-1", "rejected"]
    ),
    "a stranger inactive": Case(
        200, OK | {"Message": PARTLY.format("c@example.com")}, ["sent id-1", "sent id-1"]
    ),
    "all inactive, still 200": Case(
        200,
        OK | {"Message": PARTLY.format("a@example.com, b@example.com")},
        ["rejected", "rejected"],
    ),
    "406 for all": Case(
        422,
        {"ErrorCode": 406, "Message": TRIED.format("b@example.com, a@example.com")},
        ["rejected", "rejected"],
        RecipientsRefusedError,
    ),
    "406 in the plural": Case(
        422,
        {
            "ErrorCode": 406,
            "Message": "You tried to send to recipient(s) that have been marked as inactive. "
            "Found inactive addresses: A@example.com, b@example.com Inactive recipients are",
        },
        ["rejected", "rejected"],
        RecipientsRefusedError,
    ),
    "406 that names nobody": Case(
        422,
        {"ErrorCode": 406, "Message": "You tried to send to an inactive recipient."},
        ["rejected", "rejected"],
        RecipientsRefusedError,
    ),
    "406 for some leaves the others unknown": Case(
        422,
        {"ErrorCode": 406, "Message": TRIED.format("b@example.com")},
        ["unknown", "rejected"],
        SendUncertainError,
    ),
    "300 with one bad address": Case(
        422,
        {"ErrorCode": 300, "Message": "Invalid 'To' address: 'b@example.com'."},
        ["failed", "invalid"],
        RecipientsRefusedError,
    ),
    "300 with a bad domain": Case(
        422,
        {
            "ErrorCode": 300,
            "Message": "Error parsing 'Cc': Illegal email domain 'example.com' in address "
            "'A <a@example.com>'.",
        },
        ["invalid", "failed"],
        RecipientsRefusedError,
    ),
    "300 that quotes them all blames nobody": Case(
        422,
        {"ErrorCode": 300, "Message": "Invalid 'To' address: 'a@example.com, b@example.com'."},
        ["failed", "failed"],
        RecipientsRefusedError,
    ),
    "300 about the sender": Case(
        422,
        {"ErrorCode": 300, "Message": "Invalid 'From' address: 'a@example.com'."},
        ["failed", "failed"],
        APIError,
    ),
    "an ErrorCode as text": Case(
        422, {"ErrorCode": "1235", "Message": "No stream"}, ["failed", "failed"], APIError
    ),
    "an error behind 200": Case(
        200, {"ErrorCode": 1101, "Message": "No template"}, ["failed", "failed"], APIError
    ),
    "a bad token": Case(
        401, {"ErrorCode": 10, "Message": "Bad"}, ["failed", "failed"], AuthenticationError
    ),
    "an IP address not allowed": Case(
        422, {"ErrorCode": 1480, "Message": "IP"}, ["failed", "failed"], AuthenticationError
    ),
    "a rate limit by code": Case(
        422, {"ErrorCode": 429, "Message": "Slow"}, ["failed", "failed"], RateLimitedError
    ),
    "a rate limit by status": Case(429, b"", ["failed", "failed"], RateLimitedError),
    "maintenance": Case(
        503, {"ErrorCode": 100, "Message": "Later"}, ["failed", "failed"], RateLimitedError
    ),
    "503 without a code": Case(503, b"<html>", ["unknown", "unknown"], SendUncertainError),
    "an internal error": Case(
        500, {"ErrorCode": 101, "Message": "Oops"}, ["unknown", "unknown"], SendUncertainError
    ),
    "an internal error behind 200": Case(
        200, {"ErrorCode": 101, "Message": "Oops"}, ["unknown", "unknown"], SendUncertainError
    ),
    "a refusal's code with 500": Case(
        500,
        {"ErrorCode": 300, "Message": "Invalid 'To' address: 'a@example.com'."},
        ["unknown", "unknown"],
        SendUncertainError,
    ),
    "413 without JSON": Case(413, b"too large", ["failed", "failed"], APIError),
    "no MessageID": Case(
        200, {"ErrorCode": 0, "Message": "OK"}, ["unknown", "unknown"], SendUncertainError
    ),
    "a null MessageID": Case(
        200, OK | {"MessageID": None}, ["unknown", "unknown"], SendUncertainError
    ),
    "an empty MessageID": Case(
        200, OK | {"MessageID": ""}, ["unknown", "unknown"], SendUncertainError
    ),
    "a MessageID of another type": Case(
        200, OK | {"MessageID": 7}, ["unknown", "unknown"], SendUncertainError
    ),
    "an array": Case(200, [OK], ["unknown", "unknown"], SendUncertainError),
    "not JSON": Case(200, b"<html>OK</html>", ["unknown", "unknown"], SendUncertainError),
}


@pytest.mark.parametrize(Case._fields, ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_to_one_message(
    status: int, answer: Any, expected: list[str], error: type[MailESPError] | None
) -> None:
    """What is known about a@example.com and B@example.com afterwards."""
    readings = read(status, answer, "a@example.com", "B@example.com")
    assert words(readings) == expected
    assert [type(reading.error) for reading in readings] == [type(None) if error is None else error]


def test_the_only_recipient_is_the_culprit() -> None:
    """However the bad address is quoted."""
    answer = {"ErrorCode": 300, "Message": "Invalid 'To' address: 'no-at-sign'."}
    assert words(read(422, answer, "a@example.com")) == ["invalid"]


@pytest.mark.parametrize(
    ("code", "help_text"),
    [(10, "MAILESP_POSTMARK_SERVER_TOKEN"), (1101, "template_id"), (1235, "MessageStream")],
)
def test_errors_say_what_to_do_and_keep_what_postmark_said(code: int, help_text: str) -> None:
    """The text names code and remedy; Postmark's words, which may quote addresses, stay apart."""
    (reading,) = read(422, {"ErrorCode": code, "Message": "Said a@example.com"})
    error = reading.error
    assert isinstance(error, APIError)
    assert f"code {code}" in str(error)
    assert help_text in str(error)
    assert "a@example.com" not in str(error) + repr(error)
    assert (error.code, error.message, error.status) == (str(code), "Said a@example.com", 422)


BATCH_ANSWERS = {
    "all accepted": Case(
        200,
        [OK, OK | {"MessageID": "id-2"}, OK | {"MessageID": "id-3"}],
        ["sent id-1", "sent id-2", "sent id-3"],
    ),
    "by index, never by To": Case(
        200,
        [
            OK | {"To": "c@example.com"},
            {"ErrorCode": 406, "Message": TRIED.format("b@example.com")},
            OK | {"To": "a@example.com", "MessageID": "id-3"},
        ],
        ["sent id-1", "rejected", "sent id-3"],
    ),
    "each kind of failure": Case(
        200,
        [
            {"ErrorCode": 300, "Message": "Invalid 'To' address: 'a'."},
            {"ErrorCode": 300, "Message": "Zero recipients specified"},
            {"ErrorCode": 101, "Message": "Oops"},
        ],
        ["invalid", "failed", "unknown"],
    ),
    "too few": Case(200, [OK], ["sent id-1", "unknown", "unknown"]),
    "too many": Case(200, [OK, OK, OK, OK], ["unknown", "unknown", "unknown"]),
    "an object": Case(200, OK, ["unknown", "unknown", "unknown"]),
    "odd items": Case(200, [None, 7, OK], ["unknown", "unknown", "sent id-1"]),
    "refused as a whole": Case(
        422, {"ErrorCode": 410, "Message": "Too many"}, ["failed", "failed", "failed"]
    ),
    "refused as a whole for one address": Case(
        422,
        {"ErrorCode": 300, "Message": "Invalid 'To' address: 'b@example.com'."},
        ["failed", "invalid", "failed"],
    ),
    "a bad token": Case(401, {"ErrorCode": 10}, ["failed", "failed", "failed"]),
    "a server error": Case(500, b"", ["unknown", "unknown", "unknown"]),
}


@pytest.mark.parametrize(Case._fields, BATCH_ANSWERS.values(), ids=BATCH_ANSWERS.keys())
def test_an_answer_to_a_batch(status: int, answer: Any, expected: list[str], error: None) -> None:
    """Each copy's own fate, in the order of the request."""
    people = ("a@example.com", "b@example.com", "c@example.com")
    assert words(read(status, answer, *people, many=True)) == expected


# --- sending, over HTTP ----------------------------------------------------------------

Answer = Callable[[HttpRequest], HttpResponse]


def answered(status: int, document: Any) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps(document).encode())


def send(answer: Answer, config: dict[str, Any] | None = None, **fields: Any) -> SendResult:
    """Send a message to a server; return the result, also that of an exception."""
    with EspServer(answer) as server:
        app = Flask(__name__)
        app.config.update(
            MAILESP_ESP="postmark",
            MAILESP_POSTMARK_SERVER_TOKEN=TOKEN,
            MAILESP_POSTMARK_API_URL=server.url,
            **(config or {}),
        )
        mail = MailESP(app)
        with app.app_context():
            try:
                return mail.send(Message(**fields))
            except MailESPError as error:
                return cast(SendResult, error.result)


def ids_for(request: HttpRequest, start: int = 0) -> HttpResponse:
    """Accept every message of a batch; the ids are their places in the mailing."""
    items = json.loads(body_of(request))
    first = int(items[0]["To"].partition("@")[0][1:])
    return answered(200, [OK | {"MessageID": f"id-{first + i}"} for i in range(len(items))])


PEOPLE = [f"p{number}@example.com" for number in range(1100)]
LATER_FAILURES: dict[str, tuple[HttpResponse | None, str, type[MailESPError] | None, set[str]]] = {
    "422": (answered(422, {"ErrorCode": 402, "Message": "?"}), "partial", None, {"sent", "failed"}),
    "401": (answered(401, {"ErrorCode": 10, "Message": "?"}), "partial", None, {"sent", "failed"}),
    "429": (HttpResponse(429), "partial", None, {"sent", "failed"}),
    "500": (HttpResponse(500), "uncertain", SendUncertainError, {"sent", "unknown", "failed"}),
    "reset": (None, "uncertain", SendUncertainError, {"sent", "unknown", "failed"}),
}


@pytest.mark.parametrize("fault", LATER_FAILURES)
def test_no_id_is_lost_when_a_later_chunk_fails(fault: str) -> None:
    """The first 500 are out, with their ids; the result says so whatever comes after."""
    response, outcome, error, statuses = LATER_FAILURES[fault]
    count = 0

    def answer(request: HttpRequest) -> HttpResponse:
        nonlocal count
        count += 1
        if count != 2:
            return ids_for(request)
        if response is None:
            raise ConnectionAbortedError  # the server drops the connection
        return response

    result = send(answer, **(BASE | {"to": PEOPLE}), merge_data={})
    assert result.outcome == outcome
    assert type(result.error) is (error or type(None))
    assert result.status == statuses
    for number, address in enumerate(PEOPLE[:500]):
        assert result.recipients[address].message_id == f"id-{number}"
    assert all(result.recipients[address].message_id is None for address in PEOPLE[500:1000])
    goes_on = fault == "422"  # it was about those messages, not about all that come
    assert count == (3 if goes_on else 2)
    assert (result.recipients[PEOPLE[1050]].status == "sent") is goes_on
    assert [str(item.outcome) for item in result.attempts][:1] == ["accepted"]
    assert len(result.attempts) == count


def test_one_bad_item_does_not_end_a_mailing() -> None:
    """Only what befalls a whole request makes the next one pointless."""

    def answer(request: HttpRequest) -> HttpResponse:
        items = json.loads(ids_for(request).body)
        return answered(200, [{"Message": "OK"}, *items[1:]])

    result = send(answer, **(BASE | {"to": PEOPLE[:501] + PEOPLE[600:601]}), merge_data={})
    assert result.outcome == "uncertain"
    assert result.recipients[PEOPLE[0]].status == "unknown"
    assert result.recipients[PEOPLE[600]].message_id == "id-501"


def test_cc_and_bcc_recipients_of_a_batch_keep_every_id() -> None:
    """They get several copies; their id is the set."""
    result = send(ids_for, **(BASE | {"to": PEOPLE[:3], "cc": "c@example.com"}), merge_data={})
    assert result.recipients["c@example.com"].message_id == frozenset({"id-0", "id-1", "id-2"})
    assert result.recipients[PEOPLE[1]].message_id == "id-1"
    assert result.message_id == {"id-0", "id-1", "id-2"}


def test_a_batch_in_which_some_failed_is_partial() -> None:
    """It returns all accepted ids and says which failed."""

    def answer(request: HttpRequest) -> HttpResponse:
        items = json.loads(ids_for(request).body)
        items[1] = {"ErrorCode": 300, "Message": "Invalid 'To' address: 'p1@example.com'."}
        return answered(200, items)

    result = send(answer, **(BASE | {"to": PEOPLE[:3]}), merge_data={})
    assert (result.outcome, result.error) == ("partial", None)
    assert [str(entry.status) for entry in result.recipients.values()] == [
        "sent",
        "invalid",
        "sent",
    ]


def test_a_batch_in_which_all_failed_raises() -> None:
    """HTTP 200 with no accepted item is no success."""

    def answer(request: HttpRequest) -> HttpResponse:
        return answered(200, [{"ErrorCode": 406, "Message": TRIED.format(p)} for p in PEOPLE[:2]])

    result = send(answer, **(BASE | {"to": PEOPLE[:2]}), merge_data={})
    assert isinstance(result.error, RecipientsRefusedError)
    assert result.outcome == "refused"


def test_one_bad_address_fails_the_message_for_everyone() -> None:
    """Postmark sends nothing at all then; the good addresses must not look delivered."""

    def answer(request: HttpRequest) -> HttpResponse:
        said = "Invalid 'To' address: 'bad@example.com'."
        return answered(422, {"ErrorCode": 300, "Message": said})

    people: dict[str, Any] = {
        "to": ["good@example.com", "bad@example.com"],
        "bcc": "also@example.com",
    }
    result = send(answer, **(BASE | people))
    assert isinstance(result.error, RecipientsRefusedError)
    assert {name: str(entry.status) for name, entry in result.recipients.items()} == {
        "good@example.com": "failed",
        "bad@example.com": "invalid",
        "also@example.com": "failed",
    }


MISUSES: dict[str, dict[str, Any]] = {
    "Own subject with a template": {"template_id": 1, "body": None},
    "Own body with a template": {"template_id": 1, "subject": ""},
    "Merge data in the message's own text": {"merge_data": {"bea@example.com": {"a": 1}}},
    "Several tags": {"tags": ["a", "b"]},
    "Scheduled sending": {"send_at": 4_000_000_000},
    "Envelope sender": {"envelope_sender": "b@example.org"},
    "Non-ASCII mailboxes (SMTPUTF8)": {"cc": ["jörg@example.com"]},
}


@pytest.mark.parametrize(("name", "fields"), MISUSES.items(), ids=MISUSES.keys())
def test_what_postmark_refuses_or_loses_is_refused_before_sending(
    name: str, fields: dict[str, Any]
) -> None:
    """Merge data without a template, for one, would vanish silently."""
    with EspServer(lambda request: answered(200, OK)) as server:
        app = Flask(__name__)
        app.config.update(
            MAILESP_ESP="postmark",
            MAILESP_POSTMARK_SERVER_TOKEN=TOKEN,
            MAILESP_POSTMARK_API_URL=server.url,
        )
        mail = MailESP(app)
        with app.app_context(), pytest.raises(UnsupportedFeatureError) as caught:
            mail.send(Message(**(BASE | fields)))
        assert server.connections == 0
    assert name in str(caught.value)


def test_subject_and_body_are_dropped_beside_a_template_where_ignoring_is_allowed() -> None:
    """What is sent then is the template alone."""
    requests = []

    def answer(request: HttpRequest) -> HttpResponse:
        requests.append(request)
        return answered(200, OK)

    config = {"MAILESP_IGNORE_UNSUPPORTED_FEATURES": True}
    send(answer, config, **BASE, template_id=5, tags=["a", "b"])
    expected = JSON_OF_TEMPLATE | {"TemplateId": 5, "Tag": "a"}
    assert json.loads(body_of(requests[0])) == expected


# --- webhooks: authentication ----------------------------------------------------------


def hook(body: Any, authorization: str | None = None) -> WebhookRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {} if authorization is None else {"Authorization": authorization}
    return WebhookRequest(headers, data)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)


def test_webhooks_bring_basic_credentials() -> None:
    """Any of the configured ones, so that they can be rotated."""
    settings = Settings({"WEBHOOK_SECRET": (b"old:one", b"new:two")})
    for pair in ("old:one", "new:two"):
        postmark.verify(hook({}, basic(pair)), settings, NOW)
    for wrong in (None, "", basic("old:two"), basic("old"), "Bearer x", "Basic !", "Basic ü"):
        with pytest.raises(WebhookRejected):
            postmark.verify(hook({}, wrong), settings, NOW)


# --- webhooks: tracking ----------------------------------------------------------------

MESSAGE_ID = "8b1f6f0e-2f7c-4a0d-9d39-51d2f7b7c0aa"


def parsed(raw: Any) -> TrackingEvent | InboundEvent:
    (event,) = postmark.parse(hook(raw), SETTINGS)
    return event


def tracked(raw: Any) -> TrackingEvent:
    event = parsed(raw)
    assert isinstance(event, TrackingEvent)
    return event


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type,misc]


BOUNCE = {
    "RecordType": "Bounce",
    "MessageStream": "outbound",
    "ID": 4482910377,
    "Type": "HardBounce",
    "TypeCode": 1,
    "Name": "Hard bounce",
    "Tag": "receipt",
    "MessageID": MESSAGE_ID,
    "Metadata": {"order": "17"},
    "ServerID": 31,
    "Description": "The mailbox does not exist.",
    "Details": "smtp;550 5.1.1 unknown",
    "Email": "gone@example.net",
    "From": "shop@example.org",
    "BouncedAt": "2026-11-21T09:16:40.0092213Z",
    "DumpAvailable": True,
    "Inactive": True,
    "CanActivate": True,
    "Subject": "Receipt 17",
}
OPENED = {
    "RecordType": "Open",
    "MessageStream": "outbound",
    "FirstOpen": True,
    "Recipient": "bea@example.com",
    "MessageID": MESSAGE_ID,
    "ReceivedAt": "2026-11-21T10:31:55.2001177+01:00",
    "Tag": "",
    "Platform": "Desktop",
    "UserAgent": "Mozilla/5.0 Thunderbird/140.4",
    "ReadSeconds": 0,
    "Client": {"Name": "Thunderbird 140", "Company": "Mozilla", "Family": "Thunderbird"},
    "OS": {"Name": "Linux", "Company": "", "Family": "Linux"},
    "Geo": {},
    "Metadata": {},
}
CLICKED = {
    "RecordType": "Click",
    "MessageStream": "outbound",
    "ClickLocation": "HTML",
    "OriginalLink": "https://shop.example.org/orders/17?utm=mail",
    "Recipient": "bea@example.com",
    "MessageID": MESSAGE_ID,
    "ReceivedAt": "2026-11-21T09:32:10.77Z",
    "UserAgent": "Mozilla/5.0 Firefox/141.0",
    "Metadata": {"order": "17"},
}
CHANGED = {
    "RecordType": "SubscriptionChange",
    "MessageID": MESSAGE_ID,
    "ServerID": 31,
    "MessageStream": "news",
    "ChangedAt": "2026-11-21T12:00:01Z",
    "Recipient": "dan@example.com",
    "Origin": "Recipient",
    "SuppressSending": True,
    "SuppressionReason": "ManualSuppression",
    "Tag": None,
    "Metadata": {},
}
DELIVERED = {
    "RecordType": "Delivery",
    "ServerID": 31,
    "MessageStream": "outbound",
    "MessageID": MESSAGE_ID,
    "Recipient": "bea@example.com",
    "Tag": "receipt",
    "DeliveredAt": "2026-11-21T09:14:09.1180042Z",
    "Details": "smtp;250 2.0.0 queued",
    "Metadata": {"order": "17", "tenant": "eu-3"},
}
NOTHING: dict[str, Any] = {
    "event_id": None,
    "message_id": MESSAGE_ID,
    "reject_reason": None,
    "description": None,
    "mta_response": None,
    "tags": [],
    "metadata": {},
    "click_url": None,
    "user_agent": None,
}
EVENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Delivery": (
        DELIVERED,
        {
            "event_type": "delivered",
            "timestamp": moment(2026, 11, 21, 9, 14, 9, 118004),
            "recipient": "bea@example.com",
            "mta_response": "smtp;250 2.0.0 queued",
            "tags": ["receipt"],
            "metadata": {"order": "17", "tenant": "eu-3"},
        },
    ),
    "Bounce": (
        BOUNCE,
        {
            "event_type": "bounced",
            "timestamp": moment(2026, 11, 21, 9, 16, 40, 9221),
            "event_id": "4482910377",
            "recipient": "gone@example.net",
            "reject_reason": "bounced",
            "description": "The mailbox does not exist.",
            "mta_response": "smtp;550 5.1.1 unknown",
            "tags": ["receipt"],
            "metadata": {"order": "17"},
        },
    ),
    "SpamComplaint": (
        BOUNCE
        | {"RecordType": "SpamComplaint", "Type": "SpamComplaint", "ID": 9, "From": "", "Tag": ""},
        {
            "event_type": "complained",
            "timestamp": moment(2026, 11, 21, 9, 16, 40, 9221),
            "event_id": "9",
            "recipient": "gone@example.net",
            "reject_reason": "spam",
            "description": "The mailbox does not exist.",
            "mta_response": "smtp;550 5.1.1 unknown",
            "metadata": {"order": "17"},
        },
    ),
    "Open": (
        OPENED,
        {
            "event_type": "opened",
            "timestamp": moment(2026, 11, 21, 9, 31, 55, 200117),
            "recipient": "bea@example.com",
            "user_agent": "Mozilla/5.0 Thunderbird/140.4",
        },
    ),
    "Click": (
        CLICKED,
        {
            "event_type": "clicked",
            "timestamp": moment(2026, 11, 21, 9, 32, 10, 770000),
            "recipient": "bea@example.com",
            "click_url": "https://shop.example.org/orders/17?utm=mail",
            "user_agent": "Mozilla/5.0 Firefox/141.0",
            "metadata": {"order": "17"},
        },
    ),
    "an unsubscribe": (
        CHANGED,
        {
            "event_type": "unsubscribed",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "recipient": "dan@example.com",
            "reject_reason": "unsubscribed",
        },
    ),
    "an unsubscribe by the customer": (
        CHANGED | {"MessageID": None, "Origin": "Customer"},
        {
            "event_type": "unsubscribed",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "message_id": None,
            "recipient": "dan@example.com",
            "reject_reason": "unsubscribed",
        },
    ),
    "a reactivation": (
        CHANGED | {"MessageID": None, "SuppressSending": False, "SuppressionReason": None},
        {
            "event_type": "subscribed",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "message_id": None,
            "recipient": "dan@example.com",
        },
    ),
    "a suppression after a bounce": (
        CHANGED | {"SuppressionReason": "HardBounce"},
        {
            "event_type": "bounced",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "recipient": "dan@example.com",
            "reject_reason": "bounced",
        },
    ),
    "a suppression after a complaint": (
        CHANGED | {"SuppressionReason": "SpamComplaint"},
        {
            "event_type": "complained",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "recipient": "dan@example.com",
            "reject_reason": "spam",
        },
    ),
    "a suppression of unknown reason": (
        {key: value for key, value in CHANGED.items() if key != "SuppressionReason"},
        {
            "event_type": "unknown",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "recipient": "dan@example.com",
        },
    ),
    "a change of unknown direction": (
        CHANGED | {"SuppressSending": None, "SuppressionReason": None},
        {
            "event_type": "unknown",
            "timestamp": moment(2026, 11, 21, 12, 0, 1),
            "recipient": "dan@example.com",
        },
    ),
    "a new kind of event": (
        {"RecordType": "Teleported", "MessageID": MESSAGE_ID, "Recipient": "a@example.com"},
        {"event_type": "unknown", "timestamp": None, "recipient": "a@example.com"},
    ),
    "a probe": (
        {},
        {"event_type": "unknown", "message_id": None, "recipient": None, "timestamp": None},
    ),
}


@pytest.mark.parametrize(("raw", "expected"), EVENTS.values(), ids=EVENTS.keys())
def test_a_webhook_becomes_an_event(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    """The whole event, with the payload itself for what the event has no field for."""
    event = tracked(raw)
    for name, value in {**NOTHING, **expected}.items():
        assert getattr(event, name) == value, name
    assert event.esp_event == raw


BOUNCES = {
    "HardBounce": ("bounced", "bounced"),
    "Transient": ("deferred", None),
    "Unsubscribe": ("unsubscribed", "unsubscribed"),
    "Subscribe": ("subscribed", None),
    "AutoResponder": ("autoresponded", None),
    "AddressChange": ("autoresponded", "other"),
    "DnsError": ("deferred", None),
    "SpamNotification": ("complained", "spam"),
    "OpenRelayTest": ("deferred", None),
    "Unknown": ("unknown", None),
    "SoftBounce": ("bounced", "bounced"),
    "VirusNotification": ("bounced", "other"),
    "ChallengeVerification": ("autoresponded", None),
    "BadEmailAddress": ("rejected", "invalid"),
    "SpamComplaint": ("complained", "spam"),
    "ManuallyDeactivated": ("rejected", "blocked"),
    "Unconfirmed": ("rejected", "other"),
    "Blocked": ("rejected", "blocked"),
    "SMTPApiError": ("failed", "other"),
    "InboundError": ("inbound_failed", None),
    "DMARCPolicy": ("rejected", "blocked"),
    "TemplateRenderingFailed": ("failed", "other"),
    "BrandNewType": ("unknown", None),
    "": ("unknown", None),
}


@pytest.mark.parametrize(("kind", "expected"), BOUNCES.items())
def test_every_bounce_type_has_its_meaning(kind: str, expected: tuple[str, str | None]) -> None:
    """Apps must not suppress an address that Postmark has not given up on."""
    event = tracked(BOUNCE | {"Type": kind})
    assert (event.event_type, event.reject_reason) == expected


TIMES = {
    "2026-11-21T09:14:09.1180042Z": moment(2026, 11, 21, 9, 14, 9, 118004),
    "2026-11-21T04:14:09.1180042-05:00": moment(2026, 11, 21, 9, 14, 9, 118004),
    "2026-11-21T09:14:09Z": moment(2026, 11, 21, 9, 14, 9),
    "2026-11-21T09:14:09.5Z": moment(2026, 11, 21, 9, 14, 9, 500000),
    "2026-11-21T09:14:09": moment(2026, 11, 21, 9, 14, 9),
    "yesterday": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), TIMES.items())
def test_times_are_aware_and_keep_their_fractions(text: str, expected: datetime | None) -> None:
    """Seven digits and any offset; nonsense is None."""
    assert tracked(DELIVERED | {"DeliveredAt": text}).timestamp == expected


def without(raw: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in names}


DISTINCT: list[dict[str, Any]] = [
    DELIVERED,
    DELIVERED | {"Recipient": "other@example.com"},
    DELIVERED | {"MessageID": "other"},
    DELIVERED | {"DeliveredAt": "2026-11-21T09:14:09.1180043Z"},
    BOUNCE,
    BOUNCE | {"ID": 1},
    BOUNCE | {"RecordType": "SpamComplaint"},
    without(BOUNCE, "ID"),
    OPENED,
    OPENED | {"ReceivedAt": "2026-11-21T10:31:56+01:00"},
    CLICKED,
    CLICKED | {"OriginalLink": "https://shop.example.org/other"},
    CHANGED,
    CHANGED | {"Recipient": "other@example.com"},
    without(DELIVERED, "DeliveredAt"),
    without(DELIVERED, "DeliveredAt", "Tag"),
    {"RecordType": "Teleported", "n": 1},
    {"RecordType": "Teleported", "n": 2},
    {},
]


def test_keys_are_distinct_for_distinct_events() -> None:
    """Clicks on different links, and kinds of events unknown today, included."""
    keys = [tracked(raw).key for raw in DISTINCT]
    assert len(set(keys)) == len(DISTINCT)


@pytest.mark.parametrize("raw", [DELIVERED, BOUNCE, CLICKED, {"RecordType": "Teleported"}])
def test_a_retry_has_the_key_of_the_first_attempt(raw: dict[str, Any]) -> None:
    """What a receiver does with an event twice, it can do once."""
    assert tracked(raw).key == tracked(dict(raw)).key


def test_an_id_is_the_key_whatever_else_changes() -> None:
    """A bounce whose diagnostics are refined later is still that bounce."""
    assert tracked(BOUNCE).key == tracked(BOUNCE | {"Details": "more", "CanActivate": False}).key


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_unknown_with_its_raw_data(body: bytes) -> None:
    """Nothing that arrived is lost."""
    event = tracked(body)
    assert event.event_type == "unknown"
    assert event.esp_event == body
    assert event.key != tracked(body + b" ").key


# --- webhooks: inbound -----------------------------------------------------------------

INBOUND: dict[str, Any] = {
    "FromName": "Ann Omega",
    "MessageStream": "inbound",
    "From": "ann@example.com",
    "FromFull": {"Email": "ann@example.com", "Name": "Ann Omega", "MailboxHash": ""},
    "To": '"Help Desk" <help+7@in.example.org>',
    "ToFull": [{"Email": "help+7@in.example.org", "Name": "Help Desk", "MailboxHash": "7"}],
    "Cc": "carl@example.net",
    "CcFull": [{"Email": "carl@example.net", "Name": "", "MailboxHash": ""}],
    "Bcc": "",
    "BccFull": [{"Email": "blind@in.example.org", "Name": "", "MailboxHash": ""}],
    "OriginalRecipient": "help+7@in.example.org",
    "Subject": "Re: Your order 17",
    "MessageID": "e2a0f9c6-10f7-4ad7-8f54-6f2b9f1d0c44",
    "ReplyTo": "Desk <desk@example.com>",
    "MailboxHash": "7",
    "Date": "Sat, 21 Nov 2026 10:05:12 +0100",
    "TextBody": "The second box is missing.\n\n> Thanks for your order.\n",
    "HtmlBody": '<p>The second box is missing.</p><img src="cid:pic@x">',
    "StrippedTextReply": "The second box is missing.",
    "Tag": "",
    "Headers": [
        {"Name": "Return-Path", "Value": "<bounce@example.com>"},
        {"Name": "X-Spam-Status", "Value": "No"},
        {"Name": "X-Spam-Score", "Value": "-0.4"},
        {"Name": "Received", "Value": "one"},
        {"Name": "Received", "Value": "two"},
        {"Name": "Message-ID", "Value": "<7731@mail.example.com>"},
        {"Name": "In-Reply-To", "Value": "<17@shop.example.org>"},
    ],
    "Attachments": [
        {"Name": "box.txt", "Content": "Ym94IDI=", "ContentType": "text/plain", "ContentLength": 5},
        {
            "Name": "pic.png",
            "Content": base64.b64encode(PNG).decode(),
            "ContentType": "image/png",
            "ContentLength": len(PNG),
            "ContentID": "pic@x",
        },
    ],
}


def received(raw: dict[str, Any]) -> InboundEvent:
    event = parsed(raw)
    assert isinstance(event, InboundEvent)
    return event


def test_parsed_mail_has_every_field() -> None:
    """Envelope, addresses, bodies, files, spam verdict and stripped reply."""
    event = received(INBOUND)
    mail = event.message
    assert (event.event_id, event.timestamp, event.event_type) == (
        INBOUND["MessageID"],
        None,
        "inbound",
    )
    assert event.esp_event == INBOUND
    assert str(mail.from_email) == "Ann Omega <ann@example.com>"
    assert list(map(str, mail.to)) == ["Help Desk <help+7@in.example.org>"]
    assert [item.addr_spec for item in mail.cc] == ["carl@example.net"]
    assert [item.addr_spec for item in mail.bcc] == ["blind@in.example.org"]
    assert list(map(str, mail.reply_to)) == ["Desk <desk@example.com>"]
    assert mail.subject == "Re: Your order 17"
    assert mail.date == datetime(2026, 11, 21, 10, 5, 12, tzinfo=timezone(timedelta(hours=1)))
    assert (mail.text, mail.html) == (INBOUND["TextBody"], INBOUND["HtmlBody"])
    assert mail.stripped_text == "The second box is missing."
    assert mail.envelope_sender == "bounce@example.com"
    assert mail.envelope_recipient == "help+7@in.example.org"
    assert (mail.spam_detected, mail.spam_score) == (False, -0.4)
    assert mail.message_id == "7731@mail.example.com"
    assert mail.in_reply_to == "17@shop.example.org"
    assert mail.headers.get_all("Received") == ["one", "two"]
    assert mail.headers["Subject"] == "Re: Your order 17"
    assert [(file.filename, file.data) for file in mail.attachments] == [("box.txt", b"box 2")]
    assert mail.inlines["pic@x"].data == PNG
    assert mail.raw is None


def test_raw_mail_is_read_from_its_source() -> None:
    """The exact MIME counts; envelope, blind copies and verdict come from beside it."""
    source = (
        "From: Real <real@example.com>\r\nTo: help@in.example.org\r\nSubject: Raw\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n"
    )
    mail = received(INBOUND | {"RawEmail": source}).message
    assert mail.raw == source.encode()
    assert (str(mail.from_email), mail.subject) == ("Real <real@example.com>", "Raw")
    assert mail.text == "Grüße\n"
    assert [item.addr_spec for item in mail.bcc] == ["blind@in.example.org"]
    assert mail.envelope_sender == "bounce@example.com"
    assert mail.envelope_recipient == "help+7@in.example.org"
    assert (mail.spam_detected, mail.spam_score) == (False, -0.4)
    assert mail.stripped_text == "The second box is missing."
    assert mail.attachments == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([{"Name": "Return-Path", "Value": "<a@example.com>"}], "a@example.com"),
        ([{"Name": "return-path", "Value": "<>"}], ""),
        ([{"Name": "X", "Value": "y"}, {"Name": "Return-Path", "Value": "<f@example.com>"}], None),
        ([], None),
    ],
)
def test_the_envelope_sender_is_the_first_header_only(
    headers: list[dict[str, str]], expected: str | None
) -> None:
    """A Return-Path further down was written by whoever sent the mail."""
    assert received(INBOUND | {"Headers": headers}).message.envelope_sender == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("Yes", True), ("No, score=1", False), ("maybe", None), ("", None)]
)
def test_the_spam_verdict_is_yes_no_or_unknown(value: str, expected: bool | None) -> None:
    """It comes as a header; without one there is none."""
    headers = [{"Name": "X-Spam-Status", "Value": value}]
    assert received(INBOUND | {"Headers": headers}).message.spam_detected is expected


def test_the_consoles_test_button_sends_data_for_content() -> None:
    """Its attachment is one all the same."""
    item = {"Name": "t.txt", "Data": "dGVzdA==", "ContentType": "text/plain"}
    (file,) = received(INBOUND | {"Attachments": [item]}).message.attachments
    assert (file.filename, file.data) == ("t.txt", b"test")


def test_old_forms_of_the_address_fields_are_enough() -> None:
    """Without the ...Full fields the header texts are read."""
    mail = received(without(INBOUND, "FromFull", "ToFull", "CcFull", "BccFull")).message
    assert str(mail.from_email) == "ann@example.com"
    assert [item.addr_spec for item in mail.to] == ["help+7@in.example.org"]
    assert [item.addr_spec for item in mail.cc] == ["carl@example.net"]
    assert mail.headers["From"] == "ann@example.com"


def test_inbound_mail_is_identified_by_its_message_id() -> None:
    """A retry has the same key; without an id the bytes tell."""
    assert received(INBOUND).key == received(INBOUND | {"Tag": "again"}).key
    nameless = without(INBOUND, "MessageID")
    assert received(nameless).key == received(dict(nameless)).key
    assert received(nameless).key != received(nameless | {"Tag": "again"}).key


def test_a_bounce_without_its_type_is_not_taken_for_mail() -> None:
    """It has a From too; inbound mail is told by fields that only mail has."""
    assert tracked(without(BOUNCE, "RecordType")).event_type == "unknown"


def test_a_record_type_is_never_mail() -> None:
    """Whatever else an event of the future may hold."""
    assert tracked(DELIVERED | {"TextBody": "x", "FromFull": {}}).event_type == "delivered"


def test_part_and_call_show_no_recipients() -> None:
    """They may end up in a log."""
    call = call_for(**BASE)
    assert "bea@" not in repr(call) + repr(Part(call.parts[0].recipients))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (422, {"ErrorCode": 101, "Message": "Internal error."}),
        (200, {"ErrorCode": 406.5, "MessageID": "5f0d7a52", "Message": "?"}),
        (200, {"ErrorCode": "boom", "MessageID": "5f0d7a52", "Message": "?"}),
    ],
)
def test_what_an_odd_code_means_nobody_knows(status: int, answer: dict[str, Any]) -> None:
    """An internal error, or a code that is no number, says neither yes nor no."""
    [reading] = read(status, answer)

    assert {entry.status for entry in reading.statuses} == {"unknown"}
    assert isinstance(reading.error, SendUncertainError)
