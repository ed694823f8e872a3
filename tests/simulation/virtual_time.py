"""An event loop whose time is a number: it jumps to whatever is due next, and nothing outside of it is waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any

BASE = datetime(2026, 11, 25, 23, 59, 30, tzinfo=UTC)


class Deadlock(Exception):
    """Everything waits for something, and nothing will ever happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: callbacks run in the order in which they were due, then in which they were asked for."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._naps: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    async def nap(self, seconds: float) -> None:
        """Sleep, for less than ``asyncio.sleep`` costs."""
        future = self.create_future()
        heappush(self._naps, (self.now + seconds, next(self._order), future))
        await future

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        # Without the checks for those who call from another thread, or after the end.
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self) -> None:
        """Let it be the time of what is due next."""
        naps, timers = self._naps, self._scheduled
        while timers and timers[0]._cancelled:
            heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        timer = timers[0].when() if timers else None
        if naps and (timer is None or naps[0][0] <= timer):
            when, _, future = heappop(naps)
            self.now = max(self.now, when)
            if not future.done():
                future.set_result(None)
        elif timer is not None:
            self.now = max(self.now, timer)
            handle = heappop(timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(handle)
        else:
            raise Deadlock

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run_virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` to its end in virtual time; what it left behind is cancelled."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


def virtual_loop() -> VirtualLoop:
    """Return the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


class TrueClock:
    """The time that the servers agree on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._time, self._nap = loop.time, loop.nap

    def now(self) -> datetime:
        return BASE + timedelta(seconds=self._time())

    def monotonic(self) -> float:
        return self._time()

    async def sleep(self, seconds: float) -> None:
        await self._nap(seconds)
