"""Checks of many services that somebody asked for: which are due because of it, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_checks import RegistryCheck

KEPT = timedelta(days=1)

# What a probe at work finds is void: it began before. Locked in one order, as everywhere where many are taken, and
# under the tenant's lock, as whoever waits for several has to be.
_DUE = text("""
WITH due AS (
    SELECT item_id FROM hx_registry.registry_health
    WHERE tenant_id = :tenant AND item_id = ANY (CAST(:ids AS uuid[])) AND next_check_at IS NOT NULL
    ORDER BY item_id FOR UPDATE
)
UPDATE hx_registry.registry_health AS h SET next_check_at = least(h.next_check_at, :now), lease_until = NULL
FROM due WHERE h.tenant_id = :tenant AND h.item_id = due.item_id
RETURNING h.item_id
""")
_FOUND = text("""
SELECT i.id, i.name, h.status, h.observed, h.failure_class, h.last_error, h.response_time_ms,
    CASE WHEN h.probed_at >= :asked_at THEN h.probed_at END AS probed_at
FROM hx_registry.registry_items AS i
JOIN hx_registry.registry_health AS h ON h.tenant_id = i.tenant_id AND h.item_id = i.id
WHERE i.tenant_id = :tenant AND i.id = ANY (CAST(:ids AS uuid[])) AND i.deleted_at IS NULL
ORDER BY i.name, i.id
""")


class CheckRepository:
    """The checks of one tenant in one transaction."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def make_due(self, item_ids: Sequence[UUID], now: datetime) -> list[UUID]:
        """Let services be probed next; return those there are. Whoever asks for several holds the tenant's lock."""
        values = {"tenant": self._tenant_id, "ids": [*item_ids], "now": now}
        return list((await self._session.scalars(_DUE, values)).all())

    async def keep(self, check_id: UUID, item_ids: Sequence[UUID], now: datetime) -> None:
        """Remember what was asked for, for a day."""
        row = {"tenant_id": self._tenant_id, "id": check_id, "asked_at": now, "item_ids": [*item_ids]}
        await self._session.execute(insert(RegistryCheck), [row])

    async def get(self, check_id: UUID, now: datetime) -> RegistryCheck | None:
        """Return a check that was asked for within the last day."""
        query = select(RegistryCheck).where(
            RegistryCheck.tenant_id == self._tenant_id,
            RegistryCheck.id == check_id,
            RegistryCheck.asked_at > now - KEPT,
        )
        check: RegistryCheck | None = await self._session.scalar(query)
        return check

    async def found(self, check: RegistryCheck) -> list[dict[str, Any]]:
        """Return how the living services of a check are, by name; ``probed_at`` is ``None`` where that is to come."""
        values = {"tenant": self._tenant_id, "ids": check.item_ids, "asked_at": check.asked_at}
        return [dict(row) for row in (await self._session.execute(_FOUND, values)).mappings()]
