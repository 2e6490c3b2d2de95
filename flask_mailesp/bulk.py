"""``flask mailesp send-many FILE``: the messages of a JSON Lines file, and what became of them.

Each line is what `Message.to_dict` gives. What failed goes, line by line as it stood, to
another file, with what is known about it: that file, mended, can be sent again.
"""

from __future__ import annotations

import json
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import TracebackType
from typing import IO, Any

from flask import Flask

from . import signals
from .exceptions import InvalidMessageError
from .extension import MailESP
from .message import Message
from .results import ACCEPTED, Outcome, SendResult
from .wire import parse_json

MAX_LINE = 64 * 1024 * 1024  # bytes
KEY = "mailesp_failure"  # where a line of the file of failures says what happened

Progress = Callable[[int], None]


class Failures:
    """The file of what failed; it is made by the first failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> Failures:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, data: Any, failure: dict[str, Any]) -> None:
        """Write one entry, at once: the process may end at any time."""
        if self._file is None:
            self._file = self.path.open("x", encoding="utf-8")
        entry = data if isinstance(data, dict) else {"line": data}
        self._file.write(json.dumps({**entry, KEY: failure}) + "\n")
        self._file.flush()
        self.count += 1


class Run:
    """One reading of a file: what is sent, counted and written down."""

    def __init__(self, source: IO[bytes], failures: Failures, progress: Progress) -> None:
        self.outcomes: Counter[str] = Counter()
        self.lines = 0  # read so far
        self.interrupted = False
        self._source = source
        self._failures = failures
        self._progress = progress
        self._waiting: deque[tuple[int, Any, Message]] = deque()  # those without a result
        self._told: dict[int, SendResult] = {}  # what post_send says, by the message's id()

    def send(self, app: Flask, using: str | None, workers: int) -> None:
        """Send all messages. Ctrl-C ends it, and what is on the wire then is waited for."""
        with signals.post_send.connected_to(self._hear, app), _on_ctrl_c(self._interrupt):
            results = MailESP().send_many(self._messages(), using, workers)
            try:
                for result in results:
                    number, data, message = self._waiting.popleft()
                    self._told.pop(id(message), None)
                    self._note(number, data, result)
                    self._check()
            except KeyboardInterrupt:
                self.interrupted = True
            finally:
                results.close()  # type: ignore[attr-defined]
        self._account_for_the_rest()

    def _interrupt(self) -> None:
        """Note the first Ctrl-C, to act on it where no message is between two accounts."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def _check(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def _hear(self, app: Flask, message: Message, result: SendResult, **extra: Any) -> None:
        self._told[id(message)] = result

    def _account_for_the_rest(self) -> None:
        """Write down what became of messages that were read, and whose turn never came."""
        for number, data, message in self._waiting:
            result = self._told.get(id(message))
            if result is not None:
                self._note(number, data, result)
            else:
                self.outcomes["not started"] += 1
                self._failures.add(data, {"line": number, "outcome": "not started"})

    def _messages(self) -> Iterator[Message]:
        """Read the file as far as it is needed; a line that is no message is a failure."""
        while line := self._source.readline(MAX_LINE + 1):
            self._check()
            self.lines += 1
            if line.strip():
                data = parse_json(line) if len(line) <= MAX_LINE else None
                try:
                    message = _message(data)
                except InvalidMessageError as error:
                    self._refuse(line, data, error)
                else:
                    self._waiting.append((self.lines, data, message))
                    yield message
            self._progress(len(line))

    def _refuse(self, line: bytes, data: Any, error: InvalidMessageError) -> None:
        text = line.decode("utf-8", "replace").rstrip() if data is None else data
        self.outcomes["invalid"] += 1
        self._failures.add(text, {"line": self.lines, "outcome": "invalid", "error": str(error)})

    def _note(self, number: int, data: dict[str, Any], result: SendResult) -> None:
        word = "invalid" if isinstance(result.error, InvalidMessageError) else str(result.outcome)
        self.outcomes[word] += 1
        if result.outcome not in (Outcome.ACCEPTED, Outcome.CANCELLED):
            self._failures.add(data, {"line": number, "outcome": word, **described(result)})


@contextmanager
def _on_ctrl_c(react: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C call ``react``, unless the process ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _message(data: Any) -> Message:
    """Return a line's message. Raises InvalidMessageError."""
    if not isinstance(data, dict):
        raise InvalidMessageError("The line is not a JSON object.")
    return Message.from_dict({key: value for key, value in data.items() if key != KEY})


def described(result: SendResult) -> dict[str, Any]:
    """Return what to write about a message that failed, or that not everybody gets."""
    return {
        "error": None if result.error is None else str(result.error),
        "kind": None if result.error is None else type(result.error).__name__,
        "recipients": {
            address: {"status": str(entry.status), "description": entry.description}
            for address, entry in result.recipients.items()
            if entry.status not in ACCEPTED
        },
    }
