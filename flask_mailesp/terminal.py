"""Output for people (aligned, coloured where there is a terminal) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import click

COLOURS = {
    "ok": "green",
    "yes": "green",
    "unchanged": "green",
    "sent": "green",
    "queued": "green",
    "warning": "yellow",
    "create": "yellow",
    "update": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "invalid": "red",
    "rejected": "red",
    "cannot tell": "cyan",
    "foreign": "cyan",
}
NARROWEST = 24  # columns; below that, a wrapped column is worse than a long line


class Trouble(click.ClickException):
    """Something failed; told in one sentence. Exit code 1."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class Misuse(Trouble):
    """What was asked for does not make sense. Exit code 2."""

    exit_code = 2


def printable(text: str) -> str:
    """Return text without what could steer a terminal; it may come from elsewhere."""
    return "".join(char if char.isprintable() else "?" for char in text)


def say(text: str = "", *, err: bool = False) -> None:
    """Print a line; colours only on a terminal, and not where NO_COLOR is set."""
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def say_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    click.echo(json.dumps(value, indent=2))


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns aligned; on a terminal, the last one is wrapped."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    indent = sum(width + 2 for width in widths[:-1])
    wrap = _wrapper(indent)
    for row in cells:
        start = "".join(
            _styled(cell, width + 2) for cell, width in zip(row[:-1], widths, strict=False)
        )
        first, *more = wrap(row[-1])
        say((start + _styled(first)).rstrip())
        for line in more:
            say(" " * indent + line)


def _wrapper(indent: int) -> Callable[[str], list[str]]:
    """Return what cuts the last column into lines; there is always one."""
    width = shutil.get_terminal_size().columns - indent - 1
    if not sys.stdout.isatty() or width < NARROWEST:
        return lambda text: [text]
    return lambda text: textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _styled(cell: str, width: int = 0) -> str:
    colour = COLOURS.get(cell)
    return (click.style(cell, fg=colour) if colour else cell) + " " * (width - len(cell))
