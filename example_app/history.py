"""What was sent and what came back: in memory, bounded, safe for threads.

A real app would use its database. Webhooks and pages are served by different threads.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from flask import Flask

from flask_mailesp import Address, InboundEvent, RecipientStatus, SendResult, TrackingEvent

LIMIT = 100  # of each kind; the oldest are forgotten
LONGEST_TEXT = 5_000  # characters of a mail that are kept


@dataclass(frozen=True)
class Sent:
    """One attempt to send. ``at`` is aware, UTC; ``number`` counts from 1."""

    number: int
    at: datetime
    subject: str
    result: SendResult


@dataclass(frozen=True)
class Tracked:
    """What the page shows of a tracking event. ``at`` is when it happened, aware."""

    number: int
    at: datetime
    key: str
    esp_name: str
    event_type: str
    recipient: str | None
    message_id: str | None
    reject_reason: str | None
    description: str | None
    click_url: str | None

    def is_about(self, address: str, status: RecipientStatus) -> bool:
        """Tell whether this is about one recipient's copy of a message."""
        if self.message_id is None or self.message_id != status.message_id:
            return False
        return Address(self.recipient or "").key == Address(address).key


@dataclass(frozen=True)
class Mail:
    """What the page shows of a mail that came in."""

    number: int
    at: datetime
    key: str
    esp_name: str
    sender: str
    subject: str
    text: str
    attachments: tuple[str, ...]


class Snapshot(NamedTuple):
    """Everything there is, newest first. ``version`` changes with every change."""

    version: str
    sent: list[Sent]
    events: list[Tracked]
    mails: list[Mail]

    def latest(self, address: str, status: RecipientStatus) -> Tracked | None:
        """Return the last event about one recipient's copy of a message, if any."""
        return next((event for event in self.events if event.is_about(address, status)), None)


class History:
    """One app's memory since its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = secrets.token_hex(4)  # an open page must notice a restart
        self._count = 0
        self._sent: deque[Sent] = deque(maxlen=LIMIT)
        self._events: deque[Tracked] = deque(maxlen=LIMIT)
        self._mails: deque[Mail] = deque(maxlen=LIMIT)

    def add_sent(self, subject: str, result: SendResult) -> Sent:
        """Remember what became of a message."""
        with self._lock:
            sent = Sent(self._next(), _now(), subject, result)
            self._sent.appendleft(sent)
            return sent

    def add_event(self, event: TrackingEvent, esp_name: str) -> None:
        """Remember a tracking event, once: providers repeat what was not answered in time."""
        with self._lock:
            if any(known.key == event.key for known in self._events):
                return
            self._events.appendleft(
                Tracked(
                    number=self._next(),
                    at=event.timestamp or _now(),
                    key=event.key,
                    esp_name=esp_name,
                    event_type=event.event_type.value,
                    recipient=event.recipient,
                    message_id=event.message_id,
                    reject_reason=event.reject_reason.value if event.reject_reason else None,
                    description=event.description or event.mta_response,
                    click_url=event.click_url,
                )
            )

    def add_mail(self, event: InboundEvent, esp_name: str) -> None:
        """Remember a mail, once."""
        message = event.message  # no accessor of it raises, whatever the mail
        with self._lock:
            if any(known.key == event.key for known in self._mails):
                return
            self._mails.appendleft(
                Mail(
                    number=self._next(),
                    at=event.timestamp or _now(),
                    key=event.key,
                    esp_name=esp_name,
                    sender=str(message.from_email or "nobody"),
                    subject=message.subject,
                    text=message.text[:LONGEST_TEXT],
                    attachments=tuple(
                        file.filename for file in [*message.attachments, *message.inlines]
                    ),
                )
            )

    def snapshot(self) -> Snapshot:
        """Return a copy that no other thread changes."""
        with self._lock:
            return Snapshot(
                f"{self._start}.{self._count}",
                list(self._sent),
                list(self._events),
                list(self._mails),
            )

    def _next(self) -> int:
        self._count += 1
        return self._count


def history_of(app: Flask) -> History:
    """Return an app's history."""
    history: History = app.extensions["history"]
    return history


def _now() -> datetime:
    return datetime.now(timezone.utc)
