"""What an outbox records, finds and plays back, for every ESP that the simulator speaks."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.parse import unquote_plus

import pytest
from conftest import CREDENTIALS, MakeApp
from flask import Flask
from flask.testing import FlaskClient

from flask_mailesp import CancelSend, InboundEvent, MailESP, Message, TrackingEvent, signals, svix
from flask_mailesp.address import Address
from flask_mailesp.delivery import Mailer
from flask_mailesp.esp import Call, HttpRequest, HttpResponse, Settings
from flask_mailesp.exceptions import (
    APIError,
    InvalidAddressError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from flask_mailesp.message import PreparedMessage
from flask_mailesp.recording import Outbox, RecordedMessage, record, record_all
from flask_mailesp.records import replace
from flask_mailesp.registry import BUILT_IN
from flask_mailesp.simulator import Simulator, hooks, side
from flask_mailesp.testing import EspServer

SENDER = {"MAILESP_SEND_DEFAULTS": {"sender": "shop@example.org", "tags": ["news"]}}
ONE_ID = {"mailgun"}  # which all copies of a batch share
FIRST_ONLY = {"resend"}  # lists all recipients of a message with each event
WITHOUT_TAGS = {("amazon_ses", "deferred")}  # comes without the message's headers
SECRETS = {
    "amazon_ses": {"MAILESP_AMAZON_SES_SECRET_ACCESS_KEY": "canary-4711"},
    "mailgun": {"MAILESP_MAILGUN_API_KEY": "canary-4711"},
    "postal": {"MAILESP_POSTAL_API_KEY": "canary-4711"},
    "postmark": {"MAILESP_POSTMARK_SERVER_TOKEN": "canary-4711"},
    "resend": {"MAILESP_RESEND_API_KEY": "canary-4711"},
    "sendgrid": {"MAILESP_SENDGRID_API_KEY": "canary-4711"},
}


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    with record_all() as outbox:
        yield outbox


@pytest.fixture(params=sorted(CREDENTIALS))
def esp(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def mail() -> MailESP:
    return MailESP()


@pytest.fixture
def app(esp: str, mail: MailESP, make_app: MakeApp) -> Iterator[Flask]:
    """An app whose context is active, as in most tests of apps."""
    app = make_app(mail, **{**CREDENTIALS[esp], **SECRETS[esp], **SENDER})
    with app.app_context():
        yield app


Events = list[TrackingEvent | InboundEvent]


@pytest.fixture
def events(app: Flask) -> Iterator[Events]:
    """What the app's receivers are told."""
    told: Events = []

    def receive(app: Flask, event: Any, esp_name: str) -> None:
        told.append(event)

    with (
        signals.tracking.connected_to(receive, app),
        signals.inbound.connected_to(receive, app),
    ):
        yield told


def hello(**fields: Any) -> Message:
    return Message(**{"subject": "Hello", "to": "you@example.com", "body": "Hi", **fields})


# --- recording -------------------------------------------------------------------------


def test_a_message_is_recorded_as_it_was_sent(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    """The defaults are applied and the addresses parsed."""
    result = mail.send(hello(to="Bea <bea@example.com>", cc="cy@example.com", html="<p>Hi</p>"))

    (message,) = outbox
    assert message.subject == "Hello"
    assert message.to == (Address("bea@example.com", "Bea"),)
    assert [str(address) for address in message.recipients] == [
        "Bea <bea@example.com>",
        "cy@example.com",
    ]
    assert str(message.sender) == "shop@example.org"
    assert (message.body, message.html, message.tags) == ("Hi", "<p>Hi</p>", ("news",))
    assert message.result == result
    assert message.message_id == result.message_id
    assert message.app is app
    assert message.mailer == "default"


AMAZON_SES = {
    "MAILESP_ESP": "amazon_ses",
    "MAILESP_AMAZON_SES_REGION": "eu-west-1",
    "MAILESP_AMAZON_SES_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "MAILESP_AMAZON_SES_SECRET_ACCESS_KEY": "secret",
}


class NoWayOut:
    """A transport that must not be used."""

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        raise AssertionError("A request would have left this machine.")

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        return self.send(request)


STRATEGIES = {
    **{name: {"failover": ["main", "postal"]} for name in ("default", "safe")},
    "mixed": {"round_robin": ["main", "postal"]},
    "main": {"esp": "postmark"},
}


@pytest.fixture
def strategic(make_app: MakeApp, mail: MailESP) -> Flask:
    """An app that sends through strategies, and cannot reach any ESP."""
    both = {**CREDENTIALS["postal"], **CREDENTIALS["postmark"], "MAILESP_ESP": None}
    app = make_app(mail, **both, **SENDER, MAILESP_MAILERS=STRATEGIES)
    mailers: dict[str, Mailer] = app.extensions["mailesp"].mailers
    plain = {name: replace(mailer, transport=NoWayOut()) for name, mailer in mailers.items()}
    for name, mailer in mailers.items():
        if mailer.strategy is not None:
            strategy = mailer.strategy.with_members(
                lambda member: replace(member, mailer=plain[member.mailer.name])
            )
            plain[name] = replace(plain[name], strategy=strategy)
    mailers.update(plain)
    return app


@pytest.mark.parametrize("all_apps", [True, False])
def test_the_members_of_a_strategy_are_recorded(
    strategic: Flask, mail: MailESP, all_apps: bool
) -> None:
    """Nothing leaves, whoever a message moves on to; what is learnt lasts for the recording."""
    with strategic.app_context(), record_all() if all_apps else record(strategic) as outbox:
        outbox.simulator.fault(status=401, esp="postmark", times=2)
        results = [mail.send(hello(), using=name) for name in (None, "safe", "mixed", "mixed")]
        results += mail.using("mixed").send_many([hello(), hello()])
        results += mail.send_many([hello(to="a@example.com"), hello(to="b@example.com")])

    names = [result.esp_name for result in results]
    assert names[:4] == ["Postal", "Postal", "Postmark", "Postal"]
    assert sorted(names[4:6]) == ["Postal", "Postmark"]
    assert names[6:] == ["Postmark", "Postmark"]
    assert [message.esp_name for message in outbox] == names
    assert [message.mailer for message in outbox[:3]] == ["default", "safe", "mixed"]
    assert [str(message.to[0]) for message in outbox[6:]] == ["a@example.com", "b@example.com"]


def test_the_outage_of_one_recording_is_over_in_the_next(strategic: Flask, mail: MailESP) -> None:
    """A breaker that stayed open would make tests depend on each other."""
    with strategic.app_context(), record_all() as outbox:
        outbox.simulator.fault(status=401, esp="postmark", times=99)
        results = [mail.send(hello()) for _ in range(7)]
        assert [len(result.attempts) for result in results] == [2, 2, 2, 2, 2, 1, 1]
    with strategic.app_context(), record_all():
        assert mail.send(hello()).esp_name == "Postmark"


def test_what_moved_on_in_part_is_recorded_as_a_whole(make_app: MakeApp, mail: MailESP) -> None:
    """All recipients are there, and each one's events come from where it was accepted."""
    people = [f"p{number}@example.com" for number in range(501)]
    spec = {"failover": ["main", "postmark"]}
    app = make_app(
        mail,
        **CREDENTIALS["postmark"],
        **SENDER,
        MAILESP_MAILERS={"default": spec, "main": {"esp": "postmark"}},
    )
    heard: list[TrackingEvent] = []

    def hear(app: Flask, event: TrackingEvent, **_: Any) -> None:
        heard.append(event)

    with app.app_context(), record_all() as outbox, signals.tracking.connected_to(hear, app):
        main = app.extensions["mailesp"].mailers["default"].strategy.members[0].mailer

        def build(message: PreparedMessage, settings: Settings) -> Iterator[Call]:
            for number, call in enumerate(main.esp.build(message, settings)):
                if number:
                    outbox.simulator.fault(status=429)
                yield call

        with_fault = replace(main, esp=replace(main.esp, build=build))
        strategy = app.extensions["mailesp"].mailers["default"].strategy
        strategy.members = (replace(strategy.members[0], mailer=with_fault), strategy.members[1])
        result = mail.send(hello(to=people, merge_data={}))
        (message,) = outbox
        assert [attempt.recipients for attempt in result.attempts] == [500, 1, 1]
        assert [str(address) for address in message.to] == people
        for person in (people[0], people[-1]):
            assert outbox.simulate(message, "bounced", person) == 200
    assert [event.recipient for event in heard] == [people[0], people[-1]]


def test_a_recording_does_not_wait(esp: str, make_app: MakeApp, mail: MailESP) -> None:
    """Neither between retries nor for a rate: both would make tests slow, and nothing truer."""
    slow = {"attempts": 2, "first_pause": 900, "max_wait": 900, "deadline": 3600}
    app = make_app(
        mail, MAILESP_RETRIES=slow, MAILESP_RATE_LIMIT="1/day", **{**CREDENTIALS[esp], **SENDER}
    )
    with app.app_context(), mail.record_messages() as outbox:
        outbox.simulator.fault(status=429, headers={"Retry-After": "800"})
        assert len(mail.send(hello()).attempts) == 2
        assert mail.send(hello()).outcome == "accepted"


@pytest.mark.parametrize("name", ["postmark", "postal", "amazon_ses"])
def test_what_was_tried_again_is_recorded_once_and_as_it_was_sent(
    name: str, make_app: MakeApp, mail: MailESP
) -> None:
    """With its defaults, whichever attempt it was that the ESP took; be it signed or not."""
    config = {**CREDENTIALS, "amazon_ses": AMAZON_SES}[name]
    app = make_app(mail, MAILESP_RETRIES=True, **config, **SENDER)
    with app.app_context(), mail.record_messages() as outbox:
        outbox.simulator.fault(status=429)
        assert len(mail.send(hello()).attempts) == 2
        (message,) = outbox
        assert (str(message.sender), message.tags) == ("shop@example.org", ("news",))


def test_whatever_a_message_can_say_is_recorded() -> None:
    """A field that the record did not know would keep it from being made at all."""
    recorded = {item.name for item in dataclasses.fields(RecordedMessage)}
    assert PreparedMessage.__annotations__.keys() - recorded == {"meant_for"}


PAYLOADS = {
    "amazon_ses": {
        "Destination": {"ToAddresses": ["you@example.com"]},
        "Content": {"Raw": {"Data": "270 bytes"}},
    },
    "mailgun": {
        "from": "shop@example.org",
        "to": "you@example.com",
        "o:tag": "news",
        "subject": "Hello",
        "text": "Hi",
    },
    "resend": {
        "from": "shop@example.org",
        "to": ["you@example.com"],
        "headers": {"X-Tags": '["news"]'},
        "subject": "Hello",
        "text": "Hi",
    },
    "sendgrid": {
        "personalizations": [
            {"to": [{"email": "you@example.com"}], "custom_args": {"mailesp_id": ANY}}
        ],
        "from": {"email": "shop@example.org"},
        "subject": "Hello",
        "content": [{"type": "text/plain", "value": "Hi"}],
        "categories": ["news"],
    },
    "postmark": {
        "From": "shop@example.org",
        "To": "you@example.com",
        "Tag": "news",
        "Subject": "Hello",
        "TextBody": "Hi",
    },
    "postal": {
        "from": "shop@example.org",
        "to": ["you@example.com"],
        "tag": "news",
        "subject": "Hello",
        "plain_body": "Hi",
    },
}


# What makes each provider refuse a message: a sender that is no address.
REFUSED: dict[str, dict[str, Any]] = {
    "amazon_ses": {"FromEmailAddress": "nobody"},
    "mailgun": {"from": "nobody"},
    "postal": {"from": "nobody"},
    "postmark": {"From": "nobody"},
    "resend": {"from": "nobody"},
    "sendgrid": {"from": {"email": "nobody"}},
}


def shown(payload: Any) -> str:
    """All the text of a payload, be it an object or the bytes of a form."""
    return unquote_plus(payload.decode()) if isinstance(payload, bytes) else json.dumps(payload)


def test_the_payload_is_what_the_provider_got(
    app: Flask, esp: str, mail: MailESP, outbox: Outbox
) -> None:
    mail.send(hello())

    assert outbox[0].payload == PAYLOADS[esp]
    assert outbox[0].payloads == (PAYLOADS[esp],)


def test_the_simulator_is_not_told_the_apps_credential(
    app: Flask, mail: MailESP, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it keeps or shows, no credential can be in it."""
    seen: list[Any] = []

    class Watching(Simulator):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            seen.append(dict(environ))
            return super().__call__(environ, start_response)

    monkeypatch.setattr("flask_mailesp.recording.Simulator", Watching)

    mail.send(hello())

    assert seen
    assert "canary-4711" not in repr(seen)
    assert "canary-4711" not in repr(outbox[0]) + repr(outbox[0].payload)


def test_nothing_reaches_the_configured_url(
    esp: str, mail: MailESP, make_app: MakeApp, outbox: Outbox
) -> None:
    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(500)

    with EspServer(answer) as server:
        url = {f"MAILESP_{esp.upper()}_API_URL": server.url}
        app = make_app(mail, **{**CREDENTIALS[esp], **SENDER, **url})
        with app.app_context():
            mail.send(hello())

        assert server.connections == 0
    assert len(outbox) == 1


def test_a_recorded_message_does_not_change(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    """Neither with the app's message nor at the hands of a test."""
    message = hello()
    mail.send(message)
    message.subject = "Changed"
    message.to.append("other@example.com")
    message.tags.append("other")

    recorded = outbox[0]
    recorded.payload.clear()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recorded.subject = "Changed"  # type: ignore[misc]
    assert recorded.subject == "Hello"
    assert (len(recorded.to), recorded.tags) == (1, ("news",))
    assert recorded.payload


def test_dicts_are_copied_and_read_only(make_app: MakeApp, mail: MailESP, outbox: Outbox) -> None:
    app = make_app(mail, **CREDENTIALS["postmark"], **SENDER)
    message = hello(
        template_id=7, body=None, subject=None, merge_global_data={"items": [1]}, metadata={"a": 1}
    )
    outbox.simulator.template("postmark", id=7, subject="Hello", text="Hi")
    with app.app_context():
        mail.send(message)

    message.metadata["a"] = 2
    assert message.merge_global_data is not None
    message.merge_global_data["items"].append(2)

    (recorded,) = outbox
    assert recorded.metadata == {"a": 1}
    assert recorded.merge_global_data == {"items": [1]}
    with pytest.raises(TypeError, match="does not support item assignment"):
        recorded.metadata["a"] = 3  # type: ignore[index]


@pytest.mark.parametrize("testing", ["before", "after", "never"])
def test_testing_makes_no_difference(testing: str, outbox: Outbox) -> None:
    """It records whether TESTING is set before init_app, afterwards or not at all."""
    app = Flask("tests")
    app.config.update(CREDENTIALS["postmark"], **SENDER)
    app.testing = testing == "before"
    mail = MailESP(app)
    app.testing = testing != "never"

    with app.app_context():
        mail.send(hello())

    assert len(outbox) == 1


def test_all_apps_are_recorded(make_app: MakeApp, mail: MailESP) -> None:
    """Those made before the recording as well as those made while it runs."""
    before = make_app(mail, **CREDENTIALS["postmark"], **SENDER)
    with record_all() as outbox:
        later = make_app(mail, **CREDENTIALS["postal"], **SENDER)
        for app in (before, later):
            with app.app_context():
                mail.send(hello())

    assert [message.app for message in outbox] == [before, later]
    assert [message.esp_name for message in outbox] == ["Postmark", "Postal"]


def test_the_mailer_is_recorded(make_app: MakeApp, mail: MailESP, outbox: Outbox) -> None:
    """Two mailers that share an ESP and its credential included."""
    mailers = {name: {"esp": "postmark"} for name in ("default", "bulk")}
    app = make_app(mail, MAILESP_MAILERS=mailers, POSTMARK_SERVER_TOKEN="t", **SENDER)
    with app.app_context():
        mail.send(hello(subject="One"))
        mail.send(hello(subject="Two"), using="bulk")
        list(mail.using("bulk").send_many([hello(subject="Three")]))

    assert [message.mailer for message in outbox] == ["default", "bulk", "bulk"]
    assert outbox.one(mailer="default").subject == "One"


def test_other_threads_are_recorded(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    def work(number: int) -> None:
        with app.app_context():
            mail.send(hello(to=f"you-{number}@example.com"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = {message.to[0].addr_spec for message in outbox}
    assert told == {f"you-{number}@example.com" for number in range(8)}
    assert all(message.to[0].addr_spec in shown(message.payload) for message in outbox)


def test_each_of_many_messages_keeps_its_own_payload(
    app: Flask, mail: MailESP, outbox: Outbox
) -> None:
    """In one request or in many, from worker threads: they are recorded in order."""
    addresses = [f"you-{number}@example.com" for number in range(40)]

    results = list(mail.send_many([hello(to=address) for address in addresses], workers=4))

    assert [message.to[0].addr_spec for message in outbox] == addresses
    assert [message.result for message in outbox] == results
    assert all(
        address in shown(message.payload)
        for address, message in zip(addresses, outbox, strict=True)
    )


def test_async_views_are_recorded(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    pytest.importorskip("asgiref")

    @app.post("/send")
    async def send() -> str:
        return str(mail.send(hello()).message_id)

    answer = app.test_client().post("/send")

    assert answer.text == str(outbox.one(to="you@example.com").message_id)


def test_a_batch_has_a_payload_for_each_copy(
    app: Flask, esp: str, mail: MailESP, outbox: Outbox
) -> None:
    """Mailgun makes the copies itself, out of one payload."""
    mail.send(hello(to=["a@example.com", "b@example.com"], merge_data={}))

    (message,) = outbox
    assert len(message.payloads) == (1 if esp in ONE_ID else 2)
    assert "a@example.com" in shown(message.payloads[0])
    assert "b@example.com" in shown(message.payloads[-1])
    assert message.payload == message.payloads[0]


def test_links_and_codes_are_found(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    mail.send(hello(body="Code: 123456", html='<a href="https://example.com/?a&amp;b">Confirm</a>'))

    assert outbox[0].links == ("https://example.com/?a&b",)
    assert outbox[0].codes == ("123456",)


def test_a_file_that_is_read_once_is_recorded(
    app: Flask, mail: MailESP, outbox: Outbox, tmp_path: Path
) -> None:
    """The copy is of what was built, not built again."""
    (tmp_path / "a.txt").write_bytes(b"content")
    with (tmp_path / "a.txt").open("rb") as file:
        message = hello()
        message.attachments.append(("a.txt", "text/plain", file))
        mail.send(message)

    assert outbox[0].attachments[0].data == b"content"


def test_merge_keys_are_complained_about_once(
    app: Flask, mail: MailESP, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording adds no log lines to those the app's tests may count."""
    mail.send(hello(merge_metadata={"stranger@example.com": {}}))

    assert len(caplog.records) == 1


# --- what is not sent ------------------------------------------------------------------


def test_a_cancelled_message_is_not_recorded(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    def cancel(app: Flask, message: Message, esp_name: str) -> None:
        raise CancelSend

    with signals.pre_send.connected_to(cancel, app):
        mail.send(hello())
        list(mail.send_many([hello()]))

    assert not outbox
    assert not outbox.failed


def test_what_pre_send_changes_is_recorded(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    def change(app: Flask, message: Message, esp_name: str) -> None:
        message.subject, message.to = "Changed", ["another@example.com"]

    with signals.pre_send.connected_to(change, app):
        mail.send(hello())

    assert outbox[0].subject == "Changed"
    assert "another@example.com" in shown(outbox[0].payload)


def test_a_refused_message_has_failed(app: Flask, esp: str, mail: MailESP, outbox: Outbox) -> None:
    """The provider's own validation refuses it, and its payload is what was in the request."""
    with pytest.raises(APIError) as caught:
        mail.send(hello(esp_extra=REFUSED[esp]))

    assert not outbox
    (message,) = outbox.failed
    assert message.result is caught.value.result
    assert "nobody" in shown(message.payload)
    assert message.mailer == "default"


def test_an_uncertain_message_has_failed(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    outbox.simulator.fault(drop="after")

    with pytest.raises(SendUncertainError, match="may or may not have been sent"):
        mail.send(hello())

    (message,) = outbox.failed
    assert message.result.outcome == "uncertain"
    assert str(message.sender) == "shop@example.org"
    assert "you@example.com" in shown(message.payload)


def test_a_truncated_answer_is_incomplete(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    outbox.simulator.fault(status=200, body=b"{", headers={"Content-Length": "100"})

    with pytest.raises(SendUncertainError) as caught:
        mail.send(hello())

    assert caught.value.result is not None
    assert caught.value.result.response is not None
    assert not caught.value.result.response.complete


@pytest.mark.parametrize("seconds", [0, 7])
def test_a_fault_is_what_the_app_is_told(
    app: Flask, mail: MailESP, outbox: Outbox, seconds: int
) -> None:
    outbox.simulator.fault(status=429, headers={"Retry-After": str(seconds)})

    with pytest.raises(RateLimitedError) as caught:
        mail.send(hello())

    assert caught.value.retry_after == seconds
    assert mail.send(hello()).outcome == "accepted"


def test_an_invalid_message_of_many_has_failed(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    """It came to no request; what can be told of it is told."""
    results = list(mail.send_many([hello(), hello(to=["nobody", "you@example.com"], sender=None)]))

    assert isinstance(results[1].error, InvalidAddressError)
    (message,) = outbox.failed
    assert [address.addr_spec for address in message.to] == ["nobody", "you@example.com"]
    assert message.payload is None
    assert (message.mailer, message.subject) == ("default", "Hello")


def test_an_invalid_message_is_not_recorded(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    """The exception tells, and it is the test's own."""
    with pytest.raises(InvalidAddressError):
        mail.send(hello(to="nobody"))

    assert not outbox
    assert not outbox.failed


def test_messages_after_a_rate_limit_are_not_tried(
    make_app: MakeApp, mail: MailESP, outbox: Outbox
) -> None:
    """They came to no request either; the ESP has only one mailer, which it must have been."""
    bulk = {"esp": "postmark", "server_token": "token"}
    app = make_app(mail, MAILESP_MAILERS={"bulk": bulk}, **CREDENTIALS["postal"])
    outbox.simulator.fault(status=429)
    token = {"server_token": "another"}
    messages = [hello(sender="a@example.com", esp_extra=extra) for extra in ({}, token)]
    with app.app_context():
        results = list(mail.using("bulk").send_many(messages))

    assert [type(result.error) for result in results] == [RateLimitedError, NotSentError]
    assert [message.mailer for message in outbox.failed] == ["bulk", "bulk"]
    assert [message.payload is None for message in outbox.failed] == [False, True]


def test_a_suppressed_recipient_is_rejected(
    make_app: MakeApp, mail: MailESP, outbox: Outbox
) -> None:
    app = make_app(mail, **CREDENTIALS["postmark"], **SENDER)
    outbox.simulator.suppress("postmark", "gone@example.net")
    with app.app_context():
        mail.send(hello(to=["gone@example.net", "you@example.com"]))
        with pytest.raises(RecipientsRefusedError):
            mail.send(hello(to="gone@example.net"))

    message = outbox.one(to="gone@example.net")
    with pytest.raises(ValueError, match="did not accept"):
        outbox.simulate(message, "bounced", "gone@example.net")
    assert outbox.simulate(message, "bounced") == 200
    with pytest.raises(ValueError, match="for any recipient"):
        outbox.simulate(outbox.failed[0], "bounced")


def test_an_esp_that_the_simulator_does_not_speak_is_told(
    app: Flask, esp: str, mail: MailESP, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent to the real one instead."""
    others = tuple(name for name in side.names() if name != esp)
    monkeypatch.setattr("flask_mailesp.simulator.app.names", lambda: others)

    with pytest.raises(RuntimeError, match="nothing was sent"):
        mail.send(hello())


def test_every_esp_is_spoken() -> None:
    assert set(side.names()) == set(BUILT_IN)


# --- finding ---------------------------------------------------------------------------


@pytest.fixture
def full(app: Flask, mail: MailESP, outbox: Outbox) -> Outbox:
    """An outbox with two messages."""
    mail.send(hello(to=["Bea <bea@example.com>", "cy@exämple.com"], cc="dee@example.com"))
    mail.send(hello(subject="Welcome, Eve", to="eve@example.com", bcc="f@e.com", tags=["welcome"]))
    return outbox


FIRST: list[dict[str, Any]] = [
    {"to": "bea@example.com"},
    {"to": "Bea <BEA@Example.com>"},
    {"to": Address("bea@example.com")},
    {"to": "cy@xn--exmple-cua.com"},
    {"to": "cy@exämple.com"},
    {"to": ["bea@example.com", "cy@exämple.com"]},
    {"to": re.compile("^bea@")},
    {"to": [lambda address: address.startswith("bea")]},
    {"cc": "dee@example.com"},
    {"subject": "Hello"},
    {"subject": re.compile("ell")},
    {"subject": str.isalpha},
    {"tag": "news"},
    {"tag": re.compile("^n")},
    {"body_contains": "Hi", "subject": "Hello"},
    {"to": "bea@example.com", "subject": "Hello", "tag": "news", "mailer": "default"},
]
NEITHER: list[dict[str, Any]] = [
    {"to": "dee@example.com"},
    {"to": ["bea@example.com", "eve@example.com"]},
    {"subject": "hello"},
    {"subject": "Hell"},
    {"subject": "Hello", "tag": "welcome"},
    {"tag": "new"},
    {"mailer": "bulk"},
    {"esp": "another"},
    {"body_contains": "Bye"},
    {"bcc": re.compile("nobody")},
]


@pytest.mark.parametrize("criteria", FIRST)
def test_one_returns_the_message_that_matches(full: Outbox, criteria: dict[str, Any]) -> None:
    assert full.one(**criteria) is full[0]
    assert full.find(**criteria) == [full[0]]


@pytest.mark.parametrize("criteria", NEITHER)
def test_everything_given_must_match(full: Outbox, criteria: dict[str, Any]) -> None:
    assert full.find(**criteria) == []
    with pytest.raises(AssertionError, match="No message matches"):
        full.one(**criteria)


def test_an_esp_is_found_by_its_name_or_key(full: Outbox, esp: str) -> None:
    assert full.find(esp=esp) == full.find(esp=full[0].esp_name) == list(full)


def test_html_counts_as_body(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    mail.send(hello(body=None, html="<p>Hi</p>"))

    assert outbox.one(body_contains="<p>Hi")


def test_the_failure_of_one_lists_what_was_sent(full: Outbox, mail: MailESP) -> None:
    full.simulator.fault(status=503)
    with pytest.raises(SendUncertainError):
        mail.send(hello(subject="Fails"))
    name = full[0].esp_name

    with pytest.raises(AssertionError) as caught:
        full.one(to="nobody@example.com", tag="x")

    assert str(caught.value).splitlines() == [
        "No message matches to='nobody@example.com', tag='x'.",
        "2 sent:",
        "  1. <'Hello' to Bea <bea@example.com>, cy@xn--exmple-cua.com, cc dee@example.com, "
        f"tags news ({name}, accepted)>",
        f"  2. <'Welcome, Eve' to eve@example.com, bcc f@e.com, tags welcome ({name}, accepted)>",
        "1 failed:",
        f"  1. <'Fails' to you@example.com, tags news ({name}, uncertain)>",
    ]


def test_one_wants_exactly_one(full: Outbox) -> None:
    with pytest.raises(AssertionError, match=r"^2 messages match body_contains='Hi'\.\n2 sent:"):
        full.one(body_contains="Hi")
    with pytest.raises(AssertionError, match=r"^There are 2 messages, not one\."):
        full.one()


def test_one_of_nothing_says_that_nothing_was_sent(outbox: Outbox) -> None:
    with pytest.raises(AssertionError, match=r"No message matches tag='x'\.\nNothing was sent\."):
        outbox.one(tag="x")


def test_criteria_that_do_not_exist_are_an_error(outbox: Outbox) -> None:
    with pytest.raises(TypeError, match="no 'recipient'; look for to, cc, bcc, subject"):
        outbox.one(recipient="a@example.com")  # type: ignore[call-arg]


def test_an_address_that_is_none_is_an_error(full: Outbox) -> None:
    """A typing error must not make `find` silently find nothing."""
    with pytest.raises(InvalidAddressError):
        full.find(to="bea")


def test_an_outbox_is_a_sequence(full: Outbox) -> None:
    assert len(full) == 2
    assert full[-1] is list(full)[1]
    assert full[:1] == [full[0]]
    assert full[0] in full
    assert repr(full) == "<Outbox: 2 sent, 0 failed>"


def test_clear_forgets(full: Outbox, mail: MailESP) -> None:
    full.simulator.fault(status=503)
    with pytest.raises(SendUncertainError):
        mail.send(hello())

    full.clear()

    assert (len(full), full.failed) == (0, ())
    mail.send(hello())
    assert len(full) == 1


# --- webhooks --------------------------------------------------------------------------

Send = Callable[..., RecordedMessage]


@pytest.fixture
def send(app: Flask, mail: MailESP, outbox: Outbox) -> Send:
    """Send one message and return its record."""

    def send(**fields: Any) -> RecordedMessage:
        mail.send(hello(**fields))
        return outbox[-1]

    return send


@pytest.mark.parametrize("event", ["delivered", "bounced", "opened", "clicked", "deferred"])
def test_an_event_reaches_the_apps_receivers(
    send: Send, esp: str, outbox: Outbox, events: Events, event: str
) -> None:
    """Through the real route: nothing is configured, so credentials are made up."""
    message = send(body="https://example.com/")

    assert outbox.simulate(message, event) == 200

    (told,) = events
    assert isinstance(told, TrackingEvent)
    assert told.event_type == event
    assert told.recipient == "you@example.com"
    assert told.message_id == message.message_id
    assert told.tags == ([] if (esp, event) in WITHOUT_TAGS else ["news"])


def test_the_provider_can_be_asked_what_it_reports(
    send: Send, esp: str, outbox: Outbox, events: Events
) -> None:
    message = send(body="https://example.com/")

    answers = {outbox.simulate(message, event) for event in outbox.simulator.events(esp)}

    assert answers == {200}
    assert len(events) == len(outbox.simulator.events(esp))


def test_details_replace_what_the_provider_would_say(
    send: Send, outbox: Outbox, events: Events
) -> None:
    outbox.simulate(send(), "clicked", url="https://example.com/there", user_agent="Browser")

    (told,) = events
    assert isinstance(told, TrackingEvent)
    assert told.click_url == "https://example.com/there"
    assert told.user_agent == "Browser"


def test_an_event_is_about_the_recipient_that_is_named(
    send: Send, esp: str, outbox: Outbox, events: Events
) -> None:
    """In any spelling; without one, it is about the first. Resend never says which one."""
    message = send(to="a@example.com", cc="Bea <bea@exämple.com>")

    for recipient in (None, "BEA@exämple.com", Address("a@example.com")):
        outbox.simulate(message, "bounced", recipient)

    named = "a@example.com" if esp in FIRST_ONLY else "bea@xn--exmple-cua.com"
    assert [event.recipient for event in events if isinstance(event, TrackingEvent)] == [
        "a@example.com",
        named,
        "a@example.com",
    ]


def test_an_event_can_be_about_any_copy_of_a_batch(
    send: Send, esp: str, outbox: Outbox, events: Events
) -> None:
    """The one who gets a cc of every copy included."""
    message = send(to=["a@example.com", "b@example.com"], cc="c@example.com", merge_data={})

    for recipient in ("b@example.com", "c@example.com"):
        outbox.simulate(message, "bounced", recipient)

    told = [event for event in events if isinstance(event, TrackingEvent)]
    recipients = [event.recipient for event in told]
    assert recipients[0] == "b@example.com"
    assert recipients[1] == "c@example.com" or esp in FIRST_ONLY
    assert told[0].message_id == message.result.recipients["b@example.com"].message_id


def test_a_message_is_also_known_by_its_id(
    send: Send, esp: str, outbox: Outbox, events: Events
) -> None:
    """An id that belongs to one recipient names that recipient."""
    message = send(to=["a@example.com", "b@example.com"], merge_data={})
    number = message.result.recipients["b@example.com"].message_id
    assert isinstance(number, str)

    outbox.simulate(number, "bounced")

    (told,) = events
    assert isinstance(told, TrackingEvent)
    assert told.recipient == ("a@example.com" if esp in ONE_ID else "b@example.com")


def test_an_id_chooses_among_the_copies_that_a_recipient_got(
    send: Send, esp: str, outbox: Outbox, events: Events
) -> None:
    message = send(to=["a@example.com", "b@example.com"], cc="c@example.com", merge_data={})
    copies = message.result.recipients["c@example.com"].message_id
    if isinstance(copies, str):
        assert esp in ONE_ID
        copies = frozenset({copies})
    assert copies

    for number in copies:
        outbox.simulate(number, "bounced", "c@example.com")

    assert {event.message_id for event in events if isinstance(event, TrackingEvent)} == copies


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"event": "exploded"}, "cannot report 'exploded'; it reports .*delivered"),
        ({"message": "4711"}, "No message with the id '4711' was sent"),
        ({"recipient": "other@example.com"}, "for the recipient other@example.com"),
        ({"recipient": "nobody"}, "recipient|address"),
    ],
)
def test_what_the_provider_cannot_report_is_an_error(
    send: Send, outbox: Outbox, change: dict[str, Any], text: str
) -> None:
    given: dict[str, Any] = {"message": send(), "event": "bounced"} | change

    with pytest.raises(ValueError, match=text):
        outbox.simulate(**given)


@pytest.mark.parametrize("fails", [False, True])
def test_simulate_returns_the_apps_answer(
    send: Send, app: Flask, outbox: Outbox, fails: bool
) -> None:
    """Which is the ESP's code for "try again" where a receiver failed."""

    def receive(app: Flask, event: TrackingEvent, esp_name: str) -> None:
        assert not fails

    with signals.tracking.connected_to(receive, app):
        answer = outbox.simulate(send(), "bounced")

    assert (answer == 200) is not fails


def test_receivers_run_in_the_tests_thread(send: Send, app: Flask, outbox: Outbox) -> None:
    """So that they see what the test sees: an open transaction, a patched clock."""
    threads = []

    def receive(app: Flask, event: TrackingEvent, esp_name: str) -> None:
        threads.append(threading.current_thread())

    with signals.tracking.connected_to(receive, app):
        outbox.simulate(send(), "bounced")

    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("secret", ["me:pass/word@#?%41ü", ["new:secret", "old:secret"]])
def test_the_apps_own_credentials_are_used(
    esp: str, mail: MailESP, make_app: MakeApp, outbox: Outbox, secret: Any
) -> None:
    config = {**CREDENTIALS[esp], **SENDER, "MAILESP_WEBHOOK_SECRET": secret}
    app = make_app(mail, **config)
    with app.app_context():
        mail.send(hello())
        own = app.extensions["mailesp"].hook(esp)[1]["WEBHOOK_SECRET"]

        assert outbox.simulate(outbox[0], "bounced") == 200
        assert app.extensions["mailesp"].hook(esp)[1]["WEBHOOK_SECRET"] == own


def test_the_route_still_refuses_what_is_not_authentic(
    send: Send, outbox: Outbox, events: Events
) -> None:
    """A forged webhook goes first, and only the second is believed."""
    message = send()
    outbox.simulator.fault(webhook="forged")

    outbox.simulate(message, "bounced")

    assert [delivery.status for delivery in outbox.simulator.deliveries] == [401, 200]
    assert len(events) == 1


def test_the_apps_own_signing_key_is_still_accepted(
    mail: MailESP, make_app: MakeApp, outbox: Outbox
) -> None:
    key = Simulator().postal_jwks
    app = make_app(mail, **CREDENTIALS["postal"], **SENDER, MAILESP_POSTAL_WEBHOOK_KEY=key)
    with app.app_context():
        mail.send(hello())
        outbox.simulate(outbox[0], "bounced")

    assert len(app.extensions["mailesp"].hook("postal")[1]["WEBHOOK_KEY"]) == 2


def test_afterwards_the_app_accepts_what_it_did_before(app: Flask, esp: str, mail: MailESP) -> None:
    before = app.extensions["mailesp"].hook(esp)
    with record_all() as outbox:
        mail.send(hello())
        outbox.simulate(outbox[0], "bounced")
        assert app.extensions["mailesp"].hook(esp) is not before

    assert app.extensions["mailesp"].hook(esp) is before


def test_a_prefix_of_ones_own_is_found(esp: str, mail: MailESP, make_app: MakeApp) -> None:
    app = make_app(mail, **CREDENTIALS[esp], **SENDER, MAILESP_URL_PREFIX="/hooks/mail")
    with app.app_context(), mail.record_messages() as outbox:
        mail.send(hello())

        assert outbox.simulate(outbox[0], "bounced") == 200
        assert outbox.receive() == 200


def test_other_simulators_go_on_posting(send: Send, outbox: Outbox) -> None:
    """To real servers, over real connections."""
    other = Simulator(auto=())

    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200)

    with EspServer(answer) as server:
        other.hook("postmark", inbound=server.url)
        mail = other.compose("postmark", from_="a@b.c", to="d@e.f", subject="S", text="T")
        other.receive("postmark", mail, to="d@e.f")

        assert server.connections == 1


def test_afterwards_simulators_post_as_before() -> None:
    before = hooks.post
    with record_all():
        assert hooks.post is not before

    assert hooks.post is before


# --- inbound ---------------------------------------------------------------------------


def test_a_mail_is_composed_of_fields(app: Flask, outbox: Outbox, events: Events) -> None:
    answer = outbox.receive(
        from_="Ann <ann@example.com>",
        to="help@example.org",
        subject="Help",
        text="Please",
        html="<p>Please</p>",
        attachments=[("a.txt", "text/plain; charset=utf-8", b"content")],
        headers={"In-Reply-To": "<1@example.org>"},
        mail_from="bounces@example.com",
    )

    (event,) = events
    assert answer == 200
    assert isinstance(event, InboundEvent)
    message = event.message
    assert message.from_email is not None
    assert message.from_email.addr_spec == "ann@example.com"
    assert message.envelope_recipient == "help@example.org"
    assert (message.subject, message.text.strip()) == ("Help", "Please")
    assert [item.filename for item in message.attachments] == ["a.txt"]
    assert "<1@example.org>" in str(message.headers["In-Reply-To"])


def test_every_field_has_a_default(app: Flask, outbox: Outbox, events: Events) -> None:
    assert outbox.receive() == 200
    assert len(events) == 1


SOURCE = b"From: ann@example.com\r\nTo: help@example.org\r\nSubject: Help\r\n\r\nPlease\r\n"


def as_message() -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ann@example.com", "help@example.org", "Help"
    mail.set_content("Please")
    return mail


@pytest.mark.parametrize("form", ["bytes", "path", "text path", "message"])
def test_a_mail_can_be_given_whole(
    app: Flask, outbox: Outbox, events: Events, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "help.eml"
    path.write_bytes(SOURCE)
    forms: dict[str, Any] = {"bytes": SOURCE, "path": path, "text path": str(path)}

    assert outbox.receive(forms.get(form) or as_message()) == 200

    (event,) = events
    assert isinstance(event, InboundEvent)
    assert (event.message.subject, event.message.text.strip()) == ("Help", "Please")
    assert event.message.envelope_recipient == "help@example.org"


def test_who_gets_it_may_differ_from_to(app: Flask, outbox: Outbox, events: Events) -> None:
    outbox.receive(SOURCE, to="hidden@example.org")

    (event,) = events
    assert isinstance(event, InboundEvent)
    assert event.message.envelope_recipient == "hidden@example.org"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"mail": b"\x89PNG\r\n\x1a\n and so on"}, "This is not a mail"),
        ({"mail": b""}, "This is not a mail"),
        ({"mail": b"From: ann@example.com\r\n\r\nHi"}, "names nobody in To"),
        ({"mail": SOURCE, "esp": "pigeon"}, "no ESP named 'pigeon'"),
    ],
)
def test_what_is_not_a_mail_is_an_error(
    app: Flask, outbox: Outbox, given: dict[str, Any], text: str
) -> None:
    options = {name: value for name, value in given.items() if name != "mail"}

    with pytest.raises(ValueError, match=text):
        outbox.receive(given["mail"], **options)


def test_the_provider_can_be_chosen(make_app: MakeApp, outbox: Outbox) -> None:
    """Mail may come in through another provider than the one it goes out through."""
    app = make_app(**CREDENTIALS["postal"])
    names = []

    def receive(app: Flask, event: InboundEvent, esp_name: str) -> None:
        names.append(esp_name)

    with signals.inbound.connected_to(receive, app):
        assert outbox.receive(SOURCE, app=app, esp="Postmark") == 200
        assert outbox.receive(SOURCE, app=app) == 200

    assert names == ["Postmark", "Postal"]


# --- which app -------------------------------------------------------------------------


def test_the_only_app_that_was_active_is_meant(make_app: MakeApp, outbox: Outbox) -> None:
    app = make_app(**CREDENTIALS["postmark"])
    with Flask("without mail").app_context():
        pass
    with app.app_context():
        pass

    assert outbox.receive(SOURCE) == 200


def test_the_app_that_is_given_comes_before_the_active_one(
    app: Flask, make_app: MakeApp, outbox: Outbox
) -> None:
    other, apps = make_app(**CREDENTIALS["postal"]), []

    def receive(app: Flask, event: InboundEvent, esp_name: str) -> None:
        apps.append(app)

    with signals.inbound.connected_to(receive):
        outbox.receive(app=other)
        outbox.receive()

    assert apps == [other, app]


@pytest.mark.parametrize("count", [0, 2])
def test_it_must_be_said_which_app_is_meant(make_app: MakeApp, outbox: Outbox, count: int) -> None:
    for _ in range(count):
        with make_app(**CREDENTIALS["postmark"]).app_context():
            pass

    with pytest.raises(RuntimeError, match=r"Which app is meant\? Give app="):
        outbox.receive(SOURCE)


# --- record_messages() and nesting -----------------------------------------------------


def test_record_messages_records_the_current_app_only(make_app: MakeApp, mail: MailESP) -> None:
    answer = HttpResponse(200, {}, b'{"MessageID": "1", "ErrorCode": 0, "Message": "OK"}')
    with EspServer(lambda request: answer) as server:
        url = {"MAILESP_POSTMARK_API_URL": server.url}
        apps = [make_app(mail, **CREDENTIALS["postmark"], **SENDER, **url) for _ in range(2)]
        with apps[0].app_context(), mail.record_messages() as outbox:
            mail.send(hello())
            with apps[1].app_context():
                mail.send(hello())

        assert [message.app for message in outbox] == apps[:1]
        assert len(server.requests) == 1


def test_afterwards_the_app_sends_again(make_app: MakeApp, mail: MailESP) -> None:
    """Even where the block ended in an error; and the record stays readable."""
    answer = HttpResponse(200, {}, b'{"MessageID": "1", "ErrorCode": 0, "Message": "OK"}')
    with EspServer(lambda request: answer) as server:
        url = {"MAILESP_POSTMARK_API_URL": server.url}
        app = make_app(mail, **CREDENTIALS["postmark"], **SENDER, **url)
        with app.app_context():
            with pytest.raises(InvalidAddressError), mail.record_messages() as outbox:
                list(map(mail.send, [hello(), hello(to="nobody")]))
            mail.send(hello())

        assert len(server.requests) == 1
    assert len(outbox) == 1
    assert outbox[0].payload == PAYLOADS["postmark"]


def test_record_messages_needs_an_app_with_a_mailesp(mail: MailESP) -> None:
    with Flask("without mail").app_context(), pytest.raises(RuntimeError, match="no MailESP"):
        mail.record_messages()


@pytest.mark.parametrize("inner", ["record_messages", "record_all"])
def test_nested_recordings_both_record(
    app: Flask, esp: str, mail: MailESP, outbox: Outbox, events: Events, inner: str
) -> None:
    with record_all() if inner == "record_all" else mail.record_messages() as within:
        mail.send(hello(subject="Within"))
        with pytest.raises(APIError):
            mail.send(hello(subject="Fails", esp_extra=REFUSED[esp]))
    mail.send(hello(subject="Without"))

    assert [message.subject for message in within] == ["Within"]
    assert [message.subject for message in outbox] == ["Within", "Without"]
    assert [len(box.failed) for box in (within, outbox)] == [1, 1]
    assert within[0].payload == outbox[0].payload
    assert [outbox.simulate(message, "bounced") for message in outbox] == [200, 200]
    assert len(events) == 2


def test_a_dropped_connection_is_noted_by_both(app: Flask, mail: MailESP, outbox: Outbox) -> None:
    with mail.record_messages() as within:
        for box in (within, outbox):
            box.simulator.fault(drop="before", times=None)
        with pytest.raises(SendUncertainError):
            mail.send(hello())

    assert [box.failed[0].subject for box in (within, outbox)] == ["Hello", "Hello"]


def test_a_recorded_app_serves_as_ever(app: Flask, outbox: Outbox) -> None:
    """Its test client and its routes are its own."""
    answer = FlaskClient(app).get("/missing")

    assert answer.status_code == 404


# --- what webhooks would fetch -------------------------------------------------------------


@pytest.mark.parametrize("of_all", [True, False])
@pytest.mark.parametrize("esp", ["resend", "postmark"])
def test_nothing_is_fetched_for_a_post_of_the_tests_own(
    esp: str, of_all: bool, make_app: MakeApp, mail: MailESP, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be fetched with the app's own key; whether it sends through that ESP or not."""
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    told = {"email_id": "0c9f6b1e-1111-4222-8333-abcdefabcdef"}
    body = json.dumps({"type": "email.received", "data": told}).encode()
    seconds = str(int(time.time()))
    signed = {
        "svix-id": "msg_1",
        "svix-timestamp": seconds,
        "svix-signature": svix.signature(secret, "msg_1", seconds, body),
    }
    with EspServer(lambda _: HttpResponse(200, {}, b"{}")) as server:
        resend = {**CREDENTIALS["resend"], "MAILESP_RESEND_API_URL": server.url}
        resend["MAILESP_RESEND_INBOUND_SECRET"] = secret
        app = make_app(mail, **{**resend, **CREDENTIALS[esp]})
        with app.app_context(), record_all() if of_all else mail.record_messages():
            answer = app.test_client().post(
                "/mail-hooks/resend/inbound/", data=body, headers=signed
            )

        assert (answer.status_code, server.connections) == (500, 0)
    assert "outbox.receive()" in caplog.text
