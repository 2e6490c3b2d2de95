"""Links and one-time codes, as a test finds them in a recorded message."""

from __future__ import annotations

import pytest

from flask_mailesp.extraction import codes, links

# --- links -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="https://example.com/a">A</a>', ["https://example.com/a"]),
        ("<A HREF=' http://example.com/a '>A</A>", ["http://example.com/a"]),
        ('<a href="https://example.com/?a=1&amp;b=2">A</a>', ["https://example.com/?a=1&b=2"]),
        ('<map><area href="https://example.com/a"></map>', ["https://example.com/a"]),
        (
            '<a href="https://e.com/1">1</a><a href="https://e.com/2">2</a>',
            ["https://e.com/1", "https://e.com/2"],
        ),
        ('<a href="https://e.com/1">1</a><a href="https://e.com/1">again</a>', ["https://e.com/1"]),
        ('<a href="mailto:a@example.com">A</a><a>B</a><a href>C</a>', []),
        ('<img src="https://example.com/pixel.gif"><link href="https://example.com/a.css">', []),
        ("<a href='javascript:alert(1)'>A</a>", []),
        ("not <html", []),
    ],
)
def test_links_of_the_html(html: str, found: list[str]) -> None:
    assert links(None, html) == tuple(found)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("Confirm: https://example.com/a?b=c#d", ["https://example.com/a?b=c#d"]),
        ("See https://example.com/a.", ["https://example.com/a"]),
        ("Is it https://example.com/a?", ["https://example.com/a"]),
        ("(see https://example.com/a)", ["https://example.com/a"]),
        ("https://example.com/a_(b)", ["https://example.com/a_(b)"]),
        ("[text](https://example.com/a)", ["https://example.com/a"]),
        ("<https://example.com/a>", ["https://example.com/a"]),
        ("HTTPS://example.com/A", ["HTTPS://example.com/A"]),
        ("http://e.com/1 and http://e.com/2\nhttp://e.com/1", ["http://e.com/1", "http://e.com/2"]),
        ("www.example.com, ftp://example.com, example.com/a", []),
    ],
)
def test_links_of_the_text(body: str, found: list[str]) -> None:
    """Punctuation around a link belongs to the sentence."""
    assert links(body, None) == tuple(found)


def test_links_that_both_bodies_have_are_told_once() -> None:
    """The HTML's come first."""
    body = "https://example.com/text https://example.com/both?a=1&b=2"
    html = '<a href="https://example.com/html">x</a><a href="https://example.com/both?a=1&amp;b=2">'

    assert links(body, html) == (
        "https://example.com/html",
        "https://example.com/both?a=1&b=2",
        "https://example.com/text",
    )


def test_no_body_has_neither_links_nor_codes() -> None:
    assert links(None, None) == ()
    assert codes(None, None) == ()


# --- codes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("Your code is 1234.", "1234"),
        ("Your code: 123456", "123456"),
        ("Code:123456", "123456"),
        ("123456 is your code, valid for 10 minutes", "123456"),
        ("Enter\n\n    12345678\n\nto go on", "12345678"),
        ("(code 123456)", "123456"),
        ('Type "123456" now', "123456"),
        ("Your code is 123-456.", "123-456"),
        ("Use ABC-123 to log in", "ABC-123"),
        ("Use A1B2-C3D4 to log in", "A1B2-C3D4"),
        ("Your PIN is 1984", "1984"),
        ("Your PIN:\n1984 (for ten minutes)", "1984"),
        ("Enter\n\n  2024  \n\nto go on", "2024"),
        ("Code 123456, or follow https://example.com/99999999", "123456"),
    ],
)
def test_a_code(body: str, code: str) -> None:
    assert codes(body, None) == (code,)


@pytest.mark.parametrize(
    "body",
    [
        "Too short: 123, and too long: 123456789",
        "© 2026 Example Ltd, since 1987",
        "Winter\n2026 has come, the first since\n1987, and the last before a\ngood 2027",
        "On 2026-11-21, 21.11.2026 or 21/11/2026",
        "It costs $1500, 1500 €, EUR 1500, 1500 EUR, £ 1500 or 1500 Kč",
        "It costs 1234.50 or 12,345.00, with 1234% more",
        "Call +420777123456, +1 555 0199, (555) 1234, 555-123-4567 or 0800 123456",
        "Tel. 555123, phone: 5551234, fax 5551234",
        "Order #123456",
        "https://example.com/123456 and 123456@example.com",
        "Release v123456, x123456, 123456x, ABC123456, file_123456",
        "ABC-DEF, ABC-1234, 12-34-56, ABC-123-456",
        "10:30:1234 and 1/12345",
    ],
)
def test_not_a_code(body: str) -> None:
    """Years, prices, dates, phone numbers, and parts of something longer."""
    assert codes(body, None) == ()


@pytest.mark.parametrize(
    "html",
    [
        "<p>Your code is <b>123456</b>.</p>",
        "<td>Code</td><td>123456</td><td>10</td>",
        "<style>a{color:#999999;width:4444px}</style><title>7777</title>123456",
        "<script>var a = 999999</script><p>123456</p>",
        '<p style="width: 4444"><a href="https://example.com/88888">123456</a>',
        "<p>&#49;23456</p>",
    ],
)
def test_codes_of_the_html_are_those_a_person_sees(html: str) -> None:
    assert codes(None, html) == ("123456",)


def test_a_code_in_both_bodies_is_told_once() -> None:
    assert codes("123456", "<p>123456</p><p>654321</p>") == ("123456", "654321")
