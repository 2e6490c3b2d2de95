"""From environment variables to ``app.config``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Config

from flask_mailesp.exceptions import ConfigurationError

from .providers import PLAIN


def read_environment(config: Config, environ: Mapping[str, str]) -> None:
    """Copy what concerns mail from the environment; empty variables count as not set.

    ``FLASK_MAILESP_ESP`` is read like ``MAILESP_ESP`` and wins over it. Raises
    ConfigurationError for a JSON value that is damaged.
    """
    for name, value in environ.items():
        if value and (name in PLAIN or name.startswith("MAILESP_")):
            config[name] = _parsed(name, value)
    config.from_prefixed_env()
    sender = environ.get("MAIL_DEFAULT_SENDER")
    if sender:
        config["MAILESP_SEND_DEFAULTS"] = {
            "sender": sender,
            **config.get("MAILESP_SEND_DEFAULTS", {}),
        }


def require_sender(config: Config) -> None:
    """Raise ConfigurationError if nothing says who the mail is from."""
    esp = str(config["MAILESP_ESP"]).upper()
    places = (config.get("MAILESP_SEND_DEFAULTS"), config.get(f"MAILESP_{esp}_SEND_DEFAULTS"))
    if not any(place and "sender" in place for place in places):
        raise ConfigurationError(
            "MAIL_DEFAULT_SENDER is not set. Set it to an address that your provider lets you "
            "send from."
        )


def _parsed(name: str, value: str) -> Any:
    """Read lists and dicts as JSON; credentials stay text, even where they look like numbers."""
    if not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigurationError(f"{name} begins like JSON but cannot be read as such.") from None
