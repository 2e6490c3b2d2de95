"""Which features a message asks for, and what leaving one out does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from flask_mailesp import Address, Attachment, Feature
from flask_mailesp.features import can_be_left_out, is_plain, lacking, requested, without
from flask_mailesp.message import Alternative, PreparedMessage

YOU, ME = Address("you@example.com"), Address("me@example.com")
PLAIN = PreparedMessage(ME, (YOU,), subject="Hi", body="Hi", html="<p>Hi</p>", reply_to=(ME,))
FILE = Attachment("a.txt", "text/plain", b"x")
IMAGE = Attachment("a.png", "image/png", b"x", content_id="a")

# A message, beyond the plain one, and all that it asks for.
ASKS: list[tuple[dict[str, Any], set[Feature]]] = [
    ({}, set()),
    ({"cc": (ME,), "bcc": (ME,), "esp_extra": {"k": 1}}, set()),
    ({"attachments": (FILE,)}, {Feature.ATTACHMENTS}),
    ({"attachments": (IMAGE,)}, {Feature.INLINE_IMAGES}),
    ({"attachments": (IMAGE, FILE)}, {Feature.INLINE_IMAGES, Feature.ATTACHMENTS}),
    ({"alternatives": (Alternative("x", "text/calendar"),)}, {Feature.ALTERNATIVES}),
    ({"alternatives": (Alternative("x", "Text/X-AMP-html; charset=utf-8"),)}, {Feature.AMP}),
    ({"headers": (("X-A", "1"),)}, {Feature.HEADERS}),
    ({"reply_to": (ME, YOU)}, {Feature.MANY_REPLY_TO}),
    ({"to": (), "cc": (YOU,)}, {Feature.NO_TO}),
    ({"to": (Address("y\u00fc@example.com"),)}, {Feature.NON_ASCII_MAILBOX}),
    ({"bcc": (Address("y\u00fc@example.com"),)}, {Feature.NON_ASCII_MAILBOX}),
    ({"sender": Address("y\u00fc@example.com")}, {Feature.NON_ASCII_MAILBOX}),
    ({"reply_to": (Address("y\u00fc@example.com"),)}, {Feature.NON_ASCII_MAILBOX}),
    ({"envelope_sender": ME}, {Feature.ENVELOPE_SENDER}),
    ({"metadata": {"k": 0}}, {Feature.METADATA}),
    ({"tags": ("a",)}, {Feature.TAGS}),
    ({"tags": ("a", "b")}, {Feature.TAGS, Feature.MANY_TAGS}),
    ({"track_clicks": False}, {Feature.TRACK_CLICKS}),
    ({"track_opens": False}, {Feature.TRACK_OPENS}),
    ({"send_at": datetime(2030, 1, 1, tzinfo=timezone.utc)}, {Feature.SEND_AT}),
    ({"template_id": 0, "subject": "", "body": None, "html": None}, {Feature.TEMPLATES}),
    (
        {"template_id": "a", "body": None, "html": None},
        {Feature.TEMPLATES, Feature.TEMPLATE_SUBJECT},
    ),
    ({"template_id": "a", "subject": "", "html": None}, {Feature.TEMPLATES, Feature.TEMPLATE_BODY}),
    ({"is_batch": True, "merge_data": {}}, set()),
    ({"is_batch": True, "merge_data": {YOU.key: {}}}, set()),
    (
        {"is_batch": True, "merge_data": {YOU.key: {"k": 1}}},
        {Feature.MERGE_DATA, Feature.MERGE_INTO_BODY},
    ),
    (
        {
            "is_batch": True,
            "merge_data": {YOU.key: {"k": 1}},
            "template_id": 1,
            "subject": "",
            "body": None,
            "html": None,
        },
        {Feature.MERGE_DATA, Feature.TEMPLATES},
    ),
    ({"merge_global_data": {"k": 1}}, {Feature.MERGE_GLOBAL_DATA, Feature.MERGE_INTO_BODY}),
    ({"is_batch": True, "merge_metadata": {YOU.key: {"k": 1}}}, {Feature.MERGE_METADATA}),
    ({"is_batch": True, "merge_headers": {YOU.key: {"X": "1"}}}, {Feature.MERGE_HEADERS}),
    ({"idempotency_key": "order-17"}, {Feature.IDEMPOTENCY_KEY}),
]


@pytest.mark.parametrize(("fields", "asks"), ASKS)
def test_a_message_asks_for_what_it_uses(fields: dict[str, Any], asks: set[Feature]) -> None:
    """No more and no less: False is a wish, an empty container is none."""
    assert set(requested(replace(PLAIN, **fields))) == asks


def test_every_feature_can_be_asked_for() -> None:
    """The table above is complete."""
    assert set().union(*(asks for _, asks in ASKS)) == set(Feature)


@pytest.mark.parametrize(("fields", "asks"), ASKS)
def test_the_quick_answer_agrees_with_the_exact_one(
    fields: dict[str, Any], asks: set[Feature]
) -> None:
    """A plain message asks for nothing; only batches are looked at more closely than needed."""
    message = replace(PLAIN, **fields)

    assert is_plain(message) == (not asks and not message.is_batch)


@pytest.mark.parametrize(("fields", "asks"), ASKS)
def test_a_message_without_a_feature_no_longer_asks_for_it(
    fields: dict[str, Any], asks: set[Feature]
) -> None:
    """And stays as it is in all that has nothing to do with it."""
    message = replace(PLAIN, **fields)
    for feature in filter(can_be_left_out, asks):
        smaller = without(message, feature)

        assert feature not in requested(smaller)
        assert (smaller.sender, smaller.recipients) == (message.sender, message.recipients)
        assert smaller.is_batch == message.is_batch


def test_leaving_out_one_kind_of_file_keeps_the_other() -> None:
    """Attachments and inline images are two features of one field."""
    message = replace(PLAIN, attachments=(IMAGE, FILE))

    assert without(message, Feature.ATTACHMENTS).attachments == (IMAGE,)
    assert without(message, Feature.INLINE_IMAGES).attachments == (FILE,)


def test_the_first_of_several_is_kept() -> None:
    """An ESP that takes one tag, or one Reply-To address, gets the first."""
    message = replace(PLAIN, tags=("a", "b"), reply_to=(YOU, ME))

    assert without(message, Feature.MANY_TAGS).tags == ("a",)
    assert without(message, Feature.MANY_REPLY_TO).reply_to == (YOU,)


def test_a_message_without_its_template_keeps_its_own_words() -> None:
    """What was meant to replace the template's words is then the message's text."""
    message = without(replace(PLAIN, template_id=1), Feature.TEMPLATES)

    assert (message.subject, message.body) == ("Hi", "Hi")
    assert requested(message) == []


def test_recipients_cannot_be_left_out() -> None:
    """To someone else is another message, and so is one to nobody."""
    cannot = {feature for feature in Feature if not can_be_left_out(feature)}

    assert cannot == {Feature.NO_TO, Feature.NON_ASCII_MAILBOX}


def test_lacking_is_what_the_esp_does_not_support() -> None:
    """In the order of the capability table."""
    message = replace(PLAIN, tags=("a", "b"), attachments=(FILE,))

    assert lacking(message, frozenset({Feature.TAGS})) == [Feature.ATTACHMENTS, Feature.MANY_TAGS]
    assert lacking(message, frozenset(Feature)) == []
