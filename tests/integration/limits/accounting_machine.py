"""Workers over real stores that can be crashed in one process, and what is true of the calls that they carry."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.errors import HXError
from hx_gateway.journal.connecting import Connector
from hx_gateway.journal.drain import Drain, DrainOptions
from hx_gateway.journal.log import Journal, JournalOptions
from hx_gateway.journal.placement import Placement
from hx_gateway.kit.breaker import CircuitBreaker
from hx_gateway.kit.clock import SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.applier import CALLS, calls_kind
from hx_gateway.limits.authority import AuthorityOptions
from hx_gateway.limits.calls import CallAsk, CallDone
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.meter import Meter, MeterOptions
from hx_gateway.limits.redis_store import RedisCounterStore
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.limits.repository import PostgresLedger
from hx_gateway.limits.roots import JournalRoot
from hx_gateway.limits.shares import LocalShares
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pipe import RedisPipe

OPTIONS = MeterOptions(
    lease=2.0,
    renew=0.4,
    lapse=0.3,
    reconcile=0.5,
    retry=0.2,
    authority=AuthorityOptions(
        beat=0.2,
        tick=0.05,
        lost=0.3,
        found=0.3,
        most_found=0.6,
        calm=5.0,
        patience=1.0,
        patience_tick=0.02,
        orphans=0.3,
    ),
)
JOURNAL = JournalOptions(segment_bytes=64 * 1024, segment_seconds=0.7)
DRAIN = DrainOptions(flush_seconds=0.05, batch_seconds=5.0, ordered=True, adopt_seconds=0.3)
DRAINED_SECONDS = 2.0
BEAT_SECONDS = 0.2
# All workers are one process, whose id tells nothing: one that does not beat for so long is looked after.
SILENT_SECONDS = 1.0


def _budget(kind: ScopeKind, owner: str, limit_nano: int, period: Period) -> Budget:
    return Budget(id=f"bg-{owner}", kind=kind, owner_id=owner, limit_nano=limit_nano, period=period)


_KEY = _budget(ScopeKind.KEY, "k0", 900, Period.DAY)
_OTHER_KEY = _budget(ScopeKind.KEY, "k1", 700, Period.TOTAL)
_TEAM = _budget(ScopeKind.TEAM, "tm0", 1400, Period.TOTAL)
_TENANT = _budget(ScopeKind.TENANT, "t0", 1900, Period.DAY)
_SECOND_TENANT = _budget(ScopeKind.TENANT, "t1", 800, Period.TOTAL)
_LIMITS = ScopeLimits(kind=ScopeKind.KEY, id="k0", requests=Rate(60_000, 1000), tokens=Rate(90_000, 9000), parallel=90)

ALLOWANCES = (
    Allowance(tenant_id="t0", limits=(_LIMITS,), budgets=(_KEY, _TEAM, _TENANT)),
    Allowance(tenant_id="t0", budgets=(_OTHER_KEY, _TENANT)),
    Allowance(tenant_id="t1", budgets=(_SECOND_TENANT,)),
)
BUDGET_LIMITS = {budget.id: budget.limit_nano for allowance in ALLOWANCES for budget in allowance.budgets}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the stores are and the root of the journals."""

    postgres: str
    redis: str
    root: Path


class Worker:
    """One life of a worker: what the gateway composes for each of its processes, with short times."""

    def __init__(self, places: Places, peers: list[Worker]) -> None:
        self.dead = False
        self.calling: set[asyncio.Task[object]] = set()
        self.postgres = PostgresService(
            places.postgres, max_size=3, heartbeat=BEAT_SECONDS, heartbeat_timeout=2.0, acquire_timeout=1.0
        )
        self.redis = RedisService(places.redis, heartbeat=BEAT_SECONDS, heartbeat_timeout=BEAT_SECONDS)
        self.pipe = RedisPipe(places.redis)
        self.journal = Journal(places.root, "ledger", [calls_kind()], JOURNAL)
        connector = Connector(places.postgres, timeout=3.0)
        breaker, placement = CircuitBreaker(open_seconds=0.2), Placement({}, SystemClock())
        self.drain = Drain(self.journal, connector.connect_ready, breaker, placement, DRAIN)
        self.journal.open()
        self.meter = self._meter(peers)

    def _meter(self, peers: list[Worker]) -> Meter:
        root = JournalRoot(self.journal.root)
        return Meter(
            stream_id=self.journal.stream,
            shared=RedisCounterStore(self.pipe),
            local=LocalShares(MemoryCounterStore(), lambda: max(1, len(peers))),
            shared_healthy=lambda: self.redis.sample.healthy,
            ledger=PostgresLedger(self.postgres, root, Authority.REDIS, silent_seconds=SILENT_SECONDS),
            append=self._append,
            together=self._append_together,
            drained=lambda: self.drain.flush(DRAINED_SECONDS),
            options=OPTIONS,
        )

    def _append(self, payload: bytes) -> int:
        # Tasks that end with a crashed worker would write down that they were cancelled; a dead process does not.
        return 0 if self.dead else self.journal.append(CALLS, payload, 1)

    def _append_together(self, payloads: Sequence[bytes]) -> bool:
        return self.dead or self.journal.append_together(CALLS, payloads)

    async def start(self) -> None:
        """Begin as the gateway does."""
        await self.postgres.connect()
        await self.redis.connect()
        self.drain.start()
        await self.meter.__aenter__()

    async def stop(self) -> None:
        """Take leave of the others."""
        await self.meter.__aexit__(None, None, None)
        await self.drain.stop(DRAINED_SECONDS)
        self.journal.close()
        await self._hang_up()

    async def crash(self) -> None:
        """End as a killed process does: nothing is flushed or said, and the kernel lets go of its locks."""
        self.dead = True
        # A lane that finds its connection gone as it is cancelled goes on otherwise.
        self.drain._stopping = True
        for lane in self.drain._lanes:
            lane.hang_up()
        tasks = [*self.calling, *self.meter._tasks, *self.drain._tasks]
        await end_tasks(tasks)
        for lane in self.drain._lanes:
            lane.drop()
        self.drain._backlog.close()
        folder, segment = self.journal._folder, self.journal.active
        self.journal.forget()
        if segment is not None:
            segment.close()
        if folder is not None:
            folder.release()
        await self._hang_up()

    async def _hang_up(self) -> None:
        await self.pipe.close()
        self.postgres._terminate_pool()
        await self.postgres.close()
        await self.redis.close()

    def own(self, job: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Let something go on that ends with this worker."""
        task = asyncio.get_running_loop().create_task(job)
        self.calling.add(task)
        task.add_done_callback(self.calling.discard)
        return task


@dataclass(slots=True, eq=False)
class Call:
    """What really became of an admitted call. ``true``: what its provider bills, from when it was sent.

    ``asked`` is the most that was asked for. ``settled`` is the cost it ended with, ``lost`` that its worker ended
    before it did, ``busy`` that its owner waits for something.
    """

    worker: Worker
    admission: Admission
    asked: int
    true: int | None = None
    settled: int | None = None
    lost: bool = False
    busy: bool = False
    end: CallDone | None = None


@dataclass
class Books:
    """The truth, kept beside whatever the workers and stores know."""

    calls: dict[str, Call] = field(default_factory=dict)
    spent: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> list[Call]:
        """Calls whose owners can do something with them."""
        return [call for call in self.calls.values() if call.settled is None and not call.lost and not call.busy]

    @property
    def ended(self) -> list[Call]:
        """Calls that came to their end at a worker that lives."""
        return [call for call in self.calls.values() if call.settled is not None and not call.worker.dead]

    async def admit(self, worker: Worker, allowance: Allowance, cost_nano: int) -> Call | None:
        """Let a call begin; return it if it may."""
        ask = CallAsk(
            call_id=str(uuid4()),
            request_id="req",
            tenant_id=allowance.tenant_id,
            key_id="key",
            model="m",
            requested_model="m",
            operation="chat",
            allowance=allowance,
            tokens=10,
            cost_nano=cost_nano,
        )
        try:
            admission = await worker.meter.admit(ask)
        except HXError as error:
            self.refusals[error.code] += 1
            return None
        call = self.calls[ask.call_id] = Call(worker, admission, cost_nano)
        return call

    async def whole_call(self, worker: Worker, allowance: Allowance, cost_nano: int, share: int) -> None:
        """Let a call begin, go out and end; its client may go before it does."""
        call = await self.admit(worker, allowance, cost_nano)
        if call is None:
            return
        self.send(call, share)
        call.busy, gone = True, True
        try:
            await asyncio.sleep(0.01)
            gone = False
        finally:
            if not call.lost:
                self.finish(call, estimate=gone)

    async def raise_to(self, call: Call, cost_nano: int) -> None:
        """Reserve more for a call that is ``busy`` with that, if there is more."""
        call.asked = max(call.asked, cost_nano)
        try:
            await call.worker.meter.raise_to(call.admission, cost_nano)
        except HXError as error:
            self.refusals[error.code] += 1

    def send(self, call: Call, share: int) -> None:
        """Let a call go out, perhaps to a further deployment: from now on ``share`` % of its reservation is spent.

        It stays where it is when what it reserved was granted in an epoch that is over.
        """
        meter = call.worker.meter
        try:
            meter.sent(call.admission, "deployment", "provider")
            meter.journal.write_again()
            meter.confirm(call.admission)
        except BudgetUnknown as error:
            self.refusals[error.code] += 1
            return
        cost = max(call.true or 0, call.admission.reserved_nano * share // 100)
        for key in call.admission.charge_keys:
            self.spent[key] += cost - (call.true or 0)
        call.true = cost

    def finish(self, call: Call, *, estimate: bool = False) -> None:
        """End a call at what it cost, or at the most that it may have cost where nobody heard of it."""
        cost = 0 if call.true is None else call.admission.reserved_nano if estimate else call.true
        ending = "client_closed" if estimate else "complete"
        call.end = CallDone(status=499 if estimate else 200, ending=ending, cost_nano=cost, prompt_tokens=7)
        call.settled, call.busy = cost, False
        meter = call.worker.meter
        meter.settle(call.admission, call.end)
        # Now, and not at the end of this turn: it may be the worker's last.
        meter.journal.write_again()

    def tell_again(self, call: Call) -> None:
        """Say of a call that it ended, once more, to everybody who may hear it twice."""
        assert call.end is not None
        meter = call.worker.meter
        meter.settle(call.admission, CallDone(status=200, ending="complete", cost_nano=call.asked))
        meter.journal.done(call.admission, call.end)
        meter._endings.end(call.admission, call.end)

    def lose(self, worker: Worker) -> None:
        """Note that a worker is gone: nobody ends its calls."""
        for call in self.calls.values():
            if call.worker is worker and call.settled is None:
                call.lost = True
