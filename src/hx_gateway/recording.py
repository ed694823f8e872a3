"""Composes the record of the server: the layer, the journal of requests, and what feeds the metrics."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hx_gateway.events import EventSink
from hx_gateway.journal.drain import Drain, DrainOptions
from hx_gateway.journal.kinds import Kind
from hx_gateway.journal.log import Journal, JournalOptions
from hx_gateway.journal.sync import Durability
from hx_gateway.kit.breaker import CircuitBreaker
from hx_gateway.observability.config import DatabaseConfig
from hx_gateway.observability.figures import RecordFigures
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.requests import RequestRecorder, request_kind
from hx_gateway.observability.tables import record_kinds
from hx_gateway.settings import NOT_CONFIGURED, Settings, SettingsError
from hx_gateway.telemetry import Metrics

LEDGER = "ledger"
EXPORT_MODULE = "hx_gateway.observability.otel_export"
PUBLISH_SECONDS = 1.0
STOP_SECONDS = 5.0
LEDGER_OPEN_SECONDS = 1.0
# A batch of calls costs a dozen statements, some 1 ms whatever it carries, so that it should carry many; and what it
# carries is reckoned here without a pause, some 6 µs a row, so that it should not carry too many.
LEDGER_WAKE_ROWS = 1000
LEDGER_BATCH_ROWS = 2000
SCHEMA_SECONDS = 30.0
_LOGFIRE_TOKEN = re.compile(r"pylf_v[0-9]+_(us|eu)_")


class Record:
    """What the server records with. ``layer`` takes and reads events; ``sinks`` take the server's own requests.

    Without a database there is no record: the layer refuses events, and requests are at most sent on. ``ledger`` is the
    journal of what the server does, which also keeps records of ``kinds``; ``ledger_drain`` stores what is in it.
    """

    def __init__(self, settings: Settings, metrics: Metrics, kinds: Sequence[Kind] = ()) -> None:
        self.layer = DatabaseIntegrationLayer(record_config(settings))
        self._recorder: RequestRecorder | None = None
        self.ledger: Journal | None = None
        self.ledger_drain: Drain | None = None
        self._drains: list[Drain] = []
        if self.layer.drain is not None:
            self._drains.append(self.layer.drain)
            self._add_ledger(settings, self.layer, kinds)
        self.figures = RecordFigures(metrics, self.layer, self._drains)
        self.export = _export(settings)

    def _add_ledger(self, settings: Settings, layer: DatabaseIntegrationLayer, kinds: Sequence[Kind]) -> None:
        """Make the journal of what the server itself does: drained in order, with space in reserve for a full disk."""
        assert layer.connector is not None
        options = JournalOptions(
            durability=layer.config.durability,
            spare=True,
            budget=replace(layer.journal.options.budget, ballast_bytes=0),
            wake_rows=LEDGER_WAKE_ROWS,
        )
        self.ledger = Journal(layer.config.journal_root, LEDGER, [*record_kinds(), request_kind(), *kinds], options)
        self.ledger_drain = Drain(
            self.ledger,
            layer.connector.connect_ready,
            # Money waits for what is in this journal: it is tried again sooner than events are.
            CircuitBreaker(open_seconds=LEDGER_OPEN_SECONDS),
            layer.placement,
            DrainOptions(flush_seconds=layer.config.batch_seconds, batch_rows=LEDGER_BATCH_ROWS, ordered=True),
        )
        self._drains.append(self.ledger_drain)
        self._recorder = RequestRecorder(self.ledger, sample=settings.trace_sample)

    @property
    def sinks(self) -> list[EventSink]:
        """Where finished requests go."""
        return [sink for sink in (self._recorder, self.export) if sink is not None]

    async def open(self, stack: AsyncExitStack) -> None:
        """Begin to record; on the way out everything is flushed or left in the journals."""
        if self.export is not None:
            await stack.enter_async_context(self.export)
        if self.ledger is None or self.ledger_drain is None or self._recorder is None:
            return
        await self.layer.initialize(wait=False)
        stack.push_async_callback(self.layer.shutdown)
        # Who is ready answers on admin routes too: they need the tables.
        await self.layer.schema_ready(SCHEMA_SECONDS)
        self.ledger.open()
        self.ledger_drain.start()
        stack.push_async_callback(self._stop_ledger)
        await stack.enter_async_context(self._recorder)
        task = asyncio.create_task(self._publish())
        stack.push_async_callback(_cancel, task)

    async def _stop_ledger(self) -> None:
        assert self.ledger is not None
        assert self.ledger_drain is not None
        await self.ledger_drain.stop(STOP_SECONDS)
        self.ledger.close()

    async def _publish(self) -> None:
        while True:
            self.figures.publish()
            await asyncio.sleep(PUBLISH_SECONDS)


def _export(settings: Settings) -> Any:
    """Return what sends model calls on, if there is somewhere to send them. Raises ``SettingsError``."""
    endpoint = settings.otlp_endpoint
    headers = settings.otlp_headers.get_secret_value() if settings.otlp_headers is not None else None
    if settings.logfire_token is not None:
        token = settings.logfire_token.get_secret_value()
        endpoint = endpoint or _logfire_address(token)
        headers = ",".join(filter(None, (headers, f"authorization={quote(token)}")))
    if endpoint is None and settings.otlp_traces_endpoint is None:
        return None
    # Costs time and memory to import, and nearly nobody needs it.
    module = importlib.import_module(EXPORT_MODULE)
    try:
        return module.GenAiExport(endpoint=endpoint, traces_endpoint=settings.otlp_traces_endpoint, headers=headers)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _logfire_address(token: str) -> str:
    """Return where Logfire takes what a token is for: the token names its region."""
    region = _LOGFIRE_TOKEN.match(token)
    return f"https://logfire-{region[1] if region is not None else 'us'}.pydantic.dev"


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def record_config(settings: Settings) -> DatabaseConfig:
    """Return the record's configuration. Its database is the server's."""
    url = settings.pg_url.get_secret_value() if settings.pg_url is not None else NOT_CONFIGURED
    return DatabaseConfig(
        url=url,
        pool_min_size=0,
        pool_max_size=settings.record_connections,
        journal_dir=settings.journal_dir or (settings.data_dir or Path(".data")) / "journal",
        durability=Durability(settings.journal_durability),
        journal_max_bytes=settings.journal_max_bytes,
        journal_min_free_bytes=settings.journal_min_free_bytes,
        batch_size=settings.event_batch_size,
        batch_seconds=settings.event_batch_ms / 1000,
        retention_days={
            "trace_events": settings.trace_events_retention_days,
            "routing_decisions": settings.routing_decisions_retention_days,
            "performance_metrics": settings.performance_metrics_retention_days,
            "transformation_events": settings.transformation_events_retention_days,
        },
    )
