"""What Postmark posts: the bodies of its webhooks, and of a mail that came in.

Sources: https://postmarkapp.com/developer/webhooks/webhooks-overview,
https://postmarkapp.com/developer/api/bounce-api (bounce types).
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .mime import Mail, first_link, split_reply
from .postmark_wire import ESP, SERVER_ID, addresses, now
from .records import Attached, Inbound, Post, Schedule, SentMessage, Verdict


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


# -- webhook bodies -----------------------------------------------------------------------

FRIENDLY = {"url": "OriginalLink", "user_agent": "UserAgent", "description": "Description"}
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def judge(status: int | None) -> Verdict:
    """2xx is success; 5xx, 408, 429, an unresolved 3xx and no answer are tried again."""
    if status is None or status >= 500 or status in (408, 429) or 300 <= status < 400:
        return "retry"
    return "done" if 200 <= status < 300 else "dropped"


def judge_inbound(status: int | None) -> Verdict:
    """200 alone is success, and 403 alone stops it."""
    return {200: "done", 403: "dropped"}.get(status or 0, "retry")  # type: ignore[return-value]


REMAINING = "X-PM-Retries-Remaining"
SCHEDULE = Schedule(
    tuple(60.0 * minutes for minutes in (1, 5, 15, 1, 5, 10, 10, 10, 15)), judge, REMAINING
)
INBOUND_SCHEDULE = Schedule(
    tuple(60.0 * minutes for minutes in (1, 5, 10, 10, 10, 15, 30, 60, 120, 360)),
    judge_inbound,
    REMAINING,
)


def webhook(
    url: str, body: dict[str, Any], timeout: float = 10, headers: Mapping[str, str] | None = None
) -> Post:
    """A request with the headers that stay the same for all attempts."""
    own = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "Postmark",
        "X-PM-Webhook-Trace-Id": str(uuid.uuid4()),
    }
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Post(
        url,
        data,
        own | dict(headers or {}),
        timeout,
        follow_redirects=True,
        esp=ESP,
        schedule=SCHEDULE,
    )


def fake_bounce(mailbox: str, message: SentMessage) -> str:
    """The bounce type a bounce-testing address asks for: any case, snake_case too."""
    named = TESTABLE_TYPES.get(mailbox.replace("_", ""))
    header = {name.lower(): value for name, value in message.headers}
    asked = header.get("x-pm-bounce-type", "").lower().replace("_", "")
    return named or TESTABLE_TYPES.get(asked, "HardBounce")


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
