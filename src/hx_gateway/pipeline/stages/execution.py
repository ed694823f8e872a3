"""Calls whoever answers: a model's server, or the handler of a route that is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hx_gateway.errors import HXError, UpstreamFailed
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.model_call import relay_call, request_headers
from hx_gateway.pipeline.upstream_answers import answer_for_failure, answer_for_status
from hx_gateway.services.upstream.base import Deployment, Upstream, UpstreamError, UpstreamKind
from hx_gateway.translate.embeddings import embed_with_ollama
from hx_gateway.translate.errors import UnreadableAnswer, UpstreamStatusError
from hx_gateway.translate.openai import ModelRequest, Operation

EMBEDDING_INPUT_TO_PROMPT = "embedding_input_to_prompt"
_JSON_HEADERS = ((b"content-type", b"application/json"),)


class ExecutionStage:
    """Calls the first candidate and relays its answer. No connection or lock of a store is held meanwhile."""

    name: ClassVar[str] = "execution"
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset({"call", "candidates"})

    def __init__(self, upstreams: Mapping[UpstreamKind, Upstream]) -> None:
        self._upstreams = dict(upstreams)

    async def __call__(self, ctx: Context) -> Reply | None:
        """Answer the request."""
        if ctx.call is None:
            handler = ctx.route.handler
            assert handler is not None
            return await handler(ctx)
        deployment = ctx.candidates[0]
        ctx.deployment = deployment
        ctx.attempts += 1
        upstream = self._upstreams[deployment.kind]
        if (ctx.call.operation, deployment.kind) == (Operation.EMBEDDING, UpstreamKind.OLLAMA):
            ctx.translation = EMBEDDING_INPUT_TO_PROMPT
            return await _embed(ctx, ctx.call, deployment, upstream)
        return await relay_call(ctx, ctx.call, deployment, upstream)


async def _embed(ctx: Context, call: ModelRequest, deployment: Deployment, upstream: Upstream) -> Reply:
    try:
        answer = await embed_with_ollama(upstream, deployment, call, request_headers(ctx, deployment))
    except UpstreamError as failure:
        raise answer_for_failure(failure) from failure
    except UpstreamStatusError as refusal:
        answered = answer_for_status(refusal.head, refusal.body, deployment)
        if isinstance(answered, HXError):
            raise answered from refusal
        return answered
    except UnreadableAnswer as unreadable:
        raise UpstreamFailed(
            "The model's server sent something that is not a valid answer.", code="upstream_protocol_error"
        ) from unreadable
    ctx.usage = answer.usage
    return Reply(200, list(_JSON_HEADERS), answer.body)
