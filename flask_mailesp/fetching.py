"""Fetches what webhooks speak of and do not bring: mails, attachments, certificates."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from .esp import Fetch, HttpRequest, HttpResponse, Settings
from .exceptions import FetchError, MailESPError, NotSentError, SendUncertainError

if TYPE_CHECKING:
    from .esp import Event

_SECONDS = 12.0  # for all that one webhook needs; Amazon SNS waits 15 for the answer
_MOST_FETCHES = 250  # for one webhook: a mail has its attachments, and not thousands
_MOST_KEPT = 32  # answers
_BY_STRANGERS = 10  # fetches in a minute, for webhooks that are not authentic yet
_MINUTE = 60.0


class Fetches(Protocol):
    """What fetching needs of a transport."""

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        """Exchange one request; raise NotSentError or SendUncertainError."""
        ...


class Fetcher:
    """Follows an ESP's fetches to their end, and remembers what may be remembered."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, HttpResponse]] = OrderedDict()
        self._strangers: list[float] = []
        self._lock = threading.Lock()

    def begin(self, transport: Fetches, settings: Settings, now: datetime) -> Errand:
        """Return what follows the fetches of one webhook."""
        return Errand(self, transport, settings, now)

    def kept(self, url: str) -> HttpResponse | None:
        """Return a remembered answer that has not expired."""
        with self._lock:
            expires, response = self._kept.get(url, (0.0, None))
            return response if monotonic() < expires else None

    def expired(self, url: str) -> HttpResponse | None:
        """Return an answer that has helped before and has expired; it is forgotten with that."""
        with self._lock:
            return self._kept.pop(url, (0.0, None))[1]

    def keep(self, url: str, response: HttpResponse, seconds: float) -> None:
        """Remember an answer; the one remembered longest makes room."""
        with self._lock:
            self._kept[url] = monotonic() + seconds, response
            self._kept.move_to_end(url)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def count_stranger(self) -> None:
        """Count a fetch made for someone unknown. Raises FetchError if there are too many."""
        now = monotonic()
        with self._lock:
            self._strangers = [then for then in self._strangers if now - then < _MINUTE]
            if len(self._strangers) >= _BY_STRANGERS:
                raise FetchError("Too many webhooks ask for something to be fetched.")
            self._strangers.append(now)


class Errand:
    """The fetches of one webhook: bounded together in number and time."""

    def __init__(
        self, fetcher: Fetcher, transport: Fetches, settings: Settings, now: datetime
    ) -> None:
        self._fetcher = fetcher
        self._transport = transport
        self._settings = settings
        self._now = now
        self._until = monotonic() + _SECONDS
        self._left = _MOST_FETCHES

    def verify(self, fetch: Fetch | None) -> None:
        """Follow what ``verify`` returned. Raises WebhookRejected or FetchError."""
        while fetch is not None:
            found = self._resumed(fetch, self._fetcher.count_stranger)
            fetch = found if isinstance(found, Fetch) else None

    def events(self, found: Sequence[Event | Fetch] | Fetch | None) -> list[Event]:
        """Replace the fetches among some events by what they lead to. Raises FetchError."""
        events: list[Event] = []
        waiting = _as_list(found)
        while waiting:
            item = waiting.pop(0)
            if isinstance(item, Fetch):
                waiting[:0] = _as_list(self._resumed(item))
            else:
                events.append(item)
        return events

    def _resumed(
        self, fetch: Fetch, count: Callable[[], None] | None = None
    ) -> Sequence[Event | Fetch] | Fetch | None:
        """Fetch and go on; an answer is remembered only if it is good for that."""
        url = fetch.request.url
        response = self._fetcher.kept(url) if fetch.keep_seconds else None
        if response is not None:
            return fetch.resume(response)
        # Strangers must not use up what is needed to renew an answer that has helped before;
        # and they cannot have it fetched twice, for what is still the same is kept at once.
        before = self._fetcher.expired(url)
        if count is not None and before is None:
            count()
        response = self._exchange(fetch)
        if not response.complete:
            raise FetchError(f"What {_host(url)} sent broke off or was too large.")
        if before is not None and (response.status, response.body) == (200, before.body):
            self._fetcher.keep(url, response, fetch.keep_seconds)
        found = fetch.resume(response)
        if fetch.keep_seconds and response.status == 200:
            self._fetcher.keep(url, response, fetch.keep_seconds)
        return found

    def _exchange(self, fetch: Fetch) -> HttpResponse:
        seconds = self._until - monotonic()
        self._left -= 1
        if seconds <= 0 or self._left < 0:
            raise FetchError("What a webhook speaks of takes too long to fetch.")
        request, settings = fetch.request, self._settings
        public = fetch.foreign and _origin(request.url) != _origin(settings.get("API_URL"))
        if fetch.sign is not None:
            request = fetch.sign(request, settings, self._now)
        try:
            return self._transport.fetch(
                request, max_bytes=fetch.max_bytes, public=public, seconds=seconds
            )
        except (NotSentError, SendUncertainError) as error:
            raise FetchError(_without_doubt(error)) from None


def _as_list(found: Sequence[Event | Fetch] | Fetch | None) -> list[Event | Fetch]:
    if found is None:
        return []
    return [found] if isinstance(found, Fetch) else list(found)


def _without_doubt(error: MailESPError) -> str:
    """Leave out what only matters for messages."""
    return str(error).partition(". ")[0].rstrip(".") + "."


def _origin(url: object) -> tuple[str, str] | None:
    """Return the scheme and ``host:port`` of a URL, or None if it has none."""
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return None
    return (parts.scheme, parts.netloc.lower()) if parts.netloc else None


def _host(url: str) -> str:
    origin = _origin(url)
    return origin[1] if origin else "the server"
