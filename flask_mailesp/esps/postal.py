"""Postal: self-hosted; errors behind HTTP 200; RSA-signed webhooks.

https://docs.postalserver.io
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..address import Address, address_key
from ..compose import compose, make_message_id
from ..esp import (
    Call,
    Esp,
    Feature,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Setting,
    Settings,
    Webhook,
    WebhookRequest,
)
from ..events import EventType, InboundEvent, RejectReason, TrackingEvent, unknown_event
from ..exceptions import APIError, AuthenticationError, ConfigurationError, WebhookRejected
from ..message import Attachment, PreparedMessage
from ..outcomes import WITHOUT_EVERY_RECIPIENT, failure, unreadable, whole_call
from ..patterns import pattern
from ..records import replace
from ..results import RecipientStatus, Status
from ..wire import (
    Base64,
    as_list,
    as_number,
    as_object,
    decode_base64,
    flag,
    from_epoch,
    json_body,
    parse_form,
    parse_json,
    strings,
    text,
    verify_basic,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from ..inbound import InboundAttachment, InboundMessage

NAME = "Postal"

MAX_ADDRESSES = 50  # in each of to, cc and bcc of send/message; send/raw has no such limit


# --- settings --------------------------------------------------------------------------


def public_keys(name: str, value: Any) -> tuple[RSAPublicKey, ...]:
    """Read the WEBHOOK_KEY setting: one key or a list of keys, for rotation.

    A key is PEM text, the bare base64 of a ``p=`` value, a whole DKIM record, a JWK, or a
    JWKS document (as a dict or as JSON text).

    Raises ConfigurationError saying where the key is found.
    """
    keys = _usable_keys(value)
    if not keys:
        raise ConfigurationError(
            f"{name} is not an RSA public key. Give PEM text, a DKIM record, its p= value or a "
            f"JWKS document. You will find the value in {WHERE_KEY}."
        )
    return keys


def _usable_keys(value: Any) -> tuple[RSAPublicKey, ...]:
    """Return the keys, or none at all if one of them is unusable."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return tuple(_keys(value))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()
    except (UnsupportedAlgorithm, WebhookRejected):  # a curve from elsewhere; not base64
        return ()


WHERE_KEY = (
    "https://<your Postal>/.well-known/jwks.json, or in what `postal default-dkim-record` "
    "prints on the server"
)


def _keys(value: Any) -> Iterator[RSAPublicKey]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _keys(item)
    elif isinstance(value, Mapping):
        yield from map(_from_jwk, value.get("keys", [value]))
    elif isinstance(value, bytes):
        yield from _keys(value.decode())
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        yield from _keys(parse_json(value))
    else:
        yield _from_text(value)


def _from_text(value: str) -> RSAPublicKey:
    from cryptography.hazmat.primitives import serialization

    value = value.replace("\\n", "\n")  # as a line break is written in an environment file
    if "-----BEGIN" in value:
        return _rsa(serialization.load_pem_public_key(value.strip().encode()))
    bare = re.sub(r'[\s"()\\]', "", value)  # as zone files and DNS consoles write it
    record = re.search(r"(?:^|;)p=([^;]*)", bare)
    return _rsa(serialization.load_der_public_key(decode_base64(record[1] if record else bare)))


def _from_jwk(jwk: Mapping[str, Any]) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.RSAPublicNumbers(_jwk_number(jwk["e"]), _jwk_number(jwk["n"])).public_key()


def _jwk_number(value: str) -> int:
    padded = value.translate({ord("-"): "+", ord("_"): "/"}) + "=" * (-len(value) % 4)
    return int.from_bytes(decode_base64(padded), "big")


def _rsa(key: Any) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not isinstance(key, RSAPublicKey):
        raise TypeError("not an RSA key")
    return key


def base_url(name: str, value: str) -> str:
    """Accept the installation's URL with or without the API's path."""
    return value.removesuffix("/api/v1")


SETTINGS = (
    Setting(
        "API_URL",
        where="the address bar of your Postal's web interface (its web_hostname)",
        required=True,
        bare=True,
        convert=base_url,
    ),
    Setting(
        "API_KEY",
        where="Postal > your mail server > Credentials > a credential of type API",
        required=True,
        secret=True,
        bare=True,
    ),
    Setting("WEBHOOK_KEY", where=WHERE_KEY, bare=True, convert=public_keys),
    Setting("WEBHOOK_ALLOW_SHA1", default=False),
)

SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.AMP,
        Feature.ALTERNATIVES,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.NO_TO,
        Feature.NON_ASCII_MAILBOX,
        Feature.TAGS,
    }
)


# --- sending ---------------------------------------------------------------------------


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build one call, or one for each ``to`` of a batch: Postal has no batches."""
    if not message.is_batch:
        return (call(message, settings),)
    return (call(replace(message, to=(address,)), settings) for address in message.to)


def call(message: PreparedMessage, settings: Settings) -> Call:
    """Build the call for one copy, by the endpoint that can express it."""
    message = without_duplicates(message)
    path, payload = (
        ("raw", to_raw(message)) if needs_raw(message) else ("message", to_json(message))
    )
    request = HttpRequest(
        "POST",
        f"{settings['API_URL']}/api/v1/send/{path}",
        {
            "X-Server-API-Key": settings["API_KEY"],
            "Accept": "application/json",
            "Content-Type": "application/json",
        },
        json_body(payload | dict(message.esp_extra)),
    )
    return Call(request, (Part(message.recipients),))


def without_duplicates(message: PreparedMessage) -> PreparedMessage:
    """Keep each mailbox once: Postal would mail a repeated one twice and hide an id."""
    seen: set[str] = set()

    def new(addresses: Iterable[Address]) -> tuple[Address, ...]:
        fresh = tuple(item for item in addresses if item.key not in seen)
        seen.update(item.key for item in fresh)
        return fresh

    if len({item.key for item in message.recipients}) == len(message.recipients):
        return message
    return replace(message, to=new(message.to), cc=new(message.cc), bcc=new(message.bcc))


def needs_raw(message: PreparedMessage) -> bool:
    """Tell whether send/message cannot express the message, but a MIME message can."""
    return (
        len(message.reply_to) > 1
        or bool(message.alternatives)
        or max(len(message.to), len(message.cc), len(message.bcc)) > MAX_ADDRESSES
        or (bool(message.headers) and not _fits_object(message.headers))
        or (bool(message.attachments) and not _fits_list(message))
    )


def _fits_object(headers: Sequence[tuple[str, str]]) -> bool:
    """send/message takes headers as an object, and makes the Message-ID itself."""
    names = [name.lower() for name, _ in headers]
    return len(set(names)) == len(names) and "message-id" not in names


def _fits_list(message: PreparedMessage) -> bool:
    """send/message knows no inline images, and no mail that is nothing but attachments."""
    has_text = bool((message.body or "").strip() or (message.html or "").strip())
    return has_text and not any(item.is_inline for item in message.attachments)


def to_json(message: PreparedMessage) -> dict[str, Any]:
    """Return the parameters of send/message.

    https://docs.postalserver.io/developer/api
    """
    body = {
        "from": str(message.sender),
        "to": addresses(message.to),
        "cc": addresses(message.cc),
        "bcc": addresses(message.bcc),
        "sender": message.header("Sender"),
        "reply_to": str(message.reply_to[0]) if message.reply_to else None,
        "subject": message.subject,
        "plain_body": message.body,
        "html_body": message.html,
        "tag": message.tags[0] if message.tags else None,
        "headers": headers(message.headers),
        "attachments": [attachment(item) for item in message.attachments] or None,
    }
    return {key: value for key, value in body.items() if value is not None}


def addresses(items: Sequence[Address]) -> list[str] | None:
    """Return a list of addresses, or None for nobody."""
    return [str(item) for item in items] or None


def headers(items: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    """Return the headers as an object; Postal deletes a Sender that is among them."""
    return {name: value for name, value in items if name.lower() != "sender"} or None


def attachment(item: Attachment) -> dict[str, Any]:
    """Return one attachment."""
    return {
        "name": item.filename,
        "content_type": item.content_type,
        "data": Base64(item.data),
    }


def to_raw(message: PreparedMessage) -> dict[str, Any]:
    """Return the parameters of send/raw; the tag travels as a header."""
    source = compose(
        message,
        date=datetime.now(timezone.utc),
        message_id=make_message_id(message.sender.domain),
        extra_headers=[("X-Postal-Tag", tag) for tag in message.tags],
    )
    return {
        "mail_from": message.sender.addr_spec,
        "rcpt_to": [item.addr_spec for item in message.recipients],
        "data": Base64(source),
    }


# --- reading the answer ----------------------------------------------------------------

AUTH_CODES = frozenset({"AccessDenied", "InvalidServerAPIKey"})
HINTS = {
    "AccessDenied": "Check MAILESP_POSTAL_API_KEY.",
    "InvalidServerAPIKey": "Check MAILESP_POSTAL_API_KEY: mail server > Credentials.",
    "ServerSuspended": "The mail server is suspended.",
    "UnauthenticatedFromAddress": "Verify the sender's domain: mail server > Domains.",
}
WRONG_HOST = "Postal refuses any host name but its own web_hostname: check MAILESP_POSTAL_API_URL."


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read Postal's answer: a success status says nothing, the JSON's ``status`` does."""
    if response.status != 200:
        kind, hint = (APIError, WRONG_HOST) if response.status == 403 else (None, "")
        return whole_call(call, failure(NAME, response, hint=hint, kind=kind))
    answer = as_object(response.json())
    data = as_object(answer.get("data"))
    status = text(answer, "status")
    if status == "success":
        return [_accepted(part, response, data) for part in call.parts]
    if status in ("error", "parameter-error"):
        return whole_call(call, _error(response, status, data))
    return whole_call(call, unreadable(NAME, response))


def _accepted(part: Part, response: HttpResponse, data: Mapping[str, Any]) -> Reading:
    """Find each recipient's own id. A recipient that Postal does not mention is unknown."""
    entries = as_object(data.get("messages"))
    ids = {address_key(key): text(entry, "id") for key, entry in entries.items()}
    found = [ids.get(address.key) for address in part.recipients]
    statuses = tuple(
        RecipientStatus(Status.UNKNOWN)
        if number is None
        else RecipientStatus(Status.QUEUED, number)
        for number in found
    )
    if None not in found:
        return Reading(statuses)
    return Reading(statuses, unreadable(NAME, response, WITHOUT_EVERY_RECIPIENT))


def _error(response: HttpResponse, status: str, data: Mapping[str, Any]) -> APIError:
    code = text(data, "code") or status
    kind = AuthenticationError if code in AUTH_CODES else APIError
    error = failure(
        NAME,
        response,
        code=code,
        message=text(data, "message") or "",
        hint=HINTS.get(code, ""),
        kind=kind,
    )
    assert isinstance(error, APIError)  # noqa: S101 - for the type checker; kind says so
    return error


# --- webhooks --------------------------------------------------------------------------


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    """Check the RSA signature over the raw body, and Basic credentials where configured.

    SHA-256 is preferred. SHA-1 (Postal before 3.2) counts only where the SHA-256 header is
    absent and WEBHOOK_ALLOW_SHA1 is set: else stripping the better header would be enough.

    https://docs.postalserver.io/developer/webhooks

    Raises WebhookRejected, or ConfigurationError where neither is configured.
    """
    secret = settings.get("WEBHOOK_SECRET")
    if secret is not None:
        verify_basic(request.headers.get("Authorization"), secret)
        if settings.get("WEBHOOK_KEY") is None:
            return
    verify_signature(request, settings.require("WEBHOOK_KEY"), settings["WEBHOOK_ALLOW_SHA1"])


def verify_signature(
    request: WebhookRequest, keys: Sequence[RSAPublicKey], allow_sha1: bool
) -> None:
    """Check that one of the keys signed the raw body. Raises WebhookRejected."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    algorithm: hashes.HashAlgorithm = hashes.SHA256()
    encoded = request.headers.get("X-Postal-Signature-256")
    if encoded is None and allow_sha1:
        algorithm = hashes.SHA1()  # noqa: S303
        encoded = request.headers.get("X-Postal-Signature")
    if not encoded:
        raise WebhookRejected("The webhook is not signed.")
    signature = decode_base64(encoded)
    for key in keys:
        try:
            key.verify(signature, request.body, PKCS1v15(), algorithm)
        except InvalidSignature:
            continue
        return
    raise WebhookRejected("The webhook's signature is wrong.")


def parse(request: WebhookRequest, settings: Settings) -> tuple[TrackingEvent | InboundEvent, ...]:
    """Read a webhook or inbound mail; whatever else becomes one unknown event."""
    raw = decode(request)
    if not isinstance(raw, dict):
        return (unknown_event(NAME, request.body, request.body),)
    if "event" in raw and "payload" in raw:
        return to_events(raw, request.body)
    if is_inbound(raw):
        return (to_inbound(raw, request.body),)
    return (unknown_event(NAME, raw, request.body, text(raw, "uuid")),)


def decode(request: WebhookRequest) -> Any:
    """Return the body's JSON, or its form with Ruby's bracket names unfolded."""
    is_form = request.content_type == "application/x-www-form-urlencoded"
    if is_form and not request.body.startswith(b"{"):
        return unfold(parse_form(request.body)) or None
    return parse_json(request.body)


_BRACKETS = pattern(r"attachments\[(\d{1,4})\]\[(\w{1,40})\]")


def unfold(form: Mapping[str, list[str]]) -> dict[str, Any]:
    """Turn ``attachments[0][filename]=…`` into the lists and objects of the JSON format."""
    raw: dict[str, Any] = {}
    attachments: dict[int, dict[str, str]] = {}
    for name, values in form.items():
        match = _BRACKETS.fullmatch(name)
        if match:
            attachments.setdefault(int(match[1]), {})[match[2]] = values[0]
        elif name.removesuffix("[]") == "reply_to":
            raw["reply_to"] = values
        else:
            raw[name] = values[0]
    if attachments:
        raw["attachments"] = [attachments[index] for index in sorted(attachments)]
    return raw


# https://docs.postalserver.io/developer/webhooks
EVENT_TYPES: dict[str | None, EventType] = {
    "MessageSent": EventType.DELIVERED,
    "MessageDelayed": EventType.DEFERRED,
    "MessageDeliveryFailed": EventType.FAILED,
    "MessageHeld": EventType.QUEUED,
    "MessageBounced": EventType.BOUNCED,
    "MessageLinkClicked": EventType.CLICKED,
    "MessageLoaded": EventType.OPENED,
}
_SUPPRESSED = "is on the suppression list"
_REFUSED = pattern(r"5\d\d[ -]|5\d\d$")
FAILURES = (
    ("Maximum number of delivery attempts", RejectReason.TIMED_OUT),
    ("Message is likely spam", RejectReason.SPAM),
    ("Message doesn't have an RCPT to", RejectReason.INVALID),
)


def to_events(raw: dict[str, Any], body: bytes) -> tuple[TrackingEvent, ...]:
    """Normalise one webhook. Events about incoming mail are not tracking events: none."""
    payload = as_object(raw.get("payload"))
    message = as_object(payload.get("message") or payload.get("original_message"))
    if message.get("direction") == "incoming":
        return ()
    name = raw["event"] if isinstance(raw["event"], str) else None
    event_type, reject_reason = classify(name, payload)
    if not message:
        event_type = EventType.UNKNOWN
    uuid = text(raw, "uuid")
    return (
        TrackingEvent(
            event_type=event_type,
            esp_event=raw,
            timestamp=from_epoch(payload, "timestamp") or from_epoch(raw, "timestamp"),
            event_id=uuid,
            message_id=text(message, "id"),
            recipient=text(message, "to"),
            reject_reason=reject_reason,
            description=text(payload, "details"),
            mta_response=text(payload, "output"),
            tags=strings([message.get("tag")]),
            click_url=text(payload, "url"),
            user_agent=text(payload, "user_agent"),
            identity=(NAME, uuid or sha256(body).hexdigest()),
        ),
    )


def classify(name: str | None, payload: Mapping[str, Any]) -> tuple[EventType, RejectReason | None]:
    """Return the event type and reject reason of a webhook."""
    event_type = EVENT_TYPES.get(name, EventType.UNKNOWN)
    details = text(payload, "details") or ""
    if event_type is EventType.QUEUED and _SUPPRESSED in details:
        return EventType.REJECTED, RejectReason.BLOCKED
    if event_type is EventType.BOUNCED:
        return event_type, RejectReason.BOUNCED
    if event_type is EventType.FAILED:
        return failed(details, text(payload, "output") or "")
    return event_type, None


def failed(details: str, output: str) -> tuple[EventType, RejectReason]:
    """Tell a refusal by the receiving server from a failure before it."""
    if _REFUSED.match(output) or details.startswith("Permanent SMTP delivery error"):
        return EventType.BOUNCED, RejectReason.BOUNCED
    for start, reason in FAILURES:
        if details.startswith(start):
            return EventType.FAILED, reason
    return EventType.FAILED, RejectReason.OTHER


# --- inbound ---------------------------------------------------------------------------


def is_inbound(raw: Mapping[str, Any]) -> bool:
    """Tell an HTTP endpoint's post, in either format, from anything else."""
    if isinstance(raw.get("message"), str) and "base64" in raw:
        return True
    return "rcpt_to" in raw and any(key in raw for key in ("plain_body", "html_body", "token"))


def to_inbound(raw: dict[str, Any], body: bytes) -> InboundEvent:
    """Read inbound mail in the RawMessage or the Hash format.

    https://docs.postalserver.io/developer/http-payloads
    """
    number = text(raw, "id")  # unique within one mail server; addresses are within them all
    identity: tuple[str | None, ...] = (NAME, number, text(raw, "token"), text(raw, "rcpt_to"))
    if number is None:
        identity = (NAME, sha256(body).hexdigest())
    return InboundEvent(
        message=raw_message(raw) if isinstance(raw.get("message"), str) else hash_message(raw),
        esp_event=raw,
        event_id=number,
        timestamp=from_epoch(raw, "timestamp"),
        identity=identity,
    )


def raw_message(raw: Mapping[str, Any]) -> InboundMessage:
    """Read the source. Postal's verdict on spam stands at its very top, or not at all."""
    from ..inbound import InboundMessage

    source, defects = raw_source(raw)
    verdict = top_headers(source)
    return InboundMessage.from_raw(
        source,
        envelope_sender=envelope_sender(raw),
        envelope_recipient=text(raw, "rcpt_to"),
        spam_detected=SPAM_WORDS.get(verdict.get("x-postal-spam", "")),
        spam_score=as_number(verdict.get("x-postal-spam-score")),
        defects=defects,
    )


SPAM_WORDS: dict[str | None, bool] = {"yes": True, "no": False, "Spam": True, "NotSpam": False}


def raw_source(raw: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """Return the mail's bytes (Ruby's base64 has line breaks) and what was damaged."""
    from ..decoding import Defects
    from ..decoding import decode_base64 as decode_leniently

    defects = Defects()
    if flag(raw, "base64") is False:
        return raw["message"].encode("utf-8", "replace"), defects
    return decode_leniently(raw["message"], defects), defects


def top_headers(source: bytes) -> dict[str, str]:
    """Return the X-Postal headers above all others; further down anyone may write them."""
    found: dict[str, str] = {}
    for line in source[:2000].split(b"\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name.lower().startswith("x-postal-"):
            break
        found.setdefault(name.lower(), value.strip())
    return found


def envelope_sender(raw: Mapping[str, Any]) -> str | None:
    """Return the envelope sender; null (or an empty form value) is the null sender."""
    if "mail_from" not in raw:
        return None
    return text(raw, "mail_from") or ""


def hash_message(raw: Mapping[str, Any]) -> InboundMessage:
    """Read the processed format, whose ``plain_body`` is stripped where replies are cut off."""
    from ..inbound import InboundMessage

    plain = text(raw, "plain_body") or ""
    replies = text(raw, "replies_from_plain_body")
    stripped = plain if "replies_from_plain_body" in raw else None
    return InboundMessage.from_fields(
        headers=hash_headers(raw),
        from_=text(raw, "from") or "",
        to=text(raw, "to") or "",
        cc=text(raw, "cc") or "",
        reply_to=", ".join(strings(as_list(raw.get("reply_to")))),
        subject=text(raw, "subject") or "",
        date=text(raw, "date"),
        text="\n\n".join(filter(None, (plain, replies))),
        html=text(raw, "html_body") or "",
        attachments=[inbound_attachment(item) for item in as_list(raw.get("attachments"))],
        message_id=text(raw, "message_id"),
        envelope_sender=envelope_sender(raw),
        envelope_recipient=text(raw, "rcpt_to"),
        stripped_text=stripped,
        spam_detected=SPAM_WORDS.get(text(raw, "spam_status")),
    )


HASH_HEADERS = {
    "from": "From",
    "to": "To",
    "cc": "Cc",
    "subject": "Subject",
    "date": "Date",
    "message_id": "Message-ID",
    "in_reply_to": "In-Reply-To",
    "references": "References",
    "auto_submitted": "Auto-Submitted",
}


def hash_headers(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few headers that the Hash format keeps, under their own names."""
    pairs = [(name, text(raw, key)) for key, name in HASH_HEADERS.items()]
    pairs += [("Reply-To", value) for value in strings(as_list(raw.get("reply_to")))]
    return [
        (name, f"<{value}>" if name == "Message-ID" else value) for name, value in pairs if value
    ]


def inbound_attachment(item: Any) -> InboundAttachment:
    """Return one attachment."""
    from ..inbound import InboundAttachment

    return InboundAttachment.from_base64(
        text(item, "data") or "",
        filename=text(item, "filename") or "",
        content_type=text(item, "content_type") or "",
    )


_WEBHOOK = Webhook(verify, parse)

esp = Esp(NAME, SETTINGS, SUPPORTS, build, read, tracking=_WEBHOOK, inbound=_WEBHOOK)
