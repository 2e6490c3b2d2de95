"""Forms: what is read from a webhook's raw bytes, byte for byte, and what is written."""

from __future__ import annotations

import io
import pickle
import time
import tracemalloc
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart
from werkzeug.wrappers import Request

from flask_mailesp import forms
from flask_mailesp.esp import Body, WebhookRequest
from flask_mailesp.exceptions import InvalidHeaderError, SerializationError
from flask_mailesp.forms import (
    MULTIPART,
    URLENCODED,
    FilePart,
    Form,
    FormFile,
    form_body,
    multipart_body,
    read_form,
)
from flask_mailesp.inbound import InboundAttachment

MB = 1024 * 1024
EIGHT_BIT = (
    "From: Zoë <zoe@example.com>\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode("latin-1")
    + bytes(range(256)) * 40
    + b"\r\n--cut\n\r--\r\n\r\n100% + 1 & 1 = 2; %41\r\n"
)


def read(content_type: str, body: bytes) -> Form:
    """Read a body as a webhook's form."""
    return read_form(WebhookRequest({"Content-Type": content_type}, body))


def read_parts(text: str | bytes, boundary: str = "cut") -> Form:
    """Read a multipart body whose lines end in LF here and in CRLF when it is read."""
    data = text.encode() if isinstance(text, str) else text
    return read(f"{MULTIPART}; boundary={boundary}", data.replace(b"\n", b"\r\n"))


def one_part(headers: str | bytes, data: bytes = b"x") -> Form:
    """Read a form of one part."""
    head = headers.encode() if isinstance(headers, str) else headers
    body = b"--cut\r\n%b\r\n\r\n%b\r\n--cut--\r\n" % (head, data)
    return read(f"{MULTIPART}; boundary=cut", body)


def contents(form: Form) -> list[tuple[str, str, str, bytes]]:
    """Return the files' name, file name, content type and data."""
    return [(file.name, file.filename, file.content_type, bytes(file.data)) for file in form.files]


# --- values ----------------------------------------------------------------------------


SAMPLE = """\
--cut
Content-Disposition: form-data; name="subject"

Grüße
--cut
Content-Disposition: form-data; name="to"

bea@example.com
--cut
Content-Disposition: form-data; name="attachment-1"; filename="menu.pdf"
Content-Type: application/pdf; x=1

%PDF
--cut
Content-Disposition: form-data; name="to"

carl@example.net
--cut
Content-Disposition: form-data; name="empty"


--cut--
"""


def test_fields_and_files_come_in_order() -> None:
    """Repeated names included."""
    form = read_parts(SAMPLE)

    assert form.fields == [
        ("subject", "Grüße".encode()),
        ("to", b"bea@example.com"),
        ("to", b"carl@example.net"),
        ("empty", b""),
    ]
    assert contents(form) == [
        ("attachment-1", "menu.pdf", "application/pdf; x=1", b"%PDF"),
    ]
    assert form.defects == []


def test_values_are_looked_up_by_name() -> None:
    """As text or as bytes; the first of several."""
    form = read_parts(SAMPLE)

    assert form.text("subject") == "Grüße"
    assert form.data("subject") == "Grüße".encode()
    assert form.text("to") == "bea@example.com"
    assert form.values("to") == ["bea@example.com", "carl@example.net"]
    file = form.file("attachment-1")
    assert file is not None
    assert file.filename == "menu.pdf"


def test_what_is_missing_is_none() -> None:
    """Empty text is no text, but an empty value is bytes."""
    form = read_parts(SAMPLE)

    assert form.text("other") is None
    assert form.data("other") is None
    assert form.file("other") is None
    assert form.values("other") == []
    assert form.text("empty") is None
    assert form.data("empty") == b""


def test_only_one_value_can_be_trusted() -> None:
    """Readers differ in which of two values they take: one of them may not be the signed one."""
    form = read_parts(SAMPLE)

    assert form.only("subject") == "Grüße"
    assert form.only("to") is None
    assert form.only("other") is None


def test_text_that_is_not_utf_8_is_replaced() -> None:
    """Its bytes are still there."""
    form = read(URLENCODED, b"a=caf%E9")

    assert form.text("a") == "caf\ufffd"
    assert form.data("a") == b"caf\xe9"


def test_a_form_shows_counts_only() -> None:
    """Neither a name nor a value, which may hold an address."""
    form = read_parts(SAMPLE)

    assert repr(form) == "<Form: 4 fields, 1 files>"
    assert "menu" not in repr(form.files)
    assert "PDF" not in repr(form.files)


def test_the_digest_is_of_the_content() -> None:
    """Not of the boundary, which a retry may choose anew."""
    again = read_parts(SAMPLE.replace("--cut", "--other"), "other")

    assert read_parts(SAMPLE).digest() == again.digest()


def test_the_order_of_names_does_not_matter_to_the_digest() -> None:
    """Whoever posts a form again may write it in another order: that is the same form."""
    one, other = (read(URLENCODED, body) for body in (b"a=1&b=2&a=3", b"b=2&a=1&a=3"))

    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"a=1&b=2", b"a=1b&=2"),
        (b"a=1&a=2", b"a=2&a=1"),
        (b"a=1", b"a=1&a=1"),
        (b"a=", b"a=&="),
        (b"ab=c", b"a=bc"),
    ],
)
def test_the_digest_tells_forms_apart(one: bytes, other: bytes) -> None:
    """However their bytes run together."""
    assert read(URLENCODED, one).digest() != read(URLENCODED, other).digest()


def test_the_digest_tells_a_file_from_a_field() -> None:
    """And covers its names, its type and its data."""
    disposition = 'Content-Disposition: form-data; name="a"'
    digests = {
        one_part(disposition).digest(),
        one_part(f'{disposition}; filename=""').digest(),
        one_part(f'{disposition}; filename="b"').digest(),
        one_part(f'{disposition}; filename="b"\r\nContent-Type: text/plain').digest(),
        one_part(f'{disposition}; filename="b"', b"y").digest(),
    }

    assert len(digests) == 5


def test_the_digest_can_do_without_some_fields() -> None:
    """Those that are signed anew with each repetition."""
    one, other = read(URLENCODED, b"a=1&token=2"), read(URLENCODED, b"token=3&a=1")

    assert one.digest(without=("token",)) == other.digest(without=("token",))
    assert one.digest(without=("a",)) != other.digest(without=("a",))


def test_the_sizes_of_files_can_stand_for_them() -> None:
    """Telling mails apart need not cost as much as proving that they are the same."""
    disposition = 'Content-Disposition: form-data; name="a"; filename="b"'
    x, y, more = (one_part(disposition, data) for data in (b"x", b"y", b"xy"))

    assert x.digest(whole_files=False) == y.digest(whole_files=False)
    assert x.digest(whole_files=False) != more.digest(whole_files=False)
    assert x.digest() != y.digest()


# --- which form it is ------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "multipart/mixed"])
def test_other_content_types_are_empty_forms(content_type: str) -> None:
    """With a defect that says so."""
    form = read(content_type, b"a=1")

    assert form.fields == []
    assert form.defects == ["the content type is not that of a form"]


def test_a_request_without_a_content_type_is_an_empty_form() -> None:
    """Nothing is guessed from the body."""
    form = read_form(WebhookRequest({}, b"a=1"))

    assert form.fields == []
    assert form.files == []


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=cut",
        'multipart/form-data; boundary="cut"',
        "Multipart/Form-Data ;charset=utf-8 ; BOUNDARY = cut ",
        "multipart/form-data; boundary=cut; boundary=other",
    ],
)
def test_the_boundary_is_in_the_content_type(content_type: str) -> None:
    """Quoted or not, in any case."""
    body = b'--cut\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--cut--'

    assert read(content_type, body).fields == [("a", b"1")]


@pytest.mark.parametrize(
    "parameter",
    [
        "",
        "; boundary",
        "; boundary=",
        '; boundary=""',
        "; boundary=" + "b" * 201,
        '; boundary="\n"',
    ],
)
def test_without_a_usable_boundary_nothing_is_read(parameter: str) -> None:
    """And that is said."""
    form = read(MULTIPART + parameter, b"--\r\n\r\n\r\n----")

    assert form.fields == []
    assert form.defects == ["the boundary is missing or nonsense"]


def test_a_request_is_read_once() -> None:
    """Verifying, remembering and parsing it all ask for its form."""
    request = WebhookRequest({"Content-Type": URLENCODED}, b"a=%41")

    assert read_form(request) is read_form(request)
    assert read_form(request).data("a") is read_form(request).data("a")
    assert request == WebhookRequest(request.headers, request.body)
    assert "form" not in repr(request)


# --- urlencoded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", []),
        (b"a=1&b=2", [("a", b"1"), ("b", b"2")]),
        (b"a=1&a=2", [("a", b"1"), ("a", b"2")]),
        (b"a", [("a", b"")]),
        (b"a=", [("a", b"")]),
        (b"=1", [("", b"1")]),
        (b"=", [("", b"")]),
        (b"&&a=1&&", [("a", b"1")]),
        (b"a=1=2", [("a", b"1=2")]),
        (b"a=1;b=2", [("a", b"1;b=2")]),
        (b"a+b=c+d", [("a b", b"c d")]),
        (b"a=%2B%26%3D%25", [("a", b"+&=%")]),
        (b"%61%3D=%e2%82%AC", [("a=", "€".encode())]),
        (b"%E9=1", [("é", b"1")]),
        (b"a=%0D%0A%00", [("a", b"\r\n\0")]),
        (b"a=\r\n", [("a", b"\r\n")]),
        (b"a=caf\xe9", [("a", b"caf\xe9")]),
        (b"a=%", [("a", b"%")]),
        (b"a=%4", [("a", b"%4")]),
        (b"a=%zz%4z%%41", [("a", b"%zz%4z%A")]),
        (b"a==41=\r\n==", [("a", b"=41=\r\n==")]),
        (b"a=_", [("a", b"_")]),
    ],
)
def test_urlencoded_bytes_are_decoded_once(body: bytes, fields: list[tuple[str, bytes]]) -> None:
    """As browsers do it: what is no escape stands for itself."""
    form = read(f"{URLENCODED}; charset=utf-8", body)

    assert form.fields == fields
    assert form.defects == []


@pytest.mark.parametrize("before", range(65530, 65540))
def test_escapes_are_not_cut(before: int) -> None:
    """Wherever in a long value they stand."""
    body = b"a=" + b"x" * before + b"%41%2" + b"y" * 70000

    assert read(URLENCODED, body).data("a") == b"x" * before + b"A%2" + b"y" * 70000


def test_too_many_fields_are_left_out() -> None:
    """And that is said; empty ones count."""
    form = read(URLENCODED, b"&".join([b"a=1"] * (forms.MAX_FIELDS + 1)))
    empty = read(URLENCODED, b"&" * MB)

    assert len(form.fields) == forms.MAX_FIELDS
    assert form.defects == ["there are too many fields: the rest was left out"]
    assert empty.fields == []
    assert empty.defects == form.defects


def test_as_many_fields_as_allowed_are_no_defect() -> None:
    """The limit itself is within it."""
    form = read(URLENCODED, b"&".join([b"a=1"] * forms.MAX_FIELDS))

    assert len(form.fields) == forms.MAX_FIELDS
    assert form.defects == []


def test_too_many_broken_escapes_stay_as_they_are() -> None:
    """What is decoded before them is not lost."""
    body = b"a=%41" + b"%" * 300_000 + b"%41"
    form = read(URLENCODED, body)

    assert form.data("a") == b"A" + b"%" * 300_000 + b"%41"
    assert form.defects == ["too many escapes are broken: the rest was left as it is"]


@given(st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), max_size=6))
def test_whatever_bytes_are_urlencoded_come_back(pairs: list[tuple[bytes, bytes]]) -> None:
    """As the standard library writes them."""
    form = read(URLENCODED, urlencode(pairs).encode())

    assert [value for _, value in form.fields] == [value for _, value in pairs]


@given(st.lists(st.sampled_from([b"a", b"=", b"&", b"%", b"4", b"1", b"+", b"\n"])))
def test_urlencoded_forms_read_as_the_standard_library_reads_them(pieces: list[bytes]) -> None:
    """Malformed ones included."""
    body = b"".join(pieces)
    theirs = parse_qsl(body.decode(), keep_blank_values=True, encoding="latin-1")

    ours = [value for _, value in read(URLENCODED, body).fields]
    assert ours == [value.encode("latin-1") for _, value in theirs]


# --- multipart: boundaries -------------------------------------------------------------


FIELD = 'Content-Disposition: form-data; name="a"\n\n'


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (f"--cut\n{FIELD}1\n--cut--\n", [b"1"]),
        (f"--cut\n{FIELD}1\n--cut--", [b"1"]),
        (f"--cut\n{FIELD}1\n--cut--  \nan epilogue\n--cut\n{FIELD}2\n--cut--\n", [b"1"]),
        (f"a preamble\n--cut\n{FIELD}1\n--cut--\n", [b"1"]),
        (f"\n--cut\n{FIELD}1\n--cut--\n", [b"1"]),
        (f"--cutter\n--cut\n{FIELD}1\n--cut--\n", [b"1"]),
        (f"--cut \t\n{FIELD}1\n--cut  \n{FIELD}2\n--cut--\n", [b"1", b"2"]),
        (f"--cut\n{FIELD}\n--cut--\n", [b""]),
        (f"--cut\n{FIELD}\n\n--cut--\n", [b"\r\n"]),
        (f"--cut\n{FIELD}--cut--\n", [b""]),
        (f"--cut\n{FIELD}1\n--cutter\n--cut--\n", [b"1\r\n--cutter"]),
        (f"--cut\n{FIELD}1\n-- cut\n --cut\n--cut --\n--cut--x\n--cut--\n", None),
        (f"--cut\n{FIELD}x--cut--\n--cut--\n", [b"x--cut--"]),
        (f"--cut\n{FIELD}1\n----cut\n--cut--\n", [b"1\r\n----cut"]),
    ],
)
def test_parts_are_between_delimiter_lines(body: str, values: list[bytes] | None) -> None:
    """RFC 2046 5.1.1; a line that only begins or ends like a delimiter is content."""
    form = read_parts(body)

    expected = values or [b"1\r\n-- cut\r\n --cut\r\n--cut --\r\n--cut--x"]
    assert [value for _, value in form.fields] == expected
    assert form.defects == []


def test_lines_may_end_in_line_feeds_only() -> None:
    """All of them: then a CRLF is content."""
    body = SAMPLE.replace("Grüße", "a\r\nb\r").encode()
    form = read("multipart/form-data; boundary=cut", body)

    assert form.data("subject") == b"a\r\nb\r"
    assert len(form.fields) == 4
    assert form.defects == []


def test_where_lines_end_in_crlf_a_line_feed_is_content() -> None:
    """Also before what looks like a delimiter."""
    body = b"--cut\r\n" + FIELD.replace("\n", "\r\n").encode() + b"1\n--cut\n2\r\n--cut--"

    assert read("multipart/form-data; boundary=cut", body).data("a") == b"1\n--cut\n2"


@pytest.mark.parametrize("tail", ["", "\n", "\n--cu", "\n--cut-"])
def test_a_form_without_an_end_is_read_as_far_as_it_goes(tail: str) -> None:
    """Its last value may be cut, and that is said."""
    form = read_parts(f"--cut\n{FIELD}1\n--cut\n{FIELD}2{tail}")

    assert form.data("a") == b"1"
    assert form.fields[1][1].startswith(b"2")
    assert form.defects == ["the form has no end"]


@pytest.mark.parametrize("body", ["", "--cut", "--cut--x", "a=1", "--cu", "--other\n--other--"])
def test_a_body_without_a_delimiter_has_no_parts(body: str) -> None:
    """Nothing is made of it."""
    form = read_parts(body)

    assert form.fields == []
    assert form.files == []
    assert form.defects


def test_a_closing_delimiter_alone_is_an_empty_form() -> None:
    """As writers end a form without fields."""
    form = read_parts("--cut--\n")

    assert form.fields == []
    assert form.defects == []


def test_the_boundary_is_no_pattern() -> None:
    """Its characters stand for themselves."""
    body = f"--.*[\n{FIELD}1\n--abc\n\n--.*[--\n"

    assert read_parts(body, ".*[").data("a") == b"1\r\n--abc\r\n"


def test_too_many_parts_are_left_out() -> None:
    """Fields and files together."""
    form = read_parts(f"--cut\n{FIELD}1\n" * (forms.MAX_PARTS + 1) + "--cut--")

    assert len(form.fields) == forms.MAX_PARTS
    assert form.defects == ["there are too many parts: the rest was left out"]


def test_too_many_lookalikes_are_not_searched() -> None:
    """What follows them belongs to the same value."""
    body = f"--cut\n{FIELD}" + "\n--cutter" * forms.MAX_LOOKALIKES + f"\n--cut\n{FIELD}2\n--cut--"
    form = read_parts(body)

    assert len(form.fields) == 1
    assert "too many lines look like a boundary: the rest was not split" in form.defects


# --- multipart: headers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "name", "filename"),
    [
        ('name="a"; filename="b.txt"', "a", "b.txt"),
        ("name=a; filename=b.txt", "a", "b.txt"),
        ("NAME = a ;FileName = b.txt ", "a", "b.txt"),
        ('filename="b.txt"; name="a"', "a", "b.txt"),
        ('name="a"; filename=""', "a", ""),
        ('name="a"; filename="naïve €.txt"', "a", "naïve €.txt"),
        ('name="a"; filename="a; b=\'c\'.txt"', "a", "a; b='c'.txt"),
        ('name="a"; filename="say %22hi%22%0D%0A.txt"', "a", 'say "hi"\r\n.txt'),
        ('name="a"; filename="say \\"hi\\".txt"', "a", 'say "hi".txt'),
        ('name="a"; filename="say "hi".txt"', "a", 'say "hi".txt'),
        ('name="a"; filename="C:\\dir\\b.txt"', "a", "C:\\dir\\b.txt"),
        ('name="a\\"; filename="b\\"', "a\\", "b\\"),
        ('name="a"; filename="../../etc/passwd"', "a", "../../etc/passwd"),
        ('name="a"; filename="unclosed', "a", "unclosed"),
        ('name="a"; filename="50%25.txt"', "a", "50%25.txt"),
        ("name=a; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt", "a", "naïve €.txt"),
        ("name=a; filename*=utf-8'en'b.txt; filename=other", "a", "b.txt"),
        ("name=a; filename=other; filename*=iso-8859-1''caf%E9", "a", "café"),
        ("name=a; filename*=utf-8''caf%E9", "a", "café"),
        ("name=a; filename*=nonsense", "a", "nonsense"),
        ("name=a; filename*=nonsense; filename=b.txt", "a", "b.txt"),
        ("name=a; name=b; filename=c; filename=d", "a", "c"),
    ],
)
def test_a_part_with_a_file_name_is_a_file(parameters: str, name: str, filename: str) -> None:
    """RFC 7578 4.2, as browsers and as others write it; names come as they were sent."""
    form = one_part(f"Content-Disposition: form-data; {parameters}")

    assert contents(form) == [(name, filename, "", b"x")]
    assert form.fields == []
    assert form.defects == []


def test_a_file_name_in_latin_1_is_read() -> None:
    """Where it is not UTF-8."""
    form = one_part(b'Content-Disposition: form-data; name="\xe9"; filename="caf\xe9"')

    assert contents(form) == [("é", "café", "", b"x")]


@pytest.mark.parametrize(
    "headers",
    [
        'content-disposition: form-data; name="a"; filename="b"\r\ncontent-type: text/plain',
        'CONTENT-TYPE:text/plain \r\nContent-Disposition : form-data; name="a"; filename="b"',
        'X: y\r\nContent-Disposition: form-data;\r\n name="a";\r\n\tfilename="b"\r\n'
        "Content-Type:\r\n text/plain",
        'Content-Disposition: form-data; name="a"; filename="b"\r\nContent-Type: text/plain\r\n'
        "Content-Disposition: form-data; name=c\r\nContent-Type: text/html",
    ],
)
def test_headers_are_read_however_they_are_written(headers: str) -> None:
    """In any case, order and folding; the first of a name counts."""
    assert contents(one_part(headers)) == [("a", "b", "text/plain", b"x")]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_transfer_encoding_is_not_undone(encoding: str) -> None:
    """RFC 7578 4.7 deprecates them; whatever the header says, bytes are as they came."""
    form = one_part(f"Content-Transfer-Encoding: {encoding}\r\n{FIELD.strip()}", b"PT0=")

    assert form.data("a") == b"PT0="


@pytest.mark.parametrize(
    "headers", ["", "X: y", "Content-Disposition: form-data", "Content-Type: text/plain"]
)
def test_a_part_without_a_name_is_kept(headers: str) -> None:
    """Nothing that arrived is lost."""
    form = one_part(headers) if headers else read_parts("--cut\n\nx\n--cut--")

    assert form.fields == [("", b"x")]
    assert form.defects == ["a part has no name"]


@pytest.mark.parametrize("length", [0, 70_000])
def test_a_part_whose_headers_have_no_end_is_left_out(length: int) -> None:
    """Or end beyond the limit; the other parts are read."""
    header = f"X: {'y' * length}" + ("\n\nx" if length else "")
    form = read_parts(f"--cut\n{header}\n--cut\n{FIELD}1\n--cut--")

    assert form.fields == [("a", b"1")]
    assert form.defects == ["a part has no end of its headers, or too long ones: left out"]


def test_all_headers_have_a_limit_together() -> None:
    """No sender needs a megabyte of them."""
    part = f"--cut\nX: {'y' * 60_000}\n{FIELD}1\n"
    form = read_parts(part * 40 + "--cut--")

    assert 10 < len(form.fields) < 20
    assert form.defects[-1] == "there are too many parts: the rest was left out"


# --- bytes -----------------------------------------------------------------------------


def test_urlencoded_mail_survives_byte_for_byte() -> None:
    """8-bit characters, bare line ends and percent signs included."""
    form = read(URLENCODED, urlencode({"email": EIGHT_BIT, "to": "x"}).encode())

    assert sha256(form.data("email") or b"").digest() == sha256(EIGHT_BIT).digest()


def test_mail_in_a_multipart_field_survives_byte_for_byte() -> None:
    """Also where it has delimiters of its own."""
    form = one_part(FIELD.strip(), EIGHT_BIT)

    assert sha256(form.data("a") or b"").digest() == sha256(EIGHT_BIT).digest()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 3 * MB])
def test_files_survive_byte_for_byte(size: int) -> None:
    """Of whatever size."""
    data = (EIGHT_BIT * (size // len(EIGHT_BIT) + 1))[:size]
    form = one_part('Content-Disposition: form-data; name="a"; filename="b"', data)

    assert bytes(form.files[0].data) == data


def test_large_files_are_not_copied() -> None:
    """They are views of the request's body."""
    data = bytes(5 * MB)
    body = b'--cut\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n%b\r\n--cut--'
    request = WebhookRequest({"Content-Type": f"{MULTIPART}; boundary=cut"}, body % data)
    read_form(request)
    tracemalloc.start()
    form = read_form(request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < MB / 4
    assert len(form.files[0].data) == len(data)


def test_an_attachment_of_a_view_can_be_pickled() -> None:
    """With its own bytes only."""
    data = EIGHT_BIT * 10
    view = memoryview(b"before" + data + bytes(MB))[6 : 6 + len(data)]
    attachment = InboundAttachment.from_bytes(view, filename="a.bin")

    pickled = pickle.dumps(attachment)
    assert len(pickled) < len(data) + 1000
    assert pickle.loads(pickled).data == attachment.data == data


# --- any bytes -------------------------------------------------------------------------


PIECES = st.sampled_from(
    [
        b"--cut",
        b"--",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"Content-Disposition: form-data",
        b"Content-Type: ",
        b'; name="a"',
        b"; filename=",
        b"; filename*=utf-8''%e9",
        b'"',
        b"\\",
        b";",
        b"=",
        b"&",
        b"%",
        b"%4",
        b"\xe9",
    ]
)
BODIES = st.binary(max_size=200) | st.lists(PIECES, max_size=40).map(b"".join)


def looked_at(form: Form) -> list[Any]:
    """Return everything a form can be asked for."""
    names = [name for name, _ in form.fields] + [file.name for file in form.files]
    looks = (form.text, form.data, form.values, form.only, form.file)
    return [repr(form), form.digest(), *(look(name) for name in names for look in looks)]


@given(BODIES, st.text(max_size=20))
@example(b"--cut\r\n--cut\r\n--cut--", "")
def test_no_body_raises(body: bytes, content_type: str) -> None:
    """Of no form, nor with any content type."""
    boundary = f"{MULTIPART}; boundary"
    for given_type in (f"{boundary}=cut", f"{boundary}={content_type}", URLENCODED, content_type):
        assert looked_at(read(given_type, body))


@given(BODIES)
def test_what_is_read_is_in_the_body(body: bytes) -> None:
    """A multipart form's values and files, and no byte of them twice."""
    form = read(f"{MULTIPART}; boundary=cut", body)

    found = [value for _, value in form.fields] + [bytes(file.data) for file in form.files]
    assert all(value in body for value in found)
    assert sum(map(len, found)) <= len(body)


def hostile(boundary: str, body: bytes) -> tuple[str, bytes]:
    """Return a body that was made to be slow, with its content type."""
    return f"{MULTIPART}; boundary={boundary}", body


HEAD = b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n'
BOMBS: Mapping[str, tuple[str, bytes]] = {
    "delimiters that nearly match": hostile("a" * 69 + "b", b"\r\n--" + b"a" * 10 * MB),
    "lines that nearly match": hostile("a" * 70, (b"\r\n--" + b"a" * 69) * 140_000),
    "a boundary of dashes": hostile("-" * 70, b"-" * 10 * MB),
    "lookalikes": hostile("b", b"--b\r\n\r\n" + b"\r\n--bb" * 1_600_000),
    "lookalikes before the first": hostile("b", b"\r\n--bb" * 1_600_000),
    "padding": hostile("b", b"--b\r\n" + (b"\r\n--b" + b" " * 1000) * 10_000),
    "200,000 parts": hostile("b", b"--b\r\n\r\n\r\n" * 200_000),
    "200,000 parts with names": hostile("b", (HEAD + b"\r\n\r\n") * 200_000),
    "no blank line": hostile("b", b"--b\r\n" + b"X: y\r\n" * 1_600_000),
    "short headers": hostile("b", (b"--b\r\n" + b":\r\n" * 20_000 + b"\r\n\r\n") * 100),
    "folded headers": hostile("b", (HEAD[:-2] + b"\r\n " * 20_000 + b"\r\n\r\n") * 100),
    "parameters": hostile("b", (HEAD[:-2] + b";a=b" * 15_000 + b"\r\n\r\n\r\n") * 100),
    "open quotes": hostile("b", (HEAD[:-2] + b';a="x' * 12_000 + b"\r\n\r\n\r\n") * 100),
    "quotes and spaces": hostile("b", (HEAD[:-2] + b';a="' + b'" ' * 30_000 + b"\r\n\r\n") * 100),
    "semicolons": hostile("b", (HEAD[:-2] + b";" * 60_000 + b"\r\n\r\n\r\n") * 100),
    "a long content type": (MULTIPART + ';a="x' * 12_000, b""),
    "separators": (URLENCODED, b"&" * 10 * MB),
    "assignments": (URLENCODED, b"=" * 10 * MB),
    "escapes": (URLENCODED, b"a=" + b"%e9" * 3 * MB),
    "broken escapes": (URLENCODED, b"a=" + b"%" * 10 * MB),
    "half escapes": (URLENCODED, b"a=" + b"%a%" * 3 * MB),
    "broken escapes in many fields": (URLENCODED, (b"a=" + b"%" * 1000 + b"&") * 9_999),
    "an escaped name": (URLENCODED, b"%e9" * 3 * MB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_form_takes_more_than_linear_time(name: str) -> None:
    """The bound is generous: it tells quadratic from linear, not slow from fast."""
    begin = time.process_time()
    form = read(*BOMBS[name])
    fields = form.fields

    assert time.process_time() - begin < 3
    assert len(fields) <= forms.MAX_FIELDS
    assert len(form.files) <= forms.MAX_PARTS


# --- writing ---------------------------------------------------------------------------


def test_fields_are_urlencoded_in_order() -> None:
    """As UTF-8, a space as a plus."""
    fields = [("to", "bea@example.com"), ("subject", "Grüße & more"), ("to", "100%=")]

    assert form_body(fields) == (
        URLENCODED,
        b"to=bea%40example.com&subject=Gr%C3%BC%C3%9Fe+%26+more&to=100%25%3D",
    )


def test_a_multipart_body_is_what_browsers_send() -> None:
    """Fields, then files, each in order; line by line."""
    content_type, body = multipart_body(
        [("subject", "Grüße\nx"), ("to", "")],
        [FilePart("attachment", 'a "b"\r\n€.txt', "text/plain; charset=utf-8", b"x\ny")],
    )
    kind, boundary = content_type.split("; boundary=")

    assert kind == "multipart/form-data"
    assert b"".join(body).decode().split("\r\n") == [
        f"--{boundary}",
        'Content-Disposition: form-data; name="subject"',
        "",
        "Grüße\nx",
        f"--{boundary}",
        'Content-Disposition: form-data; name="to"',
        "",
        "",
        f"--{boundary}",
        'Content-Disposition: form-data; name="attachment"; filename="a %22b%22%0D%0A€.txt"',
        "Content-Type: text/plain; charset=utf-8",
        "",
        "x\ny",
        f"--{boundary}--",
        "",
    ]


def test_a_file_without_a_content_type_is_a_stream_of_bytes() -> None:
    """Else it would count as text (RFC 7578 4.4)."""
    body = b"".join(multipart_body([], [FilePart("a", "b", "", b"")])[1])

    assert b"\r\nContent-Type: application/octet-stream\r\n" in body


def test_every_boundary_is_another() -> None:
    """Nobody can put it into a file beforehand; it is of letters and digits, at most 70."""
    boundaries = {multipart_body([])[0].partition("boundary=")[2] for _ in range(50)}

    assert len(boundaries) == 50
    assert all(len(boundary) <= 70 and boundary.isalnum() for boundary in boundaries)


def test_a_form_without_fields_is_a_form() -> None:
    """Readers find its end."""
    content_type, body = multipart_body([])

    assert read(content_type, b"".join(body)).defects == []
    assert form_body([]) == (URLENCODED, b"")


def test_a_body_knows_its_length_and_can_be_sent_again() -> None:
    """As the transport asks of it."""
    _, body = multipart_body([("a", "ü")], [FilePart("b", "c", "", bytes(MB))])

    assert isinstance(body, Body)
    assert list(body) == list(body)
    whole: Any = body
    assert len(body) == len(b"".join(body))
    assert bytes(whole) == b"".join(body)


def test_large_files_are_not_copied_into_a_body() -> None:
    """Their own bytes are sent, between pieces that hold all the rest."""
    large = bytes(MB)
    small = [FilePart("small", "s", "", b"x" * 100)] * 3
    _, body = multipart_body([("a", "1")] * 3, [*small, FilePart("b", "c", "", large), *small])

    pieces = list(body)
    assert len(pieces) == 3
    assert pieces[1] is large


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb"])
def test_a_lone_surrogate_cannot_be_sent(text: str) -> None:
    """In a name or in a value."""
    with pytest.raises(SerializationError, match="lone surrogate"):
        form_body([("a", text)])
    with pytest.raises(SerializationError, match="lone surrogate"):
        multipart_body([(text, "a")])
    with pytest.raises(SerializationError, match="lone surrogate"):
        multipart_body([("a", text)])
    with pytest.raises(SerializationError, match="lone surrogate"):
        multipart_body([], [FilePart("a", text, "", b"")])


@pytest.mark.parametrize("content_type", ["text/plain\r\nX: y", "text/\nplain", "a\rb", "a\0b"])
def test_a_content_type_cannot_add_headers(content_type: str) -> None:
    """Unlike names, it has no way to write a line break."""
    with pytest.raises(InvalidHeaderError):
        multipart_body([], [FilePart("a", "b", content_type, b"")])


# Percent signs aside: nothing tells an escaped quote from a name that holds %22.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="%"), max_size=20)
fields_written = st.lists(st.tuples(names, st.text(st.characters(exclude_categories=["Cs"]))))
files_written = st.lists(
    st.builds(
        FilePart,
        names,
        names,
        st.sampled_from(["", "text/plain", "application/pdf; x=1"]),
        st.binary(max_size=200) | st.sampled_from([b"\r\n", b"--", b"x" * 70_000]),
    )
)


def sane(name: str) -> bool:
    """Tell names that no two readers read differently."""
    return name.isprintable() and not set(name) & set('\\"')


@given(fields_written, files_written)
def test_what_was_written_is_read(fields: list[tuple[str, str]], files: list[FilePart]) -> None:
    """Any names, any values, any bytes."""
    content_type, body = multipart_body(fields, files)
    form = read(content_type, b"".join(body))

    assert form.fields == [(name, value.encode()) for name, value in fields]
    assert contents(form) == [
        (file.name, file.filename, file.content_type or "application/octet-stream", file.data)
        for file in files
    ]
    assert form.defects == []


@given(fields_written)
def test_what_was_urlencoded_is_read(fields: list[tuple[str, str]]) -> None:
    """The same for both kinds of form."""
    assert read(*form_body(fields)).fields == [(name, value.encode()) for name, value in fields]


def by_werkzeug(content_type: str, body: bytes) -> Request:
    """Have werkzeug read a form."""
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    request = Request(environ)
    request.max_form_memory_size = None
    return request


@given(fields_written, files_written)
def test_werkzeug_reads_what_was_written(
    fields: list[tuple[str, str]], files: list[FilePart]
) -> None:
    """Well-formed forms are read alike."""
    fields = [(name, value) for name, value in fields if sane(name)]
    files = [file for file in files if sane(file.name) and sane(file.filename) and file.filename]
    content_type, body = multipart_body(fields, files)
    request = by_werkzeug(content_type, b"".join(body))

    assert sorted(request.form.items(multi=True)) == sorted(fields)
    found = [(name, file.filename, file.read()) for name, file in request.files.items(multi=True)]
    assert sorted(found) == sorted((file.name, file.filename, file.data) for file in files)
    request.close()


@given(st.dictionaries(names.filter(sane), st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_others_write_is_read(fields: dict[str, str]) -> None:
    """Werkzeug's test client and urllib3."""
    boundary, body = encode_multipart(fields)
    theirs, content_type = encode_multipart_formdata(fields)

    expected = [(name, value.encode()) for name, value in fields.items()]
    assert read(f"{MULTIPART}; boundary={boundary}", body).fields == expected
    assert read(content_type, theirs).fields == expected


@given(names.filter(sane), st.binary())
def test_files_that_others_write_are_read(filename: str, data: bytes) -> None:
    """With their names."""
    storage = FileStorage(io.BytesIO(data), filename or "x", "a")
    boundary, body = encode_multipart({"a": storage})
    theirs, content_type = encode_multipart_formdata({"a": (filename or "x", data, "text/plain")})

    expected = ("a", filename or "x", data)
    for form in (read(f"{MULTIPART}; boundary={boundary}", body), read(content_type, theirs)):
        (file,) = form.files
        assert isinstance(file, FormFile)
        assert (file.name, file.filename, bytes(file.data)) == expected
