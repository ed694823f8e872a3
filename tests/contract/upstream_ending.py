"""How any implementation of the upstream protocol ends a call early: cancelled, aborted, out of time, or closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from hx_gateway.services.upstream.base import (
    Timeouts,
    Upstream,
    UpstreamCall,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamPhase,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
)
from hx_gateway.services.upstream.retry import open_call
from tests.contract.upstream_conformance import LONG, request
from tests.fixtures.zoo import Zoo

# A close is seen within a few milliseconds; the bound leaves room for a busy machine.
PROMPT_SECONDS = 1.0
HUGE = b"x" * (16 * 1024 * 1024)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Listen without accepting, with a full backlog: whoever connects now waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def work(call: UpstreamCall) -> bytes:
    """Use a call from its start to its end."""
    await call.head()
    return b"".join([chunk async for chunk in call.chunks()])


async def endless() -> AsyncIterator[bytes]:
    """Yield a body that does not end."""
    while True:
        yield b"x" * 65536


async def end_early(task: asyncio.Task[bytes], call: UpstreamCall, how: str) -> None:
    """Cancel or abort, and expect what follows from it."""
    if how == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    else:
        call.abort()
        with pytest.raises(UpstreamDisconnected):
            await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("how", ["cancel", "abort"])
class EndingInEachPhase(ABC):
    """A call that its owner ends: the server sees the connection close at once, in whatever phase the call was."""

    @abstractmethod
    def make(self, *, max_connections: int = 100) -> Upstream:
        """Return a new client."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[Upstream]:
        made = self.make()
        yield made
        await made.close()

    async def test_while_it_connects(self, upstream: Upstream, deaf_port: int, how: str) -> None:
        call = upstream.call(
            UpstreamRequest(method="GET", url=f"http://127.0.0.1:{deaf_port}/", headers={}, timeouts=LONG)
        )
        task = asyncio.create_task(work(call))
        await asyncio.sleep(0.05)
        assert not task.done()
        await end_early(task, call, how)
        assert (call.facts.bytes_written, call.facts.bytes_received) == (0, 0)

    async def test_while_it_waits_for_its_turn(self, zoo: Zoo, how: str) -> None:
        upstream = self.make(max_connections=1)
        first = upstream.call(request(zoo, "drip"))
        await first.head()
        call = upstream.call(request(zoo, "ok"))
        task = asyncio.create_task(work(call))
        await asyncio.sleep(0.02)
        await end_early(task, call, how)
        assert call.facts.bytes_written == 0
        first.abort()
        assert await work(upstream.call(request(zoo, "ok")))
        await upstream.close()

    @pytest.mark.parametrize("body", ["whole", "pieces"])
    async def test_while_it_sends(self, upstream: Upstream, zoo: Zoo, how: str, body: str) -> None:
        given = request(zoo, "never_reads")
        given = replace(given, body=HUGE if body == "whole" else endless())
        call = upstream.call(given)
        task = asyncio.create_task(work(call))
        await zoo.until(lambda: bool(zoo.requests))
        assert zoo.open_connections == 1
        await self._closed_promptly(zoo, task, call, how)
        assert 0 < call.facts.bytes_written < len(HUGE)
        assert call.facts.bytes_received == 0

    async def test_while_it_waits_for_the_head(self, upstream: Upstream, zoo: Zoo, how: str) -> None:
        call = upstream.call(request(zoo, "hang_before_head"))
        task = asyncio.create_task(work(call))
        await zoo.until(lambda: bool(zoo.requests))
        await self._closed_promptly(zoo, task, call, how)
        assert (call.facts.bytes_received, call.facts.head_seen) == (0, False)

    @pytest.mark.parametrize("mode", ["hang_mid_body", "hang_mid_stream", "drip"])
    async def test_while_it_reads_the_body(self, upstream: Upstream, zoo: Zoo, how: str, mode: str) -> None:
        call = upstream.call(request(zoo, mode))
        task = asyncio.create_task(work(call))
        await zoo.until(lambda: call.facts.head_seen)
        await self._closed_promptly(zoo, task, call, how)
        assert call.facts.bytes_received > 0

    async def test_while_much_of_the_body_waits_unread(self, upstream: Upstream, zoo: Zoo, how: str) -> None:
        call = upstream.call(request(zoo, "large_without_reader"))

        async def read_slowly() -> bytes:
            await call.head()
            async for _ in call.chunks():
                await asyncio.sleep(3600)
            return b""

        task = asyncio.create_task(read_slowly())
        await zoo.until(lambda: call.facts.bytes_received > 65536)
        if how == "cancel":
            await self._closed_promptly(zoo, task, call, how)
        else:
            call.abort()
            await zoo.until(lambda: not zoo.open, PROMPT_SECONDS)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _closed_promptly(self, zoo: Zoo, task: asyncio.Task[bytes], call: UpstreamCall, how: str) -> None:
        before = time.monotonic()
        await end_early(task, call, how)
        await zoo.until(lambda: not zoo.open, PROMPT_SECONDS)
        assert max(zoo.closed_by_client.values()) - before < PROMPT_SECONDS


class EndingConformance(ABC):
    """Time-outs, closing, and what an ended call must leave alone."""

    @abstractmethod
    def make(self, *, max_connections: int = 100) -> Upstream:
        """Return a new client."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[Upstream]:
        made = self.make()
        yield made
        await made.close()

    async def test_a_call_aborted_before_it_began_sends_nothing(self, upstream: Upstream, zoo: Zoo) -> None:
        call = upstream.call(request(zoo, "ok"))
        call.abort()
        with pytest.raises(UpstreamDisconnected):
            await call.head()
        assert zoo.connections == 0

    async def test_an_abort_while_connecting_does_not_leave_its_task_cancelled(
        self, upstream: Upstream, deaf_port: int
    ) -> None:
        call = upstream.call(
            UpstreamRequest(method="GET", url=f"http://127.0.0.1:{deaf_port}/", headers={}, timeouts=LONG)
        )

        async def owner() -> int:
            with pytest.raises(UpstreamDisconnected):
                await call.head()
            await asyncio.sleep(0.01)
            task = asyncio.current_task()
            return task.cancelling() if task is not None else -1

        task = asyncio.create_task(owner())
        await asyncio.sleep(0.05)
        call.abort()
        assert await task == 0

    async def test_a_task_cancelled_and_aborted_at_once_ends_as_cancelled(
        self, upstream: Upstream, deaf_port: int
    ) -> None:
        call = upstream.call(
            UpstreamRequest(method="GET", url=f"http://127.0.0.1:{deaf_port}/", headers={}, timeouts=LONG)
        )
        task = asyncio.create_task(call.head())
        await asyncio.sleep(0.05)
        call.abort()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @pytest.mark.parametrize("read", [True, False])
    async def test_aborting_a_call_whose_answer_is_all_there_leaves_other_calls_alone(
        self, upstream: Upstream, zoo: Zoo, read: bool
    ) -> None:
        first = upstream.call(request(zoo, "ok"))
        await first.head()
        if read:
            async for _ in first.chunks():
                pass
        await asyncio.sleep(0.02)
        second = upstream.call(request(zoo, "drip"))
        task = asyncio.create_task(work(second))
        await zoo.until(lambda: second.facts.head_seen)
        first.abort()
        seen = second.facts.bytes_received
        await zoo.until(lambda: second.facts.bytes_received > seen + 20)
        task.cancel()

    async def test_aborting_a_call_without_a_body_leaves_its_connection_in_use(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        first = upstream.call(request(zoo, "no_content"))
        await first.head()
        second = upstream.call(request(zoo, "drip"))
        task = asyncio.create_task(work(second))
        await zoo.until(lambda: second.facts.head_seen)
        assert second.facts.connection_reused
        first.abort()
        seen = second.facts.bytes_received
        await zoo.until(lambda: second.facts.bytes_received > seen + 20)
        task.cancel()

    async def test_leaving_the_loop_over_a_body_closes_the_connection(self, upstream: Upstream, zoo: Zoo) -> None:
        call = upstream.call(request(zoo, "drip"))
        await call.head()
        async for _ in call.chunks():
            break
        await zoo.until(lambda: not zoo.open, PROMPT_SECONDS)

    async def test_a_server_that_does_not_accept_is_a_time_out(self, upstream: Upstream, deaf_port: int) -> None:
        timeouts = Timeouts(connect=0.2)
        call = upstream.call(
            UpstreamRequest(method="GET", url=f"http://127.0.0.1:{deaf_port}/", headers={}, timeouts=timeouts)
        )
        await self._times_out(call, UpstreamPhase.CONNECT)
        assert call.facts.bytes_written == 0

    async def test_waiting_too_long_for_a_turn_is_a_time_out(self, zoo: Zoo) -> None:
        upstream = self.make(max_connections=1)
        first = upstream.call(request(zoo, "drip"))
        await first.head()
        call = upstream.call(request(zoo, "ok", timeouts=Timeouts(connect=0.2)))
        await self._times_out(call, UpstreamPhase.CONNECT)
        assert call.facts.bytes_written == 0
        await upstream.close()

    async def test_a_turn_given_up_goes_to_the_next_in_line(self, zoo: Zoo) -> None:
        upstream = self.make(max_connections=1)
        first = upstream.call(request(zoo, "ok"))
        await first.head()
        second, third = (asyncio.create_task(work(upstream.call(request(zoo, "ok")))) for _ in range(2))
        await asyncio.sleep(0.02)
        async for _ in first.chunks():
            pass
        second.cancel()
        assert await asyncio.wait_for(third, 3)
        await upstream.close()

    @pytest.mark.parametrize("body", ["whole", "pieces"])
    async def test_a_server_that_stops_taking_the_request_is_a_time_out(
        self, upstream: Upstream, zoo: Zoo, body: str
    ) -> None:
        given = request(zoo, "never_reads", timeouts=Timeouts(head=0.3))
        call = upstream.call(replace(given, body=HUGE if body == "whole" else endless()))
        await self._times_out(call, UpstreamPhase.SEND)
        await zoo.until(lambda: not zoo.open)

    async def test_a_sender_who_takes_his_time_is_not_the_servers_fault(self, upstream: Upstream, zoo: Zoo) -> None:
        async def hesitant() -> AsyncIterator[bytes]:
            for _ in range(3):
                await asyncio.sleep(0.25)
                yield b"x"

        given = request(zoo, "echo", timeouts=Timeouts(head=0.2))
        body = await work(upstream.call(replace(given, body=hesitant())))
        assert json.loads(body)["body"] == "xxx"

    async def test_a_reader_who_takes_his_time_is_not_the_servers_fault(self, upstream: Upstream, zoo: Zoo) -> None:
        call = upstream.call(request(zoo, "split_utf8", timeouts=Timeouts(idle=0.2)))
        await call.head()
        await asyncio.sleep(0.5)
        parts = []
        async for chunk in call.chunks():
            parts.append(chunk)
            await asyncio.sleep(0.5)
        assert b"".join(parts).endswith(b"[DONE]\n\n")

    async def test_the_whole_time_runs_while_bytes_arrive(self, upstream: Upstream, zoo: Zoo) -> None:
        call = upstream.call(request(zoo, "drip", timeouts=Timeouts(total=0.4)))
        await self._times_out(call, UpstreamPhase.BODY)
        await zoo.until(lambda: not zoo.open)

    async def test_the_whole_time_runs_while_nobody_reads(self, upstream: Upstream, zoo: Zoo) -> None:
        call = upstream.call(request(zoo, "drip", timeouts=Timeouts(total=0.3)))
        await call.head()
        await zoo.until(lambda: not zoo.open)
        with pytest.raises(UpstreamTimeout):
            async for _ in call.chunks():
                pass

    async def test_a_time_out_on_a_kept_connection_is_not_tried_again(self, upstream: Upstream, zoo: Zoo) -> None:
        assert await work(upstream.call(request(zoo, "ok")))
        with pytest.raises(UpstreamTimeout) as caught:
            await open_call(upstream, request(zoo, "hang_before_head", timeouts=Timeouts(head=0.2)))
        assert caught.value.facts.connection_reused
        assert len(zoo.requests) == 2

    async def test_closing_ends_every_call_and_sends_none_again(self, zoo: Zoo, deaf_port: int) -> None:
        upstream = self.make()
        assert await work(upstream.call(request(zoo, "ok")))
        waiting = asyncio.create_task(open_call(upstream, request(zoo, "hang_before_head")))
        reading = asyncio.create_task(work(upstream.call(request(zoo, "drip"))))
        deaf = UpstreamRequest(method="GET", url=f"http://127.0.0.1:{deaf_port}/", headers={}, timeouts=LONG)
        connecting = asyncio.create_task(work(upstream.call(deaf)))
        await zoo.until(lambda: len(zoo.requests) == 3)
        await upstream.close()
        results = await asyncio.gather(waiting, reading, connecting, return_exceptions=True)
        assert all(isinstance(result, UpstreamError) for result in results)
        assert len(zoo.requests) == 3
        await zoo.until(lambda: not zoo.open)

    async def test_a_closed_client_refuses_calls_and_may_be_closed_again(self, zoo: Zoo) -> None:
        upstream = self.make()
        assert await work(upstream.call(request(zoo, "ok")))
        await upstream.close()
        await upstream.close()
        with pytest.raises(UpstreamRefused):
            await upstream.call(request(zoo, "ok")).head()
        assert len(zoo.requests) == 1

    async def test_many_calls_cancelled_in_any_phase_leave_nothing(self, upstream: Upstream, zoo: Zoo) -> None:
        before = len(asyncio.all_tasks())
        modes = ("hang_before_head", "drip", "hang_mid_body", "ok")
        tasks = [asyncio.create_task(work(upstream.call(request(zoo, modes[n % 4])))) for n in range(200)]
        for number, task in enumerate(tasks):
            if number % 20 == 0:
                await asyncio.sleep(0.002)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await work(upstream.call(request(zoo, "ok")))
        await upstream.close()
        await zoo.until(lambda: not zoo.open)
        await zoo.until(lambda: len(asyncio.all_tasks()) <= before + 1)

    async def _times_out(self, call: UpstreamCall, phase: UpstreamPhase) -> None:
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout) as caught:
            await asyncio.wait_for(work(call), 10)
        assert caught.value.phase is phase
        assert caught.value.facts is call.facts
        assert time.monotonic() - began < 5
