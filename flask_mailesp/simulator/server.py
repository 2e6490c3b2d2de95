"""A real HTTP/1.1 server with keep-alive, in a thread, that stops without leaving anything open.

Werkzeug's development server closes every connection after one answer, while the providers
keep them alive and so do the clients that are to be tested.
"""

from __future__ import annotations

import io
import logging
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024
IDLE_SECONDS = 60.0


class ConnectionDropped(Exception):
    """Raised by the application to cut the connection without an answer.

    ``reset`` aborts it (TCP RST); else it is closed (FIN).
    """

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class LocalServer:
    """A WSGI application served at ``url`` until `stop`."""

    def __init__(self, app: WSGIApplication, host: str = "127.0.0.1", port: int = 0) -> None:
        kind = _HTTPServer6 if ":" in host else _HTTPServer
        self._http = kind((host, port), _Handler)
        self._http.app = app
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="mailesp-simulator", daemon=True
        )
        self._thread.start()

    def url_for(self, esp: str) -> str:
        """The API URL of one provider: what ``MAILESP_<ESP>_API_URL`` is set to."""
        return f"{self.url}/{esp}"

    def stop(self) -> None:
        """Close the listening socket and every connection, and wait for their threads."""
        self._http.shutdown()
        self._thread.join()
        self._http.cut_connections()
        self._http.join_workers()
        self._http.server_close()


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 128
    app: WSGIApplication

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the reverse DNS look-up HTTPServer makes of its own address."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a daemon thread: a forgotten stop() must not keep the process."""
        worker = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._open.add(request)
            self._workers = [*(other for other in self._workers if other.is_alive()), worker]
        worker.start()

    def abort(self, connection: socket.socket) -> None:
        """Have the connection reset when it is closed: a FIN before would be a polite end."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self._lock:
            self._open.discard(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            polite = request in self._open
            self._open.discard(request)
        if polite:
            super().shutdown_request(request)
        else:
            self.close_request(request)

    def cut_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def join_workers(self) -> None:
        for worker in self._workers:
            worker.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback on stderr."""
        logger.debug("a connection to the simulator failed", exc_info=True)


class _HTTPServer6(_HTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: _HTTPServer

    def handle_request(self) -> None:
        body = self._read_body()
        if body is None:
            return
        try:
            self._answer(body)
        except ConnectionDropped as dropped:
            self.close_connection = True
            if dropped.reset:
                self.server.abort(self.connection)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def _read_body(self) -> bytes | None:
        """The whole body, so that the next request starts where it should."""
        length = self.headers.get("Content-Length") or "0"
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdigit():
            self._give_up(411, "Length Required")
            return None
        if int(length) > MAX_BODY:
            self._give_up(413, "Content Too Large")
            return None
        return self.rfile.read(int(length))

    def _give_up(self, status: int, reason: str) -> None:
        self.close_connection = True
        self._send(f"{status} {reason}", [("Connection", "close")], reason.encode())

    def _answer(self, body: bytes) -> None:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _exc: Any = None) -> Any:
            head[:] = [status, headers]
            return io.BytesIO().write

        chunks: Iterable[bytes] = self.server.app(self._environ(body), start_response)
        content = _joined(chunks)
        self._send(head[0], head[1], content)

    def _send(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        names = {name.lower(): value for name, value in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(body)))
        elif self.command != "HEAD" and names["content-length"] != str(len(body)):
            self.close_connection = True  # a truncated answer, on purpose
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _environ(self, body: bytes) -> WSGIEnvironment:
        path, _, query = self.path.partition("?")
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": self.server.server_name,
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name in self.headers:
            key = "HTTP_" + name.upper().replace("-", "_")
            if key not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
                environ[key] = ",".join(self.headers.get_all(name, ()))
        return environ

    def version_string(self) -> str:
        return "simulator"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: test output is not an access log."""


def _joined(chunks: Iterable[bytes]) -> bytes:
    try:
        return b"".join(chunks)
    finally:
        getattr(chunks, "close", lambda: None)()
