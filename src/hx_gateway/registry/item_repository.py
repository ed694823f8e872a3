"""The registry's services in the database: by what they are, how they are, and what they depend on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    cast,
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
from sqlalchemy.orm import contains_eager
from sqlalchemy.orm.interfaces import ORMOption

from hx_gateway.access.errors import InvalidField, no_such
from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import (
    HEALTH_COLUMNS,
    BuildType,
    DependencyEdge,
    ItemHealth,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
    unchanged_by,
)
from hx_gateway.db.models.validation import unstorable
from hx_gateway.registry.errors import ITEM_RULES, DependencyCycle, Rule
from hx_gateway.registry.graph import path_between
from hx_gateway.registry.repository import MAX_BULK, BaseRepository, Page, in_order

MAX_WORDS = 16
_WORD = re.compile(r"[^\W_]+")
_SIMPLE: ColumnElement[Any] = literal_column("'pg_catalog.simple'::regconfig")
_NAMES: ColumnElement[str] = func.unnest(bindparam("names", type_=ARRAY(Text))).column_valued("asked")
_HEALTH = and_(ItemHealth.tenant_id == RegistryItem.tenant_id, ItemHealth.item_id == RegistryItem.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """Numbers of a tenant's services. All but ``total`` and ``deleted`` count the living only.

    ``average_response_time_ms`` is over the last times of those that have one, ``None`` where none has.
    """

    total: int
    active: int
    deleted: int
    enabled: int
    required: int
    required_not_healthy: int
    by_status: Mapping[ServiceStatus, int]
    by_build_type: Mapping[BuildType, int]
    by_protocol: Mapping[ServiceProtocol, int]
    by_priority: Mapping[ServicePriority, int]
    success_count: int
    failure_count: int
    average_response_time_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSearch:
    """Which services are looked for: those that pass all that is given.

    ``filters`` as in :meth:`BaseRepository.get_multi`; ``text`` as in :meth:`BaseRepository.search`. Of ``tags`` a
    service has any, all or none, as ``tags_match`` says. ``stale_for``: not seen for so long, or never. Times are
    aware; ``created_before`` is not among those that are found, the other two are. ``metadata`` is contained in the
    service's. ``deleted``: without those that are deleted, with them, or only them.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    tags: frozenset[str] = frozenset()
    tags_match: Literal["any", "all", "none"] = "any"
    stale_for: timedelta | None = None
    name_prefix: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None
    depends_on: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    deleted: Literal["without", "with", "only"] = "without"

    def key(self) -> object:
        """Return what tells this search from others, the same in every process."""
        return in_order(tuple(getattr(self, part.name) for part in fields(self)))


class RegistryItemRepository(BaseRepository[RegistryItem]):
    """A tenant's services. Pages are those of :meth:`get_multi`; names are compared without case."""

    model = RegistryItem
    rules: ClassVar[Mapping[str, Rule]] = ITEM_RULES
    sortable: ClassVar[frozenset[str]] = frozenset(
        {"created_at", "updated_at", "name", "build_type", "protocol", "priority", "status"}
    )

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
        self, search: ServiceSearch, *, sort: str = "created_at", limit: int = 50, cursor: str | None = None
    ) -> Page[RegistryItem]:
        """Return a page of the services that pass ``search``; the rest as in :meth:`get_multi`."""
        query = self._query(include_deleted=search.deleted != "without").where(*self._searched(search))
        return await self._page(query, search.key(), sort=sort, limit=limit, cursor=cursor)

    async def count_found(self, search: ServiceSearch) -> int:
        """Return how many services pass ``search``."""
        query = self._rows(func.count(), include_deleted=search.deleted != "without")
        return await self._session.scalar(query.where(*self._searched(search))) or 0

    async def get_dependencies(self, item_id: UUID) -> list[RegistryItem]:
        """Return the living services that one, deleted or not, depends on, by name. Raises ``NotFound``."""
        return await self._at_the_other_end(item_id, DependencyEdge.item_id, DependencyEdge.depends_on_id)

    async def get_dependents(self, item_id: UUID) -> list[RegistryItem]:
        """Return the living services that depend on one, deleted or not, by name. Raises ``NotFound``."""
        return await self._at_the_other_end(item_id, DependencyEdge.depends_on_id, DependencyEdge.item_id)

    async def add_dependency(self, item_id: UUID, depends_on_id: UUID) -> RegistryItem:
        """Let a service depend on another one. Raises ``NotFound``, and :class:`DependencyCycle` with its path."""
        return await self._change_dependency(item_id, depends_on_id, RegistryItem.add_dependency)

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
        # In one order: two of these at once would wait for each other otherwise.
        living = self._rows(ItemHealth.item_id).where(RegistryItem.id.in_(item_ids))
        found = (await self._session.scalars(living.order_by(ItemHealth.item_id).with_for_update(of=ItemHealth))).all()
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
        """Return numbers of all the tenant's services, from one look at them."""
        living, health = RegistryItem.deleted_at.is_(None), ItemHealth
        not_healthy = health.status != ServiceStatus.HEALTHY
        groups: Mapping[str, tuple[Any, type[Any]]] = {
            "by_status": (health.status, ServiceStatus),
            "by_build_type": (RegistryItem.build_type, BuildType),
            "by_protocol": (RegistryItem.protocol, ServiceProtocol),
            "by_priority": (RegistryItem.priority, ServicePriority),
        }
        plain = {
            "total": func.count(),
            "active": _number(living),
            "deleted": _number(RegistryItem.deleted_at.is_not(None)),
            "enabled": _number(living, RegistryItem.is_enabled),
            "required": _number(living, RegistryItem.is_required),
            "required_not_healthy": _number(living, RegistryItem.is_required, not_healthy),
            "success_count": _sum(health.success_count, living),
            "failure_count": _sum(health.failure_count, living),
            "average_response_time_ms": func.avg(health.response_time_ms).filter(living),
        }
        grouped = {
            f"{group}.{member}": _number(living, column == member)
            for group, (column, members) in groups.items()
            for member in members
        }
        columns = [column.label(name) for name, column in {**plain, **grouped}.items()]
        row = (await self._session.execute(self._rows(*columns, include_deleted=True))).mappings().one()
        numbers: dict[str, Any] = {name: row[name] for name in plain}
        for group, (_, kind) in groups.items():
            numbers[group] = {member: row[f"{group}.{member}"] for member in kind}
        return ServiceStatistics(**numbers)

    async def tag_counts(self, *, limit: int) -> list[tuple[str, int]]:
        """Return the tags of living services with how many have each, the most frequent first."""
        tags = self._rows(func.unnest(RegistryItem.tags).label("tag")).subquery()
        query = select(tags.c.tag, func.count()).group_by(tags.c.tag)
        rows = await self._session.execute(query.order_by(func.count().desc(), tags.c.tag).limit(limit))
        return [(row[0], row[1]) for row in rows]

    def _searched(self, search: ServiceSearch) -> Iterator[ColumnElement[bool]]:
        yield from self._conditions(search.filters)
        if search.deleted == "only":
            yield RegistryItem.deleted_at.is_not(None)
        if search.text is not None:
            yield self._matching(search.text)
        if search.tags:
            yield _tagged(search.tags, search.tags_match)
        if search.stale_for is not None:
            seen = ItemHealth.last_seen
            yield or_(seen.is_(None), seen < self._trail.now - search.stale_for)
        yield from self._placed(search)

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
        if search.depends_on is not None:
            edge = DependencyEdge
            near = and_(edge.tenant_id == item.tenant_id, edge.item_id == item.id)
            yield select(edge.item_id).where(near, edge.depends_on_id == search.depends_on).exists()

    # What is different from other models

    def _rows(self, *columns: Any, include_deleted: bool = False) -> Select[Any]:
        return super()._rows(*columns, include_deleted=include_deleted).join(ItemHealth, _HEALTH)

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
        return super()._equals(field, column, values)

    def _matches(self, text: str) -> ColumnElement[bool]:
        """Match services that have, for each word of ``text``, one that begins with it, in whatever case."""
        words = _WORD.findall(text)
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


def _tagged(tags: frozenset[str], match: Literal["any", "all", "none"]) -> ColumnElement[bool]:
    if not all(isinstance(tag, str) and unstorable(tag) is None for tag in tags):
        raise InvalidField("tags: must be one text or more, without NUL characters.", param="tags")
    wanted, column = sorted(tags), RegistryItem.__table__.c.tags
    tagged: ColumnElement[bool] = column.contains(wanted) if match == "all" else column.overlap(wanted)
    return not_(tagged) if match == "none" else tagged


def _edges() -> Select[UUID, UUID]:
    return select(DependencyEdge.item_id, DependencyEdge.depends_on_id)


def _number(*conditions: Any) -> ColumnElement[int]:
    return func.count().filter(*conditions)


def _sum(column: Any, *conditions: Any) -> ColumnElement[int]:
    return func.coalesce(cast(func.sum(column).filter(*conditions), BigInteger), 0)
