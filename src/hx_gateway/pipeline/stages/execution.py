"""Calls whoever answers: a model's server, or the handler of a route that is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from hx_gateway.errors import HXError, UpstreamFailed
from hx_gateway.events import TokenUsage
from hx_gateway.kit.money import usd_text
from hx_gateway.kit.turns import next_turn
from hx_gateway.pipeline.caching import CacheUse
from hx_gateway.pipeline.context import CallState, Context, Reply
from hx_gateway.pipeline.model_call import note_failure, relay_call, request_headers
from hx_gateway.pipeline.upstream_answers import answer_for_failure, answer_for_status
from hx_gateway.services.upstream.base import Deployment, Upstream, UpstreamError, UpstreamKind
from hx_gateway.translate.embeddings import embed_with_ollama
from hx_gateway.translate.errors import UnreadableAnswer, UpstreamStatusError
from hx_gateway.translate.openai import ModelRequest, Operation

EMBEDDING_INPUT_TO_PROMPT = "embedding_input_to_prompt"
_JSON_HEADERS = ((b"content-type", b"application/json"),)


class Metering(Protocol):
    """Lets a call begin and is told when it is sent; its end it sees for itself."""

    async def admit(self, ctx: Context, call: ModelRequest, deployment: Deployment) -> ModelRequest:
        """Return the call to send. Raises ``HXError`` where a limit refuses."""
        ...

    async def count(self, ctx: Context) -> None:
        """Count a request that is no call of a model. Raises ``HXError`` where a limit refuses."""
        ...

    async def sent(self, ctx: Context, deployment: Deployment) -> None:
        """Note that the call goes out now. Raises ``HXError`` where it must not."""
        ...

    async def admit_cached(self, ctx: Context, call: ModelRequest, deployment: Deployment, saved: TokenUsage) -> int:
        """Let a request begin that is answered from the cache, and return what its call would have cost; 0 where that
        is not known. Raises ``HXError`` where a limit refuses."""
        ...

    def cost_of(self, ctx: Context) -> int | None:
        """Return what an answer that is whole cost, in nano-dollars; ``None`` without a price."""
        ...


class ExecutionStage:
    """Calls the first candidate and relays its answer. No connection or lock of a store is held meanwhile.

    ``metering`` counts calls against the limits of their key; without one nothing is counted.
    """

    name: ClassVar[str] = "execution"
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset({"principal", "call", "candidates", "cache"})

    def __init__(self, upstreams: Mapping[UpstreamKind, Upstream], metering: Metering | None = None) -> None:
        self._upstreams = dict(upstreams)
        self._metering = metering

    async def __call__(self, ctx: Context) -> Reply | None:
        """Answer the request."""
        if ctx.call is None:
            handler = ctx.route.handler
            assert handler is not None
            if ctx.route.counted and self._metering is not None:
                await self._metering.count(ctx)
            return await handler(ctx)
        if ctx.cache is not None:
            if ctx.cache.found is not None:
                return await self._replay(ctx, ctx.call, ctx.cache)
            return ctx.cache.taken(await self._forward(ctx, ctx.call))
        return await self._forward(ctx, ctx.call)

    async def _forward(self, ctx: Context, call: ModelRequest) -> Reply:
        deployment = ctx.candidates[0]
        ctx.deployment = deployment
        if self._metering is None:
            return await self._call(ctx, call, deployment)
        await next_turn()
        ctx.call = call = await self._metering.admit(ctx, call, deployment)
        await next_turn()
        await self._metering.sent(ctx, deployment)
        reply = await self._call(ctx, call, deployment)
        if isinstance(reply.body, bytes):
            await self._priced(ctx, reply)
        return reply

    async def _replay(self, ctx: Context, call: ModelRequest, cache: CacheUse) -> Reply:
        """Answer from the cache: a request like others to its key's limits, and nothing that anybody is charged for."""
        saved = 0
        if self._metering is not None:
            await next_turn()
            saved = await self._metering.admit_cached(ctx, call, ctx.candidates[0], cache.saved)
        reply = cache.reply(call, saved)
        if self._metering is not None:
            await self._priced(ctx, reply)
        return reply

    async def _priced(self, ctx: Context, reply: Reply) -> None:
        assert self._metering is not None
        cost = self._metering.cost_of(ctx)
        if cost is not None:
            reply.headers.append((b"x-hx-cost-usd", usd_text(cost).encode("ascii")))
        await ctx.answered(reply.status)

    async def _call(self, ctx: Context, call: ModelRequest, deployment: Deployment) -> Reply:
        ctx.attempts += 1
        upstream = self._upstreams[deployment.kind]
        if (call.operation, deployment.kind) == (Operation.EMBEDDING, UpstreamKind.OLLAMA):
            ctx.translation = EMBEDDING_INPUT_TO_PROMPT
            return await _embed(ctx, call, deployment, upstream)
        return await relay_call(ctx, call, deployment, upstream)


async def _embed(ctx: Context, call: ModelRequest, deployment: Deployment, upstream: Upstream) -> Reply:
    ctx.call_state = CallState.SENT
    try:
        answer = await embed_with_ollama(upstream, deployment, call, request_headers(ctx, deployment))
    except UpstreamError as failure:
        note_failure(ctx, failure)
        raise answer_for_failure(failure) from failure
    except UpstreamStatusError as refusal:
        ctx.call_state = CallState.REFUSED
        answered = answer_for_status(refusal.head, refusal.body, deployment)
        if isinstance(answered, HXError):
            raise answered from refusal
        return answered
    except UnreadableAnswer as unreadable:
        raise UpstreamFailed(
            "The model's server sent something that is not a valid answer.", code="upstream_protocol_error"
        ) from unreadable
    ctx.call_state = CallState.ANSWERED
    ctx.usage = answer.usage
    return Reply(200, list(_JSON_HEADERS), answer.body)
