"""When a record is on the disk itself and not only with the kernel: the durability levels and their syncs."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from hx_gateway.errors import HXError
from hx_gateway.journal.segment import Segment

GROUP_SECONDS = 0.1
GROUP_BYTES = 1024 * 1024
# After so many failed syncs in a row the records are refused: writing them elsewhere once more will not help.
MAX_FAILURES = 3


class Durability(StrEnum):
    """What an acknowledged record survives.

    ``MEMORY``: nothing. ``PROCESS``: the end of the process, however sudden (``write()`` returned). ``GROUP``: the
    loss of power too, for up to 100 ms of waiting. ``ALWAYS``: the same, each record synced at once.
    """

    MEMORY = "memory"
    PROCESS = "process"
    GROUP = "group"
    ALWAYS = "always"

    @property
    def syncs(self) -> bool:
        """Whether a record is acknowledged only after ``fdatasync``."""
        return self in (Durability.GROUP, Durability.ALWAYS)


class Syncer:
    """Syncs one journal's segments, one sync at a time, in a thread.

    A failed sync is final for its segment: a second one may report success for pages that the kernel has dropped
    (fsyncgate). ``failed`` is then called with the records that are not known to be on disk, the segments that hold
    them, and whether there is no use in trying on; it writes them elsewhere, or raises what those who wait are told.
    """

    def __init__(
        self, durability: Durability, failed: Callable[[list[tuple[int, bytes]], list[Segment], bool], None]
    ) -> None:
        self._group = durability is Durability.GROUP
        self._failed = failed
        self._records: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._segments: list[Segment] = []
        self._sealed: set[Segment] = set()
        self._synced_seq = 0
        self._failures = 0
        # First and last numbers of records that are nowhere, and what their callers are told.
        self._refused: list[tuple[int, int, HXError]] = []
        self._task: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()
        self.observe: Callable[[float], None] | None = None

    def wrote(self, segment: Segment, seq: int, record: bytes) -> None:
        """Note a record that was written to ``segment``; it is kept until it is synced."""
        if not self._segments or self._segments[-1] is not segment:
            self._segments.append(segment)
        self._records.append((seq, record))
        self._bytes += len(record)
        if self._bytes >= GROUP_BYTES:
            self._enough.set()

    def sealed(self, segment: Segment) -> None:
        """Close ``segment`` once it is synced."""
        if segment in self._segments:
            self._sealed.add(segment)
        else:
            segment.close()

    def pending(self, first_seq: int) -> Segment | None:
        """Return the segment of that number if it holds records that are not known to be on disk."""
        return next((segment for segment in self._segments if segment.first_seq == first_seq), None)

    def nudge(self) -> None:
        """Sync what nobody waits for any more, because its caller went away."""
        if self._records:
            self._running()

    async def wait(self, seq: int) -> None:
        """Return once the record ``seq`` and all before it are on disk. Cancelling the wait does not stop the sync."""
        while self._synced_seq < seq:
            await asyncio.shield(self._running())
        for first, last, refused in self._refused:
            if first <= seq <= last:
                raise refused

    def _running(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sync())
        return self._task

    async def _sync(self) -> None:
        if self._group:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), GROUP_SECONDS)
        self._enough.clear()
        count = len(self._records)
        marks = [(segment, segment.end, segment.last_seq) for segment in self._segments]
        began = time.perf_counter()
        try:
            await asyncio.to_thread(_sync_all, [segment.fd for segment, _, _ in marks])
        except OSError:
            self._give_up()
            return
        self._failures = 0
        if self.observe is not None:
            self.observe(time.perf_counter() - began)
        for _ in range(count):
            self._synced_seq, record = self._records.popleft()
            self._bytes -= len(record)
        for segment, end, last_seq in marks:
            segment.synced_end, segment.synced_seq = end, last_seq
            if segment.end == end:
                self._segments.remove(segment)
                if segment in self._sealed:
                    self._sealed.discard(segment)
                    segment.close()

    def _give_up(self) -> None:
        records, segments = list(self._records), self._segments
        self._records.clear()
        self._bytes = 0
        self._segments, self._sealed = [], set()
        self._failures += 1
        try:
            self._failed(records, segments, self._failures >= MAX_FAILURES)
        except HXError as refused:
            self._synced_seq = records[-1][0]
            first = records[0][0]
            if self._refused and self._refused[-1][1] == first - 1:
                # A disk that stays broken is one entry.
                first = self._refused.pop()[0]
            self._refused.append((first, self._synced_seq, refused))


def _sync_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.fdatasync(descriptor)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Sync a folder's entries: what was made, renamed or removed in it. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
