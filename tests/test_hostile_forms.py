"""Inbound forms through the real routes: large ones whole, hostile ones within bounds."""

from __future__ import annotations

import base64
import hmac
import io
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from itertools import product
from urllib.parse import quote_from_bytes

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask
from webhook_kit import Hooks

from flask_mailesp import InboundEvent, MailESP
from flask_mailesp.forms import MULTIPART, URLENCODED

ESPS = ("mailgun", "sendgrid")
SIGNING_KEY = "a-signing-key"
KEY = ec.generate_private_key(ec.SECP256R1())
MB = 1024 * 1024
Pairs = list[tuple[str, bytes]]


@pytest.fixture
def hooks() -> Hooks:
    """An app that knows what both ESPs sign with."""
    public = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    app = Flask("shop")
    app.config["MAILESP"] = {
        "ESP": "mailgun",
        "MAILGUN_API_KEY": "key",
        "MAILGUN_WEBHOOK_SIGNING_KEY": SIGNING_KEY,
        "SENDGRID_API_KEY": "key",
        "SENDGRID_INBOUND_VERIFICATION_KEY": base64.b64encode(public).decode(),
    }
    MailESP(app)
    return Hooks(app)


def proof() -> Pairs:
    """The fields that Mailgun signs with."""
    timestamp, token = str(int(time.time())), os.urandom(25).hex()
    signature = hmac.new(SIGNING_KEY.encode(), f"{timestamp}{token}".encode(), sha256).hexdigest()
    values = {"timestamp": timestamp, "token": token, "signature": signature}
    return [(name, value.encode()) for name, value in values.items()]


def signed(body: bytes) -> dict[str, str]:
    """The headers that SendGrid signs with."""
    timestamp = str(int(time.time()))
    signature = KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    prefix = "X-Twilio-Email-Event-Webhook"
    encoded = base64.b64encode(signature).decode()
    return {f"{prefix}-Timestamp": timestamp, f"{prefix}-Signature": encoded}


def post(hooks: Hooks, esp: str, content_type: str, body: bytes) -> list[InboundEvent]:
    """Post an authentic form, and return the mails that came of it."""
    headers = signed(body) if esp == "sendgrid" else {}
    response = hooks.client.post(
        f"/mail-hooks/{esp}/inbound/",
        input_stream=io.BytesIO(body),
        content_length=len(body),
        headers=headers,
        content_type=content_type,
    )
    assert response.status_code == 200
    return hooks.inbound


def urlencoded(pairs: Iterable[tuple[str, bytes]], rest: bytes = b"") -> tuple[str, bytes]:
    """Write a form of pairs, and whatever comes after them."""
    written = [f"{name}={escaped(value)}".encode() for name, value in pairs]
    return URLENCODED, b"&".join([*written, rest])


def escaped(value: bytes) -> str:
    """Escape what must be; large values here are of few distinct pieces."""
    if len(value) < MB:
        return quote_from_bytes(value)
    return "".join(map(cache(quote_from_bytes), value.splitlines(keepends=True)))


def part(name: str, value: bytes, more: str = "") -> bytes:
    """Write a part of a form."""
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def multipart(
    pairs: Iterable[tuple[str, bytes]], rest: bytes = b"--cut--\r\n"
) -> tuple[str, bytes]:
    """Write a form of parts, and whatever comes after them."""
    parts = [part(name, value) for name, value in pairs]
    return f"{MULTIPART}; boundary=cut", b"".join([*parts, rest])


def read_all(event: InboundEvent) -> None:
    """Read whatever a receiver may."""
    message = event.message
    _ = (event.key, event.timestamp, message.message_id, message.date, message.is_auto_reply)
    _ = (message.from_email, message.to, message.cc, message.text, message.html, message.defects)
    _ = list(message.headers.items())
    for file in [*message.attachments, *message.inlines]:
        assert file.filename
        _ = (file.data, file.text)


# --- large and whole -----------------------------------------------------------------------


SIZES = [int(0.6 * MB), 20 * MB, 39 * MB]
LINE = "Grüße, 8-bit & 100 %: ".encode("latin-1") + bytes(range(256)).replace(b"\n", b"") + b"\r\n"
RAW_FIELD = {"mailgun": "body-mime", "sendgrid": "email"}


def mail_of(size: int) -> bytes:
    """A mail of 8-bit text."""
    head = b"From: bea@example.com\r\nSubject: Large\r\nContent-Type: text/x\r\n\r\n"
    return (head + LINE * (size // len(LINE) + 1))[:size]


def sized(kind: str, size: int) -> int:
    """Escaped, a mail is more than twice as large: keep the post within the limit."""
    return size * 2 // 5 if kind == "urlencoded" else size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("esp", "kind"), list(product(ESPS, ["urlencoded", "multipart"])))
def test_raw_mail_of_any_size_is_read_byte_for_byte(
    hooks: Hooks, esp: str, kind: str, size: int
) -> None:
    """Web frameworks refuse fields of more than half a megabyte, and decode what they read."""
    mail = mail_of(sized(kind, size))
    pairs = [*proof(), ("recipient", b"in@example.org"), (RAW_FIELD[esp], mail)]
    (event,) = post(hooks, esp, *(urlencoded if kind == "urlencoded" else multipart)(pairs))

    assert event.message.raw is not None
    assert sha256(event.message.raw).digest() == sha256(mail).digest()
    assert event.message.subject == "Large"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("esp", ESPS)
def test_files_of_any_size_are_read_byte_for_byte(hooks: Hooks, esp: str, size: int) -> None:
    """Without a temporary file."""
    data = mail_of(size)
    pairs = [*proof(), ("recipient", b"in@example.org"), ("body-plain", b"x"), ("text", b"x")]
    name = "attachment-1" if esp == "mailgun" else "attachment1"
    file = part(name, data, '; filename="large.bin"')
    (event,) = post(hooks, esp, *multipart(pairs, file + b"--cut--"))

    (attachment,) = event.message.attachments
    assert attachment.filename == "large.bin"
    assert sha256(attachment.data).digest() == sha256(data).digest()


# --- hostile -------------------------------------------------------------------------------


MANY = 200_000
DEEP = b"[" * 100_000 + b"]" * 100_000
NESTED = b"".join(
    b"Content-Type: multipart/mixed; boundary=n%d\r\n\r\n--n%d\r\n" % (depth, depth)
    for depth in range(5_000)
)
ADDRESSES = b"To: " + b"<a," * 100_000 + b"\r\n\r\nx"
FILE = '; filename="x"'


def many_parts(name: str, more: str = "") -> bytes:
    return part(name, b"", more) * MANY


def fields(name: str, value: bytes) -> Callable[[], Pairs]:
    return lambda: [(name, value)]


# What comes after the fields that make a multipart form a mail.
TAILS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no end": lambda: part("x", b"y" * MB)[:-2],
    "200,000 fields": lambda: many_parts("x"),
    "200,000 fields without a name": lambda: b"--cut\r\n\r\n\r\n" * MANY,
    "200,000 files": lambda: many_parts("attachment-1", FILE),
    "delimiters only": lambda: b"--cut\r\n" * MB,
    "lookalikes": lambda: part("x", b"--cutter\r\n" * MB),
    "a form within": lambda: part("x", part("a", b"1").replace(b"--cut", b"--in") * 100_000),
    "parts in parts": lambda: part("x", NESTED),
    "long headers": lambda: b"--cut\r\nX: " + b"y" * 4 * MB + b"\r\n\r\n\r\n",
    "headers without end": lambda: (b"--cut\r\n" + b"X: y\r\n" * 10_000) * 150,
    "a file name of a megabyte": lambda: part("attachment-1", b"", f'; filename="{"x" * MB}"'),
    "file names that are paths": lambda: part("a", b"1", '; filename="../../etc/passwd"') * 900,
    "file names with controls": lambda: part("a", b"1", '; filename="\u202e\0%0D%0A"') * 900,
    "parameters": lambda: part("attachment-1", b"", ';a="x' * 12_000 + FILE) * 50,
    "types": lambda: part("a", b"1", f"{FILE}\r\nContent-Type: {'a/b;' * 15_000}") * 50,
    "a large line": lambda: b"--cut" + b" " * 4 * MB,
}

# Fields that both form types can carry, in place of an honest one.
FIELDS: dict[str, Callable[[], Pairs]] = {
    "9,000 recipients": lambda: [("recipient", b"x")] * 9_000,
    "deep headers": fields("message-headers", DEEP),
    "many headers": fields("message-headers", json.dumps([["To", "a@b.c"]] * 50_000).encode()),
    "a long header": fields("message-headers", json.dumps([["To", "<a," * 300_000]]).encode()),
    "headers that are no list": fields("message-headers", b'{"a": NaN}'),
    "deep ids": fields("content-id-map", DEEP),
    "many ids": fields("content-id-map", json.dumps(dict.fromkeys(map(str, range(MANY)))).encode()),
    "a deep envelope": fields("envelope", DEEP),
    "an envelope of many": fields("envelope", json.dumps({"to": ["a@b.c"] * MANY}).encode()),
    "deep charsets": fields("charsets", DEEP),
    "a bomb for a charset": lambda: [
        ("charsets", b'{"text": "punycode", "html": "utf-7"}'),
        ("text", b"a" * MB + b"-" + b"z" * MB),
        ("html", b"+ADw-" * 100_000),
    ],
    "many addresses": fields("headers", ADDRESSES),
    "many header lines": fields("headers", b"X: y\n" * 200_000),
    "raw mail, nested": lambda: [("body-mime", NESTED), ("email", NESTED)],
    "raw mail, many addresses": lambda: [("body-mime", ADDRESSES), ("email", ADDRESSES)],
    "raw mail, empty": lambda: [("body-mime", b""), ("email", b"")],
    "text that is not UTF-8": lambda: [("body-plain", b"\xff" * MB), ("text", b"\xff" * MB)],
    "deep attachment info": fields("attachment-info", DEEP),
    "numbers": fields("spam_score", b"9" * 100_000),
}

# Bodies after the fields that make a urlencoded form a mail.
PAIRS: dict[str, Callable[[], bytes]] = {
    "200,000 pairs": lambda: b"x=1&" * MANY,
    "separators": lambda: b"&" * 4 * MB,
    "assignments": lambda: b"=" * 4 * MB,
    "assignments and escapes": lambda: b"=%e9" * MB,
    "escapes": lambda: b"x=" + b"%e9" * MB,
    "broken escapes": lambda: b"x=" + b"%" * 4 * MB,
    "broken escapes, in fields": lambda: (b"x=" + b"%" * 4_000 + b"&") * 2_000,
    "an escaped name": lambda: b"%e9" * MB,
}


def honest(esp: str) -> Pairs:
    """The fields of a small mail."""
    return [*proof(), ("text" if esp == "sendgrid" else "body-plain", b"Hello")]


CASES = [
    *((multipart, name, list, tail) for name, tail in TAILS.items()),
    *((urlencoded, name, list, pairs) for name, pairs in PAIRS.items()),
    *((multipart, name, more, lambda: b"--cut--\r\n") for name, more in FIELDS.items()),
    *((urlencoded, name, more, bytes) for name, more in FIELDS.items()),
]


@pytest.mark.parametrize("esp", ESPS)
@pytest.mark.parametrize(
    ("write", "more", "rest"),
    [pytest.param(write, *case, id=f"{write.__name__}: {name}") for write, name, *case in CASES],
)
def test_no_form_is_lost_or_takes_more_than_linear_time(
    hooks: Hooks,
    esp: str,
    write: Callable[[Pairs, bytes], tuple[str, bytes]],
    more: Callable[[], Pairs],
    rest: Callable[[], bytes],
) -> None:
    """It is a mail; the bound is generous: it tells quadratic from linear, not slow from fast."""
    content_type, body = write([*honest(esp), *more()], rest())
    begin = time.process_time()
    (event,) = post(hooks, esp, content_type, body)
    read_all(event)

    assert time.process_time() - begin < 3
    assert event.message.text or event.message.raw is not None


@pytest.mark.parametrize("content_type", [MULTIPART, f"{MULTIPART}; boundary=" + "x" * 300])
def test_a_signed_form_without_a_boundary_is_not_lost(hooks: Hooks, content_type: str) -> None:
    """SendGrid's signature is over the raw bytes: how they are divided stands in them, too."""
    body = multipart(honest("sendgrid"))[1]

    (event,) = post(hooks, "sendgrid", content_type, body)
    read_all(event)
    assert hooks.tracking == []
