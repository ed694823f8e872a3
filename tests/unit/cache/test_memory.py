"""Answers in this process: bounded by bytes and time, and forgotten by tenant, key or model."""

from __future__ import annotations

import gc
import tracemalloc

from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.store import Question
from tests.unit.cache.questions import SetClock, answer, question

A, B, C = (question(text) for text in "abc")


async def held(cache: MemoryCache, *asked: Question) -> list[bool]:
    return [await cache.find(one) is not None for one in asked]


async def test_an_answer_is_found_by_its_question_alone() -> None:
    cache = MemoryCache(10**6)
    await cache.keep(A, answer(A), 60)
    found = await cache.find(A)
    assert found is not None
    assert (found.answer, found.similarity) == (answer(A), None)
    assert await held(cache, B, question("a", "rival"), question("a", model="n")) == [False, False, False]


async def test_an_answer_of_another_partition_is_not_given_whatever_its_digest() -> None:
    cache = MemoryCache(10**6)
    await cache.keep(A, answer(question("a", "rival")), 60)
    assert await cache.find(A) is None


async def test_an_answer_is_gone_after_its_time() -> None:
    clock = SetClock()
    cache = MemoryCache(10**6, clock=clock)
    await cache.keep(A, answer(A), 60)
    clock.seconds = 59.9
    assert await held(cache, A) == [True]
    clock.seconds = 60
    assert await held(cache, A) == [False]
    assert (len(cache), cache.size) == (0, 0)


async def test_the_one_least_lately_used_makes_room() -> None:
    cache = MemoryCache(2 * answer(A).size)
    await cache.keep(A, answer(A), 60)
    await cache.keep(B, answer(B), 60)
    await cache.find(A)
    await cache.keep(C, answer(C), 60)
    assert await held(cache, A, B, C) == [True, False, True]


async def test_what_is_larger_than_all_of_it_is_not_kept_and_drives_nothing_out() -> None:
    cache = MemoryCache(2 * answer(A).size)
    await cache.keep(A, answer(A), 60)
    await cache.keep(B, answer(B, b"x" * 10_000), 60)
    assert await held(cache, A, B) == [True, False]


async def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    cache = MemoryCache(10**6)
    await cache.keep(A, answer(A, b"old"), 60)
    await cache.keep(A, answer(A, b"new!"), 60)
    found = await cache.find(A)
    assert found is not None
    assert found.answer.body == b"new!"
    assert (len(cache), cache.size) == (1, answer(A, b"new!").size)


async def test_answers_are_forgotten_by_tenant_key_and_model() -> None:
    cache = MemoryCache(10**6)
    other_key, other_model, rival = question("a", key_id="k2"), question("b", model="n"), question("a", "rival")
    asked = (B, other_key, other_model, rival)
    for one in asked:
        await cache.keep(one, answer(one), 60)
    assert await cache.purge("nobody") == 0
    assert await cache.purge("acme", key_id="k2") == 1
    assert await held(cache, *asked) == [True, False, True, True]
    assert await cache.purge("acme", model="n") == 1
    assert await cache.purge("acme", key_id="k2", model="m") == 0
    assert await cache.purge("acme") == 1
    assert await held(cache, *asked) == [False, False, False, True]
    await cache.aclose()
    assert (len(cache), cache.size) == (0, 0)


async def test_a_flood_of_questions_stays_within_the_bytes() -> None:
    cache, most = MemoryCache(2_000_000), 0
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(20_000):
            asked = question(str(number), f"tenant-{number % 50}")
            await cache.keep(asked, answer(asked, b"%d" % number * 100), 60)
            most = max(most, cache.size)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= 2_000_000
    assert taken < 3 * 2_000_000
    assert len(cache) > 500
