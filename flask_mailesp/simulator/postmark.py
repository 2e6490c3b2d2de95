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
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

from .mustache import render
from .postmark_account import Account
from .postmark_activity import record_event
from .postmark_events import (
    BODIES,
    EVENTS,
    FRIENDLY,
    INBOUND_SCHEDULE,
    RECORD_TYPES,
    fake_bounce,
    inbound_body,
    subscription_change,
    webhook,
)
from .postmark_templates import add_template, find_template
from .postmark_webhooks import PostmarkHook, Target, targets
from .postmark_wire import (
    ESP,
    MAX_RECIPIENTS,
    ApiError,
    TooLarge,
    addresses,
    answer,
    check_content_types,
    check_items,
    check_length,
    check_types,
    read_json,
    stamp,
)
from .records import Attached, Inbound, Post, SentMessage
from .side import Context, Planned, Side

TOKEN = "POSTMARK-SIMULATOR-TOKEN"  # noqa: S105
TEST_TOKEN = "postmark_api_test"  # noqa: S105
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
TRACK_LINKS: dict[Any, bool] = {
    "None": False,
    "HtmlAndText": True,
    "HtmlOnly": True,
    "TextOnly": True,
}

INACTIVE_REASON = (
    "Inactive recipients are ones that have generated a hard bounce, a spam complaint, "
    "or a manual suppression. "
)


class Postmark(Side):
    """The server tokens, streams and sender signatures of one Postmark server.

    ``tokens`` are the accepted credentials, ``streams`` the message streams that can send.
    """

    key = ESP
    hook = PostmarkHook
    ids = "it has UUIDs"

    def __init__(
        self,
        context: Context,
        tokens: Iterable[str] = (TOKEN,),
        streams: Iterable[str] = ("outbound", "broadcast"),
    ) -> None:
        super().__init__(context)
        verify = context.verify_webhooks
        self._account = Account(context.store, sorted(tokens), tuple(streams), verify)
        self._tokens = frozenset(token.lower() for token in self._account.tokens)
        self._routes: dict[tuple[str, str], Callable[[Request, str, bool], Any]] = {
            ("POST", "/email"): self._single,
            ("POST", "/email/withtemplate"): self._single,
            ("POST", "/email/batch"): self._batch,
            ("POST", "/email/batchwithtemplates"): self._template_batch,
            ("POST", "/email/bulk"): self._bulk,
        }

    def settings(self, url: str) -> dict[str, Any]:
        return {"API_URL": url, "SERVER_TOKEN": self._account.tokens[0]}

    def credentials(self) -> dict[str, str]:
        return {"X-Postmark-Server-Token": self._account.tokens[0]}

    def suppress(self, address: str, stream: str | None = None) -> None:
        self._account.suppress(address, stream or "*", "ManualSuppression", "Customer")

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        """A text for an id is an alias: Postmark's ids are numbers."""
        if isinstance(id, str):
            id, alias = (int(id), alias) if id.isdecimal() else (None, alias or id)
        value = {"Subject": subject, "TextBody": text, "HtmlBody": html}
        add_template(self.store, value | {"Name": alias or f"Template {id}"}, id, alias)

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        try:
            return answer(self._result(request, path))
        except ApiError as error:
            return self._refuse(path, error)
        except TooLarge:
            page = "<h1>413 Request Entity Too Large</h1>"
            self.refuse(path, 413, page)
            return Response(page, 413, mimetype="text/html")

    def _result(self, request: Request, path: str) -> Any:
        send = self._routes.get((request.method, path.lower().rstrip("/")))
        manage = None if send else self._account.route(request.method, path.rstrip("/"))
        if send is None and manage is None:
            raise ApiError(12, "The requested resource was not found.", 404)
        check_content_types(request)
        test = self._authenticate(request)
        if send is not None:
            return send(request, path, test)
        return self._account.serve(manage, request, test)

    def _refuse(self, path: str, error: ApiError) -> Response:
        self.refuse(path, error.status, error.body)
        response = answer(error.body, error.status)
        response.headers["X-PM-ApiErrorCode"] = str(error.body["ErrorCode"])
        return response

    def _authenticate(self, request: Request) -> bool:
        """Whether the test token came; an ApiError without an accepted one."""
        token = request.headers.get("X-Postmark-Server-Token", "").lower()
        if token == TEST_TOKEN:
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
            self.refuse(path, 200, error.body)
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
        self.take(message)
        return result(message, body.get("To"))

    def _rendered(self, body: dict[str, Any], test: bool) -> dict[str, Any]:
        """Subject and bodies of a template message. TemplateId wins over TemplateAlias.

        The test token belongs to no server, so that it has no templates.
        """
        template = find_template(self.store, body.get("TemplateId"), body.get("TemplateAlias"))
        if template is None or test:
            raise ApiError(1101, "The template of this request was not found on this server.")
        model = body.get("TemplateModel")
        if model is None:
            raise ApiError(1120, "TemplateModel is required.")
        if any(name == "pm" or name.startswith("pm:") for name in model):
            raise ApiError(1122, "TemplateModel has a reserved key: 'pm'.")
        return {
            part: render(template[part], model, escape=part == "HtmlBody")
            for part in CONTENT
            if template.get(part) is not None
        }

    def _check_sender(self, body: dict[str, Any]) -> None:
        (sender,) = addresses(body, "From")
        if not self.is_verified(sender):
            text = f"The 'From' address you supplied ({sender}) is not a Sender Signature"
            raise ApiError(400, f"{text} on your account.")

    def _stream(self, body: dict[str, Any]) -> str:
        stream: str = body.get("MessageStream") or "outbound"
        if stream == "inbound":
            raise ApiError(1236, "This stream cannot send.")
        if not self._account.can_send(stream):
            raise ApiError(1235, f"The stream provided: '{stream}' does not exist on this server.")
        return stream

    def _is_inactive(self, address: str, stream: str | None) -> bool:
        return self._account.is_suppressed(address, stream or "outbound")

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return tuple(EVENTS)

    def is_id(self, text: str) -> bool:
        groups = [len(group) for group in text.split("-")]
        return groups == [8, 4, 4, 4, 12] and not set(text.lower()) - set("0123456789abcdef-")

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """Nothing for the test token; fake bounces for bounce-testing.postmarkapp.com."""
        if message.test or not events:
            return []
        planned: Planned = []
        for recipient in message.recipients:
            mailbox, _, domain = recipient.lower().rpartition("@")
            if domain == "bounce-testing.postmarkapp.com":
                planned.append(("Bounce", recipient, {"Type": fake_bounce(mailbox, message)}))
            elif domain != "blackhole.postmarkapp.com":
                planned += [(event, recipient, {}) for event in events if event in EVENTS]
        return planned

    def is_hooked(self, message: SentMessage, hook: PostmarkHook) -> bool:
        return bool(targets(self._account, message.stream or "outbound", hook))

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: PostmarkHook,
    ) -> list[Post]:
        """The event's requests, and those of the SubscriptionChange that a deactivation is."""
        if message.test:
            raise ValueError("Postmark reports no events for its test token")
        record_type, kind = self._wire_event(event)
        address = self.find_recipient(message, recipient)
        body = BODIES[record_type](message, address, details.get("Type", kind))
        body |= {FRIENDLY.get(name, name): value for name, value in details.items()}
        if record_type == "Open" and "FirstOpen" not in details:
            body["FirstOpen"] = self._is_first_open(message, address)
        record_event(self.store, message, body)
        follower = self._follower(message, address, body)
        told = targets(self._account, message.stream or "outbound", hook)
        posts = [self._to(target, message, event, body) for target in told]
        if follower is not None:
            posts += [
                self._to(target, message, "unsubscribed", follower)
                for target in told
                if target.subscription_changes
            ]
        return [post for post in posts if post is not None]

    def _is_first_open(self, message: SentMessage, address: str) -> bool:
        key = f"{message.id} {address}"
        return self.store.note(ESP, "opened", key, True, message.id) == 1

    def _to(
        self, target: Target, message: SentMessage, event: str, body: dict[str, Any]
    ) -> Post | None:
        """The request that tells one target of an event, if it wants to know."""
        if not target.wants(body):
            return None
        if target.include_content and "DumpAvailable" in body:
            body = body | {"Content": f"Received: by simulator\r\n\r\n{body['Details']}"}
        post = webhook(target.url, body, headers=target.headers)
        return replace(post, event=event, message=message.id, proofs=tuple(target.headers))

    def _wire_event(self, event: str) -> tuple[str, str | None]:
        known = EVENTS | RECORD_TYPES
        if event not in known:
            raise self.unreported(event, "Postmark")
        return known[event]

    def _follower(
        self, message: SentMessage, address: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Keep the suppression list in step with an event; the change it makes, if any."""
        stream = message.stream or "outbound"
        if body.get("SuppressSending") is False:
            self._account.reactivate(address, stream)
        elif body.get("SuppressSending"):
            reason = body.get("SuppressionReason") or "ManualSuppression"
            self._account.suppress(address, stream, reason, body.get("Origin") or "Recipient")
        if not body.get("Inactive"):
            return None
        reason = "SpamComplaint" if body["Type"] == "SpamComplaint" else "HardBounce"
        self._account.suppress(address, stream, reason, "Recipient")
        return subscription_change(message, address, reason)

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: PostmarkHook) -> list[Post]:
        post = webhook(hook.inbound or "", inbound_body(mail), timeout=120)
        return [replace(post, event="inbound", schedule=INBOUND_SCHEDULE)]


# -- requests and answers -----------------------------------------------------------------


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
    elif any(body.get(name) is not None for name in CONTENT):  # null is absence
        raise ApiError(1123, "Subject, HtmlBody and TextBody are not allowed with a template.")
    else:
        check_types(body, FIELDS | CONTENT | TEMPLATE)
    if body.get("TrackLinks") not in (None, *TRACK_LINKS):
        raise ApiError(403, "Invalid request field(s): TrackLinks.")
    check_items(body, "Headers", ("Name", "Value"))
    check_items(body, "Attachments", ("Name", "Content", "ContentType"))


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


def text_of(value: Any) -> str | None:
    return None if value is None else str(value)


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
        tags=[body["Tag"]] if body.get("Tag") else [],
        metadata=dict(body.get("Metadata") or {}),
        stream=stream,
        track_opens=body.get("TrackOpens"),
        track_clicks=TRACK_LINKS.get(body.get("TrackLinks")),
        template=text_of(body.get("TemplateId") or body.get("TemplateAlias")),
        variables=dict(body.get("TemplateModel") or {}),
    )


side = Postmark
