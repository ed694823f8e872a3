"""Follows other registries: each in turn, by one process of all, again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from hx_gateway.errors import HXError, Unavailable
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.source import PAGE_SERVERS, Bounds, RegistrySource
from hx_gateway.registry.sync.followed import Followed, SyncState, Tally
from hx_gateway.registry.sync.incoming import Incoming, incoming_of
from hx_gateway.registry.sync.repository import Claim, LeaseLost, SyncRepository
from hx_gateway.registry.sync.taking import Taking
from hx_gateway.registry.transactions import Transactions
from hx_gateway.telemetry import Metrics

# A change that was committed late, and clocks that differ.
OVERLAP = timedelta(minutes=5)
RETRY = timedelta(minutes=5)
POLL_SECONDS = 5.0
LAST_WRITE_SECONDS = 2.0
BOUNDS = Bounds(pages=1_000, bytes=1024**3, seconds=3_600.0)
_log = structlog.get_logger()


class RegistrySync:
    """Follows ``followed``, each every ``interval``. Any number of processes share the work, by leases.

    Failure policy: a registry that cannot be read is tried again after five minutes at most, from where all of it was
    read the last time; what was taken of it meanwhile stays. While the database is away nothing is done. A process that
    dies loses its lease within two minutes.
    """

    def __init__(
        self,
        transactions: Transactions,
        source: RegistrySource,
        followed: Sequence[Followed],
        *,
        naming: Naming,
        metrics: Metrics,
        interval: timedelta,
        bounds: Bounds = BOUNDS,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.repository = SyncRepository(transactions.database)
        self._taking = Taking(transactions, self.repository)
        self._source = source
        self._followed = tuple(followed)
        self._naming = naming
        self._metrics = metrics
        self._interval = interval
        self._bounds = bounds
        self._draw = draw
        self._clock = transactions.clock
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._claim: Claim | None = None

    def start(self) -> None:
        """Begin to follow, if there is anything to. Needs a running loop; once it was begun nothing happens."""
        if self._followed and not self._tasks:
            self._tasks = [asyncio.create_task(self._forever())]

    async def aclose(self) -> None:
        """Stop, and leave what is half read to others."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
        if self._claim is None:
            return
        try:
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self.repository.let_go(self._claim)
        except (Unavailable, TimeoutError, LeaseLost) as error:
            _log.warning("registry_sync_stopped_early", reason=type(error).__name__)

    async def states(self, tenant_id: str) -> list[SyncState]:
        """Return how far the registries of a tenant were followed."""
        urls = [one.url for one in self._followed if one.tenant_id == tenant_id]
        return await self.repository.states(tenant_id, urls, self._clock.now())

    async def ask(self, tenant_id: str) -> list[SyncState]:
        """Let the registries of a tenant be followed now; return how far they were."""
        own = [one for one in self._followed if one.tenant_id == tenant_id]
        if own:
            await self.repository.keep(own, self._clock.now())
            await self.repository.ask_for(own, self._clock.now())
            self._asked.set()
        return await self.states(tenant_id)

    async def step(self) -> bool:
        """Follow the registry that is due, if there is one; return whether there was."""
        claim = self._claim = await self.repository.claim(self._followed, self._clock.now())
        if claim is None:
            return False
        followed = claim.followed
        try:
            await self._follow(claim)
        except LeaseLost:
            _log.warning("registry_sync_lost", tenant=followed.tenant_id, registry=followed.url)
        except Unavailable:
            raise
        except HXError as error:
            _log.warning("registry_sync_failed", tenant=followed.tenant_id, registry=followed.url, reason=error.message)
            now = self._clock.now()
            # Whoever has it by now tells how it went.
            with suppress(LeaseLost):
                await self.repository.fail(claim, now, now + min(self._interval, RETRY), error.message)
        self._claim = None
        return True

    async def _follow(self, claim: Claim) -> None:
        """Take all that changed since the watermark. Only then it is set anew."""
        followed, since = claim.followed, claim.watermark
        began, tally, latest = self._clock.now(), Tally(), since
        after = since - OVERLAP if since is not None else None
        await self._make_up(claim, tally)
        async for page in self._source.pages(followed.url, self._bounds, updated_since=after, latest=after is None):
            # Some give more than was asked for.
            for start in range(0, len(page), PAGE_SERVERS):
                some = page[start : start + PAGE_SERVERS]
                incoming = await asyncio.to_thread(incoming_of, some, self._naming)
                tally.add(await self._take(claim, incoming))
                latest = _latest(latest, incoming.updated_at)
        # A registry that says nothing of times is known until now, one that is ahead of us no further.
        watermark = began if latest is None else min(latest, began)
        now = self._clock.now()
        due = now + self._interval * (0.95 + 0.1 * self._draw())
        await self.repository.succeed(claim, now, due, watermark=watermark, tally=tally)
        self._metrics.sync_succeeded.labels(followed.tenant_id, followed.url).set(now.timestamp())

    async def _take(self, claim: Claim, incoming: Incoming) -> Tally:
        for reason in incoming.unread:
            where = {"tenant": claim.followed.tenant_id, "registry": claim.followed.url}
            _log.warning("server_not_read", **where, reason=reason)
        gone = await self._gone(claim, incoming)
        tally = await self._taking.take(claim, incoming, gone)
        tally.skipped += len(incoming.unread)
        return tally

    async def _make_up(self, claim: Claim, tally: Tally) -> None:
        """Ask for the servers that changed while their services were deleted: no list tells of them again."""
        last = ""
        while names := await self._taking.missed(claim.followed, after=last, limit=PAGE_SERVERS):
            tally.add(await self._take(claim, Incoming(doubtful=names)))
            last = names[-1]

    async def _gone(self, claim: Claim, incoming: Incoming) -> list[str]:
        """Return which servers have no version left; what is left of others is among those that are present then."""
        gone = []
        for name in sorted(await self._taking.known(claim.followed, incoming.doubtful)):
            claim.lease_until = await self.repository.renew(claim, self._clock.now())
            left = await self._source.latest(claim.followed.url, name)
            found = incoming_of([] if left is None else [left], self._naming)
            incoming.perhaps_older.discard(name)
            if name in found.present:
                incoming.present[name] = found.present[name]
            elif name not in incoming.present and (left is None or not found.unread):
                gone.append(name)
        return gone

    async def _forever(self) -> None:
        waits, kept = Backoff(first=0.5, most=30.0, draw=self._draw), False
        while True:
            self._asked.clear()
            try:
                if not kept:
                    await self.repository.keep(self._followed, self._clock.now())
                    kept = True
                if await self.step():
                    continue
                waits.reset()
                seconds = POLL_SECONDS
            except Unavailable as error:
                _log.warning("registry_sync_paused", reason=type(error).__name__)
                seconds = waits.next()
            except Exception:  # noqa: BLE001 - whatever it is, registries are to be followed on
                _log.exception("registry_sync_broke")
                seconds = waits.next()
            await self._wait(seconds)

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until somebody asks."""
        try:
            async with asyncio.timeout(seconds * (0.5 + self._draw())):
                await self._asked.wait()
        except TimeoutError:
            return


def _latest(known: datetime | None, said: datetime | None) -> datetime | None:
    return said if known is None else known if said is None else max(known, said)
