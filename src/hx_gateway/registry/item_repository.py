"""The registry's services in the database: by what they are, how they are, and what they depend on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager
from sqlalchemy.orm.interfaces import ORMOption

from hx_gateway.access.errors import InvalidField, no_such
from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_index import ItemCount, ItemTag
from hx_gateway.db.models.registry_items import (
    HEALTH_COLUMNS,
    BuildType,
    DependencyEdge,
    DependencyKind,
    ItemHealth,
    RegistryItem,
    ServiceStatus,
    unchanged_by,
)
from hx_gateway.db.models.validation import unstorable
from hx_gateway.registry.audit_trail import AuditTrail, Recorded
from hx_gateway.registry.errors import ITEM_RULES, DependencyCycle, Rule
from hx_gateway.registry.graph import ServiceGraph, path_between
from hx_gateway.registry.item_counts import ItemCounts, is_counted, planned_rows
from hx_gateway.registry.item_facets import FACET_COLUMNS, SAMPLED_TAGS, counted, tags_of
from hx_gateway.registry.item_graph import MAX_IMPACT, Direction, Impact, ItemGraph
from hx_gateway.registry.item_numbers import ItemNumbers
from hx_gateway.registry.item_search import RANKED, ItemSearch, health_of, places, prepare
from hx_gateway.registry.orders import Order, SortKey
from hx_gateway.registry.repository import MAX_BULK, BaseRepository, Page, Values
from hx_gateway.registry.searches import ServiceSearch, objects_with
from hx_gateway.registry.statistics import Facets, ServiceStatistics, added_up, facets_of

MAX_WORDS = 16
_WORD = re.compile(r"[^\W_]+")
_SIMPLE: ColumnElement[Any] = literal_column("'pg_catalog.simple'::regconfig")
_NAMES: ColumnElement[str] = func.unnest(bindparam("names", type_=ARRAY(Text))).column_valued("asked")

__all__ = ["MAX_WORDS", "RegistryItemRepository", "ServiceSearch", "ServiceStatistics"]


class RegistryItemRepository(BaseRepository[RegistryItem]):
    """A tenant's services. Pages are those of :meth:`get_multi`; names are compared without case."""

    model = RegistryItem
    rules: ClassVar[Mapping[str, Rule]] = ITEM_RULES
    sortable: ClassVar[frozenset[str]] = frozenset(
        {"created_at", "updated_at", "name", "build_type", "protocol", "priority", "status"}
    )

    def __init__(self, session: AsyncSession, trail: AuditTrail) -> None:
        super().__init__(session, trail)
        self._ids = ItemSearch(session, trail.tenant_id)
        self._counts = ItemCounts(session, trail.tenant_id)
        self._graph = ItemGraph(session, trail.tenant_id)

    async def get_by_name(self, name: str, *, include_deleted: bool = False) -> RegistryItem | None:
        """Return the service of that name; with ``include_deleted`` the oldest that has or had it."""
        return await self.get_by_field("name", name, include_deleted=include_deleted)

    async def get_by_build_type(
        self, build_type: BuildType, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RegistryItem]:
        """Return a page of the services that are made so."""
        return await self.get_multi({"build_type": build_type}, limit=limit, cursor=cursor)

    async def get_by_status(
        self, status: ServiceStatus, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RegistryItem]:
        """Return a page of the services that have that status."""
        return await self.get_multi({"status": status}, limit=limit, cursor=cursor)

    async def get_healthy_services(self, *, limit: int = 50, cursor: str | None = None) -> Page[RegistryItem]:
        """Return a page of the healthy services that are enabled."""
        return await self.get_multi({"status": ServiceStatus.HEALTHY, "is_enabled": True}, limit=limit, cursor=cursor)

    async def get_required_services(self, *, limit: int = 50, cursor: str | None = None) -> Page[RegistryItem]:
        """Return a page of the required services."""
        return await self.get_multi({"is_required": True}, limit=limit, cursor=cursor)

    async def get_by_tags(
        self, tags: Collection[str], *, match_all: bool = False, limit: int = 50, cursor: str | None = None
    ) -> Page[RegistryItem]:
        """Return a page of the services that have any of ``tags``, with ``match_all`` all of them."""
        if not tags:
            raise InvalidField("tags: must be one text or more, without NUL characters.", param="tags")
        search = ServiceSearch(tags=frozenset(tags), tags_match="all" if match_all else "any")
        return await self.find(search, limit=limit, cursor=cursor)

    async def get_stale_services(
        self, older_than: timedelta, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RegistryItem]:
        """Return a page of the services that were not seen for ``older_than``, or never."""
        return await self.find(ServiceSearch(stale_for=older_than), limit=limit, cursor=cursor)

    async def find(
        self,
        search: ServiceSearch,
        *,
        sort: str = "created_at",
        limit: int = 50,
        cursor: str | None = None,
        skip: int = 0,
    ) -> Page[RegistryItem]:
        """Return a page of the services that pass ``search``, but for the first ``skip``; the rest as in
        :meth:`get_multi`.

        A search that includes the deleted looks at them one by one, and takes as long as there are many.
        """
        order = self._order(search.key(), sort=sort, limit=limit, cursor=cursor)
        conditions = [*self._searched(search)]
        if search.deleted == "without" and (skip or len(order.keys) > 1):
            return await self._in_steps(search, order, conditions, skip)
        if search.deleted != "without" or not conditions:
            query = self._query(include_deleted=search.deleted != "without")
            return await self._page(query.where(*conditions), order, skip=skip)
        nearby = self._ids.nearby(search, order, conditions)
        found = [] if nearby is None else await self._loaded(nearby, order)
        if len(found) <= order.limit:
            await prepare(self._session)
            found = await self._loaded(self._ids.gathered(search, order, await self._indexed(search)), order)
        return self._cut(found, order)

    async def get_dependencies(self, item_id: UUID) -> list[RegistryItem]:
        """Return the living services that one, deleted or not, depends on, by name. Raises ``NotFound``."""
        return await self._at_the_other_end(item_id, DependencyEdge.item_id, DependencyEdge.depends_on_id)

    async def get_dependents(self, item_id: UUID) -> list[RegistryItem]:
        """Return the living services that depend on one, deleted or not, by name. Raises ``NotFound``."""
        return await self._at_the_other_end(item_id, DependencyEdge.depends_on_id, DependencyEdge.item_id)

    async def get_impact(
        self, item_id: UUID, *, limit: int = MAX_IMPACT, kinds: Collection[DependencyKind] = frozenset(DependencyKind)
    ) -> Impact:
        """Return which living services depend on one, near or far, by dependencies of ``kinds``: the first ``limit``.

        Raises ``NotFound``.
        """
        status = await self._graph.status(item_id)
        if status is None:
            raise no_such(self.kind, str(item_id))
        return await self._graph.impact(item_id, status, limit=limit, kinds=kinds)

    async def get_graph(
        self, root: UUID | None = None, *, direction: Direction = "both", depth: int | None = None
    ) -> ServiceGraph:
        """Return the living services and their dependencies: all, or those around ``root``, ``depth`` steps off.

        Raises ``NotFound``, and ``InvalidField`` for more than ``MAX_GRAPH``.
        """
        if root is not None and await self._graph.status(root) is None:
            raise no_such(self.kind, str(root))
        return await self._graph.graph(root, direction=direction, depth=depth)

    async def get_dependency_kinds(self, item_id: UUID) -> dict[UUID, DependencyKind]:
        """Return what a service needs each of its dependencies for, by their ids."""
        return await self._graph.kinds(item_id)

    async def add_dependency(
        self, item_id: UUID, depends_on_id: UUID, *, kind: DependencyKind | None = None
    ) -> RegistryItem:
        """Let a service depend on another one. Raises ``NotFound``, and :class:`DependencyCycle` with its path.

        ``kind`` says what for, also of a dependency that there is already; without it a new one is for the runtime.
        """
        async with self._write():
            item = await self._change_dependency(item_id, depends_on_id, RegistryItem.add_dependency)
            if kind is not None:
                await self._set_kind(item, depends_on_id, DependencyKind(kind))
            return item

    async def remove_dependency(self, item_id: UUID, depends_on_id: UUID) -> RegistryItem:
        """Let a service no longer depend on another one. Raises ``NotFound``."""
        return await self._change_dependency(item_id, depends_on_id, RegistryItem.remove_dependency)

    async def update_health_status(
        self, item_id: UUID, status: ServiceStatus, *, response_time_ms: float | None = None
    ) -> RegistryItem:
        """Note what was found out about a service, or decided (:meth:`RegistryItem.update_health_status`).

        A change of the status is audited; without one the row of counters is all that is written, and nobody waits
        but those who probe the same service. One a transaction: whoever noted several, in another order than somebody
        else at the same time, could wait for it as it waits for them. Raises ``NotFound``.
        """
        item = await self._count_only(item_id, status, response_time_ms)
        if item is not None:
            return item
        async with self._write():
            await self._trail.lock()
            (item,) = await self._locked([item_id])
            before = self._recorded(item)
            self._note(item, status, response_time_ms)
            await self._finish("updated", [(item, before)])
            return item

    async def bulk_update_last_seen(self, item_ids: Collection[UUID], *, at: datetime | None = None) -> set[UUID]:
        """Note that at most ``MAX_BULK`` services were seen; return the ids of those there are.

        An earlier time than the one that is known changes nothing. Sights are not audited.
        """
        if len(item_ids) > MAX_BULK:
            raise InvalidField(f"At most {MAX_BULK} at once, not {len(item_ids)}.", param="items")
        seen = at or self._trail.now
        found = await self._lock_sights(item_ids)
        changed = update(ItemHealth).where(ItemHealth.tenant_id == self._trail.tenant_id, ItemHealth.item_id.in_(found))
        await self._session.execute(
            changed.values(last_seen=func.greatest(ItemHealth.last_seen, seen)).execution_options(
                synchronize_session=False
            )
        )
        return set(found)

    async def ids_of(self, names: Collection[str]) -> dict[str, UUID]:
        """Return the ids of the living services that have one of ``names``, by the name as it was asked for."""
        asked = [name for name in names if 0 < len(name) <= NAME_CHARS and unstorable(name) is None]
        query = select(_NAMES, RegistryItem.id).where(
            RegistryItem.tenant_id == self._trail.tenant_id,
            RegistryItem.deleted_at.is_(None),
            RegistryItem.name_key == func.lower(_NAMES),
        )
        return {row.asked: row.id for row in await self._session.execute(query, {"names": asked})}

    async def get_service_statistics(self) -> ServiceStatistics:
        """Return numbers of all the tenant's services."""
        query = select(ItemCount.__table__).where(ItemCount.tenant_id == self._trail.tenant_id)
        counts = [row for row in await self._session.execute(query) if row.items]
        await prepare(self._session)
        numbers = ItemNumbers(self._session, self._trail.tenant_id, self._trail.now)
        unwell = any(row.is_required and row.is_active and row.status is ServiceStatus.UNHEALTHY for row in counts)
        return added_up(
            counts,
            await numbers.of_probes(any_deleted=any(not row.is_active for row in counts)),
            unhealthy_required=await numbers.unhealthy_required() if unwell else (),
            most_depended_on=await numbers.most_depended_on(),
        )

    async def count_found(self, search: ServiceSearch) -> int:
        """Return how many services pass ``search``."""
        conditions = [*self._searched(search)]
        if is_counted(search):
            return sum(row.items for row in await self._counts.alike(search.filters))
        query = self._rows(func.count(), include_deleted=search.deleted != "without")
        return await self._session.scalar(query.where(*conditions)) or 0

    async def estimate_found(self, search: ServiceSearch) -> tuple[int, bool]:
        """Return about how many services pass ``search``, and whether that is an estimate: some are counted anyway."""
        if is_counted(search):
            return await self.count_found(search), False
        query = self._rows(RegistryItem.id, include_deleted=search.deleted != "without")
        return await planned_rows(self._session, query.where(*self._searched(search))), True

    async def get_facets(self, search: ServiceSearch, *, tags: int) -> tuple[Facets, list[tuple[str, int]], int]:
        """Return how many of the services that pass ``search`` have each value, and ``tags`` of the most frequent tags.

        The last number is how many services the tags were counted in: some, where they are many.
        """
        conditions = [*self._searched(search)]
        await prepare(self._session)
        if search.deleted == "without":
            conditions = await self._indexed(search)
        query = self._rows(*FACET_COLUMNS, include_deleted=search.deleted != "without").where(*conditions)
        if is_counted(search):
            rows = [*await self._counts.alike(search.filters)]
            _, ids = await counted(self._session, query.order_by(RegistryItem.id).limit(SAMPLED_TAGS))
        else:
            rows, ids = await counted(self._session, query)
        return facets_of(rows), await tags_of(self._session, self._trail.tenant_id, ids, limit=tags), len(ids)

    async def tag_counts(self, *, limit: int) -> list[tuple[str, int]]:
        """Return the tags of living services with how many have each, the most frequent first."""
        query = select(ItemTag.tag, func.count()).where(ItemTag.tenant_id == self._trail.tenant_id)
        query = query.group_by(ItemTag.tag).order_by(func.count().desc(), ItemTag.tag)
        return [(row[0], row[1]) for row in await self._session.execute(query.limit(limit))]

    def _searched(self, search: ServiceSearch) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions as they are of the services' own rows."""
        yield from self._conditions(search.filters)
        if search.deleted == "only":
            yield RegistryItem.deleted_at.is_not(None)
        if search.text is not None:
            yield self._matching(search.text)
        if search.tags:
            yield _tagged(search.tags, search.tags_match)
        yield from self._stale(search)
        yield from self._placed(search)

    async def _indexed(self, search: ServiceSearch) -> list[ColumnElement[bool]]:
        """Return the same conditions, of the tables that have indexes for them."""
        conditions = [*self._conditions(search.filters), *self._ids.with_tags(search), *self._stale(search)]
        conditions += self._placed(search)
        if search.text is not None:
            conditions += await self._ids.with_words(_WORD.findall(search.text), self._matches(search.text))
        return conditions

    def _stale(self, search: ServiceSearch) -> Iterator[ColumnElement[bool]]:
        if search.stale_for is not None:
            seen = ItemHealth.last_seen
            yield or_(seen.is_(None), seen < self._trail.now - search.stale_for)

    def _placed(self, search: ServiceSearch) -> Iterator[ColumnElement[bool]]:
        item = RegistryItem
        if search.name_prefix is not None:
            if unstorable(search.name_prefix) is not None:
                raise InvalidField("name_prefix: must be a text without NUL characters.", param="name_prefix")
            yield func.starts_with(item.name_key, func.lower(search.name_prefix))
        if search.created_after is not None:
            yield item.created_at >= search.created_after
        if search.created_before is not None:
            yield item.created_at < search.created_before
        if search.updated_since is not None:
            yield item.updated_at >= search.updated_since
        if search.metadata:
            yield item.__table__.c.service_metadata.contains(search.metadata)
        for path, value in search.members:
            column = item.__table__.c.service_metadata
            yield or_(*(column.contains(one) for one in objects_with(path, value)))
        if search.depends_on is not None:
            edge = DependencyEdge
            near = and_(edge.tenant_id == item.tenant_id, edge.item_id == item.id)
            yield select(edge.item_id).where(near, edge.depends_on_id == search.depends_on).exists()

    async def _in_steps(
        self, search: ServiceSearch, order: Order, conditions: Sequence[ColumnElement[bool]], skip: int
    ) -> Page[RegistryItem]:
        whole = replace(order, limit=order.limit + skip)
        ids = await self._ids.in_steps(search, whole, conditions)
        if ids is None:
            await prepare(self._session)
            ids = await self._ids.ids(self._ids.gathered(search, whole, await self._indexed(search)), whole)
        query = self._query(include_deleted=False).where(RegistryItem.id.in_(ids[skip : whole.limit]))
        found = {item.id: item for item in await self._session.scalars(query)}
        # Without those that were deleted since their ids were read.
        items = [found[item_id] for item_id in ids[skip : whole.limit] if item_id in found]
        return Page(items, order.cursor(items[-1]) if items and len(ids) > whole.limit else None)

    async def _loaded(self, page: Subquery, order: Order) -> Sequence[RegistryItem]:
        query = self._query(include_deleted=False).join(page, page.c.id == RegistryItem.id)
        return (await self._session.scalars(query.order_by(*order.by(*places(page, order))))).all()

    # What is different from other models

    def _sort_key(self, field: str, *, down: bool) -> SortKey:
        if field not in RANKED:
            return super()._sort_key(field, down=down)
        # By its number, as the index has it.
        column, members = RANKED[field]
        return SortKey(field, down, column, [*members].index)

    async def _list(
        self,
        text: str | None,
        filters: Values | None,
        *,
        sort: str,
        limit: int,
        cursor: str | None,
        include_deleted: bool,
    ) -> Page[RegistryItem]:
        deleted: Literal["with", "without"] = "with" if include_deleted else "without"
        search = ServiceSearch(filters=filters or {}, text=text, deleted=deleted)
        return await self.find(search, sort=sort, limit=limit, cursor=cursor)

    def _rows(self, *columns: Any, include_deleted: bool = False) -> Select[Any]:
        return super()._rows(*columns, include_deleted=include_deleted).join(ItemHealth, health_of(RegistryItem))

    def _options(self) -> Sequence[ORMOption]:
        return (contains_eager(RegistryItem.health),)

    def _locks(self) -> Sequence[type[Base]]:
        # The counters too: they are read, and written with what was counted.
        return (RegistryItem, ItemHealth)

    def _columns(self) -> Mapping[str, Column[Any]]:
        return {**super()._columns(), **HEALTH_COLUMNS}

    def _equals(self, field: str, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        if field == "name":
            return RegistryItem.name_key.in_([func.lower(value) for value in values])
        if field in RANKED:
            rank, members = RANKED[field]
            found: ColumnElement[bool] = rank.in_([[*members].index(value) for value in values])
            return found
        return super()._equals(field, column, values)

    def _matches(self, text: str) -> ColumnElement[bool]:
        """Match services that have, for each word of ``text``, one that begins with it, in whatever case."""
        words = words_of(text)
        if not 0 < len(words) <= MAX_WORDS:
            raise InvalidField(f"text: must have 1 to {MAX_WORDS} words.", param="text")
        query = " & ".join(f"'{word}':*" for word in words)
        return RegistryItem.words.op("@@", is_comparison=True)(func.to_tsquery(_SIMPLE, query))

    async def _flush(self, items: Sequence[RegistryItem]) -> None:
        await super()._flush(items)
        await self._store_edges(items)

    # How

    async def _count_only(
        self, item_id: UUID, status: ServiceStatus, response_time_ms: float | None
    ) -> RegistryItem | None:
        """Note what does not change the service's status; ``None``, and nothing done, where it would."""
        query = self._query(include_deleted=False).where(
            RegistryItem.id == item_id, ItemHealth.status.in_(unchanged_by(status))
        )
        async with self._session.begin_nested() as savepoint:
            item: RegistryItem | None = await self._session.scalar(query.with_for_update(of=ItemHealth))
            if item is None:
                # Whoever waited for a row that then was another one has it locked all the same. Everybody else takes
                # the tenant's lock before such a row: who holds one and asks for the other meets them.
                await savepoint.rollback()
                return None
            self._note(item, status, response_time_ms)
            await self._session.flush()
            return item

    def _note(self, item: RegistryItem, status: ServiceStatus, response_time_ms: float | None) -> None:
        item.update_health_status(status, response_time_ms=response_time_ms, now=self._trail.now)
        item.validate_model()

    async def _lock_sights(self, item_ids: Collection[UUID]) -> Sequence[UUID]:
        """Lock the counters of living services, in one order.

        Whoever holds the tenant's lock takes such rows one after the other in whichever order, and would wait for one
        of these while these wait for one of its own. So none of several is waited for without that lock.
        """
        living = self._rows(ItemHealth.item_id).where(RegistryItem.id.in_(item_ids)).order_by(ItemHealth.item_id)
        if len(item_ids) > 1:
            async with self._session.begin_nested() as savepoint:
                free = living.with_for_update(of=ItemHealth, skip_locked=True)
                found = (await self._session.scalars(free)).all()
                if len(found) == len(item_ids) or found == (await self._session.scalars(living)).all():
                    return found
                await savepoint.rollback()
            await self._trail.lock()
        return (await self._session.scalars(living.with_for_update(of=ItemHealth))).all()

    async def _at_the_other_end(self, item_id: UUID, near: Any, far: Any) -> list[RegistryItem]:
        if await self.get(item_id, include_deleted=True) is None:
            raise no_such(self.kind, str(item_id))
        ends = select(far).where(DependencyEdge.tenant_id == self._trail.tenant_id, near == item_id)
        query = self._query(include_deleted=False).where(RegistryItem.id.in_(ends))
        return list((await self._session.scalars(query.order_by(RegistryItem.name, RegistryItem.id))).all())

    async def _change_dependency(self, item_id: UUID, depends_on_id: UUID, change: Any) -> RegistryItem:
        async with self._write():
            await self._trail.lock()
            if item_id == depends_on_id:
                (item,) = await self._locked([item_id])
                raise DependencyCycle([item.name, item.name])
            item, other = await self._locked([item_id, depends_on_id])
            before = self._recorded(item)
            change(item, other)
            await self._finish("updated", [(item, before)])
            return item

    async def _set_kind(self, item: RegistryItem, depends_on_id: UUID, kind: DependencyKind) -> None:
        before = (await self._graph.kinds(item.id))[depends_on_id]
        if before is kind:
            return
        edge = and_(DependencyEdge.item_id == item.id, DependencyEdge.depends_on_id == depends_on_id)
        changed = update(DependencyEdge).where(DependencyEdge.tenant_id == self._trail.tenant_id, edge)
        await self._session.execute(changed.values(kind=kind).execution_options(synchronize_session=False))
        item.row_version += 1
        item.touch(self._trail.author.name, now=self._trail.now)
        await self._session.flush()
        told = [{"dependency_kinds": {str(depends_on_id): one.value}} for one in (before, kind)]
        await self._trail.record(self.kind, [Recorded("updated", str(item.id), *told)])

    async def _store_edges(self, items: Sequence[RegistryItem]) -> None:
        """Bring edges to what the items' ``dependencies`` say. Whoever adds one holds the tenant's lock."""
        tenant_id = self._trail.tenant_id
        own = and_(DependencyEdge.tenant_id == tenant_id, DependencyEdge.item_id.in_([item.id for item in items]))
        stored = {(row.item_id, row.depends_on_id) for row in await self._session.execute(_edges().where(own))}
        wanted = {(item.id, end) for item in items for end in item.dependencies}
        for item_id, end in stored - wanted:
            gone = and_(DependencyEdge.item_id == item_id, DependencyEdge.depends_on_id == end)
            await self._session.execute(delete(DependencyEdge).where(DependencyEdge.tenant_id == tenant_id, gone))
        added = sorted(wanted - stored)
        if not added:
            return
        await self._check_ends({end for _, end in added})
        rows = [{"tenant_id": tenant_id, "item_id": item_id, "depends_on_id": end} for item_id, end in added]
        await self._session.execute(insert(DependencyEdge), rows)
        await self._check_cycles(added)

    async def _check_ends(self, ends: set[UUID]) -> None:
        living = set((await self._session.scalars(self._rows(RegistryItem.id).where(RegistryItem.id.in_(ends)))).all())
        missing = sorted(ends - living)
        if missing:
            raise no_such(self.kind, str(missing[0]), param="dependencies")

    async def _check_cycles(self, added: Sequence[tuple[UUID, UUID]]) -> None:
        """Raise :class:`DependencyCycle` if a path leads back from one of the new edges, which are written already."""
        tenant_id = self._trail.tenant_id
        # A cycle comes back to where the edge begins: to a service that others depend on, which a new one is not.
        needed = select(DependencyEdge.depends_on_id).where(
            DependencyEdge.tenant_id == tenant_id, DependencyEdge.depends_on_id.in_({item_id for item_id, _ in added})
        )
        depended_on = set((await self._session.scalars(needed.distinct())).all())
        added = [edge for edge in added if edge[0] in depended_on]
        if not added:
            return
        starts = {end for _, end in added}
        reached = _edges().where(DependencyEdge.tenant_id == tenant_id, DependencyEdge.item_id.in_(starts))
        line = reached.cte("line", recursive=True)
        further = and_(DependencyEdge.tenant_id == tenant_id, DependencyEdge.item_id == line.c.depends_on_id)
        found: dict[UUID, list[UUID]] = {}
        for item_id, end in await self._session.execute(select(line.union(_edges().join(line, further)))):
            found.setdefault(item_id, []).append(end)
        for item_id, end in added:
            path = path_between(found, end, item_id)
            if path is not None:
                raise DependencyCycle(await self._names([item_id, *path]))

    async def _names(self, item_ids: Sequence[UUID]) -> list[str]:
        query = self._rows(RegistryItem.id, RegistryItem.name, include_deleted=True)
        rows = await self._session.execute(query.where(RegistryItem.id.in_(item_ids)))
        names = {row.id: row.name for row in rows}
        return [names[item_id] for item_id in item_ids]


def words_of(text: str) -> list[str]:
    """Return the words that a service is searched by: from 1 to :data:`MAX_WORDS` there may be."""
    return _WORD.findall(text)


def _tagged(tags: frozenset[str], match: Literal["any", "all", "none"]) -> ColumnElement[bool]:
    if not all(isinstance(tag, str) and unstorable(tag) is None for tag in tags):
        raise InvalidField("tags: must be one text or more, without NUL characters.", param="tags")
    wanted, column = sorted(tags), RegistryItem.__table__.c.tags
    tagged: ColumnElement[bool] = column.contains(wanted) if match == "all" else column.overlap(wanted)
    return not_(tagged) if match == "none" else tagged


def _edges() -> Select[UUID, UUID]:
    return select(DependencyEdge.item_id, DependencyEdge.depends_on_id)
