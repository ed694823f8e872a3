"""The registry of a tenant on a real database: a repository for each transaction, and time that a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.audit import AuditChain
from hx_gateway.access.repository import Repository
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.services.database import DatabaseManager

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
ANN = Author(key="key-ann", user="us-ann", request_id="req_test")
CHAIN = AuditChain(b"k" * 32)


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Registry:
    """``now`` is when everything happens; :meth:`at` gives the same at another time."""

    database: DatabaseManager
    tenant: str
    now: datetime = NOON

    def at(self, now: datetime) -> Registry:
        return replace(self, now=now)

    def trail(self, session: AsyncSession) -> AuditTrail:
        return AuditTrail(session, CHAIN, tenant_id=self.tenant, author=ANN, now=self.now)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RegistryItemRepository]:
        """Open a transaction."""
        async with self.database.session(self.tenant) as session:
            yield RegistryItemRepository(session, self.trail(session))

    async def create(self, name: str, **values: Any) -> RegistryItem:
        """Make a service."""
        async with self.open() as items:
            return await items.create({"name": name, **values})

    async def create_all(self, *names: str) -> list[RegistryItem]:
        """Make services."""
        return [await self.create(name) for name in names]

    async def get(self, item: RegistryItem) -> RegistryItem:
        """Return a service as it is stored, deleted or not."""
        async with self.open() as items:
            found = await items.get(item.id, include_deleted=True)
        assert found is not None
        return found

    async def rows(self, statement: str, **values: Any) -> Sequence[Mapping[str, Any]]:
        """Return what a statement of one's own finds in the tenant."""
        async with self.database.session(self.tenant) as session:
            return [dict(row) for row in (await session.execute(text(statement), values)).mappings()]

    async def audit(self, item: RegistryItem | None = None) -> list[tuple[str, Any, Any]]:
        """Return the entries of the audit log, oldest first: action, before, after."""
        query = "SELECT object_id, action, before, after FROM hx_gateway.audit_log ORDER BY id"
        rows = await self.rows(query)
        return [
            (row["action"], row["before"], row["after"])
            for row in rows
            if item is None or row["object_id"] == str(item.id)
        ]

    async def first_broken_entry(self) -> int | None:
        """Return the first entry of the audit log that does not follow from those before it."""
        async with self.database.session(self.tenant) as session:
            return CHAIN.broken_at(await Repository(session).chained(self.tenant, 0))


@asynccontextmanager
async def registry_at(url: str, tenant: str) -> AsyncIterator[Registry]:
    """Make a tenant and give its registry."""
    add = text("INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES (:id, :id, 'x', 'x')")
    async with DatabaseManager(
        url, pool_size=2, max_overflow=4, acquire_timeout=30.0, statement_timeout=30.0
    ) as database:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(add, {"id": tenant})
        yield Registry(database=database, tenant=tenant)


def names(items: Sequence[RegistryItem]) -> list[str]:
    """Return what services are called."""
    return [item.name for item in items]
