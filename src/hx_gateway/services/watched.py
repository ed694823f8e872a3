"""What the services with a watch have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

from hx_gateway.services.base import FailureKind, HealthSample, PoolFigures
from hx_gateway.services.health import Link, Watch

CLOSE_SECONDS = 2.0


class WatchedService(ABC):
    """A data service whose health is kept by a :class:`~hx_gateway.services.health.Watch`.

    Failure policy: ``connect`` and ``healthy`` never raise for a store that is away; work on it raises
    ``DependencyError``, which routes turn into 503.
    """

    key: ClassVar[str]
    display_name: ClassVar[str]
    configured = True

    def __init__(
        self,
        link: Link,
        *,
        connect_timeout: float,
        health_timeout: float,
        heartbeat: float,
        heartbeat_timeout: float,
    ) -> None:
        self._health_timeout = health_timeout
        self._watch = Watch(
            link, connect_timeout=connect_timeout, heartbeat=heartbeat, heartbeat_timeout=heartbeat_timeout
        )

    @property
    def sample(self) -> HealthSample:
        """The last thing known; costs nothing."""
        return self._watch.sample

    @property
    def pool(self) -> PoolFigures | None:
        """Figures of the connection pool, where there is one."""
        return None

    async def connect(self) -> None:
        """Start to watch. Returns after the first attempt, whatever came of it; the watch heals the rest."""
        await self._watch.start()

    async def healthy(self) -> bool:
        """Probe now, together with whoever else asks. Never raises, never takes longer than the time-out.

        It asks on the watch's connection: a pool whose connections all work is not a store that is away. Starts the
        watch if ``connect`` did not; false once closed.
        """
        return await self._watch.probe(self._health_timeout)

    async def close(self) -> None:
        """Close everything, within :data:`CLOSE_SECONDS`."""
        await self._watch.stop()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._close_pool()
        except TimeoutError:
            self._terminate_pool()

    def report_failure(self, kind: FailureKind) -> None:
        """Let traffic say what it saw: the sample turns unhealthy at once, and a probe follows."""
        self._watch.report_failure(kind)

    def on_change(self, callback: Callable[[HealthSample], None]) -> None:
        """Call ``callback`` whenever ``healthy`` flips."""
        self._watch.on_change(callback)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def _close_pool(self) -> None: ...

    @abstractmethod
    def _terminate_pool(self) -> None: ...
