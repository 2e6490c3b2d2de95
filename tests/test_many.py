"""send_many: one result per message, in order, whatever happens to any of them."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from scripted import Reply, Request, scripted

from flask_mailesp import CancelSend, MailESP, Message, SendResult, many, signals
from flask_mailesp.exceptions import (
    InvalidAddressError,
    NotSentError,
    SendUncertainError,
    SerializationError,
)

TOKEN = "a-server-token"


def app_for(esp: str, url: str) -> tuple[Flask, MailESP]:
    app = Flask(__name__)
    app.config.update(
        MAILESP_ESP=esp,
        MAILESP_POSTMARK_SERVER_TOKEN=TOKEN,
        MAILESP_POSTMARK_API_URL=url,
        MAILESP_POSTAL_API_KEY="PostalSimulatorKey000001",
        MAILESP_POSTAL_API_URL=url,
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.com"},
    )
    return app, MailESP(app)


def one_by_one(count: int) -> Iterator[Message]:
    return (Message(f"No. {n}", to=f"user{n}@example.com", body="Hi") for n in range(count))


def numbered(count: int) -> list[Message]:
    return list(one_by_one(count))


def postmark(request: Request) -> Reply:
    """Accept a batch; each id tells the subject it belongs to."""
    items = json.loads(request.body)
    messages = items if isinstance(items, list) else items["Messages"]
    answers = [
        {"ErrorCode": 0, "Message": "OK", "MessageID": message.get("Subject", "templated")}
        for message in messages
    ]
    return Reply(200, json.dumps(answers).encode())


def postal(request: Request) -> Reply:
    """Accept a message under the id of its recipient."""
    [recipient] = json.loads(request.body)["to"]
    data = {"message_id": "m", "messages": {recipient: {"id": int(recipient[4:-12]), "token": "t"}}}
    return Reply(200, json.dumps({"status": "success", "data": data}).encode())


def test_postmark_takes_many_messages_in_one_request() -> None:
    """Fewer than it could: several smaller batches at once are faster than one after another."""
    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            results = list(mail.send_many(numbered(1_001)))

    assert [result.message_id for result in results] == [f"No. {n}" for n in range(1_001)]
    assert sorted(len(json.loads(request.body)) for request in server.requests) == [
        1,
        250,
        250,
        250,
        250,
    ]


def test_messages_are_taken_from_an_endless_iterable_as_they_are_needed() -> None:
    """At most as many batches as are on the wire at once."""
    taken = 0

    def endless() -> Iterator[Message]:
        nonlocal taken
        while True:
            taken += 1
            yield Message(f"No. {taken}", to="you@example.com", body="Hi")

    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            for _ in zip(range(10), mail.send_many(endless()), strict=False):
                pass

    assert taken == 1_000
    assert 1 <= len(server.requests) <= 4


def test_postal_gets_several_requests_at_once_and_results_stay_in_order() -> None:
    with scripted(postal) as server:
        app, mail = app_for("postal", server.url)
        with app.app_context():
            results = list(mail.send_many(numbered(40), workers=4))

    assert [result.message_id for result in results] == [str(n) for n in range(40)]
    assert 1 < server.connections <= 4


def test_breaking_off_sends_nothing_that_was_not_started() -> None:
    with scripted(postal) as server:
        app, mail = app_for("postal", server.url)
        with app.app_context():
            results = mail.send_many(numbered(1_000), workers=2)
            next(results)
            results.close()  # type: ignore[attr-defined]
        sent = len(server.requests)

    assert 1 <= sent <= 4


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_a_message_that_cannot_be_sent_is_its_own_affair(esp: str) -> None:
    """Whether it fails when it is prepared or when it is encoded, the others go out."""
    messages = numbered(4)
    messages[1].to = ["not an address"]
    messages[2].esp_extra = {"odd": object()}
    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)
        with app.app_context():
            results = list(mail.send_many(messages))

    assert [result.outcome for result in results] == [
        "accepted",
        "not_sent",
        "not_sent",
        "accepted",
    ]
    assert isinstance(results[1].error, InvalidAddressError)
    assert isinstance(results[2].error, SerializationError)
    with pytest.raises(InvalidAddressError):
        results[1].raise_for_error()


def test_ids_of_an_earlier_batch_survive_the_failure_of_a_later_one() -> None:
    def second_fails(request: Request) -> Reply:
        return postmark(request) if b"No. 249" in request.body else Reply(500, b"oops")

    with scripted(second_fails) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            results = list(mail.send_many(numbered(600)))

    assert {result.outcome for result in results[:250]} == {"accepted"}
    assert {type(result.error) for result in results[250:]} == {SendUncertainError}


def test_messages_with_and_without_a_template_go_to_their_endpoints() -> None:
    messages = numbered(2)
    messages[1] = Message(to="you@example.com", template_id="welcome")
    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            results = list(mail.send_many(messages))

    assert [result.message_id for result in results] == ["No. 0", "templated"]
    assert [request.target for request in server.requests] == [
        "/email/batch",
        "/email/batchWithTemplates",
    ]


def test_an_unreachable_esp_fails_every_message_without_raising() -> None:
    with scripted(postmark) as server:
        url = server.url
    app, mail = app_for("postmark", url)
    with app.app_context():
        results = list(mail.send_many(numbered(3)))

    assert {type(result.error) for result in results} == {NotSentError}
    assert all(
        isinstance(result.error, NotSentError) and result.error.result is result
        for result in results
    )


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_the_signals_run_for_each_message_in_the_callers_thread(esp: str) -> None:
    seen: list[tuple[str, str, int]] = []
    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)

        @signals.pre_send.connect_via(app)
        def before(app: Flask, message: Message, **extra: object) -> None:
            seen.append(("before", message.subject, threading.get_ident()))
            if message.subject == "No. 1":
                raise CancelSend

        @signals.post_send.connect_via(app)
        def after(app: Flask, message: Message, result: SendResult, **extra: object) -> None:
            seen.append(("after", message.subject, threading.get_ident()))

        with app.app_context():
            results = list(mail.using("default").send_many(numbered(3)))

    assert [result.outcome for result in results] == ["accepted", "cancelled", "accepted"]
    assert {ident for _, _, ident in seen} == {threading.get_ident()}
    assert [subject for when, subject, _ in seen if when == "after"] == ["No. 0", "No. 2"]


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_one_message_filled_in_again_and_again_reaches_each_recipient(esp: str) -> None:
    """A template that the caller changes for every recipient is not sent as it is later."""

    def refilled() -> Iterator[Message]:
        message = Message("", body="Hi")
        for n in range(20):
            message.subject, message.to = f"No. {n}", [f"user{n}@example.com"]
            yield message

    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)
        with app.app_context():
            results = list(mail.send_many(refilled(), workers=2))

    assert [list(result.recipients) for result in results] == [
        [f"user{n}@example.com"] for n in range(20)
    ]


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_whatever_stops_one_message_is_its_result(esp: str) -> None:
    """A receiver that fails, or what is no message, costs nobody else's message or id."""
    messages: list[Any] = [*numbered(3), "no message"]
    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)

        @signals.pre_send.connect_via(app)
        def fail(app: Flask, message: Message, **extra: object) -> None:
            if message.subject == "No. 1":
                raise KeyError("a bug")

        with app.app_context():
            results = list(mail.send_many(messages))

    assert [str(result.outcome) for result in results] == [
        "accepted",
        "not_sent",
        "accepted",
        "not_sent",
    ]
    assert [type(result.error) for result in results[1::2]] == [KeyError, TypeError]


@pytest.mark.parametrize("workers", [0, -1, True, "8", 2.5])
def test_the_number_of_workers_is_checked_at_once(workers: Any) -> None:
    app, mail = app_for("postal", "http://127.0.0.1:1")
    with app.app_context(), pytest.raises(ValueError, match="workers"):
        mail.send_many([], workers=workers)


# --- batches overlap -------------------------------------------------------------------


def test_a_batch_is_sent_while_the_one_before_it_is_on_the_wire() -> None:
    """Neither is answered before the server has both of them."""
    both = threading.Barrier(2, timeout=10)

    def together(request: Request) -> Reply:
        both.wait()
        return postmark(request)

    with scripted(together) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            results = list(mail.send_many(numbered(1_000)))

    assert [result.message_id for result in results] == [f"No. {n}" for n in range(1_000)]


def test_memory_does_not_grow_with_the_number_of_messages() -> None:
    """What has been reported is let go."""
    alive = 0
    most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def stream() -> Iterator[Message]:
        nonlocal alive, most
        for n in range(4_000):
            message = Message(f"No. {n}", to="you@example.com", body="Hi")
            alive += 1
            most = max(most, alive)
            weakref.finalize(message, gone)
            yield message

    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            assert sum(1 for _ in mail.send_many(stream())) == 4_000

    assert most <= 1_510


def test_a_batch_is_cut_by_what_its_messages_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attachments are held until their batch is sent."""
    monkeypatch.setattr(many, "_BYTES", 3_000)
    messages = numbered(7)
    for message in messages:
        message.attach("data.bin", "application/octet-stream", bytes(1_000))
    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            results = list(mail.send_many(messages))

    assert sorted(len(json.loads(request.body)) for request in server.requests) == [1, 3, 3]
    assert {result.outcome for result in results} == {"accepted"}


def test_the_copies_of_a_merge_count_towards_a_batch() -> None:
    """One message may be hundreds of copies."""
    to = [f"user{n}@example.com" for n in range(300)]
    merges = [
        Message(to=to, template_id="welcome", merge_data={"user1@example.com": {"n": 1}})
        for _ in range(4)
    ]
    with scripted(postmark) as server:
        app, mail = app_for("postmark", server.url)
        with app.app_context():
            assert len(list(mail.send_many(merges))) == 4

    sizes = [len(json.loads(request.body)["Messages"]) for request in server.requests]
    assert sizes == [300] * 4


# --- ending early ----------------------------------------------------------------------


@pytest.fixture
def told() -> Iterator[Callable[[Flask], list[str]]]:
    """Collect the subjects that post_send tells of, with what became of them."""
    receivers = []

    def collect(app: Flask) -> list[str]:
        subjects: list[str] = []

        def after(app: Flask, message: Message, result: SendResult, **extra: object) -> None:
            subjects.append(f"{message.subject} {result.outcome}")

        receivers.append(signals.post_send.connect(after, app))
        return subjects

    yield collect
    for receiver in receivers:
        signals.post_send.disconnect(receiver)


def subjects_of(request: Request) -> list[str]:
    body = json.loads(request.body)
    return [item["Subject"] for item in body] if isinstance(body, list) else [body["subject"]]


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_post_send_tells_of_everything_that_was_sent_before_a_break(
    esp: str, told: Callable[[Flask], list[str]]
) -> None:
    """Though nobody asked for the results any more: once for each message, in order."""
    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)
        seen = told(app)
        with app.app_context():
            for _ in mail.send_many(numbered(2_000), workers=4):
                break
        sent = [subject for request in server.requests for subject in subjects_of(request)]

    assert 0 < len(sent) < 2_000
    assert seen == [f"No. {n} accepted" for n in range(len(sent))]


@pytest.mark.parametrize(("esp", "started"), [("postmark", 500), ("postal", 700)])
def test_a_failing_iterable_costs_no_result_of_what_was_started(esp: str, started: int) -> None:
    """Its error comes after them; a batch that it left unfinished is not sent."""

    def fails() -> Iterator[Message]:
        yield from numbered(700)
        raise LookupError("the database is gone")

    results: list[SendResult] = []
    with scripted(postmark if esp == "postmark" else postal) as server:
        app, mail = app_for(esp, server.url)
        with app.app_context(), pytest.raises(LookupError):
            results.extend(mail.send_many(fails()))
        sent = [subject for request in server.requests for subject in subjects_of(request)]

    assert [result.outcome for result in results] == ["accepted"] * started
    assert len(sent) == started


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_ctrl_c_waits_for_what_is_on_the_wire_and_starts_nothing_more(
    esp: str, told: Callable[[Flask], list[str]], ctrl_c: Callable[[], None]
) -> None:
    """What was sent is told of, what was not started is not sent."""
    answer = postmark if esp == "postmark" else postal
    once = iter([ctrl_c])
    interrupted = threading.Event()

    def interrupting(request: Request) -> Reply:
        for interrupt in once:
            interrupt()
            interrupted.wait(0.2)
        return answer(request)

    with scripted(interrupting) as server:
        app, mail = app_for(esp, server.url)
        seen = told(app)
        with app.app_context(), pytest.raises(KeyboardInterrupt):
            list(mail.send_many(one_by_one(100_000), workers=2))
        sent = [subject for request in server.requests for subject in subjects_of(request)]

    assert 0 < len(sent) <= 1_000
    assert sorted(seen) == sorted(f"{subject} accepted" for subject in sent)
