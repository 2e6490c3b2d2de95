"""`flask mailesp simulator`: the other side of the wire, as a program of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from flask_mailesp import MailESP, Message
from flask_mailesp.cli import mailesp

pytest.importorskip("flask_mailesp.simulator.program")

START = "import sys; from flask_mailesp.cli import mailesp; mailesp(sys.argv[1:])"


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program in a process of its own, and end it as Ctrl-C does."""
    command = [sys.executable, "-W", "error", "-c", START, "simulator", "--port", "0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0, process.stderr
            assert process.stderr is not None
            assert process.stderr.read() == ""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mailesp, ["simulator", *arguments], catch_exceptions=False)


def sentence(result: Result, exit_code: int) -> str:
    """Return the one line that is all of stderr; there is nothing on stdout."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line[7:]


def test_an_app_sends_to_the_program(tmp_path: Path) -> None:
    """It prints the settings that point an app at it; Ctrl-C ends it with 0."""
    with running("--esp", "postmark", "--database", str(tmp_path / "mail.db")) as process:
        assert process.stdout is not None
        settings = {}
        while "POSTMARK_SERVER_TOKEN" not in settings:
            name, _, value = process.stdout.readline().strip().partition("=")
            settings[name.removeprefix("FLASK_MAILESP_")] = value
        app = Flask("app")
        app.config["MAILESP"] = {
            "ESP": "postmark",
            "POSTMARK_API_URL": settings["POSTMARK_API_URL"],
            "POSTMARK_SERVER_TOKEN": settings["POSTMARK_SERVER_TOKEN"],
        }
        mail = MailESP(app)
        with app.app_context():
            result = mail.send(Message("Hi", "you@example.com", "Hello", sender="me@example.org"))
        app.extensions["mailesp"].transport.close()

    assert result.outcome == "accepted"
    assert (tmp_path / "mail.db").exists()


def test_a_taken_port() -> None:
    """One sentence, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert str(port) in sentence(run("--port", str(port)), 1)


def test_a_database_that_is_not_ours(tmp_path: Path) -> None:
    """Nothing is written to it."""
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes.\n" * 100)

    assert str(path.name) in sentence(run("--database", str(path)), 1)
    assert path.read_text().startswith("These are my notes.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--esp", "mandrill"], "mandrill"),
        (["--tracking-url", "ftp://a.example/{esp}"], "http"),
        (["--esp", "postal", "--inbound-url", "postal=nonsense"], "inbound URL of postal"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    """One sentence, exit code 2."""
    assert words in sentence(run("--port", "0", *arguments), 2)


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--time-scale", "-1"]])
def test_numbers_out_of_range(arguments: list[str]) -> None:
    """click's own check, with the usage."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_hook_urls_for_one_esp_and_for_all() -> None:
    """`{esp}` becomes the name; a later option stands over an earlier one."""
    from flask_mailesp.cli import urls_by_esp

    urls = urls_by_esp(
        ["http://a.example/{esp}/tracking/?x=1", "postal=http://b.example/?y={esp}"],
        ("postmark", "postal"),
    )

    assert urls == {
        "postmark": "http://a.example/postmark/tracking/?x=1",
        "postal": "http://b.example/?y={esp}",
    }
