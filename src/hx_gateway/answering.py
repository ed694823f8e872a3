"""Composes the response cache: where answers are kept, what is configured, and its metrics."""

from __future__ import annotations

from contextlib import AsyncExitStack

from prometheus_client import Counter

from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.policy import DEFAULT_TTL_SECONDS, CacheDefaults
from hx_gateway.cache.redis_store import RedisCache
from hx_gateway.cache.store import BUDGET_SECONDS, AnswerCache
from hx_gateway.cache_rules import CacheMode, CacheRule, CacheScope
from hx_gateway.gateway.model_config import ModelConfig
from hx_gateway.pipeline.caching import AnswerCaching, CacheCounts, CachingOptions, Outcome
from hx_gateway.services.base import DataService
from hx_gateway.services.redis_pipe import RedisPipe
from hx_gateway.settings import NOT_CONFIGURED, Settings
from hx_gateway.telemetry import Metrics


class Answering:
    """Answers from what was answered before; ``caching`` stands in the pipeline.

    It is there while the cache is off too: a key may turn it on at any time.
    """

    def __init__(self, settings: Settings, metrics: Metrics, redis: DataService, config: ModelConfig | None) -> None:
        cache = _exact(settings, redis)
        options = CachingOptions(defaults=_defaults(settings, config), entry_max_bytes=settings.cache_entry_max_bytes)
        self.caching = AnswerCaching([cache], options, counts=_MetricCounts(metrics))

    def open(self, stack: AsyncExitStack) -> None:
        """Let go of what it holds on the way out."""
        stack.push_async_callback(self.caching.aclose)


def _exact(settings: Settings, redis: DataService) -> AnswerCache:
    """Return where answers are kept: in Redis where there is one, for all workers; else in this process."""
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else NOT_CONFIGURED
    if url == NOT_CONFIGURED or not redis.configured:
        return MemoryCache(settings.cache_max_bytes)
    return RedisCache(
        RedisPipe(url, timeout=BUDGET_SECONDS),
        RedisPipe(url),
        max_bytes=settings.cache_max_bytes,
        healthy=lambda: redis.sample.healthy,
    )


def _defaults(settings: Settings, config: ModelConfig | None) -> CacheDefaults:
    of_file = (config.cache if config is not None else None) or CacheRule()
    return CacheDefaults(
        mode=CacheMode(settings.cache) if settings.cache is not None else of_file.mode or CacheMode.OFF,
        ttl_seconds=settings.cache_ttl or of_file.ttl_seconds or DEFAULT_TTL_SECONDS,
        scope=CacheScope(settings.cache_scope),
        models=config.cache_of_models if config is not None else {},
    )


class _MetricCounts(CacheCounts):
    """What the cache did, as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Children by their labels, all of them bounded: to look one up in the library costs more than to count.
        self._looked: dict[tuple[str, str], Counter] = {}
        self._saved: dict[str, tuple[Counter, Counter, Counter]] = {}

    def looked(self, outcome: Outcome, kind: str) -> None:
        counter = self._looked.get((outcome, kind))
        if counter is None:
            counter = self._looked[outcome, kind] = self._metrics.cache_requests.labels(outcome, kind)
        counter.inc()

    def saved(self, kind: str, prompt_tokens: int, completion_tokens: int, nano: int) -> None:
        counters = self._saved.get(kind)
        if counters is None:
            tokens = self._metrics.cache_saved_tokens
            nanos = self._metrics.cache_saved_nano.labels(kind)
            counters = self._saved[kind] = (tokens.labels(kind, "prompt"), tokens.labels(kind, "completion"), nanos)
        for counter, amount in zip(counters, (prompt_tokens, completion_tokens, nano), strict=True):
            if amount:
                counter.inc(amount)

    def lost(self) -> None:
        self._metrics.cache_unkept.inc()
