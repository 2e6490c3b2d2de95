"""`flask mailesp ...`: what it prints and how it ends, on real apps over real HTTP."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_postmark import TOKEN, FakePostmark
from flask import Flask
from scripted import Close, Reply, Request, scripted

from flask_mailesp import CancelSend, MailESP, signals
from flask_mailesp.cli import mailesp
from flask_mailesp.exceptions import ConfigurationError

SECRET = "hook:Canary-password-0123456789"
POSTMARK: dict[str, Any] = {
    "MAILESP_ESP": "postmark",
    "MAILESP_POSTMARK_SERVER_TOKEN": TOKEN,
    "MAILESP_POSTMARK_API_URL": "http://127.0.0.1:9",  # nobody listens there
    "MAILESP_WEBHOOK_SECRET": SECRET,
    "MAILESP_SEND_DEFAULTS": {"sender": "shop@example.org"},
}
POSTAL: dict[str, Any] = {
    "MAILESP_ESP": "postal",
    "MAILESP_POSTAL_API_KEY": "canary-key-1",
    "MAILESP_POSTAL_API_URL": "http://127.0.0.1:9",
}


def make(config: dict[str, Any] = POSTMARK, **own: Any) -> Flask:
    app = Flask("shop")
    app.config.update({**config, **own})
    MailESP(app)
    return app


def run(app: Flask, *arguments: str, **options: Any) -> Result:
    """Run a command; whatever it raises but SystemExit fails the test."""
    return app.test_cli_runner().invoke(mailesp, arguments, catch_exceptions=False, **options)


def sentence(result: Result, exit_code: int) -> str:
    """Return the one line that is all of stderr."""
    assert result.exit_code == exit_code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line[7:]


# --- doctor ----------------------------------------------------------------------------


def test_doctor_tells_each_finding_in_a_line() -> None:
    """The verdict comes first; the last line counts what is not as it should be."""
    with scripted(FakePostmark()) as server:
        result = run(make(MAILESP_POSTMARK_API_URL=server.url), "doctor")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert any(line.split()[:2] == ["ok", "credentials"] for line in lines)
    assert any(line.startswith("cannot tell  sender") for line in lines)
    assert lines[-1] == "3 warning, 1 cannot tell"
    assert "\x1b" not in result.stdout


def test_doctor_ends_with_1_if_anything_failed() -> None:
    """What cannot be told is no failure; what failed is."""
    result = run(make(), "doctor")

    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("1 failed, ")


def test_doctor_speaks_json() -> None:
    """For programs, with the same words."""
    with scripted(FakePostmark()) as server:
        result = run(make(MAILESP_POSTMARK_API_URL=server.url), "doctor", "--json")

    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert {"ok", "warning", "cannot tell"} == {one["verdict"] for one in report["findings"]}
    assert set(report["findings"][0]) == {"check", "subject", "verdict", "text"}
    assert "Canary" not in result.output
    assert TOKEN not in result.output


def test_doctor_calls_the_public_address() -> None:
    """From outside, as the ESP would."""
    with scripted(Reply(401, b"Not authentic.\n")) as server:
        result = run(make(), "doctor", "--url", server.url)

    assert "/mail-hooks/postmark/tracking/ is reached." in result.stdout
    assert server.requests[0].target == "/mail-hooks/postmark/tracking/"


def test_doctor_wants_a_real_url() -> None:
    """A mistyped option is not a finding about the app."""
    assert sentence(run(make(), "doctor", "--url", "app.example.com"), 2).startswith("--url must")


def failing_app(error: Exception) -> Callable[[], Flask]:
    def create_app() -> Flask:
        raise error

    return create_app


def run_factory(create_app: Callable[[], Flask], *arguments: str) -> Result:
    """Run a command on an app that the command has to make first."""
    from click.testing import CliRunner
    from flask.cli import ScriptInfo

    info = ScriptInfo(create_app=create_app)
    return CliRunner().invoke(mailesp, arguments, obj=info, catch_exceptions=False)


def test_a_setting_that_keeps_the_app_from_starting_is_a_finding() -> None:
    """The sentence is the one that init_app raised, without its traceback."""
    create_app = failing_app(ConfigurationError("MAILESP_ESP is not set. Set it."))

    result = run_factory(create_app, "doctor", "--json")

    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["check"], finding["verdict"]) == ("configuration", "failed")
    assert finding["text"] == "MAILESP_ESP is not set. Set it."


@pytest.mark.parametrize("command", ["send-test x@example.com", "webhooks url", "doctor"])
def test_an_app_without_mailesp(command: str) -> None:
    """Which call is missing is said."""
    result = run_factory(lambda: Flask("bare"), *command.split())

    assert "mail.init_app(app)" in sentence(result, 1)


def test_an_unusable_setting_is_a_sentence_for_every_command() -> None:
    """No traceback from loading the app."""
    result = run_factory(failing_app(ConfigurationError("MAILESP_ESP is odd.")), "webhooks", "url")

    assert sentence(result, 1) == "MAILESP_ESP is odd."


# --- send-test -------------------------------------------------------------------------


def accept(request: Request) -> Reply:
    """Accept every message, as Postmark does."""
    to = json.loads(request.body)["To"]
    answer = {"To": to, "MessageID": "0a1b", "ErrorCode": 0, "Message": "OK"}
    return Reply(200, json.dumps(answer).encode())


def test_send_test_says_what_became_of_the_message() -> None:
    """Through the configured ESP, with the configured sender."""
    with scripted(accept) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        result = run(app, "send-test", "bea@example.com")

    assert result.exit_code == 0
    assert result.stdout == "sent  bea@example.com  taken, and on its way (id 0a1b)\n"
    sent = json.loads(server.requests[0].body)
    assert (sent["From"], sent["Subject"]) == ("shop@example.org", "Test message from shop")


def test_send_test_takes_a_sender_and_a_mailer() -> None:
    """Both by option."""
    with scripted(accept) as server:
        bulk = {"POSTMARK_API_URL": server.url}
        app = make(MAILESP_MAILERS={"bulk": bulk})
        result = run(
            app, "send-test", "b@example.com", "--from", "me@example.org", "--using", "bulk"
        )

    assert result.exit_code == 0
    assert json.loads(server.requests[0].body)["From"] == "me@example.org"


def test_send_test_speaks_json() -> None:
    """With the outcome and each recipient's status."""
    with scripted(accept) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        result = run(app, "send-test", "bea@example.com", "--json")

    assert json.loads(result.stdout) == {
        "esp": "Postmark",
        "outcome": "accepted",
        "recipients": {"bea@example.com": {"status": "sent", "message_id": "0a1b"}},
        "error": None,
    }


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Reply(401, b'{"ErrorCode": 10, "Message": "Bad token"}'), "failed", "API Tokens"),
        (Reply(422, b'{"ErrorCode": 406, "Message": "Inactive"}'), "rejected", "recipients"),
        (Reply(500, b"<h1>sorry</h1>"), "unknown", "may or may not"),
        (Close(), "unknown", "may or may not"),
    ],
)
def test_send_test_fails_in_a_sentence(answer: Any, status: str, words: str) -> None:
    """The recipient's status is on stdout, the reason on stderr."""
    with scripted(answer) as server:
        result = run(make(MAILESP_POSTMARK_API_URL=server.url), "send-test", "bea@example.com")

    assert words in sentence(result, 1)
    assert result.stdout.startswith(f"{status}  bea@example.com  ")
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["not an address"], "address"),
        (["a@example.com", "--from", "x\ny@example.org"], "sender"),
        (["a@example.com", "--using", "blk"], "no mailer named 'blk'"),
    ],
)
def test_send_test_without_a_request(arguments: list[str], words: str) -> None:
    """What cannot be sent is one sentence, and nothing else."""
    result = run(make(), "send-test", *arguments)

    assert words in sentence(result, 1)
    assert result.stdout == ""


def test_send_test_respects_a_receiver_that_cancels() -> None:
    """The app's own receivers of pre_send run."""
    app = make()

    def cancel(app: Flask, **_: Any) -> None:
        raise CancelSend

    signals.pre_send.connect(cancel, app)

    assert "cancelled" in sentence(run(app, "send-test", "bea@example.com"), 1)


# --- webhooks url ----------------------------------------------------------------------


def test_the_urls_to_paste_are_masked() -> None:
    """A shoulder-proof default; each says where it is pasted."""
    result = run(make(), "webhooks", "url", "--base", "https://app.example.com/")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "Postmark tracking: https://***:***@app.example.com/mail-hooks/postmark/tracking/",
        "    Postmark > your server > each message stream > Webhooks",
        "Postmark inbound: https://***:***@app.example.com/mail-hooks/postmark/inbound/",
        "    Postmark > your server > the inbound stream > Settings > Webhook",
    ]
    assert result.stderr == ""


def test_the_urls_with_credentials_when_asked_for() -> None:
    """Percent-encoded; of several secrets, the first, which is the new one."""
    app = make(MAILESP_WEBHOOK_SECRET=["us:p@ss/word long", "old:one"])

    result = run(app, "webhooks", "url", "--base", "https://a.example", "--show-credentials")

    assert "https://us:p%40ss%2Fword%20long@a.example/mail-hooks/postmark/inbound/" in result.stdout
    assert "old" not in result.stdout


def test_postals_credentials_are_not_decoded() -> None:
    """Postal sends them as they stand in the URL, so that some characters cannot be used."""
    app = make(POSTAL, MAILESP_WEBHOOK_SECRET="us:p@ssword")

    result = run(app, "webhooks", "url", "--base", "https://a.example", "--show-credentials")

    assert "https://us:p@ssword@a.example/mail-hooks/postal/tracking/" in result.stdout
    assert "letters, digits" in result.stdout


def test_urls_without_credentials_where_none_are_configured() -> None:
    """Postal signs; a secret is not required."""
    result = run(make(POSTAL), "webhooks", "url", "--base", "https://a.example", "--json")

    urls = [one["url"] for one in json.loads(result.stdout)]
    assert urls == [
        "https://a.example/mail-hooks/postal/tracking/",
        "https://a.example/mail-hooks/postal/inbound/",
    ]


def test_the_base_comes_from_flasks_own_settings() -> None:
    """SERVER_NAME, PREFERRED_URL_SCHEME, APPLICATION_ROOT and the URL_PREFIX."""
    app = make(
        SERVER_NAME="a.example:8443",
        PREFERRED_URL_SCHEME="https",
        APPLICATION_ROOT="/shop/",
        MAILESP_URL_PREFIX="/hooks",
    )

    result = run(app, "webhooks", "url")

    assert "@a.example:8443/shop/hooks/postmark/tracking/" in result.stdout


def test_without_a_base_there_is_a_placeholder() -> None:
    """And the option is named on stderr."""
    result = run(make(), "webhooks", "url")

    assert "https://***:***@your-app.example/mail-hooks/" in result.stdout
    assert "--base" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize("base", ["app.example.com", "https://u:p@a.example", "https://a/?x"])
def test_a_base_that_is_no_url(base: str) -> None:
    """The option is named; credentials do not belong into it."""
    assert sentence(run(make(), "webhooks", "url", "--base", base), 2).startswith("--base must")


# --- webhooks plan and apply -----------------------------------------------------------

BASE = ("--base", "https://app.example.com")
URL = "https://app.example.com/mail-hooks/postmark/tracking/"
AUTH = {"Username": "hook", "Password": "Canary-password-0123456789"}


@pytest.fixture
def esp() -> FakePostmark:
    return FakePostmark()


@pytest.fixture
def app(esp: FakePostmark) -> Iterator[Flask]:
    with scripted(esp) as server:
        yield make(MAILESP_POSTMARK_API_URL=server.url)


FOREIGN = {"ID": 9, "Url": "https://crm.example.net/pm?key=s3cret", "MessageStream": "outbound"}


def test_a_plan_changes_nothing(app: Flask, esp: FakePostmark) -> None:
    """It shows every stream that sends, and what belongs to others."""
    esp.webhooks = [dict(FOREIGN)]

    result = run(app, "webhooks", "plan", *BASE)

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["create", "message", "stream", "'outbound'", URL, "for", "all", "events"],
        ["foreign", "message", "stream", "'outbound'", "https://crm.example.net/pm?***"],
        ["create", "message", "stream", "'news'", URL, "for", "all", "events"],
        [
            "Postmark:",
            "2",
            "to",
            "change,",
            "0",
            "as",
            "they",
            "should",
            "be,",
            "1",
            "of",
            "others,",
            "left",
            "alone.",
        ],
    ]
    assert esp.changes == []


def test_a_plan_speaks_json(app: Flask, esp: FakePostmark) -> None:
    """Without credentials."""
    result = run(app, "webhooks", "plan", *BASE, "--json")

    (plan,) = json.loads(result.stdout)
    assert (plan["esp"], plan["mailer"], plan["obstacle"]) == ("Postmark", "default", None)
    assert plan["changes"][0] == {
        "action": "create",
        "place": "message stream 'outbound'",
        "url": URL,
        "details": ["for all events"],
    }
    assert "Canary" not in result.output


def test_applying_twice_changes_nothing_the_second_time(app: Flask, esp: FakePostmark) -> None:
    """The first time it creates; foreign webhooks stay as they are both times."""
    esp.webhooks = [dict(FOREIGN)]

    first = run(app, "webhooks", "apply", *BASE, "--yes")
    made = [dict(hook) for hook in esp.webhooks]
    changes = len(esp.changes)
    second = run(app, "webhooks", "apply", *BASE, "--yes")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Postmark, message stream 'news': created." in first.stdout
    assert second.stdout.splitlines()[-1] == "Nothing to do."
    assert (len(esp.changes), changes) == (2, 2)
    assert esp.webhooks == made
    assert esp.webhooks[0] == FOREIGN
    assert [hook["HttpAuth"] for hook in made[1:]] == [AUTH, AUTH]
    assert [hook["MessageStream"] for hook in made[1:]] == ["outbound", "news"]
    assert "Canary" not in first.output


def test_applying_corrects_only_what_is_wrong(app: Flask, esp: FakePostmark) -> None:
    """Our webhook is known by its URL, whatever its credentials."""
    run(app, "webhooks", "apply", *BASE, "--yes")
    esp.webhooks[0]["Triggers"]["Open"] = {"Enabled": False}
    esp.webhooks[1]["HttpAuth"]["Password"] = "old"
    esp.changes.clear()

    result = run(app, "webhooks", "apply", *BASE, "--yes")

    assert "turns on Open" in result.stdout
    assert "other credentials" in result.stdout
    assert esp.changes == [
        ("PUT", "/webhooks/1", {"Triggers": {"Open": {"Enabled": True}}}),
        ("PUT", "/webhooks/2", {"Url": URL, "HttpAuth": AUTH}),
    ]


def test_the_inbound_hook_is_set_up_when_asked_for(app: Flask, esp: FakePostmark) -> None:
    """Its credentials can only be in its URL."""
    esp.streams = {}

    without = run(app, "webhooks", "plan", *BASE)
    first = run(app, "webhooks", "apply", *BASE, "--inbound", "--yes")
    second = run(app, "webhooks", "apply", *BASE, "--inbound", "--yes")

    assert without.stdout == "Postmark: 0 to change, 0 as they should be.\n"
    assert "Postmark, inbound: created." in first.stdout
    assert esp.server["InboundHookUrl"] == (
        f"https://{SECRET}@app.example.com/mail-hooks/postmark/inbound/"
    )
    assert "Nothing to do." in second.stdout
    assert "Canary" not in first.output + second.output


def test_applying_unattended_needs_a_yes(app: Flask, esp: FakePostmark) -> None:
    """A script does not hang on a question."""
    result = run(app, "webhooks", "apply", *BASE)

    assert "--yes" in sentence(result, 1)
    assert esp.changes == []


@pytest.mark.parametrize(("answer", "made"), [("y\n", 2), ("n\n", 0)])
def test_applying_asks_first(flask: Any, esp: FakePostmark, answer: str, made: int) -> None:
    """On a terminal; nothing is changed without consent."""
    with scripted(esp) as server:
        config = POSTMARK | {"MAILESP_POSTMARK_API_URL": server.url}
        done = flask(config, "webhooks", "apply", *BASE, terminal=answer)

    assert "Make these changes?" in done.stdout
    assert len(esp.changes) == made
    assert done.returncode == (0 if made else 1)


def test_one_change_that_fails_does_not_keep_the_others(app: Flask, esp: FakePostmark) -> None:
    """Each failure is told with what to do; the exit code is 1."""
    run(app, "webhooks", "apply", *BASE, "--yes")
    for hook in esp.webhooks:
        hook["Triggers"] = {}
    esp.refuse = {"PUT /webhooks/1": (422, 1364)}

    result = run(app, "webhooks", "apply", *BASE, "--yes")

    assert sentence(result, 1) == "1 of the changes could not be made."
    assert "was not answered with 200: deploy the app" in result.stdout
    assert "Postmark, message stream 'news': updated." in result.stdout
    assert TOKEN not in result.output


def test_an_interrupted_change_is_told(esp: FakePostmark) -> None:
    """The connection breaks while it is being made."""

    def break_off(request: Request) -> Any:
        return Close() if request.method == "POST" else esp(request)

    with scripted(break_off) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        result = run(app, "webhooks", "apply", *BASE, "--yes")

    assert result.exit_code == 1
    assert "gave no answer that can be understood" in result.stdout


def test_an_esp_without_an_api_is_told_with_the_place(app: Flask) -> None:
    """Postal's webhooks are set up by hand."""
    result = run(make(POSTAL), "webhooks", "plan", *BASE)

    assert result.exit_code == 0
    assert "Postal: it has no API for this. Paste the URL at Postal > your mail" in result.stdout


def test_nothing_to_apply_at_an_esp_without_an_api() -> None:
    """It has not been done, so the exit code is 1."""
    result = run(make(POSTAL), "webhooks", "apply", *BASE, "--yes")

    assert sentence(result, 1) == "Nothing can be set up from here."


@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize(
    ("base", "words"),
    [
        ([], "--base https://app.example.com"),
        (["--base", "http://localhost:5000"], "on this machine"),
        (["--base", "ftp://a.example"], "--base must"),
    ],
)
def test_a_plan_needs_a_public_address(command: str, base: list[str], words: str) -> None:
    """The ESP has to reach the app."""
    assert words in sentence(run(make(), "webhooks", command, *base), 2)


def test_a_plan_needs_credentials(esp: FakePostmark) -> None:
    """A webhook without them would be answered with 401."""
    with scripted(esp) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url, MAILESP_WEBHOOK_SECRET=None)

        assert "MAILESP_WEBHOOK_SECRET is not set" in sentence(
            run(app, "webhooks", "plan", *BASE), 1
        )


def test_a_plan_with_a_wrong_token(app: Flask, esp: FakePostmark) -> None:
    """The sentence is the doctor's."""
    esp.refuse = {"GET /message-streams": (401, 10)}

    assert "API Tokens" in sentence(run(app, "webhooks", "plan", *BASE), 1)


# --- matrix ----------------------------------------------------------------------------


def test_the_matrix_is_markdown_in_a_pipe() -> None:
    """As in the documentation."""
    result = run(make(), "matrix")

    names = "Amazon SES | Mailgun | Postal | Postmark | Resend | SendGrid"
    assert result.stdout.startswith(f"| Feature | {names} |\n| --- |")


def test_the_matrix_speaks_json() -> None:
    """By ESP and feature."""
    table = json.loads(run(make(), "matrix", "--json").stdout)

    assert table["Postmark"]["Templates stored at the ESP"] is True
    assert table["Postal"]["Templates stored at the ESP"] is False


# --- the real command ------------------------------------------------------------------

APP = """
from flask import Flask
from flask_mailesp import MailESP

app = Flask(__name__)
app.config.update({config!r})
MailESP(app)
"""


@pytest.fixture
def flask(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``flask`` in a directory with an ``app.py``; the command is found as when installed."""
    entry = tmp_path / "entry" / "mailesp_commands-1.dist-info"
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: mailesp-commands\nVersion: 1\n")
    (entry / "entry_points.txt").write_text(
        "[flask.commands]\nmailesp = flask_mailesp.cli:mailesp\n"
    )
    path = os.pathsep.join([str(entry.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(
        config: dict[str, Any], *arguments: str, terminal: str = ""
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(APP.format(config=config))
        ours, theirs = pty.openpty()
        os.write(ours, terminal.encode())
        try:
            return subprocess.run(
                [sys.executable, "-W", "error", "-m", "flask", "mailesp", *arguments],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": path},
                stdin=theirs if terminal else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(ours)
            os.close(theirs)

    return call


def test_the_command_is_found_by_flask(flask: Any) -> None:
    """As `flask mailesp doctor`, through the package's entry point."""
    with scripted(FakePostmark()) as server:
        done = flask(POSTMARK | {"MAILESP_POSTMARK_API_URL": server.url}, "doctor")

    assert done.returncode == 0, done.stderr
    assert "Postmark accepts the token of its server 'Shop'." in done.stdout
    assert done.stderr == ""


def test_a_misspelt_key_is_no_traceback(flask: Any) -> None:
    """Flask would show one for what init_app raises."""
    done = flask(POSTMARK | {"MAILESP_SEND_DEFAULT": {}}, "send-test", "bea@example.com")

    assert done.returncode == 1
    assert done.stderr == (
        "Error: MAILESP_SEND_DEFAULT is not a setting of Flask-MailESP. Did you mean "
        "MAILESP_SEND_DEFAULTS?\n"
    )


def test_loading_the_commands_costs_little() -> None:
    """Every `flask` command loads them."""
    code = (
        "import sys, flask.cli, flask_mailesp; before = set(sys.modules); "
        "import flask_mailesp.cli; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["flask_mailesp.cli"]


def test_the_simulator_is_set_up_like_postmark() -> None:
    """A second reading of the documentation: what is created there is known again."""
    simulator = pytest.importorskip("flask_mailesp.simulator").Simulator()
    with simulator.running() as server:
        app = make(
            MAILESP_POSTMARK_API_URL=server.url_for("postmark"),
            MAILESP_POSTMARK_SERVER_TOKEN="POSTMARK-SIMULATOR-TOKEN",
        )
        first = run(app, "webhooks", "apply", *BASE, "--yes")
        second = run(app, "webhooks", "apply", *BASE, "--yes")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert first.stdout.count(": created.") == 2
    assert second.stdout.endswith("Nothing to do.\n")
