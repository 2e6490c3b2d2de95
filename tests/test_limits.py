"""Rate limits: never more than the rate, never a blocked worker, and 429s are heeded."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from acme import Sleeps, gone, mailer, message, retrying, send_many
from conftest import CREDENTIALS, MakeApp
from hypothesis import given
from hypothesis import strategies as st
from scripted import Reply, scripted

from flask_mailesp import MailESP
from flask_mailesp.config import Lookup
from flask_mailesp.delivery import deliver
from flask_mailesp.esp import HttpResponse, Secret
from flask_mailesp.esps import postmark
from flask_mailesp.exceptions import ConfigurationError, RateLimitedError
from flask_mailesp.limits import Limit, Limits, ProcessLock, Rate
from flask_mailesp.policies import as_rate, rate_limit
from flask_mailesp.retries import Retries


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# --- the rate --------------------------------------------------------------------------


@given(
    st.integers(1, 60),
    st.sampled_from([1.0, 60.0]),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_period_has_more_requests_than_the_rate(
    requests: int, seconds: float, gaps: list[float]
) -> None:
    """However they come: in a burst, evenly or after a rest."""
    clock = Clock()
    limit = Limit(Rate(requests, seconds), clock)
    times = []
    for gap in gaps:
        clock.sleep(gap)
        clock.sleep(limit.enter(1e9))
        times.append(clock.now)
    for later, first in zip(times[requests:], times, strict=False):
        assert later - first >= seconds * (1 - 1e-6)


def test_an_unhurried_sender_never_waits() -> None:
    """Nor does a small burst."""
    clock = Clock()
    limit = Limit(Rate(50, 1.0), clock)
    assert [limit.enter(0) for _ in range(5)] == [0.0] * 5
    assert limit.enter(0) > 0
    clock.sleep(1)
    assert limit.enter(0) == 0


def test_who_does_not_wait_keeps_no_place() -> None:
    """Those who gave up must not delay the others."""
    clock = Clock()
    limit = Limit(Rate(1, 10.0), clock)
    limit.enter(0)
    assert [limit.enter(1.0) for _ in range(3)] == [10.0] * 3
    assert limit.enter(10.0) == 10.0
    assert limit.enter(10.0) == 20.0


def test_the_slower_of_two_rates_counts() -> None:
    """Two mailers may share a credential."""
    limit = Limit(Rate(10, 1.0))
    limit.restrict(Rate(60, 60.0))
    limit.restrict(Rate(100, 1.0))
    limit.restrict(None)
    assert limit.rate == Rate(60, 60.0)


def test_threads_share_the_places() -> None:
    """Each gets one of its own."""
    clock = Clock()
    limit = Limit(Rate(1, 1.0), clock)
    waits: list[float] = []
    threads = [threading.Thread(target=lambda: waits.append(limit.enter(1e9))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [float(number) for number in range(16)]


# --- 429 -------------------------------------------------------------------------------


def test_a_429_holds_everything_back_for_as_long_as_it_says() -> None:
    """Five minutes at most: a misread header must not silence an app for a day."""
    clock = Clock()
    limit = Limit(clock=clock)
    assert limit.enter(0) == 0
    limit.refused(17.0)
    assert limit.enter(1.0) == 17.0
    clock.sleep(17)
    assert limit.enter(0) == 0
    limit.refused(86_400.0)
    assert limit.enter(0) == 300.0


def test_without_a_time_the_pauses_double_until_something_passes() -> None:
    """Those refused together count once. Only work in the background heeds a guess."""
    clock = Clock()
    limit = Limit(clock=clock)
    pauses = []
    for _ in range(9):
        limit.refused(None)
        limit.refused(None)
        assert limit.enter(1.0) == 0.0
        pauses.append(limit.enter(0, guess=True))
        clock.sleep(pauses[-1])
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    limit.passed()
    limit.refused(None)
    assert limit.enter(0, guess=True) == 0.5


def test_a_forked_child_finds_the_lock_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever thread held it in the parent does not exist in the child."""
    lock = ProcessLock()
    with lock:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with lock:
            pass
        monkeypatch.undo()


def test_the_credential_of_a_message_is_counted_by_itself() -> None:
    """At the mailer's rate, and only so many of them are kept in memory."""
    limits = Limits(Clock())
    assert limits.of_mailer(["free"], None).is_free
    own = limits.of_mailer(["own"], Rate(1, 10.0))
    assert own.of([Secret("own"), "application/json"]) is own
    guest = own.of(["application/json", Secret("guest")])
    assert own.of([Secret("guest")]) is guest
    assert [guest.enter(0), guest.enter(0), own.enter(0)] == [0.0, 10.0, 0.0]
    for number in range(2000):
        own.of([Secret(f"guest {number}")])
    assert own.of([Secret("guest")]) is not guest
    assert own.of([Secret("own")]) is own


# --- sending ---------------------------------------------------------------------------


def test_a_long_wait_raises_instead_of_blocking() -> None:
    """No request is made, nothing has slept, and the caller learns how long it takes."""
    sleeps = Sleeps()
    acme, transport = mailer(retries=retrying(sleeps), limit=Limit(Rate(1, 60.0), Clock()))
    assert deliver(acme, message()).outcome == "accepted"
    result = deliver(acme, message())
    assert isinstance(result.error, RateLimitedError)
    assert result.error.retry_after == 60.0
    assert (result.error.esp_name, result.attempts) == ("Acme", ())
    assert (len(transport.requests), sleeps) == (1, [])


def test_a_short_wait_is_waited() -> None:
    """It is shorter than writing an error page."""
    sleeps = Sleeps()
    acme, transport = mailer(retries=retrying(sleeps), limit=Limit(Rate(2, 1.0), Clock()))
    for _ in range(2):
        assert deliver(acme, message()).outcome == "accepted"
    assert (len(transport.requests), sleeps) == (2, [0.5])


def test_the_next_send_heeds_the_429_of_the_last() -> None:
    """It does not even ask."""
    clock = Clock()
    limit = Limit(clock=clock)
    slow = HttpResponse(429, {"retry-after": "17"})
    acme, transport = mailer(slow, retries=retrying(clock.sleep), limit=limit)
    first, second = deliver(acme, message()), deliver(acme, message())
    assert isinstance(first.error, RateLimitedError)
    assert isinstance(second.error, RateLimitedError)
    assert first.error.retry_after == second.error.retry_after == 17.0
    assert len(transport.requests) == 1
    clock.sleep(17)
    assert deliver(acme, message()).outcome == "accepted"


def test_what_the_esp_has_not_said_is_not_claimed() -> None:
    """A 429 without a time says nothing about the next request; so that one is made."""
    clock = Clock()
    acme, transport = mailer(HttpResponse(429), limit=Limit(clock=clock))
    first, second = deliver(acme, message()), deliver(acme, message())
    assert isinstance(first.error, RateLimitedError)
    assert (first.error.retry_after, second.outcome) == (None, "accepted")
    assert (len(transport.requests), clock.now) == (2, 1000.0)


def test_many_messages_wait_for_what_is_guessed_too() -> None:
    """Else a thousand of them would be refused within a second."""
    clock = Clock()
    acme, transport = mailer(
        *[HttpResponse(429)] * 2, retries=Retries(sleep=clock.sleep), limit=Limit(clock=clock)
    )
    results = [str(result.outcome) for result in send_many(acme, [message() for _ in range(4)], 1)]
    assert results == ["refused", "refused", "accepted", "accepted"]
    assert (len(transport.requests), clock.now) == (4, 1001.5)


def test_the_wait_is_part_of_the_deadline() -> None:
    """A request after it has less time; where too little would be left there is none."""
    clock = Clock()
    limit = Limit(Rate(1, 2.0), clock)
    acme, transport = mailer(
        gone(), retries=retrying(clock.sleep, deadline=5.0, max_wait=9.0), limit=limit
    )
    assert deliver(acme, message()).outcome == "accepted"
    (_, within) = transport.within
    assert within is not None
    assert within < 3.5
    acme, transport = mailer(
        gone(), retries=retrying(clock.sleep, 2, deadline=3.0, max_wait=9.0), limit=limit
    )
    clock.sleep(9.0)
    assert isinstance(deliver(acme, message()).error, RateLimitedError)
    assert len(transport.requests) == 1


def test_a_429_for_one_credential_does_not_hold_another_back(make_app: MakeApp) -> None:
    """Each Postmark server has a token and a rate of its own, and a message may name one."""
    taken = Reply(200, b'{"ErrorCode": 0, "MessageID": "1"}')
    mail = MailESP()
    with scripted(Reply(429, headers={"Retry-After": "60"}), taken) as server:
        app = make_app(mail, **CREDENTIALS["postmark"], MAILESP_POSTMARK_API_URL=server.url)
        other = message(esp_extra={"server_token": "another-token"})
        with app.app_context():
            for _ in range(2):  # the second one is not even asked about
                with pytest.raises(RateLimitedError):
                    mail.send(other)
            assert mail.send(message()).outcome == "accepted"
            assert len(server.requests) == 2


# --- configuration ---------------------------------------------------------------------

RATES: list[tuple[Any, Rate]] = [
    (50, Rate(50, 1)),
    ("50", Rate(50, 1)),
    ("50/second", Rate(50, 1)),
    ("600 / Minute", Rate(600, 60)),
    ("1000/hour", Rate(1000, 3600)),
    ("100/day", Rate(100, 86_400)),
    (0.5, Rate(1, 2)),
]


@pytest.mark.parametrize(("value", "rate"), RATES)
def test_how_a_rate_is_written(value: Any, rate: Rate) -> None:
    """A number is one a second."""
    assert as_rate("KEY", value) == rate


@pytest.mark.parametrize("value", [0, -1, True, "fast", "5/week", "/second", "nan", "inf", [5]])
def test_what_is_no_rate_is_refused(value: Any) -> None:
    """By the name of the key."""
    with pytest.raises(ConfigurationError, match="MAILESP_RATE_LIMIT"):
        as_rate("MAILESP_RATE_LIMIT", value)


def test_the_esps_own_rate_stands_before_the_general_one() -> None:
    """And a mailer's before both; None means no rate."""
    both = {"MAILESP_RATE_LIMIT": 5, "MAILESP_POSTMARK_RATE_LIMIT": 7}
    assert rate_limit(Lookup(both), postmark.esp) == Rate(7, 1)
    assert rate_limit(Lookup(both, {"RATE_LIMIT": 9}, "M"), postmark.esp) == Rate(9, 1)
    assert rate_limit(Lookup(both, {"RATE_LIMIT": None}, "M"), postmark.esp) is None
    assert rate_limit(Lookup({}), postmark.esp) is None


@pytest.mark.parametrize("value", ["key", "Bearer key", "Basic YXBpOmtleQ==", "Basic !"])
def test_a_credential_is_known_in_whatever_scheme_it_travels(value: str) -> None:
    """Else each answer of 429 would be put down to a credential that a message brought along."""
    limits = Limits(Clock())
    own = limits.of_mailer(["webhook secret", "key"], None)
    other = limits.of_mailer(["other"], None)
    assert (own.of([Secret(value)]) is own) is (value != "Basic !")
    assert (other.of([Secret(value)]) is own) is (value != "Basic !")


def test_mailers_with_one_credential_share_its_limit(make_app: MakeApp) -> None:
    """The ESP counts them together; another credential is counted apart."""
    app = make_app(
        **CREDENTIALS["postmark"],
        MAILESP_RATE_LIMIT=50,
        MAILESP_MAILERS={
            "bulk": {"esp": "postmark", "rate_limit": "60/minute"},
            "other": {"esp": "postmark", "server_token": "another-token"},
        },
    )
    mailers = app.extensions["mailesp"].mailers
    assert mailers["bulk"].limit is mailers["default"].limit
    assert mailers["bulk"].limit.rate == Rate(60, 60)
    assert mailers["other"].limit.rate == Rate(50, 1)
