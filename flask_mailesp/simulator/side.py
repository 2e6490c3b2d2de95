"""What a provider's file offers to the simulator, and what the simulator lends to it.

A provider is simulated by one module of its own, ``flask_mailesp/simulator/<key>.py``, that
holds a subclass of `Side` named ``side``; nothing else names it. The key is that of the ESP:
``postmark``, ``amazon_ses``. A package of its own announces its class under the entry point
group ``flask_mailesp.simulators``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, ClassVar

from werkzeug.wrappers import Request, Response

from flask_mailesp.registry import BUILT_IN

from .records import Hook, Inbound, Post, Refusal, SentMessage
from .store import Store

ENTRY_POINTS = "flask_mailesp.simulators"

# What can be reported of a message, in the words that all providers' events are given.
EVENTS = (
    "queued",
    "sent",
    "delivered",
    "deferred",
    "bounced",
    "soft_bounced",
    "rejected",
    "failed",
    "complained",
    "opened",
    "clicked",
    "unsubscribed",
    "subscribed",
    "autoresponded",
)

Planned = list[tuple[str, str, dict[str, Any]]]


@dataclass(frozen=True)
class Context:
    """What a side is made with.

    ``accepted`` is told of each message that was taken, before the request is answered.
    ``sender_domains`` are the verified ones, None for all. With ``verify_webhooks`` the
    provider probes the webhooks made through its API. ``shared_keys`` has all simulators of
    a process sign with the same keys.
    """

    store: Store
    accepted: Callable[[SentMessage], None]
    sender_domains: frozenset[str] | None = None
    verify_webhooks: bool = False
    shared_keys: bool = False


class Side:
    """One provider's side of the wire. Its methods are called from many threads.

    What it remembers is in ``store``, so that all processes that share a database see it.
    Options of its constructor, after the context, are those of `Simulator`, there with the
    key in front: ``tokens`` is ``Simulator(postmark_tokens=...)``.
    """

    key: ClassVar[str]
    hook: ClassVar[type[Hook]] = Hook  # with fields of its own, for what its console offers
    signs: ClassVar[bool] = False  # whether webhooks prove themselves without Basic credentials
    ids: ClassVar[str] = "it has texts"  # how its message ids look, in words
    own_headers: ClassVar[frozenset[str]] = frozenset()  # lower-case: what its fields become

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = context.store

    # -- what an app is told --------------------------------------------------------------

    def settings(self, url: str) -> dict[str, Any]:
        """What points an app here: names without ``MAILESP_<ESP>_``, and values.

        ``url`` is where `respond` gets its requests, without a last slash. The values are in
        the form that the settings take: API_URL, credentials, what webhooks are verified by.
        """
        return {"API_URL": url}

    def credentials(self) -> dict[str, str]:
        """The headers that authenticate an API request, with values that are accepted.

        Empty where it is not headers that do (a signature over the request).
        """
        return {}

    # -- the API --------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        """Answer one API request; ``path`` is without the provider's prefix."""
        raise NotImplementedError

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        """Keep a template. Raises ValueError where the provider has none."""
        raise ValueError(f"{self.key} has no templates")

    def suppress(self, address: str, stream: str | None = None) -> None:
        """Put an address on the suppression list (of one stream, where there are several)."""
        self.store.put(self.key, "suppression", f"{stream or '*'} {address.lower()}", True)

    def is_suppressed(self, address: str) -> bool:
        """Whether an address is on the list of all streams."""
        return self.store.get(self.key, "suppression", f"* {address.lower()}") is not None

    def take(self, message: SentMessage) -> None:
        """Record a message as accepted. What follows by itself is planned now."""
        self.store.add_message(message)
        self.context.accepted(message)

    def refuse(self, path: str, status: int, body: Any) -> None:
        """Record what was refused: an API request, or an item of a batch."""
        self.store.add_refusal(Refusal(self.key, path, status, body))

    def is_verified(self, address: str) -> bool:
        """Whether one may send from an address."""
        _, at, domain = address.rpartition("@")
        domains = self.context.sender_domains
        return bool(at and domain) and (domains is None or domain.lower() in domains)

    def keep(self, name: str, make: Callable[[], str]) -> str:
        """A text that is made once, for all processes that share the database: a key."""
        maker = (lambda: _made(make)) if self.context.shared_keys else make
        text: str = self.store.get_or_put(self.key, "setting", name, maker)
        return text

    # -- messages -------------------------------------------------------------------------

    def asks(self, message: SentMessage) -> Iterable[str]:
        """Names of `flask_mailesp.esp.Feature` that a message asks for.

        Those that the fields of a `SentMessage` show are known: these are the others.
        """
        return ()

    def is_id(self, text: str) -> bool:
        """Whether a text can be the id of a message."""
        return text.isprintable() and 0 < len(text) <= 200

    def renamed(self, message: SentMessage, number: str) -> SentMessage:
        """A message of which events speak as if its id were another; `is_id` is true of it."""
        ids = dict.fromkeys(message.ids or message.recipients, number)
        return replace(message, id=number, message_id=number, ids=ids)

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        """The normalised events its webhooks can report: some of `EVENTS`."""
        raise NotImplementedError

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """(event, recipient, details) that follow the acceptance of a message."""
        known = [event for event in events if event in self.events() and not message.test]
        return [(event, recipient, {}) for recipient in message.recipients for event in known]

    def is_hooked(self, message: SentMessage, hook: Any) -> bool:
        """Whether events of that message are posted anywhere. ``hook`` is of the type `hook`."""
        return hook.tracking is not None

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: Any,
    ) -> list[Post]:
        """Let an event happen, and return the requests it makes; the first is its own.

        ``event`` is one of `events`, or the provider's own name. ``details`` replace fields
        of its payload. Without a hook it happens all the same, and nobody is told.

        Raises ValueError for an event it cannot report, and for an unknown recipient.
        """
        raise NotImplementedError

    def inbound(self, mail: Inbound, hook: Any) -> list[Post]:
        """The requests an incoming mail makes; the first carries the mail."""
        raise NotImplementedError

    def hooked(self, hook: Any, before: Any) -> list[Post]:
        """The requests that setting a hook makes (a probe, a subscription's confirmation).

        ``before`` is the hook as it was. None are made where nothing has changed.
        """
        return []

    def find_recipient(self, message: SentMessage, recipient: str | None) -> str:
        """The address as the message has it; the first one where none is named.

        Raises ValueError where there is no such recipient.
        """
        for address in message.recipients:
            if recipient is None or recipient.lower() == address.lower():
                return address
        raise ValueError("the message has no such recipient")

    def unreported(self, event: str, name: str) -> ValueError:
        """The error for an event it cannot report; ``name`` is the provider's own spelling."""
        known = ", ".join(self.events())
        return ValueError(f"{name} cannot report {event!r}; it reports {known}")


@cache
def _made(make: Callable[[], str]) -> str:
    return make()


def base_of(request: Request, path: str) -> str:
    """The URL below which a provider is served, for links in its answers."""
    whole = request.root_url.rstrip("/") + request.path
    return whole.removesuffix(path)


# -- which there are ------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """The keys of all providers that can be simulated; none is loaded."""
    here = (key for key in BUILT_IN if find_spec(f"{__package__}.{key}") is not None)
    return tuple(dict.fromkeys([*here, *(point.name for point in _entry_points())]))


def load(key: str) -> type[Side]:
    """The class of one of the `names`."""
    found: type[Side]
    if key in BUILT_IN:
        found = import_module(f"{__package__}.{key}").side
    else:
        (found,) = [point.load() for point in _entry_points() if point.name == key]
    return found


def _entry_points() -> Iterator[EntryPoint]:
    return iter(entry_points(group=ENTRY_POINTS))


class Sides(Mapping[str, Side]):
    """The sides of one simulator, each made when it is first needed.

    ``options`` are the constructors' own, by key. Sides that have some are made at once, so
    that what is wrong with them is told to those who gave them.
    """

    def __init__(
        self, keys: Iterable[str], context: Context, options: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._context = context
        self._options = options
        self._made: dict[str, Side] = {}
        for key in options:
            if key in self._keys:
                self[key]

    def __getitem__(self, key: str) -> Side:
        if key not in self._keys:
            raise KeyError(key)
        if key not in self._made:
            side = load(key)(self._context, **self._options.get(key, {}))
            return self._made.setdefault(key, side)  # another thread may have been first
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def by_key(options: Mapping[str, Any], keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``postmark_tokens`` as ``tokens`` of ``postmark``. Raises TypeError for what is nobody's."""
    sorted_keys = sorted(keys, key=len, reverse=True)
    found: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        key = next((one for one in sorted_keys if option.startswith(f"{one}_")), None)
        if key is None:
            raise TypeError(f"a simulator has no option {option!r}")
        found.setdefault(key, {})[option.removeprefix(f"{key}_")] = value
    return found
