"""The model routes: what clients of OpenAI's API call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hx_gateway.access.principal import Scope
from hx_gateway.errors import HXError, NotFound
from hx_gateway.gateway.model_table import ModelTable
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import BodyRule, Decoder, ErrorShape, Needs, RouteSpec, needs
from hx_gateway.translate.openai import decode_chat, decode_completion, decode_embedding

JSON = (b"content-type", b"application/json")
LIST_SECONDS = 10.0
CREATED = 1_700_000_000
ListUpstream = Callable[[], Awaitable[tuple[str, ...]]]


def model_routes(directory: ModelList) -> list[RouteSpec]:
    """Return chat, completions, embeddings and the list of models."""
    return [
        _call_route("chat_completions", "/v1/chat/completions", decode_chat, "Chat with a model"),
        _call_route("completions", "/v1/completions", decode_completion, "Complete a text (legacy)"),
        _call_route("embeddings", "/v1/embeddings", decode_embedding, "Embed texts"),
        _list_route("models", "/v1/models", directory.list_models, "The models the key may use"),
        _list_route("model", "/v1/models/{model}", directory.one_model, "One model"),
    ]


def _call_route(name: str, path: str, decoder: Decoder, summary: str) -> RouteSpec:
    schema = {"type": "object", "required": ["model"], "additionalProperties": True}
    content = {"application/json": {"schema": schema}}
    return RouteSpec(
        name=name,
        methods=frozenset({"POST"}),
        path=path,
        policy=needs(Scope.MODELS),
        needs=Needs.KEY_CACHE,
        body=BodyRule.JSON,
        decoder=decoder,
        errors=ErrorShape.OPENAI,
        openapi={
            "tags": ["models"],
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": _responses("200", "400", "401", "403", "404", "429", "502", "503", "504"),
        },
    )


def _list_route(name: str, path: str, handler: Callable[[Context], Awaitable[Reply]], summary: str) -> RouteSpec:
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return RouteSpec(
        name=name,
        methods=frozenset({"GET"}),
        path=path,
        policy=needs(Scope.MODELS),
        needs=Needs.KEY_CACHE,
        handler=handler,
        errors=ErrorShape.OPENAI,
        openapi={
            "tags": ["models"],
            "summary": summary,
            "parameters": [parameter] if name == "model" else [],
            "responses": _responses("200", "401", "403", "404"),
        },
    )


def _responses(*statuses: str) -> dict[str, Any]:
    return {status: {"description": "OK" if status == "200" else "An error in OpenAI's shape"} for status in statuses}


class ModelList:
    """``/v1/models``: the table's names, and those of an upstream that serves whatever it likes.

    The upstream's list is kept for :data:`LIST_SECONDS` and read by one request at a time; while it cannot be read,
    the names known before are served.
    """

    def __init__(self, table: ModelTable, list_upstream: ListUpstream | None) -> None:
        self._table = table
        self._list_upstream = list_upstream
        self._listed: tuple[str, ...] = ()
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def list_models(self, ctx: Context) -> Reply:
        """Answer with the names that the key may use, sorted, in OpenAI's shape."""
        data = [_model(name) for name in await self._usable(ctx)]
        return Reply(200, [JSON], msgspec.json.encode({"object": "list", "data": data}))

    async def one_model(self, ctx: Context) -> Reply:
        """Answer with one model, or 404."""
        name = ctx.path_params["model"]
        if name not in await self._usable(ctx):
            raise NotFound(f"The model {name[:256]!r} does not exist.", param="model", code="model_not_found")
        return Reply(200, [JSON], msgspec.json.encode(_model(name)))

    async def _usable(self, ctx: Context) -> list[str]:
        names = await self._names()
        principal = ctx.principal
        if principal is None:
            return names
        own = {alias for alias, target in principal.aliases.items() if principal.may_use(target)}
        return sorted({name for name in names if principal.may_use(name)} | own)

    async def _names(self) -> list[str]:
        if self._list_upstream is not None:
            async with self._lock:
                if time.monotonic() - self._listed_at > LIST_SECONDS:
                    await self._refresh(self._list_upstream)
        return sorted({*self._table.names(), *self._listed})

    async def _refresh(self, list_upstream: ListUpstream) -> None:
        try:
            self._listed = await list_upstream()
        except HXError:
            # Without a list there is nothing to serve; with an old one, it is better than a failure.
            if not self._listed and not self._table.names():
                raise
        self._listed_at = time.monotonic()


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "hx-gateway"}
