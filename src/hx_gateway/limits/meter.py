"""Lets model calls begin within their limits and budgets, and counts what they used: one meter a worker.

Rates fail open: a store that does not answer is replaced by this process's share at once. Money fails closed: what
nobody can count is not admitted. Whatever a call may cost is written to the journal before it can cost anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

import structlog

from hx_gateway.allowances import Budget, ScopeLimits
from hx_gateway.errors import HXError
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.limits.admission import Admission, Place, admission_of, ask_of
from hx_gateway.limits.authority import AuthorityKeeper, AuthorityOptions
from hx_gateway.limits.calls import CallAsk, CallDone, CallRefused
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.counts import MeterCounts
from hx_gateway.limits.decisions import Decisions, as_json, decision_of
from hx_gateway.limits.durable import DurableLedger, EpochState
from hx_gateway.limits.endings import Endings
from hx_gateway.limits.journaling import CallJournal
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Ask, CounterStore, Outcome, Verdict
from hx_gateway.limits.netting import is_error
from hx_gateway.limits.opening import WindowOpening
from hx_gateway.limits.refusals import decision_in, refusal_of
from hx_gateway.limits.reserving import Reserving
from hx_gateway.limits.upkeep import Leases, LocalCounter, Reconciling, Stores
from hx_gateway.limits.windows import charges_for
from hx_gateway.services.base import DependencyError

Mode = Literal["enforce", "shadow"]

MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterOptions:
    """Seconds: how long a lease is, and how often what is done. ``shadow`` refuses nothing and logs what it would.

    ``record_all``: whether calls that no budget is charged for are written down; without it only those of them that
    went wrong are, if ``record_errors``.
    """

    mode: Mode = "enforce"
    record_all: bool = True
    record_errors: bool = True
    lease: float = 60.0
    renew: float = 20.0
    lapse: float = 15.0
    reconcile: float = 60.0
    retry: float = 1.0
    stop: float = 2.0
    authority: AuthorityOptions = field(default_factory=AuthorityOptions)


class Meter:
    """Counts the calls of one worker. Use it as a context: it owns what goes on beside the calls.

    ``shared`` counts for all workers, and ``local`` this one's share of rates while that is away; without it
    ``process`` counts everything. ``append`` writes a payload to the journal of calls, ``together`` several at once
    (see :class:`CallJournal`), ``drained`` returns whether all that was written before is applied. ``on_soft`` is
    called with the tenant, a budget, the name of its window and what is spent or reserved there, once a worker and
    window; ``on_drift`` with a budget's id and by how much it is counted too high.
    """

    def __init__(
        self,
        *,
        stream_id: UUID,
        process: MemoryCounterStore | None = None,
        shared: CounterStore | None = None,
        local: LocalCounter | None = None,
        shared_healthy: Callable[[], bool] | None = None,
        ledger: DurableLedger | None = None,
        append: Callable[[bytes], object] | None = None,
        together: Callable[[Sequence[bytes]], bool] | None = None,
        drained: Callable[[], Awaitable[bool]] | None = None,
        clock: Clock | None = None,
        options: MeterOptions | None = None,
        on_soft: Callable[[str, Budget, str, int], None] | None = None,
        on_drift: Callable[[str, int], None] | None = None,
    ) -> None:
        local = local or process
        if local is None:
            raise ValueError("somebody must count in this process: give local or process")
        self.counts = MeterCounts()
        self._options = options or MeterOptions()
        self._clock = clock or SystemClock()
        self._time = AuthorityClock(self._clock)
        self._stores = stores = Stores(local, shared, process)
        self._shared_healthy = shared_healthy or _always
        self._on_soft = on_soft
        self.journal = journal = CallJournal(
            append, stream_id, drained=drained or _done, clock=self._clock, together=together
        )
        self.authority = AuthorityKeeper(
            ledger,
            stream_id,
            drained=journal.drained,
            clock=self._clock,
            authority_clock=self._time,
            shared_healthy=self._shared_healthy if shared is not None else None,
            on_epoch=self._epoch_began,
            options=self._options.authority,
        )
        self._endings = Endings(stores, ledger, self.authority, journal, self._clock)
        self._reconciling = Reconciling(stores, ledger, self.authority, journal, on_drift=on_drift)
        self._leases = Leases(stores, ledger, self.authority, journal, lease_seconds=self._options.lease)
        opening = WindowOpening(
            ledger,
            self.authority,
            clock=self._clock,
            authority_clock=self._time,
            lease_seconds=self._options.lease,
            settle=self._endings.put,
        )
        self._reserving = Reserving(
            stores,
            ledger,
            self.authority,
            self._endings,
            opening,
            clock=self._clock,
            authority_clock=self._time,
            counts=self.counts,
            lease_seconds=self._options.lease,
            on_touch=self._reconciling.touch,
        )
        self._open: dict[str, Admission] = {}
        self._decisions = Decisions()
        self._told: dict[tuple[str, str], None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger()

    # What goes on beside the calls

    async def __aenter__(self) -> Self:
        """Begin: join the others, and keep what is open alive."""
        for job in (*self._endings.jobs, self.authority.run, self.authority.pulse):
            self._tasks.append(asyncio.create_task(self._unfailing(job)))
        for seconds, now_and_then in (
            (self._options.renew, self._renew),
            (self._options.lapse, self._lapse),
            (self._options.reconcile, self._reconcile),
            (self._options.retry, self._endings.retry),
        ):
            self._tasks.append(asyncio.create_task(self._every(seconds, now_and_then)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand over what can be within a moment, and take leave of the others."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._endings.emptied(), self._options.stop)
        await end_tasks(self._tasks)
        self._tasks.clear()
        # Nothing beats any more, which would register this worker again.
        with suppress(TimeoutError):
            await asyncio.wait_for(self.authority.leave(), self._options.stop)
        if not self.journal.write_again() or self.settling:
            self._log.warning("meter_stopped_early", settling=self.settling, unwritten=self.journal.unwritten)

    @property
    def open_calls(self) -> int:
        """How many calls are admitted and not settled."""
        return len(self._open)

    @property
    def settling(self) -> int:
        """How many ends of calls the counters have yet to hear of."""
        return self._endings.waiting

    @property
    def lapsed(self) -> int:
        """How many calls were charged at their estimate because nobody renewed them."""
        return self._leases.lapsed

    @property
    def corrections(self) -> int:
        """How often counters were found to differ from the ledger."""
        return self._reconciling.corrections

    def distrust(self) -> None:
        """Let the counters that all share be told anew what is on record: they were replaced by an older copy."""
        self.authority.doubt(self.authority.heading_epoch)

    # Calls

    async def admit(self, call: CallAsk) -> Admission:
        """Take what ``call`` may use, or refuse it with the reason.

        Raises :class:`RateLimited`, :class:`QuotaExceeded`, or ``Unavailable``, under a budget only: when nobody can
        count (:class:`BudgetUnknown`), or the journal takes no record. What raises has reserved nothing.
        """
        allowance = call.allowance
        limits = allowance.limits_for(call.model) if allowance is not None else ()
        budgets = allowance.budgets_for(call.model) if allowance is not None else ()
        if not limits and not budgets:
            return self._admitted(Admission(call=call, admitted_us=self._time.now_us()))
        if not budgets:
            return self._admitted(await self._admit_rates(call, limits))
        try:
            admission = await self._reserving.admit(call, limits, budgets, mode=self._mode(call))
        except HXError as error:
            if self._mode(call) != "shadow":
                raise
            admission = self._let_through(call, budgets, error)
        self._tell_soft(admission)
        return self._admitted(admission)

    def sent(self, admission: Admission, deployment: str, provider: str) -> None:
        """Write that the call is about to go to ``deployment``.

        Raises ``JournalRefused``: then it is not on record; or :class:`BudgetUnknown`: what it reserved counts no more.
        With ``together`` it may go out a turn of the event loop later, once :meth:`confirm` has not raised.
        """
        if self._mode(admission.call) != "shadow":
            self._reserving.check(admission)
        if admission.charges or self._options.record_all:
            self.journal.sent(admission, deployment, provider)

    def confirm(self, admission: Admission) -> None:
        """Raise ``JournalRefused`` where what :meth:`sent` wrote together with others is not on record."""
        refused, admission.refused = admission.refused, None
        if refused is not None:
            raise refused
        if not admission.recorded and (admission.charges or self._options.record_all):
            raise JournalRefused("The call could not be written down before it went out.", reason="unwritten")

    async def raise_to(self, admission: Admission, cost_nano: int) -> None:
        """Reserve up to ``cost_nano`` for a dearer candidate. Raises as :meth:`admit`; what was reserved stays so."""
        if cost_nano <= admission.reserved_nano or not admission.charges or admission.place is Place.NOWHERE:
            return
        await self._reserving.raise_to(admission, cost_nano)

    def settle(self, admission: Admission, done: CallDone) -> None:
        """End a call, whatever became of it: once, from a ``finally``. Never raises and never waits."""
        if admission.settled:
            return
        admission.settled = True
        self._open.pop(admission.call_id, None)
        if admission.charges:
            self._reconciling.moved(admission.charge_keys)
            if admission.place is not Place.NOWHERE:
                self.counts.overrun_nano += max(0, done.cost_nano - admission.reserved_nano)
        wrong = self._options.record_errors and is_error(done.status, done.ending)
        if admission.charges or self._options.record_all or wrong:
            self.journal.done(admission, done)
        self._endings.end(admission, done)

    def refuse(self, refused: CallRefused) -> None:
        """Write that a call never began, for those who look for errors. Never raises."""
        if not self._endings.was_given_up(refused.call_id):
            self.journal.refused(refused)

    # Rates

    async def _admit_rates(self, call: CallAsk, limits: tuple[ScopeLimits, ...]) -> Admission:
        ask = ask_of(call, limits, lease_seconds=self._options.lease)
        verdict, place = await self._count(ask)
        mode, counted_by = self._mode(call), place.value
        if verdict.outcome is Outcome.ADMITTED:
            seen = self._decisions.admitted(ask, verdict, mode=mode, counted_by=counted_by)
            return admission_of(call, ask, verdict, place=place, decision=seen)
        decision = decision_of(ask, verdict, mode=mode, counted_by=counted_by)
        self.counts.refuse(verdict.outcome)
        error = refusal_of(ask, verdict, decision)
        if mode != "shadow":
            raise error
        self._would_refuse(call, error)
        return Admission(call=call, admitted_us=verdict.now_us, decision=as_json(decision))

    async def _count(self, ask: Ask) -> tuple[Verdict, Place]:
        """Ask whoever counts rates now: all workers together, else this one for itself."""
        shared = self._stores.shared
        if shared is not None and self._shared_healthy():
            asked_at = self._clock.monotonic()
            try:
                verdict = await shared.admit(ask)
            except (DependencyError, asyncio.CancelledError) as error:
                # It may have arrived: what it took is given back when the store is there again.
                self._endings.undo(Place.SHARED, ask)
                if isinstance(error, asyncio.CancelledError):
                    raise
            else:
                self._time.learn(verdict.now_us, asked_at)
                return verdict, Place.SHARED
        if shared is not None:
            self.counts.rate_fallbacks += 1
        return await self._stores.local.admit(ask), Place.LOCAL

    # Words about it

    def _admitted(self, admission: Admission) -> Admission:
        self.counts.admitted += 1
        if admission.place is not Place.NOWHERE:
            self._open[admission.call_id] = admission
        return admission

    def _let_through(self, call: CallAsk, budgets: tuple[Budget, ...], error: HXError) -> Admission:
        """Admit what would be refused: nothing is reserved, what it costs is charged all the same."""
        self._would_refuse(call, error)
        seen = decision_in(error)
        return Admission(
            call=call,
            charges=charges_for(budgets, self._time.now_us()),
            reserved_nano=call.cost_nano,
            admitted_us=self._time.now_us(),
            left_nano=tuple([budget["left_nano"] for budget in seen.get("budgets", ()) if "left_nano" in budget]),
            decision=as_json(seen or {"mode": "shadow", "outcome": error.code}),
        )

    def _would_refuse(self, call: CallAsk, error: HXError) -> None:
        self.counts.shadow_refusals += 1
        self._log.info(
            "limit_would_refuse", call_id=call.call_id, tenant=call.tenant_id, key_id=call.key_id, code=error.code
        )

    def _tell_soft(self, admission: Admission) -> None:
        for charge, left in zip(admission.charges, admission.left_nano, strict=False):
            budget = charge.budget
            if budget.soft_nano is None or budget.limit_nano - left < budget.soft_nano:
                continue
            if (budget.id, charge.window) in self._told:
                continue
            if len(self._told) >= MOST_REMEMBERED:
                del self._told[next(iter(self._told))]
            self._told[(budget.id, charge.window)] = None
            if self._on_soft is not None:
                self._on_soft(admission.call.tenant_id, budget, charge.window, budget.limit_nano - left)

    def _mode(self, call: CallAsk) -> Mode:
        return "shadow" if call.shadow else self._options.mode

    # Now and then

    def _epoch_began(self, state: EpochState) -> None:
        self._endings.epoch_began(state)

    async def _renew(self) -> None:
        await self._leases.renew(list(self._open.values()))

    async def _lapse(self) -> None:
        await self._leases.lapse(self._reconciling.tenants)

    async def _reconcile(self) -> None:
        await self._reconciling.step(self._open_keys)

    def _open_keys(self) -> frozenset[str]:
        return frozenset(key for admission in self._open.values() for key in admission.charge_keys)

    async def _every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._clock.sleep(seconds)
            try:
                await job()
            except Exception:  # noqa: BLE001 - the outermost edge of a task: it must not end in silence
                self._log.exception("meter_task_failed")

    async def _unfailing(self, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await job()
            except Exception:  # noqa: BLE001 - the outermost edge of a task: it must not end in silence
                self._log.exception("meter_task_failed")
                await self._clock.sleep(self._options.retry)


def _always() -> bool:
    return True


async def _done() -> bool:
    return True
