"""The watch and the sampler, against links and services that do what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from hx_gateway.services.absent import AbsentService
from hx_gateway.services.base import DataService, FailureKind, HealthSample
from hx_gateway.services.health import HealthSampler, Watch

SOON = 5.0


class FakeLink:
    """Counts what is asked of it; ``error`` is raised, ``hung`` never answers."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.opened = 0
        self.beats = 0
        self.dropped = 0
        self.error: Exception | None = None
        self.hung = False

    async def open(self) -> None:
        self.opened += 1
        await self._answer()

    async def beat(self) -> None:
        self.beats += 1
        await self._answer()

    async def drop(self) -> None:
        self.dropped += 1

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.hung:
            await asyncio.Event().wait()


@pytest.fixture
async def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def watch(link: FakeLink) -> AsyncIterator[Watch]:
    """Return a watch that beats so rarely that only what a test does makes it ask."""
    made = Watch(link, connect_timeout=0.2, heartbeat=600.0, heartbeat_timeout=0.2)
    yield made
    await made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_store_that_is_away_does_not_stop_the_start(link: FakeLink, watch: Watch) -> None:
    link.error = ConnectionRefusedError()
    await watch.start()
    assert not watch.sample.healthy
    assert watch.sample.failure is FailureKind.REFUSED


async def test_a_store_that_hangs_does_not_hold_the_start_up(link: FakeLink, watch: Watch) -> None:
    link.hung = True
    async with asyncio.timeout(SOON):
        await watch.start()
    assert watch.sample.failure is FailureKind.TIMEOUT


async def test_a_store_that_comes_back_is_healthy_without_anybodys_doing(link: FakeLink, watch: Watch) -> None:
    link.error = ConnectionRefusedError()
    await watch.start()
    link.error = None
    await until(lambda: watch.sample.healthy)
    assert watch.sample.failure is None


async def test_the_end_of_the_connection_is_noticed_without_a_heartbeat(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    link.error = ConnectionRefusedError()
    link.lost.set()
    await until(lambda: not watch.sample.healthy)
    assert link.beats == 0


async def test_a_connection_that_ends_alone_is_replaced_at_once(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    changes: list[HealthSample] = []
    watch.on_change(changes.append)
    link.lost.set()
    async with asyncio.timeout(0.75):  # the pace of a store that is away is a second
        while len(changes) < 2:
            await asyncio.sleep(0.005)
    assert [change.healthy for change in changes] == [False, True]
    assert link.opened == 2


async def test_a_heartbeat_that_is_not_answered_is_a_failure(link: FakeLink) -> None:
    watch = Watch(link, connect_timeout=0.2, heartbeat=0.01, heartbeat_timeout=0.05)
    await watch.start()
    link.hung = True
    await until(lambda: not watch.sample.healthy)
    assert watch.sample.failure is FailureKind.TIMEOUT
    await watch.stop()


async def test_what_traffic_reports_counts_at_once_and_is_looked_into(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    watch.report_failure(FailureKind.LOST)
    assert not watch.sample.healthy
    assert watch.sample.failure is FailureKind.LOST
    await until(lambda: watch.sample.healthy)
    assert link.beats == 1


async def test_a_storm_of_reports_makes_no_storm_of_probes(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    for _ in range(100):
        for _ in range(100):
            watch.report_failure(FailureKind.LOST)
        await asyncio.sleep(0.001)
    assert link.beats <= 10


async def test_reports_do_not_hurry_the_attempts_on_a_store_that_is_down(link: FakeLink, watch: Watch) -> None:
    link.error = ConnectionRefusedError()
    await watch.start()
    for _ in range(20):
        watch.report_failure(FailureKind.REFUSED)
        await asyncio.sleep(0.005)
    assert link.opened == 1


async def test_all_who_ask_at_once_share_one_probe(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    answers = await asyncio.gather(*(watch.probe(SOON) for _ in range(500)))
    assert answers == [True] * 500
    assert link.beats == 1


async def test_a_probe_is_not_older_than_the_question(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    link.error = ConnectionResetError()
    assert await watch.probe(SOON) is False
    link.error = None
    assert await watch.probe(SOON) is True


async def test_a_probe_of_a_store_that_hangs_is_over_in_time(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    link.hung = True
    async with asyncio.timeout(SOON):
        assert await watch.probe(0.05) is False
    assert watch.sample.failure is FailureKind.TIMEOUT


async def test_a_probe_starts_the_watch_that_nobody_started(link: FakeLink, watch: Watch) -> None:
    assert await watch.probe(SOON) is True
    assert link.opened == 1


async def test_a_stopped_watch_asks_nobody(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    await watch.stop()
    assert await watch.probe(SOON) is False
    assert not watch.sample.healthy
    assert (link.opened, link.beats) == (1, 0)


async def test_whoever_asks_while_the_watch_stops_is_answered(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    link.hung = True
    asking = asyncio.create_task(watch.probe(SOON))
    await asyncio.sleep(0)
    await watch.stop()
    async with asyncio.timeout(SOON / 2):
        assert await asking is False


async def test_changes_are_told_and_repetitions_are_not(link: FakeLink, watch: Watch) -> None:
    changes: list[bool] = []
    watch.on_change(lambda sample: changes.append(sample.healthy))
    await watch.start()
    await watch.probe(SOON)
    watch.report_failure(FailureKind.LOST)
    watch.report_failure(FailureKind.TIMEOUT)
    await until(lambda: watch.sample.healthy)
    await asyncio.sleep(0)
    assert changes == [True, False, True]


async def test_a_listener_that_fails_does_not_end_the_watch(link: FakeLink, watch: Watch) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(str(context["exception"])))

    def fail(_sample: HealthSample) -> None:
        raise RuntimeError("a listener's mistake")

    watch.on_change(fail)
    link.error = ConnectionRefusedError()
    await watch.start()
    link.error = None
    await until(lambda: watch.sample.healthy)
    await asyncio.sleep(0)
    assert told == ["a listener's mistake"]


async def test_the_last_known_latency_survives_a_failure(link: FakeLink, watch: Watch) -> None:
    await watch.start()
    known = watch.sample.latency_seconds
    assert known is not None
    watch.report_failure(FailureKind.LOST)
    assert watch.sample.latency_seconds == known


class FakeClock:
    """Sleeps for no time, and remembers for how long it was asked to; stops at ``rounds``."""

    def __init__(self, rounds: int) -> None:
        self.slept: list[float] = []
        self.done = asyncio.Event()
        self._rounds = rounds

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        if len(self.slept) == self._rounds:
            self.done.set()
            await asyncio.Event().wait()
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Counted(AbsentService):
    """A store that counts its probes; it answers, raises or hangs."""

    configured = True

    def __init__(self, *, healthy: bool = True, error: Exception | None = None, hung: bool = False) -> None:
        super().__init__("postgres", "PostgreSQL")
        self.sample = HealthSample(healthy=healthy, checked_at=0.0)
        self.probes = 0
        self._error = error
        self._hung = hung

    async def healthy(self) -> bool:
        self.probes += 1
        if self._error is not None:
            raise self._error
        if self._hung:
            await asyncio.Event().wait()
        return self.sample.healthy


def sampler(*services: DataService, **options: Any) -> HealthSampler:
    return HealthSampler(services, **options)


async def test_rounds_are_far_apart_while_all_is_well() -> None:
    store, clock = Counted(), FakeClock(3)
    async with sampler(store, interval=30.0, clock=clock):
        await clock.done.wait()
    assert clock.slept == [30.0] * 3
    assert store.probes == 3


async def test_rounds_are_a_second_apart_while_something_is_down() -> None:
    up, down, clock = Counted(), Counted(healthy=False), FakeClock(3)
    async with sampler(up, down, interval=30.0, clock=clock):
        await clock.done.wait()
    assert clock.slept == [1.0] * 3
    assert up.probes == down.probes == 3


async def test_a_store_that_is_not_configured_is_not_asked() -> None:
    async with sampler(AbsentService("redis", "Redis")) as made:
        await made.round()


async def test_one_store_that_raises_or_hangs_does_not_keep_the_others_from_being_asked() -> None:
    broken, hung, well = Counted(error=RuntimeError("broken")), Counted(hung=True), Counted()
    async with asyncio.timeout(SOON):
        await sampler(broken, hung, well, round_timeout=0.05).round()
    assert (broken.probes, hung.probes, well.probes) == (1, 1, 1)


async def test_a_storm_of_readers_makes_no_probe() -> None:
    store = Counted()
    async with sampler(store):
        for _ in range(10_000):
            assert store.sample.healthy
        await asyncio.sleep(0)
    assert store.probes == 0
