"""One tracking event, request to receiver, against a bare Flask view that reads the JSON.

``python -m tests.benchmarks.bench_webhook``; the goal is at most 1.2 times the bare view for
one event. Everything runs in process: the WSGI application is called, no server is involved.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from flask import Flask, Response, request

from flask_mailesp import MailESP, TrackingEvent, signals

from .ratios import compare

SECRET = "hook:long-enough-s3cret"

POSTMARK = {
    "RecordType": "Delivery",
    "ServerID": 7204411,
    "MessageStream": "outbound",
    "MessageID": "5f0d7a52-9c1e-4b53-8a61-2e6f0c3d9b17",
    "Recipient": "bea@example.com",
    "Tag": "order-receipt",
    "DeliveredAt": "2026-11-21T09:14:09.1180042Z",
    "Details": "smtp;250 2.0.0 Ok: queued as 4XkQ1c2vTz",
    "Metadata": {"order": "1042", "tenant": "eu-3"},
}
POSTAL = {
    "event": "MessageSent",
    "timestamp": 1795241200.418822,
    "payload": {
        "message": {
            "id": 90211,
            "token": "q7RbXk2LdV0sTfYh",
            "direction": "outgoing",
            "message_id": "7e1a3c52-08a4-4f6e-b0c7-6d7f2f1c9b55@rp.postal.example.org",
            "to": "bea@example.com",
            "from": "orders@shop.example.org",
            "subject": "Your order 1042",
            "timestamp": 1795241197.882001,
            "spam_status": "NotChecked",
            "tag": "order-receipt",
        },
        "status": "Sent",
        "details": "Message for bea@example.com accepted by 203.0.113.9:25 (mx.example.com)",
        "output": "250 2.0.0 Ok: queued as 4XkQ1c2v",
        "sent_with_ssl": True,
        "timestamp": 1795241200.401177,
        "time": 0.62,
    },
    "uuid": "3f7f2c8e-52a7-4a11-9e1b-6f0a4f3d2c90",
}

Environ = dict[str, Any]


def bare_app() -> Flask:
    """The view that everyone writes first: what is compared with."""
    app = Flask("bare")

    @app.post("/mail-hooks/postmark/tracking/")
    @app.post("/mail-hooks/postal/tracking/")
    def hook() -> tuple[str, int]:
        request.get_json()
        return "", 200

    return app


def barest_app() -> Flask:
    """A view that does by hand what Flask's helpers do."""
    app = Flask("barest")

    @app.post("/mail-hooks/postmark/tracking/")
    @app.post("/mail-hooks/postal/tracking/")
    def hook() -> Response:
        json.loads(request.get_data())
        return Response("OK\n", 200, content_type="text/plain")

    return app


def our_app(key: rsa.RSAPrivateKey) -> Flask:
    """An app with one receiver."""
    app = Flask("ours")
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    app.config["MAILESP"] = {
        "ESP": "postmark",
        "POSTMARK_SERVER_TOKEN": "token",
        "POSTMARK_WEBHOOK_SECRET": SECRET,
        "POSTAL_WEBHOOK_KEY": pem.decode(),
    }
    MailESP(app)

    @signals.tracking.connect_via(app)
    def receiver(app: Flask, event: TrackingEvent, esp_name: str, **extra: Any) -> None:
        pass

    return app


def environ(esp: str, body: bytes, headers: dict[str, str]) -> Environ:
    """A POST as a WSGI server hands it over."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/mail-hooks/{esp}/tracking/",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **headers,
    }


def poster(app: Flask, template: Environ, body: bytes) -> Callable[[], None]:
    """Return a function that makes one request, which must succeed."""

    def start_response(status: str, headers: Any, _exc: Any = None) -> Any:
        assert status == "200 OK", status

    def post() -> None:
        answer = app({**template, "wsgi.input": io.BytesIO(body)}, start_response)
        for _ in answer:
            pass
        answer.close()  # type: ignore[attr-defined]

    return post


def main() -> None:
    """Print the ratios for both ESPs."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bare, ours = bare_app(), our_app(key)
    basic = "Basic " + base64.b64encode(SECRET.encode()).decode()
    for esp, payload in (("postmark", POSTMARK), ("postal", POSTAL)):
        body = json.dumps(payload).encode()
        signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
        template = environ(
            esp,
            body,
            {
                "HTTP_AUTHORIZATION": basic,
                "HTTP_X_POSTAL_SIGNATURE_256": base64.b64encode(signature).decode(),
            },
        )
        compare(
            f"One tracking event of {esp}",
            {
                "bare view": poster(bare, template, body),
                "bare view, by hand": poster(barest_app(), template, body),
                "ours": poster(ours, template, body),
            },
            base="bare view",
            times=1000,
            goals={"ours": 1.2},
        )


if __name__ == "__main__":
    main()
