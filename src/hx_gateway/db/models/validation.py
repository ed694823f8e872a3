"""What a column takes, checked before the database is asked: rules that name the field."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import JSON, Column, String, Uuid
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import ColumnProperty, Mapper

from hx_gateway.errors import InvalidRequest

MAX_LEVELS = 64


class Problem(NamedTuple):
    """A field that breaks a rule. ``rule`` is the rest of a sentence that begins with the field's name."""

    field: str
    rule: str


class InvalidModel(InvalidRequest):
    """An object whose fields break rules: all of them are in the message, the first one is ``param``."""

    status = 422

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(f"{field}: {rule}." for field, rule in problems), param=problems[0].field)
        self.problems = problems
        self.details = [{"code": self.code, "param": field, "message": f"{field}: {rule}."} for field, rule in problems]


def stored_columns(mapper: Mapper[Any]) -> dict[str, Column[Any]]:
    """Return the columns that the program writes, by their names on the model: none that the database computes."""
    found = {}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(attribute, ColumnProperty) and isinstance(column, Column) and column.computed is None:
            found[attribute.key] = column
    return found


def coerced(column: Column[Any], value: Any) -> Any:
    """Return a text as the id or the member of an enumeration that it stands for; everything else as it is."""
    if not isinstance(value, str):
        return value
    if isinstance(column.type, EnumType) and column.type.enum_class is not None:
        return next((member for member in column.type.enum_class if member.value == value), value)
    return identifier(value) if isinstance(column.type, Uuid) else value


def python_type(column: Column[Any]) -> type:
    """Return what a column's values are; of JSON we keep objects only."""
    return dict if isinstance(column.type, JSON) else column.type.python_type


def identifier(value: Any) -> Any:
    """Return a text as the id that it stands for; everything else as it is."""
    try:
        return UUID(value) if isinstance(value, str) else value
    except ValueError:
        return value


def column_problems(values: Mapping[str, Any], columns: Mapping[str, Column[Any]]) -> Iterator[Problem]:
    """Yield what ``columns`` would not take of ``values``, and what is missing."""
    for name, column in columns.items():
        rule = _broken_rule(column, values[name])
        if rule is not None:
            yield Problem(name, rule)


def unstorable(value: Any, levels: int = MAX_LEVELS) -> str | None:
    """Return why PostgreSQL would not store a text, a list or JSON of at most ``levels`` levels."""
    match value:
        case str():
            if "\0" in value:
                return "must not hold a NUL character"
            return None if value.isascii() or _is_whole(value) else "must not hold half of a surrogate pair"
        case float() if not math.isfinite(value):
            return "must hold finite numbers only"
        case dict() | list() if levels == 0:
            return f"must have at most {MAX_LEVELS} levels"
        case dict():
            return next(filter(None, (unstorable(part, levels - 1) for pair in value.items() for part in pair)), None)
        case list():
            return next(filter(None, (unstorable(part, levels - 1) for part in value)), None)
    return None


def _broken_rule(column: Column[Any], value: Any) -> str | None:
    if value is None:
        return None if column.nullable else "is required"
    if isinstance(column.type, EnumType) and column.type.enum_class is not None:
        allowed = ", ".join(member.value for member in column.type.enum_class)
        return None if isinstance(value, column.type.enum_class) else f"must be one of {allowed}"
    expected = python_type(column)
    if not _is_of(value, expected):
        return f"must be of the type {expected.__name__}, not {type(value).__name__}"
    if isinstance(value, datetime) and value.tzinfo is None:
        return "must have a time zone"
    if isinstance(column.type, String) and column.type.length is not None and len(value) > column.type.length:
        return f"must have at most {column.type.length} characters, not {len(value)}"
    return unstorable(value)


def _is_of(value: Any, expected: type) -> bool:
    """An integer serves as a float, a bool never as a number, a member of another enumeration never as a text."""
    if isinstance(value, bool | Enum):
        return type(value) is expected
    return isinstance(value, (int, float) if expected is float else expected)


def _is_whole(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
