"""A worker of the simulation: the real meter, a journal that survives it, and calls whose true cost is known."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hx_gateway.errors import HXError
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.authority import AuthorityOptions
from hx_gateway.limits.calls import CallAsk, CallDone
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.meter import Meter, MeterOptions
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.limits.shares import LocalShares
from tests.simulation.virtual_time import BASE, virtual_loop
from tests.simulation.wires import Wire, WiredLedger, WiredStore

if TYPE_CHECKING:
    from tests.simulation.world import World

OPTIONS = MeterOptions(
    lease=6.0,
    renew=2.0,
    lapse=1.5,
    reconcile=3.0,
    retry=0.5,
    authority=AuthorityOptions(
        beat=1.0,
        tick=0.5,
        lost=1.0,
        found=1.5,
        most_found=4.0,
        calm=10.0,
        patience=2.5,
        patience_tick=0.25,
        orphans=2.0,
    ),
)
FLUSH_SECONDS = 2.0


class Broken(AssertionError):
    """An invariant does not hold."""


class WorkerClock:
    """A machine's clock: its wall time may be wrong and may jump; a process that is stopped sleeps on."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        loop = virtual_loop()
        self._time, self._nap = loop.time, loop.nap
        self.skew = 0.0

    def now(self) -> datetime:
        return BASE + timedelta(seconds=self._time() + self.skew)

    def monotonic(self) -> float:
        return self._time()

    async def sleep(self, seconds: float) -> None:
        await self._nap(seconds)
        if self._worker.frozen or self._worker.dead:
            await self._worker.gate()


class Worker:
    """One life of a process: from its start to its death. The next one has a stream of its own."""

    def __init__(self, world: World, number: int, random: Random, *, alone: bool) -> None:
        self.number = number
        self.random = random
        self.stream = UUID(int=random.getrandbits(128), version=4)
        self.clock = WorkerClock(self)
        self.journal: list[bytes] = []
        self.full = self.dead = self.frozen = False
        self._world = world
        self._thawed = asyncio.Event()
        self._position = 0
        self._drain_seconds = world.drain_seconds
        self._tasks: set[asyncio.Task[Any]] = set()
        wire = Wire(world.redis, random, self)
        memory = MemoryCounterStore(self.clock)
        self.memory = memory
        self.meter = Meter(
            stream_id=self.stream,
            shared=None if alone else WiredStore(wire, lambda: world.store, world.lapsed),
            shared_healthy=lambda: world.redis.up,
            process=memory if alone else None,
            local=memory if alone else LocalShares(memory, lambda: len(world.alive)),
            ledger=WiredLedger(Wire(world.postgres, random, self), world.bank, self.stream),
            append=self.append,
            together=self.append_together if random.random() < 0.5 else None,
            drained=self.flush,
            clock=self.clock,
            options=OPTIONS,
        )

    def __str__(self) -> str:
        return f"w{self.number}/{str(self.stream)[:4]}"

    async def start(self) -> None:
        await self.meter.__aenter__()
        self._own(self._drain())

    def stop(self) -> None:
        """``kill -9``: what it had in memory is gone, and nothing of it runs any more."""
        self.dead = True
        self.frozen = False
        self._thawed.set()
        for task in [*self._tasks, *self.meter._tasks]:
            task.cancel()

    def freeze(self) -> None:
        self.frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        self.frozen = False
        self._thawed.set()

    async def gate(self) -> None:
        """Return when the process runs."""
        while self.frozen:
            await self._thawed.wait()
        if self.dead:
            raise asyncio.CancelledError

    def _own(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The journal

    def append(self, payload: bytes) -> None:
        if self.dead:
            return
        if self.full:
            raise JournalRefused("full", reason="disk_full")
        self.journal.append(payload)

    def append_together(self, payloads: Sequence[bytes]) -> bool:
        """Write all of them or none; nobody says why."""
        if self.full or self.random.random() < 0.1:
            return False
        for payload in payloads:
            self.append(payload)
        return True

    async def flush(self) -> bool:
        """Return whether what is written by now is applied, after a while."""
        wanted, until = len(self.journal), self.clock.monotonic() + FLUSH_SECONDS
        while self._position < wanted:
            if self.clock.monotonic() > until:
                return False
            await self.apply()
            if self._position < wanted:
                await self.clock.sleep(0.1)
        return True

    async def _drain(self) -> None:
        while True:
            await self.clock.sleep(self.random.uniform(0.5, 1.5) * self._drain_seconds)
            if self._position < len(self.journal):
                await self.apply()

    async def apply(self) -> None:
        """Apply a batch. One whose commit is not known is applied again: the cursor says from where."""
        first, stream, world = self._position, str(self.stream), self._world
        batch = self.journal[first : first + 50]
        wire = Wire(world.postgres, self.random, self)
        after = first + len(batch)
        self._position = world.rules.position_before_commit(first, after)
        with suppress(HXError):
            await wire.carry(lambda: world.bank.apply(stream, first, batch))
            self._position = max(self._position, after)

    # Calls

    def call(self, ask: CallAsk | None = None) -> None:
        """Let a client call, and perhaps go away before it has its answer."""
        task = self._own(self._call(ask or self._world.ask(self)))
        if ask is None and self.random.random() < 0.06:
            asyncio.get_running_loop().call_later(self.random.expovariate(8), task.cancel)

    async def _call(self, ask: CallAsk) -> None:
        world, random, meter = self._world, self.random, self.meter
        before = world.clock.now()
        try:
            admission = await meter.admit(ask)
        except HXError as error:
            with suppress(Broken):
                world.refused(self, ask, error)
            return
        cost, done = 0, False
        try:
            world.admitted(self, admission, before)
            await self._perhaps_raise(admission, ask.cost_nano)
            await self._perhaps_wait()
            if random.random() < 0.05:
                return
            cost = await self._send(admission, at_least=0)
            if await self._perhaps_raise(admission, ask.cost_nano):
                await self._perhaps_wait()
                cost = await self._send(admission, at_least=cost)
            done = True
            long = random.random() < 0.2
            await self.clock.sleep(min(12.0, random.expovariate(0.2)) if long else random.uniform(0.02, 0.6))
        except (JournalRefused, BudgetUnknown, Broken):
            # It may not go out (again), or the world has noted what broke.
            pass
        finally:
            if not self.dead:
                meter.settle(admission, CallDone(status=200 if done else 499, ending="complete", cost_nano=cost))
                # Written by now, or at the end of this turn.
                await asyncio.sleep(0)
                if not self.dead:
                    world.settled(self, admission, cost)

    async def _perhaps_wait(self) -> None:
        if not self._world.rests and self.random.random() < self._world.waiting:
            await self.clock.sleep(self.random.expovariate(1))

    async def _send(self, admission: Admission, *, at_least: int) -> int:
        """Let a call go to a deployment; return what it has cost from now on, with those before."""
        try:
            await self._note_sent(admission)
        except (JournalRefused, BudgetUnknown):
            # Some do not take no for an answer.
            await self.clock.sleep(self.random.expovariate(1))
            await self._note_sent(admission)
        cost = self.random.randint(at_least, admission.reserved_nano)
        self._world.spent(self, admission, cost)
        return cost

    async def _note_sent(self, admission: Admission) -> None:
        self.meter.sent(admission, "upstream", "provider")
        await asyncio.sleep(0)
        self.meter.confirm(admission)

    async def _perhaps_raise(self, admission: Admission, cost: int) -> bool:
        """Return whether more is reserved than was before."""
        if self.random.random() >= self._world.raising:
            return False
        wanted = int(cost * self.random.uniform(1, 2))
        for _ in range(3):
            self._world.raises(admission, wanted)
            with suppress(HXError):
                await self.meter.raise_to(admission, wanted)
                return True
            await self.clock.sleep(min(4.0, self.random.expovariate(0.7)))
        return False
