"""The simulator itself: a WSGI application, its server, and the webhooks it posts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.wrappers import Request, Response

from . import hooks, mime
from .background import Background
from .postal import Postal
from .postmark import Postmark
from .records import Delivery, Fault, Hook, Inbound, Post, Refusal, SentMessage
from .server import ConnectionDropped, LocalServer
from .signing import Signer
from .store import Store

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)


class Side(Protocol):
    """What a provider's file offers to the simulator."""

    def respond(self, request: Request, path: str) -> Response:
        """Answer one API request; ``path`` is without the provider's prefix."""

    def events(self) -> tuple[str, ...]:
        """The normalised events its webhooks can report."""

    def automatic(
        self, message: SentMessage, events: Sequence[str]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """(event, recipient, details) that follow the acceptance of a message."""

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: Hook,
    ) -> list[Post]:
        """The requests one event makes; the first is the event's own."""

    def inbound(self, mail: Inbound, hook: Hook) -> list[Post]:
        """The requests an incoming mail makes; the first carries the mail."""


class Simulator:
    """The providers' side of the wire, as one WSGI application. All of it is thread-safe.

    ``postmark_tokens`` and ``postal_keys`` are the accepted credentials. ``sender_domains``
    None means that every From domain is verified; a set refuses others as the provider does.
    ``auto`` names the events that follow an acceptance by themselves after ``delay`` seconds,
    in a background thread (those a provider cannot report are left out); both can be changed
    later, as the attributes ``auto`` and ``delay``. ``postmark_streams``
    are the message streams that can send. ``postal_private_key`` (PEM, RSA) is the key
    Postal signs with; without one, a 2048-bit key is made when it is first needed.

    Raises ValueError if ``auto`` names an event no provider has.
    """

    def __init__(
        self,
        *,
        postmark_tokens: Iterable[str] = ("POSTMARK-SIMULATOR-TOKEN",),
        postal_keys: Iterable[str] = ("PostalSimulatorKey000001",),
        sender_domains: Iterable[str] | None = None,
        auto: Sequence[str] = ("delivered",),
        delay: float = 0.0,
        postmark_streams: Iterable[str] = ("outbound", "broadcast"),
        postal_private_key: str | None = None,
    ) -> None:
        domains = None if sender_domains is None else frozenset(d.lower() for d in sender_domains)
        self._store = Store()
        self._signer = Signer(postal_private_key)
        self._sides: dict[str, Side] = {
            "postmark": Postmark(
                self._store, self._accepted, postmark_tokens, postmark_streams, domains
            ),
            "postal": Postal(self._store, self._accepted, postal_keys, domains, self._signer),
        }
        self.auto = tuple(auto)
        self._check_auto()
        self.delay = delay
        self._background = Background(self._store.changed)
        self._lock = threading.Lock()
        self._hooks: dict[tuple[str, str | None], Hook] = {}
        self._server: LocalServer | None = None
        self._stopping = threading.Event()
        self.faults: list[Fault] = []

    def _check_auto(self) -> None:
        known = {event for side in self._sides.values() for event in side.events()}
        unknown = [event for event in self.auto if event not in known]
        if unknown:
            raise ValueError(f"no provider reports {unknown[0]!r}; known: {sorted(known)}")

    # -- the API --------------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        fault = self._next_fault()
        response = self._respond(request) if fault is None else self._misbehave(fault, request)
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        _, _, rest = request.path.partition("/")
        esp, slash, path = rest.partition("/")
        if esp not in self._sides:
            return Response("No such provider.", 404)
        try:
            return self._sides[esp].respond(request, slash + path)
        except Exception:
            logger.exception("the simulator failed to answer %s", request.path)
            self._store.add_refusal(Refusal(esp, slash + path, 500, "simulator error"))
            return Response("<h1>Internal Server Error</h1>", 500, mimetype="text/html")

    def _next_fault(self) -> Fault | None:
        with self._lock:
            return self.faults.pop(0) if self.faults else None

    def _misbehave(self, fault: Fault, request: Request) -> Response:
        self._stopping.wait(fault.delay)
        if fault.drop == "after":
            self._respond(request)
        if fault.drop is not None:
            raise ConnectionDropped
        if fault.status is None:
            return self._respond(request)
        response = Response(fault.body, fault.status)
        response.headers.update(fault.headers)
        return response

    def fault(self, **fields: Any) -> Fault:
        """Queue what happens to the next request; the fields are `Fault`'s."""
        fault = Fault(**fields)
        with self._lock:
            self.faults.append(fault)
        return fault

    # -- the server -----------------------------------------------------------------------

    def start(self, host: str = "127.0.0.1", port: int = 0) -> LocalServer:
        """Serve over real HTTP in a thread; port 0 takes a free one. RuntimeError if running."""
        with self._lock:
            if self._server is not None:
                raise RuntimeError(f"this simulator already runs at {self._server.url}")
            self._stopping.clear()
            self._server = LocalServer(self, host, port)
            return self._server

    def stop(self) -> None:
        """Stop the server and the background events. What was recorded stays readable."""
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

        Returns the deliveries; raises TimeoutError after ``timeout`` seconds.
        """

        def done() -> bool:
            if n_deliveries is None:
                return self._background.idle()
            return len(self._store.deliveries()) >= n_deliveries

        with self._store.changed:
            if not self._store.changed.wait_for(done, timeout):
                raise TimeoutError(f"{len(self.deliveries)} webhooks posted in {timeout} s")
        return self.deliveries

    # -- the provider's console -----------------------------------------------------------

    def hook(
        self,
        esp: str,
        tracking: str | None = None,
        inbound: str | None = None,
        stream: str | None = None,
        **options: Any,
    ) -> Hook:
        """Set where a provider posts; credentials in the URLs become the Basic header.

        Called again for the same provider (and message stream), it changes what is given.
        ``stream`` limits a Postmark hook to one message stream; None serves all others.

        Options on Postmark: ``include_content`` (bounces carry their source),
        ``subscription_changes`` (hard bounces and complaints are followed by the
        SubscriptionChange they cause). On Postal: ``inbound_format`` "raw" or "hash",
        ``inbound_encoding`` "json" or "form", ``strip_replies``, ``include_attachments``,
        ``signatures`` (any of "sha1", "sha256"), ``incoming_events`` (an inbound mail is
        also reported to the tracking hook, as a real Postal does).
        """
        self._side(esp)
        _check_choice("inbound_format", options, ("raw", "hash"))
        _check_choice("inbound_encoding", options, ("json", "form"))
        given = options | {
            name: url for name, url in (("tracking", tracking), ("inbound", inbound)) if url
        }
        with self._lock:
            hook = replace(self._hooks.get((esp, stream), Hook()), **given)
            self._hooks[esp, stream] = hook
        return hook

    def suppress(self, esp: str, address: str, stream: str | None = None) -> None:
        """Put an address on the suppression list (of one Postmark stream, or of all)."""
        self._side(esp)
        self._store.put(esp, "suppression", f"{stream or '*'} {address.lower()}", "manual")

    def template(
        self,
        esp: str,
        *,
        id: int | None = None,
        alias: str | None = None,
        subject: str = "",
        text: str | None = None,
        html: str | None = None,
    ) -> None:
        """Add a template, to be found by its id or its alias. Only Postmark has them."""
        if esp != "postmark":
            raise ValueError(f"{esp} has no templates")
        value = {"Subject": subject, "TextBody": text, "HtmlBody": html}
        for kind, key in (("id", id), ("alias", alias)):
            if key is not None:
                self._store.put(esp, "template", f"{kind} {key}", value)

    @property
    def postal_public_key(self) -> str:
        """Postal's public key, PEM (SubjectPublicKeyInfo)."""
        return self._signer.public_pem

    @property
    def postal_dkim_record(self) -> str:
        """The same key as Postal prints it for the DNS."""
        return self._signer.dkim_record

    @property
    def postal_jwks(self) -> dict[str, Any]:
        """The same key as a JSON Web Key Set."""
        return self._signer.jwks

    # -- webhooks -------------------------------------------------------------------------

    def events(self, esp: str) -> tuple[str, ...]:
        """The normalised events a provider can report."""
        return self._side(esp).events()

    def emit(
        self,
        message: SentMessage | str | int,
        event: str,
        recipient: str | None = None,
        **details: Any,
    ) -> Delivery:
        """Post one event of a message for one recipient (default: the first), now.

        ``event`` is a normalised name of `events`, or the provider's own (``Bounce``,
        ``MessageBounced``). ``details`` are fields of the provider's own body and replace
        what stands there (``Type="Blocked"``, ``output="550 no"``); ``url`` and
        ``user_agent`` work on both providers.

        Raises ValueError for an event the provider cannot report, a message or a recipient
        it does not know; LookupError if no tracking hook is set.
        """
        sent, address = self._find(message)
        return self._emit(sent, event, recipient or address, details)

    def _find(self, message: SentMessage | str | int) -> tuple[SentMessage, str | None]:
        if isinstance(message, SentMessage):
            return message, None
        wanted = str(message)
        for sent in reversed(self.messages):
            for address, number in sent.ids.items():
                if number == wanted:
                    return sent, address
            if wanted in (sent.id, sent.message_id):
                return sent, None
        raise ValueError(f"no message {message!r} was accepted")

    def _emit(
        self, message: SentMessage, event: str, recipient: str | None, details: dict[str, Any]
    ) -> Delivery:
        hook = self._hook_for(message.esp, message.stream)
        if hook.tracking is None:
            raise LookupError(f"no tracking hook is set: call hook({message.esp!r}, tracking=...)")
        side = self._side(message.esp)
        return self._post_all(side.webhooks(message, event, recipient, details, hook))

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
        null sender of bounces (``<>``). ``raw_email`` adds Postmark's RawEmail; ``spam``
        is what the provider's filter found: (flag, score).

        Raises LookupError if no inbound hook is set.
        """
        hook = self._hook_for(esp, "inbound")
        if hook.inbound is None:
            raise LookupError(f"no inbound hook is set: call hook({esp!r}, inbound=...)")
        source = mime.as_bytes(raw)
        if mail_from == "":
            mail_from = next((address for _, address in mime.Mail(source).addresses("From")), "")
        mail = Inbound(source, to, mail_from, raw_email, spam)
        return self._post_all(self._side(esp).inbound(mail, hook))

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
        self._side(esp)
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
        return self._post_all([Post(delivery.url, delivery.request_body, delivery.request_headers)])

    def _post_all(self, posts: list[Post]) -> Delivery:
        first, *_ = [self._post(post) for post in posts]
        return first

    def _post(self, post: Post) -> Delivery:
        delivery = hooks.post(post)
        self._store.add_delivery(delivery)
        return delivery

    def _accepted(self, message: SentMessage) -> None:
        """Called by a side, before it answers: what follows is counted before it can."""
        side = self._side(message.esp)
        for event, recipient, details in side.automatic(message, self.auto):
            self._background.submit(self._later(message, event, recipient, details), self.delay)

    def _later(
        self, message: SentMessage, event: str, recipient: str, details: dict[str, Any]
    ) -> Callable[[], object]:
        def job() -> None:
            if self._hook_for(message.esp, message.stream).tracking is not None:
                self._emit(message, event, recipient, details)

        return job

    def _hook_for(self, esp: str, stream: str | None) -> Hook:
        with self._lock:
            return self._hooks.get((esp, stream)) or self._hooks.get((esp, None)) or Hook()

    def _side(self, esp: str) -> Side:
        if esp not in self._sides:
            raise ValueError(f"the simulator speaks {', '.join(self._sides)}, not {esp!r}")
        return self._sides[esp]


def _check_choice(name: str, options: Mapping[str, Any], choices: tuple[str, ...]) -> None:
    value = options.get(name, choices[0])
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")
