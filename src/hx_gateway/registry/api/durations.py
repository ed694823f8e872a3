"""Lengths of time as people write them: 30s, 15m, 2h, 7d, or ISO 8601."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

MAX_DAYS = 3650
_RULE = "must be a length of time, as 30s, 15m, 2h, 7d or PT15M"
_SHORT = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ISO = TypeAdapter(timedelta)


def duration(text: str) -> timedelta:
    """Return the length of time. Raises ``ValueError`` for what is none, or not between 0 and ten years."""
    short = _SHORT.fullmatch(text)
    try:
        if short is not None:
            length = timedelta(**{_UNITS[short[2]]: int(short[1])})
        elif text.startswith("P"):
            length = _ISO.validate_python(text)
        else:
            raise ValueError
    except (ValueError, OverflowError, ValidationError):
        raise ValueError(_RULE) from None
    if not timedelta(0) <= length <= timedelta(days=MAX_DAYS):
        raise ValueError(f"must be between 0 and {MAX_DAYS} days")
    return length


def _read(value: object) -> object:
    if isinstance(value, str):
        return duration(value)
    if isinstance(value, timedelta):
        return value
    raise ValueError(_RULE)


Duration = Annotated[
    timedelta,
    BeforeValidator(_read),
    Field(
        json_schema_extra={
            "type": "string",
            "format": "",
            "pattern": r"^([0-9]{1,5}[smhd]|P(T[0-9]{1,5}[SMH]|[0-9]{1,3}D))$",
        },
        examples=["15m"],
    ),
]
