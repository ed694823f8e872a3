"""PostgreSQL over asyncpg: a pool that heals, and the health of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import asyncpg

from hx_gateway.db.row_security import EVERY_TENANT_SETTINGS
from hx_gateway.kit.undo import undone_on_failure
from hx_gateway.services.base import DependencyError, FailureKind, PoolFigures
from hx_gateway.services.dsn import postgres_dsn
from hx_gateway.services.failures import classify, dependency_error
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService

ACQUIRE_SECONDS = 0.25
RELEASE_SECONDS = 1.0
COMMAND_SECONDS = 10.0
HEALTH_QUERY = "SELECT 1"
_DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)
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
# These are the server's state and not the statement's fault: the caller gets them as ``DependencyError``.
_TRANSLATED = _POISONED | {FailureKind.FULL}
# These say that the server itself is gone. One that is full, read-only or busy still answers others.
_TELLING = frozenset({FailureKind.LOST, FailureKind.REFUSED})


class PostgresService(WatchedService):
    """One database. ``url`` in any form that :func:`~hx_gateway.services.dsn.postgres_dsn` accepts (``DsnError``).

    The pool is there while the database is: the watch builds it before it calls the database healthy, expires its
    connections after a hang, and throws it away when the database ends them or cannot be reached. Beside the pool's
    ``max_size`` connections the watch holds one. ``server_settings`` are those that the pool's sessions begin with, for
    the gateway's own database: all tenants' rows are theirs. ``pool_options`` are further arguments of
    ``asyncpg.create_pool``.
    """

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
        acquire_timeout: float = ACQUIRE_SECONDS,
        server_settings: Mapping[str, str] = EVERY_TENANT_SETTINGS,
        pool_options: Mapping[str, Any] | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT_SECONDS,
    ) -> None:
        self._dsn = postgres_dsn(url)
        self._min_size = min_size
        self._max_size = max_size
        self._connect_timeout = connect_timeout
        self._acquire_timeout = acquire_timeout
        self._pool_options = {"server_settings": dict(server_settings), **(pool_options or {})}
        self._pool: asyncpg.Pool[Any] | None = None
        super().__init__(
            _PostgresLink(self._dsn, connect_timeout, reached=self._renew_pool, unreachable=self._terminate_pool),
            connect_timeout=connect_timeout,
            health_timeout=health_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )

    @property
    def pool(self) -> PoolFigures:
        """Figures of the pool; zeros while there is none."""
        pool = self._pool
        if pool is None:
            return PoolFigures(size=0, checked_in=0, checked_out=0, maximum=self._max_size)
        size, idle = pool.get_size(), pool.get_idle_size()
        return PoolFigures(size=size, checked_in=idle, checked_out=size - idle, maximum=self._max_size)

    async def renew_connections(self) -> None:
        """Let no connection that is open now be used again; those in use are closed when they are given back."""
        if self._pool is not None:
            await self._pool.expire_connections()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Lend a connection. Raises ``DependencyError`` at once while the database is known to be away.

        ``out_of_connections`` means that the pool's were all in use for ``acquire_timeout``. Errors of the server's
        state become ``DependencyError``; a statement's own stay asyncpg's. A connection whose command was cancelled,
        or failed in a way that makes it useless, is closed.
        """
        pool = self._pool
        if pool is None or not self.sample.healthy:
            raise DependencyError(self.display_name, self.sample.failure or FailureKind.REFUSED)
        connection = await self._lend(pool)
        spoilt = False
        try:
            yield connection
        except asyncio.CancelledError:
            spoilt = True
            raise
        except _DRIVER_ERRORS as error:
            kind = classify(error).kind
            spoilt = kind in _POISONED
            if kind not in _TRANSLATED:
                raise
            await self._heed(pool, kind)
            raise dependency_error(self.display_name, error) from error
        except AttributeError as error:
            # What asyncpg makes of a connection that is terminated between two steps of a statement.
            if not _is_gone(connection):
                raise
            raise DependencyError(self.display_name, FailureKind.LOST) from error
        finally:
            await _give_back(pool, connection, spoilt=spoilt)

    async def _lend(self, pool: asyncpg.Pool[Any]) -> Any:
        try:
            return await pool.acquire(timeout=self._acquire_timeout)
        except (*_DRIVER_ERRORS, OSError) as error:
            kind = classify(error).kind
            if kind is FailureKind.TIMEOUT and pool.get_size() >= self._max_size:
                raise DependencyError(self.display_name, FailureKind.OVERLOADED) from error
            await self._heed(pool, kind)
            raise dependency_error(self.display_name, error) from error

    async def _heed(self, pool: asyncpg.Pool[Any], kind: FailureKind) -> None:
        """Draw from a failure what it says about the other connections."""
        if kind in _TELLING:
            self.report_failure(kind)
        if kind is FailureKind.READ_ONLY:
            # A primary that was demoted keeps its connections: new ones find the new primary.
            await pool.expire_connections()

    async def _renew_pool(self) -> None:
        """Build the pool, or expire the connections of one that lived through a loss."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=self._min_size,
                max_size=self._max_size,
                timeout=self._connect_timeout,
                command_timeout=COMMAND_SECONDS,
                **self._pool_options,
            )
        else:
            await self._pool.expire_connections()

    async def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with undone_on_failure(pool.terminate):
                await pool.close()

    def _terminate_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


def _is_gone(connection: Any) -> bool:
    """Return whether a connection that was lent is closed, or its pool took it back."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


async def _give_back(pool: asyncpg.Pool[Any], connection: Any, *, spoilt: bool) -> None:
    # What was asked for is done by now, whatever happens to the connection: asyncpg closes one it cannot reset.
    with suppress(*_DRIVER_ERRORS):
        if spoilt:
            connection.terminate()
        await pool.release(connection, timeout=RELEASE_SECONDS)


class _PostgresLink:
    """A connection of its own, so that its end is noticed while nobody uses the pool."""

    def __init__(
        self,
        dsn: str,
        connect_timeout: float,
        *,
        reached: Callable[[], Awaitable[None]],
        unreachable: Callable[[], None],
    ) -> None:
        self.lost = asyncio.Event()
        self._dsn = dsn
        self._connect_timeout = connect_timeout
        self._reached = reached
        self._unreachable = unreachable
        self._connection: Any = None

    async def open(self) -> None:
        with undone_on_failure(self._unreachable):
            self._connection = await asyncpg.connect(self._dsn, timeout=self._connect_timeout)
            self._connection.add_termination_listener(self._ended)
            await self.beat()
            await self._reached()

    async def beat(self) -> None:
        await self._connection.execute(HEALTH_QUERY)

    async def drop(self) -> None:
        if self.lost.is_set():
            # The server ended it, and with it the others. Left alone, the pool would try to restore them meanwhile.
            self._unreachable()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._ended)
            connection.terminate()

    def _ended(self, _connection: object) -> None:
        self.lost.set()
