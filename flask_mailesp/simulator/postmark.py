"""Postmark's side: its send endpoints, its validation and its webhooks.

Sources: https://postmarkapp.com/developer/api/email-api,
https://postmarkapp.com/developer/api/overview (error codes),
https://postmarkapp.com/developer/webhooks/webhooks-overview. Where Postmark documents a rule
but not the text of its error, the text here is our own and only the code can be relied on.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

from werkzeug.wrappers import Request, Response

from .mime import Mail, first_link, split_reply
from .mustache import render
from .records import Attached, Hook, Inbound, Post, Refusal, SentMessage
from .store import Store

ESP = "postmark"
TEST_TOKEN = "postmark_api_test"  # noqa: S105
SERVER_ID = 7100001
MAX_RECIPIENTS = 50
MAX_BATCH = 500
MAX_BODY = 5_000_000
MAX_MESSAGE = 10_000_000
MAX_PAYLOAD = 50_000_000

FORBIDDEN_EXTENSIONS = re.compile(
    r".*\.(vbs|exe|bin|bat|chm|com|cpl|crt|hlp|hta|inf|ins|isp|jse|lnk|mdb|pcd|pif|reg|scr|sct"
    r"|shs|vbe|vba|wsf|wsh|wsl|msc|msi|msp|mst)",
    re.IGNORECASE | re.DOTALL,
)

FIELDS: dict[str, type] = {
    "From": str,
    "To": str,
    "Cc": str,
    "Bcc": str,
    "ReplyTo": str,
    "Headers": list,
    "Tag": str,
    "Metadata": dict,
    "TrackOpens": bool,
    "TrackLinks": str,
    "MessageStream": str,
    "Attachments": list,
}
CONTENT: dict[str, type] = {"Subject": str, "HtmlBody": str, "TextBody": str}
IGNORED: dict[str, type] = {"TemplateModel": object}  # on the endpoints without a template
TEMPLATE: dict[str, type] = {
    "TemplateId": int,
    "TemplateAlias": str,
    "TemplateModel": dict,
    "InlineCss": bool,
}
TRACK_LINKS = ("None", "HtmlAndText", "HtmlOnly", "TextOnly")

INACTIVE_REASON = (
    "Inactive recipients are ones that have generated a hard bounce, a spam complaint, "
    "or a manual suppression. "
)

DOMAIN = re.compile(r"(\.?[A-Za-z0-9-])+")
MAILBOX = re.compile(r"[a-z0-9.!#$%&'`*+\-/=^_{}|~]+", re.IGNORECASE | re.ASCII)
NAMED = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"|[^<>"]*?)\s*<(?P<address>[^<>]*)>')
PUNCTUATION = frozenset('()<>[]:;@\\,."')
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BounceType(NamedTuple):
    """One row of Postmark's table of bounce types."""

    code: int
    name: str
    description: str
    inactive: bool = False


BOUNCE_TYPES = {
    "HardBounce": BounceType(1, "Hard bounce", "The mailbox or its host does not exist.", True),
    "Transient": BounceType(2, "Message delayed", "Delivery failed for now; it is retried."),
    "Unsubscribe": BounceType(16, "Unsubscribe request", "The recipient asked to be removed."),
    "Subscribe": BounceType(32, "Subscribe request", "The recipient asked to be added."),
    "AutoResponder": BounceType(64, "Auto responder", "An automatic reply came back."),
    "AddressChange": BounceType(128, "Address change", "The recipient has a new address."),
    "DnsError": BounceType(256, "DNS error", "The destination's DNS has trouble for now."),
    "SpamNotification": BounceType(512, "Spam notification", "The receiver calls this spam."),
    "OpenRelayTest": BounceType(1024, "Open relay test", "The receiver probes the sender."),
    "Unknown": BounceType(2048, "Unknown", "The bounce could not be classified."),
    "SoftBounce": BounceType(4096, "Soft bounce", "The mailbox is full or unavailable."),
    "VirusNotification": BounceType(8192, "Virus notification", "The receiver saw a virus."),
    "ChallengeVerification": BounceType(16384, "Challenge", "The receiver wants a proof."),
    "BadEmailAddress": BounceType(100000, "Invalid address", "The address is malformed.", True),
    "SpamComplaint": BounceType(100001, "Spam complaint", "The recipient calls it spam.", True),
    "ManuallyDeactivated": BounceType(100002, "Deactivated", "Deactivated by hand.", True),
    "Unconfirmed": BounceType(100003, "Unconfirmed", "The registration is not confirmed."),
    "Blocked": BounceType(100006, "ISP block", "Refused for its content or its sender."),
    "SMTPApiError": BounceType(100007, "SMTP API error", "The submission was refused."),
    "InboundError": BounceType(100008, "Inbound error", "The inbound hook did not answer."),
    "DMARCPolicy": BounceType(100009, "DMARC policy", "The From domain's policy refuses it."),
    "TemplateRenderingFailed": BounceType(100010, "Template failed", "It could not be rendered."),
}
TESTABLE_TYPES = {name.lower(): name for name in BOUNCE_TYPES if name != "SpamComplaint"}

# normalised event -> (RecordType, bounce type)
EVENTS: dict[str, tuple[str, str | None]] = {
    "delivered": ("Delivery", None),
    "deferred": ("Bounce", "Transient"),
    "bounced": ("Bounce", "HardBounce"),
    "soft_bounced": ("Bounce", "SoftBounce"),
    "complained": ("SpamComplaint", "SpamComplaint"),
    "opened": ("Open", None),
    "clicked": ("Click", None),
    "unsubscribed": ("SubscriptionChange", "ManualSuppression"),
    "subscribed": ("SubscriptionChange", None),
    "autoresponded": ("Bounce", "AutoResponder"),
    "rejected": ("Bounce", "Blocked"),
    "failed": ("Bounce", "TemplateRenderingFailed"),
}
RECORD_TYPES: dict[str, tuple[str, str | None]] = {
    "Delivery": ("Delivery", None),
    "Bounce": ("Bounce", "HardBounce"),
    "SpamComplaint": ("SpamComplaint", "SpamComplaint"),
    "Open": ("Open", None),
    "Click": ("Click", None),
    "SubscriptionChange": ("SubscriptionChange", "ManualSuppression"),
}


class ApiError(Exception):
    """What Postmark answers instead of a result."""

    def __init__(self, code: int, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"ErrorCode": code, "Message": message}


class TooLarge(Exception):
    """HTTP 413, from in front of the API: without an ErrorCode."""


class Postmark:
    """The server tokens, streams and sender signatures of one Postmark server."""

    def __init__(
        self,
        store: Store,
        accepted: Callable[[SentMessage], None],
        tokens: Iterable[str],
        streams: Iterable[str],
        sender_domains: frozenset[str] | None,
    ) -> None:
        self._store = store
        self._accepted = accepted
        self._tokens = frozenset(token.lower() for token in tokens)
        self._streams = frozenset(streams)
        self._sender_domains = sender_domains
        self._routes: dict[tuple[str, str], Callable[[Request, str, bool], Any]] = {
            ("POST", "/email"): self._single,
            ("POST", "/email/withtemplate"): self._single,
            ("POST", "/email/batch"): self._batch,
            ("POST", "/email/batchwithtemplates"): self._template_batch,
            ("POST", "/email/bulk"): self._bulk,
            ("GET", "/server"): self._server,
        }

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        route = self._routes.get((request.method, path.lower().rstrip("/")))
        if route is None:
            return self._refuse(path, ApiError(12, "The requested resource was not found.", 404))
        try:
            check_content_types(request)
            result = route(request, path, self._authenticate(request))
        except ApiError as error:
            return self._refuse(path, error)
        except TooLarge:
            page = "<h1>413 Request Entity Too Large</h1>"
            self._store.add_refusal(Refusal(ESP, path, 413, page))
            return Response(page, 413, mimetype="text/html")
        return answer(result)

    def _refuse(self, path: str, error: ApiError) -> Response:
        self._store.add_refusal(Refusal(ESP, path, error.status, error.body))
        response = answer(error.body, error.status)
        response.headers["X-PM-ApiErrorCode"] = str(error.body["ErrorCode"])
        return response

    def _authenticate(self, request: Request) -> bool:
        """Whether the test token came; an ApiError without an accepted one."""
        token = request.headers.get("X-Postmark-Server-Token", "").lower()
        if token == TEST_TOKEN and not request.path.lower().rstrip("/").endswith("/server"):
            return True
        if token not in self._tokens:
            text = (
                "The Server Token you provided in the X-Postmark-Server-Token header is not valid."
            )
            raise ApiError(10, text, 401)
        return False

    def _single(self, request: Request, path: str, test: bool) -> dict[str, Any]:
        return self._accept(read_json(request, dict, MAX_MESSAGE), path, test)

    def _batch(self, request: Request, path: str, test: bool) -> list[dict[str, Any]]:
        return self._accept_all(read_json(request, list, MAX_PAYLOAD), path, test)

    def _template_batch(self, request: Request, path: str, test: bool) -> list[dict[str, Any]]:
        body = read_json(request, dict, MAX_PAYLOAD)
        check_types(body, {"Messages": list})
        return self._accept_all(body.get("Messages") or [], path, test)

    def _bulk(self, _request: Request, _path: str, _test: bool) -> Any:
        raise ApiError(14, "The bulk API is not approved for this account.")

    def _server(self, _request: Request, _path: str, _test: bool) -> dict[str, Any]:
        return {
            "ID": SERVER_ID,
            "Name": "Simulator",
            "ApiTokens": sorted(self._tokens),
            "ServerLink": "http://127.0.0.1/",
            "Color": "Blue",
            "SmtpApiActivated": True,
            "RawEmailEnabled": False,
            "DeliveryType": "Live",
            "InboundAddress": "simulator@inbound.example.org",
            "InboundHookUrl": "",
            "PostFirstOpenOnly": False,
            "InboundDomain": "",
            "InboundHash": "simulator",
            "InboundSpamThreshold": 0,
            "TrackOpens": False,
            "TrackLinks": "None",
            "IncludeBounceContentInHook": False,
            "EnableSmtpApiErrorHooks": False,
        }

    # -- accepting ------------------------------------------------------------------------

    def _accept_all(self, items: list[Any], path: str, test: bool) -> list[dict[str, Any]]:
        """A result for each item, in order; HTTP 200 even if all of them failed."""
        if len(items) > MAX_BATCH:
            raise ApiError(410, f"A batch can have at most {MAX_BATCH} messages.")
        return [self._accept_item(item, path, test) for item in items]

    def _accept_item(self, item: Any, path: str, test: bool) -> dict[str, Any]:
        try:
            check_item(item)
            return self._accept(item, path, test)
        except ApiError as error:
            self._store.add_refusal(Refusal(ESP, path, 200, error.body))
            return dict(error.body)

    def _accept(self, body: dict[str, Any], path: str, test: bool) -> dict[str, Any]:
        templated = "template" in path.lower()
        check_fields(body, templated)
        content = self._rendered(body, test) if templated else body
        check_message(body, content)
        self._check_sender(body)
        draft = drafted(body, content, path, self._stream(body))
        inactive = [one for one in draft.recipients if self._is_inactive(one, draft.stream)]
        active = [one for one in draft.recipients if one not in inactive]
        if not active:
            raise ApiError(406, inactive_text(inactive))
        ids = dict.fromkeys(active, draft.id)
        message = replace(draft, recipients=active, inactive=inactive, ids=ids, test=test)
        self._store.add_message(message)
        self._accepted(message)
        return result(message, body.get("To"))

    def _rendered(self, body: dict[str, Any], test: bool) -> dict[str, Any]:
        """Subject and bodies of a template message. TemplateId wins over TemplateAlias.

        The test token belongs to no server, so that it has no templates.
        """
        number, alias = body.get("TemplateId"), body.get("TemplateAlias")
        key = f"id {number}" if number is not None else f"alias {alias}"
        template = self._store.get(ESP, "template", key)
        if template is None or test:
            raise ApiError(1101, "The template of this request was not found on this server.")
        model = body.get("TemplateModel")
        if model is None:
            raise ApiError(1120, "TemplateModel is required.")
        if any(name == "pm" or name.startswith("pm:") for name in model):
            raise ApiError(1122, "TemplateModel has a reserved key: 'pm'.")
        return {
            part: render(text, model, escape=part == "HtmlBody")
            for part, text in template.items()
            if text is not None
        }

    def _check_sender(self, body: dict[str, Any]) -> None:
        (sender,) = addresses(body, "From")
        domain = sender.rpartition("@")[2].lower()
        if self._sender_domains is not None and domain not in self._sender_domains:
            text = f"The 'From' address you supplied ({sender}) is not a Sender Signature"
            raise ApiError(400, f"{text} on your account.")

    def _stream(self, body: dict[str, Any]) -> str:
        stream: str = body.get("MessageStream") or "outbound"
        if stream == "inbound":
            raise ApiError(1236, "This stream cannot send.")
        if stream not in self._streams:
            raise ApiError(1235, f"The stream provided: '{stream}' does not exist on this server.")
        return stream

    def _is_inactive(self, address: str, stream: str | None) -> bool:
        keys = (f"{where} {address.lower()}" for where in (stream, "*"))
        return any(self._store.get(ESP, "suppression", key) for key in keys)

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return tuple(EVENTS)

    def automatic(
        self, message: SentMessage, events: Sequence[str]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Nothing for the test token; fake bounces for bounce-testing.postmarkapp.com."""
        if message.test or not events:
            return []
        planned: list[tuple[str, str, dict[str, Any]]] = []
        for recipient in message.recipients:
            mailbox, _, domain = recipient.lower().rpartition("@")
            if domain == "bounce-testing.postmarkapp.com":
                planned.append(("Bounce", recipient, {"Type": fake_bounce(mailbox, message)}))
            elif domain != "blackhole.postmarkapp.com":
                planned += [(event, recipient, {}) for event in events if event in EVENTS]
        return planned

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: Hook,
    ) -> list[Post]:
        """The event's request, and the SubscriptionChange that comes with a deactivation."""
        if message.test:
            raise ValueError("Postmark reports no events for its test token")
        record_type, kind = self._wire_event(event)
        address = find_recipient(message, recipient)
        first = not self._store.get(ESP, "opened", f"{message.id} {address}")
        body = BODIES[record_type](message, address, details.get("Type", kind))
        if record_type == "Open":
            body["FirstOpen"] = first
            self._store.put(ESP, "opened", f"{message.id} {address}", True)
        if hook.include_content and "DumpAvailable" in body:
            body["Content"] = f"Received: by simulator\r\n\r\n{body['Details']}"
        body |= {FRIENDLY.get(name, name): value for name, value in details.items()}
        url = hook.tracking or ""
        return [webhook(url, one) for one in self._suppressions(message, address, body, hook)]

    def _wire_event(self, event: str) -> tuple[str, str | None]:
        known = EVENTS | RECORD_TYPES
        if event not in known:
            raise ValueError(f"Postmark cannot report {event!r}; it reports {', '.join(EVENTS)}")
        return known[event]

    def _suppressions(
        self, message: SentMessage, address: str, body: dict[str, Any], hook: Hook
    ) -> list[dict[str, Any]]:
        """Keep the suppression list in step with an event, and tell its followers."""
        key = f"{message.stream} {address.lower()}"
        if body.get("Inactive") or body.get("SuppressSending"):
            self._store.put(ESP, "suppression", key, body["RecordType"])
        elif body.get("SuppressSending") is False:
            self._store.remove(ESP, "suppression", key)
            self._store.remove(ESP, "suppression", f"* {address.lower()}")
        if body.get("Inactive") and hook.subscription_changes:
            reason = "SpamComplaint" if body["Type"] == "SpamComplaint" else "HardBounce"
            return [body, subscription_change(message, address, reason)]
        return [body]

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: Hook) -> list[Post]:
        return [webhook(hook.inbound or "", inbound_body(mail), timeout=120)]


# -- requests and answers -----------------------------------------------------------------


def answer(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")


def check_content_types(request: Request) -> None:
    """Both headers are required; the text and the code are those of older documentation."""
    accepts = "application/json" in request.headers.get("Accept", "").lower()
    if not accepts or (request.method == "POST" and not request.is_json):
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


def inactive_text(inactive: list[str]) -> str:
    found = ", ".join(address.lower() for address in inactive)
    return (
        "You tried to send to a recipient that has been marked as inactive. "
        f"Found inactive addresses: {found}. {INACTIVE_REASON}"
    )


def result(message: SentMessage, to: str | None) -> dict[str, Any]:
    """The result object: `To` echoes the request and is absent without one."""
    text = "OK"
    if message.test:
        text = "Test job accepted"
    elif message.inactive:
        found = ", ".join(address.lower() for address in message.inactive)
        text = f"Message OK, but will not deliver to these inactive addresses: {found}. "
        text += INACTIVE_REASON
    head = {"To": to} if to else {}
    tail = {"MessageID": message.id, "ErrorCode": 0, "Message": text}
    return head | {"SubmittedAt": stamp(message.at)} | tail


def stamp(moment: datetime) -> str:
    """ISO 8601 with seven fraction digits, as .NET writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}{random.randint(0, 9)}Z"  # noqa: S311


def check_item(item: Any) -> None:
    """What is checked of a whole request when it holds one message."""
    if not isinstance(item, dict):
        raise ApiError(402, "Received invalid JSON input: a message must be an object.")
    if len(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace")) > MAX_MESSAGE:
        raise ApiError(300, "A message can have at most 10 MB.")


# -- validation ---------------------------------------------------------------------------


def check_fields(body: dict[str, Any], templated: bool) -> None:
    """403 for names and types that do not belong; 1123 for content beside a template."""
    if not templated:
        check_types(body, FIELDS | CONTENT | IGNORED)
    elif any(name in body for name in CONTENT):
        raise ApiError(1123, "Subject, HtmlBody and TextBody are not allowed with a template.")
    else:
        check_types(body, FIELDS | TEMPLATE)
    if body.get("TrackLinks") not in (None, *TRACK_LINKS):
        raise ApiError(403, "Invalid request field(s): TrackLinks.")
    check_items(body, "Headers", ("Name", "Value"))
    check_items(body, "Attachments", ("Name", "Content", "ContentType"))


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


def check_message(body: dict[str, Any], content: dict[str, Any]) -> None:
    """The rules of ErrorCode 300, in our own order."""
    check_from(body)
    check_recipients(body)
    check_content(body, content)
    check_length("Subject", content.get("Subject"), 2000)
    check_length("Tag", body.get("Tag"), 1000)
    check_metadata(body.get("Metadata") or {})


def check_recipients(body: dict[str, Any]) -> None:
    recipients = [one for field in ("To", "Cc", "Bcc") for one in addresses(body, field)]
    if not recipients:
        raise ApiError(300, "Zero recipients specified")
    if len(recipients) > MAX_RECIPIENTS:
        raise ApiError(300, f"Too many recipients: at most {MAX_RECIPIENTS} in To, Cc and Bcc.")
    addresses(body, "ReplyTo")


def check_content(body: dict[str, Any], content: dict[str, Any]) -> None:
    bodies = [content.get("TextBody") or "", content.get("HtmlBody") or ""]
    if not any(bodies):
        raise ApiError(300, "Provide either email TextBody or HtmlBody or both.")
    if any(len(text.encode("utf-8", "surrogatepass")) > MAX_BODY for text in bodies):
        raise ApiError(300, "A body can have at most 5 MB.")


def check_from(body: dict[str, Any]) -> None:
    if not (body.get("From") or "").strip():
        raise ApiError(300, "Invalid 'From' value.")
    check_length("From", body["From"], 255)
    if len(addresses(body, "From")) != 1:
        raise ApiError(300, f"Invalid 'From' address: '{body['From']}'.")


def check_length(field: str, text: str | None, limit: int) -> None:
    """Postmark counts UTF-16 units."""
    if len((text or "").encode("utf-16-le", "surrogatepass")) // 2 > limit:
        raise ApiError(300, f"'{field}' can have at most {limit} characters.")


def check_metadata(metadata: dict[str, Any]) -> None:
    for broken, problem in (
        (len(metadata) > 10, "There can be at most 10 entries."),
        (len({key.lower() for key in metadata}) < len(metadata), "A key is there twice."),
        (not all(1 <= len(key) <= 20 for key in metadata), "A key has 1 to 20 characters."),
        (not all(isinstance(v, str) for v in metadata.values()), "A value must be a string."),
        (any(len(str(v)) > 80 for v in metadata.values()), "A value has at most 80 characters."),
    ):
        if broken:
            raise ApiError(300, f"Invalid metadata content. {problem}")


def attached(item: dict[str, Any]) -> Attached:
    name = item["Name"]
    if FORBIDDEN_EXTENSIONS.fullmatch(name):
        raise ApiError(411, f"The attachment '{name}' has a file type that is not allowed.")
    try:
        data = base64.b64decode(item["Content"], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(300, f"The attachment '{name}' is not valid base64.") from None
    cid = str(item.get("ContentID") or "").removeprefix("cid:")
    return Attached(name, item["ContentType"], data, cid or None)


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


def drafted(body: dict[str, Any], content: dict[str, Any], path: str, stream: str) -> SentMessage:
    """The message as it will be recorded, if any of its recipients is active."""
    to, cc, bcc = (addresses(body, field) for field in ("To", "Cc", "Bcc"))
    message_id = str(uuid.uuid4())
    return SentMessage(
        esp=ESP,
        id=message_id,
        message_id=message_id,
        path=path,
        at=datetime.now(timezone.utc),
        payload=body,
        recipients=list(dict.fromkeys([*to, *cc, *bcc])),
        from_=body["From"],
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=addresses(body, "ReplyTo"),
        subject=content.get("Subject"),
        text=content.get("TextBody"),
        html=content.get("HtmlBody"),
        headers=[(item["Name"], item["Value"]) for item in body.get("Headers") or ()],
        attachments=[attached(item) for item in body.get("Attachments") or ()],
        tag=body.get("Tag"),
        metadata=dict(body.get("Metadata") or {}),
        stream=stream,
    )


# -- webhook bodies -----------------------------------------------------------------------

FRIENDLY = {"url": "OriginalLink", "user_agent": "UserAgent", "description": "Description"}
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def webhook(url: str, body: dict[str, Any], timeout: float = 10) -> Post:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "Postmark",
        "X-PM-Webhook-Trace-Id": str(uuid.uuid4()),
        "X-PM-Retries-Remaining": "9",
    }
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Post(url, data, headers, timeout, follow_redirects=True)


def find_recipient(message: SentMessage, recipient: str | None) -> str:
    """The address as the message has it; the first one where none is named."""
    for address in message.recipients:
        if recipient is None or recipient.lower() == address.lower():
            return address
    raise ValueError("the message has no such recipient")


def fake_bounce(mailbox: str, message: SentMessage) -> str:
    """The bounce type a bounce-testing address asks for: any case, snake_case too."""
    named = TESTABLE_TYPES.get(mailbox.replace("_", ""))
    header = {name.lower(): value for name, value in message.headers}
    asked = header.get("x-pm-bounce-type", "").lower().replace("_", "")
    return named or TESTABLE_TYPES.get(asked, "HardBounce")


def now() -> str:
    return stamp(datetime.now(timezone.utc))


def delivery(message: SentMessage, recipient: str, _kind: str | None) -> dict[str, Any]:
    return {
        "RecordType": "Delivery",
        "ServerID": SERVER_ID,
        "MessageStream": message.stream,
        "MessageID": message.id,
        "Recipient": recipient,
        "Tag": message.tag or "",
        "DeliveredAt": now(),
        "Details": "smtp;250 2.0.0 Ok: queued as 4XsImulAt0r",
        "Metadata": dict(message.metadata),
    }


def bounce(message: SentMessage, recipient: str, kind: str | None) -> dict[str, Any]:
    kind = kind or "Unknown"
    known = BOUNCE_TYPES.get(kind, BOUNCE_TYPES["Unknown"])
    return {
        "RecordType": "SpamComplaint" if kind == "SpamComplaint" else "Bounce",
        "MessageStream": message.stream,
        "ID": random.randint(10**9, 10**10),  # noqa: S311
        "Type": kind,
        "TypeCode": known.code,
        "Name": known.name,
        "Tag": message.tag or "",
        "MessageID": message.id,
        "Metadata": dict(message.metadata),
        "ServerID": SERVER_ID,
        "Description": known.description,
        "Details": "smtp;550 5.1.1 user unknown" if kind == "HardBounce" else "",
        "Email": recipient,
        "From": addresses({"From": message.from_}, "From")[0],
        "BouncedAt": now(),
        "DumpAvailable": True,
        "Inactive": known.inactive,
        "CanActivate": known.inactive and kind != "SpamComplaint",
        "Subject": message.subject or "",
    }


def opened(message: SentMessage, recipient: str, _kind: str | None) -> dict[str, Any]:
    return {
        "RecordType": "Open",
        "MessageStream": message.stream,
        "FirstOpen": True,
        "Recipient": recipient,
        "MessageID": message.id,
        "ReceivedAt": now(),
        "Tag": message.tag or "",
        "Platform": "Desktop",
        "UserAgent": USER_AGENT,
        "ReadSeconds": 0,
        "Client": {"Name": "Firefox 140", "Company": "Mozilla", "Family": "Firefox"},
        "OS": {"Name": "Linux", "Company": "", "Family": "Linux"},
        "Geo": {},
        "Metadata": dict(message.metadata),
    }


def clicked(message: SentMessage, recipient: str, kind: str | None) -> dict[str, Any]:
    fields = opened(message, recipient, kind)
    del fields["FirstOpen"], fields["ReadSeconds"]
    head = {
        "RecordType": "Click",
        "MessageStream": message.stream,
        "ClickLocation": "HTML" if message.html else "Text",
        "OriginalLink": first_link(message.html, message.text),
    }
    return head | {name: value for name, value in fields.items() if name not in head}


def subscription_change(message: SentMessage, recipient: str, kind: str | None) -> dict[str, Any]:
    """``kind`` is the reason of a suppression; None makes a reactivation."""
    manual = kind == "ManualSuppression"
    return {
        "RecordType": "SubscriptionChange",
        "MessageID": message.id if kind else None,
        "ServerID": SERVER_ID,
        "MessageStream": message.stream,
        "ChangedAt": now(),
        "Recipient": recipient,
        "Origin": "Recipient" if manual or kind == "SpamComplaint" else "Customer",
        "SuppressSending": kind is not None,
        "SuppressionReason": kind,
        "Tag": message.tag if kind else None,
        "Metadata": dict(message.metadata) if kind else {},
    }


BODIES: dict[str, Callable[[SentMessage, str, str | None], dict[str, Any]]] = {
    "Delivery": delivery,
    "Bounce": bounce,
    "SpamComplaint": bounce,
    "Open": opened,
    "Click": clicked,
    "SubscriptionChange": subscription_change,
}


# -- inbound body -------------------------------------------------------------------------

TAKEN_OUT = frozenset({"from", "to", "cc", "bcc", "subject", "date", "reply-to", "return-path"})


def inbound_body(inbound: Inbound) -> dict[str, Any]:
    """A mail as Postmark parses it for the inbound hook."""
    mail = Mail(inbound.raw)
    sender = (people(mail, "From") or [person("", "")])[0]
    to, cc = people(mail, "To"), people(mail, "Cc")
    visible = {one["Email"].lower() for one in (*to, *cc)}
    blind = [] if inbound.to.lower() in visible else [person("", inbound.to)]
    body = {
        "FromName": sender["Name"],
        "MessageStream": "inbound",
        "From": sender["Email"],
        "FromFull": sender,
        "To": mail.first("To") or "",
        "ToFull": to,
        "Cc": mail.first("Cc") or "",
        "CcFull": cc,
        "Bcc": "".join(one["Email"] for one in blind),
        "BccFull": blind,
        "OriginalRecipient": inbound.to,
        "Subject": mail.first("Subject") or "",
        "MessageID": str(uuid.uuid4()),
        "ReplyTo": mail.first("Reply-To") or "",
        "MailboxHash": mailbox_hash(inbound.to),
        "Date": mail.first("Date") or "",
        "TextBody": mail.text or "",
        "HtmlBody": mail.html or "",
        "StrippedTextReply": stripped_reply(mail),
        "Tag": "",
    }
    if inbound.raw_email:
        body["RawEmail"] = inbound.raw.decode("utf-8", "replace")
    body["Headers"] = inbound_headers(mail, inbound)
    body["Attachments"] = [inbound_attachment(part) for part in mail.attachments]
    return body


def person(name: str, address: str) -> dict[str, str]:
    return {"Email": address, "Name": name, "MailboxHash": mailbox_hash(address)}


def people(mail: Mail, header: str) -> list[dict[str, str]]:
    return [person(name, address) for name, address in mail.addresses(header)]


def mailbox_hash(address: str) -> str:
    return address.rpartition("@")[0].partition("+")[2]


def stripped_reply(mail: Mail) -> str:
    """The new text of a reply, before what it quotes."""
    if mail.text is None or not (mail.first("In-Reply-To") or mail.first("References")):
        return ""
    return split_reply(mail.text)[0].strip()


def inbound_headers(mail: Mail, inbound: Inbound) -> list[dict[str, str]]:
    """The envelope sender, what the filters found, then the mail's own headers in order."""
    found = [("Return-Path", f"<{inbound.mail_from or ''}>"), *spam_headers(inbound)]
    own = [(name, value) for name, value in mail.headers() if name.lower() not in TAKEN_OUT]
    return [{"Name": name, "Value": value} for name, value in (*found, *own)]


def spam_headers(inbound: Inbound) -> list[tuple[str, str]]:
    if inbound.spam is None:
        return []
    flag, score = inbound.spam
    return [
        ("X-Spam-Checker-Version", "SpamAssassin 3.4.6 (simulator)"),
        ("X-Spam-Status", "Yes" if flag else "No"),
        ("X-Spam-Score", str(score)),
        ("X-Spam-Tests", "DKIM_SIGNED,SPF_PASS"),
        ("Received-SPF", f"pass (sender SPF authorized) envelope-from={inbound.mail_from}"),
    ]


def inbound_attachment(part: Attached) -> dict[str, Any]:
    return {
        "Name": part.name,
        "Content": base64.b64encode(part.data).decode("ascii"),
        "ContentType": part.content_type,
        "ContentLength": len(part.data),
        "ContentID": part.content_id or "",
    }
