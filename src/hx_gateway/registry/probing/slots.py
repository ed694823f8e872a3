"""How many probes run at once: so many in all, a few a host, and a few more that wait for their host."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CONCURRENCY = 50
PER_HOST = 2
WAITING_PER_HOST = 8
# Lists of tools that are read at once, and probes that somebody waits for. They have slots of their own: however many
# and slow they are, probes are made.
TOOL_LISTS = 10
ASKED_CHECKS = 20


@dataclass(slots=True)
class _Host:
    slots: asyncio.Semaphore
    taken: int = field(default=0)


class Slots:
    """Slots of one process. Who waits for its host holds none of the slots that all share."""

    def __init__(self, *, concurrency: int = CONCURRENCY, per_host: int = PER_HOST) -> None:
        self._all = asyncio.Semaphore(concurrency)
        self._per_host = per_host
        self._most = 2 * concurrency
        self._taken = 0
        self._tenants = Counter[str]()
        self._hosts: dict[str, _Host] = {}

    @property
    def room(self) -> int:
        """How many more may come, running or waiting."""
        return max(0, self._most - self._taken)

    def full(self, host: str) -> bool:
        """Whether enough wait for a host already."""
        known = self._hosts.get(host)
        return known is not None and known.taken >= self._per_host + WAITING_PER_HOST

    def has_room(self, host: str, tenant_id: str) -> bool:
        """Whether one more of a tenant may come for a host. A tenant has half of the places at most."""
        return self.room > 0 and not self.full(host) and self._tenants[tenant_id] < max(1, self._most // 2)

    def take(self, host: str, tenant_id: str) -> None:
        """Take a place among those who run or wait. Whoever took one gives it back (:meth:`give_back`)."""
        self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._per_host))).taken += 1
        self._taken += 1
        self._tenants[tenant_id] += 1

    def give_back(self, host: str, tenant_id: str) -> None:
        """Give a place back."""
        known = self._hosts[host]
        known.taken -= 1
        self._taken -= 1
        if known.taken == 0:
            del self._hosts[host]
        self._tenants[tenant_id] -= 1
        if self._tenants[tenant_id] == 0:
            del self._tenants[tenant_id]

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Wait for the turn of who has a place, and have a slot."""
        async with self._hosts[host].slots, self._all:
            yield
