"""The ordered list of stages. Adding one means a class in ``stages/`` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hx_gateway.access.principal import Authenticator
from hx_gateway.pipeline.repeated import RepeatedBodies
from hx_gateway.pipeline.routes import RouteTable
from hx_gateway.pipeline.stage import GatewayPipeline
from hx_gateway.pipeline.stages.db_guard import DbGuardMiddleware
from hx_gateway.pipeline.stages.execution import ExecutionStage, Metering
from hx_gateway.pipeline.stages.routing import Cache, ModelDirectory, RoutingStage
from hx_gateway.pipeline.stages.security import SecurityStage
from hx_gateway.pipeline.stages.transform import TransformStage
from hx_gateway.pipeline.stages.validation import ValidationStage
from hx_gateway.services.base import DataService
from hx_gateway.services.upstream.base import Upstream, UpstreamKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """Everything the stages work with."""

    authenticator: Authenticator
    metering: Metering | None = None
    cache: Cache | None = None
    repeated: RepeatedBodies | None = None
    postgres: DataService
    redis: DataService
    models: ModelDirectory
    upstreams: Mapping[UpstreamKind, Upstream]
    guarded_prefixes: tuple[str, ...]
    guard_enabled: bool = True
    max_body_bytes: int = 32 * 1024 * 1024
    aliases: Mapping[str, str] = field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()


def build_pipeline(parts: PipelineParts, routes: RouteTable) -> GatewayPipeline:
    """Return the pipeline, checked. Raises ``PipelineError`` for stages that do not fit together."""
    return GatewayPipeline(
        (
            SecurityStage(parts.authenticator, cors_origins=parts.cors_origins),
            DbGuardMiddleware(parts.postgres, parts.redis, parts.guarded_prefixes, enabled=parts.guard_enabled),
            ValidationStage(max_body_bytes=parts.max_body_bytes, repeated=parts.repeated),
            TransformStage(parts.aliases),
            RoutingStage(parts.models, parts.cache),
            ExecutionStage(parts.upstreams, parts.metering),
        ),
        routes,
    )
