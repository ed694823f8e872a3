"""Who follows gets each change once and in order, and many who follow ask the database once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from hx_gateway.registry.feed import follow
from hx_gateway.registry.feed.follow import KEPT_CHANGES, READ_ROWS, AheadOfUs, ChangeFeed, Follower
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.registry.feeds import TENANT, Store


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def feed(store: Store) -> ChangeFeed:
    made = ChangeFeed(store)
    made.healed()
    return made


async def seqs(follower: Follower, limit: int = READ_ROWS) -> list[int]:
    return [change.seq for change in await follower.read(limit)]


async def test_without_a_place_it_begins_with_what_comes(store: Store, feed: ChangeFeed) -> None:
    store.add(1, 2, 3)
    follower = await feed.follow(TENANT)
    assert (follower.position, await seqs(follower)) == (3, [])
    store.add(5, 8)
    feed.heard(TENANT)
    assert await seqs(follower) == [5, 8]
    assert await seqs(follower) == []


async def test_from_an_old_place_all_comes_in_pieces(store: Store, feed: ChangeFeed) -> None:
    store.add(*range(1, 2 * KEPT_CHANGES + 10))
    follower = await feed.follow(TENANT, 4)
    read: list[int] = []
    while found := await seqs(follower, 300):
        read += found
    assert read == list(range(5, 2 * KEPT_CHANGES + 10))


async def test_what_is_kept_is_bounded_and_who_lags_reads_the_rest_from_the_database(
    store: Store, feed: ChangeFeed
) -> None:
    slow, quick = await feed.follow(TENANT, 0), await feed.follow(TENANT, 0)
    total = 3 * KEPT_CHANGES
    for start in range(1, total, 500):
        store.add(*range(start, start + 500))
        feed.heard(TENANT)
        await seqs(quick)
    read: list[int] = []
    while found := await seqs(slow, 250):
        read += found
    assert read == list(range(1, total + 1))
    assert len(slow._tail._kept) <= KEPT_CHANGES


async def test_a_notice_lets_all_who_wait_go_on_and_is_read_once(store: Store, feed: ChangeFeed) -> None:
    followers = [await feed.follow(TENANT, 0) for _ in range(50)]
    for follower in followers:
        assert await seqs(follower) == []
    waiting = [asyncio.create_task(follower.wait(60)) for follower in followers]
    await asyncio.sleep(0)
    store.add(7)
    store.reads = 0
    feed.heard(TENANT)
    await asyncio.gather(*waiting)
    assert await asyncio.gather(*(seqs(follower) for follower in followers)) == [[7]] * 50
    assert store.reads == 1


async def test_who_begins_to_wait_after_somebody_else_read_the_news_does_not_sleep_over_it(
    store: Store, feed: ChangeFeed
) -> None:
    one, other = await feed.follow(TENANT, 0), await feed.follow(TENANT, 0)
    assert (await seqs(one), await seqs(other)) == ([], [])
    store.add(3)
    feed.heard(TENANT)
    assert await seqs(one) == [3]
    async with asyncio.timeout(1):
        await other.wait(60)
    assert await seqs(other) == [3]


async def test_without_notices_it_looks_by_itself(
    store: Store, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    follower = await feed.follow(TENANT, 0)
    await seqs(follower)
    feed.lost(FailureKind.LOST)
    store.add(3)
    async with asyncio.timeout(5):
        await follower.wait(60)
    assert await seqs(follower) == [3]


async def test_a_number_that_there_is_not_is_another_history(store: Store, feed: ChangeFeed) -> None:
    store.add(1, 2)
    follower = await feed.follow(TENANT, 900)
    with pytest.raises(AheadOfUs) as caught:
        await follower.read()
    assert caught.value.newest == 2


async def test_a_number_that_another_process_told_of_is_none(store: Store, feed: ChangeFeed) -> None:
    follower = await feed.follow(TENANT, 0)
    assert await seqs(follower) == []
    # Not heard of here yet, and the last one is no service's.
    store.add(1, 4)
    store.others = 6
    ahead = await feed.follow(TENANT, 6)
    assert await seqs(ahead) == []
    assert await seqs(follower) == [1, 4]


async def test_an_outage_loses_nothing(store: Store, feed: ChangeFeed) -> None:
    follower = await feed.follow(TENANT, 0)
    await seqs(follower)
    store.add(2)
    feed.heard(TENANT)
    store.away = True
    for _ in range(2):
        with pytest.raises(DependencyError):
            await follower.read()
    store.away = False
    assert await seqs(follower) == [2]


async def test_when_the_server_stops_nobody_waits(feed: ChangeFeed) -> None:
    follower = await feed.follow(TENANT)
    await follower.read()
    waiting = asyncio.create_task(follower.wait(60))
    await asyncio.sleep(0)
    feed.stop()
    async with asyncio.timeout(1):
        await waiting
        await follower.wait(60)


async def test_when_the_last_one_leaves_nothing_is_kept(feed: ChangeFeed) -> None:
    one, other = await feed.follow(TENANT), await feed.follow(TENANT)
    one.close()
    one.close()
    assert feed._tails
    other.close()
    assert not feed._tails


async def test_the_newest_number_is_remembered_until_a_notice_comes(store: Store, feed: ChangeFeed) -> None:
    store.add(4)
    assert [await feed.head(TENANT) for _ in range(3)] == [4, 4, 4]
    assert store.reads == 1
    store.add(5)
    feed.heard(TENANT)
    assert await feed.head(TENANT) == 5
    feed.lost(FailureKind.LOST)
    store.add(6)
    assert await feed.head(TENANT) == 6
    store.add(7)
    assert await feed.head(TENANT) == 7


@pytest.mark.parametrize("seed", range(20))
async def test_however_notices_come_and_places_differ_each_gets_all_in_order(seed: int) -> None:
    random, store = Random(seed), Store()
    feed = ChangeFeed(store)
    feed.healed()
    total = 400

    async def write() -> None:
        for seq in range(1, total + 1):
            store.add(seq * 2)
            if random.random() < 0.3:
                await asyncio.sleep(0)
            # Some are told of late, some not at all; the last one is.
            if random.random() < 0.7 or seq == total:
                feed.heard(TENANT)

    async def read() -> list[int]:
        read: list[int] = []
        follower = await feed.follow(TENANT, 0)
        while len(read) < total:
            found = await seqs(follower, random.randint(1, 40))
            read += found
            if random.random() < 0.2:
                follower.close()
                follower = await feed.follow(TENANT, read[-1] if read else 0)
            elif not found:
                await follower.wait(60)
        return read

    async with asyncio.timeout(20):
        *followed, _ = await asyncio.gather(*(read() for _ in range(5)), write())
    assert followed == [[seq * 2 for seq in range(1, total + 1)]] * 5
