"""What other processes looked up: when it spares a question, when it stands in, and when it is not believed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from hx_gateway.access.invalidation import Invalidation
from hx_gateway.access.known_key import Standing
from hx_gateway.access.peppers import Peppers
from hx_gateway.errors import InvalidApiKey, Unavailable
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.access.keys import Desk, FakeClock, FakeSource, FakeValues

AWAY = DependencyError("PostgreSQL", FailureKind.REFUSED)
NO_REDIS = DependencyError("Redis", FailureKind.REFUSED)


def desks(source: FakeSource, values: FakeValues, number: int = 2) -> list[Desk]:
    clock = FakeClock()
    return [Desk(source, values=values, clock=clock) for _ in range(number)]


async def test_what_another_process_saw_a_moment_ago_spares_the_question() -> None:
    source = FakeSource()
    key = source.add()
    first, second = desks(source, FakeValues())
    assert await first.lets_in(key.text) == key.id
    first.clock.seconds += 9
    assert await second.lets_in(key.text) == key.id
    assert source.asked == 1


async def test_what_is_older_than_ten_seconds_is_asked_for() -> None:
    source = FakeSource()
    key = source.add()
    first, second = desks(source, FakeValues())
    await first.lets_in(key.text)
    first.clock.seconds += 10
    await second.lets_in(key.text)
    assert source.asked == 2


async def test_sharing_makes_nothing_fresher_than_it_is() -> None:
    source = FakeSource()
    key = source.add()
    first, second = desks(source, FakeValues())
    await first.lets_in(key.text)
    first.clock.seconds += 9
    await second.lets_in(key.text)
    first.clock.seconds += 51
    await second.lets_in(key.text)
    assert source.asked == 2


async def test_without_the_database_a_key_that_another_process_knew_is_served() -> None:
    source = FakeSource()
    key = source.add()
    values = FakeValues()
    first, second = desks(source, values)
    await first.lets_in(key.text)
    source.failure = AWAY
    first.clock.seconds += 3600
    for _ in range(3):
        assert await second.lets_in(key.text) == key.id
    first.clock.seconds += 24 * 3600
    for desk in (second, *desks(source, values, 1)):
        desk.clock.seconds = first.clock.seconds
        with pytest.raises(Unavailable):
            await desk.lets_in(key.text)


@pytest.mark.parametrize(("kind", "owner"), [("key", None), ("tenant", "default"), ("key", "above")])
async def test_a_key_that_changed_does_not_come_back_from_there(kind: str, owner: str | None) -> None:
    source = FakeSource()
    key = source.add(above=(("key", "above"),))
    values = FakeValues()
    first, second, late = desks(source, values, 3)
    await first.lets_in(key.text)
    kept = dict(values.texts)
    source.keys[key.id] = replace(source.keys[key.id], standing=Standing.BLOCKED)
    await Invalidation(second.cache, shared=second.shared).announce(kind, owner or key.id, "default")  # type: ignore[arg-type]
    # Whoever looked it up before the change may write it after the change.
    values.texts.update({name: text for name, text in kept.items() if name not in values.texts})
    with pytest.raises(InvalidApiKey):
        await second.lets_in(key.text)
    values.texts.update(kept)
    source.failure = AWAY
    late.clock.seconds += 60
    with pytest.raises(Unavailable):
        await late.lets_in(key.text)


async def test_a_process_that_heard_nothing_yet_does_not_find_a_changed_key_there() -> None:
    source = FakeSource()
    key = source.add()
    first, second, late = desks(source, FakeValues(), 3)
    await first.lets_in(key.text)
    source.keys[key.id] = replace(source.keys[key.id], standing=Standing.BLOCKED)
    await Invalidation(second.cache, shared=second.shared).announce("key", key.id, "default")
    with pytest.raises(InvalidApiKey):
        await late.lets_in(key.text)


async def test_shortly_after_a_change_no_other_hosts_clock_is_believed() -> None:
    source = FakeSource()
    key = source.add()
    first, second = desks(source, FakeValues())
    second.cache.drop("key", key.id)
    first.clock.seconds += 4
    await first.lets_in(key.text)
    await second.lets_in(key.text)
    assert source.asked == 2


async def test_where_marks_cannot_be_read_a_change_is_assumed() -> None:
    source = FakeSource()
    key = source.add()
    values = FakeValues()
    (desk,) = desks(source, values, 1)
    await desk.lets_in(key.text)
    assert desk.shared is not None
    desk.clock.seconds += 60
    shared = await desk.shared.get(key.id)
    assert shared is not None
    assert await desk.shared.is_unchanged(shared)
    values.failure = NO_REDIS
    assert not await desk.shared.is_unchanged(shared)


async def test_after_a_doubt_what_was_seen_before_it_is_asked_for() -> None:
    source = FakeSource()
    key = source.add()
    first, second = desks(source, FakeValues())
    await first.lets_in(key.text)
    second.cache.doubt_all()
    await second.lets_in(key.text)
    assert source.asked == 2


@pytest.mark.parametrize("harm", ["flipped", "renamed", "foreign", "empty", "future"])
async def test_what_nobody_of_us_wrote_is_not_believed(harm: str) -> None:
    source = FakeSource()
    key, other = source.add(), source.add()
    values = FakeValues()
    (first,) = desks(source, values, 1)
    peppers = Peppers({"pp-1": os.urandom(32)}, "pp-1")
    await first.lets_in(key.text)
    name = f"hx:key:{key.id}"
    text = values.texts[name]
    second = Desk(source, values=values)
    if harm == "flipped":
        values.texts[name] = text.replace('"models"', '"admin"')
    elif harm == "renamed":
        key = other
        values.texts[f"hx:key:{other.id}"] = text
    elif harm == "foreign":
        assert await Desk(source, values=values, peppers=peppers).shared.get(key.id) is None  # type: ignore[union-attr]
        return
    elif harm == "empty":
        values.texts[name] = ""
    else:
        second.clock.seconds -= 60
    asked = source.asked
    assert await second.lets_in(key.text) == key.id
    assert source.asked == asked + 1


async def test_no_secret_is_shared() -> None:
    source = FakeSource()
    key = source.add()
    values = FakeValues()
    (desk,) = desks(source, values, 1)
    await desk.lets_in(key.text)
    assert key.id in str(values.texts)
    assert key.secret not in str(values.texts)


async def test_without_redis_keys_are_looked_up_as_ever() -> None:
    source = FakeSource()
    key = source.add()
    (desk,) = desks(source, FakeValues(failure=NO_REDIS), 1)
    assert await desk.lets_in(key.text) == key.id
    await Invalidation(desk.cache, shared=desk.shared).announce("key", key.id, "default")
    source.failure = AWAY
    with pytest.raises(Unavailable):
        await desk.lets_in(key.text)


async def test_a_change_that_is_told_while_another_value_is_read_wins() -> None:
    source = FakeSource()
    key = source.add()
    values = FakeValues()
    first, second = desks(source, values)
    await first.lets_in(key.text)
    reading = asyncio.Event()
    plain = values.get

    async def slow(names: list[str]) -> list[str | None]:
        found = await plain(names)
        await reading.wait()
        return found

    values.get = slow  # type: ignore[method-assign, assignment]
    asking = asyncio.create_task(second.lets_in(key.text))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.keys[key.id] = replace(source.keys[key.id], standing=Standing.DELETED)
    second.cache.drop("key", key.id)
    reading.set()
    with pytest.raises(InvalidApiKey):
        await asking
