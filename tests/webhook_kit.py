"""What the webhook tests share: apps, a Postal installation's key, and authentic posts."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_mailesp import InboundEvent, MailESP, TrackingEvent, signals

Event = TrackingEvent | InboundEvent

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = "hook:7-Tupelo-Lane"

CONFIG = {
    "ESP": "postal",
    "POSTAL_API_URL": "https://postal.example.org",
    "POSTAL_API_KEY": "q2Nn8sV0xYb3KdLw7RtZ1cMf",
    "POSTMARK_SERVER_TOKEN": "4be0d6a1-0f5c-4a5e-9a37-6f3e3f1f7c55",
}


def pem(key: rsa.RSAPrivateKey = KEY) -> str:
    """The public key as PEM text."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def p_value(key: rsa.RSAPrivateKey = KEY) -> str:
    """The public key as the ``p=`` value of a DKIM record."""
    return "".join(pem(key).splitlines()[1:-1])


def jwk(key: rsa.RSAPrivateKey = KEY) -> dict[str, str]:
    """The public key as a JSON Web Key (RFC 7518 section 6.3.1)."""
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e), "use": "sig"}


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sign(body: bytes, algorithm: hashes.HashAlgorithm, key: rsa.RSAPrivateKey = KEY) -> str:
    """Sign as Postal does."""
    return base64.b64encode(key.sign(body, padding.PKCS1v15(), algorithm)).decode()


def sha256_only(body: bytes, key: rsa.RSAPrivateKey = KEY) -> dict[str, str]:
    """The header of a signature over SHA-256."""
    return {"X-Postal-Signature-256": sign(body, hashes.SHA256(), key)}


def sha1_only(body: bytes) -> dict[str, str]:
    """The header that Postal before 3.2 sends."""
    return {"X-Postal-Signature": sign(body, hashes.SHA1())}  # noqa: S303


def basic(credentials: str = SECRET) -> dict[str, str]:
    """The header of Basic credentials."""
    encoded = base64.b64encode(credentials.encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def authentic(esp: str, body: bytes) -> dict[str, str]:
    """The headers that make a post authentic to `hooked_app`."""
    return sha256_only(body) if esp == "postal" else basic()


def encoded(payload: Any) -> bytes:
    """A payload as compact JSON."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass
class Hooks:
    """An app with receivers that keep what they get, and a client that posts to it."""

    app: Flask
    tracking: list[TrackingEvent] = field(default_factory=list)
    inbound: list[InboundEvent] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        signals.tracking.connect(self._on_tracking, sender=self.app)
        signals.inbound.connect(self._on_inbound, sender=self.app)

    def _on_tracking(self, app: Flask, event: TrackingEvent, esp_name: str) -> None:
        self.tracking.append(event)
        self.names.append(esp_name)

    def _on_inbound(self, app: Flask, event: InboundEvent, esp_name: str) -> None:
        self.inbound.append(event)
        self.names.append(esp_name)

    @property
    def events(self) -> list[Event]:
        """All events so far, tracking first."""
        return [*self.tracking, *self.inbound]

    @property
    def client(self) -> FlaskClient:
        """A new client."""
        return self.app.test_client()

    def post(
        self,
        esp: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "tracking",
        content_type: str = "application/json",
        slash: str = "/",
    ) -> TestResponse:
        """Post a body; ``headers`` are by default those that make it authentic."""
        given = authentic(esp, body) if headers is None else dict(headers)
        return self.client.post(
            f"/mail-hooks/{esp}/{kind}{slash}",
            input_stream=io.BytesIO(body),  # as ``data``, an empty form would not stay empty
            content_length=len(body),
            headers=given,
            content_type=content_type,
        )


def bare_app(**settings: Any) -> Flask:
    """An app without anything that authenticates webhooks, except as ``settings`` say."""
    app = Flask("shop")
    app.config["MAILESP"] = CONFIG | settings
    MailESP(app)
    return app


def hooked_app(**settings: Any) -> Hooks:
    """An app that knows Postal's key and Postmark's credentials."""
    known = {"POSTAL_WEBHOOK_KEY": pem(), "POSTMARK_WEBHOOK_SECRET": SECRET}
    return Hooks(bare_app(**(known | settings)))


# --- payloads ------------------------------------------------------------------------------


def postal_message(**changes: Any) -> dict[str, Any]:
    """Postal's message object."""
    return {
        "id": 41877,
        "token": "Zr5TgB8yHn2UjMkL",
        "direction": "outgoing",
        "message_id": "0d5c2b7e-4411-4f0a-9e6d-77c1b5a0e9f2@rp.mail.example.org",
        "to": "Ilse@example.net",
        "from": "post@shop.example.org",
        "subject": "Ihr Paket ✓ <1042>",
        "timestamp": 1795250000.250125,
        "spam_status": "NotChecked",
        "tag": "parcel",
    } | changes


def postal_event(event: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Postal's envelope."""
    return {
        "event": event,
        "timestamp": 1795250009.75,
        "payload": payload,
        "uuid": "c7a91f0e-63d4-4b58-8f21-9a5e0d3b6c17",
    }


def postal_status(event: str, status: str, details: str, output: str = "") -> dict[str, Any]:
    """Postal's report of a delivery attempt."""
    return postal_event(
        event,
        {
            "message": postal_message(),
            "status": status,
            "details": details,
            "output": output,
            "sent_with_ssl": True,
            "timestamp": 1795250009.125501,
            "time": 0.5,
        },
    )


POSTAL_SENT = postal_status(
    "MessageSent", "Sent", "Message for Ilse@example.net accepted by 192.0.2.7:25", "250 Ok"
)
POSTAL_BOUNCED = postal_event(
    "MessageBounced",
    {
        "original_message": postal_message(),
        "bounce": postal_message(id=41901, direction="incoming", to="x@rp.example.org", tag=None)
        | {"from": None},
    },
)
POSTAL_CLICKED = postal_event(
    "MessageLinkClicked",
    {
        "message": postal_message(),
        "url": "https://shop.example.org/parcels/1042?a=1&b=2",
        "token": "Hg5Fd4Sa3Qw2Er1T",
        "ip_address": "198.51.100.77",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
    },
)
POSTAL_RAW_MAIL = (
    b"X-Postal-Spam: no\r\n"
    b"X-Postal-Spam-Threshold: 5.0\r\n"
    b"X-Postal-Spam-Score: 0.75\r\n"
    b"X-Postal-Threat: no\r\n"
    b"Received: from mx.example.net\r\n"
    b"X-Postal-Spam-Score: -99\r\n"
    b"From: Ilse <ilse@example.net>\r\n"
    b"To: help+77@in.shop.example.org\r\n"
    b"Subject: Paket\r\n"
    b"Message-ID: <in-1@example.net>\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
    b"Gr\xfc\xdfe\r\n"
)


def postal_raw(source: bytes = POSTAL_RAW_MAIL, **changes: Any) -> dict[str, Any]:
    """Postal's RawMessage format, with Ruby's line breaks in the base64."""
    return {
        "id": 41950,
        "rcpt_to": "help+77@in.shop.example.org",
        "mail_from": "ilse@example.net",
        "message": _ruby_base64(source),
        "base64": True,
        "size": len(source),
    } | changes


def _ruby_base64(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return "".join(f"{text[start : start + 60]}\n" for start in range(0, len(text), 60))


def postal_hash(**changes: Any) -> dict[str, Any]:
    """Postal's Hash format, with replies stripped."""
    return {
        "id": 41951,
        "rcpt_to": "help+77@in.shop.example.org",
        "mail_from": "ilse@example.net",
        "token": "b7Nm6Lk5Jh4Gf3Ds",
        "subject": "Re: Přání",
        "message_id": "in-2@example.net",
        "timestamp": 1795250100.5,
        "size": "2048",
        "spam_status": "NotSpam",
        "bounce": False,
        "received_with_ssl": None,
        "to": "Help <help+77@in.shop.example.org>, second@example.org",
        "cc": "carol@example.com",
        "from": '"Ilse Größe" <ilse@example.net>',
        "date": "Sat, 21 Nov 2026 11:00:00 +0100",
        "in_reply_to": "<77@shop.example.org>",
        "references": "<76@shop.example.org> <77@shop.example.org>",
        "html_body": "<p>It is broken.</p>",
        "attachment_quantity": 1,
        "auto_submitted": None,
        "reply_to": ["Ilse <private@example.net>", "desk@example.net"],
        "plain_body": "It is broken.",
        "replies_from_plain_body": "On Friday, Shop wrote:\n> Hello",
        "attachments": [
            {
                "filename": "foto.txt",
                "content_type": "text/plain; charset=utf-8",
                "size": 7,
                "data": _ruby_base64("Šípek".encode()),
            }
        ],
    } | changes


POSTMARK_DELIVERY = {
    "RecordType": "Delivery",
    "ServerID": 31415,
    "MessageStream": "outbound",
    "MessageID": "7d2f4a90-6c1b-4e8d-b3a5-0f9e8d7c6b5a",
    "Recipient": "ilse@example.net",
    "Tag": "parcel",
    "DeliveredAt": "2026-11-21T11:30:00.1234567Z",
    "Details": "smtp;250 2.0.0 queued",
    "Metadata": {"parcel": "1042"},
}
POSTMARK_BOUNCE = {
    "RecordType": "Bounce",
    "MessageStream": "outbound",
    "ID": 9007199254740993,
    "Type": "HardBounce",
    "TypeCode": 1,
    "Name": "Hard bounce",
    "MessageID": "7d2f4a90-6c1b-4e8d-b3a5-0f9e8d7c6b5a",
    "Metadata": {},
    "ServerID": 31415,
    "Description": "No such mailbox.",
    "Details": "smtp;550 5.1.1 unknown",
    "Email": "ilse@example.net",
    "From": "post@shop.example.org",
    "BouncedAt": "2026-11-21T11:31:00Z",
    "Inactive": True,
    "CanActivate": True,
    "Subject": "Ihr Paket",
}
POSTMARK_CLICK = {
    "RecordType": "Click",
    "MessageStream": "outbound",
    "ClickLocation": "HTML",
    "OriginalLink": "https://shop.example.org/parcels/1042",
    "Recipient": "ilse@example.net",
    "MessageID": "7d2f4a90-6c1b-4e8d-b3a5-0f9e8d7c6b5a",
    "ReceivedAt": "2026-11-21T11:32:10.77+01:00",
    "Tag": "",
    "Platform": "Mobile",
    "UserAgent": "Mozilla/5.0 (Android 16)",
    "Client": {"Name": "Firefox", "Company": "Mozilla", "Family": "Firefox"},
    "OS": {},
    "Geo": {"City": "Brno"},
    "Metadata": {"parcel": "1042"},
}
POSTMARK_INBOUND = {
    "FromName": "Ilse",
    "MessageStream": "inbound",
    "From": "ilse@example.net",
    "FromFull": {"Email": "ilse@example.net", "Name": "Ilse", "MailboxHash": ""},
    "To": "help+77@in.shop.example.org",
    "ToFull": [{"Email": "help+77@in.shop.example.org", "Name": "", "MailboxHash": "77"}],
    "Cc": "",
    "CcFull": [],
    "Bcc": "",
    "BccFull": [],
    "OriginalRecipient": "help+77@in.shop.example.org",
    "Subject": "Re: Paket",
    "MessageID": "0a9b8c7d-6e5f-4a3b-9c1d-2e3f4a5b6c7d",
    "ReplyTo": "",
    "MailboxHash": "77",
    "Date": "Sat, 21 Nov 2026 11:00:00 +0100",
    "TextBody": "It is broken.",
    "HtmlBody": "<p>It is broken.</p>",
    "StrippedTextReply": "",
    "Tag": "",
    "Headers": [
        {"Name": "Return-Path", "Value": "<ilse@example.net>"},
        {"Name": "X-Spam-Status", "Value": "No"},
        {"Name": "X-Spam-Score", "Value": "0.1"},
        {"Name": "Message-ID", "Value": "<in-3@example.net>"},
    ],
    "Attachments": [
        {
            "Name": "foto.txt",
            "Content": "Zm90bw==",
            "ContentType": "text/plain",
            "ContentLength": 4,
            "ContentID": "",
        }
    ],
}

TRACKING: dict[str, list[dict[str, Any]]] = {
    "postal": [POSTAL_SENT, POSTAL_BOUNCED, POSTAL_CLICKED],
    "postmark": [POSTMARK_DELIVERY, POSTMARK_BOUNCE, POSTMARK_CLICK],
}
INBOUND: dict[str, list[dict[str, Any]]] = {
    "postal": [postal_raw(), postal_hash()],
    "postmark": [POSTMARK_INBOUND],
}
