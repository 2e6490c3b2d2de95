"""The example app without a browser: what it answers, says and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from markupsafe import escape

from example_app import create_app
from example_app.__main__ import main
from example_app.forms import read_addresses
from example_app.history import History
from flask_mailesp import EventType, TrackingEvent
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.simulator import Simulator

from .conftest import EVERY_ESP, ONE_ESP, Serve, Site, Visitor

REGION = "eu-west-1"
LETTER = {"to": "ann@example.net", "subject": "Hello", "body": "Hi Ann"}
NOTE = {"from": "Ann <ann@example.net>", "subject": "Question", "text": "May I?"}
REAL_POSTMARK = {"POSTMARK_SERVER_TOKEN": "secret-token", "MAIL_DEFAULT_SENDER": "me@example.com"}
REAL_POSTAL = {
    "MAILESP_ESP": "postal",
    "POSTAL_API_KEY": "secret-key",
    "POSTAL_API_URL": "https://postal.example.com",
    "MAIL_DEFAULT_SENDER": "me@example.com",
}


def real(esp: str, *secrets: str, **more: str) -> dict[str, str]:
    """The environment of an account at a provider."""
    own = {f"{esp.upper()}_{name}": f"secret-{name}" for name in secrets}
    return {"MAILESP_ESP": esp, "MAIL_DEFAULT_SENDER": "me@example.com", **own, **more}


# --- sending -----------------------------------------------------------------------------


@EVERY_ESP
def test_a_sent_message_and_its_events_are_listed_without_javascript(
    visitor: Visitor, site: Site
) -> None:
    """Every post ends in a redirect to the page that shows what came of it."""
    answer = visitor.post("/send", LETTER, files={"file": ("a.txt", b"text")})
    [message] = site.sim.messages
    [sent] = site.history.sent
    number = sent.result.message_id
    event = {"message_id": number, "recipient": "ann@example.net", "event": "bounced"}
    page = visitor.post("/simulator/emit", event).text

    assert answer.history[0].status_code == 303
    assert f"<code>{escape(number)}</code>" in answer.text
    assert '<span class="pill bounced">bounced</span>' in page
    assert [(file.name, file.data) for file in message.attachments] == [("a.txt", b"text")]
    assert "bounced" in {event.event_type for event in site.history.events}


@EVERY_ESP
def test_delivered_arrives_through_a_genuine_webhook(visitor: Visitor, site: Site) -> None:
    """The simulator's post is authenticated like any other; a wrong password is refused."""
    visitor.post("/send", LETTER)
    delivery = site.sim.wait()[-1]  # Amazon's first one asks for a confirmation

    forged = requests.post(delivery.url, delivery.request_body, timeout=5)

    assert delivery.status == 200
    assert [event.event_type for event in site.history.events] == ["delivered"]
    assert forged.status_code == 401


@ONE_ESP
def test_a_repeated_webhook_is_listed_once(visitor: Visitor, site: Site) -> None:
    """Providers post an event again if they were not answered in time."""
    visitor.post("/send", LETTER)
    [delivery] = site.sim.wait(1)
    site.sim.redeliver(delivery)

    assert len(site.history.events) == 1


@EVERY_ESP
def test_an_inline_image_goes_with_escaped_html(visitor: Visitor, site: Site) -> None:
    visitor.post("/send", {**LETTER, "body": "1 < 2", "with_image": "on"})

    [message] = site.sim.messages
    [image] = message.attachments
    assert f"cid:{image.content_id}" in (message.html or "")
    assert "1 &lt; 2" in (message.html or "")
    assert image.data.startswith(b"\x89PNG")
    assert message.text == "1 < 2"


@pytest.mark.parametrize(
    ("typed", "addresses"),
    [
        ("a@example.com", ["a@example.com"]),
        ("a@example.com, b@example.com;c@example.com", ["a@example.com", "b@example.com"]),
        (" a@example.com \r\n\r\n b@example.com\r\n", ["a@example.com", "b@example.com"]),
        ('"Doe, Jo" <jo@example.com>\na@b.example', ['"Doe, Jo" <jo@example.com>', "a@b.example"]),
        ('"unbalanced, a@example.com', ['"unbalanced', "a@example.com"]),
        (",;\n", []),
        ("", []),
    ],
)
def test_addresses_are_split_at_lines_and_commas_outside_quotes(
    typed: str, addresses: list[str]
) -> None:
    assert read_addresses(typed)[:2] == addresses


# --- what is wrong -----------------------------------------------------------------------


@ONE_ESP
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"to": ""}, "Enter at least one recipient."),
        ({"to": " ,\n"}, "Enter at least one recipient."),
        ({"to": "someone at home"}, "“someone at home” is not an email address."),
        ({"to": "a@b@example.com"}, "is not one email address"),
        ({"to": "<script>@example.com"}, "is not one email address"),
        ({"subject": " "}, "Enter a subject."),
        ({"body": ""}, "Enter a text."),
        ({"subject": "two\nlines"}, "Nothing was sent."),
    ],
)
def test_what_cannot_be_sent_is_explained_with_everything_kept(
    visitor: Visitor, site: Site, changes: dict[str, str], text: str
) -> None:
    """The answer is the same form, as it was filled in, and says what to correct."""
    letter = {**LETTER, "subject": "Kept subject", **changes}
    if "subject" in changes:
        letter["body"] = "Kept subject"

    answer = visitor.post("/send", letter)

    assert answer.status_code == 422
    assert text in answer.text
    assert "Kept subject" in answer.text
    assert "Traceback" not in answer.text
    assert "<script>@" not in answer.text
    assert site.sim.messages == []


@ONE_ESP
def test_missing_fields_are_explained_too(visitor: Visitor) -> None:
    """A post need not come from our form."""
    answer = visitor.post("/send", {})

    assert answer.status_code == 422
    assert "Enter at least one recipient." in answer.text


@ONE_ESP
def test_a_file_over_7_mb_is_refused_with_everything_kept(visitor: Visitor, site: Site) -> None:
    answer = visitor.post("/send", LETTER, files={"file": ("a.bin", bytes(7 * 1024 * 1024 + 1))})

    assert answer.status_code == 422
    assert "larger than 7 MB" in answer.text
    assert "Hi Ann" in answer.text
    assert site.sim.messages == []


@ONE_ESP
def test_a_file_of_exactly_7_mb_is_sent(visitor: Visitor, site: Site) -> None:
    visitor.post("/send", LETTER, files={"file": ("a.txt", bytes(7 * 1024 * 1024))})

    assert len(site.sim.messages) == 1


@ONE_ESP
def test_a_text_longer_than_any_form_is_refused_politely(visitor: Visitor) -> None:
    letter = {**LETTER, "body": "x" * 600_000}

    answer = visitor.post("/send", letter, files={"file": ("a.txt", b"text")})

    assert answer.status_code == 413
    assert "Nothing was sent." in answer.text


POSTMARK_SAYS_NO = b'{"ErrorCode": 300, "Message": "Bad <b>idea</b>."}'


@pytest.mark.parametrize(
    ("fault", "text", "status"),
    [
        ({"status": 401, "body": b'{"ErrorCode": 10}'}, "did not accept this app", "failed"),
        ({"status": 422, "body": POSTMARK_SAYS_NO}, "Bad &lt;b&gt;idea&lt;/b&gt;.", "failed"),
        ({"status": 429}, "takes no more mail for now", "failed"),
        ({"status": 500}, "It is uncertain whether Postmark took", "unknown"),
        ({"drop": "after"}, "It is uncertain whether Postmark took", "unknown"),
    ],
)
def test_every_bad_end_is_told_as_it_is(
    serve: Serve, session: requests.Session, fault: dict[str, Any], text: str, status: str
) -> None:
    """One sentence says what is known; the recipient is listed; the form is kept."""
    site = serve()
    visitor = Visitor(site, session)
    site.sim.fault(**fault)

    answer = visitor.post("/send", LETTER)

    assert answer.status_code == 502
    assert text in answer.text
    assert f'<span class="pill {status}">' in answer.text
    assert "Hi Ann</textarea>" in answer.text


def test_a_provider_that_cannot_be_reached_took_nothing(visitor: Visitor, site: Site) -> None:
    site.sim.stop()

    answer = visitor.post("/send", LETTER)

    assert answer.status_code == 502
    assert "could not be reached. Nothing was sent" in answer.text


def test_suppressed_recipients_are_told_apart(serve: Serve, session: requests.Session) -> None:
    """Some refused: a result like any other. All refused: an error, with the reasons."""
    site = serve()
    visitor = Visitor(site, session)
    site.sim.suppress("postmark", "gone@example.net")

    some = visitor.post("/send", {**LETTER, "to": "gone@example.net\nann@example.net"})
    every = visitor.post("/send", {**LETTER, "to": "gone@example.net"})

    assert some.status_code == 200
    assert "Postmark: partial" in some.text
    assert '<span class="pill rejected">' in some.text
    assert every.status_code == 502
    assert "Postmark refused every recipient" in every.text


# --- mail that comes in ------------------------------------------------------------------


@EVERY_ESP
def test_a_mail_written_to_the_app_is_listed(visitor: Visitor, site: Site) -> None:
    answer = visitor.post("/simulator/receive", {**NOTE, "with_file": "on"})

    [mail] = site.history.mails
    assert (mail.subject, mail.text.strip()) == ("Question", "May I?")
    assert "ann@example.net" in mail.sender
    assert mail.attachments == ("note.txt",)
    assert "1 attachment: note.txt" in answer.text


@ONE_ESP
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"from": "Ann"}, "Enter one email address"),
        ({"text": " "}, "Enter a text."),
    ],
)
def test_a_mail_that_cannot_be_written_is_explained(
    visitor: Visitor, changes: dict[str, str], text: str
) -> None:
    answer = visitor.post("/simulator/receive", {**NOTE, "subject": "Kept", **changes})

    assert answer.status_code == 422
    assert text in answer.text
    assert 'value="Kept"' in answer.text


@ONE_ESP
def test_line_breaks_cannot_add_headers_to_a_mail(visitor: Visitor, site: Site) -> None:
    visitor.post("/simulator/receive", {**NOTE, "subject": "One\r\nBcc: eve@example.net"})

    [mail] = site.history.mails
    assert mail.subject == "One  Bcc: eve@example.net"


@pytest.mark.parametrize("event", ["nonsense", ""])
def test_an_event_that_cannot_be_simulated_is_explained(visitor: Visitor, event: str) -> None:
    form = {"message_id": "1", "recipient": "ann@example.net", "event": event}

    assert "does not know this message" in visitor.post("/simulator/emit", form).text


def test_a_webhook_that_was_refused_is_told(visitor: Visitor, site: Site) -> None:
    """Such as one with an old password."""
    esp = site.app.config["MAILESP_ESP"]
    site.sim.hook(esp, inbound=f"{site.url}/mail-hooks/{esp}/inbound/")

    answer = visitor.post("/simulator/receive", NOTE)

    assert "The webhook was not taken: HTTP 401." in answer.text
    assert site.history.mails == []


# --- the live list -----------------------------------------------------------------------


@ONE_ESP
def test_the_lists_are_sent_only_when_they_have_changed(visitor: Visitor, site: Site) -> None:
    version = site.history.version
    nothing_new = visitor.get(f"/live?seen={version}")
    visitor.post("/simulator/receive", NOTE)
    news = visitor.get(f"/live?seen={version}")

    assert (nothing_new.status_code, nothing_new.content) == (204, b"")
    assert news.status_code == 200
    assert "Question" in news.text


def test_the_memory_is_bounded() -> None:
    """The oldest is forgotten first."""
    history = History()

    for number in range(101):
        history.add_event(TrackingEvent(EventType.OPENED, identity=(str(number),)), "Postmark")

    assert [event.number for event in history.snapshot().events] == list(range(101, 1, -1))


# --- safety ------------------------------------------------------------------------------


@ONE_ESP
@pytest.mark.parametrize("path", ["/send", "/simulator/emit", "/simulator/receive"])
@pytest.mark.parametrize("token", ["", "wrong", "gefälscht"])
def test_a_form_without_the_visitors_token_is_refused(
    visitor: Visitor, site: Site, path: str, token: str
) -> None:
    answer = visitor.post(path, {**LETTER, **NOTE, "csrf": token})

    assert answer.status_code == 400
    assert "out of date" in answer.text
    assert site.sim.messages == []


@ONE_ESP
def test_every_page_has_strict_headers(visitor: Visitor) -> None:
    headers = visitor.get("/").headers

    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "<script>" not in visitor.page
    assert "style=" not in visitor.page


@ONE_ESP
def test_an_unknown_page_says_so(visitor: Visitor) -> None:
    answer = visitor.get("/nowhere")

    assert answer.status_code == 404
    assert "Back to the page" in answer.text


# --- configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "texts"),
    [
        (REAL_POSTMARK, ["mail-hooks/postmark/tracking/", "Set <code>MAILESP_WEBHOOK_SECRET<"]),
        (REAL_POSTAL, ["mail-hooks/postal/inbound/", "Set <code>POSTAL_WEBHOOK_KEY<"]),
        (real("mailgun", "API_KEY"), ["through <strong>Mailgun<", "MAILGUN_WEBHOOK_SIGNING_KEY<"]),
        (
            real("resend", "API_KEY"),
            ["through <strong>Resend<", "Set <code>RESEND_SIGNING_SECRET<"],
        ),
        (real("sendgrid", "API_KEY"), ["SendGrid<", "SENDGRID_WEBHOOK_VERIFICATION_KEY<"]),
        (
            real(
                "amazon_ses", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", MAILESP_AMAZON_SES_REGION=REGION
            ),
            ["through <strong>Amazon SES<", "Set <code>AMAZON_SES_TOPIC_ARNS<"],
        ),
    ],
)
def test_with_a_credential_there_is_no_simulator(environ: dict[str, str], texts: list[str]) -> None:
    """The page tells where the webhooks must go instead, and shows no credential."""
    client = create_app(environ).test_client()

    page = client.get("/").text

    assert "for real" in page
    assert all(text in page for text in texts)
    assert "secret-" not in page
    assert client.post("/simulator/emit").status_code == 404


def test_the_provider_is_a_matter_of_configuration(
    serve: Serve, session: requests.Session, sim: tuple[Simulator, str]
) -> None:
    """With a credential and a URL the same app talks to whoever is there."""
    simulator, url = sim
    site = serve(
        POSTMARK_SERVER_TOKEN="the-real-one",
        POSTMARK_API_URL=url,
        MAIL_DEFAULT_SENDER="Me <me@example.com>",
    )

    answer = Visitor(site, session).post("/send", LETTER)

    assert "Postmark: accepted" in answer.text
    assert simulator.messages[0].from_ == "Me <me@example.com>"


@pytest.fixture
def sim() -> Any:
    """Somebody else's provider."""
    simulator = Simulator(postmark_tokens={"the-real-one"})
    with simulator.running() as server:
        yield simulator, server.url_for("postmark")


def test_flask_s_own_prefix_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_MAILESP_ESP", "postal")
    monkeypatch.setenv("FLASK_POSTAL_API_KEY", "secret-key")

    app = create_app({**REAL_POSTAL, "MAILESP_ESP": "postmark"})

    assert "Sending through <strong>Postal</strong>" in app.test_client().get("/").text


def test_structured_settings_are_read_as_json() -> None:
    environ = {**REAL_POSTMARK, "MAILESP_SEND_DEFAULTS": '{"tags": ["example"]}'}

    defaults = create_app(environ).config["MAILESP_SEND_DEFAULTS"]

    assert defaults == {"sender": "me@example.com", "tags": ["example"]}


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"MAILESP_ESP": "postmrk"}, "Did you mean 'postmark'?"),
        ({"POSTMARK_SERVER_TOKEN": "secret-token"}, "MAIL_DEFAULT_SENDER is not set"),
        ({**REAL_POSTMARK, "MAILESP_SEND_DEFAULTS": "{tags"}, "cannot be read"),
        ({**REAL_POSTAL, "POSTAL_API_URL": ""}, "MAILESP_POSTAL_API_URL is not set"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_app(environ)

    assert text in str(caught.value)


# --- the command -------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    """Run ``python -m example_app`` as a user does, without any setting."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAIL", "POSTMARK", "POSTAL", "FLASK"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "example_app", *arguments],
        cwd=Path(__file__).parents[2],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_one_command_starts_it_and_ctrl_c_stops_it(stop: signal.Signals) -> None:
    """It says where it is, serves, and ends without a traceback and with status 0."""
    with start("--port", "0") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        how = process.stdout.readline()
        page = requests.get(url, timeout=10)
        process.send_signal(stop)
        rest, _ = process.communicate(timeout=20)

    assert "Flask-MailESP example" in page.text
    assert how == "It sends through Postmark, simulated on this machine: no mail leaves it.\n"
    assert rest == "Stopped.\n"
    assert process.returncode == 0


@ONE_ESP
def test_a_port_that_is_taken_is_one_sentence(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    port = site.url.rpartition(":")[2]

    assert main(["--port", port]) == 1
    assert capsys.readouterr().err == (
        f"Cannot listen on 127.0.0.1, port {port}: Address already in use. Try another --port.\n"
    )


def test_a_wrong_setting_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAILESP_ESP", "postmrk")

    assert main(["--port", "0"]) == 1
    assert "Did you mean 'postmark'?" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "five"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--port", port])

    assert "invalid port_number value" in capsys.readouterr().err
