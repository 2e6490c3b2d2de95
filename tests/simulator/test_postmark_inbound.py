"""Mail that arrives at Postmark, as the inbound hook receives it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from flask_mailesp.simulator import Simulator

from .conftest import Application

FIELDS = (
    "FromName MessageStream From FromFull To ToFull Cc CcFull Bcc BccFull OriginalRecipient "
    "Subject MessageID ReplyTo MailboxHash Date TextBody HtmlBody StrippedTextReply Tag Headers "
    "Attachments"
)


@pytest.fixture
def mail(sim: Simulator) -> bytes:
    return sim.compose(
        "postmark",
        from_="Ann Omega <ann@example.com>",
        to='"Help, Desk" <help+t-9@in.example.org>',
        subject="Re: Žluté krabice",
        text="One is missing.\n\nOn Sat, 21 Nov 2026, Shop wrote:\n> Thanks.\n",
        html='<p>One is missing.</p><img src="cid:pic">',
        attachments=[("box.txt", "text/plain", b"box 2")],
        inline=[("pic", "pic.png", "image/png", b"png")],
        headers={
            "Cc": "carl@example.net",
            "Reply-To": "Ann <a@example.com>",
            "In-Reply-To": "<1@example.org>",
        },
    )


def received(sim: Simulator, hooked: Application, *args: Any, **options: Any) -> dict[str, Any]:
    assert sim.receive("postmark", *args, **options).status == 200
    body: dict[str, Any] = hooked.last.json
    return body


def test_the_mail_arrives_parsed(sim: Simulator, hooked: Application, mail: bytes) -> None:
    body = received(sim, hooked, mail, "help+t-9@in.example.org")

    assert list(body) == FIELDS.split()
    assert (body["FromName"], body["From"]) == ("Ann Omega", "ann@example.com")
    assert body["FromFull"] == {"Email": "ann@example.com", "Name": "Ann Omega", "MailboxHash": ""}
    assert body["ToFull"] == [
        {"Email": "help+t-9@in.example.org", "Name": "Help, Desk", "MailboxHash": "t-9"}
    ]
    assert (body["Cc"], body["CcFull"][0]["Email"]) == ("carl@example.net", "carl@example.net")
    assert (body["OriginalRecipient"], body["MailboxHash"]) == ("help+t-9@in.example.org", "t-9")
    assert (body["Subject"], body["ReplyTo"]) == ("Re: Žluté krabice", "Ann <a@example.com>")
    assert (body["Bcc"], body["BccFull"]) == ("", [])
    assert body["StrippedTextReply"] == "One is missing."
    assert body["HtmlBody"].startswith("<p>One is missing.</p>")
    assert hooked.last.path == "/postmark/inbound/"
    assert base64.b64decode(hooked.last.headers["authorization"][6:]) == b"hook:s3cret"


def test_attachments_tell_inline_images_by_their_content_id(
    sim: Simulator, hooked: Application, mail: bytes
) -> None:
    body = received(sim, hooked, mail, "help@in.example.org")

    assert sorted(body["Attachments"], key=lambda one: str(one["Name"])) == [
        {
            "Name": "box.txt",
            "Content": base64.b64encode(b"box 2").decode(),
            "ContentType": "text/plain",
            "ContentLength": 5,
            "ContentID": "",
        },
        {
            "Name": "pic.png",
            "Content": base64.b64encode(b"png").decode(),
            "ContentType": "image/png",
            "ContentLength": 3,
            "ContentID": "pic",
        },
    ]


def test_the_first_header_is_the_envelope_sender(
    sim: Simulator, hooked: Application, mail: bytes
) -> None:
    """Headers with a field of their own are taken out."""
    body = received(sim, hooked, mail, "help@in.example.org", "bounces@example.com")

    names = [header["Name"] for header in body["Headers"]]
    assert body["Headers"][0] == {"Name": "Return-Path", "Value": "<bounces@example.com>"}
    assert {"From", "To", "Cc", "Subject", "Date", "Reply-To"}.isdisjoint(names)
    assert "Message-ID" in names


@pytest.mark.parametrize(
    ("sender", "return_path"), [({}, "<ann@example.com>"), ({"mail_from": None}, "<>")]
)
def test_the_envelope_sender_is_that_of_from_or_none(
    sim: Simulator, hooked: Application, mail: bytes, sender: dict[str, Any], return_path: str
) -> None:
    body = received(sim, hooked, mail, "help@in.example.org", **sender)

    assert body["Headers"][0]["Value"] == return_path


def test_a_recipient_who_is_not_in_to_is_in_bcc(
    sim: Simulator, hooked: Application, mail: bytes
) -> None:
    body = received(sim, hooked, mail, "secret@in.example.org")

    assert body["Bcc"] == "secret@in.example.org"
    assert body["BccFull"] == [{"Email": "secret@in.example.org", "Name": "", "MailboxHash": ""}]


def test_raw_email_on_request(sim: Simulator, hooked: Application, mail: bytes) -> None:
    body = received(sim, hooked, mail, "help@in.example.org", raw_email=True)

    assert body["RawEmail"] == mail.decode()


@pytest.mark.parametrize(("spam", "status"), [((True, 7.5), "Yes"), ((False, -0.1), "No")])
def test_what_the_spam_filter_found_is_in_headers(
    sim: Simulator, hooked: Application, mail: bytes, spam: tuple[bool, float], status: str
) -> None:
    body = received(sim, hooked, mail, "help@in.example.org", spam=spam)

    headers = {header["Name"]: header["Value"] for header in body["Headers"]}
    assert (headers["X-Spam-Status"], headers["X-Spam-Score"]) == (status, str(spam[1]))
    assert {"X-Spam-Checker-Version", "X-Spam-Tests", "Received-SPF"} <= set(headers)


def test_a_bare_mail_has_empty_fields(sim: Simulator, hooked: Application) -> None:
    """Absent is the empty string or the empty list, never null."""
    body = received(sim, hooked, b"\r\nHello\r\n", "help@in.example.org")

    assert None not in body.values()
    assert (body["From"], body["Subject"], body["ToFull"]) == ("", "", [])
    assert (body["TextBody"], body["StrippedTextReply"]) == ("Hello\r\n", "")


def test_a_reply_without_a_quote_is_new_throughout(sim: Simulator, hooked: Application) -> None:
    mail = b"From: a@example.com\r\nReferences: <1@example.org>\r\n\r\nAll new.\r\n"

    body = received(sim, hooked, mail, "help@in.example.org")

    assert body["StrippedTextReply"] == "All new."
