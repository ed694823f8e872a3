"""Calls' records in PostgreSQL: netted, once each, corrected, and never in each other's way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from hx_gateway.journal.apply import Batches, Place
from hx_gateway.journal.drain import Drain, DrainOptions
from hx_gateway.journal.log import Journal
from hx_gateway.journal.placement import Placement
from hx_gateway.kit.breaker import CircuitBreaker
from hx_gateway.kit.clock import SystemClock
from hx_gateway.limits.applier import CALLS, LogOptions, calls_kind
from hx_gateway.limits.records import CallRecord, Sent, encode
from tests.integration.db.databases import migrated_database
from tests.integration.limits.ledger_samples import (
    WINDOW,
    apply,
    as_records,
    assert_sums_agree,
    done,
    new_call,
    refused,
    rows,
    whole_call,
    windows,
)

SPENT = "SELECT cost_nano, settled_by, status FROM hx_gateway.spend_logs"
HELD = "SELECT state, amount_nano FROM hx_gateway.ledger_reservations"
DAYS = "SELECT requests, errors, prompt_tokens, completion_tokens, cost_nano FROM hx_gateway.spend_daily"
ERRORS = "SELECT status, code, ending FROM hx_gateway.error_logs"


@pytest.fixture(params=["postgres18", "postgres15"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a database of the newest and of the oldest server."""
    with migrated_database(request.getfixturevalue(request.param)) as url:
        yield url


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a second connection."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_a_call_that_began_and_ended_in_one_batch_leaves_its_spend_alone(
    connection: asyncpg.Connection[Any],
) -> None:
    await apply(connection, whole_call(new_call()))

    assert await rows(connection, SPENT) == [(40, "done", 200)]
    assert await rows(connection, HELD) == []
    assert await rows(connection, DAYS) == [(1, 0, 3, 5, 40)]
    assert await windows(connection) == {WINDOW: (40, 0)}


async def test_a_call_is_reserved_until_its_end(connection: asyncpg.Connection[Any]) -> None:
    sent, last = whole_call(new_call())
    await apply(connection, [sent])
    assert await rows(connection, HELD) == [("sent", 100)]
    assert await windows(connection) == {WINDOW: (0, 100)}
    await apply(connection, [last])
    assert await rows(connection, HELD) == []
    assert await windows(connection) == {WINDOW: (40, 0)}


async def test_the_largest_reservation_of_a_call_counts(connection: asyncpg.Connection[Any]) -> None:
    facts = new_call()
    for amount in (100, 300, 200):
        await apply(connection, [Sent(new_call(call_id=facts.call_id, reserved_nano=amount))])
    assert await rows(connection, HELD) == [("sent", 300)]
    assert await windows(connection) == {WINDOW: (0, 300)}


async def test_a_refusal_frees_what_may_be_reserved_and_is_an_error(connection: asyncpg.Connection[Any]) -> None:
    facts = new_call()
    await apply(connection, [Sent(facts)])
    await apply(connection, [refused(facts)])
    assert await windows(connection) == {WINDOW: (0, 0)}
    assert await rows(connection, HELD) == await rows(connection, SPENT) == []
    assert await rows(connection, ERRORS) == [(429, "insufficient_quota", "refused")]


async def test_a_batch_that_is_applied_again_changes_nothing(connection: asyncpg.Connection[Any]) -> None:
    facts = new_call()
    failed = done(new_call(), 0, status=502, ending="error", error_code="upstream_error", settled_by="void")
    batch: list[CallRecord] = [*whole_call(facts), failed, refused(new_call())]
    await apply(connection, batch)
    before = [await rows(connection, query) for query in (SPENT, HELD, DAYS, ERRORS)]
    await apply(connection, batch)
    assert [await rows(connection, query) for query in (SPENT, HELD, DAYS, ERRORS)] == before
    assert await windows(connection) == {WINDOW: (40, 0)}
    await assert_sums_agree(connection)


async def test_an_end_corrects_an_estimate_in_the_row_its_day_its_window_and_its_error(
    connection: asyncpg.Connection[Any],
) -> None:
    facts = new_call()
    await apply(connection, [done(facts, 100, settled_by="unknown", status=0, ending="error", prompt_tokens=0)])
    assert len(await rows(connection, ERRORS)) == 1
    await apply(connection, [done(facts, 40, model="other")])

    assert await rows(connection, SPENT) == [(40, "done", 200)]
    assert await windows(connection) == {WINDOW: (40, 0)}
    assert sorted(await rows(connection, DAYS)) == [(0, 0, 0, 0, 0), (1, 0, 3, 5, 40)]
    assert await rows(connection, ERRORS) == []


async def test_an_estimate_changes_no_end_that_is_known_and_no_other_estimate(
    connection: asyncpg.Connection[Any],
) -> None:
    known, guessed = new_call(), new_call()
    await apply(connection, [done(known, 40), done(guessed, 70, settled_by="lapsed")])
    await apply(connection, [done(known, 100, settled_by="lapsed"), done(guessed, 90, settled_by="unknown")])
    assert sorted(await rows(connection, SPENT)) == [(40, "done", 200), (70, "lapsed", 200)]
    await assert_sums_agree(connection)


async def test_a_later_record_does_not_open_again_what_was_voided(connection: asyncpg.Connection[Any]) -> None:
    facts = new_call()
    await apply(connection, [Sent(facts)])
    await connection.execute("UPDATE hx_gateway.ledger_reservations SET state = 'void', amount_nano = 0")
    await connection.execute("UPDATE hx_gateway.budget_windows SET reserved_nano = 0")
    await apply(connection, [Sent(facts)])
    assert await rows(connection, HELD) == [("void", 0)]
    assert await windows(connection) == {WINDOW: (0, 0)}


async def test_without_logs_there_are_rows_of_charged_calls_only_and_no_errors(
    connection: asyncpg.Connection[Any],
) -> None:
    options = LogOptions(spend_logs=False, error_logs=False)
    failed = done(new_call(charges=()), 0, status=502, ending="error")
    await apply(connection, [*whole_call(new_call()), failed, refused(new_call())], options)
    assert await rows(connection, SPENT) == [(40, "done", 200)]
    assert await rows(connection, ERRORS) == []
    assert await rows(connection, DAYS) == [(1, 0, 3, 5, 40)]


async def test_what_no_text_or_number_of_the_database_holds_keeps_no_cost_out(
    connection: asyncpg.Connection[Any],
) -> None:
    facts = new_call(requested_model="a\0b", model="m\0", tags=("t\0",))
    twin = new_call(model="m\ufffd")
    awkward = done(
        facts, 40, prompt_tokens=2**62, completion_tokens=-5, duration_ms=float("nan"), decision=b'{"a": "\\u0000"}'
    )
    await apply(connection, [awkward, done(twin, 2, duration_ms=float("inf"))])
    assert await rows(connection, "SELECT model, cost_nano FROM hx_gateway.spend_daily") == [("m\ufffd", 42)]
    await assert_sums_agree(connection)


async def test_a_record_that_cannot_be_read_becomes_a_dead_letter_and_the_others_count(
    connection: asyncpg.Connection[Any],
) -> None:
    records = as_records(whole_call(new_call()) + whole_call(new_call()))
    records[2] = type(records[2])(3, CALLS, 0, 1, 0, 0, b"\xc1 no record")
    batches = Batches(connection, {CALLS: calls_kind()}, lambda *_: None)
    with pytest.raises(ValueError, match=r".+"):
        await batches.apply(Place(UUID(int=1), 1, 0), records, 4, careful=False)
    tally = await batches.apply(Place(UUID(int=1), 1, 0), records, 4, careful=True)
    assert (tally.committed, tally.dead) == ({"calls": 3}, {("calls", "client"): 1})
    assert await windows(connection) == {WINDOW: (80, 0)}


async def test_journals_that_are_drained_at_once_come_to_the_same_sums(
    database: str, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    journals = [Journal(tmp_path / str(number), "ledger", [calls_kind()]) for number in range(2)]
    spent = 0
    for journal in journals:
        journal.open()
        for number in range(300):
            keys = (f"bg-{number % 3}:total", f"bg-{number % 5}:2026-11")
            facts = new_call(charges=tuple(sorted(set(keys))), stream_id=str(journal.stream), model=f"m{number % 4}")
            spent += number
            for record in whole_call(facts, number):
                journal.append(CALLS, encode(record), 1)
        journal.append(CALLS, encode(Sent(new_call(stream_id=str(journal.stream)))), 1)
    options = DrainOptions(flush_seconds=0.01, batch_rows=70, ordered=True)
    drains = [
        Drain(journal, partial(asyncpg.connect, database), CircuitBreaker(), Placement({}, SystemClock()), options)
        for journal in journals
    ]
    for drain in drains:
        drain.start()
    assert await asyncio.gather(*(drain.flush(20) for drain in drains)) == [True, True]
    for drain, journal in zip(drains, journals, strict=True):
        await drain.stop(5)
        journal.close()

    assert await connection.fetchval("SELECT sum(cost_nano)::bigint FROM hx_gateway.spend_logs") == spent
    assert await rows(connection, HELD) == [("sent", 100)] * 2
    await assert_sums_agree(connection)


async def test_windows_are_locked_in_order_whatever_order_a_call_names_them_in(
    connection: asyncpg.Connection[Any], other: asyncpg.Connection[Any], database: str
) -> None:
    keys = tuple(f"bg-{number}:total" for number in (3, 2, 1, 0))
    for key in keys:
        await apply(connection, whole_call(new_call(charges=(key,))))
    holding = other.transaction()
    await holding.start()
    await other.execute("SELECT 1 FROM hx_gateway.budget_windows WHERE budget_id = 'bg-1' FOR UPDATE")
    applying = asyncio.create_task(apply(connection, whole_call(new_call(charges=keys))))
    looking = await asyncpg.connect(database)
    try:
        free = "SELECT budget_id FROM hx_gateway.budget_windows ORDER BY 1 FOR UPDATE SKIP LOCKED"
        async with asyncio.timeout(10):
            while len(found := await rows(looking, free)) > 2:
                await asyncio.sleep(0.01)
        assert found == [("bg-2",), ("bg-3",)]
    finally:
        await holding.rollback()
        await applying
        await looking.close()


async def test_two_drains_that_touch_the_same_rows_at_once_do_not_stop_each_other(
    connection: asyncpg.Connection[Any], other: asyncpg.Connection[Any]
) -> None:
    await connection.execute("SET deadlock_timeout = '10ms'")
    await other.execute("SET deadlock_timeout = '10ms'")
    keys = [f"bg-{number}:total" for number in range(12)]
    calls = [str(uuid4()) for _ in range(40)]
    chosen = random.Random(1)

    def some_calls() -> list[CallRecord]:
        batch: list[CallRecord] = []
        for call_id in chosen.sample(calls, 30):
            # Of one call all agree what it is charged to, in whatever order they name it.
            own = random.Random(call_id).sample(keys, 4)
            facts = new_call(call_id=call_id, charges=tuple(chosen.sample(own, 4)), model=f"m{hash(call_id) % 5}")
            estimate = {"settled_by": "unknown"} if chosen.random() < 0.5 else {}
            options: list[CallRecord] = [Sent(facts), done(facts, chosen.randrange(90), **estimate)]
            batch.append(chosen.choice(options))
        return batch

    async def drain(one: asyncpg.Connection[Any]) -> None:
        for _ in range(15):
            await apply(one, some_calls())

    async with asyncio.timeout(30):
        await asyncio.gather(drain(connection), drain(other))
    await assert_sums_agree(connection)
