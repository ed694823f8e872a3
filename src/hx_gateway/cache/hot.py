"""Answers that were just given, kept in this process for a moment: what is asked again and again asks no server."""

from __future__ import annotations

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.memory import MemoryCache
from hx_gateway.cache.store import AnswerCache, Found, Question
from hx_gateway.kit.clock import Clock

# So much longer than its time, or than a purge by another worker, an answer may be given.
HOT_SECONDS = 1
HOT_BYTES = 16 * 1024**2


class HotCache:
    """The ``AnswerCache`` of a server, and before it what this process found there in the last second.

    Only what was found is kept here: a flood of requests that nobody repeats pushes nothing out.
    """

    def __init__(self, behind: AnswerCache, *, max_bytes: int = HOT_BYTES, clock: Clock | None = None) -> None:
        self._behind = behind
        self._near = MemoryCache(max_bytes, clock=clock)

    @property
    def kind(self) -> str:
        """The name of the one behind."""
        return self._behind.kind

    async def find(self, question: Question) -> Found | None:
        """Return what was found a moment ago, or is behind. Raises ``CacheAway`` as that does."""
        found = await self._near.find(question)
        if found is None:
            found = await self._behind.find(question)
            if found is not None:
                await self._near.keep(question, found.answer, HOT_SECONDS)
        return found

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        """Keep an answer behind; what this process had instead is forgotten."""
        self._near.forget(question.digest)
        await self._behind.keep(question, answer, ttl_seconds)

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Forget answers here and behind; return how many there were behind. Raises as that does."""
        try:
            return await self._behind.purge(tenant_id, key_id=key_id, model=model)
        finally:
            await self._near.purge(tenant_id, key_id=key_id, model=model)

    async def aclose(self) -> None:
        """Forget what is here, and close the one behind."""
        await self._near.aclose()
        await self._behind.aclose()
