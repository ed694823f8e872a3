"""What a process found at a server is given for a second without asking it again."""

from __future__ import annotations

import pytest

from hx_gateway.cache.hot import HotCache
from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.store import CacheAway, Found, Question
from tests.unit.cache.questions import SetClock, answer, question

A, B = question("a"), question("b")


class Server(MemoryCache):
    """A cache that others have, too."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__(10**6, clock=clock)
        self.asked: list[Question] = []
        self.away = False

    async def find(self, question: Question) -> Found | None:
        self.asked.append(question)
        if self.away:
            raise CacheAway
        return await super().find(question)


async def test_what_was_found_is_given_for_a_second_and_asked_for_after_it() -> None:
    clock = SetClock()
    server = Server(clock)
    cache = HotCache(server, clock=clock)
    await cache.keep(A, answer(A), 60)
    assert [await cache.find(A), await cache.find(A)] == [Found(answer(A))] * 2
    assert server.asked == [A]
    server.away = True
    clock.seconds = 0.9
    assert await cache.find(A) == Found(answer(A))
    clock.seconds = 1.0
    with pytest.raises(CacheAway):
        await cache.find(A)


async def test_what_is_kept_anew_takes_the_place_of_what_was_found() -> None:
    clock = SetClock()
    cache = HotCache(Server(clock), clock=clock)
    await cache.keep(A, answer(A, b"{}"), 60)
    await cache.find(A)
    await cache.keep(A, answer(A, b"{1}"), 60)
    assert await cache.find(A) == Found(answer(A, b"{1}"))


async def test_a_purge_forgets_here_too_even_where_the_server_cannot() -> None:
    clock = SetClock()
    server = Server(clock)
    cache = HotCache(server, clock=clock)
    for one in (A, B):
        await cache.keep(one, answer(one), 60)
        await cache.find(one)
    assert await cache.purge("rival") == 0
    assert await cache.purge("acme", model="m") == 2
    assert [await cache.find(A), await cache.find(B)] == [None, None]


async def test_what_is_asked_for_once_takes_no_room() -> None:
    clock = SetClock()
    server = Server(clock)
    size = answer(A).size
    cache = HotCache(server, max_bytes=size, clock=clock)
    await cache.keep(A, answer(A), 60)
    await cache.find(A)
    for number in range(5):
        one = question(f"once {number}")
        assert await cache.find(one) is None
        await cache.keep(one, answer(one), 60)
    server.asked.clear()
    assert await cache.find(A) is not None
    assert server.asked == []
