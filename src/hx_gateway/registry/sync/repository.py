"""Whose turn it is to follow another registry, and what was taken from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.registry_sync import ERROR_CHARS, RegistrySyncRow, SyncedServer
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.registry.sync.followed import Followed, SyncState, Tally
from hx_gateway.services.database import DatabaseManager

# Longer than a page takes to be read and written; it is renewed with each.
LEASE = timedelta(seconds=90)
# Among the digests, where no field has this name.
_MISSED = "missed"
_CLAIM = text("""
WITH due AS (
    SELECT s.tenant_id, s.url FROM hx_registry.registry_syncs AS s
    JOIN unnest(CAST(:tenants AS text[]), CAST(:urls AS text[])) AS f (tenant_id, url)
        ON f.tenant_id = s.tenant_id AND f.url = s.url
    WHERE s.next_at <= :now AND (s.lease_until IS NULL OR s.lease_until <= :now)
    ORDER BY s.next_at, s.tenant_id, s.url LIMIT 1 FOR UPDATE OF s SKIP LOCKED
)
UPDATE hx_registry.registry_syncs AS s SET lease_until = :lease
FROM due WHERE s.tenant_id = due.tenant_id AND s.url = due.url
RETURNING s.tenant_id, s.url, s.watermark, s.lease_until, s.next_at
""")


class LeaseLost(Exception):
    """Somebody else follows the registry by now: whoever had it writes nothing more."""


@dataclass(slots=True, kw_only=True)
class Claim:
    """A registry that is one's own to follow until ``lease_until``. It was ``due`` when it was taken."""

    followed: Followed
    watermark: datetime | None
    lease_until: datetime
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """A server and the service that was made of it; ``managed`` has digests of what was written.

    ``gone``: it was disabled for that. ``missed``: the server changed while the service was deleted.
    """

    item_id: UUID
    managed: Mapping[str, str]
    gone: bool = False
    missed: bool = False


class SyncRepository:
    """Registries of all tenants. Each method is a transaction of its own, but for those that are given a session.

    Raises what ``database.session`` does, and :class:`LeaseLost` where a claim lapsed and somebody else has it.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    async def keep(self, followed: Sequence[Followed], now: datetime) -> None:
        """Let there be a row of each, due now; those that there are stay as they are."""
        rows = [{**asdict(one), "next_at": now} for one in followed]
        async with self._database.session(EVERY_TENANT) as session:
            await session.execute(insert(RegistrySyncRow).values(rows).on_conflict_do_nothing())

    async def claim(self, followed: Sequence[Followed], now: datetime) -> Claim | None:
        """Take the one that is due the longest and nobody's."""
        values = {"tenants": [one.tenant_id for one in followed], "urls": [one.url for one in followed]}
        async with self._database.session(EVERY_TENANT) as session:
            row = (await session.execute(_CLAIM, {**values, "now": now, "lease": now + LEASE})).one_or_none()
        if row is None:
            return None
        found = Followed(row.tenant_id, row.url)
        return Claim(followed=found, watermark=row.watermark, lease_until=row.lease_until, due=row.next_at)

    async def renew(self, claim: Claim, now: datetime, session: AsyncSession | None = None) -> datetime:
        """Return until when one has it now. With a ``session`` it is so once its transaction is committed."""
        await self._change(claim, session, lease_until=now + LEASE)
        return now + LEASE

    async def succeed(
        self, claim: Claim, now: datetime, next_at: datetime, *, watermark: datetime, tally: Tally
    ) -> None:
        """Write down that all was read, and let go of it: it is due ``next_at``, or at once if that was asked for."""
        values = {**asdict(tally), "watermark": watermark, "succeeded_at": now, "last_error": None}
        await self._change(claim, None, **values, next_at=_due(claim, next_at), lease_until=None)

    async def fail(self, claim: Claim, now: datetime, next_at: datetime, error: str) -> None:
        """Write down why not all was read, and let go of it as :meth:`succeed` does."""
        values = {"failed_at": now, "last_error": error[:ERROR_CHARS]}
        await self._change(claim, None, **values, next_at=_due(claim, next_at), lease_until=None)

    async def let_go(self, claim: Claim) -> None:
        """Leave it to others, at once."""
        await self._change(claim, None, lease_until=None)

    async def ask_for(self, followed: Sequence[Followed], now: datetime) -> None:
        """Let registries be due now."""
        for one in followed:
            due = update(RegistrySyncRow).where(*_key(one)).values(next_at=now)
            async with self._database.session(one.tenant_id) as session:
                await session.execute(due)

    async def states(self, tenant_id: str, urls: Collection[str], now: datetime) -> list[SyncState]:
        """Return how far a tenant's registries were followed, by their addresses."""
        query = select(RegistrySyncRow.__table__).where(
            RegistrySyncRow.tenant_id == tenant_id, RegistrySyncRow.url.in_(urls)
        )
        async with self._database.session(tenant_id) as session:
            rows = (await session.execute(query.order_by(RegistrySyncRow.url))).mappings()
            return [SyncState.of(dict(row), now) for row in rows]

    async def _change(self, claim: Claim, session: AsyncSession | None, **values: Any) -> None:
        held = RegistrySyncRow.lease_until == claim.lease_until
        change = update(RegistrySyncRow).where(*_key(claim.followed), held).values(**values)
        change = change.returning(RegistrySyncRow.url).execution_options(synchronize_session=False)
        if session is not None:
            found = (await session.execute(change)).one_or_none()
        else:
            async with self._database.session(claim.followed.tenant_id) as own:
                found = (await own.execute(change)).one_or_none()
        if found is None:
            raise LeaseLost


class SyncedServers:
    """The servers of one registry that became services, in one transaction, which is the caller's."""

    def __init__(self, session: AsyncSession, followed: Followed) -> None:
        self._session = session
        self._followed = followed
        self._own = (SyncedServer.tenant_id == followed.tenant_id, SyncedServer.url == followed.url)

    async def find(self, names: Collection[str]) -> dict[str, Synced]:
        """Return those of ``names`` that are known, by name."""
        query = select(SyncedServer.__table__).where(*self._own, SyncedServer.name.in_(names))
        rows = await self._session.execute(query)
        return {row.name: _synced(row) for row in rows}

    async def missed(self, *, after: str, limit: int) -> list[str]:
        """Return servers that changed while their services were deleted, which were restored since, by name."""
        of_item = and_(RegistryItem.tenant_id == SyncedServer.tenant_id, RegistryItem.id == SyncedServer.item_id)
        query = select(SyncedServer.name).join(RegistryItem, of_item).where(*self._own, SyncedServer.name > after)
        query = query.where(SyncedServer.managed.has_key(_MISSED), RegistryItem.deleted_at.is_(None))
        return list(await self._session.scalars(query.order_by(SyncedServer.name).limit(limit)))

    async def put(self, name: str, synced: Synced) -> None:
        """Keep what became of a server."""
        managed = {**synced.managed, **({_MISSED: ""} if synced.missed else {})}
        values = {"item_id": synced.item_id, "managed": managed, "gone": synced.gone}
        row = insert(SyncedServer).values(**asdict(self._followed), name=name, **values)
        await self._session.execute(row.on_conflict_do_update(index_elements=["tenant_id", "url", "name"], set_=values))


def _key(followed: Followed) -> tuple[Any, ...]:
    return RegistrySyncRow.tenant_id == followed.tenant_id, RegistrySyncRow.url == followed.url


def _due(claim: Claim, next_at: datetime) -> ColumnElement[datetime]:
    """Return when a registry is due: whoever asked for it meanwhile asked for what changed since it was read."""
    due = RegistrySyncRow.next_at
    return case((due == claim.due, literal(next_at)), else_=due)


def _synced(row: Any) -> Synced:
    managed = {name: digest for name, digest in row.managed.items() if name != _MISSED}
    return Synced(item_id=row.item_id, managed=managed, gone=row.gone, missed=_MISSED in row.managed)
