"""AWS Signature Version 4: the header that proves who sent a request. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import reduce
from hashlib import sha256
from urllib.parse import SplitResult, quote, urlsplit

from .esp import Body, HttpRequest, Secret
from .records import field, record, replace

ALGORITHM = "AWS4-HMAC-SHA256"

# What proxies and HTTP libraries add or change on the way.
_NOT_SIGNED = frozenset(
    {
        "baggage",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)
_WRITTEN_HERE = frozenset(
    {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"}
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@record(frozen=True)
class Credentials:
    """What a request is signed with. Temporary ones (``ASIA…``) have a ``session_token``."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def signed(
    request: HttpRequest, credentials: Credentials, *, service: str, region: str, now: datetime
) -> HttpRequest:
    """Return the request with the headers of a signature that AWS takes for some minutes.

    ``service`` is ``ses``, ``sns`` or ``s3``; every header of the request is signed, and its
    body as it stands. The Authorization header and the session token are `Secret`.
    """
    moment = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    content = body_hash(request.body)
    headers = _with_amazons(request.headers, credentials, moment)
    if service == "s3":
        headers["X-Amz-Content-Sha256"] = content
    url = urlsplit(request.url)
    canonical, names = canonical_request(request.method, url, headers, content, service)
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([ALGORITHM, moment, scope, sha256(canonical.encode()).hexdigest()])
    signature = _hmac(_key(credentials, scope), to_sign).hex()
    headers["Authorization"] = Secret(
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return replace(request, headers=headers)


def _with_amazons(
    given: Mapping[str, str], credentials: Credentials, moment: str
) -> dict[str, str]:
    headers = {name: value for name, value in given.items() if name.lower() not in _WRITTEN_HERE}
    headers["X-Amz-Date"] = moment
    if credentials.session_token:
        headers["X-Amz-Security-Token"] = Secret(credentials.session_token)
    return headers


def body_hash(body: bytes | Body) -> str:
    """Return a body's SHA-256 in lower-case hex, produced piece by piece."""
    digest = sha256()
    for piece in (body,) if isinstance(body, bytes) else body:
        digest.update(piece)
    return digest.hexdigest()


def canonical_request(
    method: str, url: SplitResult, headers: Mapping[str, str], content: str, service: str
) -> tuple[str, str]:
    """Return the text that stands for a request, and the names of the headers in it."""
    signed_headers = {"host": _host(url)} | {
        name.lower(): " ".join(value.split())
        for name, value in headers.items()
        if name.lower() not in _NOT_SIGNED
    }
    names = ";".join(sorted(signed_headers))
    lines = [f"{name}:{signed_headers[name]}" for name in sorted(signed_headers)]
    path = _path(url.path, service)
    query = _query(url.query)
    return "\n".join([method.upper(), path, query, *lines, "", names, content]), names


def _host(url: SplitResult) -> str:
    """Return the Host header that goes with a URL: without a scheme's own port."""
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = url.port
    return host if port in (None, _DEFAULT_PORTS.get(url.scheme)) else f"{host}:{port}"


def _path(path: str, service: str) -> str:
    """Return the path as it is signed; it is already encoded once.

    Amazon S3 takes it so. All other services encode it again, without dot segments and
    repeated slashes.
    """
    if service == "s3":
        return path or "/"
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    last = "/" if segments and path.endswith("/") else ""
    return quote(f"/{'/'.join(segments)}{last}", safe="/~")


def _query(query: str) -> str:
    """Return the parameters in order; they are already encoded."""
    pairs = (pair.partition("=") for pair in query.split("&")) if query else ()
    return "&".join(f"{name}={value}" for name, value in sorted((p[0], p[2]) for p in pairs))


def _key(credentials: Credentials, scope: str) -> bytes:
    """Derive the key for one day, region and service."""
    return reduce(_hmac, scope.split("/"), f"AWS4{credentials.secret_access_key}".encode())


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
