"""What goes on beside the calls: leases are renewed, those that ran out are charged, and counters are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from hx_gateway.limits.admission import Admission, Place
from hx_gateway.limits.authority import AuthorityKeeper, Term
from hx_gateway.limits.durable import Authority, DurableLedger
from hx_gateway.limits.journaling import CallJournal, lapsed_windows
from hx_gateway.limits.model import (
    Ask,
    CounterStore,
    Lapsed,
    Settlement,
    Verdict,
    WindowSeed,
    WindowState,
)
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.services.base import DependencyError

# How often a difference is seen, with nothing going on, before it is believed. The way down leads through a new epoch,
# for which everybody is waited for.
SEEN_UPWARDS = 2
SEEN_DOWNWARDS = 3
MOST_WINDOWS = 10_000
MOST_PENDING = 10_000


class RateCounter(Protocol):
    """What counts rates and slots, if no money: the part of a ``CounterStore`` that a share of the limits has."""

    async def admit(self, ask: Ask) -> Verdict: ...
    async def settle(self, settlements: Sequence[Settlement]) -> None: ...
    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None: ...


class LocalCounter(RateCounter, Protocol):
    """What counts in this process: it hears of an end at once, without a task that tells it."""

    def end(self, settlements: Sequence[Settlement]) -> None: ...


@dataclass(frozen=True, slots=True)
class Stores:
    """Who counts: ``shared`` for all workers; without it ``process``, money too; ``local`` rates while it is away."""

    local: LocalCounter
    shared: CounterStore | None
    process: CounterStore | None

    def at(self, place: Place) -> RateCounter:
        """Return who counts rates at a place."""
        return self.shared if place is Place.SHARED and self.shared is not None else self.local

    def of(self, term: Term) -> tuple[CounterStore, Place]:
        """Return the store that counts money in a term; not for PostgreSQL's. Raises :class:`BudgetUnknown`."""
        if term.authority is Authority.REDIS and self.shared is not None:
            return self.shared, Place.SHARED
        if term.authority is Authority.PROCESS and self.process is not None:
            return self.process, Place.LOCAL
        raise BudgetUnknown


class Leases:
    """Renews what this worker's open calls hold, and charges what nobody renews any more at its estimate."""

    def __init__(
        self,
        stores: Stores,
        ledger: DurableLedger | None,
        authority: AuthorityKeeper,
        journal: CallJournal,
        *,
        lease_seconds: float,
    ) -> None:
        self.lapsed = 0
        self._stores = stores
        self._ledger = ledger
        self._authority = authority
        self._journal = journal
        self._lease_seconds = lease_seconds
        self._pending: list[Lapsed] = []

    async def renew(self, admissions: Iterable[Admission]) -> None:
        """Give each open call's lease its full length again; a store that is away is tried the next time."""
        asks: dict[tuple[Place, str], list[Ask]] = {}
        heading = self._authority.heading
        for admission in admissions:
            ask = admission.ask(0, self._lease_seconds)
            places = {admission.place}
            if admission.charges and heading is Authority.REDIS:
                # Whoever admitted it: a new epoch's counters were told of it.
                places.add(Place.SHARED)
            for place in places - {Place.NOWHERE}:
                asks.setdefault((place, ask.tenant_id), []).append(ask)
        for (place, tenant_id), together in asks.items():
            try:
                await self._stores.at(place).renew(tenant_id, together)
            except DependencyError:
                continue

    async def lapse(self, tenants: Iterable[str]) -> None:
        """Charge calls whose lease ran out: their owners may be gone. Those that the ledger has open are left to it."""
        term = self._authority.term
        if term is None or term.authority is Authority.POSTGRES:
            return
        store, _ = self._stores.of(term)
        try:
            for tenant_id in tenants:
                found = await store.lapse(tenant_id)
                self._pending += [lapsed for lapsed in found if lapsed.cost_nano > 0]
            await self._charge()
        except DependencyError:
            del self._pending[:-MOST_PENDING]

    async def _charge(self) -> None:
        pending = list(self._pending)
        if not pending:
            return
        keys = lapsed_windows(pending)
        known = await self._ledger.windows(keys) if self._ledger is not None else {}
        del self._pending[: len(pending)]
        for lapsed in pending:
            self.lapsed += 1
            # What is open there ends there, in all of its windows; here some may not be known.
            if not any(lapsed.call_id in seed.reserved for seed in known.values()):
                self._journal.lapsed(lapsed)


@dataclass(slots=True)
class _Touched:
    """A window that this worker counts in, and how often it did."""

    tenant_id: str
    moves: int = 0


class Reconciling:
    """Compares what the counters have posted with the ledger, where nothing is going on."""

    def __init__(
        self,
        stores: Stores,
        ledger: DurableLedger | None,
        authority: AuthorityKeeper,
        journal: CallJournal,
        *,
        on_drift: Callable[[str, int], None] | None = None,
    ) -> None:
        self.corrections = 0
        self._stores = stores
        self._ledger = ledger
        self._authority = authority
        self._journal = journal
        self._on_drift = on_drift
        self._epoch = 0
        self._touched: dict[str, _Touched] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._log = structlog.get_logger()

    @property
    def tenants(self) -> set[str]:
        """Whose money was counted in the current epoch."""
        return {touched.tenant_id for touched in self._touched.values()}

    def touch(self, tenant_id: str, keys: Sequence[str], epoch: int) -> None:
        """Note that something is counted in windows that are open in ``epoch``."""
        if epoch != self._epoch:
            # What the counters still hold of tenants whose windows are not open in this one counts for nothing.
            self._epoch = epoch
            self._touched.clear()
            self._seen.clear()
        known = self._touched
        few = len(known) < MOST_WINDOWS // 2
        for key in keys:
            touched = known.get(key)
            if touched is None or not few:
                # The last ones stay.
                touched = known.pop(key, None) or _Touched(tenant_id)
                known[key] = touched
            touched.moves += 1
        while len(known) > MOST_WINDOWS:
            del self._touched[next(iter(self._touched))]

    def moved(self, keys: Sequence[str]) -> None:
        """Note that something in windows came to its end."""
        for key in keys:
            if key in self._touched:
                self._touched[key].moves += 1

    async def step(self, open_keys: Callable[[], frozenset[str]]) -> None:
        """Compare once, what is quiet meanwhile. ``open_keys``: the windows of this worker's open calls."""
        term = self._authority.term
        if self._ledger is None or term is None or term.epoch != self._epoch:
            return
        before, open_before = {key: touched.moves for key, touched in self._touched.items()}, open_keys()
        tenants: dict[str, list[str]] = {}
        for key, touched in self._touched.items():
            if key not in open_before:
                tenants.setdefault(touched.tenant_id, []).append(key)
        store, _ = self._stores.of(term)
        try:
            if not tenants or not await self._journal.drained():
                return
            for tenant_id, keys in tenants.items():
                # First what is on record: all of that is in the counters already, or reserved there.
                seeds = await self._ledger.windows(keys)
                states = await store.windows(tenant_id, keys)
                if self._authority.term is not term:
                    return
                quiet = {key: state for key, state in states.items() if self._moves(key) == before[key]}
                await self._compare(store, tenant_id, term, quiet, seeds)
        except DependencyError:
            return

    def _moves(self, key: str) -> int | None:
        touched = self._touched.get(key)
        return None if touched is None else touched.moves

    async def _compare(
        self,
        store: CounterStore,
        tenant_id: str,
        term: Term,
        states: Mapping[str, WindowState],
        seeds: Mapping[str, WindowSeed],
    ) -> None:
        for key, state in states.items():
            seed = seeds.get(key) or WindowSeed(key=key)
            if state.reserved_nano or seed.reserved:
                self._seen.pop(key, None)
                continue
            drift = state.posted_nano - seed.posted_nano
            if self._on_drift is not None:
                self._on_drift(key.partition(":")[0], drift)
            if drift == 0:
                self._seen.pop(key, None)
                continue
            await self._correct(store, tenant_id, term, key, (state.posted_nano, seed.posted_nano))

    async def _correct(
        self, store: CounterStore, tenant_id: str, term: Term, key: str, values: tuple[int, int]
    ) -> None:
        counted, true = values
        before = self._seen.get(key)
        times = before[2] + 1 if before is not None and before[:2] == values else 1
        self._seen[key] = (counted, true, times)
        if len(self._seen) > MOST_WINDOWS:
            self._seen.clear()
        alone = term.authority is Authority.PROCESS
        if times < (SEEN_UPWARDS if true > counted or alone else SEEN_DOWNWARDS):
            return
        self._seen.pop(key, None)
        self.corrections += 1
        self._log.warning("budget_drift", window=key, tenant=tenant_id, counted_nano=counted, true_nano=true)
        if true > counted or alone:
            await store.repost(tenant_id, term.epoch, {key: values})
        else:
            # Less on record than counted may be another worker's journal that is not drained: an epoch makes sure.
            self._authority.doubt(term.epoch)
