"""What became of a message, per recipient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from .address import Address, address_key, parse_address
from .esp import HttpResponse
from .exceptions import InvalidAddressError, MailESPError
from .records import field, record
from .words import Word


class Outcome(Word):
    """What became of a message as a whole."""

    ACCEPTED = "accepted"
    PARTIAL = "partial"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNCERTAIN = "uncertain"
    CANCELLED = "cancelled"


class Status(Word):
    """What is known about one recipient when the send ends."""

    QUEUED = "queued"
    SENT = "sent"
    REJECTED = "rejected"
    FAILED = "failed"
    INVALID = "invalid"
    UNKNOWN = "unknown"


ACCEPTED = frozenset({Status.QUEUED, Status.SENT})


@record(frozen=True)
class RecipientStatus:
    """What is known about one recipient.

    ``queued`` and ``sent``: the ESP has the message, under ``message_id``. ``rejected``:
    the ESP will not deliver to this address (suppressed). ``invalid``: the ESP says the
    address is wrong. ``failed``: certainly not sent, for another reason. ``unknown``: the
    ESP may or may not have it.

    A cc or bcc recipient of a batch gets several copies, and ``message_id`` is then the set
    of their ids. ``description`` is what the ESP said; it may quote addresses, so it is not
    in the ``repr``.
    """

    status: Status
    message_id: str | frozenset[str] | None = None
    description: str = field(default="", repr=False)


@record(frozen=True)
class Attempt:
    """One HTTP exchange with the ESP.

    ``started`` is aware, UTC; ``duration`` is in seconds; ``status`` is the HTTP status or
    None where there was no answer; ``recipients`` is a count.
    """

    esp_name: str
    outcome: Outcome
    started: datetime
    duration: float
    recipients: int
    status: int | None = None
    error: MailESPError | None = None


class Recipients(Mapping[str, RecipientStatus]):
    """Statuses by recipient, found by any spelling of the address.

    Iteration gives each bare address once, as the caller spelled it.
    """

    __slots__ = ("_entries", "_spellings")

    def __init__(self, entries: Iterable[tuple[Address, RecipientStatus]] = ()) -> None:
        self._entries: dict[str, tuple[str, RecipientStatus]] = {}
        self._spellings: dict[str, str] = {}  # keys that IDNA encoding has changed
        for address, status in entries:
            self._entries.setdefault(address.key, (address.spelling or address.addr_spec, status))
            if address.spelling:
                self._spellings.setdefault(address_key(address.spelling), address.key)

    def __getitem__(self, address: str | Address | tuple[str, str]) -> RecipientStatus:
        entry = self._find(address_key(address)) if isinstance(address, str) else None
        entry = entry or self._find(_parsed_key(address))
        if entry is None:
            raise KeyError("no such recipient")
        return entry[1]

    def _find(self, key: str) -> tuple[str, RecipientStatus] | None:
        return self._entries.get(key) or self._entries.get(self._spellings.get(key, ""))

    def __iter__(self) -> Iterator[str]:
        return (addr_spec for addr_spec, _ in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for status in self.values():
            counts[str(status.status)] = counts.get(str(status.status), 0) + 1
        return f"<Recipients: {', '.join(f'{n} {word}' for word, n in counts.items()) or 'none'}>"


def _parsed_key(address: object) -> str:
    try:
        return parse_address(address).key
    except InvalidAddressError:
        return ""


@record(frozen=True)
class SendResult:
    """What is known about a message after a send.

    ``recipients`` has one entry per recipient. ``outcome`` sums them up: ``accepted`` (all
    of them), ``partial`` (some accepted, the others certainly not), ``refused``,
    ``not_sent``, ``uncertain`` (for at least one), ``cancelled`` (by a ``pre_send``
    receiver, or by ``MAILESP_SUPPRESS_SEND``). ``error`` is the exception that ``send()``
    raised or would have raised, or None. ``response`` is the last answer of the ESP, without
    credentials.
    """

    esp_name: str
    outcome: Outcome
    recipients: Recipients
    attempts: tuple[Attempt, ...] = ()
    error: Exception | None = None
    response: HttpResponse | None = None

    @property
    def message_id(self) -> str | set[str] | None:
        """The ESP's id of the message: None if there is none, a set where they differ."""
        ids: set[str] = set()
        for entry in self.recipients.values():
            if isinstance(entry.message_id, str):
                ids.add(entry.message_id)
            elif entry.message_id:
                ids |= entry.message_id
        if len(ids) > 1:
            return ids
        return ids.pop() if ids else None

    @property
    def status(self) -> set[Status]:
        """The distinct statuses of all recipients."""
        return {entry.status for entry in self.recipients.values()}

    def raise_for_error(self) -> SendResult:
        """Raise ``error`` if there is one; return the result otherwise."""
        if self.error is not None:
            raise self.error
        return self
