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
from flask_mailesp.exceptions import MailESPError
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

    def copies(self) -> Counter[str]:
        """Count what was really accepted, by recipient."""
        taken = [message for simulator in self.simulators for message in simulator.messages]
        return Counter(address for message in taken for address in message.recipients)


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    one, two = Simulator(auto=()), Simulator(auto=())
    with one.running() as first, two.running() as second:
        apps = {
            name: make_app(first.url, second.url, mailers) for name, mailers in SETTINGS.items()
        }
        yield Providers((one, two), apps)
        for app in apps.values():
            app.extensions["mailesp"].transport.close()


def make_app(one: str, two: str, mailers: dict[str, Any]) -> Flask:
    app = Flask("promises")
    app.config.update(
        MAILESP_POSTMARK_SERVER_TOKEN="POSTMARK-SIMULATOR-TOKEN",
        MAILESP_POSTMARK_API_URL=f"{one}/postmark",
        MAILESP_POSTAL_API_KEY="PostalSimulatorKey000001",
        MAILESP_POSTAL_API_URL=f"{two}/postal",
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        MAILESP_MAILERS=mailers,
    )
    MailESP(app)
    return app


SCRIPTS = st.lists(st.lists(st.sampled_from(FAULTS), max_size=4), min_size=2, max_size=2)


@pytest.mark.parametrize("on", SETTINGS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
