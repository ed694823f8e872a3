"""Workers, Redis and PostgreSQL as they are, in whatever order of calls and failures hypothesis finds."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from hx_gateway.services.redis_pipe import RedisPipe
from tests.fixtures.servers import PostgresServer, RedisServer
from tests.integration.db.databases import migrated_database
from tests.integration.limits.accounting_audit import Audit
from tests.integration.limits.accounting_machine import ALLOWANCES, Books, Call, Places, Worker
from tests.integration.limits.redis_only import running

ASKED = os.environ.get("HX_TEST_MACHINE_EXAMPLES")
EXAMPLES = int(ASKED or "5")
STEPS = 15
REST_SECONDS = 15.0
# How long clients' calls are waited for before the next thing happens: some of them go on beside it.
HEARD_SECONDS = 0.1
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"

# Each example takes seconds of real time, in which real stores are killed: for those who ask for it, and the long tier.
pytestmark = pytest.mark.skipif(ASKED is None, reason="set HX_TEST_MACHINE_EXAMPLES to run it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A call that somebody wants to make, at which worker: one that ends when it has cost ``share`` %, or ``stays``."""

    where: int
    who: int
    cost_nano: int
    share: int
    stays: bool


# How many there are to choose from depends on times that hypothesis does not know: what is drawn must not.
PICK = st.integers(0, 59)
AMOUNT = st.integers(1, 120)
CALL = st.builds(Plan, where=PICK, who=PICK, cost_nano=AMOUNT, share=st.integers(0, 100), stays=st.booleans())
ACTS = ("goes out", "ends", "breaks off", "is told again", "asks for more", "its client goes")
ACT = st.tuples(st.sampled_from(ACTS), PICK, st.integers(0, 100))
FAILURES = (
    "none",
    "nothing happens",
    "Redis is flushed",
    "Redis is killed for a moment",
    "Redis is frozen for a moment",
    "Redis is killed",
    "Redis is frozen",
    "PostgreSQL ends all sessions",
    "a worker crashes",
)
FAILURE = st.sampled_from(("none", *FAILURES))


class AccountingMachine(RuleBasedStateMachine):
    """A calm one lives through no failure: then nothing may lapse, be corrected, or need another epoch."""

    postgres: ClassVar[PostgresServer]
    redis: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.redis_up = True
        self.broken = False
        self.books = Books()
        self.workers: list[Worker] = []
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(asyncio.Runner())
        self.places = Places(
            postgres=self.stack.enter_context(migrated_database(self.postgres)),
            redis=self.redis.url,
            root=Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hx-"))),
        )

    def _do(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run(job)
        except BaseException:
            self.broken = True
            raise

    @initialize(calm=st.sampled_from([True, False, False]), workers=st.integers(2, 3))
    def begin(self, calm: bool, workers: int) -> None:
        self.calm = calm
        self._do(self._begin(workers))

    async def _begin(self, workers: int) -> None:
        self.connection = await asyncpg.connect(self.places.postgres)
        self.pipe = RedisPipe(self.places.redis, timeout=2.0)
        await self.pipe.command("FLUSHALL")
        self.audit = Audit(self.connection, self.pipe, self.books)
        for _ in range(workers):
            await self._join()

    async def _join(self) -> None:
        worker = Worker(self.places, self.workers)
        self.workers.append(worker)
        await worker.start()

    @rule(acts=st.lists(ACT, max_size=5), calls=st.lists(CALL, min_size=1, max_size=6), failure=FAILURE)
    def step(self, acts: list[tuple[str, int, int]], calls: list[Plan], failure: str) -> None:
        """One rule: hypothesis leaves out most of several, for whole examples, and the rest comes to little."""
        self._do(self._step(acts, calls, failure))

    async def _step(self, acts: list[tuple[str, int, int]], calls: list[Plan], failure: str) -> None:
        for act, pick, number in acts:
            self._act(act, pick, number)
        tasks = [self._begin_call(plan) for plan in calls]
        await asyncio.sleep(0.002)
        if not self.calm:
            await self._fail(failure, sum(plan.where for plan in calls))
        done, _ = await asyncio.wait(tasks, timeout=HEARD_SECONDS)
        for task in done:
            if not task.cancelled():
                task.result()

    # Calls

    def _begin_call(self, plan: Plan) -> asyncio.Task[object]:
        worker, allowance = self.workers[plan.where % len(self.workers)], ALLOWANCES[plan.who % len(ALLOWANCES)]
        if plan.stays:
            return worker.own(self.books.admit(worker, allowance, plan.cost_nano))
        return worker.own(self.books.whole_call(worker, allowance, plan.cost_nano, plan.share))

    def _act(self, act: str, pick: int, number: int) -> None:
        """Let an owner of a call do something, or the client of one that still waits go away."""
        waiting = [task for worker in self.workers for task in worker.calling if not task.done()]
        open_call, ended = _of(self.books.open, pick), _of(self.books.ended, pick)
        if act == "its client goes" and waiting:
            waiting[pick % len(waiting)].cancel()
        elif act == "is told again" and ended is not None:
            self.books.tell_again(ended)
        elif open_call is None:
            return
        elif act == "goes out":
            self.books.send(open_call, number)
        elif act == "asks for more":
            more = open_call.admission.reserved_nano + number
            open_call.busy = True
            raising = open_call.worker.own(self.books.raise_to(open_call, more))
            # Its client may go before it begins to ask.
            raising.add_done_callback(lambda _: setattr(open_call, "busy", False))
        elif act in ("ends", "breaks off"):
            self.books.finish(open_call, estimate=act == "breaks off")

    # What goes wrong

    async def _fail(self, failure: str, pick: int) -> None:
        if failure.startswith("Redis") and not self.redis_up:
            await self._find_redis()
        elif failure == "Redis is flushed":
            await self.pipe.command("FLUSHALL")
        elif failure.startswith("Redis"):
            await self._lose_redis("kill" if "killed" in failure else "freeze")
            if "moment" in failure:
                await asyncio.sleep(0.01 * (pick % 40))
                await self._find_redis()
        elif failure == "PostgreSQL ends all sessions":
            await self.connection.execute(OTHERS, self.connection.get_server_pid())
        elif failure == "a worker crashes":
            await self._crash(self.workers[pick % len(self.workers)], 0.01 * (pick % 40))
        elif failure == "nothing happens":
            await asyncio.sleep(0.6)

    async def _lose_redis(self, how: str) -> None:
        self.redis_up = False
        if how == "kill":
            self.redis.kill()
        else:
            self.redis.freeze()

    async def _find_redis(self) -> None:
        process = self.redis.process
        if process is None or process.poll() is not None:
            await asyncio.to_thread(self.redis.start)
        self.redis.thaw()
        self.redis_up = True
        await self.pipe.close()
        self.pipe = self.audit.pipe = RedisPipe(self.places.redis, timeout=2.0)

    async def _crash(self, worker: Worker, seconds: float) -> None:
        self.workers.remove(worker)
        self.books.lose(worker)
        await worker.crash()
        await asyncio.sleep(seconds)
        await self._join()

    # What must be true

    @invariant()
    def no_account_is_wrong(self) -> None:
        self._do(self.audit.always(redis=self.redis_up))

    def teardown(self) -> None:
        try:
            if self.workers and not self.broken:
                self._do(self._come_to_rest())
        finally:
            if not self.redis_up:
                self.loop.run(self._find_redis())
            with self.stack:
                self.loop.run(self._leave())

    async def _come_to_rest(self) -> None:
        if not self.redis_up:
            await self._find_redis()
        until = time.monotonic() + REST_SECONDS
        left: list[str] = ["nobody has looked"]
        while left and time.monotonic() < until:
            for call in self.books.open:
                self.books.finish(call)
            await self._probe()
            await asyncio.sleep(0.1)
            left = await self.audit.unrest(self.workers)
        assert left == [], "\n".join(left)
        await self.audit.at_rest()
        if self.calm:
            meters = [worker.meter for worker in self.workers]
            told = [(meter.lapsed, meter.corrections, meter.authority.turned) for meter in meters]
            assert told == [(0, 0, 0)] * len(meters)
            assert set(self.books.refusals) <= {"insufficient_quota"}

    async def _probe(self) -> None:
        """Let everybody's windows be counted in the epoch that there is now."""
        for worker in self.workers:
            await worker.redis.healthy()
        for allowance in ALLOWANCES:
            call = await self.books.admit(self.workers[0], allowance, 1)
            if call is not None:
                self.books.finish(call)

    async def _leave(self) -> None:
        for worker in self.workers:
            await (worker.crash() if self.broken else worker.stop())
        await self.pipe.close()
        if not self.broken:
            assert await self.connection.fetchval("SELECT count(*) FROM hx_gateway.ledger_members") == 0
        await self.connection.close()


def _of(calls: list[Call], pick: int) -> Call | None:
    """Return the call that is picked, if there is any."""
    return calls[pick % len(calls)] if calls else None


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with running("valkey") as server:
        yield server


@pytest.fixture
def quiet() -> Iterator[None]:
    """Let the log go nowhere, and come back."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("quiet")
@pytest.mark.timeout(120 + 60 * EXAMPLES)
def test_no_account_is_wrong_whatever_happens_to_real_stores(postgres18: PostgresServer, valkey: RedisServer) -> None:
    class Machine(AccountingMachine):
        postgres, redis = postgres18, valkey

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            # What took its time once may come out otherwise the next time: a failure is shown as it was.
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
