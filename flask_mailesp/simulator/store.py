"""What the simulator remembers: in SQLite, in memory or in a file. All access goes through here."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from dataclasses import replace
from typing import Any, overload

from .codec import dump, load
from .database import Database
from .records import Delivery, Fault, Refusal, SentMessage

MOST_DECODED = 1000
DELIVERIES_PER_MESSAGE = 10
NEWEST = 2**62  # newer than any row
BY_ID = "SELECT seq FROM messages WHERE id = ? ORDER BY seq DESC LIMIT 1"
BY_MESSAGE_ID = "SELECT seq FROM messages WHERE message_id = ? ORDER BY seq DESC LIMIT 1"


class Store:
    """Logs in order of arrival, named values, named lists, and faults. Thread-safe.

    ``path`` None keeps them in memory; a file is shared with other processes. Beyond
    ``keep`` messages the oldest are forgotten, with all that belongs to them.

    A provider keeps its own rows with `put`/`get` and its own logs with `note`/`notes`,
    both under (esp, kind, key), as plain values (what JSON can hold). An ``owner`` is the id
    of the message they belong to and go with. ``changed`` is notified after every change
    of this process.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, keep: int = 10_000) -> None:
        self._database = Database(path)
        self._keep = keep
        self._decoded: OrderedDict[int, SentMessage] = OrderedDict()
        self.changed = threading.Condition(self._database.lock)
        self.shared = path is not None
        self.faults = Faults(self._database)

    def close(self) -> None:
        """Close the database. Nothing can be read afterwards."""
        self._database.close()

    # -- messages -------------------------------------------------------------------------

    def add_message(self, message: SentMessage) -> None:
        with self._database.writing() as connection:
            seq = connection.execute(
                "INSERT INTO messages (esp, id, message_id, record) VALUES (?, ?, ?, ?)",
                (message.esp, key_of(message.id), owner_of(message.message_id), _record(message)),
            ).lastrowid
            ids = [*((id_, to) for to, id_ in message.ids.items()), *known_as(message)]
            copies = [(key_of(id_), key_of(to), seq) for id_, to in ids]
            connection.executemany("INSERT INTO copies (id, address, seq) VALUES (?, ?, ?)", copies)
            assert seq is not None  # noqa: S101 - for the type checker
            self._forget(connection, seq - self._keep)
        self._remember(seq, message)
        self._notify()

    def messages(self) -> list[SentMessage]:
        """All of them, oldest first."""
        with self._database.lock:
            rows = self._database.rows("SELECT seq FROM messages ORDER BY seq")
            return self._messages(rows)

    def newest(self, count: int, before: str | None = None) -> list[SentMessage]:
        """At most ``count`` messages, newest first; ``before`` an id: only older ones."""
        with self._database.lock:
            seqs = self._database.rows(BY_ID, key_of(before)) if before is not None else []
            limit = seqs[0][0] if seqs else NEWEST
            query = "SELECT seq FROM messages WHERE seq < ? ORDER BY seq DESC LIMIT ?"
            return self._messages(self._database.rows(query, limit, count))

    def count(self) -> int:
        """How many messages are kept."""
        ((count,),) = self._database.rows("SELECT count(*) FROM messages")
        return int(count)

    def find(self, wanted: str) -> tuple[SentMessage, str | None] | None:
        """The newest message with that id (of any kind), and the recipient whose id it is."""
        query = "SELECT seq, address FROM copies WHERE id = ? ORDER BY seq DESC, rowid LIMIT 1"
        with self._database.lock:
            for seq, address in self._database.rows(query, key_of(wanted)):
                for message in self._messages([(seq,)]):
                    return message, text_of(address) or None
            found = self._database.rows(BY_ID, key_of(wanted))
            found = found or self._database.rows(BY_MESSAGE_ID, key_of(wanted))
            for message in self._messages(found):
                return message, None
        return None

    def _messages(self, rows: list[tuple[Any, ...]]) -> list[SentMessage]:
        """The messages of some rows; one that another process has just deleted is left out."""
        found = (self._decoded.get(seq) or self._read(seq) for (seq,) in rows)
        return [message for message in found if message is not None]

    def _read(self, seq: int) -> SentMessage | None:
        for (record,) in self._database.rows("SELECT record FROM messages WHERE seq = ?", seq):
            message = load(SentMessage, record)
            self._remember(seq, message)
            return message
        return None

    def _remember(self, seq: int, message: SentMessage) -> None:
        """Keep the newest ones decoded: lists of messages are asked for again and again."""
        with self._database.lock:
            self._decoded[seq] = message
            while len(self._decoded) > MOST_DECODED:
                self._decoded.popitem(last=False)

    def _forget(self, connection: sqlite3.Connection, last: int) -> None:
        query = "SELECT seq, esp, id FROM messages WHERE seq <= ?"
        for seq, esp, owner in connection.execute(query, (last,)).fetchall():
            connection.execute("DELETE FROM messages WHERE seq = ?", (seq,))
            connection.execute("DELETE FROM things WHERE esp = ? AND owner = ?", (esp, owner))
            connection.execute("DELETE FROM notes WHERE esp = ? AND owner = ?", (esp, owner))
            self._decoded.pop(seq, None)

    def clear(self) -> None:
        """Empty the mailbox: messages, refusals, webhooks. What was set up stays."""
        with self._database.writing() as connection:
            for table in ("messages", "refusals", "deliveries", "notes"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608
            connection.execute("DELETE FROM things WHERE owner IS NOT NULL")
            self._decoded.clear()
        self._notify()

    # -- refusals and deliveries ----------------------------------------------------------

    def add_refusal(self, refusal: Refusal) -> None:
        self._append("refusals", json.dumps(refusal), self._keep)

    def refusals(self) -> list[Refusal]:
        return [Refusal(*json.loads(record)) for record in self._records("refusals")]

    def add_delivery(self, delivery: Delivery) -> None:
        self._append("deliveries", dump(delivery), self._keep * DELIVERIES_PER_MESSAGE)

    def deliveries(self) -> list[Delivery]:
        return [load(Delivery, record) for record in self._records("deliveries")]

    def count_deliveries(self) -> int:
        ((count,),) = self._database.rows("SELECT count(*) FROM deliveries")
        return int(count)

    def _append(self, table: str, record: str, keep: int) -> None:
        with self._database.writing() as connection:
            insert = f"INSERT INTO {table} (record) VALUES (?)"  # noqa: S608
            seq = connection.execute(insert, (record,)).lastrowid or 0
            connection.execute(f"DELETE FROM {table} WHERE seq <= ?", (seq - keep,))  # noqa: S608
        self._notify()

    def _records(self, table: str) -> list[str]:
        rows = self._database.rows(f"SELECT record FROM {table} ORDER BY seq")  # noqa: S608
        return [record for (record,) in rows]

    # -- values and lists -----------------------------------------------------------------

    def put(self, esp: str, kind: str, key: str, value: Any, owner: str | None = None) -> None:
        query = (
            "INSERT INTO things (esp, kind, key, owner, value) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (esp, kind, key) DO UPDATE SET value = excluded.value"
        )
        with self._database.writing() as connection:
            connection.execute(query, (esp, kind, key_of(key), owner_of(owner), dump(value)))
        self._notify()

    def get(self, esp: str, kind: str, key: str) -> Any:
        """The value last put, or None."""
        query = "SELECT value FROM things WHERE esp = ? AND kind = ? AND key = ?"
        for (value,) in self._database.rows(query, esp, kind, key_of(key)):
            return json.loads(value)
        return None

    def get_or_put(self, esp: str, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """The value, made and put now if nobody has done so before, in any process."""
        with self._database.lock:
            value = self.get(esp, kind, key)
            if value is not None:
                return value
            query = "INSERT OR IGNORE INTO things (esp, kind, key, value) VALUES (?, ?, ?, ?)"
            made = dump(make())
            with self._database.writing() as connection:
                connection.execute(query, (esp, kind, key_of(key), made))
            return self.get(esp, kind, key)

    def items(self, esp: str, kind: str) -> list[tuple[str, Any]]:
        """(key, value) of every value of a kind, oldest first."""
        query = "SELECT key, value FROM things WHERE esp = ? AND kind = ? ORDER BY seq"
        rows = self._database.rows(query, esp, kind)
        return [(text_of(key), json.loads(value)) for key, value in rows]

    def remove(self, esp: str, kind: str, key: str) -> None:
        query = "DELETE FROM things WHERE esp = ? AND kind = ? AND key = ?"
        with self._database.writing() as connection:
            connection.execute(query, (esp, kind, key_of(key)))
        self._notify()

    def note(self, esp: str, kind: str, key: str, entry: Any, owner: str | None = None) -> int:
        """Append to a list and return how long it now is."""
        insert = "INSERT INTO notes (esp, kind, key, owner, entry) VALUES (?, ?, ?, ?, ?)"
        count = "SELECT count(*) FROM notes WHERE esp = ? AND kind = ? AND key = ?"
        with self._database.writing() as connection:
            connection.execute(insert, (esp, kind, key_of(key), owner_of(owner), dump(entry)))
            (length,) = connection.execute(count, (esp, kind, key_of(key))).fetchone()
        self._notify()
        return int(length)

    def notes(self, esp: str, kind: str, key: str | None = None) -> list[Any]:
        """The entries of one list, or of all lists of a kind, in order of arrival."""
        query = "SELECT entry FROM notes WHERE esp = ? AND kind = ? AND (? OR key = ?) ORDER BY seq"
        rows = self._database.rows(query, esp, kind, key is None, key_of(key or ""))
        return [json.loads(entry) for (entry,) in rows]

    def next_id(self, esp: str, first: int = 1) -> int:
        """A number of its own for each row of a provider, counting from ``first``."""
        query = (
            "INSERT INTO counters (name, last) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET last = last + 1"
        )
        with self._database.writing() as connection:
            connection.execute(query, (esp, first))
            select = "SELECT last FROM counters WHERE name = ?"
            (last,) = connection.execute(select, (esp,)).fetchone()
        return int(last)

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()


class Faults(MutableSequence[Fault]):
    """The faults that wait for their turn, in order: a list that all processes share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, fault: Fault) -> Fault:
        """Append, and return it with its id."""
        with self._database.writing() as connection:
            insert = "INSERT INTO faults (record) VALUES (?)"
            seq = connection.execute(insert, (dump(fault),)).lastrowid
        return replace(fault, id=seq or 0)

    def take(self, fits: Callable[[Fault], bool], chance: random.Random) -> Fault | None:
        """The first fault that fits and happens this time; its count goes down by one."""
        with self._database.lock:
            if not len(self):
                return None
            with self._database.writing():
                for fault in self:
                    if fits(fault) and chance.random() < fault.probability:
                        self._count_down(fault)
                        return fault
        return None

    def _count_down(self, fault: Fault) -> None:
        if fault.times is not None and fault.times <= 1:
            self._database.rows("DELETE FROM faults WHERE id = ?", fault.id)
        elif fault.times is not None:
            record = dump(replace(fault, times=fault.times - 1))
            self._database.rows("UPDATE faults SET record = ? WHERE id = ?", record, fault.id)

    def discard(self, number: int) -> bool:
        """Remove the fault with that id; whether it was there."""
        with self._database.writing() as connection:
            removed = connection.execute("DELETE FROM faults WHERE id = ?", (number,)).rowcount
        return removed > 0

    def clear(self) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM faults")

    def __len__(self) -> int:
        ((count,),) = self._database.rows("SELECT count(*) FROM faults")
        return int(count)

    def __iter__(self) -> Iterator[Fault]:
        rows = self._database.rows("SELECT id, record FROM faults ORDER BY id")
        return iter([replace(load(Fault, record), id=number) for number, record in rows])

    @overload
    def __getitem__(self, index: int) -> Fault: ...

    @overload
    def __getitem__(self, index: slice) -> list[Fault]: ...

    def __getitem__(self, index: int | slice) -> Fault | list[Fault]:
        return list(self)[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        faults = list(self)
        faults[index] = value
        self._replace(faults)

    def __delitem__(self, index: int | slice) -> None:
        faults = list(self)
        del faults[index]
        self._replace(faults)

    def insert(self, index: int, value: Fault) -> None:
        faults = list(self)
        faults.insert(index, value)
        self._replace(faults)

    def append(self, value: Fault) -> None:
        self.add(value)

    def __repr__(self) -> str:
        return repr(list(self))

    def _replace(self, faults: Iterable[Fault]) -> None:
        records = [(dump(fault),) for fault in faults]
        with self._database.writing() as connection:
            connection.execute("DELETE FROM faults")
            connection.executemany("INSERT INTO faults (record) VALUES (?)", records)


def _record(message: SentMessage) -> str:
    try:
        return dump(message)
    except RecursionError:  # JSON nested so deep that only reading it worked
        return dump(replace(message, payload="(nested too deep to be kept)"))


def known_as(message: SentMessage) -> list[tuple[str, str]]:
    """The ids that mean a message and no recipient of it, with no address."""
    return [(alias, "") for alias in message.aliases]


def key_of(text: str) -> bytes:
    """Text as SQLite can hold and compare it, whatever characters a client chose."""
    return text.encode("utf-8", "surrogatepass")


def owner_of(text: str | None) -> bytes | None:
    """The same, where there may be none."""
    return None if text is None else key_of(text)


def text_of(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
