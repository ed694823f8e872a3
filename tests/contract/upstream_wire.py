"""What any implementation of the upstream protocol must get right about connections and the framing of messages."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from hx_gateway.services.upstream.base import (
    Upstream,
    UpstreamDisconnected,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
)
from hx_gateway.services.upstream.retry import open_call
from tests.contract.upstream_conformance import request
from tests.contract.upstream_ending import work
from tests.fixtures.zoo import Zoo


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces."""
    for piece in given:
        yield piece


class WireConformance(ABC):
    """The suite. It needs the ``zoo`` fixture."""

    @abstractmethod
    def make(self) -> Upstream:
        """Return a new client."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[Upstream]:
        made = self.make()
        yield made
        await made.close()

    @pytest.mark.parametrize("mode", ["late_second_answer", "late_408"])
    async def test_an_answer_nobody_asked_for_reaches_nobody(self, upstream: Upstream, zoo: Zoo, mode: str) -> None:
        for _ in range(3):
            call, head = await open_call(upstream, request(zoo, mode))
            body = b"".join([chunk async for chunk in call.chunks()])
            assert (head.status, json.loads(body)) == (200, {"request": 1})
            await asyncio.sleep(0.2)
        assert zoo.connections == 3
        assert not zoo.open

    async def test_a_second_answer_in_the_same_write_reaches_nobody(self, upstream: Upstream, zoo: Zoo) -> None:
        for _ in range(3):
            assert json.loads(await work(upstream.call(request(zoo, "two_answers")))) == {"request": 1}
        assert zoo.connections == 3

    @pytest.mark.parametrize(
        ("method", "mode", "status"),
        [("POST", "no_content", 204), ("GET", "not_modified", 304), ("HEAD", "like_head", 200)],
    )
    async def test_an_answer_without_a_body_ends_with_its_head(
        self, upstream: Upstream, zoo: Zoo, method: str, mode: str, status: int
    ) -> None:
        for _ in range(3):
            call = upstream.call(replace(request(zoo, mode, body=b""), method=method))
            assert (await call.head()).status == status
            assert [chunk async for chunk in call.chunks()] == []
        assert zoo.connections == 1
        assert call.facts.connection_reused

    async def test_three_hundred_calls_one_after_the_other_use_one_connection(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        for _ in range(300):
            await work(upstream.call(request(zoo, "ok", body=b"{}")))
        assert (len(zoo.requests), zoo.connections) == (300, 1)

    async def test_a_fresh_call_has_a_connection_of_its_own(self, upstream: Upstream, zoo: Zoo) -> None:
        await work(upstream.call(request(zoo, "ok")))
        call = upstream.call(request(zoo, "ok"), fresh=True)
        await work(call)
        assert not call.facts.connection_reused
        assert zoo.connections == 2

    async def test_a_body_that_is_cut_by_a_reset_does_not_pass_for_whole(self, upstream: Upstream, zoo: Zoo) -> None:
        with pytest.raises(UpstreamDisconnected) as caught:
            await work(upstream.call(request(zoo, "rst_without_length")))
        assert caught.value.phase is UpstreamPhase.BODY

    @pytest.mark.parametrize("mode", ["close_mid_stream", "rst_mid_stream", "close_mid_body", "bad_chunk"])
    async def test_what_came_before_a_break_is_delivered(self, upstream: Upstream, zoo: Zoo, mode: str) -> None:
        call = upstream.call(request(zoo, mode))
        await call.head()
        await asyncio.sleep(0.15)
        chunks = call.chunks()
        assert (await anext(chunks)).startswith((b"data: ", b'{"id":'))
        with pytest.raises((UpstreamDisconnected, UpstreamProtocolError)):
            await anext(chunks)

    @pytest.mark.parametrize("mode", ["large_head", "unasked_101", "endless_103", "length_and_chunked"])
    async def test_a_head_nobody_should_send_is_not_an_answer(self, upstream: Upstream, zoo: Zoo, mode: str) -> None:
        call = upstream.call(request(zoo, mode))
        with pytest.raises(UpstreamProtocolError) as caught:
            await asyncio.wait_for(call.head(), 10)
        assert caught.value.phase is UpstreamPhase.HEAD
        await zoo.until(lambda: not zoo.open)

    @pytest.mark.parametrize("body", ["whole", "pieces"])
    async def test_an_answer_before_the_request_was_read_arrives_and_its_connection_ends(
        self, upstream: Upstream, zoo: Zoo, body: str
    ) -> None:
        large = b"x" * (16 * 1024 * 1024)
        call = upstream.call(replace(request(zoo, "early_answer"), body=large if body == "whole" else pieces(large)))
        assert (await call.head()).status == 413
        assert b"too large" in b"".join([chunk async for chunk in call.chunks()])
        await zoo.until(lambda: not zoo.open)

    async def test_a_large_body_arrives_whole(self, upstream: Upstream, zoo: Zoo) -> None:
        body = bytes(range(256)) * 20_000
        call = upstream.call(request(zoo, "ok", body=b'{"x":"' + body.hex().encode() + b'"}'))
        await work(call)
        assert bytes.fromhex(zoo.requests[0].json()["x"]) == body
        assert zoo.requests[0].header("content-length") == str(len(zoo.requests[0].body))
        assert call.facts.bytes_written > len(zoo.requests[0].body)

    async def test_a_body_in_pieces_arrives_whole_and_its_connection_is_kept(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        for _ in range(2):
            given = replace(request(zoo, "ok"), body=pieces(b"{", b"", b"}" + b" " * 100_000))
            await work(upstream.call(given))
        assert zoo.requests[1].body == b"{}" + b" " * 100_000
        assert zoo.requests[1].header("transfer-encoding") == "chunked"
        assert zoo.requests[1].header("content-length") is None
        assert zoo.connections == 1

    async def test_what_a_body_raises_comes_to_its_owner_and_the_server_never_sees_an_end(
        self, upstream: Upstream, zoo: Zoo
    ) -> None:
        async def failing() -> AsyncIterator[bytes]:
            yield b"{"
            raise ConnectionResetError("our own client went away")

        with pytest.raises(ConnectionResetError, match="our own client"):
            await upstream.call(replace(request(zoo, "ok"), body=failing())).head()
        await zoo.until(lambda: not zoo.open)
        assert zoo.requests == []

    async def test_a_body_in_pieces_is_not_sent_again(self, upstream: Upstream, zoo: Zoo) -> None:
        await work(upstream.call(request(zoo, "stale")))
        with pytest.raises(UpstreamDisconnected) as caught:
            await open_call(upstream, replace(request(zoo, "stale"), body=pieces(b"{}")))
        assert caught.value.facts.connection_reused
        assert len(zoo.requests) == 2

    async def test_the_path_is_sent_as_it_is_written(self, upstream: Upstream, zoo: Zoo) -> None:
        path = "/ok/v1/models/%6bey/a%2Fb/../c;d=1?x=%20&y=a+b&z=%C3%A9#part"
        await work(upstream.call(UpstreamRequest(method="GET", url=zoo.url + path, headers={})))
        assert zoo.requests[0].path == path.removesuffix("#part")

    @pytest.mark.parametrize(
        "headers",
        [
            {"authorization": "Bearer sk-secret\n"},
            {"authorization": "sk-secret\r\nx-injected: 1"},
            {"authorization": "sk-secret\0"},
            {"authorization": "sk-secret-\u20ac"},
            {"sk-secret \n": "x"},
            {"": "sk-secret"},
        ],
    )
    async def test_a_field_that_would_not_arrive_as_one_is_never_sent(
        self, upstream: Upstream, zoo: Zoo, headers: dict[str, str]
    ) -> None:
        call = upstream.call(replace(request(zoo, "ok"), headers=headers))
        with pytest.raises(UpstreamProtocolError) as caught:
            await call.head()
        assert "Bearer" not in str(caught.value)
        assert call.facts.bytes_written == 0
        assert zoo.connections == 0

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "/v1/models", "http://127.0.0.1:x/", "http://a b/"])
    async def test_a_url_that_leads_nowhere_is_refused_without_being_repeated(
        self, upstream: Upstream, url: str
    ) -> None:
        call = upstream.call(UpstreamRequest(method="GET", url=url, headers={}))
        with pytest.raises(UpstreamRefused) as caught:
            await call.head()
        assert url not in str(caught.value)

    async def test_a_credential_in_a_url_is_neither_sent_nor_told(self, upstream: Upstream, zoo: Zoo) -> None:
        url = f"http://user:sk-secret@127.0.0.1:{zoo.port}/ok/v1/models"
        await work(upstream.call(UpstreamRequest(method="GET", url=url, headers={})))
        assert "sk-secret" not in str(zoo.requests[0])
        assert zoo.requests[0].header("authorization") is None
