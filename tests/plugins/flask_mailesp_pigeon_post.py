"""Pigeon Post, which does not exist: forms to send, sealed webhooks, mail that is fetched."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from flask_mailesp.address import Address, address_key
from flask_mailesp.esp import (
    Body,
    Call,
    Esp,
    Feature,
    Fetch,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Secret,
    Setting,
    Settings,
    Webhook,
    WebhookRequest,
)
from flask_mailesp.events import EventType, InboundEvent, RejectReason, TrackingEvent
from flask_mailesp.exceptions import ConfigurationError, FetchError, WebhookRejected
from flask_mailesp.forms import FilePart, form_body, multipart_body
from flask_mailesp.inbound import InboundMessage
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted, failure, recipients_refused, unreadable, whole_call
from flask_mailesp.results import RecipientStatus, Status
from flask_mailesp.wire import as_object, from_epoch, parse_json, text

NAME = "Pigeon Post"
SEAL_SECONDS = 5 * 60
MAX_MAIL_BYTES = 40 * 1024 * 1024


def seal_keys(name: str, value: Any) -> tuple[Secret, ...]:
    """Read the SEAL_KEY setting: one key, or a list of them while they are changed."""
    items = [value] if isinstance(value, str) else value
    if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
        keys = tuple(Secret(item.strip()) for item in items)
        if keys and all(keys):
            return keys
    raise ConfigurationError(f"{name} must be a key or a list of keys.")


SETTINGS = (
    Setting("API_KEY", where="Pigeon Post > API keys", required=True, secret=True, bare=True),
    Setting("SEAL_KEY", where="Pigeon Post > Seals", secret=True, bare=True, convert=seal_keys),
    Setting("API_URL", default="https://api.pigeon.example/v1", bare=True),
)
SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.TAGS,
        Feature.MANY_TAGS,
        Feature.METADATA,
        Feature.MERGE_METADATA,
    }
)


# --- sending ---------------------------------------------------------------------------


def authorization(settings: Settings) -> dict[str, str]:
    return {"Authorization": f"Pigeon {settings['API_KEY']}"}


def build(message: PreparedMessage, settings: Settings) -> Iterator[Call]:
    """Yield one letter, or in a batch one for each ``to``, so that nobody sees the others."""
    for to in [(to,) for to in message.to] if message.is_batch else [message.to]:
        content_type, body = encoded(message, to)
        headers = {**authorization(settings), "Content-Type": content_type}
        request = HttpRequest("POST", f"{settings['API_URL']}/letters", headers, body)
        yield Call(request, (Part((*to, *message.cc, *message.bcc)),))


def encoded(message: PreparedMessage, to: Sequence[Address]) -> tuple[str, bytes | Body]:
    """Return the content type and body of a letter."""
    fields = [(name, word) for name, value in letter(message, to).items() for word in words(value)]
    files = [
        FilePart("enclosure", item.filename, item.content_type, item.data)
        for item in message.attachments
    ]
    return multipart_body(fields, files) if files else form_body(fields)


def letter(message: PreparedMessage, to: Sequence[Address]) -> dict[str, Any]:
    """Return the fields; one whose value is a list is repeated."""
    metadata = dict(message.metadata or {})
    if message.merge_metadata and message.is_batch:
        metadata |= message.merge_metadata.get(to[0].key, {})
    return {
        "from": str(message.sender),
        "to": [str(item) for item in to],
        "cc": [str(item) for item in message.cc],
        "bcc": [str(item) for item in message.bcc],
        "reply_to": [str(item) for item in message.reply_to],
        "subject": message.subject,
        "text": message.body,
        "html": message.html,
        "tag": list(message.tags),
        **{f"meta[{key}]": value for key, value in metadata.items()},
        **message.esp_extra,
    }


def words(value: Any) -> list[str]:
    """Return a field's values as text: numbers and booleans as JSON writes them."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [
        item if isinstance(item, str) else json.dumps(item) for item in values if item is not None
    ]


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    answer = as_object(response.json())
    if not 200 <= response.status < 300:
        code, complaint = text(answer, "number"), text(answer, "complaint") or ""
        return whole_call(call, failure(NAME, response, code=code, message=complaint))
    letter_id = text(answer, "letter")
    if letter_id is None:
        return whole_call(call, unreadable(NAME, response))
    refused = refusals(answer.get("refused"))
    return [read_part(part, letter_id, refused, response) for part in call.parts]


def refusals(value: Any) -> dict[str, str]:
    """Return who was refused and why; what cannot be read is somebody with an empty name."""
    items = value if isinstance(value, list) else [value] if value else []
    return {address_key(text(item, "to") or ""): text(item, "why") or "" for item in items}


def read_part(
    part: Part, letter_id: str, refused: dict[str, str], response: HttpResponse
) -> Reading:
    """The others are accepted, unless a refusal names nobody whom the part has."""
    if not refused:
        return accepted(part, letter_id, Status.QUEUED)
    keys = [to.key for to in part.recipients]
    readable = refused.keys() <= set(keys)
    other = RecipientStatus(Status.QUEUED if readable else Status.UNKNOWN, letter_id)
    statuses = tuple(
        RecipientStatus(Status.REJECTED, None, refused[key]) if key in refused else other
        for key in keys
    )
    if other not in statuses:
        return recipients_refused(NAME, response, statuses)
    return Reading(statuses, None if readable else unreadable(NAME, response))


# --- webhooks --------------------------------------------------------------------------

SEAL = re.compile("t=([0-9]{10}),v1=([0-9a-f]{64})")


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    keys = settings.require("SEAL_KEY")
    seal = SEAL.fullmatch(request.headers.get("Pigeon-Seal") or "")
    if seal is None:
        raise WebhookRejected("The webhook's seal is missing or malformed.")
    if abs(now.timestamp() - int(seal[1])) > SEAL_SECONDS:
        raise WebhookRejected("The webhook's seal is too old, or of the future.")
    sealed, given = seal[1].encode() + b"." + request.body, bytes.fromhex(seal[2])
    fits = [hmac.compare_digest(hmac.digest(key.encode(), sealed, "sha256"), given) for key in keys]
    if not any(fits):
        raise WebhookRejected("The webhook's seal is wrong.")


def verify_inbound(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    """The mail is fetched with the API key, which an app that only receives may lack."""
    verify(request, settings, now)
    settings.require("API_KEY")


EVENT_TYPES = {
    "landed": (EventType.DELIVERED, None),
    "lost": (EventType.DEFERRED, None),
    "shot": (EventType.BOUNCED, RejectReason.BOUNCED),
    "read": (EventType.OPENED, None),
}


def parse(request: WebhookRequest, settings: Settings) -> list[TrackingEvent]:
    raw = parse_json(request.body)
    return [to_event(item) for item in raw] if isinstance(raw, list) else [unknown(request, raw)]


def to_event(raw: Any) -> TrackingEvent:
    event_type, reason = EVENT_TYPES.get(text(raw, "what") or "", (EventType.UNKNOWN, None))
    return TrackingEvent(
        event_type,
        raw,
        timestamp=from_epoch(raw, "when"),
        event_id=text(raw, "n"),
        message_id=text(raw, "letter"),
        recipient=text(raw, "to"),
        reject_reason=reason,
        metadata=as_object(as_object(raw).get("meta")),
        identity=(NAME, text(raw, "n") or json.dumps(raw, sort_keys=True)),
    )


def unknown(request: WebhookRequest, raw: Any) -> TrackingEvent:
    """Lose nothing that arrived, whatever it is."""
    identity = (NAME, request.body.decode("utf-8", "replace"))
    return TrackingEvent(EventType.UNKNOWN, request.body if raw is None else raw, identity=identity)


MAIL_ID = re.compile("[A-Za-z0-9_-]{1,100}")  # it becomes part of a URL


def parse_inbound(request: WebhookRequest, settings: Settings) -> list[TrackingEvent | Fetch]:
    raw = parse_json(request.body)
    mail_id = text(raw, "inbound") or ""
    if not MAIL_ID.fullmatch(mail_id):
        return [unknown(request, raw)]

    def resume(response: HttpResponse) -> list[InboundEvent]:
        if response.status != 200:
            raise FetchError(f"{NAME} answered HTTP {response.status} instead of a mail.")
        mail = InboundMessage.from_raw(response.body)
        return [InboundEvent(mail, raw, event_id=mail_id, identity=(NAME, mail_id))]

    wanted = HttpRequest("GET", f"{settings['API_URL']}/mails/{mail_id}", authorization(settings))
    return [Fetch(wanted, resume, max_bytes=MAX_MAIL_BYTES)]


esp = Esp(
    NAME,
    SETTINGS,
    SUPPORTS,
    build,
    read,
    tracking=Webhook(verify, parse),
    inbound=Webhook(verify_inbound, parse_inbound),
)
