"""Whatever two simulated providers do: no copy too many, one outcome each, and none made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_mailesp import MailESP, Message
from flask_mailesp.delivery import Mailer
from flask_mailesp.exceptions import MailESPError
from flask_mailesp.records import replace
from flask_mailesp.results import Outcome, SendResult, Status
from flask_mailesp.simulator import Simulator

FAULTS: list[dict[str, Any]] = [
    {"drop": "before"},
    {"drop": "after"},
    {"reset": "after"},
    {"status": 429},
    {"status": 429, "retry_after": "0"},
    {"status": 401},
    {"status": 422},
    {"status": 500},
    {"status": 503},
    {"answer": "garbage"},
    {"answer": "truncated"},
]
RETRIES = {"attempts": 3, "first_pause": 0.0}
BREAKER = {"failures": 2, "seconds": 0.0}
# Named after what the user has turned on.
SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {"default": {"esp": "postmark"}},
    "retries": {"default": {"esp": "postal", "retries": RETRIES}},
    "failover": {"default": {"failover": ["postmark", "postal"], "breaker": BREAKER}},
    "failover with retries": {
        "default": {"failover": ["one", "two"], "breaker": BREAKER},
        "one": {"esp": "postal", "retries": RETRIES},
        "two": {"esp": "postmark", "retries": RETRIES},
    },
    "round robin": {"default": {"round_robin": ["postmark", "postal"], "breaker": BREAKER}},
    "retries with keys": {"default": {"esp": "resend", "retries": RETRIES}},
    "failover from keys to forms": {
        "default": {"failover": ["one", "mailgun"], "breaker": BREAKER},
        "one": {"esp": "resend", "retries": RETRIES},
    },
}


@dataclass
class Providers:
    """Two providers behind one app for each of the settings."""

    simulators: tuple[Simulator, Simulator]
    apps: dict[str, Flask]

    def script(self, faults: list[list[dict[str, Any]]]) -> None:
        """Forget everything, and have the next requests go wrong like this."""
        for simulator, script in zip(self.simulators, faults, strict=True):
            simulator.clear()
            for fault in script:
                simulator.fault(**fault)
        for app in self.apps.values():
            for mailer in app.extensions["mailesp"].mailers.values():
                mailer.limit.passed()

    def copies(self) -> Counter[str]:
        """Count what was really accepted, by recipient."""
        taken = [message for simulator in self.simulators for message in simulator.messages]
        return Counter(address for message in taken for address in message.recipients)


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    one, two = Simulator(auto=()), Simulator(auto=())
    with one.running() as first, two.running() as second:
        at = {
            "postmark": (one, first),
            "resend": (one, first),
            "postal": (two, second),
            "mailgun": (two, second),
        }
        reached = {
            f"{esp.upper()}_{name}": value
            for esp, (simulator, server) in at.items()
            for name, value in simulator.settings(esp, server.url_for(esp)).items()
        }
        apps = {name: make_app(reached, mailers) for name, mailers in SETTINGS.items()}
        yield Providers((one, two), apps)
        for app in apps.values():
            app.extensions["mailesp"].transport.close()


def make_app(reached: dict[str, Any], mailers: dict[str, Any]) -> Flask:
    app = Flask("promises")
    defaults = {"sender": "shop@example.org"}
    app.config["MAILESP"] = {**reached, "SEND_DEFAULTS": defaults, "MAILERS": mailers}
    MailESP(app)
    state = app.extensions["mailesp"]
    state.mailers = {name: restless(mailer) for name, mailer in state.mailers.items()}
    return app


def restless(mailer: Mailer) -> Mailer:
    """Return a mailer that takes no time where this one pauses."""
    strategy = mailer.strategy and mailer.strategy.with_members(
        lambda member: replace(member, mailer=restless(member.mailer))
    )
    retries = replace(mailer.retries, sleep=lambda _: None)
    return replace(mailer, retries=retries, strategy=strategy)


SCRIPTS = st.lists(st.lists(st.sampled_from(FAULTS), max_size=4), min_size=2, max_size=2)


@pytest.mark.parametrize("on", SETTINGS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(faults=SCRIPTS, count=st.integers(1, 4), many=st.booleans())
def test_no_copy_too_many_one_outcome_each_and_none_made_up(
    providers: Providers, on: str, faults: list[list[dict[str, Any]]], count: int, many: bool
) -> None:
    """By send() and send_many(), whatever is turned on."""
    providers.script(faults)
    messages = [
        Message("Hi", [f"a{number}@example.com", f"b{number}@example.com"], "Text")
        for number in range(count)
    ]
    with providers.apps[on].app_context():
        mail = MailESP()
        results = list(mail.send_many(messages)) if many else [sent(mail, m) for m in messages]
    assert len(results) == count
    copies = providers.copies()
    for number, result in enumerate(results):
        check(result, [f"a{number}@example.com", f"b{number}@example.com"], copies)


def sent(mail: MailESP, message: Message) -> SendResult:
    try:
        return mail.send(message)
    except MailESPError as error:
        return error.result  # type: ignore[return-value]  # it has one after a request


def check(result: SendResult, people: list[str], copies: Counter[str]) -> None:
    assert isinstance(result.outcome, Outcome)
    assert (result.error is None) is (result.outcome in (Outcome.ACCEPTED, Outcome.PARTIAL))
    for name in people:
        assert copies[name] <= 1
        # A message that was never tried has no recipients to tell of.
        status = result.recipients[name].status if result.recipients else Status.FAILED
        if status in (Status.QUEUED, Status.SENT):
            assert copies[name] == 1
        elif status is not Status.UNKNOWN:
            assert copies[name] == 0
