"""One email address: parsed strictly, written safely, compared sensibly.

The standard library's parsers guess what was meant; a mail library must not, since a guess
sends mail to a stranger. What is not exactly one address is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .exceptions import ConfigurationError, InvalidAddressError
from .patterns import pattern
from .records import field, record

IdnaEncoder = Callable[[str], str]

# Line breaks and control characters, the Unicode separators that act as line breaks in
# some readers, and lone surrogates. Tab is legal white space in a header (RFC 5322 2.2).
CONTROLS = pattern(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_PLAIN = pattern(rf"{_ATEXT}(?:\.{_ATEXT})*@{_DOMAIN}")
_ASCII_DOMAIN = pattern(_DOMAIN)

# RFC 6532 adds every character beyond ASCII to atext; spaces and invisible ones are left out.
_NOT_ATEXT8 = r"\x00-\x20\x7f-\xa0\xad\"(),:;<>@\[\\\].\u1680\u2000-\u200f\u2028-\u202f"
_ATEXT8 = rf"[^{_NOT_ATEXT8}\u205f-\u206f\u3000\ufeff\ud800-\udfff]+"
_QUOTED = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*"'
_ADDR_SPEC = pattern(
    rf"(?P<local>{_ATEXT8}(?:\.{_ATEXT8})*|{_QUOTED})"
    rf"@(?P<domain>{_ATEXT8}(?:\.{_ATEXT8})*|\[[A-Za-z0-9.:-]+\])"
)
_NAME_ADDR = pattern(rf"(?P<name>{_QUOTED}[ \t]*|[^<>]*)<(?P<addr_spec>.*)>", re.DOTALL)
_QUOTED_NAME = pattern(_QUOTED)
_AMBIGUOUS_IN_NAME = pattern(r'[,;<>@"\\]')
_BARE_NAME = pattern(r"[\w ]+")


@record(frozen=True)
class Address:
    """One mailbox: ``addr_spec`` (``user@example.com``) and an optional ``display_name``.

    Both are plain text as a person reads them. ``str(address)`` gives the RFC 5322 form,
    quoted where needed: ``"Doe, Jane" <jane@example.com>``. ``spelling`` is the addr_spec as
    the app wrote it, where encoding the domain has changed it, and else empty.
    """

    addr_spec: str
    display_name: str = ""
    spelling: str = field(default="", repr=False, compare=False, kw_only=True)

    @property
    def username(self) -> str:
        """The part before the last ``@``, as given."""
        return self.addr_spec.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The part after the last ``@``, as given."""
        return self.addr_spec.rpartition("@")[2]

    @property
    def key(self) -> str:
        """The form in which spellings of one mailbox are equal; see `address_key`."""
        return address_key(self.addr_spec)

    def __str__(self) -> str:
        if not self.display_name:
            return self.addr_spec
        return f"{quoted_name(self.display_name)} <{self.addr_spec}>"


def quoted_name(name: str) -> str:
    """Write a display name as an RFC 5322 phrase, quoted unless it is only words."""
    if _BARE_NAME.fullmatch(name) and name == name.strip():
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def address_key(addr_spec: str) -> str:
    """Return a form that is equal for all spellings of one mailbox.

    ASCII letters are lower-cased and an internationalised domain is punycode. It is for
    comparing only: mail always goes to the address as given. Only ASCII is folded in the
    user name, since mailboxes that look alike elsewhere may belong to different people.
    """
    if addr_spec.isascii():
        return addr_spec.lower()
    username, at, domain = addr_spec.rpartition("@")
    with suppress(UnicodeError):
        domain = idna2008(domain)
    return f"{_ascii_lower(username)}{at}{domain.lower()}"


def _ascii_lower(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def parse_address(value: object, field: str = "address") -> Address:
    """Read one address in any of the accepted forms.

    Accepts ``"a@b.c"``, ``"Name <a@b.c>"``, ``("Name", "a@b.c")``, an `Address`, or anything
    with ``addr_spec`` and ``display_name`` such as `email.headerregistry.Address`.

    Raises InvalidAddressError, naming ``field``, if it is not exactly one address.
    """
    if type(value) is str and _PLAIN.fullmatch(value) and "=?" not in value:
        return Address(value)
    name, addr_spec = _split(value, field)
    if CONTROLS.search(name) or CONTROLS.search(addr_spec):
        raise InvalidAddressError(f"{field} holds a line break or another control character.")
    return Address(_checked(addr_spec.strip(" \t"), field), name.strip(" \t"))


def _split(value: object, field: str) -> tuple[str, str]:
    if isinstance(value, str):
        return _split_text(str.__str__(value), field)
    if isinstance(value, tuple) and len(value) == 2:
        name, addr_spec = value
    else:
        name = getattr(value, "display_name", None)
        addr_spec = getattr(value, "addr_spec", None)
    if not isinstance(addr_spec, str) or not isinstance(name, (str, type(None))):
        raise InvalidAddressError(
            f'{field} must be "user@example.com", "Name <user@example.com>", '
            f'("Name", "user@example.com") or an Address, not {type(value).__name__}.'
        )
    # Subclasses of str, such as Markup, may do something else in their methods.
    return str.__str__(name or ""), str.__str__(addr_spec)


def _split_text(text: str, field: str) -> tuple[str, str]:
    text = text.strip(" \t")
    if not text.endswith(">"):
        return "", text
    match = _NAME_ADDR.fullmatch(text)
    if match is None:
        raise InvalidAddressError(f"{field} is not one email address: unbalanced < or >.")
    return _plain_name(match["name"].strip(" \t"), field), match["addr_spec"]


def _plain_name(phrase: str, field: str) -> str:
    if _QUOTED_NAME.fullmatch(phrase):
        return re.sub(r"\\(.)", r"\1", phrase[1:-1])
    if _AMBIGUOUS_IN_NAME.search(phrase):
        raise InvalidAddressError(
            f"{field} is not one email address: put a display name with punctuation in double "
            'quotes or give ("Name", "user@example.com"); give several addresses as a list.'
        )
    return phrase


def _checked(addr_spec: str, field: str) -> str:
    match = _ADDR_SPEC.fullmatch(addr_spec)
    if match is None:
        hint = " Give several addresses as a list." if "," in addr_spec else ""
        raise InvalidAddressError(f"{field} is not one email address (user@example.com).{hint}")
    if "=?" in addr_spec:
        raise InvalidAddressError(f"{field} has an encoded word (=?...?=) in the address.")
    domain = match["domain"]
    if domain.isascii() and not domain.startswith("[") and not _ASCII_DOMAIN.fullmatch(domain):
        raise InvalidAddressError(f"{field} has a malformed domain.")
    return addr_spec


def idna2008(domain: str) -> str:
    """Encode a domain as IDNA 2008 after UTS #46 mapping, non-transitional (RFC 5891)."""
    if domain.isascii():
        return domain
    import idna

    encoded = idna.encode(domain, uts46=True).decode("ascii")
    if not _ASCII_DOMAIN.fullmatch(encoded):
        raise UnicodeError("the domain maps to something that is not a host name")
    return encoded


def _idna2003(domain: str) -> str:
    return domain.encode("idna").decode("ascii")


def _unchanged(domain: str) -> str:
    return domain


_ENCODERS: dict[str, IdnaEncoder] = {
    "idna2008": idna2008,
    "uts46": idna2008,
    "idna2003": _idna2003,
    "none": _unchanged,
}


def idna_encoder(choice: Any) -> IdnaEncoder:
    """Turn the ``MAILESP_IDNA_ENCODER`` setting into a function from domain to domain."""
    if callable(choice):
        return choice  # type: ignore[no-any-return]
    try:
        return _ENCODERS[choice]
    except (KeyError, TypeError):
        raise ConfigurationError(
            "MAILESP_IDNA_ENCODER must be one of "
            f"{', '.join(map(repr, _ENCODERS))} or a function from domain to domain."
        ) from None


def encode_domain(address: Address, encoder: IdnaEncoder, field: str) -> Address:
    """Return the address with its domain as the wire carries it.

    What an encoder makes of a domain is checked like anything else: IDNA 2003 maps a
    full-width ``＠`` or ``，`` to one that would end the address.

    Raises InvalidAddressError if the domain cannot be encoded.
    """
    addr_spec = address.addr_spec
    if addr_spec.isascii() or address.domain.isascii():
        return address
    domain = address.domain
    try:
        encoded = encoder(domain)
    except ValueError:
        encoded = None
    if encoded == domain:
        return address
    if not isinstance(encoded, str) or not _ASCII_DOMAIN.fullmatch(encoded):
        raise InvalidAddressError(
            f"{field} has an internationalised domain that IDNA cannot encode."
        )
    return Address(f"{address.username}@{encoded}", address.display_name, spelling=addr_spec)
