"""A purge goes to its end in every place, whatever becomes of one of them or of whoever asked for it."""

from __future__ import annotations

import asyncio

import pytest

from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.purging import Forgetful, Purged, Purging
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.cache.questions import answer, question

A, OTHERS = question("a"), question("a", "rival")
AWAY = DependencyError("Redis", FailureKind.REFUSED)


class Away:
    """A place that cannot be reached."""

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        raise AWAY


class Slow:
    """A place that forgets one answer once it is let."""

    def __init__(self) -> None:
        self.begun, self.open = asyncio.Event(), asyncio.Event()

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        self.begun.set()
        await self.open.wait()
        return 1


async def filled() -> MemoryCache:
    cache = MemoryCache(10**6)
    for asked in (A, OTHERS):
        await cache.keep(asked, answer(asked), 60)
    return cache


@pytest.mark.parametrize("away_first", [True, False])
async def test_what_is_away_keeps_the_others_from_nothing_and_is_told(away_first: bool) -> None:
    cache, told = await filled(), list[Purged]()

    async def tell(purged: Purged) -> None:
        told.append(purged)

    places: list[Forgetful] = [Away(), cache] if away_first else [cache, Away()]
    purged = await Purging(places).purge(A.tenant_id, then=tell)
    assert purged == Purged(1, AWAY)
    assert told == [purged]
    assert await cache.find(A) is None
    assert await cache.find(OTHERS) is not None


async def test_whoever_asked_may_leave_and_the_end_is_told_all_the_same() -> None:
    slow, told = Slow(), asyncio.Queue[Purged]()
    purging = Purging([slow])
    asking = asyncio.create_task(purging.purge("tn-a", then=told.put))
    await slow.begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    slow.open.set()
    async with asyncio.timeout(10):
        assert await told.get() == Purged(1)
    await purging.aclose()


async def test_closing_ends_what_is_under_way() -> None:
    slow = Slow()
    purging = Purging([slow])
    asking = asyncio.create_task(purging.purge("tn-a"))
    await slow.begun.wait()
    await purging.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking
