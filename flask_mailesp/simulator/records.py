"""The values the simulator hands out: what was sent, refused and posted back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Verdict = Literal["done", "retry", "dropped", "exhausted"]
Moment = Literal["before", "after"]


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

    ``tag`` is the first of the ``tags``. ``track_opens``, ``track_clicks``, ``send_at``,
    ``envelope_sender`` and ``idempotency_key`` are None where nothing was asked for;
    ``template`` is the id or alias of a template, ``variables`` what it was rendered with,
    and ``alternatives`` are (type, text) of bodies beyond text and HTML.

    ``aliases`` are other ids that the sender may know it by. ``payload`` is the JSON object as
    received (of a form: its fields), and ``content_type`` the request's; the other fields are
    read out of it, and for a template rendered. ``raw`` is the RFC 5322 source where that is
    what was sent. ``test`` is set where the provider only pretends (Postmark's test token).
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
    tags: list[str] = field(default_factory=list)
    track_opens: bool | None = None
    track_clicks: bool | None = None
    send_at: datetime | None = None
    envelope_sender: str | None = None
    idempotency_key: str | None = None
    template: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    alternatives: list[tuple[str, str]] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    content_type: str = "application/json"


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
    ``error`` says why where no answer came, or where a fault kept the request back.

    ``message`` is the id of the `SentMessage` it speaks of (None for inbound mail), ``at``
    the time of the attempt (UTC) and ``attempt`` its number, from 1. ``verdict`` is what the
    provider makes of the answer: "done", "retry" (``retry_in`` seconds, before the time
    scale), "dropped" (this answer is final), "exhausted" (the last attempt failed).
    ``forged`` marks a request with a wrong credential or signature, made by a fault.
    """

    url: str
    request_body: bytes = field(repr=False)
    request_headers: dict[str, str] = field(repr=False)
    status: int | None
    response_body: bytes = b""
    error: str | None = None
    esp: str = ""
    event: str = ""
    message: str | None = None
    at: datetime | None = None
    attempt: int = 1
    verdict: Verdict | None = None
    retry_in: float | None = None
    forged: bool = False


@dataclass(frozen=True)
class Pending:
    """A webhook request that is still to come: an automatic event, a retry, one held back.

    ``due_in`` is in seconds of this machine's clock, the time scale applied.
    """

    esp: str
    event: str
    message: str | None
    attempt: int
    due_in: float


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an API request, or with a webhook. See `Simulator.fault`.

    For an API request: ``delay`` (seconds) comes first. With a ``status`` that answer is
    given, with ``body`` and ``headers``, and the request is not looked at; ``retry_after``
    adds the header (a number of seconds, or an HTTP date). ``drop`` closes the connection
    without any answer, ``reset`` aborts it (TCP RST): "before" the provider took the message
    or "after". ``answer`` spoils the answer to a message that was taken: "garbage" is not
    JSON, "truncated" ends in the middle. With only a delay the request is then served. A
    ``Content-Length`` in ``headers`` that promises more than ``body`` holds also truncates.

    For a webhook, with ``webhook`` set: "lost" (never posted), "doubled" (posted twice, byte
    for byte), "late" (posted ``delay`` seconds later), "reordered" (kept back until the next
    one of the provider has gone, ``delay`` seconds at most), "forged" (preceded by the same
    request with a wrong credential or signature).

    ``esp`` and ``path`` (a part of the API's path) or ``event`` limit it to some. ``times``
    is how often it happens, None without end; ``probability`` how likely, each time.
    ``id`` is given by the simulator.
    """

    status: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: Moment | None = None
    reset: Moment | None = None
    answer: Literal["garbage", "truncated"] | None = None
    retry_after: str | None = None
    webhook: Literal["lost", "doubled", "late", "reordered", "forged"] | None = None
    esp: str | None = None
    path: str | None = None
    event: str | None = None
    times: int | None = 1
    probability: float = 1.0
    id: int = 0


@dataclass(frozen=True)
class Hook:
    """Where a provider posts, and how its console was set up. See `Simulator.hook`.

    A provider whose console offers more has a subclass of its own.
    """

    tracking: str | None = None
    inbound: str | None = None


@dataclass(frozen=True)
class Schedule:
    """How a provider repeats a webhook: the waits between attempts, in seconds.

    ``judge`` tells what an HTTP status means ("done", "retry" or "dropped"); None is no
    answer at all. ``remaining`` names a header that counts the retries that are left.
    """

    waits: tuple[float, ...] = ()
    judge: Callable[[int | None], Verdict] = field(default=lambda _status: "done")
    remaining: str | None = None


@dataclass(frozen=True)
class Post:
    """A webhook request that is ready to go: `url` may still carry credentials.

    ``sign(post, now)`` completes it just before each attempt, for signatures that hold the
    time. ``proofs`` names the headers that prove where it comes from, for a fault to forge;
    ``forge(post)`` forges a proof that is in the body.
    """

    url: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    timeout: float = 10.0
    follow_redirects: bool = False
    decode_userinfo: bool = True
    esp: str = ""
    event: str = ""
    message: str | None = None
    schedule: Schedule = field(default_factory=Schedule)
    proofs: tuple[str, ...] = ()
    sign: Callable[[Post, datetime], Post] | None = field(default=None, repr=False)
    forge: Callable[[Post], Post] | None = field(default=None, repr=False)


class Inbound(NamedTuple):
    """A mail on its way in, with what the provider knows beside its source.

    ``mail_from`` is None for the null sender; ``spam`` is (flag, score) where it was checked.
    ``raw_email`` asks for the source beside what is parsed, where a provider can give both.
    """

    raw: bytes
    to: str
    mail_from: str | None
    raw_email: bool = False
    spam: tuple[bool, float] | None = None
