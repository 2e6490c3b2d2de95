"""What SendGrid posts: its events, mail that came in, and the signatures over both.

Sources: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event,
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features,
https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from email.message import Message
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .forms import FormFile, multipart
from .mime import Mail, first_link
from .records import Inbound, Post, Schedule, SentMessage, Verdict
from .sendgrid_mail import ESP

SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

# -- signing ------------------------------------------------------------------------------


def new_tracking_key() -> str:
    return new_key()


def new_inbound_key() -> str:
    """Another key: simulators that share keys know one by the function that makes it."""
    return new_key()


def new_key() -> str:
    """A key of P-256, as PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode("ascii")
    )


def private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("SendGrid signs with an elliptic curve; this PEM holds another key")
    return key


def public_key(pem: str) -> str:
    """The public key as the console shows it."""
    spki = (
        private_key(pem)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(spki).decode("ascii")


def signer(pem: str) -> Callable[[Post, datetime], Post]:
    """What signs a post with the time it is made at."""
    key = private_key(pem)

    def sign(post: Post, now: datetime) -> Post:
        stamp = str(int(now.timestamp()))
        signature = key.sign(stamp.encode("ascii") + post.body, ec.ECDSA(hashes.SHA256()))
        proof = {SIGNATURE: base64.b64encode(signature).decode("ascii"), TIMESTAMP: stamp}
        return replace(post, headers=post.headers | proof)

    return sign


# -- events -------------------------------------------------------------------------------


def judge(status: int | None) -> Verdict:
    """Any 2xx is success; anything else is tried again."""
    return "done" if status is not None and 200 <= status < 300 else "retry"


def judge_inbound(status: int | None) -> Verdict:
    """Only 5xx (and no answer at all) is tried again: after anything else the mail is gone."""
    if status is None or status >= 500:
        return "retry"
    return "done" if 200 <= status < 300 else "dropped"


MINUTES = (1, 5, 10, 30, 60, 120, 240, 360, 600)  # growing; within 24 hours
SCHEDULE = Schedule(tuple(60.0 * minutes for minutes in MINUTES), judge)
INBOUND_SCHEDULE = Schedule(
    tuple(60.0 * minutes for minutes in (*MINUTES, 960, 1440)), judge_inbound
)


class Wire(NamedTuple):
    """An event as SendGrid names it, and the fields that it has besides the common ones."""

    name: str
    fields: dict[str, Any]


SEEN = {"useragent": USER_AGENT, "ip": "198.51.100.23"}
GROUP = {"asm_group_id": 1, "url": "https://u.example.com/asm", **SEEN}
EVENTS: dict[str, Wire] = {
    "queued": Wire("processed", {}),
    "delivered": Wire("delivered", {"response": "250 2.0.0 OK", "tls": 1, "ip": "192.0.2.25"}),
    "deferred": Wire("deferred", {"response": "451 4.7.1 try again later", "attempt": "1"}),
    "bounced": Wire(
        "bounce",
        {
            "type": "bounce",
            "reason": "550 5.1.1 user unknown",
            "status": "5.1.1",
            "bounce_classification": "Invalid Address",
            "tls": 1,
            "ip": "192.0.2.25",
        },
    ),
    "soft_bounced": Wire(
        "bounce",
        {
            "type": "blocked",
            "reason": "554 5.7.1 refused for now",
            "status": "5.7.1",
            "bounce_classification": "Reputation",
            "tls": 1,
            "ip": "192.0.2.25",
        },
    ),
    "rejected": Wire("dropped", {"reason": "Bounced Address", "status": "5.0.0"}),
    "complained": Wire("spamreport", {}),
    "opened": Wire("open", {"sg_machine_open": False, "sg_content_type": "html", **SEEN}),
    "clicked": Wire("click", {"url_offset": {"index": 0, "type": "html"}, **SEEN}),
    "unsubscribed": Wire("unsubscribe", {}),
    "subscribed": Wire("group_resubscribe", GROUP),
}
BY_WIRE_NAME = {wire.name: wire for wire in reversed(EVENTS.values())} | {
    "group_unsubscribe": Wire("group_unsubscribe", GROUP)
}
FRIENDLY = {"user_agent": "useragent", "description": "reason"}
# What puts an address on the suppression list, and the reason that later drops give.
SUPPRESSING = {
    "bounce": "Bounced Address",
    "spamreport": "Spam Reporting Address",
    "unsubscribe": "Unsubscribed Address",
    "group_unsubscribe": "Unsubscribed Address",
}


def event_body(
    message: SentMessage, wire: Wire, recipient: str, details: dict[str, Any]
) -> dict[str, Any]:
    """One element of a post: SendGrid puts the custom arguments among its own fields."""
    smtp_id = next((value for name, value in message.headers if name.lower() == "message-id"), None)
    body: dict[str, Any] = {
        **message.metadata,
        "email": recipient,
        "timestamp": int(time.time()),
        "smtp-id": smtp_id or f"<{message.message_id}@geopod-ismtpd-1>",
        "event": wire.name,
        "sg_event_id": secrets.token_urlsafe(24),
        "sg_message_id": message.id,
        **wire.fields,
    }
    if message.tags:
        body["category"] = list(message.tags)
    if wire.name == "click":
        body["url"] = first_link(message.html, message.text)
    return body | {FRIENDLY.get(name, name): value for name, value in details.items()}


def events_post(url: str, bodies: list[dict[str, Any]]) -> Post:
    """A request with some events; its last line break counts for the signature."""
    data = json.dumps(bodies, ensure_ascii=False, separators=(",", ":"))
    return Post(
        url,
        data.encode("utf-8", "surrogatepass") + b"\r\n",
        {"Content-Type": "application/json", "User-Agent": "SendGrid Event API"},
        esp=ESP,
        schedule=SCHEDULE,
    )


# -- inbound ------------------------------------------------------------------------------


def inbound_post(url: str, mail: Inbound, *, raw: bool) -> Post:
    """A mail as the inbound parse webhook posts it: its source, or its fields and files."""
    source = Mail(mail.raw)
    fields = common_fields(mail, source)
    files: list[FormFile] = []
    if raw:
        fields.append(("email", mail.raw))
        charsets: dict[str, str] = {}
    else:
        own, charsets, files = parsed_fields(mail.raw, source)
        fields += own
    charsets |= dict.fromkeys(("to", "cc", "from", "subject"), "UTF-8")
    fields.append(("charsets", json.dumps(charsets)))
    content_type, body = multipart(fields, files)
    headers = {"Content-Type": content_type, "User-Agent": "SendGrid Inbound Parse"}
    return Post(url, body, headers, timeout=60, esp=ESP, schedule=INBOUND_SCHEDULE, event="inbound")


def common_fields(mail: Inbound, source: Mail) -> list[tuple[str, str | bytes]]:
    """What both modes have; the spam filter's fields only where it was asked."""
    sender = mail.mail_from or ""
    fields: list[tuple[str, str | bytes]] = [
        ("envelope", json.dumps({"to": [mail.to], "from": sender})),
        *((name.lower(), source.first(name) or "") for name in ("To", "From", "Subject")),
        ("sender_ip", "192.0.2.30"),
        ("SPF", "pass"),
        ("dkim", f"{{@{sender.rpartition('@')[2] or 'unknown'} : pass}}"),
    ]
    if source.first("Cc"):
        fields.append(("cc", source.first("Cc") or ""))
    if mail.spam is not None:
        fields += [("spam_score", str(mail.spam[1])), ("spam_report", "Spam detection software")]
    return fields


def parsed_fields(
    raw: bytes, source: Mail
) -> tuple[list[tuple[str, str | bytes]], dict[str, str], list[FormFile]]:
    """The fields of parsed mode, the charsets of the texts, and the files."""
    head = raw.partition(b"\r\n\r\n")[0] + b"\r\n"
    fields: list[tuple[str, str | bytes]] = [("headers", head)]
    charsets: dict[str, str] = {}
    for name, kind in (("text", "text/plain"), ("html", "text/html")):
        found = body_of(raw, kind)
        if found is not None:
            fields.append((name, found[0]))
            charsets[name] = found[1]
    files, infos, ids = [], {}, {}
    for number, part in enumerate(source.attachments, 1):
        name = f"attachment{number}"
        infos[name] = {"filename": part.name, "name": part.name, "type": part.content_type}
        if part.content_id:
            infos[name]["content-id"] = part.content_id
            ids[part.content_id] = name
        files.append(FormFile(name, part.name, part.content_type, part.data))
    fields.append(("attachments", str(len(files))))
    if files:
        fields += [("attachment-info", json.dumps(infos)), ("content-ids", json.dumps(ids))]
    return fields, charsets, files


def body_of(raw: bytes, kind: str) -> tuple[bytes, str] | None:
    """The bytes of the first body of a type, as the sender encoded its text, and the charset."""
    for part in leaves(email.message_from_bytes(raw, policy=email.policy.compat32)):
        if part.get_content_type() == kind and part.get_filename() is None:
            data = part.get_payload(decode=True)
            charset = part.get_content_charset() or "us-ascii"
            return (data if isinstance(data, bytes) else b""), charset
    return None


def leaves(mail: Message) -> list[Message]:
    return [part for part in mail.walk() if not part.is_multipart()]
