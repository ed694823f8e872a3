"""Answers that are asked for often, kept for a few seconds: in the process, and in Redis for the other processes.

An answer is kept under the number of its tenant's newest change, so that after a change nobody finds it any more. What
is not such a change (counts of probes, when a service was last seen) may be up to :data:`KEPT_SECONDS` old.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

from hx_gateway.errors import Unavailable
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.registry.feed.follow import ChangeFeed

KEPT_SECONDS = 5
MAX_BYTES = 16 * 1024 * 1024
# What is longer is asked for seldom, and would drive out many others.
MAX_ENTRY_BYTES = 512 * 1024
Load = Callable[[], Awaitable[bytes]]


class Values(Protocol):
    """Short texts by name: :class:`~hx_gateway.services.redis_values.RedisValues`. Raises ``Unavailable``."""

    async def get(self, names: list[str]) -> list[str | None]: ...

    async def put(self, name: str, text: str, keep_seconds: int) -> None: ...


class _Place(NamedTuple):
    tenant_id: str
    key: str
    head: int
    forgotten: int


class _Kept(NamedTuple):
    head: int
    until: float
    answer: bytes


class HotReads:
    """Reads through both caches. While notices of changes do not arrive, nothing is kept and all is loaded.

    Without Redis, or while it is away, the process's own cache serves alone. What ``load`` raises passes, and is not
    kept. ``count`` is called with ``hit``, ``shared_hit`` or ``miss``.
    """

    def __init__(
        self,
        feed: ChangeFeed,
        *,
        values: Values | None = None,
        count: Callable[[str], None] = lambda _outcome: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._values = values
        self._count = count
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0
        self._loading: dict[_Place, asyncio.Task[bytes]] = {}
        self._forgotten: Counter[str] = Counter()
        # Tenants whose sights or counts were changed here, until when Redis may hold what is older.
        self._fresh_only: dict[str, float] = {}

    async def read(self, tenant_id: str, key: str, load: Load) -> bytes:
        """Return the answer that ``key`` stands for; it names everything that the answer depends on but the tenant."""
        if not self._feed.pushed:
            return await load()
        head = await self._feed.head(tenant_id)
        kept = self._kept.get((tenant_id, key))
        if kept is not None and kept.head == head and self._monotonic() < kept.until:
            self._kept.move_to_end((tenant_id, key))
            self._count("hit")
            return kept.answer
        return await self._once(_Place(tenant_id, key, head, self._forgotten[tenant_id]), load)

    def forget(self, tenant_id: str) -> None:
        """Forget all of a tenant, after what is no change of a service was noted here."""
        self._forgotten[tenant_id] += 1
        self._fresh_only = {tenant: until for tenant, until in self._fresh_only.items() if until > self._monotonic()}
        self._fresh_only[tenant_id] = self._monotonic() + KEPT_SECONDS
        for place in [place for place in self._kept if place[0] == tenant_id]:
            self._drop(place)

    async def aclose(self) -> None:
        """End what is being loaded."""
        await end_tasks(list(self._loading.values()))

    async def _once(self, place: _Place, load: Load) -> bytes:
        """Load what several ask for at the same time once; whoever goes away leaves it to the others."""
        task = self._loading.get(place)
        if task is None:
            task = self._loading[place] = asyncio.create_task(self._load(place, load))
            task.add_done_callback(lambda done: self._loaded(place, done))
        return await asyncio.shield(task)

    def _loaded(self, place: _Place, done: asyncio.Task[bytes]) -> None:
        self._loading.pop(place, None)
        if not done.cancelled():
            # Whoever still waits gets it; nobody may.
            done.exception()

    async def _load(self, place: _Place, load: Load) -> bytes:
        tenant_id = place.tenant_id
        shared = self._values is not None and self._fresh_only.get(tenant_id, 0.0) <= self._monotonic()
        name = f"hx:registry:{tenant_id}:{place.head}:{blake2b(place.key.encode(), digest_size=16).hexdigest()}"
        answer = await self._shared(name) if shared else None
        self._count("miss" if answer is None else "shared_hit")
        if answer is None:
            answer = await load()
            if shared and len(answer) <= MAX_ENTRY_BYTES and place.forgotten == self._forgotten[tenant_id]:
                await self._share(name, answer)
        if place.forgotten == self._forgotten[tenant_id]:
            self._keep((tenant_id, place.key), _Kept(place.head, self._monotonic() + KEPT_SECONDS, answer))
        return answer

    async def _shared(self, name: str) -> bytes | None:
        assert self._values is not None
        try:
            found = (await self._values.get([name]))[0]
        except Unavailable:
            return None
        return None if found is None else found.encode()

    async def _share(self, name: str, answer: bytes) -> None:
        assert self._values is not None
        try:
            await self._values.put(name, answer.decode(), KEPT_SECONDS)
        except Unavailable:
            # The next process loads it itself.
            return

    def _keep(self, place: tuple[str, str], kept: _Kept) -> None:
        if len(kept.answer) > MAX_ENTRY_BYTES:
            return
        self._drop(place)
        self._kept[place] = kept
        self._bytes += len(kept.answer)
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: tuple[str, str]) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            self._bytes -= len(kept.answer)
