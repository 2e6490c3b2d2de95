"""Postmark's management API as a script for `tests.scripted`: streams, webhooks, the server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scripted import Reply, Request

TOKEN = "3f0c7a52-0000-4b53-8a61-canary000001"


@dataclass
class FakePostmark:
    """One server with streams and webhooks; pass it to ``scripted()`` as the only item.

    ``refuse`` maps a method and path to the status and error code that are answered instead.
    """

    streams: dict[str, str] = field(
        default_factory=lambda: {
            "outbound": "Transactional",
            "news": "Broadcasts",
            "inbound": "Inbound",
        }
    )
    webhooks: list[dict[str, Any]] = field(default_factory=list)
    server: dict[str, Any] = field(
        default_factory=lambda: {"ID": 1, "Name": "Shop", "DeliveryType": "Live"}
    )
    refuse: dict[str, tuple[int, int]] = field(default_factory=dict)
    changes: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        url = urlsplit(request.target)
        call = f"{request.method} {url.path}"
        if request.headers.get("x-postmark-server-token") != TOKEN:
            return self._error(401, 10)
        if call in self.refuse:
            return self._error(*self.refuse[call])
        body = json.loads(request.body) if request.body else {}
        if body:
            self.changes.append((request.method, url.path, body))
        return Reply(200, json.dumps(self._answer(call, parse_qs(url.query), body)).encode())

    def _answer(self, call: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        if call == "GET /message-streams":
            kinds = self.streams.items()
            return {"MessageStreams": [{"ID": i, "MessageStreamType": kind} for i, kind in kinds]}
        if call == "GET /webhooks":
            stream = query["MessageStream"][0]
            return {"Webhooks": [hook for hook in self.webhooks if hook["MessageStream"] == stream]}
        if call == "POST /webhooks":
            self.webhooks.append({"ID": len(self.webhooks) + 1, **body})
            return self.webhooks[-1]
        if call.startswith("PUT /webhooks/"):
            return self._edited(int(call.rpartition("/")[2]), body)
        if call == "PUT /server":
            self.server |= body
        return self.server

    def _edited(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        hook = next(hook for hook in self.webhooks if hook["ID"] == number)
        triggers = {**hook.get("Triggers", {}), **body.get("Triggers", {})}
        hook.update({**body, "Triggers": triggers})
        return hook

    def _error(self, status: int, code: int) -> Reply:
        error = {"ErrorCode": code, "Message": f"Refused; the token was {TOKEN}."}
        return Reply(status, json.dumps(error).encode())
