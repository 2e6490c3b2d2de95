"""Many messages through a strategy: together while they go the same way, and none lost."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import pytest
from acme import (
    ACME,
    BATCHING,
    A,
    Answer,
    Answers,
    B,
    C,
    gone,
    lost,
    mailer,
    message,
    retrying,
    send_many,
)
from acme import Sleeps as Pauses

from flask_mailesp import many
from flask_mailesp.breaker import Breaker
from flask_mailesp.delivery import Mailer
from flask_mailesp.esp import Feature, HttpResponse
from flask_mailesp.exceptions import InvalidAddressError, MailESPError, UnsupportedFeatureError
from flask_mailesp.limits import Limit
from flask_mailesp.message import Message
from flask_mailesp.records import replace
from flask_mailesp.results import SendResult
from flask_mailesp.strategies import Failover, Member, RoundRobin, as_mailer

ONE = replace(BATCHING, name="One")
TWO = replace(ACME, name="Two")
THREE = replace(BATCHING, name="Three")
SLOW = HttpResponse(429)


def member(esp: Any, *answers: Answer, weight: float = 1.0, **options: Any) -> Member:
    made, _ = mailer(*answers, esp=esp, **options)
    return Member(made, Breaker(2, 30.0), weight)


def requests(member: Member) -> list[list[str]]:
    assert isinstance(member.mailer.transport, Answers)
    return member.mailer.transport.recipients


def send(through: Mailer, messages: Iterable[Message], workers: int = 1) -> list[SendResult]:
    return list(send_many(through, messages, workers))


def failover(*members: Member, ambiguous: bool = False) -> Mailer:
    return as_mailer("default", Failover(members, ambiguous))


def told(results: Iterable[SendResult]) -> list[tuple[str, str, list[str]]]:
    """Who took each message, what became of it, and who was asked."""
    return [
        (result.esp_name, str(result.outcome), [item.esp_name for item in result.attempts])
        for result in results
    ]


def test_they_go_to_the_first_member_in_one_request() -> None:
    """As they would without the strategy."""
    first, second = member(ONE), member(TWO)
    results = send(failover(first, second), map(message, [A, B, C]))
    assert (requests(first), requests(second)) == ([[A, B, C]], [])
    assert [result.message_id for result in results] == ["id-a", "id-b", "id-c"]


def test_what_may_move_on_goes_on_and_keeps_what_is_known() -> None:
    """One by one to a member that takes no batches; ids and attempts are each message's own."""
    first, second = member(ONE, {B: "slow", C: "bad"}), member(TWO)
    results = send(failover(first, second), map(message, [A, B, C]))
    assert (requests(first), requests(second)) == ([[A, B, C]], [[B]])
    assert told(results) == [
        ("One", "accepted", ["One"]),
        ("Two", "accepted", ["One", "Two"]),
        ("One", "refused", ["One"]),
    ]
    assert [result.message_id for result in results] == ["id-a", "id-b", None]


def test_they_move_on_as_a_batch_where_the_next_member_takes_batches() -> None:
    """One request that was not sent is made good by one."""
    first, second = member(ONE, gone()), member(THREE)
    results = send(failover(first, second), map(message, [A, B, C]))
    assert (requests(first), requests(second)) == ([[A, B, C]], [[A, B, C]])
    assert told(results) == [("Three", "accepted", ["One", "Three"])] * 3


def test_an_uncertain_batch_stays() -> None:
    """All of its messages may have been taken."""
    first, second = member(ONE, lost()), member(THREE)
    results = send(failover(first, second), map(message, [A, B]))
    assert requests(second) == []
    assert told(results) == [("One", "uncertain", ["One"])] * 2


def test_an_uncertain_batch_that_moves_on_remains_uncertain_until_it_is_accepted() -> None:
    """What the second refuses, the first may have taken."""
    first, second = member(ONE, lost()), member(THREE, {B: "bad"})
    results = send(failover(first, second, ambiguous=True), map(message, [A, B]))
    assert [str(result.outcome) for result in results] == ["accepted", "uncertain"]


def test_round_robin_spreads_them() -> None:
    """Each member gets its share, in a batch or one by one; the results are in order."""
    one, two = member(ONE), member(TWO)
    people = [f"p{number}@example.com" for number in range(6)]
    results = send(as_mailer("default", RoundRobin([one, two])), map(message, people), workers=3)
    assert requests(one) == [people[::2]]
    assert sorted(requests(two)) == [[name] for name in people[1::2]]
    assert [list(result.recipients) for result in results] == [[name] for name in people]


def test_a_message_that_is_wrong_is_its_own_trouble() -> None:
    """The others go, be it found before or while the batch is built."""

    def picky(messages: Any, settings: Any) -> Any:
        if any(item.subject == "Unbuildable" for item in messages):
            raise InvalidAddressError("No.")
        return BATCHING.build_many(messages, settings)  # type: ignore[misc]

    esp = replace(ONE, build=lambda item, _: picky([item], _), build_many=picky)
    first, second = member(esp), member(TWO)
    wrong = message(B)
    wrong.subject = "Unbuildable"
    results = send(failover(first, second), [message(A), wrong, message("nobody"), message(C)])
    assert requests(first) == [[A, C]]
    assert [type(result.error) for result in results] == [
        type(None),
        InvalidAddressError,
        InvalidAddressError,
        type(None),
    ]
    assert requests(second) == []


def test_messages_that_no_member_can_express_are_refused_alone() -> None:
    """As with send()."""
    tagged = message(B, tags=["news"])
    results = send(failover(member(ONE), member(TWO)), [message(A), tagged])
    assert [type(result.error) for result in results] == [type(None), UnsupportedFeatureError]


def test_one_message_is_the_probe_of_a_batch() -> None:
    """The others follow it together once it is through."""
    first, second = member(ONE), member(TWO)
    first.breaker.failed()
    first.breaker.failed()
    first.breaker.until = 0.0
    send(failover(first, second), map(message, [A, B, C]))
    assert (requests(first), requests(second)) == ([[A], [B, C]], [])


def test_a_member_that_is_left_alone_is_passed_by() -> None:
    """No request is made of it."""
    first, second = member(ONE), member(TWO)
    first.breaker.failed()
    first.breaker.failed()
    results = send(failover(first, second), map(message, [A, B]))
    assert requests(first) == []
    assert told(results) == [("Two", "accepted", ["Two"])] * 2


def test_if_all_are_open_somebody_is_asked() -> None:
    """One message first, then the others together, rather than nothing."""
    first, second = member(ONE), member(THREE)
    for one in (first, second, first, second):
        one.breaker.failed()
    first.breaker.until = 1e12
    results = send(failover(first, second), map(message, [A, B, C]))
    assert (requests(first), requests(second)) == ([], [[A], [B, C]])
    assert [str(result.outcome) for result in results] == ["accepted"] * 3


def test_a_batch_that_fails_counts_once_against_its_member() -> None:
    """It is one request."""
    first = member(ONE, gone(), gone())
    default = failover(first, member(TWO))
    send(default, map(message, [A, B, C]))
    assert first.breaker.closed
    send(default, map(message, [A, B, C]))
    assert not first.breaker.closed


def test_only_the_last_member_keeps_messages_waiting() -> None:
    """While there is another one to ask, nobody waits longer than in send()."""
    pauses = Pauses()
    retries = retrying(pauses, 1)
    slow = Limit(), Limit()
    for limit in slow:
        limit.refused(17.0)
    first = member(ONE, limit=slow[0], retries=retries)
    second = member(THREE, limit=slow[1], retries=retries)
    results = send(failover(first, second), map(message, [A, B]))
    assert (requests(first), requests(second)) == ([], [[A, B]])
    assert told(results) == [("Three", "accepted", ["Three"])] * 2
    assert list(pauses) == [pytest.approx(17.0, abs=1)]


def test_a_strategy_that_begins_without_batches_sends_as_results_are_asked_for() -> None:
    """There is nothing to gather messages for."""
    first, second = member(TWO, gone()), member(ONE)
    taken: list[str] = []

    def messages() -> Iterable[Message]:
        for number in range(100):
            taken.append(str(number))
            yield message(f"p{number}@example.com")

    sent = send_many(failover(first, second), messages(), 2)
    result = next(sent)
    assert told([result]) == [("One", "accepted", ["Two", "One"])]
    assert len(taken) < 10
    del sent


def test_a_message_may_be_changed_once_it_was_taken() -> None:
    """The caller may fill in the same one for the next recipient."""
    first = member(ONE, gone())
    again = message(A)

    def messages() -> Iterable[Message]:
        for name in (A, B, C):
            again.to = [name]
            yield again

    second = member(TWO)
    results = send(failover(first, second), messages())
    assert [list(result.recipients) for result in results] == [[A], [B], [C]]
    assert sorted(requests(second)) == [[A], [B], [C]]


def test_no_more_set_out_together_than_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number, by what they weigh, and by the copies that a merge makes."""
    monkeypatch.setattr(many, "_COPIES", 4)
    monkeypatch.setattr(many, "_BYTES", 3_000)
    first = member(replace(ONE, supports=frozenset(Feature)))
    through = failover(first, member(TWO))
    file = ("a.bin", "application/octet-stream", bytes(1_490))
    heavy = [message(A, attachments=[file]) for _ in range(3)]
    merges = [message(A, B, C, merge_metadata={}) for _ in range(3)]
    for messages in ([message(A) for _ in range(9)], heavy, merges):
        assert {str(result.outcome) for result in send(through, messages)} == {"accepted"}
    sizes = [len(request) for request in requests(first)]
    assert sizes == [4, 4, 1, 3, 6, 3]


def test_what_is_odd_about_a_message_is_its_own_trouble() -> None:
    """Even where what it weighs cannot be told."""
    odd = [message(A, attachments=[item]) for item in (7, (), ("a.txt", "text/plain", 7))]
    results = send(failover(member(ONE), member(TWO)), [*odd, message(B)])
    assert [str(result.outcome) for result in results] == ["not_sent"] * 3 + ["accepted"]


def test_ending_early_sends_nothing_that_has_not_set_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tells of everything that has."""
    monkeypatch.setattr(many, "_COPIES", 2)
    first = member(ONE)
    told: list[SendResult] = []
    sent = many.deliver_many(
        failover(first, member(TWO)),
        (message(f"p{number}@example.com") for number in range(100)),
        2,
        lambda _: None,
        lambda _, result: told.append(result),
    )
    assert next(sent).outcome == "accepted"
    assert isinstance(sent, Generator)
    sent.close()
    gone_out = [name for request in requests(first) for name in request]
    assert 2 <= len(gone_out) <= 6
    assert [name for result in told for name in result.recipients] == gone_out


def test_results_and_errors_know_each_other() -> None:
    """One failed batch, and each message's error carries that message's result."""
    results = send(failover(member(ONE, gone()), member(THREE, gone())), map(message, [A, B]))
    for result in results:
        assert isinstance(result.error, MailESPError)
        assert result.error.result is result
