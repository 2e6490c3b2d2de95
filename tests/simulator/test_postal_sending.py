"""Postal's API: one HTTP status for almost everything, and the order of its checks."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from flask_mailesp.simulator import Attached, Simulator

from .conftest import POSTAL_KEY, Client

SEND = "/api/v1/send/message"
RAW = "/api/v1/send/raw"
MESSAGE: dict[str, Any] = {
    "from": "Shop <shop@example.org>",
    "to": ["Bea <bea@example.com>"],
    "subject": "Your order",
    "plain_body": "Hi",
}
SOURCE = (
    b"From: Shop <shop@example.org>\r\nTo: bea@example.com\r\nSubject: =?utf-8?q?D=C3=ADk?=\r\n"
    b"Message-ID: <m1@example.org>\r\nX-Postal-Tag: receipt\r\n\r\nHi\r\n"
)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in MESSAGE.items() if name not in names}


def encoded(source: bytes) -> str:
    return base64.b64encode(source).decode()


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "mail_from": "shop@example.org",
        "rcpt_to": ["bea@example.com"],
        "data": encoded(SOURCE),
    } | changes


def test_every_recipient_has_an_id_and_a_token(sim: Simulator, postal: Client) -> None:
    """Keys are bare addresses as they were given; one Message-ID is shared."""
    body = MESSAGE | {"cc": ["Carl@Example.net"], "bcc": ["dan@example.net"]}

    answer = postal.post(SEND, body)

    result = answer.json()
    assert list(result) == ["status", "time", "flags", "data"]
    assert (result["status"], result["flags"]) == ("success", {})
    assert isinstance(result["time"], float)
    messages = result["data"]["messages"]
    assert list(messages) == ["bea@example.com", "Carl@Example.net", "dan@example.net"]
    assert all(isinstance(one["id"], int) for one in messages.values())
    assert all(len(one["token"]) == 16 and one["token"].isalnum() for one in messages.values())
    (message,) = sim.messages
    assert message.message_id == result["data"]["message_id"]
    assert str(message.message_id).endswith("@rp.postal.example.org")
    assert message.ids == {address: str(one["id"]) for address, one in messages.items()}


def test_everything_a_message_carries_is_recorded(sim: Simulator, postal: Client) -> None:
    """Of custom headers, those Postal writes itself are dropped."""
    body = MESSAGE | {
        "cc": "carl@example.net, dan@example.net",
        "reply_to": "help@example.org",
        "html_body": "<p>Hi</p>",
        "tag": "receipt",
        "headers": {"X-Number": 7, "Reply-To": "lost@example.org", "Message-ID": "<lost>"},
        "attachments": [
            {"name": "a.txt", "data": encoded(b"one")},
            {"name": "b.png", "content_type": "image/png", "data": "not base64!"},
            "ignored",
        ],
    }

    assert postal.post(SEND, body).json()["status"] == "success"

    (message,) = sim.messages
    assert (message.esp, message.path, message.payload) == ("postal", SEND, body)
    assert (message.from_, message.subject) == (MESSAGE["from"], "Your order")
    assert (message.text, message.html, message.tag) == ("Hi", "<p>Hi</p>", "receipt")
    assert (message.to, message.cc) == (
        ["bea@example.com"],
        ["carl@example.net", "dan@example.net"],
    )
    assert message.reply_to == ["help@example.org"]
    assert message.headers == [("X-Number", "7")]
    first, second = message.attachments
    assert first == Attached("a.txt", "application/octet-stream", b"one")
    assert (second.name, second.content_type) == ("b.png", "image/png")


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": ["X-A: 1"]},
        {"attachments": {"name": "a"}},
        {"to": ["not an address", ""]},
        {"to": [], "bcc": "bea@example.com"},
        {"subject": None},
    ],
)
def test_some_nonsense_is_silently_accepted(postal: Client, changes: dict[str, Any]) -> None:
    assert postal.post(SEND, MESSAGE | changes).json()["status"] == "success"


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "no recipients",
        {"from": ""},
        "NoRecipients",
        "There are no recipients defined to receive this message",
    ),
    ("empty lists", MESSAGE | {"to": [], "cc": ""}, "NoRecipients", "no recipients"),
    ("51 to", MESSAGE | {"to": ["a@b.c"] * 51, "plain_body": ""}, "TooManyToAddresses", "50"),
    ("51 cc", MESSAGE | {"cc": ["a@b.c"] * 51}, "TooManyCCAddresses", "50"),
    ("51 bcc", MESSAGE | {"bcc": ["a@b.c"] * 51}, "TooManyBCCAddresses", "50"),
    (
        "no content",
        without("plain_body", "from"),
        "NoContent",
        "There is no content defined for this e-mail",
    ),
    (
        "no from",
        without("from"),
        "FromAddressMissing",
        "The From address is missing and is required",
    ),
    (
        "from without @",
        MESSAGE | {"from": "shop"},
        "UnauthenticatedFromAddress",
        "The From address is not authorised to send mail from this server",
    ),
    (
        "attachment without a name",
        MESSAGE | {"attachments": [{"data": "aGk="}]},
        "AttachmentMissingName",
        "An attachment is missing a name",
    ),
    (
        "attachment without data",
        MESSAGE | {"attachments": [{"name": "a", "data": ""}]},
        "AttachmentMissingData",
        "An attachment is missing data",
    ),
]


@pytest.mark.parametrize(
    ("body", "code", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_an_error_is_http_200_and_the_first_one_found(
    sim: Simulator, postal: Client, body: dict[str, Any], code: str, text: str
) -> None:
    answer = postal.post(SEND, body)

    result = answer.json()
    assert (answer.status_code, result["status"]) == (200, "error")
    assert result["data"]["code"] == code
    assert text in result["data"]["message"]
    assert sim.messages == []
    (refusal,) = sim.rejected
    assert (refusal.esp, refusal.path, refusal.status) == ("postal", SEND, 200)
    assert refusal.body == result


def test_fifty_of_each_are_accepted(postal: Client) -> None:
    lists = {field: [f"{field}{n}@example.com" for n in range(50)] for field in ("to", "cc", "bcc")}

    answer = postal.post(SEND, MESSAGE | lists).json()

    assert len(answer["data"]["messages"]) == 150


def test_an_unverified_sender_is_refused(private_key: str, postal: Client) -> None:
    """send/raw gives the code without a text."""
    sim = Simulator(sender_domains={"example.net"}, postal_private_key=private_key)
    with sim.running() as server:
        client = Client(server.url_for("postal"), postal.headers, postal.session)
        answers = [client.post(SEND, MESSAGE), client.post(RAW, raw())]

    message, source = (answer.json()["data"] for answer in answers)
    assert message["code"] == "UnauthenticatedFromAddress"
    assert source == {"code": "UnauthenticatedFromAddress"}


def test_a_missing_key_is_access_denied(postal: Client) -> None:
    answer = postal.post(SEND, MESSAGE, headers={"X-Server-API-Key": ""})

    assert answer.status_code == 200
    assert answer.json()["data"] == {
        "message": "Must be authenticated as a server.",
        "code": "AccessDenied",
    }


def test_an_unknown_key_is_echoed(postal: Client) -> None:
    """Which is why its answer must never be logged."""
    answer = postal.post(SEND, MESSAGE, headers={"X-Server-API-Key": "WrongKey"})

    assert answer.status_code == 200
    assert answer.json()["data"] == {
        "message": "The API token provided in X-Server-API-Key was not valid.",
        "token": "WrongKey",
        "code": "InvalidServerAPIKey",
    }


CRASHES: list[tuple[str, str, dict[str, Any]]] = [
    ("number as address", SEND, MESSAGE | {"to": ["a@example.com", 7]}),
    ("object as recipients", SEND, MESSAGE | {"cc": {"a": 1}}),
    ("list as from", SEND, MESSAGE | {"from": ["a@example.com"]}),
    ("long tag", SEND, MESSAGE | {"tag": "x" * 256}),
    ("raw: number as address", RAW, raw(rcpt_to=[7])),
    ("raw: number as data", RAW, raw(data=7)),
    ("id as text", "/api/v1/messages/message", {"id": "90001"}),
    ("id as boolean", "/api/v1/messages/deliveries", {"id": True}),
]


@pytest.mark.parametrize(
    ("path", "body"), [row[1:] for row in CRASHES], ids=[row[0] for row in CRASHES]
)
def test_what_postal_does_not_expect_crashes_it(
    sim: Simulator, postal: Client, path: str, body: dict[str, Any]
) -> None:
    answer = postal.post(path, body)

    assert answer.status_code == 500
    assert answer.headers["Content-Type"].startswith("text/html")
    assert sim.messages == []
    assert sim.rejected[-1].status == 500


def test_a_crash_may_have_queued_the_recipients_before_it(sim: Simulator, postal: Client) -> None:
    """A 500 is uncertain, not refused: the first of these three is on its way."""
    long = "x" * 250 + "@example.com"

    answer = postal.post(SEND, MESSAGE | {"to": ["a@example.com", long, "b@example.com"]})

    assert answer.status_code == 500
    assert [message.recipients for message in sim.messages] == [["a@example.com"]]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_malformed_json_is_400_with_an_empty_page(postal: Client, content_type: str) -> None:
    data = b"{" if content_type == "application/json" else b"params={"

    answer = postal.post(SEND, data=data, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.content) == (400, b"")


def test_a_form_may_carry_the_parameters_as_json(postal: Client) -> None:
    answer = postal.post(SEND, data={"params": json.dumps(MESSAGE)})

    assert answer.json()["status"] == "success"


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("text/plain", json.dumps(MESSAGE).encode()),
        ("application/vnd.api+json", json.dumps(MESSAGE).encode()),
        ("application/json", b""),
        ("application/json", b"[]"),
        ("application/x-www-form-urlencoded", b"to=bea@example.com"),
    ],
)
def test_a_body_that_is_not_read_counts_as_empty(
    postal: Client, content_type: str, data: bytes
) -> None:
    answer = postal.post(SEND, data=data, headers={"Content-Type": content_type})

    assert answer.json()["data"]["code"] == "NoRecipients"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", SEND, 200),
        ("PATCH", SEND, 200),
        ("GET", SEND, 200),
        ("DELETE", SEND, 404),
        ("POST", "/api/v2/send/message", 404),
        ("POST", "/.well-known/jwks.json", 404),
    ],
)
def test_methods_and_paths(postal: Client, method: str, path: str, status: int) -> None:
    answer = postal.session.request(
        method, postal.url + path, json=MESSAGE, headers=postal.headers, timeout=10
    )

    assert answer.status_code == status


def test_a_duplicate_is_sent_twice_and_answered_once(sim: Simulator, postal: Client) -> None:
    """The key keeps the last id; another spelling is another key."""
    to = ["dup@example.com", "dup@example.com", "DUP@example.com"]

    messages = postal.post(SEND, MESSAGE | {"to": to}).json()["data"]["messages"]

    (message,) = sim.messages
    assert list(messages) == ["dup@example.com", "DUP@example.com"]
    assert message.recipients == to
    assert message.id == str(messages["dup@example.com"]["id"] - 1)


def test_raw_keeps_the_messages_own_id(sim: Simulator, postal: Client) -> None:
    data = postal.post(RAW, raw(rcpt_to=["bea@example.com"] * 2)).json()["data"]

    assert data["message_id"] == "m1@example.org"
    assert list(data["messages"]) == ["bea@example.com"]
    (message,) = sim.messages
    assert (message.raw, message.message_id) == (SOURCE, "m1@example.org")
    assert (message.subject, message.text, message.tag) == ("Dík", "Hi\r\n", "receipt")
    assert message.recipients == ["bea@example.com"]
    assert ("X-Postal-Tag", "receipt") in message.headers


def test_raw_without_a_message_id_answers_null(postal: Client) -> None:
    source = encoded(b"From: a@example.org\r\n\r\nHi\r\n")

    data = postal.post(RAW, raw(data=source)).json()["data"]

    assert data["message_id"] is None
    assert list(data["messages"]) == ["bea@example.com"]


def test_raw_to_nobody_succeeds_without_a_message(sim: Simulator, postal: Client) -> None:
    answer = postal.post(RAW, raw(rcpt_to=[])).json()

    assert (answer["status"], answer["data"]) == ("success", {"message_id": None, "messages": {}})
    assert sim.messages == []


def test_raw_has_no_limit_of_fifty(postal: Client) -> None:
    recipients = [f"r{n}@example.com" for n in range(120)]

    assert len(postal.post(RAW, raw(rcpt_to=recipients)).json()["data"]["messages"]) == 120


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mail_from", None),
        ("mail_from", ""),
        ("rcpt_to", None),
        ("rcpt_to", "bea@example.com"),
        ("data", None),
    ],
)
def test_raw_names_the_parameter_that_is_missing(
    postal: Client, name: str, value: str | None
) -> None:
    answer = postal.post(RAW, raw(**{name: value}))

    assert (answer.status_code, answer.json()["status"]) == (200, "parameter-error")
    assert answer.json()["data"] == {"message": f"`{name}` parameter is required but is missing"}


@pytest.mark.parametrize("ending", ["", "=", "A", "\n"])
def test_raw_data_is_decoded_leniently(sim: Simulator, postal: Client, ending: str) -> None:
    """As Ruby does: padding may be missing, line breaks are skipped."""
    postal.post(RAW, raw(data=encoded(SOURCE).rstrip("=") + ending))

    assert sim.messages[0].raw is not None
    assert sim.messages[0].raw.startswith(SOURCE)


def test_other_keys_can_be_accepted(private_key: str, postal: Client) -> None:
    sim = Simulator(postal_keys={"OtherKey"}, postal_private_key=private_key)
    with sim.running() as server:
        client = Client(server.url_for("postal"), {"X-Server-API-Key": "OtherKey"}, postal.session)

        accepted = client.post(SEND, MESSAGE).json()
        refused = client.post(SEND, MESSAGE, headers={"X-Server-API-Key": POSTAL_KEY}).json()

    assert (accepted["status"], refused["status"]) == ("success", "error")
