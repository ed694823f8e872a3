"""Counters in Redis for all who share it: each operation is one script, done whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from struct import Struct
from typing import Any, TypeVar

import msgspec

from hx_gateway.allowances import ScopeLimits
from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.gcra import Bucket
from hx_gateway.limits.model import Ask, Charge, Lapsed, Outcome, Settlement, Verdict, WindowSeed, WindowState
from hx_gateway.limits.money import LAPSE_BATCH
from hx_gateway.limits.scopes import Scope, Scopes
from hx_gateway.limits.verdicts import Refusal, admitted, lease_us, verdict_of
from hx_gateway.limits.windows import TOTAL
from hx_gateway.services.redis_pipe import Part, Prepared, RedisPipe, Script, prepare

# The server answers nobody else while a script runs: longer lists are cut.
CALLS_A_SCRIPT = 100
WINDOWS_A_SCRIPT = 100
# Prepared asks that are remembered.
MAX_PREPARED = 10_000
NOTHING = (-1, 0)
OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}

T = TypeVar("T")

_FOLDER = files("hx_gateway.limits") / "scripts"


def load_script(name: str, *, common: bool = True) -> Script:
    """Return a script of this package, with what all scripts of a tenant begin with."""
    begin = (_FOLDER / "common.lua").read_text() if common else ""
    return Script(name, begin + (_FOLDER / f"{name}.lua").read_text())


ADMIT = load_script("admit")
RAISE = load_script("raise")
SETTLE = load_script("settle")
RENEW = load_script("renew")
LAPSE = load_script("lapse")
BEGIN = load_script("begin")
SEED = load_script("seed")
WINDOWS = load_script("windows")
REPOST = load_script("repost")


class _Prepared(msgspec.Struct, frozen=True, gc=False):
    """What of an ask is the same for many calls. It keeps limits and charges: their identity is nobody else's."""

    limits: tuple[ScopeLimits, ...]
    charges: tuple[Charge, ...]
    epoch: int
    lease_seconds: float
    scopes: tuple[Scope, ...]
    # Of the scopes that count tokens.
    tokens: tuple[Bucket, ...]
    call: Prepared
    # Takes apart the reply of a call that is admitted.
    numbers: Callable[[bytes], tuple[int, ...]]


class RedisCounterStore:
    """A ``CounterStore`` in Redis 6.2 or newer, or Valkey. The server's clock is everybody's.

    All keys of a tenant share a hash tag, so that a cluster keeps them on one node. What is lost by a flush or an
    eviction shows as ``STALE`` or ``COLD``, never as money that was not spent. ``clock`` replaces the server's time,
    for tests.
    """

    def __init__(self, pipe: RedisPipe, *, clock: Clock | None = None) -> None:
        self._pipe = pipe
        self._clock = clock
        self._scopes = Scopes()
        self._prepared: dict[tuple[str, int, int], _Prepared] = {}

    async def admit(self, ask: Ask) -> Verdict:
        """Take everything that ``ask`` wants, or nothing."""
        prepared = self._prepared.get((ask.tenant_id, id(ask.limits), id(ask.charges)))
        if prepared is None or not _prepared_for(prepared, ask):
            prepared = self._prepare(ask)
        taken = [bucket.take(ask.tokens).increment_us for bucket in prepared.tokens]
        reply = await self._pipe.run_prepared(prepared.call, ask.call_id, ask.cost_nano, *taken, self._now_us())
        if isinstance(reply, bytes):
            now, *numbers = prepared.numbers(reply)
            scopes = prepared.scopes
            after_requests, after_tokens = len(scopes), 2 * len(scopes)
            return admitted(
                now,
                scopes,
                numbers[:after_requests],
                numbers[after_requests:after_tokens],
                numbers[after_tokens:],
            )
        return _verdict(ask, prepared.scopes, reply)

    async def raise_reservation(self, ask: Ask) -> Verdict:
        """Bring the reservation of an admitted call up to ``ask.cost_nano``; a call that is not known is ``STALE``.

        The verdict is about money only.
        """
        arguments: list[Part] = [ask.call_id, ask.epoch, ask.cost_nano]
        _add_charges(arguments, ask)
        return _verdict(ask, (), await self._run(RAISE, ask.tenant_id, arguments))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """End calls. One that is not known (any more) is no error."""
        ordered = sorted(settlements, key=lambda settlement: settlement.tenant_id)
        for tenant_id, of_tenant in groupby(ordered, key=lambda settlement: settlement.tenant_id):
            for some in _cut(list(of_tenant), CALLS_A_SCRIPT):
                arguments: list[Part] = [len(some)]
                for settlement in some:
                    self._add_settlement(arguments, settlement)
                await self._run(SETTLE, tenant_id, arguments)

    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None:
        """Give the leases of calls that are known ``lease_seconds`` from now; the others are left alone."""
        for some in _cut(asks, CALLS_A_SCRIPT):
            arguments: list[Part] = [len(some)]
            for ask in some:
                names = [self._scopes.of(limits).name for limits in ask.limits if limits.parallel is not None]
                charged = 1 if ask.charges else 0
                arguments += (ask.call_id, lease_us(ask.lease_seconds), charged, len(names), *names)
            await self._run(RENEW, tenant_id, arguments)

    async def lapse(self, tenant_id: str) -> Sequence[Lapsed]:
        """Post reservations whose lease ran out at their estimate and return them, some hundred at most."""
        reply: list[bytes] = await self._run(LAPSE, tenant_id, [LAPSE_BATCH])
        lapsed: list[Lapsed] = []
        for call_id, value in zip(reply[::2], reply[1::2], strict=True):
            amount, *windows = value.decode().split("|")
            lapsed.append(
                Lapsed(call_id=call_id.decode(), tenant_id=tenant_id, cost_nano=int(amount), windows=tuple(windows))
            )
        return lapsed

    async def begin(self, tenant_id: str, epoch: int) -> None:
        """Begin an epoch for a tenant; it takes the place of an earlier one, never of the same or a later one."""
        await self._run(BEGIN, tenant_id, [epoch])

    async def seed(self, tenant_id: str, epoch: int, windows: Sequence[WindowSeed], lease_seconds: float) -> None:
        """Set windows that are cold; one that is there already stays as it is. Nothing in another epoch.

        A window is set whole, with all of its reservations.
        """
        for some in _cut(windows, WINDOWS_A_SCRIPT):
            arguments: list[Part] = [epoch, lease_us(lease_seconds), len(some)]
            for seed in some:
                ever = 1 if seed.key.endswith(f":{TOTAL}") else 0
                arguments += (seed.key, seed.posted_nano, ever, len(seed.reserved))
                for call_id, amount in seed.reserved.items():
                    arguments += (call_id, amount)
            await self._run(SEED, tenant_id, arguments)

    async def windows(self, tenant_id: str, keys: Sequence[str]) -> Mapping[str, WindowState]:
        """Return the state of those windows that the store knows."""
        states: dict[str, WindowState] = {}
        for some in _cut(keys, WINDOWS_A_SCRIPT):
            reply: list[bytes | None] = await self._run(WINDOWS, tenant_id, some)
            for key, posted, reserved in zip(some, reply[::2], reply[1::2], strict=False):
                if posted is not None:
                    states[key] = WindowState(posted_nano=int(posted), reserved_nano=int(reserved or 0))
        return states

    async def repost(self, tenant_id: str, epoch: int, posted: Mapping[str, tuple[int, int]]) -> None:
        """Correct what is posted: by window, from the value that was seen to the true one; else nothing."""
        for some in _cut(list(posted.items()), WINDOWS_A_SCRIPT):
            arguments: list[Part] = [epoch, len(some)]
            for key, (seen, true) in some:
                arguments += (key, seen, true)
            await self._run(REPOST, tenant_id, arguments)

    def _add_settlement(self, arguments: list[Part], settlement: Settlement) -> None:
        doubtful = 1 if settlement.doubtful else 0
        arguments += (settlement.call_id, settlement.cost_nano, doubtful, len(settlement.limits))
        for limits in settlement.limits:
            scope = self._scopes.of(limits)
            correction = 0 if scope.tokens is None else scope.tokens.correction_us(settlement.tokens_delta)
            arguments += (scope.name, 0 if scope.slots is None else 1, correction)

    def _prepare(self, ask: Ask) -> _Prepared:
        scopes = self._scopes.all_of(ask.limits)
        prefix, keys = _names(ask.tenant_id)
        arguments: list[Part] = [prefix, lease_us(ask.lease_seconds), len(scopes)]
        for scope in scopes:
            request = NOTHING if scope.request is None else (scope.request.increment_us, scope.request.capacity_us)
            slots = -1 if scope.slots is None else scope.slots
            arguments += (scope.name, slots, *request, -1 if scope.tokens is None else scope.tokens.capacity_us)
        arguments.append(ask.epoch)
        _add_charges(arguments, ask)
        prepared = _Prepared(
            ask.limits,
            ask.charges,
            ask.epoch,
            ask.lease_seconds,
            scopes,
            tuple([scope.tokens for scope in scopes if scope.tokens is not None]),
            prepare(ADMIT, keys, arguments),
            Struct(f">{1 + 2 * len(scopes) + len(ask.charges)}q").unpack,
        )
        if len(self._prepared) >= MAX_PREPARED:
            self._prepared.clear()
        self._prepared[(ask.tenant_id, id(ask.limits), id(ask.charges))] = prepared
        return prepared

    async def _run(self, script: Script, tenant_id: str, arguments: Iterable[Part]) -> Any:
        prefix, keys = _names(tenant_id)
        return await self._pipe.run(script, keys, (prefix, *arguments, self._now_us()))

    def _now_us(self) -> int:
        """Return what replaces the server's time, 0 for nothing."""
        return 0 if self._clock is None else unix_us(self._clock.now())


def _prepared_for(prepared: _Prepared, ask: Ask) -> bool:
    return (
        prepared.limits is ask.limits
        and prepared.charges is ask.charges
        and prepared.epoch == ask.epoch
        and prepared.lease_seconds == ask.lease_seconds
    )


def _names(tenant_id: str) -> tuple[str, tuple[str, str]]:
    """Return the prefix of a tenant's keys, and those that every script is given."""
    prefix = f"hx:{{{tenant_id}}}:"
    return prefix, (f"{prefix}money", f"{prefix}due")


def _add_charges(arguments: list[Part], ask: Ask) -> None:
    arguments.append(len(ask.charges))
    for charge in ask.charges:
        arguments += (charge.key, charge.budget.limit_nano)


def _verdict(ask: Ask, scopes: Sequence[Scope], reply: list[Any]) -> Verdict:
    outcome, now = OUTCOMES[reply[0]], reply[1]
    if outcome is Outcome.STALE:
        return Verdict(outcome=outcome, now_us=now)
    if outcome is Outcome.COLD:
        return Verdict(outcome=outcome, now_us=now, cold=tuple(key.decode() for key in reply[4]))
    requests, tokens, money = reply[5:]
    if outcome is Outcome.ADMITTED:
        return admitted(now, scopes, requests, tokens, money)
    refusal = Refusal(outcome, reply[2], reply[3])
    return verdict_of(ask, now, refusal, scopes, requests=requests, tokens=tokens, money=money)


def _cut(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[start : start + size] for start in range(0, len(things), size))
