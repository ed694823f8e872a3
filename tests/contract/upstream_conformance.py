"""What any implementation of the upstream protocol must do; a subclass says how one is made."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from hx_gateway.services.upstream.base import (
    Timeouts,
    Upstream,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
)
from hx_gateway.services.upstream.retry import open_call
from tests.fixtures.gateway import free_port
from tests.fixtures.zoo import ANSWER, MODES, Zoo

SHORT = Timeouts(connect=1.0, head=0.4, idle=0.4, total=5.0)
LONG = Timeouts(connect=5.0, head=20.0, idle=20.0, total=60.0)
STREAM = json.dumps({"model": "x", "stream": True, "messages": []}).encode()

# Modes whose answer is complete: status and whether the body is the usual one.
PROPER = {
    "ok": 200, "status_400": 400, "status_401": 401, "status_404": 404, "status_429": 429, "status_500": 500,
    "status_502_html": 502, "status_503": 503, "redirect_301": 301, "redirect_302": 302, "redirect_307": 307,
    "error_in_200": 200, "wrong_content_type": 200, "empty_body": 200, "cookie_and_server": 200, "early_103": 200,
    "continue_100": 200, "duplicate_headers": 200, "no_done": 200, "done_then_more": 200, "split_utf8": 200,
    "sse_crlf": 200, "sse_cr": 200, "huge_line": 200, "many_events": 200, "gzip_answer": 200, "split_head": 200,
    "http10_close": 200, "half_close": 200, "large_answer": 200,
}  # fmt: skip
# Modes that fail: in which phase and how.
BROKEN: dict[str, tuple[UpstreamPhase, type[UpstreamError]]] = {
    "hang_before_head": (UpstreamPhase.HEAD, UpstreamTimeout),
    "slow_head": (UpstreamPhase.HEAD, UpstreamTimeout),
    "hang_mid_stream": (UpstreamPhase.BODY, UpstreamTimeout),
    "hang_mid_body": (UpstreamPhase.BODY, UpstreamTimeout),
    "rst_before_head": (UpstreamPhase.HEAD, UpstreamDisconnected),
    "rst_mid_stream": (UpstreamPhase.BODY, UpstreamDisconnected),
    "close_before_head": (UpstreamPhase.HEAD, UpstreamDisconnected),
    "close_mid_stream": (UpstreamPhase.BODY, UpstreamDisconnected),
    "close_mid_body": (UpstreamPhase.BODY, UpstreamDisconnected),
    "partial_head": (UpstreamPhase.HEAD, UpstreamDisconnected),
    "chunk_overflow": (UpstreamPhase.BODY, UpstreamProtocolError),
    "bad_chunk": (UpstreamPhase.BODY, UpstreamProtocolError),
    "not_http": (UpstreamPhase.HEAD, UpstreamProtocolError),
    "huge_head": (UpstreamPhase.HEAD, UpstreamProtocolError),
    "many_fields": (UpstreamPhase.HEAD, UpstreamProtocolError),
    "two_lengths": (UpstreamPhase.HEAD, UpstreamProtocolError),
}


def request(zoo: Zoo, mode: str, *, body: bytes = STREAM, timeouts: Timeouts = LONG) -> UpstreamRequest:
    return UpstreamRequest(
        method="POST",
        url=f"{zoo.url}/{mode}/v1/chat/completions",
        headers={"content-type": "application/json", "x-case": "kept"},
        body=body,
        timeouts=timeouts,
    )


class UpstreamConformance(ABC):
    """The suite. It needs the ``zoo`` fixture."""

    @abstractmethod
    def make(self) -> Upstream:
        """Return a new client."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[Upstream]:
        made = self.make()
        yield made
        await made.close()

    @pytest.mark.parametrize("mode", sorted(PROPER))
    async def test_a_proper_answer_comes_whole_and_as_it_was_sent(
        self, upstream: Upstream, zoo: Zoo, mode: str
    ) -> None:
        call, head = await open_call(upstream, request(zoo, mode, body=b"{}"))
        body = b"".join([chunk async for chunk in call.chunks()])
        assert head.status == PROPER[mode]
        assert (call.facts.head_seen, call.facts.connection_reused) == (True, False)
        assert call.facts.bytes_written > 2
        assert call.facts.bytes_received >= len(body)
        if mode in ("ok", "early_103", "continue_100", "split_head", "http10_close", "half_close"):
            assert json.loads(body) == ANSWER
        if mode == "gzip_answer":
            assert body.startswith(b"\x1f\x8b")
        if mode.startswith("redirect"):
            assert len(zoo.requests) == 1

    @pytest.mark.parametrize("mode", sorted(BROKEN))
    async def test_a_broken_answer_is_told_by_phase_and_kind(self, upstream: Upstream, zoo: Zoo, mode: str) -> None:
        phase, kind = BROKEN[mode]
        call = upstream.call(request(zoo, mode, timeouts=SHORT))

        async def read() -> None:
            await call.head()
            async for _ in call.chunks():
                pass

        with pytest.raises(UpstreamError) as caught:
            await read()
        assert type(caught.value) is kind
        assert caught.value.phase is phase
        assert caught.value.facts is call.facts
        assert call.facts.bytes_written > 0
        assert call.facts.head_seen is (phase is UpstreamPhase.BODY)
        await zoo.until(lambda: not zoo.open)

    async def test_every_mode_of_the_zoo_is_expected(self) -> None:
        unlike_others = {"drip", "echo", "stale", "stale_after_partial", "slow_stream", "counted"}
        through_gateway_only = {name for name in MODES if name.startswith(("sse_", "status_429_"))} | {
            "bom", "no_space", "comments", "invalid_json", "null_usage", "usage_twice", "negative_usage", "error_event",
        }  # fmt: skip
        assert set(MODES) == set(PROPER) | set(BROKEN) | unlike_others | through_gateway_only

    async def test_what_is_given_is_what_is_sent(self, upstream: Upstream, zoo: Zoo) -> None:
        call, _ = await open_call(upstream, request(zoo, "echo", body=b"abc"))
        sent = json.loads(b"".join([chunk async for chunk in call.chunks()]))
        names = [name for name, _ in sent["headers"]]
        assert sorted(names) == ["content-length", "content-type", "host", "x-case"]
        assert sent["body"] == "abc"

    async def test_nobody_listening_is_a_refusal_and_nothing_was_written(self, upstream: Upstream) -> None:
        call = upstream.call(UpstreamRequest(method="GET", url=f"http://127.0.0.1:{free_port()}/", headers={}))
        with pytest.raises(UpstreamRefused) as caught:
            await call.head()
        assert caught.value.facts.bytes_written == 0

    async def test_a_kept_connection_is_used_again(self, upstream: Upstream, zoo: Zoo) -> None:
        for _ in range(20):
            call, _ = await open_call(upstream, request(zoo, "ok"))
            async for _ in call.chunks():
                pass
        assert zoo.connections == 1
        assert call.facts.connection_reused

    async def test_a_stale_connection_is_tried_once_more_on_a_new_one(self, upstream: Upstream, zoo: Zoo) -> None:
        for _ in range(2):
            call, head = await open_call(upstream, request(zoo, "stale"))
            assert head.status == 200
            async for _ in call.chunks():
                pass
        assert len(zoo.requests) == 3
        assert zoo.connections == 2

    async def test_a_connection_that_broke_after_the_first_byte_is_not_tried_again(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        call, _ = await open_call(upstream, request(zoo, "stale_after_partial"))
        async for _ in call.chunks():
            pass
        with pytest.raises(UpstreamDisconnected) as caught:
            await open_call(upstream, request(zoo, "stale_after_partial"))
        assert caught.value.facts.connection_reused
        assert caught.value.facts.bytes_received > 0
        assert len(zoo.requests) == 2

    async def test_a_new_connection_that_breaks_is_not_tried_again(self, upstream: Upstream, zoo: Zoo) -> None:
        with pytest.raises(UpstreamDisconnected):
            await open_call(upstream, request(zoo, "close_before_head"))
        assert len(zoo.requests) == 1

    @pytest.mark.parametrize("mode", ["hang_before_head", "hang_mid_stream", "hang_mid_body", "drip"])
    async def test_a_cancelled_call_closes_its_connection_at_once(
        self, upstream: Upstream, zoo: Zoo, mode: str
    ) -> None:
        received = asyncio.Event()

        async def work() -> None:
            call, _ = await open_call(upstream, request(zoo, mode))
            async for _ in call.chunks():
                received.set()

        task = asyncio.create_task(work())
        await zoo.until(lambda: bool(zoo.requests))
        if mode != "hang_before_head":
            await asyncio.wait_for(received.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await zoo.until(lambda: not zoo.open)

    @pytest.mark.parametrize("mode", ["hang_before_head", "hang_mid_stream"])
    async def test_an_aborted_call_ends_and_closes_its_connection(
        self, upstream: Upstream, zoo: Zoo, mode: str
    ) -> None:
        call = upstream.call(request(zoo, mode))

        async def work() -> None:
            await call.head()
            async for _ in call.chunks():
                pass

        task = asyncio.create_task(work())
        await zoo.until(lambda: bool(zoo.requests) and (mode == "hang_before_head" or call.facts.head_seen))
        call.abort()
        with pytest.raises(UpstreamDisconnected):
            await asyncio.wait_for(task, 5)
        await zoo.until(lambda: not zoo.open)

    async def test_a_call_cancelled_while_it_sends_a_large_body_stops_sending(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield b"x" * 65536
                await asyncio.sleep(0.005)

        endless = UpstreamRequest(method="POST", url=f"{zoo.url}/ok/v1/files", headers={}, body=body(), timeouts=LONG)
        task = asyncio.create_task(open_call(upstream, endless))
        await zoo.until(lambda: sent > 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await zoo.until(lambda: not zoo.open)
        assert zoo.requests == []

    async def test_leaving_a_body_unread_closes_the_connection(self, upstream: Upstream, zoo: Zoo) -> None:
        call, _ = await open_call(upstream, request(zoo, "drip"))
        chunks = call.chunks()
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        await zoo.until(lambda: not zoo.open)

    async def test_a_slow_reader_holds_the_server_back(self, upstream: Upstream, zoo: Zoo) -> None:
        call, _ = await open_call(upstream, request(zoo, "large_answer"))
        await asyncio.sleep(0.3)
        # The design is 128 KiB and one read of the loop's, 256 KiB.
        assert call.facts.bytes_received < 2 * 1024 * 1024
        size = sum([len(chunk) async for chunk in call.chunks()])
        assert size > 6 * 1024 * 1024

    async def test_many_cancelled_calls_leave_no_task_and_no_connection(self, upstream: Upstream, zoo: Zoo) -> None:
        before = len(asyncio.all_tasks())
        tasks = [asyncio.create_task(open_call(upstream, request(zoo, "hang_before_head"))) for _ in range(100)]
        await zoo.until(lambda: len(zoo.requests) == 100)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await zoo.until(lambda: not zoo.open)
        await zoo.until(lambda: len(asyncio.all_tasks()) <= before + 1)
