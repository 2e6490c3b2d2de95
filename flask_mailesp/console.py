"""What else can be asked of an ESP besides sending: is the credential good, where do webhooks go.

For the command line; nothing that sends or receives loads this. An ESP's knowledge is one
frozen `Console` of pure functions. A conversation with an ESP is a generator: it yields each
`HttpRequest`, is sent the `HttpResponse`, and returns what it found out; `converse` does the
I/O. What the ESP refuses, the generator raises as an `APIError`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from .esp import Esp, HttpRequest, HttpResponse, SecretBytes, Settings
from .exceptions import APIError, MailESPError, SendUncertainError
from .wire import as_object, json_body
from .words import Word

Kind = Literal["tracking", "inbound"]
KINDS: tuple[Kind, ...] = ("tracking", "inbound")
T = TypeVar("T")
Talk = Generator[HttpRequest, HttpResponse, T]


class Verdict(Word):
    """What an examination found. *Cannot tell* is an answer of its own, not a failure."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined.

    ``check`` is a word such as ``credentials``; ``subject`` what it is about (an ESP, a
    mailer), if anything. ``text`` says in a sentence what was found, and what to do where
    that is not as it should be.
    """

    check: str
    verdict: Verdict
    text: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class HookTarget:
    """Where webhooks of one kind are to go. ``url`` is without credentials."""

    kind: Kind
    url: str
    secret: SecretBytes | None = None

    @property
    def whole_url(self) -> str:
        """The URL with its credentials, for an ESP that has no other place for them."""
        return self.url if self.secret is None else with_credentials(self.url, self.secret)


class Action(Word):
    """What a plan does to one webhook at the ESP."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    FOREIGN = "foreign"  # not ours: left alone


@dataclass(frozen=True, slots=True)
class Change:
    """One webhook at the ESP, as a plan sees it.

    ``place`` is where at the ESP it belongs to, ``url`` is masked, ``details`` say what is
    different. ``request`` makes the change; None where there is nothing to do.
    """

    action: Action
    place: str
    url: str
    details: tuple[str, ...] = ()
    request: HttpRequest | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Console:
    """How an ESP is asked and set up.

    ``check(settings)`` asks something that changes nothing and returns findings about the
    credential and the sender. ``places`` tells a person where in the ESP's console the URL
    of each kind of webhook is pasted. ``plan(settings, targets)`` compares the webhooks at the
    ESP with what they should be, and ``problem(response)`` reads the answer to a `Change`:
    the error, or None; both are None where the ESP has no API for it. Where
    ``decodes_credentials`` is False, the ESP sends what stands before the ``@`` of a
    webhook's URL without undoing percent-encoding.
    """

    check: Callable[[Settings], Talk[list[Finding]]]
    places: Mapping[Kind, str]
    plan: Callable[[Settings, tuple[HookTarget, ...]], Talk[list[Change]]] | None = None
    problem: Callable[[HttpResponse], MailESPError | None] | None = None
    decodes_credentials: bool = True


class Sends(Protocol):
    """What a conversation needs of a transport."""

    def send(self, request: HttpRequest) -> HttpResponse:
        """Exchange one request; raise NotSentError or SendUncertainError."""
        ...


def console_of(esp: Esp) -> Console | None:
    """Return what is known about an ESP's console, or None."""
    own: Console | None = getattr(esp, "console", None)
    if own is not None:
        return own
    try:
        module = import_module(f"flask_mailesp.consoles.{esp.key}")
    except ModuleNotFoundError:
        return None
    console: Console = module.console
    return console


def converse(transport: Sends, talk: Talk[T]) -> T:
    """Carry out a conversation and return what it found out.

    Raises NotSentError where the ESP was not reached, and APIError where it refused or gave
    no answer that can be understood.
    """
    try:
        request = next(talk)
        while True:
            request = talk.send(exchange(transport, request))
    except StopIteration as end:
        found: T = end.value
        return found


def exchange(transport: Sends, request: HttpRequest) -> HttpResponse:
    """Exchange one request. Nothing is being sent here, so nothing is uncertain about it."""
    try:
        return transport.send(request)
    except SendUncertainError:
        host = urlsplit(request.url).hostname
        raise APIError(f"{host} was reached but gave no answer that can be understood.") from None


# --- for the ESPs' consoles ------------------------------------------------------------

Problem = Callable[[HttpResponse], MailESPError | None]

# What a plan says of a second webhook to the same place.
DOUBLED = "posts every event to this app a second time: delete it in the console"


def json_request(
    method: str, url: str, headers: Mapping[str, str], body: Any = None
) -> HttpRequest:
    """Return a request of an API that speaks JSON; without a body where there is none."""
    sent = {**headers, "Accept": "application/json"}
    if body is None:
        return HttpRequest(method, url, sent)
    return HttpRequest(method, url, sent | {"Content-Type": "application/json"}, json_body(body))


def checked(response: HttpResponse, problem: Problem) -> HttpResponse:
    """Return an answer that has no problem; raise the problem that it has."""
    error = problem(response)
    if error is not None:
        raise error
    return response


def answered(response: HttpResponse, problem: Problem) -> dict[str, Any]:
    """Return the JSON object that was asked for; raise the problem that the answer has."""
    return as_object(checked(response, problem).json())


# --- URLs and what is in them ----------------------------------------------------------


def same_place(one: str, other: str) -> bool:
    """Tell whether two URLs lead to the same route of the same host.

    Scheme, credentials, query and a last slash make no difference; neither do the ports that
    http and https have anyway. What is no URL leads nowhere.
    """
    host = _host(one)
    return host is not None and host == _host(other) and _path(one) == _path(other)


def same_path(one: str, other: str) -> bool:
    """Tell whether two URLs have the same path, maybe on different hosts."""
    return _path(one) == _path(other) != ""


def userinfo(url: str) -> tuple[str, str]:
    """Return the user name and password in a URL, decoded; empty where there are none."""
    parts = _split(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":") if parts else ("", "", "")
    return unquote(user), unquote(password)


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _host(url: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(url)
        port = None if parts.port in (80, 443) else parts.port
    except ValueError:  # a port that is no number, for one
        return None
    return (parts.hostname, port) if parts.hostname else None


def _path(url: str) -> str:
    parts = _split(url)
    return parts.path.rstrip("/") if parts else ""


def with_credentials(url: str, secret: bytes, *, encode: bool = True) -> str:
    """Return a URL with ``user:password`` in front of its host (RFC 3986 section 3.2.1)."""
    user, _, password = secret.decode("utf-8", "replace").partition(":")
    userinfo = ":".join(quote(item, safe="") if encode else item for item in (user, password))
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{userinfo}@{parts.netloc}"))


def stands_in_a_url(secret: bytes) -> bool:
    """Tell whether ``user:password`` is the same in a URL as out of it: Postal does not decode."""
    user, _, password = secret.decode("utf-8", "replace").partition(":")
    return quote(user + password, safe="") == user + password


def masked(url: str) -> str:
    """Return a URL without what may be a credential: its user information and its query."""
    parts = _split(url)
    if parts is None:
        return "(not a URL)"
    _, at, host = parts.netloc.rpartition("@")
    query = "***" if parts.query else ""
    return urlunsplit((parts.scheme, f"***{at}{host}" if at else host, parts.path, query, ""))
