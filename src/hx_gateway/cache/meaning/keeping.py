"""Answers that wait to be kept: so many and no more, so that a flood of questions takes no more memory."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.meaning.questions import Wording
from hx_gateway.cache.meaning.stores import Place

# What a list takes for each of its numbers.
NUMBER_BYTES = 32


@dataclass(slots=True, eq=False, kw_only=True)
class Pending:
    """An answer that is to be kept for so many ``seconds``; ``settled`` once it is, or is given up.

    ``size`` is about how many bytes it takes while it waits.
    """

    place: Place
    wording: Wording
    answer: StoredAnswer
    seconds: float
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        numbers = len(self.wording.vector) if self.wording.vector is not None else 0
        self.size = self.answer.size + len(self.wording.text) + NUMBER_BYTES * numbers

    def belongs(self, tenant_id: str, key_id: str | None, model: str | None) -> bool:
        """Return whether a purge means it."""
        mine = self.answer
        return self.place.tenant_id == tenant_id and key_id in (None, mine.key_id) and model in (None, mine.model)


class KeepingQueue:
    """First in, first out; what does not fit is not taken. For one event loop."""

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[Pending] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._taken: set[Pending] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, pending: Pending) -> bool:
        """Take ``pending`` if there is room; return whether there was."""
        if len(self._waiting) >= self._most or self._bytes + pending.size > self._most_bytes:
            return False
        self._waiting.append(pending)
        self._bytes += pending.size
        self._some.set()
        return True

    async def take(self) -> Pending:
        """Wait for the next one. Whoever takes it calls :meth:`settle` in every ending."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        pending = self._waiting.popleft()
        self._bytes -= pending.size
        self._taken.add(pending)
        return pending

    def settle(self, pending: Pending) -> None:
        """Say that one that was taken is dealt with."""
        self._taken.discard(pending)
        pending.settled.set()

    async def give_up(self, tenant_id: str, key_id: str | None, model: str | None) -> int:
        """Forget those that wait and belong; return how many, once those that were taken are settled."""
        left = [pending for pending in self._waiting if not pending.belongs(tenant_id, key_id, model)]
        given_up = len(self._waiting) - len(left)
        self._waiting = deque(left)
        self._bytes = sum(pending.size for pending in left)
        for pending in [taken for taken in self._taken if taken.belongs(tenant_id, key_id, model)]:
            await pending.settled.wait()
        return given_up
