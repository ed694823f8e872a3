"""Answers by meaning in Qdrant: what a server is sent, and what its engine makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from qdrant_client import models

from hx_gateway.cache.meaning.qdrant_store import QdrantVectorStore
from hx_gateway.cache.meaning.stores import Near, SpaceMissing, StoreUnusable, VectorStore
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.qdrant import QdrantService
from tests.fixtures.qdrant_server import QdrantServer, running_qdrant
from tests.integration.cache.store_contract import EAST, HERE, NOW, SPACE, AnyStore, answer, entry

KEY = "made-up-key"
COLLECTION = f"hx_meanings_{SPACE.label}"


@pytest.fixture
async def server() -> AsyncIterator[QdrantServer]:
    async with running_qdrant(KEY) as server:
        yield server


@pytest.fixture
async def service(server: QdrantServer) -> AsyncIterator[QdrantService]:
    async with QdrantService(f"{server.url}/", api_key=KEY) as service:
        yield service


@pytest.fixture
def store(service: QdrantService) -> VectorStore:
    return QdrantVectorStore(service)


class TestQdrantStore(AnyStore):
    pass


async def test_the_collection_is_made_for_tenants(server: QdrantServer, store: VectorStore) -> None:
    await store.ensure(SPACE)
    assert list(server.collections) == [COLLECTION]
    made = server.collections[COLLECTION]
    assert made.made.model_dump(exclude_none=True, mode="json") == {
        "vectors": {"size": 3, "distance": "Cosine"},
        "hnsw_config": {"m": 0, "payload_m": 16},
    }
    assert made.indexes == {
        "tenant_id": {"type": "keyword", "is_tenant": True},
        "within": {"type": "keyword"},
        "frame": {"type": "keyword"},
        "key_id": {"type": "keyword"},
        "model": {"type": "keyword"},
        "stored_at": {"type": "float"},
        "expires_at": {"type": "float"},
    }


async def test_every_search_is_one_places(server: QdrantServer, store: VectorStore) -> None:
    await store.ensure(SPACE)
    await store.nearest(HERE, EAST, NOW)
    assert [search.model_dump(exclude_none=True, mode="json") for search in server.searches] == [
        {
            "query": [1.0, 0.0, 0.0],
            "filter": {
                "must": [
                    {"key": "tenant_id", "match": {"value": "tn-a"}},
                    {"key": "within", "match": {"value": "team:tm-1"}},
                    {"key": "frame", "match": {"value": "0" * 32}},
                    {"key": "expires_at", "range": {"gt": NOW}},
                ]
            },
            "limit": 1,
            "with_payload": True,
        }
    ]


async def test_what_a_server_brings_from_elsewhere_goes_no_further(server: QdrantServer, store: VectorStore) -> None:
    await store.ensure(SPACE)
    await store.put(entry("another's"))
    server.deaf_to_filters = True
    for change in ({"tenant_id": "tn-b"}, {"within": "team:tm-2"}, {"frame": "1" * 32}):
        with pytest.raises(DependencyError):
            await store.nearest(replace(HERE, **change), EAST, NOW)
    assert await answer(store, now=NOW + 60) is None
    assert await answer(store) == b"another's"


async def test_several_gateways_may_make_it_at_once(service: QdrantService, server: QdrantServer) -> None:
    stores = [QdrantVectorStore(service) for _ in range(5)]
    await asyncio.gather(*(store.ensure(SPACE) for store in stores))
    assert list(server.collections) == [COLLECTION]
    await stores[0].put(entry("x"))
    assert await answer(stores[4]) == b"x"


async def test_other_collections_are_left_alone(server: QdrantServer, service: QdrantService) -> None:
    store = QdrantVectorStore(service)
    await store.ensure(SPACE)
    server.collections["somebody_elses"] = server.collections[COLLECTION]
    server.asked.clear()
    await store.purge("tn-a")
    await store.expire(NOW)
    assert len([line for line in server.asked if "/points/delete" in line]) == 2
    assert not [line for line in server.asked if "somebody_elses" in line]
    del server.collections["somebody_elses"]


async def test_a_collection_that_is_gone_is_told_and_made_again(server: QdrantServer, store: VectorStore) -> None:
    await store.ensure(SPACE)
    server.collections.pop(COLLECTION).shard.close()
    with pytest.raises(SpaceMissing):
        await store.nearest(HERE, EAST, NOW)
    with pytest.raises(SpaceMissing):
        await store.put(entry("x"))
    server.folder = server.folder / "again"
    server.folder.mkdir()
    await store.ensure(SPACE)
    assert await answer(store) is None


async def test_a_collection_that_compares_in_another_way_is_not_used(server: QdrantServer, store: VectorStore) -> None:
    await store.ensure(SPACE)
    for change in ({"distance": models.Distance.EUCLID}, {"size": 4}):
        made = server.collections[COLLECTION].made
        made.vectors = models.VectorParams(**{"size": 3, "distance": models.Distance.COSINE, **change})
        with pytest.raises(StoreUnusable, match=COLLECTION):
            await store.ensure(SPACE)


async def answering(server: QdrantServer, store: VectorStore, result: object) -> Near | None:
    """Return what the store makes of a server that answers a search with ``result``."""
    server.result = result
    return await store.nearest(HERE, EAST, NOW)


POINT: dict[str, Any] = {
    "score": 0.9,
    "payload": {
        "tenant_id": HERE.tenant_id,
        "within": HERE.within,
        "frame": HERE.frame,
        "answer": "eA==",
        "stored_at": NOW,
        "expires_at": NOW + 1,
    },
}


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        {},
        {"points": "x"},
        {"points": [None]},
        {"points": [{}]},
        {"points": [{**POINT, "score": None}]},
        {"points": [{**POINT, "score": "near"}]},
        {"points": [{**POINT, "payload": None}]},
        {"points": [{**POINT, "payload": {**POINT["payload"], "answer": "?"}}]},
        {"points": [{**POINT, "payload": {**POINT["payload"], "answer": 7}}]},
        {"points": [{**POINT, "payload": {**POINT["payload"], "expires_at": "later"}}]},
        {"points": [{**POINT, "payload": {**POINT["payload"], "tenant_id": ["tn-a"]}}]},
    ],
)
async def test_an_answer_that_is_none_is_a_store_that_is_away(
    server: QdrantServer, store: VectorStore, result: object
) -> None:
    await store.ensure(SPACE)
    assert await answering(server, store, {"points": [POINT]}) == Near(b"x", 0.9, NOW)
    with pytest.raises(DependencyError):
        await answering(server, store, result)


@pytest.mark.parametrize(
    ("status", "kind"), [(500, FailureKind.PROTOCOL), (403, FailureKind.AUTH), (302, FailureKind.PROTOCOL)]
)
async def test_other_answers_are_a_store_that_is_away(
    server: QdrantServer, store: VectorStore, status: int, kind: FailureKind
) -> None:
    await store.ensure(SPACE)
    server.status = status
    with pytest.raises(DependencyError) as failure:
        await store.nearest(HERE, EAST, NOW)
    assert failure.value.kind is kind


async def test_a_server_that_hangs_is_not_waited_for(server: QdrantServer, service: QdrantService) -> None:
    server.hung = True
    with pytest.raises(DependencyError) as failure:
        await service.ask("GET", "/collections", timeout=0.05)
    assert failure.value.kind is FailureKind.TIMEOUT


async def test_a_server_that_is_known_to_be_away_is_not_asked() -> None:
    async with QdrantService("http://127.0.0.1:1") as service:
        with pytest.raises(DependencyError) as failure:
            await service.ask("GET", "/collections")
        assert failure.value.kind is FailureKind.REFUSED
