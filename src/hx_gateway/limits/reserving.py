"""Admits calls that are charged to budgets: by the counters of the epoch, or by PostgreSQL while it has the word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from hx_gateway.allowances import Budget, ScopeLimits
from hx_gateway.kit.clock import Clock
from hx_gateway.limits.admission import Admission, Place, admission_of, ask_of
from hx_gateway.limits.authority import AuthorityKeeper, Term, TermOver
from hx_gateway.limits.calls import CallAsk
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.counts import MeterCounts
from hx_gateway.limits.decisions import Decisions, decision_of
from hx_gateway.limits.durable import Authority, DurableLedger
from hx_gateway.limits.endings import Endings
from hx_gateway.limits.model import Ask, Outcome, Verdict
from hx_gateway.limits.opening import WindowOpening
from hx_gateway.limits.refusals import BudgetUnknown, refusal_of
from hx_gateway.limits.upkeep import Stores
from hx_gateway.limits.windows import charges_for
from hx_gateway.services.base import DependencyError

# Epochs that may end under a call before it is refused.
MOST_TERMS = 3


@dataclass(slots=True)
class _Doubt:
    """Whether an ask is on its way that nobody waits for any more."""

    lost: bool = False


class Reserving:
    """Fails closed. What is granted holds as long as its term: :meth:`check` says whether that is so."""

    def __init__(
        self,
        stores: Stores,
        ledger: DurableLedger | None,
        authority: AuthorityKeeper,
        endings: Endings,
        opening: WindowOpening,
        *,
        clock: Clock,
        authority_clock: AuthorityClock,
        counts: MeterCounts,
        lease_seconds: float,
        on_touch: Callable[[str, Sequence[str], int], None],
    ) -> None:
        self._stores = stores
        self._ledger = ledger
        self._authority = authority
        self._endings = endings
        self._opening = opening
        self._clock = clock
        self._time = authority_clock
        self._counts = counts
        self._lease_seconds = lease_seconds
        self._on_touch = on_touch
        self._decisions = Decisions()

    async def admit(
        self, call: CallAsk, limits: tuple[ScopeLimits, ...], budgets: tuple[Budget, ...], *, mode: str
    ) -> Admission:
        """Reserve what ``call`` may cost, or raise as ``Meter.admit`` does."""
        try:
            for _ in range(MOST_TERMS):
                term = self._authority.term or await self._authority.ready()
                admit = self._admit_in_ledger if term.authority is Authority.POSTGRES else self._admit_in_store
                try:
                    return await admit(call, limits, budgets, term, mode)
                except TermOver:
                    continue
            raise BudgetUnknown
        except BudgetUnknown:
            self._counts.budget_unavailable += 1
            raise

    def check(self, admission: Admission) -> None:
        """Raise :class:`BudgetUnknown` where what is not on record yet was granted in a term that is over.

        Nobody counts it any more, then and later. What is written in a term is drained before its end is acknowledged,
        so that the next one finds it on record.
        """
        if admission.term is not None and self._authority.term is not admission.term:
            self._counts.budget_unavailable += 1
            raise BudgetUnknown

    async def raise_to(self, admission: Admission, cost_nano: int) -> None:
        """Reserve up to ``cost_nano`` for a call that is admitted, or raise as ``Meter.raise_to`` does."""
        term = await self._authority.ready()
        if admission.term not in (None, term):
            raise BudgetUnknown
        ask, doubt = admission.ask(term.epoch, self._lease_seconds, cost_nano=cost_nano), _Doubt()
        try:
            if term.authority is Authority.POSTGRES:
                verdict = await self._ask_ledger(self._ledger_itself.raise_reservation, ask, doubt)
            else:
                store, _ = self._stores.of(term)
                await self._opening.open(store, ask.tenant_id, admission.charges, term)
                verdict = await self._ask(store.raise_reservation, ask, doubt)
        finally:
            admission.doubtful |= doubt.lost
        if verdict.outcome is not Outcome.ADMITTED:
            self._counts.refuse(verdict.outcome)
            raise refusal_of(ask, verdict)
        admission.reserved_nano, admission.term = cost_nano, term

    async def _admit_in_store(
        self, call: CallAsk, limits: tuple[ScopeLimits, ...], budgets: tuple[Budget, ...], term: Term, mode: str
    ) -> Admission:
        store, place = self._stores.of(term)
        charges = self._opening.opened(budgets, term)
        if charges is None:
            charges = await self._opening.charges(store, call.tenant_id, budgets, term)
            if self._authority.term is not term:
                raise TermOver
        ask = ask_of(call, limits, charges, epoch=term.epoch, lease_seconds=self._lease_seconds)
        # Of those that are refused too: what the dead left behind may be in their way.
        self._on_touch(call.tenant_id, [charge.key for charge in charges], term.epoch)
        doubt = _Doubt()
        try:
            verdict = await self._ask(store.admit, ask, doubt)
            if verdict.outcome in (Outcome.STALE, Outcome.COLD):
                # It knew the windows a moment ago: it has lost them, or another epoch has begun.
                self._authority.doubt(term.epoch)
            admission = self._judge(call, ask, verdict, term, place=place, mode=mode)
        except BaseException:
            if doubt.lost:
                self._endings.undo(place, ask)
            raise
        admission.term, admission.doubtful = term, doubt.lost
        return admission

    async def _admit_in_ledger(
        self, call: CallAsk, limits: tuple[ScopeLimits, ...], budgets: tuple[Budget, ...], term: Term, mode: str
    ) -> Admission:
        rates = ask_of(call, limits, lease_seconds=self._lease_seconds)
        counted = await self._stores.local.admit(rates) if limits else None
        if counted is not None and counted.outcome is not Outcome.ADMITTED:
            self._judge(call, rates, counted, term, place=Place.LOCAL, mode=mode)
        heard, doubt = self._time.heard, _Doubt()
        charges = charges_for(budgets, self._time.now_us())
        ask = ask_of(call, limits, charges, epoch=term.epoch, lease_seconds=self._lease_seconds)
        try:
            verdict = await self._ask_ledger(self._ledger_itself.reserve, ask, doubt)
            if verdict.outcome is Outcome.STALE and not doubt.lost:
                raise TermOver
            if counted is not None:
                verdict = msgspec.structs.replace(verdict, requests=counted.requests, tokens=counted.tokens)
            admission = self._judge(call, ask, verdict, term, place=Place.LOCAL, mode=mode)
            if not heard and charges_for(budgets, verdict.now_us) != charges:
                # This machine's clock is off, and nobody had said so before.
                doubt.lost = True
                raise BudgetUnknown
        except BaseException as error:
            if doubt.lost:
                self._endings.give_up(call, error)
                self._endings.release(call.call_id)
            if limits:
                self._endings.undo(Place.LOCAL, ask, doubtful=False)
            raise
        admission.term, admission.doubtful = term, doubt.lost
        admission.in_ledger = admission.recorded = True
        return admission

    def _judge(self, call: CallAsk, ask: Ask, verdict: Verdict, term: Term, *, place: Place, mode: str) -> Admission:
        """Return the admission that a verdict comes to, or raise the refusal."""
        counted_by, epoch = term.authority.value, term.epoch
        if verdict.outcome is Outcome.ADMITTED:
            seen = self._decisions.admitted(ask, verdict, mode=mode, counted_by=counted_by, epoch=epoch)
            return admission_of(call, ask, verdict, place=place, decision=seen)
        self._counts.refuse(verdict.outcome)
        decision = decision_of(ask, verdict, mode=mode, counted_by=counted_by, epoch=epoch)
        raise refusal_of(ask, verdict, decision)

    async def _ask(self, ask_it: Callable[[Ask], Awaitable[Verdict]], ask: Ask, doubt: _Doubt) -> Verdict:
        """Ask, and once more when the answer is lost. Raises :class:`BudgetUnknown`."""
        for again in (False, True):
            asked_at = self._clock.monotonic()
            before, doubt.lost = doubt.lost, True
            try:
                verdict = await ask_it(msgspec.structs.replace(ask, again=True) if again else ask)
            except DependencyError:
                self._counts.lost_answers += 1
                continue
            doubt.lost = before
            if verdict.now_us:
                self._time.learn(verdict.now_us, asked_at)
            return verdict
        raise BudgetUnknown

    async def _ask_ledger(self, ask_it: Callable[[Ask, int], Awaitable[Verdict]], ask: Ask, doubt: _Doubt) -> Verdict:
        return await self._ask(lambda asked: ask_it(asked, asked.epoch), ask, doubt)

    @property
    def _ledger_itself(self) -> DurableLedger:
        assert self._ledger is not None
        return self._ledger
