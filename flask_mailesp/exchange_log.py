"""The log of exchanges with ESPs, for ``MAILESP_DEBUG_API_REQUESTS``.

Sizes, counts and times at INFO; at DEBUG also which fields went out and came back. Never
content, addresses or credentials: names of fields are all that is told of a body.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from .esp import Call, HttpResponse
from .patterns import pattern
from .wire import parse_json

logger = logging.getLogger("flask_mailesp")

_LARGEST = 1_000_000  # bytes of a body that is looked at
_MOST = 40  # fields of an object
_NAME = pattern(r"[A-Za-z][A-Za-z0-9_-]{0,39}")  # no address, and no text that was blotted out


def log_exchange(esp_name: str, call: Call, response: HttpResponse | None, duration: float) -> None:
    """Log one exchange; ``duration`` is in seconds."""
    logger.info(
        "%s: %s %s, %d bytes for %d recipients: %s in %.0f ms",
        esp_name,
        call.request.method,
        urlsplit(call.request.url).path,
        len(call.request.body),
        sum(len(part.recipients) for part in call.parts),
        "no answer" if response is None else response.status,
        duration * 1000,
    )
    if logger.isEnabledFor(logging.DEBUG):
        answered = "nothing" if response is None else outline(response.body)
        logger.debug("%s: sent %s; got %s", esp_name, outline(call.request.body), answered)


def outline(body: Any) -> str:
    """Return the names of the fields in a JSON body: ``[3 × {From, To}]``."""
    if not isinstance(body, bytes) or len(body) > _LARGEST:
        return f"{len(body)} bytes"
    data = parse_json(body)
    if isinstance(data, list) and data:
        return f"[{len(data)} × {_fields(data[0])}]"
    return _fields(data)


def _fields(value: Any) -> str:
    if not isinstance(value, dict):
        return "no object"
    names = [name if _NAME.fullmatch(name) else "…" for name in list(value)[:_MOST]]
    return f"{{{', '.join(names)}}}"
