"""Keys as PostgreSQL has them, made into what is verified against; and the twin for a gateway without a database."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import reduce
from typing import Any, Protocol

from hx_gateway.access.grants import held_to
from hx_gateway.access.key_rows import KeyRecord, load_all_active, load_key
from hx_gateway.access.known_key import KnownKey, Standing, owners_of
from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId, split_scope
from hx_gateway.allowances import Allowance, Rate, ScopeKind, ScopeLimits

_ANY_IMPORTED = "SELECT EXISTS (SELECT FROM hx_gateway.api_keys WHERE imported_sha256 IS NOT NULL)"
# Neither version nor time of change: the key is the same to everybody who reads it.
_KEEP_DIGEST = """
UPDATE hx_gateway.api_keys SET digest = $3, pepper_id = $4
WHERE id = $1 AND digest IS NOT DISTINCT FROM $2
"""
_SCOPES = {scope.value: scope for scope in Scope if scope is not Scope.ADMIN}
# Whose block of a key ends what was made with it. A team or a tenant is where a key is, not who holds it.
_SUSPECT = ("key", "user")
_TEAM_ROLES = {"admin": Role.TEAM_ADMIN, "member": Role.MEMBER, "read_only": Role.READ_ONLY}


class Lender(Protocol):
    """Whoever lends connections to PostgreSQL."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


class PostgresKeySource:
    """Asks the database. Raises ``DependencyError`` while it is away, and asyncpg's own errors for the rest.

    ``default_rpm`` is the limit of requests a minute of keys that have none of their own.
    """

    def __init__(self, postgres: Lender, *, default_rpm: int | None = None) -> None:
        self._postgres = postgres
        self._default_rpm = default_rpm

    async def load(self, key_id: str) -> KnownKey | None:
        """Return the key with that id."""
        async with self._postgres.acquire() as connection:
            return self._known(await load_key(connection, key_id=key_id))

    async def load_imported(self, sha256: bytes) -> KnownKey | None:
        """Return the imported key whose text has that SHA-256."""
        async with self._postgres.acquire() as connection:
            return self._known(await load_key(connection, imported_sha256=sha256))

    async def any_imported(self) -> bool:
        """Return whether there is an imported key."""
        async with self._postgres.acquire() as connection:
            return bool(await connection.fetchval(_ANY_IMPORTED))

    async def keep_digest(self, known: KnownKey, pepper_id: str, digest: bytes) -> None:
        """Replace the digest of ``known``, unless somebody else did."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_KEEP_DIGEST, known.id, known.digest, digest, pepper_id)

    async def load_active(self, limit: int) -> list[KnownKey]:
        """Return keys that may be presented, those first that changed last."""
        async with self._postgres.acquire() as connection:
            return [known_key(self._limited(record)) for record in await load_all_active(connection, limit)]

    def _known(self, record: KeyRecord | None) -> KnownKey | None:
        return None if record is None else known_key(self._limited(record))

    def _limited(self, record: KeyRecord) -> KeyRecord:
        if self._default_rpm is None:
            return record
        return replace(record, allowance=with_default_rate(record.allowance, record.id, self._default_rpm))


def known_key(record: KeyRecord) -> KnownKey:
    """Return what is verified against, with the principal that the key stands for, held to those of its grantors."""
    grantors = [principal_of(grantor) for grantor in record.grantors]
    principal = reduce(lambda above, below: held_to(below, above), (*reversed(grantors), principal_of(record)))
    return KnownKey(
        id=record.id,
        version=record.version,
        principal=principal,
        standing=_standing(record),
        digest=record.digest,
        pepper_id=record.pepper_id or "",
        previous_digest=record.previous_digest,
        previous_pepper_id=record.previous_pepper_id or "",
        previous_expires_at=record.previous_expires_at,
        imported_sha256=record.imported_sha256,
        expires_at=principal.expires_at,
        above=tuple(owner for grantor in grantors for owner in owners_of(grantor)),
    )


def principal_of(record: KeyRecord) -> Principal:
    """Return whom a key stands for, whoever made it.

    A key of a team acts in that team only, whatever its user is elsewhere. ``Scope.ADMIN`` comes with the role of a
    platform admin and never from the row.
    """
    teams = dict(record.memberships)
    if record.team_id is not None:
        teams = {record.team_id: teams.get(record.team_id, "member")}
    role = _role(record, teams)
    scopes: set[Scope] = {_SCOPES[name] for name in record.scopes if name in _SCOPES}
    if role is Role.PLATFORM_ADMIN:
        scopes.add(Scope.ADMIN)
    return Principal(
        key_id=KeyId(record.id),
        tenant_id=TenantId(record.tenant_id),
        scopes=frozenset(scopes),
        bound=frozenset(name for name in record.scopes if split_scope(name)[1]),
        role=role,
        team_id=record.team_id,
        user_id=record.user_id,
        admin_teams=frozenset(team for team, place in teams.items() if place == "admin"),
        member_teams=frozenset(teams),
        models=record.models,
        aliases=record.aliases,
        allowed_routes=() if record.allowed_routes is None else (record.allowed_routes,),
        allowance=record.allowance,
        expires_at=record.expires_at,
        tags=record.tags,
        cache=record.cache,
    )


def _standing(record: KeyRecord) -> Standing:
    if record.deleted_by is not None:
        return Standing.DELETED
    # A key that was blocked is suspect for good: deleting it lets nothing in again that it made.
    if record.blocked_by is not None or any(grantor.blocked_by in _SUSPECT for grantor in record.grantors):
        return Standing.BLOCKED
    return Standing.ACTIVE


def _role(record: KeyRecord, teams: dict[str, str]) -> Role:
    if record.admin_role is not None:
        return Role(record.admin_role)
    if record.user_role in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN):
        return Role(record.user_role)
    places = {_TEAM_ROLES[place] for place in teams.values()}
    return next((role for role in (Role.TEAM_ADMIN, Role.MEMBER, Role.READ_ONLY) if role in places), Role.MEMBER)


def with_default_rate(allowance: Allowance, key_id: str, per_minute: int) -> Allowance:
    """Return ``allowance`` with that many requests a minute for the key, unless it has a limit of its own."""
    own = next((limits for limits in allowance.limits if limits.kind is ScopeKind.KEY), None)
    if own is not None and own.requests is not None:
        return allowance
    limited = replace(own or ScopeLimits(kind=ScopeKind.KEY, id=key_id), requests=Rate(per_minute, per_minute))
    others = tuple(limits for limits in allowance.limits if limits is not own)
    return replace(allowance, limits=(limited, *others))
