"""The response cache: where it keeps answers, how its embedder does, and what its stores have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from hx_gateway.answering import Comparer, embedder_of
from hx_gateway.app import build_models, default_upstreams
from hx_gateway.cache.meaning.qdrant_store import QdrantVectorStore
from hx_gateway.cache.meaning.stores import Space
from hx_gateway.doctor.cache import examine_cache
from hx_gateway.doctor.findings import Finding, Surroundings
from hx_gateway.doctor.meaning import QUESTION, examine_meaning, judge_extension
from hx_gateway.doctor.qdrant import examine_qdrant
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.settings import Settings
from tests.fixtures.qdrant_server import QdrantServer, running_qdrant
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import fresh_database, sql

MODEL = {"HX_CACHE": "meaning", "HX_CACHE_EMBEDDING_MODEL": "emb-premium"}
NO_STORES = {"PG_URL": "none", "REDIS_URL": "none", "QDRANT_URL": "none"}


@pytest.fixture(scope="module")
def wheel() -> Iterator[PostgresServer]:
    """Run the PostgreSQL of the wheel, which pgvector comes with."""
    with running_postgres("wheel18") as server:
        yield server


@pytest.fixture
async def qdrant() -> AsyncIterator[QdrantServer]:
    """Run a stand-in of Qdrant."""
    async with running_qdrant() as server:
        yield server


def around(*given: Mapping[str, str]) -> Surroundings:
    return Surroundings(
        settings=Settings.model_validate({k: v for part in (NO_STORES, *given) for k, v in part.items()})
    )


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


@asynccontextmanager
async def embeddings(*, numbers: int = 3, status: int = 200, seconds: float = 0.0) -> AsyncIterator[dict[str, str]]:
    """Serve embeddings of so many numbers, so slowly; give the settings for it."""

    async def embed(request: web.Request) -> web.Response:
        assert (await request.json())["input"] == QUESTION
        await asyncio.sleep(seconds)
        return web.json_response({"data": [{"embedding": [0.5] * numbers}]}, status=status)

    app = web.Application()
    app.router.add_post("/v1/embeddings", embed)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield {"HX_CACHE": "meaning", "HX_CACHE_EMBEDDING_MODEL": "small", "LITELLM_BASE_URL": base}
    finally:
        await runner.cleanup()


# The same request again


@pytest.mark.parametrize(
    ("given", "state", "said"),
    [
        ({}, "ok", "off unless a key or a model turns it on, in the process, 64 MiB"),
        ({"HX_CACHE": "exact", "REDIS_URL": "redis://127.0.0.1:1"}, "ok", "mode exact, in Redis, 64 MiB a tenant"),
        ({"HX_CACHE": "exact", "HX_WORKERS": "2"}, "note", "each of 2 workers has its own"),
        ({"HX_CACHE_MAX_BYTES": "2048"}, "problem", "one answer may be larger than all"),
    ],
)
def test_the_cache_tells_its_mode_and_its_place(given: Mapping[str, str], state: str, said: str) -> None:
    (found,) = examine_cache(around(given))
    assert found.state == state
    assert said in found.detail


def test_a_model_file_may_turn_it_on(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model_list: []\nlitellm_settings:\n  cache: true\n")
    (found,) = examine_cache(around({"HX_MODEL_CONFIG": str(path)}))
    assert found.detail.startswith("mode exact")


# The embedder


async def test_by_meaning_is_off_or_lacks_its_model_or_its_store() -> None:
    assert states(await examine_meaning(around())) == ["ok"]
    assert states(await examine_meaning(around({"HX_CACHE": "meaning"}))) == ["problem"]
    ready, no_store = await examine_meaning(around(MODEL))
    assert ready.state == "ok"
    assert ready.detail.startswith("emb-premium: 384 numbers in ")
    assert (no_store.state, no_store.detail) == ("problem", "there is no store for vectors")


async def test_an_embedder_over_the_network_is_asked_and_timed() -> None:
    async with embeddings(numbers=3) as given:
        found = (await examine_meaning(around(given, {"HX_CACHE_MEANING_BUDGET_MS": "5000"})))[0]
    assert found.state == "ok"
    assert found.detail.startswith("small: 3 numbers in ")
    assert found.detail.endswith("of 5000 ms")


async def test_an_embedder_that_is_slower_than_the_budget_is_a_problem() -> None:
    async with embeddings(seconds=0.05) as given:
        found = (await examine_meaning(around(given, {"HX_CACHE_MEANING_BUDGET_MS": "20"})))[0]
    assert found.state == "problem"
    assert "HX_CACHE_MEANING_BUDGET_MS" in found.remedy


async def test_an_embedder_that_fails_or_is_not_served_is_a_problem() -> None:
    async with embeddings(status=500) as given:
        assert (await examine_meaning(around(given)))[0].state == "problem"
    found = (await examine_meaning(around({"HX_CACHE_EMBEDDING_MODEL": "unheard-of"})))[0]
    assert found.state == "problem"
    assert found.detail.startswith("unheard-of gives no vector")


async def test_a_model_of_fastembed_needs_the_package_and_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = {"HX_CACHE_EMBEDDING_MODEL": "fastembed/minishlab/potion-base-8M"}
    assert states(await examine_meaning(around(model)))[0] == "note"
    found = (await examine_meaning(around(model, {"HX_CACHE_EMBEDDING_FOLDER": str(tmp_path)})))[0]
    assert (found.state, "gives no vector" in found.detail) == ("problem", True)
    monkeypatch.setattr("hx_gateway.doctor.meaning.is_installed", lambda: False)
    assert "is not installed" in (await examine_meaning(around(model)))[0].detail


# Its stores


async def test_a_qdrant_is_reachable_and_new_enough(qdrant: QdrantServer) -> None:
    assert states(await examine_qdrant(around())) == ["note"]
    (found,) = await examine_qdrant(around({"QDRANT_URL": qdrant.url}))
    assert (found.state, found.detail) == ("ok", f"Qdrant 1.15.0 at {qdrant.url}")
    qdrant.version = "1.10.1"
    assert states(await examine_qdrant(around({"QDRANT_URL": qdrant.url}))) == ["problem"]
    (away,) = await examine_qdrant(around({"QDRANT_URL": "http://127.0.0.1:1"}))
    assert away.state == "problem"


async def test_the_collection_is_of_the_models_size_and_has_its_indexes(qdrant: QdrantServer) -> None:
    given = around(MODEL, {"QDRANT_URL": qdrant.url})
    settings = given.settings
    upstreams = default_upstreams(settings)
    embedder = embedder_of("emb-premium", settings, Comparer(build_models(settings, None).resolve, upstreams))
    space = Space(embedder.name, 384)
    name = f"hx_meanings_{space.label}"
    assert states(await examine_meaning(given)) == ["ok", "note"]
    service = QdrantService(qdrant.url)
    await service.connect()
    try:
        await QdrantVectorStore(service).ensure(space)
        assert states(await examine_meaning(given)) == ["ok", "ok"]
        tenant = qdrant.collections[name].indexes["tenant_id"]
        qdrant.collections[name].indexes["tenant_id"] = {"type": "keyword"}
        assert "not is_tenant" in (await examine_meaning(given))[1].detail
        qdrant.collections[name].indexes = {"tenant_id": tenant}
        assert "lacks the indexes expires_at, " in (await examine_meaning(given))[1].detail
        await service.ask("PUT", f"/collections/{name}2", {"vectors": {"size": 3, "distance": "Cosine"}})
        other = qdrant.collections.pop(f"{name}2")
        (mine, qdrant.collections[name]) = (qdrant.collections[name], other)
        wrong = (await examine_meaning(given))[1]
        mine.shard.close()
    finally:
        await service.close()
    assert wrong.state == "problem"
    assert "vectors of 3 numbers, the model 384" in wrong.detail


async def test_pgvector_is_an_extension_or_may_be_made_one(wheel: PostgresServer) -> None:
    with fresh_database(wheel) as url:
        database = url.rpartition("/")[2]
        ordinary = wheel.ordinary_url(url)
        seen = [(await examine_meaning(around(MODEL, {"PG_URL": each})))[1] for each in (url, ordinary)]
        sql(wheel, "CREATE EXTENSION vector", database)
        seen.append((await examine_meaning(around(MODEL, {"PG_URL": ordinary})))[1])
    assert states(seen) == ["note", "problem", "ok"]
    assert "CREATE EXTENSION vector" in seen[1].remedy
    assert judge_extension(None).state == "problem"
