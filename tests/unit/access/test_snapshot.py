"""The snapshot of known keys: whose it is, how old it may be, and what it never holds."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.key_format import mint_key
from hx_gateway.access.peppers import Peppers
from hx_gateway.access.snapshot import SNAPSHOT_FILE, KeySnapshot
from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.errors import InvalidApiKey, Unavailable
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.access.keys import PEPPERS, Desk, FakeClock, FakeSource

AWAY = DependencyError("PostgreSQL", FailureKind.REFUSED)


def snapshot_of(desk: Desk, directory: Path, peppers: Peppers = PEPPERS) -> KeySnapshot:
    return KeySnapshot(directory / SNAPSHOT_FILE, peppers, desk.cache, clock=desk.clock)


async def written(directory: Path, source: FakeSource, *texts: str) -> Desk:
    """Write a snapshot of the keys with those texts; return the desk that knew them."""
    desk = Desk(source)
    for text in texts:
        await desk.lets_in(text)
    await snapshot_of(desk, directory).write()
    return desk


async def test_a_process_that_starts_while_the_database_is_away_knows_the_keys(tmp_path: Path) -> None:
    source = FakeSource()
    key = source.add()
    await written(tmp_path, source, key.text)
    source.failure = AWAY
    desk = Desk(source)
    assert await snapshot_of(desk, tmp_path).load() == 1
    assert await desk.lets_in(key.text) == key.id
    assert await desk.lets_in(mint_key(key.id).text) is None
    with pytest.raises(Unavailable):
        await desk.lets_in(mint_key().text)


async def test_what_was_read_is_not_relied_on_while_the_database_answers(tmp_path: Path) -> None:
    source = FakeSource()
    key = source.add()
    await written(tmp_path, source, key.text)
    del source.keys[key.id]
    desk = Desk(source)
    await snapshot_of(desk, tmp_path).load()
    assert await desk.lets_in(key.text) is None


async def test_everything_a_key_carries_comes_back(tmp_path: Path) -> None:
    source = FakeSource()
    key = source.add()
    limits = ScopeLimits(kind=ScopeKind.TEAM, id="tm-1", requests=Rate(60, 10), parallel=3)
    budget = Budget(id="bg-1", kind=ScopeKind.KEY, owner_id=key.id, limit_nano=5, period=Period.MONTH)
    allowance = Allowance(tenant_id="default", limits=(limits,), budgets=(budget,), model_budgets={"gpt": (budget,)})
    known = source.keys[key.id]
    principal = replace(
        known.principal,
        models=(("gpt-*",), ("*",)),
        aliases={"a": "b"},
        allowed_routes=(("/v1/*",), ("*/completions",)),
        allowance=allowance,
    )
    ends, above = FakeClock().now() + timedelta(days=9), (("key", "above"), ("tenant", "default"))
    source.keys[key.id] = replace(known, principal=principal, expires_at=ends, above=above)
    await written(tmp_path, source, key.text)
    desk = Desk(source)
    await snapshot_of(desk, tmp_path).load()
    entry = desk.cache.get(key.id)
    assert entry is not None
    assert entry.known == source.keys[key.id]


async def test_the_file_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    source = FakeSource()
    key = source.add()
    source.add_imported("sk-imported-secret-text")
    await written(tmp_path, source, key.text, "sk-imported-secret-text")
    path = tmp_path / SNAPSHOT_FILE
    text = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.id.encode() in text
    assert key.secret.encode() not in text
    assert b"imported-secret" not in text
    assert PEPPERS._peppers["pp-1"] not in text
    assert not [name for name in os.listdir(tmp_path) if name.startswith(f".{SNAPSHOT_FILE}") and "lock" not in name]


@pytest.mark.parametrize("place", [0, 20, 40, 60, -1])
async def test_a_file_that_was_changed_is_ignored_with_a_log_event(tmp_path: Path, place: int) -> None:
    source = FakeSource()
    await written(tmp_path, source, source.add().text)
    path = tmp_path / SNAPSHOT_FILE
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with capture_logs() as logs:
        assert await snapshot_of(Desk(source), tmp_path).load() == 0
    assert [event["event"] for event in logs] == ["key_snapshot_ignored"]


async def test_a_file_signed_with_another_pepper_is_ignored(tmp_path: Path) -> None:
    source = FakeSource()
    await written(tmp_path, source, source.add().text)
    for foreign in (Peppers({"pp-1": os.urandom(32)}, "pp-1"), Peppers({"pp-9": os.urandom(32)}, "pp-9")):
        assert await snapshot_of(Desk(source), tmp_path, foreign).load() == 0


async def test_a_file_signed_with_an_older_pepper_of_ours_is_read(tmp_path: Path) -> None:
    source = FakeSource()
    await written(tmp_path, source, source.add().text)
    newer = Peppers({"pp-1": PEPPERS._peppers["pp-1"], "pp-2": os.urandom(32)}, "pp-2")
    assert await snapshot_of(Desk(source), tmp_path, newer).load() == 1


@pytest.mark.parametrize("hours", [24.01, -1.0])
async def test_a_file_that_is_too_old_or_from_the_future_is_ignored(tmp_path: Path, hours: float) -> None:
    source = FakeSource()
    await written(tmp_path, source, source.add().text)
    desk = Desk(source)
    desk.clock.seconds += hours * 3600
    with capture_logs() as logs:
        assert await snapshot_of(desk, tmp_path).load() == 0
    assert logs[0]["reason"] == "too old"


async def test_a_key_is_not_made_younger_by_being_written_again(tmp_path: Path) -> None:
    source = FakeSource()
    key = source.add()
    await written(tmp_path, source, key.text)
    source.failure = AWAY
    desk = Desk(source)
    desk.clock.seconds += 20 * 3600
    snapshot = snapshot_of(desk, tmp_path)
    await snapshot.load()
    assert await desk.lets_in(key.text) == key.id
    await snapshot.write()
    later = Desk(source)
    later.clock.seconds += 25 * 3600
    assert await snapshot_of(later, tmp_path).load() == 0


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    source = FakeSource()
    desk = await written(tmp_path, source, source.add().text)
    path, target = tmp_path / SNAPSHOT_FILE, tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    before = target.read_bytes()
    with capture_logs() as logs:
        assert await snapshot_of(Desk(source), tmp_path).load() == 0
    assert logs[0]["event"] == "key_snapshot_ignored"
    await snapshot_of(desk, tmp_path).write()
    assert target.read_bytes() == before
    assert not path.is_symlink()


async def test_a_key_that_changed_leaves_the_file_though_another_process_wrote_it(tmp_path: Path) -> None:
    source = FakeSource()
    revoked, other = source.add(), source.add()
    await written(tmp_path, source, revoked.text, other.text)
    second = Desk(source)
    second.clock.seconds += 5
    second.cache.drop("key", revoked.id)
    await snapshot_of(second, tmp_path).write()
    third = Desk(source)
    third.clock.seconds += 6
    await snapshot_of(third, tmp_path).load()
    assert third.cache.get(revoked.id) is None
    assert third.cache.get(other.id) is not None


async def test_processes_keep_each_others_keys(tmp_path: Path) -> None:
    source = FakeSource()
    first, second = source.add(), source.add()
    await written(tmp_path, source, first.text)
    await written(tmp_path, source, second.text)
    assert await snapshot_of(Desk(source), tmp_path).load() == 2


async def test_the_file_holds_the_newest_keys_up_to_its_bound(tmp_path: Path) -> None:
    source = FakeSource()
    desk = Desk(source)
    keys = []
    for _ in range(5):
        keys.append(source.add())
        await desk.lets_in(keys[-1].text)
        desk.clock.seconds += 1
    await KeySnapshot(tmp_path / SNAPSHOT_FILE, PEPPERS, desk.cache, max_keys=2, clock=desk.clock).write()
    later = Desk(source)
    later.clock.seconds += 10
    assert await snapshot_of(later, tmp_path).load() == 2
    assert later.cache.get(keys[-1].id) is not None


async def test_a_disk_that_refuses_is_logged_and_nothing_else(tmp_path: Path) -> None:
    desk = Desk(FakeSource())
    with capture_logs() as logs:
        await KeySnapshot(tmp_path / "nowhere" / SNAPSHOT_FILE, PEPPERS, desk.cache, clock=desk.clock).write()
    assert [event["event"] for event in logs] == ["key_snapshot_not_written"]


class Ticks(FakeClock):
    """Lets a second pass for each sleep, and says how often."""

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0.001)


async def test_it_is_written_each_minute_when_keys_are_new_and_at_once_when_one_changed(tmp_path: Path) -> None:
    clock = Ticks()
    cache = KeyCache(monotonic=clock.monotonic)
    source = FakeSource()
    key = source.add()
    snapshot = KeySnapshot(tmp_path / SNAPSHOT_FILE, PEPPERS, cache, clock=clock)
    await snapshot.start()
    cache.put(key.id, source.keys[key.id], cache.begin())
    began = clock.seconds
    while not (tmp_path / SNAPSHOT_FILE).exists():
        await asyncio.sleep(0.001)
    assert clock.seconds - began >= 59
    before = (tmp_path / SNAPSHOT_FILE).stat().st_ino
    began = clock.seconds
    cache.drop("key", key.id)
    while (tmp_path / SNAPSHOT_FILE).stat().st_ino == before:
        await asyncio.sleep(0.001)
    assert clock.seconds - began < 30
    await snapshot.aclose()


async def test_a_key_that_does_not_hold_is_refused_from_the_snapshot_too(tmp_path: Path) -> None:
    source = FakeSource()
    clock = FakeClock()
    key = source.add(expires_at=clock.now() + timedelta(seconds=60))
    await written(tmp_path, source, key.text)
    source.failure = AWAY
    desk = Desk(source)
    desk.clock.seconds += 60
    await snapshot_of(desk, tmp_path).load()
    with pytest.raises(InvalidApiKey) as caught:
        await desk.lets_in(key.text)
    assert caught.value.code == "key_expired"
