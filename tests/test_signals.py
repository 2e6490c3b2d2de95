"""``pre_send``, ``post_send`` and ``CancelSend``, through ``mail.send``."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from flask import Flask

from flask_mailesp import CancelSend, MailESP, Message, SendResult, signals
from flask_mailesp.esp import HttpRequest, HttpResponse
from flask_mailesp.exceptions import APIError, InvalidMessageError
from flask_mailesp.testing import EspServer, body_of


class World(NamedTuple):
    app: Flask
    mail: MailESP
    server: EspServer
    answers: list[HttpResponse]

    def send(self, message: Message | None = None) -> SendResult:
        with self.app.app_context():
            return self.mail.send(message or hello())

    def payload(self, index: int = -1) -> Any:
        return json.loads(body_of(self.server.requests[index]))


def hello() -> Message:
    return Message("Hello", "you@example.com", "Hi", sender="me@example.org")


def make_app(url: str) -> tuple[Flask, MailESP]:
    app = Flask(__name__)
    app.config.update(
        MAILESP_ESP="postmark",
        MAILESP_POSTMARK_SERVER_TOKEN="t-1",
        MAILESP_POSTMARK_API_URL=url,
    )
    return app, MailESP(app)


@pytest.fixture
def world() -> Iterator[World]:
    answers: list[HttpResponse] = []

    def answer(request: HttpRequest) -> HttpResponse:
        if answers:
            return answers.pop(0)
        result = {"ErrorCode": 0, "Message": "OK", "MessageID": "id-1"}
        many = isinstance(json.loads(body_of(request)), list)
        return HttpResponse(200, {}, json.dumps([result] if many else result).encode())

    with EspServer(answer) as server:
        app, mail = make_app(server.url)
        yield World(app, mail, server, answers)


def test_both_signals_tell_what_is_sent_and_what_came_of_it(world: World) -> None:
    """The sender is the real app object, the name is the ESP's own spelling."""
    seen: list[tuple[str, Any]] = []

    def before(app: Flask, message: Message, esp_name: str) -> None:
        assert app is world.app
        seen.append(("before", (message, esp_name)))

    def after(app: Flask, message: Message, result: SendResult, esp_name: str) -> None:
        assert app is world.app
        seen.append(("after", (message, result, esp_name)))

    message = hello()
    with (
        signals.pre_send.connected_to(before, world.app),
        signals.post_send.connected_to(after, world.app),
    ):
        result = world.send(message)
    assert seen == [("before", (message, "Postmark")), ("after", (message, result, "Postmark"))]


def test_a_receiver_of_pre_send_may_change_the_message(world: World) -> None:
    """What is sent is what the receivers left."""

    def before(app: Flask, message: Message, **extra: Any) -> None:
        message.subject = "[test] " + message.subject
        message.tags.append("from-signal")

    with signals.pre_send.connected_to(before, world.app):
        world.send()
    assert world.payload()["Subject"] == "[test] Hello"
    assert world.payload()["Tag"] == "from-signal"


def test_cancel_send_ends_the_send_quietly(world: World) -> None:
    """No exception, no request, no post_send; the result says so."""
    after: list[Any] = []

    def before(app: Flask, **extra: Any) -> None:
        raise CancelSend

    def receive(app: Flask, **extra: Any) -> None:
        after.append(extra)

    with (
        signals.pre_send.connected_to(before, world.app),
        signals.post_send.connected_to(receive, world.app),
    ):
        result = world.send()
    assert (result.outcome, result.status, result.message_id) == ("cancelled", set(), None)
    assert (result.esp_name, result.error, dict(result.recipients)) == ("Postmark", None, {})
    assert (world.server.connections, after) == (0, [])


def test_another_exception_in_pre_send_reaches_the_caller(world: World) -> None:
    """It is a bug in the app, and nothing has been sent yet."""

    def before(app: Flask, **extra: Any) -> None:
        raise LookupError("bug")

    with signals.pre_send.connected_to(before, world.app), pytest.raises(LookupError, match="bug"):
        world.send()
    assert world.server.connections == 0


def test_a_failing_receiver_of_post_send_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is out: the caller gets the result, the other receivers the signal."""
    heard: list[str] = []

    def fails(app: Flask, **extra: Any) -> None:
        heard.append("one")
        raise LookupError("bug in a receiver")

    def also_fails(app: Flask, **extra: Any) -> None:
        heard.append("other")
        raise CancelSend

    with (
        signals.post_send.connected_to(fails, world.app),
        signals.post_send.connected_to(also_fails, world.app),
    ):
        result = world.send()
    assert result.outcome == "accepted"
    assert sorted(heard) == ["one", "other"]
    assert "bug in a receiver" in caplog.text
    assert "you@example.com" not in caplog.text


def test_post_send_tells_of_failures_too(world: World) -> None:
    """Before the exception reaches the caller."""
    results: list[SendResult] = []

    def after(app: Flask, result: SendResult, **extra: Any) -> None:
        results.append(result)

    world.answers.append(HttpResponse(422, {}, b"{}"))
    with signals.post_send.connected_to(after, world.app), pytest.raises(APIError) as caught:
        world.send()
    assert results == [caught.value.result]
    assert results[0].outcome == "refused"


def test_an_invalid_message_is_announced_but_has_no_result(world: World) -> None:
    """pre_send may repair a message, so it comes first; nothing was sent, so nothing ended."""
    heard: list[str] = []

    def before(app: Flask, **extra: Any) -> None:
        heard.append("before")

    def after(app: Flask, **extra: Any) -> None:
        heard.append("after")

    with (
        signals.pre_send.connected_to(before, world.app),
        signals.post_send.connected_to(after, world.app),
        pytest.raises(InvalidMessageError),
    ):
        world.send(Message("Hello", "nobody", "Hi", sender="me@example.org"))
    assert heard == ["before"]


def test_receivers_hear_their_own_app_only(world: World) -> None:
    """Several apps live in one process, in tests above all."""
    heard: list[Flask] = []

    def before(app: Flask, **extra: Any) -> None:
        heard.append(app)

    other, mail = make_app(world.server.url)
    with signals.pre_send.connected_to(before, world.app):
        with other.app_context():
            mail.send(hello())
        assert heard == []
        world.send()
    assert heard == [world.app]


def test_local_functions_stay_connected(world: World) -> None:
    """blinker forgets a receiver that nobody else holds; these signals hold it."""
    heard: list[str] = []

    def connect() -> Any:
        @signals.post_send.connect_via(world.app)
        def receiver(app: Flask, **extra: Any) -> None:
            heard.append("after")

        return id(receiver)

    connect()
    gc.collect()
    try:
        world.send()
    finally:
        for receiver in list(signals.post_send.receivers_for(world.app)):
            signals.post_send.disconnect(receiver, world.app)
    assert heard == ["after"]


def test_send_many_announces_every_message(world: World) -> None:
    """In the caller's thread and order; cancelled ones have a result and no post_send."""
    before: list[str] = []
    after: list[str] = []

    def announce(app: Flask, message: Message, **extra: Any) -> None:
        before.append(message.subject)
        if message.subject == "two":
            raise CancelSend

    def report(app: Flask, message: Message, **extra: Any) -> None:
        after.append(message.subject)

    messages = [
        Message(name, "a@example.com", "Hi", sender="me@example.org") for name in ("one", "two")
    ]
    with (
        signals.pre_send.connected_to(announce, world.app),
        signals.post_send.connected_to(report, world.app),
        world.app.app_context(),
    ):
        results = list(world.mail.send_many(messages))
    assert [str(result.outcome) for result in results] == ["accepted", "cancelled"]
    assert (before, after) == (["one", "two"], ["one"])
