"""What the simulator remembers. In memory; all access goes through this one class."""

from __future__ import annotations

import threading
from typing import Any

from .records import Delivery, Refusal, SentMessage


class Store:
    """Three logs in order of arrival, named values, and named lists. Thread-safe.

    A provider keeps its own rows with `put`/`get` and its own logs with `note`/`notes`,
    both under (esp, kind, key). ``changed`` is notified after every change.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._messages: list[SentMessage] = []
        self._refusals: list[Refusal] = []
        self._deliveries: list[Delivery] = []
        self._values: dict[tuple[str, str, str], Any] = {}
        self._notes: dict[tuple[str, str, str], list[Any]] = {}
        self._last_id: dict[str, int] = {}

    def add_message(self, message: SentMessage) -> None:
        with self.changed:
            self._messages.append(message)

    def messages(self) -> list[SentMessage]:
        with self.changed:
            return list(self._messages)

    def add_refusal(self, refusal: Refusal) -> None:
        with self.changed:
            self._refusals.append(refusal)

    def refusals(self) -> list[Refusal]:
        with self.changed:
            return list(self._refusals)

    def add_delivery(self, delivery: Delivery) -> None:
        with self.changed:
            self._deliveries.append(delivery)
            self.changed.notify_all()

    def deliveries(self) -> list[Delivery]:
        with self.changed:
            return list(self._deliveries)

    def put(self, esp: str, kind: str, key: str, value: Any) -> None:
        with self.changed:
            self._values[esp, kind, key] = value

    def get(self, esp: str, kind: str, key: str) -> Any:
        """The value last put, or None."""
        with self.changed:
            return self._values.get((esp, kind, key))

    def remove(self, esp: str, kind: str, key: str) -> None:
        with self.changed:
            self._values.pop((esp, kind, key), None)

    def note(self, esp: str, kind: str, key: str, entry: Any) -> int:
        """Append to a list and return how long it now is."""
        with self.changed:
            entries = self._notes.setdefault((esp, kind, key), [])
            entries.append(entry)
            return len(entries)

    def notes(self, esp: str, kind: str, key: str) -> list[Any]:
        with self.changed:
            return list(self._notes.get((esp, kind, key), ()))

    def next_id(self, esp: str, first: int = 1) -> int:
        """A number of its own for each row of a provider, counting from ``first``."""
        with self.changed:
            self._last_id[esp] = self._last_id.get(esp, first - 1) + 1
            return self._last_id[esp]
