"""Regular expressions that are compiled when they are first used.

Compiling the package's patterns would take a third of its import.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

__all__ = ["pattern"]

if TYPE_CHECKING:
    pattern = re.compile

else:

    class pattern:
        """What `re.compile` returns, later; parameters as there."""

        def __init__(self, text: str, flags: int = 0) -> None:
            self._source = text, flags

        def __getattr__(self, name: str) -> Any:
            compiled = re.compile(*self._source)
            value = getattr(compiled, name)
            setattr(self, name, value)
            return value
