"""One small message: the extension against requests by hand.

``python -m tests.benchmarks.bench_send``; the goals are those of the project's performance
notes: at most 1.3 times a prepared request, and less than ``Session.post(json=)``.
"""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from flask import Flask

from flask_mailesp import MailESP, Message

from .ratios import compare

ANSWER = json.dumps(
    {
        "To": "you@example.com",
        "SubmittedAt": "2026-11-21T09:14:07.4410386Z",
        "MessageID": "5f0d7a52-9c1e-4b53-8a61-2e6f0c3d9b17",
        "ErrorCode": 0,
        "Message": "OK",
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)


class Handler(socketserver.BaseRequestHandler):
    """Answers each request on a kept-alive connection with the same bytes."""

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            connection.sendall(REPLY)


@contextmanager
def server_process() -> Iterator[str]:
    """Run the server in a process of its own, so that its CPU is not counted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_send", "serve"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def serve() -> None:
    """Serve until killed; print the URL first."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        threading.Event().wait(0)
        server.serve_forever()


def main() -> None:
    """Print the table."""
    with server_process() as url:
        app = Flask(__name__)
        app.config.update(
            MAILESP_ESP="postmark",
            MAILESP_POSTMARK_SERVER_TOKEN="a-token",
            MAILESP_POSTMARK_API_URL=url,
        )
        mail = MailESP(app)
        payload = {
            "From": "shop@example.com",
            "To": "you@example.com",
            "Subject": "Your receipt",
            "TextBody": "Thank you!\n" * 20,
            "HtmlBody": "<p>Thank you!</p>\n" * 20,
        }
        headers = {"X-Postmark-Server-Token": "a-token", "Accept": "application/json"}
        plain, prepared_session = requests.Session(), requests.Session()
        prepared_session.trust_env = False
        request = requests.Request("POST", f"{url}/email", json=payload, headers=headers)
        prepared = prepared_session.prepare_request(request)

        def by_extension() -> object:
            return mail.send(
                Message(
                    "Your receipt",
                    to=["you@example.com"],
                    body=payload["TextBody"],
                    html=payload["HtmlBody"],
                    sender="shop@example.com",
                )
            )

        def by_session() -> object:
            return plain.post(f"{url}/email", json=payload, headers=headers, timeout=30).json()

        def by_prepared() -> object:
            return prepared_session.send(prepared, timeout=30).json()

        with app.app_context():
            contestants = {
                "mail.send(Message(...))": by_extension,
                "Session.send(prepared)": by_prepared,
                "Session.post(json=)": by_session,
            }
            compare(
                "One small message over a kept-alive connection",
                contestants,
                base="Session.send(prepared)",
                goals={"mail.send(Message(...))": 1.3},
            )
            compare(
                "The same, against the way of every tutorial",
                contestants,
                base="Session.post(json=)",
                goals={"mail.send(Message(...))": 0.7},
            )


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
