"""The simulator's HTTP: real connections, kept alive, and gone after stop()."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from werkzeug.test import Client as WsgiClient

from flask_mailesp.simulator import Fault, LocalServer, Simulator

from .conftest import POSTMARK_TOKEN, Client

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}


def exchange(server: LocalServer, *requests_: bytes) -> bytes:
    """Write raw requests to one connection, half-close it, and read all that comes back."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"".join(requests_))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_one_connection_carries_many_requests(server: LocalServer) -> None:
    """Keep-alive: the providers do it, so a client's reuse of connections can be tested."""
    request = b"GET /postal/.well-known/jwks.json HTTP/1.1\r\nHost: simulator\r\n\r\n"

    answer = exchange(server, request, request)

    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_refused_post_does_not_upset_the_next_request(server: LocalServer) -> None:
    """The body is read even where the answer needs none of it."""
    refused = b"POST /nowhere HTTP/1.1\r\nHost: simulator\r\nContent-Length: 5\r\n\r\nhello"
    served = b"GET /postal/.well-known/jwks.json HTTP/1.1\r\nHost: simulator\r\n\r\n"

    answer = exchange(server, refused, served)

    assert b"HTTP/1.1 404" in answer
    assert b"HTTP/1.1 200" in answer


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Transfer-Encoding: chunked", b"411"),
        (b"Content-Length: many", b"411"),
        (b"Content-Length: 99999999999", b"413"),
    ],
)
def test_a_body_of_unknown_or_absurd_length_is_not_read(
    server: LocalServer, header: bytes, status: bytes
) -> None:
    request = b"POST /postmark/email HTTP/1.1\r\nHost: simulator\r\n" + header + b"\r\n\r\n"

    assert exchange(server, request).startswith(b"HTTP/1.1 " + status)


def test_head_has_no_body(server: LocalServer) -> None:
    answer = requests.head(server.url + "/", timeout=10)

    assert (answer.status_code, answer.content) == (404, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_an_unknown_provider_is_404(server: LocalServer) -> None:
    assert requests.get(server.url + "/nobody/email", timeout=10).status_code == 404


def test_stop_closes_idle_connections(sim: Simulator, session: requests.Session) -> None:
    """Nothing is left open, although the client keeps its end."""
    server = sim.start()
    session.get(server.url_for("postal") + "/.well-known/jwks.json", timeout=10)
    before = threading.active_count()

    sim.stop()

    assert threading.active_count() < before
    with pytest.raises(requests.ConnectionError):
        session.get(server.url, timeout=10)


def test_stop_may_be_called_twice_and_the_simulator_started_again(sim: Simulator) -> None:
    sim.start()
    sim.stop()
    sim.stop()

    with sim.running() as server:
        assert requests.get(server.url, timeout=10).status_code == 404


def test_a_running_simulator_cannot_be_started(sim: Simulator, server: LocalServer) -> None:
    with pytest.raises(RuntimeError, match=server.url):
        sim.start()


def test_a_client_that_resets_its_connection_harms_nobody(server: LocalServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.sendall(b"POST /postmark/email HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
    connection.close()

    assert requests.get(server.url, timeout=10).status_code == 404


def test_it_is_an_ordinary_wsgi_application(sim: Simulator) -> None:
    headers = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}

    answer = WsgiClient(sim).post("/postmark/email", json=MESSAGE, headers=headers)

    assert answer.json is not None
    assert answer.json["Message"] == "OK"


def test_threads_do_not_lose_messages(sim: Simulator, postmark: Client, postal: Client) -> None:
    """Sixteen clients at once: every message is there once, with an id of its own."""

    def send(number: int) -> Any:
        if number % 2:
            return requests.post(
                postmark.url + "/email", json=MESSAGE, headers=postmark.headers, timeout=10
            )
        body = {"from": "a@example.org", "to": [f"{number}@example.com"], "plain_body": "Hi"}
        url = postal.url + "/api/v1/send/message"
        return requests.post(url, json=body, headers=postal.headers, timeout=10)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(64)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({message.id for message in sim.messages}) == 64


def test_a_fault_takes_the_place_of_one_answer(sim: Simulator, postmark: Client) -> None:
    sim.faults.append(Fault(status=503, body=b"busy", headers={"Retry-After": "7"}))

    answer = postmark.post("/email", MESSAGE)

    assert (answer.status_code, answer.content, answer.headers["Retry-After"]) == (
        503,
        b"busy",
        "7",
    )
    assert sim.messages == []
    assert postmark.post("/email", MESSAGE).status_code == 200


@pytest.mark.parametrize(("drop", "accepted"), [("before", 0), ("after", 1)])
def test_a_dropped_connection_may_or_may_not_have_been_heard(
    sim: Simulator, postmark: Client, drop: str, accepted: int
) -> None:
    """The client cannot tell the two apart; the simulator's record can."""
    sim.fault(drop=drop)

    with pytest.raises(requests.ConnectionError):
        postmark.post("/email", MESSAGE)

    assert len(sim.messages) == accepted


def test_a_fault_can_promise_more_than_it_sends(sim: Simulator, postmark: Client) -> None:
    sim.fault(status=200, body=b'{"Err', headers={"Content-Length": "500"})

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        postmark.post("/email", MESSAGE)


def test_a_delayed_request_is_served_all_the_same(sim: Simulator, postmark: Client) -> None:
    sim.fault(delay=0.001)

    assert postmark.post("/email", MESSAGE).json()["Message"] == "OK"
