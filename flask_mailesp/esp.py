"""What an ESP *is*: a frozen record of pure functions, and the values that pass through them.

An ESP's room (``esps/*.py``) fills in one `Esp`. Nothing in it does I/O, reads a clock or
knows Flask: it turns a `PreparedMessage` into `Call`\\ s, an `HttpResponse` into `Reading`\\ s,
and a `WebhookRequest` into events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from .address import Address
from .exceptions import ConfigurationError, MailESPError
from .records import field, record

if TYPE_CHECKING:
    from .events import InboundEvent, TrackingEvent
    from .message import PreparedMessage
    from .results import RecipientStatus


class Feature(Enum):
    """Something a message may ask for that not every ESP can express.

    The value is the row's name in the capability table.
    """

    ATTACHMENTS = "Attachments"
    INLINE_IMAGES = "Inline images"
    AMP = "AMP version of the body"
    ALTERNATIVES = "Other alternative parts (calendar)"
    HEADERS = "Custom headers"
    MANY_REPLY_TO = "Several Reply-To addresses"
    NO_TO = "Cc or Bcc without To"
    NON_ASCII_MAILBOX = "Non-ASCII mailboxes (SMTPUTF8)"
    ENVELOPE_SENDER = "Envelope sender"
    METADATA = "Metadata"
    TAGS = "Tag"
    MANY_TAGS = "Several tags"
    TRACK_CLICKS = "Click tracking per message"
    TRACK_OPENS = "Open tracking per message"
    SEND_AT = "Scheduled sending"
    TEMPLATES = "Templates stored at the ESP"
    TEMPLATE_SUBJECT = "Own subject with a template"
    TEMPLATE_BODY = "Own body with a template"
    MERGE_DATA = "Merge data per recipient"
    MERGE_GLOBAL_DATA = "Merge data for all recipients"
    MERGE_INTO_BODY = "Merge data in the message's own text"
    MERGE_METADATA = "Metadata per recipient"
    MERGE_HEADERS = "Headers per recipient"
    IDEMPOTENCY_KEY = "Idempotency key"


@record(frozen=True)
class Setting:
    """One configuration key of an ESP, without the ``MAILESP_<ESP>_`` prefix.

    ``where`` tells a person where the value is found in the ESP's console. A ``secret`` is
    never shown; where it has a ``convert``, that returns a `Secret` or a tuple of them.
    ``bare`` settings (credentials and URLs) are also looked up without the ``MAILESP_``
    prefix. ``env`` names environment variables that are looked at last, for those that a
    provider's own tools read. Without a ``required`` one nothing can be sent.
    ``convert(key, value)`` returns the value to use, or raises ConfigurationError naming
    ``key``; a name that ends in ``_URL`` and a ``default`` that is a bool have their own
    checks before it. All mailers of an ESP share the settings of its webhooks, as they share
    the URL: those named ``WEBHOOK_...``, and those that say ``hooks``.
    """

    name: str
    where: str = ""
    default: Any = None
    required: bool = False
    secret: bool = False
    bare: bool = False
    convert: Callable[[str, Any], Any] | None = None
    env: tuple[str, ...] = ()
    hooks: bool = False


class Secret(str):
    """A credential: text wherever it is used, stars wherever it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("A credential cannot be pickled.")


def veiled(value: Any) -> Any:
    """Wrap text, bytes and lists of them in `Secret`; a dict in one that shows nothing.

    For values on their way to being checked: tools that show the locals of frames would
    else show them when a check fails.
    """
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, bytes):
        return SecretBytes(value)
    if isinstance(value, (list, tuple)):
        return [veiled(item) for item in value]
    return Veiled(value) if isinstance(value, Mapping) else value


class Veiled(dict[str, Any]):
    """A dict of settings whose values are not shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "{***}"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("Settings hold credentials and cannot be pickled.")


class SecretBytes(bytes):
    """A credential as bytes, for comparing; shown as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("A credential cannot be pickled.")


class Settings(Mapping[str, Any]):
    """An ESP's resolved settings: ``settings["SERVER_TOKEN"]``. Never shows a secret.

    ``require()`` is for settings that only some uses need, such as a webhook key.
    """

    __slots__ = ("_missing", "_secret", "_values")

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        secret: Iterable[str] = (),
        missing: Mapping[str, str] | None = None,
    ) -> None:
        self._values = dict(values)
        self._secret = frozenset(secret)
        self._missing = dict(missing or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def require(self, name: str) -> Any:
        """Return a setting's value, or raise ConfigurationError saying how to set it."""
        value = self._values.get(name)
        if value is None:
            raise ConfigurationError(self._missing.get(name, f"{name} is not set."))
        return value

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """Return a copy in which some settings have other values."""
        whole = {**self._values, **values}
        return Settings(whole, secret=self._secret, missing=self._missing)

    def secrets(self) -> tuple[str, ...]:
        """Every secret string, for blotting out of what an ESP echoes."""
        found = (self._values.get(name) for name in self._secret)
        return tuple(text for value in found for text in _texts(value))

    def __repr__(self) -> str:
        return f"<Settings: {', '.join(sorted(self._values))}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("Settings hold credentials and cannot be pickled.")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


@runtime_checkable
class Body(Protocol):
    """A request body of known length that is produced in pieces, again on each iteration."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@record(frozen=True)
class HttpRequest:
    """One HTTP request, complete. Its ``repr`` hides headers and body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Body = field(default=b"", repr=False)


@record(frozen=True)
class HttpResponse:
    """One HTTP response. Header names are lower-case; ``repr`` hides what the ESP said.

    ``complete`` is False where the body broke off, could not be decoded or exceeded the
    size limit: ``body`` then holds what there was.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    complete: bool = True

    @property
    def text(self) -> str:
        """The body as text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON, or None if it is not JSON."""
        from .wire import parse_json

        return parse_json(self.body)


@record(frozen=True)
class Part:
    """What one item of an ESP's answer is about.

    ``recipients`` are those of one copy of a message; ``message`` is the index of the
    message among those given to `Esp.build_many` (0 for a single message). ``id`` is the id
    that the room gave the copy itself, for ESPs whose answer has none for it.
    """

    recipients: tuple[Address, ...] = field(repr=False)
    message: int = 0
    id: str | None = None


@record(frozen=True)
class Call:
    """One request to the ESP and the parts its answer will speak of, in order."""

    request: HttpRequest
    parts: tuple[Part, ...]


@record(frozen=True)
class Reading:
    """What the ESP's answer says about one part.

    ``statuses`` has one entry per recipient of the part, in order. ``error`` is set where
    the part was not (or not certainly) accepted, and says why.
    """

    statuses: tuple[RecipientStatus, ...] = field(repr=False)
    error: MailESPError | None = None


class Headers(Protocol):
    """What a webhook's headers can do."""

    def get(self, name: str, /) -> str | None:
        """Return a header's value, whatever the case of its name, or None."""
        ...


@record(frozen=True)
class WebhookRequest:
    """A webhook's request, copied from the web framework. ``body`` is the raw bytes.

    ``headers.get(name)`` disregards case.
    """

    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        """The media type, lower-case, without parameters."""
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()


if TYPE_CHECKING:
    Event = TrackingEvent | InboundEvent


@record(frozen=True)
class Fetch:
    """What a webhook speaks of and does not bring: a mail, a certificate.

    The core sends ``request``, within the app's timeouts and without following redirects,
    and hands the answer, whatever its status, to ``resume``; that returns what `Webhook`'s
    ``parse`` (or ``verify``) returns, further fetches included, or raises FetchError to have
    the ESP post the webhook again. An answer that does not come, breaks off or has more than
    ``max_bytes`` counts as a FetchError too.

    ``sign(request, settings, now)`` completes the request just before it is sent. ``foreign``
    tells that the host is not of the ESP's API, or that the URL is text from outside: it must
    be https and resolve to public addresses only. Where ``keep_seconds`` is given, a complete
    answer with status 200 is remembered that long, by its URL.
    """

    request: HttpRequest
    resume: Callable[[HttpResponse], Sequence[Event | Fetch] | Fetch | None] = field(repr=False)
    max_bytes: int = 5 * 1024 * 1024
    sign: Callable[[HttpRequest, Settings, datetime], HttpRequest] | None = None
    foreign: bool = False
    keep_seconds: float = 0.0


@record(frozen=True)
class Once:
    """A token that authenticates only the content it was first seen with.

    For signatures that do not cover the body: whoever has seen one token must not be able
    to send something else with it. ``token`` and ``content`` (a digest of the decoded
    content) are remembered for ``keep_seconds``.
    """

    token: str = field(repr=False)
    content: bytes = field(repr=False)
    keep_seconds: float


@record(frozen=True)
class Webhook:
    """How an ESP's webhooks of one kind are authenticated and read.

    ``verify(request, settings, now)`` raises WebhookRejected unless the raw request is
    authentic, and ConfigurationError where no key or secret is configured to tell by. It
    may return a `Fetch` whose ``resume`` goes on verifying.
    ``parse(request, settings)`` is total: it returns events, or fetches that lead to events,
    for every body. ``once(request, settings)``, where given, is asked after ``verify``.
    ``retry_status`` is the answer that makes this ESP try again later.
    """

    verify: Callable[[WebhookRequest, Settings, datetime], Fetch | None]
    parse: Callable[[WebhookRequest, Settings], Sequence[Event | Fetch]]
    retry_status: int = 503
    once: Callable[[WebhookRequest, Settings], Once | None] | None = None


@record(frozen=True)
class Esp:
    """One email service provider.

    ``build(message, settings)`` yields one or several `Call`\\ s; ``read(call, response,
    settings)`` returns one `Reading` per part of the call, in order, and is total.
    ``build_many(messages, settings)`` is for ESPs with a multi-message endpoint.
    ``sign(request, settings, now)`` completes a request just before it is sent, for
    signatures that hold the time. ``complete(values, name)`` sees all resolved settings and
    returns those to add or replace; it raises ConfigurationError for what does not go
    together, with ``name("API_KEY")`` for a setting's full name.
    """

    name: str
    settings: tuple[Setting, ...]
    supports: frozenset[Feature]
    build: Callable[[PreparedMessage, Settings], Iterable[Call]]
    read: Callable[[Call, HttpResponse, Settings], Sequence[Reading]]
    tracking: Webhook | None = None
    inbound: Webhook | None = None
    build_many: Callable[[Sequence[PreparedMessage], Settings], Iterable[Call]] | None = None
    sign: Callable[[HttpRequest, Settings, datetime], HttpRequest] | None = None
    complete: Callable[[Mapping[str, Any], Callable[[str], str]], Mapping[str, Any]] | None = None

    @property
    def key(self) -> str:
        """The name in settings and URLs: ``postmark``, ``amazon_ses``."""
        return self.name.lower().replace(" ", "_").replace("-", "_")

    def webhook(self, kind: Literal["tracking", "inbound"]) -> Webhook | None:
        """Return the tracking or inbound webhook."""
        return self.tracking if kind == "tracking" else self.inbound
