"""Any authentic body is events: both parsers against anything that can be posted."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhook_kit import INBOUND, TRACKING, Event, encoded

from flask_mailesp import EventType, InboundEvent, RejectReason, TrackingEvent
from flask_mailesp.address import Address
from flask_mailesp.esp import Fetch, Settings, WebhookRequest
from flask_mailesp.inbound import InboundMessage
from flask_mailesp.registry import load_esp

ESPS = ("postal", "postmark")
SAMPLES = {esp: [*TRACKING[esp], *INBOUND[esp]] for esp in ESPS}
each_esp = pytest.mark.parametrize("esp", ESPS)
FORM = "application/x-www-form-urlencoded"

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**25, max_value=10**30),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        [1e18, -1e18, 1e300, "\ud800", "\x00", "", " ", "9" * 5000, "2026-11-21T99:00:00Z", "<>,;@"]
    ),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def parse(esp: str, body: bytes, content_type: str = "application/json") -> list[Event]:
    """Parse a body as the view does once it is authentic."""
    record = load_esp(esp)
    assert record is not None
    assert record.tracking is not None
    headers = {"Content-Type": content_type}
    found = record.tracking.parse(WebhookRequest(headers, body), Settings({}))
    return [item for item in found if not isinstance(item, Fetch)]


def check(esp: str, body: bytes, content_type: str = "application/json") -> list[Event]:
    """Parse, read everything there is to read, and parse again."""
    events = parse(esp, body, content_type)
    for event in events:
        check_event(event)
    again = [event.key for event in parse(esp, body, content_type)]
    assert [event.key for event in events] == again
    return events


def check_event(event: Event) -> None:
    """Every attribute has the type it promises."""
    assert len(event.key) == 64
    assert set(event.key) <= set("0123456789abcdef")
    assert event.timestamp is None or event.timestamp.tzinfo is not None
    assert is_text(event.event_id)
    assert isinstance(repr(event), str)
    if isinstance(event, InboundEvent):
        check_mail(event.message)
    else:
        check_tracking(event)


def check_tracking(event: TrackingEvent) -> None:
    assert isinstance(event.event_type, EventType)
    assert event.reject_reason is None or isinstance(event.reject_reason, RejectReason)
    for value in (event.message_id, event.recipient, event.description, event.mta_response):
        assert is_text(value)
    assert is_text(event.click_url)
    assert is_text(event.user_agent)
    assert isinstance(event.metadata, dict)
    assert all(isinstance(tag, str) and tag for tag in event.tags)


def is_text(value: object) -> bool:
    """Text that any database takes: UTF-8, and not empty."""
    return value is None or (isinstance(value, str) and bool(value.encode()))


def check_mail(mail: InboundMessage) -> None:
    for addresses in (mail.to, mail.cc, mail.bcc, mail.reply_to):
        assert all(isinstance(one, Address) for one in addresses)
    assert mail.from_email is None or isinstance(mail.from_email, Address)
    for text in (mail.subject, mail.text, mail.html):
        assert isinstance(text, str)
    assert mail.date is None or isinstance(mail.date, datetime)
    for value in (mail.message_id, mail.in_reply_to, mail.envelope_recipient, mail.stripped_text):
        assert value is None or isinstance(value, str)
    assert isinstance(mail.is_auto_reply, bool)
    assert mail.spam_detected in (True, False, None)
    assert isinstance(mail.spam_score, (float, type(None)))
    assert all(isinstance(value, str) for pair in mail.headers.items() for value in pair)
    assert all(isinstance(one, str) for one in [*mail.references, *mail.defects])
    for file in [*mail.attachments, *mail.inlines]:
        assert isinstance(file.data, bytes)
        assert "/" not in file.filename


# --- anything at all -----------------------------------------------------------------------


@each_esp
@given(body=st.binary(max_size=200), form=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_one_event_or_none(esp: str, body: bytes, form: bool) -> None:
    """Unknown, with the bytes, where they are nothing else."""
    events = check(esp, body, FORM if form else "application/json")

    assert len(events) == 1


@each_esp
@given(payload=JSON)
@settings(max_examples=150, deadline=None)
def test_any_json_is_one_event(esp: str, payload: Any) -> None:
    """Whatever its shape."""
    assert len(check(esp, json.dumps(payload).encode())) == 1


FIELD_NAMES = {
    esp: sorted(
        {name for sample in SAMPLES[esp] for name in sample}
        | {name for sample in SAMPLES[esp] for name in sample.get("payload", {})}
        | {"message", "original_message", "RawEmail", "base64", "Data"}
    )
    for esp in ESPS
}


@each_esp
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_values_in_known_fields_are_read(esp: str, data: st.DataObject) -> None:
    """The ESP's own names, with nothing behind them that was promised."""
    names = st.sampled_from(FIELD_NAMES[esp])
    inner = st.one_of(JSON, st.dictionaries(names, JSON, max_size=6))
    payload = data.draw(st.dictionaries(names, inner, max_size=8))

    check(esp, json.dumps(payload).encode())


# --- real payloads, damaged ----------------------------------------------------------------


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a payload."""
    if path:
        yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from paths(inner, (*path, key))


def changed(payload: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced."""
    result = copy.deepcopy(payload)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


ODD_VALUES: list[Any] = [
    None, True, 0, -1.5, 1e18, 10**400, "", "x", "\ud800", "<" * 3000, [], [None], {}, {"a": []},
]  # fmt: skip


@each_esp
def test_every_field_may_hold_anything(esp: str) -> None:
    """Each value of each sample replaced by each odd one, in turn."""
    for sample in SAMPLES[esp]:
        for path in paths(sample):
            for value in ODD_VALUES:
                check(esp, json.dumps(changed(sample, path, value)).encode())


@each_esp
def test_every_field_may_be_missing(esp: str) -> None:
    """Fields come and go with the ESP's versions."""
    for sample in SAMPLES[esp]:
        for name in sample:
            check(esp, encoded({key: value for key, value in sample.items() if key != name}))


@each_esp
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_several_fields_may_hold_anything_at_once(esp: str, data: st.DataObject) -> None:
    """Real payloads in which some values are any JSON."""
    payload = data.draw(st.sampled_from(SAMPLES[esp]))
    for path in data.draw(st.lists(st.sampled_from(list(paths(payload))), max_size=4)):
        try:
            payload = changed(payload, path, data.draw(JSON))
        except (KeyError, TypeError, IndexError):
            continue  # an earlier change took the place away

    check(esp, json.dumps(payload).encode())


@each_esp
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_damaged_bytes_are_read(esp: str, data: st.DataObject) -> None:
    """Cut, doubled, overwritten: what is no JSON any more is kept as bytes."""
    body = encoded(data.draw(st.sampled_from(SAMPLES[esp])))
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 40)))
    patch = data.draw(st.one_of(st.binary(max_size=20), st.just(body[start:end] * 2)))

    check(esp, body[:start] + patch + body[end:], data.draw(st.sampled_from([FORM, "text/plain"])))


FORM_NAMES = st.one_of(
    st.sampled_from([*FIELD_NAMES["postal"], "reply_to[]", "attachments[0][data]"]),
    st.from_regex(r"attachments\[\w{0,6}\]\[\w{0,6}\]", fullmatch=True),
    st.text(max_size=5),
)


@given(st.lists(st.tuples(FORM_NAMES, st.text(max_size=12)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_form_is_read(fields: list[tuple[str, str]]) -> None:
    """Names repeated, brackets open, attachments without data."""
    from urllib.parse import urlencode

    check("postal", urlencode(fields, errors="surrogatepass").encode(), FORM)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_raw_mail_is_read(source: bytes) -> None:
    """And handed on, byte by byte."""
    from webhook_kit import postal_raw

    (event,) = check("postal", encoded(postal_raw(source)))

    assert isinstance(event, InboundEvent)
    assert event.message.raw == source


@each_esp
def test_the_samples_themselves_are_all_known(esp: str) -> None:
    """What is damaged above is sound to begin with."""
    for sample in SAMPLES[esp]:
        (event,) = check(esp, encoded(sample))
        assert event.event_type is not EventType.UNKNOWN
