"""A store of vectors in memory, an embedder that reads words, and questions for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.meaning.cache import Keeping, LookUp, MeaningCache, MeaningOptions
from hx_gateway.cache.meaning.embedding import Embedder, EmbeddingFailed
from hx_gateway.cache.meaning.questions import Wording
from hx_gateway.cache.meaning.stores import Entry, Near, Place, Space, VectorStore
from hx_gateway.cache.store import CacheAway, Found, Question
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.upstream.demo import embed

AWAY = DependencyError("Qdrant", FailureKind.REFUSED)


class WordEmbedder:
    """The demo model's vectors, once ``open`` is set. ``failing``: none at all; ``more``: so many numbers longer."""

    name = "words"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing = False
        self.more = 0

    async def embed(self, text: str) -> Sequence[float]:
        self.texts.append(text)
        await self.open.wait()
        if self.failing:
            raise EmbeddingFailed("as told")
        return [*embed(text), *[0.0] * self.more]

    async def close(self) -> None:
        self.open.set()


class MemoryStore:
    """Compares with all entries of a place. ``error`` is raised by whatever is asked; nothing answers before ``open``.

    ``stubborn``: whoever is cancelled does not go away before ``open`` either.
    """

    def __init__(self) -> None:
        self.entries: dict[UUID, Entry] = {}
        self.made: list[Space] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.stubborn = False

    async def _pass(self) -> None:
        while not self.open.is_set():
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        if self.error is not None:
            raise self.error

    async def ensure(self, space: Space) -> None:
        await self._pass()
        self.made.append(space)

    async def nearest(self, place: Place, vector: Sequence[float], now: float) -> Near | None:
        await self._pass()
        near = [
            Near(entry.answer, sum(a * b for a, b in zip(vector, entry.vector, strict=True)), entry.stored_at)
            for entry in self.entries.values()
            if entry.place == place and entry.expires_at > now
        ]
        return max(near, key=lambda found: found.similarity, default=None)

    async def put(self, entry: Entry) -> None:
        await self._pass()
        self.entries[entry.id] = entry

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        await self._pass()
        gone = [
            entry.id
            for entry in self.entries.values()
            if entry.place.tenant_id == tenant_id and key_id in (None, entry.key_id) and model in (None, entry.model)
        ]
        return self._drop(gone)

    async def expire(self, now: float) -> None:
        await self._pass()
        self._drop([entry.id for entry in self.entries.values() if entry.expires_at <= now])

    async def trim(self, tenant_id: str, most: int) -> None:
        await self._pass()
        of_tenant = [entry for entry in self.entries.values() if entry.place.tenant_id == tenant_id]
        of_tenant.sort(key=lambda entry: entry.stored_at)
        self._drop([entry.id for entry in of_tenant[: max(0, len(of_tenant) - most)]])

    def _drop(self, ids: list[UUID]) -> int:
        for gone in ids:
            del self.entries[gone]
        return len(ids)


def question(
    text: str,
    *,
    tenant_id: str = "tn-a",
    partition: str | None = None,
    identity: bytes = b"i",
    similarity: float = 0.7,
    key_id: str = "key-1",
    model: str = "m",
) -> Question:
    """Return a question whose identity is not that of its text."""
    return Question(
        tenant_id=tenant_id,
        partition=partition or tenant_id,
        namespace=None,
        key_id=key_id,
        operation="chat",
        model=model,
        body={"messages": msgspec.Raw(msgspec.json.encode([text]))},
        digest=b"exact",
        wording=Wording(identity=identity, text=text, similarity=similarity),
    )


def answer_to(asked: Question, body: bytes = b"{}") -> StoredAnswer:
    """Return an answer that the question's own call brought."""
    return StoredAnswer(
        partition=asked.partition,
        digest=asked.digest,
        model=asked.model,
        key_id=asked.key_id,
        kept_at=0.0,
        body=body,
        prompt_tokens=3,
        completion_tokens=4,
    )


@dataclass
class Counted:
    """What a cache said of itself."""

    look_ups: list[LookUp] = field(default_factory=list)
    answers: list[Keeping] = field(default_factory=list)

    async def until(self, answers: int) -> None:
        """Wait until so many answers were dealt with."""
        async with asyncio.timeout(30):
            while len(self.answers) < answers:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running_cache(
    embedder: Embedder, store: VectorStore, options: MeaningOptions | None = None, *, prepared: bool = True
) -> AsyncIterator[tuple[MeaningCache, Counted]]:
    """Run a cache; by default it is ready."""
    counted = Counted()
    cache = MeaningCache(embedder, store, options, looked_up=counted.look_ups.append, kept=counted.answers.append)
    cache.start()
    try:
        async with asyncio.timeout(30):
            while prepared and not cache.ready:
                await asyncio.sleep(0.001)
        yield cache, counted
    finally:
        await cache.aclose()


async def found_by(cache: MeaningCache, asked: Question) -> Found | None:
    """Return what is found; ``None`` for a bypass, too."""
    try:
        return await cache.find(asked)
    except CacheAway:
        return None
