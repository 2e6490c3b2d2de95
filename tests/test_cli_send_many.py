"""`flask mailesp send-many`: a file of messages, a summary, and a file of what failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import Reply, Request, scripted
from test_cli import make, run, sentence

from flask_mailesp import Message


def answer(request: Request) -> Reply:
    """Accept every message but those to inactive@example.com."""
    answers = [
        {"ErrorCode": 406, "Message": "Inactive recipient"}
        if "inactive" in item["To"]
        else {"ErrorCode": 0, "Message": "OK", "MessageID": "id"}
        for item in json.loads(request.body)
    ]
    return Reply(200, json.dumps(answers).encode())


def line(to: str, **more: Any) -> str:
    return json.dumps(Message("Hello", to=to, body="Hi", **more).to_dict())


def write(path: Path, *lines: str) -> Path:
    file = path / "mails.jsonl"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text("utf-8").splitlines()]


def test_it_sends_every_line_and_sums_up(tmp_path: Path) -> None:
    """Empty lines are no messages; nothing failed, so there is no file of failures."""
    file = write(tmp_path, line("a@example.com"), "", line("b@example.com", tags=["spring"]))
    with scripted(answer) as server:
        result = run(make(MAILESP_POSTMARK_API_URL=server.url), "send-many", str(file))

    assert result.exit_code == 0
    assert result.stdout == "accepted  2\n"
    (request,) = server.requests
    assert [item["To"] for item in json.loads(request.body)] == ["a@example.com", "b@example.com"]
    assert list(tmp_path.iterdir()) == [file]


def test_what_failed_is_written_down_with_its_error(tmp_path: Path) -> None:
    """As it stood, and with what is known about it."""
    file = write(
        tmp_path,
        line("a@example.com"),
        line("inactive@example.com"),
        "no JSON",
        '{"colour": "red"}',
        line("nobody"),
    )
    with scripted(answer) as server:
        result = run(make(MAILESP_POSTMARK_API_URL=server.url), "send-many", str(file))

    failed = tmp_path / "mails.jsonl.failed.jsonl"
    assert result.exit_code == 1
    assert result.stdout == "invalid   3\naccepted  1\nrefused   1\n"
    assert str(failed) in result.stderr
    by_line = {entry["mailesp_failure"]["line"]: entry for entry in entries(failed)}
    assert sorted(by_line) == [2, 3, 4, 5]
    assert by_line[2]["to"] == ["inactive@example.com"]
    assert by_line[2]["mailesp_failure"]["kind"] == "RecipientsRefusedError"
    rejected = by_line[2]["mailesp_failure"]["recipients"]["inactive@example.com"]
    assert rejected["status"] == "rejected"
    assert by_line[3]["line"] == "no JSON"
    assert "'colour'" in by_line[4]["mailesp_failure"]["error"]
    assert by_line[5]["mailesp_failure"]["outcome"] == "invalid"


def test_the_file_of_failures_can_be_sent_again(tmp_path: Path) -> None:
    """What was noted about a line is not part of its message."""
    file = write(tmp_path, line("a@example.com"))
    with scripted(Reply(429, b"{}"), answer) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        first = run(app, "send-many", str(file), "--failures", str(tmp_path / "again.jsonl"))
        second = run(app, "send-many", str(tmp_path / "again.jsonl"))

    assert (first.exit_code, second.exit_code) == (1, 0)
    assert second.stdout == "accepted  1\n"


def test_it_speaks_json(tmp_path: Path) -> None:
    """For programs."""
    file = write(tmp_path, line("a@example.com"), line("inactive@example.com"))
    with scripted(answer) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        result = run(app, "send-many", str(file), "--json")

    assert json.loads(result.stdout) == {
        "outcomes": {"accepted": 1, "refused": 1},
        "lines": 2,
        "interrupted": False,
        "failures": str(tmp_path / "mails.jsonl.failed.jsonl"),
    }


def test_ctrl_c_leaves_a_true_account(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    """What was sent counts as sent, and what was read and not started is written down."""
    file = write(tmp_path, *[line("a@example.com")] * 1_300)

    def interrupting(request: Request) -> Reply:
        ctrl_c()
        return answer(request)

    with scripted(interrupting, answer) as server:
        app = make(MAILESP_POSTMARK_API_URL=server.url)
        result = run(app, "send-many", str(file), "--json")
        sent = sum(len(json.loads(request.body)) for request in server.requests)

    report = json.loads(result.stdout)
    assert result.exit_code == 130
    assert report["interrupted"] is True
    assert report["outcomes"]["accepted"] == sent
    assert sum(report["outcomes"].values()) == report["lines"]
    if sent < report["lines"]:
        assert len(entries(Path(report["failures"]))) == report["lines"] - sent


@pytest.mark.parametrize("missing", ["mails.jsonl", "\0"])
def test_a_file_that_cannot_be_read(missing: str) -> None:
    """Is told in a sentence."""
    assert "cannot be read" in sentence(run(make(), "send-many", missing), 2)


def test_an_earlier_file_of_failures_is_not_overwritten(tmp_path: Path) -> None:
    """It may be the only account of another run. Nothing is sent."""
    file = write(tmp_path, line("a@example.com"))
    (tmp_path / "mails.jsonl.failed.jsonl").touch()

    assert "is there already" in sentence(run(make(), "send-many", str(file)), 2)


def test_a_mailer_that_does_not_exist(tmp_path: Path) -> None:
    """Is told before anything is read."""
    file = write(tmp_path, line("a@example.com"))

    assert "no mailer named 'bulk'" in sentence(
        run(make(), "send-many", str(file), "--using", "bulk"), 1
    )
