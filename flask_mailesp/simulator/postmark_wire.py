"""Postmark's JSON: what all of its endpoints share. Requests in, answers and errors out."""

from __future__ import annotations

import json
import random
import re
from datetime import datetime, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

ESP = "postmark"
SERVER_ID = 7100001
MAX_RECIPIENTS = 50

DOMAIN = re.compile(r"(\.?[A-Za-z0-9-])+")
MAILBOX = re.compile(r"[a-z0-9.!#$%&'`*+\-/=^_{}|~]+", re.IGNORECASE | re.ASCII)
NAMED = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"|[^<>"]*?)\s*<(?P<address>[^<>]*)>')
PUNCTUATION = frozenset('()<>[]:;@\\,."')
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ApiError(Exception):
    """What Postmark answers instead of a result."""

    def __init__(self, code: int, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"ErrorCode": code, "Message": message}


class TooLarge(Exception):
    """HTTP 413, from in front of the API: without an ErrorCode."""


def answer(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")


def check_content_types(request: Request) -> None:
    """Both headers are required; the text and the code are those of older documentation."""
    accepts = "application/json" in request.headers.get("Accept", "").lower()
    if not accepts or (request.get_data() and not request.is_json):
        text = "JSON is required: set the Accept and Content-Type headers to application/json."
        raise ApiError(409, text, 415)


def read_json(request: Request, kind: type, limit: int) -> Any:
    data = request.get_data()
    if len(data) > limit:
        raise TooLarge
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise ApiError(402, "Received invalid JSON input.") from None
    if not isinstance(body, kind):
        raise ApiError(402, "Received invalid JSON input: not the expected type.")
    return body


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def stamp(moment: datetime) -> str:
    """ISO 8601 with seven fraction digits, as .NET writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}{random.randint(0, 9)}Z"  # noqa: S311


def now() -> str:
    return stamp(datetime.now(timezone.utc))


def check_types(body: dict[str, Any], fields: dict[str, type]) -> None:
    wrong = [
        name
        for name, value in body.items()
        if name not in fields or not (value is None or is_a(value, fields[name]))
    ]
    if wrong:
        raise ApiError(403, f"Invalid request field(s): {', '.join(wrong)}.")


def is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def check_items(body: dict[str, Any], field: str, names: tuple[str, ...]) -> None:
    for item in body.get(field) or ():
        if not isinstance(item, dict) or not all(isinstance(item.get(n), str) for n in names):
            raise ApiError(403, f"Invalid request field(s): {field}.")


def check_length(field: str, text: str | None, limit: int) -> None:
    """Postmark counts UTF-16 units."""
    if len((text or "").encode("utf-16-le", "surrogatepass")) // 2 > limit:
        raise ApiError(300, f"'{field}' can have at most {limit} characters.")


# -- addresses ----------------------------------------------------------------------------


def addresses(body: dict[str, Any], field: str) -> list[str]:
    """The bare addresses of a comma-separated field, each of them checked."""
    text = body.get(field) or ""
    return [one_address(item.strip(), field) for item in split(text)] if text.strip() else []


def split(text: str) -> list[str]:
    """Split at the commas that stand outside of quotes."""
    items, quoted, escaped = [""], False, False
    for character in text:
        if character == "," and not quoted:
            items.append("")
            continue
        if character == '"' and not escaped:
            quoted = not quoted
        escaped = character == "\\" and quoted and not escaped
        items[-1] += character
    return items


def one_address(item: str, field: str) -> str:
    match = NAMED.fullmatch(item)
    name, address = (match["name"], match["address"]) if match else ("", item)
    unquoted = not name.startswith('"') and not PUNCTUATION.isdisjoint(name)
    if unquoted or CONTROL.search(item):
        raise ApiError(300, f"Invalid '{field}' address: '{item}'.")
    return checked_address(address.strip(), field)


def checked_address(address: str, field: str) -> str:
    mailbox, at, domain = address.rpartition("@")
    if not at and field in ("Cc", "Bcc"):
        text = f"Error parsing '{field}': Illegal email address '{address}'."
        raise ApiError(300, f"{text} It must contain the '@' symbol.")
    if not MAILBOX.fullmatch(mailbox):
        raise ApiError(300, f"Invalid '{field}' address: '{address}'.")
    if not DOMAIN.fullmatch(domain):
        text = f"Error parsing '{field}': Illegal email domain '{domain}'"
        raise ApiError(300, f"{text} in address '{address}'.")
    return address
