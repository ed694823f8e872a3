"""How a page of living services is found among many, behind row-level security, whatever is looked for.

First nearby: what comes next in the list's order is looked at one by one, at most :data:`NEARBY` services. That finds a
page of what is common. Where it does not, what is looked for is rare, or is elsewhere: then all that passes is gathered
from the tables of words and tags and from indexes that hold the filters, and sorted. Neither depends on the planner
knowing what is rare: it knows no statistics of conditions that are not leakproof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, exists, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_index import ItemTag, ItemWord
from hx_gateway.db.models.registry_items import HEALTH_FIELDS, ItemHealth, RegistryItem
from hx_gateway.registry.repository import Order
from hx_gateway.registry.searches import ServiceSearch

NEARBY = 2_000
# These are found by indexes of their own.
_UNIQUE = frozenset({"id", "name"})
# After every word that goes on.
_LAST = "\U0010ffff"
_LEXEMES = text(
    "SELECT DISTINCT parsed.lexeme FROM unnest(CAST(:words AS text[])) AS word, "
    "unnest(to_tsvector('pg_catalog.simple', word)) AS parsed"
)


def health_of(item: Any) -> ColumnElement[bool]:
    """Return the condition that joins the health of an item."""
    return and_(ItemHealth.tenant_id == item.tenant_id, ItemHealth.item_id == item.id)


class ItemSearch:
    """Finds the ids of a tenant's living services, in one transaction of the tenant's."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    def nearby(self, search: ServiceSearch, order: Order) -> Subquery | None:
        """Return the ids of what comes next, with their ``place``; ``None`` where looking there makes no sense."""
        if not _UNIQUE.isdisjoint(search.filters):
            return None
        query = self._ids(order, health=order.field in HEALTH_FIELDS)
        return query.order_by(*order.by(order.column, RegistryItem.id)).limit(NEARBY).subquery("nearby")

    def gathered(self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery:
        """Return the ids of the page, with their ``place``, of all that pass ``conditions``."""
        health = search.stale_for is not None or not {*search.filters, order.field}.isdisjoint(HEALTH_FIELDS)
        query = self._ids(order, health=health).where(*conditions)
        # Materialized: a limit would have the planner walk through everything in order, in the hope of meeting enough.
        found = query.cte("found").prefix_with("MATERIALIZED")
        page = select(found.c.id, found.c.place).order_by(*order.by(found.c.place, found.c.id))
        return page.limit(order.limit + 1).subquery("page")

    async def lexemes(self, words: Sequence[str]) -> list[str]:
        """Return words as the database has them: in its lower case, each once."""
        return list((await self._session.scalars(_LEXEMES, {"words": [*words]})).all())

    def with_words(self, beginnings: Sequence[str]) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a service has a word for each of ``beginnings``, which are lexemes."""
        for beginning in beginnings:
            within = and_(ItemWord.word >= beginning, ItemWord.word < beginning + _LAST)
            words = select(ItemWord.item_id).where(ItemWord.tenant_id == self._tenant_id, within)
            yield RegistryItem.id.in_(words)

    def with_tags(self, search: ServiceSearch) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a service has the tags that are looked for."""
        of_tenant, tags = ItemTag.tenant_id == self._tenant_id, sorted(search.tags)
        if search.tags_match == "none" and tags:
            yield ~exists().where(of_tenant, ItemTag.item_id == RegistryItem.id, ItemTag.tag.in_(tags))
            return
        for several in [tags] if search.tags_match == "any" and tags else [[tag] for tag in tags]:
            yield RegistryItem.id.in_(select(ItemTag.item_id).where(of_tenant, ItemTag.tag.in_(several)))

    def _ids(self, order: Order, *, health: bool) -> Select[Any]:
        query = select(RegistryItem.id, order.column.label("place")).select_from(RegistryItem)
        if health:
            query = query.join(ItemHealth, health_of(RegistryItem))
        living = and_(RegistryItem.tenant_id == self._tenant_id, RegistryItem.deleted_at.is_(None))
        return query.where(living, order.beyond(RegistryItem.id))
