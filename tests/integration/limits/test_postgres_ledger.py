"""PostgreSQL's word on money: exactly what there is, whoever asks, and told again from what is written down."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from hx_gateway.limits.durable import Authority
from hx_gateway.limits.model import Outcome
from hx_gateway.limits.records import Sent
from hx_gateway.limits.repository import PostgresLedger
from hx_gateway.services.base import DependencyError
from tests.integration.limits.conftest import MakeLedger
from tests.integration.limits.ledger_samples import (
    STREAM,
    WINDOW,
    apply,
    ask_for,
    assert_sums_agree,
    done,
    new_call,
    rows,
    whole_call,
    windows,
)

HELD = "SELECT state, amount_nano FROM hx_gateway.ledger_reservations"


@pytest.fixture
async def ledger(make_ledger: MakeLedger) -> PostgresLedger:
    """Give a worker's ledger in epoch 1, where PostgreSQL has the word."""
    ledger = make_ledger()
    await ledger.join(UUID(STREAM))
    return ledger


async def test_64_tasks_that_race_get_exactly_what_there_is(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    asks = iter([ask_for(str(uuid4()), 10) for _ in range(200)])

    async def ask() -> list[Outcome]:
        return [(await ledger.reserve(one, 1)).outcome for one in asks]

    outcomes = Counter(outcome for part in await asyncio.gather(*(ask() for _ in range(64))) for outcome in part)

    assert outcomes == {Outcome.ADMITTED: 100, Outcome.BUDGET: 100}
    assert await windows(connection) == {WINDOW: (0, 1000)}
    await assert_sums_agree(connection)


async def test_a_reservation_tells_what_is_left_and_a_refusal_what_was(ledger: PostgresLedger) -> None:
    assert (await ledger.reserve(ask_for(str(uuid4()), 600), 1)).money == (400,)
    refusal = await ledger.reserve(ask_for(str(uuid4()), 500), 1)
    assert (refusal.outcome, refusal.refused_by, refusal.left) == (Outcome.BUDGET, 0, 400)
    assert (await ledger.reserve(ask_for(str(uuid4()), 400), 1)).money == (0,)


async def test_a_call_that_asks_again_is_admitted_once(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    ask = ask_for(str(uuid4()), 600)
    verdicts = [await ledger.reserve(ask, 1) for _ in range(2)]
    assert [(verdict.outcome, verdict.money) for verdict in verdicts] == [(Outcome.ADMITTED, (400,))] * 2
    assert await windows(connection) == {WINDOW: (0, 600)}


async def test_a_reservation_is_raised_within_the_budget_only(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    ask = ask_for(str(uuid4()), 600)
    dearer, too_dear = ask_for(ask.call_id, 900), ask_for(ask.call_id, 1001)
    await ledger.reserve(ask, 1)
    assert (await ledger.raise_reservation(too_dear, 1)).outcome is Outcome.BUDGET
    verdicts = [await ledger.raise_reservation(dearer, 1) for _ in range(2)]
    assert [(verdict.outcome, verdict.money) for verdict in verdicts] == [(Outcome.ADMITTED, (100,))] * 2
    assert await windows(connection) == {WINDOW: (0, 900)}
    assert (await ledger.raise_reservation(ask_for(str(uuid4()), 1), 1)).outcome is Outcome.STALE


async def test_what_is_reserved_here_ends_with_the_journals_record_of_its_end(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    facts = new_call(reserved_nano=600)
    await ledger.reserve(ask_for(facts.call_id, 600), 1)
    await apply(connection, [Sent(facts)])
    assert await rows(connection, HELD) == [("sent", 600)]
    await apply(connection, [done(facts, 250)])
    assert await windows(connection) == {WINDOW: (250, 0)}


async def test_what_is_released_is_free_and_the_call_is_never_admitted_again(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    known, unknown = ask_for(str(uuid4()), 600), ask_for(str(uuid4()), 100)
    await ledger.reserve(known, 1)
    for ask in (known, unknown):
        for _ in range(2):
            await ledger.release(ask.call_id)
        assert (await ledger.reserve(ask, 1)).outcome is Outcome.STALE
        await apply(connection, [done(new_call(call_id=ask.call_id), 0, settled_by="void")])
        assert (await ledger.reserve(ask, 1)).outcome is Outcome.STALE
    assert await windows(connection) == {WINDOW: (0, 0)}


async def test_a_release_that_meets_its_reservation_on_the_way_waits_for_it_and_voids_it(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    ask = ask_for(str(uuid4()), 600)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO hx_gateway.budget_windows VALUES ('bg-month', '2026-11', 'default', 0, 600)")
    await connection.execute(
        "INSERT INTO hx_gateway.ledger_reservations VALUES ($1, 'default', $2, 'reserved', 600, $3, NULL, now())",
        UUID(ask.call_id),
        UUID(STREAM),
        [WINDOW],
    )
    release = asyncio.create_task(ledger.release(ask.call_id))
    await asyncio.sleep(0.1)
    await transaction.commit()
    await release
    assert await rows(connection, HELD) == [("void", 0)]
    assert await windows(connection) == {WINDOW: (0, 0)}


async def test_nothing_is_reserved_in_another_epoch_or_where_another_has_the_word(ledger: PostgresLedger) -> None:
    ask = ask_for(str(uuid4()), 10)
    assert (await ledger.reserve(ask, 2)).outcome is Outcome.STALE
    await ledger.turn(1, Authority.REDIS)
    await ledger.acknowledge(UUID(STREAM), 2)
    assert [(await ledger.reserve(ask, epoch)).outcome for epoch in (1, 2)] == [Outcome.STALE] * 2


async def test_who_is_no_member_reserves_nothing(make_ledger: MakeLedger, ledger: PostgresLedger) -> None:
    assert (await make_ledger().reserve(ask_for(str(uuid4()), 10), 1)).outcome is Outcome.STALE


async def test_windows_are_told_with_what_is_posted_and_what_is_open(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    open_, sent, released = new_call(), new_call(reserved_nano=70), ask_for(str(uuid4()), 5)
    await apply(connection, [Sent(open_), Sent(sent), *whole_call(new_call(), 25)])
    await ledger.reserve(released, 1)
    await ledger.release(released.call_id)

    seeds = await ledger.windows([WINDOW, "bg-none:total"])

    assert seeds[WINDOW].posted_nano == 25
    assert seeds[WINDOW].reserved == {open_.call_id: 100, sent.call_id: 70}
    assert (seeds["bg-none:total"].posted_nano, seeds["bg-none:total"].reserved) == (0, {})


async def test_a_cancelled_reservation_leaves_neither_a_lock_nor_a_connection(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    await ledger.reserve(ask_for(str(uuid4()), 10), 1)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT 1 FROM hx_gateway.budget_windows FOR UPDATE")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ledger.reserve(ask_for(str(uuid4()), 10), 1)
    await transaction.rollback()
    assert (await ledger.reserve(ask_for(str(uuid4()), 980), 1)).outcome is Outcome.ADMITTED


async def test_a_fault_of_the_database_is_told_as_one(
    ledger: PostgresLedger, connection: asyncpg.Connection[Any]
) -> None:
    await connection.execute("DROP TABLE hx_gateway.ledger_reservations")
    for call in (ledger.reserve(ask_for(str(uuid4()), 10), 1), ledger.windows([WINDOW]), ledger.release(str(uuid4()))):
        with pytest.raises(DependencyError):
            await call
