"""Mailgun: what goes over the wire, what its answers mean, what its webhooks tell."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from scripted import Reply, Request, ScriptedServer, scripted
from webhook_kit import Hooks, basic, encoded
from werkzeug.datastructures import Headers
from werkzeug.formparser import parse_form_data

from flask_mailesp import (
    Attachment,
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
from flask_mailesp.esp import Call, Feature, HttpRequest, HttpResponse, Settings, WebhookRequest
from flask_mailesp.esps import mailgun
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    InvalidHeaderError,
    MailESPError,
    RateLimitedError,
    SendUncertainError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from flask_mailesp.testing import EspContract, body_of, read_all

API_KEY = "canary-api-key-9tQ2wZ7e"
KEY = "canary-signing-key-5hB1xR8u"
SECRET = "hook:canary-hook-password"
SENDER = "Shop <post@mg.example.org>"
FORM = "application/x-www-form-urlencoded"

THEN = datetime.fromtimestamp(1791536000, timezone.utc)

Fields = list[tuple[str, str]]


# --- what is sent in here ------------------------------------------------------------------


def app_with(**settings: Any) -> Flask:
    """An app that sends through Mailgun and knows the key of its webhooks."""
    app = Flask("shop")
    app.config["MAILESP"] = {
        "ESP": "mailgun",
        "MAILGUN_API_KEY": API_KEY,
        "MAILGUN_WEBHOOK_SIGNING_KEY": KEY,
    } | settings
    MailESP(app)
    return app


def mailer_of(app: Flask) -> Mailer:
    mailer: Mailer = app.extensions["mailesp"].mailer(None)
    return mailer


@pytest.fixture(scope="module")
def mailer() -> Mailer:
    return mailer_of(app_with())


def calls(mailer: Mailer, message: Message) -> list[Call]:
    return list(mailer.esp.build(prepared_for(mailer, message), mailer.settings))


def form_of(call: Call) -> Fields:
    """The form of a call without files, in order."""
    assert call.request.headers["Content-Type"] == FORM
    return parse_qsl(body_of(call.request).decode(), keep_blank_values=True, strict_parsing=True)


def wire(mailer: Mailer, message: Message) -> Fields:
    """The form of a message's only call."""
    (call,) = calls(mailer, message)
    return form_of(call)


def values(fields: Fields, name: str) -> list[str]:
    return [value for key, value in fields if key == name]


def variables_of(fields: Fields) -> dict[str, Any]:
    (text,) = values(fields, "recipient-variables")
    found: dict[str, Any] = json.loads(text)
    return found


def plain(**fields: Any) -> Message:
    return Message(
        **{"subject": "Hello", "to": ["bo@example.com"], "body": "Hi", "sender": SENDER, **fields}
    )


# --- what is received in here --------------------------------------------------------------


def token_of(number: int) -> str:
    """A token of 50 characters."""
    return f"{number:x}".rjust(50, "t")


def signature(timestamp: str, token: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()


_tokens = iter(range(1, 10**9))


def proof(when: float | None = None, token: str | None = None, key: str = KEY) -> dict[str, str]:
    """The three signed values, made now with a new token unless something else is asked for."""
    timestamp = str(int(time.time() if when is None else when))
    token = token_of(next(_tokens)) if token is None else token
    return {"timestamp": timestamp, "token": token, "signature": signature(timestamp, token, key)}


def hook(event: dict[str, Any], **signed: Any) -> bytes:
    """A tracking webhook's body."""
    return encoded({"signature": signed or proof(), "event-data": event})


def post_form(fields: Mapping[str, Any], **signed: Any) -> bytes:
    """An inbound post without files; values may be bytes."""
    return urlencode({**fields, **(signed or proof())}).encode()


class Multipart:
    """A multipart body, put together by hand."""

    boundary = "--=_cut-here"

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    @property
    def content_type(self) -> str:
        return f'multipart/form-data; boundary="{self.boundary}"'

    def add(self, name: str, value: bytes, filename: str | None = None, kind: str = "") -> None:
        head = f'Content-Disposition: form-data; name="{name}"'
        head += f'; filename="{filename}"' if filename is not None else ""
        head += f"\r\nContent-Type: {kind}" if kind else ""
        self.parts.append(f"--{self.boundary}\r\n{head}\r\n\r\n".encode() + value + b"\r\n")

    def body(self) -> bytes:
        return b"".join(self.parts) + f"--{self.boundary}--\r\n".encode()


def multipart(fields: Mapping[str, str | bytes], files: Any = ()) -> tuple[bytes, str]:
    """The body and content type of an inbound post with files."""
    form = Multipart()
    for name, value in fields.items():
        form.add(name, value.encode() if isinstance(value, str) else value)
    for file in files:
        form.add(*file)
    return form.body(), form.content_type


def request_of(body: bytes, content_type: str = "application/json", **more: str) -> WebhookRequest:
    return WebhookRequest(Headers({"Content-Type": content_type, **more}), body)


def settings_of(**settings: Any) -> Settings:
    found: Settings = app_with(**settings).extensions["mailesp"].hook("mailgun")[1]
    return found


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_of()


def event_of(settings: Settings, event: dict[str, Any]) -> TrackingEvent:
    (found,) = mailgun.parse(request_of(hook(event)), settings)
    assert isinstance(found, TrackingEvent)
    return found


def mail_of(settings: Settings, body: bytes, content_type: str = FORM) -> InboundEvent:
    (found,) = mailgun.parse(request_of(body, content_type), settings)
    assert isinstance(found, InboundEvent)
    read_all(found.message)
    return found


# --- sending: the wire ---------------------------------------------------------------------


def test_every_field_is_written_under_mailguns_name(mailer: Mailer) -> None:
    """These names, repeated for lists, in UTF-8; nothing else."""
    message = plain(
        to=["Bo <bo@example.com>", ("Lind, Åsa", "asa@example.com")],
        cc="cc@example.com",
        bcc=["bcc@bücher.example"],
        subject="Köp ✓",
        html="<p>Hi</p>",
        alternatives=[("<html ⚡4email></html>", "text/x-amp-html")],
        reply_to=["Desk <desk@example.org>", "b@example.org"],
        headers={"X-Order": "1042", "list-unsubscribe": "<mailto:off@example.org>"},
        metadata={"order": 1042, "vip": "yes"},
        tags=["receipt", "november"],
        track_clicks=False,
        track_opens=True,
        send_at=datetime(2031, 10, 9, 10, 53, 20, tzinfo=timezone(timedelta(hours=2))),
    )

    assert wire(mailer, message) == [
        ("from", "Shop <post@mg.example.org>"),
        ("to", "Bo <bo@example.com>"),
        ("to", '"Lind, Åsa" <asa@example.com>'),
        ("cc", "cc@example.com"),
        ("bcc", "bcc@xn--bcher-kva.example"),
        ("subject", "Köp ✓"),
        ("text", "Hi"),
        ("html", "<p>Hi</p>"),
        ("amp-html", "<html ⚡4email></html>"),
        ("h:Reply-To", "Desk <desk@example.org>, b@example.org"),
        ("h:X-Order", "1042"),
        ("h:List-Unsubscribe", "<mailto:off@example.org>"),
        ("v:order", "1042"),
        ("v:vip", "yes"),
        ("o:tag", "receipt"),
        ("o:tag", "november"),
        ("o:tracking-clicks", "no"),
        ("o:tracking-opens", "yes"),
        ("o:deliverytime", "Thu, 09 Oct 2031 08:53:20 +0000"),
    ]


def test_what_a_message_lacks_is_not_on_the_wire(mailer: Mailer) -> None:
    """No empty fields; a template may have a subject of its own."""
    message = plain(subject="", body=None, html="<p>Hi</p>")

    assert wire(mailer, message) == [
        ("from", "Shop <post@mg.example.org>"),
        ("to", "bo@example.com"),
        ("html", "<p>Hi</p>"),
    ]


def test_the_request_is_a_post_with_basic_credentials(mailer: Mailer) -> None:
    (call,) = calls(mailer, plain())

    assert call.request.method == "POST"
    assert call.request.url == "https://api.mailgun.net/v3/mg.example.org/messages"
    assert dict(call.request.headers) == {
        "Authorization": basic(f"api:{API_KEY}")["Authorization"],
        "Accept": "application/json",
        "Content-Type": FORM,
    }
    assert "***" in repr(call.request.headers["Authorization"])


def files_of(call: Call) -> tuple[Fields, list[tuple[str, str, str, bytes]]]:
    """The fields and files of a multipart call, as another parser reads them."""
    environ = {
        "wsgi.input": io.BytesIO(body_of(call.request)),
        "CONTENT_LENGTH": str(len(call.request.body)),
        "CONTENT_TYPE": call.request.headers["Content-Type"],
        "REQUEST_METHOD": "POST",
    }
    _, form, files = parse_form_data(environ)
    found = []
    for name, file in files.items(multi=True):
        with closing(file):
            content_type = file.headers["Content-Type"]
            found.append((name, file.filename or "", content_type, file.read()))
    return list(form.items(multi=True)), found


def test_files_make_the_form_multipart(mailer: Mailer) -> None:
    """An inline image is named by its content id: the name of its file cannot travel."""
    message = plain(
        html='<img src="cid:logo@x">',
        attachments=[
            Attachment('Größe 7".csv', "text/csv", "a;ü\r\n", charset="iso-8859-1"),
            Attachment("a.txt", "text/plain; charset=utf-8", b"\x00\xff--\r\n", charset="ascii"),
            Attachment("logo.png", "image/png", b"\x89PNG", content_id="logo@x"),
            Attachment(None, "application/pdf", b"%PDF"),
        ],
    )
    (call,) = calls(mailer, message)
    fields, files = files_of(call)

    assert fields == [
        ("from", SENDER),
        ("to", "bo@example.com"),
        ("subject", "Hello"),
        ("text", "Hi"),
        ("html", '<img src="cid:logo@x">'),
    ]
    assert files == [
        ("attachment", 'Größe 7".csv', "text/csv; charset=iso-8859-1", b"a;\xfc\r\n"),
        ("attachment", "a.txt", "text/plain; charset=utf-8", b"\x00\xff--\r\n"),
        ("attachment", "attachment.pdf", "application/pdf", b"%PDF"),
        ("inline", "logo@x", "image/png", b"\x89PNG"),
    ]
    assert b"filename*" not in body_of(call.request)  # with it, Mailgun loses the file


def test_a_template_has_its_own_words_and_data_of_any_shape(mailer: Mailer) -> None:
    """Without a batch the data may be nested, and no recipient sees it."""
    data = {"shop": {"name": "Blå"}, "items": [1, 2]}
    message = plain(body=None, template_id="receipt", merge_global_data=data)
    fields = wire(mailer, message)

    assert fields[:-1] == [
        ("from", SENDER),
        ("to", "bo@example.com"),
        ("subject", "Hello"),
        ("template", "receipt"),
    ]
    assert fields[-1][0] == "t:variables"
    assert json.loads(fields[-1][1]) == data


# --- sending: settings and the domain ------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "https://api.mailgun.net/v3"),
        ("https://api.eu.mailgun.net/v3", "https://api.eu.mailgun.net/v3"),
        ("https://api.eu.mailgun.net/v3/", "https://api.eu.mailgun.net/v3"),
        ("https://api.eu.mailgun.net", "https://api.eu.mailgun.net/v3"),
        ("https://proxy.example.org/mg/v3", "https://proxy.example.org/mg/v3"),
    ],
)
def test_the_url_of_a_region_may_be_given_without_the_version(
    url: str | None, expected: str
) -> None:
    """Mailgun answers 200 to a path that it does not know, and sends nothing."""
    mailer = mailer_of(app_with(MAILGUN_API_URL=url) if url else app_with())
    (call,) = calls(mailer, plain())

    assert call.request.url == f"{expected}/mg.example.org/messages"


@pytest.mark.parametrize(
    ("fields", "setting", "domain"),
    [
        ({}, None, "mg.example.org"),
        ({"sender": "me@bücher.example"}, None, "xn--bcher-kva.example"),
        ({}, "mail.example.net", "mail.example.net"),
        ({"envelope_sender": "any@b.example"}, "mail.example.net", "b.example"),
        (
            {"envelope_sender": "any@b.example", "esp_extra": {"sender_domain": "c.example"}},
            "mail.example.net",
            "c.example",
        ),
        ({"esp_extra": {"sender_domain": "bücher.example"}}, None, "xn--bcher-kva.example"),
    ],
)
def test_the_domain_is_the_messages_or_the_settings_or_the_senders(
    fields: dict[str, Any], setting: str | None, domain: str
) -> None:
    """In this order; esp_extra's does not become a form field."""
    (call,) = calls(mailer_of(app_with(MAILGUN_SENDER_DOMAIN=setting)), plain(**fields))

    assert call.request.url == f"https://api.mailgun.net/v3/{domain}/messages"
    assert form_of(call) == wire(mailer_of(app_with()), plain(sender=fields.get("sender", SENDER)))


NOT_DOMAINS = [
    "",
    ".",
    "..",
    "a/b",
    "a%2fb",
    "a%2Fb",
    "../..",
    "a.example/messages?x=",
    "a b",
    "a.example#",
    "a\r\nb",
    "a..b",
    ".a",
    "a.",
    "[192.0.2.1]",
    "user@a.example",
    7,
    ["a.example"],
]


@pytest.mark.parametrize("domain", NOT_DOMAINS)
def test_what_is_no_domain_never_gets_into_the_url(mailer: Mailer, domain: Any) -> None:
    """Mailgun would answer 200 to a path, and send nothing."""
    with pytest.raises(InvalidHeaderError, match="sender_domain"):
        calls(mailer, plain(esp_extra={"sender_domain": domain}))
    if domain:
        with pytest.raises(ConfigurationError, match=r"MAILGUN_SENDER_DOMAIN.*Domains"):
            app_with(MAILGUN_SENDER_DOMAIN=domain)


def test_a_domain_literal_is_refused_as_the_senders_domain(mailer: Mailer) -> None:
    with pytest.raises(InvalidHeaderError, match="sender"):
        calls(mailer, plain(sender="me@[192.0.2.1]"))


def test_a_missing_key_is_named_and_found() -> None:
    with pytest.raises(ConfigurationError, match=r"MAILESP_MAILGUN_API_KEY is not set.*Security"):
        app_with(MAILGUN_API_KEY=None)


@pytest.mark.parametrize("key", [7, [], ["a", 7], ["a", ""], "two words", "schlüssel", {"a": 1}])
def test_an_unusable_signing_key_is_refused_at_the_start(key: Any) -> None:
    """Without showing it."""
    with pytest.raises(ConfigurationError, match="MAILGUN_WEBHOOK_SIGNING_KEY") as caught:
        app_with(MAILGUN_WEBHOOK_SIGNING_KEY=key)

    assert "words" not in str(caught.value)


# --- sending: esp_extra --------------------------------------------------------------------


def test_esp_extra_takes_the_place_of_fields_of_the_same_name(mailer: Mailer) -> None:
    """Lists repeat a field, switches are Mailgun's words, dicts are JSON, None removes."""
    extra = {
        "o:tag": ["a", "b"],
        "o:testmode": True,
        "o:tracking-clicks": "htmlonly",
        "o:require-tls": False,
        "o:deliverytime-optimize-period": 24,
        "t:variables": {"a": [1]},
        "text": None,
        "html": "<p>\r\n</p>",
    }
    fields = wire(mailer, plain(tags=["x"], track_clicks=True, esp_extra=extra))

    assert fields == [
        ("from", SENDER),
        ("to", "bo@example.com"),
        ("subject", "Hello"),
        ("o:tag", "a"),
        ("o:tag", "b"),
        ("o:testmode", "yes"),
        ("o:tracking-clicks", "htmlonly"),
        ("o:require-tls", "no"),
        ("o:deliverytime-optimize-period", "24"),
        ("t:variables", '{"a":[1]}'),
        ("html", "<p>\r\n</p>"),
    ]


@pytest.mark.parametrize("name", ["h:X-A", "subject", "o:tag", "to", "v:a", "template"])
@pytest.mark.parametrize("value", ["a\r\nBcc: x@example.net", "a\nb", "a\rb", "a\0b"])
def test_esp_extra_starts_no_header(mailer: Mailer, name: str, value: str) -> None:
    with pytest.raises(InvalidHeaderError, match="line break"):
        calls(mailer, plain(esp_extra={name: value}))
    with pytest.raises(InvalidHeaderError, match="line break"):
        calls(mailer, plain(esp_extra={name: ["ok", value]}))


@pytest.mark.parametrize("control", ["\r\n", "\n", "\r", "\0", "\v", "\x85", "\u2028"])
def test_no_name_of_a_field_starts_a_header(mailer: Mailer, control: str) -> None:
    name = f"h:X-A{control}Bcc"
    with pytest.raises(InvalidHeaderError, match="name"):
        calls(mailer, plain(esp_extra={name: "x@example.net"}))
    with pytest.raises(InvalidHeaderError, match="name"):
        calls(mailer, plain(merge_data={"ana@example.org": {name: "x"}}, to="ana@example.org"))


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "Hi %recipient.name%"},
        {"headers": {"X-A": "%recipient.name%"}},
        {"merge_headers": {"ana@example.org": {"X-A": "%recipient.name%"}}},
        {"sender": ("%recipient.name%", "shop@mg.example.org")},
    ],
)
@pytest.mark.parametrize("field", ["merge_data", "merge_global_data"])
def test_merge_data_starts_no_header(mailer: Mailer, field: str, fields: dict[str, Any]) -> None:
    """A name that a user has typed in takes the placeholder's place at Mailgun."""
    data = {"name": "Ana\r\nBcc: x@example.net"}
    rows = data if field == "merge_global_data" else {"ana@example.org": data}
    with pytest.raises(InvalidHeaderError, match="'name'"):
        calls(mailer, plain(to="ana@example.org", **{**fields, field: rows}))


def test_merge_data_for_a_body_may_have_lines(mailer: Mailer) -> None:
    rows = {"ana@example.org": {"address": "12 Elm Road\nHull"}}
    assert calls(mailer, plain(to="ana@example.org", body="%recipient.address%", merge_data=rows))


def test_names_of_merge_data_may_be_numbers(mailer: Mailer) -> None:
    """As in JSON, where they become texts."""
    (call,) = calls(mailer, plain(to="ana@example.org", merge_data={"ana@example.org": {1: "x"}}))
    assert b"%221%22%3A%22x%22" in call.request.body


def test_a_time_that_is_none_in_utc_is_refused(mailer: Mailer) -> None:
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    with pytest.raises(SerializationError, match="send_at"):
        calls(mailer, plain(send_at=last))


@pytest.mark.parametrize("value", [Decimal(1), THEN, b"x", [b"x"], {"a": Decimal(1)}, "\ud800"])
def test_what_a_form_cannot_carry_is_refused(mailer: Mailer, value: Any) -> None:
    with pytest.raises(SerializationError):
        calls(mailer, plain(esp_extra={"o:x": value}))


# --- sending: what cannot be expressed -----------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": [], "cc": ["cc@example.com"]}, "Cc or Bcc without To"),
        ({"alternatives": [("x", "text/calendar")]}, "alternative"),
        ({"alternatives": [("<p>", "text/html")]}, "alternative"),
        ({"alternatives": [("x", "text/x-amp-html")] * 2}, "more than one AMP"),
        ({"template_id": "t"}, "Own body with a template"),
        ({"sender": "jörg@mg.example.org"}, "sender whose mailbox is not ASCII"),
        (
            {"to": ["a@example.com", "b@example.com"], "merge_global_data": {"a": 1}},
            "several recipients",
        ),
        (
            {"merge_data": {"bo@example.com": {"a": [1]}}},
            r"lists and dicts.*merge_data\['a'\]",
        ),
        (
            {
                "body": None,
                "template_id": "t",
                "merge_data": {},
                "merge_global_data": {"a": {"b": 1}},
            },
            "lists and dicts",
        ),
        (
            {
                "body": None,
                "template_id": "t",
                "metadata": {"a": "1"},
                "merge_data": {"bo@example.com": {"a": "2"}},
            },
            "metadata and template data of the same name",
        ),
        (
            {
                "body": None,
                "template_id": "t",
                "merge_metadata": {"bo@example.com": {"a": "1"}},
                "merge_data": {"bo@example.com": {"a": "2"}},
            },
            "metadata and template data of the same name",
        ),
    ],
)
def test_what_mailgun_would_lose_or_spoil_is_refused(
    mailer: Mailer, fields: dict[str, Any], words: str
) -> None:
    """Before any request, saying what it is."""
    with pytest.raises(UnsupportedFeatureError, match=f"Mailgun cannot express.*{words}"):
        calls(mailer, plain(**fields))


@pytest.mark.parametrize(
    "value",
    [Decimal(1), THEN, b"x", 10**5000],
    ids=["decimal", "date", "bytes", "number"],
)
def test_merge_data_must_be_text_or_numbers(mailer: Mailer, value: Any) -> None:
    with pytest.raises(SerializationError, match=r"merge_data\['a'\]"):
        calls(mailer, plain(merge_data={"bo@example.com": {"a": value}}))


# --- sending: batches ----------------------------------------------------------------------

ANA, BO, CY = "ana@example.org", "bo@example.org", "cy@example.org"


def test_a_batch_gives_every_recipient_every_variable(mailer: Mailer) -> None:
    """A placeholder without a value would stay in the text as it is."""
    message = plain(
        to=["Ana <ANA@example.org>", BO, CY],
        merge_data={ANA: {"name": "Ana", "no": 1}, BO: {"name": "Bo", "note": None}},
        merge_global_data={"shop": "Blå", "no": 7},
        merge_metadata={ANA: {"order": "A1"}, CY: {"order": 3, "vip": True}},
        merge_headers={BO: {"x-row": "2", "Reply-To": "bo-desk@example.org"}},
        metadata={"order": "none", "source": "web"},
        headers={"X-Row": "0", "X-Same": "s"},
        reply_to=["desk@example.org"],
    )
    fields = wire(mailer, message)

    assert fields[:-1] == [
        ("from", SENDER),
        ("to", "Ana <ANA@example.org>"),
        ("to", BO),
        ("to", CY),
        ("subject", "Hello"),
        ("text", "Hi"),
        ("h:X-Same", "s"),
        ("v:source", "web"),
        ("v:order", "%recipient.v:order%"),
        ("v:vip", "%recipient.v:vip%"),
        ("h:X-Row", "%recipient.h:X-Row%"),
        ("h:Reply-To", "%recipient.h:Reply-To%"),
    ]
    common = {"shop": "Blå", "v:vip": "", "h:X-Row": "0", "h:Reply-To": "desk@example.org"}
    assert variables_of(fields) == {
        "ANA@example.org": {**common, "name": "Ana", "no": "1", "note": "", "v:order": "A1"},
        BO: {
            **common,
            "name": "Bo",
            "no": "7",
            "note": "",
            "v:order": "none",
            "h:X-Row": "2",
            "h:Reply-To": "bo-desk@example.org",
        },
        CY: {**common, "name": "", "no": "7", "note": "", "v:order": "3", "v:vip": "True"},
    }


def test_a_template_in_a_batch_gets_its_data_as_metadata(mailer: Mailer) -> None:
    """Stored templates do not see recipient-variables, only ``v:`` fields."""
    message = plain(
        to=[ANA, BO],
        body=None,
        template_id="receipt",
        merge_data={ANA: {"name": "Ana"}},
        merge_global_data={"shop": "Blå"},
        metadata={"order": "1"},
    )
    fields = wire(mailer, message)

    assert fields[3:-1] == [
        ("subject", "Hello"),
        ("template", "receipt"),
        ("v:order", "1"),
        ("v:name", "%recipient.name%"),
        ("v:shop", "%recipient.shop%"),
    ]
    assert variables_of(fields) == {
        ANA: {"name": "Ana", "shop": "Blå"},
        BO: {"name": "", "shop": "Blå"},
    }


@pytest.mark.parametrize("field", ["merge_data", "merge_metadata", "merge_headers"])
def test_an_empty_batch_is_a_batch(mailer: Mailer, field: str) -> None:
    """The mere presence of recipient-variables gives each recipient a private copy."""
    fields = wire(mailer, plain(to=[ANA, BO], **{field: {}}))

    assert variables_of(fields) == {ANA: {}, BO: {}}


def test_rows_of_strangers_leave_nothing_on_the_wire(mailer: Mailer) -> None:
    fields = wire(mailer, plain(to=[ANA], merge_data={BO: {"name": "stranger"}, ANA: {"a": "1"}}))

    assert variables_of(fields) == {ANA: {"a": "1"}}


def test_data_for_all_in_the_text_of_one_message_needs_one_recipient(mailer: Mailer) -> None:
    """Of several, each would get a private copy that nobody asked for."""
    fields = wire(mailer, plain(cc=["cc@example.com"], merge_global_data={"shop": "Blå"}))

    assert variables_of(fields) == {"bo@example.com": {"shop": "Blå"}}


def people(count: int) -> list[str]:
    return [f"p{number}@example.com" for number in range(count)]


@pytest.mark.parametrize(
    ("count", "others", "sizes"),
    [(1000, 0, [1000]), (1001, 0, [1000, 1]), (2000, 3, [997, 997, 6]), (3, 1200, [1, 1, 1])],
)
def test_a_batch_is_cut_at_a_thousand_recipients(
    mailer: Mailer, count: int, others: int, sizes: list[int]
) -> None:
    """Cc and bcc go with every copy, and count; every call names whom it covers."""
    cc = [f"c{number}@example.net" for number in range(others)]
    rows = {one: {"n": one} for one in people(count)}
    built = calls(mailer, plain(to=people(count), cc=cc, merge_data=rows))

    assert [len(variables_of(form_of(call))) for call in built] == sizes
    assert [len(call.parts[0].recipients) for call in built] == [size + others for size in sizes]
    sent_to = [one for call in built for one in values(form_of(call), "to")]
    assert sent_to == people(count)


def test_a_batch_that_cannot_be_encoded_sends_nothing(mailer: Mailer) -> None:
    """Not even the copies before the one that is wrong."""
    rows = {"p1500@example.com": {"n": "\ud800"}}

    with pytest.raises(SerializationError):
        mailer.esp.build(
            prepared_for(mailer, plain(to=people(1501), merge_data=rows)), mailer.settings
        )


# --- sending: the answers ------------------------------------------------------------------

ID = "<20311009085320.1.7C3D@mg.example.org>"
QUEUED = {"id": ID, "message": "Queued. Thank you."}


def answer(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Reply:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Reply(status, body, {"Content-Type": "application/json", **(headers or {})})


@contextmanager
def answering(*script: Any) -> Iterator[tuple[MailESP, ScriptedServer]]:
    """An app whose Mailgun follows a script."""
    with scripted(*script) as server:
        app = app_with(MAILGUN_API_URL=server.url)
        mail = MailESP()
        with app.app_context():
            yield mail, server
        app.extensions["mailesp"].transport.close()


def failed(message: Message, *script: Any) -> tuple[MailESPError, SendResult]:
    with answering(*script) as (mail, _), pytest.raises(MailESPError) as caught:
        mail.send(message)
    assert caught.value.result is not None
    assert caught.value.esp_name == "Mailgun"
    return caught.value, caught.value.result


def test_one_id_is_everybodys() -> None:
    """With its angle brackets, as tracking events carry it here."""
    with answering(answer(200, QUEUED)) as (mail, server):
        result = mail.send(plain(cc=["cc@example.com"], bcc=["bcc@example.com"]))

    assert server.requests[0].target == "/v3/mg.example.org/messages"
    assert (result.outcome, result.status, result.message_id) == ("accepted", {"queued"}, ID)
    assert [entry.message_id for entry in result.recipients.values()] == [ID] * 3


def test_every_chunk_of_a_batch_has_an_id_and_cc_has_them_all() -> None:
    ids = iter(["<1@mg.example.org>", "<2@mg.example.org>"])

    def accept(request: Request) -> Reply:
        return answer(200, {**QUEUED, "id": next(ids)})

    with answering(accept, accept) as (mail, server):
        result = mail.send(plain(to=people(1000), cc=["cc@example.com"], merge_data={}))

    assert len(server.requests) == 2
    assert result.recipients["p0@example.com"].message_id == "<1@mg.example.org>"
    assert result.recipients["p999@example.com"].message_id == "<2@mg.example.org>"
    assert result.recipients["cc@example.com"].message_id == frozenset(
        {"<1@mg.example.org>", "<2@mg.example.org>"}
    )


def test_a_chunk_that_fails_keeps_the_ids_of_the_one_before() -> None:
    with answering(answer(200, QUEUED), answer(400, {"message": "no"})) as (mail, _):
        result = mail.send(plain(to=people(1500), merge_data={}))

    assert result.outcome == "partial"
    assert result.recipients["p0@example.com"].message_id == ID
    assert result.recipients["p1499@example.com"].status == Status.FAILED


REFUSALS: list[tuple[int, Any, type[MailESPError], str, str]] = [
    (400, {"message": "'to' parameter is not a valid address."}, APIError, "'to' p", "HTTP 400"),
    (401, b"Forbidden", AuthenticationError, "Forbidden", "MAILESP_MAILGUN_API_KEY"),
    (401, "Forbidden", AuthenticationError, "Forbidden", "MAILESP_MAILGUN_API_KEY"),
    (402, {"message": "Request failed"}, APIError, "Request f", "HTTP 402"),
    (403, {"message": "Not allowed"}, AuthenticationError, "Not all", "HTTP 403"),
    (404, {"message": "Domain not found: mg"}, APIError, "Domain", r"api\.eu\.mailgun\.net"),
    (413, b"<h1>Too large</h1>", APIError, "<h1>", "too large"),
    (400, [1], APIError, "", "HTTP 400"),
]


@pytest.mark.parametrize(("status", "document", "kind", "said", "hint"), REFUSALS)
def test_a_refusal_is_of_the_whole_call(
    status: int, document: Any, kind: type[MailESPError], said: str, hint: str
) -> None:
    """One malformed address is enough; Mailgun does not say which."""
    with pytest.raises(kind, match=hint) as caught:
        raise failed(plain(cc=["cc@example.com"]), answer(status, document))[0]

    error = caught.value
    assert type(error) is kind
    assert isinstance(error, APIError)
    assert error.message.startswith(said)
    assert error.result is not None
    assert (error.result.outcome, error.result.status) == ("refused", {"failed"})
    assert not said or said not in str(error)


def test_the_page_that_answers_for_a_wrong_path_is_no_acceptance() -> None:
    """Mailgun answers 200 to whatever is not its API."""
    error, result = failed(plain(), answer(200, b"Mailgun Magnificent API\n"))

    assert type(error) is APIError
    assert "MAILESP_MAILGUN_API_URL" in str(error)
    assert result.outcome == "refused"


@pytest.mark.parametrize(
    "document",
    [
        {"id": ID},
        {"id": ID, "message": "Hello"},
        {"id": ID, "message": None},
        {"message": "Queued. Thank you."},
        {"id": 7, "message": "Queued. Thank you."},
        {"id": "", "message": "Queued. Thank you."},
        [QUEUED],
        "Queued",
        b"<html>Queued</html>",
        b"\xff",
        b"",
    ],
)
def test_a_200_without_id_and_queued_is_uncertain_and_keeps_an_id(document: Any) -> None:
    error, result = failed(plain(), answer(200, document))

    assert type(error) is SendUncertainError
    assert result.status == {"unknown"}
    has_id = isinstance(document, dict) and document.get("id") == ID
    assert result.message_id == (ID if has_id else None)


def in_seconds(seconds: int) -> str:
    moment = datetime(2031, 10, 9, 8, 53, 20, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    return moment.strftime("%a, %d %b %Y %H:%M:%S")


DATE = {"Date": in_seconds(0) + " GMT"}
LIMITS: list[tuple[Any, dict[str, str], float | None]] = [
    ({"message": "Domain x limit exceeded, try again after 17 seconds"}, {}, 17),
    ({"message": "limit exceeded, try again after 1 second"}, {}, 1),
    ({"message": f"limit exceeded, try again after {in_seconds(90)} +0000"}, DATE, 90),
    ({"message": f"limit exceeded, try again after {in_seconds(60)} GMT."}, DATE, 60),
    ({"message": f"limit exceeded, try again after {in_seconds(-9)} UTC"}, DATE, 0),
    ({"message": "limit exceeded, try again after lunch"}, {}, None),
    ({"message": "Too Many Requests"}, {**DATE, "X-RateLimit-Reset": "1949302430"}, 30),
    ({"message": "try again after 5 seconds"}, {"Retry-After": "40"}, 40),
    ({}, {"X-RateLimit-Reset": "soon"}, None),
    ({}, {"X-RateLimit-Reset": "9" * 18}, None),
    (b"", {"X-RateLimit-Reset": "-1"}, None),
    ({"message": "try again after 999999999 seconds"}, {}, 86_400),
]


@pytest.mark.parametrize(("document", "headers", "expected"), LIMITS)
def test_when_to_try_again_is_read_from_the_words(
    document: Any, headers: dict[str, str], expected: float | None
) -> None:
    """Mailgun has no Retry-After: it writes the time into the message, or another header."""
    error, _ = failed(plain(), answer(429, document, headers))

    assert isinstance(error, RateLimitedError)
    assert error.retry_after == expected


# --- webhooks: who may post ----------------------------------------------------------------

VECTOR_KEY = "mailesp-demo-signing-key"
VECTOR_PARENT = "mailesp-demo-parent-key"
VECTOR = {
    "timestamp": "1791536000",
    "token": "0123456789abcdef0123456789abcdef0123456789abcdef01",
    "signature": "33b747ce8ecdb6af8bb016d4fd25b3f82674ebcf564719223ac84bdf56518fb2",
}
PARENT = "960dea5afbcbc374cc3e3609106aae8900e33c45448ddc0c4ad483e2e4aaf082"
OPENED = {
    "event": "opened",
    "id": "o-1",
    "timestamp": 1791536000.25,
    "recipient": "ana@example.org",
    "message": {"headers": {"message-id": "m1@mg.example.org"}},
}


def is_accepted(
    body: bytes,
    settings: Settings,
    now: datetime = THEN,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Whether a webhook counts as authentic; any other exception than a rejection escapes."""
    try:
        mailgun.verify(request_of(body, content_type, **(headers or {})), settings, now)
    except WebhookRejected:
        return False
    return True


def with_key(*keys: str, **more: Any) -> Settings:
    return settings_of(MAILGUN_WEBHOOK_SIGNING_KEY=list(keys), **more)


@pytest.mark.parametrize(
    ("key", "signed", "accepted"),
    [
        (VECTOR_KEY, VECTOR, True),
        (VECTOR_PARENT, VECTOR, False),
        (VECTOR_PARENT, {**VECTOR, "parent-signature": PARENT}, True),
        (VECTOR_KEY, {**VECTOR, "parent-signature": PARENT}, True),
        (VECTOR_PARENT, {**VECTOR, "signature": PARENT}, True),
        (VECTOR_KEY, {**VECTOR, "timestamp": 1791536000}, True),
        ("mailesp-demo-signing-kez", {**VECTOR, "parent-signature": PARENT}, False),
    ],
)
def test_the_vectors(key: str, signed: dict[str, Any], accepted: bool) -> None:
    """A subaccount's event counts with the primary account's key as well."""
    assert is_accepted(hook(OPENED, **signed), with_key(key)) is accepted
    assert is_accepted(hook(OPENED, **signed), with_key("another", key)) is accepted


@pytest.mark.parametrize(
    ("seconds", "accepted"),
    [
        (0, True),
        (12 * 3600, True),
        (12 * 3600 + 1, False),
        (-300, True),
        (-301, False),
        (86_400 * 9000, False),
    ],
)
def test_a_signature_holds_for_twelve_hours(seconds: int, accepted: bool) -> None:
    """Mailgun repeats webhooks for eight; clocks may differ by five minutes."""
    now = THEN + timedelta(seconds=seconds)
    body = hook(OPENED, **VECTOR)

    assert is_accepted(body, with_key(VECTOR_KEY), now) is accepted


MAIL = {
    "recipient": "help@mg.example.org",
    "sender": "ilse@example.net",
    "from": "Ilse <ilse@example.net>",
    "subject": "Paket",
    "body-plain": "Where is it?",
}


def flips(text: str) -> Iterator[str]:
    """A text with each of its bits flipped in turn."""
    for place, char in enumerate(text):
        for bit in range(8):
            yield text[:place] + chr(ord(char) ^ 1 << bit) + text[place + 1 :]


def slides(signed: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The same signed bytes, divided elsewhere; and divided in the same place by filling up."""
    joined = signed["timestamp"] + signed["token"]
    for cut in range(len(joined) + 1):
        if cut != 10:
            yield {**signed, "timestamp": joined[:cut], "token": joined[cut:]}
    for count in range(1, 10):
        yield {**signed, "timestamp": joined[count : 10 + count], "token": joined[10 + count :]}
        padded = joined[:count].rjust(10, "0")
        yield {**signed, "timestamp": padded, "token": joined[count:]}


STRANGE = [
    "",
    " ",
    "0",
    "é",
    "\0",
    "\ud800",
    "٣",
    "１７９１５３６０００",
    "x" * 100_000,
    "=",
    "null",
]


def damaged_proofs(signed: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Proofs none of which may count."""
    for name, value in signed.items():
        for other in flips(value):
            yield {**signed, name: other}
        yield {key: item for key, item in signed.items() if key != name}
        around = [value[:-1], value + "0", "0" + value, " " + value, value + "\n", value[::-1]]
        for other in [*STRANGE, *around, value * 2, f"+{value[1:]}", value.swapcase() + "A"]:
            yield {**signed, name: other}
    yield {**signed, "signature": signed["signature"].upper()}
    yield {**signed, "signature": bytes.fromhex(signed["signature"]).decode("latin-1")}
    fullwidth = {ord(digit): 0xFF10 + number for number, digit in enumerate("0123456789")}
    yield {**signed, "timestamp": signed["timestamp"].translate(fullwidth)}
    yield from slides(signed)


def test_no_damaged_proof_counts_in_json() -> None:
    """Flipped bits, digits that slide, other encodings, missing parts: more than a thousand."""
    settings = with_key(VECTOR_KEY)
    tried = 0
    for signed in damaged_proofs(VECTOR):
        body = json.dumps({"signature": signed, "event-data": OPENED}).encode()
        assert not is_accepted(body, settings), signed
        tried += 1
    assert tried > 1000


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
def test_no_damaged_proof_counts_in_a_form(kind: str) -> None:
    """As above, and each value twice, in any order."""
    settings = with_key(VECTOR_KEY)
    tried = 0

    def refused(signed: Fields) -> None:
        pairs = [(name, value.encode("utf-8", "replace")) for name, value in signed]
        body, content_type = urlencode([*MAIL.items(), *pairs]).encode(), FORM
        if kind == "multipart":
            form = Multipart()
            for name, value in pairs:
                form.add(name, value)
            body, content_type = form.body(), form.content_type
        assert not is_accepted(body, settings, THEN, content_type), signed

    for signed in damaged_proofs(VECTOR):
        if "\n" not in "".join(signed.values()):  # a part may end with LF alone
            refused(list(signed.items()))
            tried += 1
    for name, value in VECTOR.items():
        for other in (value, "", "x"):
            refused([*VECTOR.items(), (name, other)])
            refused([(name, other), *VECTOR.items()])
    assert tried > 1000


def test_no_damaged_document_counts() -> None:
    """Bits of the raw signature, other charsets, keys that are there twice, other shapes."""
    settings = with_key(VECTOR_KEY)
    body = hook(OPENED, **VECTOR)
    assert is_accepted(body, settings)
    text = body.decode()
    end = text.index("}") + 1
    bad = [flipped.encode("latin-1") + body[end:] for flipped in flips(text[:end])]
    bad += [text.encode(name) for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")]
    bad += [body[:length] for length in range(len(body))]
    for name, value in VECTOR.items():
        pair = f'"{name}":"{value}"'
        bad += [text.replace(pair, f"{pair},{pair}").encode()]
        bad += [text.replace(pair, f'{pair},"{name}":null').encode()]
        bad += [text.replace(pair, f'"{name}":["{value}"]').encode()]
    bad += [text.replace('"id":"o-1"', '"id":"o-1","id":"o-2"').encode()]
    bad += [text[:-1].encode() + b"," + body[1:]]
    for shape in (None, [], "x", 7, True, [VECTOR], {"signature": VECTOR}, {}):
        bad += [encoded({"signature": shape, "event-data": OPENED})]
    bad += [encoded(VECTOR), encoded([json.loads(body)]), encoded(json.dumps(VECTOR))]
    bad += [b"[" * 100_000, b'{"signature":' + b"9" * 5000 + b"}"]
    for damaged in bad:
        assert not is_accepted(damaged, settings), damaged[:300]
    assert len(bad) > 1000


@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_a_strangers_json_is_not_decoded_beyond_the_size_of_an_event(
    hooks: Hooks, kind: str
) -> None:
    """The signature is inside; but 40 MB of JSON can become more than a gigabyte."""
    signed = proof()
    large, small = (
        hook({**OPENED, "more": "x" * size}, **signed)
        for size in (mailgun.MAX_EVENT, mailgun.MAX_EVENT // 2)
    )

    assert post(hooks, large, kind=kind) == 401
    assert post(hooks, small, kind=kind) == 200


def test_a_token_is_not_taken_from_elsewhere() -> None:
    """A JSON document is not read as a form, nor a form as JSON, whatever the type says."""
    settings = with_key(VECTOR_KEY)

    assert not is_accepted(hook(OPENED, **VECTOR), settings, THEN, FORM)
    assert not is_accepted(post_form(MAIL, **VECTOR), settings, THEN, "application/json")
    assert not is_accepted(post_form(MAIL, **VECTOR), settings, THEN, "")
    files = [(name, value.encode(), "a.txt", "text/plain") for name, value in VECTOR.items()]
    assert not is_accepted(*_typed(multipart(MAIL, files), settings))


def _typed(form: tuple[bytes, str], settings: Settings) -> tuple[bytes, Settings, datetime, str]:
    body, content_type = form
    return body, settings, THEN, content_type


def test_a_webhook_secret_is_required_besides_the_signature() -> None:
    settings = with_key(VECTOR_KEY, WEBHOOK_SECRET=SECRET)
    body = hook(OPENED, **VECTOR)
    forged = hook(OPENED, **{**VECTOR, "signature": "0" * 64})

    assert is_accepted(body, settings, headers=basic(SECRET))
    assert not is_accepted(body, settings)
    assert not is_accepted(body, settings, headers=basic("hook:wrong"))
    assert not is_accepted(forged, settings, headers=basic(SECRET))


def test_a_webhook_secret_alone_is_enough_where_no_key_is_set() -> None:
    """There is no token then that could be bound to anything."""
    settings = settings_of(MAILGUN_WEBHOOK_SIGNING_KEY=None, WEBHOOK_SECRET=SECRET)
    body = hook(OPENED, **VECTOR)

    assert is_accepted(body, settings, THEN + timedelta(days=99), headers=basic(SECRET))
    assert not is_accepted(body, settings)
    assert mailgun.once(request_of(body), settings) is None


def test_without_a_key_nothing_counts_and_the_setting_is_named() -> None:
    settings = settings_of(MAILGUN_WEBHOOK_SIGNING_KEY=None)

    with pytest.raises(ConfigurationError, match=r"WEBHOOK_SIGNING_KEY.*HTTP webhook signing key"):
        mailgun.verify(request_of(hook(OPENED)), settings, THEN)


# --- webhooks: one token, one content ------------------------------------------------------


@pytest.fixture
def hooks() -> Hooks:
    return Hooks(app_with())


def post(
    hooks: Hooks, body: bytes, content_type: str = "application/json", kind: str = "tracking"
) -> int:
    return hooks.post("mailgun", body, {}, kind=kind, content_type=content_type).status_code


def test_a_repeated_webhook_is_a_duplicate_and_welcome(hooks: Hooks) -> None:
    """However its JSON is written; it has the same key."""
    signed = proof()
    document = {"signature": signed, "event-data": OPENED}
    bodies = [encoded(document), json.dumps(document, indent=2).encode()]
    bodies.append(json.dumps(dict(reversed(document.items()))).encode())

    assert [post(hooks, body) for body in bodies] == [200, 200, 200]
    assert len({event.key for event in hooks.tracking}) == 1


def test_a_token_does_not_authenticate_another_content(hooks: Hooks) -> None:
    """Whoever has seen one webhook could else have anything believed for twelve hours."""
    signed = proof()
    first = hook(OPENED, **signed)
    assert post(hooks, first) == 200
    chooser = random.Random(1)

    for number in range(200):
        field = chooser.choice(["event", "id", "timestamp", "recipient", "message", "new"])
        body = hook({**OPENED, field: number}, **signed)
        assert post(hooks, body) == 401
    assert post(hooks, encoded({**json.loads(first), "more": 1})) == 401
    assert post(hooks, post_form(MAIL, **signed), FORM, "inbound") == 401
    assert len(hooks.events) == 1
    assert post(hooks, first) == 200


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
def test_a_token_does_not_authenticate_another_mail(hooks: Hooks, kind: str) -> None:
    """Fields and files count; boundaries do not, since they may change."""
    signed = proof()
    file = ("attachment-1", b"\x00\xff", "a.bin", "application/x-a")

    def posted(fields: Mapping[str, str], *files: Any, boundary: str = "cut") -> int:
        if kind == "urlencoded":
            return post(hooks, post_form(fields, **signed), FORM, "inbound")
        form = Multipart()
        form.boundary = boundary
        for name, value in {**fields, **signed}.items():
            form.add(name, value.encode())
        for one in files:
            form.add(*one)
        return post(hooks, form.body(), form.content_type, "inbound")

    assert posted(MAIL, file) == 200
    assert posted(MAIL, file, boundary="elsewhere") == 200
    assert posted({**MAIL, "body-plain": "Pay here"}, file) == 401
    assert posted({**MAIL, "Subject": "More"}, file) == 401
    if kind == "multipart":
        assert posted(MAIL) == 401
        assert posted(MAIL, (file[0], b"\x00\xfe", *file[2:])) == 401
        assert posted(MAIL, (file[0], file[1], "b.bin", file[3])) == 401
    assert len(hooks.inbound) == 2
    assert len({event.key for event in hooks.inbound}) == 1


def test_a_mail_is_the_same_in_another_order_of_its_fields(hooks: Hooks) -> None:
    """Or a repetition would be taken for a forgery, and the mail be lost."""
    fields = [*MAIL.items(), *proof().items()]
    for order in (fields, sorted(fields), fields[::-1]):
        assert post(hooks, urlencode(order).encode(), FORM, "inbound") == 200
    assert len({event.key for event in hooks.inbound}) == 1


def test_nesting_beyond_what_can_be_written_is_still_bound() -> None:
    """Whatever the JSON, there is a digest."""
    deep = json.dumps({"a": 10**400, "b": float("inf")}).encode()

    assert len(mailgun.json_digest(deep)) == 32
    assert mailgun.json_digest(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")


# --- webhooks: what is refused for what it is ----------------------------------------------

LEGACY = {
    "event": "delivered",
    "recipient": "ana@example.org",
    "domain": "mg.example.org",
    "message-headers": json.dumps([["Message-Id", "<m1@mg.example.org>"]]),
    "Message-Id": "<m1@mg.example.org>",
}
LINKS = json.dumps([{"url": "https://storage.example.net/1", "name": "a.pdf", "size": 4}])


@pytest.mark.parametrize(
    ("fields", "advice"),
    [(LEGACY, "legacy"), ({**MAIL, "attachments": LINKS}, r"forward\(\)")],
)
@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_legacy_events_and_stored_mail_are_refused_with_advice(
    hooks: Hooks,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, str],
    advice: str,
    kind: Literal["tracking", "inbound"],
) -> None:
    """Mailgun tries again for hours, in which the route or webhook can be corrected."""
    assert post(hooks, post_form(fields), FORM, kind) == 401
    assert hooks.events == []
    with pytest.raises(ConfigurationError, match=advice):
        mailgun.verify(
            request_of(post_form(fields), FORM), settings_of(), datetime.now(timezone.utc)
        )


@pytest.mark.parametrize(
    "fields",
    [
        {**MAIL, "attachments": "a header of the mail"},
        {**MAIL, "event": "a header of the mail"},
        {"body-mime": "Attachments: []\r\n\r\nHi", "attachments": "[]", "event": "x"},
    ],
)
def test_a_mails_header_of_such_a_name_does_not_refuse_it(
    hooks: Hooks, fields: dict[str, str]
) -> None:
    assert post(hooks, post_form(fields), FORM, "inbound") == 200
    assert len(hooks.inbound) == 1


# --- webhooks: tracking --------------------------------------------------------------------

BASE: dict[str, Any] = {
    "id": "Zx81-kQ",
    "timestamp": 1949302400.5,
    "recipient": "ana@example.org",
    "tags": ["receipt", "november"],
    "user-variables": {"order": "1042"},
    "message": {"headers": {"message-id": "m1@mg.example.org"}},
}
MEANT: dict[str, Any] = {
    "message_id": "<m1@mg.example.org>",
    "recipient": "ana@example.org",
    "timestamp": datetime(2031, 10, 9, 8, 53, 20, 500_000, timezone.utc),
    "tags": ["receipt", "november"],
    "metadata": {"order": "1042"},
}


def failure(severity: str | None, reason: str | None, code: Any = None, **status: Any) -> Any:
    event = {"event": "failed", "severity": severity, "reason": reason}
    return {**event, "delivery-status": {"code": code, **status}}


def bounced(reason: RejectReason, **more: Any) -> dict[str, Any]:
    return {"event_type": EventType.BOUNCED, "reject_reason": reason, **more}


def deferred(reason: RejectReason, **more: Any) -> dict[str, Any]:
    return {"event_type": EventType.DEFERRED, "reject_reason": reason, **more}


def rejected(reason: RejectReason, **more: Any) -> dict[str, Any]:
    return {"event_type": EventType.REJECTED, "reject_reason": reason, **more}


# What Mailgun posts and what it means, side by side.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accepted": (
        {
            "event": "accepted",
            "method": "HTTP",
            "message": {
                "headers": {
                    "to": "Ana <ana@example.org>",
                    "from": "post@mg.example.org",
                    "message-id": "m1@mg.example.org",
                    "subject": "Paket",
                },
                "size": 512,
            },
        },
        {"event_type": EventType.QUEUED},
    ),
    "delivered": (
        {
            "event": "delivered",
            "delivery-status": {
                "code": 250,
                "message": "OK 1949302400",
                "description": "",
                "attempt-no": 1,
                "mx-host": "mx.example.org",
            },
        },
        {"event_type": EventType.DELIVERED, "mta_response": "OK 1949302400"},
    ),
    "greylisted": (
        failure("temporary", "greylisted", 450, message="4.7.1 later", description=""),
        deferred(RejectReason.OTHER, mta_response="4.7.1 later"),
    ),
    "temporarily blocked": (
        failure("temporary", "espblock", 421),
        deferred(RejectReason.BLOCKED),
    ),
    "temporary, no status": (
        {"event": "failed", "severity": "temporary", "reason": "generic", "delivery-status": None},
        deferred(RejectReason.OTHER),
    ),
    "bounce": (
        failure("permanent", "bounce", 550, message="5.1.1 unknown", description="No mailbox"),
        bounced(RejectReason.BOUNCED, mta_response="5.1.1 unknown", description="No mailbox"),
    ),
    "hardfail": (failure("permanent", "hardfail", 552), bounced(RejectReason.BOUNCED)),
    "generic, refused": (failure("permanent", "generic", 554), bounced(RejectReason.BOUNCED)),
    "generic, in text": (failure("permanent", "generic", "554"), bounced(RejectReason.BOUNCED)),
    "generic, Mailgun's own": (failure("permanent", "generic", 605), bounced(RejectReason.OTHER)),
    "generic, no code": (failure("permanent", "generic"), bounced(RejectReason.OTHER)),
    "ESP block": (failure("permanent", "espblock", 550), bounced(RejectReason.BLOCKED)),
    "blacklisted": (failure("permanent", "blacklisted", 554), bounced(RejectReason.BLOCKED)),
    "old": (failure("permanent", "old", 602), bounced(RejectReason.TIMED_OUT)),
    "new reason": (failure("permanent", "moonlight", 550), bounced(RejectReason.OTHER)),
    "no reason": (failure("permanent", None, 550), bounced(RejectReason.OTHER)),
    "suppressed bounce": (
        failure("permanent", "suppress-bounce", 605, message="", description="Bounced before"),
        rejected(RejectReason.BOUNCED, description="Bounced before"),
    ),
    "suppressed complaint": (
        failure("permanent", "suppress-complaint", 607),
        rejected(RejectReason.SPAM),
    ),
    "suppressed unsubscribe": (
        failure("permanent", "suppress-unsubscribe", 606),
        rejected(RejectReason.UNSUBSCRIBED),
    ),
    "suppressed otherwise": (
        failure("permanent", "suppress-moon", 609),
        rejected(RejectReason.OTHER),
    ),
    "no severity": (
        failure(None, "generic", 550),
        {"event_type": EventType.FAILED, "reject_reason": RejectReason.OTHER},
    ),
    "rejected": (
        {
            "event": "rejected",
            "recipient": None,
            "reject": {"reason": "Sandbox domains are for tests", "description": ""},
            "message": {
                "headers": {
                    "to": "Ana Z <ana@example.org>, bo@example.org",
                    "message-id": "m1@mg.example.org",
                }
            },
        },
        rejected(RejectReason.OTHER, description="Sandbox domains are for tests"),
    ),
    "opened": (
        {
            "event": "opened",
            "ip": "192.0.2.7",
            "client-info": {"user-agent": "Thunder/1", "bot": "apple"},
            "geolocation": {"country": "NO"},
        },
        {"event_type": EventType.OPENED, "user_agent": "Thunder/1"},
    ),
    "clicked": (
        {
            "event": "clicked",
            "url": "https://shop.example.org/1?a=b&c",
            "client-info": {"user-agent": "Thunder/1", "bot": ""},
        },
        {
            "event_type": EventType.CLICKED,
            "click_url": "https://shop.example.org/1?a=b&c",
            "user_agent": "Thunder/1",
        },
    ),
    "unsubscribed": (
        {"event": "unsubscribed", "client-info": {"user-agent": "Thunder/1"}},
        {"event_type": EventType.UNSUBSCRIBED, "user_agent": "Thunder/1"},
    ),
    "complained": (
        {"event": "complained"},
        {"event_type": EventType.COMPLAINED, "reject_reason": RejectReason.SPAM},
    ),
    "stored": ({"event": "stored"}, {"event_type": EventType.UNKNOWN}),
    "mailing list": ({"event": "list_member_uploaded"}, {"event_type": EventType.UNKNOWN}),
    "new event": ({"event": "moonlight"}, {"event_type": EventType.UNKNOWN}),
    "no event": ({}, {"event_type": EventType.UNKNOWN}),
    "id in angle brackets": (
        {"event": "delivered", "message": {"headers": {"message-id": "<m1@mg.example.org>"}}},
        {"event_type": EventType.DELIVERED},
    ),
}
NORMALISED = (
    "event_type",
    "timestamp",
    "message_id",
    "recipient",
    "reject_reason",
    "description",
    "mta_response",
    "tags",
    "metadata",
    "click_url",
    "user_agent",
)


@pytest.mark.parametrize("name", PAIRS)
def test_an_event_means_what_the_table_says(settings: Settings, name: str) -> None:
    """Its id is the token, since Mailgun's own ids are unique for a day only."""
    posted, meant = PAIRS[name]
    signed = proof()
    body = hook({**BASE, **posted}, **signed)
    (event,) = mailgun.parse(request_of(body), settings)

    expected = {**dict.fromkeys(NORMALISED), **MEANT, **meant}
    assert {field: getattr(event, field) for field in NORMALISED} == expected
    assert event.event_id == signed["token"]
    assert event.esp_event == json.loads(body)


def test_an_event_of_the_account_has_the_key_of_the_domains(settings: Settings) -> None:
    """Both webhooks may be set up: the app hears of one event twice, under one key."""
    of_domain = event_of(settings, {**BASE, "event": "opened"})
    more = {"account": {"id": "a1"}, "domain": {"name": "mg.example.org"}}
    of_account = event_of(settings, {**BASE, "event": "opened", **more})

    assert of_domain.key == of_account.key
    assert of_domain.event_id != of_account.event_id


@pytest.mark.parametrize(
    "change", [{"id": "other"}, {"timestamp": 1.5}, {"event": "clicked"}, {"recipient": "b@c.de"}]
)
def test_whatever_identifies_an_event_is_in_its_key(
    settings: Settings, change: dict[str, Any]
) -> None:
    event = {**BASE, "event": "opened"}

    assert event_of(settings, event).key != event_of(settings, {**event, **change}).key


def test_every_event_name_of_the_code_is_in_a_pair() -> None:
    """So that no row of the tables is without a fixture."""
    posted = [event for event, _ in PAIRS.values()]

    assert set(mailgun.EVENT_TYPES) <= {event.get("event") for event in posted}
    assert set(mailgun.REASONS) <= {event.get("reason") for event in posted}
    assert set(mailgun.SEVERITIES) <= {event.get("severity") for event in posted}


def test_tracking_posted_to_the_inbound_url_is_tracking(hooks: Hooks) -> None:
    assert post(hooks, hook({**BASE, "event": "opened"}), kind="inbound") == 200
    assert post(hooks, post_form(MAIL), FORM, "tracking") == 200
    assert (len(hooks.tracking), len(hooks.inbound)) == (1, 1)


# --- webhooks: inbound ---------------------------------------------------------------------

SOURCE = (
    b"X-Mailgun-Incoming: Yes\r\n"
    b"X-Mailgun-Sflag: No\r\n"
    b"X-Mailgun-Sscore: 1.25\r\n"
    b"Received: from mx.example.net\r\n"
    b"From: =?utf-8?q?Ilse_Gr=C3=B6=C3=9Fe?= <ilse@example.net>\r\n"
    b"To: help@mg.example.org\r\n"
    b"Subject: Paket\r\n"
    b"Message-ID: <in-1@example.net>\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
    b"Gr\xfc\xdfe, 100%41 & a+b=c;\x00\xff\r\n"
)
ENVELOPE = {"recipient": "help@mg.example.org", "sender": "ilse@example.net"}


def raw_post(kind: str, source: bytes = SOURCE, **more: str) -> tuple[bytes, str]:
    """A raw mail as Mailgun may post it: as a field of either form, or as a file."""
    fields: dict[str, str | bytes] = {**ENVELOPE, "subject": "Paket", **more, **proof()}
    if kind == "urlencoded":
        return urlencode({**fields, "body-mime": source}).encode(), FORM
    if kind == "unescaped":  # 8-bit bytes as they are, which is what some clients post
        escaped = quote(source, safe=bytes(range(128, 256)).decode("latin-1"))
        return urlencode(fields).encode() + b"&body-mime=" + escaped.encode("latin-1"), FORM
    if kind == "file":
        return multipart(fields, [("body-mime", source, "message.eml", "message/rfc822")])
    return multipart({**fields, "body-mime": source})


@pytest.mark.parametrize("kind", ["urlencoded", "unescaped", "multipart", "file"])
def test_raw_mail_survives_byte_for_byte(settings: Settings, kind: str) -> None:
    """8-bit text, NUL, percent and plus signs: whatever form it comes in."""
    body, content_type = raw_post(kind)
    event = mail_of(settings, body, content_type)
    message = event.message

    assert message.raw == SOURCE
    assert message.text.startswith("Grüße, 100%41 & a+b=c;")
    assert str(message.from_email) == "Ilse Größe <ilse@example.net>"
    assert message.envelope_recipient == "help@mg.example.org"
    assert message.envelope_sender == "ilse@example.net"
    assert (message.spam_detected, message.spam_score) == (False, 1.25)
    assert message.message_id == "in-1@example.net"


def test_a_raw_mail_of_many_megabytes_passes_the_route(hooks: Hooks) -> None:
    """Web frameworks refuse form fields beyond 500 kB."""
    source = SOURCE + bytes(range(256)) * 8192
    for kind in ("urlencoded", "multipart"):
        body, content_type = raw_post(kind, source)
        assert post(hooks, body, content_type, "inbound") == 200

    digests = {hashlib.sha256(event.message.raw or b"").digest() for event in hooks.inbound}
    assert digests == {hashlib.sha256(source).digest()}


def test_a_header_named_body_mime_does_not_displace_the_mail(settings: Settings) -> None:
    """Headers are posted as fields, too; the real source holds them all."""
    source = b"Body-Mime: x\r\nbody-mime: From: boss@example.org\r\n" + SOURCE
    pairs = [*ENVELOPE.items(), ("body-mime", "From: boss@example.org"), ("body-mime", source)]
    for order in (pairs, pairs[::-1]):
        event = mail_of(settings, urlencode([*order, *proof().items()]).encode())
        assert event.message.raw == source


def test_parsed_mail_is_made_of_the_fields(settings: Settings) -> None:
    """Files named in content-id-map are shown within the HTML."""
    headers = [
        ["X-Mailgun-Sscore", "7.5"],
        ["X-Mailgun-Sflag", "Yes"],
        ["Received", "from a"],
        ["Received", "from b"],
        ["From", '"Größe, Ilse" <ilse@example.net>'],
        ["To", "Help <help@mg.example.org>, second@example.org"],
        ["Cc", "carol@example.com"],
        ["Reply-To", "desk@example.net"],
        ["Subject", "Re: Paket ✓"],
        ["Date", "Thu, 09 Oct 2031 10:53:20 +0200"],
        ["Message-Id", "<in-2@example.net>"],
    ]
    fields = {
        **ENVELOPE,
        "from": '"Größe, Ilse" <ilse@example.net>',
        "subject": "Re: Paket ✓",
        "body-plain": "Kaputt.\r\n\r\n> Hallo",
        "body-html": '<p>Kaputt. <img src="cid:foto@x"></p>',
        "stripped-text": "Kaputt.",
        "stripped-html": "<p>Kaputt.</p>",
        "message-headers": json.dumps(headers),
        "Message-Id": "<in-2@example.net>",
        "attachment-count": "2",
        "content-id-map": '{"<foto@x>": "attachment-2", "": "attachment-1", "<b>": "attachment-2"}',
        **proof(when=1949302400),
    }
    files = [
        ("attachment-1", "Šípek".encode(), "poznámka.txt", "text/plain; charset=utf-8"),
        ("attachment-2", b"\x89PNG\r\n", "foto.png", "image/png"),
    ]
    event = mail_of(settings, *multipart(fields, files))
    message = event.message

    assert event.event_id == fields["token"]
    assert event.timestamp == datetime(2031, 10, 9, 8, 53, 20, tzinfo=timezone.utc)
    assert str(message.from_email) == '"Größe, Ilse" <ilse@example.net>'
    assert [item.addr_spec for item in message.to] == ["help@mg.example.org", "second@example.org"]
    assert [item.addr_spec for item in message.cc] == ["carol@example.com"]
    assert [item.addr_spec for item in message.reply_to] == ["desk@example.net"]
    assert (message.subject, message.message_id) == ("Re: Paket ✓", "in-2@example.net")
    assert message.date == datetime(2031, 10, 9, 8, 53, 20, tzinfo=timezone.utc)
    assert message.text == "Kaputt.\r\n\r\n> Hallo"
    assert message.html == '<p>Kaputt. <img src="cid:foto@x"></p>'
    assert (message.stripped_text, message.stripped_html) == ("Kaputt.", "<p>Kaputt.</p>")
    assert message.headers.get_all("Received") == ["from a", "from b"]
    assert (message.spam_detected, message.spam_score) == (True, 7.5)
    assert message.raw is None
    (note,), (photo,) = message.attachments, message.inlines
    assert (note.filename, note.content_type, note.text) == ("poznámka.txt", "text/plain", "Šípek")
    assert (photo.content_id, photo.data) == ("foto@x", b"\x89PNG\r\n")
    assert event.esp_event["attachment-count"] == "2"
    assert event.esp_event["body-plain"] == message.text


def test_mail_without_a_list_of_headers_is_read_from_the_fields(settings: Settings) -> None:
    fields = {**MAIL, "To": "help@mg.example.org", "message-headers": "{broken"}
    message = mail_of(settings, post_form(fields)).message

    assert str(message.from_email) == "Ilse <ilse@example.net>"
    assert message.subject == "Paket"
    assert [str(item) for item in message.to] == ["help@mg.example.org"]


def test_several_html_parts_follow_each_other(settings: Settings) -> None:
    pairs = [*MAIL.items(), ("body-html", "<p>1</p>"), ("body-html", "<p>2</p>")]

    message = mail_of(settings, urlencode([*pairs, *proof().items()]).encode()).message
    assert message.html == "<p>1</p>\n<p>2</p>"


def test_the_null_sender_is_an_empty_text(settings: Settings) -> None:
    """So that nobody answers a bounce."""
    message = mail_of(settings, post_form({**MAIL, "sender": ""})).message

    assert message.envelope_sender == ""
    assert message.is_auto_reply


def test_a_header_that_looks_like_the_envelope_makes_it_unknown(settings: Settings) -> None:
    """Nobody can tell which of the two is Mailgun's."""
    pairs = [*MAIL.items(), ("recipient", "boss@mg.example.org")]
    message = mail_of(settings, urlencode([*pairs, *proof().items()]).encode()).message

    assert message.envelope_recipient is None
    assert message.envelope_sender == "ilse@example.net"
    assert "recipient" in " ".join(message.defects)


@pytest.mark.parametrize(
    ("headers", "detected", "score"),
    [
        ([], None, None),
        ([["X-Mailgun-Sflag", "Yes"]], True, None),
        ([["x-mailgun-sflag", " no "], ["X-MAILGUN-SSCORE", "-0.5"]], False, -0.5),
        ([["X-Mailgun-Sflag", "No"], ["X-Mailgun-Sflag", "Yes"]], True, None),
        ([["X-Mailgun-Sscore", "-9"], ["X-Mailgun-Sscore", "8"]], None, 8.0),
        ([["X-Mailgun-Sflag", "maybe"], ["X-Mailgun-Sscore", "lots"]], None, None),
    ],
)
def test_of_several_verdicts_the_worst_counts(
    settings: Settings, headers: list[list[str]], detected: bool | None, score: float | None
) -> None:
    """A spammer can add a better one; raw or parsed makes no difference."""
    parsed = mail_of(settings, post_form({**MAIL, "message-headers": json.dumps(headers)}))
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    source = "".join([*lines, "Subject: x\r\n\r\nX-Mailgun-Sflag: Yes\r\n"]).encode()
    raw = mail_of(settings, *raw_post("multipart", source))

    for event in (parsed, raw):
        assert (event.message.spam_detected, event.message.spam_score) == (detected, score)


@pytest.mark.parametrize("forged_first", [True, False])
def test_a_header_named_message_headers_betters_no_verdict(
    settings: Settings, forged_first: bool
) -> None:
    """Mailgun posts a mail's headers as fields: the sender's word, whatever they are named."""
    forged = json.dumps([["X-Mailgun-Sflag", "No"], ["X-Mailgun-Spf", "Pass"], ["From", "boss"]])
    own = json.dumps([["X-Mailgun-Sflag", "Yes"], ["message-headers", forged], ["From", "ilse"]])
    lists = [forged, own] if forged_first else [own, forged]
    fields = [*(pair for pair in MAIL.items() if pair[0] != "message-headers")]
    fields += [("message-headers", value) for value in lists]
    message = mail_of(settings, urlencode([*fields, *proof().items()]).encode()).message

    assert message.spam_detected is True
    assert "X-Mailgun-Spf" not in message.headers
    assert message.headers["From"] == "ilse"


def test_of_a_source_the_sources_own_verdict_counts(settings: Settings) -> None:
    """Even if a header of the mail came as a list of all of them."""
    forged = json.dumps([["X-Mailgun-Sflag", "No"]])
    source = f"X-Mailgun-Sflag: Yes\r\nmessage-headers: {forged}\r\n\r\nx"
    fields = {**MAIL, "message-headers": forged, "body-mime": source}

    assert mail_of(settings, post_form(fields)).message.spam_detected is True


def test_a_repeated_post_has_the_same_key_even_when_signed_anew(settings: Settings) -> None:
    """It is not known whether Mailgun does that."""
    first, again = post_form(MAIL), post_form(MAIL)
    assert first != again

    assert mail_of(settings, first).key == mail_of(settings, again).key
    other = mail_of(settings, post_form({**MAIL, "recipient": "desk@mg.example.org"}))
    assert mail_of(settings, first).key != other.key


def test_a_form_that_is_no_mail_is_unknown(settings: Settings) -> None:
    """With its fields; without any, with its raw bytes."""
    (event,) = mailgun.parse(request_of(b"a=1&a=2&b=%ff", FORM), settings)
    (empty,) = mailgun.parse(request_of(b"--x", "multipart/form-data"), settings)

    assert (event.event_type, event.esp_event) == (EventType.UNKNOWN, {"a": ["1", "2"], "b": "�"})
    assert (empty.event_type, empty.esp_event) == (EventType.UNKNOWN, b"--x")


NAMES = ["recipient", "sender", "subject", "from", "body-plain", "body-html", "body-mime"]
NAMES += ["message-headers", "content-id-map", "timestamp", "token", "signature", "attachments"]
NAMES += ["stripped-text", "attachment-1", "Message-Id", "event", "X-Mailgun-Sscore"]
JSONISH = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
VALUES = st.binary(max_size=60) | JSONISH | st.sampled_from([b"", b"[[1,2]]", b'{"":{}}', SOURCE])
FORMS = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=5), VALUES), max_size=8)


@budget(max_examples=150, deadline=None, database=None)
@given(FORMS, FORMS)
def test_any_form_parses(fields: list[tuple[str, bytes]], files: list[tuple[str, bytes]]) -> None:
    """Whatever the values: events, each readable, with the same key each time."""
    settings = ANY_SETTINGS
    form = Multipart()
    for name, value in fields:
        form.add(name.replace('"', ""), value)
    for name, value in files:
        form.add(name.replace('"', ""), value, "a.bin", "text/plain")
    plain_body = urlencode([(name.encode("utf-8", "replace"), value) for name, value in fields])
    for body, kind in ((form.body(), form.content_type), (plain_body.encode(), FORM)):
        request = request_of(body, kind)
        (event,), (again,) = mailgun.parse(request, settings), mailgun.parse(request, settings)
        assert event.key == again.key
        if isinstance(event, InboundEvent):
            read_all(event.message)
        assert is_accepted(body, settings, THEN, kind) is False
        mailgun.once(request, settings)


ANY_SETTINGS = settings_of()


# --- the contract --------------------------------------------------------------------------


class TestMailgun(EspContract):
    """Forms; the signature in the body; one id for all recipients of a call."""

    esp = mailgun.esp
    config: ClassVar[dict[str, str]] = {
        "MAILESP_ESP": "mailgun",
        "MAILESP_MAILGUN_API_KEY": API_KEY,
        "MAILESP_MAILGUN_WEBHOOK_SIGNING_KEY": KEY,
        "MAILESP_WEBHOOK_SECRET": SECRET,
    }
    tracking = tuple(
        hook({**BASE, "id": name, **posted})
        for name, (posted, meant) in PAIRS.items()
        if meant["event_type"] is not EventType.UNKNOWN
    )[::2]
    inbound = (
        post_form(MAIL),
        raw_post("urlencoded")[0],
        post_form({**MAIL, "message-headers": '[["Subject", "Other"]]'}),
    )

    def accept(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {}, json.dumps(QUEUED).encode())

    def sign(self, body: bytes, kind: Literal["tracking", "inbound"]) -> Mapping[str, str]:
        """The signature is in the body already; a secret in the URL can be tested besides."""
        content_type = FORM if kind == "inbound" else "application/json"
        return {**basic(SECRET), "Content-Type": content_type}

    def test_a_batch_gives_every_recipient_its_own_id(self) -> None:
        """Mailgun has one id for all copies; everybody has it, and nobody sees the others."""
        with self.running() as running:
            result = running.send(**{**_TWO, "sender": SENDER}, merge_metadata={})
            (request,) = running.server.requests
        assert "recipient-variables" in self.wire(request)
        assert {entry.message_id for entry in result.recipients.values()} == {ID}
        assert result.message_id == ID

    def assert_reaches_the_wire(self, feature: Feature, message: Message, running: Any) -> None:
        """Of an envelope sender, only the domain can be chosen: it is in the URL."""
        if feature is not Feature.ENVELOPE_SENDER:
            super().assert_reaches_the_wire(feature, message, running)
            return
        running.mail_send(message)
        (request,) = running.server.requests
        domain = str(message.envelope_sender).rpartition("@")[2]
        assert request.url.endswith(f"/{domain}/messages")


_TWO: dict[str, Any] = {"subject": "Hi", "to": [ANA, BO], "body": "Hi"}
