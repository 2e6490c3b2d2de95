"""What goes over Amazon's wire: signatures, errors, and the rules of a message.

Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html,
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html, /CommonErrors.html,
https://docs.aws.amazon.com/ses/latest/dg/header-fields.html and /quotas.html. Where Amazon
documents a rule but not the text of its error, the text here is our own and only the code can
be relied on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

from .mime import Mail, bare
from .records import Attached

ESP = "amazon_ses"
MAX_RECIPIENTS = 50
MAX_HEADERS = 15
MAX_MESSAGE = 40 * 1024 * 1024
MAX_DATA = 262_144
SKEW = timedelta(minutes=5)

ADDRESS = re.compile(r"[!-~]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
PRINTABLE = re.compile(r"[ -~]*")
TAG = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/([^/,]+)/aws4_request, *"
    r"SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})"
)

# Of these a message has one at most; names that begin with X- may repeat.
ONCE = frozenset(
    {
        "accept-language",
        "auto-submitted",
        "bcc",
        "cc",
        "comments",
        "content-disposition",
        "content-id",
        "content-type",
        "content-transfer-encoding",
        "date",
        "delivered-to",
        "disposition-notification-to",
        "errors-to",
        "from",
        "importance",
        "in-reply-to",
        "keywords",
        "list-archive",
        "list-help",
        "list-id",
        "list-owner",
        "list-post",
        "list-subscribe",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "message-id",
        "mime-version",
        "organization",
        "precedence",
        "priority",
        "references",
        "reply-to",
        "return-path",
        "return-receipt-to",
        "sender",
        "sensitivity",
        "subject",
        "thread-index",
        "thread-topic",
        "to",
        "user-agent",
    }
)
# What is written by Amazon SES itself where it is not given a whole mail.
OWN = frozenset(
    {
        "bcc",
        "cc",
        "content-disposition",
        "content-type",
        "date",
        "from",
        "message-id",
        "mime-version",
        "reply-to",
        "return-path",
        "subject",
        "to",
    }
)


class ApiError(Exception):
    """What is refused: the HTTP status, the code, and what is said."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.body = {"__type": code, "message": message}


def bad(message: str) -> ApiError:
    """The error for what is wrong with a request."""
    return ApiError(400, "BadRequestException", message)


# -- requests and answers -----------------------------------------------------------------


def read_json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "SerializationException", "The body is no JSON object.")
    return body


def answer(body: Any, number: str, status: int = 200) -> Response:
    """A JSON answer with the id of the exchange."""
    response = Response(json.dumps(body), status, mimetype="application/json")
    response.headers["x-amzn-RequestId"] = number
    return response


def refusal(error: ApiError, number: str) -> Response:
    """An error as the JSON services tell it: its code is in a header, too."""
    response = answer({"message": error.message}, number, error.status)
    response.headers["x-amzn-ErrorType"] = f"{error.code}:http://internal.amazon.com/coral/"
    return response


def xml(inner: str, number: str, action: str) -> Response:
    """An answer as Amazon SNS words it."""
    text = (
        f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<{action}Result>{inner}</{action}Result>"
        f"<ResponseMetadata><RequestId>{number}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Response(text, mimetype="text/xml")


def xml_refusal(error: ApiError, number: str) -> Response:
    """An error as Amazon SNS words it."""
    text = (
        "<ErrorResponse><Error><Type>Sender</Type>"
        f"<Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{number}</RequestId></ErrorResponse>"
    )
    return Response(text, error.status, mimetype="text/xml")


def s3_refusal(error: ApiError, number: str) -> Response:
    """An error as Amazon S3 words it."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        f"<RequestId>{number}</RequestId></Error>"
    )
    return Response(text, error.status, mimetype="application/xml")


# -- signatures ---------------------------------------------------------------------------


def authenticate(request: Request, service: str, region: str, keys: Mapping[str, str]) -> None:
    """Check Signature Version 4. Raises ApiError."""
    given = request.headers.get("Authorization")
    if given is None:
        raise denied("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = AUTHORIZATION.fullmatch(given)
    if match is None:
        raise denied("IncompleteSignatureException", "The Authorization header is malformed.")
    key_id, day, in_region, for_service, names, signature = match.groups()
    if key_id not in keys:
        text = "The security token included in the request is invalid."
        raise denied("UnrecognizedClientException", text)
    if (in_region, for_service) != (region, service):
        text = f"Credential should be scoped to {region} and {service}."
        raise denied("InvalidSignatureException", text)
    moment = signed_at(request, day)
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical(request, names, service).encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    expected = hmac.new(signing_key(keys[key_id], scope), to_sign.encode(), "sha256").hexdigest()
    if not hmac.compare_digest(expected, signature):
        text = "The request signature we calculated does not match the signature you provided."
        raise denied("InvalidSignatureException", text)


def denied(code: str, message: str) -> ApiError:
    return ApiError(403, code, message)


def signed_at(request: Request, day: str) -> str:
    """The time of the signature, within five minutes of now."""
    text = request.headers.get("X-Amz-Date", "")
    try:
        moment = datetime.strptime(f"{text}+0000", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        raise denied("IncompleteSignatureException", "X-Amz-Date is missing.") from None
    if text[:8] != day or abs(moment - datetime.now(timezone.utc)) > SKEW:
        raise denied("InvalidSignatureException", "Signature expired, or not yet current.")
    return text


def canonical(request: Request, names: str, service: str) -> str:
    """The request as it must have been signed."""
    signed = names.split(";")
    if signed != sorted(set(signed)) or not {"host", "x-amz-date"} <= set(signed):
        raise denied("InvalidSignatureException", "'Host' and 'X-Amz-Date' must be signed, sorted.")
    lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed]
    path = quote(f"{request.root_path}{request.path}".encode(), safe="/-_.~")
    if service != "s3":
        path = quote(path, safe="/-_.~")
    query = "&".join(sorted(request.query_string.decode("latin-1").split("&")))
    content = hashlib.sha256(request.get_data()).hexdigest()
    if service == "s3" and request.headers.get("X-Amz-Content-Sha256") != content:
        raise denied("XAmzContentSHA256Mismatch", "x-amz-content-sha256 does not fit the body.")
    return "\n".join([request.method, path, query, *lines, "", names, content])


def signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key


# -- what a message may be ----------------------------------------------------------------


def as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def destination(body: Any) -> tuple[list[str], list[str], list[str]]:
    """To, Cc and Bcc of a Destination."""
    given = as_object(body)
    lists = []
    for name in ("ToAddresses", "CcAddresses", "BccAddresses"):
        value = given.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ApiError(400, "SerializationException", f"{name} must be a list of strings.")
        lists.append(value)
    check_addresses([item for items in lists for item in items])
    return lists[0], lists[1], lists[2]


def check_addresses(items: list[str]) -> None:
    for item in items:
        if not ADDRESS.fullmatch(bare(item)) or not item.isascii():
            raise bad("Local address contains control or whitespace, or is not ASCII.")
    if len(items) > MAX_RECIPIENTS:
        raise bad(f"Recipient count exceeds {MAX_RECIPIENTS}.")


def decoded(value: Any) -> bytes:
    """A blob of the API's JSON."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ApiError(400, "SerializationException", "A blob is not base64.") from None


def check_source(mail: Mail) -> None:
    if len(mail.raw) * 4 // 3 > MAX_MESSAGE:
        raise ApiError(413, "RequestEntityTooLargeException", "The message is too long.")
    names = Counter(name.lower() for name, _ in mail.headers())
    for name, count in names.items():
        if count > 1 and name in ONCE:
            raise bad(f"Duplicate header '{name}'.")


def message_tags(value: Any) -> list[tuple[str, str]]:
    """EmailTags, checked."""
    items = map(as_object, as_list(value))
    pairs = [(item.get("Name"), item.get("Value")) for item in items]
    for pair in pairs:
        if not all(isinstance(text, str) and TAG.fullmatch(text) for text in pair):
            raise bad("Tag names and values have at most 256 of the characters A-Z a-z 0-9 _ -.")
    return [(str(name), str(text)) for name, text in pairs]


def message_headers(value: Any) -> list[tuple[str, str]]:
    """The Headers of a simple message, template or entry, checked."""
    pairs: list[tuple[str, str]] = []
    for item in map(as_object, as_list(value)):
        name, text = item.get("Name"), item.get("Value")
        if not isinstance(name, str) or not isinstance(text, str):
            raise ApiError(400, "SerializationException", "A header is a Name and a Value.")
        if name.lower() in OWN or not re.fullmatch(r"[!-9;-~]{1,126}", name):
            raise bad(f"The header {name!r} is not allowed.")
        if len(text) > 995 or not PRINTABLE.fullmatch(text):
            raise bad(f"The header {name!r} has more than 995 characters, or others than ASCII.")
        pairs.append((name, text))
    if len(pairs) > MAX_HEADERS:
        raise bad(f"There can be at most {MAX_HEADERS} headers.")
    return pairs


def attached(value: Any) -> list[Attached]:
    """The Attachments of a simple message or template."""
    return [
        Attached(
            str(item.get("FileName") or ""),
            str(item.get("ContentType") or "application/octet-stream"),
            decoded(item.get("RawContent")),
            item.get("ContentId") if item.get("ContentDisposition") == "INLINE" else None,
        )
        for item in map(as_object, as_list(value))
    ]


def template_data(value: Any) -> dict[str, Any]:
    """A template's data: JSON in a string."""
    try:
        data = json.loads(value) if isinstance(value, str) and len(value) <= MAX_DATA else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise bad("The template data is invalid.")
    return data


def tracking(body: Mapping[str, Any], name: str) -> bool | None:
    """A switch of ConfigurationOverrides."""
    value = as_object(as_object(body.get("ConfigurationOverrides")).get("Tracking")).get(name)
    if value is not None and str(value) not in ("ENABLED", "DISABLED"):
        raise bad(f"{name} is ENABLED or DISABLED.")
    return None if value is None else value == "ENABLED"


def metadata_of(headers: list[tuple[str, str]]) -> dict[str, str]:
    """What an app keeps in a header of its own, as text."""
    text = next((value for name, value in headers if name.lower() == "x-metadata"), "{}")
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    items = found.items() if isinstance(found, dict) else ()
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in items}


def tags_of(headers: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in headers if name.lower() == "x-tag"]
