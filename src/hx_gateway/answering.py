"""Composes the response cache: where answers are kept, what is configured, and its metrics."""

from __future__ import annotations

from contextlib import AsyncExitStack

from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.policy import CacheDefaults
from hx_gateway.cache.store import AnswerCache
from hx_gateway.cache_rules import CacheMode, CacheScope
from hx_gateway.events import TokenUsage
from hx_gateway.gateway.model_config import ModelConfig
from hx_gateway.pipeline.caching import AnswerCaching, CacheCounts, CachingOptions, Outcome
from hx_gateway.services.base import DataService
from hx_gateway.settings import Settings
from hx_gateway.telemetry import Metrics


class Answering:
    """Answers from what was answered before; ``caching`` stands in the pipeline.

    It is there while the cache is off too: a key may turn it on at any time.
    """

    def __init__(self, settings: Settings, metrics: Metrics, redis: DataService, config: ModelConfig | None) -> None:
        cache: AnswerCache = MemoryCache(settings.cache_max_bytes)
        options = CachingOptions(defaults=_defaults(settings, config), entry_max_bytes=settings.cache_entry_max_bytes)
        self.caching = AnswerCaching([cache], options, counts=_MetricCounts(metrics))

    def open(self, stack: AsyncExitStack) -> None:
        """Let go of what it holds on the way out."""
        stack.push_async_callback(self.caching.aclose)


def _defaults(settings: Settings, config: ModelConfig | None) -> CacheDefaults:
    return CacheDefaults(
        mode=CacheMode(settings.cache or CacheMode.OFF),
        ttl_seconds=settings.cache_ttl,
        scope=CacheScope(settings.cache_scope),
    )


class _MetricCounts(CacheCounts):
    """What the cache did, as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def looked(self, outcome: Outcome, kind: str) -> None:
        self._metrics.cache_requests.labels(outcome, kind).inc()

    def saved(self, kind: str, usage: TokenUsage, nano: int) -> None:
        metrics = self._metrics
        metrics.cache_saved_tokens.labels(kind, "prompt").inc(usage.prompt_tokens)
        metrics.cache_saved_tokens.labels(kind, "completion").inc(usage.completion_tokens)
        metrics.cache_saved_nano.labels(kind).inc(nano)

    def lost(self) -> None:
        self._metrics.cache_unkept.inc()
