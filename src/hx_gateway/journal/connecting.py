"""Connections for whoever writes: made one by one, with the settings that a write needs to be kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from hx_gateway.db.row_security import EVERY_TENANT_SETTINGS
from hx_gateway.kit.undo import undone_on_failure

# What is trimmed from the journal after COMMIT must not be lost by the server: one that is set to forget the last
# moments when it crashes is told not to, for this session. Stronger settings stay.
_SESSION = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config('statement_timeout', '0', false);
SELECT set_config('DateStyle', 'ISO', false);
"""


class Connector:
    """Connects to one database. ``before`` is awaited before a connection of :meth:`connect_ready` is made."""

    def __init__(self, dsn: str, *, timeout: float) -> None:
        self._dsn = dsn
        self._timeout = timeout
        self.before: Callable[[], Awaitable[None]] | None = None

    async def connect(self) -> asyncpg.Connection[Any]:
        """Return a new connection. Raises the driver's errors."""
        settings = {"application_name": "hx-gateway record", **EVERY_TENANT_SETTINGS}
        return await asyncpg.connect(self._dsn, timeout=self._timeout, server_settings=settings)

    async def connect_ready(self) -> asyncpg.Connection[Any]:
        """Return a connection to a database that has its schema, and that keeps what it commits."""
        if self.before is not None:
            await self.before()
        connection = await self.connect()
        with undone_on_failure(connection.terminate):
            await connection.execute(_SESSION)
        return connection
