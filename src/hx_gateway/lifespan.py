"""What lives as long as the server: stores, the health sampler, the clients; opened in order, closed in reverse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from hx_gateway.kit.loop_lag import watch_loop_lag
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.absent import AbsentService
from hx_gateway.services.base import DataService, HealthSample
from hx_gateway.services.health import HealthSampler
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.upstream.base import Upstream, UpstreamKind
from hx_gateway.settings import NOT_CONFIGURED, Settings
from hx_gateway.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Stores:
    """The three data services, or their twins."""

    postgres: DataService
    redis: DataService
    qdrant: DataService

    @classmethod
    def from_settings(cls, settings: Settings) -> Stores:
        """Return a client for each store with a URL, a twin for the others."""
        pg_url = settings.pg_url.get_secret_value() if settings.pg_url else NOT_CONFIGURED
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else NOT_CONFIGURED
        qdrant_url = settings.qdrant_url or NOT_CONFIGURED
        qdrant_key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        return cls(
            postgres=AbsentService("postgres", "PostgreSQL")
            if pg_url == NOT_CONFIGURED
            else PostgresService(pg_url, min_size=settings.pg_min_connections, max_size=settings.pg_max_connections),
            redis=AbsentService("redis", "Redis")
            if redis_url == NOT_CONFIGURED
            else RedisService(redis_url, max_connections=settings.redis_max_connections),
            qdrant=AbsentService("qdrant", "Qdrant")
            if qdrant_url == NOT_CONFIGURED
            else QdrantService(qdrant_url, api_key=qdrant_key),
        )

    def by_key(self) -> dict[str, DataService]:
        """Return the stores by ``key``."""
        return {store.key: store for store in (self.postgres, self.redis, self.qdrant)}


async def open_services(
    stack: AsyncExitStack,
    stores: Stores,
    upstreams: Mapping[UpstreamKind, Upstream],
    settings: Settings,
    metrics: Metrics,
) -> None:
    """Open everything on ``stack``. A store that is away does not stop the start: it heals later."""
    metrics.process_started.set(time.time())
    watching = asyncio.create_task(watch_loop_lag(metrics.loop_lag_seconds.observe))
    stack.push_async_callback(end_tasks, [watching])
    for upstream in _distinct(upstreams.values()):
        stack.push_async_callback(upstream.close)
    services = tuple(stores.by_key().values())
    for store in services:
        _watch(store, metrics)
        await stack.enter_async_context(store)
    sampler = HealthSampler(
        services, interval=settings.health_check_interval, round_timeout=settings.health_check_timeout
    )
    await stack.enter_async_context(sampler)


def _watch(store: DataService, metrics: Metrics) -> None:
    gauge = metrics.dependency_up.labels(store.key)
    gauge.set(1 if store.sample.healthy else 0)
    log = structlog.get_logger()

    def changed(sample: HealthSample) -> None:
        gauge.set(1 if sample.healthy else 0)
        if sample.healthy:
            log.info("dependency_up", dependency=store.key)
        else:
            log.warning("dependency_down", dependency=store.key, reason=str(sample.failure))

    store.on_change(changed)


def _distinct(upstreams: Iterable[Upstream]) -> list[Upstream]:
    return list({id(upstream): upstream for upstream in upstreams}.values())
