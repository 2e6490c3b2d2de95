"""Faults on demand: what goes wrong at a provider, when a test wants it to."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from werkzeug.test import Client as WsgiClient

from flask_mailesp.simulator import Fault, LocalServer, Simulator
from flask_mailesp.simulator.faults import read_fault, to_json

from .conftest import POSTMARK_TOKEN, Application, Client

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}
POSTAL = {"from": "a@example.org", "to": ["bea@example.com"], "plain_body": "Hi"}
MAIL = b"From: ann@example.com\r\nTo: help@example.org\r\nSubject: Hi\r\n\r\nHello\r\n"


# -- requests -------------------------------------------------------------------------------


def raw_answer(server: LocalServer) -> bytes:
    """What a client reads after sending a message; ConnectionResetError if it is cut off."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(MESSAGE).encode()
    head = (
        "POST /postmark/email HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nX-Postmark-Server-Token: {POSTMARK_TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(65536)


@pytest.mark.parametrize(("moment", "accepted"), [("before", 0), ("after", 1)])
def test_a_reset_is_a_reset(
    sim: Simulator, server: LocalServer, moment: str, accepted: int
) -> None:
    """TCP RST, which no server sends politely; the message may have been taken."""
    sim.fault(reset=moment)

    with pytest.raises(ConnectionResetError):
        raw_answer(server)

    assert len(sim.messages) == accepted


def test_a_drop_is_an_end_without_an_answer(sim: Simulator, server: LocalServer) -> None:
    sim.fault(drop="after")

    assert raw_answer(server) == b""
    assert len(sim.messages) == 1


def test_after_a_reset_the_server_goes_on(sim: Simulator, postmark: Client) -> None:
    sim.fault(reset="before")
    with pytest.raises(requests.ConnectionError):
        postmark.post("/email", MESSAGE)

    assert postmark.post("/email", MESSAGE).status_code == 200


def test_a_rate_limit_says_when_to_come_back(sim: Simulator, postmark: Client) -> None:
    """A Retry-After alone means 429."""
    sim.fault(retry_after="5")

    answer = postmark.post("/email", MESSAGE)

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert sim.messages == []


def test_garbage_comes_after_acceptance(sim: Simulator, postmark: Client) -> None:
    sim.fault(answer="garbage")

    answer = postmark.post("/email", MESSAGE)

    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()
    assert len(sim.messages) == 1


def test_an_answer_ends_in_the_middle(sim: Simulator, postmark: Client) -> None:
    sim.fault(answer="truncated")

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        postmark.post("/email", MESSAGE)

    assert len(sim.messages) == 1


def test_latency(sim: Simulator, postmark: Client) -> None:
    """The client's patience ends first; the message is taken all the same."""
    sim.fault(delay=0.3)

    with pytest.raises(requests.Timeout):
        requests.post(postmark.url + "/email", json=MESSAGE, headers=postmark.headers, timeout=0.05)

    sim.wait(n_deliveries=0)
    deadline = time.monotonic() + 5
    while not sim.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(sim.messages) == 1


def test_a_fault_for_one_provider_or_path_leaves_the_others(
    sim: Simulator, postmark: Client, postal: Client
) -> None:
    sim.fault(status=500, esp="postal")
    sim.fault(status=503, path="/batch")

    assert postmark.post("/email", MESSAGE).status_code == 200
    assert postal.post("/api/v1/send/message", POSTAL).status_code == 500
    assert postmark.post("/email/batch", [MESSAGE]).status_code == 503
    assert len(sim.faults) == 0


def test_a_fault_happens_as_often_as_it_says(sim: Simulator, postmark: Client) -> None:
    sim.fault(status=500, times=2)

    statuses = [postmark.post("/email", MESSAGE).status_code for _ in range(3)]

    assert statuses == [500, 500, 200]


def test_a_fault_without_end_ends_when_it_is_removed(sim: Simulator, postmark: Client) -> None:
    fault = sim.fault(status=500, times=None)
    statuses = [postmark.post("/email", MESSAGE).status_code for _ in range(3)]
    sim.faults.discard(fault.id)

    assert statuses == [500] * 3
    assert postmark.post("/email", MESSAGE).status_code == 200


def test_chance_is_the_same_for_the_same_seed(private_key: str) -> None:
    """A stream of messages with a tenth lost can be repeated exactly."""

    def outcomes(seed: int) -> list[int]:
        sim = Simulator(seed=seed, auto=(), postal_private_key=private_key)
        sim.fault(status=500, times=None, probability=0.3)
        headers = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}
        client = WsgiClient(sim)
        answers = [
            client.post("/postmark/email", json=MESSAGE, headers=headers).status_code
            for _ in range(40)
        ]
        sim.close()
        return answers

    assert outcomes(7) == outcomes(7)
    assert set(outcomes(7)) == {200, 500}
    assert outcomes(7) != outcomes(8)


# -- by a header ----------------------------------------------------------------------------


def test_a_header_asks_for_a_fault(sim: Simulator, postmark: Client) -> None:
    """It concerns this request alone, and the queue stays as it is."""
    sim.fault(status=500)

    answer = postmark.post(
        "/email", MESSAGE, headers={"X-Simulator-Fault": "Status=503; retry-after=5"}
    )

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert len(sim.faults) == 1


def test_a_header_with_a_chance_of_nothing(sim: Simulator, postmark: Client) -> None:
    headers = {"X-Simulator-Fault": "status=503;probability=0"}

    assert postmark.post("/email", MESSAGE, headers=headers).status_code == 200


def test_a_header_can_spoil_the_webhooks_of_its_message(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE, headers={"X-Simulator-Fault": "webhook=doubled"})
    postmark.post("/email", MESSAGE)

    assert len(sim.wait()) == 3


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("status=many", "status cannot be 'many'"),
        ("status=20", "status is from 100 to 599"),
        ("colour=red", "a fault has no 'colour'"),
        ("reset=often", "reset is one of before, after, not 'often'"),
        ("delay=1e9", "delay is from 0 to 600 seconds"),
        ("delay=nan", "delay is from 0 to 600 seconds"),
    ],
)
def test_a_header_that_makes_no_sense_is_told_so(
    sim: Simulator, postmark: Client, header: str, sentence: str
) -> None:
    answer = postmark.post("/email", MESSAGE, headers={"X-Simulator-Fault": header})

    assert answer.status_code == 400
    assert sentence in answer.text
    assert sim.messages == []


# -- webhooks -------------------------------------------------------------------------------


def send(sim: Simulator, esp: str, postmark: Client, postal: Client) -> None:
    sim.auto = ()
    if esp == "postmark":
        postmark.post("/email", MESSAGE)
    else:
        postal.post("/api/v1/send/message", POSTAL)


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_a_lost_webhook_is_never_posted(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application, esp: str
) -> None:
    """It has happened at the provider, and the application never hears of it."""
    send(sim, esp, postmark, postal)
    sim.fault(webhook="lost")

    lost = sim.emit(sim.messages[0], "opened")

    assert (lost.status, lost.verdict) == (None, "dropped")
    assert sim.deliveries == [lost]
    assert hooked.requests == []
    assert sim.emit(sim.messages[0], "opened").status == 200


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_a_doubled_webhook_is_the_same_twice(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application, esp: str
) -> None:
    send(sim, esp, postmark, postal)
    sim.fault(webhook="doubled")

    sim.emit(sim.messages[0], "opened")

    assert hooked.requests[0] == hooked.requests[1]


def test_a_late_webhook_comes_later(sim: Simulator, postmark: Client, hooked: Application) -> None:
    sim.auto = ()
    postmark.post("/email", MESSAGE)
    sim.fault(webhook="late", delay=0.05)

    late = sim.emit(sim.messages[0], "opened")
    assert (late.status, hooked.requests) == (None, [])

    (delivery,) = sim.wait()
    assert (delivery.status, delivery.event) == (200, "opened")


def test_webhooks_come_out_of_order(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    """The first is kept back until the next of the same provider has gone."""
    send(sim, "postmark", postmark, postal)
    send(sim, "postal", postmark, postal)
    first, other = sim.messages
    sim.fault(webhook="reordered", delay=60)

    sim.emit(first, "delivered")
    sim.emit(other, "delivered")
    assert [one.event for one in sim.pending] == ["delivered"]
    sim.emit(first, "opened")

    assert [(one.esp, one.event) for one in sim.wait()] == [
        ("postal", "delivered"),
        ("postmark", "opened"),
        ("postmark", "delivered"),
    ]


def test_a_webhook_kept_back_comes_in_the_end(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    sim.auto = ()
    postmark.post("/email", MESSAGE)
    sim.fault(webhook="reordered", delay=0.05)

    sim.emit(sim.messages[0], "opened")

    assert [one.event for one in sim.wait()] == ["opened"]


def test_a_forgery_of_postmark_has_wrong_credentials(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    """The same body, before the true one: who keys before checking loses the event."""
    send(sim, "postmark", postmark, postal)
    sim.fault(webhook="forged")

    delivery = sim.emit(sim.messages[0], "opened")

    forged, true = hooked.requests
    assert forged.body == true.body
    assert forged.headers["authorization"] != true.headers["authorization"]
    assert [one.forged for one in sim.deliveries] == [True, False]
    assert not delivery.forged


def test_a_forgery_of_postal_has_wrong_signatures(
    sim: Simulator, postmark: Client, postal: Client, hooked: Application
) -> None:
    """Base64 as before, of the right length, and of no use."""
    send(sim, "postal", postmark, postal)
    sim.fault(webhook="forged")
    key = serialization.load_pem_public_key(sim.postal_public_key.encode())
    assert isinstance(key, rsa.RSAPublicKey)

    sim.emit(sim.messages[0], "opened")

    forged, _ = hooked.requests
    for name, algorithm in (("", hashes.SHA1()), ("-256", hashes.SHA256())):  # noqa: S303
        signature = forged.headers[f"x-postal-signature{name}"]
        assert len(signature) == 344
        with pytest.raises(InvalidSignature):
            key.verify(_decoded(signature), forged.body, padding.PKCS1v15(), algorithm)


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_inbound_mail_is_a_webhook_too(sim: Simulator, hooked: Application, esp: str) -> None:
    sim.fault(webhook="doubled", event="inbound")

    sim.receive(esp, MAIL, to="help@example.org")

    assert len(hooked.requests) == 2


def test_a_fault_of_webhooks_leaves_requests_alone_and_the_other_way_round(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    sim.fault(webhook="lost", event="opened")
    sim.fault(status=503)
    sim.fault(webhook="lost", esp="postal")

    assert postmark.post("/email", MESSAGE).status_code == 503
    assert postmark.post("/email", MESSAGE).status_code == 200
    assert [one.status for one in sim.wait()] == [200]
    assert len(sim.faults) == 2


# -- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"times": 0}, "times is 1 or more"),
        ({"probability": 1.5}, "probability is from 0 to 1"),
        ({"delay": -1}, "delay is from 0"),
        ({"webhook": "eaten"}, "webhook is one of lost, doubled, late, reordered, forged"),
        ({"answer": "none"}, "answer is one of garbage, truncated"),
    ],
)
def test_a_fault_that_makes_no_sense(sim: Simulator, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sim.fault(**fields)
    assert len(sim.faults) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"body": "sorry", "headers": {"A": "b"}, "status": 500},
        {"times": None, "probability": 0.25, "webhook": "late", "delay": 3.0, "event": "opened"},
    ],
)
def test_a_fault_and_its_json_are_the_same(values: dict[str, Any]) -> None:
    shown = to_json(read_fault(values))

    assert {"times": 1, **values} == {k: v for k, v in shown.items() if k != "id"}


# -- by HTTP --------------------------------------------------------------------------------


@pytest.fixture
def call(server: LocalServer, session: requests.Session) -> Callable[..., requests.Response]:
    def call_one(method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        headers = {"X-Simulator-Control": "1"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        url = f"{server.url}/_control/{path}"
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return session.request(method, url, data=data, headers=headers, timeout=10)

    return call_one


def test_faults_can_be_made_listed_and_removed(
    call: Callable[..., requests.Response], sim: Simulator
) -> None:
    made = call("POST", "faults", {"status": 503, "times": "always"})
    call("POST", "faults", {"webhook": "doubled"})
    listed = call("GET", "faults").json()["faults"]

    assert made.status_code == 201
    assert listed == [
        {"id": made.json()["id"], "status": 503, "times": None},
        {"id": made.json()["id"] + 1, "webhook": "doubled", "times": 1},
    ]
    assert call("DELETE", f"faults/{made.json()['id']}").status_code == 204
    assert [fault.webhook for fault in sim.faults] == ["doubled"]
    assert call("DELETE", "faults").status_code == 204
    assert len(sim.faults) == 0


def test_the_mailbox_can_be_emptied(
    call: Callable[..., requests.Response], sim: Simulator, postmark: Client
) -> None:
    postmark.post("/email", MESSAGE)

    assert call("DELETE", "messages").status_code == 204
    assert sim.messages == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "faults", "{", 400, "not JSON"),
        ("POST", "faults", "[" * 100_000, 400, "not JSON"),
        ("POST", "faults", "[]", 400, "not a JSON object"),
        ("POST", "faults", {"status": "x"}, 422, "status cannot be 'x'"),
        ("POST", "faults", {"headers": 5}, 422, "headers cannot be 5"),
        ("POST", "faults", {"event": {}}, 422, "event cannot be {}"),
        ("POST", "faults", b"x" * 1_000_001, 413, "at most 1 MB"),
        ("PUT", "faults", None, 405, "GET, POST or DELETE"),
        ("GET", "faults/1", None, 405, "DELETE"),
        ("DELETE", "faults/1", None, 404, "no such fault"),
        ("DELETE", "faults/one", None, 404, "no such fault"),
        ("GET", "else", None, 404, "/_control/faults"),
        ("GET", "messages", None, 404, "/_control/faults"),
    ],
)
def test_bad_requests_are_told_in_a_sentence(
    call: Callable[..., requests.Response],
    method: str,
    path: str,
    body: Any,
    status: int,
    sentence: str,
) -> None:
    answer = call(method, path, body)

    assert answer.status_code == status
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_page_of_another_origin_can_do_nothing(
    call: Callable[..., requests.Response], sim: Simulator, method: str
) -> None:
    """It cannot send the header without a preflight, which is refused like all else."""
    sim.fault(status=500)

    answer = call(method, "faults", {"status": 503}, X_Simulator_Control="")
    preflight = call("OPTIONS", "faults", X_Simulator_Control="", Origin="https://evil.example")

    assert answer.status_code == 403
    assert preflight.status_code >= 400
    assert "Access-Control-Allow-Origin" not in {*answer.headers, *preflight.headers}
    assert [fault.status for fault in sim.faults] == [500]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8025", True),
        ("127.0.0.1", True),
        ("[::1]:8025", True),
        ("192.0.2.7:8025", True),
        ("evil.example", False),
        ("localhost.evil.example:8025", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_rebound_name_is_not_this_machine(sim: Simulator, host: str, allowed: bool) -> None:
    environ = {"HTTP_HOST": host, "HTTP_X_SIMULATOR_CONTROL": "1"}

    answer = WsgiClient(sim).get("/_control/faults", environ_overrides=environ)

    assert answer.status_code == (200 if allowed else 403)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_faults_do_not_touch_the_control_api(
    call: Callable[..., requests.Response], sim: Simulator
) -> None:
    sim.fault(status=500)

    assert call("GET", "faults").status_code == 200


def test_a_fault_is_a_value() -> None:
    assert Fault(status=500) == Fault(status=500)
