"""Records as JSON text and back, so that SQLite keeps them and nothing is ever unpickled.

The text is ASCII: the lone surrogates a client may send are escapes in it, which SQLite's
own text could not hold.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

from .records import Attached

Record = TypeVar("Record")


def dump(value: Any) -> str:
    """JSON text of plain values, or of a record: an object of its fields."""
    return json.dumps(_shallow(value), default=_special, separators=(",", ":"))


def _shallow(value: Any) -> Any:
    """One level only: what a client sent may be nested deeper than Python likes to recurse."""
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    return value


def _special(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return _shallow(value)


def load(kind: type[Record], text: str) -> Record:
    """The record of that kind that `dump` wrote."""
    return make(kind, json.loads(text))


def make(kind: type[Record], data: Mapping[str, Any]) -> Record:
    """The same from decoded JSON; names the record does not have are left out."""
    types = {item.name: str(item.type) for item in fields(kind)}  # type: ignore[arg-type]
    known = {name: _typed(types[name], value) for name, value in data.items() if name in types}
    return kind(**known)


def _typed(annotation: str, value: Any) -> Any:
    """Undo what JSON cannot tell. Annotations are text here (PEP 563)."""
    if value is None:
        return None
    if annotation.startswith("bytes"):
        return base64.b64decode(value)
    if annotation.startswith("datetime"):
        return datetime.fromisoformat(value)
    if annotation.startswith("tuple"):
        return tuple(value)
    if annotation.startswith("list[tuple"):
        return [tuple(item) for item in value]
    if annotation.startswith("list[Attached"):
        return [Attached(**item | {"data": base64.b64decode(item["data"])}) for item in value]
    return value
