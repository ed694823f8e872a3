"""Counters in this process: the authority where one worker runs alone, and what the scripts in Redis are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from hx_gateway.kit.clock import Clock, system_us
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits import gcra
from hx_gateway.limits.model import Ask, Lapsed, Outcome, RateState, Settlement, Verdict, WindowSeed, WindowState
from hx_gateway.limits.money import SECOND_US, TenantMoney
from hx_gateway.limits.scopes import Scope, Scopes
from hx_gateway.limits.verdicts import ADMITTED, Refusal, admitted, lease_us, verdict_of
from hx_gateway.limits.windows import NEVER_US

# How long a call without charges is remembered when it is never settled, and one that must not begin any more.
MARK_US = 3600 * SECOND_US
# Rates, slots and marks of a tenant, and tenants, are looked through when there are this many, and twice as many then.
PRUNE_SIZE = 2_000


# A member of an enumeration costs several times as much to look up as a name of a module.
STALE = Outcome.STALE


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A call that is remembered by itself: one that counts no money, or that must not begin (``refused``)."""

    refused: bool
    expires_us: int


class _Slots(dict[str, int]):
    """Leases by call, in microseconds since 1970; none runs out before ``earliest``."""

    __slots__ = ("earliest",)

    def __init__(self) -> None:
        super().__init__()
        self.earliest = NEVER_US

    def take(self, call_id: str, expires_us: int) -> None:
        """Give a call a slot until then."""
        self[call_id] = expires_us
        if expires_us < self.earliest:
            self.earliest = expires_us

    def clear_old(self, now_us: int) -> None:
        """Forget leases that ran out; looked through only when one may have."""
        if now_us < self.earliest:
            return
        for call_id in [call_id for call_id, expires_us in self.items() if expires_us <= now_us]:
            del self[call_id]
        self.earliest = min(self.values(), default=NEVER_US)


@dataclass(slots=True)
class _Tenant:
    rates: dict[str, int] = field(default_factory=dict)
    slots: dict[str, _Slots] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    money: TenantMoney | None = None
    prune_at: int = PRUNE_SIZE

    def mark(self, call_id: str, now_us: int) -> Mark | None:
        found = self.marks.get(call_id)
        return None if found is None or found.expires_us <= now_us else found

    def in_epoch(self, epoch: int) -> TenantMoney | None:
        return self.money if self.money is not None and self.money.epoch == epoch else None

    def prune(self, now_us: int) -> None:
        """Forget what is as good as absent. Money is bounded by its windows and leases."""
        if len(self.rates) + len(self.slots) + len(self.marks) < self.prune_at:
            return
        self.rates = {name: tat for name, tat in self.rates.items() if tat > now_us}
        self.marks = {call: mark for call, mark in self.marks.items() if mark.expires_us > now_us}
        for scope in list(self.slots):
            self.look(scope, now_us)
        self.prune_at = max(PRUNE_SIZE, 2 * (len(self.rates) + len(self.slots) + len(self.marks)))

    def hold(self, scope: str, call_id: str, expires_us: int) -> None:
        """Give a call a slot of a scope until then."""
        leases = self.slots.get(scope)
        if leases is None:
            leases = self.slots[scope] = _Slots()
        leases.take(call_id, expires_us)

    def look(self, scope: str, now_us: int) -> int:
        """Return how many slots of a scope are taken; those whose lease ran out are not any more."""
        leases = self.slots.get(scope)
        if leases is None:
            return 0
        leases.clear_old(now_us)
        if not leases:
            del self.slots[scope]
        return len(leases)

    @property
    def empty(self) -> bool:
        return self.money is None and not (self.rates or self.slots or self.marks)


class MemoryCounterStore:
    """A ``CounterStore`` of one process. Nothing in it waits, so that every operation is atomic in its event loop.

    ``share``: rates and slots are those of one of so many processes that count by themselves.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.share = 1
        self._now_us = system_us if clock is None else partial(_us, clock)
        self._tenants: dict[str, _Tenant] = {}
        self._scopes = Scopes()
        self._prune_at = PRUNE_SIZE

    async def admit(self, ask: Ask) -> Verdict:
        """Take everything that ``ask`` wants, or nothing."""
        now = self._now_us()
        tenant = self._tenant(ask.tenant_id, now)
        if ask.charges and (tenant.money is None or tenant.money.epoch != ask.epoch):
            return Verdict(outcome=STALE, now_us=now)
        scopes = self._scopes.all_of(ask.limits, self.share)
        known = _known(tenant, ask, now)
        if known is not None:
            return _verdict(tenant, ask, now, scopes) if known.outcome is ADMITTED else known
        taken = _after(tenant, ask, scopes, now)
        left = [] if tenant.money is None else tenant.money.left_after(ask.charges, ask.cost_nano)
        if taken is None or left is None:
            return _verdict(tenant, ask, now, scopes, _refusal(tenant, ask, scopes, now))
        return _take(tenant, ask, scopes, now, taken, left)

    async def raise_reservation(self, ask: Ask) -> Verdict:
        """Bring the reservation of an admitted call up to ``ask.cost_nano``; a call that is not known is ``STALE``."""
        now = self._now_us()
        tenant = self._tenant(ask.tenant_id, now)
        ask = msgspec.structs.replace(ask, limits=())
        if not ask.charges:
            return _verdict(tenant, ask, now, ())
        money = tenant.in_epoch(ask.epoch)
        held = None if money is None else money.open.get(ask.call_id)
        if money is None or held is None:
            return Verdict(outcome=STALE, now_us=now)
        more = ask.cost_nano - held.amount
        if more > 0:
            refusal = _budget_refusal(money, ask, more)
            if refusal is not None:
                return _verdict(tenant, ask, now, (), refusal)
            money.raise_to(ask.call_id, ask.cost_nano)
        return _verdict(tenant, ask, now, ())

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """End calls. One that is not known (any more) is no error."""
        self.end(settlements)

    def end(self, settlements: Sequence[Settlement]) -> None:
        """End calls, as :meth:`settle` does."""
        now = self._now_us()
        for settlement in settlements:
            tenant = self._tenant(settlement.tenant_id, now)
            mark = tenant.mark(settlement.call_id, now) if tenant.marks else None
            known = mark is not None and not mark.refused
            if known:
                del tenant.marks[settlement.call_id]
            if tenant.money is not None:
                known = tenant.money.settle(settlement.call_id, settlement.cost_nano) or known
            if settlement.doubtful:
                tenant.marks[settlement.call_id] = Mark(refused=True, expires_us=now + MARK_US)
            self._release(tenant, settlement, now, correct=known)

    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None:
        """Give the leases of calls that are known ``lease_seconds`` from now; the others are left alone."""
        now = self._now_us()
        tenant = self._tenant(tenant_id, now)
        for ask in asks:
            expires = now + lease_us(ask.lease_seconds)
            if ask.charges:
                held = None if tenant.money is None else tenant.money.open.get(ask.call_id)
                if held is None:
                    continue
                held.expires_us = expires
            else:
                mark = tenant.mark(ask.call_id, now)
                if mark is None or mark.refused:
                    continue
                tenant.marks[ask.call_id] = Mark(refused=False, expires_us=max(now + MARK_US, expires))
            for limits in ask.limits:
                if limits.parallel is not None:
                    tenant.hold(self._scopes.of(limits, self.share).name, ask.call_id, expires)

    async def lapse(self, tenant_id: str) -> Sequence[Lapsed]:
        """Post reservations whose lease ran out at their estimate and return them, some hundred at most."""
        now = self._now_us()
        money = self._tenant(tenant_id, now).money
        return [] if money is None else money.lapse(tenant_id, now)

    async def begin(self, tenant_id: str, epoch: int) -> None:
        """Begin an epoch for a tenant; it takes the place of an earlier one, never of the same or a later one."""
        tenant = self._tenant(tenant_id, self._now_us())
        if tenant.money is None or tenant.money.epoch < epoch:
            tenant.money = TenantMoney(epoch)

    async def seed(self, tenant_id: str, epoch: int, windows: Sequence[WindowSeed], lease_seconds: float) -> None:
        """Set windows that are cold; one that is there already stays as it is. Nothing in another epoch."""
        now = self._now_us()
        money = self._tenant(tenant_id, now).in_epoch(epoch)
        if money is not None:
            money.seed(windows, now, lease_us(lease_seconds))

    async def windows(self, tenant_id: str, keys: Sequence[str]) -> Mapping[str, WindowState]:
        """Return the state of those windows that the store knows."""
        money = self._tenant(tenant_id, self._now_us()).money
        return {} if money is None else money.states(keys)

    async def repost(self, tenant_id: str, epoch: int, posted: Mapping[str, tuple[int, int]]) -> None:
        """Correct what is posted: by window, from the value that was seen to the true one; else nothing."""
        money = self._tenant(tenant_id, self._now_us()).in_epoch(epoch)
        if money is not None:
            money.repost(posted)

    def _tenant(self, tenant_id: str, now_us: int) -> _Tenant:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            if len(self._tenants) >= self._prune_at:
                self._prune_tenants(now_us)
            tenant = self._tenants[tenant_id] = _Tenant()
        tenant.prune(now_us)
        return tenant

    def _prune_tenants(self, now_us: int) -> None:
        for tenant_id, tenant in list(self._tenants.items()):
            tenant.prune_at = 0
            tenant.prune(now_us)
            if tenant.empty:
                del self._tenants[tenant_id]
        self._prune_at = max(PRUNE_SIZE, 2 * len(self._tenants))

    def _release(self, tenant: _Tenant, settlement: Settlement, now: int, *, correct: bool) -> None:
        for scope in self._scopes.all_of(settlement.limits, self.share):
            leases = tenant.slots.get(scope.name)
            if leases is not None and leases.pop(settlement.call_id, None) is not None and not leases:
                del tenant.slots[scope.name]
            if correct and scope.tokens is not None and settlement.tokens_delta:
                key = scope.token_key
                correction = scope.tokens.correction_us(settlement.tokens_delta)
                tenant.rates[key] = gcra.corrected(tenant.rates.get(key, 0), now, correction)


def _us(clock: Clock) -> int:
    return unix_us(clock.now())


def _known(tenant: _Tenant, ask: Ask, now: int) -> Verdict | None:
    """Return the verdict on an ask that is not new, or whose windows are cold: ``ADMITTED`` once more, or a refusal."""
    call_id, money = ask.call_id, tenant.money
    mark = tenant.mark(call_id, now) if tenant.marks else None
    if mark is not None:
        return Verdict(outcome=STALE if mark.refused else ADMITTED, now_us=now)
    if money is None or not ask.charges:
        return None
    if call_id in money.open:
        return Verdict(outcome=ADMITTED, now_us=now)
    if call_id in money.lapsed:
        return Verdict(outcome=STALE, now_us=now)
    cold = [charge.key for charge in ask.charges if charge.key not in money.posted]
    return Verdict(outcome=Outcome.COLD, now_us=now, cold=tuple(cold)) if cold else None


def _after(tenant: _Tenant, ask: Ask, scopes: Sequence[Scope], now: int) -> list[tuple[int, int]] | None:
    """Return the buckets of requests and of tokens of each scope after an ask; nothing where one of them is short."""
    rates = tenant.rates
    taken: list[tuple[int, int]] = []
    for scope in scopes:
        if scope.slots is not None and tenant.look(scope.name, now) >= scope.slots:
            return None
        request_tat = token_tat = 0
        if scope.request is not None:
            request_tat = gcra.taken(rates.get(scope.request_key, 0), now, scope.request)
            if request_tat - now > scope.request.capacity_us:
                return None
        if scope.tokens is not None:
            take = scope.tokens.take(ask.tokens)
            token_tat = gcra.taken(rates.get(scope.token_key, 0), now, take)
            if token_tat - now > take.capacity_us:
                return None
        taken.append((request_tat, token_tat))
    return taken


def _take(
    tenant: _Tenant, ask: Ask, scopes: Sequence[Scope], now: int, taken: Sequence[tuple[int, int]], left: list[int]
) -> Verdict:
    """Take what was found to be there, and say what is there then."""
    expires = now + lease_us(ask.lease_seconds)
    rates = tenant.rates
    requests: list[RateState | None] = []
    tokens: list[RateState | None] = []
    for scope, (request_tat, token_tat) in zip(scopes, taken, strict=True):
        of_requests, of_tokens = scope.requests, scope.tokens
        if of_requests is None:
            requests.append(None)
        else:
            rates[scope.request_key] = request_tat
            requests.append(of_requests.state(request_tat, now))
        if of_tokens is None:
            tokens.append(None)
        else:
            rates[scope.token_key] = token_tat
            tokens.append(of_tokens.state(token_tat, now))
        if scope.slots is not None:
            tenant.hold(scope.name, ask.call_id, expires)
    if ask.charges and tenant.money is not None:
        tenant.money.reserve(ask.call_id, ask.cost_nano, tuple([charge.key for charge in ask.charges]), expires)
    elif ask.limits:
        tenant.marks[ask.call_id] = Mark(refused=False, expires_us=max(now + MARK_US, expires))
    return Verdict(outcome=ADMITTED, now_us=now, requests=tuple(requests), tokens=tuple(tokens), money=tuple(left))


def _verdict(tenant: _Tenant, ask: Ask, now: int, scopes: Sequence[Scope], refusal: Refusal | None = None) -> Verdict:
    """Return the verdict on an ask that changes nothing (any more)."""
    rates = tenant.rates
    requests = [rates.get(scope.request_key, 0) for scope in scopes]
    tokens = [rates.get(scope.token_key, 0) for scope in scopes]
    money = [] if tenant.money is None else [tenant.money.left(charge) for charge in ask.charges]
    if refusal is None:
        return admitted(now, scopes, requests, tokens, money)
    return verdict_of(ask, now, refusal, scopes, requests=requests, tokens=tokens, money=money)


def _refusal(tenant: _Tenant, ask: Ask, scopes: Sequence[Scope], now: int) -> Refusal | None:
    """Return the first refusal in the order of the contract: slots, requests, tokens, money."""
    return (
        _slot_refusal(tenant, scopes, now)
        or _request_refusal(tenant, scopes, now)
        or _token_refusal(tenant, scopes, ask.tokens, now)
        or (None if tenant.money is None else _budget_refusal(tenant.money, ask, ask.cost_nano))
    )


def _slot_refusal(tenant: _Tenant, scopes: Sequence[Scope], now: int) -> Refusal | None:
    for place, scope in enumerate(scopes):
        if scope.slots is not None and (taken := tenant.look(scope.name, now)) >= scope.slots:
            return Refusal(Outcome.PARALLEL, place, scope.slots - taken)
    return None


def _request_refusal(tenant: _Tenant, scopes: Sequence[Scope], now: int) -> Refusal | None:
    for place, scope in enumerate(scopes):
        if scope.request is not None and _short(tenant.rates.get(scope.request_key, 0), now, scope.request):
            return Refusal(Outcome.REQUESTS, place)
    return None


def _token_refusal(tenant: _Tenant, scopes: Sequence[Scope], tokens: int, now: int) -> Refusal | None:
    short = None
    for place, scope in enumerate(scopes):
        if scope.tokens is None:
            continue
        take = scope.tokens.take(tokens)
        if take.too_large:
            return Refusal(Outcome.TOO_LARGE, place)
        if short is None and _short(tenant.rates.get(scope.token_key, 0), now, take):
            short = Refusal(Outcome.TOKENS, place)
    return short


def _budget_refusal(money: TenantMoney, ask: Ask, amount: int) -> Refusal | None:
    for place, charge in enumerate(ask.charges):
        if money.left(charge) < amount:
            return Refusal(Outcome.BUDGET, place, money.left(charge))
    return None


def _short(tat: int, now: int, take: gcra.Take) -> bool:
    return take.too_large or gcra.wait_us(tat, now, take) > 0
