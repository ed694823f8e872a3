"""Reads keys for those who authenticate: one statement brings all that a key belongs to, another the keys above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from hx_gateway.access.allowance_rows import allowance
from hx_gateway.access.grants import MAX_GRANTORS
from hx_gateway.allowances import Allowance, ScopeKind
from hx_gateway.cache_rules import CacheMode, CacheRule, CacheScope

# JSON is cast to text: what a connection makes of it differs with the codecs that its pool set.
_SELECT = """
SELECT k.id, k.tenant_id, k.team_id, k.user_id, k.granted_by, k.version, k.tags,
    k.digest, k.pepper_id, k.previous_digest, k.previous_pepper_id, k.previous_expires_at, k.imported_sha256,
    k.expires_at, k.admin_role, k.scopes, k.allowed_routes, k.aliases::text AS aliases,
    k.cache::text AS cache,
    n.time_zone, n.model_limits::text AS model_limits, u.role AS user_role,
    CASE WHEN k.deleted_at IS NOT NULL THEN 'key' WHEN u.deleted_at IS NOT NULL THEN 'user'
        WHEN t.deleted_at IS NOT NULL THEN 'team' WHEN n.deleted_at IS NOT NULL THEN 'tenant' END AS deleted_by,
    CASE WHEN k.blocked THEN 'key' WHEN u.blocked THEN 'user' WHEN t.blocked THEN 'team'
        WHEN n.blocked THEN 'tenant' WHEN k.team_id IS NOT NULL AND k.user_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM hx_gateway.memberships AS m
            WHERE m.tenant_id = k.tenant_id AND m.team_id = k.team_id AND m.user_id = k.user_id
        ) THEN 'membership' END AS blocked_by,
    k.models AS key_models, u.models AS user_models, t.models AS team_models, n.models AS tenant_models,
    k.limits::text AS key_limits, u.limits::text AS user_limits, t.limits::text AS team_limits,
    n.limits::text AS tenant_limits,
    (
        SELECT coalesce(jsonb_object_agg(m.team_id, m.role), '{}')::text FROM hx_gateway.memberships AS m
        JOIN hx_gateway.teams AS mt ON mt.id = m.team_id AND mt.deleted_at IS NULL
        WHERE m.tenant_id = k.tenant_id AND m.user_id = k.user_id
    ) AS memberships,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'owner_kind', b.owner_kind, 'owner_id', b.owner_id,
            'model', b.model, 'period', b.period, 'limit_nano', b.limit_nano, 'soft_nano', b.soft_nano
        ) ORDER BY array_position(ARRAY['key', 'user', 'team', 'tenant'], b.owner_kind), b.id), '[]')::text
        FROM hx_gateway.budgets AS b
        WHERE b.tenant_id = k.tenant_id AND b.deleted_at IS NULL AND (b.owner_kind, b.owner_id) IN (
            ('key', k.id), ('user', k.user_id), ('team', k.team_id), ('tenant', n.id), ('tenant_model', n.id))
    ) AS budgets
FROM hx_gateway.api_keys AS k
JOIN hx_gateway.tenants AS n ON n.id = k.tenant_id
LEFT JOIN hx_gateway.teams AS t ON t.tenant_id = k.tenant_id AND t.id = k.team_id
LEFT JOIN hx_gateway.users AS u ON u.tenant_id = k.tenant_id AND u.id = k.user_id
"""
_BY_ID = f"{_SELECT} WHERE k.id = $1"
_BY_SHA256 = f"{_SELECT} WHERE k.imported_sha256 = $1"
# Those that changed last are those that are in use, as far as their rows tell.
_ACTIVE = f"""{_SELECT}
WHERE k.deleted_at IS NULL AND u.deleted_at IS NULL AND t.deleted_at IS NULL AND n.deleted_at IS NULL
    AND (k.expires_at IS NULL OR k.expires_at > now())
ORDER BY k.updated_at DESC, k.id LIMIT $1
"""
# A key's grantor was there before it, and stays: the line has an end.
_LINE = """
WITH RECURSIVE line (id) AS (
    SELECT unnest($1::text[])
    UNION SELECT k.granted_by FROM line JOIN hx_gateway.api_keys AS k ON k.id = line.id WHERE k.granted_by IS NOT NULL
)
"""
_GRANTORS = f"{_LINE}{_SELECT} WHERE k.id IN (TABLE line)"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key as the database has it, with what it inherits from its user, team and tenant.

    ``digest`` is ``None`` for an imported key that was not used yet. ``deleted_by`` and ``blocked_by`` name whose row
    ends it: ``key``, ``user``, ``team`` or ``tenant``; ``None``: nobody's. A key of a team and a user is blocked by
    ``membership`` too, while that user is not in that team. ``models`` has a list of globs for each of key, user, team
    and tenant that has one. ``memberships`` are the user's: ``admin``, ``member`` or ``read_only`` by the team's id.
    ``granted_by`` is the key that it was made with, ``None`` for the admin key; ``grantors`` are that one, the one
    that was made with, and so on. ``cache`` is what the key says of the response cache.
    """

    id: str
    tenant_id: str
    team_id: str | None
    user_id: str | None
    granted_by: str | None
    version: int
    digest: bytes | None = field(repr=False)
    pepper_id: str | None
    previous_digest: bytes | None = field(repr=False)
    previous_pepper_id: str | None
    previous_expires_at: datetime | None
    imported_sha256: bytes | None = field(repr=False)
    expires_at: datetime | None
    deleted_by: str | None
    blocked_by: str | None
    admin_role: str | None
    user_role: str | None
    memberships: Mapping[str, str]
    scopes: tuple[str, ...]
    models: tuple[tuple[str, ...], ...]
    aliases: Mapping[str, str]
    allowed_routes: tuple[str, ...] | None
    tags: tuple[str, ...]
    allowance: Allowance
    cache: CacheRule | None = None
    grantors: tuple[KeyRecord, ...] = ()


async def load_key(
    connection: Any, *, key_id: str | None = None, imported_sha256: bytes | None = None
) -> KeyRecord | None:
    """Return the key with that id, or the imported one whose text has that SHA-256; ``None``: there is none.

    Blocked, expired and deleted ones too. ``connection`` is asyncpg's, whose errors pass.
    """
    if key_id is not None:
        row = await connection.fetchrow(_BY_ID, key_id)
    else:
        row = await connection.fetchrow(_BY_SHA256, imported_sha256)
    if row is None:
        return None
    record = _record(row)
    return replace(record, grantors=_line(record, await _above(connection, [record])))


async def load_all_active(connection: Any, limit: int) -> list[KeyRecord]:
    """Return keys that are neither deleted nor expired, ``limit`` at most, those that changed last first.

    One that cannot be judged is left out: it is told of when it is asked for.
    """
    records = [_record(row) for row in await connection.fetch(_ACTIVE, limit)]
    above = await _above(connection, records)
    found = []
    for record in records:
        with suppress(LookupError):
            found.append(replace(record, grantors=_line(record, above)))
    return found


async def _above(connection: Any, records: Sequence[KeyRecord]) -> dict[str, KeyRecord]:
    """Return all keys that stand above some, by id."""
    wanted = {record.granted_by for record in records if record.granted_by is not None}
    if not wanted:
        return {}
    return {row["id"]: _record(row) for row in await connection.fetch(_GRANTORS, sorted(wanted))}


def _line(record: KeyRecord, above: Mapping[str, KeyRecord]) -> tuple[KeyRecord, ...]:
    """Return the keys above one. Raises ``LookupError`` for a line that is broken or too long: it cannot be judged.

    Who makes a key and is confined to a tenant does not see how many keys of others stand above: there may be as many
    more of those.
    """
    line: list[KeyRecord] = []
    while record.granted_by is not None:
        if len(line) == 2 * MAX_GRANTORS:
            raise LookupError(f"more than {2 * MAX_GRANTORS} keys stand above one")
        record = above[record.granted_by]
        line.append(record)
    return tuple(line)


def _record(row: Mapping[str, Any]) -> KeyRecord:
    lists = (row["key_models"], row["user_models"], row["team_models"], row["tenant_models"])
    same = ("id", "tenant_id", "team_id", "user_id", "granted_by", "version", "digest", "pepper_id", "previous_digest")
    more = ("previous_pepper_id", "previous_expires_at", "imported_sha256", "expires_at", "deleted_by", "blocked_by")
    routes = row["allowed_routes"]
    return KeyRecord(
        **{name: row[name] for name in (*same, *more, "admin_role", "user_role")},
        memberships=_read(row["memberships"]),
        scopes=tuple(row["scopes"]),
        models=tuple(tuple(globs) for globs in lists if globs is not None),
        aliases=_read(row["aliases"]),
        allowed_routes=None if routes is None else tuple(routes),
        tags=tuple(row["tags"]),
        allowance=_allowance(row),
        cache=_cache(row["cache"]),
    )


def _allowance(row: Mapping[str, Any]) -> Allowance:
    owners = (
        (ScopeKind.KEY, row["id"], row["key_limits"]),
        (ScopeKind.USER, row["user_id"], row["user_limits"]),
        (ScopeKind.TEAM, row["team_id"], row["team_limits"]),
        (ScopeKind.TENANT, row["tenant_id"], row["tenant_limits"]),
    )
    return allowance(
        row["tenant_id"],
        row["time_zone"],
        limits=[(kind, owner_id, _read(limits)) for kind, owner_id, limits in owners if limits is not None],
        model_limits=_read(row["model_limits"]),
        budgets=_read(row["budgets"]),
    )


def _cache(text: str | None) -> CacheRule | None:
    if text is None:
        return None
    said = _read(text)
    mode, scope = said.get("mode"), said.get("scope")
    return CacheRule(
        mode=None if mode is None else CacheMode(mode),
        ttl_seconds=said.get("ttl_seconds"),
        scope=None if scope is None else CacheScope(scope),
    )


def _read(text: str) -> Any:
    return msgspec.json.decode(text)
