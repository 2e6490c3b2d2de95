"""A server on the loopback interface that does what its script says, faults included.

::

    with scripted(Reply(200, b"{}"), Reset(after="request")) as server:
        transport.send(HttpRequest("POST", server.url))
    assert server.requests[0].body == b"..."

Every request takes the next item of the script, whichever connection it comes on; the
last item is repeated. An item is

- ``bytes``: sent as they are, then the connection is closed; the same as ``Raw(data)``;
- a function of a `Request` that returns such an item;
- one of the records below.

The server reads HTTP by hand, so what ``server.requests`` holds is what went over the
wire. Leaving the ``with`` block closes every socket and ends every thread.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

_PATIENCE = 20.0  # seconds after which a connection gives up, should a test hang


@dataclass(frozen=True)
class Request:
    """One request as it came. ``headers`` has lower-case names, ``connection`` counts from 1."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Reply:
    """A well-formed answer with a Content-Length. ``close`` ends the connection after it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def __bytes__(self) -> bytes:
        fields = {"Content-Length": str(len(self.body)), **self.headers}
        if self.close:
            fields["Connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{n}: {v}" for n, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True)
class Raw:
    """Bytes sent as they are; ``keep`` leaves the connection open for the next request."""

    data: bytes
    keep: bool = False


@dataclass(frozen=True)
class Drip:
    """Bytes sent one at a time, ``every`` so many seconds, after the bytes in ``first``."""

    data: bytes
    every: float = 0.05
    first: bytes = b""


@dataclass(frozen=True)
class Stall:
    """Silence on an open connection, after sending the bytes in ``first``."""

    first: bytes = b""


@dataclass(frozen=True)
class Flood:
    """The bytes in ``first``, then zeros without end, until the client has gone."""

    first: bytes


@dataclass(frozen=True)
class Reset:
    """A TCP reset once the connection is accepted, the headers or the request are read.

    The bytes in ``first`` are sent before it (and may be lost to it).
    """

    after: Literal["accept", "headers", "request"] = "request"
    first: bytes = b""


@dataclass(frozen=True)
class Close:
    """An orderly end of the connection, at the same points as `Reset`."""

    after: Literal["accept", "headers", "request"] = "request"


@dataclass(frozen=True)
class ReadNothing:
    """Accept the connection and never read from it (nor, on TLS, shake hands)."""


@dataclass(frozen=True)
class Early:
    """Bytes sent at the given point, whatever is still to come; then the end.

    What the client has sent meanwhile stays unread, so a reset may follow.
    """

    data: bytes
    after: Literal["accept", "headers"] = "headers"


@dataclass(frozen=True)
class Tunnel:
    """A proxy's consent to CONNECT, after which this server plays the TLS server behind it."""

    tls: ssl.SSLContext


Item = (
    bytes
    | Early
    | Tunnel
    | Reply
    | Raw
    | Drip
    | Stall
    | Flood
    | Reset
    | Close
    | ReadNothing
    | Callable[[Request], "Item"]
)


class ScriptedServer:
    """See the module's documentation; made by `scripted`."""

    def __init__(self, script: tuple[Item, ...], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0  # accepted so far
        self._script = list(script) or [Reply()]
        self._tls = tls
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(0.05)
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port`` or, with TLS, ``https://localhost:port``; no last slash."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        """Close every connection that is open now, in order, as a server does when idle."""
        with self._lock:
            for sock in self._sockets:
                _shut_down(sock)

    def stop(self) -> None:
        """Close every socket and end every thread."""
        self._stop.set()
        _shut_down(self._listener)  # wakes accept() where the system is so kind
        self._acceptor.join()
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    # --- threads ---

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # the time-out, above all
                sock, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock, self.connections))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        """Serve one connection. Whatever the client does to it is no error here."""
        sock.settimeout(_PATIENCE)
        connection = _Connection(sock, number, self)
        self.track(sock)
        try:
            with contextlib.suppress(OSError, EOFError, ValueError):
                connection.run(self._tls)
        finally:
            connection.close()

    def track(self, sock: socket.socket) -> None:
        """Have a socket shut down by `hang_up`."""
        with self._lock:
            self._sockets.add(sock)

    def close(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(sock)
            sock.close()

    def at_accept(self) -> Item | None:
        """Take the next item if it is one for a connection that has sent nothing yet."""
        with self._lock:
            item = self._script[0]
            early = isinstance(item, ReadNothing) or (
                isinstance(item, Reset | Close | Early) and item.after == "accept"
            )
            return self._next() if early else None

    def at_headers(self) -> Item | None:
        """Take the next item if it is one for a request whose body is not to be read."""
        with self._lock:
            item = self._script[0]
            early = isinstance(item, Reset | Close | Early) and item.after == "headers"
            return self._next() if early else None

    def at_request(self, request: Request) -> Item:
        """Record a request and take its item."""
        with self._lock:
            self.requests.append(request)
            item = self._next()
        while callable(item):
            item = item(request)
        return item

    def _next(self) -> Item:
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def pause(self, seconds: float = _PATIENCE) -> bool:
        """Wait; return False once the server is being stopped."""
        return not self._stop.wait(seconds)


class _Connection:
    """One connection of the server."""

    def __init__(self, sock: socket.socket, number: int, server: ScriptedServer) -> None:
        self._sock = sock
        self._number = number
        self._server = server
        self._buffer = b""

    def run(self, tls: ssl.SSLContext | None) -> None:
        if (early := self._server.at_accept()) is not None:
            self._perform(early)
            return
        if tls is not None:
            self._secure(tls)
        while self._exchange():
            pass

    def close(self) -> None:
        self._server.close(self._sock)

    def _secure(self, tls: ssl.SSLContext) -> None:
        self._sock = tls.wrap_socket(self._sock, server_side=True)
        self._server.track(self._sock)

    def _exchange(self) -> bool:
        """Read one request and do as the script says; return whether to go on."""
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        if (early := self._server.at_headers()) is not None:
            return self._perform(early)
        first, *lines = head.split("\r\n")[:-2]
        method, target, _ = first.split(" ", 2)
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        body = self._read(int(headers.get("content-length", "0")))
        return self._perform(
            self._server.at_request(Request(method, target, headers, body, self._number))
        )

    def _perform(self, item: Item) -> bool:
        if isinstance(item, Reply):
            self._sock.sendall(bytes(item))
            return not item.close
        if isinstance(item, Raw):
            self._sock.sendall(item.data)
            return item.keep
        if isinstance(item, Tunnel):
            self._sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._secure(item.tls)
            return True
        if isinstance(item, bytes | Early):
            self._sock.sendall(item if isinstance(item, bytes) else item.data)
        elif isinstance(item, Drip):
            self._drip(item)
        elif isinstance(item, Flood):
            self._flood(item)
        elif isinstance(item, Stall):
            self._sock.sendall(item.first)
            self._server.pause()
        elif isinstance(item, Reset):
            self._reset(item)
        elif isinstance(item, ReadNothing):
            self._server.pause()
        return False

    def _drip(self, item: Drip) -> None:
        self._sock.sendall(item.first)
        for byte in item.data:
            self._sock.sendall(bytes([byte]))
            if not self._server.pause(item.every):
                return

    def _flood(self, item: Flood) -> None:
        self._sock.sendall(item.first)
        zeros = bytes(256 * 1024)
        while self._server.pause(0):
            self._sock.sendall(zeros)

    def _reset(self, item: Reset) -> None:
        self._sock.sendall(item.first)
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    def _read(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._receive()
        found, self._buffer = self._buffer[:length], self._buffer[length:]
        return found

    def _receive(self) -> None:
        data = self._sock.recv(256 * 1024)
        if not data:
            raise EOFError
        self._buffer += data


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def scripted(*script: Item, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    """Run a server that follows ``script``; ``tls`` is a server-side context."""
    server = ScriptedServer(script, tls)
    try:
        yield server
    finally:
        server.stop()
