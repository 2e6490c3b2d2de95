"""Recording what an app sends, in tests: nothing leaves, and everything else is real.

While a recording runs, every request that would go to an ESP is handed, in this process and
without a network, to the ESP's side of the wire (`flask_mailesp.simulator`). So messages are
checked and built as in production, the provider's validation answers, and results and ids are
what the provider's would be. Webhooks go the way back: genuine ones, through the app's own
routes, to its own receivers. ::

    with mail.record_messages() as outbox:  # in an app context
        client.post("/register", data={"email": "you@example.com"})
        message = outbox.one(to="you@example.com")
        outbox.simulate(message, "bounced")  # the app's receivers of `tracking` run
        outbox.receive(from_="you@example.com", subject="Help", text="...")  # ... of `inbound`

With pytest, the fixtures ``mailesp_outbox``, ``mailesp_simulate`` and ``mailesp_receive`` do
the same for all apps. For development and tests only: production code never imports this.
"""

from __future__ import annotations

import base64
import copy
import itertools
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.message import EmailMessage
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, overload
from urllib.parse import urlsplit

from flask import Flask, appcontext_pushed, current_app
from flask.testing import FlaskClient
from werkzeug.test import Client

from . import extraction, signals
from .address import Address, parse_address
from .delivery import Mailer
from .esp import (
    Call,
    Esp,
    HttpRequest,
    HttpResponse,
    Reading,
    Secret,
    SecretBytes,
    Settings,
)
from .exceptions import InvalidAddressError, MailESPError, NotSentError, SendUncertainError
from .extension import State
from .fetching import Fetches
from .message import Alternative, Attachment, Message, PreparedMessage, as_attachment
from .pointing import pointed
from .results import Outcome, RecipientStatus, SendResult
from .simulator import Delivery, Simulator, hooks
from .simulator.mime import Mail
from .simulator.records import Post
from .simulator.server import ConnectionDropped
from .wire import parse_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Where the simulator's APIs are; what is sent there never leaves this process.
_BASE = "http://simulator.outbox.invalid"

_MARK = "x-request-id"  # the answer's header that tells which exchange it belongs to
_TAKEN = frozenset({Outcome.ACCEPTED, Outcome.PARTIAL})
_marks = itertools.count(1)

Text = str | re.Pattern[str] | Callable[[Any], object]
Who = Text | Address | Iterable[Text | Address]


# --- what was sent ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False, eq=False, kw_only=True)
class RecordedMessage:
    """One message as it was sent: defaults applied, addresses parsed, nothing changeable.

    The attributes are those of `Message`, in the form that the ESP's room read. ``result``
    is what `MailESP.send` returned (or what its error carries), ``app`` and ``mailer`` tell
    through which of the apps and of its mailers.
    """

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    subject: str
    body: str | None
    html: str | None
    attachments: tuple[Attachment, ...]
    headers: tuple[tuple[str, str], ...]
    alternatives: tuple[Alternative, ...]
    envelope_sender: Address | None
    metadata: Mapping[str, Any] | None
    tags: tuple[str, ...]
    track_clicks: bool | None
    track_opens: bool | None
    send_at: datetime | None
    template_id: str | int | None
    merge_data: Mapping[str, Mapping[str, Any]] | None
    merge_global_data: Mapping[str, Any] | None
    merge_metadata: Mapping[str, Mapping[str, Any]] | None
    merge_headers: Mapping[str, Mapping[str, str]] | None
    idempotency_key: str | None
    esp_extra: Mapping[str, Any]
    is_batch: bool
    app: Flask
    mailer: str
    result: SendResult
    _exchange: _Exchange | None

    @property
    def recipients(self) -> tuple[Address, ...]:
        """Everyone the message went to: to, cc and bcc, in that order."""
        return self.to + self.cc + self.bcc

    @property
    def esp_name(self) -> str:
        """The ESP's own spelling of its name."""
        return self.result.esp_name

    @property
    def message_id(self) -> str | set[str] | None:
        """The ESP's id; a set where recipients have different ones."""
        return self.result.message_id

    @property
    def payloads(self) -> tuple[Any, ...]:
        """The JSON objects the provider got, one for each copy; credentials are not in them.

        For a message that was not taken: what was in the request, if there was one.
        """
        if self._exchange is None:
            return ()
        found = map(self._exchange.simulator.message, self._ids())
        taken = {one.id: one.payload for one in found if one is not None}
        return copy.deepcopy(tuple(taken.values())) or (self._exchange.payload,)

    @property
    def payload(self) -> Any:
        """The JSON object the provider got; of several copies, the first."""
        return next(iter(self.payloads), None)

    @property
    def links(self) -> tuple[str, ...]:
        """The http and https links of the HTML, then those only the text has."""
        return extraction.links(self.body, self.html)

    @property
    def codes(self) -> tuple[str, ...]:
        """What looks like a one-time code in the text and the HTML, as it is written."""
        return extraction.codes(self.body, self.html)

    def _ids(self) -> list[str]:
        """The ESP's ids of all copies, in the order of the recipients."""
        ids = [number for entry in self.result.recipients.values() for number in _ids_of(entry)]
        return list(dict.fromkeys(ids))

    def __repr__(self) -> str:
        """For the output of tests; so addresses are shown, unlike elsewhere."""
        also = "".join(
            f", {name} {', '.join(map(str, getattr(self, name)))}"
            for name in ("cc", "bcc", "tags")
            if getattr(self, name)
        )
        to = ", ".join(map(str, self.to)) or "nobody"
        through = self.esp_name if self.mailer == "default" else f"{self.esp_name}, {self.mailer}"
        return f"<{self.subject!r} to {to}{also} ({through}, {self.result.outcome})>"


def _ids_of(entry: RecipientStatus) -> list[str]:
    if isinstance(entry.message_id, frozenset):
        return sorted(entry.message_id)
    return [entry.message_id] if entry.message_id else []


# --- the outbox ------------------------------------------------------------------------


class Criteria(TypedDict, total=False):
    """What `Outbox.one` and `Outbox.find` look for; a message must match everything given.

    ``to``, ``cc``, ``bcc``: an address, in any spelling, or a list of which each must be
    there. ``subject`` and ``tag``: the whole text. Instead of each of these, a compiled
    pattern may be found in the text, or a function be true of it. ``esp`` is a name such as
    ``"postmark"``, ``mailer`` one of MAILESP_MAILERS, and ``body_contains`` a part of the
    text or of the HTML.
    """

    to: Who
    cc: Who
    bcc: Who
    subject: Text
    tag: Text
    esp: str
    mailer: str
    body_contains: str


class Outbox(Sequence[RecordedMessage]):
    """The messages sent while a recording runs, oldest first, from all threads.

    ``failed`` has those whose send ended in an error. Neither has those that a ``pre_send``
    receiver cancelled, nor those for which `MailESP.send` raised InvalidMessageError.
    """

    def __init__(self, until: ExitStack, of: Callable[[State], bool]) -> None:
        self._until = until  # what is put back when the recording ends
        self._lock = threading.Lock()
        self._messages: list[RecordedMessage] = []
        self._failed: list[RecordedMessage] = []
        self._exchanges: dict[str, _Exchange] = {}
        self._wired: dict[int, tuple[Mailer, Mailer]] = {}
        self._apps: set[Flask] = set()
        self._simulator: Simulator | None = None
        self._hosts: dict[str, tuple[Flask, str]] = {}
        self._doors: dict[tuple[State, str], _Door] = {}
        until.enter_context(_posting(self._hosts))
        until.enter_context(_fetching(self._doors, of))

    @property
    def failed(self) -> tuple[RecordedMessage, ...]:
        """The messages that were refused, not sent, or perhaps sent; see ``result.error``."""
        with self._lock:
            return tuple(self._failed)

    def find(self, **criteria: Unpack[Criteria]) -> list[RecordedMessage]:
        """Return the messages that match, oldest first; all of them without `Criteria`."""
        return self._find(criteria)

    def one(self, **criteria: Unpack[Criteria]) -> RecordedMessage:
        """Return the one message that matches the `Criteria`.

        Raises AssertionError, listing what was sent, if there is none or more than one.
        """
        __tracebackhide__ = True
        found = self._find(criteria)
        if len(found) != 1:
            raise AssertionError(self._report(criteria, len(found)))
        return found[0]

    def _find(self, criteria: Mapping[str, Any]) -> list[RecordedMessage]:
        unknown = [name for name in criteria if name not in _CRITERIA]
        if unknown:
            raise TypeError(f"There is no {unknown[0]!r}; look for {', '.join(_CRITERIA)}.")
        asked = [(_CRITERIA[name], wanted) for name, wanted in criteria.items()]
        return [message for message in self if all(fits(message, item) for fits, item in asked)]

    def _report(self, criteria: Mapping[str, Any], count: int) -> str:
        wanted = ", ".join(f"{name}={value!r}" for name, value in criteria.items())
        found = f"{count} messages match" if count else "No message matches"
        head = f"{found} {wanted}." if wanted else f"There are {count} messages, not one."
        return "\n".join([head, *_listed("sent", self), *_listed("failed", self.failed)])

    def clear(self) -> None:
        """Forget the messages so far, and the failed ones."""
        with self._lock:
            self._messages.clear()
            self._failed.clear()

    @overload
    def __getitem__(self, index: int) -> RecordedMessage: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedMessage]: ...

    def __getitem__(self, index: int | slice) -> RecordedMessage | list[RecordedMessage]:
        with self._lock:
            return self._messages[index]

    def __len__(self) -> int:
        with self._lock:
            return len(self._messages)

    def __iter__(self) -> Iterator[RecordedMessage]:
        return iter(self[:])

    def __repr__(self) -> str:
        return f"<Outbox: {len(self)} sent, {len(self.failed)} failed>"

    # -- recording ------------------------------------------------------------------------

    def wired(self, mailer: Mailer) -> Mailer:
        """Return a mailer that sends to the simulator what this one would send to its ESP.

        Always the same for a mailer: what a strategy learns holds as long as the recording.
        """
        with self._lock:
            known = self._wired.get(id(mailer))
            if known is None:
                known = self._wired[id(mailer)] = mailer, self._wire(mailer, mailer.name)
            return known[1]

    def _wire(self, mailer: Mailer, name: str) -> Mailer:
        """Wire a mailer, or the members of one that is a strategy, which has their ``name``."""
        if mailer.strategy is not None:
            strategy = mailer.strategy.with_members(
                lambda member: replace(
                    member,
                    mailer=self._wire(member.mailer, name),
                    breaker=member.breaker.fresh(),
                )
            )
            return replace(strategy.members[0].mailer, name=name, strategy=strategy)
        wire = _Wire(self, mailer, name)
        esp = replace(
            mailer.esp,
            build=wire.build,
            build_many=wire.build_many if mailer.esp.build_many else None,
            read=wire.read,
            sign=wire.sign if mailer.esp.sign else None,
        )
        # Tests do not wait, and one test's 429 is not the next one's.
        retries = replace(mailer.retries, sleep=_no_pause)
        return replace(mailer, esp=esp, transport=wire, retries=retries, limit=None)

    def see(self, app: Flask, **_: Any) -> None:
        """Remember an app: the only one with a MailESP need not be named in `receive`."""
        if "mailesp" in app.extensions:
            self._apps.add(app)

    def note(self, mark: str | None, exchange: _Exchange) -> None:
        """Keep an exchange until the results of its messages are known."""
        with self._lock:
            self._exchanges[mark or ""] = exchange

    def record(self, app: Flask, message: Message, result: SendResult, esp_name: str) -> None:
        """Receive `post_send`: the send of a message has ended."""
        self.see(app)
        with self._lock:
            exchange = self._exchanges.get(_mark_of(result))
            prepared = self._taken(exchange, result) if exchange else None
            recorded = RecordedMessage(
                **_shown(prepared or _as_written(message)),
                app=app,
                mailer=exchange.name if exchange else _mailer_name(app, esp_name),
                result=result,
                _exchange=exchange,
            )
            (self._messages if result.outcome in _TAKEN else self._failed).append(recorded)

    def _taken(self, exchange: _Exchange, result: SendResult) -> PreparedMessage | None:
        """Return the message that a result is about, from its last exchange.

        If only some of its recipients were in that one, it is in an earlier one as a whole.
        """
        whole = exchange.take(lambda message: _is_to_all(message, result))
        part = whole or exchange.take(lambda message: _is_to_some(message, result))
        if whole or not part:
            return whole
        for earlier in self._exchanges.values():
            whole = earlier.take(
                lambda message: message.subject == part.subject and _is_to_all(message, result)
            )
            if whole:
                return whole
        return part

    # -- the ESPs' side -------------------------------------------------------------------

    @property
    def simulator(self) -> Simulator:
        """The ESPs' side: add templates, suppress recipients, make requests fail."""
        with self._lock:
            if self._simulator is None:
                self._simulator = Simulator(auto=(), shared_keys=True)
                self._until.callback(self._simulator.stop)
            return self._simulator

    def simulate(
        self,
        message: RecordedMessage | str,
        event: str,
        recipient: str | Address | None = None,
        **details: Any,
    ) -> int:
        """Have the provider report an event: its webhook goes through the app's own route.

        ``message`` is a recorded one, or an id of one. ``event`` is a name such as
        ``"bounced"``, or the provider's own; ``recipient`` is by default the first that was
        accepted. ``details`` replace fields of the provider's payload.

        Returns the app's answer: 200 if all receivers were content. Raises ValueError for an
        event the provider cannot report, and for an id or a recipient it does not know.
        """
        recorded = message if isinstance(message, RecordedMessage) else self._with_id(message)
        address, number = _accepted_as(recorded, message, recipient)
        exchange = recorded._exchange
        assert exchange is not None  # noqa: S101 - else no recipient was accepted
        taken = exchange.simulator.message(number)
        esp = taken.esp if taken else exchange.mailer.esp.key
        self._hook(
            recorded.app, _hook_esp(recorded.app.extensions["mailesp"], esp), exchange.simulator
        )
        delivery = exchange.simulator.emit(number, str(event), address.addr_spec, **details)
        return _status(delivery)

    def _with_id(self, number: str) -> RecordedMessage:
        for message in reversed(self):
            if number in message._ids():
                return message
        raise ValueError(f"No message with the id {number!r} was sent: give a recorded message.")

    def receive(
        self,
        mail: bytes | str | PathLike[str] | EmailMessage | None = None,
        /,
        *,
        from_: str = "someone@example.com",
        to: str | None = None,
        subject: str = "",
        text: str | None = "",
        html: str | None = None,
        attachments: Sequence[Attachment | tuple[str, str, bytes]] = (),
        headers: Mapping[str, str] | None = None,
        esp: str | None = None,
        app: Flask | None = None,
        **options: Any,
    ) -> int:
        """Let a mail arrive at the provider, which posts it to the app's own inbound route.

        ``mail`` is its source, the path of an ``.eml`` file, or an EmailMessage; without it
        one is composed of the fields. ``to`` is who gets it: by default the first in its To.
        ``esp`` is the provider, by default that of the app's default mailer. ``options`` are
        those of `Simulator.receive`: ``mail_from``, ``spam``, ``raw_email``.

        Returns the app's answer: 200 if all receivers were content. Raises ValueError for
        what is not a mail, or has no recipient.
        """
        app = self._app(app)
        state: State = app.extensions["mailesp"]
        provider = _hook_esp(state, esp or state.mailers["default"].esp.key)
        if mail is None:
            to = to or "inbox@example.com"
            files = [_as_file(item) for item in attachments]
            mail = self.simulator.compose(
                provider.key,
                from_=from_,
                to=to,
                subject=subject,
                text=text,
                html=html,
                attachments=files,
                headers=headers,
            )
        source = _source(mail)
        self._hook(app, provider, self.simulator)
        delivery = self.simulator.receive(
            provider.key, source, to or _first_recipient(source), **options
        )
        return _status(delivery)

    def _app(self, app: Flask | None) -> Flask:
        """Return the app that is meant: the given one, the active one, or the only one seen."""
        app = app or active_app()
        if app is None and len(self._apps) == 1:
            (app,) = self._apps
        if app is None:
            raise RuntimeError("Which app is meant? Give app=..., or do it in an app context.")
        return app

    def _hook(self, app: Flask, esp: Esp, simulator: Simulator) -> None:
        """Have the provider post to an app, and the app accept the provider."""
        host = f"{esp.key.replace('_', '-')}-{id(app)}-{id(simulator)}.outbox.invalid"
        if host not in self._hosts:
            self._hosts[host] = app, esp.key
            self._doors[app.extensions["mailesp"], esp.key] = _Door(simulator)
            self._until.callback(_accept(app, esp, simulator))
        prefix = app.extensions["mailesp"].general.url_prefix
        url = f"http://{host}{prefix}/{esp.key}"
        simulator.hook(esp.key, tracking=f"{url}/tracking/", inbound=f"{url}/inbound/")


def _no_pause(seconds: float) -> None:
    """Stand in for `time.sleep`."""


def _listed(word: str, messages: Sequence[RecordedMessage]) -> list[str]:
    if not messages:
        return [] if word == "failed" else ["Nothing was sent."]
    lines = [f"  {number}. {message!r}" for number, message in enumerate(messages, 1)]
    return [f"{len(messages)} {word}:", *lines]


# --- criteria --------------------------------------------------------------------------


def _is(wanted: Any, text: str) -> bool:
    if isinstance(wanted, re.Pattern):
        return bool(wanted.search(text))
    return bool(wanted(text)) if callable(wanted) else bool(wanted == text)


def _is_address(wanted: Any, address: Address) -> bool:
    if isinstance(wanted, re.Pattern) or callable(wanted):
        return _is(wanted, address.addr_spec)
    return parse_address(wanted).key == address.key


def _are_among(wanted: Any, addresses: Sequence[Address]) -> bool:
    is_one = isinstance(wanted, (str, re.Pattern, Address)) or callable(wanted)
    each = [wanted] if is_one else list(wanted)
    return all(any(_is_address(item, address) for address in addresses) for item in each)


_CRITERIA: dict[str, Callable[[RecordedMessage, Any], bool]] = {
    "to": lambda message, wanted: _are_among(wanted, message.to),
    "cc": lambda message, wanted: _are_among(wanted, message.cc),
    "bcc": lambda message, wanted: _are_among(wanted, message.bcc),
    "subject": lambda message, wanted: _is(wanted, message.subject),
    "tag": lambda message, wanted: any(_is(wanted, tag) for tag in message.tags),
    "esp": lambda message, wanted: _key(wanted) == _key(message.esp_name),
    "mailer": lambda message, wanted: bool(wanted == message.mailer),
    "body_contains": lambda message, wanted: any(
        wanted in (text or "") for text in (message.body, message.html)
    ),
}


def _key(esp_name: str) -> str:
    return esp_name.lower().replace(" ", "_")


# --- recorded messages -----------------------------------------------------------------


def _values(message: PreparedMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in PreparedMessage.__annotations__}


def _shown(message: PreparedMessage) -> dict[str, Any]:
    return {name: value for name, value in _values(message).items() if name != "meant_for"}


def _frozen(message: PreparedMessage) -> PreparedMessage:
    """Return a message of which no later change of the app's dicts can be seen."""
    copies: dict[str, Any] = {
        name: MappingProxyType(copy.deepcopy(value))
        for name, value in _values(message).items()
        if isinstance(value, dict)
    }
    return replace(message, **copies)


def _as_written(message: Message) -> PreparedMessage:
    """Return what can be told of a message that never came to be built."""
    to, cc, bcc = (tuple(map(_address, who)) for who in (message.to, message.cc, message.bcc))
    return PreparedMessage(
        sender=_address(message.sender),
        to=to,
        cc=cc,
        bcc=bcc,
        subject=str(message.subject),
        body=message.body,
        html=message.html,
        tags=tuple(map(str, message.tags)),
    )


def _address(value: Any) -> Address:
    try:
        return parse_address(value)
    except InvalidAddressError:
        return Address(str(value or ""))


def _mark_of(result: SendResult) -> str:
    """Return the mark of a message's last exchange, or nothing if there was none."""
    if isinstance(result.error, MailESPError) and result.error.request_id:
        return result.error.request_id
    return result.response.headers.get(_MARK, "") if result.response else ""


def _mailer_name(app: Flask, esp_name: str) -> str:
    """Guess through which mailer a message went that came to no exchange."""
    state: State = app.extensions["mailesp"]
    names = [name for name, mailer in state.mailers.items() if mailer.esp.name == esp_name]
    return "default" if "default" in names or not names else names[0]


def _accepted_as(
    recorded: RecordedMessage, message: RecordedMessage | str, recipient: str | Address | None
) -> tuple[Address, str]:
    """Return the recipient that is meant, and the ESP's id of the copy for it."""
    for address in recorded.recipients:
        ids = _ids_of(recorded.result.recipients[address])
        if isinstance(message, str) and recipient is None:
            ids = [number for number in ids if number == message]
        if ids and (recipient is None or parse_address(recipient).key == address.key):
            return address, message if message in ids and isinstance(message, str) else ids[0]
    who = f"the recipient {recipient}" if recipient else "any recipient"
    raise ValueError(f"{recorded.esp_name} did not accept {recorded!r} for {who}.")


# --- the wire --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A request that was answered by the simulator (or by nobody), and what it carried.

    ``waiting`` are the messages that have no result yet.
    """

    name: str  # of the mailer that was sent through, which may be a strategy
    mailer: Mailer
    simulator: Simulator
    request: HttpRequest = field(repr=False)
    waiting: deque[PreparedMessage] = field(repr=False)

    @property
    def payload(self) -> Any:
        """What was in the request, decoded if it is JSON."""
        body = _bytes(self.request)
        return parse_json(body) or body

    def take(self, fits: Callable[[PreparedMessage], bool]) -> PreparedMessage | None:
        """Take the first message that fits off those that wait for their results."""
        for index, message in enumerate(self.waiting):
            if fits(message):
                del self.waiting[index]
                return message
        return None


def _told_of(message: PreparedMessage) -> tuple[Address, ...]:
    """Return whom a result tells of: where rails changed it, those the app has written to."""
    return message.meant_for or message.recipients


def _is_to_some(message: PreparedMessage, result: SendResult) -> bool:
    return all(item.addr_spec in result.recipients for item in _told_of(message))


def _is_to_all(message: PreparedMessage, result: SendResult) -> bool:
    distinct = {address.key for address in _told_of(message)}
    return len(distinct) == len(result.recipients) and _is_to_some(message, result)


class _Wire:
    """Stands where a mailer has its transport, and notes what its ESP's room builds.

    In a recording within a recording, the inner one asks the simulator, and both take notes.
    """

    def __init__(self, outbox: Outbox, mailer: Mailer, name: str) -> None:
        self._outbox = outbox
        self._name = name
        self._mailer = mailer
        self._built: dict[int, tuple[HttpRequest, list[PreparedMessage]]] = {}
        self._pointed: Settings | None = None

    def _settings(self, own: Settings) -> Settings:
        """Return the simulator's settings instead of the app's own, which are kept out of it.

        Read late: what is signed with may take a while to make.
        """
        if isinstance(self._mailer.transport, _Wire):
            return own  # the inner one does this
        if self._pointed is None:
            self._pointed = pointed(self._mailer.esp, own, _given(self.simulator, self._mailer.esp))
        return self._pointed

    def build(self, message: PreparedMessage, settings: Settings) -> Iterable[Call]:
        return self._noting(self._mailer.esp.build(message, self._settings(settings)), [message])

    def build_many(self, messages: Sequence[PreparedMessage], settings: Settings) -> Iterable[Call]:
        build_many = self._mailer.esp.build_many
        assert build_many is not None  # noqa: S101 - else this is not asked for
        return self._noting(build_many(messages, self._settings(settings)), messages)

    def sign(self, request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
        sign = self._mailer.esp.sign
        assert sign is not None  # noqa: S101 - else this is not asked for
        signed = sign(request, self._settings(settings), now)
        if id(request) in self._built:  # of whose build notes were taken
            self._built[id(signed)] = signed, self._built[id(request)][1]
        return signed

    def read(self, call: Call, response: HttpResponse, settings: Settings) -> Sequence[Reading]:
        return self._mailer.esp.read(call, response, self._settings(settings))

    def _noting(self, calls: Iterable[Call], messages: Sequence[PreparedMessage]) -> Iterator[Call]:
        kept: list[PreparedMessage] = []
        for call in calls:
            kept = kept or list(map(_frozen, messages))  # not before they could be built
            indices = dict.fromkeys(part.message for part in call.parts)
            self._built[id(call.request)] = call.request, [kept[index] for index in indices]
            yield call

    @property
    def simulator(self) -> Simulator:
        inner = self._mailer.transport
        return inner.simulator if isinstance(inner, _Wire) else self._outbox.simulator

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        """Exchange one request, as `Transport.send` does; it takes no time."""
        _, messages = self._built.get(id(request), (request, []))  # it may be sent again
        exchange = _Exchange(self._name, self._mailer, self.simulator, request, deque(messages))
        try:
            response = self._answer(request)
        except (NotSentError, SendUncertainError) as error:
            self._outbox.note(error.request_id, exchange)
            raise
        self._outbox.note(response.headers[_MARK], exchange)
        return response

    def fetch(self, request: HttpRequest, **_: Any) -> HttpResponse:
        """Fetch nothing: see `_Door`."""
        return _SHUT.fetch(request)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        inner = self._mailer.transport
        if isinstance(inner, _Wire):
            return inner.send(request)
        mark = f"recorded-{next(_marks)}"
        try:
            return _ask(self.simulator, self._mailer.esp, request, mark)
        except ConnectionDropped:
            raise SendUncertainError(
                "The simulator cut the connection. The message may or may not have been sent.",
                request_id=mark,
            ) from None


def _given(simulator: Simulator, esp: Esp) -> dict[str, Any]:
    """Return the settings that point an app at the simulator."""
    if esp.key not in simulator.esps:
        raise RuntimeError(f"The simulator does not speak {esp.name}; nothing was sent.")
    return simulator.settings(esp.key, f"{_BASE}/{esp.key}")


def _ask(simulator: Simulator, esp: Esp, request: HttpRequest, mark: str) -> HttpResponse:
    """Have the simulator answer a request.

    A credential that is the message's own is replaced by the simulator's, too.
    """
    accepted = {
        name.lower(): value for name, value in simulator.side(esp.key).credentials().items()
    }
    headers = {
        name: accepted.get(name.lower(), value) if isinstance(value, Secret) else value
        for name, value in request.headers.items()
    }
    return _call_simulator(simulator, replace(request, headers=headers), {_MARK: mark})


def _call_simulator(
    simulator: Simulator, request: HttpRequest, more: Mapping[str, str]
) -> HttpResponse:
    """Have the simulator answer a request to one of its URLs; add some headers to the answer."""
    parts = urlsplit(request.url)
    if not request.url.startswith(f"{_BASE}/"):
        raise RuntimeError(f"Nothing is sent to {parts.hostname} while messages are recorded.")
    answer = Client(simulator).open(
        f"{parts.path}?{parts.query}" if parts.query else parts.path,
        base_url=_BASE,
        method=request.method,
        data=_bytes(request),
        headers={"User-Agent": "Flask-MailESP", **request.headers},  # some refuse nobody
    )
    body = answer.get_data()
    promised = answer.content_length or 0
    known = {name.lower(): value for name, value in answer.headers.items()}
    return HttpResponse(answer.status_code, {**known, **more}, body, len(body) >= promised)


def _bytes(request: HttpRequest) -> bytes:
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)


# --- webhooks --------------------------------------------------------------------------


@contextmanager
def _posting(hosts: Mapping[str, tuple[Flask, str]]) -> Iterator[None]:
    """Have simulators call the apps behind some host names, in this thread, without a network."""
    original = hooks.post

    def post(request: Post) -> Delivery:
        target = hosts.get(urlsplit(request.url).hostname or "")
        return _call(*target, request) if target else original(request)

    hooks.post = post
    try:
        yield
    finally:
        hooks.post = original


def _call(app: Flask, esp_key: str, request: Post) -> Delivery:
    """Post a webhook to an app."""
    _, settings = app.extensions["mailesp"].hook(esp_key)
    own = _basic(settings["WEBHOOK_SECRET"]) | request.headers
    client = FlaskClient(app, app.response_class, use_cookies=False)
    path = urlsplit(request.url).path
    answer = client.post(path, data=request.body, headers=own, buffered=True)
    return replace(
        hooks.unposted(request, ""),
        request_headers=own,
        status=answer.status_code,
        response_body=answer.get_data(),
        error=None,
    )


def _basic(secret: tuple[bytes, ...] | None) -> dict[str, str]:
    """Return the header with the newest of the app's webhook credentials (RFC 7617)."""
    if not secret:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(secret[0]).decode('ascii')}"}


def _accept(app: Flask, esp: Esp, simulator: Simulator) -> Callable[[], None]:
    """Have an app accept the simulator's webhooks; return what ends that.

    Its own credentials are used where they are set, and random ones where they are not. Where
    the ESP signs, the simulator's key is accepted beside the app's own. What a webhook does
    not bring is fetched from the simulator.
    """
    state: State = app.extensions["mailesp"]
    before = state.hook(esp.key)
    assert before is not None  # noqa: S101 - the app sends through this ESP, or names it
    settings = pointed(esp, before[1], _given(simulator, esp))
    if settings["WEBHOOK_SECRET"] is None and not simulator.side(esp.key).signs:
        secret = SecretBytes(f"outbox:{secrets.token_urlsafe(24)}".encode())
        settings = settings.changed({"WEBHOOK_SECRET": (secret,)})
    state.hooks[esp.key] = before[0], settings

    def restore() -> None:
        state.hooks[esp.key] = before

    return restore


class _Door:
    """Stands where an app's webhooks fetch what they do not bring: at the simulator's door."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        """Exchange one request, as `Transport.fetch` does."""
        if not request.url.startswith(f"{_BASE}/"):
            raise NotSentError(f"Nothing is fetched from {urlsplit(request.url).hostname} here.")
        try:
            answer = _call_simulator(self._simulator, request, {})
        except ConnectionDropped:
            raise SendUncertainError("The simulator cut the connection.") from None
        whole = answer.complete and len(answer.body) <= max_bytes
        return replace(answer, body=answer.body[:max_bytes], complete=whole)


class _ShutDoor:
    """Stands there for the ESPs that no simulator plays: nothing leaves to fetch anything."""

    def fetch(self, request: HttpRequest, **_: Any) -> HttpResponse:
        """Raise NotSentError, saying what to do."""
        raise NotSentError(
            f"Nothing is fetched from {urlsplit(request.url).hostname} while messages are "
            "recorded: have mail arrive with outbox.receive() instead of a post of your own."
        )


_SHUT = _ShutDoor()


@contextmanager
def _fetching(
    doors: Mapping[tuple[State, str], _Door], of: Callable[[State], bool]
) -> Iterator[None]:
    """Have the webhooks of some apps fetch from the simulator, or nothing at all."""
    original = State.transport_of

    def transport_of(self: State, esp: Esp) -> Fetches:
        found = doors.get((self, esp.key)) or original(self, esp)
        return _SHUT if of(self) and not isinstance(found, _Door) else found

    State.transport_of = transport_of  # type: ignore[method-assign]
    try:
        yield
    finally:
        State.transport_of = original  # type: ignore[method-assign]


def _hook_esp(state: State, name: str) -> Esp:
    hook = state.hook(_key(name))
    if hook is None:
        raise ValueError(f"There is no ESP named {name!r}.")
    return hook[0]


def _status(delivery: Delivery) -> int:
    """Return the app's answer to a webhook; 0 where a fault kept it from being posted."""
    return delivery.status or 0


# --- incoming mail ---------------------------------------------------------------------


def _source(mail: bytes | str | PathLike[str] | EmailMessage) -> bytes:
    """Return a mail's source. Raises ValueError if it is not a mail (RFC 5322)."""
    if isinstance(mail, EmailMessage):
        return mail.as_bytes()
    source = mail if isinstance(mail, bytes) else Path(mail).read_bytes()
    if not Mail(source).headers():
        raise ValueError("This is not a mail: it does not begin with header fields (RFC 5322).")
    return source


def _first_recipient(source: bytes) -> str:
    for _, address in Mail(source).addresses("To"):
        return address
    raise ValueError("The mail names nobody in To: give to=...")


def _as_file(item: Any) -> tuple[str, str, bytes]:
    attachment = as_attachment(item)
    media_type = attachment.content_type.partition(";")[0].strip()
    return attachment.filename, media_type, attachment.data


# --- recordings ------------------------------------------------------------------------


def active_app() -> Flask | None:
    """Return the app of the active context, if it has a MailESP."""
    if not current_app or "mailesp" not in current_app.extensions:
        return None
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]


@contextmanager
def record(app: Flask) -> Iterator[Outbox]:
    """Record what one app sends while the block runs."""
    state: State = app.extensions["mailesp"]
    before = dict(state.mailers)
    with ExitStack() as until:
        outbox = Outbox(until, lambda one: one is state)
        outbox.see(app)
        until.callback(state.mailers.update, before)
        state.mailers.update({name: outbox.wired(mailer) for name, mailer in before.items()})
        until.enter_context(signals.post_send.connected_to(outbox.record, app))
        yield outbox


@contextmanager
def record_all() -> Iterator[Outbox]:
    """Record what all apps send while the block runs, those not made yet included."""
    mailer_of = State.mailer

    def mailer(self: State, name: str | None) -> Mailer:
        return outbox.wired(mailer_of(self, name))

    def restore() -> None:
        State.mailer = mailer_of  # type: ignore[method-assign]

    with ExitStack() as until:
        outbox = Outbox(until, lambda _: True)
        until.callback(restore)
        State.mailer = mailer  # type: ignore[method-assign]
        until.enter_context(signals.post_send.connected_to(outbox.record))
        until.enter_context(appcontext_pushed.connected_to(outbox.see))
        yield outbox
