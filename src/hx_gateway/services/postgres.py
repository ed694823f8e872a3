"""PostgreSQL over asyncpg: a pool that heals, and the health of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import asyncpg

from hx_gateway.services.base import DependencyError, FailureKind, HealthSample, PoolFigures
from hx_gateway.services.dsn import postgres_dsn
from hx_gateway.services.failures import classify, dependency_error
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService

ACQUIRE_SECONDS = 0.25
COMMAND_SECONDS = 10.0
HEALTH_QUERY = "SELECT 1"
# After these the connection is not used again: it is gone, or belongs to a server that was demoted.
_POISONED = frozenset(
    {
        FailureKind.LOST,
        FailureKind.REFUSED,
        FailureKind.TIMEOUT,
        FailureKind.READ_ONLY,
        FailureKind.OVERLOADED,
    }
)
# These say that nobody can work with the server as it is: all its connections go.
_TELLING = frozenset({FailureKind.LOST, FailureKind.REFUSED, FailureKind.READ_ONLY})


class PostgresService(WatchedService):
    """One database. ``url`` in any form that :func:`~hx_gateway.services.dsn.postgres_dsn` accepts (``DsnError``)."""

    key: ClassVar[str] = "postgres"
    display_name: ClassVar[str] = "PostgreSQL"

    def __init__(
        self,
        url: str,
        *,
        min_size: int = 1,
        max_size: int = 5,
        connect_timeout: float = 3.0,
        health_timeout: float = 3.0,
        heartbeat: float = HEARTBEAT_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT_SECONDS,
    ) -> None:
        self._dsn = postgres_dsn(url)
        self._min_size = min_size
        self._max_size = max_size
        self._connect_timeout = connect_timeout
        self._pool: asyncpg.Pool[Any] | None = None
        self._opening = asyncio.Lock()
        super().__init__(
            _PostgresLink(self._dsn, connect_timeout),
            connect_timeout=connect_timeout,
            health_timeout=health_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )
        self.on_change(self._discard_pool)

    @property
    def pool(self) -> PoolFigures:
        """Figures of the pool; zeros while there is none."""
        pool = self._pool
        if pool is None:
            return PoolFigures(size=0, checked_in=0, checked_out=0, maximum=self._max_size)
        size, idle = pool.get_size(), pool.get_idle_size()
        return PoolFigures(size=size, checked_in=idle, checked_out=size - idle, maximum=self._max_size)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Lend a connection. Raises ``DependencyError`` at once while the database is known to be away.

        A connection whose command was cancelled, or failed in a way that makes it useless, is closed.
        """
        if not self.sample.healthy:
            raise DependencyError(self.display_name, self.sample.failure or FailureKind.REFUSED)
        connection = await self._lend()
        spoilt = True
        try:
            yield connection
            spoilt = False
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            failure = classify(error)
            spoilt = failure.kind in _POISONED
            if not spoilt:
                raise
            if failure.kind in _TELLING:
                self.report_failure(failure.kind)
            raise dependency_error(self.display_name, error) from error
        finally:
            # The pool may have been discarded meanwhile, and its connections with it.
            with suppress(asyncpg.InterfaceError):
                if spoilt:
                    connection.terminate()
                if self._pool is not None:
                    await self._pool.release(connection)

    async def _lend(self) -> Any:
        try:
            pool = await self._open_pool()
            return await pool.acquire(timeout=ACQUIRE_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if not isinstance(error, TimeoutError):
                self.report_failure(classify(error).kind)
            raise dependency_error(self.display_name, error) from error

    async def _open_pool(self) -> asyncpg.Pool[Any]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=self._min_size,
                    max_size=self._max_size,
                    timeout=self._connect_timeout,
                    command_timeout=COMMAND_SECONDS,
                )
            return self._pool

    async def _probe(self) -> None:
        pool = await self._open_pool()
        connection = await pool.acquire(timeout=self._health_timeout)
        try:
            await connection.fetchval(HEALTH_QUERY)
        except BaseException:
            connection.terminate()
            raise
        finally:
            await pool.release(connection)

    def _discard_pool(self, sample: HealthSample) -> None:
        """Throw the connections of a lost server away: those of the hung time must not come back."""
        if not sample.healthy:
            self._terminate_pool()

    async def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await pool.close()
            except BaseException:
                pool.terminate()
                raise

    def _terminate_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


class _PostgresLink:
    """A connection of its own, so that its end is noticed while nobody uses the pool."""

    def __init__(self, dsn: str, connect_timeout: float) -> None:
        self.lost = asyncio.Event()
        self._dsn = dsn
        self._connect_timeout = connect_timeout
        self._connection: Any = None

    async def open(self) -> None:
        self._connection = await asyncpg.connect(self._dsn, timeout=self._connect_timeout)
        self._connection.add_termination_listener(self._ended)
        await self.beat()

    async def beat(self) -> None:
        await self._connection.execute(HEALTH_QUERY)

    async def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._ended)
            connection.terminate()

    def _ended(self, _connection: object) -> None:
        self.lost.set()
