"""Reads and writes the names that services depend on before there are services of these names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.registry_pending import PendingDependency

_row = PendingDependency


class Met(NamedTuple):
    """That a living service waits for a name, and which living service has it."""

    item_id: UUID
    name: str
    depends_on_id: UUID


class PendingRepository:
    """The pending dependencies of one tenant in one transaction. Whoever changes some holds the tenant's lock."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def store(self, item_id: UUID, before: Collection[str], after: Collection[str]) -> None:
        """Bring the names that a service waits for from what they were to what they are."""
        gone, come = sorted({*before} - {*after}), sorted({*after} - {*before})
        if gone:
            own = and_(_row.tenant_id == self._tenant_id, _row.item_id == item_id, _row.name.in_(gone))
            await self._session.execute(delete(_row).where(own))
        if come:
            rows = [{"tenant_id": self._tenant_id, "item_id": item_id, "name": name} for name in come]
            await self._session.execute(insert(_row), rows)

    async def met(self, named: Collection[UUID], waiting: Collection[UUID]) -> Sequence[Met]:
        """Return what living services wait for that is there: one of ``named``, or what one of ``waiting`` waits for.

        In a stable order.
        """
        if not named and not waiting:
            return []
        waits, has = aliased(RegistryItem), aliased(RegistryItem)
        query = (
            select(_row.item_id, _row.name, has.id)
            .join(has, and_(has.tenant_id == _row.tenant_id, has.name_key == _row.name_key))
            .join(waits, and_(waits.tenant_id == _row.tenant_id, waits.id == _row.item_id))
            .where(
                _row.tenant_id == self._tenant_id,
                has.deleted_at.is_(None),
                waits.deleted_at.is_(None),
                waits.id != has.id,
                or_(has.id.in_(named), _row.item_id.in_(waiting)),
            )
            .order_by(_row.item_id, _row.name_key)
        )
        return [Met(*row) for row in await self._session.execute(query)]
