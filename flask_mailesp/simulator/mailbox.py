"""The mailbox page: everything the simulated providers took, shown and answered for.

It lists the messages, shows each of them (rendered, as text, as source, as what was sent to
the provider, and what other providers would refuse of it), posts any event the provider can
report, and lets mail arrive at the application. ::

    from flask_mailesp.simulator import Simulator
    from flask_mailesp.simulator.mailbox import attach

    simulator = Simulator()
    attach(simulator)
    server = simulator.start()     # the page is at {server.url}/_mailbox/

`mailbox_app` is the page as a WSGI application, `mount` the page under a prefix of another
application, and `attach` puts it beside the simulator's own API.

Mail is untrusted: it is rendered in a sandboxed frame, from an answer that allows neither
scripts nor any connection; attachments are only ever saved. What changes something takes a
POST with a token of the page. See `flask_mailesp.simulator.mailbox_guard` for who gets in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import Forbidden, HTTPException, NotFound, Unauthorized
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from flask_mailesp.esp import Esp

from . import mailbox_content as content
from . import mailbox_faults as faults
from . import mailbox_guard as guards
from . import mailbox_inbound as arriving
from . import mailbox_words as words
from .app import Simulator
from .mailbox_compare import Verdict, known_esps, verdicts
from .mailbox_guard import Guard
from .records import Delivery, SentMessage
from .side import Side

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NAME = "_mailbox"
PER_PAGE = 50
MAX_REQUEST = 40 * 1024 * 1024
MAX_FORM_TEXT = 8 * 1024 * 1024
ASSETS = {
    "mailbox.css": "text/css; charset=utf-8",
    "mailbox.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

WouldLose = Callable[[SentMessage], Sequence[Verdict]]


def mailbox_app(
    simulator: Simulator,
    *,
    token: str | None = None,
    esps: Iterable[Esp] | None = None,
    would_lose: WouldLose | None = None,
    hosts: Iterable[str] = (),
) -> WSGIApplication:
    """Return the mailbox of a simulator, to be served at the root of its own.

    Without a ``token`` it answers loopback peers only, under a loopback name or one of
    ``hosts``; with one, whoever knows it. ``esps`` are the providers a message is compared
    with (default: all of the package). ``would_lose`` answers that question instead, for
    those who know more of the message than the provider does.

    Raises ValueError for a token of fewer than 16 characters.
    """
    known = known_esps() if esps is None else list(esps)

    def compare(message: SentMessage) -> Sequence[Verdict]:
        return verdicts(message, known, _side_of(simulator, message))

    guard = Guard(token, guards.hosts_of(hosts))
    return Mailbox(simulator, guard, _names(simulator, known), would_lose or compare)


def mount(simulator: Simulator, prefix: str, **options: Any) -> WSGIApplication:
    """Return the mailbox under a path of another application; 404 everywhere else.

    ``options`` are those of `mailbox_app`. A Flask view may return it as its answer: Flask
    then calls it with the request's environ. The view's rule should match ``prefix`` and
    all below it, for GET and POST, and be exempt from the app's own CSRF protection.
    """
    mailbox = mailbox_app(simulator, **options)
    prefix = prefix.rstrip("/")

    def mounted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        rest = below(prefix, environ.get("PATH_INFO", ""))
        if rest is None:
            return guards.harden(Response("Not found.\n", 404))(environ, start_response)
        inner = {**environ, "PATH_INFO": rest, "SCRIPT_NAME": _root(environ) + prefix}
        return mailbox(inner, start_response)

    return mounted


def attach(simulator: Simulator, **options: Any) -> None:
    """Serve the mailbox with the simulator itself, at ``/_mailbox/``; ``/`` leads there.

    ``options`` are those of `mailbox_app`.
    """
    simulator.mount(NAME, mailbox_app(simulator, **options))
    simulator.mount("", _front)


def _front(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return redirect(f"{_root(environ)}/{NAME}/")(environ, start_response)
    return Response("Not found.\n", 404)(environ, start_response)


def below(prefix: str, path: str) -> str | None:
    """Return the rest of a path under a prefix, or None if it is not under it."""
    if path != prefix and not path.startswith(f"{prefix}/"):
        return None
    return path[len(prefix) :]


def _root(environ: WSGIEnvironment) -> str:
    root: str = environ.get("SCRIPT_NAME", "")
    return root.rstrip("/")


def _side_of(simulator: Simulator, message: SentMessage) -> Side | None:
    """Return what stands for a message's provider; a shared database may have others'."""
    return simulator.side(message.esp) if message.esp in simulator.esps else None


def _names(simulator: Simulator, esps: Iterable[Esp]) -> dict[str, str]:
    """Return the providers that the simulator speaks for: key and own spelling."""
    spelled = {esp.key: esp.name for esp in [*known_esps(), *esps]}
    return {key: spelled.get(key, key) for key in simulator.esps}


@dataclass
class Visit:
    """One request, and what its answer is made with."""

    request: Request
    adapter: MapAdapter
    csrf: str
    token: bool
    names: Mapping[str, str]
    current: str = ""

    def url(self, endpoint: str, **values: Any) -> str:
        return self.adapter.build(endpoint, values)

    @property
    def wants_json(self) -> bool:
        return self.request.headers.get("X-Requested-With") == "mailbox"

    @property
    def query(self) -> str:
        return self.request.args.get("q", "").strip()[:200]

    @property
    def page_number(self) -> int:
        return self.request.args.get("page", 1, int)

    def render(self, template: str, **context: Any) -> str:
        text = _TEMPLATES.get_template(template)
        return text.render(visit=self, url=self.url, csrf=self.csrf, **context)

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        page = self.render(template, **context)
        response = Response(page.encode("utf-8", "replace"), status, mimetype="text/html")
        if self.request.cookies.get(guards.CSRF_COOKIE) != self.csrf:
            guards.set_cookie(self.request, response, guards.CSRF_COOKIE, self.csrf)
        return response

    def to(self, endpoint: str, **values: Any) -> Response:
        return redirect(self.url(endpoint, **values), 303)


@dataclass(frozen=True)
class Shown:
    """One page of a list, newest first."""

    items: list[Any]
    number: int
    pages: int
    total: int

    @classmethod
    def of(cls, newest_first: Sequence[Any], number: int) -> Shown:
        total = len(newest_first)
        number = cls.within(number, total)
        items = newest_first[(number - 1) * PER_PAGE : number * PER_PAGE]
        return cls(list(items), number, cls.pages_of(total), total)

    @staticmethod
    def pages_of(total: int) -> int:
        return max(1, -(-total // PER_PAGE))

    @classmethod
    def within(cls, number: int, total: int) -> int:
        return min(max(number, 1), cls.pages_of(total))


View = Callable[..., Response]


@dataclass
class Mailbox:
    """The WSGI application."""

    simulator: Simulator
    guard: Guard
    names: Mapping[str, str]
    would_lose: WouldLose
    views: Mapping[str, View] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.views = {
            "messages": self.show_messages,
            "feed": self.feed,
            "clear": self.clear,
            "message": self.show_message,
            "body": self.body,
            "source": self.source,
            "attachment": self.attachment,
            "emit": self.emit,
            "deliveries": self.show_deliveries,
            "delivery": self.show_delivery,
            "refused": self.show_refused,
            "faults": self.show_faults,
            "add_fault": self.add_fault,
            "remove_fault": self.remove_fault,
            "inbound": self.show_inbound,
            "receive": self.receive,
            "login": self.login,
            "asset": self.asset,
        }

    # -- getting in -----------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MAX_REQUEST
        request.max_form_memory_size = MAX_FORM_TEXT
        request.max_form_parts = 200
        try:
            response = self.answer(request)
        finally:
            request.close()  # the files that were uploaded
        return guards.harden(response)(environ, start_response)

    def answer(self, request: Request) -> Response:
        """Return the answer to any request; what is wrong with it is told on a page."""
        refusal = self.guard.refusal(request)
        if refusal is not None:
            return Response(f"{refusal}\n", 403)
        if not request.environ.get("PATH_INFO"):
            return redirect(f"{request.root_path.rstrip('/')}/")
        adapter = _ROUTES.bind("mailbox", request.root_path, path_info=request.path)
        csrf = guards.csrf_token(request)
        visit = Visit(request, adapter, csrf, self.guard.token is not None, self.names)
        return self._view(visit)

    def _view(self, visit: Visit) -> Response:
        try:
            visit.current, values = visit.adapter.match(method=visit.request.method)
            self._check(visit)
            return self.views[visit.current](visit, **values)
        except HTTPException as error:
            return problem(visit, error)

    def _check(self, visit: Visit) -> None:
        known = self.guard.is_known(visit.request)
        if not known and visit.current not in ("login", "asset"):
            raise Unauthorized("Enter the token to open the mailbox.")
        if visit.request.method == "POST" and self.guard.is_forged(visit.request):
            raise Forbidden(guards.FORGED)

    def login(self, visit: Visit) -> Response:
        if self.guard.token is None:
            raise NotFound()
        if not self.guard.opens(visit.request.form.get("token", "")):
            raise Unauthorized("That is not the token.")
        response = visit.to("messages")
        guards.set_cookie(visit.request, response, guards.SESSION_COOKIE, self.guard.session())
        return response

    def asset(self, visit: Visit, name: str) -> Response:
        if name not in ASSETS:
            raise NotFound()
        data = files(__package__).joinpath("mailbox_assets", name).read_bytes()
        response = Response(data, content_type=ASSETS[name])
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(visit.request)
        return response

    # -- the messages ---------------------------------------------------------------------

    def _found(self, query: str) -> list[SentMessage]:
        asked = query.casefold().split()
        return [one for one in reversed(self.simulator.messages) if _has(one, asked)]

    def _shown(self, query: str, number: int) -> Shown:
        if query:
            return Shown.of(self._found(query), number)
        total = self.simulator.message_count
        number = Shown.within(number, total)
        items = self.simulator.newest(number * PER_PAGE)[(number - 1) * PER_PAGE :]
        return Shown(items, number, Shown.pages_of(total), total)

    def _state(self) -> str:
        """Return what changes whenever a message comes or goes."""
        return f"{self.simulator.message_count} {_key(self.simulator.newest(1))}"

    def _message(self, esp: str, id: str) -> SentMessage:
        message = self.simulator.message(id)
        if message is None or message.esp != esp or message.id != id:
            raise NotFound("There is no such message; perhaps the mailbox was emptied.")
        return message

    def show_messages(self, visit: Visit) -> Response:
        state, query = self._state(), visit.query
        shown = self._shown(query, visit.page_number)
        return visit.page(
            "messages.html",
            shown=shown,
            query=query,
            total=self.simulator.message_count,
            newest=_key(shown.items),
            state=state,
        )

    def feed(self, visit: Visit) -> Response:
        """Tell, as JSON, what is new since the message whose key the page knows."""
        args, state, query = visit.request.args, self._state(), visit.query
        if args.get("state") == state:
            return answer_json({"state": state})
        found = self._found(query) if query else self.simulator.newest(PER_PAGE + 1)
        known = args.get("newest", "")
        new = list(takewhile(lambda one: _key([one]) != known, found))
        total = self.simulator.message_count
        return answer_json(
            {
                "state": state,
                "total": total,
                "found": len(found) if query else total,
                "newest": _key(found),
                "reset": (known != "" and len(new) == len(found)) or len(new) > PER_PAGE,
                "rows": [visit.render("row.html", message=one) for one in new[:PER_PAGE]],
                "subjects": [one.subject or "(no subject)" for one in new[:3]],
            }
        )

    def clear(self, visit: Visit) -> Response:
        self.simulator.clear()
        return visit.to("messages")

    def show_message(self, visit: Visit, esp: str, id: str) -> Response:
        return self._message_page(visit, self._message(esp, id))

    def _message_page(
        self, visit: Visit, message: SentMessage, status: int = 200, **more: Any
    ) -> Response:
        number = visit.request.args.get("delivery", 0, int)
        deliveries = self.simulator.deliveries
        raw = content.source(message)
        side = _side_of(self.simulator, message)
        return visit.page(
            "message.html",
            status,
            message=message,
            credentials=() if side is None else tuple(side.credentials()),
            name=self.names.get(message.esp, message.esp),
            events=() if message.test or side is None else side.events(),
            raw=None if raw is None else raw.decode("utf-8", "replace"),
            verdicts=self.would_lose(message),
            delivery=_item(deliveries, number),
            number=number,
            told=_about(deliveries, message),
            **{"emitted": visit.request.args.get("recipient", ""), "error": "", **more},
        )

    def body(self, _visit: Visit, esp: str, id: str) -> Response:
        """Return the HTML part as the stranger's page it is."""
        message = self._message(esp, id)
        if message.html is None:
            raise NotFound("This message has no HTML part.")
        page = content.document(message).encode("utf-8", "replace")
        return guards.as_mail(Response(page, content_type="text/html; charset=utf-8"))

    def source(self, _visit: Visit, esp: str, id: str) -> Response:
        raw = content.source(self._message(esp, id))
        if raw is None:
            raise NotFound("The source of this message cannot be composed.")
        return download(raw, f"{esp}-{id}.eml")

    def attachment(self, _visit: Visit, esp: str, id: str, number: int) -> Response:
        attached = _item(self._message(esp, id).attachments, number)
        if attached is None:
            raise NotFound("There is no such attachment.")
        return download(attached.data, content.file_name(attached.name, "attachment"))

    # -- events ---------------------------------------------------------------------------

    def emit(self, visit: Visit, esp: str, id: str) -> Response:
        message = self._message(esp, id)
        event = visit.request.form.get("event", "")
        recipient = visit.request.form.get("recipient", "")
        try:
            delivery = self.simulator.emit(message, event, recipient)
        except LookupError:
            error = words.no_hook(self.names.get(esp, esp), "tracking")
        except ValueError as problem:
            error = f"Nothing was sent: {problem}."
        else:
            return self._emitted(visit, message, event, recipient, delivery)
        if visit.wants_json:
            return answer_json({"ok": False, "sentence": error, "html": ""}, 409)
        return self._message_page(visit, message, 409, emitted=recipient, error=error)

    def _emitted(
        self, visit: Visit, message: SentMessage, event: str, recipient: str, delivery: Delivery
    ) -> Response:
        number = _number(self.simulator.deliveries, delivery)
        if visit.wants_json:
            return answer_json(
                {
                    "ok": words.arrived(delivery),
                    "label": words.event_label(event),
                    "sentence": words.outcome(delivery),
                    "html": visit.render("outcome.html", delivery=delivery, number=number),
                }
            )
        if not number:
            error = words.outcome(delivery)
            return self._message_page(visit, message, emitted=recipient, error=error)
        place = visit.url("message", esp=message.esp, id=message.id)
        query = urlencode({"delivery": number, "recipient": recipient}, errors="replace")
        return redirect(f"{place}?{query}#recipients", 303)

    def show_deliveries(self, visit: Visit) -> Response:
        numbered = list(enumerate(self.simulator.deliveries, 1))[::-1]
        shown = Shown.of(numbered, visit.page_number)
        return visit.page("deliveries.html", shown=shown)

    def show_delivery(self, visit: Visit, number: int) -> Response:
        delivery = _item(self.simulator.deliveries, number)
        if delivery is None:
            raise NotFound("There is no such webhook; perhaps the mailbox was emptied.")
        return visit.page("delivery.html", delivery=delivery, number=number)

    def show_refused(self, visit: Visit) -> Response:
        shown = Shown.of(self.simulator.rejected[::-1], visit.page_number)
        return visit.page("refused.html", shown=shown)

    # -- faults ---------------------------------------------------------------------------

    def show_faults(self, visit: Visit, status: int = 200, error: str = "") -> Response:
        return visit.page(
            "faults.html",
            status,
            waiting=list(self.simulator.faults),
            groups=faults.GROUPS,
            describe=faults.describe,
            error=error,
        )

    def add_fault(self, visit: Visit) -> Response:
        form = visit.request.form
        esp = form.get("esp", "")
        try:
            chosen = faults.fields(form.get("kind", ""), esp, form.get("times", "1"))
        except KeyError:
            return self.show_faults(visit, 422, "Choose what goes wrong, and how often.")
        if esp and esp not in self.names:
            return self.show_faults(visit, 422, "Choose one of the providers.")
        self.simulator.fault(**chosen)
        return visit.to("faults")

    def remove_fault(self, visit: Visit) -> Response:
        wanted = visit.request.form.get("id", -1, int)
        self.simulator.faults.discard(wanted)
        return visit.to("faults")

    # -- inbound --------------------------------------------------------------------------

    def show_inbound(self, visit: Visit, status: int = 200, error: str = "") -> Response:
        newest = self.simulator.newest(1)
        usual = newest[0].esp if newest else ""
        form = visit.request.form
        return visit.page("inbound.html", status, form=form, usual=usual, error=error)

    def receive(self, visit: Visit) -> Response:
        esp = visit.request.form.get("esp", "")
        if esp not in self.names:
            return self.show_inbound(visit, 422, "Choose the provider at which it arrives.")
        try:
            mail = arriving.read(visit.request)
            delivery = self.simulator.receive(esp, mail.raw, to=mail.to)
        except arriving.NotAMail as problem:
            return self.show_inbound(visit, 422, str(problem))
        except LookupError:
            return self.show_inbound(visit, 409, words.no_hook(self.names[esp], "inbound"))
        number = _number(self.simulator.deliveries, delivery)
        if not number:
            return self.show_inbound(visit, error=words.outcome(delivery))
        return visit.to("delivery", number=number)


# -- pieces -------------------------------------------------------------------------------


def problem(visit: Visit, error: HTTPException) -> Response:
    """Return what is wrong as a page, or as JSON to the page's own script."""
    status = error.code or 500
    if isinstance(error, Unauthorized):
        return visit.page("login.html", status, sentence=error.description)
    sentence = error.description or error.name
    if visit.wants_json:
        return answer_json({"ok": False, "sentence": sentence, "html": ""}, status)
    response = visit.page("problem.html", status, sentence=sentence, title=error.name)
    if status == 405:
        response.headers["Allow"] = "GET, POST"
    return response


def answer_json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def download(data: bytes, name: str) -> Response:
    """Return bytes that a browser saves and never shows."""
    response = guards.as_mail(Response(data, content_type="application/octet-stream"))
    response.headers["Content-Disposition"] = content.disposition(name)
    return response


def _key(newest_first: Sequence[SentMessage]) -> str:
    """Return how a page names the newest message it knows."""
    return f"{newest_first[0].esp}/{newest_first[0].id}" if newest_first else ""


def _item(items: Sequence[Any], number: int) -> Any:
    """Return an item by its number, counted from 1, or None."""
    return items[number - 1] if 1 <= number <= len(items) else None


def _about(deliveries: Sequence[Delivery], message: SentMessage) -> list[tuple[int, Delivery]]:
    """Return the newest webhooks that spoke of a message, with their numbers."""
    told = [
        (number, one)
        for number, one in enumerate(deliveries, 1)
        if one.message == message.id and one.esp == message.esp
    ]
    return told[: -PER_PAGE - 1 : -1]


def _number(deliveries: Sequence[Delivery], delivery: Delivery) -> int:
    """Return the number of a delivery just made, or 0 if a fault kept it from being made."""
    for number in range(len(deliveries), 0, -1):
        if deliveries[number - 1] == delivery:
            return number
    return 0


def _has(message: SentMessage, asked: Iterable[str]) -> bool:
    """Tell whether a message holds every word that was asked for."""
    texts = (
        message.from_,
        *message.recipients,
        *message.inactive,
        *message.to,
        *message.cc,
        message.subject or "",
        message.tag or "",
        message.text or "",
        message.html or "",
    )
    text = "\n".join(texts).casefold()
    return all(word in text for word in asked)


def _templates() -> Environment:
    package = __package__ or "flask_mailesp.simulator"
    environment = Environment(
        loader=PackageLoader(package, "mailbox_assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(content=content, words=words)
    return environment


_TEMPLATES = _templates()
_ROUTES = Map(
    [
        Rule("/", endpoint="messages", methods=["GET"]),
        Rule("/feed", endpoint="feed", methods=["GET"]),
        Rule("/clear", endpoint="clear", methods=["POST"]),
        Rule("/messages/<esp>/<id>/", endpoint="message", methods=["GET"]),
        Rule("/messages/<esp>/<id>/body", endpoint="body", methods=["GET"]),
        Rule("/messages/<esp>/<id>/source", endpoint="source", methods=["GET"]),
        Rule("/messages/<esp>/<id>/files/<int:number>", endpoint="attachment", methods=["GET"]),
        Rule("/messages/<esp>/<id>/events", endpoint="emit", methods=["POST"]),
        Rule("/webhooks/", endpoint="deliveries", methods=["GET"]),
        Rule("/webhooks/<int:number>/", endpoint="delivery", methods=["GET"]),
        Rule("/refused/", endpoint="refused", methods=["GET"]),
        Rule("/faults/", endpoint="faults", methods=["GET"]),
        Rule("/faults/", endpoint="add_fault", methods=["POST"]),
        Rule("/faults/remove", endpoint="remove_fault", methods=["POST"]),
        Rule("/compose/", endpoint="inbound", methods=["GET"]),
        Rule("/compose/", endpoint="receive", methods=["POST"]),
        Rule("/login", endpoint="login", methods=["POST"]),
        Rule("/assets/<name>", endpoint="asset", methods=["GET"]),
    ],
    strict_slashes=False,
    merge_slashes=False,
)


def routes() -> list[Rule]:
    """Return the rules of all addresses of the page, below its root."""
    return list(_ROUTES.iter_rules())
