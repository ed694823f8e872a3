"""What authentication reads of a key: its own rights and those of whoever it belongs to, in one statement."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from hx_gateway.access.key_rows import KeyRecord, load_all_active, load_key
from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits

Connection: TypeAlias = "asyncpg.Connection[Any]"
SCHEMA = "hx_gateway"


async def add(connection: Connection, table: str, **values: Any) -> None:
    """Insert a row; dictionaries are JSON."""
    if table in ("tenants", "teams", "users", "api_keys"):
        values = {"name": values.get("id"), "created_by": "test", "updated_by": "test", **values}
    given = [json.dumps(value) if isinstance(value, dict) else value for value in values.values()]
    places = ", ".join(f"${index}" for index in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO {SCHEMA}.{table} ({', '.join(values)}) VALUES ({places})", *given)


async def add_key(connection: Connection, tenant: str, **values: Any) -> str:
    """Insert a key of ``tenant``; return its id."""
    plain = {"id": f"k-{tenant}", "prefix": "sk-hx-k", "last_four": "abcd", "digest": b"d", "pepper_id": "pp-1"}
    row = {**plain, "tenant_id": tenant, **values}
    await add(connection, "api_keys", **row)
    return str(row["id"])


async def add_family(connection: Connection, tenant: str) -> str:
    """Insert a tenant, a team, a user in it and a key of both; return the key's id."""
    await add(connection, "tenants", id=tenant)
    await add(connection, "teams", id=f"tm-{tenant}", tenant_id=tenant)
    await add(connection, "users", id=f"us-{tenant}", tenant_id=tenant)
    await add(connection, "memberships", tenant_id=tenant, team_id=f"tm-{tenant}", user_id=f"us-{tenant}")
    return await add_key(connection, tenant, team_id=f"tm-{tenant}", user_id=f"us-{tenant}")


async def load(connection: Connection, key_id: str) -> KeyRecord:
    """Return a key that is there."""
    record = await load_key(connection, key_id=key_id)
    assert record is not None
    return record


async def test_a_plain_key_of_a_tenant_has_what_its_row_says(connection: Connection, tenant: str) -> None:
    await add(connection, "tenants", id=tenant)
    ends = datetime(2030, 1, 2, tzinfo=UTC)
    key_id = await add_key(
        connection,
        tenant,
        scopes=["models", "spend:read"],
        aliases={"fast": "gpt-4o-mini"},
        allowed_routes=["/v1/chat/*"],
        tags=["blue"],
        expires_at=ends,
        previous_digest=b"old",
        previous_pepper_id="pp-0",
        previous_expires_at=ends,
        admin_role="tenant_admin",
        version=7,
    )
    assert await load_key(connection, key_id=key_id) == KeyRecord(
        id=key_id,
        tenant_id=tenant,
        team_id=None,
        user_id=None,
        granted_by=None,
        version=7,
        digest=b"d",
        pepper_id="pp-1",
        previous_digest=b"old",
        previous_pepper_id="pp-0",
        previous_expires_at=ends,
        imported_sha256=None,
        expires_at=ends,
        deleted_by=None,
        blocked_by=None,
        admin_role="tenant_admin",
        user_role=None,
        memberships={},
        scopes=("models", "spend:read"),
        models=(),
        aliases={"fast": "gpt-4o-mini"},
        allowed_routes=("/v1/chat/*",),
        tags=("blue",),
        allowance=Allowance(tenant_id=tenant),
    )


async def test_there_is_no_key_where_there_is_none(connection: Connection) -> None:
    assert await load_key(connection, key_id="nobody") is None
    assert await load_key(connection, imported_sha256=b"nothing") is None


async def test_an_imported_key_is_found_by_its_digest(connection: Connection, tenant: str) -> None:
    await add(connection, "tenants", id=tenant)
    sha256 = tenant.encode()
    key_id = await add_key(connection, tenant, digest=None, pepper_id=None, imported_sha256=sha256)
    record = await load_key(connection, imported_sha256=sha256)
    assert record is not None
    assert (record.id, record.digest, record.pepper_id) == (key_id, None, None)


async def test_lists_of_models_come_from_all_four_levels(connection: Connection, tenant: str) -> None:
    key_id = await add_family(connection, tenant)
    assert (await load(connection, key_id)).models == ()
    for table, globs in (("api_keys", ["a"]), ("users", ["b"]), ("teams", []), ("tenants", ["c", "d"])):
        where = "id" if table == "tenants" else "tenant_id"
        await connection.execute(f"UPDATE {SCHEMA}.{table} SET models = $1 WHERE {where} = $2", globs, tenant)
    assert (await load(connection, key_id)).models == (("a",), ("b",), (), ("c", "d"))


async def test_limits_and_budgets_come_from_all_levels_in_the_tenants_time(connection: Connection, tenant: str) -> None:
    key_id = await add_family(connection, tenant)
    for table, limits in (("api_keys", {"rpm": 5}), ("users", {"tpm": 6}), ("teams", {"max_parallel": 7})):
        statement = f"UPDATE {SCHEMA}.{table} SET limits = $1 WHERE tenant_id = $2"
        await connection.execute(statement, json.dumps(limits), tenant)
    await connection.execute(
        f"UPDATE {SCHEMA}.tenants SET limits = $1, model_limits = $2, time_zone = 'Asia/Tokyo' WHERE id = $3",
        json.dumps({"rpm": 10, "burst": 20}),
        json.dumps({"gpt-4o": {"rpm": 1}, "free": {}}),
        tenant,
    )
    owners = {"key": key_id, "user": f"us-{tenant}", "team": f"tm-{tenant}", "tenant": tenant, "tenant_model": tenant}
    for kind, owner in owners.items():
        model = "gpt-4o" if kind == "tenant_model" else None
        row = {
            "owner_kind": kind,
            "owner_id": owner,
            "model": model,
            "period": "month",
            "limit_nano": 9,
            "soft_nano": 3,
        }
        await add(connection, "budgets", id=f"bg-{kind}-{tenant}", tenant_id=tenant, **row)
    allowance = (await load(connection, key_id)).allowance
    assert allowance.limits == (
        ScopeLimits(kind=ScopeKind.KEY, id=key_id, requests=Rate(5, 5)),
        ScopeLimits(kind=ScopeKind.USER, id=f"us-{tenant}", tokens=Rate(6, 6)),
        ScopeLimits(kind=ScopeKind.TEAM, id=f"tm-{tenant}", parallel=7),
        ScopeLimits(kind=ScopeKind.TENANT, id=tenant, requests=Rate(10, 20)),
    )
    assert allowance.model_limits == {
        "gpt-4o": ScopeLimits(kind=ScopeKind.TENANT_MODEL, id="gpt-4o", requests=Rate(1, 1))
    }

    def budget(kind: ScopeKind, owner: str) -> Budget:
        return Budget(
            id=f"bg-{kind}-{tenant}",
            kind=kind,
            owner_id=owner,
            limit_nano=9,
            period=Period.MONTH,
            soft_nano=3,
            time_zone="Asia/Tokyo",
        )

    kinds = (ScopeKind.KEY, ScopeKind.USER, ScopeKind.TEAM, ScopeKind.TENANT)
    assert allowance.budgets == tuple(budget(kind, owners[kind]) for kind in kinds)
    assert allowance.model_budgets == {"gpt-4o": (budget(ScopeKind.TENANT_MODEL, "gpt-4o"),)}


async def test_budgets_that_were_taken_away_or_are_others_do_not_count(connection: Connection, tenant: str) -> None:
    key_id = await add_family(connection, tenant)
    await add(connection, "tenants", id=f"{tenant}-other")
    row = {"owner_kind": "key", "period": "day", "limit_nano": 9}
    gone = {"tenant_id": tenant, "owner_id": key_id, "deleted_at": datetime.now(UTC)}
    await add(connection, "budgets", id=f"bg-1-{tenant}", **row, **gone)
    await add(connection, "budgets", id=f"bg-2-{tenant}", **row, tenant_id=tenant, owner_id="another")
    await add(connection, "budgets", id=f"bg-3-{tenant}", **row, tenant_id=f"{tenant}-other", owner_id=key_id)
    assert (await load(connection, key_id)).allowance.budgets == ()


@pytest.mark.parametrize("kind", ["key", "user", "team", "tenant"])
async def test_a_key_ends_with_whoever_it_belongs_to_and_comes_back_with_them(
    connection: Connection, tenant: str, kind: str
) -> None:
    key_id = await add_family(connection, tenant)
    table = {"key": "api_keys", "user": "users", "team": "teams", "tenant": "tenants"}[kind]
    where = "id" if kind == "tenant" else "tenant_id"
    for column, value, back in (("deleted_at", datetime.now(UTC), None), ("blocked", True, False)):
        assert (await load(connection, key_id)).deleted_by is None
        assert (await load(connection, key_id)).blocked_by is None
        statement = f"UPDATE {SCHEMA}.{table} SET {column} = $1 WHERE {where} = $2"
        await connection.execute(statement, value, tenant)
        record = await load(connection, key_id)
        expected = (kind, None) if column == "deleted_at" else (None, kind)
        assert (record.deleted_by, record.blocked_by) == expected
        await connection.execute(statement, back, tenant)


async def test_a_key_of_a_member_is_blocked_when_the_membership_ends(connection: Connection, tenant: str) -> None:
    key_id = await add_family(connection, tenant)
    assert (await load(connection, key_id)).memberships == {f"tm-{tenant}": "member"}
    await connection.execute(f"DELETE FROM {SCHEMA}.memberships WHERE tenant_id = $1", tenant)
    assert (await load(connection, key_id)).blocked_by == "membership"


async def test_memberships_are_those_of_living_teams(connection: Connection, tenant: str) -> None:
    key_id = await add_family(connection, tenant)
    await add(connection, "teams", id=f"tm-2-{tenant}", tenant_id=tenant)
    row = {"tenant_id": tenant, "user_id": f"us-{tenant}", "role": "admin"}
    await add(connection, "memberships", team_id=f"tm-2-{tenant}", **row)
    assert (await load(connection, key_id)).memberships == {f"tm-{tenant}": "member", f"tm-2-{tenant}": "admin"}
    await connection.execute(f"UPDATE {SCHEMA}.teams SET deleted_at = now() WHERE id = $1", f"tm-2-{tenant}")
    assert (await load(connection, key_id)).memberships == {f"tm-{tenant}": "member"}


async def test_active_keys_come_with_the_last_changed_first(connection: Connection, tenant: str) -> None:
    await add(connection, "tenants", id=tenant)
    now = datetime.now(UTC) + timedelta(days=365)
    for number in range(3):
        updated = now + timedelta(minutes=number)
        await add_key(connection, tenant, id=f"{tenant}-{number}", updated_at=updated)
    await add_key(connection, tenant, id=f"{tenant}-gone", deleted_at=now, updated_at=now + timedelta(days=1))
    await add_key(connection, tenant, id=f"{tenant}-past", expires_at=datetime(2020, 1, 1, tzinfo=UTC), updated_at=now)
    listed = [record.id for record in await load_all_active(connection, 100) if record.tenant_id == tenant]
    assert listed == [f"{tenant}-2", f"{tenant}-1", f"{tenant}-0"]
    assert len(await load_all_active(connection, 2)) == 2


async def test_no_row_points_into_another_tenant(connection: Connection, tenant: str) -> None:
    await add_family(connection, tenant)
    await add(connection, "tenants", id=f"{tenant}-other")
    for column, value in (("team_id", f"tm-{tenant}"), ("user_id", f"us-{tenant}")):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await add_key(connection, f"{tenant}-other", **{column: value})
