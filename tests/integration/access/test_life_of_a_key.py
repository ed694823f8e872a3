"""A key from its making to its end, as whoever presents it sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

import pytest

from tests.fixtures.servers import Servers
from tests.integration.access.desks import Desk, desk_of
from tests.integration.access.directories import KEY, PEPPERS, ROOT, TEAM, TENANT, USER, office_at
from tests.integration.db.databases import migrated_database


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Give the URL of a database of its own."""
    with migrated_database(servers.postgres) as url:
        yield servers.postgres.ordinary_url(url)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)


def says(desk: Desk, text: str, expected: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return await desk.says(text) == expected

    return ask


async def test_a_key_is_let_in_rotated_blocked_and_ended_without_a_word_but_postgresqls(database: str) -> None:
    async with office_at(database) as office, desk_of(database, listen=True, peppers=PEPPERS) as (desk, _):
        directory, office.clock.at = office.directory, datetime.now(UTC)
        await directory.create(ROOT, TENANT, {"id": "acme", "name": "Acme"})
        team = await directory.create(ROOT, TEAM, {"tenant_id": "acme", "name": "Blue"})
        user = await directory.create(ROOT, USER, {"tenant_id": "acme", "name": "Ada"})
        await directory.set_member(ROOT, team["id"], user["id"], "admin")
        owners = {"tenant_id": "acme", "team_id": team["id"], "user_id": user["id"]}
        made = await directory.create(ROOT, KEY, {"name": "mine", "models": ["gpt-*"], **owners})
        key_id, old = made["id"], made["key"]
        await until(says(desk, old, key_id))
        principal = await desk.authenticator.authenticate(old)
        assert principal is not None
        assert (principal.tenant_id, principal.role, principal.models) == ("acme", "team_admin", (("gpt-*",),))

        await directory.set_member(ROOT, team["id"], user["id"], "read_only")

        async def may_only_read() -> bool:
            principal = await desk.authenticator.authenticate(old)
            return principal is not None and principal.role == "read_only"

        await until(may_only_read)
        new = (await directory.rotate(ROOT, key_id, 3600))["key"]
        await until(says(desk, new, key_id))
        assert await desk.says(old) == key_id
        await directory.update(ROOT, TENANT, "acme", {"blocked": True})
        await until(says(desk, new, "key_blocked"))
        await directory.update(ROOT, TENANT, "acme", {"blocked": False})
        await until(says(desk, new, key_id))
        await directory.remove_member(ROOT, team["id"], user["id"])
        await until(says(desk, new, "key_blocked"))
        await directory.delete(ROOT, KEY, key_id)
        await until(says(desk, new, "key_revoked"))
