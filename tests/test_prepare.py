"""From a message as written to one that can be sent: defaults, checks, normal forms."""

from __future__ import annotations

import enum
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp import Address, Attachment, Message
from flask_mailesp.address import idna_encoder
from flask_mailesp.exceptions import (
    InvalidAddressError,
    InvalidHeaderError,
    InvalidMessageError,
    SerializationError,
)
from flask_mailesp.message import Alternative, PreparedMessage
from flask_mailesp.prepare import PrepareOptions, prepare, split_addresses

BASE: dict[str, Any] = {"to": "to@example.com", "sender": "from@example.com"}


def prepared(defaults: dict[str, Any] | None = None, **fields: Any) -> PreparedMessage:
    """Prepare a message with a recipient and a sender unless told otherwise."""
    message = Message(**{**BASE, **fields})
    return prepare(message, defaults or {}, PrepareOptions(), "postmark")


# --- defaults --------------------------------------------------------------------------

DEFAULTS: list[tuple[str, Any, Any, Any]] = [
    # attribute, default, what it becomes, what None becomes
    ("sender", "a@b.example", Address("a@b.example"), InvalidAddressError),
    ("subject", "Hi", "Hi", ""),
    ("body", "Hi", "Hi", None),
    ("html", "<p>", "<p>", None),
    ("to", ["a@b.example"], (Address("a@b.example"),), InvalidAddressError),
    ("cc", ["a@b.example"], (Address("a@b.example"),), ()),
    ("bcc", ["a@b.example"], (Address("a@b.example"),), ()),
    ("reply_to", ["a@b.example"], (Address("a@b.example"),), ()),
    ("attachments", [Attachment("a", "x/y")], (Attachment("a", "x/y"),), ()),
    ("headers", {"X-A": "1"}, (("X-A", "1"),), ()),
    ("alternatives", [("x", "x/y")], (Alternative("x", "x/y"),), ()),
    ("envelope_sender", "a@b.example", Address("a@b.example"), None),
    ("metadata", {"k": 1}, {"k": 1}, None),
    ("tags", ["news"], ("news",), ()),
    ("track_clicks", True, True, None),
    ("track_opens", False, False, None),
    ("send_at", 0, datetime(1970, 1, 1, tzinfo=timezone.utc), None),
    ("template_id", 7, 7, None),
    ("merge_data", {}, {}, None),
    ("merge_global_data", {"k": 1}, {"k": 1}, None),
    ("merge_metadata", {}, {}, None),
    ("merge_headers", {}, {}, None),
    ("esp_extra", {"k": 1}, {"k": 1}, {}),
]


def test_every_attribute_may_have_a_default() -> None:
    """The table below is complete. A key that all messages share would be none."""
    assert {row[0] for row in DEFAULTS} == set(Message.__annotations__) - {"idempotency_key"}


@pytest.mark.parametrize(("name", "default", "becomes", "none_becomes"), DEFAULTS)
def test_a_default_applies_unless_something_was_given(
    name: str, default: Any, becomes: Any, none_becomes: Any
) -> None:
    """Not given: the default. None: nothing."""
    message = Message(**{key: value for key, value in BASE.items() if key != name})
    assert getattr(prepare(message, {name: default}, PrepareOptions()), name) == becomes

    setattr(message, name, None)
    if isinstance(none_becomes, type):
        with pytest.raises(none_becomes):
            prepare(message, {name: default}, PrepareOptions())
    else:
        assert getattr(prepare(message, {name: default}, PrepareOptions()), name) == none_becomes


@pytest.mark.parametrize(
    ("name", "default", "value", "becomes"),
    [
        ("track_opens", True, False, False),
        ("tags", ["news"], [], ()),
        ("tags", ["news"], "own", ("own",)),
        ("metadata", {"k": 1}, {}, None),
        ("metadata", {"k": 1}, {"l": 2}, {"l": 2}),
        ("subject", "Hi", "", ""),
        ("send_at", 5, 0, datetime(1970, 1, 1, tzinfo=timezone.utc)),
        ("merge_data", {"a@b.example": {}}, {}, {}),
    ],
)
def test_a_value_replaces_the_default_as_a_whole(
    name: str, default: Any, value: Any, becomes: Any
) -> None:
    """False, zero and empty containers are values."""
    assert getattr(prepared({name: default}, **{name: value}), name) == becomes


def test_what_is_put_into_a_container_replaces_the_default() -> None:
    """As an assignment would."""
    message = Message(**BASE)
    message.tags.append("own")

    assert prepare(message, {"tags": ["news"]}, PrepareOptions()).tags == ("own",)


def test_preparing_changes_neither_the_message_nor_the_defaults() -> None:
    """It is pure: both are used again."""
    message, defaults = Message(**BASE), {"tags": ["news"], "metadata": {"k": 1}}
    first = prepare(message, defaults, PrepareOptions())

    assert prepare(message, defaults, PrepareOptions()) == first
    assert message.to_dict() == {"to": ["to@example.com"], "sender": "from@example.com"}
    assert defaults == {"tags": ["news"], "metadata": {"k": 1}}


def test_an_html_only_message_has_no_body() -> None:
    """No text is made up."""
    message = prepared(html="<p>Hi</p>")

    assert (message.body, message.html) == (None, "<p>Hi</p>")


# --- addresses -------------------------------------------------------------------------


def test_every_address_is_parsed_and_its_domain_encoded() -> None:
    """User names and display names stay as they are; the caller's spelling is kept apart."""
    message = prepared(cc=[("J\u00fc", "J\u00fc@b\u00fccher.example")])

    assert message.cc == (Address("J\u00fc@xn--bcher-kva.example", "J\u00fc"),)
    assert message.cc[0].spelling == "J\u00fc@b\u00fccher.example"


def test_one_mailbox_twice_in_a_field_is_one_recipient() -> None:
    """However it is spelled; the first spelling stays."""
    to = ["A@Example.com", "a@example.com", "b@b\u00fccher.example", "b@xn--bcher-kva.example"]

    assert [str(item) for item in prepared(to=to).to] == [
        "A@Example.com",
        "b@xn--bcher-kva.example",
    ]


def test_a_message_may_go_to_cc_or_bcc_only() -> None:
    """Whether the ESP can express that is asked elsewhere."""
    assert prepared(to=None, bcc="a@example.com").recipients == (Address("a@example.com"),)


INVALID: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"to": None}, InvalidAddressError, "no recipient"),
    ({"to": []}, InvalidAddressError, "no recipient"),
    ({"to": ["bad-me"]}, InvalidAddressError, "^to is"),
    ({"to": ["a@example.com", "bad-me"]}, InvalidAddressError, r"^to\[1\] is"),
    ({"cc": ["bad-me"]}, InvalidAddressError, "^cc is"),
    ({"bcc": ["a@example.com", 5]}, InvalidAddressError, r"^bcc\[1\] must be"),
    ({"reply_to": "bad-me"}, InvalidAddressError, "^reply_to is"),
    ({"sender": None}, InvalidAddressError, "MAILESP_SEND_DEFAULTS"),
    ({"sender": "bad-me"}, InvalidAddressError, "^sender is"),
    ({"sender": ["a@example.com"]}, InvalidAddressError, "^sender must be"),
    ({"envelope_sender": "bad-me"}, InvalidAddressError, "^envelope_sender is"),
    ({"to": "x@b.c\uff20bad-me.example"}, InvalidAddressError, "^to has an international"),
    ({"headers": {"Reply-To": "bad-me"}}, InvalidAddressError, r"^headers\['Reply-To'\] is"),
    ({"merge_data": {"bad-me": {}}}, InvalidAddressError, "^A key of merge_data is"),
    ({"merge_metadata": {"bad-me": {}}}, InvalidAddressError, "^A key of merge_metadata is"),
    ({"merge_headers": {"bad-me": {}}}, InvalidAddressError, "^A key of merge_headers is"),
    ({"merge_data": {}, "to": None, "cc": "a@example.com"}, InvalidAddressError, "`to`"),
    ({"subject": 5}, SerializationError, "^subject must be str, not int"),
    ({"subject": b"x"}, SerializationError, "^subject must be str, not bytes"),
    ({"body": ["x"]}, SerializationError, "^body must be str, not list"),
    ({"html": 5}, SerializationError, "^html must be"),
    ({"track_opens": 1}, SerializationError, "^track_opens must be True"),
    ({"track_clicks": "yes"}, SerializationError, "^track_clicks must be True"),
    ({"headers": "X-A: 1"}, SerializationError, "^headers must be a dict or"),
    ({"headers": ["ab"]}, SerializationError, "^headers must be a dict or"),
    ({"headers": [("X-A", "1", "2")]}, SerializationError, "^headers must be a dict or"),
    ({"headers": [5]}, SerializationError, "^headers must be a dict or"),
    ({"headers": {"X-A": None}}, SerializationError, r"^headers\['X-A'\] must be str"),
    ({"headers": {"X-A": True}}, SerializationError, r"^headers\['X-A'\] must be str"),
    ({"headers": {"X-A": 10**5000}}, SerializationError, r"^headers\['X-A'\] is a number"),
    ({"headers": {"X A": "1"}}, InvalidHeaderError, "malformed header name"),
    ({"headers": {"X:A": "1"}}, InvalidHeaderError, "malformed header name"),
    ({"headers": {"": "1"}}, InvalidHeaderError, "malformed header name"),
    ({"headers": {5: "1"}}, InvalidHeaderError, "malformed header name"),
    ({"headers": {"X-\u00fc": "1"}}, InvalidHeaderError, "malformed header name"),
    ({"headers": {"From": "x"}}, InvalidHeaderError, "give sender"),
    ({"headers": {"TO": "x"}}, InvalidHeaderError, "give to"),
    ({"headers": {"Cc": "x"}}, InvalidHeaderError, "give cc"),
    ({"headers": {"bcc": "x"}}, InvalidHeaderError, "give bcc"),
    ({"headers": {"Subject": "x"}}, InvalidHeaderError, "give subject"),
    ({"headers": {"Return-Path": "x"}}, InvalidHeaderError, "give envelope_sender"),
    ({"headers": {"Content-Type": "x"}}, InvalidHeaderError, "give attachments"),
    ({"headers": {"MIME-Version": "x"}}, InvalidHeaderError, "give attachments"),
    ({"merge_headers": {"to@example.com": {"From": "x"}}}, InvalidHeaderError, "field of its own"),
    ({"merge_headers": {"to@example.com": {"X": None}}}, SerializationError, "merge_headers"),
    ({"attachments": ["a.txt"]}, SerializationError, "^An attachment must be"),
    ({"attachments": [("a", "b", 5)]}, SerializationError, "^An attachment's data"),
    ({"attachments": [(5, "x/y", b"")]}, SerializationError, "^An attachment's filename"),
    ({"attachments": [("a", "png", b"")]}, InvalidHeaderError, "^An attachment's content_type"),
    ({"attachments": [("a", 5, b"")]}, InvalidHeaderError, "^An attachment's content_type"),
    (
        {"attachments": [Attachment("a", content_id="a b")]},
        InvalidHeaderError,
        "^An attachment's content_id",
    ),
    (
        {"attachments": [Attachment("a", content_id=5)]},  # type: ignore[arg-type]
        SerializationError,
        "^An attachment's content_id",
    ),
    (
        {"attachments": [Attachment("a", disposition="x")]},  # type: ignore[arg-type]
        InvalidHeaderError,
        "^An attachment's disposition",
    ),
    ({"alternatives": ["x"]}, SerializationError, "^An alternative must be"),
    ({"alternatives": [("x",)]}, SerializationError, "^An alternative must be"),
    ({"alternatives": [(5, "x/y")]}, SerializationError, "^An alternative's content"),
    ({"alternatives": [("x", "calendar")]}, InvalidHeaderError, "^An alternative's content_type"),
    ({"metadata": "x"}, SerializationError, "^metadata must be a dict"),
    ({"metadata": {5: "x"}}, SerializationError, "^A metadata key must be str"),
    ({"metadata": {"k": None}}, SerializationError, r"^metadata\['k'\] must be str or a"),
    ({"metadata": {"k": date(2030, 1, 1)}}, SerializationError, r"^metadata\['k'\] .* date"),
    ({"metadata": {"k": 10**5000}}, SerializationError, r"^metadata\['k'\] is a number"),
    ({"merge_metadata": {"to@example.com": {"k": []}}}, SerializationError, "merge_metadata"),
    ({"tags": ["x", 5]}, SerializationError, "^A tag must be str"),
    ({"template_id": 5.5}, SerializationError, "^template_id must be"),
    ({"template_id": True}, SerializationError, "^template_id must be"),
    ({"template_id": {"postal": 5}}, InvalidMessageError, "^template_id names no template for"),
    ({"merge_data": []}, SerializationError, "^merge_data must be a dict"),
    ({"merge_data": {"to@example.com": 5}}, SerializationError, "^merge_data must hold a dict"),
    ({"merge_global_data": [5]}, SerializationError, "^merge_global_data must be a dict"),
    ({"esp_extra": [5]}, SerializationError, "^esp_extra must be a dict"),
    ({"send_at": "tomorrow"}, SerializationError, "^send_at must be"),
    ({"send_at": True}, SerializationError, "^send_at must be"),
    ({"send_at": float("nan")}, SerializationError, "^send_at must be"),
    ({"send_at": float("inf")}, SerializationError, "^send_at must be"),
    ({"send_at": 10**30}, SerializationError, "^send_at must be"),
]


@pytest.mark.parametrize(("fields", "error", "text"), INVALID)
def test_what_cannot_be_sent_is_refused_by_field(
    fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The error names the field, and quotes no address."""
    with pytest.raises(error, match=text) as caught:
        prepared(**fields)

    assert isinstance(caught.value, InvalidMessageError)
    assert "example.com" not in str(caught.value).replace("user@example.com", "")
    assert "bad-me" not in str(caught.value)


# --- Reply-To --------------------------------------------------------------------------

OWN, HEADER, OTHER = Address("own@e.example"), Address("header@e.example"), "other@e.example"
BOTH = (HEADER, Address("own@e.example", "A, B"))


@pytest.mark.parametrize(
    ("defaults", "fields", "reply_to"),
    [
        ({}, {"headers": {"Reply-To": "header@e.example"}}, (HEADER,)),
        ({}, {"headers": {"reply-to": "N <header@e.example>"}}, (Address(HEADER.addr_spec, "N"),)),
        (
            {},
            {"headers": {"Reply-To": 'header@e.example, "A, B" <own@e.example>'}},
            BOTH,
        ),
        ({"reply_to": [OTHER]}, {"headers": {"Reply-To": "header@e.example"}}, (HEADER,)),
        ({"headers": {"Reply-To": OTHER}}, {"reply_to": "own@e.example"}, (OWN,)),
        ({"headers": {"Reply-To": "header@e.example"}}, {}, (HEADER,)),
        (
            {"reply_to": ["own@e.example"], "headers": {"Reply-To": OTHER}},
            {},
            (OWN,),
        ),
        (
            {},
            {"headers": {"Reply-To": "own@e.example"}, "reply_to": "own@e.example"},
            (OWN,),
        ),
        ({}, {"headers": {"Reply-To": "header@e.example"}, "reply_to": None}, (HEADER,)),
    ],
)
def test_a_reply_to_header_becomes_reply_to(
    defaults: dict[str, Any], fields: dict[str, Any], reply_to: tuple[Address, ...]
) -> None:
    """What the message itself says, in either place, stands before a default."""
    message = prepared(defaults, **fields)

    assert message.reply_to == reply_to
    assert tuple(map(str, message.reply_to)) == tuple(map(str, reply_to))
    assert message.headers == ()


def test_two_different_reply_to_are_refused() -> None:
    """One of them would be lost."""
    with pytest.raises(InvalidHeaderError, match="differ"):
        prepared(headers={"Reply-To": "a@example.com"}, reply_to="b@example.com")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a@b.c", ["a@b.c"]),
        (" a@b.c ,, d@e.f,", ["a@b.c", "d@e.f"]),
        ('"A, B" <a@b.c>, <"x,y"@e.f>', ['"A, B" <a@b.c>', '<"x,y"@e.f>']),
        ('"A \\", B" <a@b.c>', ['"A \\", B" <a@b.c>']),
        ('" <a@b.c>, d@e.f', ['" <a@b.c>, d@e.f']),
        ("a@b.c <d@e.f, g@h.i", ["a@b.c <d@e.f, g@h.i"]),
        ('"\\', ['"\\']),
        ("", []),
    ],
)
def test_an_address_list_is_split_at_its_commas(text: str, parts: list[str]) -> None:
    """Not at those in quotes or angle brackets; what is unbalanced is left for the parser."""
    assert split_addresses(text) == parts


@given(st.text(alphabet='a@.,<>"\\ \n'))
def test_splitting_loses_nothing_but_commas_and_space(text: str) -> None:
    """A dropped quote could make an address of what is none."""
    kept = "".join(split_addresses(text))

    assert [c for c in kept if c not in ", "] == [c for c in text if c not in ", "]


@pytest.mark.parametrize("text", ["<" * 200_000, '"' * 200_001, ",<" * 100_000, '"\\' * 100_000])
def test_a_hostile_address_list_takes_no_longer_than_its_length(text: str) -> None:
    """Going back at every opening bracket would take minutes."""
    assert split_addresses(text)


# --- the rest --------------------------------------------------------------------------


def test_numbers_in_headers_become_text() -> None:
    """X-Priority: 1 is nothing to stumble over."""
    assert prepared(headers={"X-Priority": 1}).headers == (("X-Priority", "1"),)


def test_repeated_headers_are_kept_in_order() -> None:
    """A list of pairs can say what a mapping cannot."""
    pairs = [("X-A", "1"), ("x-a", "2")]

    assert prepared(headers=pairs).headers == tuple(pairs)


def test_an_enumeration_in_metadata_stands_for_its_value() -> None:
    """str() of it would be its name."""

    class Kind(str, enum.Enum):
        NEWS = "news"

    value = (prepared(metadata={"kind": Kind.NEWS}).metadata or {})["kind"]
    assert (type(value), value) == (str, "news")


def test_a_template_may_differ_per_esp() -> None:
    """The ESP's key chooses."""
    assert prepared(template_id={"postmark": "welcome", "other": 5}).template_id == "welcome"


class Nowhere(tzinfo):
    """A zone that does not know its offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return None, as the datetime module allows."""
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Return None."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """Return None."""
        return None


PRAGUE = ZoneInfo("Europe/Prague")


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (datetime(2030, 7, 1, 12, tzinfo=timezone.utc), "2030-07-01T12:00:00+00:00"),
        (datetime.fromisoformat("2030-07-01T12:00"), "2030-07-01T12:00:00+02:00"),
        (datetime.fromisoformat("2030-01-01T12:00"), "2030-01-01T12:00:00+01:00"),
        (datetime(2030, 7, 1, 12, tzinfo=Nowhere()), "2030-07-01T12:00:00+02:00"),
        (date(2030, 7, 1), "2030-07-01T00:00:00+02:00"),
        (0, "1970-01-01T00:00:00+00:00"),
        (-0.5, "1969-12-31T23:59:59.500000+00:00"),
    ],
)
def test_send_at_is_aware(value: Any, moment: str) -> None:
    """Naive times and dates are in the configured zone; numbers are seconds since 1970."""
    message = Message(**BASE, send_at=value)
    found = prepare(message, {}, PrepareOptions(timezone=PRAGUE)).send_at

    assert found is not None
    assert found.isoformat() == moment


# --- merging ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["merge_data", "merge_metadata", "merge_headers"])
def test_any_row_mapping_makes_a_batch(name: str) -> None:
    """Even an empty one: one copy for each recipient, who does not see the others."""
    assert prepared(**{name: {}}).is_batch
    assert not prepared().is_batch
    assert not prepared({name: {}}, **{name: None}).is_batch
    assert not prepared(merge_global_data={"k": 1}).is_batch


@pytest.mark.parametrize(
    "key",
    [
        "YOU@B\u00fccher.example",
        ("You", "you@b\u00fccher.example"),
        "you@XN--BCHER-KVA.example",
        Address("you@b\u00fccher.example"),
        "You <you@b\u00fccher.example>",
    ],
)
def test_merge_keys_find_their_recipient_in_any_spelling(key: Any) -> None:
    """Case and punycode make no difference."""
    message = prepared(to="you@b\u00fccher.example", merge_data={key: {"k": 1}})

    assert message.merge_data == {message.to[0].key: {"k": 1}}


def test_merge_keys_follow_the_configured_idna_encoder() -> None:
    """IDNA 2003 sends to another domain; the key must go there too."""
    options = PrepareOptions(idna=idna_encoder("idna2003"))
    address = "you@stra\u00dfe.example"
    message = prepare(Message(**{**BASE, "to": address}, merge_data={address: {}}), {}, options)

    assert list(message.merge_data or {}) == [message.to[0].key] == ["you@strasse.example"]


@pytest.mark.parametrize("name", ["merge_data", "merge_metadata", "merge_headers"])
def test_a_merge_key_without_recipient_is_ignored_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning counts them; a cc is no `to`, and has no copy of its own."""
    rows: dict[str, Any] = {"to@example.com": {}, "cc@example.com": {}, "x@example.com": {}}
    prepared(cc="cc@example.com", **{name: rows})

    assert caplog.messages == [f"2 keys of {name} match no `to` and are ignored."]


def test_rows_are_checked_and_normalised_like_what_they_replace() -> None:
    """Metadata and headers per recipient are metadata and headers."""
    message = prepared(
        merge_metadata={"to@example.com": {"k": 1}}, merge_headers={"to@example.com": {"X-A": 1}}
    )

    assert message.merge_metadata == {"to@example.com": {"k": 1}}
    assert message.merge_headers == {"to@example.com": {"X-A": "1"}}


def test_preparing_a_large_merge_is_linear() -> None:
    """Ten thousand recipients are a newsletter, not an attack."""
    to = [f"user{number}@example.com" for number in range(10_000)]

    message = prepared(to=to, merge_data={address: {} for address in to})

    assert len(message.to) == len(message.merge_data or {}) == 10_000
