"""The transport: what a fault at any point of an exchange means for the message.

Rows of the fault table are at the level of HTTP; what an ESP's answer means is not here.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import io
import json
import os
import pickle
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from requests.adapters import HTTPAdapter
from scripted import (
    Close,
    Drip,
    Early,
    Flood,
    Item,
    Raw,
    ReadNothing,
    Reply,
    Request,
    Reset,
    ScriptedServer,
    Stall,
    Tunnel,
    scripted,
)

import flask_mailesp
from flask_mailesp.esp import HttpRequest, HttpResponse
from flask_mailesp.exceptions import MailESPError, NotSentError, SendUncertainError
from flask_mailesp.transport import Transport
from flask_mailesp.wire import Base64, Pieces

OK = Reply(200, b'{"ok":true}')
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport with time enough for anything that works."""
    made = Transport(total_timeout=10, max_response=100_000, trust_env=False)
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[Transport]:
    """A transport that gives up after 0.3 seconds."""
    made = Transport(connect_timeout=0.3, total_timeout=0.3, trust_env=False)
    yield made
    made.close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is said about proxies and certificates."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)
    return monkeypatch


def post(url: str, body: bytes | Pieces = b"{}", **headers: str) -> HttpRequest:
    return HttpRequest("POST", url, {n.replace("_", "-"): v for n, v in headers.items()}, body)


def failure(transport: Transport, *args: Any, **kwargs: Any) -> MailESPError:
    """Send, and return the error that it raises."""
    with pytest.raises(MailESPError) as caught:
        transport.send(post(*args, **kwargs))
    return caught.value


# --- what goes out -----------------------------------------------------------------------


def test_a_request_goes_out_as_given(transport: Transport) -> None:
    """Method, target, headers and body reach the wire; framing and defaults are added."""
    with scripted(OK) as server:
        response = transport.send(post(f"{server.url}/email?a=b%20c#part", b"body", X_Key="secret"))

    [request] = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/email?a=b%20c", b"body")
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": request.headers["user-agent"],
        "accept": "*/*",
        "x-key": "secret",
        "accept-encoding": "identity",
        "content-length": "4",
    }
    assert response == HttpResponse(200, {"content-length": "11"}, OK.body, True)


def test_the_user_agent_names_package_and_library(transport: Transport) -> None:
    with scripted(OK) as server:
        transport.send(post(server.url))

    agent = server.requests[0].headers["user-agent"]
    assert agent.startswith("Flask-MailESP/")
    assert agent.endswith(f"(+requests/{requests.__version__})")


def test_given_headers_override_defaults_in_any_case(transport: Transport) -> None:
    """A User-Agent and an Accept are the ESP's to choose; a Content-Length is not."""
    with scripted(OK) as server:
        transport.send(
            HttpRequest(
                "POST", server.url, {"user-agent": "mine", "ACCEPT": "a/b", "content-length": "9"}
            )
        )

    headers = server.requests[0].headers
    assert (headers["user-agent"], headers["accept"]) == ("mine", "a/b")
    assert headers["content-length"] == "0"


def test_a_request_without_path_asks_for_the_root(transport: Transport) -> None:
    with scripted(OK) as server:
        transport.send(HttpRequest("GET", server.url))

    assert server.requests[0].target == "/"
    assert "content-length" not in server.requests[0].headers


def test_a_body_in_pieces_goes_out_with_its_length(transport: Transport) -> None:
    """An attachment is encoded while it is sent, and not chunked: not every ESP reads that."""
    body = Pieces([b'{"a":"', Base64(b"x" * 300_000), b'"}'])
    with scripted(OK) as server:
        transport.send(post(server.url, body))

    [request] = server.requests
    assert "transfer-encoding" not in request.headers
    assert request.headers["content-length"] == str(len(body))
    assert request.body == bytes(body)


def test_a_large_body_of_bytes_goes_out_whole(transport: Transport) -> None:
    body = os.urandom(3_000_000)
    with scripted(OK) as server:
        transport.send(post(server.url, body))

    assert server.requests[0].body == body


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "a\r\nBcc: b"),
        ("X-A", "a\nb"),
        ("X-A", "a\rb"),
        ("X-A", "a\r\n folded"),
        ("X-A", "a\0b"),
        ("X-A", "\x0b"),
        ("X-A", "€"),
        ("X-A\r\nB", "c"),
        ("X A", "b"),
        ("X-Á", "b"),
        ("", "b"),
    ],
)
def test_a_header_that_http_cannot_carry_is_not_sent(
    transport: Transport, header: tuple[str, str]
) -> None:
    """A line break in a header would be another header; nothing is even connected."""
    with scripted(OK) as server:
        with pytest.raises(NotSentError, match="a header holds a character"):
            transport.send(HttpRequest("POST", server.url, dict([header])))

        assert server.connections == 0


@pytest.mark.parametrize("method", ["", "POST /x HTTP/1.1\r\nX:", "PÖST"])
def test_a_method_that_is_none_is_not_sent(transport: Transport, method: str) -> None:
    with pytest.raises(NotSentError, match="its method"):
        transport.send(HttpRequest(method, "http://localhost/"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "ftp://example.com/",
        "https://",
        "https:///path",
        "https://user:password@example.com/",
        "http://example.com/a b",
        "http://example.com/a\r\nX: y",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://[::1/",
        "http://" + "a" * 70 + ".example.com/",
    ],
)
def test_an_unusable_url_is_not_sent(transport: Transport, url: str) -> None:
    """The text does not repeat the URL: it may hold a credential."""
    error = failure(transport, url)

    assert isinstance(error, NotSentError)
    assert "password" not in str(error)


# --- what comes back ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 301, 307, 400, 401, 404, 422, 429, 500, 503])
def test_every_status_is_returned(transport: Transport, status: int) -> None:
    """What a status means is for the ESP's ``read`` to say."""
    with scripted(Reply(status, b"" if status == 204 else b"text")) as server:
        response = transport.send(post(server.url))

    assert response.status == status
    assert response.complete


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(transport: Transport, status: int) -> None:
    """Following it would hand the credential, and perhaps the message, to another host."""
    with scripted(OK) as other:
        with scripted(Reply(status, headers={"Location": f"{other.url}/x"})) as server:
            response = transport.send(post(server.url))

        assert response.status == status
        assert response.headers["location"] == f"{other.url}/x"
        assert other.connections == 0


def test_response_headers_have_lower_case_names_and_are_joined(transport: Transport) -> None:
    """RFC 9110 section 5.3: repeated fields are one list."""
    with scripted(HEAD + b"X-One: 1\r\nx-one: 2\r\nContent-Length: 0\r\n\r\n") as server:
        response = transport.send(post(server.url))

    assert response.headers == {"x-one": "1, 2", "content-length": "0"}


def test_an_interim_answer_is_passed_over(transport: Transport) -> None:
    with scripted(b"HTTP/1.1 100 Continue\r\n\r\n" + bytes(OK)) as server:
        assert transport.send(post(server.url)).body == OK.body


def test_a_chunked_body_is_joined(transport: Transport) -> None:
    chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    reply = Raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, keep=True)
    with scripted(reply) as server:
        responses = [transport.send(post(server.url)) for _ in range(2)]

    assert [(r.body, r.complete) for r in responses] == [(b"abcde", True)] * 2
    assert server.connections == 1


def test_a_body_without_length_ends_with_the_connection(transport: Transport) -> None:
    with scripted(HEAD + b"\r\nabc") as server:
        responses = [transport.send(post(server.url)) for _ in range(2)]

    assert [(r.body, r.complete) for r in responses] == [(b"abc", True)] * 2
    assert server.connections == 2


def test_an_answer_to_head_has_no_body(transport: Transport) -> None:
    with scripted(Raw(HEAD + b"Content-Length: 9\r\n\r\n", keep=True)) as server:
        response = transport.send(HttpRequest("HEAD", server.url))

    assert (response.body, response.complete) == (b"", True)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "wire", "body", "complete"),
    [
        ("gzip", gzip.compress(b"text"), b"text", True),
        ("x-gzip", gzip.compress(b"text"), b"text", True),
        ("GZIP", gzip.compress(b"text"), b"text", True),
        ("deflate", zlib.compress(b"text"), b"text", True),
        ("deflate", deflated(b"text"), b"text", True),
        ("identity", b"text", b"text", True),
        ("gzip", b"", b"", True),
        ("br", b"text", b"text", False),
        ("gzip, gzip", b"text", b"text", False),
        ("gzip", b"not gzip", b"", False),
        ("gzip", b'{"not":"gzip"}', b"", False),
        ("gzip", gzip.compress(b"text")[:-8], b"text", False),
        ("gzip", gzip.compress(b"text") + b"more", b"text", False),
        ("gzip", gzip.compress(b"text")[:-8] + bytes(8), b"", False),
    ],
)
def test_a_compressed_body_is_decoded_or_incomplete(
    transport: Transport, coding: str, wire: bytes, body: bytes, complete: bool
) -> None:
    """We ask for ``identity``; a server that compresses all the same is understood."""
    with scripted(Reply(200, wire, {"Content-Encoding": coding})) as server:
        response = transport.send(post(server.url))

    assert (response.body, response.complete) == (body, complete)


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    """100 MB of zeros in 100 kB cost no more memory than the limit suggests."""
    transport = Transport(max_response=1_000_000, trust_env=False)
    bomb = Reply(200, gzip.compress(bytes(100_000_000), 9), {"Content-Encoding": "gzip"})
    with scripted(OK, bomb) as server:
        transport.send(post(server.url))
        tracemalloc.start()
        response = transport.send(post(server.url))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    transport.close()

    assert response.status == 200
    assert (response.body, response.complete) == (bytes(1_000_000), False)
    assert peak < 4_000_000


# --- connections -------------------------------------------------------------------------


def test_a_connection_is_kept_and_used_again(transport: Transport) -> None:
    with scripted(OK) as server:
        for path in "abc":
            transport.send(post(f"{server.url}/{path}"))

        assert server.connections == 1
        assert [r.target for r in server.requests] == ["/a", "/b", "/c"]


def test_a_connection_is_kept_across_threads(transport: Transport) -> None:
    """Threads that end, as a web server's may, do not take their connection with them."""
    with scripted(OK) as server:
        for _ in range(3):
            thread = threading.Thread(target=transport.send, args=(post(server.url),))
            thread.start()
            thread.join()

        assert server.connections == 1


def test_a_connection_the_server_has_closed_is_replaced(transport: Transport) -> None:
    """A stale connection is noticed before anything goes out on it."""
    with scripted(OK) as server:
        transport.send(post(server.url))
        server.hang_up()
        assert transport.send(post(server.url)).status == 200
        assert server.connections == 2


def test_a_connection_long_idle_is_replaced(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been dropped on the way without a word, and the message with it."""
    with scripted(OK) as server:
        transport.send(post(server.url))
        monkeypatch.setattr("flask_mailesp.transport._MAX_IDLE_SECONDS", 0.0)
        transport.send(post(server.url))

        assert server.connections == 2


def test_a_connection_that_dies_after_the_request_is_not_tried_again(
    transport: Transport,
) -> None:
    """A kept-alive connection that ends unanswered may have delivered the message."""
    with scripted(OK, Close(after="request"), OK) as server:
        transport.send(post(server.url))
        error = failure(transport, server.url)

        assert isinstance(error, SendUncertainError)
        assert len(server.requests) == 2
        assert transport.send(post(server.url)).status == 200


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"x", close=True),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        Raw(HEAD + b"Content-Length: 200000\r\n\r\n" + bytes(200_000), keep=True),
    ],
    ids=["Connection: close", "HTTP/1.0", "not read to its end"],
)
def test_a_connection_that_cannot_be_used_again_is_closed(
    transport: Transport, reply: Item
) -> None:
    with scripted(reply, OK) as server:
        transport.send(post(server.url))
        assert transport.send(post(server.url)).body == OK.body
        assert server.connections == 2


def test_closing_closes_what_is_idle_and_nothing_more(transport: Transport) -> None:
    with scripted(OK) as server:
        transport.send(post(server.url))
        transport.close()
        transport.send(post(server.url))

        assert server.connections == 2


def test_many_destinations_are_not_all_remembered(transport: Transport) -> None:
    """URLs that differ for each message do not fill the memory."""
    with scripted(OK) as server:
        for number in range(50):
            transport.send(post(f"{server.url}/{number}"))

    assert [r.target for r in server.requests] == [f"/{n}" for n in range(50)]


def test_more_adapters_than_are_kept_are_closed(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_mailesp.transport._MAX_IDLE_ADAPTERS", 0)
    with scripted(OK) as server:
        transport.send(post(server.url))
        transport.send(post(server.url))

        assert server.connections == 2


def echo(request: Request) -> Item:
    return Reply(200, request.body)


def test_threads_never_get_each_others_answers(transport: Transport) -> None:
    def ask(number: int) -> bool:
        bodies = [f"{number}-{turn}".encode() for turn in range(50)]
        return all(transport.send(post(server.url, body)).body == body for body in bodies)

    with scripted(echo) as server, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
        assert server.connections <= 16


FORKING = """
    import os, sys
    from flask_mailesp.esp import HttpRequest
    from flask_mailesp.transport import Transport

    url = sys.argv[1]
    transport = Transport(trust_env=False)

    def ask(body):
        assert transport.send(HttpRequest("POST", url, {}, body)).body == body

    def child(number):
        for turn in range(25):
            ask(b"%d-%d" % (number, turn))

    ask(b"parent before")
    children = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            try:
                child(number)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    ask(b"parent meanwhile")
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    ask(b"parent after")
    transport.close()
"""


def run(script: str, *args: str, **environment: str) -> None:
    """Run a script in a Python of its own, in which any warning is an error."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *args],
        check=True,
        timeout=30,
        env=os.environ | environment,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_do_not_use_their_parents_connection() -> None:
    """With prefork servers, parent and children each have connections of their own."""
    with scripted(echo) as server:
        run(FORKING, server.url)

    connections: dict[str, set[int]] = {}
    for request in server.requests:
        connections.setdefault(request.body.decode().split("-")[0], set()).add(request.connection)
    parent = [connections[f"parent {when}"] for when in ("before", "meanwhile", "after")]
    assert parent == [{1}] * 3
    assert sorted(map(len, connections.values())) == [1] * 7
    assert server.connections == 5


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_sockets_do_not_accumulate() -> None:
    """Neither answers nor failures leave a file descriptor behind."""
    transport = Transport(trust_env=False)
    script: list[Item] = [OK, b"garbage", Raw(HEAD + b"Content-Length: 9\r\n\r\nx"), Reset()]
    with scripted(*script * 75, OK) as server:

        def send() -> None:
            with contextlib.suppress(SendUncertainError):
                transport.send(post(server.url))

        for _ in range(8):
            send()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(292):
            send()
        transport.close()
        after = len(os.listdir("/proc/self/fd"))
    assert after <= before


def test_a_forgotten_transport_closes_its_connections() -> None:
    """No ResourceWarning for those who never call ``close()``."""
    with scripted(OK) as server:
        Transport(trust_env=False).send(post(server.url))


def test_an_interrupted_send_closes_its_connection(transport: Transport) -> None:
    """KeyboardInterrupt and a greenlet's time-out pass through, and nothing is left half read."""

    class Interrupted(BaseException):
        pass

    class Interrupting(Pieces):
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            raise Interrupted

    with scripted(OK) as server:
        transport.send(post(server.url))
        with pytest.raises(Interrupted):
            transport.send(post(server.url, Interrupting([b"first and second"])))
        assert transport.send(post(server.url)).status == 200
        assert server.connections == 2


# --- certainly not sent ------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_refused_connection_is_not_sent(transport: Transport) -> None:
    port = unused_port()
    error = failure(transport, f"http://127.0.0.1:{port}/path?token=x")

    assert isinstance(error, NotSentError)
    assert str(error) == (
        f"127.0.0.1:{port} could not be reached: connection refused. Nothing was sent."
    )


def test_an_unknown_name_is_not_sent(transport: Transport) -> None:
    """RFC 6761: no name under .invalid exists."""
    error = failure(transport, "https://api.invalid/")

    assert isinstance(error, NotSentError)
    assert "api.invalid:443 could not be reached: its name could not be resolved" in str(error)


def test_a_connection_that_does_not_come_about_is_not_sent(hasty: Transport) -> None:
    """A listener whose backlog is full does not answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        error = failure(hasty, f"http://127.0.0.1:{address[1]}")
        for sock in waiting:
            sock.close()

    assert isinstance(error, NotSentError)
    assert "no connection within 0.3 s" in str(error)


def test_the_next_address_is_tried(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address may be of a family the system lacks, one may refuse, and one answer."""
    with scripted(OK) as server:
        stream = (socket.SOCK_STREAM, 0, "")
        found = [
            (9999, *stream, ("::1", server.port, 0, 0)),
            (socket.AF_INET, *stream, ("127.0.0.1", unused_port())),
            (socket.AF_INET, *stream, ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

        assert transport.send(post("http://two.example/")).status == 200


def test_a_name_without_addresses_is_not_sent(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])

    assert isinstance(failure(transport, "http://none.example/"), NotSentError)


def test_an_interrupted_connect_leaves_no_socket(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "connect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        transport.send(post("http://127.0.0.1:9/"))


# --- TLS ---------------------------------------------------------------------------------


class Authority(NamedTuple):
    """A certificate authority made for the tests."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: str

    def server(self, directory: Path, host: str, *, days: int = 2) -> ssl.SSLContext:
        """A server's context, with a certificate for ``host`` that ends in ``days`` days."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            certificate_for(host, key, days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        path = directory / f"{host}{days}.pem"
        path.write_bytes(pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_for(
    name: str, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
    )


def authority(directory: Path, name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        certificate_for(name, key, 9)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(key, certificate, str(path))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def trusted(certificates: Path) -> Authority:
    return authority(certificates, "trusted")


@pytest.fixture(scope="module")
def localhost(certificates: Path, trusted: Authority) -> ssl.SSLContext:
    """A TLS server's context that ought to be accepted."""
    return trusted.server(certificates, "localhost")


@pytest.fixture
def trusting(trusted: Authority) -> Iterator[Transport]:
    """A transport that trusts the tests' authority."""
    made = Transport(total_timeout=10, verify=trusted.path, trust_env=False)
    yield made
    made.close()


def test_a_trusted_server_is_sent_to(trusting: Transport, localhost: ssl.SSLContext) -> None:
    with scripted(echo, tls=localhost) as server:
        bodies = [trusting.send(post(server.url, body)).body for body in (b"a", b"b" * 300_000)]

        assert bodies == [b"a", b"b" * 300_000]
        assert server.connections == 1


def test_the_ca_bundle_is_read_once(
    trusting: Transport, localhost: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it costs ten times what the handshake does."""
    reads: list[object] = []
    load = ssl.SSLContext.load_verify_locations

    def count(context: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        reads.append(context)
        load(context, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", count)
    with scripted(Reply(close=True), tls=localhost) as server:
        for _ in range(3):
            trusting.send(post(server.url))

        assert server.connections == 3
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("host", "days", "signer", "reason"),
    [
        ("localhost", 2, "unknown", "unable to get local issuer certificate"),
        ("example.com", 2, "trusted", "Hostname mismatch"),
        ("localhost", -1, "trusted", "certificate has expired"),
    ],
)
def test_an_untrusted_certificate_is_not_sent_to(
    trusting: Transport,
    trusted: Authority,
    certificates: Path,
    host: str,
    days: int,
    signer: str,
    reason: str,
) -> None:
    """Not a byte of the request goes out, as the server sees too; nor will it help to wait."""
    issuer = trusted if signer == "trusted" else authority(certificates, signer)
    context = issuer.server(certificates, host, days=days)
    with scripted(OK, tls=context) as server:
        error = failure(trusting, server.url)

    assert isinstance(error, NotSentError)
    assert error.may_pass is False
    assert reason in str(error)
    assert server.requests == []


def test_the_default_bundle_does_not_trust_the_tests(
    transport: Transport, localhost: ssl.SSLContext
) -> None:
    with scripted(OK, tls=localhost) as server:
        assert isinstance(failure(transport, server.url), NotSentError)


def test_verification_can_be_turned_off_explicitly(localhost: ssl.SSLContext) -> None:
    """Whether that is allowed is the extension's to say."""
    off: Any = {"verify": False}
    transport = Transport(trust_env=False, **off)
    with scripted(OK, tls=localhost) as server:
        assert transport.send(post(server.url)).status == 200
    transport.close()


def test_a_directory_of_authorities_is_used(
    tmp_path: Path, trusted: Authority, localhost: ssl.SSLContext
) -> None:
    """OpenSSL looks files up by a hash of the subject, so an empty one trusts nobody."""
    transport = Transport(verify=str(tmp_path), trust_env=False)
    with scripted(OK, tls=localhost) as server:
        assert "not trusted" in str(failure(transport, server.url))


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    transport = Transport(verify=str(tmp_path / "none.pem"), trust_env=False)
    error = failure(transport, "https://localhost/")

    assert isinstance(error, NotSentError)
    assert "none.pem cannot be read" in str(error)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environment_may_name_the_bundle(
    environment: pytest.MonkeyPatch, name: str, trusted: Authority, localhost: ssl.SSLContext
) -> None:
    environment.setenv(name, trusted.path)
    environment.setenv("NO_PROXY", "*")
    transport = Transport()
    with scripted(OK, tls=localhost) as server:
        assert transport.send(post(server.url)).status == 200
    transport.close()


def test_a_server_that_speaks_no_tls_is_not_sent_to(trusting: Transport) -> None:
    with scripted(Early(bytes(Reply(400)), after="accept")) as server:
        error = failure(trusting, server.url.replace("http:", "https:"))

    assert isinstance(error, NotSentError)
    assert server.requests == []


def test_a_handshake_that_stalls_is_not_sent(hasty: Transport) -> None:
    with scripted(ReadNothing()) as server:
        error = failure(hasty, server.url.replace("http:", "https:"))

    assert isinstance(error, NotSentError)
    assert "no connection within 0.3 s" in str(error)


@pytest.mark.parametrize("after", ["accept", "request"])
def test_a_tls_connection_that_breaks_off_is_told_apart(
    trusting: Transport, localhost: ssl.SSLContext, after: Any
) -> None:
    """In the handshake nothing was sent; later something was."""
    with scripted(Close(after=after), tls=localhost) as server:
        error = failure(trusting, server.url)

    assert type(error) is (NotSentError if after == "accept" else SendUncertainError)


# --- proxies -----------------------------------------------------------------------------


def test_a_proxy_from_the_environment_is_used(environment: pytest.MonkeyPatch) -> None:
    """Plain HTTP is forwarded by it, with the proxy's credential on the request."""
    with scripted(OK) as proxy:
        address = proxy.url.replace("http://", "http://me:secret@")
        environment.setenv("http_proxy", address)
        transport = Transport()
        transport.send(post("http://api.example.com/email"))
        transport.close()

    [request] = proxy.requests
    assert request.target == "http://api.example.com:80/email"
    assert request.headers["host"] == "api.example.com"
    assert request.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_a_proxy_without_a_scheme_is_an_http_proxy(environment: pytest.MonkeyPatch) -> None:
    with scripted(OK) as proxy:
        environment.setenv("http_proxy", proxy.url.removeprefix("http://"))
        transport = Transport()
        transport.send(post("http://api.example.com/"))
        transport.close()

    assert len(proxy.requests) == 1


def test_https_goes_through_a_tunnel(
    environment: pytest.MonkeyPatch, trusted: Authority, localhost: ssl.SSLContext
) -> None:
    """The proxy sees its own credential and the server's name, and nothing of the request."""
    with scripted(Tunnel(localhost), OK) as proxy:
        environment.setenv("https_proxy", proxy.url.replace("http://", "http://me:secret@"))
        transport = Transport(verify=trusted.path)
        for _ in range(2):
            assert transport.send(post("https://localhost/email", X_Key="key")).status == 200
        transport.close()

    connect, *sent = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", "localhost:443")
    assert connect.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert "x-key" not in connect.headers
    assert [(r.target, r.headers["host"]) for r in sent] == [("/email", "localhost")] * 2
    assert "proxy-authorization" not in sent[0].headers
    assert proxy.connections == 1


def test_a_proxy_may_itself_speak_tls(
    environment: pytest.MonkeyPatch, trusted: Authority, localhost: ssl.SSLContext
) -> None:
    with scripted(OK, tls=localhost) as proxy:
        environment.setenv("http_proxy", proxy.url)
        transport = Transport(verify=trusted.path)
        assert transport.send(post("http://api.example.com/")).status == 200
        transport.close()


@pytest.mark.parametrize(
    "answer",
    [Reply(407, close=True), Reply(502, close=True), Close(), b"garbage", Stall()],
    ids=["407", "502", "closed", "garbage", "stall"],
)
def test_a_proxy_that_refuses_means_not_sent(environment: pytest.MonkeyPatch, answer: Item) -> None:
    with scripted(answer) as proxy:
        environment.setenv("https_proxy", proxy.url)
        transport = Transport(connect_timeout=0.3)
        error = failure(transport, "https://api.example.com/")

    assert isinstance(error, NotSentError)
    assert f"through the proxy 127.0.0.1:{proxy.port}" in str(error)
    assert [r.method for r in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize("proxy", ["socks5://localhost:1", "http://", "ftp://localhost"])
def test_an_unusable_proxy_means_not_sent(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("http_proxy", proxy)

    assert isinstance(failure(Transport(), "http://api.example.com/"), NotSentError)


def test_hosts_may_be_exempt_from_the_proxy(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    environment.setenv("no_proxy", "127.0.0.1")
    transport = Transport()
    with scripted(OK) as server:
        assert transport.send(post(server.url)).status == 200
    transport.close()


def test_the_environment_can_be_left_out(
    environment: pytest.MonkeyPatch, transport: Transport
) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    with scripted(OK) as server:
        assert transport.send(post(server.url)).status == 200


def test_netrc_does_not_replace_the_credential(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """requests itself would put the file's password in place of the bearer token."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password wrong\n")
    netrc.chmod(0o600)
    environment.setenv("NETRC", str(netrc))
    environment.setenv("HOME", str(tmp_path))
    transport = Transport()
    with scripted(OK) as server:
        transport.send(post(server.url, Authorization="Bearer right"))
    transport.close()

    assert server.requests[0].headers["authorization"] == "Bearer right"


# --- uncertain ---------------------------------------------------------------------------

BIG = bytes(30_000_000)  # more than the buffers of both sides hold

UNCERTAIN: dict[str, tuple[Item, bytes, str]] = {
    "reset before the body was read": (Reset(after="headers"), b"{}", "broke off|closed"),
    "reset while the body was sent": (Reset(after="headers"), BIG, "broke off|closed"),
    "reset after the request": (Reset(after="request"), b"{}", "broke off|closed"),
    "reset within the headers": (Reset(first=HEAD), b"{}", "broke off|closed|not HTTP"),
    "closed after the request": (Close(after="request"), b"{}", "closed the connection"),
    "no answer": (Stall(), b"{}", "did not answer within 0.3 s"),
    "a stop within the headers": (Stall(HEAD + b"Content-"), b"{}", "within 0.3 s"),
    "headers that drip": (Drip(bytes(OK)), b"{}", "within 0.3 s"),
    "a server that stops reading": (ReadNothing(), BIG, "within 0.3 s"),
    "garbage": (b"220 mail.example.com ESMTP\r\n", b"{}", "not HTTP"),
    "an empty status line": (b"\r\n\r\n", b"{}", "not HTTP"),
    "no final answer": (b"HTTP/1.1 103 Early Hints\r\n\r\n", b"{}", "not HTTP"),
    "a header line of 200 kB": (HEAD + b"A: " + b"a" * 200_000, b"{}", "too large"),
    "200 kB of headers": (HEAD + (b"A: " + b"a" * 2_000 + b"\r\n") * 100, b"{}", "too large"),
    "1,000 headers": (HEAD + b"A: a\r\n" * 1_000 + b"\r\n", b"{}", "not HTTP|too"),
    "endless interim answers": (b"HTTP/1.1 100 C\r\n\r\n" * 9_000, b"{}", "too large"),
}


@pytest.mark.parametrize(("answer", "body", "text"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_a_fault_before_the_answer_is_understood_is_uncertain(
    hasty: Transport, answer: Item, body: bytes, text: str
) -> None:
    """Something has gone out, so the ESP may have taken the message; it is sent only once."""
    with scripted(answer, OK) as server:
        with pytest.raises(SendUncertainError, match=text) as caught:
            hasty.send(post(server.url, body))

        assert server.connections == 1
    assert str(caught.value).endswith(". The message may or may not have been sent.")
    assert f"127.0.0.1:{server.port} " in str(caught.value)
    assert caught.value.status is None


def test_an_answer_given_before_the_body_was_read_counts(transport: Transport) -> None:
    """413, say. The connection is not used again, for the rest of the body is missing."""
    with scripted(Early(bytes(Reply(413, b"too large"))), OK) as server:
        response = transport.send(post(server.url, BIG))
        assert (response.status, response.body) == (413, b"too large")
        assert transport.send(post(server.url)).status == 200
        assert server.connections == 2


# --- the status is known, the body is not ------------------------------------------------

INCOMPLETE: dict[str, tuple[Item, bytes]] = {
    "the end comes early": (HEAD + b"Content-Length: 9\r\n\r\nabc", b"abc"),
    "a stop within the body": (Stall(HEAD + b"Content-Length: 9\r\n\r\nabc"), b"abc"),
    "a chunk that ends early": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde",
        b"abcde",
    ),
    "a chunk of unknown length": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
        b"abc",
    ),
    "no last chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
}


@pytest.mark.parametrize(("answer", "body"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_body_that_breaks_off_is_returned_as_far_as_it_came(
    hasty: Transport, answer: Item, body: bytes
) -> None:
    with scripted(answer, OK) as server:
        response = hasty.send(post(server.url))
        assert (response.status, response.body, response.complete) == (200, body, False)
        assert hasty.send(post(server.url)).complete
        assert server.connections == 2


@pytest.mark.parametrize("length", [b"Content-Length: 999\r\n", b""], ids=["length", "no length"])
def test_a_body_that_drips_ends_at_the_deadline(hasty: Transport, length: bytes) -> None:
    """A byte now and then would satisfy a time-out that is counted from byte to byte."""
    with scripted(Drip(b"a" * 999, first=HEAD + length + b"\r\n")) as server:
        response = hasty.send(post(server.url))

    assert not response.complete
    assert 0 < len(response.body) < 20


def test_a_body_in_dripping_chunks_ends_at_the_deadline(hasty: Transport) -> None:
    first = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with scripted(Drip(b"0" * 999, first=first)) as server:
        response = hasty.send(post(server.url))

    assert (response.body, response.complete) == (b"abc", False)


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 1000000000\r\n\r\n", b"\r\n"],
    ids=["length", "no length"],
)
def test_a_body_without_end_stops_at_the_limit(transport: Transport, framing: bytes) -> None:
    """1 GB costs the limit and no more."""
    with scripted(Flood(HEAD + framing)) as server:
        response = transport.send(post(server.url))

    assert (response.status, len(response.body), response.complete) == (200, 100_000, False)


def test_a_body_of_exactly_the_limit_is_complete(transport: Transport) -> None:
    with scripted(Reply(200, bytes(100_000)), HEAD + b"\r\n" + bytes(100_000)) as server:
        responses = [transport.send(post(server.url)) for _ in range(2)]

    assert [(len(r.body), r.complete) for r in responses] == [(100_000, True)] * 2


def test_chunks_that_are_mostly_framing_stop_too(transport: Transport) -> None:
    """What is counted is what comes over the wire."""
    chunks = b"1;" + b"x" * 5_000 + b"\r\na\r\n"
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with scripted(head + chunks * 100) as server:
        response = transport.send(post(server.url))

    assert not response.complete
    assert len(response.body) < 50


# --- secrets -----------------------------------------------------------------------------

CANARY = "canary-7f3a"

FAULTS: dict[str, Item | None] = {
    "refused": None,
    "reset": Reset(),
    "garbage": b"garbage",
    "stall": Stall(),
    "dropped": Reset(after="accept"),
}


def caught(send: Callable[[], object]) -> BaseException:
    try:
        send()
    except MailESPError as error:
        return error
    raise AssertionError("nothing was raised")


def shown(error: BaseException) -> str:
    """All that logs and error trackers may record of an exception."""
    with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
    plain = traceback.format_exception(error)
    pickled = pickle.dumps(error).decode("latin-1")
    return "".join([str(error), repr(error), *plain, *with_locals.format(), pickled])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_error_shows_no_credential(hasty: Transport, fault: Item | None) -> None:
    """Neither the header nor the URL, even where the locals of frames are logged."""
    with scripted(fault or OK) as server:
        url = server.url if fault else f"http://127.0.0.1:{unused_port()}"
        error = caught(lambda: hasty.send(post(f"{url}/?key={CANARY}", X_Key=CANARY)))

    assert error.__cause__ is None
    assert error.__context__ is None
    assert CANARY not in shown(error)


@pytest.mark.parametrize(
    "headers", [{"X-Key": f"{CANARY}\r\n"}, {f"{CANARY}\r\n": "x"}, {"X-Key": f"{CANARY}€"}]
)
def test_an_unsendable_header_is_not_shown(hasty: Transport, headers: dict[str, str]) -> None:
    send = HttpRequest("POST", "http://localhost/", headers)

    assert CANARY not in shown(caught(lambda: hasty.send(send)))


def test_credentials_in_a_url_are_not_shown(hasty: Transport) -> None:
    error = caught(lambda: hasty.send(post(f"https://me:{CANARY}@localhost/")))

    assert CANARY not in shown(error)


def test_a_proxys_credential_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("https_proxy", f"http://me:{CANARY}@127.0.0.1:{unused_port()}")
    transport = Transport()

    assert CANARY not in shown(caught(lambda: transport.send(post("https://localhost/"))))


def test_a_transport_shows_its_limits_only() -> None:
    assert repr(Transport()) == "<Transport: 10 s to connect, 30 s in all>"


def test_a_transport_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Transport())


# --- tools that stand in for requests ----------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> list[Any]:
    """Replace ``HTTPAdapter.send``, as ``responses`` and its like do."""
    seen: list[Any] = []

    def send(adapter: HTTPAdapter, request: Any, **kwargs: Any) -> requests.Response:
        seen.append(request)
        return adapter.build_response(request, answer())

    monkeypatch.setattr(HTTPAdapter, "send", send)
    return seen


def test_users_may_replace_the_adapters_send(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tests see a PreparedRequest and answer with a urllib3 response."""

    def answer() -> urllib3.HTTPResponse:
        body = io.BytesIO(b'{"a":1}')
        return urllib3.HTTPResponse(body, {"X-A": "b"}, 201, preload_content=False)

    [seen] = [stand_in(monkeypatch, answer)]
    response = transport.send(post("https://api.example.com/email?a=b", b"{}", X_Key="k"))

    assert response == HttpResponse(201, {"x-a": "b"}, b'{"a":1}')
    assert (seen[0].method, seen[0].url) == ("POST", "https://api.example.com/email?a=b")
    assert (seen[0].headers["x-key"], seen[0].body) == ("k", b"{}")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (requests.ConnectionError("no rule matches"), NotSentError),
        (requests.ConnectTimeout(), NotSentError),
        (requests.ReadTimeout(), SendUncertainError),
    ],
)
def test_errors_of_a_stand_in_mean_what_they_say(
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    expected: type[MailESPError],
) -> None:
    def answer() -> None:
        raise raised

    stand_in(monkeypatch, answer)

    assert type(failure(transport, "https://api.example.com/")) is expected


# --- the package -------------------------------------------------------------------------


def test_requests_is_imported_by_the_first_send() -> None:
    """Importing and configuring the package costs an app that never sends nothing."""
    run(
        """
        import sys
        from flask_mailesp.transport import Transport
        Transport()
        assert not {"requests", "urllib3"} & set(sys.modules)
        """
    )


def sources() -> dict[str, ast.Module]:
    package = Path(flask_mailesp.__file__).parent
    paths = [p for p in package.rglob("*.py") if "simulator" not in p.parts]
    return {str(p.relative_to(package)): ast.parse(p.read_text("utf-8")) for p in paths}


def test_only_the_transport_imports_the_network_libraries() -> None:
    importers = {
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        for module in imported(node)
        if module.partition(".")[0] in ("requests", "urllib3")
    }

    assert importers == {"transport.py"}


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


@pytest.mark.parametrize(("keyword", "value"), [("verify", False), ("allow_redirects", True)])
def test_no_call_turns_a_safeguard_off(keyword: str, value: bool) -> None:
    offenders = [
        f"{name}:{node.value.lineno}"
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == keyword
        if isinstance(node.value, ast.Constant) and node.value.value is value
    ]

    assert offenders == []


def test_a_json_answer_is_read(transport: Transport) -> None:
    with scripted(OK) as server:
        response = transport.send(post(server.url, json.dumps({}).encode()))

    assert response.json() == {"ok": True}


def test_a_server_can_be_scripted_without_script() -> None:
    """The tests' own server: no script means 200 and an empty body."""
    server: ScriptedServer
    transport = Transport(trust_env=False)
    with scripted() as server:
        assert transport.send(post(server.url)).body == b""
    transport.close()
