"""Many messages through a strategy: those that go to the same member go there together.

They travel in stages: at each, every message that is not settled yet asks the next member of
its own tour, in one batch with others where the member takes batches, else by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from .batches import exchange
from .esp import Call
from .message import Message
from .results import SendResult
from .strategies import Failover, Member, Tour

_Group = tuple[Member, list[Tour]]


def deliver_together(
    strategy: Failover, messages: Sequence[Message], workers: int
) -> list[SendResult | Exception]:
    """Send messages; return what became of each, or what was wrong with it, in order.

    There are at most ``workers`` requests at once.
    """
    convoy = _Convoy(strategy, messages)
    with ThreadPoolExecutor(workers, thread_name_prefix="mailesp") as pool:
        while jobs := convoy.jobs():
            runs = [pool.submit(copy_context().run, job) for job in jobs]
            for run in runs:
                run.result()
    return [convoy.outcome(tour) for tour in convoy.tours]


class _Convoy:
    """The tours of some messages."""

    def __init__(self, strategy: Failover, messages: Sequence[Message]) -> None:
        self.tours = [
            Tour(message, strategy.order(), strategy.ambiguous, background=True)
            for message in messages
        ]
        self.failures: dict[int, Exception] = {}

    def outcome(self, tour: Tour) -> SendResult | Exception:
        failure = self.failures.get(id(tour))
        try:
            return failure or tour.result()
        except Exception as error:
            return error

    def jobs(self) -> list[Callable[[], None]]:
        """Return what is to be done at the next stage, each in a thread of its own."""
        work: list[Callable[[], None]] = []
        for member, group in self._groups():
            if member.mailer.esp.build_many is None:
                work += [partial(self._alone, tour) for tour in group]
            else:
                work.append(partial(self._together, member, group))
        return work

    def _groups(self) -> list[_Group]:
        """Group the tours that are not over by the member that is next."""
        groups: dict[int, _Group] = {}
        for tour in self.tours:
            member = self._next(tour)
            if member is not None:
                groups.setdefault(id(member), (member, []))[1].append(tour)
        return list(groups.values())

    def _next(self, tour: Tour) -> Member | None:
        if id(tour) in self.failures:
            return None
        try:
            return tour.upcoming() or tour.refuge()
        except Exception as error:
            self.failures[id(tour)] = error
            return None

    def _alone(self, tour: Tour) -> None:
        """Have one message ask its next member."""
        self._noting(tour, tour.step)

    def _noting(self, tour: Tour, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self.failures[id(tour)] = error

    def _together(self, member: Member, group: Sequence[Tour]) -> None:
        """Send a batch. While the member's breaker is open, one message goes first, alone."""
        waiting = deque(group)
        probed = False
        while waiting:
            resort = not waiting[0].waiting  # it has nobody else to ask
            if len(waiting) > 1 and (member.breaker.closed or (resort and probed)):
                return self._in_one(member, list(waiting))
            self._alone(waiting.popleft())
            probed = True
        return None

    def _in_one(self, member: Member, tours: Sequence[Tour]) -> None:
        for tour in tours:
            tour.depart()
        calls, able = self._built(member, tours)
        items = [tour.arrive(member) for tour in able]
        mailers = [tour.mailer_of(member) for tour in able]
        if not able:
            return
        # Who could ask somebody else is not to wait; so nobody of the batch does.
        impatient = min(mailers, key=lambda mailer: mailer.retries.background)
        answered = exchange(impatient, calls, items)
        for well in answered:
            member.breaker.passed() if well else member.breaker.failed()
        for tour, (prepared, delivery) in zip(able, items, strict=True):
            tour.leave(prepared, delivery)

    def _built(self, member: Member, tours: Sequence[Tour]) -> tuple[list[Call], Sequence[Tour]]:
        """Build a batch of all that can be built; the others learn what is wrong with them."""
        build_many = member.mailer.esp.build_many
        assert build_many is not None  # noqa: S101 - else there are no batches
        settings = member.mailer.settings
        try:
            return list(build_many([tour.arrive(member)[0] for tour in tours], settings)), tours
        except Exception:
            able = [tour for tour in tours if self._builds(member, tour)]
            if not able:
                return [], able
            return list(build_many([tour.arrive(member)[0] for tour in able], settings)), able

    def _builds(self, member: Member, tour: Tour) -> bool:
        try:
            list(member.mailer.esp.build(tour.arrive(member)[0], member.mailer.settings))
        except Exception:
            self._noting(tour, partial(tour.visit, member))
            return False
        return True
