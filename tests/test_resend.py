"""Resend: what goes over the wire, what its answers mean, what its webhooks tell."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, cast

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flask_mailesp import (
    Attachment,
    EventType,
    InboundEvent,
    MailESP,
    Message,
    TrackingEvent,
    signals,
    svix,
)
from flask_mailesp.delivery import Mailer, prepared_for
from flask_mailesp.esp import (
    Call,
    Fetch,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Secret,
    Settings,
    WebhookRequest,
)
from flask_mailesp.esps import resend
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    FetchError,
    InvalidMessageError,
    MailESPError,
    RateLimitedError,
    SendUncertainError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from flask_mailesp.records import replace
from flask_mailesp.testing import EspContract, EspServer, Kind, body_of, decoded

API = "https://api.resend.com"
API_KEY = "re_canary_51b7e0_Zr7KqP2x"
SIGNING = "whsec_" + base64.b64encode(b"canary-signing-secret-of-32bytes").decode()
INBOUND = "whsec_" + base64.b64encode(b"canary-inbound-secret-of-32bytes").decode()
NEW_SIGNING = "whsec_" + base64.b64encode(b"canary-rotated-secret-of-32bytes").decode()
CONFIG: dict[str, Any] = {
    "MAILESP_ESP": "resend",
    "MAILESP_RESEND_API_KEY": API_KEY,
    "MAILESP_RESEND_SIGNING_SECRET": SIGNING,
    "MAILESP_RESEND_INBOUND_SECRET": INBOUND,
}
EMAIL_ID = "0c9f6b1e-1111-4222-8333-abcdefabcdef"


def dumped(document: object) -> bytes:
    return json.dumps(document).encode()


def app_of(**config: Any) -> Flask:
    app = Flask("shop")
    app.testing = True
    app.config.update(CONFIG, **config)
    MailESP(app)
    return app


def mailer_of(app: Flask) -> Mailer:
    mailer: Mailer = app.extensions["mailesp"].mailer(None)
    return mailer


@pytest.fixture(scope="module")
def mailer() -> Mailer:
    return mailer_of(app_of())


SETTINGS = Settings({"API_KEY": API_KEY, "API_URL": API})


# --- building: one message -----------------------------------------------------------------

BASE: dict[str, Any] = {
    "subject": "Hi",
    "to": "bea@example.com",
    "body": "Text",
    "sender": "me@example.org",
}
JSON_OF_BASE: dict[str, Any] = {
    "from": "me@example.org",
    "to": ["bea@example.com"],
    "subject": "Hi",
    "text": "Text",
}
PNG = b"\x89PNG\r\n\x1a\n"
JULY = datetime(2026, 7, 4, 12, 30, 15, 987654, tzinfo=timezone.utc)


def calls(mailer: Mailer, **fields: Any) -> list[Call]:
    """The calls for a message; without a key of its own it has the key K."""
    message = Message(**{"idempotency_key": "K", **fields})
    return list(mailer.esp.build(prepared_for(mailer, message), mailer.settings))


def payload_of(call: Call) -> Any:
    return json.loads(body_of(call.request))


def key_of(call: Call) -> str:
    return call.request.headers["Idempotency-Key"]


def path_of(call: Call) -> str:
    return call.request.url.removeprefix(API)


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing more": ({}, {}),
    "a display name": ({"to": "Bea <bea@example.com>"}, {"to": ["Bea <bea@example.com>"]}),
    "a name with punctuation": (
        {"sender": ("Shop, Inc.", "me@example.org")},
        {"from": '"Shop, Inc." <me@example.org>'},
    ),
    "a name beyond ASCII": ({"sender": "Zoë <me@example.org>"}, {"from": "Zoë <me@example.org>"}),
    "several recipients": (
        {"to": ["a@example.com", "B <b@example.com>"]},
        {"to": ["a@example.com", "B <b@example.com>"]},
    ),
    "an international domain": ({"to": "a@bücher.example"}, {"to": ["a@xn--bcher-kva.example"]}),
    "cc": ({"cc": ["c@example.com", "d@example.com"]}, {"cc": ["c@example.com", "d@example.com"]}),
    "bcc": ({"bcc": "d@example.com"}, {"bcc": ["d@example.com"]}),
    "one reply-to": ({"reply_to": "r@example.com"}, {"reply_to": ["r@example.com"]}),
    "several reply-to": (
        {"reply_to": ["r@example.com", "S <s@example.com>"]},
        {"reply_to": ["r@example.com", "S <s@example.com>"]},
    ),
    "a reply-to header": (
        {"headers": {"Reply-To": "r@example.com, s@example.com"}},
        {"reply_to": ["r@example.com", "s@example.com"]},
    ),
    "html": ({"html": "<p>Hi</p>"}, {"html": "<p>Hi</p>"}),
    "an empty text, so that none is made of the html": (
        {"body": "", "html": "<p>Hi</p>"},
        {"text": "", "html": "<p>Hi</p>"},
    ),
    "no subject": ({"subject": ""}, {"subject": ""}),
    "headers": (
        {"headers": {"X-A": "1", "In-Reply-To": "<1@example.org>"}},
        {"headers": {"X-A": "1", "In-Reply-To": "<1@example.org>"}},
    ),
    "a number in a header": ({"headers": {"X-A": 1}}, {"headers": {"X-A": "1"}}),
    "metadata": ({"metadata": {"job": "7"}}, {"headers": {"X-Metadata": '{"job": "7"}'}}),
    "metadata of all types": (
        {"metadata": {"job": 7, "rate": 1.5, "vip": True, "name": "Zoë ✓"}},
        {
            "headers": {
                "X-Metadata": '{"job": 7, "rate": 1.5, "vip": true, "name": "Zo\\u00eb \\u2713"}'
            }
        },
    ),
    "a tag": ({"tags": ["order"]}, {"headers": {"X-Tags": '["order"]'}}),
    "several tags": ({"tags": ["a", "ö"]}, {"headers": {"X-Tags": '["a", "\\u00f6"]'}}),
    "headers, metadata and tags": (
        {"headers": {"X-A": "1"}, "metadata": {"m": 1}, "tags": ["t"]},
        {"headers": {"X-A": "1", "X-Metadata": '{"m": 1}', "X-Tags": '["t"]'}},
    ),
    "empty containers": ({"metadata": {}, "tags": [], "headers": {}, "cc": []}, {}),
    "a time, to the millisecond": ({"send_at": JULY}, {"scheduled_at": "2026-07-04T12:30:15.987Z"}),
    "a time in a zone": (
        {"send_at": JULY.astimezone(timezone(timedelta(hours=2)))},
        {"scheduled_at": "2026-07-04T14:30:15.987+02:00"},
    ),
    "a whole second": (
        {"send_at": JULY.replace(microsecond=0)},
        {"scheduled_at": "2026-07-04T12:30:15.000Z"},
    ),
    "native tags": (
        {"esp_extra": {"tags": [{"name": "kind", "value": "order"}], "topic_id": "t1"}},
        {"tags": [{"name": "kind", "value": "order"}], "topic_id": "t1"},
    ),
    "esp_extra over everything": (
        {"headers": {"X-A": "1"}, "esp_extra": {"headers": {"X-B": "2"}, "subject": "Other"}},
        {"headers": {"X-B": "2"}, "subject": "Other"},
    ),
    "an attachment": (
        {"attachments": [("a.pdf", "application/pdf", b"\x00\xff!")]},
        {
            "attachments": [
                {"filename": "a.pdf", "content": "AP8h", "content_type": "application/pdf"}
            ]
        },
    ),
    "a text with its charset": (
        {"attachments": [("a.csv", "text/csv", "ä")]},
        {
            "attachments": [
                {
                    "filename": "a.csv",
                    "content": "w6Q=",
                    "content_type": "text/csv; charset=utf-8",
                }
            ]
        },
    ),
    "an inline image": (
        {"attachments": [Attachment("l.png", "image/png", PNG, content_id="<logo@x>")]},
        {
            "attachments": [
                {
                    "filename": "l.png",
                    "content": base64.b64encode(PNG).decode(),
                    "content_type": "image/png",
                    "content_id": "logo@x",
                }
            ]
        },
    ),
}


@pytest.mark.parametrize(("given_", "expected"), FIELDS.values(), ids=FIELDS.keys())
def test_fields_go_to_emails(
    mailer: Mailer, given_: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A single message with words of its own: exactly these keys, and no null."""
    (call,) = calls(mailer, **(BASE | given_))
    assert (call.request.method, path_of(call)) == ("POST", "/emails")
    assert payload_of(call) == JSON_OF_BASE | expected


def test_an_html_only_message_has_no_text(mailer: Mailer) -> None:
    """None is absence: Resend makes a text of the HTML."""
    (call,) = calls(mailer, **(BASE | {"body": None, "html": "<p>Hi</p>"}))
    assert "text" not in payload_of(call)


def test_the_request_has_the_key_in_a_header_that_hides_it(mailer: Mailer) -> None:
    (call,) = calls(mailer, **BASE)
    assert dict(call.request.headers) == {
        "Authorization": f"Bearer {API_KEY}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": "K",
    }
    assert isinstance(call.request.headers["Authorization"], Secret)
    assert "canary" not in repr(dict(call.request.headers)) + repr(call)
    assert "canary" not in body_of(call.request).decode()


def test_a_large_attachment_is_spliced_in(mailer: Mailer) -> None:
    """It is encoded while the body is sent, and is the same JSON."""
    data = bytes(range(256)) * 1000
    (call,) = calls(mailer, **BASE, attachments=[("big.bin", "application/x-big", data)])
    assert not isinstance(call.request.body, bytes)
    assert len(body_of(call.request)) == len(call.request.body)
    assert base64.b64decode(payload_of(call)["attachments"][0]["content"]) == data


TEMPLATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an alias": ({"template_id": "welcome"}, {"template": {"id": "welcome"}}),
    "a number": ({"template_id": 7}, {"template": {"id": "7"}}),
    "by ESP": ({"template_id": {"resend": "w", "other": 1}}, {"template": {"id": "w"}}),
    "variables for all": (
        {"template_id": "w", "merge_global_data": {"SHOP": "S", "N": 2}},
        {"template": {"id": "w", "variables": {"SHOP": "S", "N": 2}}},
    ),
    "an own subject": (
        {"template_id": "w", "subject": "Own"},
        {"template": {"id": "w"}, "subject": "Own"},
    ),
    "an empty body": ({"template_id": "w", "body": ""}, {"template": {"id": "w"}}),
    "from esp_extra": ({"esp_extra": {"template": {"id": "w"}}}, {"template": {"id": "w"}}),
}


@pytest.mark.parametrize(("given_", "expected"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_templates(mailer: Mailer, given_: dict[str, Any], expected: dict[str, Any]) -> None:
    """No text and no html, and a subject only where there is one: it overrides the template's."""
    (call,) = calls(mailer, to="bea@example.com", sender="me@example.org", **given_)
    assert payload_of(call) == {"from": "me@example.org", "to": ["bea@example.com"], **expected}


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "an envelope sender": {"envelope_sender": "bounces@example.org"},
    "open tracking": {"track_opens": False},
    "click tracking": {"track_clicks": True},
    "AMP": {"alternatives": [("<html amp4email>", "text/x-amp-html")]},
    "a calendar": {"alternatives": [("BEGIN:VCALENDAR", "text/calendar")]},
    "no to": {"to": [], "cc": "c@example.com"},
    "a mailbox beyond ASCII": {"to": "jörg@example.com"},
    "a body with a template": {"template_id": "w"},
    "data without a template": {"merge_data": {"bea@example.com": {"A": "1"}}},
    "global data without a template": {"merge_global_data": {"A": "1"}},
    "a repeated header": {"headers": [("X-A", "1"), ("x-a", "2")]},
    "metadata twice": {"headers": {"x-metadata": "{}"}, "metadata": {"a": 1}},
    "tags twice": {"headers": {"X-Tags": "[]"}, "tags": ["a"]},
    "a header repeated in a merge": {"merge_headers": {"bea@example.com": {"X-A": 1, "x-A": 2}}},
}


@pytest.mark.parametrize("fields", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_resend_lacks_is_refused(mailer: Mailer, fields: dict[str, Any]) -> None:
    """Before any request, and naming it."""
    with pytest.raises(UnsupportedFeatureError, match="Resend cannot express"):
        calls(mailer, **(BASE | fields))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_metadata_that_json_cannot_carry_is_refused(mailer: Mailer, number: float) -> None:
    with pytest.raises(SerializationError, match="metadata"):
        calls(mailer, **BASE, metadata={"a": number})


# --- building: attachments -----------------------------------------------------------------


def attached(mailer: Mailer, *args: Any, **extra: Any) -> dict[str, Any]:
    (call,) = calls(mailer, **BASE, attachments=[Attachment(*args, **extra)])
    found: dict[str, Any] = payload_of(call)["attachments"][0]
    return found


@pytest.mark.parametrize(
    ("filename", "content_type"),
    [
        ("data.csv", "text/csv"),
        ("data.CSV", "Text/CSV"),
        ("data.xml", "application/xml"),
        ("data.xml", "text/xml"),
        ("data.rtf", "text/rtf"),
        ("photo.jpeg", "image/jpeg"),
        ("notes.log", "text/plain"),
        ("data.custom", "text/x-custom"),
        ("data.custom", "text/csv"),
        ("data.txt", "text/x-custom"),
        ("data", "text/csv"),
        ("archive.tar.gz", "application/gzip"),
        ("a.pdf", "application/pdf; name=a.pdf"),
    ],
)
def test_a_filename_that_fits_its_type_passes(
    mailer: Mailer, filename: str, content_type: str
) -> None:
    """And so does one of which nobody knows whether it fits."""
    found = attached(mailer, filename, content_type, b"x")
    assert (found["filename"], found["content_type"]) == (filename, content_type)


@pytest.mark.parametrize(
    ("filename", "content_type"),
    [
        ("data.txt", "text/csv"),
        ("DATA.TXT", "text/csv; charset=utf-8"),
        ("report.pdf", "text/plain"),
        ("photo.png", "image/jpeg"),
        ("data.csv", "application/vnd.ms-excel"),
        ("mail.txt", "message/rfc822"),
    ],
)
def test_a_filename_that_contradicts_its_type_is_refused(
    mailer: Mailer, filename: str, content_type: str
) -> None:
    """Resend would keep the whole message back for ever, without an error or an event."""
    with pytest.raises(UnsupportedFeatureError, match="filename ends in"):
        attached(mailer, filename, content_type, b"x")


def test_octets_with_a_telling_filename_go_without_their_type(mailer: Mailer) -> None:
    """The type says nothing, and would contradict the name."""
    assert attached(mailer, "a.pdf", "application/octet-stream", b"x") == {
        "filename": "a.pdf",
        "content": "eA==",
    }
    kept = attached(mailer, "a.weird", "application/octet-stream", b"x")
    assert kept["content_type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "content_type", "expected"),
    [
        (None, "text/csv", "attachment.csv"),
        (" ", "text/csv", "attachment.csv"),
        (" ", "text/csv; header=present", "attachment.csv"),
        ("\t", "x/unheard-of", "attachment"),
    ],
)
def test_a_nameless_attachment_gets_a_name_of_its_type(
    mailer: Mailer, name: str | None, content_type: str, expected: str
) -> None:
    """Without one Resend would keep the message back."""
    assert attached(mailer, name, content_type, b"x")["filename"] == expected


@pytest.mark.parametrize("kind", resend.EXTENSIONS)
def test_a_made_up_name_fits_whatever_the_type(kind: str) -> None:
    nameless = Attachment(" ", kind, b"")
    assert resend.content_type(nameless) == kind


# --- building: batches ---------------------------------------------------------------------

TEMPLATE: dict[str, Any] = {"sender": "me@example.org", "template_id": "offer"}


def people(count: int) -> list[str]:
    return [f"p{number}@example.com" for number in range(count)]


def test_a_batch_is_one_item_for_each_to(mailer: Mailer) -> None:
    """Each with its own data over the common data; cc and bcc get every copy."""
    (call,) = calls(
        mailer,
        **TEMPLATE,
        to=["Ann <a@example.com>", "b@example.com", "c@example.com"],
        cc="cc@example.com",
        bcc="bcc@example.com",
        reply_to="r@example.org",
        headers={"X-A": "1", "X-B": "2"},
        metadata={"job": 7, "who": "all"},
        tags=["offer"],
        merge_global_data={"SHOP": "S", "NAME": "you"},
        merge_data={"A@example.com": {"NAME": "Ann"}},
        merge_metadata={"b@example.com": {"who": "b"}},
        merge_headers={"b@example.com": {"x-a": "9", "Reply-To": "s@x.org, T <t@x.org>"}},
    )
    common = {
        "from": "me@example.org",
        "cc": ["cc@example.com"],
        "bcc": ["bcc@example.com"],
        "reply_to": ["r@example.org"],
        "headers": {
            "X-A": "1",
            "X-B": "2",
            "X-Metadata": '{"job": 7, "who": "all"}',
            "X-Tags": '["offer"]',
        },
        "template": {"id": "offer", "variables": {"SHOP": "S", "NAME": "you"}},
    }
    assert path_of(call) == "/emails/batch"
    assert call.request.headers["x-batch-validation"] == "strict"
    assert payload_of(call) == [
        {
            **common,
            "to": ["Ann <a@example.com>"],
            "template": {"id": "offer", "variables": {"SHOP": "S", "NAME": "Ann"}},
        },
        {
            **common,
            "to": ["b@example.com"],
            "reply_to": ["s@x.org", "T <t@x.org>"],
            "headers": {
                "X-B": "2",
                "x-a": "9",
                "X-Metadata": '{"job": 7, "who": "b"}',
                "X-Tags": '["offer"]',
            },
        },
        {**common, "to": ["c@example.com"]},
    ]
    recipients = [[address.addr_spec for address in part.recipients] for part in call.parts]
    assert recipients == [[f"{a}@example.com", "cc@example.com", "bcc@example.com"] for a in "abc"]


def test_data_of_one_recipient_needs_no_data_for_all(mailer: Mailer) -> None:
    (call,) = calls(mailer, **TEMPLATE, to=people(2), merge_data={"p1@example.com": {"NAME": "P"}})
    assert [item["template"] for item in payload_of(call)] == [
        {"id": "offer"},
        {"id": "offer", "variables": {"NAME": "P"}},
    ]


@pytest.mark.parametrize("field", ["merge_data", "merge_metadata", "merge_headers"])
def test_empty_merge_fields_make_a_batch(mailer: Mailer, field: str) -> None:
    """Nobody sees the others."""
    (call,) = calls(mailer, **(BASE | {"to": people(2), field: {}}))
    assert [item["to"] for item in payload_of(call)] == [[one] for one in people(2)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])]
)
def test_a_batch_is_cut_at_100(mailer: Mailer, count: int, sizes: list[int]) -> None:
    """Every call names the recipients it covers, and has a key of its own, always the same."""
    fields = BASE | {"to": people(count), "merge_metadata": {}}
    built = calls(mailer, **fields)

    assert [len(payload_of(call)) for call in built] == sizes
    assert [len(call.parts) for call in built] == sizes
    assert [part.recipients[0].addr_spec for call in built for part in call.parts] == people(count)
    keys = [key_of(call) for call in built]
    assert keys[0] == "K"
    assert len(set(keys)) == len(keys)
    assert keys == [key_of(call) for call in calls(mailer, **fields)]
    assert max(map(len, keys)) <= 256


ALONE: dict[str, dict[str, Any]] = {
    "attachments": {"attachments": [("a.txt", "text/plain", b"x")]},
    "send_at": {"send_at": JULY},
    "scheduled_at": {"esp_extra": {"scheduled_at": "2026-07-04T12:30:15Z"}},
    "attachments of esp_extra": {"esp_extra": {"attachments": []}},
}


@pytest.mark.parametrize("fields", ALONE.values(), ids=ALONE.keys())
def test_what_a_batch_does_not_take_makes_single_calls(
    mailer: Mailer, fields: dict[str, Any]
) -> None:
    """One for each recipient, each with its own key."""
    built = calls(mailer, **(BASE | {"to": people(3), "merge_metadata": {}} | fields))

    assert [path_of(call) for call in built] == ["/emails"] * 3
    assert [payload_of(call)["to"] for call in built] == [[one] for one in people(3)]
    assert all("x-batch-validation" not in call.request.headers for call in built)
    keys = [key_of(call) for call in built]
    assert keys[0] == "K"
    assert len(set(keys)) == 3


def test_a_long_key_makes_keys_that_are_not_too_long(mailer: Mailer) -> None:
    key = "k" * 255
    built = calls(mailer, **BASE | {"to": people(101), "merge_data": {}, "idempotency_key": key})
    assert [len(key_of(call)) for call in built] == [255, 64]


def test_merge_data_that_json_cannot_carry_is_refused_before_the_first_call(
    mailer: Mailer,
) -> None:
    """It belongs to the last recipient; the others have not been sent anything."""
    message = Message(
        **TEMPLATE, to=people(150), merge_data={"p149@example.com": {"PRICE": Decimal("1.5")}}
    )
    built = iter(mailer.esp.build(prepared_for(mailer, message), mailer.settings))
    with pytest.raises(SerializationError, match="Decimal"):
        next(built)


# --- building: many messages ---------------------------------------------------------------


def many(mailer: Mailer, *messages: Message) -> list[Call]:
    assert mailer.esp.build_many is not None
    prepared = [prepared_for(mailer, message) for message in messages]
    return list(mailer.esp.build_many(prepared, mailer.settings))


def message_to(address: str, **fields: Any) -> Message:
    return Message(**(BASE | {"to": address, "idempotency_key": f"key-{address}"} | fields))


def test_independent_messages_share_permissive_calls(mailer: Mailer) -> None:
    """A bad one does not keep the others from being sent."""
    messages = [message_to(address) for address in people(150)]
    first, second = many(mailer, *messages)

    assert [path_of(call) for call in (first, second)] == ["/emails/batch"] * 2
    assert first.request.headers["x-batch-validation"] == "permissive"
    assert [len(payload_of(call)) for call in (first, second)] == [100, 50]
    assert [part.message for part in first.parts + second.parts] == list(range(150))
    assert key_of(first) != key_of(second)
    assert [key_of(call) for call in many(mailer, *messages)] == [key_of(first), key_of(second)]


def test_the_key_of_a_shared_call_is_that_of_its_messages(mailer: Mailer) -> None:
    """Other messages, or in another order: another key."""
    a, b, c = (message_to(address) for address in people(3))
    keys = [key_of(many(mailer, *pair)[0]) for pair in ((a, b), (b, a), (a, c), (a, b, c))]
    assert len(set(keys)) == 4
    assert all(len(key) == 64 for key in keys)


def test_a_full_call_leaves_nothing_behind(mailer: Mailer) -> None:
    (call,) = many(mailer, *(message_to(address) for address in people(100)))
    assert len(call.parts) == 100
    assert many(mailer) == []


def test_without_a_key_none_is_made_up(mailer: Mailer) -> None:
    """That is the core's work: it would be another one each time."""
    prepared = [
        replace(prepared_for(mailer, message_to(address)), idempotency_key=None)
        for address in people(2)
    ]
    for call in [*resend.build(prepared[0], SETTINGS), *resend.build_many(prepared, SETTINGS)]:
        assert "Idempotency-Key" not in call.request.headers


def test_a_message_that_is_left_alone_goes_alone(mailer: Mailer) -> None:
    """With its own key, as if it had been sent alone."""
    (call,) = many(mailer, message_to("a@example.com"))
    assert (path_of(call), key_of(call)) == ("/emails", "key-a@example.com")


def test_each_message_goes_by_the_call_that_takes_it(mailer: Mailer) -> None:
    """Merges keep to themselves, since they are strict; attachments and times go alone."""
    built = many(
        mailer,
        message_to("a@example.com"),
        message_to("b@example.com", attachments=[("a.txt", "text/plain", b"x")]),
        Message(**(BASE | {"to": people(2), "merge_metadata": {}, "idempotency_key": "merge"})),
        message_to("c@example.com", send_at=JULY),
        message_to("d@example.com"),
    )
    seen = [
        (
            path_of(call),
            call.request.headers.get("x-batch-validation"),
            [part.message for part in call.parts],
        )
        for call in built
    ]
    assert seen == [
        ("/emails", None, [1]),
        ("/emails/batch", "strict", [2, 2]),
        ("/emails", None, [3]),
        ("/emails/batch", "permissive", [0, 4]),
    ]
    assert [key_of(call) for call in built[:3]] == [
        "key-b@example.com",
        "merge",
        "key-c@example.com",
    ]


# --- reading the answer --------------------------------------------------------------------


def read(
    status: int, answer: object, *, batch: int = 0, headers: Mapping[str, str] | None = None
) -> list[Reading]:
    """Read an answer about one message, or about a batch of several."""
    esp = mailer_of(app_of())
    to = people(max(batch, 1))
    (call,) = calls(esp, **(BASE | {"to": to} | ({"merge_data": {}} if batch else {})))
    body = answer if isinstance(answer, bytes) else dumped(answer)
    return resend.read(call, HttpResponse(status, headers or {}, body), SETTINGS)


def words(readings: Sequence[Reading]) -> list[tuple[str, Any]]:
    return [
        (str(entry.status), entry.message_id) for reading in readings for entry in reading.statuses
    ]


def test_all_recipients_of_a_message_are_queued_under_one_id() -> None:
    (call,) = calls(mailer_of(app_of()), **BASE, cc=["c@example.com"])
    (reading,) = resend.read(call, HttpResponse(200, {}, dumped({"id": EMAIL_ID})), SETTINGS)
    assert words([reading]) == [("queued", EMAIL_ID)] * 2
    assert reading.error is None


def test_each_item_of_a_batch_has_its_own_id() -> None:
    readings = read(200, {"data": [{"id": "1"}, {"id": "2"}]}, batch=2)
    assert words(readings) == [("queued", "1"), ("queued", "2")]
    assert [reading.error for reading in readings] == [None, None]


def test_ids_go_to_the_messages_that_errors_does_not_name() -> None:
    """A permissive batch answers with fewer ids than messages."""
    errors = [{"index": 1, "message": "Bad <p1@example.com>"}, {"index": 3, "message": "Bad too"}]
    answer = {"data": [{"id": "a"}, {"id": "c"}, {"id": "e"}], "errors": errors}
    readings = read(200, answer, batch=5)

    assert words(readings) == [
        ("queued", "a"),
        ("failed", None),
        ("queued", "c"),
        ("failed", None),
        ("queued", "e"),
    ]
    error = readings[1].error
    assert type(error) is APIError
    assert error.message == "Bad <p1@example.com>"
    assert "example.com" not in str(error)
    assert readings[1].statuses[0].description == "Bad <p1@example.com>"


def test_a_batch_may_be_all_errors() -> None:
    errors = [{"index": 0, "message": "x"}, {"index": 1, "message": "y"}]
    readings = read(200, {"data": [], "errors": errors}, batch=2)
    assert words(readings) == [("failed", None)] * 2


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"id": "1"}, {"id": "2"}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": []},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"message": "which?"}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": 3, "message": "beyond"}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": -1, "message": "before"}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": 1.5}, {"index": True}]},
        {"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": 0}, {"index": 1}]},
    ],
)
def test_where_counts_do_not_agree_everything_is_uncertain(answer: dict[str, Any]) -> None:
    """No id is lost, and none is given to somebody whose it may not be."""
    readings = read(200, answer, batch=3)
    assert words(readings) == [("unknown", frozenset({"1", "2"}))] * 3
    assert all(type(reading.error) is SendUncertainError for reading in readings)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"null", b'{"data": {}}', b'{"data": 7}', b"{", b"\xff"]
)
def test_a_batch_without_ids_is_uncertain(answer: bytes) -> None:
    readings = read(200, answer, batch=2)
    assert words(readings) == [("unknown", None)] * 2
    assert all(type(reading.error) is SendUncertainError for reading in readings)


def test_an_item_without_an_id_is_uncertain_alone() -> None:
    readings = read(200, {"data": [{"id": "1"}, {"id": None}, {"id": 7}, None]}, batch=4)
    assert words(readings) == [("queued", "1"), *[("unknown", None)] * 3]


Kind_ = type[MailESPError]
ERRORS: list[tuple[int, str, Kind_, str]] = [
    (400, "validation_error", APIError, "error.message"),
    (400, "invalid_idempotency_key", APIError, ""),
    (401, "missing_api_key", AuthenticationError, "MAILESP_RESEND_API_KEY"),
    (401, "restricted_api_key", AuthenticationError, "resend.com/api-keys"),
    (403, "invalid_api_key", AuthenticationError, "MAILESP_RESEND_API_KEY"),
    (403, "suspended_api_key", AuthenticationError, "MAILESP_RESEND_API_KEY"),
    (403, "invalid_permission", AuthenticationError, "MAILESP_RESEND_API_KEY"),
    (403, "validation_error", APIError, "resend.com/domains"),
    (403, "", AuthenticationError, ""),
    (404, "not_found", APIError, ""),
    (405, "method_not_allowed", APIError, ""),
    (409, "invalid_idempotent_request", APIError, "another message"),
    (409, "concurrent_idempotent_requests", SendUncertainError, "idempotency key"),
    (409, "resource_locked", APIError, ""),
    (422, "validation_error", APIError, ""),
    (422, "missing_required_field", APIError, ""),
    (422, "invalid_parameter", APIError, ""),
    (422, "missing_required_parameter", APIError, ""),
    (422, "invalid_from_address", APIError, ""),
    (422, "invalid_attachment", APIError, ""),
    (422, "invalid_access", APIError, ""),
    (422, "invalid_region", APIError, ""),
    (429, "rate_limit_exceeded", RateLimitedError, ""),
    (429, "daily_quota_exceeded", APIError, "quota"),
    (429, "monthly_quota_exceeded", APIError, "quota"),
    (429, "", RateLimitedError, ""),
    (451, "security_error", APIError, ""),
    (500, "application_error", SendUncertainError, ""),
    (500, "internal_server_error", SendUncertainError, ""),
    (500, "validation_error", SendUncertainError, ""),
    (503, "service_unavailable", SendUncertainError, ""),
    (302, "validation_error", APIError, "API_URL"),
]


@pytest.mark.parametrize(("status", "name", "kind", "hint"), ERRORS)
def test_every_error_has_its_class(status: int, name: str, kind: Kind_, hint: str) -> None:
    """Only what may have been accepted is uncertain; the text says what to do."""
    said = "Something about bea@example.com"
    answer = {"statusCode": status, "name": name, "message": said}
    (reading,) = read(status, answer, headers={"retry-after": "3"})

    error = reading.error
    assert type(error) is kind
    assert hint in str(error)
    assert "example.com" not in str(error)
    assert getattr(error, "status", None) == status
    if isinstance(error, APIError):
        assert (error.code or "", error.message) == (name, said)
    if isinstance(error, RateLimitedError):
        assert error.retry_after == 3
    expected = "unknown" if kind is SendUncertainError else "failed"
    assert words([reading]) == [(expected, None)]


def test_an_error_of_a_batch_befalls_all_of_it() -> None:
    """Strict: nothing was sent."""
    answer = {"statusCode": 422, "name": "validation_error", "message": "Item 1 is bad."}
    readings = read(422, answer, batch=3)
    assert words(readings) == [("failed", None)] * 3


# --- tracking ------------------------------------------------------------------------------

DATA: dict[str, Any] = {
    "email_id": EMAIL_ID,
    "message_id": "<a1@shop.example.org>",
    "created_at": "2026-03-01T10:00:00.000Z",
    "from": "Shop <shop@example.org>",
    "to": ["Ana <ana@example.net>"],
    "subject": "Your order",
    "headers": [
        {"name": "x-tags", "value": '["order", "eu"]'},
        {"name": "X-METADATA", "value": '{"job": "7", "nested": {"a": [1]}}'},
        {"name": "X-Other", "value": "1"},
    ],
    "tags": {"kind": "order"},
}
NOTHING: dict[str, Any] = {
    "event_id": "msg_77",
    "message_id": EMAIL_ID,
    "recipient": "ana@example.net",
    "reject_reason": None,
    "description": None,
    "mta_response": None,
    "tags": ["order", "eu"],
    "metadata": {"job": "7", "nested": {"a": [1]}},
    "click_url": None,
    "user_agent": None,
}


def payload(kind: str, when: str = "2026-03-01T10:00:03.250Z", **details: Any) -> dict[str, Any]:
    return {"type": kind, "created_at": when, "data": {**DATA, **details}}


def moment(hour: int, minute: int, second: int, micro: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, second, micro, tzinfo=timezone.utc)


def bounce(message: str, subtype: str = "Undetermined", **more: Any) -> dict[str, Any]:
    details = {"type": "Permanent", "subType": subtype, "message": message, **more}
    return payload("email.bounced", bounce=details)


HARD = "The address gave a hard bounce message and is suppressed from now on."
EVENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scheduled": (payload("email.scheduled"), {"event_type": "queued"}),
    "sent": (
        payload("email.sent", "2026-03-01T10:00:01.000Z"),
        {"event_type": "sent", "timestamp": moment(10, 0, 1)},
    ),
    "delivered": (
        payload("email.delivered"),
        {"event_type": "delivered", "timestamp": moment(10, 0, 3, 250000)},
    ),
    "delayed": (payload("email.delivery_delayed"), {"event_type": "deferred"}),
    "complained": (
        payload("email.complained"),
        {"event_type": "complained", "reject_reason": "spam"},
    ),
    "opened": (payload("email.opened"), {"event_type": "opened"}),
    "clicked": (
        payload(
            "email.clicked",
            click={
                "link": "https://shop.example.org/orders/7?a=1&b=2",
                "userAgent": "Agent/1",
                "ipAddress": "192.0.2.1",
                "timestamp": "2026-03-01T10:07:00.000Z",
            },
        ),
        {
            "event_type": "clicked",
            "click_url": "https://shop.example.org/orders/7?a=1&b=2",
            "user_agent": "Agent/1",
        },
    ),
    "failed": (
        payload("email.failed", failed={"reason": "reached_daily_quota"}),
        {"event_type": "failed", "description": "reached_daily_quota"},
    ),
    "suppressed after a bounce": (
        payload(
            "email.suppressed",
            suppressed={
                "type": "OnAccountSuppressionList",
                "reason": "previous_bounce",
                "message": "Suppressed since February",
            },
        ),
        {
            "event_type": "rejected",
            "reject_reason": "bounced",
            "description": "Suppressed since February",
        },
    ),
    "suppressed after a complaint": (
        payload("email.suppressed", suppressed={"reason": "previous_complaint"}),
        {"event_type": "rejected", "reject_reason": "spam"},
    ),
    "suppressed for another reason": (
        payload("email.suppressed", suppressed={"reason": "by_hand"}),
        {"event_type": "rejected", "reject_reason": "blocked"},
    ),
    "suppressed for no reason": (
        payload("email.suppressed"),
        {"event_type": "rejected", "reject_reason": "blocked"},
    ),
    "a hard bounce": (
        bounce(HARD, "General", diagnosticCode=["smtp; 550 5.1.1 no such user", "see below"]),
        {
            "event_type": "bounced",
            "reject_reason": "bounced",
            "description": HARD,
            "mta_response": "smtp; 550 5.1.1 no such user\nsee below",
        },
    ),
    "a bounce whose diagnosis is text": (
        bounce("x", "NoEmail", diagnosticCode="smtp; 550 no"),
        {
            "event_type": "bounced",
            "reject_reason": "bounced",
            "description": "x",
            "mta_response": "smtp; 550 no",
        },
    ),
    "without own headers": (
        {
            "type": "email.delivered",
            "created_at": "2026-03-01T10:11:12.345Z",
            "data": {"email_id": EMAIL_ID},
        },
        {
            "event_type": "delivered",
            "timestamp": moment(10, 11, 12, 345000),
            "recipient": None,
            "tags": [],
            "metadata": {},
        },
    ),
    "headers that are not JSON": (
        payload(
            "email.sent",
            headers=[
                {"name": "X-Metadata", "value": "job 7"},
                {"name": "X-Tags", "value": '"order"'},
            ],
        ),
        {"event_type": "sent", "tags": [], "metadata": {}},
    ),
    "a bare address": (
        payload("email.sent", to=["ana@example.net"]),
        {"event_type": "sent", "recipient": "ana@example.net"},
    ),
    "a name that looks like an address": (
        payload("email.sent", to=['"bo@example.com <x>" <ana@example.net>']),
        {"event_type": "sent", "recipient": "ana@example.net"},
    ),
    "several recipients": (
        payload("email.sent", to=["ana@example.net", "bo@example.net"]),
        {"event_type": "sent", "recipient": "ana@example.net"},
    ),
    "a contact": (
        {"type": "contact.created", "created_at": "2026-03-01T10:00:03.250Z", "data": {"id": "c"}},
        {
            "event_type": "unknown",
            "message_id": None,
            "recipient": None,
            "tags": [],
            "metadata": {},
        },
    ),
    "a new kind of event": (payload("email.teleported"), {"event_type": "unknown"}),
    "a mail without a usable id": (
        {"type": "email.received", "data": {"email_id": "../../domains"}},
        {
            "event_type": "unknown",
            "timestamp": None,
            "message_id": "../../domains",
            "recipient": None,
            "tags": [],
            "metadata": {},
        },
    ),
    "nothing": (
        {},
        {
            "event_type": "unknown",
            "timestamp": None,
            "message_id": None,
            "recipient": None,
            "tags": [],
            "metadata": {},
        },
    ),
}


def parsed(raw: object, headers: Mapping[str, str] | None = None) -> Any:
    """The only thing that is made of a webhook."""
    body = raw if isinstance(raw, bytes) else dumped(raw)
    given_ = {"svix-id": "msg_77"} if headers is None else headers
    (found,) = resend.parse(WebhookRequest(dict(given_), body), SETTINGS)
    return found


@pytest.mark.parametrize(("raw", "expected"), EVENTS.values(), ids=EVENTS.keys())
def test_a_webhook_becomes_an_event(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    """The whole event, with the payload itself for what the event has no field for."""
    event = parsed(raw)
    whole = {"timestamp": moment(10, 0, 3, 250000), **NOTHING, **expected}
    assert isinstance(event, TrackingEvent)
    assert {name: getattr(event, name) for name in whole} == whole
    assert event.esp_event == raw


@pytest.mark.parametrize(
    ("message", "subtype", "reason"),
    [
        (HARD, "NoEmail", "bounced"),
        ("It gave a general bounce message.", "General", "bounced"),
        ("The inbox is full: a soft Bounce Message", "MailboxFull", "bounced"),
        ("Resend has suppressed sending to this address.", "NoEmail", "blocked"),
        ("Suppressed sending, after a bounce message", "General", "blocked"),
        ("", "NoEmail", "bounced"),
        ("", "General", "bounced"),
        ("", "MailboxFull", "bounced"),
        ("", "Suppressed", "blocked"),
        ("Too large", "MessageTooLarge", "other"),
        ("", "ContentRejected", "other"),
        ("", "AttachmentRejected", "other"),
        ("", "Undetermined", "other"),
        ("", "Brand new", "other"),
    ],
)
def test_the_reason_of_a_bounce_is_in_its_words(message: str, subtype: str, reason: str) -> None:
    """And where they do not tell, in its subtype."""
    assert parsed(bounce(message, subtype)).reject_reason == reason


def test_an_event_is_identified_by_the_id_of_its_webhook() -> None:
    """Resend's retries and replays keep it, whatever else they change."""
    first, again = parsed(EVENTS["sent"][0]), parsed(EVENTS["delivered"][0])
    other = parsed(EVENTS["sent"][0], {"svix-id": "msg_78"})
    assert first.key == again.key != other.key


def test_without_an_id_the_bytes_tell() -> None:
    """As where Basic credentials alone are relied on."""
    first = parsed(EVENTS["sent"][0], {})
    assert first.event_id is None
    assert first.key == parsed(EVENTS["sent"][0], {}).key
    assert first.key != parsed(EVENTS["delivered"][0], {}).key


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_unknown_with_its_raw_data(body: bytes) -> None:
    """Nothing that arrived is lost."""
    event = parsed(body)
    assert (event.event_type, event.event_id, event.esp_event) == ("unknown", "msg_77", body)


# --- inbound -------------------------------------------------------------------------------

FILE_ID = "0c9f6b1e-2222-4222-8333-abcdefabcdef"
RECEIVED: dict[str, Any] = {
    "type": "email.received",
    "created_at": "2026-03-01T10:00:02.000Z",
    "data": {
        "email_id": EMAIL_ID,
        "created_at": "2026-03-01T10:00:00.000Z",
        "from": "Bo <bo@example.org>",
        "to": ["help@in.example.com"],
        "cc": [],
        "bcc": [],
        "received_for": ["help@in.example.com"],
        "message_id": "<b1@example.org>",
        "subject": "A question",
        "attachments": [
            {
                "id": FILE_ID,
                "filename": "a.png",
                "content_type": "image/png",
                "content_disposition": "inline",
                "content_id": "img1",
            }
        ],
    },
}
FILES: list[dict[str, Any]] = [
    {
        "id": FILE_ID,
        "filename": "a.png",
        "content_type": "image/png",
        "content_disposition": "inline",
        "content_id": "<img1>",
        "size": len(PNG),
    },
    {
        "id": "0c9f6b1e-3333-4222-8333-abcdefabcdef",
        "filename": None,
        "content_type": "text/plain; charset=iso-8859-1",
        "content_disposition": None,
        "content_id": None,
        "size": 3,
    },
]
CONTENTS = {FILES[0]["id"]: PNG, FILES[1]["id"]: b"\xe9t\xe9"}
MAIL: dict[str, Any] = {
    "object": "email",
    "id": EMAIL_ID,
    "from": "Bo Größe <bo@example.org>",
    "to": ["Help <help@in.example.com>", "second@example.com"],
    "cc": ["carl@example.net"],
    "bcc": ["blind@in.example.com"],
    "reply_to": ["desk@example.org"],
    "received_for": ["Help <help@in.example.com>"],
    "subject": "A question ✓",
    "message_id": "<b1@example.org>",
    "created_at": "2026-03-01T10:00:00.000Z",
    "headers": {
        "received": ["one", "two"],
        "date": "Sun, 01 Mar 2026 11:00:00 +0100",
        "in-reply-to": "<a1@shop.example.org>",
    },
    "html": '<img src="cid:img1">',
    "text": "How?",
    "attachments": FILES,
    "raw": None,
}
RAW_URL = "https://files.example.net/raw?sig=canary-signed"
SOURCE = (
    b"From: Bo <bo@example.org>\r\nTo: help@in.example.com\r\nSubject: Raw\r\n"
    b"Message-ID: <b1@example.org>\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n"
    b"Gr\xfc\xdfe\r\n"
)
FULL = {"download_url": RAW_URL, "expires_at": "2026-03-01T11:00:00.000Z"}


def ok(document: object) -> HttpResponse:
    return HttpResponse(200, {}, dumped(document))


def listed(files: Sequence[dict[str, Any]] = tuple(FILES), **more: Any) -> HttpResponse:
    """The list of a mail's files, with the URLs to have them from."""
    data = [
        {**file, "download_url": f"https://files.example.net/{file['id']}?sig=1"} for file in files
    ]
    return ok({"object": "list", "has_more": False, "data": data, **more})


def follow(
    answer: Callable[[HttpRequest], HttpResponse], raw: object = None
) -> tuple[list[Any], list[Fetch]]:
    """Follow the fetches of a webhook one after another; return what they lead to, and them."""
    body = dumped(RECEIVED if raw is None else raw)
    request = WebhookRequest({"svix-id": "msg_77"}, body)
    waiting: list[Any] = list(resend.parse(request, SETTINGS))
    found, fetches = [], []
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, Fetch):
            fetches.append(item)
            waiting[:0] = cast("Sequence[Any]", item.resume(answer(item.request)))
        else:
            found.append(item)
    return found, fetches


def answers(mail: object) -> Callable[[HttpRequest], HttpResponse]:
    """Resend, and the host of its files, which have one mail."""

    def answer(request: HttpRequest) -> HttpResponse:
        if request.url == RAW_URL:
            return HttpResponse(200, {}, SOURCE)
        if request.url.startswith("https://files.example.net/"):
            return HttpResponse(200, {}, CONTENTS[request.url[26:62]])
        if "/attachments" in request.url:
            return listed()
        return ok(mail)

    return answer


def test_a_mail_is_read_from_its_source() -> None:
    """The exact bytes; envelope and blind copies come from beside them."""
    (event,), fetches = follow(answers(MAIL | {"raw": FULL}))

    assert isinstance(event, InboundEvent)
    assert (event.event_id, event.timestamp) == ("msg_77", moment(10, 0, 2))
    assert event.esp_event == RECEIVED
    mail = event.message
    assert mail.raw == SOURCE
    assert (mail.subject, mail.text) == ("Raw", "Grüße\n")
    assert [item.addr_spec for item in mail.bcc] == ["blind@in.example.com"]
    assert (mail.envelope_sender, mail.envelope_recipient) == (None, "help@in.example.com")
    assert (mail.spam_detected, mail.spam_score) == (None, None)
    assert [fetch.request.url for fetch in fetches] == [
        f"{API}/emails/receiving/{EMAIL_ID}?html_format=cid",
        RAW_URL,
    ]


def test_the_key_goes_to_the_api_and_nowhere_else() -> None:
    """The URL of the source is of another host, and is all that is needed."""
    _, (first, second) = follow(answers(MAIL | {"raw": FULL}))
    now = datetime.now(timezone.utc)

    assert first.sign is not None
    signed = first.sign(first.request, SETTINGS, now)
    assert signed.headers["Authorization"] == f"Bearer {API_KEY}"
    assert isinstance(signed.headers["Authorization"], Secret)
    assert (signed.url, signed.headers["Accept"]) == (first.request.url, "application/json")
    assert not first.foreign
    assert second.foreign
    assert second.sign is None
    assert dict(second.request.headers) == {}


def test_without_its_source_a_mail_is_read_from_the_fields() -> None:
    """And its files are downloaded one by one."""
    (event,), fetches = follow(answers(MAIL))
    mail = event.message

    assert str(mail.from_email) == "Bo Größe <bo@example.org>"
    assert [str(item) for item in mail.to] == ["Help <help@in.example.com>", "second@example.com"]
    assert [item.addr_spec for item in mail.cc] == ["carl@example.net"]
    assert [item.addr_spec for item in mail.bcc] == ["blind@in.example.com"]
    assert [item.addr_spec for item in mail.reply_to] == ["desk@example.org"]
    assert (mail.subject, mail.message_id) == ("A question ✓", "b1@example.org")
    assert mail.date == datetime(2026, 3, 1, 11, tzinfo=timezone(timedelta(hours=1)))
    assert (mail.text, mail.html) == ("How?", '<img src="cid:img1">')
    assert mail.in_reply_to == "a1@shop.example.org"
    assert mail.headers.get_all("Received") == ["one", "two"]
    assert mail.headers["Subject"] == "A question ✓"
    assert mail.envelope_recipient == "help@in.example.com"
    assert (mail.raw, mail.defects) == (None, [])
    assert mail.inlines["img1"].data == PNG
    (file,) = mail.attachments
    assert (file.filename, file.text) == ("attachment.txt", "été")
    assert [(fetch.foreign, fetch.sign is None) for fetch in fetches] == [
        (False, False),
        (False, False),
        (True, True),
        (True, True),
    ]
    assert fetches[1].request.url == f"{API}/emails/receiving/{EMAIL_ID}/attachments?limit=100"


def test_a_mail_without_files_is_complete_at_once() -> None:
    (event,), fetches = follow(answers(MAIL | {"attachments": []}))
    assert len(fetches) == 1
    assert event.message.text == "How?"


def test_the_files_together_have_a_limit() -> None:
    """What is left of it is what the next one may have."""
    _, fetches = follow(answers(MAIL))
    assert [fetch.max_bytes for fetch in fetches[2:]] == [
        resend.MAX_MAIL,
        resend.MAX_MAIL - len(PNG),
    ]


def test_a_list_of_files_goes_on_after_its_last_one() -> None:
    """A hundred at a time."""
    pages = [listed(FILES[:1], has_more=True), listed(FILES[1:])]

    def answer(request: HttpRequest) -> HttpResponse:
        return pages.pop(0) if "/attachments" in request.url else answers(MAIL)(request)

    (event,), fetches = follow(answer)
    assert fetches[2].request.url.endswith(f"/attachments?limit=100&after={FILE_ID}")
    assert len(event.message.attachments) + len(event.message.inlines) == 2


def test_a_list_of_files_that_never_ends_ends() -> None:
    def answer(request: HttpRequest) -> HttpResponse:
        if "/attachments" in request.url:
            return listed(FILES * 50, has_more=True)
        return answers(MAIL)(request)

    (event,), fetches = follow(answer)
    assert len(fetches) == 1 + 2 + resend.MAX_FILES
    assert len(event.message.attachments) + len(event.message.inlines) == resend.MAX_FILES


def test_files_that_cannot_be_had_are_a_defect() -> None:
    """The mail is there all the same."""

    def answer(request: HttpRequest) -> HttpResponse:
        if "/attachments" in request.url:
            return ok({"data": [FILES[0], None, 7]})
        return answers(MAIL)(request)

    (event,), _ = follow(answer)
    assert event.message.defects == ["2 attachments could not be had"]
    assert event.message.text == "How?"


REFUSALS: list[tuple[int, object, str]] = [
    (404, {"name": "not_found"}, r"not there \(yet\)"),
    (401, {"name": "restricted_api_key"}, 'RESEND_API_KEY may only send.*"Full access"'),
    (401, {"name": "missing_api_key"}, "Check MAILESP_RESEND_API_KEY"),
    (403, {"name": "invalid_api_key"}, "Check MAILESP_RESEND_API_KEY"),
    (403, {"name": "email_above_quota"}, "beyond the account's quota"),
    (403, "?", "Check MAILESP_RESEND_API_KEY.*Full access"),
    (429, {"name": "rate_limit_exceeded"}, "HTTP 429"),
    (500, {}, "HTTP 500"),
    (200, [], "HTTP 200"),
    (200, None, "HTTP 200"),
    (302, {}, "HTTP 302"),
]


@pytest.mark.parametrize(("status", "answer", "text"), REFUSALS)
def test_what_cannot_be_fetched_must_come_again(status: int, answer: object, text: str) -> None:
    """The text says which key is needed; no address and no URL is in it."""
    with pytest.raises(FetchError, match=text) as error:
        follow(lambda request: HttpResponse(status, {}, dumped(answer)))
    assert "@" not in str(error.value)
    assert EMAIL_ID not in str(error.value)


@pytest.mark.parametrize("status", [302, 403, 404, 500])
@pytest.mark.parametrize("mail", [MAIL, MAIL | {"raw": FULL}], ids=["file", "source"])
def test_what_cannot_be_downloaded_must_come_again(mail: object, status: int) -> None:
    """Its URL may have expired; the next webhook leads to a new one."""

    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status) if "files." in request.url else answers(mail)(request)

    with pytest.raises(FetchError, match=f"HTTP {status}") as error:
        follow(answer)
    assert "canary" not in str(error.value)


def test_without_a_key_nothing_is_fetched() -> None:
    """An app may receive tracking events without one; for mail it is told which one it needs."""
    app = Flask("shop")
    app.config.update(CONFIG, MAILESP_ESP="postmark", MAILESP_POSTMARK_SERVER_TOKEN="t" * 9)
    del app.config["MAILESP_RESEND_API_KEY"]
    MailESP(app)
    hook = app.extensions["mailesp"].hook("resend")
    fetch = parsed(RECEIVED)
    with pytest.raises(FetchError, match=r"MAILESP_RESEND_API_KEY is not set.*Full access"):
        fetch.sign(fetch.request, hook[1], datetime.now(timezone.utc))


@pytest.mark.parametrize(
    "number",
    [
        "",
        None,
        7,
        "../../domains",
        f"{EMAIL_ID}/../../domains",
        f"{EMAIL_ID}\n",
        EMAIL_ID.replace("-", ""),
        EMAIL_ID.replace("1", "１"),
        f"{{{EMAIL_ID}}}",
        f"urn:uuid:{EMAIL_ID}",
        f"{EMAIL_ID}?x=1",
        f"{EMAIL_ID}%2f",
    ],
)
def test_an_id_that_is_no_uuid_is_asked_for_nowhere(number: object) -> None:
    """It would become a part of a path, with the key."""
    raw = {**RECEIVED, "data": {**RECEIVED["data"], "email_id": number}}
    assert parsed(raw).event_type == "unknown"


def test_a_mail_is_identified_by_its_own_id() -> None:
    """Whatever the webhook's."""
    (event,), _ = follow(answers(MAIL))
    (again,), _ = follow(answers(MAIL | {"raw": FULL}), {**RECEIVED, "created_at": None})
    assert event.key == again.key
    other = {**RECEIVED, "data": {"email_id": EMAIL_ID.replace("0c", "1c")}}
    (another,), _ = follow(answers(MAIL), other)
    assert another.key != event.key
    assert event.key != parsed(EVENTS["sent"][0]).key


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        ({"received_for": ["a@x.org", "b@x.org"], "to": ["c@x.org"]}, "a@x.org"),
        ({"received_for": [], "to": ["C <c@x.org>"]}, "help@in.example.com"),
        ({"received_for": "a@x.org"}, "a@x.org"),
        ({}, "help@in.example.com"),
    ],
)
def test_the_envelopes_recipient(mail: dict[str, Any], expected: str) -> None:
    """What the mail was received for, by the mail or else by the webhook."""
    (event,), _ = follow(answers(mail))
    assert event.message.envelope_recipient == expected


def test_without_a_word_on_the_envelope_the_first_to_has_it() -> None:
    raw = {"type": "email.received", "data": {"email_id": EMAIL_ID}}
    (event,), _ = follow(answers({"to": ["C <c@x.org>"]}), raw)
    assert event.message.envelope_recipient == "c@x.org"
    (event,), _ = follow(answers({}), raw)
    assert event.message.envelope_recipient is None


def read_everything(event: InboundEvent) -> None:
    mail = event.message
    _ = mail.headers.items(), mail.from_email, mail.to, mail.cc, mail.bcc, mail.reply_to
    _ = mail.subject, mail.date, mail.text, mail.html, mail.message_id, mail.defects
    _ = [(file.filename, file.data) for file in [*mail.attachments, *mail.inlines]]
    assert event.key


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "\x00", "9" * 5000, "<>,;@", EMAIL_ID, RAW_URL, 10**400])
)
NAMES = st.sampled_from([*MAIL, *FILES[0], "download_url", "data", "has_more"])
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@hypothesis_settings(max_examples=300, deadline=None, database=None)
@given(st.dictionaries(NAMES, ANYTHING, max_size=8), ANYTHING, st.binary(max_size=40))
def test_whatever_resend_answers_is_a_mail_or_comes_again(
    mail: dict[str, Any], files: Any, data: bytes
) -> None:
    """Events, or a FetchError; never another exception."""

    def answer(request: HttpRequest) -> HttpResponse:
        if not request.url.startswith(API):
            return HttpResponse(200, {}, data)
        return ok(files if "/attachments" in request.url else MAIL | mail)

    try:
        (event,), _ = follow(answer)
    except FetchError:
        return
    read_everything(event)


# --- over HTTP -----------------------------------------------------------------------------


def signed_headers(
    body: bytes, secret: str = SIGNING, message_id: str = "msg_77", at: datetime | None = None
) -> dict[str, str]:
    """The headers of a webhook that Resend posts now."""
    seconds = str(int((at or datetime.now(timezone.utc)).timestamp()))
    return {
        "svix-id": message_id,
        "svix-timestamp": seconds,
        "svix-signature": svix.signature(secret, message_id, seconds, body),
    }


class Resend:
    """Resend's API on the loopback interface, with one mail."""

    def __init__(self) -> None:
        self.mail: dict[str, Any] = dict(MAIL)
        self.missing = False

    def answer(self, request: HttpRequest) -> HttpResponse:
        host, _, path = request.url.partition("//")[2].partition("/")
        if self.missing:
            return HttpResponse(404, {}, dumped({"name": "not_found"}))
        if path.startswith("files/"):
            assert "authorization" not in request.headers
            return HttpResponse(200, {}, SOURCE if path == "files/raw" else CONTENTS[path[6:]])
        if not path.startswith("emails/receiving/"):
            number = [{"id": str(one)} for one in range(len(json.loads(body_of(request))))]
            answer = {"data": number} if path == "emails/batch" else {"id": EMAIL_ID}
            return ok(answer)
        assert request.headers["authorization"] == f"Bearer {API_KEY}"
        if "/attachments" in path:
            data = [{**one, "download_url": f"http://{host}/files/{one['id']}"} for one in FILES]
            return ok({"data": data})
        raw = self.mail["raw"] and {"download_url": f"http://{host}/files/raw"}
        return ok({**self.mail, "raw": raw})


class Posts:
    """An app whose Resend is here, what its receivers got, and how to post to it."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.seen: list[TrackingEvent | InboundEvent] = []

    def receive(self, app: Flask, event: Any, esp_name: str) -> None:
        assert esp_name == "Resend"
        self.seen.append(event)

    def post(self, kind: str, body: bytes, headers: Mapping[str, str]) -> int:
        with self.app.test_client() as client:
            return client.post(
                f"/mail-hooks/resend/{kind}/",
                data=body,
                headers=dict(headers),
                content_type="application/json",
            ).status_code


@contextmanager
def posts(answer: Callable[[HttpRequest], HttpResponse], **config: Any) -> Iterator[Posts]:
    with EspServer(answer) as server:
        app = app_of(MAILESP_RESEND_API_URL=server.url, **config)
        found = Posts(app)
        with (
            signals.tracking.connected_to(found.receive, app),
            signals.inbound.connected_to(found.receive, app),
        ):
            yield found
        app.extensions["mailesp"].transport.close()


@pytest.mark.parametrize("raw", [None, FULL], ids=["from its fields", "from its source"])
def test_inbound_mail_arrives(raw: object) -> None:
    """One webhook, two to four fetches, one event."""
    api = Resend()
    api.mail["raw"] = raw
    body = dumped(RECEIVED)
    with posts(api.answer) as hooks:
        assert hooks.post("inbound", body, signed_headers(body, INBOUND)) == 200
    (event,) = hooks.seen
    assert isinstance(event, InboundEvent)
    assert event.message.raw == (SOURCE if raw else None)
    assert event.message.envelope_recipient == "help@in.example.com"


def test_a_mail_that_is_not_there_yet_is_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """500 makes Resend post the webhook again; then it is there."""
    api, body = Resend(), dumped(RECEIVED)
    api.missing = True
    with posts(api.answer) as hooks, caplog.at_level(logging.INFO):
        assert hooks.post("inbound", body, signed_headers(body, INBOUND)) == 500
        assert hooks.seen == []
        assert "not there (yet)" in caplog.text
        assert "canary" not in caplog.text
        api.missing = False
        assert hooks.post("inbound", body, signed_headers(body, INBOUND)) == 200
    assert len(hooks.seen) == 1


def test_a_receiver_that_fails_has_the_event_posted_again() -> None:
    def fail(app: Flask, event: Any, esp_name: str) -> None:
        raise RuntimeError

    body = dumped(EVENTS["sent"][0])
    with posts(Resend().answer) as hooks, signals.tracking.connected_to(fail, hooks.app):
        assert hooks.post("tracking", body, signed_headers(body)) == 500


def test_each_url_has_its_own_secret() -> None:
    """An event at the wrong URL is not authentic there."""
    sent, received = dumped(EVENTS["sent"][0]), dumped(RECEIVED)
    with posts(Resend().answer) as hooks:
        assert hooks.post("inbound", sent, signed_headers(sent)) == 401
        assert hooks.post("tracking", received, signed_headers(received, INBOUND)) == 401
        assert hooks.seen == []


def test_one_endpoint_for_everything_is_understood(caplog: pytest.LogCaptureFixture) -> None:
    """What arrives is told by its content, with a warning."""
    body = dumped(RECEIVED)
    with posts(Resend().answer) as hooks:
        assert hooks.post("tracking", body, signed_headers(body)) == 200
    assert [type(event) for event in hooks.seen] == [InboundEvent]
    assert "inbound webhooks to the tracking URL" in caplog.text


def test_secrets_can_be_rotated() -> None:
    """A list of both, until Resend has stopped to sign with the old one."""
    body = dumped(EVENTS["sent"][0])
    with posts(Resend().answer, MAILESP_RESEND_SIGNING_SECRET=[NEW_SIGNING, SIGNING]) as hooks:
        assert hooks.post("tracking", body, signed_headers(body)) == 200
        assert hooks.post("tracking", body, signed_headers(body, NEW_SIGNING)) == 200
        assert hooks.post("tracking", body, signed_headers(body, INBOUND)) == 401


@pytest.mark.parametrize("off", [-301, 302])
def test_a_stale_webhook_is_rejected(off: int) -> None:
    body = dumped(EVENTS["sent"][0])
    then = datetime.now(timezone.utc) + timedelta(seconds=off)
    with posts(Resend().answer) as hooks:
        assert hooks.post("tracking", body, signed_headers(body, at=then)) == 401


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def test_credentials_are_required_besides_the_signature_where_they_are_set() -> None:
    body = dumped(EVENTS["sent"][0])
    both = basic("hook:canary-word") | signed_headers(body)
    with posts(Resend().answer, MAILESP_WEBHOOK_SECRET="hook:canary-word") as hooks:
        assert hooks.post("tracking", body, signed_headers(body)) == 401
        assert hooks.post("tracking", body, basic("hook:canary-word")) == 401
        assert hooks.post("tracking", body, basic("hook:wrong") | signed_headers(body)) == 401
        assert hooks.post("tracking", body, both) == 200


def test_none_relies_on_the_signature_alone() -> None:
    body = dumped(EVENTS["sent"][0])
    config = {"MAILESP_WEBHOOK_SECRET": "hook:pw", "MAILESP_RESEND_WEBHOOK_SECRET": None}
    with posts(Resend().answer, **config) as hooks:
        assert hooks.post("tracking", body, signed_headers(body)) == 200
        assert hooks.post("tracking", body, basic("hook:pw")) == 401


def test_without_any_secret_nothing_is_authentic() -> None:
    """The error names the key of the URL that was posted to."""
    settings = Settings({}, missing={"INBOUND_SECRET": "MAILESP_RESEND_INBOUND_SECRET is not set."})
    assert resend.esp.inbound is not None
    with pytest.raises(ConfigurationError, match="RESEND_INBOUND_SECRET"):
        resend.esp.inbound.verify(WebhookRequest({}, b""), settings, datetime.now(timezone.utc))


def test_credentials_alone_do_where_no_secret_is_set() -> None:
    """Weaker than a signature, but it is authentication."""
    settings = Settings({"WEBHOOK_SECRET": (b"hook:pw",), "SIGNING_SECRET": None})
    assert resend.esp.tracking is not None
    verify, now = resend.esp.tracking.verify, datetime.now(timezone.utc)

    verify(WebhookRequest(basic("hook:pw"), b""), settings, now)
    with pytest.raises(WebhookRejected):
        verify(WebhookRequest(basic("hook:other"), b""), settings, now)


def test_a_secret_that_is_none_is_told_by_name() -> None:
    with pytest.raises(ConfigurationError, match="MAILESP_RESEND_SIGNING_SECRET must be"):
        app_of(MAILESP_RESEND_SIGNING_SECRET=API_KEY)


def test_many_messages_and_a_bad_one() -> None:
    """The bad one's failure is its own; all ids reach their messages."""

    def answer(request: HttpRequest) -> HttpResponse:
        assert request.headers["x-batch-validation"] == "permissive"
        errors = [{"index": 1, "message": "Invalid `to`"}]
        return ok({"data": [{"id": "one"}, {"id": "three"}], "errors": errors})

    with EspServer(answer) as server:
        app = app_of(MAILESP_RESEND_API_URL=server.url)
        mail = MailESP()
        with app.app_context():
            results = list(mail.send_many(message_to(address) for address in people(3)))
        app.extensions["mailesp"].transport.close()
    assert [result.message_id for result in results] == ["one", None, "three"]
    assert [str(result.outcome) for result in results] == ["accepted", "refused", "accepted"]
    assert isinstance(results[1].error, APIError)


def test_one_message_that_cannot_be_built_does_not_keep_back_the_others() -> None:
    with EspServer(Resend().answer) as server:
        app = app_of(MAILESP_RESEND_API_URL=server.url)
        bad = message_to("b@example.com", attachments=[("a.txt", "text/csv", b"")])
        with app.app_context():
            results = list(
                MailESP().send_many([message_to("a@example.com"), bad, message_to("c@example.com")])
            )
        app.extensions["mailesp"].transport.close()
    assert [result.message_id for result in results] == ["0", None, "1"]
    assert isinstance(results[1].error, InvalidMessageError)


def test_calls_and_parts_show_no_recipients(mailer: Mailer) -> None:
    """They may end up in a log."""
    (call,) = calls(mailer, **BASE)
    assert "bea@" not in repr(call) + repr(Part(call.parts[0].recipients))
    fetch = parsed(RECEIVED)
    assert "example" not in repr(fetch).replace(API, "")


# --- the contract --------------------------------------------------------------------------


class TestContract(EspContract):
    """Hosted; JSON; signed webhooks; mail that is fetched."""

    esp = resend.esp
    config: ClassVar[dict[str, Any]] = CONFIG
    tracking = tuple(
        dumped(raw) for raw, expected in EVENTS.values() if expected["event_type"] != "unknown"
    )
    inbound = (dumped(RECEIVED),)

    def accept(self, request: HttpRequest) -> HttpResponse:
        return Resend().answer(request)

    def fetched(self, request: HttpRequest) -> HttpResponse:
        headers = {} if "/files/" in request.url else {"authorization": f"Bearer {API_KEY}"}
        return Resend().answer(HttpRequest(request.method, request.url, headers))

    def sign(self, body: bytes, kind: Kind) -> Mapping[str, str]:
        return signed_headers(body, SIGNING if kind == "tracking" else INBOUND)

    def wire(self, request: HttpRequest) -> str:
        return decoded(request) + request.headers.get("idempotency-key", "")


def test_all_types_of_events_are_in_the_contract() -> None:
    seen = {expected["event_type"] for _, expected in EVENTS.values()}
    assert set(resend.EVENT_TYPES.values()) | {EventType.UNKNOWN} == seen
