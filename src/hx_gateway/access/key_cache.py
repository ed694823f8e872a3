"""The keys that this process has looked up: how long it may rely on them, and how a change makes it forget."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hx_gateway.access.known_key import KnownKey

FRESH_SECONDS = 60.0
# While changes may fail to arrive, nothing is relied on for longer than this.
UNPUSHED_FRESH_SECONDS = 10.0
ABSENT_SECONDS = 5.0
MAX_KEYS = 50_000
MAX_ABSENT = 10_000
MAX_CHANGES = 10_000
# A refresh in the background begins when this share of the time is over.
REFRESH_AT = 0.8
RETRY_SECONDS = 1.0
# More than the clocks of hosts differ that are kept in time.
CLOCKS_DIFFER_SECONDS = 5.0
_NEVER = -1


@dataclass(slots=True)
class Entry:
    """A key, when its look-up began (monotonic seconds), and the generation it began in."""

    known: KnownKey
    asked_at: float
    generation: int
    retry_at: float = 0.0


class Change(NamedTuple):
    """The generation that a change opened, and when it was told (monotonic seconds)."""

    generation: int
    at: float


class KeyCache:
    """Keys by what they are looked up by: the public id, or the SHA-256 of an imported text. Bounded everywhere.

    It holds what a look-up said, not who was let in: each request is verified against the digest anew. Every change
    opens a generation. A look-up that began before a change of its key must not bring back what was before: it tells
    the generation it began in, and :meth:`put` refuses it. Whoever changes a key commits the row first and tells the
    caches afterwards. ``pushed`` says whether changes arrive here by themselves; ``revision`` grows with whatever makes
    the keys that are held here others, ``changes`` with each change that was told.
    """

    def __init__(
        self,
        *,
        max_keys: int = MAX_KEYS,
        fresh_seconds: float = FRESH_SECONDS,
        absent_seconds: float = ABSENT_SECONDS,
        max_absent: int = MAX_ABSENT,
        max_changes: int = MAX_CHANGES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pushed = False
        self.revision = 0
        self.changes = 0
        self._max_keys = max_keys
        self._fresh_seconds = fresh_seconds
        self._absent_seconds = absent_seconds
        self._max_absent = max_absent
        self._max_changes = max_changes
        self._monotonic = monotonic
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._owned: dict[tuple[str, str], set[str]] = {}
        self._generation = 0
        self._doubted = 0
        self._doubted_at = -math.inf
        self._changed: OrderedDict[tuple[str, str], Change] = OrderedDict()
        self._forgotten = Change(0, -math.inf)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, lookup: str) -> Entry | None:
        """Return what is known, however old."""
        entry = self._entries.get(lookup)
        if entry is not None:
            self._entries.move_to_end(lookup)
        return entry

    def is_fresh(self, entry: Entry) -> bool:
        """Return whether ``entry`` may be relied on without asking."""
        return entry.generation >= self._doubted and self.age(entry) < self._fresh_for()

    def is_due(self, entry: Entry) -> bool:
        """Return whether a fresh ``entry`` should be refreshed before it is old."""
        return self.age(entry) >= REFRESH_AT * self._fresh_for()

    def age(self, entry: Entry) -> float:
        """Return the seconds since the look-up of ``entry`` began."""
        return self._monotonic() - entry.asked_at

    def is_absent(self, lookup: str) -> bool:
        """Return whether there was no such key a moment ago."""
        until = self._absent.get(lookup)
        return until is not None and self._monotonic() < until

    def may_ask(self, entry: Entry) -> bool:
        """Return false for a moment after a look-up of ``entry`` that failed: others need not wait for the next."""
        return self._monotonic() >= entry.retry_at

    def postpone(self, lookup: str) -> None:
        """Take note of a look-up that failed."""
        entry = self._entries.get(lookup)
        if entry is not None:
            entry.retry_at = self._monotonic() + RETRY_SECONDS

    def begin(self) -> tuple[int, float]:
        """Return the mark that a look-up takes before it asks, for :meth:`put`."""
        return self._generation, self._monotonic()

    def put(self, lookup: str, known: KnownKey | None, began: tuple[int, float]) -> bool:
        """Keep what a look-up found; return false for one that a change has overtaken: it must ask again."""
        generation, asked_at = began
        owners = (("key", lookup),) if known is None else known.owners
        if generation < self._last_change(owners).generation:
            return False
        if known is None:
            self._remove(lookup)
            self._put_absent(lookup, asked_at)
            return True
        here = self._entries.get(lookup)
        if here is not None and here.known.version > known.version and here.asked_at >= asked_at:
            return True
        if here is None or here.known != known:
            self.revision += 1
        self._keep(lookup, Entry(known, asked_at, generation))
        return True

    def restore(self, lookup: str, known: KnownKey, age_seconds: float) -> None:
        """Take over what another process knew ``age_seconds`` ago: never fresh, and only where nothing is known."""
        if lookup not in self._entries and len(self._entries) < self._max_keys:
            self._keep(lookup, Entry(known, self._monotonic() - age_seconds, _NEVER))

    def doubt(self, lookup: str) -> None:
        """Have one key looked up anew at its next use."""
        entry = self._entries.get(lookup)
        if entry is not None:
            entry.generation = _NEVER

    def doubt_all(self) -> None:
        """Have every key looked up anew at its next use: changes may have been missed."""
        self._generation += 1
        self._doubted = self._generation
        self._doubted_at = self._monotonic()
        self._absent.clear()

    def drop(self, kind: str, owner_id: str) -> None:
        """Forget every key that belongs to a ``key``, ``user``, ``team`` or ``tenant``, which changed."""
        owner = (kind, owner_id)
        self.revision += 1
        self.changes += 1
        self._generation += 1
        self._changed[owner] = Change(self._generation, self._monotonic())
        self._changed.move_to_end(owner)
        if len(self._changed) > self._max_changes:
            self._forgotten = self._changed.popitem(last=False)[1]
        if kind == "key":
            self._absent.pop(owner_id, None)
        for lookup in tuple(self._owned.get(owner, ())):
            self._remove(lookup)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield all keys, those used last first. The cache must not change meanwhile."""
        return reversed(self._entries.items())

    def changed_since(self, known: KnownKey, age_seconds: float) -> bool:
        """Return whether a change of ``known`` was told in the last ``age_seconds``, or may have been."""
        return self._last_change(known.owners).at >= self._monotonic() - age_seconds

    def may_rely_on(self, known: KnownKey, age_seconds: float) -> bool:
        """Return whether what another process saw so long ago is as good as a look-up of our own.

        Its age may be wrong by the difference of two hosts' clocks: shortly after a change, nobody else is believed.
        """
        span = age_seconds + CLOCKS_DIFFER_SECONDS
        young = age_seconds < UNPUSHED_FRESH_SECONDS and self._monotonic() - span > self._doubted_at
        return young and not self.changed_since(known, span)

    def _last_change(self, owners: Iterable[tuple[str, str]]) -> Change:
        # One look for each: threads read this, too.
        told = (self._changed.get(owner, self._forgotten) for owner in owners)
        return max(told, key=lambda change: change.generation)

    def _fresh_for(self) -> float:
        return self._fresh_seconds if self.pushed else min(UNPUSHED_FRESH_SECONDS, self._fresh_seconds)

    def _keep(self, lookup: str, entry: Entry) -> None:
        self._remove(lookup)
        self._absent.pop(lookup, None)
        self._entries[lookup] = entry
        for owner in entry.known.owners:
            self._owned.setdefault(owner, set()).add(lookup)
        if len(self._entries) > self._max_keys:
            self._remove(next(iter(self._entries)))

    def _put_absent(self, lookup: str, asked_at: float) -> None:
        self._absent[lookup] = asked_at + self._absent_seconds
        self._absent.move_to_end(lookup)
        if len(self._absent) > self._max_absent:
            self._absent.popitem(last=False)

    def _remove(self, lookup: str) -> None:
        entry = self._entries.pop(lookup, None)
        if entry is None:
            return
        for owner in entry.known.owners:
            lookups = self._owned.get(owner)
            if lookups is not None:
                lookups.discard(lookup)
                if not lookups:
                    del self._owned[owner]
