"""SendGrid's room: what goes over the wire, what its answers mean, what its webhooks say."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
import random
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flask_mailesp import Attachment, MailESP, Message, signals
from flask_mailesp.esp import Call, HttpRequest, HttpResponse, Settings, WebhookRequest
from flask_mailesp.esps import sendgrid
from flask_mailesp.esps.sendgrid import SIGNATURE, TIMESTAMP, SendGridEvent
from flask_mailesp.events import EventType, InboundEvent, RejectReason, TrackingEvent
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    InvalidHeaderError,
    InvalidMessageError,
    MailESPError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from flask_mailesp.prepare import PrepareOptions, prepare
from flask_mailesp.records import replace
from flask_mailesp.results import SendResult
from flask_mailesp.testing import EspContract, EspServer, Kind, body_of, read_all
from flask_mailesp.wire import Base64

API = "https://api.sendgrid.com/v3"
KEY = "SG.q7Rt2m.canary-8Lz0"
SETTINGS = Settings(
    {
        "API_KEY": KEY,
        "API_URL": API,
        "GENERATE_MESSAGE_ID": True,
        "MERGE_FIELD_FORMAT": None,
        "WEBHOOK_SECRET": None,
    }
)
WITHOUT_IDS = Settings({**SETTINGS, "GENERATE_MESSAGE_ID": False})
BASE: dict[str, Any] = {
    "subject": "Hi",
    "to": "bea@example.com",
    "body": "Text",
    "sender": "me@example.org",
}
TO_BEA: dict[str, Any] = {"to": [{"email": "bea@example.com"}]}
JSON_OF_BASE: dict[str, Any] = {
    "personalizations": [TO_BEA],
    "from": {"email": "me@example.org"},
    "subject": "Hi",
    "content": [{"type": "text/plain", "value": "Text"}],
}
DYNAMIC: dict[str, Any] = {
    "to": "bea@example.com",
    "sender": "me@example.org",
    "template_id": "d-1f0c",
}
LEGACY = DYNAMIC | {"template_id": "0b1c77e2-55aa-4d0e-9f3c-2d6a1b8e7f01"}


def calls_for(settings: Settings = WITHOUT_IDS, /, **fields: Any) -> list[Call]:
    """Build the calls for a message, without ids so that the JSON is known."""
    message = prepare(Message(**fields), {}, PrepareOptions(), "sendgrid")
    return list(sendgrid.build(message, settings))


def call_for(settings: Settings = WITHOUT_IDS, /, **fields: Any) -> Call:
    (call,) = calls_for(settings, **fields)
    return call


def payload_of(call: Call) -> Any:
    return json.loads(body_of(call.request))


def personal(**fields: Any) -> list[dict[str, Any]]:
    """The personalizations that a message is sent with."""
    entries: list[dict[str, Any]] = payload_of(call_for(**fields))["personalizations"]
    return entries


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- building: one message -------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"
AMP = "<html amp4email></html>"
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing more": ({}, {}),
    "a sender's name": (
        {"sender": "Zoë <me@example.org>"},
        {"from": {"email": "me@example.org", "name": "Zoë"}},
    ),
    "names": (
        {"to": ["Ann <a@example.com>", ("Buyer, Bea", "b@example.com")]},
        {
            "personalizations": [
                {
                    "to": [
                        {"email": "a@example.com", "name": "Ann"},
                        {"email": "b@example.com", "name": "Buyer, Bea"},
                    ]
                }
            ]
        },
    ),
    "an international domain": (
        {"to": "a@bücher.example"},
        {"personalizations": [{"to": [{"email": "a@xn--bcher-kva.example"}]}]},
    ),
    "cc and bcc": (
        {"cc": ["c@example.com", "D <d@example.com>"], "bcc": "e@example.com"},
        {
            "personalizations": [
                TO_BEA
                | {
                    "cc": [{"email": "c@example.com"}, {"email": "d@example.com", "name": "D"}],
                    "bcc": [{"email": "e@example.com"}],
                }
            ]
        },
    ),
    "a mailbox in several places": (
        {"cc": ["BEA@example.com", "c@example.com"], "bcc": ["C@example.com", "bea@EXAMPLE.com"]},
        {"personalizations": [TO_BEA | {"cc": [{"email": "c@example.com"}]}]},
    ),
    "one reply-to": (
        {"reply_to": "r@example.com"},
        {"reply_to_list": [{"email": "r@example.com"}]},
    ),
    "several reply-to": (
        {"reply_to": ["r@example.com", "S <s@example.com>"]},
        {"reply_to_list": [{"email": "r@example.com"}, {"email": "s@example.com", "name": "S"}]},
    ),
    "a Reply-To header": (
        {"headers": {"Reply-To": "r@example.com"}},
        {"reply_to_list": [{"email": "r@example.com"}]},
    ),
    "html after text": (
        {"html": "<p>Hi</p>"},
        {
            "content": [
                {"type": "text/plain", "value": "Text"},
                {"type": "text/html", "value": "<p>Hi</p>"},
            ]
        },
    ),
    "html only": (
        {"body": None, "html": "<p>Hi</p>"},
        {"content": [{"type": "text/html", "value": "<p>Hi</p>"}]},
    ),
    "an empty text, which SendGrid refuses": (
        {"body": "", "html": "<p>Hi</p>"},
        {"content": [{"type": "text/html", "value": "<p>Hi</p>"}]},
    ),
    "further forms of the body, last": (
        {
            "alternatives": [
                (AMP, "text/x-amp-html"),
                ("BEGIN:VCALENDAR", "text/calendar; charset=UTF-8"),
            ]
        },
        {
            "content": [
                {"type": "text/plain", "value": "Text"},
                {"type": "text/x-amp-html", "value": AMP},
                {"type": "text/calendar", "value": "BEGIN:VCALENDAR"},
            ]
        },
    ),
    "headers": (
        {"headers": {"X-A": "é", "X-N": 7, "Message-ID": "<1@example.org>"}},
        {"headers": {"X-A": "é", "X-N": "7", "Message-ID": "<1@example.org>"}},
    ),
    "tags, each once": ({"tags": ["a", "b", "a"]}, {"categories": ["a", "b"]}),
    "metadata as strings": (
        {"metadata": {"order": 17, "rate": 1.5, "vip": "yes"}},
        {"custom_args": {"order": "17", "rate": "1.5", "vip": "yes"}},
    ),
    "empty containers": (
        {"metadata": {}, "tags": [], "headers": {}, "cc": [], "merge_global_data": {}},
        {},
    ),
    "click tracking on": (
        {"track_clicks": True},
        {"tracking_settings": {"click_tracking": {"enable": True}}},
    ),
    "both kinds of tracking": (
        {"track_clicks": False, "track_opens": True},
        {
            "tracking_settings": {
                "click_tracking": {"enable": False},
                "open_tracking": {"enable": True},
            }
        },
    ),
    "a time": (
        {"send_at": datetime(2026, 11, 21, 12, 0, 0, 900_000, timezone.utc)},
        {"send_at": 1795262400},
    ),
    "an attachment": (
        {"attachments": [("a.txt", "text/plain", b"Hello")]},
        {
            "attachments": [
                {
                    "content": "SGVsbG8=",
                    "type": "text/plain",
                    "filename": "a.txt",
                    "disposition": "attachment",
                }
            ]
        },
    ),
    "an inline image": (
        {"attachments": [Attachment("l.png", "image/png", PNG, content_id="<logo@x>")]},
        {
            "attachments": [
                {
                    "content": encoded(PNG),
                    "type": "image/png",
                    "filename": "l.png",
                    "disposition": "inline",
                    "content_id": "logo@x",
                }
            ]
        },
    ),
    "an attachment's bare type": (
        {"attachments": [("ä.pdf", 'application/pdf; name="x.pdf"', b"%PDF")]},
        {
            "attachments": [
                {
                    "content": encoded(b"%PDF"),
                    "type": "application/pdf",
                    "filename": "ä.pdf",
                    "disposition": "attachment",
                }
            ]
        },
    ),
    "a legacy template": ({"template_id": "0b1c77e2"}, {"template_id": "0b1c77e2"}),
    "a template by number": ({"template_id": 17}, {"template_id": "17"}),
    "esp_extra": (
        {"esp_extra": {"asm": {"group_id": 7}, "ip_pool_name": "bulk"}},
        {"asm": {"group_id": 7}, "ip_pool_name": "bulk"},
    ),
    "esp_extra, deep": (
        {
            "track_opens": True,
            "metadata": {"order": "A1"},
            "esp_extra": {
                "tracking_settings": {
                    "open_tracking": {"substitution_tag": "%open%"},
                    "ganalytics": {"enable": True},
                },
                "custom_args": {"run": "7"},
            },
        },
        {
            "custom_args": {"order": "A1", "run": "7"},
            "tracking_settings": {
                "open_tracking": {"enable": True, "substitution_tag": "%open%"},
                "ganalytics": {"enable": True},
            },
        },
    ),
    "esp_extra for each personalization": (
        {"esp_extra": {"personalizations": {"subject": "Own", "headers": {"X-A": "1"}}}},
        {"personalizations": [TO_BEA | {"subject": "Own", "headers": {"X-A": "1"}}]},
    ),
    "esp_extra in place of a value": ({"esp_extra": {"subject": "Other"}}, {"subject": "Other"}),
}


@pytest.mark.parametrize(("given_fields", "expected"), FIELDS.values(), ids=FIELDS.keys())
def test_fields_go_to_mail_send(given_fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """A single message is one personalization: exactly these keys, and no null."""
    call = call_for(**(BASE | given_fields))
    assert call.request.method == "POST"
    assert call.request.url == f"{API}/mail/send"
    assert payload_of(call) == JSON_OF_BASE | expected


def test_a_message_without_subject_or_text_has_neither_key() -> None:
    """Empty ones are errors; missing ones may come from a template."""
    assert payload_of(call_for(**DYNAMIC)) == {
        "personalizations": [TO_BEA],
        "from": {"email": "me@example.org"},
        "template_id": "d-1f0c",
    }


def test_the_key_travels_in_a_header_only() -> None:
    """As a bearer token that no repr shows."""
    call = call_for(**BASE)
    assert call.request.headers["Authorization"] == f"Bearer {KEY}"
    assert call.request.headers["Content-Type"] == "application/json"
    assert KEY not in repr(call) + repr(dict(call.request.headers))
    assert KEY.encode() not in body_of(call.request)


def test_a_large_attachment_is_spliced_in() -> None:
    """It is encoded while the body is sent, and is the same JSON."""
    data = bytes(range(256)) * 1000
    call = call_for(**BASE, attachments=[("big.bin", "application/octet-stream", data)])
    assert any(isinstance(item, Base64) for item in getattr(call.request.body, "segments", []))
    assert len(body_of(call.request)) == len(call.request.body)
    assert base64.b64decode(payload_of(call)["attachments"][0]["content"]) == data


# --- building: attachments' charsets ---------------------------------------------------

CHARSETS: dict[str, tuple[Attachment, bytes, bool]] = {
    "text of another charset": (
        Attachment("a.csv", "text/csv", "Přání".encode("iso-8859-2"), charset="iso-8859-2"),
        "Přání".encode(),
        True,
    ),
    "a charset in the type": (
        Attachment("a.csv", "text/csv; charset=ISO-8859-2", "Přání".encode("iso-8859-2")),
        "Přání".encode(),
        True,
    ),
    "str in another charset": (
        Attachment("a.txt", "text/plain", "Přání", charset="utf-16"),
        "Přání".encode(),
        True,
    ),
    "UTF-8": (Attachment("a.txt", "text/plain", "Přání"), "Přání".encode(), False),
    "ASCII": (Attachment("a.txt", "text/plain; charset=us-ascii", b"a"), b"a", False),
    "no charset": (Attachment("a.txt", "text/plain", b"\xe9"), b"\xe9", False),
    "an unknown charset": (
        Attachment("a.txt", "text/plain; charset=klingon", b"\xe9"),
        b"\xe9",
        True,
    ),
    "what is not in its charset": (
        Attachment("a.txt", "text/plain; charset=utf-16", b"\xd8"),
        b"\xd8",
        True,
    ),
    "no text": (
        Attachment("a.bin", "application/x-a; charset=iso-8859-2", b"\xe9"),
        b"\xe9",
        False,
    ),
}


@pytest.mark.parametrize(("item", "data", "warned"), CHARSETS.values(), ids=CHARSETS.keys())
def test_attached_text_travels_as_utf_8(
    item: Attachment, data: bytes, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SendGrid drops the charset or puts another in its place; changed bytes are logged."""
    (sent,) = payload_of(call_for(**BASE, attachments=[item]))["attachments"]
    assert base64.b64decode(sent["content"]) == data
    assert ";" not in sent["type"]
    assert ("charset of attachments" in caplog.text) is warned


# --- building: templates and merge data ------------------------------------------------

MERGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a dynamic template takes any JSON": (
        DYNAMIC | {"merge_global_data": {"name": "Ana", "items": [1, {"n": None}], "vip": True}},
        {"dynamic_template_data": {"name": "Ana", "items": [1, {"n": None}], "vip": True}},
    ),
    "a legacy template takes text": (
        LEGACY | {"merge_global_data": {"-name-": "Ana", "-n-": 7, "-x-": None, "-r-": 1.5}},
        {"substitutions": {"-name-": "Ana", "-n-": "7", "-x-": None, "-r-": "1.5"}},
    ),
    "the message's own text takes text": (
        BASE | {"body": "Hi *name*", "merge_global_data": {"*name*": "Ana"}},
        {"substitutions": {"*name*": "Ana"}},
    ),
    "a format of its own": (
        LEGACY
        | {"merge_global_data": {"name": "Ana"}, "esp_extra": {"merge_field_format": "*|{}|*"}},
        {"substitutions": {"*|name|*": "Ana"}},
    ),
    "a format of braces": (
        LEGACY
        | {"merge_global_data": {"name": "Ana"}, "esp_extra": {"merge_field_format": "{{}}"}},
        {"substitutions": {"{name}": "Ana"}},
    ),
    "a template named in esp_extra": (
        {key: value for key, value in BASE.items() if key != "body"}
        | {"merge_global_data": {"name": "Ana"}, "esp_extra": {"template_id": "d-77"}},
        {"dynamic_template_data": {"name": "Ana"}},
    ),
    "data from esp_extra, over the message's": (
        DYNAMIC
        | {
            "merge_global_data": {"a": 1, "b": 2},
            "esp_extra": {"personalizations": {"dynamic_template_data": {"b": 3}}},
        },
        {"dynamic_template_data": {"a": 1, "b": 3}},
    ),
}


@pytest.mark.parametrize(("fields", "expected"), MERGED.values(), ids=MERGED.keys())
def test_merge_data_travels_as_the_template_wants_it(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    """As JSON to a dynamic template (``d-``), as texts to be replaced anywhere else."""
    payload = payload_of(call_for(**fields))
    assert payload["personalizations"] == [TO_BEA | expected]
    assert "merge_field_format" not in payload


def test_the_format_of_merge_fields_is_a_setting() -> None:
    """``-{}-`` makes ``name`` replace ``-name-``; a dynamic template has names already."""
    settings = Settings({**WITHOUT_IDS, "MERGE_FIELD_FORMAT": "-{}-"})
    (legacy,) = payload_of(call_for(settings, **LEGACY, merge_global_data={"name": "A"}))[
        "personalizations"
    ]
    (dynamic,) = payload_of(call_for(settings, **DYNAMIC, merge_global_data={"name": "A"}))[
        "personalizations"
    ]
    assert legacy["substitutions"] == {"-name-": "A"}
    assert dynamic["dynamic_template_data"] == {"name": "A"}


# --- building: batches -----------------------------------------------------------------


def test_a_batch_is_one_personalization_for_each_to() -> None:
    """Each with its own data over the common data; cc and bcc get every copy."""
    call = call_for(
        **(DYNAMIC | {"to": ["Ann <a@example.com>", "b@example.com"], "cc": "c@example.com"}),
        merge_data={"A@example.com": {"name": "Ann", "shop": "Own"}},
        merge_global_data={"shop": "All"},
        metadata={"run": 1},
        merge_metadata={"b@example.com": {"order": 7}},
        headers={"X-Run": "1"},
        merge_headers={"b@example.com": {"x-run": "2", "X-Own": "b"}},
    )
    assert payload_of(call) == {
        "personalizations": [
            {
                "to": [{"email": "a@example.com", "name": "Ann"}],
                "cc": [{"email": "c@example.com"}],
                "dynamic_template_data": {"shop": "Own", "name": "Ann"},
            },
            {
                "to": [{"email": "b@example.com"}],
                "cc": [{"email": "c@example.com"}],
                "headers": {"X-Run": "2", "X-Own": "b"},
                "custom_args": {"order": "7"},
                "dynamic_template_data": {"shop": "All"},
            },
        ],
        "from": {"email": "me@example.org"},
        "headers": {"X-Run": "1"},
        "custom_args": {"run": "1"},
        "template_id": "d-1f0c",
    }
    assert [[item.addr_spec for item in part.recipients] for part in call.parts] == [
        ["a@example.com", "c@example.com"],
        ["b@example.com", "c@example.com"],
    ]


@pytest.mark.parametrize("name", ["merge_data", "merge_metadata", "merge_headers"])
def test_empty_merge_fields_make_a_batch_too(name: str) -> None:
    """Nobody sees the others, even where there is nothing to merge."""
    entries = personal(**(BASE | {"to": ["a@example.com", "b@example.com"]}), **{name: {}})
    assert entries == [{"to": [{"email": f"{who}@example.com"}]} for who in "ab"]


def test_who_is_in_cc_of_a_batch_and_in_to_gets_each_copy_once() -> None:
    """SendGrid refuses a mailbox that is twice in one personalization, not in two."""
    entries = personal(
        **(BASE | {"to": ["a@example.com", "b@example.com"], "cc": "A@example.com"}), merge_data={}
    )
    assert entries == [
        {"to": [{"email": "a@example.com"}]},
        {"to": [{"email": "b@example.com"}], "cc": [{"email": "A@example.com"}]},
    ]


def crowd(count: int) -> list[str]:
    return [f"p{number}@example.com" for number in range(count)]


@pytest.mark.parametrize(
    ("people", "others", "sizes"),
    [
        (1000, [], [1000]),
        (1001, [], [1000, 1]),
        (2500, [], [1000, 1000, 500]),
        (1000, ["c@example.com"], [500, 500]),
        (700, ["c@example.com", "d@example.com"], [333, 333, 34]),
    ],
)
def test_a_batch_is_cut_at_1000_recipients(
    people: int, others: list[str], sizes: list[int]
) -> None:
    """Counted with every copy's cc and bcc; nobody is lost and the order is kept."""
    calls = calls_for(**(BASE | {"to": crowd(people), "bcc": others}), merge_metadata={})
    assert [len(payload_of(call)["personalizations"]) for call in calls] == sizes
    assert [len(call.parts) for call in calls] == sizes
    sent = [part.recipients[0].addr_spec for call in calls for part in call.parts]
    assert sent == crowd(people)


def test_a_copy_that_alone_exceeds_the_limit_goes_out_alone() -> None:
    """A copy cannot be cut; SendGrid says what it thinks of it."""
    people = BASE | {"to": crowd(2), "cc": [f"c{number}@example.com" for number in range(1001)]}
    assert [len(call.parts) for call in calls_for(**people, merge_data={})] == [1, 1]


def test_a_message_to_many_at_once_is_not_cut() -> None:
    """Its recipients see each other: two messages would be another thing."""
    assert len(calls_for(**(BASE | {"to": crowd(1200)}))) == 1


def test_a_batch_is_cut_at_30_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large merge data: half as many personalizations until it fits."""
    data = {person: {"story": "x" * 1000} for person in crowd(10)}
    monkeypatch.setattr(sendgrid, "MOST_BYTES", 4500)
    calls = calls_for(**(DYNAMIC | {"to": crowd(10)}), merge_data=data)
    assert [len(call.parts) for call in calls] == [2, 3, 2, 3]
    assert all(len(call.request.body) <= 4500 for call in calls)
    sent = [part.recipients[0].addr_spec for call in calls for part in call.parts]
    assert sent == crowd(10)


def test_a_batch_with_too_large_an_attachment_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece would have the attachment: one refusal is enough."""
    monkeypatch.setattr(sendgrid, "MOST_BYTES", 5000)
    fields = BASE | {"to": crowd(4), "attachments": [("a.bin", None, bytes(9000))]}
    assert len(calls_for(**fields, merge_data={})) == 1


# --- building: ids ---------------------------------------------------------------------

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def test_each_copy_has_an_id_of_ours_beside_its_metadata() -> None:
    """It is what events bring back; the call's parts know it too."""
    call = call_for(
        SETTINGS,
        **(BASE | {"to": crowd(3)}),
        merge_metadata={"p1@example.com": {"order": 7}},
    )
    arguments = [entry["custom_args"] for entry in payload_of(call)["personalizations"]]
    ids = [item["mailesp_id"] for item in arguments]
    assert ids == [part.id for part in call.parts]
    assert len(set(ids)) == 3
    assert all(map(UUID.fullmatch, ids))
    assert arguments[1] == {"order": "7", "mailesp_id": ids[1]}


def test_but_for_the_ids_a_message_is_always_built_the_same() -> None:
    """Nothing else is random."""
    fields = BASE | {"to": crowd(2), "merge_data": {}, "metadata": {"a": 1}}
    bodies = [body_of(call_for(SETTINGS, **fields).request).decode() for _ in range(2)]
    assert bodies[0] != bodies[1]
    assert UUID.sub("", bodies[0]) == UUID.sub("", bodies[1])


def test_an_id_of_the_apps_own_is_reported() -> None:
    """Whoever puts one into esp_extra gets it back."""
    extra = {"personalizations": {"custom_args": {"mailesp_id": "mine"}}}
    call = call_for(SETTINGS, **BASE, esp_extra=extra)
    assert payload_of(call)["personalizations"][0]["custom_args"] == {"mailesp_id": "mine"}
    assert [part.id for part in call.parts] == ["mine"]


# --- building: what cannot be expressed ------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[InvalidMessageError], str]] = {
    **{
        f"the header {name}": (
            BASE | {"headers": {name: "x"}},
            InvalidHeaderError,
            name,
        )
        for name in ("X-SG-ID", "x-sg-eid", "Received", "DKIM-Signature")
    },
    "a Reply-To for one recipient": (
        BASE | {"merge_headers": {"bea@example.com": {"Reply-To": "r@example.com"}}},
        InvalidHeaderError,
        "Reply-To",
    ),
    "a header twice": (
        BASE | {"headers": [("X-A", "1"), ("x-a", "2")]},
        UnsupportedFeatureError,
        "x-a",
    ),
    "metadata that events overwrite": (
        BASE | {"metadata": {"ok": 1, "status": "paid"}},
        UnsupportedFeatureError,
        "status",
    ),
    "metadata named like our id": (
        BASE | {"metadata": {"mailesp_id": "1"}},
        UnsupportedFeatureError,
        "mailesp_id",
    ),
    "metadata of one recipient that events overwrite": (
        BASE | {"merge_metadata": {"bea@example.com": {"nlvx_1": "1"}}},
        UnsupportedFeatureError,
        "nlvx_1",
    ),
    "a text next to a dynamic template": (
        DYNAMIC | {"body": "Hi"},
        UnsupportedFeatureError,
        "Own body with a template",
    ),
    "an alternative next to a dynamic template": (
        DYNAMIC | {"alternatives": [("BEGIN:VCALENDAR", "text/calendar")]},
        UnsupportedFeatureError,
        "Own body with a template",
    ),
    "an invitation's method": (
        BASE | {"alternatives": [("BEGIN:VCALENDAR", "text/calendar; method=REQUEST")]},
        UnsupportedFeatureError,
        "method",
    ),
    "an attached invitation's method": (
        BASE | {"attachments": [("a.ics", "text/calendar; charset=utf-8; method=REQUEST", b"x")]},
        UnsupportedFeatureError,
        "method",
    ),
    "a list in place of a text": (
        BASE | {"merge_global_data": {"items": [1, 2]}},
        SerializationError,
        "items",
    ),
    "a list of personalizations": (
        BASE | {"esp_extra": {"personalizations": [{"to": []}]}},
        InvalidMessageError,
        "personalizations",
    ),
    "recipients by the back door": (
        BASE | {"esp_extra": {"personalizations": {"bcc": [{"email": "x@example.com"}]}}},
        InvalidMessageError,
        "personalizations",
    ),
    "a format without a place for the name": (
        BASE | {"esp_extra": {"merge_field_format": "--"}},
        InvalidMessageError,
        "merge_field_format",
    ),
    "what JSON cannot carry": (
        DYNAMIC | {"merge_global_data": {"when": datetime(2026, 1, 1, tzinfo=timezone.utc)}},
        SerializationError,
        "datetime",
    ),
}


@pytest.mark.parametrize(("fields", "error", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_lost_or_refused_is_an_error_before_sending(
    fields: dict[str, Any], error: type[InvalidMessageError], word: str
) -> None:
    """Each names the culprit, and none of them an address."""
    with pytest.raises(error) as caught:
        calls_for(**fields)
    assert type(caught.value) is error
    assert word in str(caught.value)
    assert "example.com" not in str(caught.value)


def test_of_a_batch_nothing_is_sent_if_one_copy_cannot_be_encoded() -> None:
    """The last of 1,500 is known to be bad before the first is on its way."""
    data = {"p1499@example.com": {"x": object()}}
    with pytest.raises(SerializationError):
        sendgrid.build(
            prepare(
                Message(**(DYNAMIC | {"to": crowd(1500)}), merge_data=data),
                {},
                PrepareOptions(),
                "sendgrid",
            ),
            SETTINGS,
        )


MISUSES: dict[str, dict[str, Any]] = {
    "Cc or Bcc without To": {"to": [], "bcc": "b@example.com"},
    "Envelope sender": {"envelope_sender": "b@example.org"},
    "Non-ASCII mailboxes (SMTPUTF8)": {"cc": ["jörg@example.com"]},
}


@pytest.mark.parametrize(("name", "fields"), MISUSES.items(), ids=MISUSES.keys())
def test_undeclared_features_are_refused_by_name(name: str, fields: dict[str, Any]) -> None:
    result = send(lambda request: TAKEN, **(BASE | fields))
    assert isinstance(result, UnsupportedFeatureError)
    assert name in str(result)


# --- reading the answer ----------------------------------------------------------------

TAKEN = HttpResponse(202, {"X-Message-Id": "w9XbTq4"}, b"")
PEOPLE = ["p0@example.com", "p1@example.com", "p2@example.com"]


def send(answer: Any, config: Mapping[str, Any] | None = None, **fields: Any) -> Any:
    """Send through the whole package; return the result, also that of an error."""
    with EspServer(answer) as server:
        app = Flask(__name__)
        app.config.update(
            MAILESP_ESP="sendgrid",
            MAILESP_SENDGRID_API_KEY=KEY,
            MAILESP_SENDGRID_API_URL=server.url,
            **(config or {}),
        )
        mail = MailESP(app)
        try:
            with app.app_context():
                return mail.send(Message(**fields))
        except UnsupportedFeatureError as error:
            assert server.connections == 0
            return error
        except MailESPError as error:
            assert error.result is not None  # noqa: PT017
            return error.result
        finally:
            app.extensions["mailesp"].transport.close()


def refused(status: int, *errors: dict[str, Any], **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, json.dumps({"errors": list(errors)}).encode())


def error_at(field: str | None, message: str = "Does not contain a valid address.") -> Any:
    return {"message": message, "field": field, "help": None}


def statuses(result: SendResult) -> dict[str, str]:
    return {name: str(entry.status) for name, entry in result.recipients.items()}


def test_an_accepted_message_is_queued_under_our_id() -> None:
    """One copy has one id, whoever its recipients are."""
    seen: list[HttpRequest] = []

    def answer(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return TAKEN

    result = send(answer, **(BASE | {"to": PEOPLE, "cc": "c@example.com"}))
    sent = json.loads(body_of(seen[0]))["personalizations"][0]["custom_args"]["mailesp_id"]
    assert result.message_id == sent
    assert set(statuses(result).values()) == {"queued"}
    assert len(result.recipients) == 4


def test_a_batch_keeps_every_id() -> None:
    """One for each copy; who is in cc gets a set of all."""
    result = send(
        lambda request: TAKEN, **(BASE | {"to": PEOPLE, "cc": "c@example.com"}), merge_data={}
    )
    ids = {result.recipients[person].message_id for person in PEOPLE}
    assert len(ids) == 3
    assert result.recipients["c@example.com"].message_id == ids


def test_a_batch_of_several_requests_keeps_the_ids_of_those_that_were_taken() -> None:
    """What was refused is refused; the rest is on its way, and nothing raises."""
    answers = iter([TAKEN, refused(400, error_at(None, "Bad Request"))])
    result = send(lambda request: next(answers), **(BASE | {"to": crowd(1500)}), merge_data={})
    assert (result.outcome, result.error) == ("partial", None)
    found = [entry for entry in result.recipients.values() if entry.message_id]
    assert len({entry.message_id for entry in found}) == 1000
    assert list(statuses(result).values()) == ["queued"] * 1000 + ["failed"] * 500


def test_without_our_ids_sendgrids_counts() -> None:
    """It is one for the whole request, and the start of the events' ``sg_message_id``."""
    config = {"MAILESP_SENDGRID_GENERATE_MESSAGE_ID": False}
    result = send(lambda request: TAKEN, config, **(BASE | {"to": PEOPLE}), merge_data={})
    assert result.message_id == "w9XbTq4"
    assert set(statuses(result).values()) == {"queued"}


def read(response: HttpResponse, settings: Settings = SETTINGS, **fields: Any) -> Any:
    """Read an answer to a plain message; return its only reading."""
    (reading,) = sendgrid.read(call_for(settings, **(BASE | fields)), response, settings)
    return reading


@pytest.mark.parametrize(
    ("response", "settings", "status"),
    [
        pytest.param(HttpResponse(202, {"x-message-id": "a"}), SETTINGS, "queued", id="both"),
        pytest.param(HttpResponse(202, {"x-message-id": "a"}), WITHOUT_IDS, "queued", id="its"),
        pytest.param(HttpResponse(202), SETTINGS, "queued", id="ours"),
        pytest.param(HttpResponse(202), WITHOUT_IDS, "unknown", id="no id at all"),
        pytest.param(HttpResponse(202, {}, b"\r\n"), SETTINGS, "queued", id="a blank line"),
        pytest.param(HttpResponse(202, {}, b"{}"), SETTINGS, "unknown", id="JSON without an id"),
        pytest.param(
            HttpResponse(202, {"x-message-id": "a"}, b"{}"), SETTINGS, "queued", id="JSON"
        ),
        pytest.param(
            HttpResponse(202, {"x-message-id": "a"}, b"<html>"), SETTINGS, "unknown", id="a page"
        ),
        pytest.param(
            HttpResponse(202, {"x-message-id": "a"}, b"", False), SETTINGS, "unknown", id="cut off"
        ),
        pytest.param(HttpResponse(200, {"x-message-id": "a"}), SETTINGS, "unknown", id="200"),
        pytest.param(HttpResponse(201), SETTINGS, "unknown", id="201"),
        pytest.param(HttpResponse(204), SETTINGS, "unknown", id="204"),
    ],
)
def test_only_202_is_an_acceptance(response: HttpResponse, settings: Settings, status: str) -> None:
    """Any other success comes from somebody else, and so does a page behind 202."""
    reading = read(response, settings)
    assert [str(entry.status) for entry in reading.statuses] == [status]
    assert isinstance(reading.error, SendUncertainError) is (status == "unknown")


SANDBOX = {"mail_settings": {"sandbox_mode": {"enable": True}}}


def test_200_is_an_acceptance_in_sandbox_mode() -> None:
    """Validated and not sent: whoever asks for that knows."""
    reading = read(HttpResponse(200), esp_extra=SANDBOX)
    assert [str(entry.status) for entry in reading.statuses] == ["queued"]
    assert reading.error is None
    assert read(HttpResponse(200), WITHOUT_IDS, esp_extra=SANDBOX).error is None


def test_a_text_about_the_sandbox_does_not_switch_it_on() -> None:
    """What is in a message is not taken for a setting."""
    body = '"sandbox_mode":{"enable":true}'
    assert isinstance(read(HttpResponse(200), body=body).error, SendUncertainError)


REFUSALS: dict[str, tuple[HttpResponse, type[MailESPError], str]] = {
    "400": (
        refused(400, error_at("subject", "The subject is required.")),
        APIError,
        "subject: The subject is required.",
    ),
    "400 about custom arguments": (
        refused(400, error_at(None, "Bad Request")),
        APIError,
        "Bad Request",
    ),
    "several errors": (
        refused(400, error_at("from", "No."), error_at(None, "Nor this.")),
        APIError,
        "from: No.; Nor this.",
    ),
    "401": (
        refused(401, error_at(None, "The provided authorization grant is invalid")),
        AuthenticationError,
        "The provided authorization grant is invalid",
    ),
    "401, out of credits": (
        refused(401, error_at(None, "Maximum credits exceeded")),
        AuthenticationError,
        "Maximum credits exceeded",
    ),
    "403": (
        refused(403, error_at("from", "The from address does not match a verified Sender")),
        AuthenticationError,
        "from: The from address does not match a verified Sender",
    ),
    "413": (HttpResponse(413, {}, b"<html>Request Entity Too Large</html>"), APIError, ""),
    "415": (refused(415), APIError, ""),
    "429": (refused(429, error_at(None, "too many requests")), RateLimitedError, "too many"),
    "500": (refused(500, error_at(None, "?")), SendUncertainError, ""),
    "503": (HttpResponse(503, {}, b"<html>"), SendUncertainError, ""),
    "no object": (HttpResponse(400, {}, b"[1]"), APIError, ""),
    "no list": (HttpResponse(400, {}, b'{"errors": 7}'), APIError, ""),
    "odd errors": (HttpResponse(400, {}, b'{"errors": [7, null, {}, {"field": 1}]}'), APIError, ""),
}


@pytest.mark.parametrize(("response", "error", "said"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_for_the_whole_request(
    response: HttpResponse, error: type[MailESPError], said: str
) -> None:
    """With SendGrid's words, and the place they are about."""
    reading = read(response)
    assert type(reading.error) is error
    assert said in getattr(reading.error, "message", "")
    expected = "unknown" if error is SendUncertainError else "failed"
    assert [str(entry.status) for entry in reading.statuses] == [expected]


@pytest.mark.parametrize("status", [401, 403, 413])
def test_an_error_says_what_to_do(status: int) -> None:
    error = read(HttpResponse(status)).error
    assert sendgrid.HINTS[status] in str(error)


BAD: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "to": (error_at("personalizations.0.to.1.email"), {"p1@example.com": "invalid"}),
    "to, the object": (error_at("personalizations.0.to.0"), {"p0@example.com": "invalid"}),
    "cc": (error_at("personalizations.0.cc.0.email"), {"c@example.com": "invalid"}),
    "bcc": (error_at("personalizations.0.bcc.0.email"), {"d@example.com": "invalid"}),
    "the whole list": (error_at("personalizations.0.to"), {}),
    "nobody there": (error_at("personalizations.0.to.9.email"), {}),
    "no such copy": (error_at("personalizations.7.to.0.email"), {}),
    "something else": (error_at("content.0.value"), {}),
}


@pytest.mark.parametrize(("error", "expected"), BAD.values(), ids=BAD.keys())
def test_one_bad_address_fails_the_message_for_everyone(
    error: dict[str, Any], expected: dict[str, str]
) -> None:
    """SendGrid sends nothing then, and names the place; the others must not look delivered."""
    people: dict[str, Any] = {"to": PEOPLE, "cc": ["c@example.com"], "bcc": ["d@example.com"]}
    result = send(lambda request: refused(400, error), **(BASE | people))
    everyone = dict.fromkeys([*PEOPLE, "c@example.com", "d@example.com"], "failed")
    assert statuses(result) == everyone | expected
    assert type(result.error) is (RecipientsRefusedError if expected else APIError)
    assert result.outcome == "refused"


def test_bad_addresses_of_a_batch_are_found_in_their_copies() -> None:
    """An attachment's data in the request does not hide them."""
    errors = [error_at("personalizations.0.to.0.email"), error_at("personalizations.2.to.0.email")]
    result = send(
        lambda request: refused(400, *errors),
        **(BASE | {"to": PEOPLE, "attachments": [("a.bin", None, bytes(100_000))]}),
        merge_data={},
    )
    assert list(statuses(result).values()) == ["invalid", "failed", "invalid"]


def test_an_error_about_something_else_as_well_blames_nobody() -> None:
    errors = [error_at("personalizations.0.to.0.email"), error_at("subject", "Missing.")]
    result = send(lambda request: refused(400, *errors), **BASE)
    assert type(result.error) is APIError
    assert statuses(result) == {"bea@example.com": "failed"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"x-ratelimit-reset": "1795262417", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 17.0),
        ({"x-ratelimit-reset": "1795262390", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"x-ratelimit-reset": "1e30"}, None),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "1795262417", "retry-after": "3"}, 3.0),
    ],
)
def test_the_reset_of_the_rate_limit_is_the_time_to_wait(
    headers: dict[str, str], expected: float | None
) -> None:
    """It is a moment in Unix seconds, measured by SendGrid's own clock."""
    error = read(HttpResponse(429, headers, b"{}")).error
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == expected


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"personalizations":7', b"\xff" * 9])
def test_reading_is_total_whatever_was_sent(body: bytes) -> None:
    """A call that this room did not build is read, too."""
    call = call_for(**BASE)
    call = replace(call, request=replace(call.request, body=body))
    (reading,) = sendgrid.read(
        call, refused(400, error_at("personalizations.0.to.0.email")), SETTINGS
    )
    assert type(reading.error) is APIError


# --- settings --------------------------------------------------------------------------


@cache
def private_key(name: str = "tracking") -> ec.EllipticCurvePrivateKey:
    """A key pair for each name, the same throughout the tests."""
    number = int.from_bytes(sha256(name.encode()).digest(), "big") >> 1
    return ec.derive_private_key(number, ec.SECP256R1())


def spki(key: Any) -> str:
    return encoded(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return text.decode()


PUBLIC, INBOUND_PUBLIC = spki(private_key()), spki(private_key("inbound"))


def app_with(**settings: Any) -> Flask:
    app = Flask("shop")
    app.config["MAILESP"] = {"ESP": "sendgrid", "SENDGRID_API_KEY": KEY} | {
        f"SENDGRID_{name}": value for name, value in settings.items()
    }
    MailESP(app)
    return app


def settings_of(app: Flask) -> Settings:
    settings: Settings = app.extensions["mailesp"].hook("sendgrid")[1]
    return settings


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        (None, API),
        ("https://api.sendgrid.com", API),
        ("https://api.eu.sendgrid.com/v3/", "https://api.eu.sendgrid.com/v3"),
        ("https://api.eu.sendgrid.com", "https://api.eu.sendgrid.com/v3"),
    ],
)
def test_the_url_of_the_api_is_taken_with_or_without_its_version(
    given_url: str | None, url: str
) -> None:
    """SendGrid's own libraries want it without."""
    assert settings_of(app_with(API_URL=given_url))["API_URL"] == url


@pytest.mark.parametrize(
    "key",
    [
        PUBLIC,
        f" {PUBLIC}\n",
        [PUBLIC],
        [INBOUND_PUBLIC, PUBLIC],
        pem(private_key()),
        pem(private_key()).replace("\n", "\\n"),
        pem(private_key()).encode(),
    ],
    ids=["as shown", "with spaces", "list", "rotation", "PEM", "PEM, escaped", "PEM, bytes"],
)
def test_the_key_is_taken_as_sendgrid_shows_it_or_as_pem(key: Any) -> None:
    """One, or several while they rotate or for several webhooks."""
    settings = settings_of(app_with(WEBHOOK_VERIFICATION_KEY=key))
    sendgrid.verify(signed(b"[]"), settings, NOW)


NOT_KEYS: dict[str, Any] = {
    "a private key": encoded(
        private_key().private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    ),
    "another curve": spki(ec.generate_private_key(ec.SECP384R1())),
    "another algorithm": spki(ed25519.Ed25519PrivateKey.generate()),
    "cut": PUBLIC[:60],
    "nonsense": "certainly not a key",
    "non-ASCII": "klíč",
    "bytes beyond UTF-8": b"\xff",
    "a number": 7,
    "a dict": {"key": PUBLIC},
    "an empty list": [],
    "one bad of two": [PUBLIC, "oops"],
}


@pytest.mark.parametrize("key", NOT_KEYS.values(), ids=NOT_KEYS.keys())
@pytest.mark.parametrize("name", ["WEBHOOK_VERIFICATION_KEY", "INBOUND_VERIFICATION_KEY"])
def test_what_is_no_key_of_p_256_is_refused_at_the_start(name: str, key: Any) -> None:
    """The text names the setting and says where the key is found, and shows nothing of it."""
    with pytest.raises(ConfigurationError, match=f"SENDGRID_{name}.*You will find") as caught:
        app_with(**{name: key})
    assert PUBLIC[:30] not in str(caught.value)


def test_keys_are_loaded_once() -> None:
    """Not once per request, which would cost as much as the check itself."""
    app = app_with(WEBHOOK_VERIFICATION_KEY=PUBLIC)
    keys = settings_of(app)["WEBHOOK_VERIFICATION_KEY"]
    assert all(isinstance(key, ec.EllipticCurvePublicKey) for key in keys)
    assert settings_of(app)["WEBHOOK_VERIFICATION_KEY"] is keys


@pytest.mark.parametrize("value", ["name", "{}{}", 7, ["{}"]])
def test_a_merge_field_format_has_one_place_for_the_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="SENDGRID_MERGE_FIELD_FORMAT"):
        app_with(MERGE_FIELD_FORMAT=value)
    assert settings_of(app_with(MERGE_FIELD_FORMAT="-{}-"))["MERGE_FIELD_FORMAT"] == "-{}-"


def test_without_a_key_nothing_can_be_sent() -> None:
    app = Flask("shop")
    app.config["MAILESP"] = {"ESP": "sendgrid"}
    with pytest.raises(ConfigurationError, match=r"SENDGRID_API_KEY.*API Keys"):
        MailESP(app)


# --- signatures ------------------------------------------------------------------------

NOW = datetime(2026, 10, 9, 10, 0, 30, tzinfo=timezone.utc)
STAMP = str(int(NOW.timestamp()) - 30)


def signature_of(body: bytes, timestamp: str, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Sign as SendGrid does."""
    key = key or private_key()
    return encoded(key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256())))


def signed(body: bytes, timestamp: str = STAMP, name: str = "tracking") -> WebhookRequest:
    headers = {
        "Content-Type": "application/json",
        SIGNATURE: signature_of(body, timestamp, private_key(name)),
        TIMESTAMP: timestamp,
    }
    return WebhookRequest(headers, body)


def known(**settings: Any) -> Settings:
    """Settings with the public keys loaded."""
    loaded = {
        f"{kind}_VERIFICATION_KEY": sendgrid.public_keys("there", "KEY", key)
        for kind, key in (("WEBHOOK", PUBLIC), ("INBOUND", INBOUND_PUBLIC))
    }
    return Settings({**SETTINGS, **loaded, **settings})


KNOWN = known()
VECTOR_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfGmt8IaoLy4fRaE6+UiX/rDaExTVApURWygX2AnbzmE8z1EbctkG8RQI"
    "X3b4X/r2Pwfpj0kv1VYLfQDY53W4HQ=="
)
VECTOR_STAMP = "1791536000"
VECTOR_NOW = datetime.fromtimestamp(1791536000, timezone.utc)
VECTORS = {
    "events": (
        b'[{"email":"ana@example.org","event":"delivered","timestamp":1791536000,'
        b'"sg_event_id":"ZXZ0LTE"}]\r\n',
        "MEYCIQC6h2dM3T/OFJlPbqfO8zpLR6RCT0iy1F+YSu+YSeA5LwIhAOeMiFaLFpyUJQJso3+6Eiml5LQvaHyUNmKI"
        "UbqkDl/Z",
    ),
    "inbound mail": (
        b'--b1\r\nContent-Disposition: form-data; name="email"\r\n\r\nSubject: hi\r\n\r\ncaf\xe9'
        b"\r\n--b1--\r\n",
        "MEUCIAw7e5tOxECAqrtj3FXFQGrFoafD9AvsGHkn/voSQFgAAiEA6ZzXzZEtBqzxrGA2yNkMBqNrwrdQ2Crw40WM"
        "a9bR2hE=",
    ),
}
VECTOR_SETTINGS = known(
    WEBHOOK_VERIFICATION_KEY=sendgrid.public_keys("there", "KEY", VECTOR_KEY),
    INBOUND_VERIFICATION_KEY=sendgrid.public_keys("there", "KEY", VECTOR_KEY),
)
WEBHOOKS = {"tracking": sendgrid.esp.tracking, "inbound": sendgrid.esp.inbound}


def is_authentic(
    request: WebhookRequest, settings: Settings = KNOWN, now: datetime = NOW, kind: str = "tracking"
) -> bool:
    """Tell whether a webhook is accepted; whatever is not must be rejected and nothing else."""
    webhook = WEBHOOKS[kind]
    assert webhook is not None
    try:
        assert webhook.verify(request, settings, now) is None
    except WebhookRejected:
        return False
    return True


@pytest.mark.parametrize("kind", WEBHOOKS)
@pytest.mark.parametrize(("body", "signature"), VECTORS.values(), ids=VECTORS.keys())
def test_known_signatures_are_right(body: bytes, signature: str, kind: str) -> None:
    """The timestamp and the raw body count, its last line break and its 8-bit bytes included."""

    def holds(body: bytes, timestamp: str) -> bool:
        request = WebhookRequest({SIGNATURE: signature, TIMESTAMP: timestamp}, body)
        return is_authentic(request, VECTOR_SETTINGS, VECTOR_NOW, kind)

    assert holds(body, VECTOR_STAMP)
    assert not holds(body[:-2], VECTOR_STAMP)
    assert not holds(body.replace(b"\r\n", b"\n"), VECTOR_STAMP)
    assert not holds(body.replace(b"\xe9", "é".encode()) + b" ", VECTOR_STAMP)
    assert not holds(body, "1791536001")
    assert not holds(body[1:], VECTOR_STAMP + body[:1].decode())


def test_each_webhook_has_its_own_key() -> None:
    """Whoever can sign events cannot sign mail."""
    assert is_authentic(signed(b"[]"), kind="tracking")
    assert not is_authentic(signed(b"[]"), kind="inbound")
    assert is_authentic(signed(b"[]", name="inbound"), kind="inbound")
    assert not is_authentic(signed(b"[]", name="inbound"), kind="tracking")


AGES = [
    ("tracking", timedelta(hours=24), True),
    ("tracking", timedelta(hours=25), True),
    ("tracking", timedelta(hours=25, seconds=1), False),
    ("inbound", timedelta(hours=72), True),
    ("inbound", timedelta(hours=73, seconds=1), False),
    ("tracking", timedelta(minutes=-5), True),
    ("inbound", timedelta(minutes=-5), True),
    ("tracking", timedelta(minutes=-5, seconds=-1), False),
    ("inbound", timedelta(minutes=-5, seconds=-1), False),
]


@pytest.mark.parametrize(("kind", "age", "expected"), AGES)
def test_a_post_may_be_as_old_as_sendgrids_last_retry(
    kind: str, age: timedelta, expected: bool
) -> None:
    """24 hours for events, 3 days for mail; from the future only what clocks differ."""
    request = signed(b"[]", name=kind)
    assert is_authentic(request, now=NOW - timedelta(seconds=30) + age, kind=kind) is expected


BODY = b'[{"event":"delivered","email":"ana@example.org","sg_event_id":"ev1"}]\r\n'
MALFORMED_STAMPS = [
    "",
    "0",
    STAMP[:-1],
    STAMP + "0",
    f" {STAMP}",
    f"{STAMP} ",
    f"{STAMP}\n",
    f"+{STAMP}",
    f"-{STAMP[1:]}",
    f"{STAMP}.0",
    f"{STAMP},{STAMP}",
    STAMP.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
    STAMP.translate({ord("0") + digit: 0x660 + digit for digit in range(10)}),
    f"{STAMP[:5]}_{STAMP[5:]}",
    "1e00000009",
    "0x6ad3c000",
    "9" * 5000,
    "ten digits",
    "\xff" * 10,
    "\x00" * 10,
    "²" * 10,
]


@pytest.mark.parametrize("stamp", MALFORMED_STAMPS, ids=range(len(MALFORMED_STAMPS)))
def test_a_timestamp_is_ten_ascii_digits(stamp: str) -> None:
    """Even where it is what was signed: nothing may slide between it and the body."""
    signature = encoded(private_key().sign(stamp.encode("utf-8") + BODY, ec.ECDSA(hashes.SHA256())))
    assert not is_authentic(WebhookRequest({SIGNATURE: signature, TIMESTAMP: stamp}, BODY))
    assert not is_authentic(WebhookRequest({SIGNATURE: signature}, BODY))


def test_digits_cannot_slide_between_timestamp_and_body() -> None:
    """The two are joined without a separator: the same signature fits any cut."""
    whole = STAMP.encode() + b"12345678901234567890" + BODY
    signature = encoded(private_key().sign(whole, ec.ECDSA(hashes.SHA256())))
    accepted = [
        cut
        for cut in range(31)
        if is_authentic(
            WebhookRequest({SIGNATURE: signature, TIMESTAMP: whole[:cut].decode()}, whole[cut:])
        )
    ]
    assert accepted == [10]


GOOD = signature_of(BODY, STAMP)
MALFORMED_SIGNATURES = [
    "",
    "=",
    "junk",
    "é" * 96,
    "\x00",
    GOOD[:-1],
    GOOD + "=",
    f"{GOOD}\n",
    f" {GOOD}",
    GOOD.rstrip("=") + "!",
    GOOD.replace("+", "-").replace("/", "_") + "-",
    f"{GOOD},{GOOD}",
    f"{GOOD} {GOOD}",
    "A" * 100_000,
    encoded(b""),
    encoded(bytes(64)),
    encoded(b"\x30\x00"),
    encoded(b"\x30\x06\x02\x01\x00\x02\x01\x00"),
    encoded(b"\x30\x06\x02\x01\x01\x02\x01\x01"),
    encoded(b"\x30\x84\xff\xff\xff\xff\x02"),
    encoded(base64.b64decode(GOOD) + b"\x00"),
    base64.b64decode(GOOD).hex(),
]


@pytest.mark.parametrize("text", MALFORMED_SIGNATURES, ids=range(len(MALFORMED_SIGNATURES)))
def test_a_malformed_signature_is_rejected(text: str) -> None:
    """Never an exception of another kind; headers come in Latin-1 from WSGI servers."""
    assert is_authentic(WebhookRequest({SIGNATURE: GOOD, TIMESTAMP: STAMP}, BODY))
    assert not is_authentic(WebhookRequest({SIGNATURE: text, TIMESTAMP: STAMP}, BODY))


def flipped(data: bytes, chance: random.Random) -> bytes:
    position, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
    return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


def mutants(count: int) -> Iterator[tuple[str | None, str | None, bytes]]:
    """Signatures, timestamps and bodies, each triple a little wrong."""
    chance = random.Random(20261121)
    bodies = [BODY, b"[]", b"", EVENTS_BODY, RAW_FORM]
    signatures = [signature_of(body, STAMP) for body in bodies]
    for number in range(count):
        index = number // 8 % len(bodies)
        body, text = bodies[index], signatures[index]
        good = base64.b64decode(text)
        yield [
            (text, STAMP, flipped(body, chance) if body else b"\r\n"),
            (encoded(flipped(good, chance)), STAMP, body),
            (flipped(text.encode(), chance).decode("latin-1"), STAMP, body),
            (text, flipped(STAMP.encode(), chance).decode("latin-1"), body),
            (text, STAMP[: chance.randrange(10)], STAMP.encode() + body),
            (signatures[index - 1], STAMP, body),
            (encoded(good[: chance.randrange(len(good))]), STAMP, body),
            [(None, STAMP, body), (text, None, body), (None, None, body)][number // 8 % 3],
        ][number % 8]


@pytest.mark.parametrize("kind", WEBHOOKS)
def test_of_4000_mutants_none_is_authentic(kind: str) -> None:
    """Flipped bits, slid digits, other encodings, missing parts, another body's signature."""
    settings = known(INBOUND_VERIFICATION_KEY=KNOWN["WEBHOOK_VERIFICATION_KEY"])
    tried = 0
    for signature, stamp, body in mutants(4000):
        found = {SIGNATURE: signature, TIMESTAMP: stamp}
        headers = {name: value for name, value in found.items() if value is not None}
        assert not is_authentic(WebhookRequest(headers, body), settings, kind=kind), headers
        tried += 1
    assert tried == 4000


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + encoded(text.encode())}


def with_headers(request: WebhookRequest, **headers: str) -> WebhookRequest:
    given_headers: Any = request.headers
    return WebhookRequest({**given_headers, **headers}, request.body)


def test_credentials_are_required_besides_the_signature_where_they_are_set() -> None:
    """MAILESP_WEBHOOK_SECRET applies to every ESP, those that sign included."""
    settings = known(WEBHOOK_SECRET=(b"hook:secret",))
    request = signed(BODY)
    assert not is_authentic(request, settings)
    assert not is_authentic(WebhookRequest(basic("hook:secret"), BODY), settings)
    assert not is_authentic(with_headers(request, **basic("hook:wrong")), settings)
    assert is_authentic(with_headers(request, **basic("hook:secret")), settings)


def test_credentials_alone_do_where_no_key_is_set() -> None:
    """Weaker than a signature, but it is authentication."""
    settings = known(WEBHOOK_SECRET=(b"hook:secret",), WEBHOOK_VERIFICATION_KEY=None)
    assert is_authentic(WebhookRequest(basic("hook:secret"), BODY), settings)
    assert not is_authentic(WebhookRequest({}, BODY), settings)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tracking", "WEBHOOK_VERIFICATION_KEY"), ("inbound", "INBOUND_VERIFICATION_KEY")],
)
def test_where_nothing_is_configured_the_error_says_what_to_set(kind: str, name: str) -> None:
    settings = settings_of(app_with())
    with pytest.raises(ConfigurationError, match=f"MAILESP_SENDGRID_{name}.*You will find"):
        is_authentic(signed(BODY), settings, kind=kind)


# --- tracking events -------------------------------------------------------------------

T = 1791536000
COMMON: dict[str, Any] = {
    "email": "ana@example.org",
    "timestamp": T,
    "smtp-id": "<m1@shop.example.com>",
    "sg_message_id": "abc123.recvd-7b9-0",
    "mailesp_id": "u-1",
}


def wire(event: str, number: int, **fields: Any) -> dict[str, Any]:
    """One element of a post."""
    raw = COMMON | {"event": event, "sg_event_id": f"ZXY{number}"} | fields
    return {key: value for key, value in raw.items() if value is not None}


NOTHING: dict[str, Any] = {
    "timestamp": datetime.fromtimestamp(T, timezone.utc),
    "message_id": "u-1",
    "recipient": "ana@example.org",
    "reject_reason": None,
    "description": None,
    "mta_response": None,
    "tags": [],
    "metadata": {},
    "click_url": None,
    "user_agent": None,
}
EVENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "processed": (
        wire("processed", 1, category=["t1", "t2"], order="A1", pool={"name": "p", "id": 7}),
        {
            "event_type": "queued",
            "event_id": "ZXY1",
            "tags": ["t1", "t2"],
            "metadata": {"order": "A1"},
        },
    ),
    "delivered": (
        wire("delivered", 2, response="250 OK", tls=1, ip="192.0.2.9", category="t1", order="A1"),
        {
            "event_type": "delivered",
            "event_id": "ZXY2",
            "mta_response": "250 OK",
            "tags": ["t1"],
            "metadata": {"order": "A1"},
        },
    ),
    "deferred": (
        wire("deferred", 3, response="451 try later", attempt="2", timestamp=T + 3),
        {
            "event_type": "deferred",
            "event_id": "ZXY3",
            "mta_response": "451 try later",
            "timestamp": datetime.fromtimestamp(T + 3, timezone.utc),
        },
    ),
    "bounce": (
        wire(
            "bounce",
            4,
            type="bounce",
            reason="550 5.1.1 unknown",
            status="5.1.1",
            bounce_classification="Invalid Address",
        ),
        {
            "event_type": "bounced",
            "event_id": "ZXY4",
            "reject_reason": "bounced",
            "description": "Invalid Address",
            "mta_response": "550 5.1.1 unknown",
        },
    ),
    "bounce: blocked": (
        wire("bounce", 5, type="blocked", reason="554 blocked", bounce_classification="Reputation"),
        {
            "event_type": "bounced",
            "event_id": "ZXY5",
            "reject_reason": "blocked",
            "description": "Reputation",
            "mta_response": "554 blocked",
        },
    ),
    "bounce: expired": (
        wire("bounce", 6, type="expired", reason="unable to get mx info"),
        {
            "event_type": "bounced",
            "event_id": "ZXY6",
            "reject_reason": "timed_out",
            "mta_response": "unable to get mx info",
        },
    ),
    "bounce of a new type": (
        wire("bounce", 7, type="teleported"),
        {"event_type": "bounced", "event_id": "ZXY7", "reject_reason": "other"},
    ),
    "bounce that came later, without ids": (
        wire("bounce", 8, sg_message_id=None, mailesp_id=None, **{"smtp-id": None}),
        {
            "event_type": "bounced",
            "event_id": "ZXY8",
            "message_id": None,
            "reject_reason": "other",
        },
    ),
    "dropped": (
        wire("dropped", 9, reason="Unsubscribed Address"),
        {
            "event_type": "rejected",
            "event_id": "ZXY9",
            "reject_reason": "unsubscribed",
            "description": "Unsubscribed Address",
        },
    ),
    "open": (
        wire(
            "open",
            10,
            useragent="UA/1",
            ip="192.0.2.7",
            sg_machine_open=False,
            sg_content_type="html",
        ),
        {"event_type": "opened", "event_id": "ZXY10", "user_agent": "UA/1"},
    ),
    "click": (
        wire(
            "click",
            11,
            url="https://example.com/a?b=1&c",
            url_offset={"index": 0, "type": "html"},
            useragent="UA/1",
            ip="192.0.2.7",
        ),
        {
            "event_type": "clicked",
            "event_id": "ZXY11",
            "click_url": "https://example.com/a?b=1&c",
            "user_agent": "UA/1",
        },
    ),
    "spamreport": (
        wire("spamreport", 12),
        {"event_type": "complained", "event_id": "ZXY12", "reject_reason": "spam"},
    ),
    "unsubscribe": (
        wire("unsubscribe", 0, sg_event_id=None),
        {"event_type": "unsubscribed", "event_id": None},
    ),
    "group_unsubscribe": (
        wire(
            "group_unsubscribe",
            0,
            sg_event_id=None,
            sg_message_id=None,
            asm_group_id=7,
            useragent="UA/1",
            ip="192.0.2.7",
            url="https://example.com/u",
        ),
        {
            "event_type": "unsubscribed",
            "event_id": None,
            "click_url": "https://example.com/u",
            "user_agent": "UA/1",
        },
    ),
    "group_resubscribe": (
        wire("group_resubscribe", 15, asm_group_id=7),
        {"event_type": "subscribed", "event_id": "ZXY15"},
    ),
    "account_status_change": (
        {"event": "account_status_change", "sg_event_id": "ac1", "timestamp": T, "type": "closed"},
        {
            "event_type": "unknown",
            "event_id": "ac1",
            "message_id": None,
            "recipient": None,
        },
    ),
    "a new kind of event": (
        wire("teleported", 17),
        {"event_type": "unknown", "event_id": "ZXY17"},
    ),
    "marketing fields": (
        wire(
            "delivered",
            18,
            singlesend_id="s",
            marketing_campaign_id="c",
            nlvx_batch_id="1",
            template_id="d-1",
            mc_stats="x",
            own={"deep": [1]},
        ),
        {"event_type": "delivered", "event_id": "ZXY18", "metadata": {"own": {"deep": [1]}}},
    ),
    "nothing": (
        {},
        {
            "event_type": "unknown",
            "event_id": None,
            "message_id": None,
            "recipient": None,
            "timestamp": None,
        },
    ),
}
EVENTS_BODY = json.dumps([raw for raw, _ in EVENTS.values()]).encode() + b"\r\n"


def posted(body: Any, content_type: str = "application/json") -> list[Any]:
    """Parse a post."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = WebhookRequest({"Content-Type": content_type}, data)
    return list(sendgrid.parse(request, SETTINGS))


def tracked(raw: dict[str, Any]) -> TrackingEvent:
    (event,) = posted([raw])
    assert isinstance(event, TrackingEvent)
    return event


@pytest.mark.parametrize(("raw", "expected"), EVENTS.values(), ids=EVENTS.keys())
def test_an_element_becomes_an_event(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    """The whole event, with the element itself for what the event has no field for."""
    event = tracked(raw)
    for name, value in {**NOTHING, **expected}.items():
        assert getattr(event, name) == value, name
    assert event.esp_event == raw


def test_hundreds_of_events_come_in_one_post() -> None:
    """In order, each on its own, and with a key of its own."""
    raws = [
        wire(kind, number, timestamp=T + number)
        for number in range(500)
        for kind in ("processed", "delivered")
    ]
    events = posted(raws)
    assert [event.esp_event for event in events] == raws
    assert len({event.key for event in events}) == 500  # an id that comes twice is one event


DROPS = {
    "Bounced Address": "bounced",
    "Unsubscribed Address": "unsubscribed",
    "Spam Reporting Address": "spam",
    "Spam Content": "spam",
    "Spam Content (if Spam Checker app is enabled)": "other",
    "Invalid": "invalid",
    "Invalid SMTPAPI header": "other",
    "Recipient List over Package Quota": "other",
    "brand new": "other",
    None: "other",
}


@pytest.mark.parametrize(("reason", "expected"), DROPS.items())
@pytest.mark.parametrize("field", ["reason", "type"])
def test_every_cause_of_a_drop_has_its_meaning(
    field: str, reason: str | None, expected: str
) -> None:
    """It is in ``reason``, sometimes in ``type``."""
    event = tracked(wire("dropped", 1, **{field: reason}))
    assert (event.event_type, event.reject_reason) == ("rejected", expected)
    assert event.description == reason


IDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "ours": ({}, "u-1"),
    "the start of SendGrid's": ({"mailesp_id": None}, "abc123"),
    "SendGrid's without a dot": ({"mailesp_id": None, "sg_message_id": "abc"}, "abc"),
    "the Message-ID": ({"mailesp_id": None, "sg_message_id": None}, "<m1@shop.example.com>"),
    "none": ({"mailesp_id": None, "sg_message_id": ".", "smtp-id": None}, None),
}


@pytest.mark.parametrize(("fields", "expected"), IDS.values(), ids=IDS.keys())
def test_the_message_is_found_by_the_best_id_there_is(
    fields: dict[str, Any], expected: str | None
) -> None:
    """That of the result of sending, whichever way ids were made."""
    assert tracked(wire("delivered", 1, **fields)).message_id == expected


def test_a_message_and_its_events_have_the_same_id() -> None:
    """From what was sent to what comes back."""
    seen: list[Any] = []

    def answer(request: HttpRequest) -> HttpResponse:
        seen.append(json.loads(body_of(request)))
        return TAKEN

    for config in ({}, {"MAILESP_SENDGRID_GENERATE_MESSAGE_ID": False}):
        result = send(answer, config, **BASE, metadata={"order": "A1"})
        arguments = seen[-1].get("custom_args", {}) | seen[-1]["personalizations"][0].get(
            "custom_args", {}
        )
        raw = wire("delivered", 1, mailesp_id=None, sg_message_id="w9XbTq4.recvd-1")
        event = tracked(raw | arguments)
        assert event.message_id == result.message_id
        assert event.metadata == {"order": "A1"}


@pytest.mark.parametrize("stamp", [None, "soon", [], True, 1e300, "1e300", 10**30])
def test_a_time_that_is_none_is_none(stamp: Any) -> None:
    assert tracked(wire("delivered", 1) | {"timestamp": stamp}).timestamp is None


DISTINCT: list[dict[str, Any]] = [
    wire("click", 1),
    wire("click", 2),
    *(
        wire("click", 0, sg_event_id=None) | change
        for change in (
            {},
            {"event": "open"},
            {"email": "b@example.com"},
            {"timestamp": T + 1},
            {"sg_message_id": "x.1"},
            {"mailesp_id": "u-2"},
            {"url": "https://example.com/other"},
            {"attempt": "2"},
            {"asm_group_id": 7},
        )
    ),
    {"event": "teleported", "n": 1},
    {"event": "teleported", "n": 2},
    {},
]


def test_keys_are_distinct_for_distinct_events() -> None:
    """Where SendGrid's id is missing, by all that could tell them apart."""
    assert len({tracked(raw).key for raw in DISTINCT}) == len(DISTINCT)


@pytest.mark.parametrize("raw", DISTINCT, ids=range(len(DISTINCT)))
def test_a_repetition_has_the_key_of_the_first(raw: dict[str, Any]) -> None:
    """In whichever post and order of fields it comes."""
    again = dict(reversed(raw.items()))
    assert tracked(raw).key == posted([{"event": "open"}, again])[1].key


def test_an_id_is_the_key_whatever_else_changes() -> None:
    assert tracked(wire("click", 1)).key == tracked(wire("click", 1, attempt="9")).key


@pytest.mark.parametrize("junk", [None, 7, "x", [], [{}], True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_element_does_not_spoil_the_others(place: int, junk: Any) -> None:
    """It is an unknown event, and is repeated neither with them nor because of them."""
    items: list[Any] = [wire("delivered", 1), wire("open", 2)]
    items.insert(place, junk)
    events = posted(items)
    assert [event.esp_event for event in events] == items
    kinds = [str(event.event_type) for event in events if isinstance(event.esp_event, dict)]
    assert kinds == ["delivered", "opened"]
    assert events[place].event_type == "unknown"
    assert len({event.key for event in events}) == 3


def test_a_single_object_is_an_event_too() -> None:
    """SendGrid posts lists; what is not one is not lost."""
    (event,) = posted(wire("delivered", 1))
    assert event.event_type == "delivered"


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff", b"[" * 100_000, b"[1" + b"9" * 5000]
)
def test_what_is_no_list_of_events_is_unknown_with_its_raw_data(body: bytes) -> None:
    """Nothing that arrived is lost."""
    (event,) = posted(body)
    assert (event.event_type, event.esp_event) == ("unknown", body)
    (other,) = posted(body + b" ")
    assert event.key != other.key


# --- events are read when they are asked for -------------------------------------------


def test_a_field_is_read_once_when_it_is_asked_for() -> None:
    """Nothing is computed for the events that nobody looks at."""
    event = tracked(EVENTS["click"][0])
    assert set(vars(event)) == {"esp_event"}
    assert event.metadata is event.metadata
    assert set(vars(event)) == {"esp_event", "metadata"}


def test_such_an_event_is_a_tracking_event_like_any_other() -> None:
    """Frozen, comparable, picklable, shown without what is private; and it can be changed."""
    raw = EVENTS["delivered"][0]
    event, same = tracked(raw), tracked(dict(raw))
    assert event == same
    assert event != tracked(raw | {"email": "other@example.org"})
    assert pickle.loads(pickle.dumps(event)) == event
    assert "ana@" not in repr(event)
    assert "delivered" in repr(event)
    for changed in (replace(event, event_id="new"), dataclasses.replace(event, event_id="new")):
        assert (changed.event_id, changed.recipient) == ("new", "ana@example.org")
    assert dataclasses.asdict(event)["message_id"] == "u-1"
    with pytest.raises(AttributeError):
        event.recipient = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del event.recipient


def test_every_field_of_a_tracking_event_is_read() -> None:
    """None of them is left at its default by mistake."""
    fields = {item.name for item in dataclasses.fields(TrackingEvent)} - {"esp_event"}
    assert fields <= set(vars(SendGridEvent))


# --- inbound mail ----------------------------------------------------------------------

BOUNDARY = "xYzZY"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def form(*parts: tuple[str, bytes | str] | tuple[str, str, str, bytes]) -> bytes:
    """A form as SendGrid posts it: ``(name, value)``, or ``(name, filename, type, data)``."""
    lines = []
    for part in parts:
        disposition = f'form-data; name="{part[0]}"'
        data = part[-1].encode() if isinstance(part[-1], str) else part[-1]
        kind = ""
        if len(part) == 4:
            disposition += f'; filename="{part[1]}"'
            kind = f"Content-Type: {part[2]}\r\n"
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n{kind}\r\n"
        lines.append(head.encode() + data + b"\r\n")
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def charsets(**names: str) -> tuple[str, str]:
    return "charsets", json.dumps(names)


SOURCE = (
    b"Received: from mx.example.org\r\n"
    b"From: Ana <ana@example.org>\r\n"
    b"To: in@parse.example.com\r\n"
    b"Subject: =?utf-8?q?P=C5=99=C3=A1n=C3=AD?=\r\n"
    b"Message-ID: <77@example.org>\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"\r\n"
    b"caf\xe9\r\n"
)
ENVELOPE = '{"to":["in@parse.example.com"],"from":"bounce@example.org"}'
SPOKEN = (
    ("envelope", ENVELOPE),
    ("to", "in@parse.example.com"),
    ("from", "Ana <ana@example.org>"),
    ("subject", "hi"),
    ("sender_ip", "192.0.2.7"),
    ("SPF", "pass"),
    ("dkim", "{@example.org : pass}"),
    ("spam_score", "0.1"),
    ("spam_report", "Spam detection software…"),
    charsets(to="UTF-8", subject="UTF-8"),
)
RAW_FORM = form(*SPOKEN, ("email", SOURCE))
HEADER_BLOCK = (
    b"Received: from one\r\n"
    b"Received: from two\r\n"
    b"From: =?utf-8?q?Nov=C3=A1k=2C_Ana?= <ana@example.org>\r\n"
    b"To: in@parse.example.com,\r\n second@example.com\r\n"
    b"Cc: carl@example.net\r\n"
    b"Reply-To: desk@example.org\r\n"
    b"Subject: =?utf-8?q?P=C5=99=C3=A1n=C3=AD?=\r\n"
    b"Date: Fri, 09 Oct 2026 12:00:00 +0200\r\n"
    b"Message-ID: <78@example.org>\r\n"
    b"In-Reply-To: <77@example.com>\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n"
)
FILES: tuple[tuple[str, str, str, bytes], ...] = (
    ("attachment1", "a.png", "image/png", PNG),
    ("attachment2", "x.txt", "text/plain; charset=iso-8859-2", "Přání".encode("iso-8859-2")),
    ("attachment3", "b.pdf", "application/pdf", b"%PDF\r\n--b\r\n"),
)
INFO = {
    "attachment1": {
        "filename": "logo.png",
        "name": "logo.png",
        "type": "image/png",
        "content-id": "c1",
    },
    "attachment2": {
        "filename": "../přání.txt",
        "name": "přání.txt",
        "type": "text/plain; charset=iso-8859-2",
    },
    "attachment3": {"filename": "b.pdf", "type": "application/pdf", "content-id": "c3"},
}
PARSED_FORM = form(
    ("headers", HEADER_BLOCK),
    ("dkim", "{@example.org : pass}"),
    ("to", "in@parse.example.com, second@example.com"),
    ("cc", "carl@example.net"),
    ("from", "Novák, Ana <ana@example.org>"),
    ("subject", "Přání"),
    ("text", "Příliš".encode("iso-8859-2")),
    ("html", '<p>Žluťoučký</p><img src="cid:c1">'.encode("windows-1250")),
    ("envelope", ENVELOPE),
    ("attachments", "3"),
    ("attachment-info", json.dumps(INFO)),
    ("content-ids", '{"c1": "attachment1", "c3": "attachment3"}'),
    ("spam_score", "-1.5"),
    charsets(to="UTF-8", subject="UTF-8", cc="UTF-8", text="iso-8859-2", html="windows-1250"),
    *FILES,
)


def received(body: bytes, content_type: str = MULTIPART) -> InboundEvent:
    (event,) = posted(body, content_type)
    assert isinstance(event, InboundEvent)
    read_all(event.message)
    return event


def test_raw_mail_is_read_from_its_bytes() -> None:
    """The exact source, 8-bit bytes and all; envelope and score come from beside it."""
    event = received(RAW_FORM)
    mail = event.message
    assert sha256(mail.raw or b"").digest() == sha256(SOURCE).digest()
    assert (event.event_id, event.timestamp, event.event_type) == (None, None, "inbound")
    assert (str(mail.from_email), mail.subject) == ("Ana <ana@example.org>", "Přání")
    assert mail.text == "café\n"
    assert mail.message_id == "77@example.org"
    assert mail.envelope_sender == "bounce@example.org"
    assert mail.envelope_recipient == "in@parse.example.com"
    assert (mail.spam_score, mail.spam_detected) == (0.1, None)
    assert (mail.stripped_text, mail.stripped_html) == (None, None)
    assert mail.defects == []


@pytest.mark.parametrize(
    "part",
    [("rawEmail", SOURCE), ("email", "mail.eml", "message/rfc822", SOURCE)],
    ids=["rawEmail", "as a file"],
)
def test_raw_mail_is_found_under_either_name(part: Any) -> None:
    """One of Twilio's examples calls it otherwise."""
    assert received(form(*SPOKEN, part)).message.raw == SOURCE


def test_every_field_of_the_form_is_kept() -> None:
    """As text, but for the mail's own bytes: what the event has no attribute for is there."""
    raw = received(RAW_FORM).esp_event
    assert raw["dkim"] == "{@example.org : pass}"
    assert (raw["sender_ip"], raw["SPF"]) == ("192.0.2.7", "pass")
    assert raw["spam_report"] == "Spam detection software…"
    assert raw["email"] == SOURCE
    assert received(PARSED_FORM).esp_event["text"] == "Příliš"


def test_parsed_mail_has_every_field() -> None:
    """Addresses, bodies in their own charsets, files, envelope and score."""
    mail = received(PARSED_FORM).message
    assert mail.raw is None
    assert mail.from_email is not None
    assert (mail.from_email.display_name, mail.from_email.addr_spec) == (
        "Novák, Ana",
        "ana@example.org",
    )
    assert [item.addr_spec for item in mail.to] == ["in@parse.example.com", "second@example.com"]
    assert [item.addr_spec for item in mail.cc] == ["carl@example.net"]
    assert [item.addr_spec for item in mail.reply_to] == ["desk@example.org"]
    assert mail.subject == "Přání"
    assert mail.date == datetime(2026, 10, 9, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert (mail.message_id, mail.in_reply_to) == ("78@example.org", "77@example.com")
    assert mail.headers.get_all("Received") == ["from one", "from two"]
    assert mail.text == "Příliš"
    assert mail.html == '<p>Žluťoučký</p><img src="cid:c1">'
    assert (mail.envelope_sender, mail.envelope_recipient) == (
        "bounce@example.org",
        "in@parse.example.com",
    )
    assert (mail.spam_score, mail.spam_detected) == (-1.5, None)
    assert mail.defects == []


def test_files_are_described_by_attachment_info() -> None:
    """What the HTML shows is inline; a mere number does not make a file so."""
    mail = received(PARSED_FORM).message
    assert [(file.filename, file.content_type) for file in mail.attachments] == [
        ("přání.txt", "text/plain"),
        ("b.pdf", "application/pdf"),
    ]
    assert mail.attachments[0].original_filename == "../přání.txt"
    assert mail.attachments[0].text == "Přání"
    assert mail.attachments[1].data == b"%PDF\r\n--b\r\n"
    assert mail.attachments[1].content_id == "c3"
    assert [(file.filename, file.data) for file in mail.inlines] == [("logo.png", PNG)]
    assert mail.inlines["c1"].data == PNG


def test_files_are_found_without_their_descriptions() -> None:
    """By what the form itself says, and the second table of content ids."""
    body = form(
        ("text", "x"),
        ("html", "<img src=cid:c9>"),
        ("attachment-info", "[nonsense"),
        ("content-ids", '{"c9": "attachment1", "c8": []}'),
        *FILES,
    )
    mail = received(body).message
    assert [file.filename for file in mail.inlines] == ["a.png"]
    assert [(file.filename, file.content_type) for file in mail.attachments] == [
        ("x.txt", "text/plain"),
        ("b.pdf", "application/pdf"),
    ]


HOSTILE: dict[str, tuple[bytes, str, str, bool]] = {
    "its own charset": ("Příliš".encode("iso-8859-2"), "iso-8859-2", "Příliš", False),
    "upper case": ("Příliš".encode("cp1250"), "WINDOWS-1250", "Příliš", False),
    "Japanese": ("メール".encode("iso-2022-jp"), "iso-2022-jp", "メール", False),
    "Chinese": ("邮件".encode("gb18030"), "gb2312", "邮件", False),
    "UTF-16": ("é".encode("utf-16"), "utf-16", "é", False),
    "UTF-8 that is called ASCII": ("é".encode(), "us-ascii", "é", False),
    "Latin-1 that is called ASCII": (b"caf\xe9", "us-ascii", "café", True),
    "Latin-1 that is called UTF-8": (b"caf\xe9", "UTF-8", "caf\ufffd", True),
    "an unknown charset": (b"caf\xe9", "x-klingon", "café", True),
    "UTF-7, which hides markup": (b"+ADw-script+AD4-", "utf-7", "+ADw-script+AD4-", True),
    "a codec that is a bomb": (b"a-b", "punycode", "a-b", True),
    "a codec that is no charset": (b"eJw=", "base64_codec", "eJw=", True),
    "escapes": (b"\\u0041", "unicode_escape", "\\u0041", True),
    "a path": (b"x", "../../etc/passwd", "x", True),
    "a long name": (b"x", "x" * 100_000, "x", True),
}


@pytest.mark.parametrize(
    ("data", "charset", "expected", "damaged"), HOSTILE.values(), ids=HOSTILE.keys()
)
@pytest.mark.parametrize("name", ["text", "html", "subject", "from"])
def test_a_field_is_decoded_by_its_own_charset(
    name: str, data: bytes, charset: str, expected: str, damaged: bool
) -> None:
    """From the bytes, by the list of charsets that are safe; the rest is Latin-1, and said."""
    value = data if name != "from" else b"\x22" + data + b"\x22 <a@example.org>"
    if name == "from" and (b"\x00" in data or b"\\" in data or b"\x1b" in data):
        return  # quotes and escapes mean something there
    mail = received(form((name, value), charsets(**{name: charset}))).message
    if name == "from":
        assert mail.from_email is not None
        assert mail.from_email.display_name == expected
    else:
        assert getattr(mail, name) == expected
    assert bool(mail.defects) is damaged


ODD_CHARSETS: list[Any] = [None, 7, "UTF-8", [], {"text": []}, {"text": None}, {"text": ""}]


@pytest.mark.parametrize("value", ODD_CHARSETS, ids=range(len(ODD_CHARSETS)))
def test_a_field_of_no_known_charset_is_utf_8(value: Any) -> None:
    """Whatever ``charsets`` holds, or where there is none."""
    for extra in ([("charsets", json.dumps(value))], [("charsets", b"{\xff")], []):
        assert received(form(("text", "Příliš"), *extra)).message.text == "Příliš"


def test_a_header_in_8_bit_is_read_from_the_field() -> None:
    """Its charset is told for the field only; an ASCII header says more than its field."""
    subject = "Přání".encode("iso-8859-2")
    body = form(
        ("headers", b"Subject: " + subject + b"\r\nFrom: a@example.org\r\n"),
        ("subject", subject),
        ("from", "wrong@example.org"),
        charsets(subject="iso-8859-2"),
    )
    mail = received(body).message
    assert mail.subject == "Přání"
    assert str(mail.from_email) == "a@example.org"


ENVELOPES: dict[str, tuple[str | None, str | None, str | None]] = {
    "both": (ENVELOPE, "bounce@example.org", "in@parse.example.com"),
    "the null sender": ('{"to":["a@example.com"],"from":""}', "", "a@example.com"),
    "the null sender as null": ('{"to":["a@example.com"],"from":null}', "", "a@example.com"),
    "several recipients": ('{"to":["a@example.com","b@example.com"]}', None, "a@example.com"),
    "odd types": ('{"to":"a@example.com","from":[1]}', "", None),
    "no JSON": ("{", None, None),
    "none": (None, None, None),
}


@pytest.mark.parametrize(
    ("envelope", "sender", "recipient"), ENVELOPES.values(), ids=ENVELOPES.keys()
)
def test_the_envelope_is_json_in_a_field(
    envelope: str | None, sender: str | None, recipient: str | None
) -> None:
    """An empty sender is that of bounces; a missing one is unknown."""
    extra = [] if envelope is None else [("envelope", envelope)]
    mail = received(form(("email", SOURCE), *extra)).message
    assert (mail.envelope_sender, mail.envelope_recipient) == (sender, recipient)


@pytest.mark.parametrize(
    ("score", "expected"), [("0.1", 0.1), ("-3", -3.0), ("", None), ("spam", None), ("nan", None)]
)
def test_the_spam_score_is_a_number_or_unknown(score: str, expected: float | None) -> None:
    body = form(("email", SOURCE), ("spam_score", score))
    assert received(body).message.spam_score == expected


def test_inbound_mail_is_identified_by_mail_and_envelope() -> None:
    """Not by what surrounds them: a retry may have another boundary and another score."""
    again = form(("spam_score", "9"), ("email", SOURCE), ("envelope", ENVELOPE))
    again = again.replace(BOUNDARY.encode(), b"other")
    other_mail = form(*SPOKEN, ("email", SOURCE + b"\r\n"))
    other_recipient = RAW_FORM.replace(b'["in@', b'["on@')
    key = received(RAW_FORM).key
    assert received(again, "multipart/form-data; boundary=other").key == key
    assert received(other_mail).key != key
    assert received(other_recipient).key != key
    assert received(PARSED_FORM).key == received(PARSED_FORM).key
    assert received(PARSED_FORM.replace(b"%PDF", b"%PDF-1.7")).key != received(PARSED_FORM).key


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", MULTIPART),
        (form(("other", "x")), MULTIPART),
        (b"no delimiter", MULTIPART),
        (b"a=1&b=2", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
    ],
    ids=["empty", "another form", "no delimiter", "urlencoded", "bytes"],
)
def test_a_form_without_mail_is_unknown_with_its_raw_data(body: bytes, content_type: str) -> None:
    """Nothing that arrived is lost."""
    (event,) = posted(body, content_type)
    assert (event.event_type, event.esp_event) == ("unknown", body)


def test_mail_cut_anywhere_is_read_as_far_as_it_goes() -> None:
    """A truncated post is an event all the same."""
    for body in (RAW_FORM, PARSED_FORM):
        for end in range(0, len(body), 23):
            (event,) = posted(body[:end], MULTIPART)
            assert len(event.key) == 64
            if isinstance(event, InboundEvent):
                read_all(event.message)


# --- hypothesis: any authentic body is events ------------------------------------------

_WORDS = sorted({*sendgrid.EVENT_FIELDS, "mailesp_id", "order"})
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([*EVENTS, *DROPS, "\ud800", 1e300, 10**25])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_ITEMS = st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=5), _VALUES, max_size=8)


def check_events(events: list[Any]) -> None:
    """Every attribute has the type it promises, and none of them raises."""
    for event in events:
        assert re.fullmatch("[0-9a-f]{64}", event.key)
        assert event.timestamp is None or event.timestamp.tzinfo is not None
        assert isinstance(event.event_type, EventType)
        assert isinstance(repr(event), str)
        if isinstance(event, InboundEvent):
            read_all(event.message)
            continue
        assert event.reject_reason is None or isinstance(event.reject_reason, RejectReason)
        assert all(type(tag) is str for tag in event.tags)
        assert isinstance(event.metadata, dict)
        for name in ("event_id", "message_id", "recipient", "description", "mta_response"):
            assert type(getattr(event, name)) in (str, type(None)), name
        for name in ("click_url", "user_agent"):
            assert type(getattr(event, name)) in (str, type(None)), name


@hypothesis_settings(max_examples=300, deadline=None, database=None)
@given(st.lists(_ITEMS | _VALUES, max_size=5) | _VALUES)
def test_any_json_is_events(document: Any) -> None:
    """As many as there are elements, each readable throughout."""
    body = json.dumps(document).encode()
    events = posted(body)
    check_events(events)
    assert [event.key for event in events] == [event.key for event in posted(body)]
    if isinstance(json.loads(body), list) and document:
        assert len(events) == len(document)


@hypothesis_settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=300), st.sampled_from([MULTIPART, "application/json", "text/plain", ""]))
def test_any_bytes_are_events(body: bytes, content_type: str) -> None:
    events = posted(body, content_type)
    assert events
    check_events(events)


_NAMES = [
    "email", "headers", "text", "html", "from", "to", "subject", "envelope", "charsets",
    "attachment-info", "content-ids", "attachment1", "spam_score",
]  # fmt: skip


@hypothesis_settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_NAMES),
            st.binary(max_size=60) | _VALUES.map(lambda value: json.dumps(value).encode()),
        ),
        max_size=6,
    ),
    st.integers(0, 10_000),
)
def test_any_form_is_an_event(parts: list[tuple[str, bytes]], place: int) -> None:
    """With any fields in any number, and cut anywhere."""
    body = form(*parts, FILES[0])
    for data in (body, body[: place % (len(body) + 1)]):
        events = posted(data, MULTIPART)
        assert len(events) == 1
        check_events(events)


# --- the contract ----------------------------------------------------------------------


class TestContract(EspContract):
    """Hosted; JSON; personalizations; ECDSA-signed events and forms."""

    esp = sendgrid.esp
    config: ClassVar[dict[str, str]] = {
        "MAILESP_ESP": "sendgrid",
        "MAILESP_SENDGRID_API_KEY": "SG.canary-0d6e1c5f-api-key",
        "MAILESP_SENDGRID_WEBHOOK_VERIFICATION_KEY": PUBLIC,
        "MAILESP_SENDGRID_INBOUND_VERIFICATION_KEY": INBOUND_PUBLIC,
    }
    tracking = (
        b'[{"event":"open","email":"bea@example.com","timestamp":1791536801,'
        b'"sg_event_id":"c1","sg_message_id":"abc.r-1","category":["t"],"order":"17"}]',
        b'[{"event":"bounce","email":"gone@example.net","timestamp":1791536802,"type":"blocked",'
        b'"reason":"554 no","sg_message_id":"abd.r-1"},'
        b'{"event":"group_unsubscribe","email":"dan@example.com","timestamp":1791536803,'
        b'"asm_group_id":7}]',
    )
    inbound = (RAW_FORM, PARSED_FORM)

    def accept(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(202, {"X-Message-Id": "canaryless-id"}, b"")

    def sign(self, body: bytes, kind: Kind) -> Mapping[str, str]:
        stamp = str(int(time.time()))
        headers = {SIGNATURE: signature_of(body, stamp, private_key(kind)), TIMESTAMP: stamp}
        return headers | ({"Content-Type": MULTIPART} if kind == "inbound" else {})


def test_webhooks_at_the_wrong_url_are_treated_as_what_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Mail at the tracking URL is mail, if the key of that URL has signed it."""
    app = app_with(WEBHOOK_VERIFICATION_KEY=PUBLIC)
    seen: list[InboundEvent] = []

    def receive(app: Flask, event: InboundEvent, esp_name: str) -> None:
        seen.append(event)

    stamp = str(int(time.time()))
    headers = {SIGNATURE: signature_of(RAW_FORM, stamp), TIMESTAMP: stamp}
    with signals.inbound.connected_to(receive, app), app.test_client() as client:
        answer = client.post(
            "/mail-hooks/sendgrid/tracking/",
            data=RAW_FORM,
            headers=headers,
            content_type=MULTIPART,
        )
    assert answer.status_code == 200
    assert [event.message.raw for event in seen] == [SOURCE]
    assert "correct the URL" in caplog.text


def test_a_receiver_that_fails_has_mail_posted_again() -> None:
    """With a 5xx: after any 4xx the mail would be lost."""
    app = app_with(INBOUND_VERIFICATION_KEY=INBOUND_PUBLIC)

    def fail(app: Flask, event: InboundEvent, esp_name: str) -> None:
        raise OSError

    stamp = str(int(time.time()))
    headers = {SIGNATURE: signature_of(RAW_FORM, stamp, private_key("inbound")), TIMESTAMP: stamp}
    with signals.inbound.connected_to(fail, app), app.test_client() as client:
        answer = client.post(
            "/mail-hooks/sendgrid/inbound/", data=RAW_FORM, headers=headers, content_type=MULTIPART
        )
    assert answer.status_code == 503
