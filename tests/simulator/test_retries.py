"""Webhooks that are not answered as the provider wants it are posted again, as it does it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from werkzeug.test import Client as WsgiClient
from werkzeug.wrappers import Response

from flask_mailesp.simulator import Delivery, LocalServer, Simulator

from .conftest import POSTMARK_TOKEN, Application, Client

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}
POSTAL = {"from": "a@example.org", "to": ["bea@example.com"], "plain_body": "Hi"}
MAIL = b"From: ann@example.com\r\nTo: help@example.org\r\nSubject: Hi\r\n\r\nHello\r\n"
MINUTE = 60.0

POSTMARK_WAITS = [m * MINUTE for m in (1, 5, 15, 1, 5, 10, 10, 10, 15)]
POSTMARK_INBOUND = [m * MINUTE for m in (1, 5, 10, 10, 10, 15, 30, 60, 120, 360)]
POSTAL_WAITS = [m * MINUTE for m in (2, 3, 6, 10, 15)]


def emitted(sim: Simulator, esp: str, postmark: Client, postal: Client) -> list[Delivery]:
    """All attempts of one event."""
    sim.auto = ()
    if esp == "postmark":
        postmark.post("/email", MESSAGE)
    else:
        postal.post("/api/v1/send/message", POSTAL)
    sim.emit(sim.messages[-1], "opened")
    return sim.wait()


def received(sim: Simulator, esp: str) -> list[Delivery]:
    """All attempts of one inbound mail."""
    sim.receive(esp, MAIL, to="help@example.org")
    return sim.wait()


@pytest.mark.parametrize(("esp", "waits"), [("postmark", POSTMARK_WAITS), ("postal", POSTAL_WAITS)])
def test_the_schedule_of_events(
    sim: Simulator,
    postmark: Client,
    postal: Client,
    hooked: Application,
    esp: str,
    waits: list[float],
) -> None:
    """One attempt, one for each wait, and then the event is given up."""
    sim.time_scale, hooked.status = 0, 500

    attempts = emitted(sim, esp, postmark, postal)

    assert [one.retry_in for one in attempts] == [*waits, None]
    assert [one.attempt for one in attempts] == list(range(1, len(waits) + 2))
    assert {one.verdict for one in attempts[:-1]} == {"retry"}
    assert attempts[-1].verdict == "exhausted"


@pytest.mark.parametrize(
    ("esp", "waits"),
    [("postmark", POSTMARK_INBOUND), ("postal", [round(300 * 1.3**n, 3) for n in range(17)])],
)
def test_the_schedule_of_inbound_mail(
    sim: Simulator, hooked: Application, esp: str, waits: list[float]
) -> None:
    sim.time_scale, hooked.status = 0, 500

    assert [one.retry_in for one in received(sim, esp)] == [*waits, None]


@pytest.mark.parametrize(
    ("esp", "status", "verdict"),
    [
        ("postmark", 200, "done"),
        ("postmark", 204, "done"),
        ("postmark", 302, "retry"),
        ("postmark", 400, "dropped"),
        ("postmark", 401, "dropped"),
        ("postmark", 403, "dropped"),
        ("postmark", 408, "retry"),
        ("postmark", 410, "dropped"),
        ("postmark", 429, "retry"),
        ("postmark", 503, "retry"),
        ("postal", 201, "done"),
        ("postal", 302, "retry"),
        ("postal", 401, "retry"),
        ("postal", 403, "retry"),
        ("postal", 410, "retry"),
        ("postal", 503, "retry"),
    ],
)
def test_what_an_answer_to_an_event_means(
    sim: Simulator,
    postmark: Client,
    postal: Client,
    hooked: Application,
    esp: str,
    status: int,
    verdict: str,
) -> None:
    hooked.status = status

    assert [one.verdict for one in emitted(sim, esp, postmark, postal)] == [verdict]
    assert len(sim.pending) == (1 if verdict == "retry" else 0)


@pytest.mark.parametrize(
    ("esp", "status", "verdict"),
    [
        ("postmark", 200, "done"),
        ("postmark", 201, "retry"),
        ("postmark", 204, "retry"),
        ("postmark", 401, "retry"),
        ("postmark", 403, "dropped"),
        ("postmark", 404, "retry"),
        ("postal", 204, "done"),
        ("postal", 302, "dropped"),
        ("postal", 401, "dropped"),
        ("postal", 429, "dropped"),
        ("postal", 500, "retry"),
    ],
)
def test_what_an_answer_to_inbound_mail_means(
    sim: Simulator, hooked: Application, esp: str, status: int, verdict: str
) -> None:
    hooked.status = status

    assert [one.verdict for one in received(sim, esp)] == [verdict]


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_no_answer_at_all_is_tried_again(sim: Simulator, esp: str) -> None:
    sim.hook(esp, inbound="http://127.0.0.1:1/")

    (delivery,) = received(sim, esp)

    assert (delivery.status, delivery.verdict) == (None, "retry")


def test_postals_retries_are_the_same_byte_for_byte(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    """Body, uuid and signatures: a receiver cannot tell them from a replay."""
    sim.time_scale, hooked.status = 0, 500

    emitted(sim, "postal", postmark, postal)

    first, *others = hooked.requests
    assert len(others) == 5
    assert all(other == first for other in others)


def test_postmarks_retries_count_down_under_one_trace_id(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    sim.time_scale, hooked.status = 0, 500

    emitted(sim, "postmark", postmark, postal)

    remaining = [one.headers["x-pm-retries-remaining"] for one in hooked.requests]
    assert remaining == [str(number) for number in range(9, -1, -1)]
    assert len({one.headers["x-pm-webhook-trace-id"] for one in hooked.requests}) == 1
    assert len({one.body for one in hooked.requests}) == 1


def test_an_app_that_recovers_ends_the_retries(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    sim.time_scale, sim.auto = 0.001, ()  # the second attempt comes after 60 ms
    postmark.post("/email", MESSAGE)
    hooked.status = 503
    sim.emit(sim.messages[0], "opened")
    hooked.status = 200

    assert [one.verdict for one in sim.wait()] == ["retry", "done"]
    assert sim.pending == []


def test_a_retry_in_real_time_is_pending_and_not_waited_for(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    """wait() is for what is about to happen, not for what comes in a minute."""
    hooked.status = 503
    postmark.post("/email", MESSAGE)

    (delivery,) = sim.wait()
    (pending,) = sim.pending

    assert (delivery.verdict, delivery.retry_in) == ("retry", 60.0)
    assert (pending.esp, pending.event, pending.attempt) == ("postmark", "delivered", 2)
    assert pending.message == sim.messages[0].id
    assert 50 < pending.due_in <= 60


def test_stopping_cancels_the_retries(sim: Simulator, hooked: Application) -> None:
    hooked.status = 503
    received(sim, "postal")

    sim.stop()

    assert sim.pending == []


def test_stopping_waits_for_the_attempt_that_is_being_made_and_no_longer(sim: Simulator) -> None:
    """Its answer asks for another attempt, which does not begin."""
    arrived, stopping = threading.Event(), threading.Event()

    def application(environ: Any, start_response: Any) -> Any:
        arrived.set()
        stopping.wait(5)
        return Response(b"", 503)(environ, start_response)

    server = LocalServer(application)
    sim.time_scale = 0
    sim.hook("postmark", tracking=server.url)
    headers = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}
    WsgiClient(sim).post("/postmark/email", json=MESSAGE, headers=headers)
    arrived.wait(5)
    stopper = threading.Thread(target=sim.stop)
    stopper.start()
    stopping.set()
    stopper.join(10)
    server.stop()

    assert not stopper.is_alive()
    assert sim.pending == []


def test_a_redelivery_is_not_followed_by_retries(sim: Simulator, hooked: Application) -> None:
    sim.receive("postal", MAIL, to="help@example.org")
    hooked.status = 503

    again = sim.redeliver(sim.deliveries[0])

    assert (again.status, again.event, sim.pending) == (503, "inbound", [])


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_time_does_not_run_backwards(sim: Simulator, scale: float) -> None:
    with pytest.raises(ValueError, match="time scale is a number from 0 on"):
        Simulator(time_scale=scale)
    with pytest.raises(ValueError, match="time scale"):
        sim.time_scale = scale
    assert sim.time_scale == 1.0
