"""How lists are sorted: by several fields, each in its direction, and by id where those are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, literal, or_, true, tuple_

from hx_gateway.access.cursors import Position, encode_cursor
from hx_gateway.access.errors import InvalidField
from hx_gateway.kit.epochs import unix_us


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field that a list is sorted by, by ``column``. ``place`` tells where a value of the field is in that column."""

    field: str
    down: bool
    column: Any
    place: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a list is sorted, and after what a page of ``limit`` begins.

    ``down`` is the direction of ids, which is that of the last field. ``after`` has a place for each key and the id of
    the last object of the page before.
    """

    keys: tuple[SortKey, ...]
    down: bool
    limit: int
    mark: str
    after: tuple[Any, ...] | None

    @property
    def columns(self) -> list[Any]:
        """What is sorted by, but for the id."""
        return [key.column for key in self.keys]

    def beyond(self, ids: Any) -> ColumnElement[bool]:
        """Return the condition for what comes after the page before."""
        if self.after is None:
            return true()
        columns = [*self.columns, ids]
        last = [literal(value, column.type) for value, column in zip(self.after, columns, strict=True)]
        downs = self._downs()
        if len(set(downs)) == 1:
            here, there = tuple_(*columns), tuple_(*last)
            return here < there if self.down else here > there
        further = [
            and_(*_same(columns[:place], last[:place]), _past(columns[place], last[place], down=down))
            for place, down in enumerate(downs)
        ]
        # The first says nothing new: it is what an index begins with.
        bound = columns[0] <= last[0] if downs[0] else columns[0] >= last[0]
        return and_(bound, or_(*further))

    def by(self, *columns: Any) -> list[ColumnElement[Any]]:
        """Return what sorts by the columns of the keys and of ids."""
        return [column.desc() if down else column.asc() for column, down in zip(columns, self._downs(), strict=True)]

    def cursor(self, last: Any) -> str:
        """Return the cursor of a page that ends with an object."""
        value, *more = (_plain(getattr(last, key.field)) for key in self.keys)
        return encode_cursor(Position(value, str(last.id), tuple(more)), self.mark)

    def _downs(self) -> list[bool]:
        return [*(key.down for key in self.keys), self.down]


def sort_fields(sort: str, sortable: frozenset[str]) -> list[tuple[str, bool]]:
    """Return the fields of ``sort``, with commas between them, and which of them are from the greatest down.

    Raises ``InvalidField`` for one that is not ``sortable``, or is there twice.
    """
    fields = [(part.removeprefix("-"), part.startswith("-")) for part in sort.split(",")]
    names = [name for name, _ in fields]
    if not sortable.issuperset(names):
        raise InvalidField(f"sort: must be one of {', '.join(sorted(sortable))}.", param="sort")
    if len(names) != len(set(names)):
        raise InvalidField("sort: names a field twice.", param="sort")
    return fields


def last_id(text: str) -> UUID:
    """Return the id in a cursor. Raises ``InvalidField``."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidField("cursor: is not one that a page came with.", param="cursor") from None


def _same(columns: Sequence[Any], values: Sequence[Any]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in zip(columns, values, strict=True)]


def _past(column: Any, value: Any, *, down: bool) -> ColumnElement[bool]:
    found: ColumnElement[bool] = column < value if down else column > value
    return found


def _plain(value: Any) -> str | int:
    """Return a sorted value as a cursor holds it: times in microseconds since 1970."""
    if isinstance(value, datetime):
        return unix_us(value.astimezone(UTC))
    return str(value.value if isinstance(value, Enum) else value)
