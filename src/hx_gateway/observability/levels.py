"""Levels of events: their names, and the numbers they are stored as (OpenTelemetry's SeverityNumber)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# The lowest of the four numbers that OpenTelemetry gives each name (logs data model, "SeverityNumber").
LEVELS: Mapping[str, int] = MappingProxyType({"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21})
MAX_LEVEL = 24
_NAMES = tuple(LEVELS)
_NUMBERS_A_NAME = 4
# What Python's logging calls two of them.
_ALIASES = {"WARNING": "WARN", "CRITICAL": "FATAL"}


def level_number(name: str) -> int:
    """Return the lowest number called ``name``, in any case; Python's ``WARNING`` and ``CRITICAL`` are known too.

    Raises ``KeyError`` for another name.
    """
    upper = name.upper()
    return LEVELS[_ALIASES.get(upper, upper)]


def level_name(number: int) -> str:
    """Return what ``number``, 1 to :data:`MAX_LEVEL`, is called: 17 and 20 are both ``ERROR``."""
    return _NAMES[(number - 1) // _NUMBERS_A_NAME]
