"""A thousand SendGrid events in one POST, against decoding the same JSON and nothing else.

``python -m tests.benchmarks.bench_events``; the goal is at most 2.5 times ``json.loads``.
Everything runs in process: the WSGI application is called, no server is involved. The post is
signed and verified; the receiver is called for each event and does nothing, or looks at it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask, Response, request

from flask_mailesp import MailESP, TrackingEvent, signals

from .bench_webhook import Environ, environ, poster
from .ratios import compare

KEY = ec.generate_private_key(ec.SECP256R1())
COUNT = 1000
PATH = "/mail-hooks/sendgrid/tracking/"


def event(number: int) -> dict[str, Any]:
    """One event as SendGrid posts it, with what an app of ours adds."""
    kind = ("processed", "delivered", "open", "click", "bounce")[number % 5]
    found: dict[str, Any] = {
        "email": f"reader{number}@example.com",
        "timestamp": 1795241200 + number,
        "smtp-id": f"<{number}@geopod-ismtpd-9>",
        "event": kind,
        "category": ["newsletter"],
        "sg_event_id": f"ZGVsaXZlcmVkLTAtMTExMTEt{number:06d}",
        "sg_message_id": f"Kf8a1bQzR2WcVt3LmYx7Pw.recvd-6c9d8-{number}.0",
        "mailesp_id": "5f0d7a52-9c1e-4b53-8a61-2e6f0c3d9b17",
        "order": str(1000 + number),
    }
    if kind == "delivered":
        found |= {"response": "250 2.0.0 OK: queued as 4XkQ1c2vTz", "tls": 1}
    elif kind in ("open", "click"):
        found |= {"useragent": "Mozilla/5.0 (X11; Linux x86_64)", "ip": "203.0.113.9"}
    elif kind == "bounce":
        found |= {"type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 No such user"}
    return found | ({"url": "https://shop.example.com/sale"} if kind == "click" else {})


BODY = json.dumps([event(number) for number in range(COUNT)]).encode()


def our_app(look: Callable[[TrackingEvent], object]) -> Flask:
    """An app with one receiver."""
    app = Flask("ours")
    public = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    app.config["MAILESP"] = {
        "ESP": "sendgrid",
        "SENDGRID_API_KEY": "key",
        "SENDGRID_WEBHOOK_VERIFICATION_KEY": base64.b64encode(public).decode(),
    }
    MailESP(app)

    @signals.tracking.connect_via(app)
    def receiver(app: Flask, event: TrackingEvent, esp_name: str, **extra: Any) -> None:
        look(event)

    return app


def bare_app() -> Flask:
    """The view that everyone writes first: it authenticates nobody."""
    app = Flask("bare")

    @app.post(PATH)
    def hook() -> Response:
        for item in request.get_json():
            nothing(item)
        return Response("OK\n", 200, content_type="text/plain")

    return app


def nothing(event: object) -> None:
    """Do nothing with an event."""


def some(event: TrackingEvent) -> object:
    """Look at what most receivers look at."""
    return event.event_type, event.recipient, event.message_id, event.timestamp


def everything(event: TrackingEvent) -> object:
    """Look at all there is, the key included."""
    more = (event.event_id, event.reject_reason, event.description, event.mta_response)
    return some(event), more, event.tags, event.metadata, event.click_url, event.key


def signed() -> Environ:
    """The post, authentic."""
    timestamp = str(int(time.time()))
    signature = KEY.sign(timestamp.encode() + BODY, ec.ECDSA(hashes.SHA256()))
    prefix = "HTTP_X_TWILIO_EMAIL_EVENT_WEBHOOK"
    headers = {
        f"{prefix}_TIMESTAMP": timestamp,
        f"{prefix}_SIGNATURE": base64.b64encode(signature).decode(),
    }
    return environ("sendgrid", BODY, headers)


def main() -> None:
    """Print the ratios."""
    template = signed()
    looks = {"ours": nothing, "ours, four fields": some, "ours, every field": everything}
    compare(
        f"{COUNT} SendGrid events in a POST of {len(BODY) // 1024} kB",
        {
            "json.loads": lambda: json.loads(BODY),
            "bare view": poster(bare_app(), template, BODY),
            **{name: poster(our_app(look), template, BODY) for name, look in looks.items()},
        },
        base="json.loads",
        times=10,
        goals={"ours": 2.5},
    )


if __name__ == "__main__":
    main()
