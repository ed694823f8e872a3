"""Checks that somebody asks for: services are due at once, and what came of it is told to the tenant for a day."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hx_gateway.access.errors import InvalidField
from hx_gateway.errors import NotFound
from hx_gateway.registry.bulk import Selection
from hx_gateway.registry.checks import Checks
from hx_gateway.registry.errors import NotProbing
from hx_gateway.registry.item_repository import ServiceSearch
from hx_gateway.registry.probing import Level, ProbeRepository
from hx_gateway.registry.standing import Standing
from tests.integration.registry.probing.desks import Desk, member_of, pass_by
from tests.integration.registry.probing.fields import answering, web_server
from tests.integration.registry.registries import Registry

LATER = {"health": {"interval": 3600}}


class CheckDesk(Desk):
    """Who asks for checks."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.checks = Checks(self.transactions, probing=True)

    async def told(self, asked: dict[str, Any]) -> dict[str, Any]:
        return await self.checks.outcome(self.actor, asked["job"])


@pytest.fixture
def desk(lone: Registry) -> CheckDesk:
    return CheckDesk(lone)


async def test_what_is_asked_for_is_due_at_once_and_told_of_by_any_gateway(desk: CheckDesk) -> None:
    async with web_server(answering()) as url:
        for name in ("a", "b", "c"):
            fields = {"protocol": "http", "health_check_url": f"{url}/{name}", "config": LATER}
            await desk.registry.create(name, tags=["asked"] if name != "c" else [], **fields)
        pass_by(desk, 3600)
        await desk.look()
        assert await desk.look() == 0
        pass_by(desk, 1)
        asked = await desk.checks.ask(desk.actor, Selection(refs=["a", "b", "nobody"]))
        assert (asked["due"], asked["unknown"]) == (2, ["nobody"])
        before = await desk.told(asked)
        assert (before["probed"], before["pending"], before["by_status"]) == (0, 2, {})
        assert await desk.look() == 2
    told = await CheckDesk(desk.registry).checks.outcome(desk.actor, asked["job"])
    assert (told["probed"], told["pending"], told["gone"], told["by_status"]) == (2, 0, 0, {"healthy": 2})
    assert [(item["name"], item["status"]) for item in told["items"]] == [("a", "healthy"), ("b", "healthy")]


async def test_a_filter_selects_and_more_than_is_allowed_is_refused(desk: CheckDesk) -> None:
    await desk.registry.create_all("a1", "a2", "b1")
    search = Selection(search=ServiceSearch(name_prefix="a"))
    with pytest.raises(InvalidField) as caught:
        await desk.checks.ask(desk.actor, search, max_affected=1)
    assert caught.value.param == "max_affected"
    assert (await desk.checks.ask(desk.actor, search))["due"] == 2


async def test_a_probe_at_work_does_not_count_for_a_check_that_came_after_it_began(desk: CheckDesk) -> None:
    async with web_server(answering()) as url:
        await desk.registry.create("a", protocol="http", health_check_url=f"{url}/")
        pass_by(desk, 120)
        (claim,) = await desk.prober.repository.claim(desk.clock.now(), 10)
        found = await desk.found(claim)
        asked = await desk.checks.ask_one(desk.actor, "a")
        await desk.prober._write_all(desk.prober._judged([found]))
        assert (await desk.told(asked))["pending"] == 1
        assert await desk.look() == 1
    assert (await desk.told(asked))["pending"] == 0


async def test_one_that_is_deleted_meanwhile_is_told_of_as_gone(desk: CheckDesk) -> None:
    a, _ = await desk.registry.create_all("a", "b")
    asked = await desk.checks.ask(desk.actor, Selection(refs=["a", "b"]))
    async with desk.registry.open() as items:
        await items.delete(a.id)
    told = await desk.told(asked)
    assert (told["gone"], told["pending"], [item["name"] for item in told["items"]]) == (1, 1, ["b"])


async def test_a_check_is_told_of_for_a_day_and_to_its_tenant_only(desk: CheckDesk) -> None:
    await desk.registry.create("a")
    asked = await desk.checks.ask_one(desk.actor, "a")
    for job in ("nothing", "", "a\0b", "5b0e0f3e-6f6b-4a51-9e5c-0d9f2f6d9a11"):
        with pytest.raises(NotFound) as caught:
            await desk.checks.outcome(desk.actor, job)
        assert caught.value.param == "job"
    pass_by(desk, 86_399)
    await desk.told(asked)
    pass_by(desk, 1)
    with pytest.raises(NotFound):
        await desk.told(asked)
    await ProbeRepository(desk.transactions).forget_checks(desk.clock.now() + timedelta(seconds=1))
    assert await desk.registry.rows("SELECT id FROM hx_registry.registry_checks") == []


async def test_the_checks_of_another_tenant_are_none(desk: CheckDesk) -> None:
    await desk.registry.create("a")
    asked = await desk.checks.ask_one(desk.actor, "a")
    desk.actor = member_of("tn-other")
    with pytest.raises(NotFound):
        await desk.told(asked)


async def test_a_level_that_the_probe_does_not_know_is_refused_before_anybody_loses_the_service(
    desk: CheckDesk,
) -> None:
    await desk.registry.create("a", protocol="http", endpoint="http://127.0.0.1:1/", config=LATER)
    await desk.registry.create("b", protocol="tcp", endpoint="127.0.0.1:1", config={"health": {"heartbeat": True}})
    pass_by(desk, 3600)
    claims = await desk.prober.repository.claim(desk.clock.now(), 10)
    standing = Standing(desk.transactions, desk.prober)
    for name in ("a", "b"):
        with pytest.raises(InvalidField, match="level"):
            await standing.check(desk.actor, name, level=Level.REACHABLE)
    held = await desk.registry.rows("SELECT lease_until FROM hx_registry.registry_health ORDER BY item_id")
    assert [row["lease_until"] for row in held] == [claim.lease_until for claim in claims]


async def test_a_gateway_that_does_not_probe_takes_no_checks(desk: CheckDesk) -> None:
    with pytest.raises(NotProbing):
        await Checks(desk.transactions, probing=False).ask(desk.actor, Selection(refs=["a"]))
