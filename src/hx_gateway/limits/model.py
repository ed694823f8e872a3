"""What a store of counters is asked and what it answers: the contract that all stores keep to the letter.

What is made for every call is a Struct: a frozen dataclass takes several times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec

from hx_gateway.allowances import Budget, ScopeLimits


class Charge(msgspec.Struct, frozen=True, gc=False):
    """One window of a budget that a call is charged to: ``window`` is ``2026-11``, ``2026-W48``, … or ``total``.

    ``key`` is the window's name in every store; it follows from the others.
    """

    budget: Budget
    window: str
    key: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", f"{self.budget.id}:{self.window}")


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call that wants to begin.

    ``call_id`` is ours and never a client's: who could choose it could be billed once for two calls. ``tokens`` is an
    estimate, ``cost_nano`` an upper bound. ``epoch`` is the one whose money the asker knows, checked where there are
    charges. ``again``: an earlier attempt's answer was lost.
    """

    call_id: str
    tenant_id: str
    limits: tuple[ScopeLimits, ...] = ()
    charges: tuple[Charge, ...] = ()
    tokens: int = 0
    cost_nano: int = 0
    epoch: int = 0
    lease_seconds: float = 60.0
    again: bool = False


class Outcome(StrEnum):
    """What became of an ask. All but ``ADMITTED`` changed nothing.

    ``REQUESTS``, ``TOKENS``, ``PARALLEL``, ``BUDGET``: that limit refuses. ``TOO_LARGE``: the tokens exceed a bucket
    even when it is full. ``COLD``: the windows in ``cold`` must be seeded first. ``STALE``: the store is of another
    epoch, or has lost what it knew.
    """

    ADMITTED = "admitted"
    REQUESTS = "requests"
    TOKENS = "tokens"
    TOO_LARGE = "too_large"
    PARALLEL = "parallel"
    BUDGET = "budget"
    COLD = "cold"
    STALE = "stale"


class RateState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A bucket after the ask: units left, and microseconds until it is full again."""

    left: int
    full_in_us: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to an ask. ``now_us``: the store's clock, microseconds since 1970.

    ``refused_by`` is the index in ``limits`` or ``charges`` of what refused. ``retry_after_us``: when the same ask
    would pass if nobody else came; 0 where waiting does not help. ``left``: tokens, slots or nano-dollars that were
    left of what refused. ``requests``, ``tokens``: the buckets of each scope of ``limits``, ``None`` where it has none.
    ``money``: for each charge, nano-dollars left after the ask.
    """

    outcome: Outcome
    now_us: int
    refused_by: int = -1
    retry_after_us: int = 0
    left: int = 0
    cold: tuple[str, ...] = ()
    requests: tuple[RateState | None, ...] = ()
    tokens: tuple[RateState | None, ...] = ()
    money: tuple[int, ...] = ()


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of an admitted call. ``limits`` are those it was admitted under.

    ``cost_nano`` is posted in place of the reservation (0 voids it); more than was reserved is posted too.
    ``tokens_delta``: actual minus estimated. ``doubtful``: the ask's answer was lost once, so that it may yet arrive:
    the store remembers the call for a while and refuses it.
    """

    call_id: str
    tenant_id: str
    cost_nano: int = 0
    limits: tuple[ScopeLimits, ...] = ()
    tokens_delta: int = 0
    doubtful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSeed:
    """What is known of a window from the durable record: posted, and the open reservations by call."""

    key: str
    posted_nano: int = 0
    reserved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState:
    """A window as a store sees it, in nano-dollars."""

    posted_nano: int
    reserved_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """A reservation whose lease ran out and that was posted at its estimate: its owner may be gone."""

    call_id: str
    tenant_id: str
    cost_nano: int
    windows: tuple[str, ...]


class CounterStore(Protocol):
    """Counts rates, slots and money for everybody who shares it. Raises ``DependencyError`` when it cannot answer.

    Then nothing is known about what was asked: ``admit`` may be repeated with the same ``call_id`` (``again``), and
    so may all the others, which change nothing the second time.
    """

    async def admit(self, ask: Ask) -> Verdict:
        """Take everything that ``ask`` wants, or nothing."""
        ...

    async def raise_reservation(self, ask: Ask) -> Verdict:
        """Bring the reservation of an admitted call up to ``ask.cost_nano``; rates and slots stay as they are."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """End calls. One that is not known (any more) is no error: the durable record tells what is posted."""
        ...

    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None:
        """Give the leases of calls that go on (slots and reservations) ``lease_seconds`` from now."""
        ...

    async def lapse(self, tenant_id: str) -> Sequence[Lapsed]:
        """Post reservations whose lease ran out at their estimate; return them. Settled later, they are corrected."""
        ...

    async def begin(self, tenant_id: str, epoch: int) -> None:
        """Begin an epoch for a tenant that has no money state in this store: never over one that has."""
        ...

    async def seed(self, tenant_id: str, epoch: int, windows: Sequence[WindowSeed], lease_seconds: float) -> None:
        """Set windows that are cold; one that is there already stays as it is. Nothing in another epoch."""
        ...

    async def windows(self, tenant_id: str, keys: Sequence[str]) -> Mapping[str, WindowState]:
        """Return the state of those windows that the store knows."""
        ...

    async def repost(self, tenant_id: str, epoch: int, posted: Mapping[str, tuple[int, int]]) -> None:
        """Correct what is posted: by window, from the value that was seen to the true one; else nothing."""
        ...
