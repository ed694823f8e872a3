"""Reads changes of services from the audit log, where each is written in its own transaction.

Whoever changes a tenant's services holds that tenant's lock until it has committed, and takes the number of its entry
under it: so the order of numbers is the order of commits, and who has seen one number has seen all below it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.db.models.base_model import snake_case
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.feed.changes import Change, type_of
from hx_gateway.services.database import DatabaseManager

KIND = snake_case(RegistryItem.__name__)
# What is about the registry of a tenant as a whole; its entries name the tenant.
REGISTRY_KIND = "registry"
_KINDS = (KIND, REGISTRY_KIND)


class _Known(NamedTuple):
    name: str
    tags: frozenset[str]
    is_required: bool


_UNKNOWN = _Known("", frozenset(), is_required=False)


class ChangeRepository:
    """The changes of one tenant's services at a time. Raises ``DependencyError`` while the database is away."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    async def after(self, tenant_id: str, seq: int, limit: int) -> list[Change]:
        """Return up to ``limit`` changes that come after ``seq``, the first one first."""
        query = (
            select(AuditEntry)
            .where(AuditEntry.tenant_id == tenant_id, AuditEntry.object_kind.in_(_KINDS), AuditEntry.id > seq)
            .order_by(AuditEntry.id)
            .limit(limit)
        )
        async with self._database.session(tenant_id) as session:
            entries = (await session.scalars(query)).all()
            return await changes_of(session, tenant_id, entries)

    async def newest(self, tenant_id: str) -> int:
        """Return the number that whatever is changed from now on comes after; 0 where nothing was changed yet."""
        async with self._database.session(tenant_id) as session:
            return await session.scalar(select(func.max(AuditEntry.id)).where(AuditEntry.tenant_id == tenant_id)) or 0


async def changes_of(session: AsyncSession, tenant_id: str, entries: Sequence[AuditEntry]) -> list[Change]:
    """Return entries of the log that are about the registry as changes."""
    ids = {UUID(entry.object_id) for entry in entries if entry.object_kind == KIND}
    known = await _known(session, tenant_id, ids)
    return [_change(entry, known.get(entry.object_id, _UNKNOWN)) for entry in entries if entry.object_kind in _KINDS]


def _change(entry: AuditEntry, known: _Known) -> Change:
    before, after, of_service = entry.before, entry.after, entry.object_kind == KIND
    name = (after or {}).get("name") or known.name or (before or {}).get("name") or entry.object_id
    return Change(
        seq=entry.id,
        type=type_of(entry.action, frozenset({*(before or {}), *(after or {})})),
        at=entry.at,
        service_id=entry.object_id if of_service else None,
        name=name if of_service else None,
        actor_key=entry.actor_key,
        actor_user=entry.actor_user,
        request_id=entry.request_id,
        before=before,
        after=after,
        tags=known.tags,
        is_required=known.is_required,
    )


async def _known(session: AsyncSession, tenant_id: str, ids: Collection[UUID]) -> dict[str, _Known]:
    if not ids:
        return {}
    columns = (RegistryItem.id, RegistryItem.name, RegistryItem.tags, RegistryItem.is_required)
    query = select(*columns).where(RegistryItem.tenant_id == tenant_id, RegistryItem.id.in_(ids))
    rows = await session.execute(query)
    known = {str(row.id): _Known(row.name, frozenset(row.tags), row.is_required) for row in rows}
    return known | await _purged(session, tenant_id, {str(item_id) for item_id in ids} - known.keys())


async def _purged(session: AsyncSession, tenant_id: str, ids: Collection[str]) -> dict[str, _Known]:
    """Return what services were that are gone for good: the log has it from when they went."""
    if not ids:
        return {}
    query = select(AuditEntry.object_id, AuditEntry.before).where(
        AuditEntry.tenant_id == tenant_id,
        AuditEntry.object_kind == KIND,
        AuditEntry.object_id.in_(ids),
        AuditEntry.action == "purged",
    )
    return {
        row.object_id: _Known(row.before["name"], frozenset(row.before["tags"]), row.before["is_required"])
        for row in await session.execute(query)
    }
