"""Answers in this process: bounded by their bytes, the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.store import Found, Question
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.turns import next_turn

# Others get their turn after so many that are looked at.
LOOKED_AT_ONCE = 1000


@dataclass(slots=True)
class _Entry:
    answer: StoredAnswer
    tenant_id: str
    expires_at: float


class MemoryCache:
    """An ``AnswerCache`` for one process, and the twin of the one in Redis. It never fails."""

    kind = "exact"

    def __init__(self, max_bytes: int, *, clock: Clock | None = None) -> None:
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._of_tenant: dict[str, set[bytes]] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def find(self, question: Question) -> Found | None:
        """Return the answer that is kept under the question's digest."""
        entry = self._entries.get(question.digest)
        if entry is None or entry.answer.partition != question.partition:
            return None
        if entry.expires_at <= self._clock.monotonic():
            self._drop(question.digest)
            return None
        self._entries.move_to_end(question.digest)
        return Found(entry.answer)

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        """Keep an answer in the place of others that nobody asked for as lately."""
        if answer.size > self._max_bytes:
            return
        self._drop(question.digest)
        while self._entries and self.size + answer.size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        expires_at = self._clock.monotonic() + ttl_seconds
        self._entries[question.digest] = _Entry(answer, question.tenant_id, expires_at)
        self._of_tenant.setdefault(question.tenant_id, set()).add(question.digest)
        self.size += answer.size

    def forget(self, digest: bytes) -> None:
        """Forget the answer that is kept under ``digest``, if there is one."""
        self._drop(digest)

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Forget answers of a tenant."""
        purged = 0
        for looked_at, digest in enumerate(list(self._of_tenant.get(tenant_id, ())), 1):
            entry = self._entries.get(digest)
            if entry is not None and _is_of(entry.answer, key_id, model):
                self._drop(digest)
                purged += 1
            if looked_at % LOOKED_AT_ONCE == 0:
                await next_turn()
        return purged

    async def aclose(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._of_tenant.clear()
        self.size = 0

    def _drop(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is None:
            return
        self.size -= entry.answer.size
        of_tenant = self._of_tenant[entry.tenant_id]
        of_tenant.discard(digest)
        if not of_tenant:
            del self._of_tenant[entry.tenant_id]


def _is_of(answer: StoredAnswer, key_id: str | None, model: str | None) -> bool:
    return key_id in (None, answer.key_id) and model in (None, answer.model)
