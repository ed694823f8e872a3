"""Finds an answer to a question that says the same, in a time that nobody minds, and keeps answers afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog

from hx_gateway.cache.answers import StoredAnswer, decode_answer, encode_answer
from hx_gateway.cache.meaning.embedding import Embedder, EmbeddingFailed, OtherDimensions, unit
from hx_gateway.cache.meaning.keeping import KeepingQueue, Pending
from hx_gateway.cache.meaning.patience import Patience
from hx_gateway.cache.meaning.questions import Wording
from hx_gateway.cache.meaning.stores import Entry, Near, Place, Space, SpaceMissing, StoreUnusable, VectorStore
from hx_gateway.cache.store import CacheAway, Found, Question
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.base import DependencyError

BUDGET_SECONDS = 0.030
MOST_ENTRIES = 5000
MOST_LOOK_UPS = 16
MOST_WAITING = 512
MOST_WAITING_BYTES = 16 * 1024 * 1024
WRITERS = 2
WRITE_SECONDS = 10.0
# A model may have to be loaded first.
PREPARE_SECONDS = 120.0
UPKEEP_SECONDS = 60.0
# The part of a tenant's entries that may be there beyond its most, until they are trimmed.
BEYOND = 10
# A cosine that was worked out with rounding. What is above it is none: vectors are compared in some other way there.
MOST_SIMILAR = 1.001
AGAIN_SECONDS = 1.0
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
    NO_ROOM = "no_room"
    FAILED = "failed"


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
    """An ``AnswerCache`` of one embedder and one store.

    Fails open: whatever is slow, away or broken, the request is served without it. ``looked_up`` and ``kept`` are told
    of each outcome. Once started it prepares the store, keeps it in order and writes what waits; what waits at the end
    is given up.
    """

    kind = "meaning"

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
        self._searches: set[asyncio.Task[Near | None]] = set()
        self._written: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """Whether embedder and store have answered; until then every look-up is a bypass."""
        return self._space is not None

    def start(self) -> None:
        """Begin to prepare, which may take as long as it likes; needs a running loop."""
        self._missing.set()
        jobs = [self._prepare, self._upkeep, *[self._write_all] * WRITERS]
        self._tasks = [asyncio.create_task(self._go_on(job)) for job in jobs]

    async def aclose(self) -> None:
        """End what is under way."""
        await end_tasks([*self._tasks, *self._searches])
        await self._embedder.close()

    async def find(self, question: Question) -> Found | None:
        """Return the nearest answer in the question's partition, if it is near enough.

        Within the budget, whatever happens: what did not work is :class:`CacheAway`, and ``looked_up`` is told why.
        """
        if question.wording is None:
            # It says nothing of such a question: who could have said something is away, and not a miss.
            raise CacheAway
        outcome, found = await self._find(question, question.wording)
        self._looked_up(outcome)
        if outcome not in (LookUp.HIT, LookUp.MISS):
            raise CacheAway
        return found

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        """Keep ``answer`` soon, and return at once; ``kept`` is told what became of it. Raises :class:`CacheAway`."""
        wording = question.wording
        if wording is None:
            return
        pending = Pending(place=_place(question, wording), wording=wording, answer=answer, seconds=ttl_seconds)
        if self.ready and self._queue.offer(pending):
            return
        self._kept(Keeping.NO_ROOM if self.ready else Keeping.NOT_READY)
        raise CacheAway

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Remove a tenant's answers, those kept for a key or of a model only if one is given; return how many.

        Those that wait in this process too. What another one is about to write may come after it. Raises
        ``DependencyError``: nothing is certain then.
        """
        given_up = await self._queue.give_up(tenant_id, key_id, model)
        try:
            return given_up + await self._store.purge(tenant_id, key_id=key_id, model=model)
        except SpaceMissing:
            # Nothing was ever kept, or it is gone: both are what was asked for.
            return given_up

    async def _find(self, question: Question, wording: Wording) -> tuple[LookUp, Found | None]:
        if self._space is None:
            return LookUp.NOT_READY, None
        if len(self._searches) >= self._options.look_ups:
            return LookUp.BUSY, None
        if not self._patience.allows():
            return LookUp.RESTING, None
        search = asyncio.create_task(self._search(_place(question, wording), wording, self._space))
        self._searches.add(search)
        search.add_done_callback(self._ended)
        try:
            # Not a time-out around it: who is cancelled may take its time, and the request must not wait for that.
            await asyncio.wait([search], timeout=self._options.budget)
        finally:
            search.cancel()
        if not search.done() or search.cancelled():
            self._patience.failed()
            return (LookUp.EMBEDDING_LATE if wording.vector is None else LookUp.STORE_LATE), None
        error = search.exception()
        if error is not None:
            self._patience.failed()
            return self._explained(error), None
        self._patience.succeeded()
        return _judged(search.result(), question, wording)

    async def _search(self, place: Place, wording: Wording, space: Space) -> Near | None:
        vector = await self._vector(wording, space)
        if space is not self._space:
            raise EmbeddingFailed("another model is asked by now")
        return await self._store.nearest(place, vector, self._now())

    async def _vector(self, wording: Wording, space: Space) -> Sequence[float]:
        if wording.vector is None:
            wording.vector = unit(await self._embedder.embed(wording.text), space.dimensions)
        if len(wording.vector) != space.dimensions:
            raise EmbeddingFailed("a vector of before another model was asked")
        return wording.vector

    def _ended(self, search: asyncio.Task[Near | None]) -> None:
        self._searches.discard(search)
        if not search.cancelled():
            # Read, even if the request is gone: asyncio complains of errors that nobody has looked at.
            search.exception()

    def _explained(self, error: BaseException) -> LookUp:
        match error:
            case OtherDimensions():
                self._lost()
                return LookUp.EMBEDDING_FAILED
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

    async def _go_on(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do ``job``, which has no end, and again where a mistake of ours ends it."""
        while True:
            try:
                await job()
            except Exception:  # noqa: BLE001 - the edge of a task: without it nothing would ever be made ready or tidied
                _log.exception("meaning_task_failed")
                await self._clock.sleep(AGAIN_SECONDS)

    async def _prepare(self) -> None:
        """Make the store ready, and again whenever what was made is gone."""
        backoff = Backoff(first=1.0, most=60.0)
        told = ""
        while True:
            await self._missing.wait()
            try:
                async with asyncio.timeout(PREPARE_SECONDS):
                    space = Space(self._embedder.name, len(await self._embedder.embed(FIRST_TEXT)))
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
            try:
                async with asyncio.timeout(UPKEEP_SECONDS):
                    await self._store.expire(self._now())
                    for tenant_id in list(self._written):
                        await self._store.trim(tenant_id, self._options.entries)
                        self._written.pop(tenant_id, None)
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
        space = self._space
        if space is None:
            return Keeping.NOT_READY
        tenant_id = pending.place.tenant_id
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                vector = await self._vector(pending.wording, space)
                if space is not self._space:
                    return Keeping.NOT_READY
                await self._store.put(self._entry(pending, vector))
                self._written[tenant_id] = self._written.get(tenant_id, 0) + 1
                if self._written[tenant_id] > self._options.entries // BEYOND:
                    await self._store.trim(tenant_id, self._options.entries)
                    self._written[tenant_id] = 0
        except (SpaceMissing, OtherDimensions):
            self._lost()
            return Keeping.FAILED
        except _TROUBLES:
            return Keeping.FAILED
        return Keeping.KEPT

    def _entry(self, pending: Pending, vector: Sequence[float]) -> Entry:
        now = self._now()
        return Entry(
            id=pending.place.id_of(pending.wording.text),
            place=pending.place,
            vector=vector,
            answer=encode_answer(pending.answer),
            model=pending.answer.model,
            key_id=pending.answer.key_id,
            stored_at=now,
            expires_at=now + pending.seconds,
        )


def _place(question: Question, wording: Wording) -> Place:
    return Place(tenant_id=question.tenant_id, within=question.partition, frame=wording.frame)


def _judged(near: Near | None, question: Question, wording: Wording) -> tuple[LookUp, Found | None]:
    """Return what the nearest entry is worth. A similarity that is no cosine is not enough, nor are others' answers."""
    if near is None or not wording.similarity <= near.similarity <= MOST_SIMILAR:
        return LookUp.MISS, None
    answer = decode_answer(near.answer)
    if answer is None or answer.partition != question.partition:
        return LookUp.MISS, None
    return LookUp.HIT, Found(answer, min(near.similarity, 1.0))
