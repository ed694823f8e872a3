"""The HTTP routes of the official MCP registry's API, under both of its prefixes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from hx_gateway import __version__
from hx_gateway.access.principal import Principal, Role, Scope
from hx_gateway.access.resources import Actor
from hx_gateway.errors import MethodNotAllowed, NotImplementedHere
from hx_gateway.kit.json_object import JSONObjectError
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import (
    ANYONE,
    BodyRule,
    ErrorShape,
    Handler,
    Policy,
    RouteSpec,
    Who,
    needs,
    open_to_all,
)
from hx_gateway.registry.official import operations
from hx_gateway.registry.official.parameters import (
    deleted_parameter,
    limit_parameter,
    listing_of,
    read_document,
    read_object,
    read_query,
    status_of,
)
from hx_gateway.registry.official.paths import ServerPath, Target, read_path
from hx_gateway.registry.official.registry import OfficialRegistry
from hx_gateway.registry.official.rights import Reader
from hx_gateway.registry.official.server_json import errors_of
from hx_gateway.registry.official.shapes import Issue

PREFIXES: Mapping[str, str] = {"v01": "/v0.1", "v0": "/v0"}
# Where the rest of a path is.
REST = "rest"
_JSON = (b"content-type", b"application/json")
_METHODS: Mapping[Target, tuple[str, ...]] = {
    Target.VERSIONS: ("GET", "HEAD"),
    Target.VERSION: ("GET", "HEAD", "PUT", "DELETE"),
    Target.VERSION_STATUS: ("PATCH",),
    Target.STATUS: ("PATCH",),
}
_WRITE = needs(Scope.REGISTRY_WRITE)
# What was published is not changed by whoever published it.
EDIT = Policy(Who.KEY, frozenset({Scope.REGISTRY_WRITE}), frozenset({Role.PLATFORM_ADMIN, Role.TENANT_ADMIN}))


def official_routes(registry: OfficialRegistry, *, public_reads_tenant: str | None = None) -> list[RouteSpec]:
    """Return every route, under both prefixes.

    Reads need ``registry:read``. With ``public_reads_tenant`` whoever shows no key reads that tenant's servers, without
    what is known of their services. Without a database all but the last three answer 503.
    """
    routes = _Routes(registry, public_reads_tenant)
    read = needs(Scope.REGISTRY_READ) if public_reads_tenant is None else open_to_all(Scope.REGISTRY_READ)
    specs: list[RouteSpec] = []
    for name, prefix in PREFIXES.items():
        below = f"{prefix}/servers/{{{REST}}}"
        plan: tuple[tuple[str, str, str, Policy, Handler, Mapping[str, Any]], ...] = (
            ("servers", "GET", f"{prefix}/servers", read, routes.servers, operations.LISTING),
            ("server", "GET", below, read, routes.server, operations.SERVER),
            ("server_put", "PUT", below, EDIT, routes.put, operations.PUT),
            ("server_delete", "DELETE", below, _WRITE, routes.delete, operations.DELETE),
            ("server_status", "PATCH", below, _WRITE, routes.status, operations.STATUS),
            ("publish", "POST", f"{prefix}/publish", _WRITE, routes.publish, operations.PUBLISH),
            ("validate", "POST", f"{prefix}/validate", read, routes.validate, operations.VALIDATE),
            ("auth", "POST", f"{prefix}/auth/{{method}}", ANYONE, _no_tokens, operations.AUTH),
            ("health", "GET", f"{prefix}/health", ANYONE, _fixed({"status": "ok"}), operations.HEALTH),
            ("ping", "GET", f"{prefix}/ping", ANYONE, _fixed({"pong": True}), operations.PING),
            ("version", "GET", f"{prefix}/version", ANYONE, _fixed({"version": __version__}), operations.VERSION),
        )
        specs += [_spec(f"registry_{name}_{part}", *rest) for part, *rest in plan]  # type: ignore[arg-type]
    return specs


class _Routes:
    """Handlers over one registry."""

    def __init__(self, registry: OfficialRegistry, public_tenant: str | None) -> None:
        self._registry = registry
        self._public_tenant = public_tenant

    async def servers(self, ctx: Context) -> Reply:
        """Answer with a page of servers."""
        query = read_query(ctx)
        page = await self._registry.servers(
            self._reader(ctx), listing_of(query), limit=limit_parameter(query), cursor=query.get("cursor") or None
        )
        metadata: dict[str, Any] = {"count": len(page.servers)}
        if page.next_cursor is not None:
            metadata["nextCursor"] = page.next_cursor
        return _json({"servers": page.servers, "metadata": metadata})

    async def server(self, ctx: Context) -> Reply:
        """Answer with all versions of a server, or with one."""
        path = _path(ctx)
        include_deleted = bool(deleted_parameter(read_query(ctx)))
        reader = self._reader(ctx)
        if path.target is Target.VERSION:
            found = await self._registry.one(reader, path.name, path.version, include_deleted=include_deleted)
            return _json(found)
        versions = await self._registry.versions(reader, path.name, include_deleted=include_deleted)
        return _json({"servers": versions, "metadata": {"count": len(versions)}})

    async def publish(self, ctx: Context) -> Reply:
        """Publish a version: 200, as the official registry says, not 201."""
        return _json(await self._registry.publish(_actor(ctx), await read_object(ctx)))

    async def validate(self, ctx: Context) -> Reply:
        """Say what is wrong with a document: 200 whatever it is."""
        try:
            issues = await self._registry.validate(self._reader(ctx), await read_document(ctx))
        except JSONObjectError as error:
            issues = [Issue(type="json", path="", message=error.message, severity="error", reference=error.code)]
        return _json({"valid": not errors_of(issues), "issues": [issue.to_dict() for issue in issues]})

    async def put(self, ctx: Context) -> Reply:
        """Put another document in the place of a published one."""
        path = _path(ctx)
        return _json(await self._registry.put(_actor(ctx), path.name, path.version, await read_object(ctx)))

    async def delete(self, ctx: Context) -> Reply:
        """Delete a version, which its status may bring back."""
        path = _path(ctx)
        return _json(await self._registry.delete(_actor(ctx), path.name, path.version))

    async def status(self, ctx: Context) -> Reply:
        """Set the status of a version, or of all of them."""
        path, (status, message) = _path(ctx), status_of(await read_object(ctx))
        actor = _actor(ctx)
        if path.target is Target.VERSION_STATUS:
            return _json(await self._registry.set_status(actor, path.name, path.version, status, message))
        changed = await self._registry.set_all_statuses(actor, path.name, status, message)
        return _json({"updatedCount": len(changed), "servers": changed})

    def _reader(self, ctx: Context) -> Reader:
        if ctx.principal is not None:
            return Reader(tenant_id=str(ctx.principal.tenant_id))
        assert self._public_tenant is not None
        return Reader(tenant_id=self._public_tenant, inside=False)


def _path(ctx: Context) -> ServerPath:
    path = read_path(ctx.path_params[REST])
    allowed = _METHODS[path.target]
    if ctx.method not in allowed:
        raise MethodNotAllowed(f"{ctx.method!r} is not a method of {ctx.path!r}.", allow=allowed)
    return path


def _actor(ctx: Context) -> Actor:
    principal = ctx.principal
    assert isinstance(principal, Principal)
    return Actor(principal=principal, request_id=ctx.request_id, client=ctx.client)


def _json(value: object) -> Reply:
    return Reply(200, [_JSON], msgspec.json.encode(value))


def _fixed(value: Mapping[str, Any]) -> Callable[[Context], Awaitable[Reply]]:
    async def handler(_ctx: Context) -> Reply:
        return _json(value)

    return handler


async def _no_tokens(_ctx: Context) -> Reply:
    raise NotImplementedHere("This registry gives out no tokens: publish with a key of the gateway, as a bearer token.")


def _spec(
    name: str, method: str, path: str, policy: Policy, handler: Handler, operation: Mapping[str, Any]
) -> RouteSpec:
    return RouteSpec(
        name=name,
        methods=frozenset({method}),
        path=path,
        policy=policy,
        handler=handler,
        body=BodyRule.STREAM if method in ("POST", "PUT", "PATCH") else BodyRule.NONE,
        errors=ErrorShape.REGISTRY,
        openapi=operation,
    )
