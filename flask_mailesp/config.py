"""From ``app.config`` to checked settings. Read once, in ``init_app``.

A setting's value is looked up in ``app.config["MAILESP"]["NAME"]``, then ``MAILESP_NAME``,
then, for an ESP's credentials and URLs, plain ``NAME``. Every error names the full key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timezone, tzinfo
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .address import (
    CONTROLS,
    Address,
    address_key,
    encode_domain,
    idna_encoder,
    parse_address,
)
from .esp import Esp, Secret, SecretBytes, Setting, Settings, Veiled, veiled
from .exceptions import ConfigurationError, InvalidMessageError
from .message import Message
from .patterns import pattern
from .prepare import PrepareOptions
from .records import record
from .registry import all_esps, load_plugin, plugin_names

if TYPE_CHECKING:
    from .rails import Rails

_MISSING: Final[Any] = object()
_HOST = pattern(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
_PRINTABLE = pattern(r"[!-~]+")  # ASCII without white space
_PATH = pattern(r"(/[A-Za-z0-9._~-]+)+/?")

GENERAL = frozenset(
    {
        "ESP",
        "MAILERS",
        "SEND_DEFAULTS",
        "IGNORE_UNSUPPORTED_FEATURES",
        "IGNORE_RECIPIENT_STATUS",
        "WEBHOOK_SECRET",
        "WEBHOOK_ALLOW_INSECURE",
        "WEBHOOK_MAX_BYTES",
        "IDNA_ENCODER",
        "TIMEZONE",
        "REQUESTS_TIMEOUT",
        "MAILBOX",
        "MAILBOX_TOKEN",
        "DEBUG_API_REQUESTS",
        "URL_PREFIX",
        "ALLOW_HTTP",
        "TLS_VERIFY",
        "REDIRECT_TO",
        "ALLOW_RECIPIENTS",
        "SUPPRESS_SEND",
        "RETRIES",
        "MAX_WAIT",
        "RATE_LIMIT",
    }
)
OF_ANY_ESP = frozenset({"SEND_DEFAULTS", "WEBHOOK_SECRET", "RATE_LIMIT"})
# What a mailer in MAILESP_MAILERS may set for itself, besides its ESP's settings.
OF_A_MAILER = frozenset(
    {
        "ESP",
        "SEND_DEFAULTS",
        "IGNORE_UNSUPPORTED_FEATURES",
        "IGNORE_RECIPIENT_STATUS",
        "WEBHOOK_SECRET",
        "RETRIES",
        "MAX_WAIT",
        "RATE_LIMIT",
    }
)
# A key that is the same for all messages would make all but one of them duplicates.
DEFAULTABLE = frozenset(Message.__annotations__) - {"idempotency_key"}
DEFAULT_TIMEOUT = (10.0, 30.0)
DEFAULT_MAX_BYTES = 40 * 1024 * 1024
SHORTEST_TOKEN = 16  # characters of MAILBOX_TOKEN


class Lookup:
    """Finds settings; a mailer's own ones stand before the app's.

    ``instead`` are values that stand before all of them, by full name: the simulated ESPs'
    addresses and credentials, while mail goes to the mailbox.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        own: Mapping[str, Any] | None = None,
        place: str = "",
        *,
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.nested = upper_keys(config.get("MAILESP"))
        self.own = own or {}
        self.place = place
        self.instead = instead or {}

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("Settings hold credentials and cannot be pickled.")

    def find(self, name: str, *, bare: bool = False, short: str = "") -> tuple[str, Any]:
        """Return the key under which a setting was found, and its value or _MISSING."""
        if name in self.instead:
            return f"MAILESP_{name}", self.instead[name]
        for key in filter(None, (short, name, f"MAILESP_{name}")):
            if key in self.own:
                return f"{self.place}[{key!r}]", self.own[key]
        if name in self.nested:
            return f'MAILESP["{name}"]', self.nested[name]
        for key in (f"MAILESP_{name}", name) if bare else (f"MAILESP_{name}",):
            if key in self.config:
                return key, self.config[key]
        return f"MAILESP_{name}", _MISSING

    def get(self, name: str, default: Any = None, *, short: str = "") -> tuple[str, Any]:
        """Return a setting's key and value; None counts as not set."""
        key, value = self.find(name, short=short)
        return key, default if value is _MISSING or value is None else value

    def switch(self, name: str, default: bool = False) -> bool:
        """Return a setting that is on or off."""
        return as_switch(*self.get(name, default))


def upper_keys(settings: Any) -> Veiled:
    """Return settings by upper-case names; none if it is not a dict (see `check_keys`)."""
    items = settings.items() if isinstance(settings, Mapping) else ()
    return Veiled((str(key).upper(), value) for key, value in items)


def as_switch(key: str, value: Any) -> bool:
    """Accept booleans, and their spellings in environment variables."""
    if isinstance(value, bool):
        return value
    try:
        return _SWITCH_WORDS[str(value).strip().lower()]
    except KeyError:
        raise ConfigurationError(f"{key} must be True or False.") from None


_SWITCH_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_SWITCH_WORDS |= {"false": False, "0": False, "no": False, "off": False}


# --- an ESP's settings -----------------------------------------------------------------


def esp_settings(lookup: Lookup, esp: Esp, *, sending: bool) -> Settings:
    """Resolve all settings of an ESP.

    Raises ConfigurationError for a required one that is not set, if ``sending``.
    """
    prefix = esp.key.upper()
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for setting in esp.settings:
        full = f"{prefix}_{setting.name}"
        missing[setting.name] = _how_to_set(full, setting)
        key, value = lookup.find(full, bare=setting.bare, short=setting.name)
        if value is _MISSING or value is None:
            key, value = _from_environment(setting, key)
        value = veiled(value)
        if value is not _MISSING and value is not None and not is_blank(value):
            values[setting.name] = _converted(lookup, setting, key, value)
        elif setting.required and sending:
            raise _not_set(lookup, missing[setting.name])
        else:
            values[setting.name] = setting.default
    values["WEBHOOK_SECRET"] = webhook_secret(lookup, prefix)
    if esp.complete is not None:
        values |= esp.complete(values, lambda name: f"MAILESP_{prefix}_{name}")
    missing["WEBHOOK_SECRET"] = (
        f'MAILESP_WEBHOOK_SECRET is not set. Set it to "user:password" with a long random '
        f"password, and put the same credentials into the webhook's URL at {esp.name}."
    )
    secrets = [setting.name for setting in esp.settings if setting.secret]
    return Settings(values, secret=secrets, missing=missing)


def _from_environment(setting: Setting, key: str) -> tuple[str, Any]:
    """Return the first environment variable of a setting that is set, or its key and _MISSING."""
    for name in setting.env:
        if value := os.environ.get(name):
            return name, value
    return key, _MISSING


def _not_set(lookup: Lookup, text: str) -> ConfigurationError:
    """Return the error for a missing setting; a misspelt one in its place is told first."""
    check_keys(lookup, ())
    return ConfigurationError(text)


def is_blank(value: Any) -> bool:
    """Tell an environment variable that is there and empty, which means that it is not set."""
    return isinstance(value, str) and not value.strip()


def _how_to_set(full: str, setting: Setting) -> str:
    text = f"MAILESP_{full} is not set. Add it to app.config before calling init_app()."
    return f"{text} You will find the value in {setting.where}." if setting.where else text


def _converted(lookup: Lookup, setting: Setting, key: str, value: Any) -> Any:
    if setting.secret and setting.convert is None:
        return as_credential(key, value)
    if setting.name.endswith("_URL"):
        value = as_url(key, value, allow_http=lookup.switch("ALLOW_HTTP"))
    if isinstance(setting.default, bool):
        value = as_switch(key, value)
    if setting.convert:
        return setting.convert(key, value)
    return str.__str__(value) if isinstance(value, Secret) else value


def as_credential(key: str, value: Any) -> Secret:
    """Check a credential: text without white space or characters no header can carry."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigurationError(f"{key} must be text. In an environment variable, quote it.")
    credential = Secret(str(value).strip())
    if not _PRINTABLE.fullmatch(credential):
        raise ConfigurationError(f"{key} is empty or holds characters that no credential has.")
    return credential


def as_url(key: str, value: Any, *, allow_http: bool) -> str:
    """Check a base URL: https, or http to this machine; return it without a last slash."""
    url = Secret(value.strip()) if isinstance(value, str) else None
    problem = _url_problem(url, allow_http)
    if url is None or problem:
        raise ConfigurationError(f"{key} {problem}")
    return url.rstrip("/")


def _url_problem(url: str | None, allow_http: bool) -> str | None:
    if url is None or not _PRINTABLE.fullmatch(url) or "\\" in url:
        return 'must be a URL such as "https://mail.example.com" (a host name in ASCII).'
    if "?" in url or "#" in url:
        return "must not have a query or fragment."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is not a valid URL."
    if "@" in parts.netloc:
        return "must not hold a user name or password; there is a setting for the credential."
    if parts.scheme not in ("http", "https") or port == 0 or not _is_host(host, parts.netloc):
        return 'must be a URL such as "https://mail.example.com".'
    if parts.scheme == "http" and not (allow_http or is_loopback(host)):
        return (
            "must begin with https://, or the credential would cross the network in the "
            "clear. On a network you trust, set MAILESP_ALLOW_HTTP = True."
        )
    return None


def _is_host(host: str, netloc: str) -> bool:
    """Tell whether a host is a name or an address; one of IPv6 in brackets, without a zone."""
    if "[" not in netloc:
        return bool(_HOST.fullmatch(host))
    return ":" in host and "%" not in host and _ip(host) is not None


def _ip(host: str) -> Any:
    """Return the IP address that a host is, or None."""
    import ipaddress

    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine."""
    address = _ip(host)
    return host.lower() == "localhost" if address is None else bool(address.is_loopback)


def webhook_secret(lookup: Lookup, prefix: str) -> tuple[SecretBytes, ...] | None:
    """Return the Basic credentials that webhooks must bring, or None.

    The ESP's own setting overrides the general one, even with None.
    """
    key, value = lookup.find(f"{prefix}_WEBHOOK_SECRET", short="WEBHOOK_SECRET")
    if value is _MISSING:
        key, value = lookup.find("WEBHOOK_SECRET")
    if value is _MISSING or value is None:
        return None
    value = veiled(value)
    items = value if isinstance(value, list) else [value]
    if not items or not all(map(_are_credentials, items)):
        raise ConfigurationError(f'{key} must be "user:password" or a list of such texts.')
    return tuple(SecretBytes(item.encode()) for item in items)


def _are_credentials(item: Any) -> bool:
    """Tell whether a text is what Basic authentication carries (RFC 7617 section 2)."""
    user, _, password = item.partition(":") if isinstance(item, str) else ("", "", "")
    return bool(user and password) and not CONTROLS.search(item)


# --- general settings ------------------------------------------------------------------


@record(frozen=True)
class General:
    """The settings that belong to the app rather than to an ESP or mailer."""

    url_prefix: str
    options: PrepareOptions
    connect_timeout: float
    total_timeout: float
    tls_verify: bool | str
    debug_api_requests: bool
    allow_insecure_webhooks: bool
    webhook_max_bytes: int
    mailbox: bool | str
    mailbox_token: Secret | None


def general(lookup: Lookup, *, debug_or_testing: bool) -> General:
    """Resolve the general settings."""
    connect, total = timeouts(*lookup.get("REQUESTS_TIMEOUT", DEFAULT_TIMEOUT))
    encoder = idna_encoder(lookup.get("IDNA_ENCODER", "idna2008")[1])
    return General(
        url_prefix=url_prefix(*lookup.get("URL_PREFIX", "/mail-hooks")),
        options=PrepareOptions(encoder, time_zone(*lookup.get("TIMEZONE", "UTC"))),
        connect_timeout=connect,
        total_timeout=total,
        tls_verify=tls_verify(*lookup.get("TLS_VERIFY", True), debug_or_testing),
        debug_api_requests=lookup.switch("DEBUG_API_REQUESTS"),
        allow_insecure_webhooks=lookup.switch("WEBHOOK_ALLOW_INSECURE") and debug_or_testing,
        webhook_max_bytes=byte_count(*lookup.get("WEBHOOK_MAX_BYTES", DEFAULT_MAX_BYTES)),
        mailbox=mailbox(*lookup.get("MAILBOX", False)),
        mailbox_token=mailbox_token(*lookup.get("MAILBOX_TOKEN")),
    )


def timeouts(key: str, value: Any) -> tuple[float, float]:
    """Return (connect, total) seconds; a single number is the total."""
    pair = value if isinstance(value, (list, tuple)) else (min_of(value), value)
    try:
        connect, total = (_seconds(item) for item in pair)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(
            f"{key} must be a number of seconds, or a pair (connect, total) of them."
        ) from None
    return min(connect, total), total


def min_of(total: Any) -> Any:
    """Return the connect time-out that goes with a total."""
    return min(total, DEFAULT_TIMEOUT[0]) if isinstance(total, (int, float)) else total


def _seconds(value: Any) -> float:
    seconds = float(value)
    if isinstance(value, bool) or not 0 < seconds < 86_400:
        raise ValueError
    return seconds


def time_zone(key: str, value: Any) -> tzinfo:
    """Return the zone of naive ``send_at`` times."""
    if isinstance(value, tzinfo):
        return value
    if value == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, TypeError, OSError, AttributeError):
        raise ConfigurationError(
            f'{key} must be a time zone such as "Europe/Prague" (on systems without zone data, '
            "install the tzdata package)."
        ) from None


def tls_verify(key: str, value: Any, debug_or_testing: bool) -> bool | str:
    """Return True, the path of a CA bundle, or (in debug and testing only) False."""
    if isinstance(value, (str, os.PathLike)) and str(value).strip().lower() not in _SWITCH_WORDS:
        if not os.path.exists(value):
            raise ConfigurationError(f"{key} is the path of a CA bundle, but nothing is there.")
        return os.fspath(value)
    verify = as_switch(key, value)
    if not verify and not debug_or_testing:
        raise ConfigurationError(
            f"{key} = False is allowed in debug and testing only. For a private CA, set it to "
            "the path of the CA's certificate."
        )
    return verify


def byte_count(key: str, value: Any) -> int:
    """Return a positive number of bytes."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigurationError(f"{key} must be a number of bytes.")
    return value


def mailbox(key: str, value: Any) -> bool | str:
    """Return whether there is a mailbox, or the path of the file that it is kept in."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        word = path.strip().lower() if isinstance(path, str) else ""
        if word and word not in _SWITCH_WORDS:
            return str(path)
    try:
        return as_switch(key, value)
    except ConfigurationError:
        raise ConfigurationError(f"{key} must be True, False or the path of a file.") from None


def mailbox_token(key: str, value: Any) -> Secret | None:
    """Return what opens the mailbox from other machines, or None."""
    if value is None:
        return None
    token = as_credential(key, value)
    if len(token) < SHORTEST_TOKEN:
        raise ConfigurationError(f"{key} must have at least {SHORTEST_TOKEN} characters.")
    return token


def url_prefix(key: str, value: Any) -> str:
    """Return the blueprint's prefix: with a first slash, without a last one."""
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise ConfigurationError(f'{key} must be a path such as "/mail-hooks".')
    return value.rstrip("/")


# --- mailers ---------------------------------------------------------------------------


def mailer_specs(lookup: Lookup) -> dict[str, tuple[str, Veiled]]:
    """Return each mailer's name with the place of its ESP's name and its own settings."""
    key, mailers = lookup.get("MAILERS", {})
    if not isinstance(mailers, Mapping):
        raise ConfigurationError(f'{key} must be a dict such as {{"default": {{"esp": ...}}}}.')
    mailers = Veiled({name: veiled(spec) for name, spec in mailers.items()})
    _, esp = lookup.get("ESP")
    specs = {
        str(name): (place := f"{key}[{name!r}]", _own_settings(place, spec, esp))
        for name, spec in mailers.items()
    }
    if "default" not in specs:
        if esp is None:
            raise _not_set(
                lookup,
                'MAILESP_ESP is not set. Set it to the ESP to send through, such as "postmark"'
                f"{' (or add a mailer named default)' if specs else ''}.",
            )
        specs["default"] = "MAILESP", Veiled({"ESP": esp})
    return specs


def _own_settings(place: str, spec: Any, esp: Any) -> Veiled:
    """Return a mailer's settings; one that names no ESP uses the app's."""
    own = upper_keys(spec)
    if is_strategy(own):
        return own
    if not isinstance(spec, Mapping) or own.setdefault("ESP", esp) is None:
        raise ConfigurationError(f'{place} must be a dict such as {{"esp": "postmark"}}.')
    return own


def is_strategy(own: Mapping[str, Any]) -> bool:
    """Tell whether a mailer sends through others."""
    return "FAILOVER" in own or "ROUND_ROBIN" in own


def send_defaults(lookup: Lookup, esp: Esp) -> dict[str, Any]:
    """Return the defaults for messages; the more specific ones win, key by key."""
    merged: dict[str, Any] = {}
    app_wide = Lookup(lookup.config)
    for key, value in (
        app_wide.get("SEND_DEFAULTS", {}),
        app_wide.get(f"{esp.key.upper()}_SEND_DEFAULTS", {}),
        (f"{lookup.place}['SEND_DEFAULTS']", lookup.own.get("SEND_DEFAULTS") or {}),
    ):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{key} must be a dict of Message attributes.")
        refuse_unknown(value, DEFAULTABLE, f"{key} has no meaning for")
        merged |= value
    return _as_attributes(merged)


def _as_attributes(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Give defaults the containers that the attributes have: one tag becomes a list of it."""
    try:
        message = Message(**defaults)
    except InvalidMessageError as error:
        raise ConfigurationError(f"In SEND_DEFAULTS, {error}") from None
    return {name: getattr(message, name) for name in defaults}


# --- safety rails ----------------------------------------------------------------------


def rails(lookup: Lookup, options: PrepareOptions) -> Rails | None:
    """Return the app's safety rails, or None if it has none."""
    key, target = lookup.get("REDIRECT_TO")
    allow_key, allow = lookup.get("ALLOW_RECIPIENTS")
    suppress = lookup.switch("SUPPRESS_SEND")
    if target is None and allow is None and not suppress:
        return None
    from .rails import Rails, matching

    address = None if target is None else _mailbox(key, target, options)
    allows = None if allow is None else matching(_patterns(allow_key, allow))
    if address is not None and allows is not None and not allows(address):
        raise ConfigurationError(f"{allow_key} does not allow the address in {key}.")
    return Rails(address, allows, suppress)


def _mailbox(key: str, value: Any, options: PrepareOptions) -> Address:
    try:
        return encode_domain(parse_address(value, key), options.idna, key)
    except InvalidMessageError as error:
        raise ConfigurationError(str(error)) from None


def _patterns(key: str, value: Any) -> list[str]:
    """Return patterns for addresses; a list of none allows nobody."""
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(
        isinstance(item, str) and all(item.strip().rpartition("@")[::2]) for item in patterns
    ):
        raise ConfigurationError(
            f'{key} must be a list of addresses and patterns such as "*@example.com".'
        )
    return [address_key(item.strip()) for item in patterns]


# --- unknown keys ----------------------------------------------------------------------


def refuse_unknown(given: Iterable[Any], known: Iterable[str], text: str) -> None:
    """Raise ConfigurationError for the first unknown key, naming the nearest known one."""
    known = set(known)
    for key in given:
        if key not in known:
            hint = f" Did you mean {close}?" if (close := nearest(key, known)) else ""
            raise ConfigurationError(f"{text} {key!r}.{hint}")


def nearest(word: Any, known: Iterable[str]) -> str:
    """Return the known word that was probably meant, or an empty string."""
    from difflib import get_close_matches

    return "".join(get_close_matches(str(word), sorted(known), 1))


def check_keys(lookup: Lookup, in_use: Iterable[Esp]) -> list[Esp]:
    """Refuse settings that no part of the package knows. Rarely needs all ESPs' rooms.

    Returns the ESPs of installed packages that no mailer uses and that have settings: they
    receive webhooks.
    """
    if not isinstance(lookup.config.get("MAILESP") or {}, Mapping):
        raise ConfigurationError('app.config["MAILESP"] must be a dict of settings.')
    given = {str(key)[8:]: str(key) for key in lookup.config if str(key).startswith("MAILESP_")}
    given |= {name: f'MAILESP["{name}"]' for name in lookup.nested}
    known = GENERAL.union(*map(names_of, in_use))
    if known.issuperset(given):
        return []
    plugins = [esp for name in plugin_names() if (esp := load_plugin(name)) is not None]
    known = known.union(*map(names_of, [*all_esps(), *plugins]))
    for name, place in given.items():
        if name not in known:
            hint = f" Did you mean MAILESP_{close}?" if (close := nearest(name, known)) else ""
            raise ConfigurationError(f"{place} is not a setting of Flask-MailESP.{hint}")
    return [esp for esp in plugins if not names_of(esp).isdisjoint(given)]


def names_of(esp: Esp) -> set[str]:
    """Return the names of all settings that belong to an ESP."""
    prefix = esp.key.upper()
    return {f"{prefix}_{name}" for name in OF_ANY_ESP.union(item.name for item in esp.settings)}


def check_mailer_keys(place: str, own: Mapping[str, Any], esp: Esp) -> None:
    """Refuse keys of a mailer that neither it nor its ESP knows."""
    names = {setting.name for setting in esp.settings} | {"WEBHOOK_SECRET", "RATE_LIMIT"}
    full = {f"{esp.key.upper()}_{name}" for name in names}
    known = OF_A_MAILER | names | full | {f"MAILESP_{name}" for name in full}
    refuse_unknown(own, known, f"{place} has no setting")
