"""What a raw MIME message looks like, and that two independent readers see what was meant."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_mailesp.address import Address
from flask_mailesp.compose import compose, make_message_id
from flask_mailesp.exceptions import InvalidHeaderError, SerializationError
from flask_mailesp.inbound import InboundMessage
from flask_mailesp.message import Alternative, Attachment, PreparedMessage

DATE = datetime(2025, 3, 9, 14, 5, 6, tzinfo=timezone(timedelta(hours=1)))
ID = "<1f2e3d@shop.example>"
SIMPLE = PreparedMessage(
    sender=Address("shop@shop.example"),
    to=(Address("ann@example.com"),),
    subject="Hello",
    body="Hi",
)
CALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"

# What `prepare` lets into a header: no controls, line separators or surrogates.
SURROGATES: tuple[Literal["Cs"]] = ("Cs",)
PRINTABLE = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
HEADER_TEXT = st.one_of(
    st.text(PRINTABLE, max_size=300),
    st.text("aé =?_\"\\,;<>@'\t😀", max_size=120),
    st.lists(st.text(PRINTABLE, min_size=1, max_size=90), max_size=8).map(" ".join),
)
quick = settings(max_examples=60, deadline=None)


def composed(message: PreparedMessage, **options: Any) -> bytes:
    return bytes(compose(message, **{"date": DATE, "message_id": ID, **options}))


def with_fields(**fields: Any) -> PreparedMessage:
    return replace(SIMPLE, **fields)


def parsed(source: bytes) -> EmailMessage:
    """Read with the standard library, after checking what holds for every message."""
    lines = source.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines), "only CRLF ends a line"
    assert max(map(len, lines)) <= 998
    mail = message_from_bytes(source, policy=policy.default)
    assert isinstance(mail, EmailMessage)
    assert [defect for part in mail.walk() for defect in part.defects] == []
    return mail


def read(message: PreparedMessage, **options: Any) -> tuple[EmailMessage, InboundMessage]:
    source = composed(message, **options)
    inbound = InboundMessage.from_raw(source)
    assert inbound.defects == []
    return parsed(source), inbound


def header_lines(source: bytes) -> list[str]:
    return source.partition(b"\r\n\r\n")[0].decode("utf-8").split("\r\n")


def header(source: bytes, name: str) -> str:
    """Return a header as written, unfolded."""
    head = source.partition(b"\r\n\r\n")[0].decode("utf-8").replace("\r\n ", " ")
    found = [line for line in head.split("\r\n") if line.lower().startswith(f"{name.lower()}:")]
    assert len(found) == 1
    return found[0].partition(": ")[2]


def names(source: bytes) -> list[str]:
    return [line.partition(":")[0] for line in header_lines(source) if line[0] not in " \t"]


def squeezed(text: str) -> str:
    """White space between words may be folded; how much of it there is means nothing."""
    return re.sub(r"[ \t]+", " ", text).strip(" ")


def tree(mail: EmailMessage) -> Any:
    if mail.is_multipart() and mail.get_content_maintype() == "multipart":
        return [mail.get_content_subtype(), *map(tree, mail.iter_parts())]  # type: ignore[arg-type]
    return mail.get_content_type()


def decoded(part: EmailMessage) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


# --- the header ------------------------------------------------------------------------


def test_headers_stand_in_a_fixed_order() -> None:
    """Some ESPs and people read only the first ones."""
    message = with_fields(
        cc=(Address("c@example.com"),),
        bcc=(Address("secret@example.com"),),
        reply_to=(Address("r@example.com"),),
        headers=(("Sender", "boss@shop.example"), ("X-Twice", "1"), ("X-Twice", "2")),
    )

    source = composed(message, extra_headers=[("X-Postal-Tag", "welcome")])

    order = "From Sender X-Twice X-Twice To Cc Reply-To Subject Date Message-ID MIME-Version"
    assert names(source)[:-2] == [*order.split(), "X-Postal-Tag"]
    assert parsed(source).get_all("X-Twice") == ["1", "2"]


def test_bcc_is_written_only_on_request() -> None:
    """A blind copy that everybody sees is the worst a mail library can do."""
    message = with_fields(bcc=(Address("secret@example.com"),))

    assert b"secret" not in composed(message)
    assert header(composed(message, show_bcc=True), "Bcc") == "secret@example.com"


def test_a_simple_message_is_readable_as_it_is() -> None:
    """ASCII needs no encoding at all, and the body is not given a line end it lacks."""
    assert composed(SIMPLE) == (
        b"From: shop@shop.example\r\n"
        b"To: ann@example.com\r\n"
        b"Subject: Hello\r\n"
        b"Date: Sun, 09 Mar 2025 14:05:06 +0100\r\n"
        b"Message-ID: <1f2e3d@shop.example>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Hi"
    )


def test_the_result_is_a_buffer() -> None:
    """It is encoded once more on its way to the ESP, without a copy."""
    source = compose(SIMPLE, date=DATE, message_id=ID)

    assert isinstance(source, bytearray)
    source += b"\r\n"  # no view of it is left open


@pytest.mark.parametrize("name", ["Message-ID", "message-id", "MESSAGE-ID"])
def test_a_custom_message_id_wins(name: str) -> None:
    source = composed(with_fields(headers=((name, "<mine@example.com>"),)))

    assert header(source, "Message-ID") == "<mine@example.com>"


def test_a_custom_date_wins() -> None:
    source = composed(SIMPLE, extra_headers=[("Date", "Mon, 03 Feb 2025 10:00:00 +0000")])

    assert header(source, "Date") == "Mon, 03 Feb 2025 10:00:00 +0000"


@pytest.mark.parametrize("name", ["Date", "Message-ID"])
def test_two_of_what_may_stand_once_are_refused(name: str) -> None:
    """RFC 5322 section 3.6: readers would disagree which one counts."""
    message = with_fields(headers=((name, "one"),))

    with pytest.raises(InvalidHeaderError):
        composed(message, extra_headers=[(name.lower(), "two")])


@pytest.mark.parametrize(
    "name", ["To", "bcc", "Subject", "From", "Reply-To", "MIME-Version", "Content-Type"]
)
def test_a_header_with_a_field_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(InvalidHeaderError):
        composed(SIMPLE, extra_headers=[(name, "x")])


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (datetime(2025, 3, 9, 14, 5, 6, tzinfo=timezone.utc), "Sun, 09 Mar 2025 14:05:06 +0000"),
        (
            datetime(1890, 1, 1, 12, 0, 0, tzinfo=timezone(timedelta(minutes=53, seconds=28))),
            "Wed, 01 Jan 1890 11:06:32 +0000",
        ),
    ],
)
def test_the_date_has_a_zone_of_hours_and_minutes(date: datetime, expected: str) -> None:
    """RFC 5322 section 3.3 has no place for the seconds of old local times."""
    assert header(composed(SIMPLE, date=date), "Date") == expected


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "Hello",
        "Grüße aus Köln",
        "日本語の件名です" * 20,
        "Привет, мир! " * 12,
        "مرحبا بالعالم",
        "👩‍👩‍👧‍👦 family 🇫🇷" * 8,
        "Invoice №1234567 for everybody who has ever waited for one is now ready to be paid",
        "plain words then one ü",
        "ü then plain words",
        "two  spaces  ü  here",
        "=?utf-8?q?not_an_encoded_word?=",
        "a =? b ?= c",
        "a" * 77,
        "a" * 500,
        "a" * 5000,
        "word " * 400 + "end",
        "a" + " " * 1000 + "b",
        "é" + " " * 1000 + "b",
        "a\tb\té",
        "trailing é ",
        'quotes "and" \\backslashes\\, commas; <angles> é',
    ],
)
def test_a_subject_arrives_as_written(subject: str) -> None:
    """Whatever its script and length; folding may only change white space."""
    mail, inbound = read(with_fields(subject=subject))

    assert squeezed(str(mail["Subject"])) == squeezed(subject)
    assert squeezed(inbound.subject) == squeezed(subject)


@given(HEADER_TEXT)
@quick
def test_any_printable_text_round_trips_in_a_header(text: str) -> None:
    mail, inbound = read(with_fields(subject=text, headers=(("X-Note", text),)))

    assert squeezed(str(mail["Subject"])) == squeezed(text)
    assert squeezed(str(mail["X-Note"])) == squeezed(text)
    assert inbound.subject.split() == text.split()


@given(HEADER_TEXT)
@quick
def test_encoded_words_keep_the_rules_of_rfc_2047(text: str) -> None:
    """At most 75 characters each, 76 in a line, and each one decodes on its own."""
    source = composed(with_fields(subject=f"é{text}é", body=""))

    for line in header_lines(source):
        words = re.findall(r"=\?utf-8\?[qb]\?[^? ]*\?=", line)
        assert not words or len(line) <= 76
        for word in words:
            assert len(word) <= 75
            str(make_header(decode_header(word))).encode("utf-8")
    assert all(line.isascii() for line in header_lines(source))


@pytest.mark.parametrize(
    ("text", "encoding"), [("Straßenverzeichnis", "?q?"), ("日本語", "?b?"), ("Ελληνικά", "?b?")]
)
def test_the_shorter_encoding_is_used(text: str, encoding: str) -> None:
    """Mostly ASCII text stays readable, other scripts are not tripled."""
    assert encoding in header(composed(with_fields(subject=text)), "Subject")


def test_plain_words_around_an_encoded_one_stay_plain() -> None:
    subject = header(composed(with_fields(subject="Your order №7 is ready")), "Subject")

    assert subject.startswith("Your order =?utf-8?")
    assert subject.endswith("?= is ready")


def test_long_text_is_folded_at_78_characters() -> None:
    source = composed(with_fields(subject="some words and some more of them " * 10))

    assert max(map(len, header_lines(source))) <= 78
    assert all(line.strip() for line in header_lines(source))


def test_a_long_header_name_leaves_room_for_an_encoded_word() -> None:
    name = "X-" + "Long-" * 13 + "Name"
    mail, _ = read(with_fields(headers=((name, "é" * 100),)))

    assert squeezed(mail[name]) == "é" * 100


@pytest.mark.parametrize(
    "value",
    [
        "<https://shop.example/u?q=?utf-8?x&é=1>, <mailto:u@shop.example?subject=u>",
        "<https://shop.example/" + "u" * 700 + ">",
    ],
)
def test_a_header_that_programs_read_is_never_encoded(value: str) -> None:
    """An unsubscribe link in an encoded word is no link."""
    source = composed(with_fields(headers=(("List-Unsubscribe", value),)))

    assert header(source, "List-Unsubscribe") == value


def test_what_can_neither_be_folded_nor_encoded_is_refused() -> None:
    """Better than a line that a server may cut (RFC 5322 section 2.1.1)."""
    with pytest.raises(InvalidHeaderError, match="998 octets"):
        composed(with_fields(headers=(("References", f"<{'x' * 1000}@example.com>"),)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"Müller, Jürgen" <boss@shop.example>', ["Müller, Jürgen"]),
        ("Jürgen <boss@shop.example>, Zoë <zoe@shop.example>", ["Jürgen", "Zoë"]),
    ],
)
def test_only_the_names_in_a_header_of_addresses_are_encoded(
    value: str, expected: list[str]
) -> None:
    mail, _ = read(with_fields(headers=(("Resent-To", value),)))

    assert [address.display_name for address in mail["Resent-To"].addresses] == expected


@pytest.mark.parametrize("value", ["see überall", "," * 1000])
def test_a_header_of_addresses_that_has_none_still_arrives(value: str) -> None:
    source = composed(with_fields(headers=(("Errors-To", value),)))

    assert str(make_header(decode_header(header(source, "Errors-To")))) == value


# --- addresses -------------------------------------------------------------------------


NAMES = [
    "",
    "Ann",
    "Ann Lee",
    "Ann  Lee",
    "J. Doe",
    "Doe, Jane",
    'The "Boss"',
    "back\\slash",
    "O'Neil & Sons",
    "a@b.c",
    "<angles>",
    "(comment)",
    "Jürgen Müller",
    "Müller, Jürgen",
    "李小龙",
    "😀 smile",
    "=?utf-8?q?evil?=",
    "tab\there",
    "word " * 60 + "end",
    "x" * 600,
    '"' * 600,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_display_name_arrives_as_written(name: str) -> None:
    mail, inbound = read(with_fields(sender=Address("shop@shop.example", name)))

    [address] = mail["From"].addresses
    assert address.addr_spec == "shop@shop.example"
    if len(name) < 300:  # the parser of some Python versions puts spaces between encoded words
        assert squeezed(address.display_name) == squeezed(name)
    assert inbound.from_email is not None
    assert squeezed(inbound.from_email.display_name) == squeezed(name)


def stdlib_addresses(source: bytes, field: str) -> list[tuple[str, str]]:
    """Split first and decode then, as RFC 2047 section 6.2 asks."""
    pairs = getaddresses([header(source, field)])
    return [(str(make_header(decode_header(name))), spec) for name, spec in pairs]


@given(st.lists(HEADER_TEXT, min_size=1, max_size=4))
@quick
def test_any_printable_display_names_round_trip(texts: list[str]) -> None:
    """The words of it: readers fold and trim white space, that of other scripts included."""
    addresses = [
        Address(f"user{index}@example.com", squeezed(text)) for index, text in enumerate(texts)
    ]
    source = composed(with_fields(to=tuple(addresses)))
    parsed(source)

    expected = [(address.display_name.split(), address.addr_spec) for address in addresses]
    inbound = InboundMessage.from_raw(source)
    assert [(to.display_name.split(), to.addr_spec) for to in inbound.to] == expected
    assert [(name.split(), spec) for name, spec in stdlib_addresses(source, "To")] == expected


def test_many_addresses_are_folded_between_addresses() -> None:
    people = tuple(Address(f"user{number}@example.com", "Doe, Jané") for number in range(200))
    mail, inbound = read(with_fields(to=people))

    assert [address.addr_spec for address in mail["To"].addresses] == [
        person.addr_spec for person in people
    ]
    assert inbound.to == list(people)
    assert max(map(len, header_lines(composed(with_fields(to=people))))) <= 78


def test_several_reply_addresses_are_one_header() -> None:
    replies = (Address("a@example.com", "A, B"), Address("c@example.com"))
    mail, inbound = read(with_fields(reply_to=replies))

    assert len(mail["Reply-To"].addresses) == 2
    assert inbound.reply_to == list(replies)


def test_an_internationalised_user_name_is_raw_utf_8() -> None:
    """RFC 6532; RFC 2047 section 5 forbids encoded words in an address."""
    source = composed(with_fields(to=(Address("jürgen@example.com", "Jürgen"),)))

    assert header(source, "To").endswith(" <jürgen@example.com>")
    assert InboundMessage.from_raw(source).to == [Address("jürgen@example.com", "Jürgen")]


# --- injection -------------------------------------------------------------------------


BREAKS = ["\r\n", "\n", "\r", "\0", "\x0b", "\x85", "\u2028", "\ud800"]


def poisoned(evil: str) -> Iterable[tuple[str, PreparedMessage]]:
    yield "subject", with_fields(subject=f"a{evil}b")
    yield "encoded subject", with_fields(subject=f"é{evil}b")
    yield "name", with_fields(sender=Address("a@example.com", f"A{evil}B"))
    yield "address", with_fields(to=(Address(f"a{evil}@example.com"),))
    yield "address with name", with_fields(cc=(Address(f"a@example.com{evil}", "A"),))
    yield "reply-to", with_fields(reply_to=(Address("a@example.com", f"é{evil}"),))
    yield "header value", with_fields(headers=(("X-A", f"a{evil}b"),))
    yield "header name", with_fields(headers=((f"X{evil}", "a"),))
    yield "raw header", with_fields(headers=(("References", f"<a>{evil}<b>"),))
    yield "address header", with_fields(headers=(("Sender", f"é{evil} <a@example.com>"),))
    for attachment in (
        Attachment(f"a{evil}.txt", "text/plain", b"x"),
        Attachment("a.txt", f"text/plain{evil}", b"x"),
        Attachment("a.txt", f"text/plain; a=b{evil}", b"x"),
        Attachment("a.txt", "text/plain", b"x", charset=f"utf-8{evil}"),
        Attachment("a.png", "image/png", b"x", content_id=f"a{evil}b"),
    ):
        yield repr(attachment), with_fields(attachments=(attachment,))
    yield "alternative", with_fields(alternatives=(Alternative("x", f"text/x{evil}"),))


@pytest.mark.parametrize("evil", BREAKS, ids=ascii)
def test_no_value_can_start_a_header(evil: str) -> None:
    """They were checked before; this is the last place where it can be stopped."""
    for place, message in poisoned(evil):
        with pytest.raises(InvalidHeaderError):
            pytest.fail(f"{place}: {composed(message)!r}")


@pytest.mark.parametrize("evil", BREAKS, ids=ascii)
def test_no_argument_can_start_a_header(evil: str) -> None:
    with pytest.raises(InvalidHeaderError):
        composed(SIMPLE, message_id=f"<a{evil}@example.com>")
    with pytest.raises(InvalidHeaderError):
        composed(SIMPLE, extra_headers=[("X-A", f"a{evil}")])


@pytest.mark.parametrize("name", ["", "X A", "X:A", "Ü", "X\t"])
def test_a_malformed_header_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidHeaderError):
        composed(with_fields(headers=((name, "x"),)))


def test_a_body_cannot_forge_a_boundary() -> None:
    """Boundaries are random, so that a text copied from another mail is still text."""
    first = composed(with_fields(html="<p>Hi</p>"))
    mail, inbound = read(with_fields(body=first.decode("ascii"), html="<p>Hi</p>"))

    assert tree(mail) == ["alternative", "text/plain", "text/html"]
    assert inbound.text.replace("\r\n", "\n") == first.decode("ascii").replace("\r\n", "\n")


# --- bodies ----------------------------------------------------------------------------


PNG = Attachment("logo.png", "image/png", b"\x89PNG", content_id="logo@inline")
PDF = Attachment("bill.pdf", "application/pdf", b"%PDF")
INVITATION = Alternative(CALENDAR, "text/calendar; method=REQUEST")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "text/plain"),
        ({"body": None}, "text/plain"),
        ({"body": None, "html": "<p>"}, "text/html"),
        ({"body": "", "html": "<p>"}, "text/html"),
        ({"html": "<p>"}, ["alternative", "text/plain", "text/html"]),
        (
            {"html": "<p>", "alternatives": (INVITATION,)},
            ["alternative", "text/plain", "text/html", "text/calendar"],
        ),
        ({"body": None, "alternatives": (INVITATION,)}, "text/calendar"),
        (
            {"body": None, "html": "<p>", "attachments": (PNG,)},
            ["related", "text/html", "image/png"],
        ),
        (
            {"html": "<p>", "attachments": (PNG,)},
            ["alternative", "text/plain", ["related", "text/html", "image/png"]],
        ),
        (
            {"html": "<p>", "attachments": (PDF, PNG), "alternatives": (INVITATION,)},
            [
                "mixed",
                [
                    "alternative",
                    "text/plain",
                    ["related", "text/html", "image/png"],
                    "text/calendar",
                ],
                "application/pdf",
            ],
        ),
        ({"attachments": (PDF,)}, ["mixed", "text/plain", "application/pdf"]),
        ({"attachments": (PNG,)}, ["mixed", "text/plain", "image/png"]),
        ({"body": None, "attachments": (PDF,)}, ["mixed", "application/pdf"]),
    ],
)
def test_parts_are_nested_as_readers_expect(fields: dict[str, Any], expected: Any) -> None:
    """The best alternative is last; images are with the HTML, files outermost (RFC 2046 5.1)."""
    mail, _ = read(with_fields(**fields))

    assert tree(mail) == expected


def test_an_inline_image_is_found_by_its_content_id() -> None:
    html = '<img src="cid:logo@inline">'
    mail, inbound = read(with_fields(html=html, attachments=(PNG,)))

    [image] = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert image["Content-ID"] == "<logo@inline>"
    assert image.get_content_disposition() == "inline"
    assert image.get_filename() == "logo.png"
    assert inbound.inlines["logo@inline"].data == PNG.data


def test_the_related_part_names_its_root_type() -> None:
    """RFC 2387 section 3.1: the type parameter is required."""
    mail, _ = read(with_fields(body=None, html="<p>", attachments=(PNG,)))

    assert mail.get_param("type") == "text/html"


def test_an_invitation_keeps_its_method() -> None:
    mail, _ = read(with_fields(alternatives=(INVITATION,)))

    [calendar] = [part for part in mail.walk() if part.get_content_type() == "text/calendar"]
    assert calendar.get_param("method") == "REQUEST"
    assert decoded(calendar).decode() == CALENDAR


def test_an_alternative_that_is_not_text_keeps_every_byte() -> None:
    mail, _ = read(with_fields(alternatives=(Alternative('{"a":\n"é"}', "application/json"),)))

    [part] = [part for part in mail.walk() if part.get_content_type() == "application/json"]
    assert decoded(part).decode() == '{"a":\n"é"}'


def test_an_alternative_is_utf_8_whatever_it_said() -> None:
    """Its content is text, so its old charset means nothing any more."""
    html = Alternative("<p>é", "text/html; Charset=latin-1; x=y")
    mail, _ = read(with_fields(body=None, alternatives=(html,)))

    assert (mail.get_content_charset(), mail.get_param("x")) == ("utf-8", "y")
    assert decoded(mail).decode() == "<p>é"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("", "7bit"),
        ("Hi\nyou", "7bit"),
        ("x" * 998 + "\n" + "y" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("some text with a\0 in it", "quoted-printable"),
        ("Grüße aus Köln, alles ist gut", "quoted-printable"),
        ("Καλημέρα κόσμε", "base64"),
        ("日本語" * 1000, "base64"),
    ],
)
def test_the_transfer_encoding_is_the_shortest_that_is_safe(body: str, encoding: str) -> None:
    mail, inbound = read(with_fields(body=body))

    assert mail["Content-Transfer-Encoding"] == encoding
    assert decoded(mail).decode().replace("\r\n", "\n") == body
    assert inbound.text.replace("\r\n", "\n") == body


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=SURROGATES), max_size=400),
        st.text("a .=\té\r\n-", max_size=200),
        st.tuples(st.text(max_size=20), st.integers(1, 2000)).map(
            lambda given: (given[0] * given[1])[:3000].encode("utf-8", "ignore").decode()
        ),
    ),
    st.booleans(),
)
@quick
def test_any_body_round_trips(body: str, is_multipart: bool) -> None:
    """Nothing changes but line ends, which become CRLF."""
    attachments = (PDF,) if is_multipart else ()
    mail = parsed(composed(with_fields(body=body, attachments=attachments)))

    part = mail.get_body(("plain",)) if body else None
    expected = body.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    assert decoded(part).decode() == expected if isinstance(part, EmailMessage) else not body


@given(st.text("ab .=\té\n", max_size=400))
@example("===aaé \n")  # the space is the 75th character of its line
@quick
def test_quoted_printable_lines_are_short_and_have_no_space_at_the_end(text: str) -> None:
    """RFC 2045 section 6.7: at most 76 characters; servers cut white space at the end."""
    mail = parsed(composed(with_fields(body=f"é {'word ' * 40}{text}")))

    if mail["Content-Transfer-Encoding"] == "quoted-printable":
        lines = str(mail.get_payload()).split("\r\n")
        assert max(map(len, lines)) <= 76
        assert not any(line.endswith((" ", "\t")) for line in lines)


@pytest.mark.parametrize(
    "fields", [{"body": "\ud800"}, {"alternatives": (Alternative("\ud800", "text/x"),)}]
)
def test_a_lone_surrogate_in_a_body_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SerializationError):
        composed(with_fields(**fields))


# --- attachments -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 56, 57, 58, 114, 57 * 1024, 57 * 1024 + 1, 200_000])
def test_attached_bytes_arrive_unchanged(size: int) -> None:
    """In lines of 76 characters (RFC 2045 section 6.8), whatever the size."""
    data = bytes(number * 7 % 256 for number in range(size))
    attachment = Attachment("a.bin", "application/octet-stream", data)
    mail, inbound = read(with_fields(attachments=(attachment,)))

    [part] = mail.iter_attachments()
    assert isinstance(part, EmailMessage)
    assert decoded(part) == data
    assert [file.data for file in inbound.attachments] == [data]
    lines = str(part.get_payload()).split("\r\n")
    assert all(len(line) == 76 for line in lines[:-1])


FILENAMES = [
    "a.txt",
    "with space.txt",
    'quote".txt',
    "back\\slash.txt",
    "semi;colon,comma.txt",
    "50%'s*.txt",
    "Résumé.pdf",
    "履歴書.pdf",
    "履歴書" * 40 + ".pdf",
    "😀.png",
    "=?utf-8?q?x?=.txt",
    "x" * 300 + ".txt",
    "x" * 3000,
    "no extension é",
    "tab\tname.txt",
]


@pytest.mark.parametrize("filename", FILENAMES)
def test_a_filename_arrives_as_written(filename: str) -> None:
    attachment = Attachment(filename, "application/pdf", b"x")
    mail, inbound = read(with_fields(attachments=(attachment,)))

    [part] = mail.iter_attachments()
    assert part.get_filename() == filename
    assert [file.original_filename for file in inbound.attachments] == [filename]


@given(HEADER_TEXT.filter(lambda text: text.strip() == text != ""))
@quick
def test_any_filename_round_trips(filename: str) -> None:
    source = composed(with_fields(attachments=(Attachment(filename, "image/png", b"x"),)))

    [part] = parsed(source).iter_attachments()
    # get_filename() would take angle brackets and quotes off the name.
    assert part["Content-Disposition"].params["filename"].split() == filename.split()


@pytest.mark.parametrize(
    ("filename", "plain"),
    [
        ("Résumé.pdf", "Resume.pdf"),
        ("履歴書.pdf", "___.pdf"),
        ("é" * 100 + ".tar", "e" * 40 + ".tar"),
        ("é" * 100, "e" * 40),
        ('é"quoted".pdf', "e_quoted_.pdf"),
    ],
)
def test_old_readers_find_a_plain_filename(filename: str, plain: str) -> None:
    """A reader without RFC 2231 sees an ASCII likeness, which never breaks the header."""
    source = composed(with_fields(attachments=(Attachment(filename, "image/png", b"x"),)))

    found = re.search(rb'[ ]filename="?([^"\r\n]*)"?', source)
    assert found is not None
    assert found[1].decode() == plain


def test_the_parameters_of_a_content_type_are_kept() -> None:
    attachment = Attachment(
        "a.csv", 'text/csv; header=present; note="a; \\"b\\""; name*=utf-8\'\'%C3%A9', b"x"
    )
    mail, _ = read(with_fields(attachments=(attachment,)))

    [part] = mail.iter_attachments()
    parameters = part["Content-Type"].params
    assert dict(parameters) == {"header": "present", "note": 'a; "b"', "name": "é"}


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/csv", "iso-8859-1"),
        ("text/csv; CHARSET=utf-16", "utf-16"),
        ("application/pdf", None),
    ],
)
def test_a_charset_is_told_for_text(content_type: str, expected: str | None) -> None:
    attachment = Attachment("a.csv", content_type, b"caf\xe9", charset="iso-8859-1")
    mail, _ = read(with_fields(attachments=(attachment,)))

    [part] = mail.iter_attachments()
    assert part.get_content_charset() == expected


MAIL = b"From: a@example.com\nSubject: Inner\n\nHi"


@pytest.mark.parametrize(("data", "encoding"), [(MAIL, "7bit"), (MAIL + "é\r\n".encode(), "8bit")])
def test_an_attached_message_is_not_encoded(data: bytes, encoding: str) -> None:
    """RFC 2046 section 5.2.1 forbids it; what is around tells about 8bit (RFC 2045 6.4)."""
    source = composed(with_fields(attachments=(Attachment("a.eml", "message/rfc822", data),)))
    mail = parsed(source)

    [part] = mail.iter_attachments()
    assert part["Content-Transfer-Encoding"] == encoding
    assert mail.get("Content-Transfer-Encoding", "7bit") == encoding
    [inner] = part.iter_parts()
    assert inner["Subject"] == "Inner"
    assert data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") in source


@pytest.mark.parametrize("tail", [b"x" * 999, b"\0"])
def test_an_attached_message_that_no_line_can_carry_goes_as_a_file(tail: bytes) -> None:
    """Its bytes are what must arrive; mail has no way to carry it as a message."""
    attachment = Attachment("a.eml", "message/rfc822", MAIL + tail)
    mail, _ = read(with_fields(attachments=(attachment,)))

    [part] = mail.iter_attachments()
    assert (part.get_content_type(), part.get_filename()) == ("application/octet-stream", "a.eml")
    assert isinstance(part, EmailMessage)
    assert decoded(part) == MAIL + tail


def test_a_large_attachment_is_held_once() -> None:
    """Above the message, the source is base64 of it and next to nothing else."""
    data = bytes(4_000_000)
    message = with_fields(attachments=(Attachment("a.bin", "application/x", data),))
    composed(SIMPLE)  # what is imported late is not the message's

    tracemalloc.start()
    try:
        source = compose(message, date=DATE, message_id=ID)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(source) > 5_000_000
    assert peak < 1.5 * len(data)


# --- ids -------------------------------------------------------------------------------


def test_message_ids_are_unique_and_well_formed() -> None:
    ids = {make_message_id("shop.example") for _ in range(100)}

    assert len(ids) == 100
    assert all(re.fullmatch(r"<[0-9a-f]{32}@shop\.example>", item) for item in ids)


@pytest.mark.parametrize("domain", ["", "a b", "a>b", "a\r\nb", "a@b", "a\0b"])
def test_a_message_id_needs_a_domain(domain: str) -> None:
    with pytest.raises(InvalidHeaderError):
        make_message_id(domain)
