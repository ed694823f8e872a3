"""Lets many follow the changes of tenants: what is new is read once, however many wait for it."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, deque
from contextlib import suppress
from typing import Protocol

import structlog

from hx_gateway.registry.feed.changes import Change
from hx_gateway.services.base import FailureKind

# What one read of the database takes, and how much of the newest is kept for those who are up to date.
READ_ROWS = 500
KEPT_CHANGES = 1000
# How long a change may go unnoticed while nobody is told of it.
POLL_SECONDS = 2.0
_log = structlog.get_logger()


class Changes(Protocol):
    """Where changes are read: :class:`~hx_gateway.registry.feed.repository.ChangeRepository`."""

    async def after(self, tenant_id: str, seq: int, limit: int) -> list[Change]: ...

    async def newest(self, tenant_id: str) -> int: ...


class AheadOfUs(Exception):
    """Somebody asks for what comes after a change that there is not: its numbers are of another history."""

    def __init__(self, newest: int) -> None:
        super().__init__(f"the newest change is {newest}")
        self.newest = newest


class ChangeFeed:
    """Follows tenants for as long as somebody waits for them.

    :meth:`heard` is called for each notice of a change. While notices do not arrive, those who wait look by themselves,
    every :data:`POLL_SECONDS`. What reads the database raises ``DependencyError`` while it is away.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._tails: dict[str, _Tail] = {}
        self._followers: Counter[str] = Counter()
        self._heads: dict[str, int] = {}
        self._notices: Counter[str] = Counter()
        self._stopping = False
        self.pushed = False

    @property
    def stopping(self) -> bool:
        """Whether those who follow are to end: the server is about to stop."""
        return self._stopping

    def stop(self) -> None:
        """Let everybody who waits return at once, from now on."""
        self._stopping = True
        self._wake_all()

    def heard(self, tenant_id: str) -> None:
        """Take note that something of a tenant was changed."""
        self._notices[tenant_id] += 1
        self._heads.pop(tenant_id, None)
        if tail := self._tails.get(tenant_id):
            tail.wake()

    def healed(self) -> None:
        """Take note that notices arrive from now on; what was told before may have been missed."""
        self.pushed = True
        self._wake_all()

    def lost(self, kind: FailureKind) -> None:
        """Take note that notices do not arrive."""
        self.pushed = False
        self._heads.clear()
        _log.warning("registry_listener_lost", reason=kind.value)

    async def head(self, tenant_id: str) -> int:
        """Return the number of a tenant's newest change, from memory while notices arrive."""
        known = self._heads.get(tenant_id)
        if known is not None:
            return known
        # A notice that comes during the read is about something that it may not have found.
        pushed, notices = self.pushed, self._notices[tenant_id]
        newest = await self._changes.newest(tenant_id)
        if pushed and self.pushed and notices == self._notices[tenant_id]:
            self._heads[tenant_id] = newest
        return newest

    async def follow(self, tenant_id: str, since: int | None = None) -> Follower:
        """Return what reads and waits for a tenant's changes after ``since``, or after what there is now. Close it."""
        tail = self._tails.setdefault(tenant_id, _Tail(tenant_id, self._changes))
        self._followers[tenant_id] += 1
        follower = Follower(self, tail, since or 0)
        if since is None:
            try:
                follower.position = await tail.newest()
            except BaseException:
                follower.close()
                raise
        return follower

    def leave(self, tenant_id: str) -> None:
        """Take note that one who followed a tenant does not any more."""
        self._followers[tenant_id] -= 1
        if not self._followers[tenant_id]:
            del self._followers[tenant_id], self._tails[tenant_id]

    def _wake_all(self) -> None:
        self._heads.clear()
        for tail in self._tails.values():
            tail.wake()


class Follower:
    """One who follows a tenant. All up to ``position`` was read."""

    def __init__(self, feed: ChangeFeed, tail: _Tail, position: int) -> None:
        self.position = position
        self._feed = feed
        self._tail = tail
        self._open = True

    def close(self) -> None:
        """Follow no more."""
        if self._open:
            self._open = False
            self._feed.leave(self._tail.tenant_id)

    async def read(self, limit: int = READ_ROWS) -> list[Change]:
        """Return the next changes that are there now, ``limit`` at most. Raises :class:`AheadOfUs`."""
        found, self.position = await self._tail.after(self.position, limit)
        return found

    async def wait(self, seconds: float) -> None:
        """Return when something may be new, when the server is about to stop, or after ``seconds``."""
        if self._feed.stopping:
            return
        await self._tail.wait(self.position, seconds if self._feed.pushed else min(seconds, POLL_SECONDS))
        if not self._feed.pushed:
            self._tail.wake()


class _Tail:
    """The newest changes of a tenant, in order: all between ``_floor`` and ``_head``."""

    def __init__(self, tenant_id: str, changes: Changes) -> None:
        self.tenant_id = tenant_id
        self._changes = changes
        self._kept: deque[Change] = deque()
        self._floor: int | None = None
        self._head = 0
        self._stale = True
        self._reading = asyncio.Lock()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._stale = True
        self._woken.set()
        # Those who wait have this one; whoever waits from now on gets the next.
        self._woken = asyncio.Event()

    async def wait(self, position: int, seconds: float) -> None:
        if self._stale or self._head > position:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def newest(self) -> int:
        await self._refresh()
        return self._head

    async def after(self, seq: int, limit: int) -> tuple[list[Change], int]:
        """Return changes after ``seq``, and up to where these are all that there are."""
        await self._refresh()
        if seq > self._head:
            await self._catch_up(seq)
        assert self._floor is not None
        # Before the read: what others find during it is not among what it found.
        head = self._head
        if seq < self._floor:
            found = await self._changes.after(self.tenant_id, seq, limit)
        else:
            start = bisect_right(self._kept, seq, key=_seq)
            found = [self._kept[place] for place in range(start, min(start + limit, len(self._kept)))]
        if len(found) == limit:
            return found, found[-1].seq
        return found, max(head, *(change.seq for change in found[-1:]), seq)

    async def _catch_up(self, seq: int) -> None:
        """Get to ``seq``: another process may have told of a change, or of a number, that was not heard of here yet."""
        newest = await self._changes.newest(self.tenant_id)
        self._stale = True
        await self._refresh()
        # Not every number is a service's: other changes of the tenant are counted too.
        self._head = max(self._head, newest)
        if seq > self._head:
            raise AheadOfUs(self._head)

    async def _refresh(self) -> None:
        async with self._reading:
            if not self._stale:
                return
            # Before the read: a notice that comes during it is about something that it may not have found.
            self._stale = False
            try:
                await self._read()
            except BaseException:
                self._stale = True
                raise

    async def _read(self) -> None:
        if self._floor is None:
            self._floor = self._head = await self._changes.newest(self.tenant_id)
            return
        found: list[Change] | None = None
        while found is None or len(found) == READ_ROWS:
            found = await self._changes.after(self.tenant_id, self._head, READ_ROWS)
            for change in found:
                self._kept.append(change)
                self._head = change.seq
            while len(self._kept) > KEPT_CHANGES:
                self._floor = self._kept.popleft().seq


def _seq(change: Change) -> int:
    return change.seq
