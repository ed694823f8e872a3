"""How many of the services that pass a search have each value, read from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, cast, func, null, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_items import (
    BuildType,
    ItemHealth,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)

# Ids are drawn at random: the first of them are a fair sample of all.
SAMPLED_TAGS = 1_000
_items = RegistryItem.__table__.c
# Numbers of enumerations, as an index holds them: no wide row is looked at for these.
FACET_COLUMNS = (
    _items.id,
    _items.build_type_rank,
    _items.protocol_rank,
    _items.priority_rank,
    ItemHealth.__table__.c.status_rank,
    _items.is_enabled,
    _items.is_required,
)


@dataclass(frozen=True, slots=True)
class _Alike:
    """So many services that are alike, as rows of :class:`~hx_gateway.db.models.registry_index.ItemCount` tell it."""

    build_type: BuildType
    protocol: ServiceProtocol
    priority: ServicePriority
    status: ServiceStatus
    is_enabled: bool
    is_required: bool
    items: int


_MEMBERS = tuple([*kind] for kind in (BuildType, ServiceProtocol, ServicePriority, ServiceStatus))


async def counted(session: AsyncSession, query: Select[Any]) -> tuple[list[Any], list[UUID]]:
    """Return how many of what ``query`` finds are alike, and the first ids of it. It selects ``FACET_COLUMNS``."""
    found = query.cte("found").prefix_with("MATERIALIZED")
    item_id, *alike = found.c
    numbers = select(*alike, func.count().label("items"), cast(null(), item_id.type).label("id")).group_by(*alike)
    # Both from one look: what is looked for may take a while to find.
    empty = [cast(null(), column.type).label(column.name) for column in alike]
    first = select(item_id).order_by(item_id).limit(SAMPLED_TAGS).subquery("first")
    ids = select(*empty, cast(null(), func.count().type), first.c.id)
    rows = (await session.execute(union_all(numbers, ids))).all()
    alike_rows = [
        _Alike(*(known[rank] for known, rank in zip(_MEMBERS, row, strict=False)), *row[len(_MEMBERS) : -1])
        for row in rows
        if row.id is None
    ]
    return alike_rows, [row.id for row in rows if row.id is not None]


async def tags_of(session: AsyncSession, tenant_id: str, ids: Sequence[UUID], *, limit: int) -> list[tuple[str, int]]:
    """Return the tags of these services with how many have each, the most frequent first."""
    each = select(func.unnest(_items.tags).label("tag")).where(_items.tenant_id == tenant_id, _items.id.in_(ids))
    tag = each.subquery("each").c.tag
    query = select(tag, func.count()).group_by(tag).order_by(func.count().desc(), tag).limit(limit)
    return [(row[0], row[1]) for row in await session.execute(query)]
