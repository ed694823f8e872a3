"""The gateway's own record: every model request becomes one record in the journal, its latencies metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from hx_gateway.events import Ending, RequestFinished
from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.journal.format import SHEDDABLE
from hx_gateway.journal.log import Journal
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.observability.buffer import BatchWriteBuffer
from hx_gateway.observability.latencies import Latencies
from hx_gateway.observability.request_facts import Sample, encode_facts
from hx_gateway.observability.request_rows import REQUESTS, request_kind, unix_ns_to_us
from hx_gateway.observability.rows import Rows
from hx_gateway.observability.tables import PERFORMANCE_METRICS, retention_of

METRICS_SECONDS = 10.0
# What a journal that cannot take a record raises; a full disk shows as OSError where it cannot even end a segment.
_LOST = (JournalRefused, JournalClosed, OSError)


class RequestRecorder:
    """An ``EventSink``. Requests of other routes than models' are not its business.

    ``sample`` is the share of requests that are recorded, by their ids; those that did not succeed always are, and
    latencies count them all. Latencies are written every :data:`METRICS_SECONDS` and at the end: an ``async with``
    begins and ends that, inside the journal's own. Fails open: what the journal does not take is counted there and
    lost, the request goes on.
    """

    def __init__(self, journal: Journal, *, sample: float = 1.0, clock: Clock | None = None) -> None:
        self._journal = journal
        self._append = journal.append
        self._sample = Sample(sample)
        self._clock = clock or SystemClock()
        self._latencies = Latencies()
        self._rows = Rows(retention_of({}))
        self._metrics = BatchWriteBuffer(journal, PERFORMANCE_METRICS)
        self._task: asyncio.Task[None] | None = None

    def emit(self, event: RequestFinished) -> None:
        """Record ``event``. Never raises, and waits for nothing but the kernel's page cache."""
        if not event.model_call:
            return
        self._latencies.add(event)
        fine = event.status < 400 and event.ending is Ending.COMPLETE
        if fine and not self._sample.takes(event.request_id):
            return
        time_us = unix_ns_to_us(event.ended_ns)
        try:
            self._append(REQUESTS, encode_facts(event), 1, time_us, time_us, SHEDDABLE if fine else 0)
        except _LOST as lost:
            self._count_lost(lost)

    def tick(self) -> None:
        """Write the latencies gathered since the last time. Never raises."""
        rows = self._latencies.take(self._rows.performance_metric)
        if not rows:
            return
        with suppress(*_LOST):
            self._metrics.add_together(rows)

    def _count_lost(self, lost: Exception) -> None:
        """Count what the journal does not: it was not open, or could not say why."""
        if not isinstance(lost, JournalRefused):
            reason = "closed" if isinstance(lost, JournalClosed) else "disk_error"
            self._journal.counts.of(self._journal.kinds[REQUESTS].name).refuse(reason, 1)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end_tasks([self._task])
        self.tick()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(METRICS_SECONDS)
            self.tick()


__all__ = ["METRICS_SECONDS", "RequestRecorder", "request_kind"]
