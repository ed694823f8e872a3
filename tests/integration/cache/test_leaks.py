"""Nothing crosses a scope at threshold 0, in either store, and inside of it answers are found.

In the partitions and the identities that requests really have: these are made by the pipeline's own functions.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.identity import canonical, digest_of, partition_of
from hx_gateway.cache.meaning.cache import MeaningOptions
from hx_gateway.cache.meaning.qdrant_store import QdrantVectorStore
from hx_gateway.cache.meaning.questions import Wording, take_apart
from hx_gateway.cache.meaning.stores import VectorStore
from hx_gateway.cache.store import Question
from hx_gateway.cache_rules import CacheScope
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.translate.openai import decode_chat
from tests.fixtures.qdrant_server import running_qdrant
from tests.unit.cache.meaning.stand_ins import WordEmbedder, found_by, running_cache

PARAPHRASES = ("What is my account balance?", "How much is on my account?", "tell me the balance of my account")
PATIENT = MeaningOptions(budget=30.0)


@dataclass(frozen=True)
class Caller:
    """Who asks, and what is asked of whom besides the question."""

    tenant_id: str
    team_id: str | None
    user_id: str | None
    key_id: str
    scope: CacheScope
    namespace: str | None
    system: str
    temperature: float
    model: str

    def ask(self, text: str) -> Question:
        """Return the question as the pipeline makes it, at threshold 0."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "temperature": self.temperature, "user": "forged"}
        call = decode_chat(json.dumps(body).encode())
        partition = partition_of(
            self.scope, tenant_id=self.tenant_id, team_id=self.team_id, user_id=self.user_id, key_id=self.key_id
        )
        parts, whole = take_apart(call), canonical(call.body)
        assert parts is not None
        assert whole is not None
        frame = canonical(parts[1].body)
        assert frame is not None
        asked = ("chat", self.model, self.model, "")
        return Question(
            tenant_id=self.tenant_id,
            partition=partition,
            namespace=self.namespace,
            key_id=self.key_id,
            operation="chat",
            model=self.model,
            body=call.body,
            digest=digest_of(partition, self.namespace, asked, whole),
            wording=Wording(identity=digest_of(partition, self.namespace, asked, frame), text=parts[0], similarity=0.0),
        )

    @property
    def shares(self) -> tuple[object, ...]:
        """Return what two callers have in common if they share answers, said in plain words and not by the code."""
        match self.scope:
            case CacheScope.TEAM if self.team_id is not None:
                among: tuple[str, ...] = ("team", self.team_id)
            case CacheScope.USER if self.user_id is not None:
                among = ("user", self.user_id)
            case CacheScope.TENANT:
                among = ("tenant",)
            case _:
                among = ("key", self.key_id)
        return (self.tenant_id, *among, self.namespace, self.system, self.temperature, self.model)


callers = st.builds(
    Caller,
    # An id never holds a slash; tenants' names here say what a forged one could look like.
    tenant_id=st.sampled_from(("a", "b", "A", "*", "ä")),
    team_id=st.sampled_from((None, "tm-1", "tm-2")),
    user_id=st.sampled_from((None, "us-1", "us-2")),
    key_id=st.sampled_from(("key-1", "key-2", "tm-1")),
    scope=st.sampled_from(CacheScope),
    namespace=st.sampled_from((None, "n", "tm-1")),
    system=st.sampled_from(("Be brief.", "You serve tenant a.")),
    temperature=st.sampled_from((0, 0.5)),
    model=st.sampled_from(("m", "m2")),
)


@pytest.fixture
async def qdrant_store() -> AsyncIterator[QdrantVectorStore]:
    async with running_qdrant() as server, QdrantService(server.url) as service:
        yield QdrantVectorStore(service)


@pytest.fixture(params=["qdrant", "pgvector"])
def store(request: pytest.FixtureRequest) -> VectorStore:
    name = {"qdrant": "qdrant_store", "pgvector": "pg_store"}[request.param]
    found: VectorStore = request.getfixturevalue(name)
    return found


async def check(store: VectorStore, asking: list[Caller]) -> None:
    """Let each keep an answer, then each ask in other words; what it finds is its own scope's."""
    async with running_cache(WordEmbedder(), store, PATIENT) as (cache, counted):
        kept: dict[tuple[object, ...], set[bytes]] = {}
        for number, caller in enumerate(asking):
            secret = f"secret {number} of {caller}".encode()
            kept.setdefault(caller.shares, set()).add(secret)
            asked = caller.ask(PARAPHRASES[0])
            answer = StoredAnswer(
                partition=asked.partition,
                digest=asked.digest,
                model=asked.model,
                key_id=asked.key_id,
                kept_at=0.0,
                body=secret,
            )
            await cache.keep(asked, answer, 600)
        await counted.until(len(asking))
        for caller in asking:
            for text in PARAPHRASES:
                found = await found_by(cache, caller.ask(text))
                assert found is not None, "a cache that never hits leaks nothing, and is worth nothing"
                assert found.answer.body in kept[caller.shares]
        # One who keeps nothing finds something only where it shares.
        for caller in asking:
            stranger = Caller(**{**vars(caller), "tenant_id": "nobody-else"})
            for text in PARAPHRASES:
                assert await found_by(cache, stranger.ask(text)) is None
        for caller in asking:
            await cache.purge(caller.tenant_id)
        assert await found_by(cache, asking[0].ask(PARAPHRASES[0])) is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asking=st.lists(callers, min_size=2, max_size=8))
async def test_nothing_crosses_a_scope_and_inside_of_it_answers_are_found(
    store: VectorStore, asking: list[Caller]
) -> None:
    await check(store, asking)


async def test_whoever_differs_in_one_thing_only_is_another(store: VectorStore) -> None:
    base = Caller("a", "tm-1", "us-1", "key-1", CacheScope.KEY, None, "Be brief.", 0, "m")
    changes: list[dict[str, object]] = [
        {},
        {"tenant_id": "b"},
        {"key_id": "key-2"},
        {"scope": CacheScope.TEAM},
        {"scope": CacheScope.TEAM, "team_id": "tm-2"},
        {"scope": CacheScope.USER},
        {"scope": CacheScope.USER, "user_id": "us-2"},
        {"scope": CacheScope.TENANT},
        {"scope": CacheScope.TENANT, "tenant_id": "b"},
        {"namespace": "n"},
        {"system": "You serve tenant a."},
        {"temperature": 0.5},
        {"model": "m2"},
    ]
    callers = [Caller(**{**vars(base), **change}) for change in changes]
    assert len({caller.shares for caller in callers}) == len(callers)
    await check(store, callers)
