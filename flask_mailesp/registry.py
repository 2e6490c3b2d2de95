"""The ESPs there are, each loaded when it is first asked for.

Besides the built-in ones, an installed package can bring an ESP: a module that holds an
`Esp` named ``esp``, announced under the entry point group ``flask_mailesp.esps``::

    [project.entry-points."flask_mailesp.esps"]
    acme = "flask_mailesp_acme:esp"
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from .esp import Esp
from .exceptions import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# A name is the module in flask_mailesp.esps, the URL segment and the settings' prefix.
BUILT_IN = ("amazon_ses", "mailgun", "postal", "postmark", "resend", "sendgrid")
ENTRY_POINTS = "flask_mailesp.esps"


def load_esp(key: str) -> Esp | None:
    """Return the built-in ESP of a name such as ``postmark``, or None if there is none."""
    if key not in BUILT_IN:
        return None
    module = import_module(f"flask_mailesp.esps.{key}")
    esp: Esp = module.esp
    return esp


def require_esp(name: object, setting: str) -> Esp:
    """Return the ESP that a setting names (or is), or raise ConfigurationError."""
    if isinstance(name, Esp):
        return name
    key = str(name).strip().lower().replace(" ", "_").replace("-", "_")
    esp = load_esp(key) or load_plugin(key)
    if esp is not None:
        return esp
    import difflib

    known = sorted({*BUILT_IN, *plugin_names()})
    close = difflib.get_close_matches(key, known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigurationError(
        f"{setting} names no known ESP: {key!r}.{hint} Known: {', '.join(known)}."
    )


def load_plugin(key: str) -> Esp | None:
    """Return the ESP that an installed package brings under a name, or None.

    Raises ConfigurationError, naming the package's entry point, if it cannot be used.
    """
    for point in _entry_points():
        if point.name != key:
            continue
        try:
            esp = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"The ESP {key!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(esp, Esp) or esp.key != key:
            raise ConfigurationError(
                f"The entry point {key!r} ({point.value}) must be an Esp whose key is {key!r}."
            )
        return esp
    return None


def plugin_names() -> list[str]:
    """Return the names of the ESPs that installed packages bring; none is loaded."""
    return [point.name for point in _entry_points() if point.name not in BUILT_IN]


def all_esps() -> list[Esp]:
    """Load every built-in ESP."""
    return [esp for esp in map(load_esp, BUILT_IN) if esp is not None]


def _entry_points() -> Iterator[EntryPoint]:
    from importlib.metadata import entry_points

    return iter(entry_points(group=ENTRY_POINTS))
