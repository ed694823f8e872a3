"""What is between a worker and its stores: it loses requests and answers, delays them, sends them twice, and is cut."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar
from uuid import UUID

from hx_gateway.limits.durable import Authority, EpochState
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Ask, Lapsed, Settlement, Verdict, WindowSeed, WindowState
from hx_gateway.services.base import DependencyError, FailureKind
from tests.simulation.bank import Bank
from tests.simulation.virtual_time import virtual_loop

T = TypeVar("T")

TIMEOUT_SECONDS = 0.5


@dataclass(slots=True)
class Weather:
    """How often, of 1, a message has which fate."""

    lost: float = 0.0
    answer_lost: float = 0.0
    delayed: float = 0.0
    twice: float = 0.0


@dataclass(slots=True)
class Server:
    """One server: whether it is there, and what its messages meet."""

    name: str
    weather: Weather
    up: bool = True
    storms: bool = False


class Process(Protocol):
    """Whose messages they are. ``gate`` returns when it runs, and is cancelled once it is dead."""

    frozen: bool
    dead: bool

    async def gate(self) -> None: ...


class Wire:
    """One worker's way to one server."""

    def __init__(self, server: Server, random: Random, process: Process) -> None:
        self._server = server
        self._random = random
        self._process = process
        self._nap = virtual_loop().nap

    async def carry(self, do: Callable[[], T], *, once: bool = False) -> T:
        """Have the server ``do`` something, if all goes well. ``once``: it is never sent twice."""
        random, weather = self._random, self._server.weather
        await self._wait(random.uniform(0.0005, 0.01))
        if not self._server.up:
            raise await self._failure()
        fate = random.random() - weather.lost
        if fate < 0:
            await self._wait(TIMEOUT_SECONDS)
            raise await self._failure()
        fate -= weather.answer_lost
        if fate < 0:
            do()
            await self._wait(TIMEOUT_SECONDS)
            raise await self._failure()
        fate -= weather.delayed
        if fate < 0:
            virtual_loop().call_later(random.uniform(0.1, 6.0), self._late, do)
            await self._wait(TIMEOUT_SECONDS)
            raise await self._failure()
        if fate < weather.twice and not once:
            do()
        answer = do()
        await self._wait(random.uniform(0.0005, 0.01))
        return answer

    def _late(self, do: Callable[[], object]) -> None:
        if self._server.up:
            do()

    async def _wait(self, seconds: float) -> None:
        await self._nap(seconds)
        if self._process.frozen or self._process.dead:
            await self._process.gate()

    async def _failure(self) -> DependencyError:
        return DependencyError(self._server.name, FailureKind.TIMEOUT)


def at_once(doing: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine that waits for nothing returns."""
    try:
        doing.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError("it waited for something")


class WiredStore:
    """A ``CounterStore`` that many share, at the far end of a wire. ``store`` returns the one that is there now."""

    def __init__(
        self,
        wire: Wire,
        store: Callable[[], MemoryCounterStore],
        on_lapse: Callable[[Sequence[Lapsed]], None],
    ) -> None:
        self._carry = wire.carry
        self._store = store
        self._on_lapse = on_lapse

    async def admit(self, ask: Ask) -> Verdict:
        return await self._carry(lambda: at_once(self._store().admit(ask)))

    async def raise_reservation(self, ask: Ask) -> Verdict:
        return await self._carry(lambda: at_once(self._store().raise_reservation(ask)))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._carry(lambda: at_once(self._store().settle(settlements)))

    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None:
        await self._carry(lambda: at_once(self._store().renew(tenant_id, asks)))

    async def lapse(self, tenant_id: str) -> Sequence[Lapsed]:
        def lapse() -> Sequence[Lapsed]:
            lapsed = at_once(self._store().lapse(tenant_id))
            self._on_lapse(lapsed)
            return lapsed

        return await self._carry(lapse)

    async def begin(self, tenant_id: str, epoch: int) -> None:
        await self._carry(lambda: at_once(self._store().begin(tenant_id, epoch)), once=True)

    async def seed(self, tenant_id: str, epoch: int, windows: Sequence[WindowSeed], lease_seconds: float) -> None:
        await self._carry(lambda: at_once(self._store().seed(tenant_id, epoch, windows, lease_seconds)))

    async def windows(self, tenant_id: str, keys: Sequence[str]) -> Mapping[str, WindowState]:
        return await self._carry(lambda: at_once(self._store().windows(tenant_id, keys)))

    async def repost(self, tenant_id: str, epoch: int, posted: Mapping[str, tuple[int, int]]) -> None:
        await self._carry(lambda: at_once(self._store().repost(tenant_id, epoch, posted)))


class WiredLedger:
    """A ``DurableLedger`` at the far end of a wire."""

    def __init__(self, wire: Wire, bank: Bank, stream: UUID) -> None:
        self._carry = wire.carry
        self._bank = bank
        self._stream = str(stream)
        self._acknowledged = 0

    async def join(self, stream_id: UUID) -> EpochState:
        def join() -> tuple[EpochState, int]:
            return self._bank.join(stream_id), self._bank.members[str(stream_id)]

        state, self._acknowledged = await self._carry(join, once=True)
        return state

    async def leave(self, stream_id: UUID) -> None:
        await self._carry(lambda: self._bank.leave(stream_id))

    async def state(self) -> EpochState:
        return await self._carry(self._bank.state)

    async def turn(self, seen: int, authority: Authority) -> EpochState:
        return await self._carry(lambda: self._bank.turn(seen, authority))

    async def acknowledge(self, stream_id: UUID, epoch: int) -> EpochState:
        state = await self._carry(lambda: self._bank.acknowledge(stream_id, epoch))
        self._acknowledged = max(self._acknowledged, epoch)
        return state

    async def beat(self, stream_id: UUID) -> EpochState:
        acknowledged = self._acknowledged
        return await self._carry(lambda: self._bank.beat(stream_id, acknowledged))

    async def touch_tenant(self, tenant_id: str, epoch: int) -> bool:
        return await self._carry(lambda: self._bank.touch_tenant(tenant_id, epoch), once=True)

    async def windows(self, keys: Sequence[str]) -> Mapping[str, WindowSeed]:
        return await self._carry(lambda: self._bank.windows(keys))

    async def reserve(self, ask: Ask, epoch: int) -> Verdict:
        return await self._carry(lambda: self._bank.reserve(self._stream, ask, epoch))

    async def raise_reservation(self, ask: Ask, epoch: int) -> Verdict:
        return await self._carry(lambda: self._bank.raise_reservation(self._stream, ask, epoch))

    async def release(self, call_id: str) -> None:
        await self._carry(lambda: self._bank.release(self._stream, call_id))

    async def settle_orphans(self) -> int:
        return await self._carry(self._bank.settle_orphans)
