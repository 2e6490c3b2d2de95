"""The capability table, generated from what the ESPs' rooms declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .esp import Esp, Feature

# What an ESP has or has not, besides what a message may ask for.
_PARTS: dict[str, Callable[[Esp], object]] = {
    "Many messages in one request": lambda esp: esp.build_many,
    "Tracking webhooks": lambda esp: esp.tracking,
    "Inbound mail": lambda esp: esp.inbound,
}


def capability_table(esps: Iterable[Esp]) -> str:
    """Return a Markdown table: a row for each `Feature`, a column for each ESP, by name."""
    columns = sorted(esps, key=lambda esp: esp.name.lower())
    rows = [["Feature", *(esp.name for esp in columns)], ["---", *(":-:" for _ in columns)]]
    for feature in Feature:
        rows.append([feature.value, *(_word(feature in esp.supports) for esp in columns)])
    for title, part in _PARTS.items():
        rows.append([title, *(_word(part(esp) is not None) for esp in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _word(has: bool) -> str:
    return "yes" if has else "–"
