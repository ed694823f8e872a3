"""Who is let in, what is asked for it, and what happens while nobody can be asked."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from hx_gateway.access.key_format import ALPHABET, mint_key
from hx_gateway.access.known_key import Standing
from hx_gateway.access.peppers import Peppers
from hx_gateway.errors import InvalidApiKey, NotFound, Unavailable
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.access.keys import ADMIN_KEY, NOON, PEPPERS, Desk, FakeSource

AWAY = DependencyError("PostgreSQL", FailureKind.REFUSED)
IMPORTED = "sk-from-another-gateway-123"


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_key_is_let_in_and_asked_for_once() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    assert [await desk.lets_in(key.text) for _ in range(3)] == [key.id] * 3
    assert source.asked == 1


async def test_the_admin_key_asks_nobody() -> None:
    source = FakeSource(failure=AWAY)
    assert await Desk(source).lets_in(ADMIN_KEY) == "admin"
    assert source.asked == source.asked_for_imported == 0


async def test_ten_thousand_mistyped_keys_cost_no_look_up() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    for number in range(10_000):
        position = number % len(key.text)
        other = ALPHABET[(ALPHABET.find(key.text[position]) + 1 + number // len(key.text) % 60) % len(ALPHABET)]
        assert await desk.lets_in(key.text[:position] + other + key.text[position + 1 :]) is None
    assert source.asked == 0
    assert source.asked_for_imported == 1


@pytest.mark.parametrize("text", ["", "' OR 1=1--", "sk-\0", "🔑" * 100, "x" * 8192, "%00", "\udcff", "sk-hx-"])
async def test_any_other_text_is_no_key_and_costs_no_look_up(text: str) -> None:
    source = FakeSource()
    assert await Desk(source).lets_in(text) is None
    assert source.asked == 0


async def test_the_right_id_with_another_secret_is_no_key() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    assert await desk.lets_in(mint_key(key.id).text) is None
    assert await desk.lets_in(key.text) == key.id
    assert await desk.lets_in(mint_key(key.id).text) is None
    assert source.asked == 1


async def test_a_stored_digest_is_not_a_credential() -> None:
    source = FakeSource()
    known = source.keys[source.add().id]
    imported = source.keys[source.add_imported(IMPORTED).id]
    desk = Desk(source)
    assert known.digest is not None
    assert imported.imported_sha256 is not None
    for stored in (known.digest, imported.imported_sha256):
        for shown in (stored.hex(), stored.decode("latin-1"), f"sk-hx-{known.id}-{stored.hex()}"):
            assert await desk.lets_in(shown) is None


async def test_keys_that_begin_alike_are_different_keys() -> None:
    source = FakeSource()
    long = "sk-" + "a" * 80
    first, second = source.add_imported(long + "1"), source.add_imported(long + "2")
    desk = Desk(source)
    assert await desk.lets_in(long + "1") == first.id
    assert await desk.lets_in(long + "2") == second.id
    assert await desk.lets_in(long + "3") is None


async def test_a_storm_makes_one_look_up() -> None:
    source = FakeSource(gate=asyncio.Event())
    key = source.add()
    desk = Desk(source)
    storm = [asyncio.create_task(desk.lets_in(key.text)) for _ in range(200)]
    await settled()
    assert source.gate is not None
    source.gate.set()
    assert await asyncio.gather(*storm) == [key.id] * 200
    assert source.asked == 1


async def test_one_of_a_storm_who_gives_up_spoils_nothing_for_the_others() -> None:
    source = FakeSource(gate=asyncio.Event())
    key = source.add()
    desk = Desk(source)
    first, second = (asyncio.create_task(desk.lets_in(key.text)) for _ in range(2))
    await settled()
    first.cancel()
    assert source.gate is not None
    source.gate.set()
    assert await second == key.id
    assert source.asked == 1


async def test_an_unknown_key_is_asked_for_once_in_five_seconds() -> None:
    source = FakeSource()
    desk = Desk(source)
    stranger = mint_key()
    for _ in range(10):
        assert await desk.lets_in(stranger.text) is None
    assert source.asked == 1
    desk.clock.seconds += 5
    await desk.lets_in(stranger.text)
    assert source.asked == 2


async def test_a_key_is_refreshed_in_the_background_before_it_is_old() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    desk.clock.seconds += 50
    assert await desk.lets_in(key.text) == key.id
    await settled()
    assert source.asked == 2
    desk.clock.seconds += 40
    await desk.lets_in(key.text)
    assert source.asked == 2


@pytest.mark.parametrize(
    "failure",
    [
        *(DependencyError("PostgreSQL", kind) for kind in FailureKind),
        asyncpg.UndefinedTableError("relation does not exist"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.CannotConnectNowError("starting up"),
        RedisConnectionError("gone"),
        ConnectionResetError(),
        OSError(24, "Too many open files"),
        TimeoutError(),
        EOFError(),
        NotFound("no such thing"),
        KeyError("digest"),
        ValueError("wrong"),
    ],
    ids=repr,
)
async def test_whatever_a_look_up_raises_is_503_and_never_no_such_key(failure: Exception) -> None:
    source = FakeSource(failure=failure)
    desk = Desk(source)
    for text in (mint_key().text, "sk-somebody-elses"):
        with pytest.raises(Unavailable):
            await desk.lets_in(text)


@given(kinds=st.lists(st.sampled_from([*FailureKind, None]), max_size=20))
async def test_an_unknown_key_is_a_401_only_when_the_database_said_so(kinds: list[FailureKind | None]) -> None:
    source = FakeSource()
    desk = Desk(source)
    for kind in kinds:
        source.failure = None if kind is None else DependencyError("PostgreSQL", kind)
        text = mint_key().text
        if kind is None:
            assert await desk.lets_in(text) is None
        else:
            with pytest.raises(Unavailable):
                await desk.lets_in(text)


async def test_a_database_that_hangs_is_503_in_time() -> None:
    desk = Desk(FakeSource(gate=asyncio.Event()))
    with pytest.raises(Unavailable):
        await desk.lets_in(mint_key().text)


async def test_a_failure_is_not_remembered_as_absence() -> None:
    source = FakeSource(failure=AWAY)
    key = source.add()
    desk = Desk(source)
    with pytest.raises(Unavailable):
        await desk.lets_in(key.text)
    source.failure = None
    assert await desk.lets_in(key.text) == key.id


async def test_a_known_key_goes_on_for_a_day_without_the_database() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    source.failure = AWAY
    desk.clock.seconds += 24 * 3600 - 1
    assert await desk.lets_in(key.text) == key.id
    assert await desk.lets_in(mint_key(key.id).text) is None
    desk.clock.seconds += 2
    with pytest.raises(Unavailable):
        await desk.lets_in(key.text)
    assert desk.counts["stale"] > 0


async def test_while_the_database_is_away_a_known_key_does_not_ask_for_each_request() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    source.failure = AWAY
    desk.clock.seconds += 100
    for _ in range(50):
        assert await desk.lets_in(key.text) == key.id
    assert source.asked == 2


async def test_an_old_key_is_asked_for_as_soon_as_the_database_is_back() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    source.failure = AWAY
    desk.clock.seconds += 3600
    await desk.lets_in(key.text)
    source.failure = None
    source.keys[key.id] = replace(source.keys[key.id], standing=Standing.BLOCKED)
    desk.clock.seconds += 1
    with pytest.raises(InvalidApiKey):
        await desk.lets_in(key.text)


async def test_a_key_that_was_changed_is_not_served_as_it_was_while_the_database_is_away() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    source.failure = AWAY
    desk.cache.drop("key", key.id)
    with pytest.raises(Unavailable):
        await desk.lets_in(key.text)


async def test_a_key_that_changed_during_a_look_up_that_failed_is_not_served_as_it_was() -> None:
    source = FakeSource()
    key = source.add()
    desk = Desk(source)
    await desk.lets_in(key.text)
    desk.clock.seconds += 100
    source.gate, source.failure = asyncio.Event(), AWAY
    asking = asyncio.create_task(desk.lets_in(key.text))
    await settled()
    desk.cache.drop("key", key.id)
    source.gate.set()
    with pytest.raises(Unavailable):
        await asking


async def test_an_unknown_id_takes_as_many_macs_as_a_wrong_secret() -> None:
    class Counting(Peppers):
        macs = 0

        def matches(self, text: str, pepper_id: str, digest: bytes) -> bool:
            self.macs += 1
            return super().matches(text, pepper_id, digest)

    source = FakeSource()
    key = source.add()
    counting = Counting(PEPPERS._peppers, "pp-1")
    desk = Desk(source, peppers=counting)
    taken = []
    for text in (mint_key(key.id).text, mint_key().text):
        before = counting.macs
        await desk.lets_in(text)
        taken.append(counting.macs - before)
    assert taken == [1, 1]


async def test_a_change_during_a_look_up_is_seen_by_it() -> None:
    source = FakeSource(gate=asyncio.Event())
    key = source.add()
    desk = Desk(source)
    asking = asyncio.create_task(desk.lets_in(key.text))
    await settled()
    source.keys[key.id] = replace(source.keys[key.id], standing=Standing.DELETED, version=2)
    desk.cache.drop("key", key.id)
    assert source.gate is not None
    source.gate.set()
    with pytest.raises(InvalidApiKey) as caught:
        await asking
    assert caught.value.code == "key_revoked"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"standing": Standing.DELETED}, "key_revoked"),
        ({"standing": Standing.BLOCKED}, "key_blocked"),
        ({"expires_at": NOON}, "key_expired"),
        ({"standing": Standing.DELETED, "expires_at": NOON}, "key_revoked"),
    ],
)
async def test_why_a_key_does_not_hold_is_told_only_to_who_has_its_secret(
    changes: dict[str, object], code: str
) -> None:
    source = FakeSource()
    key = source.add(**changes)
    desk = Desk(source)
    with pytest.raises(InvalidApiKey) as caught:
        await desk.lets_in(key.text)
    assert (caught.value.status, caught.value.code) == (401, code)
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    assert await desk.lets_in(mint_key(key.id).text) is None


async def test_a_key_expires_to_the_second_though_it_is_cached_and_the_database_is_away() -> None:
    source = FakeSource()
    desk = Desk(source)
    key = source.add(expires_at=desk.clock.now() + timedelta(seconds=30))
    desk.clock.seconds += 29.9
    assert await desk.lets_in(key.text) == key.id
    source.failure = AWAY
    desk.clock.seconds += 0.1
    with pytest.raises(InvalidApiKey) as caught:
        await desk.lets_in(key.text)
    assert caught.value.code == "key_expired"


async def test_the_secret_before_a_rotation_holds_until_its_grace_is_over() -> None:
    source = FakeSource()
    desk = Desk(source)
    old = source.add()
    new = mint_key(old.id)
    pepper_id, digest = PEPPERS.digest(new.text)
    before = source.keys[old.id]
    source.keys[old.id] = replace(
        before,
        digest=digest,
        pepper_id=pepper_id,
        previous_digest=before.digest,
        previous_pepper_id=before.pepper_id,
        previous_expires_at=desk.clock.now() + timedelta(seconds=20),
    )
    assert await desk.lets_in(new.text) == old.id
    assert await desk.lets_in(old.text) == old.id
    desk.clock.seconds += 20
    assert await desk.lets_in(new.text) == old.id
    assert await desk.lets_in(old.text) is None


async def test_a_digest_of_an_older_pepper_is_made_anew_and_no_request_fails() -> None:
    source = FakeSource()
    key = source.add()
    newer = Peppers({"pp-1": PEPPERS._peppers["pp-1"], "pp-2": os.urandom(32)}, "pp-2")
    desk = Desk(source, peppers=newer)
    for _ in range(5):
        assert await desk.lets_in(key.text) == key.id
        await settled()
    assert source.kept == [(key.id, "pp-2")]
    assert source.keys[key.id].pepper_id == "pp-2"
    assert desk.counts["renewed"] == 1


async def test_a_digest_that_cannot_be_kept_hinders_nobody() -> None:
    class ReadOnly(FakeSource):
        async def keep_digest(self, *_what: object) -> None:
            raise asyncpg.ReadOnlySQLTransactionError("read only")

    source = ReadOnly()
    key = source.add()
    desk = Desk(source, peppers=Peppers({"pp-1": PEPPERS._peppers["pp-1"], "pp-2": os.urandom(32)}, "pp-2"))
    for _ in range(3):
        assert await desk.lets_in(key.text) == key.id
        await settled()
    assert desk.counts["renewal_failed"] == 1


async def test_a_pepper_that_was_added_meanwhile_is_read_from_the_file() -> None:
    source = FakeSource()
    newer = Peppers({"pp-1": PEPPERS._peppers["pp-1"], "pp-2": os.urandom(32)}, "pp-2")
    key = source.add()
    pepper_id, digest = newer.digest(key.text)
    source.keys[key.id] = replace(source.keys[key.id], pepper_id=pepper_id, digest=digest)
    with pytest.raises(Unavailable) as caught:
        await Desk(source).lets_in(key.text)
    assert caught.value.code == "pepper_unknown"
    assert await Desk(source, reread=lambda: newer).lets_in(key.text) == key.id


async def test_an_imported_key_is_let_in_by_its_text_and_gets_a_digest() -> None:
    source = FakeSource()
    key = source.add_imported(IMPORTED)
    desk = Desk(source)
    for _ in range(4):
        assert await desk.lets_in(IMPORTED) == key.id
        await settled()
    assert source.kept == [(key.id, "pp-1")]
    known = source.keys[key.id]
    assert known.digest is not None
    assert PEPPERS.matches(IMPORTED, known.pepper_id, known.digest)
    assert await desk.lets_in(hashlib.sha256(IMPORTED.encode()).hexdigest()) is None


async def test_the_first_imported_key_is_noticed_when_its_change_is_told() -> None:
    source = FakeSource()
    desk = Desk(source)
    assert await desk.lets_in(IMPORTED) is None
    key = source.add_imported(IMPORTED)
    assert await desk.lets_in(IMPORTED) is None
    desk.authenticator.forget_imported()
    assert await desk.lets_in(IMPORTED) == key.id


async def test_where_there_was_no_imported_key_a_foreign_text_stays_a_401_without_the_database() -> None:
    source = FakeSource()
    desk = Desk(source)
    await desk.lets_in(IMPORTED)
    source.failure = AWAY
    desk.clock.seconds += 3600
    assert await desk.lets_in(IMPORTED) is None


async def test_closing_ends_what_still_runs() -> None:
    source = FakeSource(gate=asyncio.Event())
    desk = Desk(source)
    asking = asyncio.create_task(desk.lets_in(source.add().text))
    await settled()
    await desk.authenticator.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_keys_that_were_looked_up_at_the_start_need_no_database() -> None:
    source = FakeSource()
    key, _imported = source.add(), source.add_imported(IMPORTED)
    desk = Desk(source)
    assert await desk.authenticator.warm() == 2
    source.failure = AWAY
    assert await desk.lets_in(key.text) == key.id
    assert source.asked == 0


async def test_a_start_without_the_database_looks_up_nothing() -> None:
    assert await Desk(FakeSource(failure=AWAY)).authenticator.warm() == 0
