"""What webhooks tell: tracking events and inbound mail, the same for every ESP."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .records import field, record
from .words import Word

if TYPE_CHECKING:
    from .inbound import InboundMessage


class EventType(Word):
    """What happened to a message, in the field's common vocabulary."""

    QUEUED = "queued"  # the ESP has it and will try, or holds it
    SENT = "sent"  # handed on; delivery is not known yet
    REJECTED = "rejected"  # the ESP will not send it
    FAILED = "failed"  # the ESP could not send it
    BOUNCED = "bounced"  # the receiving server refused it
    DEFERRED = "deferred"  # not yet; the ESP keeps trying
    DELIVERED = "delivered"  # the receiving server took it
    AUTORESPONDED = "autoresponded"  # an automatic reply came back
    OPENED = "opened"
    CLICKED = "clicked"
    COMPLAINED = "complained"  # marked as spam by the recipient
    UNSUBSCRIBED = "unsubscribed"
    SUBSCRIBED = "subscribed"
    INBOUND = "inbound"  # about mail coming in
    INBOUND_FAILED = "inbound_failed"
    UNKNOWN = "unknown"


class RejectReason(Word):
    """Why a recipient was rejected, bounced or failed."""

    INVALID = "invalid"
    BOUNCED = "bounced"
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"
    SPAM = "spam"
    UNSUBSCRIBED = "unsubscribed"
    OTHER = "other"


@record(frozen=True)
class TrackingEvent:
    """One thing that happened to one recipient's copy of a message.

    ``timestamp`` is aware, or None where the ESP gives no time. ``esp_event`` is what the
    ESP posted, decoded from JSON, or the raw bytes where they were not JSON.
    """

    event_type: EventType
    esp_event: Any = field(default=None, repr=False)
    timestamp: datetime | None = None
    event_id: str | None = None
    message_id: str | None = None
    recipient: str | None = field(default=None, repr=False)
    reject_reason: RejectReason | None = None
    description: str | None = field(default=None, repr=False)
    mta_response: str | None = field(default=None, repr=False)
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)
    click_url: str | None = field(default=None, repr=False)
    user_agent: str | None = field(default=None, repr=False)
    identity: tuple[str | None, ...] = field(default=(), repr=False)

    @property
    def key(self) -> str:
        """A stable key for telling repetitions of one event: the same for every retry.

        Where the ESP gives no id it is made from what identifies the event, so two
        identical events within the clock's resolution are one.
        """
        return event_key("tracking", self.identity)


def unknown_event(
    esp_name: str, raw: Any, body: bytes, event_id: str | None = None
) -> TrackingEvent:
    """Return the event for what is authentic but has no known shape.

    ``raw`` is what was understood of the ``body``, which identifies the event where the ESP
    gives it no id.
    """
    identity = (esp_name, event_id or sha256(body).hexdigest())
    return TrackingEvent(EventType.UNKNOWN, raw, event_id=event_id, identity=identity)


@record(frozen=True)
class InboundEvent:
    """One mail that came in.

    ``esp_event`` is what the ESP posted: decoded JSON, a dict of form fields, or raw bytes
    where neither could be read.
    """

    message: InboundMessage
    esp_event: Any = field(default=None, repr=False)
    event_id: str | None = None
    timestamp: datetime | None = None
    identity: tuple[str | None, ...] = field(default=(), repr=False)

    @property
    def event_type(self) -> EventType:
        """Always ``inbound``."""
        return EventType.INBOUND

    @property
    def key(self) -> str:
        """A stable key for telling repetitions of one event: the same for every retry."""
        return event_key("inbound", self.identity)


def event_key(kind: str, fields: Iterable[str | None]) -> str:
    """Hash fields, each with its length, so that no two lists of fields run together."""
    digest = sha256(kind.encode())
    for value in fields:
        data = b"-" if value is None else b"+" + value.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(data), data))
    return digest.hexdigest()
