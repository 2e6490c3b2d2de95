"""From a message to its result: prepare, build, exchange, read. Knows no Flask.

::

    Message ─prepare→ PreparedMessage ─refuse what the ESP lacks→ build → Call(s)
            → transport → HttpResponse → read → Reading(s) → SendResult
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from . import features
from .address import Address
from .esp import Call, Esp, Feature, HttpRequest, HttpResponse, Part, Reading, Secret, Settings
from .exceptions import (
    APIError,
    AuthenticationError,
    InvalidMessageError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
    UnsupportedFeatureError,
)
from .message import Message, PreparedMessage
from .outcomes import unreadable, whole_call
from .prepare import PrepareOptions, prepare
from .records import field, record, replace
from .results import ACCEPTED, Attempt, Outcome, Recipients, RecipientStatus, SendResult, Status

if TYPE_CHECKING:
    from .rails import Rails
    from .telemetry import Exchange

logger = logging.getLogger("flask_mailesp")

_BLOT = "***"
_SHORTEST_SECRET = 6
_RECIPIENT_TROUBLE = frozenset({Status.REJECTED, Status.INVALID})


class Sends(Protocol):
    """What delivery needs of a transport."""

    def send(self, request: HttpRequest) -> HttpResponse:
        """Exchange one request; raise NotSentError or SendUncertainError."""
        ...

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        """Exchange one request on behalf of a webhook; raise as `send` does."""
        ...


@record(frozen=True)
class Mailer:
    """An ESP with everything needed to send through it."""

    name: str
    esp: Esp
    settings: Settings
    transport: Sends = field(repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: PrepareOptions = field(default_factory=PrepareOptions, repr=False)
    ignore_unsupported: bool = False
    ignore_recipient_status: bool = False
    log_exchanges: bool = False
    rails: Rails | None = None
    watch: Callable[[str, Call], Exchange | None] | None = field(default=None, repr=False)


def deliver(mailer: Mailer, message: Message) -> SendResult:
    """Send one message and return what became of it, its error included.

    Raises InvalidMessageError (nothing was sent); every later failure is in the result.
    """
    try:
        prepared = prepared_for(mailer, message)
        if mailer.rails is not None:
            return _within_rails(mailer, mailer.rails, prepared)
        calls = mailer.esp.build(prepared, mailer.settings)
        return Delivery(mailer).run(prepared.recipients, calls)
    except InvalidMessageError as error:
        error.esp_name = mailer.esp.name
        raise


def _within_rails(mailer: Mailer, rails: Rails, prepared: PreparedMessage) -> SendResult:
    """Send a message as far as the safety rails let it go."""
    if not prepared.recipients:
        return rails.refused(mailer.esp.name, prepared)
    calls = mailer.esp.build(prepared, mailer.settings)
    if rails.suppress:
        for _ in calls:  # what cannot be built is an error here, too
            pass
        return rails.suppressed(mailer.esp.name, prepared)
    return rails.told(prepared, Delivery(mailer).run(prepared.recipients, calls))


def prepared_for(mailer: Mailer, message: Message) -> PreparedMessage:
    """Return a message as the mailer's ESP can take it, or raise InvalidMessageError.

    Where safety rails leave it no recipient, nothing more is asked of it.
    """
    prepared = prepare(message, mailer.defaults, mailer.options, mailer.esp.key)
    if mailer.rails is not None:
        prepared = mailer.rails.applied(prepared)
        if not prepared.recipients:
            return prepared
    prepared = refuse_unsupported(mailer, prepared)
    if prepared.idempotency_key is None and Feature.IDEMPOTENCY_KEY in mailer.esp.supports:
        return replace(prepared, idempotency_key=secrets.token_hex(16))
    return prepared


def refuse_unsupported(mailer: Mailer, message: PreparedMessage) -> PreparedMessage:
    """Return the message if the ESP can express it.

    Otherwise raise UnsupportedFeatureError, or leave the features out with a warning where
    ``IGNORE_UNSUPPORTED_FEATURES`` is set.
    """
    if features.is_plain(message):
        return message
    while lacking := features.lacking(message, mailer.esp.supports):
        if not (mailer.ignore_unsupported and features.can_be_without(message, lacking)):
            names = ", ".join(item.value for item in lacking)
            raise UnsupportedFeatureError(f"{mailer.esp.name} cannot express: {names}.")
        # One by one: without its template, a message's own words are no longer in the way.
        logger.warning("%s cannot express %r; left out.", mailer.esp.name, lacking[0].value)
        message = features.without(message, lacking[0])
    return message


class Delivery:
    """The exchanges of one message, and what is known about each recipient so far."""

    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer
        self.known: dict[str, RecipientStatus] = {}
        self.errors: list[MailESPError] = []
        self.attempts: list[Attempt] = []
        self.response: HttpResponse | None = None

    def run(self, recipients: Sequence[Address], calls: Iterable[Call]) -> SendResult:
        """Exchange the calls one after another; stop where going on is pointless.

        Raises InvalidMessageError only while nothing has been sent.
        """
        try:
            for call in calls:
                readings = self.exchange(call)
                for part, reading in zip(call.parts, readings, strict=True):
                    self.note(part, reading)
                if all(stops(reading.error) for reading in readings):
                    break
        except InvalidMessageError as error:
            if not self.attempts:
                raise
            logger.error("A part of the message could not be built: %s", error)
            self.errors.append(error)
        except Exception:
            if not self.attempts:
                raise
            logger.exception("A part of the message could not be built.")
            self.errors.append(InvalidMessageError("A part of the message could not be built."))
        return self.result(recipients)

    def exchange(self, call: Call) -> Sequence[Reading]:
        """Send one call and read the answer."""
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        sign = self.mailer.esp.sign
        if sign is not None:
            call = replace(call, request=sign(call.request, self.mailer.settings, started))
        watch = self.mailer.watch
        watched = None if watch is None else watch(self.mailer.esp.name, call)
        status = response = None
        try:
            response = self.mailer.transport.send(call.request)
        except (NotSentError, SendUncertainError) as error:
            failed: MailESPError = error
            failed.esp_name = self.mailer.esp.name
            readings: Sequence[Reading] = whole_call(call, failed)
        else:
            self.response = response = _without_secrets(response, call, self.mailer.settings)
            status = response.status
            readings = self.read(call, response)
        duration = time.perf_counter() - clock
        self.attempts.append(self.attempt(started, duration, status, readings))
        if watched is not None:
            watched.ended(self.attempts[-1], response)
        if self.mailer.log_exchanges:
            from .exchange_log import log_exchange

            log_exchange(self.mailer.esp.name, call, response, duration)
        return readings

    def read(self, call: Call, response: HttpResponse) -> Sequence[Reading]:
        """Have the ESP's room read an answer. Should that fail, the message is out anyway."""
        esp = self.mailer.esp
        try:
            readings = esp.read(call, response, self.mailer.settings)
            if fits(call, readings):
                return readings
            logger.error("%s's answer was read for the wrong recipients.", esp.name)
        except Exception:
            logger.exception("%s's answer could not be read.", esp.name)
        return whole_call(call, unreadable(esp.name, response))

    def attempt(
        self,
        started: datetime,
        duration: float,
        status: int | None,
        readings: Sequence[Reading],
    ) -> Attempt:
        statuses = [entry for reading in readings for entry in reading.statuses]
        errors = [reading.error for reading in readings if reading.error is not None]
        outcome = outcome_of(statuses, errors)
        error = None if outcome is Outcome.ACCEPTED else first_error(errors)
        return Attempt(
            self.mailer.esp.name, outcome, started, duration, len(statuses), status, error
        )

    def note(self, part: Part, reading: Reading) -> None:
        """Keep what an answer says; a recipient of several copies keeps every id."""
        for address, status in zip(part.recipients, reading.statuses, strict=True):
            before = self.known.get(address.key)
            self.known[address.key] = status if before is None else merged(before, status)
        if reading.error is not None:
            self.errors.append(reading.error)

    def result(self, recipients: Sequence[Address]) -> SendResult:
        """Return what is known about the message now."""
        if not (self.known or self.errors):
            self.errors.append(NotSentError(_NOT_TRIED.description + " Nothing was sent."))
        entries = Recipients((item, self.known.get(item.key, _NOT_TRIED)) for item in recipients)
        outcome = outcome_of(entries.values(), self.errors)
        return conclude(
            SendResult(
                self.mailer.esp.name,
                outcome,
                entries,
                tuple(self.attempts),
                response=self.response,
            ),
            self.errors,
        )


_NOT_TRIED = RecipientStatus(Status.FAILED, None, "Not tried: sending ended before.")


def fits(call: Call, readings: Sequence[Reading]) -> bool:
    """Tell whether there is one reading for each part, and one status for each recipient."""
    return [len(part.recipients) for part in call.parts] == [
        len(reading.statuses) for reading in readings
    ]


def stops(error: MailESPError | None) -> bool:
    """Tell whether an error that befell a whole request makes the next one pointless."""
    return isinstance(
        error, (NotSentError, SendUncertainError, AuthenticationError, RateLimitedError)
    )


def merged(one: RecipientStatus, other: RecipientStatus) -> RecipientStatus:
    """Combine what is known of two copies to one recipient; no id is lost."""
    ids = _ids(one) | _ids(other)
    doubtful = next((item for item in (one, other) if item.status is Status.UNKNOWN), None)
    taken = next((item for item in (one, other) if item.status in ACCEPTED), None)
    base = doubtful or taken or other
    message_id = frozenset(ids) if len(ids) > 1 else next(iter(ids), None)
    return replace(base, message_id=message_id)


def _ids(status: RecipientStatus) -> set[str]:
    if isinstance(status.message_id, frozenset):
        return set(status.message_id)
    return {status.message_id} if status.message_id else set()


def outcome_of(statuses: Iterable[RecipientStatus], errors: Sequence[MailESPError] = ()) -> Outcome:
    """Sum up the recipients' statuses."""
    words = {entry.status for entry in statuses}
    if Status.UNKNOWN in words:
        return Outcome.UNCERTAIN
    if words <= ACCEPTED:
        return Outcome.ACCEPTED
    if words & ACCEPTED:
        return Outcome.PARTIAL
    if any(isinstance(error, NotSentError) for error in errors):
        return Outcome.NOT_SENT
    return Outcome.REFUSED


def first_error(errors: Sequence[MailESPError]) -> MailESPError | None:
    """Return the error that says most: uncertainty first, trouble with recipients last."""
    ranks = [SendUncertainError, NotSentError, AuthenticationError, RateLimitedError]
    for rank in ranks:
        for error in errors:
            if isinstance(error, rank):
                return error
    others = [error for error in errors if not isinstance(error, RecipientsRefusedError)]
    return next(iter([*others, *errors]), None)


def conclude(result: SendResult, errors: Sequence[MailESPError]) -> SendResult:
    """Give the result its error, and the error its result."""
    if result.outcome in (Outcome.ACCEPTED, Outcome.PARTIAL):
        return result
    error = first_error(errors) or _unexplained(result)
    if error.result is not None:  # it is about several messages; each has its own result
        error = copy(error)
    error.esp_name = result.esp_name
    result = replace(result, error=error)
    error.result = result
    return result


def _unexplained(result: SendResult) -> MailESPError:
    """Recipients may be refused one by one in an answer that is itself a success."""
    if result.outcome is Outcome.UNCERTAIN:
        return SendUncertainError(f"{result.esp_name} did not answer for every recipient.")
    kind = RecipientsRefusedError if result.status <= _RECIPIENT_TROUBLE else APIError
    return kind(f"{result.esp_name} refused every recipient.")


def must_raise(mailer: Mailer, result: SendResult) -> bool:
    """Tell whether ``send()`` raises the result's error."""
    if result.error is None:
        return False
    ignored = mailer.ignore_recipient_status and isinstance(result.error, RecipientsRefusedError)
    return not ignored


def _without_secrets(response: HttpResponse, call: Call, settings: Settings) -> HttpResponse:
    """Blot out credentials that the ESP echoes, before anything can show them.

    A request's header may hold one that is not a setting: a credential of this message only.
    What is too short for a credential is left, since it may stand in any word or id.
    """
    own = [value for value in call.request.headers.values() if isinstance(value, Secret)]
    body, headers = response.body, response.headers
    for secret in sorted({*settings.secrets(), *own}, key=len, reverse=True):  # whole ones first
        if len(secret) < _SHORTEST_SECRET:
            continue
        body = body.replace(secret.encode(), _BLOT.encode())
        if any(secret in value for value in headers.values()):
            headers = {name: value.replace(secret, _BLOT) for name, value in headers.items()}
    if body == response.body and headers is response.headers:
        return response
    return replace(response, body=body, headers=headers)
