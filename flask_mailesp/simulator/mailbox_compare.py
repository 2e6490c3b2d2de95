"""What other providers would make of a message that one of them has accepted.

This is the one place of the simulator that knows the rest of the package, since the question
is about the package: which features its declarations say each provider has. What a message
asked for is read out of what arrived, so that a part of it is not known here: of a batch
only the one copy is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from typing import Any

from flask_mailesp.esp import Esp, Feature
from flask_mailesp.features import can_be_left_out
from flask_mailesp.registry import all_esps

from .mime import bare
from .records import SentMessage

# What every mail has, or what a provider's own field becomes.
ORDINARY = frozenset(
    {
        "from",
        "sender",
        "to",
        "cc",
        "bcc",
        "reply-to",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
        "content-disposition",
        "content-id",
        "x-postal-tag",
    }
)


@dataclass(frozen=True)
class Verdict:
    """What one provider has against a message; nothing, if both are empty.

    ``refuses`` are features without which the message would be another one: it is never
    sent. ``loses`` are those that are refused too, unless the app's configuration says
    IGNORE_UNSUPPORTED_FEATURES: then they are left out.
    """

    esp: str
    refuses: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()

    @property
    def is_trouble(self) -> bool:
        """Tell whether the provider would not take the message as it is."""
        return bool(self.refuses or self.loses)


def verdicts(message: SentMessage, esps: Iterable[Esp]) -> list[Verdict]:
    """Return what each of the providers, but the message's own, would refuse or lose."""
    asked = features(message)
    return [_verdict(asked, esp) for esp in esps if esp.key != message.esp]


def _verdict(asked: list[Feature], esp: Esp) -> Verdict:
    missing = [feature for feature in asked if feature not in esp.supports]
    return Verdict(
        esp.name,
        tuple(feature.value for feature in missing if not can_be_left_out(feature)),
        tuple(feature.value for feature in missing if can_be_left_out(feature)),
    )


def known_esps() -> list[Esp]:
    """Return every provider the package has, by name."""
    return sorted(all_esps(), key=lambda esp: esp.name.lower())


def features(message: SentMessage) -> list[Feature]:
    """Return what a message asked for, as far as the provider can see it."""
    asked = {feature for feature, asks in _COMMON.items() if asks(message)}
    if message.raw is not None:
        asked |= _in_source(message.raw)
    elif isinstance(message.payload, Mapping):
        asked |= {
            feature
            for feature, asks in _FIELDS.get(message.esp, {}).items()
            if asks(message.payload)
        }
    return [feature for feature in Feature if feature in asked]


def _mailboxes(message: SentMessage) -> list[str]:
    return [message.from_, *message.recipients, *message.inactive, *message.reply_to]


def _non_ascii(message: SentMessage) -> bool:
    return not all(
        bare(address).rpartition("@")[0].isascii() for address in _mailboxes(message) if address
    )


def _own_headers(message: SentMessage) -> bool:
    return any(name.lower() not in ORDINARY for name, _ in message.headers)


_COMMON: dict[Feature, Callable[[SentMessage], bool]] = {
    Feature.ATTACHMENTS: lambda m: any(not one.content_id for one in m.attachments),
    Feature.INLINE_IMAGES: lambda m: any(one.content_id for one in m.attachments),
    Feature.HEADERS: _own_headers,
    Feature.MANY_REPLY_TO: lambda m: len(m.reply_to) > 1,
    Feature.NO_TO: lambda m: not m.to and m.raw is None,
    Feature.NON_ASCII_MAILBOX: _non_ascii,
    Feature.METADATA: lambda m: bool(m.metadata),
    Feature.TAGS: lambda m: bool(m.tag),
}

_FIELDS: dict[str, dict[Feature, Callable[[Mapping[str, Any]], bool]]] = {
    "postmark": {
        Feature.TRACK_CLICKS: lambda p: p.get("TrackLinks") is not None,
        Feature.TRACK_OPENS: lambda p: p.get("TrackOpens") is not None,
        Feature.TEMPLATES: lambda p: bool(p.get("TemplateId") or p.get("TemplateAlias")),
        Feature.MERGE_GLOBAL_DATA: lambda p: bool(p.get("TemplateModel")),
    },
}


def _in_source(raw: bytes) -> set[Feature]:
    """Return what only a mail's structure shows."""
    mail = BytesParser(policy=compat32).parsebytes(raw)
    found = {Feature.ALTERNATIVES} if _has_alternatives(mail) else set()
    return found | ({Feature.NO_TO} if not mail.get("To") else set())


def _has_alternatives(mail: Message) -> bool:
    """Tell whether a reader is offered more than text and HTML, such as a calendar entry."""
    offered = [
        part.get_content_type()
        for parent in mail.walk()
        if parent.get_content_type() == "multipart/alternative"
        for part in _parts(parent)
    ]
    ordinary = ("text/plain", "text/html")
    return any(kind not in ordinary and not kind.startswith("multipart/") for kind in offered)


def _parts(parent: Message) -> list[Message]:
    payload = parent.get_payload()
    return [part for part in payload if isinstance(part, Message)] if parent.is_multipart() else []
