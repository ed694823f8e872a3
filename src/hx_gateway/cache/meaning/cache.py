"""Finds an answer to a question that says the same, in a time that nobody minds, and keeps answers afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import structlog

from hx_gateway.cache.meaning.embedding import Embedder, EmbeddingFailed, unit
from hx_gateway.cache.meaning.keeping import KeepingQueue, Pending
from hx_gateway.cache.meaning.patience import Patience
from hx_gateway.cache.meaning.questions import Question
from hx_gateway.cache.meaning.stores import Entry, Found, Place, Space, SpaceMissing, StoreUnusable, VectorStore
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.base import DependencyError

BUDGET_SECONDS = 0.030
MOST_ENTRIES = 5000
MOST_LOOK_UPS = 16
MAX_ANSWER_BYTES = 256 * 1024
MOST_WAITING = 512
MOST_WAITING_BYTES = 16 * 1024 * 1024
WRITERS = 2
WRITE_SECONDS = 10.0
# A model may have to be loaded first.
PREPARE_SECONDS = 120.0
UPKEEP_SECONDS = 60.0
# The part of a tenant's entries that may be there beyond its most, until they are trimmed.
BEYOND = 10
# What the embedder is asked first, to learn how many numbers its vectors have.
FIRST_TEXT = "How many numbers are in a vector?"
_TROUBLES = (EmbeddingFailed, DependencyError, StoreUnusable, SpaceMissing, TimeoutError)
_log = structlog.get_logger()


class LookUp(StrEnum):
    """What came of a look-up. All but the first two are bypasses: the request goes on as if there were no cache."""

    HIT = "hit"
    MISS = "miss"
    NOT_READY = "not_ready"
    RESTING = "resting"
    BUSY = "busy"
    EMBEDDING_LATE = "embedding_late"
    EMBEDDING_FAILED = "embedding_failed"
    STORE_LATE = "store_late"
    STORE_FAILED = "store_failed"


class Keeping(StrEnum):
    """What became of an answer that was to be kept."""

    KEPT = "kept"
    NOT_READY = "not_ready"
    TOO_LARGE = "too_large"
    NO_ROOM = "no_room"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Match:
    """An answer to a question that says the same: as it was given to be kept, how near, and since when (Unix time)."""

    answer: bytes
    similarity: float
    stored_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeaningOptions:
    """``budget``: seconds that a look-up may take, the embedding too. ``entries``: the most a tenant has, and a tenth.

    ``look_ups``: how many may be under way; ``waiting`` and ``waiting_bytes``: answers that wait to be kept.
    """

    budget: float = BUDGET_SECONDS
    entries: int = MOST_ENTRIES
    look_ups: int = MOST_LOOK_UPS
    waiting: int = MOST_WAITING
    waiting_bytes: int = MOST_WAITING_BYTES


class MeaningCache:
    """One embedder, one store. Fails open: whatever is slow, away or broken, the request is served without it.

    ``looked_up`` and ``kept`` are told of each outcome. As a context manager it prepares the store, keeps it in order
    and writes what waits; what waits at the end is given up.
    """

    def __init__(
        self,
        embedder: Embedder,
        store: VectorStore,
        options: MeaningOptions | None = None,
        *,
        looked_up: Callable[[LookUp], None] = lambda _: None,
        kept: Callable[[Keeping], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self._embedder = embedder
        self._store = store
        self._options = options or MeaningOptions()
        self._looked_up = looked_up
        self._kept = kept
        self._clock = clock or SystemClock()
        self._patience = Patience(self._clock.monotonic)
        self._queue = KeepingQueue(most=self._options.waiting, most_bytes=self._options.waiting_bytes)
        self._space: Space | None = None
        self._missing = asyncio.Event()
        self._searches: set[asyncio.Task[Found | None]] = set()
        self._written: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """Whether embedder and store have answered; until then every look-up is a bypass."""
        return self._space is not None

    async def __aenter__(self) -> Self:
        """Begin to prepare, which may take as long as it likes."""
        self._missing.set()
        jobs = [self._prepare, self._upkeep, *[self._write_all] * WRITERS]
        self._tasks = [asyncio.create_task(job()) for job in jobs]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is under way."""
        await end_tasks([*self._tasks, *self._searches])
        await self._embedder.close()

    async def find(self, question: Question, threshold: float) -> Match | None:
        """Return the nearest answer in the question's scope with a similarity of ``threshold`` or more.

        Returns within the budget and never raises: what did not work is ``None``, and ``looked_up`` is told why.
        """
        outcome, match = await self._find(question, threshold)
        self._looked_up(outcome)
        return match

    def keep(self, question: Question, answer: bytes, seconds: float) -> None:
        """Keep ``answer`` for so long, soon. Returns at once, and never raises; ``kept`` is told what became of it."""
        if len(answer) > MAX_ANSWER_BYTES:
            self._kept(Keeping.TOO_LARGE)
        elif not self.ready:
            self._kept(Keeping.NOT_READY)
        elif not self._queue.offer(Pending(question, answer, seconds)):
            self._kept(Keeping.NO_ROOM)

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> None:
        """Remove a tenant's answers, those kept for a key or of a model only if one is given.

        Those that wait in this process too. What another one is about to write may come after it. Raises
        ``DependencyError``: nothing is certain then.
        """
        await self._queue.give_up(tenant_id, key_id, model)
        try:
            await self._store.purge(tenant_id, key_id=key_id, model=model)
        except SpaceMissing:
            self._lost()

    async def _find(self, question: Question, threshold: float) -> tuple[LookUp, Match | None]:
        if self._space is None:
            return LookUp.NOT_READY, None
        if len(self._searches) >= self._options.look_ups:
            return LookUp.BUSY, None
        if not self._patience.allows():
            return LookUp.RESTING, None
        search = asyncio.create_task(self._search(question, self._space))
        self._searches.add(search)
        search.add_done_callback(self._ended)
        try:
            # Not a time-out around it: who is cancelled may take its time, and the request must not wait for that.
            await asyncio.wait([search], timeout=self._options.budget)
        finally:
            search.cancel()
        if not search.done() or search.cancelled():
            self._patience.failed()
            return (LookUp.EMBEDDING_LATE if question.vector is None else LookUp.STORE_LATE), None
        error = search.exception()
        if error is not None:
            self._patience.failed()
            return self._explained(error), None
        self._patience.succeeded()
        found = search.result()
        # Asked this way because a similarity that is no number is not enough either.
        if found is not None and found.similarity >= threshold:
            return LookUp.HIT, Match(found.answer, min(found.similarity, 1.0), found.stored_at)
        return LookUp.MISS, None

    async def _search(self, question: Question, space: Space) -> Found | None:
        vector = await self._vector(question, space)
        return await self._store.nearest(_place(question), vector, self._now())

    async def _vector(self, question: Question, space: Space) -> Sequence[float]:
        if question.vector is None:
            question.vector = unit(await self._embedder.embed(question.text), space.dimensions)
        if len(question.vector) != space.dimensions:
            raise EmbeddingFailed("a vector of before another model was asked")
        return question.vector

    def _ended(self, search: asyncio.Task[Found | None]) -> None:
        self._searches.discard(search)
        if not search.cancelled():
            # Read, even if the request is gone: asyncio complains of errors that nobody has looked at.
            search.exception()

    def _explained(self, error: BaseException) -> LookUp:
        match error:
            case EmbeddingFailed():
                return LookUp.EMBEDDING_FAILED
            case DependencyError():
                pass
            case SpaceMissing():
                self._lost()
            case _:
                _log.error("meaning_look_up_failed", exc_info=error)
        return LookUp.STORE_FAILED

    def _lost(self) -> None:
        self._space = None
        self._missing.set()

    def _now(self) -> float:
        return self._clock.now().timestamp()

    async def _prepare(self) -> None:
        """Make the store ready, and again whenever what was made is gone."""
        backoff = Backoff(first=1.0, most=60.0)
        told = ""
        while True:
            await self._missing.wait()
            try:
                async with asyncio.timeout(PREPARE_SECONDS):
                    space = Space(self._embedder.name, len(unit(await self._embedder.embed(FIRST_TEXT))))
                    await self._store.ensure(space)
            except _TROUBLES as trouble:
                if told != str(trouble):
                    told = str(trouble)
                    _log.warning("meaning_cache_not_ready", reason=told or "timeout")
                await self._clock.sleep(backoff.next())
                continue
            self._missing.clear()
            self._space = space
            told = ""
            backoff.reset()
            _log.info("meaning_cache_ready", embedder=space.embedder, dimensions=space.dimensions)

    async def _upkeep(self) -> None:
        """Remove what is too old and what is too much, again and again."""
        while True:
            await self._clock.sleep(UPKEEP_SECONDS)
            if not self.ready:
                continue
            written, self._written = self._written, {}
            try:
                async with asyncio.timeout(UPKEEP_SECONDS):
                    await self._store.expire(self._now())
                    for tenant_id in written:
                        await self._store.trim(tenant_id, self._options.entries)
            except _TROUBLES as trouble:
                _log.info("meaning_cache_not_tidied", reason=type(trouble).__name__)

    async def _write_all(self) -> None:
        while True:
            pending = await self._queue.take()
            try:
                self._kept(await self._write(pending))
            except Exception:  # noqa: BLE001 - one answer that cannot be kept must not keep those after it from being so
                _log.exception("meaning_not_kept")
                self._kept(Keeping.FAILED)
            finally:
                self._queue.settle(pending)

    async def _write(self, pending: Pending) -> Keeping:
        if self._space is None:
            return Keeping.NOT_READY
        question, tenant_id = pending.question, pending.question.scope.tenant_id
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                vector = await self._vector(question, self._space)
                await self._store.put(self._entry(pending, vector))
                self._written[tenant_id] = self._written.get(tenant_id, 0) + 1
                if self._written[tenant_id] > self._options.entries // BEYOND:
                    await self._store.trim(tenant_id, self._options.entries)
                    self._written[tenant_id] = 0
        except SpaceMissing:
            self._lost()
            return Keeping.FAILED
        except _TROUBLES:
            return Keeping.FAILED
        return Keeping.KEPT

    def _entry(self, pending: Pending, vector: Sequence[float]) -> Entry:
        question, now = pending.question, self._now()
        place = _place(question)
        return Entry(
            id=place.id_of(question.text),
            place=place,
            vector=vector,
            answer=pending.answer,
            model=question.model,
            key_id=question.key_id,
            stored_at=now,
            expires_at=now + pending.seconds,
        )


def _place(question: Question) -> Place:
    return Place(tenant_id=question.scope.tenant_id, within=question.scope.within, frame=question.frame)
