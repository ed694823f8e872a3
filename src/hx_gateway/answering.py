"""Composes the response cache: where answers are kept, what is configured, and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter

from hx_gateway.access.resources import ResourceKind
from hx_gateway.cache.hot import HOT_BYTES, HotCache
from hx_gateway.cache.meaning.cache import MeaningCache, MeaningOptions
from hx_gateway.cache.meaning.embedding import Embedder
from hx_gateway.cache.meaning.fastembed_embedder import PREFIX, FastEmbedder, is_installed
from hx_gateway.cache.meaning.qdrant_store import QdrantVectorStore
from hx_gateway.cache.meaning.repository import PgVectorStore
from hx_gateway.cache.meaning.stores import VectorStore
from hx_gateway.cache.meaning.upstream_embedder import UpstreamEmbedder
from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.policy import DEFAULT_TTL_SECONDS, CacheDefaults
from hx_gateway.cache.purging import Purged, Purging
from hx_gateway.cache.redis_store import RedisCache
from hx_gateway.cache.store import AnswerCache
from hx_gateway.cache_rules import CacheMode, CacheRule, CacheScope
from hx_gateway.gateway.model_config import ModelConfig
from hx_gateway.pipeline.caching import AnswerCaching, CacheCounts, CachingOptions, Outcome
from hx_gateway.services.base import DataService
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.redis_pipe import RedisPipe
from hx_gateway.services.upstream.base import Deployment, Upstream, UpstreamKind
from hx_gateway.settings import NOT_CONFIGURED, Settings, SettingsError
from hx_gateway.telemetry import Metrics

# How long somebody who deletes a tenant or a key waits for its answers to be forgotten; that goes on after it.
FORGET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Comparer:
    """What texts can be compared with: who serves a model (may raise ``HXError``), and the clients for them."""

    resolve: Callable[[str], Sequence[Deployment]]
    upstreams: Mapping[UpstreamKind, Upstream]


class Answering:
    """Answers from what was answered before; ``caching`` stands in the pipeline, ``purging`` makes it forget.

    It is there while the cache is off too: a key may turn it on at any time. Raises ``SettingsError`` for comparing by
    meaning without what that needs.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        stores: Mapping[str, DataService],
        config: ModelConfig | None,
        *,
        comparer: Comparer,
    ) -> None:
        defaults = cache_defaults(settings, config)
        self._by_meaning = _by_meaning(settings, metrics, stores, comparer)
        if defaults.mode is CacheMode.MEANING and self._by_meaning is None:
            raise SettingsError(
                "HX_CACHE=meaning needs HX_CACHE_EMBEDDING_MODEL, and QDRANT_URL or a PostgreSQL with pgvector."
            )
        caches: list[AnswerCache] = [_exact(settings, stores["redis"])]
        if self._by_meaning is not None:
            caches.append(self._by_meaning)
        options = CachingOptions(defaults=defaults, entry_max_bytes=settings.cache_entry_max_bytes)
        self._defaults = defaults
        self.caching = AnswerCaching(caches, options, counts=_MetricCounts(metrics))
        self.purging = Purging(caches)

    def open(self, stack: AsyncExitStack) -> None:
        """Begin to make places for answers ready; let go of what it holds on the way out."""
        if self._by_meaning is not None:
            self._by_meaning.start()
        stack.push_async_callback(self.caching.aclose)
        stack.push_async_callback(self.purging.aclose)

    async def forget(self, kind: ResourceKind, shown: Mapping[str, Any]) -> None:
        """Forget what nobody is to be given any more: a tenant's answers, and those of a key that shared with nobody.

        Never raises: what cannot be forgotten now ends at its time, and the log says so.
        """
        if kind is ResourceKind.TENANT:
            await self._forget(shown["id"], None)
        elif kind is ResourceKind.KEY:
            scope = (shown["cache"] or {}).get("scope")
            alone = self._defaults.may_be_alone(
                CacheScope(scope) if scope is not None else None, team_id=shown["team_id"], user_id=shown["user_id"]
            )
            if alone:
                await self._forget(shown["tenant_id"], shown["id"])

    async def _forget(self, tenant_id: str, key_id: str | None) -> None:
        async def tell(purged: Purged) -> None:
            if purged.failure is not None:
                reason = str(purged.failure)
                structlog.get_logger().warning("answers_not_forgotten", tenant=tenant_id, key=key_id, reason=reason)

        try:
            async with asyncio.timeout(FORGET_SECONDS):
                await self.purging.purge(tenant_id, key_id=key_id, then=tell)
        except TimeoutError:
            structlog.get_logger().info("answers_forgotten_later", tenant=tenant_id, key=key_id)


def _exact(settings: Settings, redis: DataService) -> AnswerCache:
    """Return where answers are kept: in Redis where there is one, for all workers; else in this process."""
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else NOT_CONFIGURED
    if url == NOT_CONFIGURED or not redis.configured:
        return MemoryCache(settings.cache_max_bytes)
    shared = RedisCache(
        RedisPipe(url),
        max_bytes=settings.cache_max_bytes,
        healthy=lambda: redis.sample.healthy,
        seconds=settings.cache_budget_ms / 1000,
    )
    return HotCache(shared, max_bytes=min(HOT_BYTES, settings.cache_max_bytes))


def _by_meaning(
    settings: Settings, metrics: Metrics, stores: Mapping[str, DataService], comparer: Comparer
) -> MeaningCache | None:
    """Return what compares by meaning, where something is set that can; in Qdrant if there is one, or PostgreSQL."""
    model = settings.cache_embedding_model
    qdrant, postgres = stores["qdrant"], stores["postgres"]
    store: VectorStore
    if isinstance(qdrant, QdrantService):
        store = QdrantVectorStore(qdrant)
    elif isinstance(postgres, PostgresService):
        store = PgVectorStore(postgres)
    else:
        return None
    if model is None:
        return None
    return MeaningCache(
        embedder_of(model, settings, comparer),
        store,
        MeaningOptions(
            budget=settings.cache_meaning_budget_ms / 1000,
            entries=settings.cache_meaning_entries,
        ),
        looked_up=lambda outcome: metrics.meaning_look_ups.labels(outcome.value).inc(),
        kept=lambda outcome: metrics.meaning_answers.labels(outcome.value).inc(),
    )


def embedder_of(model: str, settings: Settings, comparer: Comparer) -> Embedder:
    """Return what turns texts into vectors. Raises ``SettingsError`` for a package that is not there."""
    if not model.startswith(PREFIX):
        return UpstreamEmbedder(model, comparer.resolve, comparer.upstreams)
    if not is_installed():
        raise SettingsError(
            "HX_CACHE_EMBEDDING_MODEL names a model of fastembed, which is not installed: "
            "pip install 'hx-gateway[fastembed]'."
        )
    downloads = (settings.data_dir or Path(".data")) / "models"
    return FastEmbedder(model.removeprefix(PREFIX), folder=settings.cache_embedding_folder, downloads=downloads)


def cache_defaults(settings: Settings, config: ModelConfig | None) -> CacheDefaults:
    """Return what holds where neither a key nor a request says anything: the settings', then the model file's."""
    of_file = (config.cache if config is not None else None) or CacheRule()
    return CacheDefaults(
        mode=CacheMode(settings.cache) if settings.cache is not None else of_file.mode or CacheMode.OFF,
        ttl_seconds=settings.cache_ttl or of_file.ttl_seconds or DEFAULT_TTL_SECONDS,
        scope=CacheScope(settings.cache_scope),
        similarity=settings.cache_similarity,
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
