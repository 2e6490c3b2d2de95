"""As much of Postmark's template language as tests need.

``{{name}}`` (escaped in HTML), ``{{{name}}}``, dotted names, ``{{#list}}…{{/list}}`` for each
item, ``{{#name}}`` where a value is there, ``{{^name}}`` where it is not, ``{{.}}`` the item.
A section does not contain another one of its own name.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

TOKEN = re.compile(
    r"\{\{(?P<kind>[#^])\s*(?P<section>[\w.-]+)\s*\}\}(?P<inner>.*?)\{\{/\s*(?P=section)\s*\}\}"
    r"|\{\{\{\s*(?P<raw>[\w.-]+)\s*\}\}\}"
    r"|\{\{\s*(?P<name>[\w.-]+)\s*\}\}",
    re.DOTALL,
)

Escape = Callable[[str], str]


def render(template: str, model: Any, *, escape: bool = False) -> str:
    """Fill in a template from a model; a name the model does not have becomes nothing."""
    return _render(template, [model], html.escape if escape else str)


def _render(template: str, scopes: list[Any], escape: Escape) -> str:
    """One pass: what a value holds is never read as a template."""

    def replace(match: re.Match[str]) -> str:
        return (_section if match["kind"] else _variable)(match, scopes, escape)

    return TOKEN.sub(replace, template)


def _section(match: re.Match[str], scopes: list[Any], escape: Escape) -> str:
    value = _look_up(match["section"], scopes)
    absent = value is None or value is False or value in ("", [], {})
    if match["kind"] == "^":
        return _render(match["inner"], scopes, escape) if absent else ""
    if absent:
        return ""
    items = value if isinstance(value, list) else [value]
    return "".join(_render(match["inner"], [*scopes, item], escape) for item in items)


def _variable(match: re.Match[str], scopes: list[Any], escape: Escape) -> str:
    value = _look_up(match["raw"] or match["name"], scopes)
    text = "" if value is None else str(value)
    return text if match["raw"] else escape(text)


def _look_up(name: str, scopes: list[Any]) -> Any:
    if name == ".":
        return scopes[-1]
    first, *rest = name.split(".")
    value = next((s for s in reversed(scopes) if isinstance(s, dict) and first in s), None)
    for part in (first, *rest):
        value = value.get(part) if isinstance(value, dict) else None
    return value
