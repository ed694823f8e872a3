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


class EndSeen:
    """Stands for what writes down the end of a call: keeps what was known then, and how much had been passed on."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.passed_on: list[bytes] = []
        self.seen: list[tuple[int, int | None, bytes]] = []

    async def whole(self, status: int) -> None:
        await asyncio.sleep(0)
        usage = self.ctx.usage
        self.seen.append((status, None if usage is None else usage.completion_tokens, b"".join(self.passed_on)))
        self.ctx.settling = None

    async def read(self, reply: Reply) -> None:
        self.ctx.status = reply.status
        async for chunk in reply.body:  # type: ignore[union-attr]
            self.passed_on.append(chunk)


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"
WITH_USAGE = CHAT.replace(b'"stream": true', b'"stream": true, "stream_options": {"include_usage": true}')


async def ended(answer: bytes, length: int, asked: bytes = WITH_USAGE) -> EndSeen:
    """Return how a call ended whose server says ``answer`` with ``length`` bytes of body."""
    ctx, upstream = context(), HttpUpstream()
    end = EndSeen(ctx)
    ctx.settling = end  # type: ignore[assignment]
    answer = answer.replace(b"9999999", b"%d" % length)
    async with server_of(answer) as (deployment, _):
        await end.read(await relay_call(ctx, decode_chat(asked), deployment, upstream))
    await upstream.close()
    return end


async def test_the_end_of_a_stream_is_written_down_before_its_client_hears_of_it() -> None:
    body = EVENT + EVENT + USAGE + DONE
    end = await ended(STREAM + body, len(body))
    ((status, tokens, passed_on),) = end.seen
    assert (status, tokens, DONE in passed_on) == (200, 2, False)
    assert b"".join(end.passed_on) == body


async def test_a_stream_that_ends_without_a_word_is_written_down_before_its_end_is_passed_on() -> None:
    end = await ended(STREAM + 15 * EVENT, 15 * len(EVENT))
    assert [(status, tokens) for status, tokens, _ in end.seen] == [(200, None)]
    assert end.ctx.output_estimate == 15


async def test_a_large_answer_is_written_down_when_all_of_it_came() -> None:
    body = b'{"choices": [' + b" " * WHOLE_ANSWER_BYTES + b"]}"
    end = await ended(LARGE + body, len(body))
    assert [status for status, _, _ in end.seen] == [200]
    assert end.seen[0][2] == body == b"".join(end.passed_on)
    assert end.ctx.output_estimate > 0


async def test_a_stream_that_breaks_off_is_not_written_down_as_whole() -> None:
    ctx, upstream = context(), HttpUpstream()
    end = EndSeen(ctx)
    ctx.settling = end  # type: ignore[assignment]
    async with server_of(STREAM + EVENT) as (deployment, _):
        reply = await relay_call(ctx, decode_chat(CHAT), deployment, upstream)
        reading = asyncio.create_task(end.read(reply))
        await asyncio.sleep(0.05)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await close(reply)
    assert (end.seen, ctx.output_estimate) == ([], 1)
    await upstream.close()
