"""The dependencies of a tenant's services in the database, as a whole: graphs, and what a failure would reach."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, Uuid, and_, cast, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import (
    DependencyEdge,
    DependencyKind,
    ItemHealth,
    RegistryItem,
    ServicePriority,
    ServiceStatus,
)
from hx_gateway.registry.graph import Edge, Node, ServiceGraph, distances, effective
from hx_gateway.registry.item_search import health_of, prepare

MAX_GRAPH = 10_000
MAX_IMPACT = 200
Direction = Literal["dependencies", "dependents", "both"]
_edge, _item = DependencyEdge, RegistryItem
_IMPORTANCE = (_item.id, _item.is_required, _item.priority_rank, _item.name)
_NODE: tuple[Any, ...] = (_item.id, _item.name, ItemHealth.status, _item.priority, _item.is_required)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactedService:
    """A service that depends on another one, near (``direct``) or far.

    ``effective_status`` is the worst of its own status and of those of the required services that it needs at runtime,
    near or far; what was deleted of these counts as disabled.
    """

    id: UUID
    name: str
    status: ServiceStatus
    effective_status: ServiceStatus
    priority: ServicePriority
    is_required: bool
    direct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What a failure of a service would reach: ``total`` services, ``required`` of them required.

    ``services`` are the first of them: the required ones, by priority and name, then the others. ``effective_status``
    is the service's own.
    """

    effective_status: ServiceStatus
    total: int
    required: int
    services: Sequence[ImpactedService]


class ItemGraph:
    """Reads the dependencies between a tenant's living services, in one transaction of the tenant's."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def status(self, item_id: UUID) -> ServiceStatus | None:
        """Return how a living service is, without all that depends on it, which may be thousands."""
        query = self._living(select(ItemHealth.status)).where(_item.id == item_id)
        status: ServiceStatus | None = await self._session.scalar(query)
        return status

    async def impact(
        self, item_id: UUID, status: ServiceStatus, *, limit: int, kinds: Collection[DependencyKind]
    ) -> Impact:
        """Return what depends on a service that has ``status``, by dependencies of ``kinds``."""
        if not 1 <= limit <= MAX_IMPACT:
            raise InvalidField(f"limit: must be between 1 and {MAX_IMPACT}.", param="limit")
        await prepare(self._session)
        first = self._first_above(item_id, kinds, limit)
        direct = exists().where(
            self._edges_of_tenant(), _edge.item_id == _item.id, _edge.depends_on_id == item_id, _edge.kind.in_(kinds)
        )
        query = self._living(select(*_NODE, direct.label("direct"), first.c.total, first.c.required))
        query = query.join(first, first.c.id == _item.id).order_by(*_by_importance(_item))
        rows = (await self._session.execute(query)).all()
        own = {item_id: status, **{row.id: row.status for row in rows}}
        found = await self._effective(own)
        return Impact(
            effective_status=found[item_id],
            total=rows[0].total if rows else 0,
            required=rows[0].required if rows else 0,
            services=[
                ImpactedService(
                    id=row.id,
                    name=row.name,
                    status=row.status,
                    effective_status=found[row.id],
                    priority=row.priority,
                    is_required=row.is_required,
                    direct=row.direct,
                )
                for row in rows
            ],
        )

    async def graph(self, root: UUID | None, *, direction: Direction, depth: int | None) -> ServiceGraph:
        """Return all living services with their dependencies, or those around ``root``, at most ``depth`` steps off.

        Raises ``InvalidField`` for more than :data:`MAX_GRAPH` services or dependencies.
        """
        edges = await self._edges(root, direction)
        ids = None if root is None else _around(root, edges, direction, depth)
        query = self._living(select(*_NODE)).order_by(_item.name, _item.id).limit(MAX_GRAPH + 1)
        rows = (await self._session.execute(query if ids is None else query.where(_item.id.in_(ids)))).all()
        if max(len(rows), len(edges)) > MAX_GRAPH:
            raise InvalidField(f"root: more than {MAX_GRAPH} services or dependencies: name a service.", param="root")
        nodes = [Node(*row) for row in rows]
        shown = {node.id for node in nodes}
        return ServiceGraph(nodes, [edge for edge in edges if {edge.item_id, edge.depends_on_id} <= shown])

    async def kinds(self, item_id: UUID) -> dict[UUID, DependencyKind]:
        """Return what a service needs each of its dependencies for."""
        query = select(_edge.depends_on_id, _edge.kind).where(self._edges_of_tenant(), _edge.item_id == item_id)
        return {row.depends_on_id: row.kind for row in await self._session.execute(query)}

    async def _edges(self, root: UUID | None, direction: Direction) -> list[Edge]:
        columns: tuple[Any, ...] = (_edge.item_id, _edge.depends_on_id, _edge.kind)
        query = select(*columns).where(self._edges_of_tenant())
        ways: list[Select[Any]] = []
        if root is None:
            ways = [query]
        if root is not None and direction != "dependents":
            below = self._closure(root, _edge.item_id, _edge.depends_on_id)
            ways.append(query.join(below, below.c.id == _edge.item_id))
        if root is not None and direction != "dependencies":
            above = self._closure(root, _edge.depends_on_id, _edge.item_id)
            ways.append(query.join(above, above.c.id == _edge.depends_on_id))
        found: set[Edge] = set()
        for way in ways:
            ordered = way.order_by(_edge.item_id, _edge.depends_on_id).limit(MAX_GRAPH + 1)
            found |= {Edge(*row) for row in await self._session.execute(ordered)}
        return sorted(found, key=lambda edge: (edge.item_id, edge.depends_on_id))

    def _closure(self, root: UUID, near: Any, far: Any) -> CTE:
        """Return ``root`` and the ids that are reached from it, each once: there may be more paths than atoms."""
        reached = select(cast(root, Uuid).label("id")).cte(recursive=True)
        return reached.union(select(far).join(reached, near == reached.c.id).where(self._edges_of_tenant()))

    def _first_above(self, item_id: UUID, kinds: Collection[DependencyKind], limit: int) -> CTE:
        """Return the ids of the first living services that depend on one, near or far, with the numbers of all."""
        living = and_(_item.tenant_id == self._tenant_id, _item.deleted_at.is_(None), _item.id == _edge.item_id)
        edges = select(*_IMPORTANCE).join_from(_edge, _item, living).where(
            self._edges_of_tenant(), _edge.kind.in_(kinds)
        )  # fmt: skip
        # With all that they are sorted by: the planner, which takes them for many more, would read all items for it.
        above = edges.where(_edge.depends_on_id == item_id).cte("above", recursive=True)
        above = above.union(edges.join(above, _edge.depends_on_id == above.c.id).where(_edge.item_id != item_id))
        total, required = func.count().over(), func.count().filter(above.c.is_required).over()
        query = select(above.c.id, total.label("total"), required.label("required"))
        return query.order_by(*_by_importance(above.c)).limit(limit).cte("first").prefix_with("MATERIALIZED")

    async def _effective(self, own: dict[UUID, ServiceStatus]) -> dict[UUID, ServiceStatus]:
        """Return the effective statuses of services whose own ones are given."""
        required = and_(_item.tenant_id == self._tenant_id, _item.id == _edge.depends_on_id, _item.is_required)
        runtime = select(_edge.item_id, _edge.depends_on_id).join(_item, required).where(
            self._edges_of_tenant(), _edge.kind == DependencyKind.RUNTIME
        )  # fmt: skip
        below = runtime.where(_edge.item_id.in_(own)).cte("below", recursive=True)
        below = below.union(runtime.join(below, _edge.item_id == below.c.depends_on_id))
        query = select(below, ItemHealth.status, _item.deleted_at).join_from(
            below, _item, _item.id == below.c.depends_on_id
        )
        query = query.join(ItemHealth, health_of(_item)).where(_item.tenant_id == self._tenant_id)
        statuses, edges = dict(own), dict[UUID, list[UUID]]()
        for row in await self._session.execute(query):
            edges.setdefault(row.item_id, []).append(row.depends_on_id)
            statuses[row.depends_on_id] = ServiceStatus.DISABLED if row.deleted_at is not None else row.status
        return effective(statuses, edges)

    def _edges_of_tenant(self) -> ColumnElement[bool]:
        return _edge.tenant_id == self._tenant_id

    def _living(self, query: Select[Any]) -> Select[Any]:
        living = and_(_item.tenant_id == self._tenant_id, _item.deleted_at.is_(None))
        return query.select_from(_item).join(ItemHealth, health_of(_item)).where(living)


def _by_importance(columns: Any) -> list[ColumnElement[Any]]:
    return [columns.is_required.desc(), columns.priority_rank, columns.name, columns.id]


def _around(root: UUID, edges: Sequence[Edge], direction: Direction, depth: int | None) -> set[UUID]:
    below: dict[UUID, list[UUID]] = {}
    above: dict[UUID, list[UUID]] = {}
    for edge in edges:
        below.setdefault(edge.item_id, []).append(edge.depends_on_id)
        above.setdefault(edge.depends_on_id, []).append(edge.item_id)
    found: set[UUID] = {root}
    if direction != "dependents":
        found |= distances(below, root, depth=depth).keys()
    if direction != "dependencies":
        found |= distances(above, root, depth=depth).keys()
    return found
