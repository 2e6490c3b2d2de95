"""What goes over Resend's wire: errors, lists, addresses, and the rules of a message.

Sources: https://resend.com/docs/api-reference/errors, /api-reference/emails/send-email,
/dashboard/emails/attachments and /dashboard/emails/schedule-email. Where Resend documents a
rule but not the text of its error, the text here is our own and only the name can be relied on.
"""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

from .mime import bare
from .records import Attached

ESP = "resend"
MAX_RECIPIENTS = 50
MAX_VARIABLES = 50
MAX_NAME = 50
MAX_VALUE = 2000
MAX_NUMBER = 2**53 - 1
MAX_MESSAGE = 40 * 1024 * 1024
MAX_AHEAD = timedelta(days=30)
RESERVED = frozenset(
    {
        "FIRST_NAME",
        "LAST_NAME",
        "EMAIL",
        "UNSUBSCRIBE_URL",
        "RESEND_UNSUBSCRIBE_URL",
        "contact",
        "this",
    }
)
ADDRESS = re.compile(r"[!-~]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", re.ASCII)
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
VARIABLE = re.compile(r"\{\{\{\s*(\w+)\s*(?:\|([^}]*))?\}\}\}", re.ASCII)
TAG = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
IN_WORDS = re.compile(r"(in|tomorrow|today|next|on|at)\b.{1,80}", re.IGNORECASE)


class ApiError(Exception):
    """What is refused: the HTTP status and the error object."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(name)
        self.status = status
        self.message = message
        self.body = {"statusCode": status, "name": name, "message": message}


def invalid(message: str, name: str = "validation_error") -> ApiError:
    """The error for what is wrong with a message."""
    return ApiError(422, name, message)


def missing(field: str) -> ApiError:
    return invalid(f"Missing `{field}` field.", "missing_required_field")


def answer(body: Any, status: int = 200) -> Response:
    """A JSON answer, with the headers that tell how many requests are left."""
    limits = {
        "ratelimit-limit": "5",
        "ratelimit-remaining": "4",
        "ratelimit-reset": "1",
        "ratelimit-policy": "5;w=1",
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")
    return Response(data, status, limits, mimetype="application/json")


def listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "has_more": False, "data": items}


def stamp(moment: datetime | None = None) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    moment = (moment or datetime.now(timezone.utc)).astimezone(timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_json(request: Request, kind: type) -> Any:
    """The body, which must be JSON of one kind."""
    try:
        body = json.loads(request.get_data() or b"null")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, kind):
        text = "The request body must be a JSON object or, for a batch, an array."
        raise ApiError(400, "validation_error", text)
    return body


# -- a message ------------------------------------------------------------------------------


def check_message(body: Any, *, batch: bool) -> None:
    """All the rules that need nothing but the message itself."""
    if not isinstance(body, dict):
        raise invalid("A message must be an object.")
    for field in ("from", "to"):
        if not body.get(field):
            raise missing(field)
    check_addresses(body)
    check_content(body)
    check_headers(body.get("headers"))
    check_tags(body.get("tags"))
    if batch and ("attachments" in body or "scheduled_at" in body):
        raise invalid("The `attachments` and `scheduled_at` fields are not supported in a batch.")
    if len(json.dumps(body.get("attachments"))) > MAX_MESSAGE:
        raise invalid("A message can have at most 40 MB.", "invalid_attachment")


def check_addresses(body: dict[str, Any]) -> None:
    if not isinstance(body["from"], str):
        raise invalid("Invalid `from` field.", "invalid_from_address")
    for field in ("to", "cc", "bcc", "reply_to"):
        if len(texts(body, field)) > MAX_RECIPIENTS:
            raise invalid(f"The `{field}` field can have at most {MAX_RECIPIENTS} addresses.")
    for field in ("from", "to", "cc", "bcc", "reply_to"):
        for item in texts(body, field):
            check_address(field, item)


def check_address(field: str, item: Any) -> None:
    """``addr`` or ``Name <addr>``; a name with punctuation is in quotes."""
    name = item.rpartition("<")[0].strip() if isinstance(item, str) else ""
    unquoted = QUOTED.sub("", name)
    if (
        not isinstance(item, str)
        or not ADDRESS.fullmatch(bare(item))
        or any(mark in unquoted for mark in ',;@<>"')
    ):
        raise invalid(
            f"Invalid `{field}` field. The email address needs to follow the "
            "`email@example.com` or `Name <email@example.com>` format.",
            "invalid_from_address" if field == "from" else "validation_error",
        )


def texts(body: dict[str, Any], field: str) -> list[Any]:
    """A field that holds one text or an array of them."""
    value = body.get(field)
    return value if isinstance(value, list) else [value] if value else []


def check_content(body: dict[str, Any]) -> None:
    bodies = [name for name in ("text", "html") if body.get(name) is not None]
    if any(not isinstance(body[name], str) for name in bodies):
        raise invalid("The `text` and `html` fields must be strings.")
    if body.get("template") is not None:
        if bodies:
            raise invalid("`template` cannot be used together with `html` or `text`.")
        return
    if not isinstance(body.get("subject"), str):
        raise missing("subject")
    if not bodies:
        raise missing("html` or `text")


def check_headers(headers: Any) -> None:
    if headers is None:
        return
    if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
        raise invalid("The `headers` field must be an object of strings.")


def check_tags(tags: Any) -> None:
    """Names and values of ASCII letters, digits, underscores and dashes."""
    items = [] if tags is None else tags if isinstance(tags, list) else [tags]
    for item in items:
        pair = [item.get("name"), item.get("value")] if isinstance(item, dict) else [None]
        if not all(isinstance(text, str) and TAG.fullmatch(text) for text in pair):
            raise invalid(
                "Tags should only contain ASCII letters, numbers, underscores, or dashes."
            )


def scheduled(value: Any) -> datetime | None:
    """When to send: a time, at most 30 days ahead; None for one that is told in words."""
    if not isinstance(value, str) or not (ISO.fullmatch(value) or IN_WORDS.fullmatch(value)):
        raise invalid("The `scheduled_at` field is not a time in ISO 8601.", "invalid_parameter")
    if not ISO.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(padded(value))
    except ValueError:
        raise invalid("The `scheduled_at` field is no such time.", "invalid_parameter") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    if moment > datetime.now(timezone.utc) + MAX_AHEAD:
        raise invalid("The `scheduled_at` field is more than 30 days ahead.", "invalid_parameter")
    return moment


def padded(value: str) -> str:
    """A time as Python 3.10 reads it: three digits after the point, an offset, no Z."""
    value = re.sub(r"\.(\d+)", lambda match: f".{match[1]:0<3}", value.replace("Z", "+00:00"))
    return re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", value) if "T" in value else value


# -- attachments ----------------------------------------------------------------------------


def attached(item: Any) -> Attached:
    """One attachment; the content of a remote one is not fetched."""
    if not isinstance(item, dict) or not ("content" in item or item.get("path")):
        raise invalid("An attachment needs `content` or `path`.", "invalid_attachment")
    name = str(item.get("filename") or "")
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    content_type = str(item.get("content_type") or guessed)
    return Attached(name, content_type, decoded(item.get("content")), item.get("content_id"))


def decoded(content: Any) -> bytes:
    """Base64, or the array of numbers that the JavaScript library makes of a buffer."""
    try:
        if isinstance(content, list):
            return bytes(content)
        return base64.b64decode(str(content or ""), validate=True)
    except (binascii.Error, ValueError, TypeError):
        text = "The `content` of an attachment must be base64."
        raise invalid(text, "invalid_attachment") from None


def is_stuck(files: list[Attached]) -> bool:
    """Whether a message stays queued for ever, of which nothing tells.

    That befalls attachments without a name, and those whose extension says another known type.
    """
    return any(not file.name or contradicts(file) for file in files)


def contradicts(file: Attached) -> bool:
    kind = file.content_type.partition(";")[0].strip().lower()
    by_name = mimetypes.guess_type(file.name)[0]
    known = mimetypes.guess_all_extensions(kind)
    extension = "." + file.name.rpartition(".")[2].lower()
    return bool(by_name and known and extension not in known)


# -- templates ------------------------------------------------------------------------------


def check_variables(variables: Any) -> dict[str, Any]:
    """Names, texts and numbers, within Resend's limits."""
    if variables is None:
        return {}
    if not isinstance(variables, dict) or len(variables) > MAX_VARIABLES:
        raise invalid("`variables` must be an object of at most 50 entries.")
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z0-9_]{1,50}", name) or name in RESERVED:
            raise invalid(f"`{name}` cannot be the name of a variable.")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = isinstance(value, str) and len(value) <= MAX_VALUE
        if not fits and not (is_number and abs(value) <= MAX_NUMBER):
            raise invalid(f"The value of `{name}` must be a short string or a number.")
    return variables


def rendered(text: str, variables: dict[str, Any]) -> str:
    """Fill in ``{{{NAME}}}`` and ``{{{NAME|fallback}}}``."""

    def value_of(match: re.Match[str]) -> str:
        name, fallback = match.groups()
        if name in variables:
            return str(variables[name])
        if fallback is None:
            raise invalid(f"The variable `{name}` has neither a value nor a fallback.")
        return str(fallback)

    return VARIABLE.sub(value_of, text)
