"""PostgreSQL over SQLAlchemy: transactions for those who administer; model calls never wait for one."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from hx_gateway.db.locks import milliseconds
from hx_gateway.db.row_security import TENANT_SETTING
from hx_gateway.errors import Unavailable
from hx_gateway.services.base import DependencyError, FailureKind, PoolFigures
from hx_gateway.services.dsn import postgres_dsn
from hx_gateway.services.failures import classify, dependency_error

DISPLAY_NAME = "PostgreSQL"
POOL_SIZE = 10
MAX_OVERFLOW = 20
RECYCLE_SECONDS = 300.0
CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 5.0
ACQUIRE_SECONDS = 1.0
# A server that hangs does not end its own statements: then the driver does, a little later.
GRACE_SECONDS = 1.0
# All end with the transaction. Plans are for the values at hand: what is common and what is rare need different ones,
# and a plan for any value is the wrong one for half of them. Compiling takes longer than what it would hasten.
_BEGIN = text(
    f"SELECT set_config('statement_timeout', :milliseconds, true), set_config('{TENANT_SETTING}', :tenant, true), "
    "set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
# What comes of a connection that cannot be made, as it is and not wrapped.
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# The server answers before the migrations are through, where it was started before the database.
_NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedColumnError)
# These are a statement's own fault, or not known to be the server's state: the caller gets SQLAlchemy's error.
_STATEMENTS_OWN = frozenset({FailureKind.UNKNOWN, FailureKind.PROTOCOL})


class DatabaseManager:
    """One database, connected to when it is first used. ``url`` as :func:`~hx_gateway.services.dsn.postgres_dsn` reads.

    Failure policy: nothing is retried. While the database is away, :meth:`session` raises ``DependencyError``, which
    routes turn into 503; a connection that was lost is replaced before the next transaction begins on it.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        max_overflow: int = MAX_OVERFLOW,
        recycle: float = RECYCLE_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        statement_timeout: float = STATEMENT_SECONDS,
        acquire_timeout: float = ACQUIRE_SECONDS,
    ) -> None:
        self._maximum = pool_size + max_overflow
        self._milliseconds = str(milliseconds(statement_timeout))
        # asyncpg parses the address: SQLAlchemy's own parser knows fewer forms.
        connect = functools.partial(
            asyncpg.connect,
            postgres_dsn(url),
            timeout=connect_timeout,
            command_timeout=statement_timeout + GRACE_SECONDS,
        )
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=acquire_timeout,
            pool_recycle=recycle,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False, autoflush=False)

    @property
    def pool(self) -> PoolFigures:
        """Figures of the pool."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        idle, busy = pool.checkedin(), pool.checkedout()
        return PoolFigures(size=idle + busy, checked_in=idle, checked_out=busy, maximum=self._maximum)

    @asynccontextmanager
    async def session(self, tenant: str) -> AsyncIterator[AsyncSession]:
        """Open a session that is one transaction: committed at the end, undone when anything is raised.

        It sees and writes the rows of ``tenant`` only, ``EVERY_TENANT`` (:mod:`~hx_gateway.db.row_security`) for all.
        Raises ``DependencyError`` for the server's state, and for a commit whose outcome is not known; ``Unavailable``
        before the first migration; a statement's own failure is SQLAlchemy's ``DBAPIError``.
        """
        begun = False
        async with self._sessions() as session:
            try:
                await session.execute(_BEGIN, {"milliseconds": self._milliseconds, "tenant": tenant})
                begun = True
                yield session
                await session.commit()
            except PoolTimeoutError as error:
                raise DependencyError(DISPLAY_NAME, FailureKind.OVERLOADED) from error
            except (DBAPIError, *_DRIVER_ERRORS) as error:
                driver_error = _unwrapped(error)
                if isinstance(driver_error, TimeoutError):
                    # It may still be at work on the last command: another one would wait for it.
                    await session.invalidate()
                if isinstance(driver_error, _NOT_MIGRATED):
                    raise Unavailable("The tables are not there yet: the database is being set up.") from error
                if begun and classify(driver_error).kind in _STATEMENTS_OWN:
                    raise
                raise dependency_error(DISPLAY_NAME, driver_error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that nobody uses; the others when they are given back."""
        await self._engine.dispose()


def _unwrapped(error: BaseException) -> BaseException:
    """Return the driver's error: SQLAlchemy wraps it twice, in an error of its own and in one of the DBAPI's."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig.__context__ or error.orig
