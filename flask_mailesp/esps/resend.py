"""Resend: hosted; JSON; batches and templates; signed webhooks; mail that must be fetched.

https://resend.com/docs/api-reference
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import svix
from ..address import Address
from ..esp import (
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
from ..events import EventType, InboundEvent, RejectReason, TrackingEvent, unknown_event
from ..exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    FetchError,
    SerializationError,
    UnsupportedFeatureError,
)
from ..message import Attachment, PreparedMessage
from ..outcomes import accepted, failure, same_for_all, unreadable, whole_call
from ..patterns import pattern
from ..records import record
from ..results import RecipientStatus, Status
from ..wire import (
    Base64,
    as_list,
    as_object,
    flag,
    from_iso,
    integer,
    json_body,
    parse_json,
    strings,
    text,
    verify_basic,
    with_charset,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..esp import Event
    from ..inbound import InboundAttachment, InboundMessage

NAME = "Resend"

BATCH = 100  # messages; https://resend.com/docs/api-reference/emails/send-batch-emails
MAX_MAIL = 50 * 1024 * 1024  # bytes of an inbound mail, with its attachments
MAX_FILES = 200  # attachments of an inbound mail that are fetched one by one

SETTINGS = (
    Setting(
        "API_KEY",
        where="Resend > API Keys (https://resend.com/api-keys)",
        required=True,
        secret=True,
        bare=True,
    ),
    Setting(
        "SIGNING_SECRET",
        where="Resend > Webhooks > the endpoint for tracking > Signing Secret",
        secret=True,
        bare=True,
        convert=svix.secrets,
        hooks=True,
    ),
    Setting(
        "INBOUND_SECRET",
        where="Resend > Webhooks > the endpoint for inbound mail > Signing Secret",
        secret=True,
        bare=True,
        convert=svix.secrets,
        hooks=True,
    ),
    Setting("API_URL", default="https://api.resend.com", bare=True),
)

SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.METADATA,
        Feature.TAGS,
        Feature.MANY_TAGS,
        Feature.SEND_AT,
        Feature.TEMPLATES,
        Feature.TEMPLATE_SUBJECT,
        Feature.MERGE_DATA,
        Feature.MERGE_GLOBAL_DATA,
        Feature.MERGE_METADATA,
        Feature.MERGE_HEADERS,
        Feature.IDEMPOTENCY_KEY,
    }
)


# --- sending: calls --------------------------------------------------------------------

_Item = tuple[dict[str, Any], Part]


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build the calls for one message: one, or those for the copies of a batch.

    Raises InvalidMessageError before the first call, if at all.
    """
    if message.is_batch:
        return _copies_calls(message, settings)
    item = (to_json(message) | dict(message.esp_extra), Part(message.recipients))
    return (_single(settings, item, message.idempotency_key),)


def build_many(messages: Sequence[PreparedMessage], settings: Settings) -> Iterable[Call]:
    """Build batches of independent messages; those that cannot be in one get their own calls."""
    waiting: list[_Item] = []
    keys: list[str | None] = []
    for index, message in enumerate(messages):
        if message.is_batch:
            yield from _copies_calls(message, settings, index)
            continue
        item = (to_json(message) | dict(message.esp_extra), Part(message.recipients, index))
        if goes_alone(item[0]):
            yield _single(settings, item, message.idempotency_key)
            continue
        waiting.append(item)
        keys.append(message.idempotency_key)
        if len(waiting) == BATCH:
            yield _together(settings, waiting, keys)
            waiting, keys = [], []
    if waiting:
        yield _together(settings, waiting, keys)


def _together(settings: Settings, items: Sequence[_Item], keys: Sequence[str | None]) -> Call:
    """Build one call for messages that have nothing to do with each other.

    A bad one must not keep the others from being sent.
    """
    if len(items) == 1:
        return _single(settings, items[0], keys[0])
    key = None if None in keys else derived_key(*filter(None, keys))
    return _batch(settings, items, key, "permissive")


def _copies_calls(message: PreparedMessage, settings: Settings, index: int = 0) -> Iterator[Call]:
    """Build the calls for the copies of one message; a bad copy keeps back its whole call."""
    items = list(copies(message, index))
    json_body([message.merge_data, dict(message.esp_extra)])  # refused before the first call
    most = 1 if goes_alone(items[0][0]) else BATCH
    for number, start in enumerate(range(0, len(items), most)):
        key = numbered_key(message.idempotency_key, number)
        if most == 1:
            yield _single(settings, items[start], key)
        else:
            yield _batch(settings, items[start : start + most], key, "strict")


def goes_alone(payload: Mapping[str, Any]) -> bool:
    """Tell whether the batch endpoint would not take a message."""
    return "attachments" in payload or "scheduled_at" in payload


def numbered_key(key: str | None, number: int) -> str | None:
    """Return the idempotency key of a message's call: its own for the first, then derived."""
    return key if key is None or number == 0 else derived_key(key, str(number))


def derived_key(*words: str) -> str:
    """Return a key that is always the same for the same words. Resend takes 256 characters."""
    return sha256("\n".join(words).encode()).hexdigest()


def _single(settings: Settings, item: _Item, key: str | None) -> Call:
    payload, part = item
    return Call(_request(settings, "/emails", payload, key), (part,))


def _batch(settings: Settings, items: Sequence[_Item], key: str | None, validation: str) -> Call:
    payload = [item for item, _ in items]
    request = _request(settings, "/emails/batch", payload, key, {"x-batch-validation": validation})
    return Call(request, tuple(part for _, part in items))


def _request(
    settings: Settings,
    path: str,
    payload: Any,
    key: str | None,
    headers: Mapping[str, str] | None = None,
) -> HttpRequest:
    headers = {
        "Authorization": bearer(settings["API_KEY"]),
        "Accept": "application/json",
        "Content-Type": "application/json",
        **(headers or {}),
    }
    if key is not None:
        headers["Idempotency-Key"] = key
    return HttpRequest("POST", settings["API_URL"] + path, headers, json_body(payload))


def bearer(key: str) -> Secret:
    """Return the Authorization header's value."""
    return Secret(f"Bearer {key}")


# --- sending: content ------------------------------------------------------------------


def copies(message: PreparedMessage, index: int = 0) -> Iterator[_Item]:
    """Yield the JSON and recipients of each ``to``, with what is meant for that one only."""
    common, extra = to_json(message), dict(message.esp_extra)
    others = message.cc + message.bcc
    for address in message.to:
        own = {"to": [str(address)]} | _own(message, common, address.key)
        yield common | own | extra, Part((address, *others), index)


def _own(message: PreparedMessage, common: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the fields in which one recipient's copy differs from the others."""
    data, metadata, rows = (
        (mapping or {}).get(key, {})
        for mapping in (message.merge_data, message.merge_metadata, message.merge_headers)
    )
    own: dict[str, Any] = {}
    if data and "template" in common:
        variables = {**(message.merge_global_data or {}), **data}
        own["template"] = {**common["template"], "variables": variables}
    if metadata or rows:
        pairs = merged_headers(message.headers, rows)
        own["headers"] = headers(pairs, {**(message.metadata or {}), **metadata}, message.tags)
    reply_to = next((rows[name] for name in rows if name.lower() == "reply-to"), None)
    if reply_to is not None:
        from ..prepare import split_addresses

        own["reply_to"] = split_addresses(reply_to)
    return own


def merged_headers(
    common: Sequence[tuple[str, str]], own: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return headers, a recipient's own in place of common ones of the same name."""
    names = {name.lower() for name in own}
    rest = [pair for pair in own.items() if pair[0].lower() != "reply-to"]
    return [*(pair for pair in common if pair[0].lower() not in names), *rest]


def to_json(message: PreparedMessage) -> dict[str, Any]:
    """Return Resend's JSON for one message, without ``esp_extra``.

    https://resend.com/docs/api-reference/emails/send-email
    """
    body = {
        "from": str(message.sender),
        "to": addresses(message.to),
        "cc": addresses(message.cc),
        "bcc": addresses(message.bcc),
        "reply_to": addresses(message.reply_to),
        "headers": headers(message.headers, message.metadata, message.tags),
        "attachments": [attachment(item) for item in message.attachments] or None,
        "scheduled_at": moment(message.send_at),
    }
    body |= content(message) if message.template_id is None else template(message)
    return {key: value for key, value in body.items() if value is not None}


def content(message: PreparedMessage) -> dict[str, Any]:
    """Return the words of a message. An empty text is one: it keeps Resend from making one."""
    is_templated = "template" in message.esp_extra
    subject = message.subject or (None if is_templated else "")
    return {"subject": subject, "text": message.body, "html": message.html}


def template(message: PreparedMessage) -> dict[str, Any]:
    """Return the fields of a message whose words are stored at Resend."""
    chosen: dict[str, Any] = {"id": str(message.template_id)}
    if message.merge_global_data:
        chosen["variables"] = dict(message.merge_global_data)
    return {"template": chosen, "subject": message.subject or None}


def addresses(items: Sequence[Address]) -> list[str] | None:
    """Return a list of addresses, or None for nobody."""
    return [str(item) for item in items] or None


def headers(
    pairs: Sequence[tuple[str, str]], metadata: Mapping[str, Any] | None, tags: Sequence[str]
) -> dict[str, str] | None:
    """Return the headers, with metadata and tags as JSON: recipients can see these.

    Raises UnsupportedFeatureError for a name that repeats, in whatever case.
    """
    pairs = [*pairs]
    if metadata:
        pairs.append(("X-Metadata", header_json(dict(metadata))))
    if tags:
        pairs.append(("X-Tags", header_json(tags)))
    names = [name.lower() for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UnsupportedFeatureError(f"{NAME} cannot express: several headers named {repeated!r}.")
    return dict(pairs) or None


def header_json(value: Any) -> str:
    """Return ASCII JSON, with spaces where a header may be folded."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        raise SerializationError("metadata holds a number that JSON cannot carry.") from None


def moment(value: datetime | None) -> str | None:
    """Return a time in ISO 8601; Resend refuses more than three digits of a second."""
    if value is None:
        return None
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def attachment(item: Attachment) -> dict[str, Any]:
    """Return one attachment; the HTML refers to an inline one by ``cid:<content_id>``."""
    body = {
        "filename": filename(item),
        "content": Base64(item.data),
        "content_type": content_type(item),
        "content_id": item.content_id,
    }
    return {key: value for key, value in body.items() if value is not None}


# What of these a filename says must be what the content type says: otherwise a message stays
# "queued" for ever, and neither an error nor an event tells of it.
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "application/gzip": ("gz",),
    "application/json": ("json", "map"),
    "application/msword": ("doc", "dot"),
    "application/pdf": ("pdf",),
    "application/rtf": ("rtf",),
    "application/vnd.ms-excel": ("xls", "xla", "xlc", "xlm", "xlt", "xlw"),
    "application/vnd.ms-powerpoint": ("ppt", "pot", "pps"),
    "application/vnd.oasis.opendocument.spreadsheet": ("ods",),
    "application/vnd.oasis.opendocument.text": ("odt",),
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ("pptx",),
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ("xlsx",),
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ("docx",),
    "application/xml": ("xml", "rng", "xsd", "xsl"),
    "application/zip": ("zip",),
    "audio/mpeg": ("mp3", "m2a", "m3a", "mp2", "mp2a", "mpga"),
    "image/bmp": ("bmp", "dib"),
    "image/gif": ("gif",),
    "image/jpeg": ("jpg", "jpe", "jpeg"),
    "image/png": ("png",),
    "image/svg+xml": ("svg", "svgz"),
    "image/tiff": ("tif", "tiff"),
    "image/webp": ("webp",),
    "message/rfc822": ("eml", "mht", "mhtml", "mime"),
    "text/calendar": ("ics", "ifb"),
    "text/css": ("css",),
    "text/csv": ("csv",),
    "text/html": ("html", "htm", "shtml"),
    "text/plain": ("txt", "conf", "def", "in", "ini", "list", "log", "text"),
    "text/rtf": ("rtf",),
    "text/vcard": ("vcf", "vcard"),
    "text/xml": ("xml",),
    "video/mp4": ("mp4", "mp4v", "mpg4"),
}
_KNOWN = frozenset(extension for known in EXTENSIONS.values() for extension in known)
_OCTETS = "application/octet-stream"


def filename(item: Attachment) -> str:
    """Return the filename, which Resend must have."""
    if item.filename.strip():
        return item.filename
    known = EXTENSIONS.get(media_type(item))
    return f"attachment.{known[0]}" if known else "attachment"


def media_type(item: Attachment) -> str:
    """Return the content type without parameters, in lower case."""
    return item.content_type.partition(";")[0].strip().lower()


def content_type(item: Attachment) -> str | None:
    """Return the content type with its charset; nothing where the filename says more.

    Raises UnsupportedFeatureError where the filename is known to say something else.
    """
    kind, dot, extension = media_type(item), *filename(item).lower().rpartition(".")[1:]
    if dot and extension in _KNOWN:
        if kind == _OCTETS:
            return None
        if extension not in EXTENSIONS.get(kind, (extension,)):
            raise UnsupportedFeatureError(
                f"{NAME} cannot express: an attachment of type {kind} whose filename ends in "
                f'".{extension}". It would keep the message back for ever, and tell nobody.'
            )
    return with_charset(item.content_type, item.charset)


# --- reading the answer ----------------------------------------------------------------

# https://resend.com/docs/api-reference/errors
CONCURRENT = "concurrent_idempotent_requests"
KEYS_PAGE = "Check MAILESP_RESEND_API_KEY: https://resend.com/api-keys."
QUOTA = "The account's quota is used up: https://resend.com/settings/usage."
HINTS = {
    "missing_api_key": KEYS_PAGE,
    "invalid_api_key": KEYS_PAGE,
    "suspended_api_key": KEYS_PAGE,
    "invalid_permission": KEYS_PAGE,
    "restricted_api_key": "This key may not do that: https://resend.com/api-keys.",
    "invalid_idempotent_request": (
        "The idempotency key was used for another message within the last 24 hours."
    ),
    "daily_quota_exceeded": QUOTA,
    "monthly_quota_exceeded": QUOTA,
}
DOMAIN = (
    "Verify the sender's domain: https://resend.com/domains. From onboarding@resend.dev only the "
    "account's own address can be reached."
)
ERROR_KINDS: dict[str | None, type[APIError]] = {
    "missing_api_key": AuthenticationError,
    "restricted_api_key": AuthenticationError,
    "invalid_api_key": AuthenticationError,
    "suspended_api_key": AuthenticationError,
    "invalid_permission": AuthenticationError,
    "validation_error": APIError,  # with 403, too: it is about the message, not the key
    "daily_quota_exceeded": APIError,  # trying again soon does not help
    "monthly_quota_exceeded": APIError,
}


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read Resend's answer: one id, or one for each accepted message of a batch, in order."""
    if not 200 <= response.status < 300:
        return _refused(call, response)
    answer = response.json()
    if call.request.url.endswith("/emails/batch"):
        return _batch_readings(call, response, as_object(answer))
    number = message_id(answer)
    if number is None:
        return whole_call(call, unreadable(NAME, response))
    return [accepted(part, number, Status.QUEUED) for part in call.parts]


def message_id(item: Any) -> str | None:
    """Return an item's id; only text is one."""
    number = as_object(item).get("id")
    return number if isinstance(number, str) and number else None


def _batch_readings(call: Call, response: HttpResponse, answer: Mapping[str, Any]) -> list[Reading]:
    """Give the ids, in order, to the messages that ``errors`` does not name."""
    errors = _errors(answer)
    found = [message_id(item) for item in as_list(answer.get("data"))]
    indexes = range(len(call.parts))
    if len(found) + len(errors) != len(call.parts) or not errors.keys() <= {*indexes}:
        return _muddled(call, response, found)
    ids = iter(found)
    return [
        _failed(part, response, errors[index])
        if index in errors
        else _taken(part, response, next(ids, None))
        for index, part in enumerate(call.parts)
    ]


def _errors(answer: Mapping[str, Any]) -> dict[int, str]:
    """Return what was wrong with the messages that were not accepted, by index."""
    found = (
        (integer(as_object(item).get("index")), item) for item in as_list(answer.get("errors"))
    )
    return {-1 if index is None else index: text(item, "message") or "" for index, item in found}


def _taken(part: Part, response: HttpResponse, number: str | None) -> Reading:
    if number is None:
        return same_for_all(part, unreadable(NAME, response))
    return accepted(part, number, Status.QUEUED)


def _failed(part: Part, response: HttpResponse, said: str) -> Reading:
    hint = "It found an error in this message of the batch: see error.message."
    return same_for_all(part, failure(NAME, response, message=said, hint=hint, kind=APIError))


def _muddled(call: Call, response: HttpResponse, found: Iterable[str | None]) -> list[Reading]:
    """Return what is known if nobody can tell whose the ids are: each may be anybody's."""
    ids = frozenset(filter(None, found))
    error = unreadable(NAME, response, "with another number of results than of messages")
    entry = RecipientStatus(Status.UNKNOWN, ids or None, str(error))
    return [Reading((entry,) * len(part.recipients), error) for part in call.parts]


def _refused(call: Call, response: HttpResponse) -> list[Reading]:
    """Read an error object."""
    data = as_object(response.json())
    name, said = text(data, "name"), text(data, "message") or ""
    if response.status == 409 and name == CONCURRENT:
        doubt = "since another request with this idempotency key has not ended"
        return whole_call(call, unreadable(NAME, response, doubt))
    is_of_domain = response.status == 403 and name == "validation_error"
    error = failure(
        NAME,
        response,
        code=name,
        message=said,
        hint=DOMAIN if is_of_domain else HINTS.get(name or "", ""),
        kind=ERROR_KINDS.get(name) if 400 <= response.status < 500 else None,
    )
    return whole_call(call, error)


# --- webhooks --------------------------------------------------------------------------


def verify_with(setting: str) -> Callable[[WebhookRequest, Settings, datetime], None]:
    """Return the ``verify`` of the endpoint whose signing secret is this setting."""

    def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
        """Check the signature, and Basic credentials where configured.

        https://resend.com/docs/webhooks/verify-webhooks-requests

        Raises WebhookRejected, or ConfigurationError where neither is configured.
        """
        secret = settings.get("WEBHOOK_SECRET")
        if secret is not None:
            verify_basic(request.headers.get("Authorization"), secret)
            if settings.get(setting) is None:
                return
        svix.verify(request, settings.require(setting), now)

    return verify


RECEIVED = "email.received"
_UUID = pattern(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def parse(request: WebhookRequest, settings: Settings) -> Sequence[Event | Fetch]:
    """Read a tracking event, or begin to fetch the inbound mail that a webhook speaks of.

    Whatever else becomes one unknown event.
    """
    raw = parse_json(request.body)
    event_id = request.headers.get("svix-id") or None
    if not isinstance(raw, dict):
        return (unknown_event(NAME, request.body, request.body, event_id),)
    number = text(raw.get("data"), "email_id")
    if raw.get("type") == RECEIVED and number is not None and _UUID.fullmatch(number):
        return (_fetch_mail(_Arrival(raw, number, event_id, settings)),)
    identity = (NAME, event_id or sha256(request.body).hexdigest())
    return (to_event(raw, event_id, identity),)


# https://resend.com/docs/webhooks/event-types
EVENT_TYPES: dict[str | None, EventType] = {
    "email.scheduled": EventType.QUEUED,
    "email.sent": EventType.SENT,
    "email.delivered": EventType.DELIVERED,
    "email.delivery_delayed": EventType.DEFERRED,
    "email.bounced": EventType.BOUNCED,
    "email.complained": EventType.COMPLAINED,
    "email.opened": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.failed": EventType.FAILED,
    "email.suppressed": EventType.REJECTED,
}
# The meaning of a bounce stands in its message, which is written for people.
BOUNCE_WORDS = {
    "suppressed sending": RejectReason.BLOCKED,
    "bounce message": RejectReason.BOUNCED,
}
BOUNCE_SUBTYPES: dict[str | None, RejectReason] = {
    "NoEmail": RejectReason.BOUNCED,
    "General": RejectReason.BOUNCED,
    "MailboxFull": RejectReason.BOUNCED,
    "Suppressed": RejectReason.BLOCKED,
}
SUPPRESSIONS: dict[str | None, RejectReason] = {
    "previous_bounce": RejectReason.BOUNCED,
    "previous_complaint": RejectReason.SPAM,
}


def to_event(
    raw: dict[str, Any], event_id: str | None, identity: tuple[str | None, ...]
) -> TrackingEvent:
    """Normalise one tracking payload."""
    data = as_object(raw.get("data"))
    event_type = EVENT_TYPES.get(text(raw, "type"), EventType.UNKNOWN)
    click = as_object(data.get("click"))
    own = custom_headers(data)
    return TrackingEvent(
        event_type=event_type,
        esp_event=raw,
        timestamp=from_iso(raw, "created_at"),
        event_id=event_id,
        message_id=text(data, "email_id"),
        recipient=bare_address(first(data.get("to"))),
        reject_reason=reject_reason(event_type, data),
        description=description(data),
        mta_response=diagnosis(as_object(data.get("bounce"))),
        tags=strings(as_list(parse_json(own.get("x-tags", "")))),
        metadata=as_object(parse_json(own.get("x-metadata", ""))),
        click_url=text(click, "link"),
        user_agent=text(click, "userAgent"),
        identity=identity,
    )


def custom_headers(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the message's own headers by their names in lower case."""
    found = ((text(item, "name"), text(item, "value")) for item in as_list(data.get("headers")))
    return {name.lower(): value for name, value in found if name and value}


def reject_reason(event_type: EventType, data: Mapping[str, Any]) -> RejectReason | None:
    """Return why a recipient is rejected, as far as an event says it."""
    if event_type is EventType.BOUNCED:
        return bounce_reason(as_object(data.get("bounce")))
    if event_type is EventType.COMPLAINED:
        return RejectReason.SPAM
    if event_type is EventType.REJECTED:
        suppressed = data.get("suppressed")
        return SUPPRESSIONS.get(text(suppressed, "reason"), RejectReason.BLOCKED)
    return None


def bounce_reason(bounce: Mapping[str, Any]) -> RejectReason:
    """Return the reason for a bounce by the words of its message, else by its subtype."""
    said = (text(bounce, "message") or "").lower()
    for words, reason in BOUNCE_WORDS.items():
        if words in said:
            return reason
    return BOUNCE_SUBTYPES.get(text(bounce, "subType"), RejectReason.OTHER)


def description(data: Mapping[str, Any]) -> str | None:
    """Return Resend's words on a bounce, a suppression or a failure."""
    return (
        text(data.get("bounce"), "message")
        or text(data.get("suppressed"), "message")
        or text(data.get("failed"), "reason")
    )


def diagnosis(bounce: Mapping[str, Any]) -> str | None:
    """Return the receiving server's answer, which comes as a text or as a list of texts."""
    said = bounce.get("diagnosticCode")
    return "\n".join(strings(said if isinstance(said, list) else [said])) or None


def first(items: Any) -> str | None:
    """Return the first text of a list, or a text that stands in place of a list."""
    return next(iter(strings(items if isinstance(items, list) else [items])), None)


def bare_address(value: str | None) -> str | None:
    """Return an address without its display name."""
    if value is None or "<" not in value:
        return value
    from ..decoding import Defects
    from ..headers import read_addresses

    found = read_addresses(value, Defects())
    return found[0].addr_spec if found else value


# --- inbound: fetching -----------------------------------------------------------------


@record(frozen=True, repr=False)
class _Arrival:
    """A webhook that tells of a mail: its payload, the mail's id, its own id."""

    raw: dict[str, Any]
    number: str
    event_id: str | None
    settings: Settings


_Found = Sequence["Event | Fetch"]


def _fetch_mail(arrival: _Arrival) -> Fetch:
    """Ask for the mail; images stay apart from the HTML.

    https://resend.com/docs/api-reference/emails/retrieve-received-email
    """
    return _from_api(arrival, "?html_format=cid", partial(_read_mail, arrival))


def _from_api(arrival: _Arrival, path: str, resume: Callable[[HttpResponse], _Found]) -> Fetch:
    number = quote(arrival.number, safe="")
    url = f"{arrival.settings['API_URL']}/emails/receiving/{number}{path}"
    request = HttpRequest("GET", url, {"Accept": "application/json"})
    return Fetch(request, resume, MAX_MAIL, sign=with_key)


def with_key(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
    """Add the key to a request to the API. Raises FetchError where none is set."""
    try:
        key = settings.require("API_KEY")
    except ConfigurationError as error:
        raise FetchError(f"{error} {FULL_ACCESS}") from None
    headers = {**request.headers, "Authorization": bearer(key)}
    return HttpRequest(request.method, request.url, headers)


FULL_ACCESS = 'Inbound mail is fetched with it, which needs a key with "Full access".'
WHY_NOT = {
    "restricted_api_key": f"MAILESP_RESEND_API_KEY may only send. {FULL_ACCESS}",
    "missing_api_key": f"{KEYS_PAGE} {FULL_ACCESS}",
    "invalid_api_key": f"{KEYS_PAGE} {FULL_ACCESS}",
    "suspended_api_key": f"{KEYS_PAGE} {FULL_ACCESS}",
    "invalid_permission": f"{KEYS_PAGE} {FULL_ACCESS}",
    "not_found": "The mail is not there (yet).",
    "email_above_quota": "The mail is beyond the account's quota: upgrade the plan to have it.",
}


def _answered(response: HttpResponse) -> dict[str, Any]:
    """Return the object that was asked for. Raises FetchError, saying what to do."""
    answer = response.json()
    if response.status == 200 and isinstance(answer, dict):
        return answer
    reason = WHY_NOT.get(text(answer, "name") or "", "")
    if not reason and response.status in (401, 403):
        reason = f"{KEYS_PAGE} {FULL_ACCESS}"
    raise FetchError(f"{NAME} answered HTTP {response.status} about a mail. {reason}".rstrip())


def _read_mail(arrival: _Arrival, response: HttpResponse) -> _Found:
    """Go on with the mail's source, which has everything; else with its files; else without."""
    mail = _answered(response)
    url = text(mail.get("raw"), "download_url")
    if url is not None:
        return (_download(url, MAX_MAIL, partial(_read_source, arrival, mail)),)
    if as_list(mail.get("attachments")):
        return (_fetch_list(arrival, mail, ()),)
    return (to_inbound(arrival.raw, fields_message(mail, arrival.raw, ()), arrival.event_id),)


def _download(url: str, most: int, resume: Callable[[HttpResponse], _Found]) -> Fetch:
    """Ask another host for a file. The URL is all it needs; the key is not for it."""
    return Fetch(HttpRequest("GET", url), resume, max(most, 1), foreign=True)


def _downloaded(response: HttpResponse) -> bytes:
    """Return a file. Raises FetchError; the next webhook leads to a new URL."""
    if response.status != 200:
        raise FetchError(f"A mail could not be downloaded: HTTP {response.status}.")
    return response.body


def _read_source(arrival: _Arrival, mail: Mapping[str, Any], response: HttpResponse) -> _Found:
    message = source_message(_downloaded(response), mail, arrival.raw)
    return (to_inbound(arrival.raw, message, arrival.event_id),)


_Listed = tuple[dict[str, Any], ...]


def _fetch_list(arrival: _Arrival, mail: Mapping[str, Any], known: _Listed) -> Fetch:
    """Ask for the URLs of the mail's files, a hundred at a time."""
    last = text(known[-1], "id") if known else None
    after = f"&after={quote(last, safe='')}" if last else ""
    resume = partial(_read_list, arrival, mail, known)
    return _from_api(arrival, f"/attachments?limit=100{after}", resume)


def _read_list(
    arrival: _Arrival, mail: Mapping[str, Any], known: _Listed, response: HttpResponse
) -> _Found:
    answer = _answered(response)
    new = tuple(item for item in as_list(answer.get("data")) if isinstance(item, dict))
    known += new
    if flag(answer, "has_more") and new and len(known) < MAX_FILES:
        return (_fetch_list(arrival, mail, known),)
    return _next_file(arrival, mail, known[:MAX_FILES], ())


_Files = tuple["InboundAttachment", ...]


def _next_file(
    arrival: _Arrival, mail: Mapping[str, Any], waiting: _Listed, files: _Files
) -> _Found:
    """Download the first of the files that are left, or return the mail with all of them."""
    if not waiting:
        message = fields_message(mail, arrival.raw, files)
        return (to_inbound(arrival.raw, message, arrival.event_id),)
    url = text(waiting[0], "download_url")
    if url is None:
        return _next_file(arrival, mail, waiting[1:], files)
    room = MAX_MAIL - sum(len(file.data) for file in files)
    return (_download(url, room, partial(_read_file, arrival, mail, waiting, files)),)


def _read_file(
    arrival: _Arrival,
    mail: Mapping[str, Any],
    waiting: _Listed,
    files: _Files,
    response: HttpResponse,
) -> _Found:
    file = inbound_attachment(waiting[0], _downloaded(response))
    return _next_file(arrival, mail, waiting[1:], (*files, file))


# --- inbound: reading ------------------------------------------------------------------


def to_inbound(raw: dict[str, Any], message: InboundMessage, event_id: str | None) -> InboundEvent:
    """Return the event for a mail; ``raw`` is the webhook that told of it."""
    return InboundEvent(
        message=message,
        esp_event=raw,
        event_id=event_id,
        timestamp=from_iso(raw, "created_at"),
        identity=(NAME, RECEIVED, text(raw.get("data"), "email_id")),
    )


def envelope_recipient(mail: Mapping[str, Any], raw: Mapping[str, Any]) -> str | None:
    """Return whose mailbox it is, of what was fetched or else of the webhook."""
    told = as_object(raw.get("data"))
    places = [(item, key) for key in ("received_for", "to") for item in (mail, told)]
    found = (first(item.get(key)) for item, key in places)
    return bare_address(next(filter(None, found), None))


def source_message(
    source: bytes, mail: Mapping[str, Any], raw: Mapping[str, Any]
) -> InboundMessage:
    """Read a mail from its source; blind copies are not in that."""
    from ..inbound import InboundMessage

    return InboundMessage.from_raw(
        source,
        bcc=strings(as_list(mail.get("bcc"))),
        envelope_recipient=envelope_recipient(mail, raw),
    )


def fields_message(
    mail: Mapping[str, Any], raw: Mapping[str, Any], files: Sequence[InboundAttachment]
) -> InboundMessage:
    """Read a mail from what Resend has parsed."""
    from ..inbound import InboundMessage

    lost = len(as_list(mail.get("attachments"))) - len(files)
    return InboundMessage.from_fields(
        headers=mail_headers(mail),
        from_=text(mail, "from") or "",
        to=strings(as_list(mail.get("to"))),
        cc=strings(as_list(mail.get("cc"))),
        bcc=strings(as_list(mail.get("bcc"))),
        reply_to=strings(as_list(mail.get("reply_to"))),
        subject=text(mail, "subject") or "",
        text=text(mail, "text") or "",
        html=text(mail, "html") or "",
        attachments=files,
        message_id=text(mail, "message_id"),
        envelope_recipient=envelope_recipient(mail, raw),
        defects=[f"{lost} attachments could not be had"] if lost > 0 else [],
    )


# Headers that may be missing among the others, and the fields that have their values.
FIELDS = {
    "From": "from",
    "To": "to",
    "Cc": "cc",
    "Reply-To": "reply_to",
    "Subject": "subject",
    "Message-ID": "message_id",
}


def mail_headers(mail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers of a mail: an object in which a repeated one has a list."""
    given = as_object(mail.get("headers"))
    pairs = [
        (name, value)
        for name, values in given.items()
        for value in strings(values if isinstance(values, list) else [values])
    ]
    names = {name.lower() for name, _ in pairs}
    for name, key in FIELDS.items():
        value = mail.get(key)
        joined = ", ".join(strings(value if isinstance(value, list) else [value]))
        if joined and name.lower() not in names:
            pairs.append((name, joined))
    return pairs


def inbound_attachment(item: Mapping[str, Any], data: bytes) -> InboundAttachment:
    """Return one attachment; name, disposition and content id may be null."""
    from ..inbound import InboundAttachment

    content_id = text(item, "content_id")
    disposition = text(item, "content_disposition") or ("inline" if content_id else "")
    return InboundAttachment.from_bytes(
        data,
        filename=text(item, "filename") or "",
        content_type=text(item, "content_type") or "",
        content_id=content_id,
        disposition="inline" if disposition.lower() == "inline" else "attachment",
    )


esp = Esp(
    NAME,
    SETTINGS,
    SUPPORTS,
    build,
    read,
    tracking=Webhook(verify_with("SIGNING_SECRET"), parse, retry_status=500),
    inbound=Webhook(verify_with("INBOUND_SECRET"), parse, retry_status=500),
    build_many=build_many,
)
