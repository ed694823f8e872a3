"""Who counts money, when that changes, and when this worker may go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import pytest

from hx_gateway.limits.authority import LEAVE_ATTEMPTS, PROCESS_CLAIM, AuthorityKeeper, AuthorityOptions
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.durable import Authority, EpochState
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.limits.stand_ins import STREAM, HandClock, Ledger


class Scene:
    """A keeper, and what it is told."""

    def __init__(self, ledger: Ledger | None = None, *, redis: bool = True) -> None:
        self.clock, self.ledger = HandClock(), ledger or Ledger()
        self.healthy = self.applied = True
        self.drains = 0
        self.epochs: list[EpochState] = []
        self.keeper = AuthorityKeeper(
            self.ledger,
            STREAM,
            drained=self._drained,
            clock=self.clock,
            authority_clock=AuthorityClock(self.clock),
            shared_healthy=(lambda: self.healthy) if redis else None,
            on_epoch=self.epochs.append,
            options=AuthorityOptions(),
        )
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self.tasks = [asyncio.ensure_future(self.keeper.run()), asyncio.ensure_future(self.keeper.pulse())]

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def term(self) -> tuple[int, str] | None:
        term = self.keeper.term
        return None if term is None else (term.epoch, str(term.authority))

    async def _drained(self) -> bool:
        self.drains += 1
        return self.applied


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    scene.begin()
    await scene.clock.pass_by(1.0)
    yield scene
    await scene.end()


async def test_a_worker_that_joins_takes_part_in_the_epoch_that_goes_on(scene: Scene) -> None:
    assert (scene.term, scene.ledger.turned) == ((1, "redis"), [])


async def test_postgresql_takes_over_when_redis_is_away_for_a_second(scene: Scene) -> None:
    scene.healthy = False
    await scene.clock.pass_by(0.9)
    assert scene.term == (1, "redis")
    await scene.clock.pass_by(1.0)
    assert (scene.term, scene.ledger.acknowledged) == ((2, "postgres"), [1, 2])
    assert [state.authority for state in scene.epochs] == [Authority.REDIS, Authority.POSTGRES]


async def test_redis_counts_again_when_it_is_there_for_two_seconds(scene: Scene) -> None:
    scene.healthy = False
    await scene.clock.pass_by(2.0)
    scene.healthy = True
    await scene.clock.pass_by(1.5)
    assert scene.term == (2, "postgres")
    # It did not last a minute before: it is believed later.
    await scene.clock.pass_by(3.5)
    assert scene.term == (3, "redis")


async def test_nothing_is_turned_while_postgresql_is_away(scene: Scene) -> None:
    scene.healthy, scene.ledger.down = False, True
    await scene.clock.pass_by(5.0)
    assert (scene.term, scene.ledger.turned) == ((1, "redis"), [])


async def test_an_epoch_that_others_began_is_not_acknowledged_before_all_is_on_record(scene: Scene) -> None:
    scene.applied = False
    scene.ledger.epoch = 2
    await scene.clock.pass_by(2.0)
    assert scene.term is None
    assert scene.ledger.acknowledged == [1]
    assert scene.drains > 1
    scene.applied = True
    await scene.clock.pass_by(1.0)
    assert scene.term == (2, "redis")
    assert scene.ledger.acknowledged == [1, 2]


async def test_who_joined_by_an_attempt_whose_answer_was_lost_acknowledges_what_began_since() -> None:
    scene = Scene()
    # That attempt was in the first epoch; its row says so, and holds up the second.
    scene.ledger.epoch, scene.ledger.behind = 2, True
    scene.begin()
    await scene.clock.pass_by(1.0)
    assert (scene.term, scene.ledger.acknowledged) == (None, [2])
    scene.ledger.behind = False
    await scene.clock.pass_by(1.0)
    assert scene.term == (2, "redis")
    await scene.end()


async def test_nobody_begins_before_all_have_acknowledged(scene: Scene) -> None:
    scene.ledger.epoch, scene.ledger.behind = 2, True
    await scene.clock.pass_by(2.0)
    assert scene.term is None
    assert scene.ledger.acknowledged == [1, 2]
    scene.ledger.behind = False
    await scene.clock.pass_by(1.0)
    assert scene.term == (2, "redis")


async def test_one_who_joins_does_not_stop_those_who_are_at_it(scene: Scene) -> None:
    scene.ledger.behind = True
    await scene.clock.pass_by(2.0)
    assert scene.term == (1, "redis")


async def test_a_doubt_ends_the_term_at_once_and_begins_another(scene: Scene) -> None:
    scene.keeper.doubt(1)
    assert scene.term is None
    await scene.clock.pass_by(0.5)
    assert scene.ledger.turned == [Authority.REDIS]
    assert scene.keeper.term is not None
    assert scene.keeper.term.epoch == 2


async def test_a_doubt_in_an_epoch_that_is_over_changes_nothing(scene: Scene) -> None:
    scene.keeper.doubt(1)
    await scene.clock.pass_by(1.0)
    scene.keeper.doubt(1)
    await scene.clock.pass_by(1.0)
    assert (scene.term, scene.ledger.epoch) == ((2, "redis"), 2)


async def test_a_call_waits_a_little_for_a_term(scene: Scene) -> None:
    scene.keeper.doubt(1)
    waiting = asyncio.ensure_future(scene.keeper.ready())
    await scene.clock.pass_by(1.0)
    assert waiting.result().epoch == 2
    scene.ledger.behind = True
    scene.keeper.doubt(2)
    waiting = asyncio.ensure_future(scene.keeper.ready())
    await scene.clock.pass_by(2.5)
    assert isinstance(waiting.exception(), BudgetUnknown)


async def test_a_process_that_stood_still_asks_before_it_goes_on(scene: Scene) -> None:
    scene.clock.elapsed += 20.0
    assert scene.term is None
    scene.ledger.down = True
    await scene.clock.pass_by(2.0)
    assert scene.term is None
    scene.ledger.down = False
    await scene.clock.pass_by(1.0)
    assert scene.term == (1, "redis")


async def test_a_worker_without_redis_is_the_process_that_counts() -> None:
    scene = Scene(Ledger(authority=Authority.PROCESS), redis=False)
    scene.applied = False
    scene.begin()
    await scene.clock.pass_by(1.0)
    # What it left behind the last time is not on record yet.
    assert (scene.term, scene.ledger.epoch) == (None, 2)
    scene.applied = True
    await scene.clock.pass_by(1.0)
    assert scene.term == (2, "process")
    await scene.end()


async def test_two_processes_without_redis_leave_it_to_postgresql() -> None:
    scene = Scene(Ledger(authority=Authority.PROCESS), redis=False)
    scene.begin()
    await scene.clock.pass_by(1.0)
    assert scene.term == (2, "process")
    # Another one begins, and is the first to say that it is the one.
    scene.ledger.epoch = 3
    scene.ledger.touched.add((PROCESS_CLAIM, 3))
    await scene.clock.pass_by(2.0)
    assert scene.term == (4, "postgres")
    await scene.end()


async def test_a_claim_whose_answer_is_lost_is_made_anew() -> None:
    scene = Scene(Ledger(authority=Authority.PROCESS), redis=False)
    touch, failures = scene.ledger.touch_tenant, [True]

    async def touch_and_lose(tenant_id: str, epoch: int) -> bool:
        first = await touch(tenant_id, epoch)
        if failures:
            failures.clear()
            scene.ledger.down = True
            await scene.ledger.state()
        return first

    scene.ledger.touch_tenant = touch_and_lose  # type: ignore[method-assign]
    scene.begin()
    await scene.clock.pass_by(1.0)
    scene.ledger.down = False
    await scene.clock.pass_by(2.0)
    assert scene.term is not None
    assert scene.term[1] == "process"
    await scene.end()


async def test_a_worker_without_redis_counts_nothing_in_an_epoch_of_redis() -> None:
    scene = Scene(redis=False)
    scene.begin()
    await scene.clock.pass_by(1.0)
    scene.ledger.epoch, scene.ledger.authority = 9, Authority.REDIS
    await scene.clock.pass_by(2.0)
    assert scene.term is None
    await scene.end()


@pytest.mark.parametrize(("dead", "told"), [(1, True), (LEAVE_ATTEMPTS - 1, True), (LEAVE_ATTEMPTS, False)])
async def test_whoever_leaves_over_connections_that_died_tries_the_next(scene: Scene, dead: int, told: bool) -> None:
    leave, asked = scene.ledger.leave, 0

    async def leave_over_the_next(stream_id: UUID) -> None:
        nonlocal asked
        asked += 1
        if asked <= dead:
            raise DependencyError("PostgreSQL", FailureKind.LOST)
        await leave(stream_id)

    scene.ledger.leave = leave_over_the_next  # type: ignore[method-assign]
    await scene.keeper.leave()
    assert (scene.ledger.left, asked) == (told, min(dead + 1, LEAVE_ATTEMPTS))


async def test_leaving_ends_the_term(scene: Scene) -> None:
    await scene.keeper.leave()
    assert (scene.keeper._term, scene.ledger.left) == (None, True)
