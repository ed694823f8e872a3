"""The registry's services in the database: by what they are, how they are, and what they depend on."""

from __future__ import annotations

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
    case,
    delete,
    func,
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
from hx_gateway.registry.audit_trail import Action, AuditTrail, Recorded
from hx_gateway.registry.errors import ITEM_RULES, DependencyCycle, NotDeleted, Rule
from hx_gateway.registry.graph import ServiceGraph, path_between
from hx_gateway.registry.intervals import first_wait
from hx_gateway.registry.item_counts import ItemCounts, is_counted, planned_rows
from hx_gateway.registry.item_edges import ItemEdges
from hx_gateway.registry.item_facets import FACET_COLUMNS, SAMPLED_TAGS, counted, tags_of
from hx_gateway.registry.item_graph import MAX_IMPACT, Direction, Impact, ItemGraph
from hx_gateway.registry.item_numbers import ItemNumbers
from hx_gateway.registry.item_search import RANKED, ItemSearch, health_of, places, prepare, tagged, worded
from hx_gateway.registry.orders import Order, SortKey
from hx_gateway.registry.pending_repository import PendingRepository
from hx_gateway.registry.repository import MAX_BULK, BaseRepository, BulkResult, Page, Values, check_version
from hx_gateway.registry.searches import ServiceSearch, objects_with, words_of
from hx_gateway.registry.statistics import Facets, ServiceStatistics, added_up, facets_of

_NAMES: ColumnElement[str] = func.unnest(bindparam("names", type_=ARRAY(Text))).column_valued("asked")

__all__ = ["RegistryItemRepository", "ServiceSearch", "ServiceStatistics"]


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
        self._edges = ItemEdges(session, trail.tenant_id)
        self._pending = PendingRepository(session, trail.tenant_id)

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

    async def purge(self, item_id: UUID, *, expected_version: int | None = None) -> RegistryItem:
        """Remove a deleted service for good, with all but what the audit log has of it; return it as it was.

        Living services that depend on it depend on its name from then on, whoever gets it. Raises ``NotFound``,
        :class:`NotDeleted`, :class:`VersionConflict`.
        """
        async with self._write():
            await self._trail.lock()
            return (await self._purge([item_id], expected_version))[0]

    async def bulk_purge(self, item_ids: Sequence[UUID]) -> BulkResult[RegistryItem]:
        """Remove at most ``MAX_BULK`` deleted services for good; otherwise as :meth:`bulk_delete`."""

        async def attempt(indexes: Sequence[int]) -> list[RegistryItem]:
            return await self._purge([item_ids[index] for index in indexes])

        return await self._in_bulk(len(item_ids), attempt, {}, atomic=False)

    async def update_health_status(
        self,
        item_id: UUID,
        status: ServiceStatus,
        *,
        response_time_ms: float | None = None,
        why: tuple[str | None, str | None] = (None, None),
    ) -> RegistryItem:
        """Note what was found out about a service, or decided (:meth:`RegistryItem.update_health_status`).

        A change of the status is audited; without one the row of counters is all that is written, and nobody waits
        but those who probe the same service. One a transaction: whoever noted several, in another order than somebody
        else at the same time, could wait for it as it waits for them. Raises ``NotFound``.
        """
        noted = {"response_time_ms": response_time_ms, "why": why}
        item = await self._count_only(item_id, status, noted)
        if item is not None:
            return item
        async with self._write():
            await self._trail.lock()
            (item,) = await self._locked([item_id])
            before = self._recorded(item)
            self._note(item, status, noted)
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
            changed.values(
                last_seen=func.greatest(ItemHealth.last_seen, seen),
                # Whoever probes next tells that it was seen again.
                next_check_at=case((ItemHealth.stale, seen), else_=ItemHealth.next_check_at),
            ).execution_options(synchronize_session=False)
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
            await numbers.of_probes(counts),
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
            yield tagged(search.tags, search.tags_match)
        yield from self._stale(search)
        yield from self._placed(search)

    async def _indexed(self, search: ServiceSearch) -> list[ColumnElement[bool]]:
        """Return the same conditions, of the tables that have indexes for them."""
        conditions = [*self._conditions(search.filters), *self._ids.with_tags(search), *self._stale(search)]
        conditions += self._placed(search)
        if search.text is not None:
            conditions += await self._ids.with_words(words_of(search.text), self._matches(search.text))
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
        return worded(text)

    def _made(self, values: Values) -> RegistryItem:
        item = super()._made(values)
        item.health.check_at(item.created_at + first_wait(item))
        return item

    async def _flush(self, items: Sequence[RegistryItem]) -> None:
        await super()._flush(items)
        await self._edges.store(items)

    async def _finish(self, action: Action, changed: Sequence[tuple[RegistryItem, Values | None]]) -> None:
        await self._finish_each(action, changed)
        if action == "deleted":
            return
        restored = action == "restored"
        named = [item.id for item, before in changed if restored or before is None or before["name"] != item.name]
        waiting = [item.id for item, _ in changed if item.pending_dependencies]
        await self._meet(named, waiting)

    # How

    async def _finish_each(self, action: Action, changed: Sequence[tuple[RegistryItem, Values | None]]) -> None:
        await super()._finish(action, changed)
        for item, before in changed:
            known = [] if before is None else before["pending_dependencies"]
            await self._pending.store(item.id, known, item.pending_dependencies)

    async def _meet(self, named: Collection[UUID], waiting: Collection[UUID]) -> None:
        """Let services depend on what they wait for where that is there. What would close a cycle goes on waiting."""
        met = await self._pending.met(named, waiting)
        if not met:
            return
        below = await self._edges.below({one.depends_on_id for one in met})
        ends: dict[UUID, dict[str, UUID]] = {}
        for item_id, name, end in met:
            if path_between(below, end, item_id) is None:
                below.setdefault(item_id, []).append(end)
                ends.setdefault(item_id, {})[name] = end
        items = await self._unlocked(RegistryItem.id.in_(ends))
        before = [self._recorded(item) for item in items]
        for item in items:
            found = ends[item.id]
            item.dependencies = sorted({*item.dependencies, *found.values()})
            item.pending_dependencies = [name for name in item.pending_dependencies if name not in found]
        await self._finish_each("updated", list(zip(items, before, strict=True)))

    async def _unlocked(self, condition: ColumnElement[bool]) -> Sequence[RegistryItem]:
        """Return living services to change beside others, under the tenant's lock alone, which is enough for that.

        Counters are not touched: whoever waited for those as well, with others' locked, could wait for a prober that
        waits for him.
        """
        query = self._query(include_deleted=False).where(condition).order_by(RegistryItem.id)
        return (await self._session.scalars(query)).all()

    async def _purge(self, item_ids: Sequence[UUID], expected_version: int | None = None) -> list[RegistryItem]:
        items = await self._locked(item_ids, include_deleted=True)
        for item in items:
            check_version(item, expected_version)
            if not item.is_deleted:
                raise NotDeleted(item.name)
        await self._let_wait_for(items)
        gone = [Recorded("purged", str(item.id), self._recorded(item), None) for item in items]
        await self._trail.record(self.kind, gone)
        for item in items:
            self._session.expunge(item)
        # With the item goes what refers to it. What probes found of it goes with age: it may be a million rows.
        own = and_(RegistryItem.tenant_id == self._trail.tenant_id, RegistryItem.id.in_(item_ids))
        await self._session.execute(delete(RegistryItem).where(own).execution_options(synchronize_session=False))
        return items

    async def _let_wait_for(self, items: Sequence[RegistryItem]) -> None:
        """Let living services that depend on some depend on their names instead."""
        names = {item.id: item.name for item in items}
        near = select(DependencyEdge.item_id).where(
            DependencyEdge.tenant_id == self._trail.tenant_id, DependencyEdge.depends_on_id.in_(names)
        )
        dependents = await self._unlocked(RegistryItem.id.in_(near))
        before = [self._recorded(item) for item in dependents]
        for item in dependents:
            gone = [names[end].lower() for end in item.dependencies if end in names]
            item.dependencies = [end for end in item.dependencies if end not in names]
            known = {name.lower(): name for name in item.pending_dependencies}
            more = {name.lower(): name for name in names.values() if name.lower() in gone}
            # One of the same name would wait for itself.
            item.pending_dependencies = sorted(
                name for key, name in {**more, **known}.items() if key != item.name.lower()
            )
        await self._finish("updated", list(zip(dependents, before, strict=True)))

    async def _count_only(self, item_id: UUID, status: ServiceStatus, noted: Values) -> RegistryItem | None:
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
            self._note(item, status, noted)
            await self._session.flush()
            return item

    def _note(self, item: RegistryItem, status: ServiceStatus, noted: Values) -> None:
        item.update_health_status(status, now=self._trail.now, **noted)
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
