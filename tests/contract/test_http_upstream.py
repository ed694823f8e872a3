"""The aiohttp client keeps the upstream contract, and the parts of aiohttp it leans on are as it expects."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ssl

import aiohttp
import pytest
import trustme
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector

from hx_gateway.services.upstream.base import UpstreamRequest, UpstreamTlsError
from hx_gateway.services.upstream.http_client import HttpUpstream
from tests.contract.upstream_conformance import UpstreamConformance
from tests.contract.upstream_ending import EndingConformance, EndingInEachPhase, deaf_port
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


def test_the_private_parts_of_aiohttp_are_where_they_were() -> None:
    """When this fails, read ``http_client.py`` beside the new aiohttp before anything else."""
    assert "_factory" in inspect.getsource(BaseConnector.__init__)
    assert list(inspect.signature(BaseConnector.connect).parameters) == ["self", "req", "traces", "timeout"]
    assert "_retry_connection" in inspect.getsource(aiohttp.ClientSession)
    assert hasattr(aiohttp.ClientSession, "_request")
    assert list(inspect.signature(ResponseHandler.data_received).parameters) == ["self", "data"]


async def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch, zoo: Zoo) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    upstream = HttpUpstream()
    call = upstream.call(UpstreamRequest(method="GET", url=f"{zoo.url}/ok/v1/models", headers={}))
    assert (await call.head()).status == 200
    await upstream.close()


@pytest.mark.parametrize("case", ["other_host", "expired", "unknown_authority"])
async def test_a_certificate_that_is_not_valid_is_a_tls_error(case: str) -> None:
    authority = trustme.CA()
    expired = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    host = "elsewhere.example.org" if case == "other_host" else "localhost"
    certificate = authority.issue_cert(host, not_after=expired if case == "expired" else None)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(serving)
    trusting = ssl.create_default_context()
    if case != "unknown_authority":
        authority.configure_trust(trusting)
    upstream = HttpUpstream(ssl_context=trusting)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UpstreamTlsError) as caught:
        await upstream.call(UpstreamRequest(method="GET", url=f"https://localhost:{port}/", headers={})).head()
    assert caught.value.facts.bytes_written == 0
    await upstream.close()
    server.close()
