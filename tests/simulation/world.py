"""Workers, their servers, and what goes wrong between them; and what must be true all the same."""

from __future__ import annotations

import asyncio
import random as global_random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import msgspec
import structlog

from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.errors import HXError
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.calls import CallAsk
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Lapsed
from hx_gateway.limits.records import LAPSED
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.limits.windows import charges_for
from tests.simulation.bank import Bank
from tests.simulation.virtual_time import TrueClock, run_virtually, virtual_loop
from tests.simulation.wires import Server, Weather
from tests.simulation.worker import Broken, Worker

CHAOS_SECONDS = 26
CALM_SECONDS = 45
MOST_CALL_NANO = 120
# How long the counters may take to hear of an end.
SETTLED_SECONDS = 4.5
TRACE_LINES = 400


@dataclass(frozen=True, slots=True)
class Rules:
    """What a mutant may do otherwise, where the code that does it is the simulation's own."""

    position_before_commit: Callable[[int, int], int] = lambda first, after: first
    bank: type[Bank] = Bank
    store: type[MemoryCounterStore] = MemoryCounterStore


@dataclass(slots=True)
class Known:
    """What really became of a call."""

    windows: tuple[str, ...]
    reserved: int
    epoch: int
    true: int | None = None
    settled: int | None = None
    settled_at: float = 0.0


@dataclass
class World:
    """Everything in one simulated run; ``seed`` decides all of it."""

    seed: int
    rules: Rules = field(default_factory=Rules)
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.faults: Counter[str] = Counter()
        self.lapses = 0
        self.broken: Broken | None = None
        self.rests = False
        self.going_on: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Live through chaos, come to rest, and check what must be true then."""
        random, loop = self.random, virtual_loop()
        self.nap = loop.nap
        self.clock = TrueClock(loop)
        self.alone = random.random() < 0.2
        self.drain_seconds = random.choice([0.4, 1.0, 3.0])
        # How many of the calls ask for more, and how many wait before they go out.
        self.raising = random.choice([0.1, 0.1, 0.1, 0.8])
        self.waiting = random.choice([0.1, 0.1, 0.1, 0.6])
        stormy = random.random() < 0.6
        self.redis, self.postgres = Server("Redis", self._weather(stormy)), Server("PostgreSQL", self._weather(stormy))
        self.store = self.rules.store(self.clock)
        self.workers: list[Worker] = []
        wanted = Authority.PROCESS if self.alone else Authority.REDIS
        self.bank = self.rules.bank(self.clock, wanted, self._is_dead, self._length)
        self.calls: dict[str, Known] = {}
        self.spent_in: Counter[str] = Counter()
        self.limits: dict[str, int] = {}
        self._make_tenants()
        for _ in range(1 if self.alone else random.randint(1, 3)):
            await self.start()
        adopting = loop.create_task(self._adopt())
        chaos = [loop.create_task(self._chaos()), loop.create_task(self._arrivals())]
        try:
            for _ in range(CHAOS_SECONDS):
                await self.nap(1.0)
                self._look()
            for task in (*chaos, *self.going_on):
                task.cancel()
            await self._come_to_rest()
            self._check_at_rest()
        finally:
            adopting.cancel()
            for worker in self.alive:
                worker.stop()

    # Who is there

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.dead]

    async def start(self) -> None:
        worker = Worker(self, len(self.workers), Random(self.random.getrandbits(64)), alone=self.alone)
        self.workers.append(worker)
        self.say(worker, "starts")
        await worker.start()

    async def _adopt(self) -> None:
        """Drain what dead processes left: whoever lives on that machine does."""
        adopted: set[Worker] = set()
        while True:
            await self.nap(1.0)
            for worker in self.workers:
                if not worker.dead or worker in adopted or not self.postgres.up or not self.alive:
                    continue
                if self.random.random() < 0.6:
                    adopted.add(worker)
                    self.bank.apply(str(worker.stream), 0, worker.journal)

    def _is_dead(self, stream: str) -> bool:
        return any(worker.dead and str(worker.stream) == stream for worker in self.workers)

    def _length(self, stream: str) -> int:
        return next(len(worker.journal) for worker in self.workers if str(worker.stream) == stream)

    def _weather(self, stormy: bool) -> Weather:
        rate = self.random.choice([0.01, 0.04, 0.1]) if stormy else 0.0
        return Weather(lost=rate, answer_lost=rate, delayed=rate, twice=rate / 2)

    def _make_tenants(self) -> None:
        random = self.random
        self.allowances = []
        for number in range(random.randint(1, 2)):
            tenant = f"t{number}"
            key = Budget(
                id=f"bg-k{number}",
                kind=ScopeKind.KEY,
                owner_id=f"k{number}",
                limit_nano=random.randint(200, 900),
                period=random.choice([Period.DAY, Period.TOTAL]),
                soft_nano=100,
            )
            shared = Budget(
                id=f"bg-t{number}",
                kind=ScopeKind.TENANT,
                owner_id=tenant,
                limit_nano=random.randint(300, 1500),
                period=random.choice([Period.DAY, Period.MONTH, Period.TOTAL]),
            )
            limits = ScopeLimits(
                kind=ScopeKind.KEY, id=f"k{number}", requests=Rate(60_000, 1000), tokens=Rate(60_000, 9000), parallel=50
            )
            self.limits |= {key.id: key.limit_nano, shared.id: shared.limit_nano}
            budgets = random.choice([(key,), (shared,), (key, shared)])
            self.allowances += [
                Allowance(tenant_id=tenant, limits=(limits,) if random.random() < 0.4 else (), budgets=budgets),
                Allowance(tenant_id=tenant, budgets=(shared,)),
            ]

    # What goes wrong

    async def _arrivals(self) -> None:
        while True:
            await self.nap(self.random.expovariate(1.6))
            for _ in range(self.random.choice([1, 1, 1, 2, 4])):
                running = [worker for worker in self.alive if not worker.frozen]
                if running:
                    self.random.choice(running).call()

    async def _chaos(self) -> None:
        faults: list[tuple[int, Callable[[], Any]]] = [
            (4, self._kill),
            (3, self._freeze),
            (3, lambda: self._outage(self.redis)),
            (2, lambda: self._outage(self.postgres)),
            (3, self._flush),
            (2, self._jump),
            (1, self._fill_disk),
            (2, self._join),
            (4, self._distrust),
        ]
        enabled = [fault for fault in faults if self.random.random() < 0.6]
        if self.random.random() < 0.15 or not enabled:
            return
        weights, rate = [weight for weight, _ in enabled], self.random.choice([0.15, 0.3, 0.8])
        while True:
            await self.nap(self.random.expovariate(rate))
            _, fault = self.random.choices(enabled, weights)[0]
            going_on = asyncio.get_running_loop().create_task(fault())
            self.going_on.add(going_on)
            going_on.add_done_callback(self.going_on.discard)

    async def _kill(self) -> None:
        if self.alive:
            worker = self.random.choice(self.alive)
            self.say(worker, "is killed", fault="kill")
            worker.stop()
            await self.nap(self.random.choice([0.05, 0.5, 3.0, 8.0]))
            await self.start()

    async def _join(self) -> None:
        if len(self.alive) < 4:
            self.faults["join"] += 1
            await self.start()

    async def _freeze(self) -> None:
        if self.alive:
            worker = self.random.choice(self.alive)
            self.say(worker, "is stopped", fault="freeze")
            worker.freeze()
            await self.nap(self.random.choice([0.3, 2.0, 7.0, 12.0]))
            if not worker.dead:
                self.say(worker, "goes on")
                worker.thaw()

    async def _outage(self, server: Server) -> None:
        server.up = False
        self.say(server.name, "is away", fault=f"no {server.name}")
        await self.nap(self.random.choice([0.1, 1.2, 3.0, 8.0]))
        server.up = True
        self.say(server.name, "is back")
        if server is self.redis and self.random.random() < 0.3:
            await self._flush()

    async def _flush(self) -> None:
        self.say("Redis", "loses everything", fault="flush")
        self.store = self.rules.store(self.clock)

    async def _distrust(self) -> None:
        if self.alive:
            worker = self.random.choice(self.alive)
            self.say(worker, "distrusts the counters", fault="distrust")
            worker.meter.distrust()

    async def _jump(self) -> None:
        if self.alive:
            worker = self.random.choice(self.alive)
            worker.clock.skew += self.random.choice([-3600.0, 3600.0, 45.0, -45.0])
            self.say(worker, f"has its clock off by {worker.clock.skew}", fault="jump")

    async def _fill_disk(self) -> None:
        if self.alive:
            worker = self.random.choice(self.alive)
            self.say(worker, "has a full disk", fault="full")
            worker.full = True
            await self.nap(self.random.choice([0.5, 4.0]))
            worker.full = False

    # What is seen

    def say(self, who: object, what: str, *, fault: str | None = None) -> None:
        if fault is not None:
            self.faults[fault] += 1
        self.trace.append(f"{self.clock.monotonic():8.3f} {who} {what}")

    def fail(self, invariant: str, why: str) -> None:
        said = "\n".join(self.trace[-TRACE_LINES:])
        # Some task of a worker raises it, where nobody may look.
        self.broken = self.broken or Broken(f"seed {self.seed}: {invariant}: {why}\n{said}")
        raise self.broken

    def _look(self) -> None:
        if self.broken is not None:
            raise self.broken

    def ask(self, worker: Worker, allowance: Allowance | None = None) -> CallAsk:
        allowance = allowance or self.random.choice(self.allowances)
        call_id = f"{worker.random.getrandbits(48):012x}"
        return CallAsk(
            call_id=f"{len(self.trace):08x}-0000-7000-8000-{call_id}",
            request_id="r",
            tenant_id=allowance.tenant_id,
            key_id="k",
            model="m",
            requested_model="m",
            operation="chat",
            allowance=allowance,
            tokens=10,
            cost_nano=worker.random.randint(1, MOST_CALL_NANO),
        )

    def admitted(self, worker: Worker, admission: Admission, before: datetime) -> None:
        self.say(
            worker,
            f"admits {admission.call_id} {admission.charge_keys} {admission.reserved_nano} "
            f"in {admission.decision.decode()}",
        )
        self.calls[admission.call_id] = Known(admission.charge_keys, admission.reserved_nano, admission.epoch)
        budgets = [charge.budget for charge in admission.charges]
        if not self.alone:
            right = {charges_for(budgets, unix_us(before)), charges_for(budgets, unix_us(self.clock.now()))}
            if admission.charges not in right:
                self.fail("I5", f"{worker} charged {admission.call_id} to {admission.charge_keys}")

    def refused(self, worker: Worker, ask: CallAsk, error: HXError) -> None:
        self.say(worker, f"refuses {ask.call_id} {error.code}")
        if self.rests and isinstance(error, BudgetUnknown):
            if ask.request_id == "r":
                # Whoever finds out that something was lost is told to try again, which is another call.
                again = msgspec.structs.replace(self.ask(worker, ask.allowance), request_id="again")
                asyncio.get_running_loop().call_later(2.5, worker.call, again)
                return
            self.fail("liveness", f"{worker} refuses though all is well: {self.bank.state()}")

    def spent(self, worker: Worker, admission: Admission, cost: int) -> None:
        """A call goes out: from here on its provider charges it, whatever becomes of the worker."""
        self.say(worker, f"sends {admission.call_id}, which costs {cost} of {admission.reserved_nano}")
        known = self.calls[admission.call_id]
        more = cost - (known.true or 0)
        known.true, known.reserved = cost, max(known.reserved, admission.reserved_nano)
        for key in known.windows:
            self.spent_in[key] += more
            limit = self.limits[key.partition(":")[0]]
            if self.spent_in[key] > limit:
                self.fail("I1", f"{self.spent_in[key]} of {limit} are spent in {key}")

    def raises(self, admission: Admission, cost: int) -> None:
        known = self.calls[admission.call_id]
        known.reserved = max(known.reserved, cost)

    def settled(self, worker: Worker, admission: Admission, cost: int) -> None:
        self.say(worker, f"settles {admission.call_id} at {cost}")
        if not worker.full and not worker.meter.journal.unwritten:
            known = self.calls[admission.call_id]
            known.settled, known.settled_at = cost, self.clock.monotonic()

    def lapsed(self, calls: Sequence[Lapsed]) -> None:
        """Look at who lost what it held, whoever hears of it: nobody whose end was told while all could hear it."""
        self.lapses += len(calls)
        if self.redis.weather.lost > 0.04 or set(self.faults) & {"kill", "freeze", "no Redis", "flush"}:
            return
        for lapsed in calls:
            known = self.calls.get(lapsed.call_id)
            if known is None or known.settled is None or known.epoch != self.bank.epoch:
                continue
            if self.clock.monotonic() - known.settled_at > SETTLED_SECONDS:
                self.fail("I3", f"{lapsed.call_id} lapsed though it was settled")

    # What must be true

    async def _come_to_rest(self) -> None:
        self.say("all", "calms down")
        for server in (self.redis, self.postgres):
            server.storms = server.weather.lost > 0
            server.up, server.weather = True, Weather()
        for worker in self.alive:
            worker.full = False
            worker.thaw()
        if not self.alive:
            await self.start()
        await self.nap(7.0)
        self.rests = True
        for allowance in self.allowances:
            worker = self.random.choice(self.alive)
            worker.call(self.ask(worker, allowance))
        for _ in range(CALM_SECONDS):
            await self.nap(1.0)
            self._look()
            if self._is_at_rest():
                return

    def _is_at_rest(self) -> bool:
        return (
            self.clock.monotonic() > CHAOS_SECONDS + 12
            and not any(worker.meter.open_calls or worker.meter.settling for worker in self.alive)
            and not self._open_in_bank()
            and not self._without_term()
            and not self._open_in_counters()
            and not self._differences()
            and not any(self.bank.cursors.get(str(worker.stream), 0) < len(worker.journal) for worker in self.alive)
        )

    def _open_in_bank(self) -> list[str]:
        return [call for call, held in self.bank.held.items() if held.state != "void"]

    def _open_in_counters(self) -> list[object]:
        found: list[object] = []
        for store in self._counters():
            for tenant in store._tenants.values():
                if tenant.money is not None and tenant.money.epoch == self.bank.epoch:
                    found += [*tenant.money.open, *(key for key, held in tenant.money.reserved.items() if held)]
        return found

    def _without_term(self) -> list[str]:
        return [str(worker) for worker in self.alive if worker.meter.authority.term is None]

    def _counters(self) -> list[MemoryCounterStore]:
        authority = self.bank.authority
        if authority is Authority.REDIS:
            return [self.store]
        if authority is Authority.PROCESS:
            return [worker.memory for worker in self.alive if worker.meter.authority.term is not None]
        return []

    def _differences(self) -> dict[str, tuple[int, int]]:
        """Return what the counters have posted in windows, and the ledger, where they differ."""
        found = {}
        # The others are nobody's business any more, or not yet.
        used = {
            key
            for worker in self.alive
            if worker.meter._reconciling._epoch == self.bank.epoch
            for key in worker.meter._reconciling._touched
        }
        for store in self._counters():
            for tenant in store._tenants.values():
                if tenant.money is not None and tenant.money.epoch == self.bank.epoch:
                    for key, posted in tenant.money.posted.items():
                        if key in used and posted != self.bank.posted.get(key, 0):
                            found[key] = (posted, self.bank.posted.get(key, 0))
        return found

    def _check_at_rest(self) -> None:
        self._check_liveness()
        rows: Counter[str] = Counter()
        for done in self.bank.rows.values():
            if type(done.cost_nano) is not int:
                self.fail("I6", f"{done.cost_nano!r} is no whole number")
            for key in done.facts.charges:
                rows[key] += done.cost_nano
        for key in {*rows, *self.bank.posted}:
            if rows[key] != self.bank.posted.get(key, 0):
                self.fail("I2", f"{key}: rows come to {rows[key]}, posted is {self.bank.posted.get(key, 0)}")
        if self._differences():
            self.fail("I2", f"counted and on record: {self._differences()} in {self.bank.state()}")
        for call_id, known in self.calls.items():
            self._check_call(call_id, known)
        if self._open_in_bank():
            self.fail("I3", f"reserved for nobody in the ledger: {self._open_in_bank()}")
        if self._open_in_counters():
            self.fail("I3", f"reserved for nobody in the counters: {self._open_in_counters()}")
        self._check_quiet()

    def _check_call(self, call_id: str, known: Known) -> None:
        row = self.bank.rows.get(call_id)
        if known.true is not None and row is None:
            self.fail("I4", f"{call_id} was sent and is not on record")
        if row is None:
            return
        charged = set(row.facts.charges)
        # One that was never sent, and is charged because its lease ran out, may be charged in a part of its windows.
        part = known.true is None and row.settled_by == LAPSED and charged < set(known.windows)
        if charged != set(known.windows) and not part:
            self.fail("I5", f"{call_id} is on record in {row.facts.charges}, not {known.windows}")
        if known.settled is not None and row.cost_nano != known.settled:
            self.fail("I2", f"{call_id} cost {known.settled} and is on record at {row.cost_nano}")
        if known.true is not None and not known.true <= row.cost_nano <= max(known.reserved, known.true):
            self.fail("I2", f"{call_id} cost {known.true} of {known.reserved} and is on record at {row.cost_nano}")

    def _check_liveness(self) -> None:
        if self._without_term():
            self.fail("liveness", f"{self._without_term()} admit nothing: {self.bank.state()}")
        for worker in self.alive:
            if worker.meter.open_calls or worker.meter.settling:
                self.fail("I3", f"{worker} has {worker.meter.open_calls} open, {worker.meter.settling} to settle")

    def _check_quiet(self) -> None:
        """Where nothing stood still, died or was lost, nothing lapses, and what did not lapse needs no correction."""
        if set(self.faults) - {"no PostgreSQL", "full", "join"} or self.alone:
            return
        lapsed = sum(worker.meter.lapsed for worker in self.workers)
        corrections = sum(worker.meter.corrections for worker in self.workers)
        if (lapsed and not self.redis.storms) or (corrections and not self.lapses):
            self.fail("quiet", f"{lapsed} lapsed, {corrections} corrected")


def simulate(seed: int, rules: Rules | None = None) -> World:
    """Run one seed to its end. Raises :class:`Broken` with what happened."""
    world = World(seed, rules or Rules())
    global_random.seed(seed)
    run_virtually(world.run)
    return world


def be_quiet() -> None:
    """Let the log go nowhere: there is too much of it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True)


__all__ = ["Broken", "Rules", "World", "be_quiet", "simulate"]
