"""The process's one default database, for programs that do not hand a manager on: bound and cleared by its owner."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.services.database import MAX_OVERFLOW, POOL_SIZE, DatabaseManager

DEFAULT_TENANT = "default"
# By process: connections do not survive a fork.
_bound: dict[int, DatabaseManager] = {}


async def init_db(url: str, *, pool_size: int = POOL_SIZE, max_overflow: int = MAX_OVERFLOW) -> DatabaseManager:
    """Bind the default to a database; it is connected to when it is first used.

    Raises ``RuntimeError`` where one is bound already: :func:`close_db` comes first.
    """
    if os.getpid() in _bound:
        raise RuntimeError("a default database is bound already: close_db() first.")
    _bound.clear()
    manager = _bound[os.getpid()] = DatabaseManager(url, pool_size=pool_size, max_overflow=max_overflow)
    return manager


async def close_db() -> None:
    """Close the default's connections and clear it; without one nothing happens."""
    manager = _bound.pop(os.getpid(), None)
    if manager is not None:
        await manager.close()


@asynccontextmanager
async def get_db_session(tenant: str = DEFAULT_TENANT) -> AsyncIterator[AsyncSession]:
    """Open one transaction of the default database, as :meth:`DatabaseManager.session` does, with its errors.

    Raises ``RuntimeError`` where none is bound.
    """
    manager = _bound.get(os.getpid())
    if manager is None:
        raise RuntimeError("no default database is bound: init_db() first.")
    async with manager.session(tenant) as session:
        yield session


async def get_db() -> AsyncIterator[AsyncSession]:
    """Give a FastAPI route its transaction: ``Depends(get_db)``.

    It is the default tenant's, and takes no arguments: FastAPI would let the request say them.
    """
    async with get_db_session() as session:
        yield session
