"""The circuit breaker: opens after failures, lets one probe through, closes again."""

from __future__ import annotations

import threading

from flask_mailesp.breaker import Breaker


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(3, 30.0, clock)
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    """Not after as many in all."""
    clock = Clock()
    breaker = Breaker(3, 30.0, clock)
    for _ in range(9):
        breaker.failed()
        breaker.failed()
        breaker.passed()
    assert breaker.admits()
    assert not opened(clock).admits()


def test_then_one_probe_goes_and_the_others_pass_by() -> None:
    """Its success closes the breaker."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 30
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.passed()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]
    assert repr(breaker) == "<Breaker: closed>"


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    """One is enough."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 31
    assert breaker.admits()
    breaker.failed()
    clock.now += 29
    assert not breaker.admits()
    clock.now += 1
    assert breaker.admits()


def test_a_probe_that_never_reports_is_followed_by_another() -> None:
    """Its thread may have been killed."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 30
    assert breaker.admits()
    clock.now += 30
    assert [breaker.admits() for _ in range(2)] == [True, False]


def test_of_many_threads_one_probes() -> None:
    """However they race."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 30
    admitted: list[bool] = []
    threads = [
        threading.Thread(target=lambda: admitted.append(breaker.admits())) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted.count(True) == 1
