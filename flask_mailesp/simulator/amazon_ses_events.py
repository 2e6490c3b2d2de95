"""What Amazon SES tells, and how Amazon SNS wraps and signs it.

Sources: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html,
/receiving-email-notifications-contents.html and
https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from .amazon_ses_wire import ESP, as_object, message_tags
from .mime import Mail, bare, first_link
from .records import Hook, Inbound, Post, Schedule, SentMessage, Verdict

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
MAX_SNS_MAIL = 150 * 1024
MAX_EVENT_HEADERS = 10 * 1024
BUCKET = "simulator-mail"
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}


def judge(status: int | None) -> Verdict:
    """Statuses from 200 to 499 are final; a 4xx loses the message."""
    if status is None or status >= 500:
        return "retry"
    return "done" if 200 <= status < 300 else "dropped"


SCHEDULE = Schedule((20.0, 20.0, 20.0), judge)


@dataclass(frozen=True)
class AmazonSesHook(Hook):
    """Topics, their subscriptions and the receipt rule, as the consoles offer them.

    ``signature_version`` is an attribute of the topics. ``include_headers`` has events carry
    the mail's headers. ``raw_delivery`` sends what SES says without SNS's envelope and
    signature. ``confirmed_only`` posts nothing to a subscription before it is confirmed.
    ``inbound_action`` is the rule's: ``sns`` (mail in the notification, up to 150 kB) or
    ``s3``; ``auto`` takes S3 for what is larger. ``inbound_encoding`` is that of the first.
    """

    signature_version: Literal["1", "2"] = "1"
    include_headers: bool = True
    raw_delivery: bool = False
    confirmed_only: bool = False
    inbound_action: Literal["auto", "sns", "s3"] = "auto"
    inbound_encoding: Literal["BASE64", "UTF8"] = "BASE64"

    def __post_init__(self) -> None:
        for name, choices in HOOK_CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")


HOOK_CHOICES = {
    "signature_version": ("1", "2"),
    "inbound_action": ("auto", "sns", "s3"),
    "inbound_encoding": ("BASE64", "UTF8"),
}


# -- events -------------------------------------------------------------------------------


def stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")[:23] + "Z"


def _bounce(kind: str, sub_type: str, diagnostic: str) -> Callable[..., dict[str, Any]]:
    def detail(message: SentMessage, address: str) -> dict[str, Any]:
        return {
            "bounceType": kind,
            "bounceSubType": sub_type,
            "bouncedRecipients": [
                {
                    "emailAddress": address,
                    "action": "failed",
                    "status": diagnostic.split()[2],
                    "diagnosticCode": diagnostic,
                }
            ],
            "feedbackId": f"{uuid.uuid4()}-000000",
            "reportingMTA": "dns; a8-1.smtp-out.amazonses.com",
        }

    return detail


def _complaint(message: SentMessage, address: str) -> dict[str, Any]:
    return {
        "complainedRecipients": [{"emailAddress": address}],
        "feedbackId": f"{uuid.uuid4()}-000000",
        "complaintSubType": None,
        "complaintFeedbackType": "abuse",
        "userAgent": "Simulator Feedback Loop/1.0",
    }


def _delivery(message: SentMessage, address: str) -> dict[str, Any]:
    return {
        "processingTimeMillis": 812,
        "recipients": [address],
        "smtpResponse": "250 2.0.0 Ok: queued as 4XsImul8",
        "reportingMTA": "a8-1.smtp-out.amazonses.com",
    }


def _delay(message: SentMessage, address: str) -> dict[str, Any]:
    return {
        "delayType": "MailboxFull",
        "expirationTime": stamp(datetime.now(timezone.utc) + timedelta(hours=12)),
        "delayedRecipients": [
            {
                "emailAddress": address,
                "status": "4.2.2",
                "diagnosticCode": "smtp; 452 4.2.2 The mailbox is full",
            }
        ],
    }


def _open(message: SentMessage, address: str) -> dict[str, Any]:
    return {"userAgent": USER_AGENT, "ipAddress": "203.0.113.77"}


def _click(message: SentMessage, address: str) -> dict[str, Any]:
    link = first_link(message.html, message.text)
    return _open(message, address) | {"link": link, "linkTags": None}


def _subscription(leaves: bool) -> Callable[..., dict[str, Any]]:
    def preferences(away: bool) -> dict[str, Any]:
        status = "OptOut" if away else "OptIn"
        topics = [{"topicName": "news", "subscriptionStatus": status}]
        return {"unsubscribeAll": away, "topicSubscriptionStatus": topics}

    def detail(message: SentMessage, address: str) -> dict[str, Any]:
        return {
            "contactList": "simulator",
            "source": "UnsubscribeHeader" if leaves else "UpdateContact",
            "newTopicPreferences": preferences(leaves),
            "oldTopicPreferences": preferences(not leaves),
        }

    return detail


@dataclass(frozen=True)
class Event:
    """One event: Amazon's name, where its details are, and what they are."""

    name: str
    key: str
    detail: Callable[..., dict[str, Any]]
    timed: bool = True
    headers: bool = True


_NO_SUCH_USER = "smtp; 550 5.1.1 No such user"
EVENTS = {
    "sent": Event("Send", "send", lambda message, address: {}, timed=False),
    "delivered": Event("Delivery", "delivery", _delivery),
    "deferred": Event("DeliveryDelay", "deliveryDelay", _delay, headers=False),
    "bounced": Event("Bounce", "bounce", _bounce("Permanent", "General", _NO_SUCH_USER)),
    "soft_bounced": Event(
        "Bounce", "bounce", _bounce("Transient", "MailboxFull", "smtp; 552 5.2.2 Full")
    ),
    "rejected": Event(
        "Reject", "reject", lambda message, address: {"reason": "Bad content"}, timed=False
    ),
    "failed": Event(
        "Rendering Failure",
        "failure",
        lambda message, address: {
            "templateName": message.template,
            "errorMessage": "Attribute 'name' is not present in the rendering data.",
        },
        timed=False,
        headers=False,
    ),
    "complained": Event("Complaint", "complaint", _complaint),
    "opened": Event("Open", "open", _open),
    "clicked": Event("Click", "click", _click),
    "unsubscribed": Event("Subscription", "subscription", _subscription(True)),
    "subscribed": Event("Subscription", "subscription", _subscription(False)),
}
SUPPRESSED = _bounce(
    "Permanent", "OnAccountSuppressionList", "smtp; 550 5.1.1 On the account's suppression list"
)
FRIENDLY = {"url": "link", "user_agent": "userAgent", "ip": "ipAddress"}


def by_name(name: str) -> Event | None:
    """An event by its normalised name or Amazon's own."""
    return EVENTS.get(name) or next((one for one in EVENTS.values() if one.name == name), None)


def event_body(
    event: Event, message: SentMessage, address: str, details: dict[str, Any], owner: Owner
) -> dict[str, Any]:
    """What Amazon SES publishes of one event of one recipient."""
    detail = event.detail(message, address)
    if event.timed:
        detail = {"timestamp": stamp(datetime.now(timezone.utc))} | detail
    detail |= {FRIENDLY.get(name, name): value for name, value in details.items()}
    mail = mail_object(message, owner)
    if event.headers:
        mail |= header_objects(message)
    return {"eventType": event.name, "mail": mail, event.key: detail}


class Owner(NamedTuple):
    """Whose mail it is."""

    region: str
    account: str


def mail_object(message: SentMessage, owner: Owner) -> dict[str, Any]:
    """The mail that an event is about."""
    domain = bare(message.from_).rpartition("@")[2]
    return {
        "timestamp": stamp(message.at),
        "source": message.from_,
        "sourceArn": f"arn:aws:ses:{owner.region}:{owner.account}:identity/{domain}",
        "sendingAccountId": owner.account,
        "messageId": message.id,
        "destination": message.recipients,
        "tags": {"ses:source-ip": ["203.0.113.5"], **own_tags(as_object(message.payload))},
    }


def own_tags(payload: dict[str, Any]) -> dict[str, list[str]]:
    """The message tags of a request."""
    pairs = message_tags(payload.get("EmailTags") or payload.get("DefaultEmailTags"))
    return {name: [value] for name, value in pairs}


def header_objects(message: SentMessage) -> dict[str, Any]:
    """The original headers, as far as there is room for them."""
    kept, cut = within(message.headers)
    return {
        "headersTruncated": cut,
        "headers": [{"name": name, "value": value} for name, value in kept],
        "commonHeaders": {"to": message.to, "subject": message.subject},
    }


def within(headers: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], bool]:
    """As many headers as an event may have, and whether some are missing."""
    left = MAX_EVENT_HEADERS
    for number, (name, value) in enumerate(headers):
        left -= len(name) + len(value)
        if left < 0:
            return headers[:number], True
    return headers, False


# -- mail that comes in -------------------------------------------------------------------


def received_body(mail: Inbound, number: str, topic: str, hook: AmazonSesHook) -> dict[str, Any]:
    """What is told of a mail; its content is in there if the action is SNS."""
    source, now = Mail(mail.raw), stamp(datetime.now(timezone.utc))
    action = {"type": "SNS", "topicArn": topic, "encoding": hook.inbound_encoding}
    if in_s3(mail, hook):
        key = f"inbound/{number}"
        action = {"type": "S3", "topicArn": topic, "bucketName": BUCKET}
        action |= {"objectKeyPrefix": "inbound", "objectKey": key}
    spam = "DISABLED" if mail.spam is None else "FAIL" if mail.spam[0] else "PASS"
    verdicts = {f"{name}Verdict": {"status": "PASS"} for name in ("virus", "spf", "dkim", "dmarc")}
    kept, cut = within(source.headers())
    body = {
        "notificationType": "Received",
        "mail": {
            "timestamp": now,
            "source": mail.mail_from or "",
            "messageId": number,
            "destination": [mail.to],
            "headersTruncated": cut,
            "headers": [{"name": name, "value": value} for name, value in kept],
            "commonHeaders": {"subject": source.first("Subject"), "to": source.all("To")},
        },
        "receipt": {
            "timestamp": now,
            "processingTimeMillis": 487,
            "recipients": [mail.to],
            "spamVerdict": {"status": spam},
            **verdicts,
            "action": action,
        },
    }
    return body | ({} if action["type"] == "S3" else {"content": content(mail.raw, hook)})


def in_s3(mail: Inbound, hook: AmazonSesHook) -> bool:
    """Whether a mail is put into the bucket. Raises ValueError for one that would bounce."""
    large = len(mail.raw) > MAX_SNS_MAIL
    if large and hook.inbound_action == "sns":
        raise ValueError("Amazon SES bounces mail over 150 kB in an SNS action: use S3")
    return hook.inbound_action == "s3" or large


def content(raw: bytes, hook: AmazonSesHook) -> str:
    if hook.inbound_encoding == "UTF8":
        return raw.decode("utf-8", "replace")
    return base64.b64encode(raw).decode("ascii")


# -- Amazon SNS ---------------------------------------------------------------------------


class Topic:
    """Signs what is published, with the key of one region's SNS."""

    def __init__(self, pem: Callable[[], str], region: str) -> None:
        self._pem = pem
        self._region = region
        self._lock = threading.Lock()
        self._key: rsa.RSAPrivateKey | None = None

    @cached_property
    def certificate(self) -> str:
        return new_certificate(self.key)

    @property
    def certificate_name(self) -> str:
        """Another certificate has another name, so that nobody takes one for the other."""
        digest = hashlib.sha256(self.certificate.encode()).hexdigest()
        return f"SimpleNotificationService-{digest[:32]}.pem"

    def sign(self, fields: dict[str, Any]) -> str:
        names = SIGNED[fields["Type"]]
        text = "".join(f"{name}\n{fields[name]}\n" for name in names if name in fields)
        version_2 = fields["SignatureVersion"] == "2"
        algorithm = hashes.SHA256() if version_2 else hashes.SHA1()  # noqa: S303
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), algorithm)
        return base64.b64encode(signature).decode("ascii")

    @property
    def key(self) -> rsa.RSAPrivateKey:
        with self._lock:
            if self._key is None:
                self._key = load_key(self._pem())
            return self._key

    def notification(self, arn: str, subject: str, message: str, version: str) -> dict[str, Any]:
        """What is posted to a subscription."""
        base = f"https://sns.{self._region}.amazonaws.com"
        fields = {
            "Type": "Notification",
            "Subject": subject,
            "Message": message,
            "UnsubscribeURL": f"{base}/?Action=Unsubscribe&SubscriptionArn={arn}:simulator",
        }
        return self._signed(fields, arn, version)

    def confirmation(self, arn: str, token: str, version: str) -> dict[str, Any]:
        """What a subscription begins with."""
        base = f"https://sns.{self._region}.amazonaws.com"
        fields = {
            "Type": "SubscriptionConfirmation",
            "Token": token,
            "Message": f"You have chosen to subscribe to the topic {arn}.",
            "SubscribeURL": f"{base}/?Action=ConfirmSubscription&TopicArn={arn}&Token={token}",
        }
        return self._signed(fields, arn, version)

    def _signed(self, fields: dict[str, Any], arn: str, version: str) -> dict[str, Any]:
        fields |= {
            "MessageId": str(uuid.uuid4()),
            "TopicArn": arn,
            "Timestamp": stamp(datetime.now(timezone.utc)),
            "SignatureVersion": version,
        }
        host = f"https://sns.{self._region}.amazonaws.com"
        url = {"SigningCertURL": f"{host}/{self.certificate_name}"}
        return fields | {"Signature": self.sign(fields)} | url


def wrapped(url: str, fields: dict[str, Any], event: str, message: str | None) -> Post:
    """The request that carries a message of SNS."""
    headers = {
        "x-amz-sns-message-type": fields["Type"],
        "x-amz-sns-message-id": fields["MessageId"],
        "x-amz-sns-topic-arn": fields["TopicArn"],
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
    }
    return Post(
        url,
        json.dumps(fields, indent=2).encode(),
        headers,
        timeout=15,
        esp=ESP,
        event=event,
        message=message,
        schedule=SCHEDULE,
        forge=forged,
    )


def bare_post(url: str, body: str, fields: dict[str, Any], event: str, message: str | None) -> Post:
    """The same with raw message delivery: neither envelope nor signature."""
    post = wrapped(url, fields, event, message)
    headers = post.headers | {"x-amz-sns-rawdelivery": "true"}
    return replace(post, body=body.encode(), headers=headers, forge=None)


def forged(post: Post) -> Post:
    """The same with a signature that is of the right form, and wrong."""
    fields = json.loads(post.body)
    core = fields["Signature"].rstrip("=")
    fields["Signature"] = core[::-1] + "=" * (len(fields["Signature"]) - len(core))
    return replace(post, body=json.dumps(fields, indent=2).encode())


def load_key(pem: str) -> rsa.RSAPrivateKey:
    """A key of the caller's own: checking its primes would cost every test 50 ms."""
    key = serialization.load_pem_private_key(
        pem.encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("Amazon SNS signs with an RSA key; this PEM holds another kind")
    return key


def new_certificate(key: rsa.RSAPrivateKey) -> str:
    """The certificate of a key: always the same, for whoever else has the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2025, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(datetime(2049, 1, 1, tzinfo=timezone.utc))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")
