"""One SQLite database: opening it, refusing a file that is not ours, and sharing it.

A process has one connection, used under one lock; a forked child gets one of its own, as
SQLite asks (https://www.sqlite.org/howtocorrupt.html, 2.6). Several processes may open the
same file: it is in WAL mode, and a writer waits for the others.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

APPLICATION_ID = 0x4D455350  # "MESP"
VERSION = 1
BUSY_SECONDS = 10.0

SCHEMA = """
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, esp TEXT NOT NULL, id BLOB NOT NULL,
    message_id BLOB, record TEXT NOT NULL);
CREATE INDEX messages_id ON messages (id);
CREATE INDEX messages_message_id ON messages (message_id);
CREATE TABLE copies (
    id BLOB NOT NULL, address BLOB NOT NULL,
    seq INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE);
CREATE INDEX copies_id ON copies (id);
CREATE INDEX copies_seq ON copies (seq);
CREATE TABLE refusals (seq INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE deliveries (seq INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE faults (id INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE things (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, esp TEXT NOT NULL, kind TEXT NOT NULL,
    key BLOB NOT NULL, owner BLOB, value TEXT NOT NULL, UNIQUE (esp, kind, key));
CREATE INDEX things_owner ON things (esp, owner);
CREATE TABLE notes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, esp TEXT NOT NULL, kind TEXT NOT NULL,
    key BLOB NOT NULL, owner BLOB, entry TEXT NOT NULL);
CREATE INDEX notes_key ON notes (esp, kind, key);
CREATE INDEX notes_owner ON notes (esp, owner);
CREATE TABLE counters (name TEXT PRIMARY KEY, last INTEGER NOT NULL);
"""

# Connections a forked child inherited: closing one would drop the locks of its own.
_inherited: list[sqlite3.Connection] = []
_open: weakref.WeakSet[Database] = weakref.WeakSet()


class DatabaseError(Exception):
    """The database cannot be used. The text is one sentence for the person who named it."""


class Database:
    """A connection to a file, or to memory (``path`` None); ``lock`` guards every use.

    Raises DatabaseError if the file is not a mailbox of the simulator, or cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path).absolute()
        self.lock = threading.RLock()
        self._connection, self._closer = self._connect()
        _open.add(self)

    def _connect(self) -> tuple[sqlite3.Connection, weakref.finalize[Any, Any]]:
        connection = _memory() if self.path is None else _file(self.path)
        return connection, weakref.finalize(self, connection.close)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of the block, or nothing of it."""
        with self.lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.lock:
            return self._connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the connection; nothing can be read or written afterwards."""
        with self.lock:
            _open.discard(self)
            self._closer()

    def after_fork(self) -> None:
        """Give a child a connection of its own. What is in memory it has as a copy."""
        if self.path is not None:
            self._closer.detach()
            _inherited.append(self._connection)
            self._connection, self._closer = self._connect()


def _memory() -> sqlite3.Connection:
    connection = _plain_connection(":memory:")
    connection.executescript(SCHEMA)
    return connection


def _plain_connection(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _file(path: Path) -> sqlite3.Connection:
    _create(path)
    try:
        connection = _plain_connection(str(path))
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise _unusable(path, error) from error
    return connection


def _create(path: Path) -> None:
    """Make the file if it is not there, readable by its owner only: it will hold mail."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> DatabaseError:
    if "not a database" in str(error):
        return _not_ours(path)
    reason = error.strerror if isinstance(error, OSError) else error
    return DatabaseError(f"The mailbox database {path} cannot be used: {reason}.")


def _not_ours(path: Path) -> DatabaseError:
    return DatabaseError(
        f"{path} is not a mailbox database of the simulator; it is left as it is. "
        "Name another file."
    )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose file it is before anything is written to it."""
    if _is_empty(connection):
        _fill(connection, path)
    _check(connection, path)
    _set_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_empty(connection: sqlite3.Connection) -> bool:
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return not count and not _pragma(connection, "application_id")


def _fill(connection: sqlite3.Connection, path: Path) -> None:
    path.chmod(0o600)
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):  # another process may have been faster
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise _not_ours(path)
    version = _pragma(connection, "user_version")
    if version != VERSION:
        raise DatabaseError(
            f"{path} is a mailbox database of another version of the simulator "
            f"({version}, not {VERSION}). Name another file."
        )


def _set_wal(connection: sqlite3.Connection) -> None:
    """Turn on WAL. SQLite does not wait for other connections here, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while _pragma(connection, "journal_mode") != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


# -- fork -----------------------------------------------------------------------------------

_forking = threading.RLock()  # one fork at a time, for the sake of _held
_held: list[Database] = []


def _before_fork() -> None:
    """Nobody is in the middle of a transaction while the process is copied."""
    _forking.acquire()
    _held[:] = list(_open)
    for database in _held:
        database.lock.acquire()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    while _held:
        database = _held.pop()
        database.lock.release()
        database.after_fork()
    _forking.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
