"""The simulator as a program: what it says, what it does, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flask_mailesp.simulator.program import run
from flask_mailesp.simulator.side import names

from .conftest import POSTMARK_TOKEN, Application

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}
DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "database": None,
    "esps": (),
    "tracking": {},
    "inbound": {},
    "time_scale": 1.0,
    "auto": True,
}


class Running:
    """A program in a thread; ``lines`` is what it said so far."""

    def __init__(self, **options: Any) -> None:
        self.lines: list[str] = []
        self.code: int | None = None
        self._options = options
        self._said = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.code = run(**DEFAULTS | self._options, echo=self._hear, until=self._end)
        self._said.set()

    def _hear(self, line: str) -> None:
        self.lines.append(line)
        if "WEBHOOK_KEY" in line or "SERVER_TOKEN" in line:
            self._said.set()

    @property
    def settings(self) -> dict[str, str]:
        self._said.wait(10)
        pairs = (line.split("=", 1) for line in self.lines if line.startswith("  "))
        return {name.strip(): value for name, value in pairs}

    def end(self) -> int | None:
        self._end.set()
        self._thread.join(10)
        return self.code


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start_one(**options: Any) -> Running:
        running.append(Running(**options))
        return running[-1]

    yield start_one
    for one in running:
        one.end()


def fails(**options: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    return run(**DEFAULTS | options, echo=said.append), said


def test_what_it_prints_is_what_works(
    start: Callable[..., Running], application: Application
) -> None:
    program = start(esps=("postmark",), tracking={"postmark": application.hook("/t")})
    url = program.settings["FLASK_MAILESP_POSTMARK_API_URL"]
    token = program.settings["FLASK_MAILESP_POSTMARK_SERVER_TOKEN"]

    answer = requests.post(
        f"{url}/email",
        json=MESSAGE,
        headers={"Accept": "application/json", "X-Postmark-Server-Token": token},
        timeout=10,
    )

    assert answer.json()["Message"] == "OK"
    assert program.end() == 0


def test_it_has_a_mailbox(start: Callable[..., Running]) -> None:
    program = start(esps=("postmark",))
    url = program.settings["FLASK_MAILESP_POSTMARK_API_URL"].removesuffix("postmark")

    assert f"Mailbox: {url}_mailbox/" in program.lines
    assert requests.get(url, timeout=10).url.startswith(f"{url}_mailbox")


def test_it_remembers_in_a_file(start: Callable[..., Running], tmp_path: Path) -> None:
    """And Postal's key stays the same from one start to the next."""
    path = str(tmp_path / "mail.db")
    keys = []
    for _ in range(2):
        program = start(database=path, esps=("postal",), auto=False)
        keys.append(program.settings["FLASK_MAILESP_POSTAL_WEBHOOK_KEY"])
        program.end()

    assert keys[0] == keys[1]
    assert len(keys[0]) > 300


def test_a_public_address_is_warned_of(start: Callable[..., Running]) -> None:
    program = start(host="0.0.0.0", esps=("postmark",))  # noqa: S104

    assert program.settings
    assert any(line.startswith("Whoever reaches this address") for line in program.lines)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6(start: Callable[..., Running]) -> None:
    program = start(host="::1", esps=("postmark",))

    url = program.settings.get("FLASK_MAILESP_POSTMARK_API_URL")
    if url is None:
        pytest.skip("::1 cannot be listened on here")
    assert url.startswith("http://[::1]:")
    assert requests.get(f"{url}/server", timeout=10).status_code == 415


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = fails(port=port)

    assert code == 1
    assert said == [f"The simulator cannot listen on 127.0.0.1:{port}: Address already in use."]


def test_a_file_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_text("Dear diary, today I wrote a letter.\n" * 40)

    code, (said,) = fails(database=str(path))

    assert code == 1
    assert said.startswith(f"{path} is not a mailbox database of the simulator")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"esps": ("pigeon",)}, f"The simulator speaks {', '.join(names())}, not 'pigeon'."),
        ({"port": 70000}, "A port is a number from 0 to 65535, not 70000."),
        (
            {"esps": ("postal",), "tracking": {"postmark": "http://127.0.0.1/"}},
            "There is a tracking URL for 'postmark', which is not simulated.",
        ),
        (
            {"inbound": {"postal": "127.0.0.1"}},
            "The inbound URL of postal is not an http:// or https:// URL.",
        ),
        (
            {"inbound": {"postal": "http://127.0.0.1:99999/"}},
            "The inbound URL of postal is not an http:// or https:// URL.",
        ),
        ({"time_scale": -1.0}, "the time scale is a number from 0 on, not -1.0."),
    ],
)
def test_a_wrong_argument_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    assert fails(**options) == (2, [sentence])


@pytest.mark.parametrize("host", ["no such host", "x" * 300])
def test_a_host_that_is_none_is_one_sentence(host: str) -> None:
    code, (said,) = fails(host=host)

    assert code == 1
    assert said.startswith("The simulator cannot listen on ")


PROGRAM = """
import sys
from flask_mailesp.simulator.program import run

options = dict(host="127.0.0.1", port=0, database=sys.argv[1], esps=("postmark",), tracking={},
               inbound={}, time_scale=1.0, auto=True)
sys.exit(run(**options, echo=lambda line: print(line, flush=True)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_well(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, nothing on stderr, and the file is complete: no WAL is left behind."""
    path = tmp_path / "mail.db"
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        for line in program.stdout:
            if "API_URL=" in line:
                url = line.strip().split("=", 1)[1]
            if "SERVER_TOKEN=" in line:
                break
        headers = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}
        requests.post(f"{url}/email", json=MESSAGE, headers=headers, timeout=10)
        program.send_signal(number)

        assert (program.stderr.read(), program.wait(20)) == ("", 0)

    assert [one.name for one in tmp_path.iterdir()] == ["mail.db"]
