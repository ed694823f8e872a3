"""Keys that are taken over by their hashes: without a secret, once, and by an admin of the platform only."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from hx_gateway.access.errors import Conflict
from hx_gateway.access.key_rows import load_key
from hx_gateway.access.resources import Actor
from hx_gateway.errors import Forbidden
from tests.integration.access.directories import KEY, ROOT, Office, office_at, team_admin, tenant_admin


@pytest.fixture
async def office(ordinary: str) -> AsyncIterator[Office]:
    """Give an office on the module's database."""
    async with office_at(ordinary) as office:
        yield office


@pytest.fixture
def sha256() -> str:
    """Give the hash of a key that nobody has."""
    return hashlib.sha256(f"sk-{uuid4().hex}".encode()).hexdigest()


def take(office: Office, tenant: str, sha256: str, by: Actor = ROOT, **more: Any) -> Any:
    fields = {"name": "old", "tenant_id": tenant, "imported_sha256": sha256, "last_four": "wxyz", **more}
    return office.directory.create(by, KEY, fields)


async def test_a_key_that_is_taken_over_has_no_secret(
    office: Office, tenant: str, sha256: str, connection: Any
) -> None:
    await office.tenant(tenant)
    made = await take(office, tenant, sha256, limits={"rpm": 5})
    assert (made.get("key"), made["prefix"], made["last_four"]) == (None, "sk-", "wxyz")
    assert (made["limits"], made["scopes"]) == ({"rpm": 5}, ["models"])
    assert await office.get(KEY, made["id"]) == made
    record = await load_key(connection, imported_sha256=bytes.fromhex(sha256))
    assert record is not None
    assert (record.id, record.digest, record.pepper_id) == (made["id"], None, None)


async def test_its_change_is_told_and_written_down_without_the_hash(
    office: Office, tenant: str, sha256: str, connection: Any
) -> None:
    await office.tenant(tenant)
    office.told.clear()
    made = await office.directory.create(
        ROOT, KEY, {"name": "old", "tenant_id": tenant, "imported_sha256": sha256}, idempotency_key=sha256[:8]
    )
    assert office.told == [("key", made["id"], tenant)]
    (entry,) = await office.history(tenant, object_kind="key")
    assert (entry["action"], entry["after"]["imported_sha256"]) == ("created", "***")
    for table in ("audit_log", "idempotency_keys"):
        rows = await connection.fetch(f"SELECT t::text FROM hx_gateway.{table} AS t")
        assert rows
        assert sha256 not in str(rows)


async def test_a_repeated_request_gets_the_first_answer(office: Office, tenant: str, sha256: str) -> None:
    await office.tenant(tenant)
    fields = {"name": "old", "tenant_id": tenant, "imported_sha256": sha256}
    first = await office.directory.create(ROOT, KEY, fields, idempotency_key=sha256)
    assert await office.directory.create(ROOT, KEY, fields, idempotency_key=sha256) == {**first, "replayed": True}


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_key_is_taken_over_once_in_all_tenants(
    office: Office, tenant: str, sha256: str, *, deleted: bool
) -> None:
    await office.tenant(tenant)
    await office.tenant(f"{tenant}-2")
    first = await take(office, tenant, sha256)
    if deleted:
        await office.directory.delete(ROOT, KEY, first["id"])
    with pytest.raises(Conflict) as caught:
        await take(office, f"{tenant}-2", sha256)
    assert (caught.value.status, caught.value.code) == (409, "already_exists")
    assert caught.value.param == "imported_sha256"
    assert sha256 not in caught.value.message
    assert await office.names(ROOT, KEY, tenant_id=f"{tenant}-2") == []


async def test_of_two_at_once_one_takes_it_over(office: Office, tenant: str, sha256: str) -> None:
    tenants = [f"{tenant}-{number}" for number in range(3)]
    for each in tenants:
        await office.tenant(each)
    ends = await asyncio.gather(*(take(office, each, sha256) for each in tenants), return_exceptions=True)
    assert sorted(isinstance(end, Conflict) for end in ends) == [False, True, True]
    assert sorted(isinstance(end, dict) for end in ends) == [False, False, True]


@pytest.mark.parametrize("fields", [{}, {"imported_sha256": "0" * 64}], ids=["last_four alone", "both"])
async def test_nobody_else_takes_keys_over(office: Office, tenant: str, fields: dict[str, str]) -> None:
    await office.tenant(tenant)
    team, _ = await office.team_with(tenant)
    for by in (tenant_admin(tenant), team_admin(tenant, team)):
        with pytest.raises(Forbidden):
            await office.directory.create(by, KEY, {"name": "A", "team_id": team, "last_four": "a", **fields})
    assert await office.names(ROOT, KEY, tenant_id=tenant) == []


async def test_a_key_of_our_own_keeps_its_own_end(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant, last_four="wxyz")
    assert made["last_four"] == made["key"][-4:]
