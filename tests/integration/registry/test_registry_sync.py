"""A tenant follows another registry: what changes there changes here, but for what somebody decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from hx_gateway.registry import RegistryItem, ServiceStatus, Transactions
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.source import RegistrySource
from hx_gateway.registry.sync.followed import Followed, SyncState, Tally
from hx_gateway.registry.sync.incoming import Incoming
from hx_gateway.registry.sync.job import RegistrySync
from hx_gateway.registry.sync.repository import LEASE, LeaseLost
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.telemetry import Metrics
from tests.fixtures.foreign_registry import OFFICIAL, ForeignRegistry, foreign_registry
from tests.integration.registry.registries import Registry, SetClock
from tests.integration.registry.test_registry_source import LOOPBACK

AUDIT_KEY = b"k" * 32
HOUR = timedelta(hours=1)
MAIL, POST = "com.example/mail", "com.example/post"


class Follower:
    """A gateway's job over a tenant, that a test lets work step by step."""

    def __init__(self, registry: Registry, clock: SetClock, guard: EgressGuard, url: str) -> None:
        self.registry = registry
        self.clock = clock
        transactions = Transactions(registry.database, audit_key=AUDIT_KEY, clock=clock)
        self.job = RegistrySync(
            transactions,
            RegistrySource(guard),
            [Followed(registry.tenant, url)],
            naming=Naming(),
            metrics=Metrics(),
            interval=HOUR,
            draw=lambda: 0.5,
        )

    async def sync(self) -> SyncState:
        """Follow when it is due, an hour and a bit later; return how it went."""
        self.clock.time += HOUR + timedelta(minutes=1)
        await self.job.repository.keep(self.job._followed, self.clock.time)
        assert await self.job.step()
        return await self.state()

    @property
    def urls(self) -> list[str]:
        return [one.url for one in self.job._followed]

    async def state(self) -> SyncState:
        (state,) = await self.job.states(self.registry.tenant)
        return state

    async def services(self) -> dict[str, RegistryItem]:
        async with self.registry.open() as items:
            return {item.name: item for item in (await items.get_multi(limit=200)).items}

    async def set(self, name: str, **values: Any) -> None:
        """Change a service, as somebody here."""
        item = (await self.services())[name]
        async with self.registry.open() as items:
            await items.update(item.id, values)

    async def delete(self, name: str) -> RegistryItem:
        item = (await self.services())[name]
        async with self.registry.open() as items:
            return await items.delete(item.id)

    async def restore(self, item: RegistryItem) -> None:
        async with self.registry.open() as items:
            await items.restore(item.id)


def counts(state: SyncState) -> tuple[int, int, int, int]:
    return state.created, state.updated, state.disabled, state.skipped


@pytest.fixture
def foreign() -> Iterator[ForeignRegistry]:
    with foreign_registry() as running:
        yield running


@asynccontextmanager
async def following(registry: Registry, url: str, clock: SetClock | None = None) -> AsyncIterator[Follower]:
    guard = EgressGuard(LOOPBACK)
    try:
        yield Follower(registry, clock or SetClock(), guard, url)
    finally:
        guard.close()


@pytest.fixture
async def follower(registry: Registry, foreign: ForeignRegistry) -> AsyncIterator[Follower]:
    async with following(registry, foreign.url) as found:
        foreign.now = found.clock.time
        yield found


async def test_servers_become_services_and_change_with_them(follower: Follower, foreign: ForeignRegistry) -> None:
    for number in range(7):
        foreign.put(f"com.example/s{number}")
    foreign.put(MAIL, title="Mail", version="1.0.0")
    assert counts(await follower.sync()) == (8, 0, 0, 0)
    mail = (await follower.services())[MAIL]
    assert (mail.display_name, mail.version, mail.build_type.value) == ("Mail", "1.0.0", "official")
    assert (mail.source, mail.registry_url, mail.created_by) == ("official", foreign.url, "sync")
    foreign.put(MAIL, title="Post", version="1.1.0", status="deprecated", message="Old.")
    assert counts(await follower.sync()) == (0, 1, 0, 0)
    mail = (await follower.services())[MAIL]
    assert (mail.display_name, mail.version, mail.row_version) == ("Post", "1.1.0", 2)
    assert mail.service_metadata == {"deprecated": True, "status_message": "Old."}
    assert counts(await follower.sync()) == (0, 0, 0, 0)
    entries = await follower.registry.rows("SELECT actor_key FROM hx_gateway.audit_log WHERE actor_key <> 'key-ann'")
    assert {row["actor_key"] for row in entries} == {"sync"}


async def test_only_what_changed_is_asked_for_with_five_minutes_to_spare(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.put(MAIL)
    watermark = (await follower.sync()).watermark
    assert watermark == foreign.now
    await follower.sync()
    first, second = foreign.asked
    assert (first.get("version"), first.get("updated_since")) == ("latest", None)
    since = (foreign.now - timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
    assert (second.get("version"), second["updated_since"]) == (None, since)


async def test_a_registry_that_is_ahead_of_us_moves_the_watermark_to_now_at_most(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.now += timedelta(days=4000)
    foreign.put(MAIL)
    assert (await follower.sync()).watermark == follower.clock.time


async def test_what_somebody_changed_here_stays_and_the_rest_follows(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.put(MAIL, title="Mail", version="1.0.0")
    await follower.sync()
    await follower.set(
        MAIL,
        display_name="Our mail",
        tags=["ours"],
        priority="critical",
        service_metadata={"team": "ours"},
        config={**(await follower.services())[MAIL].config, "health": {"interval": 60}},
    )
    foreign.put(MAIL, title="Post", version="2.0.0", description="New.", websiteUrl="https://example.com/")
    await follower.sync()
    mail = (await follower.services())[MAIL]
    assert (mail.display_name, mail.version, mail.description) == ("Our mail", "2.0.0", "New.")
    assert (mail.tags, mail.priority.value, mail.service_metadata) == (["ours"], "critical", {"team": "ours"})
    assert mail.config["health"] == {"interval": 60}
    assert mail.config["server_json"]["websiteUrl"] == "https://example.com/"
    # Given back, it follows again.
    await follower.set(MAIL, display_name="Mail")
    foreign.put(MAIL, title="Third", version="3.0.0")
    await follower.sync()
    assert (await follower.services())[MAIL].display_name == "Third"


async def test_a_server_that_is_gone_disables_its_service_and_enables_it_when_it_is_back(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.put(MAIL)
    foreign.put(POST)
    await follower.sync()
    foreign.take_back(MAIL)
    assert counts(await follower.sync()) == (0, 0, 1, 0)
    services = await follower.services()
    assert (services[MAIL].status, services[MAIL].is_enabled) == (ServiceStatus.DISABLED, False)
    assert services[POST].is_enabled
    foreign.put(MAIL)
    await follower.sync()
    mail = (await follower.services())[MAIL]
    assert (mail.status, mail.is_enabled) == (ServiceStatus.UNKNOWN, True)


async def test_who_disabled_a_service_is_not_overruled(follower: Follower, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL)
    await follower.sync()
    await follower.set(MAIL, status=ServiceStatus.DISABLED, is_enabled=False)
    foreign.take_back(MAIL)
    assert counts(await follower.sync()) == (0, 0, 0, 0)
    foreign.put(MAIL, version="2.0.0")
    await follower.sync()
    mail = (await follower.services())[MAIL]
    assert (mail.version, mail.is_enabled) == ("2.0.0", False)


async def test_a_deleted_version_is_no_deleted_server(follower: Follower, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL, version="2.0.0")
    await follower.sync()
    # Its list tells of the version that was deleted, and the question which is the latest of another one.
    foreign.put(MAIL, version="1.0.0")
    left = foreign.servers[MAIL]
    foreign.put(MAIL, version="2.0.0", status="deleted")
    foreign.latest = lambda _: left  # type: ignore[method-assign, assignment]
    assert counts(await follower.sync()) == (0, 1, 0, 0)
    mail = (await follower.services())[MAIL]
    assert (mail.version, mail.is_enabled) == ("1.0.0", True)


async def test_services_of_ones_own_and_deleted_ones_are_left_alone(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    await follower.registry.create(MAIL, description="Ours.")
    foreign.put(MAIL)
    foreign.put(POST)
    assert counts(await follower.sync()) == (1, 0, 0, 1)
    await follower.delete(POST)
    foreign.put(MAIL, version="2.0.0")
    foreign.put(POST, version="2.0.0")
    assert counts(await follower.sync()) == (0, 0, 0, 2)
    services = await follower.services()
    assert [(name, item.description) for name, item in services.items()] == [(MAIL, "Ours.")]


async def test_a_deleted_service_stays_so_and_makes_up_for_what_it_missed_once_it_is_restored(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    news = "com.example/news"
    for name in (MAIL, POST, news):
        foreign.put(name)
    await follower.sync()
    deleted = [await follower.delete(name) for name in (MAIL, POST, news)]
    foreign.put(MAIL, version="2.0.0")
    foreign.take_back(POST)
    # The third one is told of again for the five minutes to spare.
    assert counts(await follower.sync()) == (0, 0, 0, 3)
    # What changed is further back than any list goes by now.
    follower.clock.time += HOUR
    foreign.now = follower.clock.time
    foreign.put("com.example/other")
    await follower.sync()
    assert list(await follower.services()) == ["com.example/other"]
    for item in deleted:
        await follower.restore(item)
    asked = len(foreign.asked)
    assert counts(await follower.sync()) == (0, 1, 1, 0)
    services = await follower.services()
    assert (services[MAIL].version, services[MAIL].is_enabled) == ("2.0.0", True)
    assert (services[POST].status, services[POST].is_enabled) == (ServiceStatus.DISABLED, False)
    assert (services[news].version, services[news].is_enabled) == ("1.0.0", True)
    assert "updated_since" in foreign.asked[asked]
    assert counts(await follower.sync()) == (0, 0, 0, 0)
    foreign.put(POST, version="2.0.0")
    assert counts(await follower.sync()) == (0, 1, 0, 0)
    assert (await follower.services())[POST].is_enabled


async def test_who_asks_while_a_registry_is_followed_has_it_followed_again(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.put(MAIL)
    page, loop = foreign.page, asyncio.get_running_loop()

    def asks(query: Any) -> Any:
        follower.clock.time += timedelta(seconds=1)
        asyncio.run_coroutine_threadsafe(follower.job.ask(follower.registry.tenant), loop).result()
        return page(query)

    for broken in (None, {"servers": 7}):
        foreign.page = lambda query: asks(query) if broken is None else asks(query) and broken  # type: ignore[method-assign]  # noqa: B023
        state = await follower.sync()
        assert (state.last_error is None, state.next_at) == (broken is None, follower.clock.time)
        foreign.page = page  # type: ignore[method-assign]
        assert await follower.job.step()
        assert not await follower.job.step()


async def test_where_nobody_says_which_version_is_the_latest_it_is_that_of_all(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    def put(version: str, **more: Any) -> None:
        foreign.put(MAIL, version=version, **more)
        member = foreign.servers.pop(MAIL)
        del member["_meta"][OFFICIAL]["isLatest"]
        # By versions, as the pages of such a registry are: three to a page.
        foreign.servers[f"{MAIL} {version}"] = member

    foreign.put("com.example/first")
    for version in ("1.10.0", "1.2.0", "1.8.0", "1.9.0"):
        put(version)
    assert counts(await follower.sync()) == (2, 0, 0, 0)
    mail = (await follower.services())[MAIL]
    assert (mail.version, mail.row_version) == ("1.10.0", 1)
    put("1.8.0", status="deprecated")
    assert counts(await follower.sync()) == (0, 0, 0, 0)
    # What is told of versions of before is nothing to it, but for one of which there is no later one any more.
    put("1.10.0", status="deleted")
    foreign.latest = lambda _: foreign.servers[f"{MAIL} 1.9.0"]  # type: ignore[method-assign, assignment]
    put("1.2.0", title="Old mail")
    assert counts(await follower.sync()) == (0, 1, 0, 0)
    assert (await follower.services())[MAIL].version == "1.9.0"
    put("1.11.0", title="New mail")
    foreign.latest = lambda _: foreign.servers[f"{MAIL} 1.11.0"]  # type: ignore[method-assign, assignment]
    assert counts(await follower.sync()) == (0, 1, 0, 0)
    assert (await follower.services())[MAIL].version == "1.11.0"
    for version in ("1.10.0", "1.11.0", "1.2.0", "1.8.0", "1.9.0"):
        put(version, status="deleted")
    foreign.latest = lambda _: None  # type: ignore[method-assign, assignment]
    assert counts(await follower.sync()) == (0, 0, 1, 0)
    # Further on than five minutes, so that no list tells of those that were deleted.
    foreign.now += timedelta(minutes=10)
    follower.clock.time += HOUR
    foreign.put("com.example/first")
    await follower.sync()
    put("1.8.0")
    await follower.sync()
    mail = (await follower.services())[MAIL]
    assert (mail.version, mail.is_enabled) == ("1.8.0", True)


async def test_one_service_that_cannot_be_disabled_holds_up_no_other(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    for name in (MAIL, POST):
        foreign.put(name)
    await follower.sync()
    # As one from before a rule that it breaks.
    await follower.registry.rows(
        "UPDATE hx_registry.registry_items SET name = ' ' || name WHERE tenant_id = :id AND name = :name RETURNING 1",
        id=follower.registry.tenant,
        name=MAIL,
    )
    for name in (MAIL, POST):
        foreign.take_back(name)
    assert counts(await follower.sync()) == (0, 0, 1, 1)
    services = await follower.services()
    assert (services[f" {MAIL}"].is_enabled, services[POST].is_enabled) == (True, False)


async def test_one_that_is_no_server_leaves_out_itself_alone(registry: Registry, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL)
    async with following(registry, f"{foreign.url}/odd") as follower:
        assert counts(await follower.sync()) == (1, 0, 0, 6)


async def test_a_failure_is_told_of_and_what_was_read_is_kept(registry: Registry, foreign: ForeignRegistry) -> None:
    for number in range(4):
        foreign.put(f"com.example/s{number}")
    async with following(registry, foreign.url) as follower:
        first, page = [], foreign.page

        def breaks(query: Any) -> Any:
            first.append(query)
            return page(query) if len(first) == 1 else {"servers": 7}

        foreign.page = breaks  # type: ignore[method-assign]
        state = await follower.sync()
        assert state.last_error == "source: its answer has no list of servers; give a registry's address."
        assert (state.watermark, state.succeeded_at, state.failed_at) == (None, None, follower.clock.time)
        assert len(await follower.services()) == 3
        assert state.next_at - follower.clock.time == timedelta(minutes=5)
        foreign.page = page  # type: ignore[method-assign]
        state = await follower.sync()
        assert (state.last_error, counts(state)) == (None, (1, 0, 0, 0))


async def test_one_of_several_gateways_follows_and_another_goes_on_where_it_died(
    registry: Registry, foreign: ForeignRegistry
) -> None:
    for number in range(7):
        foreign.put(f"com.example/s{number}")
    async with following(registry, foreign.url) as one, following(registry, foreign.url, one.clock) as other:
        await one.job.repository.keep(one.job._followed, one.clock.time)
        one.clock.time += HOUR
        page, reached = foreign.page, asyncio.Event()
        loop = asyncio.get_running_loop()

        def stops(query: Any) -> Any:
            if "cursor" in query:
                loop.call_soon_threadsafe(reached.set)
                foreign.gate.clear()
                foreign.gate.wait()
            return page(query)

        foreign.page = stops  # type: ignore[method-assign]
        working = asyncio.create_task(one.job.step())
        await reached.wait()
        assert not await other.job.step()
        assert (await other.state()).running
        # As a process that is killed: nothing is let go of.
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        foreign.page = page  # type: ignore[method-assign]
        foreign.gate.set()
        assert not await other.job.step()
        one.clock.time += LEASE
        assert await other.job.step()
        assert (len(await other.services()), counts(await other.state())) == (7, (4, 0, 0, 0))


async def test_who_lost_its_lease_writes_nothing_more(follower: Follower, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL)
    follower.clock.time += HOUR
    await follower.job.repository.keep(follower.job._followed, follower.clock.time)
    claim = await follower.job.repository.claim(follower.job._followed, follower.clock.time)
    assert claim is not None
    follower.clock.time += LEASE
    assert await follower.job.repository.claim(follower.job._followed, follower.clock.time) is not None
    with pytest.raises(LeaseLost):
        await follower.job._taking.take(claim, Incoming(), [])
    now = follower.clock.time
    with pytest.raises(LeaseLost):
        await follower.job.repository.succeed(claim, now, now, watermark=now, tally=Tally())


async def test_who_fails_after_its_lease_was_lost_leaves_it_to_who_has_it(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    page, repository = foreign.page, follower.job.repository

    def breaks(query: Any) -> Any:
        follower.clock.time += LEASE
        asyncio.run_coroutine_threadsafe(repository.claim(follower.job._followed, follower.clock.time), loop).result()
        return {"servers": 7}

    loop = asyncio.get_running_loop()
    foreign.page = breaks  # type: ignore[method-assign]
    state = await follower.sync()
    foreign.page = page  # type: ignore[method-assign]
    assert (state.running, state.failed_at, state.last_error) == (True, None, None)


async def test_whoever_stops_leaves_the_rest_to_others_at_once(follower: Follower, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL)
    foreign.gate.clear()
    await follower.job.repository.keep(follower.job._followed, follower.clock.time)
    follower.clock.time += HOUR
    follower.job.start()
    async with asyncio.timeout(20):
        while not (await follower.state()).running:
            await asyncio.sleep(0.01)
    await follower.job.aclose()
    foreign.gate.set()
    assert not (await follower.state()).running


async def test_whoever_stops_when_its_registry_is_anothers_by_now_leaves_it_to_that_one(
    follower: Follower, foreign: ForeignRegistry
) -> None:
    foreign.gate.clear()
    repository, followed = follower.job.repository, follower.job._followed
    await repository.keep(followed, follower.clock.time)
    follower.job.start()
    async with asyncio.timeout(20):
        while not (await follower.state()).running:
            await asyncio.sleep(0.01)
    follower.clock.time += LEASE
    assert await repository.claim(followed, follower.clock.time) is not None
    await follower.job.aclose()
    foreign.gate.set()
    assert (await follower.state()).running


async def test_another_tenant_learns_nothing_of_it(
    follower: Follower, rival: Registry, foreign: ForeignRegistry
) -> None:
    foreign.put(MAIL)
    await follower.sync()
    assert await follower.job.repository.states(rival.tenant, follower.urls, follower.clock.time) == []
    assert await rival.rows("SELECT 1 FROM hx_registry.registry_synced") == []
    async with following(rival, foreign.url) as other:
        assert counts(await other.sync()) == (1, 0, 0, 0)


async def test_without_its_tenant_a_registry_is_not_followed(registry: Registry, foreign: ForeignRegistry) -> None:
    foreign.put(MAIL)
    async with following(registry, foreign.url) as follower:
        await registry.rows(
            "UPDATE hx_gateway.tenants SET deleted_at = now() WHERE id = :id RETURNING 1", id=registry.tenant
        )
        assert "tenant" in ((await follower.sync()).last_error or "")
