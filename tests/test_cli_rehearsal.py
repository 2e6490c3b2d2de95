"""`flask mailesp simulate` and `inbound`: the app's own receivers, over the real route."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import CREDENTIALS
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask, redirect

from flask_mailesp import MailESP, signals
from flask_mailesp.cli import mailesp
from flask_mailesp.extension import State
from flask_mailesp.registry import BUILT_IN

pytest.importorskip("flask_mailesp.simulator")

SECRET = "hook:Canary-pass/word@0123456789"
POSTMARK: dict[str, Any] = {
    "MAILESP_ESP": "postmark",
    "MAILESP_POSTMARK_SERVER_TOKEN": "canary-token-1",
    "MAILESP_WEBHOOK_SECRET": SECRET,
}
MESSAGE_ID = "5f0d7a52-9c1e-4b53-8a61-2e6f0c3d9b17"
POSTMARK_EVENTS = {
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "complained": "complained",
    "opened": "opened",
    "clicked": "clicked",
    "unsubscribed": "unsubscribed",
    "subscribed": "subscribed",
    "autoresponded": "autoresponded",
    "Delivery": "delivered",
    "SpamComplaint": "complained",
}
POSTAL_EVENTS = {
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "rejected": "rejected",
    "queued": "queued",
    "opened": "opened",
    "clicked": "clicked",
    "MessageSent": "delivered",
    "MessageBounced": "bounced",
}


@pytest.fixture(scope="module")
def public_key() -> str:
    """The key of some Postal, whose private half nobody here has."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def postal(public_key: str) -> dict[str, Any]:
    return {
        "MAILESP_ESP": "postal",
        "MAILESP_POSTAL_API_KEY": "canary-key-1",
        "MAILESP_POSTAL_API_URL": "https://postal.example.com",
        "MAILESP_POSTAL_WEBHOOK_KEY": public_key,
    }


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """Collect what the receivers of every app are told."""
    events: list[Any] = []

    def receiver(app: Flask, event: Any, esp_name: str, **_: Any) -> None:
        events.append(event)

    for signal in (signals.tracking, signals.inbound):
        signal.connect(receiver)
    yield events
    for signal in (signals.tracking, signals.inbound):
        signal.disconnect(receiver)


def make(config: dict[str, Any], **own: Any) -> Flask:
    app = Flask("shop")
    app.config.update({**config, **own})
    MailESP(app)
    return app


def run(app: Flask, *arguments: str) -> Result:
    """Run a command; whatever it raises but SystemExit fails the test."""
    return app.test_cli_runner().invoke(mailesp, arguments, catch_exceptions=False)


def sentence(result: Result, exit_code: int) -> str:
    """Return the one line that is all of stderr."""
    assert result.exit_code == exit_code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line[7:]


# --- simulate --------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "arrives"), POSTMARK_EVENTS.items())
def test_the_events_of_postmark_reach_the_receivers(
    heard: list[Any], event: str, arrives: str
) -> None:
    """With Basic credentials that no URL could carry as they are."""
    result = run(make(POSTMARK), "simulate", "postmark", event)

    assert result.exit_code == 0, result.output
    assert [item.event_type for item in heard] == [arrives]
    assert "/mail-hooks/postmark/tracking/ answered 200; the app's receiver ran." in result.stdout
    assert "Canary" not in result.output


@pytest.mark.parametrize(("event", "arrives"), POSTAL_EVENTS.items())
def test_the_events_of_postal_reach_the_receivers(
    heard: list[Any], postal: dict[str, Any], event: str, arrives: str
) -> None:
    """Signed, over the exact bytes, with a key that counts for this moment only."""
    result = run(make(postal), "simulate", "postal", event)

    assert result.exit_code == 0, result.output
    assert [item.event_type for item in heard] == [arrives]


OTHERS = sorted(set(CREDENTIALS) - {"postal", "postmark"})


@pytest.fixture
def account(esp: str) -> dict[str, Any]:
    """An account at a provider that signs, with a key that nobody here signs with."""
    prefix = f"MAILESP_{esp.upper()}"
    own = {f"{prefix}_{name}": value for name, value in KEYS[esp].items()}
    return {**CREDENTIALS[esp], **own}


def base64_of(key: ec.EllipticCurvePublicKey) -> str:
    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


EC_KEY = base64_of(ec.generate_private_key(ec.SECP256R1()).public_key())
SVIX_SECRET = "whsec_" + b64encode(b"a-secret-of-an-endpoint-of-theirs").decode()
KEYS: dict[str, dict[str, Any]] = {
    "amazon_ses": {"TOPIC_ARNS": ["arn:aws:sns:eu-west-1:123456789012:theirs"]},
    "mailgun": {"WEBHOOK_SIGNING_KEY": "the-signing-key-of-an-account"},
    "resend": {"SIGNING_SECRET": SVIX_SECRET, "INBOUND_SECRET": SVIX_SECRET},
    "sendgrid": {"WEBHOOK_VERIFICATION_KEY": EC_KEY, "INBOUND_VERIFICATION_KEY": EC_KEY},
}


@pytest.mark.parametrize("event", ["delivered", "deferred", "bounced", "opened", "clicked"])
@pytest.mark.parametrize("esp", OTHERS)
def test_the_events_of_the_others_reach_the_receivers(
    heard: list[Any], esp: str, account: dict[str, Any], event: str
) -> None:
    """Signed as each of them signs."""
    result = run(make(account), "simulate", esp, event, "--recipient", "bea@example.com")

    assert result.exit_code == 0, result.output
    assert [(item.event_type, item.recipient) for item in heard] == [(event, "bea@example.com")]
    assert f"/mail-hooks/{esp}/tracking/ answered 200; the app's receiver ran." in result.stdout


@pytest.mark.parametrize("esp", OTHERS)
def test_mail_comes_in_through_the_others(
    heard: list[Any], esp: str, account: dict[str, Any], eml: Path
) -> None:
    """What has to be fetched is fetched of the simulator."""
    result = run(make(account), "inbound", str(eml))

    assert result.exit_code == 0, result.output
    assert heard[0].message.text.strip() == "It is broken."
    assert heard[0].message.envelope_recipient == "help@in.example.org"


def test_postal_with_credentials_in_addition(heard: list[Any], postal: dict[str, Any]) -> None:
    """Both are required then, and both are brought."""
    result = run(make(postal, MAILESP_WEBHOOK_SECRET=SECRET), "simulate", "postal", "opened")

    assert (result.exit_code, len(heard)) == (0, 1)


def test_an_event_about_a_message_of_the_app(heard: list[Any], postal: dict[str, Any]) -> None:
    """The id and the recipient are what the app looks the message up by."""
    arguments = ("--recipient", "bea@example.com", "--message-id")
    run(make(POSTMARK), "simulate", "postmark", "bounced", *arguments, MESSAGE_ID)
    run(make(postal), "simulate", "postal", "delivered", *arguments, "4711")
    run(make(postal), "simulate", "postal", "bounced", *arguments, "4712")

    assert [event.message_id for event in heard] == [MESSAGE_ID, "4711", "4712"]
    assert {event.recipient for event in heard} == {"bea@example.com"}


def test_what_the_receivers_were_told_is_printed() -> None:
    """Also that there are none."""
    result = run(make(POSTMARK), "simulate", "postmark", "bounced", "--message-id", MESSAGE_ID)

    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["event_type", "bounced"] in lines
    assert ["message_id", MESSAGE_ID] in lines
    assert "no receiver of the app is connected" in result.stdout


def test_an_esp_that_the_app_does_not_send_through(heard: list[Any]) -> None:
    """Its route is there, and the general secret counts for it."""
    result = run(make(POSTMARK), "simulate", "postal", "delivered")

    assert (result.exit_code, len(heard)) == (0, 1)


def test_afterwards_only_the_esps_own_key_counts(postal: dict[str, Any]) -> None:
    """The command's key is gone, and so is its ear."""
    app = make(postal)
    state: State = app.extensions["mailesp"]
    hook, log = state.hooks["postal"], state.webhook_log

    run(app, "simulate", "postal", "delivered")

    assert state.hooks["postal"] == hook
    assert state.webhook_log is log
    assert not list(signals.tracking.receivers_for(app))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pigeon", "bounced"], f"no ESP named 'pigeon'. Known: {', '.join(BUILT_IN)}."),
        (["postmark", "bouncd"], "Postmark cannot report 'bouncd'. It reports: delivered, def"),
        (["postal", "complained"], "Postal cannot report 'complained'. It reports: delivered,"),
        (["postmark", "bounced", "--message-id", "7"], "'7' cannot be an id of Postmark"),
        (["postal", "bounced", "--message-id", MESSAGE_ID], "cannot be an id of Postal"),
    ],
)
def test_what_cannot_be_simulated(arguments: list[str], words: str) -> None:
    """One sentence with the possible ones, and exit code 2."""
    assert words in sentence(run(make(POSTMARK), "simulate", *arguments), 2)


def test_a_recipient_that_is_no_address() -> None:
    """The sentence is the one that a message to it would raise."""
    result = run(make(POSTMARK), "simulate", "postmark", "bounced", "--recipient", "nobody")

    assert "address" in sentence(result, 1)


@pytest.mark.parametrize("esp", sorted(CREDENTIALS))
def test_an_app_that_refuses_all_webhooks_refuses_this_one(esp: str) -> None:
    """Where nothing is configured to tell by, a real one would be refused as well."""
    app = make(POSTMARK, MAILESP_WEBHOOK_SECRET=None)

    words = sentence(run(app, "simulate", esp, "delivered"), 1)

    assert words.startswith(f"/mail-hooks/{esp}/tracking/ answered 401: MAILESP_")
    assert "is not set" in words


def test_a_receiver_that_fails() -> None:
    """The ESP would try again; the traceback is in the app's log."""
    app = make(POSTMARK)

    def fail(app: Flask, **_: Any) -> None:
        raise LookupError("canary")

    signals.tracking.connect(fail, app)

    assert "A receiver raised" in sentence(run(app, "simulate", "postmark", "opened"), 1)


def test_something_in_the_way() -> None:
    """Another command tells more."""
    app = make(POSTMARK)
    app.before_request(lambda: redirect("/login"))

    assert "flask mailesp doctor" in sentence(run(app, "simulate", "postmark", "opened"), 1)


def test_an_app_that_does_not_answer() -> None:
    """In debug, Flask hands an exception through to the server."""
    app = make(POSTMARK, PROPAGATE_EXCEPTIONS=True)

    def fail() -> None:
        raise LookupError("canary")

    app.before_request(fail)

    assert "gave no final answer" in sentence(run(app, "simulate", "postmark", "opened"), 1)


# --- inbound ---------------------------------------------------------------------------

MAIL = (
    b"From: Ann <ann@example.com>\r\nTo: Help <help@in.example.org>\r\nSubject: Broken\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nIt is broken.\r\n"
)


@pytest.fixture
def eml(tmp_path: Path) -> Path:
    path = tmp_path / "mail.eml"
    path.write_bytes(MAIL)
    return path


def test_a_mail_comes_in_through_the_default_mailers_esp(heard: list[Any], eml: Path) -> None:
    """As if it had arrived there."""
    result = run(make(POSTMARK), "inbound", str(eml))

    assert result.exit_code == 0, result.output
    (event,) = heard
    assert event.message.subject == "Broken"
    assert event.message.text.strip() == "It is broken."
    assert event.message.envelope_recipient == "help@in.example.org"
    assert "/mail-hooks/postmark/inbound/ answered 200" in result.stdout
    assert ["subject", "Broken"] in [line.split() for line in result.stdout.splitlines()]


def test_a_mail_comes_in_through_another_esp(
    heard: list[Any], eml: Path, postal: dict[str, Any]
) -> None:
    """For another recipient than its headers tell."""
    run(make(postal), "inbound", str(eml), "--esp", "postal", "--to", "sales@in.example.org")

    assert heard[0].message.envelope_recipient == "sales@in.example.org"


@pytest.mark.parametrize("header", ["Delivered-To", "X-Original-To"])
def test_the_recipient_that_the_last_server_wrote(
    heard: list[Any], tmp_path: Path, header: str
) -> None:
    """A list's mail has another address in To."""
    path = tmp_path / "mail.eml"
    path.write_bytes(f"{header}: me@in.example.org\r\n".encode() + MAIL)

    run(make(POSTMARK), "inbound", str(path))

    assert heard[0].message.envelope_recipient == "me@in.example.org"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an email"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is not an email"),
        (b"import os\n\nprint('From: x')\n", "is not an email"),
        (b"\x00" * 5000, "is not an email"),
        (b"From: a@example.com\r\n\r\nHello\r\n", "add --to"),
        (b"From: a@example.com\r\nTo: undisclosed-recipients:;\r\n\r\nHello\r\n", "add --to"),
    ],
)
def test_a_file_that_is_no_mail(tmp_path: Path, content: bytes, words: str) -> None:
    """One sentence with the file's name, exit code 2, and nothing reaches the app."""
    path = tmp_path / "x.eml"
    path.write_bytes(content)

    text = sentence(run(make(POSTMARK), "inbound", str(path)), 2)

    assert text.startswith(f"{path}: it ")
    assert words in text


@pytest.mark.parametrize("name", ["missing.eml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """The system's reason is told."""
    text = sentence(run(make(POSTMARK), "inbound", str(tmp_path / name)), 2)

    assert "cannot be read" in text


def test_a_name_that_no_file_has() -> None:
    """A null character, from a script that has gone wrong."""
    assert "name of the file" in sentence(run(make(POSTMARK), "inbound", "a\0b"), 2)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """Larger than any ESP would deliver."""
    path = tmp_path / "large.eml"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)

    assert "larger than any ESP" in sentence(run(make(POSTMARK), "inbound", str(path)), 2)


def test_a_mail_beyond_the_apps_own_limit(eml: Path) -> None:
    """The setting is named."""
    app = make(POSTMARK, MAILESP_WEBHOOK_MAX_BYTES=100)

    assert "MAILESP_WEBHOOK_MAX_BYTES" in sentence(run(app, "inbound", str(eml)), 1)


def test_an_unknown_esp_for_a_mail(eml: Path) -> None:
    """With the names of those there are."""
    result = run(make(POSTMARK), "inbound", str(eml), "--esp", "pigeon")

    assert sentence(result, 2) == f"There is no ESP named 'pigeon'. Known: {', '.join(BUILT_IN)}."
