"""``MAILESP_MAILBOX``: an app in debug whose mail goes to a simulator, with the page in the app."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
from click.testing import CliRunner
from flask import Flask, abort
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_mailesp import MailESP, Message, TrackingEvent, signals
from flask_mailesp.cli import mailesp
from flask_mailesp.config import SHORTEST_TOKEN
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.extension import State
from flask_mailesp.registry import require_esp
from flask_mailesp.simulator import LocalServer, Simulator
from flask_mailesp.simulator.mailbox import routes
from flask_mailesp.simulator.mailbox_guard import SHORTEST_TOKEN as SHORTEST
from flask_mailesp.simulator.mounted import MountedMailbox, address_of
from flask_mailesp.simulator.program import run

TOKEN = "open-sesame-0123456789"
PAGE = "/mail-hooks/_mailbox/"
REAL: dict[str, dict[str, Any]] = {
    "postmark": {"POSTMARK_SERVER_TOKEN": "production-token"},
    "postal": {"POSTAL_API_URL": "https://postal.example.com", "POSTAL_API_KEY": "production-key"},
}
BOTH = pytest.mark.parametrize("esp", ["postmark", "postal"])


class Office:
    """An app, its server, and what its receiver heard."""

    def __init__(self, app: Flask, stack: ExitStack) -> None:
        self.app = app
        self.stack = stack
        self.events: list[TrackingEvent] = []
        self.state: State = app.extensions["mailesp"]
        signals.tracking.connect(self._hear, app)
        if self.state.mailbox is not None:
            self.sim.delay = 0
        self.url = self.serve()

    def serve(self, wsgi: Any = None) -> str:
        server = LocalServer(wsgi or self.app)
        self.stack.callback(server.stop)
        return server.url

    @property
    def mailbox(self) -> MountedMailbox:
        assert self.state.mailbox is not None
        return self.state.mailbox

    @property
    def sim(self) -> Simulator:
        return self.mailbox.simulator

    def _hear(self, _app: Flask, event: TrackingEvent, **_: Any) -> None:
        self.events.append(event)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def send(self, using: str | None = None) -> str:
        message = Message("Hello", "ann@example.net", "Hi", sender="shop@example.org")
        with self.app.app_context():
            return str(MailESP().send(message, using).outcome)


class Open(Protocol):
    def __call__(
        self, esp: str = "postmark", /, *, debug: bool = True, prepared: Any = None, **settings: Any
    ) -> Office: ...


@pytest.fixture
def open_office() -> Iterator[Open]:
    """Make an app with a mailbox, and serve it; settings are those of MAILESP."""
    with ExitStack() as stack:

        def make(
            esp: str = "postmark", /, *, debug: bool = True, prepared: Any = None, **settings: Any
        ) -> Office:
            app = Flask("office")
            app.debug = debug
            app.config["SECRET_KEY"] = "for tests"
            app.config["MAILESP"] = {"ESP": esp, "MAILBOX": True, **settings}
            if prepared:
                prepared(app)
            MailESP(app)
            state: State = app.extensions["mailesp"]
            stack.callback(state.transport.close)
            if state.mailbox is not None:
                stack.callback(state.mailbox.stop)
            return Office(app, stack)

        yield make


# --- where mail goes ---------------------------------------------------------------------


@BOTH
def test_mail_goes_to_the_mailbox_without_any_credential(open_office: Open, esp: str) -> None:
    """What is required has the simulator's values; the page shows the message."""
    office = open_office(esp)

    assert office.send() == "accepted"
    assert [message.subject for message in office.sim.messages] == ["Hello"]
    assert "Hello" in office.get(PAGE).text


@BOTH
def test_real_credentials_and_addresses_are_set_aside(open_office: Open, esp: str) -> None:
    """They neither leave the machine nor reach the simulator."""
    office = open_office(esp, **REAL[esp])

    assert office.send() == "accepted"
    settings = office.state.mailer(None).settings
    assert settings["API_URL"].startswith("http://127.0.0.1:")
    assert not [text for text in settings.secrets() if "production" in text]


def test_every_mailer_sends_to_the_mailbox(open_office: Open) -> None:
    """Also those with settings of their own."""
    mailers = {
        "bulk": {"esp": "postmark", "api_url": "https://elsewhere.example", "server_token": "x"},
        "mine": {"esp": "postal", "postal_api_key": "y", "api_url": "https://p.example"},
    }
    office = open_office(MAILERS=mailers)

    assert [office.send(name) for name in (None, "bulk", "mine")] == ["accepted"] * 3
    assert [message.esp for message in office.sim.messages] == ["postmark", "postmark", "postal"]


def test_the_members_of_a_strategy_send_to_the_mailbox(open_office: Open) -> None:
    """Whoever a message moves on to is on this machine, be it a mailer or just an ESP's name."""
    mailers = {
        "default": {"failover": ["mine", "postal"]},
        "mine": {"esp": "postmark", "api_url": "https://elsewhere.example", "server_token": "x"},
        "mixed": {"round_robin": ["mine", "postal"]},
    }
    office = open_office(MAILERS=mailers, ESP=None, POSTAL_API_URL="https://postal.example.com")
    office.sim.fault(status=401)

    assert [office.send(name) for name in (None, "mixed", "mixed")] == ["accepted"] * 3
    taken = sorted(message.esp for message in office.sim.messages)
    assert taken == ["postal", "postal", "postmark"]


def test_no_proxy_gets_the_mail(open_office: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is for what leaves the machine."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert open_office().send() == "accepted"


def test_a_line_in_the_log_says_so(open_office: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody should wait for mail that stays here, or mistake which of the two happens."""
    with caplog.at_level(logging.WARNING, "flask_mailesp"):
        open_office()
        open_office(debug=False, **REAL["postmark"])

    assert caplog.messages == [
        "Mail goes to the mailbox at /mail-hooks/_mailbox/ of this app; none leaves this machine.",
        "MAILESP_MAILBOX has no effect outside debug: mail goes to the ESP.",
    ]


def test_a_file_is_shared_with_other_processes(open_office: Open, tmp_path: Path) -> None:
    """As with ``flask mailesp simulator --database``."""
    path = tmp_path / "mail.db"
    office = open_office(MAILBOX=str(path))
    office.send()

    other = Simulator(database=path)
    assert [message.subject for message in other.messages] == ["Hello"]
    other.close()


# --- what comes back ---------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("secret", [None, "hook:plain-password", "hook:p@ss/w:rd #1%"])
def test_events_come_back_through_the_real_route(
    open_office: Open, esp: str, secret: str | None
) -> None:
    """Authenticated, with the app's own credentials or random ones; nothing else gets in."""
    office = open_office(esp, WEBHOOK_SECRET=secret)
    office.get("/")  # tells the simulator where the app is
    office.send()
    [delivery] = office.sim.wait(1)

    bare = requests.post(delivery.url, delivery.request_body, timeout=10)
    assert delivery.status == 200
    assert [event.event_type for event in office.events] == ["delivered"]
    assert bare.status_code == 401


@BOTH
def test_a_press_on_a_button_runs_the_apps_receiver(open_office: Open, esp: str) -> None:
    office = open_office(esp)
    office.sim.auto = ()
    office.send()
    [message] = office.sim.messages
    with requests.Session() as visitor:
        page = visitor.get(f"{office.url}{PAGE}messages/{esp}/{message.id}/", timeout=10)
        [token] = set(re.findall(r'name="csrf" value="([^"]+)"', page.text))
        form = {"csrf": token, "event": "bounced", "recipient": "ann@example.net"}
        told = visitor.post(f"{page.url}events", form, timeout=10)

    assert told.status_code == 200
    assert [event.event_type for event in office.events] == ["bounced"]


def test_the_simulator_follows_the_app_to_another_address(open_office: Open) -> None:
    """One that is mounted in another, or was first called by a test client."""
    office = open_office()
    office.app.test_client().get("/")
    mounted = office.serve(DispatcherMiddleware(Flask("outer"), {"/inner": office.app}))
    requests.get(f"{mounted}/inner/", timeout=10)
    office.send()
    [delivery] = office.sim.wait(1)

    assert delivery.url == f"{mounted}/inner/mail-hooks/postmark/tracking/"
    assert delivery.status == 200


def test_a_webhook_tells_nothing_about_the_address(open_office: Open) -> None:
    """`flask mailesp simulate` posts some from a server that is gone a moment later."""
    office = open_office()
    office.get("/")
    requests.post(f"{office.serve()}/mail-hooks/postmark/tracking/", timeout=10)
    office.send()

    assert office.sim.wait(1)[0].url.startswith(office.url)


ENVIRON = {"wsgi.url_scheme": "http", "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "5000"}


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        (ENVIRON | {"HTTP_HOST": "evil.example"}, ("http://127.0.0.1:5000", "")),
        (ENVIRON | {"SERVER_NAME": "0.0.0.0"}, ("http://127.0.0.1:5000", "")),  # noqa: S104
        (ENVIRON | {"SERVER_NAME": "::"}, ("http://[::1]:5000", "")),
        (ENVIRON | {"SCRIPT_NAME": "/shop/"}, ("http://127.0.0.1:5000", "/shop")),
        (
            ENVIRON | {"SERVER_NAME": "app.example", "werkzeug.proxy_fix.orig": ENVIRON},
            ("http://127.0.0.1:5000", ""),
        ),
    ],
)
def test_the_address_is_the_servers_own_word(
    environ: dict[str, Any], address: tuple[str, str]
) -> None:
    """Not the visitor's, nor a proxy's."""
    assert address_of(environ) == address


# --- who sees the page -------------------------------------------------------------------

ROUTES = sorted(
    (method, re.sub(r"<[^>]+>", "1", rule.rule))
    for rule in routes()
    for method in (rule.methods or set()) - {"HEAD"}
)


def statuses(office: Office) -> set[int]:
    client = Client(office.app)
    return {
        client.open(PAGE.rstrip("/") + path, method=method).status_code for method, path in ROUTES
    }


@pytest.mark.parametrize(
    ("debug", "mailbox"), [(False, True), (True, False), (False, False), (True, None)]
)
def test_without_debug_or_not_asked_for_every_path_is_404(
    open_office: Open, debug: bool, mailbox: bool | None
) -> None:
    """A production configuration that still has the setting shows nothing."""
    office = open_office(debug=debug, MAILBOX=mailbox, MAILBOX_TOKEN=TOKEN, **REAL["postmark"])

    assert len(ROUTES) >= 18
    assert office.state.mailbox is None
    assert statuses(office) == {404}
    assert office.get(PAGE.rstrip("/")).status_code == 404


def test_a_path_beside_the_mailbox_is_the_apps(open_office: Open) -> None:
    office = open_office()

    assert office.get("/mail-hooks/_mailboxes").status_code == 404
    assert office.get(PAGE.rstrip("/")).url == office.url + PAGE
    assert open_office(URL_PREFIX="/m").get("/m/_mailbox/").status_code == 200


def test_the_apps_own_protections_are_not_in_the_way(open_office: Open) -> None:
    """Neither its CSRF tokens nor its login wall: the mailbox has its own doors."""

    def protect(app: Flask) -> None:
        CSRFProtect(app)
        app.before_request(lambda: abort(401))

    office = open_office(prepared=protect)
    form = {"to": "app@example.com", "from": "ann@example.net", "text": "Hi", "esp": "postmark"}

    with requests.Session() as visitor:
        page = visitor.get(f"{office.url}{PAGE}compose/", timeout=10)
        [token] = set(re.findall(r'name="csrf" value="([^"]+)"', page.text))
        forged = visitor.post(page.url, form, timeout=10)
        own = visitor.post(page.url, {**form, "csrf": token}, timeout=10)

    assert (page.status_code, forged.status_code, own.status_code) == (200, 403, 200)
    assert office.get("/").status_code == 401


def test_the_apps_headers_do_not_replace_the_mailboxs(open_office: Open) -> None:
    """A policy made for the app's own pages would let a stranger's mail out of its sandbox."""

    def loosen(app: Flask) -> None:
        @app.after_request
        def add(response: Any) -> Any:
            response.headers["Content-Security-Policy"] = "default-src *"
            return response

    office = open_office(prepared=loosen)
    with office.app.app_context():
        MailESP().send(Message("Hi", "a@example.com", html="<p>Hi", sender="b@example.com"))
    [message] = office.sim.messages
    body = office.get(f"{PAGE}messages/postmark/{message.id}/body")

    assert body.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


def test_other_machines_need_the_token(open_office: Open) -> None:
    """Without one in the settings they get nothing at all."""
    away = {"REMOTE_ADDR": "192.0.2.1"}
    key = {"Authorization": f"Bearer {TOKEN}"}
    closed = Client(open_office().app)
    office = Client(open_office(MAILBOX_TOKEN=TOKEN).app)

    assert closed.get(PAGE, environ_base=away).status_code == 403
    assert office.get(PAGE, environ_base=away).status_code == 401
    assert office.get(PAGE, environ_base=away, headers=key).status_code == 200


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "0123456789abcde\n"])
def test_the_program_refuses_a_poor_token(token: str) -> None:
    """``flask mailesp simulator --mailbox-token``: one sentence, exit code 2."""
    arguments = ["simulator", "--port", "0", "--mailbox-token", token]
    result = CliRunner().invoke(mailesp, arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "Error: A mailbox token has at least 16 characters, all of them printable.\n"
    )


def test_the_programs_mailbox_opens_with_its_token() -> None:
    """And it does not print it."""
    lines: list[str] = []
    began, end = threading.Event(), threading.Event()

    def hear(line: str) -> None:
        lines.append(line)
        if "SERVER_TOKEN" in line:
            began.set()

    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "database": None, "auto": False}
    options |= {"esps": ("postmark",), "tracking": {}, "inbound": {}, "time_scale": 1.0}
    options |= {"echo": hear, "until": end, "mailbox_token": TOKEN}
    thread = threading.Thread(target=run, kwargs=options)
    thread.start()
    began.wait(10)
    url = lines[1].removeprefix("Mailbox: ")
    key = {"Authorization": f"Bearer {TOKEN}"}
    answers = [requests.get(url, headers=headers, timeout=10) for headers in ({}, key)]
    end.set()
    thread.join(10)

    assert [answer.status_code for answer in answers] == [401, 200]
    assert TOKEN not in "".join(lines)


def test_a_bad_press_or_a_bad_mail_is_one_sentence(open_office: Open) -> None:
    """An unknown event, a message that is not there, an .eml that is none: nothing is posted."""
    office = open_office()
    office.sim.auto = ()
    office.send()
    [message] = office.sim.messages
    letters = f"{office.url}{PAGE}messages/postmark/"
    with requests.Session() as visitor:
        page = visitor.get(f"{letters}{message.id}/", timeout=10)
        [token] = set(re.findall(r'name="csrf" value="([^"]+)"', page.text))
        form = {"csrf": token, "recipient": "ann@example.net", "event": "exploded"}
        head = {"X-Requested-With": "mailbox"}
        press = visitor.post(f"{page.url}events", form, headers=head, timeout=10)
        gone = visitor.post(f"{letters}no-such-id/events", form, headers=head, timeout=10)
        file = {"eml": ("notes.eml", b"only some notes")}
        data = {"csrf": token, "esp": "postmark"}
        mail = visitor.post(f"{office.url}{PAGE}compose/", data, files=file, timeout=10)

    assert (press.status_code, gone.status_code, mail.status_code) == (409, 404, 422)
    assert "Nothing was sent:" in press.json()["sentence"]
    assert gone.json()["sentence"].startswith("There is no such message")
    assert "This file is not a mail" in mail.text
    assert office.sim.deliveries == []


# --- what is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MAILBOX": 3}, 'MAILESP["MAILBOX"] must be True, False or the path of a file.'),
        ({"MAILBOX": " "}, 'MAILESP["MAILBOX"] must be True, False or the path of a file.'),
        ({"MAILBOX_TOKEN": "short"}, 'MAILESP["MAILBOX_TOKEN"] must have at least 16 characters.'),
        ({"MAILBOX_TOKEN": "an open sesame!!"}, "characters that no credential has"),
        ({"UNKNOWN_KEY": 1}, "is not a setting"),
        ({"SEND_DEFAULTS": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_what_is_wrong_is_told_and_leaves_nothing_running(
    open_office: Open, settings: dict[str, Any], words: str
) -> None:
    before = threading.active_count()

    with pytest.raises(ConfigurationError, match=re.escape(words)) as raised:
        open_office(**settings)

    assert str(settings.get("MAILBOX_TOKEN", "\0")) not in str(raised.value)
    assert threading.active_count() == before


def test_a_file_that_is_not_ours_is_left_alone(open_office: Open, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes.\n" * 100)

    with pytest.raises(ConfigurationError, match=r"MAILESP_MAILBOX cannot be used: .*notes\.txt"):
        open_office(MAILBOX=str(path))
    assert path.read_text().startswith("These are my notes.")


def test_an_esp_that_is_not_simulated(open_office: Open) -> None:
    """Its mail would leave the machine: that is not what was asked for."""
    from dataclasses import fields

    postmark = require_esp("postmark", "ESP")
    values = {item.name: getattr(postmark, item.name) for item in fields(postmark)}
    stranger = type(postmark)(**values | {"name": "Pigeon"})

    with pytest.raises(ConfigurationError, match=r"MAILESP_MAILBOX cannot be used with Pigeon"):
        open_office(stranger)  # type: ignore[arg-type]


def test_both_ask_for_the_same_length() -> None:
    """The settings are checked before the simulator is imported."""
    assert SHORTEST_TOKEN == SHORTEST


# --- as a developer runs it --------------------------------------------------------------

APP = """
from flask import Flask
from flask_mailesp import MailESP, Message
app = Flask(__name__)
app.config["MAILESP"] = {"ESP": "postmark", "MAILBOX": True}
mail = MailESP(app)

@app.get("/send")
def send():
    return mail.send(Message("Hello", "a@example.com", "Hi", sender="b@example.com")).outcome
"""


@pytest.mark.parametrize("reload", ["--reload", "--no-reload"])
def test_flask_run_with_and_without_the_reloader(tmp_path: Path, reload: str) -> None:
    """The reloader runs the app in two processes: each has a mailbox, and closes it at Ctrl-C."""
    (tmp_path / "shop.py").write_text(APP)
    command = [sys.executable, "-W", "default::ResourceWarning", "-m", "flask", "--app", "shop"]
    command += ["--debug", "run", "--port", "0", reload]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        try:
            url = address_in(iter(process.stderr.readline, ""))
            sent = requests.get(f"{url}/send", timeout=20).text
            page = requests.get(url + PAGE, timeout=20).text
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            rest = process.stderr.read()
        process.wait(20)

    assert sent == "accepted"
    assert "Hello" in page
    assert "unclosed database" not in rest


def address_in(lines: Iterator[str]) -> str:
    """Return the address that the development server prints."""
    for line in lines:
        found = re.search(r"Running on (http://\S+)", line)
        if found:
            return found[1]
    raise AssertionError("the server did not start")
