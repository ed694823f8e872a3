"""Writes what a tenant's services depend on, and refuses what would close a cycle."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.errors import no_such
from hx_gateway.db.models.registry_items import DependencyEdge, RegistryItem
from hx_gateway.registry.errors import DependencyCycle
from hx_gateway.registry.feed.repository import KIND
from hx_gateway.registry.graph import path_between


class ItemEdges:
    """The dependencies of one tenant in one transaction. Whoever adds one holds the tenant's lock."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def store(self, items: Sequence[RegistryItem]) -> None:
        """Bring edges to what the items' ``dependencies`` say. Whoever adds one holds the tenant's lock."""
        tenant_id = self._tenant_id
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
        living = self._items((RegistryItem.id,), ends).where(RegistryItem.deleted_at.is_(None))
        missing = sorted(ends - set((await self._session.scalars(living)).all()))
        if missing:
            raise no_such(KIND, str(missing[0]), param="dependencies")

    async def _check_cycles(self, added: Sequence[tuple[UUID, UUID]]) -> None:
        """Raise :class:`DependencyCycle` if a path leads back from one of the new edges, which are written already."""
        tenant_id = self._tenant_id
        # A cycle comes back to where the edge begins: to a service that others depend on, which a new one is not.
        needed = select(DependencyEdge.depends_on_id).where(
            DependencyEdge.tenant_id == tenant_id, DependencyEdge.depends_on_id.in_({item_id for item_id, _ in added})
        )
        depended_on = set((await self._session.scalars(needed.distinct())).all())
        added = [edge for edge in added if edge[0] in depended_on]
        if not added:
            return
        found = await self.below({end for _, end in added})
        for item_id, end in added:
            path = path_between(found, end, item_id)
            if path is not None:
                raise DependencyCycle(await self._names([item_id, *path]))

    async def below(self, starts: Collection[UUID]) -> dict[UUID, list[UUID]]:
        """Return what is reached from ``starts``: for each id those that it depends on."""
        of_tenant = DependencyEdge.tenant_id == self._tenant_id
        line = _edges().where(of_tenant, DependencyEdge.item_id.in_(starts)).cte("line", recursive=True)
        further = and_(of_tenant, DependencyEdge.item_id == line.c.depends_on_id)
        found: dict[UUID, list[UUID]] = {}
        for item_id, end in await self._session.execute(select(line.union(_edges().join(line, further)))):
            found.setdefault(item_id, []).append(end)
        return found

    async def _names(self, item_ids: Sequence[UUID]) -> list[str]:
        rows = await self._session.execute(self._items((RegistryItem.id, RegistryItem.name), item_ids))
        names = {row.id: row.name for row in rows}
        return [names[item_id] for item_id in item_ids]

    def _items(self, columns: tuple[Any, ...], item_ids: Collection[UUID]) -> Select[Any]:
        of_tenant = RegistryItem.tenant_id == self._tenant_id
        return select(*columns).where(of_tenant, RegistryItem.id.in_(item_ids))


def _edges() -> Select[UUID, UUID]:
    return select(DependencyEdge.item_id, DependencyEdge.depends_on_id)
