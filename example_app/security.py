"""What any page with a form needs: a token against forged posts, and strict headers."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, Response, abort, request, session

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)


def protect(app: Flask) -> None:
    """Add the headers to every answer, and ``csrf_token()`` to the templates."""
    app.after_request(_add_headers)
    app.jinja_env.globals["csrf_token"] = csrf_token


def csrf_token() -> str:
    """Return this visitor's token; every form posts it back."""
    token: str = session.setdefault("csrf", secrets.token_urlsafe(32))
    return token


def check_csrf() -> None:
    """Refuse a post without the visitor's token. For ``before_request`` of our blueprints.

    The webhooks are not ours to check: they prove themselves by credentials or a signature.
    """
    if request.method != "POST":
        return
    expected, given = session.get("csrf", ""), request.form.get("csrf", "")
    if not expected or not hmac.compare_digest(expected.encode(), given.encode()):
        abort(400, "This form is out of date. Load the page again and repeat it.")


def _add_headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if response.mimetype == "text/html":
        response.headers["Cache-Control"] = "no-store"
    return response
