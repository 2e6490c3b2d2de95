"""Mail is read whatever its sender wrote."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from flask_mailesp.simulator import Attached, Simulator
from flask_mailesp.simulator.mime import Mail, as_bytes, bare


def test_a_composed_mail_reads_back(sim: Simulator) -> None:
    raw = sim.compose(
        "postal",
        from_="Ann <ann@example.com>",
        to=["help@example.org", "Bob <bob@example.org>"],
        subject="Žluťoučký kůň",
        text="Hello",
        html='<img src="cid:logo">',
        attachments=[("a.txt", "text/plain", b"one")],
        inline=[("logo", "logo.png", "image/png", b"two")],
        headers={"In-Reply-To": "<1@example.org>", "Message-ID": "<2@example.com>", "Date": ""},
    )

    mail = Mail(raw)

    assert mail.first("Subject") == "Žluťoučký kůň"
    assert mail.message_id == "2@example.com"
    assert mail.addresses("To") == [("", "help@example.org"), ("Bob", "bob@example.org")]
    assert (mail.text, mail.html) == ("Hello\r\n", '<img src="cid:logo">\r\n')
    assert sorted(mail.attachments, key=lambda one: one.name) == [
        Attached("a.txt", "text/plain", b"one"),
        Attached("logo.png", "image/png", b"two", "logo"),
    ]
    assert b"\n" not in raw.replace(b"\r\n", b"")


def test_a_mail_may_be_html_only(sim: Simulator) -> None:
    raw = sim.compose(
        "postal",
        from_="a@example.com",
        to="b@example.org",
        subject=None,
        text=None,
        html="<p>Hi</p>",
        inline=[("logo", "logo.png", "image/png", b"two")],
    )

    mail = Mail(raw)

    assert (mail.text, mail.html, mail.first("Subject")) == (None, "<p>Hi</p>\r\n", None)
    assert [one.content_id for one in mail.attachments] == ["logo"]


def test_an_email_message_is_written_with_crlf() -> None:
    mail = EmailMessage()
    mail["Subject"] = "Hi"
    mail.set_content("Hello")

    assert as_bytes(mail).startswith(b"Subject: Hi\r\n")


def test_an_attached_mail_is_one_attachment() -> None:
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("inside")
    outer = EmailMessage()
    outer.set_content("outside")
    outer.add_attachment(inner)

    mail = Mail(outer.as_bytes())

    assert mail.text == "outside\n"
    (attachment,) = mail.attachments
    assert (attachment.name, attachment.content_type) == ("mail.eml", "message/rfc822")
    assert b"Subject: Inner" in attachment.data


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Content-Type: text/plain; charset=nonsense\r\n\r\nd\xc3\xadk", "dík"),
        (b"Content-Type: text/plain; charset=ascii\r\n\r\nd\xc3\xadk", "dík"),
        (b"Content-Type: text/plain; charset=latin-1\r\n\r\nd\xedk", "dík"),
        (b"Content-Type: multipart/mixed\r\n\r\nno parts", "no parts"),
        (b"", ""),
    ],
)
def test_bodies_are_decoded_as_well_as_they_can_be(raw: bytes, text: str) -> None:
    assert Mail(raw).text == text


@pytest.mark.parametrize(
    "header", [b"To: <a,", b"To: @@@", b"To: \xff\xfe", b"To: =?utf-8?q?=FF?= <a@example.com>"]
)
def test_hostile_headers_do_not_raise(header: bytes) -> None:
    mail = Mail(header + b"\r\nMessage-ID: <<<\r\n\r\nx")

    assert isinstance(mail.addresses("To"), list)
    assert isinstance(mail.headers(), list)
    assert mail.message_id is not None


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("a@example.com", "a@example.com"),
        (" Ann <a@example.com> ", "a@example.com"),
        ('"<x>" <A@Example.com>', "A@Example.com"),
        ("not an address", "not an address"),
        ("", ""),
    ],
)
def test_the_bare_address_keeps_its_spelling(written: str, address: str) -> None:
    assert bare(written) == address
