"""What a test does with a simulator, whichever provider it speaks."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flask_mailesp.simulator import Simulator

from .conftest import Application, Client

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}
MAIL = b"From: ann@example.com\r\nTo: help@example.org\r\nSubject: Hi\r\n\r\nHello\r\n"


def test_an_accepted_message_is_delivered_by_itself(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE)

    (delivery,) = sim.wait()

    assert delivery.status == 200
    assert delivery.response_body == b"thanks"
    assert hooked.last.json["RecordType"] == "Delivery"


@pytest.mark.parametrize(
    "recipient", ["bea@example.com", "HardBounce@bounce-testing.postmarkapp.com"]
)
def test_no_automatic_events_on_request(
    sim: Simulator, postmark: Client, hooked: Application, recipient: str
) -> None:
    """auto=() leaves every event to the test, fake bounces included."""
    sim.auto = ()

    postmark.post("/email", MESSAGE | {"To": recipient})

    assert sim.wait() == []
    assert hooked.requests == []


def test_automatic_events_come_after_their_delay(
    postmark: Client, sim: Simulator, hooked: Application
) -> None:
    sim.delay = 0.01

    postmark.post("/email", MESSAGE)

    assert [delivery.status for delivery in sim.wait(n_deliveries=1)] == [200]


def test_without_a_hook_an_automatic_event_goes_nowhere(sim: Simulator, postmark: Client) -> None:
    postmark.post("/email", MESSAGE)

    assert sim.wait() == []


def test_an_automatic_event_that_cannot_be_posted_is_logged(
    sim: Simulator, postmark: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that is not even a URL: nobody is there to catch the exception."""
    sim.hook("postmark", tracking="http://[")
    postmark.post("/email", MESSAGE)

    assert sim.wait() == []
    assert "an automatic event of the simulator failed" in caplog.text


def test_a_failing_automatic_event_does_not_stop_the_next(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    sim.hook("postmark", tracking="nonsense://")
    postmark.post("/email", MESSAGE)
    sim.wait()
    sim.hook("postmark", tracking=hooked.hook("/again"))

    postmark.post("/email", MESSAGE)

    failed, delivered = sim.wait()
    assert failed.error is not None
    assert failed.error.startswith("InvalidSchema")
    assert delivered.status == 200


def test_waiting_for_what_never_comes_is_a_timeout(sim: Simulator) -> None:
    with pytest.raises(TimeoutError, match="0 webhooks"):
        sim.wait(n_deliveries=1, timeout=0.01)


def test_an_unknown_automatic_event_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"no provider reports 'exploded'.*'delivered'"):
        Simulator(auto=("exploded",))


def test_automatic_events_a_provider_lacks_are_left_out(
    private_key: str, hooked: Application, sim: Simulator, postal: Client
) -> None:
    """The events are one list for all providers; Postal knows no complaints."""
    sim.auto = ("delivered", "complained")
    body = {"from": "a@example.org", "to": ["bea@example.com"], "plain_body": "Hi"}

    postal.post("/api/v1/send/message", body)
    sim.wait()

    assert [one.json["event"] for one in hooked.requests] == ["MessageSent"]


def test_a_connection_error_is_recorded_not_raised(sim: Simulator, postmark: Client) -> None:
    """The unreachable application is the provider's everyday life."""
    sim.hook("postmark", tracking="http://u:p@127.0.0.1:1/")
    postmark.post("/email", MESSAGE)

    delivery = sim.emit(sim.messages[0], "opened")

    assert delivery.status is None
    assert delivery.error is not None
    assert delivery.error.startswith("ConnectionError")
    assert "u:p" not in f"{delivery!r} {delivery.url}"


def test_the_applications_answer_is_recorded(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE)
    sim.wait()
    hooked.status = 503

    assert sim.emit(sim.messages[0], "opened").status == 503


def test_a_message_is_found_by_its_ids(sim: Simulator, postal: Client, hooked: Application) -> None:
    """The id of a later recipient's copy means that recipient."""
    body = {"from": "a@example.org", "to": ["a@example.com", "b@example.com"], "plain_body": "Hi"}
    postal.post("/api/v1/send/message", body)
    sim.wait()
    (message,) = sim.messages
    assert message.message_id is not None

    sim.emit(message.message_id, "opened")
    sim.emit(message.ids["b@example.com"], "opened")

    assert [one.json["payload"]["message"]["to"] for one in hooked.requests[-2:]] == [
        "a@example.com",
        "b@example.com",
    ]


def test_an_unknown_message_or_recipient_is_an_error(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE)
    body = {"from": "a@example.org", "to": ["a@example.com"], "plain_body": "Hi"}
    postal.post("/api/v1/send/message", body)

    with pytest.raises(ValueError, match="no message 'nobody'"):
        sim.emit("nobody", "opened")
    for message in sim.messages:
        with pytest.raises(ValueError, match="no such recipient"):
            sim.emit(message, "opened", recipient="else@example.com")


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_an_event_the_provider_cannot_report_names_those_it_can(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application, esp: str
) -> None:
    postmark.post("/email", MESSAGE)
    body = {"from": "a@example.org", "to": ["a@example.com"], "plain_body": "Hi"}
    postal.post("/api/v1/send/message", body)
    (message,) = [one for one in sim.messages if one.esp == esp]

    with pytest.raises(ValueError, match=rf"'exploded'.*{', '.join(sim.events(esp))}"):
        sim.emit(message, "exploded")


def test_emitting_or_receiving_without_a_hook_says_what_to_call(
    sim: Simulator, postmark: Client
) -> None:
    postmark.post("/email", MESSAGE)

    with pytest.raises(LookupError, match=r"hook\('postmark', tracking="):
        sim.emit(sim.messages[0], "opened")
    with pytest.raises(LookupError, match=r"hook\('postal', inbound="):
        sim.receive("postal", MAIL, "help@example.org")


def test_a_redelivery_is_the_same_request_again(
    sim: Simulator, postal: Client, hooked: Application
) -> None:
    """Byte for byte, signatures included: what a receiver has to recognise as a duplicate."""
    body = {"from": "a@example.org", "to": ["a@example.com"], "plain_body": "Hi"}
    postal.post("/api/v1/send/message", body)
    (first,) = sim.wait()

    again = sim.redeliver(first)

    assert again.status == 200
    assert hooked.requests[0] == hooked.requests[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda sim: sim.hook("pigeon", tracking="http://127.0.0.1/"),
        lambda sim: sim.events("pigeon"),
        lambda sim: sim.suppress("pigeon", "a@example.com"),
        lambda sim: sim.compose("pigeon", from_="a@b.c", to="d@e.f", subject="", text=""),
    ],
)
def test_only_known_providers_are_spoken(sim: Simulator, call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"speaks .*postal, postmark.*, not 'pigeon'"):
        call(sim)


def test_templates_are_postmarks(sim: Simulator) -> None:
    with pytest.raises(ValueError, match="postal has no templates"):
        sim.template("postal", id=1)


@pytest.mark.parametrize("option", [{"inbound_format": "parsed"}, {"inbound_encoding": "xml"}])
def test_a_hook_option_must_be_one_of_its_choices(sim: Simulator, option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        sim.hook("postal", inbound="http://127.0.0.1/", **option)


def test_hook_called_again_changes_only_what_is_given(sim: Simulator) -> None:
    sim.hook("postal", tracking="http://127.0.0.1/t", inbound="http://127.0.0.1/i")

    hook = sim.hook("postal", inbound_format="hash")

    assert (hook.tracking, hook.inbound) == ("http://127.0.0.1/t", "http://127.0.0.1/i")
    assert hook.inbound_format == "hash"


def test_stopping_forgets_events_that_have_not_begun(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    sim.delay = 60

    postmark.post("/email", MESSAGE)
    sim.stop()

    assert sim.wait() == []


def test_postals_key_is_made_when_it_is_needed() -> None:
    """Two simulators are two installations."""
    first, second = Simulator(), Simulator()

    assert first.postal_jwks == first.postal_jwks
    assert first.postal_jwks != second.postal_jwks


def test_postals_key_is_rsa() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    with pytest.raises(ValueError, match="RSA"):
        Simulator(postal_private_key=key.decode("ascii"))


def test_a_bug_in_the_simulator_is_a_500_and_logged(
    sim: Simulator, postal: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A source nobody can write: the mail of this message has a line break in its subject."""
    body = {
        "from": "a@example.org",
        "to": ["a@example.com"],
        "plain_body": "Hi",
        "subject": "two\r\nlines",
    }
    answer = postal.post("/api/v1/send/message", body).json()
    number = answer["data"]["messages"]["a@example.com"]["id"]

    look_up = {"id": number, "_expansions": ["raw_message"]}
    assert postal.post("/api/v1/messages/message", look_up).status_code == 500
    assert "the simulator failed" in caplog.text
    assert sim.rejected[-1].status == 500
