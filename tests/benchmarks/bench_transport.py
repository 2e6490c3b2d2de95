"""What the transport costs beside its peers: ``python -m tests.benchmarks.bench_transport``.

The contestants take turns within each round, and the median of the rounds' ratios is
printed, for absolute times move from run to run. CPU is this process's user and system
time; the server is a process of its own and does as little as it can.
"""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flask_mailesp.esp import HttpRequest
from flask_mailesp.transport import Transport
from flask_mailesp.wire import Base64, json_body

PAYLOAD = {"From": "me@example.com", "To": "you@example.com", "Subject": "Hello", "TextBody": "Hi"}
ANSWER = b'{"To":"you@example.com","MessageID":"b7bc2f4a","ErrorCode":0,"Message":"OK"}'
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "X-Server-Token": "0123456789abcdef",
}
ATTACHMENT = bytes(range(256)) * (20 * 1024 * 4)  # 20 MB

Contestant = Callable[[], object]


# --- the server --------------------------------------------------------------------------


def serve(ready: Connection, certificate: str | None, close: bool) -> None:
    """Answer every request alike, one thread per connection."""
    fields = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}"
    answer = f"{head}Content-Length: {len(ANSWER)}\r\n\r\n".encode() + ANSWER
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    ready.send(listener.getsockname()[1])
    while True:
        sock, _ = listener.accept()
        arguments = (sock, context, answer, close)
        threading.Thread(target=converse, args=arguments, daemon=True).start()


def converse(sock: socket.socket, tls: ssl.SSLContext | None, answer: bytes, close: bool) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        sock = tls.wrap_socket(sock, server_side=True)
    with sock:
        while take(sock):
            sock.sendall(answer)
            if close:
                return


def take(sock: socket.socket) -> bool:
    """Read one request; return whether there was one."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = sock.recv(65536)
        if not received:
            return False
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].split(b":")[1]) - len(body)
    buffer = bytearray(1 << 20)
    while left > 0:
        left -= sock.recv_into(buffer)
    return True


@contextmanager
def server(certificate: str | None = None, *, close: bool = False) -> Iterator[str]:
    """Run the server; yield its URL."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(theirs, certificate, close), daemon=True)
    process.start()
    port = ours.recv()
    yield f"https://localhost:{port}/email" if certificate else f"http://127.0.0.1:{port}/email"
    process.terminate()
    process.join()


def self_signed(directory: str) -> tuple[str, str]:
    """Write a certificate for localhost; return its path and that of a bundle of usual size."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    own, bundle = Path(directory, "server.pem"), Path(directory, "bundle.pem")
    own.write_bytes(private + encoded)
    usual = Path(requests.utils.DEFAULT_CA_BUNDLE_PATH).read_bytes()
    bundle.write_bytes(usual + b"\n" + encoded)
    return str(own), str(bundle)


# --- the contestants ---------------------------------------------------------------------


def ours(url: str, transport: Transport) -> Contestant:
    def send() -> None:
        body = json.dumps(PAYLOAD).encode()
        transport.send(HttpRequest("POST", url, HEADERS, body)).json()

    return send


def with_session_post(url: str, session: requests.Session, verify: str | None = None) -> Contestant:
    def send() -> None:
        session.post(url, json=PAYLOAD, headers=HEADERS, timeout=30, verify=verify).json()

    return send


def with_prepared(url: str, session: requests.Session) -> Contestant:
    session.trust_env = False
    prepared = requests.Request("POST", url, HEADERS, data=json.dumps(PAYLOAD)).prepare()
    return lambda: session.send(prepared, timeout=30).json()


def with_urllib3(url: str, manager: urllib3.PoolManager) -> Contestant:
    def send() -> None:
        body = json.dumps(PAYLOAD).encode()
        json.loads(manager.request("POST", url, body=body, headers=HEADERS).data)

    return send


def with_http_client(url: str) -> Contestant:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def send() -> None:
        connection.request("POST", parts.path, json.dumps(PAYLOAD).encode(), HEADERS)
        json.loads(connection.getresponse().read())

    return send


# --- measuring ---------------------------------------------------------------------------


def cpu(contestant: Contestant, times: int) -> float:
    start = process_time()
    for _ in range(times):
        contestant()
    return (process_time() - start) / times


def compare(title: str, contestants: dict[str, Contestant], rounds: int, times: int) -> None:
    """Print each contestant's CPU time as a ratio to that of the last."""
    for contestant in contestants.values():
        cpu(contestant, min(times, 20))
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(cpu(contestant, times))
    *_, reference = found.values()
    print(f"\n{title}")
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
        print(f"  {name:<44}{statistics.median(values) * 1e6:>9.0f} µs{ratio:>8.3f}")


def small_messages() -> None:
    with server() as url, requests.Session() as session, requests.Session() as bare:
        transport = Transport()
        compare(
            "A small message over HTTP, kept open (goal: transport ≤ 0.50)",
            {
                "http.client": with_http_client(url),
                "this transport": ours(url, transport),
                "urllib3.PoolManager": with_urllib3(url, urllib3.PoolManager()),
                "requests, prepared once": with_prepared(url, bare),
                "requests.Session.post(json=)": with_session_post(url, session),
            },
            rounds=25,
            times=100,
        )
        transport.close()


def secure_messages(*, close: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        certificate, bundle = self_signed(directory)
        with server(certificate, close=close) as url, requests.Session() as session:
            transport = Transport(verify=bundle)
            title = "new connection (goal: ≤ 0.12)" if close else "kept open (goal: ≤ 0.72)"
            compare(
                f"A small message over HTTPS, {title}",
                {
                    "this transport": ours(url, transport),
                    "requests.Session.post(json=)": with_session_post(url, session, bundle),
                },
                rounds=15,
                times=5 if close else 50,
            )
            transport.close()


def large_payload() -> dict[str, Any]:
    return {**PAYLOAD, "Attachments": [{"Name": "a.bin", "Content": Base64(ATTACHMENT)}]}


def large_ours(url: str, transport: Transport) -> Contestant:
    def send() -> None:
        transport.send(HttpRequest("POST", url, HEADERS, json_body(large_payload())))

    return send


def large_with_requests(url: str) -> Contestant:
    def send() -> None:
        content = base64.b64encode(ATTACHMENT).decode()
        payload = {**PAYLOAD, "Attachments": [{"Name": "a.bin", "Content": content}]}
        requests.post(url, json=payload, headers=HEADERS, timeout=30)

    return send


def large_with_http_client(url: str) -> Contestant:
    """The limit: base64 in chunks between a head and a tail, straight to http.client."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def send() -> None:
        body = json_body(large_payload())
        headers = {**HEADERS, "Content-Length": str(len(body))}
        connection.request("POST", parts.path, iter(body), headers)  # type: ignore[arg-type]
        connection.getresponse().read()

    return send


def peak(contestant: Contestant) -> float:
    """MB of Python memory at the highest point, above what there was before."""
    tracemalloc.start()
    contestant()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1e6


def large_messages() -> None:
    with server() as url:
        transport = Transport()
        contestants = {
            "http.client, base64 in chunks": large_with_http_client(url),
            "this transport": large_ours(url, transport),
            "requests.post(json=)": large_with_requests(url),
        }
        compare("A 20 MB attachment (goal: ≤ 1.25 × http.client)", contestants, rounds=7, times=2)
        for name, contestant in contestants.items():
            print(f"  {name:<44}{peak(contestant):>9.1f} MB peak")
        transport.close()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  (largest RSS of the whole run: {rss / 1024:.0f} MB)")


def main() -> None:
    print(f"Python {sys.version.split()[0]}, requests {requests.__version__}, CPU per message")
    small_messages()
    secure_messages(close=False)
    secure_messages(close=True)
    large_messages()


if __name__ == "__main__":
    main()
