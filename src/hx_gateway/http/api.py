"""The FastAPI application: every route that is not a model's, and the OpenAPI document of them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from hx_gateway import __version__
from hx_gateway.errors import HXError, InvalidRequest, MethodNotAllowed, NotFound
from hx_gateway.http.health import HealthSources, router
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import ANYONE, PARAMETER, BodyRule, Handler, RouteSpec, Who

TITLE = "HX Gateway"
ANY_METHOD = frozenset({"*"})
MAX_FIELD_CHARS = 128
# Pydantic's words for two mistakes, in ours.
_REASONS = {"extra_forbidden": "is not known here", "missing": "is missing"}


def build_api(health: HealthSources) -> FastAPI:
    """Return the application. It is only ever called from inside the pipeline."""
    api = FastAPI(
        title=TITLE, version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    api.state.health = health
    api.include_router(router)
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
            handler=_nothing_here,
            body=BodyRule.STREAM,
        ),
    ]


async def _nothing_here(_ctx: Context) -> Reply:
    # Not asked of the application: what it has and the table has not would have no policy.
    raise NotFound("There is nothing at this path.", code="unknown_path")


def openapi_document(api: FastAPI, routes: Iterable[RouteSpec]) -> dict[str, Any]:
    """Return the document of FastAPI's own routes and of those that bypass it."""
    document = get_openapi(title=TITLE, version=__version__, routes=api.routes)
    paths: dict[str, Any] = document.setdefault("paths", {})
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    listed = tuple(routes)
    known = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    for method, path in known:
        route = max(listed, key=lambda route: _serves(route, method, path))
        if security := _security(route):
            paths[path][method.lower()]["security"] = security
    for route in listed:
        for method in route.methods - ANY_METHOD:
            if not route.openapi and any(_serves(route, method, path) >= 0 for of, path in known if of == method):
                continue
            operation = paths.setdefault(route.path, {}).setdefault(method.lower(), dict(route.openapi))
            if security := _security(route):
                operation["security"] = security
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


def _security(route: RouteSpec) -> list[dict[str, list[str]]]:
    return [] if route.policy.who is Who.ANYONE else [{"key": []}]


def _serves(route: RouteSpec, method: str, path: str) -> int:
    """Return how much of ``path`` the route names, as the route table weighs it: -1 where it is not its own."""
    if not route.methods & {method, *ANY_METHOD}:
        return -1
    if route.path == path:
        return len(path) + 1
    parameter = PARAMETER.search(route.path)
    prefix = route.path[: parameter.start()] if parameter else None
    return len(prefix) if prefix is not None and path.startswith(prefix) else -1


# Refusals are not answered here: they leave the application, so that the pipeline words, counts and logs them like
# everybody's.


async def _invalid(_request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    reason = _REASONS.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
    field = field[:MAX_FIELD_CHARS]
    refusal = InvalidRequest(f"{field}: {reason}.", param=field)
    refusal.status = 422
    raise refusal from error


async def _http_error(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise NotFound("There is nothing at this path.", code="unknown_path")
    if error.status_code == 405:
        allowed = Headers(error.headers).get("allow", "").split(", ")
        raise MethodNotAllowed(f"{request.method!r} is not a method of {request.url.path!r}.", allow=allowed)
    refusal = HXError(str(error.detail), code="http_error", headers=error.headers)
    refusal.status = error.status_code
    raise refusal from error
