"""Amazon SNS: what is signed, how, and that nothing else passes for it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from ses_kit import (
    BOUNCED,
    CERTIFICATE,
    CERTIFICATE_URL,
    KEY,
    NOW,
    TOPIC,
    certificate,
    confirmation,
    encoded,
    notification,
    signature,
    signed,
)

from flask_mailesp.esp import HttpResponse
from flask_mailesp.exceptions import FetchError, WebhookRejected
from flask_mailesp.sns import open_envelope, string_to_sign, verify_signature

# --- known answers -------------------------------------------------------------------------

VECTOR_CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIICsTCCAZmgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAcMRowGAYDVQQDDBFzbnMu
YW1hem9uYXdzLmNvbTAeFw0yNTAxMDEwMDAwMDBaFw00OTAxMDEwMDAwMDBaMBwx
GjAYBgNVBAMMEXNucy5hbWF6b25hd3MuY29tMIIBIjANBgkqhkiG9w0BAQEFAAOC
AQ8AMIIBCgKCAQEAs2yu4kUx0MRG+xQu2Yf6LWgipXezTAHgKCaNW45nv/3a+hBB
mzjmFWuG6R2TgEvjWbFA+2upLcRB2SLdZ7OqzKMCNSGsBuamDFqTktJltrv8HImx
7iwt53MlcMivoxdqjtt+vU9yFSR6vCmmcFePOr7wjD3saXCHmJobJoILYVKeA6eC
rp5kTeRTPyU8l38sUDpJCzFgGCCQzVQKVo8KdluBOl2yxO/gpMl5JrCe0tvo2Km0
lEHQI5oEtsSOmOn+fN4yHq24uvdVs5I7tTkTKmveS42tkjfbiBAYWaoihYIWQIqL
Wzoyv9RUZ/ZSn3sid+LFGSzc5IbhXhDtzXq/5wIDAQABMA0GCSqGSIb3DQEBCwUA
A4IBAQADq5DSYZYBKkUJj7+SvcdnB8MHogrJH9nq1mvt0i1oy86mO+9f/f+EiQX6
gCS1DrqAoE6j0uv1PKhUtTqL4JTypncbOEtMdvE5AM5e/iwLzJ2PuuSJZT428cu4
221KqZ+8eGDdviYngk6tsaX36CdDoBaxrJC1aYxGrthvOe9PY9exw3yoc24AKvjk
SNGq/8atdqmbo/DHwt8jyFSO/UpnynSFhdN3yqQHmtwFgsnfMek9WnCG5zjRwYz2
toi6y3YPztilLDRbNSi3+JF8IdLlNs62HLfY5s96V3uzbAGuUtn7mHTdUIWtwKc3
c4pDpo9ahN0whmjD/KUC1BKGG/0z
-----END CERTIFICATE-----
"""
VECTOR = {
    "Type": "Notification",
    "MessageId": "11111111-2222-5333-8444-555555555555",
    "TopicArn": TOPIC,
    "Subject": "Amazon SES Email Event Notification",
    "Message": '{"eventType":"Send","mail":{"messageId":"0102example-000000"},"send":{}}\n',
    "Timestamp": "2026-03-01T10:11:12.345Z",
    "SigningCertURL": CERTIFICATE_URL,
}
VECTOR_V1 = VECTOR | {
    "SignatureVersion": "1",
    "Signature": (
        "coEbN5kYXKglZu8zLp+xLlT1BUo7VmyUK3K89AIMYAUdRSSEUVhGv2AOPyb6bZmzdFDd3pMv0z5FEE5QFWQ+zqAu"
        "1mJM2XDGdR2uCE208BHzcWbLLdRds7kti/1WLz2S3LutlCInGf4Br2hkjGMf4G20FoW28eqLlWorjBq58XqfyKxO"
        "7yHOH0HBtLVoQi7drBxLHlaeAg6uTDLUENbSq+PvAe5QZwWWyFaOFO41T0f/5SInL9JEqRsbnGPswVK9ggdkOgPT"
        "XxIslugITQ5OYBFelpIQHBqbPLM+MghMgDb8IeDFxqnnP2O/d5lsc3BtsUDblJZOg+jlJ0OwkKryPQ=="
    ),
}
VECTOR_V2 = VECTOR | {
    "SignatureVersion": "2",
    "Signature": (
        "kJpZ1ITtL3+tVN2e8o9lhtgu/9iwS+WpGoyIQvoNFiE0pAWWMYzJryZLYD4nI6176JI4bSj9t+oudvS4ZNbHl7+B"
        "mxXostotjD9nKgwl6yexBIXGKOGOtBtaaXELosBFSWbx0fG1pNCYlRVQWKI4F9Ot4IVx6waB7rgs4p28k6kdGi8i"
        "CqINVCFB0ZaAuNh52ZXtq7AZstdSrfKK9FeyXbcDKH8193dWE1AKs0fIgxg0Q+Q+w2PQGydJWAtC2wKd1zhA1YLx"
        "oNPwLhsLWJ9stZiPQvJOwFWTeKAcR/q3WnncUXGvu5PMmbREsV/9JAK99W/GIAUen1LkFbT8aflkwQ=="
    ),
}
VECTOR_CONFIRMATION = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "99999999-2222-5333-8444-555555555555",
    "Token": "2336412f37example",
    "TopicArn": TOPIC,
    "Message": "Subscribe?",
    "SubscribeURL": (
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"
        f"&TopicArn={TOPIC}&Token=2336412f37example"
    ),
    "Timestamp": "2026-03-01T10:00:00.000Z",
    "SigningCertURL": CERTIFICATE_URL,
    "SignatureVersion": "2",
    "Signature": (
        "XqdwiZQoOBPRFVDooYclZzGrFpBoPf0AQfa1KPFybyqlGAKyyEr28janJZUqGpLMqlvCwWIjHGzt9MsQAQGFGlZa"
        "jdowAHHmHogr+lsx3NpkDXZr25+5r6o5sA0XvPadOpws8vCPg0VVGYrUhJ4Iy0Yuu6rfzTRFs69XrQAKnEOImbGY"
        "/oxi/+vzdlA8W+YbYLulBaLwCoeMDvYsiGfRi0G1YUEegaUb8g1zU+QTNQdqvvclY50mjZlc5vO9xjdTE+Nzn5xT"
        "1t6nReJe4t3YzsFtaD20THHY8wzLs/dKf1oVikJa3Rjgv9MgiIk6jCUx/eFjLrn+AI+/N2+3hx8MpQ=="
    ),
}
VECTORS = [VECTOR_V1, VECTOR_V2, VECTOR_CONFIRMATION]
ids_of_vectors = pytest.mark.parametrize("fields", VECTORS, ids=["version 1", "version 2", "start"])


def check(
    body: bytes,
    headers: dict[str, str] | None = None,
    pem: bytes = CERTIFICATE,
    now: datetime = NOW,
) -> None:
    """Verify a body, with the certificate at hand."""
    verify_signature(open_envelope(body, headers or {}), now, HttpResponse(200, {}, pem))


def rejected(body: bytes, headers: dict[str, str] | None = None, **how: Any) -> bool:
    try:
        check(body, headers, **how)
    except WebhookRejected:
        return True
    return False


@ids_of_vectors
def test_known_answers(fields: dict[str, Any]) -> None:
    """Both versions, and the beginning of a subscription."""
    check(encoded(fields), pem=VECTOR_CERTIFICATE)


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        (VECTOR_V1, "93d7ad403c4b2036e34eca18591e0d1f402e7d190055e4fb1025af764d78992d"),
        (VECTOR_V2, "93d7ad403c4b2036e34eca18591e0d1f402e7d190055e4fb1025af764d78992d"),
        (VECTOR_CONFIRMATION, "90aa0e3beb92b6738a5615f63d26b81d670bcd400408553408cf6fcb087579c9"),
    ],
    ids=["version 1", "version 2", "start"],
)
def test_the_known_strings_to_sign(fields: dict[str, Any], digest: str) -> None:
    """Before any cryptography."""
    assert sha256(string_to_sign(fields)).hexdigest() == digest


@pytest.mark.parametrize("fields", [VECTOR_V1, VECTOR_V2], ids=["version 1", "version 2"])
def test_the_message_is_never_stripped(fields: dict[str, Any]) -> None:
    """Its last line feed is signed too."""
    stripped = fields | {"Message": fields["Message"].strip()}

    assert rejected(encoded(stripped), pem=VECTOR_CERTIFICATE)


@ids_of_vectors
def test_another_certificate_does_not_fit(fields: dict[str, Any]) -> None:
    """Ours, for one."""
    assert rejected(encoded(fields))


def test_a_notification_may_lack_a_subject() -> None:
    """Then it is not signed; null is as good as absent."""
    without = notification(BOUNCED, Subject=None)

    check(encoded(without))
    check(encoded(without | {"Subject": None}))
    assert rejected(encoded(without | {"Subject": ""}))
    assert rejected(encoded(without | {"Subject": "Hello"}))


def test_the_end_of_a_subscription_is_signed_like_its_beginning() -> None:
    check(encoded(confirmation(Type="UnsubscribeConfirmation")))


def test_how_the_json_is_written_does_not_matter() -> None:
    """The values are signed, not the bytes."""
    fields = notification({"eventType": "Send", "note": "Größe ✓\n"})

    check(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode())
    check(json.dumps(dict(reversed(fields.items())), ensure_ascii=True, indent=4).encode())
    check(encoded(fields | {"UnsubscribeURL": "whatever", "New": [1]}))


# --- what is refused -----------------------------------------------------------------------

GOOD = notification(BOUNCED)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-sns-message-type": "SubscriptionConfirmation"},
        {"x-amz-sns-message-id": "another"},
        {"x-amz-sns-topic-arn": f"{TOPIC}2"},
        {"x-amz-sns-topic-arn": ""},
        {"x-amz-sns-rawdelivery": "true"},
        {"x-amz-sns-rawdelivery": "True"},
    ],
    ids=["type", "id", "topic", "empty", "raw", "raw, capital"],
)
def test_headers_that_say_something_else_are_refused(headers: dict[str, str]) -> None:
    """They are not signed, so the body decides, and they must agree with it."""
    agreeing = {
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": GOOD["MessageId"],
        "x-amz-sns-topic-arn": TOPIC,
        "x-amz-sns-rawdelivery": "false",
    }
    check(encoded(GOOD), agreeing)

    assert rejected(encoded(GOOD), agreeing | headers)


def test_raw_delivery_is_refused_in_words_that_help() -> None:
    """It has neither envelope nor signature."""
    with pytest.raises(WebhookRejected, match="switch it off"):
        open_envelope(json.dumps(BOUNCED).encode(), {"x-amz-sns-rawdelivery": "true"})
    with pytest.raises(WebhookRejected, match="not a message of Amazon SNS"):
        open_envelope(json.dumps(BOUNCED).encode(), {})


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_key_that_comes_twice_is_refused(key: str) -> None:
    """Whoever reads the first one and whoever reads the last must not see different things."""
    body = encoded(GOOD)
    again = json.dumps({key: GOOD[key]})[1:-1].encode()

    assert rejected(body.replace(b"{", b"{" + again + b",", 1))
    assert rejected(body[:-1] + b"," + again + b"}")


SLIDES = [
    {"MessageId": f"{GOOD['MessageId']}\nSubject\n{GOOD['Subject']}", "Subject": None},
    {"MessageId": f"{GOOD['MessageId']}\n", "Subject": GOOD["Subject"]},
    {"Timestamp": f"{GOOD['Timestamp']}\nTopicArn\n{TOPIC}", "TopicArn": None},
    {
        "Message": f"{GOOD['Message']}\nMessageId\n{GOOD['MessageId']}",
        "MessageId": None,
    },
]


@pytest.mark.parametrize("changes", SLIDES, ids=range(4))
def test_nothing_slides_from_one_field_into_another(changes: dict[str, Any]) -> None:
    """Names and values are joined without escapes; the same text must have one meaning."""
    slid = {name: value for name, value in (GOOD | changes).items() if value is not None}

    assert rejected(encoded(slid))


def test_a_message_of_the_same_text_with_another_subject_cannot_be_made() -> None:
    """The first of the slides signs the same text, and is refused for its line feed alone."""
    slid = {name: value for name, value in (GOOD | SLIDES[0]).items() if value is not None}
    names = ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
    text = "".join(f"{name}\n{slid[name]}\n" for name in names)

    assert text.encode() == string_to_sign(GOOD)


@pytest.mark.parametrize(
    "version", ["0", "3", "", "1 ", "2\n", "٢", None, 2, 1, True, ["2"], {"2": "2"}], ids=repr
)
def test_a_version_is_1_or_2(version: Any) -> None:
    assert rejected(encoded(GOOD | {"SignatureVersion": version}))


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        7,
        "",
        "=",
        "é" * 344,
        "A" * 344,
        GOOD["Signature"][:-1],
        GOOD["Signature"] + "=",
        " " + GOOD["Signature"],
        GOOD["Signature"] + "\n",
        GOOD["Signature"].replace("=", ""),
        GOOD["Signature"].replace("A", "-"),
        GOOD["Signature"][:172],
        GOOD["Signature"] * 2,
        [GOOD["Signature"]],
        base64.b64encode(bytes(256)).decode(),
        base64.b64encode(b"\xff" * 256).decode(),
        base64.b64encode(base64.b64decode(GOOD["Signature"]) + b"\0").decode(),
        "A" * 1_000_000,
    ],
    ids=range(19),
)
def test_a_malformed_signature_is_refused(wrong: Any) -> None:
    """And never more than that."""
    assert rejected(encoded(GOOD | {"Signature": wrong}))


def test_the_signature_of_one_version_is_none_of_the_other() -> None:
    """SHA-1 is what the version says, not what happens to fit."""
    first = notification(BOUNCED, SignatureVersion="1")

    check(encoded(first))
    assert rejected(encoded(first | {"SignatureVersion": "2"}))
    assert rejected(encoded(GOOD | {"SignatureVersion": "1"}))


@pytest.mark.parametrize("key", ["Message", "MessageId", "Timestamp", "TopicArn", "Type"])
@pytest.mark.parametrize("value", [None, 1, [], {}, True, "lost"], ids=repr)
def test_every_signed_field_is_text(key: str, value: Any) -> None:
    """Also where its text would be the same."""
    changed = GOOD | {key: value}
    if value == "lost":
        del changed[key]

    assert rejected(encoded(changed))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"Notification"',
        b"{}",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"Type": "Notification", "n": ' + b"9" * 5000 + b"}",
        json.dumps([GOOD]).encode(),
        json.dumps({"Type": "Notification", **dict.fromkeys(GOOD, "\ud800")}).encode(),
        json.dumps(GOOD | {"Message": "\ud800"}).encode(),
    ],
    ids=range(12),
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """Nothing else is ever raised."""
    assert rejected(body)


# --- certificates --------------------------------------------------------------------------


def outcome(response: HttpResponse, now: datetime = NOW) -> str:
    try:
        verify_signature(open_envelope(encoded(GOOD), {}), now, response)
    except (WebhookRejected, FetchError) as error:
        return type(error).__name__
    return "accepted"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "accepted"),
        (400, "WebhookRejected"),
        (403, "WebhookRejected"),
        (404, "WebhookRejected"),
        (408, "FetchError"),
        (429, "FetchError"),
        (301, "FetchError"),
        (204, "FetchError"),
        (500, "FetchError"),
        (503, "FetchError"),
    ],
)
def test_only_a_certificate_that_cannot_be_had_at_present_is_asked_for_again(
    status: int, expected: str
) -> None:
    """What SNS does not know proves the message a forgery."""
    assert outcome(HttpResponse(status, {}, CERTIFICATE)) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff" * 99, CERTIFICATE[:300]], ids=range(4))
def test_a_damaged_certificate_is_asked_for_again(body: bytes) -> None:
    assert outcome(HttpResponse(200, {}, body)) == "FetchError"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2024, 12, 31, 23, 59, 59, tzinfo=timezone.utc), "WebhookRejected"),
        (datetime(2025, 1, 1, tzinfo=timezone.utc), "accepted"),
        (datetime(2049, 1, 1, tzinfo=timezone.utc), "accepted"),
        (datetime(2049, 1, 1, 0, 0, 1, tzinfo=timezone.utc), "WebhookRejected"),
    ],
    ids=["early", "first", "last", "late"],
)
def test_a_certificate_counts_while_it_is_valid(now: datetime, expected: str) -> None:
    """To the second."""
    assert outcome(HttpResponse(200, {}, CERTIFICATE), now) == expected


def test_a_certificate_has_an_rsa_key() -> None:
    """Others are of no scheme that SNS has."""
    other = ec.generate_private_key(ec.SECP256R1())

    assert outcome(HttpResponse(200, {}, certificate(other))) == "WebhookRejected"


# --- mutations -----------------------------------------------------------------------------

SIGNED_KEYS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type", "Signature")
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def mutants(version: str, count: int) -> Iterator[bytes]:
    """Messages that are each a little wrong."""
    chance = random.Random(20260301)
    originals = [
        notification(BOUNCED, SignatureVersion=version),
        notification("Größe ✓\n", SignatureVersion=version, Subject=None),
        confirmation(SignatureVersion=version),
    ]
    foreign = [fields | {"Signature": signature(fields, OTHER_KEY)} for fields in originals]
    yield from map(encoded, foreign)
    yield from (
        encoded(one | {"Signature": other["Signature"]})
        for one in originals
        for other in originals
        if one is not other
    )
    for number in range(count):
        fields = originals[number % len(originals)]
        yield encoded(MUTATIONS[number % len(MUTATIONS)](dict(fields), chance))


def with_flipped_bit(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    data = bytearray(base64.b64decode(fields["Signature"]))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return fields | {"Signature": base64.b64encode(data).decode()}


def with_changed_character(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """In any signed value, the base64 of the signature included."""
    key = chance.choice([name for name in SIGNED_KEYS if name in fields])
    value, place = fields[key], chance.randrange(len(fields[key]))
    other = chr(ord(value[place]) ^ (1 << chance.randrange(6)))
    return fields | {key: value[:place] + other + value[place + 1 :]}


def with_moved_edge(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Cut or lengthen a signed value at one of its ends."""
    key = chance.choice([name for name in SIGNED_KEYS if name in fields])
    extra = chance.choice(["\n", " ", "\0", "A", "=", "\ufeff", "٣", "\nSubject\nx"])
    value = fields[key]
    return fields | {key: chance.choice([value[1:], value[:-1], extra + value, value + extra])}


def with_slide(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Move characters over the border between two neighbouring signed values."""
    names = [name for name in SIGNED_KEYS[:-1] if name in fields]
    place = chance.randrange(len(names) - 1)
    one, other = names[place], names[place + 1]
    count = chance.randrange(1, 6)
    return fields | {one: fields[one][:-count], other: fields[one][-count:] + fields[other]}


def with_lost_key(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    needed = [name for name in (*SIGNED_KEYS, "SignatureVersion") if name in fields]
    del fields[chance.choice(needed)]
    return fields


def with_other_type(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    kinds = {"Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"}
    return fields | {"Type": chance.choice(sorted(kinds - {fields["Type"]}))}


MUTATIONS = (
    with_flipped_bit,
    with_changed_character,
    with_moved_edge,
    with_slide,
    with_lost_key,
    with_other_type,
)


@pytest.mark.parametrize("version", ["1", "2"])
def test_of_2500_mutants_none_is_authentic(version: str) -> None:
    """And none raises anything but WebhookRejected."""
    bodies = list(mutants(version, 2500))

    assert len(bodies) > 2500
    assert [body for body in bodies if not rejected(body)] == []


@given(st.binary(max_size=300), st.integers(0, 3000), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_rejected_or_mean_the_same(patch: bytes, place: int, cut: int) -> None:
    """Bytes written over a real message: what is accepted still says what was signed."""
    original = encoded(GOOD)
    body = original[:place] + patch + original[place + cut :]

    assert rejected(body) or string_to_sign(json.loads(body)) == string_to_sign(GOOD)


def test_a_strangers_json_is_not_decoded_beyond_the_size_of_a_message() -> None:
    """Its objects would take thirty times the memory of its text."""
    body = b'{"a":[' + b"{}," * 400_000 + b"{}]}"
    with pytest.raises(WebhookRejected, match="larger than any"):
        open_envelope(body, {})


def test_the_kit_signs_as_sns_does() -> None:
    """What all tests build on is itself sound."""
    assert signed(dict(GOOD)) == GOOD
    check(encoded(GOOD))
    check(encoded(confirmation()))
    assert KEY.key_size == 2048
