"""Paths under ``/v1`` that are nobody else's go to the default upstream as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import msgspec

from hx_gateway.access.principal import Scope
from hx_gateway.errors import Forbidden, NotFound, UpstreamFailed
from hx_gateway.pipeline.context import BrokenReply, Context, Reply, StreamedBody
from hx_gateway.pipeline.routes import BodyRule, ErrorShape, RouteSpec, needs
from hx_gateway.pipeline.upstream_answers import answer_for_failure
from hx_gateway.services.upstream.base import (
    Timeouts,
    Upstream,
    UpstreamCall,
    UpstreamError,
    UpstreamHead,
    UpstreamRequest,
)
from hx_gateway.services.upstream.retry import open_call

# Bodies up to this size are sent whole, with a length: not every server reads a chunked request.
WHOLE_BODY_BYTES = 8 * 1024 * 1024
MAX_LIST_BYTES = 4 * 1024 * 1024
LIST_TIMEOUTS = Timeouts(connect=3, head=5, idle=5, total=10)

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)
_OWN = frozenset(
    {
        "host",
        "authorization",
        "x-api-key",
        "api-key",
        "cookie",
        "content-length",
        "accept-encoding",
        "x-request-id",
    }
    | {"forwarded", "x-real-ip", "via", "x-goog-api-key", "origin", "referer"}
)
_OWN_PREFIXES = ("x-hx-", "x-litellm-", "x-forwarded-", "proxy-", "sec-")
_ANSWER_OWN = frozenset({"set-cookie", "set-cookie2", "server", "date", "x-request-id", "alt-svc", "location"})
# What manages a proxy or a provider's account: never with the gateway's own credential.
MANAGEMENT = frozenset(
    {"access_group", "access_groups", "agents", "api_keys", "audit", "budget", "budgets", "cache", "callbacks"}
    | {"config"}
    | {
        "credentials",
        "customer",
        "customers",
        "debug",
        "end_user",
        "global",
        "guardrails",
        "health",
        "invitation",
    }
    | {"jwt", "key", "keys", "login", "mcp", "model", "organization", "organizations", "policies", "project"}
    | {
        "projects",
        "scim",
        "settings",
        "spend",
        "sso",
        "tag",
        "tags",
        "team",
        "teams",
        "tenant",
        "tenants",
        "tool",
    }
    | {"tools", "unified_access_group", "user", "users", "utils"}
)


def passthrough_route(upstream: Upstream, base_url: str | None, api_key: str | None) -> RouteSpec:
    """Return the catch-all below ``/v1``. ``base_url`` ends before ``/v1``; without one every path is a 404."""
    return RouteSpec(
        name="passthrough",
        methods=frozenset({"*"}),
        path="/v1/{path}",
        policy=needs(Scope.PASSTHROUGH),
        handler=Passthrough(upstream, base_url, api_key),
        body=BodyRule.STREAM,
        errors=ErrorShape.OPENAI,
        counted=True,
    )


class Passthrough:
    """Forwards a request with the gateway's credential, and its answer as it comes."""

    def __init__(self, upstream: Upstream, base_url: str | None, api_key: str | None) -> None:
        self._upstream = upstream
        self._base_url = base_url
        self._api_key = api_key

    async def __call__(self, ctx: Context) -> Reply:
        """Answer with what the upstream answers. Raises ``NotFound`` without one, ``Forbidden`` for management."""
        if self._base_url is None:
            raise NotFound(f"There is nothing at {ctx.path[:256]!r}.", code="unknown_path")
        if ctx.principal is not None and ctx.principal.models:
            raise Forbidden(
                f"Nobody looks for a model in {ctx.path[:256]!r}, and this key is for some models only.",
                code="unmetered_route",
            )
        allowance = ctx.principal.allowance if ctx.principal is not None else None
        if allowance is not None and allowance.has_budget:
            raise Forbidden(
                f"{ctx.path[:256]!r} is not metered, and this key has a budget: use a model route.",
                code="unmetered_route",
            )
        if any(segment.lower() in MANAGEMENT for segment in ctx.path.split("/")[2:3]):
            raise Forbidden(f"{ctx.path[:256]!r} manages the upstream and is not forwarded.", code="management_path")
        query = f"?{ctx.query.decode('latin-1')}" if ctx.query else ""
        request = UpstreamRequest(
            method=ctx.method,
            url=self._base_url + ctx.raw_path.decode("latin-1") + query,
            headers=self._headers(ctx),
            body=await _body(ctx),
        )
        try:
            call, head = await open_call(self._upstream, request)
        except UpstreamError as failure:
            raise answer_for_failure(failure) from failure
        if head.status in (401, 403, 407):
            call.abort()
            raise UpstreamFailed("The upstream refused the gateway's credential.", code="upstream_auth_failed")
        return Reply(head.status, _answer_headers(head), StreamedBody(_relay(call), call.abort))

    def _headers(self, ctx: Context) -> dict[str, str]:
        named = (ctx.header(b"connection") or b"").decode("latin-1").lower()
        dropped = _HOP_BY_HOP | _OWN | {name.strip() for name in named.split(",")}
        headers = {
            name: value.decode("latin-1")
            for name, value in ((key.decode("latin-1"), value) for key, value in ctx.headers)
            if name not in dropped and not name.startswith(_OWN_PREFIXES)
        }
        headers["accept-encoding"] = "identity"
        headers["x-request-id"] = ctx.request_id
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key}"
        return headers


async def _body(ctx: Context) -> bytes | AsyncIterator[bytes]:
    declared = ctx.header(b"content-length")
    if declared is not None and int(declared) <= WHOLE_BODY_BYTES:
        return await ctx.body.read(WHOLE_BODY_BYTES)
    if declared is None and ctx.header(b"transfer-encoding") is None:
        return b""
    return ctx.body.stream()


def _answer_headers(head: UpstreamHead) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in head.headers
        if name not in _HOP_BY_HOP and name not in _ANSWER_OWN
    ]


async def _relay(call: UpstreamCall) -> AsyncGenerator[bytes]:
    try:
        async for chunk in call.chunks():
            yield chunk
    except UpstreamError as failure:
        raise BrokenReply(answer_for_failure(failure)) from failure
    finally:
        call.abort()


def upstream_model_list(
    upstream: Upstream, base_url: str, api_key: str | None
) -> Callable[[], Awaitable[tuple[str, ...]]]:
    """Return what asks the default upstream for its models' names. Raises ``UpstreamFailed``."""
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    request = UpstreamRequest(method="GET", url=f"{base_url}/v1/models", headers=headers, timeouts=LIST_TIMEOUTS)

    async def names() -> tuple[str, ...]:
        try:
            call, head = await open_call(upstream, request)
            body = b"".join([chunk async for chunk in call.chunks()])
        except UpstreamError as failure:
            raise answer_for_failure(failure) from failure
        if head.status != 200 or len(body) > MAX_LIST_BYTES:
            raise UpstreamFailed("The upstream did not list its models.")
        try:
            listed = msgspec.json.decode(body, type=_Listed)
        except msgspec.DecodeError as error:
            raise UpstreamFailed("The upstream did not list its models.", code="upstream_protocol_error") from error
        return tuple(entry.id for entry in listed.data)

    return names


class _ListedModel(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_ListedModel]
