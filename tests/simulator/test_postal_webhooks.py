"""Postal's webhooks: signed, escaped, and one for each recipient."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from flask_mailesp.simulator import SentMessage, Simulator

from .conftest import POSTAL_KEY, Application, Client, Received

SEND = "/api/v1/send/message"
MESSAGE: dict[str, Any] = {
    "from": "Shop <shop@example.org>",
    "to": ["bea@example.com", "carl@example.com"],
    "subject": "Žlutý <b> & more \u2028",
    "html_body": '<a href="https://example.org/x">see</a>',
    "tag": "receipt",
}
MESSAGE_OBJECT = "id token direction message_id to from subject timestamp spam_status tag"
STATUS = "message status details output sent_with_ssl timestamp time"
EVENTS: list[tuple[str, str, str | None, str]] = [
    ("delivered", "MessageSent", "Sent", STATUS),
    ("deferred", "MessageDelayed", "SoftFail", STATUS),
    ("bounced", "MessageBounced", None, "original_message bounce"),
    ("failed", "MessageDeliveryFailed", "HardFail", STATUS),
    ("rejected", "MessageHeld", "Held", STATUS),
    ("queued", "MessageHeld", "Held", STATUS),
    ("opened", "MessageLoaded", None, "message ip_address user_agent"),
    ("clicked", "MessageLinkClicked", None, "message url token ip_address user_agent"),
]


@pytest.fixture
def message(sim: Simulator, postal: Client, hooked: Application) -> SentMessage:
    sim.auto = ()
    postal.post(SEND, MESSAGE)
    return sim.messages[-1]


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def key_of(client: Client) -> tuple[rsa.RSAPublicKey, str]:
    """The public key and its id, as an application would fetch them."""
    (jwk,) = client.session.get(client.url + "/.well-known/jwks.json", timeout=10).json()["keys"]
    return rsa.RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key(), jwk["kid"]


def check(key: rsa.RSAPublicKey, request: Received, body: bytes) -> None:
    for header, algorithm in (
        ("x-postal-signature", hashes.SHA1()),  # noqa: S303
        ("x-postal-signature-256", hashes.SHA256()),
    ):
        signature = base64.b64decode(request.headers[header], validate=True)
        key.verify(signature, body, padding.PKCS1v15(), algorithm)


def test_all_events_are_covered(sim: Simulator) -> None:
    assert sim.events("postal") == tuple(row[0] for row in EVENTS)


@pytest.mark.parametrize(("event", "wire", "status", "fields"), EVENTS)
def test_each_event_has_the_documented_fields(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    event: str,
    wire: str,
    status: str | None,
    fields: str,
) -> None:
    sim.emit(message, event, recipient="CARL@example.com")

    body = hooked.last.json
    assert list(body) == ["event", "timestamp", "payload", "uuid"]
    assert (body["event"], body["payload"].get("status")) == (wire, status)
    assert list(body["payload"]) == fields.split()
    described = next(iter(body["payload"].values()))
    assert list(described) == MESSAGE_OBJECT.split()
    assert str(described["id"]) == message.ids["carl@example.com"]
    assert (described["direction"], described["message_id"]) == ("outgoing", message.message_id)
    assert (described["to"], described["from"]) == ("carl@example.com", "shop@example.org")
    assert (described["subject"], described["tag"]) == (MESSAGE["subject"], "receipt")
    assert len(body["uuid"]) == 36


@pytest.mark.parametrize("event", [row[0] for row in EVENTS])
def test_both_signatures_are_over_exactly_the_bytes_posted(
    sim: Simulator, message: SentMessage, postal: Client, hooked: Application, event: str
) -> None:
    sim.emit(message, event)
    key, kid = key_of(postal)

    check(key, hooked.last, hooked.last.body)
    with pytest.raises(InvalidSignature):
        check(key, hooked.last, hooked.last.body + b"\n")
    assert hooked.last.headers["x-postal-signature-kid"] == kid


def test_the_key_is_published_in_every_form(sim: Simulator, postal: Client) -> None:
    """The id is the SHA-256 of the PKCS#1 DER, not the thumbprint of RFC 7638."""
    key, kid = key_of(postal)
    record = sim.postal_dkim_record
    spki = base64.b64decode(record.partition("p=")[2].rstrip(";"), validate=True)
    pkcs1 = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)

    assert serialization.load_pem_public_key(sim.postal_public_key.encode()) == key
    assert serialization.load_der_public_key(spki) == key
    assert record.startswith("v=DKIM1; t=s; h=sha256; p=")
    assert kid == hashlib.sha256(pkcs1).hexdigest()
    assert sim.postal_jwks["keys"][0]["kid"] == kid


def test_the_key_set_can_be_cached(postal: Client) -> None:
    answer = postal.get("/.well-known/jwks.json")

    assert answer.headers["Cache-Control"] == "max-age=0, private, must-revalidate"
    assert answer.headers["ETag"]


@pytest.mark.parametrize(
    ("signatures", "headers"),
    [
        (("sha1",), {"x-postal-signature"}),
        (("sha256",), {"x-postal-signature-256", "x-postal-signature-kid"}),
        ((), set()),
    ],
)
def test_signatures_can_be_left_out(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    signatures: tuple[str, ...],
    headers: set[str],
) -> None:
    """SHA-1 alone is how Postal signed before 3.2."""
    sim.hook("postal", signatures=signatures)

    sim.emit(message, "delivered")

    assert {name for name in hooked.last.headers if "postal" in name} == headers


def test_json_is_raw_utf8_with_html_escaped(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    """A body that is serialised again is another body: nobody else escapes like this."""
    sim.emit(message, "delivered")

    subject = '"subject":"Žlutý \\u003cb\\u003e \\u0026 more \\u2028"'
    assert subject.encode() in hooked.last.body


def test_the_request_is_postals(sim: Simulator, message: SentMessage, hooked: Application) -> None:
    """Credentials are sent as the URL spells them, the query string is kept."""
    sim.hook("postal", tracking=hooked.hook("/t?key=1", "user:p%40ss"))

    sim.emit(message, "delivered")

    headers = hooked.last.headers
    assert base64.b64decode(headers["authorization"][6:]) == b"user:p%40ss"
    assert hooked.last.path == "/t?key=1"
    assert headers["user-agent"].startswith("Postal/3.")
    assert (headers["content-type"], headers["connection"]) == ("application/json", "close")


def test_redirects_are_not_followed(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.hook("postal", tracking=hooked.hook("/moved"))

    assert sim.emit(message, "delivered").status == 307
    assert [one.path for one in hooked.requests] == ["/moved"]


def test_a_bounce_is_a_mail_that_came_in(
    sim: Simulator, message: SentMessage, postal: Client, hooked: Application
) -> None:
    """It has no reason: that is in its source, which can be fetched."""
    sim.emit(message, "bounced")

    bounce = hooked.last.json["payload"]["bounce"]
    assert list(bounce) == MESSAGE_OBJECT.split()
    assert (bounce["direction"], bounce["from"], bounce["tag"]) == ("incoming", None, None)
    look_up = {"id": bounce["id"], "_expansions": ["plain_body", "details"]}
    data = postal.post("/api/v1/messages/message", look_up).json()["data"]
    assert "550 5.1.1" in data["plain_body"]
    assert data["details"]["bounce"] is True


@pytest.mark.parametrize(
    ("event", "details", "output"),
    [
        ("rejected", "Recipient (bea@example.com) is on the suppression list", ""),
        ("queued", "Server is in development mode.", ""),
        ("failed", "Maximum number of delivery attempts", ""),
        ("MessageDeliveryFailed", "Permanent SMTP delivery error", "550 5.1.1"),
        ("MessageSent", "Message for bea@example.com accepted by", "250 2.0.0"),
        ("MessageHeld", "Server is in development mode.", ""),
    ],
)
def test_the_text_tells_what_the_status_does_not(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    event: str,
    details: str,
    output: str,
) -> None:
    sim.emit(message, event)

    payload = hooked.last.json["payload"]
    assert payload["details"].startswith(details)
    assert payload["output"].startswith(output)


def test_details_replace_fields(sim: Simulator, message: SentMessage, hooked: Application) -> None:
    sim.emit(message, "deferred", output="450 greylisted", details="Later", time=None)

    payload = hooked.last.json["payload"]
    assert (payload["output"], payload["details"], payload["time"]) == (
        "450 greylisted",
        "Later",
        None,
    )


def test_a_click_is_on_the_messages_first_link(
    sim: Simulator, message: SentMessage, postal: Client, hooked: Application
) -> None:
    sim.emit(message, "clicked")
    sim.emit(message, "clicked", url="https://example.org/y", user_agent=None)
    postal.post(SEND, {"from": "a@b.c", "to": "d@e.f", "plain_body": "no link"})
    sim.emit(sim.messages[-1], "clicked")

    payloads = [one.json["payload"] for one in hooked.requests]
    assert [payload["url"] for payload in payloads] == [
        "https://example.org/x",
        "https://example.org/y",
        "https://example.com/",
    ]
    assert payloads[1]["user_agent"] is None


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ("DomainDNSError", "dkim_status"),
        ("SendLimitApproaching", "limit"),
        ("SendLimitExceeded", "volume"),
    ],
)
def test_events_that_speak_of_no_message(
    sim: Simulator, message: SentMessage, hooked: Application, event: str, field: str
) -> None:
    """Sent to the same hook; an application has to bear them."""
    sim.emit(message, event)

    body = hooked.last.json
    assert body["event"] == event
    assert field in body["payload"]
    assert "message" not in body["payload"]


def test_every_copy_is_delivered_even_a_duplicate(
    sim: Simulator, postal: Client, hooked: Application
) -> None:
    postal.post(SEND, MESSAGE | {"to": ["dup@example.com", "dup@example.com"]})
    sim.wait()

    ids = [one.json["payload"]["message"]["id"] for one in hooked.requests]
    assert len(set(ids)) == 2


def test_a_suppressed_recipient_is_accepted_then_held(
    sim: Simulator, postal: Client, hooked: Application
) -> None:
    sim.suppress("postal", "Bea@example.com")

    answer = postal.post(SEND, MESSAGE).json()
    sim.wait()

    assert "bea@example.com" in answer["data"]["messages"]
    assert [one.json["event"] for one in hooked.requests] == ["MessageHeld", "MessageSent"]
    assert "suppression list" in hooked.requests[0].json["payload"]["details"]


def test_hard_fails_suppress_until_a_message_gets_through(
    sim: Simulator, message: SentMessage, postal: Client, hooked: Application
) -> None:
    """The second refusal does; running out of attempts does at once."""

    def automatic() -> list[str]:
        postal.post(SEND, MESSAGE | {"to": ["bea@example.com"]})
        sim.wait()
        return [one.json["event"] for one in hooked.requests[-1:]]

    sim.emit(message, "MessageDeliveryFailed")
    sim.auto = ("delivered",)
    assert automatic() == ["MessageSent"]

    sim.emit(message, "MessageDeliveryFailed")
    assert "added to suppression list" in hooked.last.json["payload"]["details"]
    assert automatic() == ["MessageHeld"]

    sim.emit(message, "delivered")
    assert automatic() == ["MessageSent"]


def test_a_bounce_message_has_no_envelope_sender(
    sim: Simulator, postal: Client, hooked: Application
) -> None:
    postal.post(SEND, MESSAGE | {"bounce": True, "to": "bea@example.com"})
    sim.wait()

    assert hooked.last.json["payload"]["message"]["from"] is None


def test_long_and_missing_subjects(sim: Simulator, postal: Client, hooked: Application) -> None:
    """Webhooks keep 200 characters; without a subject there is null."""
    for subject in ("x" * 300, None):
        postal.post(SEND, MESSAGE | {"to": "bea@example.com", "subject": subject})
    sim.wait()

    subjects = [one.json["payload"]["message"]["subject"] for one in hooked.requests]
    assert subjects == ["x" * 200, None]


def test_a_message_can_be_looked_up(sim: Simulator, message: SentMessage, postal: Client) -> None:
    number = int(message.id)
    sim.emit(message, "opened")
    sim.emit(message, "clicked")
    sim.emit(message, "delivered")

    bare = postal.post("/api/v1/messages/message", {"id": number}).json()["data"]
    everything = postal.post(
        "/api/v1/messages/message", {"id": number, "_expansions": True}
    ).json()["data"]

    assert list(bare) == ["id", "token"]
    assert everything["status"]["status"] == "Sent"
    assert everything["details"]["rcpt_to"] == "bea@example.com"
    assert everything["details"]["size"].isdigit()
    assert everything["inspection"]["inspected"] is False
    assert (everything["plain_body"], everything["attachments"]) == (None, [])
    assert everything["html_body"].startswith("<a href=")
    assert everything["headers"]["message-id"] == [f"<{message.message_id}>"]
    assert b"Message-ID:" in base64.b64decode(everything["raw_message"])
    assert len(everything["activity_entries"]["loads"]) == 1
    assert everything["activity_entries"]["clicks"][0]["url"] == "https://example.org/x"


@pytest.mark.parametrize("expansions", ["status", ["unknown"], False, None])
def test_unknown_expansions_are_ignored(
    message: SentMessage, postal: Client, expansions: Any
) -> None:
    body = {"id": int(message.id), "_expansions": expansions}

    data = postal.post("/api/v1/messages/message", body).json()["data"]

    assert list(data) == ["id", "token"]


@pytest.mark.parametrize(
    ("events", "status", "held"),
    [
        ([], "Pending", False),
        (["deferred"], "SoftFail", False),
        (["deferred", "queued"], "Held", True),
        (["delivered", "bounced"], "Bounced", False),
    ],
)
def test_the_status_follows_the_events(
    sim: Simulator,
    message: SentMessage,
    postal: Client,
    events: list[str],
    status: str,
    held: bool,
) -> None:
    for event in events:
        sim.emit(message, event)

    body = {"id": int(message.id), "_expansions": ["status"]}
    data = postal.post("/api/v1/messages/message", body).json()["data"]["status"]

    assert (data["status"], data["held"]) == (status, held)
    assert (data["hold_expiry"] is not None) is held


def test_the_attempts_of_a_message_oldest_first(
    sim: Simulator, message: SentMessage, postal: Client
) -> None:
    sim.emit(message, "queued")
    sim.emit(message, "delivered")

    body = {"id": int(message.id)}
    held, sent = postal.post("/api/v1/messages/deliveries", body).json()["data"]

    assert " ".join(held) == "id status details output sent_with_ssl log_id time timestamp"
    assert (held["status"], held["output"]) == ("Held", None)
    assert (sent["status"], sent["output"][:3]) == ("Sent", "250")


@pytest.mark.parametrize("path", ["message", "deliveries"])
def test_an_unknown_id_is_not_found(postal: Client, path: str) -> None:
    """Which proves URL and key: what a configuration check asks for."""
    data = postal.post(f"/api/v1/messages/{path}", {"id": 0}).json()["data"]
    missing = postal.post(f"/api/v1/messages/{path}", {}).json()
    denied = postal.post(f"/api/v1/messages/{path}", {"id": 0}, headers={"X-Server-API-Key": "x"})

    assert (data["code"], data["id"]) == ("MessageNotFound", 0)
    assert missing["status"] == "parameter-error"
    assert denied.json()["data"]["code"] == "InvalidServerAPIKey"
    assert POSTAL_KEY not in denied.text


def test_attachments_are_looked_up_with_their_hash(sim: Simulator, postal: Client) -> None:
    data = base64.b64encode(b"x" * 50).decode()
    files = [{"name": "a.txt", "content_type": "text/plain", "data": data}]
    postal.post(SEND, MESSAGE | {"attachments": files, "plain_body": "Hi"})

    body = {"id": int(sim.messages[0].id), "_expansions": ["attachments"]}
    (found,) = postal.post("/api/v1/messages/message", body).json()["data"]["attachments"]

    assert (found["filename"], found["content_type"], found["size"]) == ("a.txt", "text/plain", 50)
    assert found["hash"] == hashlib.sha1(b"x" * 50).hexdigest()  # noqa: S324
    assert [len(line) for line in found["data"].split("\n")] == [60, 8, 0]
