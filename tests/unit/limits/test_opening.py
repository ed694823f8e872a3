"""Windows are opened before anything is written about a call, by what is on record."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from hx_gateway.allowances import Period
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.authority import Term, TermOver
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.model import CounterStore, Settlement
from hx_gateway.limits.opening import WindowOpening
from hx_gateway.limits.refusals import BudgetUnknown
from tests.unit.limits.stand_ins import BUDGET, START, STREAM, WINDOW, FrailStore, HandClock, Ledger, turns

DAILY = replace(BUDGET, id="bg-2", period=Period.DAY)


class Keeper:
    """The part of an authority that an opening asks."""

    def __init__(self, term: Term) -> None:
        self.term: Term | None = term
        self.stream_id = STREAM
        self.doubted: list[int] = []

    def doubt(self, epoch: int) -> None:
        self.doubted.append(epoch)


class Scene:
    """An opening, and all that is around it."""

    def __init__(self, *, since: timedelta = timedelta(), ahead: float = 0.0) -> None:
        self.clock, self.ledger = HandClock(), Ledger()
        clock_of_store = HandClock() if ahead else self.clock
        clock_of_store.elapsed += ahead
        self.store = FrailStore(clock_of_store)
        self.term = Term(epoch=1, authority=Authority.REDIS, since_us=unix_us(START + since))
        self.keeper = Keeper(self.term)
        self.time = AuthorityClock(self.clock)
        self.ended: list[Settlement] = []
        self.opening = WindowOpening(
            self.ledger,
            self.keeper,  # type: ignore[arg-type]
            clock=self.clock,
            authority_clock=self.time,
            lease_seconds=60.0,
            settle=self._end,
        )

    def _end(self, _store: CounterStore, settlement: Settlement) -> None:
        self.ended.append(settlement)

    async def charges(self, budget: object = BUDGET) -> list[str]:
        found = await self.opening.charges(self.store, "t", [budget], self.term)  # type: ignore[list-item]
        return [charge.key for charge in found]


async def test_a_window_is_seeded_once_with_what_is_on_record() -> None:
    scene = Scene()
    scene.ledger.posted[WINDOW] = 70
    assert await scene.charges() == [WINDOW]
    scene.ledger.posted[WINDOW] = 90
    await scene.charges()
    assert (await scene.store.windows("t", [WINDOW]))[WINDOW].posted_nano == 70
    # It left nothing behind.
    await scene.store.settle(scene.ended)
    assert scene.store._tenants["t"].money.open == {}  # type: ignore[union-attr]


async def test_a_tenant_that_somebody_began_and_the_store_does_not_know_is_lost() -> None:
    scene = Scene()
    scene.ledger.touched.add(("t", 1))
    task = asyncio.ensure_future(scene.charges())
    await scene.clock.pass_by(1.0)
    assert isinstance(task.exception(), TermOver)
    assert scene.keeper.doubted == [1]


async def test_a_tenant_that_somebody_is_about_to_begin_is_waited_for() -> None:
    scene = Scene()
    scene.ledger.touched.add(("t", 1))
    task = asyncio.ensure_future(scene.charges())
    await turns()
    await scene.store.begin("t", 1)
    await scene.clock.pass_by(1.0)
    assert (task.result(), scene.keeper.doubted) == ([WINDOW], [])


async def test_what_cannot_be_read_is_not_opened() -> None:
    scene = Scene()
    await scene.charges()
    scene.ledger.down = True
    with pytest.raises(BudgetUnknown):
        await scene.charges(DAILY)


async def test_a_window_that_began_after_the_epoch_needs_no_record() -> None:
    scene = Scene()
    await scene.charges()
    scene.ledger.down = True
    scene.clock.elapsed += 12 * 3600.0
    assert await scene.charges(DAILY) == ["bg-2:2026-11-26"]


async def test_a_window_that_began_within_the_margin_does() -> None:
    scene = Scene(since=timedelta(hours=11, minutes=30))
    await scene.charges()
    scene.ledger.down = True
    scene.clock.elapsed += 12 * 3600.0
    with pytest.raises(BudgetUnknown):
        await scene.charges(DAILY)


async def test_the_store_says_what_day_it_is() -> None:
    scene = Scene(ahead=86_400.0)
    assert await scene.charges(DAILY) == ["bg-2:2026-11-26"]


async def test_nothing_is_opened_in_a_term_that_is_over() -> None:
    scene = Scene()
    scene.keeper.term = None
    with pytest.raises(TermOver):
        await scene.charges()
