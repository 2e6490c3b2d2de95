"""One address: what is accepted, what is refused, and how it is written and compared."""

from __future__ import annotations

import contextlib
import email.headerregistry
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp.address import (
    CONTROLS,
    Address,
    address_key,
    encode_domain,
    idna2008,
    idna_encoder,
    parse_address,
    quoted_name,
)
from flask_mailesp.exceptions import ConfigurationError, InvalidAddressError

GOOD: list[tuple[Any, str, str]] = [
    ("you@example.com", "", "you@example.com"),
    (" you@example.com\t", "", "you@example.com"),
    ("You.And-Me+tag@Sub.Example.COM", "", "You.And-Me+tag@Sub.Example.COM"),
    ("!#$%&'*+/?=^_`{|}~-@example.com", "", "!#$%&'*+/?=^_`{|}~-@example.com"),
    ("root@localhost", "", "root@localhost"),
    ("you@_under.example.com", "", "you@_under.example.com"),
    ("you@xn--bcher-kva.example", "", "you@xn--bcher-kva.example"),
    ("you@[192.0.2.1]", "", "you@[192.0.2.1]"),
    ("you@[IPv6:2001:db8::1]", "", "you@[IPv6:2001:db8::1]"),
    ('"a b,c<d>@e"@example.com', "", '"a b,c<d>@e"@example.com'),
    ("\u00fcser@example.com", "", "\u00fcser@example.com"),
    ("you@b\u00fccher.example", "", "you@b\u00fccher.example"),
    ("Jane Doe <jane@example.com>", "Jane Doe", "jane@example.com"),
    ("Jane\tDoe <jane@example.com>", "Jane\tDoe", "jane@example.com"),
    ("<jane@example.com>", "", "jane@example.com"),
    ("Jane< jane@example.com >", "Jane", "jane@example.com"),
    ('"Doe, Jane" <jane@example.com>', "Doe, Jane", "jane@example.com"),
    ('"Jane" <jane@example.com>', "Jane", "jane@example.com"),
    ('"a <b@c.example>" <jane@example.com>', "a <b@c.example>", "jane@example.com"),
    (r'"Jane \"J\" \\ Doe" <jane@example.com>', r'Jane "J" \ Doe', "jane@example.com"),
    ('Jane <"j d"@example.com>', "Jane", '"j d"@example.com'),
    ("J. O'Neil (ACME) <jane@example.com>", "J. O'Neil (ACME)", "jane@example.com"),
    (("Doe, Jane", "jane@example.com"), "Doe, Jane", "jane@example.com"),
    ((None, "jane@example.com"), "", "jane@example.com"),
    (("jane@example.com", "jane@example.com"), "jane@example.com", "jane@example.com"),
    (Address("jane@example.com", "Jane"), "Jane", "jane@example.com"),
    (email.headerregistry.Address("Jane", "jane", "example.com"), "Jane", "jane@example.com"),
]

BAD: list[Any] = [
    "",
    " ",
    "you",
    "@example.com",
    "you@",
    "you@@example.com",
    "you@me@example.com",
    "you@example..com",
    "you@.example.com",
    "you@example.com.",
    "you@-example.com",
    "you@example-.com",
    "you@exa_mple-.com",
    "you@exa!mple.com",
    ".you@example.com",
    "you.@example.com",
    "y..ou@example.com",
    "y ou@example.com",
    "you@exa mple.com",
    "you@[192.0.2.1",
    "you@[a@b.example]",
    "you@[a,b@c.example]",
    "you@example.com (comment)",
    "Group: you@example.com;",
    "you@example.com <",
    "<you@example.com",
    "you@example.com>",
    "<>",
    "Jane <>",
    '"Jane <jane@example.com>',
    'Jane" <jane@example.com>',
    "Jane <jane@example.com> Doe",
    "Jane <<jane@example.com>>",
    "user@example.com <evil@example.net>",  # CVE-2023-27043: which of the two is it?
    "<a@example.com> <b@example.com>",
    "a@example.com, b@example.com",
    "a@example.com,b@example.com",
    "a@example.com; b@example.com",
    "Doe, Jane <jane@example.com>",
    "A <a@example.com>, B <b@example.com>",
    "=?utf-8?q?a=40evil.example?=@example.com",
    "x@b\u00fccher=?utf-8?q?a?=.example",
    ("Jane", "a@example.com, b@example.com"),
    ("Jane", "Jane <jane@example.com>"),
    ("jane@example.com", "Jane"),
    ("Jane",),
    ("Jane", "jane@example.com", "x"),
    (1, "jane@example.com"),
    None,
    5,
    b"jane@example.com",
    {"email": "jane@example.com"},
    Address,
    object(),
    "a\u200bb@example.com",
    "a\u00adb@example.com",
    "a\u202eb@example.com",
    "a\u3000b@example.com",
    "a@exam\u200bple\u00fc.com",
]

LINE_BREAKS = ["\r\n", "\n", "\r", "\0", "\v", "\f", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]
HOSTILE = [*LINE_BREAKS, "\ud800", "\udfff"]

N = 200_000
LONG = {
    "quotes": '"' * N,
    "backslashes in quotes": '"' + "\\" * N + " <a@example.com>",
    "opening brackets": "<" * N + ">",
    "closing brackets": "a" * N + ">" * N,
    "one word": "a" * N,
    "dots": "a." * (N // 2) + "@",
    "ats": "a@" * (N // 2),
    "labels": "a@" + "b." * (N // 2),
    "hyphens": "a@" + "b-" * (N // 2) + ".",
    "underscores": "a@" + "_" * N + "-",
    "spaces": '"a"' + " " * N + "x <a@example.com>",
    "tabs": " \t" * (N // 2) + "<a@example.com>",
    "addresses": "a@example.com," * (N // 14),
    "beyond ASCII": "\u00e9" * N + "@" + "\u00e9." * (N // 2) + ">",
    "an open literal": "a@[" + "1" * N,
    "quoted words": '"a"' * (N // 3) + "<a@example.com>",
}

letters = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])
names = st.text(letters).map(lambda text: text.strip(" "))
addr_specs = st.from_regex(
    r"[a-z0-9!#$%&'*+/=^_`{|}~-]+(\.[A-Z0-9]+){0,2}@[a-z0-9]+(-[a-z0-9]+)?(\.[a-zA-Z]+){0,3}",
    fullmatch=True,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
pieces = st.lists(st.sampled_from([*'a.@<>",; \\()[]:=?\t', "\n", "\u00e9", "ab", "\ud800"]))


# --- parsing ---------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "name", "addr_spec"), GOOD, ids=repr)
def test_an_address_is_read_as_it_is_written(value: Any, name: str, addr_spec: str) -> None:
    """All accepted forms give the display name as text, and the addr_spec unchanged."""
    assert parse_address(value) == Address(addr_spec, name)


@pytest.mark.parametrize("value", BAD, ids=ascii)
def test_what_is_not_exactly_one_address_is_refused(value: Any) -> None:
    """A guess would send mail to a stranger."""
    with pytest.raises(InvalidAddressError):
        parse_address(value)


@pytest.mark.parametrize("control", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    "template",
    [
        "a{}@example.com",
        "a@exam{}ple.com",
        "a@example.com{}",
        "{}a@example.com",
        "N{} <a@example.com>",
        '"N{}" <a@example.com>',
        "N <a{}@example.com>",
        "N <a@example.com{}>",
        "N <a@example.com>{}",
        "N{}<a@example.com>",
        "\u00fc{}@example.com",
    ],
)
def test_no_form_lets_a_control_character_through(control: str, template: str) -> None:
    """A line break could begin another header, and a NUL end one."""
    with pytest.raises(InvalidAddressError):
        parse_address(template.format(control))


@pytest.mark.parametrize("control", HOSTILE, ids=ascii)
def test_a_name_given_apart_is_checked_too(control: str) -> None:
    """The pair and the object skip the text parser, not the checks."""
    for value in [
        (f"N{control}", "a@example.com"),
        Address("a@example.com", f"N{control}"),
        Address(f"a{control}@example.com"),
    ]:
        with pytest.raises(InvalidAddressError):
            parse_address(value)


@pytest.mark.parametrize("value", [item for item in BAD if isinstance(item, str) and "@" in item])
def test_the_error_names_the_field_and_quotes_nothing(value: str) -> None:
    """Errors are logged; addresses are not."""
    with pytest.raises(InvalidAddressError) as caught:
        parse_address(value, "cc[3]")

    assert "cc[3]" in str(caught.value)
    assert not re.search(r"jane|evil|a@|b@|you@", str(caught.value))


def test_several_addresses_in_one_text_are_told_to_be_a_list() -> None:
    """The most common mistake gets an answer."""
    with pytest.raises(InvalidAddressError, match="Give several addresses as a list"):
        parse_address("a@example.com, b@example.com")


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_hostile_input_takes_no_longer_than_its_length(text: str) -> None:
    """200 kB would take hours if any pattern went back over what it has read."""
    for value in (text, ("name", text), (text, "a@example.com")):
        with contextlib.suppress(InvalidAddressError):
            parse_address(value)


@given(anything | pieces.map("".join))
def test_any_value_is_an_address_or_an_invalid_address(value: Any) -> None:
    """Nothing else is raised, and what is accepted survives being written and read again."""
    try:
        address = parse_address(value)
    except InvalidAddressError:
        return
    assert parse_address(str(address)) == address
    assert not CONTROLS.search(str(address))


@given(names, addr_specs)
def test_an_address_survives_being_written_and_read(name: str, addr_spec: str) -> None:
    """Quoting and unquoting are each other's inverse, whatever the name."""
    address = Address(addr_spec, name)

    assert parse_address(str(address)) == address
    assert parse_address((name, addr_spec)) == address


@given(addr_specs)
def test_an_ascii_address_is_never_changed(addr_spec: str) -> None:
    """Mail goes to the mailbox as given, byte for byte."""
    address = encode_domain(parse_address(addr_spec), idna2008, "to")

    assert (address.addr_spec, address.spelling) == (addr_spec, "")


def test_texts_that_do_something_else_in_their_methods_are_read_as_plain_text() -> None:
    """Markup escapes what replace() is given; quoting must not produce entities."""
    from markupsafe import Markup

    address = parse_address((Markup('Jane "J" Doe'), Markup("jane@example.com")))

    assert (type(address.display_name), type(address.addr_spec)) == (str, str)
    assert str(address) == r'"Jane \"J\" Doe" <jane@example.com>'
    assert type(parse_address(Markup("jane@example.com")).addr_spec) is str


# --- writing and comparing -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Jane Doe", "Jane Doe"),
        ("J\u00fcrgen M\u00fcller", "J\u00fcrgen M\u00fcller"),
        ("Doe, Jane", '"Doe, Jane"'),
        ("J. Doe", '"J. Doe"'),
        ('a"b\\c', r'"a\"b\\c"'),
        (" padded ", '" padded "'),
        ("me@example.com", '"me@example.com"'),
        ("=?utf-8?q?x?=", '"=?utf-8?q?x?="'),
    ],
)
def test_a_name_is_quoted_unless_it_is_only_words(name: str, written: str) -> None:
    """RFC 5322 section 3.2.5: a phrase is words, or a quoted string."""
    assert quoted_name(name) == written


def test_the_parts_of_an_address_are_split_at_the_last_at() -> None:
    """A quoted user name may hold another one."""
    address = Address('"a@b"@Example.com')

    assert (address.username, address.domain) == ('"a@b"', "Example.com")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("You@Example.COM", "you@example.com"),
        ("you@b\u00fccher.example", "you@xn--bcher-kva.example"),
        ("you@B\u00dcCHER.example", "you@XN--BCHER-KVA.example"),
        ("YOU\u00fc@example.com", "you\u00fc@example.com"),
    ],
)
def test_spellings_of_one_mailbox_have_one_key(one: str, other: str) -> None:
    """Case, and punycode or not, make no difference in any ESP's eyes."""
    assert address_key(one) == address_key(other) == Address(one).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m\u0131ke@example.com", "mike@example.com"),  # dotless i: upper() would say MIKE
        ("m\u0131ke@example.com", "MIKE@example.com"),
        ("\u212aate@example.com", "kate@example.com"),  # Kelvin sign: lower() would say k
        ("\u00dcser@example.com", "\u00fcser@example.com"),
        ("a@example.com", "\uff41@example.com"),
    ],
)
def test_user_names_that_only_look_alike_stay_apart(one: str, other: str) -> None:
    """They may be different people's; a key that folds them hands one the other's mail."""
    assert address_key(one) != address_key(other)


@given(st.text())
def test_every_text_has_a_key(text: str) -> None:
    """Looking up is total, and a key is its own key."""
    assert address_key(address_key(text)) == address_key(text)


# --- internationalised domains ---------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "domain", "encoded"),
    [
        ("idna2008", "stra\u00dfe.example", "xn--strae-oqa.example"),
        ("uts46", "B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("idna2003", "stra\u00dfe.example", "strasse.example"),
        ("idna2003", "\u2615.example", "xn--53h.example"),
        ("none", "stra\u00dfe.example", "stra\u00dfe.example"),
        (lambda domain: "fixed.example", "stra\u00dfe.example", "fixed.example"),
    ],
)
def test_the_domain_is_encoded_as_configured(encoder: Any, domain: str, encoded: str) -> None:
    """IDNA 2008 keeps apart what IDNA 2003 folds; the user name and name stay as they are."""
    address = encode_domain(Address(f"J\u00fc@{domain}", "N"), idna_encoder(encoder), "to")

    assert (address.addr_spec, address.display_name) == (f"J\u00fc@{encoded}", "N")
    assert address.spelling == ("" if encoded == domain else f"J\u00fc@{domain}")


@pytest.mark.parametrize("encoder", ["idna2008", "idna2003", str.upper, lambda _: None])
@pytest.mark.parametrize(
    "domain", ["b.c\uff20evil.example", "b\u00fc\uff0cx", "\uff1ex\u00fc.example"]
)
def test_an_encoded_domain_that_is_no_host_name_is_refused(encoder: Any, domain: str) -> None:
    """IDNA 2003 maps full-width punctuation to ASCII: an at sign there is another domain."""
    with pytest.raises(InvalidAddressError, match="to has an internationalised domain"):
        encode_domain(parse_address(f"x@{domain}"), idna_encoder(encoder), "to")


@given(st.text(min_size=1).filter(lambda text: not text.isascii()))
@pytest.mark.parametrize("encoder", ["idna2008", "idna2003"])
def test_any_domain_is_encoded_to_ascii_or_refused(encoder: str, text: str) -> None:
    """Neither of the codecs is trusted to raise only what it says, or to return a host name."""
    try:
        address = encode_domain(Address(f"x@{text}"), idna_encoder(encoder), "to")
    except InvalidAddressError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", address.domain) or "@" in text


@pytest.mark.parametrize("choice", ["idna", "", None, 2008, ["idna2008"]])
def test_an_unknown_encoder_is_a_configuration_error(choice: Any) -> None:
    """The error lists the choices."""
    with pytest.raises(ConfigurationError, match=r"MAILESP_IDNA_ENCODER .* 'idna2008'"):
        idna_encoder(choice)


def test_a_list_of_two_is_no_pair() -> None:
    """Two addresses given as a sender must not become a name and a stranger's address."""
    with pytest.raises(InvalidAddressError, match="not list"):
        parse_address(["shop@example.com", "evil@example.net"], "sender")
