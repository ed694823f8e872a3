"""Look-ups of keys: one at a time for each key however many wait for it, and every failure in the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.known_key import KeySource, KnownKey
from hx_gateway.access.shared_keys import Shared, SharedKeys
from hx_gateway.errors import Unavailable
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks

# What an imported key is looked up by begins with this, which no id of ours does.
IMPORTED_PREFIX = "sha256:"
MAX_FLIGHTS = 1000
_ATTEMPTS = 3
_ANY = "any"

T = TypeVar("T")
_log = structlog.get_logger()


class LookUps:
    """Asks the source, fills the cache. What the source raises becomes ``Unavailable``: never "no such key".

    ``shared`` is asked first: what another process saw a moment ago spares the question. What it saw up to
    ``stale_max`` seconds ago is served where the source cannot be asked and nothing is known here.
    """

    def __init__(
        self,
        source: KeySource,
        cache: KeyCache,
        *,
        timeout: float,
        stale_max: float,
        shared: SharedKeys | None = None,
        clock: Clock | None = None,
        max_flights: int = MAX_FLIGHTS,
    ) -> None:
        self._source = source
        self._cache = cache
        self._timeout = timeout
        self._stale_max = stale_max
        self._shared = shared
        self._clock = clock or SystemClock()
        self._max_flights = max_flights
        self._flights: dict[str, asyncio.Task[Any]] = {}

    async def ask(self, lookup: str) -> KnownKey | None:
        """Return the key that ``lookup`` finds, asking together with whoever else wants it."""
        known: KnownKey | None = await asyncio.shield(self._flight(lookup, self._look_up(lookup)))
        return known

    def start(self, lookup: str) -> None:
        """Ask in the background."""
        if len(self._flights) < self._max_flights:
            self._flight(lookup, self._look_up(lookup))

    async def any_imported(self) -> bool:
        """Return whether there is an imported key."""
        found: bool = await asyncio.shield(self._flight(_ANY, self._tell(self._source.any_imported())))
        return found

    async def warm(self, limit: int) -> int:
        """Fill the cache with up to ``limit`` keys; return how many there were."""
        began = self._cache.begin()
        found = await self._tell(self._source.load_active(limit))
        for known in reversed(found):
            imported = known.imported_sha256
            self._cache.put(known.id if imported is None else IMPORTED_PREFIX + imported.hex(), known, began)
        return len(found)

    async def aclose(self) -> None:
        """End the look-ups that still run."""
        await end_tasks(self._flights.values())

    def _flight(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        flying = self._flights.get(name)
        if flying is not None:
            work.close()
            return flying
        if len(self._flights) >= self._max_flights:
            work.close()
            raise Unavailable("Too many API keys are being looked up at once.")
        task = asyncio.create_task(work)
        self._flights[name] = task
        task.add_done_callback(lambda done: self._landed(name, done))
        return task

    def _landed(self, name: str, task: asyncio.Task[Any]) -> None:
        self._flights.pop(name, None)
        if not task.cancelled():
            # Read, so that a failure nobody waits for any more is not an unhandled one.
            task.exception()

    async def _look_up(self, lookup: str) -> KnownKey | None:
        known: KnownKey | None = None
        for _ in range(_ATTEMPTS):
            began, asked_at = self._cache.begin(), self._clock.now()
            shared = None if self._shared is None else await self._shared.get(lookup)
            if shared is not None and self._cache.may_rely_on(shared.known, shared.age):
                generation, moment = began
                self._cache.put(lookup, shared.known, (generation, moment - shared.age))
                return shared.known
            try:
                known = await self._tell(self._load(lookup))
            except Unavailable:
                if shared is not None and await self._stands_in(lookup, shared):
                    return shared.known
                self._cache.postpone(lookup)
                raise
            if self._cache.put(lookup, known, began):
                if self._shared is not None and known is not None:
                    await self._shared.put(lookup, known, asked_at)
                return known
        # It changes faster than it can be read: this reading is as good as any, and is not kept.
        return known

    async def _stands_in(self, lookup: str, shared: Shared) -> bool:
        """Take over what another process saw, where that is not too old and nobody told of a change since."""
        assert self._shared is not None
        if self._cache.get(lookup) is not None or shared.age > self._stale_max:
            return False
        unchanged = await self._shared.is_unchanged(shared)
        if not unchanged or self._cache.changed_since(shared.known, shared.age):
            return False
        self._cache.restore(lookup, shared.known, shared.age)
        self._cache.postpone(lookup)
        return True

    async def _load(self, lookup: str) -> KnownKey | None:
        if lookup.startswith(IMPORTED_PREFIX):
            return await self._source.load_imported(bytes.fromhex(lookup.removeprefix(IMPORTED_PREFIX)))
        return await self._source.load(lookup)

    async def _tell(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``; raise ``Unavailable`` for anything that it raises.

        The one place where that happens. A failure that slipped through as "no such key" would turn a database that
        is away into a 401, upon which clients throw their keys away.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not an answer
            failure = error
        _log.warning("key_look_up_failed", reason=type(failure).__name__)
        raise Unavailable("The API key cannot be checked at the moment.") from failure
