"""Reads what the audit log tells of services."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.feed.repository import KIND

_COLUMNS: Mapping[str, Any] = {
    "actor_key": AuditEntry.actor_key,
    "actor_user": AuditEntry.actor_user,
    "action": AuditEntry.action,
    "object_id": AuditEntry.object_id,
    "request_id": AuditEntry.request_id,
}


class HistoryRepository:
    """Entries of one tenant in one transaction."""

    def __init__(self, session: AsyncSession, tenant_id: str) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def newest_first(
        self,
        filters: Mapping[str, str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        below: int | None = None,
        limit: int,
    ) -> Sequence[AuditEntry]:
        """Return entries with these values, from ``since`` on and before ``until``, with numbers below ``below``."""
        query = self._entries().where(*(_COLUMNS[name] == value for name, value in filters.items()))
        if since is not None:
            query = query.where(AuditEntry.at >= since)
        if until is not None:
            query = query.where(AuditEntry.at < until)
        if below is not None:
            query = query.where(AuditEntry.id < below)
        return (await self._session.scalars(query.order_by(AuditEntry.id.desc()).limit(limit))).all()

    async def of_service(self, service_id: str) -> Sequence[AuditEntry]:
        """Return all changes of one service, the first one first: the n-th made its version n."""
        query = self._entries().where(AuditEntry.object_id == service_id, AuditEntry.action != "noticed")
        return (await self._session.scalars(query.order_by(AuditEntry.id))).all()

    async def was_purged(self, service_id: str) -> bool:
        """Return whether there was a service of that id that is gone for good."""
        query = self._entries().where(AuditEntry.object_id == service_id, AuditEntry.action == "purged")
        return await self._session.scalar(query.limit(1)) is not None

    async def names_of_gone(self, service_ids: Collection[str]) -> dict[str, str]:
        """Return what those were called last that were deleted or removed for good, by their ids."""
        if not service_ids:
            return {}
        of_tenant, ids = RegistryItem.tenant_id == self._tenant_id, [UUID(one) for one in service_ids]
        query = select(RegistryItem.id, RegistryItem.name, RegistryItem.deleted_at).where(
            of_tenant, RegistryItem.id.in_(ids)
        )
        kept = {str(row.id): row for row in await self._session.execute(query)}
        names = {service_id: row.name for service_id, row in kept.items() if row.deleted_at is not None}
        purged = self._entries().where(
            AuditEntry.object_id.in_({*service_ids} - kept.keys()), AuditEntry.action == "purged"
        )
        entries = (await self._session.scalars(purged.order_by(AuditEntry.id))).all()
        return names | {entry.object_id: entry.before["name"] for entry in entries}

    def _entries(self) -> Any:
        return select(AuditEntry).where(AuditEntry.tenant_id == self._tenant_id, AuditEntry.object_kind == KIND)
