"""Mail is read within bounds: what is well-formed exactly, what is broken as far as it goes."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from flask_mailesp import decoding, headers, mime
from flask_mailesp.address import Address
from flask_mailesp.decoding import Body, Defects
from flask_mailesp.mime import Mail, Part, read_mail

CAFE = "Café"


def crlf(text: str) -> bytes:
    """Write a mail as it travels."""
    return text.replace("\n", "\r\n").encode()


def decoded(part: Part) -> bytes:
    return part.body.decode(Defects())


def leaves(mail: Mail) -> list[tuple[str, str, bytes]]:
    return [(part.role, part.content_type, decoded(part)) for part in mail.parts]


def bodies(source: bytes) -> list[bytes]:
    return [decoded(part) for part in read_mail(source).parts]


MIXED = """\
Content-Type: multipart/mixed; boundary="cut"

"""


class TestCharsets:
    @pytest.mark.parametrize(
        ("charset", "data"),
        [
            ("utf-8", CAFE.encode()),
            ("UTF8", CAFE.encode()),
            ("us-ascii", b"Cafe"),
            ("ISO-8859-1", CAFE.encode("latin-1")),
            ("iso_8859-15", CAFE.encode("iso8859-15")),
            ("Windows-1252", CAFE.encode("cp1252")),
            ("cp850", CAFE.encode("cp850")),
            ("macintosh", CAFE.encode("mac-roman")),
            ("utf-16", CAFE.encode("utf-16")),
            ("koi8-r", "Привет".encode("koi8-r")),
            ("windows-1251", "Привет".encode("cp1251")),
            ("Shift_JIS", "日本".encode("shift_jis")),
            ("iso-2022-jp", "日本".encode("iso2022_jp")),
            ("euc-jp", "日本".encode("euc_jp")),
            ("gb2312", "中国".encode("gb2312")),
            ("gbk", "中国".encode("gbk")),
            ("big5", "中國".encode("big5")),
            ("ks_c_5601-1987", "한국".encode("euc_kr")),
            ("tis-620", "ไทย".encode("tis-620")),
            ("us-ascii (Plain text)", b"Cafe"),
        ],
    )
    def test_the_charsets_of_mail_are_decoded(self, charset: str, data: bytes) -> None:
        """However they are spelt, and without a defect."""
        defects = Defects()
        text = decoding.decode_text(data, charset, defects)

        assert text in {"Cafe", CAFE, "Привет", "日本", "中国", "中國", "한국", "ไทย"}
        assert defects == []

    @pytest.mark.parametrize("charset", [None, "", "us-ascii"])
    def test_undeclared_8_bit_text_is_utf_8(self, charset: str | None) -> None:
        """Since that is what careless mailers send today."""
        assert decoding.decode_text(CAFE.encode(), charset, Defects()) == CAFE

    def test_undeclared_8_bit_text_that_is_not_utf_8_is_latin_1(self) -> None:
        """Every byte survives, and a defect says that it was a guess."""
        defects = Defects()

        assert decoding.decode_text(b"Caf\xe9", None, defects) == CAFE
        assert len(defects) == 1

    @pytest.mark.parametrize(
        "charset",
        [
            "utf-7",
            "punycode",
            "idna",
            "unicode_escape",
            "raw-unicode-escape",
            "hex",
            "rot13",
            "zip",
            "base64",
            "mbcs",
            "x-nonsense",
            "../../os",
            "é",
            "\ud800",
            "a" * 10_000,
        ],
    )
    def test_unknown_and_unsafe_charsets_are_latin_1(self, charset: str) -> None:
        """A charset is an attacker's choice of code to run: only known ones are."""
        defects = Defects()

        assert decoding.decode_text(b"+AGE-\\x61", charset, defects) == "+AGE-\\x61"
        assert defects == ["a charset is unknown or unsafe: read as Latin-1"]

    def test_bytes_that_a_charset_lacks_are_replaced(self) -> None:
        """The rest of the text is still there."""
        defects = Defects()

        assert decoding.decode_text(b"Caf\xe9!", "utf-8", defects) == "Caf\ufffd!"
        assert defects == ["text has bytes that its charset lacks"]

    def test_a_superset_is_tried_where_mailers_mean_it(self) -> None:
        """GB 2312 is declared, GB 18030 is sent."""
        assert decoding.decode_text("€".encode("gb18030"), "gb2312", Defects()) == "€"


class TestTransferEncodings:
    @pytest.mark.parametrize(
        "source",
        [
            b"SGVsbG8gd29ybGQ=",
            b"SGVsbG8g\r\nd29ybGQ=\r\n",
            b"SGVs\nbG8gd29y\n\nbGQ=\n",
            b" SGVsbG8g\t d29ybGQ = \n",
        ],
    )
    def test_base64_is_decoded_whatever_its_lines(self, source: bytes) -> None:
        """White space is no damage."""
        defects = Defects()

        assert decoding.decode_base64(source, defects) == b"Hello world"
        assert decoding.decode_base64(source.decode(), defects) == b"Hello world"
        assert defects == []

    @pytest.mark.parametrize(
        ("source", "data"),
        [
            ("SGVsbG8gd29ybGQ", b"Hello world"),  # no padding
            ("SGVsbG8gd29yb", b"Hello wor"),  # cut within a group of four
            ("SGVsbG8gd29ybG", b"Hello worl"),
            ("SGVs*bG8g!d29ybGQ=", b"Hello world"),
            ("SGVsbG8gd29ybGQ=\nfooter", b"Hello world"),
            ("SGVsbG8gd29ybGQ=é", b"Hello world"),
            ("SGVs\ud800bG8g", b"Hello "),
            ("!!!", b""),
            ("A", b""),
        ],
    )
    def test_damaged_base64_gives_what_can_be_decoded(self, source: str, data: bytes) -> None:
        """A cut attachment is better than none, and the defect says so."""
        defects = Defects()

        assert decoding.decode_base64(source, defects) == data
        assert len(defects) == 1

    def test_damage_in_the_middle_of_long_base64_is_noticed(self) -> None:
        """Though lines are not counted where they are all alike."""
        line = b"QUJD" * 19 + b"\r\n"
        whole, damaged = Defects(), Defects()
        decoding.decode_base64(line * 100, whole)
        decoding.decode_base64(line * 50 + b"****" + line * 50, damaged)

        assert whole == []
        assert len(damaged) == 1

    @pytest.mark.parametrize(
        ("source", "data"),
        [
            (b"Caf=C3=A9", CAFE.encode()),
            (b"one =\r\nline", b"one line"),
            (b"one =\nline", b"one line"),
            (b"100=25 =3D sure", b"100% = sure"),
            (b"50 = fifty, =XY, =", b"50 = fifty, =XY, "),
            (b"caf\xe9", b"caf\xe9"),
        ],
    )
    def test_quoted_printable_is_decoded_and_junk_kept(self, source: bytes, data: bytes) -> None:
        """What is no escape stands for itself."""
        assert decoding.decode_quoted_printable(source, Defects()) == data

    def test_uuencoded_data_is_decoded(self) -> None:
        """An old mailer's attachment."""
        source = b"text\nbegin 644 a.txt\n+2&5L;&\\@=V]R;&0\n`\nend\nmore\n"
        defects = Defects()

        assert decoding.decode_uuencoded(source, defects) == b"Hello world"
        assert defects == []

    @pytest.mark.parametrize(
        ("source", "data"),
        [
            (b"begin 644 a\n+2&5L;&\\@=V]R;&0\n", b"Hello world"),
            (b"begin 644 a\n\xff\xff\n+2&5L;&\\@=V]R;&0\nend\n", b"Hello world"),
            (b"nothing here", b""),
        ],
    )
    def test_damaged_uuencoded_data_gives_what_can_be_decoded(
        self, source: bytes, data: bytes
    ) -> None:
        """Line by line."""
        defects = Defects()

        assert decoding.decode_uuencoded(source, defects) == data
        assert len(defects) == 1

    def test_uuencoded_lines_are_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Millions of tiny lines would take seconds."""
        monkeypatch.setattr(decoding, "MAX_UUENCODED_LINES", 2)
        source = b"begin 644 a\n" + b"#86)C\n" * 5 + b"end\n"

        assert decoding.decode_uuencoded(source, Defects()) == b"abcabc"

    def test_an_unknown_encoding_is_left_as_it_is(self) -> None:
        """The user may know it."""
        defects = Defects()

        assert Body(b"\x01data", "x-secret").decode(defects) == b"\x01data"
        assert defects == ["a transfer encoding is unknown: read as it is"]


class TestEncodedWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("plain", "plain"),
            ("=?utf-8?q?Caf=C3=A9?=", CAFE),
            ("=?UTF-8?B?Q2Fmw6k=?=", CAFE),
            ("=?iso-8859-1?Q?Caf=E9_noir?=", "Café noir"),
            ("=?utf-8*fr?q?Caf=C3=A9?=", CAFE),
            ("Re: =?utf-8?q?Caf=C3=A9?= (new)", "Re: Café (new)"),
            ("=?utf-8?q?one?= =?utf-8?q?_two?=", "one two"),
            ("=?utf-8?q?one?=   =?iso-8859-1?q?=E9?=", "oneé"),
            ("=?utf-8?q?one?= and =?utf-8?q?two?=", "one and two"),
            ("=?utf-8?q?one?==?utf-8?q?two?=", "onetwo"),
            ("=?utf-8?b?Q2Fm?= =?utf-8?b?w6k=?=", CAFE),
            ("=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é"),  # one character over two words
            ("=?utf-8?b?Q2Fmw6k?=", CAFE),  # no padding
            ("=?utf-8?q?with raw space?=", "with raw space"),
            ("=?utf-8?q??=", ""),
            ("a=?utf-8?q?b?=c", "abc"),
            ("=?utf-8?q?never closed", "=?utf-8?q?never closed"),
            ("=?utf-8?x?what?=", "=?utf-8?x?what?="),
            ("=?=?utf-8?q?a?=", "=?a"),
            ("1 =? 2", "1 =? 2"),
            ("=?x-unknown?q?Caf=E9?=", CAFE),
            ("=?utf-8?q?Café?=", CAFE),
        ],
    )
    def test_encoded_words_are_decoded_and_the_rest_is_kept(self, text: str, expected: str) -> None:
        """RFC 2047, as mailers write it rather than as it is."""
        assert headers.decode_words(text, Defects()) == expected

    def test_a_decoded_value_stays_on_one_line(self) -> None:
        """A line break smuggled into a word must not reach headers the user writes."""
        value = headers.header_text("=?utf-8?q?Hi=0D=0ABcc:_x?=", Defects())

        assert value == "Hi  Bcc: x"

    def test_a_value_longer_than_any_header_is_cut(self) -> None:
        """An ESP's JSON could hold megabytes."""
        defects = Defects()

        assert len(headers.header_text("x" * 70_000, defects)) == headers.MAX_HEADER_LENGTH
        assert defects == ["a header is too long: cut"]


class TestParameters:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("text/plain", {}),
            ("text/plain;", {}),
            ("text/plain; charset=utf-8", {"charset": "utf-8"}),
            (
                'text/plain; CHARSET = "utf-8" ; format=flowed',
                {"charset": "utf-8", "format": "flowed"},
            ),
            ("a; name=two words.txt", {"name": "two words.txt"}),
            ('a; name="semi;colon.txt"', {"name": "semi;colon.txt"}),
            (r'a; name="say \"hi\".txt"', {"name": 'say "hi".txt'}),
            (r'a; name="C:\dir\file.txt"', {"name": r"C:\dir\file.txt"}),
            ('a; name="never closed', {"name": "never closed"}),
            ("a; name=one; name=two", {"name": "one"}),
            ("a; junk; ;; =x; name=b", {"name": "b"}),
            ("a; boundary=----=_Part_1", {"boundary": "----=_Part_1"}),
            ("a; name==?utf-8?q?Caf=C3=A9?=", {"name": CAFE}),
            ('a; name="=?utf-8?q?Caf=C3=A9?="', {"name": CAFE}),
            ("a; filename*=utf-8''Caf%C3%A9", {"filename": CAFE}),
            ("a; filename*=utf-8'fr'Caf%C3%A9; filename=Cafe", {"filename": CAFE}),
            ("a; filename=Cafe; filename*=utf-8''Caf%C3%A9", {"filename": CAFE}),
            ("a; filename*0=lo; filename*1=ng", {"filename": "long"}),
            ("a; filename*1=ng; filename*0=lo", {"filename": "long"}),
            ("a; filename*0*=iso-8859-1''Caf%E9; filename*1=%20x", {"filename": "Café%20x"}),
            ("a; filename*0*=utf-8''%C3; filename*1*=%A9", {"filename": "é"}),
            ("a; filename*=Caf%C3%A9", {"filename": CAFE}),  # charset forgotten
            ("a; filename*=utf-8''100%", {"filename": "100%"}),
            ("a; filename*=x-unknown''Caf%E9", {"filename": CAFE}),
            ("a; filename*1=only the second", {"filename": "only the second"}),
            ("a; name=\ud800", {"name": ""}),
        ],
    )
    def test_parameters_are_read_as_mailers_write_them(
        self, value: str, expected: dict[str, str]
    ) -> None:
        """RFC 2231 where it is used, and the common mistakes."""
        assert headers.parameters(value, Defects()) == expected

    def test_parameters_are_limited(self) -> None:
        """Twenty thousand of them are an attack."""
        defects = Defects()
        found = headers.parameters("a" + "".join(f"; p{n}=x" for n in range(20_000)), defects)

        assert len(found) == headers.MAX_PARAMETERS
        assert defects == ["a header has too many parameters"]

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("text/plain", "text/plain"),
            (" Image/PNG ; name=x", "image/png"),
            ("text/html(comment)", "text/html"),
            ("application/vnd.ms-excel", "application/vnd.ms-excel"),
            ("", None),
            ("text", None),
            ("text/", None),
            ("a/b/c", None),
            ("<script>/x", None),
            ("é/é", None),
        ],
    )
    def test_a_media_type_is_two_tokens_or_nothing(self, value: str, expected: str | None) -> None:
        """So that it is safe to show and to send."""
        assert headers.media_type(value) == expected


class TestDatesAndIds:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("Sat, 21 Nov 2026 10:05:12 +0100", "2026-11-21T10:05:12+01:00"),
            ("21 Nov 2026 10:05 GMT", "2026-11-21T10:05:00+00:00"),
            ("Sat, 21 Nov 2026 10:05:12 -0000", "2026-11-21T10:05:12+00:00"),
            ("Sat, 21 Nov 2026 10:05:12", "2026-11-21T10:05:12+00:00"),
            ("Sat, 21 Nov 2026 10:05:12 +0100 (CET)", "2026-11-21T10:05:12+01:00"),
        ],
    )
    def test_dates_are_aware(self, value: str, expected: str) -> None:
        """A date without a zone is taken as UTC."""
        assert headers.read_date(value, Defects()) == datetime.fromisoformat(expected)

    @pytest.mark.parametrize(
        "value",
        [
            "yesterday",
            "Sat, 99 Nov 2026 10:05:12 +0100",
            "Sat, 21 Nov 2026 10:05:12 +9999",
            "9" * 5000,
            "Sat, 21 Nov 99999999999 10:05:12 +0000",
            "(" * 5000,
            "\x00",
            "\ud800",
            "Sat, 01 Jan 0001 00:00:00 +1400",
            "Fri, 31 Dec 9999 23:59:59 -1200",
            ",",
            ":::",
        ],
    )
    def test_impossible_dates_are_none(self, value: str) -> None:
        """With a defect; a date that overflows in another zone is impossible too."""
        defects = Defects()
        date = headers.read_date(value, defects)

        assert date is None or date.astimezone(timezone.utc)
        assert defects == ([] if date else ["the date is unreadable"])

    def test_no_date_is_no_defect(self) -> None:
        """It is only missing."""
        defects = Defects()

        assert headers.read_date("", defects) is None
        assert defects == []

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("<a@b>", ["a@b"]),
            ("<a@b> <c@d>\t<e@f>", ["a@b", "c@d", "e@f"]),
            ("<a@b><c@d>", ["a@b", "c@d"]),
            ("a@b c@d", ["a@b", "c@d"]),
            ("<a@ b>", ["a@b"]),
            ("text <a@b> (comment)", ["a@b"]),
            ("<<<", []),
            ("<>", []),
            ("", []),
        ],
    )
    def test_message_ids_are_without_brackets(self, value: str, expected: list[str]) -> None:
        """References without brackets are common enough."""
        assert headers.message_ids(value) == expected


class TestAddresses:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("ann@example.com", [("", "ann@example.com")]),
            ("<ann@example.com>", [("", "ann@example.com")]),
            ("Ann <ann@example.com>", [("Ann", "ann@example.com")]),
            ("Ann O. Mega<ann@example.com>", [("Ann O. Mega", "ann@example.com")]),
            ('"Mega, Ann" <ann@example.com>', [("Mega, Ann", "ann@example.com")]),
            (r'"Ann \"A\" Mega" <ann@example.com>', [('Ann "A" Mega', "ann@example.com")]),
            ("a@b.c, d@e.f", [("", "a@b.c"), ("", "d@e.f")]),
            ("a@b.c; d@e.f", [("", "a@b.c"), ("", "d@e.f")]),
            (",, a@b.c ,,", [("", "a@b.c")]),
            ("Team: a@b.c, Dee <d@e.f>;", [("", "a@b.c"), ("Dee", "d@e.f")]),
            ("undisclosed-recipients:;", []),
            ("", []),
            ("ann@example.com (Ann)", [("", "ann@example.com")]),
            ("Ann (the (nested) one) <ann@example.com>", [("Ann", "ann@example.com")]),
            (r"Ann (a \) b) <ann@example.com>", [("Ann", "ann@example.com")]),
            ("<@relay.example,@two.example:ann@example.com>", [("", "ann@example.com")]),
            ("=?utf-8?q?Ren=C3=A9?= <r@e.f>", [("René", "r@e.f")]),
            ("=?utf-8?q?Ren=C3=A9?= =?utf-8?q?_D?= <r@e.f>", [("René D", "r@e.f")]),
            ('"=?utf-8?q?Ren=C3=A9?=" <r@e.f>', [("René", "r@e.f")]),
            ("=?utf-8?q?Doe,_Jane?= <j@e.f>", [("Doe, Jane", "j@e.f")]),
            ("René <r@é.example>", [("René", "r@é.example")]),
            ('"john doe"@e.f', [("", '"john doe"@e.f')]),
            ('J <"john doe"@e.f>', [("J", '"john doe"@e.f')]),
            ("ann@[192.0.2.1]", [("", "ann@[192.0.2.1]")]),
            ("ann@[IPv6:2001:db8::1], d@e.f", [("", "ann@[IPv6:2001:db8::1]"), ("", "d@e.f")]),
            ("a..b.@docomo.example", [("", "a..b.@docomo.example")]),
            ("ann @ example . com", [("", "ann@example.com")]),
            ("<mailto:ann@example.com>", [("", "ann@example.com")]),
            ("Ann [home] <a@b.c>", [("Ann [home]", "a@b.c")]),
            ("a=b@c.d", [("", "a=b@c.d")]),
        ],
    )
    def test_mailboxes_are_read(self, value: str, expected: list[tuple[str, str]]) -> None:
        """RFC 5322 with its obsolete forms: groups flattened, comments and routes left out."""
        defects = Defects()
        found = headers.read_addresses(value, defects)

        assert [(box.display_name, box.addr_spec) for box in found] == expected
        assert defects == []

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("Ann ann@example.com", [("Ann", "ann@example.com")]),
            ("Ann <ann@example.com", [("Ann", "ann@example.com")]),
            ("Ann ann@example.com>", [("Ann", "ann@example.com")]),
            ("<<ann@example.com>>", [("", "ann@example.com")]),
            ("Ann <x <ann@example.com>", [("Ann", "ann@example.com")]),
            ("<a@b.c, Dee <d@e.f>", [("", "a@b.c"), ("Dee", "d@e.f")]),
            ("<a@b.c> junk, d@e.f", [("", "a@b.c"), ("", "d@e.f")]),
            ("Ann, <ann@example.com>", [("", "ann@example.com")]),
            ("root, d@e.f", [("", "d@e.f")]),
            ("<john doe@e.f>, d@e.f", [("", "d@e.f")]),
            ("a@b.c d@e.f", []),
            ("a@b@c.d", []),
            ("@b.c", []),
            ("a@", []),
            ("<a\x00b@c.d>", []),
            ("a" * 2000 + "@b.c", []),
            ('"Mega, Ann <ann@example.com>', [("Ann", "ann@example.com")]),
            ("Ann (home <ann@example.com>", [("Ann home", "ann@example.com")]),
            ("=?utf-8?q?a=40b.c?=", []),
        ],
    )
    def test_broken_mailboxes_give_what_is_certain(
        self, value: str, expected: list[tuple[str, str]]
    ) -> None:
        """What is no address, or might be two, is left out with a defect; never guessed."""
        defects = Defects()
        found = headers.read_addresses(value, defects)

        assert [(box.display_name, box.addr_spec) for box in found] == expected
        if value != "<<ann@example.com>>":
            assert defects

    def test_two_boxes_without_a_comma_are_two(self) -> None:
        """Their brackets set them apart."""
        found = headers.read_addresses("Ann <a@b.c> Dee <d@e.f>", Defects())

        assert found == [Address("a@b.c", "Ann"), Address("d@e.f", "Dee")]

    @pytest.mark.parametrize(
        "value",
        [
            "trusted@bank.example <evil@e.e>",
            '"trusted@bank.example" <evil@e.e>',
            "=?utf-8?q?trusted=40bank.example_=3C?= <evil@e.e>",
            "=?utf-8?q?<trusted@bank.example>?= <evil@e.e>",
            "(trusted@bank.example) <evil@e.e>",
            '"<trusted@bank.example>," <evil@e.e>',
        ],
    )
    def test_a_name_that_looks_like_an_address_is_a_name(self, value: str) -> None:
        """CVE-2023-27043 is what happens otherwise."""
        found = headers.read_addresses(value, Defects())

        assert [box.addr_spec for box in found] == ["evil@e.e"]

    def test_a_name_stays_on_one_line(self) -> None:
        """An encoded line break would otherwise reach a header of the answer."""
        found = headers.read_addresses("=?utf-8?q?A=0D=0ABcc:_x?= <a@b.c>", Defects())

        assert found == [Address("a@b.c", "A Bcc: x")]

    def test_addresses_are_limited(self) -> None:
        """The first thousand are enough."""
        defects = Defects()
        found = headers.read_addresses(",".join(f"u{n}@e.f" for n in range(1500)), defects)

        assert len(found) == headers.MAX_ADDRESSES
        assert defects == ["there are too many addresses: the rest was left out"]


class TestHeaders:
    @pytest.mark.parametrize(
        ("source", "headers", "body"),
        [
            (b"A: 1\r\nB: 2\r\n\r\nbody", [("A", "1"), ("B", "2")], b"body"),
            (b"A: 1\nB: 2\n\nbody", [("A", "1"), ("B", "2")], b"body"),
            (b"A: 1\rB: 2\r\rbody", [("A", "1"), ("B", "2")], b"body"),
            (b"A: 1\n\r\nbody", [("A", "1")], b"body"),
            (b"A: one\r\n\ttwo\r\n three\r\n\r\nbody", [("A", "one\ttwo three")], b"body"),
            (b"A:1\nB :2\nC:\n\nbody", [("A", "1"), ("B", "2"), ("C", "")], b"body"),
            (b"A: 1\nB: 2", [("A", "1"), ("B", "2")], b""),
            (b"A: 1", [("A", "1")], b""),
            (b"", [], b""),
            (b"\r\nbody", [], b"body"),
            (b"\n\nbody", [], b"\nbody"),
            (b"\rbody", [], b"body"),
            (b"\xef\xbb\xbfA: 1\n\nbody", [("A", "1")], b"body"),
            (b"From a@b Sat Nov 21\nA: 1\n\nbody", [("A", "1")], b"body"),
            (b">From a@b Sat Nov 21\nA: 1\n\nbody", [("A", "1")], b"body"),
            (b"A: Caf\xc3\xa9\n\nbody", [("A", CAFE)], b"body"),
        ],
    )
    def test_headers_end_at_the_blank_line(
        self, source: bytes, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        """Whatever ends the lines."""
        mail = read_mail(source)

        assert mail.headers == headers
        assert [decoded(part) for part in mail.parts] == [body]
        assert mail.defects == []

    @pytest.mark.parametrize(
        ("source", "headers", "body"),
        [
            (b"A: 1\njunk\nB: 2\n\nbody", [("A", "1"), ("B", "2")], b"body"),
            (b"A: 1\nHello,\nworld\n\nbye", [("A", "1")], b"Hello,\nworld\n\nbye"),
            (b"just text\nof two lines", [], b"just text\nof two lines"),
            (b" continued\nA: 1\n\nbody", [("A", "1")], b"body"),
            (b"caf\xc3\xa9: 1\nA: 1\n\nbody", [("A", "1")], b"body"),
            (b"A: Caf\xe9\n\nbody", [("A", CAFE)], b"body"),
        ],
    )
    def test_damaged_headers_lose_only_what_is_damaged(
        self, source: bytes, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        """The other headers and the body are there."""
        mail = read_mail(source)

        assert mail.headers == headers
        assert [decoded(part) for part in mail.parts] == [body]
        assert len(mail.defects) == 1

    def test_a_long_header_is_cut(self) -> None:
        """The body is read all the same."""
        mail = read_mail(b"A: " + b"x" * 70_000 + b"\n\nbody")

        assert mail.headers == [("A", "x" * headers.MAX_HEADER_LENGTH)]
        assert leaves(mail) == [("text", "text/plain", b"body")]
        assert mail.defects == ["a header is too long: cut"]

    def test_all_headers_together_are_limited(self) -> None:
        """Those within the limit, and the body, are there."""
        mail = read_mail(b"".join(b"A: %060000d\n" % n for n in range(30)) + b"\nbody")

        assert [int(value[-9:]) for _, value in mail.headers] == list(range(17))
        assert leaves(mail) == [("text", "text/plain", b"body")]
        assert mail.defects == ["the headers are too long: the rest was left out"]

    def test_one_endless_header_is_cut(self) -> None:
        """Two limits at once."""
        mail = read_mail(b"A: " + b"x" * 2_000_000 + b"\n\nbody")

        assert len(mail.headers[0][1]) == headers.MAX_HEADER_LENGTH
        assert leaves(mail) == [("text", "text/plain", b"body")]

    def test_the_number_of_headers_is_limited(self) -> None:
        """A hundred thousand empty ones would fill the memory."""
        mail = read_mail(b"A:\n" * 20_000 + b"\nbody")

        assert len(mail.headers) == headers.MAX_HEADER_FIELDS
        assert leaves(mail) == [("text", "text/plain", b"body")]
        assert mail.defects == ["there are too many headers: the rest was left out"]

    def test_headers_that_others_split_are_limited_alike(self) -> None:
        """By number and by length together."""
        many, long = Defects(), Defects()

        assert len(headers.limited_fields([("A", "")] * 20_000, many)) == headers.MAX_HEADER_FIELDS
        assert len(headers.limited_fields([("A", "x" * 300_000)] * 9, long)) == 3
        assert many == long == ["there are too many headers: the rest was left out"]


class TestStructure:
    @pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
    def test_parts_lie_between_boundaries(self, line_break: str) -> None:
        """Preamble and epilogue are no parts; a boundary's line break is its own."""
        text = MIXED + "preamble\n--cut\n\none\n--cut\n\ntwo\n\n--cut--\nepilogue\n--cut\n\nno\n"
        mail = read_mail(text.replace("\n", line_break).encode())

        assert [decoded(part) for part in mail.parts] == [b"one", b"two" + line_break.encode()]
        assert mail.defects == []

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ("--cut  \n\none\n--cut\t\n\ntwo\n--cut--  \n", [b"one", b"two"]),  # trailing space
            ("--cut\n\none\n--cutter\nstill one\n--cut--", [b"one\n--cutter\nstill one"]),
            ("--cut\n\none\n--cut-\nstill one\n--cut--", [b"one\n--cut-\nstill one"]),
            ("--cut\n\none --cut\n--cut--", [b"one --cut"]),
            ("--cut\n\n--cut\n\n--cut--", [b"", b""]),
            ("--cut\n--cut\nA: b\n--cut--", [b"", b""]),
            ("--cut\none\n--cut--", [b"one"]),  # neither headers nor a blank line
            ("--cut--\n--cut\n\nafter the end", [b""]),
            ("only a preamble\n--cut--\n", [b"only a preamble"]),
        ],
    )
    def test_only_whole_lines_are_boundaries(self, body: str, expected: list[bytes]) -> None:
        """With white space after them, since mailers add it."""
        assert bodies((MIXED + body).encode()) == expected

    def test_a_missing_end_boundary_loses_nothing(self) -> None:
        """The last part goes on to the end."""
        mail = read_mail(crlf(MIXED + "--cut\n\none\n--cut\n\ntwo, cut of"))

        assert [decoded(part) for part in mail.parts] == [b"one", b"two, cut of"]
        assert mail.defects == ["a multipart has no end"]

    @pytest.mark.parametrize(
        "header",
        ["multipart/mixed", "multipart/mixed; boundary=", 'multipart/mixed; boundary="other"'],
    )
    def test_a_multipart_without_parts_is_text(self, header: str) -> None:
        """Something can be read, at least."""
        mail = read_mail(crlf(f"Content-Type: {header}\n\n--cut\n\none\n--cut--"))

        assert leaves(mail) == [("text", "text/plain", b"--cut\r\n\r\none\r\n--cut--")]
        assert mail.defects == ["a multipart has no parts: read as text"]

    @pytest.mark.parametrize(("outer", "inner"), [("cut", "cut2"), ("cut2", "cut"), ("a", "a-")])
    def test_a_boundary_may_begin_like_another(self, outer: str, inner: str) -> None:
        """Outlook numbers them."""
        source = (
            f"Content-Type: multipart/mixed; boundary={outer}\n\n--{outer}\n"
            f"Content-Type: multipart/mixed; boundary={inner}\n\n--{inner}\n\none\n"
            f"--{inner}\n\ntwo\n--{inner}--\n\n--{outer}\n\nthree\n--{outer}--\n"
        )

        assert bodies(crlf(source)) == [b"one", b"two", b"three"]

    def test_an_outer_boundary_ends_the_inner_multipart(self) -> None:
        """Whose own end is missing."""
        source = (
            MIXED + "--cut\nContent-Type: multipart/alternative; boundary=in\n\n"
            "--in\n\none\n--cut\n\ntwo\n--cut--\n"
        )

        assert bodies(crlf(source)) == [b"one", b"two"]

    def test_the_parts_of_a_digest_are_mails(self) -> None:
        """RFC 2046 5.1.5."""
        source = (
            "Content-Type: multipart/digest; boundary=cut\n\n--cut\n\nSubject: x\n\nhi\n--cut--"
        )
        mail = read_mail(crlf(source))

        assert leaves(mail) == [("attachment", "message/rfc822", b"Subject: x\r\n\r\nhi")]
        assert mail.parts[0].subject == "x"

    @pytest.mark.parametrize(
        ("headers", "role", "content_type"),
        [
            ("", "text", "text/plain"),
            ("Content-Type: text/html", "html", "text/html"),
            ("Content-Type: TEXT/PLAIN; format=flowed", "text", "text/plain"),
            ("Content-Type: text", "text", "text/plain"),
            ("Content-Type: text/plain\nContent-Disposition: inline", "text", "text/plain"),
            ("Content-Disposition: attachment", "attachment", "text/plain"),
            ("Content-Disposition: inline; filename=a.txt", "attachment", "text/plain"),
            ("Content-Type: text/html; name=a.html", "attachment", "text/html"),
            ("Content-Type: text/calendar", "attachment", "text/calendar"),
            ("Content-Type: image/png", "attachment", "image/png"),
            ("Content-Type: image/png\nContent-Disposition: inline", "attachment", "image/png"),
            ("Content-Type: image/png\nContent-ID: <a>", "attachment", "image/png"),
            (
                "Content-Type: image/png\nContent-ID: <a>\nContent-Disposition: inline",
                "inline",
                "image/png",
            ),
            (
                "Content-Type: image/png\nContent-ID: <a>\nContent-Disposition: attachment",
                "attachment",
                "image/png",
            ),
            (
                "Content-Type: nonsense; name=x\nContent-Disposition: attachment",
                "attachment",
                "application/octet-stream",
            ),
            ("Content-Type: message/rfc822", "attachment", "message/rfc822"),
        ],
    )
    def test_text_is_read_and_everything_else_is_a_file(
        self, headers: str, role: str, content_type: str
    ) -> None:
        """A part after the first; Content-ID and disposition decide what is inline."""
        source = MIXED + f"--cut\n\nfirst\n--cut\n{headers}\n\nx\n--cut--\n"
        part = read_mail(crlf(source)).parts[1]

        assert (part.role, part.content_type) == (role, content_type)

    def test_the_first_part_is_text_even_if_it_has_a_name(self) -> None:
        """Some mailers name it; it is what the sender wrote."""
        source = MIXED + "--cut\nContent-Type: text/plain; name=body.txt\n\nhi\n--cut--"

        assert read_mail(crlf(source)).parts[0].role == "text"

    def test_what_stands_beside_a_related_root_is_inline(self) -> None:
        """If it has a content id and is not called an attachment; the root never is."""
        part = "--cut\nContent-Type: {}\nContent-ID: <{}>\n\nx\n"
        source = "Content-Type: multipart/related; boundary=cut\n\n" + "".join(
            part.format(*each)
            for each in [("text/html", "r"), ("image/gif", "a"), ("text/html", "b")]
        )
        mail = read_mail(crlf(source + "--cut\nContent-Type: image/gif\n\nx\n--cut--"))

        assert [part.role for part in mail.parts] == ["html", "inline", "inline", "attachment"]

    def test_a_mail_in_transfer_encoding_has_no_subject_to_read(self) -> None:
        """It is forbidden, and happens."""
        source = (
            b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeA=="
        )
        part = read_mail(source).parts[0]

        assert (decoded(part), part.subject) == (b"Subject: x", "")

    def test_nesting_is_limited(self) -> None:
        """What lies deeper is one attachment."""
        mail = read_mail(nested(300))

        assert [part.role for part in mail.parts] == ["attachment"]
        assert "multiparts are nested too deeply: left in one piece" in mail.defects

    def test_parts_are_limited(self) -> None:
        """The first thousand are there, the mail itself counted as one."""
        mail = read_mail(MIXED.encode() + b"--cut\n\nx\n" * 5000 + b"--cut--")

        assert len(mail.parts) == mime.MAX_PARTS - 1
        assert mail.defects == ["there are too many parts: the rest was left out"]

    def test_lines_like_a_boundary_are_limited(self) -> None:
        """Each costs time; no honest mail has ten thousand."""
        mail = read_mail(MIXED.encode() + b"--cut\n\n" + b"--cuts\n" * 20_000 + b"--cut--")

        assert len(mail.parts) == 1
        assert "too many lines look like a boundary: the rest was not split" in mail.defects

    def test_searching_is_limited(self) -> None:
        """A large mail inside many multiparts is searched once for each of them."""
        mail = read_mail_with_limit(nested(10) + b"x" * 1000, 2000)

        assert mail.defects[-1] == "multiparts are nested too deeply: left in one piece"


def read_mail_with_limit(source: bytes, searched: int) -> Mail:
    reader = mime._Reader(source, search_left=searched)
    headers, body = reader.read_headers(0, len(source))
    reader.read_entity(headers, body, len(source), mime._Place())
    return Mail(headers, reader.parts, reader.defects)


def nested(depth: int) -> bytes:
    level = "Content-Type: multipart/mixed; boundary=b{0}.\n\n--b{0}.\n"
    return "".join(level.format(n) for n in range(depth)).encode() + b"\nhello\n"


PARTS = MIXED.encode() + b"--cut\n"
BASE64_FILE = b"Content-Type: a/b\nContent-Transfer-Encoding: base64\n\n"
BOMBS = {
    "deep multiparts": nested(20_000),
    "deep mails": b"Content-Type: message/rfc822\n\n" * 100_000,
    "many parts": MIXED.encode() + b"--cut\n\nx\n" * 200_000,
    "empty parts": MIXED.encode() + b"--cut\n" * 1_000_000,
    "false boundaries": PARTS + b"\n--cutter" * 1_000_000,
    "boundary and spaces": PARTS + b"\n--cut" + b" " * 5_000_000 + b"x",
    "deep and long": nested(49) + b"\n-" * 2_500_000,
    "deep and dashes": nested(49).replace(b"b", b"-" * 60) + b"-" * 5_000_000,
    "many mails within": PARTS + b"Content-Type: message/rfc822\n\nSubject: x\n\n\n--cut\n" * 2000,
    "To: open brackets": b"To: " + b"<a," * 20_000 + b"\n\n",
    "To: brackets": b"To: " + b"<" * 64_000 + b"\n\n",
    "To: parentheses": b"To: " + b"(" * 64_000 + b"\n\n",
    "To: comments": b"To: " + b"()" * 32_000 + b"\n\n",
    "To: quotes": b"To: " + b'"\\' * 32_000 + b"\n\n",
    "To: escaped quotes": b"To: " + b'\\"' * 32_000 + b"\n\n",
    "To: at signs": b"To: " + b"a@" * 32_000 + b"\n\n",
    "To: spaces": b"To: a" + b" " * 64_000 + b"b@c.d\n\n",
    "To: encoded words": b"To: " + b"=?a?q?" * 10_000 + b"\n\n",
    "To: literals": b"To: " + b"[a" * 32_000 + b"\n\n",
    "To: groups": b"To: " + b"a:;" * 21_000 + b"\n\n",
    "To: repeated": (b"To: " + b"(" * 64_000 + b"\n") * 16 + b"\n",
    "type: parameters": b"Content-Type: text/plain" + b"; a=b" * 20_000 + b"\n\n",
    "type: semicolons": b"Content-Type: text/plain" + b";" * 60_000 + b"\n\n",
    "type: open quotes": b"Content-Type: text/plain" + b';a="\\' * 12_000 + b"\n\n",
    "type: spaces": b"Content-Type: text/plain; a" + b" " * 60_000 + b"\n\n",
    "type: letters": b"Content-Type: text/plain; " + b"a" * 60_000 + b"\n\n",
    "type: sections": b"Content-Type: a/b"
    + b"".join(b";a*%d*=x" % n for n in range(5000))
    + b"\n\n",
    "ids: brackets": b"Message-ID: " + b"<" * 60_000 + b"\nReferences: " + b"<" * 60_000 + b"\n\n",
    "subject: encoded words": b"Subject: " + b"=?a?q?a?= " * 6_000 + b"\n\n",
    "subject: half words": b"Subject: " + b"=?a?q?" * 10_000 + b"\n\n",
    "subject: punycode": b"Subject: =?punycode?q?" + b"a" * 60_000 + b"?=\n\n",
    "body: punycode": b"Content-Type: text/plain; charset=punycode\n\n" + b"a" * 300_000,
    "body: idna": b"Content-Type: text/plain; charset=idna\n\n" + b"a." * 1_000_000,
    "body: utf-7": b"Content-Type: text/plain; charset=utf-7\n\n" + b"+AGE-" * 200_000,
    "body: escapes": b"Content-Type: text/plain; charset=iso-2022-jp\n\n" + b"\x1b$B" * 1_000_000,
    "date: digits": b"Date: " + b"9" * 60_000 + b"\n\n",
    "date: parentheses": b"Date: " + b"(" * 60_000 + b"\n\n",
    "many headers": b"a:\n" * 1_000_000 + b"\n",
    "one header, many lines": b"a:\n" + b" \n" * 1_000_000 + b"\n",
    "one endless header": b"a: " + b"x" * 10_000_000,
    "neither header nor body": b"a\n" * 1_000_000,
    "junk among headers": b"a\nb:\n" * 500_000,
    "carriage returns": b"\r" * 5_000_000,
    "line feeds": b"a: b\n" + b"\n" * 5_000_000,
    "base64: padding": BASE64_FILE + b"=A" * 2_500_000,
    "base64: junk": BASE64_FILE + b"!" * 5_000_000 + b"A",
    "base64: short lines": BASE64_FILE + b"QUJD\n" * 1_000_000,
    "quoted-printable": b"Content-Transfer-Encoding: quoted-printable\n\n" + b"= \n" * 1_500_000,
    "uuencode": b"Content-Type: a/b\nContent-Transfer-Encoding: uue\n\nbegin 1 a\n"
    + b"!\n" * 2_000_000,
    "file name: combining": b'Content-Type: a/b; name="'
    + "\u0301\u0316".encode() * 15_000
    + b'"\n\n',
    "file names": PARTS
    + b'Content-Type: a/b; name="'
    + b"\xcc\x81" * 30_000
    + b'"\n\n\n--cut\n' * 20,
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_mail_takes_more_than_linear_time(name: str) -> None:
    """The bound is generous: it tells quadratic from linear, not slow from fast."""
    from flask_mailesp.inbound import InboundMessage

    begin = time.process_time()
    message = InboundMessage.from_raw(BOMBS[name])
    accessed = [message.defects, message.message_id, message.references, message.is_auto_reply]
    accessed += [file.text for file in [*message.attachments, *message.inlines]]

    assert time.process_time() - begin < 3
    assert list(message.headers.items()) or accessed
