"""Postmark's endpoints around sending: how they are found, and server, streams, suppressions.

Sources: https://postmarkapp.com/developer/api/overview and the pages of each API. What lists
are filtered by and how their items look is documented; where only the code of an error is,
the text here is our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from werkzeug.wrappers import Request

from .postmark_wire import (
    ESP,
    MAX_RECIPIENTS,
    SERVER_ID,
    ApiError,
    checked_address,
    is_a,
    now,
    read_json,
)
from .store import Store

MAX_BODY = 10_000_000
MAX_COUNT = 500
MAX_WINDOW = 10_000
DEFAULT_STREAMS = {
    "outbound": ("Default Transactional Stream", "Transactional"),
    "broadcast": ("Default Broadcast Stream", "Broadcasts"),
    "inbound": ("Default Inbound Stream", "Inbound"),
}
SERVER: dict[str, Any] = {
    "Name": "Simulator",
    "Color": "Blue",
    "SmtpApiActivated": True,
    "RawEmailEnabled": False,
    "DeliveryType": "Live",
    "InboundAddress": "simulator@inbound.example.org",
    "InboundHookUrl": "",
    "BounceHookUrl": "",
    "OpenHookUrl": "",
    "DeliveryHookUrl": "",
    "ClickHookUrl": "",
    "PostFirstOpenOnly": False,
    "InboundDomain": "",
    "InboundHash": "simulator",
    "InboundSpamThreshold": 0,
    "TrackOpens": False,
    "TrackLinks": "None",
    "IncludeBounceContentInHook": False,
    "EnableSmtpApiErrorHooks": False,
}
FIXED = ("DeliveryType", "InboundAddress", "InboundHash")
NO_SUCH = "The requested resource was not found."


@dataclass(frozen=True)
class Call:
    """One API request: its path's variables, its query, and its JSON."""

    args: tuple[str, ...]
    query: Mapping[str, str]
    request: Request = field(repr=False)

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = read_json(self.request, dict, MAX_BODY)
        return body

    @property
    def number(self) -> int:
        return int(self.args[0])


Handler = Callable[["Account", Call], Any]
OneHandler = TypeVar("OneHandler", bound=Handler)
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, path: str) -> Callable[[OneHandler], OneHandler]:
    """Register a handler; ``<id>`` in the path is a number, ``<name>`` any text."""
    pattern = re.escape(path).replace("<id>", r"([0-9]{1,18})").replace("<name>", r"([^/]+)")

    def register(handler: OneHandler) -> OneHandler:
        ROUTES.append((method, re.compile(pattern, re.IGNORECASE), handler))
        return handler

    return register


class Account:
    """What one Postmark server is set up with, and what can be looked up about its mail."""

    def __init__(
        self, store: Store, tokens: Sequence[str], streams: tuple[str, ...], verify: bool
    ) -> None:
        self.store = store
        self.tokens = tokens
        self.verify = verify
        self._streams = streams

    def route(self, method: str, path: str) -> tuple[Handler, tuple[str, ...]] | None:
        for wanted, pattern, handler in ROUTES:
            match = pattern.fullmatch(path)
            if match and wanted == method:
                return handler, match.groups()
        return None

    def serve(
        self, found: tuple[Handler, tuple[str, ...]] | None, request: Request, test: bool
    ) -> Any:
        """Call what `route` found. The test token belongs to no server."""
        if test:
            raise ApiError(10, "The test token does not work here.", 401)
        if found is None:
            raise ApiError(12, NO_SUCH, 404)
        handler, args = found
        query = {name.lower(): value for name, value in request.args.items()}
        return handler(self, Call(args, query, request))

    # -- streams --------------------------------------------------------------------------

    def streams(self) -> dict[str, dict[str, Any]]:
        """All streams by id: those the simulator was made with, then those made by the API."""
        made = dict(self.store.items(ESP, "stream"))
        given = {name: stream_object(name) for name in (*self._streams, "inbound")}
        return given | made

    def stream(self, name: str) -> dict[str, Any]:
        found = self.streams().get(name)
        if found is None:
            raise ApiError(1226, f"The message stream '{name}' was not found.")
        return found

    def can_send(self, name: str) -> bool:
        stream = self.streams().get(name)
        return stream is not None and not stream["ArchivedAt"]

    # -- suppressions ---------------------------------------------------------------------

    def suppression(self, address: str, stream: str) -> dict[str, Any] | None:
        for where in (stream, "*"):
            entry = self.store.get(ESP, "suppression", f"{where} {address.lower()}")
            if entry is not None:
                return suppression_entry(address, entry)
        return None

    def is_suppressed(self, address: str, stream: str) -> bool:
        return self.suppression(address, stream) is not None

    def suppress(self, address: str, stream: str, reason: str, origin: str) -> None:
        entry = {"SuppressionReason": reason, "Origin": origin, "CreatedAt": now()}
        self.store.put(ESP, "suppression", f"{stream} {address.lower()}", entry)

    def reactivate(self, address: str, stream: str) -> None:
        for where in (stream, "*"):
            self.store.remove(ESP, "suppression", f"{where} {address.lower()}")


# -- lists ----------------------------------------------------------------------------------


def matches(item: Mapping[str, Any], query: Mapping[str, str], names: Mapping[str, str]) -> bool:
    """Whether the fields have the values the query asks for, in any case."""
    return all(
        str(item.get(name)).lower() == query[parameter].lower()
        for name, parameter in names.items()
        if parameter in query
    )


def in_time(moment: str, query: Mapping[str, str]) -> bool:
    """Both ends belong to it; a date alone stands for its whole day."""
    start, end = query.get("fromdate", ""), query.get("todate", "")
    return start <= moment and (not end or moment[: len(end)] <= end)


def paged(call: Call, name: str, items: Iterable[Any]) -> dict[str, Any]:
    """The page that count and offset ask for, and how many there are."""
    found = list(items)
    count, offset = number_of(call, "count", 100), number_of(call, "offset", 0)
    if not (1 <= count <= MAX_COUNT and offset >= 0 and count + offset <= MAX_WINDOW):
        text = f"count is from 1 to {MAX_COUNT}, and count plus offset at most {MAX_WINDOW}."
        raise ApiError(700, text)
    return {"TotalCount": len(found), name: found[offset : offset + count]}


def number_of(call: Call, name: str, default: int) -> int:
    try:
        return int(call.query.get(name, default))
    except ValueError:
        raise ApiError(700, f"'{name}' must be a number.") from None


# -- server ---------------------------------------------------------------------------------


@route("GET", "/server")
def get_server(account: Account, _call: Call) -> dict[str, Any]:
    hook = account.store.get(ESP, "hook", "*") or {}
    head = {
        "ID": SERVER_ID,
        "ApiTokens": list(account.tokens),
        "ServerLink": f"https://account.postmarkapp.com/servers/{SERVER_ID}",
    }
    saved = account.store.get(ESP, "setting", "server") or {}
    return {**head, **SERVER, **saved, "InboundHookUrl": hook.get("inbound") or ""}


@route("PUT", "/server")
def put_server(account: Account, call: Call) -> dict[str, Any]:
    given = dict(call.body())
    for name, value in given.items():
        if name not in SERVER or name in FIXED or not is_a(value, type(SERVER[name])):
            raise ApiError(603, f"'{name}' cannot be set, or not to this value.")
    if "InboundHookUrl" in given:
        set_inbound_hook(account.store, given.pop("InboundHookUrl"))
    saved = account.store.get(ESP, "setting", "server") or {}
    account.store.put(ESP, "setting", "server", saved | given)
    return get_server(account, call)


def set_inbound_hook(store: Store, url: str) -> None:
    if url and not is_url(url):
        raise ApiError(606, "The inbound hook URL is not valid.")
    hook = store.get(ESP, "hook", "*") or {}
    store.put(ESP, "hook", "*", hook | {"inbound": url or None})


def has_types(body: Mapping[str, Any], kinds: Mapping[str, type]) -> bool:
    return all(
        name in kinds and (value is None or is_a(value, kinds[name]))
        for name, value in body.items()
    )


def is_url(url: Any) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    return False


# -- message streams ------------------------------------------------------------------------


def stream_object(name: str, **fields: Any) -> dict[str, Any]:
    title, kind = DEFAULT_STREAMS.get(name, (name, "Transactional"))
    handling = "Postmark" if fields.get("MessageStreamType", kind) == "Broadcasts" else "None"
    base: dict[str, Any] = {
        "ID": name,
        "ServerID": SERVER_ID,
        "Name": title,
        "Description": "",
        "MessageStreamType": kind,
        "CreatedAt": "2026-01-01T00:00:00.0000000Z",
        "UpdatedAt": None,
        "ArchivedAt": None,
        "ExpectedPurgeDate": None,
        "SubscriptionManagementConfiguration": {"UnsubscribeHandlingType": handling},
    }
    return base | fields


@route("GET", "/message-streams")
def list_streams(account: Account, call: Call) -> dict[str, Any]:
    kind = call.query.get("messagestreamtype", "All")
    archived = call.query.get("includearchivedstreams", "false").lower() == "true"
    streams = [
        one
        for one in account.streams().values()
        if kind in ("All", one["MessageStreamType"]) and (archived or not one["ArchivedAt"])
    ]
    return {"MessageStreams": streams, "TotalCount": len(streams)}


@route("GET", "/message-streams/<name>")
def get_stream(account: Account, call: Call) -> dict[str, Any]:
    return account.stream(call.args[0])


@route("POST", "/message-streams")
def post_stream(account: Account, call: Call) -> dict[str, Any]:
    body = call.body()
    name, kind = body.get("ID"), body.get("MessageStreamType")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,29}", name):
        raise ApiError(1221, "A message stream needs an ID of lower-case letters and digits.")
    if kind not in ("Transactional", "Broadcasts"):
        raise ApiError(1228, "A server has one inbound stream; others send.")
    if name in account.streams():
        raise ApiError(1225, f"The message stream '{name}' exists already.")
    fields = {k: body[k] for k in ("Name", "Description", "MessageStreamType") if k in body}
    stream = stream_object(name, **fields, CreatedAt=now())
    account.store.put(ESP, "stream", name, stream)
    return stream


@route("PATCH", "/message-streams/<name>")
def patch_stream(account: Account, call: Call) -> dict[str, Any]:
    body = call.body()
    allowed = ("Name", "Description", "SubscriptionManagementConfiguration")
    changes = {name: body[name] for name in allowed if name in body}
    return saved_stream(account, call.args[0], changes | {"UpdatedAt": now()})


@route("POST", "/message-streams/<name>/archive")
def archive_stream(account: Account, call: Call) -> dict[str, Any]:
    when = now()
    stream = saved_stream(account, call.args[0], {"ArchivedAt": when, "ExpectedPurgeDate": when})
    return {name: stream[name] for name in ("ID", "ServerID", "ExpectedPurgeDate")}


@route("POST", "/message-streams/<name>/unarchive")
def unarchive_stream(account: Account, call: Call) -> dict[str, Any]:
    return saved_stream(account, call.args[0], {"ArchivedAt": None, "ExpectedPurgeDate": None})


def saved_stream(account: Account, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    stream = account.stream(name) | changes
    account.store.put(ESP, "stream", name, stream)
    return stream


# -- suppressions ---------------------------------------------------------------------------


def suppression_entry(address: str, entry: Any) -> dict[str, Any]:
    return {"EmailAddress": address, **entry}


@route("GET", "/message-streams/<name>/suppressions/dump")
def dump_suppressions(account: Account, call: Call) -> dict[str, Any]:
    account.stream(call.args[0])
    found = [
        suppression_entry(address, entry)
        for key, entry in account.store.items(ESP, "suppression")
        for where, _, address in [key.partition(" ")]
        if where in (call.args[0], "*")
    ]
    names = {"SuppressionReason": "suppressionreason", "Origin": "origin"}
    kept = [
        one for one in found if matches(one, call.query, names | {"EmailAddress": "emailaddress"})
    ]
    return {"Suppressions": kept}


@route("POST", "/message-streams/<name>/suppressions")
def create_suppressions(account: Account, call: Call) -> dict[str, Any]:
    def create(address: str) -> dict[str, Any]:
        account.suppress(address, call.args[0], "ManualSuppression", "Customer")
        return {"EmailAddress": address, "Status": "Suppressed", "Message": None}

    return each_suppression(account, call, create)


@route("POST", "/message-streams/<name>/suppressions/delete")
def delete_suppressions(account: Account, call: Call) -> dict[str, Any]:
    def delete(address: str) -> dict[str, Any]:
        found = account.suppression(address, call.args[0])
        if found and found["SuppressionReason"] == "SpamComplaint":
            raise ApiError(0, "A spam complaint cannot be deleted.")
        account.reactivate(address, call.args[0])
        return {"EmailAddress": address, "Status": "Deleted", "Message": None}

    return each_suppression(account, call, delete)


def each_suppression(
    account: Account, call: Call, act: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """One result for each address, in order; a bad one does not stop the others."""
    account.stream(call.args[0])
    items = call.body().get("Suppressions")
    texts = [item.get("EmailAddress") for item in items or () if isinstance(item, dict)]
    if not isinstance(items, list) or len(texts) != len(items):
        raise ApiError(1409, "Suppressions must be a list of objects with an EmailAddress.")
    if len(texts) > MAX_RECIPIENTS:
        raise ApiError(1410, f"At most {MAX_RECIPIENTS} suppressions can be changed at once.")
    return {"Suppressions": [one_suppression(text, act) for text in texts]}


def one_suppression(text: Any, act: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act(checked_address(str(text), "To"))
    except ApiError as error:
        return {"EmailAddress": text, "Status": "Failed", "Message": error.body["Message"]}
