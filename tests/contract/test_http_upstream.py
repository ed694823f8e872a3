"""The aiohttp client keeps the upstream contract, and the parts of aiohttp it leans on are as it expects."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import ClientRequest, StreamReader, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector

from hx_gateway.services.upstream.base import UpstreamRequest, UpstreamTlsError
from hx_gateway.services.upstream.http_client import HttpUpstream
from tests.contract.upstream_conformance import UpstreamConformance
from tests.contract.upstream_ending import EndingConformance, EndingInEachPhase, deaf_port
from tests.contract.upstream_wire import WireConformance
from tests.fixtures.zoo import Zoo

__all__ = ["deaf_port"]


class TestHttpUpstream(UpstreamConformance):
    def make(self) -> HttpUpstream:
        return HttpUpstream()


class TestHttpUpstreamEnding(EndingConformance):
    def make(self, *, max_connections: int = 100) -> HttpUpstream:
        return HttpUpstream(max_connections=max_connections)


class TestHttpUpstreamEndingInEachPhase(EndingInEachPhase):
    def make(self, *, max_connections: int = 100) -> HttpUpstream:
        return HttpUpstream(max_connections=max_connections)


class TestHttpUpstreamWire(WireConformance):
    def make(self) -> HttpUpstream:
        return HttpUpstream()


def test_the_private_parts_of_aiohttp_are_where_they_were() -> None:
    """When this fails, read ``http_connection.py`` beside the new aiohttp before anything else."""
    assert _parameters(BaseConnector.connect) == ["self", "req", "traces", "timeout"]
    assert _parameters(BaseConnector._release_waiter) == ["self"]
    assert "_factory" in inspect.getsource(BaseConnector.__init__)
    assert "self._factory," in inspect.getsource(TCPConnector._create_direct_connection)
    assert "req.connection_key" in inspect.getsource(BaseConnector.connect)
    assert isinstance(ClientRequest.connection_key, property)
    assert _parameters(ResponseHandler.data_received) == ["self", "data"]
    assert _parameters(ResponseHandler.connection_lost) == ["self", "exc"]
    assert _parameters(ResponseHandler.resume_reading) == ["self", "resume_parser"]
    assert _parameters(ResponseHandler.set_exception)[:2] == ["self", "exc"]
    assert _parameters(StreamReader._read_nowait) == ["self", "n"]
    given = set(_parameters(ResponseHandler.set_response_params))
    assert given >= {"skip_payload", "read_until_eof", "auto_decompress", "read_bufsize", "max_headers"}


async def test_the_private_state_of_aiohttps_connections_is_what_it_was() -> None:
    handler = ResponseHandler(asyncio.get_running_loop())
    assert (handler.transport, handler._payload, handler._exception) == (None, None, None)
    assert (handler._reading_paused, handler.should_close) == (False, False)
    assert inspect.iscoroutinefunction(handler._drain_helper)
    assert inspect.iscoroutinefunction(handler.read)
    reader = StreamReader(handler, 2**16, loop=asyncio.get_running_loop())
    reader.feed_data(b"x")
    assert list(reader._buffer) == [b"x"]
    assert (reader.exception(), reader.at_eof()) == (None, False)


def _parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


async def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch, zoo: Zoo) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    upstream = HttpUpstream()
    call = upstream.call(UpstreamRequest(method="GET", url=f"{zoo.url}/ok/v1/models", headers={}))
    assert (await call.head()).status == 200
    await upstream.close()


@pytest.mark.parametrize("case", ["other_host", "expired", "unknown_authority", "not_tls"])
async def test_a_server_that_does_not_prove_who_it_is_is_a_tls_error(case: str) -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    if case != "unknown_authority":
        authority.configure_trust(trusting)
    expired = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    host = "elsewhere.example.org" if case == "other_host" else "localhost"
    certificate = authority.issue_cert(host, not_after=expired if case == "expired" else None)
    upstream = HttpUpstream(ssl_context=trusting)
    async with _tls_server(None if case == "not_tls" else certificate) as port:
        call = upstream.call(UpstreamRequest(method="GET", url=f"https://localhost:{port}/", headers={}))
        with pytest.raises(UpstreamTlsError):
            await call.head()
    assert (call.facts.bytes_written, call.facts.bytes_received) == (0, 0)
    await upstream.close()


async def test_a_valid_certificate_is_accepted_and_its_connection_kept() -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    upstream = HttpUpstream(ssl_context=trusting)
    async with _tls_server(authority.issue_cert("localhost")) as port:
        for reused in (False, True):
            call = upstream.call(UpstreamRequest(method="GET", url=f"https://localhost:{port}/", headers={}))
            assert (await call.head()).status == 200
            assert b"".join([chunk async for chunk in call.chunks()]) == b"ok"
            assert call.facts.connection_reused is reused
        await upstream.close()


@asynccontextmanager
async def _tls_server(certificate: trustme.LeafCert | None) -> AsyncIterator[int]:
    serving = None
    if certificate is not None:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(serving)

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while serving is None or await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                if serving is None:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0, ssl=serving)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_came_before_a_call_is_cut_off_is_known_though_nobody_read_it(chunked: bool) -> None:
    sent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: 1000000"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(50):
            writer.write(b"a\r\nten bytes!\r\n" if chunked else b"ten bytes!")
            await writer.drain()
        sent.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = HttpUpstream()
    try:
        port = server.sockets[0].getsockname()[1]
        call = upstream.call(UpstreamRequest(method="GET", url=f"http://127.0.0.1:{port}/", headers={}))
        await call.head()
        await sent.wait()
        call.abort()
        assert call.facts.unread == b"ten bytes!" * 50
    finally:
        await upstream.close()
        server.close()
        await server.wait_closed()
