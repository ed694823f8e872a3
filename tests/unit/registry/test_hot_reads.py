"""Answers are kept until something changes, and never longer than a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hx_gateway.errors import NotFound, Unavailable
from hx_gateway.registry import hot_reads
from hx_gateway.registry.feed.follow import ChangeFeed
from hx_gateway.registry.hot_reads import KEPT_SECONDS, HotReads
from hx_gateway.services.base import FailureKind
from tests.unit.registry.feeds import TENANT, Store


class Shelf:
    """Redis, as far as it is used: texts by name; it can be away."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.away = False

    async def get(self, names: list[str]) -> list[str | None]:
        self._check()
        return [self.texts.get(name) for name in names]

    async def put(self, name: str, text: str, keep_seconds: int) -> None:
        self._check()
        self.texts[name] = text

    def _check(self) -> None:
        if self.away:
            raise Unavailable("away")


class Desk:
    """Two processes that read the same, and share a shelf."""

    def __init__(self) -> None:
        self.store, self.shelf = Store(), Shelf()
        self.time = 100.0
        self.outcomes: list[str] = []
        self.loads = 0
        self.value = "first"
        self.feeds = [ChangeFeed(self.store) for _ in range(2)]
        self.hot = [
            HotReads(feed, values=self.shelf, count=self.outcomes.append, monotonic=lambda: self.time)
            for feed in self.feeds
        ]
        for feed in self.feeds:
            feed.healed()

    async def load(self) -> bytes:
        self.loads += 1
        return self.value.encode()

    async def read(self, process: int = 0, load: Callable[[], Awaitable[bytes]] | None = None) -> str:
        return (await self.hot[process].read(TENANT, "key", load or self.load)).decode()


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_what_was_asked_for_just_now_is_not_loaded_again_by_any_process(desk: Desk) -> None:
    assert [await desk.read(), await desk.read(), await desk.read(1)] == ["first"] * 3
    assert (desk.loads, desk.outcomes) == (1, ["miss", "hit", "shared_hit"])


async def test_a_change_is_seen_at_once(desk: Desk) -> None:
    await desk.read()
    await desk.read(1)
    desk.value = "second"
    desk.store.add(1)
    desk.feeds[0].heard(TENANT)
    assert await desk.read() == "second"
    # The other process has not heard of it yet.
    assert await desk.read(1) == "first"
    desk.feeds[1].heard(TENANT)
    assert await desk.read(1) == "second"


async def test_nothing_is_kept_for_longer_than_it_may_be(desk: Desk) -> None:
    await desk.read()
    desk.value = "second"
    desk.shelf.texts.clear()
    desk.time += KEPT_SECONDS
    assert await desk.read() == "second"


async def test_while_no_notices_come_everything_is_loaded(desk: Desk) -> None:
    await desk.read()
    desk.feeds[0].lost(FailureKind.LOST)
    desk.value = "second"
    assert await desk.read() == "second"
    assert desk.loads == 2


async def test_what_was_noted_here_is_seen_here(desk: Desk) -> None:
    await desk.read()
    desk.value = "second"
    desk.hot[0].forget(TENANT)
    assert await desk.read() == "second"


async def test_what_was_loaded_before_something_was_noted_is_not_kept(desk: Desk) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> bytes:
        begun.set()
        await go_on.wait()
        return b"first"

    reading = asyncio.create_task(desk.read(load=slow))
    await begun.wait()
    desk.value = "second"
    desk.hot[0].forget(TENANT)
    go_on.set()
    assert await reading == "first"
    assert await desk.read() == "second"


async def test_many_who_ask_at_once_load_once(desk: Desk) -> None:
    assert await asyncio.gather(*(desk.read() for _ in range(20))) == ["first"] * 20
    assert desk.loads == 1


async def test_who_goes_away_leaves_the_load_to_the_others(desk: Desk) -> None:
    go_on = asyncio.Event()

    async def slow() -> bytes:
        await go_on.wait()
        return b"first"

    first, other = asyncio.create_task(desk.read(load=slow)), asyncio.create_task(desk.read(load=slow))
    await asyncio.sleep(0.01)
    first.cancel()
    go_on.set()
    assert await other == "first"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_refusal_is_not_kept(desk: Desk) -> None:
    async def refuse() -> bytes:
        raise NotFound("There is none.")

    with pytest.raises(NotFound):
        await desk.read(load=refuse)
    assert await desk.read() == "first"


async def test_without_redis_it_works_all_the_same(desk: Desk) -> None:
    desk.shelf.away = True
    assert [await desk.read(), await desk.read()] == ["first", "first"]
    assert desk.loads == 1


async def test_what_is_kept_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_reads, "MAX_BYTES", 1000)

    async def long() -> bytes:
        return b"x" * 300

    for number in range(50):
        await desk.hot[0].read(TENANT, f"key {number}", long)
    assert desk.hot[0]._bytes <= 1000
    assert len(desk.hot[0]._kept) == 3
