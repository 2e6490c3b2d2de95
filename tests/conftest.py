"""Fixtures that several test files share."""

from __future__ import annotations

import _thread
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from flask import Flask

from flask_mailesp import MailESP

# What a script starts in the background ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One working configuration for each ESP, but for the API_URL.
CREDENTIALS: dict[str, dict[str, Any]] = {
    "amazon_ses": {
        "MAILESP_ESP": "amazon_ses",
        "MAILESP_AMAZON_SES_REGION": "eu-west-1",
        "MAILESP_AMAZON_SES_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "MAILESP_AMAZON_SES_SECRET_ACCESS_KEY": "key",
    },
    "mailgun": {"MAILESP_ESP": "mailgun", "MAILESP_MAILGUN_API_KEY": "key"},
    "postal": {
        "MAILESP_ESP": "postal",
        "MAILESP_POSTAL_API_KEY": "key",
        "MAILESP_POSTAL_API_URL": "https://postal.example.com",
    },
    "postmark": {"MAILESP_ESP": "postmark", "MAILESP_POSTMARK_SERVER_TOKEN": "token"},
    "resend": {"MAILESP_ESP": "resend", "MAILESP_RESEND_API_KEY": "key"},
    "sendgrid": {"MAILESP_ESP": "sendgrid", "MAILESP_SENDGRID_API_KEY": "key"},
}


class MakeApp(Protocol):
    """Makes an app in testing mode from configuration keys, and sets up MailESP for it."""

    def __call__(self, mail: MailESP | None = None, /, **config: Any) -> Flask: ...


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Make apps whose connections are closed when the test ends."""
    apps: list[Flask] = []

    def make(mail: MailESP | None = None, /, **config: Any) -> Flask:
        app = Flask("tests", root_path=".")
        app.config.update({"TESTING": True, **config})
        (mail or MailESP()).init_app(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["mailesp"].transport.close()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """Return an app that sends through Postmark, with a default sender."""
    return make_app(**CREDENTIALS["postmark"], MAILESP_SEND_DEFAULTS={"sender": "from@example.com"})


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Give a function that interrupts the main thread, whichever thread calls it.

    A process that was started in the background ignores Ctrl-C, so the handler is set here.
    Hypothesis has code run at each garbage collection, in which an exception comes to nothing:
    there is none meanwhile. Coverage takes a lock wherever it looks, and an exception in there
    leaves it taken: where it looks on, this is left to the runs without it.
    """
    coverage = sys.modules.get("coverage")
    if coverage is not None and coverage.Coverage.current() is not None:
        pytest.skip("An interrupt within the measuring of coverage would leave its lock taken.")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    try:
        yield _thread.interrupt_main
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
