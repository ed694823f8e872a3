"""Epochs: one authority at a time, and none before everybody is done with the one before it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from hx_gateway.limits.durable import Authority
from hx_gateway.limits.model import Outcome
from hx_gateway.limits.repository import PostgresLedger
from tests.integration.limits.conftest import MakeLedger
from tests.integration.limits.ledger_samples import ask_for

SILENCE = "UPDATE hx_gateway.ledger_members SET seen_at = now() - interval '61 seconds' WHERE stream_id = $1"


class HandClock:
    """Monotonic seconds that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


async def join(ledger: PostgresLedger) -> UUID:
    """Join under a new stream; return it."""
    stream = uuid4()
    await ledger.join(stream)
    return stream


async def test_the_first_who_joins_makes_the_first_epoch_and_the_others_find_it(make_ledger: MakeLedger) -> None:
    states = await asyncio.gather(*(make_ledger(authority=Authority.REDIS).join(uuid4()) for _ in range(4)))
    assert {(state.epoch, state.authority, state.acknowledged) for state in states} == {(1, Authority.REDIS, True)}
    late = await make_ledger(authority=Authority.PROCESS).join(uuid4())
    assert late.authority is Authority.REDIS


async def test_nobody_reserves_before_all_have_acknowledged(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(authority=Authority.REDIS) for _ in range(3)]
    streams = [await join(ledger) for ledger in ledgers]
    assert (await ledgers[0].turn(1, Authority.POSTGRES)).behind == 3
    for ledger, stream in zip(ledgers, streams, strict=True):
        for one in ledgers:
            assert (await one.reserve(ask_for(str(uuid4()), 1), 2)).outcome is Outcome.STALE
        state = await ledger.acknowledge(stream, 2)
    assert state.acknowledged
    assert (await ledgers[0].state()).acknowledged
    assert (await ledgers[0].reserve(ask_for(str(uuid4()), 1), 2)).outcome is Outcome.ADMITTED


async def test_of_many_who_turn_the_same_epoch_one_does(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger() for _ in range(4)]
    for ledger in ledgers:
        await join(ledger)
    states = await asyncio.gather(*(ledger.turn(1, Authority.REDIS) for ledger in ledgers))
    assert {(state.epoch, state.authority) for state in states} == {(2, Authority.REDIS)}


async def test_an_epoch_waits_for_whoever_is_joining_the_one_before(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    ledger = make_ledger()
    await join(ledger)
    holding = connection.transaction()
    await holding.start()
    await connection.execute("LOCK TABLE hx_gateway.ledger_members IN SHARE ROW EXCLUSIVE MODE")
    joining = asyncio.create_task(make_ledger().join(uuid4()))
    await asyncio.sleep(0.1)
    turning = asyncio.create_task(ledger.turn(1, Authority.REDIS))
    await asyncio.sleep(0.1)
    assert not turning.done()
    await holding.rollback()
    assert (await joining).epoch == 1
    assert (await turning).behind == 2


async def test_an_epoch_waits_for_whoever_is_reserving(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    ledger = make_ledger()
    await join(ledger)
    await ledger.reserve(ask_for(str(uuid4()), 1), 1)
    holding = connection.transaction()
    await holding.start()
    await connection.execute("SELECT 1 FROM hx_gateway.budget_windows FOR UPDATE")
    reserving = asyncio.create_task(ledger.reserve(ask_for(str(uuid4()), 1), 1))
    await asyncio.sleep(0.1)
    turning = asyncio.create_task(ledger.turn(1, Authority.REDIS))
    await asyncio.sleep(0.1)
    assert not turning.done()
    await holding.rollback()
    assert (await reserving).outcome is Outcome.ADMITTED
    assert (await turning).epoch == 2


async def test_a_tenant_is_touched_first_once_an_epoch_and_never_in_one_that_is_over(make_ledger: MakeLedger) -> None:
    ledger = make_ledger()
    await join(ledger)
    touched = await asyncio.gather(*(ledger.touch_tenant("default", 1) for _ in range(4)))
    assert sorted(touched) == [False, False, False, True]
    await ledger.turn(1, Authority.REDIS)
    assert [await ledger.touch_tenant("default", epoch) for epoch in (1, 3, 2, 2)] == [False, False, True, False]


async def test_a_silent_member_elsewhere_is_given_up_once_it_could_have_been_heard(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    clock = HandClock()
    ledger = make_ledger("here", clock=clock)
    stream, silent = await join(ledger), await join(make_ledger("elsewhere"))
    await ledger.turn(1, Authority.POSTGRES)
    await connection.execute(SILENCE, silent)
    for _ in range(6):
        assert (await ledger.acknowledge(stream, 2)).behind == 1
        clock.seconds += 10
    assert (await ledger.state()).acknowledged
    assert (await ledger.reserve(ask_for(str(uuid4()), 1), 2)).outcome is Outcome.ADMITTED


async def test_nobody_is_given_up_for_a_silence_while_the_database_was_away(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    clock = HandClock()
    ledger = make_ledger("here", clock=clock)
    stream, silent = await join(ledger), await join(make_ledger("elsewhere"))
    await ledger.turn(1, Authority.POSTGRES)
    await connection.execute(SILENCE, silent)
    clock.seconds += 3600
    assert not (await ledger.acknowledge(stream, 2)).acknowledged


async def test_a_member_of_the_same_root_is_not_given_up(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    ledger = make_ledger(clock=HandClock(), give_up_seconds=0.0)
    stream, silent = await join(ledger), await join(make_ledger())
    await ledger.turn(1, Authority.POSTGRES)
    await connection.execute(SILENCE, silent)
    assert not (await ledger.acknowledge(stream, 2)).acknowledged


async def test_a_member_that_was_taken_for_dead_returns_with_what_it_had_acknowledged(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    ledger = make_ledger()
    stream = await join(ledger)
    await connection.execute("DELETE FROM hx_gateway.ledger_members")
    await ledger.turn(1, Authority.REDIS)
    assert (await ledger.beat(stream)).behind == 1
