"""The HTTP routes of the record: events go in, pages, traces and exports come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hx_gateway.access.principal import Scope
from hx_gateway.observability import schemas
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.otlp.receiver import TraceReceiver
from hx_gateway.observability.reads import FILTERS, RecordReads
from hx_gateway.observability.upkeep_routes import RecordUpkeep
from hx_gateway.observability.writes import RecordWrites
from hx_gateway.pipeline.routes import BodyRule, Handler, Policy, RouteSpec, needs

PREFIX = "/api/v1/observability"
OTLP_PATHS = {"otlp_traces": "/v1/traces", "record_otlp_traces": f"{PREFIX}/otlp/v1/traces"}

_WRITE, _READ, _ADMIN = needs(Scope.EVENTS_WRITE), needs(Scope.EVENTS_READ), needs(Scope.ADMIN)


def record_routes(layer: DatabaseIntegrationLayer, *, keep_content: bool = False) -> list[RouteSpec]:
    """Return every route of the record, answered by ``layer``.

    ``keep_content`` keeps of spans what was said to and by models. No route is guarded: events are taken while the
    database is away, and what cannot be read then answers 503 by itself.
    """
    reads = RecordReads(layer)
    return [
        _spec("record_events", "POST", "/events", _WRITE, RecordWrites(layer).events, schemas.write_operation()),
        *[_spec(f"record_{t}", "GET", f"/{t}", _READ, reads.page(t), schemas.page_operation(t)) for t in FILTERS],
        _spec("record_trace", "GET", "/traces/{trace_id}", _READ, reads.trace, schemas.trace_operation()),
        _spec("record_export", "GET", "/export/{table}", _READ, reads.export, schemas.export_operation()),
        _spec("record_health", "GET", "/health", _READ, reads.health, schemas.described("The health of the record")),
        *_upkeep_routes(RecordUpkeep(layer)),
        *_otlp_routes(TraceReceiver(layer, keep_content=keep_content)),
    ]


def _upkeep_routes(upkeep: RecordUpkeep) -> list[RouteSpec]:
    tenant = (schemas.TENANT_PARAMETER,)
    letters = "/dead_letters"
    retention = schemas.described("Remove what is past its retention", (schemas.DRY_RUN,))
    listing = schemas.described("Dead letters, newest first", schemas.LETTER_FILTERS)
    one = schemas.described("One dead letter with its row", tenant, path="id", errors=("404", "503"))
    replay = schemas.described("Try dead letters again", tenant, body={"ids": [17, 18]})
    purge = schemas.described("Delete dead letters", schemas.PURGE_PARAMETERS)
    return [
        _spec("record_retention", "POST", "/retention", _ADMIN, upkeep.retention, retention),
        _spec("record_dead_letters", "GET", letters, _ADMIN, upkeep.list_letters, listing),
        _spec("record_dead_letters_purge", "DELETE", letters, _ADMIN, upkeep.purge, purge),
        _spec("record_dead_letters_replay", "POST", f"{letters}/replay", _ADMIN, upkeep.replay, replay),
        _spec("record_dead_letter", "GET", f"{letters}/{{id}}", _ADMIN, upkeep.one_letter, one),
    ]


def _otlp_routes(receiver: TraceReceiver) -> list[RouteSpec]:
    return [
        RouteSpec(
            name=name,
            methods=frozenset({"POST"}),
            path=path,
            policy=_WRITE,
            handler=receiver,
            body=BodyRule.STREAM,
            openapi=schemas.otlp_operation(),
        )
        for name, path in OTLP_PATHS.items()
    ]


def _spec(
    name: str, method: str, path: str, policy: Policy, handler: Handler, operation: Mapping[str, Any]
) -> RouteSpec:
    """Return the spec of a route below :data:`PREFIX`, which reads its body, if any, itself."""
    return RouteSpec(
        name=name,
        methods=frozenset({method}),
        path=PREFIX + path,
        policy=policy,
        handler=handler,
        body=BodyRule.NONE if method == "GET" else BodyRule.STREAM,
        openapi=operation,
    )
