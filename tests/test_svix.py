"""Standard Webhooks: which signature counts, which secret, and which moment."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
import resend
from hypothesis import given
from hypothesis import strategies as st

from flask_mailesp import svix
from flask_mailesp.esp import Secret, WebhookRequest, veiled
from flask_mailesp.exceptions import ConfigurationError, WebhookRejected

SECRET = "whsec_Zmxhc2stbWFpbGVzcC10ZXN0LXNlY3JldC0zMmJ5dGU="
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes, yes!").decode()
ID, SECONDS = "msg_2example0001", "1772359872"
NOW = datetime(2026, 3, 1, 10, 11, 12, tzinfo=timezone.utc)
BODY = (
    b'{"type":"email.delivered","created_at":"2026-03-01T10:11:12.345Z",'
    b'"data":{"email_id":"0c9f6b1e-1111-4222-8333-abcdefabcdef"}}'
)
SIGNATURE = "v1,yUyUq4MNqCmhuhwL2S07hMaQ1dEiIUCdgMa3zdZ2cJQ="


class Headers:
    """The headers of a request, in any case."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = {name.lower(): value for name, value in headers.items()}

    def get(self, name: str, /) -> str | None:
        return self.headers.get(name.lower())


def request(
    signature: str | None = SIGNATURE,
    *,
    message_id: str | None = ID,
    seconds: str | None = SECONDS,
    body: bytes = BODY,
) -> WebhookRequest:
    """A webhook; what is None is not among its headers."""
    headers = {"svix-id": message_id, "svix-timestamp": seconds, "svix-signature": signature}
    given = {name: value for name, value in headers.items() if value is not None}
    return WebhookRequest(Headers(given), body)


def is_authentic(
    webhook: WebhookRequest, secrets: tuple[str, ...] = (SECRET,), now: datetime = NOW
) -> bool:
    try:
        svix.verify(webhook, secrets, now)
    except WebhookRejected:
        return False
    return True


# --- signatures ----------------------------------------------------------------------------


def test_the_vector() -> None:
    """Key, id, timestamp and body of 125 bytes make this very signature."""
    assert svix.key_of(SECRET) == b"flask-mailesp-test-secret-32byte"
    assert len(BODY) == 125
    assert svix.signature(SECRET, ID, SECONDS, BODY) == SIGNATURE
    assert is_authentic(request())


ACCEPTED = {
    "alone": SIGNATURE,
    "second": f"v1,AAAA {SIGNATURE}",
    "first": f"{SIGNATURE} v1,AAAA",
    "beside another version": f"v1a,{SIGNATURE[3:]} v2,x {SIGNATURE}",
    "beside a wrong one": f"v1,=! {SIGNATURE}",
}


@pytest.mark.parametrize("signature", ACCEPTED.values(), ids=ACCEPTED)
def test_any_entry_of_the_header_may_match(signature: str) -> None:
    """While a secret is rotated, both sign."""
    assert is_authentic(request(signature))


REJECTED = {
    "missing": None,
    "empty": "",
    "without a version": SIGNATURE[3:],
    "of another version": "v2" + SIGNATURE[2:],
    "of an asymmetric version": "v1a" + SIGNATURE[2:],
    "upper-case version": "V1" + SIGNATURE[2:],
    "separated by a comma": f"{SIGNATURE},{SIGNATURE}",
    "separated by two spaces": f"v1,AAAA  {SIGNATURE}",
    "behind what is no entry": f"Bearer {SIGNATURE}",
    "separated by a tab": f"v1,AAAA\t{SIGNATURE}",
    "without padding": SIGNATURE[:-1],
    "padded more": SIGNATURE + "=",
    "with other unused bits": SIGNATURE[:-2] + "R=",
    "url-safe": SIGNATURE.replace("/", "_").replace("+", "-")[:-1] + "-",
    "hexadecimal": "v1," + base64.b64decode(SIGNATURE[3:]).hex(),
    "cut": SIGNATURE[:20],
    "not ASCII": SIGNATURE[:-1] + "＝",
    "a lone surrogate": "v1,\ud800",
    "of an empty key": svix.signature("whsec_", ID, SECONDS, BODY),
    "of the secret's text as key": svix.signature(
        "whsec_" + base64.b64encode(SECRET.encode()).decode(), ID, SECONDS, BODY
    ),
    "after too many": "v1,AAAA " * 20 + SIGNATURE,
}


@pytest.mark.parametrize("signature", REJECTED.values(), ids=REJECTED)
def test_nothing_else_is_a_signature(signature: str | None) -> None:
    """Of a signature there is one spelling, although base64 decoders take more."""
    assert not is_authentic(request(signature))


@pytest.mark.parametrize(
    "message_id",
    [None, "", "msg_2example0002", ID.upper(), f"{ID},{ID}", f" {ID}", "é", "\ud800", "x" * 256],
)
def test_the_id_is_signed(message_id: str | None) -> None:
    """A replay under another id would be another event."""
    assert not is_authentic(request(message_id=message_id))


@pytest.mark.parametrize(
    "seconds",
    [
        None,
        "",
        "1772359873",
        "01772359872",
        "+1772359872",
        " 1772359872",
        "1772359872.0",
        "1772359872\n",
        "1_772_359_872",
        "１７７２３５９８７２",
        "-1772359872",
        "1e9",
        "9" * 5000,
        "soon",
        "\ud800",
    ],
)
def test_the_timestamp_is_ten_digits_and_signed(seconds: str | None) -> None:
    """What Python's int() would take is not enough."""
    assert not is_authentic(request(seconds=seconds))


def signed(message_id: str, seconds: str, body: bytes) -> WebhookRequest:
    signature = svix.signature(SECRET, message_id, seconds, body)
    return request(signature, message_id=message_id, seconds=seconds, body=body)


def test_nothing_slides_between_id_timestamp_and_body() -> None:
    """The same bytes are signed if an id ends where the timestamp began: it must not have a dot."""
    body = b'1772359872.{"type":"email.bounced"}'
    first = signed("msg_1", SECONDS, body)
    slid = request(
        first.headers.get("svix-signature"),
        message_id=f"msg_1.{SECONDS}",
        seconds="1772359872",
        body=b'{"type":"email.bounced"}',
    )
    assert is_authentic(first)
    assert not is_authentic(slid)


@pytest.mark.parametrize(("off", "accepted"), [(0, 1), (300, 1), (-300, 1), (301, 0), (-301, 0)])
def test_the_moment_is_within_five_minutes_of_now(off: int, accepted: int) -> None:
    """Of the past, against replays; of the future, against signatures kept for later."""
    assert is_authentic(request(), now=NOW + timedelta(seconds=off)) == bool(accepted)


def test_every_secret_of_a_list_counts() -> None:
    """The old one and the new one."""
    assert is_authentic(request(), (OTHER, SECRET))
    assert is_authentic(request(), (SECRET, OTHER))
    assert not is_authentic(request(), (OTHER,))
    assert not is_authentic(request(), ())


def test_the_specifications_own_header_names_can_be_asked_for() -> None:
    headers = {"webhook-id": ID, "webhook-timestamp": SECONDS, "webhook-signature": SIGNATURE}
    webhook = WebhookRequest(Headers(headers), BODY)

    svix.verify(webhook, (SECRET,), NOW, prefix="webhook")
    assert not is_authentic(webhook)


# --- mutations -----------------------------------------------------------------------------


def flipped(data: bytes, chance: random.Random) -> bytes:
    position, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
    return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


def without_a_part(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + 1 + chance.randrange(4) :]


def with_a_part_twice(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[: start + 1] + data[start:]


MUTATORS: list[Callable[[bytes, random.Random], bytes]] = [
    flipped,
    without_a_part,
    with_a_part_twice,
]
PARTS = [ID.encode(), SECONDS.encode(), SIGNATURE.encode(), BODY]


def mutants(count: int) -> Iterator[WebhookRequest]:
    """Webhooks of which one of id, timestamp, signature and body is a little wrong."""
    chance = random.Random(20260301)
    for number in range(count):
        parts = list(PARTS)
        which = number % 4
        parts[which] = MUTATORS[number // 4 % 3](parts[which], chance)
        message_id, seconds, signature = (part.decode("latin-1") for part in parts[:3])
        yield request(signature, message_id=message_id, seconds=seconds, body=parts[3])


def test_of_4000_mutants_none_is_authentic() -> None:
    """Bits flipped, characters lost or doubled, digits slid: rejected, never an exception."""
    tried = list(mutants(4000))
    assert not any(map(is_authentic, tried))
    assert is_authentic(request())


@given(st.text(), st.text(), st.text(), st.binary())
def test_any_headers_are_rejected_quietly(one: str, two: str, three: str, body: bytes) -> None:
    """WebhookRejected is all that can be raised."""
    for webhook in (
        request(three, message_id=one, seconds=two, body=body),
        request(three, body=body),
        request("v1," + three, message_id=one),
    ):
        assert not is_authentic(webhook)


# --- secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [SECRET, [SECRET], f" {SECRET}\n", [f"{SECRET} "]])
def test_a_setting_is_a_secret_or_a_list(value: object) -> None:
    assert svix.secrets("X", value) == (SECRET,)
    assert svix.secrets("X", [SECRET, OTHER]) == (SECRET, OTHER)


def test_secrets_stay_hidden() -> None:
    """As the configuration wraps them, so they stay."""
    found = svix.secrets("X", veiled([f" {SECRET} ", OTHER]))

    assert found == (SECRET, OTHER)
    assert all(isinstance(item, Secret) for item in found)
    assert "whsec" not in repr(found)


@pytest.mark.parametrize(
    "value",
    [
        "",
        [],
        None,
        7,
        SECRET.encode(),
        "re_123456789",
        SECRET.removeprefix("whsec_"),
        SECRET[:-1],
        SECRET[:20],
        "whsec_",
        "whsec_!" + SECRET[7:],
        SECRET + "é",
        [SECRET, ""],
        [SECRET, None],
        {"secret": SECRET},
    ],
)
def test_what_is_no_secret_is_told_by_the_settings_name(value: object) -> None:
    """An API key in the wrong place, a secret cut by copying; without showing it."""
    with pytest.raises(ConfigurationError, match=r"^MAILESP_X_SECRET must be a signing") as error:
        svix.secrets("MAILESP_X_SECRET", value)
    assert "Zmxhc2st" not in str(error.value)


# --- the official library ------------------------------------------------------------------


def official(headers: resend.WebhookHeaders, body: bytes) -> None:
    resend.Webhooks.verify({"payload": body.decode(), "headers": headers, "webhook_secret": SECRET})


def test_the_official_library_takes_what_is_signed_here() -> None:
    """Resend's own check agrees, and rejects what is rejected here."""
    seconds = str(int(datetime.now(timezone.utc).timestamp()))
    signature = svix.signature(SECRET, ID, seconds, BODY)
    official({"id": ID, "timestamp": seconds, "signature": signature}, BODY)

    with pytest.raises(ValueError, match="signature"):
        official({"id": ID, "timestamp": seconds, "signature": SIGNATURE}, BODY)
