"""The whole way: a Flask app on a real server, the simulated ESP on another, HTTP between.

The simulator was written from the providers' documentation alone and shares no code with
the package, so the two check each other's reading of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from flask import Flask
from webhook_kit import KEY, Hooks

from flask_mailesp import MailESP, Message, SendResult
from flask_mailesp.exceptions import AuthenticationError, MailESPError, RecipientsRefusedError
from flask_mailesp.simulator import LocalServer, SentMessage, Simulator

PRIVATE_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
).decode()
CREDENTIALS = "hooks:Tall-Poplar-9"
PIXEL = b"\x89PNG\r\n\x1a\n-not-really"


@dataclass
class World:
    """An app and an ESP, each on its own port, that know each other's address."""

    esp: str
    sim: Simulator
    hooks: Hooks
    mail: MailESP
    url: str

    def send(self, message: Message) -> SendResult:
        with self.hooks.app.app_context():
            return self.mail.send(message)

    def hook(self, **options: Any) -> None:
        """Tell the ESP where to post, as one does in its console."""
        base = self.url.replace("http://", f"http://{CREDENTIALS}@") + f"/mail-hooks/{self.esp}"
        self.sim.hook(self.esp, tracking=f"{base}/tracking/", inbound=f"{base}/inbound/", **options)


@pytest.fixture(params=["postmark", "postal"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    sim = Simulator(postal_private_key=PRIVATE_PEM)
    with sim.running() as server:
        app = Flask("shop")
        app.config["MAILESP"] = {
            "ESP": request.param,
            "POSTMARK_SERVER_TOKEN": "POSTMARK-SIMULATOR-TOKEN",
            "POSTMARK_API_URL": server.url_for("postmark"),
            "POSTAL_API_KEY": "PostalSimulatorKey000001",
            "POSTAL_API_URL": server.url_for("postal"),
            "POSTAL_WEBHOOK_KEY": sim.postal_jwks,
            "WEBHOOK_SECRET": CREDENTIALS,
            "SEND_DEFAULTS": {"sender": "Shop <post@shop.example.org>"},
        }
        mail = MailESP(app)
        app_server = LocalServer(app)
        world = World(request.param, sim, Hooks(app), mail, app_server.url)
        world.hook()
        yield world
        sim.wait()
        app.extensions["mailesp"].transport.close()
        app_server.stop()


def a_message(**fields: Any) -> Message:
    return Message(
        **{"subject": "Köp ✓", "to": ["Bo <bo@example.com>"], "body": "Hi", "tags": "t", **fields}
    )


def test_a_message_arrives_and_is_reported_under_its_own_id(world: World) -> None:
    """Sent, delivered by itself, opened and clicked: one id all the way."""
    result = world.send(a_message(html="<p>Hi</p>", cc=["c@example.com"]))
    world.sim.wait()
    (message,) = world.sim.messages

    assert (message.subject, message.text, message.html) == ("Köp ✓", "Hi", "<p>Hi</p>")
    assert sorted(message.recipients) == ["bo@example.com", "c@example.com"]
    delivered = {event.recipient: event.message_id for event in world.hooks.tracking}
    assert delivered == {who: entry.message_id for who, entry in result.recipients.items()}

    world.sim.emit(message, "opened")
    world.sim.emit(message, "clicked", url="https://shop.example.org/?a=1&b=<2>")
    opened, clicked = world.hooks.tracking[-2:]
    assert (opened.event_type, clicked.event_type) == ("opened", "clicked")
    assert clicked.click_url == "https://shop.example.org/?a=1&b=<2>"
    assert clicked.message_id == result.recipients["bo@example.com"].message_id
    assert (clicked.tags, clicked.recipient) == (["t"], "bo@example.com")
    assert all(delivery.status == 200 for delivery in world.sim.deliveries)
    assert len({event.key for event in world.hooks.tracking}) == 4


EVENTS = {
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "soft_bounced": "bounced",
    "failed": "failed",
    "rejected": "rejected",
    "queued": "queued",
    "opened": "opened",
    "clicked": "clicked",
    "complained": "complained",
    "unsubscribed": "unsubscribed",
    "subscribed": "subscribed",
    "autoresponded": "autoresponded",
}


def test_every_event_the_esp_can_report_is_understood(world: World) -> None:
    """The simulator's word for it and ours are the same, however the ESP spells it."""
    world.send(a_message())
    world.sim.wait()
    world.hooks.tracking.clear()
    (message,) = world.sim.messages

    for name in world.sim.events(world.esp):
        assert world.sim.emit(message, name).status == 200
    assert [event.event_type for event in world.hooks.tracking] == [
        EVENTS[name] for name in world.sim.events(world.esp)
    ]


def test_a_bounce_names_who_bounced(world: World) -> None:
    """And which message, and why."""
    result = world.send(a_message(to=["bo@example.com", "gone@example.net"]))
    world.sim.wait()
    world.sim.emit(world.sim.messages[0], "bounced", recipient="gone@example.net")
    event = world.hooks.tracking[-1]

    assert (event.event_type, event.reject_reason) == ("bounced", "bounced")
    assert event.recipient == "gone@example.net"
    assert event.message_id == result.recipients["gone@example.net"].message_id
    assert event.timestamp is not None


def test_a_repeated_webhook_has_the_same_key(world: World) -> None:
    """ESPs that get no answer in time post again, byte for byte."""
    world.send(a_message())
    (delivery,) = world.sim.wait(1)
    assert world.sim.redeliver(delivery).status == 200
    first, again = world.hooks.tracking

    assert first.key == again.key


def test_a_mail_with_files_arrives_whole(world: World) -> None:
    """Attachment, inline image and all: through the MIME source where the API lacks it."""
    message = a_message(html='<img src="cid:logo">', reply_to=["a@example.com", "b@example.com"])
    message.attach("büro.dat", "application/octet-stream", bytes(range(256)))
    message.embed("logo.png", "image/png", PIXEL, content_id="logo")
    result = world.send(message)
    (sent,) = world.sim.messages

    assert result.outcome == "accepted"
    assert_has_files(sent)
    assert ", ".join(sent.reply_to) == "a@example.com, b@example.com"


def assert_has_files(sent: SentMessage) -> None:
    files = {file.content_id: (file.name, file.data) for file in sent.attachments}
    assert files == {None: ("büro.dat", bytes(range(256))), "logo": ("logo.png", PIXEL)}


def test_a_batch_is_one_message_for_each(world: World) -> None:
    """With an id for each, and nobody in sight of the others."""
    result = world.send(a_message(to=["a@example.com", "b@example.com"], merge_data={}))

    assert [message.recipients for message in world.sim.messages] == [
        ["a@example.com"],
        ["b@example.com"],
    ]
    assert result.message_id == {entry.message_id for entry in result.recipients.values()}
    assert len(result.message_id) == 2


INBOUND_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "postmark": [{}],
    "postal": [
        {"inbound_format": form, "inbound_encoding": encoding}
        for form in ("raw", "hash")
        for encoding in ("json", "form")
    ],
}


def test_a_mail_comes_in_with_its_files(world: World) -> None:
    """In every format the ESP has for it."""
    mail = world.sim.compose(
        world.esp,
        from_="Ann Ómega <ann@example.net>",
        to="help+7@in.shop.example.org",
        subject="Rückfrage",
        text="Grüße",
        html='<p>Grüße <img src="cid:logo"></p>',
        attachments=[("plan.bin", "application/octet-stream", bytes(range(256)))],
        inline=[("logo", "logo.png", "image/png", PIXEL)],
    )
    for options in INBOUND_OPTIONS[world.esp]:
        world.hook(**options)
        assert world.sim.receive(world.esp, mail, to="help+7@in.shop.example.org").status == 200
    for event, options in zip(world.hooks.inbound, INBOUND_OPTIONS[world.esp], strict=True):
        message = event.message
        assert str(message.from_email) == "Ann Ómega <ann@example.net>"
        assert (message.subject, message.text.strip()) == ("Rückfrage", "Grüße")
        assert "cid:logo" in message.html
        assert message.envelope_sender == "ann@example.net"
        assert message.envelope_recipient == "help+7@in.shop.example.org"
        assert message.message_id
        files = [*message.attachments, *message.inlines]
        assert {file.data for file in files} == {bytes(range(256)), PIXEL}
        if options.get("inbound_format") != "hash":  # which has no content ids
            assert message.inlines["logo"].data == PIXEL
    assert len({event.key for event in world.hooks.inbound}) == len(world.hooks.inbound)


def test_8_bit_mail_comes_in_octet_by_octet(world: World) -> None:
    """Postal posts the source; Postmark can add it."""
    mail = (
        b"From: ann@example.net\r\nTo: help@in.shop.example.org\r\nSubject: Hi\r\n"
        b"Content-Type: text/plain; charset=iso-8859-2\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        b"\xb9\xe8\xf8\r\n"
    )
    if world.esp == "postmark":
        pytest.skip("Postmark's RawEmail is text: it has decoded the source already")
    world.sim.receive(world.esp, mail, to="help@in.shop.example.org")
    (event,) = world.hooks.inbound

    assert event.message.raw is not None
    assert event.message.raw.endswith(mail)
    assert event.message.text == "ščř\n"


def test_the_null_sender_and_spam_come_through(world: World) -> None:
    """What the SMTP session and the ESP's filter knew."""
    mail = world.sim.compose(
        world.esp, from_="mailer-daemon@example.net", to="x@in.example.org", subject="F", text="t"
    )
    world.sim.receive(world.esp, mail, to="x@in.example.org", mail_from=None, spam=(True, 7.5))
    (event,) = world.hooks.inbound

    assert event.message.envelope_sender in ("", None if world.esp == "postmark" else "")
    assert (event.message.spam_detected, event.message.spam_score) == (True, 7.5)


def test_wrong_credentials_are_refused_by_both_sides(world: World) -> None:
    """The ESP's API, and the app's webhooks."""
    app = Flask("thief")
    app.config["MAILESP"] = world.hooks.app.config["MAILESP"] | {
        "POSTMARK_SERVER_TOKEN": "not-the-token",
        "POSTAL_API_KEY": "NotTheKey000000000000000",
    }
    mail = MailESP(app)
    with app.app_context(), pytest.raises(AuthenticationError) as caught:
        mail.send(a_message())
    app.extensions["mailesp"].transport.close()
    assert "NotTheKey" not in str(caught.value) + repr(world.sim.messages)

    world.send(a_message())
    world.sim.wait()
    heard = len(world.hooks.tracking)
    for credentials in ("hooks:wrong", ""):
        base = world.url.replace("http://", f"http://{credentials}@" if credentials else "http://")
        world.sim.hook(world.esp, tracking=f"{base}/mail-hooks/{world.esp}/tracking/")
        assert world.sim.emit(world.sim.messages[0], "opened").status == 401
    assert len(world.hooks.tracking) == heard


def test_a_suppressed_recipient_is_told_by_each_esp_in_its_way(world: World) -> None:
    """Postmark refuses at once; Postal takes the message and holds it."""
    world.sim.suppress(world.esp, "gone@example.net")
    if world.esp == "postmark":
        with pytest.raises(RecipientsRefusedError) as caught:
            world.send(a_message(to=["gone@example.net"]))
        assert caught.value.result is not None
        assert caught.value.result.status == {"rejected"}
        return
    assert world.send(a_message(to=["gone@example.net"])).status == {"queued"}
    world.sim.wait()
    (event,) = world.hooks.tracking
    assert (event.event_type, event.reject_reason) == ("rejected", "blocked")


def test_a_receiver_that_fails_is_told_to_the_esp(world: World) -> None:
    """Which will try again."""
    from flask_mailesp import signals

    world.send(a_message())
    world.sim.wait()

    def receiver(app: Flask, **extra: Any) -> None:
        raise ValueError("in the shop")

    signals.tracking.connect(receiver, sender=world.hooks.app)
    assert world.sim.emit(world.sim.messages[0], "opened").status == 503
    signals.tracking.disconnect(receiver, sender=world.hooks.app)
    assert world.sim.emit(world.sim.messages[0], "opened").status == 200


def test_many_threads_send_at_once(world: World) -> None:
    """Each message keeps its own recipient and id."""
    results: dict[str, SendResult] = {}
    failures: list[MailESPError] = []

    def work(number: int) -> None:
        address = f"p{number}@example.com"
        try:
            results[address] = world.send(a_message(to=[address]))
        except MailESPError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.sim.wait()

    assert not failures
    sent = {message.recipients[0]: message.id for message in world.sim.messages}
    assert {who: result.message_id for who, result in results.items()} == sent
    assert {event.recipient: event.message_id for event in world.hooks.tracking} == sent
