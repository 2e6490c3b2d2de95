"""The message an app receives: whatever the mail, every accessor answers."""

from __future__ import annotations

import copy
import email
import email.headerregistry
import email.policy
import pickle
import unicodedata
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_mailesp.address import Address
from flask_mailesp.inbound import (
    InboundAttachment,
    InboundHeaders,
    InboundMessage,
    Inlines,
    safe_filename,
)

NAIVE = datetime(2026, 11, 21)  # noqa: DTZ001

ACCESSORS = (
    *("from_email", "to", "cc", "bcc", "reply_to", "subject", "date", "text", "html"),
    *("attachments", "inlines", "headers", "message_id", "in_reply_to", "references"),
    *("envelope_sender", "envelope_recipient", "stripped_text", "stripped_html"),
    *("spam_detected", "spam_score", "raw", "is_auto_reply", "defects"),
)

SAMPLE = """\
Return-Path: <ann@example.com>
From: "Omega, Ann" <ann@example.com>
To: Help <help@shop.example>, carl@example.net
Cc: dee@example.org
Reply-To: ann+private@example.com
Subject: =?utf-8?q?Caf=C3=A9?= order
Date: Sat, 21 Nov 2026 10:05:12 +0100
Message-ID: <m2@mail.example.com>
In-Reply-To: <m1@shop.example>
References: <m0@shop.example>
 <m1@shop.example>
Received: by two
Received: by one
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=mixed

This is a mail in several parts.
--mixed
Content-Type: multipart/related; boundary=related

--related
Content-Type: multipart/alternative; boundary=alternative

--alternative
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Caf=C3=A9, please.
--alternative
Content-Type: text/html; charset=utf-8

<p>Café <img src="cid:logo@x"></p>
--alternative--
--related
Content-Type: image/png; name=logo.png
Content-ID: <logo@x>
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--related--
--mixed
Content-Type: application/pdf
Content-Disposition: attachment; filename*=utf-8''Bestellung%20%E2%84%96%201.pdf
Content-Transfer-Encoding: base64

JVBERi0=
--mixed--
"""


def mail(text: str, **given: Any) -> InboundMessage:
    """A message from its source, with the line breaks it travels with."""
    return InboundMessage.from_raw(text.replace("\n", "\r\n").encode(), **given)


def read_everything(message: InboundMessage) -> dict[str, Any]:
    """Read every accessor of the message, its headers and its files."""
    found = {name: getattr(message, name) for name in ACCESSORS}
    list(message.headers.items())
    assert {name: message.headers[name] for name in message.headers} == dict(message.headers)
    for file in [*message.attachments, *message.inlines]:
        assert file.size == len(file.data)
        assert isinstance(file.text, str)
        assert_safe(file.filename)
        assert file.defects is not None
    repr(message)
    return found


class TestAMailFromItsSource:
    def test_its_headers_are_read(self) -> None:
        """Names decoded, ids without brackets, the date aware."""
        message = mail(SAMPLE)

        assert message.from_email == Address("ann@example.com", "Omega, Ann")
        assert message.to == [Address("help@shop.example", "Help"), Address("carl@example.net")]
        assert message.cc == [Address("dee@example.org")]
        assert message.bcc == []
        assert message.reply_to == [Address("ann+private@example.com")]
        assert message.subject == "Café order"
        assert message.date == datetime(2026, 11, 21, 9, 5, 12, tzinfo=timezone.utc)
        assert message.message_id == "m2@mail.example.com"
        assert message.in_reply_to == "m1@shop.example"
        assert message.references == ["m0@shop.example", "m1@shop.example"]
        assert message.defects == []

    def test_its_bodies_are_text_with_plain_line_ends(self) -> None:
        """CRLF is how mail travels, not what the user's app wants."""
        message = mail(SAMPLE)

        assert message.text == "Café, please."
        assert message.html == '<p>Café <img src="cid:logo@x"></p>'
        assert mail("Subject: x\n\none\ntwo\n").text == "one\ntwo\n"

    def test_its_files_are_attachments_or_inline(self) -> None:
        """What the HTML shows is apart from what the sender attached."""
        message = mail(SAMPLE)
        [attachment], [inline] = message.attachments, message.inlines

        assert attachment.filename == "Bestellung № 1.pdf"
        assert attachment.content_type == "application/pdf"
        assert attachment.disposition == "attachment"
        assert attachment.content_id is None
        assert attachment.data == b"%PDF-"
        assert inline is message.inlines["logo@x"]
        assert (inline.filename, inline.content_id) == ("logo.png", "logo@x")
        assert inline.disposition == "inline"
        assert inline.data.startswith(b"\x89PNG")

    def test_it_keeps_the_source(self) -> None:
        """Byte for byte, whatever could not be read."""
        source = b"Subject: caf\xe9\r\n\r\n\xff\x00"

        assert InboundMessage.from_raw(source).raw == source

    def test_it_carries_what_the_esp_knows(self) -> None:
        """The envelope and verdicts come from the ESP, never from the mail."""
        message = mail(
            SAMPLE,
            bcc=[Address("box@shop.example")],
            envelope_sender="",
            envelope_recipient="box@shop.example",
            stripped_text="please",
            stripped_html="<p>please",
            spam_detected=False,
            spam_score=-0.4,
            defects=["the source was cut by the ESP"],
        )

        assert message.bcc == [Address("box@shop.example")]
        assert (message.envelope_sender, message.envelope_recipient) == ("", "box@shop.example")
        assert (message.stripped_text, message.stripped_html) == ("please", "<p>please")
        assert (message.spam_detected, message.spam_score) == (False, -0.4)
        assert message.defects == ["the source was cut by the ESP"]

    def test_the_envelope_is_unknown_unless_given(self) -> None:
        """A Return-Path header may be forged."""
        message = mail(SAMPLE)

        assert message.envelope_sender is None
        assert message.envelope_recipient is None
        assert message.stripped_text is message.stripped_html is None
        assert message.spam_detected is message.spam_score is None

    @pytest.mark.parametrize("source", [b"", b"\r\n", b"\r\n\r\n", b"MIME-Version: 1.0\r\n\r\n"])
    def test_an_empty_mail_is_empty(self, source: bytes) -> None:
        """Nothing is missing so badly that an accessor fails."""
        found = read_everything(InboundMessage.from_raw(source))

        assert found["from_email"] is found["date"] is found["message_id"] is None
        assert found["subject"] == found["html"] == found["text"].strip() == ""
        assert found["to"] == found["attachments"] == found["inlines"] == found["defects"] == []

    def test_a_mail_without_headers_is_text(self) -> None:
        """Somebody wrote it, after all."""
        message = mail("\nHello\n")

        assert (message.text, message.subject) == ("Hello\n", "")

    def test_an_html_mail_has_no_text(self) -> None:
        """Making some up is the app's choice."""
        message = mail("Content-Type: text/html\n\n<p>Hi")

        assert (message.text, message.html) == ("", "<p>Hi")

    def test_texts_that_are_shown_one_after_the_other_are_one_text(self) -> None:
        """Mailing lists add a footer as a part of its own; Apple Mail splits around pictures."""
        message = mail(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nHello\n--b\n"
            "Content-Type: image/png\n\nx\n--b\n\nbye\n\n--b\n\nfooter\n--b\n\n--b--\n"
        )

        assert message.text == "Hello\nbye\nfooter"
        assert len(message.attachments) == 1

    def test_a_mail_that_is_only_a_file_has_one_attachment(self) -> None:
        """Scanners send those."""
        message = mail("Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw==")
        [file] = message.attachments

        assert (file.filename, file.data) == ("attachment.png", b"\x89PNG")
        assert message.text == ""

    def test_a_mail_within_the_mail_is_a_file_named_by_its_subject(self) -> None:
        """Its data are its source; it is not read."""
        inner = "Subject: =?utf-8?q?Caf=C3=A9?= 1/2\n\nhi\n"
        message = mail("Content-Type: message/rfc822\n\n" + inner)
        [file] = message.attachments

        assert (file.filename, file.original_filename) == ("Café 1_2.eml", "")
        assert file.data == inner.replace("\n", "\r\n").encode()
        assert mail("Content-Type: message/rfc822\n\n").attachments[0].filename == "message.eml"

    def test_a_bounce_gives_its_report_as_files(self) -> None:
        """The text is for people, the status for machines."""
        message = mail(
            "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
            "--b\n\nIt failed.\n--b\nContent-Type: message/delivery-status\n\nStatus: 5.1.1\n"
            "--b\nContent-Type: text/rfc822-headers\n\nSubject: x\n--b--\n"
        )

        assert message.text == "It failed."
        assert [file.content_type for file in message.attachments] == [
            "message/delivery-status",
            "text/rfc822-headers",
        ]
        assert message.is_auto_reply

    def test_8_bit_mail_survives(self) -> None:
        """Whether it is UTF-8 or something older."""
        utf8 = mail("From: René <r@e.f>\nSubject: Café\n\nÄ")
        latin = InboundMessage.from_raw("Subject: Café\n\nÄ".encode("latin-1"))

        assert (utf8.from_email, utf8.subject, utf8.text) == (Address("r@e.f", "René"), "Café", "Ä")
        assert (latin.subject, latin.text) == ("Café", "Ä")
        assert (len(utf8.defects), len(latin.defects)) == (0, 2)

    def test_every_to_header_counts(self) -> None:
        """RFC 5322 allows one; mailers have written more."""
        message = mail("To: a@b.c\nTo: d@e.f\nTO: g@h.i\n\n")

        assert [box.addr_spec for box in message.to] == ["a@b.c", "d@e.f", "g@h.i"]

    def test_the_first_from_counts(self) -> None:
        """And the first mailbox of it."""
        assert mail("From: a@b.c, d@e.f\nFrom: g@h.i\n\n").from_email == Address("a@b.c")

    def test_a_recipient_list_is_limited(self) -> None:
        """A thousand addresses are enough for anyone."""
        message = mail("To: " + ",".join(["a@b.c"] * 3000) + "\n\n")

        assert len(message.to) == 1000
        assert message.defects == ["there are too many addresses: the rest was left out"]


class TestAMailFromFields:
    def test_what_the_esp_gives_is_taken(self) -> None:
        """Addresses as text or already apart."""
        message = InboundMessage.from_fields(
            headers=[("Subject", "other"), ("X-Spam", "No")],
            from_="Ann <ann@example.com>",
            to=[Address("help@shop.example"), "Carl <carl@example.net>"],
            cc=Address("dee@example.org"),
            bcc=(Address(f"{name}@example.org") for name in "xy"),
            reply_to="",
            subject="Hi",
            date="Sat, 21 Nov 2026 10:05:12 +0100",
            text="one\r\ntwo",
            html="<p>one",
            message_id="<m2@mail.example.com>",
            raw=b"source",
            envelope_sender="ann@example.com",
            envelope_recipient="help@shop.example",
            stripped_text="two",
            stripped_html="<p>",
            spam_detected=True,
            spam_score=7.5,
            defects=["cut"],
        )

        assert message.from_email == Address("ann@example.com", "Ann")
        assert message.to == [Address("help@shop.example"), Address("carl@example.net", "Carl")]
        assert message.cc == [Address("dee@example.org")]
        assert message.bcc == [Address("x@example.org"), Address("y@example.org")]
        assert message.reply_to == []
        assert message.subject == "Hi"
        assert message.date == datetime(2026, 11, 21, 9, 5, 12, tzinfo=timezone.utc)
        assert (message.text, message.html) == ("one\r\ntwo", "<p>one")
        assert message.message_id == "m2@mail.example.com"
        assert message.raw == b"source"
        assert (message.envelope_sender, message.stripped_text) == ("ann@example.com", "two")
        assert (message.spam_detected, message.spam_score) == (True, 7.5)
        assert message.headers["x-spam"] == "No"
        assert message.defects == ["cut"]

    def test_what_the_esp_does_not_give_is_read_from_the_headers(self) -> None:
        """Some give every header, some give only those that have no field."""
        message = InboundMessage.from_fields(
            headers=[
                ("From", "=?utf-8?q?Ren=C3=A9?= <r@e.f>"),
                ("To", "a@b.c"),
                ("Subject", "=?utf-8?q?Caf=C3=A9?="),
                ("Date", "Sat, 21 Nov 2026 10:05:12"),
                ("Message-Id", "<m@x>"),
                ("In-Reply-To", "<l@x>"),
                ("References", "<k@x>\r\n <l@x>"),
            ]
        )

        assert message.from_email == Address("r@e.f", "René")
        assert message.to == [Address("a@b.c")]
        assert message.subject == "Café"
        assert message.date == datetime(2026, 11, 21, 10, 5, 12, tzinfo=timezone.utc)
        assert (message.message_id, message.in_reply_to) == ("m@x", "l@x")
        assert message.references == ["k@x", "l@x"]
        assert (message.text, message.html, message.raw) == ("", "", None)

    @pytest.mark.parametrize("date", [NAIVE, NAIVE.replace(tzinfo=timezone.utc)])
    def test_a_date_without_a_zone_is_utc(self, date: datetime) -> None:
        """As everywhere."""
        message = InboundMessage.from_fields(date=date)

        assert message.date == NAIVE.replace(tzinfo=timezone.utc)

    def test_attachments_with_a_content_id_may_be_inline(self) -> None:
        """Both are needed: some mailers give every file a content id."""
        files = [
            InboundAttachment.from_bytes(b"1", content_id="a", disposition="inline"),
            InboundAttachment.from_bytes(b"2", content_id="b"),
            InboundAttachment.from_bytes(b"3", disposition="inline"),
        ]
        message = InboundMessage.from_fields(attachments=iter(files))

        assert message.inlines == [files[0]]
        assert message.attachments == files[1:]

    def test_its_headers_are_limited_like_those_of_a_source(self) -> None:
        """An ESP may pass on whatever it was sent."""
        message = InboundMessage.from_fields(headers=[("X", "y")] * 20_000)

        assert len(message.headers.get_all("X")) == 10_000
        assert message.defects == ["there are too many headers: the rest was left out"]

    def test_its_addresses_are_limited_together(self) -> None:
        """However they are cut into items."""
        message = InboundMessage.from_fields(to=["x" * 60_000] * 100, cc=[Address("a@b.c")] * 2000)

        assert message.to == []
        assert len(message.cc) == 1000
        assert "there are too many addresses: the rest was left out" in message.defects


class TestHeaders:
    HEADERS = InboundHeaders(
        [("Received", "two"), ("X-A", "=?utf-8?q?=C3=A9?="), ("received", "one")]
    )

    def test_names_are_found_in_any_case(self) -> None:
        """The first of a name, decoded."""
        assert self.HEADERS["RECEIVED"] == "two"
        assert self.HEADERS["x-a"] == self.HEADERS.get("X-A") == "é"
        assert "X-a" in self.HEADERS

    def test_all_values_of_a_name_are_kept_in_order(self) -> None:
        """Received headers tell a story."""
        assert self.HEADERS.get_all("Received") == ["two", "one"]
        assert self.HEADERS.get_all("missing") == []

    def test_a_missing_name_is_a_key_error_or_the_default(self) -> None:
        """As with any mapping."""
        assert self.HEADERS.get("missing") is None
        assert self.HEADERS.get("missing", "x") == "x"
        assert "missing" not in self.HEADERS
        assert 1 not in self.HEADERS  # type: ignore[comparison-overlap]
        with pytest.raises(KeyError):
            self.HEADERS["missing"]

    def test_names_are_iterated_once_and_fields_all(self) -> None:
        """So that dict() and a loop over items() both do what they look like."""
        assert list(self.HEADERS) == ["Received", "X-A"]
        assert len(self.HEADERS) == 2
        assert list(self.HEADERS.items()) == [
            ("Received", "two"),
            ("X-A", "é"),
            ("received", "one"),
        ]
        assert len(self.HEADERS.items()) == 3
        assert ("received", "one") in self.HEADERS.items()
        assert ("received", "three") not in self.HEADERS.items()

    def test_values_are_on_one_line(self) -> None:
        """Folding is for the wire."""
        headers = InboundHeaders([("X-A", "one\r\n two\x00"), ("X\n-B", "")])

        assert headers["X-A"] == "one   two"
        assert list(headers) == ["X-A", "X -B"]


class TestInlines:
    FIRST = InboundAttachment.from_bytes(b"1", content_id="<logo@x>", disposition="inline")
    SECOND = InboundAttachment.from_bytes(b"2", content_id="logo@x", disposition="inline")
    INLINES = Inlines([FIRST, SECOND])

    @pytest.mark.parametrize("content_id", ["logo@x", "<logo@x>", "cid:logo@x"])
    def test_they_are_found_by_content_id(self, content_id: str) -> None:
        """The first wins: a later part must not replace what was shown."""
        assert self.INLINES[content_id] is self.FIRST
        assert self.INLINES.get(content_id) is self.FIRST
        assert content_id in self.INLINES  # type: ignore[comparison-overlap]

    def test_an_unknown_content_id_is_a_key_error_or_the_default(self) -> None:
        """As in a dict."""
        assert self.INLINES.get("other") is None
        assert self.INLINES.get("other", self.SECOND) is self.SECOND
        assert "other" not in self.INLINES  # type: ignore[comparison-overlap]
        with pytest.raises(KeyError):
            self.INLINES["other"]

    def test_they_are_a_list(self) -> None:
        """Duplicates included."""
        assert list(self.INLINES) == [self.FIRST, self.SECOND]
        assert self.INLINES[1] is self.SECOND
        assert self.INLINES[:1] == [self.FIRST]
        assert self.SECOND in self.INLINES


class TestAttachments:
    @pytest.mark.parametrize("data", ["SGVs\nbG8=\n", b"SGVs\r\nbG8="])
    def test_base64_is_decoded_when_read(self, data: str | bytes) -> None:
        """Once, from text or bytes, with or without line breaks."""
        file = InboundAttachment.from_base64(data, filename="a.txt", content_type="text/plain")

        assert (file.data, file.text, file.size) == (b"Hello", "Hello", 5)
        assert file.data is file.data
        assert file.defects == []

    def test_damaged_base64_gives_what_can_be_decoded_and_a_defect(self) -> None:
        """On the attachment, and on its message, once it was read."""
        file = InboundAttachment.from_base64("SGVsbG8gd29yb")
        message = InboundMessage.from_fields(attachments=[file])

        assert message.defects == []
        assert file.data == b"Hello wor"
        assert message.defects == file.defects == ["base64 is truncated or invalid"]

    def test_a_content_type_may_carry_parameters(self) -> None:
        """Which stand in for what is not given."""
        file = InboundAttachment.from_bytes(
            "é".encode("latin-1"), content_type="Text/CSV; charset=iso-8859-1; name=a.csv"
        )

        assert (file.content_type, file.charset, file.filename) == (
            "text/csv",
            "iso-8859-1",
            "a.csv",
        )
        assert file.text == "é"

    @pytest.mark.parametrize("content_type", ["", "nonsense", "text/<b>", "\x00", "a/b/c"])
    def test_a_nonsense_content_type_is_unknown_data(self, content_type: str) -> None:
        """So that it is safe to send on."""
        file = InboundAttachment.from_bytes(b"", content_type=content_type)

        assert file.content_type == "application/octet-stream"
        assert file.filename == "attachment.bin"

    def test_the_name_as_sent_is_kept_apart(self) -> None:
        """It may be a path, or anything."""
        file = InboundAttachment.from_bytes(b"", filename="../../etc/passwd")

        assert (file.filename, file.original_filename) == ("passwd", "../../etc/passwd")

    def test_text_without_a_charset_is_utf_8_or_latin_1(self) -> None:
        """Whatever the content type says."""
        assert InboundAttachment.from_bytes("é".encode()).text == "é"
        assert InboundAttachment.from_bytes(b"\xe9").text == "é"
        assert InboundAttachment.from_bytes(b"+AGE-", charset="utf-7").text == "+AGE-"

    def test_a_disposition_stays_as_sent(self) -> None:
        """A picture without a content id may be meant to be shown, but is no inline."""
        message = mail("Content-Type: image/png\nContent-Disposition: inline; filename=a.png\n\nx")

        assert message.attachments[0].disposition == "inline"


class TestSafeFilenames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("report.pdf", "report.pdf"),
            ("Bestellung № 1.pdf", "Bestellung № 1.pdf"),
            ("../../etc/passwd", "passwd"),
            ("/etc/passwd", "passwd"),
            (r"C:\Users\ann\cv.doc", "cv.doc"),
            (r"..\..\boot.ini", "boot.ini"),
            ("C:cv.doc", "C_cv.doc"),
            ("a/b/", "attachment.bin"),
            ("..", "attachment.bin"),
            ("", "attachment.bin"),
            (" . ", "attachment.bin"),
            (".htaccess", "htaccess"),
            ("-rf.txt", "rf.txt"),
            ("name. . ", "name"),
            ("a\x00b\r\nc\x7f.txt", "abc.txt"),
            ("invoice\u202efdp.exe", "invoicefdp.exe"),
            ("a\u200bb\ufeff.txt", "ab.txt"),
            ("\ud800x", "x"),
            ('a<b>|"c"?*.txt', "a_b___c___.txt"),
            ("file.txt:stream", "file.txt_stream"),
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("Lpt1 .tar.gz", "_Lpt1 .tar.gz"),
            ("COM¹.txt", "_COM¹.txt"),
            ("console.txt", "console.txt"),
            ("cafe\u0301.txt", "café.txt"),
            ("two   words\t.txt", "two wordstxt".replace("txt", ".txt")),
            ("é" * 200 + ".pdf", "é" * 73 + ".pdf"),
            ("x" * 200, "x" * 150),
            ("x." + "y" * 200, "x." + "y" * 148),
            ("." * 500 + "/" * 500, "attachment.bin"),
        ],
    )
    def test_a_name_is_safe_in_one_directory_on_any_system(self, name: str, expected: str) -> None:
        """And still says what the sender called the file, as far as it can."""
        assert safe_filename(name) == expected

    @pytest.mark.parametrize(
        ("content_type", "expected"),
        [
            ("image/png", "attachment.png"),
            ("text/calendar", "attachment.ics"),
            ("x/y", "attachment.bin"),
        ],
    )
    def test_a_file_without_a_name_is_called_by_its_type(
        self, content_type: str, expected: str
    ) -> None:
        """The same on every machine."""
        assert safe_filename("", content_type) == expected

    @given(st.text() | st.text(alphabet="./\\:CONnul1 \u202e\u0301é<", max_size=400))
    def test_no_name_escapes(self, name: str) -> None:
        """Whatever was sent; and a safe name is safe already."""
        safe = safe_filename(name)

        assert_safe(safe)
        assert safe_filename(safe) == safe


def assert_safe(name: str) -> None:
    assert 0 < len(name.encode()) <= 150
    assert not set('/\\:<>"|?*') & set(name)
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in name)
    assert name == name.strip(" .").lstrip("-")
    assert unicodedata.is_normalized("NFC", name)
    assert name.partition(".")[0].strip().lower() not in {"con", "prn", "aux", "nul", "com1"}


class TestAutoReplies:
    @pytest.mark.parametrize(
        "header",
        [
            "Auto-Submitted: auto-replied",
            "Auto-Submitted: Auto-Generated; owner=x",
            "Auto-Submitted: auto-notified (by cron)",
            "Precedence: bulk",
            "Precedence: Junk",
            "Precedence: list",
            "Precedence: auto_reply",
            "X-Autoreply: yes",
            "X-Autorespond: Re: hello",
            "List-Id: <announce.example.com>",
            "X-Auto-Response-Suppress: DR, OOF, AutoReply",
            "X-Auto-Response-Suppress: All",
            "Content-Type: multipart/report; report-type=delivery-status; boundary=x",
        ],
    )
    def test_a_machines_mail_is_not_answered_by_a_machine(self, header: str) -> None:
        """Two of them would write to each other for ever (RFC 3834)."""
        assert mail(f"{header}\n\nI am away.").is_auto_reply

    @pytest.mark.parametrize(
        "header",
        [
            "Subject: hi",
            "Auto-Submitted: no",
            "Auto-Submitted: No (a person)",
            "Auto-Submitted:",
            "Precedence: first-class",
            "X-Autoreply: no",
            "X-Auto-Response-Suppress: DR, NDR, RN, NRN",
        ],
    )
    def test_a_persons_mail_may_be(self, header: str) -> None:
        """Receipts may be unwanted where answers are not."""
        assert not mail(f"{header}\n\nHello").is_auto_reply

    def test_the_null_sender_is_a_machine(self) -> None:
        """Bounces come from it; an unknown sender may be a person."""
        assert mail("\n", envelope_sender="").is_auto_reply
        assert not mail("\n", envelope_sender=None).is_auto_reply
        assert not mail("\n", envelope_sender="ann@example.com").is_auto_reply


class TestValues:
    FIELDS = InboundMessage.from_fields(
        headers=[("X-A", "1"), ("Subject", "secret")],
        from_="ann@example.com",
        attachments=[InboundAttachment.from_base64("SGVsbG8=", filename="secret.txt")],
    )

    @pytest.mark.parametrize("message", [mail(SAMPLE), FIELDS], ids=["raw", "fields"])
    @pytest.mark.parametrize("read_before", [False, True])
    def test_they_survive_pickling_and_copying(
        self, message: InboundMessage, read_before: bool
    ) -> None:
        """A task queue takes them, whatever has been read so far."""
        if read_before:
            read_everything(message)
        for twin in (pickle.loads(pickle.dumps(message)), copy.deepcopy(message)):
            for name in set(ACCESSORS) - {"attachments", "inlines", "headers"}:
                assert getattr(twin, name) == getattr(message, name)
            assert list(twin.headers.items()) == list(message.headers.items())
            assert data_of(twin.attachments) == data_of(message.attachments)
            assert data_of(twin.inlines) == data_of(message.inlines)

    def test_what_was_read_is_not_pickled(self) -> None:
        """It can be read again; a task queue should not carry it twice."""
        message = mail(SAMPLE)
        before = len(pickle.dumps(message))
        read_everything(message)

        assert len(pickle.dumps(message)) == before

    def test_a_pickled_attachment_leaves_its_mail_behind(self) -> None:
        """It carries its own bytes only."""
        message = mail(SAMPLE + "x" * 100_000)
        pickled = pickle.dumps(message.attachments[0])

        assert len(pickled) < 1000
        assert pickle.loads(pickled).data == b"%PDF-"

    def test_they_cannot_be_changed(self) -> None:
        """Every receiver of the signal sees the same message."""
        message = mail(SAMPLE)

        with pytest.raises(AttributeError):
            message.subject = "other"
        with pytest.raises(AttributeError):
            message.raw = b""  # type: ignore[misc]
        with pytest.raises(AttributeError):
            message.attachments[0].filename = "x"  # type: ignore[misc]

    def test_their_repr_shows_nothing_of_the_mail(self) -> None:
        """It ends up in logs."""
        message = mail(SAMPLE)

        assert repr(message) == "<InboundMessage 1 attachments, 1 inlines>"
        assert repr(message.attachments[0]) == "<InboundAttachment application/pdf attachment>"
        assert repr(message.headers) == "<InboundHeaders 14>"
        assert repr(message.inlines) == "<Inlines 1>"
        assert "secret" not in repr(self.FIELDS)


def data_of(files: Iterable[InboundAttachment]) -> list[tuple[str, str, bytes]]:
    return [(file.filename, file.content_type, file.data) for file in files]


# --- Any mail at all --------------------------------------------------------------------------

SNIPPETS = [
    *(line + "\n" for line in SAMPLE.split("\n")),
    "Content-Type: multipart/mixed; boundary=mixed\n",
    "Content-Type: multipart/digest; boundary=related\n",
    "Content-Type: text/plain; charset=utf-7\n",
    "Content-Type: message/rfc822\n",
    "Content-Transfer-Encoding: uuencode\n",
    "Content-Transfer-Encoding: base64\n",
    "Content-Disposition: inline; filename*0*=x'y'%FF\n",
    "Content-ID: <>\n",
    'From: <<"(:;,@[\n',
    "Message-ID: <<<\n",
    "begin 644 x\n#86)C\nend\n",
]


class TestAnyMail:
    @given(st.binary())
    def test_any_bytes_are_a_mail(self, source: bytes) -> None:
        """No accessor raises."""
        assert read_everything(InboundMessage.from_raw(source))["raw"] == source

    @settings(max_examples=300)
    @given(st.lists(st.sampled_from(SNIPPETS) | st.sampled_from(["\n", "\r", "\x00é"]) | st.text()))
    def test_any_pieces_of_mail_are_a_mail(self, pieces: list[str]) -> None:
        """In any order, with anything between."""
        source = "".join(pieces).encode("utf-8", "replace")

        assert read_everything(InboundMessage.from_raw(source))["raw"] == source

    @settings(max_examples=300)
    @given(st.data())
    def test_any_damage_to_a_mail_leaves_a_mail(self, data: st.DataObject) -> None:
        """Bytes cut out, put in or turned over."""
        source = bytearray(SAMPLE.encode())
        for _ in range(data.draw(st.integers(1, 8))):
            start = data.draw(st.integers(0, len(source)))
            length = data.draw(st.integers(0, 40))
            source[start : start + length] = data.draw(st.binary(max_size=8))

        assert read_everything(InboundMessage.from_raw(bytes(source)))["raw"] == bytes(source)

    @given(
        texts=st.lists(st.text(), min_size=10, max_size=10),
        headers=st.lists(
            st.tuples(st.sampled_from(["From", "To", "Date", ""]) | st.text(), st.text())
        ),
    )
    def test_any_texts_are_fields(self, texts: list[str], headers: list[tuple[str, str]]) -> None:
        """Whatever an ESP has made of the mail."""
        from_, to, subject, date, text, html, name, kind, content, charset = texts
        file = InboundAttachment.from_base64(
            content, filename=name, content_type=kind, content_id=name, charset=charset
        )
        message = InboundMessage.from_fields(
            headers=headers,
            from_=from_,
            to=[to, to],
            subject=subject,
            date=date,
            text=text,
            html=html,
            message_id=name,
            attachments=[file],
        )

        assert read_everything(message)["text"] == text

    @given(st.text() | st.from_regex(r'(?:[a-z]*[ <>"(),:;@\\\[\]]{0,3})*', fullmatch=True))
    def test_any_address_header_gives_addresses(self, value: str) -> None:
        """Each with a user name and a domain, on one line."""
        for box in InboundMessage.from_fields(to=value).to:
            assert box.username
            assert box.domain
            assert "\n" not in str(box)


# --- Well-formed mail -------------------------------------------------------------------------

LINES = st.lists(st.text(alphabet="abc é€.=-_日 ", max_size=90), max_size=6).map("\n".join)
FILES = st.tuples(
    st.binary(max_size=300),
    st.sampled_from(["application/pdf", "image/png", "text/csv"]),
    st.text(alphabet="abcé日 -", min_size=1, max_size=60).map(lambda name: f"a{name}a.bin"),
)


class TestWellFormedMail:
    """What the standard library writes and reads is the measure for mail without damage."""

    @settings(max_examples=150)
    @given(
        subject=st.text(alphabet="abc é€日-", max_size=100),
        name=st.text(alphabet='abcé日 ,."@<>', max_size=40),
        text=LINES,
        html=st.none() | LINES,
        files=st.lists(FILES, max_size=3),
        date=st.datetimes(min_value=NAIVE, timezones=st.just(timezone.utc)),
        policy=st.sampled_from([email.policy.SMTP, email.policy.default, email.policy.SMTPUTF8]),
    )
    def test_it_reads_what_was_written(
        self,
        subject: str,
        name: str,
        text: str,
        html: str | None,
        files: list[tuple[bytes, str, str]],
        date: datetime,
        policy: email.policy.EmailPolicy,
    ) -> None:
        """Text, HTML, files and headers, in every encoding the library chooses."""
        written = EmailMessage(policy=policy)
        written["Subject"] = " ".join(subject.split())
        written["From"] = email.headerregistry.Address(" ".join(name.split()), "ann", "example.com")
        written["Date"] = date
        written.set_content(text)
        if html is not None:
            written.add_alternative(html, subtype="html")
        for data, content_type, filename in files:
            main, _, sub = content_type.partition("/")
            written.add_attachment(data, maintype=main, subtype=sub, filename=filename)
        source = written.as_bytes()
        message = InboundMessage.from_raw(source)

        assert message.defects == []
        assert message.text == expected_body(source, "plain")
        assert message.html == expected_body(source, "html")
        assert message.subject == " ".join(subject.split())
        assert message.from_email == Address("ann@example.com", " ".join(name.split()))
        assert abs((message.date or date) - date) < timedelta(seconds=1)
        assert [
            (file.data, file.content_type, file.original_filename) for file in message.attachments
        ] == files


def expected_body(source: bytes, subtype: str) -> str:
    """What the standard library reads."""
    parsed = email.message_from_bytes(source, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    body = parsed.get_body((subtype,))
    return body.get_content().replace("\r\n", "\n") if body else ""
