"""The cache by meaning over stand-ins: what is found, what is passed by, and what it may take."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec import structs

from hx_gateway.cache.answers import StoredAnswer, encode_answer
from hx_gateway.cache.meaning.cache import Keeping, LookUp, MeaningCache, MeaningOptions
from hx_gateway.cache.meaning.embedding import unit
from hx_gateway.cache.meaning.patience import FAILURES
from hx_gateway.cache.meaning.stores import Near, SpaceMissing
from hx_gateway.cache.store import CacheAway, Question
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.upstream.demo import embed
from tests.unit.cache.meaning.stand_ins import (
    AWAY,
    Counted,
    MemoryStore,
    WordEmbedder,
    answer_to,
    question,
    running_cache,
)

ASKED, REWORDED = "How do I reset my password?", "I want to reset my password: how?"
OTHER = "What is the capital of France?"
PATIENT = MeaningOptions(budget=10.0)


async def test_an_answer_is_found_by_the_same_question_in_other_words_and_not_by_another() -> None:
    async with running_cache(WordEmbedder(), MemoryStore(), PATIENT) as (cache, counted):
        asked = question(ASKED)
        assert await cache.find(asked) is None
        await cache.keep(asked, answer_to(asked, b"answer"), 60)
        await counted.until(1)
        found = await cache.find(question(REWORDED))
        assert found is not None
        assert found.answer == answer_to(asked, b"answer")
        assert found.similarity is not None
        assert 0.7 < found.similarity < 0.99
        assert await cache.find(question(OTHER)) is None
        assert await cache.find(question(REWORDED, similarity=0.99)) is None
        assert counted.look_ups == [LookUp.MISS, LookUp.HIT, LookUp.MISS, LookUp.MISS]
        assert counted.answers == [Keeping.KEPT]


async def test_a_text_is_embedded_once_for_its_look_up_and_its_answer() -> None:
    embedder = WordEmbedder()
    async with running_cache(embedder, MemoryStore(), PATIENT) as (cache, counted):
        embedder.texts.clear()
        asked = question(ASKED)
        await cache.find(asked)
        await cache.keep(asked, answer_to(asked), 60)
        await counted.until(1)
        assert embedder.texts == [ASKED]


async def test_a_question_that_nobody_compares_is_passed_over() -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, PATIENT) as (cache, counted):
        embedder.texts.clear()
        plain = structs.replace(question(ASKED), wording=None)
        with pytest.raises(CacheAway):
            await cache.find(plain)
        await cache.keep(plain, answer_to(plain), 60)
        assert (embedder.texts, counted.look_ups, counted.answers) == ([], [], [])


@pytest.mark.parametrize("similarity", [math.nan, -0.1, 1.01, 5.0, math.inf, -math.inf])
async def test_what_is_not_near_is_no_hit_at_threshold_0_either(similarity: float) -> None:
    store = MemoryStore()

    async def nearest(*_: object) -> Near:
        return Near(encode_answer(answer_to(question(ASKED))), similarity, 0.0)

    store.nearest = nearest  # type: ignore[method-assign, assignment]
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, _):
        assert await cache.find(question(ASKED, similarity=0.0)) is None


async def test_an_entry_that_cannot_be_read_or_is_anothers_is_no_hit() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        asked = question(ASKED)
        await cache.keep(asked, replace_partition(asked, "tn-b"), 60)
        await counted.until(1)
        assert await cache.find(question(ASKED)) is None
        (entry,) = store.entries.values()
        store.entries[entry.id] = replace(entry, answer=b"\x00nonsense")
        assert await cache.find(question(ASKED)) is None


def replace_partition(asked: Question, partition: str) -> StoredAnswer:
    return answer_to(structs.replace(asked, partition=partition))


# What does not work is passed by


async def bypassed(cache: MeaningCache, counted: Counted) -> LookUp:
    with pytest.raises(CacheAway):
        await cache.find(question(ASKED))
    return counted.look_ups[-1]


async def test_before_it_is_ready_every_look_up_is_a_bypass() -> None:
    embedder = WordEmbedder()
    embedder.open.clear()
    async with running_cache(embedder, MemoryStore(), prepared=False) as (cache, counted):
        assert await bypassed(cache, counted) is LookUp.NOT_READY
        with pytest.raises(CacheAway):
            await cache.keep(question(ASKED), answer_to(question(ASKED)), 60)
        assert counted.answers == [Keeping.NOT_READY]


async def test_a_slow_embedder_and_a_slow_store_are_told_apart() -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, MeaningOptions(budget=0.01)) as (cache, counted):
        embedder.open.clear()
        assert await bypassed(cache, counted) is LookUp.EMBEDDING_LATE
        embedder.open.set()
        store.open.clear()
        assert await bypassed(cache, counted) is LookUp.STORE_LATE
        store.open.set()


async def test_a_store_that_does_not_let_go_keeps_nobody_waiting() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, MeaningOptions(budget=0.01, look_ups=2)) as (cache, counted):
        store.open.clear()
        store.stubborn = True
        async with asyncio.timeout(5):
            seen = [await bypassed(cache, counted) for _ in range(3)]
        # Those that hang on count, so that there is an end to them.
        assert seen == [LookUp.STORE_LATE, LookUp.STORE_LATE, LookUp.BUSY]
        store.open.set()


async def test_failures_are_told_apart() -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, PATIENT) as (cache, counted):
        embedder.failing = True
        assert await bypassed(cache, counted) is LookUp.EMBEDDING_FAILED
        embedder.failing = False
        store.error = AWAY
        assert await bypassed(cache, counted) is LookUp.STORE_FAILED
        store.error = RuntimeError("a mistake of ours")
        assert await bypassed(cache, counted) is LookUp.STORE_FAILED


async def test_what_fails_every_time_is_left_alone_for_a_while() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        store.error = AWAY
        seen = [await bypassed(cache, counted) for _ in range(FAILURES + 2)]
        assert seen == [LookUp.STORE_FAILED] * FAILURES + [LookUp.RESTING] * 2


async def test_what_is_gone_is_made_again() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        store.error = SpaceMissing()
        assert await bypassed(cache, counted) is LookUp.STORE_FAILED
        assert not cache.ready
        store.error = None
        async with asyncio.timeout(10):
            while not cache.ready:
                await asyncio.sleep(0.01)
        assert len(store.made) == 2


@pytest.mark.parametrize("notices", ["look-up", "writer"])
async def test_a_model_whose_vectors_change_their_size_is_asked_anew_and_never_mixed(notices: str) -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, PATIENT) as (cache, counted):
        asked = question(ASKED)
        await cache.keep(asked, answer_to(asked), 60)
        await counted.until(1)
        embedder.more = 7
        if notices == "look-up":
            assert await bypassed(cache, counted) is LookUp.EMBEDDING_FAILED
        else:
            await cache.keep(question(OTHER), answer_to(asked), 60)
            await counted.until(2)
            assert counted.answers[-1] is Keeping.FAILED
        async with asyncio.timeout(10):
            while not cache.ready:
                await asyncio.sleep(0.01)
        sizes = [space.dimensions for space in store.made]
        assert sizes == [sizes[0], sizes[0] + 7]
        store.entries.clear()
        assert await cache.find(question(ASKED)) is None
        # What was worked out before is not compared with what is now, nor kept with it.
        asked.wording.vector = [1.0, 0.0]  # type: ignore[union-attr]
        with pytest.raises(CacheAway):
            await cache.find(asked)
        assert cache.ready


async def test_a_vector_of_before_a_change_goes_nowhere() -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, PATIENT) as (cache, counted):
        embedder.open.clear()
        looking = asyncio.create_task(cache.find(question(ASKED)))
        await cache.keep(question(OTHER), answer_to(question(OTHER)), 60)
        await asyncio.sleep(0.01)
        store.error = SpaceMissing()
        cache._lost()
        embedder.open.set()
        with pytest.raises(CacheAway):
            await looking
        await counted.until(1)
        assert counted.look_ups == [LookUp.EMBEDDING_FAILED]
        assert counted.answers == [Keeping.NOT_READY]


async def test_a_client_that_leaves_leaves_no_look_up_behind() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, _):
        store.open.clear()
        request = asyncio.create_task(cache.find(question(ASKED)))
        await asyncio.sleep(0.01)
        assert len(cache._searches) == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not cache._searches


# Keeping


async def test_answers_that_cannot_be_written_are_counted_and_the_next_are_written() -> None:
    embedder, store = WordEmbedder(), MemoryStore()
    async with running_cache(embedder, store, PATIENT) as (cache, counted):
        for number, error in enumerate((AWAY, RuntimeError("a mistake of ours"), None), 1):
            store.error = error
            await cache.keep(question(ASKED), answer_to(question(ASKED)), 60)
            await counted.until(number)
        assert counted.answers == [Keeping.FAILED, Keeping.FAILED, Keeping.KEPT]


async def test_a_flood_takes_no_more_memory_and_no_more_entries() -> None:
    store = MemoryStore()
    options = MeaningOptions(budget=10.0, entries=100, waiting=50, waiting_bytes=40_000)
    async with running_cache(WordEmbedder(), store, options) as (cache, counted):
        store.open.clear()
        refused = 0
        for number in range(1000):
            asked = question(f"flood {number}")
            try:
                await cache.keep(asked, answer_to(asked, b"x" * 500), 60)
            except CacheAway:
                refused += 1
            assert len(cache._queue) <= 50
            assert cache._queue._bytes <= 40_000
        assert refused == counted.answers.count(Keeping.NO_ROOM) > 900
        store.open.set()
        await counted.until(1000)
        for number in range(500):
            asked = question(f"unique {number} {number * 7}")
            await cache.keep(asked, answer_to(asked), 60)
            await counted.until(1001 + number)
            assert len(store.entries) <= 110
        assert len(store.entries) >= 100


async def test_one_tenants_flood_takes_nothing_from_another() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, MeaningOptions(budget=10.0, entries=10)) as (cache, counted):
        mine = question(ASKED)
        await cache.keep(mine, answer_to(mine), 60)
        for number in range(50):
            asked = question(f"flood {number}", tenant_id="tn-b")
            await cache.keep(asked, answer_to(asked), 60)
        await counted.until(51)
        assert await cache.find(question(ASKED)) is not None


# Purging


async def test_a_purge_takes_what_waits_and_what_is_being_written_too() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        store.open.clear()
        for number in range(6):
            asked = question(f"question {number}", tenant_id="tn-a" if number % 2 else "tn-b")
            await cache.keep(asked, answer_to(asked), 60)
        await asyncio.sleep(0.01)
        purge = asyncio.create_task(cache.purge("tn-a"))
        await asyncio.sleep(0.01)
        store.open.set()
        assert await purge == 3
        await counted.until(4)
        assert {entry.place.tenant_id for entry in store.entries.values()} == {"tn-b"}
        assert len(store.entries) == 3


async def test_a_purge_that_is_not_certain_says_so() -> None:
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, _):
        store.error = AWAY
        with pytest.raises(DependencyError):
            await cache.purge("tn-a")


async def test_upkeep_removes_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.cache.meaning.cache.UPKEEP_SECONDS", 0.01)
    store = MemoryStore()
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        asked = question(ASKED)
        await cache.keep(asked, answer_to(asked), 0)
        await counted.until(1)
        async with asyncio.timeout(10):
            while store.entries:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("mistake", [False, True])
async def test_upkeep_that_fails_goes_on_and_forgets_no_tenant(monkeypatch: pytest.MonkeyPatch, mistake: bool) -> None:
    monkeypatch.setattr("hx_gateway.cache.meaning.cache.UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr("hx_gateway.cache.meaning.cache.AGAIN_SECONDS", 0.01)
    store, tries = MemoryStore(), list[float]()

    async def expire(now: float) -> None:
        tries.append(now)
        if mistake and len(tries) < 3:
            raise RuntimeError("a mistake of ours")
        raise DependencyError("Qdrant", FailureKind.REFUSED)

    store.expire = expire  # type: ignore[method-assign]
    async with running_cache(WordEmbedder(), store, MeaningOptions(budget=10.0, entries=20)) as (cache, counted):
        for number in range(25):
            asked = question(f"question {number}")
            await cache.keep(asked, answer_to(asked), 60)
            await counted.until(number + 1)
            begun = len(tries)
            async with asyncio.timeout(10):
                while len(tries) < begun + 2:
                    await asyncio.sleep(0.001)
            assert len(store.entries) <= 22


async def test_what_a_vector_takes_counts_while_an_answer_waits() -> None:
    store = MemoryStore()
    options = MeaningOptions(budget=10.0, waiting_bytes=40_000)
    async with running_cache(WordEmbedder(), store, options) as (cache, counted):
        store.open.clear()
        for number in range(20):
            asked = question(f"flood {number}")
            assert asked.wording is not None
            asked.wording.vector = unit(embed(asked.wording.text))
            with suppress(CacheAway):
                await cache.keep(asked, answer_to(asked), 60)
            await asyncio.sleep(0)
        assert counted.answers.count(Keeping.NO_ROOM) > 5
        store.open.set()
