"""The pages: a form that sends, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from flask_mailesp import MailESPError
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    InvalidAddressError,
    InvalidMessageError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)

from . import offline
from .extensions import mail
from .forms import find_errors, make_message, uploaded
from .history import history_of
from .providers import esp_key, is_set, name_of, provider_of
from .security import check_csrf

blueprint = Blueprint("pages", __name__)
blueprint.before_request(check_csrf)


@blueprint.get("/")
def index() -> str:
    """Show everything."""
    return page()


@blueprint.post("/send")
def send() -> AnyResponse | tuple[str, int]:
    """Send what was typed, and show what became of it."""
    file = uploaded("file")
    errors = find_errors(request.form, file)
    if errors:
        return page(letter=request.form, errors=errors), 422
    message = make_message(request.form, file)
    try:
        result = mail.send(message)
    except InvalidAddressError as error:
        return page(letter=request.form, errors={"to": str(error)}), 422
    except MailESPError as error:
        if error.result is not None:  # what is known about each recipient, all the same
            history_of(current_app).add_sent(message.subject, error.result)
        status = 422 if isinstance(error, InvalidMessageError) else 502
        return page(letter=request.form, problem=explain(error)), status
    sent = history_of(current_app).add_sent(message.subject, result)
    return redirect(url_for("pages.index", _anchor=f"message-{sent.number}"), 303)


@blueprint.get("/live")
def live() -> Response | str:
    """Return the lists if they have changed since version ``seen``; the page polls this."""
    snapshot = history_of(current_app).snapshot()
    if request.args.get("seen") == snapshot.version:
        return Response(status=204)
    return render_template("live.html", **context(), history=snapshot)


@blueprint.app_errorhandler(RequestEntityTooLarge)
def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    """Say it near the form. What was typed was not read, so it cannot be kept."""
    return page(problem="This is more than the form takes. Nothing was sent."), 413


@blueprint.app_errorhandler(HTTPException)
def http_error(error: HTTPException) -> tuple[str, int] | HTTPException:
    """Show errors such as 404 as a page, to people; the webhooks' senders get them plain."""
    if request.blueprint == "mailesp" or error.code is None:
        return error
    return render_template("error.html", **context(), error=error), error.code


def page(**extra: Any) -> str:
    """Render the page; ``letter``, ``note`` are what was typed into its two forms."""
    return render_template(
        "index.html", **context(), history=history_of(current_app).snapshot(), **extra
    )


def context() -> dict[str, Any]:
    """Return what every template needs to know about the provider."""
    config = current_app.config
    esp = esp_key(config)
    return {
        "esp": esp,
        "esp_name": name_of(config),
        "other_esp": "postal" if esp == "postmark" else "postmark",
        "simulator": offline.simulator_of(current_app),
        "webhooks": webhook_help(esp, config),
    }


def webhook_help(esp: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what the webhooks' URLs need, and which settings they still miss."""
    provider = provider_of(config)
    key = provider.key if provider else None
    basic = is_set(config, f"{esp.upper()}_WEBHOOK_SECRET") or is_set(config, "WEBHOOK_SECRET")
    signed = key is not None and is_set(config, key)
    needed = key or "MAILESP_WEBHOOK_SECRET"
    return {"basic": basic or key is None, "missing": None if basic or signed else needed}


def explain(error: MailESPError) -> str:
    """Tell a visitor, in one or two sentences, what is known about the message.

    The classes of errors are what to go by: each means something else for the message.
    """
    name = error.esp_name or "The provider"
    match error:
        case InvalidMessageError():
            return f"Nothing was sent. {error}"
        case AuthenticationError():
            return f"{name} did not accept this app's credential. Nothing was sent."
        case RecipientsRefusedError():
            return f"{name} refused every recipient, for the reasons shown below."
        case RateLimitedError():
            return f"{name} takes no more mail for now. Nothing was sent; try again later."
        case APIError():
            return f"{name} refused the message. Nothing was sent. {error.message}".strip()
        case NotSentError():
            return f"{name} could not be reached. Nothing was sent; it is safe to try again."
        case SendUncertainError():
            return (
                f"It is uncertain whether {name} took the message. It may still arrive; "
                "sending it again may deliver it twice."
            )
    return str(error)
