"""From a message as an app wrote it to one that any ESP's room can read.

`prepare` applies the defaults, parses every address, checks every text that becomes part of
a header for characters that could start another one, and normalises the rest. It is pure.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timezone, tzinfo
from typing import Any

from .address import CONTROLS, Address, IdnaEncoder, encode_domain, idna2008, parse_address
from .exceptions import (
    InvalidAddressError,
    InvalidHeaderError,
    SerializationError,
    UnsupportedFeatureError,
)
from .message import (
    BASICS,
    Alternative,
    Attachment,
    Message,
    PreparedMessage,
    as_attachment,
    is_basic,
)
from .patterns import pattern
from .records import field as _field
from .records import record

logger = logging.getLogger("flask_mailesp")

# RFC 5322 section 2.2: printable ASCII without the colon.
_HEADER_NAME = pattern(r"[!-9;-~]+")
_WORD = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = pattern(rf"{_WORD}/{_WORD}(?:[ \t]*;.*)?")
_LIST_TOKEN = pattern(r'"(?:[^"\\]|\\.)*"?|<[^<>]*>?|,|[^,"<]+', re.DOTALL)
_CONTENT_ID = pattern(r"[^\s<>]+")

# Headers that have a field of their own; given twice they would contradict each other.
_OWN_FIELD = {
    "from": "sender",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "subject": "subject",
    "return-path": "envelope_sender",
    "content-type": "attachments or alternatives",
    "content-transfer-encoding": "attachments or alternatives",
    "mime-version": "attachments or alternatives",
}

_KEY = pattern(r"[!-~]{1,255}")  # it may travel in a header

_SENDERS = 50  # how many are remembered

_MERGE_ROWS = ("merge_data", "merge_metadata", "merge_headers")


@record(frozen=True)
class PrepareOptions:
    """What preparing depends on besides the message and its defaults.

    ``senders`` are those seen last, by their text: nearly every message has the same.
    """

    idna: IdnaEncoder = idna2008
    timezone: tzinfo = timezone.utc
    senders: dict[str, Address] = _field(default_factory=dict, repr=False, compare=False)


def prepare(
    message: Message,
    defaults: Mapping[str, Any],
    options: PrepareOptions,
    esp_key: str = "",
    mailer_name: str = "",
) -> PreparedMessage:
    """Return the message with defaults applied and every field checked.

    Where a field has values for several mailers or ESPs, that of the mailer comes first.

    Raises InvalidMessageError (InvalidAddressError, InvalidHeaderError, SerializationError),
    naming the field and never quoting an address.
    """
    given = _Given(message, defaults, options)
    basic = is_basic(message) and defaults.keys() <= BASICS
    prepared = PreparedMessage(
        sender=_sender(given),
        to=given.addresses("to"),
        cc=given.addresses("cc"),
        bcc=given.addresses("bcc"),
        subject=_text("subject", given("subject")),
        body=_optional_text("body", given("body")),
        html=_optional_text("html", given("html")),
        **({} if basic else _options(given, options, mailer_name, esp_key)),
    )
    if not (prepared.to or prepared.cc or prepared.bcc):
        raise InvalidAddressError("The message has no recipient: give to, cc or bcc.")
    _refuse_controls(prepared)
    if prepared.is_batch:
        _check_batch(prepared)
    return prepared


def _options(
    given: _Given, options: PrepareOptions, mailer_name: str, esp_key: str
) -> dict[str, Any]:
    """Return what a message may have besides words and recipients."""
    headers, header_reply_to = _headers(given("headers"))
    return {
        "reply_to": _reply_to(given, header_reply_to),
        "attachments": _attachments(given("attachments")),
        "headers": headers,
        "alternatives": _alternatives(given("alternatives")),
        "envelope_sender": _envelope_sender(given),
        "metadata": _metadata("metadata", given("metadata")),
        "tags": _tags(given("tags")),
        "track_clicks": _switch("track_clicks", given("track_clicks")),
        "track_opens": _switch("track_opens", given("track_opens")),
        "send_at": _moment(given("send_at"), options.timezone),
        "template_id": _template_id(given("template_id"), mailer_name, esp_key),
        "merge_data": _merge(given, "merge_data", dict),
        "merge_global_data": _mapping("merge_global_data", given("merge_global_data")) or None,
        "merge_metadata": _merge(given, "merge_metadata", _row_metadata),
        "merge_headers": _merge(given, "merge_headers", _row_headers),
        "esp_extra": _mapping("esp_extra", given("esp_extra")),
        "is_batch": any(given(name) is not None for name in _MERGE_ROWS),
        "idempotency_key": _idempotency_key(given.own("idempotency_key")),  # no default for all
    }


class _Given:
    """Reads a message's attributes: what was given, else the default."""

    __slots__ = ("_defaults", "_message", "_options")

    def __init__(
        self, message: Message, defaults: Mapping[str, Any], options: PrepareOptions
    ) -> None:
        self._message = message
        self._defaults = defaults
        self._options = options

    def __call__(self, name: str) -> Any:
        if self._defaults and name in self._defaults and not self._message.is_given(name):
            return self._defaults[name]
        return getattr(self._message, name)

    def own(self, name: str) -> Any:
        return getattr(self._message, name)

    def is_own(self, name: str) -> bool:
        """Tell whether the value is the message's own, not a default."""
        return self._message.is_given(name)

    def addresses(self, name: str) -> tuple[Address, ...]:
        return self.parse(self(name), name)

    def parse(self, values: Any, field: str) -> tuple[Address, ...]:
        """Parse each value; the same mailbox twice in one field is one recipient."""
        if not values:
            return ()
        if len(values) == 1:
            return (self.address(values[0], field),)
        found: dict[str, Address] = {}
        for index, value in enumerate(values):
            address = self.address(value, f"{field}[{index}]")
            found.setdefault(address.key, address)
        return tuple(found.values())

    def sender(self, value: Any) -> Address:
        known = self._options.senders
        found = known.get(value) if type(value) is str else None
        if found is None:
            found = self.address(value, "sender")
            if type(value) is str:
                if len(known) >= _SENDERS:
                    known.clear()
                known[value] = found
        return found

    def address(self, value: Any, field: str) -> Address:
        return encode_domain(parse_address(value, field), self._options.idna, field)


def _sender(given: _Given) -> Address:
    value = given("sender")
    if value is None:
        raise InvalidAddressError(
            "The message has no sender: give Message(sender=...), or set "
            'MAILESP_SEND_DEFAULTS = {"sender": "you@your-domain.example"}.'
        )
    return given.sender(value)


def _envelope_sender(given: _Given) -> Address | None:
    value = given("envelope_sender")
    return None if value is None else given.address(value, "envelope_sender")


def _reply_to(given: _Given, header: list[str]) -> tuple[Address, ...]:
    """Combine reply_to and a Reply-To header: the message's own stands before a default."""
    field = given.addresses("reply_to")
    if not header:
        return field
    from_header = given.parse(header, "headers['Reply-To']")
    if given.is_own("headers") and not given.is_own("reply_to"):
        return from_header
    if field and given.is_own("headers") and field != from_header:
        raise InvalidHeaderError("reply_to and headers['Reply-To'] differ: give one of them.")
    return field or from_header


def _text(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise SerializationError(f"{field} must be str, not {type(value).__name__}; convert it first.")


def _optional_text(field: str, value: Any) -> str | None:
    return None if value is None else _text(field, value)


def _switch(field: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise SerializationError(f"{field} must be True, False or None, not {type(value).__name__}.")


def _headers(value: Any) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Return the headers, and apart from them the addresses of a Reply-To header."""
    if not value:
        return (), []
    kept, reply_to = [], []
    for name, text in _header_pairs("headers", value):
        own = _OWN_FIELD.get(name.lower())
        if own is not None:
            raise InvalidHeaderError(f"headers[{name!r}] has a field of its own: give {own}.")
        if name.lower() == "reply-to":
            reply_to += split_addresses(text)
        else:
            kept.append((name, text))
    return tuple(kept), reply_to


def _header_pairs(field: str, value: Any) -> list[tuple[str, str]]:
    pairs = list(value.items() if isinstance(value, Mapping) else value)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise SerializationError(f"{field} must be a dict or a list of (name, value) pairs.")
    return [
        (_header_name(field, name), _header_text(f"{field}[{name!r}]", text))
        for name, text in pairs
    ]


def _header_name(field: str, name: Any) -> str:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InvalidHeaderError(f"{field} holds a malformed header name (RFC 5322 section 2.2).")
    return name


def _header_text(field: str, value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_text(field, value)
    return _text(field, value)


def _number_text(field: str, value: float) -> str:
    try:
        return str(value)
    except ValueError:
        raise SerializationError(f"{field} is a number of too many digits.") from None


def split_addresses(text: str) -> list[str]:
    """Split a header's address list at commas outside quotes and angle brackets.

    Nothing but the commas is lost: what is unbalanced is left to the address parser.
    """
    parts: list[list[str]] = [[]]
    for piece in _LIST_TOKEN.findall(text):
        if piece == ",":
            parts.append([])
        else:
            parts[-1].append(piece)
    return [part for part in ("".join(tokens).strip(" \t") for tokens in parts) if part]


def _attachments(values: Any) -> tuple[Attachment, ...]:
    if not values:
        return ()
    return tuple(map(_checked_attachment, values))


def _checked_attachment(item: Any) -> Attachment:
    attachment = as_attachment(item)
    _media_type("An attachment's content_type", attachment.content_type)
    for field in ("filename", "content_type", "content_id", "charset"):
        value = getattr(attachment, field)
        if value is not None:
            _refuse(f"An attachment's {field}", _text(f"An attachment's {field}", value))
    if attachment.content_id is not None and not _CONTENT_ID.fullmatch(attachment.content_id):
        raise InvalidHeaderError("An attachment's content_id holds white space, < or > (RFC 2392).")
    if attachment.disposition not in ("attachment", "inline"):
        raise InvalidHeaderError('An attachment\'s disposition must be "attachment" or "inline".')
    return attachment


def _media_type(field: str, value: Any) -> str:
    if not isinstance(value, str) or CONTROLS.search(value) or not _MEDIA_TYPE.fullmatch(value):
        raise InvalidHeaderError(f'{field} must be a media type such as "image/png" (RFC 2045).')
    return value


def _alternatives(values: Any) -> tuple[Alternative, ...]:
    return tuple(map(_alternative, values)) if values else ()


def _alternative(item: Any) -> Alternative:
    if isinstance(item, Alternative):
        item = (item.content, item.content_type)
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise SerializationError("An alternative must be a (content, content_type) pair.")
    content, content_type = item
    return Alternative(
        _text("An alternative's content", content),
        _media_type("An alternative's content_type", content_type),
    )


def _mapping(field: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SerializationError(f"{field} must be a dict, not {type(value).__name__}.")
    return dict(value)


def _metadata(field: str, value: Any) -> dict[str, Any] | None:
    metadata = _mapping(field, value)
    for key in metadata:
        _refuse(f"A {field} key", _text(f"A {field} key", key))
    return {key: _datum(f"{field}[{key!r}]", item) for key, item in metadata.items()} or None


def _datum(field: str, value: Any) -> str | float:
    """Check one value of metadata; of an enumeration's member, take what it stands for."""
    if isinstance(value, str):
        _refuse(field, value)
        return str.__str__(value)
    if isinstance(value, (int, float)):
        _number_text(field, value)
        return value
    raise SerializationError(
        f"{field} must be str or a number, not {type(value).__name__}; convert it first."
    )


def _tags(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        values = [values]
    return tuple(_text("A tag", tag) for tag in values) if values else ()


def _idempotency_key(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and _KEY.fullmatch(value)):
        return value
    raise InvalidHeaderError("idempotency_key must be 1 to 255 printable ASCII characters.")


def _template_id(value: Any, mailer_name: str, esp_key: str) -> str | int | None:
    if isinstance(value, Mapping):
        value = value.get(mailer_name, value.get(esp_key))
        if value is None:
            raise UnsupportedFeatureError(f"template_id names no template for {esp_key!r}.")
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return value
    raise SerializationError(f"template_id must be str or int, not {type(value).__name__}.")


def _merge(
    given: _Given, field: str, row: Callable[[Any], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]] | None:
    """Key the rows by `Address.key`, so that any spelling of an address finds its row."""
    value = given(field)
    if value is None:
        return None
    rows = {}
    for address, data in _mapping(field, value).items():
        if not isinstance(data, Mapping):
            raise SerializationError(f"{field} must hold a dict for each address.")
        rows[given.address(address, f"A key of {field}").key] = row(data)
    return rows


def _row_metadata(row: Any) -> Mapping[str, Any]:
    return _metadata("merge_metadata", row) or {}


def _row_headers(row: Any) -> Mapping[str, str]:
    headers = dict(_header_pairs("merge_headers", row))
    for name, value in headers.items():
        if name.lower() in _OWN_FIELD:
            raise InvalidHeaderError(f"merge_headers[{name!r}] has a field of its own.")
        _refuse(f"merge_headers[{name!r}]", value)
    return headers


def _moment(value: Any, zone: tzinfo) -> datetime | None:
    """Return send_at as an aware datetime."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.utcoffset() is not None else value.replace(tzinfo=zone)
    if isinstance(value, date):
        return datetime.combine(value, time(), zone)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    raise SerializationError("send_at must be a datetime, a date or seconds since 1970.")


def _refuse_controls(prepared: PreparedMessage) -> None:
    """Refuse line breaks and control characters in whatever may become a header.

    One search over all texts together is enough for nearly every message.
    """
    texts = [prepared.subject, *prepared.tags]
    for pair in prepared.headers:
        texts += pair
    if isinstance(prepared.template_id, str):
        texts.append(prepared.template_id)
    if not CONTROLS.search("\t".join(texts)):
        return
    _refuse("subject", prepared.subject)
    for tag in prepared.tags:
        _refuse("A tag", tag)
    for name, value in prepared.headers:
        _refuse(f"headers[{name!r}]", value)
    _refuse("template_id", str(prepared.template_id))


def _refuse(field: str, value: str) -> None:
    if CONTROLS.search(value):
        raise InvalidHeaderError(f"{field} holds a line break or another control character.")


def _check_batch(prepared: PreparedMessage) -> None:
    """Log merge keys that match no recipient (how many, not which: they are addresses)."""
    if not prepared.to:
        raise InvalidAddressError("A message with merge data goes to each `to`: give at least one.")
    known = {address.key for address in prepared.to}
    for field in _MERGE_ROWS:
        strangers = len((getattr(prepared, field) or {}).keys() - known)
        if strangers:
            logger.warning("%d keys of %s match no `to` and are ignored.", strangers, field)
