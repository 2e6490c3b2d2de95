"""Posting a webhook the way the provider's own HTTP client does."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit, urlunsplit

import requests

from .records import Delivery, Post


def post(request: Post) -> Delivery:
    """Make one attempt and record what came of it. Never raises for the network."""
    url, authorization = split_credentials(request.url, decode=request.decode_userinfo)
    headers = request.headers | authorization
    try:
        with requests.Session() as session:
            session.trust_env = False  # neither proxies nor .netrc
            answer = session.post(
                url,
                data=request.body,
                headers=headers,
                timeout=request.timeout,
                allow_redirects=request.follow_redirects,
            )
    except requests.RequestException as error:
        return Delivery(url, request.body, headers, None, b"", f"{type(error).__name__}: {error}")
    return Delivery(url, request.body, headers, answer.status_code, answer.content)


def split_credentials(url: str, *, decode: bool = True) -> tuple[str, dict[str, str]]:
    """Take ``user:password@`` out of a URL and turn it into the Basic header (RFC 7617).

    Postal sends the two as they are written in the URL; ``decode`` undoes percent-encoding.
    """
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    credentials = unquote(userinfo) if decode else userinfo
    token = base64.b64encode(credentials.encode()).decode("ascii")
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {token}"}
