"""Requests in flight, and how they end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hx_gateway.pipeline.context import Context

# What was told to stop says so to its client and ends.
STOP_SECONDS = 5.0


class Flight:
    """A request and the task that answers it."""

    __slots__ = ("ctx", "gone", "task")

    def __init__(self, ctx: Context, task: asyncio.Task[None]) -> None:
        self.ctx = ctx
        self.task = task
        self.gone = False

    def client_gone(self) -> None:
        """Stop the work: nobody waits for it any more."""
        self.gone = True
        self.task.cancel()

    def stop(self) -> None:
        """Stop the work: the time to drain is over."""
        self.ctx.stopping = True
        self.task.cancel()


class Drain:
    """Knows what is in flight. Once draining, new work is refused and the rest may finish."""

    def __init__(self) -> None:
        self.draining = False
        self._flights: set[Flight] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._told: list[Callable[[], None]] = []

    def on_begin(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` once draining begins: for answers that would go on for as long as they may."""
        self._told.append(tell)

    def __len__(self) -> int:
        return len(self._flights)

    def enter(self, flight: Flight) -> None:
        """Count ``flight`` in."""
        self._flights.add(flight)
        self._empty.clear()

    def leave(self, flight: Flight) -> None:
        """Count ``flight`` out."""
        self._flights.discard(flight)
        if not self._flights:
            self._empty.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until nothing is in flight, at most ``seconds``; then stop what is left. True if nothing was."""
        self.draining = True
        for tell in self._told:
            tell()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            left = tuple(self._flights)
            for flight in left:
                flight.stop()
            if left:
                await asyncio.wait([flight.task for flight in left], timeout=STOP_SECONDS)
            return False
        return True
