"""What a test looks for in a mail: the links a reader would follow, the codes he would type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

_URL = re.compile(r"https?://[\w\[][^\s<>\"\\^`{|}]*", re.IGNORECASE)
_ADDRESS = re.compile(r"\S+@\S+")
_BRACKETS = {")": "(", "]": "["}

_CURRENCY = "$€£¥₹"
_CURRENCY_CODES = "EUR|USD|GBP|CHF|CZK|PLN|SEK|JPY"
_CODE = re.compile(
    rf"""
    (?<![\w\#+@/%{_CURRENCY}-])    # not the end of a word, number, price, path or phone number
    (?<!\d[.,:\ \xa0])(?<!\)\ )    # not the last group of digits among several
    (?<![{_CURRENCY}]\ )(?<!\b(?:{_CURRENCY_CODES})\ )
    (?: \d{{4,8}} | (?P<left>[A-Z0-9]{{3,4}})-(?P<right>[A-Z0-9]{{3,4}}) )
    (?![\w@/%-]|[.,:]\d|[\ \xa0]\d)
    (?!\ ?(?:[{_CURRENCY}]|(?:{_CURRENCY_CODES}|Kč|kr)\b))
    """,
    re.VERBOSE,
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_CODE_WORD = re.compile(r"\b(?:code|pin|otp|passcode|password)\b[^\n]{0,20}\s*\Z", re.IGNORECASE)
_PHONE_WORD = re.compile(r"\b(?:tel|phone|fax|call)(?:[.:]|\s)*\Z", re.IGNORECASE)


def links(body: str | None, html: str | None) -> tuple[str, ...]:
    """Return the http and https links: of the HTML, then what only the text body has."""
    found = [*_read(html).links, *_urls(body or "")]
    return tuple(dict.fromkeys(found))


def codes(body: str | None, html: str | None) -> tuple[str, ...]:
    """Return what looks like a one-time code, as it is written: of the text, then of the HTML.

    A code is 4 to 8 digits, or two groups of 3 or 4 (``123-456``, ``ABC-123``), that stand
    alone. Years, prices, dates and phone numbers are told apart as well as form allows.
    """
    found = [*_codes(body or ""), *_codes(_read(html).text)]
    return tuple(dict.fromkeys(found))


# --- links -----------------------------------------------------------------------------


def _urls(text: str) -> Iterator[str]:
    return (_trimmed(match[0]) for match in _URL.finditer(text))


def _trimmed(url: str) -> str:
    """Give back to the sentence the punctuation, and the brackets, that are not the link's."""
    while True:
        last = url[-1]
        opening = _BRACKETS.get(last)
        unbalanced = opening is not None and url.count(last) > url.count(opening)
        if last not in ".,;:!?'*_" and not unbalanced:
            return url
        url = url[:-1]


class _Reader(HTMLParser):
    """Reads the links and the text that a person sees; entities are decoded on the way."""

    _SILENT = frozenset({"script", "style", "title"})
    _INLINE = frozenset({"a", "b", "big", "code", "em", "font", "i", "small", "span", "strong"})

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self._pieces: list[str] = []
        self._silent = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._edge(tag, silent=True)
        href = (dict(attrs).get("href") or "").strip()
        if tag in ("a", "area") and href.lower().startswith(("http://", "https://")):
            self.links.append(href)

    def handle_endtag(self, tag: str) -> None:
        self._edge(tag, silent=False)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._pieces.append(data)

    def _edge(self, tag: str, *, silent: bool) -> None:
        if tag in self._SILENT:
            self._silent = silent
        if tag not in self._INLINE:
            self._pieces.append("\n")


def _read(html: str | None) -> _Reader:
    reader = _Reader()
    reader.feed(html or "")
    reader.close()
    return reader


# --- codes -----------------------------------------------------------------------------


def _codes(text: str) -> Iterator[str]:
    text = _ADDRESS.sub(" ", _URL.sub(" ", text))
    return (match[0] for match in _CODE.finditer(text) if _is_code(match, text))


def _is_code(match: re.Match[str], text: str) -> bool:
    before = text[max(0, match.start() - 40) : match.start()]
    if _PHONE_WORD.search(before):
        return False
    if match["left"]:
        return len(match["left"]) == len(match["right"]) and any(map(str.isdigit, match[0]))
    return not _YEAR.fullmatch(match[0]) or _is_no_year(match, text, before)


def _is_no_year(match: re.Match[str], text: str, before: str) -> bool:
    """What looks like a year is a code if it is called one, or has a line to itself."""
    line_starts = not before.rpartition("\n")[2].strip()
    line_ends = not text[match.end() :].partition("\n")[0].strip()
    return bool(_CODE_WORD.search(before)) or (line_starts and line_ends)
