"""A 20 MB attachment: peak memory above the message, and CPU.

``python -m tests.benchmarks.bench_attachment``; the goals: peak at most twice the
attachment (aim: 3 MB), CPU at most 1.25 times http.client with spliced base64.
"""

from __future__ import annotations

import base64
import http.client
import tracemalloc
from collections.abc import Callable
from urllib.parse import urlsplit

import requests
from flask import Flask

from flask_mailesp import MailESP, Message

from .bench_send import server_process
from .ratios import compare

SIZE = 20 * 1024 * 1024
DATA = bytes(range(256)) * (SIZE // 256)


def peak_of(work: Callable[[], object]) -> float:
    """Return the peak of memory that some work takes, in MB."""
    work()
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1024 / 1024


def main() -> None:
    """Print the tables."""
    with server_process() as url:
        parts = urlsplit(url)
        app = Flask(__name__)
        app.config.update(
            MAILESP_ESP="postmark",
            MAILESP_POSTMARK_SERVER_TOKEN="a-token",
            MAILESP_POSTMARK_API_URL=url,
            MAILESP_SEND_DEFAULTS={"sender": "shop@example.com"},
        )
        mail = MailESP(app)
        message = Message("Large", to="you@example.com", body="See the file.")
        message.attach("large.bin", "application/octet-stream", DATA)
        session = requests.Session()

        def by_extension() -> object:
            return mail.send(message)

        def by_requests() -> object:
            content = base64.b64encode(DATA).decode()
            payload = {"To": "you@example.com", "Attachments": [{"Content": content}]}
            return session.post(f"{url}/email", json=payload, timeout=30).json()

        def by_http_client() -> object:
            body = b'{"Attachments":[{"Content":"' + base64.b64encode(DATA) + b'"}]}'
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
            connection.request("POST", "/email", body, {"Content-Type": "application/json"})
            answer = connection.getresponse().read()
            connection.close()
            return answer

        with app.app_context():
            contestants = {
                "mail.send(Message(...))": by_extension,
                "requests.post(json=)": by_requests,
                "http.client, spliced": by_http_client,
            }
            print("\nOne 20 MB attachment: peak memory above the message")
            for name, work in contestants.items():
                print(f"  {peak_of(work):7.1f} MB  {name}")
            compare(
                "The same: CPU",
                contestants,
                base="http.client, spliced",
                times=2,
                rounds=9,
                goals={"mail.send(Message(...))": 1.25},
            )


if __name__ == "__main__":
    main()
