"""Keeps the database fit for the record: its schema, its partitions, and nothing older than it should be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from hx_gateway.db.coverage import read_coverage
from hx_gateway.db.partitions import ensure_partitions, partitions_ahead
from hx_gateway.db.retention import retire_partitions, trim_boundary
from hx_gateway.db.row_security import exempt_role
from hx_gateway.db.schemas import GATEWAY_SCHEMA, PARTITIONED_TABLES
from hx_gateway.kit.clock import Clock
from hx_gateway.migrations.runner import DRIVER_ERRORS, SchemaTooNew, upgrade

PARTITION_SECONDS = 3600.0
RETENTION_SECONDS = 86400.0
RETRY_SECONDS = 30.0
# Longer than any journal keeps a segment: what nobody has moved since belongs to nobody.
CURSOR_DAYS = 60
_FORGOTTEN = f"DELETE FROM {GATEWAY_SCHEMA}.journal_cursors WHERE updated_at < now() - interval '{CURSOR_DAYS} days'"  # noqa: S608

# What keeps the database from being looked after, and is tried again.
UNREACHABLE: tuple[type[Exception], ...] = (*DRIVER_ERRORS, TimeoutError, SchemaTooNew)

Connect = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Removed:
    """What retention took from one table: whole partitions and single rows."""

    partitions: list[str] = field(default_factory=list)
    rows: int = 0


class Upkeep:
    """Migrates before the first use, then makes partitions hourly and removes old rows daily.

    Several processes may keep up one database: each step is done by one of them, the others find it done.
    """

    def __init__(
        self, dsn: str, connect: Connect, retention: Mapping[str, timedelta], *, migrate: bool, clock: Clock
    ) -> None:
        self._dsn = dsn
        self._connect = connect
        self._retention = retention
        self._migrate = migrate
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ready = False
        self._log = structlog.get_logger()
        # For metrics: partitions after the current one by table, and when the last round succeeded (Unix seconds).
        self.ahead: dict[str, int] = {}
        self.kept_up_at: float | None = None
        self.retired_partitions: dict[str, int] = {}
        self.retired_rows: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        """Whether the schema was found current, and partitions made, since the start."""
        return self._ready

    async def prepare(self) -> None:
        """Return once the schema is current and today has partitions. Raises the driver's errors, ``SchemaTooNew``."""
        async with self._lock:
            if self._ready:
                return
            if self._migrate:
                for revision in await upgrade(self._dsn):
                    self._log.info("schema_migrated", revision=revision)
            await self.make_partitions()
            await self._look_at_role()
            self._ready = True

    async def _look_at_role(self) -> None:
        connection = await self._connect()
        try:
            role = await exempt_role(connection)
        finally:
            connection.terminate()
        if role is not None:
            self._log.warning("row_security_bypassed", role=role)

    async def make_partitions(self) -> None:
        """Make the partitions of the days and weeks ahead."""
        connection = await self._connect()
        try:
            now = self._clock.now()
            made = await ensure_partitions(connection, now=now)
            if made:
                self._log.info("partitions_made", count=len(made), first=made[0])
            coverage = await read_coverage(connection)
            self.ahead = {table.name: partitions_ahead(coverage, table, now) for table in PARTITIONED_TABLES}
            self.kept_up_at = now.timestamp()
        finally:
            connection.terminate()

    async def remove_old(self) -> dict[str, Removed]:
        """Drop what is past its table's retention, the boundary partition's older rows too; return what went."""
        await self.prepare()
        connection = await self._connect()
        try:
            await connection.execute(_FORGOTTEN)
            now = await self._surely_past(connection)
            return {table.name: await self._remove_from(connection, table, now) for table in PARTITIONED_TABLES}
        finally:
            connection.terminate()

    async def _surely_past(self, connection: Any) -> datetime:
        """Return the earlier of our time and the database's: a clock that is years ahead must not empty the tables."""
        theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return min(self._clock.now(), theirs)

    async def analyze(self) -> None:
        """Let the planner know the tables as a whole: autovacuum looks at their partitions only."""
        await self.prepare()
        connection = await self._connect()
        try:
            for table in PARTITIONED_TABLES:
                await connection.execute(f"ANALYZE {table.qualified}")
        finally:
            connection.terminate()

    async def _remove_from(self, connection: Any, table: Any, now: datetime) -> Removed:
        cutoff = now - self._retention[table.name]
        retired = await retire_partitions(connection, table, cutoff)
        trimmed = await trim_boundary(connection, table, cutoff)
        for gone in retired:
            self._log.info("partition_retired", table=table.name, partition=gone.name, rows=gone.rows)
        rows = sum(gone.rows for gone in retired) + trimmed
        if rows:
            self._log.info("retention_applied", table=table.name, rows=rows, trimmed=trimmed, cutoff=cutoff.isoformat())
        self.retired_partitions[table.name] = self.retired_partitions.get(table.name, 0) + len(retired)
        self.retired_rows[table.name] = self.retired_rows.get(table.name, 0) + rows
        return Removed([gone.name for gone in retired], rows)

    async def run(self) -> None:
        """Keep up until cancelled. A database that is away is tried again."""
        retained_at = float("-inf")
        while True:
            pause = PARTITION_SECONDS
            try:
                await self.prepare()
                await self.make_partitions()
                if self._clock.monotonic() - retained_at >= RETENTION_SECONDS:
                    await self.remove_old()
                    await self.analyze()
                    retained_at = self._clock.monotonic()
            except UNREACHABLE as error:
                self._log.warning("upkeep_failed", reason=type(error).__name__)
                pause = RETRY_SECONDS
            await self._clock.sleep(pause)
