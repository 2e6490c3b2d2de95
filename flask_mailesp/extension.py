"""The extension: reads the configuration once, keeps the app's state, sends."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app

from . import config, policies, signals, telemetry
from .delivery import Mailer, deliver, must_raise
from .esp import Esp, Settings
from .exceptions import CancelSend, ConfigurationError
from .fetching import Fetcher, Fetches
from .limits import Limit, Limits, Rate
from .message import Message
from .records import field, record
from .registry import load_esp, require_esp
from .results import Outcome, Recipients, SendResult
from .tokens import TokenMemory
from .transport import Transport
from .views import WebhookLog, blueprint

if TYPE_CHECKING:
    from .recording import Outbox
    from .simulator.mounted import MountedMailbox

logger = logging.getLogger("flask_mailesp")


class State:
    """Everything the extension keeps for one app, in ``app.extensions["mailesp"]``."""

    def __init__(
        self,
        general: config.General,
        lookup: config.Lookup,
        transport: Transport,
        watch: telemetry.Watch,
    ) -> None:
        self.general = general
        self.lookup = lookup
        self.transport = transport
        self.watch = watch
        self.rails = config.rails(lookup, general.options)
        self.mailers: dict[str, Mailer] = {}
        self.hooks: dict[str, tuple[Esp, Settings]] = {}
        self.webhook_log = WebhookLog()
        self.fetcher = Fetcher()
        self.tokens = TokenMemory()
        self.mailbox: MountedMailbox | None = None
        self.limits: dict[tuple[str, Any], Limits] = {}

    def mailer(self, name: str | None) -> Mailer:
        """Return a mailer by name; None is the default one."""
        try:
            return self.mailers["default" if name is None else name]
        except KeyError:
            import difflib

            close = difflib.get_close_matches(str(name), self.mailers, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(
                f"There is no mailer named {name!r}.{hint} Mailers are set in MAILESP_MAILERS."
            ) from None

    def limit(self, esp: Esp, settings: Settings, rate: Rate | None) -> Limit:
        """Return the limit of a credential, which several mailers may share."""
        limits = self.limits.setdefault((esp.key, settings.get("API_URL")), Limits())
        return limits.of_mailer(settings.secrets(), rate)

    def hook(self, esp_key: str) -> tuple[Esp, Settings] | None:
        """Return an ESP and its settings for webhooks, or None if there is no such ESP."""
        if esp_key not in self.hooks:
            esp = load_esp(esp_key)
            if esp is None:
                return None  # not kept: strangers choose these names
            self.hooks[esp_key] = esp, config.esp_settings(self.lookup, esp, sending=False)
        return self.hooks[esp_key]

    def transport_of(self, esp: Esp) -> Fetches:
        """Return what an ESP's webhooks are completed through: as its mail is sent."""
        own = (mailer.transport for mailer in self.mailers.values() if mailer.esp.key == esp.key)
        return next(own, self.transport)

    def __repr__(self) -> str:
        return f"<State: mailers {', '.join(self.mailers)}>"


class MailESP:
    """Flask's email, through an email service provider (ESP).

    Make one, with the app or later with `init_app`; one object serves many apps. All state
    is in ``app.extensions["mailesp"]``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the configuration and register the webhook routes.

        Each key is looked up as ``app.config["MAILESP"]["KEY"]``, then ``MAILESP_KEY``:

        ``ESP``
            The ESP to send through, such as ``"postmark"``. Required, unless ``MAILERS`` has
            a mailer named ``default``.
        ``MAILERS``
            ``{"default": {"esp": "postmark", ...}, "bulk": {...}}``: several mailers, each
            with settings of its own. ``{"failover": [...]}`` and ``{"round_robin": [...]}``
            send through others.
        ``<ESP>_...``
            An ESP's own settings, such as ``POSTMARK_SERVER_TOKEN``; credentials and URLs
            are also found without the ``MAILESP_`` prefix. See the ESP's page.
        ``SEND_DEFAULTS``, ``<ESP>_SEND_DEFAULTS``
            ``{"sender": ..., "tags": ...}``: values for what a message does not give.
        ``IGNORE_UNSUPPORTED_FEATURES``
            Leave out, with a warning, what the ESP cannot express. Default False.
        ``IGNORE_RECIPIENT_STATUS``
            Do not raise `RecipientsRefusedError`. Default False.
        ``WEBHOOK_SECRET``, ``<ESP>_WEBHOOK_SECRET``
            ``"user:password"`` that webhooks must bring as Basic credentials, or a list.
        ``WEBHOOK_ALLOW_INSECURE``
            In debug and testing only: accept webhooks where nothing is configured to
            authenticate them. Default False.
        ``WEBHOOK_MAX_BYTES``
            The largest webhook body that is read. Default 40 MB.
        ``REQUESTS_TIMEOUT``
            Seconds for one request to the ESP, or ``(connect, total)``. Default (10, 30).
        ``URL_PREFIX``
            Where the webhook routes are. Default ``"/mail-hooks"``.
        ``TIMEZONE``
            The zone of naive ``send_at`` times. Default ``"UTC"``.
        ``IDNA_ENCODER``
            ``"idna2008"`` (default), ``"idna2003"``, ``"none"`` or a function.
        ``ALLOW_HTTP``
            Accept ``http://`` API URLs beyond this machine. Default False.
        ``TLS_VERIFY``
            True (default), the path of a CA bundle, or False in debug and testing.
        ``REDIRECT_TO``
            An address that gets all mail in place of its recipients; for staging.
        ``ALLOW_RECIPIENTS``
            A list of addresses and patterns such as ``"*@example.com"``: mail goes to nobody
            else; for staging.
        ``SUPPRESS_SEND``
            Do everything but send: no message leaves. Default False.
        ``RETRIES``
            How often a request is made again that certainly was not taken: False (default),
            True for twice, a number, or ``{"attempts": 3, "max_wait": 1, "deadline": 30}``.
        ``MAX_WAIT``
            The longest, in seconds, that `send` waits before a retry or for a rate limit.
            Default 1.
        ``RATE_LIMIT``, ``<ESP>_RATE_LIMIT``
            How many requests one credential may make: a number (a second) or
            ``"600/minute"``. Default: only what the ESP's own 429 answers ask for.
        ``DEBUG_API_REQUESTS``
            Log every exchange with the ESP, without credentials and content, to the logger
            ``flask_mailesp`` (INFO, and the names of fields at DEBUG). Default False.
        ``MAILBOX``
            In debug only: True sends all mail to a simulator in this process instead of the
            ESPs, and shows it at ``{URL_PREFIX}/_mailbox/``. The path of a file keeps it
            there, for several processes. Default False.
        ``MAILBOX_TOKEN``
            At least 16 characters that open the mailbox from other machines. Without it,
            the mailbox answers this machine only.

        Raises ConfigurationError, naming the key, for what is missing, unknown or wrong; and
        RuntimeError if the app has been initialised before.
        """
        if "mailesp" in app.extensions:
            raise RuntimeError("This app has a MailESP already; call init_app() once per app.")
        state = app.extensions["mailesp"] = _read(app)
        app.register_blueprint(blueprint(state.general.url_prefix, state.hooks))
        if state.mailbox is not None:
            state.mailbox.mount(app, state)

    def send(self, message: Message, using: str | None = None) -> SendResult:
        """Send one message now and return what became of it.

        ``using`` names one of several mailers. Raises as the tree in
        `flask_mailesp.exceptions` says; every error after a request carries ``result``.
        """
        app, state = _current()
        mailer = state.mailer(using)
        result = _send(app, mailer, message)
        if result.error is not None and must_raise(mailer, result):
            raise result.error
        return result

    def send_many(
        self, messages: Iterable[Message], using: str | None = None, workers: int = 8
    ) -> Iterator[SendResult]:
        """Send messages; yield a result for each, in order, as they become known.

        Never raises for one message: its ``result.error`` says what happened. Uses the ESP's
        multi-message endpoint where there is one, and else at most ``workers`` requests at
        once. What has not been started when the iteration ends is not sent.
        """
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError("workers must be a whole number of at least 1.")
        app, state = _current()
        return _send_many(app, state.mailer(using), messages, workers)

    def using(self, name: str) -> BoundMailer:
        """Return a sender bound to one of the mailers in ``MAILESP_MAILERS``."""
        _current()[1].mailer(name)
        return BoundMailer(self, name)

    def record_messages(self) -> AbstractContextManager[Outbox]:
        """In tests: record what the current app sends, instead of sending it.

        ``with mail.record_messages() as outbox:``; see `flask_mailesp.recording`.
        """
        from .recording import record

        return record(_current()[0])


@record(frozen=True)
class BoundMailer:
    """A mailer by name: ``mail.using("bulk").send(message)``."""

    mail: MailESP = field(repr=False)
    name: str

    def send(self, message: Message) -> SendResult:
        """Send one message; see `MailESP.send`."""
        return self.mail.send(message, using=self.name)

    def send_many(self, messages: Iterable[Message], workers: int = 8) -> Iterator[SendResult]:
        """Send messages; see `MailESP.send_many`."""
        return self.mail.send_many(messages, using=self.name, workers=workers)


def _current() -> tuple[Flask, State]:
    """Return the current app and its state."""
    try:
        state: State = current_app.extensions["mailesp"]
    except KeyError:
        raise RuntimeError(
            "This app has no MailESP: call MailESP(app) or mail.init_app(app) first."
        ) from None
    return current_app._get_current_object(), state  # type: ignore[attr-defined]


def _read(app: Flask) -> State:
    """Resolve all settings of an app."""
    lookup = config.Lookup(app.config)
    general = config.general(lookup, debug_or_testing=app.debug or app.testing)
    plain, strategies = policies.told_apart(config.mailer_specs(lookup))
    specs = {name: (place, own, _esp(place, own)) for name, (place, own) in plain.items()}
    mailbox = _mailbox(app, general, [esp for _, _, esp in specs.values()])
    if mailbox is not None:
        lookup = config.Lookup(app.config, instead=mailbox.settings)
    try:
        state = _state(app, general, lookup, local=mailbox is not None)
        state.mailbox = mailbox
        for name, (place, own, esp) in specs.items():
            state.mailers[name] = _mailer(state, name, place, own, esp)
        for name, spec in strategies.items():
            state.mailers[name] = _strategy(state, name, spec)
        in_use = [mailer.esp for mailer in state.mailers.values()]
        for esp in config.check_keys(lookup, in_use):
            state.hooks.setdefault(esp.key, (esp, config.esp_settings(lookup, esp, sending=False)))
    except BaseException:
        if mailbox is not None:
            mailbox.stop()
        raise
    return state


def _state(app: Flask, general: config.General, lookup: config.Lookup, *, local: bool) -> State:
    """Return the state without mailers; where all mail is ``local``, no proxy gets any."""
    transport = Transport(
        connect_timeout=general.connect_timeout,
        total_timeout=general.total_timeout,
        verify=general.tls_verify,
        trust_env=not local,
    )
    return State(general, lookup, transport, telemetry.Watch(app))


def _mailbox(app: Flask, general: config.General, esps: list[Esp]) -> MountedMailbox | None:
    """Start the mailbox, in debug and where it is asked for; only then is it imported."""
    if not general.mailbox:
        return None
    if not app.debug:
        logger.warning("MAILESP_MAILBOX has no effect outside debug: mail goes to the ESP.")
        return None
    mounted = import_module("flask_mailesp.simulator.mounted")
    mailbox: MountedMailbox = mounted.MountedMailbox(general, esps)
    return mailbox


def _esp(place: str, own: Mapping[str, Any]) -> Esp:
    return require_esp(own.get("ESP"), "MAILESP_ESP" if place == "MAILESP" else f"{place}['esp']")


def _mailer(state: State, name: str, place: str, own: Mapping[str, Any], esp: Esp) -> Mailer:
    lookup = config.Lookup(state.lookup.config, own, place, instead=state.lookup.instead)
    config.check_mailer_keys(place, own, esp)
    settings = config.esp_settings(lookup, esp, sending=True)
    _share_hook(state, name, place, esp, settings)
    return Mailer(
        name,
        esp,
        settings,
        state.transport,
        defaults=config.send_defaults(lookup, esp),
        options=state.general.options,
        ignore_unsupported=lookup.switch("IGNORE_UNSUPPORTED_FEATURES"),
        ignore_recipient_status=lookup.switch("IGNORE_RECIPIENT_STATUS"),
        log_exchanges=state.general.debug_api_requests,
        rails=state.rails,
        watch=state.watch,
        retries=policies.retries(lookup),
        limit=state.limit(esp, settings, policies.rate_limit(lookup, esp)),
    )


def _strategy(state: State, name: str, spec: policies.StrategySpec) -> Mailer:
    from .strategies import as_mailer, strategy_of

    return as_mailer(name, strategy_of(spec, state.mailers))


def _share_hook(state: State, name: str, place: str, esp: Esp, settings: Settings) -> None:
    """Keep the settings for an ESP's webhooks, which all its mailers share: one URL each."""
    hook = state.hooks.get(esp.key)
    shared = {item.name for item in esp.settings if item.hooks}
    own = [key for key in settings if key.startswith("WEBHOOK_") or key in shared]
    if hook is not None and any(hook[1].get(key) != settings[key] for key in own):
        raise ConfigurationError(
            f"{place} has webhook settings of its own, but the mailers of {esp.name} share one "
            f"webhook URL: give all values as lists, in MAILESP_{esp.key.upper()}_..."
        )
    if hook is None or name == "default":
        state.hooks[esp.key] = esp, settings


def _send(app: Flask, mailer: Mailer, message: Message) -> SendResult:
    """Send between the two signals. Raises InvalidMessageError only."""
    cancelled = _announce_send(app, mailer, message)
    if cancelled is not None:
        return cancelled
    result = deliver(mailer, message)
    _announce_result(app, message, result)
    return result


def _announce_send(app: Flask, mailer: Mailer, message: Message) -> SendResult | None:
    """Emit pre_send; return a result if a receiver cancelled the send."""
    if not isinstance(message, Message):
        raise TypeError(f"A flask_mailesp.Message can be sent, not a {type(message).__name__}.")
    if not signals.pre_send.receivers:
        return None
    try:
        signals.pre_send.send(
            app, _async_wrapper=app.ensure_sync, message=message, esp_name=mailer.esp.name
        )
    except CancelSend:
        return SendResult(mailer.esp.name, Outcome.CANCELLED, Recipients())
    return None


def _announce_result(app: Flask, message: Message, result: SendResult) -> None:
    """Emit post_send, receiver by receiver: what they raise cannot unsend the message."""
    if not signals.post_send.receivers:
        return
    for receiver in signals.post_send.receivers_for(app):
        try:
            app.ensure_sync(receiver)(app, message=message, result=result, esp_name=result.esp_name)
        except Exception:
            logger.exception("A receiver of post_send failed; the send is not affected.")


def _send_many(
    app: Flask, mailer: Mailer, messages: Iterable[Message], workers: int
) -> Iterator[SendResult]:
    from .many import deliver_many

    def before(message: Message) -> SendResult | None:
        return _announce_send(app, mailer, message)

    def after(message: Message, result: SendResult) -> None:
        if result.outcome is not Outcome.CANCELLED or result.recipients:  # only suppressed
            _announce_result(app, message, result)

    yield from deliver_many(mailer, messages, workers, before, after)
