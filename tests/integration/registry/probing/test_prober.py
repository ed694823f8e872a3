"""A prober over a real database and real servers: what it finds, how it shares, and what it does when things break."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.errors import NotFound, Unavailable
from hx_gateway.registry.probing import AdminState, FailureClass, Level, ProbedItems, Prober, ProbeRepository
from hx_gateway.registry.probing.outcome import failed
from hx_gateway.registry.probing.self_preservation import SelfPreservation
from hx_gateway.registry.probing.slots import PER_HOST, WAITING_PER_HOST, Slots
from hx_gateway.registry.standing import Standing
from hx_gateway.registry.transactions import Transactions
from hx_gateway.services.base import DependencyError
from hx_gateway.telemetry import Metrics
from tests.fixtures.mcp_process import McpProcess
from tests.fixtures.servers import Servers
from tests.integration.registry.probing.desks import member_of
from tests.integration.registry.probing.fields import (
    AUDIT_KEY,
    FastClock,
    answering,
    probing,
    until,
    until_status,
    way_out,
    web_server,
)
from tests.integration.registry.registries import Registry, registry_at

PATIENT = {"health": {"timeout": 30}}


class Switch:
    """A service of its own health check that a test turns on and off, and that counts who asks."""

    def __init__(self) -> None:
        self.on = True
        self.off: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.at_work: Counter[str] = Counter()
        self.most_at_work = 0
        self.seconds = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.asked[path] += 1
        self.at_work[path] += 1
        self.most_at_work = max(self.most_at_work, *self.at_work.values())
        try:
            await asyncio.sleep(self.seconds)
            return web.Response(status=204 if self.on and path not in self.off else 503)
        finally:
            self.at_work[path] -= 1


async def switched(registry: Registry, url: str, name: str = "one", **values: object) -> RegistryItem:
    """Make a critical service whose health check is at ``url``."""
    fields = {"protocol": "http", "priority": "critical", "health_check_url": f"{url}/{name}", **values}
    return await registry.create(name, **fields)


async def all_of(registry: Registry, status: str) -> int:
    rows = await registry.rows("SELECT count(*) FROM hx_registry.registry_health WHERE status::text = :s", s=status)
    return int(rows[0]["count"])


async def changes(registry: Registry, item: RegistryItem) -> list[tuple[str, str]]:
    """Return the changes of a service's status that the audit log holds."""
    entries = await registry.audit(item)
    sides = [(before, after) for action, before, after in entries if action == "updated"]
    return [(before["status"], after["status"]) for before, after in sides if "status" in after]


# Finding out


async def test_a_server_of_the_sdk_is_found_healthy_then_gone_then_back(
    lone: Registry, mcp_process: McpProcess
) -> None:
    mcp_process.start()
    item = await lone.create("trial", protocol="http", priority="critical", endpoint=mcp_process.url, config=PATIENT)
    async with probing(lone) as prober:
        state = await until_status(prober, lone, item, "healthy")
        assert (state.level, state.failure_class, state.auth_required) == (Level.READY, None, False)
        mcp_process.stop()
        state = await until_status(prober, lone, item, "unhealthy")
        assert (state.failure_class, state.consecutive_failures) == (FailureClass.CONNECT, 3)
        assert "takes no connection" in (state.last_error or "")
        mcp_process.start()
        state = await until_status(prober, lone, item, "healthy")
        assert (state.last_error, state.consecutive_failures) == (None, 0)
    assert await changes(lone, item) == [
        ("unknown", "healthy"),
        ("healthy", "unhealthy"),
        ("unhealthy", "healthy"),
    ]
    assert await lone.first_broken_entry() is None
    stored = await lone.get(item)
    # Three changes of its status, and that it has tools.
    assert (stored.row_version, stored.updated_by) == (5, "prober")
    assert stored.success_count >= 3
    assert stored.failure_count >= 3


async def test_a_server_that_wants_a_credential_counts_as_there(lone: Registry) -> None:
    async with web_server(answering(401, headers={"www-authenticate": "Bearer"})) as url:
        item = await lone.create("guarded", protocol="http", endpoint=f"{url}/mcp")
        async with probing(lone) as prober:
            state = await until_status(prober, lone, item, "healthy")
    assert (state.auth_required, state.level) == (True, Level.REACHABLE)


async def test_a_new_service_that_is_not_there_yet_has_a_minute_of_grace(lone: Registry) -> None:
    switch, clock = Switch(), FastClock()
    switch.on = False
    async with web_server(switch.answer) as url:
        item = await switched(lone.at(clock.now()), url)
        async with probing(lone, clock=clock) as prober:

            async def failed_often() -> bool:
                return (await prober.repository.state(lone.tenant, item.id)).consecutive_failures >= 3

            await until(failed_often)
            state = await prober.repository.state(lone.tenant, item.id)
            assert (state.status, state.failure_class) == ("unknown", FailureClass.HTTP_STATUS)
            await until_status(prober, lone, item, "unhealthy")
            assert clock.now() >= item.created_at + timedelta(seconds=60)


async def test_a_flapping_service_is_damped_and_told_of_once(lone: Registry) -> None:
    switch = Switch()
    with structlog.testing.capture_logs() as log:
        async with web_server(switch.answer) as url, probing(lone) as prober:
            item = await switched(lone, url, config={"health": {"interval": 5, "failures": 1, "successes": 1}})
            for status in ("healthy", "unhealthy", "healthy", "unhealthy", "healthy"):
                switch.on = status == "healthy"
                state = await until_status(prober, lone, item, status)
            assert state.flapping
            switch.on = False
            await until_status(prober, lone, item, "unhealthy")
            failures = (await lone.get(item)).failure_count
            assert failures >= 4  # two for the first two times, two in a row for the one that was damped
            switch.on = True
            state = await until_status(prober, lone, item, "healthy")
            assert state.consecutive_successes >= 5
            assert not state.flapping
    assert [entry["event"] for entry in log if "flapping" in entry["event"] or "steady" in entry["event"]] == [
        "service_flapping",
        "service_steady",
    ]


async def test_many_that_fail_at_once_are_our_own_fault_until_they_are_back(lone: Registry) -> None:
    switch, metrics = Switch(), Metrics()
    with structlog.testing.capture_logs() as log:
        async with web_server(switch.answer) as url, probing(lone) as prober:
            prober._metrics = metrics
            items = [await switched(lone, url, f"s{number}") for number in range(12)]

            async def all_healthy() -> bool:
                return await all_of(lone, "healthy") == 12

            await until(all_healthy)
            switch.off = {f"/s{number}" for number in range(6)}

            async def failed_long() -> bool:
                state = await prober.repository.state(lone.tenant, items[0].id)
                return state.consecutive_failures >= 5

            await until(failed_long)
            assert prober.self_preservation
            assert metrics.registry.get_sample_value("hx_registry_self_preservation") == 1
            assert await all_of(lone, "healthy") == 12
            switch.off = {"/s0"}

            async def over() -> bool:
                return not prober.self_preservation

            await until(over)
            await until_status(prober, lone, items[0], "unhealthy")
            assert await all_of(lone, "healthy") == 11
            assert metrics.registry.get_sample_value("hx_registry_self_preservation") == 0
    told = [entry["event"] for entry in log if entry["event"].startswith("self_preservation")]
    assert told == ["self_preservation_raised", "self_preservation_lowered"]


async def test_a_fault_of_many_that_lasts_is_believed(lone: Registry) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url:
        for number in range(5):
            await switched(lone, url, f"s{number}")
        async with probing(lone, preservation=SelfPreservation(longest_hold=120.0)):

            async def all_healthy() -> bool:
                return await all_of(lone, "healthy") == 5

            async def all_unhealthy() -> bool:
                return await all_of(lone, "unhealthy") == 5

            await until(all_healthy)
            switch.on = False
            await until(all_unhealthy)


async def test_services_of_all_tenants_are_probed_and_each_change_is_in_its_own_audit_log(
    lone: Registry, alone: str
) -> None:
    async with web_server(answering()) as url, registry_at(alone, "tn-second") as second, probing(lone) as prober:
        items = [await switched(registry, url) for registry in (lone, second)]
        for registry, item in zip((lone, second), items, strict=True):
            await until_status(prober, registry, item, "healthy")
            assert await changes(registry, item) == [("unknown", "healthy")]
            assert len(await registry.audit()) == 2


# What somebody decided


async def test_a_decision_stays_while_what_is_observed_is_kept_beside_it(lone: Registry) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url, probing(lone) as prober:
        item = await switched(lone, url)
        await until_status(prober, lone, item, "healthy")
        async with lone.open() as items:
            await items.update(item.id, {"status": ServiceStatus.DISABLED})
        switch.on = False

        async def seen_down() -> bool:
            return (await prober.repository.state(lone.tenant, item.id)).observed is ServiceStatus.UNHEALTHY

        await until(seen_down)
        state = await prober.repository.state(lone.tenant, item.id)
        assert (state.status, state.admin_state) == (ServiceStatus.DISABLED, AdminState.DISABLED)
        async with lone.open() as items:
            await items.update_health_status(item.id, ServiceStatus.UNKNOWN)
        await until_status(prober, lone, item, "unhealthy")
    assert await changes(lone, item) == [
        ("unknown", "healthy"),
        ("healthy", "disabled"),
        ("disabled", "unknown"),
        ("unknown", "unhealthy"),
    ]


async def test_a_maintenance_ends_by_itself_at_its_time(lone: Registry) -> None:
    switch, clock = Switch(), FastClock()
    async with web_server(switch.answer) as url, probing(lone, clock=clock) as prober:
        item = await switched(lone, url)
        await until_status(prober, lone, item, "healthy")
        ends = clock.now() + timedelta(seconds=100)
        async with lone.database.session(lone.tenant) as session:
            await ProbedItems(session, lone.at(clock.now()).trail(session)).begin_maintenance(item.id, ends)
        state = await until_status(prober, lone, item, "maintenance")
        assert state.maintenance_until == ends
        state = await until_status(prober, lone, item, "healthy")
        assert clock.now() >= ends
        assert state.maintenance_until is None


async def test_a_maintenance_that_is_ended_by_hand_gives_back_what_is_observed(lone: Registry) -> None:
    async with web_server(answering()) as url:
        item = await switched(lone, url)
        prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
        assert (await prober.check_now(lone.tenant, item.id)).status is ServiceStatus.HEALTHY
        async with lone.database.session(lone.tenant) as session:
            items = ProbedItems(session, lone.trail(session))
            await items.begin_maintenance(item.id)
            assert (await items.end_maintenance(item.id)).status is ServiceStatus.HEALTHY


async def test_a_new_address_is_probed_at_once_and_what_was_found_at_the_old_one_is_void(lone: Registry) -> None:
    async with web_server(answering()) as url:
        repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
        item = await switched(lone, url, config={"health": {"interval": 3600}})
        (claim,) = await repository.claim(FastClock().now(), 10)
        async with lone.open() as items:
            await items.update(item.id, {"health_check_url": f"{url}/other"})
        await repository.put_off([claim], FastClock().now() + timedelta(days=1))
        async with probing(lone) as prober:
            await until_status(prober, lone, item, "healthy")


async def test_what_is_deleted_is_not_probed_and_what_is_restored_is(lone: Registry) -> None:
    switch = Switch()
    async with web_server(switch.answer) as url:
        item = await switched(lone, url)
        async with lone.open() as items:
            await items.delete(item.id)
        repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
        assert await repository.claim(FastClock().now(), 10) == []
        async with lone.open() as items:
            await items.restore(item.id)
        assert len(await repository.claim(FastClock().now(), 10)) == 1


async def test_services_of_a_tenant_that_was_deleted_are_not_probed(lone: Registry) -> None:
    await lone.create("one", protocol="http", health_check_url="http://127.0.0.1:1/")
    await lone.rows("UPDATE hx_gateway.tenants SET deleted_at = now() WHERE id = :id RETURNING id", id=lone.tenant)
    repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
    assert await repository.claim(FastClock().now(), 10) == []


# Asked at once


async def test_a_check_at_once_waits_for_what_is_found(lone: Registry) -> None:
    async with web_server(answering()) as url:
        item = await switched(lone, url)
        prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
        state = await prober.check_now(lone.tenant, item.id)
        assert state.to_dict()["status"] == "healthy"
        assert (await lone.get(item)).success_count == 1


async def test_checks_that_somebody_asks_for_take_no_probes_place_and_are_so_many_at_once(lone: Registry) -> None:
    go_on, switch = asyncio.Event(), Switch()

    async def answer(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return await switch.answer(request)

    async with web_server(answer) as url:
        item = await switched(lone, url, config={"health": {"timeout": 30}})
        prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
        room = prober._slots.room
        most = PER_HOST + WAITING_PER_HOST
        asked = [asyncio.create_task(prober.check_now(lone.tenant, item.id)) for _ in range(most + 3)]

        async def some_are_refused() -> bool:
            return sum(check.done() for check in asked) == 3

        await until(some_are_refused)
        assert prober._slots.room == room
        go_on.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [one.code for one in told if isinstance(one, Unavailable)] == ["checks_busy"] * 3
        assert (await prober.check_now(lone.tenant, item.id)).status is ServiceStatus.HEALTHY
        standing = Standing(Transactions(lone.database, audit_key=AUDIT_KEY), prober)
        prober._asked = Slots(concurrency=0)
        (claim,) = await prober.repository.claim(datetime.now(UTC) + timedelta(hours=1), 10)
        state = await standing.first_look(member_of(lone.tenant), str(item.id))
        assert state.status is ServiceStatus.HEALTHY
        # Nobody who probes it loses it to one that has no place.
        (row,) = await lone.rows("SELECT lease_until FROM hx_registry.registry_health")
        assert row["lease_until"] == claim.lease_until


async def test_nobody_checks_the_services_of_another_tenant(lone: Registry) -> None:
    item = await lone.create("one", protocol="http", health_check_url="http://127.0.0.1:1/")
    prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
    with pytest.raises(NotFound):
        await prober.check_now("tn-other", item.id)


async def test_a_finding_whose_claim_was_lost_counts_for_nothing(lone: Registry) -> None:
    switch = Switch()
    switch.seconds = 0.5
    async with web_server(switch.answer) as url:
        item = await switched(lone, url)
        prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
        await asyncio.gather(*(prober.check_now(lone.tenant, item.id) for _ in range(2)))
    assert sum(switch.asked.values()) == 2
    assert (await lone.get(item)).success_count == 1


async def test_a_service_that_was_taken_anew_may_be_written_with_both_its_claims(lone: Registry) -> None:
    item = await lone.create("one", protocol="http", health_check_url="http://127.0.0.1:1/")
    prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics())
    now = FastClock().now()
    (first,) = await prober.repository.claim(now, 10)
    second = await prober.repository.claim_one(lone.tenant, item.id, now)
    assert second.lease_until > first.lease_until
    down = failed(FailureClass.CONNECT, "nobody there")
    findings = prober._judged([(first, down, now), (second, down, now)])
    await prober.repository.write_plain(findings)
    assert (await lone.get(item)).failure_count == 1
    history = await lone.rows("SELECT failures FROM hx_registry.registry_health_history")
    assert history == [{"failures": 1}]


# Several probers


async def test_two_probers_share_the_services_and_probe_none_twice_at_once(lone: Registry) -> None:
    switch = Switch()
    switch.seconds = 0.01
    async with web_server(switch.answer) as url:
        async with lone.open() as items:
            made = await items.bulk_create(
                [
                    {"name": f"s{number}", "protocol": "http", "health_check_url": f"{url}/s{number}"}
                    for number in range(200)
                ]
            )
        assert made.failures == []
        clock = FastClock(1.0)

        async def all_known() -> bool:
            return await all_of(lone, "healthy") == 200

        async with probing(lone, clock=clock, per_host=20) as one, probing(lone, clock=clock, per_host=20) as other:
            await until(all_known)
            shares = [_probes_of(prober) for prober in (one, other)]
    assert switch.most_at_work == 1
    assert set(switch.asked.values()) == {1}
    assert sum(shares) == 200
    assert min(shares) > 20


def _probes_of(prober: Prober) -> float:
    labels = {"protocol": "http", "outcome": "healthy"}
    return prober._metrics.registry.get_sample_value("hx_registry_probe_seconds_count", labels) or 0.0


async def test_no_host_is_probed_more_than_twice_at_once(lone: Registry) -> None:
    at_work, most = 0, 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.02)
        at_work -= 1
        return web.Response()

    async with web_server(answer) as url:
        for number in range(20):
            await switched(lone, url, f"s{number}")
        async with probing(lone):

            async def all_known() -> bool:
                return await all_of(lone, "healthy") == 20

            await until(all_known)
    assert most == 2


async def test_the_services_of_a_worker_that_is_killed_are_probed_by_another_one(
    lone: Registry, alone: str, tmp_path: Path
) -> None:
    switch = Switch()
    switch.seconds = 30.0
    async with web_server(switch.answer) as url:
        item = await switched(lone, url, config=PATIENT)
        command = [sys.executable, "-m", "tests.fixtures.prober_process", alone]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:

            async def asked() -> bool:
                return sum(switch.asked.values()) == 1

            await until(asked)
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        switch.seconds = 0.0
        repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
        assert await repository.claim(FastClock().now(), 10) == []
        async with probing(lone, clock=FastClock(1.0, ahead=timedelta(seconds=121))) as prober:
            await until_status(prober, lone, item, "healthy")


async def test_a_prober_that_stops_gives_back_what_it_was_at(lone: Registry) -> None:
    switch = Switch()
    switch.seconds = 30.0
    async with web_server(switch.answer) as url:
        await switched(lone, url, config=PATIENT)
        async with probing(lone):

            async def asked() -> bool:
                return sum(switch.asked.values()) == 1

            await until(asked)
        repository = ProbeRepository(Transactions(lone.database, audit_key=AUDIT_KEY))
        assert len(await repository.claim(FastClock().now(), 10)) == 1


# Without the database


async def test_while_the_database_is_away_the_prober_waits_and_loses_nothing(lone: Registry, servers: Servers) -> None:
    switch = Switch()
    switch.seconds = 1.0
    with structlog.testing.capture_logs() as log:
        async with web_server(switch.answer) as url:
            item = await switched(lone, url, config={"health": {"timeout": 30, "interval": 3600}})
            async with probing(lone, clock=FastClock(2.0)) as prober:

                async def asked() -> bool:
                    return sum(switch.asked.values()) == 1

                await until(asked)
                servers.postgres.kill()
                try:
                    await asyncio.sleep(3.0)
                    with pytest.raises(DependencyError):
                        await prober.check_now(lone.tenant, item.id)
                finally:
                    servers.postgres.start()
                await until_status(prober, lone, item, "healthy")
    assert sum(switch.asked.values()) == 1
    told = [entry["event"] for entry in log if entry["event"] in ("prober_paused", "prober_resumed")]
    assert told == ["prober_paused", "prober_resumed"]


# History


async def test_the_history_tells_of_uptime_and_of_times(lone: Registry) -> None:
    switch, clock = Switch(), FastClock()
    async with web_server(switch.answer) as url:
        item = await switched(lone, url)
        prober = Prober(Transactions(lone.database, audit_key=AUDIT_KEY), way_out(), metrics=Metrics(), clock=clock)
        began = clock.now() - timedelta(minutes=10)
        for on in (True, True, True, False):
            switch.on = on
            await prober.check_now(lone.tenant, item.id)
        periods = await prober.repository.history(
            lone.tenant, item.id, start=began, end=clock.now() + timedelta(minutes=10), step=timedelta(hours=1)
        )
        (period,) = periods
        assert (period.successes, period.failures, period.uptime) == (3, 1, 0.75)
        assert period.response_ms_p50 is not None
        assert period.response_ms_max is not None
        assert 0 < period.response_ms_p50 <= period.response_ms_max + 0.01
        assert await prober.repository.prune(clock.now() - timedelta(days=1)) == 0
        # One row, or two where five minutes ended meanwhile.
        assert await prober.repository.prune(clock.now() + timedelta(days=1)) in (1, 2)
