"""What the simulator lends to a provider's side, and what one file is enough for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Request

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.cli import mailesp
from flask_mailesp.extension import State
from flask_mailesp.recording import record_all
from flask_mailesp.simulator import LocalServer, Simulator, side
from flask_mailesp.simulator.forms import FormFile, multipart, urlencoded
from flask_mailesp.simulator.records import Post
from flask_mailesp.simulator.side import names

from . import acme
from .conftest import Application

MAIL = b"From: ann@example.com\r\nTo: help@example.org\r\nSubject: Caf\xe9\r\n\r\nHello\r\n"
Events = list[TrackingEvent | InboundEvent]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings Acme's side."""
    name = acme.__name__
    point = EntryPoint("acme", f"{name}:side", side.ENTRY_POINTS)
    monkeypatch.setattr(side, "_entry_points", lambda: iter([point]))


@pytest.fixture
def office(request: pytest.FixtureRequest) -> Iterator[Flask]:
    """An app that sends through Acme, with settings of its own."""
    app = Flask("office")
    app.debug = True
    app.config["MAILESP"] = {
        "ESP": acme.esp,
        "ACME_API_KEY": "the-apps-own",
        "ACME_SIGNING_KEY": "the-apps-own-key",
        "SEND_DEFAULTS": {"sender": "shop@example.org"},
        **getattr(request, "param", {}),
    }
    MailESP(app)
    state: State = app.extensions["mailesp"]
    with app.app_context():
        yield app
    state.transport.close()
    if state.mailbox is not None:
        state.mailbox.stop()


@pytest.fixture
def events(office: Flask) -> Iterator[Events]:
    """What the app's receivers are told."""
    told: Events = []

    def receive(app: Flask, event: Any, esp_name: str) -> None:
        told.append(event)

    with (
        signals.tracking.connected_to(receive, office),
        signals.inbound.connected_to(receive, office),
    ):
        yield told


def send() -> Any:
    return MailESP().send(Message("Hi", to=["bea@example.com"], body="Hello"))


def point_at(app: Flask, sim: Simulator, server: LocalServer, stack: ExitStack) -> None:
    """Set Acme's hooks to an app, served for this."""
    site = LocalServer(app)
    stack.callback(site.stop)
    base = f"{site.url}/mail-hooks/acme"
    sim.hook("acme", tracking=f"{base}/tracking/", inbound=f"{base}/inbound/")


# --- which there are ---------------------------------------------------------------------


def test_a_side_is_a_module_of_its_name_or_comes_with_a_package() -> None:
    """None is loaded to know which there are."""
    assert {"postal", "postmark", "acme"} <= set(names())
    assert Simulator(esps=("acme",)).events("acme") == ("delivered", "bounced")


def test_every_side_has_its_key() -> None:
    for name in names():
        assert side.load(name).key == name


def test_options_are_given_with_the_key_in_front() -> None:
    sim = Simulator(acme_keys=("first", "second"))

    assert sim.settings("acme", "http://127.0.0.1:1/acme")["API_KEY"] == "first"


@pytest.mark.parametrize("option", ["pigeon_keys", "acme_pigeons", "keys"])
def test_an_option_that_nobody_has_is_an_error(option: str) -> None:
    with pytest.raises(TypeError, match=r"option|unexpected"):
        Simulator(**{option: ("key",)})  # type: ignore[arg-type]


def test_a_side_that_is_not_spoken_does_not_answer() -> None:
    sim = Simulator(esps=("postal",))

    with pytest.raises(ValueError, match="speaks postal, not 'acme'"):
        sim.side("acme")


def test_settings_are_those_of_the_running_server() -> None:
    sim = Simulator()

    with sim.running() as server:
        assert sim.settings("acme")["API_URL"] == server.url_for("acme")
    with pytest.raises(RuntimeError, match="does not run"):
        sim.settings("acme")


def test_shared_keys_are_made_once_for_all_simulators() -> None:
    """Unlike those of simulators without this option."""
    one, two, other = Simulator(shared_keys=True), Simulator(shared_keys=True), Simulator()

    assert one.postal_jwks == two.postal_jwks
    assert one.postal_jwks != other.postal_jwks


# --- webhooks ----------------------------------------------------------------------------


def take(sim: Simulator) -> None:
    """Have Acme accept a message, without the package."""
    sending: Any = sim.side("acme")
    sending._accept({"to": "bea@example.com", "from": "shop@example.org", "text": "Hi"}, "/send")


def test_every_attempt_is_signed_anew(application: Application) -> None:
    """The time is in the signature, and the id stays the same."""
    sim = Simulator(auto=(), time_scale=0)
    sim.hook("acme", tracking=application.hook("/t"))
    take(sim)
    application.status = 503

    sim.emit(sim.messages[0], "bounced")
    sim.wait(n_deliveries=3)

    sent = [one.request_headers for one in sim.deliveries]
    assert len({one["X-Acme-Time"] for one in sent}) == 3
    assert len({one["X-Acme-Signature"] for one in sent}) == 3
    assert {one["X-Acme-Id"] for one in sent} == {"1"}
    assert [one.verdict for one in sim.deliveries] == ["retry", "retry", "exhausted"]


def test_a_forged_webhook_has_a_wrong_signature_of_this_moment(application: Application) -> None:
    sim = Simulator(auto=())
    sim.hook("acme", tracking=application.hook("/t"))
    take(sim)
    sim.fault(webhook="forged")

    sim.emit(sim.messages[0], "bounced")

    forged, real = application.requests
    assert forged.headers["x-acme-signature"] != real.headers["x-acme-signature"]
    assert forged.headers["x-acme-time"] != ""


def test_a_proof_in_the_body_is_forged_there(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = Simulator(auto=())
    sim.hook("acme", tracking=application.hook("/t"))
    take(sim)
    sim.fault(webhook="forged")

    def sign(self: acme.Acme, post: Post, now: object) -> Post:
        return replace(
            post,
            body=b"signed",
            proofs=(),
            forge=lambda signed: replace(signed, body=signed.body[::-1]),
        )

    monkeypatch.setattr(acme.Acme, "_sign", sign)
    sim.emit(sim.messages[0], "bounced")

    assert [one.body for one in application.requests] == [b"dengis", b"signed"]


def test_what_a_provider_posts_when_a_hook_is_set(application: Application) -> None:
    """By itself, once for each change; on request where nothing happens by itself."""
    sim, quiet = Simulator(), Simulator(auto=())
    for _ in range(2):
        sim.hook("acme", tracking=application.hook("/t"))
    quiet.hook("acme", tracking=application.hook("/t"))

    assert [one.event for one in sim.wait()] == ["probe"]
    assert quiet.wait() == []
    assert [one.event for one in quiet.announce("acme")] == ["probe"]
    assert quiet.announce("postal") == []


def test_a_message_is_found_by_its_other_ids() -> None:
    sim = Simulator(auto=())
    take(sim)

    assert sim.message("alias-A1") == sim.message("A1") == sim.messages[0]


# --- an app ------------------------------------------------------------------------------


def test_a_recording_signs_sends_and_fetches_without_a_network(
    office: Flask, events: Events
) -> None:
    """The app's own credentials stay out of it, and are what they were afterwards."""
    before = dict(office.extensions["mailesp"].hook("acme")[1])
    with record_all() as outbox:
        send()
        assert outbox.simulate(outbox[0], "bounced") == 200
        assert outbox.receive(MAIL) == 200
        settings = office.extensions["mailesp"].hook("acme")[1]
        assert settings["SIGNING_KEY"] == (b"the-apps-own-key", b"an-acme-signing-key")
        assert settings["DERIVED"] == f"{settings['API_URL']}/derived"

    bounced, received = events
    assert isinstance(bounced, TrackingEvent)
    assert (bounced.event_type, bounced.message_id) == ("bounced", "A1")
    assert isinstance(received, InboundEvent)
    assert received.message.text.strip() == "Hello"
    assert dict(office.extensions["mailesp"].hook("acme")[1]) == before


def test_a_recording_of_one_app_fetches_too(office: Flask, events: Events) -> None:
    with MailESP().record_messages() as outbox:
        assert outbox.receive(MAIL) == 200

    assert len(events) == 1


@pytest.mark.parametrize("fault", [{"status": 404}, {"drop": "before"}])
def test_what_cannot_be_fetched_is_asked_for_again(
    office: Flask, events: Events, fault: dict[str, Any]
) -> None:
    """503 has the provider post the webhook once more."""
    with record_all() as outbox:
        outbox.simulator.fault(path="/mails/", **fault)
        assert outbox.receive(MAIL) == 503
        assert outbox.receive(MAIL) == 200

    assert len(events) == 1


@pytest.mark.parametrize("office", [{"MAILBOX": True}], indirect=True)
def test_the_mailbox_in_an_app_sends_and_fetches_over_http(office: Flask, events: Events) -> None:
    sim = office.extensions["mailesp"].mailbox.simulator
    sim.auto = ()
    with ExitStack() as stack:
        send()
        point_at(office, sim, sim.start, stack)
        assert sim.emit("A1", "delivered").status == 200
        assert sim.receive("acme", MAIL, "help@example.org").status == 200

    assert [event.event_type for event in events] == ["delivered", "inbound"]


def test_a_rehearsal_fetches_over_http(office: Flask, events: Events, tmp_path: Path) -> None:
    """`flask mailesp inbound` and `simulate`, whatever the provider."""
    path = tmp_path / "a.eml"
    path.write_bytes(MAIL)
    run = office.test_cli_runner().invoke

    for arguments in (
        ["inbound", str(path)],
        ["simulate", "acme", "bounced", "--message-id", "A77"],
    ):
        result = run(mailesp, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output

    received, bounced = events
    assert isinstance(received, InboundEvent)
    assert isinstance(bounced, TrackingEvent)
    assert bounced.message_id == "A77"


def test_a_rehearsal_names_the_form_of_ids(office: Flask) -> None:
    arguments = ["simulate", "acme", "bounced", "--message-id", "77"]
    result = office.test_cli_runner().invoke(mailesp, arguments)

    assert "'77' cannot be an id of Acme: it has numbers after A." in result.stderr


# --- forms -------------------------------------------------------------------------------

FIELDS: list[tuple[str, str | bytes]] = [
    ("from", "Änn <ann@example.com>"),
    ("email", b"caf\xe9 & \x00 +\r\n"),
    ('a "quoted"\r\nname', "x"),
]


def read(content_type: str, body: bytes) -> Request:
    return Request(
        {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
    )


def test_a_form_may_hold_any_bytes() -> None:
    """In both encodings, unchanged; names are escaped as browsers do."""
    encoded = read(*urlencoded(FIELDS))
    assert encoded.form["from"] == "Änn <ann@example.com>"
    assert b"caf%E9+%26+%00+%2B%0D%0A" in urlencoded(FIELDS)[1]

    content_type, body = multipart(FIELDS, [FormFile("file", 'a".txt', "text/plain", b"\xff\r\n")])
    request = read(content_type, body)
    assert request.form["from"] == "Änn <ann@example.com>"
    assert b'name="a %22quoted%22%0D%0Aname"' in body
    assert b"\r\n\r\ncaf\xe9 & \x00 +\r\n\r\n--" in body
    assert b'filename="a%22.txt"\r\nContent-Type: text/plain' in body
    assert request.files["file"].read() == b"\xff\r\n"
    request.close()
