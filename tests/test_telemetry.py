"""The attempt signals: each exchange with an ESP, in figures and without addresses."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MakeApp
from flask import Flask, current_app
from scripted import Item, Reply, ScriptedServer, scripted
from test_rails import MAIL, answer, app_for

from flask_mailesp import Message, signals
from flask_mailesp.exceptions import APIError, MailESPError, SendUncertainError

NAMES = ("attempt_started", "attempt_ended", "attempt_failed")
Heard = list[tuple[str, dict[str, Any]]]


def listen(app: Flask, heard: Heard) -> Any:
    """Connect a receiver to each signal for as long as the app is used."""
    for name in NAMES:

        def receiver(app: Flask, name: str = name, **about: Any) -> None:
            heard.append((name, about))

        getattr(signals, name).connect(receiver, app)


def send(make_app: MakeApp, server: ScriptedServer, heard: Heard) -> None:
    app = app_for(make_app, server)
    listen(app, heard)
    with app.app_context():
        MAIL.send(Message("Hi", ["bea@example.com", "carl@example.net"], "Hi"))


def test_an_exchange_is_told_of_when_it_starts_and_when_it_ends(make_app: MakeApp) -> None:
    """By the same object, so that the two can be joined."""
    heard: Heard = []
    with scripted(answer) as server:
        send(make_app, server, heard)

    (first, start), (second, end) = heard
    assert (first, second) == ("attempt_started", "attempt_ended")
    assert start["exchange"] is end["exchange"]
    assert start["esp_name"] == end["esp_name"] == "Postmark"
    exchange, attempt = end["exchange"], end["attempt"]
    assert (exchange.recipients, exchange.messages) == (2, 1)
    assert exchange.request_bytes == len(server.requests[0].body)
    assert end["response_bytes"] > 0
    assert (attempt.outcome, attempt.status) == ("accepted", 200)
    assert attempt.duration > 0
    assert "example.com" not in repr(heard)


@pytest.mark.parametrize(
    ("item", "error", "size"),
    [(Reply(422, b"{}"), APIError, 2), (b"", SendUncertainError, None)],
    ids=["refused", "no answer"],
)
def test_one_that_fails_is_told_of_with_its_error(
    make_app: MakeApp, item: Item, error: type[MailESPError], size: int | None
) -> None:
    """In place of the end."""
    heard: Heard = []
    with scripted(item) as server, pytest.raises(error):
        send(make_app, server, heard)

    assert [name for name, _ in heard] == ["attempt_started", "attempt_failed"]
    assert isinstance(heard[1][1]["attempt"].error, error)
    assert heard[1][1]["response_bytes"] == size


def test_a_batch_is_one_exchange_told_of_in_the_callers_context(make_app: MakeApp) -> None:
    """Though another thread makes it."""
    heard: Heard = []
    apps: list[Any] = []

    def where(app: Flask, **about: Any) -> None:
        apps.append(current_app._get_current_object())  # type: ignore[attr-defined]

    with scripted(answer) as server:
        app = app_for(make_app, server)
        listen(app, heard)
        with signals.attempt_started.connected_to(where, app), app.app_context():
            list(MAIL.send_many(Message("Hi", "bea@example.com", "Hi") for _ in range(3)))

    assert [name for name, _ in heard] == ["attempt_started", "attempt_ended"]
    assert heard[0][1]["exchange"].messages == 3
    assert apps == [app]


def test_each_attempt_is_told_of_by_itself(make_app: MakeApp) -> None:
    """A retry is another exchange, with an outcome and a duration of its own."""
    heard: Heard = []
    with scripted(Reply(429, b"{}"), answer) as server:
        app = app_for(make_app, server, RETRIES={"first_pause": 0})
        listen(app, heard)
        with app.app_context():
            result = MAIL.send(Message("Hi", "bea@example.com", "Hi"))

    names = ["attempt_started", "attempt_failed", "attempt_started", "attempt_ended"]
    assert [name for name, _ in heard] == names
    assert heard[0][1]["exchange"] is heard[1][1]["exchange"]
    assert heard[1][1]["exchange"] is not heard[2][1]["exchange"]
    assert (heard[1][1]["attempt"], heard[3][1]["attempt"]) == result.attempts


def test_the_attempts_of_a_strategy_are_told_of_in_the_callers_context(make_app: MakeApp) -> None:
    """Though other threads make them; each by the name of the ESP that was asked."""
    heard: Heard = []
    apps: list[Any] = []

    def where(app: Flask, **about: Any) -> None:
        apps.append(current_app._get_current_object())  # type: ignore[attr-defined]

    with scripted(Reply(401, b"{}")) as server:
        config = {
            "POSTAL_API_KEY": "key",
            "POSTAL_API_URL": server.url,
            "MAILERS": {"both": {"failover": ["postmark", "postal"]}},
        }
        app = app_for(make_app, server, **config)
        listen(app, heard)
        with signals.attempt_started.connected_to(where, app), app.app_context():
            messages = [Message("Hi", "bea@example.com", "Hi") for _ in range(2)]
            list(MAIL.send_many(messages, using="both"))

    told = [about["esp_name"] for name, about in heard if name == "attempt_failed"]
    assert told == ["Postmark", "Postal", "Postal"]
    assert apps == [app] * 3


def test_results_taken_outside_the_app_context_are_told_of_too(make_app: MakeApp) -> None:
    """send_many() needs the context only when it is called."""
    heard: Heard = []
    with scripted(answer) as server:
        app = app_for(make_app, server)
        listen(app, heard)
        with app.app_context():
            results = MAIL.send_many([Message("Hi", "bea@example.com", "Hi")])
        assert [result.outcome for result in results] == ["accepted"]

    assert [name for name, _ in heard] == ["attempt_started", "attempt_ended"]


def test_what_a_receiver_raises_changes_nothing(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Watching must not break what is watched."""

    def fails(app: Flask, **about: Any) -> None:
        raise LookupError("bug")

    with scripted(answer) as server:
        app = app_for(make_app, server)
        for name in NAMES:
            getattr(signals, name).connect(fails, app)
        with app.app_context():
            assert MAIL.send(Message("Hi", "bea@example.com", "Hi")).outcome == "accepted"

    assert "mailesp-attempt-started" in caplog.text
    assert "bea@" not in caplog.text
