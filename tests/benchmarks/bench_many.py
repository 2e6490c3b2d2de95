"""1,000 messages to an ESP with 50 ms of latency, and a merge to 1,000 recipients.

``python -m tests.benchmarks.bench_many``: wall time, each against the same written by hand
over requests, in turn; the medians of the ratios are printed. Everybody starts from the same
rows (a number, an address), so making the messages counts. The server is a process of its
own that answers 50 ms after the last byte of a request.

What bounds the first figure is CPU: the batches share the latency, so the time is that of
making, preparing and encoding 1,000 messages (25 to 30 µs each: 5 for the `Message`, 9 for
preparing it, 7 for the JSON, the rest for signals and limits), then 50 ms, then reading the last
answer (3 ms). Run it on an idle machine: what else runs slows this down, and not the time by
hand, which is nearly all latency.
"""

from __future__ import annotations

import gc
import json
import re
import socket
import socketserver
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import requests
from flask import Flask

from flask_mailesp import MailESP, Message

LATENCY = 0.05  # seconds
COUNT = 1_000
TEXT = "Thank you for your order.\n" * 8
TOKEN = {"X-Postmark-Server-Token": "a-token", "Accept": "application/json"}
KEY = {"X-Server-API-Key": "a-key"}
ROWS = [(n, f"user{n}@example.com") for n in range(COUNT)]

Work = Callable[[], object]


# --- the server ------------------------------------------------------------------------


@cache
def accepted(count: int) -> bytes:
    item = {
        "To": "user@example.com",
        "SubmittedAt": "2026-11-21T09:14:07.4410386Z",
        "MessageID": "5f0d7a52-9c1e-4b53-8a61-2e6f0c3d9b17",
        "ErrorCode": 0,
        "Message": "OK",
    }
    return json.dumps([item] * count).encode()


def answer(target: bytes, body: bytes) -> bytes:
    if target.startswith(b"/email/batch"):
        return accepted(body.count(b'"From"'))
    address = re.search(rb'"(user\d+@example\.com)"', body)
    assert address is not None
    data = {"messages": {address[1].decode(): {"id": 1, "token": "abcdef"}}}
    return json.dumps({"status": "success", "data": data}).encode()


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := take(connection):
            reply = answer(*request)
            time.sleep(LATENCY)
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}"
            )
            connection.sendall(f"{head}\r\n\r\n".encode() + reply)


def take(connection: socket.socket) -> tuple[bytes, bytes] | None:
    """Read one request; return its target and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, start = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = bytearray(start)
    while len(body) < length:
        body += connection.recv(1 << 20)
    return head.split(b" ", 2)[1], bytes(body)


@contextmanager
def server_process() -> Iterator[str]:
    """Run the server in a process of its own; yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_many", "serve"],
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
    socketserver.ThreadingTCPServer.request_queue_size = 64
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


# --- by hand ---------------------------------------------------------------------------


def batches_by_hand(url: str, session: requests.Session) -> Work:
    """Two calls of 500, one after the other."""

    def send() -> list[str]:
        ids = []
        for start in range(0, COUNT, 500):
            payload = [
                {
                    "From": "shop@example.com",
                    "To": address,
                    "Subject": f"Order {n}",
                    "TextBody": TEXT,
                }
                for n, address in ROWS[start : start + 500]
            ]
            reply = session.post(f"{url}/email/batch", json=payload, headers=TOKEN, timeout=30)
            ids += [item["MessageID"] for item in reply.json()]
        return ids

    return send


def pool_by_hand(url: str, sessions: list[requests.Session]) -> Work:
    """Eight threads, each with a session kept open."""
    free = list(sessions)

    def one(row: tuple[int, str]) -> object:
        n, address = row
        payload = {
            "from": "shop@example.com",
            "to": [address],
            "subject": f"Order {n}",
            "plain_body": TEXT,
        }
        session = free.pop()
        try:
            target = f"{url}/api/v1/send/message"
            return session.post(target, json=payload, headers=KEY, timeout=30).json()["data"]
        finally:
            free.append(session)

    def send() -> list[object]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, ROWS))

    return send


def merge_by_hand(url: str, session: requests.Session) -> Work:
    """The same JSON as the merge below: two calls of 500."""

    def send() -> list[str]:
        ids = []
        for start in range(0, COUNT, 500):
            payload = [
                {
                    "From": "shop@example.com",
                    "To": address,
                    "TemplateAlias": "welcome",
                    "TemplateModel": {"shop": "The Shop", "number": n},
                }
                for n, address in ROWS[start : start + 500]
            ]
            target = f"{url}/email/batchWithTemplates"
            reply = session.post(target, json={"Messages": payload}, headers=TOKEN, timeout=30)
            ids += [item["MessageID"] for item in reply.json()]
        return ids

    return send


# --- with the extension ----------------------------------------------------------------


def app_for(esp: str, url: str) -> MailESP:
    app = Flask(__name__)
    app.config.update(
        MAILESP_ESP=esp,
        MAILESP_POSTMARK_SERVER_TOKEN="a-token",
        MAILESP_POSTMARK_API_URL=url,
        MAILESP_POSTAL_API_KEY="a-key",
        MAILESP_POSTAL_API_URL=url,
    )
    mail = MailESP(app)
    app.app_context().push()
    return mail


def messages() -> Iterator[Message]:
    for n, address in ROWS:
        yield Message(f"Order {n}", [address], TEXT, sender="shop@example.com")


def many(esp: str, url: str) -> Work:
    mail = app_for(esp, url)

    def send() -> object:
        results = list(mail.send_many(messages(), workers=8))
        assert {result.outcome for result in results} == {"accepted"}
        return results

    return send


def merge(url: str) -> Work:
    mail = app_for("postmark", url)

    def send() -> object:
        message = Message(
            to=[address for _, address in ROWS],
            sender="shop@example.com",
            template_id="welcome",
            merge_global_data={"shop": "The Shop"},
            merge_data={address: {"number": n} for n, address in ROWS},
        )
        return mail.send(message)

    return send


# --- measuring -------------------------------------------------------------------------


def wall(work: Work) -> float:
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(title: str, contestants: Mapping[str, Work], goal: float, rounds: int) -> None:
    """Print the wall time of each, and the first one's median ratio to the last."""
    for work in contestants.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            taken[name].append(wall(work))
    ours, *_, hand = taken.values()
    print(f"\n{title}")
    for name, times in taken.items():
        print(f"  {statistics.median(times) * 1000:9.1f} ms  {name}")
    ratio = statistics.median(one / other for one, other in zip(ours, hand, strict=True))
    print(f"  {ratio:9.3f} × the time by hand (goal: at most {goal})")


def main() -> None:
    with server_process() as url, requests.Session() as session:
        compare(
            "Postmark, 1,000 messages",
            {"mail.send_many()": many("postmark", url), "by hand": batches_by_hand(url, session)},
            goal=0.7,
            rounds=15,
        )
        compare(
            "Postmark, a merge to 1,000 recipients",
            {"mail.send()": merge(url), "by hand": merge_by_hand(url, session)},
            goal=1.4,
            rounds=15,
        )
        sessions = [requests.Session() for _ in range(8)]
        compare(
            "Postal, 1,000 messages, 8 workers",
            {"mail.send_many()": many("postal", url), "by hand": pool_by_hand(url, sessions)},
            goal=1.05,
            rounds=2,
        )
        for one in sessions:
            one.close()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
