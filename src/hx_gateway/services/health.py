"""How the health of a store is known without asking it for each request: a watch a store, and rounds over all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.base import DataService, FailureKind, HealthSample
from hx_gateway.services.failures import classify

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TIMEOUT_SECONDS = 1.5
RETRY_SECONDS = 1.0
JITTER = 0.2
# However many ask or report: attempts on a store are at least this far apart.
MIN_GAP_SECONDS = 0.05


class Link(Protocol):
    """One connection that a watch holds. ``lost`` is set by whoever notices its end.

    ``open`` connects and asks once; ``beat`` asks again. Both raise whatever the driver does.
    """

    lost: asyncio.Event

    async def open(self) -> None: ...
    async def beat(self) -> None: ...
    async def drop(self) -> None: ...


class Watch:
    """Holds one connection to a store and keeps the sample of its health.

    A connection that ends is noticed at once, one that hangs within a heartbeat and its time-out, both without
    traffic; a store that is away is tried once a second until it is back. ``sample`` starts unhealthy.
    """

    def __init__(
        self,
        link: Link,
        *,
        connect_timeout: float,
        heartbeat: float = HEARTBEAT_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT_SECONDS,
    ) -> None:
        self.sample = HealthSample(healthy=False, checked_at=time.monotonic())
        self._link = link
        self._connect_timeout = connect_timeout
        self._heartbeat = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self._callbacks: list[Callable[[HealthSample], None]] = []
        self._poke = asyncio.Event()
        # Set when the attempt that begins next has ended; each attempt leaves a new one.
        self._next_attempt = asyncio.Event()
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Start watching; return once the first attempt has succeeded or failed."""
        self._stopped = False
        if self._task is None:
            first = self._next_attempt
            self._task = asyncio.create_task(self._run())
            await first.wait()

    async def stop(self) -> None:
        """Stop watching and drop the connection. Whoever still asks is told that it is not healthy."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            await end_tasks([task])
        self.sample = HealthSample(healthy=False, checked_at=time.monotonic())
        self._next_attempt.set()
        self._next_attempt = asyncio.Event()
        await self._link.drop()

    async def probe(self, seconds: float) -> bool:
        """Ask now, at most ``seconds`` long, and return whether it is healthy. All who ask at once share one attempt.

        Starts the watch if nobody did. False once it was stopped.
        """
        if self._stopped:
            return False
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                if self._task is None:
                    await self.start()
                else:
                    self._poke.set()
                    await self._next_attempt.wait()
        except TimeoutError:
            if self.sample.checked_at < began:
                self._mark_failed(FailureKind.TIMEOUT)
        return self.sample.healthy

    def on_change(self, callback: Callable[[HealthSample], None]) -> None:
        """Call ``callback`` soon with each sample whose health differs from the one before."""
        self._callbacks.append(callback)

    def report_failure(self, kind: FailureKind) -> None:
        """Believe what traffic saw, and look for ourselves at once; what is down is looked at once a second anyway."""
        if self.sample.healthy:
            self._poke.set()
        self._mark_failed(kind)

    def _mark(self, sample: HealthSample) -> None:
        changed = sample.healthy != self.sample.healthy
        self.sample = sample
        if changed:
            # Through the loop: a listener's mistake must not end the watch, which would never heal again.
            loop = asyncio.get_running_loop()
            for callback in self._callbacks:
                loop.call_soon(callback, sample)

    async def _run(self) -> None:
        while True:
            self._link.lost.clear()
            if await self._attempt(self._link.open, self._connect_timeout):
                await self._hold()
                # It answered a moment ago: whether it still does is worth asking at once.
                self._poke.set()
            await self._link.drop()
            await self._wait(RETRY_SECONDS * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    async def _hold(self) -> None:
        while not await self._wait(self._heartbeat, self._link.lost):
            if not await self._attempt(self._link.beat, self._heartbeat_timeout):
                return
        self._mark_failed(FailureKind.LOST)

    async def _attempt(self, action: Callable[[], Awaitable[None]], seconds: float) -> bool:
        """Do ``action`` and mark what came of it; return whether the store answered."""
        ended, self._next_attempt = self._next_attempt, asyncio.Event()
        self._poke.clear()
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await action()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises here means that the store is away
            self._mark_failed(classify(error).kind)
            return False
        else:
            now = time.monotonic()
            self._mark(HealthSample(healthy=True, checked_at=now, latency_seconds=now - began))
            return True
        finally:
            self._not_before = time.monotonic() + MIN_GAP_SECONDS
            ended.set()

    async def _wait(self, seconds: float, lost: asyncio.Event | None = None) -> bool:
        """Wait until the next attempt is due or asked for; return at once, and true, when the connection ends."""
        events = [self._poke] if lost is None else [self._poke, lost]
        waiting = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
        if lost is not None and lost.is_set():
            return True
        await asyncio.sleep(self._not_before - time.monotonic())
        return False

    def _mark_failed(self, kind: FailureKind) -> None:
        latency = self.sample.latency_seconds
        self._mark(HealthSample(healthy=False, checked_at=time.monotonic(), latency_seconds=latency, failure=kind))


class HealthSampler:
    """Asks every store in rounds: each ``interval``, each second while one is down, at most ``round_timeout`` long."""

    def __init__(
        self,
        services: Sequence[DataService],
        *,
        interval: float = 30.0,
        round_timeout: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self._services = tuple(service for service in services if service.configured)
        self._interval = interval
        self._round_timeout = round_timeout
        self._clock = clock or SystemClock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the rounds."""
        if self._services:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the rounds."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while True:
            all_up = all(service.sample.healthy for service in self._services)
            await self._clock.sleep(self._interval if all_up else min(RETRY_SECONDS, self._interval))
            await self.round()

    async def round(self) -> None:
        """Ask every store once. One that raises or is too slow keeps the sample it has."""
        if not self._services:
            return
        probes = [asyncio.create_task(service.healthy()) for service in self._services]
        _, late = await asyncio.wait(probes, timeout=self._round_timeout)
        for probe in late:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
