"""SendGrid's ``mail/send``: what it refuses, and what it makes of what it takes.

Sources: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send and
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors. Where a rule is
documented but not the text of its error, the text here is our own.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from .mustache import render
from .records import Attached, SentMessage

ESP = "sendgrid"
MAX_RECIPIENTS = 1000
MAX_ARGUMENTS = 10_000
MAX_SCHEDULED = 72 * 3600

ADDRESS = re.compile(
    r"(?:[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+|\"[^\"\\]+\")@(?:[A-Za-z0-9_-]+\.)+[A-Za-z0-9-]+"
)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
BAD_TYPE = re.compile(r"[;\r\n]")
RESERVED = frozenset({"x-sg-id", "x-sg-eid", "received", "dkim-signature"}) | {
    *("content-type", "content-transfer-encoding"),
    *("to", "from", "subject", "reply-to", "cc", "bcc"),
}

Problem = tuple[str, str | None]
BAD_REQUEST: Problem = ("Bad Request", None)  # all that is said about custom arguments


def problems(body: Any) -> Iterator[Problem]:
    """Everything that is wrong with a request: the text, and the field it is about."""
    if not isinstance(body, dict):
        yield BAD_REQUEST
        return
    yield from people_problems([body.get("from")], "from")
    yield from personalization_problems(body)
    yield from reply_to_problems(body)
    yield from content_problems(body)
    yield from attachment_problems(body)
    yield from category_problems(body)
    yield from shared_problems(body, "")


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, whatever it is."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def people_problems(people: Any, place: str) -> Iterator[Problem]:
    """What is wrong with ``from``, or with the lists of addresses at some place."""
    if not isinstance(people, list):
        yield f"Invalid type. Expected: array, given: {type(people).__name__}.", place
        return
    for number, one in enumerate(people):
        where = f"{place}.{number}" if place != "from" else place
        if not isinstance(one, dict):
            yield "Invalid type. Expected: object.", where
        elif not isinstance(one.get("email"), str) or not ADDRESS.fullmatch(one["email"]):
            yield "Does not contain a valid address.", f"{where}.email"
        elif not isinstance(one.get("name", ""), str):
            yield "Invalid type. Expected: string.", f"{where}.name"


def personalization_problems(body: dict[str, Any]) -> Iterator[Problem]:
    entries = body.get("personalizations")
    if not isinstance(entries, list) or not entries:
        text = "The personalizations field is required and must have at least one personalization."
        yield text, "personalizations"
        return
    count = 0
    for number, entry in enumerate(entries):
        place = f"personalizations.{number}"
        if not isinstance(entry, dict):
            yield "Invalid type. Expected: object.", place
            continue
        yield from entry_problems(body, entry, place)
        count += sum(len(objects(entry.get(kind))) for kind in ("to", "cc", "bcc"))
    if count > MAX_RECIPIENTS:
        yield (
            "There is a limit of 1000 total recipients (to + cc + bcc) per request.",
            ("personalizations"),
        )


def entry_problems(body: dict[str, Any], entry: dict[str, Any], place: str) -> Iterator[Problem]:
    """What is wrong with one personalization."""
    if not objects(entry.get("to")):
        yield (
            (
                "The to array is required for all personalization objects, and must have at least "
                "one email object with a valid email address."
            ),
            f"{place}.to",
        )
    seen: set[str] = set()
    for kind in ("to", "cc", "bcc"):
        yield from people_problems(entry.get(kind, []), f"{place}.{kind}")
        for one in objects(entry.get(kind)):
            address = str(one.get("email")).lower()
            if address in seen:
                yield (
                    (
                        "Each email address in the personalization block should be unique between "
                        f"to, cc, and bcc. We found the first duplicate instance of [{address}]."
                    ),
                    place,
                )
            seen.add(address)
    yield from merge_problems(body, entry, place)
    yield from shared_problems(entry, f"{place}.")


def merge_problems(body: dict[str, Any], entry: dict[str, Any], place: str) -> Iterator[Problem]:
    """Substitutions and dynamic templates exclude each other."""
    dynamic = is_dynamic(body)
    substitutions = entry.get("substitutions", {})
    if dynamic and substitutions:
        yield "Substitutions may not be used with dynamic templating", f"{place}.substitutions"
    if not dynamic and entry.get("dynamic_template_data"):
        yield "The template_id is required when using dynamic templates", "template_id"
    if not isinstance(substitutions, dict) or not all(
        value is None or isinstance(value, str) for value in substitutions.values()
    ):
        yield "Invalid type. Expected: string or null.", f"{place}.substitutions"
    elif size_of(substitutions) > MAX_ARGUMENTS:
        yield "Substitutions are limited to 10000 bytes.", f"{place}.substitutions"


def is_dynamic(body: Mapping[str, Any]) -> bool:
    return str(body.get("template_id") or "").startswith("d-")


def size_of(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def shared_problems(scope: dict[str, Any], place: str) -> Iterator[Problem]:
    """What is wrong with what may stand in a personalization as well as beside them."""
    arguments = scope.get("custom_args")
    if arguments is not None and not is_texts(arguments):
        yield BAD_REQUEST
    if isinstance(arguments, dict) and (not arguments or size_of(arguments) > MAX_ARGUMENTS):
        yield BAD_REQUEST
    headers = scope.get("headers", {})
    if not is_texts(headers):
        yield "Headers must be an object of strings.", f"{place}headers"
    else:
        for name in headers:
            if name.lower() in RESERVED or not name.isascii() or " " in name:
                yield f"The header {name!r} cannot be set.", f"{place}headers.{name}"
    send_at = scope.get("send_at")
    if send_at is not None and (not isinstance(send_at, int) or isinstance(send_at, bool)):
        yield "Invalid type. Expected: integer.", f"{place}send_at"
    elif send_at is not None and send_at > time.time() + MAX_SCHEDULED:
        yield "Scheduling is limited to 72 hours in advance.", f"{place}send_at"
    if scope.get("subject") == "" or not isinstance(scope.get("subject", ""), str):
        yield "The subject must be a string of at least one character.", f"{place}subject"


def is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def reply_to_problems(body: dict[str, Any]) -> Iterator[Problem]:
    several = body.get("reply_to_list")
    if "reply_to" in body and several is not None:
        yield "reply_to and reply_to_list exclude each other.", "reply_to_list"
    if "reply_to" in body:
        yield from people_problems([body["reply_to"]], "reply_to")
    if several is None:
        return
    yield from people_problems(several, "reply_to_list")
    addresses = [str(one.get("email")).lower() for one in objects(several)]
    if len(set(addresses)) < len(addresses) or len(addresses) > MAX_RECIPIENTS:
        yield "Each address may be there once, and at most 1000 of them.", "reply_to_list"


def content_problems(body: dict[str, Any]) -> Iterator[Problem]:
    """Subject and content, which a template has of its own."""
    template = body.get("template_id")
    entries = objects(body.get("personalizations"))
    if not template and "subject" not in body and not all("subject" in one for one in entries):
        yield (
            (
                "The subject is required. You can get around this requirement if you use a "
                "template with a subject defined or if every personalization has a subject defined."
            ),
            "subject",
        )
    parts = body.get("content")
    if parts is None and template:
        return
    if not isinstance(parts, list) or not parts:
        yield (
            (
                "Unless a valid template_id is provided, the content parameter is required. There "
                "must be at least one defined content block."
            ),
            "content",
        )
        return
    for number, part in enumerate(parts):
        yield from part_problems(part, f"content.{number}")
    kinds = [str(part.get("type")) for part in objects(parts)]
    if kinds != sorted(kinds, key=lambda kind: CONTENT_ORDER.get(kind, 2)):
        yield (
            (
                "If present, text/plain and text/html may only be provided once, in this order, "
                "followed by any other content."
            ),
            "content",
        )


CONTENT_ORDER = {"text/plain": 0, "text/html": 1}


def part_problems(part: Any, place: str) -> Iterator[Problem]:
    kind, value = (part.get("type"), part.get("value")) if isinstance(part, dict) else (None, None)
    if not isinstance(kind, str) or not kind or BAD_TYPE.search(kind):
        yield "The content type is required and cannot contain ';', or CRLF.", f"{place}.type"
    if not isinstance(value, str) or not value:
        yield (
            "The content value must be a string at least one character in length.",
            (f"{place}.value"),
        )


def attachment_problems(body: dict[str, Any]) -> Iterator[Problem]:
    for number, item in enumerate(body.get("attachments") or ()):
        place = f"attachments.{number}"
        if not isinstance(item, dict) or decoded(item.get("content")) is None:
            yield "The attachment content must be base64 encoded.", f"{place}.content"
        elif not isinstance(item.get("filename"), str):
            yield "The filename is required.", f"{place}.filename"
        elif BAD_TYPE.search(str(item.get("type", ""))):
            yield "The attachment type cannot contain ';', or CRLF.", f"{place}.type"
        elif item.get("disposition", "attachment") not in ("attachment", "inline"):
            yield "The disposition must be inline or attachment.", f"{place}.disposition"


def decoded(content: Any) -> bytes | None:
    try:
        return base64.b64decode(content, validate=True) if content else None
    except (binascii.Error, ValueError, TypeError):
        return None


def category_problems(body: dict[str, Any]) -> Iterator[Problem]:
    tags = body.get("categories", [])
    if not isinstance(tags, list) or not all(
        isinstance(tag, str) and tag.isascii() and len(tag) <= 255 for tag in tags
    ):
        yield "Categories must be strings of at most 255 ASCII characters.", "categories"
    elif len(set(tags)) < len(tags) or len(tags) > 10:
        yield "At most 10 categories, each of them once.", "categories"


# -- what is taken ------------------------------------------------------------------------


def is_sandboxed(body: Mapping[str, Any]) -> bool:
    return enabled(body.get("mail_settings"), "sandbox_mode") is True


def enabled(settings: Any, name: str) -> bool | None:
    """A switch in an object of objects with a boolean ``enable``."""
    switch = settings.get(name) if isinstance(settings, dict) else None
    value = switch.get("enable") if isinstance(switch, dict) else None
    return value if isinstance(value, bool) else None


def drafts(body: dict[str, Any], path: str, template: dict[str, Any] | None) -> list[SentMessage]:
    """The copies that a request makes, one for each personalization, as they are recorded.

    All have the request's X-Message-Id as their ``message_id``.
    """
    request_id = secrets.token_urlsafe(16)
    return [
        drafted(body, entry, path, template, f"{request_id}.recvd-{secrets.token_hex(4)}-{number}")
        for number, entry in enumerate(body["personalizations"])
    ]


def drafted(
    body: dict[str, Any],
    entry: dict[str, Any],
    path: str,
    template: dict[str, Any] | None,
    number: str,
) -> SentMessage:
    lists = {kind: entry.get(kind, []) for kind in ("to", "cc", "bcc")}
    recipients = [one["email"] for people in lists.values() for one in people]
    metadata = {**body.get("custom_args", {}), **entry.get("custom_args", {})}
    request_id = number.partition(".")[0]
    tags = body.get("categories", [])
    send_at = entry.get("send_at", body.get("send_at"))
    several = body.get("reply_to_list") or [body["reply_to"]] if reply_to_of(body) else []
    return SentMessage(
        esp=ESP,
        id=number,
        message_id=request_id,
        path=path,
        at=datetime.now(timezone.utc),
        payload=body | {"personalizations": [entry]},
        recipients=recipients,
        ids=dict.fromkeys(recipients, request_id),
        from_=shown(entry.get("from") or body["from"]),
        to=[one["email"] for one in lists["to"]],
        cc=[one["email"] for one in lists["cc"]],
        bcc=[one["email"] for one in lists["bcc"]],
        reply_to=[shown(one) for one in several],
        headers=list({**body.get("headers", {}), **entry.get("headers", {})}.items()),
        attachments=[attached(item) for item in body.get("attachments") or ()],
        tag=tags[0] if tags else None,
        tags=list(tags),
        metadata=metadata,
        test=is_sandboxed(body),
        track_opens=enabled(body.get("tracking_settings"), "open_tracking"),
        track_clicks=enabled(body.get("tracking_settings"), "click_tracking"),
        send_at=None if send_at is None else datetime.fromtimestamp(send_at, timezone.utc),
        template=None if body.get("template_id") is None else str(body["template_id"]),
        variables=dict(entry.get("dynamic_template_data") or entry.get("substitutions") or {}),
        aliases=[text for text in metadata.values() if UUID.fullmatch(text)],
        **content_of(body, entry, template),
    )


def reply_to_of(body: Mapping[str, Any]) -> bool:
    return bool(body.get("reply_to_list") or body.get("reply_to"))


def shown(person: Mapping[str, Any]) -> str:
    name = person.get("name")
    return f"{name} <{person['email']}>" if name else str(person["email"])


def attached(item: Mapping[str, Any]) -> Attached:
    cid = item.get("content_id") if item.get("disposition") == "inline" else None
    kind = item.get("type") or "application/octet-stream"
    return Attached(item["filename"], kind, decoded(item["content"]) or b"", cid)


def content_of(
    body: dict[str, Any], entry: dict[str, Any], template: dict[str, Any] | None
) -> dict[str, Any]:
    """Subject and bodies as they will arrive: rendered, or with texts put in place of others."""
    given: dict[str, str | None] = {
        one["type"]: one["value"] for one in reversed(body.get("content") or [])
    }
    subject = entry.get("subject", body.get("subject"))
    text, html = given.pop("text/plain", None), given.pop("text/html", None)
    if template is not None and is_dynamic(body):
        data = entry.get("dynamic_template_data") or {}
        return {
            "subject": render(template["subject"], data) or subject,
            "text": rendered(template["text"], data),
            "html": rendered(template["html"], data, escape=True),
        }
    if template is not None:
        subject = (template["subject"] or "<%subject%>").replace("<%subject%>", subject or "")
        text = (template["text"] or "<%body%>").replace("<%body%>", text or "") or None
        html = (template["html"] or "<%body%>").replace("<%body%>", html or "") or None
    swaps = entry.get("substitutions") or {}
    alternatives = [(kind, swapped(value, swaps)) for kind, value in reversed(given.items())]
    return {
        "subject": swapped(subject, swaps),
        "text": swapped(text, swaps),
        "html": swapped(html, swaps),
        "alternatives": alternatives,
    }


def rendered(text: str | None, data: dict[str, Any], *, escape: bool = False) -> str | None:
    return None if text is None else render(text, data, escape=escape)


def swapped(text: str | None, swaps: Mapping[str, str | None]) -> str | None:
    """Replace each placeholder wherever it stands; what is put in is not looked at again."""
    if text is None or not swaps:
        return text
    pattern = "|".join(re.escape(key) for key in sorted(swaps, key=len, reverse=True) if key)
    return re.sub(pattern, lambda match: swaps[match[0]] or "", text) if pattern else text
