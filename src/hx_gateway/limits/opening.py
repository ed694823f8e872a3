"""Opens windows of budgets in a store: what was spent in them so far is told to it before anything is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from weakref import WeakValueDictionary

from hx_gateway.allowances import Budget
from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import from_unix_us
from hx_gateway.limits.authority import AuthorityKeeper, Term, TermOver
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.durable import Authority, DurableLedger
from hx_gateway.limits.model import Ask, Charge, CounterStore, Outcome, Settlement, Verdict, WindowSeed
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.limits.windows import charges_for, window_of
from hx_gateway.services.base import DependencyError

# Probes of a tenant until it is ready: it is begun, then its windows are seeded, then it answers.
MOST_PROBES = 5
# Who has the right to begin with a tenant may be about to: look again before the store is said to have lost it.
BEGUN_SECONDS = 0.1
MOST_WAITS = 2
MOST_REMEMBERED = 100_000
# By how much clocks of earlier epochs may have been ahead, for a window that is taken to be new.
NEW_WINDOW_MARGIN = timedelta(hours=1)


class WindowOpening:
    """Knows which windows are open in the current epoch.

    The order is what makes the record complete: a call is journaled only once the store knows its windows. So nothing
    that is journaled in an epoch can be among what a window of that epoch is seeded with, where it would pass for a
    reservation that was granted.
    """

    def __init__(
        self,
        ledger: DurableLedger | None,
        authority: AuthorityKeeper,
        *,
        clock: Clock,
        authority_clock: AuthorityClock,
        lease_seconds: float,
        settle: Callable[[CounterStore, Settlement], None],
    ) -> None:
        self._ledger = ledger
        self._authority = authority
        self._clock = clock
        self._authority_clock = authority_clock
        self._lease_seconds = lease_seconds
        self._settle = settle
        self._epoch = 0
        self._open: set[str] = set()
        # What was found open in this epoch, by its identity: a key's charges are the same object while its windows are.
        self._found: dict[int, tuple[Charge, ...]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._probes = count(1)

    def opened(self, budgets: Sequence[Budget], term: Term) -> tuple[Charge, ...] | None:
        """Return what a call that begins now is charged to, or ``None`` where the store may not know all of it."""
        charges = charges_for(budgets, self._authority_clock.now_us())
        if self._found.get(id(charges)) is charges and self._epoch == term.epoch:
            return charges
        if not self._all_open(charges, term):
            return None
        self._found[id(charges)] = charges
        return charges

    async def charges(
        self, store: CounterStore, tenant_id: str, budgets: Sequence[Budget], term: Term
    ) -> tuple[Charge, ...]:
        """Return what a call that begins now is charged to, once ``store`` knows all of it; nothing is awaited after.

        Raises :class:`BudgetUnknown`.
        """
        for _ in range(MOST_PROBES):
            if self._authority.term is not term:
                raise TermOver
            charges = self.opened(budgets, term)
            if charges is not None:
                return charges
            await self.open(store, tenant_id, charges_for(budgets, self._authority_clock.now_us()), term)
        raise BudgetUnknown

    async def open(self, store: CounterStore, tenant_id: str, charges: Sequence[Charge], term: Term) -> None:
        """Let ``store`` know the windows of ``charges``. Raises :class:`BudgetUnknown`."""
        lock = self._locks.get(tenant_id)
        if lock is None:
            lock = self._locks[tenant_id] = asyncio.Lock()
        async with lock:
            if self._all_open(charges, term):
                return
            try:
                await self._try(store, tenant_id, tuple(charges), term)
            except DependencyError:
                raise BudgetUnknown from None

    def _all_open(self, charges: Sequence[Charge], term: Term) -> bool:
        if self._epoch != term.epoch or max(len(self._open), len(self._found)) > MOST_REMEMBERED:
            self._epoch = term.epoch
            self._open.clear()
            self._found.clear()
        return self._open.issuperset([charge.key for charge in charges])

    async def _try(self, store: CounterStore, tenant_id: str, charges: tuple[Charge, ...], term: Term) -> None:
        waits = 0
        for _ in range(MOST_PROBES + MOST_WAITS):
            verdict = await self._probe(store, tenant_id, charges, term)
            if verdict.outcome is Outcome.STALE:
                if not await self._begin(store, tenant_id, term):
                    waits += 1
                    await self._wait(waits, term)
            elif verdict.outcome is Outcome.COLD:
                seeds = await self._seeds(verdict.cold, charges, term)
                await store.seed(tenant_id, term.epoch, seeds, self._lease_seconds)
            else:
                if self._epoch == term.epoch:
                    self._open.update(charge.key for charge in charges)
                return
        raise BudgetUnknown

    async def _probe(self, store: CounterStore, tenant_id: str, charges: tuple[Charge, ...], term: Term) -> Verdict:
        """Ask for nothing: the answer says whether the tenant and its windows are known, and what time it is."""
        call_id = f"probe-{self._authority.stream_id}-{next(self._probes)}"
        asked_at = self._clock.monotonic()
        ask = Ask(
            call_id=call_id,
            tenant_id=tenant_id,
            charges=charges,
            epoch=term.epoch,
            lease_seconds=self._lease_seconds,
        )
        verdict = await store.admit(ask)
        self._authority_clock.learn(verdict.now_us, asked_at)
        if verdict.outcome is Outcome.ADMITTED:
            self._settle(store, Settlement(call_id=call_id, tenant_id=tenant_id))
        return verdict

    async def _begin(self, store: CounterStore, tenant_id: str, term: Term) -> bool:
        """Begin the epoch for a tenant, if that is ours to do: once in an epoch, by one, and never tried again."""
        ledger = None if term.authority is Authority.PROCESS else self._ledger
        if ledger is not None and not await ledger.touch_tenant(tenant_id, term.epoch):
            return False
        try:
            await store.begin(tenant_id, term.epoch)
        except DependencyError:
            # It may arrive yet, and a second one after money was counted: only a new epoch is sure.
            self._authority.doubt(term.epoch)
            raise TermOver from None
        return True

    async def _wait(self, waits: int, term: Term) -> None:
        if waits > MOST_WAITS:
            self._authority.doubt(term.epoch)
            raise TermOver
        await self._clock.sleep(BEGUN_SECONDS)

    async def _seeds(self, cold: Sequence[str], charges: Sequence[Charge], term: Term) -> list[WindowSeed]:
        if self._ledger is None:
            return [WindowSeed(key=key) for key in cold]
        try:
            found = await self._ledger.windows(cold)
        except DependencyError:
            if not all(self._is_new(charge, term) for charge in charges if charge.key in cold):
                raise
            found = {}
        return [found.get(key) or WindowSeed(key=key) for key in cold]

    def _is_new(self, charge: Charge, term: Term) -> bool:
        """Return whether a window began after everybody was in this epoch: then the store saw all that it holds."""
        budget = charge.budget
        window = window_of(budget.period, budget.time_zone, self._authority_clock.now())
        return window.id == charge.window and window.start > from_unix_us(term.since_us) + NEW_WINDOW_MARGIN
