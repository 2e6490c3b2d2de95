"""Mailgun: hosted; forms and multipart; a domain in the URL; the signature in the body.

https://documentation.mailgun.com
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ..address import CONTROLS, Address, idna2008
from ..esp import (
    Call,
    Esp,
    Feature,
    HttpRequest,
    HttpResponse,
    Once,
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
    ConfigurationError,
    InvalidHeaderError,
    MailESPError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from ..forms import FilePart, Form, FormFile, form_body, multipart_body, read_form
from ..message import Attachment, PreparedMessage
from ..outcomes import accepted, failure, same_for_all, unreadable, whole_call
from ..patterns import pattern
from ..records import record, replace
from ..results import RecipientStatus, Status
from ..wire import (
    as_list,
    as_number,
    as_object,
    from_epoch,
    integer,
    json_body,
    parse_json,
    strings,
    text,
    verify_basic,
    with_charset,
)

if TYPE_CHECKING:
    from ..inbound import InboundAttachment, InboundMessage

NAME = "Mailgun"

# https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/batch-sending
MAX_RECIPIENTS = 1000


# --- settings --------------------------------------------------------------------------

WHERE_DOMAIN = "Mailgun > Sending > Domains"
WHERE_SIGNING_KEY = "Mailgun > API Security > HTTP webhook signing key"
_CREDENTIAL = pattern(r"[!-~]{1,500}")
_DOMAIN = pattern(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def base_url(name: str, value: str) -> str:
    """Accept the host alone for the API's usual version.

    Mailgun answers 200 to a path that it does not know, and sends nothing.
    """
    return value if urlsplit(value).path else f"{value}/v3"


def domain_setting(name: str, value: Any) -> str:
    """Read the SENDER_DOMAIN setting."""
    domain = as_domain(value)
    if domain is None:
        raise ConfigurationError(
            f'{name} must be a domain such as "mg.example.com". '
            f"You will find the value in {WHERE_DOMAIN}."
        )
    return domain


def as_domain(value: Any) -> str | None:
    """Return a domain in ASCII, or None for what is none, such as a path."""
    if not isinstance(value, str):
        return None
    try:
        domain = idna2008(str.__str__(value).strip(" "))
    except UnicodeError:
        return None
    return domain if _DOMAIN.fullmatch(domain) else None


def signing_keys(name: str, value: Any) -> tuple[Secret, ...]:
    """Read the WEBHOOK_SIGNING_KEY setting: one key or a list of keys, for rotation."""
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) for item in items):
        raise ConfigurationError(f"{name} must be text or a list of texts.")
    keys = tuple(Secret(item.strip()) for item in items)
    if not all(map(_CREDENTIAL.fullmatch, keys)):
        raise ConfigurationError(f"{name} is empty or holds characters that no key has.")
    return keys


SETTINGS = (
    Setting(
        "API_KEY",
        where="Mailgun > API Security, or your domain > Domain settings > Sending keys",
        required=True,
        secret=True,
        bare=True,
    ),
    Setting("SENDER_DOMAIN", where=WHERE_DOMAIN, bare=True, convert=domain_setting),
    Setting("API_URL", default="https://api.mailgun.net/v3", bare=True, convert=base_url),
    Setting(
        "WEBHOOK_SIGNING_KEY", where=WHERE_SIGNING_KEY, secret=True, bare=True, convert=signing_keys
    ),
)

SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.AMP,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.NON_ASCII_MAILBOX,
        Feature.ENVELOPE_SENDER,
        Feature.METADATA,
        Feature.TAGS,
        Feature.MANY_TAGS,
        Feature.TRACK_CLICKS,
        Feature.TRACK_OPENS,
        Feature.SEND_AT,
        Feature.TEMPLATES,
        Feature.TEMPLATE_SUBJECT,
        Feature.MERGE_DATA,
        Feature.MERGE_GLOBAL_DATA,
        Feature.MERGE_INTO_BODY,
        Feature.MERGE_METADATA,
        Feature.MERGE_HEADERS,
    }
)


# --- sending ---------------------------------------------------------------------------

Fields = list[tuple[str, str]]


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build one call, or one for each thousand recipients of a batch.

    Raises UnsupportedFeatureError or SerializationError before the first call, if at all.
    """
    refuse_what_is_lost(message)
    extra = dict(message.esp_extra)
    domain = quote(sender_domain(message, extra, settings), safe="")
    url = f"{settings['API_URL']}/{domain}/messages"
    own = extra_fields(extra)
    if message.is_batch:
        return batches(message, url, own, settings)
    fields = to_fields(message) + merged(message)
    return (call(message, url, overridden(fields, own), settings),)


def refuse_what_is_lost(message: PreparedMessage) -> None:
    """Raise UnsupportedFeatureError for what is finer than a `Feature`."""
    if not message.sender.addr_spec.isascii():
        raise unsupported("a sender whose mailbox is not ASCII: its From header would be broken")
    if len(message.alternatives) > 1:
        raise unsupported("more than one AMP version of the body")


def unsupported(what: str) -> UnsupportedFeatureError:
    """Return the error for something that Mailgun cannot express."""
    return UnsupportedFeatureError(f"{NAME} cannot express {what}.", esp_name=NAME)


def sender_domain(message: PreparedMessage, extra: dict[str, Any], settings: Settings) -> str:
    """Return the domain to send from; ``esp_extra``'s own is taken out of it.

    Mailgun has no envelope sender but its own addresses in this domain.
    """
    own = extra.pop("sender_domain", None)
    if own is not None:
        return _known_domain(own, "esp_extra['sender_domain']")
    if message.envelope_sender is not None:
        return _known_domain(message.envelope_sender.domain, "envelope_sender's domain")
    if settings["SENDER_DOMAIN"] is not None:
        return str(settings["SENDER_DOMAIN"])
    return _known_domain(message.sender.domain, "The sender's domain")


def _known_domain(value: Any, field: str) -> str:
    domain = as_domain(value)
    if domain is None:
        raise InvalidHeaderError(f"{field} is not a domain that Mailgun can send from.")
    return domain


def batches(
    message: PreparedMessage, url: str, own: Mapping[str, list[str]], settings: Settings
) -> Iterator[Call]:
    """Return the calls of a batch: the variables' presence gives each ``to`` a private copy.

    Each copy goes to cc and bcc as well, who count as recipients of each call.
    """
    rows = variables(message)
    placeholders = placeholder_fields(message, rows)
    json_body(list(rows.values()))  # what cannot be encoded is told before the first call
    size = max(1, MAX_RECIPIENTS - len(message.cc) - len(message.bcc))

    def one(start: int) -> Call:
        chunk = replace(message, to=message.to[start : start + size])
        fields = overridden(to_fields(chunk), placeholders)
        fields.append(("recipient-variables", row_text(chunk.to, rows)))
        return call(chunk, url, overridden(fields, own), settings)

    return map(one, range(0, len(message.to), size))


def call(message: PreparedMessage, url: str, fields: Fields, settings: Settings) -> Call:
    """Build the call for some form fields and the message's files."""
    files = [file_part(item) for item in message.attachments]
    content_type, body = multipart_body(fields, files) if files else form_body(fields)
    if any(CONTROLS.search(name) for name, _ in fields):
        raise InvalidHeaderError("The name of a form field holds a line break.")
    headers = {
        "Authorization": basic_auth(settings["API_KEY"]),
        "Accept": "application/json",
        "Content-Type": content_type,
    }
    return Call(HttpRequest("POST", url, headers, body), (Part(message.recipients),))


def basic_auth(api_key: str) -> Secret:
    """Return the value of the Authorization header (RFC 7617)."""
    return Secret("Basic " + base64.b64encode(f"api:{api_key}".encode()).decode("ascii"))


def to_fields(message: PreparedMessage) -> Fields:
    """Return the form of one message, without what depends on merge data.

    https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
    """
    fields = [
        ("from", str(message.sender)),
        *(("to", str(item)) for item in message.to),
        *(("cc", str(item)) for item in message.cc),
        *(("bcc", str(item)) for item in message.bcc),
        ("subject", message.subject or None),  # a template may have its own
        ("text", message.body),
        ("html", message.html),
        *(("amp-html", item.content) for item in message.alternatives),
        ("template", None if message.template_id is None else str(message.template_id)),
        ("h:Reply-To", ", ".join(map(str, message.reply_to)) or None),
        *((header_field(name), value) for name, value in message.headers),
        *((f"v:{key}", str(value)) for key, value in (message.metadata or {}).items()),
        *(("o:tag", tag) for tag in message.tags),
        ("o:tracking-clicks", yes_no(message.track_clicks)),
        ("o:tracking-opens", yes_no(message.track_opens)),
        ("o:deliverytime", delivery_time(message.send_at)),
    ]
    return [(name, value) for name, value in fields if value is not None]


def header_field(name: str) -> str:
    """Return the field of a header: spellings of one name are one field."""
    return f"h:{name.title()}"


def yes_no(switch: bool | None) -> str | None:
    """Return Mailgun's word for a switch; ``esp_extra`` can ask for ``htmlonly``."""
    return None if switch is None else "yes" if switch else "no"


def delivery_time(moment: datetime | None) -> str | None:
    """Return an RFC 5322 date with a numeric zone."""
    from email.utils import format_datetime

    try:
        return None if moment is None else format_datetime(moment.astimezone(timezone.utc))
    except OverflowError:
        raise SerializationError("send_at is beyond the years that can be written.") from None


def file_part(item: Attachment) -> FilePart:
    """Return one file; an inline one is named by its content id, since only that travels."""
    content_type = with_charset(item.content_type, item.charset)
    if item.is_inline:
        return FilePart("inline", str(item.content_id), content_type, item.data)
    return FilePart("attachment", item.filename, content_type, item.data)


# --- esp_extra -------------------------------------------------------------------------

# What may hold line breaks; anything else may become a header.
CONTENT_FIELDS = frozenset({"text", "html", "amp-html", "t:variables", "recipient-variables"})
_BREAKS = pattern(r"[\x00\r\n]")


def extra_fields(extra: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the texts of each field in ``esp_extra``; None leaves a field out.

    Raises SerializationError for what a form cannot carry, InvalidHeaderError for line breaks.
    """
    return {str(name): list(_extra_texts(str(name), value)) for name, value in extra.items()}


def _extra_texts(name: str, value: Any) -> Iterator[str]:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if item is None:
            continue
        found = _extra_text(name, item)
        if name not in CONTENT_FIELDS and _BREAKS.search(found):
            raise InvalidHeaderError(f"esp_extra[{name!r}] holds a line break.")
        yield found


def _extra_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return json_text(value)
    raise SerializationError(
        f"esp_extra[{name!r}] must be text, a number, a switch, a dict or a list of them, "
        f"not {type(value).__name__}."
    )


def json_text(value: Any) -> str:
    """Return a value as JSON. Raises SerializationError for what JSON cannot carry."""
    return bytes(json_body(value)).decode("utf-8")


def overridden(fields: Fields, own: Mapping[str, Iterable[str]]) -> Fields:
    """Return fields with others in place of those of the same name."""
    kept = [pair for pair in fields if pair[0] not in own]
    return kept + [(name, value) for name, values in own.items() for value in values]


# --- merge data ------------------------------------------------------------------------


def merged(message: PreparedMessage) -> Fields:
    """Return the field with merge data for all recipients of what is no batch."""
    data = message.merge_global_data
    if not data:
        return []
    if message.template_id is not None:
        return [("t:variables", json_text(data))]
    if len(message.to) > 1:  # with variables, the recipients would no longer see each other
        raise unsupported(
            "merge data in the text of one message to several recipients: "
            "give merge_data={} to send each of them a copy"
        )
    return [("recipient-variables", row_text(message.to, variables(message)))]


def row_text(to: Iterable[Address], rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the variables of some recipients, keyed by their bare addresses."""
    return json_text({item.addr_spec: rows[item.key] for item in to})


def variables(message: PreparedMessage) -> dict[str, dict[str, str]]:
    """Return every recipient's variables, by `Address.key`.

    Each has the same keys, since a placeholder without a value would stay as it is.
    """
    defaults = {**_data_defaults(message), **_metadata_defaults(message)}
    defaults |= _header_defaults(message)
    rows = {item.key: defaults | _own_variables(message, item.key) for item in message.to}
    _refuse_breaks(message, defaults, rows)
    return rows


def _refuse_breaks(
    message: PreparedMessage, names: Iterable[str], rows: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise InvalidHeaderError where a placeholder would bring a line break into a header."""
    own = [value for row in _rows_of(message, message.merge_headers) for value in row.values()]
    headers = [str(message.sender), message.subject, *map(str, message.reply_to)]
    places = "\n".join([*headers, *(value for _, value in message.headers), *own])
    for name in [name for name in names if f"%recipient.{name}%" in places]:
        if any(CONTROLS.search(row[name]) for row in rows.values()):
            raise InvalidHeaderError(
                f"The merge data {name!r} stands in a header and holds a line break or another "
                "control character."
            )


def _rows_of(
    message: PreparedMessage, rows: Mapping[str, Mapping[str, Any]] | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of this message's recipients."""
    for item in message.to if rows else ():
        if rows and item.key in rows:
            yield rows[item.key]


def _data_defaults(message: PreparedMessage) -> dict[str, str]:
    defaults = {str(key): "" for row in _rows_of(message, message.merge_data) for key in row}
    common = (message.merge_global_data or {}).items()
    return defaults | {str(key): scalar("merge_global_data", key, value) for key, value in common}


def _metadata_defaults(message: PreparedMessage) -> dict[str, str]:
    common = message.metadata or {}
    keys = [key for row in _rows_of(message, message.merge_metadata) for key in row]
    return {f"v:{key}": str(common.get(key, "")) for key in keys}


def _header_defaults(message: PreparedMessage) -> dict[str, str]:
    common = {header_field(name): value for name, value in reversed(message.headers)}
    common["h:Reply-To"] = ", ".join(map(str, message.reply_to))
    keys = [header_field(name) for row in _rows_of(message, message.merge_headers) for name in row]
    return {key: common.get(key, "") for key in keys}


def _own_variables(message: PreparedMessage, key: str) -> dict[str, str]:
    """Return one recipient's own variables."""
    data = (message.merge_data or {}).get(key, {})
    metadata = (message.merge_metadata or {}).get(key, {})
    headers = (message.merge_headers or {}).get(key, {})
    return {
        **{str(name): scalar("merge_data", name, value) for name, value in data.items()},
        **{f"v:{name}": str(value) for name, value in metadata.items()},
        **{header_field(name): value for name, value in headers.items()},
    }


def scalar(field: str, key: str, value: Any) -> str:
    """Return merge data as the text that takes a placeholder's place; of None, nothing."""
    if isinstance(value, (Mapping, list, tuple, set)):
        raise unsupported(f"lists and dicts in the merge data of a batch ({field}[{key!r}])")
    if not isinstance(value, (str, int, float, type(None))):
        raise SerializationError(
            f"{field}[{key!r}] must be text or a number, not {type(value).__name__}; "
            "convert it first."
        )
    try:
        return "" if value is None else str(value)
    except ValueError:
        raise SerializationError(f"{field}[{key!r}] is a number of too many digits.") from None


def placeholder_fields(
    message: PreparedMessage, rows: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return the fields whose values differ between the copies of a batch.

    The variables of metadata and headers are named like their fields. A template sees
    metadata only, so that its data becomes metadata as well.
    """
    keys = list(next(iter(rows.values()), ()))
    fields = {key: [f"%recipient.{key}%"] for key in keys if key.startswith(("v:", "h:"))}
    if message.template_id is None:
        return fields
    for key in keys:
        if key.startswith(("v:", "h:")):
            continue
        if f"v:{key}" in fields or key in (message.metadata or {}):
            raise unsupported(f"metadata and template data of the same name ({key!r}) in a batch")
        fields[f"v:{key}"] = [f"%recipient.{key}%"]
    return fields


# --- reading the answer ----------------------------------------------------------------

# What Mailgun answers with 200 to paths outside its API.
NOT_THE_API = b"Mailgun Magnificent API"
HINTS = {
    401: "Check MAILESP_MAILGUN_API_KEY: Mailgun > API Security.",
    404: (
        "Check the domain (MAILESP_MAILGUN_SENDER_DOMAIN) and its region "
        "(MAILESP_MAILGUN_API_URL): domains in the EU are at https://api.eu.mailgun.net/v3."
    ),
    413: "The message is too large.",
}
_TRY_AGAIN = pattern(r"try again (?:after|in) (?:([0-9]{1,9}) ?s|([A-Z][a-z]{2}, [\w :+-]{10,40}))")


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read Mailgun's answer: one id for all recipients, or an error for all of them."""
    if response.status != 200:
        return whole_call(call, refusal(response))
    answer = as_object(response.json())
    message_id = answer.get("id") if isinstance(answer.get("id"), str) else None
    if message_id and (text(answer, "message") or "").startswith("Queued"):
        return [accepted(part, message_id, Status.QUEUED) for part in call.parts]
    if response.body.strip() == NOT_THE_API:
        hint = "Nothing was sent: check MAILESP_MAILGUN_API_URL, which ends in /v3."
        return whole_call(call, failure(NAME, response, kind=APIError, hint=hint))
    return [_doubtful(part, response, message_id or None) for part in call.parts]


def _doubtful(part: Part, response: HttpResponse, message_id: str | None) -> Reading:
    """Return the reading of an answer that does not say "Queued"; an id is kept."""
    error = unreadable(NAME, response)
    if message_id is None:
        return same_for_all(part, error)
    entry = RecipientStatus(Status.UNKNOWN, message_id, str(error))
    return Reading((entry,) * len(part.recipients), error)


def refusal(response: HttpResponse) -> MailESPError:
    """Return the error for a status other than 200."""
    said = words(response)
    if response.status == 429 and "retry-after" not in response.headers:
        response = with_retry_after(response, said)
    return failure(NAME, response, message=said, hint=HINTS.get(response.status, ""))


def words(response: HttpResponse) -> str:
    """Return what Mailgun said: in a JSON object, as a JSON string, or as it is."""
    answer = response.json()
    if isinstance(answer, dict):
        return text(answer, "message") or ""
    return answer if isinstance(answer, str) else response.text[:200].strip()


def with_retry_after(response: HttpResponse, said: str) -> HttpResponse:
    """Write when to try again where others write it: Mailgun says it in words, or not at all."""
    from email.utils import formatdate

    match = _TRY_AGAIN.search(said)
    reset = integer(response.headers.get("x-ratelimit-reset"))
    if match:
        value = match[1] or match[2]
    elif reset is not None and 0 <= reset < 2**33:
        value = formatdate(reset, usegmt=True)
    else:
        return response
    return replace(response, headers={**response.headers, "retry-after": value})


# --- webhooks --------------------------------------------------------------------------

# Mailgun repeats webhooks for about eight hours, and it is not known to sign them anew.
MAX_AGE = timedelta(hours=12)
MAX_AHEAD = timedelta(minutes=5)
KEEP_TOKENS = (MAX_AGE + 2 * MAX_AHEAD).total_seconds()
# Bytes of an event. The signature is inside, so a stranger's JSON has to be decoded to be
# rejected; and 40 MB of it can become more than a gigabyte of objects.
MAX_EVENT = 1024 * 1024

# The lengths are fixed, since no digit may slide from one into the other.
_TIMESTAMP = pattern(rb"[0-9]{10}")
_TOKEN = pattern(rb"[!-~]{50}")
_SIGNATURE = pattern(rb"[0-9a-f]{64}")
SIGNED_FIELDS = ("timestamp", "token", "signature")
FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})

LEGACY = (
    "it is of Mailgun's legacy kind, which is not read. Delete it in Mailgun > Sending > "
    "Webhooks, and add it again there."
)
STORED = (
    "the route stores the mail and brings only links to the attachments. Replace store() by "
    "forward() in Mailgun > Receiving > Routes."
)


@record(frozen=True)
class Proof:
    """What authenticates a webhook: ``signatures`` are over ``timestamp`` and ``token``."""

    timestamp: bytes
    token: bytes
    signatures: tuple[bytes, ...]


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    """Check the signature in the body, and Basic credentials where configured.

    The HMAC-SHA256 covers a timestamp (seconds since 1970) and a random token, not the
    content; see `once`. Its age may be up to `MAX_AGE`.

    https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks

    Raises WebhookRejected, or ConfigurationError where no key is configured, or where the
    webhook is authentic and of a kind that is not read.
    """
    secret = settings.get("WEBHOOK_SECRET")
    if secret is not None:
        verify_basic(request.headers.get("Authorization"), secret)
    form = read_form(request) if is_form(request) else None
    if secret is None or settings.get("WEBHOOK_SIGNING_KEY") is not None:
        keys = settings.require("WEBHOOK_SIGNING_KEY")
        verify_proof(proof_of(request, form), keys, now)
    if form is not None and is_legacy(form):
        raise ConfigurationError(LEGACY)
    if form is not None and is_stored(form):
        raise ConfigurationError(STORED)


def is_form(request: WebhookRequest) -> bool:
    """Tell inbound mail from tracking events, which are JSON."""
    return request.content_type in FORM_TYPES


def verify_proof(proof: Proof | None, keys: Sequence[str], now: datetime) -> None:
    """Check that one of the keys made one of the signatures, not long ago.

    Raises WebhookRejected.
    """
    if (
        proof is None
        or not _TIMESTAMP.fullmatch(proof.timestamp)
        or not _TOKEN.fullmatch(proof.token)
    ):
        raise WebhookRejected("The webhook's signature is missing or malformed.")
    made = [
        hmac.new(key.encode(), proof.timestamp + proof.token, sha256).hexdigest().encode()
        for key in keys
    ]
    given = [item for item in proof.signatures if _SIGNATURE.fullmatch(item)]
    if True not in [hmac.compare_digest(one, other) for one in made for other in given]:
        raise WebhookRejected("The webhook's signature is wrong.")
    age = now - datetime.fromtimestamp(int(proof.timestamp), timezone.utc)
    if not -MAX_AHEAD <= age <= MAX_AGE:
        raise WebhookRejected("The webhook's signature is too old, or from the future.")


def proof_of(request: WebhookRequest, form: Form | None) -> Proof | None:
    """Return what is signed, or None where it is missing, or is there twice."""
    if form is not None:
        return proof(*map(form.only, SIGNED_FIELDS))
    if len(request.body) > MAX_EVENT:
        raise WebhookRejected("The webhook's JSON is larger than any of Mailgun's events.")
    signed = as_object(as_object(strict_json(request.body)).get("signature"))
    # A subaccount's event has the primary account's signature besides.
    return proof(*map(signed.get, (*SIGNED_FIELDS, "parent-signature")))


def proof(timestamp: Any, token: Any, *signatures: Any) -> Proof | None:
    """Return what is signed and the signatures, or None where something is missing."""
    when, what = _ascii(timestamp), _ascii(token)
    if when is None or what is None:
        return None
    return Proof(when, what, tuple(found for item in signatures if (found := _ascii(item))))


def _ascii(value: Any) -> bytes | None:
    """Return a JSON string as bytes; the timestamp is documented as a number, too."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**10:
        value = str(value)
    return value.encode() if isinstance(value, str) and value.isascii() else None


def strict_json(body: bytes) -> Any:
    """Decode JSON in UTF-8 in which no object has a key twice, or return None."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def once(request: WebhookRequest, settings: Settings) -> Once | None:
    """Bind the signed token to the decoded content, which the signature does not cover.

    Nothing is bound where Basic credentials alone authenticate.
    """
    if settings.get("WEBHOOK_SIGNING_KEY") is None:
        return None
    form = read_form(request) if is_form(request) else None
    proof = proof_of(request, form)
    if proof is None:
        return None
    content = json_digest(request.body) if form is None else form.digest()
    return Once(proof.token.decode("ascii"), content, KEEP_TOKENS)


def json_digest(body: bytes) -> bytes:
    """Return a digest of a document's meaning, however it is written; without the signature."""
    document = as_object(strict_json(body))
    content = {key: value for key, value in document.items() if key != "signature"}
    try:
        canonical = json.dumps(content, sort_keys=True).encode("ascii")
    except (ValueError, RecursionError):  # numbers or nesting beyond what can be written
        canonical = body
    return sha256(b"json" + canonical).digest()


def parse(request: WebhookRequest, settings: Settings) -> tuple[TrackingEvent | InboundEvent, ...]:
    """Read a webhook or inbound mail; whatever else becomes one unknown event."""
    if is_form(request):
        return (from_form(read_form(request), request.body),)
    raw = parse_json(request.body)
    if not isinstance(raw, dict):
        return (unknown_event(NAME, request.body, request.body),)
    return (to_event(raw, request.body),)


def from_form(form: Form, body: bytes) -> TrackingEvent | InboundEvent:
    """Read a form: inbound mail, or something unknown."""
    if is_mail(form):
        return to_inbound(form)
    return unknown_event(NAME, field_texts(form) or body, body)


# --- tracking --------------------------------------------------------------------------

# https://documentation.mailgun.com/docs/mailgun/user-manual/events/events
EVENT_TYPES: dict[str | None, EventType] = {
    "accepted": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "rejected": EventType.REJECTED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
    "complained": EventType.COMPLAINED,
    "unsubscribed": EventType.UNSUBSCRIBED,
}
SEVERITIES: dict[str | None, EventType] = {
    "temporary": EventType.DEFERRED,  # Mailgun keeps trying
    "permanent": EventType.BOUNCED,
}
REASONS: dict[str | None, RejectReason] = {
    "bounce": RejectReason.BOUNCED,
    "hardfail": RejectReason.BOUNCED,
    "suppress-bounce": RejectReason.BOUNCED,
    "suppress-complaint": RejectReason.SPAM,
    "suppress-unsubscribe": RejectReason.UNSUBSCRIBED,
    "espblock": RejectReason.BLOCKED,
    "blacklisted": RejectReason.BLOCKED,
    "old": RejectReason.TIMED_OUT,
}


def to_event(raw: dict[str, Any], body: bytes) -> TrackingEvent:
    """Normalise one tracking webhook; ``body`` identifies it where it has no id.

    https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks
    """
    event = as_object(raw.get("event-data"))
    event_type, reject_reason = classify(event)
    status = as_object(event.get("delivery-status"))
    number, name, address = text(event, "id"), text(event, "event"), recipient(event)
    identity: tuple[str | None, ...] = (NAME, number, text(event, "timestamp"), name, address)
    if number is None:  # ids are unique within a day
        identity = (NAME, sha256(body).hexdigest())
    return TrackingEvent(
        event_type=event_type,
        esp_event=raw,
        timestamp=from_epoch(event, "timestamp"),
        event_id=text(raw.get("signature"), "token"),
        message_id=message_id(event),
        recipient=address,
        reject_reason=reject_reason,
        description=text(status, "description") or text(event.get("reject"), "reason"),
        mta_response=text(status, "message"),
        tags=strings(as_list(event.get("tags"))),
        metadata=as_object(event.get("user-variables")),
        click_url=text(event, "url"),
        user_agent=text(event.get("client-info"), "user-agent"),
        identity=identity,
    )


def classify(event: Mapping[str, Any]) -> tuple[EventType, RejectReason | None]:
    """Return the event type and reject reason of an event."""
    name = text(event, "event")
    if name == "failed":
        return failed(event)
    event_type = EVENT_TYPES.get(name, EventType.UNKNOWN)
    if event_type is EventType.COMPLAINED:
        return event_type, RejectReason.SPAM
    return event_type, RejectReason.OTHER if event_type is EventType.REJECTED else None


def failed(event: Mapping[str, Any]) -> tuple[EventType, RejectReason]:
    """Tell what Mailgun tries again from what it gave up, and from what it never tried."""
    event_type = SEVERITIES.get(text(event, "severity"), EventType.FAILED)
    word = text(event, "reason") or ""
    reason = REASONS.get(word, RejectReason.OTHER)
    if event_type is EventType.BOUNCED and word.startswith("suppress-"):
        return EventType.REJECTED, reason
    if event_type is EventType.BOUNCED and word == "generic" and _is_refusal(event):
        return event_type, RejectReason.BOUNCED
    return event_type, reason


def _is_refusal(event: Mapping[str, Any]) -> bool:
    """Tell whether the receiving server answered 5xx; Mailgun's own codes are above that."""
    code = integer(as_object(event.get("delivery-status")).get("code"))
    return code is not None and 500 <= code <= 599


def message_id(event: Mapping[str, Any]) -> str | None:
    """Return the id as it was answered when the message was sent: in angle brackets."""
    found = text(_headers_of(event), "message-id")
    return f"<{found.strip('<> ')}>" if found else None


def recipient(event: Mapping[str, Any]) -> str | None:
    """Return the recipient; a rejected event has it in the headers only."""
    found = text(event, "recipient")
    if found is not None or text(event, "event") != "rejected":
        return found
    from ..decoding import Defects
    from ..headers import read_addresses

    addresses = read_addresses(text(_headers_of(event), "to") or "", Defects())
    return addresses[0].addr_spec if addresses else None


def _headers_of(event: Mapping[str, Any]) -> dict[str, Any]:
    return as_object(as_object(event.get("message")).get("headers"))


# --- inbound ---------------------------------------------------------------------------

SOURCE = "body-mime"
HEADER_LIST = "message-headers"
CONTENT = (SOURCE, "body-plain", "body-html", "stripped-text", "stripped-html")
TWICE = "a field of the post is there more than once: "


def is_mail(form: Form) -> bool:
    """Tell inbound mail by its content, which no other form has."""
    return form.file(SOURCE) is not None or any(form.data(name) is not None for name in CONTENT)


def is_legacy(form: Form) -> bool:
    """Tell a tracking event as it was before 2018: a form."""
    return form.data("event") is not None and not is_mail(form)


def is_stored(form: Form) -> bool:
    """Tell the notice of a ``store()`` route: links where the attachments should be."""
    links = form.data("attachments")  # which may be a header of the mail as well
    return links is not None and isinstance(parse_json(links), list) and raw_source(form) is None


def to_inbound(form: Form) -> InboundEvent:
    """Read inbound mail, raw or parsed.

    https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http
    """
    source = raw_source(form)
    digest = form.digest(without=SIGNED_FIELDS, whole_files=False).hex()
    return InboundEvent(
        message=parsed_message(form) if source is None else raw_message(form, source),
        esp_event=field_texts(form),
        event_id=form.text("token") or None,
        timestamp=from_epoch({"timestamp": form.text("timestamp")}, "timestamp"),
        identity=(NAME, form.text("Message-Id"), form.text("recipient"), digest),
    )


def field_texts(form: Form) -> dict[str, Any]:
    """Return the fields as text, several of one name as a list; the source stays bytes."""
    found: dict[str, list[Any]] = {}
    for name, value in form.fields:
        item = value if name == SOURCE else value.decode("utf-8", "replace")
        found.setdefault(name, []).append(item)
    return {name: items[0] if len(items) == 1 else items for name, items in found.items()}


def raw_source(form: Form) -> bytes | None:
    """Return the mail's bytes, where the route's URL ends in ``mime``.

    A mail can have a header of this name, which comes as a field too. The real one is the
    longer one: it holds that header.
    """
    found = [value for name, value in form.fields if name == SOURCE]
    file = form.file(SOURCE)
    if file is not None:
        found.append(bytes(file.data))
    return max(found, key=len, default=None)


def raw_message(form: Form, source: bytes) -> InboundMessage:
    """Read a mail's source."""
    from ..inbound import InboundMessage

    # The list may be a header of the mail, which is the sender's word.
    return InboundMessage.from_raw(
        source, **envelope(form), **verdict([*all_headers(form), *top(source)])
    )


MAX_HEADERS = 1024 * 1024
_BLANK_LINE = pattern(rb"\n\r?\n")


def top(source: bytes) -> list[tuple[str, str]]:
    """Return what Mailgun's spam filter wrote into the headers of a mail's source."""
    from ..inbound import InboundMessage

    blank = _BLANK_LINE.search(source)
    head = source[: blank.start() if blank else MAX_HEADERS]
    if b"x-mailgun-s" not in head[:MAX_HEADERS].lower():
        return []
    headers = InboundMessage.from_raw(head).headers
    return [(name, value) for name in SPAM_HEADERS for value in headers.get_all(name)]


def parsed_message(form: Form) -> InboundMessage:
    """Read the fields that Mailgun made of a mail."""
    from ..inbound import InboundMessage

    headers = header_list(form) or field_headers(form)
    return InboundMessage.from_fields(
        headers=headers,
        text=form.text("body-plain"),
        html="\n".join(form.values("body-html")),  # one for each part
        attachments=attachments(form),
        stripped_text=form.text("stripped-text"),
        stripped_html=form.text("stripped-html"),
        **envelope(form),
        **verdict(all_headers(form) or headers),
    )


def header_list(form: Form) -> list[tuple[str, str]]:
    """Return the headers: a JSON list of pairs, in order.

    A mail can have a header of this name, which comes as a field too. The real list is the
    longer one: it holds that header.
    """
    found = [value for name, value in form.fields if name == HEADER_LIST]
    return read_pairs(max(found, key=len, default=b""))


def all_headers(form: Form) -> list[tuple[str, str]]:
    """Return the headers of all lists, for a verdict that no list can make better."""
    found = [value for name, value in form.fields if name == HEADER_LIST]
    return [pair for value in found for pair in read_pairs(value)]


def read_pairs(source: bytes) -> list[tuple[str, str]]:
    """Read a JSON list of pairs of texts; whatever else it holds is left out."""
    pairs = as_list(parse_json(source))
    return [
        (pair[0], pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(i, str) for i in pair)
    ]


FIELD_HEADERS = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-Id", "In-Reply-To")


def field_headers(form: Form) -> list[tuple[str, str]]:
    """Return the most important headers where the list is missing: they are fields as well."""
    pairs = [(name, form.text(name) or form.text(name.lower())) for name in FIELD_HEADERS]
    return [(name, value) for name, value in pairs if value]


def envelope(form: Form) -> dict[str, Any]:
    """Return the envelope and the form's defects.

    Headers of the mail come as fields, too: where one is named like a field of Mailgun's,
    nobody can tell which is which.
    """
    defects = list(form.defects)
    found: dict[str, str | None] = {}
    for name in ("sender", "recipient"):
        values = set(form.values(name))
        if len(values) > 1:
            defects.append(TWICE + name)
        found[f"envelope_{name}"] = values.pop() if len(values) == 1 else None
    return {**found, "defects": defects}


SPAM_HEADERS = ("X-Mailgun-Sflag", "X-Mailgun-Sscore")


def verdict(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what the spam filter says. Of several, the worst: a spammer can add a better one."""
    words: dict[str, list[str]] = {"x-mailgun-sflag": [], "x-mailgun-sscore": []}
    for name, value in headers:
        if name.lower() in words:
            words[name.lower()].append(value.strip().lower())
    flags, scores = words.values()
    numbers = [number for item in scores if (number := as_number(item)) is not None]
    detected = True if "yes" in flags else False if "no" in flags else None
    return {"spam_detected": detected, "spam_score": max(numbers, default=None)}


def attachments(form: Form) -> list[InboundAttachment]:
    """Return the files; those in ``content-id-map`` are shown within the HTML."""
    from ..inbound import InboundAttachment

    ids = content_ids(form.data("content-id-map") or b"")

    def one(file: FormFile) -> InboundAttachment:
        return InboundAttachment.from_bytes(
            file.data,
            filename=file.filename,
            content_type=file.content_type,
            content_id=ids.get(file.name),
            disposition="inline" if file.name in ids else "attachment",
        )

    return list(map(one, form.files))


def content_ids(source: bytes) -> dict[str, str]:
    """Return the content id of each file, by its field.

    The JSON object may have a key twice or an empty one: it is read as pairs.
    """
    try:
        pairs = json.loads(source, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for pair in pairs if isinstance(pairs, tuple) else ():
        content_id, name = pair
        if isinstance(name, str) and content_id.strip("<> "):
            found.setdefault(name, content_id)
    return found


_WEBHOOK = Webhook(verify, parse, once=once)

esp = Esp(NAME, SETTINGS, SUPPORTS, build, read, tracking=_WEBHOOK, inbound=_WEBHOOK)
