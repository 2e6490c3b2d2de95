"""What the tests of Amazon SES share: a topic of Amazon SNS with its key, and what it says."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from flask_mailesp.esp import HttpRequest, HttpResponse

REGION = "eu-west-1"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:ses-events"
INBOUND_TOPIC = "arn:aws:sns:eu-west-1:123456789012:in"
CERTIFICATE_NAME = "SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
CERTIFICATE_URL = f"https://sns.eu-west-1.amazonaws.com/{CERTIFICATE_NAME}"
NOW = datetime(2026, 3, 1, 10, 12, tzinfo=timezone.utc)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

SECRETS = {
    "AMAZON_SES_ACCESS_KEY_ID": "AKIACANARY0000004711",
    "AMAZON_SES_SECRET_ACCESS_KEY": "canary/4711+secret+access+key+long+enough",
}
SETTINGS = {
    "ESP": "amazon_ses",
    "AMAZON_SES_REGION": REGION,
    "AMAZON_SES_TOPIC_ARNS": [TOPIC, INBOUND_TOPIC],
    **SECRETS,
}


def certificate(
    key: Any = KEY,
    start: datetime = datetime(2025, 1, 1, tzinfo=timezone.utc),
    end: datetime = datetime(2049, 1, 1, tzinfo=timezone.utc),
) -> bytes:
    """A certificate as SNS has one, in PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


CERTIFICATE = certificate()

_CONFIRMING = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_NOTIFYING = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")


def signature(fields: Mapping[str, Any], key: rsa.RSAPrivateKey = KEY) -> str:
    """Sign as SNS does."""
    names = _NOTIFYING if fields["Type"] == "Notification" else _CONFIRMING
    lines = [f"{name}\n{fields[name]}\n" for name in names if name in fields]
    is_new = fields["SignatureVersion"] == "2"
    algorithm = hashes.SHA256() if is_new else hashes.SHA1()  # noqa: S303
    data = key.sign("".join(lines).encode(), padding.PKCS1v15(), algorithm)
    return base64.b64encode(data).decode()


def signed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with their signature."""
    return fields | {"Signature": signature(fields)}


def notification(message: Any, **changes: Any) -> dict[str, Any]:
    """A notification of SNS; what is no text already becomes JSON."""
    fields = {
        "Type": "Notification",
        "MessageId": "11111111-2222-5333-8444-555555555555",
        "TopicArn": TOPIC,
        "Subject": "Amazon SES Email Event Notification",
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": "2026-03-01T10:11:12.345Z",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
    }
    fields |= changes
    return signed({name: value for name, value in fields.items() if value is not None})


def confirmation(**changes: Any) -> dict[str, Any]:
    """The message with which a subscription begins."""
    fields = {
        "Type": "SubscriptionConfirmation",
        "MessageId": "99999999-2222-5333-8444-555555555555",
        "Token": "2336412f37example",
        "TopicArn": TOPIC,
        "Message": "Subscribe?",
        "SubscribeURL": "https://evil.example.com/?Action=ConfirmSubscription",
        "Timestamp": "2026-03-01T10:00:00.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE_URL,
    }
    return signed(fields | changes)


def encoded(document: Any) -> bytes:
    """JSON as SNS posts it."""
    return json.dumps(document, indent=2).encode()


def mail(**changes: Any) -> dict[str, Any]:
    """The ``mail`` object of an event."""
    return {
        "messageId": "0102x-1",
        "timestamp": "2026-03-01T10:00:00.000Z",
        "source": "shop@example.com",
        "destination": ["ilse@example.net"],
        "headersTruncated": False,
        "headers": [
            {"name": "X-Tag", "value": "parcel"},
            {"name": "X-Metadata", "value": '{"parcel": "1042"}'},
        ],
        "tags": {"ses:configuration-set": ["events"], "kind": ["receipt"]},
    } | changes


def event(kind: str, detail: str, details: Any, **changes: Any) -> dict[str, Any]:
    """An event as event publishing words it."""
    return {"eventType": kind, "mail": mail(), detail: details} | changes


BOUNCED = event(
    "Bounce",
    "bounce",
    {
        "bounceType": "Permanent",
        "bounceSubType": "NoEmail",
        "timestamp": "2026-03-01T10:00:05.250Z",
        "feedbackId": "0102f-1",
        "bouncedRecipients": [
            {
                "emailAddress": "ilse@example.net",
                "action": "failed",
                "status": "5.1.1",
                "diagnosticCode": "smtp; 550 5.1.1 unknown",
            }
        ],
    },
)
CLICKED = event(
    "Click",
    "click",
    {
        "timestamp": "2026-03-01T10:05:00Z",
        "link": "https://shop.example.org/parcels/1042?a=1&b=2",
        "linkTags": None,
        "userAgent": "Mozilla/5.0 (X11; Linux x86_64)",
        "ipAddress": "192.0.2.1",
    },
)
RAW_MAIL = (
    b"From: Ilse <ilse@example.net>\r\n"
    b"To: help@in.shop.example.org\r\n"
    b"Subject: Paket\r\n"
    b"Message-ID: <in-1@example.net>\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
    b"Gr\xfc\xdfe\r\n"
)


def received(**changes: Any) -> dict[str, Any]:
    """What a receipt rule with an SNS action tells."""
    return {
        "notificationType": "Received",
        "mail": {
            "messageId": "in-77",
            "timestamp": "2026-03-01T10:00:00.000Z",
            "source": "ilse@example.net",
            "destination": ["help@in.shop.example.org"],
        },
        "receipt": receipt({"type": "SNS", "encoding": "BASE64", "topicArn": INBOUND_TOPIC}),
        "content": base64.b64encode(RAW_MAIL).decode(),
    } | changes


def receipt(action: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a rule found out about a mail, and what it did with it."""
    return {
        "timestamp": "2026-03-01T10:00:01.000Z",
        "recipients": ["help@in.shop.example.org", "desk@in.shop.example.org"],
        "spamVerdict": {"status": "PASS"},
        "virusVerdict": {"status": "PASS"},
        "action": action,
    } | changes


def stored(key: str = "in/abc", bucket: str = "example-mail", **changes: Any) -> dict[str, Any]:
    """What a receipt rule with an S3 action tells."""
    action = {
        "type": "S3",
        "topicArn": INBOUND_TOPIC,
        "bucketName": bucket,
        "objectKeyPrefix": "in",
        "objectKey": key,
    }
    told = received(receipt=receipt(action)) | changes
    del told["content"]
    return told


CONFIRMED = (
    b'<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
    b"<ConfirmSubscriptionResult><SubscriptionArn>" + TOPIC.encode() + b":8d2c</SubscriptionArn>"
    b"</ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"
)


def amazon(request: HttpRequest) -> HttpResponse:
    """Answer for SNS and S3 what is asked of them about webhooks."""
    path = request.url.partition("://")[2].partition("/")[2]
    if request.method == "POST":
        return HttpResponse(200, {"Content-Type": "text/xml"}, CONFIRMED)
    if path == CERTIFICATE_NAME:
        return HttpResponse(200, {"Content-Type": "application/x-pem-file"}, CERTIFICATE)
    if path == "example-mail/in/abc":
        return HttpResponse(200, {}, RAW_MAIL)
    return HttpResponse(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")


def moment(text: str) -> datetime:
    """A time of day of 1 March 2026, in UTC."""
    hours, minutes, seconds = text.split(":")
    return datetime(2026, 3, 1, tzinfo=timezone.utc) + timedelta(
        hours=int(hours), minutes=int(minutes), seconds=float(seconds)
    )
