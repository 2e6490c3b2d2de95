"""Every fault, what it means for the message, and what ``send()`` raises, for both providers.

One message to two recipients is sent through ``mail.send`` over real HTTP to a server that
misbehaves as the table says.
"""

from __future__ import annotations

import gzip
import json
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pytest
from flask import Flask
from scripted import Close, Drip, Flood, Item, Raw, Reply, Reset, ScriptedServer, Stall, scripted

from flask_mailesp import MailESP, Message
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    SendUncertainError,
)
from flask_mailesp.registry import require_esp
from flask_mailesp.results import SendResult

A, B = "a@example.com", "b@example.com"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
KEYS = {
    "postmark": {"MAILESP_POSTMARK_SERVER_TOKEN": "canary-token-71c3"},
    "postal": {"MAILESP_POSTAL_API_KEY": "canary-token-71c3"},
    "mailgun": {"MAILESP_MAILGUN_API_KEY": "canary-token-71c3"},
    "amazon_ses": {
        "MAILESP_AMAZON_SES_REGION": "eu-west-1",
        "MAILESP_AMAZON_SES_ACCESS_KEY_ID": "AKIACANARY71C3",
        "MAILESP_AMAZON_SES_SECRET_ACCESS_KEY": "canary-token-71c3",
    },
    "sendgrid": {"MAILESP_SENDGRID_API_KEY": "canary-token-71c3"},
    "resend": {"MAILESP_RESEND_API_KEY": "canary-token-71c3"},
}
TAKEN = {
    "postmark": {"ErrorCode": 0, "Message": "OK", "MessageID": "id-1"},
    "postal": {"status": "success", "data": {"messages": {A: {"id": 1}, B: {"id": 2}}}},
    "mailgun": {"id": "<1@mg.example.org>", "message": "Queued. Thank you."},
    "amazon_ses": {"MessageId": "id-1"},
    "resend": {"id": "0c9f6b1e-1111-4222-8333-abcdefabcdef"},
}


def dumped(document: object) -> bytes:
    return json.dumps(document).encode()


def gzipped(body: bytes, end: int | None = None, status: int = 200, **headers: str) -> Reply:
    headers |= {"Content-Encoding": "gzip"}
    return Reply(status, gzip.compress(body, mtime=0)[:end], headers)


def gzipped_202(body: bytes, end: int | None = None) -> Reply:
    """SendGrid's acceptance with a body that it does not need."""
    return gzipped(body, end, 202, **{"X-Message-Id": "id-1"})


class Fault(NamedTuple):
    """An item of a server's script, or one for each provider, and what it comes to."""

    item: Item | Mapping[str, Item]
    outcome: str
    error: type[MailESPError] | Mapping[str, type[MailESPError]] | None
    status: set[str] | Mapping[str, set[str]]
    requests: int = 1


def uncertain(item: Item | Mapping[str, Item], requests: int = 1) -> Fault:
    return Fault(item, "uncertain", SendUncertainError, {"unknown"}, requests)


def refused(
    item: Item | Mapping[str, Item],
    error: type[MailESPError] | Mapping[str, type[MailESPError]] = APIError,
) -> Fault:
    return Fault(item, "refused", error, {"failed"})


def each(make: Any, **others: Item) -> dict[str, Item]:
    return {name: make(dumped(document)) for name, document in TAKEN.items()} | others


# SendGrid says all it has to say before the body, which is empty.
TAKEN_202 = Reply(202, b"", {"X-Message-Id": "id-1"})
HEAD_202 = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: id-1\r\n"
ACCEPTANCE = each(lambda ok: Reply(200, ok), sendgrid=TAKEN_202)
SENT = {esp: {"sent"} if esp == "postmark" else {"queued"} for esp in KEYS}
FAULTS: dict[str, Fault] = {
    "none": Fault(ACCEPTANCE, "accepted", None, SENT),
    # the connection
    "reset after the request": uncertain(Reset(after="request")),
    "reset after the headers": uncertain(Reset(after="headers"), requests=0),
    "closed after the request": uncertain(Close(after="request")),
    "no answer": uncertain(Stall()),
    "half the headers": uncertain(Stall(first=HEAD)),
    "the headers, drop by drop": uncertain(Drip(HEAD)),
    "the body, drop by drop": uncertain(
        Drip(b"{}" * 50, first=HEAD + b"Content-Length: 100\r\n\r\n")
    ),
    "the end in the middle of the body": uncertain(
        each(
            lambda ok: Raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(ok) + ok[:-5]),
            sendgrid=Raw(HEAD_202 + b"Content-Length: 9\r\n\r\n"),
        )
    ),
    "the end in the middle of the headers": uncertain(Raw(HEAD[:-9])),
    "endless headers": uncertain(Raw(HEAD + b"X: " + b"x" * 200_000)),
    "an endless body": uncertain(Flood(HEAD + b"\r\n{")),
    "something that is not HTTP": uncertain(Raw(b"220 mail.example.org ESMTP\r\n")),
    # refusals
    "400": refused(Reply(400, b"{}")),
    "401": refused(Reply(401, b"{}"), AuthenticationError),
    "403": refused(
        Reply(403, b"{}"),
        {esp: APIError if esp == "postal" else AuthenticationError for esp in KEYS},
    ),
    "404": refused(Reply(404, b"<h1>Not found</h1>")),
    "413": refused(Reply(413, b"")),
    "422": refused(Reply(422, b"{}")),
    "429": refused(Reply(429, b""), RateLimitedError),
    "429 with Retry-After": refused(Reply(429, b"", {"Retry-After": "17"}), RateLimitedError),
    "an error behind 200": refused(
        {
            "postmark": Reply(200, dumped({"ErrorCode": 1235, "Message": "No such stream"})),
            "postal": Reply(200, dumped({"status": "parameter-error", "data": {"message": "?"}})),
            "mailgun": Reply(200, b"Mailgun Magnificent API"),
            "amazon_ses": Reply(400, dumped({"__type": "MessageRejected", "message": "?"})),
            "sendgrid": Reply(400, dumped({"errors": [{"message": "Bad Request"}]})),
        }
    ),
    "a wrong credential behind 200": refused(
        {
            "postmark": Reply(200, dumped({"ErrorCode": 10, "Message": "Bad token"})),
            "postal": Reply(
                200, dumped({"status": "error", "data": {"code": "InvalidServerAPIKey"}})
            ),
            "mailgun": Reply(401, b"Forbidden"),
            "amazon_ses": Reply(400, dumped({"__type": "x#UnrecognizedClientException"})),
            "sendgrid": Reply(401, dumped({"errors": [{"message": "invalid"}]})),
        },
        AuthenticationError,
    ),
    # answers that say nothing
    "500": uncertain(Reply(500, b"")),
    "502": uncertain(Reply(502, b"<h1>Bad gateway</h1>")),
    "503": uncertain(Reply(503, b"")),
    "504": uncertain(Reply(504, b"")),
    "204": uncertain(Reply(204)),
    "garbage": uncertain(Reply(200, b"\x00\xff{{")),
    "HTML": uncertain(Reply(200, b"<html>Welcome to the hotel's network</html>")),
    "missing ids": uncertain(
        {
            "postmark": Reply(200, dumped({"ErrorCode": 0, "Message": "OK"})),
            "postal": Reply(200, dumped({"status": "success", "data": {"messages": {}}})),
            "mailgun": Reply(200, dumped({"message": "Queued. Thank you."})),
            "amazon_ses": Reply(200, dumped({})),
            "sendgrid": Reply(202, dumped({})),
            "resend": Reply(200, dumped({"object": "email"})),
        }
    ),
    "null ids": uncertain(
        {
            "postmark": Reply(200, dumped({"ErrorCode": 0, "Message": "OK", "MessageID": None})),
            "postal": Reply(
                200,
                dumped({"status": "success", "data": {"messages": {A: {"id": None}, B: None}}}),
            ),
            "mailgun": Reply(200, dumped({"id": None, "message": "Queued. Thank you."})),
            "amazon_ses": Reply(200, dumped({"MessageId": None})),
            "sendgrid": Reply(202, dumped(None), {"X-Message-Id": ""}),
            "resend": Reply(200, dumped({"id": None})),
        }
    ),
    "wrong types": uncertain(
        {
            "postmark": Reply(200, dumped({"ErrorCode": [], "Message": {}, "MessageID": [1]})),
            "postal": Reply(200, dumped({"status": "success", "data": [1]})),
            "mailgun": Reply(200, dumped({"id": [1], "message": {}})),
            "amazon_ses": Reply(200, dumped({"MessageId": [1]})),
            "sendgrid": Reply(202, dumped([1]), {"X-Message-Id": "id-1"}),
            "resend": Reply(200, dumped({"id": [1]})),
        }
    ),
    "an absurd number": uncertain(Reply(200, b'{"ErrorCode": 0, "status": ' + b"9" * 5000 + b"}")),
    "nesting of 100,000": uncertain(Reply(200, b"[" * 100_000)),
    "gzip cut in the middle": uncertain(
        each(
            lambda ok: gzipped(ok, -20), sendgrid=gzipped_202(dumped({"message": "accepted"}), -20)
        )
    ),
    "gzip without its end": Fault(
        each(lambda ok: gzipped(ok, -8), sendgrid=gzipped_202(b"{}", -8)), "accepted", None, SENT
    ),
    "whole gzip, though not asked for": Fault(
        each(gzipped, sendgrid=gzipped_202(b"{}")), "accepted", None, SENT
    ),
    "a gzip bomb": uncertain(gzipped(b'{"a":"' + bytes(50_000_000))),
    "an unknown encoding": uncertain(Reply(200, b"\x1b\x0f", {"Content-Encoding": "br"})),
}


@contextmanager
def application(esp: str, url: str, patience: float = 20) -> Iterator[tuple[Flask, MailESP]]:
    """An app that sends to ``url`` and waits so many seconds."""
    app = Flask(__name__)
    app.config.update(
        {"MAILESP_ESP": esp, "MAILESP_REQUESTS_TIMEOUT": patience},
        **KEYS[esp],
        **{f"MAILESP_{esp.upper()}_API_URL": url},
    )
    mail = MailESP(app)
    try:
        yield app, mail
    finally:
        app.extensions["mailesp"].transport.close()


def send(esp: str, url: str, patience: float = 20) -> SendResult:
    """Send a message to two recipients; check that the error, if any, is the result's."""
    message = Message("Hi", [A, B], "Text", sender="me@example.org")
    with application(esp, url, patience) as (app, mail), app.app_context():
        try:
            result = mail.send(message)
        except MailESPError as error:
            raised: MailESPError | None = error
            assert error.result is not None  # noqa: PT017
            result = error.result
        else:
            raised = None
    assert result.error is raised
    return result


def for_esp(value: Any, esp: str) -> Any:
    return value[esp] if isinstance(value, Mapping) else value


def check(result: SendResult, fault: Fault, esp: str) -> None:
    """Compare a result with its row of the table."""
    error = for_esp(fault.error, esp)
    assert result.outcome == fault.outcome
    assert type(result.error) is (type(None) if error is None else error)
    assert list(result.recipients) == [A, B]
    assert result.status == for_esp(fault.status, esp)
    assert [attempt.outcome for attempt in result.attempts] == [fault.outcome]
    if result.error is not None:
        copy = pickle.loads(pickle.dumps(result.error))
        assert (str(copy), copy.result.outcome) == (str(result.error), fault.outcome)
        assert copy.esp_name == require_esp(esp, "here").name
        for text in (str(result.error), repr(result.error), repr(result)):
            assert "example.com" not in text
            assert "canary" not in text


# An ESP that is not among the items of a row cannot fail in that way.
ROWS = [
    (name, esp)
    for name, fault in FAULTS.items()
    for esp in KEYS
    if not isinstance(fault.item, Mapping) or esp in fault.item
]


@pytest.mark.parametrize(("name", "esp"), ROWS)
def test_fault(name: str, esp: str) -> None:
    """The outcome, the exception, each recipient's status; and one request, never two."""
    fault = FAULTS[name]
    item = for_esp(fault.item, esp)
    with scripted(item) as server:
        result = send(esp, server.url, patience=0.3 if isinstance(item, (Stall, Drip)) else 20)
        assert len(server.requests) == fault.requests
        assert server.connections == 1
    check(result, fault, esp)


@pytest.mark.parametrize("esp", KEYS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_other_host_sees_no_connection(status: int, esp: str) -> None:
    """Following it would hand over the credential, or report a false success."""
    with scripted(for_esp(ACCEPTANCE, esp)) as other:
        reply = Reply(status, b"", {"Location": other.url})
        with scripted(reply) as server:
            result = send(esp, server.url)
        assert (len(server.requests), other.connections) == (1, 0)
    check(result, refused(reply), esp)
    assert "API_URL" in str(result.error)


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("esp", KEYS)
@pytest.mark.parametrize("host", ["refused", "unknown", "no TLS"])
def test_what_never_left_is_not_sent(host: str, esp: str) -> None:
    """Connection refused, no such host, no TLS: certain, and safe to try again."""
    with scripted(Stall()) as server:
        urls = {
            "refused": f"http://127.0.0.1:{closed_port()}",
            "unknown": "https://mail.invalid",
            "no TLS": f"https://127.0.0.1:{server.port}",
        }
        result = send(esp, urls[host], patience=0.3 if host == "no TLS" else 20)
        assert server.requests == []
    check(result, Fault(b"", "not_sent", NotSentError, {"failed"}), esp)
    assert result.response is None


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("17", 17.0), ("-3", 0.0), ("1000000000", 86_400.0)]
)
def test_retry_after_is_handed_on_within_reason(value: str | None, expected: float | None) -> None:
    """Seconds, from 0 to a day; None where the ESP does not say."""
    headers = {} if value is None else {"Retry-After": value}
    with scripted(Reply(429, b"", headers)) as server:
        error = send("postmark", server.url).error
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == expected


def test_one_of_two_ids_leaves_one_recipient_unknown() -> None:
    """What Postal does not mention may or may not have been taken; the other id is kept."""
    answer = {"status": "success", "data": {"messages": {A: {"id": 1}}}}
    with scripted(Reply(200, dumped(answer))) as server:
        result = send("postal", server.url)
    assert (result.outcome, result.message_id) == ("uncertain", "1")
    assert [str(entry.status) for entry in result.recipients.values()] == ["queued", "unknown"]


def requests_after(server: ScriptedServer, esp: str, count: int) -> None:
    with application(esp, server.url) as (app, mail), app.app_context():
        for _ in range(count):
            mail.send(Message("Hi", [A, B], "Text", sender="me@example.org"))


@pytest.mark.parametrize("esp", KEYS)
def test_connections_are_kept_between_messages(esp: str) -> None:
    """Three messages, one connection."""
    with scripted(for_esp(ACCEPTANCE, esp)) as server:
        requests_after(server, esp, 3)
        assert (len(server.requests), server.connections) == (3, 1)
