"""The FastAPI application: every route that is not a model's, and the OpenAPI document of them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from hx_gateway import __version__
from hx_gateway.errors import HXError, InvalidRequest, NotFound
from hx_gateway.http.errors import error_reply
from hx_gateway.http.health import HealthSources, router
from hx_gateway.pipeline.routes import ANYONE, BodyRule, ErrorShape, Handler, RouteSpec, Who

TITLE = "HX Gateway"
ANY_METHOD = frozenset({"*"})


def build_api(health: HealthSources) -> FastAPI:
    """Return the application. It is only ever called from inside the pipeline."""
    api = FastAPI(title=TITLE, version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    api.state.health = health
    api.include_router(router)
    api.add_exception_handler(HXError, _hx_error)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http_error)
    return api


def api_routes(handler: Handler) -> list[RouteSpec]:
    """Return the routes of the document itself and of paths that nobody knows."""
    return [
        RouteSpec(
            name="openapi",
            methods=frozenset({"GET"}),
            path="/openapi.json",
            policy=ANYONE,
            handler=handler,
        ),
        RouteSpec(
            name="unknown",
            methods=ANY_METHOD,
            path="/{path}",
            policy=ANYONE,
            handler=handler,
            body=BodyRule.STREAM,
        ),
    ]


def openapi_document(api: FastAPI, routes: Iterable[RouteSpec]) -> dict[str, Any]:
    """Return the document of FastAPI's own routes and of those that bypass it."""
    document = get_openapi(title=TITLE, version=__version__, routes=api.routes)
    paths: dict[str, Any] = document.setdefault("paths", {})
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in routes:
        for method in route.methods - ANY_METHOD:
            operation = paths.setdefault(route.path, {}).setdefault(method.lower(), dict(route.openapi))
            if route.policy.who is not Who.ANYONE:
                operation["security"] = [{"key": []}]
            operation.setdefault("responses", {"200": {"description": "OK"}})
            operation.setdefault("operationId", route.name)
    return document


def serve_document(api: FastAPI, routes: tuple[RouteSpec, ...]) -> None:
    """Add ``/openapi.json`` with the document of ``routes``, made on the first request."""
    made: dict[str, Any] = {}

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        if not made:
            made.update(openapi_document(api, routes))
        return made


async def _hx_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HXError)
    reply = error_reply(error, ErrorShape.PROBLEM)
    assert isinstance(reply.body, bytes)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    return Response(reply.body, reply.status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    refusal = InvalidRequest(f"{field}: {first['msg']}.", param=field)
    refusal.status = 422
    return await _hx_error(request, refusal)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await _hx_error(request, NotFound("There is nothing at this path.", code="unknown_path"))
    refusal = HXError(str(error.detail), code="http_error", headers=error.headers)
    refusal.status = error.status_code
    return await _hx_error(request, refusal)
