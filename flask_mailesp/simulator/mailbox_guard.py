"""Who may look into the mailbox, and which posts are the visitor's own will.

A mailbox holds other people's mail and can make the application believe in events, so that
three doors stand before it: the peer's address (or a token), the name it was called by (a
page elsewhere can point its own name at 127.0.0.1: DNS rebinding), and, for everything that
changes something, a value only the mailbox's own pages can know (cross-site request forgery).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Request, Response

CSRF_COOKIE = "mailesp_mailbox_csrf"
SESSION_COOKIE = "mailesp_mailbox"
SHORTEST_TOKEN = 16
CSRF_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")

PAGE_POLICY = (
    "default-src 'self'; frame-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# For mail itself: an origin of its own, no scripts, no forms, nothing from anywhere.
MAIL_POLICY = (
    "sandbox; default-src 'none'; img-src data: cid:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

NOT_LOCAL = (
    "The mailbox answers this machine only. To reach it from elsewhere, or through a proxy, "
    "set a token for it."
)
WRONG_NAME = "The mailbox does not answer to this host name. Use localhost or 127.0.0.1."
FORGED = "This form is out of date or was sent by another site. Load the page again."


@dataclass(frozen=True)
class Guard:
    """The rules of one mailbox.

    Without a ``token`` only loopback peers get in, and only under a loopback name or one of
    ``hosts``. With one, whoever knows it gets in from anywhere: it is what a rebinding page
    cannot bring along. Raises ValueError for a token of fewer than 16 characters.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ValueError(f"A mailbox token has at least {SHORTEST_TOKEN} characters.")

    def refusal(self, request: Request) -> str | None:
        """Return why this peer or this host name gets nothing at all, or None."""
        if self.token is not None:
            return None
        if not is_local(request):
            return NOT_LOCAL
        name = host_name(request.headers.get("Host", ""))
        return None if is_loopback_name(name) or name in self.hosts else WRONG_NAME

    def is_known(self, request: Request) -> bool:
        """Tell whether the visitor has shown the token, where there is one."""
        if self.token is None or self.has_bearer(request):
            return True
        return same(request.cookies.get(SESSION_COOKIE, ""), self.session())

    def has_bearer(self, request: Request) -> bool:
        """Tell whether the token came as a Bearer credential, as programs send it."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.opens(given.strip())

    def opens(self, given: str) -> bool:
        """Tell whether this is the token."""
        return self.token is not None and same(given, self.token)

    def session(self) -> str:
        """Return what the cookie holds: proof of the token, not the token."""
        key = (self.token or "").encode("utf-8", "replace")
        return hmac.new(key, b"mailesp mailbox session", "sha256").hexdigest()

    def is_forged(self, request: Request) -> bool:
        """Tell whether a post may come from another site.

        A program's Bearer credential is proof enough: no other site can make a browser
        send it.
        """
        if self.token is not None and self.has_bearer(request):
            return False
        if not is_same_origin(request):
            return True
        expected = request.cookies.get(CSRF_COOKIE, "")
        given = request.form.get("csrf", "") or request.headers.get("X-CSRF-Token", "")
        return not CSRF_TOKEN.fullmatch(expected) or not same(given, expected)


def hosts_of(names: Iterable[str]) -> frozenset[str]:
    """Return host names without ports, as `Guard` compares them."""
    return frozenset(host_name(name) for name in names)


def same(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def is_local(request: Request) -> bool:
    """Tell whether the peer is this machine, and not a proxy that speaks for someone else."""
    forwarded = any(name in request.headers for name in FORWARDED)
    return not forwarded and is_loopback(request.remote_addr or "")


def is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def host_name(host: str) -> str:
    """Return the name in a Host header, lower-case, without port, brackets and last dot."""
    try:
        name = urlsplit(f"//{host.strip()}").hostname or ""
    except ValueError:
        return ""
    return name.rstrip(".")


def is_loopback_name(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def is_same_origin(request: Request) -> bool:
    """Tell what the browser says about where a post comes from; silence is not held against it.

    Sec-Fetch-Site is the browser's own verdict and holds behind proxies that change Host.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()


def csrf_token(request: Request) -> str:
    """Return the visitor's token, a new one if the cookie holds none."""
    token = request.cookies.get(CSRF_COOKIE, "")
    return token if CSRF_TOKEN.fullmatch(token) else secrets.token_urlsafe(32)


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Set a cookie that stays in the mailbox: no script reads it, no other site sends it."""
    response.set_cookie(
        name,
        value,
        path=f"{request.root_path.rstrip('/')}/",
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
    )


def harden(response: Response) -> Response:
    """Add to an answer what every answer of the mailbox has, unless it has its own."""
    headers: Headers = response.headers
    for name, value in (
        ("Content-Security-Policy", PAGE_POLICY),
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("X-DNS-Prefetch-Control", "off"),
        ("X-Robots-Tag", "noindex"),
        ("Cache-Control", "no-store"),
    ):
        headers.setdefault(name, value)
    return response


def as_mail(response: Response) -> Response:
    """Mark an answer as untrusted: what it holds was written by whoever wrote the mail."""
    response.headers["Content-Security-Policy"] = MAIL_POLICY
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
