"""A directory on a real database, and actors of every kind who ask it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from hx_gateway.access.admin_key import ADMIN_PRINCIPAL
from hx_gateway.access.directory import Actor, Directory, ListQuery, ResourceKind
from hx_gateway.access.minting import PepperedMinter
from hx_gateway.access.peppers import Peppers
from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.allowances import Budget, Period
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.services.database import DatabaseManager

TENANT, TEAM, USER, KEY = ResourceKind.TENANT, ResourceKind.TEAM, ResourceKind.USER, ResourceKind.KEY
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOMORROW = datetime(2026, 11, 26, tzinfo=UTC)
PEPPERS = Peppers({"pp-1": bytes(range(1, 256, 5)) + os.urandom(8)}, "pp-1")
AUDIT_KEY = b"k" * 32
SCOPES = frozenset(Scope) - {Scope.ADMIN}


class TestClock:
    """Time that passes when a test says so."""

    __test__ = False

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def window_of(budget: Budget, at: datetime) -> tuple[str, datetime | None]:
    """Know one window for each period."""
    return ("total", None) if budget.period is Period.TOTAL else (f"{budget.period}-{budget.time_zone}", TOMORROW)


def actor(principal: Principal) -> Actor:
    """Return who asks with that principal's key."""
    return Actor(principal=principal, request_id="req_test", client="192.0.2.1")


ROOT = actor(ADMIN_PRINCIPAL)
# The keys of those who ask: what they make is held to them, so that they must be there. They are in nobody's list.
_ADD_ACTORS = text("""
INSERT INTO hx_gateway.api_keys (id, tenant_id, name, prefix, last_four, digest, pepper_id, deleted_at, created_by,
    updated_by)
VALUES (:id, 'default', 'an actor', 'sk-hx', '0000', '0', 'pp-1', now(), 'test', 'test') ON CONFLICT DO NOTHING
""")


def _key_of(role: Role) -> str:
    return f"key-{role.value}"


def one_of(tenant: str, role: Role, **more: Any) -> Actor:
    """Return an actor of a tenant."""
    plain = {"key_id": KeyId(_key_of(role)), "scopes": SCOPES, "role": role}
    return actor(Principal(**{"tenant_id": TenantId(tenant), **plain, **more}))


def tenant_admin(tenant: str, **more: Any) -> Actor:
    """Return the admin of a tenant."""
    return one_of(tenant, Role.TENANT_ADMIN, **more)


def team_admin(tenant: str, *teams: str, **more: Any) -> Actor:
    """Return the admin of teams."""
    rights = {"admin_teams": frozenset(teams), "member_teams": frozenset(teams)}
    return one_of(tenant, Role.TEAM_ADMIN, **{**rights, **more})


def member(tenant: str, **more: Any) -> Actor:
    """Return a plain user of a tenant."""
    return one_of(tenant, Role.MEMBER, **more)


def confined(asking: Actor, **more: Any) -> Actor:
    """Return the same actor with a key that may less."""
    return replace(asking, principal=replace(asking.principal, **more))


@dataclass
class Office:
    """A directory, what it announced, and shortcuts in the name of the platform's admin."""

    database: DatabaseManager
    clock: TestClock = field(default_factory=TestClock)
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        minter = PepperedMinter(lambda: PEPPERS)
        self.directory = Directory(
            self.database,
            mint=minter,
            audit_key=AUDIT_KEY,
            announce=self._announce,
            window_of=window_of,
            clock=self.clock,
        )

    async def _announce(self, kind: str, object_id: str, tenant_id: str) -> None:
        self.told.append((kind, object_id, tenant_id))

    async def tenant(self, tenant_id: str, **fields: Any) -> dict[str, Any]:
        return await self.directory.create(ROOT, TENANT, {"id": tenant_id, "name": tenant_id, **fields})

    async def make(self, kind: ResourceKind, tenant_id: str, **fields: Any) -> dict[str, Any]:
        self.clock.at += timedelta(seconds=1)
        return await self.directory.create(ROOT, kind, {"tenant_id": tenant_id, "name": "one", **fields})

    async def team_with(self, tenant_id: str, *roles: str, name: str = "team") -> tuple[str, list[str]]:
        """Make a team with users in it; return its id and theirs."""
        team = await self.make(TEAM, tenant_id, name=name)
        users = [await self.make(USER, tenant_id, name=f"{role} {number}") for number, role in enumerate(roles)]
        for user, role in zip(users, roles, strict=True):
            await self.directory.set_member(ROOT, team["id"], user["id"], role)
        return team["id"], [user["id"] for user in users]

    async def get(self, kind: ResourceKind, object_id: str, **more: Any) -> dict[str, Any]:
        return await self.directory.get(ROOT, kind, object_id, **more)

    async def names(self, asking: Actor, kind: ResourceKind, **filters: str) -> list[str]:
        """Return the names of what a list holds, sorted by name."""
        query = ListQuery(filters=filters, sort="name", limit=200)
        return [item["name"] for item in (await self.directory.list(asking, kind, query)).items]

    async def history(self, tenant_id: str, **filters: str) -> list[dict[str, Any]]:
        """Return the audit log of a tenant, oldest first."""
        query = ListQuery(filters={"tenant_id": tenant_id, **filters}, limit=200)
        return (await self.directory.audit(ROOT, query)).items[::-1]


@asynccontextmanager
async def office_at(url: str) -> AsyncIterator[Office]:
    """Open an office on the database at ``url``."""
    database = DatabaseManager(url, pool_size=2, max_overflow=2)
    try:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(_ADD_ACTORS, [{"id": _key_of(role)} for role in Role])
        yield Office(database)
    finally:
        await database.close()
