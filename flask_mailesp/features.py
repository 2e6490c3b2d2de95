"""Which features a message asks for, and what it is without one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from .esp import Feature
from .message import Alternative, PreparedMessage
from .records import replace

Changes = dict[str, Any]


def _attachments(message: PreparedMessage) -> bool:
    return any(not item.is_inline for item in message.attachments)


def _inline_images(message: PreparedMessage) -> bool:
    return any(item.is_inline for item in message.attachments)


def _rows(rows: Mapping[str, Mapping[str, Any]] | None) -> bool:
    return rows is not None and any(rows.values())


def _merges(message: PreparedMessage) -> bool:
    return bool(message.merge_global_data) or _rows(message.merge_data)


def _non_ascii_mailbox(message: PreparedMessage) -> bool:
    addresses = (message.sender, *message.recipients, *message.reply_to)
    return not "".join([address.addr_spec for address in addresses]).isascii()


AMP_TYPE = "text/x-amp-html"  # https://amp.dev/documentation/guides-and-tutorials/email/


def _is_amp(item: Alternative) -> bool:
    return item.content_type.partition(";")[0].strip().lower() == AMP_TYPE


_ASKS: dict[Feature, Callable[[PreparedMessage], bool]] = {
    Feature.ATTACHMENTS: _attachments,
    Feature.INLINE_IMAGES: _inline_images,
    Feature.AMP: lambda m: any(map(_is_amp, m.alternatives)),
    Feature.ALTERNATIVES: lambda m: not all(map(_is_amp, m.alternatives)),
    Feature.HEADERS: lambda m: bool(m.headers),
    Feature.MANY_REPLY_TO: lambda m: len(m.reply_to) > 1,
    Feature.NO_TO: lambda m: not m.to,
    Feature.NON_ASCII_MAILBOX: _non_ascii_mailbox,
    Feature.ENVELOPE_SENDER: lambda m: m.envelope_sender is not None,
    Feature.METADATA: lambda m: bool(m.metadata),
    Feature.TAGS: lambda m: bool(m.tags),
    Feature.MANY_TAGS: lambda m: len(m.tags) > 1,
    Feature.TRACK_CLICKS: lambda m: m.track_clicks is not None,
    Feature.TRACK_OPENS: lambda m: m.track_opens is not None,
    Feature.SEND_AT: lambda m: m.send_at is not None,
    Feature.TEMPLATES: lambda m: m.template_id is not None,
    Feature.TEMPLATE_SUBJECT: lambda m: m.template_id is not None and bool(m.subject),
    Feature.TEMPLATE_BODY: lambda m: m.template_id is not None and bool(m.body or m.html),
    Feature.MERGE_DATA: lambda m: _rows(m.merge_data),
    Feature.MERGE_GLOBAL_DATA: lambda m: bool(m.merge_global_data),
    Feature.MERGE_INTO_BODY: lambda m: m.template_id is None and _merges(m),
    Feature.MERGE_METADATA: lambda m: _rows(m.merge_metadata),
    Feature.MERGE_HEADERS: lambda m: _rows(m.merge_headers),
    Feature.IDEMPOTENCY_KEY: lambda m: m.idempotency_key is not None,
}

# What cannot be left out without sending something else than was meant has no entry. A batch
# stays a batch: without its data it still must not show the recipients to each other.
_WITHOUT: dict[Feature, Callable[[PreparedMessage], Changes]] = {
    Feature.ATTACHMENTS: lambda m: {
        "attachments": tuple(item for item in m.attachments if item.is_inline)
    },
    Feature.INLINE_IMAGES: lambda m: {
        "attachments": tuple(item for item in m.attachments if not item.is_inline)
    },
    Feature.AMP: lambda m: {
        "alternatives": tuple(item for item in m.alternatives if not _is_amp(item))
    },
    Feature.ALTERNATIVES: lambda m: {"alternatives": tuple(filter(_is_amp, m.alternatives))},
    Feature.HEADERS: lambda m: {"headers": ()},
    Feature.MANY_REPLY_TO: lambda m: {"reply_to": m.reply_to[:1]},
    Feature.ENVELOPE_SENDER: lambda m: {"envelope_sender": None},
    Feature.METADATA: lambda m: {"metadata": None},
    Feature.TAGS: lambda m: {"tags": ()},
    Feature.MANY_TAGS: lambda m: {"tags": m.tags[:1]},
    Feature.TRACK_CLICKS: lambda m: {"track_clicks": None},
    Feature.TRACK_OPENS: lambda m: {"track_opens": None},
    Feature.SEND_AT: lambda m: {"send_at": None},
    Feature.TEMPLATES: lambda m: {"template_id": None},
    Feature.TEMPLATE_SUBJECT: lambda m: {"subject": ""},
    Feature.TEMPLATE_BODY: lambda m: {"body": None, "html": None},
    Feature.MERGE_DATA: lambda m: {"merge_data": None},
    Feature.MERGE_GLOBAL_DATA: lambda m: {"merge_global_data": None},
    Feature.MERGE_INTO_BODY: lambda m: {"merge_global_data": None, "merge_data": None},
    Feature.MERGE_METADATA: lambda m: {"merge_metadata": None},
    Feature.MERGE_HEADERS: lambda m: {"merge_headers": None},
    Feature.IDEMPOTENCY_KEY: lambda m: {"idempotency_key": None},
}


def is_plain(message: PreparedMessage) -> bool:
    """Tell quickly that a message asks for nothing an ESP could lack."""
    return (
        bool(message.to)
        and message.template_id is None
        and not message.is_batch
        and not _asks_for_options(message)
        and not _non_ascii_mailbox(message)
    )


def _asks_for_options(message: PreparedMessage) -> bool:
    return bool(
        message.attachments
        or message.headers
        or message.alternatives
        or message.tags
        or message.metadata
        or message.merge_global_data
        or message.envelope_sender is not None
        or message.track_clicks is not None
        or message.track_opens is not None
        or message.send_at is not None
        or message.idempotency_key is not None
        or len(message.reply_to) > 1
    )


def requested(message: PreparedMessage) -> list[Feature]:
    """Return the features a message asks for, in the order of the capability table."""
    return [feature for feature, asks in _ASKS.items() if asks(message)]


def lacking(message: PreparedMessage, supports: frozenset[Feature]) -> list[Feature]:
    """Return the features a message asks for beyond those that an ESP supports."""
    return [feature for feature in requested(message) if feature not in supports]


def can_be_left_out(feature: Feature) -> bool:
    """Tell whether a message makes sense without the feature."""
    return feature in _WITHOUT


def can_be_without(message: PreparedMessage, lacking: Collection[Feature]) -> bool:
    """Tell whether a message makes sense without some features.

    Without its template, a message that has no words of its own would arrive blank.
    """
    wordless = Feature.TEMPLATES in lacking and not (message.body or message.html)
    return not wordless and all(map(can_be_left_out, lacking))


def without(message: PreparedMessage, feature: Feature) -> PreparedMessage:
    """Return the message without a feature."""
    return replace(message, **_WITHOUT[feature](message))
