"""Heartbeats over a real database: what they say, what silence says, and that it is said once however many look."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.errors import HXError
from hx_gateway.registry.probing import Beat, Described, FailureClass
from hx_gateway.registry.probing.beats import MAX_BEATS
from tests.integration.registry.probing.desks import Desk, member_of, pass_by
from tests.integration.registry.probing.fields import (
    FastClock,
    answering,
    probing,
    until,
    web_server,
)
from tests.integration.registry.registries import NOON, Registry

LONG = timedelta(hours=1)
SHORT = timedelta(seconds=5)


@pytest.fixture
def desk(lone: Registry) -> Desk:
    return Desk(lone)


async def changes(registry: Registry, item: RegistryItem) -> list[tuple[str, str]]:
    """Return the changes of a service's status that the audit log holds."""
    entries = await registry.audit(item)
    return [(before["status"], after["status"]) for action, before, after in entries if action == "updated"]


async def test_silence_is_noticed_once_by_several_gateways_and_beats_bring_the_service_back(lone: Registry) -> None:
    clock = FastClock()
    desk = Desk(lone, clock)
    item = await lone.at(clock.now()).create("one")
    await desk.beat(Beat(ref="one", ttl=SHORT))
    assert (await desk.health("one")).status is ServiceStatus.HEALTHY
    async with probing(lone, clock=clock), probing(lone, clock=clock):

        async def silent() -> bool:
            return (await desk.health("one")).status is ServiceStatus.UNHEALTHY

        await until(silent)
        state = await desk.health("one")
        assert (state.failure_class, state.by_beats) == (FailureClass.TIMEOUT, True)
        assert (state.last_error or "").startswith("no heartbeat since 20")
        looked_at = state.next_check_at

        async def looked_again() -> bool:
            return (await desk.health("one")).next_check_at != looked_at

        await until(looked_again)
        assert (await lone.get(item)).failure_count == 1
        await desk.beat(Beat(ref="one", ttl=LONG))
        assert (await desk.health("one")).status is ServiceStatus.UNHEALTHY
        await desk.beat(Beat(ref="one", ttl=LONG))
        state = await desk.health("one")
        assert (state.status, state.failure_class, state.last_error) == (ServiceStatus.HEALTHY, None, None)
    assert await changes(lone, item) == [
        ("unknown", "healthy"),
        ("healthy", "unhealthy"),
        ("unhealthy", "healthy"),
    ]


async def test_a_service_that_beats_in_time_stays_healthy(desk: Desk) -> None:
    item = await desk.registry.create("one")
    for _ in range(5):
        await desk.beat(Beat(ref="one", ttl=timedelta(seconds=90)))
        pass_by(desk, 80)
        await desk.look()
    assert (await desk.health("one")).status is ServiceStatus.HEALTHY
    assert await changes(desk.registry, item) == [("unknown", "healthy")]
    pass_by(desk, 11)
    assert await desk.look() == 1
    assert (await desk.health("one")).status is ServiceStatus.UNHEALTHY


async def test_one_that_is_restored_is_not_silent_for_the_time_that_it_was_deleted(desk: Desk) -> None:
    item = await desk.registry.create("one")
    await desk.beat(Beat(ref="one", ttl=SHORT))
    pass_by(desk, 60)
    async with desk.registry.at(desk.clock.now()).open() as items:
        await items.delete(item.id)
        await items.restore(item.id)
    await desk.look()
    assert (await desk.health("one")).status is not ServiceStatus.UNHEALTHY


async def test_heartbeats_leave_no_history_of_probes(desk: Desk) -> None:
    await desk.registry.create("one")
    await desk.beat(Beat(ref="one", ttl=SHORT))
    pass_by(desk, 6)
    await desk.look()
    assert (await desk.health("one")).status is ServiceStatus.UNHEALTHY
    assert await desk.registry.rows("SELECT item_id FROM hx_registry.registry_health_history") == []


async def test_a_beat_voids_what_a_look_found_at_the_same_time(desk: Desk) -> None:
    await desk.registry.create("one")
    await desk.beat(Beat(ref="one", ttl=SHORT))
    pass_by(desk, 6)
    (claim,) = await desk.prober.repository.claim(desk.clock.now(), 50)
    found = await desk.found(claim)
    await desk.beat(Beat(ref="one", ttl=LONG))
    await desk.prober._write_all(desk.prober._judged([found]))
    assert (await desk.health("one")).status is ServiceStatus.HEALTHY


async def test_a_shorter_time_to_live_counts_at_once(desk: Desk) -> None:
    await desk.registry.create("one")
    await desk.beat(Beat(ref="one", ttl=LONG))
    await desk.look()
    await desk.beat(Beat(ref="one", ttl=SHORT))
    pass_by(desk, 6)
    await desk.look()
    assert (await desk.health("one")).status is ServiceStatus.UNHEALTHY


async def test_a_service_that_wants_to_live_by_its_beats_is_not_asked(desk: Desk) -> None:
    config = {"health": {"heartbeat": True}}
    async with web_server(answering(503)) as url:
        await desk.registry.create("own", protocol="http", endpoint=f"{url}/mcp", config=config)
        await desk.registry.create("asked", protocol="http", health_check_url=f"{url}/health")
        await desk.beat("own", "asked")
        pass_by(desk, 70)
        await desk.look()
    own, asked = await desk.health("own"), await desk.health("asked")
    assert (own.status, own.consecutive_failures, own.by_beats) == (ServiceStatus.HEALTHY, 0, True)
    assert (asked.status, asked.consecutive_failures, asked.by_beats) == (ServiceStatus.UNKNOWN, 1, False)
    pass_by(desk, 60)
    await desk.look()
    assert (await desk.health("own")).status is ServiceStatus.UNHEALTHY
    assert (await desk.health("asked")).failure_class is not FailureClass.TIMEOUT


async def test_a_beat_may_say_that_the_service_is_not_well(desk: Desk) -> None:
    await desk.registry.create("own")
    await desk.registry.create("asked", protocol="http", health_check_url="http://127.0.0.1:1/")
    ill = [Beat(ref=ref, status=ServiceStatus.UNHEALTHY, response_time_ms=7.5) for ref in ("own", "asked")]
    await desk.beat("own", *ill)
    for name in ("own", "asked"):
        state = await desk.health(name)
        assert (state.status, state.response_time_ms, state.last_seen) == ("unhealthy", 7.5, desk.clock.now())
    await desk.beat(*ill)
    assert (await desk.health("own")).consecutive_failures == 2


async def test_beats_of_the_same_kind_change_counters_and_nothing_else(desk: Desk) -> None:
    async with desk.registry.open() as items:
        made = await items.bulk_create([{"name": f"s{number}"} for number in range(500)])
    names = [item.name for item in made.items]
    assert await desk.beat(*names, "nobody", str(uuid4())) != []
    entries = len(await desk.registry.audit())
    pass_by(desk, 30)
    assert await desk.beat(*names) == []
    assert len(await desk.registry.audit()) == entries
    query = (
        "SELECT DISTINCT success_count, last_seen, ttl_until, consecutive_successes FROM hx_registry.registry_health"
    )
    (row,) = await desk.registry.rows(query)
    now = desk.clock.now()
    assert tuple(row.values()) == (2, now, now + timedelta(seconds=90), 2)
    assert await desk.registry.first_broken_entry() is None


async def test_more_than_a_thousand_beats_are_refused(desk: Desk) -> None:
    with pytest.raises(HXError) as caught:
        await desk.beat(*(str(uuid4()) for _ in range(MAX_BEATS + 1)))
    assert caught.value.param == "items"
    assert len(await desk.beat(*(str(uuid4()) for _ in range(MAX_BEATS)))) == MAX_BEATS


async def test_nobody_beats_for_the_services_of_another_tenant(desk: Desk) -> None:
    item = await desk.registry.create("one")
    desk.actor = member_of("tn-other")
    assert await desk.beat("one", str(item.id)) == ["one", str(item.id)]
    assert (await desk.registry.get(item)).last_seen is None


async def test_what_a_service_says_of_itself_is_written_where_it_is_news(desk: Desk) -> None:
    item = await desk.registry.create("one", version="1", service_metadata={"team": "a", "host": "h1"})
    beat = Beat(ref="one")
    for version, metadata in (("1", {"team": "a"}), ("2", {"host": "h2", "team": None}), ("2", {"host": "h2"})):
        described = Described(version=version, metadata=metadata)
        assert await desk.standing.heartbeat(desk.actor, beat, described) == []
    assert await desk.standing.heartbeat(desk.actor, Beat(ref="nobody"), Described(version="1")) == ["nobody"]
    stored = await desk.registry.get(item)
    assert (stored.version, stored.service_metadata, stored.success_count) == ("2", {"host": "h2"}, 3)
    told = [before.keys() for action, before, _ in await desk.registry.audit(item) if action == "updated"]
    assert [sorted(fields - {"row_version", "updated_at", "updated_by"}) for fields in told] == [
        ["status"],
        ["service_metadata", "version"],
    ]


async def test_what_somebody_changed_while_a_beat_came_is_not_lost(desk: Desk) -> None:
    item = await desk.registry.create("one", service_metadata={"team": "a"})

    async def beat_waits() -> bool:
        return bool(await desk.registry.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))

    async with desk.registry.open() as items:
        await items.update(item.id, {"service_metadata": {"team": "b"}, "version": "2"})
        described = Described(metadata={"host": "h1"})
        beat = asyncio.create_task(desk.standing.heartbeat(desk.actor, Beat(ref="one"), described))
        await until(beat_waits)
    assert await beat == []
    stored = await desk.registry.get(item)
    assert (stored.version, stored.service_metadata) == ("2", {"team": "b", "host": "h1"})


async def test_a_report_says_why_until_the_service_is_well(desk: Desk) -> None:
    await desk.registry.create("one")
    why = (FailureClass.CONNECT, "no answer from //ann:secret@example.org\nat all")
    await desk.standing.note_health(desk.actor, "one", ServiceStatus.UNHEALTHY, why=why)
    for _ in range(2):
        state = await desk.health("one")
        assert (state.failure_class, state.last_error) == ("connect", "no answer from //***@example.org at all")
        # A look at a service that nobody asks says nothing against it.
        pass_by(desk, 400)
        await desk.look()
    await desk.standing.note_health(desk.actor, "one", ServiceStatus.HEALTHY)
    state = await desk.health("one")
    assert (state.failure_class, state.last_error) == (None, None)


async def test_new_services_are_not_all_asked_in_the_same_moment(desk: Desk) -> None:
    async with desk.registry.open() as items:
        fields = {"protocol": "http", "endpoint": "http://127.0.0.1:1/", "priority": "critical"}
        made = await items.bulk_create([{"name": f"s{number}", **fields} for number in range(60)])
    waits = [(item.health.next_check_at or NOON) - NOON for item in made.items]
    assert timedelta() <= min(waits) < timedelta(seconds=5)
    assert timedelta(seconds=10) < max(waits) <= timedelta(seconds=15)
