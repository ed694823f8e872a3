"""How many of a tenant's living services are alike, as triggers keep it: exact, and read without a look at services."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Executable, Select, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles

from hx_gateway.db.models.registry_index import ItemCount
from hx_gateway.db.models.validation import coerced, stored_columns
from hx_gateway.registry.searches import ServiceSearch

# The fields that services are counted by.
COUNTED = frozenset({"build_type", "protocol", "priority", "status", "is_enabled", "is_required"})
_COLUMNS = {name: column for name, column in stored_columns(inspect(ItemCount)).items() if name in COUNTED}

_OF_ALL = text("""
SELECT status::text, protocol::text, priority::text, sum(items)::bigint AS services,
    coalesce(sum(items) FILTER (WHERE is_required), 0)::bigint AS required
FROM hx_registry.registry_counts WHERE is_active GROUP BY 1, 2, 3
""")


class _Explained(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(_Explained)
def _explained(element: _Explained, compiler: Any, **more: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.query, **more)}"


async def planned_rows(session: AsyncSession, query: Select[Any]) -> int:
    """Return how many rows the database's planner expects of a query."""
    plan = await session.scalar(_Explained(query))
    read = json.loads(plan) if isinstance(plan, str) else plan
    return int(read[0]["Plan"]["Plan Rows"])


async def counts_of_all(session: AsyncSession) -> Sequence[Any]:
    """Return how many living services of all tenants have each status, protocol and priority together.

    ``required`` is how many of them are.
    """
    return (await session.execute(_OF_ALL)).all()


def is_counted(search: ServiceSearch) -> bool:
    """Return whether the counts alone say how many pass."""
    return search == ServiceSearch(filters=search.filters) and search.filters.keys() <= COUNTED


class ItemCounts:
    """Reads the counts of one tenant in one transaction.

    ``filters`` are those of lists; others than of ``COUNTED`` fields are not looked at.
    """

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def alike(self, filters: Mapping[str, Any]) -> Sequence[Any]:
        """Return rows of :class:`ItemCount` that pass."""
        query = select(ItemCount.__table__).where(*self._conditions(filters))
        return (await self._session.execute(query)).all()

    async def values_of(self, fields: Sequence[str], filters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return which values of these fields services have together."""
        columns = [getattr(ItemCount, field) for field in fields]
        query = select(*columns).where(*self._conditions(filters)).distinct()
        return [tuple(row) for row in await self._session.execute(query)]

    def _conditions(self, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = [
            ItemCount.tenant_id == self._tenant_id,
            ItemCount.is_active.is_(True),
            ItemCount.items > 0,
        ]
        for field in COUNTED & filters.keys():
            column, value = _COLUMNS[field], filters[field]
            several = value if isinstance(value, list | tuple | set | frozenset) else [value]
            conditions.append(column.in_([coerced(column, one) for one in several]))
        return conditions
