"""The HTTP routes of spend: calls, sums, decisions, estimates and prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hx_gateway.access.principal import Scope
from hx_gateway.pipeline.routes import BodyRule, ErrorShape, Handler, Policy, RouteSpec, needs
from hx_gateway.pricing.source import PriceSource
from hx_gateway.spend import schemas
from hx_gateway.spend.price_list import PriceRoutes
from hx_gateway.spend.quotes import PriceOf, Quotes
from hx_gateway.spend.reads import SpendReads
from hx_gateway.spend.repository import SpendRepository
from hx_gateway.spend.sources import ERRORS, LOGS

# What is built here of the paths that are kept for the gateway; all others below those stay kept.
BUILT = frozenset({"/v1/spend/logs", "/v1/spend/errors", "/v1/spend/summary", "/v1/cost/estimate", "/v1/prices"})

_READ, _MODELS, _ADMIN = needs(Scope.SPEND_READ), needs(Scope.MODELS), needs(Scope.ADMIN)


def spend_routes(
    repository: SpendRepository, prices: PriceSource, *, default_cap: int, price_of: PriceOf | None = None
) -> list[RouteSpec]:
    """Return every route of spend.

    ``price_of`` gives the price of a model by the name that clients use; without it ``prices`` is asked for that name.
    ``default_cap`` is the output cap of requests that have none. Estimates need no database; the others answer 503
    without one.
    """
    known = price_of or prices.price
    reads, quotes, listed = SpendReads(repository), Quotes(known, default_cap), PriceRoutes(repository, prices, known)
    decision = schemas.described(
        "Why a call was refused, or where it went and what it cost",
        schemas.DECISION_PARAMETERS,
        path="request_id",
        errors=("404", "503", "504"),
    )
    estimate = schemas.described("What a call would cost", body=schemas.ESTIMATE, errors=("404",))
    return [
        _spec("spend_logs", "GET", "/v1/spend/logs", _READ, reads.rows(LOGS), schemas.rows_operation(LOGS)),
        _spec("spend_errors", "GET", "/v1/spend/errors", _READ, reads.rows(ERRORS), schemas.rows_operation(ERRORS)),
        _spec("spend_summary", "GET", "/v1/spend/summary", _READ, reads.summary, schemas.summary_operation()),
        _spec("decision", "GET", "/v1/decisions/{request_id}", _READ, reads.decision, decision),
        _spec("cost_estimate", "POST", "/v1/cost/estimate", _MODELS, quotes.estimate, estimate),
        *_price_routes(listed),
    ]


def _price_routes(listed: PriceRoutes) -> list[RouteSpec]:
    path = "/v1/prices/{model}"
    known = ("404", "503")
    one = schemas.described("The price of a model", path="model", errors=known)
    put = schemas.described("Set the price of a model", path="model", body=schemas.PRICE)
    delete = schemas.described("Take back the price that was set", path="model", errors=known)
    return [
        _spec("prices", "GET", "/v1/prices", _ADMIN, listed.listing, schemas.described("Prices that were set")),
        _spec("price", "GET", path, _ADMIN, listed.one, one),
        _spec("price_set", "PUT", path, _ADMIN, listed.put, put),
        _spec("price_delete", "DELETE", path, _ADMIN, listed.delete, delete),
    ]


def _spec(
    name: str, method: str, path: str, policy: Policy, handler: Handler, operation: Mapping[str, Any]
) -> RouteSpec:
    return RouteSpec(
        name=name,
        methods=frozenset({method}),
        path=path,
        policy=policy,
        handler=handler,
        body=BodyRule.STREAM if method in ("POST", "PUT") else BodyRule.NONE,
        errors=ErrorShape.OPENAI,
        openapi=operation,
    )
