"""Which URLs an app's ESPs are to post to, and setting that up where an ESP has an API for it."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flask import Flask

from .config import as_url
from .console import (
    KINDS,
    Action,
    Change,
    Console,
    HookTarget,
    Kind,
    console_of,
    converse,
    exchange,
    stands_in_a_url,
    with_credentials,
)
from .delivery import Mailer
from .esp import Esp, SecretBytes, Settings
from .exceptions import ConfigurationError, MailESPError
from .extension import State
from .registry import all_esps

PLACEHOLDER = "https://your-app.example"
NO_API = "it has no API for this. Paste the URL at"


@dataclass(frozen=True, slots=True)
class HookURL:
    """The URL of one kind of webhook; ``where`` in the ESP's console it is pasted.

    ``advice`` is what to beware of, or empty.
    """

    esp_name: str
    kind: Kind
    url: str = field(repr=False)
    where: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done at one ESP for one mailer. ``obstacle`` says why nothing can be."""

    mailer: Mailer
    changes: tuple[Change, ...] = ()
    obstacle: str = ""

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that are still to be made."""
        return tuple(change for change in self.changes if change.request is not None)


def configured_esps(
    state: State, without: Container[str] = frozenset()
) -> list[tuple[Esp, Settings]]:
    """Return the ESPs with mailers, and those with a setting of their own (to receive only).

    ``without`` are names of ESPs that are not to be looked at. Raises ConfigurationError for
    a setting that is unusable.
    """
    used = {mailer.esp.key for mailer in state.mailers.values()}
    hooks = (state.hook(esp.key) for esp in all_esps() if esp.name not in without)
    return [hook for hook in hooks if hook and (hook[0].key in used or _has_settings(*hook))]


def _has_settings(esp: Esp, settings: Settings) -> bool:
    return any(settings.get(item.name) != item.default for item in esp.settings)


def mailers_to_ask(state: State) -> list[Mailer]:
    """Return one mailer for each credential; several mailers may share one."""
    distinct: dict[tuple[object, ...], Mailer] = {}
    for mailer in state.mailers.values():
        key = (mailer.esp.key, mailer.settings.get("API_URL"), mailer.settings.secrets())
        distinct.setdefault(key, mailer)
    return list(distinct.values())


def base_of(app: Flask, given: str | None) -> str | None:
    """Return the app's public address: as given, else as Flask's SERVER_NAME has it, or None.

    Raises ConfigurationError if it is no URL.
    """
    if given:
        return as_url("--base", given, allow_http=True)
    name = app.config.get("SERVER_NAME")
    if not name:
        return None
    root = str(app.config.get("APPLICATION_ROOT") or "/").rstrip("/")
    return f"{app.config.get('PREFERRED_URL_SCHEME', 'http')}://{name}{root}"


def hook_path(state: State, esp: Esp, kind: Kind) -> str:
    """Return the path of a webhook's route within the app."""
    return f"{state.general.url_prefix}/{esp.key}/{kind}/"


def kinds_of(esp: Esp) -> tuple[Kind, ...]:
    """Return the kinds of webhooks an ESP has."""
    return tuple(kind for kind in KINDS if esp.webhook(kind) is not None)


def secret_of(settings: Settings) -> SecretBytes | None:
    """Return the credentials to give to the ESP: the first of those that are accepted."""
    secrets: tuple[SecretBytes, ...] | None = settings.get("WEBHOOK_SECRET")
    return secrets[0] if secrets else None


def hook_urls(state: State, base: str, *, show_credentials: bool) -> Iterator[HookURL]:
    """Yield the URLs to paste, for every configured ESP and kind of webhook."""
    for esp, settings in configured_esps(state):
        console = console_of(esp)
        for kind in kinds_of(esp):
            yield _hook_url(
                esp, settings, console, kind, base + hook_path(state, esp, kind), (show_credentials)
            )


def _hook_url(
    esp: Esp, settings: Settings, console: Console | None, kind: Kind, url: str, show: bool
) -> HookURL:
    secret = secret_of(settings)
    where = console.places.get(kind, "") if console else ""
    if secret is None:
        return HookURL(esp.name, kind, url, where)
    decodes = console is None or console.decodes_credentials
    advice = "" if decodes or stands_in_a_url(secret) else _UNDECODED.format(name=esp.name)
    shown = with_credentials(url, secret if show else SecretBytes(b"***:***"), encode=False)
    if show and decodes:
        shown = with_credentials(url, secret)
    return HookURL(esp.name, kind, shown, where, advice)


_UNDECODED = (
    "{name} sends credentials as they stand in the URL: choose a WEBHOOK_SECRET of letters, "
    "digits, '-', '.', '_' and '~' only."
)


# --- plans -----------------------------------------------------------------------------


def plans(state: State, base: str, *, inbound: bool) -> Iterator[Plan]:
    """Compare what is set up at each ESP with what should be. Changes nothing.

    Raises NotSentError or APIError where an ESP cannot be asked, and ConfigurationError where
    there are no credentials for the webhooks.
    """
    for mailer in mailers_to_ask(state):
        yield make_plan(state, mailer, base, inbound=inbound)


def make_plan(state: State, mailer: Mailer, base: str, *, inbound: bool) -> Plan:
    """Make the plan for one mailer."""
    console, esp = console_of(mailer.esp), mailer.esp
    if console is None or console.plan is None:
        where = console.places.get("tracking", "") if console else "its console"
        return Plan(mailer, obstacle=f"{esp.name}: {NO_API} {where}.")
    targets = tuple(
        HookTarget(kind, base + hook_path(state, esp, kind), _shared_secret(state, esp))
        for kind in kinds_of(esp)
        if inbound or kind != "inbound"
    )
    changes = converse(mailer.transport, console.plan(mailer.settings, targets))
    return Plan(mailer, tuple(changes))


def _shared_secret(state: State, esp: Esp) -> SecretBytes | None:
    """Return what the route accepts, which is the same for all mailers of an ESP."""
    hook = state.hook(esp.key)
    return secret_of(hook[1]) if hook else None


def apply(plan: Plan) -> Iterator[tuple[Change, MailESPError | None]]:
    """Make the pending changes of a plan, one after another; yield each with its error."""
    console = console_of(plan.mailer.esp)
    for change in plan.pending:
        yield change, _made(plan.mailer, console, change)


def _made(mailer: Mailer, console: Console | None, change: Change) -> MailESPError | None:
    if console is None or console.problem is None or change.request is None:
        return ConfigurationError(f"{mailer.esp.name} has no API for this.")
    try:
        return console.problem(exchange(mailer.transport, change.request))
    except MailESPError as error:
        return error


def summary(plan: Plan) -> str:
    """Say in a sentence what a plan comes to."""
    done = sum(change.action is Action.UNCHANGED for change in plan.changes)
    foreign = sum(change.action is Action.FOREIGN for change in plan.changes)
    words = [f"{len(plan.pending)} to change", f"{done} as they should be"]
    if foreign:
        words.append(f"{foreign} of others, left alone")
    return f"{plan.mailer.esp.name}: {', '.join(words)}."


def is_public(url: str) -> bool:
    """Tell whether an ESP may be able to reach a URL, as far as its host's name tells."""
    from .config import is_loopback

    host = urlsplit(url).hostname or ""
    return not is_loopback(host) and not host.endswith((".local", ".localhost", ".internal"))
