"""Composes the program: services, models, routes and stages become one ASGI application."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import structlog

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.directory import Directory
from hx_gateway.access.principal import Authenticator
from hx_gateway.accounting import Accounting
from hx_gateway.admin import router as admin
from hx_gateway.answering import Answering, Comparer
from hx_gateway.events import EventSink
from hx_gateway.gateway.cache_purge import purge_route
from hx_gateway.gateway.model_config import ModelConfig, load_model_config
from hx_gateway.gateway.model_table import ModelTable, build_model_table
from hx_gateway.gateway.passthrough import passthrough_route, upstream_model_list
from hx_gateway.gateway.routes import ModelList, model_routes
from hx_gateway.http.api import api_routes, build_api, serve_document
from hx_gateway.http.asgi_handler import AsgiHandler
from hx_gateway.http.bridge import PipelineBridge, Receive, Scope, Send
from hx_gateway.http.client_address import ClientAddresses
from hx_gateway.http.drain import Drain
from hx_gateway.http.health import HealthSources, health_routes
from hx_gateway.http.records import AccessLog, RequestMetrics, Sinks
from hx_gateway.http.reserved import reserved_routes
from hx_gateway.identity import Identity
from hx_gateway.lifespan import Stores, open_services
from hx_gateway.log import line_writer
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.routes import record_routes
from hx_gateway.pipeline.build import PipelineParts, build_pipeline
from hx_gateway.pipeline.routes import RouteTable
from hx_gateway.pipeline.stage import GatewayPipeline
from hx_gateway.recording import Record
from hx_gateway.registering import Registering
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.upstream.base import Timeouts, Upstream, UpstreamKind
from hx_gateway.services.upstream.demo import DemoUpstream
from hx_gateway.services.upstream.http_client import HttpUpstream
from hx_gateway.settings import Settings, load_settings
from hx_gateway.spend.routes import BUILT as SPEND_BUILT
from hx_gateway.telemetry import Metrics


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What :func:`build_app` makes by itself unless it is given: the way to put in test doubles."""

    stores: Stores | None = None
    authenticator: Authenticator | None = None
    upstreams: Mapping[UpstreamKind, Upstream] | None = None
    model_config: ModelConfig | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


class GatewayApp:
    """The ASGI application. ``pipeline``, ``models``, ``drain``, ``stores`` and ``record`` are there to be read."""

    def __init__(
        self,
        *,
        pipeline: GatewayPipeline,
        bridge: PipelineBridge,
        models: ModelTable,
        drain: Drain,
        stores: Stores,
        upstreams: Mapping[UpstreamKind, Upstream],
        settings: Settings,
        metrics: Metrics,
        record: Record,
        identity: Identity | None,
        accounting: Accounting | None,
        registering: Registering | None,
        answering: Answering,
    ) -> None:
        self.pipeline = pipeline
        self.models = models
        self.drain = drain
        self.stores = stores
        self.metrics = metrics
        self.record = record
        self.accounting = accounting
        self._identity = identity
        self._registering = registering
        self._answering = answering
        self._bridge = bridge
        self._upstreams = upstreams
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection. Upgrades to WebSocket are refused."""
        if scope["type"] == "http":
            await self._bridge.handle(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            await open_services(stack, self.stores, self._upstreams, self._settings, self.metrics)
            self._answering.open(stack)
            await self.record.open(stack)
            if self._identity is not None:
                await self._identity.open(stack)
            if self._registering is not None:
                await self._registering.open(stack)
            if self.accounting is not None and self.record.ledger is not None and self.record.ledger_drain is not None:
                await self.accounting.open(stack, self.record.ledger, self.record.ledger_drain)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def build_app(settings: Settings | None = None, parts: Parts | None = None) -> GatewayApp:
    """Return the application for ``settings`` (the environment's). Opens nothing: that is the lifespan's.

    Raises ``SettingsError`` or ``ModelConfigError`` for what it must not start with.
    """
    parts = parts or Parts()
    settings = settings or load_settings().settings
    metrics = Metrics()
    stores = parts.stores or Stores.from_settings(settings)
    upstreams = parts.upstreams or default_upstreams(settings)
    config = parts.model_config
    if config is None and settings.model_config_file is not None:
        config = load_model_config(settings.model_config_file, parts.environ, direct=settings.litellm_base_url is None)
        for warning in config.warnings:
            structlog.get_logger().warning("model_config", detail=warning)
    models = build_models(settings, config)
    drain = Drain()
    admin_key = AdminKeyAuthenticator(_secret(settings.admin_key) or os.urandom(32).hex())
    identity: Identity | None = None
    accounting: Accounting | None = None
    registering: Registering | None = None
    if isinstance(stores.postgres, PostgresService):
        redis = stores.redis if isinstance(stores.redis, RedisService) else None
        identity = Identity(settings, metrics, admin_key, stores.postgres, redis)
        accounting = Accounting(settings, metrics, stores.postgres, redis, upstreams[UpstreamKind.OPENAI], config)
    record = Record(settings, metrics, [accounting.kind] if accounting is not None else [])
    if identity is not None:
        export = record.export.observed if record.export is not None else None
        registering = Registering(
            settings,
            metrics,
            identity.database,
            stores.redis if isinstance(stores.redis, RedisService) else None,
            audit_key=identity.audit_key,
            export=export,
        )
        drain.on_begin(registering.feed.stop)
    answering = Answering(settings, metrics, stores.by_key(), config, comparer=Comparer(models.resolve, upstreams))
    if identity is not None:
        identity.directory.on_gone(answering.forget)
    plan = _Plan(
        settings=settings,
        authenticator=parts.authenticator or (identity.authenticator if identity is not None else admin_key),
        stores=stores,
        upstreams=upstreams,
        models=models,
        aliases=config.aliases if config is not None else {},
        health=HealthSources(stores.by_key(), drain, metrics, settings.enable_health_endpoints),
        layer=record.layer,
        directory=identity.directory if identity is not None else None,
        accounting=accounting,
        registering=registering,
        answering=answering,
    )
    pipeline = _pipeline(plan)
    sinks: list[EventSink] = [RequestMetrics(metrics, models.knows)]
    if settings.access_log:
        sinks.append(AccessLog(line_writer(level=settings.log_level, style=settings.log_format)))
    sinks += record.sinks
    if accounting is not None:
        sinks += accounting.sinks
    bridge = PipelineBridge(
        pipeline,
        drain=drain,
        sink=Sinks(*sinks),
        addresses=ClientAddresses(settings.trusted_networks),
        metrics=metrics,
    )
    return GatewayApp(
        pipeline=pipeline,
        bridge=bridge,
        models=models,
        drain=drain,
        stores=stores,
        upstreams=upstreams,
        settings=settings,
        metrics=metrics,
        record=record,
        identity=identity,
        accounting=accounting,
        registering=registering,
        answering=answering,
    )


def default_upstreams(settings: Settings) -> dict[UpstreamKind, Upstream]:
    """Return a client for each kind of upstream."""
    http = HttpUpstream(max_connections=settings.upstream_max_connections)
    return {UpstreamKind.OPENAI: http, UpstreamKind.OLLAMA: http, UpstreamKind.DEMO: DemoUpstream()}


def build_models(settings: Settings, config: ModelConfig | None) -> ModelTable:
    """Return who serves which model."""
    return build_model_table(
        litellm_base_url=settings.litellm_base_url,
        litellm_api_key=_secret(settings.litellm_api_key),
        config=config,
        openai_api_key=_secret(settings.openai_api_key),
        demo=settings.serve_demo_models,
        timeouts=Timeouts(
            head=settings.upstream_head_timeout,
            idle=settings.upstream_idle_timeout,
            total=settings.upstream_total_timeout,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the pipeline and its routes are made of."""

    settings: Settings
    authenticator: Authenticator
    stores: Stores
    upstreams: Mapping[UpstreamKind, Upstream]
    models: ModelTable
    aliases: Mapping[str, str]
    health: HealthSources
    layer: DatabaseIntegrationLayer
    directory: Directory | None
    accounting: Accounting | None
    registering: Registering | None
    answering: Answering


def _pipeline(plan: _Plan) -> GatewayPipeline:
    settings, stores = plan.settings, plan.stores
    return build_pipeline(
        PipelineParts(
            authenticator=plan.authenticator,
            metering=plan.accounting.metering if plan.accounting is not None else None,
            cache=plan.answering.caching,
            repeated=plan.answering.caching.repeated,
            postgres=stores.postgres,
            redis=stores.redis,
            models=plan.models,
            upstreams=plan.upstreams,
            guarded_prefixes=settings.db_guard_prefixes,
            guard_enabled=settings.enable_db_guard,
            max_body_bytes=settings.max_body_bytes,
            aliases=plan.aliases,
            cors_origins=settings.cors_origins,
        ),
        _routes(plan),
    )


def _routes(plan: _Plan) -> RouteTable:
    """Return every route. What needs a database answers 501 in a gateway that was started without one."""
    settings = plan.settings
    api = build_api(plan.health)
    handler = AsgiHandler(api)
    base_url, api_key = _root_of(settings.litellm_base_url), _secret(settings.litellm_api_key)
    http = plan.upstreams[UpstreamKind.OPENAI]
    listing = upstream_model_list(http, base_url, api_key) if base_url and plan.models.open_ended else None
    built: set[str] = set()
    routes = [*model_routes(ModelList(plan.models, listing)), *record_routes(plan.layer)]
    routes.append(purge_route(plan.answering.purging, plan.directory))
    if plan.directory is not None:
        admin.include(api, plan.directory)
        routes += admin.admin_routes(handler)
        built |= admin.BUILT
    if plan.registering is not None:
        plan.registering.include(api)
        routes += plan.registering.routes(handler)
    if plan.accounting is not None:
        routes += plan.accounting.routes(plan.models)
        built |= SPEND_BUILT
    table = RouteTable(
        [
            *routes,
            *reserved_routes(settings.db_guard_prefixes, frozenset(built)),
            passthrough_route(http, base_url, api_key),
            *health_routes(handler),
            *api_routes(handler),
        ]
    )
    serve_document(api, table.routes)
    return table


def _root_of(base_url: str | None) -> str | None:
    """Return the URL that ``/v1/…`` is appended to."""
    return base_url.rstrip("/").removesuffix("/v1") if base_url else None


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value is not None else None
