"""Postmark and Postal keep the contract of every ESP, and the README's table is the code's.

The other ESPs keep it in test files of their own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from flask_mailesp.esp import Feature, HttpRequest, HttpResponse
from flask_mailesp.esps import postal, postmark
from flask_mailesp.matrix import capability_table
from flask_mailesp.registry import all_esps
from flask_mailesp.testing import EspContract, EspServer, Kind, body_of, decoded

README = Path(__file__).parent.parent / "README.md"
SECRET = "hooks:canary-9f41c6d2-hook-password"


def dumped(*documents: dict[str, Any]) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


class TestPostmark(EspContract):
    """Hosted; JSON; batches; webhooks with Basic credentials."""

    esp = postmark.esp
    config: ClassVar[dict[str, str]] = {
        "MAILESP_ESP": "postmark",
        "MAILESP_POSTMARK_SERVER_TOKEN": "canary-5d1c6f0e-server-token",
        "MAILESP_WEBHOOK_SECRET": SECRET,
    }
    tracking = dumped(
        {
            "RecordType": "Delivery",
            "ServerID": 31,
            "MessageStream": "outbound",
            "MessageID": "8b1f6f0e-2f7c-4a0d-9d39-51d2f7b7c0aa",
            "Recipient": "bea@example.com",
            "Tag": "receipt",
            "DeliveredAt": "2026-11-21T09:14:09.1180042Z",
            "Details": "smtp;250 ok",
            "Metadata": {"order": "17"},
        },
        {
            "RecordType": "Bounce",
            "MessageStream": "outbound",
            "ID": 982451653,
            "Type": "HardBounce",
            "TypeCode": 1,
            "Name": "Hard bounce",
            "MessageID": "9b1f6f0e-2f7c-4a0d-9d39-51d2f7b7c0ab",
            "Metadata": {},
            "Description": "No such mailbox.",
            "Details": "smtp;550 5.1.1 unknown",
            "Email": "gone@example.net",
            "From": "shop@example.org",
            "BouncedAt": "2026-11-21T09:16:40.0092213Z",
            "Inactive": True,
            "Subject": "Receipt 17",
        },
        {
            "RecordType": "Click",
            "ClickLocation": "HTML",
            "OriginalLink": "https://shop.example.org/orders/17",
            "Recipient": "bea@example.com",
            "MessageID": "8b1f6f0e-2f7c-4a0d-9d39-51d2f7b7c0aa",
            "ReceivedAt": "2026-11-21T09:32:10.7700003Z",
            "Tag": "",
            "UserAgent": "Mozilla/5.0",
            "Client": {"Name": "Firefox"},
            "Geo": {},
            "Metadata": {"order": "17"},
        },
        {
            "RecordType": "SubscriptionChange",
            "MessageID": None,
            "MessageStream": "news",
            "ChangedAt": "2026-11-21T12:00:01.0000000Z",
            "Recipient": "dan@example.com",
            "Origin": "Customer",
            "SuppressSending": False,
            "SuppressionReason": None,
            "Tag": None,
            "Metadata": {},
        },
    )
    inbound = dumped(
        {
            "FromName": "Ann",
            "From": "ann@example.com",
            "FromFull": {"Email": "ann@example.com", "Name": "Ann", "MailboxHash": ""},
            "To": "help+7@in.example.org",
            "ToFull": [{"Email": "help+7@in.example.org", "Name": "", "MailboxHash": "7"}],
            "CcFull": [],
            "BccFull": [],
            "OriginalRecipient": "help+7@in.example.org",
            "Subject": "Re: Order 17",
            "MessageID": "e2a0f9c6-10f7-4ad7-8f54-6f2b9f1d0c44",
            "ReplyTo": "",
            "Date": "Sat, 21 Nov 2026 10:05:12 +0100",
            "TextBody": "One is missing.",
            "HtmlBody": "<p>One is missing.</p>",
            "StrippedTextReply": "One is missing.",
            "Headers": [
                {"Name": "Return-Path", "Value": "<ann@example.com>"},
                {"Name": "X-Spam-Score", "Value": "-0.4"},
                {"Name": "Message-ID", "Value": "<7731@mail.example.com>"},
            ],
            "Attachments": [
                {
                    "Name": "box.txt",
                    "Content": "Ym94",
                    "ContentType": "text/plain",
                    "ContentLength": 3,
                    "ContentID": "",
                }
            ],
        },
        {
            "FromFull": {"Email": "ann@example.com", "Name": "Ann"},
            "MessageID": "f2a0f9c6-10f7-4ad7-8f54-6f2b9f1d0c45",
            "RawEmail": "From: ann@example.com\r\nSubject: Raw\r\n\r\nHello\r\n",
            "Headers": [],
        },
    )

    def accept(self, request: HttpRequest) -> HttpResponse:
        payload = json.loads(body_of(request))
        many = payload if isinstance(payload, list) else payload.get("Messages")
        if many is None:
            return _json({"ErrorCode": 0, "Message": "OK", "MessageID": "id-0"})
        return _json([{"ErrorCode": 0, "MessageID": f"id-{i}"} for i in range(len(many))])

    def sign(self, body: bytes, kind: Kind) -> Mapping[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(SECRET.encode()).decode()}


PRIVATE_KEY = rsa.generate_private_key(65537, 2048)
PUBLIC_KEY = (
    PRIVATE_KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


class TestPostal(EspContract):
    """Self-hosted; errors behind HTTP 200; RSA-signed webhooks."""

    esp = postal.esp
    config: ClassVar[dict[str, str]] = {
        "MAILESP_ESP": "postal",
        "MAILESP_POSTAL_API_URL": "https://postal.example.org",
        "MAILESP_POSTAL_API_KEY": "canary-Kx81LmQ0-api-key",
        "MAILESP_POSTAL_WEBHOOK_KEY": PUBLIC_KEY,
    }
    tracking = dumped(
        {
            "event": "MessageSent",
            "timestamp": 1795252449.123,
            "uuid": "0f9d7a52-9c1e-4b53-8a61-2e6f0c3d9b17",
            "payload": {
                "status": "Sent",
                "details": "Accepted",
                "output": "250 ok",
                "time": 0.2,
                "sent_with_ssl": True,
                "timestamp": 1795252449.1,
                "message": {
                    "id": 4711,
                    "token": "kQ3nX",
                    "direction": "outgoing",
                    "message_id": "1@example.org",
                    "to": "bea@example.com",
                    "from": "shop@example.org",
                    "subject": "Receipt",
                    "timestamp": 1795252440.0,
                    "spam_status": "NotChecked",
                    "tag": "receipt",
                },
            },
        },
        {
            "event": "MessageBounced",
            "timestamp": 1795252450.5,
            "uuid": "1f9d7a52-9c1e-4b53-8a61-2e6f0c3d9b18",
            "payload": {
                "original_message": {"id": 4712, "to": "gone@example.net", "direction": "outgoing"},
                "bounce": {"id": 4713, "direction": "incoming"},
            },
        },
    )
    inbound = dumped(
        {
            "id": 91,
            "rcpt_to": "help@in.example.org",
            "mail_from": "ann@example.com",
            "message": base64.b64encode(b"Subject: Raw\r\n\r\nHello\r\n").decode(),
            "base64": True,
            "size": 23,
        },
        {
            "id": 92,
            "rcpt_to": "help@in.example.org",
            "mail_from": "ann@example.com",
            "token": "aB3",
            "subject": "Parsed",
            "message_id": "7@example.com",
            "timestamp": 1795252449.0,
            "size": "900",
            "spam_status": "NotSpam",
            "bounce": False,
            "to": "help@in.example.org",
            "from": "Ann <ann@example.com>",
            "date": "Sat, 21 Nov 2026 10:05:12 +0100",
            "plain_body": "Hello",
            "html_body": "",
            "auto_submitted": None,
            "attachments": [
                {"filename": "a.txt", "content_type": "text/plain", "size": 3, "data": "Ym94"}
            ],
        },
    )

    def accept(self, request: HttpRequest) -> HttpResponse:
        payload = json.loads(body_of(request))
        given = payload.get("rcpt_to") or [
            item for field in ("to", "cc", "bcc") for item in payload.get(field, ())
        ]
        # Postal numbers messages; the number follows from the address, for batches' sake.
        bare = [item.rpartition("<")[2].rstrip(">").lower() for item in given]
        messages = {item: {"id": sum(item.encode()), "token": "t"} for item in bare}
        return _json(
            {"status": "success", "time": 0.1, "flags": {}, "data": {"messages": messages}}
        )

    def sign(self, body: bytes, kind: Kind) -> Mapping[str, str]:
        signature = PRIVATE_KEY.sign(body, PKCS1v15(), hashes.SHA256())
        return {"X-Postal-Signature-256": base64.b64encode(signature).decode()}


def _json(document: Any) -> HttpResponse:
    body = json.dumps(document).encode()
    return HttpResponse(200, {"Content-Type": "application/json"}, body)


# --- the helpers of the contract -------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"a": [{"canary": 1}]}'),
        ("application/json", b'{"a": "Y2FuYXJ5LWZpbGU="}'),
        ("application/json", json.dumps({"a": base64.b64encode(b"X: canary\n\nHi").decode()})),
        ("application/x-www-form-urlencoded", b"a=%63anary"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\ncanary\r\n--b--\r\n"),
        ("text/plain", b"canary"),
    ],
)
def test_decoded_finds_text_under_every_encoding(content_type: str, body: bytes | str) -> None:
    """JSON, base64, forms and MIME hide nothing from the contract's tests."""
    data = body.encode() if isinstance(body, str) else body
    assert "canary" in decoded(HttpRequest("POST", "/", {"content-type": content_type}, data))


def test_the_server_records_requests_and_counts_connections() -> None:
    """It is what *no request was made* is proved with."""
    from flask_mailesp.transport import Transport

    transport = Transport()
    with EspServer(lambda request: HttpResponse(418, {"X-A": "b"}, b"tea")) as server:
        response = transport.send(HttpRequest("POST", server.url + "/x", {"X-B": "c"}, b"body"))
        transport.close()
        assert server.connections == 1
    (request,) = server.requests
    assert (request.url, request.body, request.headers["x-b"]) == (server.url + "/x", b"body", "c")
    assert (response.status, response.headers["x-a"], response.body) == (418, "b", b"tea")


# --- the capability table --------------------------------------------------------------


def test_the_table_has_a_row_for_every_feature_and_a_column_for_every_esp() -> None:
    """What the code declares is what the table says."""
    header, _, *rows = capability_table(all_esps()).splitlines()
    esps = sorted(all_esps(), key=lambda esp: esp.name.lower())
    assert header == "| Feature | Amazon SES | Mailgun | Postal | Postmark | Resend | SendGrid |"
    cells = {row.split(" | ")[0].lstrip("| "): row.strip("| ").split(" | ")[1:] for row in rows}
    for feature in Feature:
        assert cells[feature.value] == ["yes" if feature in esp.supports else "–" for esp in esps]
    assert cells["Many messages in one request"] == [
        "yes" if esp.build_many else "–" for esp in esps
    ]
    assert cells["Tracking webhooks"] == cells["Inbound mail"] == ["yes"] * len(esps)


def test_the_readme_shows_the_table() -> None:
    """Generated from code; paste it between the markers when this fails."""
    _, marker, rest = README.read_text("utf-8").partition("<!-- capabilities -->")
    shown = rest.partition("<!-- /capabilities -->")[0].strip()
    assert marker
    assert shown == capability_table(all_esps())
