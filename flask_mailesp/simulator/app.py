"""The simulator itself: a WSGI application, its server, and the webhooks it posts."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from . import control, faults, mime
from .background import Background
from .codec import make
from .hooks import Poster
from .records import Delivery, Fault, Inbound, Pending, Post, Refusal, SentMessage
from .server import MAX_BODY, ConnectionDropped, LocalServer
from .side import EVENTS, Context, Side, Sides, by_key, names
from .store import Faults, Store

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how often to look what another process has done


class Simulator:
    """The providers' side of the wire, as one WSGI application. All of it is thread-safe.

    ``database`` is a file to remember everything in; other processes that open it see the
    same mailbox, hooks and faults. None keeps it in memory. ``keep`` is how many messages are
    remembered. ``esps`` are the providers to speak; None for all.

    ``sender_domains`` None means that every From domain is verified; a set refuses others as
    the provider does. ``auto`` names the events that follow an acceptance by themselves after
    ``delay`` seconds, in a background thread (those a provider cannot report are left out);
    both can be changed later, as the attributes ``auto`` and ``delay``. ``verify_webhooks``
    has providers probe the webhooks that are created through their API. ``shared_keys`` has
    all simulators of a process sign with the same keys, where they are not given: making an
    RSA key takes longer than most tests.

    ``options`` are those of a provider's own side, with its key in front: ``postmark_tokens``
    and ``postal_keys`` are the accepted credentials, for example, ``postmark_streams`` the
    message streams that can send, and ``postal_private_key`` (PEM, RSA) signs.

    A webhook that is not answered as the provider wants it is posted again on the provider's
    own schedule, in real time; ``time_scale`` (also an attribute) multiplies its waits: 0
    repeats at once. ``seed`` makes faults with a probability happen the same way each time.

    Raises ValueError if ``auto`` names an event no provider has or ``esps`` a provider it
    does not speak, or for a negative ``time_scale``; TypeError for an option that no provider
    has; `DatabaseError` if the database cannot be used.
    """

    def __init__(
        self,
        *,
        database: str | os.PathLike[str] | None = None,
        keep: int = 10_000,
        esps: Iterable[str] | None = None,
        sender_domains: Iterable[str] | None = None,
        auto: Sequence[str] = ("delivered",),
        delay: float = 0.0,
        verify_webhooks: bool = False,
        shared_keys: bool = False,
        time_scale: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        known = names()
        own = by_key(options, known)
        self.auto = _checked_auto(auto)
        domains = None if sender_domains is None else frozenset(d.lower() for d in sender_domains)
        self._store = Store(database, keep)
        context = Context(self._store, self._accepted, domains, verify_webhooks, shared_keys)
        spoken = known if esps is None else tuple(_checked(known, esp) for esp in esps)
        self._sides = Sides(spoken, context, own)
        self.delay = delay
        self._background = Background(self._store.changed)
        self._chance = random.Random(seed)  # noqa: S311
        self._poster = Poster(self._store, self._background, self._chance, _scale(time_scale))
        self._lock = threading.Lock()
        self._server: LocalServer | None = None
        self._stopping = threading.Event()
        self._now = threading.local()
        self._mounts: dict[str, WSGIApplication] = {}
        _simulators.add(self)

    @property
    def esps(self) -> tuple[str, ...]:
        """The providers it speaks."""
        return tuple(self._sides)

    @property
    def time_scale(self) -> float:
        """What the waits between the attempts of a webhook are multiplied with."""
        return self._poster.time_scale

    @time_scale.setter
    def time_scale(self, value: float) -> None:
        self._poster.time_scale = _scale(value)

    # -- the API --------------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = _request(environ)
        first, _, rest = request.path[1:].partition("/")
        if first in self._mounts and (first or not rest):
            return self._mounted(first, environ, start_response)
        if first == "_control":
            return control.respond(self, request, rest)(environ, start_response)
        return self._respond(request, first, f"/{rest}")(environ, start_response)

    def provider(self, esp: str) -> WSGIApplication:
        """One provider's API at the root, for clients that cannot be given a path.

        ``LocalServer(sim.provider("postmark"))`` serves it; stop that server yourself.
        """
        self.side(esp)

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            request = _request(environ)
            return self._respond(request, esp, request.path)(environ, start_response)

        return app

    def mount(self, name: str, app: WSGIApplication) -> None:
        """Serve another WSGI application under ``/name/``; "" is the front page alone."""
        self._mounts[name] = app

    def _mounted(
        self, name: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        shifted = dict(environ)
        if name:
            shifted["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{name}"
            shifted["PATH_INFO"] = environ["PATH_INFO"][len(name) + 1 :]
        return self._mounts[name](shifted, start_response)

    def _respond(self, request: Request, esp: str, path: str) -> Response:
        if esp not in self._sides:
            return Response("No such provider.", 404)
        try:
            fault = self._fault_for(request, esp, path)
        except ValueError as error:
            return Response(f"{faults.HEADER}: {error}.", 400)
        try:
            return self._serve(request, esp, path, fault or Fault())
        finally:
            request.close()  # the files of a form

    def _fault_for(self, request: Request, esp: str, path: str) -> Fault | None:
        """What a header asks for, else the first of the queue that is for this request."""
        self._now.webhook_fault = None
        header = request.headers.get(faults.HEADER)
        asked = None if header is None else faults.read_header(header)
        if asked is not None and asked.webhook is None:
            return asked if self._chance.random() < asked.probability else None
        self._now.webhook_fault = asked
        return self.faults.take(faults.for_request(esp, path), self._chance)

    def _serve(self, request: Request, esp: str, path: str, fault: Fault) -> Response:
        self._stopping.wait(fault.delay)
        cut = fault.drop or fault.reset
        answer = None if cut else faults.given_answer(fault)
        if answer is None and cut != "before":
            answer = faults.spoiled(fault, self._answer(request, esp, path))
        if cut or answer is None:
            raise ConnectionDropped(reset=fault.reset is not None)
        return answer

    def _answer(self, request: Request, esp: str, path: str) -> Response:
        try:
            return self._sides[esp].respond(request, path)
        except Exception:
            logger.exception("the simulator failed to answer %s", request.path)
            self._store.add_refusal(Refusal(esp, path, 500, "simulator error"))
            return Response("<h1>Internal Server Error</h1>", 500, mimetype="text/html")

    @property
    def faults(self) -> Faults:
        """The faults that wait for their turn: a list, shared by all processes."""
        return self._store.faults

    def fault(self, **fields: Any) -> Fault:
        """Queue what goes wrong with the next request or webhook; the fields are `Fault`'s.

        ``fault(status=503)`` spoils one API request; ``fault(webhook="doubled")`` one webhook;
        ``fault(reset="after", times=None, probability=0.1)`` a tenth of all requests from
        now on. The first fault that fits is taken; `faults` holds the rest.

        Raises ValueError for values that make no sense.
        """
        return self.faults.add(faults.checked(Fault(**fields)))

    # -- the server -----------------------------------------------------------------------

    def start(self, host: str = "127.0.0.1", port: int = 0) -> LocalServer:
        """Serve over real HTTP in a thread; port 0 takes a free one. RuntimeError if running."""
        with self._lock:
            if self._server is not None:
                raise RuntimeError(f"this simulator already runs at {self._server.url}")
            self._stopping.clear()
            self._server = LocalServer(self, host, port)
            return self._server

    def close(self) -> None:
        """Stop, and close the database. Done by itself when nobody holds the simulator."""
        self.stop()
        self._store.close()

    def stop(self) -> None:
        """Stop the server, the background events and the retries that were to come.

        What was recorded stays readable.
        """
        with self._lock:
            server, self._server = self._server, None
        self._stopping.set()
        if server is not None:
            server.stop()
        self._background.stop()

    @contextmanager
    def running(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[LocalServer]:
        """`start` and `stop` around a block."""
        server = self.start(host, port)
        try:
            yield server
        finally:
            self.stop()

    # -- what happened --------------------------------------------------------------------

    @property
    def messages(self) -> list[SentMessage]:
        """The accepted messages, oldest first."""
        return self._store.messages()

    def newest(self, count: int = 50, before: str | None = None) -> list[SentMessage]:
        """At most ``count`` messages, newest first; with an id, only those before it."""
        return self._store.newest(count, before)

    def message(self, number: str | int) -> SentMessage | None:
        """The message with that id, Message-ID or recipient's id, or None."""
        found = self._store.find(str(number))
        return found[0] if found else None

    @property
    def message_count(self) -> int:
        """How many messages are remembered."""
        return self._store.count()

    @property
    def pending(self) -> list[Pending]:
        """The webhooks this process is still to post: automatic ones, retries, held back."""
        return self._background.pending()

    def clear(self) -> None:
        """Forget messages, refusals and webhooks. Hooks, templates and the rest stay."""
        self._store.clear()

    @property
    def rejected(self) -> list[Refusal]:
        """The refused requests and batch items, newest last."""
        return self._store.refusals()

    @property
    def deliveries(self) -> list[Delivery]:
        """The webhook requests made so far, oldest first."""
        return self._store.deliveries()

    def wait(self, n_deliveries: int | None = None, timeout: float = 5) -> list[Delivery]:
        """Wait until the automatic events are posted, or there are so many deliveries.

        Retries are waited for if they are due within the timeout. Returns the deliveries;
        raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout

        def done() -> bool:
            if n_deliveries is None:
                return self._background.idle(deadline)
            return self._store.count_deliveries() >= n_deliveries

        with self._store.changed:
            while not done():
                left = deadline - time.monotonic()
                if left <= 0:
                    count = self._store.count_deliveries()
                    raise TimeoutError(f"{count} webhooks posted in {timeout} s")
                self._store.changed.wait(min(left, POLL_SECONDS) if self._store.shared else left)
        return self.deliveries

    # -- the provider's console -----------------------------------------------------------

    def hook(
        self,
        esp: str,
        tracking: str | None = None,
        inbound: str | None = None,
        stream: str | None = None,
        **options: Any,
    ) -> Any:
        """Set where a provider posts; credentials in the URLs become the Basic header.

        Called again for the same provider (and message stream), it changes what is given.
        ``stream`` limits the hook to one message stream, where the provider has those; None
        serves all others. ``options`` are what else its console offers: the fields of its own
        `Hook`, which is returned.

        What the provider posts at once (a probe, a subscription to confirm) follows in the
        background, unless ``auto`` is empty: see `announce`.
        """
        side = self.side(esp)
        given = options | {
            name: url for name, url in (("tracking", tracking), ("inbound", inbound)) if url
        }
        with self._lock:
            before = self._hook(esp, stream) or side.hook()
            hook = replace(before, **given)
            self._store.put(esp, "hook", stream or "*", hook)
        if self.auto:
            for post in side.hooked(hook, before):
                self._background.submit(
                    self._sender(post), Pending(esp, post.event, post.message, 1, 0.0)
                )
        return hook

    def announce(self, esp: str, stream: str | None = None) -> list[Delivery]:
        """Post now what the provider posts to a hook when it is set, and return what came of it.

        Empty where it posts nothing then.
        """
        side = self.side(esp)
        posts = side.hooked(self._hook_for(esp, stream), side.hook())
        return [self._poster.send(post) for post in posts]

    def _sender(self, post: Post) -> Callable[[], object]:
        return lambda: self._poster.send(post)

    def settings(self, esp: str, url: str | None = None) -> dict[str, Any]:
        """What points an app at a provider here: names without ``MAILESP_<ESP>_``, and values.

        The URL, the credentials, and what its webhooks are verified by. ``url`` is where the
        provider's API is served: by default below the running server.

        Raises RuntimeError if nothing runs and no ``url`` is given.
        """
        side = self.side(esp)
        if url is None and self._server is None:
            raise RuntimeError("this simulator does not run: start it, or give the url")
        return side.settings(url or (self._server.url_for(esp) if self._server else ""))

    def suppress(self, esp: str, address: str, stream: str | None = None) -> None:
        """Put an address on the suppression list (of one stream, where there are several)."""
        self.side(esp).suppress(address, stream)

    def template(
        self,
        esp: str,
        *,
        id: int | str | None = None,
        alias: str | None = None,
        subject: str = "",
        text: str | None = None,
        html: str | None = None,
    ) -> None:
        """Add a template, to be found by its id, or by its alias where the provider has those.

        Raises ValueError where it has no templates.
        """
        self.side(esp).template(id, alias, subject, text, html)

    @property
    def postal_public_key(self) -> str:
        """Postal's public key, PEM (SubjectPublicKeyInfo)."""
        return str(self._postal_signer.public_pem)

    @property
    def postal_dkim_record(self) -> str:
        """The same key as Postal prints it for the DNS."""
        return str(self._postal_signer.dkim_record)

    @property
    def postal_jwks(self) -> dict[str, Any]:
        """The same key as a JSON Web Key Set."""
        return dict(self._postal_signer.jwks)

    @property
    def _postal_signer(self) -> Any:
        side: Any = self.side("postal")
        return side.signer

    # -- webhooks -------------------------------------------------------------------------

    def events(self, esp: str) -> tuple[str, ...]:
        """The normalised events a provider can report."""
        return self.side(esp).events()

    def emit(
        self,
        message: SentMessage | str | int,
        event: str,
        /,
        recipient: str | None = None,
        **details: Any,
    ) -> Delivery:
        """Post one event of a message for one recipient (default: the first), now.

        ``event`` is a normalised name of `events`, or the provider's own (``Bounce``,
        ``MessageBounced``). ``details`` are fields of the provider's own body and replace
        what stands there (``Type="Blocked"``, ``output="550 no"``); ``url`` and
        ``user_agent`` work on all providers.

        Raises ValueError for an event the provider cannot report, a message or a recipient
        it does not know; LookupError if no tracking hook is set.
        """
        sent, address = self._find(message)
        return self._emit(sent, event, recipient or address, details)

    def _find(self, message: SentMessage | str | int) -> tuple[SentMessage, str | None]:
        if isinstance(message, SentMessage):
            return message, None
        found = self._store.find(str(message))
        if found is None:
            raise ValueError(f"no message {message!r} was accepted")
        return found

    def _emit(
        self, message: SentMessage, event: str, recipient: str | None, details: dict[str, Any]
    ) -> Delivery:
        hook = self._hook_for(message.esp, message.stream)
        side = self.side(message.esp)
        if not side.is_hooked(message, hook):
            raise LookupError(f"no tracking hook is set: call hook({message.esp!r}, tracking=...)")
        posts = side.webhooks(message, event, recipient, details, hook)
        if not posts:
            raise LookupError(f"no webhook of this message's stream is told of {event!r}")
        return self._post_all(posts)

    def receive(
        self,
        esp: str,
        raw: bytes | EmailMessage,
        to: str,
        mail_from: str | None = "",
        *,
        raw_email: bool = False,
        spam: tuple[bool, float] | None = None,
    ) -> Delivery:
        """Let a mail arrive for ``to`` and post it to the inbound hook.

        ``mail_from`` is the envelope sender: by default the address in From; None is the
        null sender of bounces (``<>``). ``raw_email`` adds the mail's source, where a provider
        can give it beside what it has parsed; ``spam`` is what its filter found: (flag, score).

        Raises LookupError if no inbound hook is set.
        """
        hook = self._hook_for(esp, "inbound")
        if hook.inbound is None:
            raise LookupError(f"no inbound hook is set: call hook({esp!r}, inbound=...)")
        source = mime.as_bytes(raw)
        if mail_from == "":
            mail_from = next((address for _, address in mime.Mail(source).addresses("From")), "")
        mail = Inbound(source, to, mail_from, raw_email, spam)
        return self._post_all(self.side(esp).inbound(mail, hook))

    def compose(
        self,
        esp: str,
        *,
        from_: str,
        to: str | Sequence[str],
        subject: str | None,
        text: str | None,
        html: str | None = None,
        attachments: Sequence[tuple[str, str, bytes]] = (),
        inline: Sequence[tuple[str, str, str, bytes]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Write a mail for `receive`: CRLF line ends, Date and Message-ID included.

        ``attachments`` are (name, type, bytes), ``inline`` (content id, name, type, bytes).
        The mail is the same whichever provider it is to arrive at.
        """
        self.side(esp)
        return mime.compose(
            from_=from_,
            to=to,
            subject=subject,
            text=text,
            html=html,
            attachments=attachments,
            inline=inline,
            headers=headers,
        )

    def redeliver(self, delivery: Delivery) -> Delivery:
        """Post a webhook once more, byte for byte, as a provider does that got no answer."""
        again = Post(
            delivery.url,
            delivery.request_body,
            delivery.request_headers,
            esp=delivery.esp,
            event=delivery.event,
            message=delivery.message,
        )
        return self._poster.attempt(again)

    def _post_all(self, posts: list[Post], fault: Fault | None = None) -> Delivery:
        first, *_ = [self._poster.send(post, fault) for post in posts]
        return first

    def _accepted(self, message: SentMessage) -> None:
        """Called by a side, before it answers: what follows is counted before it can."""
        side = self.side(message.esp)
        fault = getattr(self._now, "webhook_fault", None)
        for event, recipient, details in side.automatic(message, self.auto):
            job = self._later(message, event, recipient, details, fault)
            self._background.submit(job, Pending(message.esp, event, message.id, 1, self.delay))

    def _later(
        self,
        message: SentMessage,
        event: str,
        recipient: str,
        details: dict[str, Any],
        fault: Fault | None,
    ) -> Callable[[], object]:
        def job() -> None:
            hook = self._hook_for(message.esp, message.stream)
            posts = self.side(message.esp).webhooks(message, event, recipient, details, hook)
            for post in posts:
                self._poster.send(post, fault)

        return job

    def _hook(self, esp: str, stream: str | None) -> Any:
        data = self._store.get(esp, "hook", stream or "*")
        return None if data is None else make(self.side(esp).hook, data)

    def _hook_for(self, esp: str, stream: str | None) -> Any:
        found = (self._hook(esp, stream) if stream else None) or self._hook(esp, None)
        return found or self.side(esp).hook()

    def side(self, esp: str) -> Side:
        """What stands for one provider. Raises ValueError for one that is not spoken."""
        return self._sides[_checked(self._sides, esp)]


def _checked(known: Iterable[str], esp: str) -> str:
    if esp not in known:
        raise ValueError(f"the simulator speaks {', '.join(known)}, not {esp!r}")
    return esp


def _checked_auto(auto: Iterable[str]) -> tuple[str, ...]:
    events = tuple(auto)
    unknown = [event for event in events if event not in EVENTS]
    if unknown:
        raise ValueError(f"no provider reports {unknown[0]!r}; known: {sorted(EVENTS)}")
    return events


def _request(environ: WSGIEnvironment) -> Request:
    """A request whose forms may be as large as mail is."""
    request = Request(environ)
    request.max_form_memory_size = MAX_BODY
    return request


def _scale(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"the time scale is a number from 0 on, not {value!r}")
    return value


# -- fork -----------------------------------------------------------------------------------

_simulators: weakref.WeakSet[Simulator] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for simulator in list(_simulators):
        simulator._background.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
