"""Untrusted data in, request bodies out."""

from __future__ import annotations

import base64
import json
import math
import tracemalloc
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp import wire
from flask_mailesp.esp import Body
from flask_mailesp.exceptions import SerializationError, WebhookRejected
from flask_mailesp.wire import Base64, Pieces, joined, json_body, verify_basic

HUGE_NUMBER = 10**400
HUGE_TEXT = "9" * 5000

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
hostile_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([HUGE_NUMBER, -HUGE_NUMBER, HUGE_TEXT, "\ud800", math.inf, 1e18, -1e18])
    | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]*)?(Z|[+-][0-9:]{4,5})?"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


# --- reading ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": 1}'.encode("utf-16"), {"a": 1}),
        (b"", None),
        (b"{", None),
        (b"\xff\xff", None),
        (b'"\xe9"', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (HUGE_TEXT.encode(), None),
        (b"<html>", None),
    ],
)
def test_what_is_not_json_is_none(body: bytes | str, value: Any) -> None:
    """However it is broken, however deep it nests, however long its numbers are."""
    assert wire.parse_json(body) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", None),
        ("\u00e9", "\u00e9"),
        ("a\ud800b", "a?b"),
        (5, "5"),
        (2.5, "2.5"),
        pytest.param(10**5000, None, id="5,000 digits"),
        (True, None),
        (None, None),
        (["a"], None),
        ({"a": 1}, None),
    ],
)
def test_text_is_a_string_or_a_number_as_one(value: Any, text: str | None) -> None:
    """Ids come as either; lone surrogates, which nothing can store, are replaced."""
    assert wire.text({"key": value}, "key") == text
    assert wire.text({}, "key") is None
    assert wire.strings([value, "x"]) == ([text, "x"] if text else ["x"])


@pytest.mark.parametrize("raw", [None, [], "key", 5])
def test_a_reader_of_something_that_is_no_object_finds_nothing(raw: Any) -> None:
    """Any JSON may stand where an object is expected."""
    readers = (wire.text, wire.flag, wire.number, wire.from_epoch, wire.from_iso)

    assert [reader(raw, "key") for reader in readers] == [None] * 5
    assert wire.as_object(raw) == {}
    assert wire.as_list({}) == []
    assert wire.as_list([5]) == [5]


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("false", False),
        *((other, None) for other in (None, 1, 0, "", "yes", "True", [5])),
    ],
)
def test_a_flag_is_a_boolean_or_its_form_encoded_spelling(value: Any, flag: bool | None) -> None:
    """Anything else says nothing."""
    assert wire.flag({"key": value}, "key") is flag


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5.0),
        (2.5, 2.5),
        ("2.5", 2.5),
        ("-1e3", -1000.0),
        (True, None),
        (None, None),
        ("", None),
        ("x", None),
        ("nan", None),
        ("inf", None),
        (math.inf, None),
        (math.nan, None),
        (HUGE_NUMBER, None),
        (HUGE_TEXT, None),
        ([5], None),
    ],
)
def test_a_number_is_finite(value: Any, number: float | None) -> None:
    """Infinity and NaN, which Python's JSON lets through, are none."""
    assert wire.number({"key": value}, "key") == number


@pytest.mark.parametrize(
    ("value", "integer"),
    [
        (5, 5),
        (-5, -5),
        ("5", 5),
        ("-5", -5),
        (True, None),
        (5.5, None),
        ("5.5", None),
        ("", None),
        ("1_000", None),
        (" 5", None),
        ("\uff15", None),
        ("\u0665", None),
        (HUGE_TEXT, None),
        (None, None),
        ([5], None),
    ],
)
def test_an_integer_is_written_in_ascii_digits(value: Any, integer: int | None) -> None:
    """int() also takes underscores, spaces and the digits of every script."""
    assert wire.integer(value) == integer


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (0, datetime(1970, 1, 1, tzinfo=timezone.utc)),
        (1_900_000_000.25, datetime(2030, 3, 17, 17, 46, 40, 250_000, timezone.utc)),
        ("1900000000.25", datetime(2030, 3, 17, 17, 46, 40, 250_000, timezone.utc)),
        *((other, None) for other in (1e18, -1e18, math.inf, math.nan, HUGE_NUMBER, HUGE_TEXT)),
        *((other, None) for other in (True, None, "", "now", [0])),
    ],
)
def test_seconds_since_1970_become_an_aware_time(value: Any, moment: datetime | None) -> None:
    """With their fraction; what is out of range is None."""
    found = wire.from_epoch({"key": value}, "key")

    assert found == moment
    assert found is None or found.tzinfo is timezone.utc


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02 03:04:05 Z", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02t03:04:05z", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05.1Z", "2030-01-02T03:04:05.100000+00:00"),
        ("2030-01-02T03:04:05.123456789Z", "2030-01-02T03:04:05.123456+00:00"),
        ("2030-01-02T03:04:05.1234567-05:00", "2030-01-02T03:04:05.123456-05:00"),
        ("2030-01-02T03:04:05.0000000+00:00", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05,5+0530", "2030-01-02T03:04:05.500000+05:30"),
        ("2030-01-02T03:04:05-05:00", "2030-01-02T03:04:05-05:00"),
        ("2030-01-02T03:04:05." + "1" * 10_000, "2030-01-02T03:04:05.111111+00:00"),
    ],
)
def test_an_iso_time_is_read_with_any_fraction_and_offset(value: str, iso: str) -> None:
    """The same on every version of Python; without an offset it is UTC."""
    moment = wire.from_iso({"key": value}, "key")

    assert moment is not None
    assert moment.isoformat() == iso


@pytest.mark.parametrize(
    "value",
    [
        *["", "Z", ".", ".5", "2030-01-02", "2030-13-02T03:04:05Z", "2030-01-02T25:04:05Z"],
        *["2030-01-02T03:04:05+99:99", "2030-01-02T03:04:05.Z", "2030-01-02T03:04:05X"],
        *["0000-01-02T03:04:05Z", "\uff12030-01-02T03:04:05Z", "2030-01-02T03:04:05Z\n"],
        *["+2030-01-02T03:04:05Z", "20300102T030405Z", "2030-W01-1", HUGE_TEXT, "\ud800"],
        *[None, 5, True, [], {}],
    ],
    ids=ascii,
)
def test_what_is_no_iso_time_is_none(value: Any) -> None:
    """Python's own reader differs from version to version in what it lets through."""
    assert wire.from_iso({"key": value}, "key") is None


@given(hostile_values)
def test_the_readers_are_total(value: Any) -> None:
    """For any JSON there is a value, and no exception."""
    raw = {"key": value}
    found = [
        wire.from_epoch(raw, "key"),
        wire.from_iso(raw, "key"),
        wire.number(raw, "key"),
        wire.flag(raw, "key"),
        wire.integer(value),
        wire.as_object(value),
        wire.as_list(value),
        wire.from_iso(value, "key"),
    ]
    text = wire.text(raw, "key")

    assert text is None or text.encode("utf-8")
    assert all(item.tzinfo for item in found if isinstance(item, datetime))


@given(st.binary() | st.text())
def test_any_body_is_json_or_none(body: bytes | str) -> None:
    """No other exception leaves the decoder."""
    wire.parse_json(body)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=%C3%A9+x&a=2&c=", {"a": ["1", "2"], "b": ["\u00e9 x"], "c": [""]}),
        (b"a=%FF", {"a": ["\ufffd"]}),
        (b"\xff=1", {"\ufffd": ["1"]}),
        (b"", {}),
        (b"&".join([b"a=1"] * 10_001), {}),
    ],
)
def test_a_form_is_read_field_by_field(body: bytes, fields: dict[str, list[str]]) -> None:
    """More fields than any ESP sends are none."""
    assert wire.parse_form(body) == fields


# --- authentication --------------------------------------------------------------------

ACCEPTED = (b"user:new:pass", "user:p\u00e4ss".encode())


def basic(credentials: bytes, scheme: str = "Basic") -> str:
    """Return an Authorization header (RFC 7617)."""
    return f"{scheme} {base64.b64encode(credentials).decode()}"


@pytest.mark.parametrize(
    "header",
    [
        basic(b"user:new:pass"),
        basic("user:p\u00e4ss".encode()),
        basic(b"user:new:pass", "BASIC"),
        basic(b"user:new:pass", "basic"),
        basic(b"user:new:pass", "Basic "),
    ],
)
def test_any_of_the_accepted_credentials_opens(header: str) -> None:
    """Old and new during a rotation; the scheme's case is free."""
    verify_basic(header, ACCEPTED)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic dXNlcjp",
        "Basic \u00e9\u00e9\u00e9\u00e9",
        "B\u00e4sic " + basic(ACCEPTED[0]).partition(" ")[2],
        basic(ACCEPTED[0], "Bearer"),
        basic(ACCEPTED[0], ""),
        basic(ACCEPTED[0]) + "=",
        basic(ACCEPTED[0])[:-4],
        basic(b""),
        basic(b":"),
        basic(b"user:"),
        basic(b"user:new:pas"),
        basic(b"user:new:pass "),
        basic(b"USER:new:pass"),
        basic("user:p\u00e4ss".encode("latin-1")),
        basic(b"\xff\xfe"),
        "\ud800",
    ],
    ids=ascii,
)
def test_anything_else_is_rejected(header: str | None) -> None:
    """Whether missing, malformed or wrong: the same class, no other exception, no quote."""
    with pytest.raises(WebhookRejected) as caught:
        verify_basic(header, ACCEPTED)

    assert "pass" not in str(caught.value)


def test_without_accepted_credentials_nothing_opens() -> None:
    """An empty tuple is no open door."""
    with pytest.raises(WebhookRejected):
        verify_basic(basic(b""), ())


@given(st.text())
def test_no_header_raises_anything_but_a_rejection(header: str) -> None:
    """Headers are whatever a stranger sends."""
    for value in (header, f"Basic {header}"):
        with pytest.raises(WebhookRejected):
            verify_basic(value, ACCEPTED)


@pytest.mark.parametrize(
    "value", ["a", "YQ=", "YQ", "Y Q==", "YQ==\n", "YQ==YQ==", "-_==", "\u00e9"]
)
def test_base64_is_strict(value: str) -> None:
    """A lenient decoder lets many texts stand for one signature."""
    with pytest.raises(WebhookRejected):
        wire.decode_base64(value)
    assert wire.decode_base64("YQ==") == b"a"


# --- writing ---------------------------------------------------------------------------


def dumped(value: Any) -> bytes:
    """Return what the standard library writes."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=in_full
    ).encode()


def in_full(value: Any) -> Any:
    """Return what `Base64` data and other mappings stand for."""
    if isinstance(value, Base64):
        return base64.b64encode(value.data).decode()
    return dict(value)


@given(json_values)
def test_a_body_is_what_json_dumps_writes(payload: Any) -> None:
    """As UTF-8, without spaces."""
    assert json_body(payload) == dumped(payload)


@given(json_values, st.lists(st.integers(0, 3), min_size=1))
def test_a_body_with_data_is_what_json_dumps_writes(payload: Any, sizes: list[int]) -> None:
    """Data small enough to stand in the text, and data that is spliced in, in any mixture."""
    data = [Base64(bytes([size]) * (size * 40 * 1024 + size)) for size in sizes]
    whole = {"payload": payload, "data": data, "more": MappingProxyType({"data": data[0]})}
    body = json_body(whole)

    assert bytes(body) == dumped(whole)
    assert len(body) == len(bytes(body))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 48 * 1024, 48 * 1024 + 1, 58368, 58369, 200_000])
def test_data_of_any_size_is_base64(size: int) -> None:
    """Pieces join without padding between them."""
    data = Base64(bytes(index % 251 for index in range(size)))
    body = json_body([data])

    assert bytes(body) == b'["' + base64.b64encode(data.data) + b'"]'
    assert len(data) == len(base64.b64encode(data.data)) == len(b"".join(data))


def test_a_large_body_has_a_length_and_can_be_sent_again() -> None:
    """It is written anew on each iteration, in pieces that are worth a system call."""
    body = json_body({"a": Base64(bytes(200_000)), "b": Base64(bytearray(100_000)), "c": 1})

    assert isinstance(body, Pieces)
    assert isinstance(body, Body)
    pieces = list(body)
    assert pieces == list(body)
    assert sum(map(len, pieces)) == len(body)
    assert all(pieces)
    assert json.loads(b"".join(pieces))["c"] == 1


def test_no_text_in_a_message_can_be_taken_for_data() -> None:
    """The place of the data is marked with a token that nobody can guess or repeat."""
    first = json_body({"a": Base64(bytes(100_000)), "text": "x"})
    again = json_body({"a": Base64(bytes(100_000)), "text": str(bytes(first)[:200])})

    assert wire._Splicer().token != wire._Splicer().token
    assert json.loads(bytes(again))["text"] == str(bytes(first)[:200])


def test_a_body_of_20_mb_is_never_held_twice() -> None:
    """Encoding takes a piece at a time; the whole base64 would be 27 MB."""
    payload = {"Attachments": [{"Content": Base64(bytes(20_000_000))}]}
    tracemalloc.start()
    try:
        body = json_body(payload)
        assert isinstance(body, Pieces)
        length = sum(map(len, body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert length > 26_666_666
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "bodies",
    [
        [],
        [b"1"],
        [b"1", b"2"],
        [json_body([Base64(bytes(100_000))]), b"2"],
        [b"1", json_body([Base64(bytes(100_000))]), json_body([Base64(bytes(60_000))])],
    ],
)
def test_bodies_are_joined_to_an_array(bodies: list[bytes | Pieces]) -> None:
    """Batches are made of messages that have been encoded before."""
    whole = joined(bodies, b'{"Messages":[', b"]}")

    assert bytes(whole) == b'{"Messages":[' + b",".join(map(bytes, bodies)) + b"]}"
    assert len(whole) == len(bytes(whole))
    assert b"" not in list(whole)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"a": {1, 2}}, "set cannot be sent"),
        ({"a": datetime(2030, 1, 1, tzinfo=timezone.utc)}, "datetime cannot be sent"),
        ({"a": b"bytes"}, "bytes cannot be sent"),
        ({("a", 1): 1}, "tuple"),
        ({"a": math.nan}, "JSON compliant"),
        ({"a": math.inf}, "JSON compliant"),
        ({"a": "x\ud800"}, "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({"a": 10**5000}, "digits"),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"data": Base64(bytes(100_000))}])
def test_what_json_cannot_carry_is_a_serialization_error(
    payload: dict[Any, Any], reason: str, extra: dict[Any, Any]
) -> None:
    """With the type and the way out, not the value."""
    with pytest.raises(SerializationError, match=reason) as caught:
        json_body(payload | extra)

    assert "Convert such values" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_value_that_contains_itself_is_a_serialization_error() -> None:
    """As is one that nests a hundred thousand deep."""
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    for payload in (circle, deep, [circle, Base64(bytes(100_000))]):
        with pytest.raises(SerializationError):
            json_body(payload)
    while deep:
        deep = deep.pop()  # level by level: freeing it at once would recurse as deep


def test_reprs_do_not_show_the_data() -> None:
    """Attachments are other people's."""
    assert repr(Base64(b"secret")) == "<Base64 of 6 bytes>"


@pytest.mark.parametrize(
    ("content_type", "charset", "expected"),
    [
        ("text/plain", "latin-1", "text/plain; charset=latin-1"),
        ("TEXT/CSV; header=present", "utf-8", "TEXT/CSV; header=present; charset=utf-8"),
        ("text/plain; Charset = ascii", "utf-8", "text/plain; Charset = ascii"),
        ("text/plain; name=charset.txt", "utf-8", "text/plain; name=charset.txt; charset=utf-8"),
        ("text/plain", None, "text/plain"),
        ("application/pdf", "utf-8", "application/pdf"),
    ],
)
def test_a_text_tells_its_charset(content_type: str, charset: str | None, expected: str) -> None:
    """Once, and only a text does."""
    assert wire.with_charset(content_type, charset) == expected
