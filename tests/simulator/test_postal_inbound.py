"""Mail that arrives at Postal, in each format and encoding of its HTTP endpoints."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import pytest

from flask_mailesp.simulator import Simulator

from .conftest import Application, Client
from .test_postal_webhooks import check, key_of

HASH = (
    "id rcpt_to mail_from token subject message_id timestamp size spam_status bounce "
    "received_with_ssl to cc from date in_reply_to references html_body attachment_quantity "
    "auto_submitted reply_to plain_body"
)


@pytest.fixture
def mail(sim: Simulator) -> bytes:
    return sim.compose(
        "postal",
        from_="Ann <ann@example.com>",
        to="Help <help+t-9@example.org>",
        subject="Re: Žluté krabice",
        text="One is missing.\n\nOn Sat, 21 Nov 2026, Shop wrote:\n> Thanks.\n",
        html="<p>One is missing.</p>",
        attachments=[("box.txt", "text/plain", b"box 2")],
        headers={
            "Message-ID": "<7@mail.example.com>",
            "References": "<1@example.org> <2@example.org>",
            "Reply-To": "Ann <a@example.com>",
        },
    )


@pytest.mark.parametrize("inbound_encoding", ["json", "form"])
@pytest.mark.parametrize("inbound_format", ["raw", "hash"])
def test_every_request_is_signed_over_its_bytes(
    sim: Simulator,
    postal: Client,
    hooked: Application,
    mail: bytes,
    inbound_format: str,
    inbound_encoding: str,
) -> None:
    """A form is signed as it is encoded."""
    sim.hook("postal", inbound_format=inbound_format, inbound_encoding=inbound_encoding)

    sim.receive("postal", mail, "help+t-9@example.org")

    key, kid = key_of(postal)
    check(key, hooked.last, hooked.last.body)
    assert hooked.last.headers["x-postal-signature-kid"] == kid
    assert hooked.last.path == "/postal/inbound/"
    assert base64.b64decode(hooked.last.headers["authorization"][6:]) == b"hook:s3cret"
    assert hooked.last.headers["content-type"] == (
        "application/json" if inbound_encoding == "json" else "application/x-www-form-urlencoded"
    )


def test_the_raw_format_holds_the_source(sim: Simulator, hooked: Application, mail: bytes) -> None:
    sim.receive("postal", mail, "help+t-9@example.org")

    body = hooked.last.json
    assert list(body) == ["id", "rcpt_to", "mail_from", "message", "base64", "size"]
    assert (body["rcpt_to"], body["mail_from"]) == ("help+t-9@example.org", "ann@example.com")
    assert (body["base64"], body["size"]) == (True, len(mail))
    assert base64.b64decode(body["message"]) == mail
    assert max(len(line) for line in body["message"].split("\n")) == 60


def test_bytes_that_are_not_utf8_arrive_unharmed(sim: Simulator, hooked: Application) -> None:
    source = b"From: ann@example.com\r\nSubject: caf\xe9\r\n\r\ncaf\xe9\r\n"

    sim.receive("postal", source, "help@example.org")

    assert base64.b64decode(hooked.last.json["message"]) == source


@pytest.mark.parametrize(("spam", "word"), [((True, 9.1), b"yes"), ((False, 0.4), b"no")])
def test_the_inspection_stands_on_top_of_the_source(
    sim: Simulator, hooked: Application, mail: bytes, spam: tuple[bool, float], word: bytes
) -> None:
    """The size is that of the mail as it was received."""
    sim.receive("postal", mail, "help@example.org", spam=spam)

    source = base64.b64decode(hooked.last.json["message"])
    assert source.startswith(b"X-Postal-Spam: " + word + b"\r\n")
    assert b"X-Postal-Spam-Score: " + str(spam[1]).encode() in source
    assert source.endswith(mail)
    assert hooked.last.json["size"] == len(mail)


def test_the_hash_format_holds_the_fields(sim: Simulator, hooked: Application, mail: bytes) -> None:
    sim.hook("postal", inbound_format="hash")

    sim.receive("postal", mail, "help+t-9@example.org", None, spam=(False, 0.1))

    body = hooked.last.json
    assert list(body) == [*HASH.split(), "attachments"]
    assert (body["mail_from"], body["cc"], body["received_with_ssl"]) == (None, None, None)
    assert (body["subject"], body["message_id"]) == ("Re: Žluté krabice", "7@mail.example.com")
    assert (body["size"], body["spam_status"], body["bounce"]) == (str(len(mail)), "NotSpam", False)
    assert body["references"] == "<1@example.org> <2@example.org>"
    assert body["reply_to"] == ["Ann <a@example.com>"]
    assert body["plain_body"].startswith("One is missing.\r\n\r\nOn Sat")
    assert body["html_body"].startswith("<p>")
    assert body["attachment_quantity"] == 1
    assert body["attachments"] == [
        {
            "filename": "box.txt",
            "content_type": "text/plain",
            "size": 5,
            "data": "Ym94IDI=\n",
        }
    ]


@pytest.mark.parametrize(
    ("text", "plain", "replies"),
    [
        ("New.\n\nOn Sat, Shop wrote:\n> Old.\n", "New.", "On Sat, Shop wrote:\n> Old."),
        ("New.\n> Old.\n", "New.", "> Old."),
        ("New.\n", "New.\n", None),
        (None, "", None),
    ],
)
def test_replies_can_be_stripped(
    sim: Simulator, hooked: Application, text: str | None, plain: str, replies: str | None
) -> None:
    sim.hook("postal", inbound_format="hash", strip_replies=True)
    mail = sim.compose(
        "postal",
        from_="a@example.com",
        to="b@example.org",
        subject="Hi",
        text=text,
        html="<p>Hi</p>",
    )

    sim.receive("postal", mail, "b@example.org")

    body = hooked.last.json
    assert (body["plain_body"], body["replies_from_plain_body"]) == (plain, replies)


def test_attachments_can_be_left_out(sim: Simulator, hooked: Application, mail: bytes) -> None:
    sim.hook("postal", inbound_format="hash", include_attachments=False)

    sim.receive("postal", mail, "help@example.org")

    body = hooked.last.json
    assert "attachments" not in body
    assert body["attachment_quantity"] == 1


def test_a_form_flattens_the_hash(sim: Simulator, hooked: Application, mail: bytes) -> None:
    """null is empty, booleans are words, attachments are numbered."""
    sim.hook("postal", inbound_format="hash", inbound_encoding="form")
    second = mail.replace(b"Reply-To:", b"Reply-To: B <b@example.com>\r\nReply-To:", 1)

    sim.receive("postal", second, "help+t-9@example.org")

    form = parse_qs(hooked.last.body.decode("ascii"), keep_blank_values=True)
    assert (form["cc"], form["bounce"], form["size"]) == ([""], ["false"], [str(len(second))])
    assert form["subject"] == ["Re: Žluté krabice"]
    assert form["reply_to"] == ["B <b@example.com>", "Ann <a@example.com>"]
    assert form["attachments[0][filename]"] == ["box.txt"]
    assert form["attachments[0][size]"] == ["5"]
    assert form["attachments[0][data]"] == ["Ym94IDI=\n"]


def test_a_form_may_hold_the_source_too(sim: Simulator, hooked: Application, mail: bytes) -> None:
    sim.hook("postal", inbound_encoding="form")

    sim.receive("postal", mail, "help@example.org")

    pairs: dict[str, Any] = dict(parse_qsl(hooked.last.body.decode("ascii")))
    assert list(pairs) == ["id", "rcpt_to", "mail_from", "message", "base64", "size"]
    assert pairs["base64"] == "true"
    assert base64.b64decode(pairs["message"]) == mail


def test_an_inbound_mail_is_reported_to_tracking_on_request(
    sim: Simulator, hooked: Application, mail: bytes
) -> None:
    """A real Postal does: MessageSent with direction incoming, which is nobody's delivery."""
    sim.hook("postal", incoming_events=True)

    sim.receive("postal", mail, "help@example.org")

    inbound, tracking = hooked.requests
    assert inbound.path == "/postal/inbound/"
    assert tracking.json["event"] == "MessageSent"
    message = tracking.json["payload"]["message"]
    assert (message["id"], message["direction"]) == (inbound.json["id"], "incoming")


def test_an_inbound_mail_can_be_looked_up(
    sim: Simulator, postal: Client, hooked: Application, mail: bytes
) -> None:
    sim.receive("postal", mail, "help@example.org", spam=(True, 9.0))

    body = {"id": hooked.last.json["id"], "_expansions": ["details", "inspection", "raw_message"]}
    data = postal.post("/api/v1/messages/message", body).json()["data"]

    assert data["details"]["direction"] == "incoming"
    assert data["inspection"]["spam"] is True
    assert base64.b64decode(data["raw_message"]) == mail
