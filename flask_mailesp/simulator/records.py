"""The values the simulator hands out: what was sent, refused and posted back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Attached:
    """A file that came with an accepted message.

    ``content_id`` is the bare id of an inline image, None for an ordinary attachment.
    """

    name: str
    content_type: str
    data: bytes = field(repr=False)
    content_id: str | None = None


@dataclass(frozen=True)
class SentMessage:
    """One message a provider accepted: one request, or one item of a batch.

    ``id`` is how `Simulator.emit` and the provider find it again: Postmark's MessageID, or
    the first recipient's number on Postal. ``message_id`` is what the answer calls so: the
    same UUID on Postmark, the RFC 5322 Message-ID without brackets (or None) on Postal.

    ``recipients`` are the bare addresses the provider will deliver to, in order; ``inactive``
    those it accepted the message without. ``ids`` gives each address the provider's id,
    always as text. ``path`` is the provider's own path of the endpoint.

    ``payload`` is the JSON object as received; the other fields are read out of it, and for
    a template rendered. ``raw`` is the RFC 5322 source where that is what was sent.
    ``test`` is set where the provider only pretends (Postmark's test token).
    """

    esp: str
    id: str
    message_id: str | None
    path: str
    at: datetime
    payload: Any = field(repr=False)
    recipients: list[str] = field(default_factory=list)
    inactive: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    from_: str = ""
    to: list[str] = field(default_factory=list)
    cc: list[str] = field(default_factory=list)
    bcc: list[str] = field(default_factory=list)
    reply_to: list[str] = field(default_factory=list)
    subject: str | None = None
    text: str | None = None
    html: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    attachments: list[Attached] = field(default_factory=list)
    tag: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    stream: str | None = None
    raw: bytes | None = field(default=None, repr=False)
    test: bool = False


class Refusal(NamedTuple):
    """A request, or one message of a batch, that the provider would not take.

    ``status`` is the HTTP status the client saw (200 for Postal's errors and for an item of
    a batch); ``body`` the decoded JSON, or the text of an HTML page.
    """

    esp: str
    path: str
    status: int
    body: Any


@dataclass(frozen=True)
class Delivery:
    """One webhook request and what came of it.

    ``url`` is without credentials; they are in ``request_headers``. ``status`` is None and
    ``error`` says why where no answer came.
    """

    url: str
    request_body: bytes = field(repr=False)
    request_headers: dict[str, str] = field(repr=False)
    status: int | None
    response_body: bytes = b""
    error: str | None = None


@dataclass(frozen=True)
class Fault:
    """What happens to one API request instead of a proper answer.

    With a ``status`` that answer is given and the request is not looked at. ``drop`` cuts
    the connection without any answer: "before" the provider took the message, or "after".
    ``delay`` (seconds) comes first; with nothing else given the request is then served.
    A ``Content-Length`` among the headers that promises more than ``body`` holds gives a
    truncated answer.
    """

    status: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: Literal["before", "after"] | None = None


@dataclass(frozen=True)
class Hook:
    """Where a provider posts, and how its console was set up. See `Simulator.hook`."""

    tracking: str | None = None
    inbound: str | None = None
    include_content: bool = False
    subscription_changes: bool = False
    inbound_format: Literal["raw", "hash"] = "raw"
    inbound_encoding: Literal["json", "form"] = "json"
    strip_replies: bool = False
    include_attachments: bool = True
    incoming_events: bool = False
    signatures: tuple[str, ...] = ("sha1", "sha256")


@dataclass(frozen=True)
class Post:
    """A webhook request that is ready to go: `url` may still carry credentials."""

    url: str
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    timeout: float = 10.0
    follow_redirects: bool = False
    decode_userinfo: bool = True


class Inbound(NamedTuple):
    """A mail on its way in, with what the provider knows beside its source.

    ``mail_from`` is None for the null sender; ``spam`` is (flag, score) where it was checked.
    """

    raw: bytes
    to: str
    mail_from: str | None
    raw_email: bool = False
    spam: tuple[bool, float] | None = None
