"""The plugin in other people's test runs: fixtures, failures, and the guard."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flask_mailesp import transport
from flask_mailesp.pytest_plugin import Guard

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PLUGIN = "flask_mailesp.pytest_plugin"

APP = """
from flask import Flask
from flask_mailesp import MailESP, Message

mail = MailESP()

def create_app(**config):
    app = Flask(__name__)
    app.config.update(
        MAILESP_ESP="postmark",
        MAILESP_POSTMARK_SERVER_TOKEN="token",
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        **config,
    )
    mail.init_app(app)

    @app.post("/order/<name>")
    def order(name):
        mail.send(Message(f"Order {name}", to="you@example.com", body="Code: 123456"))
        return "OK"

    return app
"""

# Never resolved (RFC 6761 section 6.4): where the guard lets it pass, the connection fails.
ELSEWHERE = {"MAILESP_POSTMARK_API_URL": "https://api.esp.invalid"}


@pytest.fixture(autouse=True)
def shop(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another project, whose app is in shop.py, and whose warnings are errors."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others import what they like
    monkeypatch.delitem(sys.modules, PLUGIN)  # each run imports it, to rewrite its asserts
    pytester.makepyfile(shop=APP)
    pytester.syspathinsert()


def run(pytester: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    """Run tests in this process, where a run takes no second."""
    pytester.makepyfile(tests)
    return pytester.runpytest_inprocess("-p", PLUGIN, "-W", "error", *args)


def run_apart(pytester: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    """Run tests in a process in which nothing of the package has been imported."""
    pytester.makepyfile(tests)
    return pytester.runpytest_subprocess("-p", PLUGIN, "-W", "error", *args)


# --- fixtures --------------------------------------------------------------------------

FIXTURES = """
import pytest
from flask_mailesp import signals
from shop import Message, create_app, mail

@pytest.fixture
def app():
    return create_app()

@pytest.fixture
def client(app):
    return app.test_client()

@pytest.fixture
def events(app):
    told = []
    def receive(app, event, esp_name):
        told.append(event)
    with signals.tracking.connected_to(receive), signals.inbound.connected_to(receive):
        yield told

def test_the_outbox_has_what_a_view_sends(client, mailesp_outbox):
    assert client.post("/order/1").text == "OK"

    message = mailesp_outbox.one(to="you@example.com", subject="Order 1")
    assert message.codes == ("123456",)
    assert message.payload["TextBody"] == "Code: 123456"

def test_each_test_has_an_outbox_of_its_own(client, mailesp_outbox):
    client.post("/order/2")
    assert len(mailesp_outbox) == 1

def test_webhooks_run_the_apps_receivers(client, events, mailesp_outbox, mailesp_simulate):
    client.post("/order/3")

    assert mailesp_simulate(mailesp_outbox[0], "bounced") == 200
    assert mailesp_simulate(mailesp_outbox[0].message_id, "opened") == 200

    assert [event.event_type for event in events] == ["bounced", "opened"]

def test_inbound_mail_runs_the_apps_receivers(events, mailesp_receive):
    assert mailesp_receive(from_="ann@example.com", subject="Help", text="...") == 200

    assert [event.message.subject for event in events] == ["Help"]

def test_inbound_mail_can_be_given_whole_and_to_another_app(events, mailesp_receive):
    other = create_app()
    source = b"From: ann@example.com\\nTo: help@example.org\\nSubject: Whole\\n\\nHi"

    assert mailesp_receive(source, app=other, to="me@example.org") == 200

    assert events[0].message.envelope_recipient == "me@example.org"

def test_the_active_app_comes_first(app, mailesp_receive, events):
    other, apps = create_app(), []
    def receive(app, event, esp_name):
        apps.append(app)
    with signals.inbound.connected_to(receive), other.app_context():
        mailesp_receive()
    assert apps == [other]
"""


def test_the_fixtures_work(pytester: pytest.Pytester) -> None:
    """In a project that makes its app in a fixture, as Flask's documentation advises."""
    run(pytester, FIXTURES).assert_outcomes(passed=FIXTURES.count("def test_"))


NO_APP_FIXTURE = """
import pytest
from flask import Flask
from shop import Message, create_app, mail

def test_the_only_app_seen_is_meant(mailesp_receive):
    with create_app().app_context():
        pass
    assert mailesp_receive() == 200

def test_or_it_must_be_named(mailesp_receive):
    with pytest.raises(RuntimeError, match="Which app is meant"):
        mailesp_receive()

@pytest.mark.parametrize("app", [Flask("no mail"), object()])
def test_an_app_without_a_mailesp_is_not_meant(app, mailesp_receive):
    with pytest.raises(RuntimeError, match="Which app is meant"):
        mailesp_receive()
"""


def test_a_fixture_named_app_is_not_needed(pytester: pytest.Pytester) -> None:
    run(pytester, NO_APP_FIXTURE).assert_outcomes(passed=4)


@pytest.mark.parametrize("testing", ["before", "after", "never"])
def test_testing_makes_no_difference(pytester: pytest.Pytester, testing: str) -> None:
    """The outbox works whenever TESTING is set, and the first import of all is in the test."""
    tests = f"""
        def test_it(mailesp_outbox):
            from shop import create_app
            app = create_app(TESTING={testing == "before"})
            app.testing = {testing != "never"}
            app.test_client().post("/order/1")
            assert mailesp_outbox.one(subject="Order 1")
    """
    run(pytester, tests).assert_outcomes(passed=1)


def test_a_message_that_is_missed_is_explained(pytester: pytest.Pytester) -> None:
    """The failure shows the test's own line, and what was sent instead."""
    tests = """
        from shop import create_app

        def test_it(mailesp_outbox):
            create_app().test_client().post("/order/1")
            mailesp_outbox.one(to="bea@example.com", subject="Order 2")
    """
    result = run(pytester, tests)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>*mailesp_outbox.one(to="bea@example.com", subject="Order 2")',
            "E*AssertionError: No message matches to='bea@example.com', subject='Order 2'.",
            "E*1 sent:",
            "E*1. <'Order 1' to you@example.com (Postmark, accepted)>",
        ]
    )
    result.stdout.no_fnmatch_line("*def one(self*")


# --- the guard -------------------------------------------------------------------------

SENDS = f"""
    from shop import create_app

    def test_it():
        create_app(**{ELSEWHERE}).test_client().post("/order/1")
"""


def test_a_test_that_would_send_fails(pytester: pytest.Pytester) -> None:
    """With one sentence: where to, what to use, and how to allow it."""
    result = run(pytester, SENDS)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "This test would have sent mail through api.esp.invalid: use the fixture "
            "mailesp_outbox, or mark the test with @pytest.mark.mailesp_network if that is "
            "what you want."
        ]
    )


LATE = f"""
    def test_it():
        from shop import create_app
        create_app(**{ELSEWHERE}).test_client().post("/order/1")

    def test_again():
        from shop import create_app
        create_app(**{ELSEWHERE}).test_client().post("/order/1")
"""


def test_the_guard_is_there_however_late_the_package_is_imported(
    pytester: pytest.Pytester,
) -> None:
    result = run_apart(pytester, LATE)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["This test would have sent mail through api.esp.invalid*"])


SWALLOWED = f"""
    import threading
    import pytest
    from shop import Message, create_app, mail

    @pytest.fixture
    def app():
        app = create_app(**{ELSEWHERE})
        with app.app_context():
            yield app

    def send():
        try:
            mail.send(Message("Hello", to="you@example.com", body="Hi"))
        except BaseException:
            pass

    def test_in_a_clause_that_swallows_everything(app):
        send()
        send()

    def test_in_a_thread(app):
        def work():
            with app.app_context():
                send()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def test_in_worker_threads(app):
        list(mail.send_many([Message("Hello", to="you@example.com", body="Hi")]))

    @pytest.fixture
    def sends_in_the_end(app):
        yield
        send()

    def test_in_the_teardown_of_a_fixture(sends_in_the_end):
        pass

    @pytest.fixture
    def sends(app):
        send()

    def test_in_the_setup_of_a_fixture(sends):
        pass

    def test_of_something_else(app):
        assert mail
"""


def test_the_failure_is_not_swallowed(pytester: pytest.Pytester) -> None:
    """Nor told twice, nor in the next test."""
    result = run(pytester, SWALLOWED)

    result.assert_outcomes(failed=3, passed=2, errors=2)


ALLOWED = f"""
    import pytest
    from flask_mailesp.exceptions import NotSentError
    from shop import Message, create_app, mail

    @pytest.fixture
    def app():
        with create_app(**{ELSEWHERE}).app_context():
            yield

    @pytest.mark.mailesp_network
    def test_marked(app):
        with pytest.raises(NotSentError):
            mail.send(Message("Hello", to="you@example.com", body="Hi"))

    def test_not_marked(app):
        with pytest.raises(NotSentError):
            mail.send(Message("Hello", to="you@example.com", body="Hi"))
"""


def test_a_marked_test_may_send(pytester: pytest.Pytester) -> None:
    """And only that one. The marker is a known one."""
    run(pytester, ALLOWED, "--strict-markers").assert_outcomes(passed=1, failed=1)


def test_an_option_allows_all_tests_to_send(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmailesp_allow_network = true\n")

    run(pytester, ALLOWED, "--strict-config").assert_outcomes(passed=2)


LOCAL = """
    import pytest
    from flask_mailesp.simulator import Simulator
    from shop import Message, create_app, mail

    @pytest.fixture
    def sim():
        return Simulator(postmark_tokens={"token"}, auto=())

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_this_machine(sim, host):
        with sim.running() as server:
            url = server.url_for("postmark").replace("127.0.0.1", host)
            app = create_app(MAILESP_POSTMARK_API_URL=url)
            app.test_client().post("/order/1")
            app.extensions["mailesp"].transport.close()
        assert [message.subject for message in sim.messages] == ["Order 1"]
"""


def test_this_machine_is_always_allowed(pytester: pytest.Pytester) -> None:
    """A simulator that is run for all tests, a scripted server."""
    run(pytester, LOCAL).assert_outcomes(passed=2)


STAND_IN = f"""
    from requests import Response
    from requests.adapters import HTTPAdapter
    from shop import create_app

    def test_it(monkeypatch):
        def send(self, request, **options):
            response = Response()
            response.status_code = 200
            response._content = b'{{"MessageID": "1", "ErrorCode": 0, "Message": "OK"}}'
            return response
        monkeypatch.setattr(HTTPAdapter, "send", send)

        app = create_app(**{ELSEWHERE})
        assert app.test_client().post("/order/1").text == "OK"
"""


def test_what_stands_in_for_requests_is_let_be(pytester: pytest.Pytester) -> None:
    """Tools that answer in the place of requests' adapter reach nobody."""
    run(pytester, STAND_IN).assert_outcomes(passed=1)


def test_a_recorded_test_is_guarded_again_afterwards(pytester: pytest.Pytester) -> None:
    tests = f"""
        from shop import create_app

        def test_recorded(mailesp_outbox):
            create_app(**{ELSEWHERE}).test_client().post("/order/1")

        def test_not_recorded():
            create_app(**{ELSEWHERE}).test_client().post("/order/1")
    """
    run(pytester, tests).assert_outcomes(passed=1, failed=1)


# --- its weight ------------------------------------------------------------------------


def test_a_run_that_does_not_use_it_imports_nothing(pytester: pytest.Pytester) -> None:
    """Neither the package nor Flask; and it leaves the import machinery as it was."""
    pytester.makeconftest(
        """
        import sys

        def pytest_sessionfinish():
            ours = {name for name in sys.modules if name.startswith("flask_mailesp")}
            light = {"flask_mailesp", "flask_mailesp._version", "flask_mailesp.pytest_plugin"}
            assert ours == light
            assert not {"flask", "requests", "werkzeug"} & set(sys.modules)
        """
    )
    result = run_apart(pytester, "def test_nothing(): pass")

    result.assert_outcomes(passed=1)
    assert result.ret == 0


# --- its traces ------------------------------------------------------------------------


def is_watched(module: ModuleType) -> bool:
    connect = module._Adapter.get_connection_with_tls_context
    return bool(connect.__module__ == PLUGIN)


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport seems not to have been imported yet."""
    monkeypatch.setattr("flask_mailesp.transport", transport)  # to be put back
    monkeypatch.delitem(sys.modules, "flask_mailesp.transport")


def test_the_watch_ends_with_the_run() -> None:
    before = transport._Adapter.get_connection_with_tls_context
    guard = Guard(allowed=False)

    guard.install()
    assert is_watched(transport)
    guard.remove()

    assert transport._Adapter.get_connection_with_tls_context is before


@pytest.mark.usefixtures("not_imported")
def test_an_import_is_watched_and_leaves_no_trace() -> None:
    """The module's own loader is found in it, by those who look for its source."""
    before = list(sys.meta_path)
    guard = Guard(allowed=False)
    guard.install()

    module = importlib.import_module("flask_mailesp.transport")

    assert sys.meta_path == before
    assert is_watched(module)
    assert module.__spec__ is not None
    assert type(module.__spec__.loader) is type(module.__loader__) is type(transport.__loader__)
    assert "class Transport" in inspect.getsource(module)
    guard.remove()
    assert not is_watched(module)


@pytest.mark.usefixtures("not_imported")
def test_a_watch_that_saw_no_import_ends_too() -> None:
    before = list(sys.meta_path)
    guard = Guard(allowed=False)

    guard.install()
    importlib.import_module("flask_mailesp.esps.postal")
    assert sys.meta_path[1:] == before
    guard.remove()
    guard.remove()

    assert sys.meta_path == before


# --- the documentation -----------------------------------------------------------------


def test_the_documentations_examples_pass(pytester: pytest.Pytester) -> None:
    """What docs/testing.md shows for pytest, and for those who do without."""
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    example, simulator, without = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.M)
    pytester.makepyfile(shop=example, test_without=without, test_simulator=FIXTURE + simulator)

    result = run(pytester, example)

    result.assert_outcomes(passed=(example + simulator + without).count("def test_"))


FIXTURE = """
import pytest
from shop import create_app

@pytest.fixture
def app():
    return create_app()

"""
