"""How the command line prints: aligned and coloured on a terminal, plain anywhere else."""

from __future__ import annotations

import io
import sys

import pytest

from flask_mailesp.terminal import printable, say, say_table

ROWS = [("ok", "first", "short"), ("failed", "second one", "a text of many words " * 4)]


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(monkeypatch: pytest.MonkeyPatch, columns: int = 60, **environ: str) -> str:
    """Return what the table looks like on a terminal."""
    screen = Screen()
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"COLUMNS": str(columns), **environ}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        say_table(ROWS)
    return screen.getvalue()


def test_a_table_on_a_terminal_is_wrapped_and_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last column is wrapped, under itself."""
    lines = on_screen(monkeypatch).splitlines()

    assert lines[0] == "\x1b[32mok\x1b[0m      first       short"
    assert lines[1].startswith("\x1b[31mfailed\x1b[0m  second one  a text of many words")
    assert lines[2].startswith(" " * 20 + "words")
    assert all(len(line) < 60 + len("\x1b[31m\x1b[0m") for line in lines)


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org"""
    assert "\x1b" not in on_screen(monkeypatch, NO_COLOR="1")


def test_a_narrow_terminal_gets_long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of two words is worse."""
    assert len(on_screen(monkeypatch, columns=40).splitlines()) == 2


def test_a_table_in_a_pipe_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each row."""
    say_table([*ROWS, ("ok", "", "")])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok      first       short"
    assert len(lines) == 3
    assert lines[2] == "ok"


def test_what_could_steer_a_terminal_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and reasons come from elsewhere."""
    say_table([("a\x1b[2J", "b\r\nc\u202ed")])

    assert capsys.readouterr().out == "a?[2J  b??c?d\n"
    assert printable("Größe ✓") == "Größe ✓"


def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """When asked to."""
    say("plain", err=True)

    assert capsys.readouterr() == ("", "plain\n")
