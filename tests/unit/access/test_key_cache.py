"""The cache of keys: bounded, and never the one who brings back what was changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hx_gateway.access.key_cache import UNPUSHED_FRESH_SECONDS, KeyCache
from hx_gateway.access.key_format import mint_key
from hx_gateway.access.known_key import KnownKey
from hx_gateway.access.principal import TenantId
from tests.unit.access.keys import FakeClock, known_key


def cache_of(clock: FakeClock, **more: int) -> KeyCache:
    cache = KeyCache(monotonic=clock.monotonic, **more)
    cache.pushed = True
    return cache


def owned() -> KnownKey:
    known = known_key(mint_key())
    principal = replace(known.principal, team_id="tm-1", user_id="us-1", member_teams=frozenset({"tm-1", "tm-2"}))
    return replace(known, principal=principal, above=(("key", "above"),))


def is_fresh(cache: KeyCache, lookup: str) -> bool:
    entry = cache.get(lookup)
    return entry is not None and cache.is_fresh(entry)


def test_a_key_is_fresh_for_a_minute_and_known_for_longer() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    known = owned()
    cache.put(known.id, known, cache.begin())
    clock.seconds += 59
    assert is_fresh(cache, known.id)
    clock.seconds += 1
    assert not is_fresh(cache, known.id)
    assert cache.get(known.id) is not None


def test_a_look_up_that_takes_long_makes_nothing_fresher() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    known = owned()
    began = cache.begin()
    clock.seconds += 50
    cache.put(known.id, known, began)
    clock.seconds += 10
    assert not is_fresh(cache, known.id)


def test_without_push_a_key_is_fresh_for_ten_seconds() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    known = owned()
    cache.put(known.id, known, cache.begin())
    cache.pushed = False
    clock.seconds += UNPUSHED_FRESH_SECONDS
    assert not is_fresh(cache, known.id)


@pytest.mark.parametrize(
    ("kind", "owner"),
    [("user", "us-1"), ("team", "tm-1"), ("team", "tm-2"), ("tenant", "default"), ("key", "above")],
)
def test_a_change_of_an_owner_makes_its_keys_forgotten_and_no_others(kind: str, owner: str) -> None:
    cache = cache_of(FakeClock())
    mine, other = owned(), known_key(mint_key())
    other = replace(other, principal=replace(other.principal, tenant_id=TenantId("tn-other")))
    for known in (mine, other):
        cache.put(known.id, known, cache.begin())
    cache.drop(kind, owner)
    assert cache.get(mine.id) is None
    assert cache.get(other.id) is not None


@pytest.mark.parametrize("kind", ["key", "user", "team", "tenant"])
def test_a_look_up_that_began_before_a_change_does_not_bring_back_what_was(kind: str) -> None:
    cache = cache_of(FakeClock())
    known = owned()
    began = cache.begin()
    cache.drop(kind, dict(known.owners)[kind])
    assert not cache.put(known.id, known, began)
    assert cache.get(known.id) is None
    assert cache.put(known.id, known, cache.begin())


def test_a_look_up_is_refused_when_the_change_is_too_long_ago_to_be_remembered() -> None:
    cache = cache_of(FakeClock(), max_changes=2)
    known = owned()
    began = cache.begin()
    cache.drop("key", known.id)
    cache.drop("key", "a")
    cache.drop("key", "b")
    assert not cache.put(known.id, known, began)


def test_a_change_of_another_key_does_not_hinder_a_look_up() -> None:
    cache = cache_of(FakeClock())
    known = owned()
    began = cache.begin()
    cache.drop("key", "another")
    assert cache.put(known.id, known, began)


def test_an_absent_key_is_not_made_absent_by_a_look_up_from_before_it_was_made() -> None:
    cache = cache_of(FakeClock())
    began = cache.begin()
    cache.drop("key", "new")
    assert not cache.put("new", None, began)
    assert not cache.is_absent("new")


def test_that_there_is_no_such_key_holds_for_five_seconds() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    cache.put("nobody", None, cache.begin())
    clock.seconds += 4.9
    assert cache.is_absent("nobody")
    clock.seconds += 0.2
    assert not cache.is_absent("nobody")


def test_a_key_that_was_made_is_not_absent_any_more() -> None:
    cache = cache_of(FakeClock())
    cache.put("new", None, cache.begin())
    cache.drop("key", "new")
    assert not cache.is_absent("new")


def test_an_older_version_does_not_replace_a_newer_one_that_was_asked_for_later() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    old = owned()
    began = cache.begin()
    clock.seconds += 1
    cache.put(old.id, replace(old, version=2), cache.begin())
    cache.put(old.id, old, began)
    entry = cache.get(old.id)
    assert entry is not None
    assert entry.known.version == 2


def test_an_older_version_that_was_asked_for_later_is_what_there_is() -> None:
    clock = FakeClock()
    cache = cache_of(clock)
    known = owned()
    cache.put(known.id, replace(known, version=2), cache.begin())
    clock.seconds += 1
    cache.put(known.id, known, cache.begin())
    entry = cache.get(known.id)
    assert entry is not None
    assert entry.known.version == 1


def test_after_a_doubt_everything_is_known_and_nothing_is_fresh() -> None:
    cache = cache_of(FakeClock())
    known = owned()
    cache.put(known.id, known, cache.begin())
    cache.doubt_all()
    assert not is_fresh(cache, known.id)
    cache.put(known.id, known, cache.begin())
    assert is_fresh(cache, known.id)


def test_the_least_used_key_goes_when_the_cache_is_full() -> None:
    cache = cache_of(FakeClock(), max_keys=2)
    keys = [owned() for _ in range(3)]
    for known in keys[:2]:
        cache.put(known.id, known, cache.begin())
    cache.get(keys[0].id)
    cache.put(keys[2].id, keys[2], cache.begin())
    assert [known.id for known in keys if cache.get(known.id)] == [keys[0].id, keys[2].id]


def test_nothing_in_the_cache_grows_without_bound() -> None:
    cache = cache_of(FakeClock(), max_keys=10, max_absent=10, max_changes=10)
    for number in range(1000):
        known = owned()
        cache.put(known.id, known, cache.begin())
        cache.put(f"absent-{number}", None, cache.begin())
        cache.drop("key", f"changed-{number}")
    assert len(cache) == 10
    assert len(cache._absent) == 10
    assert len(cache._changed) == 10
    assert len(cache._owned) <= 10 + 5


def test_what_another_process_knew_is_never_fresh_and_replaces_nothing() -> None:
    cache = cache_of(FakeClock())
    known = owned()
    cache.restore(known.id, known, 5.0)
    assert not is_fresh(cache, known.id)
    cache.put(known.id, known, cache.begin())
    cache.restore(known.id, replace(known, version=9), 5.0)
    assert is_fresh(cache, known.id)
