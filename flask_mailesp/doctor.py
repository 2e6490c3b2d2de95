"""What stands between an app and its mail, examined without sending or receiving any.

Nothing is left behind: the ESPs are only asked, and the webhook routes are called within
this process with a stand-in behind them, so that no receiver of the app hears of it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.test import Client

from . import signals
from .config import is_loopback, names_of
from .console import Finding, Kind, Verdict, console_of, converse
from .delivery import Mailer
from .esp import Esp, HttpRequest, HttpResponse, Settings, Webhook, WebhookRequest
from .exceptions import ConfigurationError, MailESPError, NotSentError, WebhookRejected
from .extension import State
from .registry import all_esps
from .views import WebhookLog
from .webhooks_admin import configured_esps, hook_path, kinds_of, mailers_to_ask, secret_of

SHORT_PASSWORD = 16  # characters
LARGE_FORM = b"m=" + b"x" * 1024 * 1024  # more than Flask reads of a form unless told otherwise
EXAMPLES = frozenset({"a-long-random-password", "s3cret-password", "test-password"})
Hooks = Sequence[tuple[Esp, Settings]]
_FORM = "application/x-www-form-urlencoded"
_EXEMPT = 'Exempt the blueprint "mailesp" from it.'


def examine(
    app: Flask, state: State, url: str | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Yield what is found, check by check. ``url`` is the app's public address, if known."""
    yield Finding("configuration", Verdict.OK, _mailers(state))
    broken = list(unusable_settings(state))
    yield from broken
    yield from unread_variables(app, environ)
    yield from unknown_keys(app)
    hooks = configured_esps(state, without={finding.subject for finding in broken})
    yield from insecure_settings(state, hooks)
    yield from strategies(state)
    for mailer in mailers_to_ask(state):
        yield from credentials(mailer)
    yield from webhooks(app, state, hooks, url)
    if url is not None:
        yield from public(state, hooks, url)


def _mailers(state: State) -> str:
    named = (
        f"{name} ({mailer.strategy or mailer.esp.name})" for name, mailer in state.mailers.items()
    )
    return f"It is complete. Mailers: {', '.join(named)}."


# --- settings --------------------------------------------------------------------------


def unusable_settings(state: State) -> Iterator[Finding]:
    """Find settings of ESPs that only receive: ``init_app`` has not looked at them."""
    for esp in all_esps():
        try:
            state.hook(esp.key)
        except ConfigurationError as error:
            yield Finding("configuration", Verdict.FAILED, str(error), esp.name)


def unread_variables(app: Flask, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Find settings in the environment that never came into ``app.config``."""
    for variable in environ:
        name = variable.removeprefix("FLASK_").partition("__")[0]
        if name.startswith("MAILESP_") and name not in app.config:
            text = (
                f"{variable} is set in the environment, but the app does not read it: call "
                "app.config.from_prefixed_env(), which reads FLASK_MAILESP_..., before "
                "init_app()."
            )
            yield Finding("configuration", Verdict.WARNING, text)


def unknown_keys(app: Flask) -> Iterator[Finding]:
    """Find keys without the prefix that look like a misspelt credential or URL.

    With the prefix they have been refused by ``init_app``.
    """
    for esp in all_esps():
        prefix = f"{esp.key.upper()}_"
        read = {prefix + setting.name for setting in esp.settings if setting.bare}
        for key in map(str, app.config):
            text = _meant(key, read, names_of(esp)) if key.startswith(prefix) else None
            if text and key not in read:
                yield Finding("configuration", Verdict.WARNING, f"{key} is not read. {text}")


def _meant(key: str, read: set[str], known: set[str]) -> str | None:
    if key in known:
        return f"It needs the prefix: MAILESP_{key}."
    near = get_close_matches(key, read, 1, 0.75)
    return f"Did you mean {near[0]}?" if near else None


def insecure_settings(state: State, hooks: Hooks) -> Iterator[Finding]:
    """Find settings that are fit for development only."""
    found = [
        *_insecure_general(state),
        *(text for mailer in state.mailers.values() for text in _insecure_url(mailer)),
        *(text for hook in hooks for text in _weak_secrets(*hook)),
    ]
    for text in dict.fromkeys(found):
        yield Finding("settings", Verdict.WARNING, text)
    if not found:
        yield Finding("settings", Verdict.OK, "None is insecure.")


def strategies(state: State) -> Iterator[Finding]:
    """Find strategies that do not help: members that fail together, or nobody to go to."""
    for name, mailer in state.mailers.items():
        if mailer.strategy is not None:
            members = [member.mailer for member in mailer.strategy.members]
            same = _same_credential(members)
            if same:
                text = f"{same} use one credential: what ails one of them ails the other."
            elif len(members) == 1:
                text = f"It has no member but {members[0].name}: there is none to move on to."
            else:
                text = f"{mailer.strategy}: each has a credential of its own."
            verdict = Verdict.WARNING if same or len(members) == 1 else Verdict.OK
            yield Finding("strategies", verdict, text, f"mailer {name}")


def _same_credential(mailers: Sequence[Mailer]) -> str:
    """Return the names of two mailers with the same ESP, address and credential, if any."""
    seen: dict[tuple[object, ...], str] = {}
    for mailer in mailers:
        key = (mailer.esp.key, mailer.settings.get("API_URL"), mailer.settings.secrets())
        other = seen.setdefault(key, mailer.name)
        if other != mailer.name:
            return f"{other} and {mailer.name}"
    return ""


def _insecure_general(state: State) -> Iterator[str]:
    if state.general.allow_insecure_webhooks:
        yield (
            "MAILESP_WEBHOOK_ALLOW_INSECURE is on: in debug and testing, webhooks need no "
            "credentials. Remove it."
        )
    if state.general.tls_verify is False:
        yield "MAILESP_TLS_VERIFY is off: anybody on the way can read the credential. Remove it."


def _insecure_url(mailer: Mailer) -> Iterator[str]:
    parts = urlsplit(mailer.settings.get("API_URL") or "")
    key = f"MAILESP_{mailer.esp.key.upper()}_API_URL"
    if parts.hostname and is_loopback(parts.hostname):
        yield f"{key} is on this machine: what it accepts is not sent, unless it is a tunnel."
    elif parts.scheme == "http":
        yield f"{key} begins with http://: the credential crosses the network in the clear."


def _weak_secrets(esp: Esp, settings: Settings) -> Iterator[str]:
    for secret in settings.get("WEBHOOK_SECRET") or ():
        password = secret.decode("utf-8", "replace").partition(":")[2]
        if len(password) < SHORT_PASSWORD or password in EXAMPLES:
            yield (
                "A password in MAILESP_WEBHOOK_SECRET is easily guessed. Make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(24))'`."
            )


# --- the ESP ---------------------------------------------------------------------------


def credentials(mailer: Mailer) -> Iterator[Finding]:
    """Ask the ESP something that changes nothing."""
    subject = f"{mailer.esp.name}, mailer {mailer.name}"
    console = console_of(mailer.esp)
    if console is None:
        text = f"Nothing is known of a call to {mailer.esp.name} that changes nothing."
        yield Finding("credentials", Verdict.CANNOT_TELL, text, subject)
        return
    try:
        found = converse(mailer.transport, console.check(mailer.settings))
    except MailESPError as error:
        reached = not isinstance(error, NotSentError)
        verdict = Verdict.CANNOT_TELL if reached else Verdict.FAILED
        yield Finding("credentials", verdict, str(error), subject)
        return
    yield from (replace(finding, subject=subject) for finding in found)


# --- the webhook routes, within this process -------------------------------------------


class Probe:
    """Stands behind a webhook's route: lets the ESP's room decide, and takes notes.

    ``reached`` tells that the route was, and ``size`` with how many bytes; ``rejected`` why
    the request was not authentic; ``unset`` which setting is missing to tell by.
    """

    def __init__(self, webhook: Webhook) -> None:
        self.webhook = webhook
        self.reached, self.size = False, 0
        self.rejected, self.unset = "", ""

    def verify(self, request: WebhookRequest, settings: Settings, now: datetime) -> None:
        """Do what the ESP's ``verify`` does."""
        self.reached, self.size = True, len(request.body)
        self.rejected, self.unset = "", ""
        try:
            self.webhook.verify(request, settings, now)
        except WebhookRejected as error:
            self.rejected = str(error)
            raise
        except ConfigurationError as error:
            self.unset = str(error)
            raise

    def parse(self, request: WebhookRequest, settings: Settings) -> tuple[()]:
        """Find no event, so that no receiver is called."""
        return ()


class SilentLog(WebhookLog):
    """Logs nothing: rejections are what is being tried."""

    def rejected(self, esp_name: str, reason: str) -> None:
        """Say nothing."""


@contextmanager
def probing(state: State, esp: Esp, settings: Settings, kind: Kind) -> Iterator[Probe]:
    """Put a probe in the place of one webhook."""
    webhook = esp.webhook(kind)
    assert webhook is not None  # noqa: S101 - only kinds_of() an ESP are probed
    probe, log = Probe(webhook), state.webhook_log
    stand_in = Webhook(probe.verify, probe.parse)
    fields: dict[str, Any] = {kind: stand_in}
    state.hooks[esp.key] = replace(esp, **fields), settings
    state.webhook_log = SilentLog()
    try:
        yield probe
    finally:
        state.hooks[esp.key] = esp, settings
        state.webhook_log = log


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request: its status, or the name of the exception it raised."""

    status: int = 0
    location: str = ""
    error: str = ""


def webhooks(app: Flask, state: State, hooks: Hooks, url: str | None) -> Iterator[Finding]:
    """Try the routes of every configured ESP."""
    for esp, settings in hooks:
        for kind in kinds_of(esp):
            with probing(state, esp, settings, kind) as probe:
                caller = Caller(app, hook_path(state, esp, kind), url, settings)
                yield from _route(app, state, esp, kind, probe, caller)


class Caller:
    """Calls one route by WSGI, as a server would."""

    def __init__(self, app: Flask, path: str, url: str | None, settings: Settings) -> None:
        self.app, self.path, self.url = app, path, url
        self.secret = secret_of(settings)

    def __call__(
        self, *, authentic: bool = False, body: bytes = b"{}", content_type: str = ""
    ) -> Answer:
        """Post a body, with the configured credentials or without any."""
        headers = {"Content-Type": content_type or "application/json"}
        if authentic and self.secret is not None:
            token = base64.b64encode(self.secret).decode("ascii")
            headers["Authorization"] = f"Basic {token}"
        try:
            response = Client(self.app).post(
                self.path, base_url=host_url(self.app, self.url), headers=headers, data=body
            )
        except Exception as error:  # with debug on, Flask hands it through
            return Answer(error=type(error).__name__)
        answer = Answer(response.status_code, response.headers.get("Location", ""))
        response.close()
        return answer


def host_url(app: Flask, url: str | None) -> str:
    """Return the address the app is to be called by, for apps that look at the Host header."""
    if url:
        return url
    trusted = app.config.get("TRUSTED_HOSTS") or ()
    name = app.config.get("SERVER_NAME") or next(iter(trusted), "localhost").lstrip(".")
    return f"https://{name}"


def _route(
    app: Flask, state: State, esp: Esp, kind: Kind, probe: Probe, call: Caller
) -> Iterator[Finding]:
    """Try one route: without credentials, with them, and with a large form."""
    subject = f"{esp.name} {kind}"
    answer = call()
    if not probe.reached:
        yield Finding("webhooks", Verdict.FAILED, obstacle(answer, call.path), subject)
        return
    heard = any(True for _ in getattr(signals, kind).receivers_for(app))
    verdict, text = without_credentials(state, probe, answer, heard)
    if verdict is Verdict.OK:
        verdict, text = with_credentials(esp, probe, call)
    if verdict is Verdict.OK and not heard:
        verdict, text = Verdict.WARNING, f"{text} {_UNHEARD.format(kind=kind)}"
    yield Finding("webhooks", verdict, text, subject)
    yield Finding("body limit", *large_body(probe, call), subject)


_UNHEARD = "But nothing is connected to signals.{kind}: such events are lost."


def without_credentials(
    state: State, probe: Probe, answer: Answer, heard: bool
) -> tuple[Verdict, str]:
    """Read the answer to a request that must be answered with 401."""
    if probe.unset and state.general.allow_insecure_webhooks:
        return Verdict.WARNING, f"In debug and testing, all are accepted. {probe.unset}"
    if probe.unset:
        verdict = Verdict.FAILED if heard else Verdict.WARNING
        return verdict, f"All are refused until a key is set. {probe.unset}"
    if not probe.rejected:
        return Verdict.FAILED, "Webhooks without credentials are accepted."
    if answer.status == 401:
        return Verdict.OK, ""
    return Verdict.FAILED, _CHANGED.format(status=401, answer=_shown(answer))


_CHANGED = (
    "The route's answer {status} comes out as {answer}: an after_request function or an error "
    f"handler of the app changes it. {_EXEMPT}"
)


def with_credentials(esp: Esp, probe: Probe, call: Caller) -> tuple[Verdict, str]:
    """Read the answer to a request with the configured credentials: it must be 200."""
    path, answer = call.path, call(authentic=True)
    if probe.rejected:
        return Verdict.CANNOT_TELL, (
            f"{path} refuses what is not signed, as it should; only {esp.name} itself can show "
            f"that its own signature is accepted. Try `flask mailesp simulate {esp.key} "
            "delivered`, then a real message."
        )
    if answer.status != 200:
        return Verdict.FAILED, _CHANGED.format(status=200, answer=_shown(answer))
    return Verdict.OK, f"{path} answers 401 without credentials and 200 with them."


def large_body(probe: Probe, call: Caller) -> tuple[Verdict, str]:
    """Post a form of a megabyte, as mail comes from some ESPs."""
    probe.reached = False
    answer = call(authentic=True, body=LARGE_FORM, content_type=_FORM)
    if probe.reached and probe.size == len(LARGE_FORM):
        return Verdict.OK, "A form of 1 MB is read."
    if answer.status == 413:
        return Verdict.FAILED, (
            "A form of 1 MB is refused with HTTP 413: something in the app reads the body before "
            f"the route does. {_EXEMPT}"
        )
    return Verdict.FAILED, obstacle(answer, call.path)


def obstacle(answer: Answer, path: str) -> str:
    """Say what stood in a webhook's way to its route."""
    if answer.error:
        return f"{path}: the app raised {answer.error} before the route was reached. {_EXEMPT}"
    guess = _OBSTACLES.get(answer.status, "something in the app answers first")
    if 300 <= answer.status < 400:
        guess = f"a login wall or another redirect, to {urlsplit(answer.location).path or '/'}"
    text = f"{path} is answered with HTTP {answer.status} before the route is reached: {guess}."
    return text if answer.status == 404 else f"{text} {_EXEMPT}"


_OBSTACLES = {
    400: "CSRF protection, or TRUSTED_HOSTS without this host",
    401: "a login wall",
    403: "a login wall or CSRF protection",
    404: "the app hides its routes, or wants another host name (give it with --url)",
    405: "another route has the same path",
    413: "something reads the body, and MAX_CONTENT_LENGTH is small",
    500: "the app fails on every request",
}


def _shown(answer: Answer) -> str:
    return f"the exception {answer.error}" if answer.error else f"HTTP {answer.status}"


# --- the webhook routes, from outside --------------------------------------------------


def public(state: State, hooks: Hooks, url: str) -> Iterator[Finding]:
    """Call the public address, without credentials only: no event reaches the app."""
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        yield Finding("public URL", Verdict.WARNING, f"Only this machine reaches {host}.", url)
    elif url.startswith("http://"):
        text = "Give the ESP an https:// URL, or the webhooks' password is sent in the clear."
        yield Finding("public URL", Verdict.WARNING, text, url)
    for esp, _ in hooks:
        for kind in kinds_of(esp):
            yield from _public_route(state, url + hook_path(state, esp, kind), esp, kind)


def _public_route(state: State, url: str, esp: Esp, kind: Kind) -> Iterator[Finding]:
    subject = f"{esp.name} {kind}"
    verdict, text = _call_public(state, url, b"{}", "application/json", from_outside)
    if verdict is Verdict.OK:
        verdict, text = _call_public(state, url, LARGE_FORM, _FORM, from_outside_large)
    yield Finding("public URL", verdict, text, subject)


def _call_public(
    state: State,
    url: str,
    body: bytes,
    content_type: str,
    read: Callable[[HttpResponse, str], tuple[Verdict, str]],
) -> tuple[Verdict, str]:
    try:
        answer = state.transport.send(
            HttpRequest("POST", url, {"Content-Type": content_type}, body)
        )
    except MailESPError as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        return Verdict.CANNOT_TELL, f"From here: {reason}. The ESP may see it otherwise."
    return read(answer, url)


def from_outside(answer: HttpResponse, url: str) -> tuple[Verdict, str]:
    """Read what the public address answers to a webhook without credentials."""
    status, place = answer.status, urlsplit(url).path
    if status == 401 and answer.body.startswith(b"Not authentic"):
        return Verdict.OK, f"{place} is reached."
    if status == 200:
        return Verdict.FAILED, f"{place} takes webhooks without credentials, or is another app's."
    if 300 <= status < 400:
        return Verdict.FAILED, f"{place} redirects (HTTP {status}): give the ESP the final URL."
    return Verdict.FAILED, (
        f"{place} is answered with HTTP {status}, not by the app's route: look at the proxy in "
        "front of it, and whether this version of the app is deployed."
    )


def from_outside_large(answer: HttpResponse, url: str) -> tuple[Verdict, str]:
    """Read what the public address answers to a form of a megabyte."""
    verdict, text = from_outside(answer, url)
    if answer.status == 413:
        return Verdict.FAILED, (
            "A form of 1 MB is refused with HTTP 413: raise the body limit of the proxy in front "
            "of the app (nginx: client_max_body_size 40m)."
        )
    return verdict, f"{text} A form of 1 MB passes." if verdict is Verdict.OK else text
