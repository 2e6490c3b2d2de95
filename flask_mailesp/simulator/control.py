"""The simulator's own API: faults on demand, over HTTP.

``/_control/faults`` lists them (GET), adds one (POST, the fields of `Fault` as JSON) or
removes them all (DELETE); ``/_control/faults/3`` removes one (DELETE).
``/_control/messages`` empties the mailbox (DELETE).

A request must carry ``X-Simulator-Control: 1``. A page of another origin cannot send that
header without asking first (CORS), and nobody is told yes. The Host must be an address or
``localhost``: a name could be rebound to this machine by somebody else's DNS.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from werkzeug.wrappers import Request, Response

from .faults import read_fault, to_json

if TYPE_CHECKING:
    from .app import Simulator

HEADER = "X-Simulator-Control"
MAX_BODY = 1_000_000
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Denied(Exception):
    """An answer that is not a success: its status and its sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def respond(simulator: Simulator, request: Request, path: str) -> Response:
    """Answer a request to ``/_control/<path>``."""
    try:
        response = _respond(simulator, request, path)
    except Denied as denied:
        response = _json({"error": str(denied)}, denied.status)
    response.headers.update(SAFE)
    return response


def _respond(simulator: Simulator, request: Request, path: str) -> Response:
    if not is_local_name(request.host):
        raise Denied(403, "Use this machine's address, or localhost, as the host.")
    if request.headers.get(HEADER) != "1":
        raise Denied(403, f"Send the header {HEADER}: 1.")
    first, _, rest = path.partition("/")
    if first == "messages" and not rest and request.method == "DELETE":
        simulator.clear()
        return Response(status=204)
    if first != "faults":
        raise Denied(404, "There is /_control/faults and /_control/messages.")
    return _one_fault(simulator, request, rest) if rest else _all_faults(simulator, request)


def is_local_name(host: str) -> bool:
    """Whether a Host header names an address or localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _all_faults(simulator: Simulator, request: Request) -> Response:
    if request.method == "GET":
        return _json({"faults": [to_json(fault) for fault in simulator.faults]})
    if request.method == "POST":
        return _json(to_json(simulator.faults.add(_read(request))), 201)
    if request.method == "DELETE":
        simulator.faults.clear()
        return Response(status=204)
    raise Denied(405, "Use GET, POST or DELETE.")


def _one_fault(simulator: Simulator, request: Request, number: str) -> Response:
    if request.method != "DELETE":
        raise Denied(405, "Use DELETE.")
    known = number.isascii() and number.isdigit() and len(number) < 19
    if not known or not simulator.faults.discard(int(number)):
        raise Denied(404, "There is no such fault.")
    return Response(status=204)


def _read(request: Request) -> Any:
    data = request.get_data()
    if len(data) > MAX_BODY:
        raise Denied(413, "A fault has at most 1 MB.")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise Denied(400, "The body is not JSON.") from None
    if not isinstance(values, dict):
        raise Denied(400, "The body is not a JSON object.")
    try:
        return read_fault(values)
    except ValueError as error:
        raise Denied(422, f"{error}.") from None


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")
