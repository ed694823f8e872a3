"""The caches in the pipeline: asked in order, passed by when they are away, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hx_gateway.access.principal import KeyId, Principal, Scope, TenantId
from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.policy import CacheDefaults
from hx_gateway.cache.store import CacheAway, Found, Question
from hx_gateway.cache_rules import CacheMode
from hx_gateway.events import Ending
from hx_gateway.pipeline.caching import MAX_KEEPING, AnswerCaching, CacheCounts, CacheUse, CachingOptions, Outcome
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.services.upstream.base import Deployment, UpstreamKind
from hx_gateway.translate.openai import decode_chat
from tests.unit.cache.questions import SetClock
from tests.unit.pipeline.doubles import context

DEPLOYMENT = Deployment(name="one", kind=UpstreamKind.OPENAI, model="m-there")
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
BODY = json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()


class Counts(CacheCounts):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Outcome, str]] = []
        self.savings: list[tuple[str, int, int, int]] = []
        self.not_kept = 0

    def looked(self, outcome: Outcome, kind: str) -> None:
        self.outcomes.append((outcome, kind))

    def saved(self, kind: str, prompt_tokens: int, completion_tokens: int, nano: int) -> None:
        self.savings.append((kind, prompt_tokens, completion_tokens, nano))

    def lost(self) -> None:
        self.not_kept += 1


class ByMeaning(MemoryCache):
    """Finds whatever it has, for any question of its tenant."""

    kind = "meaning"

    async def find(self, question: Question) -> Found | None:
        for entry in self._entries.values():
            if entry.tenant_id == question.tenant_id:
                return Found(entry.answer, 0.9)
        return None


class Away(MemoryCache):
    """Is not there."""

    async def find(self, question: Question) -> Found | None:
        raise CacheAway

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        raise CacheAway


class Slow(MemoryCache):
    """Takes for ever to keep an answer."""

    def __init__(self) -> None:
        super().__init__(10**6)
        self.free = asyncio.Event()

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        await self.free.wait()


def caching(*caches: MemoryCache, counts: Counts | None = None, clock: SetClock | None = None) -> AnswerCaching:
    options = CachingOptions(defaults=CacheDefaults(mode=CacheMode.EXACT), entry_max_bytes=1000)
    at = clock or SetClock()
    return AnswerCaching(caches, options, counts=counts, now=lambda: at.now().timestamp())


def request(text: str = "hello", *headers: tuple[bytes, bytes], tenant: str = "acme", **fields: Any) -> Context:
    ctx = context(headers=headers)
    ctx.principal = Principal(key_id=KeyId("k"), tenant_id=TenantId(tenant), scopes=frozenset({Scope.MODELS}))
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    ctx.decoded = ctx.call = decode_chat(json.dumps(body).encode())
    ctx.candidates = (DEPLOYMENT,)
    return ctx


async def looked(made: AnswerCaching, ctx: Context) -> CacheUse:
    await made.look(ctx)
    assert ctx.cache is not None
    return ctx.cache


async def answered(made: AnswerCaching, ctx: Context, body: bytes = BODY) -> CacheUse:
    """Look, call where nothing is found, and end the request."""
    use = await looked(made, ctx)
    assert ctx.call is not None
    if use.found is None:
        ctx.attempts = 1
        use.taken(Reply(200, [], body))
    else:
        use.reply(ctx.call, 7)
    assert await ctx.finish(Ending.COMPLETE) == []
    await asyncio.sleep(0)
    return use


async def test_what_was_kept_is_found_and_what_it_saved_counted() -> None:
    counts = Counts()
    made = caching(MemoryCache(10**6), counts=counts)
    await answered(made, request())
    await answered(made, request())
    assert counts.outcomes == [("miss", "none"), ("hit", "exact")]
    assert counts.savings == [("exact", 3, 2, 7)]
    assert len(made.flights) == 0


async def test_caches_are_asked_in_their_order_and_all_keep() -> None:
    first, second, counts = MemoryCache(10**6), ByMeaning(10**6), Counts()
    made = caching(first, second, counts=counts)
    await answered(made, request())
    assert (len(first), len(second)) == (1, 1)
    similar = await answered(made, request("hallo"))
    assert similar.found is not None
    assert similar.found.similarity == 0.9
    other = await answered(made, request("hallo", tenant="rival"))
    assert other.found is None
    assert [outcome for outcome, _ in counts.outcomes] == ["miss", "hit", "miss"]
    assert counts.outcomes[1] == ("hit", "meaning")


async def test_a_similar_answer_says_how_near_it_is() -> None:
    made = caching(ByMeaning(10**6))
    await answered(made, request())
    ctx = request("hallo")
    use = await looked(made, ctx)
    assert ctx.call is not None
    headers = dict(use.reply(ctx.call, 0).headers)
    assert (headers[b"x-hx-cache"], headers[b"x-hx-cache-similarity"]) == (b"hit", b"0.9000")


async def test_where_no_cache_can_say_the_request_passes_by_and_keeps_nothing() -> None:
    counts = Counts()
    made = caching(Away(10**6), counts=counts)
    ctx = request()
    use = await looked(made, ctx)
    assert (use.found, use.keeping, use.lead) == (None, None, None)
    assert ctx.response_headers == [(b"x-hx-cache", b"bypass")]
    assert counts.outcomes == [("bypass", "unavailable")]


async def test_one_that_is_away_does_not_keep_from_the_others() -> None:
    counts = Counts()
    made = caching(Away(10**6), MemoryCache(10**6), counts=counts)
    await answered(made, request())
    await answered(made, request())
    assert [outcome for outcome, _ in counts.outcomes] == ["miss", "hit"]
    assert counts.not_kept == 1


async def test_answers_wait_for_a_slow_store_up_to_a_number_and_no_request_does() -> None:
    slow, counts = Slow(), Counts()
    made = caching(slow, counts=counts)
    for number in range(MAX_KEEPING + 5):
        await answered(made, request(str(number)))
    assert counts.not_kept == 5
    closing = asyncio.create_task(made.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    slow.free.set()
    await closing


@pytest.mark.parametrize("body", [b"x" * 1001, BODY.replace(b"stop", b"length"), b"{}"])
async def test_what_is_too_long_or_not_whole_is_not_kept(body: bytes) -> None:
    made = caching(MemoryCache(10**6))
    await answered(made, request(), body)
    assert (await looked(made, request())).found is None


async def test_an_answer_has_an_age() -> None:
    clock = SetClock()
    made = caching(MemoryCache(10**6, clock=clock), clock=clock)
    await answered(made, request())
    clock.seconds = 61.5
    ctx = request()
    use = await looked(made, ctx)
    assert ctx.call is not None
    assert (b"x-hx-cache-age", b"61") in use.reply(ctx.call, 0).headers
    assert (await looked(made, request("hello", (b"cache-control", b"max-age=61")))).found is None
    assert (await looked(made, request("hello", (b"cache-control", b"max-age=62")))).found is not None


async def test_a_header_that_is_passed_on_counts_each_time_that_it_stands() -> None:
    made = caching(MemoryCache(10**6))
    one, other = (b"openai-beta", b"x=1"), (b"openai-beta", b"x=2")
    for headers in ([], [one], [one, other], [other, one]):
        assert (await answered(made, request("hello", *headers))).found is None
        assert (await looked(made, request("hello", *headers))).found is not None


async def test_a_name_that_stands_for_another_model_has_other_answers() -> None:
    made = caching(MemoryCache(10**6))
    await answered(made, request())
    ctx = request()
    ctx.candidates = (Deployment(name="one", kind=UpstreamKind.OPENAI, model="m-new"),)
    assert (await looked(made, ctx)).found is None


async def test_one_whose_limits_refuse_it_hands_over_to_the_next() -> None:
    made = caching(MemoryCache(10**6))
    first, second, third = request(), request(), request()
    await looked(made, first)
    waiting = [asyncio.create_task(looked(made, ctx)) for ctx in (second, third)]
    await asyncio.sleep(0)
    # Nothing was called: its key may ask no more for now.
    await first.finish(Ending.ERROR)
    await asyncio.sleep(0)
    led = await waiting[0]
    assert led.lead is not None
    assert not waiting[1].done()
    second.attempts = 1
    led.taken(Reply(200, [], BODY))
    follower = await waiting[1]
    assert (follower.found is not None, follower.kind) == (True, "flight")


async def test_a_stream_waits_no_longer_than_it_may() -> None:
    options = CachingOptions(defaults=CacheDefaults(mode=CacheMode.EXACT), stream_wait_seconds=0.01)
    made = AnswerCaching([MemoryCache(10**6)], options)
    await looked(made, request())
    use = await looked(made, request(stream=True))
    assert (use.found, use.lead, use.outcome) == (None, None, "miss")
    assert use.keeping is not None


async def test_it_does_nothing_where_it_is_off() -> None:
    made = AnswerCaching([MemoryCache(10**6)], CachingOptions(defaults=CacheDefaults()))
    ctx = request("hello", (b"x-hx-cache", b"nonsense"))
    await made.look(ctx)
    assert (ctx.cache, ctx.response_headers) == (None, [])
