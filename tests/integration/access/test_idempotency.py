"""A creation that is asked for again makes nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from hx_gateway.access.errors import Conflict
from tests.integration.access.directories import KEY, NOON, ROOT, TEAM, TENANT, Office, office_at, tenant_admin

# The statements are those of test_directory.py, which asks every server that we support.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="package")


@pytest.fixture
async def office(ordinary: str) -> AsyncIterator[Office]:
    """Give an office on the module's database."""
    async with office_at(ordinary) as office:
        yield office


def ask(office: Office, tenant: str, key: str | None = "first", **fields: Any) -> Any:
    return office.directory.create(tenant_admin(tenant), KEY, {"name": "one", **fields}, idempotency_key=key)


async def test_the_first_answer_comes_again_without_the_secret(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant)
    budgets = [{"period": "day", "limit_nano": 1_500_000_000, "soft_nano": None, "model": None}]
    first = await ask(office, tenant, budgets=budgets, metadata={"a": 0.1})
    office.told.clear()
    again = await ask(office, tenant, budgets=budgets, metadata={"a": 0.1})
    secret = first.pop("key")
    assert again == {**first, "replayed": True}
    assert await office.names(ROOT, KEY, tenant_id=tenant) == ["one"]
    assert len(await office.history(tenant)) == 2
    assert office.told == []
    rows = await connection.fetch("SELECT response::text FROM hx_gateway.idempotency_keys WHERE tenant_id = $1", tenant)
    assert len(rows) == 1
    assert secret not in rows[0][0]


async def test_without_a_key_each_request_makes_another(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await ask(office, tenant, None)
    await ask(office, tenant, None)
    assert await office.names(ROOT, KEY, tenant_id=tenant) == ["one", "one"]


@pytest.mark.parametrize("fields", [{"name": "two"}, {"tags": ["a"]}, {"expires_at": NOON + timedelta(days=1)}])
async def test_a_key_that_was_used_for_something_else_is_refused(
    office: Office, tenant: str, fields: dict[str, Any]
) -> None:
    await office.tenant(tenant)
    await ask(office, tenant)
    with pytest.raises(Conflict) as caught:
        await ask(office, tenant, **fields)
    assert (caught.value.status, caught.value.code) == (409, "idempotency_conflict")
    with pytest.raises(Conflict):
        await office.directory.create(tenant_admin(tenant), TEAM, {"name": "one"}, idempotency_key="first")
    assert await office.names(ROOT, KEY, tenant_id=tenant) == ["one"]


async def test_seconds_to_the_end_are_the_same_request_later(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    first = await ask(office, tenant, expires_in=60)
    office.clock.at += timedelta(seconds=5)
    assert (await ask(office, tenant, expires_in=60))["expires_at"] == first["expires_at"]


async def test_keys_of_others_are_others(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    first = await ask(office, tenant)
    other = await office.directory.create(ROOT, KEY, {"name": "one", "tenant_id": tenant}, idempotency_key=tenant)
    await office.tenant(f"{tenant}-2")
    third = await ask(office, f"{tenant}-2")
    assert len({first["id"], other["id"], third["id"]}) == 3


async def test_an_answer_is_forgotten_after_a_day(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant)
    first = await ask(office, tenant)
    office.clock.at += timedelta(hours=24)
    assert (await ask(office, tenant))["id"] == first["id"]
    office.clock.at += timedelta(seconds=1)
    assert (await ask(office, tenant))["id"] != first["id"]
    count = "SELECT count(*) FROM hx_gateway.idempotency_keys WHERE tenant_id = $1"
    assert await connection.fetchval(count, tenant) == 1


async def test_a_request_that_failed_may_come_again(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await office.make(TEAM, tenant, name="taken")
    fields = {"name": "taken", "tenant_id": tenant}
    with pytest.raises(Conflict) as caught:
        await office.directory.create(ROOT, TEAM, fields, idempotency_key=f"again {tenant}")
    assert caught.value.code == "already_exists"
    await office.directory.delete(ROOT, TEAM, (await _only_team(office, tenant))["id"])
    made = await office.directory.create(ROOT, TEAM, fields, idempotency_key=f"again {tenant}")
    assert "replayed" not in made


async def _only_team(office: Office, tenant: str) -> dict[str, Any]:
    entry = (await office.history(tenant, object_kind="team"))[0]
    return await office.get(TEAM, entry["object_id"])


async def test_of_two_at_the_same_time_one_makes_it(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    results = await asyncio.gather(*(ask(office, tenant) for _ in range(3)), return_exceptions=True)
    made = [result for result in results if isinstance(result, dict) and "replayed" not in result]
    refused = [result.code for result in results if isinstance(result, Conflict)]
    assert len(made) == 1
    assert set(refused) <= {"idempotency_in_progress"}
    assert await office.names(ROOT, KEY, tenant_id=tenant) == ["one"]


async def test_a_tenant_is_made_once(office: Office, tenant: str) -> None:
    fields = {"id": tenant, "name": "Acme"}
    first = await office.directory.create(ROOT, TENANT, fields, idempotency_key=f"make {tenant}")
    again = await office.directory.create(ROOT, TENANT, fields, idempotency_key=f"make {tenant}")
    assert again == {**first, "replayed": True}
