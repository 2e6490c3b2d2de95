"""Messages as an app writes them, and as an ESP's room reads them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal

from .address import Address, parse_address
from .exceptions import InvalidAddressError, InvalidMessageError, SerializationError
from .records import field, record

Disposition = Literal["attachment", "inline"]


class _NotGiven:
    """The type of a parameter that the caller left out."""

    def __repr__(self) -> str:
        return "not given"


_NOT_GIVEN: Final[Any] = _NotGiven()

_LISTS = ("to", "cc", "bcc", "reply_to", "attachments", "alternatives", "tags")
_MAPPINGS = ("metadata", "esp_extra")
_ADDRESSES = ("to", "cc", "bcc", "reply_to", "sender", "envelope_sender")


@record(frozen=True, init=False)
class Attachment:
    """A file that goes with a message.

    ``data`` may be bytes, text (encoded as ``charset``, UTF-8 by default), an open file or
    an `email.message.Message`. With a ``content_id`` (no angle brackets) or
    ``disposition="inline"`` it is an inline image: HTML shows it as ``cid:<content_id>``.
    Without a ``content_type`` it is guessed from the filename.
    """

    filename: str
    content_type: str
    data: bytes = field(repr=False)
    content_id: str | None
    disposition: Disposition
    charset: str | None

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = b"",
        *,
        content_id: str | None = None,
        disposition: Disposition = "attachment",
        charset: str | None = None,
    ) -> None:
        if isinstance(data, str):
            charset = charset or "utf-8"
        if disposition == "inline" and not content_id:
            content_id = make_content_id()
        values: dict[str, Any] = {
            "filename": filename or _default_filename(content_type),
            "content_type": content_type or _guess_type(filename),
            "data": _as_bytes(data, charset),
            "content_id": _bare_content_id(content_id),
            "disposition": disposition,
            "charset": charset,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def is_inline(self) -> bool:
        """True where the HTML refers to it by content id."""
        return self.content_id is not None

    @classmethod
    def from_file(
        cls, path: str | Path, content_type: str | None = None, **extra: Any
    ) -> Attachment:
        """Read a file from disk; never give it a path that a stranger chose."""
        path = Path(path)
        return cls(path.name, content_type, path.read_bytes(), **extra)


def _bare_content_id(content_id: Any) -> Any:
    return content_id.strip(" <>") if isinstance(content_id, str) else content_id


def make_content_id() -> str:
    """Return a new content id (RFC 2392), unique and without angle brackets."""
    return f"{secrets.token_hex(8)}@inline"


def _as_bytes(data: Any, charset: str | None) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return _encode(data, charset or "utf-8")
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    for method in ("as_bytes", "read"):
        if callable(getattr(data, method, None)):
            return _as_bytes(getattr(data, method)(), charset)
    raise SerializationError(
        f"An attachment's data must be bytes, str or an open file, not {type(data).__name__}."
    )


def _encode(data: str, charset: str) -> bytes:
    try:
        return data.encode(charset)
    except (ValueError, LookupError, TypeError):
        raise SerializationError(
            "An attachment's text cannot be encoded in its charset; is that a known one?"
        ) from None


def _guess_type(filename: Any) -> str:
    import mimetypes

    # As a path of one part, so that "data:text/html," or "//[x" is not read as a URL.
    name = str(filename or "").replace("\\", "/").rpartition("/")[2]
    guessed, encoding = mimetypes.guess_type(f"/{name}")
    return guessed if guessed and not encoding else "application/octet-stream"


def _default_filename(content_type: Any) -> str:
    import mimetypes

    media_type = str(content_type or "").partition(";")[0].strip()
    return "attachment" + (mimetypes.guess_extension(media_type) or "")


class Message:
    """An email message. Making one needs no app context; sending it checks every field.

    Addresses are ``"a@b.c"``, ``"Name <a@b.c>"``, ``("Name", "a@b.c")`` or `Address`; one
    item is exactly one address, and a single address may stand where a list is expected.
    A pair that could be read both ways, ``("a@b.c", "d@e.f")``, is an InvalidAddressError.

    An attribute that is *not given* takes its default from ``MAILESP_SEND_DEFAULTS``;
    ``None`` cancels that default; anything else, ``False`` included, is a value. Something
    put into a container, as with ``message.tags.append("news")``, has been given too.

    body, html:
        The text and HTML bodies. An HTML-only message has ``body=None``.
    headers:
        A mapping, or a list of pairs where a name repeats.
    alternatives:
        Further forms of the body: ``(content, content_type)`` pairs such as an invitation.
    metadata, tags:
        Come back in tracking events where the ESP supports it.
    send_at:
        A datetime (naive: in ``MAILESP_TIMEZONE``), a date (midnight) or epoch seconds.
    merge_data, merge_metadata, merge_headers:
        ``{address: {...}}``. Any of them, even ``{}``, makes a batch: one copy for each
        ``to``, who does not see the others.
    merge_global_data:
        Merge data for all recipients.
    template_id:
        A template stored at the ESP; ``{"postmark": ..., ...}`` where names differ.
    esp_extra:
        Anything else the ESP's API takes; see the ESP's page in the documentation.
    idempotency_key:
        A text of your own by which the ESP recognises the message if it is sent again, such
        as ``"order-17-receipt"``: at most 255 printable ASCII characters, no personal data.
        Where the ESP takes one, each send gets a new one if none is given.
    """

    subject: str
    to: list[Any]
    body: str | None
    html: str | None
    sender: Any
    cc: list[Any]
    bcc: list[Any]
    attachments: list[Any]
    reply_to: list[Any]
    headers: Any
    alternatives: list[Any]
    envelope_sender: Any
    metadata: dict[str, Any]
    tags: list[Any]
    track_clicks: bool | None
    track_opens: bool | None
    send_at: datetime | date | float | None
    template_id: Any
    merge_data: Mapping[str, Mapping[str, Any]] | None
    merge_global_data: Mapping[str, Any] | None
    merge_metadata: Mapping[str, Mapping[str, Any]] | None
    merge_headers: Mapping[str, Mapping[str, Any]] | None
    esp_extra: dict[str, Any]
    idempotency_key: str | None

    def __init__(
        self,
        subject: str | None = _NOT_GIVEN,
        to: Any = _NOT_GIVEN,
        body: str | None = _NOT_GIVEN,
        html: str | None = _NOT_GIVEN,
        sender: Any = _NOT_GIVEN,
        cc: Any = _NOT_GIVEN,
        bcc: Any = _NOT_GIVEN,
        attachments: Any = _NOT_GIVEN,
        reply_to: Any = _NOT_GIVEN,
        *,
        headers: Any = _NOT_GIVEN,
        alternatives: Any = _NOT_GIVEN,
        envelope_sender: Any = _NOT_GIVEN,
        metadata: Mapping[str, Any] | None = _NOT_GIVEN,
        tags: Any = _NOT_GIVEN,
        track_clicks: bool | None = _NOT_GIVEN,
        track_opens: bool | None = _NOT_GIVEN,
        send_at: datetime | date | float | None = _NOT_GIVEN,
        template_id: Any = _NOT_GIVEN,
        merge_data: Mapping[str, Mapping[str, Any]] | None = _NOT_GIVEN,
        merge_global_data: Mapping[str, Any] | None = _NOT_GIVEN,
        merge_metadata: Mapping[str, Mapping[str, Any]] | None = _NOT_GIVEN,
        merge_headers: Mapping[str, Mapping[str, Any]] | None = _NOT_GIVEN,
        esp_extra: Mapping[str, Any] | None = _NOT_GIVEN,
        idempotency_key: str | None = _NOT_GIVEN,
    ) -> None:
        values = dict(locals())
        del values["self"]
        given = {name: value for name, value in values.items() if value is not _NOT_GIVEN}
        own = self.__dict__
        own["_given"] = set(given)
        for name, value in given.items():
            own[name] = _value_of(name, value)

    def __getattr__(self, name: str) -> Any:
        """Return a list or dict that nobody has looked at yet: most messages need few."""
        if name not in _EMPTY:
            raise AttributeError(f"Message has no attribute {name!r}")
        return self.__dict__.setdefault(name, _EMPTY[name]())

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in Message.__annotations__:
            raise AttributeError(f"Message has no attribute {name!r}")
        self.__dict__["_given"].add(name)
        self.__dict__[name] = _value_of(name, value)

    def __copy__(self) -> Message:
        """Return a message with containers of its own: changing it leaves this one as it is."""
        twin = type(self).__new__(type(self))
        for name, value in self.__dict__.items():
            twin.__dict__[name] = value.copy() if isinstance(value, (list, dict, set)) else value
        return twin

    def is_given(self, name: str) -> bool:
        """Tell whether an attribute was given a value (None included) or filled since."""
        return name in self.__dict__["_given"] or bool(getattr(self, name))

    def attach(
        self,
        filename: str | Attachment | None = None,
        content_type: str | None = None,
        data: Any = b"",
        **extra: Any,
    ) -> Attachment:
        """Attach data (parameters as for `Attachment`, or one) and return the attachment."""
        if isinstance(filename, Attachment):
            attachment = filename
        else:
            attachment = Attachment(filename, content_type, data, **extra)
        self.attachments.append(attachment)
        return attachment

    def attach_file(
        self, path: str | Path, content_type: str | None = None, **extra: Any
    ) -> Attachment:
        """Attach a file from disk. Never give it a path that a stranger chose."""
        return self.attach(Attachment.from_file(path, content_type, **extra))

    def embed(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = b"",
        *,
        content_id: str | None = None,
    ) -> str:
        """Add an inline image; return its content id, for ``<img src="cid:...">``."""
        attachment = self.attach(
            filename, content_type, data, content_id=content_id, disposition="inline"
        )
        return str(attachment.content_id)

    def embed_file(
        self, path: str | Path, content_type: str | None = None, *, content_id: str | None = None
    ) -> str:
        """Add an inline image from disk; return its content id."""
        file = Path(path)
        return self.embed(file.name, content_type, file.read_bytes(), content_id=content_id)

    def to_dict(self) -> dict[str, Any]:
        """Return what was given as JSON-compatible data; `from_dict` reads it back."""
        return {name: _dump(name, getattr(self, name)) for name in _FIELDS if self.is_given(name)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """Make a message from what `to_dict` returned.

        Raises InvalidMessageError, naming the key, for what `to_dict` never returns.
        """
        if not isinstance(data, Mapping):
            raise InvalidMessageError(f"from_dict() takes a dict, not {type(data).__name__}.")
        return cls(**{name: _load(name, value) for name, value in data.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # A debugger may show one whose __init__ has failed half way.
        to, cc, bcc, files = (
            len(self.__dict__.get(name, ())) for name in ("to", "cc", "bcc", "attachments")
        )
        return f"<Message to {to + cc + bcc} recipients, {files} attachments>"


_FIELDS = tuple(Message.__annotations__)
_EMPTY: dict[str, type[list[Any]] | type[dict[str, Any]]] = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys(_MAPPINGS, dict),
    "headers": dict,
}

# What the other attributes are when nothing is given: the class has it for all messages.
_AT_REST = {**dict.fromkeys(name for name in _FIELDS if name not in _EMPTY), "subject": ""}
for _name, _rest in _AT_REST.items():
    setattr(Message, _name, _rest)

BASICS = frozenset({"sender", "to", "cc", "bcc", "subject", "body", "html"})
_OTHER_CONTAINERS = tuple(name for name in _EMPTY if name not in BASICS)


def is_basic(message: Message) -> bool:
    """Tell quickly whether a message has words and recipients only, as most of them do.

    Of a subclass it is never told: it may have attributes that it works out.
    """
    own = message.__dict__
    return (
        type(message) is Message
        and own["_given"] <= BASICS
        and (len(own) <= len(own["_given"]) + 1 or not any(map(own.get, _OTHER_CONTAINERS)))
    )


def _value_of(name: str, value: Any) -> Any:
    """Return an attribute's value for what was given."""
    if name in _EMPTY:
        return _contained(name, value)
    return _AT_REST[name] if value is None else value


def _contained(name: str, value: Any) -> Any:
    """Return a fresh container, so that later changes to the caller's do not matter."""
    if value is None:
        return _EMPTY[name]()
    if name in ("metadata", "esp_extra"):
        return dict(value) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping):
        return dict(value) if name == "headers" else _pairs(name, value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or _is_one(name, value):
        return [value]
    return list(value)


def _pairs(name: str, value: Mapping[Any, Any]) -> list[Any]:
    """Read ``{content_type: content}`` as alternatives; any other mapping is one item."""
    if name == "alternatives":
        return [(content, content_type) for content_type, content in value.items()]
    return [value]


def _is_one(name: str, value: Any) -> bool:
    """Tell a ``("Name", "a@b.c")`` pair from a list of addresses."""
    if name not in ("to", "cc", "bcc", "reply_to"):
        return False
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], str):
        return False
    if isinstance(value[0], str) and "@" in value[0] and _is_address(value[0]):
        raise InvalidAddressError(
            f"{name} is a pair in which both sides could be addresses: give several "
            "addresses as a list, or one as Address(addr_spec, display_name)."
        )
    return isinstance(value[0], (str, type(None)))


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except InvalidAddressError:
        return False
    return True


# --- to JSON and back ------------------------------------------------------------------


def _dump(name: str, value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, list):
        return [_dump_item(name, item) for item in value]
    if isinstance(value, Mapping):
        return {_dump_key(key): item for key, item in value.items()}
    return _dump_item(name, value)


def _dump_item(name: str, item: Any) -> Any:
    if name == "attachments":
        return _dump_attachment(item)
    if isinstance(item, Alternative):
        return [item.content, item.content_type]
    if isinstance(item, tuple):
        return list(item)
    if name in _ADDRESSES and hasattr(item, "addr_spec"):
        return [item.display_name, item.addr_spec] if item.display_name else item.addr_spec
    return item


def _dump_key(key: Any) -> Any:
    """Return a mapping's key as text; the ``merge_*`` mappings may be keyed by any address."""
    if isinstance(key, tuple) and len(key) == 2:
        return key[1]
    return getattr(key, "addr_spec", key)


def _dump_attachment(item: Any) -> dict[str, Any]:
    attachment = as_attachment(item)
    return {
        "filename": attachment.filename,
        "content_type": attachment.content_type,
        "data": base64.b64encode(attachment.data).decode("ascii"),
        "content_id": attachment.content_id,
        "disposition": attachment.disposition,
        "charset": attachment.charset,
    }


def _load(name: str, value: Any) -> Any:
    if name not in Message.__annotations__:
        raise InvalidMessageError(f"Message has no attribute {name!r}.")
    try:
        if name == "attachments":
            return [_load_attachment(**item) for item in value]
        if name in ("to", "cc", "bcc", "reply_to") and isinstance(value, list):
            return [_load_address(item) for item in value]
        if name in ("sender", "envelope_sender"):
            return _load_address(value)
        if name == "send_at" and isinstance(value, str):
            return datetime.fromisoformat(value) if "T" in value else date.fromisoformat(value)
    except (ValueError, TypeError):
        raise InvalidMessageError(f"{name} is not what to_dict() returns.") from None
    return value


def _load_address(value: Any) -> Any:
    """JSON has no tuples: a ``("Name", "a@b.c")`` pair comes back as a list."""
    return tuple(value) if isinstance(value, list) else value


def _load_attachment(*, data: str, **fields: Any) -> Attachment:
    return Attachment(data=base64.b64decode(data, validate=True), **fields)


def as_attachment(item: Any) -> Attachment:
    """Accept an `Attachment` or a ``(filename, content_type, data)`` tuple."""
    if isinstance(item, Attachment):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 3:
        return Attachment(*item)
    raise SerializationError(
        "An attachment must be an Attachment or a (filename, content_type, data) tuple, "
        f"not {type(item).__name__}."
    )


@record(frozen=True)
class Alternative:
    """One more form of the body, such as a calendar invitation (RFC 2046 section 5.1.4)."""

    content: str = field(repr=False)
    content_type: str


@record(frozen=True, repr=False)
class PreparedMessage:
    """A message with every default applied and every field checked, as ``build`` reads it.

    Addresses have ASCII domains, ``send_at`` is aware, header names and values are clean.
    ``metadata`` values are str, int, float or bool. ``None`` means *not asked for*; a message
    for an ESP that takes an ``idempotency_key`` always has one, and where ``build`` yields
    several calls each needs a key of its own, made from it and always the same. The
    ``merge_*`` mappings are keyed by `Address.key`; ``is_batch`` tells that one copy goes
    to each ``to``. ``meant_for`` are the recipients before the app's safety rails changed
    them; it is for the result, and no room reads it.
    """

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    body: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    envelope_sender: Address | None = None
    metadata: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    track_clicks: bool | None = None
    track_opens: bool | None = None
    send_at: datetime | None = None
    template_id: str | int | None = None
    merge_data: Mapping[str, Mapping[str, Any]] | None = None
    merge_global_data: Mapping[str, Any] | None = None
    merge_metadata: Mapping[str, Mapping[str, Any]] | None = None
    merge_headers: Mapping[str, Mapping[str, str]] | None = None
    esp_extra: Mapping[str, Any] = field(default_factory=dict)
    is_batch: bool = False
    idempotency_key: str | None = None
    meant_for: tuple[Address, ...] = ()

    @property
    def recipients(self) -> tuple[Address, ...]:
        """Everyone the message goes to: to, cc and bcc, in that order."""
        return self.to + self.cc + self.bcc

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever its case, or None."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def __repr__(self) -> str:
        return f"<PreparedMessage to {len(self.recipients)} recipients>"
