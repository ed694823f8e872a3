"""Changes that are told, changes that could not be, and how long the latter go unnoticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hx_gateway.access.invalidation import Invalidation
from hx_gateway.access.known_key import Standing
from hx_gateway.errors import InvalidApiKey
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.access.keys import Desk, FakeSource

BOTH = ("postgres", "redis")


def listening(desk: Desk, *sources: str) -> Invalidation:
    invalidation = Invalidation(desk.cache, sources=sources)
    for source in sources:
        invalidation.healed(source)
    return invalidation


def block(source: FakeSource, key_id: str) -> None:
    source.keys[key_id] = replace(source.keys[key_id], standing=Standing.BLOCKED, version=2)


async def is_blocked(desk: Desk, text: str) -> bool:
    try:
        await desk.lets_in(text)
    except InvalidApiKey as error:
        return error.code == "key_blocked"
    return False


async def test_a_change_that_is_told_is_noticed_at_once() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    invalidation = listening(desk, *BOTH)
    await desk.lets_in(key.text)
    block(source, key.id)
    assert not await is_blocked(desk, key.text)
    invalidation.heard(f'{{"kind":"key","id":"{key.id}","tenant_id":"default"}}')
    assert await is_blocked(desk, key.text)


@pytest.mark.parametrize("lost", BOTH)
async def test_a_change_that_could_not_be_told_is_noticed_within_ten_seconds(lost: str) -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    invalidation = listening(desk, *BOTH)
    await desk.lets_in(key.text)
    invalidation.lost(lost, FailureKind.LOST)
    block(source, key.id)
    desk.clock.seconds += 10
    assert await is_blocked(desk, key.text)


async def test_after_the_listener_heals_everything_is_looked_up_anew() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    invalidation = listening(desk, "postgres")
    await desk.lets_in(key.text)
    invalidation.lost("postgres", FailureKind.TIMEOUT)
    block(source, key.id)
    assert not await is_blocked(desk, key.text)
    invalidation.healed("postgres")
    assert await is_blocked(desk, key.text)


async def test_changes_count_as_told_only_while_every_listener_stands() -> None:
    desk = Desk(FakeSource())
    invalidation = Invalidation(desk.cache, sources=BOTH)
    desk.cache.pushed = False
    states = []
    for source in BOTH:
        invalidation.healed(source)
        states.append(desk.cache.pushed)
    invalidation.lost("redis", FailureKind.LOST)
    states.append(desk.cache.pushed)
    invalidation.healed("redis")
    states.append(desk.cache.pushed)
    assert states == [False, True, False, True]


@pytest.mark.parametrize("payload", ["", "{", "[]", '{"kind":"planet","id":"x","tenant_id":"y"}', '{"kind":"key"}'])
async def test_what_cannot_be_read_may_concern_any_key(payload: str) -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    invalidation = listening(desk, "postgres")
    await desk.lets_in(key.text)
    block(source, key.id)
    with capture_logs() as logs:
        invalidation.heard(payload)
    assert [event["event"] for event in logs] == ["access_change_unreadable"]
    assert await is_blocked(desk, key.text)


async def test_an_announcement_reaches_the_channel_and_the_own_cache_first() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    published: list[tuple[str, bool]] = []

    async def publish(payload: str) -> None:
        published.append((payload, desk.cache.get(key.id) is None))

    await Invalidation(desk.cache, publish=publish).announce("key", key.id, "default")
    assert published == [(f'{{"kind":"key","id":"{key.id}","tenant_id":"default"}}', True)]


async def test_an_announcement_that_cannot_be_published_fails_nobody() -> None:
    async def refuse(payload: str) -> None:
        raise DependencyError("Redis", FailureKind.REFUSED)

    desk = Desk(FakeSource())
    with capture_logs() as logs:
        await Invalidation(desk.cache, publish=refuse).announce("tenant", "default", "default")
    assert [event["event"] for event in logs] == ["access_change_not_published"]


async def test_a_change_of_a_key_says_that_there_may_be_an_imported_one() -> None:
    heard: list[bool] = []
    invalidation = Invalidation(Desk(FakeSource()).cache, heard_key=lambda: heard.append(True))
    invalidation.heard('{"kind":"team","id":"tm-1","tenant_id":"default"}')
    assert heard == []
    invalidation.heard('{"kind":"key","id":"abc","tenant_id":"default"}')
    assert heard == [True]
