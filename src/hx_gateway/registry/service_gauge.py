"""How many services there are and wait, for Prometheus: read in the background, so that a scrape asks no database."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import Unavailable
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.registry.item_counts import counts_of_all
from hx_gateway.registry.probing import overdue_seconds
from hx_gateway.services.database import DatabaseManager
from hx_gateway.telemetry import Metrics

INTERVAL_SECONDS = 15.0
_log = structlog.get_logger()


class ServiceGauge:
    """Keeps the gauges of all tenants' living services. While the database is away they stay as they were.

    ``probing`` says whether this gateway probes: where nobody does, nobody is late.
    """

    def __init__(
        self, database: DatabaseManager, metrics: Metrics, *, probing: bool = True, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._probing = probing
        self._clock = clock or SystemClock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to read. Needs a running loop."""
        self._tasks = [asyncio.create_task(self._forever())]

    async def aclose(self) -> None:
        """Stop."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)

    async def read(self) -> None:
        """Read the counts once. What there was and is not any more is 0 in the table too, and so in the gauge."""
        metrics = self._metrics
        async with self._database.session(EVERY_TENANT) as session:
            rows = await counts_of_all(session)
            overdue = await overdue_seconds(session, self._clock.now()) if self._probing else 0.0
        required: Counter[str] = Counter()
        for row in rows:
            metrics.registry_services.labels(row.status, row.protocol, row.priority).set(row.services)
            required[row.status] += row.required
        for status, services in required.items():
            metrics.required_services.labels(status).set(services)
        metrics.checks_overdue.set(overdue)

    async def _forever(self) -> None:
        while True:
            try:
                await self.read()
            except Unavailable as error:
                _log.info("registry_services_not_counted", reason=str(error))
            except Exception:  # noqa: BLE001 - whatever it was, the next count may be better
                _log.exception("registry_services_count_broke")
            await self._clock.sleep(INTERVAL_SECONDS)
