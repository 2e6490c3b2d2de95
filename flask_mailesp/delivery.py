"""From a message to its result: prepare, build, exchange, read. Knows no Flask.

::

    Message ─prepare→ PreparedMessage ─refuse what the ESP lacks→ build → Call(s)
            → transport → HttpResponse → read → Reading(s) → SendResult
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
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
from .limits import Limit
from .message import Message, PreparedMessage
from .outcomes import unreadable, whole_call
from .prepare import PrepareOptions, prepare
from .records import field, record, replace
from .results import ACCEPTED, Attempt, Outcome, Recipients, RecipientStatus, SendResult, Status
from .retries import NO_RETRIES, Retries, may_repeat

if TYPE_CHECKING:
    from .rails import Rails
    from .strategies import Failover
    from .telemetry import Exchange

logger = logging.getLogger("flask_mailesp")

_BLOT = "***"
_SHORTEST_SECRET = 6
_OPEN = frozenset({Status.FAILED, Status.UNKNOWN})  # the ESP has not judged the recipient
_RECIPIENT_TROUBLE = frozenset({Status.REJECTED, Status.INVALID})


class Sends(Protocol):
    """What delivery needs of a transport."""

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        """Exchange one request; raise NotSentError or SendUncertainError.

        ``within`` is the most seconds it may take, if fewer than usual.
        """
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
    retries: Retries = NO_RETRIES
    limit: Limit | None = None
    strategy: Failover | None = field(default=None, repr=False)


def deliver(mailer: Mailer, message: Message) -> SendResult:
    """Send one message and return what became of it, its error included.

    Raises InvalidMessageError (nothing was sent); every later failure is in the result.
    """
    if mailer.strategy is not None:
        return mailer.strategy.deliver(message, background=mailer.retries.background)
    try:
        prepared = prepared_for(mailer, message)
        held = held_back(mailer, prepared)
        if held is not None:
            return held
        delivery = Delivery(mailer)
        delivery.go(prepared)
        result = delivery.result(prepared.recipients)
        return result if mailer.rails is None else mailer.rails.told(prepared, result)
    except InvalidMessageError as error:
        error.esp_name = mailer.esp.name
        raise


def held_back(mailer: Mailer, prepared: PreparedMessage) -> SendResult | None:
    """Return the result of a message that the safety rails let nowhere; None if it may go.

    Raises InvalidMessageError for what cannot be built, as where it is sent.
    """
    rails = mailer.rails
    if rails is None:
        return None
    if not prepared.recipients:
        return rails.refused(mailer.esp.name, prepared)
    if not rails.suppress:
        return None
    for _ in mailer.esp.build(prepared, mailer.settings):
        pass
    return rails.suppressed(mailer.esp.name, prepared)


def prepared_for(mailer: Mailer, message: Message) -> PreparedMessage:
    """Return a message as the mailer's ESP can take it, or raise InvalidMessageError.

    Where safety rails leave it no recipient, nothing more is asked of it.
    """
    prepared = prepare(message, mailer.defaults, mailer.options, mailer.esp.key, mailer.name)
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

    def __init__(self, mailer: Mailer, tried: int = 0) -> None:
        self.mailer = mailer
        self.tried = tried  # how often the same was tried before
        self.known: dict[str, RecipientStatus] = {}
        self.errors: list[MailESPError] = []
        self.attempts: list[Attempt] = []
        self.response: HttpResponse | None = None
        self.reasons: dict[str, MailESPError] = {}  # why a recipient was not (surely) accepted
        self.doubts: dict[str, tuple[RecipientStatus, MailESPError]] = {}
        self.stopped = False
        self.unbuildable = False
        self.taken_by = ""  # the name of the ESP that took it, or part of it
        self.started = time.monotonic()

    def go(self, message: PreparedMessage) -> None:
        """Exchange a message's calls, and again what can be tried again without doubt."""
        self.run(self.mailer.esp.build(message, self.mailer.settings))
        while self.reasons and not self.stopped:
            self.tried += 1
            rest = self.rest(message, may_be_resent)
            pause = self.pause_for(rest, self.tried) if rest else None
            if rest is None or pause is None:
                return
            self.mailer.retries.sleep(pause)
            self.reopen(rest)
            self.run(self.mailer.esp.build(rest, self.mailer.settings))

    def run(self, calls: Iterable[Call]) -> None:
        """Exchange the calls one after another; stop where going on is pointless.

        Raises InvalidMessageError only while nothing has been sent.
        """
        try:
            for call in calls:
                readings = self.exchange(call)
                for part, reading in zip(call.parts, readings, strict=True):
                    self.note(part, reading)
                if all(stops(reading.error) for reading in readings):
                    self.stopped = True
                    break
        except InvalidMessageError as error:
            if not self.attempts:
                raise
            logger.error("A part of the message could not be built: %s", error)
            self.errors.append(error)
            self.unbuildable = True
        except Exception:
            if not self.attempts:
                raise
            logger.exception("A part of the message could not be built.")
            self.errors.append(InvalidMessageError("A part of the message could not be built."))
            self.unbuildable = True

    def rest(
        self, message: PreparedMessage, which: Callable[[MailESPError | None], bool]
    ) -> PreparedMessage | None:
        """Return the message to those who were not tried, or not accepted for such a reason."""
        keys = {
            item.key
            for item in message.recipients
            if (
                which(self.reasons.get(item.key))
                if item.key in self.known
                else not self.unbuildable
            )
        }
        return addressed_to(message, keys)

    def pause_for(self, rest: PreparedMessage, tried: int) -> float | None:
        """Return how long to wait before trying some recipients again; None not to."""
        retries = self.mailer.retries
        if features.lacking(rest, self.mailer.esp.supports):  # such as Cc without To
            return None
        reasons = [self.reasons[item.key] for item in rest.recipients if item.key in self.reasons]
        pauses = [retries.pause(reason, tried, keyed=False) for reason in reasons]
        certain = [pause for pause in pauses if pause is not None]
        if not certain or len(certain) < len(pauses) or retries.time_left(self.started) is None:
            return None
        return max(certain)

    def reopen(self, rest: PreparedMessage) -> None:
        """Forget why some recipients were not accepted, for they are tried again.

        Not that some may have got the message: what fails now does not undo that.
        """
        stale = set()
        for item in rest.to if rest.is_batch else rest.recipients:
            status, reason = self.known.pop(item.key, None), self.reasons.pop(item.key, None)
            if status is not None and reason is not None and status.status is Status.UNKNOWN:
                self.doubts.setdefault(item.key, (status, reason))
            stale.add(id(reason))
        self.errors = [error for error in self.errors if id(error) not in stale]
        self.stopped = False

    def exchange(self, call: Call) -> Sequence[Reading]:
        """Send one call and read the answer; again where that is safe and may help."""
        readings = self.once(call)
        if readings and readings[0].error is not None and self.mailer.retries.attempts > 1:
            return self.repeat(call, readings)
        return readings

    def repeat(self, call: Call, readings: Sequence[Reading]) -> Sequence[Reading]:
        """Send a call that failed as a whole again, unchanged.

        Once an attempt was uncertain, a later failure does not make it certain: only an
        acceptance does.
        """
        retries, tried = self.mailer.retries, self.tried + 1
        doubt: Sequence[Reading] | None = None
        while (pause := self.pause_before(readings, tried)) is not None:
            if doubt is None and isinstance(readings[0].error, SendUncertainError):
                doubt = readings
            retries.sleep(pause)
            left = retries.time_left(self.started)
            if left is None:
                break
            try:
                readings = self.once(call, left)
            except Exception:  # such as that it cannot be signed; the attempts before stand
                logger.exception("A request could not be made again.")
                break
            tried += 1
        return readings if doubt is None else certain_or(doubt, readings)

    def pause_before(self, readings: Sequence[Reading], tried: int) -> float | None:
        """Return how long to wait before sending a call again; None if it is not to be."""
        keyed = Feature.IDEMPOTENCY_KEY in self.mailer.esp.supports
        longest = 0.0
        for error in {id(item.error): item.error for item in readings}.values():
            pause = None if error is None else self.mailer.retries.pause(error, tried, keyed=keyed)
            if pause is None:
                return None
            longest = max(longest, pause)
        return longest

    def once(self, call: Call, within: float | None = None) -> Sequence[Reading]:
        """Make one attempt, which may take ``within`` seconds if not as long as usual.

        Where the credential's limit allows none for longer than a send may wait, none is made.
        """
        limit = self.mailer.limit
        if limit is None:
            return self.attempted(call, within)
        if not limit.is_free:
            return self.in_turn(limit.of(call.request.headers.values()), call, within)
        readings = self.attempted(call, within)
        for reading in readings:
            if reading.error is not None:
                learn(limit.of(call.request.headers.values()), readings)
                break
        return readings

    def in_turn(self, limit: Limit, call: Call, within: float | None) -> Sequence[Reading]:
        """Make one attempt when the credential's limit allows it, if that is soon enough."""
        retries = self.mailer.retries
        patience = retries.max_wait if within is None else min(retries.max_wait, within / 2)
        if wait := limit.enter(patience, guess=retries.background):
            if wait > patience:
                return whole_call(call, over_the_limit(self.mailer.esp.name, wait))
            retries.sleep(wait)
        readings = self.attempted(call, within and within - wait)
        learn(limit, readings)
        return readings

    def attempted(self, call: Call, within: float | None) -> Sequence[Reading]:
        """Send a call once and note the attempt."""
        mailer = self.mailer
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        status = response = watched = None
        try:
            if mailer.esp.sign is not None:  # anew, for a signature holds the time
                request = mailer.esp.sign(call.request, mailer.settings, started)
                call = replace(call, request=request)
            watched = self.watched(call)
            if within is None:
                response = mailer.transport.send(call.request)
            else:
                response = mailer.transport.send(call.request, within)
        except (NotSentError, SendUncertainError) as error:
            failed: MailESPError = error
            failed.esp_name = mailer.esp.name
            watched = watched or self.watched(call)  # it could not be signed
            readings: Sequence[Reading] = whole_call(call, failed)
        else:
            self.response = response = _without_secrets(response, call, mailer.settings)
            status = response.status
            readings = self.read(call, response)
        duration = time.perf_counter() - clock
        self.attempts.append(self.attempt(started, duration, status, readings))
        if watched is not None:
            watched.ended(self.attempts[-1], response)
        if mailer.log_exchanges:
            from .exchange_log import log_exchange

            log_exchange(mailer.esp.name, call, response, duration)
        return readings

    def watched(self, call: Call) -> Exchange | None:
        """Tell that an exchange begins; return what is to be told of its end."""
        watch = self.mailer.watch
        return None if watch is None else watch(self.mailer.esp.name, call)

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
            if status.status in ACCEPTED:
                self.taken_by = self.mailer.esp.name
            if reading.error is not None and status.status in _OPEN:
                self.reasons[address.key] = reading.error
        if reading.error is not None:
            self.errors.append(reading.error)

    def result(self, recipients: Sequence[Address]) -> SendResult:
        """Return what is known about the message now."""
        for key, (doubt, reason) in self.doubts.items():
            if key not in self.known or self.known[key].status not in ACCEPTED:
                self.known[key] = doubt
                self.errors.append(reason)
        if not (self.known or self.errors):
            self.errors.append(NotSentError(_NOT_TRIED.description + " Nothing was sent."))
        entries = Recipients((item, self.known.get(item.key, _NOT_TRIED)) for item in recipients)
        outcome = outcome_of(entries.values(), self.errors)
        return conclude(
            SendResult(
                self.taken_by or self.mailer.esp.name,
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


def over_the_limit(esp_name: str, wait: float) -> RateLimitedError:
    """Return the error for a request that was not made, to keep to the rate."""
    return RateLimitedError(
        f"{esp_name}'s rate limit allows no request for {wait:.1f} s; see MAILESP_MAX_WAIT.",
        retry_after=wait,
        esp_name=esp_name,
    )


def learn(limit: Limit, readings: Sequence[Reading]) -> None:
    """Tell a credential's limit what an answer says about it."""
    answered = False
    for reading in readings:
        if isinstance(reading.error, RateLimitedError):
            limit.refused(reading.error.retry_after)
            return
        answered |= not isinstance(reading.error, (NotSentError, SendUncertainError))
    if answered:
        limit.passed()


def may_be_resent(error: MailESPError | None) -> bool:
    """Tell whether a recipient with this reason can be tried again in another request."""
    return error is not None and may_repeat(error, keyed=False)


def certain_or(doubt: Sequence[Reading], readings: Sequence[Reading]) -> Sequence[Reading]:
    """Take what a later attempt made certain; the rest stays as doubtful as it was."""
    return [
        later if later.error is None else first
        for first, later in zip(doubt, readings, strict=True)
    ]


def addressed_to(message: PreparedMessage, keys: Container[str]) -> PreparedMessage | None:
    """Return the message to some of its recipients only, or None if there are none.

    Every copy of a batch carries the cc and bcc, so there ``to`` alone decides. Being
    another request, a narrowed message gets another idempotency key, always the same one.
    """
    parts = ("to",) if message.is_batch else ("to", "cc", "bcc")
    left = {
        name: tuple(item for item in getattr(message, name) if item.key in keys) for name in parts
    }
    if not any(left.values()):
        return None
    if all(len(items) == len(getattr(message, name)) for name, items in left.items()):
        return message
    key = message.idempotency_key and narrowed_key(message.idempotency_key, left)
    changes: dict[str, Any] = {**left, "idempotency_key": key}
    return replace(message, **changes)


def narrowed_key(key: str, left: Mapping[str, Iterable[Address]]) -> str:
    """Derive a key of 32 characters, which no recipient can be read from without ``key``."""
    import hashlib

    texts = [key, *(f"{name} {item.key}" for name, items in left.items() for item in items)]
    digest = hashlib.sha256()
    for text in map(str.encode, texts):
        digest.update(b"%d:%s" % (len(text), text))
    return digest.hexdigest()[:32]


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
    if not isinstance(result.error, RecipientsRefusedError):
        return True
    # Some ESPs take nobody because of one bad address: that is no mere recipient's status.
    return not (mailer.ignore_recipient_status and result.status <= _RECIPIENT_TROUBLE)


def _without_secrets(response: HttpResponse, call: Call, settings: Settings) -> HttpResponse:
    """Blot out credentials that the ESP echoes, before anything can show them.

    A request's header may hold one that is not a setting: a credential of this message only.
    What is too short for a credential is left, since it may stand in any word or id.
    """
    own = [
        part
        for value in call.request.headers.values()
        if isinstance(value, Secret)
        for part in (value, value.partition(" ")[2])  # with its scheme, and without
    ]
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
