"""Amazon SES: what goes over the wire, what its answers mean, what SNS and S3 bring."""

from __future__ import annotations

import base64
import email.message
import email.policy
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.header import decode_header, make_header
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Literal

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Reply, Request, ScriptedServer, scripted
from ses_kit import (
    BOUNCED,
    CERTIFICATE,
    CERTIFICATE_NAME,
    CERTIFICATE_URL,
    CLICKED,
    INBOUND_TOPIC,
    NOW,
    RAW_MAIL,
    SECRETS,
    SETTINGS,
    TOPIC,
    amazon,
    confirmation,
    encoded,
    event,
    mail,
    moment,
    notification,
    receipt,
    received,
    stored,
)
from webhook_kit import SECRET, Hooks, bare_app, basic

from flask_mailesp import (
    Attachment,
    EventType,
    InboundEvent,
    MailESP,
    Message,
    RejectReason,
    SendResult,
    TrackingEvent,
)
from flask_mailesp.delivery import Mailer, prepared_for
from flask_mailesp.esp import Call, Fetch, HttpRequest, HttpResponse, Settings, WebhookRequest
from flask_mailesp.esps import amazon_ses
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
from flask_mailesp.testing import EspContract, EspServer

SENDER = "Shop <post@shop.example.org>"
KEY_ID = SECRETS["AMAZON_SES_ACCESS_KEY_ID"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever AWS settings this machine has, these tests are without them."""
    for name in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL_SESV2",
        "AWS_ENDPOINT_URL_SNS",
        "AWS_ENDPOINT_URL_S3",
    ):
        monkeypatch.delenv(name, raising=False)


# --- the contract --------------------------------------------------------------------------


class TestContract(EspContract):
    """What every ESP's room promises. The signature is in the body: the headers are Basic."""

    esp = amazon_ses.esp
    config = {f"MAILESP_{name}": value for name, value in SETTINGS.items()} | {
        "MAILESP_AMAZON_SES_WEBHOOK_SECRET": "hook:canary-17-Tupelo-Lane"
    }
    tracking = (
        encoded(notification(BOUNCED)),
        encoded(notification(CLICKED, MessageId="2", SignatureVersion="1")),
    )
    inbound = (
        encoded(notification(received(), TopicArn=INBOUND_TOPIC)),
        encoded(
            notification(
                stored(mail=mail(messageId="in-78")), MessageId="3", TopicArn=INBOUND_TOPIC
            )
        ),
    )

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def sns_and_s3() -> Iterator[None]:
        """Have a server stand for SNS and S3."""
        before = TestContract.config
        with EspServer(amazon) as server:
            TestContract.config = {
                **before,
                "MAILESP_AMAZON_SES_SNS_URL": server.url,
                "MAILESP_AMAZON_SES_S3_URL": server.url,
            }
            yield
        TestContract.config = before

    def accept(self, request: HttpRequest) -> HttpResponse:
        return amazon_ses_accepts(request.url, bytes(request.body))  # type: ignore[arg-type]

    def sign(self, body: bytes, kind: Literal["tracking", "inbound"]) -> Mapping[str, str]:
        token = base64.b64encode(b"hook:canary-17-Tupelo-Lane").decode()
        return {"Content-Type": "text/plain; charset=UTF-8", "Authorization": f"Basic {token}"}

    def fetched(self, request: HttpRequest) -> HttpResponse:
        return amazon(request)


numbers = itertools.count(1)


def amazon_ses_accepts(url: str, body: bytes) -> HttpResponse:
    """Answer as Amazon SES does when it takes everything."""
    if url.endswith("/outbound-emails"):
        return HttpResponse(200, {}, json.dumps({"MessageId": f"id-{next(numbers)}"}).encode())
    results = [
        {"Status": "SUCCESS", "MessageId": f"id-{next(numbers)}"}
        for _ in json.loads(body)["BulkEmailEntries"]
    ]
    return HttpResponse(200, {}, json.dumps({"BulkEmailEntryResults": results}).encode())


# --- settings ------------------------------------------------------------------------------


def ses_app(**changes: Any) -> Flask:
    given = SETTINGS | {f"AMAZON_SES_{name}": value for name, value in changes.items()}
    return bare_app(**given)


def settings_of(**changes: Any) -> Settings:
    found: Settings = mailer_of(ses_app(**changes)).settings
    return found


def mailer_of(app: Flask) -> Mailer:
    mailer: Mailer = app.extensions["mailesp"].mailer(None)
    return mailer


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-west-1", "https://email.eu-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://email.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://email.cn-north-1.amazonaws.com.cn"),
        ("ap-southeast-12", "https://email.ap-southeast-12.amazonaws.com"),
    ],
)
def test_the_api_is_that_of_the_region(region: str, url: str) -> None:
    """Unless another address is set, of a private endpoint for example."""
    assert settings_of(REGION=region)["API_URL"] == url
    own = "https://vpce-1.email.eu-west-1.vpce.amazonaws.com"
    assert settings_of(REGION=region, API_URL=own)["API_URL"] == own


@pytest.mark.parametrize(
    "region", ["Ireland", "eu-west-1.evil.example", "eu-west-1/", "eu_west_1", "eu-west-١", 1]
)
def test_a_region_is_a_code(region: Any) -> None:
    """It becomes part of host names."""
    with pytest.raises(ConfigurationError, match=r"AMAZON_SES_REGION.*eu-west-1"):
        ses_app(REGION=region)


def test_a_missing_region_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"MAILESP_AMAZON_SES_REGION is not set.*find the value"
    ):
        ses_app(REGION=None)


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_REGION": "eu-north-1", "AWS_DEFAULT_REGION": "eu-west-3"}, "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-3"),
    ],
    ids=["both", "default"],
)
def test_what_aws_puts_into_the_environment_is_found(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], region: str
) -> None:
    """As in AWS Lambda and containers; but what is configured stands before it."""
    environment = environment | {
        "AWS_ACCESS_KEY_ID": "ASIAENVIRONMENT",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_SESSION_TOKEN": "canary-token",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = settings_of(REGION=None, ACCESS_KEY_ID=None, SECRET_ACCESS_KEY=None)

    assert found["REGION"] == region
    credentials = found["CREDENTIALS"]()
    assert (credentials.access_key_id, credentials.session_token) == (
        "ASIAENVIRONMENT",
        "canary-token",
    )
    assert settings_of()["REGION"] == "eu-west-1"


def test_a_long_lived_key_takes_no_token_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the token of another key, and AWS would refuse the two together."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token")

    assert settings_of()["CREDENTIALS"]().session_token is None
    assert settings_of(ACCESS_KEY_ID="ASIAX")["CREDENTIALS"]().session_token == "canary-token"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"SECRET_ACCESS_KEY": None}, "SECRET_ACCESS_KEY"),
        ({"ACCESS_KEY_ID": None}, "ACCESS_KEY_ID"),
        ({"ACCESS_KEY_ID": "ASIATEMPORARY"}, "SESSION_TOKEN"),
    ],
)
def test_half_a_credential_is_refused(changes: dict[str, Any], missing: str) -> None:
    """By the name of the other half, and where that is found."""
    with pytest.raises(
        ConfigurationError, match=f"MAILESP_AMAZON_SES_{missing} is not set.*find the value in"
    ):
        ses_app(**changes)


def without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None  # as Python itself marks what must not be imported
    monkeypatch.setitem(sys.modules, "botocore", absent)


NO_KEYS: dict[str, Any] = {"ACCESS_KEY_ID": None, "SECRET_ACCESS_KEY": None}


def test_no_credential_at_all_names_the_keys_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not with the first mail."""
    without_botocore(monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        ses_app(**NO_KEYS, TOPIC_ARNS=None)

    for words in ("MAILESP_AMAZON_SES_ACCESS_KEY_ID is not set", "IAM", "Flask-MailESP[ses]"):
        assert words in str(caught.value)


def test_an_app_that_only_receives_needs_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has set topics may want no more; sending says what is missing."""
    without_botocore(monkeypatch)
    app = ses_app(**NO_KEYS)

    with app.app_context(), pytest.raises(ConfigurationError, match=r"Flask-MailESP\[ses\]"):
        MailESP().send(plain())


def test_with_botocore_the_credential_is_left_to_it() -> None:
    """It is asked when a request is signed, and kept in the settings."""
    found = settings_of(**NO_KEYS)

    assert repr(found["CREDENTIALS"]) == "<CredentialChain>"
    assert settings_of(**NO_KEYS)["CREDENTIALS"] is not found["CREDENTIALS"]


@pytest.mark.parametrize(
    "arns",
    [
        TOPIC,
        [TOPIC],
        (TOPIC, INBOUND_TOPIC),
        f"{TOPIC}, {INBOUND_TOPIC}",
        f"{TOPIC}\n{INBOUND_TOPIC}\n",
        "arn:aws-cn:sns:cn-north-1:123456789012:mail",
        "arn:aws-us-gov:sns:us-gov-west-1:123456789012:mail",
    ],
    ids=range(7),
)
def test_topics_are_one_arn_or_several(arns: Any) -> None:
    """From an environment variable they come as one text."""
    assert settings_of(TOPIC_ARNS=arns)["TOPIC_ARNS"] <= {
        TOPIC,
        INBOUND_TOPIC,
        "arn:aws-cn:sns:cn-north-1:123456789012:mail",
        "arn:aws-us-gov:sns:us-gov-west-1:123456789012:mail",
    }


@pytest.mark.parametrize(
    "arns",
    [
        "ses-events",
        "*",
        "arn:aws:sns:eu-west-1:123456789012:*",
        "arn:aws:sqs:eu-west-1:123456789012:queue",
        "arn:aws:sns:eu-west-1:12345:short",
        f"{TOPIC}:8d2c1a",
        [TOPIC, "oops"],
        [],
        [1],
        7,
        {"a": 1},
    ],
    ids=repr,
)
def test_what_is_no_topic_is_refused_at_the_start(arns: Any) -> None:
    """A pattern would let everybody in."""
    with pytest.raises(ConfigurationError, match=r"AMAZON_SES_TOPIC_ARNS.*Amazon SNS > Topics"):
        ses_app(TOPIC_ARNS=arns)


@pytest.mark.parametrize("name", ["CONFIGURATION_SET", "MESSAGE_TAG_NAME"])
@pytest.mark.parametrize("value", ["two words", "a.b", "x" * 300, "é", 7, "a\nb"])
def test_names_are_words(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ses_app(**{name: value})


# --- sending: MIME source ------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailer() -> Mailer:
    return mailer_of(bare_app(**SETTINGS))


def calls(mailer: Mailer, message: Message) -> list[Call]:
    return list(mailer.esp.build(prepared_for(mailer, message), mailer.settings))


def payload_of(call: Call) -> dict[str, Any]:
    body = call.request.body
    payload: dict[str, Any] = json.loads(body if isinstance(body, bytes) else b"".join(body))
    return payload


def wire(mailer: Mailer, message: Message) -> dict[str, Any]:
    """The payload of a message's only call."""
    (call,) = calls(mailer, message)
    return payload_of(call)


def raw_of(payload: dict[str, Any]) -> bytes:
    return base64.b64decode(payload["Content"]["Raw"]["Data"], validate=True)


def source_of(payload: dict[str, Any]) -> email.message.EmailMessage:
    parsed = BytesParser(policy=email.policy.default).parsebytes(raw_of(payload))
    assert isinstance(parsed, email.message.EmailMessage)
    return parsed


def plain(**fields: Any) -> Message:
    return Message(
        **{"subject": "Hello", "to": ["bo@example.com"], "body": "Hi", "sender": SENDER, **fields}
    )


def people(count: int, name: str = "p") -> list[str]:
    return [f"{name}{number}@example.com" for number in range(count)]


def test_every_parameter_of_sendemail_is_written() -> None:
    """These names, these types, nothing else."""
    mailer = mailer_of(ses_app(CONFIGURATION_SET="events", MESSAGE_TAG_NAME="kind"))
    message = plain(
        to=["Bo <bo@example.com>", ("Lind, Åsa", "asa@bücher.example")],
        cc="cc@example.com",
        bcc=["bcc@example.com"],
        envelope_sender="bounces@shop.example.org",
        tags="receipt",
        track_opens=True,
        track_clicks=False,
        esp_extra={"TenantName": "shop-1"},
    )
    (call,) = calls(mailer, message)
    payload = payload_of(call)
    payload["Content"]["Raw"]["Data"] = "…"

    assert call.request.method == "POST"
    assert call.request.url == "https://email.eu-west-1.amazonaws.com/v2/email/outbound-emails"
    assert dict(call.request.headers) == {"Content-Type": "application/json"}
    assert payload == {
        "Destination": {
            "ToAddresses": ["bo@example.com", "asa@xn--bcher-kva.example"],
            "CcAddresses": ["cc@example.com"],
            "BccAddresses": ["bcc@example.com"],
        },
        "FeedbackForwardingEmailAddress": "bounces@shop.example.org",
        "ConfigurationSetName": "events",
        "ConfigurationOverrides": {
            "Tracking": {"OpenTrackingEnabled": "ENABLED", "ClickTrackingEnabled": "DISABLED"}
        },
        "Content": {"Raw": {"Data": "…"}},
        "EmailTags": [{"Name": "kind", "Value": "receipt"}],
        "TenantName": "shop-1",
    }


def test_what_a_message_lacks_is_not_on_the_wire(mailer: Mailer) -> None:
    """No nulls; and never FromEmailAddress, which would replace the From header."""
    payload = wire(mailer, plain())

    assert set(payload) == {"Destination", "Content"}
    assert payload["Destination"] == {"ToAddresses": ["bo@example.com"]}


def test_the_source_holds_everything_but_the_blind_copies(mailer: Mailer) -> None:
    """A Bcc header would show the blind copies to everyone."""
    message = plain(
        to=["Bo <bo@example.com>"],
        cc=["Åsa <asa@example.com>"],
        bcc=["hidden@example.com"],
        subject="Köp ✓",
        html='<img src="cid:logo">',
        reply_to=["a@example.com", "Desk <b@example.com>"],
        headers=[("X-Order", "1042"), ("X-Order", "1043"), ("List-Unsubscribe", "<mailto:x@y.z>")],
        tags=["receipt", "år"],
        metadata={"order": 1042, "shop": "Köp", "paid": True},
        attachments=[("a.txt", "text/plain", b"\x00\xff!")],
    )
    message.embed("logo.png", "image/png", b"\x89PNG", content_id="logo")
    payload = wire(mailer, message)
    source = source_of(payload)

    assert b"hidden" not in raw_of(payload)
    assert (source["From"], source["To"], source["Cc"]) == (
        SENDER,
        "Bo <bo@example.com>",
        "Åsa <asa@example.com>",
    )
    assert source["Bcc"] is None
    assert source["Subject"] == "Köp ✓"
    assert source["Reply-To"] == "a@example.com, Desk <b@example.com>"
    assert source.get_all("X-Order") == ["1042", "1043"]
    assert source.get_all("X-Tag") == ["receipt", "år"]
    assert json.loads(source["X-Metadata"]) == {"order": 1042, "shop": "Köp", "paid": True}
    assert source["Message-ID"]
    assert source["Date"]
    images = [part for part in source.walk() if part["Content-ID"] == "<logo>"]
    assert [part.get_content() for part in images] == [b"\x89PNG"]
    assert [part.get_filename() for part in source.iter_attachments()] == ["a.txt"]


def test_the_source_is_ascii_with_crlf_and_short_lines(mailer: Mailer) -> None:
    """Amazon SES garbles 8-bit text when it adds its tracking."""
    mail = b"Subject: caf\xe9\r\n\r\n" + "Grüße\r\n".encode("latin-1")
    message = plain(
        body="Grüße ✓\n" * 50 + "x" * 5000,
        html="<p>✓</p>" * 500,
        alternatives=[("<html ⚡4email>✓</html>", "text/x-amp-html"), ("BEGIN:✓", "text/calendar")],
        metadata={"note": "ö" * 2000, "next": "y" * 2000, "=?utf-8?q?x?=": "=?utf-8?q?y?="},
        tags=["Überraschung " * 30],
        attachments=[
            Attachment("mail.eml", "message/rfc822", mail),
            Attachment("plain.eml", "message/rfc822", b"Subject: x\r\n\r\nText\r\n"),
            Attachment("Größe.pdf", "application/pdf", bytes(range(256))),
        ],
    )
    raw = raw_of(wire(mailer, message))

    assert raw.isascii()
    assert b"8bit" not in raw
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    types = [part.get_content_type() for part in source_of(wire(mailer, message)).walk()]
    assert types.count("message/rfc822") == 1
    assert types.count("application/octet-stream") == 1
    files = {
        part.get_filename(): part.get_payload(decode=True)
        for part in source_of(wire(mailer, message)).walk()
    }
    assert files["mail.eml"] == mail


@pytest.mark.parametrize(
    "metadata",
    [
        {"order": "1042"},
        {"a": "x" * 3000},
        {"text": "two  blanks, \t a tab? no: {} [] \\ \" ' : ,"},
        {"long": "word " * 400},
        {"ř": "ů" * 400, "n": 1.5, "yes": True, "k": -3},
        {"looks": "=?utf-8?q?encoded?=", "=?x?=": "?="},
    ],
    ids=range(6),
)
def test_metadata_come_back_as_they_were(mailer: Mailer, metadata: dict[str, Any]) -> None:
    """Through header, folding, encoded words and the event's JSON."""
    raw = raw_of(wire(mailer, plain(metadata=metadata)))
    head = raw.partition(b"\r\n\r\n")[0].decode("ascii")
    folded = head.partition("X-Metadata: ")[2]
    lines = [folded.split("\r\n")[0], *itertools.takewhile(is_folded, folded.split("\r\n")[1:])]
    as_sent = {"name": "x-METADATA", "value": "\r\n".join(lines)}
    unfolded = as_sent | {"value": "".join(lines)}

    for header in (as_sent, unfolded):
        (found,) = parse(notification(BOUNCED | {"mail": mail(headers=[header])}))
        assert found.metadata == metadata


def is_folded(line: str) -> bool:
    return line.startswith((" ", "\t"))


def test_metadata_that_json_lacks_are_refused(mailer: Mailer) -> None:
    """Before any request."""
    with pytest.raises(SerializationError, match="JSON"):
        calls(mailer, plain(metadata={"n": float("nan")}))


def test_more_than_50_recipients_get_the_same_source_in_several_calls(mailer: Mailer) -> None:
    """The envelope is divided; what the mail says about who gets it stays the same."""
    message = plain(to=people(60), cc=people(40, "c"), bcc=people(30, "b"))
    built = calls(mailer, message)
    payloads = [payload_of(call) for call in built]

    assert [len(call.parts[0].recipients) for call in built] == [50, 50, 30]
    assert payloads[1]["Destination"] == {
        "ToAddresses": people(60)[50:],
        "CcAddresses": people(40, "c"),
    }
    assert len({raw_of(payload) for payload in payloads}) == 1
    assert len(source_of(payloads[2])["To"].addresses) == 60


def test_a_repeated_mailbox_is_sent_to_once(mailer: Mailer) -> None:
    """Amazon SES counts, and mails, each place it is named."""
    message = plain(
        to=["Bo@example.com", "ann@bücher.example"],
        cc=["bo@EXAMPLE.com", "new@example.com"],
        bcc=["ann@xn--bcher-kva.example", "last@example.com"],
    )
    (call,) = calls(mailer, message)

    assert payload_of(call)["Destination"] == {
        "ToAddresses": ["Bo@example.com", "ann@xn--bcher-kva.example"],
        "CcAddresses": ["new@example.com"],
        "BccAddresses": ["last@example.com"],
    }
    assert len(call.parts[0].recipients) == 4
    assert "bo@EXAMPLE.com" in source_of(payload_of(call))["Cc"]


def test_a_message_may_have_blind_copies_only(mailer: Mailer) -> None:
    payload = wire(mailer, plain(to=[], bcc=["bo@example.com"]))

    assert payload["Destination"] == {"BccAddresses": ["bo@example.com"]}


def test_a_batch_is_one_mail_for_each_to(mailer: Mailer) -> None:
    """With the metadata, headers and Reply-To of that one; nobody sees the others."""
    message = plain(
        to=["Ann <a@example.com>", "b@example.com"],
        cc=["c@example.com"],
        reply_to="desk@shop.example.org",
        headers={"X-Order": "0", "X-Shop": "1"},
        metadata={"job": "7"},
        merge_metadata={"A@example.com": {"n": "1"}},
        merge_headers={"a@example.com": {"x-order": "1042", "Reply-To": "Desk <a+1@shop.example>"}},
    )
    first, second = calls(mailer, message)
    one, other = source_of(payload_of(first)), source_of(payload_of(second))

    assert payload_of(first)["Destination"] == {
        "ToAddresses": ["a@example.com"],
        "CcAddresses": ["c@example.com"],
    }
    assert (one["To"], other["To"]) == ("Ann <a@example.com>", "b@example.com")
    assert (one.get_all("X-Order"), other.get_all("X-Order")) == (["1042"], ["0"])
    assert (one["X-Shop"], other["X-Shop"]) == ("1", "1")
    assert (one["Reply-To"], other["Reply-To"]) == (
        "Desk <a+1@shop.example>",
        "desk@shop.example.org",
    )
    assert json.loads(one["X-Metadata"]) == {"job": "7", "n": "1"}
    assert json.loads(other["X-Metadata"]) == {"job": "7"}


@pytest.mark.parametrize(
    "rows",
    [
        {"merge_metadata": {"p2@example.com": {"n": float("inf")}}},
        {"merge_headers": {"p2@example.com": {"References": "x" * 1200}}},
        {"merge_headers": {"p2@example.com": {"Reply-To": "not an address"}}},
    ],
    ids=["metadata", "header", "reply-to"],
)
def test_what_cannot_be_written_for_the_last_stops_the_first(
    mailer: Mailer, rows: dict[str, Any]
) -> None:
    """A batch fails before its first request, or not for such a reason."""
    with pytest.raises(InvalidMessageError):
        mailer.esp.build(prepared_for(mailer, plain(to=people(3), **rows)), mailer.settings)


UNSUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("scheduling", {"send_at": datetime(2030, 1, 1, tzinfo=timezone.utc)}),
    ("non-ASCII mailbox", {"to": ["jörg@example.com"]}),
    ("non-ASCII mailbox in a header", {"headers": {"Sender": "jörg@example.com"}}),
    ("merge data", {"merge_data": {"bo@example.com": {"name": "Bo"}}}),
    ("global merge data", {"merge_global_data": {"name": "Bo"}}),
    ("own subject with a template", {"template_id": "order"}),
    ("own body with a template", {"template_id": "order", "subject": "", "body": "Hi"}),
    ("another signature", {"esp_extra": {"EndpointId": "abc.456"}}),
    (
        "calendar with a template",
        {
            "template_id": "order",
            "subject": "",
            "body": None,
            "alternatives": [("BEGIN:VCALENDAR", "text/calendar")],
        },
    ),
    (
        "own reply-to with a template",
        {
            "template_id": "order",
            "subject": "",
            "body": None,
            "merge_headers": {"bo@example.com": {"Reply-To": "a@example.com"}},
        },
    ),
    (
        "a list with a template",
        {
            "template_id": "order",
            "subject": "",
            "body": None,
            "esp_extra": {"ListManagementOptions": {"ContactListName": "news"}},
        },
    ),
]


@pytest.mark.parametrize(
    "fields", [row[1] for row in UNSUPPORTED], ids=[row[0] for row in UNSUPPORTED]
)
def test_what_amazon_ses_lacks_is_refused(mailer: Mailer, fields: dict[str, Any]) -> None:
    """Before any request, and naming it."""
    with pytest.raises(UnsupportedFeatureError, match="Amazon SES cannot express"):
        calls(mailer, plain(**fields))


def test_several_tags_do_not_fit_one_message_tag() -> None:
    """Without a name for it, they travel as headers."""
    named = mailer_of(ses_app(MESSAGE_TAG_NAME="kind"))
    with pytest.raises(UnsupportedFeatureError, match="MESSAGE_TAG_NAME"):
        calls(named, plain(tags=["one", "two"]))

    unnamed = mailer_of(ses_app())
    assert source_of(wire(unnamed, plain(tags=["one", "two"]))).get_all("X-Tag") == ["one", "two"]
    assert "EmailTags" not in wire(unnamed, plain(tags=["one"]))


# --- sending: templates --------------------------------------------------------------------


def templated(**fields: Any) -> Message:
    return Message(**{"to": ["bo@example.com"], "sender": SENDER, "template_id": "order", **fields})


def test_every_parameter_of_sendbulkemail_is_written() -> None:
    """These names, these types, nothing else."""
    mailer = mailer_of(ses_app(CONFIGURATION_SET="events", MESSAGE_TAG_NAME="kind"))
    message = templated(
        sender="Köp <shop@example.com>",
        to=["Ana <ana@example.org>", ("Lind, Åsa", "asa@bücher.example")],
        cc=["cc@example.com"],
        bcc=["ANA@example.org", "bcc@example.com"],
        reply_to=["help@example.com", "Désk <desk@example.com>"],
        envelope_sender="bounces@example.com",
        headers={"X-Own": "år", "Date": "Sun, 1 Mar 2026 10:00:00 +0000"},
        tags=["receipt"],
        metadata={"job": 7},
        track_opens=False,
        attachments=[Attachment("a.txt", "text/plain", b"A")],
        merge_global_data={"shop": "S", "name": "you"},
        merge_data={"ana@example.org": {"name": "Ana", "items": [1, {"a": None}]}},
        merge_metadata={"ana@example.org": {"n": "1"}},
        merge_headers={"ana@example.org": {"X-Own": "1", "X-New": "2"}},
        esp_extra={"TenantName": "t", "EmailTags": [{"Name": "a", "Value": "b"}]},
    )
    (call,) = calls(mailer, message)
    payload = payload_of(call)
    entries = payload.pop("BulkEmailEntries")

    assert call.request.url.endswith("/v2/email/outbound-bulk-emails")
    assert payload == {
        "FromEmailAddress": "=?utf-8?q?K=C3=B6p?= <shop@example.com>",
        "ReplyToAddresses": ["help@example.com", "=?utf-8?b?RMOpc2s=?= <desk@example.com>"],
        "FeedbackForwardingEmailAddress": "bounces@example.com",
        "ConfigurationSetName": "events",
        "ConfigurationOverrides": {"Tracking": {"OpenTrackingEnabled": "DISABLED"}},
        "DefaultEmailTags": [{"Name": "a", "Value": "b"}],
        "DefaultContent": {
            "Template": {
                "TemplateName": "order",
                "TemplateData": '{"shop":"S","name":"you"}',
                "Headers": [
                    {"Name": "X-Own", "Value": "=?utf-8?b?w6Vy?="},
                    {"Name": "X-Metadata", "Value": '{"job": 7}'},
                    {"Name": "X-Tag", "Value": "receipt"},
                ],
                "Attachments": [
                    {
                        "RawContent": "QQ==",
                        "FileName": "a.txt",
                        "ContentType": "text/plain",
                        "ContentDisposition": "ATTACHMENT",
                        "ContentTransferEncoding": "BASE64",
                    }
                ],
            }
        },
        "TenantName": "t",
    }
    data = '{"shop":"S","name":"Ana","items":[1,{"a":null}]}'
    assert entries == [
        {
            "Destination": {
                "ToAddresses": ["Ana <ana@example.org>"],
                "CcAddresses": ["cc@example.com"],
                "BccAddresses": ["bcc@example.com"],
            },
            "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": data}},
            "ReplacementHeaders": [
                {"Name": "X-Own", "Value": "1"},
                {"Name": "X-New", "Value": "2"},
                {"Name": "X-Metadata", "Value": '{"job": 7, "n": "1"}'},
            ],
        },
        {
            "Destination": {
                "ToAddresses": ["=?utf-8?q?Lind=2C_=C3=85sa?= <asa@xn--bcher-kva.example>"],
                "CcAddresses": ["cc@example.com"],
                "BccAddresses": ["ANA@example.org", "bcc@example.com"],
            },
            "ReplacementEmailContent": {
                "ReplacementTemplate": {
                    "ReplacementTemplateData": '{"shop":"S","name":"you"}',
                }
            },
        },
    ]


def test_a_template_without_data_has_empty_data(mailer: Mailer) -> None:
    """Amazon SES calls a missing text invalid."""
    payload = wire(mailer, templated())

    assert payload == {
        "FromEmailAddress": SENDER,
        "DefaultContent": {"Template": {"TemplateName": "order", "TemplateData": "{}"}},
        "BulkEmailEntries": [{"Destination": {"ToAddresses": ["bo@example.com"]}}],
    }
    (entry,) = wire(mailer, templated(merge_data={}))["BulkEmailEntries"]
    replaced = entry["ReplacementEmailContent"]["ReplacementTemplate"]
    assert replaced == {"ReplacementTemplateData": "{}"}


def test_a_template_may_be_named_by_its_arn(mailer: Mailer) -> None:
    """And by a number that is its name."""
    arn = "arn:aws:ses:eu-west-1:123456789012:template/order"
    template = wire(mailer, templated(template_id=arn))["DefaultContent"]["Template"]
    numbered = wire(mailer, templated(template_id=7))["DefaultContent"]["Template"]

    assert template == {"TemplateArn": arn, "TemplateData": "{}"}
    assert numbered["TemplateName"] == "7"


def test_without_merge_data_all_recipients_share_one_mail(mailer: Mailer) -> None:
    """As with a message that has its own words; a batch is what hides them from each other."""
    message = templated(to=people(3), cc=["c@example.com"])
    (call,) = calls(mailer, message)

    assert payload_of(call)["BulkEmailEntries"] == [
        {"Destination": {"ToAddresses": people(3), "CcAddresses": ["c@example.com"]}}
    ]
    assert [len(part.recipients) for part in call.parts] == [4]


@pytest.mark.parametrize(
    ("to", "cc", "sizes"),
    [
        (50, 0, [50]),
        (51, 0, [50, 1]),
        (120, 0, [50, 50, 20]),
        (60, 1, [25, 25, 10]),
        (3, 60, [1] * 3),
    ],
)
def test_a_call_has_at_most_50_destinations(
    mailer: Mailer, to: int, cc: int, sizes: list[int]
) -> None:
    """Every address counts, the copies too."""
    message = templated(to=people(to), cc=people(cc, "c"), merge_data={})
    built = calls(mailer, message)

    assert [len(call.parts) for call in built] == sizes
    assert [len(payload_of(call)["BulkEmailEntries"]) for call in built] == sizes
    sent_to = [part.recipients[0].addr_spec for call in built for part in call.parts]
    assert sent_to == people(to)


def test_inline_images_go_with_a_template(mailer: Mailer) -> None:
    message = templated()
    message.embed("logo.png", "image/png", b"\x89PNG", content_id="logo")
    template = wire(mailer, message)["DefaultContent"]["Template"]

    assert template["Attachments"] == [
        {
            "RawContent": base64.b64encode(b"\x89PNG").decode(),
            "FileName": "logo.png",
            "ContentType": "image/png",
            "ContentDisposition": "INLINE",
            "ContentId": "logo",
            "ContentTransferEncoding": "BASE64",
        }
    ]


@pytest.mark.parametrize(
    "text", ["Žluťoučký kůň " * 20, "=?utf-8?q?x?=", "a\tb", "plain", '{"a": 1}', "日本語"]
)
def test_headers_of_a_template_are_printable_ascii(mailer: Mailer, text: str) -> None:
    """And read as they were written."""
    (header,) = wire(mailer, templated(headers={"X-A": text}))["DefaultContent"]["Template"][
        "Headers"
    ]

    assert header["Value"].isascii()
    assert header["Value"].isprintable()
    assert str(make_header(decode_header(header["Value"]))) == text


def test_merge_data_that_json_lacks_are_refused(mailer: Mailer) -> None:
    """Before any request."""
    message = templated(merge_data={"bo@example.com": {"when": datetime.now(timezone.utc)}})
    with pytest.raises(SerializationError, match="datetime"):
        calls(mailer, message)


# --- sending: the answers ------------------------------------------------------------------


@contextmanager
def answering(*script: Any, **changes: Any) -> Iterator[tuple[MailESP, ScriptedServer]]:
    """An app whose Amazon SES follows a script."""
    with scripted(*script) as server:
        app = ses_app(API_URL=server.url, **changes)
        with app.app_context():
            yield MailESP(), server
        app.extensions["mailesp"].transport.close()


def sent(message: Message, *script: Any, **changes: Any) -> SendResult:
    with answering(*script, **changes) as (mail, _):
        return mail.send(message)


def failed(message: Message, *script: Any) -> tuple[MailESPError, SendResult]:
    with answering(*script) as (mail, _), pytest.raises(MailESPError) as caught:
        mail.send(message)
    assert caught.value.result is not None
    assert caught.value.esp_name == "Amazon SES"
    return caught.value, caught.value.result


def accept(request: Request) -> Reply:
    """Answer as Amazon SES does when it takes everything."""
    answer = amazon_ses_accepts(request.target, request.body)
    return Reply(answer.status, answer.body, {"Content-Type": "application/json"})


def reply(status: int, document: Any, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(document).encode(), named)


def bulk(*results: Any) -> Reply:
    return reply(200, {"BulkEmailEntryResults": list(results)})


OK = {"Status": "SUCCESS", "MessageId": "id-A"}
THROTTLED = {"Status": "ACCOUNT_THROTTLED", "Error": "Slow down."}
REJECTED = {"Status": "MESSAGE_REJECTED", "Error": "Address p1@example.com is not verified."}


def test_requests_are_signed_when_they_are_sent() -> None:
    """With the time of then, and over the very bytes on the wire."""
    with answering(accept, SESSION_TOKEN="x", ACCESS_KEY_ID="ASIATEMPORARY") as (mail, server):
        mail.send(plain(attachments=[("a.bin", "application/x-a", bytes(200_000))]))
        (request,) = server.requests
        sent_at = request.headers["x-amz-date"]
        now = datetime.strptime(f"{sent_at}+0000", "%Y%m%dT%H%M%SZ%z")
        unsigned = HttpRequest(
            "POST",
            f"{server.url}{request.target}",
            {"Content-Type": request.headers["content-type"]},
            request.body,
        )
        settings = settings_of(SESSION_TOKEN="x", ACCESS_KEY_ID="ASIATEMPORARY")
        expected = amazon_ses.sign(unsigned, settings, now)

    assert request.headers["authorization"] == expected.headers["Authorization"]
    assert request.headers["x-amz-security-token"] == "x"
    assert abs(now - datetime.now(timezone.utc)) < timedelta(minutes=5)


def test_one_mail_has_one_id() -> None:
    """Which tracking events bring back."""
    result = sent(plain(cc=["c@example.com"]), reply(200, {"MessageId": "0102-1"}))

    assert (result.outcome, result.status, result.message_id) == ("accepted", {"queued"}, "0102-1")


def test_every_id_of_a_divided_mail_is_kept() -> None:
    result = sent(plain(to=people(101)), *(reply(200, {"MessageId": f"i{n}"}) for n in range(3)))

    assert result.message_id == {"i0", "i1", "i2"}
    assert result.recipients["p50@example.com"].message_id == "i1"


def test_every_copy_of_a_template_has_its_id() -> None:
    """And a copy for all keeps those of all."""
    message = templated(to=people(2), cc=["c@example.com"], merge_data={})
    result = sent(message, bulk(OK, {"Status": "SUCCESS", "MessageId": "id-B"}))

    assert result.recipients["p1@example.com"].message_id == "id-B"
    assert result.recipients["c@example.com"].message_id == frozenset({"id-A", "id-B"})


def test_entries_fail_one_by_one() -> None:
    """A partial success raises nothing; what was said about the others is told."""
    result = sent(
        templated(to=people(3), merge_data={}), bulk(OK, REJECTED, THROTTLED | {"Error": None})
    )

    assert result.outcome == "partial"
    assert [str(entry.status) for entry in result.recipients.values()] == [
        "queued",
        "failed",
        "failed",
    ]
    assert "not verified" in result.recipients["p1@example.com"].description
    assert result.message_id == "id-A"


@pytest.mark.parametrize(
    ("results", "kind", "words"),
    [
        ([REJECTED, REJECTED], APIError, "Identities"),
        ([THROTTLED, THROTTLED], RateLimitedError, "takes no more for now"),
        ([{"Status": "TRANSIENT_FAILURE"}] * 2, RateLimitedError, "for a moment"),
        ([THROTTLED, REJECTED], RateLimitedError, "ACCOUNT_THROTTLED"),
        ([{"Status": "TEMPLATE_NOT_FOUND"}] * 2, APIError, "No such template"),
        ([{"Status": "ACCOUNT_DAILY_QUOTA_EXCEEDED"}] * 2, APIError, "quota"),
        ([{"Status": "SOMETHING_NEW", "Error": "?"}] * 2, APIError, "SOMETHING_NEW"),
    ],
    ids=range(7),
)
def test_when_no_entry_is_taken_it_raises(
    results: list[Any], kind: type[MailESPError], words: str
) -> None:
    """The error that says most."""
    error, result = failed(templated(to=people(2), merge_data={}), bulk(*results))

    assert type(error) is kind
    assert words in str(error)
    assert result.outcome == "refused"
    assert "p1@example.com" not in str(error)


@pytest.mark.parametrize(
    ("results", "ids"),
    [
        ([OK], ["id-A", None]),
        ([OK, OK, OK], ["id-A", "id-A"]),
        ([OK, None], ["id-A", None]),
        ([OK, {"Status": "SUCCESS"}], ["id-A", None]),
        ([OK, {"Status": "SUCCESS", "MessageId": 7}], ["id-A", None]),
        ([OK, {"Error": "?"}], ["id-A", None]),
        ([OK, "SUCCESS"], ["id-A", None]),
    ],
    ids=["fewer", "more", "null", "no id", "number", "no status", "text"],
)
def test_what_is_not_told_of_every_entry_is_uncertain(results: list[Any], ids: list[Any]) -> None:
    """Ids that came back are kept, even where it is not certain whose they are."""
    error, result = failed(templated(to=people(2), merge_data={}), bulk(*results))

    assert isinstance(error, SendUncertainError)
    assert result.outcome == "uncertain"
    assert [entry.message_id for entry in result.recipients.values()] == ids


UNCERTAIN: list[tuple[str, Reply]] = [
    ("500", reply(500, {"message": "Sorry"}, x_amzn_ErrorType="InternalFailure")),
    ("503", reply(503, {}, x_amzn_ErrorType="ServiceUnavailable")),
    ("503, throttled", reply(503, {}, x_amzn_ErrorType="ThrottlingException")),
    ("garbage", Reply(200, b"{")),
    ("HTML", Reply(200, b"<html>Welcome</html>")),
    ("a list", reply(200, [])),
    ("null", reply(200, None)),
    ("nothing", reply(200, {})),
    ("no content", Reply(204, b"")),
    ("null id", reply(200, {"MessageId": None})),
    ("empty id", reply(200, {"MessageId": ""})),
    ("number", reply(200, {"MessageId": 7})),
    ("results instead", bulk(OK)),
]


@pytest.mark.parametrize("answer", [row[1] for row in UNCERTAIN], ids=[row[0] for row in UNCERTAIN])
def test_an_answer_that_says_nothing_leaves_it_uncertain(answer: Reply) -> None:
    error, result = failed(plain(), answer)

    assert type(error) is SendUncertainError
    assert [str(entry.status) for entry in result.recipients.values()] == ["unknown"]


@pytest.mark.parametrize("document", [{}, {"BulkEmailEntryResults": None}, {"MessageId": "x"}, []])
def test_a_bulk_answer_without_results_is_uncertain(document: Any) -> None:
    error, _ = failed(templated(), reply(200, document))

    assert type(error) is SendUncertainError


DOC = ":http://internal.example.com/coral/com.example/"
REFUSALS: list[tuple[str, Reply, type[MailESPError], str | None, str]] = [
    (
        "rejected",
        reply(400, {"message": "Address not verified"}, x_amzn_ErrorType=f"MessageRejected{DOC}"),
        APIError,
        "MessageRejected",
        "sandbox",
    ),
    (
        "permission",
        reply(403, {"Message": "no ses:SendRawEmail"}, x_amzn_ErrorType="AccessDeniedException"),
        AuthenticationError,
        "AccessDeniedException",
        "IAM policy",
    ),
    (
        "body only",
        reply(400, {"__type": "com.example.ses#BadRequestException", "message": "Invalid"}),
        APIError,
        "BadRequestException",
        "error.message",
    ),
    (
        "too many",
        reply(429, {"message": "Slow"}, x_amzn_ErrorType="TooManyRequestsException"),
        RateLimitedError,
        "TooManyRequestsException",
        "twice as long",
    ),
    (
        "rate",
        reply(
            400,
            {"message": "Maximum sending rate exceeded."},
            x_amzn_ErrorType="ThrottlingException",
        ),
        RateLimitedError,
        "ThrottlingException",
        "twice as long",
    ),
    (
        "day",
        reply(
            400,
            {"message": "Daily message quota exceeded."},
            x_amzn_ErrorType="ThrottlingException",
        ),
        APIError,
        "ThrottlingException",
        "quota",
    ),
    (
        "expired",
        reply(403, {"message": "expired"}, x_amzn_ErrorType="ExpiredTokenException"),
        AuthenticationError,
        "ExpiredTokenException",
        "renew",
    ),
    (
        "unknown key",
        reply(403, {"message": "?"}, x_amzn_ErrorType="UnrecognizedClientException"),
        AuthenticationError,
        "UnrecognizedClientException",
        "MAILESP_AMAZON_SES_ACCESS_KEY_ID",
    ),
    (
        "signature",
        reply(403, {"message": "?"}, x_amzn_ErrorType="InvalidSignatureException"),
        AuthenticationError,
        "InvalidSignatureException",
        "clock",
    ),
    (
        "not signed",
        reply(400, {"message": "?"}, x_amzn_ErrorType="MissingAuthenticationTokenException"),
        AuthenticationError,
        "MissingAuthenticationTokenException",
        "HTTP 400",
    ),
    (
        "no template",
        reply(404, {"message": "Template x does not exist"}, x_amzn_ErrorType="NotFoundException"),
        APIError,
        "NotFoundException",
        "region",
    ),
    ("timeout", reply(408, {}, x_amzn_ErrorType="RequestTimeoutException"), APIError, None, "408"),
    ("large", Reply(413, b""), APIError, None, "413"),
    ("proxy", Reply(403, b"<html>"), AuthenticationError, None, "403"),
    ("odd", reply(400, {"message": ["x"], "__type": 7}), APIError, None, "400"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "code", "words"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_a_refusal_is_told_with_what_to_do(
    answer: Reply, kind: type[MailESPError], code: str | None, words: str
) -> None:
    """Nothing was taken: every status from 400 to 499 is certain."""
    error, result = failed(plain(), answer)

    assert type(error) is kind
    assert isinstance(error, APIError)
    assert words in str(error)
    assert code is None or error.code == code
    assert result.outcome == "refused"


def test_amazons_id_of_the_exchange_is_kept() -> None:
    """Their support asks for it."""
    refused, _ = failed(plain(), reply(400, {}, x_amzn_RequestId="req-1"))
    unsure, _ = failed(plain(), reply(200, {}, x_amzn_RequestId="req-2"))
    entries, _ = failed(
        templated(), reply(200, {"BulkEmailEntryResults": [REJECTED]}, x_amzn_RequestId="req-3")
    )

    assert [error.request_id for error in (refused, unsure, entries)] == ["req-1", "req-2", "req-3"]


def test_a_batch_keeps_the_ids_it_had_when_a_later_call_fails() -> None:
    """What was accepted stays accepted; what was not tried is said to be."""
    message = templated(to=people(120), merge_data={})
    error, result = failed(message, accept, Reply(500, b"<html>"))

    assert isinstance(error, SendUncertainError)
    statuses = [str(entry.status) for entry in result.recipients.values()]
    assert statuses == ["queued"] * 50 + ["unknown"] * 50 + ["failed"] * 20
    assert isinstance(result.message_id, (set, frozenset))
    assert len(result.message_id) == 50


# --- webhooks: authentication --------------------------------------------------------------


def verify(body: bytes, headers: Mapping[str, str] | None = None, **changes: Any) -> Fetch | None:
    """Verify, without fetching anything."""
    request = WebhookRequest(dict(headers or {}), body)
    return amazon_ses.verify(request, settings_of(**changes), NOW)


def test_the_certificate_is_fetched_from_the_host_of_sns() -> None:
    """A small one, remembered for a day; the host is Amazon's by the rule, not by its word."""
    fetch = verify(encoded(notification(BOUNCED)))

    assert fetch is not None
    assert (fetch.request.method, fetch.request.url) == ("GET", CERTIFICATE_URL)
    assert (fetch.max_bytes, fetch.keep_seconds) == (64 * 1024, 86_400)
    assert (fetch.foreign, fetch.sign) == (False, None)
    assert fetch.resume(HttpResponse(200, {}, CERTIFICATE)) is None


def test_another_address_for_sns_is_a_setting_only() -> None:
    """The URL in the message must still match the rule."""
    fetch = verify(encoded(notification(BOUNCED)), SNS_URL="http://127.0.0.1:8025")

    assert fetch is not None
    assert fetch.request.url == f"http://127.0.0.1:8025/{CERTIFICATE_NAME}"
    with pytest.raises(WebhookRejected, match="certificate"):
        verify(
            encoded(
                notification(BOUNCED, SigningCertURL=f"http://127.0.0.1:8025/{CERTIFICATE_NAME}")
            ),
            SNS_URL="http://127.0.0.1:8025",
        )


HOST = "sns.eu-west-1.amazonaws.com"
NOT_CERTIFICATES = [
    f"http://{HOST}/{CERTIFICATE_NAME}",
    f"HTTPS://{HOST}/{CERTIFICATE_NAME}",
    f"https://user@{HOST}/{CERTIFICATE_NAME}",
    f"https://user:pw@{HOST}/{CERTIFICATE_NAME}",
    f"https://{HOST}:443/{CERTIFICATE_NAME}",
    f"https://{HOST}:8443/{CERTIFICATE_NAME}",
    f"https://{HOST}/{CERTIFICATE_NAME}?x",
    f"https://{HOST}/{CERTIFICATE_NAME}#x",
    f"https://{HOST}/{CERTIFICATE_NAME}\n",
    f" https://{HOST}/{CERTIFICATE_NAME}",
    f"https://{HOST}.example.org/{CERTIFICATE_NAME}",
    f"https://evil.example.org/{HOST}/{CERTIFICATE_NAME}",
    f"https://evil.example.org\\@{HOST}/{CERTIFICATE_NAME}",
    f"https://{HOST.replace('.', 'x', 1)}/{CERTIFICATE_NAME}",
    f"https://sns-example.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://sns.s3-us-west-1.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://s3.eu-west-1.amazonaws.com/bucket/{CERTIFICATE_NAME}",
    f"https://sns.eu-west-1.amazonaws.com/../{CERTIFICATE_NAME}",
    f"https://{HOST}/x/../{CERTIFICATE_NAME}",
    f"https://{HOST}//{CERTIFICATE_NAME}",
    f"https://sns.us-east-1.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://sns.eu-west-11.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://sns.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://sns.eu-west-١.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://SNS.eu-west-1.amazonaws.com/{CERTIFICATE_NAME}",
    f"https://{HOST}/{CERTIFICATE_NAME.upper()}",
    f"https://{HOST}/{CERTIFICATE_NAME[:-5]}.pem",
    f"https://{HOST}/{CERTIFICATE_NAME.replace('0', 'g')}",
    f"https://{HOST}/{CERTIFICATE_NAME.replace('.pem', '.txt')}",
    f"https://{HOST}/SimpleNotificationService.pem",
    f"https://{HOST}/",
    "",
    None,
    7,
    [CERTIFICATE_URL],
]


@pytest.mark.parametrize("url", NOT_CERTIFICATES, ids=repr)
def test_no_other_certificate_is_fetched(url: Any) -> None:
    """Whoever chooses the certificate signs whatever he likes."""
    with pytest.raises(WebhookRejected, match="certificate"):
        verify(encoded(notification(BOUNCED, SigningCertURL="x") | {"SigningCertURL": url}))


def test_the_certificates_of_other_partitions_have_their_own_hosts() -> None:
    """China's end in .cn."""
    topic = "arn:aws-cn:sns:cn-north-1:123456789012:mail"
    url = f"https://sns.cn-north-1.amazonaws.com.cn/{CERTIFICATE_NAME}"
    fetch = verify(
        encoded(notification(BOUNCED, TopicArn=topic, SigningCertURL=url)), TOPIC_ARNS=topic
    )

    assert fetch is not None
    assert fetch.request.url == url


OTHER_TOPICS = [
    "arn:aws:sns:eu-west-1:123456789012:ses-event",
    "arn:aws:sns:eu-west-1:999999999999:ses-events",
    f"{TOPIC} ",
    TOPIC.upper(),
    "",
]


@pytest.mark.parametrize("topic", OTHER_TOPICS)
@pytest.mark.parametrize("make", [lambda **c: notification(BOUNCED, **c), confirmation])
def test_another_topic_is_refused_before_anything_is_fetched(
    make: Callable[..., dict[str, Any]], topic: str
) -> None:
    """Any customer of AWS has topics, whose messages are signed as well as ours."""
    with pytest.raises(WebhookRejected, match="TOPIC_ARNS"):
        verify(encoded(make(TopicArn=topic)))


def test_without_topics_the_setting_is_named() -> None:
    """And nothing is accepted."""
    with pytest.raises(ConfigurationError, match=r"TOPIC_ARNS is not set.*Amazon SNS > Topics"):
        verify(encoded(notification(BOUNCED)), TOPIC_ARNS=None)


@contextmanager
def hooked(answer: Callable[[HttpRequest], HttpResponse] = amazon, **changes: Any) -> Iterator[Any]:
    """An app that receives, with a server that stands for SNS and S3."""
    with EspServer(answer) as server:
        app = ses_app(SNS_URL=server.url, S3_URL=server.url, **changes)
        try:
            yield Hooks(app), server
        finally:
            app.extensions["mailesp"].transport.close()


SNS_TYPE = "text/plain; charset=UTF-8"


def post(hooks: Hooks, document: Any, kind: str = "tracking", **headers: str) -> int:
    body = document if isinstance(document, bytes) else encoded(document)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = hooks.post("amazon_ses", body, named, kind=kind, content_type=SNS_TYPE)
    return answer.status_code


def test_a_notification_becomes_an_event() -> None:
    """The certificate is fetched once for many of them."""
    with hooked() as (hooks, server):
        for number in range(5):
            assert post(hooks, notification(BOUNCED, MessageId=str(number))) == 200

        assert [request.url.rpartition("/")[2] for request in server.requests] == [CERTIFICATE_NAME]
    assert [event.event_id for event in hooks.tracking] == ["0", "1", "2", "3", "4"]
    assert hooks.names == ["Amazon SES"] * 5


def test_what_is_not_of_a_topic_of_ours_causes_no_fetch() -> None:
    """Nobody makes us connect to anything."""
    with hooked() as (hooks, server):
        for topic in OTHER_TOPICS:
            assert post(hooks, notification(BOUNCED, TopicArn=topic)) == 401
            assert post(hooks, confirmation(TopicArn=topic)) == 401

        assert server.connections == 0
    assert hooks.events == []


def test_while_the_certificate_cannot_be_had_sns_must_try_again() -> None:
    """503: after any 4xx the message would be lost."""
    with hooked(lambda request: HttpResponse(500)) as (hooks, _):
        assert post(hooks, notification(BOUNCED)) == 503
    assert hooks.events == []


def test_a_certificate_that_sns_does_not_know_makes_a_forgery() -> None:
    """401, and no 5xx that a stranger could cause at will."""
    url = f"https://{HOST}/SimpleNotificationService-{'f' * 32}.pem"
    with hooked() as (hooks, _):
        assert post(hooks, notification(BOUNCED, SigningCertURL=url)) == 401


def test_an_endless_certificate_is_not_read_to_its_end() -> None:
    """64 kB are plenty."""
    with hooked(lambda request: HttpResponse(200, {}, CERTIFICATE + bytes(70_000))) as (hooks, _):
        assert post(hooks, notification(BOUNCED)) == 503


def test_credentials_are_required_besides_where_they_are_set() -> None:
    """And looked at first."""
    with hooked(WEBHOOK_SECRET=SECRET) as (hooks, server):
        assert post(hooks, notification(BOUNCED)) == 401
        assert server.connections == 0
        assert post(hooks, notification(BOUNCED), **basic()) == 200
        assert post(hooks, notification(BOUNCED, Subject="x") | {"Subject": "y"}, **basic()) == 401


def test_raw_delivery_is_refused() -> None:
    """It has no signature."""
    with hooked() as (hooks, _):
        assert post(hooks, BOUNCED, x_amz_sns_rawdelivery="true") == 401
        assert post(hooks, notification(BOUNCED), x_amz_sns_rawdelivery="true") == 401


RAW = {"x_amz_sns_rawdelivery": "true", "x_amz_sns_message_id": "m-1"}


def test_raw_delivery_can_be_allowed_where_a_secret_authenticates_it() -> None:
    """The headers tell what the envelope would; nothing is fetched."""
    raw = RAW | {"x_amz_sns_topic_arn": TOPIC}
    with hooked(ALLOW_RAW_DELIVERY=True, WEBHOOK_SECRET=SECRET) as (hooks, server):
        assert post(hooks, BOUNCED, **raw, **basic()) == 200
        assert post(hooks, b"no JSON", **raw, **basic()) == 200
        for topic in OTHER_TOPICS:
            assert post(hooks, BOUNCED, **RAW, x_amz_sns_topic_arn=topic, **basic()) == 401
        assert post(hooks, BOUNCED, **RAW, **basic()) == 401
        assert post(hooks, BOUNCED, **raw) == 401
        assert post(hooks, BOUNCED, **raw, **basic("hook:wrong")) == 401
        assert server.connections == 0

    assert [event.event_type for event in hooks.events] == ["bounced", "unknown"]
    assert {event.event_id for event in hooks.events} == {"m-1"}


def test_raw_delivery_is_not_accepted_without_a_secret() -> None:
    """Even where it is allowed."""
    with hooked(ALLOW_RAW_DELIVERY=True) as (hooks, _):
        assert post(hooks, BOUNCED, **RAW, x_amz_sns_topic_arn=TOPIC) == 401


def test_wrapped_delivery_stays_signed_where_raw_delivery_is_allowed() -> None:
    with hooked(ALLOW_RAW_DELIVERY=True, WEBHOOK_SECRET=SECRET) as (hooks, _):
        assert post(hooks, notification(BOUNCED), **basic()) == 200
        forged = notification(BOUNCED) | {"Message": "{}"}
        assert post(hooks, forged, **basic()) == 401


# --- webhooks: subscriptions ---------------------------------------------------------------


def test_a_subscription_is_confirmed_by_a_call_of_our_own_making() -> None:
    """The URL in the message, however well signed, is not ours to follow."""
    (fetch,) = amazon_ses.parse(WebhookRequest({}, encoded(confirmation())), settings_of())

    assert isinstance(fetch, Fetch)
    assert (fetch.request.method, fetch.request.url) == (
        "POST",
        "https://sns.eu-west-1.amazonaws.com/",
    )
    assert bytes(fetch.request.body) == (  # type: ignore[arg-type]
        b"Action=ConfirmSubscription"
        b"&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Ases-events"
        b"&Token=2336412f37example&Version=2010-03-31"
    )
    assert fetch.request.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    assert (fetch.foreign, fetch.sign) == (False, None)


@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_subscribing_takes_no_more_than_the_url(kind: str) -> None:
    """The certificate is fetched, SNS is called, and nobody else is."""
    with hooked() as (hooks, server):
        assert post(hooks, confirmation(), kind) == 200
        called = [(request.method, request.url.partition("/")[2]) for request in server.requests]

        assert [method for method, _ in called] == ["GET", "POST"]
    assert hooks.events == []


@pytest.mark.parametrize("status", [301, 400, 403, 404, 500])
def test_a_confirmation_that_fails_is_asked_for_again(status: int) -> None:
    """Or made by hand: the console's button brings a new token."""

    def refusing(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status) if request.method == "POST" else amazon(request)

    with hooked(refusing) as (hooks, _):
        assert post(hooks, confirmation()) == 503


def test_confirming_can_be_left_to_people(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what waits."""
    with hooked(AUTO_CONFIRM_SNS=False) as (hooks, server):
        assert post(hooks, confirmation()) == 200
        assert [request.method for request in server.requests] == ["GET"]
    assert TOPIC in caplog.text
    assert "2336412f37example" not in caplog.text


def test_the_end_of_a_subscription_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is no event."""
    with hooked() as (hooks, _):
        assert post(hooks, confirmation(Type="UnsubscribeConfirmation")) == 200
    assert "subscription has ended" in caplog.text
    assert hooks.events == []


@pytest.mark.parametrize("changes", [{"Token": None}, {"Token": ""}, {"TopicArn": "x"}])
def test_a_damaged_confirmation_is_an_unknown_event(changes: dict[str, Any]) -> None:
    """Should it ever be authentic."""
    damaged = confirmation() | changes
    (found,) = parse(damaged)

    assert (found.event_type, found.esp_event) == ("unknown", damaged)


# --- tracking events -----------------------------------------------------------------------


def parse(document: Any, **changes: Any) -> Any:
    body = document if isinstance(document, bytes) else encoded(document)
    known = Settings({"AUTO_CONFIRM_SNS": True} | changes)
    return amazon_ses.parse(WebhookRequest({"Content-Type": SNS_TYPE}, body), known)


def parse_one(message: Any, **changes: Any) -> Any:
    (found,) = parse(notification(message, **changes))
    return found


def preferences(everything: bool, *statuses: str) -> dict[str, Any]:
    return {
        "unsubscribeAll": everything,
        "topicSubscriptionStatus": [
            {"topicName": f"topic-{number}", "subscriptionStatus": status}
            for number, status in enumerate(statuses)
        ],
    }


def subscription(new: Any, old: Any) -> dict[str, Any]:
    detail = {
        "contactList": "news",
        "timestamp": "2026-03-01T10:06:00.000Z",
        "source": "UnsubscribeHeader",
        "newTopicPreferences": new,
        "oldTopicPreferences": old,
    }
    return event("Subscription", "subscription", detail)


def timed(**details: Any) -> dict[str, Any]:
    return {"timestamp": "2026-03-01T10:04:00.000Z", **details}


DELIVERED = event(
    "Delivery",
    "delivery",
    timed(
        processingTimeMillis=900,
        recipients=["ilse@example.net"],
        smtpResponse="250 2.0.0 queued",
        reportingMTA="a1.smtp-out.amazonses.com",
    ),
)
DELAYED = event(
    "DeliveryDelay",
    "deliveryDelay",
    timed(
        delayType="MailboxFull",
        expirationTime="2026-03-01T22:00:00.000Z",
        delayedRecipients=[
            {
                "emailAddress": "ilse@example.net",
                "status": "4.2.2",
                "diagnosticCode": "smtp; 452 4.2.2 full",
            }
        ],
    ),
)
COMPLAINED = event(
    "Complaint",
    "complaint",
    timed(
        feedbackId="0102f-2",
        complaintSubType=None,
        complaintFeedbackType="abuse",
        userAgent="Feedback/1",
        complainedRecipients=[{"emailAddress": "ilse@example.net"}],
    ),
)
GAVE_UP = {
    "notificationType": "Bounce",
    "mail": {
        key: value
        for key, value in mail(sourceArn="arn:aws:ses:…", sourceIp="192.0.2.9").items()
        if key not in ("tags", "headers", "headersTruncated")
    },
    "bounce": timed(
        bounceType="Transient",
        bounceSubType="MailboxFull",
        feedbackId="0102f-3",
        bouncedRecipients=[{"emailAddress": "ilse@example.net"}],
    ),
}
SUPPRESSED = event(
    "Complaint",
    "complaint",
    timed(
        complaintSubType="OnAccountSuppressionList",
        complainedRecipients=[{"emailAddress": "ilse@example.net"}],
    ),
)
Expected = tuple[EventType, RejectReason | None, str | None, str | None]
EVENTS: list[tuple[str, dict[str, Any], Expected]] = [
    (
        "bounced",
        BOUNCED,
        (
            EventType.BOUNCED,
            RejectReason.BOUNCED,
            "Permanent: NoEmail",
            "smtp; 550 5.1.1 unknown",
        ),
    ),
    (
        "bounced after many attempts, as an identity's notification",
        GAVE_UP,
        (EventType.BOUNCED, RejectReason.BOUNCED, "Transient: MailboxFull", None),
    ),
    ("complained", COMPLAINED, (EventType.COMPLAINED, RejectReason.SPAM, "abuse", None)),
    (
        "complained before, so never sent",
        SUPPRESSED,
        (EventType.COMPLAINED, RejectReason.SPAM, "OnAccountSuppressionList", None),
    ),
    ("delivered", DELIVERED, (EventType.DELIVERED, None, None, "250 2.0.0 queued")),
    ("sent", event("Send", "send", {}), (EventType.SENT, None, None, None)),
    (
        "rejected",
        event("Reject", "reject", {"reason": "Bad content"}),
        (EventType.REJECTED, RejectReason.BLOCKED, "Bad content", None),
    ),
    (
        "opened",
        event("Open", "open", timed(userAgent="Agent/1", ipAddress="192.0.2.1")),
        (EventType.OPENED, None, None, None),
    ),
    ("clicked", CLICKED, (EventType.CLICKED, None, None, None)),
    (
        "not rendered",
        event("Rendering Failure", "failure", {"templateName": "order", "errorMessage": "no name"}),
        (EventType.FAILED, None, "order: no name", None),
    ),
    ("delayed", DELAYED, (EventType.DEFERRED, None, "MailboxFull", "smtp; 452 4.2.2 full")),
    (
        "unsubscribed from everything",
        subscription(preferences(True, "OptOut"), preferences(False, "OptIn")),
        (EventType.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, "news", None),
    ),
    (
        "unsubscribed from one topic of two",
        subscription(preferences(False, "OptOut", "OptIn"), preferences(False, "OptIn", "OptIn")),
        (EventType.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED, "news", None),
    ),
    (
        "subscribed to one topic, without another as before",
        subscription(preferences(False, "OptOut", "OptIn"), preferences(False, "OptOut", "OptOut")),
        (EventType.SUBSCRIBED, None, "news", None),
    ),
    ("new", event("Paint", "paint", timed()), (EventType.UNKNOWN, None, None, None)),
]


@pytest.mark.parametrize(
    ("message", "expected"), [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS]
)
def test_every_event_has_its_normalised_form(message: dict[str, Any], expected: Expected) -> None:
    """And is about the recipient and the id that sending gave."""
    found = parse_one(message)

    assert expected == (
        found.event_type,
        found.reject_reason,
        found.description,
        found.mta_response,
    )
    assert (found.message_id, found.recipient) == ("0102x-1", "ilse@example.net")
    assert found.event_id == "11111111-2222-5333-8444-555555555555"
    assert found.esp_event == message


def test_every_field_of_a_bounce() -> None:
    """The time is that of the bounce, to the millisecond."""
    assert parse_one(BOUNCED) == TrackingEvent(
        event_type=EventType.BOUNCED,
        esp_event=BOUNCED,
        timestamp=moment("10:0:5.25"),
        event_id="11111111-2222-5333-8444-555555555555",
        message_id="0102x-1",
        recipient="ilse@example.net",
        reject_reason=RejectReason.BOUNCED,
        description="Permanent: NoEmail",
        mta_response="smtp; 550 5.1.1 unknown",
        tags=["parcel"],
        metadata={"parcel": "1042"},
        identity=("Amazon SES", "11111111-2222-5333-8444-555555555555", "ilse@example.net"),
    )


def test_a_click_tells_where_to_and_with_what() -> None:
    found = parse_one(CLICKED)

    assert found.click_url == "https://shop.example.org/parcels/1042?a=1&b=2"
    assert found.user_agent == "Mozilla/5.0 (X11; Linux x86_64)"
    assert found.timestamp == moment("10:5:0")


def test_an_event_without_a_time_has_that_of_its_message() -> None:
    """Not that of the mail, which was sent before."""
    assert parse_one(event("Send", "send", {})).timestamp == moment("10:11:12.345")


@pytest.mark.parametrize(
    ("detail", "key", "make"),
    [
        ("bounce", "bouncedRecipients", lambda who: {"emailAddress": who, "diagnosticCode": who}),
        ("delivery", "recipients", lambda who: who),
    ],
)
def test_each_recipient_has_an_event(detail: str, key: str, make: Callable[[str], Any]) -> None:
    """With a key of its own."""
    listed = {key: [make(who) for who in people(3)]}
    found = parse(notification(event(detail.title(), detail, listed)))

    assert [one.recipient for one in found] == people(3)
    assert len({one.key for one in found}) == 3
    if detail == "bounce":
        assert [one.mta_response for one in found] == people(3)


def test_what_concerns_a_mail_to_several_concerns_each() -> None:
    """An open cannot say whose it is."""
    message = event("Open", "open", timed()) | {"mail": mail(destination=people(2))}

    assert [one.recipient for one in parse(notification(message))] == people(2)


@pytest.mark.parametrize("destination", [None, [], {}, "a@example.com", [None], [7]], ids=repr)
def test_without_a_recipient_there_is_still_an_event(destination: Any) -> None:
    found = parse(notification(event("Open", "open", {}) | {"mail": mail(destination=destination)}))

    assert [one.event_type for one in found] == ["opened"]


def test_a_display_name_is_no_part_of_a_recipient() -> None:
    message = event("Send", "send", {}) | {"mail": mail(destination=["Ilse G <ilse@example.net>"])}

    assert parse_one(message).recipient == "ilse@example.net"


def test_without_headers_the_message_tag_is_the_tag() -> None:
    """Its name is a setting; Amazon's own tags are left alone."""
    message = event("Send", "send", {}) | {"mail": mail(headers=None)}
    (unnamed,) = parse(notification(message))
    (named,) = parse(notification(message), MESSAGE_TAG_NAME="kind")
    (both,) = parse(notification(BOUNCED), MESSAGE_TAG_NAME="kind")

    assert (unnamed.tags, unnamed.metadata) == ([], {})
    assert (named.tags, both.tags) == (["receipt"], ["parcel"])


def test_tags_are_decoded() -> None:
    """Each header is one."""
    headers = [
        {"name": "X-TAG", "value": "=?utf-8?q?=C3=85r?="},
        {"name": "x-tag", "value": "a\r\n b"},
        {"name": "X-Tag", "value": ""},
        {"name": "X-Tag"},
        {"value": "x"},
        "X-Tag",
    ]
    found = parse_one(event("Send", "send", {}) | {"mail": mail(headers=headers)})

    assert found.tags == ["År", "a b"]


@pytest.mark.parametrize("value", ["", "{", "[]", "7", '"x"', None, 7, "null", "{}"], ids=repr)
def test_metadata_that_are_cut_off_are_none(value: Any) -> None:
    """Amazon SES cuts headers beyond 10 kB."""
    headers = [{"name": "X-Metadata", "value": value}]

    assert parse_one(BOUNCED | {"mail": mail(headers=headers)}).metadata == {}


@pytest.mark.parametrize(
    "message",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        {"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have …"},
    ],
    ids=["text", "json"],
)
def test_what_only_says_that_all_is_well_is_no_event(message: Any) -> None:
    assert parse(notification(message)) == ()


@pytest.mark.parametrize(
    "message", ["", "Hello", "[]", "7", "{", "null", "[" * 9000, '{"eventType":}'], ids=range(8)
)
def test_a_message_that_is_no_json_object_is_unknown(message: str) -> None:
    """With all that SNS posted."""
    found = parse_one(message)

    assert found.event_type == "unknown"
    assert found.esp_event["Message"] == message
    assert found.event_id == "11111111-2222-5333-8444-555555555555"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"7", b"\xff\xfe"], ids=range(6))
def test_what_is_no_json_object_is_unknown(body: bytes) -> None:
    """With the bytes as they came."""
    (found,) = parse(body)

    assert (found.event_type, found.esp_event) == ("unknown", body)
    assert found.key == parse(body)[0].key


def test_the_key_tells_events_apart() -> None:
    """Retries repeat the id of the SNS message; without one, they repeat the bytes."""
    without = {key: value for key, value in notification(BOUNCED).items() if key != "MessageId"}
    keys = [
        parse(document)[0].key
        for document in (
            notification(BOUNCED),
            notification(BOUNCED),
            notification(BOUNCED, MessageId="2"),
            without,
            without,
        )
    ]

    assert keys[0] == keys[1]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(("name", "kind"), amazon_ses.KINDS.items())
def test_the_table_has_the_kinds_of_the_documentation(
    name: str | None, kind: amazon_ses.Kind
) -> None:
    """Each is among the samples above."""
    samples = [message for _, message, _ in EVENTS]
    assert any(kind.detail in message for message in samples), name


PAGE = (Path(__file__).parent.parent / "docs" / "esps" / "amazon_ses.md").read_text("utf-8")


@pytest.mark.parametrize(("name", "kind"), amazon_ses.KINDS.items())
def test_the_page_has_the_mapping_of_the_code(name: str | None, kind: amazon_ses.Kind) -> None:
    """Row by row."""
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]

    assert len(rows) == 1
    assert rows[0].startswith(f"| `{name}` | `{kind.event_type}`")
    assert (kind.reject_reason or "") in rows[0].split("|")[3]


# --- inbound mail --------------------------------------------------------------------------


def inbound_one(message: Any, **changes: Any) -> Any:
    return parse_one(message, TopicArn=INBOUND_TOPIC, **changes)


def test_a_mail_in_its_notification_is_read_octet_by_octet() -> None:
    """Every field of it."""
    found = inbound_one(received())
    message = found.message

    assert isinstance(found, InboundEvent)
    assert message.raw == RAW_MAIL
    assert message.text == "Grüße\n"
    assert (found.event_id, found.timestamp) == ("in-77", moment("10:0:0"))
    assert message.envelope_sender == "ilse@example.net"
    assert message.envelope_recipient == "help@in.shop.example.org"
    assert (message.spam_detected, message.spam_score) == (False, None)
    assert str(message.from_email) == "Ilse <ilse@example.net>"
    assert (message.subject, message.message_id) == ("Paket", "in-1@example.net")
    assert message.defects == []


def test_a_mail_may_come_as_text() -> None:
    """The rule's other encoding, which has lost what is not UTF-8."""
    action = {"type": "SNS", "encoding": "UTF8"}
    told = received(content="Subject: Grüße\r\n\r\nText ✓", receipt=receipt(action))
    message = inbound_one(told).message

    assert (message.subject, message.text) == ("Grüße", "Text ✓")


@pytest.mark.parametrize(
    ("content", "raw"),
    [
        ("", b""),
        ("U3ViamVjdDogSGk", b"Subject: Hi"),
        ("U3Vi!amVj,dDogSGkK;", b"Subject: Hi\n"),
        ("é", b""),
    ],
)
def test_damaged_base64_gives_what_it_can(content: str, raw: bytes) -> None:
    """The mail is delivered with a defect, not lost."""
    message = inbound_one(received(content=content)).message

    assert message.raw == raw
    assert message.defects or not content


@pytest.mark.parametrize(
    ("status", "detected"),
    [
        ("PASS", False),
        ("FAIL", True),
        ("GRAY", None),
        ("PROCESSING_FAILED", None),
        ("DISABLED", None),
        (None, None),
        (7, None),
    ],
)
def test_the_verdict_on_spam(status: Any, detected: bool | None) -> None:
    """Only two of the words are one."""
    told = received(receipt=receipt({"encoding": "BASE64"}, spamVerdict={"status": status}))

    assert inbound_one(told).message.spam_detected is detected


def test_the_null_sender_is_an_empty_text() -> None:
    """It marks bounces and other automatic mail; what is not told is None."""
    for source, sender in (("", ""), (None, ""), ("a@example.com", "a@example.com")):
        told = received(mail=received()["mail"] | {"source": source})
        assert inbound_one(told).message.envelope_sender == sender
    assert inbound_one(received(mail={})).message.envelope_sender is None


def test_two_actions_of_one_rule_tell_of_one_mail() -> None:
    """The same key, whichever of them brings it; other recipients have another."""
    (fetch,) = parse(notification(stored(), TopicArn=INBOUND_TOPIC))
    (through_s3,) = fetch.resume(HttpResponse(200, {}, RAW_MAIL))
    others = received(receipt=receipt({"encoding": "BASE64"}, recipients=["new@example.org"]))

    assert inbound_one(received()).key == through_s3.key
    assert inbound_one(others).key != through_s3.key


def test_a_mail_in_s3_is_fetched_with_a_signature() -> None:
    """From the bucket's own host, up to 40 MB."""
    (fetch,) = parse(notification(stored("in bound/abc+1 ž?#%"), TopicArn=INBOUND_TOPIC))

    assert (fetch.request.method, fetch.request.url) == (
        "GET",
        "https://example-mail.s3.eu-west-1.amazonaws.com/in%20bound/abc%2B1%20%C5%BE%3F%23%25",
    )
    assert (fetch.max_bytes, fetch.keep_seconds, fetch.foreign) == (40 * 1024 * 1024, 0.0, False)
    signed = fetch.sign(fetch.request, settings_of(), NOW)
    assert "/20260301/eu-west-1/s3/aws4_request" in signed.headers["Authorization"]
    assert signed.headers["X-Amz-Content-Sha256"].startswith("e3b0c44298fc1c14")


def s3_url(key: str, bucket: str = "example-mail", topic: str = INBOUND_TOPIC, **known: Any) -> Any:
    document = notification(stored(key, bucket), TopicArn=topic)
    (found,) = parse(document, **known)
    return found.request.url if isinstance(found, Fetch) else None


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("a/b",), "https://example-mail.s3.eu-west-1.amazonaws.com/a/b"),
        (("a//b/",), "https://example-mail.s3.eu-west-1.amazonaws.com/a//b/"),
        (("/a",), "https://s3.eu-west-1.amazonaws.com/example-mail//a"),
        (("...",), "https://example-mail.s3.eu-west-1.amazonaws.com/..."),
        (("%2e%2e/x",), "https://example-mail.s3.eu-west-1.amazonaws.com/%252e%252e/x"),
        (("a\nb",), "https://example-mail.s3.eu-west-1.amazonaws.com/a%0Ab"),
        (("a", "my.mail"), "https://s3.eu-west-1.amazonaws.com/my.mail/a"),
        (
            ("a", "mail", "arn:aws-cn:sns:cn-north-1:123456789012:in"),
            "https://mail.s3.cn-north-1.amazonaws.com.cn/a",
        ),
    ],
    ids=range(8),
)
def test_where_an_object_is(arguments: tuple[str, ...], url: str) -> None:
    """The key's segments are encoded; the bucket is in the path where the host won't do."""
    assert s3_url(*arguments) == url


def test_another_address_for_s3_has_buckets_in_its_path() -> None:
    known = {"S3_URL": "http://127.0.0.1:9000"}

    assert s3_url("a b", **known) == "http://127.0.0.1:9000/example-mail/a%20b"


@pytest.mark.parametrize(
    ("key", "bucket"),
    [
        ("", "example-mail"),
        ("..", "example-mail"),
        ("../other/secret", "example-mail"),
        ("in/../../other", "example-mail"),
        ("in/./x", "example-mail"),
        ("x" * 1025, "example-mail"),
        ("a", ""),
        ("a", "ab"),
        ("a", "Example"),
        ("a", "evil.example.org/x"),
        ("a", "evil@host"),
        ("a", "a..b"),
        ("a", "127.0.0.1:80"),
        ("a", "-mail-"),
        ("a", "mail\n"),
        ("a", "m" * 64),
    ],
)
def test_odd_names_are_not_fetched(key: str, bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the notification says arrives all the same, as an unknown event."""
    told = stored(key, bucket)
    found = inbound_one(told)

    assert (found.event_type, found.esp_event) == ("unknown", told)
    assert "unknown event" in caplog.text


def test_a_bucket_elsewhere_is_looked_for_there_once() -> None:
    """S3 names the region; its Location is not followed."""
    (fetch,) = parse(notification(stored(), TopicArn=INBOUND_TOPIC))
    moved = HttpResponse(
        301, {"x-amz-bucket-region": "us-east-1", "location": "https://evil.example.org/"}
    )
    second = fetch.resume(moved)

    assert second.request.url == "https://example-mail.s3.us-east-1.amazonaws.com/in/abc"
    signed = second.sign(second.request, settings_of(), NOW)
    assert "/us-east-1/s3/" in signed.headers["Authorization"]
    with pytest.raises(FetchError):
        second.resume(HttpResponse(301, {"x-amz-bucket-region": "eu-north-1"}))


@pytest.mark.parametrize("region", ["eu-west-1", "evil.example.org/", "", "US-EAST-1"])
def test_no_other_region_is_believed(region: str) -> None:
    (fetch,) = parse(notification(stored(), TopicArn=INBOUND_TOPIC))

    with pytest.raises(FetchError, match="HTTP 301"):
        fetch.resume(HttpResponse(301, {"x-amz-bucket-region": region}))


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey"), (503, "SlowDown"), (204, "")]
)
def test_what_s3_does_not_give_is_asked_for_again(status: int, code: str) -> None:
    """With its code for the log."""
    (fetch,) = parse(notification(stored(), TopicArn=INBOUND_TOPIC))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()

    with pytest.raises(FetchError, match=f"HTTP {status}.*{code}"):
        fetch.resume(HttpResponse(status, {}, body))


def test_an_encrypted_mail_is_an_unknown_event(caplog: pytest.LogCaptureFixture) -> None:
    """Only the customer's key opens it."""
    told = stored()
    (fetch,) = parse(notification(told, TopicArn=INBOUND_TOPIC))
    (found,) = fetch.resume(HttpResponse(200, {"x-amz-meta-x-amz-key-v2": "…"}, b"\x00\x01"))

    assert (found.event_type, found.esp_event) == ("unknown", told)
    assert "message encryption" in caplog.text


def test_the_first_object_of_a_bucket_is_no_mail() -> None:
    """Amazon SES tries whether it may write."""
    for key in ("AMAZON_SES_SETUP_NOTIFICATION", "in/AMAZON_SES_SETUP_NOTIFICATION"):
        assert parse(notification(stored(key), TopicArn=INBOUND_TOPIC)) == ()


@pytest.mark.parametrize("kind", ["Lambda", "Bounce", "Stop", "WorkMail"])
def test_an_action_without_content_is_an_unknown_event(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells which actions bring it."""
    told = received(receipt=receipt({"type": kind, "topicArn": INBOUND_TOPIC}))
    del told["content"]
    found = inbound_one(told)

    assert (found.event_type, found.esp_event) == ("unknown", told)
    assert "SNS or S3 action" in caplog.text


def test_a_mail_arrives_through_s3() -> None:
    """Notification, certificate, object, event."""
    with hooked() as (hooks, server):
        document = notification(stored(), TopicArn=INBOUND_TOPIC)
        assert post(hooks, document, "inbound") == 200
        fetched = server.requests[-1]

        assert fetched.url == f"{server.url}/example-mail/in/abc"
        assert fetched.headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={KEY_ID}/")
    (found,) = hooks.inbound
    assert found.message.raw == RAW_MAIL


def test_without_credentials_a_mail_in_s3_is_put_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503 and a line in the log, not a lost mail."""
    without_botocore(monkeypatch)
    with hooked(**NO_KEYS) as (hooks, _):
        assert post(hooks, notification(stored(), TopicArn=INBOUND_TOPIC), "inbound") == 503
        assert post(hooks, notification(received(), TopicArn=INBOUND_TOPIC), "inbound") == 200
    assert len(hooks.inbound) == 1
    assert "Flask-MailESP[ses]" in caplog.text


def test_a_mail_that_is_not_there_yet_is_put_off() -> None:
    with hooked() as (hooks, _):
        assert post(hooks, notification(stored("gone"), TopicArn=INBOUND_TOPIC), "inbound") == 503
    assert hooks.events == []


def test_nothing_of_a_mail_or_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At any level."""
    with caplog.at_level(logging.DEBUG), hooked() as (hooks, _):
        post(hooks, notification(stored(), TopicArn=INBOUND_TOPIC), "inbound")
        post(hooks, notification(BOUNCED))
        post(hooks, confirmation())
        post(hooks, notification(BOUNCED) | {"Message": "x"})
    for secret in ("ilse@", "2336412f37example", KEY_ID, "in/abc"):
        assert secret not in caplog.text


# --- anything at all -----------------------------------------------------------------------

NAMES = sorted(
    {
        *notification(BOUNCED),
        *confirmation(),
        *mail(),
        *stored(),
        *stored()["receipt"],
        *stored()["receipt"]["action"],
        *(kind.detail for kind in amazon_ses.KINDS.values()),
        *(kind.recipients for kind in amazon_ses.KINDS.values()),
        *("emailAddress", "diagnosticCode", "timestamp", "eventType", "name", "value", "status"),
        *("newTopicPreferences", "topicSubscriptionStatus", "unsubscribeAll", "source"),
    }
)
WORDS = [
    *(str(name) for name in amazon_ses.KINDS),
    *("Received", "SubscriptionConfirmation", "Notification", "X-Tag", "X-Metadata", TOPIC),
    *("S3", "SNS", "BASE64", "example-mail", "in/abc", "2026-03-01T10:00:00Z", "\ud800", "=?x?q?="),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


def check(found: Any) -> None:
    """What holds for everything that parse returns; fetches are followed to odd ends."""
    for item in found:
        if isinstance(item, Fetch):
            answers = HttpResponse(200, {}, RAW_MAIL), HttpResponse(404), HttpResponse(301)
            for answer in answers:
                try:
                    check(item.resume(answer) or ())
                except FetchError:
                    continue
            continue
        assert isinstance(item, (TrackingEvent, InboundEvent))
        assert len(item.key) == 64
        assert item.timestamp is None or item.timestamp.tzinfo is not None
        if isinstance(item, TrackingEvent):
            assert isinstance(item.metadata, dict)
            assert all(isinstance(tag, str) and tag for tag in item.tags)
            assert item.recipient is None or item.recipient.encode()


@given(body=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_one_event(body: bytes) -> None:
    found = parse(body)

    assert len(found) == 1
    check(found)


@given(envelope=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), inner=VALUES)
@settings(max_examples=150, deadline=None)
def test_any_json_in_any_json_is_read(envelope: dict[str, Any], inner: Any) -> None:
    """The ESP's own names and words, with nothing behind them that was promised."""
    document = {"Type": "Notification", "TopicArn": INBOUND_TOPIC} | envelope
    document.setdefault("Message", json.dumps(inner))

    check(parse(json.dumps(document).encode()))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_real_messages_with_anything_in_them_are_read(data: st.DataObject) -> None:
    """Every place of every sample."""
    samples = [message for _, message, _ in EVENTS] + [received(), stored()]
    message = json.loads(json.dumps(data.draw(st.sampled_from(samples))))
    place = message
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [value for value in place.values() if isinstance(value, dict)]
        place = data.draw(st.sampled_from(inner)) if inner else place
    key = data.draw(st.sampled_from(sorted(place)) if place else st.just("x"))
    place[key] = data.draw(VALUES)

    check(parse({"Type": "Notification", "TopicArn": TOPIC, "Message": json.dumps(message)}))


@given(answer=st.binary(max_size=99) | VALUES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_answer_is_read(answer: bytes) -> None:
    """One reading for each part, one status for each recipient; never an exception."""
    mailer = MAILERS[0]
    message = templated(to=people(2), cc=["c@example.com"], merge_data={})
    for call in (*calls(mailer, message), *calls(mailer, plain())):
        for status in (200, 400, 500):
            response = HttpResponse(status, {"x-amzn-errortype": answer.decode("latin-1")}, answer)
            readings = mailer.esp.read(call, response, mailer.settings)
            assert [len(reading.statuses) for reading in readings] == [
                len(part.recipients) for part in call.parts
            ]


MAILERS: list[Mailer] = []


@pytest.fixture(autouse=True, scope="module")
def one_mailer(mailer: Mailer) -> None:
    MAILERS.append(mailer)
