"""How a page of living services is found among many, behind row-level security, whatever is looked for.

First nearby: what comes next in the list's order is looked at one by one, at most :data:`NEARBY` services. That finds a
page of what is common. Where it does not, what is looked for is rare, or is elsewhere: then all that passes is gathered
from the tables of words and tags and from indexes that hold the filters, and sorted. Neither depends on the planner
knowing what is rare: it knows no statistics of conditions that are not leakproof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Subquery, and_, exists, intersect, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_index import ItemTag, ItemWord
from hx_gateway.db.models.registry_items import HEALTH_COLUMNS, ItemHealth, RegistryItem
from hx_gateway.registry.repository import Order
from hx_gateway.registry.searches import ServiceSearch

NEARBY = 1_000
# Services with a word that are looked at one by one for others.
FEW = 5_000
# These are found by indexes of their own.
_UNIQUE = frozenset({"id", "name"})
# After every word that goes on.
LAST = "\U0010ffff"
_LEXEMES = text("""
SELECT lexeme, (
    SELECT count(*) FROM (
        SELECT FROM hx_registry.registry_words
        WHERE tenant_id = :tenant AND word >= lexeme AND word < lexeme || CAST(:last AS text) LIMIT :enough
    ) AS within
) AS services
FROM (
    SELECT DISTINCT parsed.lexeme
    FROM unnest(CAST(:words AS text[])) AS word, unnest(to_tsvector('pg_catalog.simple', word)) AS parsed
) AS asked
""")
# For the transaction: what is looked up one by one is in memory, or on a disk without a head that moves; other
# processes take longer to start than they save; and 100,000 ids have room.
_GATHERING = text(
    "SELECT set_config('random_page_cost', '1.1', true), set_config('max_parallel_workers_per_gather', '0', true), "
    "set_config('work_mem', '16MB', true)"
)


async def prepare(session: AsyncSession) -> None:
    """Have the planner know what it costs to gather ids, until the transaction ends."""
    await session.execute(_GATHERING)


def health_of(item: Any) -> ColumnElement[bool]:
    """Return the condition that joins the health of an item."""
    return and_(ItemHealth.tenant_id == item.tenant_id, ItemHealth.item_id == item.id)


class ItemSearch:
    """Finds the ids of a tenant's living services, in one transaction of the tenant's."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    def nearby(self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery | None:
        """Return the ids of the page, with their ``place``, of those next in order that pass ``conditions``.

        ``None`` where looking there makes no sense.
        """
        if not _UNIQUE.isdisjoint(search.filters):
            return None
        query = self._ids(order, health=order.field in HEALTH_COLUMNS)
        near = query.order_by(*order.by(order.column, RegistryItem.id)).limit(NEARBY).subquery("near")
        # The rows of the near ones alone, and their health only where it is asked for: joined with everything at once,
        # all the tenant's health would be read for them.
        passing = select(near).join(RegistryItem, and_(self._living(), RegistryItem.id == near.c.id))
        if _asks_for_health(search):
            passing = passing.join(ItemHealth, health_of(RegistryItem))
        return _page(passing.where(*conditions), near, order)

    def gathered(self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery:
        """Return the ids of the page, with their ``place``, of all that pass ``conditions``."""
        query = self._ids(order, health=_asks_for_health(search) or order.field in HEALTH_COLUMNS)
        # Materialized: a limit would have the planner walk through everything in order, in the hope of meeting enough.
        found = query.where(*conditions).cte("found").prefix_with("MATERIALIZED")
        return _page(select(found), found, order)

    async def with_words(self, words: Sequence[str], matches: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        """Return the conditions that a service has, for each of ``words``, one that begins with it.

        ``matches`` says the same of the service's own row, and has the last word where only one of several was looked
        up, or where the database takes some word for several, or for none.
        """
        asked = {"words": [*words], "tenant": self._tenant_id, "last": LAST, "enough": FEW + 1}
        found = (await self._session.execute(_LEXEMES, asked)).all()
        rarest = [] if not found else [min(found, key=lambda row: row.services).lexeme]
        few = any(row.services <= FEW for row in found)
        looked_up = [self._beginning_with(lexeme) for lexeme in (rarest if few else [row.lexeme for row in found])]
        conditions: list[ColumnElement[bool]] = [] if len(looked_up) == len(words) else [matches]
        return [RegistryItem.id.in_(intersect(*looked_up)), *conditions] if looked_up else conditions

    def _beginning_with(self, lexeme: str) -> Select[Any]:
        within = and_(ItemWord.word >= lexeme, ItemWord.word < lexeme + LAST)
        return select(ItemWord.item_id).where(ItemWord.tenant_id == self._tenant_id, within)

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
        return query.where(self._living(), order.beyond(RegistryItem.id))

    def _living(self) -> ColumnElement[bool]:
        return and_(RegistryItem.tenant_id == self._tenant_id, RegistryItem.deleted_at.is_(None))


def _asks_for_health(search: ServiceSearch) -> bool:
    return search.stale_for is not None or not HEALTH_COLUMNS.keys().isdisjoint(search.filters)


def _page(query: Select[Any], ids: FromClause, order: Order) -> Subquery:
    return query.order_by(*order.by(ids.c.place, ids.c.id)).limit(order.limit + 1).subquery("page")
