"""What other providers would make of a message that one of them has accepted.

This is the one place of the simulator that knows the rest of the package, since the question
is about the package: which features its declarations say each provider has. What a message
asked for is read out of what arrived, so that a part of it is not known here: of a batch
only the one copy is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32

from flask_mailesp.esp import Esp, Feature
from flask_mailesp.features import can_be_left_out
from flask_mailesp.registry import all_esps

from .mime import bare
from .records import SentMessage
from .side import Side

# What every mail has.
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


def verdicts(message: SentMessage, esps: Iterable[Esp], own: Side | None) -> list[Verdict]:
    """Return what each of the providers, but the message's ``own``, would refuse or lose."""
    asked = features(message, own)
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


def features(message: SentMessage, own: Side | None) -> list[Feature]:
    """Return what a message asked for, as far as its ``own`` provider can see it."""
    asked = {feature for feature, asks in _COMMON.items() if asks(message)}
    if _own_headers(message, ORDINARY | (own.own_headers if own else frozenset())):
        asked.add(Feature.HEADERS)
    if message.raw is not None:
        asked |= _in_source(message.raw)
    if own is not None:
        asked |= {Feature[name] for name in own.asks(message)}
    return [feature for feature in Feature if feature in asked]


def _mailboxes(message: SentMessage) -> list[str]:
    return [message.from_, *message.recipients, *message.inactive, *message.reply_to]


def _non_ascii(message: SentMessage) -> bool:
    return not all(
        bare(address).rpartition("@")[0].isascii() for address in _mailboxes(message) if address
    )


def _own_headers(message: SentMessage, ordinary: frozenset[str]) -> bool:
    return any(name.lower() not in ordinary for name, _ in message.headers)


def _is_amp(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/x-amp-html"


_COMMON: dict[Feature, Callable[[SentMessage], bool]] = {
    Feature.ATTACHMENTS: lambda m: any(not one.content_id for one in m.attachments),
    Feature.INLINE_IMAGES: lambda m: any(one.content_id for one in m.attachments),
    Feature.MANY_REPLY_TO: lambda m: len(m.reply_to) > 1,
    Feature.NO_TO: lambda m: not m.to and m.raw is None,
    Feature.NON_ASCII_MAILBOX: _non_ascii,
    Feature.METADATA: lambda m: bool(m.metadata),
    Feature.TAGS: lambda m: bool(m.tag),
    Feature.MANY_TAGS: lambda m: len(m.tags) > 1,
    Feature.TRACK_OPENS: lambda m: m.track_opens is not None,
    Feature.TRACK_CLICKS: lambda m: m.track_clicks is not None,
    Feature.SEND_AT: lambda m: m.send_at is not None,
    Feature.TEMPLATES: lambda m: m.template is not None,
    Feature.MERGE_GLOBAL_DATA: lambda m: bool(m.variables),
    Feature.AMP: lambda m: any(_is_amp(kind) for kind, _ in m.alternatives),
    Feature.ALTERNATIVES: lambda m: not all(_is_amp(kind) for kind, _ in m.alternatives),
}


def _in_source(raw: bytes) -> set[Feature]:
    """Return what only a mail's structure shows."""
    mail = BytesParser(policy=compat32).parsebytes(raw)
    found = {Feature.NO_TO} if not mail.get("To") else set()
    return found | {_alternative(kind) for kind in _alternatives(mail)}


def _alternative(kind: str) -> Feature:
    return Feature.AMP if _is_amp(kind) else Feature.ALTERNATIVES


def _alternatives(mail: Message) -> list[str]:
    """Return what a reader is offered beyond text and HTML, such as a calendar entry."""
    offered = [
        part.get_content_type()
        for parent in mail.walk()
        if parent.get_content_type() == "multipart/alternative"
        for part in _parts(parent)
    ]
    ordinary = ("text/plain", "text/html")
    return [kind for kind in offered if kind not in ordinary and not kind.startswith("multipart/")]


def _parts(parent: Message) -> list[Message]:
    payload = parent.get_payload()
    return [part for part in payload if isinstance(part, Message)] if parent.is_multipart() else []
