"""The counters in Redis: the same contract as in memory, to the last bit, and what happens when state is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.allowances import MAX_PER_MINUTE, Rate, ScopeKind, ScopeLimits
from hx_gateway.limits.instances import Instances
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Ask, Charge, CounterStore, Outcome, Settlement, WindowSeed
from hx_gateway.limits.redis_store import RedisCounterStore
from hx_gateway.services.base import DependencyError
from hx_gateway.services.redis_pipe import RedisPipe
from tests.fixtures.servers import RedisServer
from tests.integration.limits.redis_only import KINDS, running
from tests.unit.limits.asks import EPOCH, TENANT, MovedClock, ask, charge, limits, settlement, warm
from tests.unit.limits.store_contract import CounterStoreContract


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


@pytest.fixture
async def pipe(server: RedisServer) -> AsyncIterator[RedisPipe]:
    pipe = RedisPipe(server.url, timeout=5.0)
    await pipe.command("FLUSHALL")
    yield pipe
    await pipe.close()


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def store(pipe: RedisPipe, clock: MovedClock) -> RedisCounterStore:
    return RedisCounterStore(pipe, clock=clock)


class TestRedisCounterStore(CounterStoreContract):
    """Keeps the contract."""


async def test_the_servers_clock_is_used(pipe: RedisPipe) -> None:
    store = RedisCounterStore(pipe)
    seconds, microseconds = await pipe.command("TIME")
    verdict = await store.admit(ask("a", limits(requests=Rate(60, 1))))
    assert 0 <= verdict.now_us - (int(seconds) * 1_000_000 + int(microseconds)) < 60_000_000


async def test_all_keys_of_a_tenant_have_its_hash_tag_and_all_but_money_expire(
    pipe: RedisPipe, store: RedisCounterStore
) -> None:
    scope, charged = limits(requests=Rate(60, 5), tokens=Rate(600, 100), parallel=5), charge(100)
    await warm(store, charged)
    await store.admit(ask("a", scope, charges=(charged,), tokens=5, cost_nano=1))
    await store.admit(ask("b", scope, tokens=5))
    await store.settle([settlement(ask("c"), doubtful=True)])
    keys: list[bytes] = await pipe.command("KEYS", "*")
    assert all(key.startswith(b"hx:{acme}:") for key in keys)
    lasting = {key for key in keys if await pipe.command("PTTL", key) == -1}
    assert lasting == {b"hx:{acme}:money", b"hx:{acme}:due"}
    assert len(keys) == 2 + 5


@pytest.mark.parametrize("lost", ["hx:{acme}:money", "hx:{acme}:due"])
async def test_money_that_is_lost_in_part_is_lost_whole(pipe: RedisPipe, store: RedisCounterStore, lost: str) -> None:
    charged = charge(100)
    await warm(store, charged, posted=90)
    await pipe.command("DEL", lost)
    asked = ask("a", charges=(charged,), cost_nano=50)
    assert (await store.admit(asked)).outcome is Outcome.STALE
    assert (await store.raise_reservation(asked)).outcome is Outcome.STALE
    assert await store.windows(TENANT, [charged.key]) == {}
    await store.begin(TENANT, EPOCH)
    assert (await store.admit(asked)).outcome is Outcome.COLD


async def test_a_flush_is_seen_and_the_scripts_are_loaded_again(pipe: RedisPipe, store: RedisCounterStore) -> None:
    charged = charge(100)
    await warm(store, charged, posted=90)
    await pipe.command("FLUSHALL")
    await pipe.command("SCRIPT", "FLUSH")
    verdicts = await asyncio.gather(*(store.admit(ask(f"{n}", charges=(charged,))) for n in range(20)))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.STALE}


async def test_settled_calls_leave_nothing_behind(pipe: RedisPipe, store: RedisCounterStore) -> None:
    scope, charged = limits(parallel=5), charge(10)
    await warm(store, charged)
    for call in (ask("a", scope), ask("b", scope, charges=(charged,), cost_nano=2)):
        await store.admit(call)
        await store.settle([settlement(call)])
    assert set(await pipe.command("KEYS", "*")) == {b"hx:{acme}:money", b"hx:{acme}:due"}
    assert set(await pipe.command("HKEYS", "hx:{acme}:money")) == {b"e", b"p:bg-a:2026-11", b"r:bg-a:2026-11"}
    assert set(await pipe.command("ZRANGE", "hx:{acme}:due", 0, -1)) == {b"", b"w:bg-a:2026-11"}


async def test_a_store_that_is_away_says_so(server: RedisServer) -> None:
    pipe = RedisPipe("redis://127.0.0.1:1/0")
    with pytest.raises(DependencyError):
        await RedisCounterStore(pipe).admit(ask("a"))
    await pipe.close()


async def test_processes_are_counted_while_they_beat_and_until_they_leave(pipe: RedisPipe) -> None:
    first, second = Instances(pipe, "one"), Instances(pipe, "two")
    await first.beat()
    await second.beat()
    await first.beat()
    assert (first.count, second.count) == (2, 2)
    await second.aclose()
    await first.beat()
    assert first.count == 1


async def test_a_process_that_stopped_beating_is_not_counted_and_the_last_count_is_kept(pipe: RedisPipe) -> None:
    seconds, _ = await pipe.command("TIME")
    for name, age in (("dead", 15), ("slow", 10)):
        await pipe.command("ZADD", "hx:instances", int(seconds) - age, name)
    instances = Instances(pipe, "one")
    instances.start()
    while instances.count == 1:
        await asyncio.sleep(0.01)
    assert instances.count == 2
    await pipe.close()
    with pytest.raises(DependencyError):
        await instances.beat()
    await instances.aclose()
    assert instances.count == 2


# From here on: random sequences of operations give the same answers in memory and in Redis.

rates = st.one_of(
    st.none(),
    st.builds(Rate, st.sampled_from([1, 7, 60, 999]), st.integers(1, 6)),
    st.builds(Rate, st.integers(0, MAX_PER_MINUTE), st.integers(0, MAX_PER_MINUTE)),
)
scopes = st.builds(
    ScopeLimits,
    kind=st.just(ScopeKind.KEY),
    id=st.just("k"),
    requests=rates,
    tokens=rates,
    parallel=st.one_of(st.none(), st.integers(0, 3)),
)
amounts = st.one_of(st.integers(0, 60), st.integers(0, 9_000_000 * 10**9))
calls = st.sampled_from("abcdefgh")
budgets = st.sampled_from(["bg-1:2026-11", "bg-2:2026-W48", "bg-3:total"])
limit_amounts = st.one_of(st.integers(0, 150), st.just(9_000_000 * 10**9))


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    key, team = draw(scopes), draw(st.one_of(st.none(), scopes))
    both = (key,) if team is None else (key, ScopeLimits(kind=ScopeKind.TEAM, id="t", requests=team.requests))
    charges: list[Charge] = []
    for name in draw(st.lists(budgets, unique=True, max_size=3)):
        budget, _, window = name.partition(":")
        charges.append(charge(draw(limit_amounts), budget=budget, window=window))
    return ask(
        draw(calls),
        *(both if draw(st.booleans()) else ()),
        charges=tuple(charges),
        tokens=draw(st.one_of(st.integers(0, 9), st.integers(0, 10**9))),
        cost_nano=draw(amounts),
        epoch=draw(st.sampled_from([1, 1, 1, 2])),
        lease_seconds=draw(st.sampled_from([0.5, 10.0, 60.0, 100_000.0])),
    )


@st.composite
def settlements(draw: st.DrawFn) -> Settlement:
    return Settlement(
        call_id=draw(calls),
        tenant_id=TENANT,
        cost_nano=draw(amounts),
        limits=(draw(scopes),),
        tokens_delta=draw(st.one_of(st.integers(-9, 9), st.integers(-(10**9), 10**9))),
        doubtful=draw(st.integers(0, 3)) == 0,
    )


seeds = st.builds(WindowSeed, key=budgets, posted_nano=amounts, reserved=st.dictionaries(calls, amounts, max_size=3))
corrections = st.dictionaries(budgets, st.tuples(amounts, amounts), max_size=2)
operations = st.one_of(
    st.tuples(st.just("admit"), asks()),
    st.tuples(st.just("admit"), asks()),
    st.tuples(st.just("admit"), asks()),
    st.tuples(st.just("raise_reservation"), asks()),
    st.tuples(st.just("settle"), st.lists(settlements(), max_size=3)),
    st.tuples(st.just("renew"), st.just(TENANT), st.lists(asks(), max_size=3)),
    st.tuples(st.just("lapse"), st.just(TENANT)),
    st.tuples(st.just("begin"), st.just(TENANT), st.sampled_from([1, 1, 1, 1, 2])),
    st.tuples(st.just("seed"), st.just(TENANT), st.just(1), st.lists(seeds, max_size=3), st.sampled_from([5.0, 90.0])),
    st.tuples(st.just("repost"), st.just(TENANT), st.just(1), corrections),
    st.tuples(st.just("move"), st.sampled_from([1, 400_000, 10**7, 6 * 10**7, 4 * 10**9, 2 * 10**11, 4 * 10**12])),
)
WARM = [
    ("begin", TENANT, 1),
    ("seed", TENANT, 1, [WindowSeed(key=key) for key in ("bg-1:2026-11", "bg-2:2026-W48", "bg-3:total")], 60.0),
]
ALL_WINDOWS = ["bg-1:2026-11", "bg-2:2026-W48", "bg-3:total"]


async def answers(store: CounterStore, clock: MovedClock, steps: list[tuple[Any, ...]]) -> list[Any]:
    """Return what a store says to each step, and what its windows hold after it."""
    told: list[Any] = []
    for name, *arguments in steps:
        if name == "move":
            clock.move(microseconds=arguments[0])
            continue
        told.append((name, await getattr(store, name)(*arguments), await store.windows(TENANT, ALL_WINDOWS)))
    return told


@given(begun=st.booleans(), steps=st.lists(operations, max_size=30))
def test_random_operations_get_the_same_answers_in_memory_and_in_redis(
    server: RedisServer, begun: bool, steps: list[tuple[Any, ...]]
) -> None:
    steps = [*WARM, *steps] if begun else steps

    async def compare() -> None:
        pipe = RedisPipe(server.url, timeout=5.0)
        await pipe.command("FLUSHALL")
        clocks = MovedClock(), MovedClock()
        in_redis = await answers(RedisCounterStore(pipe, clock=clocks[0]), clocks[0], steps)
        await pipe.close()
        assert in_redis == await answers(MemoryCounterStore(clocks[1]), clocks[1], steps)

    asyncio.run(compare())
