"""What the doctor finds, on real apps: settings, credentials, webhook routes, the way to them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_postmark import TOKEN, FakePostmark
from flask import Flask, Response, redirect, request
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from scripted import Close, Reply, scripted

from flask_mailesp import MailESP, signals
from flask_mailesp.console import Finding, Verdict
from flask_mailesp.doctor import SilentLog, examine
from flask_mailesp.esp import Feature
from flask_mailesp.extension import State

SECRET = "hook:Canary-password-0123456789"
POSTMARK: dict[str, Any] = {
    "MAILESP_ESP": "postmark",
    "MAILESP_POSTMARK_SERVER_TOKEN": TOKEN,
    "MAILESP_POSTMARK_API_URL": "http://127.0.0.1:9",  # nobody listens there
    "MAILESP_WEBHOOK_SECRET": SECRET,
}
POSTAL: dict[str, Any] = {
    "MAILESP_ESP": "postal",
    "MAILESP_POSTAL_API_KEY": "canary-key-1",
    "MAILESP_POSTAL_API_URL": "http://127.0.0.1:9",
}


def make(config: dict[str, Any], **own: Any) -> Flask:
    """Return an app as it is in production: neither debug nor testing."""
    app = Flask("doctor")
    app.config.update({**config, **own})
    MailESP(app)
    return app


def state_of(app: Flask) -> State:
    state: State = app.extensions["mailesp"]
    return state


def findings(app: Flask, url: str | None = None, **environ: str) -> list[Finding]:
    """Examine an app; connections are closed afterwards."""
    try:
        return list(examine(app, state_of(app), url, environ))
    finally:
        state_of(app).transport.close()


def about(app: Flask, check: str, subject: str = "", url: str | None = None) -> Finding:
    """Return the one finding of a check about a subject."""
    (found,) = (
        one for one in findings(app, url) if one.check == check and one.subject.startswith(subject)
    )
    return found


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """Collect every event of every app; a receiver is connected to both signals."""
    events: list[Any] = []

    def receiver(app: Flask, event: Any, **_: Any) -> None:
        events.append(event)

    for signal in (signals.tracking, signals.inbound):
        signal.connect(receiver)
    yield events
    for signal in (signals.tracking, signals.inbound):
        signal.disconnect(receiver)


# --- all is well -----------------------------------------------------------------------


@pytest.mark.usefixtures("heard")
def test_a_healthy_app_has_nothing_wrong() -> None:
    """The API's address apart, which is on this machine here."""
    with scripted(FakePostmark()) as server:
        found = findings(make(POSTMARK, MAILESP_POSTMARK_API_URL=server.url))

    verdicts = [one.verdict for one in found if one.check != "settings"]
    assert set(verdicts) == {Verdict.OK, Verdict.CANNOT_TELL}
    assert [one.check for one in found if one.verdict is Verdict.CANNOT_TELL] == ["sender"]
    assert "default (Postmark)" in found[0].text


def test_no_receiver_hears_of_the_examination(heard: list[Any]) -> None:
    """The routes are called, but what stands behind them is not the app."""
    findings(make(POSTMARK), "http://127.0.0.1:9")

    assert heard == []


def test_the_examination_leaves_nothing_behind() -> None:
    """Afterwards the routes work as before."""
    app = make(POSTMARK)
    before, log = dict(state_of(app).hooks), state_of(app).webhook_log

    findings(app)

    assert before.items() <= state_of(app).hooks.items()
    assert state_of(app).webhook_log is log
    assert app.test_client().post("/mail-hooks/postmark/tracking/").status_code == 401


def test_no_finding_and_no_log_line_shows_a_credential(caplog: pytest.LogCaptureFixture) -> None:
    """A report can be pasted into an issue."""
    caplog.set_level(logging.DEBUG)
    with scripted(FakePostmark()) as server:
        found = findings(make(POSTMARK, MAILESP_POSTMARK_API_URL=server.url), server.url)

    text = repr(found) + caplog.text
    assert TOKEN not in text
    assert "Canary" not in text
    assert "was rejected" not in caplog.text


# --- strategies ------------------------------------------------------------------------

MEMBERS: list[tuple[dict[str, Any], Verdict, str]] = [
    ({"failover": ["postmark", "postal"]}, Verdict.OK, "failover: postmark, postal"),
    ({"round_robin": ["same", "postmark"]}, Verdict.WARNING, "same and postmark use one"),
    ({"failover": ["postal"]}, Verdict.WARNING, "no member but postal"),
]


@pytest.mark.parametrize(("spec", "verdict", "words"), MEMBERS)
def test_a_strategy_is_as_good_as_its_members_are_different(
    spec: dict[str, Any], verdict: Verdict, words: str
) -> None:
    """Two that share a credential fail together."""
    mailers = {"default": spec, "same": {"esp": "postmark"}}
    app = make(POSTAL | POSTMARK, MAILESP_ESP=None, MAILESP_MAILERS=mailers)
    found = about(app, "strategies", "mailer default")
    assert (found.verdict, words in found.text) == (verdict, True)


def test_the_credentials_of_members_are_asked_about() -> None:
    """By the member's name, once."""
    mailers = {"default": {"failover": ["postmark", "postal"]}}
    found = findings(make(POSTAL | POSTMARK, MAILESP_ESP=None, MAILESP_MAILERS=mailers))
    asked = [one.subject for one in found if one.check == "credentials"]
    assert asked == ["Postmark, mailer postmark", "Postal, mailer postal"]
    assert "default (failover: postmark, postal)" in found[0].text


# --- credentials -----------------------------------------------------------------------


def test_a_wrong_token_fails() -> None:
    """The sentence says where the right one is found."""
    with scripted(FakePostmark()) as server:
        config = {"MAILESP_POSTMARK_API_URL": server.url, "MAILESP_POSTMARK_SERVER_TOKEN": "no"}
        found = about(make(POSTMARK, **config), "credentials")

    assert found.verdict is Verdict.FAILED
    assert "API Tokens" in found.text


def test_an_esp_that_is_not_reached_fails() -> None:
    """Nothing could be sent from here either."""
    found = about(make(POSTMARK), "credentials", "Postmark, mailer default")

    assert found.verdict is Verdict.FAILED
    assert "could not be reached" in found.text


def test_an_esp_that_gives_no_answer_cannot_tell() -> None:
    """The credential may be good."""
    with scripted(Close()) as server:
        found = about(make(POSTMARK, MAILESP_POSTMARK_API_URL=server.url), "credentials")

    assert found.verdict is Verdict.CANNOT_TELL
    assert "no answer that can be understood" in found.text


def test_every_credential_is_asked_about_once() -> None:
    """Mailers may share a credential."""
    with scripted(FakePostmark()) as server:
        spec = {"esp": "postmark", "POSTMARK_API_URL": server.url}
        mailers = {"default": spec, "same": spec, "bulk": {**spec, "POSTMARK_SERVER_TOKEN": "b"}}
        found = findings(make(POSTMARK, MAILESP_MAILERS=mailers))

    asked = {one.subject: one.verdict for one in found if one.check == "credentials"}
    assert asked == {
        "Postmark, mailer default": Verdict.OK,
        "Postmark, mailer bulk": Verdict.FAILED,
    }


def test_an_esp_without_a_console_cannot_be_asked() -> None:
    """ESPs of others need not have one."""
    app = make(POSTMARK)
    mailer = state_of(app).mailers["default"]
    other = replace(mailer.esp, name="Other", supports=frozenset({Feature.TAGS}))
    state_of(app).mailers["default"] = replace(mailer, esp=other)

    assert about(app, "credentials").verdict is Verdict.CANNOT_TELL


# --- settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("POSTMARK_TOKEN", "Did you mean POSTMARK_SERVER_TOKEN?"),
        ("POSTAL_APIKEY", "Did you mean POSTAL_API_KEY?"),
        ("POSTMARK_WEBHOOK_SECRET", "needs the prefix: MAILESP_POSTMARK_WEBHOOK_SECRET"),
    ],
)
def test_keys_without_the_prefix_that_are_not_read(key: str, words: str) -> None:
    """With the prefix, init_app has refused them."""
    texts = [one.text for one in findings(make(POSTMARK, **{key: "canary"}))]

    (text,) = (text for text in texts if text.startswith(f"{key} is not read."))
    assert words in text
    assert "canary" not in text


def test_keys_of_other_extensions_are_none_of_ours() -> None:
    """Only what looks like one of ours is mentioned."""
    found = findings(make(POSTMARK, POSTMARK_COLOUR_SCHEME=1, POSTMARK_API_URL="https://a.example"))

    assert not [one for one in found if "is not read" in one.text]


@pytest.mark.parametrize("name", ["MAILESP_TIMEZONE", "FLASK_MAILESP_TIMEZONE"])
def test_variables_that_the_app_does_not_read(name: str) -> None:
    """A common mistake: the variable is set, from_prefixed_env() is not called."""
    texts = [one.text for one in findings(make(POSTMARK), **{name: "UTC"})]

    assert [text for text in texts if text.startswith(f"{name} is set in the environment")]


def test_variables_that_the_app_does_read() -> None:
    """Parts of a dict are found under its name; other variables are ignored."""
    environ = {"FLASK_MAILESP_ESP": "x", "FLASK_MAILESP_WEBHOOK_SECRET__0": "x", "HOME": "/"}

    assert not [one for one in findings(make(POSTMARK), **environ) if "environment" in one.text]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"TESTING": True, "MAILESP_WEBHOOK_ALLOW_INSECURE": True}, "ALLOW_INSECURE is on"),
        ({"TESTING": True, "MAILESP_TLS_VERIFY": False}, "TLS_VERIFY is off"),
        (
            {"MAILESP_ALLOW_HTTP": True, "MAILESP_POSTMARK_API_URL": "http://esp.invalid"},
            "in the clear",
        ),
        ({}, "is on this machine"),
        ({"MAILESP_WEBHOOK_SECRET": "user:short"}, "easily guessed"),
        ({"MAILESP_WEBHOOK_SECRET": "user:a-long-random-password"}, "easily guessed"),
    ],
)
def test_insecure_settings(config: dict[str, Any], words: str) -> None:
    """Each is a warning that names the key."""
    found = [one for one in findings(make(POSTMARK, **config)) if one.check == "settings"]

    assert {one.verdict for one in found} == {Verdict.WARNING}
    assert any(words in one.text for one in found)


def test_no_insecure_setting() -> None:
    """That there is none is said, too."""
    found = about(make(POSTMARK, MAILESP_POSTMARK_API_URL="https://esp.invalid"), "settings")

    assert found.verdict is Verdict.OK


# --- webhook routes --------------------------------------------------------------------


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_a_route_is_reached_and_authenticated(kind: str) -> None:
    """Proven by calling it: 401 without the credentials, 200 with them."""
    found = about(make(POSTMARK), "webhooks", f"Postmark {kind}")

    assert found.verdict is Verdict.OK
    assert f"/mail-hooks/postmark/{kind}/ answers 401 without" in found.text


def test_a_route_that_nobody_listens_to() -> None:
    """The events would be lost: a warning."""
    found = about(make(POSTMARK), "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.WARNING
    assert "nothing is connected to signals.tracking" in found.text


@pytest.mark.usefixtures("heard")
def test_a_missing_secret_fails_where_events_are_waited_for() -> None:
    """The sentence names the key."""
    found = about(make(POSTMARK, MAILESP_WEBHOOK_SECRET=None), "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.FAILED
    assert "MAILESP_WEBHOOK_SECRET is not set" in found.text


def test_a_missing_secret_is_a_warning_where_nobody_listens() -> None:
    """An app that only sends needs none."""
    found = about(make(POSTMARK, MAILESP_WEBHOOK_SECRET=None), "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.WARNING


def test_insecure_webhooks_in_testing_are_a_warning() -> None:
    """They are accepted without anything."""
    config = {"MAILESP_WEBHOOK_SECRET": None, "MAILESP_WEBHOOK_ALLOW_INSECURE": True}
    found = about(make(POSTMARK, TESTING=True, **config), "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.WARNING
    assert "all are accepted" in found.text


@pytest.mark.usefixtures("heard")
def test_a_signature_can_only_be_shown_by_the_esp() -> None:
    """Cannot tell, and what to do about it."""
    app = make(POSTAL, MAILESP_POSTAL_WEBHOOK_KEY=public_key())
    found = about(app, "webhooks", "Postal tracking")

    assert found.verdict is Verdict.CANNOT_TELL
    assert "flask mailesp simulate postal delivered" in found.text


def public_key() -> str:
    """Return a fresh RSA public key."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_an_esp_that_only_receives_is_examined() -> None:
    """It has a setting of its own, though no mailer."""
    subjects = {one.subject for one in findings(make(POSTMARK, POSTAL_WEBHOOK_KEY=public_key()))}

    assert {"Postal tracking", "Postmark tracking"} <= subjects


def test_an_unusable_setting_of_an_esp_that_only_receives() -> None:
    """init_app does not look at it; the rest of the examination goes on."""
    found = findings(make(POSTMARK, POSTAL_WEBHOOK_KEY="nonsense"))

    (broken,) = (one for one in found if one.subject == "Postal")
    assert broken.verdict is Verdict.FAILED
    assert "POSTAL_WEBHOOK_KEY is not an RSA public key" in broken.text
    assert [one for one in found if one.subject == "Postmark tracking"]
    assert "Postal tracking" not in {one.subject for one in found}


def test_an_esp_that_is_not_configured_is_not_examined() -> None:
    """A general secret does not make all ESPs ours."""
    subjects = {one.subject for one in findings(make(POSTMARK))}

    assert not [subject for subject in subjects if "Postal" in subject]


def login_wall(app: Flask) -> None:
    app.before_request(lambda: redirect("/login?next=/secret"))


def closed_wall(app: Flask) -> None:
    app.before_request(lambda: Response("who are you?", 401))


def forbidding_wall(app: Flask) -> None:
    app.before_request(lambda: ("CSRF token missing", 400))


def teapot_wall(app: Flask) -> None:
    app.before_request(lambda: ("no coffee", 418))


def crash(app: Flask) -> None:
    def fail() -> None:
        raise LookupError("canary")

    app.before_request(fail)


def crash_aloud(app: Flask) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    crash(app)


def other_host(app: Flask) -> None:
    app.config["TRUSTED_HOSTS"] = [".example.com"]
    app.before_request(lambda: None if request.host == "www.example.com" else ("no", 404))


@pytest.mark.parametrize(
    ("hinder", "words"),
    [
        (login_wall, "HTTP 302 before the route is reached: a login wall or another redirect, "),
        (closed_wall, "a login wall"),
        (forbidding_wall, "CSRF protection"),
        (teapot_wall, "HTTP 418 before the route is reached: something in the app"),
        (crash, "the app fails on every request"),
        (crash_aloud, "the app raised LookupError"),
        (other_host, "give it with --url"),
    ],
)
def test_what_stands_in_the_way(hinder: Any, words: str) -> None:
    """The route must have been reached: a 401 of somebody else proves nothing."""
    app = make(POSTMARK)
    hinder(app)

    found = about(app, "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.FAILED
    assert words in found.text
    assert "secret" not in found.text
    assert "canary" not in found.text


@pytest.mark.usefixtures("heard")
def test_the_public_address_is_the_host_that_the_app_sees() -> None:
    """For apps that look at the Host header."""
    app = make(POSTMARK)
    app.before_request(lambda: None if request.url_root == "https://a.example/" else ("no", 404))

    found = about(app, "webhooks", "Postmark tracking", url="https://a.example")

    assert found.verdict is Verdict.OK


@pytest.mark.usefixtures("heard")
def test_csrf_protection_knows_the_exemption() -> None:
    """Flask-WTF's CSRFProtect lets the routes through."""
    app = make(POSTMARK, SECRET_KEY="x")
    CSRFProtect(app)

    assert about(app, "webhooks", "Postmark tracking").verdict is Verdict.OK


@pytest.mark.parametrize(("status", "word"), [(401, "200"), (200, "401")])
def test_an_answer_that_the_app_changes(status: int, word: str) -> None:
    """Both answers must arrive as they are: the ESP acts on the exact status."""
    app = make(POSTMARK)

    def change(response: Response) -> Response:
        response.status_code = 302 if response.status_code != status else status
        return response

    app.after_request(change)

    found = about(app, "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.FAILED
    assert f"The route's answer {word} comes out as HTTP 302" in found.text


def test_a_large_form_is_read() -> None:
    """Flask's own limit for forms is half a megabyte; the routes lift it."""
    found = about(make(POSTMARK), "body limit", "Postmark inbound")

    assert found.verdict is Verdict.OK


def test_a_hook_that_reads_the_form_does_no_harm() -> None:
    """The route has kept the body before any ``before_request`` runs."""
    app = make(POSTMARK)

    def peek() -> None:
        request.form.get("m")

    app.before_request(peek)

    assert about(app, "body limit", "Postmark inbound").verdict is Verdict.OK


def test_something_that_reads_the_body_first() -> None:
    """Nothing of it would be left for the route, and the mail would be lost."""
    app = make(POSTMARK)
    inner = app.wsgi_app

    def greedy(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read()
        return inner(environ, start_response)

    app.wsgi_app = greedy  # type: ignore[method-assign]

    assert about(app, "webhooks", "Postmark inbound").verdict is Verdict.FAILED


def test_something_that_limits_bodies() -> None:
    """Mail is larger than most of what an app receives."""
    app = make(POSTMARK)
    app.before_request(lambda: ("too much", 413) if (request.content_length or 0) > 1000 else None)

    found = about(app, "body limit", "Postmark inbound")

    assert found.verdict is Verdict.FAILED
    assert "is refused with HTTP 413" in found.text


def test_something_that_refuses_large_bodies() -> None:
    """Whatever the status."""
    app = make(POSTMARK)
    app.before_request(lambda: ("too much", 403) if (request.content_length or 0) > 1000 else None)

    found = about(app, "body limit", "Postmark inbound")

    assert found.verdict is Verdict.FAILED
    assert "HTTP 403" in found.text


def test_a_damaged_setting_of_a_webhook_is_no_traceback() -> None:
    """An ESP whose verify fails in an unforeseen way still refuses."""
    app = make(POSTMARK)
    esp, settings = state_of(app).hooks["postmark"] or pytest.fail("no hook")
    assert esp.tracking is not None
    lenient = replace(esp.tracking, verify=lambda request, settings, now: None)
    state_of(app).hooks["postmark"] = replace(esp, tracking=lenient), settings

    found = about(app, "webhooks", "Postmark tracking")

    assert found.verdict is Verdict.FAILED
    assert "without credentials are accepted" in found.text


def test_the_log_is_silent_during_the_examination(caplog: pytest.LogCaptureFixture) -> None:
    """Rejections are what is being tried."""
    SilentLog().rejected("Postmark", "a reason")

    assert caplog.text == ""


# --- from outside ----------------------------------------------------------------------


def outside(app: Flask, *script: Any) -> list[Finding]:
    """Examine an app whose public address is a scripted server."""
    with scripted(*script) as server:
        return [
            one
            for one in findings(app, server.url)
            if one.check == "public URL" and one.subject == "Postmark tracking"
        ]


NOT_AUTHENTIC = Reply(401, b"Not authentic.\n")


@pytest.mark.parametrize(
    ("script", "verdict", "words"),
    [
        ([NOT_AUTHENTIC], "ok", "A form of 1 MB passes"),
        ([Reply(200)], "failed", "without credentials"),
        ([Reply(401, b"<h1>Login</h1>")], "failed", "HTTP 401, not by the app's route"),
        ([Reply(404)], "failed", "HTTP 404"),
        ([Reply(308, headers={"Location": "https://b.example"})], "failed", "redirects (HTTP 308)"),
        ([NOT_AUTHENTIC, Reply(413)], "failed", "client_max_body_size"),
        ([NOT_AUTHENTIC, Reply(502)], "failed", "HTTP 502"),
        ([Close()], "cannot tell", "From here: 127.0.0.1"),
    ],
)
def test_the_public_address(script: list[Any], verdict: str, words: str) -> None:
    """It is called without credentials only, so that no event reaches the app."""
    (found,) = outside(make(POSTMARK), *script)

    assert found.verdict == verdict
    assert words in found.text


def test_no_credential_goes_to_the_public_address() -> None:
    """It may be mistyped, and somebody else's."""
    with scripted(NOT_AUTHENTIC) as server:
        findings(make(POSTMARK), server.url)

    assert len(server.requests) == 4
    assert not [one for one in server.requests if "authorization" in one.headers]


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://127.0.0.1:9", "Only this machine"), ("http://app.invalid", "in the clear")],
)
def test_an_unfit_public_address(url: str, words: str) -> None:
    """It is called all the same."""
    found = [one for one in findings(make(POSTMARK), url) if one.check == "public URL"]

    assert found[0].verdict is Verdict.WARNING
    assert words in found[0].text
    assert {one.verdict for one in found[1:]} == {Verdict.CANNOT_TELL}


def test_a_fit_public_address_has_no_warning() -> None:
    """Nothing is listening at this one either."""
    found = [one for one in findings(make(POSTMARK), "https://app.invalid") if one.subject]

    assert not [one for one in found if one.check == "public URL" and one.subject[0] == "h"]
