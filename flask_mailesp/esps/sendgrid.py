"""SendGrid (Twilio): hosted; JSON; personalizations and templates; ECDSA-signed webhooks.

https://www.twilio.com/docs/sendgrid
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4

from ..address import Address, address_key
from ..esp import (
    Call,
    Esp,
    Feature,
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
from ..events import EventType, InboundEvent, RejectReason, TrackingEvent, unknown_event
from ..exceptions import (
    ConfigurationError,
    InvalidHeaderError,
    InvalidMessageError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from ..message import Attachment, PreparedMessage
from ..outcomes import accepted, failure, recipients_refused, same_for_all, unreadable, whole_call
from ..patterns import pattern
from ..results import RecipientStatus, Status
from ..wire import (
    Base64,
    as_list,
    as_number,
    as_object,
    decode_base64,
    from_epoch,
    json_body,
    merged,
    parse_json,
    strings,
    text,
    verify_basic,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from ..forms import Form, FormFile
    from ..inbound import InboundAttachment, InboundMessage

logger = logging.getLogger("flask_mailesp")

NAME = "SendGrid"
OUR_ID = "mailesp_id"  # the custom argument that holds the id we give each copy

# https://www.twilio.com/docs/sendgrid/api-reference/mail-send/limitations
MOST_RECIPIENTS = 1_000  # to, cc and bcc of all personalizations of one request
MOST_BYTES = 30_000_000  # of one request, attachments in base64 included


# --- settings --------------------------------------------------------------------------

WHERE_WEBHOOK_KEY = "SendGrid > Settings > Mail Settings > Event Webhooks > Signature Verification"
WHERE_INBOUND_KEY = "the public_key of the security policy that is attached to the parse host"


def public_keys(where: str, name: str, value: Any) -> tuple[EllipticCurvePublicKey, ...]:
    """Read a verification key, or a list of them: base64 SPKI as SendGrid shows it, or PEM.

    Raises ConfigurationError saying ``where`` the key is found.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    keys = tuple(key for key in map(_public_key, items) if key is not None)
    if not keys or len(keys) < len(items):
        raise ConfigurationError(
            f"{name} is not a verification key, or a list of them. It is a base64 text that "
            f"begins with MFkw. You will find the value in {where}."
        )
    return keys


def _public_key(value: Any) -> EllipticCurvePublicKey | None:
    """Return a key of P-256, or None for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(value, (str, bytes)):
        return None
    try:
        source = value.decode() if isinstance(value, bytes) else value
        lines = source.replace("\\n", "\n").split("\n")  # as environment files write line breaks
        bare = "".join(line.strip() for line in lines if not line.lstrip().startswith("-----"))
        key = serialization.load_der_public_key(decode_base64(bare))
    except (ValueError, UnsupportedAlgorithm, WebhookRejected):
        return None
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return key if is_p256 else None  # type: ignore[return-value]


def base_url(name: str, value: str) -> str:
    """Accept the API's URL with or without its version."""
    return value if value.endswith("/v3") else f"{value}/v3"


def field_format(name: str, value: Any) -> str:
    """Check what stands around a merge field's name, such as ``-{}-``."""
    if not _is_format(value):
        raise ConfigurationError(f'{name} must be a text with one {{}} in it, such as "-{{}}-".')
    return str.__str__(value)


def _is_format(value: Any) -> bool:
    return isinstance(value, str) and value.count("{}") == 1


SETTINGS = (
    Setting(
        "API_KEY",
        where="SendGrid > Settings > API Keys (a key with the permission Mail Send)",
        required=True,
        secret=True,
        bare=True,
    ),
    Setting("API_URL", default="https://api.sendgrid.com/v3", bare=True, convert=base_url),
    Setting(
        "WEBHOOK_VERIFICATION_KEY",
        where=WHERE_WEBHOOK_KEY,
        bare=True,
        convert=partial(public_keys, WHERE_WEBHOOK_KEY),
    ),
    Setting(
        "INBOUND_VERIFICATION_KEY",
        where=WHERE_INBOUND_KEY,
        bare=True,
        convert=partial(public_keys, WHERE_INBOUND_KEY),
        hooks=True,
    ),
    Setting("GENERATE_MESSAGE_ID", default=True),
    Setting("MERGE_FIELD_FORMAT", convert=field_format),
)

SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.AMP,
        Feature.ALTERNATIVES,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.METADATA,
        Feature.TAGS,
        Feature.MANY_TAGS,
        Feature.TRACK_CLICKS,
        Feature.TRACK_OPENS,
        Feature.SEND_AT,
        Feature.TEMPLATES,
        Feature.TEMPLATE_SUBJECT,
        Feature.TEMPLATE_BODY,
        Feature.MERGE_DATA,
        Feature.MERGE_GLOBAL_DATA,
        Feature.MERGE_INTO_BODY,
        Feature.MERGE_METADATA,
        Feature.MERGE_HEADERS,
    }
)

# https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors#headers-errors
RESERVED_HEADERS = frozenset(
    {
        "x-sg-id",
        "x-sg-eid",
        "received",
        "dkim-signature",
        "content-type",
        "content-transfer-encoding",
        "to",
        "from",
        "subject",
        "reply-to",
        "cc",
        "bcc",
    }
)

# What events say themselves. Metadata of these names would be overwritten there.
# https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
_EVENT_FIELDS = """
    event email timestamp category sg_event_id sg_message_id smtp-id sg_user_id
    response reason type status attempt bounce_classification tls cert_err ip pool send_at
    url url_offset useragent sg_machine_open sg_content_type asm_group_id
    template template_id template_version_id template_hash sg_template_id sg_template_name
    singlesend_id singlesend_name phase_id newsletter marketing_campaign_id
    marketing_campaign_name marketing_campaign_version marketing_campaign_split_id
    mc_stats post_type
"""
EVENT_FIELDS = frozenset(_EVENT_FIELDS.split())


def is_event_field(key: str) -> bool:
    """Tell whether a key of an event is SendGrid's or ours, and not the app's metadata."""
    return key in EVENT_FIELDS or key == OUR_ID or key.startswith("nlvx_")


# --- sending ---------------------------------------------------------------------------

_Copy = tuple[dict[str, Any], Part]


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build one call, or for a batch as many as SendGrid's limits ask for.

    All are encoded before the first is sent, so that what cannot be encoded is known by then.
    """
    extra = dict(message.esp_extra)
    own = _for_each(extra.pop("personalizations", {}))
    own_format = extra.pop("merge_field_format", settings["MERGE_FIELD_FORMAT"])
    fields = MergeFields(extra.get("template_id", message.template_id), own_format)
    fields.refuse_what_is_lost(message)
    common = merged(to_json(message), extra)
    made = [
        _copy(merged(entry, own), recipients, settings)
        for entry, recipients in personalizations(message, fields)
    ]
    return [call for chunk in _chunks(made) for call in _calls(common, chunk, settings)]


def _for_each(value: Any) -> dict[str, Any]:
    """Return what ``esp_extra`` has for each personalization: anything but recipients."""
    if not isinstance(value, Mapping) or not {"to", "cc", "bcc"}.isdisjoint(value):
        raise InvalidMessageError(
            "esp_extra['personalizations'] must be a dict without to, cc and bcc: it goes into "
            "each personalization. Give recipients and their data as Message attributes."
        )
    return dict(value)


def _copy(entry: dict[str, Any], recipients: tuple[Address, ...], settings: Settings) -> _Copy:
    """Give one copy its id: the answer has none, and events bring custom arguments back."""
    if not settings["GENERATE_MESSAGE_ID"]:
        return entry, Part(recipients)
    arguments = {OUR_ID: str(uuid4())} | as_object(entry.get("custom_args"))
    return entry | {"custom_args": arguments}, Part(recipients, id=text(arguments, OUR_ID))


def _chunks(copies: Sequence[_Copy]) -> Iterator[list[_Copy]]:
    """Cut copies where a request would have too many recipients."""
    chunk: list[_Copy] = []
    count = 0
    for item in copies:
        size = len(item[1].recipients)
        if chunk and count + size > MOST_RECIPIENTS:
            yield chunk
            chunk, count = [], 0
        chunk.append(item)
        count += size
    yield chunk


def _calls(common: dict[str, Any], copies: Sequence[_Copy], settings: Settings) -> Iterator[Call]:
    """Yield a call for some copies, or for each half of them where one would be too large."""
    # The personalizations come first, where `_sent` finds them.
    body = json_body({"personalizations": [entry for entry, _ in copies]} | common)
    if len(body) > MOST_BYTES and len(copies) > 1 and len(json_body(common)) < MOST_BYTES:
        half = len(copies) // 2
        yield from _calls(common, copies[:half], settings)
        yield from _calls(common, copies[half:], settings)
        return
    headers = {
        "Authorization": Secret(f"Bearer {settings['API_KEY']}"),
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    request = HttpRequest("POST", f"{settings['API_URL']}/mail/send", headers, body)
    yield Call(request, tuple(part for _, part in copies))


def to_json(message: PreparedMessage) -> dict[str, Any]:
    """Return what all personalizations of a message share.

    https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send
    """
    body = {
        "from": person(message.sender),
        "reply_to_list": people(message.reply_to),
        "subject": message.subject or None,
        "content": content(message) or None,
        "headers": headers(message.headers),
        "attachments": [attachment(item) for item in message.attachments] or None,
        "categories": list(dict.fromkeys(message.tags)) or None,
        "custom_args": custom_args(message.metadata),
        "send_at": None if message.send_at is None else int(message.send_at.timestamp()),
        "template_id": None if message.template_id is None else str(message.template_id),
        "tracking_settings": tracking(message),
    }
    return {key: value for key, value in body.items() if value is not None}


def person(address: Address) -> dict[str, str]:
    """Return one address."""
    if not address.display_name:
        return {"email": address.addr_spec}
    return {"email": address.addr_spec, "name": address.display_name}


def people(addresses: Sequence[Address]) -> list[dict[str, str]] | None:
    """Return addresses, or None for nobody."""
    return [person(address) for address in addresses] or None


def content(message: PreparedMessage) -> list[dict[str, str]]:
    """Return the forms of the body in SendGrid's order; it refuses empty ones."""
    forms = [("text/plain", message.body), ("text/html", message.html)]
    forms += [(bare_type(item.content_type), item.content) for item in message.alternatives]
    return [{"type": kind, "value": value} for kind, value in forms if value]


def bare_type(content_type: str) -> str:
    """Return a media type without its parameters, which SendGrid does not take.

    The charset is no loss: text travels as UTF-8. Nor is a name, which an attachment has
    anyway. Without another, such as a calendar's method, the part would mean something else.
    """
    kind, semicolon, _ = content_type.partition(";")
    if semicolon:
        lost = _parameters(content_type).keys() - {"charset", "name"}
        if lost:
            raise UnsupportedFeatureError(
                f"{NAME} cannot express: a content type with the parameter {min(lost)!r}."
            )
    return kind.strip()


def _parameters(content_type: str) -> dict[str, str]:
    from ..decoding import Defects
    from ..headers import parameters

    return parameters(content_type, Defects())


def headers(items: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """Return headers as an object.

    Raises InvalidHeaderError for those that SendGrid writes itself, UnsupportedFeatureError
    for one that comes twice.
    """
    found: dict[str, str] = {}
    names: set[str] = set()
    for name, value in items:
        if name.lower() in RESERVED_HEADERS:
            raise InvalidHeaderError(f"{NAME} writes the header {name!r} itself: leave it out.")
        if name.lower() in names:
            raise UnsupportedFeatureError(f"{NAME} cannot express: the header {name!r} twice.")
        names.add(name.lower())
        found[name] = value
    return found or None


def attachment(item: Attachment) -> dict[str, Any]:
    """Return one attachment or inline image."""
    body = {
        "content": Base64(in_utf8(item)),
        "type": bare_type(item.content_type),
        "filename": item.filename,
        "disposition": "attachment",
    }
    if item.content_id is None:
        return body
    return body | {"disposition": "inline", "content_id": item.content_id}


def in_utf8(item: Attachment) -> bytes:
    """Return an attachment's data, text of another charset as UTF-8.

    SendGrid loses the charset, or puts another in its place; UTF-8 is what readers guess.
    """
    charset = item.charset
    if charset is None and ";" in item.content_type:
        charset = _parameters(item.content_type).get("charset")
    if charset is None or not item.content_type.lower().startswith("text/"):
        return item.data
    if charset.lower().replace("_", "-") in ("utf-8", "utf8", "us-ascii", "ascii"):
        return item.data
    logger.warning("%s loses the charset of attachments: text was sent as UTF-8.", NAME)
    try:
        return item.data.decode(charset).encode()
    except (LookupError, ValueError):
        return item.data


def custom_args(metadata: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return metadata with every value as the string that SendGrid wants.

    Raises UnsupportedFeatureError for keys that an event has fields of.
    """
    if not metadata:
        return None
    for key in filter(is_event_field, metadata):
        raise UnsupportedFeatureError(
            f"{NAME} cannot express: metadata named {key!r}, which its events overwrite. "
            "Choose another name."
        )
    return {key: str(value) for key, value in metadata.items()}


def tracking(message: PreparedMessage) -> dict[str, Any] | None:
    """Return the tracking that was asked for; what was not is left to the account."""
    switches = {
        "click_tracking": message.track_clicks,
        "open_tracking": message.track_opens,
    }
    return {
        name: {"enable": switch} for name, switch in switches.items() if switch is not None
    } or None


# --- sending: personalizations ---------------------------------------------------------


class MergeFields:
    """How merge data travels: as JSON to a dynamic template, else as text to put in place."""

    def __init__(self, template: Any, format: Any) -> None:
        self.is_dynamic = str(template).startswith("d-")
        self.format = format
        if format is not None and not _is_format(format):
            raise InvalidMessageError(
                "esp_extra['merge_field_format'] must be a text with one {} in it."
            )

    def to_json(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return one personalization's field for its merge data."""
        if not data:
            return {}
        if self.is_dynamic:
            return {"dynamic_template_data": dict(data)}
        return {
            "substitutions": {self.placeholder(key): _word(key, data[key]) for key in data},
        }

    def placeholder(self, key: Any) -> str:
        """Return the very text that SendGrid is to replace."""
        return str(key) if self.format is None else self.format.replace("{}", str(key))

    def refuse_what_is_lost(self, message: PreparedMessage) -> None:
        """Raise UnsupportedFeatureError for words that a dynamic template would hide."""
        if self.is_dynamic and (message.body or message.html or message.alternatives):
            raise UnsupportedFeatureError(
                f"{NAME} cannot express: {Feature.TEMPLATE_BODY.value} (a dynamic one; the body "
                "would be ignored)."
            )


def _word(key: Any, value: Any) -> str | None:
    """Return what a placeholder is replaced with."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    raise SerializationError(
        f"{NAME} puts text or numbers in a message's text, not {type(value).__name__} "
        f"(merge field {key!r}); a dynamic template takes any JSON."
    )


def personalizations(
    message: PreparedMessage, fields: MergeFields
) -> Iterator[tuple[dict[str, Any], tuple[Address, ...]]]:
    """Yield the JSON and the recipients of each copy: one, or for a batch one for each to."""
    common = message.merge_global_data or {}
    if not message.is_batch:
        entry, everyone = envelope(message.to, message.cc, message.bcc)
        yield entry | fields.to_json(common), everyone
        return
    spelling = {name.lower(): name for name, _ in message.headers}
    for address in message.to:
        entry, everyone = envelope((address,), message.cc, message.bcc)
        data = _row(message.merge_data, address)
        own = {
            "headers": headers(
                (spelling.get(name.lower(), name), value)
                for name, value in _row(message.merge_headers, address).items()
            ),
            "custom_args": custom_args(_row(message.merge_metadata, address)),
        }
        entry |= {key: value for key, value in own.items() if value is not None}
        yield entry | fields.to_json({**common, **data} if data else common), everyone


def _row(rows: Mapping[str, Mapping[str, Any]] | None, address: Address) -> Mapping[str, Any]:
    return (rows or {}).get(address.key, {})


def envelope(
    to: Sequence[Address], cc: Sequence[Address], bcc: Sequence[Address]
) -> tuple[dict[str, Any], tuple[Address, ...]]:
    """Return the recipients of one copy, as JSON and together.

    SendGrid refuses a request that names a mailbox twice, so the first place counts.
    """
    seen: dict[str, Address] = {}
    entry: dict[str, Any] = {}
    for field, addresses in (("to", to), ("cc", cc), ("bcc", bcc)):
        new = {key: item for item in addresses if (key := item.key) not in seen}
        seen |= new
        if new:
            entry[field] = [person(item) for item in new.values()]
    return entry, tuple(seen.values())


# --- reading the answer ----------------------------------------------------------------

HINTS = {
    401: "Check MAILESP_SENDGRID_API_KEY: SendGrid > Settings > API Keys. It answers so, too, "
    "when the account's credits are used up: see error.message.",
    403: "Verify the sender (SendGrid > Settings > Sender Authentication), and give the API key "
    "the permission Mail Send.",
    413: "The request is larger than 30 MB.",
}
_RECIPIENT = pattern(r"personalizations\.([0-9]{1,4})\.(to|cc|bcc)\.([0-9]{1,4})(?:\.email)?")


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read SendGrid's answer: 202 with nothing in it, or an object of errors."""
    if response.status >= 300:
        return _refused(call, response)
    said = response.headers.get("x-message-id") or None
    if response.status == 200 and _is_sandboxed(call):  # validated, and not sent
        return [accepted(part, part.id or said, Status.QUEUED) for part in call.parts]
    if response.status != 202 or not _is_from_sendgrid(response, said):
        return whole_call(call, unreadable(NAME, response))
    return [_accepted(part, response, said) for part in call.parts]


def _is_from_sendgrid(response: HttpResponse, said: str | None) -> bool:
    """Tell an acceptance from a page that something between answers with: it is empty."""
    if not response.body.strip():
        return response.complete
    return said is not None and isinstance(response.json(), dict)


def _accepted(part: Part, response: HttpResponse, said: str | None) -> Reading:
    """Return the id that events will bring: ours, or what SendGrid said."""
    if part.id is None and said is None:
        return same_for_all(part, unreadable(NAME, response, "without an X-Message-Id"))
    return accepted(part, part.id or said, Status.QUEUED)


def _is_sandboxed(call: Call) -> bool:
    """Tell whether a request asked to be validated only.

    A quote within a JSON text has a backslash before it, so this is found as a key alone.
    """
    return any(b'"sandbox_mode":{"enable":true' in segment for segment in _segments(call))


def _segments(call: Call) -> list[bytes]:
    """Return the request's JSON without the attachments' data."""
    body = call.request.body
    found = [body] if isinstance(body, bytes) else getattr(body, "segments", [])
    return [segment for segment in found if isinstance(segment, bytes)]


def _refused(call: Call, response: HttpResponse) -> list[Reading]:
    """Read the errors. One that is about a recipient names its place in the request."""
    response = _with_retry_after(response)
    errors = as_list(as_object(response.json()).get("errors"))
    said = "; ".join(strings(map(_described, errors)))
    invalid = _invalid(call, errors) if response.status == 400 else set()
    if not invalid:
        hint = HINTS.get(response.status, "")
        return whole_call(call, failure(NAME, response, message=said, hint=hint))
    return [
        recipients_refused(
            NAME,
            response,
            [
                RecipientStatus(
                    Status.INVALID if (number, address.key) in invalid else Status.FAILED,
                    None,
                    said,
                )
                for address in part.recipients
            ],
            message=said,
        )
        for number, part in enumerate(call.parts)
    ]


def _described(error: Any) -> str | None:
    field, message = text(error, "field"), text(error, "message")
    return f"{field}: {message}" if field and message else message or field


def _invalid(call: Call, errors: Sequence[Any]) -> set[tuple[int, str]]:
    """Return the recipients that errors point at: the number of the copy, and `Address.key`.

    Nobody, if one of the errors is about something else.
    """
    sent = _sent(call)
    found: set[tuple[int, str]] = set()
    for error in errors:
        place = _RECIPIENT.fullmatch(text(error, "field") or "")
        if place is None:
            return set()
        number, index = int(place[1]), int(place[3])
        entry = sent[number] if number < len(sent) else {}
        address = text(dict(enumerate(as_list(entry.get(place[2])))).get(index), "email")
        if address is None:
            return set()
        found.add((number, address_key(address)))
    return found


def _sent(call: Call) -> list[dict[str, Any]]:
    """Return a request's personalizations, which stand at the start of its body."""
    start = next(iter(_segments(call)), b"").decode("utf-8", "replace")
    try:
        found, _ = json.JSONDecoder().raw_decode(start.removeprefix('{"personalizations":'))
    except (ValueError, RecursionError):  # not a request of ours
        return []
    return [as_object(entry) for entry in as_list(found)]


def _with_retry_after(response: HttpResponse) -> HttpResponse:
    """Put SendGrid's own header, a time in Unix seconds, in the words of HTTP."""
    reset = from_epoch(dict(response.headers), "x-ratelimit-reset")
    if response.status != 429 or reset is None or "retry-after" in response.headers:
        return response
    from email.utils import format_datetime

    until = {"retry-after": format_datetime(reset, usegmt=True)}
    return HttpResponse(429, {**response.headers, **until}, response.body, response.complete)


# --- webhooks: authentication ----------------------------------------------------------

SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"
# Nobody says whether a retry is signed anew, so what is as old as the last one must pass.
TRACKING_AGE = timedelta(hours=25)  # retried for 24 hours
INBOUND_AGE = timedelta(hours=73)  # retried for 3 days; what is rejected is lost
CLOCK_SKEW = timedelta(minutes=5)
_SECONDS = pattern(r"[0-9]{10}")  # exactly, or digits could move from the body into it


def verify(
    request: WebhookRequest,
    settings: Settings,
    now: datetime,
    *,
    key: str = "WEBHOOK_VERIFICATION_KEY",
    age: timedelta = TRACKING_AGE,
) -> None:
    """Check the ECDSA signature, and Basic credentials where configured.

    ``key`` is the setting with the public keys, ``age`` how old a post may be.

    https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features

    Raises WebhookRejected, or ConfigurationError where neither is configured.
    """
    secret = settings.get("WEBHOOK_SECRET")
    if secret is not None:
        verify_basic(request.headers.get("Authorization"), secret)
        if settings.get(key) is None:
            return
    verify_signature(request, settings.require(key), now, age)


def verify_signature(
    request: WebhookRequest,
    keys: Sequence[EllipticCurvePublicKey],
    now: datetime,
    age: timedelta,
) -> None:
    """Check that one of the keys signed timestamp and raw body. Raises WebhookRejected."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    encoded = request.headers.get(SIGNATURE)
    if not encoded:
        raise WebhookRejected("The webhook is not signed.")
    timestamp = _timely(request.headers.get(TIMESTAMP) or "", now, age)
    signature = _signature(encoded)
    signed = sha256(timestamp)
    signed.update(request.body)
    for key in keys:
        try:
            key.verify(signature, signed.digest(), ECDSA(Prehashed(SHA256())))
        except InvalidSignature:
            continue
        return
    raise WebhookRejected("The webhook's signature is wrong.")


def _timely(timestamp: str, now: datetime, age: timedelta) -> bytes:
    """Return a timestamp as it was signed, unless it is malformed or out of time."""
    if not _SECONDS.fullmatch(timestamp):
        raise WebhookRejected("The webhook's timestamp is missing or malformed.")
    passed = timedelta(seconds=now.timestamp() - int(timestamp))
    if not -CLOCK_SKEW <= passed <= age:
        raise WebhookRejected("The webhook is too old, or from the future.")
    return timestamp.encode()


def _signature(encoded: str) -> bytes:
    """Decode base64 that is written the one right way."""
    from base64 import b64encode

    decoded = decode_base64(encoded)
    if b64encode(decoded) != encoded.encode():
        raise WebhookRejected("A credential or signature is not base64.")
    return decoded


# --- webhooks: tracking ----------------------------------------------------------------

FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def parse(request: WebhookRequest, settings: Settings) -> Sequence[TrackingEvent | InboundEvent]:
    """Read a post of events or an inbound mail; whatever else becomes one unknown event."""
    request = as_signed(request)
    if request.content_type in FORMS:
        return (to_inbound(request),)
    items = parse_json(request.body)
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list) or not items:
        return (unknown_event(NAME, request.body, request.body),)
    if set(map(type, items)) == {dict}:  # as it always should be
        return [SendGridEvent(item) for item in items]
    digest = sha256(request.body).hexdigest()
    return [
        SendGridEvent(item)
        if isinstance(item, dict)
        else TrackingEvent(EventType.UNKNOWN, item, identity=(NAME, digest, str(number)))
        for number, item in enumerate(items)
    ]


_JSON = pattern(rb"[ \t\r\n]*[\[{]")
_DELIMITER = pattern(rb"--([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])[ \t]*\r?\n")


def as_signed(request: WebhookRequest) -> WebhookRequest:
    """Return a request whose content type is what its body says.

    Nobody signs the header. With another one, a post of events could be read as a mail, or
    what is within a mail as the form around it.
    """
    delimiter = _DELIMITER.match(request.body)
    if delimiter is not None:
        kind = f'multipart/form-data; boundary="{delimiter[1].decode()}"'
    elif _JSON.match(request.body):
        kind = "application/json"
    else:
        return request
    return WebhookRequest({"Content-Type": kind}, request.body)


# https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
EVENT_TYPES: dict[str | None, EventType] = {
    "processed": EventType.QUEUED,
    "deferred": EventType.DEFERRED,
    "delivered": EventType.DELIVERED,
    "bounce": EventType.BOUNCED,
    "dropped": EventType.REJECTED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "spamreport": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "group_unsubscribe": EventType.UNSUBSCRIBED,
    "group_resubscribe": EventType.SUBSCRIBED,
}
BOUNCE_TYPES: dict[str | None, RejectReason] = {
    "bounce": RejectReason.BOUNCED,
    "blocked": RejectReason.BLOCKED,
    "expired": RejectReason.TIMED_OUT,
}
DROP_REASONS: dict[str | None, RejectReason] = {
    "Bounced Address": RejectReason.BOUNCED,
    "Unsubscribed Address": RejectReason.UNSUBSCRIBED,
    "Spam Reporting Address": RejectReason.SPAM,
    "Spam Content": RejectReason.SPAM,
    "Invalid": RejectReason.INVALID,
}
# What tells events without an id from each other.
_DISTINCT = (
    "event",
    "email",
    "timestamp",
    "sg_message_id",
    OUR_ID,
    "url",
    "attempt",
    "asm_group_id",
)


class SendGridEvent(TrackingEvent):
    """An event whose fields are read when they are first asked for.

    Hundreds come in one post, and most receivers look at two or three fields of a few of them.
    """

    def __init__(self, esp_event: dict[str, Any], **known: Any) -> None:
        fields = self.__dict__  # the class is frozen, and this is how a field is kept
        fields["esp_event"] = esp_event
        if known:
            fields.update(known)

    @cached_property
    def event_type(self) -> EventType:
        """What happened."""
        return EVENT_TYPES.get(text(self.esp_event, "event"), EventType.UNKNOWN)

    @cached_property
    def timestamp(self) -> datetime | None:
        """When."""
        return from_epoch(self.esp_event, "timestamp")

    @cached_property
    def event_id(self) -> str | None:
        """SendGrid's id; unsubscribes sometimes have none."""
        return text(self.esp_event, "sg_event_id")

    @cached_property
    def message_id(self) -> str | None:
        """The id in the result of sending: ours, or the start of SendGrid's."""
        return (
            text(self.esp_event, OUR_ID)
            or (text(self.esp_event, "sg_message_id") or "").partition(".")[0]
            or text(self.esp_event, "smtp-id")
        )

    @cached_property
    def recipient(self) -> str | None:
        """Whose copy it is about."""
        return text(self.esp_event, "email")

    @cached_property
    def reject_reason(self) -> RejectReason | None:
        """Why it bounced, was dropped or complained about."""
        kind = text(self.esp_event, "type")
        if self.event_type is EventType.BOUNCED:
            return BOUNCE_TYPES.get(kind, RejectReason.OTHER)
        if self.event_type is EventType.REJECTED:
            reason = DROP_REASONS.get(text(self.esp_event, "reason"))
            return reason or DROP_REASONS.get(kind, RejectReason.OTHER)
        return RejectReason.SPAM if self.event_type is EventType.COMPLAINED else None

    @cached_property
    def description(self) -> str | None:
        """SendGrid's words: why it dropped a mail, what kind of bounce it was."""
        if self.event_type is EventType.REJECTED:
            return text(self.esp_event, "reason") or text(self.esp_event, "type")
        return text(self.esp_event, "bounce_classification")

    @cached_property
    def mta_response(self) -> str | None:
        """What the receiving server said."""
        said = text(self.esp_event, "response")
        if said is None and self.event_type in (EventType.BOUNCED, EventType.DEFERRED):
            return text(self.esp_event, "reason")
        return said

    @cached_property
    def tags(self) -> list[str]:
        """The categories; a single one comes without a list."""
        category = self.esp_event.get("category")
        return strings(category if isinstance(category, list) else [category])

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The custom arguments, which stand among the event's own fields."""
        return {key: item for key, item in self.esp_event.items() if not is_event_field(key)}

    @cached_property
    def click_url(self) -> str | None:
        """What was clicked."""
        return text(self.esp_event, "url")

    @cached_property
    def user_agent(self) -> str | None:
        """What it was opened or clicked with."""
        return text(self.esp_event, "useragent")

    @cached_property
    def identity(self) -> tuple[str | None, ...]:
        """SendGrid's id, else what tells one event from another."""
        if self.event_id:
            return (NAME, self.event_id)
        found = [text(self.esp_event, key) for key in _DISTINCT]
        moment = text(self.esp_event, "timestamp")
        return (NAME, *found, None if moment else _dumped(self.esp_event))


def _dumped(raw: dict[str, Any]) -> str:
    """Return an event as text that is equal for every repetition."""
    try:
        return json.dumps(raw, sort_keys=True)
    except (ValueError, RecursionError):
        return ""


# --- inbound ---------------------------------------------------------------------------

RAW = ("email", "rawEmail")  # the second in one of Twilio's examples only
INBOUND_FIELDS = frozenset({*RAW, "headers", "envelope", "from", "to", "subject", "text", "html"})


def to_inbound(request: WebhookRequest) -> InboundEvent | TrackingEvent:
    """Read a mail, raw or parsed by SendGrid.

    https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook
    """
    from ..forms import read_form

    form = read_form(request)
    names = {name for name, _ in form.fields} | {file.name for file in form.files}
    if INBOUND_FIELDS.isdisjoint(names):
        return unknown_event(NAME, request.body, request.body)
    return InboundMail(form).event()


class InboundMail:
    """One form with a mail, its text decoded as its ``charsets`` say."""

    def __init__(self, form: Form) -> None:
        from ..decoding import Defects

        self.form = form
        self.defects = Defects(form.defects)
        self.charsets = as_object(parse_json(form.data("charsets") or b""))
        envelope = as_object(parse_json(form.data("envelope") or b""))
        self.recipient = next(iter(strings(as_list(envelope.get("to")))), None)
        # An empty sender is the null sender of bounces.
        self.sender = (text(envelope, "from") or "") if "from" in envelope else None

    def event(self) -> InboundEvent:
        """Return the event; retries are told by mail and envelope."""
        source = self.source()
        digest = self.form.digest(whole_files=False) if source is None else sha256(source).digest()
        return InboundEvent(
            message=self.parsed() if source is None else self.raw(source),
            esp_event=self.fields(),
            identity=(NAME, digest.hex(), self.sender, self.recipient),
        )

    def source(self) -> bytes | None:
        """Return the mail's source, where the host is configured to send it."""
        for name in RAW:
            found = self.form.data(name)
            file = self.form.file(name)
            if found is not None or file is not None:
                return bytes(file.data) if found is None and file is not None else found
        return None

    def fields(self) -> dict[str, Any]:
        """Return the form's fields as text, but for the mail's source."""
        return {
            name: data if name in RAW else self.decoded(name, data)
            for name, data in self.form.fields
        }

    def text(self, name: str) -> str | None:
        """Return a field's text, or None if there is no such field."""
        data = self.form.data(name)
        return None if data is None else self.decoded(name, data)

    def decoded(self, name: str, data: bytes) -> str:
        """Decode a field by its own charset, which is whatever the sender's mail said."""
        from ..decoding import decode_text

        return decode_text(data, text(self.charsets, name) or "utf-8", self.defects)

    def known(self) -> dict[str, Any]:
        """Return what SendGrid knows besides the mail itself."""
        return {
            "envelope_sender": self.sender,
            "envelope_recipient": self.recipient,
            "spam_score": as_number(self.form.text("spam_score")),
        }

    def raw(self, source: bytes) -> InboundMessage:
        """Return the mail, read from its source."""
        from ..inbound import InboundMessage

        return InboundMessage.from_raw(source, **self.known(), defects=self.defects)

    def parsed(self) -> InboundMessage:
        """Return the mail, made of the fields that SendGrid has parsed."""
        from ..inbound import InboundMessage
        from ..mime import read_mail

        headers = read_mail(self.form.data("headers") or b"").headers
        html = self.text("html") or ""
        return InboundMessage.from_fields(
            headers=headers,
            from_=self.unless_plain("from", headers),
            to=self.unless_plain("to", headers),
            cc=self.unless_plain("cc", headers),
            subject=self.unless_plain("subject", headers),
            text=self.text("text") or "",
            html=html,
            attachments=self.attachments(html),
            **self.known(),
            defects=self.defects,
        )

    def unless_plain(self, name: str, headers: Sequence[tuple[str, str]]) -> str | None:
        """Return a field, or None where the header is ASCII as it ought to be.

        The header then says more: the field has its encoded words undone, after which nobody
        can tell a comma within a name from one between addresses.
        """
        value = next((value for key, value in headers if key.lower() == name), None)
        return None if value is not None and value.isascii() else self.text(name)

    def attachments(self, html: str) -> list[InboundAttachment]:
        """Return the files, in order."""
        infos = as_object(parse_json(self.form.data("attachment-info") or b""))
        ids = as_object(parse_json(self.form.data("content-ids") or b""))
        by_name = {name: cid for cid, name in ids.items() if isinstance(name, str)}
        shown = _shown(html)
        return [
            _attachment(file, as_object(infos.get(file.name)), by_name.get(file.name), shown)
            for file in self.form.files
        ]


_CID = pattern(r"cid:([^\s\"'<>]{1,1000})", re.IGNORECASE)
_MOST_SHOWN = 10_000


def _shown(html: str) -> frozenset[str]:
    """Return the content ids that the HTML refers to (RFC 2392), found in one go."""
    from html import unescape

    found: set[str] = set()
    for match in islice(_CID.finditer(html), _MOST_SHOWN):
        name = unquote(unescape(match[1]))
        found |= {name, name.partition(")")[0].strip("\"'")}  # the second in a style's url()
    return frozenset(found)


def _attachment(
    file: FormFile, info: Mapping[str, Any], content_id: str | None, shown: Container[str]
) -> InboundAttachment:
    """Return one file; inline if the HTML refers to it, since many mailers number all of them."""
    from ..inbound import InboundAttachment

    content_id = text(info, "content-id") or content_id
    bare = (content_id or "").strip("<> \t")
    return InboundAttachment.from_bytes(
        file.data,
        filename=text(info, "filename") or text(info, "name") or file.filename,
        content_type=text(info, "type") or file.content_type,
        content_id=bare or None,
        disposition="inline"
        if bare and (bare in shown or unquote(bare) in shown)
        else "attachment",
        charset=text(info, "charset") or _parameters(file.content_type).get("charset"),
    )


esp = Esp(
    NAME,
    SETTINGS,
    SUPPORTS,
    build,
    read,
    tracking=Webhook(verify, parse),
    inbound=Webhook(partial(verify, key="INBOUND_VERIFICATION_KEY", age=INBOUND_AGE), parse),
)
