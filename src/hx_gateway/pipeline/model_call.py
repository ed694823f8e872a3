"""One call to a model's server: the request that is sent, and the answer as it is relayed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import msgspec

from hx_gateway import __version__
from hx_gateway.errors import HXError, Unavailable, UpstreamFailed
from hx_gateway.kit.json_object import encode_object
from hx_gateway.kit.token_estimate import tokens_in
from hx_gateway.pipeline.context import BrokenReply, CallState, Context, Reply, StreamedBody
from hx_gateway.pipeline.upstream_answers import (
    MAX_ERROR_BODY_BYTES,
    answer_for_failure,
    answer_for_status,
    client_headers,
)
from hx_gateway.services.upstream.base import (
    Deployment,
    Upstream,
    UpstreamCall,
    UpstreamError,
    UpstreamHead,
    UpstreamKind,
    UpstreamRequest,
)
from hx_gateway.services.upstream.retry import open_call
from hx_gateway.translate.openai import ModelRequest, Operation
from hx_gateway.translate.stream_usage import StreamRelay, error_event, usage_from_body

# An answer up to this size is read whole: one that breaks off can still become a clean 502.
WHOLE_ANSWER_BYTES = 4 * 1024 * 1024
EVENT_STREAM = "text/event-stream"
_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETION: "/completions",
    Operation.EMBEDDING: "/embeddings",
}
_FORWARDED = (b"openai-beta", b"traceparent", b"tracestate", b"idempotency-key")
_READABLE_TYPES = ("application/json", EVENT_STREAM, "text/plain", "application/octet-stream")


def build_request(ctx: Context, call: ModelRequest, deployment: Deployment) -> UpstreamRequest:
    """Return the request for ``deployment``: every field the client sent, under the model's name there."""
    body = call.body
    asks_usage = wants_usage_event(call, deployment)
    model = msgspec.json.encode(deployment.model)
    if asks_usage or body["model"] != model:
        body = {**body, "model": msgspec.Raw(model)}
        if asks_usage:
            body["stream_options"] = _with_usage(body.get("stream_options"))
    root = f"{deployment.base_url}/v1" if deployment.kind is UpstreamKind.OLLAMA else deployment.base_url
    return UpstreamRequest(
        method="POST",
        url=root + _PATHS[call.operation],
        headers=request_headers(ctx, deployment),
        body=encode_object(body),
        timeouts=deployment.timeouts,
    )


def wants_usage_event(call: ModelRequest, deployment: Deployment) -> bool:
    """Return whether we ask for the usage event that the client did not ask for, and so must not see."""
    return call.stream and not call.include_usage and deployment.usage_in_stream == "ask"


def request_headers(ctx: Context, deployment: Deployment) -> dict[str, str]:
    """Return the headers of a call: the deployment's own, ours, and the few of the client's that mean something."""
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"hx-gateway/{__version__}",
        "x-request-id": ctx.request_id,
    }
    for name, value in ctx.headers:
        if name in _FORWARDED or name == b"accept":
            headers[name.decode("latin-1")] = value.decode("latin-1")
    if deployment.api_key is not None:
        headers["authorization"] = f"Bearer {deployment.api_key}"
    headers.update(deployment.headers)
    return headers


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    known = msgspec.json.decode(options, type=dict[str, msgspec.Raw] | None) if options is not None else None
    return msgspec.Raw(msgspec.json.encode({**(known or {}), "include_usage": True}))


async def relay_call(ctx: Context, call: ModelRequest, deployment: Deployment, upstream: Upstream) -> Reply:
    """Call ``deployment`` and return its answer. Raises ``HXError`` for one that is not worth relaying."""
    request = build_request(ctx, call, deployment)
    began = time.monotonic()
    ctx.call_state = CallState.SENT
    try:
        exchange, head = await open_call(upstream, request)
        ctx.timings.upstream = time.monotonic() - began
        if not 200 <= head.status < 300:
            ctx.call_state = CallState.REFUSED
            return await _refused(exchange, head, deployment)
        ctx.call_state = CallState.ANSWERED
        _check_content_type(exchange, head)
        if (head.get("content-type") or "").startswith(EVENT_STREAM):
            relay = StreamRelay(drop_usage=wants_usage_event(call, deployment))
            return Reply(head.status, client_headers(head), _relay_stream(ctx, exchange, relay))
        return await _relay_whole(ctx, exchange, head)
    except UpstreamError as failure:
        note_failure(ctx, failure)
        raise answer_for_failure(failure) from failure


def note_failure(ctx: Context, failure: UpstreamError) -> None:
    """Remember of a call that failed whether its server can have seen it."""
    if failure.facts.bytes_written == 0:
        ctx.call_state = CallState.NOT_SENT


async def _refused(exchange: UpstreamCall, head: UpstreamHead, deployment: Deployment) -> Reply:
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in exchange.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ERROR_BODY_BYTES:
                parts.clear()
                break
    finally:
        exchange.abort()
    answer = answer_for_status(head, b"".join(parts), deployment)
    if isinstance(answer, HXError):
        raise answer
    return answer


def _check_content_type(exchange: UpstreamCall, head: UpstreamHead) -> None:
    content_type = (head.get("content-type") or "").partition(";")[0].strip().lower()
    if content_type and not content_type.endswith("+json") and content_type not in _READABLE_TYPES:
        exchange.abort()
        raise UpstreamFailed(
            "The model's server answered with something that is not JSON.",
            code="upstream_protocol_error",
            should_retry=False,
        )


async def _relay_whole(ctx: Context, exchange: UpstreamCall, head: UpstreamHead) -> Reply:
    parts: list[bytes] = []
    size = 0
    chunks = exchange.chunks()
    try:
        async for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > WHOLE_ANSWER_BYTES:
                return Reply(head.status, client_headers(head), _relay_large(ctx, exchange, chunks, b"".join(parts)))
    except (asyncio.CancelledError, UpstreamError):
        ctx.usage = usage_from_body(b"".join([*parts, exchange.facts.unread]))
        if ctx.usage is None:
            # All of it was made before its head was sent: as good as no word about what it cost.
            ctx.call_state = CallState.SENT
        raise
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    ctx.usage = usage_from_body(body)
    if ctx.usage is None:
        ctx.output_estimate = tokens_in(len(body))
    return Reply(head.status, client_headers(head), body)


def _relay_large(ctx: Context, exchange: UpstreamCall, rest: AsyncIterator[bytes], begun: bytes) -> StreamedBody:
    """Return the body of an answer that is too long to be read whole before it goes on."""
    size, whole = len(begun), False

    async def relay() -> AsyncGenerator[bytes]:
        nonlocal size, whole
        try:
            yield begun
            async for chunk in rest:
                size += len(chunk)
                yield chunk
            whole = True
            end()
            await ctx.answered(ctx.status)
        except UpstreamError as failure:
            raise BrokenReply(answer_for_failure(failure)) from failure
        finally:
            end()

    def end() -> None:
        exchange.abort()
        ctx.output_estimate = tokens_in(size)
        if not whole:
            # All of it was made before its head was sent, and how much that is nobody knows.
            ctx.call_state = CallState.SENT

    return StreamedBody(relay(), end)


def _relay_stream(ctx: Context, exchange: UpstreamCall, relay: StreamRelay) -> StreamedBody:
    """Return the body of a stream. A failure becomes one error event, and no end of the stream."""

    def note() -> None:
        ctx.usage = relay.usage
        ctx.output_estimate = relay.estimated_tokens()

    async def whole() -> None:
        note()
        await ctx.answered(ctx.status)

    def end() -> None:
        exchange.abort()
        # What came and was not passed on was made, and is billed, all the same.
        unread, exchange.facts.unread = exchange.facts.unread, b""
        if unread:
            relay.feed(unread)
        note()

    return StreamedBody(_events(ctx, exchange, relay, whole, end), end)


async def _events(
    ctx: Context,
    exchange: UpstreamCall,
    relay: StreamRelay,
    whole: Callable[[], Awaitable[None]],
    end: Callable[[], None],
) -> AsyncGenerator[bytes]:
    error: HXError | None = None
    keeping = ctx.cache.keeping if ctx.cache is not None else None
    try:
        async for chunk in exchange.chunks():
            out = relay.feed(chunk)
            if keeping is not None:
                keeping.feed(chunk)
            if relay.saw_done:
                if keeping is not None:
                    keeping.streamed()
                await whole()
            if out:
                yield out
        rest = relay.finish()
        await whole()
        if rest:
            yield rest
    except UpstreamError as failure:
        error = answer_for_failure(failure)
    except asyncio.CancelledError:
        if not ctx.stopping:
            raise
        error = Unavailable("The gateway is about to stop.", code="gateway_draining")
    finally:
        end()
    if error is not None:
        yield error_event(error) if relay.at_boundary else b"\n\n" + error_event(error)
        raise BrokenReply(error)
