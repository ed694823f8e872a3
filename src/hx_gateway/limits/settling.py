"""Ends of calls on their way to a store of counters: sent in batches, again and again until it has taken them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.clock import Clock
from hx_gateway.limits.model import Settlement
from hx_gateway.services.base import DependencyError

BATCH = 100
# What waits is what was open when the store went away; a bound all the same. What is dropped lapses by itself.
MOST_WAITING = 100_000
FIRST_RETRY_SECONDS = 0.05
MOST_RETRY_SECONDS = 1.0


class Settling:
    """The queue of one store. :meth:`put` never waits; :meth:`run` goes on for ever."""

    def __init__(self, settle: Callable[[Sequence[Settlement]], Awaitable[None]], clock: Clock) -> None:
        self.dropped = self.failures = 0
        self._settle = settle
        self._clock = clock
        self._waiting: deque[Settlement] = deque()
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._backoff = Backoff(first=FIRST_RETRY_SECONDS, most=MOST_RETRY_SECONDS)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, settlement: Settlement) -> None:
        """Let the store know of an end, some time soon."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(settlement)
        self._empty.clear()
        self._arrived.set()

    def forget(self) -> None:
        """Drop what waits: the store does not count any more, or all that is said here is on record."""
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._empty.set()

    async def emptied(self) -> None:
        """Return once nothing waits."""
        await self._empty.wait()

    async def run(self) -> None:
        """Hand over what waits, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if not await self.step():
                    await self._clock.sleep(self._backoff.next())
            self._empty.set()

    async def step(self) -> bool:
        """Hand over one batch; return whether the store took it. What it did not take stays, in its order."""
        batch = list(islice(self._waiting, BATCH))
        try:
            await self._settle(batch)
        except DependencyError:
            self.failures += 1
            return False
        self._backoff.reset()
        self._took(batch)
        return True

    def _took(self, batch: Sequence[Settlement]) -> None:
        for settlement in batch:
            # Meanwhile some of them may have been dropped from the front, or all.
            if not self._waiting or self._waiting[0] is not settlement:
                continue
            self._waiting.popleft()


class Releasing:
    """Calls that are over and whose reservation may yet arrive in PostgreSQL: voided, however long that takes.

    Only once their end is on record, which ``drained`` tells: it would end the void too.
    """

    def __init__(self, release: Callable[[str], Awaitable[None]], *, drained: Callable[[], Awaitable[bool]]) -> None:
        self._release = release
        self._drained = drained
        self._waiting: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call_id: str) -> None:
        """Void a call's reservation some time soon; its end is in the journal."""
        self._waiting.append(call_id)

    async def step(self) -> None:
        """Void what waits, until the database is away."""
        due = len(self._waiting)
        try:
            if not due or not await self._drained():
                return
            for _ in range(due):
                await self._release(self._waiting[0])
                self._waiting.popleft()
        except DependencyError:
            return
