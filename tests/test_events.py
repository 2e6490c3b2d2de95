"""The values that webhooks become."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp import EventType, InboundEvent, RejectReason, TrackingEvent
from flask_mailesp.events import event_key, unknown_event
from flask_mailesp.inbound import InboundMessage

FIELDS = st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=4)


def test_event_types_are_the_words_apps_compare_with() -> None:
    """Equal to, and printed as, plain text."""
    event = TrackingEvent(EventType.BOUNCED, reject_reason=RejectReason.TIMED_OUT)

    assert event.event_type == "bounced"
    assert f"{event.event_type} {event.reject_reason}" == "bounced timed_out"
    assert event.event_type in {"bounced", "complained"}


def test_an_event_without_details_has_empty_containers_of_its_own() -> None:
    """``tags`` is a list and ``metadata`` a dict, never None, never shared."""
    one, two = TrackingEvent(EventType.OPENED), TrackingEvent(EventType.OPENED)

    assert (one.tags, one.metadata, one.timestamp, one.recipient) == ([], {}, None, None)
    assert one.tags is not two.tags
    assert one.metadata is not two.metadata


@pytest.mark.parametrize("name", ["event_type", "recipient", "key", "new"])
def test_events_are_frozen(name: str) -> None:
    """Receivers share them."""
    event: Any = TrackingEvent(EventType.OPENED)
    with pytest.raises((AttributeError, TypeError)):
        setattr(event, name, "x")


def test_an_event_shows_neither_addresses_nor_content() -> None:
    """Its repr may land in a log."""
    tracking = TrackingEvent(
        EventType.CLICKED,
        esp_event={"x": "secret"},
        timestamp=datetime(2026, 11, 21, tzinfo=timezone.utc),
        message_id="41877",
        recipient="secret@example.com",
        description="secret",
        mta_response="secret",
        metadata={"a": "secret"},
        click_url="https://secret",
        user_agent="secret",
        identity=("secret",),
    )
    inbound = InboundEvent(InboundMessage.from_raw(b"Subject: secret\n\nsecret"), {"x": "secret"})

    assert "secret" not in repr(tracking) + repr(inbound)
    assert "41877" in repr(tracking)


def test_events_can_be_copied_and_pickled() -> None:
    """For a queue between the web process and a worker."""
    event = TrackingEvent(EventType.OPENED, {"a": 1}, identity=("Postal", "u"))
    mail = InboundEvent(InboundMessage.from_raw(b"Subject: Hi\n\nText"), identity=("Postal", "1"))

    for again in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event)):
        assert again == event
        assert again.key == event.key
    read = pickle.loads(pickle.dumps(mail))
    assert (read.message.subject, read.key) == ("Hi", mail.key)


def test_an_inbound_event_is_of_one_type() -> None:
    """So that both kinds of event can be told apart alike."""
    assert InboundEvent(InboundMessage.from_raw(b"")).event_type == "inbound"


@given(FIELDS, FIELDS)
def test_keys_are_equal_exactly_where_the_fields_are(
    one: list[str | None], two: list[str | None]
) -> None:
    """Nothing runs together: ("ab", "c") is not ("a", "bc"), None is not ""."""
    assert (event_key("tracking", one) == event_key("tracking", two)) == (one == two)


@given(st.lists(st.one_of(st.none(), st.text(st.characters())), max_size=4))
def test_a_key_is_64_hexadecimal_digits(fields: list[str | None]) -> None:
    """Whatever the fields hold, lone surrogates included."""
    key = event_key("inbound", [*fields, "\ud800"])

    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_tracking_and_inbound_keys_never_meet() -> None:
    """Both may be stored in one table."""
    fields = ("Postal", "1")
    mail = InboundEvent(InboundMessage.from_raw(b""), identity=fields)

    assert TrackingEvent(EventType.OPENED, identity=fields).key != mail.key


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    """It is stored for weeks: a change here would repeat old events."""
    key = event_key("tracking", ("Postal", None, "c7a91f0e"))

    assert key == "dddc2558f43c108a26a3c0350895aa0a75f6c514498a074f7f211268b9b3370c"


def test_what_has_no_known_shape_is_an_unknown_event_with_the_data() -> None:
    """Its key is made of the ESP's id, or of the body where it has none."""
    event = unknown_event("Acme", {"a": 1}, b'{"a":1}')
    named = unknown_event("Acme", {"a": 1}, b'{"a":1}', "e-1")

    assert (event.event_type, event.esp_event, event.event_id) == ("unknown", {"a": 1}, None)
    assert event.key == unknown_event("Acme", None, b'{"a":1}').key
    assert named.event_id == "e-1"
    keys = {event.key, named.key, unknown_event("Other", {}, b'{"a":1}').key}
    assert len(keys | {unknown_event("Acme", {}, b"{}").key}) == 4
    assert named.key == unknown_event("Acme", {}, b"{}", "e-1").key
