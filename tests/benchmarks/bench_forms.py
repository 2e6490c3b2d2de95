"""Inbound mail of 20 MB, posted as a form: CPU, and peak memory above the request.

``python -m tests.benchmarks.bench_forms``; the goals: CPU at most 1.25 times, and peak at
most 1.15 times, those of a view that cuts the body at its boundaries by hand. Everything
runs in process; the attachments, or the mail's source, are read by the receiver.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from flask import Flask, Response, request

from flask_mailesp import InboundEvent, MailESP, signals
from flask_mailesp.esp import WebhookRequest
from flask_mailesp.forms import URLENCODED, FilePart, multipart_body, read_form

from .bench_webhook import Environ, environ, poster
from .ratios import compare

SIGNING_KEY = "a-signing-key"
KEY = ec.generate_private_key(ec.SECP256R1())
SIZE = 20 * 1024 * 1024
FILES = [os.urandom(SIZE // 4) for _ in range(4)]
HEADERS = [["From", "Bea <bea@example.com>"], ["To", "in@example.org"], ["Subject", "Files"]]
MAIL = (
    (
        b"From: bea@example.com\r\nTo: in@example.org\r\nSubject: Large\r\n"
        b"Content-Type: multipart/mixed; boundary=mixed\r\n\r\n--mixed\r\n\r\nSee the files.\r\n"
        + b"".join(
            b"--mixed\r\nContent-Type: application/zip\r\nContent-Disposition: attachment\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n%b" % base64.encodebytes(data)
            for data in FILES
        )
        + b"--mixed--\r\n"
    )
    .replace(b"\n", b"\r\n")
    .replace(b"\r\r\n", b"\r\n")
)

MAILGUN_FIELDS = [
    ("recipient", "in@example.org"),
    ("sender", "bea@example.com"),
    ("timestamp", str(int(time.time()))),
    ("message-headers", json.dumps(HEADERS)),
    ("body-plain", "See the files."),
]
SENDGRID_FIELDS = [
    ("headers", "\n".join(": ".join(pair) for pair in HEADERS)),
    ("envelope", json.dumps({"to": ["in@example.org"], "from": "bea@example.com"})),
    ("charsets", json.dumps({"text": "UTF-8"})),
    ("text", "See the files."),
]


def signature(timestamp: str, token: str) -> str:
    """Sign as Mailgun does."""
    return hmac.new(SIGNING_KEY.encode(), f"{timestamp}{token}".encode(), sha256).hexdigest()


def our_app() -> Flask:
    """An app whose receiver reads all there is to read."""
    app = Flask("ours")
    public = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    app.config["MAILESP"] = {
        "ESP": "mailgun",
        "MAILGUN_API_KEY": "key",
        "MAILGUN_WEBHOOK_SIGNING_KEY": SIGNING_KEY,
        "SENDGRID_API_KEY": "key",
        "SENDGRID_INBOUND_VERIFICATION_KEY": base64.b64encode(public).decode(),
    }
    MailESP(app)

    @signals.inbound.connect_via(app)
    def receiver(app: Flask, event: InboundEvent, esp_name: str, **extra: Any) -> None:
        message = event.message
        read = [item.data for item in message.attachments]
        assert sum(map(len, read)) >= SIZE

    return app


def cut(body: bytes, boundary: str) -> list[tuple[int, int]]:
    """Cut a multipart body, of a form or a mail, by hand: where the parts' data is."""
    delimiter = b"\r\n--" + boundary.encode()
    parts: list[tuple[int, int]] = []
    start = body.find(delimiter[2:]) + len(delimiter)
    while (end := body.find(delimiter, start)) != -1:
        parts.append((body.find(b"\r\n\r\n", start, end) + 4, end))
        start = end + len(delimiter)
    return parts


def files_of(body: bytes, content_type: str) -> list[bytes]:
    """Return the files of a multipart form."""
    parts = cut(body, content_type.partition("boundary=")[2])
    return [body[start:end] for start, end in parts]


def attachments_of(mail: bytes) -> list[bytes]:
    """Return the attachments of a mail."""
    return [binascii.a2b_base64(mail[start:end]) for start, end in cut(mail, "mixed")[1:]]


def read_by_hand(body: bytes, content_type: str) -> list[bytes]:
    """Return the decoded attachments of what the two ESPs post."""
    if content_type == URLENCODED:
        pairs = [pair.split(b"=") for pair in body.split(b"&")]
        source = unquote_to_bytes(dict(pairs)[b"body-mime"].replace(b"+", b" "))
        return attachments_of(source)
    if b'name="email"' in body[:2000]:
        parts = cut(body, content_type.partition("boundary=")[2])
        source = max((body[start:end] for start, end in parts), key=len)
        return attachments_of(source)
    return files_of(body, content_type)


def by_hand(mailgun: bool) -> Flask:
    """The least that does it: hash what is signed, or bound to what is signed; cut; decode."""
    app = Flask("by hand")

    @app.post("/mail-hooks/<esp>/inbound/")
    def hook(esp: str) -> Response:
        body = request.get_data()
        digest = sha256(b"" if mailgun else request.headers["X-Timestamp"].encode())
        digest.update(body)
        if not mailgun:
            sent = base64.b64decode(request.headers["X-Signature"])
            KEY.public_key().verify(sent, digest.digest(), ec.ECDSA(Prehashed(hashes.SHA256())))
        read = read_by_hand(body, request.headers["Content-Type"])
        assert sum(map(len, read)) >= SIZE
        return Response("OK\n", 200, content_type="text/plain")

    return app


def by_werkzeug() -> Flask:
    """The view that everyone writes first; it authenticates nobody and decodes no mail."""
    app = Flask("werkzeug")
    app.config["MAX_FORM_MEMORY_SIZE"] = None

    @app.post("/mail-hooks/<esp>/inbound/")
    def hook(esp: str) -> Response:
        read = [file.read() for file in request.files.values()]
        assert sum(map(len, read)) + sum(map(len, request.form.values())) >= SIZE
        return Response("OK\n", 200, content_type="text/plain")

    return app


def post_of(esp: str, content_type: str, body: bytes) -> Environ:
    """A signed post of a form."""
    timestamp = str(int(time.time()))
    signed = KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    encoded = base64.b64encode(signed).decode()
    prefix = "HTTP_X_TWILIO_EMAIL_EVENT_WEBHOOK"
    headers = {f"{prefix}_TIMESTAMP": timestamp, f"{prefix}_SIGNATURE": encoded}
    headers |= {"HTTP_X_TIMESTAMP": timestamp, "HTTP_X_SIGNATURE": encoded}
    headers |= {"CONTENT_TYPE": content_type, "PATH_INFO": f"/mail-hooks/{esp}/inbound/"}
    return environ(esp, body, {}) | headers


def peak_of(work: Callable[[], object]) -> float:
    """Return the peak of memory that some work takes, in MB."""
    work()
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1024 / 1024


def measure(title: str, contestants: Mapping[str, Callable[[], object]], base: str) -> None:
    """Print peak and CPU."""
    peaks = {name: peak_of(work) for name, work in contestants.items()}
    print(f"\n{title}: peak memory above the request  (1 = {base}, {peaks[base]:.1f} MB)")
    for name, peak in sorted(peaks.items(), key=lambda item: item[1]):
        goal = "   (goal: at most 1.15)" if name == "ours" else ""
        print(f"  {peak / peaks[base]:7.3f}  {name}{goal}")
    compare("The same: CPU", contestants, base=base, times=1, rounds=15, goals={"ours": 1.25})


def mailgun_post(multipart: bool) -> tuple[str, bytes]:
    """A mail as Mailgun posts it."""
    values = dict(MAILGUN_FIELDS) | {"token": os.urandom(25).hex()}  # each content its own
    values["signature"] = signature(values["timestamp"], values["token"])
    signed = list(values.items())
    if not multipart:
        raw = urlencode([*signed, ("body-mime", MAIL)])
        return URLENCODED, raw.encode()
    files = [
        FilePart(f"attachment-{number}", f"{number}.bin", "application/zip", data)
        for number, data in enumerate(FILES, 1)
    ]
    content_type, body = multipart_body(signed, files)
    return content_type, b"".join(body)


def sendgrid_post(raw: bool) -> tuple[str, bytes]:
    """A mail as SendGrid posts it."""
    if raw:
        content_type, body = multipart_body([*SENDGRID_FIELDS[1:3], ("email", MAIL.decode())])
        return content_type, b"".join(body)
    files = [
        FilePart(f"attachment{number}", f"{number}.bin", "application/zip", data)
        for number, data in enumerate(FILES, 1)
    ]
    content_type, body = multipart_body(SENDGRID_FIELDS, files)
    return content_type, b"".join(body)


def measure_reading() -> None:
    """Print what reading the form alone takes."""
    content_type, body = mailgun_post(True)
    headers = {"Content-Type": content_type}

    def read() -> list[bytes]:
        form = read_form(WebhookRequest(headers, body))
        return [bytes(file.data) for file in form.files]

    measure(
        "Reading a form with 20 MB of files",
        {
            "bytes.find": lambda: files_of(body, content_type),
            "ours": read,
        },
        base="bytes.find",
    )


def main() -> None:
    """Print the tables."""
    measure_reading()
    ours = our_app()
    posts = {
        "mailgun, multipart with 20 MB of files": mailgun_post(True),
        "mailgun, urlencoded with raw mail of 27 MB": mailgun_post(False),
        "sendgrid, multipart with 20 MB of files": sendgrid_post(False),
        "sendgrid, multipart with raw mail of 27 MB": sendgrid_post(True),
    }
    for title, (content_type, body) in posts.items():
        esp = title.partition(",")[0]
        template = post_of(esp, content_type, body)
        apps = {"ours": ours, "by hand": by_hand(esp == "mailgun"), "werkzeug": by_werkzeug()}
        measure(title, {name: poster(app, template, body) for name, app in apps.items()}, "by hand")


if __name__ == "__main__":
    main()
