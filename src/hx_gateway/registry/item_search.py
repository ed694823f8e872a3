"""How a page of living services is found among many, behind row-level security, whatever is looked for.

First nearby: what comes next in the list's order is looked at one by one, at most :data:`NEARBY` services. That finds a
page of what is common. Where it does not, what is looked for is rare, or is elsewhere: then all that passes is gathered
from the tables of words and tags and from indexes that hold the filters, and sorted. Neither depends on the planner
knowing what is rare: it knows no statistics of conditions that are not leakproof.

A list that is sorted by an enumeration and then by something else is one list for each of its values, one after the
other: so the index of the second order serves, whichever the first one is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    and_,
    exists,
    func,
    intersect,
    literal_column,
    not_,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_index import ItemTag, ItemWord
from hx_gateway.db.models.registry_items import (
    HEALTH_COLUMNS,
    BuildType,
    ItemHealth,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.db.models.validation import unstorable
from hx_gateway.registry.item_counts import ItemCounts
from hx_gateway.registry.orders import Order, SortKey
from hx_gateway.registry.searches import MAX_WORDS, ServiceSearch, words_of

NEARBY = 1_000
# Services with a word that are looked at one by one for others.
FEW = 5_000
# Enumerations by the numbers of their members: for an enumeration itself there is no index behind row-level security.
RANKED: Mapping[str, tuple[Any, type[StrEnum]]] = {
    "status": (ItemHealth.status_rank, ServiceStatus),
    "build_type": (RegistryItem.build_type_rank, BuildType),
    "protocol": (RegistryItem.protocol_rank, ServiceProtocol),
    "priority": (RegistryItem.priority_rank, ServicePriority),
}
# These are found by indexes of their own.
_UNIQUE = frozenset({"id", "name"})
# After every word that goes on.
LAST = "\U0010ffff"
_SIMPLE: ColumnElement[Any] = literal_column("'pg_catalog.simple'::regconfig")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The part of a list whose services have the same values of what it is sorted by first, as ``within`` says."""

    order: Order
    within: tuple[ColumnElement[bool], ...] = ()
    health: bool = False


class ItemSearch:
    """Finds the ids of a tenant's living services, in one transaction of the tenant's."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._counts = ItemCounts(session, tenant_id)

    def nearby(self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery | None:
        """Return the ids of the page, with their places, of those next in order that pass ``conditions``.

        ``None`` where looking there makes no sense.
        """
        if not _UNIQUE.isdisjoint(search.filters):
            return None
        step = _Step(order=order, health=_is_by_health(order))
        return self._passing(search, step, self._near(step, NEARBY), conditions)

    def gathered(self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]) -> Subquery:
        """Return the ids of the page, with their places, of all that pass ``conditions``."""
        query = self._ids(_Step(order=order, health=_asks_for_health(search) or _is_by_health(order)))
        # Materialized: a limit would have the planner walk through everything in order, in the hope of meeting enough.
        found = query.where(*conditions).cte("found").prefix_with("MATERIALIZED")
        return _page(select(found), found, order)

    async def in_steps(
        self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]]
    ) -> list[UUID] | None:
        """Return the ids of the page of a list that is sorted by several, one more than it holds where there are more.

        ``None`` where what passes ``conditions`` is not nearby.
        """
        if not _UNIQUE.isdisjoint(search.filters):
            return None
        found: list[UUID] = []
        for step in await self._steps(search, order):
            left = replace(step.order, limit=order.limit - len(found))
            most = NEARBY + left.limit if conditions else left.limit + 1
            near = self._near(replace(step, order=left), most)
            passing = self._passing(search, replace(step, order=left), near, conditions)
            found += await self.ids(passing, left)
            if len(found) > order.limit:
                break
            if conditions and await self._session.scalar(select(func.count()).select_from(near)) == most:
                return None
        return found

    async def ids(self, page: Subquery, order: Order) -> list[UUID]:
        """Return the ids of a page in order."""
        return list((await self._session.scalars(select(page.c.id).order_by(*order.by(*places(page, order))))).all())

    async def _steps(self, search: ServiceSearch, order: Order) -> list[_Step]:
        """Return the parts of a list in order, from where the page begins: only those that have any services."""
        first = [*takewhile(lambda key: key.field in RANKED, order.keys)]
        health, rest = _is_by_health(order), order.keys[len(first) :]
        start = None if order.after is None else _turned(first, order.after[: len(first)])
        steps = []
        for place in sorted(_turned(first, ranks) for ranks in await self._ranks(search, first)):
            if start is not None and place < start:
                continue
            after = order.after[len(first) :] if order.after is not None and place == start else None
            within = tuple(key.column == rank for key, rank in zip(first, _turned(first, place), strict=True))
            steps.append(_Step(order=replace(order, keys=rest, after=after), within=within, health=health))
        return steps

    async def _ranks(self, search: ServiceSearch, keys: Sequence[SortKey]) -> list[tuple[int, ...]]:
        """Return which numbers of these enumerations there are together."""
        if not keys:
            return [()]
        members = [[*RANKED[key.field][1]] for key in keys]
        found = await self._counts.values_of([key.field for key in keys], search.filters)
        return [tuple(known.index(value) for known, value in zip(members, values, strict=True)) for values in found]

    def _near(self, step: _Step, most: int) -> Subquery:
        """Return the ids of those next in order, at most ``most``."""
        order = step.order
        query = self._ids(step)
        return query.order_by(*order.by(*order.columns, RegistryItem.id)).limit(most).subquery("near")

    def _passing(
        self, search: ServiceSearch, step: _Step, near: Subquery, conditions: Sequence[ColumnElement[bool]]
    ) -> Subquery:
        """Return those of the near ones that pass."""
        if not conditions:
            return _page(select(near), near, step.order)
        # The rows of the near ones alone, and their health only where it is asked for: joined with everything at once,
        # all the tenant's health would be read for them.
        passing = select(near).join(RegistryItem, and_(self._living(), RegistryItem.id == near.c.id))
        if _asks_for_health(search):
            passing = passing.join(ItemHealth, health_of(RegistryItem))
        return _page(passing.where(*conditions), near, step.order)

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

    def _ids(self, step: _Step) -> Select[Any]:
        places = [column.label(f"place{number}") for number, column in enumerate(step.order.columns)]
        query = select(RegistryItem.id, *places).select_from(RegistryItem)
        if step.health:
            query = query.join(ItemHealth, health_of(RegistryItem))
        return query.where(self._living(), *step.within, step.order.beyond(RegistryItem.id))

    def _living(self) -> ColumnElement[bool]:
        return and_(RegistryItem.tenant_id == self._tenant_id, RegistryItem.deleted_at.is_(None))


def _asks_for_health(search: ServiceSearch) -> bool:
    return search.stale_for is not None or not HEALTH_COLUMNS.keys().isdisjoint(search.filters)


def _turned(keys: Iterable[SortKey], ranks: Iterable[int]) -> tuple[int, ...]:
    """Return numbers so that they sort as the keys do, and such numbers as they were."""
    return tuple(-rank if key.down else rank for key, rank in zip(keys, ranks, strict=True))


def _is_by_health(order: Order) -> bool:
    return any(key.field in HEALTH_COLUMNS for key in order.keys)


def places(ids: FromClause, order: Order) -> list[Any]:
    """Return the columns of found ids that a list is sorted by, the ids themselves the last."""
    return [*(ids.c[f"place{number}"] for number in range(len(order.keys))), ids.c.id]


def _page(query: Select[Any], ids: FromClause, order: Order) -> Subquery:
    return query.order_by(*order.by(*places(ids, order))).limit(order.limit + 1).subquery("page")


def tagged(tags: frozenset[str], match: Literal["any", "all", "none"]) -> ColumnElement[bool]:
    """Match services that have any, all or none of the tags. Raises ``InvalidField`` for what is no tag."""
    if not all(isinstance(tag, str) and unstorable(tag) is None for tag in tags):
        raise InvalidField("tags: must be one text or more, without NUL characters.", param="tags")
    wanted, column = sorted(tags), RegistryItem.__table__.c.tags
    found: ColumnElement[bool] = column.contains(wanted) if match == "all" else column.overlap(wanted)
    return not_(found) if match == "none" else found


def worded(asked: str) -> ColumnElement[bool]:
    """Match services that have, for each word ``asked`` for, one that begins with it. Raises ``InvalidField``."""
    words = words_of(asked)
    if not 0 < len(words) <= MAX_WORDS:
        raise InvalidField(f"text: must have 1 to {MAX_WORDS} words.", param="text")
    query = " & ".join(f"'{word}':*" for word in words)
    return RegistryItem.words.op("@@", is_comparison=True)(func.to_tsquery(_SIMPLE, query))
