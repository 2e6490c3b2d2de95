"""The base of the package's enumerations."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """An enumeration whose members are equal to, and print as, the words they stand for."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)
