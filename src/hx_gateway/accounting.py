"""Composes accounting: prices, the meter with its stores and ledger, the routes of spend, alerts, and their upkeep."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from hx_gateway import __version__
from hx_gateway.allowances import Budget
from hx_gateway.errors import HXError
from hx_gateway.events import EventSink
from hx_gateway.gateway.model_config import ModelConfig
from hx_gateway.gateway.model_table import ModelTable
from hx_gateway.journal.drain import Drain
from hx_gateway.journal.kinds import Kind
from hx_gateway.journal.log import Journal
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.limits.applier import CALLS, LogOptions, calls_kind
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.instances import Instances
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.meter import Meter, MeterOptions
from hx_gateway.limits.redis_store import RedisCounterStore
from hx_gateway.limits.repository import PostgresLedger
from hx_gateway.limits.retention import trim_error_logs, trim_spend_logs
from hx_gateway.limits.roots import JournalRoot
from hx_gateway.limits.shares import LocalShares
from hx_gateway.pipeline.metering import CallMetering, MeteringOptions, RefusalRecorder
from hx_gateway.pipeline.routes import RouteSpec
from hx_gateway.pricing.configured import configured_prices
from hx_gateway.pricing.prices import Price
from hx_gateway.pricing.source import PriceSource
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pipe import RedisPipe
from hx_gateway.services.upstream.base import Upstream
from hx_gateway.services.upstream.demo import DEMO_PICO
from hx_gateway.settings import NOT_CONFIGURED, Settings
from hx_gateway.spend.alerts import BudgetAlerts, Claim, SoftLimitCrossed, Webhook
from hx_gateway.spend.overrides import RELOAD_SECONDS, reload_overrides
from hx_gateway.spend.repository import SpendRepository
from hx_gateway.spend.routes import spend_routes
from hx_gateway.telemetry import Metrics

# Costs 0.1 s and 40 MB: not for a gateway without a database, which charges nobody.
CATALOGUE_MODULE = "hx_gateway.pricing.catalogue"
DRAIN_SECONDS = 5.0
PUBLISH_SECONDS = 1.0
TRIM_SECONDS = 3600.0
# What a process held when it died counts against its limits for so long.
LEASE_SECONDS, RENEW_SECONDS, LAPSE_SECONDS = 30.0, 10.0, 5.0
MOST_DRIFTS = 10_000


class Accounting:
    """What calls are counted with, over one database. ``kind`` is the ledger journal's kind of records of calls;
    ``metering`` stands in the pipeline; ``sinks`` take requests that never became calls.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        postgres: PostgresService,
        redis: RedisService | None,
        upstream: Upstream,
        config: ModelConfig | None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._postgres = postgres
        self._redis = redis
        self._pipe = _pipe(settings) if redis is not None else None
        self._logs = LogOptions(
            spend_logs=not (settings.disable_spend_logs or bool(config and config.disable_spend_logs)),
            error_logs=not (settings.disable_error_logs or bool(config and config.disable_error_logs)),
        )
        self.kind: Kind = calls_kind(self._logs)
        catalogue = importlib.import_module(CATALOGUE_MODULE).GenaiCatalogue()
        self.prices = PriceSource(catalogue, {**_demo_prices(settings), **_config_prices(config)})
        self._repository = SpendRepository(postgres)
        self.metering = CallMetering(
            self.prices,
            MeteringOptions(max_output=settings.default_max_output, shadow=settings.limits_mode == "shadow"),
        )
        self._alerts = _alerts(settings, upstream, self._repository)
        self.meter: Meter | None = None
        self._drifts: dict[str, int] = {}

    @property
    def sinks(self) -> list[EventSink]:
        """Where finished requests go."""
        return [RefusalRecorder(self.metering)] if self._logs.error_logs else []

    def routes(self, models: ModelTable) -> list[RouteSpec]:
        """Return the routes of spend; ``models`` tells which model a name stands for."""

        def price_of(name: str) -> Price | None:
            try:
                served = models.resolve(name)
            except HXError:
                served = ()
            prices = self.metering.prices_of(name, served[0]) if served else self.prices.prices_of(name)
            return prices.bound if prices is not None else None

        return spend_routes(
            self._repository, self.prices, default_cap=self._settings.default_max_output, price_of=price_of
        )

    async def open(self, stack: AsyncExitStack, journal: Journal, drain: Drain) -> None:
        """Begin to count; on the way out what is settled is handed over. ``journal`` is open, ``drain`` runs."""
        instances: Instances | None = None
        if self._pipe is not None:
            stack.push_async_callback(self._pipe.close)
            instances = Instances(self._pipe, str(journal.stream))
            instances.start()
            stack.push_async_callback(instances.aclose)
        self.meter = meter = self._meter(journal, drain, instances)
        await stack.enter_async_context(meter)
        self.metering.bind(meter)
        jobs: list[Callable[[], Coroutine[object, object, None]]] = [self._publish, self._reload, self._trim]
        if self._alerts is not None:
            jobs.append(self._alerts.run)
        for job in jobs:
            task = asyncio.create_task(job())
            stack.push_async_callback(end_tasks, [task])

    def _meter(self, journal: Journal, drain: Drain, instances: Instances | None) -> Meter:
        memory = MemoryCounterStore()
        shared = RedisCounterStore(self._pipe) if self._pipe is not None else None
        ledger = PostgresLedger(
            self._postgres,
            JournalRoot(journal.root),
            Authority.REDIS if shared is not None else Authority.PROCESS,
            logs=self._logs,
        )
        redis = self._redis
        return Meter(
            stream_id=journal.stream,
            process=memory if shared is None else None,
            shared=shared,
            local=LocalShares(memory, lambda: instances.count) if instances is not None else None,
            shared_healthy=(lambda: redis.sample.healthy) if redis is not None else None,
            ledger=ledger,
            append=partial(journal.append, CALLS, rows=1),
            together=partial(journal.append_together, CALLS),
            drained=lambda: drain.flush(DRAIN_SECONDS),
            options=MeterOptions(
                mode=self._settings.limits_mode,
                record_all=self._logs.spend_logs,
                record_errors=self._logs.error_logs,
                lease=LEASE_SECONDS,
                renew=RENEW_SECONDS,
                lapse=LAPSE_SECONDS,
            ),
            on_soft=self._soft_limit_crossed,
            on_drift=self._note_drift,
        )

    def _note_drift(self, budget_id: str, nano: int) -> None:
        if nano and len(self._drifts) < MOST_DRIFTS:
            self._drifts[budget_id] = nano
        else:
            self._drifts.pop(budget_id, None)
        self._metrics.budget_drift.set(max(map(abs, self._drifts.values()), default=0))

    def _soft_limit_crossed(self, tenant_id: str, budget: Budget, window: str, spent_nano: int) -> None:
        self._metrics.budget_soft_limits.inc()
        structlog.get_logger().warning(
            "budget_soft_limit", budget_id=budget.id, window=window, tenant=tenant_id, spent_nano=spent_nano
        )
        if self._alerts is not None:
            self._alerts.notice(
                SoftLimitCrossed(tenant_id=tenant_id, budget=budget, window=window, spent_nano=spent_nano)
            )

    async def _publish(self) -> None:
        figures = MeterFigures(self._metrics)
        while True:
            if self.meter is not None:
                figures.publish(self.meter)
            await asyncio.sleep(PUBLISH_SECONDS)

    async def _reload(self) -> None:
        """Read prices that were set, again and again: another worker may have set one."""
        while True:
            try:
                async with self._postgres.acquire() as connection:
                    await reload_overrides(self.prices, connection)
            except HXError as away:
                structlog.get_logger().info("prices_not_reloaded", reason=away.code)
            await asyncio.sleep(RELOAD_SECONDS)

    async def _trim(self) -> None:
        """Delete old spend and error records, an hour apart."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            now = datetime.now(UTC)
            spend, errors = self._settings.spend_logs_retention_days, self._settings.error_logs_retention_days
            try:
                async with self._postgres.acquire() as connection:
                    calls = await trim_spend_logs(connection, now - timedelta(days=spend))
                    failed = await trim_error_logs(connection, now - timedelta(days=errors))
            except HXError as away:
                structlog.get_logger().warning("spend_not_trimmed", reason=away.code)
            else:
                structlog.get_logger().info("spend_trimmed", spend_logs=calls, error_logs=failed)


class MeterFigures:
    """What a meter knows of itself, as metrics; counters move by what came since the last time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: dict[tuple[str, str], int] = {}

    def publish(self, meter: Meter) -> None:
        """Bring the metrics up to date."""
        metrics, counts = self._metrics, meter.counts
        metrics.calls_open.set(meter.open_calls)
        metrics.calls_settling.set(meter.settling)
        self._move("admitted", "", counts.admitted, metrics.calls_admitted.inc)
        for reason, number in counts.refused.items():
            self._move("refused", reason, number, metrics.calls_refused.labels(reason).inc)
        self._move("refused", "unknown", counts.budget_unavailable, metrics.calls_refused.labels("budget_unknown").inc)
        self._move("shadow", "", counts.shadow_refusals, metrics.shadow_refusals.inc)
        self._move("fallback", "", counts.rate_fallbacks, metrics.rate_fallbacks.inc)
        self._move("overrun", "", counts.overrun_nano, metrics.budget_overrun.inc)
        self._move("lapsed", "", meter.lapsed, metrics.calls_lapsed.inc)
        self._move("corrected", "", meter.corrections, metrics.budget_corrections.inc)
        self._move("epoch", "", meter.authority.turned, metrics.ledger_epochs.inc)

    def _move(self, name: str, label: str, value: int, move: Callable[[float], None]) -> None:
        key = (name, label)
        if moved := value - self._told.get(key, 0):
            move(moved)
            self._told[key] = value


def _pipe(settings: Settings) -> RedisPipe | None:
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else NOT_CONFIGURED
    return None if url == NOT_CONFIGURED else RedisPipe(url)


def _demo_prices(settings: Settings) -> dict[str, Price]:
    if not settings.serve_demo_models:
        return {}
    return {
        model: Price(input_pico=given, output_pico=made, source="demo", version=__version__)
        for model, (given, made) in DEMO_PICO.items()
    }


def _config_prices(config: ModelConfig | None) -> dict[str, Price]:
    return configured_prices(config.prices, __version__) if config is not None else {}


def _alerts(settings: Settings, upstream: Upstream, repository: SpendRepository) -> BudgetAlerts | None:
    if settings.budget_webhook_url is None:
        return None
    secret = settings.budget_webhook_secret.get_secret_value() if settings.budget_webhook_secret else None
    claim = Claim(repository.claim_notice, repository.release_notice)
    return BudgetAlerts(Webhook(upstream, settings.budget_webhook_url, secret), claim)
