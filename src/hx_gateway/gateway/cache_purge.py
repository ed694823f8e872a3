"""The route that makes the response cache forget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from hx_gateway.access.principal import Role
from hx_gateway.access.resources import Actor
from hx_gateway.cache.purging import Purged, Purging
from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.http.query_parameters import read_parameters
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import ErrorShape, RouteSpec, needs_role

PATH = "/v1/cache"
TENANT_ADMINS = needs_role(Role.TENANT_ADMIN)
_PARAMETERS = ("tenant_id", "key_id", "model")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JSON = (b"content-type", b"application/json")
_TEXTS = {
    "tenant_id": "Of a platform admin: whose answers. Absent: those of the caller's own tenant.",
    "key_id": "Those that calls of this key brought.",
    "model": "Those of this model.",
}
_MAX_MODEL_CHARS = 256


class PurgeLog(Protocol):
    """Where purges are written down."""

    async def check_purge(self, actor: Actor, tenant_id: str) -> None:
        """Raise ``NotFound`` for a tenant that there is not, and ``DependencyError`` while nothing can be written."""
        ...

    async def record_purge(self, actor: Actor, tenant_id: str, told: Mapping[str, Any]) -> None:
        """Write down that answers of a tenant were forgotten, and which."""
        ...


def purge_route(purging: Purging, log: PurgeLog | None) -> RouteSpec:
    """Return the route. It answers 503 while a store of answers is away, or ``log``, which only a database has."""
    purge = CachePurge(purging, log)
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": text}
        for name, text in _TEXTS.items()
    ]
    example = {"object": "cache.purge", "tenant_id": "acme", "purged": 17}
    content = {"application/json": {"schema": {"type": "object", "additionalProperties": True}, "example": example}}
    errors = {status: {"description": "An error in OpenAI's shape"} for status in ("400", "401", "403", "404", "503")}
    return RouteSpec(
        name="cache_purge",
        methods=frozenset({"DELETE"}),
        path=PATH,
        policy=TENANT_ADMINS,
        handler=purge,
        errors=ErrorShape.OPENAI,
        openapi={
            "tags": ["cache"],
            "summary": "Forget answers that are kept",
            "parameters": parameters,
            "responses": {"200": {"description": "How many there were.", "content": content}, **errors},
        },
    )


class CachePurge:
    """Forgets answers of one tenant: those of the caller's own, or of the one that an admin of the platform names.

    Nothing is forgotten that ``log`` cannot be told of, as far as that can be known before.
    """

    def __init__(self, purging: Purging, log: PurgeLog | None) -> None:
        self._purging = purging
        self._log = log

    async def __call__(self, ctx: Context) -> Reply:
        """Answer with how many answers were forgotten."""
        asked = read_parameters(ctx, _PARAMETERS)
        for name in ("tenant_id", "key_id"):
            if name in asked and _ID.fullmatch(asked[name]) is None:
                raise _invalid(name, "must be an id: 1 to 64 letters, digits, '-' and '_'")
        model = asked.get("model")
        if model is not None and not (0 < len(model) <= _MAX_MODEL_CHARS and model.isprintable()):
            raise _invalid("model", f"must be a name of 1 to {_MAX_MODEL_CHARS} printable characters")
        tenant_id = _tenant(ctx, asked.get("tenant_id"))
        assert ctx.principal is not None
        actor = Actor(principal=ctx.principal, request_id=ctx.request_id, client=ctx.client)
        if self._log is not None:
            await self._log.check_purge(actor, tenant_id)
        chosen: dict[str, str] = {name: asked[name] for name in ("key_id", "model") if name in asked}
        told = partial(self._tell, actor, tenant_id, chosen)
        purged = await self._purging.purge(tenant_id, key_id=asked.get("key_id"), model=model, then=told)
        if purged.failure is not None:
            raise purged.failure
        answer = {"object": "cache.purge", "tenant_id": tenant_id, "purged": purged.count}
        return Reply(200, [_JSON], msgspec.json.encode(answer))

    async def _tell(self, actor: Actor, tenant_id: str, chosen: Mapping[str, str], purged: Purged) -> None:
        whole = purged.failure is None
        by = actor.principal.key_id
        structlog.get_logger().info("cache_purged", tenant=tenant_id, by=by, purged=purged.count, whole=whole)
        if self._log is not None:
            await self._log.record_purge(actor, tenant_id, {**chosen, "purged": purged.count, "whole": whole})


def _tenant(ctx: Context, asked: str | None) -> str:
    """Return whose answers are meant. Another tenant is to the caller as one that there is not."""
    principal = ctx.principal
    assert principal is not None
    own = str(principal.tenant_id)
    if asked is None or asked == own or principal.role is Role.PLATFORM_ADMIN:
        return asked or own
    raise NotFound(f"There is no tenant {asked!r}.", param="tenant_id")


def _invalid(name: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {rule}.", param=name, code="invalid_value")
