"""The long runs: threads, forked children, and 20,000 sends with constant memory.

``python -m tests.benchmarks.soak``: 16 threads × 200 sends and 4 forked children × 100 sends,
none of which may get another's answer; then 20,000 sends one by one and 20,000 by
``send_many()``, with what the process takes after each 2,000. Goals: memory grows by less than
10 MB after the first 2,000, and the number of open files stays as it is (but for connections
that are kept open: up to four, as many as there are batches on the wire at once). Linux only:
it reads /proc. The server is a process of its own.
"""

from __future__ import annotations

import gc
import os
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask

from flask_mailesp import Message

from . import soaking

COUNT = 20_000
STEP = 2_000


# --- the server ------------------------------------------------------------------------


class Handler(socketserver.StreamRequestHandler):
    """Answers each message with its subject as the id."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while length := self.length_of_body():
            reply = soaking.subject_as_id(self.rfile.read(length))
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply)}\r\n\r\n"
            self.request.sendall(head.encode() + reply)

    def length_of_body(self) -> int:
        length = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return length


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64
    address_family = socket.AF_INET


@contextmanager
def server_process() -> Iterator[str]:
    """Run the server in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "tests.benchmarks.soak", "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def serve() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


# --- what a process takes --------------------------------------------------------------


def resident() -> float:
    """Return the resident memory in MB, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def watch(title: str, send: Callable[[int], object]) -> None:
    """Send in steps; print the growth after each, and the sums."""
    print(f"\n{title}")
    started = time.perf_counter()
    send(STEP)
    first, files = resident(), open_files()
    for done in range(2 * STEP, COUNT + 1, STEP):
        send(STEP)
        print(f"  {done:6,}: {resident() - first:+6.2f} MB, {open_files() - files:+} files")
    seconds = time.perf_counter() - started
    print(f"  {COUNT / seconds:,.0f} a second; goal: less than 10 MB, 0 files")


def one_by_one(app: Flask) -> Callable[[int], object]:
    return lambda count: soaking.crossed(app, "soak", count)


def many(app: Flask) -> Callable[[int], object]:
    def send(count: int) -> None:
        messages = (Message(f"No. {n}", f"user{n}@example.com", "Hi") for n in range(count))
        with app.app_context():
            wrong = sum(
                result.message_id != f"No. {n}"
                for n, result in enumerate(soaking.MAIL.send_many(messages))
            )
        assert not wrong

    return send


def main() -> None:
    with server_process() as url:
        app = soaking.app_for(url)
        wrong = soaking.crossed_in_children(app, children=4, count=100)
        print(f"4 forked children × 100 sends: {wrong} crossed responses")
        wrong = soaking.crossed_in_threads(app, threads=16, count=200)
        print(f"16 threads × 200 sends: {wrong} crossed responses")
        app.extensions["mailesp"].transport.close()
        watch("20,000 sends, one by one", one_by_one(app))
        watch("20,000 messages by send_many()", many(app))


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
