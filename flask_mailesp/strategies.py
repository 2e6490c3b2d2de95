"""Mailers that send through other mailers: failover and spreading.

A message moves on to the next member only where that cannot deliver it twice, and only with
the recipients that were not accepted::

    not sent, rate limited, the credential refused, a feature it lacks   moves on
    uncertain                                    stays, unless "ambiguous" is "next"
    a refused recipient or message                                       stays
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy

from .batches import TROUBLE
from .breaker import Breaker
from .delivery import (
    Delivery,
    Mailer,
    addressed_to,
    held_back,
    prepared_for,
    refuse_unsupported,
)
from .exceptions import (
    AuthenticationError,
    InvalidMessageError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    SendUncertainError,
    UnsupportedFeatureError,
)
from .limits import ProcessLock
from .message import Message, PreparedMessage
from .policies import StrategySpec
from .records import record, replace
from .results import SendResult
from .retries import patient

logger = logging.getLogger("flask_mailesp")

_MOVES = NotSentError, RateLimitedError, AuthenticationError


@record(frozen=True)
class Member:
    """A mailer of a strategy, its share of the messages, and whether it is worth asking."""

    mailer: Mailer
    breaker: Breaker
    weight: float = 1.0


class Failover:
    """The first member as long as it works, else the next; and back to the first."""

    kind = "failover"

    def __init__(self, members: Sequence[Member], ambiguous: bool = False) -> None:
        self.members = tuple(members)
        self.ambiguous = ambiguous

    def order(self) -> Sequence[Member]:
        """Return the members in the order in which this message tries them."""
        return self.members

    @property
    def batches(self) -> bool:
        """Whether many messages begin their way in a batch."""
        return self.members[0].mailer.esp.build_many is not None

    def deliver(self, message: Message, *, background: bool = False) -> SendResult:
        """Send a message through the first member that takes it.

        In the ``background``, the last member it could be sent through may keep it waiting.

        Raises InvalidMessageError if the message is at fault, or no member can express it.
        """
        tour = Tour(message, self.order(), self.ambiguous, background)
        while tour.step():
            pass
        return tour.result()

    def with_members(self, change: Callable[[Member], Member]) -> Failover:
        """Return the same strategy over changed members; whose turn it is stays common."""
        other = copy(self)
        other.members = tuple(map(change, self.members))
        return other

    def __repr__(self) -> str:
        return f"{self.kind}: {', '.join(member.mailer.name for member in self.members)}"


class RoundRobin(Failover):
    """Each member in its turn, by weight; the others stand in for one that fails."""

    kind = "round robin"

    def __init__(self, members: Sequence[Member], ambiguous: bool = False) -> None:
        super().__init__(members, ambiguous)
        self._turns = _Turns([member.weight for member in members])

    def order(self) -> Sequence[Member]:
        """Start with the member whose turn it is."""
        first = self._turns.next()
        return self.members[first:] + self.members[:first]

    @property
    def batches(self) -> bool:
        """Whether any messages begin their way in a batch."""
        return any(member.mailer.esp.build_many is not None for member in self.members)


class _Turns:
    """Smooth weighted round robin: evenly mixed, not in blocks. May be shared by threads.

    At each turn all gain their weight in credit; who has most goes, and pays for everybody.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._lock = ProcessLock()
        self._credit = [0.0] * len(weights)

    def next(self) -> int:
        """Return whose turn it is."""
        with self._lock:
            pairs = zip(self._credit, self._weights, strict=True)
            self._credit = [credit + weight for credit, weight in pairs]
            first = max(range(len(self._credit)), key=self._credit.__getitem__)
            self._credit[first] -= sum(self._weights)
        return first


class Tour:
    """One message on its way from member to member."""

    def __init__(
        self, message: Message, members: Iterable[Member], ambiguous: bool, background: bool
    ) -> None:
        self.message = message
        self.ambiguous = ambiguous
        self.background = background
        self.waiting = deque(members)  # those to ask yet
        self.passed_by: list[Member] = []  # those whose breaker was open
        self.delivery: Delivery | None = None
        self.left: frozenset[str] | None = None  # keys of recipients; None means everybody
        self.refusals: list[UnsupportedFeatureError] = []
        self.over = False
        self.first: PreparedMessage | None = None  # as it was for the first member asked
        self.held: SendResult | None = None  # where safety rails let nothing go
        self._prepared: tuple[Member, PreparedMessage | None] | None = None

    # -- where to ------------------------------------------------------------------------

    def upcoming(self) -> Member | None:
        """Return the next member that can express the message, None if there is none.

        Raises InvalidMessageError if nothing has been sent and the message is at fault.
        """
        while self.waiting and not self.over:
            if self.prepared(self.waiting[0]) is not None:
                return self.waiting[0]
            self.waiting.popleft()
        return None

    def refuge(self) -> Member | None:
        """Return whom to ask rather than nobody: of those passed by, who is due first."""
        if self.over or not self.passed_by:
            return None
        first = min(self.passed_by, key=lambda member: member.breaker.until or 0.0)
        return first if self.prepared(first) is not None else None

    def step(self) -> bool:
        """Ask the next member, or pass it by; return whether there may be another step."""
        member = self.upcoming()
        if member is not None and not member.breaker.admits():
            self.passed_by.append(self.waiting.popleft())
            return True
        asked = member or self.refuge()
        self.depart()
        if asked is not None:
            self.visit(asked)
        return member is not None

    def depart(self) -> None:
        """Strike whoever is asked now off the list of whom to ask."""
        if self.waiting:
            self.waiting.popleft()
        else:
            self.passed_by.clear()

    # -- there ---------------------------------------------------------------------------

    def prepared(self, member: Member) -> PreparedMessage | None:
        """Return what is left of the message as a member takes it, None if it cannot."""
        if self._prepared is None or self._prepared[0] is not member:
            self._prepared = member, self._prepare(member)
        return self._prepared[1]

    def _prepare(self, member: Member) -> PreparedMessage | None:
        try:
            prepared = prepared_for(member.mailer, self.message)
            held = held_back(member.mailer, prepared)
            if held is not None:
                self._hold(held)
                return None
            if self.left is None:
                return prepared
            narrowed = addressed_to(prepared, self.left)
            return narrowed and refuse_unsupported(member.mailer, narrowed)
        except InvalidMessageError as error:
            self._note(error, member)
            return None

    def _hold(self, held: SendResult) -> None:
        """End here, for safety rails let nothing go; unless something has gone already."""
        if self.delivery is None:
            self.held, self.over = held, True

    def _note(self, error: InvalidMessageError, member: Member) -> None:
        """Keep that a member cannot express the message; raise what is wrong with it itself.

        Not once it has been tried elsewhere: what is known about that would be lost.
        """
        error.esp_name = member.mailer.esp.name
        if isinstance(error, UnsupportedFeatureError):
            self.refusals.append(error)
        elif self.delivery is None or not self.delivery.attempts:
            raise error
        else:
            logger.error("The message could not be prepared for %s: %s", error.esp_name, error)

    def arrive(self, member: Member) -> tuple[PreparedMessage, Delivery]:
        """Return what is left of the message, and the `Delivery` to exchange it in."""
        prepared = self.prepared(member)
        assert prepared is not None  # noqa: S101 - else this is not the way
        if self.left is None:
            self.first = prepared
        if self.delivery is None:
            self.delivery = Delivery(member.mailer)
        else:
            self.delivery.reopen(prepared)
            self.delivery.tried, self.delivery.unbuildable = 0, False
        self.delivery.mailer = self.mailer_of(member)
        return prepared, self.delivery

    def mailer_of(self, member: Member) -> Mailer:
        """Return a member's mailer; it has more time where there is no other to ask."""
        if not self.background or self.waiting or self.passed_by:
            return member.mailer
        return replace(member.mailer, retries=patient(member.mailer.retries))

    def visit(self, member: Member) -> None:
        """Send what is left through a member."""
        prepared, delivery = self.arrive(member)
        known = len(delivery.attempts)
        try:
            delivery.go(prepared)
        except InvalidMessageError as error:
            self._note(error, member)
        finally:
            if len(delivery.attempts) > known:
                judge(member.breaker, delivery.attempts[-1].error)
            else:
                member.breaker.not_asked()
        self.leave(prepared, delivery)

    def leave(self, prepared: PreparedMessage, delivery: Delivery) -> None:
        """Note what is left, and whether that may move on."""
        rest = delivery.rest(prepared, self._moves)
        self.over = rest is None
        self._prepared = None
        if rest is not None and rest is not prepared:
            self.left = frozenset(item.key for item in rest.recipients)

    def _moves(self, error: MailESPError | None) -> bool:
        return isinstance(error, _MOVES) or (
            self.ambiguous and isinstance(error, SendUncertainError)
        )

    def result(self) -> SendResult:
        """Return what became of the message.

        Raises UnsupportedFeatureError if no member could express it.
        """
        if self.held is not None:
            return self.held
        delivery, first = self.delivery, self.first
        if delivery is None or first is None or not (delivery.attempts or delivery.errors):
            raise self.refusals[0]
        result, rails = delivery.result(first.recipients), delivery.mailer.rails
        return result if rails is None else rails.told(first, result)


def judge(breaker: Breaker, error: Exception | None) -> None:
    """Tell a breaker how its member did; refused messages and recipients are no trouble."""
    if isinstance(error, TROUBLE):
        breaker.failed()
    else:
        breaker.passed()


def strategy_of(spec: StrategySpec, mailers: Mapping[str, Mailer]) -> Failover:
    """Return the strategy that is configured, over mailers by their names."""
    members = [
        Member(mailers[name], Breaker(spec.failures, spec.seconds), weight)
        for name, weight in zip(spec.members, spec.weights, strict=True)
    ]
    return (RoundRobin if spec.in_turn else Failover)(members, spec.ambiguous)


def as_mailer(name: str, strategy: Failover) -> Mailer:
    """Return a strategy as a mailer, with the first member's ESP in name."""
    return replace(strategy.members[0].mailer, name=name, strategy=strategy)
