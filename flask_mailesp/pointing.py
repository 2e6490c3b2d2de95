"""Settings that point an app at an ESP's stand-in on this machine, for a moment.

For development and tests: the stand-in is asked instead of the ESP, and what it posts is
believed beside what the ESP posts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import Lookup, esp_settings
from .esp import Esp, Settings


def pointed(
    esp: Esp, own: Settings, given: Mapping[str, Any], *, only_where_set: bool = False
) -> Settings:
    """Return an app's ``own`` settings with those of a stand-in, ``given`` as one writes them.

    Where a setting holds several values (keys, allowed senders), the stand-in's come beside
    the app's own; with ``only_where_set``, only if the app has some: one that cannot tell who
    posts must not be able to for this moment.
    """
    theirs = _resolved(esp, given)
    values: dict[str, Any] = {}
    for name in given:
        mine = own.get(name)
        if not isinstance(theirs[name], _SEVERAL):
            values[name] = theirs[name]
        elif mine or not only_where_set:
            values[name] = _together(mine, theirs[name])
    if esp.complete is not None:
        values |= esp.complete({**own, **values}, str)
    return own.changed(values)


_SEVERAL = (tuple, list, set, frozenset)


def _resolved(esp: Esp, given: Mapping[str, Any]) -> Settings:
    """Return settings checked and converted as those of an app are."""
    named = {f"{esp.key.upper()}_{name}": value for name, value in given.items()}
    return esp_settings(Lookup({}, instead={"ALLOW_HTTP": True, **named}), esp, sending=False)


def _together(mine: Any, theirs: Any) -> Any:
    if mine is None:
        return theirs
    return type(theirs)([*mine, *theirs])
