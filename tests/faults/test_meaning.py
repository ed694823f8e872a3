"""Stores of the cache by meaning that die or hang: requests go on without it, in time, and so does everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from hx_gateway.cache.meaning.cache import LookUp, MeaningCache, MeaningOptions
from hx_gateway.cache.meaning.patience import FAILURES
from hx_gateway.cache.meaning.qdrant_store import QdrantVectorStore
from hx_gateway.cache.meaning.repository import PgVectorStore
from hx_gateway.cache.meaning.stores import VectorStore
from hx_gateway.cache.meaning.upstream_embedder import UpstreamEmbedder
from hx_gateway.cache.store import CacheAway
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.upstream.base import Deployment, Upstream, UpstreamKind
from hx_gateway.services.upstream.demo import DEMO_DEPLOYMENTS, DemoUpstream
from hx_gateway.services.upstream.http_client import HttpUpstream
from tests.fixtures.qdrant_server import running_qdrant
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import migrated_database
from tests.unit.cache.meaning.stand_ins import (
    Counted,
    MemoryStore,
    WordEmbedder,
    answer_to,
    found_by,
    question,
    running_cache,
)

BUDGET = 0.05
# What hangs, hangs for a minute: whoever waited for it is far beyond this.
FAR_SECONDS = 2.0
LATE = {LookUp.STORE_LATE, LookUp.STORE_FAILED, LookUp.RESTING, LookUp.BUSY, LookUp.NOT_READY}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL with pgvector."""
    with running_postgres("wheel18") as server:
        yield server


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """Beat on the loop, and list how long the gaps between beats were."""
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - began)

    task = asyncio.create_task(beat())
    try:
        yield gaps
    finally:
        task.cancel()


async def check(store: VectorStore, fail: Callable[[], None], heal: Callable[[], None]) -> None:
    """Ask while the store works, while it does not, and when it does again."""
    async with running_cache(WordEmbedder(), store, MeaningOptions(budget=BUDGET)) as (cache, counted):
        asked = question("How do I reset my password?")
        await until_found(cache, counted)
        fail()
        counted.look_ups.clear()
        async with heartbeat() as gaps:
            for _ in range(60):
                began = time.monotonic()
                assert await found_by(cache, asked) is None
                assert time.monotonic() - began < FAR_SECONDS
                await asyncio.sleep(0)
            many = [found_by(cache, question(f"storm {number}")) for number in range(200)]
            async with asyncio.timeout(FAR_SECONDS * 4):
                assert await asyncio.gather(*many) == [None] * 200
            await asyncio.sleep(0.05)
        assert set(counted.look_ups) <= LATE
        assert max(gaps) < FAR_SECONDS
        heal()
        await until_found(cache, counted)


async def until_found(cache: MeaningCache, counted: Counted) -> None:
    """Keep an answer again and again until it is found: a store that is back takes a moment to be known as such."""
    async with asyncio.timeout(60):
        while True:
            asked = question("How do I reset my password?")
            dealt_with = len(counted.answers)
            try:
                await cache.keep(asked, answer_to(asked), 600)
                await counted.until(dealt_with + 1)
            except CacheAway:
                pass
            if await found_by(cache, asked) is not None:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["hung", "broken"])
async def test_a_qdrant_that_fails_costs_nobody_more_than_the_budget(how: str) -> None:
    async with running_qdrant() as server, QdrantService(server.url) as service:

        def fail() -> None:
            server.hung, server.status = how == "hung", 500 if how == "broken" else None

        def heal() -> None:
            server.hung, server.status = False, None

        await check(QdrantVectorStore(service), fail, heal)


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_postgresql_that_fails_costs_nobody_more_than_the_budget(server: PostgresServer, how: str) -> None:
    with migrated_database(server) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE EXTENSION vector")
        await connection.close()
        fail, heal = (server.freeze, server.thaw) if how == "frozen" else (server.kill, server.start)
        async with PostgresService(url) as service:
            await check(PgVectorStore(service), fail, heal)


async def test_a_model_that_hangs_costs_nobody_more_than_the_budget_and_no_connection_stays() -> None:
    """The embedding call is cut off with its look-up: what hangs on a server's side is nobody's on ours."""
    open_now = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            await reader.read()
            while await reader.read(1000):
                pass
        finally:
            open_now -= 1
            writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    hanging = Deployment(name="e", kind=UpstreamKind.OPENAI, model="e", base_url=base_url)
    served = [DEMO_DEPLOYMENTS[1]]
    http = HttpUpstream()
    upstreams: dict[UpstreamKind, Upstream] = {UpstreamKind.OPENAI: http, UpstreamKind.DEMO: DemoUpstream()}
    embedder = UpstreamEmbedder("e", lambda _: served, upstreams)
    async with running_cache(embedder, MemoryStore(), MeaningOptions(budget=BUDGET)) as (cache, counted):
        served[0] = hanging
        for number in range(20):
            began = time.monotonic()
            assert await found_by(cache, question(f"question {number}")) is None
            assert time.monotonic() - began < FAR_SECONDS
        assert counted.look_ups == [LookUp.EMBEDDING_LATE] * FAILURES + [LookUp.RESTING] * (20 - FAILURES)
        async with asyncio.timeout(10):
            while open_now:
                await asyncio.sleep(0.01)
    await http.close()
    server.close()


async def test_a_qdrant_that_is_not_there_keeps_nobody_waiting_and_is_used_when_it_comes() -> None:
    async with QdrantService("http://127.0.0.1:1") as service:
        store = QdrantVectorStore(service)
        async with running_cache(WordEmbedder(), store, prepared=False) as (cache, counted):
            assert await found_by(cache, question("anything")) is None
            assert counted.look_ups == [LookUp.NOT_READY]
