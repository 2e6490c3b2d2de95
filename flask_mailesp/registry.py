"""The ESPs there are, each loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from .esp import Esp
from .exceptions import ConfigurationError

# A name is the module in flask_mailesp.esps, the URL segment and the settings' prefix.
BUILT_IN = ("postal", "postmark")


def load_esp(key: str) -> Esp | None:
    """Return the ESP of a name such as ``postmark``, or None if there is none."""
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
    esp = load_esp(key)
    if esp is not None:
        return esp
    import difflib

    close = difflib.get_close_matches(key, BUILT_IN, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigurationError(
        f"{setting} names no known ESP: {key!r}.{hint} Known: {', '.join(BUILT_IN)}."
    )


def all_esps() -> list[Esp]:
    """Load every ESP."""
    return [esp for esp in map(load_esp, BUILT_IN) if esp is not None]
