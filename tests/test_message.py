"""Messages and attachments as an app writes them."""

from __future__ import annotations

import copy
import email.headerregistry
import email.message
import io
import json
import pickle
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp import Address, Attachment, Message
from flask_mailesp.exceptions import (
    InvalidAddressError,
    InvalidMessageError,
    SerializationError,
)
from flask_mailesp.message import Alternative, PreparedMessage, as_attachment

ATTRIBUTES = tuple(Message.__annotations__)
LISTS = ("to", "cc", "bcc", "reply_to", "attachments", "alternatives", "tags")
DICTS = ("headers", "metadata", "esp_extra")

ADDRESSES = [
    "a@example.com",
    "A <a@example.com>",
    ("Doe, A", "a@example.com"),
    Address("a@example.com", 'A "B" <c@d.example>'),
    Address("a@example.com"),
    email.headerregistry.Address("A", "a", "example.com"),
]


def pickled(value: Any) -> Any:
    """Return what another process would get."""
    return pickle.loads(pickle.dumps(value))


def full() -> Message:
    """Return a message that gives every attribute."""
    return Message(
        "Subject",
        [("A", "a@example.com"), Address("b@example.com", "B"), "c@example.com"],
        "Text",
        "<p>HTML</p>",
        ("From", "from@example.com"),
        "cc@example.com",
        ["bcc@example.com"],
        [Attachment("a.txt", "text/plain", b"\0\xff"), ("b.bin", None, "text")],
        Address("reply@example.com"),
        headers=[("X-A", "1"), ("X-A", "2")],
        alternatives=[("BEGIN:VCALENDAR", "text/calendar"), Alternative("x", "text/x-amp-html")],
        envelope_sender="bounce@example.com",
        metadata={"order": 5},
        tags="news",
        track_clicks=False,
        track_opens=True,
        send_at=datetime(2030, 1, 2, 3, 4, 5, 678, timezone(timedelta(hours=2))),
        template_id={"postmark": 7},
        merge_data={"a@example.com": {"name": "A"}},
        merge_global_data={"site": "x"},
        merge_metadata={},
        merge_headers={"a@example.com": {"X-B": "3"}},
        esp_extra={"MessageStream": "broadcast"},
        idempotency_key="order-17",
    )


# --- three states ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_left_out_is_not_given(name: str) -> None:
    """So that its default applies; it rests at None, "" or an empty container."""
    message = Message()

    assert not message.is_given(name)
    assert getattr(message, name) == (
        [] if name in LISTS else {} if name in DICTS else "" if name == "subject" else None
    )


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("by", ["init", "assignment"])
def test_none_is_given_and_means_nothing(name: str, by: str) -> None:
    """None cancels a default."""
    message = Message(**{name: None}) if by == "init" else Message()
    if by == "assignment":
        setattr(message, name, None)

    assert message.is_given(name)
    assert getattr(message, name) == getattr(Message(), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("track_opens", False), ("tags", []), ("merge_data", {}), ("metadata", {}), ("subject", "")],
)
def test_false_and_empty_values_are_given(name: str, value: Any) -> None:
    """Only leaving something out leaves it to the default."""
    message = Message(**{name: value})

    assert message.is_given(name)
    assert getattr(message, name) == value


def test_what_is_put_into_a_container_is_given() -> None:
    """message.tags.append() says as much as message.tags = [...]."""
    message = Message()
    message.tags.append("news")
    message.headers["X-A"] = "1"
    message.attach("a.txt", data="x")

    assert all(map(message.is_given, ("tags", "headers", "attachments")))
    assert not message.is_given("cc")


def test_an_unknown_attribute_is_an_error() -> None:
    """A misspelt one would be lost silently."""
    with pytest.raises(AttributeError, match="recipients"):
        Message().recipients = ["a@example.com"]
    with pytest.raises(TypeError, match="recipients"):
        Message(recipients=["a@example.com"])  # type: ignore[call-arg]


# --- containers ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["to", "cc", "bcc", "reply_to"])
@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
def test_one_address_may_stand_where_a_list_is_expected(name: str, address: Any) -> None:
    """In all its forms, by argument and by assignment."""
    message = Message(**{name: address})
    assert getattr(message, name) == [address]

    setattr(message, name, [address, address])
    assert getattr(message, name) == [address, address]


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (("a@example.com", "b@example.com", "c@example.com"), 3),
        (["Name", "a@example.com"], 2),  # a list is never one address
        ((("A", "a@example.com"), ("B", "b@example.com")), 2),
        (("Joe @ Acme", "joe@example.com"), 1),
        ((None, "a@example.com"), 1),
        (iter(["a@example.com", "b@example.com"]), 2),
        ({"a@example.com": "A"}, 1),
        (b"a@example.com", 1),
        (5, 1),
    ],
)
def test_a_tuple_is_a_pair_if_it_can_be_one(value: Any, items: int) -> None:
    """What is neither address nor list becomes one item, to be refused when it is sent."""
    assert len(Message(to=value).to) == items


@pytest.mark.parametrize(
    "pair",
    [("a@example.com", "b@example.com"), ("A <a@example.com>", "b@example.com")],
)
def test_a_pair_that_could_be_two_addresses_is_refused(pair: tuple[str, str]) -> None:
    """A name typed into a form must not become a recipient, nor a recipient a name."""
    with pytest.raises(InvalidAddressError, match="cc is a pair") as caught:
        Message(cc=pair)

    assert "example.com" not in str(caught.value)
    assert Message(cc=[pair]).cc == [pair]  # in a list, it is plainly one address


def test_containers_are_the_messages_own() -> None:
    """Changing what was passed in does not change the message."""
    to, metadata = ["a@example.com"], {"k": 1}
    message = Message(to=to, metadata=metadata, tags=(tag for tag in "ab"))
    to.append("b@example.com")
    metadata["k"] = 2

    assert (message.to, message.metadata, message.tags) == (["a@example.com"], {"k": 1}, ["a", "b"])


def test_alternatives_may_be_given_by_content_type() -> None:
    """One form of each is the usual case."""
    message = Message(alternatives={"text/calendar": "BEGIN:VCALENDAR"})

    assert message.alternatives == [("BEGIN:VCALENDAR", "text/calendar")]


def test_headers_keep_the_form_they_were_given_in() -> None:
    """A mapping, or pairs where a name repeats."""
    assert Message(headers=MappingProxyType({"X-A": "1"})).headers == {"X-A": "1"}
    assert Message(headers=[("X-A", "1")]).headers == [("X-A", "1")]


# --- copies and comparison -------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_equal_and_independent(duplicate: Any) -> None:
    """Changing a copy, even to give what was not given, leaves the original as it was."""
    original = Message("S", to="a@example.com", tags=["x"])
    twin = duplicate(original)
    assert twin == original

    twin.sender = "from@example.com"
    twin.tags.append("y")
    twin.metadata["k"] = 1

    assert twin != original
    assert original.to_dict() == {"subject": "S", "to": ["a@example.com"], "tags": ["x"]}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_messages_that_differ_in_one_attribute_are_unequal(name: str) -> None:
    """No attribute is forgotten."""
    other = full()
    setattr(other, name, None)

    assert full() == full()
    assert other != full()
    assert full() != "message"


def test_messages_cannot_be_hashed() -> None:
    """They change."""
    with pytest.raises(TypeError):
        hash(Message())


def test_the_repr_counts_and_quotes_nothing() -> None:
    """Reprs end up in logs."""
    assert repr(full()) == "<Message to 5 recipients, 2 attachments>"
    assert repr(Message.__new__(Message)) == "<Message to 0 recipients, 0 attachments>"
    prepared = PreparedMessage(Address("from@example.com"), (Address("to@example.com"),))
    assert repr(prepared) == "<PreparedMessage to 1 recipients>"


# --- to JSON and back ------------------------------------------------------------------


def through_json(message: Message) -> Message:
    """Return a message as a queue hands it on."""
    return Message.from_dict(json.loads(json.dumps(message.to_dict())))


def test_a_message_survives_json() -> None:
    """Every attribute, in every form it may be given."""
    message = through_json(full())

    assert message == full()
    assert message.attachments == [as_attachment(item) for item in full().attachments]
    assert message.send_at == full().send_at
    assert message.to[1] == ("B", "b@example.com")


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
def test_every_form_of_address_survives_json(address: Any) -> None:
    """As one, in a list, and as the key of merge data."""
    keyed = {} if isinstance(address, email.headerregistry.Address) else {address: {"x": 1}}
    message = Message(to=[address], sender=address, cc=address, merge_data=keyed)

    assert through_json(message) == message


@pytest.mark.parametrize(
    "moment",
    [
        datetime.fromisoformat("2030-01-02T03:04"),
        datetime(2030, 1, 2, 3, 4, 5, 60, timezone.utc),
        date(2030, 1, 2),
        1_900_000_000,
        1_900_000_000.5,
        None,
    ],
)
def test_every_kind_of_send_at_survives_json(moment: Any) -> None:
    """A date stays a date, and a naive time stays naive."""
    message = through_json(Message(send_at=moment))

    assert (type(message.send_at), message.send_at) == (type(moment), moment)


def test_only_what_was_given_is_written() -> None:
    """So that the defaults of the app that sends it apply."""
    message = Message("S", track_opens=None, tags=[])
    message.cc.append("a@example.com")

    assert message.to_dict() == {
        "subject": "S",
        "cc": ["a@example.com"],
        "tags": [],
        "track_opens": None,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
texts = st.none() | st.text()
rows = st.none() | st.dictionaries(st.emails(), st.dictionaries(st.text(), json_values))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "subject": texts,
            "body": texts,
            "to": st.none() | st.lists(st.emails() | st.tuples(st.text(), st.emails())),
            "sender": st.none() | st.emails(),
            "tags": st.none() | st.text() | st.lists(st.text()),
            "metadata": st.none() | st.dictionaries(st.text(), st.text() | st.integers()),
            "headers": st.dictionaries(st.text(), st.text())
            | st.lists(st.tuples(st.text(), st.text())),
            "attachments": st.lists(
                st.builds(
                    Attachment, st.text(), st.none() | st.text(), st.binary(), content_id=texts
                )
            ),
            "send_at": st.datetimes(timezones=st.just(timezone.utc)) | st.dates() | st.integers(),
            "merge_data": rows,
            "esp_extra": st.dictionaries(st.text(), json_values),
        },
    )
)
def test_any_message_survives_json(fields: dict[str, Any]) -> None:
    """What was given comes back equal, and what was not stays not given."""
    message = Message(**fields)
    back = through_json(message)

    assert back == message
    assert [back.is_given(name) for name in ATTRIBUTES] == [
        message.is_given(name) for name in ATTRIBUTES
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"recipients": []},
        {"attachments": [{"filename": "a"}]},
        {"attachments": [{"data": "not base64!"}]},
        {"attachments": [{"data": "YQ==!"}]},
        {"attachments": [{"data": "", "size": 5}]},
        {"attachments": [5]},
        {"attachments": None},
        {"send_at": "tomorrow"},
        {"send_at": "2030-13-01T00:00"},
    ],
)
def test_what_to_dict_never_returns_is_refused_by_name(data: dict[str, Any]) -> None:
    """A queue may hold what an older or newer version has written."""
    with pytest.raises(InvalidMessageError, match=next(iter(data))):
        Message.from_dict(data)


# --- attachments -----------------------------------------------------------------------


def mail() -> email.message.Message:
    """Return a mail of the standard library."""
    inner = email.message.Message()
    inner["Subject"] = "inner"
    return inner


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b"\0\xff", b"\0\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("\u00e9", b"\xc3\xa9"),
        (io.BytesIO(b"ab"), b"ab"),
        (io.StringIO("\u00e9"), b"\xc3\xa9"),
        (mail(), b"Subject: inner\n\n"),
    ],
)
def test_data_is_stored_as_bytes(data: Any, stored: bytes) -> None:
    """Whatever it was given as."""
    assert Attachment("a.bin", None, data).data == stored


def test_text_is_encoded_in_its_charset() -> None:
    """UTF-8 unless another one is asked for; bytes have no charset of their own."""
    assert Attachment("a.txt", None, "\u00e9").charset == "utf-8"
    assert Attachment("a.txt", None, "\u00e9", charset="latin-1").data == b"\xe9"
    assert Attachment("a.txt", None, b"x").charset is None


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("\u20ac", "latin-1"),
        ("\ud800", None),
        ("x", "no-such-charset"),
        ("x", "a\0b"),
        ("x", "\ud800"),
        ("x", "rot13"),
        ("x", 5),
        (5, None),
        (None, None),
        (object(), None),
    ],
)
def test_data_that_cannot_be_stored_is_a_serialization_error(data: Any, charset: Any) -> None:
    """At once: the caller's line is in the traceback."""
    with pytest.raises(SerializationError, match="An attachment's"):
        Attachment("a.txt", None, data, charset=charset)


@pytest.mark.parametrize(
    ("filename", "guessed"),
    [
        ("a.png", "image/png"),
        ("A.PDF", "application/pdf"),
        ("a.tar.gz", "application/octet-stream"),  # the type would be that of what is inside
        ("a.unknown", "application/octet-stream"),
        ("", "application/octet-stream"),
        (None, "application/octet-stream"),
        ("//[x.png", "image/png"),
        ("///[x.png", "image/png"),
        ("data:text/html,x.png", "image/png"),
        ("C:\\temp\\a.png", "image/png"),
        (5, "application/octet-stream"),
    ],
)
def test_the_content_type_is_guessed_from_the_filename(filename: Any, guessed: str) -> None:
    """Users upload files with any name; none of them is read as a URL."""
    assert Attachment(filename, None, b"").content_type == guessed


@pytest.mark.parametrize(
    ("content_type", "filename"),
    [("image/png", "attachment.png"), ("x/y; a=b", "attachment"), (None, "attachment")],
)
def test_a_filename_is_made_up_from_the_content_type(
    content_type: str | None, filename: str
) -> None:
    """ESPs want one."""
    assert Attachment(None, content_type, b"").filename == filename


def test_an_inline_image_has_a_content_id() -> None:
    """Given, with or without angle brackets, or made; either makes the image inline."""
    made = Attachment("a.png", None, b"", disposition="inline")

    assert made.is_inline
    assert str(made.content_id).endswith("@inline")
    assert made.content_id != Attachment("a.png", None, b"", disposition="inline").content_id
    assert Attachment("a.png", None, b"", content_id="<logo>").content_id == "logo"
    assert Attachment("a.png", None, b"", content_id="logo").is_inline
    assert Attachment("a.png", None, b"", content_id="", disposition="inline").content_id
    assert not Attachment("a.png", None, b"").is_inline


def test_the_ways_to_attach(tmp_path: Path) -> None:
    """Each returns what the caller needs next."""
    file = tmp_path / "a.png"
    file.write_bytes(b"png")
    message = Message()

    first = message.attach("a.txt", "text/plain", "x")
    again = message.attach(first)
    from_file = message.attach_file(str(file))
    cid = message.embed("logo.png", data=b"png")
    other = message.embed_file(file, content_id="<chosen>")

    assert again is first
    assert (from_file.filename, from_file.content_type, from_file.data) == (
        "a.png",
        "image/png",
        b"png",
    )
    assert other == "chosen"
    assert [item.content_id for item in message.attachments] == [None, None, None, cid, other]


def test_attachments_are_values() -> None:
    """Frozen, comparable, hashable, copied by pickle; the repr hides the data."""
    attachment = Attachment("a.png", "image/png", b"secret", content_id="c")

    for twin in (
        copy.copy(attachment),
        copy.deepcopy(attachment),
        pickled(attachment),
    ):
        assert twin == attachment
        assert hash(twin) == hash(attachment)
    assert "secret" not in repr(attachment)
    with pytest.raises(AttributeError):
        attachment.filename = "b"  # type: ignore[misc]


@pytest.mark.parametrize("item", ["a.txt", ("a.txt", "text/plain"), None, b"x", 5])
def test_what_is_no_attachment_is_refused(item: Any) -> None:
    """By its type; the content is not quoted."""
    with pytest.raises(SerializationError, match=f"not {type(item).__name__}"):
        as_attachment(item)


def test_a_prepared_header_is_found_in_any_case() -> None:
    """Header names have none."""
    message = PreparedMessage(Address("a@b.example"), (), headers=(("X-A", "1"), ("x-a", "2")))

    assert message.header("x-A") == "1"
    assert message.header("X-B") is None
