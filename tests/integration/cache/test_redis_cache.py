"""Answers in a real Redis: found, forgotten and bounded; and a server that is slow, dead or has lost half of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise

import pytest

from hx_gateway.cache.answers import OVERHEAD_BYTES, encode_answer
from hx_gateway.cache.redis_store import FAILURES, RedisCache
from hx_gateway.cache.store import BUDGET_SECONDS, CacheAway, Question
from hx_gateway.services.base import DependencyError
from hx_gateway.services.redis_pipe import TIMEOUT_SECONDS, RedisPipe
from tests.fixtures.servers import RedisServer
from tests.integration.limits.redis_only import KINDS, running
from tests.unit.cache.questions import answer, question

# What is not about time must not fail on a machine that has none.
PATIENT_SECONDS = 10.0
A, B, C = (question(text) for text in "abc")
SIZE = len(encode_answer(answer(A))) + OVERHEAD_BYTES
MakeCache = Callable[..., RedisCache]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


@pytest.fixture
async def pipe(server: RedisServer) -> AsyncIterator[RedisPipe]:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    await pipe.command("FLUSHALL")
    yield pipe
    await pipe.close()


@pytest.fixture
async def make_cache(server: RedisServer, pipe: RedisPipe) -> AsyncIterator[MakeCache]:
    made: list[RedisCache] = []

    def make(max_bytes: int = 10**6, *, seconds: float = PATIENT_SECONDS, healthy: bool = True) -> RedisCache:
        pipe = RedisPipe(server.url, timeout=max(seconds, TIMEOUT_SECONDS))
        made.append(RedisCache(pipe, max_bytes=max_bytes, healthy=lambda: healthy, seconds=seconds))
        return made[-1]

    yield make
    for cache in made:
        await cache.aclose()


async def kept(cache: RedisCache, *asked: Question, ttl_seconds: int = 60) -> None:
    for one in asked:
        await cache.keep(one, answer(one), ttl_seconds)


async def held(cache: RedisCache, *asked: Question) -> list[bool]:
    return [await cache.find(one) is not None for one in asked]


async def keys(pipe: RedisPipe) -> list[str]:
    return sorted(name.decode() for name in await pipe.command("KEYS", "*"))


async def test_an_answer_is_found_by_every_worker_by_its_question_alone(make_cache: MakeCache) -> None:
    one, other = make_cache(), make_cache()
    await one.keep(A, answer(A, b"\x00 body \xff"), 60)
    found = await other.find(A)
    assert found is not None
    assert found.answer == answer(A, b"\x00 body \xff")
    assert await held(other, B, question("a", "rival"), question("a", model="n")) == [False, False, False]


async def test_everything_of_a_tenant_is_under_its_hash_tag_and_ends(make_cache: MakeCache, pipe: RedisPipe) -> None:
    await kept(make_cache(), A, question("a", "rival"))
    names = await keys(pipe)
    assert sorted({name.partition(":cache:")[0] for name in names}) == ["hx:{acme}", "hx:{rival}"]
    assert len(names) == 6
    assert all([0 < await pipe.command("PTTL", name) <= 60_000 for name in names])


async def test_an_answer_of_another_partition_is_not_given_whatever_its_name(make_cache: MakeCache) -> None:
    cache = make_cache()
    await cache.keep(A, answer(question("a", "rival")), 60)
    assert await cache.find(A) is None


async def test_bytes_that_are_no_answer_are_none(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache()
    await kept(cache, A)
    await pipe.command("SET", f"hx:{{acme}}:cache:a:{A.digest.hex()}", b"\x93\x07\xff")
    assert await cache.find(A) is None


async def test_an_answer_is_gone_after_its_time_and_its_name_with_the_next(
    make_cache: MakeCache, pipe: RedisPipe
) -> None:
    cache = make_cache()
    await kept(cache, A, ttl_seconds=1)
    await kept(cache, B)
    await asyncio.sleep(1.1)
    assert await held(cache, A, B) == [False, True]
    await kept(cache, C)
    assert await pipe.command("HLEN", "hx:{acme}:cache:index") == 3
    assert await pipe.command("ZCARD", "hx:{acme}:cache:ends") == 2


async def test_those_that_end_first_make_room_and_no_other_tenant_s(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache, rival = make_cache(3 * SIZE), question("a", "rival")
    await kept(cache, rival)
    await kept(cache, A, ttl_seconds=30)
    await kept(cache, B, C, ttl_seconds=60)
    await kept(cache, question("d"), ttl_seconds=90)
    assert await held(cache, A, B, C, rival) == [False, True, True, True]
    assert int(await pipe.command("HGET", "hx:{acme}:cache:index", "")) <= 3 * SIZE


async def test_a_newer_answer_takes_the_place_of_the_older(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache()
    await kept(cache, A)
    before = await pipe.command("HGET", "hx:{acme}:cache:index", "")
    await cache.keep(A, answer(A, b"[]"), 60)
    found = await cache.find(A)
    assert found is not None
    assert found.answer.body == b"[]"
    assert await pipe.command("HGET", "hx:{acme}:cache:index", "") == before


async def test_what_is_larger_than_all_of_it_is_not_kept(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache(SIZE - 1)
    await kept(cache, A)
    assert await cache.find(A) is None
    assert await keys(pipe) == []


async def test_answers_are_forgotten_by_tenant_key_and_model(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache()
    other_key, other_model, rival = question("a", key_id="k2"), question("b", model="n|x"), question("a", "rival")
    asked = (B, other_key, other_model, rival)
    await kept(cache, *asked)
    assert await cache.purge("nobody") == 0
    assert await cache.purge("acme", key_id="k2") == 1
    assert await held(cache, *asked) == [True, False, True, True]
    assert await cache.purge("acme", model="n|x") == 1
    assert await cache.purge("acme", key_id="k2", model="m") == 0
    assert await cache.purge("acme") == 1
    assert await held(cache, *asked) == [False, False, False, True]
    assert all(name.startswith("hx:{rival}") for name in await keys(pipe))


async def test_a_purge_of_many_leaves_none(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache(10**8)
    many = [question(str(number), key_id=f"k{number % 2}") for number in range(3000)]
    await asyncio.gather(*(cache.keep(one, answer(one), 60) for one in many))
    assert await cache.purge("acme", key_id="k1") == 1500
    assert await cache.purge("acme") == 1500
    assert await keys(pipe) == []


@pytest.mark.parametrize("lost", ["index", "ends"])
async def test_nothing_outlives_a_purge_when_half_of_it_was_lost(
    make_cache: MakeCache, pipe: RedisPipe, lost: str
) -> None:
    cache = make_cache(4 * SIZE)
    await kept(cache, A, B)
    await pipe.command("DEL", f"hx:{{acme}}:cache:{lost}")
    await cache.purge("acme")
    assert await held(cache, A, B) == [False, False]
    await kept(cache, *(question(str(number)) for number in range(20)))
    assert int(await pipe.command("HGET", "hx:{acme}:cache:index", "") or 0) <= 4 * SIZE
    assert await held(cache, question("19")) == [True]


async def test_a_flood_of_questions_stays_within_the_bytes(make_cache: MakeCache, pipe: RedisPipe) -> None:
    cache = make_cache(100 * SIZE)
    many = [question(str(number)) for number in range(2000)]
    await asyncio.gather(*(cache.keep(one, answer(one), 60) for one in many))
    assert int(await pipe.command("HGET", "hx:{acme}:cache:index", "")) <= 100 * SIZE
    assert len(await keys(pipe)) <= 102


async def test_a_server_known_to_be_away_is_not_asked(make_cache: MakeCache) -> None:
    cache = make_cache(healthy=False)
    with pytest.raises(CacheAway):
        await cache.find(A)
    with pytest.raises(CacheAway):
        await cache.keep(A, answer(A), 60)


async def test_a_hung_server_costs_a_few_requests_the_budget_and_the_others_nothing(
    make_cache: MakeCache, server: RedisServer
) -> None:
    cache = make_cache(seconds=BUDGET_SECONDS)
    await kept(make_cache(), A)
    beats: list[float] = []

    async def heart() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.001)

    beating = asyncio.create_task(heart())
    server.freeze()
    try:
        waits = []
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(CacheAway):
                await cache.find(A)
            waits.append(time.monotonic() - began)
    finally:
        server.thaw()
        beating.cancel()
    # The figures are 30 ms and no wait; five times that is a machine that is busy.
    assert max(waits) < 5 * BUDGET_SECONDS
    assert sum(wait >= BUDGET_SECONDS * 0.9 for wait in waits) <= FAILURES
    assert max(later - sooner for sooner, later in pairwise(beats)) < 5 * BUDGET_SECONDS
    await until_found(cache)


async def test_a_dead_server_is_passed_by_and_used_again_when_it_is_back(
    make_cache: MakeCache, server: RedisServer
) -> None:
    cache = make_cache(seconds=BUDGET_SECONDS)
    await kept(make_cache(), A)
    server.kill()
    try:
        for _ in range(2 * FAILURES):
            with pytest.raises(CacheAway):
                await cache.find(A)
        with pytest.raises(DependencyError):
            await cache.purge("acme")
    finally:
        server.start()
    deadline = time.monotonic() + PATIENT_SECONDS
    while time.monotonic() < deadline:
        try:
            await cache.keep(A, answer(A), 60)
            break
        except CacheAway:
            await asyncio.sleep(0.05)
    await until_found(cache)


async def until_found(cache: RedisCache) -> None:
    deadline = time.monotonic() + PATIENT_SECONDS
    while time.monotonic() < deadline:
        try:
            assert await cache.find(A) is not None
        except CacheAway:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the server is back and not used")
