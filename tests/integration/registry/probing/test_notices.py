"""What a prober tells of beside statuses: each once, however many gateways there are."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.feed.changes import Change, ChangeType
from hx_gateway.registry.feed.repository import ChangeRepository
from hx_gateway.registry.probing import ProbeRepository
from hx_gateway.registry.probing.prober import Prober
from hx_gateway.registry.transactions import Transactions
from tests.integration.registry.probing.fields import (
    AUDIT_KEY,
    FastClock,
    probing,
    until,
    until_status,
    web_server,
)
from tests.integration.registry.probing.test_prober import Switch, all_of, switched
from tests.integration.registry.registries import Registry, registry_at

QUICK = {"health": {"interval": 5, "failures": 1, "successes": 1}}


async def told(registry: Registry, kind: ChangeType, field: str) -> list[tuple[bool, bool]]:
    """Return what changes of a type say of the one field that they have: before and after."""
    changes = [change for change in await everything(registry) if change.type is kind]
    assert all(change.changed_fields == [field] for change in changes)
    return [((change.before or {})[field], (change.after or {})[field]) for change in changes]


async def everything(registry: Registry) -> list[Change]:
    return await ChangeRepository(registry.database).after(registry.tenant, 0, 500)


async def until_told(registry: Registry, kind: ChangeType, field: str, expected: list[Any]) -> None:
    async def there() -> bool:
        return len(await told(registry, kind, field)) >= len(expected)

    await until(there)
    assert await told(registry, kind, field) == expected


async def test_flapping_is_told_when_it_begins_and_when_it_ends(lone: Registry) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url, probing(lone) as prober, probing(lone):
        item = await switched(lone, url, config=QUICK)
        for status in ("healthy", "unhealthy", "healthy", "unhealthy", "healthy"):
            switch.on = status == "healthy"
            await until_status(prober, lone, item, status)
        await until_told(lone, ChangeType.FLAPPING, "flapping", [(False, True), (True, False)])
    assert await lone.first_broken_entry() is None
    # Nobody changed the service: no version of it is another one for that.
    statuses = [change for change in await everything(lone) if change.type is ChangeType.STATUS_CHANGED]
    assert (await lone.get(item)).row_version == 1 + len(statuses)


async def test_a_service_that_is_not_seen_any_more_is_told_of_once_and_when_it_is_back(lone: Registry) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url, probing(lone) as prober, probing(lone):
        item = await switched(lone, url, config=QUICK)
        never = await switched(lone, "http://127.0.0.1:1", "never", config=QUICK)
        await until_status(prober, lone, item, "healthy")
        switch.on = False
        await until_told(lone, ChangeType.STALE, "stale", [(False, True)])
        assert (await prober.repository.state(lone.tenant, item.id)).stale
        failures = (await lone.get(item)).failure_count

        async def looked_at_again() -> bool:
            return (await lone.get(item)).failure_count >= failures + 3

        await until(looked_at_again)
        switch.on = True
        await until_told(lone, ChangeType.STALE, "stale", [(False, True), (True, False)])
        assert not (await prober.repository.state(lone.tenant, item.id)).stale
        # Of one that was never seen that is no news.
        assert not (await prober.repository.state(lone.tenant, never.id)).stale


async def test_one_that_only_gives_signs_of_life_is_told_of_too(lone: Registry) -> None:
    clock = FastClock()
    item = await lone.create("quiet", config={"health": {"interval": 5}})

    async def seen() -> None:
        async with lone.at(clock.now()).open() as items:
            await items.bulk_update_last_seen([item.id])

    await seen()
    async with probing(lone, clock=clock):
        await until_told(lone, ChangeType.STALE, "stale", [(False, True)])
        await seen()
        await until_told(lone, ChangeType.STALE, "stale", [(False, True), (True, False)])


async def test_a_sign_of_life_that_comes_while_a_service_is_probed_counts(lone: Registry) -> None:
    repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
    clock = FastClock()
    item = await switched(lone, "http://127.0.0.1:1", config=QUICK)
    async with lone.at(clock.now() - timedelta(hours=1)).open() as items:
        await items.bulk_update_last_seen([item.id])
    (claim,) = await repository.claim(clock.now(), 10)
    async with lone.at(clock.now()).open() as items:
        await items.bulk_update_last_seen([item.id])
    async with probing(lone, clock=clock) as prober:
        finding = await _found_down(prober, claim, clock)
        assert finding.stale
        await prober.repository.write_changes(lone.tenant, [finding])
    assert await told(lone, ChangeType.STALE, "stale") == []


async def _found_down(prober: Prober, claim: Any, clock: FastClock) -> Any:
    outcome = await prober._probes.probe(claim.target, claim.rules)
    (finding,) = prober._judged([(claim, outcome, clock.now())])
    return finding


async def test_self_preservation_is_told_to_the_tenants_that_it_is_about(lone: Registry, alone: str) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url, registry_at(alone, "tn-other") as other:
        items: list[RegistryItem] = [await switched(lone, url, f"s{number}") for number in range(10)]
        async with probing(lone) as prober:

            async def all_healthy() -> bool:
                return await all_of(lone, "healthy") == 10

            await until(all_healthy)
            switch.off = {f"/s{number}" for number in range(6)}
            field = "self_preservation"
            await until_told(lone, ChangeType.SELF_PRESERVATION, field, [(False, True)])
            switch.off = {"/s0"}
            await until_told(lone, ChangeType.SELF_PRESERVATION, field, [(False, True), (True, False)])
            await until_status(prober, lone, items[0], "unhealthy")
        assert await everything(other) == []
    (began, _) = [change for change in await everything(lone) if change.type is ChangeType.SELF_PRESERVATION]
    assert (began.service_id, began.name, began.actor_key) == (None, None, "prober")
    assert "subject" not in began.event()
    assert await lone.first_broken_entry() is None


async def test_of_several_gateways_the_first_tells_that_it_begins_and_the_last_that_it_ends(lone: Registry) -> None:
    repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
    now, gateways = FastClock().now(), [uuid4() for _ in range(3)]
    later = now + timedelta(minutes=10)
    await asyncio.gather(*(repository.preserve(lone.tenant, gateway, later, now) for gateway in gateways))
    field = "self_preservation"
    assert await told(lone, ChangeType.SELF_PRESERVATION, field) == [(False, True)]
    await asyncio.gather(*(repository.preserve(lone.tenant, gateway, None, now) for gateway in gateways[:2]))
    assert await told(lone, ChangeType.SELF_PRESERVATION, field) == [(False, True)]
    await repository.lapse(now)
    assert await told(lone, ChangeType.SELF_PRESERVATION, field) == [(False, True)]
    # The last one died.
    await repository.lapse(later)
    assert await told(lone, ChangeType.SELF_PRESERVATION, field) == [(False, True), (True, False)]
    await repository.preserve("tn-nobody", gateways[0], later, now)


@pytest.mark.parametrize("raised", [False, True])
async def test_a_gateway_that_stops_says_that_it_preserves_nothing_any_more(lone: Registry, raised: bool) -> None:
    async with probing(lone) as prober:
        if raised:
            prober._concerned = [lone.tenant]
            prober._untold.append((lone.tenant, prober._clock.now() + timedelta(hours=1)))
            await until_told(lone, ChangeType.SELF_PRESERVATION, "self_preservation", [(False, True)])
    expected = [(False, True), (True, False)] if raised else []
    assert await told(lone, ChangeType.SELF_PRESERVATION, "self_preservation") == expected
