"""Bytes and characters of mail as it arrives: charsets and transfer encodings.

Total and bounded: what is damaged or unknown is read as well as it can be and noted in a
`Defects` list. RFC 2045 (transfer encodings), RFC 2046 (charsets).
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

MAX_UUENCODED_LINES = 500_000


class Defects(list[str]):
    """What was damaged or cut, each said once, in the order it was found."""

    def note(self, text: str) -> None:
        """Add a defect; never with anything of the mail in it."""
        if text not in self:
            self.append(text)


# --- Charsets ---------------------------------------------------------------------------------

# Only these are ever decoded: some codecs Python knows are bombs (punycode), disguises (utf-7)
# or no charsets at all (zip). Codecs are tried in order; the later ones are the supersets
# that mailers really mean. Keys are names without punctuation.
_CODECS: dict[str, tuple[str, ...]] = {
    **{f"iso8859{n}": (f"iso8859-{n}",) for n in (*range(1, 12), 13, 14, 15, 16)},
    **{f"windows{n}": (f"cp{n}",) for n in (874, *range(1250, 1259))},
    **{f"cp{n}": (f"cp{n}",) for n in (437, 850, 852, 855, 858, 862, 866, 874, *range(1250, 1259))},
    **{f"ibm{n}": (f"cp{n}",) for n in (437, 850, 852, 855, 858, 862, 866)},
    **{f"iso2022jp{v}": (f"iso2022_jp_{v}",) for v in ("1", "2", "3", "2004", "ext")},
    "usascii": ("ascii", "utf-8"),
    "ascii": ("ascii", "utf-8"),
    "ansix341968": ("ascii", "utf-8"),
    "utf8": ("utf-8",),
    "utf16": ("utf-16",),
    "utf16le": ("utf-16-le",),
    "utf16be": ("utf-16-be",),
    "latin1": ("iso8859-1",),
    "latin2": ("iso8859-2",),
    "latin9": ("iso8859-15",),
    "iso88598i": ("iso8859-8",),
    "iso88598e": ("iso8859-8",),
    "koi8r": ("koi8-r",),
    "koi8u": ("koi8-u",),
    "koi8t": ("koi8-t",),
    "macintosh": ("mac-roman",),
    "macroman": ("mac-roman",),
    "tis620": ("tis-620",),
    "big5": ("big5", "cp950"),
    "big5hkscs": ("big5hkscs",),
    "gb2312": ("gb2312", "gb18030"),
    "gbk": ("gbk", "gb18030"),
    "gb18030": ("gb18030",),
    "cp936": ("gbk", "gb18030"),
    "shiftjis": ("shift_jis", "cp932"),
    "sjis": ("shift_jis", "cp932"),
    "xsjis": ("shift_jis", "cp932"),
    "cp932": ("cp932",),
    "windows31j": ("cp932",),
    "iso2022jp": ("iso2022_jp", "iso2022_jp_ext"),
    "iso2022kr": ("iso2022_kr",),
    "eucjp": ("euc_jp",),
    "euckr": ("euc_kr", "cp949"),
    "ksc56011987": ("euc_kr", "cp949"),
    "ksc5601": ("euc_kr", "cp949"),
    "cp949": ("cp949",),
    "uhc": ("cp949",),
}
_NOT_IN_CHARSET_KEY = re.compile(r"[^a-z0-9]+")


def decode_text(data: bytes, charset: str | None, defects: Defects) -> str:
    """Decode bytes by a declared charset, whatever it says and whatever they are.

    Undeclared or US-ASCII text with 8-bit bytes is UTF-8 if it can be, else Latin-1. An
    unknown or unsafe charset is read as Latin-1. Bytes the charset lacks become U+FFFD.
    """
    name = (charset or "us-ascii").partition(" ")[0]  # a comment may follow
    codecs = _CODECS.get(_NOT_IN_CHARSET_KEY.sub("", name[:64].lower()))
    if codecs is None:
        defects.note("a charset is unknown or unsafe: read as Latin-1")
        return data.decode("latin-1")
    for codec in codecs:
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            continue
    if codecs[0] == "ascii":
        defects.note("8-bit text without a charset is not UTF-8: read as Latin-1")
        return data.decode("latin-1")
    defects.note("text has bytes that its charset lacks")
    return data.decode(codecs[-1], "replace")


# --- Transfer encodings -----------------------------------------------------------------------

_NOT_BASE64 = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)
_UU_LINE = re.compile(rb"[^\r\n]+")


def decode_base64(source: bytes | memoryview | str, defects: Defects) -> bytes:
    """Decode what can be decoded; line breaks and other characters are skipped (RFC 2045 6.8).

    Text is taken as it is, since encoding it first would copy it.
    """
    try:
        decoded = binascii.a2b_base64(source)
    except ValueError:  # binascii.Error, and text beyond ASCII
        defects.note("base64 is truncated or invalid")
        return _decode_what_is_base64(source)
    if len(decoded) != _regular_base64(source) and len(decoded) != _irregular_base64(source):
        defects.note("base64 has characters that do not belong there, or goes on after its end")
    return decoded


def _decode_what_is_base64(source: bytes | memoryview | str) -> bytes:
    clean = _ascii(source).translate(None, _NOT_BASE64)
    return binascii.a2b_base64(clean[: len(clean) - (len(clean) % 4 == 1)] + b"===")


def _ascii(source: bytes | memoryview | str) -> bytes:
    return source.encode("ascii", "ignore") if isinstance(source, str) else bytes(source)


def _regular_base64(source: bytes | memoryview | str) -> int:
    """Return how much base64 decodes to if all its lines are as long as the first.

    Nearly all base64 is like that, and counting its line breaks takes a third of the time
    that decoding takes.
    """
    head, tail = _ascii(source[:1000]), _ascii(source[-1000:])
    length = len(source) - len(tail) + len(tail.rstrip(b"=\r\n"))
    line = head.find(b"\n") + 1
    if line:
        length -= length // line * (2 if head[:line].endswith(b"\r\n") else 1)
    return length * 3 // 4


def _irregular_base64(source: bytes | memoryview | str) -> int:
    """Return how much base64 decodes to if nothing but white space and padding is between."""
    text = _ascii(source)
    return (len(text) - sum(map(text.count, (b"\r", b"\n", b"\t", b" ", b"=")))) * 3 // 4


def decode_quoted_printable(source: bytes | memoryview, defects: Defects) -> bytes:
    """Decode quoted-printable; what is no escape stays as it is."""
    return binascii.a2b_qp(source)


def decode_uuencoded(source: bytes | memoryview, defects: Defects) -> bytes:
    """Decode the lines between ``begin`` and ``end``; damaged lines are skipped."""
    decoded: list[bytes] = []
    begun = False
    for count, line in enumerate(_UU_LINE.finditer(bytes(source))):
        if not begun:
            begun = line[0].startswith(b"begin ")
        elif line[0].strip() == b"end":
            return b"".join(decoded)
        else:
            decoded.append(_uu_line(line[0], defects))
        if count >= MAX_UUENCODED_LINES:
            break
    defects.note("uuencoded data has no begin, has no end or is too long")
    return b"".join(decoded)


def _uu_line(line: bytes, defects: Defects) -> bytes:
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:
        defects.note("uuencoded data is damaged")
        return b""


def _identity(source: bytes | memoryview, defects: Defects) -> bytes:
    return bytes(source)


_DECODERS = {
    "base64": decode_base64,
    "quoted-printable": decode_quoted_printable,
    **dict.fromkeys(("x-uuencode", "uuencode", "x-uue", "uue"), decode_uuencoded),
    **dict.fromkeys(("", "7bit", "8bit", "binary"), _identity),
}


def is_unencoded(encoding: str) -> bool:
    """Tell whether a transfer encoding leaves the bytes as they are."""
    return _DECODERS.get(encoding) is _identity


@dataclass(frozen=True, eq=False, repr=False)
class Body:
    """Some bytes of a source and how they are encoded, decoded only when asked."""

    source: bytes | memoryview | str
    encoding: str = ""
    start: int = 0
    end: int | None = None

    def decode(self, defects: Defects) -> bytes:
        """Return the decoded bytes; text sources must be base64."""
        if isinstance(self.source, str):
            return decode_base64(self.source, defects)
        decoder = _DECODERS.get(self.encoding)
        if decoder is None:
            defects.note("a transfer encoding is unknown: read as it is")
            decoder = _identity
        with memoryview(self.source) as whole, whole[self.start : self.end] as view:
            return decoder(view, defects)

    def __reduce__(self) -> tuple[type[Body], tuple[bytes | str, str]]:
        """Pickle these bytes only, not the mail around them."""
        source = self.source[self.start : self.end]
        return Body, (source if isinstance(source, str) else bytes(source), self.encoding)
