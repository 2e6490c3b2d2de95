"""Postmark: hosted; JSON; batches and templates; webhooks with Basic auth.

https://postmarkapp.com/developer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..address import Address
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
from ..exceptions import APIError, AuthenticationError, InvalidHeaderError, RateLimitedError
from ..message import Attachment, PreparedMessage
from ..outcomes import (
    WITHOUT_EVERY_RECIPIENT,
    accepted,
    failure,
    recipients_refused,
    same_for_all,
    unreadable,
    whole_call,
)
from ..patterns import pattern
from ..results import RecipientStatus, Status
from ..wire import (
    Base64,
    Pieces,
    as_list,
    as_number,
    as_object,
    from_iso,
    integer,
    joined,
    json_body,
    parse_json,
    text,
    verify_basic,
)

if TYPE_CHECKING:
    from ..inbound import InboundAttachment, InboundMessage

NAME = "Postmark"

# https://postmarkapp.com/developer/api/email-api#send-batch-emails
BATCH_MESSAGES = 500
BATCH_BYTES = 50_000_000

SETTINGS = (
    Setting(
        "SERVER_TOKEN",
        where="Postmark > Servers > your server > API Tokens",
        required=True,
        secret=True,
        bare=True,
    ),
    Setting("API_URL", default="https://api.postmarkapp.com", bare=True),
)

SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.NO_TO,
        Feature.METADATA,
        Feature.TAGS,
        Feature.TRACK_CLICKS,
        Feature.TRACK_OPENS,
        Feature.TEMPLATES,
        Feature.MERGE_DATA,
        Feature.MERGE_GLOBAL_DATA,
        Feature.MERGE_METADATA,
        Feature.MERGE_HEADERS,
    }
)

# Postmark fills these from fields of their own, or writes them itself.
OWN_HEADERS = frozenset(
    {
        "sender",
        "reply-to",
        "received",
        "date",
        "tag",
        "attachment",
        "track-opens",
        "track-links",
        "message-stream",
        "postmark-template-alias",
        "x-pm-rcpt",
    }
)


# --- sending ---------------------------------------------------------------------------


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build the calls for one message: one, or a batch of copies cut to Postmark's limits.

    Raises SerializationError before the first call, if at all: what differs between the
    copies is checked first, while the copies are encoded batch by batch.
    """
    if message.is_batch:
        json_body([message.merge_data, message.merge_metadata])
        return _batches(_items(message, settings), settings)
    ((token, payload, part),) = _items(message, settings)
    path = "/email/withTemplate" if is_templated(payload) else "/email"
    return (Call(_request(settings, token, path, json_body(payload)), (part,)),)


def build_many(messages: Sequence[PreparedMessage], settings: Settings) -> Iterable[Call]:
    """Build batches of several messages, apart by token and by having a template or not."""
    kinds: dict[tuple[str, bool], list[_Item]] = {}
    for index, message in enumerate(messages):
        for item in _items(message, settings, index):
            kinds.setdefault((item[0], is_templated(item[1])), []).append(item)
    for kind, items in kinds.items():
        yield from _at_once(kind, items, settings) or _batches(items, settings)


def _at_once(
    kind: tuple[str, bool], items: Sequence[_Item], settings: Settings
) -> Sequence[Call] | None:
    """Return one call for all items, encoded together, unless Postmark takes no so many."""
    if len(items) > BATCH_MESSAGES:
        return None
    token, templated = kind
    payloads = [payload for _, payload, _ in items]
    body = json_body({"Messages": payloads} if templated else payloads)
    if len(body) > BATCH_BYTES:
        return None
    parts = tuple(part for _, _, part in items)
    return [Call(_request(settings, token, _batch_path(templated), body), parts)]


def _batch_path(templated: bool) -> str:
    return "/email/batchWithTemplates" if templated else "/email/batch"


_Item = tuple[str, dict[str, Any], Part]


def _items(message: PreparedMessage, settings: Settings, index: int = 0) -> Iterator[_Item]:
    """Yield the token, the JSON with ``esp_extra`` on top and the recipients of each copy."""
    if not (message.is_batch or message.esp_extra):
        yield settings["SERVER_TOKEN"], to_json(message), Part(message.recipients, index)
        return
    token, extra = _token_and_extra(message, settings)
    pairs = copies(message) if message.is_batch else ((message.recipients, to_json(message)),)
    for recipients, payload in pairs:
        yield token, payload | extra if extra else payload, Part(recipients, index)


_TOKEN = pattern(r"[!-~]+")


def _token_and_extra(message: PreparedMessage, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Return the token to send a message with, and what else is in its ``esp_extra``."""
    extra = dict(message.esp_extra)
    token = extra.pop("server_token", None)
    if token is None:
        return settings["SERVER_TOKEN"], extra
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidHeaderError("esp_extra['server_token'] is not a server token.")
    return Secret(token), extra


def copies(message: PreparedMessage) -> Iterator[tuple[tuple[Address, ...], dict[str, Any]]]:
    """Yield recipients and JSON for each ``to``, with what is meant for that one only."""
    common = to_json(message)
    others = message.cc + message.bcc
    for address in message.to:
        yield (address, *others), common | {"To": str(address)} | _own(message, common, address.key)


def _own(message: PreparedMessage, common: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the fields in which one recipient's copy differs from the others."""
    own: dict[str, Any] = {}
    if message.merge_data and key in message.merge_data and "TemplateModel" in common:
        own["TemplateModel"] = {**common["TemplateModel"], **message.merge_data[key]}
    if message.merge_metadata and key in message.merge_metadata:
        own["Metadata"] = metadata({**(message.metadata or {}), **message.merge_metadata[key]})
    if message.merge_headers and key in message.merge_headers:
        rows = message.merge_headers[key]
        own["Headers"] = headers(merged_headers(message.headers, rows))
        own["ReplyTo"] = next((rows[name] for name in rows if name.lower() == "reply-to"), None)
    return {name: value for name, value in own.items() if value is not None}


def merged_headers(
    common: Sequence[tuple[str, str]], own: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return headers, a recipient's own in place of common ones of the same name."""
    names = {name.lower() for name in own}
    return [*(pair for pair in common if pair[0].lower() not in names), *own.items()]


def _batches(items: Iterable[_Item], settings: Settings) -> Iterator[Call]:
    """Yield a call whenever a batch of one kind is full, and the rest at the end."""
    open_batches: dict[tuple[str, bool], _Batch] = {}
    for token, payload, part in items:
        kind = (token, is_templated(payload))
        body = json_body(payload)
        batch = open_batches.get(kind)
        if batch is not None and not batch.has_room_for(body):
            yield batch.call(settings)
            batch = None
        if batch is None:
            batch = open_batches[kind] = _Batch(*kind)
        batch.add(body, part)
    for batch in open_batches.values():
        yield batch.call(settings)


class _Batch:
    """Encoded messages that go out in one request."""

    def __init__(self, token: str, templated: bool) -> None:
        self.token = token
        self.path = _batch_path(templated)
        self.head, self.tail = (b'{"Messages":[', b"]}") if templated else (b"[", b"]")
        self.bodies: list[bytes | Pieces] = []
        self.parts: list[Part] = []
        self.size = len(self.head) + len(self.tail)

    def has_room_for(self, body: bytes | Pieces) -> bool:
        return len(self.bodies) < BATCH_MESSAGES and self.size + len(body) <= BATCH_BYTES

    def add(self, body: bytes | Pieces, part: Part) -> None:
        self.bodies.append(body)
        self.parts.append(part)
        self.size += len(body) + 1

    def call(self, settings: Settings) -> Call:
        body = joined(self.bodies, self.head, self.tail)
        return Call(_request(settings, self.token, self.path, body), tuple(self.parts))


def _request(settings: Settings, token: str, path: str, body: bytes | Pieces) -> HttpRequest:
    headers = {
        "X-Postmark-Server-Token": token,
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    return HttpRequest("POST", settings["API_URL"] + path, headers, body)


def is_templated(payload: Mapping[str, Any]) -> bool:
    """Tell whether a payload belongs to the template endpoints."""
    return "TemplateId" in payload or "TemplateAlias" in payload


def to_json(message: PreparedMessage) -> dict[str, Any]:
    """Return Postmark's JSON for one message.

    https://postmarkapp.com/developer/user-guide/send-email-with-api
    """
    body = {
        "From": str(message.sender),
        "To": addresses(message.to),
        "Cc": addresses(message.cc),
        "Bcc": addresses(message.bcc),
        "ReplyTo": addresses(message.reply_to),
        "Headers": headers(message.headers) if message.headers else None,
        "Attachments": [attachment(item) for item in message.attachments] or None,
        "Tag": message.tags[0] if message.tags else None,  # MANY_TAGS was refused
        "Metadata": metadata(message.metadata),
        "TrackOpens": message.track_opens,  # False is a value; None is absence
        "TrackLinks": track_links(message.track_clicks),
    }
    body |= content(message) if message.template_id is None else template(message)
    return {key: value for key, value in body.items() if value is not None}


def content(message: PreparedMessage) -> dict[str, Any]:
    """Return the fields of a message that has its own words.

    Next to a template named in ``esp_extra`` they are an error, which Postmark explains.
    """
    if is_templated(message.esp_extra):
        words = {"Subject": message.subject, "TextBody": message.body, "HtmlBody": message.html}
        return {"TemplateModel": {}} | {key: text for key, text in words.items() if text}
    return {"Subject": message.subject, "TextBody": message.body, "HtmlBody": message.html}


def template(message: PreparedMessage) -> dict[str, Any]:
    """Return the fields of a message whose words are stored at Postmark."""
    model = dict(message.merge_global_data or {})
    name = str(message.template_id)
    if name.isascii() and name.isdigit():
        return {"TemplateId": int(name), "TemplateModel": model}
    return {"TemplateAlias": name, "TemplateModel": model}


def addresses(items: Sequence[Address]) -> str | None:
    """Return a comma-separated list, or None for nobody."""
    return ", ".join(map(str, items)) if items else None


def headers(items: Sequence[tuple[str, str]]) -> list[dict[str, str]] | None:
    """Return the headers that Postmark does not make itself; a name may repeat."""
    return [
        {"Name": name, "Value": value} for name, value in items if name.lower() not in OWN_HEADERS
    ] or None


def attachment(item: Attachment) -> dict[str, Any]:
    """Return one attachment; an inline image's ContentID carries the ``cid:``."""
    body = {
        "Name": item.filename,
        "Content": Base64(item.data),
        "ContentType": item.content_type,
    }
    return body | {"ContentID": f"cid:{item.content_id}"} if item.is_inline else body


def metadata(values: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return metadata with every value as the string that Postmark wants."""
    return {key: str(value) for key, value in values.items()} if values else None


def track_links(switch: bool | None) -> str | None:
    """Return the TrackLinks choice; ``esp_extra`` can ask for HtmlOnly or TextOnly."""
    return None if switch is None else "HtmlAndText" if switch else "None"


# --- reading the answer ----------------------------------------------------------------

# https://postmarkapp.com/developer/api/overview#error-codes
INTERNAL_ERROR = 101
MAINTENANCE = 100
INVALID_REQUEST = 300
INACTIVE = 406
ERROR_KINDS: dict[int | None, type[APIError]] = {
    10: AuthenticationError,
    1480: AuthenticationError,
    429: RateLimitedError,
    MAINTENANCE: RateLimitedError,  # nothing was taken, try later
}
HINTS = {
    10: "Check MAILESP_POSTMARK_SERVER_TOKEN: Postmark > Servers > your server > API Tokens.",
    11: "It found several errors; result.response lists them.",
    MAINTENANCE: "It is under maintenance; nothing was taken.",
    400: "Confirm the sender signature: Postmark > Sender Signatures.",
    401: "Confirm the sender signature: Postmark > Sender Signatures.",
    405: "The account is out of credits.",
    411: "An attachment's file type is forbidden.",
    412: "While the account awaits approval, recipients must share the sender's domain.",
    413: "The account may not send.",
    429: "It takes no more for now; nothing was taken.",
    1101: "No such template on this server: check template_id.",
    1122: "The template's data has a reserved or invalid key; error.message names it.",
    1123: "A template and an own subject or body exclude each other.",
    1235: "No such message stream on this server: check esp_extra['MessageStream'].",
    1236: "This type of message stream cannot send: check esp_extra['MessageStream'].",
    1480: "This machine's IP address is not on the server's allow-list.",
}

_INACTIVE_LISTS = ("Found inactive addresses: ", "these inactive addresses: ")
_BAD_RECIPIENT = pattern(r"(?:Invalid|Error parsing) '(?:To|Cc|Bcc)'")
_QUOTED_ADDRESS = pattern(r"[^\s'\"<>,;]+@[^\s'\"<>,;]+")
_DELAYED = "delivery may be delayed"


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read Postmark's answer: one result object, or an array of them in order."""
    data = response.json()
    if not 200 <= response.status < 300:
        alone = len(call.parts) == 1
        return [_refused(part, response, as_object(data), alone) for part in call.parts]
    items = data if isinstance(data, list) else [data]
    if isinstance(data, list) != _is_batch(call) or len(items) > len(call.parts):
        return whole_call(call, unreadable(NAME, response))
    items += [None] * (len(call.parts) - len(items))
    return [_item(part, response, item) for part, item in zip(call.parts, items, strict=True)]


def _is_batch(call: Call) -> bool:
    return call.request.url.endswith(("/email/batch", "/email/batchWithTemplates"))


def _item(part: Part, response: HttpResponse, item: Any) -> Reading:
    """Read one result object. ErrorCode may be missing on acceptance."""
    data = as_object(item)
    if _error_code(data):
        return _refused(part, response, data, alone=True)
    message_id, said = text(data, "MessageID"), text(data, "Message") or ""
    odd_code = data.get("ErrorCode") is not None and _error_code(data) is None
    if odd_code or message_id is None or not isinstance(data["MessageID"], str):
        return same_for_all(part, unreadable(NAME, response))
    reading = accepted(part, message_id, Status.QUEUED if _DELAYED in said else Status.SENT)
    return _without_inactive(reading, part, said) if "inactive" in said else reading


def _without_inactive(reading: Reading, part: Part, said: str) -> Reading:
    """Mark the recipients whom Postmark names as inactive; the others keep their id."""
    inactive = _inactive(said)
    return Reading(
        tuple(
            RecipientStatus(Status.REJECTED, None, said) if address.key in inactive else status
            for address, status in zip(part.recipients, reading.statuses, strict=True)
        )
    )


def _error_code(data: Mapping[str, Any]) -> int | None:
    return integer(data.get("ErrorCode"))


def _inactive(said: str) -> set[str]:
    """Return the addresses that Postmark lists as inactive, in lower case."""
    named: list[str] = []
    for start in _INACTIVE_LISTS:
        named += said.partition(start)[2].partition(" Inactive")[0].split(",")
    return {item.strip(" .").lower() for item in named} - {""}


def _refused(
    part: Part, response: HttpResponse, data: Mapping[str, Any], alone: bool = False
) -> Reading:
    """Read an error object, which may be about this part ``alone`` or about a whole batch."""
    code, said = _error_code(data), text(data, "Message") or ""
    if code == INTERNAL_ERROR:  # nobody knows whether the message was taken
        return same_for_all(part, unreadable(NAME, response, "with an internal error"))
    if response.status < 500 and code == INACTIVE:
        return _all_inactive(part, response, said)
    if response.status < 500 and code == INVALID_REQUEST and _BAD_RECIPIENT.match(said):
        return _one_invalid(part, response, said, alone)
    error = failure(
        NAME,
        response,
        code=None if code is None else str(code),
        message=said,
        hint=HINTS.get(code or 0, ""),
        kind=_kind(code, response.status),
    )
    return same_for_all(part, error)


def _kind(code: int | None, status: int) -> type[APIError] | None:
    """Return the class of error where the code says more than the HTTP status."""
    if status >= 500 and code != MAINTENANCE:
        return None
    return ERROR_KINDS.get(code) or (APIError if status < 300 else None)


def _all_inactive(part: Part, response: HttpResponse, said: str) -> Reading:
    """Read error 406. Recipients it does not name may have been mailed: unknown."""
    inactive = _inactive(said)
    statuses = [
        RecipientStatus(
            Status.REJECTED if not inactive or address.key in inactive else Status.UNKNOWN,
            None,
            said,
        )
        for address in part.recipients
    ]
    if any(status.status is Status.UNKNOWN for status in statuses):
        return Reading(tuple(statuses), unreadable(NAME, response, WITHOUT_EVERY_RECIPIENT))
    return recipients_refused(NAME, response, statuses, code=str(INACTIVE), message=said)


def _one_invalid(part: Part, response: HttpResponse, said: str, alone: bool) -> Reading:
    """Read error 300 about an address: the whole message was refused because of it."""
    quoted = {item.strip(".").lower() for item in _QUOTED_ADDRESS.findall(said)}
    culprits = [address.key in quoted for address in part.recipients]
    if sum(culprits) != 1:  # nobody is named, or a whole list is
        culprits = [alone and len(culprits) == 1] * len(culprits)
    statuses = [
        RecipientStatus(Status.INVALID if culprit else Status.FAILED, None, said)
        for culprit in culprits
    ]
    return recipients_refused(NAME, response, statuses, code=str(INVALID_REQUEST), message=said)


# --- webhooks --------------------------------------------------------------------------


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    """Check the Basic credentials in the webhook's URL; Postmark signs nothing.

    https://postmarkapp.com/developer/webhooks/webhooks-overview#protecting-your-webhook

    Raises WebhookRejected if they are missing or wrong.
    """
    verify_basic(request.headers.get("Authorization"), settings.require("WEBHOOK_SECRET"))


def parse(request: WebhookRequest, settings: Settings) -> tuple[TrackingEvent | InboundEvent, ...]:
    """Read a tracking webhook or inbound mail; whatever else becomes one unknown event."""
    raw = parse_json(request.body)
    if not isinstance(raw, dict):
        return (unknown_event(NAME, request.body, request.body),)
    return (to_inbound(raw, request.body) if is_inbound(raw) else to_event(raw, request.body),)


INBOUND_ONLY = frozenset({"FromFull", "ToFull", "OriginalRecipient", "TextBody", "RawEmail"})


def is_inbound(raw: Mapping[str, Any]) -> bool:
    """Inbound mail is the one payload without a RecordType."""
    return "RecordType" not in raw and not INBOUND_ONLY.isdisjoint(raw)


# https://postmarkapp.com/developer/api/bounce-api#bounce-types
BOUNCE_TYPES: dict[str | None, tuple[EventType, RejectReason | None]] = {
    "HardBounce": (EventType.BOUNCED, RejectReason.BOUNCED),
    "SoftBounce": (EventType.BOUNCED, RejectReason.BOUNCED),
    "Transient": (EventType.DEFERRED, None),  # Postmark keeps trying
    "DnsError": (EventType.DEFERRED, None),
    "OpenRelayTest": (EventType.DEFERRED, None),
    "Unsubscribe": (EventType.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED),
    "Subscribe": (EventType.SUBSCRIBED, None),
    "AutoResponder": (EventType.AUTORESPONDED, None),
    "AddressChange": (EventType.AUTORESPONDED, RejectReason.OTHER),
    "ChallengeVerification": (EventType.AUTORESPONDED, None),
    "SpamNotification": (EventType.COMPLAINED, RejectReason.SPAM),
    "SpamComplaint": (EventType.COMPLAINED, RejectReason.SPAM),
    "VirusNotification": (EventType.BOUNCED, RejectReason.OTHER),
    "BadEmailAddress": (EventType.REJECTED, RejectReason.INVALID),
    "ManuallyDeactivated": (EventType.REJECTED, RejectReason.BLOCKED),
    "Unconfirmed": (EventType.REJECTED, RejectReason.OTHER),
    "Blocked": (EventType.REJECTED, RejectReason.BLOCKED),
    "DMARCPolicy": (EventType.REJECTED, RejectReason.BLOCKED),
    "SMTPApiError": (EventType.FAILED, RejectReason.OTHER),
    "TemplateRenderingFailed": (EventType.FAILED, RejectReason.OTHER),
    "InboundError": (EventType.INBOUND_FAILED, None),
}
# A hard bounce or complaint also comes as an event of its own; only the third is a wish.
SUPPRESSIONS: dict[str | None, tuple[EventType, RejectReason | None]] = {
    "HardBounce": (EventType.BOUNCED, RejectReason.BOUNCED),
    "SpamComplaint": (EventType.COMPLAINED, RejectReason.SPAM),
    "ManualSuppression": (EventType.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED),
}
SIMPLE_TYPES: dict[str | None, EventType] = {
    "Delivery": EventType.DELIVERED,
    "Open": EventType.OPENED,
    "Click": EventType.CLICKED,
}
TIMES = {
    "Delivery": "DeliveredAt",
    "Bounce": "BouncedAt",
    "SpamComplaint": "BouncedAt",
    "Open": "ReceivedAt",
    "Click": "ReceivedAt",
    "SubscriptionChange": "ChangedAt",
}
_UNKNOWN = (EventType.UNKNOWN, None)


def to_event(raw: dict[str, Any], body: bytes = b"") -> TrackingEvent:
    """Normalise one tracking payload; ``body`` identifies it where it has no id or time.

    https://postmarkapp.com/developer/webhooks/webhooks-overview
    """
    record = raw.get("RecordType")
    record = record if isinstance(record, str) else ""
    event_type, reject_reason = classify(record, raw)
    time = TIMES.get(record, "")
    event_id, message_id = text(raw, "ID"), text(raw, "MessageID")
    recipient = text(raw, "Recipient") or text(raw, "Email")
    tag, url, moment = text(raw, "Tag"), text(raw, "OriginalLink"), text(raw, time)
    identity: tuple[str | None, ...] = (NAME, record, message_id, recipient, moment, url)
    if event_id:
        identity = (NAME, record, event_id)
    elif moment is None:  # retries are the same byte for byte
        identity = (NAME, sha256(body).hexdigest())
    return TrackingEvent(
        event_type=event_type,
        esp_event=raw,
        timestamp=from_iso(raw, time),
        event_id=event_id,
        message_id=message_id,
        recipient=recipient,
        reject_reason=reject_reason,
        description=text(raw, "Description"),
        mta_response=text(raw, "Details"),
        tags=[tag] if tag else [],
        metadata=as_object(raw.get("Metadata")),
        click_url=url,
        user_agent=text(raw, "UserAgent"),
        identity=identity,
    )


def classify(record: str, raw: Mapping[str, Any]) -> tuple[EventType, RejectReason | None]:
    """Return the event type and reject reason of a payload."""
    if record in SIMPLE_TYPES:
        return SIMPLE_TYPES[record], None
    if record == "Bounce":
        return BOUNCE_TYPES.get(text(raw, "Type"), _UNKNOWN)
    if record == "SpamComplaint":
        return EventType.COMPLAINED, RejectReason.SPAM
    if record == "SubscriptionChange":
        if raw.get("SuppressSending") is False:
            return EventType.SUBSCRIBED, None
        return SUPPRESSIONS.get(text(raw, "SuppressionReason"), _UNKNOWN)
    return _UNKNOWN


# --- inbound ---------------------------------------------------------------------------


def to_inbound(raw: dict[str, Any], body: bytes) -> InboundEvent:
    """Read inbound mail; ``body`` is what identifies it where it has no MessageID.

    https://postmarkapp.com/developer/webhooks/inbound-webhook
    """
    message_id = text(raw, "MessageID")
    return InboundEvent(
        message=inbound_message(raw),
        esp_event=raw,
        event_id=message_id,
        identity=(NAME, message_id or sha256(body).hexdigest()),
    )


def inbound_message(raw: dict[str, Any]) -> InboundMessage:
    """Return the mail: from its source where the server sends it, else from the fields."""
    from ..inbound import InboundMessage

    extra_headers = header_list(raw)
    known: dict[str, Any] = {
        "envelope_sender": return_path(extra_headers),
        "envelope_recipient": text(raw, "OriginalRecipient"),
        "stripped_text": text(raw, "StrippedTextReply"),
        "spam_detected": yes_no(first(extra_headers, "X-Spam-Status")),
        "spam_score": as_number(first(extra_headers, "X-Spam-Score")),
    }
    source = raw.get("RawEmail")
    if isinstance(source, str) and source:
        data = source.encode("utf-8", "replace")
        return InboundMessage.from_raw(data, bcc=mailboxes(raw.get("BccFull")), **known)
    return InboundMessage.from_fields(
        headers=[*field_headers(raw), *extra_headers],
        from_=mailboxes([raw.get("FromFull")]) or text(raw, "From") or "",
        to=mailboxes(raw.get("ToFull")) or text(raw, "To") or "",
        cc=mailboxes(raw.get("CcFull")) or text(raw, "Cc") or "",
        bcc=mailboxes(raw.get("BccFull")) or text(raw, "Bcc") or "",
        reply_to=text(raw, "ReplyTo") or "",
        subject=text(raw, "Subject") or "",
        date=text(raw, "Date"),
        text=text(raw, "TextBody") or "",
        html=text(raw, "HtmlBody") or "",
        attachments=[inbound_attachment(item) for item in as_list(raw.get("Attachments"))],
        **known,
    )


def header_list(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the ``Headers`` array as pairs."""
    pairs = ((text(item, "Name"), text(item, "Value")) for item in as_list(raw.get("Headers")))
    return [(name, value or "") for name, value in pairs if name]


def field_headers(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headers that Postmark takes out of ``Headers`` into fields."""
    names = {"From": sender_text(raw), "To": text(raw, "To"), "Cc": text(raw, "Cc")}
    names |= {"Reply-To": text(raw, "ReplyTo"), "Subject": text(raw, "Subject")}
    names |= {"Date": text(raw, "Date")}
    return [(name, value) for name, value in names.items() if value]


def sender_text(raw: Mapping[str, Any]) -> str | None:
    """Return the From header's text."""
    return ", ".join(map(str, mailboxes([raw.get("FromFull")]))) or text(raw, "From")


def first(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    """Return the first value of a header."""
    wanted = name.lower()
    return next((value for key, value in headers if key.lower() == wanted), None)


def return_path(headers: Sequence[tuple[str, str]]) -> str | None:
    """Return the envelope sender. Only the very first header is Postmark's own."""
    if not headers or headers[0][0].lower() != "return-path":
        return None
    return headers[0][1].strip().removeprefix("<").removesuffix(">")


def yes_no(value: str | None) -> bool | None:
    """Read an X-Spam-Status."""
    word = (value or "").strip().lower()
    return True if word.startswith("yes") else False if word.startswith("no") else None


def mailboxes(items: Any) -> list[Address]:
    """Return an array of ``{Email, Name}`` as addresses."""
    found = ((text(item, "Email"), text(item, "Name")) for item in as_list(items))
    return [Address(addr_spec, name or "") for addr_spec, name in found if addr_spec]


def inbound_attachment(item: Any) -> InboundAttachment:
    """Return one attachment; the console's test button writes Data for Content."""
    from ..inbound import InboundAttachment

    content_id = text(item, "ContentID")
    return InboundAttachment.from_base64(
        text(item, "Content") or text(item, "Data") or "",
        filename=text(item, "Name") or "",
        content_type=text(item, "ContentType") or "",
        content_id=content_id,
        disposition="inline" if content_id else "attachment",
    )


_WEBHOOK = Webhook(verify, parse)

esp = Esp(
    NAME,
    SETTINGS,
    SUPPORTS,
    build,
    read,
    tracking=_WEBHOOK,
    inbound=_WEBHOOK,
    build_many=build_many,
)
