"""Requests that ask the same at the same time: one is called for, the others wait for its answer."""

from __future__ import annotations

import asyncio
from collections import deque

from hx_gateway.cache.answers import StoredAnswer

# More than that go on by themselves: the limits of their keys hold them, which waiting does not.
MAX_WAITING = 256


class Lead:
    """One request that calls for itself and for those who wait. Whoever has it calls :meth:`end`, in every ending."""

    def __init__(self, flight: _Flight) -> None:
        self._flight: _Flight | None = flight

    def end(self, answer: StoredAnswer | None = None, *, hand_over: bool = False) -> None:
        """Give ``answer`` to those who wait; with ``hand_over`` one of them leads instead, and the others wait on.

        Without either each goes on by itself: nobody waits past a call that failed. Only the first end counts.
        """
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.end(answer, hand_over=hand_over)


class _Flight:
    def __init__(self, flights: dict[bytes, _Flight], digest: bytes) -> None:
        self.waiting: deque[asyncio.Future[StoredAnswer | Lead | None]] = deque()
        self._flights = flights
        self._digest = digest

    def end(self, answer: StoredAnswer | None, *, hand_over: bool) -> None:
        while hand_over and self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(Lead(self))
                return
        del self._flights[self._digest]
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(answer)


class Flights:
    """The calls of one process that others may wait for."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._flights: dict[bytes, _Flight] = {}
        self._max_waiting = max_waiting

    def __len__(self) -> int:
        return len(self._flights)

    async def join(self, digest: bytes, seconds: float) -> StoredAnswer | Lead | None:
        """Return the lead of a call that nobody makes yet, or wait for whoever makes it.

        Then: its answer; its lead, where it went away; or ``None`` where it has none to give, or after ``seconds``.
        """
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight(self._flights, digest)
            return Lead(flight)
        if len(flight.waiting) >= self._max_waiting:
            return None
        waiter: asyncio.Future[StoredAnswer | Lead | None] = asyncio.get_running_loop().create_future()
        flight.waiting.append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=seconds)
        except asyncio.CancelledError:
            if waiter.done() and isinstance(handed := waiter.result(), Lead):
                handed.end(hand_over=True)
            raise
        finally:
            if not waiter.done():
                waiter.cancel()
                flight.waiting.remove(waiter)
        return None if waiter.cancelled() else waiter.result()
