"""AWS Signature Version 4: published steps, known answers, and the same as botocore."""

from __future__ import annotations

import pickle
import random
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials as TheirCredentials  # type: ignore[import-untyped]

from flask_mailesp.esp import HttpRequest, Secret
from flask_mailesp.sigv4 import Credentials, signed
from flask_mailesp.wire import Base64, json_body

LONG_LIVED = Credentials("AKIDEXAMPLE0000000001", "ExampleSecretKeyForTestsOnly+/0123456789")
TEMPORARY = Credentials(
    "AKIDEXAMPLE0000000001",
    "ExampleSecretKeyForTestsOnly+/0123456789",
    "FQoExampleSessionToken//==",
)
AT = datetime(2026, 3, 1, 10, 11, 12, tzinfo=timezone.utc)
EMAIL = "https://email.eu-west-1.amazonaws.com"
SEND = HttpRequest(
    "POST",
    f"{EMAIL}/v2/email/outbound-emails",
    {"Content-Type": "application/json"},
    b'{"Content":{"Raw":{"Data":"U3ViamVjdDogaGkNCg0KaGkNCg=="}}}',
)
ACCOUNT = HttpRequest("GET", f"{EMAIL}/v2/email/account")
CONFIRM = HttpRequest(
    "POST",
    "https://sns.eu-west-1.amazonaws.com/",
    {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    b"Action=ConfirmSubscription&AuthenticateOnUnsubscribe=true&Token=2336412f37example"
    b"&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Ases-events&Version=2010-03-31",
)
OBJECT = HttpRequest("GET", "https://example-mail.s3.eu-west-1.amazonaws.com/in%20bound/abc%2B1")

VECTORS = [
    pytest.param(
        SEND,
        LONG_LIVED,
        "ses",
        "content-type;host;x-amz-date",
        "e3bdb9cb7973f58e341a4ea7b0eb5746b6d9a1f2d54c7c8811b0643dcaba9439",
        id="SendEmail",
    ),
    pytest.param(
        SEND,
        TEMPORARY,
        "ses",
        "content-type;host;x-amz-date;x-amz-security-token",
        "aed6c34f13c5972623ff4b2f3997982b0d3a18522dd4c13c7ad2b7e4c9e25968",
        id="SendEmail with a session token",
    ),
    pytest.param(
        ACCOUNT,
        LONG_LIVED,
        "ses",
        "host;x-amz-date",
        "6dac5e5f2d994890fc542f87aa370aaab8ae36e699c915916b019124ad3719d4",
        id="GetAccount",
    ),
    pytest.param(
        CONFIRM,
        LONG_LIVED,
        "sns",
        "content-type;host;x-amz-date",
        "783e27cb6400b4496bd7e039dc538ee83bf164062686d17df01364cea02c2ef7",
        id="ConfirmSubscription",
    ),
    pytest.param(
        OBJECT,
        LONG_LIVED,
        "s3",
        "host;x-amz-content-sha256;x-amz-date",
        "4770ec2ca89afb10631a2e2359226c298c49d5f65a8982614e7f979c444705c3",
        id="GetObject",
    ),
]


@pytest.mark.parametrize(("request_", "credentials", "service", "names", "signature"), VECTORS)
def test_known_answers(
    request_: HttpRequest, credentials: Credentials, service: str, names: str, signature: str
) -> None:
    """One request of each kind that the package makes."""
    found = signed(request_, credentials, service=service, region="eu-west-1", now=AT)

    assert found.headers["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE0000000001/20260301/eu-west-1/{service}/"
        f"aws4_request, SignedHeaders={names}, Signature={signature}"
    )
    assert found.headers["X-Amz-Date"] == "20260301T101112Z"
    assert (found.method, found.url, found.body) == (request_.method, request_.url, request_.body)


def test_the_time_is_told_in_utc() -> None:
    """Whatever zone the clock is in."""
    elsewhere = AT.astimezone(timezone(timedelta(hours=9)))

    assert authorization(SEND, now=elsewhere) == authorization(SEND)


def authorization(request: HttpRequest, now: datetime = AT) -> str:
    return signed(request, LONG_LIVED, service="ses", region="eu-west-1", now=now).headers[
        "Authorization"
    ]


def test_a_body_in_pieces_is_signed_like_one_in_one_piece() -> None:
    """An attachment is encoded once for the signature and once while it is sent."""
    body = json_body({"Data": Base64(bytes(range(256)) * 1000)})
    assert not isinstance(body, bytes)
    whole = HttpRequest("POST", SEND.url, SEND.headers, b"".join(body))
    pieces = HttpRequest("POST", SEND.url, SEND.headers, body)

    assert authorization(pieces) == authorization(whole)


def test_the_root_may_lack_its_slash() -> None:
    """It is the same request."""
    found = [
        signed(HttpRequest("GET", url), LONG_LIVED, service="s3", region="eu-west-1", now=AT)
        for url in ("https://s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com/")
    ]

    assert found[0].headers == found[1].headers


def test_signing_again_replaces_the_signature() -> None:
    """What was signed a while ago can be signed anew."""
    once = signed(SEND, TEMPORARY, service="ses", region="eu-west-1", now=AT)
    later = AT + timedelta(hours=1)
    again = signed(once, TEMPORARY, service="ses", region="eu-west-1", now=later)

    assert again.headers == (
        signed(SEND, TEMPORARY, service="ses", region="eu-west-1", now=later).headers
    )


def test_nothing_shows_what_was_signed_with() -> None:
    """Not the credentials, and not the headers that hold the signature and the token."""
    found = signed(SEND, TEMPORARY, service="ses", region="eu-west-1", now=AT)

    assert repr(TEMPORARY) == "Credentials()"
    assert isinstance(found.headers["Authorization"], Secret)
    assert isinstance(found.headers["X-Amz-Security-Token"], Secret)
    assert "Example" not in repr(found.headers)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(found)


# --- the same as botocore ------------------------------------------------------------------

PATHS = "abcXYZ019-_.~ +%/&=:@!$'()*,;ü☃"
VALUES = "abcXYZ019-_.~+/&=:@!$'()*,;\"<>?#[]{}|^`\\ "
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")
HOSTS = (
    "email.eu-west-1.amazonaws.com",
    "email.us-gov-west-1.amazonaws.com",
    "Example-Mail.S3.eu-west-1.amazonaws.com",
    "email.eu-west-1.amazonaws.com:443",
    "127.0.0.1:8025",
    "[::1]:8025",
)


def some(chance: random.Random, alphabet: str, most: int) -> str:
    return "".join(chance.choices(alphabet, k=chance.randrange(most)))


def random_request(chance: random.Random) -> HttpRequest:
    """Any request at all: odd paths, repeated parameters, values with blanks."""
    path = "/".join(
        chance.choice([quote(some(chance, PATHS, 12)), "", ".", "..", "v2"])
        for _ in range(chance.randrange(6))
    )
    query = "&".join(
        chance.choice(["{}={}", "{}"]).format(
            quote(some(chance, PATHS, 4)), quote(some(chance, PATHS, 6))
        )
        for _ in range(chance.choice([0, 0, 1, 4]))
    )
    headers = {f"X-Own-{number}": some(chance, VALUES, 20) for number in range(chance.randrange(4))}
    headers |= chance.choice(
        [{}, {"Content-Type": "application/json"}, {"content-type": "text/plain;  charset=utf-8"}]
    )
    headers |= chance.choice([{}, {"User-Agent": "x"}, {"Expect": "100-continue"}])
    scheme = chance.choice(["https", "https", "http"])
    url = f"{scheme}://{chance.choice(HOSTS)}/{path}" + (f"?{query}" if query else "")
    return HttpRequest(chance.choice(METHODS), url, headers, chance.randbytes(chance.randrange(99)))


def random_credentials(chance: random.Random) -> Credentials:
    key = "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=20))
    secret = some(chance, VALUES.strip(), 60) + "x"
    return Credentials(key, secret, chance.choice([None, "FQoToken//" + some(chance, "abc/+=", 9)]))


def by_botocore(
    request: HttpRequest, credentials: Credentials, service: str, region: str
) -> dict[str, str]:
    """The headers that botocore makes, at whatever time it is."""
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    theirs = AWSRequest(
        method=request.method, url=request.url, headers=dict(request.headers), data=request.body
    )
    parts = credentials.access_key_id, credentials.secret_access_key, credentials.session_token
    signer(TheirCredentials(*parts), service, region).add_auth(theirs)
    return {name.lower(): value for name, value in theirs.headers.items()}


def test_500_random_requests_are_signed_as_botocore_signs_them() -> None:
    """The reference implementation, which tells the time itself."""
    chance = random.Random(20260301)
    for _ in range(500):
        request, credentials = random_request(chance), random_credentials(chance)
        service = chance.choice(["ses", "sns", "s3"])
        region = chance.choice(["eu-west-1", "us-gov-east-1", "cn-north-1"])
        theirs = by_botocore(request, credentials, service, region)
        now = datetime.strptime(theirs["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)

        ours = signed(request, credentials, service=service, region=region, now=now)

        assert {name.lower(): value for name, value in ours.headers.items()} == theirs
