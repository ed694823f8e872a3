"""What is known of an answer that somebody does not read to its end, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.model_call import WHOLE_ANSWER_BYTES, relay_call
from hx_gateway.services.upstream.base import Deployment, UpstreamKind
from hx_gateway.services.upstream.http_client import HttpUpstream
from hx_gateway.translate.openai import decode_chat
from tests.unit.pipeline.doubles import context

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": true}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "token "}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999999\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999999\r\n\r\n"


@asynccontextmanager
async def server_of(answer: bytes) -> AsyncIterator[tuple[Deployment, asyncio.Event]]:
    """Run a model's server that begins with ``answer`` and then waits; the event says that its caller hung up."""
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        hung_up.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Deployment(name="d", kind=UpstreamKind.OPENAI, model="m", base_url=f"http://127.0.0.1:{port}/v1"), hung_up


async def called(deployment: Deployment, ctx: Context, upstream: HttpUpstream) -> Reply:
    reply = await relay_call(ctx, decode_chat(CHAT), deployment, upstream)
    # All of what was sent is here, read or not.
    await asyncio.sleep(0.05)
    return reply


async def close(reply: Reply) -> None:
    await reply.body.aclose()  # type: ignore[union-attr]


async def test_a_stream_that_nobody_began_to_read_is_billed_for_what_came_and_cut_off() -> None:
    ctx, upstream = context(), HttpUpstream()
    async with server_of(STREAM + 15 * EVENT) as (deployment, hung_up):
        await close(await called(deployment, ctx, upstream))
        assert ctx.output_estimate == 15
        await asyncio.wait_for(hung_up.wait(), 5)
    await upstream.close()


@pytest.mark.parametrize("read", [1, 2])
async def test_what_came_of_a_stream_is_counted_once(read: int) -> None:
    ctx, upstream = context(), HttpUpstream()
    async with server_of(STREAM + 15 * EVENT) as (deployment, _):
        reply = await called(deployment, ctx, upstream)
        assert not isinstance(reply.body, bytes)
        chunks = aiter(reply.body)
        await anext(chunks)
        for _ in range(read):
            await close(reply)
        assert ctx.output_estimate == 15
    await upstream.close()


async def test_a_large_answer_that_nobody_began_to_read_is_billed_and_cut_off() -> None:
    ctx, upstream = context(), HttpUpstream()
    size = WHOLE_ANSWER_BYTES + 1
    async with server_of(LARGE + size * b" ") as (deployment, hung_up):
        await close(await called(deployment, ctx, upstream))
        assert ctx.output_estimate >= size // 4
        await asyncio.wait_for(hung_up.wait(), 5)
    await upstream.close()
