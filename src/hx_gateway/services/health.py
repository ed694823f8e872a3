"""How the health of a store is known without asking it for each request: a watch a store, and rounds over all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from hx_gateway.services.base import DataService, FailureKind, HealthSample
from hx_gateway.services.failures import classify

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TIMEOUT_SECONDS = 1.5
RETRY_SECONDS = 1.0
JITTER = 0.2


class Link(Protocol):
    """One connection that a watch holds. ``lost`` is set by whoever notices its end."""

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
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start watching; return once the first attempt has succeeded or failed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await self._first.wait()

    async def stop(self) -> None:
        """Stop watching and drop the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._link.drop()

    def on_change(self, callback: Callable[[HealthSample], None]) -> None:
        """Call ``callback`` with each sample whose health differs from the one before."""
        self._callbacks.append(callback)

    def report_failure(self, kind: FailureKind) -> None:
        """Believe what traffic saw, and look for ourselves at once."""
        self.mark(HealthSample(healthy=False, checked_at=time.monotonic(), failure=kind))
        self._poke.set()

    def mark(self, sample: HealthSample) -> None:
        """Take ``sample`` as the last thing known."""
        changed = sample.healthy != self.sample.healthy
        self.sample = sample
        self._first.set()
        if changed:
            for callback in self._callbacks:
                callback(sample)

    async def _run(self) -> None:
        while True:
            try:
                await self._hold()
            except Exception as error:  # noqa: BLE001 - whatever a driver raises here means that the store is away
                self._mark_failed(error)
            await self._link.drop()
            await self._pause(RETRY_SECONDS * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    async def _hold(self) -> None:
        self._link.lost.clear()
        began = time.monotonic()
        async with asyncio.timeout(self._connect_timeout):
            await self._link.open()
        self._mark_healthy(began)
        while not await self._wait_lost():
            began = time.monotonic()
            async with asyncio.timeout(self._heartbeat_timeout):
                await self._link.beat()
            self._mark_healthy(began)
        raise ConnectionResetError("the held connection ended")

    async def _wait_lost(self) -> bool:
        """Wait for a heartbeat's time, less when poked; return whether the connection ended meanwhile."""
        lost = asyncio.ensure_future(self._link.lost.wait())
        poked = asyncio.ensure_future(self._poke.wait())
        try:
            await asyncio.wait((lost, poked), timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            poked.cancel()
        self._poke.clear()
        return self._link.lost.is_set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._poke.wait()
        except TimeoutError:
            pass
        self._poke.clear()

    def _mark_healthy(self, began: float) -> None:
        now = time.monotonic()
        self.mark(HealthSample(healthy=True, checked_at=now, latency_seconds=now - began))

    def _mark_failed(self, error: Exception) -> None:
        kind = classify(error).kind
        self.mark(HealthSample(healthy=False, checked_at=time.monotonic(), failure=kind))


class HealthSampler:
    """Asks every store in rounds: each ``interval``, each second while one is down, at most ``round_timeout`` long."""

    def __init__(self, services: Sequence[DataService], *, interval: float = 30.0, round_timeout: float = 5.0) -> None:
        self._services = tuple(service for service in services if service.configured)
        self._interval = interval
        self._round_timeout = round_timeout
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
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            all_up = all(service.sample.healthy for service in self._services)
            await asyncio.sleep(self._interval if all_up else min(RETRY_SECONDS, self._interval))
            await self.round()

    async def round(self) -> None:
        """Ask every store once."""
        probes = [asyncio.create_task(service.healthy()) for service in self._services]
        _, late = await asyncio.wait(probes, timeout=self._round_timeout)
        for probe in late:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
