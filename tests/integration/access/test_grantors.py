"""Keys that were made with keys: held at each use to what those above them may do by then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.access.errors import ExceedsGrantor
from hx_gateway.access.grants import MAX_GRANTORS
from hx_gateway.access.principal import Principal, Role
from hx_gateway.access.resources import ListQuery
from hx_gateway.access.snapshot import KeySnapshot
from tests.fixtures.servers import Servers
from tests.integration.access.desks import Desk, desk_of, run
from tests.integration.access.directories import KEY, PEPPERS, ROOT, USER, Office, actor, office_at
from tests.integration.db.databases import migrated_database

PROMISED_SECONDS = 1.0
ADMIN = {"admin_role": "tenant_admin", "scopes": ["models", "spend:read"]}


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Give the URL of a database of its own."""
    with migrated_database(servers.postgres) as url:
        yield url


@dataclass
class Site:
    """A directory, and a desk that hears of its changes through PostgreSQL alone."""

    office: Office
    desk: Desk

    async def principal(self, made: dict[str, Any]) -> Principal:
        """Return whom a key stands for now."""
        found = await self.desk.authenticator.authenticate(made["key"])
        assert found is not None
        return found

    async def made_with(self, grantor: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Return a key that another one makes."""
        asking = actor(await self.principal(grantor))
        return await self.office.directory.create(asking, KEY, {"name": "made", **fields})

    async def soon(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Return once ``condition`` holds; ten seconds is what it would take untold."""
        began = time.monotonic()
        while not await condition():
            assert time.monotonic() - began < 5 * PROMISED_SECONDS
            await asyncio.sleep(0.01)

    async def says(self, made: dict[str, Any], expected: str) -> None:
        async def asked() -> bool:
            return await self.desk.says(made["key"]) == expected

        await self.soon(asked)

    async def uses(self, made: dict[str, Any], model: str, *, may: bool) -> None:
        async def asked() -> bool:
            return (await self.principal(made)).may_use(model) is may

        await self.soon(asked)


@pytest.fixture
async def site(database: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(office_at(database))
        office.clock.at = datetime.now(UTC)
        desk, _ = await stack.enter_async_context(desk_of(database, listen=True, peppers=PEPPERS))
        await office.tenant("acme")
        yield Site(office, desk)


async def test_what_a_key_loses_all_that_it_made_lose_and_get_back_with_it(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    middle = await site.made_with(top, **ADMIN)
    bottom = await site.made_with(middle, scopes=["models", "spend:read"])
    assert (middle["granted_by"], bottom["granted_by"]) == (top["id"], middle["id"])
    await site.uses(bottom, "gpt-4o", may=True)
    update = site.office.directory.update
    await update(ROOT, KEY, top["id"], {"models": ["gpt-*"], "scopes": ["models"], "allowed_routes": ["/v1/chat/*"]})
    await site.uses(bottom, "claude-3", may=False)
    for made in (middle, bottom):
        principal = await site.principal(made)
        assert principal.may_use("gpt-4o")
        assert principal.scopes == {"models"}
        assert principal.may_take("/v1/chat/completions")
        assert not principal.may_take("/v1/embeddings")
    await update(ROOT, KEY, middle["id"], {"models": ["*-mini"]})
    await site.uses(bottom, "gpt-4o", may=False)
    assert (await site.principal(bottom)).may_use("gpt-4o-mini")
    await update(ROOT, KEY, middle["id"], {"models": None})
    await update(ROOT, KEY, top["id"], {"models": None, "scopes": ["models", "spend:read"], "allowed_routes": None})
    await site.uses(bottom, "claude-3", may=True)
    principal = await site.principal(bottom)
    assert principal.scopes == {"models", "spend:read"}
    assert (principal.models, principal.allowed_routes) == ((), ())
    assert (await site.office.get(KEY, bottom["id"]))["models"] is None


async def test_what_a_blocked_key_made_is_blocked_though_it_is_deleted_until_it_is_unblocked(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    middle = await site.made_with(top, **ADMIN)
    bottom = await site.made_with(middle)
    await site.says(bottom, bottom["id"])
    directory = site.office.directory
    await directory.block(ROOT, top["id"])
    await site.says(bottom, "key_blocked")
    await site.says(middle, "key_blocked")
    await directory.delete(ROOT, KEY, top["id"])
    await site.says(top, "key_revoked")
    assert await site.desk.says(bottom["key"]) == "key_blocked"
    await directory.restore(ROOT, KEY, top["id"])
    await directory.unblock(ROOT, top["id"])
    await site.says(bottom, bottom["id"])


async def test_a_key_outlives_the_one_that_made_it_and_stays_held_to_what_that_had(site: Site) -> None:
    top = await site.office.make(KEY, "acme", models=["gpt-*"], **ADMIN)
    bottom = await site.made_with(top, models=["gpt-*"])
    await site.office.directory.update(ROOT, KEY, top["id"], {"models": ["*-mini"]})
    await site.office.directory.delete(ROOT, KEY, top["id"])
    await site.says(top, "key_revoked")
    await site.uses(bottom, "gpt-4o", may=False)
    assert (await site.principal(bottom)).may_use("gpt-4o-mini")


async def test_a_rotation_of_the_key_above_changes_nothing(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    bottom = await site.made_with(top)
    before = await site.principal(bottom)
    await site.office.directory.rotate(ROOT, top["id"], 0)
    await site.says(top, "unknown")
    assert await site.principal(bottom) == before


async def test_who_learns_a_keys_secret_by_rotating_it_stands_above_it_from_then_on(site: Site) -> None:
    ada = await site.office.make(KEY, "acme", **ADMIN)
    service = await site.office.make(KEY, "acme", scopes=["models"])
    asking = actor(await site.principal(ada))
    rotated = await site.office.directory.rotate(asking, service["id"], 3600)
    assert rotated["granted_by"] == ada["id"]
    await site.says(rotated, service["id"])
    await site.office.directory.block(ROOT, ada["id"])
    await site.says(rotated, "key_blocked")
    await site.says(service, "key_blocked")


async def test_a_rotation_by_the_key_itself_one_above_it_or_the_admin_key_moves_no_key(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    middle = await site.made_with(top, admin_role="tenant_admin")
    bottom = await site.made_with(middle)
    for asking in (ROOT, actor(await site.principal(top)), actor(await site.principal(middle))):
        assert (await site.office.directory.rotate(asking, bottom["id"], 3600))["granted_by"] == middle["id"]
    rotated = await site.office.directory.rotate(actor(await site.principal(middle)), middle["id"], 0)
    assert rotated["granted_by"] == top["id"]


async def test_a_key_does_not_rotate_one_that_stands_above_it(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    bottom = await site.made_with(await site.made_with(top, admin_role="tenant_admin"), admin_role="tenant_admin")
    with pytest.raises(ExceedsGrantor, match="above it"):
        await site.office.directory.rotate(actor(await site.principal(bottom)), top["id"], 0)
    await site.says(top, top["id"])


async def test_a_key_ends_with_the_one_above_it(site: Site) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    bottom = await site.made_with(top)
    await site.says(bottom, bottom["id"])
    ended = datetime.now(UTC) - timedelta(seconds=1)
    await site.office.directory.update(ROOT, KEY, top["id"], {"expires_at": ended})
    await site.says(bottom, "key_expired")


async def test_who_is_an_admin_no_more_has_made_no_admins(site: Site) -> None:
    directory = site.office.directory
    ada = await site.office.make(USER, "acme", role="tenant_admin")
    own = await site.office.make(KEY, "acme", user_id=ada["id"], scopes=["models"])
    made = await site.made_with(own, admin_role="tenant_admin")
    assert (await site.principal(made)).role is Role.TENANT_ADMIN
    await directory.update(ROOT, USER, ada["id"], {"role": "member"})

    async def is_member() -> bool:
        return (await site.principal(made)).role is Role.MEMBER

    await site.soon(is_member)
    await directory.update(ROOT, USER, ada["id"], {"blocked": True})
    await site.says(made, "key_blocked")


async def test_a_key_of_the_platform_is_above_those_of_other_tenants_and_is_not_told_there(site: Site) -> None:
    root = await site.office.make(KEY, "default", admin_role="platform_admin")
    made = await site.made_with(root, tenant_id="acme", **ADMIN)
    assert (root["granted_by"], made["granted_by"]) == (None, None)
    below = await site.made_with(made)
    shown = await site.office.directory.list(ROOT, KEY, ListQuery(filters={"tenant_id": "acme"}))
    assert {item["id"]: item["granted_by"] for item in shown.items} == {made["id"]: None, below["id"]: made["id"]}
    await site.office.directory.block(ROOT, root["id"])
    await site.says(below, "key_blocked")


async def test_only_so_many_keys_stand_above_one(site: Site) -> None:
    made = await site.office.make(KEY, "acme", **ADMIN)
    for _ in range(MAX_GRANTORS):
        made = await site.made_with(made, **ADMIN)
    with pytest.raises(ExceedsGrantor, match="further up"):
        await site.made_with(made)
    assert await site.desk.says(made["key"]) == made["id"]


async def test_a_line_that_has_no_end_lets_nobody_in(site: Site, database: str) -> None:
    made = await site.office.make(KEY, "acme")
    await run(database, "UPDATE hx_gateway.api_keys SET granted_by = id WHERE id = $1", made["id"])
    assert await site.desk.says(made["key"]) == "dependency_unavailable"


async def test_warm_keys_are_held_as_those_that_are_looked_up(site: Site) -> None:
    top = await site.office.make(KEY, "acme", models=["gpt-*"], **ADMIN)
    bottom = await site.made_with(top, models=["gpt-4o"])
    await site.office.directory.update(ROOT, KEY, top["id"], {"models": ["*-mini"]})
    warm = {known.id: known for known in await site.desk.source.load_active(10)}
    assert warm[bottom["id"]] == await site.desk.source.load(bottom["id"])
    assert not warm[bottom["id"]].principal.may_use("gpt-4o")


async def test_a_process_that_starts_without_the_database_holds_them_too(
    site: Site, servers: Servers, database: str, tmp_path: Path
) -> None:
    top = await site.office.make(KEY, "acme", **ADMIN)
    bottom, other = await site.made_with(top), await site.made_with(top)
    await site.says(other, other["id"])
    await site.office.directory.update(ROOT, KEY, top["id"], {"models": ["gpt-*"]})
    await site.uses(bottom, "claude-3", may=False)
    await KeySnapshot(tmp_path / "keys", PEPPERS, site.desk.cache).write()
    async with desk_of(database, peppers=PEPPERS) as (desk, _):
        await KeySnapshot(tmp_path / "keys", PEPPERS, desk.cache).load()
        servers.postgres.kill()
        try:
            principal = await desk.authenticator.authenticate(bottom["key"])
            assert principal is not None
            assert (principal.may_use("gpt-4o"), principal.may_use("claude-3")) == (True, False)
            # Nobody looked it up since the one above it changed.
            assert await desk.says(other["key"]) == "dependency_unavailable"
        finally:
            servers.postgres.start()
