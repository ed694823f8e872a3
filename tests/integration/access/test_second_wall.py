"""What a directory tells whose statements forget the tenant: row-level security stands behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import ColumnElement, true

from hx_gateway.access import repository
from hx_gateway.access.directory import ListQuery, ResourceKind
from hx_gateway.errors import NotFound
from tests.integration.access.directories import KEY, TEAM, TENANT, USER, Office, office_at, tenant_admin


@pytest.fixture
async def office(ordinary: str) -> AsyncIterator[Office]:
    """Give an office on the module's database."""
    async with office_at(ordinary) as office:
        yield office


@pytest.fixture
async def pair(office: Office, tenant: str) -> tuple[str, str]:
    """Make two tenants with a team, a user and a key each; return their ids."""
    names = (tenant, f"{tenant}-rival")
    for name in names:
        await office.tenant(name)
        for kind in (TEAM, USER, KEY):
            await office.make(kind, name, name=f"{kind.value} of {name}")
    return names


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every statement about objects forget whose they are."""

    def of_anybody(*_: object) -> ColumnElement[bool]:
        return true()

    monkeypatch.setattr(repository, "_of_tenant", of_anybody)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("kind", [TEAM, USER, KEY])
async def test_a_list_that_forgets_its_tenant_has_the_actors_own_rows(
    office: Office, pair: tuple[str, str], kind: ResourceKind
) -> None:
    own, rival = pair
    assert await office.names(tenant_admin(own), kind) == [f"{kind.value} of {own}"]
    assert await office.names(tenant_admin(rival), kind) == [f"{kind.value} of {rival}"]


@pytest.mark.usefixtures("forgetful")
async def test_a_list_of_tenants_that_forgets_its_own_has_one(office: Office, pair: tuple[str, str]) -> None:
    assert await office.names(tenant_admin(pair[0]), TENANT) == [pair[0]]


@pytest.mark.parametrize("kind", [TEAM, USER, KEY])
async def test_an_object_of_another_tenant_is_neither_read_nor_changed_by_statements_that_forget_it(
    office: Office, pair: tuple[str, str], kind: ResourceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, rival = pair
    (foreign,) = (await office.directory.list(tenant_admin(rival), kind, ListQuery())).items
    monkeypatch.setattr(repository, "_of_tenant", lambda *_: true())
    for asked in (
        office.directory.get(tenant_admin(own), kind, foreign["id"]),
        office.directory.update(tenant_admin(own), kind, foreign["id"], {"name": "taken"}),
        office.directory.delete(tenant_admin(own), kind, foreign["id"]),
    ):
        with pytest.raises(NotFound):
            await asked
    assert (await office.get(kind, foreign["id"]))["name"] == foreign["name"]
