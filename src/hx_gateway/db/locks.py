"""Who may change the database's shape: advisory locks, and how long to wait for what others hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

# Advisory locks are taken as a pair of integers: ours ("HX"), then what is done under it.
LOCK_CLASS = 0x4858
MIGRATION_LOCK = 1
PARTITION_LOCK = 2
RETENTION_LOCK = 3
MEANINGS_LOCK = 16

LOCK_SECONDS = 2.0
ATTEMPTS = 3
# Somebody else was in the way, and may not be the next time: the lock's time-out, the server's or the driver's for
# the whole statement, and a deadlock that the server ended at our cost.
BUSY: tuple[type[Exception], ...] = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    TimeoutError,
)

T = TypeVar("T")


def milliseconds(seconds: float) -> int:
    """Return ``seconds`` as PostgreSQL's time-outs count them; never 0, which there means without end."""
    return max(1, round(seconds * 1000))


@asynccontextmanager
async def changing_partitions(connection: asyncpg.Connection[Any], lock_timeout: float) -> AsyncIterator[None]:
    """Open a transaction in which no other process of ours makes or drops partitions."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {milliseconds(lock_timeout)}")
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, {PARTITION_LOCK})")
        yield


async def patiently(operation: Callable[[], Awaitable[T]]) -> T:
    """Return what ``operation`` returns, tried :data:`ATTEMPTS` times while others are in the way (:data:`BUSY`)."""
    for _ in range(ATTEMPTS - 1):
        with suppress(*BUSY):
            return await operation()
    return await operation()
